//! `convoke compare`.

use crate::common::{self, Model, Threads, duration, thousands, units};
use crate::progress::{Bar, interrupt};
use crate::verbs::fine_tune;
use crate::verbs::series::Signal;
use anyhow::{Result, bail};
use convoke_data::{Augment, Dataset, OpenOptions, Preprocess, Source, Split, write_file};
use convoke_engine::{Network, Shape};
use convoke_formats::ModelFile;
use convoke_train::{EpochRow, Outcome, Predictor, Progress, RunFolder, TrainOptions, Trainer};
use convoke_vision::searched::{Compared, Measured, compared_page};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Train several networks under the same budget, with several seeds, and show them beside each other
///
/// `convoke compare mnist mlp lenet5` shows why nobody uses dense layers alone for pictures: both know the digits,
/// one only where it has seen them.
#[derive(clap::Args)]
pub struct Args {
    /// Pictures in class folders, IDX files, CIFAR-10 batches, or signals (.ts, .tsv, .csv, .npy)
    data: PathBuf,
    /// Zoo names or network files
    #[arg(required = true)]
    models: Vec<String>,
    /// Passes over the training samples, the same for all
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: u32,
    /// Runs of each network, with seeds from --seed on
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// First seed
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Samples per step [default: 64 for small pictures, 32 for others, 16 for signals]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Largest learning rate, the same for all [default: by optimizer, batch and network, as train has it]
    #[arg(long, value_name = "X")]
    lr: Option<f32>,
    /// Learn from so many samples only, spread over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    samples: Option<u32>,
    /// Judge also on the pictures shifted by so many pixels, each in a direction of its own
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [2, 4])]
    shift: Vec<u32>,
    /// Share of each class held out, for folders without a validation or test part
    #[arg(long, default_value_t = 0.2, value_name = "X")]
    val_fraction: f64,
    /// Side of the input in pixels [default: the data's or each network's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=4096))]
    size: Option<u32>,
    /// Leave the training samples as they are
    #[arg(long)]
    no_augment: bool,
    #[command(flatten)]
    signal: Signal,
    #[command(flatten)]
    threads: Threads,
    /// Folder of the comparison [default: the next free of runs/compare/<data>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A network of the comparison, ready to train.
struct Entry {
    name: String,
    network: Network,
    preprocess: Preprocess,
    options: TrainOptions,
}

pub fn run(args: Args) -> Result<()> {
    let options = OpenOptions { seed: args.seed, val_fraction: args.val_fraction };
    let mut dataset = Dataset::open(&args.data, &options)?;
    if let Some(n) = args.samples {
        dataset.train = dataset.train.spread(n as usize);
    }
    let (on, judged) = match (&dataset.test, &dataset.val) {
        (Some(test), _) => ("test", test.clone()),
        (None, Some(val)) => ("validation", val.clone()),
        (None, None) => {
            bail!("{} has nothing to judge by; give --val-fraction", args.data.display())
        }
    };
    // All are judged by their last epoch, so nothing is chosen on what is reported.
    dataset.val = None;
    dataset.test = Some(judged.clone());
    let entries: Vec<Entry> =
        args.models.iter().map(|m| entry(&args, m, &dataset)).collect::<Result<_>>()?;
    let folder = match &args.out {
        Some(out) => RunFolder::create(out)?,
        None => RunFolder::next(Path::new("runs/compare"), &stem(&args.data))?,
    };
    let folder = folder.path().to_path_buf();
    let epochs = args.epochs;
    let terms = format!(
        "{}: {} to train, {} {on} samples, {epochs} epochs, {} seeds from {}; judged by the last epoch",
        args.data.display(),
        thousands(dataset.train.len() as u64),
        thousands(judged.len() as u64),
        args.seeds,
        args.seed
    );
    eprintln!("compare  {terms}");
    let stop = interrupt();
    let mut rows = Vec::new();
    for e in &entries {
        match compared(&args, e, &dataset, &judged, &folder, &stop)? {
            Some(row) => rows.push(row),
            None => {
                println!("interrupted; {}", folder.display());
                return Ok(());
            }
        }
    }
    let (page, chart) = compared_page(&format!("compare {}", args.data.display()), &terms, &rows);
    let object = json!({"data": args.data, "judged_on": on, "epochs": epochs, "networks": rows});
    write_file(&folder.join("compare.html"), page.as_bytes())?;
    write_file(&folder.join("compare.svg"), chart.as_bytes())?;
    write_file(&folder.join("compare.json"), object.to_string().as_bytes())?;
    match args.json {
        true => println!("{object}"),
        false => {
            table(&rows);
            println!("page: {}", folder.join("compare.html").display());
        }
    }
    Ok(())
}

fn stem(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or(path.into());
    path.file_stem().map_or("data".into(), |s| s.to_string_lossy().into_owned())
}

fn entry(args: &Args, model: &str, dataset: &Dataset) -> Result<Entry> {
    if matches!(common::model(model)?, Model::File(..)) {
        bail!("{model} has weights already; give zoo names and network files");
    }
    let side = args.size.map(|s| s as usize);
    let network = fine_tune::plain(model, side, dataset)?.network;
    let preprocess = args.signal.preprocess(dataset, network.input_shape())?;
    let usual = match (dataset.is_signals(), preprocess.height.max(preprocess.width) <= 64) {
        (true, _) => 16,
        (false, true) => 64,
        (false, false) => 32,
    };
    let n = dataset.train.len();
    let batch = args.batch.map_or(usual.min(n), |b| b as usize);
    let suited =
        TrainOptions::suited(args.epochs as usize, batch, &preprocess, args.threads.count());
    let lr = args.lr.unwrap_or_else(|| TrainOptions::rate(&network, suited.optimizer, batch));
    let augment = if args.no_augment { Augment::default() } else { suited.augment.clone() };
    // Only the last epoch is judged by.
    let judge_every = args.epochs as usize;
    let options = TrainOptions { lr, judge_every, augment, ..suited };
    let name =
        Path::new(model).file_stem().map_or(model.into(), |s| s.to_string_lossy().into_owned());
    Ok(Entry { name, network, preprocess, options })
}

/// All runs of a network; none when it was interrupted.
fn compared(
    args: &Args,
    e: &Entry,
    dataset: &Dataset,
    judged: &Split,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<Option<Compared>> {
    let (mut top1, mut seconds, mut speed) = (Vec::new(), Vec::new(), Vec::new());
    let mut shifted: Vec<Vec<f64>> =
        vec![Vec::new(); if dataset.is_signals() { 0 } else { args.shift.len() }];
    for seed in (args.seed..).take(args.seeds as usize) {
        let run = RunFolder::create(&folder.join(&e.name).join(format!("seed-{seed}")))?;
        let options = TrainOptions { seed, ..e.options.clone() };
        let (network, pre) = (e.network.clone(), e.preprocess.clone());
        let mut trainer = Trainer::new(network, dataset, pre, options, run.clone())?;
        let mut heard =
            Heard { bar: Bar::new(false), name: format!("{} seed {seed}", e.name), speed: 0.0 };
        let start = Instant::now();
        let outcome = trainer.run(&mut heard, stop)?;
        heard.bar.finish();
        let Outcome::Done { last: Some(last), .. } = outcome else { return Ok(None) };
        seconds.push(start.elapsed().as_secs_f64());
        speed.push(heard.speed);
        top1.push(last.top1);
        let model = ModelFile::load(&run.last())?;
        for (&pixels, all) in args.shift.iter().zip(&mut shifted) {
            let split = shift(judged, &e.preprocess, pixels as usize)?;
            let (threads, batch) = (args.threads.count(), 64.min(split.len()));
            let mut predictor = Predictor::new(model.clone(), batch, threads)?;
            all.push(predictor.evaluate(&split, threads)?.0.top1);
        }
        eprintln!(
            "{:<16} seed {seed}: {:.2} % right after {}",
            e.name,
            100.0 * last.top1,
            duration(*seconds.last().unwrap_or(&0.0))
        );
    }
    let shifts = args.shift.iter().map(|&p| p as usize).zip(shifted.into_iter().map(Measured::of));
    Ok(Some(Compared {
        model: e.name.clone(),
        parameters: e.network.parameters() as u64,
        macs: e.network.macs(),
        top1: Measured::of(top1),
        shifted: shifts.collect(),
        seconds: Measured::of(seconds),
        samples_per_second: Measured::of(speed),
    }))
}

/// A bar for each run; a line only at its end.
struct Heard {
    bar: Bar,
    name: String,
    speed: f64,
}

impl Progress for Heard {
    fn batch(&mut self, i: &convoke_train::BatchInfo) {
        let message = format!("loss {:.4}  {} left", i.loss, duration(i.seconds_left));
        let done = i.epoch * i.batches + i.batch;
        self.bar.work(&self.name, done, i.epochs * i.batches, &message);
    }

    fn epoch(&mut self, row: &EpochRow) {
        self.speed = self.speed.max(row.pictures_per_second);
    }
}

/// The pictures as the network sees them, each moved by so many pixels in one of the eight directions in turn; black
/// comes in.
fn shift(split: &Split, pre: &Preprocess, pixels: usize) -> Result<Split> {
    const WAYS: [(isize, isize); 8] =
        [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)];
    let Shape { h, w, c } = Shape::new(pre.height, pre.width, pre.channels);
    let (mut all, mut labels) = (Vec::with_capacity(split.len() * h * w * c), Vec::new());
    let mut x = vec![0.0; h * w * c];
    for i in 0..split.len() {
        let Ok(picture) = split.read(i, c) else { continue };
        pre.apply(&picture, &mut x)?;
        let seen = pre.seen(&x);
        let (dx, dy) = WAYS[i % 8];
        for y in 0..h as isize {
            for x in 0..w as isize {
                let (fx, fy) = (x - dx * pixels as isize, y - dy * pixels as isize);
                let inside = (0..w as isize).contains(&fx) && (0..h as isize).contains(&fy);
                let at = (fy.max(0) as usize * w + fx.max(0) as usize) * c;
                match inside {
                    true => all.extend_from_slice(&seen.data[at..at + c]),
                    false => all.resize(all.len() + c, 0),
                }
            }
        }
        labels.push(split.labels[i]);
    }
    let source = Source::Memory { pixels: all.into(), width: w, height: h, channels: c };
    Ok(Split { source, labels })
}

fn table(rows: &[Compared]) {
    let shifts = rows.first().map_or(&[][..], |r| &r.shifted);
    let shifts: Vec<String> =
        shifts.iter().map(|(p, _)| format!("{:>16}", format!("shifted {p}, %"))).collect();
    println!(
        "{:<18} {:>11} {:>8} {:>16}{} {:>9} {:>10}",
        "network",
        "parameters",
        "MACs",
        "right, %",
        shifts.concat(),
        "seconds",
        "samples/s"
    );
    for r in rows {
        let shifted: String =
            r.shifted.iter().map(|(_, m)| format!("{:>16}", m.percent())).collect();
        println!(
            "{:<18} {:>11} {:>8} {:>16}{shifted} {:>9.1} {:>10.0}",
            r.model,
            thousands(r.parameters),
            units(r.macs as f64),
            r.top1.percent(),
            r.seconds.mean,
            r.samples_per_second.mean
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_move_in_all_directions_and_black_comes_in() {
        let mut pixels = vec![0u8; 8 * 25];
        (0..8).for_each(|i| pixels[i * 25 + 12] = 200);
        let source = Source::Memory { pixels: pixels.into(), width: 5, height: 5, channels: 1 };
        let split = Split { source, labels: vec![1; 8] };
        let moved = shift(&split, &Preprocess::plain(5, 5, 1), 2).unwrap();
        let corners = [0, 2, 4, 10, 14, 20, 22, 24];
        for (i, corner) in corners.into_iter().enumerate() {
            let p = moved.read(i, 1).unwrap();
            let lit: Vec<usize> = (0..25).filter(|&k| p.data[k] == 200).collect();
            assert_eq!(lit, [corner], "{i}");
        }
        let all = shift(&split, &Preprocess::plain(5, 5, 1), 0).unwrap();
        assert_eq!(all.read(3, 1).unwrap(), split.read(3, 1).unwrap());
    }
}
