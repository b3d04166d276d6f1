//! The way back: gradients of input and filters, and what a norm in front sums of the former, in one walk over the
//! rows of the input. A pixel `x` and the outputs `dy` that see it make both: `dx += w · dy`, `dw += x · dy`.

use super::{check_norm, chunks, each_column, store};
use crate::conv::ConvShape;
use crate::elementwise::merge;
use crate::gemm::{Even, Simd, fence, streams};
use crate::isa::simd;
use crate::map::{Number, no_bytes};
use crate::norm::{Both, Look, Masking, Pending, Source, SumsOf};
use crate::{Ctx, Map, MapMut, SharedMut, cut};
use std::ops::Range;

/// Channels that the blocks of a row pass over together: so few that pixels and filters of a block and of the next stay
/// in the nearest cache.
const CHANNELS: usize = cut(144, 16);
/// Shards of the filters' gradient at most.
const SHARDS: usize = 16;

/// Floats of scratch for [`backward`] and [`backward_weights`] over up to `batch` samples.
pub fn scratch_len(s: &ConvShape, batch: usize) -> usize {
    shards(s, batch) * (s.kh * s.kw + 2) * s.c
}

fn shards(s: &ConvShape, n: usize) -> usize {
    SHARDS.min(n * s.h).max(1)
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
    back(cx, s, n, (None, dy.into()), filters, Some((dx.into(), accumulate)), None)
}

/// `dw [kh,kw,c] = Σ x · dy`; shards of input rows by shape, merged in order in f64. Both maps are of one kind.
pub fn backward_weights<'a>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: Source,
    dy: impl Into<Map<'a>>,
    dw: &mut [f32],
    scratch: &mut [f32],
) {
    let sums = Sums { dw, norm: None, scratch };
    back(cx, s, n, (Some(x), dy.into()), &[], None, Some(sums))
}

/// What [`backward`] sums.
pub struct Sums<'a> {
    /// The filters' gradient `[kh,kw,c]`.
    pub dw: &'a mut [f32],
    /// Those of the norm of the input. The gradient that is written is then masked.
    pub norm: Option<SumsOf<'a>>,
    /// As long as [`scratch_len`].
    pub scratch: &'a mut [f32],
}

/// [`backward_data`] and [`backward_weights`] in one walk over maps of one kind: `dx`, and whether it is added to what is
/// there, and sums.
pub fn backward(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    (x, dy): (Source, Map),
    filters: &[f32],
    dx: (MapMut, bool),
    sums: Sums,
) {
    back(cx, s, n, (Some(x), dy), filters, Some(dx), Some(sums))
}

/// What is wanted of both. No generic function: so much code is compiled once.
fn back(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    (x, dy): (Option<Source>, Map),
    filters: &[f32],
    dx: Option<(MapMut, bool)>,
    sums: Option<Sums>,
) {
    match dy {
        Map::Full(dy) => walk(cx, s, n, Reads::new(x, dy, filters), dx, sums),
        Map::Half(dy) => walk(cx, s, n, Reads::new(x, dy, filters), dx, sums),
        Map::Bytes(..) => no_bytes(),
    }
}

/// What the walk reads.
#[derive(Clone, Copy)]
struct Reads<'a, N> {
    /// Empty where the filters' gradient is not wanted.
    x: &'a [N],
    norm: Option<Pending<'a>>,
    /// Means of the norm; empty where its sums are not wanted.
    mean: &'a [f32],
    dy: &'a [N],
    /// Empty where the input's gradient is not wanted.
    filters: &'a [f32],
}

impl<'a, N: Number> Reads<'a, N> {
    fn new(x: Option<Source<'a>>, dy: &'a [N], filters: &'a [f32]) -> Self {
        let norm = x.and_then(|x| x.norm);
        Reads { x: x.map_or(&[], |x| N::of(x.x)), norm, mean: &[], dy, filters }
    }

    /// Those of one picture.
    fn picture(self, s: &ConvShape, p: usize) -> Self {
        let x = if self.x.is_empty() { self.x } else { &self.x[p * s.x_len()..][..s.x_len()] };
        Reads { x, dy: &self.dy[p * s.y_len()..][..s.y_len()], ..self }
    }
}

/// What is written at a row of the input; empty where it is not wanted.
struct Writes<'a, N> {
    /// The row `[w,c]`.
    dx: &'a mut [N],
    /// Whether it is added to what is there.
    accumulate: bool,
    /// Whether it goes past the caches.
    stream: bool,
    /// A shard's sums `[kh,kw,c]`.
    dw: &'a mut [f32],
    /// A shard's sums of the norm `[2,c]`.
    norm: &'a mut [f32],
}

fn walk<'a, N: Number>(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    mut reads: Reads<'a, N>,
    dx: Option<(MapMut, bool)>,
    mut sums: Option<Sums<'a>>,
) {
    let (s, rows, line, len) = (*s, n * s.h, s.w * s.c, s.kh * s.kw * s.c);
    check_norm(&s, reads.norm);
    assert!(dx.is_none() || reads.filters.len() >= len, "filters are too few");
    let (dx, accumulate) = match dx {
        Some((dx, accumulate)) => (&mut N::of_mut(dx)[..rows * line], accumulate),
        None => (&mut [][..], false),
    };
    let stream = !accumulate && streams(dx.as_ptr(), dx.len(), s.c);
    let norm = sums.as_mut().and_then(|s| s.norm.take());
    if let Some(norm) = &norm {
        assert!(reads.norm.is_some() && !dx.is_empty(), "sums are of the gradient of a norm");
        assert!(norm.mean.len() == s.c, "the norm has other channels");
        reads.mean = norm.mean;
    }
    let items = if sums.is_some() { shards(&s, n) } else { rows };
    // What a row has of each, which may be nothing.
    let line = if dx.is_empty() { 0 } else { line };
    let len = if sums.is_some() { len } else { 0 };
    let both = if norm.is_some() { 2 * s.c } else { 0 };
    let (out, scratch) = match sums {
        Some(Sums { dw, scratch, .. }) => (dw, scratch),
        None => (&mut [][..], &mut [][..]),
    };
    let (partial, of_norm) = scratch[..items * (len + both)].split_at_mut(items * len);
    let share = Even::parts(rows, items);
    {
        let dx = SharedMut::new(dx);
        let (partial, of_norm) = (SharedMut::new(&mut *partial), SharedMut::new(&mut *of_norm));
        cx.pool.run(items, &|i, _| {
            // SAFETY: each item has sums of its own.
            let (dw, norm) = unsafe {
                (partial.slice(i * len..(i + 1) * len), of_norm.slice(i * both..(i + 1) * both))
            };
            dw.fill(0.0);
            norm.fill(0.0);
            for at in share.range(i) {
                let (reads, iy) = (reads.picture(&s, at / s.h), at % s.h);
                // SAFETY: each row belongs to one item.
                let dx = unsafe { dx.slice(at * line..(at + 1) * line) };
                let to = Writes { dx, accumulate, stream, dw: &mut *dw, norm: &mut *norm };
                // SAFETY: maps are those of one picture, what is written is whole where it is not empty, and so is what
                // that is made of.
                unsafe {
                    simd!(cx.isa, row::<N>(s: ConvShape, iy: usize, reads: Reads<N>, to: Writes<N>))
                };
            }
            if stream {
                fence();
            }
        });
    }
    if len > 0 {
        merge(partial, &mut out[..len]);
    }
    if let Some(norm) = norm {
        norm.finish(of_norm);
    }
}

/// Outputs that see an input, along one axis: `(output, window place)` pairs, both in even steps.
#[derive(Clone, Copy)]
struct Seen {
    output: usize,
    place: usize,
    /// Outputs from one to the next, downwards.
    down: usize,
    /// Places from one to the next.
    up: usize,
    count: usize,
}

impl Seen {
    /// Those of input `i`, in order of the window: `place · dilation + output · step = i + pad`.
    #[inline(always)]
    fn by(i: usize, pad: usize, [dilation, step, k, outputs]: [usize; 4]) -> Self {
        let common = common_divisor(dilation, step);
        let (up, down) = (step / common, dilation / common);
        let whole = |p: usize| {
            (i + pad).checked_sub(p * dilation).is_some_and(|rest| rest.is_multiple_of(step))
        };
        let none = Seen { output: 0, place: 0, down, up, count: 0 };
        let Some(first) = (0..up).find(|&p| whole(p)) else { return none };
        let last = (i + pad - first * dilation) / step;
        // The first places may see outputs behind the last.
        let skip = (last + 1).saturating_sub(outputs).div_ceil(down);
        let place = first + skip * up;
        match last.checked_sub(skip * down) {
            Some(output) if place < k => {
                let count = ((k - 1 - place) / up).min(output / down) + 1;
                Seen { output, place, down, up, count }
            }
            _ => none,
        }
    }

    #[inline(always)]
    fn pairs(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count).map(move |i| (self.output - i * self.down, self.place + i * self.up))
    }
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[inline(always)]
unsafe fn row<S: Simd, N: Number>(s: ConvShape, iy: usize, r: Reads<N>, to: Writes<N>) {
    // SAFETY: the caller's contract.
    unsafe {
        match (to.dx.is_empty(), to.dw.is_empty()) {
            (false, false) => row_of::<S, N, true, true>(s, iy, r, to),
            (false, true) => row_of::<S, N, true, false>(s, iy, r, to),
            _ => row_of::<S, N, false, true>(s, iy, r, to),
        }
    }
}

/// One row of the input: with `DATA` its gradient, with `WEIGHTS` its products for the filters' gradient.
#[inline(always)]
unsafe fn row_of<S: Simd, N: Number, const DATA: bool, const WEIGHTS: bool>(
    s: ConvShape,
    iy: usize,
    r: Reads<N>,
    mut to: Writes<N>,
) {
    let rows = Seen::by(iy, s.top, [s.dh, s.sh, s.kh, s.oh]);
    let (at, to) = ((iy, rows), &mut to);
    // SAFETY: the caller's contract.
    unsafe {
        match (s.kw, s.sw, s.dw) {
            (3, 1, 1) => line::<S, N, 3, 1, 8, DATA, WEIGHTS>(s, at, r, to),
            (3, 2, 1) => line::<S, N, 3, 2, 8, DATA, WEIGHTS>(s, at, r, to),
            (5, 1, 1) => line::<S, N, 5, 1, 8, DATA, WEIGHTS>(s, at, r, to),
            (5, 2, 1) => line::<S, N, 5, 2, 8, DATA, WEIGHTS>(s, at, r, to),
            (7, 1, 1) => line::<S, N, 7, 1, 4, DATA, WEIGHTS>(s, at, r, to),
            _ => (0..s.w).for_each(|ix| pixel::<S, N, DATA, WEIGHTS>(s, at, ix, r, to)),
        }
    }
}

/// A row in blocks of `SPAN` inputs, which begin where `ix + left` is a multiple of the step, so that each place knows
/// its window places. Those at the ends may lie beside the map or see outputs that do.
#[inline(always)]
unsafe fn line<
    S: Simd,
    N: Number,
    const KW: usize,
    const STEP: usize,
    const SPAN: usize,
    const DATA: bool,
    const WEIGHTS: bool,
>(
    s: ConvShape,
    at: (usize, Seen),
    r: Reads<N>,
    to: &mut Writes<N>,
) {
    for channels in chunks(s.c, CHANNELS) {
        // From here on counted from `left % STEP` pixels before the row.
        let mut start = 0;
        while start < s.w + s.left % STEP {
            let output = s.left / STEP + start / STEP;
            let place = (start, output, channels.clone());
            // SAFETY: the caller's contract.
            unsafe { block::<S, N, KW, STEP, SPAN, DATA, WEIGHTS>(s, at, place, r, to) }
            start += SPAN;
        }
    }
}

/// Pixels of a row, and the outputs that see them. Sums for the filters are in registers for a row of the window.
#[inline(always)]
unsafe fn block<
    S: Simd,
    N: Number,
    const KW: usize,
    const STEP: usize,
    const SPAN: usize,
    const DATA: bool,
    const WEIGHTS: bool,
>(
    s: ConvShape,
    (iy, rows): (usize, Seen),
    (start, output, channels): (usize, usize, Range<usize>),
    r: Reads<N>,
    to: &mut Writes<N>,
) {
    let (c, before, skipped) = (s.c, (KW - 1) / STEP, s.left % STEP);
    let pixels = skipped.saturating_sub(start)..(s.w + skipped - start).min(SPAN);
    // Columns of outputs, from `before` the block's first.
    let columns = before.saturating_sub(output)..(s.ow + before).saturating_sub(output);
    // Addresses of what lies beside the maps are not read.
    let first = start.wrapping_sub(skipped).wrapping_mul(c);
    let x = r.x.as_ptr().wrapping_add((iy * s.w * c).wrapping_add(first));
    let dx = to.dx.as_mut_ptr().wrapping_add(first);
    let dy = r.dy.as_ptr().wrapping_add(output.wrapping_sub(before).wrapping_mul(c));
    let mut at = channels.start;
    while at < channels.end {
        let (x, dx, dy) = (x.wrapping_add(at), dx.wrapping_add(at), dy.wrapping_add(at));
        // SAFETY: pixels and outputs lie on the maps; lanes stay below `c`.
        unsafe {
            let zero = S::splat(0.0);
            let m = S::mask((c - at).min(S::LANES));
            let whole = at + S::LANES <= c;
            let mut v = [zero; SPAN];
            if WEIGHTS {
                see::<S, N, SPAN>(x, (c, s.w), &pixels, r.norm, (at, m), &mut v);
            }
            let mut g = [zero; SPAN];
            if DATA && to.accumulate {
                for (p, g) in g.iter_mut().enumerate() {
                    if pixels.contains(&p) {
                        *g = N::load::<S>(dx.wrapping_add(p * c), m);
                    }
                }
            }
            // What the next row is the first to see.
            let next = dy.wrapping_add((rows.output + rows.down) * s.ow * c);
            for p in 0..SPAN / STEP {
                S::prefetch_far(next.wrapping_add((before + p) * c).cast());
            }
            for (oy, kh) in rows.pairs() {
                let (line, f) = (dy.wrapping_add(oy * s.ow * c), kh * KW * c + at);
                for p in 0..SPAN / STEP {
                    S::prefetch(line.wrapping_add((before + SPAN / STEP + p) * c).cast());
                }
                let (mut w, mut sums) = ([zero; KW], [zero; KW]);
                let out = to.dw.as_mut_ptr().wrapping_add(f);
                for k in 0..KW {
                    if DATA {
                        w[k] = S::load_first(r.filters.as_ptr().add(f + k * c), m);
                    }
                    if WEIGHTS {
                        sums[k] = S::load_first(out.add(k * c), m);
                    }
                }
                each_column!((SPAN - 1) / STEP + before + 1, |column| {
                    if columns.contains(&column) {
                        let d = N::load::<S>(line.wrapping_add(column * c), m);
                        for p in 0..SPAN {
                            let k = (p + before * STEP).wrapping_sub(column * STEP);
                            if k < KW && DATA {
                                g[p] = S::fma(d, w[k], g[p]);
                            }
                            if k < KW && WEIGHTS {
                                sums[k] = S::fma(v[p], d, sums[k]);
                            }
                        }
                    }
                });
                for (k, sum) in sums.into_iter().enumerate().filter(|_| WEIGHTS) {
                    store::<S, f32>(out.add(k * c), sum, m, whole);
                }
            }
            if DATA && !to.norm.is_empty() {
                mask::<S, N, SPAN>(x, c, &pixels, (r, &mut *to), (at, m), &mut g);
            }
            for (p, g) in g.into_iter().enumerate().filter(|_| DATA) {
                if pixels.contains(&p) {
                    let dx = dx.wrapping_add(p * c);
                    if to.stream { N::stream::<S>(dx, g) } else { store::<S, N>(dx, g, m, whole) }
                }
            }
        }
        at += S::LANES;
    }
}

/// What forward saw of a block of pixels. Asks for the next block, and for the same in the next row.
#[inline(always)]
unsafe fn see<S: Simd, N: Number, const SPAN: usize>(
    x: *const N,
    (c, w): (usize, usize),
    pixels: &Range<usize>,
    norm: Option<Pending>,
    (at, m): (usize, S::M),
    v: &mut [S::V; SPAN],
) {
    // SAFETY: the caller's contract.
    unsafe {
        for p in 0..SPAN {
            let x = x.wrapping_add(p * c);
            S::prefetch(x.wrapping_add(SPAN * c).cast());
            S::prefetch_far(x.wrapping_add(w * c).cast());
        }
        let plain = Look::<S, false>::new(None, 0.0, at, m);
        let look = Look::<S, true>::new(norm, 0.0, at, m);
        for (p, v) in v.iter_mut().enumerate() {
            if pixels.contains(&p) {
                let x = x.wrapping_add(p * c);
                *v = if norm.is_some() { look.at(x) } else { plain.at(x) };
            }
        }
    }
}

/// Masks the gradients of a block of pixels and adds them to the norm's sums.
#[inline(always)]
unsafe fn mask<S: Simd, N: Number, const SPAN: usize>(
    x: *const N,
    c: usize,
    pixels: &Range<usize>,
    (r, to): (Reads<N>, &mut Writes<N>),
    (at, m): (usize, S::M),
    g: &mut [S::V; SPAN],
) {
    let Some(norm) = r.norm else { return };
    // SAFETY: the caller's contract.
    unsafe {
        let masking = Masking::<S>::new(norm, r.mean, at, m);
        // Few are summed before they are added to many.
        let mut few = Both::<S>::zero();
        for (p, g) in g.iter_mut().enumerate() {
            if pixels.contains(&p) {
                let x = N::load::<S>(x.wrapping_add(p * c), m);
                *g = masking.mask(*g, x, &mut few);
            }
        }
        let mut all = Both::<S>::load(to.norm, at, m);
        all.join(few);
        all.store(to.norm, at, m);
    }
}

/// A pixel of any window.
#[inline(always)]
unsafe fn pixel<S: Simd, N: Number, const DATA: bool, const WEIGHTS: bool>(
    s: ConvShape,
    (iy, rows): (usize, Seen),
    ix: usize,
    r: Reads<N>,
    to: &mut Writes<N>,
) {
    let c = s.c;
    let columns = Seen::by(ix, s.left, [s.dw, s.sw, s.kw, s.ow]);
    let mut at = 0;
    while at < c {
        let x = r.x.as_ptr().wrapping_add((iy * s.w + ix) * c + at);
        let dx = to.dx.as_mut_ptr().wrapping_add(ix * c + at);
        // SAFETY: outputs lie on the map; lanes stay below `c`.
        unsafe {
            let m = S::mask((c - at).min(S::LANES));
            let whole = at + S::LANES <= c;
            let mut v = [S::splat(0.0)];
            if WEIGHTS {
                see::<S, N, 1>(x, (c, s.w), &(0..1), r.norm, (at, m), &mut v);
            }
            let mut g = [S::splat(0.0)];
            if DATA && to.accumulate {
                g[0] = N::load::<S>(dx, m);
            }
            for (oy, kh) in rows.pairs() {
                for (ox, kw) in columns.pairs() {
                    let d = N::load::<S>(r.dy.as_ptr().add((oy * s.ow + ox) * c + at), m);
                    let f = (kh * s.kw + kw) * c + at;
                    if DATA {
                        g[0] = S::fma(d, S::load_first(r.filters.as_ptr().add(f), m), g[0]);
                    }
                    if WEIGHTS {
                        let out = to.dw.as_mut_ptr().add(f);
                        let sum = S::fma(v[0], d, S::load_first(out, m));
                        store::<S, f32>(out, sum, m, whole);
                    }
                }
            }
            if DATA && !to.norm.is_empty() {
                mask::<S, N, 1>(x, c, &(0..1), (r, &mut *to), (at, m), &mut g);
            }
            if DATA {
                let [g] = g;
                if to.stream { N::stream::<S>(dx, g) } else { store::<S, N>(dx, g, m, whole) }
            }
        }
        at += S::LANES;
    }
}
