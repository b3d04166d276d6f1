//! Enlarging maps by repeating pixels, and its reverse.

use crate::{CHUNK, Ctx};

/// `x [n,h,w,c] -> y [n,ho,wo,c]`: place `(i, j)` is pixel `(i / fh, j / fw)`, or the last one where
/// there are no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpsampleShape {
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Rows and columns of the output.
    pub out: (usize, usize),
    /// How often a row and a column are repeated.
    pub factor: (usize, usize),
}

impl UpsampleShape {
    /// The places of one axis that repeat pixel `i` of `len`.
    fn places(i: usize, len: usize, factor: usize, out: usize) -> std::ops::Range<usize> {
        let until = if i + 1 == len { out } else { (i + 1) * factor };
        (i * factor).min(out)..until.min(out)
    }
}

/// `y = x` with pixels repeated.
pub fn forward(cx: Ctx, s: UpsampleShape, x: &[f32], y: &mut [f32]) {
    let ((ho, wo), (fh, fw), c) = (s.out, s.factor, s.c);
    assert!(fh * fw > 0 && y.len().is_multiple_of(ho * wo * c), "y is no batch of maps");
    assert!(x.len() >= y.len() / (ho * wo * c) * s.h * s.w * c, "x is too short");
    let rows = (CHUNK / (wo * c)).max(1);
    cx.pool.for_chunks_mut(y, rows * wo * c, |i, part, _| {
        for (r, row) in part.chunks_exact_mut(wo * c).enumerate() {
            let (n, oy) = ((i * rows + r) / ho, (i * rows + r) % ho);
            let line = &x[(n * s.h + (oy / fh).min(s.h - 1)) * s.w * c..][..s.w * c];
            for (ox, to) in row.chunks_exact_mut(c).enumerate() {
                to.copy_from_slice(&line[(ox / fw).min(s.w - 1) * c..][..c]);
            }
        }
    });
}

/// `dx (+)=` the sum of `dy` over the places that repeat each pixel, row by row.
pub fn backward(cx: Ctx, s: UpsampleShape, dy: &[f32], dx: &mut [f32], accumulate: bool) {
    let ((ho, wo), (fh, fw), c) = (s.out, s.factor, s.c);
    assert!(fh * fw > 0 && dx.len().is_multiple_of(s.h * s.w * c), "dx is no batch of maps");
    assert!(dy.len() >= dx.len() / (s.h * s.w * c) * ho * wo * c, "dy is too short");
    let rows = (CHUNK / (s.w * c)).max(1);
    cx.pool.for_chunks_mut(dx, rows * s.w * c, |i, part, _| {
        for (r, row) in part.chunks_exact_mut(s.w * c).enumerate() {
            let (n, y) = ((i * rows + r) / s.h, (i * rows + r) % s.h);
            if !accumulate {
                row.fill(0.0);
            }
            for oy in UpsampleShape::places(y, s.h, fh, ho) {
                let line = &dy[(n * ho + oy) * wo * c..][..wo * c];
                for (x, to) in row.chunks_exact_mut(c).enumerate() {
                    for ox in UpsampleShape::places(x, s.w, fw, wo) {
                        for (to, from) in to.iter_mut().zip(&line[ox * c..][..c]) {
                            *to += from;
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

    const CHANNELS: usize = if cfg!(miri) { 3 } else { 17 };

    #[test]
    fn forward_and_backward_are_the_plain_ones_for_any_thread_count() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let cx = Ctx { pool: &pool, isa: Isa::detect() };
            let all = [
                (1, 1, 1, 1, (1, 1), (1, 1)),
                (2, 3, 4, 5, (6, 8), (2, 2)),
                // Cut off, and longer than all repeats.
                (3, 3, 2, CHANNELS, (5, 7), (2, 3)),
                (1, 2, 2, 3, (1, 1), (4, 4)),
                (2, 40, 33, 8, (80, 66), (2, 2)),
            ];
            // Miri (`CONTRIBUTING.md`) does without the long one.
            for &(n, h, w, c, out, factor) in &all[..if cfg!(miri) { 4 } else { 5 }] {
                let s = UpsampleShape { h, w, c, out, factor };
                let source = |at: usize| {
                    let (pixel, k) = (at / c, at % c);
                    let (i, oy, ox) =
                        (pixel / (out.0 * out.1), pixel / out.1 % out.0, pixel % out.1);
                    let (y, x) = ((oy / factor.0).min(h - 1), (ox / factor.1).min(w - 1));
                    ((i * h + y) * w + x) * c + k
                };
                let x: Vec<f32> = (0..n * h * w * c).map(|i| (i * 7919 % 1009) as f32).collect();
                let mut y = vec![f32::NAN; n * out.0 * out.1 * c];
                forward(cx, s, &x, &mut y);
                assert!(y.iter().enumerate().all(|(at, y)| *y == x[source(at)]), "{s:?}");
                for accumulate in [false, true] {
                    let mut dx = vec![if accumulate { 1.0 } else { f32::NAN }; x.len()];
                    let mut want = vec![if accumulate { 1.0 } else { 0.0 }; x.len()];
                    y.iter().enumerate().for_each(|(at, y)| want[source(at)] += y);
                    backward(cx, s, &y, &mut dx, accumulate);
                    assert_eq!(dx, want, "{s:?}");
                }
            }
        }
    }
}
