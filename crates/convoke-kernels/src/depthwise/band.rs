//! Some output rows and channels of a picture, forward: blocks of outputs whose sums are in registers, those at the border
//! too, which leave out what lies beside the map.

use super::{Row, each_column, store, taps};
use crate::Isa;
use crate::conv::ConvShape;
use crate::gemm::Simd;
use crate::map::Number;
use crate::norm::{Look, Strip, Tally};
use std::ops::Range;

/// What is made.
pub(super) struct Band<'a, N> {
    /// The input rows that the shape tells of.
    pub x: &'a [N],
    pub filters: &'a [f32],
    pub outputs: Range<usize>,
    pub channels: Range<usize>,
    pub row: Row<'a>,
    /// The first of the output rows, with all channels.
    pub y: *mut N,
    pub sums: Option<Shard<'a>>,
}

/// Where outputs are summed.
#[derive(Clone, Copy)]
pub(super) struct Shard<'a> {
    pub isa: Isa,
    pub tally: &'a Tally<'a>,
    pub shard: usize,
    /// The first pixel of the output rows in the map.
    pub pixel: usize,
}

impl<N: Number> Band<'_, N> {
    /// Where a row of outputs is written.
    #[inline(always)]
    fn to(&self, s: &ConvShape, oy: usize) -> *mut N {
        self.y.wrapping_add((oy - self.outputs.start) * s.ow * s.c)
    }

    /// Sums a row, which has just been written.
    #[inline(always)]
    unsafe fn sum(&self, s: &ConvShape, oy: usize) {
        let Some(Shard { isa, tally, shard, pixel }) = self.sums else { return };
        let to = self.to(s, oy).wrapping_add(self.channels.start);
        let (from, from_row, to_row) = (to.cast_const(), s.c, s.c);
        let (channel, channels) = (self.channels.start, self.channels.len());
        let row = pixel + (oy - self.outputs.start) * s.ow;
        let (rows, first) = (s.ow, oy == self.outputs.start);
        let strip =
            Strip { from, from_row, to, to_row, row, rows, channel, channels, shard, first };
        // SAFETY: the caller's: the rows and their shard are the band's alone.
        unsafe { tally.strip(isa, &strip) }
    }
}

/// # Safety
/// The rows that `s` tells of, the filters and the output rows are whole; the norm and the bias have all channels.
#[inline(always)]
pub(super) unsafe fn band<S: Simd, N: Number>(s: &ConvShape, b: &Band<N>) {
    // SAFETY: the caller's contract.
    unsafe {
        match b.row.norm.is_some() && !N::INTEGERS {
            true => band_of::<S, N, true>(s, b),
            false => band_of::<S, N, false>(s, b),
        }
    }
}

#[inline(always)]
unsafe fn band_of<S: Simd, N: Number, const NORM: bool>(s: &ConvShape, b: &Band<N>) {
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw) {
            (3, 1, 1) => blocks::<S, N, 3, 1, 8, NORM>(s, b),
            (3, 2, 1) => blocks::<S, N, 3, 2, 8, NORM>(s, b),
            (5, 1, 1) => blocks::<S, N, 5, 1, 4, NORM>(s, b),
            (5, 2, 1) => blocks::<S, N, 5, 2, 4, NORM>(s, b),
            (7, 1, 1) => blocks::<S, N, 7, 1, 4, NORM>(s, b),
            _ => {
                for oy in b.outputs.clone() {
                    (0..s.ow).for_each(|ox| pixel::<S, N, NORM>(s, b, oy, ox));
                    b.sum(s, oy);
                }
            }
        }
    }
}

/// Rows in blocks of at most `SPAN` outputs, whose sums are in registers.
#[inline(always)]
unsafe fn blocks<
    S: Simd,
    N: Number,
    const KW: usize,
    const STEP: usize,
    const SPAN: usize,
    const NORM: bool,
>(
    s: &ConvShape,
    b: &Band<N>,
) {
    // As even as can be: a short one has too few sums to hide how long each addition takes.
    let step = s.ow.div_ceil(s.ow.div_ceil(SPAN));
    for oy in b.outputs.clone() {
        let mut ox = 0;
        while ox < s.ow {
            let part = ox..(ox + step).min(s.ow);
            ox = part.end;
            // SAFETY: the caller's contract.
            unsafe { block::<S, N, KW, STEP, SPAN, NORM>(s, b, oy, part) }
        }
        // SAFETY: the caller's contract.
        unsafe { b.sum(s, oy) }
    }
}

/// Asks, for the second cache, for what the next output row is the first to see under a block.
#[inline(always)]
fn ask_next_row<S: Simd, N: Number>(x: *const N, s: &ConvShape, columns: usize) {
    for i in 0..columns {
        S::prefetch_far(x.wrapping_add(i * s.c).cast());
    }
}

/// At most `SPAN` outputs of a row.
#[inline(always)]
unsafe fn block<
    S: Simd,
    N: Number,
    const KW: usize,
    const STEP: usize,
    const SPAN: usize,
    const NORM: bool,
>(
    s: &ConvShape,
    b: &Band<N>,
    oy: usize,
    part: Range<usize>,
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let start = part.start * STEP;
    // Columns under the block that lie on the map.
    let end = (s.w + s.left).saturating_sub(start).min((part.len() - 1) * STEP + KW);
    let inside = s.left.saturating_sub(start)..end;
    // Addresses of what lies beside the map are not read.
    let line = |row: usize, column: usize| {
        b.x.as_ptr().wrapping_add(row.wrapping_mul(s.w).wrapping_add(column).wrapping_mul(s.c))
    };
    let next = (oy * s.sh + (s.kh - 1) * s.dh + 1).wrapping_sub(s.top);
    let y = b.to(s, oy).wrapping_add(part.start * s.c);
    let mut at = b.channels.start;
    while at < b.channels.end {
        // SAFETY: columns that lie inside are there; lanes stay below `c`.
        unsafe {
            let m = S::mask((b.channels.end - at).min(S::LANES));
            let look = Look::<S, NORM>::new(b.row.norm, b.row.steps[0].zero, at, m);
            let [first, bias] = b.row.bias::<S, N>(at, m);
            let mut sums = [first; SPAN];
            for kh in rows.clone() {
                // A row at a time, since a core waits for few lines at once.
                if kh < STEP {
                    let next = line(next.wrapping_add(kh), start).wrapping_add(at);
                    ask_next_row::<S, N>(next, s, SPAN * STEP);
                }
                let line = line(oy * s.sh + kh * s.dh - s.top, start.wrapping_sub(s.left));
                let line = line.wrapping_add(at);
                let f = b.filters.as_ptr().add(kh * KW * s.c + at);
                let mut w = [S::splat(0.0); KW];
                for (k, w) in w.iter_mut().enumerate() {
                    *w = S::load_first(f.add(k * s.c), m);
                }
                each_column!((SPAN - 1) * STEP + KW, |column| {
                    if inside.contains(&column) {
                        let v = look.at(line.wrapping_add(column * s.c));
                        for (p, sum) in sums.iter_mut().enumerate() {
                            if (p * STEP..p * STEP + KW).contains(&column) {
                                *sum = S::fma(v, w[column - p * STEP], *sum);
                            }
                        }
                    }
                });
            }
            let whole = at + S::LANES <= s.c;
            for (p, sum) in sums.into_iter().enumerate() {
                if p < part.len() {
                    let v = b.row.end::<S, N>(sum, bias);
                    let y = y.add(p * s.c + at);
                    if b.row.stream { N::stream::<S>(y, v) } else { store::<S, N>(y, v, m, whole) }
                }
            }
        }
        at += S::LANES;
    }
}

/// An output of any window.
#[inline(always)]
unsafe fn pixel<S: Simd, N: Number, const NORM: bool>(
    s: &ConvShape,
    b: &Band<N>,
    oy: usize,
    ox: usize,
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let cols = taps(ox * s.sw, s.left, s.dw, s.kw, s.w);
    let y = b.to(s, oy).wrapping_add(ox * s.c);
    let mut at = b.channels.start;
    while at < b.channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let look = Look::<S, NORM>::new(b.row.norm, b.row.steps[0].zero, at, m);
            let [start, bias] = b.row.bias::<S, N>(at, m);
            let mut sum = start;
            for kh in rows.clone() {
                let line = (oy * s.sh + kh * s.dh - s.top) * s.w;
                for kw in cols.clone() {
                    let pixel = line + ox * s.sw + kw * s.dw - s.left;
                    let v = look.at(b.x.as_ptr().add(pixel * s.c + at));
                    let f = S::load_first(b.filters.as_ptr().add((kh * s.kw + kw) * s.c + at), m);
                    sum = S::fma(v, f, sum);
                }
            }
            let v = b.row.end::<S, N>(sum, bias);
            let y = y.add(at);
            if b.row.stream { N::stream::<S>(y, v) } else { N::store::<S>(y, v, m) }
        }
        at += S::LANES;
    }
}
