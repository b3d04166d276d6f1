//! The way back through a norm and what followed it.

use super::{Both, Pending, each_lanes, each_sum, slopes, together};
use crate::elementwise::shards;
use crate::gemm::{Simd, fence, streams};
use crate::isa::simd;
use crate::map::{Number, no_bytes};
use crate::{Bf16, CHUNK, Ctx, Map, MapMut, SharedMut};

/// How the gradient of a clamped output is masked: it passes where the output lies between 0 and `max`.
#[derive(Debug, Clone, Copy)]
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
        /// As in [`super::apply`].
        scale: &'a [f32],
        /// As in [`super::apply`].
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
#[derive(Debug, Clone, Copy)]
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
        MapMut::Bytes(..) => no_bytes(),
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
    SumsOf { mean: s.mean, invstd: s.invstd, dgamma, dbeta }.finish(partial);
}

/// The sums of [`backward_sums`] where the call that writes the gradient of a [`Pending`] norm makes them on the way. It
/// masks the gradient that it writes: for [`backward_data`] that is one without a clamp. All are `[c]`.
pub struct SumsOf<'a> {
    /// As in [`Saved`].
    pub mean: &'a [f32],
    /// As in [`Saved`].
    pub invstd: &'a [f32],
    /// As in [`backward_sums`].
    pub dgamma: &'a mut [f32],
    /// As in [`backward_sums`].
    pub dbeta: &'a mut [f32],
}

impl SumsOf<'_> {
    /// Merges `partial [shards, 2, c]`, what [`Masking::mask`] added up.
    pub(crate) fn finish(mut self, partial: &[f32]) {
        each_sum(partial, self.mean.len(), |i, both| self.set(i, both));
    }

    /// Those of channel `i`, from both sums.
    pub(super) fn set(&mut self, i: usize, [sum, product]: [f64; 2]) {
        self.dbeta[i] = sum as f32;
        self.dgamma[i] = (product * f64::from(self.invstd[i])) as f32;
    }
}

/// A vector of channels of a pending norm whose gradient is being written.
pub(crate) struct Masking<S: Simd> {
    scale: S::V,
    shift: S::V,
    lo: S::V,
    hi: S::V,
    mean: S::V,
}

impl<S: Simd> Masking<S> {
    #[inline(always)]
    pub unsafe fn new(norm: Pending, mean: &[f32], at: usize, m: S::M) -> Self {
        let (scale, shift) = (norm.scale.as_ptr(), norm.shift.as_ptr());
        // SAFETY: the caller has the instruction set; a norm has a number for every channel.
        unsafe {
            Masking {
                scale: S::load_first(scale.add(at), m),
                shift: S::load_first(shift.add(at), m),
                lo: S::splat(norm.clamp.0),
                hi: S::splat(norm.clamp.1),
                mean: S::load_first(mean.as_ptr().add(at), m),
            }
        }
    }

    /// The gradient `g` as the clamp lets it through at an input `x` of the norm; adds it to the sums.
    #[inline(always)]
    pub unsafe fn mask(&self, g: S::V, x: S::V, sums: &mut Both<S>) -> S::V {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let y = S::fma(x, self.scale, self.shift);
            let g = S::keep_between(g, y, self.lo, self.hi);
            sums.add(g, (g, S::sub(x, self.mean)));
            g
        }
    }
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
                let mut both = Both::<S>::load(sums, at, m);
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
        MapMut::Bytes(..) => no_bytes(),
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
    slopes(rows, [s.mean, s.invstd, s.gamma], [dgamma, dbeta], [&mut *a, &mut *b, &mut *k]);
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
