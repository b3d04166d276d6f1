//! Batch normalisation over rows: `x [rows, c]`, statistics per channel.

use crate::elementwise::shards;
use crate::gemm::Simd;
use crate::isa::simd;
use crate::{Ctx, SharedMut};

/// Rows are walked in items of about this many floats.
const CHUNK: usize = 16 * 1024;

/// Floats of scratch for [`statistics`] and [`backward_sums`].
pub fn scratch_len(rows: usize, c: usize) -> usize {
    shards(rows, c).1 * 2 * c
}

/// Where the statistics of a batch go; all `[c]`.
pub struct Statistics<'a> {
    /// Mean of the batch.
    pub mean: &'a mut [f32],
    /// `1 / sqrt(variance + epsilon)`, variance biased.
    pub invstd: &'a mut [f32],
    /// Running mean, moved by `momentum · (batch − running)`.
    pub running_mean: &'a mut [f32],
    /// Running variance (unbiased), likewise.
    pub running_var: &'a mut [f32],
}

/// Mean and variance of `x [rows, c]` per channel. Sums are taken of differences to the first row,
/// so that a large mean costs no precision; shards in f32, merged in f64.
pub fn statistics(
    cx: Ctx,
    x: &[f32],
    s: Statistics,
    momentum: f32,
    epsilon: f32,
    scratch: &mut [f32],
) {
    let c = s.mean.len();
    let rows = x.len() / c;
    let (per_shard, count) = shards(rows, c);
    let partial = &mut scratch[..count * 2 * c];
    cx.pool.for_chunks_mut(partial, 2 * c, |i, sums, _| {
        let from = (i * per_shard).min(rows);
        let to = (from + per_shard).min(rows);
        let (part, first) = (&x[from * c..to * c], &x[..c]);
        // SAFETY: all slices are whole rows of `c` (sums: two).
        unsafe { simd!(cx.isa, sums_body(part: &[f32], first: &[f32], sums: &mut [f32])) };
    });
    let n = rows as f64;
    for i in 0..c {
        let sum = |k: usize| -> f64 {
            partial[k * c + i..].iter().step_by(2 * c).map(|&p| f64::from(p)).sum()
        };
        let shifted = sum(0) / n;
        let var = (sum(1) / n - shifted * shifted).max(0.0);
        let mean = shifted + f64::from(x[i]);
        s.mean[i] = mean as f32;
        s.invstd[i] = (1.0 / (var + f64::from(epsilon)).sqrt()) as f32;
        let unbiased = if rows > 1 { var * n / (n - 1.0) } else { var };
        s.running_mean[i] += momentum * (mean as f32 - s.running_mean[i]);
        s.running_var[i] += momentum * (unbiased as f32 - s.running_var[i]);
    }
}

/// `sums [2, c]`: of `x − first` and of its square.
#[inline(always)]
unsafe fn sums_body<S: Simd>(x: &[f32], first: &[f32], sums: &mut [f32]) {
    let c = first.len();
    let rows = x.len() / c;
    // SAFETY: lanes stay below `c`, rows below `rows`.
    unsafe {
        each_lanes::<S>(c, |at, m| {
            // Four rows a turn in sums of their own, so that additions do not wait for each other.
            let shift = S::load_first(first.as_ptr().add(at), m);
            let zero = S::splat(0.0);
            let (mut sum, mut square) = ([zero; 4], [zero; 4]);
            let mut r = 0;
            while r < rows {
                for k in 0..4.min(rows - r) {
                    let v = S::load_first(x.as_ptr().add((r + k) * c + at), m);
                    let d = S::sub(v, shift);
                    sum[k] = S::add(sum[k], d);
                    square[k] = S::fma(d, d, square[k]);
                }
                r += 4;
            }
            let all = |v: [S::V; 4]| S::add(S::add(v[0], v[1]), S::add(v[2], v[3]));
            S::store_first(sums.as_mut_ptr().add(at), all(sum), m);
            S::store_first(sums.as_mut_ptr().add(c + at), all(square), m);
        });
    }
}

/// Calls `f(first lane, mask)` for every vector of a row of `c` numbers.
#[inline(always)]
unsafe fn each_lanes<S: Simd>(c: usize, mut f: impl FnMut(usize, S::M)) {
    let mut at = 0;
    while at < c {
        // SAFETY: the caller has the instruction set.
        f(at, unsafe { S::mask((c - at).min(S::LANES)) });
        at += S::LANES;
    }
}

/// `scale = gamma · invstd`, `shift = beta − mean · scale`, all `[c]`.
pub fn scale_shift(
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    invstd: &[f32],
    scale: &mut [f32],
    shift: &mut [f32],
) {
    for i in 0..gamma.len() {
        scale[i] = gamma[i] * invstd[i];
        shift[i] = beta[i] - mean[i] * scale[i];
    }
}

/// `y [rows, c] = clamp(x · scale + shift (+ residual))`.
pub fn apply(
    cx: Ctx,
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    residual: Option<&[f32]>,
    clamp: Option<(f32, f32)>,
    y: &mut [f32],
) {
    let c = scale.len();
    assert!(x.len() == y.len() && x.len().is_multiple_of(c) && shift.len() == c, "lengths differ");
    let block = (CHUNK / c).max(1) * c;
    cx.pool.for_chunks_mut(y, block, |i, y, _| {
        let range = i * block..i * block + y.len();
        let x = &x[range.clone()];
        let residual = residual.map(|r| &r[range]);
        // SAFETY: all slices are whole rows of `c`.
        unsafe {
            simd!(cx.isa, apply_body(x: &[f32], scale: &[f32], shift: &[f32], residual: Option<&[f32]>,
                clamp: Option<(f32, f32)>, y: &mut [f32]))
        };
    });
}

#[inline(always)]
unsafe fn apply_body<S: Simd>(
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    residual: Option<&[f32]>,
    clamp: Option<(f32, f32)>,
    y: &mut [f32],
) {
    let c = scale.len();
    let (lo, hi) = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    // SAFETY: offsets stay within whole rows.
    unsafe {
        let (lo, hi) = (S::splat(lo), S::splat(hi));
        for r in 0..x.len() / c {
            each_lanes::<S>(c, |at, m| {
                let i = r * c + at;
                let v = S::fma(
                    S::load_first(x.as_ptr().add(i), m),
                    S::load_first(scale.as_ptr().add(at), m),
                    S::load_first(shift.as_ptr().add(at), m),
                );
                let v = match residual {
                    Some(z) => S::add(v, S::load_first(z.as_ptr().add(i), m)),
                    None => v,
                };
                S::store_first(y.as_mut_ptr().add(i), S::clamp(v, lo, hi), m);
            });
        }
    }
}

/// What backward needs of forward.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// Input of the norm `[rows, c]`.
    pub x: &'a [f32],
    /// Output after the clamp `[rows, c]` and its upper bound, where there was a clamp.
    pub y: Option<(&'a [f32], f32)>,
    /// Mean of the batch.
    pub mean: &'a [f32],
    /// `1 / sqrt(variance + epsilon)`.
    pub invstd: &'a [f32],
    /// Weight.
    pub gamma: &'a [f32],
}

/// First pass: masks `dy` in place where the clamp stood at a bound, and sums `dbeta = Σ dy` and
/// `dgamma = Σ dy · (x − mean) · invstd`.
pub fn backward_sums(
    cx: Ctx,
    s: Saved,
    dy: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    scratch: &mut [f32],
) {
    let c = s.mean.len();
    let rows = dy.len() / c;
    let (per_shard, count) = shards(rows, c);
    let partial = &mut scratch[..count * 2 * c];
    let gradients = SharedMut::new(dy);
    cx.pool.for_chunks_mut(partial, 2 * c, |i, sums, _| {
        let from = (i * per_shard).min(rows);
        let to = (from + per_shard).min(rows);
        // SAFETY: shards are disjoint.
        let dy = unsafe { gradients.slice(from * c..to * c) };
        let part = Saved {
            x: &s.x[from * c..to * c],
            y: s.y.map(|(y, max)| (&y[from * c..to * c], max)),
            ..s
        };
        // SAFETY: all slices are whole rows of `c` (sums: two).
        unsafe { simd!(cx.isa, backward_sums_body(part: Saved, dy: &mut [f32], sums: &mut [f32])) };
    });
    for i in 0..c {
        let sum = |k: usize| -> f64 {
            partial[k * c + i..].iter().step_by(2 * c).map(|&p| f64::from(p)).sum()
        };
        dbeta[i] = sum(0) as f32;
        dgamma[i] = (sum(1) * f64::from(s.invstd[i])) as f32;
    }
}

#[inline(always)]
unsafe fn backward_sums_body<S: Simd>(s: Saved, dy: &mut [f32], sums: &mut [f32]) {
    let c = s.mean.len();
    let rows = dy.len() / c;
    // SAFETY: offsets stay within whole rows.
    unsafe {
        each_lanes::<S>(c, |at, m| {
            let mean = S::load_first(s.mean.as_ptr().add(at), m);
            let zero = S::splat(0.0);
            let (mut sum, mut product) = ([zero; 2], [zero; 2]);
            let max = S::splat(s.y.map_or(0.0, |(_, max)| max));
            for r in 0..rows {
                let i = r * c + at;
                let mut g = S::load_first(dy.as_ptr().add(i), m);
                if let Some((y, _)) = s.y {
                    g = S::keep_between(g, S::load_first(y.as_ptr().add(i), m), zero, max);
                    S::store_first(dy.as_mut_ptr().add(i), g, m);
                }
                let d = S::sub(S::load_first(s.x.as_ptr().add(i), m), mean);
                sum[r % 2] = S::add(sum[r % 2], g);
                product[r % 2] = S::fma(g, d, product[r % 2]);
            }
            S::store_first(sums.as_mut_ptr().add(at), S::add(sum[0], sum[1]), m);
            S::store_first(sums.as_mut_ptr().add(c + at), S::add(product[0], product[1]), m);
        });
    }
}

/// Second pass: `dx = gamma · invstd · (dy − dbeta / rows − (x − mean) · invstd · dgamma / rows)`,
/// as `a · dy + b · x + k` per channel. Without `dx`, `dy` is overwritten in place.
pub fn backward_data(
    cx: Ctx,
    s: Saved,
    dy: &mut [f32],
    dgamma: &[f32],
    dbeta: &[f32],
    dx: Option<&mut [f32]>,
    scratch: &mut [f32],
) {
    let c = s.mean.len();
    let rows = dy.len() / c;
    let (a, rest) = scratch.split_at_mut(c);
    let (b, rest) = rest.split_at_mut(c);
    let k = &mut rest[..c];
    let n = rows as f64;
    for i in 0..c {
        let invstd = f64::from(s.invstd[i]);
        let scale = f64::from(s.gamma[i]) * invstd;
        let slope = -scale * invstd * f64::from(dgamma[i]) / n;
        a[i] = scale as f32;
        b[i] = slope as f32;
        k[i] = (-scale * f64::from(dbeta[i]) / n - slope * f64::from(s.mean[i])) as f32;
    }
    let coefficients = [&*a, &*b, &*k];
    let block = (CHUNK / c).max(1) * c;
    let len = dy.len();
    let dy = SharedMut::new(dy);
    let out = dx.map(|dx| {
        assert_eq!(dx.len(), len, "lengths differ");
        SharedMut::new(dx)
    });
    cx.pool.run(len.div_ceil(block), &|i, _| {
        let range = i * block..((i + 1) * block).min(len);
        let x = &s.x[range.clone()];
        // SAFETY: blocks are disjoint.
        let (dy, dx) = unsafe {
            let dx = out.as_ref().map(|o| o.slice(range.clone()).as_mut_ptr());
            let dy = dy.slice(range).as_mut_ptr();
            (dy.cast_const(), dx.unwrap_or(dy))
        };
        // SAFETY: `dy` and `dx` hold as many numbers as `x`, whole rows of `c`; where they are the same
        // place, each number is read before it is written.
        unsafe {
            simd!(cx.isa, data_body(x: &[f32], dy: *const f32, coefficients: [&[f32]; 3], dx: *mut f32))
        };
    });
}

#[inline(always)]
unsafe fn data_body<S: Simd>(x: &[f32], dy: *const f32, [a, b, k]: [&[f32]; 3], dx: *mut f32) {
    let c = a.len();
    // SAFETY: offsets stay within whole rows.
    unsafe {
        for r in 0..x.len() / c {
            each_lanes::<S>(c, |at, m| {
                let i = r * c + at;
                let v = S::fma(
                    S::load_first(x.as_ptr().add(i), m),
                    S::load_first(b.as_ptr().add(at), m),
                    S::load_first(k.as_ptr().add(at), m),
                );
                let g = S::load_first(dy.add(i), m);
                let v = S::fma(g, S::load_first(a.as_ptr().add(at), m), v);
                S::store_first(dx.add(i), v, m);
            });
        }
    }
}
