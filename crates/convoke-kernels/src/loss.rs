//! Losses: mean value and gradient in one pass.

use crate::activation::{exp, sigmoid, softmax_row};
use crate::elementwise::settled;
use crate::{Ctx, SharedMut, cut, multiversion};

/// Numbers per item; partial losses are merged in order.
const CHUNK: usize = cut(4096, 64);

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

/// What rows of labels count together in a mean: their number, or the sum of their classes' weights;
/// `u32::MAX` counts nothing.
pub fn counted(labels: &[u32], weights: &[f32]) -> f64 {
    let labels = labels.iter().filter(|&&l| l != u32::MAX);
    match weights {
        [] => labels.count() as f64,
        _ => labels.map(|&l| f64::from(weights[l as usize])).sum(),
    }
}

/// Softmax cross-entropy of `logits [rows, classes]` against one label a row; `u32::MAX` leaves a row
/// out. With smoothing `s` the target is `1 − s` at the label plus `s / classes` everywhere
/// (Szegedy et al. 2016; PyTorch's `label_smoothing`). With `weights [classes]` every class's part of the target
/// is multiplied by its weight, and the mean is over the weights of the labels (PyTorch's `weight`); empty for
/// none. Writes `dlogits` of the mean loss.
#[expect(clippy::too_many_arguments, reason = "one call of a plan, all of it needed")]
pub fn softmax_cross_entropy(
    cx: Ctx,
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    smoothing: f32,
    weights: &[f32],
    dlogits: &mut [f32],
    scratch: &mut [f32],
) -> Classified {
    assert!(logits.len() == labels.len() * classes && dlogits.len() == logits.len());
    assert!(weights.is_empty() || weights.len() == classes, "a weight for each class");
    let counted = counted(labels, weights);
    if counted == 0.0 {
        // Of nothing that counts there is no mean.
        dlogits.fill(0.0);
        return Classified { loss: 0.0, correct: 0 };
    }
    let share = 1.0 / counted as f32;
    // Σ of the weights: what an evenly spread target holds, times `classes`.
    let all: f32 = weights.iter().sum();
    let rows = rows_per_item(classes);
    let items = labels.len().div_ceil(rows);
    let partial = SharedMut::new(&mut scratch[..2 * items]);
    cx.pool.for_chunks_mut(dlogits, rows * classes, |i, d, _| {
        let n = d.len() / classes;
        let x = &logits[i * rows * classes..][..d.len()];
        let labels = &labels[i * rows..][..n];
        let (loss, correct) = match weights {
            [] => multiversion!(cx.isa, rows_body(x: &[f32], labels: &[u32], classes: usize,
                smoothing: f32, share: f32, d: &mut [f32]) -> (f32, usize)),
            w => {
                multiversion!(cx.isa, weighted_body(x: &[f32], labels: &[u32], w: &[f32], all: f32,
                smoothing: f32, share: f32, d: &mut [f32]) -> (f32, usize))
            }
        };
        // SAFETY: every item has its own two numbers.
        let out = unsafe { partial.slice(2 * i..2 * i + 2) };
        out[0] = loss;
        out[1] = correct as f32;
    });
    let sums = &scratch[..2 * items];
    let loss: f64 = sums.iter().step_by(2).map(|&v| f64::from(v)).sum();
    let correct: f64 = sums.iter().skip(1).step_by(2).map(|&v| f64::from(v)).sum();
    Classified { loss: (loss / counted) as f32, correct: correct as usize }
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

/// The same with a weight `w` for each class, `all` their sum.
#[inline(always)]
fn weighted_body(
    x: &[f32],
    labels: &[u32],
    w: &[f32],
    all: f32,
    smoothing: f32,
    share: f32,
    d: &mut [f32],
) -> (f32, usize) {
    let (mut loss, mut correct) = (0.0, 0);
    let classes = w.len();
    let even = smoothing / classes as f32;
    for ((x, d), &label) in x.chunks_exact(classes).zip(d.chunks_exact_mut(classes)).zip(labels) {
        if label == u32::MAX {
            d.fill(0.0);
            continue;
        }
        let label = label as usize;
        let (largest, sum) = softmax_row(x, d);
        let log_sum = largest + sum.ln();
        let own = (1.0 - smoothing) * w[label];
        let whole = own + even * all;
        loss += own * (log_sum - x[label]);
        if smoothing > 0.0 {
            loss += even * x.iter().zip(w).map(|(x, w)| w * (log_sum - x)).sum::<f32>();
        }
        correct += usize::from(x.iter().position(|&v| v == largest) == Some(label));
        for (v, w) in d.iter_mut().zip(w) {
            *v = settled((*v * whole - even * w) * share);
        }
        d[label] -= own * share;
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

/// How far two boxes are apart, from 0 (equal) on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxLoss {
    /// `2 − IoU − union / enclosing box` (generalised IoU, Rezatofighi et al. 2019).
    Giou,
    /// `1 − IoU + (distance of centres / diagonal of the enclosing box)²` (Zheng et al. 2020).
    Diou,
    /// The same and a term for the ratio of sides, whose weight is taken as a constant (likewise).
    Ciou,
}

/// What [`centres`] weighs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Centres {
    /// Weight of the boxes beside the heat map.
    pub box_weight: f32,
    /// How boxes are compared.
    pub boxes: BoxLoss,
}

/// Channels of a place's box: centre across and down from the place in strides, logarithms of width
/// and height in strides.
pub const BOX: usize = 4;

/// Loss of a centre heat map with boxes (Zhou et al. 2019; the focal loss of Law and Deng 2018).
/// A place of `y [places, classes + 4]` has a logit for each class and a box; targets are alike. A heat
/// target is 1 at a thing's centre, less around it, 0 elsewhere, negative where it does not count; the
/// box target is NaN in its first number where there is none.
///
/// At a centre `(1 − p)² · −ln p`, elsewhere `(1 − t)⁴ · p² · −ln(1 − p)`, summed and divided by the
/// number of centres; plus `box_weight` times the mean of the box losses. Writes `dy`.
pub fn centres(
    cx: Ctx,
    y: &[f32],
    targets: &[f32],
    classes: usize,
    o: Centres,
    dy: &mut [f32],
    scratch: &mut [f32],
) -> f32 {
    let c = classes + BOX;
    assert!(y.len() == targets.len() && y.len() == dy.len() && y.len().is_multiple_of(c));
    let (mut tops, mut boxes) = (0usize, 0usize);
    for t in targets.chunks_exact(c) {
        tops += t[..classes].iter().filter(|&&t| t >= 1.0).count();
        boxes += usize::from(!t[classes].is_nan());
    }
    let (share, box_share) = (1.0 / tops.max(1) as f32, o.box_weight / boxes.max(1) as f32);
    let by = o.boxes;
    let rows = rows_per_item(c);
    let items = (y.len() / c).div_ceil(rows);
    let partial = SharedMut::new(&mut scratch[..items]);
    cx.pool.for_chunks_mut(dy, rows * c, |i, d, _| {
        let from = i * rows * c;
        let (x, t) = (&y[from..][..d.len()], &targets[from..][..d.len()]);
        let loss = multiversion!(cx.isa, centres_body(x: &[f32], t: &[f32], classes: usize, share: f32,
            box_share: f32, by: BoxLoss, d: &mut [f32]) -> f32);
        // SAFETY: every item has its own number.
        let out = unsafe { partial.slice(i..i + 1) };
        out[0] = loss;
    });
    scratch[..items].iter().map(|&v| f64::from(v)).sum::<f64>() as f32
}

#[inline(always)]
fn centres_body(
    x: &[f32],
    t: &[f32],
    classes: usize,
    share: f32,
    box_share: f32,
    by: BoxLoss,
    d: &mut [f32],
) -> f32 {
    let c = classes + BOX;
    let mut sum = 0.0;
    for ((x, t), d) in x.chunks_exact(c).zip(t.chunks_exact(c)).zip(d.chunks_exact_mut(c)) {
        for k in 0..classes {
            let (loss, slope) = focal(x[k], t[k]);
            sum += share * loss;
            d[k] = settled(share * slope);
        }
        d[classes..].fill(0.0);
        if !t[classes].is_nan() {
            let (loss, slopes) = box_loss(&x[classes..], &t[classes..], by);
            sum += box_share * loss;
            for (d, s) in d[classes..].iter_mut().zip(slopes) {
                *d = settled(box_share * s);
            }
        }
    }
    sum
}

/// The focal loss of one logit, and its slope.
#[inline(always)]
fn focal(x: f32, t: f32) -> (f32, f32) {
    if t < 0.0 {
        return (0.0, 0.0);
    }
    // softplus(±x) = max(±x, 0) + ln(1 + exp(−|x|)).
    let tail = exp(-x.abs()).ln_1p();
    let p = sigmoid(x);
    let q = sigmoid(-x);
    if t >= 1.0 {
        let soft = if x < 0.0 { -x } else { 0.0 } + tail;
        return (q * q * soft, -q * q * (2.0 * p * soft + q));
    }
    let soft = if x > 0.0 { x } else { 0.0 } + tail;
    let far = (1.0 - t) * (1.0 - t);
    let weight = far * far * p * p;
    (weight * soft, weight * (2.0 * q * soft + p))
}

/// Sides longer than e to this are taken for no longer: far beyond any picture.
const LONGEST: f32 = 12.0;

/// The loss of a box against another, and its slopes; both are centre and logarithms of sides.
#[inline(always)]
fn box_loss(x: &[f32], t: &[f32], by: BoxLoss) -> (f32, [f32; BOX]) {
    let (lw, lh) = (x[2].clamp(-LONGEST, LONGEST), x[3].clamp(-LONGEST, LONGEST));
    let (w, h) = (exp(lw), exp(lh));
    let (tw, th) = (exp(t[2]), exp(t[3]));
    let a = [x[0] - w / 2.0, x[1] - h / 2.0, x[0] + w / 2.0, x[1] + h / 2.0];
    let b = [t[0] - tw / 2.0, t[1] - th / 2.0, t[0] + tw / 2.0, t[1] + th / 2.0];
    let inside = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    let hull = [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])];
    let (iw, ih) = ((inside[2] - inside[0]).max(0.0), (inside[3] - inside[1]).max(0.0));
    let (cw, ch) = (hull[2] - hull[0], hull[3] - hull[1]);
    let both = iw * ih;
    let any = w * h + tw * th - both;
    let iou = both / any;
    // Slopes along the edges of the box: of the intersection, its own area, the hull's sides.
    let meets = both > 0.0;
    let (mut d_both, mut d_cw, mut d_ch) = ([0.0; 4], [0.0; 4], [0.0; 4]);
    if meets {
        d_both[0] = if a[0] > b[0] { -ih } else { 0.0 };
        d_both[2] = if a[2] < b[2] { ih } else { 0.0 };
        d_both[1] = if a[1] > b[1] { -iw } else { 0.0 };
        d_both[3] = if a[3] < b[3] { iw } else { 0.0 };
    }
    d_cw[0] = if a[0] < b[0] { -1.0 } else { 0.0 };
    d_cw[2] = if a[2] > b[2] { 1.0 } else { 0.0 };
    d_ch[1] = if a[1] < b[1] { -1.0 } else { 0.0 };
    d_ch[3] = if a[3] > b[3] { 1.0 } else { 0.0 };
    let d_area = [-h, -w, h, w];
    let (dx, dy) = (x[0] - t[0], x[1] - t[1]);
    let mut slopes = [0.0; 4];
    let mut loss = 1.0 - iou;
    let (hull_area, diagonal) = (cw * ch, cw * cw + ch * ch);
    let apart = (dx * dx + dy * dy) / diagonal;
    for e in 0..4 {
        let d_any = d_area[e] - d_both[e];
        slopes[e] = -(d_both[e] - iou * d_any) / any;
        if by == BoxLoss::Giou {
            let d_hull = d_cw[e] * ch + cw * d_ch[e];
            slopes[e] -= (d_any - any / hull_area * d_hull) / hull_area;
        } else {
            slopes[e] -= apart / diagonal * 2.0 * (cw * d_cw[e] + ch * d_ch[e]);
        }
    }
    // From edges to centre and logarithms of sides.
    let mut out = [
        slopes[0] + slopes[2],
        slopes[1] + slopes[3],
        (slopes[2] - slopes[0]) / 2.0 * w,
        (slopes[3] - slopes[1]) / 2.0 * h,
    ];
    match by {
        BoxLoss::Giou => loss += 1.0 - any / hull_area,
        BoxLoss::Diou | BoxLoss::Ciou => {
            loss += apart;
            out[0] += 2.0 * dx / diagonal;
            out[1] += 2.0 * dy / diagonal;
        }
    }
    if by == BoxLoss::Ciou {
        let scale = 4.0 / (std::f32::consts::PI * std::f32::consts::PI);
        let lean = (tw / th).atan() - (w / h).atan();
        let v = scale * lean * lean;
        let alpha = v / (1.0 - iou + v).max(1e-7);
        loss += alpha * v;
        // d atan(w / h) = wh / (w² + h²) along ln w, the opposite along ln h.
        let slope = alpha * scale * 2.0 * lean * (w * h / (w * w + h * h));
        out[2] -= slope;
        out[3] += slope;
    }
    (loss, out)
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
