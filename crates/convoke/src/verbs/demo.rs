//! `convoke demo`.

use crate::common::{Threads, duration};
use crate::progress::{Bar, interrupt};
use anyhow::Result;
use clap::ArgAction;
use convoke_vision::demo::{DemoOptions, run_demo};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Draw a crowd, learn to find the striped figure in it, find it: no data needed
#[derive(clap::Args)]
pub struct Args {
    /// Folder for the pictures and the model
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    out: PathBuf,
    /// Another seed draws another crowd
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Print one JSON object
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    let options = DemoOptions {
        seed: args.seed,
        threads: args.threads.count(),
        ..DemoOptions::new(&args.out)
    };
    let stop = interrupt();
    let mut bar = Bar::new(args.json);
    let report = run_demo(&options, &mut |p| {
        bar.work(p.stage, p.done, p.of, &p.note);
        !stop.load(Ordering::Relaxed)
    });
    bar.finish();
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    for file in &report.files {
        eprintln!("wrote {}", file.display());
    }
    let verdict = if report.right { "which is right" } else { "which is wrong" };
    let place = report.found.map_or_else(
        || "The figure was not found, which is wrong".to_string(),
        |b| {
            let (x, y) = b.centre();
            format!(
                "The striped figure is at x {x:.0}, y {y:.0} (score {:.2}), {verdict}",
                report.score
            )
        },
    );
    println!(
        "{place}: one of {} figures, found after {}; look at {}, then try `convoke demo --seed {}`",
        report.figures,
        duration(report.seconds),
        args.out.join("scene.png").display(),
        args.seed + 1
    );
    Ok(())
}
