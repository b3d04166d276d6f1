//! `convoke models`.

use crate::common::thousands;
use crate::fetch;
use crate::progress::Bar;
use anyhow::Result;
use convoke_data::write_file;
use convoke_engine::{Plan, PlanOptions};
use convoke_vision::diagram::diagram;
use serde_json::json;
use std::path::PathBuf;

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
    let mut list = Vec::new();
    if !args.json {
        println!(
            "{:<15} {:>4} {:>12} {:>7} {:>11} {:>6} {:>7} {:>8}  what",
            "name", "year", "parameters", "GMACs", "input", "MiB", "MiB, 32", "ImageNet"
        );
    }
    for e in convoke_zoo::MODELS {
        let net = convoke_zoo::build(e.name, &convoke_zoo::Options::default())?;
        if let Some(folder) = &args.svg {
            write_file(&folder.join(format!("{}.svg", e.name)), diagram(&net).as_bytes())?;
        }
        let (parameters, macs) = (net.parameters(), net.macs());
        // What predicting one picture, and 32 at a time, takes.
        let memory = |batch| {
            anyhow::Ok(Plan::compile(&net, &PlanOptions::predict(batch, 1))?.memory().total)
        };
        let (one, many) = (memory(1)?, memory(32)?);
        if args.json {
            list.push(json!({"name": e.name, "year": e.year, "parameters": parameters, "macs": macs,
                "input": [e.input.h, e.input.w, e.input.c], "classes": e.classes, "paper": e.paper, "about": e.about,
                "challenge_top5_error_percent": e.challenge,
                "predict_memory_bytes": one, "predict_memory_bytes_batch_32": many}));
        } else {
            let (input, parameters) = (e.input.to_string(), thousands(parameters as u64));
            let error = e.challenge.map_or(String::new(), |v| format!("{v} %"));
            println!(
                "{:<15} {:>4} {parameters:>12} {:>7} {input:>11} {:>6} {:>7} {error:>8}  {}",
                e.name,
                e.year,
                match macs as f64 / 1e9 {
                    giga if giga < 0.01 => format!("{giga:.4}"),
                    giga => format!("{giga:.3}"),
                },
                one >> 20,
                many >> 20,
                e.about
            );
        }
    }
    if !args.json {
        println!(
            "MiB: predicting one picture, and 32 at a time. ImageNet: top-5 error in the year's challenge."
        );
    }
    if args.json {
        println!("{}", json!(list));
    }
    Ok(())
}
