//! What is made of what was seen.

use super::twins;
use super::{Finding, Format, Kind, Sample, Seen, Sizes};
use crate::dataset::{Dataset, Split};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Fewer pictures make a class tiny.
const TINY: usize = 10;
/// A class with more than so many times the pictures of another is out of balance.
const BALANCE: usize = 10;

/// What is wrong with single files.
pub(super) fn files(samples: &[Sample], seen: &[Seen]) -> Vec<Finding> {
    let mut all = Vec::new();
    let colour = seen.iter().filter(|s| s.facts.channels >= 3).count();
    let grey = seen.iter().filter(|s| s.facts.channels == 1).count();
    let few_grey = grey > 0 && grey * 10 <= colour;
    for (sample, s) in samples.iter().zip(seen) {
        let mut add =
            |kind, told: String| all.push(Finding::new(kind, vec![sample.path.clone()], told));
        if let Some((kind, told)) = &s.wrong {
            add(*kind, told.clone());
        }
        if let (Some(is), Some(said)) = (s.format, Format::promised(&sample.path))
            && is != said
        {
            add(Kind::Misnamed, format!("is a {} but its name says {}", is.name(), said.name()));
        }
        let f = s.facts;
        if s.turned {
            add(Kind::Turned, "EXIF turns or mirrors it".into());
        }
        if f.cmyk {
            add(Kind::Cmyk, "four colour channels".into());
        }
        if f.bits > 8 {
            add(Kind::Deep, format!("{} bits a channel", f.bits));
        }
        if f.alpha {
            add(Kind::Transparent, "has transparent pixels".into());
        }
        if f.animated {
            add(Kind::Animated, "has several frames".into());
        }
        if f.other_colours {
            add(Kind::OtherColours, "its profile names another colour space".into());
        }
        if few_grey && f.channels == 1 {
            add(Kind::Grey, format!("one of {grey} grey among {colour} colour pictures"));
        }
        if s.blank {
            add(Kind::Blank, "shows nothing".into());
        }
    }
    all
}

/// What is wrong with the classes.
pub(super) fn classes(set: &Dataset, splits: &[(&'static str, &Split)]) -> Vec<Finding> {
    let mut all = Vec::new();
    let counts = set.train.counts(set.classes.len());
    let class = |i: usize| format!("`{}`", set.classes[i]);
    let (Some(most), Some(least)) = (
        (0..counts.len()).max_by_key(|&i| counts[i]),
        (0..counts.len()).min_by_key(|&i| (counts[i], i)),
    ) else {
        return all;
    };
    if counts[most] > BALANCE * counts[least].max(1) {
        let told = format!(
            "{} has {} pictures to train on, {} has {}",
            class(most),
            counts[most],
            class(least),
            counts[least]
        );
        all.push(Finding::new(Kind::Imbalance, vec![], told));
    }
    for (i, n) in counts.iter().enumerate().filter(|c| *c.1 < TINY) {
        let told = format!("{} has {n} pictures to train on", class(i));
        all.push(Finding::new(Kind::TinyClass, vec![], told));
    }
    for (name, split) in splits.iter().filter(|s| s.0 != "train") {
        for (i, _) in split.counts(set.classes.len()).iter().enumerate().filter(|c| *c.1 == 0) {
            all.push(Finding::new(
                Kind::MissingClass,
                vec![],
                format!("{} has no picture in {name}", class(i)),
            ));
        }
    }
    let plain = |s: &str| {
        let s: String = s.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
        s.strip_suffix('s').map_or(s.clone(), String::from)
    };
    for i in 0..set.classes.len() {
        let same = |&j: &usize| {
            !plain(&set.classes[i]).is_empty() && plain(&set.classes[j]) == plain(&set.classes[i])
        };
        if let Some(j) = (i + 1..set.classes.len()).find(same) {
            all.push(Finding::new(
                Kind::SameName,
                vec![],
                format!("{} and {}", class(i), class(j)),
            ));
        }
    }
    all
}

/// Upper bounds of the shorter side.
const EDGES: [usize; 13] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096];

fn median(mut v: Vec<usize>) -> usize {
    v.sort_unstable();
    v.get(v.len() / 2).copied().unwrap_or(0)
}

/// Sizes of all pictures.
pub(super) fn sizes_of(seen: &[Seen]) -> Sizes {
    let sizes: Vec<(usize, usize)> = seen.iter().filter_map(|s| s.size).collect();
    if sizes.is_empty() {
        return Sizes::default();
    }
    let below = |k: usize| {
        let from = if k == 0 { 0 } else { EDGES[k - 1] };
        let to = EDGES.get(k).copied().unwrap_or(usize::MAX);
        (to, sizes.iter().filter(|(w, h)| (from..to).contains(w.min(h))).count())
    };
    Sizes {
        width: median(sizes.iter().map(|s| s.0).collect()),
        height: median(sizes.iter().map(|s| s.1).collect()),
        least: sizes.iter().map(|(w, h)| *w.min(h)).min().unwrap_or(0),
        most: sizes.iter().map(|(w, h)| *w.max(h)).max().unwrap_or(0),
        histogram: (0..=EDGES.len()).map(below).collect(),
    }
}

/// Pictures of a size that the others do not have.
pub(super) fn sizes(samples: &[Sample], seen: &[Seen]) -> Vec<Finding> {
    let all = sizes_of(seen);
    let (short, long) = (all.width.min(all.height), all.width.max(all.height));
    let mut found = Vec::new();
    for (sample, s) in samples.iter().zip(seen) {
        let Some((w, h)) = s.size else { continue };
        let told =
            format!("{w}x{h}; half of the pictures are larger than {}x{}", all.width, all.height);
        let mut add =
            |kind| found.push(Finding::new(kind, vec![sample.path.clone()], told.clone()));
        if w.min(h) * 4 < short && w.min(h) < 64 {
            add(Kind::Small);
        }
        if w.max(h) > 8 * long {
            add(Kind::Large);
        }
        if w.max(h) > 6 * w.min(h) && long < 3 * short {
            add(Kind::Narrow);
        }
    }
    found
}

/// Pictures that are the same, or nearly.
pub(super) fn twins(samples: &[Sample], seen: &[Seen]) -> Vec<Finding> {
    // A blank picture says nothing, even twice.
    let digests: Vec<_> = seen.iter().map(|s| s.digest.filter(|_| !s.blank)).collect();
    let groups = twins::equal(&digests);
    let mut all = Vec::new();
    for group in &groups {
        let splits: BTreeSet<usize> = group.iter().map(|&i| samples[i].split).collect();
        let labels: BTreeSet<u32> = group.iter().map(|&i| samples[i].label).collect();
        let (files, told) = told(samples, group);
        let kind = match (labels.len(), splits.len()) {
            (1, 1) => Kind::Duplicate,
            (1, _) => Kind::Leak,
            _ => Kind::Conflict,
        };
        all.push(Finding::new(kind, files, told));
    }
    let traces: Vec<_> = seen.iter().map(|s| s.trace.clone()).collect();
    for (i, j) in twins::near(&traces) {
        if seen[i].digest == seen[j].digest {
            continue;
        }
        let (files, told) = told(samples, &[i, j]);
        let apart = samples[i].split != samples[j].split;
        let kind = if apart { Kind::NearLeak } else { Kind::NearDuplicate };
        all.push(Finding::new(kind, files, told));
    }
    all
}

fn told(samples: &[Sample], group: &[usize]) -> (Vec<PathBuf>, String) {
    let files = group.iter().map(|&i| samples[i].path.clone()).collect();
    let place = |&i: &usize| {
        let s = &samples[i];
        if s.class_name.is_empty() {
            format!("{} class {}", s.split_name, s.label)
        } else {
            format!("{} {}", s.split_name, s.class_name)
        }
    };
    let mut places: Vec<String> = group.iter().map(place).collect();
    places.dedup();
    (files, format!("in {}", places.join(", ")))
}
