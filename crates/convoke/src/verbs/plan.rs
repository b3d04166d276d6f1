//! `convoke plan`.

use crate::common::{self, Model, Threads, bytes, parse_shape, thousands, units};
use anyhow::Result;
use convoke_data::write_file;
use convoke_engine::{Loss, MemoryReport, Network, Optimizer, Plan, PlanOptions, Shape};
use convoke_vision::diagram::diagram;
use serde_json::json;
use std::path::PathBuf;

/// Show what a network costs, layer by layer, before it runs
#[derive(clap::Args)]
pub struct Args {
    /// Zoo name, network file, model file or run folder
    model: String,
    /// Input as height x width x channels [default: the network's own]
    #[arg(long, value_parser = parse_shape, value_name = "HxWxC")]
    input: Option<Shape>,
    /// Number of classes [default: the network's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    classes: Option<u32>,
    /// Pictures per step
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print the training schedule, call by call, with every buffer's place
    #[arg(long)]
    explain: bool,
    /// Draw the network into this file, as boxes that get narrower and deeper
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    let network = match common::model(&args.model)? {
        Model::Network(source) => {
            let classes =
                args.classes.map(|c| c as usize).or(Some(10)).filter(|_| {
                    args.classes.is_some() || matches!(source, common::Source::Toml(..))
                });
            source.build(args.input, classes)?
        }
        Model::File(file, _) => match args.input {
            Some(input) => file.network.with_input(input)?,
            None => file.network,
        },
    };
    if let Some(path) = &args.svg {
        write_file(path, diagram(&network).as_bytes())?;
    }
    let (batch, threads) = (args.batch as usize, args.threads.count());
    let predict = Plan::compile(&network, &PlanOptions::predict(batch, threads))?;
    let train = train_plan(&network, batch, threads)?;
    if args.explain {
        print!("{}", train.explain());
        return Ok(());
    }
    if args.json {
        println!("{}", as_json(&network, &args, &predict.memory(), &train.memory()));
        return Ok(());
    }
    table(&network);
    println!();
    println!(
        "{} parameters, {} MACs ({} FLOP) forward, about three times that for a training step, per picture",
        thousands(network.parameters() as u64),
        units(network.macs() as f64),
        units(2.0 * network.macs() as f64)
    );
    println!("memory at batch {batch}, {threads} threads:");
    memory("predict", &predict.memory());
    memory("train", &train.memory());
    Ok(())
}

/// A training plan with SGD and momentum, whatever the output is.
fn train_plan(network: &Network, batch: usize, threads: usize) -> Result<Plan> {
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let loss = if network.output_shape().c > 1 {
        Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 }
    } else {
        Loss::SigmoidCrossEntropy { positive_weight: 1.0 }
    };
    let options =
        PlanOptions { keep_grads: false, ..PlanOptions::train(batch, threads, loss, sgd) };
    Ok(Plan::compile(network, &options)?)
}

fn rows(network: &Network) -> Vec<serde_json::Value> {
    let fields = network.fields();
    let params = network.params();
    network
        .iter()
        .map(|(id, node)| {
            let parameters: usize =
                params.iter().filter(|p| p.node == id).map(|p| p.range.len()).sum();
            let s = node.shape;
            json!({
                "name": node.name,
                "kind": node.layer.as_ref().map_or("input", |l| l.kind()),
                "output": [s.h, s.w, s.c],
                "parameters": parameters,
                "macs": network.macs_of(id),
                "field": [fields[id.index()].h.size, fields[id.index()].w.size],
                "bytes": 4 * s.len(),
            })
        })
        .collect()
}

fn as_json(
    network: &Network,
    args: &Args,
    predict: &MemoryReport,
    train: &MemoryReport,
) -> serde_json::Value {
    let s = network.input_shape();
    json!({
        "name": network.name(), "input": [s.h, s.w, s.c], "batch": args.batch,
        "parameters": network.parameters(), "macs": network.macs(),
        "memory": {"predict": predict, "train": train}, "layers": rows(network),
    })
}

fn table(network: &Network) {
    let rows = rows(network);
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_string();
    let width = rows.iter().map(|r| text(&r["name"]).len()).max().unwrap_or(0);
    println!(
        "{:<width$}  {:<19} {:>13} {:>11} {:>8} {:>11} {:>10}",
        "layer", "kind", "output", "parameters", "MACs", "field", "map"
    );
    for r in &rows {
        let n = |v: &serde_json::Value| v.as_u64().unwrap_or(0);
        let output =
            format!("{}x{}x{}", n(&r["output"][0]), n(&r["output"][1]), n(&r["output"][2]));
        let field = format!("{}x{}", n(&r["field"][0]), n(&r["field"][1]));
        let blank = |n: u64, s: String| if n == 0 { String::new() } else { s };
        println!(
            "{:<width$}  {:<19} {output:>13} {:>11} {:>8} {field:>11} {:>10}",
            text(&r["name"]),
            text(&r["kind"]),
            blank(n(&r["parameters"]), thousands(n(&r["parameters"]))),
            blank(n(&r["macs"]), units(n(&r["macs"]) as f64)),
            bytes(n(&r["bytes"]) as usize)
        );
    }
}

fn memory(what: &str, m: &MemoryReport) {
    println!(
        "  {what:<8} {:>10} = weights {} + packed {} + gradients {} + optimizer {} + maps {} + work space {}",
        bytes(m.total),
        bytes(m.parameters),
        bytes(m.packs),
        bytes(m.gradients),
        bytes(m.optimizer),
        bytes(m.activations),
        bytes(m.scratch)
    );
}
