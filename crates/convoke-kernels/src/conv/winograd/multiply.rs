//! The products of each place: small matrix products whose operands lie in the second cache.

use super::minimal::Minimal;
use super::words::Words;
use crate::cut;
use crate::gemm::Simd;
use std::ops::Range;

/// Bytes of a panel of filters that stay in the nearest cache.
const NEAR: usize = cut(16 * 1024, 256);

/// Bytes of all filters of a place that stay in the second cache.
const SECOND: usize = 256 * 1024;

/// Tiles are computed in multiples of this: those that panels of one vector take at a time, twice those of panels
/// of two. Sums, filters and one number of the source lie in the registers.
pub(super) fn round(lanes: usize) -> usize {
    match lanes {
        16 => 28,
        8 => 12,
        _ => 8,
    }
}

/// `m [place][tile][d] = Σ over c of v [place][tile][c] · u [place][panel][c][lane]`, where c counts words.
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
    /// What will be written next: it comes from main memory meanwhile.
    pub ahead: *const f32,
    pub ahead_len: usize,
}

/// All places. Tiles are computed up to a multiple of [`round`], whatever lies there.
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
            for line in (place * 16..p.ahead_len).step_by(16 * places) {
                W::S::prefetch(p.ahead.wrapping_add(line));
            }
            let at = Product {
                v: p.v.add(place * p.v_place),
                u: p.u.add(place * p.u_place),
                m: p.m.add(place * p.m_place),
                ..*p
            };
            match lanes {
                16 => panels::<W, 14, 2>(&at, from..whole, strips),
                8 => panels::<W, 6, 2>(&at, from..whole, strips),
                _ => panels::<W, 4, 2>(&at, from..whole, strips),
            }
            match lanes {
                16 => panels::<W, 28, 1>(&at, whole..to, strips),
                8 => panels::<W, 12, 1>(&at, whole..to, strips),
                _ => panels::<W, 8, 1>(&at, whole..to, strips),
            }
        }
    }
}

/// Panels of `V` vectors of one place: panel by panel over all tiles, or (`strips`) all panels over `T` tiles at a
/// time, whichever keeps what is read again in the nearest cache.
#[inline(always)]
unsafe fn panels<W: Words, const T: usize, const V: usize>(
    p: &Product,
    d: Range<usize>,
    strips: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        if strips {
            for t in (0..p.tiles).step_by(T) {
                for d in d.clone().step_by(V * W::S::LANES) {
                    tile::<W, T, V>(p, t, d);
                }
            }
        } else {
            for d in d.step_by(V * W::S::LANES) {
                for t in (0..p.tiles).step_by(T) {
                    tile::<W, T, V>(p, t, d);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<W: Words, const T: usize, const V: usize>(p: &Product, t: usize, d: usize) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[W::S::splat(0.0); V]; T];
        let mut a = p.v.add(t * p.v_tile);
        let mut b = p.u.add(p.c * d);
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
        let m = p.m.add(t * p.m_tile + d);
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
    /// Floats from one channel of `w` to the next, whole vectors.
    pub w_row: usize,
    pub tiles: usize,
    pub c: usize,
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
        while d < p.w_row {
            let two = d + 2 * lanes <= p.w_row;
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
