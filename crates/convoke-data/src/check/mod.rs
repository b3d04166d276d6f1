//! Looking at data before training on it: most of what goes wrong with a model went wrong in its data.
//!
//! [`check`] opens a data set, looks at every file and gives a [`Report`], which is data first; the quick form
//! reads headers alone and compares only files of equal length.

mod boxes;
mod facts;
mod judge;
mod kind;
mod look;
mod twins;

pub use boxes::{BoxFacts, ClassFacts, check_boxes};
pub use facts::{Facts, Format};
pub use kind::{Kind, Severity};

use crate::boxes::BoxSet;
use crate::dataset::{Dataset, OpenOptions, Split};
use crate::picture::Area;
use look::{Sample, Seen, look_at, read, samples};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// How to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Headers alone, nothing decoded: seconds for ten thousand files.
    pub quick: bool,
    /// Threads.
    pub threads: usize,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// How bad.
    pub severity: Severity,
    /// The files, or `train 17` for samples that have none.
    #[serde(serialize_with = "crate::file::paths_as_text")]
    pub files: Vec<PathBuf>,
    /// Where in the first file, for boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub area: Option<Area>,
    /// Details in one line.
    pub told: String,
}

impl Finding {
    pub(crate) fn new(kind: Kind, files: Vec<PathBuf>, told: impl Into<String>) -> Self {
        Finding { kind, severity: kind.severity(), files, area: None, told: told.into() }
    }
}

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitFacts {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// Samples.
    pub n: usize,
    /// Samples per class; boxes where there are boxes.
    pub per_class: Vec<usize>,
}

/// Sizes of the pictures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Sizes {
    /// Median width.
    pub width: usize,
    /// Median height.
    pub height: usize,
    /// Shortest side of any picture.
    pub least: usize,
    /// Longest side of any picture.
    pub most: usize,
    /// Pictures by their shorter side: `(below so many pixels, how many)`; the last is without a bound.
    pub histogram: Vec<(usize, usize)>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was recognised.
    pub kind: String,
    /// Class names.
    pub classes: Vec<String>,
    /// Splits.
    pub splits: Vec<SplitFacts>,
    /// Sizes.
    pub sizes: Sizes,
    /// Files by format.
    pub formats: BTreeMap<String, usize>,
    /// Everything that is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// Facts of the boxes, where there are boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boxes: Option<BoxFacts>,
    /// Whether only headers were read.
    pub quick: bool,
}

/// What it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong.
    Clean,
    /// Worth a look.
    Usable,
    /// Results would be wrong.
    Unfit,
}

impl Report {
    /// Findings of that severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// What it comes to.
    pub fn verdict(&self) -> Verdict {
        match (self.count(Severity::Error), self.count(Severity::Warning)) {
            (0, 0) => Verdict::Clean,
            (0, _) => Verdict::Usable,
            _ => Verdict::Unfit,
        }
    }

    /// Kinds with their findings, the worst kinds first.
    pub fn by_kind(&self) -> Vec<(Kind, Vec<&Finding>)> {
        let mut kinds: Vec<Kind> = self.findings.iter().map(|f| f.kind).collect();
        kinds.dedup();
        let of = |k: Kind| self.findings.iter().filter(|f| f.kind == k).collect();
        kinds.into_iter().map(|k| (k, of(k))).collect()
    }
}

/// Checks what lies at `path`, with classes or with boxes. What cannot even be opened is a finding, too; its
/// pictures are then looked at one by one.
pub fn check(path: &Path, options: CheckOptions) -> Report {
    let opened = match BoxSet::is_one(path) {
        true => BoxSet::open(path).map(|set| check_boxes(Some(path), &set, options)),
        false => Dataset::open(path, &OpenOptions { seed: 0, val_fraction: 0.0 })
            .map(|set| check_dataset(Some(path), &set, options)),
    };
    opened.unwrap_or_else(|e| unopened(path, &e.to_string(), options))
}

/// Checks the pictures of something that is no data set.
fn unopened(path: &Path, why: &str, options: CheckOptions) -> Report {
    let split = Split::unlabelled(path).ok().filter(|_| path.is_dir());
    let splits: Vec<_> = split.iter().map(|s| ("pictures", s)).collect();
    let mut samples = samples(&splits);
    for s in &mut samples {
        (s.label, s.place) = (None, "the folder".into());
    }
    let seen = look_at(&samples, options);
    let mut findings = on_files(&samples, &seen, Kind::Conflict);
    findings.push(Finding::new(Kind::Layout, vec![path.into()], why));
    let facts =
        |s: &(&'static str, &Split)| SplitFacts { name: s.0, n: s.1.len(), per_class: vec![] };
    let of = Told {
        kind: "not recognised",
        classes: &[],
        splits: splits.iter().map(facts).collect(),
        boxes: None,
    };
    report(of, &seen, findings, options)
}

/// Checks an opened data set; `path`, if given, is also searched for files that are left out.
pub fn check_dataset(path: Option<&Path>, set: &Dataset, options: CheckOptions) -> Report {
    let splits =
        [("train", Some(&set.train)), ("val", set.val.as_ref()), ("test", set.test.as_ref())];
    let splits: Vec<(&'static str, &Split)> =
        splits.into_iter().filter_map(|(n, s)| Some((n, s?))).collect();
    let samples = samples(&splits);
    let seen = look_at(&samples, options);
    let of = |(name, split): &(&'static str, &Split)| SplitFacts {
        name,
        n: split.len(),
        per_class: split.counts(set.classes.len()),
    };
    let facts: Vec<SplitFacts> = splits.iter().map(of).collect();
    let mut findings = on_files(&samples, &seen, Kind::Conflict);
    findings.extend(judge::classes(&set.classes, &facts, ("picture", "pictures")));
    let stranger = |(file, kind, others)| {
        Finding::new(Kind::Stranger, vec![file], format!("a {kind} among {others}"))
    };
    findings.extend(set.strangers().into_iter().map(stranger));
    if let Some(path) = path {
        findings.extend(strays(path, &samples));
    }
    let of = Told { kind: set.kind, classes: &set.classes, splits: facts, boxes: None };
    report(of, &seen, findings, options)
}

/// What is wrong with pictures, whatever they are marked with.
fn on_files(samples: &[Sample], seen: &[Seen], conflict: Kind) -> Vec<Finding> {
    let mut findings = judge::files(samples, seen);
    findings.extend(judge::sizes(samples, seen));
    findings.extend(judge::twins(samples, seen, conflict));
    findings
}

/// What a set says of itself.
struct Told<'a> {
    kind: &'a str,
    classes: &'a [String],
    splits: Vec<SplitFacts>,
    boxes: Option<BoxFacts>,
}

fn report(of: Told, seen: &[Seen], mut findings: Vec<Finding>, options: CheckOptions) -> Report {
    findings.sort_by(|a, b| {
        b.severity.cmp(&a.severity).then(a.kind.cmp(&b.kind)).then(a.files.cmp(&b.files))
    });
    let mut formats = BTreeMap::new();
    for s in seen {
        let name = s.format.map_or("in memory", Format::name);
        *formats.entry(name.to_string()).or_default() += 1;
    }
    Report {
        kind: of.kind.into(),
        classes: of.classes.to_vec(),
        splits: of.splits,
        sizes: judge::sizes_of(seen),
        formats,
        findings,
        boxes: of.boxes,
        quick: options.quick,
    }
}

/// Files of the folder that are no sample of any split.
fn strays(path: &Path, samples: &[Sample]) -> Vec<Finding> {
    let known: HashSet<&Path> = samples.iter().map(|s| s.path.as_path()).collect();
    if !samples.iter().any(|s| s.path.starts_with(path)) {
        // IDX files and the like: what lies beside them is nobody's business.
        return Vec::new();
    }
    let mut files = Vec::new();
    walk(path, 0, &mut files);
    let mut all = Vec::new();
    for file in files.into_iter().filter(|f| !known.contains(f.as_path())) {
        let bytes = read(&file, 64).unwrap_or_default();
        let finding = match (Format::of(&bytes), Format::promised(&file)) {
            (Some(Format::Foreign), _) => Finding::new(
                Kind::Foreign,
                vec![file],
                format!("is a {}: left out", Format::Foreign.name()),
            ),
            (Some(_), Some(_)) => Finding::new(Kind::Loose, vec![file], "lies in no class folder"),
            (Some(f), None) => {
                let told =
                    format!("is a {} by its content but not by its name: left out", f.name());
                Finding::new(Kind::Misnamed, vec![file], told)
            }
            (None, _) => Finding::new(Kind::Stray, vec![file], "left out"),
        };
        all.push(finding);
    }
    all
}

/// Files of a folder, hidden ones apart.
fn walk(path: &Path, depth: usize, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    let mut entries: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden || out.len() > 1 << 20 {
            continue;
        }
        if entry.is_dir() {
            // Links to folders may go round for ever.
            if depth < 16 && !entry.is_symlink() {
                walk(&entry, depth + 1, out);
            }
        } else {
            out.push(entry);
        }
    }
}
