//! One pass over weights, gradients and moments.

use crate::elementwise::settled;
use crate::{CHUNK, Ctx, SharedMut, multiversion};

/// Stochastic gradient descent (PyTorch `SGD`): `g += weight_decay · w`; `v = momentum · v + g`;
/// `w −= lr · v`, or with Nesterov `w −= lr · (g + momentum · v)`. `v` starts at zero, which gives
/// PyTorch's first step `v = g`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Momentum; 0 for none.
    pub momentum: f32,
    /// Nesterov's form.
    pub nesterov: bool,
    /// L2 penalty.
    pub weight_decay: f32,
}

/// Updates `w` (and `v`).
pub fn sgd(cx: Ctx, w: &mut [f32], g: &[f32], v: Option<&mut [f32]>, o: &Sgd) {
    assert_eq!(w.len(), g.len(), "lengths differ");
    let o = *o;
    match v {
        None => cx.pool.for_chunks_mut(w, CHUNK, |i, w, _| {
            let g = &g[i * CHUNK..][..w.len()];
            multiversion!(cx.isa, plain_body(w: &mut [f32], g: &[f32], o: Sgd));
        }),
        Some(v) => {
            assert_eq!(w.len(), v.len(), "lengths differ");
            let v = SharedMut::new(v);
            cx.pool.for_chunks_mut(w, CHUNK, |i, w, _| {
                let g = &g[i * CHUNK..][..w.len()];
                // SAFETY: chunks are disjoint.
                let v = unsafe { v.slice(i * CHUNK..i * CHUNK + w.len()) };
                multiversion!(cx.isa, momentum_body(w: &mut [f32], g: &[f32], v: &mut [f32], o: Sgd));
            });
        }
    }
}

#[inline(always)]
fn plain_body(w: &mut [f32], g: &[f32], o: Sgd) {
    for (w, g) in w.iter_mut().zip(g) {
        *w -= o.lr * (g + o.weight_decay * *w);
    }
}

#[inline(always)]
fn momentum_body(w: &mut [f32], g: &[f32], v: &mut [f32], o: Sgd) {
    for ((w, g), v) in w.iter_mut().zip(g).zip(v.iter_mut()) {
        let g = g + o.weight_decay * *w;
        *v = settled(o.momentum * *v + g);
        let step = if o.nesterov { g + o.momentum * *v } else { *v };
        *w -= o.lr * step;
    }
}

/// Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), as PyTorch computes them:
/// `m`, `v` with bias correction, epsilon added to the corrected root.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the mean.
    pub beta1: f32,
    /// Decay of the squared mean.
    pub beta2: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// Decay of the weights.
    pub weight_decay: f32,
    /// Decay apart from the gradient (AdamW).
    pub decoupled: bool,
    /// Number of this step, from 1.
    pub step: u64,
}

/// Updates `w`, `m` and `v`.
pub fn adam(cx: Ctx, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], o: &Adam) {
    assert!(w.len() == g.len() && w.len() == m.len() && w.len() == v.len(), "lengths differ");
    let o = *o;
    let correct = |beta: f32| (1.0 - f64::from(beta).powi(o.step.min(1 << 30) as i32)) as f32;
    let (c1, c2) = (correct(o.beta1), correct(o.beta2));
    let (size, root) = (o.lr / c1, c2.sqrt());
    let (m, v) = (SharedMut::new(m), SharedMut::new(v));
    cx.pool.for_chunks_mut(w, CHUNK, |i, w, _| {
        let range = i * CHUNK..i * CHUNK + w.len();
        let g = &g[range.clone()];
        // SAFETY: chunks are disjoint.
        let (m, v) = unsafe { (m.slice(range.clone()), v.slice(range)) };
        multiversion!(cx.isa, adam_body(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], o: Adam,
            size: f32, root: f32));
    });
}

#[inline(always)]
fn adam_body(
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    o: Adam,
    size: f32,
    root: f32,
) {
    let (coupled, apart) =
        if o.decoupled { (0.0, 1.0 - o.lr * o.weight_decay) } else { (o.weight_decay, 1.0) };
    for (((w, g), m), v) in w.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
        let g = settled(g + coupled * *w);
        *m = settled(*m + (g - *m) * (1.0 - o.beta1));
        *v = o.beta2 * *v + (1.0 - o.beta2) * g * g;
        let denominator = v.sqrt() / root + o.epsilon;
        *w = *w * apart - size * *m / denominator;
    }
}
