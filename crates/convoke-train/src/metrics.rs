//! What an evaluation counts, from logits.

use crate::figures::Answer;
use serde::Serialize;
use std::cmp::Ordering;

/// Figures of an evaluation, as fractions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Share whose most likely class is right.
    pub top1: f64,
    /// Share whose class is among the five most likely.
    pub top5: f64,
    /// Mean softmax cross-entropy.
    pub loss: f64,
    /// Samples.
    pub n: usize,
    /// Share that is right, per class (0 for a class without samples).
    pub per_class: Vec<f64>,
    /// `confusion[actual][predicted]`.
    pub confusion: Vec<Vec<usize>>,
}

impl Evaluation {
    /// Counts answers over so many classes.
    pub fn of(answers: &[Answer], classes: usize) -> Self {
        let mut counter = Counter::new(classes);
        answers.iter().for_each(|a| counter.add(&a.logits, a.label));
        counter.finish()
    }
}

/// Sums of an evaluation under way.
#[derive(Debug, Clone)]
pub(crate) struct Counter {
    classes: usize,
    top1: usize,
    top5: usize,
    loss: f64,
    n: usize,
    confusion: Vec<Vec<usize>>,
}

impl Counter {
    /// Nothing counted yet.
    pub(crate) fn new(classes: usize) -> Self {
        let confusion = vec![vec![0; classes]; classes];
        Counter { classes, top1: 0, top5: 0, loss: 0.0, n: 0, confusion }
    }

    /// Counts one sample, whose label must be a class. Of equal logits the first counts as larger;
    /// a NaN counts as larger than any number, so that a broken network is not taken for a good one.
    pub(crate) fn add(&mut self, logits: &[f32], label: usize) {
        let rank = rank(logits, label);
        self.top1 += usize::from(rank == 0);
        self.top5 += usize::from(rank < 5);
        self.loss += cross_entropy(logits, label);
        self.n += 1;
        let best = (0..logits.len()).rev().max_by(|&a, &b| order(logits[a], logits[b]));
        self.confusion[label][best.unwrap_or(label)] += 1;
    }

    /// The figures.
    pub(crate) fn finish(self) -> Evaluation {
        let share = |k: usize, n: usize| if n == 0 { 0.0 } else { k as f64 / n as f64 };
        let per_class = (0..self.classes)
            .map(|c| share(self.confusion[c][c], self.confusion[c].iter().sum()))
            .collect();
        Evaluation {
            top1: share(self.top1, self.n),
            top5: share(self.top5, self.n),
            loss: if self.n == 0 { 0.0 } else { self.loss / self.n as f64 },
            n: self.n,
            per_class,
            confusion: self.confusion,
        }
    }
}

fn order(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// How many classes are more likely than the label.
fn rank(logits: &[f32], label: usize) -> usize {
    let mine = logits[label];
    if mine.is_nan() {
        return logits.len();
    }
    let more = |&(i, &v): &(usize, &f32)| match order(v, mine) {
        Ordering::Greater => true,
        Ordering::Equal => i < label,
        Ordering::Less => false,
    };
    logits.iter().enumerate().filter(more).count()
}

fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
    let sum: f64 = logits.iter().map(|&v| (f64::from(v) - largest).exp()).sum();
    largest + sum.ln() - f64::from(logits[label])
}

/// Softmax in f64.
pub fn probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
    let exps: Vec<f64> = logits.iter().map(|&v| (f64::from(v) - largest).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let mut c = Counter::new(6);
        c.add(&[3.0, 1.0, 0.0, 0.0, 0.0, 0.0], 0);
        c.add(&[3.0, 1.0, 0.5, 0.4, 0.3, 0.2], 5);
        c.add(&[0.0; 6], 1);
        let e = c.finish();
        assert_eq!((e.top1, e.top5, e.n), (1.0 / 3.0, 2.0 / 3.0, 3));
        assert_eq!((e.confusion[5][0], e.confusion[1][0]), (1, 1));
        assert_eq!(e.per_class, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        // -log softmax: log(e^3 + e + 4) - 3, log(sum) - 0.2, log 6.
        let sums = [3f64.exp() + 1f64.exp() + 4.0, 6.0];
        let second: f64 = [3.0, 1.0, 0.5, 0.4, 0.3, 0.2f64].iter().map(|v| v.exp()).sum();
        let loss = (sums[0].ln() - 3.0 + second.ln() - 0.2 + sums[1].ln()) / 3.0;
        assert!((e.loss - loss).abs() < 1e-7, "{} {loss}", e.loss);
        assert_eq!(probabilities(&[1000.0, 1000.0]), [0.5, 0.5]);
    }

    #[test]
    fn the_confusion_matrix_agrees_with_the_shares() {
        let mut c = Counter::new(3);
        let mut seed = 1u32;
        let mut draw = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 29
        };
        // Small whole numbers, so that ties are common.
        for i in 0..300 {
            let row = [draw() as f32, draw() as f32, draw() as f32];
            c.add(&row, i % 3);
        }
        let e = c.finish();
        let diagonal: usize = (0..3).map(|i| e.confusion[i][i]).sum();
        assert_eq!(e.top1, diagonal as f64 / 300.0);
        assert!(e.confusion.iter().all(|r| r.iter().sum::<usize>() == 100));
        assert_eq!(e.per_class.iter().sum::<f64>() / 3.0, e.top1);
        assert_eq!(e.top5, 1.0);
    }

    #[test]
    fn a_network_that_says_nan_is_wrong() {
        for row in [[f32::NAN, 1.0], [1.0, f32::NAN], [-f32::NAN, 1.0], [f32::NAN; 2]] {
            let mut c = Counter::new(2);
            let label = usize::from(row[0].is_nan() && !row[1].is_nan());
            c.add(&row, label);
            assert_eq!(c.finish().top1, 0.0, "{row:?}");
        }
        assert_eq!(Counter::new(2).finish().n, 0);
    }
}
