//! What is made of what was seen.

use super::look::{Sample, Seen};
use super::{Finding, Format, Kind, Sizes, SplitFacts, twins};
use crate::picture::read_picture;
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

/// What is wrong with the classes; what is counted is called `one` and `more`.
pub(super) fn classes(
    names: &[String],
    splits: &[SplitFacts],
    (one, more): (&str, &str),
) -> Vec<Finding> {
    let mut all = Vec::new();
    let Some(counts) = splits.first().map(|s| &s.per_class) else { return all };
    let class = |i: usize| format!("`{}`", names[i]);
    let many = |n: usize| format!("{n} {}", if n == 1 { one } else { more });
    let (Some(most), Some(least)) = (
        (0..counts.len()).max_by_key(|&i| counts[i]),
        (0..counts.len()).min_by_key(|&i| (counts[i], i)),
    ) else {
        return all;
    };
    if counts[most] > BALANCE * counts[least].max(1) {
        let told = format!(
            "{} has {} to train on, {} has {}",
            class(most),
            many(counts[most]),
            class(least),
            counts[least]
        );
        all.push(Finding::new(Kind::Imbalance, vec![], told));
    }
    for (i, n) in counts.iter().enumerate().filter(|c| *c.1 < TINY) {
        let told = format!("{} has {} to train on", class(i), many(*n));
        all.push(Finding::new(Kind::TinyClass, vec![], told));
    }
    for split in &splits[1..] {
        for (i, _) in split.per_class.iter().enumerate().filter(|c| *c.1 == 0) {
            let told = format!("{} has no {one} in {}", class(i), split.name);
            all.push(Finding::new(Kind::MissingClass, vec![], told));
        }
    }
    let plain = |s: &str| {
        let s: String = s.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
        s.strip_suffix('s').map_or(s.clone(), String::from)
    };
    for i in 0..names.len() {
        let same =
            |&j: &usize| !plain(&names[i]).is_empty() && plain(&names[j]) == plain(&names[i]);
        if let Some(j) = (i + 1..names.len()).find(same) {
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

/// Pictures that are the same, or nearly; the same marked in several ways are a `conflict`.
pub(super) fn twins(samples: &[Sample], seen: &[Seen], conflict: Kind) -> Vec<Finding> {
    // A blank picture says nothing, even twice.
    let digests: Vec<_> = seen.iter().map(|s| s.digest.filter(|_| !s.blank)).collect();
    let groups = twins::equal(&digests);
    let mut all = Vec::new();
    for group in &groups {
        let splits: BTreeSet<usize> = group.iter().map(|&i| samples[i].split).collect();
        let labels: BTreeSet<u64> = group.iter().filter_map(|&i| samples[i].label).collect();
        let (files, told) = told(samples, group);
        let kind = match (labels.len(), splits.len()) {
            (0 | 1, 1) => Kind::Duplicate,
            (0 | 1, _) => Kind::Leak,
            _ => conflict,
        };
        all.push(Finding::new(kind, files, told));
    }
    let near = |i: usize, j: usize, how: &str| {
        let (files, told) = told(samples, &[i, j]);
        let apart = samples[i].split != samples[j].split;
        let kind = if apart { Kind::NearLeak } else { Kind::NearDuplicate };
        Finding::new(kind, files, format!("{told}{how}"))
    };
    let unequal = |p: &(usize, usize)| seen[p.0].digest != seen[p.1].digest;
    let traces: Vec<_> = seen.iter().map(|s| s.trace.clone()).collect();
    all.extend(twins::near(&traces).into_iter().filter(unequal).map(|(i, j)| near(i, j, "")));
    let sketches: Vec<_> = seen.iter().map(|s| s.sketch.filter(|_| !s.blank)).collect();
    for (i, j) in twins::near_small(&sketches).into_iter().filter(unequal) {
        let (Some(a), Some(b)) = (pixels(&samples[i]), pixels(&samples[j])) else { continue };
        let off = twins::difference(&a, &b);
        if off <= twins::allowed(&sketches[i], &sketches[j]) {
            all.push(near(i, j, &format!("; {off:.1} of 255 apart on average")));
        }
    }
    all
}

fn pixels(sample: &Sample) -> Option<Vec<u8>> {
    match sample.pixels {
        Some((.., pixels)) => Some(pixels.to_vec()),
        None => read_picture(&sample.path, 3).ok().map(|p| p.data),
    }
}

fn told(samples: &[Sample], group: &[usize]) -> (Vec<PathBuf>, String) {
    let files = group.iter().map(|&i| samples[i].path.clone()).collect();
    let mut places: Vec<&str> = group.iter().map(|&i| samples[i].place.as_str()).collect();
    places.dedup();
    (files, format!("in {}", places.join(", ")))
}
