//! The register tile, and the table of tiles of each instruction set.

use super::simd::{Portable, Simd};
use crate::Isa;

/// Offsets of one tap in A and in B, in floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Tap {
    pub a: isize,
    pub b: isize,
}

/// What a tile's sums start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Zero.
    Zero,
    /// What C holds.
    Load,
}

/// Floats of a cache line.
pub(crate) const LINE: usize = 16;

/// One call of a tile: pointers and strides, in floats. A may begin before the map where the taps, or none, make up
/// for it, and the step after the last one may lead off A and B: steps wrap, since to have such a pointer by `add` would
/// be undefined behaviour even if nobody reads there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    /// Taps in the order of summation.
    pub taps: *const Tap,
    pub ntaps: usize,
    /// Length of the sum within a tap.
    pub k: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_px: usize,
    pub a_k: usize,
    pub b: *const f32,
    pub b_k: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub c_px: usize,
    /// Lanes of the last vector that exist in C, bias and residual; B is packed and has them all.
    pub last: usize,
    pub start: Start,
    /// Added per lane, or null. As wide as the tile.
    pub bias: *const f32,
    /// Added number by number, laid out as C, or null.
    pub residual: *const f32,
    /// Bounds of the result, or none.
    pub clamp: Option<(f32, f32)>,
    /// What is read after this tile, or null: a cache line for each step of the sum is asked for from here on, with
    /// so many floats from one to the next.
    pub ahead: *const f32,
    pub ahead_k: usize,
    /// Whether C goes past the caches ([`super::streams`]); not where lanes are missing.
    pub stream: bool,
}

/// A tile compiled for one instruction set and size.
///
/// # Safety
/// The instruction set must be present, and every address that the strides reach must be valid:
/// reads of A, B, bias, residual; writes of C, to which nobody else
/// has access.
pub(crate) type TileFn = unsafe fn(&Tile);

/// `C [R,Q,V·LANES] = act(start + sum over taps, k of A [R,Q] · B [V·LANES] + bias + residual)`.
///
/// With `UNIT`, `a_px` is 1: known while compiling, it needs no register per pixel and no addition per
/// load.
///
/// # Safety
/// See [`TileFn`].
#[inline(always)]
unsafe fn tile<
    S: Simd,
    const R: usize,
    const Q: usize,
    const V: usize,
    const MASKED: bool,
    const UNIT: bool,
>(
    t: &Tile,
) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let a_px = if UNIT { 1 } else { t.a_px };
        let mut acc = begin::<S, R, Q, V, MASKED>(t);
        let (mut ahead, line) = if t.ahead.is_null() { (t.b, 0) } else { (t.ahead, t.ahead_k) };
        for tap in 0..t.ntaps {
            let tap = *t.taps.add(tap);
            let (mut a, mut b) = (t.a.wrapping_offset(tap.a), t.b.wrapping_offset(tap.b));
            for _ in 0..t.k {
                S::prefetch_far(ahead);
                ahead = ahead.wrapping_add(line);
                let mut bv = [S::splat(0.0); V];
                for v in 0..V {
                    bv[v] = S::load(b.add(v * S::LANES));
                    S::prefetch(b.wrapping_add(8 * t.b_k + v * S::LANES));
                }
                if UNIT {
                    S::prefetch(a.wrapping_add(16 * t.a_k));
                }
                for r in 0..R {
                    for q in 0..Q {
                        let x = S::splat(*a.add(r * t.a_row + q * a_px));
                        for v in 0..V {
                            acc[r][q][v] = S::fma(x, bv[v], acc[r][q][v]);
                        }
                    }
                }
                a = a.wrapping_add(t.a_k);
                b = b.wrapping_add(t.b_k);
            }
        }
        end::<S, R, Q, V, MASKED>(t, acc);
    }
}

/// [`tile`] for windows three places wide over neighbouring pixels: each number of A is loaded once for
/// the three places, where loads are what limits [`tile`]. B holds the three places of each k one behind
/// the other, `[k][3][V·LANES]`.
///
/// # Safety
/// See [`TileFn`]; A is read for `P + 2` pixels.
#[inline(always)]
unsafe fn row_tile<S: Simd, const P: usize, const V: usize, const MASKED: bool>(t: &Tile) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let mut acc = begin::<S, 1, P, V, MASKED>(t);
        for tap in 0..t.ntaps {
            let tap = *t.taps.add(tap);
            let (mut a, mut b) = (t.a.wrapping_offset(tap.a), t.b.wrapping_offset(tap.b));
            for _ in 0..t.k {
                let mut w = [[S::splat(0.0); V]; 3];
                for place in 0..3 {
                    for v in 0..V {
                        let p = b.wrapping_add(place * t.b_k + v * S::LANES);
                        w[place][v] = S::load(p);
                        S::prefetch(p.wrapping_add(9 * t.b_k));
                    }
                }
                // Written out, because the compiler keeps loops this long and the sums in memory.
                macro_rules! pixels {
                    ($($i:literal)*) => {$(
                        if $i < P + 2 {
                            let x = S::splat(*a.add($i * t.a_px));
                            for place in 0..3 {
                                if $i >= place && $i - place < P {
                                    for v in 0..V {
                                        let sum = &mut acc[0][$i - place][v];
                                        *sum = S::fma(x, w[place][v], *sum);
                                    }
                                }
                            }
                        }
                    )*};
                }
                pixels!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17);
                a = a.wrapping_add(1);
                b = b.wrapping_add(3 * t.b_k);
            }
        }
        end::<S, 1, P, V, MASKED>(t, acc);
    }
}

/// Backward-weights for windows three places wide over neighbouring pixels: C is `[3][M][V·LANES]`, A
/// `[k][M]`, and place `p` of the window sums `A[k] · B[k − p]`, so that B is loaded once for the three
/// places.
///
/// # Safety
/// See [`TileFn`]; B is read from two pixels before the tap's.
#[inline(always)]
unsafe fn places_tile<S: Simd, const M: usize, const V: usize, const MASKED: bool>(t: &Tile) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let mut acc = begin::<S, 3, M, V, MASKED>(t);
        for tap in 0..t.ntaps {
            let tap = *t.taps.add(tap);
            let (mut a, mut b) = (t.a.wrapping_offset(tap.a), t.b.wrapping_offset(tap.b));
            // The last three pixels of B take turns.
            let mut w = [[S::splat(0.0); V]; 3];
            for v in 0..V {
                w[2][v] = S::load(b.sub(t.b_k).add(v * S::LANES));
                w[1][v] = S::load(b.sub(2 * t.b_k).add(v * S::LANES));
            }
            macro_rules! pixel {
                ($turn:literal) => {
                    for v in 0..V {
                        w[$turn][v] = S::load(b.add(v * S::LANES));
                    }
                    S::prefetch(a.wrapping_add(8 * t.a_k));
                    for m in 0..M {
                        let x = S::splat(*a.add(m));
                        for place in 0..3 {
                            for v in 0..V {
                                let sum = &mut acc[place][m][v];
                                *sum = S::fma(x, w[($turn + 3 - place) % 3][v], *sum);
                            }
                        }
                    }
                    a = a.wrapping_add(t.a_k);
                    b = b.wrapping_add(t.b_k);
                };
            }
            for _ in 0..t.k / 3 {
                pixel!(0);
                pixel!(1);
                pixel!(2);
            }
            if !t.k.is_multiple_of(3) {
                pixel!(0);
            }
            if t.k % 3 > 1 {
                pixel!(1);
            }
            let _ = (a, b);
        }
        end::<S, 3, M, V, MASKED>(t, acc);
    }
}

/// A vector of C, bias or residual: its missing lanes are not read.
#[inline(always)]
unsafe fn load<S: Simd, const V: usize, const MASKED: bool>(
    p: *const f32,
    v: usize,
    mask: S::M,
) -> S::V {
    // SAFETY: the caller has the lanes.
    unsafe {
        if MASKED && v == V - 1 {
            S::load_first(p.add(v * S::LANES), mask)
        } else {
            S::load(p.add(v * S::LANES))
        }
    }
}

/// What the sums of a tile start from.
#[inline(always)]
unsafe fn begin<S: Simd, const R: usize, const Q: usize, const V: usize, const MASKED: bool>(
    t: &Tile,
) -> [[[S::V; V]; Q]; R] {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let mask = S::mask(t.last);
        let mut acc = [[[S::splat(0.0); V]; Q]; R];
        // What the end of the tile reads and writes comes from main memory while the sums are made.
        if t.start == Start::Zero && (MASKED || !t.stream) {
            for r in 0..R {
                for q in 0..Q {
                    for v in 0..V {
                        let at = r * t.c_row + q * t.c_px + v * S::LANES;
                        S::prefetch(t.c.wrapping_add(at));
                        if !t.residual.is_null() {
                            S::prefetch(t.residual.wrapping_add(at));
                        }
                    }
                }
            }
        }
        if t.start == Start::Load {
            for r in 0..R {
                for q in 0..Q {
                    for v in 0..V {
                        let p = t.c.add(r * t.c_row + q * t.c_px);
                        acc[r][q][v] = load::<S, V, MASKED>(p, v, mask);
                    }
                }
            }
        }
        acc
    }
}

/// Bias, residual, bounds, and the way to memory.
#[inline(always)]
unsafe fn end<S: Simd, const R: usize, const Q: usize, const V: usize, const MASKED: bool>(
    t: &Tile,
    mut acc: [[[S::V; V]; Q]; R],
) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let mask = S::mask(t.last);
        if !t.bias.is_null() {
            for v in 0..V {
                let bias = load::<S, V, MASKED>(t.bias, v, mask);
                for r in 0..R {
                    for q in 0..Q {
                        acc[r][q][v] = S::add(acc[r][q][v], bias);
                    }
                }
            }
        }
        if !t.residual.is_null() {
            for r in 0..R {
                for q in 0..Q {
                    for v in 0..V {
                        let p = t.residual.add(r * t.c_row + q * t.c_px);
                        acc[r][q][v] = S::add(acc[r][q][v], load::<S, V, MASKED>(p, v, mask));
                    }
                }
            }
        }
        if let Some((lo, hi)) = t.clamp {
            let (lo, hi) = (S::splat(lo), S::splat(hi));
            for r in 0..R {
                for q in 0..Q {
                    for v in 0..V {
                        acc[r][q][v] = S::clamp(acc[r][q][v], lo, hi);
                    }
                }
            }
        }
        if t.stream && !MASKED {
            for r in 0..R {
                for q in 0..Q {
                    for v in 0..V {
                        let p = t.c.add(r * t.c_row + q * t.c_px + v * S::LANES);
                        S::stream(p, acc[r][q][v]);
                    }
                }
            }
            return;
        }
        for r in 0..R {
            for q in 0..Q {
                for v in 0..V {
                    let p = t.c.add(r * t.c_row + q * t.c_px + v * S::LANES);
                    if MASKED && v == V - 1 {
                        S::store_first(p, acc[r][q][v], mask);
                    } else {
                        S::store(p, acc[r][q][v]);
                    }
                }
            }
        }
    }
}

/// The tiles of one instruction set: what the walks need to know of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    /// Floats in a vector.
    pub lanes: usize,
    /// Vectors per tile.
    pub vectors: usize,
    /// Pixels (rows × columns) per tile at most.
    pub pixels: usize,
    pick: fn(usize, usize, usize, bool) -> Option<TileFn>,
    pick_unit: fn(usize, usize, bool) -> Option<TileFn>,
    pick_row: fn(usize, usize, bool) -> Option<TileFn>,
    pick_places: fn(usize, usize, bool) -> Option<TileFn>,
    /// Pixels of a [`row_tile`] at most, by vectors.
    row_pixels: [usize; 3],
    /// Channels of a [`places_tile`] at most, by vectors.
    place_channels: [usize; 3],
}

impl Family {
    /// The tiles of an instruction set.
    pub fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon(),
            _ => portable(),
        }
    }

    /// Width of a full tile in floats.
    pub fn width(&self) -> usize {
        self.lanes * self.vectors
    }

    /// How `n` outputs are cut into panels of whole tiles: `(start, width in memory, lanes used)`.
    /// All panels but the last are full; the last is as few vectors wide as it can be.
    pub fn panels(&self, n: usize) -> impl Iterator<Item = Panel> + Clone + use<> {
        let (lanes, width) = (self.lanes, self.width());
        (0..n.div_ceil(width)).map(move |i| {
            let used = (n - i * width).min(width);
            Panel { start: i * width, used, width: used.div_ceil(lanes) * lanes, lanes }
        })
    }

    /// Sum of the panels' widths.
    pub fn padded(&self, n: usize) -> usize {
        n.div_ceil(self.lanes) * self.lanes
    }

    /// Most rows of `q` pixels that one tile takes.
    pub fn rows_of(&self, q: usize) -> usize {
        (1..=4)
            .rev()
            .find(|r| r * q <= self.pixels && (self.pick)(*r, q, 1, false).is_some())
            .unwrap_or(1)
    }

    /// The tile of `rows` × `pixels` over a panel.
    ///
    /// # Panics
    /// When there is no such tile: walks ask only for sizes that [`Family::pixels`] and
    /// [`Family::rows_of`] allow.
    pub fn tile(&self, rows: usize, pixels: usize, panel: Panel) -> TileFn {
        let masked = panel.used < panel.width;
        (self.pick)(rows, pixels, panel.width / self.lanes, masked)
            .expect("walks ask only for tiles that exist")
    }

    /// The tile of one row of `pixels` that lie next to each other in A (`a_px` is 1).
    ///
    /// # Panics
    /// When there is no such tile, as [`Family::tile`].
    pub fn unit_tile(&self, pixels: usize, panel: Panel) -> TileFn {
        let masked = panel.used < panel.width;
        (self.pick_unit)(pixels, panel.width / self.lanes, masked)
            .expect("walks ask only for tiles that exist")
    }

    /// Most pixels of [`Family::row_tile`]; 0 where there are none.
    pub fn row_pixels(&self, panel: Panel) -> usize {
        self.row_pixels[panel.width / self.lanes]
    }

    /// The tile of `pixels` neighbours under windows three places wide, B packed `[k][3][lane]`.
    ///
    /// # Panics
    /// When there is no such tile: ask for at most [`Family::row_pixels`].
    pub fn row_tile(&self, pixels: usize, panel: Panel) -> TileFn {
        let masked = panel.used < panel.width;
        (self.pick_row)(pixels, panel.width / self.lanes, masked)
            .expect("walks ask only for tiles that exist")
    }

    /// Most channels of [`Family::places_tile`]; 0 where there are none.
    pub fn place_channels(&self, panel: Panel) -> usize {
        self.place_channels[panel.width / self.lanes]
    }

    /// The tile of backward-weights of `channels` under windows three places wide.
    ///
    /// # Panics
    /// When there is no such tile: ask for at most [`Family::place_channels`].
    pub fn places_tile(&self, channels: usize, panel: Panel) -> TileFn {
        let masked = panel.used < panel.width;
        (self.pick_places)(channels, panel.width / self.lanes, masked)
            .expect("walks ask only for tiles that exist")
    }
}

/// A range of outputs that one tile is wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panel {
    /// First output.
    pub start: usize,
    /// Outputs that exist.
    pub used: usize,
    /// Floats in the packed panel: `used` rounded up to whole vectors.
    pub width: usize,
    lanes: usize,
}

impl Panel {
    /// Lanes of the last vector that exist.
    pub fn last(&self) -> usize {
        self.used - (self.width - self.lanes)
    }
}

/// Writes the table of tiles of an instruction set: `(rows, pixels)` pairs × vectors × masked for
/// [`tile`], pixels of its `UNIT` form, and pixels of [`row_tile`] and channels of [`places_tile`] for
/// one and two vectors.
macro_rules! family {
    ($(#[$feature:meta])* $name:ident, $simd:ty, vectors $vectors:literal, pixels $pixels:literal,
     v [$($v:literal),*], $sizes:tt, unit $unit:tt,
     row $row1:tt $row2:tt, places $places1:tt $places2:tt) => {
        fn $name() -> Family {
            $(#[$feature])*
            unsafe fn free<const R: usize, const Q: usize, const V: usize, const M: bool>(t: &Tile) {
                // SAFETY: the caller keeps the contract of `TileFn`.
                unsafe { tile::<$simd, R, Q, V, M, false>(t) }
            }
            $(#[$feature])*
            unsafe fn unit<const Q: usize, const V: usize, const M: bool>(t: &Tile) {
                // SAFETY: as above.
                unsafe { tile::<$simd, 1, Q, V, M, true>(t) }
            }
            $(#[$feature])*
            unsafe fn row<const P: usize, const V: usize, const M: bool>(t: &Tile) {
                // SAFETY: as above.
                unsafe { row_tile::<$simd, P, V, M>(t) }
            }
            $(#[$feature])*
            unsafe fn places<const C: usize, const V: usize, const M: bool>(t: &Tile) {
                // SAFETY: as above.
                unsafe { places_tile::<$simd, C, V, M>(t) }
            }
            fn pick(r: usize, q: usize, v: usize, masked: bool) -> Option<TileFn> {
                $(if v == $v { return family!(@size free, $v, r, q, masked, $sizes); })*
                None
            }
            fn pick_unit(q: usize, v: usize, masked: bool) -> Option<TileFn> {
                $(if v == $v { return family!(@one unit, $v, q, masked, $unit); })*
                None
            }
            fn pick_row(p: usize, v: usize, masked: bool) -> Option<TileFn> {
                match v {
                    1 => family!(@one row, 1, p, masked, $row1),
                    2 => family!(@one row, 2, p, masked, $row2),
                    _ => None,
                }
            }
            fn pick_places(c: usize, v: usize, masked: bool) -> Option<TileFn> {
                match v {
                    1 => family!(@one places, 1, c, masked, $places1),
                    2 => family!(@one places, 2, c, masked, $places2),
                    _ => None,
                }
            }
            let most = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or(0);
            Family {
                lanes: <$simd>::LANES,
                vectors: $vectors,
                pixels: $pixels,
                pick,
                pick_unit,
                pick_row,
                pick_places,
                row_pixels: [0, most(&$row1), most(&$row2)],
                place_channels: [0, most(&$places1), most(&$places2)],
            }
        }
    };
    (@size $wrapper:ident, $v:literal, $r:ident, $q:ident, $masked:ident, [$(($rows:literal, $px:literal)),*]) => {
        match ($r, $q, $masked) {
            $(($rows, $px, false) => Some($wrapper::<$rows, $px, $v, false> as TileFn),
              ($rows, $px, true) => Some($wrapper::<$rows, $px, $v, true> as TileFn),)*
            _ => None,
        }
    };
    (@one $wrapper:ident, $v:literal, $n:ident, $masked:ident, [$($size:literal),*]) => {
        match ($n, $masked) {
            $(($size, false) => Some($wrapper::<$size, $v, false> as TileFn),
              ($size, true) => Some($wrapper::<$size, $v, true> as TileFn),)*
            _ => None,
        }
    };
}

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};

// Accumulators, B and one of A in 32 registers: 14 × 2 + 2 + 1; rows 10 × 2 + 6 + 1 and 16 + 3 + 1;
// places 3 × 4 × 2 + 6 + 1 and 3 × 8 + 3 + 1.
#[cfg(target_arch = "x86_64")]
family!(#[target_feature(enable = "avx512f")] avx512, Avx512, vectors 2, pixels 14, v [1, 2],
    [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8), (1, 9), (1, 10), (1, 11), (1, 12),
     (1, 13), (1, 14), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (2, 6), (2, 7), (3, 1), (3, 2), (3, 3), (3, 4),
     (4, 1), (4, 2), (4, 3)],
    unit [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    row [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    places [1, 2, 3, 4, 5, 6, 7, 8] [1, 2, 3, 4]);

// 16 registers: 6 × 2 + 2 + 1; rows 10 + 3 + 1 and 4 × 2 + 6 + 1; places 3 × 3 + 3 + 1.
#[cfg(target_arch = "x86_64")]
family!(#[target_feature(enable = "avx2,fma")] avx2, Avx2, vectors 2, pixels 6, v [1, 2],
    [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)],
    unit [1, 2, 3, 4, 5, 6],
    row [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] [1, 2, 3, 4],
    places [1, 2, 3] []);

// 32 registers: 6 × 4 + 4 + 1.
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "aarch64")]
family!(neon, Neon, vectors 4, pixels 6, v [1, 2, 3, 4],
    [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)],
    unit [1, 2, 3, 4, 5, 6],
    row [] [], places [] []);

family!(portable, Portable, vectors 2, pixels 4, v [1, 2],
    [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)],
    unit [1, 2, 3, 4],
    row [1, 2, 3, 4] [1, 2, 3, 4], places [1, 2] [1, 2]);
