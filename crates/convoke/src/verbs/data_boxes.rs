//! `convoke data check` on pictures with boxes.

use crate::common::thousands;
use anyhow::Result;
use convoke_data::check::{BoxFacts, Report};
use convoke_data::{BoxSet, read_picture, write_file, write_png};
use convoke_vision::Bounds;
use convoke_vision::draw::draw_boxes;
use std::path::Path;

/// Pictures with something wrong that are drawn at most.
const DRAWN: usize = 40;

/// What the set holds.
pub fn tell(r: &Report, boxes: &BoxFacts) {
    println!(
        "{}: {} pictures, {} boxes of {} classes",
        r.kind,
        thousands(r.splits.iter().map(|s| s.n as u64).sum()),
        thousands(boxes.classes.iter().map(|c| c.n as u64).sum()),
        boxes.classes.len()
    );
    for s in r.splits.iter().filter(|_| r.splits.len() > 1) {
        println!("{}: {} pictures", s.name, thousands(s.n as u64));
    }
    println!(
        "{} pictures hold nothing by their marks, {} are not marked",
        boxes.negatives, boxes.unlabelled
    );
    println!("{:>8}  {:>17}  class", "boxes", "median size");
    for c in &boxes.classes {
        let median = c.median.map_or("-".into(), |(w, h)| format!("{w:.0} x {h:.0}"));
        println!("{:>8}  {median:>17}  {}", thousands(c.n as u64), c.name);
    }
}

/// All faults as json, and the pictures that have any: boxes that are kept in blue, wrong ones in red.
pub fn draw(set: &BoxSet, out: &Path) -> Result<()> {
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
    eprintln!("wrote faults.json and {drawn} pictures to {}", out.display());
    Ok(())
}
