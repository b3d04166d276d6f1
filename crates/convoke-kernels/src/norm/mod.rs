//! Batch normalisation over rows: `x [rows, c]`, statistics per channel. Here forward.

mod backward;
mod behind;
mod tally;

pub(crate) use backward::Masking;
pub use backward::{Clamped, Saved, SumsOf, backward_data, backward_sums};
pub use behind::{Behind, slopes};
pub(crate) use tally::Strip;
pub use tally::{Tally, space_len, tallied_statistics, tallied_sums};

use crate::elementwise::shards;
use crate::gemm::{Simd, fence, streams};
use crate::isa::simd;
use crate::map::{Number, no_bytes};
use crate::{Bf16, CHUNK, Ctx, Isa, Map, MapMut, multiversion};

/// Floats of scratch for [`statistics`] and [`backward_sums`].
pub fn scratch_len(rows: usize, c: usize) -> usize {
    shards(rows, c).1 * 2 * c
}

/// Where the statistics of a batch go; all `[c]`.
pub struct Statistics<'a> {
    /// Mean of the batch.
    pub mean: &'a mut [f32],
    /// `1 / sqrt(variance + epsilon)`, variance biased.
    pub invstd: &'a mut [f32],
    /// Running mean, moved by `momentum · (batch − running)`.
    pub running_mean: &'a mut [f32],
    /// Running variance (unbiased), likewise.
    pub running_var: &'a mut [f32],
}

impl Statistics<'_> {
    /// Of channel `i`, from the sums over `rows` of differences to a number and of their squares.
    fn set(
        &mut self,
        i: usize,
        rows: f64,
        [sum, square]: [f64; 2],
        from: f64,
        (momentum, epsilon): (f32, f32),
    ) {
        let shifted = sum / rows;
        let var = (square / rows - shifted * shifted).max(0.0);
        let mean = shifted + from;
        self.mean[i] = mean as f32;
        self.invstd[i] = (1.0 / (var + f64::from(epsilon)).sqrt()) as f32;
        let unbiased = if rows > 1.0 { var * rows / (rows - 1.0) } else { var };
        self.running_mean[i] += momentum * (mean as f32 - self.running_mean[i]);
        self.running_var[i] += momentum * (unbiased as f32 - self.running_var[i]);
    }
}

/// Mean and variance of `x [rows, c]` per channel. Sums are taken of differences to the first row,
/// so that a large mean costs no precision; shards in f32, merged in f64.
pub fn statistics<'a>(
    cx: Ctx,
    x: impl Into<Map<'a>>,
    s: Statistics,
    momentum: f32,
    epsilon: f32,
    scratch: &mut [f32],
) {
    match x.into() {
        Map::Full(x) => statistics_of(cx, x, s, momentum, epsilon, scratch),
        Map::Half(x) => statistics_of(cx, x, s, momentum, epsilon, scratch),
        Map::Bytes(..) => no_bytes(),
    }
}

fn statistics_of<N: Number>(
    cx: Ctx,
    x: &[N],
    mut s: Statistics,
    momentum: f32,
    epsilon: f32,
    scratch: &mut [f32],
) {
    let c = s.mean.len();
    let rows = x.len() / c;
    let (per_shard, count) = shards(rows, c);
    let partial = &mut scratch[..count * 2 * c];
    cx.pool.for_chunks_mut(partial, 2 * c, |i, sums, _| {
        let from = (i * per_shard).min(rows);
        let to = (from + per_shard).min(rows);
        let (part, first) = (&x[from * c..to * c], &x[..c]);
        // SAFETY: all slices are whole rows of `c` (sums: two).
        unsafe { simd!(cx.isa, sums_body::<N>(part: &[N], first: &[N], sums: &mut [f32])) };
    });
    each_sum(partial, c, |i, sums| {
        s.set(i, rows as f64, sums, f64::from(x[i].get()), (momentum, epsilon));
    });
}

/// Merges `partial [shards, 2, c]` in order, in f64: `f(channel, both sums)`.
fn each_sum(partial: &[f32], c: usize, mut f: impl FnMut(usize, [f64; 2])) {
    const WIDTH: usize = 32;
    for at in (0..c).step_by(WIDTH) {
        let width = WIDTH.min(c - at);
        let mut sums = [[0.0; WIDTH]; 2];
        for shard in partial.chunks_exact(2 * c) {
            for (k, sums) in sums.iter_mut().enumerate() {
                for (s, &p) in sums.iter_mut().zip(&shard[k * c + at..][..width]) {
                    *s += f64::from(p);
                }
            }
        }
        for i in 0..width {
            f(at + i, [sums[0][i], sums[1][i]]);
        }
    }
}

/// Rows of `c` channels that are gone through side by side, so that what is the same for all is read once; but long ones
/// one by one: memory is fast where it is read as it lies. Loops count by themselves: `step_by` would divide each time.
fn together(c: usize) -> usize {
    (256 / c).clamp(1, 8)
}

/// `sums [2, c]`: of `x − first` and of its square.
#[inline(always)]
unsafe fn sums_body<S: Simd, N: Number>(x: &[N], first: &[N], sums: &mut [f32]) {
    let c = first.len();
    sums.fill(0.0);
    // SAFETY: lanes stay below `c`, rows within `x`.
    unsafe {
        for rows in x.chunks(together(c) * c) {
            each_lanes::<S>(c, |at, m| {
                let shift = N::load::<S>(first.as_ptr().add(at), m);
                let mut both = Both::<S>::load(sums, at, m);
                let mut i = at;
                while i < rows.len() {
                    let d = S::sub(N::load::<S>(rows.as_ptr().add(i), m), shift);
                    both.add(d, (d, d));
                    i += c;
                }
                both.store(sums, at, m);
            });
        }
    }
}

/// A vector of both rows of `sums [2, c]`.
pub(crate) struct Both<S: Simd> {
    sum: S::V,
    product: S::V,
}

impl<S: Simd> Both<S> {
    #[inline(always)]
    pub unsafe fn zero() -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe { Both { sum: S::splat(0.0), product: S::splat(0.0) } }
    }

    #[inline(always)]
    pub unsafe fn load(sums: &[f32], at: usize, m: S::M) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let c = sums.len() / 2;
            Self::load_part(sums.as_ptr().wrapping_add(at), c, (m, at + S::LANES <= c))
        }
    }

    /// Those of the mask, which may be all, at `sum` and in a row `c` further on. What was stored with a mask is not read
    /// back before it has reached the cache.
    #[inline(always)]
    pub unsafe fn load_part(sum: *const f32, c: usize, (m, all): (S::M, bool)) -> Self {
        let product = sum.wrapping_add(c);
        // SAFETY: the caller's lanes lie within both rows.
        unsafe {
            match all {
                true => Both { sum: S::load(sum), product: S::load(product) },
                false => Both { sum: S::load_first(sum, m), product: S::load_first(product, m) },
            }
        }
    }

    /// Adds `v` to the one and `a · b` to the other.
    #[inline(always)]
    pub unsafe fn add(&mut self, v: S::V, (a, b): (S::V, S::V)) {
        // SAFETY: the caller has the instruction set.
        unsafe {
            self.sum = S::add(self.sum, v);
            self.product = S::fma(a, b, self.product);
        }
    }

    /// Adds others to both.
    #[inline(always)]
    pub unsafe fn join(&mut self, other: Self) {
        // SAFETY: the caller has the instruction set.
        unsafe {
            self.sum = S::add(self.sum, other.sum);
            self.product = S::add(self.product, other.product);
        }
    }

    #[inline(always)]
    pub unsafe fn store(self, sums: &mut [f32], at: usize, m: S::M) {
        let c = sums.len() / 2;
        // SAFETY: the caller's.
        unsafe {
            self.store_part(sums.as_mut_ptr().wrapping_add(at), c, (m, at + S::LANES <= c));
        }
    }

    /// Where [`Both::load_part`] finds them.
    #[inline(always)]
    pub unsafe fn store_part(self, sum: *mut f32, c: usize, (m, all): (S::M, bool)) {
        let product = sum.wrapping_add(c);
        // SAFETY: as in `load_part`.
        unsafe {
            match all {
                true => {
                    S::store(sum, self.sum);
                    S::store(product, self.product);
                }
                false => {
                    S::store_first(sum, self.sum, m);
                    S::store_first(product, self.product, m);
                }
            }
        }
    }
}

/// Calls `f(first lane, mask)` for every vector of a row of `c` numbers.
#[inline(always)]
unsafe fn each_lanes<S: Simd>(c: usize, mut f: impl FnMut(usize, S::M)) {
    let mut at = 0;
    while at < c {
        // SAFETY: the caller has the instruction set.
        f(at, unsafe { S::mask((c - at).min(S::LANES)) });
        at += S::LANES;
    }
}

/// `scale = gamma · invstd`, `shift = beta − mean · scale`, all `[c]`.
pub fn scale_shift(
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    invstd: &[f32],
    scale: &mut [f32],
    shift: &mut [f32],
) {
    for i in 0..gamma.len() {
        scale[i] = gamma[i] * invstd[i];
        shift[i] = beta[i] - mean[i] * scale[i];
    }
}

/// `y [rows, c] = clamp(x · scale + shift (+ residual))`; all maps are of one kind.
pub fn apply<'a>(
    cx: Ctx,
    x: impl Into<Map<'a>>,
    scale: &[f32],
    shift: &[f32],
    residual: Option<Map<'a>>,
    clamp: Option<(f32, f32)>,
    y: impl Into<MapMut<'a>>,
) {
    let x = x.into();
    match y.into() {
        MapMut::Full(y) => {
            apply_of(cx, f32::of(x), scale, shift, residual.map(f32::of), clamp, y);
        }
        MapMut::Half(y) => {
            apply_of(cx, Bf16::of(x), scale, shift, residual.map(Bf16::of), clamp, y);
        }
        MapMut::Bytes(..) => no_bytes(),
    }
}

fn apply_of<N: Number>(
    cx: Ctx,
    x: &[N],
    scale: &[f32],
    shift: &[f32],
    residual: Option<&[N]>,
    clamp: Option<(f32, f32)>,
    y: &mut [N],
) {
    let c = scale.len();
    assert!(x.len() == y.len() && x.len().is_multiple_of(c) && shift.len() == c, "lengths differ");
    let block = (CHUNK / c).max(1) * c;
    let stream = streams(y.as_ptr(), y.len(), c);
    cx.pool.for_chunks_mut(y, block, |i, y, _| {
        let range = i * block..i * block + y.len();
        let x = &x[range.clone()];
        let residual = residual.map(|r| &r[range]);
        // SAFETY: all slices are whole rows of `c`.
        unsafe {
            simd!(cx.isa, apply_body::<N, Y>(x: &[N], scale: &[f32], shift: &[f32], residual: Option<&[N]>,
                clamp: Option<(f32, f32)>, y: &mut [Y], stream: bool))
        };
        if stream {
            fence();
        }
    });
}

#[inline(always)]
unsafe fn apply_body<S: Simd, N: Number, Y: Number>(
    x: &[N],
    scale: &[f32],
    shift: &[f32],
    residual: Option<&[N]>,
    clamp: Option<(f32, f32)>,
    y: &mut [Y],
    stream: bool,
) {
    let c = scale.len();
    let (lo, hi) = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    // SAFETY: offsets stay within whole rows.
    unsafe {
        let (lo, hi) = (S::splat(lo), S::splat(hi));
        for first in (0..x.len()).step_by(together(c) * c) {
            let end = x.len().min(first + together(c) * c);
            // No closure: called from two places, it would not be compiled for the instruction set.
            for at in (0..c).step_by(S::LANES) {
                let m = S::mask((c - at).min(S::LANES));
                let scale = S::load_first(scale.as_ptr().add(at), m);
                let shift = S::load_first(shift.as_ptr().add(at), m);
                let mut i = first + at;
                while i < end {
                    let v = S::fma(N::load::<S>(x.as_ptr().add(i), m), scale, shift);
                    let v = match residual {
                        Some(z) => S::add(v, N::load::<S>(z.as_ptr().add(i), m)),
                        None => v,
                    };
                    let (y, v) = (y.as_mut_ptr().add(i), S::clamp(v, lo, hi));
                    if stream {
                        Y::stream::<S>(y, v)
                    } else {
                        Y::store::<S>(y, v, m)
                    }
                    i += c;
                }
            }
        }
    }
}

/// A norm and a clamp that the reader of a map applies: what it sees is `clamp(x · scale + shift)`, which
/// is then never written to main memory.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// As in [`apply`].
    pub scale: &'a [f32],
    /// As in [`apply`].
    pub shift: &'a [f32],
    /// Lower and upper bound.
    pub clamp: (f32, f32),
}

impl Pending<'_> {
    /// `out = clamp(x · scale + shift)` for whole pixels, as [`apply`] computes it.
    pub(crate) fn copy<N: Number>(self, isa: Isa, x: &[N], out: &mut [f32]) {
        assert!(
            x.len() == out.len() && x.len().is_multiple_of(self.scale.len()),
            "not whole pixels"
        );
        let (scale, shift, clamp) = (self.scale, &self.shift[..self.scale.len()], Some(self.clamp));
        let (residual, stream) = (None, false);
        // SAFETY: all slices are whole rows of `c`.
        unsafe {
            simd!(isa, apply_body::<N, Y>(x: &[N], scale: &[f32], shift: &[f32], residual: Option<&[N]>,
                clamp: Option<(f32, f32)>, out: &mut [Y], stream: bool))
        };
    }
}

/// What a vector of channels of the input is seen through.
#[derive(Clone, Copy)]
pub(crate) struct Look<S: Simd, const NORM: bool> {
    pub m: S::M,
    /// Scale, shift and bounds of the norm.
    norm: [S::V; 4],
    /// The integer of zero.
    zero: S::V,
}

impl<S: Simd, const NORM: bool> Look<S, NORM> {
    #[inline(always)]
    pub unsafe fn new(norm: Option<Pending>, zero: f32, at: usize, m: S::M) -> Self {
        // SAFETY: the caller has the instruction set; a norm has a number for every channel.
        unsafe {
            let zero = S::splat(zero);
            let norm = match norm.filter(|_| NORM) {
                None => [S::splat(0.0); 4],
                Some(Pending { scale, shift, clamp: (lo, hi) }) => [
                    S::load_first(scale.as_ptr().add(at), m),
                    S::load_first(shift.as_ptr().add(at), m),
                    S::splat(lo),
                    S::splat(hi),
                ],
            };
            Look { m, norm, zero }
        }
    }

    /// The numbers at `p`.
    #[inline(always)]
    pub unsafe fn at<N: Number>(&self, p: *const N) -> S::V {
        let [scale, shift, lo, hi] = self.norm;
        // SAFETY: the caller has the numbers that the mask selects.
        unsafe {
            let v = N::load::<S>(p, self.m);
            if N::INTEGERS {
                return S::sub(v, self.zero);
            }
            if NORM { S::clamp(S::fma(v, scale, shift), lo, hi) } else { v }
        }
    }
}

/// A map to read, perhaps with a norm to apply.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The map `[n, h, w, c]`.
    pub x: Map<'a>,
    /// Its norm.
    pub norm: Option<Pending<'a>>,
}

impl<'a, M: Into<Map<'a>>> From<M> for Source<'a> {
    fn from(x: M) -> Self {
        Source { x: x.into(), norm: None }
    }
}

impl Source<'_> {
    /// `out` = the numbers of a range of whole pixels.
    pub(crate) fn copy(self, isa: Isa, range: std::ops::Range<usize>, out: &mut [f32]) {
        match (self.norm, self.x.part(range)) {
            (Some(norm), Map::Full(x)) => norm.copy(isa, x, out),
            (Some(norm), Map::Half(x)) => norm.copy(isa, x, out),
            (None, Map::Full(x)) => out.copy_from_slice(x),
            (None, Map::Half(x)) => {
                multiversion!(isa, widen(x: &[Bf16], out: &mut [f32]));
            }
            (_, Map::Bytes(..)) => no_bytes(),
        }
    }
}

#[inline(always)]
fn widen(x: &[Bf16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.get();
    }
}
