//! Depthwise convolution: `x [n,h,w,c] · filters [kh,kw,c] -> y [n,oh,ow,c]`, channels in the lanes.

use crate::Ctx;
use crate::conv::ConvShape;
use crate::gemm::{Even, Simd};
use crate::isa::simd;

/// Taps that one pass keeps in registers.
const TAPS: usize = 12;
/// Shards of the filters' gradient at most.
const SHARDS: usize = 16;

/// What is done to a sum before it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One number per channel.
    pub bias: Option<&'a [f32]>,
    /// Bounds of the result.
    pub clamp: Option<(f32, f32)>,
}

/// `y = epilogue(x ∗ filters)`.
pub fn forward(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
    e: Epilogue,
) {
    let line = s.ow * s.c;
    let s = *s;
    cx.pool.for_chunks_mut(&mut y[..n * s.oh * line], line, |row, y, _| {
        let (p, oy) = (row / s.oh, row % s.oh);
        let x = &x[p * s.x_len()..][..s.x_len()];
        // SAFETY: `x` is one picture, `y` one output row, filters are whole.
        unsafe {
            simd!(cx.isa, forward_row(s: ConvShape, oy: usize, x: &[f32], filters: &[f32], y: &mut [f32], e: Epilogue))
        };
    });
}

#[inline(always)]
unsafe fn forward_row<S: Simd>(
    s: ConvShape,
    oy: usize,
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
    e: Epilogue,
) {
    let (lo, hi) = e.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    for ox in 0..s.ow {
        let cols = taps(ox * s.sw, s.left, s.dw, s.kw, s.w);
        let mut at = 0;
        while at < s.c {
            // SAFETY: taps lie on the map; lanes stay below `c`.
            unsafe {
                let m = S::mask((s.c - at).min(S::LANES));
                let mut sum = match e.bias {
                    Some(b) => S::load_first(b.as_ptr().add(at), m),
                    None => S::splat(0.0),
                };
                for kh in rows.clone() {
                    let line = (oy * s.sh + kh * s.dh - s.top) * s.w;
                    for kw in cols.clone() {
                        let pixel = line + ox * s.sw + kw * s.dw - s.left;
                        let v = S::load_first(x.as_ptr().add(pixel * s.c + at), m);
                        let f = S::load_first(filters.as_ptr().add((kh * s.kw + kw) * s.c + at), m);
                        sum = S::fma(v, f, sum);
                    }
                }
                let v = S::clamp(sum, S::splat(lo), S::splat(hi));
                S::store_first(y.as_mut_ptr().add(ox * s.c + at), v, m);
            }
            at += S::LANES;
        }
    }
}

/// Window places `k` for which `start + k · dilation − pad` lies in `0..size`.
#[inline(always)]
fn taps(
    start: usize,
    pad: usize,
    dilation: usize,
    k: usize,
    size: usize,
) -> std::ops::Range<usize> {
    let first = pad.saturating_sub(start).div_ceil(dilation).min(k);
    let end = (size + pad).saturating_sub(start).div_ceil(dilation).min(k);
    first..end.max(first)
}

/// `(output, window place)` pairs that see input `i`, in order of the window.
#[inline(always)]
fn seen_by(
    i: usize,
    pad: usize,
    dilation: usize,
    step: usize,
    k: usize,
    outputs: usize,
) -> impl Iterator<Item = (usize, usize)> + Clone {
    (0..k).filter_map(move |place| {
        let from = (i + pad).checked_sub(place * dilation)?;
        (from % step == 0 && from / step < outputs).then_some((from / step, place))
    })
}

/// `dx (+)= dy ∗ flipped filters`, gathered per input row.
pub fn backward_data(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let line = s.w * s.c;
    let s = *s;
    cx.pool.for_chunks_mut(&mut dx[..n * s.h * line], line, |row, dx, _| {
        let (p, iy) = (row / s.h, row % s.h);
        let dy = &dy[p * s.y_len()..][..s.y_len()];
        // SAFETY: `dy` is one picture, `dx` one input row, filters are whole.
        unsafe {
            simd!(cx.isa, data_row(s: ConvShape, iy: usize, dy: &[f32], filters: &[f32], dx: &mut [f32], accumulate: bool))
        };
    });
}

#[inline(always)]
unsafe fn data_row<S: Simd>(
    s: ConvShape,
    iy: usize,
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let rows = seen_by(iy, s.top, s.dh, s.sh, s.kh, s.oh);
    for ix in 0..s.w {
        let mut at = 0;
        while at < s.c {
            // SAFETY: outputs lie on the map; lanes stay below `c`.
            unsafe {
                let m = S::mask((s.c - at).min(S::LANES));
                let out = dx.as_mut_ptr().add(ix * s.c + at);
                let mut sum = if accumulate { S::load_first(out, m) } else { S::splat(0.0) };
                for (oy, kh) in rows.clone() {
                    for (ox, kw) in seen_by(ix, s.left, s.dw, s.sw, s.kw, s.ow) {
                        let v = S::load_first(dy.as_ptr().add((oy * s.ow + ox) * s.c + at), m);
                        let f = S::load_first(filters.as_ptr().add((kh * s.kw + kw) * s.c + at), m);
                        sum = S::fma(v, f, sum);
                    }
                }
                S::store_first(out, sum, m);
            }
            at += S::LANES;
        }
    }
}

/// Floats of scratch for [`backward_weights`] over up to `batch` samples.
pub fn scratch_len(s: &ConvShape, batch: usize) -> usize {
    shards(s, batch) * s.kh * s.kw * s.c
}

fn shards(s: &ConvShape, n: usize) -> usize {
    SHARDS.min(n * s.oh).max(1)
}

/// `dw [kh,kw,c] = Σ x · dy`; shards of output rows by shape, merged in order in f64.
pub fn backward_weights(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    scratch: &mut [f32],
) {
    let len = s.kh * s.kw * s.c;
    let count = shards(s, n);
    let rows = Even::parts(n * s.oh, count);
    let partial = &mut scratch[..count * len];
    let s = *s;
    cx.pool.for_chunks_mut(partial, len, |i, sums, _| {
        sums.fill(0.0);
        for row in rows.range(i) {
            let (p, oy) = (row / s.oh, row % s.oh);
            let x = &x[p * s.x_len()..][..s.x_len()];
            let dy = &dy[row * s.ow * s.c..][..s.ow * s.c];
            // SAFETY: `x` is one picture, `dy` one output row, `sums` the whole filters.
            unsafe {
                simd!(cx.isa, weights_row(s: ConvShape, oy: usize, x: &[f32], dy: &[f32], sums: &mut [f32]))
            };
        }
    });
    crate::elementwise::merge(partial, &mut dw[..len]);
}

/// Adds one output row's products to the sums, up to `TAPS` window places of a row in registers.
#[inline(always)]
unsafe fn weights_row<S: Simd>(s: ConvShape, oy: usize, x: &[f32], dy: &[f32], sums: &mut [f32]) {
    let mut at = 0;
    while at < s.c {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            for kh in taps(oy * s.sh, s.top, s.dh, s.kh, s.h) {
                let line = (oy * s.sh + kh * s.dh - s.top) * s.w;
                for block in (0..s.kw).step_by(TAPS) {
                    let places = TAPS.min(s.kw - block);
                    let mut acc = [S::splat(0.0); TAPS];
                    for ox in 0..s.ow {
                        let g = S::load_first(dy.as_ptr().add(ox * s.c + at), m);
                        let on = taps(ox * s.sw, s.left, s.dw, s.kw, s.w);
                        for k in on.start.max(block)..on.end.min(block + places) {
                            let pixel = line + ox * s.sw + k * s.dw - s.left;
                            let v = S::load_first(x.as_ptr().add(pixel * s.c + at), m);
                            acc[k - block] = S::fma(v, g, acc[k - block]);
                        }
                    }
                    for (k, a) in acc.iter().enumerate().take(places) {
                        let out = sums.as_mut_ptr().add((kh * s.kw + block + k) * s.c + at);
                        S::store_first(out, S::add(S::load_first(out, m), *a), m);
                    }
                }
            }
        }
        at += S::LANES;
    }
}
