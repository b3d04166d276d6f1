//! Transforms for backward-weights whose words hold two neighbouring tiles.

use super::transform::{Tiles, column, gradient, source};
use super::words::{Vector, Words};
use super::{SIDE, STEP};
use crate::gemm::Simd;
use crate::map::Number;

/// As [`super::transform::source_row`], two tiles a word. With `odd`, the first tile is the second of the first
/// word, whose first one is there already. A tile without a neighbour has zero beside it.
///
/// # Safety
/// The rows and words lie where the arguments say.
#[inline(always)]
pub(super) unsafe fn source_row<W: Words>(
    rows: [*const f32; SIDE],
    c: usize,
    channels: usize,
    n: usize,
    odd: bool,
    to: Tiles,
) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        for at in (0..channels).step_by(lanes) {
            let m = W::S::mask((channels - at).min(lanes));
            let mut left = [column::<W::S>(rows, at, m), column::<W::S>(rows, c + at, m)];
            let mut out = to.at.add(at);
            let mut t = 0;
            while t < n {
                let next = (2 * t + 2) * c + at;
                let middle = [column::<W::S>(rows, next, m), column::<W::S>(rows, next + c, m)];
                if odd && t == 0 {
                    for r in 0..SIDE {
                        let all = of::<W>(left, middle, r);
                        for k in 0..SIDE {
                            W::complete(out.add((r * SIDE + k) * to.place), all[k]);
                        }
                    }
                    (left, t) = (middle, t + 1);
                } else if t + 1 < n {
                    let right = [
                        column::<W::S>(rows, next + 2 * c, m),
                        column::<W::S>(rows, next + 3 * c, m),
                    ];
                    for r in 0..SIDE {
                        let (a, b) = (of::<W>(left, middle, r), of::<W>(middle, right, r));
                        for k in 0..SIDE {
                            W::join(out.add((r * SIDE + k) * to.place), a[k], b[k]);
                        }
                    }
                    (left, t) = (right, t + 2);
                } else {
                    let zero = W::S::splat(0.0);
                    for r in 0..SIDE {
                        let all = of::<W>(left, middle, r);
                        for k in 0..SIDE {
                            W::join(out.add((r * SIDE + k) * to.place), all[k], zero);
                        }
                    }
                    t += 1;
                }
                out = out.add(to.tile);
            }
        }
    }
}

/// Row `r` of a tile of two columns and two more.
#[inline(always)]
unsafe fn of<W: Words>(
    left: [[Vector<W>; SIDE]; 2],
    right: [[Vector<W>; SIDE]; 2],
    r: usize,
) -> [Vector<W>; SIDE] {
    // SAFETY: the caller's.
    unsafe { source::<W::S>([left[0][r], left[1][r], right[0][r], right[1][r]]) }
}

/// As [`super::transform::gradient_row`], likewise.
///
/// # Safety
/// The rows and words lie where the arguments say.
#[inline(always)]
pub(super) unsafe fn gradient_row<W: Words, N: Number>(
    rows: [*const N; STEP],
    width: usize,
    d: usize,
    n: usize,
    odd: bool,
    to: Tiles,
) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        let zero = W::S::splat(0.0);
        for at in (0..d).step_by(lanes) {
            let m = W::S::mask((d - at).min(lanes));
            let mut out = to.at.add(at);
            let mut t = 0;
            while t < n {
                let first = sides::<W, N>(rows, width, d, t, at, m);
                if odd && t == 0 {
                    for r in 0..SIDE {
                        let all = gradient::<W::S>([first[0][r], first[1][r]]);
                        for k in 0..SIDE {
                            W::complete(out.add((r * SIDE + k) * to.place), all[k]);
                        }
                    }
                    t += 1;
                } else {
                    let mut second = [[zero; SIDE]; STEP];
                    if t + 1 < n {
                        second = sides::<W, N>(rows, width, d, t + 1, at, m);
                    }
                    for r in 0..SIDE {
                        let a = gradient::<W::S>([first[0][r], first[1][r]]);
                        let b = gradient::<W::S>([second[0][r], second[1][r]]);
                        for k in 0..SIDE {
                            W::join(out.add((r * SIDE + k) * to.place), a[k], b[k]);
                        }
                    }
                    t += 2;
                }
                out = out.add(to.tile);
            }
        }
    }
}

/// `A y` of both columns of a tile's gradients; missing ones are zero.
#[inline(always)]
unsafe fn sides<W: Words, N: Number>(
    rows: [*const N; STEP],
    width: usize,
    d: usize,
    t: usize,
    at: usize,
    m: <W::S as Simd>::M,
) -> [[Vector<W>; SIDE]; STEP] {
    // SAFETY: the caller's.
    unsafe {
        let zero = W::S::splat(0.0);
        let mut sides = [[zero; SIDE]; STEP];
        for x in 0..STEP {
            let mut y = [zero; STEP];
            for r in 0..STEP {
                if !rows[r].is_null() && 2 * t + x < width {
                    y[r] = N::load::<W::S>(rows[r].add((2 * t + x) * d + at), m);
                }
            }
            sides[x] = gradient::<W::S>(y);
        }
        sides
    }
}
