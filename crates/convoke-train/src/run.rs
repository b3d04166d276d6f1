//! The run folder: `args.toml`, `results.csv`, `results.png`, `split.csv`, `weights/`.

use crate::error::{Result, TrainError, other};
use crate::plot;
use convoke_data::{open_file, read_text, write_file, write_png};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One line of `results.csv`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// From 1.
    pub epoch: usize,
    /// Mean training loss.
    pub train_loss: f64,
    /// Share right while training (with augmentation and dropout).
    pub train_top1: f64,
    /// Whether what it is judged by is the test part, for want of a validation part.
    pub on_test: bool,
    /// Loss on the split to judge by.
    pub val_loss: Option<f64>,
    /// Share right there.
    pub val_top1: Option<f64>,
    /// Share among the five most likely there.
    pub val_top5: Option<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Seconds, evaluation included.
    pub seconds: f64,
    /// Training pictures a second.
    pub pictures_per_second: f64,
}

impl EpochRow {
    /// What it is judged by: `val` or `test`.
    pub fn judge(&self) -> &'static str {
        if self.on_test { "test" } else { "val" }
    }

    fn line(&self) -> String {
        let o = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
        format!(
            "{},{:.6},{:.6},{},{},{},{:.8},{:.3},{:.1}",
            self.epoch,
            self.train_loss,
            self.train_top1,
            o(self.val_loss),
            o(self.val_top1),
            o(self.val_top5),
            self.lr,
            self.seconds,
            self.pictures_per_second
        )
    }

    fn parse(line: &str, on_test: bool) -> Option<Self> {
        let cells: Vec<&str> = line.split(',').collect();
        let n = |i: usize| cells.get(i)?.parse::<f64>().ok();
        Some(EpochRow {
            epoch: cells.first()?.parse().ok()?,
            train_loss: n(1)?,
            train_top1: n(2)?,
            on_test,
            val_loss: n(3),
            val_top1: n(4),
            val_top5: n(5),
            lr: n(6)?,
            seconds: n(7)?,
            pictures_per_second: n(8)?,
        })
    }
}

/// The version of run folders that is written; older ones are read too. Folders without one are of version 1.
const VERSION: u64 = 1;
/// Where `args.toml` says it.
const KEY: &str = "convoke_run";
/// A longer `args.toml` is refused.
const MAX_SETTINGS: u64 = 16 << 20;

/// A run folder. Who writes to it holds its lock until the last copy is dropped.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    _lock: Option<Arc<File>>,
}

/// Takes a folder for this process alone, and clears what one that was killed left half-written.
fn lock(path: &Path) -> Result<RunFolder> {
    let file = File::options().create(true).truncate(false).write(true).open(path.join(".lock"));
    let file =
        file.map_err(|e| TrainError::Other(format!("{}: cannot be written: {e}", path.display())))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return other(format!(
                "{} is being written by another convoke; wait for it, or give another --out",
                path.display()
            ));
        }
        // Some network file systems know no locks; a run there is as safe as it was.
        Err(TryLockError::Error(_)) => {}
    }
    for folder in [path.to_path_buf(), path.join("weights")] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries.filter(|e| convoke_data::is_unfinished(&e.path())) {
            // What cannot be removed does no harm.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(RunFolder { path: path.into(), _lock: Some(Arc::new(file)) })
}

impl RunFolder {
    /// A folder that does not hold a run yet.
    ///
    /// # Errors
    /// When it already holds one, another process writes to it, or it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)
            .map_err(|e| TrainError::Other(format!("{}: cannot be made: {e}", path.display())))?;
        let folder = lock(path)?;
        if path.join("args.toml").exists() {
            return other(format!(
                "{} already holds a run; give another --out, or --resume it",
                path.display()
            ));
        }
        Ok(folder)
    }

    /// The first free of `base/name`, `base/name-2`, …; two runs that begin at once get two.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn next(base: &Path, name: &str) -> Result<Self> {
        let wrong = |path: &Path, e: Error| {
            TrainError::Other(format!("{}: cannot be made: {e}", path.display()))
        };
        std::fs::create_dir_all(base).map_err(|e| wrong(base, e))?;
        for i in 1.. {
            let path = base.join(if i == 1 { name.into() } else { format!("{name}-{i}") });
            match std::fs::create_dir(&path) {
                Ok(()) => return lock(&path),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(wrong(&path, e)),
            }
        }
        other(format!("{} holds too many runs", base.display()))
    }

    /// An existing run folder, to read.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join("args.toml").is_file() {
            return other(format!("{} is no run folder: it has no args.toml", path.display()));
        }
        Ok(RunFolder { path: path.into(), _lock: None })
    }

    /// An existing run folder, to go on with its run.
    ///
    /// # Errors
    /// When it is none, or another process writes to it.
    pub fn resume(path: &Path) -> Result<Self> {
        Self::open(path)?;
        lock(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Weights of the best epoch.
    pub fn best(&self) -> PathBuf {
        self.path.join("weights/best.safetensors")
    }

    /// Weights of the last epoch.
    pub fn last(&self) -> PathBuf {
        self.path.join("weights/last.safetensors")
    }

    /// What a run is resumed from.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("weights/checkpoint.safetensors")
    }

    /// Writes a text file into the folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(write_file(&self.path.join(name), text.as_bytes())?)
    }

    /// Writes `args.toml`: the folder's version and then the settings. With it the folder holds a run.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_settings(&self, settings: &impl Serialize) -> Result<()> {
        let text = toml::to_string(settings)
            .map_err(|e| TrainError::Other(format!("settings cannot be written: {e}")))?;
        self.write("args.toml", &format!("{KEY} = {VERSION}\n{text}"))
    }

    /// The text of `args.toml`.
    ///
    /// # Errors
    /// When it is missing or no TOML, or the folder is of a version that this library does not know.
    pub fn settings(&self) -> Result<String> {
        let path = self.path.join("args.toml");
        let wrong = |what: &str| TrainError::Other(format!("{}: {what}", path.display()));
        let cannot = |e: Error| wrong(&format!("cannot be read: {e}"));
        let mut text = String::new();
        let file = open_file(&path).map_err(cannot)?;
        file.take(MAX_SETTINGS + 1).read_to_string(&mut text).map_err(cannot)?;
        if text.len() as u64 > MAX_SETTINGS {
            return Err(wrong("is too long for settings"));
        }
        let table: toml::Table = toml::from_str(&text).map_err(|e| wrong(e.message()))?;
        match table.get(KEY).map_or(Some(1), toml::Value::as_integer) {
            Some(v) if (1..=VERSION as i64).contains(&v) => Ok(text),
            Some(v) if v > VERSION as i64 => {
                Err(wrong("was written by a newer convoke; update this one"))
            }
            _ => Err(wrong(&format!("`{KEY}` is no version of run folders"))),
        }
    }

    /// Writes `results.csv` and `results.png`.
    pub(crate) fn write_rows(&self, rows: &[EpochRow]) -> Result<()> {
        let judge = rows.first().map_or("val", EpochRow::judge);
        let mut text = format!(
            "epoch,train_loss,train_top1,{judge}_loss,{judge}_top1,{judge}_top5,lr,seconds,\
             pictures_per_second\n"
        );
        for row in rows {
            text += &row.line();
            text.push('\n');
        }
        self.write("results.csv", &text)?;
        Ok(write_png(&self.path.join("results.png"), &plot::curves(rows))?)
    }

    /// Reads `results.csv`; empty when there is none yet.
    ///
    /// # Errors
    /// Never today; what cannot be read counts as absent.
    pub fn read_rows(&self) -> Result<Vec<EpochRow>> {
        match read_text(&self.path.join("results.csv")) {
            Ok(text) => {
                let on_test = text.lines().next().is_some_and(|head| head.contains("test_loss"));
                let rows = text.lines().skip(1);
                Ok(rows.filter_map(|line| EpochRow::parse(line, on_test)).collect())
            }
            Err(_) => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: usize, val: Option<f64>) -> EpochRow {
        EpochRow {
            epoch,
            train_loss: 2.0 / epoch as f64,
            train_top1: 1.0 - 0.5 / epoch as f64,
            on_test: false,
            val_loss: val,
            val_top1: val,
            val_top5: val,
            lr: 0.125,
            seconds: 1.5,
            pictures_per_second: 100.0,
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::next(folder.path(), "a").unwrap();
        assert_eq!(run.read_rows().unwrap(), []);
        let rows = [row(1, None), row(2, Some(0.25))];
        run.write_rows(&rows).unwrap();
        assert_eq!(run.read_rows().unwrap(), rows);
        let csv = std::fs::read_to_string(run.path().join("results.csv")).unwrap();
        let head = csv.lines().next().unwrap();
        assert!(head.starts_with("epoch,train_loss,train_top1,val_loss,val_top1,"), "{head}");
        assert!(csv.lines().all(|l| l.split(',').count() == head.split(',').count()));
    }

    #[test]
    fn runs_that_begin_at_once_get_folders_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let next = || RunFolder::next(folder.path(), "a").unwrap().path().to_path_buf();
        let mut paths: Vec<PathBuf> = std::thread::scope(|s| {
            let all: Vec<_> = (0..8).map(|_| s.spawn(next)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 8);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(RunFolder::next(&folder.path().join("file"), "a").is_err());
        assert!(RunFolder::open(&paths[0]).unwrap_err().to_string().contains("no run folder"));
        std::fs::write(paths[0].join("args.toml"), "").unwrap();
        assert!(RunFolder::open(&paths[0]).is_ok());
        assert!(RunFolder::create(&paths[0]).unwrap_err().to_string().contains("--resume"));
    }

    #[test]
    fn a_run_folder_says_its_version_and_a_newer_one_is_refused_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::next(folder.path(), "a").unwrap();
        run.write_settings(&std::collections::BTreeMap::from([("epochs", 3)])).unwrap();
        assert_eq!(run.settings().unwrap(), "convoke_run = 1\nepochs = 3\n");
        run.write("args.toml", "epochs = 3").unwrap();
        assert_eq!(run.settings().unwrap(), "epochs = 3");
        for (text, told) in [
            ("convoke_run = 2", "newer convoke"),
            ("convoke_run = 9223372036854775807", "newer convoke"),
            ("convoke_run = 0", "no version"),
            ("convoke_run = \"1\"", "no version"),
            ("convoke_run", "args.toml"),
        ] {
            run.write("args.toml", text).unwrap();
            let e = run.settings().unwrap_err().to_string();
            assert!(e.contains(told) && !e.contains('\n'), "{text}: {e}");
        }
        std::fs::remove_file(run.path().join("args.toml")).unwrap();
        assert!(run.settings().unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn one_at_a_time_writes_to_a_run_and_leftovers_go() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::next(folder.path(), "a").unwrap();
        run.write("args.toml", "").unwrap();
        let second = || RunFolder::resume(run.path()).map(drop);
        let e = second().unwrap_err().to_string();
        assert!(e.contains("another convoke") && !e.contains('\n'), "{e}");
        assert!(RunFolder::open(run.path()).is_ok(), "who reads needs no lock");
        let left = run.path().join(".convoke-half");
        std::fs::write(&left, "half").unwrap();
        let path = run.path().to_path_buf();
        let copy = run.clone();
        drop(run);
        assert!(RunFolder::resume(&path).is_err(), "the copy still holds it");
        drop(copy);
        RunFolder::resume(&path).unwrap();
        assert!(!left.exists());
    }
}
