//! `convoke predict`.

use crate::common::{Threads, left_out, trained};
use anyhow::Result;
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
    threads: Threads,
}

/// Pictures at a time.
const BATCH: usize = 16;

pub fn run(args: Args) -> Result<()> {
    let batch = BATCH.min(args.pictures.len());
    let mut predictor = Predictor::new(trained(&args.model)?, batch, args.threads.count())?;
    let mut failed = Vec::new();
    for paths in args.pictures.chunks(batch) {
        let (mut read, mut names) = (Vec::new(), Vec::new());
        for path in paths {
            match predictor.read(path) {
                Ok(p) => {
                    read.push(p);
                    names.push(path);
                }
                Err(e) => failed.push(e.into()),
            }
        }
        for (path, guesses) in names.iter().zip(predictor.predict(&read, args.top as usize)?) {
            if args.json {
                println!("{}", json!({"picture": path.display().to_string(), "guesses": guesses}));
                continue;
            }
            println!("{}", path.display());
            for g in guesses {
                println!("  {:>6.2} %  {}", 100.0 * g.probability, g.class);
            }
        }
    }
    left_out(failed, args.pictures.len(), "read")
}
