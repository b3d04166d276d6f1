//! `convoke predict`.

use crate::common::{Arithmetic, Threads, left_out, trained};
use anyhow::{Result, bail};
use convoke_data::read_signals;
use convoke_engine::PlanOptions;
use convoke_formats::ModelFile;
use convoke_train::{Guess, Predictor, series};
use serde_json::json;
use std::path::PathBuf;

/// Name what is in pictures, with probabilities
#[derive(clap::Args)]
pub struct Args {
    /// Run folder or model file
    model: String,
    /// Pictures; files of signals (.ts, .tsv, .csv, .npy) for a model over signals
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// So many classes for each picture
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    top: u32,
    /// Print one JSON object per line and picture
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    arithmetic: Arithmetic,
    #[command(flatten)]
    threads: Threads,
}

/// Pictures at a time.
const BATCH: usize = 16;

pub fn run(args: Args) -> Result<()> {
    let batch = BATCH.min(args.pictures.len());
    let model = trained(&args.model)?;
    let precision = args.arithmetic.precision_of(&model);
    let options = PlanOptions { precision, ..PlanOptions::predict(batch, args.threads.count()) };
    if model.preprocess.signal.is_some() {
        return signals(&args, model, &options);
    }
    let mut predictor = Predictor::planned(model, &options)?;
    let mut failed = Vec::new();
    // A few batches at a time, so that the first answers come at once.
    for paths in args.pictures.chunks(4 * BATCH) {
        for (path, guesses) in paths.iter().zip(predictor.predict_files(paths, args.top as usize)?)
        {
            match guesses {
                Err(e) => failed.push(e.into()),
                Ok(guesses) if args.json => {
                    println!(
                        "{}",
                        json!({"picture": path.display().to_string(), "guesses": guesses})
                    );
                }
                Ok(guesses) => {
                    println!("{}", path.display());
                    for g in guesses {
                        println!("  {:>6.2} %  {}", 100.0 * g.probability, g.class);
                    }
                }
            }
        }
    }
    left_out(failed, args.pictures.len(), "read")
}

/// Names signals, or estimates their numbers.
fn signals(args: &Args, model: ModelFile, options: &PlanOptions) -> Result<()> {
    if model.task == "forecast" {
        bail!("{} forecasts; use convoke forecast TABLE --use {}", args.model, args.model);
    }
    let length = model.preprocess.width;
    let mut predictor = match model.task.as_str() {
        "regress" => None,
        _ => {
            Some(Predictor::planned(model.clone(), &PlanOptions { batch: 64, ..options.clone() })?)
        }
    };
    let mut failed = Vec::new();
    for path in &args.pictures {
        let all = match read_signals(path, length) {
            Ok(all) => all,
            Err(e) => {
                failed.push(e.into());
                continue;
            }
        };
        let file = path.display().to_string();
        let Some(predictor) = &mut predictor else {
            let (numbers, _) = series::estimate(&model, &all, None, args.threads.count())?;
            for (i, v) in numbers.into_iter().enumerate() {
                match args.json {
                    true => println!("{}", json!({"file": file, "series": i, "estimate": v})),
                    false => println!("{file} {i}  {v}"),
                }
            }
            continue;
        };
        for (i, guesses) in
            predictor.predict_signals(&all, args.top as usize)?.into_iter().enumerate()
        {
            told(&file, i, &guesses, args.json);
        }
    }
    left_out(failed, args.pictures.len(), "read")
}

fn told(file: &str, series: usize, guesses: &[Guess], json: bool) {
    if json {
        return println!("{}", json!({"file": file, "series": series, "guesses": guesses}));
    }
    let all: Vec<String> =
        guesses.iter().map(|g| format!("{:.2} % {}", 100.0 * g.probability, g.class)).collect();
    println!("{file} {series}  {}", all.join(", "));
}
