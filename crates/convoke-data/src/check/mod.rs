//! Looking at data before training on it: most of what goes wrong with a model went wrong in its data.
//!
//! [`check`] opens a data set, looks at every file and gives a [`Report`], which is data first; the quick form
//! reads headers alone and compares only files of equal length.

mod facts;
mod judge;
mod kind;
mod twins;

pub use facts::{Facts, Format};
pub use kind::{Kind, Severity};

use crate::dataset::{Dataset, OpenOptions, Source, Split};
use crate::picture::{Picture, read_picture, read_size};
use crate::{DataError, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use twins::Trace;

/// How to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Headers alone, nothing decoded: seconds for ten thousand files.
    pub quick: bool,
    /// Threads.
    pub threads: usize,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// How bad.
    pub severity: Severity,
    /// The files, or `train 17` for samples that have none.
    pub files: Vec<PathBuf>,
    /// Details in one line.
    pub told: String,
}

impl Finding {
    pub(crate) fn new(kind: Kind, files: Vec<PathBuf>, told: impl Into<String>) -> Self {
        Finding { kind, severity: kind.severity(), files, told: told.into() }
    }
}

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitFacts {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// Samples.
    pub n: usize,
    /// Samples per class.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// Checks what lies at `path`. What cannot even be opened is a finding, too.
pub fn check(path: &Path, options: CheckOptions) -> Report {
    match Dataset::open(path, &OpenOptions { seed: 0, val_fraction: 0.0 }) {
        Ok(set) => check_dataset(Some(path), &set, options),
        Err(e) => {
            let told = e.to_string();
            let empty = Report {
                kind: "not recognised".into(),
                classes: Vec::new(),
                splits: Vec::new(),
                sizes: Sizes::default(),
                formats: BTreeMap::new(),
                findings: Vec::new(),
                quick: options.quick,
            };
            Report { findings: vec![Finding::new(Kind::Layout, vec![path.into()], told)], ..empty }
        }
    }
}

/// Checks an opened data set; `path`, if given, is also searched for files that are left out.
pub fn check_dataset(path: Option<&Path>, set: &Dataset, options: CheckOptions) -> Report {
    let splits =
        [("train", Some(&set.train)), ("val", set.val.as_ref()), ("test", set.test.as_ref())];
    let splits: Vec<(&'static str, &Split)> =
        splits.into_iter().filter_map(|(n, s)| Some((n, s?))).collect();
    let samples = samples(&splits);
    let seen = look_at(&splits, &samples, options);
    let mut findings = judge::files(&samples, &seen);
    findings.extend(judge::classes(set, &splits));
    findings.extend(judge::sizes(&samples, &seen));
    findings.extend(judge::twins(&samples, &seen));
    let stranger = |(file, kind, others)| {
        Finding::new(Kind::Stranger, vec![file], format!("a {kind} among {others}"))
    };
    findings.extend(set.strangers().into_iter().map(stranger));
    if let Some(path) = path {
        findings.extend(strays(path, &samples));
    }
    findings.sort_by(|a, b| {
        b.severity.cmp(&a.severity).then(a.kind.cmp(&b.kind)).then(a.files.cmp(&b.files))
    });
    let mut formats = BTreeMap::new();
    for s in &seen {
        let name = s.format.map_or("in memory", Format::name);
        *formats.entry(name.to_string()).or_default() += 1;
    }
    let of = |(name, split): &(&'static str, &Split)| SplitFacts {
        name,
        n: split.len(),
        per_class: split.counts(set.classes.len()),
    };
    Report {
        kind: set.kind.into(),
        classes: set.classes.clone(),
        splits: splits.iter().map(of).collect(),
        sizes: judge::sizes_of(&seen),
        formats,
        findings,
        quick: options.quick,
    }
}

/// One sample of a split.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub split: usize,
    pub split_name: &'static str,
    pub index: usize,
    pub label: u32,
    pub class_name: String,
    /// The file, or a name for a sample in memory.
    pub path: PathBuf,
}

/// What was seen of a sample.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub format: Option<Format>,
    pub facts: Facts,
    /// Width and height as shown.
    pub size: Option<(usize, usize)>,
    pub turned: bool,
    pub digest: Option<u128>,
    pub trace: Option<Trace>,
    pub blank: bool,
    /// What is wrong with the file.
    pub wrong: Option<(Kind, String)>,
}

fn samples(splits: &[(&'static str, &Split)]) -> Vec<Sample> {
    let mut all = Vec::new();
    for (number, (name, split)) in splits.iter().enumerate() {
        for (index, &label) in split.labels.iter().enumerate() {
            let path = match &split.source {
                Source::Files(files) => files[index].clone(),
                _ => PathBuf::from(format!("{name} {index}")),
            };
            let folder = path.parent().and_then(Path::file_name);
            let class_name = folder.map_or(String::new(), |f| f.to_string_lossy().into_owned());
            all.push(Sample { split: number, split_name: name, index, label, class_name, path });
        }
    }
    all
}

/// Looks at every sample, on all threads.
fn look_at(
    splits: &[(&'static str, &Split)],
    samples: &[Sample],
    options: CheckOptions,
) -> Vec<Seen> {
    // In the quick form only files of a length that another has, too, can be equal.
    let lengths: Vec<u64> =
        samples.iter().map(|s| std::fs::metadata(&s.path).map_or(0, |m| m.len())).collect();
    let (mut once, mut twice) = (HashSet::new(), HashSet::new());
    for n in &lengths {
        if !once.insert(*n) {
            twice.insert(*n);
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(sample) = samples.get(i) else { return mine };
            let seen = match &splits[sample.split].1.source {
                Source::Files(_) if options.quick => {
                    header(&sample.path, twice.contains(&lengths[i]))
                }
                Source::Files(_) => whole(&sample.path),
                Source::Memory { pixels, width, height, channels } => {
                    let len = width * height * channels;
                    let part = &pixels[sample.index * len..][..len];
                    let (digest, size) = (Some(twins::digest(part)), Some((*width, *height)));
                    Seen { digest, size, blank: is_blank(part, *channels), ..Seen::default() }
                }
                Source::Signals(all) => {
                    let bytes: Vec<u8> =
                        all.get(sample.index).iter().flat_map(|v| v.to_le_bytes()).collect();
                    let (digest, size) = (twins::digest(&bytes), (all.length(sample.index), 1));
                    Seen { digest: Some(digest), size: Some(size), ..Seen::default() }
                }
            };
            mine.push((i, seen));
        }
    };
    let mut all = vec![Seen::default(); samples.len()];
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..options.threads.max(1)).map(|_| s.spawn(work)).collect();
        for thread in threads {
            for (i, seen) in thread.join().unwrap_or_default() {
                all[i] = seen;
            }
        }
    });
    all
}

/// Files longer than this are not read whole.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes of a header; profiles and thumbnails come before the size.
const HEADER: u64 = 256 << 10;

fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| DataError::io(path, e))?;
    file.take(most).read_to_end(&mut bytes).map_err(|e| DataError::io(path, e))?;
    Ok(bytes)
}

/// What the file's first bytes tell, and what is wrong with them.
fn first_look(path: &Path, bytes: &[u8]) -> Seen {
    let format = Format::of(bytes);
    let facts = format.map_or(Facts::default(), |f| Facts::of(f, bytes));
    let wrong = match format {
        None if bytes.is_empty() => Some((Kind::Empty, "holds nothing".to_string())),
        None => Some((Kind::NotAPicture, format!("begins with {}", beginning(bytes)))),
        Some(Format::Foreign) => Some((Kind::Foreign, format!("is a {}", Format::Foreign.name()))),
        Some(_) => None,
    };
    let turned = format == Some(Format::Jpeg) && crate::picture::is_turned(path);
    Seen { format, facts, wrong, turned, ..Seen::default() }
}

/// The first letters of a file, for people.
fn beginning(bytes: &[u8]) -> String {
    let shown = |b: &u8| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' };
    format!("`{}`", bytes.iter().take(16).map(shown).collect::<String>())
}

fn unreadable(e: &DataError, path: &Path) -> (Kind, String) {
    let told = e.to_string();
    let told = told.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&told);
    (Kind::Broken, told.to_string())
}

fn header(path: &Path, with_digest: bool) -> Seen {
    let most = if with_digest { MAX_BYTES } else { HEADER };
    let bytes = match read(path, most) {
        Ok(bytes) => bytes,
        Err(e) => return Seen { wrong: Some(unreadable(&e, path)), ..Seen::default() },
    };
    let mut seen = first_look(path, &bytes);
    if seen.wrong.is_none() {
        match read_size(path) {
            Ok((w, h)) => seen.size = Some(if seen.turned { (h, w) } else { (w, h) }),
            Err(e) => seen.wrong = Some(unreadable(&e, path)),
        }
        seen.digest = with_digest.then(|| twins::digest(&bytes));
    }
    seen
}

fn whole(path: &Path) -> Seen {
    let bytes = match read(path, HEADER) {
        Ok(bytes) => bytes,
        Err(e) => return Seen { wrong: Some(unreadable(&e, path)), ..Seen::default() },
    };
    let mut seen = first_look(path, &bytes);
    if seen.wrong.is_some() {
        return seen;
    }
    match read_picture(path, 3) {
        Ok(p) => {
            seen.size = Some((p.width, p.height));
            seen.digest = Some(pixel_digest(&p));
            seen.blank = is_blank(&p.data, 3);
            seen.trace = Trace::of(&p);
        }
        Err(e) => seen.wrong = Some(unreadable(&e, path)),
    }
    seen
}

/// Equal for the same pixels, whatever file they lie in.
fn pixel_digest(p: &Picture) -> u128 {
    twins::digest(&p.data) ^ (p.width as u128) << 96
}

/// Whether all pixels are one colour, but for the noise of a JPEG.
fn is_blank(pixels: &[u8], channels: usize) -> bool {
    let Some(first) = pixels.get(..channels) else { return true };
    pixels.chunks_exact(channels).all(|p| p.iter().zip(first).all(|(a, b)| a.abs_diff(*b) <= 3))
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
            if depth < 16 {
                walk(&entry, depth + 1, out);
            }
        } else {
            out.push(entry);
        }
    }
}
