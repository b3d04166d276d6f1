//! Depthwise convolution: `x [n,h,w,c] · filters [kh,kw,c] -> y [n,oh,ow,c]`, channels in the lanes.

use crate::conv::ConvShape;
use crate::gemm::{Even, LINE, Simd, fence, streams};
use crate::isa::simd;
use crate::norm::{Pending, Source};
use crate::{Ctx, Isa, SharedMut, cut};
use std::ops::Range;

/// Channels that the blocks of a row pass over together: so few that pixels and filters of a block and of the next stay
/// in the nearest cache.
const CHANNELS: usize = cut(128, 16);
/// Outputs of a row whose sums are kept in registers together.
const BLOCK: usize = 4;
/// Floats of copied input rows: 256 KB.
const BAND: usize = cut(64 * 1024, 128);
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

/// How an output row is written and what is read after it.
#[derive(Clone, Copy)]
struct Row<'a> {
    e: Epilogue<'a>,
    /// Whether it goes past the caches.
    stream: bool,
    ahead: Ahead,
}

/// What is read after a row: the memory that a block of [`BLOCK`] outputs asks for, for each vector of channels
/// `lines` cache lines from `at` on.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const f32,
    lines: usize,
}

impl Ahead {
    const NOTHING: Ahead = Ahead { at: std::ptr::null(), lines: 0 };

    /// The share of row `i` of a band's outputs in what lies behind the band's `inputs`.
    fn of_row(s: &ConvShape, x: &[f32], inputs: usize, i: usize) -> Ahead {
        let row = s.sh * s.w * s.c;
        let at = x.as_ptr().wrapping_add(inputs + i * row);
        Ahead { at, lines: (s.sh * s.w).div_ceil((s.ow / BLOCK).max(1)).min(4 * BLOCK) }
    }

    /// Asks for the share of a block and a vector of channels.
    #[inline(always)]
    fn ask<S: Simd>(self, ox: usize, channel: usize, channels: usize) {
        let share = (ox / BLOCK * channels.div_ceil(LINE) + channel / LINE) * self.lines;
        for i in 0..self.lines {
            S::prefetch_far(self.at.wrapping_add((share + i) * LINE));
        }
    }
}

/// Output rows of an item whose input rows are copied, norm applied: they stay in the second cache.
fn band_rows(s: &ConvShape) -> usize {
    let span = (s.kh - 1) * s.dh + 1;
    let most = (BAND / (s.w * s.c)).saturating_sub(span) / s.sh + 1;
    most.min(s.oh)
}

/// Input rows under some output rows, and the convolution as it looks on them alone.
fn on_band(s: &ConvShape, outputs: Range<usize>) -> (Range<usize>, ConvShape) {
    let span = (s.kh - 1) * s.dh + 1;
    let low = (outputs.start * s.sh).saturating_sub(s.top).min(s.h);
    let high = ((outputs.end - 1) * s.sh + span).saturating_sub(s.top).clamp(low, s.h);
    (low..high, ConvShape { h: high - low, top: s.top + low, ..*s })
}

/// Input rows under some output rows.
pub(crate) fn inputs(s: &ConvShape, outputs: Range<usize>) -> Range<usize> {
    on_band(s, outputs).0
}

/// Output rows of one picture, from the input rows `x` under them (see [`inputs`]).
pub(crate) fn forward_rows(
    isa: Isa,
    s: &ConvShape,
    outputs: Range<usize>,
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
    e: Epilogue,
) {
    let (inputs, s) = on_band(s, outputs.clone());
    assert!(x.len() >= inputs.len() * s.w * s.c && filters.len() >= s.filter_len(), "too short");
    let e = Row { e, stream: false, ahead: Ahead::NOTHING };
    for (oy, y) in outputs.zip(y.chunks_exact_mut(s.ow * s.c)) {
        // SAFETY: `x` holds the rows that `s` tells of, `y` is one output row, filters are whole.
        unsafe {
            simd!(isa, forward_row(s: ConvShape, oy: usize, x: &[f32], filters: &[f32], y: &mut [f32], e: Row))
        };
    }
}

/// Floats of scratch for [`forward`] of a map with a norm to apply, for each thread.
pub fn band_len(s: &ConvShape) -> usize {
    let span = (s.kh - 1) * s.dh + 1;
    ((band_rows(s) - 1) * s.sh + span).min(s.h) * s.w * s.c
}

/// `y = epilogue(x ∗ filters)`. Where `x` has a norm to apply, `scratch` holds [`band_len`] for each
/// thread.
pub fn forward(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: Source,
    filters: &[f32],
    y: &mut [f32],
    e: Epilogue,
    scratch: &mut [f32],
) {
    let line = s.ow * s.c;
    let s = *s;
    let y = &mut y[..n * s.oh * line];
    let stream = streams(y.as_ptr(), y.len(), s.c);
    let Some(norm) = x.norm else {
        cx.pool.for_chunks_mut(y, line, |row, y, _| {
            let e = Row { e, stream, ahead: Ahead::NOTHING };
            let (p, oy) = (row / s.oh, row % s.oh);
            let x = &x.x[p * s.x_len()..][..s.x_len()];
            // SAFETY: `x` is one picture, `y` one output row, filters are whole.
            unsafe {
                simd!(cx.isa, forward_row(s: ConvShape, oy: usize, x: &[f32], filters: &[f32], y: &mut [f32], e: Row))
            };
            if stream {
                fence();
            }
        });
        return;
    };
    let bands = Even::new(s.oh, band_rows(&s));
    let (y, scratch) = (SharedMut::new(y), SharedMut::new(scratch));
    cx.pool.run(n * bands.parts, &|item, worker| {
        let (p, rows) = (item / bands.parts, bands.range(item % bands.parts));
        // SAFETY: each worker has its own band.
        let band = unsafe { scratch.slice(worker * band_len(&s)..(worker + 1) * band_len(&s)) };
        let behind = p * s.x_len() + inputs(&s, rows.clone()).end * s.w * s.c;
        let map = x.x;
        let (s, x) = read_band(cx, &s, p, rows.clone(), (map, norm), band);
        for (i, oy) in rows.enumerate() {
            let e = Row { e, stream, ahead: Ahead::of_row(&s, map, behind, i) };
            // SAFETY: every output row belongs to one item.
            let y = unsafe { y.slice((p * s.oh + oy) * line..(p * s.oh + oy + 1) * line) };
            // SAFETY: `x` holds the rows that `s` tells of, `y` is one output row, filters are whole.
            unsafe {
                simd!(cx.isa, forward_row(s: ConvShape, oy: usize, x: &[f32], filters: &[f32], y: &mut [f32], e: Row))
            };
        }
        if stream {
            fence();
        }
    });
}

/// Copies the input rows under some output rows of picture `p`, norm applied.
fn read_band<'a>(
    cx: Ctx,
    s: &ConvShape,
    p: usize,
    outputs: Range<usize>,
    (x, norm): (&[f32], Pending),
    band: &'a mut [f32],
) -> (ConvShape, &'a [f32]) {
    let (inputs, shape) = on_band(s, outputs);
    let line = s.w * s.c;
    let band = &mut band[..inputs.len() * line];
    norm.copy(cx.isa, &x[p * s.x_len() + inputs.start * line..][..band.len()], band);
    (shape, band)
}

#[inline(always)]
unsafe fn forward_row<S: Simd>(
    s: ConvShape,
    oy: usize,
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
    e: Row,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw) {
            (3, 1, 1) => forward_line::<S, 3, 1>(s, oy, x, filters, y, e),
            (3, 2, 1) => forward_line::<S, 3, 2>(s, oy, x, filters, y, e),
            (5, 1, 1) => forward_line::<S, 5, 1>(s, oy, x, filters, y, e),
            (5, 2, 1) => forward_line::<S, 5, 2>(s, oy, x, filters, y, e),
            (7, 1, 1) => forward_line::<S, 7, 1>(s, oy, x, filters, y, e),
            _ => (0..s.ow).for_each(|ox| forward_pixel::<S>(s, (oy, ox, 0..s.c), x, filters, y, e)),
        }
    }
}

/// A row in blocks of [`BLOCK`] outputs whose windows lie on the map, the others one by one.
#[inline(always)]
unsafe fn forward_line<S: Simd, const KW: usize, const STEP: usize>(
    s: ConvShape,
    oy: usize,
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
    e: Row,
) {
    let inside = inside(&s);
    for channels in chunks(s.c) {
        let mut ox = 0;
        while ox < s.ow {
            // SAFETY: the caller's contract; a block's windows lie inside.
            unsafe {
                if ox >= inside.start && ox + BLOCK <= inside.end {
                    forward_block::<S, KW, STEP>(s, (oy, ox, channels.clone()), x, filters, y, e);
                    ox += BLOCK;
                } else {
                    forward_pixel::<S>(s, (oy, ox, channels.clone()), x, filters, y, e);
                    ox += 1;
                }
            }
        }
    }
}

/// Ranges of [`CHANNELS`] channels.
fn chunks(channels: usize) -> impl Iterator<Item = Range<usize>> {
    (0..channels).step_by(CHANNELS).map(move |at| at..(at + CHANNELS).min(channels))
}

/// Outputs of a row whose windows lie on the map.
#[inline(always)]
fn inside(s: &ConvShape) -> Range<usize> {
    let last = (s.w + s.left).checked_sub((s.kw - 1) * s.dw + 1);
    s.left.div_ceil(s.sw)..last.map_or(0, |last| (last / s.sw + 1).min(s.ow))
}

#[inline(always)]
unsafe fn forward_block<S: Simd, const KW: usize, const STEP: usize>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
    Row { e, stream, ahead }: Row,
) {
    let (lo, hi) = e.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            ahead.ask::<S>(ox, at, s.c);
            let m = S::mask((s.c - at).min(S::LANES));
            let start = match e.bias {
                Some(b) => S::load_first(b.as_ptr().add(at), m),
                None => S::splat(0.0),
            };
            let mut sums = [start; BLOCK];
            for kh in rows.clone() {
                let pixel = (oy * s.sh + kh * s.dh - s.top) * s.w + ox * STEP - s.left;
                let (line, f) = (x.as_ptr().add(pixel * s.c + at), kh * KW * s.c + at);
                // The columns that the next block is the first to see.
                for p in 0..BLOCK * STEP {
                    S::prefetch(line.wrapping_add((BLOCK * STEP + KW - STEP + p) * s.c));
                }
                for k in 0..KW {
                    let f = S::load_first(filters.as_ptr().add(f + k * s.c), m);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let v = S::load_first(line.add((p * STEP + k) * s.c), m);
                        *sum = S::fma(v, f, *sum);
                    }
                }
            }
            for (p, sum) in sums.into_iter().enumerate() {
                let v = S::clamp(sum, S::splat(lo), S::splat(hi));
                let y = y.as_mut_ptr().add((ox + p) * s.c + at);
                if stream { S::stream(y, v) } else { S::store_first(y, v, m) }
            }
        }
        at += S::LANES;
    }
}

#[inline(always)]
unsafe fn forward_pixel<S: Simd>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[f32],
    filters: &[f32],
    y: &mut [f32],
    Row { e, stream, .. }: Row,
) {
    let (lo, hi) = e.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let cols = taps(ox * s.sw, s.left, s.dw, s.kw, s.w);
    let mut at = channels.start;
    while at < channels.end {
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
            let y = y.as_mut_ptr().add(ox * s.c + at);
            if stream { S::stream(y, v) } else { S::store_first(y, v, m) }
        }
        at += S::LANES;
    }
}

/// Window places `k` for which `start + k · dilation − pad` lies in `0..size`.
#[inline(always)]
fn taps(start: usize, pad: usize, dilation: usize, k: usize, size: usize) -> Range<usize> {
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
    let stream = !accumulate && streams(dx.as_ptr(), n * s.h * line, s.c);
    let to = To { accumulate, stream };
    cx.pool.for_chunks_mut(&mut dx[..n * s.h * line], line, |row, dx, _| {
        let (p, iy) = (row / s.h, row % s.h);
        let dy = &dy[p * s.y_len()..][..s.y_len()];
        // SAFETY: `dy` is one picture, `dx` one input row, filters are whole.
        unsafe {
            simd!(cx.isa, data_row(s: ConvShape, iy: usize, dy: &[f32], filters: &[f32], dx: &mut [f32], to: To))
        };
        if stream {
            fence();
        }
    });
}

#[inline(always)]
unsafe fn data_row<S: Simd>(
    s: ConvShape,
    iy: usize,
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
    to: To,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw) {
            (3, 1, 1) => data_line::<S, 3, 1, BLOCK>(s, iy, dy, filters, dx, to),
            (3, 2, 1) => data_line::<S, 3, 2, { 2 * BLOCK }>(s, iy, dy, filters, dx, to),
            (5, 1, 1) => data_line::<S, 5, 1, BLOCK>(s, iy, dy, filters, dx, to),
            (5, 2, 1) => data_line::<S, 5, 2, { 2 * BLOCK }>(s, iy, dy, filters, dx, to),
            (7, 1, 1) => data_line::<S, 7, 1, BLOCK>(s, iy, dy, filters, dx, to),
            _ => (0..s.w).for_each(|ix| data_pixel::<S>(s, (iy, ix, 0..s.c), dy, filters, dx, to)),
        }
    }
}

/// A row in blocks of `SPAN` inputs all of whose windows lie on the map, the others one by one. A block
/// begins where `ix + left` is a multiple of the step, so that each place knows its window places.
#[inline(always)]
unsafe fn data_line<S: Simd, const KW: usize, const STEP: usize, const SPAN: usize>(
    s: ConvShape,
    iy: usize,
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
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
                    data_block::<S, KW, STEP, SPAN>(
                        s,
                        (iy, ix, channels.clone()),
                        dy,
                        filters,
                        dx,
                        to,
                    );
                    ix += SPAN;
                } else {
                    data_pixel::<S>(s, (iy, ix, channels.clone()), dy, filters, dx, to);
                    ix += 1;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn data_block<S: Simd, const KW: usize, const STEP: usize, const SPAN: usize>(
    s: ConvShape,
    (iy, ix, channels): (usize, usize, Range<usize>),
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
    to: To,
) {
    let rows = seen_by(iy, s.top, s.dh, s.sh, s.kh, s.oh);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: outputs lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let out = dx.as_mut_ptr().add(ix * s.c + at);
            let mut sums = [S::splat(0.0); SPAN];
            if to.accumulate {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load_first(out.add(p * s.c), m);
                }
            }
            for (oy, kh) in rows.clone() {
                let pixel = oy * s.ow + (ix + s.left) / STEP;
                let (line, f) = (dy.as_ptr().add(pixel * s.c + at), kh * KW * s.c + at);
                for p in 0..SPAN / STEP {
                    S::prefetch(line.wrapping_add((SPAN / STEP + p) * s.c));
                }
                for k in 0..KW {
                    let f = S::load_first(filters.as_ptr().add(f + k * s.c), m);
                    for p in (k % STEP..SPAN).step_by(STEP) {
                        let column = (p as isize - k as isize) / STEP as isize;
                        let v = S::load_first(line.offset(column * s.c as isize), m);
                        sums[p] = S::fma(v, f, sums[p]);
                    }
                }
            }
            for (p, sum) in sums.into_iter().enumerate() {
                let out = out.add(p * s.c);
                if to.stream { S::stream(out, sum) } else { S::store_first(out, sum, m) }
            }
        }
        at += S::LANES;
    }
}

#[inline(always)]
unsafe fn data_pixel<S: Simd>(
    s: ConvShape,
    (iy, ix, channels): (usize, usize, Range<usize>),
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
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
            let mut sum = if to.accumulate { S::load_first(out, m) } else { S::splat(0.0) };
            for (oy, kh) in rows.clone() {
                for (ox, kw) in cols.clone() {
                    let v = S::load_first(dy.as_ptr().add((oy * s.ow + ox) * s.c + at), m);
                    let f = S::load_first(filters.as_ptr().add((kh * s.kw + kw) * s.c + at), m);
                    sum = S::fma(v, f, sum);
                }
            }
            if to.stream { S::stream(out, sum) } else { S::store_first(out, sum, m) }
        }
        at += S::LANES;
    }
}

/// Floats of scratch for [`backward_weights`] over up to `batch` samples; where `x` has a norm to apply,
/// [`band_len`] more for each thread.
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
    x: Source,
    dy: &[f32],
    dw: &mut [f32],
    scratch: &mut [f32],
) {
    let len = s.kh * s.kw * s.c;
    let count = shards(s, n);
    let all = Even::parts(n * s.oh, count);
    let (partial, bands) = scratch.split_at_mut(count * len);
    let s = *s;
    let bands = SharedMut::new(bands);
    cx.pool.for_chunks_mut(partial, len, |i, sums, worker| {
        sums.fill(0.0);
        let (mut row, end) = (all.range(i).start, all.range(i).end);
        while row < end {
            // Some rows of one picture.
            let (p, oy) = (row / s.oh, row % s.oh);
            let outputs = oy..s.oh.min(oy + band_rows(&s)).min(oy + end - row);
            let behind = p * s.x_len() + inputs(&s, outputs.clone()).end * s.w * s.c;
            let map = x.x;
            let normed = x.norm.is_some();
            let (s, x) = match x.norm {
                None => (s, &x.x[p * s.x_len()..][..s.x_len()]),
                Some(norm) => {
                    let at = worker * band_len(&s);
                    // SAFETY: each worker has its own band.
                    let band = unsafe { bands.slice(at..at + band_len(&s)) };
                    read_band(cx, &s, p, outputs.clone(), (x.x, norm), band)
                }
            };
            for (i, oy) in outputs.clone().enumerate() {
                let ahead = match normed {
                    true => Ahead::of_row(&s, map, behind, i),
                    false => Ahead::NOTHING,
                };
                let dy = &dy[(p * s.oh + oy) * s.ow * s.c..][..s.ow * s.c];
                // SAFETY: `x` holds the rows that `s` tells of, `dy` is one output row, `sums` the whole
                // filters.
                unsafe {
                    simd!(cx.isa, weights_row(s: ConvShape, oy: usize, x: &[f32], dy: &[f32], sums: &mut [f32], ahead: Ahead))
                };
            }
            row += outputs.len();
        }
    });
    crate::elementwise::merge(partial, &mut dw[..len]);
}

/// Adds one output row's products to the sums.
#[inline(always)]
unsafe fn weights_row<S: Simd>(
    s: ConvShape,
    oy: usize,
    x: &[f32],
    dy: &[f32],
    sums: &mut [f32],
    ahead: Ahead,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw) {
            (3, 1, 1) => weights_line::<S, 3, 1>(s, oy, x, dy, sums, ahead),
            (3, 2, 1) => weights_line::<S, 3, 2>(s, oy, x, dy, sums, ahead),
            (5, 1, 1) => weights_line::<S, 5, 1>(s, oy, x, dy, sums, ahead),
            (5, 2, 1) => weights_line::<S, 5, 2>(s, oy, x, dy, sums, ahead),
            (7, 1, 1) => weights_line::<S, 7, 1>(s, oy, x, dy, sums, ahead),
            _ => (0..s.ow).for_each(|ox| weights_pixel::<S>(s, (oy, ox, 0..s.c), x, dy, sums)),
        }
    }
}

#[inline(always)]
unsafe fn weights_line<S: Simd, const KW: usize, const STEP: usize>(
    s: ConvShape,
    oy: usize,
    x: &[f32],
    dy: &[f32],
    sums: &mut [f32],
    ahead: Ahead,
) {
    let inside = inside(&s);
    for channels in chunks(s.c) {
        let mut ox = 0;
        while ox < s.ow {
            // SAFETY: the caller's contract; a block's windows lie inside.
            unsafe {
                if ox >= inside.start && ox + BLOCK <= inside.end {
                    weights_block::<S, KW, STEP>(s, (oy, ox, channels.clone()), x, dy, sums, ahead);
                    ox += BLOCK;
                } else {
                    weights_pixel::<S>(s, (oy, ox, channels.clone()), x, dy, sums);
                    ox += 1;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn weights_block<S: Simd, const KW: usize, const STEP: usize>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[f32],
    dy: &[f32],
    sums: &mut [f32],
    ahead: Ahead,
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            ahead.ask::<S>(ox, at, s.c);
            let m = S::mask((s.c - at).min(S::LANES));
            let mut g = [S::splat(0.0); BLOCK];
            for (p, g) in g.iter_mut().enumerate() {
                let dy = dy.as_ptr().wrapping_add((ox + p) * s.c + at);
                *g = S::load_first(dy, m);
                S::prefetch(dy.wrapping_add(BLOCK * s.c));
            }
            for kh in rows.clone() {
                let pixel = (oy * s.sh + kh * s.dh - s.top) * s.w + ox * STEP - s.left;
                let line = x.as_ptr().add(pixel * s.c + at);
                let out = sums.as_mut_ptr().add(kh * KW * s.c + at);
                // The columns that the next block is the first to see.
                for p in 0..BLOCK * STEP {
                    S::prefetch(line.wrapping_add((BLOCK * STEP + KW - STEP + p) * s.c));
                }
                let mut acc = [S::splat(0.0); KW];
                for (k, a) in acc.iter_mut().enumerate() {
                    *a = S::load_first(out.add(k * s.c), m);
                }
                for (p, &g) in g.iter().enumerate() {
                    for (k, a) in acc.iter_mut().enumerate() {
                        *a = S::fma(S::load_first(line.add((p * STEP + k) * s.c), m), g, *a);
                    }
                }
                for (k, a) in acc.into_iter().enumerate() {
                    S::store_first(out.add(k * s.c), a, m);
                }
            }
        }
        at += S::LANES;
    }
}

#[inline(always)]
unsafe fn weights_pixel<S: Simd>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[f32],
    dy: &[f32],
    sums: &mut [f32],
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let cols = taps(ox * s.sw, s.left, s.dw, s.kw, s.w);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let g = S::load_first(dy.as_ptr().add(ox * s.c + at), m);
            for kh in rows.clone() {
                let line = (oy * s.sh + kh * s.dh - s.top) * s.w;
                for kw in cols.clone() {
                    let pixel = line + ox * s.sw + kw * s.dw - s.left;
                    let v = S::load_first(x.as_ptr().add(pixel * s.c + at), m);
                    let out = sums.as_mut_ptr().add((kh * s.kw + kw) * s.c + at);
                    S::store_first(out, S::fma(v, g, S::load_first(out, m)), m);
                }
            }
        }
        at += S::LANES;
    }
}
