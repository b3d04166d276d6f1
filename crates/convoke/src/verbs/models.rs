//! `convoke models`.

use crate::common::thousands;
use crate::fetch;
use crate::progress::Bar;
use anyhow::Result;
use convoke_data::write_file;
use convoke_engine::{Plan, PlanOptions};
use convoke_vision::diagram::diagram;
use convoke_zoo::{Entry, Options};
use serde::Serialize;
use serde_json::json;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// List the networks that convoke knows by name, or get weights for them
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Print one JSON list
    #[arg(long)]
    json: bool,
    /// Draw every network into this folder, as boxes that get narrower and deeper
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(clap::Subcommand)]
enum Verb {
    Get(Get),
}

/// Download weights that torchvision offers, into the cache folder; without NAME, list them
#[derive(clap::Args)]
struct Get {
    /// Which weights
    name: Option<String>,
    /// Another list of weights (a TOML file like crates/convoke/weights/torchvision.toml)
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Folder to put them in [default: $CONVOKE_CACHE, else convoke in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object or list
    #[arg(long)]
    json: bool,
}

fn get(args: Get) -> Result<()> {
    let entries = fetch::entries(args.manifest.as_deref())?;
    let Some(name) = &args.name else {
        if args.json {
            println!("{}", json!(entries));
            return Ok(());
        }
        println!("{:<24} {:>8}  {:>7} {:>7}  url", "name", "MiB", "top-1 %", "top-5 %");
        for e in entries {
            println!(
                "{:<24} {:>8.1}  {:>7.2} {:>7.2}  {}",
                e.name, e.mebibytes, e.top1, e.top5, e.url
            );
        }
        return Ok(());
    };
    let entry = fetch::find(entries, name)?;
    let folder = args.out.map_or_else(fetch::cache, Ok)?;
    let mut bar = Bar::new(args.json);
    let mut progress = |done: u64, all: u64| {
        let mebibytes = |n: u64| n as f64 / f64::from(1 << 20);
        let message = format!("{:.1} of {:.1} MiB", mebibytes(done), mebibytes(all));
        bar.work(name, done as usize, all as usize, &message);
    };
    let path = entry.fetch(&folder, |text| eprintln!("{text}"), &mut progress);
    bar.finish();
    let path = path?;
    if args.json {
        println!("{}", json!({"name": name, "path": path, "sha256": entry.sha256}));
        return Ok(());
    }
    println!("{}", path.display());
    println!("next: convoke import {0}, or convoke train PHOTOS --pretrained {0}", path.display());
    Ok(())
}

pub fn run(args: Args) -> Result<()> {
    if let Some(Verb::Get(args)) = args.verb {
        return get(args);
    }
    if let Some(folder) = &args.svg {
        for e in convoke_zoo::MODELS {
            let net = convoke_zoo::build(e.name, &Options::default())?;
            write_file(&folder.join(format!("{}.svg", e.name)), diagram(&net).as_bytes())?;
        }
    }
    let rows = rows()?;
    if args.json {
        println!("{}", json!(rows));
        return Ok(());
    }
    println!(
        "{:<19} {:>4} {:>11} {:>7} {:>9} {:>5} {:>7} {:>8}  {:<23}  what",
        "name", "year", "parameters", "GMACs", "input", "MiB", "MiB, 32", "ImageNet", "paper by"
    );
    for row in rows {
        let [h, w, c] = row.input;
        let error = row.challenge_top5_error_percent.map_or(String::new(), |v| format!("{v} %"));
        println!(
            "{:<19} {:>4} {:>11} {:>7} {:>9} {:>5} {:>7} {error:>8}  {:<23}  {}",
            row.name,
            row.year,
            thousands(row.parameters as u64),
            match row.macs as f64 / 1e9 {
                giga if giga < 0.01 => format!("{giga:.4}"),
                giga => format!("{giga:.3}"),
            },
            format!("{h}x{w}x{c}"),
            row.predict_memory_bytes >> 20,
            row.predict_memory_bytes_batch_32 >> 20,
            row.paper.split_once(", ").map_or(row.paper, |(authors, _)| authors),
            row.about
        );
    }
    println!(
        "MiB: predicting one picture, and 32 at a time. ImageNet: top-5 error in the year's challenge."
    );
    println!("titles of the papers and more: convoke models --json");
    Ok(())
}

/// What is told of a network.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    year: u16,
    parameters: usize,
    macs: u64,
    /// Height, width, channels.
    input: [usize; 3],
    classes: usize,
    paper: &'static str,
    about: &'static str,
    challenge_top5_error_percent: Option<f32>,
    predict_memory_bytes: usize,
    predict_memory_bytes_batch_32: usize,
    /// Parameters with the auxiliary heads that training has.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters_with_heads: Option<usize>,
}

impl Row {
    fn of(e: &'static Entry) -> Result<Self> {
        let net = convoke_zoo::build(e.name, &Options::default())?;
        let trained = convoke_zoo::build_to_train(e.name, &Options::default())?;
        let memory = |batch| {
            anyhow::Ok(Plan::compile(&net, &PlanOptions::predict(batch, 1))?.memory().total)
        };
        Ok(Row {
            name: e.name,
            year: e.year,
            parameters: net.parameters(),
            macs: net.macs(),
            input: e.input.into(),
            classes: e.classes,
            paper: e.paper,
            about: e.about,
            challenge_top5_error_percent: e.challenge,
            predict_memory_bytes: memory(1)?,
            predict_memory_bytes_batch_32: memory(32)?,
            parameters_with_heads: (!trained.heads().is_empty()).then(|| trained.parameters()),
        })
    }
}

/// All networks, the oldest first; planned on all cores, since each is planned twice.
fn rows() -> Result<Vec<Row>> {
    let mut entries: Vec<&'static Entry> = convoke_zoo::MODELS.iter().collect();
    entries.sort_by_key(|e| e.year);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = entries.get(at) else { return done };
            done.push((at, Row::of(entry)));
        }
    };
    let mut all: Vec<(usize, Result<Row>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|e| resume_unwind(e))).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, row)| row).collect()
}
