//! A study on disk: a file of JSON lines that only grows. Its first line says what is searched; every later one is
//! an event of a trial, written whole in one call. A line that a crash cut short is taken off when the file is
//! opened again, and a trial that had not ended is run again. One process at a time holds the file.

use super::halving::Halving;
use super::sampler::Sampler;
use super::space::{Point, Space, short};
use crate::error::{Result, TrainError, other};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What a study is about; what is not the same is another study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the file.
    pub convoke_study: u32,
    /// What is searched.
    pub space: Space,
    /// Who proposes.
    pub sampler: Sampler,
    /// Who is stopped early; nobody, when left out.
    pub halving: Option<Halving>,
    /// Epochs of a trial that is not stopped.
    pub epochs: usize,
    /// Seed of the search.
    pub seed: u64,
    /// Everything else that a result depends on, as text: data, limits, fixed settings.
    pub terms: String,
}

/// The version that is written and read.
pub const VERSION: u32 = 1;

/// What every version says of itself.
#[derive(Deserialize)]
struct Said {
    convoke_study: u32,
}

/// How a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Begun and not ended: under way, or killed.
    Running,
    /// Ran to its last epoch.
    Done,
    /// Was stopped early.
    Stopped,
    /// The network does not fit its input or the limits, so nothing was trained.
    Refused,
    /// Training broke, such as with a loss that is no number.
    Failed,
}

impl State {
    /// Whether it is something that a sampler learns from as a result.
    pub fn judged(self) -> bool {
        matches!(self, State::Done | State::Stopped | State::Failed)
    }
}

/// One trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// From 0, in the order of their beginning.
    pub number: usize,
    /// What was chosen.
    pub point: Point,
    /// How it stands.
    pub state: State,
    /// Share right after each epoch, larger is better.
    pub values: Vec<f64>,
    /// Loss after each epoch.
    pub losses: Vec<f64>,
    /// Trained numbers of its network.
    pub parameters: u64,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Bytes that a training step needs.
    pub memory: u64,
    /// Seconds so far.
    pub seconds: f64,
    /// Why it was refused or failed.
    pub why: String,
}

impl Trial {
    /// A trial of which that much is told.
    pub fn told(number: usize, point: Point, state: State, values: Vec<f64>) -> Self {
        Trial {
            number,
            point,
            state,
            values,
            losses: Vec::new(),
            parameters: 0,
            macs: 0,
            memory: 0,
            seconds: 0.0,
            why: String::new(),
        }
    }

    /// Best value so far and its epoch, from 1.
    pub fn best(&self) -> Option<(f64, usize)> {
        let numbers = self.values.iter().enumerate().filter(|v| !v.1.is_nan());
        numbers.fold(None, |best: Option<(f64, usize)>, (i, &v)| match best {
            Some(b) if b.0 >= v => best,
            _ => Some((v, i + 1)),
        })
    }

    /// What it is ranked by.
    pub(super) fn rank(&self) -> f64 {
        self.best().map_or(f64::NEG_INFINITY, |b| b.0)
    }

    /// Best value of its first epochs, none when it has not come so far.
    pub(super) fn best_by(&self, epoch: usize) -> Option<f64> {
        let first = self.values.get(..epoch)?;
        Some(first.iter().filter(|v| !v.is_nan()).fold(f64::NEG_INFINITY, |m, v| m.max(*v)))
    }
}

/// A study: its header, its trials, and the file that both are in.
pub struct Study {
    header: Header,
    trials: Vec<Trial>,
    file: File,
    path: PathBuf,
}

/// Larger files are refused.
const MAX_BYTES: u64 = 1 << 30;

impl Study {
    /// Opens the study of that file, or begins one.
    ///
    /// # Errors
    /// When the file is held by another process, is no study, is of another search, or cannot be written.
    pub fn open_or_begin(path: &Path, header: Header) -> Result<Self> {
        header.space.check()?;
        if path.is_file() {
            let study = Study::open(path)?;
            if let Some(what) = study.header.differs(&header) {
                return other(format!(
                    "{} is a study with {what}; give the same, or another --out",
                    path.display()
                ));
            }
            return Ok(study);
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| wrong(folder, e))?;
        }
        let new = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = new.map_err(|e| wrong(path, e))?;
        lock(&file, path)?;
        let mut study = Study { header, trials: Vec::new(), file, path: path.into() };
        let line = serde_json::to_value(&study.header);
        let line =
            line.map_err(|e| TrainError::Other(format!("the study cannot be written: {e}")))?;
        study.append(&line)?;
        Ok(study)
    }

    /// Opens a study. What a crash cut short is taken off the file.
    ///
    /// # Errors
    /// When it is held by another process, or is no study.
    pub fn open(path: &Path) -> Result<Self> {
        let old = OpenOptions::new().read(true).append(true).open(path);
        let mut file = old.map_err(|e| wrong(path, e))?;
        lock(&file, path)?;
        let length = file.metadata().map_err(|e| wrong(path, e))?.len();
        if length > MAX_BYTES {
            return other(format!("{} is too large for a study", path.display()));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| wrong(path, e))?;
        // A whole line ends in a newline.
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let text = std::str::from_utf8(&bytes[..whole]).unwrap_or_default();
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        // A newer header may hold what this library cannot read.
        if serde_json::from_str::<Said>(first).is_ok_and(|s| s.convoke_study > VERSION) {
            let path = path.display();
            return other(format!("{path} was written by a newer convoke; update this one"));
        }
        let header = serde_json::from_str::<Header>(first).ok();
        let Some(header) = header.filter(|h| h.space.check().is_ok()) else {
            return other(format!("{} is no study; give another --out", path.display()));
        };
        if header.convoke_study != VERSION {
            return other(format!("{} says no version of studies", path.display()));
        }
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(|e| wrong(path, e))?;
            file.seek(SeekFrom::End(0)).map_err(|e| wrong(path, e))?;
        }
        let mut study = Study { header, trials: Vec::new(), file, path: path.into() };
        for (i, line) in lines.enumerate() {
            if study.take(line).is_none() {
                let path = path.display();
                return other(format!("{path}: line {} is no event of this study", i + 2));
            }
        }
        Ok(study)
    }

    /// What it is about.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All trials so far.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// The trial with the best value, of those that were not refused.
    pub fn best(&self) -> Option<&Trial> {
        let judged = self.trials.iter().filter(|t| t.best().is_some());
        judged.fold(None, |best: Option<&Trial>, t| match best {
            Some(b) if b.rank() >= t.rank() => best,
            _ => Some(t),
        })
    }

    /// Writes that a trial begins.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(
        &mut self,
        point: Point,
        parameters: u64,
        macs: u64,
        memory: u64,
    ) -> Result<usize> {
        let number = self.trials.len();
        let chosen = self.header.space.to_json(&point);
        let mut trial = Trial::told(number, point, State::Running, Vec::new());
        (trial.parameters, trial.macs, trial.memory) = (parameters, macs, memory);
        self.append(
            &json!({"trial": number, "begins": chosen, "parameters": parameters, "macs": macs,
            "memory": memory}),
        )?;
        self.trials.push(trial);
        Ok(number)
    }

    /// Writes that a point was refused.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn refuse(&mut self, point: Point, why: &str) -> Result<usize> {
        let number = self.trials.len();
        let chosen = self.header.space.to_json(&point);
        self.append(&json!({"trial": number, "refused": chosen, "why": why}))?;
        let mut trial = Trial::told(number, point, State::Refused, Vec::new());
        trial.why = why.into();
        self.trials.push(trial);
        Ok(number)
    }

    /// Writes how an epoch of a trial went; `epoch` from 1. An epoch that is there already is told anew.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn epoch(
        &mut self,
        number: usize,
        epoch: usize,
        value: f64,
        loss: f64,
        seconds: f64,
    ) -> Result<()> {
        // What is in memory is what the file gives back.
        let [value, loss, seconds] = [value, loss, seconds].map(short);
        self.append(&json!({"trial": number, "epoch": epoch, "value": value, "loss": loss,
            "seconds": seconds}))?;
        self.note_epoch(number, epoch, value, loss, seconds);
        Ok(())
    }

    /// Writes that a trial has ended.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn end(&mut self, number: usize, state: State, why: &str) -> Result<()> {
        self.append(&json!({"trial": number, "ends": state, "why": why}))?;
        self.file.sync_data().map_err(|e| wrong(&self.path, e))?;
        (self.trials[number].state, self.trials[number].why) = (state, why.into());
        Ok(())
    }

    fn note_epoch(&mut self, number: usize, epoch: usize, value: f64, loss: f64, seconds: f64) {
        let trial = &mut self.trials[number];
        trial.values.truncate(epoch - 1);
        trial.losses.truncate(epoch - 1);
        trial.values.push(value);
        trial.losses.push(loss);
        trial.seconds = seconds;
    }

    fn append(&mut self, line: &Value) -> Result<()> {
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).map_err(|e| wrong(&self.path, e))
    }

    /// Takes up one line of the file; none when it makes no sense.
    fn take(&mut self, line: &str) -> Option<()> {
        let event: Map<String, Value> = serde_json::from_str(line).ok()?;
        let number = event.get("trial")?.as_u64()? as usize;
        let count = |name: &str| event.get(name)?.as_u64();
        // JSON has no NaN; such numbers are written as null.
        let float = |name: &str| event.get(name)?.as_f64();
        let why = event.get("why").and_then(Value::as_str).unwrap_or_default().to_string();
        let (begins, refused) = (event.get("begins"), event.get("refused"));
        if let Some(chosen) = begins.or(refused) {
            let point = self.header.space.of_json(chosen.as_object()?)?;
            let state = if refused.is_some() { State::Refused } else { State::Running };
            let mut trial = Trial::told(number, point, state, Vec::new());
            (trial.parameters, trial.macs) =
                (count("parameters").unwrap_or(0), count("macs").unwrap_or(0));
            (trial.memory, trial.why) = (count("memory").unwrap_or(0), why);
            return (number == self.trials.len()).then(|| self.trials.push(trial));
        }
        let trial = self.trials.get_mut(number)?;
        if let Some(state) = event.get("ends") {
            trial.state = serde_json::from_value(state.clone()).ok()?;
            trial.why = why;
            return Some(());
        }
        let epoch = count("epoch")? as usize;
        if epoch == 0 || epoch > trial.values.len() + 1 {
            return None;
        }
        let number_of = |name: &str| float(name).unwrap_or(f64::NAN);
        self.note_epoch(number, epoch, number_of("value"), number_of("loss"), float("seconds")?);
        Some(())
    }
}

impl Header {
    /// The first thing in which another header differs.
    fn differs(&self, other: &Header) -> Option<String> {
        let told = |what: &str, a: String, b: String| Some(format!("{what} {a}, not {b}"));
        if self.space != other.space {
            return Some("another space".into());
        }
        if self.terms != other.terms {
            let mut lines = self.terms.lines().zip(other.terms.lines());
            let (a, b) = lines.find(|(a, b)| a != b).unwrap_or(("other terms", "these"));
            return told("", format!("`{a}`"), format!("`{b}`")).map(|t| t.trim().into());
        }
        if self.sampler != other.sampler {
            return told("sampler", format!("{:?}", self.sampler), format!("{:?}", other.sampler));
        }
        if self.halving != other.halving {
            return told("halving", format!("{:?}", self.halving), format!("{:?}", other.halving));
        }
        if self.epochs != other.epochs {
            return told("epochs", self.epochs.to_string(), other.epochs.to_string());
        }
        (self.seed != other.seed).then(|| format!("seed {}, not {}", self.seed, other.seed))
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            other(format!("{} is held by another tune; wait for it", path.display()))
        }
        // Where files cannot be locked, nobody holds them.
        _ => Ok(()),
    }
}

fn wrong(path: &Path, e: std::io::Error) -> TrainError {
    TrainError::Other(format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn header() -> Header {
        let mut space = Space::default();
        space.add("x", Kind::Float { low: 0.0, high: 1.0, log: false });
        Header {
            convoke_study: VERSION,
            space,
            sampler: Sampler::Tpe,
            halving: Some(Halving { first: 1, factor: 3 }),
            epochs: 9,
            seed: 5,
            terms: "data a\nlimits none".into(),
        }
    }

    #[test]
    fn a_study_comes_back_as_it_was_and_a_cut_line_is_taken_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/study.jsonl");
        let mut s = Study::open_or_begin(&path, header()).unwrap();
        assert!(Study::open(&path).err().unwrap().to_string().contains("held by another"));
        assert_eq!(s.begin(vec![Some(0.25)], 10, 20, 30).unwrap(), 0);
        s.epoch(0, 1, 0.5, 1.5, 2.0).unwrap();
        s.epoch(0, 2, f64::NAN, 1.0, 3.0).unwrap();
        s.end(0, State::Stopped, "").unwrap();
        assert_eq!(s.refuse(vec![Some(0.75)], "too large").unwrap(), 1);
        assert_eq!(s.begin(vec![Some(0.5)], 1, 2, 3).unwrap(), 2);
        s.epoch(2, 1, 0.75, 1.5, 2.0).unwrap();
        let all = s.trials().to_vec();
        drop(s);
        let whole = std::fs::read(&path).unwrap();
        let same = |s: &Study| format!("{:?}", s.trials()) == format!("{all:?}");
        let s = Study::open_or_begin(&path, header()).unwrap();
        assert!(same(&s), "{:?}", s.trials());
        assert_eq!(s.best().unwrap().number, 2);
        drop(s);
        // Killed in the middle of a line.
        let cut = [&whole[..], b"{\"trial\":2,\"epo"].concat();
        std::fs::write(&path, cut).unwrap();
        let mut s = Study::open(&path).unwrap();
        assert!(same(&s));
        s.epoch(2, 2, 0.8, 1.0, 4.0).unwrap();
        drop(s);
        let s = Study::open(&path).unwrap();
        assert_eq!(s.trials()[2].values, [0.75, 0.8]);
        assert_eq!((s.trials()[1].state, s.trials()[2].state), (State::Refused, State::Running));
    }

    #[test]
    fn every_cut_of_the_file_is_a_study_or_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.jsonl");
        let mut s = Study::open_or_begin(&path, header()).unwrap();
        s.begin(vec![Some(0.25)], 10, 20, 30).unwrap();
        s.epoch(0, 1, 0.5, 1.5, 2.0).unwrap();
        s.end(0, State::Done, "").unwrap();
        drop(s);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|&b| b == b'\n').unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(Study::open(&path).is_ok(), cut > first, "{cut}");
        }
        for (at, byte) in [(first + 3, b'x'), (first + 12, b'9'), (whole.len() - 12, b'{')] {
            let mut altered = whole.clone();
            altered[at] = byte;
            std::fs::write(&path, altered).unwrap();
            assert!(Study::open(&path).is_err(), "{at}");
        }
    }

    #[test]
    fn another_search_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.jsonl");
        drop(Study::open_or_begin(&path, header()).unwrap());
        let told = |h: Header| Study::open_or_begin(&path, h).err().unwrap().to_string();
        assert!(told(Header { seed: 6, ..header() }).contains("seed 5, not 6"));
        assert!(told(Header { epochs: 3, ..header() }).contains("epochs 9, not 3"));
        let terms = "data a\nlimits 5".to_string();
        assert!(told(Header { terms, ..header() }).contains("`limits none`, not `limits 5`"));
    }
}
