//! COCO's metrics for boxes (Lin et al. 2014) as `pycocotools.COCOeval` computes them: average precision
//! over ten overlaps from 0.50 to 0.95 and 101 recalls; average recall for 1, 10 and 100 detections a
//! picture; by size of things.

use super::{Detection, Truth, by_score};
use crate::bounds::Bounds;
use serde::Serialize;
use std::collections::BTreeMap;

/// Detections of a class in a picture that count, at most.
const MOST: [usize; 3] = [1, 10, 100];
/// Areas from … to …: all, small, medium, large.
const AREAS: [(f64, f64); 4] = [(0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10)];
const THRESHOLDS: usize = 10;
const RECALLS: usize = 101;

/// The overlaps, as NumPy's `linspace(0.5, 0.95, 10)` rounds them.
fn overlap(t: usize) -> f64 {
    let step = (0.95 - 0.5) / 9.0;
    if t + 1 == THRESHOLDS { 0.95 } else { 0.5 + t as f64 * step }
}

/// What COCO tells of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CocoClass {
    /// Things that are asked for.
    pub truths: usize,
    /// Average precision over the ten overlaps; none where nothing is asked for.
    pub map50_95: Option<f64>,
    /// At an overlap of one half.
    pub map50: Option<f64>,
    /// Average recall of 100 detections a picture.
    pub recall: Option<f64>,
}

/// COCO's twelve numbers, none where nothing of a kind is asked for, and those of each class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CocoReport {
    /// Average precision over overlaps from 0.50 to 0.95: COCO's AP.
    pub map50_95: Option<f64>,
    /// At an overlap of 0.50.
    pub map50: Option<f64>,
    /// At an overlap of 0.75.
    pub map75: Option<f64>,
    /// Of small things (less than 32² pixels), medium and large ones (more than 96²).
    pub map_by_size: [Option<f64>; 3],
    /// Average recall with 1, 10 and 100 detections a picture.
    pub recall: [Option<f64>; 3],
    /// With 100 detections, of small, medium and large things.
    pub recall_by_size: [Option<f64>; 3],
    /// Class by class.
    pub classes: Vec<CocoClass>,
}

/// Compares detections with truths.
pub fn coco(truths: &[Truth], detections: &[Detection], classes: usize) -> CocoReport {
    let cells = cells(truths, detections);
    // By class and size: precision at overlaps and recalls, recall at overlaps for each number of detections.
    let mut all: Vec<[Option<Accumulated>; 4]> = Vec::with_capacity(classes);
    for class in 0..classes {
        let of_class: Vec<&Cell> =
            cells.range((class, 0)..=(class, usize::MAX)).map(|(_, c)| c).collect();
        all.push(AREAS.map(|area| accumulate(truths, detections, &of_class, area)));
    }
    let precision = |size: usize, t: Option<usize>| {
        mean(all.iter().filter_map(|a| a[size].as_ref()).flat_map(|a| match t {
            Some(t) => a.precision[t * RECALLS..(t + 1) * RECALLS].to_vec(),
            None => a.precision.clone(),
        }))
    };
    let recall = |size: usize, most: usize| {
        mean(all.iter().filter_map(|a| a[size].as_ref()).flat_map(|a| a.recall[most]))
    };
    let class = |a: &[Option<Accumulated>; 4]| {
        let a = a[0].as_ref();
        CocoClass {
            truths: a.map_or(0, |a| a.truths),
            map50_95: a.and_then(|a| mean(a.precision.iter().copied())),
            map50: a.and_then(|a| mean(a.precision[..RECALLS].iter().copied())),
            recall: a.and_then(|a| mean(a.recall[2].iter().copied())),
        }
    };
    CocoReport {
        map50_95: precision(0, None),
        map50: precision(0, Some(0)),
        map75: precision(0, Some(5)),
        map_by_size: [1, 2, 3].map(|size| precision(size, None)),
        recall: [0, 1, 2].map(|most| recall(0, most)),
        recall_by_size: [1, 2, 3].map(|size| recall(size, 2)),
        classes: all.iter().map(class).collect(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (n, sum) = values.fold((0, 0.0), |(n, sum), v| (n + 1, sum + v));
    (n > 0).then(|| sum / n as f64)
}

/// Truths and detections of one class in one picture, detections best first.
#[derive(Default)]
struct Cell {
    truths: Vec<usize>,
    detections: Vec<usize>,
    /// Overlap of each detection with each truth.
    overlaps: Vec<f64>,
}

fn cells(truths: &[Truth], detections: &[Detection]) -> BTreeMap<(usize, usize), Cell> {
    let mut cells = BTreeMap::<(usize, usize), Cell>::new();
    for (i, t) in truths.iter().enumerate() {
        cells.entry((t.class, t.picture)).or_default().truths.push(i);
    }
    for (i, d) in detections.iter().enumerate() {
        cells.entry((d.class, d.picture)).or_default().detections.push(i);
    }
    for cell in cells.values_mut() {
        cell.detections = by_score(detections, std::mem::take(&mut cell.detections));
        cell.detections.truncate(MOST[2]);
        let pairs = cell.detections.iter().flat_map(|&d| cell.truths.iter().map(move |&t| (d, t)));
        cell.overlaps = pairs
            .map(|(d, t)| iou(&detections[d].bounds, &truths[t].bounds, truths[t].crowd))
            .collect();
    }
    cells
}

/// Intersection over union; over the detection alone for a crowd.
fn iou(d: &Bounds, t: &Bounds, crowd: bool) -> f64 {
    let w = (d.width + d.left).min(t.width + t.left) - d.left.max(t.left);
    let h = (d.height + d.top).min(t.height + t.top) - d.top.max(t.top);
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let (both, area) = (w * h, d.width * d.height);
    both / if crowd { area } else { area + t.width * t.height - both }
}

/// What a detection turned out to be at one overlap.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Right,
    Wrong,
    Ignored,
}

/// One class at one size.
struct Accumulated {
    truths: usize,
    /// `[overlaps, recalls]`
    precision: Vec<f64>,
    /// For each number of detections, `[overlaps]`.
    recall: [[f64; THRESHOLDS]; 3],
}

fn accumulate(
    truths: &[Truth],
    detections: &[Detection],
    cells: &[&Cell],
    area: (f64, f64),
) -> Option<Accumulated> {
    let outside = |a: f64| a < area.0 || a > area.1;
    let ignored = |t: usize| truths[t].crowd || outside(truths[t].area);
    let asked = cells.iter().flat_map(|c| &c.truths).filter(|&&t| !ignored(t)).count();
    if asked == 0 {
        return None;
    }
    let mut result = Accumulated {
        truths: asked,
        precision: Vec::with_capacity(THRESHOLDS * RECALLS),
        recall: [[0.0; THRESHOLDS]; 3],
    };
    for t in 0..THRESHOLDS {
        let mut ranked: Vec<(f64, usize, Verdict)> = Vec::new();
        for cell in cells {
            for (rank, v) in
                judge(truths, detections, cell, overlap(t), ignored, outside).iter().enumerate()
            {
                ranked.push((detections[cell.detections[rank]].score, rank, *v));
            }
        }
        // Pictures in order, best first within; equal scores stay so.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (m, &most) in MOST.iter().enumerate() {
            let verdicts = ranked.iter().filter(|r| r.1 < most).map(|r| r.2);
            let (curve, recall) = curve(verdicts, asked);
            result.recall[m][t] = recall;
            if m == 2 {
                result.precision.extend(curve);
            }
        }
    }
    Some(result)
}

/// Matches the detections of a cell, best first, each with the truth that it overlaps most among those
/// not taken; truths that are ignored come last, and a crowd is never taken.
fn judge(
    truths: &[Truth],
    detections: &[Detection],
    cell: &Cell,
    least: f64,
    ignored: impl Fn(usize) -> bool,
    outside: impl Fn(f64) -> bool,
) -> Vec<Verdict> {
    let n = cell.truths.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| ignored(cell.truths[i]));
    let mut taken = vec![false; n];
    let mut verdicts = Vec::with_capacity(cell.detections.len());
    for (row, &d) in cell.detections.iter().enumerate() {
        let (mut best, mut found) = (least.min(1.0 - 1e-10), None::<usize>);
        for &i in &order {
            let t = cell.truths[i];
            if taken[i] && !truths[t].crowd {
                continue;
            }
            if found.is_some_and(|f| !ignored(cell.truths[f])) && ignored(t) {
                break;
            }
            // Of equals the last one, as the reference does.
            let overlap = cell.overlaps[row * n + i];
            if overlap >= best {
                (best, found) = (overlap, Some(i));
            }
        }
        let size = detections[d].bounds;
        verdicts.push(match found {
            Some(i) => {
                taken[i] = true;
                if ignored(cell.truths[i]) { Verdict::Ignored } else { Verdict::Right }
            }
            None if outside(size.width * size.height) => Verdict::Ignored,
            None => Verdict::Wrong,
        });
    }
    verdicts
}

/// Precision at 101 recalls, each the best at that recall or beyond, and the recall at the end.
fn curve(verdicts: impl Iterator<Item = Verdict>, asked: usize) -> (Vec<f64>, f64) {
    let (mut right, mut wrong) = (0.0, 0.0);
    let (mut recalls, mut precisions) = (Vec::new(), Vec::new());
    for v in verdicts {
        match v {
            Verdict::Right => right += 1.0,
            Verdict::Wrong => wrong += 1.0,
            Verdict::Ignored => {}
        }
        recalls.push(right / asked as f64);
        precisions.push(right / (wrong + right + f64::EPSILON));
    }
    for i in (1..precisions.len()).rev() {
        precisions[i - 1] = precisions[i - 1].max(precisions[i]);
    }
    let at = |k: usize| {
        let recall = if k + 1 == RECALLS { 1.0 } else { k as f64 * 0.01 };
        let place = recalls.partition_point(|&r| r < recall);
        precisions.get(place).copied().unwrap_or(0.0)
    };
    ((0..RECALLS).map(at).collect(), recalls.last().copied().unwrap_or(0.0))
}
