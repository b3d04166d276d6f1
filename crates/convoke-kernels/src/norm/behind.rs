//! The last step of the way back through a norm, where whoever reads the gradient makes it.

use super::each_lanes;
use crate::Isa;
use crate::gemm::Simd;
use crate::isa::simd;

/// `a · dy + b · x + k` per channel: what [`super::backward_data`] would write of a gradient `dy` without a clamp.
#[derive(Debug, Clone, Copy)]
pub struct Behind<'a> {
    /// Input of the norm `[rows, c]`.
    pub x: &'a [f32],
    /// The slopes a and b, and k, `[c]` each.
    pub slopes: [&'a [f32]; 3],
}

/// Fills the slopes for `rows` rows, of a norm's mean, inverse deviation and weight, and of the gradients of its weight
/// and bias; all are `[c]`.
pub fn slopes(
    rows: usize,
    [mean, invstd, gamma]: [&[f32]; 3],
    [dgamma, dbeta]: [&[f32]; 2],
    slopes: [&mut [f32]; 3],
) {
    let ([a, b, k], n) = (slopes, rows as f64);
    for i in 0..mean.len() {
        let invstd = f64::from(invstd[i]);
        let scale = f64::from(gamma[i]) * invstd;
        let slope = -scale * invstd * f64::from(dgamma[i]) / n;
        a[i] = scale as f32;
        b[i] = slope as f32;
        k[i] = (-scale * f64::from(dbeta[i]) / n - slope * f64::from(mean[i])) as f32;
    }
}

impl Behind<'_> {
    /// Whether it is of a map `[rows, c]`.
    pub(crate) fn holds(&self, rows: usize, c: usize) -> bool {
        self.x.len() >= rows * c && self.slopes.iter().all(|s| s.len() == c)
    }

    /// Makes the rows of `dy`, of which the first is row `first` of the map, `pitch` floats from one to the next.
    pub(crate) fn make(&self, isa: Isa, first: usize, dy: &[f32], to: &mut [f32], pitch: usize) {
        let c = self.slopes[0].len();
        let x = &self.x[first * c..][..dy.len()];
        assert!(pitch >= c && to.len() >= dy.len() / c * pitch, "too little room");
        let slopes = self.slopes;
        // SAFETY: whole rows of `c`, for which there is room.
        unsafe {
            simd!(isa, body(x: &[f32], dy: &[f32], slopes: [&[f32]; 3], to: &mut [f32], pitch: usize))
        }
    }
}

/// Rows whose lines are read together.
const ROWS: usize = 8;

#[inline(always)]
unsafe fn body<S: Simd>(
    x: &[f32],
    dy: &[f32],
    [a, b, k]: [&[f32]; 3],
    to: &mut [f32],
    pitch: usize,
) {
    let (c, rows) = (a.len(), dy.len() / a.len());
    // SAFETY: the caller's.
    unsafe {
        for first in (0..rows).step_by(ROWS) {
            each_lanes::<S>(c, |at, m| {
                let load = |p: &[f32]| S::load_first(p.as_ptr().add(at), m);
                let (a, b, k) = (load(a), load(b), load(k));
                for row in first..rows.min(first + ROWS) {
                    let x = S::load_first(x.as_ptr().add(row * c + at), m);
                    let g = S::load_first(dy.as_ptr().add(row * c + at), m);
                    let v = S::fma(g, a, S::fma(x, b, k));
                    S::store_first(to.as_mut_ptr().add(row * pitch + at), v, m);
                }
            });
        }
    }
}
