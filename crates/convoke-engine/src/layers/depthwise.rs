//! How a convolution with one filter per channel lowers.

use super::linear::{Fold, emit_bias_grad, unmask};
use crate::Result;
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::{Lower, NormSums, PendingNorm};
use crate::plan::op::{Exec, Op};
use crate::plan::ops;
use crate::plan::statistics::Tally;
use crate::plan::unit::Unit;
use convoke_kernels::conv::ConvShape;
use convoke_kernels::depthwise::{self as kernels, Sums};
use convoke_kernels::norm::{self, Source, SumsOf};
use convoke_kernels::{Map, MapMut};
use std::sync::Arc;

/// Emits `y = clamp(x ∗ filters + bias)`, norms folded; a residual is added by a call of its own.
pub(super) fn forward(unit: &Unit, b: &mut Lower, s: ConvShape, bias: bool) -> Result<()> {
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let (weight, bias) = weights(unit, b, &s, bias)?;
    let (x, norm) = b.source(from)?;
    let y = b.make(unit.output);
    // What a residual is added to is clamped after it.
    let (clamp, after) = match unit.residual {
        None => (unit.clamp(b.net), None),
        Some(_) => (None, unit.clamp(b.net)),
    };
    let (shards, tally) = (kernels::shards(&s, b.batch(), b.form(unit.output)), None);
    b.emit(id, "forward", Forward { s, x, norm, weight, bias, y, clamp, shards, tally });
    let Some(residual) = unit.residual else { return Ok(()) };
    let (r, len) = (b.value(residual)?, b.shape(unit.output).len());
    b.emit(id, "residual", ops::AddTo { src: r, dst: y, len });
    if let Some((lo, hi)) = after {
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
    let (x, norm) = b.source(from)?;
    let dw = if b.learns() { Some(b.param_grad(id, "weight")?) } else { None };
    let (sums, dx) = (b.take_sums(from), b.grad_into(from)?);
    let part = match (dw, dx) {
        (Some(_), Some(_)) => "backward",
        (Some(_), None) => "backward weights",
        (None, Some(_)) => "backward data",
        (None, None) => return Ok(()),
    };
    let (weight, scratch) =
        (b.param(id, "weight")?, b.scratch(kernels::scratch_len(&s, b.batch())));
    b.emit(id, part, Backward { s, x, norm, sums, dy, weight, dx, dw, scratch });
    Ok(())
}

#[derive(Debug, Clone)]
struct Forward {
    s: ConvShape,
    x: Buf,
    norm: Option<PendingNorm>,
    weight: Buf,
    bias: Option<Buf>,
    y: Buf,
    clamp: Option<(f32, f32)>,
    /// Shards of sums over the output, and such sums.
    shards: usize,
    tally: Option<Tally>,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        let norm = self.norm.iter().flat_map(|n| [n.scale, n.shift]);
        let all = [self.x, self.weight, self.y];
        let tally = self.tally.iter().map(|t| t.space);
        all.into_iter().chain(self.bias).chain(norm).chain(tally).collect()
    }

    fn macs(&self) -> u64 {
        self.s.macs()
    }

    fn shards(&self, tally: &Tally) -> usize {
        if (tally.map, tally.c) == (self.y, self.s.c) { self.shards } else { 0 }
    }

    fn with(&self, tally: Tally) -> Arc<dyn Op> {
        Arc::new(Forward { tally: Some(tally), ..self.clone() })
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let (scale, shift) = self.norm.map_or((Buf::NONE, Buf::NONE), |n| (n.scale, n.shift));
        let bias = self.bias.unwrap_or(Buf::NONE);
        let [form_x, form_y] = [self.x, self.y].map(|b| m.form(b));
        let space = self.tally.map_or(Buf::NONE, |t| t.space);
        let [x, w, y, bias, scale, shift, space] =
            m.get([self.x, self.weight, self.y, bias, scale, shift, space]);
        let tally = self.tally.map(|t| norm::Tally::statistics(t.shards, t.c, space));
        let (bias, tally) = (self.bias.map(|_| &*bias), tally.as_ref());
        let epilogue = kernels::Epilogue { bias, clamp: self.clamp, tally };
        let norm = self.norm.map(|n| n.over(scale, shift));
        let (source, y) = (Source { x: Map::of(x, form_x), norm }, MapMut::of(y, form_y));
        kernels::forward(e.cx, &self.s, e.n, source, w, y, epilogue);
    }
}

/// The gradients that are wanted, in one walk.
#[derive(Debug)]
struct Backward {
    s: ConvShape,
    x: Buf,
    norm: Option<PendingNorm>,
    /// The norm's sums, where they are made on the way.
    sums: Option<NormSums>,
    dy: Buf,
    weight: Buf,
    /// The input's gradient, and whether it is added to.
    dx: Option<(Buf, bool)>,
    dw: Option<Buf>,
    scratch: Buf,
}

impl Backward {
    /// Its buffers, none in the place of those that it does without: `x`, the norm's, `dw` and scratch; `dy`; filters and
    /// `dx`; those of the norm's sums.
    fn places(&self) -> [Buf; 12] {
        let [mut x, mut scale, mut shift, mut scratch] = [Buf::NONE; 4];
        if self.dw.is_some() {
            (x, scratch) = (self.x, self.scratch);
            (scale, shift) = self.norm.map_or((scale, shift), |n| (n.scale, n.shift));
        }
        let dw = self.dw.unwrap_or(Buf::NONE);
        let (weight, dx) = self.dx.map_or((Buf::NONE, Buf::NONE), |(dx, _)| (self.weight, dx));
        let [mean, invstd, dgamma, dbeta] = NormSums::buffers(self.sums);
        [x, scale, shift, dw, scratch, self.dy, weight, dx, mean, invstd, dgamma, dbeta]
    }
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        self.places().into_iter().filter(|&b| b != Buf::NONE).collect()
    }

    fn macs(&self) -> u64 {
        self.s.macs() * (u64::from(self.dx.is_some()) + u64::from(self.dw.is_some()))
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let (cx, s, n, c, form) = (e.cx, &self.s, e.n, self.s.c, m.form(self.dy));
        let [x, scale, shift, dw, scratch, dy, w, dx, mean, invstd, dgamma, dbeta] =
            m.get(self.places());
        let (dy, dx) = (Map::of(dy, form), self.dx.map(|(_, add)| (MapMut::of(dx, form), add)));
        let norm = self.norm.filter(|_| self.dw.is_some()).map(|n| n.over(scale, shift));
        let x = Source { x: Map::of(x, form), norm };
        let norm =
            self.sums.map(|_| SumsOf { mean: &mean[..c], invstd: &invstd[..c], dgamma, dbeta });
        match (dx, self.dw) {
            (Some((dx, add)), None) => kernels::backward_data(cx, s, n, dy, w, dx, add),
            (None, _) => kernels::backward_weights(cx, s, n, x, dy, dw, scratch),
            (Some(dx), Some(_)) => {
                kernels::backward(cx, s, n, (x, dy), w, dx, Sums { dw, norm, scratch });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::layers::Conv;
    use crate::{Builder, Loss, Network, Optimizer, Plan, PlanOptions, Shape};

    fn network() -> Network {
        let mut b = Builder::new("separable", Shape::new(9, 8, 3));
        b.conv(Conv::new(10, 1)).batch_norm().relu();
        b.conv(Conv::depthwise(3)).batch_norm().relu();
        b.conv(Conv::new(5, 1)).flatten().dense(2);
        b.build().unwrap()
    }

    fn calls(change: impl Fn(&mut PlanOptions)) -> String {
        let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let mut options = PlanOptions::train(2, 1, Loss::MeanSquaredError, sgd);
        change(&mut options);
        Plan::compile(&network(), &options).unwrap().explain()
    }

    #[test]
    fn sums_of_the_norm_in_front_are_made_on_the_way() {
        let calls = calls(|_| {});
        assert!(calls.contains("conv2 backward "), "{calls}");
        assert!(!calls.contains("batch-norm1 backward sums"), "{calls}");
        assert!(calls.contains("batch-norm1 backward data"), "{calls}");
        // By the 1×1 convolution behind it.
        assert!(!calls.contains("batch-norm2 backward sums"), "{calls}");
        assert!(calls.contains("batch-norm2 backward data"), "{calls}");
    }

    #[test]
    fn a_norm_that_keeps_its_statistics_makes_them_itself() {
        let calls = calls(|o| o.tuning.freeze_norms = true);
        assert!(calls.contains("batch-norm1 backward sums"), "{calls}");
    }
}
