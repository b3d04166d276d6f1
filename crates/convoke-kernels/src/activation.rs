//! Activations, forward and backward, and softmax over the last axis.

use crate::{CHUNK, Ctx, multiversion};

/// What an elementwise activation computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `min(max(x, 0), max)`.
    Relu {
        /// Upper bound; infinity for none.
        max: f32,
    },
    /// `x` where positive, else `slope · x`.
    LeakyRelu {
        /// Slope of the negative side.
        slope: f32,
    },
    /// `1 / (1 + exp(−x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `min(max(x / 6 + 1/2, 0), 1)`.
    HardSigmoid,
    /// `x` times its hard sigmoid.
    HardSwish,
    /// `x` times its sigmoid (Elfwing et al. 2018; swish).
    Silu,
    /// `x` times the share of the normal distribution below it (Hendrycks and Gimpel 2016), exact.
    Gelu,
    /// `factor · x + offset`.
    Rescale {
        /// What multiplies.
        factor: f32,
        /// What is added.
        offset: f32,
    },
}

impl Activation {
    /// Whether backward needs the input; from the output alone it cannot be told.
    pub fn keeps_input(self) -> bool {
        matches!(self, Activation::HardSwish | Activation::Silu | Activation::Gelu)
    }
}

/// `y = f(x)`.
pub fn forward(cx: Ctx, f: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    cx.pool.for_chunks_mut(y, CHUNK, |i, y, _| {
        let x = &x[i * CHUNK..][..y.len()];
        multiversion!(cx.isa, forward_body(f: Activation, x: &[f32], y: &mut [f32]));
    });
}

/// `dx (+)= f'(x) · dy`, from `saved`: the input where [`Activation::keeps_input`], else the output.
pub fn backward(
    cx: Ctx,
    f: Activation,
    saved: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    assert!(saved.len() == dx.len() && dy.len() == dx.len(), "lengths differ");
    cx.pool.for_chunks_mut(dx, CHUNK, |i, dx, _| {
        let (saved, dy) = (&saved[i * CHUNK..][..dx.len()], &dy[i * CHUNK..][..dx.len()]);
        multiversion!(cx.isa, backward_body(f: Activation, saved: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool));
    });
}

/// `dy = 0` where the clamped output `y` stands at a bound, in place.
pub fn relu_backward_in_place(cx: Ctx, y: &[f32], dy: &mut [f32], max: f32) {
    assert_eq!(y.len(), dy.len(), "lengths differ");
    cx.pool.for_chunks_mut(dy, CHUNK, |i, dy, _| {
        let y = &y[i * CHUNK..][..dy.len()];
        multiversion!(cx.isa, mask_body(y: &[f32], dy: &mut [f32], max: f32));
    });
}

#[inline(always)]
fn mask_body(y: &[f32], dy: &mut [f32], max: f32) {
    for (d, &y) in dy.iter_mut().zip(y) {
        *d = if y > 0.0 && y < max { *d } else { 0.0 };
    }
}

#[inline(always)]
fn forward_body(f: Activation, x: &[f32], y: &mut [f32]) {
    match f {
        Activation::Relu { max } => {
            for (y, &x) in y.iter_mut().zip(x) {
                let low = if x < 0.0 { 0.0 } else { x };
                *y = if low > max { max } else { low };
            }
        }
        Activation::LeakyRelu { slope } => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = if x > 0.0 { x } else { slope * x };
            }
        }
        Activation::Sigmoid => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = sigmoid(x);
            }
        }
        Activation::Tanh => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = tanh(x);
            }
        }
        Activation::HardSigmoid => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = hard_sigmoid(x);
            }
        }
        Activation::HardSwish => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x * hard_sigmoid(x);
            }
        }
        Activation::Silu => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = above(x, -100.0) * sigmoid(x);
            }
        }
        Activation::Gelu => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x * normal_below(x);
            }
        }
        Activation::Rescale { factor, offset } => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = factor * x + offset;
            }
        }
    }
}

#[inline(always)]
fn backward_body(f: Activation, saved: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
    match f {
        Activation::Relu { max } => {
            apply(saved, dy, dx, accumulate, |y, dy| if y > 0.0 && y < max { dy } else { 0.0 })
        }
        Activation::LeakyRelu { slope } => {
            apply(saved, dy, dx, accumulate, |y, dy| if y > 0.0 { dy } else { slope * dy })
        }
        Activation::Sigmoid => apply(saved, dy, dx, accumulate, |y, dy| dy * y * (1.0 - y)),
        Activation::Tanh => apply(saved, dy, dx, accumulate, |y, dy| dy * (1.0 - y * y)),
        Activation::HardSigmoid => {
            apply(
                saved,
                dy,
                dx,
                accumulate,
                |y, dy| if y > 0.0 && y < 1.0 { dy / 6.0 } else { 0.0 },
            )
        }
        Activation::HardSwish => apply(saved, dy, dx, accumulate, |x, dy| {
            let slope = if x < 3.0 { x / 3.0 + 0.5 } else { 1.0 };
            if x > -3.0 { dy * slope } else { 0.0 }
        }),
        Activation::Silu => apply(saved, dy, dx, accumulate, |x, dy| {
            let s = sigmoid(x);
            dy * s * (1.0 + above(x, -100.0) * (1.0 - s))
        }),
        Activation::Gelu => apply(saved, dy, dx, accumulate, |x, dy| {
            let density = 0.398_942_3 * exp(-0.5 * x * x);
            dy * (normal_below(x) + x * density)
        }),
        Activation::Rescale { factor, .. } => apply(saved, dy, dx, accumulate, |_, dy| factor * dy),
    }
}

#[inline(always)]
fn apply(y: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool, g: impl Fn(f32, f32) -> f32) {
    for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
        let v = g(y, dy);
        *dx = if accumulate { *dx + v } else { v };
    }
}

/// `exp(x)` to about 1 ulp: range reduction by ln 2 in two parts, polynomial of degree 6 on
/// ±ln 2 / 2 (Cephes `expf`), vectorizable.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.7 { 88.7 } else { x };
    let n = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = x - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2^n in two halves, so that the largest n does not overflow the exponent.
    let half = (n as i32) >> 1;
    let rest = n as i32 - half;
    let power = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    p * power(half) * power(rest)
}

/// `1 / (1 + exp(−x))`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    // `e / (1 + e)` for the negative side: `1 − v` would lose the tail's digits.
    let e = exp(-x.abs());
    let v = (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e);
    // The clamped exp would hide a NaN.
    if x.is_nan() { x } else { v }
}

/// `min(max(x / 6 + 1/2, 0), 1)`.
#[inline(always)]
fn hard_sigmoid(x: f32) -> f32 {
    let v = x / 6.0 + 0.5;
    let v = if v < 0.0 { 0.0 } else { v };
    if v > 1.0 { 1.0 } else { v }
}

/// `max(x, bound)`; NaN stays.
#[inline(always)]
fn above(x: f32, bound: f32) -> f32 {
    if x < bound { bound } else { x }
}

/// The share of the normal distribution below `x`, `erfc(−x / √2) / 2`, with its digits in the tail: the
/// Chebyshev fit of Press et al. (Numerical Recipes, `erfcc`), relative error 1.2e-7.
#[inline(always)]
fn normal_below(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    // x² / 2 as the exact square of its upper bits and a small rest: rounding it would cost the tail's digits.
    let upper = f32::from_bits(x.abs().to_bits() & 0xffff_f000);
    let rest = 0.5 * (x.abs() - upper) * (x.abs() + upper);
    let rest = if rest > 0.5 { 0.5 } else { rest };
    let power = exp(p - 0.5 * upper * upper);
    let tail = 0.5 * t * power * (1.0 - rest * (1.0 - rest * (0.5 - rest / 6.0)));
    let v = if x > 0.0 { 1.0 - tail } else { tail };
    if x.is_nan() { x } else { v }
}

/// `tanh(x)`: an odd polynomial near zero, where `1 − 2 / (exp(2x) + 1)` would cancel.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    let p = -5.704_988e-3;
    let p = p * s + 2.063_909_6e-2;
    let p = p * s - 5.373_971_5e-2;
    let p = p * s + 1.333_144_2e-1;
    let p = p * s - 3.333_328e-1;
    let small = p * s * x + x;
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    let large = if x < 0.0 { -large } else { large };
    let v = if a < 0.625 { small } else { large };
    if x.is_nan() { x } else { v }
}

/// `y[r, :] = softmax(x[r, :])` over rows of `classes`.
pub fn softmax(cx: Ctx, x: &[f32], y: &mut [f32], classes: usize) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    let block = (CHUNK / classes).max(1) * classes;
    cx.pool.for_chunks_mut(y, block, |i, y, _| {
        let x = &x[i * block..][..y.len()];
        multiversion!(cx.isa, softmax_body(x: &[f32], y: &mut [f32], classes: usize));
    });
}

#[inline(always)]
fn softmax_body(x: &[f32], y: &mut [f32], classes: usize) {
    for (x, y) in x.chunks_exact(classes).zip(y.chunks_exact_mut(classes)) {
        softmax_row(x, y);
    }
}

/// Softmax of one row; returns the largest number and the sum of `exp(x − largest)`.
#[inline(always)]
pub(crate) fn softmax_row(x: &[f32], y: &mut [f32]) -> (f32, f32) {
    let largest = x.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    for (y, &x) in y.iter_mut().zip(x) {
        // NaN passes through the subtraction but not through exp's clamp.
        *y = if x.is_nan() { x } else { exp(x - largest) };
    }
    let sum: f32 = y.iter().sum();
    for y in y.iter_mut() {
        *y /= sum;
    }
    (largest, sum)
}

/// `dx (+)= y · (dy − sum(y · dy))` per row.
pub fn softmax_backward(
    cx: Ctx,
    y: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    classes: usize,
    accumulate: bool,
) {
    let block = (CHUNK / classes).max(1) * classes;
    cx.pool.for_chunks_mut(dx, block, |i, dx, _| {
        let at = i * block;
        for (r, dx) in dx.chunks_exact_mut(classes).enumerate() {
            let y = &y[at + r * classes..][..classes];
            let dy = &dy[at + r * classes..][..classes];
            let dot: f32 = y.iter().zip(dy).map(|(y, d)| y * d).sum();
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                let v = y * (dy - dot);
                *dx = if accumulate { *dx + v } else { v };
            }
        }
    });
}
