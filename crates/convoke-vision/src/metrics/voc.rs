//! Pascal VOC's average precision of one class (Everingham et al. 2010), as its development kit computes
//! it: a detection is right when it overlaps a thing that no better one has taken by at least half;
//! things marked difficult are neither asked for nor false alarms.

use super::{Detection, Truth, by_score};
use std::collections::HashMap;

/// How the area under the curve is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VocYear {
    /// Up to 2009: the mean of the best precision at or beyond 11 recalls.
    Voc2007,
    /// From 2010 on: the area under the best precision at or beyond each recall.
    Voc2010,
}

/// Average precision of a class; none where nothing of it is asked for.
pub fn voc_average_precision(
    truths: &[Truth],
    detections: &[Detection],
    class: usize,
    overlap: f64,
    year: VocYear,
) -> Option<f64> {
    let mut by_picture = HashMap::<usize, Vec<usize>>::new();
    for (i, t) in truths.iter().enumerate().filter(|(_, t)| t.class == class) {
        by_picture.entry(t.picture).or_default().push(i);
    }
    let asked = by_picture.values().flatten().filter(|&&t| !truths[t].difficult).count();
    if asked == 0 {
        return None;
    }
    // Equal scores: by picture, then as given.
    let mut which: Vec<usize> =
        (0..detections.len()).filter(|&d| detections[d].class == class).collect();
    which.sort_by_key(|&d| detections[d].picture);
    let (mut taken, mut right, mut wrong) = (vec![false; truths.len()], 0.0, 0.0);
    let mut points = Vec::new();
    for d in by_score(detections, which) {
        let d = &detections[d];
        let mut best: Option<(f64, usize)> = None;
        for &t in by_picture.get(&d.picture).into_iter().flatten() {
            let iou = truths[t].bounds.iou(&d.bounds);
            if iou > 0.0 && best.is_none_or(|(most, _)| iou > most) {
                best = Some((iou, t));
            }
        }
        match best.filter(|(most, _)| *most >= overlap) {
            Some((_, t)) if truths[t].difficult => {}
            Some((_, t)) if !taken[t] => {
                taken[t] = true;
                right += 1.0;
            }
            _ => wrong += 1.0,
        }
        points.push((
            right / asked as f64,
            if right + wrong > 0.0 { right / (right + wrong) } else { 0.0 },
        ));
    }
    Some(match year {
        VocYear::Voc2007 => eleven(&points),
        VocYear::Voc2010 => area(&points),
    })
}

/// `(recall, precision)` points in the order of falling scores.
fn eleven(points: &[(f64, f64)]) -> f64 {
    let at = |recall: f64| {
        let beyond = points.iter().filter(|p| p.0 >= recall).map(|p| p.1);
        beyond.fold(0.0, f64::max)
    };
    (0..11).map(|i| at(f64::from(i) * 0.1) / 11.0).sum()
}

fn area(points: &[(f64, f64)]) -> f64 {
    let (mut best, mut sum) = (0.0_f64, 0.0);
    for (i, &(recall, precision)) in points.iter().enumerate().rev() {
        best = best.max(precision);
        let before = if i > 0 { points[i - 1].0 } else { 0.0 };
        sum += (recall - before) * best;
    }
    sum
}
