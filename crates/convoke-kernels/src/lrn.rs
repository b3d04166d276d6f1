//! Local response normalisation across channels (Krizhevsky et al. 2012; PyTorch `LocalResponseNorm`):
//! `y_c = x_c / s_c^beta`, `s_c = k + alpha / size · Σ x²` over channels `c − size/2 ..= c + (size−1)/2`.

use crate::{CHUNK, Ctx, SharedMut};

/// Constants of the norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lrn {
    /// Channels of a pixel.
    pub c: usize,
    /// Neighbouring channels.
    pub size: usize,
    /// Strength.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Constant under the exponent.
    pub k: f32,
}

impl Lrn {
    fn neighbours(&self, c: usize) -> std::ops::Range<usize> {
        c.saturating_sub(self.size / 2)..(c + self.size.div_ceil(2)).min(self.c)
    }
}

/// `y` and the sums `s`, both shaped as `x [.., c]`.
pub fn forward(cx: Ctx, o: &Lrn, x: &[f32], s: &mut [f32], y: &mut [f32]) {
    assert!(x.len() == s.len() && x.len() == y.len(), "lengths differ");
    let block = (CHUNK / o.c).max(1) * o.c;
    let sums = SharedMut::new(s);
    cx.pool.for_chunks_mut(y, block, |i, y, _| {
        let at = i * block;
        // SAFETY: blocks are disjoint.
        let s = unsafe { sums.slice(at..at + y.len()) };
        let rows = x[at..at + y.len()].chunks_exact(o.c);
        for ((x, s), y) in rows.zip(s.chunks_exact_mut(o.c)).zip(y.chunks_exact_mut(o.c)) {
            for c in 0..o.c {
                let squares: f32 = x[o.neighbours(c)].iter().map(|v| v * v).sum();
                s[c] = o.k + o.alpha / o.size as f32 * squares;
                y[c] = x[c] * s[c].powf(-o.beta);
            }
        }
    });
}

/// `dx_j (+)= dy_j · s_j^−beta − 2 · alpha · beta / size · x_j · Σ over c near j of dy_c · y_c / s_c`.
pub fn backward(
    cx: Ctx,
    o: &Lrn,
    (x, s, y): (&[f32], &[f32], &[f32]),
    dy: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let block = (CHUNK / o.c).max(1) * o.c;
    let factor = 2.0 * o.alpha * o.beta / o.size as f32;
    cx.pool.for_chunks_mut(dx, block, |i, dx, _| {
        for (r, dx) in dx.chunks_exact_mut(o.c).enumerate() {
            let at = i * block + r * o.c;
            let row = at..at + o.c;
            let (x, s, y, dy) = (&x[row.clone()], &s[row.clone()], &y[row.clone()], &dy[row]);
            for j in 0..o.c {
                // Channels whose neighbourhood holds j: the mirror of `neighbours`.
                let near =
                    (j + 1).saturating_sub(o.size.div_ceil(2))..(j + o.size / 2 + 1).min(o.c);
                let sum: f32 = near.map(|c| dy[c] * y[c] / s[c]).sum();
                let v = dy[j] * s[j].powf(-o.beta) - factor * x[j] * sum;
                dx[j] = if accumulate { dx[j] + v } else { v };
            }
        }
    });
}
