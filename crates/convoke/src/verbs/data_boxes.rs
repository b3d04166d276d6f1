//! `convoke data check` on pictures with boxes.

use crate::common::thousands;
use anyhow::Result;
use convoke_data::{BoxSet, FaultKind, Part, read_picture, write_file, write_png};
use convoke_vision::Bounds;
use convoke_vision::draw::draw_boxes;
use std::collections::BTreeMap;
use std::path::Path;

/// Pictures with something wrong that are drawn at most.
const DRAWN: usize = 40;
/// Faults that are told one by one.
const TOLD: usize = 20;

/// Counts, and what is wrong; with a folder also as json and pictures.
pub fn run(data: &Path, out: Option<&Path>) -> Result<()> {
    let set = BoxSet::open(data)?;
    let counts = set.counts();
    println!(
        "{}: {} pictures, {} boxes of {} classes",
        set.kind,
        thousands(set.pictures.len() as u64),
        thousands(counts.iter().sum::<usize>() as u64),
        set.classes.len()
    );
    for (name, part) in [("train", Part::Train), ("val", Part::Val), ("test", Part::Test)] {
        let n = set.pictures.iter().filter(|p| p.part == Some(part)).count();
        if n > 0 {
            println!("{name}: {} pictures", thousands(n as u64));
        }
    }
    println!(
        "{} pictures hold nothing by their marks, {} are not marked",
        set.negatives(),
        set.unlabelled()
    );
    println!("{:>8}  {:>17}  class", "boxes", "median size");
    for (class, (name, count)) in set.classes.iter().zip(&counts).enumerate() {
        println!("{:>8}  {:>17}  {name}", thousands(*count as u64), median(&set, class));
    }
    let (least, most) = (counts.iter().min().unwrap_or(&0), counts.iter().max().unwrap_or(&0));
    if *most > 10 * (*least).max(1) {
        println!("unbalanced: the largest class has {most} boxes, the smallest {least}");
    }
    let mut kinds = BTreeMap::<FaultKind, usize>::new();
    set.faults.iter().for_each(|f| *kinds.entry(f.kind).or_default() += 1);
    for (kind, n) in &kinds {
        println!("{n} × {}", kind.words());
    }
    set.faults.iter().take(TOLD).for_each(|f| println!("  {f}"));
    if set.faults.len() > TOLD {
        println!("  and {} more; --out DIR writes all of them", set.faults.len() - TOLD);
    }
    match out {
        Some(out) => draw(&set, out),
        None => Ok(()),
    }
}

fn median(set: &BoxSet, class: usize) -> String {
    let boxes = || set.pictures.iter().filter_map(|p| p.boxes.as_ref()).flatten();
    let side = |of: fn(&convoke_data::Area) -> f64| {
        let mut all: Vec<f64> = boxes().filter(|b| b.class == class).map(|b| of(&b.area)).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    match (side(|a| a.width), side(|a| a.height)) {
        (Some(w), Some(h)) => format!("{w:.0} x {h:.0}"),
        _ => "-".into(),
    }
}

/// All faults as json, and the pictures that have any: boxes that are kept in blue, wrong ones in red.
fn draw(set: &BoxSet, out: &Path) -> Result<()> {
    write_file(&out.join("faults.json"), serde_json::to_string_pretty(&set.faults)?.as_bytes())?;
    let mut drawn = 0;
    for p in &set.pictures {
        let of_it = set.faults.iter().filter(|f| f.picture.as_ref() == Some(&p.path));
        let wrong: Vec<Bounds> = of_it.filter_map(|f| f.area).map(Bounds::from).collect();
        if wrong.is_empty() || drawn == DRAWN {
            continue;
        }
        let kept: Vec<Bounds> = p.boxes.iter().flatten().map(|b| b.area.into()).collect();
        let Ok(picture) = read_picture(&p.path, 3) else { continue };
        drawn += 1;
        let stem = p.path.file_stem().map_or("picture".into(), |s| s.to_string_lossy());
        write_png(
            &out.join(format!("{drawn:02}-{stem}.png")),
            &draw_boxes(&picture, &kept, &wrong),
        )?;
    }
    println!("wrote faults.json and {drawn} pictures to {}", out.display());
    Ok(())
}
