//! How a convolution with one filter per channel lowers.

use super::linear::{Fold, emit_bias_grad, unmask};
use crate::Result;
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::ops;
use crate::plan::unit::Unit;
use convoke_kernels::conv::ConvShape;
use convoke_kernels::depthwise as kernels;

/// Emits `y = clamp(x ∗ filters + bias)`, norms folded; a residual is added by a call of its own.
pub(super) fn forward(unit: &Unit, b: &mut Lower, s: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let mut weight = b.param(id, "weight")?;
    let mut bias = if bias { Some(b.param(id, "bias")?) } else { None };
    if let Some(norm) = unit.norm {
        let folded = b.own(id, "folded", Kind::Pack, s.filter_len());
        let fold = Fold::new(b, norm, weight, bias, folded, s.c)?;
        (weight, bias) = (folded, Some(fold.bias_out));
        b.prepare(id, "fold norm", fold);
    }
    let (x, y, clamp) = (b.value(from)?, b.make(unit.output), unit.clamp(b.net));
    let Some(residual) = unit.residual else {
        b.emit(id, "forward", Forward { s, x, weight, bias, y, clamp });
        return Ok(());
    };
    let (r, len) = (b.value(residual)?, b.shape(unit.output).len());
    b.emit(id, "forward", Forward { s, x, weight, bias, y, clamp: None });
    b.emit(id, "residual", ops::AddTo { src: r, dst: y, len });
    if let Some((lo, hi)) = clamp {
        b.emit(id, "clamp", ops::Clamp { dst: y, lo, hi, len });
    }
    Ok(())
}

/// Emits the gradients of filters, bias and input.
pub(super) fn backward(unit: &Unit, b: &mut Lower, s: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let dy = unmask(unit, b)?;
    if bias {
        let db = b.param_grad(id, "bias")?;
        emit_bias_grad(b, id, dy, db, s.oh * s.ow, s.d);
    }
    let (x, dw) = (b.value(from)?, b.param_grad(id, "weight")?);
    let scratch = b.scratch(kernels::scratch_len(&s, b.batch()));
    b.emit(id, "backward weights", BackwardWeights { s, x, dy, dw, scratch });
    if let Some((dx, accumulate)) = b.grad_into(from)? {
        let weight = b.param(id, "weight")?;
        b.emit(id, "backward data", BackwardData { s, dy, weight, dx, accumulate });
    }
    Ok(())
}

#[derive(Debug)]
struct Forward {
    s: ConvShape,
    x: Buf,
    weight: Buf,
    bias: Option<Buf>,
    y: Buf,
    clamp: Option<(f32, f32)>,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        [self.x, self.weight, self.y].into_iter().chain(self.bias).collect()
    }

    fn macs(&self) -> u64 {
        self.s.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let clamp = self.clamp;
        match self.bias {
            Some(bias) => {
                let [x, w, y, bias] = m.get([self.x, self.weight, self.y, bias]);
                let epilogue = kernels::Epilogue { bias: Some(bias), clamp };
                kernels::forward(e.cx, &self.s, e.n, x, w, y, epilogue);
            }
            None => {
                let [x, w, y] = m.get([self.x, self.weight, self.y]);
                let epilogue = kernels::Epilogue { bias: None, clamp };
                kernels::forward(e.cx, &self.s, e.n, x, w, y, epilogue);
            }
        }
    }
}

#[derive(Debug)]
struct BackwardWeights {
    s: ConvShape,
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
        self.s.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, dy, dw, scratch] = m.get([self.x, self.dy, self.dw, self.scratch]);
        kernels::backward_weights(e.cx, &self.s, e.n, x, dy, dw, scratch);
    }
}

#[derive(Debug)]
struct BackwardData {
    s: ConvShape,
    dy: Buf,
    weight: Buf,
    dx: Buf,
    accumulate: bool,
}

impl Op for BackwardData {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.weight, self.dx]
    }

    fn macs(&self) -> u64 {
        self.s.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, w, dx] = m.get([self.dy, self.weight, self.dx]);
        kernels::backward_data(e.cx, &self.s, e.n, dy, w, dx, self.accumulate);
    }
}
