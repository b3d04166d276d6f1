//! Depthwise convolution: `x [n,h,w,c] · filters [kh,kw,c] -> y [n,oh,ow,c]`, channels in the lanes. Here forward, and
//! what all passes share.

mod backward;
mod band;

pub use backward::{Sums, backward, backward_data, backward_weights, scratch_len};

use crate::conv::{ConvShape, Steps};
use crate::gemm::{Even, LINE, Simd, fence, long, streams};
use crate::isa::simd;
use crate::map::Number;
use crate::norm::{Pending, Source, Tally};
use crate::{Bf16, Ctx, Form, Isa, Map, MapMut, SharedMut, cut};
use band::{Band, Shard, band};
use std::ops::Range;

/// Channels of an item: so many that memory is read in long runs, and so few that the rows under a window stay near.
const CHANNELS: usize = cut(288, 16);
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
    let y = &mut y[..outputs.len() * s.ow * s.c];
    for channels in chunks(s.c, CHANNELS) {
        let outputs = outputs.clone();
        let y = y.as_mut_ptr();
        let (s, b) = (&s, &Band { x, filters, outputs, channels, row: e, y, sums: None });
        // SAFETY: `x` holds the rows that `s` tells of, `y` the output rows, filters are whole.
        unsafe { simd!(isa, band::<N>(s: &ConvShape, b: &Band<N>)) };
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
    let y = &mut y[..n * s.y_len()];
    assert!(filters.len() >= s.filter_len() && x.len() >= n * s.x_len(), "too short");
    let tally = e.e.tally;
    let stream = tally.is_none() && streams(y.as_ptr(), y.len(), s.c);
    let parts = chunks(s.c, CHANNELS).count();
    let rows = match tally {
        Some(_) => together(s),
        // Enough items for all threads.
        None => {
            let each = n * s.oh * parts / (4 * cx.pool.threads());
            Even::new(s.oh, each.clamp(1, ROWS))
        }
    };
    let fits = tally.is_none_or(|t| t.fits(n * s.oh * s.ow, s.c, n * rows.parts));
    assert!(fits, "not planned for these sums");
    let y = SharedMut::new(y);
    cx.pool.run(n * rows.parts * parts, &|item, _| {
        let (shard, part) = (item / parts, item % parts);
        let Some(channels) = chunks(s.c, CHANNELS).nth(part) else { return };
        let (p, outputs) = (shard / rows.parts, rows.range(shard % rows.parts));
        let pixel = (p * s.oh + outputs.start) * s.ow;
        let count = outputs.len() * s.ow;
        let b = &Band {
            x: &x[p * s.x_len()..][..s.x_len()],
            filters,
            outputs,
            channels,
            row: Row { stream, ..e },
            y: y.as_mut_ptr().wrapping_add(pixel * s.c),
            sums: tally.map(|tally| Shard { isa: cx.isa, tally, shard, pixel }),
        };
        // SAFETY: `x` is one picture, filters are whole; these channels of the rows, and of the shard, are the item's.
        unsafe { simd!(cx.isa, band::<N>(s: &ConvShape, b: &Band<N>)) };
        if let Some(tally) = tally.filter(|_| part == 0) {
            // SAFETY: of the shard's items the first alone says so.
            unsafe { tally.count(shard, count) };
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

/// Runs a body for each of the first columns, seventeen at most. Written out, because the compiler would keep loops this
/// long, and sums in memory.
macro_rules! each_column {
    ($columns:expr, |$column:ident| $body:block) => {
        each_column!(@ $columns, $column $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
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

/// Ranges of at most `most` channels, of whole cache lines.
fn chunks(channels: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = channels.div_ceil(most);
    let width = channels.div_ceil(parts).next_multiple_of(LINE);
    (0..channels).step_by(width).map(move |at| at..(at + width).min(channels))
}

/// Window places `k` for which `start + k · dilation − pad` lies in `0..size`.
#[inline(always)]
fn taps(start: usize, pad: usize, dilation: usize, k: usize, size: usize) -> Range<usize> {
    let first = pad.saturating_sub(start).div_ceil(dilation).min(k);
    let end = (size + pad).saturating_sub(start).div_ceil(dilation).min(k);
    first..end.max(first)
}
