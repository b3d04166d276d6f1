//! A bar on a terminal, plain lines elsewhere; Ctrl-C as a flag.

use crate::common::duration;
use convoke_train::{BatchInfo, EpochRow, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Shows how a run goes.
pub struct Bar {
    bar: ProgressBar,
    terminal: bool,
    quiet: bool,
    last: Instant,
    /// Epochs between two lines.
    every: usize,
}

impl Bar {
    /// Draws on standard error, so that standard output stays for results.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if terminal {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        }
        let style = ProgressStyle::with_template("{prefix} {bar:28.cyan/dim} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Bar { bar, terminal, quiet, last: Instant::now(), every: 1 }
    }

    /// With a line only for each so many epochs, and the last.
    pub fn every(epochs: usize) -> Self {
        Bar { every: epochs.max(1), ..Bar::new(false) }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        if self.terminal {
            self.bar.println(crate::say::tame(text));
        } else if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Work of a known length: `done` of `all` with a word on it.
    pub fn work(&mut self, what: &str, done: usize, all: usize, message: &str) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        self.bar.set_prefix(what.to_string());
        self.bar.set_message(crate::say::tame(message));
        if !self.terminal && !self.quiet && self.last.elapsed() > Duration::from_secs(10) {
            self.last = Instant::now();
            eprintln!("{what} {done}/{all} {message}");
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn batch(&mut self, i: &BatchInfo) {
        let what = format!("epoch {}/{}", i.epoch + 1, i.epochs);
        let message = format!(
            "loss {:.4}  right {:.1} %  {:.0} pictures/s  {} left",
            i.loss,
            100.0 * i.top1,
            i.pictures_per_second,
            duration(i.seconds_left)
        );
        self.work(&what, i.batch, i.batches, &message);
    }

    fn epoch(&mut self, r: &EpochRow) {
        if self.every > 1 && r.val_top1.is_none() && !r.epoch.is_multiple_of(self.every) {
            return;
        }
        let val = match (r.val_top1, r.val_loss) {
            (Some(t), Some(l)) => {
                let judge = r.judge();
                format!("  {judge} loss {l:.4}  {judge} right {:.2} %", 100.0 * t)
            }
            _ => String::new(),
        };
        self.last = Instant::now();
        self.line(&format!(
            "epoch {:>3}  loss {:.4}  right {:.2} %{val}  {:.0} pictures/s  {:.1} s",
            r.epoch,
            r.train_loss,
            100.0 * r.train_top1,
            r.pictures_per_second,
            r.seconds
        ));
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C quits at once.
pub fn interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    // Where no handler can be set, Ctrl-C simply ends the program.
    let _ = ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this batch; press Ctrl-C again to quit at once");
    });
    flag
}
