//! Figures of a classifier from its answers one by one: per class, calibration, temperature.

use serde::Serialize;

/// What a model answered to one sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// Position in the split.
    pub index: usize,
    /// The right class.
    pub label: usize,
    /// A logit for each class.
    pub logits: Vec<f32>,
}

/// Figures of one class, as fractions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassFigures {
    /// Of the samples that were called so, the share that is so.
    pub precision: f64,
    /// Of the samples that are so, the share that was called so.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Samples that are so.
    pub n: usize,
}

/// Precision, recall and F1 of every class from `confusion[actual][predicted]`; 0 where nothing can be divided,
/// as scikit-learn has it.
pub fn class_figures(confusion: &[Vec<usize>]) -> Vec<ClassFigures> {
    let share = |a: usize, b: usize| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    let of = |c: usize| {
        let right = confusion[c][c];
        let (n, called) = (confusion[c].iter().sum(), confusion.iter().map(|row| row[c]).sum());
        let (precision, recall) = (share(right, called), share(right, n));
        let f1 = if right == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
        ClassFigures { precision, recall, f1, n }
    };
    (0..confusion.len()).map(of).collect()
}

/// How sure the model is against how often it is right (Guo et al. 2017).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// What logits are divided by before the softmax.
    pub temperature: f64,
    /// Bins of equal width over the confidence, from above 0 to 1.
    pub bins: Vec<Bin>,
    /// Expected calibration error: mean over the samples of the bins' |confidence − accuracy|.
    pub ece: f64,
    /// Mean softmax cross-entropy.
    pub loss: f64,
}

/// One bin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub struct Bin {
    /// Samples.
    pub n: usize,
    /// Mean probability of the likeliest class.
    pub confidence: f64,
    /// Share that is right.
    pub accuracy: f64,
}

/// Bins of the expected calibration error.
pub const BINS: usize = 15;

impl Calibration {
    /// Measures answers at a temperature.
    pub fn of(answers: &[Answer], temperature: f64) -> Self {
        let mut bins = vec![Bin::default(); BINS];
        let mut loss = 0.0;
        for a in answers {
            let p = softmax(&a.logits, temperature);
            let best = likeliest(&a.logits);
            let sure = p.get(best).copied().unwrap_or(0.0);
            // (lo, hi], so that what is certain falls into the last.
            let bin = ((sure * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
            bins[bin].n += 1;
            bins[bin].confidence += sure;
            bins[bin].accuracy += f64::from(u8::from(best == a.label));
            loss -= p.get(a.label).map_or(0.0, |p| p.max(f64::MIN_POSITIVE).ln());
        }
        let n = answers.len().max(1) as f64;
        let mut ece = 0.0;
        for b in bins.iter_mut().filter(|b| b.n > 0) {
            b.confidence /= b.n as f64;
            b.accuracy /= b.n as f64;
            ece += b.n as f64 / n * (b.confidence - b.accuracy).abs();
        }
        Calibration { temperature, bins, ece, loss: loss / n }
    }

    /// Measures answers at the temperature that makes their cross-entropy least.
    pub fn fitted(answers: &[Answer]) -> Self {
        // The loss has one valley along the temperature's logarithm: golden section.
        let loss = |log_t: f64| -> f64 {
            let t = log_t.exp();
            answers
                .iter()
                .map(|a| {
                    -softmax(&a.logits, t)
                        .get(a.label)
                        .map_or(0.0, |p| p.max(f64::MIN_POSITIVE).ln())
                })
                .sum()
        };
        let ratio = (5f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = (0.02f64.ln(), 50f64.ln());
        let at = |low: f64, high: f64| (high - ratio * (high - low), low + ratio * (high - low));
        let (mut a, mut b) = at(low, high);
        let (mut loss_a, mut loss_b) = (loss(a), loss(b));
        while high - low > 1e-7 {
            if loss_a < loss_b {
                (high, b, loss_b) = (b, a, loss_a);
                a = at(low, high).0;
                loss_a = loss(a);
            } else {
                (low, a, loss_a) = (a, b, loss_b);
                b = at(low, high).1;
                loss_b = loss(b);
            }
        }
        Calibration::of(answers, (0.5 * (low + high)).exp())
    }
}

/// Probabilities at a temperature.
pub fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let scaled = logits.iter().map(|v| f64::from(*v) / temperature);
    let most = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scaled.map(|v| (v - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// The first of the largest logits.
pub fn likeliest(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_matrix_by_hand() {
        let f = class_figures(&[vec![3, 1, 0], vec![2, 4, 0], vec![0, 0, 0]]);
        assert_eq!((f[0].precision, f[0].recall, f[0].n), (0.6, 0.75, 4));
        assert!((f[0].f1 - 2.0 * 0.45 / 1.35).abs() < 1e-12);
        assert_eq!((f[2].precision, f[2].recall, f[2].f1, f[2].n), (0.0, 0.0, 0.0, 0));
    }

    #[test]
    fn who_is_always_sure_and_half_right_is_off_by_a_half_and_gets_a_high_temperature() {
        let answer = |i: usize| Answer { index: i, label: i % 2, logits: vec![20.0, 0.0] };
        let all: Vec<Answer> = (0..40).map(answer).collect();
        let c = Calibration::of(&all, 1.0);
        assert!((c.ece - 0.5).abs() < 1e-6);
        assert_eq!(c.bins[BINS - 1].n, 40);
        let f = Calibration::fitted(&all);
        assert!(f.temperature > 40.0 && f.loss < c.loss && f.ece < 0.2, "{f:?}");
        assert_eq!(Calibration::of(&[], 1.0).ece, 0.0);
    }
}
