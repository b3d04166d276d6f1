//! The tile of forward and backward-data: some filters by some pixels, sixteen pictures each.

use super::LANES;
use crate::gemm::Simd;

/// A row of taps: how many, and the floats from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    pub n: usize,
    pub x: isize,
    pub w: isize,
}

/// `y[p, f] = clamp(Σ over taps and k of x[p, tap, k] · w[tap, k, f] + bias[f])`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub x: *const f32,
    /// Floats from one pixel's numbers to the next one's.
    pub x_px: usize,
    pub rows: Taps,
    pub places: Taps,
    /// Vectors behind each tap.
    pub k: usize,
    pub w: *const f32,
    pub w_k: usize,
    /// Floats from one filter to the next (1 in the `UNIT` form).
    pub w_f: usize,
    pub y: *mut f32,
    pub y_px: usize,
    /// One number per filter, or null.
    pub bias: *const f32,
    pub clamp: Option<(f32, f32)>,
    /// Whether to add to what `y` holds.
    pub load: bool,
}

/// Filters and pixels that a tile takes at most.
pub(super) struct Size {
    pub filters: usize,
    pub pixels: usize,
}

/// The size for so many filters and pixels: all sums stay in registers.
#[inline(always)]
pub(super) fn size<S: Simd>(filters: usize, pixels: usize) -> Size {
    let (sums, most) = if S::LANES == LANES { (24, 8) } else { (12, 4) };
    if pixels == 1 {
        return Size { filters: 12, pixels: 1 };
    }
    let filters = filters.div_ceil(filters.div_ceil(most));
    Size { filters, pixels: (sums / filters).clamp(1, 4) }
}

/// Runs the tile of `f` filters and `p` pixels.
#[inline(always)]
pub(super) unsafe fn run<S: Simd, const UNIT: bool>(t: &Tile, f: usize, p: usize) {
    macro_rules! pick {
        ($(($f:literal, $p:literal)),*) => {
            match (f, p) {
                // SAFETY: the caller's contract.
                $(($f, $p) => unsafe { tile::<S, UNIT, $f, $p>(t) },)*
                _ => unreachable!("no lanes tile of {f} filters by {p} pixels"),
            }
        };
    }
    pick!(
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (5, 1),
        (6, 1),
        (7, 1),
        (8, 1),
        (9, 1),
        (10, 1),
        (11, 1),
        (12, 1),
        (1, 2),
        (2, 2),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
        (7, 2),
        (8, 2),
        (1, 3),
        (2, 3),
        (3, 3),
        (4, 3),
        (5, 3),
        (6, 3),
        (7, 3),
        (8, 3),
        (1, 4),
        (2, 4),
        (3, 4),
        (4, 4),
        (5, 4),
        (6, 4)
    );
}

#[inline(always)]
unsafe fn tile<S: Simd, const UNIT: bool, const F: usize, const P: usize>(t: &Tile) {
    for half in (0..LANES).step_by(S::LANES) {
        // SAFETY: the caller's contract: all addresses hold sixteen numbers.
        unsafe {
            let y = t.y.add(half);
            let mut sums = [[S::splat(0.0); F]; P];
            for (p, sums) in sums.iter_mut().enumerate() {
                for (f, sum) in sums.iter_mut().enumerate() {
                    if t.load {
                        *sum = S::load(y.add(p * t.y_px + f * LANES));
                    } else if !t.bias.is_null() {
                        *sum = S::splat(*t.bias.add(f));
                    }
                }
            }
            for row in 0..t.rows.n as isize {
                for place in 0..t.places.n as isize {
                    let mut x = t.x.offset(row * t.rows.x + place * t.places.x).add(half);
                    let mut w = t.w.offset(row * t.rows.w + place * t.places.w);
                    for _ in 0..t.k {
                        let mut v = [S::splat(0.0); P];
                        for (p, v) in v.iter_mut().enumerate() {
                            *v = S::load(x.add(p * t.x_px));
                        }
                        for f in 0..F {
                            let w = S::splat(*w.add(if UNIT { f } else { f * t.w_f }));
                            for p in 0..P {
                                sums[p][f] = S::fma(v[p], w, sums[p][f]);
                            }
                        }
                        x = x.wrapping_add(LANES);
                        w = w.wrapping_add(t.w_k);
                    }
                }
            }
            let (lo, hi) = t.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
            let (lo, hi) = (S::splat(lo), S::splat(hi));
            for (p, sums) in sums.into_iter().enumerate() {
                for (f, sum) in sums.into_iter().enumerate() {
                    S::store(y.add(p * t.y_px + f * LANES), S::clamp(sum, lo, hi));
                }
            }
        }
    }
}
