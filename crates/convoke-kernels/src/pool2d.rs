//! Max, mean and global mean pooling of `x [n,h,w,c]`.

use crate::gemm::{Simd, fence, streams};
use crate::isa::simd;
use crate::map::{Number, no_bytes};
use crate::{Ctx, Map, MapMut, SharedMut, multiversion};
use std::ops::Range;

/// Sizes of a pooling, padding in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Window rows.
    pub kh: usize,
    /// Window columns.
    pub kw: usize,
    /// Step between output rows.
    pub sh: usize,
    /// Step between output columns.
    pub sw: usize,
    /// Padding rows above.
    pub top: usize,
    /// Padding columns to the left.
    pub left: usize,
    /// Padding rows below and columns to the right that count in a mean.
    pub bottom: usize,
    /// See `bottom`.
    pub right: usize,
    /// Output rows.
    pub oh: usize,
    /// Output columns.
    pub ow: usize,
}

/// Window places `k` of `kernel` for output `o` that lie on the map: `o · step + k − pad` in `0..size`.
#[inline(always)]
fn places(o: usize, step: usize, pad: usize, kernel: usize, size: usize) -> std::ops::Range<usize> {
    let first = pad.saturating_sub(o * step).min(kernel);
    let end = (size + pad).saturating_sub(o * step).min(kernel);
    first..end.max(first)
}

/// Outputs whose window covers input `i`, as `(output, window place)`, smallest output first.
#[inline(always)]
fn windows(
    i: usize,
    step: usize,
    pad: usize,
    kernel: usize,
    outputs: usize,
) -> impl Iterator<Item = (usize, usize)> {
    seen(i, step, pad, kernel, outputs).map(move |o| (o, i + pad - o * step))
}

/// Those outputs alone.
#[inline(always)]
fn seen(i: usize, step: usize, pad: usize, kernel: usize, outputs: usize) -> Range<usize> {
    let first = (i + pad + 1).saturating_sub(kernel).div_ceil(step);
    let end = ((i + pad) / step + 1).min(outputs);
    first..end.max(first)
}

/// `y [n,oh,ow,c]`, and in `arg` the window place of each maximum (the first of equals). NaN wins. Both maps are of
/// one kind; for bytes, of one range, nothing is written to `arg`, which is for what trains.
pub fn max_forward<'a>(
    cx: Ctx,
    s: &PoolShape,
    n: usize,
    x: impl Into<Map<'a>>,
    y: impl Into<MapMut<'a>>,
    arg: &mut [u8],
) {
    let x = x.into();
    match y.into() {
        MapMut::Full(y) => max_forward_of(cx, s, n, Number::of(x), y, arg),
        MapMut::Half(y) => max_forward_of(cx, s, n, Number::of(x), y, arg),
        MapMut::Bytes(y, _) => max_of_bytes(cx, s, n, Number::of(x), y),
    }
}

/// Channels of a pixel that are compared at a time, and stay in a register.
const TOGETHER: usize = 64;

fn max_of_bytes(cx: Ctx, s: &PoolShape, n: usize, x: &[u8], y: &mut [u8]) {
    let line = s.ow * s.c;
    cx.pool.for_chunks_mut(&mut y[..n * s.oh * line], line, |row, y, _| {
        let (s, oy) = (*s, row % s.oh);
        let x = &x[row / s.oh * s.h * s.w * s.c..][..s.h * s.w * s.c];
        multiversion!(cx.isa, max_row_of_bytes(s: PoolShape, oy: usize, x: &[u8], y: &mut [u8]));
    });
}

#[inline(always)]
fn max_row_of_bytes(s: PoolShape, oy: usize, x: &[u8], y: &mut [u8]) {
    let rows = places(oy, s.sh, s.top, s.kh, s.h);
    for (ox, y) in y.chunks_exact_mut(s.c).enumerate() {
        let cols = places(ox, s.sw, s.left, s.kw, s.w);
        let mut at = 0;
        while at < s.c {
            let n = TOGETHER.min(s.c - at);
            let mut most = [0; TOGETHER];
            for kh in rows.clone() {
                for kw in cols.clone() {
                    let pixel = (oy * s.sh + kh - s.top) * s.w + ox * s.sw + kw - s.left;
                    let x = &x[pixel * s.c + at..][..n];
                    match <&[u8; TOGETHER]>::try_from(x) {
                        Ok(x) => most.iter_mut().zip(x).for_each(|(m, &x)| *m = x.max(*m)),
                        Err(_) => most.iter_mut().zip(x).for_each(|(m, &x)| *m = x.max(*m)),
                    }
                }
            }
            y[at..at + n].copy_from_slice(&most[..n]);
            at += n;
        }
    }
}

fn max_forward_of<N: Number>(
    cx: Ctx,
    s: &PoolShape,
    n: usize,
    x: &[N],
    y: &mut [N],
    arg: &mut [u8],
) {
    let line = s.ow * s.c;
    let arg = SharedMut::new(&mut arg[..n * s.oh * line]);
    cx.pool.for_chunks_mut(&mut y[..n * s.oh * line], line, |row, y, _| {
        // SAFETY: every output row belongs to one item.
        let arg = unsafe { arg.slice(row * line..(row + 1) * line) };
        let (s, oy) = (*s, row % s.oh);
        let x = &x[row / s.oh * s.h * s.w * s.c..][..s.h * s.w * s.c];
        multiversion!(cx.isa, max_row::<N>(s: PoolShape, oy: usize, x: &[N], y: &mut [N], arg: &mut [u8]));
    });
}

#[inline(always)]
fn max_row<N: Number>(s: PoolShape, oy: usize, x: &[N], y: &mut [N], arg: &mut [u8]) {
    let rows = places(oy, s.sh, s.top, s.kh, s.h);
    for ox in 0..s.ow {
        let y = &mut y[ox * s.c..][..s.c];
        let arg = &mut arg[ox * s.c..][..s.c];
        let cols = places(ox, s.sw, s.left, s.kw, s.w);
        let mut first = true;
        for kh in rows.clone() {
            for kw in cols.clone() {
                let at = ((oy * s.sh + kh - s.top) * s.w + ox * s.sw + kw - s.left) * s.c;
                let x = &x[at..][..s.c];
                let place = (kh * s.kw + kw) as u8;
                if first {
                    y.copy_from_slice(x);
                    arg.fill(place);
                    first = false;
                    continue;
                }
                for ((y, a), &x) in y.iter_mut().zip(arg.iter_mut()).zip(x) {
                    let wins = x.get() > y.get() || x.get().is_nan();
                    *y = if wins { x } else { *y };
                    *a = if wins { place } else { *a };
                }
            }
        }
    }
}

/// `dx [n,h,w,c] (+)= dy` at the places that `arg` names, gathered per input row. Both maps are of one kind.
pub fn max_backward<'a>(
    cx: Ctx,
    s: &PoolShape,
    n: usize,
    dy: impl Into<Map<'a>>,
    arg: &[u8],
    dx: impl Into<MapMut<'a>>,
    accumulate: bool,
) {
    let dy = dy.into();
    match dx.into() {
        MapMut::Full(dx) => max_backward_of(cx, s, n, Number::of(dy), arg, dx, accumulate),
        MapMut::Half(dx) => max_backward_of(cx, s, n, Number::of(dy), arg, dx, accumulate),
        MapMut::Bytes(..) => no_bytes(),
    }
}

fn max_backward_of<N: Number>(
    cx: Ctx,
    s: &PoolShape,
    n: usize,
    dy: &[N],
    arg: &[u8],
    dx: &mut [N],
    accumulate: bool,
) {
    let (line, out) = (s.w * s.c, s.oh * s.ow * s.c);
    let dx = &mut dx[..n * s.h * line];
    let stream = !accumulate && streams(dx.as_ptr(), dx.len(), s.c);
    cx.pool.for_chunks_mut(dx, line, |row, dx, _| {
        let (s, y, p) = (*s, row % s.h, row / s.h * out);
        let (dy, arg) = (&dy[p..][..out], &arg[p..][..out]);
        let how = (accumulate, stream);
        // SAFETY: `dx` is a row of the input, the others are the outputs of its picture.
        unsafe {
            simd!(cx.isa, max_back_row::<N>(s: PoolShape, y: usize, dy: &[N], arg: &[u8], dx: &mut [N], how: (bool, bool)))
        };
        if stream {
            fence();
        }
    });
}

/// A vector of channels at a time, whose sums are rounded once.
#[inline(always)]
unsafe fn max_back_row<S: Simd, N: Number>(
    s: PoolShape,
    y: usize,
    dy: &[N],
    arg: &[u8],
    dx: &mut [N],
    (accumulate, stream): (bool, bool),
) {
    let rows = seen(y, s.sh, s.top, s.kh, s.oh);
    for x in 0..s.w {
        let columns = seen(x, s.sw, s.left, s.kw, s.ow);
        for at in (0..s.c).step_by(S::LANES) {
            // SAFETY: lanes stay below `c`, windows on the map.
            unsafe {
                let m = S::mask((s.c - at).min(S::LANES));
                let dx = dx.as_mut_ptr().add(x * s.c + at);
                let mut sum = if accumulate { N::load::<S>(dx, m) } else { S::splat(0.0) };
                for oy in rows.clone() {
                    for ox in columns.clone() {
                        let at = (oy * s.ow + ox) * s.c + at;
                        let (kh, kw) = (y + s.top - oy * s.sh, x + s.left - ox * s.sw);
                        let place = (kh * s.kw + kw) as f32;
                        let (below, above) = (S::splat(place - 0.5), S::splat(place + 0.5));
                        let a = S::load_bytes(arg.as_ptr().add(at), m);
                        let g = N::load::<S>(dy.as_ptr().add(at), m);
                        sum = S::add(sum, S::keep_between(g, a, below, above));
                    }
                }
                if stream { N::stream::<S>(dx, sum) } else { N::store::<S>(dx, sum, m) }
            }
        }
    }
}

/// One over the number of places that a window's mean is taken over.
#[inline(always)]
fn share(s: &PoolShape, oy: usize, ox: usize, count_padding: bool) -> f32 {
    let count = |o: usize, step: usize, pad: usize, kernel: usize, size: usize, after: usize| {
        if count_padding {
            // Padding counts, but not what a last window reaches beyond it (PyTorch's rule).
            kernel.min(size + pad + after - o * step)
        } else {
            places(o, step, pad, kernel, size).len()
        }
    };
    let h = count(oy, s.sh, s.top, s.kh, s.h, s.bottom);
    let w = count(ox, s.sw, s.left, s.kw, s.w, s.right);
    1.0 / (h * w).max(1) as f32
}

/// `y [n,oh,ow,c]` = mean of each window; padding counts as zeros where asked.
pub fn mean_forward(
    cx: Ctx,
    s: &PoolShape,
    n: usize,
    x: &[f32],
    y: &mut [f32],
    count_padding: bool,
) {
    let line = s.ow * s.c;
    cx.pool.for_chunks_mut(&mut y[..n * s.oh * line], line, |row, y, _| {
        let (s, oy) = (*s, row % s.oh);
        let x = &x[row / s.oh * s.h * s.w * s.c..][..s.h * s.w * s.c];
        multiversion!(cx.isa, mean_row(s: PoolShape, oy: usize, x: &[f32], y: &mut [f32], count_padding: bool));
    });
}

#[inline(always)]
fn mean_row(s: PoolShape, oy: usize, x: &[f32], y: &mut [f32], count_padding: bool) {
    for ox in 0..s.ow {
        let y = &mut y[ox * s.c..][..s.c];
        y.fill(0.0);
        for kh in places(oy, s.sh, s.top, s.kh, s.h) {
            for kw in places(ox, s.sw, s.left, s.kw, s.w) {
                let at = ((oy * s.sh + kh - s.top) * s.w + ox * s.sw + kw - s.left) * s.c;
                for (y, x) in y.iter_mut().zip(&x[at..][..s.c]) {
                    *y += x;
                }
            }
        }
        let share = share(&s, oy, ox, count_padding);
        y.iter_mut().for_each(|y| *y *= share);
    }
}

/// `dx [n,h,w,c] (+)=` each output's gradient, shared among its window's places.
pub fn mean_backward(
    cx: Ctx,
    s: &PoolShape,
    n: usize,
    dy: &[f32],
    dx: &mut [f32],
    count_padding: bool,
    accumulate: bool,
) {
    let line = s.w * s.c;
    let out = s.oh * s.ow * s.c;
    cx.pool.for_chunks_mut(&mut dx[..n * s.h * line], line, |row, dx, _| {
        if !accumulate {
            dx.fill(0.0);
        }
        let (s, y) = (*s, row % s.h);
        let dy = &dy[row / s.h * out..][..out];
        multiversion!(cx.isa, mean_back_row(s: PoolShape, y: usize, dy: &[f32], dx: &mut [f32], count_padding: bool));
    });
}

#[inline(always)]
fn mean_back_row(s: PoolShape, y: usize, dy: &[f32], dx: &mut [f32], count_padding: bool) {
    for (oy, _) in windows(y, s.sh, s.top, s.kh, s.oh) {
        for x in 0..s.w {
            let dx = &mut dx[x * s.c..][..s.c];
            for (ox, _) in windows(x, s.sw, s.left, s.kw, s.ow) {
                let share = share(&s, oy, ox, count_padding);
                let dy = &dy[(oy * s.ow + ox) * s.c..][..s.c];
                for (d, g) in dx.iter_mut().zip(dy) {
                    *d += g * share;
                }
            }
        }
    }
}

/// `y [n,c]` = mean over the pixels of `x [n,pixels,c]`.
pub fn global_mean_forward<'a>(
    cx: Ctx,
    pixels: usize,
    c: usize,
    x: impl Into<Map<'a>>,
    y: &mut [f32],
) {
    match x.into() {
        Map::Full(x) => global_mean_forward_of(cx, pixels, c, x, y),
        Map::Half(x) => global_mean_forward_of(cx, pixels, c, x, y),
        Map::Bytes(x, range) => {
            // Sums of integers are exact.
            global_mean_forward_of(cx, pixels, c, x, y);
            let (zero, scale) = (f32::from(range.zero()), range.scale());
            y.iter_mut().for_each(|y| *y = (*y - zero) * scale);
        }
    }
}

fn global_mean_forward_of<N: Number>(cx: Ctx, pixels: usize, c: usize, x: &[N], y: &mut [f32]) {
    cx.pool.for_chunks_mut(y, c, |i, y, _| {
        let x = &x[i * pixels * c..][..pixels * c];
        multiversion!(cx.isa, global_body::<N>(x: &[N], y: &mut [f32]));
    });
}

/// Sixteen rows are summed by themselves, so that errors grow with the root of the pixels' number.
#[inline(always)]
fn global_body<N: Number>(x: &[N], y: &mut [f32]) {
    const WIDTH: usize = 64;
    let c = y.len();
    let share = c as f32 / x.len() as f32;
    for (i, y) in y.chunks_mut(WIDTH).enumerate() {
        y.fill(0.0);
        for rows in x.chunks(16 * c) {
            let mut sum = [0.0; WIDTH];
            for row in rows.chunks_exact(c) {
                for (s, x) in sum.iter_mut().zip(&row[i * WIDTH..][..y.len()]) {
                    *s += x.get();
                }
            }
            y.iter_mut().zip(sum).for_each(|(y, s)| *y += s);
        }
        y.iter_mut().for_each(|y| *y *= share);
    }
}

/// `dx [n,pixels,c] (+)= dy [n,c] / pixels`.
pub fn global_mean_backward<'a>(
    cx: Ctx,
    pixels: usize,
    c: usize,
    dy: &[f32],
    dx: impl Into<MapMut<'a>>,
    accumulate: bool,
) {
    match dx.into() {
        MapMut::Full(dx) => global_mean_backward_of(cx, pixels, c, dy, dx, accumulate),
        MapMut::Half(dx) => global_mean_backward_of(cx, pixels, c, dy, dx, accumulate),
        MapMut::Bytes(..) => no_bytes(),
    }
}

fn global_mean_backward_of<N: Number>(
    cx: Ctx,
    pixels: usize,
    c: usize,
    dy: &[f32],
    dx: &mut [N],
    accumulate: bool,
) {
    cx.pool.for_chunks_mut(dx, pixels * c, |i, dx, _| {
        let dy = &dy[i * c..][..c];
        let share = 1.0 / pixels as f32;
        multiversion!(cx.isa, global_back_body::<N>(dy: &[f32], share: f32, dx: &mut [N], accumulate: bool));
    });
}

#[inline(always)]
fn global_back_body<N: Number>(dy: &[f32], share: f32, dx: &mut [N], accumulate: bool) {
    for row in dx.chunks_exact_mut(dy.len()) {
        for (d, g) in row.iter_mut().zip(dy) {
            *d = N::round(if accumulate { d.get() + g * share } else { g * share });
        }
    }
}
