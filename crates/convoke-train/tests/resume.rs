//! A run that is interrupted in the middle of an epoch and resumed ends with the same bits as one
//! that was not; so does a run with another number of threads.

use convoke_data::{Augment, Dataset, Preprocess, Source, Split};
use convoke_engine::{Builder, Network, Shape, layers::Conv};
use convoke_formats::ModelFile;
use convoke_train::{BatchInfo, EpochRow, Outcome, Progress, RunFolder, TrainOptions, Trainer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn dataset() -> Dataset {
    let split = |n: usize, seed: usize| {
        // Class 0 is bright at the top, class 1 at the bottom, with noise.
        let pixels = (0..n * 64)
            .map(|i| {
                let (sample, row) = (i / 64, i / 8 % 8);
                let bright = (row < 4) == (sample % 2 == 0);
                (if bright { 170 } else { 60 }) + ((i * 7919 + seed) * 31 % 50) as u8
            })
            .collect();
        let source = Source::Memory { pixels: Arc::new(pixels), width: 8, height: 8, channels: 1 };
        Split { source, labels: (0..n as u32).map(|i| i % 2).collect() }
    };
    Dataset {
        kind: "made",
        classes: vec!["top".into(), "bottom".into()],
        train: split(80, 1),
        val: Some(split(20, 2)),
        test: None,
        channels: 1,
        size: Some((8, 8)),
        ignored: 0,
    }
}

fn network() -> Network {
    let mut b = Builder::new("tiny", Shape::new(8, 8, 1));
    b.conv(Conv::new(6, 3)).batch_norm().relu().max_pool(2, 2).flatten().dropout(0.3).dense(2);
    b.build().unwrap()
}

/// Stops after so many batches, counted over the whole run.
struct Stop<'a>(usize, &'a AtomicBool);

impl Progress for Stop<'_> {
    fn batch(&mut self, info: &BatchInfo) {
        if info.epoch * info.batches + info.batch == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn epoch(&mut self, _: &EpochRow) {}
}

fn options(threads: usize) -> TrainOptions {
    let augment = Augment { flip: true, shift: 1, erase: 0.3, ..Augment::default() };
    let suited = TrainOptions::suited(3, 8, &Preprocess::plain(8, 8, 1), threads);
    TrainOptions { augment, lr: 0.05, ..suited }
}

fn run(folder: &Path, threads: usize, stop_at: Option<usize>) -> (Outcome, Option<ModelFile>) {
    let set = dataset();
    let (pre, stop) = (Preprocess::plain(8, 8, 1), AtomicBool::new(false));
    let out = RunFolder::next(folder, "run").unwrap();
    let mut t = Trainer::new(network(), &set, pre.clone(), options(threads), out.clone()).unwrap();
    let first = t.run(&mut Stop(stop_at.unwrap_or(usize::MAX), &stop), &stop).unwrap();
    if stop_at.is_none() {
        return (first, Some(ModelFile::load(&out.last()).unwrap()));
    }
    assert_eq!(first, Outcome::Interrupted);
    stop.store(false, Ordering::Relaxed);
    let mut t = Trainer::new(network(), &set, pre, options(threads), out.clone()).unwrap();
    t.resume(&ModelFile::load(&out.checkpoint()).unwrap()).unwrap();
    let second = t.run(&mut Stop(usize::MAX, &stop), &stop).unwrap();
    (second, Some(ModelFile::load(&out.last()).unwrap()))
}

#[test]
fn threads_and_interruptions_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, straight) = run(folder.path(), 1, None);
    let Outcome::Done { last: Some(last), .. } = outcome else { panic!("done") };
    assert!(last.top1 > 0.9, "it learns: {}", last.top1);
    assert_eq!(straight, run(folder.path(), 2, None).1);
    assert_eq!(straight, run(folder.path(), 2, Some(14)).1);
    assert_eq!(straight, run(folder.path(), 1, Some(20)).1);
    let rows = std::fs::read_to_string(folder.path().join("run-3/results.csv")).unwrap();
    assert_eq!(rows.lines().count(), 4);
}

#[test]
fn a_loss_that_is_no_number_stops_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (set, stop) = (dataset(), AtomicBool::new(false));
    let out = RunFolder::next(folder.path(), "run").unwrap();
    let options = TrainOptions { lr: 1e30, ..options(1) };
    let pre = Preprocess::plain(8, 8, 1);
    let mut t = Trainer::new(network(), &set, pre, options, out).unwrap();
    let e = t.run(&mut Stop(usize::MAX, &stop), &stop).unwrap_err().to_string();
    assert!(e.contains("--lr") && !e.contains('\n'), "{e}");
}
