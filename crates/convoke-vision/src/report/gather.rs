//! From a run folder and its data to a [`RunReport`].

use super::{Batch, FILTERS, Filters, Judged, MEMORY, Memory, NetworkFacts, RunReport, Sample};
use crate::canvas::{enlarge, fit};
use crate::diagram::diagram;
use crate::error::Result;
use convoke_data::check::{CheckOptions, check_dataset};
use convoke_data::{
    Dataset, Loader, LoaderOptions, Picture, Source, Split, encode_jpeg, encode_png, read_picture,
    read_text,
};
use convoke_formats::ModelFile;
use convoke_train::{
    Answer, Calibration, Evaluation, Predictor, RunFolder, TrainOptions, class_figures, softmax,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Samples at a time.
const BATCH: usize = 32;
/// Largest losses that are shown.
const LOSSES: usize = 36;
/// Pictures of a confusion cell that are shown.
const CELL: usize = 12;
/// Small pictures in a report at most.
const THUMBS: usize = 900;
/// Epochs whose filters are shown at most.
const EPOCHS: usize = 10;
/// Samples of a batch that are shown.
const SHOWN: usize = 16;

/// Gathers the report of a run from its folder, its data and its options.
///
/// # Errors
/// When the best weights cannot be read or do not fit the data.
pub fn gather(
    folder: &RunFolder,
    dataset: &Dataset,
    options: &TrainOptions,
    threads: usize,
) -> Result<RunReport> {
    let model = ModelFile::load(&folder.best())?;
    let path = folder.path();
    let name =
        path.file_name().map_or(path.display().to_string(), |n| n.to_string_lossy().into_owned());
    let net = &model.network;
    let network = NetworkFacts {
        name: net.name().into(),
        input: net.input_shape().to_string(),
        parameters: net.parameters(),
        macs: net.macs(),
        layers: net.rows(),
        diagram: diagram(net),
    };
    let split = if dataset.val.is_some() { "validation" } else { "test" };
    let judged = match dataset.eval() {
        Some(s) => Some(judge(&model, s, split, threads)?),
        None => None,
    };
    let memory = read_text(&path.join(MEMORY)).unwrap_or_default();
    Ok(RunReport {
        name,
        network,
        settings: settings(&read_text(&path.join("args.toml")).unwrap_or_default()),
        data: check_dataset(None, dataset, CheckOptions { quick: true, threads }),
        rows: folder.read_rows()?,
        judged,
        batches: batches(&model, dataset, options, threads)?,
        filters: filters(&path.join(FILTERS)),
        memory: serde_json::from_str(&memory).unwrap_or(Memory::default()),
    })
}

/// Keys and values of a TOML text, sections joined by dots.
fn settings(text: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut all = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ") {
            all.push((format!("{section}{key}"), value.trim_matches('"').to_string()));
        }
    }
    all
}

fn judge(model: &ModelFile, split: &Split, name: &'static str, threads: usize) -> Result<Judged> {
    let classes = model.classes.clone();
    let mut predictor = Predictor::new(model.clone(), BATCH.min(split.len()).max(1), threads)?;
    let (answers, _) = predictor.answers(split, threads)?;
    let evaluation = Evaluation::of(&answers, classes.len());
    let mut samples: Vec<Sample> = answers.iter().map(|a| sample(split, a)).collect();
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by(|&a, &b| samples[b].loss.total_cmp(&samples[a].loss).then(a.cmp(&b)));
    let top_losses: Vec<usize> = order.iter().copied().take(LOSSES).collect();
    let mut cells: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    let sure = |i: &usize| samples[*i].guesses.first().map_or(0.0, |g| g.1);
    let mut surest: Vec<usize> = (0..samples.len()).collect();
    surest.sort_by(|a, b| sure(b).total_cmp(&sure(a)).then(a.cmp(b)));
    for i in surest {
        let predicted = samples[i].guesses.first().map_or(0, |g| g.0);
        let cell = cells.entry((samples[i].actual, predicted)).or_default();
        if cell.len() < CELL {
            cell.push(i);
        }
    }
    // What was mistaken first, then what was right.
    let wrong = cells.iter().filter(|((a, p), _)| a != p).flat_map(|c| c.1);
    let right = cells.iter().filter(|((a, p), _)| a == p).flat_map(|c| c.1);
    let wanted: Vec<usize> = top_losses.iter().chain(wrong).chain(right).copied().collect();
    let mut done = BTreeSet::new();
    for i in wanted {
        if done.len() < THUMBS && done.insert(i) {
            samples[i].thumb = thumb(split, answers[i].index);
        }
    }
    Ok(Judged {
        split: name,
        per_class: class_figures(&evaluation.confusion),
        plain: Calibration::of(&answers, 1.0),
        fitted: Calibration::fitted(&answers),
        cells: cells.into_iter().map(|((a, p), all)| (a, p, all)).collect(),
        classes,
        evaluation,
        samples,
        top_losses,
    })
}

fn sample(split: &Split, a: &Answer) -> Sample {
    let p = softmax(&a.logits, 1.0);
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&i, &j| p[j].total_cmp(&p[i]).then(i.cmp(&j)));
    let name = match &split.source {
        Source::Files(files) => files[a.index].display().to_string(),
        _ => format!("sample {}", a.index),
    };
    Sample {
        name,
        actual: a.label,
        guesses: order.iter().take(5).map(|&i| (i, p[i])).collect(),
        probability: p[a.label],
        loss: -p[a.label].max(f64::MIN_POSITIVE).ln(),
        thumb: None,
    }
}

fn thumb(split: &Split, index: usize) -> Option<Vec<u8>> {
    let p = split.read(index, 3).ok()?;
    encode_jpeg(&fit(&p, 84).ok()?, 82).ok()
}

/// The first training batch of the run, and the first to judge by, as the network saw them.
fn batches(
    model: &ModelFile,
    set: &Dataset,
    o: &TrainOptions,
    threads: usize,
) -> Result<Vec<Batch>> {
    let pre = &model.preprocess;
    let mut all = Vec::new();
    let train = LoaderOptions {
        batch: o.batch.min(set.train.len()).max(1),
        seed: o.seed,
        workers: threads,
        training: true,
        cache: 0,
        balanced: o.balanced,
    };
    let judge = LoaderOptions { batch: SHOWN, training: false, balanced: false, ..train.clone() };
    let parts = [
        ("Training, epoch 1, first batch (augmented)", Some(&set.train), Some(&o.augment), train),
        ("Judging, first batch", set.eval(), None, judge),
    ];
    for (title, split, augment, options) in parts {
        let Some(split) = split else { continue };
        let mut loader = Loader::new(split, pre, augment, options)?;
        loader.start(0, 0);
        let Some(batch) = loader.next_batch() else { continue };
        let times = (96 / pre.width.max(pre.height)).max(1);
        let mut pictures = Vec::new();
        for x in batch.pixels.chunks_exact(pre.sample_len()).take(batch.len().min(SHOWN)) {
            pictures.push(encode_png(&enlarge(&pre.seen(x), times))?);
        }
        let class = |l: &u32| set.classes.get(*l as usize).cloned().unwrap_or_default();
        let classes = batch.labels.iter().take(SHOWN).map(class).collect();
        all.push(Batch { title: title.into(), classes, pictures });
    }
    Ok(all)
}

/// Sheets of the first filters, from the first to the last epoch, at most ten.
fn filters(folder: &Path) -> Vec<Filters> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let number = |p: &Path| p.file_stem()?.to_str()?.strip_prefix("epoch-")?.parse::<usize>().ok();
    let mut files: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.retain(|p| number(p).is_some());
    files.sort();
    let n = files.len().min(EPOCHS);
    let pick = |i: usize| if n < 2 { 0 } else { i * (files.len() - 1) / (n - 1) };
    let small = |p: Picture| encode_png(&fit(&p, 360)?).map_err(crate::VisionError::from);
    (0..n)
        .map(|i| &files[pick(i)])
        .filter_map(|p| {
            Some(Filters { epoch: number(p)?, picture: small(read_picture(p, 3).ok()?).ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_with_their_sections() {
        let all = settings("data = \"a b\"\n[train]\nlr = 0.1\n[train.augment]\nflip = true\n");
        let want = [("data", "a b"), ("train.lr", "0.1"), ("train.augment.flip", "true")];
        assert_eq!(all, want.map(|(k, v)| (k.to_string(), v.to_string())));
    }
}
