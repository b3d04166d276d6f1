//! `convoke train`.

use crate::common::{self, Model, Source, Threads, bytes, duration, thousands, units};
use crate::progress::{Bar, interrupt};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use convoke_data::{Augment, Dataset, OpenOptions, Preprocess, statistics};
use convoke_engine::{Network, Optimizer, Shape};
use convoke_formats::ModelFile;
use convoke_train::{Outcome, RunFolder, Schedule, TrainOptions, Trainer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Train a network on your pictures
#[derive(clap::Args)]
pub struct Args {
    /// Folder of class folders (flat, or in train and val), IDX files, or CIFAR-10 batches
    #[arg(required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// Zoo name, network file (.toml), or model file to go on from
    #[arg(long, default_value = "resnet18", value_name = "MODEL")]
    model: String,
    /// Passes over the training pictures
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: u32,
    /// Pictures per step [default: 64 for small pictures, else 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Largest learning rate [default: by optimizer and batch]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f32>,
    /// How the learning rate moves
    #[arg(long, value_enum, default_value = "one-cycle")]
    schedule: ScheduleArg,
    /// Epochs over which the learning rate first rises
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    warmup: f32,
    /// How weights follow gradients
    #[arg(long, value_enum, default_value = "sgd")]
    optimizer: OptimizerArg,
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
    /// Leave the training pictures as they are
    #[arg(long)]
    no_augment: bool,
    /// Share of each class that goes to validation, for folders without one
    #[arg(long, default_value_t = 0.2, value_name = "X")]
    val_fraction: f64,
    /// Seed of weights, order, augmentation and dropout
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
    /// Folder of the run [default: runs/classify/<model>-<data>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with an interrupted run; only --threads may be given beside
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "out"])]
    resume: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleArg {
    Constant,
    Step,
    Cosine,
    OneCycle,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum OptimizerArg {
    Sgd,
    Adam,
    Adamw,
}

/// What `args.toml` holds: enough to begin the run again.
#[derive(Serialize, Deserialize)]
struct Saved {
    data: PathBuf,
    model: String,
    val_fraction: f64,
    train: TrainOptions,
    preprocess: Preprocess,
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
    let dataset = open(&data, args.seed, args.val_fraction)?;
    let model = common::model(&args.model)?;
    let (network, weights) = network(args, &model, &dataset)?;
    let shape = network.input_shape();
    let mut pre = Preprocess::plain(shape.h, shape.w, shape.c);
    (pre.mean, pre.std) = statistics(&dataset.train, shape.c);
    let options = options(args, &network, &pre, dataset.train.len())?;
    let folder = match &args.out {
        Some(out) => RunFolder::create(out)?,
        None => {
            let name = |p: &Path| {
                p.file_stem().map_or("data".into(), |s| s.to_string_lossy().into_owned())
            };
            let data_name = name(&data.canonicalize().unwrap_or(data.clone()));
            let run = format!("{}-{data_name}", name(Path::new(&args.model)));
            RunFolder::next(Path::new("runs/classify"), &run)?
        }
    };
    let data = data.canonicalize().unwrap_or(data);
    let saved = Saved {
        data,
        model: args.model.clone(),
        val_fraction: args.val_fraction,
        train: options.clone(),
        preprocess: pre.clone(),
    };
    let text = toml::to_string(&saved).context("settings cannot be written")?;
    let mut trainer = Trainer::new(network, &dataset, pre, options, folder.clone())?;
    if let Some(file) = weights {
        trainer.set_weights(&file.params, &file.state)?;
    }
    folder.write("args.toml", &text)?;
    folder.write("split.csv", &dataset.split_csv())?;
    go(trainer, &dataset, &folder, &saved)
}

fn resume(path: &Path, threads: Threads) -> Result<()> {
    let folder = RunFolder::open(path)?;
    let text = common::read_text(&folder.path().join("args.toml"))?;
    let mut saved: Saved = toml::from_str(&text)
        .map_err(|e| anyhow::anyhow!("{}/args.toml: {}", path.display(), e.message()))?;
    saved.train.threads = threads.count();
    let checkpoint = ModelFile::load(&folder.checkpoint())?;
    let dataset = open(&saved.data, saved.train.seed, saved.val_fraction)?;
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
    go(trainer, &dataset, &folder, &saved)
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
    if dataset.val.is_none() && dataset.test.is_some() {
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

/// The network for the data, and weights to begin with.
fn network(args: &Args, model: &Model, dataset: &Dataset) -> Result<(Network, Option<ModelFile>)> {
    let classes = dataset.classes.len();
    match model {
        Model::Network(source) => {
            let natural = dataset.size.map(|(h, w)| Shape::new(h, w, dataset.channels));
            let own = source.input().map(|s| Shape { c: dataset.channels, ..s });
            let side = args.size.map(|s| Shape::new(s as usize, s as usize, dataset.channels));
            // A network file means its size; a zoo network takes the data's where all are equal.
            let wanted = match source {
                Source::Toml(..) => side.or(source.input()).or(natural),
                Source::Zoo(_) => side.or(natural).or(own),
            };
            if let Some(c) = wanted.map(|s| s.c).filter(|c| !matches!(c, 1 | 3)) {
                bail!("the network takes {c} channels; pictures have 1 or 3");
            }
            Ok((source.build(wanted, Some(classes))?, None))
        }
        Model::File(file, path) => {
            if file.classes != dataset.classes {
                bail!(
                    "{} was trained on other classes; give a model of these {classes}",
                    path.display()
                );
            }
            Ok((file.network.clone(), Some((**file).clone())))
        }
    }
}

fn options(
    args: &Args,
    network: &Network,
    pre: &Preprocess,
    samples: usize,
) -> Result<TrainOptions> {
    let small = pre.height.max(pre.width) <= 64;
    let batch = args.batch.map_or(if small { 64 } else { 32 }, |b| b as usize);
    let batch = if args.batch.is_none() { batch.min(samples) } else { batch };
    let decay = |default: f32| args.weight_decay.unwrap_or(default);
    let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
    let optimizer = match args.optimizer {
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
    let suited = TrainOptions::suited(args.epochs as usize, batch, pre, args.threads.count());
    let lr = TrainOptions::rate(network, optimizer, batch);
    if !(0.0..1.0).contains(&args.label_smoothing) {
        bail!("--label-smoothing {} must be at least 0 and below 1", args.label_smoothing);
    }
    Ok(TrainOptions {
        lr: args.lr.unwrap_or(lr),
        warmup: args.warmup,
        label_smoothing: args.label_smoothing,
        seed: args.seed,
        schedule: match args.schedule {
            ScheduleArg::Constant => Schedule::Constant,
            ScheduleArg::Step => {
                Schedule::Step { every: (args.epochs as usize / 3).max(1), factor: 0.1 }
            }
            ScheduleArg::Cosine => Schedule::Cosine,
            ScheduleArg::OneCycle => Schedule::OneCycle,
        },
        optimizer,
        augment: if args.no_augment { Augment::default() } else { suited.augment.clone() },
        ..suited
    })
}

fn go(mut trainer: Trainer, dataset: &Dataset, folder: &RunFolder, saved: &Saved) -> Result<()> {
    let plan = trainer.plan();
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
    let (start, stop) = (Instant::now(), interrupt());
    let mut bar = Bar::new(false);
    let outcome = trainer.run(&mut bar, &stop);
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
            println!("next: convoke predict {} PICTURE", folder.path().display());
        }
    }
    Ok(())
}
