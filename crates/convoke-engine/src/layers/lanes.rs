//! How convolution and dense layers lower with pictures in the lanes: filters are read as they lie, and
//! gradients of weights are added to what is there, group after group.

use super::linear::unmask;
use crate::Result;
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use convoke_kernels::conv::ConvShape;
use convoke_kernels::lanes as kernels;

/// Emits `y = clamp(x ∗ filters + bias)`.
pub(super) fn forward(unit: &Unit, b: &mut Lower, s: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let (x, weight) = (b.value(from)?, b.param(id, "weight")?);
    let bias = if bias { Some(b.param(id, "bias")?) } else { None };
    let scratch = b.scratch(kernels::forward_scratch_len(&s));
    let (y, clamp) = (b.make(unit.output), unit.clamp(b.net));
    b.emit(id, "forward", Forward { s, x, weight, bias, y, clamp, scratch });
    Ok(())
}

/// Emits the gradients of filters, bias and input.
pub(super) fn backward(unit: &Unit, b: &mut Lower, s: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let dy = unmask(unit, b)?;
    if bias {
        let db = b.param_grad(id, "bias")?;
        b.emit(id, "bias gradient", BiasGrad { dy, db, d: s.d });
    }
    let (x, dw) = (b.value(from)?, b.param_grad(id, "weight")?);
    let scratch = b.scratch(kernels::weights_scratch_len(&s));
    b.emit(id, "backward weights", BackwardWeights { s, x, dy, dw, scratch });
    if let Some((dx, accumulate)) = b.grad_into(from)? {
        let weight = b.param(id, "weight")?;
        let scratch = b.scratch(kernels::backward_scratch_len(&s));
        b.emit(id, "backward data", BackwardData { s, dy, weight, dx, accumulate, scratch });
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
    scratch: Buf,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        [self.x, self.weight, self.y, self.scratch].into_iter().chain(self.bias).collect()
    }

    fn macs(&self) -> u64 {
        self.s.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let isa = e.cx.isa;
        match self.bias {
            Some(bias) => {
                let [x, w, y, s, bias] = m.get([self.x, self.weight, self.y, self.scratch, bias]);
                kernels::forward(isa, &self.s, x, w, Some(bias), self.clamp, y, s);
            }
            None => {
                let [x, w, y, s] = m.get([self.x, self.weight, self.y, self.scratch]);
                kernels::forward(isa, &self.s, x, w, None, self.clamp, y, s);
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
        kernels::backward_weights(e.cx.isa, &self.s, x, dy, dw, scratch);
    }
}

#[derive(Debug)]
struct BackwardData {
    s: ConvShape,
    dy: Buf,
    weight: Buf,
    dx: Buf,
    accumulate: bool,
    scratch: Buf,
}

impl Op for BackwardData {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.weight, self.dx, self.scratch]
    }

    fn macs(&self) -> u64 {
        self.s.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, w, dx, scratch] = m.get([self.dy, self.weight, self.dx, self.scratch]);
        kernels::backward_data(e.cx.isa, &self.s, dy, w, dx, self.accumulate, scratch);
    }
}

#[derive(Debug)]
struct BiasGrad {
    dy: Buf,
    db: Buf,
    d: usize,
}

impl Op for BiasGrad {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.db]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, db] = m.get([self.dy, self.db]);
        kernels::bias_gradient(e.cx.isa, dy, &mut db[..self.d]);
    }
}
