//! `convoke val` for detectors.

use crate::common::thousands;
use crate::progress::Bar;
use anyhow::{Result, bail};
use convoke_data::{BoxSet, Part, write_png};
use convoke_formats::ModelFile;
use convoke_vision::metrics::draw_curves;
use convoke_vision::{
    Detector, Example, FindOptions, Finder, Judgement, SlideOptions, Thing, judge,
};
use serde_json::json;
use std::path::Path;

/// Judges a detector on the test part, else validation, else all marked pictures.
pub fn run(
    model: ModelFile,
    data: &Path,
    out: Option<&Path>,
    json: bool,
    threads: usize,
) -> Result<()> {
    let detector = Detector::from_model(model)?;
    let set = BoxSet::open(data)?;
    let in_part = |part: Part| -> Vec<usize> {
        (0..set.pictures.len()).filter(|&i| set.pictures[i].part == Some(part)).collect()
    };
    let parts = [in_part(Part::Test), in_part(Part::Val), (0..set.pictures.len()).collect()];
    let which = parts.into_iter().find(|p| !p.is_empty()).unwrap_or_default();
    let mut examples = Example::of_set(&set, &which);
    translate(&mut examples, &set.classes, &detector.model.classes)?;
    if examples.is_empty() {
        bail!("{}: no picture of that part is marked", data.display());
    }
    let names = detector.model.classes.clone();
    let mut finder = Finder::new(detector, SlideOptions { threads, ..SlideOptions::default() })?;
    let (mut bar, n) = (Bar::new(json), examples.len());
    let judged = judge(&mut finder, &examples, &FindOptions::default(), &mut |done| {
        bar.work("judged", done, n, "pictures");
        true
    })?;
    bar.finish();
    if let Some(out) = out {
        write_png(&out.join("precision-recall.png"), &draw_curves(&judged.curves))?;
        let text = serde_json::to_string_pretty(&judged)?;
        convoke_data::write_file(&out.join("judgement.json"), text.as_bytes())?;
    }
    match json {
        true => println!("{}", told(&judged, &names)),
        false => print(&judged, &names),
    }
    Ok(())
}

/// Classes of the data by the model's positions.
fn translate(examples: &mut [Example], theirs: &[String], ours: &[String]) -> Result<()> {
    for t in examples.iter_mut().flat_map(|e| &mut e.things) {
        let Thing { class, .. } = t;
        match ours.iter().position(|n| *n == theirs[*class]) {
            Some(place) => *class = place,
            None => bail!(
                "the data has boxes of `{}`, which the model does not know; it knows {}",
                theirs[*class],
                ours.join(", ")
            ),
        }
    }
    Ok(())
}

fn told(j: &Judgement, names: &[String]) -> serde_json::Value {
    let voc: Vec<f64> = j.curves.iter().filter_map(|c| c.average_precision).collect();
    let class = |(name, (c, curve)): (
        &String,
        (&convoke_vision::metrics::CocoClass, &convoke_vision::metrics::PrecisionRecall),
    )| {
        json!({
            "class": name, "boxes": c.truths, "map50": c.map50, "map50_95": c.map50_95,
            "recall": c.recall, "voc2010": curve.average_precision
        })
    };
    let classes: Vec<_> =
        names.iter().zip(j.coco.classes.iter().zip(&j.curves)).map(class).collect();
    json!({
        "map50": j.coco.map50, "map50_95": j.coco.map50_95, "map75": j.coco.map75,
        "recall": j.coco.recall[2], "voc2010": voc.iter().sum::<f64>() / voc.len().max(1) as f64,
        "hit_at_1": j.hits.share(1), "hit_at_5": j.hits.share(5), "n": j.n,
        "best_threshold": j.best_threshold, "seconds": j.seconds, "classes": classes
    })
}

fn print(j: &Judgement, names: &[String]) {
    let n = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.4}"));
    println!(
        "mAP50 {}  mAP50-95 {}  recall {}  on {} pictures ({:.1} a second)",
        n(j.coco.map50),
        n(j.coco.map50_95),
        n(j.coco.recall[2]),
        thousands(j.n as u64),
        j.n as f64 / j.seconds.max(1e-9)
    );
    println!(
        "first candidate right in {} of {} pictures, one of five in {}",
        j.hits.at_1, j.hits.pictures, j.hits.at_5
    );
    println!("{:<24} {:>7} {:>8} {:>9} {:>8}", "class", "boxes", "mAP50", "mAP50-95", "recall");
    for (name, c) in names.iter().zip(&j.coco.classes) {
        println!(
            "{name:<24} {:>7} {:>8} {:>9} {:>8}",
            thousands(c.truths as u64),
            n(c.map50),
            n(c.map50_95),
            n(c.recall)
        );
    }
    if let Some(t) = j.best_threshold {
        println!("precision and recall are best together from a score of {t:.2} on");
    }
}
