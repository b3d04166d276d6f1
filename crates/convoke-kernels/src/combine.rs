//! Two maps, number by number; sizes of one are repeated: `a [n,h,w,c], b [n,h,w,c] -> y [n,h,w,c]` where each
//! of `h`, `w` and `c` of `a` and of `b` is that of `y` or 1.

use crate::{CHUNK, Ctx};

/// What is computed of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// `a + b`
    Add,
    /// `a − b`
    Subtract,
    /// `a · b`
    Multiply,
    /// `a / b`
    Divide,
    /// The larger; equal ones share the gradient of the first.
    Max,
    /// The smaller.
    Min,
    /// `a ^ b`
    Power,
}

impl Combine {
    fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Combine::Add => a + b,
            Combine::Subtract => a - b,
            Combine::Multiply => a * b,
            Combine::Divide => a / b,
            Combine::Max => {
                if b > a || b.is_nan() {
                    b
                } else {
                    a
                }
            }
            Combine::Min => {
                if b < a || b.is_nan() {
                    b
                } else {
                    a
                }
            }
            Combine::Power => a.powf(b),
        }
    }

    /// Slope along the first (`false`) or second number.
    fn slope(self, second: bool, a: f32, b: f32) -> f32 {
        match (self, second) {
            (Combine::Add, _) | (Combine::Subtract, false) => 1.0,
            (Combine::Subtract, true) => -1.0,
            (Combine::Multiply, false) => b,
            (Combine::Multiply, true) => a,
            (Combine::Divide, false) => 1.0 / b,
            (Combine::Divide, true) => -a / (b * b),
            (Combine::Max, second) => f32::from((b > a) == second),
            (Combine::Min, second) => f32::from((b < a) == second),
            (Combine::Power, false) => b * a.powf(b - 1.0),
            (Combine::Power, true) => {
                if a > 0.0 {
                    a.powf(b) * a.ln()
                } else {
                    0.0
                }
            }
        }
    }
}

/// `[h, w, c]` of a map.
pub type Sizes = [usize; 3];

/// Numbers from one place to the next along batch, rows, columns and channels; 0 where repeated.
fn steps(own: Sizes, whole: Sizes) -> [usize; 4] {
    let [h, w, c] = own;
    let repeat = |i: usize, step: usize| if own[i] == whole[i] { step } else { 0 };
    [h * w * c, repeat(0, w * c), repeat(1, c), repeat(2, 1)]
}

/// `y = f(a, b)`.
pub fn forward(
    cx: Ctx,
    f: Combine,
    (a, sa): (&[f32], Sizes),
    (b, sb): (&[f32], Sizes),
    y: &mut [f32],
    s: Sizes,
) {
    let [h, w, c] = s;
    let (ta, tb) = (steps(sa, s), steps(sb, s));
    let pixels = (CHUNK / c).max(1);
    cx.pool.for_chunks_mut(y, pixels * c, |i, part, _| {
        for (r, line) in part.chunks_exact_mut(c).enumerate() {
            let p = i * pixels + r;
            let at = [p / (h * w), p / w % h, p % w];
            let place = |t: [usize; 4]| at[0] * t[0] + at[1] * t[1] + at[2] * t[2];
            let (pa, pb) = (place(ta), place(tb));
            for (k, y) in line.iter_mut().enumerate() {
                *y = f.of(a[pa + k * ta[3]], b[pb + k * tb[3]]);
            }
        }
    });
}

/// The gradient of the first (`second` false) or second map: `dx (+)= Σ f' · dy` over what was repeated.
pub fn backward(
    cx: Ctx,
    f: Combine,
    second: bool,
    (a, sa): (&[f32], Sizes),
    (b, sb): (&[f32], Sizes),
    (dy, s): (&[f32], Sizes),
    dx: &mut [f32],
    accumulate: bool,
) {
    let own = if second { sb } else { sa };
    let (ta, tb, ty) = (steps(sa, s), steps(sb, s), steps(s, s));
    let [h, w, c] = own;
    let [rows, columns, depth] = [0, 1, 2].map(|i| if own[i] == s[i] { 1 } else { s[i] });
    let pixels = (CHUNK / (c * rows * columns * depth)).max(1);
    cx.pool.for_chunks_mut(dx, pixels * c, |i, part, _| {
        for (r, line) in part.chunks_exact_mut(c).enumerate() {
            let p = i * pixels + r;
            let (n, y0, x0) = (p / (h * w), p / w % h, p % w);
            if !accumulate {
                line.fill(0.0);
            }
            for row in y0..y0 + rows {
                for column in x0..x0 + columns {
                    let place = |t: [usize; 4]| n * t[0] + row * t[1] + column * t[2];
                    let (pa, pb, py) = (place(ta), place(tb), place(ty));
                    for (k, d) in line.iter_mut().enumerate() {
                        for k in k..k + depth {
                            let slope = f.slope(second, a[pa + k * ta[3]], b[pb + k * tb[3]]);
                            *d += slope * dy[py + k];
                        }
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Pool};

    const N: usize = 3;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i + seed) * 7919 % 1009) as f32 / 512.0 + 0.3).collect()
    }

    /// Where `y`'s place `i` reads a map of sizes `own`.
    fn source(i: usize, s: Sizes, own: Sizes) -> usize {
        let at = [i / (s[2] * s[1]) % s[0], i / s[2] % s[1], i % s[2]];
        let n = i / s.iter().product::<usize>();
        (0..3).fold(n, |p, k| p * own[k] + if own[k] == 1 { 0 } else { at[k] })
    }

    #[test]
    fn both_directions_are_the_plain_ones_for_any_thread_count() {
        use Combine::*;
        // Rows; Miri (`CONTRIBUTING.md`) takes ten thousand times longer.
        const R: usize = if cfg!(miri) { 1 } else { 3 };
        let shapes: [(Sizes, Sizes); 6] = [
            ([R, 4, 5], [R, 4, 5]),
            ([R, 4, 5], [1, 1, 5]),
            ([1, 1, 5], [R, 4, 1]),
            ([R, 1, 5], [1, 4, 1]),
            ([1, 1, 1], [2, 7, 3]),
            ([1, 9, 1], [1, 1, 1]),
        ];
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let cx = Ctx { pool: &pool, isa: Isa::detect() };
            for (sa, sb) in shapes {
                let s: Sizes = std::array::from_fn(|i| sa[i].max(sb[i]));
                let len = |s: Sizes| N * s.iter().product::<usize>();
                let (a, b, dy) = (numbers(len(sa), 1), numbers(len(sb), 5), numbers(len(s), 9));
                for f in [Add, Subtract, Multiply, Divide, Max, Min, Power] {
                    let mut y = vec![0.0; len(s)];
                    forward(cx, f, (&a, sa), (&b, sb), &mut y, s);
                    let (mut da, mut db) = (vec![0.5; a.len()], vec![0f32; b.len()]);
                    for i in 0..y.len() {
                        let (p, q) = (source(i, s, sa), source(i, s, sb));
                        assert_eq!(y[i], f.of(a[p], b[q]));
                        da[p] += f.slope(false, a[p], b[q]) * dy[i];
                        db[q] += f.slope(true, a[p], b[q]) * dy[i];
                    }
                    for (second, want) in [(false, da), (true, db)] {
                        let mut dx = vec![if second { f32::NAN } else { 0.5 }; want.len()];
                        backward(cx, f, second, (&a, sa), (&b, sb), (&dy, s), &mut dx, !second);
                        let near = |(g, w): (&f32, &f32)| (g - w).abs() <= 1e-4 * (1.0 + w.abs());
                        assert!(dx.iter().zip(&want).all(near), "{f:?} {sa:?} {sb:?}");
                    }
                }
            }
        }
    }
}
