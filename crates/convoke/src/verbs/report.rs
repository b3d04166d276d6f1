//! `convoke report`, and what `train` writes of it on the way.

use crate::common::Threads;
use crate::verbs::train::Saved;
use anyhow::{Result, anyhow};
use convoke_data::{Dataset, OpenOptions, write_file, write_png};
use convoke_engine::{MemoryReport, Network};
use convoke_train::{BatchInfo, EpochRow, Progress, RunFolder, TrainOptions};
use convoke_vision::filter_sheet;
use convoke_vision::report::{FILTERS, MEMORY, Memory, gather, write};
use std::path::{Path, PathBuf};

/// Write a run's report anew: report.html, pictures, tables, TensorBoard's event file
#[derive(clap::Args)]
pub struct Args {
    /// Run folder
    run: PathBuf,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    let folder = RunFolder::open(&args.run)?;
    let saved: Saved = toml::from_str(&folder.settings()?)
        .map_err(|e| anyhow!("{}/args.toml: {}", args.run.display(), e.message()))?;
    let options = OpenOptions { seed: saved.train.seed, val_fraction: saved.val_fraction };
    let dataset = saved.dealt(Dataset::open(&saved.data, &options)?)?;
    report(&folder, &dataset, &saved.train, args.threads.count())?;
    println!("{}", folder.path().join("report.html").display());
    Ok(())
}

/// Gathers and writes the report of a run that has weights.
pub fn report(
    folder: &RunFolder,
    dataset: &Dataset,
    options: &TrainOptions,
    threads: usize,
) -> Result<()> {
    Ok(write(folder.path(), &gather(folder, dataset, options, threads)?)?)
}

/// Keeps the first filters of every epoch beside telling how the run goes.
pub struct Recorder<'a, P: Progress> {
    /// Who tells.
    pub inner: &'a mut P,
    /// The run folder.
    pub folder: &'a Path,
}

impl<P: Progress> Progress for Recorder<'_, P> {
    fn batch(&mut self, info: &BatchInfo) {
        self.inner.batch(info);
    }

    fn epoch(&mut self, row: &EpochRow) {
        self.inner.epoch(row);
    }

    fn weights(&mut self, row: &EpochRow, network: &Network, params: &[f32]) {
        // Of a thousand epochs a hundred are enough to see them grow.
        if row.epoch > 20 && !row.epoch.is_multiple_of(10) {
            return;
        }
        // A network without colour filters has none to show, and a full disk stops the run elsewhere.
        if let Ok(sheet) = filter_sheet(network, params) {
            let file = self.folder.join(FILTERS).join(format!("epoch-{:04}.png", row.epoch));
            let _ = write_png(&file, &sheet);
        }
    }
}

/// Writes what the run was planned to take and what the process has taken at most so far.
pub fn write_memory(
    folder: &Path,
    train: MemoryReport,
    predict: MemoryReport,
    cache: usize,
) -> Result<()> {
    let memory = Memory { train, predict, cache, peak: peak() };
    Ok(write_file(&folder.join(MEMORY), serde_json::to_string(&memory)?.as_bytes())?)
}

/// The largest resident size of this process in bytes, where Linux tells it.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}
