//! How a convolution with one filter per channel lowers.

use super::linear::{Fold, emit_bias_grad, unmask};
use crate::Result;
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::{Lower, PendingNorm};
use crate::plan::op::{Exec, Op};
use crate::plan::ops;
use crate::plan::unit::Unit;
use convoke_kernels::conv::ConvShape;
use convoke_kernels::depthwise as kernels;
use convoke_kernels::norm::Source;
use convoke_kernels::{Map, MapMut};

/// Emits `y = clamp(x ∗ filters + bias)`, norms folded; a residual is added by a call of its own.
pub(super) fn forward(unit: &Unit, b: &mut Lower, s: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let (weight, bias) = weights(unit, b, &s, bias)?;
    let (x, norm) = b.source(from)?;
    let (y, clamp) = (b.make(unit.output), unit.clamp(b.net));
    let Some(residual) = unit.residual else {
        b.emit(id, "forward", Forward { s, x, norm, weight, bias, y, clamp });
        return Ok(());
    };
    let (r, len) = (b.value(residual)?, b.shape(unit.output).len());
    b.emit(id, "forward", Forward { s, x, norm, weight, bias, y, clamp: None });
    b.emit(id, "residual", ops::AddTo { src: r, dst: y, len });
    if let Some((lo, hi)) = clamp {
        b.emit(id, "clamp", ops::Clamp { dst: y, lo, hi, len });
    }
    Ok(())
}

/// Filters and bias of a unit, its norm folded into both.
pub(super) fn weights(
    unit: &Unit,
    b: &mut Lower,
    s: &ConvShape,
    bias: bool,
) -> Result<(Buf, Option<Buf>)> {
    let id = unit.main;
    let weight = b.param(id, "weight")?;
    let bias = if bias { Some(b.param(id, "bias")?) } else { None };
    let Some(norm) = unit.norm else { return Ok((weight, bias)) };
    let folded = b.own(id, "folded", Kind::Pack, s.filter_len());
    let fold = Fold::new(b, norm, weight, bias, folded, s.c)?;
    let bias = Some(fold.bias_out);
    b.prepare(id, "fold norm", fold);
    Ok((folded, bias))
}

/// Emits the gradients of filters, bias and input.
pub(super) fn backward(unit: &Unit, b: &mut Lower, s: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let dy = unmask(unit, b)?;
    if bias && b.learns() {
        let db = b.param_grad(id, "bias")?;
        emit_bias_grad(b, id, dy, db, s.oh * s.ow, s.d);
    }
    if b.learns() {
        let ((x, norm), dw) = (b.source(from)?, b.param_grad(id, "weight")?);
        let scratch = b.scratch(kernels::scratch_len(&s, b.batch()));
        b.emit(id, "backward weights", BackwardWeights { s, x, norm, dy, dw, scratch });
    }
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
    norm: Option<PendingNorm>,
    weight: Buf,
    bias: Option<Buf>,
    y: Buf,
    clamp: Option<(f32, f32)>,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        let norm = self.norm.iter().flat_map(|n| [n.scale, n.shift]);
        let all = [self.x, self.weight, self.y];
        all.into_iter().chain(self.bias).chain(norm).collect()
    }

    fn macs(&self) -> u64 {
        self.s.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let (scale, shift) = self.norm.map_or((Buf::NONE, Buf::NONE), |n| (n.scale, n.shift));
        let bias = self.bias.unwrap_or(Buf::NONE);
        let [form_x, form_y] = [self.x, self.y].map(|b| m.form(b));
        let [x, w, y, bias, scale, shift] =
            m.get([self.x, self.weight, self.y, bias, scale, shift]);
        let epilogue = kernels::Epilogue { bias: self.bias.map(|_| &*bias), clamp: self.clamp };
        let norm = self.norm.map(|n| n.over(scale, shift));
        let (source, y) = (Source { x: Map::of(x, form_x), norm }, MapMut::of(y, form_y));
        kernels::forward(e.cx, &self.s, e.n, source, w, y, epilogue);
    }
}

#[derive(Debug)]
struct BackwardWeights {
    s: ConvShape,
    x: Buf,
    norm: Option<PendingNorm>,
    dy: Buf,
    dw: Buf,
    scratch: Buf,
}

impl Op for BackwardWeights {
    fn buffers(&self) -> Vec<Buf> {
        let norm = self.norm.iter().flat_map(|n| [n.scale, n.shift]);
        [self.x, self.dy, self.dw, self.scratch].into_iter().chain(norm).collect()
    }

    fn macs(&self) -> u64 {
        self.s.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let (scale, shift) = self.norm.map_or((Buf::NONE, Buf::NONE), |n| (n.scale, n.shift));
        let form = m.form(self.x);
        let [x, dy, dw, scratch, scale, shift] =
            m.get([self.x, self.dy, self.dw, self.scratch, scale, shift]);
        let norm = self.norm.map(|n| n.over(scale, shift));
        let (source, dy) = (Source { x: Map::of(x, form), norm }, Map::of(dy, form));
        kernels::backward_weights(e.cx, &self.s, e.n, source, dy, dw, scratch);
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
        let form = m.form(self.dx);
        let [dy, w, dx] = m.get([self.dy, self.weight, self.dx]);
        let (dy, dx) = (Map::of(dy, form), MapMut::of(dx, form));
        kernels::backward_data(e.cx, &self.s, e.n, dy, w, dx, self.accumulate);
    }
}
