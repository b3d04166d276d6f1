//! The products of each place: small matrix products whose operands lie in the second cache.

use super::minimal::Minimal;
use super::words::Words;
use crate::cut;
use crate::gemm::{Even, LINE, Simd};
use std::ops::Range;

/// Bytes of a panel of filters that stay in the nearest cache.
const NEAR: usize = cut(16 * 1024, 256);

/// Bytes of all filters of a place that stay in the second cache.
const SECOND: usize = 256 * 1024;

/// Most tiles that a panel of `V` vectors passes over at a time: as many sums, a panel's filters and one number of the
/// source lie in the registers.
const fn most(lanes: usize, vectors: usize) -> usize {
    let two = match lanes {
        16 => 14,
        8 => 6,
        _ => 4,
    };
    two * 2 / vectors
}

/// Tiles are computed in multiples of this, by panels of so many vectors. The last ones may be no tiles.
pub(super) fn step(lanes: usize, vectors: usize) -> usize {
    match (lanes, vectors) {
        (16 | 8, 2) => 2,
        _ => most(lanes, vectors),
    }
}

/// Room for so many tiles.
pub(super) fn room(lanes: usize, tiles: usize) -> usize {
    tiles.next_multiple_of(most(lanes, 1))
}

/// `m [place][tile][d] (+)= Σ over c of v [place][tile][c] · u [place][panel][c][lane]`, where c counts words and panels
/// begin with the first that is computed.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub v: *const f32,
    pub v_place: usize,
    pub v_tile: usize,
    pub u: *const f32,
    pub u_place: usize,
    pub m: *mut f32,
    pub m_place: usize,
    pub m_tile: usize,
    pub tiles: usize,
    pub c: usize,
    /// The channels of `m` that are computed, from whole panels on.
    pub d: (usize, usize),
    /// Whether `m` holds sums already.
    pub load: bool,
    pub ahead: Ahead,
}

/// What is needed next: it comes from main memory meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub at: *const f32,
    /// Floats that lie together, and how often and how far apart they do; and all that once more.
    pub len: usize,
    pub rows: [(usize, usize); 2],
}

impl Ahead {
    /// Nothing.
    pub const NONE: Ahead = Ahead { at: std::ptr::null(), len: 0, rows: [(0, 0); 2] };

    /// Asks for every `step`-th of its lines from the `first` on.
    #[inline(always)]
    fn ask<S: Simd>(&self, first: usize, step: usize) {
        let (lines, [(inner, near), (outer, far)]) = (self.len.div_ceil(LINE), self.rows);
        for i in (first..lines * inner * outer).step_by(step) {
            let (row, line) = (i / lines, i % lines);
            let at = row % inner * near + row / inner * far + line * LINE;
            S::prefetch_far(self.at.wrapping_add(at));
        }
    }
}

/// All places. Tiles are computed up to a multiple of [`step`], whatever lies there.
///
/// # Safety
/// The operands lie where the product says, with room for whole vectors of `d` and rounded tiles.
#[inline(always)]
pub(super) unsafe fn multiply<W: Words>(p: &Product) {
    let lanes = W::S::LANES;
    let width = 2 * lanes;
    let (from, to) = (p.d.0, p.d.1.next_multiple_of(lanes));
    let strips = 4 * p.c * width > NEAR && 4 * p.c * (to - from) <= SECOND;
    let whole = to / width * width;
    let places = W::F::SIDE * W::F::SIDE;
    // SAFETY: the caller's.
    unsafe {
        for place in 0..places {
            p.ahead.ask::<W::S>(place, places);
            let at = Product {
                v: p.v.add(place * p.v_place),
                u: p.u.add(place * p.u_place),
                m: p.m.add(place * p.m_place),
                ..*p
            };
            panels::<W, 2>(&at, from..whole, strips);
            panels::<W, 1>(&at, whole..to, strips);
        }
    }
}

/// Panels of `V` vectors of one place: panel by panel over all tiles, or (`by_strips`) all panels over a strip of tiles at
/// a time, whichever keeps what is read again in the nearest cache.
#[inline(always)]
unsafe fn panels<W: Words, const V: usize>(p: &Product, d: Range<usize>, by_strips: bool) {
    let lanes = W::S::LANES;
    let step = step(lanes, V);
    let strips = Even::new(p.tiles.div_ceil(step), most(lanes, V) / step);
    let strip = |i: usize| {
        let range = strips.range(i);
        (range.start * step, range.len() * step)
    };
    // SAFETY: the caller's.
    unsafe {
        if by_strips {
            for i in 0..strips.parts {
                for d in d.clone().step_by(V * lanes) {
                    strip_of::<W, V>(p, strip(i), d);
                }
            }
        } else {
            for d in d.step_by(V * lanes) {
                for i in 0..strips.parts {
                    strip_of::<W, V>(p, strip(i), d);
                }
            }
        }
    }
}

/// A strip of `n` tiles, or of a few more.
#[inline(always)]
unsafe fn strip_of<W: Words, const V: usize>(p: &Product, (t, n): (usize, usize), d: usize) {
    // SAFETY: the caller's.
    unsafe {
        match (W::S::LANES, V) {
            (16, 2) => match n {
                14 => tile::<W, 14, V>(p, t, d),
                12 => tile::<W, 12, V>(p, t, d),
                10 => tile::<W, 10, V>(p, t, d),
                _ => tile::<W, 8, V>(p, t, d),
            },
            (16, _) => tile::<W, 28, V>(p, t, d),
            (8, 2) if n > 4 => tile::<W, 6, V>(p, t, d),
            (8, 2) => tile::<W, 4, V>(p, t, d),
            (8, _) => tile::<W, 12, V>(p, t, d),
            (_, 2) => tile::<W, 4, V>(p, t, d),
            _ => tile::<W, 8, V>(p, t, d),
        }
    }
}

#[inline(always)]
unsafe fn tile<W: Words, const T: usize, const V: usize>(p: &Product, t: usize, d: usize) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[W::S::splat(0.0); V]; T];
        let m = p.m.add(t * p.m_tile + d);
        if p.load {
            for i in 0..T {
                for v in 0..V {
                    acc[i][v] = W::S::load(m.add(i * p.m_tile + v * lanes));
                }
            }
        }
        let mut a = p.v.add(t * p.v_tile);
        let mut b = p.u.add(p.c * (d - p.d.0));
        for _ in 0..p.c {
            let mut bv = [W::load(b); V];
            for v in 0..V {
                bv[v] = W::load(b.add(v * lanes));
                W::S::prefetch(b.wrapping_add((8 * V + v) * lanes));
            }
            for i in 0..T {
                let x = W::splat(a.add(i * p.v_tile));
                for v in 0..V {
                    acc[i][v] = W::fma(x, bv[v], acc[i][v]);
                }
            }
            a = a.wrapping_add(1);
            b = b.wrapping_add(V * lanes);
        }
        for i in 0..T {
            for v in 0..V {
                W::S::store(m.add(i * p.m_tile + v * lanes), acc[i][v]);
            }
        }
    }
}

/// Tiles whose products are summed before the next channels: their gradients stay in the nearest cache.
const DEPTH: usize = cut(128, 4);

/// Channels that [`add_outer`] takes at a time, as many as the registers hold and as waste least of `c`.
pub(super) fn channels(lanes: usize, c: usize) -> usize {
    let sizes: &[usize] = if lanes == 16 { &[13, 11, 8] } else { &[4] };
    sizes.iter().copied().min_by_key(|&n| c.next_multiple_of(n)).unwrap_or(4)
}

/// `w [c][d] (+)= Σ over tiles of v [tile][c] · z [tile][d]`; a word holds neighbouring tiles, and tiles count words.
#[derive(Clone, Copy)]
pub(super) struct Outer {
    pub v: *const f32,
    pub v_tile: usize,
    pub z: *const f32,
    pub z_tile: usize,
    pub w: *mut f32,
    /// Floats from one channel of `w` to the next.
    pub w_row: usize,
    pub tiles: usize,
    pub c: usize,
    /// Whole vectors.
    pub d: usize,
    /// Whether `w` holds sums already.
    pub load: bool,
}

/// One place.
///
/// # Safety
/// The operands lie where the product says; channels may be read up to a multiple of [`channels`].
#[inline(always)]
pub(super) unsafe fn add_outer<W: Words>(p: &Outer) {
    // SAFETY: the caller's.
    unsafe {
        match channels(W::S::LANES, p.c) {
            13 => blocks::<W, 13>(p),
            11 => blocks::<W, 11>(p),
            8 => blocks::<W, 8>(p),
            _ => blocks::<W, 4>(p),
        }
    }
}

#[inline(always)]
unsafe fn blocks<W: Words, const C: usize>(p: &Outer) {
    let lanes = W::S::LANES;
    for from in (0..p.tiles).step_by(DEPTH) {
        let tiles = from..(from + DEPTH).min(p.tiles);
        let load = p.load || from > 0;
        let mut d = 0;
        while d < p.d {
            let two = d + 2 * lanes <= p.d;
            let width = if two { 2 * lanes } else { lanes };
            for c in (0..p.c).step_by(C) {
                let next = if c + C < p.c { (c + C) * p.w_row + d } else { d + width };
                let next = p.w.wrapping_add(next).cast_const();
                // SAFETY: the caller's.
                unsafe {
                    match two {
                        true => outer::<W, C, 2>(p, tiles.clone(), c, d, load, next),
                        false => outer::<W, C, 1>(p, tiles.clone(), c, d, load, next),
                    }
                }
            }
            d += width;
        }
    }
}

/// A block of sums; those at `next` come from afar meanwhile.
#[inline(always)]
unsafe fn outer<W: Words, const C: usize, const V: usize>(
    p: &Outer,
    tiles: Range<usize>,
    c: usize,
    d: usize,
    load: bool,
    next: *const f32,
) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        let w = p.w.add(c * p.w_row + d);
        let used = C.min(p.c - c);
        let mut acc = [[W::S::splat(0.0); V]; C];
        if load {
            for i in 0..C {
                if i < used {
                    for v in 0..V {
                        acc[i][v] = W::S::load(w.add(i * p.w_row + v * lanes));
                    }
                }
            }
        }
        let mut a = p.v.add(tiles.start * p.v_tile + c);
        let mut b = p.z.add(tiles.start * p.z_tile + d);
        for k in 0..tiles.len() {
            if k < C {
                for v in 0..V {
                    W::S::prefetch(next.wrapping_add(k * p.w_row + v * lanes));
                }
            }
            let mut bv = [W::load(b); V];
            for v in 0..V {
                bv[v] = W::load(b.add(v * lanes));
            }
            W::S::prefetch(a.wrapping_add(8 * p.v_tile));
            for i in 0..C {
                let x = W::splat(a.add(i));
                for v in 0..V {
                    acc[i][v] = W::fma(x, bv[v], acc[i][v]);
                }
            }
            a = a.wrapping_add(p.v_tile);
            b = b.wrapping_add(p.z_tile);
        }
        for i in 0..C {
            if i < used {
                for v in 0..V {
                    W::S::store(w.add(i * p.w_row + v * lanes), acc[i][v]);
                }
            }
        }
    }
}
