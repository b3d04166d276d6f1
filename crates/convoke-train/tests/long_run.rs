//! A long run holds no more memory and no more files at its end than at its beginning, and is as fast. Pictures are
//! read from disk in every epoch, augmented, and checkpoints are written, as in any run.
//!
//! `cargo test --release -p convoke-train --test long_run -- --ignored --nocapture` takes 10,000 steps.
#![cfg(target_os = "linux")]

use convoke_data::{Augment, Dataset, OpenOptions, Picture, Preprocess, write_png};
use convoke_engine::{Builder, Network, Shape, layers::Conv};
use convoke_train::{BatchInfo, EpochRow, Outcome, Progress, RunFolder, TrainOptions, Trainer};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Bytes of memory that the process has, and files that it holds open.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn handles() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Time that all threads have worked, in the hundredths of a second that Linux counts.
fn worked() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |i: usize| fields[i].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// What was seen in some steps that follow each other.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    memory: usize,
    /// The fewest: between two looks the loader's threads open and close pictures.
    handles: usize,
    /// By the clock, and what all threads worked.
    time: Duration,
    work: Duration,
}

struct Watch {
    every: usize,
    steps: usize,
    now: Stretch,
    since: (Instant, Duration),
    done: Vec<Stretch>,
}

const NONE: Stretch =
    Stretch { memory: 0, handles: usize::MAX, time: Duration::ZERO, work: Duration::ZERO };

impl Progress for Watch {
    fn batch(&mut self, _: &BatchInfo) {
        self.steps += 1;
        if self.steps.is_multiple_of(10) {
            self.now.memory = self.now.memory.max(resident());
            self.now.handles = self.now.handles.min(handles());
        }
        if self.steps.is_multiple_of(self.every) {
            let (time, work) = (self.since.0.elapsed(), worked() - self.since.1);
            self.done.push(Stretch { time, work, ..self.now });
            (self.now, self.since) = (NONE, (Instant::now(), worked()));
        }
    }
    fn epoch(&mut self, _: &EpochRow) {}
}

/// Red and green pictures with noise.
fn photos(folder: &Path, each: usize) {
    for (class, name) in ["red", "green"].into_iter().enumerate() {
        for i in 0..each {
            let mut p = Picture::filled(20, 16, [40, 40, 40]);
            for (k, pixel) in p.data.chunks_exact_mut(3).enumerate() {
                pixel[class] = 90 + ((k * 37 + i * 101) % 150) as u8;
                pixel[2] = ((k * 53 + i * 211) % 200) as u8;
            }
            write_png(&folder.join(format!("{name}/{i}.png")), &p).unwrap();
        }
    }
}

fn network() -> Network {
    let mut b = Builder::new("tiny", Shape::new(12, 12, 3));
    b.conv(Conv::new(8, 3)).batch_norm().relu().max_pool(2, 2).flatten().dropout(0.2).dense(2);
    b.build().unwrap()
}

const BATCH: usize = 4;

fn train(steps: usize, every: usize, each: usize) -> Vec<Stretch> {
    // Two runs at once would be told each other's memory.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let folder = tempfile::tempdir().unwrap();
    photos(&folder.path().join("photos"), each);
    let set = OpenOptions { val_fraction: 0.2, ..OpenOptions::default() };
    let set = Dataset::open(&folder.path().join("photos"), &set).unwrap();
    let pre = Preprocess::plain(12, 12, 3);
    let epochs = steps.div_ceil(set.train.len() / BATCH);
    let augment = Augment { flip: true, shift: 1, colour: 0.2, erase: 0.3, ..Augment::default() };
    let options = TrainOptions {
        // No picture is kept: each is opened and decoded in every epoch.
        cache: 0,
        checkpoint_seconds: 1,
        augment,
        ..TrainOptions::suited(epochs, BATCH, &pre, 2)
    };
    let out = RunFolder::next(folder.path(), "run").unwrap();
    let mut trainer = Trainer::new(network(), &set, pre, options, out).unwrap();
    let mut watch =
        Watch { every, steps: 0, now: NONE, since: (Instant::now(), worked()), done: Vec::new() };
    let outcome = trainer.run(&mut watch, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Done { .. }));
    assert!(watch.steps >= steps, "{} steps", watch.steps);
    watch.done
}

/// What later stretches may hold more than the first: what allocators and kernels keep back.
const SLACK: usize = 4 << 20;

fn check(stretches: &[Stretch]) {
    let first = stretches[0];
    for (i, s) in stretches.iter().enumerate().skip(1) {
        assert!(s.memory <= first.memory + SLACK, "memory grows: {i}, {stretches:?}");
        assert!(s.handles <= first.handles, "files stay open: {i}, {stretches:?}");
    }
}

#[test]
fn memory_and_files_stay_flat() {
    check(&train(900, 300, 50));
}

#[test]
#[ignore = "takes a minute; its times are to be read on a machine that does nothing else"]
fn ten_thousand_steps() {
    let stretches = train(10_000, 1000, 250);
    for (i, s) in stretches.iter().enumerate() {
        println!(
            "steps {:5} to {:5}: {:6.2} MiB, {} files open, {:.2} s, {:.2} s of work",
            1000 * i + 1,
            1000 * (i + 1),
            s.memory as f64 / (1 << 20) as f64,
            s.handles,
            s.time.as_secs_f64(),
            s.work.as_secs_f64()
        );
    }
    check(&stretches);
    // Sums of five thousand, so that one stop of the whole machine does not decide.
    let ratio = |of: fn(&Stretch) -> Duration| {
        let sum = |s: &[Stretch]| s.iter().map(of).sum::<Duration>().as_secs_f64();
        sum(&stretches[5..]) / sum(&stretches[..5])
    };
    println!("the last five thousand take {:.3} of the first", ratio(|s| s.time));
    println!("and {:.3} of their work", ratio(|s| s.work));
}
