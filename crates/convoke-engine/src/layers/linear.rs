//! How convolution and dense layers lower: pack the filters, run the walks.

use crate::layers::{BatchNorm, Layer};
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{NodeId, Result};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue};
use convoke_kernels::{activation, elementwise};
use std::sync::Arc;

/// Emits `y = clamp(x ∗ filters + bias + residual)`, norms folded into filters and bias.
pub(super) fn forward(unit: &Unit, b: &mut Lower, shape: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let conv = Arc::new(Conv::new(shape, b.isa, b.batch(), b.threads()));
    let pack = b.own(id, "forward pack", Kind::Pack, conv.forward_pack_len());
    let weight = b.param(id, "weight")?;
    let mut bias = if bias { Some(b.param(id, "bias")?) } else { None };
    let conv_for_pack = conv.clone();
    match unit.norm {
        Some(norm) => {
            let folded = b.scratch(shape.filter_len());
            let fold = Fold::new(b, norm, weight, bias, folded, shape.d)?;
            bias = Some(fold.bias_out);
            b.prepare(id, "fold norm", fold);
            b.prepare(id, "pack", Pack { conv: conv_for_pack, weight: folded, pack, back: false });
        }
        None => b.prepare(id, "pack", Pack { conv: conv_for_pack, weight, pack, back: false }),
    }
    let scratch = b.scratch(conv.forward_scratch_len());
    let residual = unit.residual.map(|r| b.value(r)).transpose()?;
    let (x, y, clamp) = (b.value(from)?, b.make(unit.output), unit.clamp(b.net));
    b.emit(id, "forward", Forward { conv, x, pack, y, bias, residual, clamp, scratch });
    Ok(())
}

/// Emits the gradients of filters, bias and input.
pub(super) fn backward(unit: &Unit, b: &mut Lower, shape: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let conv = Arc::new(Conv::new(shape, b.isa, b.batch(), b.threads()));
    let dy = unmask(unit, b)?;
    let x = b.value(from)?;
    if bias {
        let db = b.param_grad(id, "bias")?;
        emit_bias_grad(b, id, dy, db, shape.oh * shape.ow, shape.d);
    }
    let dw = b.param_grad(id, "weight")?;
    let scratch = b.scratch(conv.weights_scratch_len());
    b.emit(id, "backward weights", BackwardWeights { conv: conv.clone(), x, dy, dw, scratch });
    if let Some((dx, accumulate)) = b.grad_into(from)? {
        let pack = b.own(id, "backward pack", Kind::Pack, conv.backward_pack_len());
        let weight = b.param(id, "weight")?;
        b.prepare(id, "pack transposed", Pack { conv: conv.clone(), weight, pack, back: true });
        let scratch = b.scratch(conv.backward_scratch_len());
        b.emit(id, "backward data", BackwardData { conv, dy, pack, dx, accumulate, scratch });
    }
    Ok(())
}

/// The unit's output gradient with the activation's mask applied.
pub(super) fn unmask(unit: &Unit, b: &mut Lower) -> Result<Buf> {
    let Some((_, max)) = unit.clamp(b.net) else { return b.grad(unit.output) };
    let (y, dy) = (b.value(unit.output)?, b.grad_mut(unit.output)?);
    let len = b.shape(unit.output).len();
    b.emit(unit.main, "relu backward", Mask { y, dy, max, len });
    Ok(dy)
}

/// Emits `db [d] = sum over rows of dy [n·rows, d]`.
pub(super) fn emit_bias_grad(b: &mut Lower, id: NodeId, dy: Buf, db: Buf, rows: usize, d: usize) {
    let scratch = b.scratch(elementwise::column_sum_scratch_len(b.batch() * rows, d));
    b.emit(id, "bias gradient", BiasGrad { dy, db, rows, d, scratch });
}

/// Orders filters as the kernels read them.
#[derive(Debug)]
struct Pack {
    conv: Arc<Conv>,
    weight: Buf,
    pack: Buf,
    back: bool,
}

impl Op for Pack {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.weight, self.pack]
    }

    fn run(&self, m: &mut Memory, x: &mut Exec) {
        let [weight, pack] = m.get([self.weight, self.pack]);
        if self.back {
            self.conv.pack_backward(x.cx, weight, pack);
        } else {
            self.conv.pack_forward(x.cx, weight, pack);
        }
    }
}

/// Folds a batch norm's running statistics: `weight[…, d] · scale[d]`, `beta + (bias − mean) · scale`
/// with `scale = gamma / sqrt(var + epsilon)`.
#[derive(Debug)]
pub(super) struct Fold {
    weight: Buf,
    bias: Option<Buf>,
    gamma: Buf,
    beta: Buf,
    mean: Buf,
    var: Buf,
    epsilon: f32,
    folded: Buf,
    pub bias_out: Buf,
    d: usize,
}

impl Fold {
    /// A fold of `norm` into `weight [.., d]`, written to `folded`.
    pub fn new(
        b: &mut Lower,
        norm: NodeId,
        weight: Buf,
        bias: Option<Buf>,
        folded: Buf,
        d: usize,
    ) -> Result<Self> {
        let epsilon = match &b.net.node(norm).layer {
            Some(Layer::BatchNorm(BatchNorm { epsilon, .. })) => *epsilon,
            _ => 0.0,
        };
        Ok(Fold {
            weight,
            bias,
            gamma: b.param(norm, "weight")?,
            beta: b.param(norm, "bias")?,
            mean: b.state(norm, "running_mean")?,
            var: b.state(norm, "running_var")?,
            epsilon,
            folded,
            bias_out: b.own(norm, "folded bias", Kind::Pack, d),
            d,
        })
    }
}

impl Op for Fold {
    fn buffers(&self) -> Vec<Buf> {
        let all =
            [self.weight, self.gamma, self.beta, self.mean, self.var, self.folded, self.bias_out];
        all.into_iter().chain(self.bias).collect()
    }

    fn run(&self, m: &mut Memory, _: &mut Exec) {
        let fixed =
            [self.weight, self.gamma, self.beta, self.mean, self.var, self.folded, self.bias_out];
        let d = self.d;
        if let Some(bias) = self.bias {
            let [bias, out] = m.get([bias, self.bias_out]);
            out[..d].copy_from_slice(&bias[..d]);
        } else {
            let [out] = m.get([self.bias_out]);
            out[..d].fill(0.0);
        }
        let [weight, gamma, beta, mean, var, folded, out] = m.get(fixed);
        let scale = |i: usize| gamma[i] / (var[i] + self.epsilon).sqrt();
        for i in 0..d {
            out[i] = beta[i] + (out[i] - mean[i]) * scale(i);
        }
        for (row, target) in weight.chunks_exact(d).zip(folded.chunks_exact_mut(d)) {
            for i in 0..d {
                target[i] = row[i] * scale(i);
            }
        }
    }
}

#[derive(Debug)]
struct Forward {
    conv: Arc<Conv>,
    x: Buf,
    pack: Buf,
    y: Buf,
    bias: Option<Buf>,
    residual: Option<Buf>,
    clamp: Option<(f32, f32)>,
    scratch: Buf,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        let all = [self.x, self.pack, self.y, self.scratch];
        all.into_iter().chain(self.bias).chain(self.residual).collect()
    }

    fn macs(&self) -> u64 {
        self.conv.shape().macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let Forward { conv, clamp, .. } = self;
        let (x, pack, y, scratch) = (self.x, self.pack, self.y, self.scratch);
        let go = |x: &[f32], pack: &[f32], y: &mut [f32], scratch: &mut [f32], bias, residual| {
            let epilogue = Epilogue { bias, residual, clamp: *clamp };
            conv.forward(e.cx, e.n, x, pack, y, epilogue, scratch);
        };
        // A residual that is the convolution's own input is read through one slice.
        match (self.bias, self.residual.filter(|&r| r != x), self.residual.is_some()) {
            (None, None, own) => {
                let [x, pack, y, s] = m.get([x, pack, y, scratch]);
                go(x, pack, y, s, None, own.then_some(&*x));
            }
            (Some(b), None, own) => {
                let [x, pack, y, s, b] = m.get([x, pack, y, scratch, b]);
                go(x, pack, y, s, Some(&*b), own.then_some(&*x));
            }
            (None, Some(r), _) => {
                let [x, pack, y, s, r] = m.get([x, pack, y, scratch, r]);
                go(x, pack, y, s, None, Some(&*r));
            }
            (Some(b), Some(r), _) => {
                let [x, pack, y, s, b, r] = m.get([x, pack, y, scratch, b, r]);
                go(x, pack, y, s, Some(&*b), Some(&*r));
            }
        }
    }
}

#[derive(Debug)]
struct BackwardWeights {
    conv: Arc<Conv>,
    x: Buf,
    dy: Buf,
    dw: Buf,
    scratch: Buf,
}

impl Op for BackwardWeights {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.dy, self.dw, self.scratch]
    }

    fn macs(&self) -> u64 {
        self.conv.shape().macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, dy, dw, scratch] = m.get([self.x, self.dy, self.dw, self.scratch]);
        self.conv.backward_weights(e.cx, e.n, x, dy, dw, scratch);
    }
}

#[derive(Debug)]
struct BackwardData {
    conv: Arc<Conv>,
    dy: Buf,
    pack: Buf,
    dx: Buf,
    accumulate: bool,
    scratch: Buf,
}

impl Op for BackwardData {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.pack, self.dx, self.scratch]
    }

    fn macs(&self) -> u64 {
        self.conv.shape().macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, pack, dx, scratch] = m.get([self.dy, self.pack, self.dx, self.scratch]);
        self.conv.backward_data(e.cx, e.n, dy, pack, dx, self.accumulate, scratch);
    }
}

/// `dy = 0` where the clamped output `y` stands at a bound.
#[derive(Debug)]
struct Mask {
    y: Buf,
    dy: Buf,
    max: f32,
    len: usize,
}

impl Op for Mask {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.y, self.dy]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [y, dy] = m.get([self.y, self.dy]);
        let len = e.n * self.len;
        activation::relu_backward_in_place(e.cx, &y[..len], &mut dy[..len], self.max);
    }
}

#[derive(Debug)]
struct BiasGrad {
    dy: Buf,
    db: Buf,
    rows: usize,
    d: usize,
    scratch: Buf,
}

impl Op for BiasGrad {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.db, self.scratch]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, db, scratch] = m.get([self.dy, self.db, self.scratch]);
        let len = e.n * self.rows * self.d;
        elementwise::column_sum(e.cx, &dy[..len], &mut db[..self.d], scratch);
    }
}
