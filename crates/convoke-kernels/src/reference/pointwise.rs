//! Activations, softmax, local response norm, losses and updates as their formulas read, in f64.

use crate::activation::Activation;
use crate::loss::BoxLoss;
use crate::lrn::Lrn;
use crate::optim::{Adam, Sgd};

/// `f(x)`.
pub fn activation(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Relu { max } => x.max(0.0).min(f64::from(max)),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                f64::from(slope) * x
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * normal_below(x),
        Activation::Rescale { factor, offset } => f64::from(factor) * x + f64::from(offset),
    }
}

/// The share of the normal distribution below `x`: the series of erf near zero, the continued fraction of
/// erfc (Abramowitz and Stegun 7.1.6, 7.1.14) beyond.
fn normal_below(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let tail = if z < 2.5 {
        let (mut term, mut sum) = (z, z);
        for n in 1..100 {
            term *= 2.0 * z * z / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 - sum * (-z * z).exp() / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..100).rev().fold(z, |f, n| z + 0.5 * f64::from(n) / f);
        0.5 * (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// `f'(x)`.
pub fn slope(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Relu { max } => f64::from(u8::from(x > 0.0 && x < f64::from(max))),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                1.0
            } else {
                f64::from(slope)
            }
        }
        Activation::Sigmoid => activation(f, x) * (1.0 - activation(f, x)),
        Activation::Tanh => 1.0 - x.tanh().powi(2),
        Activation::HardSigmoid if x.abs() < 3.0 => 1.0 / 6.0,
        Activation::HardSigmoid => 0.0,
        Activation::HardSwish if x.abs() < 3.0 => x / 3.0 + 0.5,
        Activation::HardSwish => f64::from(u8::from(x > 0.0)),
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            if s == 0.0 { 0.0 } else { s * (1.0 + x * (1.0 - s)) }
        }
        Activation::Gelu => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            normal_below(x) + if density == 0.0 { 0.0 } else { x * density }
        }
        Activation::Rescale { factor, .. } => f64::from(factor),
    }
}

/// Softmax of one row.
pub fn softmax(x: &[f32]) -> Vec<f64> {
    let largest = x.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
    let e: Vec<f64> = x.iter().map(|&v| (f64::from(v) - largest).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|v| v / sum).collect()
}

/// Gradient of a softmax's input from that of its output, one row.
pub fn softmax_backward(x: &[f32], dy: &[f32]) -> Vec<f64> {
    let y = softmax(x);
    let dot: f64 = y.iter().zip(dy).map(|(y, &d)| y * f64::from(d)).sum();
    y.iter().zip(dy).map(|(y, &d)| y * (f64::from(d) - dot)).collect()
}

/// Local response norm of one row, and the sums under its exponent.
pub fn lrn(o: &Lrn, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let half = o.size / 2;
    let sum = |c: usize| {
        let near = c.saturating_sub(half)..(c + o.size - half).min(o.c);
        let squares: f64 = near.map(|k| f64::from(x[k]).powi(2)).sum();
        f64::from(o.k) + f64::from(o.alpha) / o.size as f64 * squares
    };
    let s: Vec<f64> = (0..o.c).map(sum).collect();
    let y = (0..o.c).map(|c| f64::from(x[c]) * s[c].powf(-f64::from(o.beta))).collect();
    (y, s)
}

/// Loss of one row of softmax cross-entropy, and its gradient.
pub fn softmax_cross_entropy(x: &[f32], label: usize, smoothing: f64) -> (f64, Vec<f64>) {
    let p = softmax(x);
    let target =
        |c: usize| smoothing / x.len() as f64 + if c == label { 1.0 - smoothing } else { 0.0 };
    let loss = (0..x.len()).map(|c| -target(c) * p[c].ln()).sum();
    (loss, (0..x.len()).map(|c| p[c] - target(c)).collect())
}

/// The same with a weight for each class, not yet divided by the weights of the labels.
pub fn weighted_cross_entropy(
    x: &[f32],
    label: usize,
    smoothing: f64,
    weights: &[f32],
) -> (f64, Vec<f64>) {
    let p = softmax(x);
    let target = |c: usize| {
        let share = smoothing / x.len() as f64 + if c == label { 1.0 - smoothing } else { 0.0 };
        share * f64::from(weights[c])
    };
    let whole: f64 = (0..x.len()).map(target).sum();
    let loss = (0..x.len()).map(|c| -target(c) * p[c].ln()).sum();
    (loss, (0..x.len()).map(|c| p[c] * whole - target(c)).collect())
}

/// Loss of one number of logistic cross-entropy, and its gradient.
pub fn sigmoid_cross_entropy(x: f64, t: f64, positive_weight: f64) -> (f64, f64) {
    let p = 1.0 / (1.0 + (-x).exp());
    let loss = -positive_weight * t * p.ln() - (1.0 - t) * (1.0 - p).ln();
    (loss, (1.0 - t) * p - positive_weight * t * (1.0 - p))
}

/// Focal loss of one logit of a centre heat map, and its slope by a central difference.
pub fn focal(x: f64, t: f64) -> (f64, f64) {
    let loss = |x: f64| {
        let p = 1.0 / (1.0 + (-x).exp());
        match t {
            t if t < 0.0 => 0.0,
            t if t >= 1.0 => -(1.0 - p).powi(2) * p.ln(),
            t => -(1.0 - t).powi(4) * p.powi(2) * (1.0 - p).ln(),
        }
    };
    (loss(x), (loss(x + 1e-5) - loss(x - 1e-5)) / 2e-5)
}

/// Loss of a box `[x, y, ln w, ln h]` against another, and its slopes by central differences; the
/// weight of the ratio's term is a constant there.
pub fn box_loss(x: [f64; 4], t: [f64; 4], by: BoxLoss) -> (f64, [f64; 4]) {
    let edges = |b: [f64; 4]| {
        let (w, h) = (b[2].exp(), b[3].exp());
        [b[0] - w / 2.0, b[1] - h / 2.0, b[0] + w / 2.0, b[1] + h / 2.0]
    };
    let lean = |b: [f64; 4]| (b[2] - b[3]).exp().atan();
    let ratio = |x: [f64; 4]| 4.0 / std::f64::consts::PI.powi(2) * (lean(t) - lean(x)).powi(2);
    let iou = |x: [f64; 4]| {
        let (a, b) = (edges(x), edges(t));
        let iw = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
        let ih = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
        let union = (x[2] + x[3]).exp() + (t[2] + t[3]).exp() - iw * ih;
        (iw * ih / union, union)
    };
    let alpha = ratio(x) / (1.0 - iou(x).0 + ratio(x)).max(1e-7);
    let loss = |x: [f64; 4]| {
        let (a, b) = (edges(x), edges(t));
        let (cw, ch) = (a[2].max(b[2]) - a[0].min(b[0]), a[3].max(b[3]) - a[1].min(b[1]));
        let (iou, union) = iou(x);
        let apart = ((x[0] - t[0]).powi(2) + (x[1] - t[1]).powi(2)) / (cw * cw + ch * ch);
        match by {
            BoxLoss::Giou => 1.0 - iou + 1.0 - union / (cw * ch),
            BoxLoss::Diou => 1.0 - iou + apart,
            BoxLoss::Ciou => 1.0 - iou + apart + alpha * ratio(x),
        }
    };
    let slope = |i: usize| {
        let moved = |by: f64| {
            let mut x = x;
            x[i] += by;
            loss(x)
        };
        (moved(1e-6) - moved(-1e-6)) / 2e-6
    };
    (loss(x), std::array::from_fn(slope))
}

/// One weight's update by SGD; returns weight and velocity.
pub fn sgd(w: f64, g: f64, v: f64, o: &Sgd) -> (f64, f64) {
    let g = g + f64::from(o.weight_decay) * w;
    let v = f64::from(o.momentum) * v + g;
    let step = if o.nesterov { g + f64::from(o.momentum) * v } else { v };
    (w - f64::from(o.lr) * step, v)
}

/// One weight's update by Adam or AdamW; returns weight and moments.
pub fn adam(w: f64, g: f64, m: f64, v: f64, o: &Adam) -> (f64, f64, f64) {
    let [lr, b1, b2, eps, decay] =
        [o.lr, o.beta1, o.beta2, o.epsilon, o.weight_decay].map(f64::from);
    let (w, g) = if o.decoupled { (w * (1.0 - lr * decay), g) } else { (w, g + decay * w) };
    let (m, v) = (b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g * g);
    let step = o.step as i32;
    let (m_hat, v_hat) = (m / (1.0 - b1.powi(step)), v / (1.0 - b2.powi(step)));
    (w - lr * m_hat / (v_hat.sqrt() + eps), m, v)
}
