//! Batch normalisation over rows: `x [rows, c]`, statistics per channel.

use crate::elementwise::shards;
use crate::gemm::{Simd, fence, streams};
use crate::isa::simd;
use crate::map::Number;
use crate::{Bf16, CHUNK, Ctx, Isa, Map, MapMut, SharedMut, multiversion};

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
    }
}

fn statistics_of<N: Number>(
    cx: Ctx,
    x: &[N],
    s: Statistics,
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
    let n = rows as f64;
    each_sum(partial, c, |i, [sum, square]| {
        let shifted = sum / n;
        let var = (square / n - shifted * shifted).max(0.0);
        let mean = shifted + f64::from(x[i].get());
        s.mean[i] = mean as f32;
        s.invstd[i] = (1.0 / (var + f64::from(epsilon)).sqrt()) as f32;
        let unbiased = if rows > 1 { var * n / (n - 1.0) } else { var };
        s.running_mean[i] += momentum * (mean as f32 - s.running_mean[i]);
        s.running_var[i] += momentum * (unbiased as f32 - s.running_var[i]);
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
                let mut both = Sums::<S>::load(sums, at, m);
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
struct Sums<S: Simd> {
    sum: S::V,
    product: S::V,
}

impl<S: Simd> Sums<S> {
    #[inline(always)]
    unsafe fn load(sums: &[f32], at: usize, m: S::M) -> Self {
        let c = sums.len() / 2;
        let (sum, product) = (sums.as_ptr().wrapping_add(at), sums.as_ptr().wrapping_add(c + at));
        // SAFETY: the caller's lanes lie within both rows. What was stored with a mask is not read back before it has
        // reached the cache.
        unsafe {
            match at + S::LANES <= c {
                true => Sums { sum: S::load(sum), product: S::load(product) },
                false => Sums { sum: S::load_first(sum, m), product: S::load_first(product, m) },
            }
        }
    }

    /// Adds `v` to the one and `a · b` to the other.
    #[inline(always)]
    unsafe fn add(&mut self, v: S::V, (a, b): (S::V, S::V)) {
        // SAFETY: the caller has the instruction set.
        unsafe {
            self.sum = S::add(self.sum, v);
            self.product = S::fma(a, b, self.product);
        }
    }

    #[inline(always)]
    unsafe fn store(self, sums: &mut [f32], at: usize, m: S::M) {
        let c = sums.len() / 2;
        let sums = sums.as_mut_ptr();
        let (sum, product) = (sums.wrapping_add(at), sums.wrapping_add(c + at));
        // SAFETY: as in `load`.
        unsafe {
            match at + S::LANES <= c {
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
        }
    }
}

#[inline(always)]
fn widen(x: &[Bf16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.get();
    }
}

/// How the gradient of a clamped output is masked: it passes where the output lies between 0 and `max`.
#[derive(Clone, Copy)]
pub enum Clamped<'a> {
    /// There was no clamp.
    No,
    /// By the output `y [rows, c]`; the masked gradient takes the place of `dy`.
    Output {
        /// The output.
        y: Map<'a>,
        /// Its upper bound.
        max: f32,
    },
    /// By the output computed anew, `x · scale + shift`, which spares reading it; `dy` stays as it is
    /// and both passes mask.
    Anew {
        /// As in [`apply`].
        scale: &'a [f32],
        /// As in [`apply`].
        shift: &'a [f32],
        /// The upper bound.
        max: f32,
    },
}

impl<'a> Clamped<'a> {
    fn rows(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Clamped::Output { y, max } => Clamped::Output { y: y.part(range), max },
            other => other,
        }
    }
}

/// What backward needs of forward.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// Input of the norm `[rows, c]`, of the gradient's kind.
    pub x: Map<'a>,
    /// What followed.
    pub clamped: Clamped<'a>,
    /// Mean of the batch.
    pub mean: &'a [f32],
    /// `1 / sqrt(variance + epsilon)`.
    pub invstd: &'a [f32],
    /// Weight.
    pub gamma: &'a [f32],
}

/// First pass: masks `dy` where the clamp stood at a bound, and sums `dbeta = Σ dy` and
/// `dgamma = Σ dy · (x − mean) · invstd`.
pub fn backward_sums<'a>(
    cx: Ctx,
    s: Saved,
    dy: impl Into<MapMut<'a>>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    scratch: &mut [f32],
) {
    match dy.into() {
        MapMut::Full(dy) => backward_sums_of(cx, s, dy, dgamma, dbeta, scratch),
        MapMut::Half(dy) => backward_sums_of(cx, s, dy, dgamma, dbeta, scratch),
    }
}

fn backward_sums_of<N: Number>(
    cx: Ctx,
    s: Saved,
    dy: &mut [N],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    scratch: &mut [f32],
) {
    let c = s.mean.len();
    let rows = dy.len() / c;
    let (per_shard, count) = shards(rows, c);
    let partial = &mut scratch[..count * 2 * c];
    let gradients = SharedMut::new(dy);
    cx.pool.for_chunks_mut(partial, 2 * c, |i, sums, _| {
        let from = (i * per_shard).min(rows);
        let to = (from + per_shard).min(rows);
        // SAFETY: shards are disjoint.
        let dy = unsafe { gradients.slice(from * c..to * c) };
        let part =
            Saved { x: s.x.part(from * c..to * c), clamped: s.clamped.rows(from * c..to * c), ..s };
        // SAFETY: all slices are whole rows of `c` (sums: two).
        unsafe {
            simd!(cx.isa, backward_sums_body::<N>(part: Saved, dy: &mut [N], sums: &mut [f32]))
        };
    });
    each_sum(partial, c, |i, [sum, product]| {
        dbeta[i] = sum as f32;
        dgamma[i] = (product * f64::from(s.invstd[i])) as f32;
    });
}

#[inline(always)]
unsafe fn backward_sums_body<S: Simd, N: Number>(s: Saved, dy: &mut [N], sums: &mut [f32]) {
    // SAFETY: the caller's contract; each gradient is masked before it is summed.
    unsafe {
        let zero = S::splat(0.0);
        match s.clamped {
            Clamped::No => sums_of::<S, N>(s, dy, sums, |_, _, m, g, _| N::load::<S>(g, m)),
            Clamped::Output { y, max } => {
                let (y, max) = (N::of(y), S::splat(max));
                sums_of::<S, N>(s, dy, sums, |i, _, m, g, _| {
                    let y = N::load::<S>(y.as_ptr().add(i), m);
                    let masked = S::keep_between(N::load::<S>(g, m), y, zero, max);
                    N::store::<S>(g, masked, m);
                    masked
                })
            }
            Clamped::Anew { scale, shift, max } => {
                let max = S::splat(max);
                sums_of::<S, N>(s, dy, sums, |_, at, m, g, x| {
                    let (scale, shift) = (scale.as_ptr().add(at), shift.as_ptr().add(at));
                    let y = S::fma(x, S::load_first(scale, m), S::load_first(shift, m));
                    S::keep_between(N::load::<S>(g, m), y, zero, max)
                })
            }
        }
    }
}

/// The sums of [`backward_sums`]; `masked(number, channel, mask, gradient, x)` is a masked gradient.
#[inline(always)]
unsafe fn sums_of<S: Simd, N: Number>(
    s: Saved,
    dy: &mut [N],
    sums: &mut [f32],
    mut masked: impl FnMut(usize, usize, S::M, *mut N, S::V) -> S::V,
) {
    let (c, x) = (s.mean.len(), N::of(s.x));
    sums.fill(0.0);
    // SAFETY: offsets stay within whole rows.
    unsafe {
        for first in (0..dy.len()).step_by(together(c) * c) {
            let end = dy.len().min(first + together(c) * c);
            each_lanes::<S>(c, |at, m| {
                let mean = S::load_first(s.mean.as_ptr().add(at), m);
                let mut both = Sums::<S>::load(sums, at, m);
                let mut i = first + at;
                while i < end {
                    let x = N::load::<S>(x.as_ptr().add(i), m);
                    let g = masked(i, at, m, dy.as_mut_ptr().add(i), x);
                    both.add(g, (g, S::sub(x, mean)));
                    i += c;
                }
                both.store(sums, at, m);
            });
        }
    }
}

/// Second pass: `dx = gamma · invstd · (dy − dbeta / rows − (x − mean) · invstd · dgamma / rows)`,
/// as `a · dy + b · x + k` per channel. Without `dx`, `dy` is overwritten in place.
pub fn backward_data<'a>(
    cx: Ctx,
    s: Saved,
    dy: impl Into<MapMut<'a>>,
    dgamma: &[f32],
    dbeta: &[f32],
    dx: Option<MapMut<'a>>,
    scratch: &mut [f32],
) {
    match dy.into() {
        MapMut::Full(dy) => {
            backward_data_of(cx, s, dy, dgamma, dbeta, dx.map(f32::of_mut), scratch);
        }
        MapMut::Half(dy) => {
            backward_data_of(cx, s, dy, dgamma, dbeta, dx.map(Bf16::of_mut), scratch);
        }
    }
}

fn backward_data_of<N: Number>(
    cx: Ctx,
    s: Saved,
    dy: &mut [N],
    dgamma: &[f32],
    dbeta: &[f32],
    dx: Option<&mut [N]>,
    scratch: &mut [f32],
) {
    let c = s.mean.len();
    let rows = dy.len() / c;
    let (a, rest) = scratch.split_at_mut(c);
    let (b, rest) = rest.split_at_mut(c);
    let k = &mut rest[..c];
    let n = rows as f64;
    for i in 0..c {
        let invstd = f64::from(s.invstd[i]);
        let scale = f64::from(s.gamma[i]) * invstd;
        let slope = -scale * invstd * f64::from(dgamma[i]) / n;
        a[i] = scale as f32;
        b[i] = slope as f32;
        k[i] = (-scale * f64::from(dbeta[i]) / n - slope * f64::from(s.mean[i])) as f32;
    }
    let coefficients = [&*a, &*b, &*k];
    let x = N::of(s.x);
    let block = (CHUNK / c).max(1) * c;
    let len = dy.len();
    let stream = dx.as_ref().is_some_and(|dx| streams(dx.as_ptr(), len, c));
    let dy = SharedMut::new(dy);
    let out = dx.map(|dx| {
        assert_eq!(dx.len(), len, "lengths differ");
        SharedMut::new(dx)
    });
    cx.pool.run(len.div_ceil(block), &|i, _| {
        let range = i * block..((i + 1) * block).min(len);
        let (x, clamped) = (&x[range.clone()], s.clamped);
        // SAFETY: blocks are disjoint.
        let (dy, dx) = unsafe {
            let dx = out.as_ref().map(|o| o.slice(range.clone()).as_mut_ptr());
            let dy = dy.slice(range).as_mut_ptr();
            (dy.cast_const(), dx.unwrap_or(dy))
        };
        // SAFETY: `dy` and `dx` hold as many numbers as `x`, whole rows of `c`; where they are the same
        // place, each number is read before it is written.
        unsafe {
            simd!(cx.isa, data_body::<N>(x: &[N], dy: *const N, coefficients: [&[f32]; 3], clamped: Clamped, dx: *mut N, stream: bool))
        };
        if stream {
            fence();
        }
    });
}

#[inline(always)]
unsafe fn data_body<S: Simd, N: Number>(
    x: &[N],
    dy: *const N,
    coefficients: [&[f32]; 3],
    clamped: Clamped,
    dx: *mut N,
    stream: bool,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match clamped {
            Clamped::Anew { scale, shift, max } => {
                let (zero, max) = (S::splat(0.0), S::splat(max));
                data_of::<S, N>(x, dy, coefficients, (dx, stream), |at, m, g, x| {
                    let (scale, shift) = (scale.as_ptr().add(at), shift.as_ptr().add(at));
                    let y = S::fma(x, S::load_first(scale, m), S::load_first(shift, m));
                    S::keep_between(g, y, zero, max)
                })
            }
            _ => data_of::<S, N>(x, dy, coefficients, (dx, stream), |_, _, g, _| g),
        }
    }
}

#[inline(always)]
unsafe fn data_of<S: Simd, N: Number>(
    x: &[N],
    dy: *const N,
    [a, b, k]: [&[f32]; 3],
    (dx, stream): (*mut N, bool),
    masked: impl Fn(usize, S::M, S::V, S::V) -> S::V,
) {
    let c = a.len();
    // SAFETY: offsets stay within whole rows.
    unsafe {
        for first in (0..x.len()).step_by(together(c) * c) {
            let end = x.len().min(first + together(c) * c);
            each_lanes::<S>(c, |at, m| {
                let load = |p: &[f32]| S::load_first(p.as_ptr().add(at), m);
                let (a, b, k) = (load(a), load(b), load(k));
                let mut i = first + at;
                while i < end {
                    let x = N::load::<S>(x.as_ptr().add(i), m);
                    let g = masked(at, m, N::load::<S>(dy.add(i), m), x);
                    let v = S::fma(g, a, S::fma(x, b, k));
                    match stream {
                        true => N::stream::<S>(dx.add(i), v),
                        false => N::store::<S>(dx.add(i), v, m),
                    }
                    i += c;
                }
            });
        }
    }
}
