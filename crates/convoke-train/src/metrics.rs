//! What an evaluation counts, from logits.

use serde::Serialize;

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

/// Sums of an evaluation under way.
#[derive(Debug, Clone)]
pub struct Counter {
    classes: usize,
    top1: usize,
    top5: usize,
    loss: f64,
    n: usize,
    confusion: Vec<Vec<usize>>,
}

impl Counter {
    /// Nothing counted yet.
    pub fn new(classes: usize) -> Self {
        let confusion = vec![vec![0; classes]; classes];
        Counter { classes, top1: 0, top5: 0, loss: 0.0, n: 0, confusion }
    }

    /// Counts one sample. Of equal logits the first counts as larger; a NaN counts as wrong.
    pub fn add(&mut self, logits: &[f32], label: usize) {
        let rank = rank(logits, label);
        let best =
            (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
        self.top1 += usize::from(rank == 0);
        self.top5 += usize::from(rank < 5);
        self.loss += cross_entropy(logits, label);
        self.n += 1;
        if let Some(best) = best {
            self.confusion[label][best] += 1;
        }
    }

    /// The figures.
    pub fn finish(self) -> Evaluation {
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

/// How many classes are more likely than the label.
fn rank(logits: &[f32], label: usize) -> usize {
    let mine = logits[label];
    if mine.is_nan() {
        return logits.len();
    }
    logits.iter().enumerate().filter(|&(i, &v)| v > mine || v == mine && i < label).count()
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
        assert_eq!(e.confusion[5][0], 1);
        assert_eq!(e.per_class[0], 1.0);
        let p = probabilities(&[1000.0, 1000.0]);
        assert_eq!(p, [0.5, 0.5]);
    }
}
