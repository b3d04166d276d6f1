//! Minimal filtering F(m×m, 3×3) in one direction: the transforms `Bᵀ`, `Aᵀ`, `G` and the way back through them, of
//! vectors. Loops instead of closures, and arrays as long as the largest needs: only what is inlined has the
//! instruction set, and lengths of arrays cannot depend on a type.

use crate::gemm::Simd;

/// Rows of a source tile at most.
pub(super) const MOST: usize = 6;

/// Vectors along a side of a tile, of which a filtering uses the first.
pub(super) type Side<S> = [<S as Simd>::V; MOST];

/// One filtering. All functions need the instruction set.
pub(super) trait Minimal: Copy {
    /// Rows and columns of a source tile.
    const SIDE: usize;
    /// Rows and columns of its outputs.
    const STEP: usize;
    /// `Bᵀ d`.
    unsafe fn source<S: Simd>(d: Side<S>) -> Side<S>;
    /// `Aᵀ m`.
    unsafe fn output<S: Simd>(m: Side<S>) -> Side<S>;
    /// `A y`.
    unsafe fn gradient<S: Simd>(y: Side<S>) -> Side<S>;
    /// `G g`.
    unsafe fn filter<S: Simd>(g: [S::V; 3]) -> Side<S>;
    /// `Gᵀ w`.
    unsafe fn filter_gradient<S: Simd>(w: Side<S>) -> [S::V; 3];
}

/// F(2×2, 3×3): the points 0, 1, −1 and infinity.
#[derive(Clone, Copy)]
pub(super) struct Two;

impl Minimal for Two {
    const SIDE: usize = 4;
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn source<S: Simd>(d: Side<S>) -> Side<S> {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut t = [S::splat(0.0); MOST];
            t[0] = S::sub(d[0], d[2]);
            t[1] = S::add(d[1], d[2]);
            t[2] = S::sub(d[2], d[1]);
            t[3] = S::sub(d[1], d[3]);
            t
        }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: Side<S>) -> Side<S> {
        // SAFETY: as above.
        unsafe {
            let mut y = [S::splat(0.0); MOST];
            y[0] = S::add(S::add(m[0], m[1]), m[2]);
            y[1] = S::sub(S::sub(m[1], m[2]), m[3]);
            y
        }
    }

    #[inline(always)]
    unsafe fn gradient<S: Simd>(y: Side<S>) -> Side<S> {
        // SAFETY: as above.
        unsafe {
            let zero = S::splat(0.0);
            let mut t = [zero; MOST];
            t[0] = y[0];
            t[1] = S::add(y[0], y[1]);
            t[2] = S::sub(y[0], y[1]);
            t[3] = S::sub(zero, y[1]);
            t
        }
    }

    #[inline(always)]
    unsafe fn filter<S: Simd>(g: [S::V; 3]) -> Side<S> {
        // SAFETY: as above.
        unsafe {
            let half = S::splat(0.5);
            let ends = S::add(g[0], g[2]);
            let mut t = [half; MOST];
            t[0] = g[0];
            t[1] = S::mul(half, S::add(ends, g[1]));
            t[2] = S::mul(half, S::sub(ends, g[1]));
            t[3] = g[2];
            t
        }
    }

    #[inline(always)]
    unsafe fn filter_gradient<S: Simd>(w: Side<S>) -> [S::V; 3] {
        // SAFETY: as above.
        unsafe {
            let half = S::splat(0.5);
            let (sum, difference) =
                (S::mul(half, S::add(w[1], w[2])), S::mul(half, S::sub(w[1], w[2])));
            [S::add(w[0], sum), difference, S::add(sum, w[3])]
        }
    }
}

/// F(4×4, 3×3): the points 0, ±√½, ±√2 and infinity. Points whose squares multiply to 1 round least: the outputs'
/// error is about twice the direct sum's, where that of the usual 0, ±1, ±2 is five times as large.
#[derive(Clone, Copy)]
pub(super) struct Four;

/// The points.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

impl Minimal for Four {
    const SIDE: usize = 6;
    const STEP: usize = 4;

    #[inline(always)]
    unsafe fn source<S: Simd>(d: Side<S>) -> Side<S> {
        // SAFETY: as above.
        unsafe {
            let (minus_half, minus_two) = (S::splat(-0.5), S::splat(-2.0));
            let (a, b, minus) = (S::splat(A), S::splat(B), S::splat(-2.5));
            let (even_a, odd_a) = (S::fma(minus_two, d[2], d[4]), S::fma(minus_two, d[1], d[3]));
            let (even_b, odd_b) = (S::fma(minus_half, d[2], d[4]), S::fma(minus_half, d[1], d[3]));
            let (odd_a, odd_b) = (S::mul(a, odd_a), S::mul(b, odd_b));
            [
                S::fma(minus, d[2], S::add(d[0], d[4])),
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                S::fma(minus, d[3], S::add(d[1], d[5])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: Side<S>) -> Side<S> {
        // SAFETY: as above.
        unsafe {
            let (half, two) = (S::splat(0.5), S::splat(2.0));
            let (sum_a, sum_b) = (S::add(m[1], m[2]), S::add(m[3], m[4]));
            let a = S::mul(S::splat(A), S::sub(m[1], m[2]));
            let b = S::mul(S::splat(B), S::sub(m[3], m[4]));
            let mut y = [half; MOST];
            y[0] = S::add(S::add(m[0], sum_a), sum_b);
            y[1] = S::add(a, b);
            y[2] = S::fma(two, sum_b, S::mul(half, sum_a));
            y[3] = S::fma(two, b, S::fma(half, a, m[5]));
            y
        }
    }

    #[inline(always)]
    unsafe fn gradient<S: Simd>(y: Side<S>) -> Side<S> {
        // SAFETY: as above.
        unsafe {
            let (half, two) = (S::splat(0.5), S::splat(2.0));
            let (even_a, odd_a) = (S::fma(half, y[2], y[0]), S::fma(half, y[3], y[1]));
            let (even_b, odd_b) = (S::fma(two, y[2], y[0]), S::fma(two, y[3], y[1]));
            let (odd_a, odd_b) = (S::mul(S::splat(A), odd_a), S::mul(S::splat(B), odd_b));
            [
                y[0],
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                y[3],
            ]
        }
    }

    #[inline(always)]
    unsafe fn filter<S: Simd>(g: [S::V; 3]) -> Side<S> {
        // SAFETY: as above.
        unsafe {
            let (thirds, sixth) = (S::splat(-2.0 / 3.0), S::splat(1.0 / 6.0));
            let even_a = S::mul(thirds, S::fma(S::splat(0.5), g[2], g[0]));
            let even_b = S::mul(sixth, S::fma(S::splat(2.0), g[2], g[0]));
            let odd_a = S::mul(S::splat(-2.0 / 3.0 * A), g[1]);
            let odd_b = S::mul(S::splat(B / 6.0), g[1]);
            [
                g[0],
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                g[2],
            ]
        }
    }

    #[inline(always)]
    unsafe fn filter_gradient<S: Simd>(w: Side<S>) -> [S::V; 3] {
        // SAFETY: as above.
        unsafe {
            let (sum_a, sum_b) = (S::add(w[1], w[2]), S::add(w[3], w[4]));
            let (odd_a, odd_b) = (S::sub(w[1], w[2]), S::sub(w[3], w[4]));
            let ends = S::fma(S::splat(-2.0 / 3.0), sum_a, w[0]);
            [
                S::fma(S::splat(1.0 / 6.0), sum_b, ends),
                S::fma(S::splat(-2.0 / 3.0 * A), odd_a, S::mul(S::splat(B / 6.0), odd_b)),
                S::fma(S::splat(1.0 / 3.0), S::sub(sum_b, sum_a), w[5]),
            ]
        }
    }
}
