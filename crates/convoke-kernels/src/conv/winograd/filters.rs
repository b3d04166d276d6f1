//! Filters on their way to the products: transformed, lanes as the products want them, words of the sum in order.

use super::minimal::{MOST, Minimal};
use super::transform::{filter_columns, filter_row};
use super::words::Words;
use crate::gemm::Simd;
use std::ops::Range;

/// Lanes of a vector at most.
const LANES: usize = 16;

/// Some of the filters of a convolution.
pub(super) struct Filters<'a> {
    /// `[3,3,c,d]`, or `[3,3,d,c]` where they are turned by 180° for backward-data.
    pub all: &'a [f32],
    pub turned: bool,
    /// Numbers of a sum, and lanes of all panels.
    pub c: usize,
    pub d: usize,
    pub words: Range<usize>,
    /// The lanes: of one panel.
    pub panel: Range<usize>,
    /// Where the first word's first place lies; panels are `[word][lane]`.
    pub to: *mut f32,
    /// Floats from one place to the next.
    pub place: usize,
}

/// Transforms them.
///
/// # Safety
/// `all` holds all filters, `to` has room for whole vectors of all words and places.
#[inline(always)]
pub(super) unsafe fn transform<W: Words>(f: &Filters) {
    // SAFETY: the caller's.
    unsafe {
        match f.turned {
            true => turned::<W>(f),
            false => straight::<W>(f),
        }
    }
}

/// Lanes are neighbours.
#[inline(always)]
unsafe fn straight<W: Words>(f: &Filters) {
    let lanes = W::S::LANES;
    let width = f.panel.len().next_multiple_of(lanes);
    let window = f.c * f.d;
    // SAFETY: masks end with the panel, which lies within a row of `d` filters; the rest is the caller's.
    unsafe {
        for word in f.words.clone() {
            let channel = word * W::NUMBERS;
            for lane in (0..width).step_by(lanes) {
                let m = W::S::mask((f.panel.len() - lane).min(lanes));
                let from = f.all.as_ptr().add(channel * f.d + f.panel.start + lane);
                let second = if channel + 1 < f.c { from.add(f.d) } else { std::ptr::null() };
                let to = f.to.add((word - f.words.start) * width + lane);
                vector::<W>([from, second], window as isize, m, to, f.place);
            }
        }
    }
}

/// Lanes are rows of `c` filters: a block of them at a time changes places with the numbers of the sum, for each number
/// of the window.
#[inline(always)]
unsafe fn turned<W: Words>(f: &Filters) {
    const BLOCK: usize = LANES * LANES;
    let lanes = W::S::LANES;
    let width = f.panel.len().next_multiple_of(lanes);
    let numbers = f.words.start * W::NUMBERS..(f.words.end * W::NUMBERS).min(f.c);
    let mut block = [0.0f32; 9 * BLOCK];
    for lane in (0..width).step_by(lanes) {
        let rows = (f.panel.len() - lane).min(lanes);
        for first in numbers.clone().step_by(lanes) {
            let n = (numbers.end - first).min(lanes);
            // SAFETY: rows of the panel, `n` numbers of each, lie within the filters of each number of the window; a
            // block has room for 16 rows of 16.
            unsafe {
                let from = f.all.as_ptr().add((f.panel.start + lane) * f.c + first);
                for i in 0..9 {
                    let from = from.add(i * f.c * f.d);
                    let to = block.as_mut_ptr().add(i * BLOCK);
                    W::S::transpose(from, f.c, (rows, n), to, LANES);
                }
                // The window turned: its last number comes first.
                let last = block.as_ptr().add(8 * BLOCK);
                let all = W::S::mask(lanes);
                for i in (0..n).step_by(W::NUMBERS) {
                    let from = last.add(i * LANES);
                    let second = if i + 1 < n { from.add(LANES) } else { std::ptr::null() };
                    let word = (first + i) / W::NUMBERS - f.words.start;
                    let to = f.to.add(word * width + lane);
                    vector::<W>([from, second], -(BLOCK as isize), all, to, f.place);
                }
            }
        }
    }
}

/// A vector of words at all places, from the first number of each word's window and, where a word has two, the second
/// (or none); numbers of the window are `window` apart.
#[inline(always)]
unsafe fn vector<W: Words>(
    [first, second]: [*const f32; 2],
    window: isize,
    m: <W::S as Simd>::M,
    to: *mut f32,
    place: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let one = filter_columns::<W::S, W::F>(first, 3 * window, window, m);
        let mut two = [[W::S::splat(0.0); MOST]; 3];
        if W::NUMBERS == 2 && !second.is_null() {
            two = filter_columns::<W::S, W::F>(second, 3 * window, window, m);
        }
        for r in 0..W::F::SIDE {
            let [one, two] = [filter_row::<W::S, W::F>(&one, r), filter_row::<W::S, W::F>(&two, r)];
            for k in 0..W::F::SIDE {
                W::join(to.add((r * W::F::SIDE + k) * place), one[k], two[k]);
            }
        }
    }
}
