//! Sums over the rows of a map, per channel, that are made by who writes the map, while its numbers are at hand: what a
//! norm needs to know of its input, and of the gradient of its output.
//!
//! The writer cuts the rows into shards, by shape alone, and sums each in an order of its own; shards are added in
//! order, in f64. So no bit depends on the number of threads.

use super::{Clamped, Saved, Statistics};
use crate::gemm::Simd;
use crate::isa::simd;
use crate::map::Number;
use crate::{Isa, Map};
use std::marker::PhantomData;

/// Rows of sums of a shard: of values, of products, and what the values are taken relative to.
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
    /// Masked gradients, and their products with the input of the norm less its mean.
    Gradient(Saved<'a>),
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

    /// For what [`super::backward_sums`] sums of a gradient.
    ///
    /// # Panics
    /// Where the sums would have to mask the gradient by an output.
    pub fn gradient(shards: usize, saved: Saved<'a>, space: &'a mut [f32]) -> Self {
        assert!(!matches!(saved.clamped, Clamped::Output { .. }), "sums are made, not masks");
        Self::new(Of::Gradient(saved), shards, saved.mean.len(), space)
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
            Of::Gradient(s) => matches!(s.x, Map::Full(x) if x.len() >= rows * c),
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

    /// Sums outputs of a tile of f32, and writes them to the map.
    ///
    /// # Safety
    /// Outputs, map and shard are as the strip says, and the channels of the shard are the caller's.
    pub(crate) unsafe fn strip(&self, isa: Isa, strip: &Strip) {
        let (tally, strip) = (self, strip);
        // SAFETY: the caller's.
        unsafe { simd!(isa, strip_body(tally: &Tally, strip: &Strip)) };
    }
}

/// Some rows and channels of a map that a tile has made.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    /// Where they lie, and floats from one row to the next.
    pub from: *const f32,
    pub from_row: usize,
    /// Where they belong: the same place, or past the caches.
    pub to: *mut f32,
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

#[inline(always)]
unsafe fn strip_body<S: Simd>(tally: &Tally, s: &Strip) {
    // SAFETY: the caller's.
    unsafe {
        match tally.of {
            Of::Statistics => strip_of::<S, STATISTICS>(tally, s),
            Of::Gradient(Saved { clamped: Clamped::Anew { .. }, .. }) => {
                strip_of::<S, MASKED>(tally, s);
            }
            Of::Gradient(_) => strip_of::<S, PLAIN>(tally, s),
        }
    }
}

#[inline(always)]
unsafe fn strip_of<S: Simd, const KIND: u8>(tally: &Tally, s: &Strip) {
    // SAFETY: the caller's.
    unsafe {
        let moves = !std::ptr::eq(s.from, s.to);
        let mut at = 0;
        while at < s.channels {
            let whole = at + S::LANES <= s.channels;
            let m = S::mask((s.channels - at).min(S::LANES));
            let mut lanes = Lanes::<S, KIND>::begin(tally, s.shard, s.channel + at, m, s.first);
            let (mut from, mut to) = (s.from.add(at), s.to.add(at));
            for row in s.row..s.row + s.rows {
                let v = if whole { S::load(from) } else { S::load_first(from, m) };
                lanes.add(row, v);
                if moves && whole {
                    S::stream(to, v);
                } else if moves {
                    S::store_first(to, v, m);
                }
                from = from.wrapping_add(s.from_row);
                to = to.wrapping_add(tally.c);
            }
            lanes.end();
            at += S::LANES;
        }
    }
}

/// Kinds of sums: statistics; gradients without a clamp, and masked by the output made anew.
const STATISTICS: u8 = 0;
const PLAIN: u8 = 1;
const MASKED: u8 = 2;

/// Rows ahead of which the norm's input is asked for: those of the next strip.
const AHEAD: usize = 14;

/// The sums of a vector of channels, while rows of the map are written.
struct Lanes<'a, S: Simd, const KIND: u8> {
    m: S::M,
    /// Where the sums lie, and floats from one row of them to the next.
    sums: *mut f32,
    c: usize,
    sum: S::V,
    product: S::V,
    /// What values are taken relative to: the first of the shard, once it is known, or the mean of the norm's input.
    middle: S::V,
    known: bool,
    /// The norm's input at the first row, and its scale, shift and bound.
    x: *const f32,
    scale: S::V,
    shift: S::V,
    max: S::V,
    life: PhantomData<&'a ()>,
}

impl<'a, S: Simd, const KIND: u8> Lanes<'a, S, KIND> {
    /// The sums of a shard from channel `at` on; `first`: they begin with zero.
    #[inline(always)]
    unsafe fn begin(tally: &Tally<'a>, shard: usize, at: usize, m: S::M, first: bool) -> Self {
        let c = tally.c;
        let sums = tally.space.wrapping_add(tally.shards + shard * ROWS * c + at);
        // SAFETY: the caller's shard and channels.
        unsafe {
            let zero = S::splat(0.0);
            let load = |p: &[f32]| S::load_first(p.as_ptr().add(at), m);
            let [mut sum, mut product, mut middle] = [zero; 3];
            if !first {
                sum = S::load_first(sums, m);
                product = S::load_first(sums.add(c), m);
                middle = S::load_first(sums.add(2 * c), m);
            }
            let (mut x, [mut scale, mut shift, mut max]) = (std::ptr::null(), [zero; 3]);
            if let Of::Gradient(saved) = tally.of {
                middle = load(saved.mean);
                x = f32::of(saved.x).as_ptr().add(at);
                if let Clamped::Anew { scale: by, shift: and, max: bound } = saved.clamped {
                    (scale, shift, max) = (load(by), load(and), S::splat(bound));
                }
            }
            let (known, life) = (!first, PhantomData);
            Lanes { m, sums, c, sum, product, middle, known, x, scale, shift, max, life }
        }
    }

    /// Adds the numbers of a row.
    #[inline(always)]
    unsafe fn add(&mut self, row: usize, v: S::V) {
        // SAFETY: the caller's row.
        unsafe {
            if KIND == STATISTICS {
                if !self.known {
                    (self.middle, self.known) = (v, true);
                }
                let d = S::sub(v, self.middle);
                self.sum = S::add(self.sum, d);
                self.product = S::fma(d, d, self.product);
                return;
            }
            let at = row * self.c;
            let x = S::load_first(self.x.add(at), self.m);
            S::prefetch_far(self.x.wrapping_add(at + AHEAD * self.c));
            let mut g = v;
            if KIND == MASKED {
                let y = S::fma(x, self.scale, self.shift);
                g = S::keep_between(v, y, S::splat(0.0), self.max);
            }
            self.sum = S::add(self.sum, g);
            self.product = S::fma(g, S::sub(x, self.middle), self.product);
        }
    }

    /// Puts the sums back.
    #[inline(always)]
    unsafe fn end(self) {
        // SAFETY: as in `begin`.
        unsafe {
            S::store_first(self.sums, self.sum, self.m);
            S::store_first(self.sums.add(self.c), self.product, self.m);
            S::store_first(self.sums.add(2 * self.c), self.middle, self.m);
        }
    }
}

/// Adds the shards of a space of `c` channels up, in order: `f(channel, rows, sums, middle)`, with values relative to the
/// middle of the first shard if `moves`.
fn merge(
    space: &[f32],
    shards: usize,
    c: usize,
    moves: bool,
    mut f: impl FnMut(usize, f64, [f64; 2], f64),
) {
    const WIDTH: usize = 32;
    let (counts, sums) = space.split_at(shards);
    let counted = || counts.iter().zip(sums.chunks_exact(ROWS * c)).filter(|(n, _)| **n > 0.0);
    let rows: f64 = counts.iter().map(|&n| f64::from(n)).sum();
    let Some((_, first)) = counted().next() else { return };
    for at in (0..c).step_by(WIDTH) {
        let width = WIDTH.min(c - at);
        let mut all = [[0.0f64; 2]; WIDTH];
        let base = &first[2 * c + at..][..width];
        for (&n, sums) in counted() {
            let (sum, rest) = sums.split_at(c);
            let (product, middle) = rest.split_at(c);
            for (k, all) in all[..width].iter_mut().enumerate() {
                let [sum, product, middle, base] =
                    [sum[at + k], product[at + k], middle[at + k], base[k]].map(f64::from);
                let (n, by) = (f64::from(n), if moves { middle - base } else { 0.0 });
                all[0] += sum + n * by;
                all[1] += product + by * (2.0 * sum + n * by);
            }
        }
        for (k, &all) in all[..width].iter().enumerate() {
            f(at + k, rows, all, f64::from(base[k]));
        }
    }
}

/// [`super::statistics`] from the sums of a [`Tally`] over the whole map.
pub fn tallied_statistics(
    space: &[f32],
    shards: usize,
    mut s: Statistics,
    momentum: f32,
    epsilon: f32,
) {
    merge(space, shards, s.mean.len(), true, |i, rows, sums, base| {
        s.set(i, rows, sums, base, (momentum, epsilon));
    });
}

/// [`super::backward_sums`] from the sums of a [`Tally`] over the whole gradient.
pub fn tallied_sums(
    space: &[f32],
    shards: usize,
    invstd: &[f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    merge(space, shards, invstd.len(), false, |i, _, [sum, product], _| {
        dbeta[i] = sum as f32;
        dgamma[i] = (product * f64::from(invstd[i])) as f32;
    });
}
