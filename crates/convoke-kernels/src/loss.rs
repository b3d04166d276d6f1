//! Losses: mean value and gradient in one pass.

use crate::activation::{exp, sigmoid, softmax_row};
use crate::elementwise::settled;
use crate::{Ctx, SharedMut, multiversion};

/// Numbers per item; partial losses are merged in order.
const CHUNK: usize = 4096;

/// Rows of softmax cross-entropy per item.
fn rows_per_item(classes: usize) -> usize {
    (CHUNK / classes).clamp(1, 16)
}

/// Floats of scratch for any loss over `len` numbers.
pub fn scratch_len(len: usize, classes: usize) -> usize {
    let rows = len / classes;
    (2 * rows.div_ceil(rows_per_item(classes))).max(len.div_ceil(CHUNK))
}

/// What softmax cross-entropy tells of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classified {
    /// Mean loss over the rows that have a label.
    pub loss: f32,
    /// Rows whose largest number is at their label (of equals, the first counts).
    pub correct: usize,
}

/// Softmax cross-entropy of `logits [rows, classes]` against one label a row; `u32::MAX` leaves a row
/// out. With smoothing `s` the target is `1 − s` at the label plus `s / classes` everywhere
/// (Szegedy et al. 2016; PyTorch's `label_smoothing`). Writes `dlogits` of the mean loss.
pub fn softmax_cross_entropy(
    cx: Ctx,
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    smoothing: f32,
    dlogits: &mut [f32],
    scratch: &mut [f32],
) -> Classified {
    assert!(logits.len() == labels.len() * classes && dlogits.len() == logits.len());
    let counted = labels.iter().filter(|&&l| l != u32::MAX).count();
    let share = 1.0 / counted.max(1) as f32;
    let rows = rows_per_item(classes);
    let items = labels.len().div_ceil(rows);
    let partial = SharedMut::new(&mut scratch[..2 * items]);
    cx.pool.for_chunks_mut(dlogits, rows * classes, |i, d, _| {
        let n = d.len() / classes;
        let x = &logits[i * rows * classes..][..d.len()];
        let labels = &labels[i * rows..][..n];
        let (loss, correct) = multiversion!(cx.isa, rows_body(x: &[f32], labels: &[u32], classes: usize,
            smoothing: f32, share: f32, d: &mut [f32]) -> (f32, usize));
        // SAFETY: every item has its own two numbers.
        let out = unsafe { partial.slice(2 * i..2 * i + 2) };
        out[0] = loss;
        out[1] = correct as f32;
    });
    let sums = &scratch[..2 * items];
    let loss: f64 = sums.iter().step_by(2).map(|&v| f64::from(v)).sum();
    let correct: f64 = sums.iter().skip(1).step_by(2).map(|&v| f64::from(v)).sum();
    Classified { loss: (loss / counted.max(1) as f64) as f32, correct: correct as usize }
}

#[inline(always)]
fn rows_body(
    x: &[f32],
    labels: &[u32],
    classes: usize,
    smoothing: f32,
    share: f32,
    d: &mut [f32],
) -> (f32, usize) {
    let (mut loss, mut correct) = (0.0, 0);
    for ((x, d), &label) in x.chunks_exact(classes).zip(d.chunks_exact_mut(classes)).zip(labels) {
        if label == u32::MAX {
            d.fill(0.0);
            continue;
        }
        let label = label as usize;
        let (largest, sum) = softmax_row(x, d);
        let log_sum = largest + sum.ln();
        let even = smoothing / classes as f32;
        loss += (1.0 - smoothing) * (log_sum - x[label]);
        if smoothing > 0.0 {
            loss += even * x.iter().map(|v| log_sum - v).sum::<f32>();
        }
        correct += usize::from(x.iter().position(|&v| v == largest) == Some(label));
        for v in d.iter_mut() {
            *v = settled((*v - even) * share);
        }
        d[label] -= (1.0 - smoothing) * share;
    }
    (loss, correct)
}

/// Logistic cross-entropy of `x` against targets in 0..=1, mean over all numbers:
/// `p · t · softplus(−x) + (1 − t) · softplus(x)` with `p` the weight of positives
/// (PyTorch `BCEWithLogitsLoss`). Writes `dx` of the mean.
pub fn sigmoid_cross_entropy(
    cx: Ctx,
    x: &[f32],
    targets: &[f32],
    positive_weight: f32,
    dx: &mut [f32],
    scratch: &mut [f32],
) -> f32 {
    mean_of(cx, x, targets, dx, scratch, |isa, x, t, d, share| {
        multiversion!(isa, sigmoid_body(x: &[f32], t: &[f32], d: &mut [f32], share: f32,
            positive_weight: f32) -> f32)
    })
}

#[inline(always)]
fn sigmoid_body(x: &[f32], t: &[f32], d: &mut [f32], share: f32, p: f32) -> f32 {
    let mut loss = 0.0;
    for ((d, &x), &t) in d.iter_mut().zip(x).zip(t) {
        // softplus(−|x|) = ln(1 + exp(−|x|)), exact to f32 for every x.
        let tail = exp(-x.abs()).ln_1p();
        let plus = if x > 0.0 { x } else { 0.0 } + tail;
        let minus = if x < 0.0 { -x } else { 0.0 } + tail;
        loss += p * t * minus + (1.0 - t) * plus;
        let s = sigmoid(x);
        *d = settled(((1.0 - t) * s - p * t * (1.0 - s)) * share);
    }
    loss
}

/// Mean of `(x − target)²` over all numbers (PyTorch `MSELoss`). Writes `dx`.
pub fn mean_squared_error(
    cx: Ctx,
    x: &[f32],
    targets: &[f32],
    dx: &mut [f32],
    scratch: &mut [f32],
) -> f32 {
    mean_of(
        cx,
        x,
        targets,
        dx,
        scratch,
        |isa, x, t, d, share| multiversion!(isa, squared_body(x: &[f32], t: &[f32], d: &mut [f32], share: f32) -> f32),
    )
}

#[inline(always)]
fn squared_body(x: &[f32], t: &[f32], d: &mut [f32], share: f32) -> f32 {
    let mut loss = 0.0;
    for ((d, x), t) in d.iter_mut().zip(x).zip(t) {
        let e = x - t;
        loss += e * e;
        *d = settled(2.0 * e * share);
    }
    loss
}

/// Sums `f(x, targets, dx, 1 / n)` over chunks, merged in f64.
fn mean_of(
    cx: Ctx,
    x: &[f32],
    targets: &[f32],
    dx: &mut [f32],
    scratch: &mut [f32],
    f: impl Fn(crate::Isa, &[f32], &[f32], &mut [f32], f32) -> f32 + Sync,
) -> f32 {
    assert!(x.len() == targets.len() && x.len() == dx.len(), "lengths differ");
    let share = 1.0 / x.len().max(1) as f32;
    let items = x.len().div_ceil(CHUNK);
    let partial = SharedMut::new(&mut scratch[..items]);
    cx.pool.for_chunks_mut(dx, CHUNK, |i, d, _| {
        let (x, t) = (&x[i * CHUNK..][..d.len()], &targets[i * CHUNK..][..d.len()]);
        let loss = f(cx.isa, x, t, d, share);
        // SAFETY: every item has its own number.
        let out = unsafe { partial.slice(i..i + 1) };
        out[0] = loss;
    });
    let sum: f64 = scratch[..items].iter().map(|&v| f64::from(v)).sum();
    (sum / x.len().max(1) as f64) as f32
}
