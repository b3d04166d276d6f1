//! `convoke models`.

use crate::common::{thousands, units};
use anyhow::Result;
use serde_json::json;

/// List the networks that convoke knows by name
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON list
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut list = Vec::new();
    if !args.json {
        println!(
            "{:<13} {:>4} {:>12} {:>8}  {:<11} what",
            "name", "year", "parameters", "MACs", "input"
        );
    }
    for e in convoke_zoo::MODELS {
        let net = convoke_zoo::build(e.name, &convoke_zoo::Options::default())?;
        let (parameters, macs) = (net.parameters(), net.macs());
        if args.json {
            list.push(json!({"name": e.name, "year": e.year, "parameters": parameters, "macs": macs,
                "input": [e.input.h, e.input.w, e.input.c], "classes": e.classes, "paper": e.paper, "about": e.about}));
        } else {
            let (input, parameters) = (e.input.to_string(), thousands(parameters as u64));
            println!(
                "{:<13} {:>4} {parameters:>12} {:>8}  {input:<11} {}",
                e.name,
                e.year,
                units(macs as f64),
                e.about
            );
        }
    }
    if args.json {
        println!("{}", json!(list));
    }
    Ok(())
}
