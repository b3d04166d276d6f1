//! Checking pictures with boxes: the same looks at the files, and what is wrong with the boxes.

use super::look::{Sample, look_at};
use super::{
    CheckOptions, Finding, Kind, Report, SplitFacts, Told, judge, on_files, report, strays,
};
use crate::boxes::{Annotation, BoxSet, Fault, FaultKind, Part};
use crate::picture::Area;
use serde::Serialize;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// The boxes of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassFacts {
    /// The class.
    pub name: String,
    /// Boxes.
    pub n: usize,
    /// Median width and height in pixels.
    pub median: Option<(f64, f64)>,
}

/// What a set of boxes holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BoxFacts {
    /// By class.
    pub classes: Vec<ClassFacts>,
    /// Pictures that hold nothing by their marks.
    pub negatives: usize,
    /// Pictures that nobody has marked.
    pub unlabelled: usize,
}

impl BoxFacts {
    fn of(set: &BoxSet) -> Self {
        let class = |(class, (name, n)): (usize, (&String, usize))| ClassFacts {
            name: name.clone(),
            n,
            median: median(set, class),
        };
        BoxFacts {
            classes: set.classes.iter().zip(set.counts()).enumerate().map(class).collect(),
            negatives: set.negatives(),
            unlabelled: set.unlabelled(),
        }
    }
}

fn median(set: &BoxSet, class: usize) -> Option<(f64, f64)> {
    let boxes = || set.pictures.iter().filter_map(|p| p.boxes.as_ref()).flatten();
    let side = |of: fn(&Area) -> f64| {
        let mut all: Vec<f64> = boxes().filter(|b| b.class == class).map(|b| of(&b.area)).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    Some((side(|a| a.width)?, side(|a| a.height)?))
}

/// Checks an opened set of pictures with boxes; `path`, if given, is also searched for pictures that are left out.
pub fn check_boxes(path: Option<&Path>, set: &BoxSet, options: CheckOptions) -> Report {
    let splits = splits(set);
    let mut samples: Vec<Sample> = set
        .pictures
        .iter()
        .map(|p| {
            let split = number(p.part);
            let place = if p.part.is_some() { NAMES[split] } else { "the set" };
            sample(&p.path, split, place, p.boxes.as_deref().map(mark))
        })
        .collect();
    // What could not be measured is looked at, too.
    let unread = |f: &&Fault| f.kind == FaultKind::UnreadablePicture;
    let lost: Vec<&Fault> = set.faults.iter().filter(unread).collect();
    let files = lost.iter().filter_map(|f| f.picture.as_ref());
    samples.extend(files.map(|p| sample(p, number(None), "the set", None)));
    samples.dedup_by(|a, b| a.path == b.path);
    let mut seen = look_at(&samples, options);
    for (sample, seen) in samples.iter().zip(&mut seen) {
        let of_it = lost.iter().find(|f| f.picture.as_ref() == Some(&sample.path));
        if let (Some(f), None) = (of_it, &seen.wrong) {
            seen.wrong = Some((Kind::Broken, f.told.clone()));
        }
    }
    let mut findings = on_files(&samples, &seen, Kind::OtherBoxes);
    findings.extend(judge::classes(&set.classes, &splits, ("box", "boxes")));
    findings.extend(set.faults.iter().filter(|f| !unread(f)).map(finding));
    if let Some(path) = path.filter(|p| p.is_dir()) {
        let named = [Kind::Foreign, Kind::Misnamed];
        findings.extend(strays(path, &samples).into_iter().filter(|f| named.contains(&f.kind)));
    }
    let boxes = Some(BoxFacts::of(set));
    report(Told { kind: set.kind, classes: &set.classes, splits, boxes }, &seen, findings, options)
}

const NAMES: [&str; 3] = ["train", "val", "test"];

/// Pictures that no part claims are learnt from.
fn number(part: Option<Part>) -> usize {
    match part {
        Some(Part::Val) => 1,
        Some(Part::Test) => 2,
        Some(Part::Train) | None => 0,
    }
}

/// The parts that hold pictures; the first is learnt from.
fn splits(set: &BoxSet) -> Vec<SplitFacts> {
    let parted = set.pictures.iter().any(|p| p.part.is_some());
    let mut all: Vec<SplitFacts> = NAMES
        .iter()
        .map(|&name| SplitFacts { name, n: 0, per_class: vec![0; set.classes.len()] })
        .collect();
    for p in &set.pictures {
        let split = &mut all[number(p.part)];
        split.n += 1;
        p.boxes.iter().flatten().for_each(|b| split.per_class[b.class] += 1);
    }
    if !parted {
        all[0].name = "all";
    }
    let first = all.remove(0);
    std::iter::once(first).chain(all.into_iter().filter(|s| s.n > 0)).collect()
}

fn sample(path: &Path, split: usize, place: &str, label: Option<u64>) -> Sample<'static> {
    Sample { split, label, place: place.into(), path: path.into(), pixels: None }
}

/// Equal for the same boxes, to a pixel.
fn mark(boxes: &[Annotation]) -> u64 {
    let mut all: Vec<[i64; 5]> = boxes
        .iter()
        .map(|b| {
            let a = b.area;
            let [l, t, w, h] = [a.left, a.top, a.width, a.height].map(|v| v.round() as i64);
            [b.class as i64, l, t, w, h]
        })
        .collect();
    all.sort_unstable();
    let mut hasher = DefaultHasher::new();
    all.hash(&mut hasher);
    hasher.finish()
}

fn finding(f: &Fault) -> Finding {
    let kind = match f.kind {
        FaultKind::MissingPicture => Kind::MissingPicture,
        FaultKind::Turned => Kind::Turned,
        _ => Kind::Box,
    };
    let file = f.file.file_name().map_or(f.file.to_string_lossy(), |n| n.to_string_lossy());
    let words = match f.kind {
        FaultKind::MissingPicture => String::new(),
        kind => format!("{}: ", kind.words()),
    };
    let told = format!("{words}{} ({file}: {})", f.told, f.place);
    let files = vec![f.picture.clone().unwrap_or_else(|| f.file.clone())];
    Finding { area: f.area, ..Finding::new(kind, files, told) }
}
