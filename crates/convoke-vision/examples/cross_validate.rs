//! Cross-validation of a detector by picture, with a table of every picture: trains on all folds but one,
//! finds in that one, and so on.
//!
//! `cargo run --release -p convoke-vision --example cross_validate -- DATA OUT [folds=5] [only=0,1] [epochs=10]
//! [steps=500] [threads=2] [seed=1] [mirror=1] [judge=1]`
//!
//! OUT gets `fold-K.safetensors`, `table.csv` (fold, picture, rank of the first right candidate, the best
//! candidates) and, for each picture whose first candidate is wrong, the candidates as a sheet. `judge=1`
//! takes the detectors that are there instead of training.

use convoke_data::{BoxSet, write_file, write_png};
use convoke_vision::metrics::{Hits, first_hit};
use convoke_vision::{
    Beginning, Bounds, Detector, Example, FindOptions, Finder, LearnOptions, Learner, Regime,
    SlideOptions, SmallNetwork, candidate_sheet,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Args {
    data: PathBuf,
    out: PathBuf,
    named: HashMap<String, String>,
}

impl Args {
    fn read() -> Result<Args> {
        let mut all = std::env::args().skip(1);
        let (Some(data), Some(out)) = (all.next(), all.next()) else {
            return Err("give DATA and OUT".into());
        };
        let pair = |a: String| a.split_once('=').map(|(k, v)| (k.to_string(), v.to_string()));
        Ok(Args { data: data.into(), out: out.into(), named: all.filter_map(pair).collect() })
    }

    fn number<T: std::str::FromStr>(&self, name: &str, or: T) -> T {
        self.named.get(name).and_then(|v| v.parse().ok()).unwrap_or(or)
    }
}

fn main() -> Result<()> {
    let args = Args::read()?;
    let set = BoxSet::open(&args.data)?;
    let folds = set.folds(args.number("folds", 5), args.number("split", 0))?;
    let only: Vec<usize> = match args.named.get("only") {
        Some(list) => list.split(',').filter_map(|k| k.parse().ok()).collect(),
        None => (0..folds.len()).collect(),
    };
    let mut table = String::from("fold,picture,width,height,boxes,rank,seconds,candidates\n");
    let (mut hits, mut seconds) = (Hits::default(), 0.0);
    for &k in &only {
        let train: Vec<usize> = folds
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != k)
            .flat_map(|(_, f)| f.clone())
            .collect();
        let file = args.out.join(format!("fold-{k}.safetensors"));
        if args.number("judge", 0) == 0 {
            let start = Instant::now();
            let detector = learn(&args, &set, &train, k)?;
            println!("fold {k}: learnt in {:.0} s", start.elapsed().as_secs_f64());
            detector.to_model().save(&file)?;
        }
        let threads = args.number("threads", 2);
        let mut finder = Finder::new(
            Detector::open(&file)?,
            SlideOptions {
                threads,
                exact: args.number("exact", 1) == 1,
                ..SlideOptions::default()
            },
        )?;
        let mut own = Hits::default();
        for &i in &folds[k] {
            let one = look(&args, &mut finder, &set, i)?;
            let Some((rank, took, line)) = one else { continue };
            table += &format!("{k},{line}\n");
            hits.count(rank);
            own.count(rank);
            seconds += took;
        }
        println!(
            "fold {k}: {} pictures, hit@1 {:.3}, hit@5 {:.3}",
            own.pictures,
            own.share(1),
            own.share(5)
        );
    }
    write_file(&args.out.join("table.csv"), table.as_bytes())?;
    println!(
        "all: {} pictures, hit@1 {:.3}, hit@5 {:.3}, hit@10 {:.3}, {:.2} s a picture",
        hits.pictures,
        hits.share(1),
        hits.share(5),
        hits.share(10),
        seconds / hits.pictures.max(1) as f64
    );
    Ok(())
}

fn learn(args: &Args, set: &BoxSet, train: &[usize], fold: usize) -> Result<Detector> {
    let examples = Example::of_set(set, train);
    let (mut regime, why) = Regime::choose(&examples, &set.classes, 32)?;
    if fold == 0 {
        why.iter().for_each(|w| println!("{w}"));
    }
    regime.side = args.number("side", regime.side);
    regime.batch = args.number("batch", regime.batch);
    regime.paste = args.number("paste", regime.paste);
    regime.context = args.number("context", regime.context);
    regime.things = args.number("things", regime.things);
    regime.alarms = args.number("alarms", regime.alarms);
    regime.jitter = args.number("jitter", regime.jitter);
    regime.colour = args.number("colour", regime.colour);
    regime.coarse = args.number("coarse", regime.coarse);
    regime.turn = args.number("turn", regime.turn);
    let default = LearnOptions::default();
    let options = LearnOptions {
        epochs: args.number("epochs", default.epochs),
        steps: args.number("steps", default.steps),
        threads: args.number("threads", 2),
        seed: args.number("seed", 1),
        lr: args.number("lr", default.lr),
        weight_decay: args.number("decay", default.weight_decay),
        minings: args.number("minings", default.minings),
        box_weight: args.number("box", default.box_weight),
        ..default
    };
    let mut size = SmallNetwork::default();
    if let Some(list) = args.named.get("filters") {
        let all: Vec<usize> = list.split(',').filter_map(|n| n.parse().ok()).collect();
        size.filters.iter_mut().zip(all).for_each(|(f, n)| *f = n);
    }
    size.pyramid = args.number("pyramid", size.pyramid);
    let beginning = Beginning::small(&regime, set.classes.len(), size)?;
    let mut learner = Learner::new(examples, set.classes.clone(), regime, beginning, options)?;
    write_png(&args.out.join(format!("tiles-{fold}.png")), &learner.tile_sheet(40)?)?;
    let (start, mut last) = (Instant::now(), Instant::now());
    while !learner.is_done() {
        learner.epoch(&mut |m| {
            if last.elapsed().as_secs() >= 15 || m.step == m.steps {
                last = Instant::now();
                let took = start.elapsed().as_secs_f64();
                println!(
                    "  {took:>5.0} s  {}/{}  loss {:.3}  {} false alarms",
                    m.step, m.steps, m.loss, m.alarms
                );
            }
            true
        })?;
    }
    Ok(learner.detector())
}

/// The rank of the first right candidate, the seconds that it took, and the table's line; none for a picture
/// without things.
fn look(
    args: &Args,
    finder: &mut Finder,
    set: &BoxSet,
    i: usize,
) -> Result<Option<(Option<usize>, f64, String)>> {
    let p = &set.pictures[i];
    let truths: Vec<Bounds> = p.boxes.iter().flatten().map(|a| a.area.into()).collect();
    if truths.is_empty() {
        return Ok(None);
    }
    let example = Example::of_set(set, &[i]);
    let picture = example[0].picture()?;
    let options = FindOptions {
        top: 10,
        least: Some(args.number("least", 0.001)),
        mirror: args.number("mirror", 1) == 1,
        enlarge: args.number("enlarge", 6e6),
        overlap: args.number("overlap", 0.3),
        support: args.number("support", 0.5),
        ..FindOptions::default()
    };
    let start = Instant::now();
    let found = finder.find(&picture, &options)?;
    let took = start.elapsed().as_secs_f64();
    let rank = first_hit(found.candidates.iter().map(|c| &c.bounds), &truths);
    let name = p.path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let shown = |c: &convoke_vision::Candidate| {
        let (x, y) = c.bounds.centre();
        format!(
            "{x:.0}/{y:.0}/{:.0}x{:.0}@{}:{:.2}",
            c.bounds.width, c.bounds.height, c.scale, c.score
        )
    };
    let best: Vec<String> = found.candidates.iter().take(5).map(shown).collect();
    let rank_text = rank.map_or("-".into(), |r| (r + 1).to_string());
    if rank != Some(0) && args.number("sheets", 1) == 1 {
        let stem = Path::new(&name)
            .file_stem()
            .map_or(String::new(), |s| s.to_string_lossy().into_owned());
        let sheet = candidate_sheet(&picture, &found, 10)?;
        write_png(&args.out.join(format!("miss-{stem}.png")), &sheet)?;
    }
    let line = format!(
        "{name},{},{},{},{rank_text},{took:.2},{}",
        p.width,
        p.height,
        truths.len(),
        best.join(" ")
    );
    Ok(Some((rank, took, line)))
}
