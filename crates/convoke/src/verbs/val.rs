//! `convoke val`.

use crate::common::{Threads, trained};
use anyhow::{Result, bail};
use convoke_data::{Dataset, OpenOptions, Split};
use convoke_train::Predictor;
use serde_json::json;
use std::path::PathBuf;

/// Measure a trained model on labelled pictures
#[derive(clap::Args)]
pub struct Args {
    /// Run folder or model file
    model: String,
    /// Data with labels; its test part, else validation, else everything is used
    data: PathBuf,
    /// Pictures at a time
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    let model = trained(&args.model)?;
    let dataset = Dataset::open(&args.data, &OpenOptions { seed: 0, val_fraction: 0.0 })?;
    let split = labelled_as(&model.classes, &dataset)?;
    let classes = model.classes.clone();
    let mut predictor = Predictor::new(model, args.batch as usize, args.threads.count())?;
    let (e, problems) = predictor.evaluate(&split, args.threads.count())?;
    for p in &problems {
        eprintln!("left out {}: {}", p.path.display(), p.why);
    }
    if e.n == 0 {
        bail!("no picture of {} can be read", args.data.display());
    }
    if args.json {
        let per_class: serde_json::Map<String, serde_json::Value> =
            classes.iter().zip(&e.per_class).map(|(c, p)| (c.clone(), json!(p))).collect();
        println!(
            "{}",
            json!({"top1": e.top1, "top5": e.top5, "loss": e.loss, "n": e.n,
            "per_class": per_class, "confusion": e.confusion, "left_out": problems.len()})
        );
        return Ok(());
    }
    println!(
        "top-1 {:.2} %  top-5 {:.2} %  loss {:.4}  n {}",
        100.0 * e.top1,
        100.0 * e.top5,
        e.loss,
        e.n
    );
    let width = classes.iter().map(|c| c.chars().count()).max().unwrap_or(0);
    for (i, class) in classes.iter().enumerate() {
        let count: usize = e.confusion[i].iter().sum();
        let wrong = (0..classes.len()).filter(|&j| j != i && e.confusion[i][j] > 0);
        let most = wrong.max_by_key(|&j| e.confusion[i][j]);
        let taken = most.map_or(String::new(), |j| {
            format!("  most often taken for {} ({})", classes[j], e.confusion[i][j])
        });
        println!("{class:<width$}  {:>6.2} % of {count}{taken}", 100.0 * e.per_class[i]);
    }
    Ok(())
}

/// The split to measure on, its labels turned into the model's order of classes.
fn labelled_as(classes: &[String], dataset: &Dataset) -> Result<Split> {
    let position = |name: &String| classes.iter().position(|c| c == name);
    let map: Vec<Option<usize>> = dataset.classes.iter().map(position).collect();
    if let Some(i) = map.iter().position(Option::is_none) {
        bail!(
            "the data has a class `{}` that the model does not know; it knows {}",
            dataset.classes[i],
            classes.join(", ")
        );
    }
    let split = dataset.test.as_ref().or(dataset.val.as_ref()).unwrap_or(&dataset.train);
    let label = |l: &u32| map[*l as usize].map_or(0, |p| p as u32);
    Ok(Split { source: split.source.clone(), labels: split.labels.iter().map(label).collect() })
}
