//! `convoke data`.

use crate::common::{Threads, thousands};
use crate::verbs::data_boxes;
use anyhow::{Result, bail};
use convoke_data::check::{CheckOptions, Kind, Report, Severity, Verdict, check, check_boxes};
use convoke_data::{BoxSet, write_file, write_png};
use convoke_vision::check_sheet;
use std::path::PathBuf;

/// Look at data before training on it
#[derive(clap::Subcommand)]
pub enum Verb {
    Check(Check),
}

/// Find what is wrong with data: broken and misnamed files, odd colours, duplicates and leakage, unbalanced
/// classes, boxes that cannot be
///
/// Exit code 0 when the data can be trained on, 1 when it is not fit: something is broken, leaks from split to
/// split, or has two classes.
#[derive(clap::Args)]
pub struct Check {
    /// Folder of class folders, IDX files or CIFAR-10 batches, or pictures with boxes
    data: PathBuf,
    /// Read headers alone; finds nothing that needs the pixels
    #[arg(long)]
    quick: bool,
    /// Warnings make it unfit, too
    #[arg(long)]
    strict: bool,
    /// Write check.json and check.png into this folder; for boxes also faults.json, and the pictures with wrong ones
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(verb: Verb) -> Result<()> {
    let Verb::Check(args) = verb;
    let options = CheckOptions { quick: args.quick, threads: args.threads.count() };
    let boxes = BoxSet::is_one(&args.data).then(|| BoxSet::open(&args.data).ok()).flatten();
    let report = match &boxes {
        Some(set) => check_boxes(Some(&args.data), set, options),
        None => check(&args.data, options),
    };
    let mut json = serde_json::to_value(&report)?;
    json["verdict"] = serde_json::to_value(report.verdict())?;
    if let Some(out) = &args.out {
        write_file(&out.join("check.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
        write_png(&out.join("check.png"), &check_sheet(&report)?)?;
        if let Some(set) = &boxes {
            data_boxes::draw(set, out)?;
        }
    }
    match args.json {
        true => println!("{json}"),
        false => tell(&report),
    }
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    match report.verdict() {
        Verdict::Unfit => {
            bail!("{} is not fit to train on: {}", args.data.display(), counted(errors, "error"))
        }
        Verdict::Usable if args.strict => {
            bail!("{}: {}", args.data.display(), counted(warnings, "warning"))
        }
        _ => Ok(()),
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Files that are named for each kind of finding.
const NAMED: usize = 5;

fn tell(r: &Report) {
    if let Some(boxes) = &r.boxes {
        data_boxes::tell(r, boxes);
    } else {
        println!("{}: {} classes", r.kind, r.classes.len());
    }
    for s in r.splits.iter().filter(|_| r.boxes.is_none()) {
        println!("{}: {} pictures", s.name, thousands(s.n as u64));
        for (class, n) in r.classes.iter().zip(&s.per_class) {
            println!("  {:>8}  {class}", thousands(*n as u64));
        }
    }
    let s = &r.sizes;
    if s.most > 0 {
        println!("sizes: median {}x{}, sides from {} to {}", s.width, s.height, s.least, s.most);
    }
    for (kind, findings) in r.by_kind() {
        let mark = match kind.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        println!("{mark}: {} ({}): {}", kind.words(), findings.len(), kind.remedy());
        // Each box is wrong in a way of its own.
        let named = if kind == Kind::Box { 4 * NAMED } else { NAMED };
        for f in findings.iter().take(named) {
            let files: Vec<String> =
                f.files.iter().take(3).map(|p| p.display().to_string()).collect();
            let more = if f.files.len() > 3 {
                format!(" and {} more", f.files.len() - 3)
            } else {
                String::new()
            };
            let colon = if files.is_empty() { "" } else { ": " };
            println!("  {}{more}{colon}{}", files.join(" = "), f.told);
        }
        if findings.len() > named {
            println!("  and {} more; see --json", findings.len() - named);
        }
    }
    let quick = if r.quick { " (quick look)" } else { "" };
    match r.verdict() {
        Verdict::Clean => println!("verdict: nothing is wrong{quick}"),
        Verdict::Usable => {
            let warnings = counted(r.count(Severity::Warning), "warning");
            println!("verdict: can be trained on, with {warnings}{quick}");
        }
        Verdict::Unfit => println!("verdict: not fit to train on{quick}"),
    }
}
