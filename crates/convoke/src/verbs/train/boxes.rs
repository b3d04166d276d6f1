//! `convoke train` on pictures with boxes: a detector.

use super::{Args, Lr, tell_problems};
use crate::common::{self, Model, Threads, bytes, duration, thousands, units};
use crate::progress::{Bar, interrupt};
use anyhow::{Context, Result, bail};
use convoke_data::check::{CheckOptions, Kind, check_boxes};
use convoke_data::{BoxSet, BoxSplit, SplitOptions, write_png};
use convoke_engine::Shape;
use convoke_formats::ModelFile;
use convoke_train::RunFolder;
use convoke_vision::draw::mark;
use convoke_vision::metrics::draw_curves;
use convoke_vision::{
    Beginning, Example, FindOptions, Finder, Judgement, LearnOptions, Learner, Regime,
    SlideOptions, SmallNetwork, VisionError, draw_progress, judge,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What `args.toml` holds: enough to begin the run again.
#[derive(Serialize, Deserialize)]
struct Saved {
    task: String,
    data: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pretrained: Option<PathBuf>,
    val_fraction: f64,
    learn: LearnOptions,
    regime: Regime,
}

/// Seconds between two checkpoints within a round.
const CHECKPOINT: Duration = Duration::from_secs(120);
/// Pictures to look at from the validation part.
const SHOWN: usize = 4;

/// A new run.
pub fn fresh(args: &Args, data: &Path) -> Result<()> {
    let seed = args.seed;
    let (set, split) = open(data, seed, args.val_fraction)?;
    if !args.bare {
        quick_check(data, &set, args.threads.count());
    }
    let examples = Example::of_set(&set, &split.train);
    let align = 32;
    let (mut regime, why) = Regime::choose(&examples, &set.classes, align)?;
    if let Some(side) = args.size {
        regime.side = (side as usize).next_multiple_of(align);
    }
    if let Some(batch) = args.batch {
        regime.batch = batch as usize;
    }
    if args.no_augment {
        regime = Regime {
            turn: 0.0,
            mirror: false,
            colour: 0.0,
            coarse: 0.0,
            paste: 0.0,
            jitter: 0.0,
            ..regime
        };
    }
    for line in why {
        eprintln!("choice   {line}");
    }
    let things: usize = examples.iter().map(|e| e.things.len()).sum();
    let default = LearnOptions::default();
    let learn = LearnOptions {
        epochs: args.epochs.unwrap_or(10) as usize,
        steps: (500 + things / 20).min(3000),
        lr: match args.lr {
            Some(Lr::Rate(lr)) => lr,
            Some(Lr::Find) => bail!("--lr find is for classes; give a number"),
            None => default.lr,
        },
        weight_decay: args.weight_decay.unwrap_or(default.weight_decay),
        minings: default.minings.min(args.epochs.unwrap_or(10) as usize - 1),
        // Where sizes tell things apart, boxes are to fit; where one is to be found, its place counts more.
        box_weight: if regime.one_size { default.box_weight } else { 1.0 },
        precision: args.arithmetic.precision(),
        seed,
        threads: args.threads.count(),
        ..default
    };
    let pretrained = args.fine_tune.file().map(Path::to_path_buf);
    let saved = Saved {
        task: "find".into(),
        data: data.canonicalize().unwrap_or(data.into()),
        model: args.model.clone(),
        pretrained,
        val_fraction: args.val_fraction,
        learn,
        regime,
    };
    let folder = match &args.out {
        Some(out) => RunFolder::create(out)?,
        None => {
            let name =
                saved.data.file_stem().map_or("boxes".into(), |s| s.to_string_lossy().into_owned());
            RunFolder::next(Path::new("runs/find"), &name)?
        }
    };
    let learner = learner(&saved, examples, &set)?;
    // With args.toml the folder holds a run, and a run can be resumed.
    learner.checkpoint().save(&folder.checkpoint())?;
    folder.write_settings(&saved)?;
    folder.write("split.csv", &split_csv(&set, &split))?;
    write_png(&folder.path().join("tiles.png"), &learner.tile_sheet(24)?)?;
    go(learner, &set, &split, &folder, &saved, &interrupt())
}

/// Goes on with an interrupted run; none where the run's task is another one.
pub fn resume(folder: &RunFolder, text: &str, threads: Threads) -> Option<Result<()>> {
    let saved: Saved = toml::from_str(text).ok().filter(|s: &Saved| s.task == "find")?;
    Some(go_on(folder, saved, threads))
}

fn go_on(folder: &RunFolder, mut saved: Saved, threads: Threads) -> Result<()> {
    saved.learn.threads = threads.count();
    let (set, split) = open(&saved.data, saved.learn.seed, saved.val_fraction)?;
    let mut learner = learner(&saved, Example::of_set(&set, &split.train), &set)?;
    learner.resume(&ModelFile::load(&folder.checkpoint())?)?;
    go(learner, &set, &split, folder, &saved, &interrupt())
}

/// A quick look at the pictures; what is wrong with boxes is told when they are opened.
fn quick_check(data: &Path, set: &BoxSet, threads: usize) {
    let mut report = check_boxes(Some(data), set, CheckOptions { quick: true, threads });
    report.findings.retain(|f| !matches!(f.kind, Kind::Box | Kind::MissingPicture));
    tell_problems(data, &report);
}

fn open(data: &Path, seed: u64, val_fraction: f64) -> Result<(BoxSet, BoxSplit)> {
    let set = BoxSet::open(data)?;
    let split = set.split(&SplitOptions { seed, val_fraction })?;
    let n = |v: &[usize]| thousands(v.len() as u64);
    eprintln!(
        "data     {}: {} boxes of {} classes; {} pictures to train, {} to validate, {} to test",
        set.kind,
        thousands(set.counts().iter().sum::<usize>() as u64),
        set.classes.len(),
        n(&split.train),
        n(&split.val),
        n(&split.test)
    );
    if set.unlabelled() > 0 {
        eprintln!("note     {} pictures are not marked and not used", set.unlabelled());
    }
    if set.negatives() > 0 {
        eprintln!("note     {} pictures are marked as holding nothing", set.negatives());
    }
    for fault in set.faults.iter().take(8) {
        eprintln!("note     {fault}");
    }
    if set.faults.len() > 8 {
        eprintln!("note     and {} more; see convoke data check", set.faults.len() - 8);
    }
    Ok((set, split))
}

fn learner(saved: &Saved, examples: Vec<Example>, set: &BoxSet) -> Result<Learner> {
    let classes = set.classes.len();
    let beginning = match (&saved.model, &saved.pretrained) {
        (_, Some(file)) => {
            let model = ModelFile::load(file).with_context(|| {
                format!("{}: give weights that convoke import made", file.display())
            })?;
            Beginning::backbone(&model.network, Some(&model), &saved.regime, classes)?
        }
        (Some(name), None) => match common::model(name)? {
            Model::File(model, _) => {
                Beginning::backbone(&model.network, Some(&model), &saved.regime, classes)?
            }
            Model::Network(source) => {
                let input = source.input().map(|s| Shape { c: 3, ..s });
                Beginning::backbone(&source.build(input, None)?, None, &saved.regime, classes)?
            }
        },
        (None, None) => Beginning::small(&saved.regime, classes, SmallNetwork::default())?,
    };
    let names = set.classes.clone();
    Ok(Learner::new(examples, names, saved.regime.clone(), beginning, saved.learn.clone())?)
}

/// One line of `results.csv`.
struct Row {
    epoch: usize,
    loss: f32,
    lr: f32,
    seconds: f64,
    judged: Option<Judgement>,
}

impl Row {
    const HEAD: &str = "epoch,train_loss,lr,seconds,map50,map50_95,recall,hit_at_1,hit_at_5\n";

    fn line(&self) -> String {
        let o = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
        let j = self.judged.as_ref();
        let coco = j.map(|j| &j.coco);
        format!(
            "{},{:.6},{:.8},{:.3},{},{},{},{},{}\n",
            self.epoch,
            self.loss,
            self.lr,
            self.seconds,
            o(coco.and_then(|c| c.map50)),
            o(coco.and_then(|c| c.map50_95)),
            o(coco.and_then(|c| c.recall[2])),
            o(j.map(|j| j.hits.share(1))),
            o(j.map(|j| j.hits.share(5)))
        )
    }
}

fn go(
    mut learner: Learner,
    set: &BoxSet,
    split: &BoxSplit,
    folder: &RunFolder,
    saved: &Saved,
    stop: &AtomicBool,
) -> Result<()> {
    let plan = learner.plan();
    let net = plan.network();
    let field = net.fields()[net.output().index()];
    eprintln!(
        "network  {} on {}: {} parameters, {} MACs a tile, sees {} pixels, answers every {}; {} for training at batch {}",
        net.name(),
        net.input_shape(),
        thousands(net.parameters() as u64),
        units(net.macs() as f64),
        field.w.size,
        field.w.stride,
        bytes(plan.memory().total),
        saved.regime.batch
    );
    for p in learner.problems.iter().take(5) {
        eprintln!("left out {p}");
    }
    eprintln!("run      {}", folder.path().display());
    let held = if split.val.is_empty() { &split.test } else { &split.val };
    let held = Example::of_set(set, held);
    let (start, mut bar) = (Instant::now(), Bar::new(false));
    let mut rows = Vec::new();
    let mut best: Option<(f64, usize)> = None;
    let mut round_began = Instant::now();
    while !learner.is_done() {
        let (began, first) = (Instant::now(), learner.moment().step);
        let round = learner.moment().step / saved.learn.steps + 1;
        let mut last_line = Instant::now();
        let outcome = learner.epoch(&mut |m| {
            let done = m.step - (round - 1) * saved.learn.steps;
            let per = began.elapsed().as_secs_f64() / (m.step - first).max(1) as f64;
            if last_line.elapsed() > Duration::from_millis(200) {
                last_line = Instant::now();
                let left = duration(per * (m.steps - m.step) as f64);
                let message = format!("loss {:.4}  {} false alarms  {left} left", m.loss, m.alarms);
                let what = format!("epoch {round}/{}", saved.learn.epochs);
                bar.work(&what, done, saved.learn.steps, &message);
            }
            // Time for a checkpoint, unless false alarms are being gathered.
            let due = m.step > first && began.elapsed() > CHECKPOINT;
            !stop.load(Ordering::Relaxed) && !due
        });
        learner.checkpoint().save(&folder.checkpoint())?;
        match outcome {
            Ok(()) => {}
            Err(VisionError::Stopped) if stop.load(Ordering::Relaxed) => {
                bar.finish();
                println!(
                    "interrupted; go on with: convoke train --resume {}",
                    folder.path().display()
                );
                return Ok(());
            }
            Err(VisionError::Stopped) if learner.moment().step < round * saved.learn.steps => {
                continue;
            }
            Err(VisionError::Stopped) => {}
            Err(e) => return Err(e.into()),
        }
        let m = learner.moment();
        let mut detector = learner.detector();
        let judged = match held.is_empty() {
            true => None,
            false => {
                let slide =
                    SlideOptions { threads: saved.learn.threads, ..SlideOptions::default() };
                let mut finder = Finder::new(detector.clone(), slide)?;
                Some(judge(&mut finder, &held, &FindOptions::default(), &mut |_| true)?)
            }
        };
        if let Some(t) = judged.as_ref().and_then(|j| j.best_threshold) {
            detector.threshold = t.clamp(0.02, 0.95);
        }
        let model = detector.to_model();
        model.save(&folder.last())?;
        let score = judged.as_ref().and_then(|j| j.coco.map50).unwrap_or(0.0);
        if best.is_none_or(|(most, _)| score >= most) {
            best = Some((score, round));
            model.save(&folder.best())?;
            if let Some(j) = &judged {
                write_png(&folder.path().join("precision-recall.png"), &draw_curves(&j.curves))?;
            }
        }
        let row = Row {
            epoch: round,
            loss: m.loss,
            lr: m.lr,
            seconds: round_began.elapsed().as_secs_f64(),
            judged,
        };
        round_began = Instant::now();
        bar.line(&told(&row));
        rows.push(row);
        write_rows(folder, &rows)?;
    }
    bar.finish();
    let file = if folder.best().is_file() { folder.best() } else { folder.last() };
    show(folder, &file, &held, saved.learn.threads)?;
    let judged = match best {
        Some((score, round)) if !held.is_empty() => {
            format!("mAP50 {score:.3} on {} pictures held back (epoch {round})", held.len())
        }
        _ => "nothing to judge by".into(),
    };
    println!(
        "{judged} after {}; {}",
        duration(start.elapsed().as_secs_f64()),
        folder.path().display()
    );
    println!("next: convoke find {} PICTURE", folder.path().display());
    Ok(())
}

fn told(row: &Row) -> String {
    let judged = row.judged.as_ref().map_or(String::new(), |j| {
        let n = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.3}"));
        format!(
            "  mAP50 {}  mAP50-95 {}  hit@1 {:.0} %  hit@5 {:.0} %",
            n(j.coco.map50),
            n(j.coco.map50_95),
            100.0 * j.hits.share(1),
            100.0 * j.hits.share(5)
        )
    });
    format!("epoch {:>3}  loss {:.4}{judged}  {:.1} s", row.epoch, row.loss, row.seconds)
}

/// Earlier lines of a resumed run stay.
fn write_rows(folder: &RunFolder, rows: &[Row]) -> Result<()> {
    let path = folder.path().join("results.csv");
    let old = common::read_text(&path).unwrap_or_default();
    let first = rows.first().map_or(1, |r| r.epoch);
    let epoch = |l: &str| l.split(',').next().and_then(|e| e.parse::<usize>().ok());
    let mut text = Row::HEAD.to_string();
    let earlier = old.lines().skip(1).filter(|l| epoch(l).is_some_and(|e| e < first));
    earlier.for_each(|l| text += &format!("{l}\n"));
    rows.iter().for_each(|r| text += &r.line());
    folder.write("results.csv", &text)?;
    let column = |i: usize| -> Vec<f64> {
        text.lines().skip(1).filter_map(|l| l.split(',').nth(i)?.parse().ok()).collect()
    };
    let curves =
        [("mAP50", column(4)), ("mAP50-95", column(5)), ("hit@1", column(7)), ("hit@5", column(8))];
    write_png(&folder.path().join("results.png"), &draw_progress(&curves))?;
    Ok(())
}

/// Finds in some pictures that were held back, to look at.
fn show(folder: &RunFolder, model: &Path, held: &[Example], threads: usize) -> Result<()> {
    let detector = convoke_vision::Detector::open(model)?;
    let mut finder = Finder::new(detector, SlideOptions { threads, ..SlideOptions::default() })?;
    for (i, e) in held.iter().take(SHOWN).enumerate() {
        let picture = e.picture()?;
        let found = finder.find(&picture, &FindOptions::default())?;
        write_png(&folder.path().join(format!("found-{}.png", i + 1)), &mark(&picture, &found))?;
    }
    Ok(())
}

fn split_csv(set: &BoxSet, split: &BoxSplit) -> String {
    let mut text = String::from("split,boxes,file\n");
    for (name, part) in [("train", &split.train), ("val", &split.val), ("test", &split.test)] {
        for p in part.iter().map(|&i| &set.pictures[i]) {
            let file = p.path.display().to_string().replace('"', "\"\"");
            text += &format!("{name},{},\"{file}\"\n", p.boxes.as_ref().map_or(0, Vec::len));
        }
    }
    text
}
