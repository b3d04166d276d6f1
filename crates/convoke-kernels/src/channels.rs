//! What works on channels alone: a shuffle, and a number per channel that multiplies. `x [rows, c]`.

use crate::elementwise::{merge, shards};
use crate::{CHUNK, Ctx, multiversion};

/// `y[r, i · groups + g] (+)= x[r, g · (c / groups) + i]`: channels that lay group by group take turns
/// (Zhang et al. 2018). The reverse is the shuffle with `c / groups` groups.
pub fn shuffle(cx: Ctx, x: &[f32], y: &mut [f32], c: usize, groups: usize, accumulate: bool) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(c), "lengths differ");
    assert!(groups > 0 && c.is_multiple_of(groups), "{c} channels in {groups} groups");
    let (block, each) = ((CHUNK / c).max(1) * c, c / groups);
    cx.pool.for_chunks_mut(y, block, |i, y, _| {
        let x = &x[i * block..][..y.len()];
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            for (g, x) in x.chunks_exact(each).enumerate() {
                for (y, x) in y[g..].iter_mut().step_by(groups).zip(x) {
                    *y = if accumulate { *y + x } else { *x };
                }
            }
        }
    });
}

/// `y [rows, c] (+)= x · weight [c]`; of a gradient, too.
pub fn scale(cx: Ctx, x: &[f32], weight: &[f32], y: &mut [f32], accumulate: bool) {
    let c = weight.len();
    assert!(x.len() == y.len() && x.len().is_multiple_of(c), "lengths differ");
    let block = (CHUNK / c).max(1) * c;
    cx.pool.for_chunks_mut(y, block, |i, y, _| {
        let x = &x[i * block..][..y.len()];
        multiversion!(cx.isa, scale_body(x: &[f32], weight: &[f32], y: &mut [f32], accumulate: bool));
    });
}

#[inline(always)]
fn scale_body(x: &[f32], weight: &[f32], y: &mut [f32], accumulate: bool) {
    let c = weight.len();
    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = if accumulate { *y + x * w } else { x * w };
        }
    }
}

/// Floats of scratch for [`products`].
pub fn products_scratch_len(rows: usize, c: usize) -> usize {
    shards(rows, c).1 * c
}

/// `out [c] = Σ over rows of a · b`, the gradient of [`scale`]'s weight; shards in f32, merged in f64.
pub fn products(cx: Ctx, a: &[f32], b: &[f32], out: &mut [f32], scratch: &mut [f32]) {
    let c = out.len();
    assert!(a.len() == b.len() && a.len().is_multiple_of(c), "lengths differ");
    let rows = a.len() / c;
    let (per_shard, count) = shards(rows, c);
    let partial = &mut scratch[..count * c];
    cx.pool.for_chunks_mut(partial, c, |i, sums, _| {
        let from = (i * per_shard).min(rows) * c;
        let to = (from + per_shard * c).min(rows * c);
        let (a, b) = (&a[from..to], &b[from..to]);
        multiversion!(cx.isa, products_body(a: &[f32], b: &[f32], sums: &mut [f32]));
    });
    merge(partial, out);
}

#[inline(always)]
fn products_body(a: &[f32], b: &[f32], sums: &mut [f32]) {
    let c = sums.len();
    sums.fill(0.0);
    for (a, b) in a.chunks_exact(c).zip(b.chunks_exact(c)) {
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
    }
}
