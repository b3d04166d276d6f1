//! `convoke train`.

mod boxes;
mod members;
mod regress;

use crate::common::{self, Arithmetic, Threads, bytes, duration, thousands, units};
use crate::progress::{Bar, interrupt};
use crate::verbs::fine_tune::{self, Start, start};
use crate::verbs::import::told;
use crate::verbs::report::{self, Recorder};
use crate::verbs::series::Signal;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use convoke_data::check::{CheckOptions, Kind, Report, Severity, Verdict, check_dataset};
use convoke_data::{Augment, BoxSet, Dataset, OpenOptions, Preprocess, statistics};
use convoke_engine::{Optimizer, Plan, PlanOptions};
use convoke_formats::ModelFile;
use convoke_train::{Outcome, RunFolder, Schedule, TrainOptions, Trainer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Train a network on your pictures
#[derive(clap::Args)]
pub struct Args {
    /// Folder of class folders (flat, or in train and val), IDX files, CIFAR-10 batches, or pictures with
    /// boxes (YOLO, COCO, Pascal VOC, CVAT, Label Studio, CSV), which make a detector
    #[arg(required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// Zoo name, network file (.toml), or model file to go on from [default: resnet18, or what the
    /// --pretrained weights are for; for boxes a small network of its own; for signals inceptiontime]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Passes over the training samples [default: 10; for signals as many as make 1,500 steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: Option<u32>,
    /// Samples per step [default: 64 for small pictures, else 32; 16 for signals]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Largest learning rate, or `find` to try ever larger ones first: the curve goes into the run
    /// folder [default: by optimizer and batch]
    #[arg(long, value_name = "X|find", allow_negative_numbers = true, value_parser = lr)]
    lr: Option<Lr>,
    /// How the learning rate moves
    #[arg(long, value_enum, default_value = "one-cycle")]
    schedule: ScheduleArg,
    /// Epochs over which the learning rate first rises
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    warmup: f32,
    /// How weights follow gradients [default: sgd; for signals adam]
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerArg>,
    /// Settings of training as `tune` found them; what else is given here goes before
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["pretrained"])]
    settings: Option<PathBuf>,
    /// Train so many networks with seeds of their own and average their probabilities in one model [default: 5 for
    /// inceptiontime, else 1]. The runs are OUT/member-1 and so on
    #[arg(long, value_name = "N", conflicts_with = "folds", value_parser = clap::value_parser!(u32).range(1..=100))]
    members: Option<u32>,
    #[command(flatten)]
    signal: Signal,
    /// Momentum of sgd
    #[arg(long, default_value_t = 0.9, value_name = "X")]
    momentum: f32,
    /// Weight decay [default: 5e-4 for sgd, 0 for adam, 0.05 for adamw]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f32>,
    /// Share of the target that is spread over all classes
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    label_smoothing: f32,
    /// Side of the network's input in pixels [default: the network's own, or the data's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=4096))]
    size: Option<u32>,
    /// Leave the training samples as they are
    #[arg(long)]
    no_augment: bool,
    /// Share of each class that goes to validation, for folders without one
    #[arg(long, default_value_t = 0.2, value_name = "X")]
    val_fraction: f64,
    /// Seed of weights, order, augmentation and dropout
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    fine_tune: fine_tune::Args,
    #[command(flatten)]
    arithmetic: Arithmetic,
    #[command(flatten)]
    threads: Threads,
    /// Folder of the run [default: runs/classify/<model>-<data>, runs/find/<data>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// For unbalanced data: every class comes equally often (`draw`), or all pictures come as often as ever and
    /// those of rare classes weigh more in the loss (`weights`)
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "draw"
    )]
    balance: Option<Balance>,
    /// Train so many times, each time judging by another part of the pictures (k-fold cross-validation): for tiny
    /// sets. The runs are OUT/fold-1 and so on
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=100))]
    folds: Option<u32>,
    /// Leave out the quick look at the data before, and the report after
    #[arg(long)]
    bare: bool,
    /// Go on with an interrupted run; only --threads may be given beside
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
}

/// A run that goes on has settled everything but the threads.
pub fn settled(train: clap::Command) -> clap::Command {
    let ids = train.get_arguments().map(|a| a.get_id().clone());
    let others: Vec<_> = ids.filter(|id| id != "resume" && id != "threads").collect();
    train.mut_arg("resume", |a| a.conflicts_with_all(others))
}

#[derive(Clone, Copy)]
enum Lr {
    Find,
    Rate(f32),
}

fn lr(text: &str) -> Result<Lr, String> {
    match text {
        "find" => Ok(Lr::Find),
        _ => text.parse().map(Lr::Rate).map_err(|_| "write a number, or `find`".into()),
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleArg {
    Constant,
    Step,
    Cosine,
    OneCycle,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Balance {
    Draw,
    Weights,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum OptimizerArg {
    Sgd,
    Adam,
    Adamw,
}

/// What `args.toml` holds: enough to begin the run again.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    pub data: PathBuf,
    model: String,
    /// The file of weights that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pretrained: Option<PathBuf>,
    pub val_fraction: f64,
    /// Number of folds, and which of them (from 0) is judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fold: Option<(usize, usize)>,
    /// Whether checks and report are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bare: bool,
    pub train: TrainOptions,
    preprocess: Preprocess,
}

impl Saved {
    /// The data as this run splits them.
    pub fn dealt(&self, set: Dataset) -> Result<Dataset> {
        match self.fold {
            Some((k, fold)) => Ok(set.fold(k, fold, self.train.seed)?),
            None => Ok(set),
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    match &args.resume {
        Some(folder) => resume(folder, args.threads),
        None => fresh(&args),
    }
}

fn fresh(args: &Args) -> Result<()> {
    let data = args.data.clone().context("DATA is missing")?;
    if !(0.0..=0.9).contains(&args.val_fraction) {
        bail!("--val-fraction {} must be from 0 to 0.9", args.val_fraction);
    }
    if BoxSet::is_one(&data) {
        return boxes::fresh(args, &data);
    }
    if convoke_data::is_regression(&data) {
        return regress::fresh(args, &data);
    }
    let dataset = open(&data, args.seed, args.val_fraction)?;
    if !args.bare && !dataset.is_signals() {
        quick_check(&data, &dataset, args.threads.count());
    }
    let stop = interrupt();
    let Some(k) = args.folds.map(|k| k as usize) else {
        return match members::count(args, &dataset) {
            1 => one(args, &data, &dataset, Place::default(), &stop).map(drop),
            n => members::fresh(args, &data, &dataset, n, &stop),
        };
    };
    let base = args.out.clone().unwrap_or_else(|| PathBuf::from("runs/classify/folds"));
    let mut shares = Vec::new();
    for fold in 0..k {
        let part = dataset.fold(k, fold, args.seed)?;
        let out = base.join(format!("fold-{}", fold + 1));
        let place = Place { fold: Some((k, fold)), out: Some(out), seed: None };
        match one(args, &data, &part, place, &stop)? {
            Some(share) => shares.push(share),
            None => return Ok(()),
        }
    }
    let mean = shares.iter().sum::<f64>() / k as f64;
    let spread = shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (k - 1) as f64;
    println!(
        "{:.2} % right on average over {k} folds, deviation {:.2} %; {}",
        100.0 * mean,
        100.0 * spread.sqrt(),
        base.display()
    );
    Ok(())
}

/// A quick look at the data: what is wrong is told, and training goes on.
fn quick_check(data: &Path, dataset: &Dataset, threads: usize) {
    tell_problems(data, &check_dataset(Some(data), dataset, CheckOptions { quick: true, threads }));
}

/// What a check found, in one line a kind.
pub(crate) fn tell_problems(data: &Path, report: &Report) {
    for (kind, findings) in report.by_kind() {
        // The strangers are told with the data.
        if kind.severity() == Severity::Note || kind == Kind::Stranger {
            continue;
        }
        let mark = if kind.severity() == Severity::Error { "problem " } else { "note    " };
        let files = findings.first().map_or(String::new(), |f| match f.files.first() {
            Some(file) => format!("{}: {}", file.display(), f.told),
            None => f.told.clone(),
        });
        let more = if findings.len() > 1 {
            format!(" and {} more", findings.len() - 1)
        } else {
            String::new()
        };
        eprintln!("{mark} {}: {files}{more}; {}", kind.words(), kind.remedy());
    }
    if report.verdict() == Verdict::Unfit {
        eprintln!("         convoke data check {} tells all", data.display());
    }
}

/// What a run among several has of its own.
#[derive(Default)]
struct Place {
    /// How many folds, and which of them.
    fold: Option<(usize, usize)>,
    out: Option<PathBuf>,
    seed: Option<u64>,
}

/// How often the samples are passed over.
fn epochs(args: &Args, dataset: &Dataset) -> u32 {
    const STEPS: usize = 1500;
    let batch = args.batch.map_or(SIGNALS, |b| b as usize);
    let usual = match dataset.is_signals() {
        true => STEPS.div_ceil((dataset.train.len() / batch).max(1)) as u32,
        false => 10,
    };
    args.epochs.unwrap_or(usual)
}

/// Signals per step.
const SIGNALS: usize = 16;

/// One run; the share right in the end, `None` when it was interrupted.
fn one(
    args: &Args,
    data: &Path,
    dataset: &Dataset,
    place: Place,
    stop: &AtomicBool,
) -> Result<Option<f64>> {
    let data = data.to_path_buf();
    let epochs = epochs(args, dataset);
    let start = start(&args.fine_tune, args.model.as_deref(), args.size, epochs, dataset)?;
    let shape = start.network.input_shape();
    let pre = match &start.preprocess {
        Some(pre) => pre.clone(),
        None if dataset.is_signals() => args.signal.preprocess(dataset, shape)?,
        None => {
            let (mean, std) = statistics(&dataset.train, shape.c);
            Preprocess { mean, std, ..Preprocess::plain(shape.h, shape.w, shape.c) }
        }
    };
    let options = options(args, &start, &pre, dataset)?;
    let options = TrainOptions { seed: place.seed.unwrap_or(args.seed), ..options };
    let model = args.model.clone().unwrap_or_else(|| start.network.name().to_string());
    let out = place.out.as_ref().or(args.out.as_ref());
    let folder = match out {
        Some(out) => RunFolder::create(out)?,
        None => {
            let name = |p: &Path| {
                p.file_stem().map_or("data".into(), |s| s.to_string_lossy().into_owned())
            };
            let data_name = name(&data.canonicalize().unwrap_or(data.clone()));
            let run = format!("{}-{data_name}", name(Path::new(&model)));
            RunFolder::next(Path::new("runs/classify"), &run)?
        }
    };
    let data = data.canonicalize().unwrap_or(data);
    let network = start.network.clone();
    let mut trainer = Trainer::new(network, dataset, pre.clone(), options.clone(), folder.clone())?;
    start.fill(&mut trainer)?;
    if let Some(told) = start.told() {
        eprintln!("begins   {told}");
    }
    if start.preprocess.is_some() {
        eprintln!("pictures {}", told(&pre));
    }
    let mut saved = Saved {
        data,
        model,
        pretrained: start.from.clone(),
        val_fraction: args.val_fraction,
        fold: place.fold,
        bare: args.bare,
        train: options,
        preprocess: pre,
    };
    if let Some(Lr::Find) = args.lr {
        let curve = trainer.find_rate(stop)?;
        saved.train.lr = curve.lr;
        eprintln!("rate     {:.2e}, see {}", curve.lr, folder.path().join("lr.png").display());
    }
    // With args.toml the folder holds a run, and a run can be resumed.
    trainer.checkpoint()?;
    folder.write("split.csv", &dataset.split_csv())?;
    folder.write_settings(&saved)?;
    go(trainer, dataset, &folder, &saved, stop)
}

fn resume(path: &Path, threads: Threads) -> Result<()> {
    let folder = RunFolder::resume(path)?;
    let text = folder.settings()?;
    if let Some(done) = boxes::resume(&folder, &text, threads) {
        return done;
    }
    let mut saved: Saved = toml::from_str(&text)
        .map_err(|e| anyhow::anyhow!("{}/args.toml: {}", path.display(), e.message()))?;
    saved.train.threads = threads.count();
    let checkpoint = ModelFile::load(&folder.checkpoint())?;
    let dataset = saved.dealt(open(&saved.data, saved.train.seed, saved.val_fraction)?)?;
    if dataset.classes != checkpoint.classes {
        bail!(
            "{} now has other classes than the run; restore the data or train anew",
            saved.data.display()
        );
    }
    let network = checkpoint.network.clone();
    let mut trainer = Trainer::new(
        network,
        &dataset,
        saved.preprocess.clone(),
        saved.train.clone(),
        folder.clone(),
    )?;
    trainer.resume(&checkpoint)?;
    go(trainer, &dataset, &folder, &saved, &interrupt()).map(drop)
}

fn open(data: &Path, seed: u64, val_fraction: f64) -> Result<Dataset> {
    let dataset = Dataset::open(data, &OpenOptions { seed, val_fraction })?;
    let count = |s: Option<&convoke_data::Split>| s.map_or(0, |s| s.len());
    eprintln!(
        "data     {}: {} classes, {} to train, {} to validate, {} to test",
        dataset.kind,
        dataset.classes.len(),
        thousands(dataset.train.len() as u64),
        thousands(count(dataset.val.as_ref()) as u64),
        thousands(count(dataset.test.as_ref()) as u64)
    );
    if dataset.val.is_none() && dataset.test.is_some() && dataset.is_signals() {
        eprintln!(
            "note     no validation part: the last epoch is kept, so nothing is chosen by the test signals"
        );
    } else if dataset.val.is_none() && dataset.test.is_some() {
        eprintln!(
            "note     no validation part: the best epoch is chosen on the test pictures, so its figure \
             there flatters"
        );
    }
    for (path, kind, others) in dataset.strangers() {
        eprintln!(
            "note     {} is a {kind} among {others}; delete it if it does not belong",
            path.display()
        );
    }
    Ok(dataset)
}

fn options(
    args: &Args,
    start: &Start,
    pre: &Preprocess,
    dataset: &Dataset,
) -> Result<TrainOptions> {
    let (samples, signals) = (dataset.train.len(), dataset.is_signals());
    let epochs = epochs(args, dataset) as usize;
    if let Some(path) = &args.settings {
        return settings(args, path, epochs);
    }
    let small = pre.height.max(pre.width) <= 64;
    let usual = if signals {
        SIGNALS
    } else if small {
        64
    } else {
        32
    };
    let batch = args.batch.map_or(usual, |b| b as usize);
    let batch = if args.batch.is_none() { batch.min(samples) } else { batch };
    let decay = |default: f32| args.weight_decay.unwrap_or(default);
    let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
    let suited = TrainOptions::suited(epochs, batch, pre, args.threads.count());
    let usual = match suited.optimizer {
        Optimizer::Sgd { .. } => OptimizerArg::Sgd,
        Optimizer::Adam { .. } => OptimizerArg::Adam,
        Optimizer::AdamW { .. } => OptimizerArg::Adamw,
    };
    let optimizer = match args.optimizer.unwrap_or(usual) {
        OptimizerArg::Sgd => Optimizer::Sgd {
            momentum: args.momentum,
            nesterov: args.momentum > 0.0,
            weight_decay: decay(5e-4),
        },
        OptimizerArg::Adam => Optimizer::Adam { beta1, beta2, epsilon, weight_decay: decay(0.0) },
        OptimizerArg::Adamw => {
            Optimizer::AdamW { beta1, beta2, epsilon, weight_decay: decay(0.05) }
        }
    };
    // What has learnt already needs smaller steps, or it forgets.
    let share = if start.tunes() { start.share() } else { 1.0 };
    let lr = share * TrainOptions::rate(&start.network, optimizer, batch);
    if !(0.0..1.0).contains(&args.label_smoothing) {
        bail!("--label-smoothing {} must be at least 0 and below 1", args.label_smoothing);
    }
    Ok(TrainOptions {
        lr: if let Some(Lr::Rate(lr)) = args.lr { lr } else { lr },
        warmup: args.warmup,
        label_smoothing: args.label_smoothing,
        seed: args.seed,
        schedule: match args.schedule {
            ScheduleArg::Constant => Schedule::Constant,
            ScheduleArg::Step => Schedule::Step { every: (epochs / 3).max(1), factor: 0.1 },
            ScheduleArg::Cosine => Schedule::Cosine,
            ScheduleArg::OneCycle => Schedule::OneCycle,
        },
        optimizer,
        augment: if args.no_augment { Augment::default() } else { suited.augment.clone() },
        fine_tune: start.fine_tune,
        balanced: args.balance == Some(Balance::Draw),
        class_weights: args.balance == Some(Balance::Weights),
        // Epochs of small sets are short; looking after each would take longer than learning.
        judge_every: if signals { (epochs / 20).max(1) } else { 1 },
        precision: args.arithmetic.precision(),
        ..suited
    })
}

/// Settings of a file, but for what is given beside.
fn settings(args: &Args, path: &Path, epochs: usize) -> Result<TrainOptions> {
    let text = common::read_text(path)?;
    let mut o: TrainOptions = toml::from_str(&text)
        .map_err(|e| anyhow::anyhow!("{}: {}", path.display(), e.message()))?;
    if args.epochs.is_some() {
        o.epochs = epochs;
    }
    o.batch = args.batch.map_or(o.batch, |b| b as usize);
    if let Some(Lr::Rate(lr)) = args.lr {
        o.lr = lr;
    }
    (o.seed, o.threads) = (args.seed, args.threads.count());
    o.precision = args.arithmetic.precision();
    Ok(o)
}

fn go(
    mut trainer: Trainer,
    dataset: &Dataset,
    folder: &RunFolder,
    saved: &Saved,
    stop: &AtomicBool,
) -> Result<Option<f64>> {
    let plan = trainer.plan()?;
    let net = plan.network();
    eprintln!(
        "network  {} on {}: {} parameters, {} MACs a picture, {} for training at batch {}",
        net.name(),
        net.input_shape(),
        thousands(net.parameters() as u64),
        units(net.macs() as f64),
        bytes(plan.memory().total),
        saved.train.batch
    );
    eprintln!("run      {}", folder.path().display());
    let start = Instant::now();
    let mut bar = Bar::every(saved.train.judge_every);
    let mut recorder = Recorder { inner: &mut bar, folder: folder.path() };
    let outcome = match saved.bare || dataset.is_signals() {
        true => trainer.run(recorder.inner, stop),
        false => trainer.run(&mut recorder, stop),
    };
    bar.finish();
    for p in trainer.problems().iter().take(5) {
        eprintln!("left out {}: {}", p.path.display(), p.why);
    }
    let broken = trainer.problems().len();
    if broken > 5 {
        eprintln!("left out {} more pictures that cannot be read", broken - 5);
    }
    match outcome? {
        Outcome::Interrupted => {
            println!("interrupted; go on with: convoke train --resume {}", folder.path().display());
            Ok(None)
        }
        Outcome::Done { last, best } => {
            let on = if dataset.val.is_some() { "validation" } else { "test" };
            let share = match (&last, best) {
                (Some(e), Some((best, epoch))) => format!(
                    "{:.2} % right on {} {on} pictures (best {:.2} % in epoch {epoch})",
                    100.0 * e.top1,
                    e.n,
                    100.0 * best
                ),
                _ => "nothing to judge by".into(),
            };
            println!(
                "{share} after {}; {}",
                duration(start.elapsed().as_secs_f64()),
                folder.path().display()
            );
            if !saved.bare && !dataset.is_signals() {
                let judging = PlanOptions::predict(saved.train.batch.min(64), saved.train.threads);
                let judging = Plan::compile(trainer.plan()?.network(), &judging)?.memory();
                let cache = saved.train.cache;
                report::write_memory(folder.path(), trainer.plan()?.memory(), judging, cache)?;
                report::report(folder, dataset, &saved.train, saved.train.threads)?;
                println!("report: {}", folder.path().join("report.html").display());
            }
            println!("next: convoke predict {} PICTURE", folder.path().display());
            Ok(Some(last.map_or(0.0, |e| e.top1)))
        }
    }
}
