//! `convoke find`.

use crate::common::{Threads, duration, left_out, model_path};
use anyhow::Result;
use convoke_data::{read_picture, write_file, write_png};
use convoke_vision::draw::{heat_map, mark};
use convoke_vision::{Detector, FindOptions, Finder, SlideOptions, candidate_sheet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Find a thing in big pictures: boxes, heat map, ranked crops
#[derive(clap::Args)]
pub struct Args {
    /// Detector: a model file such as the demo's finder.safetensors, or its folder
    model: String,
    /// Pictures
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Folder for the pictures of results
    #[arg(long, default_value = "runs/find", value_name = "DIR")]
    out: PathBuf,
    /// At most so many candidates in each picture
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: u32,
    /// Print one JSON object per line and picture
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    let detector = Detector::open(&model_path(&args.model)?)?;
    let slide = SlideOptions { threads: args.threads.count(), ..SlideOptions::default() };
    let mut finder = Finder::new(detector, slide)?;
    let mut failed = Vec::new();
    for path in &args.pictures {
        failed.extend(one(&args, &mut finder, path).err());
    }
    left_out(failed, args.pictures.len(), "searched")
}

fn one(args: &Args, finder: &mut Finder, path: &Path) -> Result<()> {
    let picture = read_picture(path, finder.detector().model.preprocess.channels)?;
    let options = FindOptions { top: args.top as usize, ..FindOptions::default() };
    let start = Instant::now();
    let found = finder.find(&picture, &options)?;
    let seconds = start.elapsed().as_secs_f64();
    let stem = path.file_stem().map_or("picture".into(), |s| s.to_string_lossy().into_owned());
    let place = |kind: &str| args.out.join(format!("{stem}-{kind}"));
    write_png(&place("found.png"), &mark(&picture, &found))?;
    write_png(&place("heat.png"), &heat_map(&picture, &found))?;
    write_png(&place("candidates.png"), &candidate_sheet(&picture, &found, args.top as usize)?)?;
    let json = serde_json::json!({"path": path.display().to_string(), "found": found});
    write_file(&place("found.json"), json.to_string().as_bytes())?;
    if args.json {
        println!("{json}");
        return Ok(());
    }
    let sure = found.candidates.iter().filter(|c| c.found).count();
    println!(
        "{}: {sure} found in {}",
        path.display(),
        duration(seconds).replace("0 s", "under a second")
    );
    for (rank, c) in found.candidates.iter().enumerate() {
        let ((x, y), mark) =
            (c.bounds.centre(), if c.found { "" } else { "  (below the threshold)" });
        println!(
            "  {:>2}. x {x:>6.0}  y {y:>6.0}  score {:.3}  {}{mark}",
            rank + 1,
            c.score,
            c.class
        );
    }
    println!("  pictures: {}", place("*").display());
    Ok(())
}
