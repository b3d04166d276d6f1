//! `convoke val`.

use crate::common::{Arithmetic, Threads, trained};
use crate::verbs::val_boxes;
use anyhow::{Result, bail};
use convoke_data::{Dataset, OpenOptions, Split};
use convoke_engine::{PlanOptions, Precision};
use convoke_formats::ModelFile;
use convoke_train::Predictor;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Measure a trained model on labelled pictures
#[derive(clap::Args)]
pub struct Args {
    /// Run folder or model file
    model: String,
    /// Data with labels, or with boxes for a detector: its test part, else validation, else everything is used. Folders named as
    /// ImageNet's (n01440764) are its classes in their order
    data: PathBuf,
    /// DATA is a flat folder, and this list gives each picture's class: `picture class` on a line, the
    /// class by name, ImageNet's number (n01440764) or position from 0
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// What the data calls the model's classes, one per line in the order of the outputs
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Judge each picture by ten crops: corners and centre, and their mirror images
    #[arg(long)]
    ten_crop: bool,
    /// Pictures at a time
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Folder for precision-recall curves and all numbers, for detectors
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    arithmetic: Arithmetic,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    let model = trained(&args.model)?;
    if model.task == "find" {
        let threads = args.threads.count();
        return val_boxes::run(model, &args.data, args.out.as_deref(), args.json, threads);
    }
    if model.task == "regress" {
        return val_numbers(&model, &args);
    }
    let theirs = match &args.classes {
        Some(file) => Some(names_of(file, model.classes.len())?),
        None => None,
    };
    let known = theirs.as_ref().unwrap_or(&model.classes);
    let split = match &args.truth {
        Some(list) => Split::flat(&args.data, list, known)?,
        None => labelled_as(known, &opened(&args.data)?)?,
    };
    let classes = model.classes.clone();
    let batch = args.batch as usize;
    let batch = if args.ten_crop { batch.max(10) } else { batch };
    let precision = args.arithmetic.precision_of(&model);
    let evaluate = |model: ModelFile, precision: Precision| {
        let threads = args.threads.count();
        let options = PlanOptions { precision, ..PlanOptions::predict(batch, threads) };
        let mut predictor = Predictor::planned(model, &options)?;
        match args.ten_crop {
            true => predictor.evaluate_ten(&split, threads),
            false => predictor.evaluate(&split, threads),
        }
    };
    // What integers cost is told beside what they give.
    let floats = match precision {
        Precision::Int8 => Some(evaluate(model.clone(), Precision::F32)?.0),
        _ => None,
    };
    let (e, problems) = evaluate(model, precision)?;
    for p in &problems {
        eprintln!("left out {}: {}", p.path.display(), p.why);
    }
    if e.n == 0 {
        bail!("no picture of {} can be read", args.data.display());
    }
    if args.json {
        let per_class: serde_json::Map<String, serde_json::Value> =
            classes.iter().zip(&e.per_class).map(|(c, p)| (c.clone(), json!(p))).collect();
        let mut object = json!({"top1": e.top1, "top5": e.top5, "loss": e.loss, "n": e.n,
            "per_class": per_class, "confusion": e.confusion, "left_out": problems.len()});
        if let Some(f) = &floats {
            object["f32"] = json!({"top1": f.top1, "top5": f.top5, "loss": f.loss});
        }
        println!("{object}");
        return Ok(());
    }
    println!(
        "top-1 {:.2} %  top-5 {:.2} %  loss {:.4}  n {}",
        100.0 * e.top1,
        100.0 * e.top5,
        e.loss,
        e.n
    );
    if let Some(f) = floats {
        println!(
            "in f32: top-1 {:.2} %  top-5 {:.2} %  loss {:.4}; int8 costs {:.2} points of top-1",
            100.0 * f.top1,
            100.0 * f.top5,
            f.loss,
            100.0 * (f.top1 - e.top1)
        );
    }
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

/// How near a model's numbers come.
fn val_numbers(model: &ModelFile, args: &Args) -> Result<()> {
    let set = convoke_data::regression(&args.data)?;
    let (signals, truth) = set.test.as_ref().unwrap_or(&set.train);
    let (_, near) =
        convoke_train::series::estimate(model, signals, Some(truth), args.threads.count())?;
    match near {
        Some(n) if args.json => println!("{}", json!(n)),
        Some(n) => println!(
            "RMSE {:.4}  MAE {:.4}  R2 {:.4}  n {}; always the mean: RMSE {:.4}",
            n.rmse, n.mae, n.r2, n.n, n.rmse_of_mean
        ),
        None => {}
    }
    Ok(())
}

/// The data; a folder with `val` in it but no `train` stands for that.
fn opened(data: &Path) -> Result<Dataset> {
    let has = |names: &[&str]| names.iter().map(|n| data.join(n)).find(|p| p.is_dir());
    let inner = match has(&["train", "training", "Train"]) {
        Some(_) => None,
        None => has(&["val", "validation", "valid"]),
    };
    let data = inner.as_deref().unwrap_or(data);
    Ok(Dataset::open(data, &OpenOptions { seed: 0, val_fraction: 0.0 })?)
}

/// Names from a file, as many as the model has classes.
fn names_of(file: &Path, count: usize) -> Result<Vec<String>> {
    let text = crate::common::read_text(file)?;
    let names = text.lines().map(|l| l.trim().to_string()).filter(|l| !l.is_empty());
    let names: Vec<String> = names.collect();
    match names.len() == count {
        true => Ok(names),
        false => bail!("{} names {} classes; the model has {count}", file.display(), names.len()),
    }
}

/// `n01440764`, as WordNet numbers what ImageNet shows.
fn is_wnid(name: &str) -> bool {
    name.len() == 9 && name.starts_with('n') && name[1..].bytes().all(|b| b.is_ascii_digit())
}

/// Position of each of the data's classes among the model's.
fn positions(classes: &[String], theirs: &[String]) -> Vec<Option<usize>> {
    // By name, or by the first word of `n01440764 tench`.
    let word = |c: &String| c.split([' ', ',']).next().map(String::from);
    let position = |name: &String| {
        let by_name = classes.iter().position(|c| c == name);
        by_name.or_else(|| classes.iter().position(|c| word(c).as_ref() == Some(name)))
    };
    let map: Vec<Option<usize>> = theirs.iter().map(position).collect();
    // All of ImageNet: its classes stand in the order of their numbers, in some networks behind one
    // for the background.
    let background = classes.len().wrapping_sub(theirs.len());
    if map.iter().all(Option::is_none)
        && theirs.len() == 1000
        && theirs.iter().all(|n| is_wnid(n))
        && background <= 1
    {
        return (0..theirs.len()).map(|i| Some(i + background)).collect();
    }
    map
}

/// The split to measure on, its labels turned into the model's order of classes.
fn labelled_as(classes: &[String], dataset: &Dataset) -> Result<Split> {
    let map = positions(classes, &dataset.classes);
    if let Some(i) = map.iter().position(Option::is_none) {
        let remedy = match is_wnid(&dataset.classes[i]) {
            true => "; give --classes with a list of such numbers in the order of the outputs",
            false => "",
        };
        bail!(
            "the data has a class `{}` that the model does not know; it knows {}{remedy}",
            dataset.classes[i],
            first_of(classes)
        );
    }
    let split = dataset.test.as_ref().or(dataset.val.as_ref()).unwrap_or(&dataset.train);
    let label = |l: &u32| map[*l as usize].map_or(0, |p| p as u32);
    Ok(Split { source: split.source.clone(), labels: split.labels.iter().map(label).collect() })
}

/// The first names of a list that may have a thousand.
fn first_of(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len() {
        n if n > SHOWN => format!("{shown} and {} more", n - SHOWN),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenets_folders_are_its_classes_in_order() {
        let wnids: Vec<String> = (0..1000).map(|i| format!("n{:08}", 1_440_764 + 7 * i)).collect();
        let numbers = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!(positions(&numbers(1000), &wnids)[..3], [Some(0), Some(1), Some(2)]);
        assert_eq!(positions(&numbers(1001), &wnids)[..3], [Some(1), Some(2), Some(3)]);
        assert_eq!(positions(&numbers(1000), &wnids[..10])[0], None);
        let words: Vec<String> = wnids.iter().map(|w| format!("{w} some, thing")).collect();
        assert_eq!(positions(&words, &wnids[5..7]), [Some(5), Some(6)]);
    }
}
