//! Transforms for backward-weights whose words hold two neighbouring tiles, of F(2×2, 3×3).

use super::minimal::{MOST, Minimal, Side, Two};
use super::source::{Lines, column};
use super::transform::{Tiles, gradients};
use super::words::Words;
use crate::gemm::Simd;
use crate::map::Number;
use crate::norm::Look;

const SIDE: usize = Two::SIDE;

/// As [`super::source::source_row`], two tiles a word. With `odd`, the first tile is the second of the first
/// word, whose first one is there already. A tile without a neighbour has zero beside it.
///
/// # Safety
/// The rows and words lie where the arguments say.
#[inline(always)]
pub(super) unsafe fn source_row<W: Words, N: Number, const NORM: bool>(
    lines: Lines,
    n: usize,
    odd: bool,
    to: Tiles,
) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        for at in (0..lines.channels).step_by(lanes) {
            let m = W::S::mask((lines.channels - at).min(lanes));
            let look = Look::<W::S, NORM>::new(lines.norm, 0.0, at, m);
            let mut left = [
                column::<W::S, Two, N, NORM>(lines, (0, at), look),
                column::<W::S, Two, N, NORM>(lines, (1, at), look),
            ];
            let mut out = to.at.add(at);
            let mut t = 0;
            while t < n {
                let next = 2 * t + 2;
                let middle = [
                    column::<W::S, Two, N, NORM>(lines, (next, at), look),
                    column::<W::S, Two, N, NORM>(lines, (next + 1, at), look),
                ];
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
                        column::<W::S, Two, N, NORM>(lines, (next + 2, at), look),
                        column::<W::S, Two, N, NORM>(lines, (next + 3, at), look),
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
unsafe fn of<W: Words>(left: [Side<W::S>; 2], right: [Side<W::S>; 2], r: usize) -> Side<W::S> {
    let mut row = left[0];
    (row[0], row[1], row[2], row[3]) = (left[0][r], left[1][r], right[0][r], right[1][r]);
    // SAFETY: the caller's.
    unsafe { Two::source::<W::S>(row) }
}

/// As [`super::transform::gradient_row`], likewise.
///
/// # Safety
/// The rows and words lie where the arguments say.
#[inline(always)]
pub(super) unsafe fn gradient_row<W: Words, N: Number>(
    rows: [*const N; MOST],
    width: usize,
    (pixel, d): (usize, usize),
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
                let first = both::<W, N>(rows, width, pixel, (t, at), m);
                if odd && t == 0 {
                    for r in 0..SIDE {
                        let all = Two::gradient::<W::S>(across(first, r));
                        for k in 0..SIDE {
                            W::complete(out.add((r * SIDE + k) * to.place), all[k]);
                        }
                    }
                    t += 1;
                } else {
                    let mut second = [[zero; MOST]; MOST];
                    if t + 1 < n {
                        second = both::<W, N>(rows, width, pixel, (t + 1, at), m);
                    }
                    for r in 0..SIDE {
                        let a = Two::gradient::<W::S>(across(first, r));
                        let b = Two::gradient::<W::S>(across(second, r));
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

/// `A y` of both columns of a tile's gradients.
#[inline(always)]
unsafe fn both<W: Words, N: Number>(
    rows: [*const N; MOST],
    width: usize,
    d: usize,
    (t, at): (usize, usize),
    m: <W::S as Simd>::M,
) -> [Side<W::S>; MOST] {
    // SAFETY: the caller's.
    unsafe {
        let mut sides = [[W::S::splat(0.0); MOST]; MOST];
        for x in 0..2 {
            sides[x] = gradients::<W, N>(rows, width, d, (2 * t + x, at), m);
        }
        sides
    }
}

/// Row `r` of columns.
#[inline(always)]
fn across<V: Copy>(columns: [[V; MOST]; MOST], r: usize) -> [V; MOST] {
    let mut row = columns[0];
    for x in 0..MOST {
        row[x] = columns[x][r];
    }
    row
}
