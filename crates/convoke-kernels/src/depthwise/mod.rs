//! Depthwise convolution: `x [n,h,w,c] · filters [kh,kw,c] -> y [n,oh,ow,c]`, channels in the lanes. Here forward, and
//! what all passes share.

mod backward;

pub use backward::{Sums, backward, backward_data, backward_weights, scratch_len};

use crate::conv::{ConvShape, Steps};
use crate::gemm::{Even, LINE, Simd, fence, long, streams};
use crate::isa::simd;
use crate::map::Number;
use crate::norm::{Look, Pending, Source, Strip, Tally};
use crate::{Bf16, Ctx, Form, Isa, Map, MapMut, SharedMut, cut};
use std::ops::Range;

/// Channels that the blocks of a row pass over together: so few that pixels and filters of a block and of the next stay
/// in the nearest cache.
const CHANNELS: usize = cut(144, 16);
/// Outputs of a row whose sums are kept in registers together.
const BLOCK: usize = 4;
/// Output rows of an item: enough that few input rows are read by two threads.
const ROWS: usize = cut(16, 3);

/// What is done to a sum before it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One number per channel.
    pub bias: Option<&'a [f32]>,
    /// Bounds of the result.
    pub clamp: Option<(f32, f32)>,
    /// Sums over the output, made while it is written, where there are [`shards`].
    pub tally: Option<&'a Tally<'a>>,
}

/// How an input row is read and an output row written.
#[derive(Clone, Copy)]
struct Row<'a> {
    e: Epilogue<'a>,
    /// The norm of the input, applied as it is read.
    norm: Option<Pending<'a>>,
    /// What integers of the input stand for, and those of the output.
    steps: [Steps; 2],
    /// Whether it goes past the caches.
    stream: bool,
}

impl Row<'_> {
    /// What a vector of sums starts from, and what is added to it in the end: the bias is one or the other.
    #[inline(always)]
    unsafe fn bias<S: Simd, N: Number>(&self, at: usize, m: S::M) -> [S::V; 2] {
        // SAFETY: the caller has the instruction set and biases for the lanes.
        unsafe {
            let zero = S::splat(0.0);
            let bias = self.e.bias.map_or(zero, |b| S::load_first(b.as_ptr().add(at), m));
            if N::INTEGERS { [zero, bias] } else { [bias, zero] }
        }
    }

    /// A sum as it is written. That of integers is scaled first, and is rounded as a reader would.
    #[inline(always)]
    unsafe fn end<S: Simd, N: Number>(&self, sum: S::V, bias: S::V) -> S::V {
        let (lo, hi) = self.e.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let [from, to] = self.steps;
        // SAFETY: the caller has the instruction set.
        unsafe {
            if !N::INTEGERS {
                return S::clamp(sum, S::splat(lo), S::splat(hi));
            }
            let v = S::clamp(S::fma(sum, S::splat(from.scale), bias), S::splat(lo), S::splat(hi));
            S::add(S::round_even(S::mul(v, S::splat(to.inverse))), S::splat(to.zero))
        }
    }
}

/// Stores the channels from `at` on. Whole vectors go without a mask, with which they could not be read back before
/// they have reached the cache.
#[inline(always)]
unsafe fn store<S: Simd, N: Number>(p: *mut N, v: S::V, m: S::M, whole: bool) {
    // SAFETY: the caller has room for the numbers that the mask selects; for all if `whole`.
    unsafe { if whole { N::store_all::<S>(p, v) } else { N::store::<S>(p, v, m) } }
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

/// Output rows of one picture, from the input rows `x` under them (see [`inputs`]). Maps are as in [`forward`].
pub(crate) fn forward_rows(
    isa: Isa,
    s: &ConvShape,
    outputs: Range<usize>,
    x: Map,
    filters: &[f32],
    y: MapMut,
    e: Epilogue,
) {
    let row = Row { e, norm: None, steps: steps(x, y.read()), stream: false };
    match y {
        MapMut::Full(y) => rows_of(isa, s, outputs, f32::of(x), filters, y, row),
        MapMut::Half(y) => rows_of(isa, s, outputs, Bf16::of(x), filters, y, row),
        MapMut::Bytes(y, _) => rows_of(isa, s, outputs, u8::of(x), filters, y, row),
    }
}

fn rows_of<N: Number>(
    isa: Isa,
    s: &ConvShape,
    outputs: Range<usize>,
    x: &[N],
    filters: &[f32],
    y: &mut [N],
    e: Row,
) {
    let (inputs, s) = on_band(s, outputs.clone());
    assert!(x.len() >= inputs.len() * s.w * s.c && filters.len() >= s.filter_len(), "too short");
    for (oy, y) in outputs.zip(y.chunks_exact_mut(s.ow * s.c)) {
        // SAFETY: `x` holds the rows that `s` tells of, `y` is one output row, filters are whole.
        unsafe {
            simd!(isa, forward_row::<N>(s: ConvShape, oy: usize, x: &[N], filters: &[f32], y: &mut [N], e: Row))
        };
    }
}

/// What integers of both maps stand for.
fn steps(x: Map, y: Map) -> [Steps; 2] {
    [x, y].map(|map| match map {
        Map::Bytes(_, range) => range.steps(),
        Map::Full(_) | Map::Half(_) => Steps { zero: 0.0, scale: 1.0, inverse: 1.0 },
    })
}

/// `y = epilogue(x ∗ filters)`, a norm applied to `x` as it is read. Both maps are of one kind; bytes, which have no
/// norm, may be of two ranges: products of integers are summed in f32, scaled, and rounded once.
pub fn forward<'a>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: Source,
    filters: &[f32],
    y: impl Into<MapMut<'a>>,
    e: Epilogue,
) {
    check_norm(s, x.norm);
    let y = y.into();
    let row = Row { e, norm: x.norm, steps: steps(x.x, y.read()), stream: false };
    match y {
        MapMut::Full(y) => forward_of(cx, s, n, f32::of(x.x), filters, y, row),
        MapMut::Half(y) => forward_of(cx, s, n, Bf16::of(x.x), filters, y, row),
        MapMut::Bytes(y, _) => {
            assert!(x.norm.is_none(), "bytes have no norm to apply");
            forward_of(cx, s, n, u8::of(x.x), filters, y, row);
        }
    }
}

/// Shards of a [`Tally`] over what [`forward`] writes of `n` samples in f32 or bf16; none where it goes past the caches.
pub fn shards(s: &ConvShape, n: usize, form: Form) -> usize {
    let len = n * s.y_len();
    let long = match form {
        Form::Full => long::<f32>(len),
        Form::Half => long::<Bf16>(len),
        Form::Bytes(_) => true,
    };
    if long { 0 } else { n * together(s).parts }
}

/// Where memory is the limit, rows are taken together: neighbours see the same input.
fn together(s: &ConvShape) -> Even {
    Even::new(s.oh, ROWS)
}

fn forward_of<N: Number>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: &[N],
    filters: &[f32],
    y: &mut [N],
    e: Row,
) {
    let line = s.ow * s.c;
    let s = *s;
    let y = &mut y[..n * s.oh * line];
    let tally = e.e.tally;
    let stream = tally.is_none() && streams(y.as_ptr(), y.len(), s.c);
    let apart = e.norm.is_none() && tally.is_none();
    let rows = if apart { Even::new(s.oh, 1) } else { together(&s) };
    let fits = tally.is_none_or(|t| t.fits(n * s.oh * s.ow, s.c, n * rows.parts));
    assert!(fits, "not planned for these sums");
    let y = SharedMut::new(y);
    cx.pool.run(n * rows.parts, &|item, _| {
        let p = item / rows.parts;
        let e = Row { stream, ..e };
        let x = &x[p * s.x_len()..][..s.x_len()];
        for oy in rows.range(item % rows.parts) {
            // SAFETY: every output row belongs to one item.
            let y = unsafe { y.slice((p * s.oh + oy) * line..(p * s.oh + oy + 1) * line) };
            // SAFETY: `x` is one picture, `y` one output row, filters are whole.
            unsafe {
                simd!(cx.isa, forward_row::<N>(s: ConvShape, oy: usize, x: &[N], filters: &[f32], y: &mut [N], e: Row))
            };
            let Some(tally) = tally else { continue };
            let first = oy == rows.range(item % rows.parts).start;
            let to = y.as_mut_ptr();
            let from = to.cast_const();
            let (from_row, to_row, channel, channels) = (s.c, s.c, 0, s.c);
            let (row, shard) = ((p * s.oh + oy) * s.ow, item);
            let strip = Strip { from, from_row, to, to_row, row, rows: s.ow, channel, channels, shard, first };
            // SAFETY: the row is this item's alone, and so is the shard.
            unsafe { tally.strip(cx.isa, &strip) };
        }
        if let Some(tally) = tally {
            // SAFETY: the shard is this item's.
            unsafe { tally.count(item, rows.range(item % rows.parts).len() * s.ow) };
        }
        if stream {
            fence();
        }
    });
}

fn check_norm(s: &ConvShape, norm: Option<Pending>) {
    let holds = |n: Pending| n.scale.len() >= s.c && n.shift.len() >= s.c;
    assert!(norm.is_none_or(holds), "the norm has too few channels");
}

#[inline(always)]
unsafe fn forward_row<S: Simd, N: Number>(
    s: ConvShape,
    oy: usize,
    x: &[N],
    filters: &[f32],
    y: &mut [N],
    e: Row,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw, e.norm.is_some()) {
            (3, 1, 1, false) => forward_line::<S, N, 3, 1, false>(s, oy, x, filters, y, e),
            (3, 2, 1, false) => forward_line::<S, N, 3, 2, false>(s, oy, x, filters, y, e),
            (5, 1, 1, false) => forward_line::<S, N, 5, 1, false>(s, oy, x, filters, y, e),
            (5, 2, 1, false) => forward_line::<S, N, 5, 2, false>(s, oy, x, filters, y, e),
            (7, 1, 1, false) => forward_line::<S, N, 7, 1, false>(s, oy, x, filters, y, e),
            (3, 1, 1, true) => forward_line::<S, N, 3, 1, true>(s, oy, x, filters, y, e),
            (3, 2, 1, true) => forward_line::<S, N, 3, 2, true>(s, oy, x, filters, y, e),
            (5, 1, 1, true) => forward_line::<S, N, 5, 1, true>(s, oy, x, filters, y, e),
            (5, 2, 1, true) => forward_line::<S, N, 5, 2, true>(s, oy, x, filters, y, e),
            (7, 1, 1, true) => forward_line::<S, N, 7, 1, true>(s, oy, x, filters, y, e),
            (.., false) => (0..s.ow)
                .for_each(|ox| forward_pixel::<S, N, false>(s, (oy, ox, 0..s.c), x, filters, y, e)),
            (.., true) => (0..s.ow)
                .for_each(|ox| forward_pixel::<S, N, true>(s, (oy, ox, 0..s.c), x, filters, y, e)),
        }
    }
}

/// Asks for a share of the columns that the next block is the first to see: as they lie in memory where all channels
/// are taken together.
#[inline(always)]
fn ask_next<S: Simd, N: Number, const KW: usize, const STEP: usize>(
    line: *const N,
    s: &ConvShape,
    at: usize,
    channels: &Range<usize>,
) {
    let next = line.wrapping_add((BLOCK * STEP + KW - STEP) * s.c);
    let (next, step) = match channels.len() == s.c {
        true => (next.wrapping_sub(at).wrapping_add(at * BLOCK * STEP), LINE),
        false => (next, s.c),
    };
    for i in 0..BLOCK * STEP {
        S::prefetch(next.wrapping_add(i * step).cast());
    }
}

/// Asks, for the second cache, for what the next output row is the first to see under a block: one vector of channels
/// at a time, since a core waits for few lines at once.
#[inline(always)]
fn ask_next_row<S: Simd, N: Number, const STEP: usize>(
    x: *const N,
    s: &ConvShape,
    (oy, ox, at): (usize, usize, usize),
) {
    let row = (oy * s.sh + (s.kh - 1) * s.dh + 1).wrapping_sub(s.top);
    for r in 0..s.sh {
        let pixel = row.wrapping_add(r).wrapping_mul(s.w).wrapping_add(ox * STEP);
        let line = x.wrapping_add(pixel.wrapping_mul(s.c).wrapping_add(at));
        for i in 0..BLOCK * STEP {
            S::prefetch_far(line.wrapping_add(i * s.c).cast());
        }
    }
}

/// Runs a body for each of the first columns, twelve at most. Written out, because the compiler would keep loops this
/// long, and sums in memory.
macro_rules! each_column {
    ($columns:expr, |$column:ident| $body:block) => {
        each_column!(@ $columns, $column $body 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $columns:expr, $column:ident $body:block $($i:literal)*) => {$(
        if $i < $columns {
            #[allow(non_upper_case_globals)]
            const $column: usize = $i;
            $body
        }
    )*};
}
use each_column;

/// A row in blocks of [`BLOCK`] outputs whose windows lie on the map, the others one by one.
#[inline(always)]
unsafe fn forward_line<S: Simd, N: Number, const KW: usize, const STEP: usize, const NORM: bool>(
    s: ConvShape,
    oy: usize,
    x: &[N],
    filters: &[f32],
    y: &mut [N],
    e: Row,
) {
    let inside = inside(&s);
    for channels in chunks(s.c) {
        let mut ox = 0;
        while ox < s.ow {
            // SAFETY: the caller's contract; a block's windows lie inside.
            unsafe {
                if ox >= inside.start && ox + BLOCK <= inside.end {
                    forward_block::<S, N, KW, STEP, NORM>(
                        s,
                        (oy, ox, channels.clone()),
                        x,
                        filters,
                        y,
                        e,
                    );
                    ox += BLOCK;
                } else {
                    forward_pixel::<S, N, NORM>(s, (oy, ox, channels.clone()), x, filters, y, e);
                    ox += 1;
                }
            }
        }
    }
}

/// Ranges of at most [`CHANNELS`] channels, of whole cache lines.
fn chunks(channels: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = channels.div_ceil(CHANNELS);
    let width = channels.div_ceil(parts).next_multiple_of(LINE);
    (0..channels).step_by(width).map(move |at| at..(at + width).min(channels))
}

/// Outputs of a row whose windows lie on the map.
#[inline(always)]
fn inside(s: &ConvShape) -> Range<usize> {
    let last = (s.w + s.left).checked_sub((s.kw - 1) * s.dw + 1);
    s.left.div_ceil(s.sw)..last.map_or(0, |last| (last / s.sw + 1).min(s.ow))
}

#[inline(always)]
unsafe fn forward_block<
    S: Simd,
    N: Number,
    const KW: usize,
    const STEP: usize,
    const NORM: bool,
>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[N],
    filters: &[f32],
    y: &mut [N],
    row: Row,
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let look = Look::<S, NORM>::new(row.norm, row.steps[0].zero, at, m);
            ask_next_row::<S, N, STEP>(x.as_ptr(), &s, (oy, ox, at));
            let [start, bias] = row.bias::<S, N>(at, m);
            let mut sums = [start; BLOCK];
            for kh in rows.clone() {
                let pixel = (oy * s.sh + kh * s.dh - s.top) * s.w + ox * STEP - s.left;
                let (line, f) = (x.as_ptr().add(pixel * s.c + at), kh * KW * s.c + at);
                ask_next::<S, N, KW, STEP>(line, &s, at, &channels);
                let mut w = [S::splat(0.0); KW];
                for (k, w) in w.iter_mut().enumerate() {
                    *w = S::load_first(filters.as_ptr().add(f + k * s.c), m);
                }
                each_column!((BLOCK - 1) * STEP + KW, |column| {
                    let v = look.at(line.add(column * s.c));
                    for (p, sum) in sums.iter_mut().enumerate() {
                        if (p * STEP..p * STEP + KW).contains(&column) {
                            *sum = S::fma(v, w[column - p * STEP], *sum);
                        }
                    }
                });
            }
            let whole = at + S::LANES <= s.c;
            for (p, sum) in sums.into_iter().enumerate() {
                let v = row.end::<S, N>(sum, bias);
                let y = y.as_mut_ptr().add((ox + p) * s.c + at);
                if row.stream { N::stream::<S>(y, v) } else { store::<S, N>(y, v, m, whole) }
            }
        }
        at += S::LANES;
    }
}

#[inline(always)]
unsafe fn forward_pixel<S: Simd, N: Number, const NORM: bool>(
    s: ConvShape,
    (oy, ox, channels): (usize, usize, Range<usize>),
    x: &[N],
    filters: &[f32],
    y: &mut [N],
    row: Row,
) {
    let rows = taps(oy * s.sh, s.top, s.dh, s.kh, s.h);
    let cols = taps(ox * s.sw, s.left, s.dw, s.kw, s.w);
    let mut at = channels.start;
    while at < channels.end {
        // SAFETY: taps lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((s.c - at).min(S::LANES));
            let look = Look::<S, NORM>::new(row.norm, row.steps[0].zero, at, m);
            let [start, bias] = row.bias::<S, N>(at, m);
            let mut sum = start;
            for kh in rows.clone() {
                let line = (oy * s.sh + kh * s.dh - s.top) * s.w;
                for kw in cols.clone() {
                    let pixel = line + ox * s.sw + kw * s.dw - s.left;
                    let v = look.at(x.as_ptr().add(pixel * s.c + at));
                    let f = S::load_first(filters.as_ptr().add((kh * s.kw + kw) * s.c + at), m);
                    sum = S::fma(v, f, sum);
                }
            }
            let v = row.end::<S, N>(sum, bias);
            let y = y.as_mut_ptr().add(ox * s.c + at);
            if row.stream { N::stream::<S>(y, v) } else { N::store::<S>(y, v, m) }
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
