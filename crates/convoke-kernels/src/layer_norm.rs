//! Layer normalisation of each row over its channels (Ba et al. 2016): `x [rows, c]`,
//! `y = (x − mean) / sqrt(var + epsilon) · gamma + beta`, mean and biased variance of the row.
//!
//! Backward finds mean and variance anew: the row lies in the first cache then, and nothing is kept.

use crate::elementwise::{merge, shards};
use crate::{CHUNK, Ctx, SharedMut, multiversion};

/// Sums that run side by side.
const LANES: usize = 16;

/// `y [rows, c]`; `c` is the length of `gamma`.
pub fn forward(cx: Ctx, x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, y: &mut [f32]) {
    let c = gamma.len();
    assert!(x.len() == y.len() && x.len().is_multiple_of(c) && beta.len() == c, "lengths differ");
    let block = (CHUNK / c).max(1) * c;
    cx.pool.for_chunks_mut(y, block, |i, y, _| {
        let x = &x[i * block..][..y.len()];
        multiversion!(cx.isa, forward_body(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, y: &mut [f32]));
    });
}

#[inline(always)]
fn forward_body(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, y: &mut [f32]) {
    let c = gamma.len();
    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
        let (mean, invstd) = statistics(x, epsilon);
        for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = (x - mean) * invstd * gamma + beta;
        }
    }
}

/// Floats of scratch for [`backward`].
pub fn scratch_len(rows: usize, c: usize) -> usize {
    2 * c * shards(rows, c).1
}

/// Gradients of a layer norm. `dx [rows, c] (+)=` where it is asked for; `dgamma` and `dbeta` are `[c]`.
pub struct Gradients<'a> {
    /// Of the input, and whether to add to what is there.
    pub dx: Option<(&'a mut [f32], bool)>,
    /// Of the weight.
    pub dgamma: &'a mut [f32],
    /// Of the bias.
    pub dbeta: &'a mut [f32],
}

/// With `g = dy · gamma` and `n = (x − mean) · invstd`:
/// `dx = invstd · (g − mean of g − n · mean of g·n)`, `dgamma = Σ dy · n`, `dbeta = Σ dy`; shards in f32,
/// merged in f64.
pub fn backward(
    cx: Ctx,
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    epsilon: f32,
    to: Gradients,
    scratch: &mut [f32],
) {
    let c = gamma.len();
    let rows = dy.len() / c;
    let (per_shard, count) = shards(rows, c);
    let (dgamma, dbeta) = scratch[..2 * count * c].split_at_mut(count * c);
    let accumulate = to.dx.as_ref().is_some_and(|dx| dx.1);
    let dx = to.dx.map(|(dx, _)| {
        assert_eq!(dx.len(), dy.len(), "lengths differ");
        SharedMut::new(dx)
    });
    let weights = SharedMut::new(&mut *dgamma);
    cx.pool.for_chunks_mut(dbeta, c, |i, dbeta, _| {
        let from = (i * per_shard).min(rows) * c;
        let to = (from + per_shard * c).min(rows * c);
        // SAFETY: shards are disjoint, in the sums and in the map.
        let (dgamma, dx) = unsafe {
            let dx = dx.as_ref().map(|dx| dx.slice(from..to));
            (weights.slice(i * c..(i + 1) * c), dx.unwrap_or_default())
        };
        let (x, dy) = (&x[from..to], &dy[from..to]);
        dgamma.fill(0.0);
        dbeta.fill(0.0);
        multiversion!(cx.isa, sums_body(x: &[f32], dy: &[f32], epsilon: f32, dgamma: &mut [f32], dbeta: &mut [f32]));
        multiversion!(cx.isa, data_body(x: &[f32], dy: &[f32], gamma: &[f32], epsilon: f32, dx: &mut [f32], accumulate: bool));
    });
    merge(dgamma, to.dgamma);
    merge(dbeta, to.dbeta);
}

#[inline(always)]
fn sums_body(x: &[f32], dy: &[f32], epsilon: f32, dgamma: &mut [f32], dbeta: &mut [f32]) {
    let c = dgamma.len();
    for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
        let (mean, invstd) = statistics(x, epsilon);
        for (((dg, db), x), dy) in dgamma.iter_mut().zip(&mut *dbeta).zip(x).zip(dy) {
            *dg += dy * ((x - mean) * invstd);
            *db += dy;
        }
    }
}

/// Does nothing where `dx` is empty.
#[inline(always)]
fn data_body(x: &[f32], dy: &[f32], gamma: &[f32], epsilon: f32, dx: &mut [f32], accumulate: bool) {
    let c = gamma.len();
    for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
        let (mean, invstd) = statistics(x, epsilon);
        let share = 1.0 / c as f32;
        let g = share * sum([dy, gamma, x], |dy, gamma, _| dy * gamma);
        let product =
            share * sum([dy, gamma, x], |dy, gamma, x| dy * gamma * ((x - mean) * invstd));
        for (((dx, x), dy), gamma) in dx.iter_mut().zip(x).zip(dy).zip(gamma) {
            let v = invstd * (dy * gamma - g - (x - mean) * invstd * product);
            *dx = if accumulate { *dx + v } else { v };
        }
    }
}

/// Mean and `1 / sqrt(variance + epsilon)` of a row; the variance is that of differences to the mean, so
/// that a large mean costs no precision.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f32) -> (f32, f32) {
    let share = 1.0 / x.len() as f32;
    let mean = share * sum([x; 3], |x, _, _| x);
    let var = share * sum([x; 3], |x, _, _| (x - mean) * (x - mean));
    (mean, 1.0 / (var + epsilon).sqrt())
}

/// The sum of `f` over three rows of one length, in sixteen parts.
#[inline(always)]
fn sum([a, b, c]: [&[f32]; 3], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut parts = [0.0; LANES];
    let whole = a.len() / LANES * LANES;
    let (rows, rest) =
        ([&a[..whole], &b[..whole], &c[..whole]], [&a[whole..], &b[whole..], &c[whole..]]);
    let lanes = |s: &'_ [f32]| -> [f32; LANES] { std::array::from_fn(|i| s[i]) };
    for ((a, b), c) in rows[0]
        .chunks_exact(LANES)
        .zip(rows[1].chunks_exact(LANES))
        .zip(rows[2].chunks_exact(LANES))
    {
        let (a, b, c) = (lanes(a), lanes(b), lanes(c));
        for i in 0..LANES {
            parts[i] += f(a[i], b[i], c[i]);
        }
    }
    for (i, part) in parts.iter_mut().enumerate().take(rest[0].len()) {
        *part += f(rest[0][i], rest[1][i], rest[2][i]);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            parts[i] += parts[i + half];
        }
    }
    parts[0]
}
