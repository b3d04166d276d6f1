//! The transforms, one vector of channels at a time. Loops instead of closures: only what is inlined has the
//! instruction set.

use super::words::Words;
use super::{PLACES, SIDE, STEP};
use crate::gemm::Simd;
use crate::map::Number;

/// `Bᵀ d`.
#[inline(always)]
pub(super) unsafe fn source<S: Simd>(d: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller has the instruction set.
    unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[1], d[3])] }
}

/// `Aᵀ m`.
#[inline(always)]
unsafe fn output<S: Simd>(m: [S::V; 4]) -> [S::V; 2] {
    // SAFETY: the caller has the instruction set.
    unsafe { [S::add(S::add(m[0], m[1]), m[2]), S::sub(S::sub(m[1], m[2]), m[3])] }
}

/// `A y`.
#[inline(always)]
pub(super) unsafe fn gradient<S: Simd>(y: [S::V; 2]) -> [S::V; 4] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let zero = S::splat(0.0);
        [y[0], S::add(y[0], y[1]), S::sub(y[0], y[1]), S::sub(zero, y[1])]
    }
}

/// `G g`.
#[inline(always)]
unsafe fn filter<S: Simd>(g: [S::V; 3]) -> [S::V; 4] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let half = S::splat(0.5);
        let ends = S::add(g[0], g[2]);
        [g[0], S::mul(half, S::add(ends, g[1])), S::mul(half, S::sub(ends, g[1])), g[2]]
    }
}

/// `Gᵀ w`.
#[inline(always)]
unsafe fn filter_gradient<S: Simd>(w: [S::V; 4]) -> [S::V; 3] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let half = S::splat(0.5);
        let (sum, difference) =
            (S::mul(half, S::add(w[1], w[2])), S::mul(half, S::sub(w[1], w[2])));
        [S::add(w[0], sum), difference, S::add(sum, w[3])]
    }
}

/// Where transformed tiles lie, in words: place `k` of tile `t` at `at + k · place + t · tile`.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub at: *mut f32,
    pub place: usize,
    pub tile: usize,
}

/// A row of `n` tiles of some channels from four copied source rows of `2 n + 2` pixels of `c`; lanes beyond them
/// become zero.
///
/// # Safety
/// The rows and tiles lie where the arguments say.
#[inline(always)]
pub(super) unsafe fn source_row<W: Words>(
    rows: [*const f32; SIDE],
    c: usize,
    channels: usize,
    n: usize,
    to: Tiles,
) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        for at in (0..channels).step_by(lanes) {
            let m = W::S::mask((channels - at).min(lanes));
            let mut first = column::<W::S>(rows, at, m);
            let mut second = column::<W::S>(rows, c + at, m);
            for t in 0..n {
                let third = column::<W::S>(rows, (2 * t + 2) * c + at, m);
                let fourth = column::<W::S>(rows, (2 * t + 3) * c + at, m);
                let out = to.at.add(t * to.tile + at / W::NUMBERS);
                for r in 0..SIDE {
                    let all = source::<W::S>([first[r], second[r], third[r], fourth[r]]);
                    for k in 0..SIDE {
                        W::put(out.add((r * SIDE + k) * to.place), all[k]);
                    }
                }
                (first, second) = (third, fourth);
            }
        }
    }
}

/// `Bᵀ d` of one column of pixels.
#[inline(always)]
pub(super) unsafe fn column<S: Simd>(rows: [*const f32; SIDE], at: usize, m: S::M) -> [S::V; SIDE] {
    // SAFETY: the caller's.
    unsafe {
        let mut d = [S::splat(0.0); SIDE];
        for r in 0..SIDE {
            d[r] = S::load_first(rows[r].add(at), m);
        }
        source::<S>(d)
    }
}

/// A row of `n` tiles from two rows of gradients of `width` pixels of `d` channels; a missing second row is null.
///
/// # Safety
/// The rows and tiles lie where the arguments say.
#[inline(always)]
pub(super) unsafe fn gradient_row<S: Simd, N: Number>(
    rows: [*const N; STEP],
    width: usize,
    d: usize,
    n: usize,
    to: Tiles,
) {
    // SAFETY: the caller's.
    unsafe {
        for at in (0..d).step_by(S::LANES) {
            let m = S::mask((d - at).min(S::LANES));
            for t in 0..n {
                let mut y = [[S::splat(0.0); STEP]; STEP];
                for r in 0..STEP {
                    for x in 0..STEP {
                        if !rows[r].is_null() && 2 * t + x < width {
                            y[x][r] = N::load::<S>(rows[r].add((2 * t + x) * d + at), m);
                        }
                    }
                }
                let (left, right) = (gradient::<S>(y[0]), gradient::<S>(y[1]));
                let out = to.at.add(t * to.tile + at);
                for r in 0..SIDE {
                    let all = gradient::<S>([left[r], right[r]]);
                    for k in 0..SIDE {
                        S::store(out.add((r * SIDE + k) * to.place), all[k]);
                    }
                }
            }
        }
    }
}

/// What is done to outputs before they are written; pointers are null where there is nothing.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    pub bias: *const f32,
    /// Two rows, laid out as an output of f32.
    pub residual: [*const f32; STEP],
    pub clamp: Option<(f32, f32)>,
    pub accumulate: bool,
    /// Whether outputs go past the caches; then they lie at multiples of a vector.
    pub stream: bool,
}

/// Two rows of outputs (the second null where the map ends) of `width` pixels of `d` channels from a row of `n`
/// tiles of sums.
///
/// # Safety
/// The rows and tiles lie where the arguments say; nobody else has access to the rows.
#[inline(always)]
pub(super) unsafe fn output_row<S: Simd, N: Number>(
    from: Tiles,
    n: usize,
    rows: [*mut N; STEP],
    width: usize,
    d: usize,
    f: Finish,
) {
    // SAFETY: the caller's.
    unsafe {
        let (lo, hi) = f.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi) = (S::splat(lo), S::splat(hi));
        for at in (0..d).step_by(S::LANES) {
            let m = S::mask((d - at).min(S::LANES));
            let mut bias = S::splat(0.0);
            if !f.bias.is_null() {
                bias = S::load_first(f.bias.add(at), m);
            }
            for t in 0..n {
                let sums = from.at.cast_const().add(t * from.tile + at);
                let mut columns = [[bias; STEP]; SIDE];
                for k in 0..SIDE {
                    let mut column = [bias; SIDE];
                    for r in 0..SIDE {
                        column[r] = S::load(sums.add((r * SIDE + k) * from.place));
                    }
                    columns[k] = output::<S>(column);
                }
                for r in 0..STEP {
                    if rows[r].is_null() {
                        continue;
                    }
                    let pixels =
                        output::<S>([columns[0][r], columns[1][r], columns[2][r], columns[3][r]]);
                    for i in 0..STEP {
                        let x = 2 * t + i;
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

/// `G g Gᵀ` of one vector of filters; the window's number `(y, x)` lies at `at + y · row + x · column`.
///
/// # Safety
/// As many numbers as the mask has lie there.
#[inline(always)]
pub(super) unsafe fn filters<S: Simd>(
    at: *const f32,
    row: isize,
    column: isize,
    m: S::M,
) -> [S::V; PLACES] {
    // SAFETY: the caller's.
    unsafe {
        let zero = S::splat(0.0);
        let mut columns = [[zero; SIDE]; 3];
        for x in 0..3 {
            let mut g = [zero; 3];
            for y in 0..3 {
                g[y] = S::load_first(at.offset(y as isize * row + x as isize * column), m);
            }
            columns[x] = filter::<S>(g);
        }
        let mut all = [zero; PLACES];
        for r in 0..SIDE {
            let row = filter::<S>([columns[0][r], columns[1][r], columns[2][r]]);
            for k in 0..SIDE {
                all[r * SIDE + k] = row[k];
            }
        }
        all
    }
}

/// `Gᵀ w G` of one vector of filters, w summed over `shards`, of which place `k` lies at `at + k · place`, one behind
/// the other.
///
/// # Safety
/// Each place holds a vector.
#[inline(always)]
pub(super) unsafe fn filter_gradients<S: Simd>(
    at: *const f32,
    place: usize,
    shards: usize,
) -> [[S::V; 3]; 3] {
    // SAFETY: the caller's.
    unsafe {
        let zero = S::splat(0.0);
        let mut columns = [[zero; 3]; SIDE];
        for k in 0..SIDE {
            let mut w = [zero; SIDE];
            for r in 0..SIDE {
                let at = at.add((r * SIDE + k) * place);
                w[r] = S::load(at);
                for shard in 1..shards {
                    w[r] = S::add(w[r], S::load(at.add(shard * PLACES * place)));
                }
            }
            columns[k] = filter_gradient::<S>(w);
        }
        let mut window = [[zero; 3]; 3];
        for y in 0..3 {
            let row = [columns[0][y], columns[1][y], columns[2][y], columns[3][y]];
            window[y] = filter_gradient::<S>(row);
        }
        window
    }
}
