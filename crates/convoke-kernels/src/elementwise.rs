//! Copies, sums and column sums: what joins and biases need.

use crate::map::{Number, no_bytes};
use crate::{CHUNK, Ctx, Map, MapMut, SharedMut, multiversion};

/// `x`, or zero where it is too small to move any weight. Losses and optimizers drop such numbers, because
/// what is made of them soon is subnormal, and a processor takes a hundred times as long for those.
#[inline(always)]
pub(crate) fn settled(x: f32) -> f32 {
    /// 2⁻⁶⁴; a weight of 2⁻¹⁰ changes by steps of 2⁻³⁴.
    const LEAST: f32 = 5.421_011e-20;
    if x.abs() < LEAST { 0.0 } else { x }
}

/// `dst = src`; both maps are of one kind.
pub fn copy<'a>(cx: Ctx, src: impl Into<Map<'a>>, dst: impl Into<MapMut<'a>>) {
    let src = src.into();
    match dst.into() {
        MapMut::Full(dst) => copy_of(cx, Number::of(src), dst),
        MapMut::Half(dst) => copy_of(cx, Number::of(src), dst),
        MapMut::Bytes(dst, _) => copy_of(cx, Number::of(src), dst),
    }
}

fn copy_of<N: Number>(cx: Ctx, src: &[N], dst: &mut [N]) {
    assert_eq!(src.len(), dst.len(), "lengths differ");
    cx.pool.for_chunks_mut(dst, CHUNK, |i, out, _| {
        out.copy_from_slice(&src[i * CHUNK..][..out.len()]);
    });
}

/// `dst = value`.
pub fn fill(cx: Ctx, dst: &mut [f32], value: f32) {
    cx.pool.for_chunks_mut(dst, CHUNK, |_, out, _| out.fill(value));
}

/// `dst *= factor`.
pub fn multiply(cx: Ctx, dst: &mut [f32], factor: f32) {
    cx.pool.for_chunks_mut(dst, CHUNK, |_, out, _| out.iter_mut().for_each(|v| *v *= factor));
}

/// `dst += src`; both maps are of one kind.
pub fn add_assign<'a>(cx: Ctx, dst: impl Into<MapMut<'a>>, src: impl Into<Map<'a>>) {
    let src = src.into();
    match dst.into() {
        MapMut::Full(dst) => add_assign_of(cx, dst, Number::of(src)),
        MapMut::Half(dst) => add_assign_of(cx, dst, Number::of(src)),
        MapMut::Bytes(..) => no_bytes(),
    }
}

fn add_assign_of<N: Number>(cx: Ctx, dst: &mut [N], src: &[N]) {
    assert_eq!(src.len(), dst.len(), "lengths differ");
    cx.pool.for_chunks_mut(dst, CHUNK, |i, out, _| {
        let part = &src[i * CHUNK..][..out.len()];
        multiversion!(cx.isa, add_body::<N>(out: &mut [N], part: &[N]));
    });
}

#[inline(always)]
fn add_body<N: Number>(dst: &mut [N], src: &[N]) {
    for (d, s) in dst.iter_mut().zip(src) {
        *d = N::round(d.get() + s.get());
    }
}

/// `dst = a + b`.
pub fn add(cx: Ctx, a: &[f32], b: &[f32], dst: &mut [f32]) {
    assert!(a.len() == dst.len() && b.len() == dst.len(), "lengths differ");
    cx.pool.for_chunks_mut(dst, CHUNK, |i, out, _| {
        let (a, b) = (&a[i * CHUNK..][..out.len()], &b[i * CHUNK..][..out.len()]);
        multiversion!(cx.isa, sum_body(a: &[f32], b: &[f32], out: &mut [f32]));
    });
}

#[inline(always)]
fn sum_body(a: &[f32], b: &[f32], dst: &mut [f32]) {
    for ((d, a), b) in dst.iter_mut().zip(a).zip(b) {
        *d = a + b;
    }
}

/// A range of channels of a map: `rows` pixels of `width` channels, from channel `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    /// Channels of a pixel.
    pub width: usize,
    /// First channel.
    pub at: usize,
}

/// `dst[r, to.at + i] (+)= src[r, from.at + i]` for `i < channels` and every row: concatenation and
/// its reverse.
pub fn copy_channels(
    cx: Ctx,
    (src, from): (&[f32], Channels),
    (dst, to): (&mut [f32], Channels),
    rows: usize,
    channels: usize,
    accumulate: bool,
) {
    assert!(from.at + channels <= from.width && to.at + channels <= to.width);
    assert!(src.len() >= rows * from.width && dst.len() >= rows * to.width);
    let block = (CHUNK / to.width.max(1)).max(1);
    cx.pool.for_chunks_mut(&mut dst[..rows * to.width], block * to.width, |i, out, _| {
        for (r, line) in out.chunks_exact_mut(to.width).enumerate() {
            let line = &mut line[to.at..to.at + channels];
            let from = &src[(i * block + r) * from.width + from.at..][..channels];
            if accumulate {
                add_body(line, from);
            } else {
                line.copy_from_slice(from);
            }
        }
    });
}

/// Rows per shard and number of shards of a column sum: by shape alone.
pub(crate) fn shards(rows: usize, columns: usize) -> (usize, usize) {
    let count = (rows * columns / CHUNK).clamp(1, 64).min(rows.max(1));
    (rows.div_ceil(count), count)
}

/// Floats of scratch for [`column_sum`].
pub fn column_sum_scratch_len(rows: usize, columns: usize) -> usize {
    shards(rows, columns).1 * columns
}

/// `out [columns] = sum over rows of x [rows, columns]`; shards in f32, merged in f64.
pub fn column_sum(cx: Ctx, x: &[f32], out: &mut [f32], scratch: &mut [f32]) {
    let columns = out.len();
    let rows = x.len() / columns;
    let (per_shard, count) = shards(rows, columns);
    let partial = &mut scratch[..count * columns];
    cx.pool.for_chunks_mut(partial, columns, |i, sums, _| {
        let from = (i * per_shard).min(rows);
        let to = (from + per_shard).min(rows);
        let part = &x[from * columns..to * columns];
        multiversion!(cx.isa, column_body(part: &[f32], sums: &mut [f32]));
    });
    merge(partial, out);
}

/// `out = sum over shards of partial [shards, columns]`, in order, in f64.
pub(crate) fn merge(partial: &[f32], out: &mut [f32]) {
    const WIDTH: usize = 32;
    let columns = out.len();
    for (i, out) in out.chunks_mut(WIDTH).enumerate() {
        let mut sums = [0.0; WIDTH];
        for shard in partial.chunks_exact(columns) {
            for (s, &p) in sums.iter_mut().zip(&shard[i * WIDTH..][..out.len()]) {
                *s += f64::from(p);
            }
        }
        for (o, s) in out.iter_mut().zip(sums) {
            *o = s as f32;
        }
    }
}

#[inline(always)]
fn column_body(x: &[f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for row in x.chunks_exact(sums.len()) {
        for (s, v) in sums.iter_mut().zip(row) {
            *s += v;
        }
    }
}

/// Squares summed in fixed chunks, merged in f64: for gradient norms.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    x.chunks(CHUNK).map(|c| c.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()).sum()
}

/// `dst[r, :] = src[r, :] · scale` for maps gathered or spread by `pick`: row `r` of `dst` comes from
/// row `pick(r)` of `src`, or is zero.
pub fn gather_rows(
    cx: Ctx,
    src: &[f32],
    dst: &mut [f32],
    (from, to): (usize, usize),
    accumulate: bool,
    pick: impl Fn(usize) -> Option<usize> + Sync,
) {
    let rows = dst.len() / to;
    let both = from.min(to);
    let dst = SharedMut::new(dst);
    let block = (CHUNK / to).max(1);
    cx.pool.run(rows.div_ceil(block), &|i, _| {
        for r in i * block..((i + 1) * block).min(rows) {
            // SAFETY: every row belongs to one item.
            let line = unsafe { dst.slice(r * to..(r + 1) * to) };
            match pick(r) {
                Some(s) if accumulate => add_body(&mut line[..both], &src[s * from..][..both]),
                Some(s) => {
                    line[..both].copy_from_slice(&src[s * from..][..both]);
                    line[both..].fill(0.0);
                }
                None if accumulate => {}
                None => line.fill(0.0),
            }
        }
    });
}

/// `x = min(max(x, lo), hi)`; NaN stays.
pub fn clamp(cx: Ctx, x: &mut [f32], lo: f32, hi: f32) {
    cx.pool.for_chunks_mut(x, CHUNK, |_, x, _| {
        for v in x {
            *v = v.clamp(lo, hi);
        }
    });
}
