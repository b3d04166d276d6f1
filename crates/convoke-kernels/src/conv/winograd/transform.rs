//! The transforms of gradients, outputs and filters, one vector of channels at a time.

use super::minimal::{MOST, Minimal, Side};
use super::words::Words;
use crate::gemm::Simd;
use crate::map::Number;
use std::mem::MaybeUninit;

/// Where transformed tiles lie, in words: place `k` of tile `t` at `at + k · place + t · tile`.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub at: *mut f32,
    pub place: usize,
    pub tile: usize,
}

/// Tiles of a row that are transformed together.
pub(super) const TOGETHER: usize = 8;
/// Columns of pixels under them at most.
const COLUMNS: usize = TOGETHER * 4 + 2;

/// Numbers between the transform of columns and that of rows, more than the registers hold.
#[repr(align(64))]
pub(super) struct Middle(MaybeUninit<[f32; MOST * COLUMNS * 16]>);

impl Middle {
    #[inline(always)]
    pub fn new() -> Self {
        Middle(MaybeUninit::uninit())
    }

    /// Where a vector lies.
    #[inline(always)]
    pub fn at<S: Simd>(&mut self, row: usize, column: usize) -> *mut f32 {
        self.0.as_mut_ptr().cast::<f32>().wrapping_add((row * COLUMNS + column) * S::LANES)
    }
}

/// A row of `n` tiles from rows of gradients of `width` pixels, of `d` of the `pixel` channels of each; rows that are
/// missing are null.
///
/// # Safety
/// The rows and tiles lie where the arguments say.
#[inline(always)]
pub(super) unsafe fn gradient_row<W: Words, N: Number>(
    rows: [*const N; MOST],
    width: usize,
    (pixel, d): (usize, usize),
    n: usize,
    to: Tiles,
) {
    let mut middle = Middle::new();
    // SAFETY: the caller's.
    unsafe {
        for at in (0..d).step_by(W::S::LANES) {
            let m = W::S::mask((d - at).min(W::S::LANES));
            for t in 0..n {
                for x in 0..W::F::STEP {
                    let side = gradients::<W, N>(rows, width, pixel, (t * W::F::STEP + x, at), m);
                    for r in 0..W::F::SIDE {
                        W::S::store(middle.at::<W::S>(r, x), side[r]);
                    }
                }
                let out = to.at.add(t * to.tile + at);
                for r in 0..W::F::SIDE {
                    let mut y = [W::S::splat(0.0); MOST];
                    for x in 0..W::F::STEP {
                        y[x] = W::S::load(middle.at::<W::S>(r, x));
                    }
                    let all = W::F::gradient::<W::S>(y);
                    for k in 0..W::F::SIDE {
                        W::S::store(out.add((r * W::F::SIDE + k) * to.place), all[k]);
                    }
                }
            }
        }
    }
}

/// `A y` of the gradients in column `x` of some channels; missing ones are zero. Asks, for the second cache, for those of
/// the next row of tiles.
#[inline(always)]
pub(super) unsafe fn gradients<W: Words, N: Number>(
    rows: [*const N; MOST],
    width: usize,
    d: usize,
    (x, at): (usize, usize),
    m: <W::S as Simd>::M,
) -> Side<W::S> {
    // SAFETY: the caller's.
    unsafe {
        let mut y = [W::S::splat(0.0); MOST];
        for r in 0..W::F::STEP {
            if !rows[r].is_null() && x < width {
                y[r] = N::load::<W::S>(rows[r].add(x * d + at), m);
            }
            let next = (W::F::STEP + r) * width + x;
            W::S::prefetch_far(rows[0].wrapping_add(next * d + at).cast());
        }
        W::F::gradient::<W::S>(y)
    }
}

/// What is done to outputs before they are written; pointers are null where there is nothing.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    pub bias: *const f32,
    /// Its rows, laid out as an output of f32.
    pub residual: [*const f32; MOST],
    pub clamp: Option<(f32, f32)>,
    /// The channels that are written.
    pub channels: (usize, usize),
    pub accumulate: bool,
    /// Whether outputs go past the caches; then they lie at multiples of a vector.
    pub stream: bool,
}

/// Rows of outputs (null beyond the map's end) of `width` pixels of `d` channels from a row of `n` tiles of sums.
///
/// # Safety
/// The rows and tiles lie where the arguments say; nobody else has access to the rows.
#[inline(always)]
pub(super) unsafe fn output_row<S: Simd, F: Minimal, N: Number>(
    from: Tiles,
    n: usize,
    rows: [*mut N; MOST],
    width: usize,
    d: usize,
    f: Finish,
) {
    let mut middle = Middle::new();
    // SAFETY: the caller's.
    unsafe {
        let (lo, hi) = f.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi) = (S::splat(lo), S::splat(hi));
        for at in (f.channels.0..f.channels.1).step_by(S::LANES) {
            let m = S::mask((f.channels.1 - at).min(S::LANES));
            let mut bias = S::splat(0.0);
            if !f.bias.is_null() {
                bias = S::load_first(f.bias.add(at), m);
            }
            for t in 0..n {
                let sums = from.at.cast_const().add(t * from.tile + at);
                for k in 0..F::SIDE {
                    let mut column = [bias; MOST];
                    for r in 0..F::SIDE {
                        column[r] = S::load(sums.add((r * F::SIDE + k) * from.place));
                    }
                    let column = F::output::<S>(column);
                    for r in 0..F::STEP {
                        S::store(middle.at::<S>(r, k), column[r]);
                    }
                }
                for r in 0..F::STEP {
                    if rows[r].is_null() {
                        continue;
                    }
                    let mut row = [bias; MOST];
                    for k in 0..F::SIDE {
                        row[k] = S::load(middle.at::<S>(r, k));
                    }
                    let pixels = F::output::<S>(row);
                    for i in 0..F::STEP {
                        let x = t * F::STEP + i;
                        if x >= width {
                            continue;
                        }
                        let mut v = S::add(pixels[i], bias);
                        if !f.residual[r].is_null() {
                            v = S::add(v, S::load_first(f.residual[r].add(x * d + at), m));
                        }
                        let p = rows[r].add(x * d + at);
                        if f.accumulate {
                            v = S::add(v, N::load::<S>(p, m));
                        }
                        let v = S::clamp(v, lo, hi);
                        if f.stream { N::stream::<S>(p, v) } else { N::store::<S>(p, v, m) }
                    }
                }
            }
        }
    }
}

/// `G g` of one vector of filters, column by column; the window's number `(y, x)` lies at `at + y · row + x · column`.
///
/// # Safety
/// As many numbers as the mask has lie there.
#[inline(always)]
pub(super) unsafe fn filter_columns<S: Simd, F: Minimal>(
    at: *const f32,
    row: isize,
    column: isize,
    m: S::M,
) -> [Side<S>; 3] {
    // SAFETY: the caller's.
    unsafe {
        let zero = S::splat(0.0);
        let mut columns = [[zero; MOST]; 3];
        for x in 0..3 {
            let mut g = [zero; 3];
            for y in 0..3 {
                g[y] = S::load_first(at.offset(y as isize * row + x as isize * column), m);
            }
            columns[x] = F::filter::<S>(g);
        }
        columns
    }
}

/// Row `r` of `G g Gᵀ`.
#[inline(always)]
pub(super) unsafe fn filter_row<S: Simd, F: Minimal>(columns: &[Side<S>; 3], r: usize) -> Side<S> {
    // SAFETY: the caller has the instruction set.
    unsafe { F::filter::<S>([columns[0][r], columns[1][r], columns[2][r]]) }
}

/// `Gᵀ w G` of one vector of filters, w summed over `shards`, of which place `k` lies at `at + k · place`, one behind
/// the other.
///
/// # Safety
/// Each place holds a vector.
#[inline(always)]
pub(super) unsafe fn filter_gradients<S: Simd, F: Minimal>(
    at: *const f32,
    place: usize,
    shards: usize,
) -> [[S::V; 3]; 3] {
    // SAFETY: the caller's.
    unsafe {
        let zero = S::splat(0.0);
        let mut columns = [[zero; 3]; MOST];
        for k in 0..F::SIDE {
            let mut w = [zero; MOST];
            for r in 0..F::SIDE {
                let at = at.add((r * F::SIDE + k) * place);
                w[r] = S::load(at);
                for shard in 1..shards {
                    w[r] = S::add(w[r], S::load(at.add(shard * F::SIDE * F::SIDE * place)));
                }
            }
            columns[k] = F::filter_gradient::<S>(w);
        }
        let mut window = [[zero; 3]; 3];
        for y in 0..3 {
            let mut row = [zero; MOST];
            for k in 0..F::SIDE {
                row[k] = columns[k][y];
            }
            window[y] = F::filter_gradient::<S>(row);
        }
        window
    }
}
