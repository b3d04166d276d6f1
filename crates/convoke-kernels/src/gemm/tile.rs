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

/// One call of a tile: pointers and strides, in floats.
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
    /// Lanes of the last vector that exist (read from B and written to C).
    pub last: usize,
    pub start: Start,
    /// Added per lane, or null. As wide as the tile.
    pub bias: *const f32,
    /// Added number by number, laid out as C, or null.
    pub residual: *const f32,
    /// Bounds of the result, or none.
    pub clamp: Option<(f32, f32)>,
}

/// A tile compiled for one instruction set and size.
///
/// # Safety
/// The instruction set must be present, and every address that the strides reach must be valid:
/// reads of A, B (`last` lanes of the last vector), bias, residual; writes of C, to which nobody else
/// has access.
pub(crate) type TileFn = unsafe fn(&Tile);

/// `C [R,Q,V·LANES] = act(start + sum over taps, k of A [R,Q] · B [V·LANES] + bias + residual)`.
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
        let mask = S::mask(t.last);
        // Known while compiling, it needs no register per pixel and no addition per load.
        let a_px = if UNIT { 1 } else { t.a_px };
        let load_b = |p: *const f32, v: usize| {
            if MASKED && v == V - 1 && !UNIT {
                S::load_first(p.add(v * S::LANES), mask)
            } else {
                S::load(p.add(v * S::LANES))
            }
        };
        let load = |p: *const f32, v: usize| {
            if MASKED && v == V - 1 {
                S::load_first(p.add(v * S::LANES), mask)
            } else {
                S::load(p.add(v * S::LANES))
            }
        };
        let mut acc = [[[S::splat(0.0); V]; Q]; R];
        if t.start == Start::Load {
            for r in 0..R {
                for q in 0..Q {
                    for v in 0..V {
                        acc[r][q][v] = load(t.c.add(r * t.c_row + q * t.c_px), v);
                    }
                }
            }
        }
        for tap in 0..t.ntaps {
            let tap = *t.taps.add(tap);
            let (mut a, mut b) = (t.a.offset(tap.a), t.b.offset(tap.b));
            for _ in 0..t.k {
                let mut bv = [S::splat(0.0); V];
                for v in 0..V {
                    bv[v] = load_b(b, v);
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
                a = a.add(t.a_k);
                b = b.add(t.b_k);
            }
        }
        if !t.bias.is_null() {
            for v in 0..V {
                let bias = load(t.bias, v);
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
                        let x = load(t.residual.add(r * t.c_row + q * t.c_px), v);
                        acc[r][q][v] = S::add(acc[r][q][v], x);
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
#[derive(Clone, Copy)]
pub(crate) struct Family {
    /// Floats in a vector.
    pub lanes: usize,
    /// Vectors per tile.
    pub vectors: usize,
    /// Pixels (rows × columns) per tile at most.
    pub pixels: usize,
    pick: fn(usize, usize, usize, bool) -> Option<TileFn>,
    pick_unit: fn(usize, usize, bool) -> Option<TileFn>,
}

impl Family {
    /// The tiles of an instruction set.
    pub fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(),
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
    pub fn panels(&self, n: usize) -> impl Iterator<Item = Panel> + use<> {
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

    /// The tile of one row of `pixels` that lie next to each other in A (`a_px` is 1), and whose B is
    /// packed: the last panel's missing lanes are there.
    ///
    /// # Panics
    /// When there is no such tile, as [`Family::tile`].
    pub fn unit_tile(&self, pixels: usize, panel: Panel) -> TileFn {
        let masked = panel.used < panel.width;
        (self.pick_unit)(pixels, panel.width / self.lanes, masked)
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

/// Writes the table of tiles of an instruction set: `(rows, pixels)` pairs × vectors × masked.
macro_rules! family {
    ($(#[$feature:meta])* $name:ident, $wrapper:ident, $simd:ty, vectors $vectors:literal, pixels $pixels:literal,
     v [$($v:literal),*], $sizes:tt, unit $unit:tt) => {
        $(#[$feature])*
        unsafe fn $wrapper<
            const R: usize,
            const Q: usize,
            const V: usize,
            const M: bool,
            const U: bool,
        >(
            t: &Tile,
        ) {
            // SAFETY: the caller keeps the contract of `TileFn`.
            unsafe { tile::<$simd, R, Q, V, M, U>(t) }
        }

        fn $name() -> Family {
            fn pick(r: usize, q: usize, v: usize, masked: bool) -> Option<TileFn> {
                $(if v == $v { return family!(@size $wrapper, $v, r, q, masked, $sizes); })*
                None
            }
            fn pick_unit(q: usize, v: usize, masked: bool) -> Option<TileFn> {
                $(if v == $v { return family!(@unit $wrapper, $v, q, masked, $unit); })*
                None
            }
            Family { lanes: <$simd>::LANES, vectors: $vectors, pixels: $pixels, pick, pick_unit }
        }
    };
    (@size $wrapper:ident, $v:literal, $r:ident, $q:ident, $masked:ident, [$(($rows:literal, $px:literal)),*]) => {
        match ($r, $q, $masked) {
            $(($rows, $px, false) => Some($wrapper::<$rows, $px, $v, false, false> as TileFn),
              ($rows, $px, true) => Some($wrapper::<$rows, $px, $v, true, false> as TileFn),)*
            _ => None,
        }
    };
    (@unit $wrapper:ident, $v:literal, $q:ident, $masked:ident, [$($px:literal),*]) => {
        match ($q, $masked) {
            $(($px, false) => Some($wrapper::<1, $px, $v, false, true> as TileFn),
              ($px, true) => Some($wrapper::<1, $px, $v, true, true> as TileFn),)*
            _ => None,
        }
    };
}

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};

// 14 × 2 accumulators + 2 of B + 1 of A = 31 of 32 registers.
#[cfg(target_arch = "x86_64")]
family!(#[target_feature(enable = "avx512f")] avx512, tile_avx512f, Avx512, vectors 2, pixels 14, v [1, 2],
    [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8), (1, 9), (1, 10), (1, 11), (1, 12),
     (1, 13), (1, 14), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (2, 6), (2, 7), (3, 1), (3, 2), (3, 3), (3, 4),
     (4, 1), (4, 2), (4, 3)],
    unit [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);

// 6 × 2 accumulators + 2 of B + 1 of A = 15 of 16 registers.
#[cfg(target_arch = "x86_64")]
family!(#[target_feature(enable = "avx2,fma")] avx2, tile_avx2, Avx2, vectors 2, pixels 6, v [1, 2],
    [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)],
    unit [1, 2, 3, 4, 5, 6]);

// 6 × 4 accumulators + 4 of B + 1 of A = 29 of 32 registers.
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "aarch64")]
family!(neon, tile_neon, Neon, vectors 4, pixels 6, v [1, 2, 3, 4],
    [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)],
    unit [1, 2, 3, 4, 5, 6]);

family!(portable, tile_portable, Portable, vectors 2, pixels 4, v [1, 2],
    [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)],
    unit [1, 2, 3, 4]);
