//! `convoke predict`.

use crate::common::{Arithmetic, Threads, left_out, trained};
use anyhow::Result;
use convoke_engine::PlanOptions;
use convoke_train::Predictor;
use serde_json::json;
use std::path::PathBuf;

/// Name what is in pictures, with probabilities
#[derive(clap::Args)]
pub struct Args {
    /// Run folder or model file
    model: String,
    /// Pictures
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
