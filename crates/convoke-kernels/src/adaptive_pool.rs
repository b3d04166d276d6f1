//! Mean pooling to a given size (PyTorch `AdaptiveAvgPool2d`): `x [n,h,w,c] -> y [n,oh,ow,c]`. Output `i` of `o`
//! is the mean of inputs `floor(i · size / o) .. ceil((i + 1) · size / o)`; windows may overlap, and where the
//! output is larger than the input, pixels are repeated.

use crate::{Ctx, multiversion};
use std::ops::Range;

/// Sizes of input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveShape {
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Output rows.
    pub oh: usize,
    /// Output columns.
    pub ow: usize,
}

/// Inputs that output `i` of `outputs` is the mean of.
#[inline(always)]
pub fn window(i: usize, size: usize, outputs: usize) -> Range<usize> {
    i * size / outputs..((i + 1) * size).div_ceil(outputs)
}

/// Outputs whose window holds input `i`.
#[inline(always)]
fn covering(i: usize, size: usize, outputs: usize) -> Range<usize> {
    i * outputs / size..((i + 1) * outputs).div_ceil(size)
}

/// `y` = mean of each window.
pub fn forward(cx: Ctx, s: &AdaptiveShape, n: usize, x: &[f32], y: &mut [f32]) {
    let line = s.ow * s.c;
    cx.pool.for_chunks_mut(&mut y[..n * s.oh * line], line, |row, y, _| {
        let (s, oy) = (*s, row % s.oh);
        let x = &x[row / s.oh * s.h * s.w * s.c..][..s.h * s.w * s.c];
        multiversion!(cx.isa, forward_row(s: AdaptiveShape, oy: usize, x: &[f32], y: &mut [f32]));
    });
}

#[inline(always)]
fn forward_row(s: AdaptiveShape, oy: usize, x: &[f32], y: &mut [f32]) {
    let rows = window(oy, s.h, s.oh);
    for (ox, y) in y.chunks_exact_mut(s.c).enumerate() {
        let columns = window(ox, s.w, s.ow);
        y.fill(0.0);
        for row in rows.clone() {
            for column in columns.clone() {
                let x = &x[(row * s.w + column) * s.c..][..s.c];
                for (y, x) in y.iter_mut().zip(x) {
                    *y += x;
                }
            }
        }
        let share = 1.0 / (rows.len() * columns.len()) as f32;
        y.iter_mut().for_each(|y| *y *= share);
    }
}

/// `dx [n,h,w,c] (+)=` each output's gradient, shared among its window's pixels.
pub fn backward(
    cx: Ctx,
    s: &AdaptiveShape,
    n: usize,
    dy: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let line = s.w * s.c;
    let out = s.oh * s.ow * s.c;
    cx.pool.for_chunks_mut(&mut dx[..n * s.h * line], line, |row, dx, _| {
        if !accumulate {
            dx.fill(0.0);
        }
        let (s, y) = (*s, row % s.h);
        let dy = &dy[row / s.h * out..][..out];
        multiversion!(cx.isa, backward_row(s: AdaptiveShape, y: usize, dy: &[f32], dx: &mut [f32]));
    });
}

#[inline(always)]
fn backward_row(s: AdaptiveShape, y: usize, dy: &[f32], dx: &mut [f32]) {
    for oy in covering(y, s.h, s.oh) {
        let rows = window(oy, s.h, s.oh).len();
        for (x, dx) in dx.chunks_exact_mut(s.c).enumerate() {
            for ox in covering(x, s.w, s.ow) {
                let share = 1.0 / (rows * window(ox, s.w, s.ow).len()) as f32;
                let dy = &dy[(oy * s.ow + ox) * s.c..][..s.c];
                for (d, g) in dx.iter_mut().zip(dy) {
                    *d += g * share;
                }
            }
        }
    }
}
