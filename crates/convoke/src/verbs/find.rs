//! `convoke find`.

use crate::common::{Threads, duration, left_out, model_path};
use crate::progress::Bar;
use crate::verbs::find_events;
use anyhow::{Context, Result, bail};
use convoke_data::{Picture, Source, Split, read_facts, read_picture, write_file, write_png};
use convoke_formats::ModelFile;
use convoke_vision::draw::{heat_map, mark};
use convoke_vision::{
    Bands, Bounds, Detector, FindOptions, Finder, Found, ScaledRows, SlideOptions, VisionError,
    candidate_crop, candidate_sheet, overview, surroundings,
};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Find things in big pictures: boxes, heat map, ranked crops
#[derive(clap::Args)]
pub struct Args {
    /// Detector: a run folder, or a model file such as the demo's finder.safetensors
    model: String,
    /// Pictures, or folders of them: the frames of a video, say; for a model over signals, recordings as CSV tables
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Folder for the pictures of results
    #[arg(long, default_value = "runs/find/found", value_name = "DIR")]
    out: PathBuf,
    /// At most so many candidates in each picture
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: u32,
    /// Least score of a find, from 0 to 1 [default: the detector's own]
    #[arg(long, value_name = "X")]
    threshold: Option<f64>,
    /// Look for this class alone; may be given several times
    #[arg(long, value_name = "NAME")]
    class: Vec<String>,
    /// Scales at which pictures are looked at, such as 1,0.7,0.5: 0.5 finds things twice as large
    /// [default: the detector's own]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    scales: Option<Vec<f64>>,
    /// Looks at the mirrored picture as well and takes the mean: surer, and slower than `--mirror=false`
    #[arg(
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    mirror: bool,
    /// Write no pictures, only what was found
    #[arg(long)]
    no_pictures: bool,
    /// Print one JSON object per line and picture
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    if let Some(t) = args.threshold.filter(|t| !(0.0..=1.0).contains(t)) {
        bail!("--threshold {t} must be from 0 to 1");
    }
    let path = model_path(&args.model)?;
    if let Some(model) = ModelFile::load(&path).ok().filter(|m| m.preprocess.signal.is_some()) {
        let look = find_events::Look {
            files: &args.pictures,
            threshold: args.threshold,
            classes: &args.class,
            json: args.json,
            threads: args.threads.count(),
        };
        return find_events::run(model, &look);
    }
    let mut detector = Detector::open(&path)?;
    if let Some(t) = args.threshold {
        detector.threshold = t;
    }
    let options = options(&args, &detector)?;
    let slide = SlideOptions { threads: args.threads.count(), ..SlideOptions::default() };
    let mut finder = Finder::new(detector, slide)?;
    let files = files(&args.pictures)?;
    let mut names = HashSet::new();
    let (mut failed, mut bar) = (Vec::new(), Bar::new(args.json || files.len() < 3));
    let (start, mut looked) = (Instant::now(), 0.0);
    for (i, path) in files.iter().enumerate() {
        bar.work("found in", i, files.len(), &path.display().to_string());
        let stem = unique(path, &mut names);
        match one(&args, &options, &mut finder, path, &stem, files.len() == 1) {
            Ok(seconds) => looked += seconds,
            Err(e) => failed.push(e),
        }
    }
    bar.finish();
    if files.len() > 1 {
        let n = (files.len() - failed.len()) as f64;
        eprintln!(
            "{n} pictures in {}: {:.1} pictures a second, {:.1} for finding alone; {}",
            duration(start.elapsed().as_secs_f64()),
            n / start.elapsed().as_secs_f64().max(1e-9),
            n / looked.max(1e-9),
            args.out.display()
        );
    }
    left_out(failed, files.len(), "searched")
}

fn options(args: &Args, detector: &Detector) -> Result<FindOptions> {
    let position = |name: &String| {
        let known = &detector.model.classes;
        known.iter().position(|c| c == name).with_context(|| {
            format!("the detector knows no class `{name}`; it knows {}", known.join(", "))
        })
    };
    let classes: Vec<usize> = args.class.iter().map(position).collect::<Result<_>>()?;
    if let Some(s) = args.scales.iter().flatten().find(|s| !(0.001..=16.0).contains(*s)) {
        bail!("scale {s} must be from 0.001 to 16");
    }
    Ok(FindOptions {
        top: args.top as usize,
        scales: args.scales.clone(),
        mirror: args.mirror,
        classes: (!classes.is_empty()).then_some(classes),
        ..FindOptions::default()
    })
}

/// Folders as the pictures in them, in the order of their names.
fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in given {
        match path.is_dir() {
            true => match Split::unlabelled(path)?.source {
                Source::Files(mut files) => {
                    files.sort();
                    all.append(&mut files);
                }
                Source::Memory { .. } | Source::Signals(_) => {}
            },
            false => all.push(path.clone()),
        }
    }
    Ok(all)
}

/// A name for a picture's results that no other has.
fn unique(path: &Path, names: &mut HashSet<String>) -> String {
    let stem = path.file_stem().map_or("picture".into(), |s| s.to_string_lossy().into_owned());
    let mut name = stem.clone();
    let mut n = 1;
    while !names.insert(name.clone()) {
        n += 1;
        name = format!("{stem}-{n}");
    }
    name
}

/// Pictures of more pixels are read band by band, where their format allows it, and results are drawn on a
/// copy of at most so many.
const LARGE: f64 = 60e6;

/// Searches one picture; the seconds that finding took.
fn one(
    args: &Args,
    options: &FindOptions,
    finder: &mut Finder,
    path: &Path,
    stem: &str,
    alone: bool,
) -> Result<f64> {
    let place = |kind: &str| args.out.join(format!("{stem}-{kind}"));
    let (width, height) = read_facts(path)?.shown();
    let large = (width * height) as f64 > LARGE && ScaledRows::open(path, 1.0)?.is_some();
    let start = Instant::now();
    let (found, seconds) = if large {
        let mut open = |scale: f64| match ScaledRows::open(path, scale)? {
            Some(rows) => Ok(Box::new(rows) as Box<dyn Bands>),
            None => Err(VisionError::Other(format!("{} has changed", path.display()))),
        };
        let found = finder.find_in_bands((width, height), &mut open, options)?;
        let seconds = start.elapsed().as_secs_f64();
        if !args.no_pictures {
            large_pictures(args, path, &found, &place)?;
        }
        (found, seconds)
    } else {
        let picture = read_picture(path, finder.detector().model.preprocess.channels)?;
        let start = Instant::now();
        let found = finder.find(&picture, options)?;
        let seconds = start.elapsed().as_secs_f64();
        if !args.no_pictures {
            pictures(args, &picture, &found, &place)?;
        }
        (found, seconds)
    };
    let json = serde_json::json!({
        "path": path.display().to_string(), "seconds": seconds, "found": found
    });
    write_file(&place("found.json"), json.to_string().as_bytes())?;
    match args.json {
        true => println!("{json}"),
        false => tell(path, &found, seconds, alone),
    }
    if alone && !args.json && !args.no_pictures {
        println!("  pictures: {}", place("*").display());
    }
    Ok(seconds)
}

/// The picture with boxes, the heat map, the candidates on a sheet and one by one.
fn pictures(
    args: &Args,
    picture: &Picture,
    found: &Found,
    place: &dyn Fn(&str) -> PathBuf,
) -> Result<()> {
    write_png(&place("found.png"), &mark(picture, found))?;
    write_png(&place("heat.png"), &heat_map(picture, found))?;
    write_png(&place("candidates.png"), &candidate_sheet(picture, found, args.top as usize)?)?;
    for (rank, c) in found.candidates.iter().enumerate() {
        write_png(&crop_place(place, rank, c.score), &candidate_crop(picture, &c.bounds)?)?;
    }
    Ok(())
}

fn crop_place(place: &dyn Fn(&str) -> PathBuf, rank: usize, score: f64) -> PathBuf {
    place("crops").join(format!("{:02}-{score:.3}.png", rank + 1))
}

/// The same for a picture that is not in memory: boxes and heat on a smaller copy, crops from the file.
fn large_pictures(
    args: &Args,
    path: &Path,
    found: &Found,
    place: &dyn Fn(&str) -> PathBuf,
) -> Result<()> {
    let Some((copy, scale)) = overview(path, LARGE / 5.0)? else { return Ok(()) };
    let small = found.at_scale(scale);
    write_png(&place("found.png"), &mark(&copy, &small))?;
    write_png(&place("heat.png"), &heat_map(&copy, &small))?;
    write_png(&place("candidates.png"), &candidate_sheet(&copy, &small, args.top as usize)?)?;
    let boxes: Vec<Bounds> = found.candidates.iter().map(|c| c.bounds).collect();
    let around = surroundings(path, &boxes)?;
    for (rank, ((crop, own), c)) in around.iter().zip(&found.candidates).enumerate() {
        write_png(&crop_place(place, rank, c.score), &candidate_crop(crop, own)?)?;
    }
    Ok(())
}

fn tell(path: &Path, found: &Found, seconds: f64, all: bool) {
    let sure = found.candidates.iter().filter(|c| c.found).count();
    println!("{}: {sure} found in {seconds:.2} s", path.display());
    // Of many pictures, what was found and the best guess where nothing was.
    let shown = found.candidates.iter().enumerate().filter(|(i, c)| all || c.found || *i == 0);
    for (rank, c) in shown {
        let ((x, y), mark) =
            (c.bounds.centre(), if c.found { "" } else { "  (below the threshold)" });
        println!(
            "  {:>2}. x {x:>6.0}  y {y:>6.0}  {:>4.0} x {:<4.0}  score {:.3}  {}{mark}",
            rank + 1,
            c.bounds.width,
            c.bounds.height,
            c.score,
            c.class
        );
    }
}
