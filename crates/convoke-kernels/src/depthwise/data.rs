//! Backward-data: the input's gradient, gathered.

use super::{BLOCK, chunks, each_column};
use crate::conv::ConvShape;
use crate::gemm::{Simd, fence, streams};
use crate::isa::simd;
use crate::map::{Number, no_bytes};
use crate::{Ctx, Map, MapMut};
use std::ops::Range;

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
    // Divisions take as long as all else: only where they are needed.
    let (first, every) = if step > 1 && dilation == 1 { ((i + pad) % step, step) } else { (0, 1) };
    (first..k).step_by(every).filter_map(move |place| {
        let from = (i + pad).checked_sub(place * dilation)?;
        let output = match step {
            1 => from,
            _ => from.is_multiple_of(step).then_some(from / step)?,
        };
        (output < outputs).then_some((output, place))
    })
}

/// How a gradient is written: onto what is there, or past the caches.
#[derive(Clone, Copy)]
struct To {
    accumulate: bool,
    stream: bool,
}

/// `dx (+)= dy ∗ flipped filters`, gathered per input row. Both maps are of one kind.
pub fn backward_data<'a>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    dy: impl Into<Map<'a>>,
    filters: &[f32],
    dx: impl Into<MapMut<'a>>,
    accumulate: bool,
) {
    let dy = dy.into();
    match dx.into() {
        MapMut::Full(dx) => backward_data_of(cx, s, n, Number::of(dy), filters, dx, accumulate),
        MapMut::Half(dx) => backward_data_of(cx, s, n, Number::of(dy), filters, dx, accumulate),
        MapMut::Bytes(..) => no_bytes(),
    }
}

fn backward_data_of<N: Number>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    dy: &[N],
    filters: &[f32],
    dx: &mut [N],
    accumulate: bool,
) {
    let line = s.w * s.c;
    let s = *s;
    let stream = !accumulate && streams(dx.as_ptr(), n * s.h * line, s.c);
    let to = To { accumulate, stream };
    cx.pool.for_chunks_mut(&mut dx[..n * s.h * line], line, |row, dx, _| {
        let (p, iy) = (row / s.h, row % s.h);
        let dy = &dy[p * s.y_len()..][..s.y_len()];
        // SAFETY: `dy` is one picture, `dx` one input row, filters are whole.
        unsafe {
            simd!(cx.isa, data_row::<N>(s: ConvShape, iy: usize, dy: &[N], filters: &[f32], dx: &mut [N], to: To))
        };
        if stream {
            fence();
        }
    });
}

#[inline(always)]
unsafe fn data_row<S: Simd, N: Number>(
    s: ConvShape,
    iy: usize,
    dy: &[N],
    filters: &[f32],
    dx: &mut [N],
    to: To,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw) {
            (3, 1, 1) => data_line::<S, N, 3, 1, BLOCK>(s, iy, dy, filters, dx, to),
            (3, 2, 1) => data_line::<S, N, 3, 2, { 2 * BLOCK }>(s, iy, dy, filters, dx, to),
            (5, 1, 1) => data_line::<S, N, 5, 1, BLOCK>(s, iy, dy, filters, dx, to),
            (5, 2, 1) => data_line::<S, N, 5, 2, { 2 * BLOCK }>(s, iy, dy, filters, dx, to),
            (7, 1, 1) => data_line::<S, N, 7, 1, BLOCK>(s, iy, dy, filters, dx, to),
            _ => {
                (0..s.w).for_each(|ix| data_pixel::<S, N>(s, (iy, ix, 0..s.c), dy, filters, dx, to))
            }
        }
    }
}

/// A row in blocks of `SPAN` inputs all of whose windows lie on the map, the others one by one. A block
/// begins where `ix + left` is a multiple of the step, so that each place knows its window places.
#[inline(always)]
unsafe fn data_line<S: Simd, N: Number, const KW: usize, const STEP: usize, const SPAN: usize>(
    s: ConvShape,
    iy: usize,
    dy: &[N],
    filters: &[f32],
    dx: &mut [N],
    to: To,
) {
    for channels in chunks(s.c) {
        let mut ix = 0;
        while ix < s.w {
            let first = ix + s.left;
            let whole = first.is_multiple_of(STEP) && first + 1 >= KW && ix + SPAN <= s.w;
            // SAFETY: the caller's contract; all outputs that see the block lie on the map.
            unsafe {
                if whole && (first + SPAN - 1) / STEP < s.ow {
                    data_block::<S, N, KW, STEP, SPAN>(
                        s,
                        (iy, ix, channels.clone()),
                        dy,
                        filters,
                        dx,
                        to,
                    );
                    ix += SPAN;
                } else {
                    data_pixel::<S, N>(s, (iy, ix, channels.clone()), dy, filters, dx, to);
                    ix += 1;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn data_block<S: Simd, N: Number, const KW: usize, const STEP: usize, const SPAN: usize>(
    s: ConvShape,
    (iy, ix, channels): (usize, usize, Range<usize>),
    dy: &[N],
    filters: &[f32],
    dx: &mut [N],
    to: To,
) {
    let rows = seen_by(iy, s.top, s.dh, s.sh, s.kh, s.oh);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: outputs lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let out = dx.as_mut_ptr().add(ix * s.c + at);
            // What the next input row is the first to see.
            let next = (iy + s.top) / s.sh + 1;
            let next = dy.as_ptr().wrapping_add((next * s.ow + (ix + s.left) / STEP) * s.c + at);
            for p in 0..SPAN / STEP {
                S::prefetch_far(next.wrapping_add(p * s.c).cast());
            }
            let mut sums = [S::splat(0.0); SPAN];
            if to.accumulate {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = N::load::<S>(out.add(p * s.c), m);
                }
            }
            for (oy, kh) in rows.clone() {
                let pixel = oy * s.ow + (ix + s.left) / STEP;
                let (line, f) = (dy.as_ptr().add(pixel * s.c + at), kh * KW * s.c + at);
                for p in 0..SPAN / STEP {
                    S::prefetch(line.wrapping_add((SPAN / STEP + p) * s.c).cast());
                }
                let mut w = [S::splat(0.0); KW];
                for (k, w) in w.iter_mut().enumerate() {
                    *w = S::load_first(filters.as_ptr().add(f + k * s.c), m);
                }
                // Columns of outputs before the block's first.
                let before = (KW - 1) / STEP;
                each_column!((SPAN - 1) / STEP + before + 1, |column| {
                    let v = N::load::<S>(line.sub(before * s.c).add(column * s.c), m);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let k = (p + before * STEP).wrapping_sub(column * STEP);
                        if k < KW {
                            *sum = S::fma(v, w[k], *sum);
                        }
                    }
                });
            }
            for (p, sum) in sums.into_iter().enumerate() {
                let out = out.add(p * s.c);
                if to.stream { N::stream::<S>(out, sum) } else { N::store::<S>(out, sum, m) }
            }
        }
        at += S::LANES;
    }
}

#[inline(always)]
unsafe fn data_pixel<S: Simd, N: Number>(
    s: ConvShape,
    (iy, ix, channels): (usize, usize, Range<usize>),
    dy: &[N],
    filters: &[f32],
    dx: &mut [N],
    to: To,
) {
    let cols = seen_by(ix, s.left, s.dw, s.sw, s.kw, s.ow);
    let rows = seen_by(iy, s.top, s.dh, s.sh, s.kh, s.oh);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: outputs lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let out = dx.as_mut_ptr().add(ix * s.c + at);
            let mut sum = if to.accumulate { N::load::<S>(out, m) } else { S::splat(0.0) };
            for (oy, kh) in rows.clone() {
                for (ox, kw) in cols.clone() {
                    let v = N::load::<S>(dy.as_ptr().add((oy * s.ow + ox) * s.c + at), m);
                    let f = S::load_first(filters.as_ptr().add((kh * s.kw + kw) * s.c + at), m);
                    sum = S::fma(v, f, sum);
                }
            }
            if to.stream { N::stream::<S>(out, sum) } else { N::store::<S>(out, sum, m) }
        }
        at += S::LANES;
    }
}
