//! A map times one number per channel of each sample (Hu et al. 2018): `x [n, pixels, c] · gate [n, c]`.

use crate::{Ctx, SharedMut, multiversion};

/// `y = x · gate`.
pub fn forward(cx: Ctx, pixels: usize, x: &[f32], gate: &[f32], y: &mut [f32], c: usize) {
    assert!(x.len() == y.len() && y.len() == pixels * gate.len(), "lengths differ");
    cx.pool.for_chunks_mut(y, pixels * c, |i, y, _| {
        let (x, gate) = (&x[i * pixels * c..][..y.len()], &gate[i * c..][..c]);
        let accumulate = false;
        multiversion!(cx.isa, scale_body(x: &[f32], gate: &[f32], y: &mut [f32], accumulate: bool));
    });
}

/// `dx (+)= dy · gate`.
pub fn backward_map(
    cx: Ctx,
    pixels: usize,
    dy: &[f32],
    gate: &[f32],
    dx: &mut [f32],
    c: usize,
    accumulate: bool,
) {
    assert!(dy.len() == dx.len() && dx.len() == pixels * gate.len(), "lengths differ");
    cx.pool.for_chunks_mut(dx, pixels * c, |i, dx, _| {
        let (dy, gate) = (&dy[i * pixels * c..][..dx.len()], &gate[i * c..][..c]);
        multiversion!(cx.isa, scale_body(dy: &[f32], gate: &[f32], dx: &mut [f32], accumulate: bool));
    });
}

#[inline(always)]
fn scale_body(x: &[f32], gate: &[f32], y: &mut [f32], accumulate: bool) {
    for (x, y) in x.chunks_exact(gate.len()).zip(y.chunks_exact_mut(gate.len())) {
        for ((y, x), g) in y.iter_mut().zip(x).zip(gate) {
            *y = if accumulate { *y + x * g } else { x * g };
        }
    }
}

/// `dgate (+)= Σ over pixels of dy · x`, one sample an item.
pub fn backward_gate(
    cx: Ctx,
    pixels: usize,
    dy: &[f32],
    x: &[f32],
    dgate: &mut [f32],
    c: usize,
    accumulate: bool,
) {
    assert!(dy.len() == x.len() && x.len() == pixels * dgate.len(), "lengths differ");
    let samples = dgate.len() / c;
    let dgate = SharedMut::new(dgate);
    cx.pool.run(samples, &|i, _| {
        // SAFETY: every sample belongs to one item.
        let sum = unsafe { dgate.slice(i * c..(i + 1) * c) };
        if !accumulate {
            sum.fill(0.0);
        }
        let range = i * pixels * c..(i + 1) * pixels * c;
        let (dy, x) = (&dy[range.clone()], &x[range]);
        multiversion!(cx.isa, sum_body(dy: &[f32], x: &[f32], sum: &mut [f32]));
    });
}

#[inline(always)]
fn sum_body(dy: &[f32], x: &[f32], sum: &mut [f32]) {
    for (dy, x) in dy.chunks_exact(sum.len()).zip(x.chunks_exact(sum.len())) {
        for ((s, dy), x) in sum.iter_mut().zip(dy).zip(x) {
            *s += dy * x;
        }
    }
}
