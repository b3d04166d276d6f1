//! Backward-weights: the filters' gradient.

use super::{BLOCK, ask_next, ask_next_row, check_norm, chunks, each_column, inside, store, taps};
use crate::conv::ConvShape;
use crate::gemm::{Even, Simd};
use crate::isa::simd;
use crate::map::{Number, no_bytes};
use crate::norm::{Look, Pending, Source};
use crate::{Ctx, Map};
use std::ops::Range;

/// Shards of the filters' gradient at most.
const SHARDS: usize = 16;

/// Floats of scratch for [`backward_weights`] over up to `batch` samples.
pub fn scratch_len(s: &ConvShape, batch: usize) -> usize {
    shards(s, batch) * s.kh * s.kw * s.c
}

fn shards(s: &ConvShape, n: usize) -> usize {
    SHARDS.min(n * s.oh).max(1)
}

/// `dw [kh,kw,c] = Σ x · dy`; shards of output rows by shape, merged in order in f64. Both maps are of one kind.
pub fn backward_weights<'a>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: Source,
    dy: impl Into<Map<'a>>,
    dw: &mut [f32],
    scratch: &mut [f32],
) {
    check_norm(s, x);
    match dy.into() {
        Map::Full(dy) => weights_of(cx, s, n, (Number::of(x.x), x.norm), dy, dw, scratch),
        Map::Half(dy) => weights_of(cx, s, n, (Number::of(x.x), x.norm), dy, dw, scratch),
        Map::Bytes(..) => no_bytes(),
    }
}

fn weights_of<N: Number>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    (x, norm): (&[N], Option<Pending>),
    dy: &[N],
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
                simd!(cx.isa, weights_row::<N>(s: ConvShape, oy: usize, x: &[N], dy: &[N], sums: &mut [f32], norm: Option<Pending>))
            };
        }
    });
    crate::elementwise::merge(partial, &mut dw[..len]);
}

/// Adds one output row's products to the sums.
#[inline(always)]
unsafe fn weights_row<S: Simd, N: Number>(
    s: ConvShape,
    oy: usize,
    x: &[N],
    dy: &[N],
    sums: &mut [f32],
    norm: Option<Pending>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw, norm.is_some()) {
            (3, 1, 1, false) => weights_line::<S, N, 3, 1, false>(s, oy, x, dy, sums, norm),
            (3, 2, 1, false) => weights_line::<S, N, 3, 2, false>(s, oy, x, dy, sums, norm),
            (5, 1, 1, false) => weights_line::<S, N, 5, 1, false>(s, oy, x, dy, sums, norm),
            (5, 2, 1, false) => weights_line::<S, N, 5, 2, false>(s, oy, x, dy, sums, norm),
            (7, 1, 1, false) => weights_line::<S, N, 7, 1, false>(s, oy, x, dy, sums, norm),
            (3, 1, 1, true) => weights_line::<S, N, 3, 1, true>(s, oy, x, dy, sums, norm),
            (3, 2, 1, true) => weights_line::<S, N, 3, 2, true>(s, oy, x, dy, sums, norm),
            (5, 1, 1, true) => weights_line::<S, N, 5, 1, true>(s, oy, x, dy, sums, norm),
            (5, 2, 1, true) => weights_line::<S, N, 5, 2, true>(s, oy, x, dy, sums, norm),
            (7, 1, 1, true) => weights_line::<S, N, 7, 1, true>(s, oy, x, dy, sums, norm),
            (.., false) => (0..s.ow).for_each(|ox| {
                weights_pixel::<S, N, false>(s, (oy, ox, 0..s.c), x, dy, sums, norm)
            }),
            (.., true) => (0..s.ow)
                .for_each(|ox| weights_pixel::<S, N, true>(s, (oy, ox, 0..s.c), x, dy, sums, norm)),
        }
    }
}

#[inline(always)]
unsafe fn weights_line<S: Simd, N: Number, const KW: usize, const STEP: usize, const NORM: bool>(
    s: ConvShape,
    oy: usize,
    x: &[N],
    dy: &[N],
    sums: &mut [f32],
    norm: Option<Pending>,
) {
    let inside = inside(&s);
    for channels in chunks(s.c) {
        let mut ox = 0;
        while ox < s.ow {
            let at = (oy, ox, channels.clone());
            // SAFETY: the caller's contract; a block's windows lie inside.
            unsafe {
                if ox >= inside.start && ox + BLOCK <= inside.end {
                    weights_block::<S, N, KW, STEP, NORM>(s, at, x, dy, sums, norm);
                    ox += BLOCK;
                } else {
                    weights_pixel::<S, N, NORM>(s, at, x, dy, sums, norm);
                    ox += 1;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn weights_block<
    S: Simd,
    N: Number,
    const KW: usize,
    const STEP: usize,
    const NORM: bool,
>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[N],
    dy: &[N],
    sums: &mut [f32],
    norm: Option<Pending>,
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let whole = at + S::LANES <= s.c;
            let look = Look::<S, NORM>::new(norm, 0.0, at, m);
            ask_next_row::<S, N, STEP>(x.as_ptr(), &s, (oy, ox, at));
            let mut g = [S::splat(0.0); BLOCK];
            for (p, g) in g.iter_mut().enumerate() {
                let dy = dy.as_ptr().wrapping_add((ox + p) * s.c + at);
                *g = N::load::<S>(dy, m);
                S::prefetch(dy.wrapping_add(BLOCK * s.c).cast());
                S::prefetch_far(dy.wrapping_add(s.ow * s.c).cast());
            }
            for kh in rows.clone() {
                let pixel = (oy * s.sh + kh * s.dh - s.top) * s.w + ox * STEP - s.left;
                let line = x.as_ptr().add(pixel * s.c + at);
                let out = sums.as_mut_ptr().add(kh * KW * s.c + at);
                ask_next::<S, N, KW, STEP>(line, &s, at, &channels);
                let mut acc = [S::splat(0.0); KW];
                for (k, a) in acc.iter_mut().enumerate() {
                    *a = S::load_first(out.add(k * s.c), m);
                }
                each_column!((BLOCK - 1) * STEP + KW, |column| {
                    let v = look.at(line.add(column * s.c));
                    for (k, a) in acc.iter_mut().enumerate() {
                        if column.checked_sub(k).is_some_and(|c| c.is_multiple_of(STEP)) {
                            let p = (column - k) / STEP;
                            if p < BLOCK {
                                *a = S::fma(v, g[p], *a);
                            }
                        }
                    }
                });
                for (k, a) in acc.into_iter().enumerate() {
                    store::<S, f32>(out.add(k * s.c), a, m, whole);
                }
            }
        }
        at += S::LANES;
    }
}

#[inline(always)]
unsafe fn weights_pixel<S: Simd, N: Number, const NORM: bool>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[N],
    dy: &[N],
    sums: &mut [f32],
    norm: Option<Pending>,
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let cols = taps(ox * s.sw, s.left, s.dw, s.kw, s.w);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let whole = at + S::LANES <= s.c;
            let look = Look::<S, NORM>::new(norm, 0.0, at, m);
            let g = N::load::<S>(dy.as_ptr().add(ox * s.c + at), m);
            for kh in rows.clone() {
                let line = (oy * s.sh + kh * s.dh - s.top) * s.w;
                for kw in cols.clone() {
                    let pixel = line + ox * s.sw + kw * s.dw - s.left;
                    let v = look.at(x.as_ptr().add(pixel * s.c + at));
                    let out = sums.as_mut_ptr().add((kh * s.kw + kw) * s.c + at);
                    store::<S, f32>(out, S::fma(v, g, S::load_first(out, m)), m, whole);
                }
            }
        }
        at += S::LANES;
    }
}
