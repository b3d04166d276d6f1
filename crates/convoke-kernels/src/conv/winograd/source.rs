//! The transform of sources, read where they lie, one vector of channels at a time.

use super::Maps;
use super::minimal::{MOST, Minimal, Side};
use super::transform::{Middle, TOGETHER, Tiles};
use super::words::Words;
use crate::Map;
use crate::gemm::Simd;
use crate::map::{At, Number, no_bytes};
use crate::norm::{Look, Pending, Source};
use std::ops::Range;

/// Source rows under a row of tiles, of some channels.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    /// The first channel of the first row's first pixel, which may be one of the padding's.
    pub start: At,
    /// Numbers from one pixel to the next, and from one row to the next.
    pixel: usize,
    row: usize,
    /// The rows and columns that are there, from one to before another; those beside them are zero.
    rows: (usize, usize),
    columns: (usize, usize),
    pub channels: usize,
    /// The norm of these channels.
    pub norm: Option<Pending<'a>>,
}

impl<'a> Lines<'a> {
    /// The rows under row `row` of tiles, counted over all pictures, of some channels of a map.
    pub fn new(maps: &Maps, src: Source<'a>, row: usize, channels: Range<usize>) -> Self {
        if matches!(src.x, Map::Bytes(..)) {
            no_bytes();
        }
        let &Maps { src_h, src_w, top, left, c, .. } = maps;
        let (picture, first) = (row / maps.tiles().0, row % maps.tiles().0 * maps.way.step());
        let line = src_w * c;
        // Begins in the map; the way back into the padding is only a number.
        let begin = picture * src_h * line + channels.start;
        let back = top * line + left * c;
        let norm = src.norm.map(|n| Pending {
            scale: &n.scale[channels.clone()],
            shift: &n.shift[channels.clone()],
            ..n
        });
        Lines {
            start: src.x.at(begin).plus((first * line).wrapping_sub(back)),
            pixel: c,
            row: line,
            rows: (top.saturating_sub(first), (src_h + top).saturating_sub(first)),
            columns: (left, left + src_w),
            channels: channels.len(),
            norm,
        }
    }
}

/// What to do with each kind of map.
macro_rules! each_kind {
    ($lines:expr, $f:ident::<$w:ty>($($arg:expr),*)) => {
        match ($lines.start.is_half(), $lines.norm.is_some()) {
            (false, false) => $f::<$w, f32, false>($($arg),*),
            (false, true) => $f::<$w, f32, true>($($arg),*),
            (true, false) => $f::<$w, Bf16, false>($($arg),*),
            (true, true) => $f::<$w, Bf16, true>($($arg),*),
        }
    };
}
pub(super) use each_kind;

/// A row of `n` tiles; lanes beyond the channels become zero.
///
/// # Safety
/// The rows and tiles lie where the arguments say, numbers `N`, with a norm if `NORM`.
#[inline(always)]
pub(super) unsafe fn source_row<W: Words, N: Number, const NORM: bool>(
    lines: Lines,
    n: usize,
    to: Tiles,
) {
    let lanes = W::S::LANES;
    let mut middle = Middle::new();
    // SAFETY: the caller's.
    unsafe {
        for at in (0..lines.channels).step_by(lanes) {
            let m = W::S::mask((lines.channels - at).min(lanes));
            let look = Look::<W::S, NORM>::new(lines.norm, 0.0, at, m);
            for first in (0..n).step_by(TOGETHER) {
                let tiles = TOGETHER.min(n - first);
                for x in 0..tiles * W::F::STEP + 2 {
                    let pixel = (first * W::F::STEP + x, at);
                    let column = column::<W::S, W::F, N, NORM>(lines, pixel, look);
                    for r in 0..W::F::SIDE {
                        W::S::store(middle.at::<W::S>(r, x), column[r]);
                    }
                }
                for r in 0..W::F::SIDE {
                    let mut out = to.at.add(first * to.tile + at / W::NUMBERS);
                    out = out.add(r * W::F::SIDE * to.place);
                    for t in 0..tiles {
                        let mut d = [W::S::splat(0.0); MOST];
                        for x in 0..W::F::SIDE {
                            d[x] = W::S::load(middle.at::<W::S>(r, t * W::F::STEP + x));
                        }
                        let all = W::F::source::<W::S>(d);
                        for k in 0..W::F::SIDE {
                            W::put(out.add(k * to.place), all[k]);
                        }
                        out = out.add(to.tile);
                    }
                }
            }
        }
    }
}

/// `Bᵀ d` of column `x` from channel `at` on. Asks, for the second cache, for what the next row of tiles sees first there.
#[inline(always)]
pub(super) unsafe fn column<S: Simd, F: Minimal, N: Number, const NORM: bool>(
    lines: Lines,
    (x, at): (usize, usize),
    look: Look<S, NORM>,
) -> Side<S> {
    // SAFETY: the caller's.
    unsafe {
        let mut d = [S::splat(0.0); MOST];
        if x < lines.columns.0 || x >= lines.columns.1 {
            return d;
        }
        let start = lines.start.start.cast_const().cast::<N>();
        let pixel = start.wrapping_add(x * lines.pixel + at);
        for r in 0..F::SIDE {
            if r >= lines.rows.0 && r < lines.rows.1 {
                d[r] = look.at::<N>(pixel.wrapping_add(r * lines.row));
            }
        }
        for r in F::SIDE..F::SIDE + F::STEP {
            S::prefetch_far(pixel.wrapping_add(r * lines.row).cast());
        }
        F::source::<S>(d)
    }
}
