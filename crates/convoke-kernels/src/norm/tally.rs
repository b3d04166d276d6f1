//! Sums over the rows of a map, per channel, that are made by who writes the map, while its numbers are at hand: what a
//! norm needs to know of its input, and of the gradient of its output.
//!
//! The writer cuts the rows into shards, by shape alone, and sums each in an order of its own; shards are added in
//! order, in f64. So no bit depends on the number of threads.

use super::{Both, Masking, Pending, Source, Statistics, SumsOf};
use crate::gemm::Simd;
use crate::isa::simd;
use crate::map::Number;
use crate::{Isa, Map, multiversion};
use std::marker::PhantomData;

/// Rows of a shard: sums of values and of products, and what the values are taken relative to.
const ROWS: usize = 3;

/// Floats of space for so many shards of `c` channels.
pub fn space_len(shards: usize, c: usize) -> usize {
    shards * (1 + ROWS * c)
}

/// What is summed.
#[derive(Debug, Clone, Copy)]
enum Of<'a> {
    /// Differences to the first row of the shard, and their squares.
    Statistics,
    /// Masked gradients, and their products with the input `x` of the norm less its mean.
    Gradient { x: Map<'a>, norm: Pending<'a>, mean: &'a [f32] },
}

/// Sums over a map `[rows, c]` that is being written.
#[derive(Debug)]
pub struct Tally<'a> {
    of: Of<'a>,
    c: usize,
    shards: usize,
    /// Rows of each shard, then sums `[shard][ROWS][c]`.
    space: *mut f32,
    life: PhantomData<&'a ()>,
}

// SAFETY: who writes a map keeps its shards, or parts of their channels, apart.
unsafe impl Sync for Tally<'_> {}
// SAFETY: as above.
unsafe impl Send for Tally<'_> {}

impl<'a> Tally<'a> {
    /// For [`Statistics`] of a map of `c` channels, in `space` of [`space_len`].
    pub fn statistics(shards: usize, c: usize, space: &'a mut [f32]) -> Self {
        Self::new(Of::Statistics, shards, c, space)
    }

    /// For what [`super::backward_sums`] sums of the gradient of a pending norm, of `mean [c]`. The gradient that is
    /// written is masked: for [`super::backward_data`] it is one without a clamp.
    ///
    /// # Panics
    /// When the source has no norm.
    pub fn gradient(
        shards: usize,
        source: Source<'a>,
        mean: &'a [f32],
        space: &'a mut [f32],
    ) -> Self {
        let norm = source.norm.expect("a source with a norm");
        let (x, c) = (source.x, mean.len());
        assert!(norm.scale.len() == c && norm.shift.len() == c, "lengths differ");
        Self::new(Of::Gradient { x, norm, mean }, shards, c, space)
    }

    fn new(of: Of<'a>, shards: usize, c: usize, space: &'a mut [f32]) -> Self {
        assert!(space.len() >= space_len(shards, c), "space is too short");
        space[..shards].fill(0.0);
        Tally { of, c, shards, space: space.as_mut_ptr(), life: PhantomData }
    }

    /// Whether it is of a map `[rows, c]` in up to so many shards.
    pub(crate) fn fits(&self, rows: usize, c: usize, shards: usize) -> bool {
        let known = match self.of {
            Of::Statistics => true,
            Of::Gradient { x, .. } => x.len() >= rows * c,
        };
        known && self.c == c && shards <= self.shards
    }

    /// Says how many rows a shard has.
    ///
    /// # Safety
    /// Nobody else says so at once; the shard is one of them.
    pub(crate) unsafe fn count(&self, shard: usize, rows: usize) {
        // SAFETY: within the space.
        unsafe { *self.space.add(shard) = rows as f32 };
    }

    /// Sums outputs, and writes them to the map if they are not there.
    ///
    /// # Safety
    /// Outputs, map and shard are as the strip says, and the channels of the shard are the caller's.
    pub(crate) unsafe fn strip<N: Number>(&self, isa: Isa, strip: &Strip<N>) {
        let tally = self;
        // SAFETY: the caller's.
        unsafe { simd!(isa, strip_body::<N>(tally: &Tally, strip: &Strip<N>)) };
    }
}

/// Some rows and channels of a map that a tile has made.
#[derive(Clone, Copy)]
pub(crate) struct Strip<N> {
    /// Where they lie, and numbers from one row to the next.
    pub from: *const N,
    pub from_row: usize,
    /// Where they belong, the same place or past the caches, and numbers from one row to the next.
    pub to: *mut N,
    pub to_row: usize,
    /// The first row of the map, and how many there are.
    pub row: usize,
    pub rows: usize,
    /// The first channel, and how many.
    pub channel: usize,
    pub channels: usize,
    pub shard: usize,
    /// Whether the shard begins here.
    pub first: bool,
}

impl<N: Number> Strip<N> {
    /// Whether rows belong elsewhere: past the caches.
    #[inline(always)]
    fn moves(&self) -> bool {
        !std::ptr::eq(self.from, self.to)
    }

    /// Writes some channels of a row where they belong.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, row: usize, at: usize, v: S::V, (m, whole): (S::M, bool)) {
        // SAFETY: the caller's; where rows move, they are whole cache lines apart.
        unsafe {
            let to = self.to.add(row * self.to_row + at - self.channel);
            match whole {
                true if self.moves() => N::stream::<S>(to, v),
                true => N::store_all::<S>(to, v),
                false => N::store::<S>(to, v, m),
            }
        }
    }
}

#[inline(always)]
unsafe fn strip_body<S: Simd, N: Number>(tally: &Tally, s: &Strip<N>) {
    let c = tally.c;
    // SAFETY: the caller's shard; channels lie below `c`.
    unsafe {
        let sums = tally.space.add(tally.shards + s.shard * ROWS * c);
        let mut at = s.channel;
        while at < s.channel + s.channels {
            let m = S::mask((s.channel + s.channels - at).min(S::LANES));
            match tally.of {
                Of::Statistics => differences::<S, N>(s, (sums.add(at), c), at, m),
                Of::Gradient { x, norm, mean } => {
                    let masking = Masking::<S>::new(norm, mean, at, m);
                    gradients::<S, N>(s, N::of(x), masking, (sums.add(at), c), at, m);
                }
            }
            at += S::LANES;
        }
    }
}

/// Sums a vector of channels, from channel `at` on; the first row of the shard is what they are taken relative to.
#[inline(always)]
unsafe fn differences<S: Simd, N: Number>(
    s: &Strip<N>,
    (both, c): (*mut f32, usize),
    at: usize,
    m: S::M,
) {
    let whole = at + S::LANES <= s.channel + s.channels;
    // SAFETY: the caller's.
    unsafe {
        let mut from = s.from.add(at - s.channel);
        let middles = both.add(2 * c);
        let middle = match s.first {
            true => N::load::<S>(from, m),
            false => S::load_first(middles, m),
        };
        let mut sums =
            if s.first { Both::<S>::zero() } else { Both::<S>::load_part(both, c, (m, whole)) };
        for row in 0..s.rows {
            let v = N::load::<S>(from, m);
            let d = S::sub(v, middle);
            sums.add(d, (d, d));
            if s.moves() {
                s.put::<S>(row, at, v, (m, whole));
            }
            from = from.wrapping_add(s.from_row);
        }
        sums.store_part(both, c, (m, whole));
        S::store_first(middles, middle, m);
    }
}

/// Rows ahead of which the norm's input is asked for: those of the next strip.
const AHEAD: usize = 14;

/// Masks and sums a vector of channels, from channel `at` on.
#[inline(always)]
unsafe fn gradients<S: Simd, N: Number>(
    s: &Strip<N>,
    x: &[N],
    masking: Masking<S>,
    (both, c): (*mut f32, usize),
    at: usize,
    m: S::M,
) {
    let whole = at + S::LANES <= s.channel + s.channels;
    // SAFETY: the caller's.
    unsafe {
        let mut from = s.from.add(at - s.channel);
        let mut x = x.as_ptr().add(s.row * c + at);
        let mut sums =
            if s.first { Both::<S>::zero() } else { Both::<S>::load_part(both, c, (m, whole)) };
        for row in 0..s.rows {
            let v = N::load::<S>(from, m);
            S::prefetch_far(x.wrapping_add(AHEAD * c).cast());
            let v = masking.mask(v, N::load::<S>(x, m), &mut sums);
            s.put::<S>(row, at, v, (m, whole));
            from = from.wrapping_add(s.from_row);
            x = x.wrapping_add(c);
        }
        sums.store_part(both, c, (m, whole));
    }
}

/// Channels whose shards are added at a time.
const WIDTH: usize = 32;

/// Adds the shards of a space of `c` channels up, in order: `f(channel, rows, sums, middle)`, with values relative to the
/// middle of the first shard if `moves`.
fn merge(
    isa: Isa,
    space: &[f32],
    shards: usize,
    c: usize,
    moves: bool,
    mut f: impl FnMut(usize, f64, [f64; 2], f64),
) {
    let (counts, sums) = space.split_at(shards);
    let rows: f64 = counts.iter().map(|&n| f64::from(n)).sum();
    let Some(first) = counts.iter().position(|&n| n > 0.0) else { return };
    for at in (0..c).step_by(WIDTH) {
        let mut all = [[0.0f64; WIDTH]; 3];
        let width = WIDTH.min(c - at);
        for (base, &middle) in all[2].iter_mut().zip(&sums[(first * ROWS + 2) * c + at..][..width])
        {
            *base = f64::from(middle);
        }
        let all = &mut all;
        multiversion!(isa, add_shards(counts: &[f32], sums: &[f32], c: usize, at: usize, moves: bool, all: &mut [[f64; WIDTH]; 3]));
        for k in 0..width {
            f(at + k, rows, [all[0][k], all[1][k]], all[2][k]);
        }
    }
}

/// Both sums of the channels from `at` on, and the middle that they are relative to.
#[inline(always)]
fn add_shards(
    counts: &[f32],
    sums: &[f32],
    c: usize,
    at: usize,
    moves: bool,
    [sum, product, base]: &mut [[f64; WIDTH]; 3],
) {
    let width = WIDTH.min(c - at);
    for (&n, shard) in counts.iter().zip(sums.chunks_exact(ROWS * c)).filter(|(n, _)| **n > 0.0) {
        let n = f64::from(n);
        let row = |i: usize| &shard[i * c + at..][..width];
        let (from, middle) = (row(0).iter().zip(row(1)), row(2));
        let to = sum.iter_mut().zip(product.iter_mut()).zip(base.iter());
        for (((sum, product), base), ((&s, &p), &middle)) in to.zip(from.zip(middle)) {
            let (s, p) = (f64::from(s), f64::from(p));
            let by = if moves { f64::from(middle) - base } else { 0.0 };
            *sum += s + n * by;
            *product += p + by * (2.0 * s + n * by);
        }
    }
}

/// [`super::statistics`] from the sums of a [`Tally`] over the whole map.
pub fn tallied_statistics(
    isa: Isa,
    space: &[f32],
    shards: usize,
    mut s: Statistics,
    momentum: f32,
    epsilon: f32,
) {
    merge(isa, space, shards, s.mean.len(), true, |i, rows, sums, base| {
        s.set(i, rows, sums, base, (momentum, epsilon));
    });
}

/// [`super::backward_sums`] from the sums of a [`Tally`] over the whole gradient.
pub fn tallied_sums(isa: Isa, space: &[f32], shards: usize, mut s: SumsOf) {
    merge(isa, space, shards, s.mean.len(), false, |i, _, both, _| s.set(i, both));
}
