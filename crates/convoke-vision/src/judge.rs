//! How good a detector is on marked pictures.

use crate::album::Example;
use crate::bounds::Bounds;
use crate::error::{Result, VisionError};
use crate::find::{FindOptions, Finder};
use crate::metrics::{
    CocoReport, Detection, Hits, PrecisionRecall, Truth, coco, first_hit, precision_recall,
};
use serde::Serialize;
use std::time::Instant;

/// What a detector is worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// Pictures.
    pub n: usize,
    /// COCO's numbers.
    pub coco: CocoReport,
    /// Pictures with something in them whose first candidates are right.
    pub hits: Hits,
    /// The score at which precision and recall are best together (F1), over all classes.
    pub best_threshold: Option<f64>,
    /// Curves of the classes.
    pub curves: Vec<PrecisionRecall>,
    /// For each picture that has a thing, the rank from 0 of the first candidate that is right.
    pub ranks: Vec<Option<usize>>,
    /// Seconds of finding.
    pub seconds: f64,
}

/// Finds in all pictures and compares. `each` is told how many are done and says whether to go on.
///
/// # Errors
/// When a picture cannot be read, or the caller stops.
pub fn judge(
    finder: &mut Finder,
    examples: &[Example],
    options: &FindOptions,
    each: &mut dyn FnMut(usize) -> bool,
) -> Result<Judgement> {
    let classes = finder.detector().model.classes.clone();
    let options = FindOptions { top: 300, least: Some(0.005), ..options.clone() };
    let (mut truths, mut detections) = (Vec::new(), Vec::new());
    let (mut hits, mut ranks, mut seconds) = (Hits::default(), Vec::new(), 0.0);
    for (i, e) in examples.iter().enumerate() {
        let picture = e.picture()?;
        let start = Instant::now();
        let found = finder.find(&picture, &options)?;
        seconds += start.elapsed().as_secs_f64();
        for t in &e.things {
            let area = t.bounds.area();
            let ignored = t.ignored;
            truths.push(Truth {
                picture: i,
                class: t.class,
                bounds: t.bounds,
                area,
                crowd: ignored,
                difficult: ignored,
            });
        }
        for c in &found.candidates {
            let class = classes.iter().position(|n| *n == c.class).unwrap_or(0);
            detections.push(Detection { picture: i, class, bounds: c.bounds, score: c.score });
        }
        let wanted: Vec<Bounds> =
            e.things.iter().filter(|t| !t.ignored).map(|t| t.bounds).collect();
        if !wanted.is_empty() {
            let rank = first_hit(found.candidates.iter().map(|c| &c.bounds), &wanted);
            hits.count(rank);
            ranks.push(rank);
        }
        if !each(i + 1) {
            return Err(VisionError::Stopped);
        }
    }
    let one = ["all".to_string()];
    let as_one =
        |t: &Truth| Truth { picture: t.picture + t.class * examples.len(), class: 0, ..*t };
    let all: Vec<Truth> = truths.iter().map(as_one).collect();
    let found: Vec<Detection> = detections
        .iter()
        .map(|d| Detection { picture: d.picture + d.class * examples.len(), class: 0, ..*d })
        .collect();
    let best = precision_recall(&all, &found, &one).first().and_then(PrecisionRecall::best);
    Ok(Judgement {
        n: examples.len(),
        coco: coco(&truths, &detections, classes.len()),
        hits,
        best_threshold: best.map(|p| p.score),
        curves: precision_recall(&truths, &detections, &classes),
        ranks,
        seconds,
    })
}
