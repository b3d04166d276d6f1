//! A run that is interrupted in the middle of an epoch and resumed ends with the same bits as one
//! that was not; so does a run with another number of threads.

use convoke_data::{Augment, Dataset, Preprocess, Source, Split};
use convoke_engine::{Builder, Network, Optimizer, Shape, layers::Conv};
use convoke_formats::ModelFile;
use convoke_train::{
    BatchInfo, EpochRow, FineTune, Outcome, Progress, RunFolder, TrainOptions, Trainer,
};
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

fn plain() -> Preprocess {
    Preprocess::plain(8, 8, 1)
}

fn options(threads: usize) -> TrainOptions {
    let augment = Augment { flip: true, shift: 1, erase: 0.3, ..Augment::default() };
    TrainOptions { augment, lr: 0.05, ..TrainOptions::suited(3, 8, &plain(), threads) }
}

fn adamw(threads: usize) -> TrainOptions {
    let (beta1, beta2, epsilon, weight_decay) = (0.9, 0.999, 1e-8, 0.05);
    let optimizer = Optimizer::AdamW { beta1, beta2, epsilon, weight_decay };
    TrainOptions { optimizer, lr: 0.01, warmup: 0.5, ..options(threads) }
}

/// Only the last layer in the first epoch, then all, the first slower.
fn tuned(threads: usize) -> TrainOptions {
    let fine_tune = FineTune { head_epochs: 1, early_rate: 0.5, ..FineTune::default() };
    TrainOptions { fine_tune, ..adamw(threads) }
}

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

/// Runs to the end, or to a batch and then on in a new trainer.
fn run(folder: &Path, options: TrainOptions, stop_at: Option<usize>) -> (Outcome, ModelFile) {
    let (set, stop) = (dataset(), never());
    let out = RunFolder::next(folder, "run").unwrap();
    let new = || Trainer::new(network(), &set, plain(), options.clone(), out.clone()).unwrap();
    let mut outcome = new().run(&mut Stop(stop_at.unwrap_or(usize::MAX), &stop), &stop).unwrap();
    if stop_at.is_some() {
        assert_eq!(outcome, Outcome::Interrupted);
        let mut t = new();
        t.resume(&ModelFile::load(&out.checkpoint()).unwrap()).unwrap();
        outcome = t.run(&mut Stop(usize::MAX, &stop), &never()).unwrap();
    }
    (outcome, ModelFile::load(&out.last()).unwrap())
}

#[test]
fn threads_and_interruptions_change_no_bit() {
    for options in [options, adamw, tuned] {
        let folder = tempfile::tempdir().unwrap();
        let (outcome, straight) = run(folder.path(), options(1), None);
        let Outcome::Done { last: Some(last), .. } = &outcome else { panic!("done") };
        assert!(last.top1 > 0.9, "it learns: {}", last.top1);
        assert_eq!(run(folder.path(), options(2), None), (outcome.clone(), straight.clone()));
        // In the middle of an epoch, before the first epoch is done, while judging, at the end.
        for stop_at in [14, 3, 20, 30] {
            assert_eq!(
                run(folder.path(), options(1 + stop_at % 2), Some(stop_at)),
                (outcome.clone(), straight.clone()),
                "stopped after batch {stop_at}"
            );
        }
        let rows = |n: &str| std::fs::read_to_string(folder.path().join(n).join("results.csv"));
        let learnt = |text: String| -> Vec<String> {
            text.lines().map(|l| l.split(',').take(7).collect::<Vec<_>>().join(",")).collect()
        };
        assert_eq!(learnt(rows("run").unwrap()), learnt(rows("run-3").unwrap()));
    }
}

/// Keeps the checkpoint as it is found at a batch, as a killed process would leave it.
struct Snatch<'a>(usize, &'a RunFolder, &'a Path);

impl Progress for Snatch<'_> {
    fn batch(&mut self, info: &BatchInfo) {
        if info.epoch * info.batches + info.batch == self.0 {
            std::fs::copy(self.1.checkpoint(), self.2).unwrap();
        }
    }
    fn epoch(&mut self, _: &EpochRow) {}
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (set, copy) = (dataset(), folder.path().join("copy.safetensors"));
    let out = RunFolder::next(folder.path(), "run").unwrap();
    let often = TrainOptions { checkpoint_seconds: 0, ..options(1) };
    let mut t = Trainer::new(network(), &set, plain(), often, out.clone()).unwrap();
    t.run(&mut Snatch(17, &out, &copy), &never()).unwrap();
    let straight = ModelFile::load(&out.last()).unwrap();
    let again = RunFolder::next(folder.path(), "run").unwrap();
    let mut t = Trainer::new(network(), &set, plain(), options(2), again.clone()).unwrap();
    let left = ModelFile::load(&copy).unwrap();
    assert_eq!((left.facts["epoch"].as_str(), left.facts["batch"].as_str()), ("1", "7"));
    t.resume(&left).unwrap();
    t.run(&mut Stop(usize::MAX, &never()), &never()).unwrap();
    assert_eq!(ModelFile::load(&again.last()).unwrap(), straight);
}

#[test]
fn a_complete_run_is_judged_again_and_not_trained() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, model) = run(folder.path(), options(1), None);
    let out = RunFolder::create(&folder.path().join("run")).unwrap();
    let set = dataset();
    let mut t = Trainer::new(network(), &set, plain(), options(2), out.clone()).unwrap();
    t.resume(&ModelFile::load(&out.checkpoint()).unwrap()).unwrap();
    assert_eq!(t.run(&mut Stop(1, &never()), &never()).unwrap(), outcome);
    assert_eq!(ModelFile::load(&out.last()).unwrap(), model);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), options(1), None);
    let out = RunFolder::create(&folder.path().join("run")).unwrap();
    let good = ModelFile::load(&out.checkpoint()).unwrap();
    let refused = |set: &Dataset, o: TrainOptions, checkpoint: &ModelFile, word: &str| {
        let mut t = Trainer::new(network(), set, plain(), o, out.clone()).unwrap();
        let e = t.resume(checkpoint).unwrap_err().to_string();
        assert!(e.contains(word) && !e.contains('\n'), "{e}");
    };
    let set = dataset();
    refused(&set, TrainOptions { seed: 1, ..options(1) }, &good, "seed = 0");
    refused(&set, TrainOptions { lr: 0.04, ..options(1) }, &good, "lr = 0.05");
    let mut fewer = dataset();
    fewer.train.labels.swap(0, 1);
    refused(&fewer, options(1), &good, "data has changed");
    let fact = |name: &str, value: &str| {
        let mut m = good.clone();
        m.facts.insert(name.into(), value.into());
        m
    };
    for (name, value) in
        [("batch", "11"), ("epoch", "18446744073709551615"), ("steps", "7"), ("steps", "-1")]
    {
        refused(&set, options(1), &fact(name, value), "train anew");
    }
    refused(&set, options(1), &ModelFile::load(&out.last()).unwrap(), "no `options`");
    let mut none = good.clone();
    none.extra.clear();
    refused(&set, options(1), &none, "optimizer numbers");
    let other = ModelFile { classes: vec!["x".into(), "y".into()], ..good.clone() };
    refused(&set, options(1), &other, "classes");
}

#[test]
fn a_network_that_does_not_fit_the_data_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let set = dataset();
    let refused = |net: Network, pre: Preprocess, o: TrainOptions, word: &str| {
        let out = RunFolder::next(folder.path(), "run").unwrap();
        let e = Trainer::new(net, &set, pre, o, out).err().unwrap().to_string();
        assert!(e.contains(word) && !e.contains('\n'), "{e}");
    };
    let mut b = Builder::new("three", Shape::new(8, 8, 1));
    b.flatten().dense(3);
    refused(b.build().unwrap(), plain(), options(1), "2 classes");
    let mut b = Builder::new("maps", Shape::new(8, 8, 1));
    b.conv(Conv::new(2, 3));
    refused(b.build().unwrap(), plain(), options(1), "dense layer of 2");
    refused(network(), Preprocess::plain(9, 8, 1), options(1), "preprocessing makes");
    refused(network(), plain(), TrainOptions { batch: 81, ..options(1) }, "80");
    refused(network(), plain(), TrainOptions { batch: 0, ..options(1) }, "batch 0");
    refused(network(), plain(), TrainOptions { lr: f32::NAN, ..options(1) }, "learning rate");
}

#[test]
fn a_loss_that_is_no_number_stops_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let set = dataset();
    let out = RunFolder::next(folder.path(), "run").unwrap();
    let options = TrainOptions { lr: 1e30, ..options(1) };
    let mut t = Trainer::new(network(), &set, plain(), options, out.clone()).unwrap();
    let e = t.run(&mut Stop(usize::MAX, &never()), &never()).unwrap_err().to_string();
    assert!(e.contains("--lr") && !e.contains('\n') && !e.contains("last good"), "{e}");
    assert!(!out.last().exists());
}

#[test]
fn learning_rates_to_begin_with() {
    let suited = TrainOptions::suited(1, 128, &plain(), 1);
    assert_eq!(TrainOptions::rate(&network(), suited.optimizer, 128), suited.lr);
    let mut b = Builder::new("bare", Shape::new(8, 8, 1));
    let bare = b.flatten().dense(2).build().unwrap();
    assert!((TrainOptions::rate(&bare, suited.optimizer, 32) - 0.01).abs() < 1e-7);
    assert_eq!(TrainOptions::rate(&bare, adamw(1).optimizer, 32), 1e-3);
}

#[test]
fn what_is_frozen_stays_and_norms_keep_their_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let set = dataset();
    let trained = |fine_tune: FineTune, epochs: usize| {
        let out = RunFolder::next(folder.path(), "run").unwrap();
        let o = TrainOptions { fine_tune, epochs, ..options(1) };
        let mut t = Trainer::new(network(), &set, plain(), o, out.clone()).unwrap();
        let before = t.params().to_vec();
        t.run(&mut Stop(usize::MAX, &never()), &never()).unwrap();
        (before, ModelFile::load(&out.last()).unwrap())
    };
    // Of each tensor, whether it learnt: conv1 (2), its norm (2), the dense layer (2).
    let moved = |(before, model): &(Vec<f32>, ModelFile)| -> Vec<bool> {
        let params = model.network.params();
        params.iter().map(|p| before[p.range.clone()] != model.params[p.range.clone()]).collect()
    };
    let kept = |m: &ModelFile| m.state.iter().all(|&s| s == 0.0 || s == 1.0);
    let all = FineTune::default();
    let plain = trained(all, 1);
    assert!(moved(&plain).iter().all(|&m| m) && !kept(&plain.1));
    let frozen = trained(FineTune { freeze: 1, ..all }, 1);
    assert_eq!(moved(&frozen), [false, false, false, false, true, true]);
    assert!(kept(&frozen.1));
    let head = FineTune { head_epochs: 1, ..all };
    assert_eq!(moved(&trained(head, 1)), moved(&frozen));
    assert!(moved(&trained(head, 2)).iter().all(|&m| m));
    let norms = trained(FineTune { freeze_norms: true, ..all }, 1);
    assert!(moved(&norms).iter().all(|&m| m) && kept(&norms.1));
    let out = RunFolder::next(folder.path(), "run").unwrap();
    let o = TrainOptions { fine_tune: FineTune { freeze: 2, ..all }, ..options(1) };
    let e = Trainer::new(network(), &set, self::plain(), o, out).err().unwrap().to_string();
    assert!(e.contains("2 layers"), "{e}");
}

#[test]
fn a_rate_is_found_and_the_weights_are_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let set = dataset();
    let found = |threads: usize, fine_tune: FineTune| {
        let out = RunFolder::next(folder.path(), "run").unwrap();
        let o = TrainOptions { fine_tune, ..options(threads) };
        let mut t = Trainer::new(network(), &set, plain(), o.clone(), out.clone()).unwrap();
        let before = t.params().to_vec();
        let curve = t.find_rate(&never()).unwrap();
        assert_eq!(t.params(), before);
        assert!(out.path().join("lr.png").is_file() && out.path().join("lr.csv").is_file());
        t.run(&mut Stop(usize::MAX, &never()), &never()).unwrap();
        // The same as a run that was told the rate.
        let again = RunFolder::next(folder.path(), "run").unwrap();
        let o = TrainOptions { lr: curve.lr, ..o };
        let mut t = Trainer::new(network(), &set, plain(), o, again.clone()).unwrap();
        t.run(&mut Stop(usize::MAX, &never()), &never()).unwrap();
        let models = [out.last(), again.last()].map(|p| ModelFile::load(&p).unwrap());
        assert_eq!(models[0], models[1]);
        curve
    };
    let curve = found(1, FineTune::default());
    assert!((1e-4..1.0).contains(&curve.lr), "{}", curve.lr);
    assert_eq!(found(2, FineTune::default()), curve);
    found(1, FineTune { head_epochs: 1, ..FineTune::default() });
}
