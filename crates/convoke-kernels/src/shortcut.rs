//! Strided subsampling with zero channels on both sides, and its reverse.

use crate::map::{Number, no_bytes};
use crate::{Bf16, CHUNK, Ctx, Map, MapMut};

/// `x [n,h,w,c] -> y [n, ceil(h/sh), ceil(w/sw), d]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortcutShape {
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels of the input.
    pub c: usize,
    /// Channels of the output, at least `c`; the input's lie in the middle, with
    /// `(d - c) / 2` zeros in front.
    pub d: usize,
    /// Step between two rows and between two columns.
    pub stride: (usize, usize),
}

impl ShortcutShape {
    /// Rows and columns of the output.
    pub fn out(&self) -> (usize, usize) {
        (self.h.div_ceil(self.stride.0), self.w.div_ceil(self.stride.1))
    }

    /// First channel of the output that is no padding.
    fn front(&self) -> usize {
        (self.d - self.c) / 2
    }
}

/// `y [n,ho,wo,d]`: every stride-th pixel of `x [n,h,w,c]`, missing channels zero. Both maps are of one kind
/// and one range.
pub fn forward<'a>(cx: Ctx, s: ShortcutShape, x: impl Into<Map<'a>>, y: impl Into<MapMut<'a>>) {
    let x = x.into();
    match y.into() {
        MapMut::Full(y) => forward_of(cx, s, Number::of(x), y, 0.0),
        MapMut::Half(y) => forward_of(cx, s, Number::of(x), y, Bf16::default()),
        MapMut::Bytes(y, range) => forward_of(cx, s, Number::of(x), y, range.zero()),
    }
}

fn forward_of<N: Number>(cx: Ctx, s: ShortcutShape, x: &[N], y: &mut [N], zero: N) {
    let ((ho, wo), (sh, sw), front) = (s.out(), s.stride, s.front());
    assert!(s.d >= s.c && y.len().is_multiple_of(ho * wo * s.d), "y is no batch of maps");
    assert!(x.len() >= y.len() / (ho * wo * s.d) * s.h * s.w * s.c, "x is too short");
    let rows = (CHUNK / (wo * s.d)).max(1);
    cx.pool.for_chunks_mut(y, rows * wo * s.d, |i, part, _| {
        for (r, row) in part.chunks_exact_mut(wo * s.d).enumerate() {
            let (n, oy) = ((i * rows + r) / ho, (i * rows + r) % ho);
            let line = &x[(n * s.h + oy * sh) * s.w * s.c..][..s.w * s.c];
            for (to, from) in row.chunks_exact_mut(s.d).zip(line.chunks_exact(s.c).step_by(sw)) {
                to[..front].fill(zero);
                to[front..front + s.c].copy_from_slice(from);
                to[front + s.c..].fill(zero);
            }
        }
    });
}

/// `dx [n,h,w,c] (+)= dy [n,ho,wo,d]` spread to the pixels that were taken, zero elsewhere. Both maps are of one kind.
pub fn backward<'a>(
    cx: Ctx,
    s: ShortcutShape,
    dy: impl Into<Map<'a>>,
    dx: impl Into<MapMut<'a>>,
    accumulate: bool,
) {
    let dy = dy.into();
    match dx.into() {
        MapMut::Full(dx) => backward_of(cx, s, Number::of(dy), dx, accumulate),
        MapMut::Half(dx) => backward_of(cx, s, Number::of(dy), dx, accumulate),
        MapMut::Bytes(..) => no_bytes(),
    }
}

fn backward_of<N: Number>(cx: Ctx, s: ShortcutShape, dy: &[N], dx: &mut [N], accumulate: bool) {
    let ((ho, wo), (sh, sw), front) = (s.out(), s.stride, s.front());
    assert!(s.d >= s.c && dx.len().is_multiple_of(s.h * s.w * s.c), "dx is no batch of maps");
    assert!(dy.len() >= dx.len() / (s.h * s.w * s.c) * ho * wo * s.d, "dy is too short");
    let rows = (CHUNK / (s.w * s.c)).max(1);
    cx.pool.for_chunks_mut(dx, rows * s.w * s.c, |i, part, _| {
        for (r, row) in part.chunks_exact_mut(s.w * s.c).enumerate() {
            let (n, y) = ((i * rows + r) / s.h, (i * rows + r) % s.h);
            if !accumulate {
                row.fill(N::default());
            }
            if y % sh != 0 {
                continue;
            }
            let line = &dy[(n * ho + y / sh) * wo * s.d..][..wo * s.d];
            for (to, from) in row.chunks_exact_mut(s.c).step_by(sw).zip(line.chunks_exact(s.d)) {
                for (to, from) in to.iter_mut().zip(&from[front..]) {
                    *to = N::round(to.get() + from.get());
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Pool};

    fn shapes() -> Vec<(usize, ShortcutShape)> {
        let mut all = Vec::new();
        let (maps, channels) = match cfg!(miri) {
            true => (vec![(1, 1, 1), (3, 5, 4), (2, 1, 9)], vec![(1, 1), (3, 8)]),
            false => (
                vec![(1, 1, 1), (3, 7, 6), (2, 1, 9), (5, 32, 33), (2, 8, 8)],
                vec![(1, 1), (3, 8), (16, 32), (5, 6)],
            ),
        };
        for (n, h, w) in maps {
            for &(c, d) in &channels {
                for stride in [(1, 1), (2, 2), (1, 3), (9, 2)] {
                    all.push((n, ShortcutShape { h, w, c, d, stride }));
                }
            }
        }
        all
    }

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7919 % 1009) as f32 + 1.0).collect()
    }

    /// Where each number of `y` comes from, index by index.
    fn source(s: ShortcutShape, at: usize) -> Option<usize> {
        let (ho, wo) = s.out();
        let (pixel, channel) = (at / s.d, at % s.d);
        let (n, oy, ox) = (pixel / (ho * wo), pixel / wo % ho, pixel % wo);
        let c = channel.checked_sub((s.d - s.c) / 2).filter(|&c| c < s.c)?;
        Some(((n * s.h + oy * s.stride.0) * s.w + ox * s.stride.1) * s.c + c)
    }

    #[test]
    fn forward_and_backward_are_the_plain_ones_for_any_thread_count() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let cx = Ctx { pool: &pool, isa: Isa::detect() };
            for (n, s) in shapes() {
                let (ho, wo) = s.out();
                let x = numbers(n * s.h * s.w * s.c);
                let mut y = vec![f32::NAN; n * ho * wo * s.d];
                forward(cx, s, &x, &mut y);
                for (at, &y) in y.iter().enumerate() {
                    assert_eq!(y, source(s, at).map_or(0.0, |i| x[i]), "{s:?} at {at}");
                }
                let dy = numbers(y.len());
                for accumulate in [false, true] {
                    let before = if accumulate { 0.5 } else { f32::NAN };
                    let mut dx = vec![before; x.len()];
                    let mut want = vec![if accumulate { 0.5 } else { 0.0 }; x.len()];
                    backward(cx, s, &dy, &mut dx, accumulate);
                    for (at, &dy) in dy.iter().enumerate() {
                        if let Some(i) = source(s, at) {
                            want[i] += dy;
                        }
                    }
                    assert_eq!(dx, want, "{s:?}");
                }
            }
        }
    }
}
