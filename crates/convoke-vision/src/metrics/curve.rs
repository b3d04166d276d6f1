//! Precision against recall: data first, then a picture.

use super::{Detection, Truth, VocYear, by_score, voc_average_precision};
use crate::plot::{Axes, Canvas, PALETTE};
use convoke_data::Picture;
use serde::Serialize;

/// What a detector does when it tells all finds of at least this score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    /// The score.
    pub score: f64,
    /// Share of the things asked for that are found.
    pub recall: f64,
    /// Share of the finds that are right.
    pub precision: f64,
}

/// The curve of one class at an overlap of one half.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrecisionRecall {
    /// The class.
    pub class: String,
    /// Things that are asked for.
    pub truths: usize,
    /// Area under the curve (Pascal VOC 2010).
    pub average_precision: Option<f64>,
    /// By falling score.
    pub points: Vec<CurvePoint>,
}

impl PrecisionRecall {
    /// The point with the best harmonic mean of precision and recall (F1).
    pub fn best(&self) -> Option<CurvePoint> {
        let f1 =
            |p: &CurvePoint| 2.0 * p.precision * p.recall / (p.precision + p.recall).max(1e-12);
        // Of equals the one of the highest score, which comes first.
        self.points.iter().copied().rev().max_by(|a, b| f1(a).total_cmp(&f1(b)))
    }
}

/// The curves of all classes.
pub fn precision_recall(
    truths: &[Truth],
    detections: &[Detection],
    classes: &[String],
) -> Vec<PrecisionRecall> {
    let one = |(class, name): (usize, &String)| PrecisionRecall {
        class: name.clone(),
        truths: truths.iter().filter(|t| t.class == class && !ignored(t)).count(),
        average_precision: voc_average_precision(truths, detections, class, 0.5, VocYear::Voc2010),
        points: points(truths, detections, class),
    };
    classes.iter().enumerate().map(one).collect()
}

fn ignored(t: &Truth) -> bool {
    t.crowd || t.difficult
}

fn points(truths: &[Truth], detections: &[Detection], class: usize) -> Vec<CurvePoint> {
    let of_class: Vec<usize> = (0..truths.len()).filter(|&t| truths[t].class == class).collect();
    let asked = of_class.iter().filter(|&&t| !ignored(&truths[t])).count();
    let which = (0..detections.len()).filter(|&d| detections[d].class == class).collect();
    let (mut taken, mut right, mut all) = (vec![false; truths.len()], 0, 0);
    let mut points: Vec<CurvePoint> = Vec::new();
    for d in by_score(detections, which) {
        let d = &detections[d];
        let overlaps = of_class
            .iter()
            .filter(|&&t| truths[t].picture == d.picture)
            .map(|&t| (truths[t].bounds.iou(&d.bounds), t));
        let best = overlaps.filter(|o| o.0 >= 0.5).max_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((_, t)) if ignored(&truths[t]) => continue,
            Some((_, t)) if !taken[t] => {
                taken[t] = true;
                right += 1;
            }
            _ => {}
        }
        all += 1;
        let recall = f64::from(right) / asked.max(1) as f64;
        let point =
            CurvePoint { score: d.score, recall, precision: f64::from(right) / f64::from(all) };
        match points.last_mut() {
            // Finds of equal score are told together.
            Some(last) if last.score == d.score => *last = point,
            _ => points.push(point),
        }
    }
    points
}

/// All curves in one picture.
pub fn draw_curves(curves: &[PrecisionRecall]) -> Picture {
    let mut canvas = Canvas::new(760, 560);
    let axes = Axes { left: 70, top: 46, right: 735, bottom: 500 };
    canvas.axes(&axes, "precision against recall (overlap of at least 0.5)", "recall", "precision");
    for (i, curve) in curves.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        let start = curve.points.first().map(|p| (0.0, p.precision));
        let path = start.into_iter().chain(curve.points.iter().map(|p| (p.recall, p.precision)));
        canvas.path(&axes, path, colour);
        if i < 16 {
            let ap = curve.average_precision.map_or("-".into(), |ap| format!("{ap:.3}"));
            canvas.legend(&axes, i, &format!("{}  AP {ap}", curve.class), colour);
        }
    }
    canvas.into_picture()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::Bounds;

    fn at(x: f64) -> Bounds {
        Bounds { left: x, top: 0.0, width: 10.0, height: 10.0 }
    }

    fn truth(x: f64, difficult: bool) -> Truth {
        Truth { picture: 0, class: 0, bounds: at(x), area: 100.0, crowd: false, difficult }
    }

    fn find(x: f64, score: f64) -> Detection {
        Detection { picture: 0, class: 0, bounds: at(x), score }
    }

    #[test]
    fn the_curve_falls_with_false_alarms_and_skips_what_is_difficult() {
        let truths = [truth(0.0, false), truth(20.0, false), truth(40.0, true)];
        let finds =
            [find(1.0, 0.9), find(60.0, 0.8), find(40.0, 0.75), find(21.0, 0.7), find(0.0, 0.7)];
        let curve = &precision_recall(&truths, &finds, &["a".into()])[0];
        let points: Vec<_> =
            curve.points.iter().map(|p| (p.score, p.recall, p.precision)).collect();
        assert_eq!(points, [(0.9, 0.5, 1.0), (0.8, 0.5, 0.5), (0.7, 1.0, 0.5)]);
        assert_eq!(curve.truths, 2);
        assert_eq!(curve.best().unwrap().score, 0.9);
        let p = draw_curves(std::slice::from_ref(curve));
        if let Ok(folder) = std::env::var("CONVOKE_PLOTS") {
            convoke_data::write_png(format!("{folder}/pr.png").as_ref(), &p).unwrap();
        }
        let [r, g, b] = PALETTE[0];
        assert!(p.data.chunks_exact(3).filter(|c| *c == [r, g, b]).count() > 200);
        draw_curves(&[]);
    }
}
