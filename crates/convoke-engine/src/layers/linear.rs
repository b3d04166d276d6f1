//! How convolution and dense layers lower: pack the filters, run the walks.

use super::lanes;
use crate::layers::{BatchNorm, Layer, Narrow};
use crate::plan::Precision;
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::{Lower, NormSums, PendingNorm, PendingStep};
use crate::plan::op::{Exec, Op};
use crate::plan::statistics::Tally;
use crate::plan::unit::Unit;
use crate::{NodeId, Result};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Onto};
use convoke_kernels::norm::{self, Behind, Source, SumsOf};
use convoke_kernels::{Map, MapMut, activation, elementwise};
use std::sync::Arc;

/// Emits `y = clamp(x ∗ filters + bias + residual)`, norms folded into filters and bias.
pub(super) fn forward(unit: &Unit, b: &mut Lower, shape: ConvShape, bias: bool) -> Result<()> {
    if b.lanes() > 1 {
        return lanes::forward(unit, b, shape, bias);
    }
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let (x, norm) = b.source(from)?;
    let conv = planned(b, shape, from, norm.is_some());
    let (pack, bias) = weights(unit, b, &conv, bias)?;
    let scratch = b.scratch(conv.forward_scratch_len());
    let residual = unit.residual.map(|r| b.value(r)).transpose()?;
    let (y, clamp) = (b.make(unit.output), unit.clamp(b.net));
    let tally = None;
    let op = Forward { conv, x, norm, pack, y, bias, residual, clamp, scratch, tally };
    b.emit(id, "forward", op);
    Ok(())
}

/// Packed filters and bias of a unit, its norm folded into both.
pub(super) fn weights(
    unit: &Unit,
    b: &mut Lower,
    conv: &Arc<Conv>,
    bias: bool,
) -> Result<(Buf, Option<Buf>)> {
    let (id, shape) = (unit.main, conv.shape());
    let weight = b.param(id, "weight")?;
    let bias = if bias { Some(b.param(id, "bias")?) } else { None };
    let Some(norm) = unit.norm else {
        return Ok((packed(b, id, conv, weight, false), bias));
    };
    let folded = b.scratch(shape.filter_len());
    let fold = Fold::new(b, norm, weight, bias, folded, shape.d)?;
    let bias = Some(fold.bias_out);
    b.prepare(id, "fold norm", fold);
    Ok((packed(b, id, conv, folded, false), bias))
}

/// Emits the gradients of filters, bias and input.
pub(super) fn backward(unit: &Unit, b: &mut Lower, shape: ConvShape, bias: bool) -> Result<()> {
    if b.lanes() > 1 {
        return lanes::backward(unit, b, shape, bias);
    }
    let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
    let (x, norm) = b.source(from)?;
    let conv = planned(b, shape, from, norm.is_some());
    let dy = unmask(unit, b)?;
    let step = b.step(unit.output);
    if bias && b.learns() {
        let db = b.param_grad(id, "bias")?;
        emit_bias_grad(b, id, dy, db, shape.oh * shape.ow, shape.d);
    }
    if b.learns() && !conv.is_together() {
        let dw = b.param_grad(id, "weight")?;
        let scratch = b.scratch(conv.weights_scratch_len());
        let conv = conv.clone();
        b.emit(id, "backward weights", BackwardWeights { conv, x, norm, dy, dw, scratch });
    }
    let sums = match (conv.shards()[1], norm) {
        (0, _) | (_, None) => None,
        (shards, Some(norm)) => b.take_sums(from).map(|sums| (shards, norm, sums)),
    };
    if let Some((dx, accumulate)) = b.grad_into(from)? {
        let sums = sums.map(|(shards, norm, sums)| {
            let space = b.own(id, "sums", Kind::Step, norm::space_len(shards, norm.c));
            GradientSums { shards, norm, sums, space }
        });
        let weight = b.param(id, "weight")?;
        let pack = packed(b, id, &conv, weight, true);
        if conv.is_together() {
            let dw = b.param_grad(id, "weight")?;
            let scratch = b.scratch(conv.together_scratch_len());
            let op = Backward { conv, x, norm, dy, step, pack, dw, dx, accumulate, scratch, sums };
            b.emit(id, "backward", op);
            return Ok(());
        }
        let scratch = b.scratch(conv.backward_scratch_len());
        let op = BackwardData { conv, dy, pack, dx, accumulate, scratch, sums };
        b.emit(id, "backward data", op);
    }
    Ok(())
}

/// Whether the way back of such a convolution of the map `from` makes the last step of a norm behind it.
pub(super) fn makes_step(from: NodeId, b: &Lower, shape: ConvShape) -> Result<bool> {
    let (_, norm) = b.source(from)?;
    Ok(b.lanes() == 1 && planned(b, shape, from, norm.is_some()).is_together())
}

/// Which maps of the unit may be bf16: those of its walks, where bf16 is what they multiply.
pub(super) fn halves(unit: &Unit, b: &Lower, shape: ConvShape, bias: bool) -> Result<Narrow> {
    let from = b.net.node(unit.main).inputs[0];
    // Where the input has a norm to apply, it is no dense layer's.
    let conv = planned(b, shape, from, false);
    Ok(match conv.takes_halves() {
        false => Narrow::None,
        true if bias || unit.act.is_some() => Narrow::Input,
        true => Narrow::Any,
    })
}

/// Which maps of the unit may be integers of 8 bits: all, where these are what it multiplies.
pub(super) fn bytes(unit: &Unit, b: &Lower, shape: ConvShape) -> Narrow {
    let from = b.net.node(unit.main).inputs[0];
    match planned(b, shape, from, false).takes_bytes() {
        true => Narrow::Any,
        false => Narrow::None,
    }
}

/// The convolution's walks. In training weights change with every step, so those of large dense layers
/// are not packed.
fn planned(b: &Lower, shape: ConvShape, from: NodeId, normed: bool) -> Arc<Conv> {
    let conv = precise(Conv::new(shape, b.isa, b.batch(), b.threads()), b, from);
    let conv = match (normed, b.backward()) {
        (true, _) => conv.normed(),
        (false, true) => conv.unpacked(),
        (false, false) => conv,
    };
    let conv = match b.options.fewer_products() {
        Some(when) => conv.winograd(when),
        None => conv,
    };
    Arc::new(if b.learns() && b.wants_grad(from) { conv.together() } else { conv })
}

/// The convolution of a map in the plan's precision.
pub(super) fn precise(conv: Conv, b: &Lower, from: NodeId) -> Conv {
    match (b.options.precision, b.options.ranges.get(&b.net.node(from).name)) {
        (Precision::Bf16, _) => conv.precision(b.options.precision.into()),
        (Precision::Int8, Some(range)) => conv.int8(range, None),
        (Precision::Int8 | Precision::F32 | Precision::F32Direct, _) => conv,
    }
}

/// The filters as the forward (or backward-data) walk reads them: packed once for prediction, just before
/// they are used in training, where packs of all layers would take twice the memory of the weights.
fn packed(b: &mut Lower, id: NodeId, conv: &Arc<Conv>, weight: Buf, back: bool) -> Buf {
    if conv.is_unpacked()[usize::from(back)] {
        return weight;
    }
    let (name, len) = match back {
        false => ("pack", conv.forward_pack_len()),
        true => ("pack transposed", conv.backward_pack_len()),
    };
    let kind = if b.backward() { Kind::Step } else { Kind::Pack };
    let pack = b.own(id, name, kind, len);
    let op = Pack { conv: conv.clone(), weight, pack, back };
    if b.backward() {
        b.emit(id, name, op);
    } else {
        b.prepare(id, name, op);
    }
    pack
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

#[derive(Debug, Clone)]
struct Forward {
    conv: Arc<Conv>,
    x: Buf,
    /// In training; then there is neither bias folded nor residual.
    norm: Option<PendingNorm>,
    pack: Buf,
    y: Buf,
    bias: Option<Buf>,
    residual: Option<Buf>,
    clamp: Option<(f32, f32)>,
    scratch: Buf,
    /// Sums over the output.
    tally: Option<Tally>,
}

/// A buffer where there is one, else an empty one.
fn or_none(b: Option<Buf>) -> Buf {
    b.unwrap_or(Buf::NONE)
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        let all = [self.x, self.pack, self.y, self.scratch];
        let norm = self.norm.iter().flat_map(|n| [n.scale, n.shift]);
        let tally = self.tally.iter().map(|t| t.space);
        all.into_iter().chain(self.bias).chain(self.residual).chain(norm).chain(tally).collect()
    }

    fn macs(&self) -> u64 {
        self.conv.shape().macs()
    }

    fn shards(&self, tally: &Tally) -> usize {
        let mine = tally.map == self.y && tally.c == self.conv.shape().d;
        if mine { self.conv.shards()[0] } else { 0 }
    }

    fn with(&self, tally: Tally) -> Arc<dyn Op> {
        Arc::new(Forward { tally: Some(tally), ..self.clone() })
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        // A residual that is the convolution's own input is read through one slice.
        let apart = or_none(self.residual.filter(|&r| r != self.x));
        let (scale, shift) = self.norm.map_or((Buf::NONE, Buf::NONE), |n| (n.scale, n.shift));
        let (bias, fixed) = (or_none(self.bias), [self.x, self.pack, self.y, self.scratch]);
        let [form_x, form_y] = [self.x, self.y].map(|b| m.form(b));
        let more = m.form(or_none(self.residual));
        let [x, pack, y, scratch] = fixed;
        let space = or_none(self.tally.map(|t| t.space));
        let [x, pack, y, scratch, bias, apart, scale, shift, space] =
            m.get([x, pack, y, scratch, bias, apart, scale, shift, space]);
        let tally = self.tally.map(|t| norm::Tally::statistics(t.shards, t.c, space));
        let (x, apart) = (Map::of(x, form_x), &*apart);
        let epilogue = Epilogue {
            bias: self.bias.map(|_| &*bias),
            residual: self.residual.map(|r| if r == self.x { x } else { Map::of(apart, more) }),
            clamp: self.clamp,
            tally: tally.as_ref(),
        };
        let source = Source { x, norm: self.norm.map(|n| n.over(scale, shift)) };
        self.conv.forward(e.cx, e.n, source, pack, MapMut::of(y, form_y), epilogue, scratch);
    }
}

#[derive(Debug)]
struct BackwardWeights {
    conv: Arc<Conv>,
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
        self.conv.shape().macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let (scale, shift) = self.norm.map_or((Buf::NONE, Buf::NONE), |n| (n.scale, n.shift));
        let [form_x, form_dy] = [self.x, self.dy].map(|b| m.form(b));
        let [x, dy, dw, scratch, scale, shift] =
            m.get([self.x, self.dy, self.dw, self.scratch, scale, shift]);
        let norm = self.norm.map(|n| n.over(scale, shift));
        let (source, dy) = (Source { x: Map::of(x, form_x), norm }, Map::of(dy, form_dy));
        self.conv.backward_weights(e.cx, e.n, source, dy, dw, scratch);
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
    /// Those of the norm in front, where they are made on the way.
    sums: Option<GradientSums>,
}

/// The sums of a pending norm that the writer of its gradient makes.
#[derive(Debug, Clone, Copy)]
struct GradientSums {
    shards: usize,
    norm: PendingNorm,
    sums: NormSums,
    space: Buf,
}

impl GradientSums {
    /// Its buffers, or as many that are none.
    fn places(sums: Option<Self>) -> [Buf; 8] {
        let [mean, invstd, dgamma, dbeta] = NormSums::buffers(sums.map(|s| s.sums));
        let of = |f: fn(&Self) -> Buf| or_none(sums.as_ref().map(f));
        let [x, scale, shift] = [of(|s| s.norm.x), of(|s| s.norm.scale), of(|s| s.norm.shift)];
        [of(|s| s.space), x, scale, shift, mean, invstd, dgamma, dbeta]
    }
}

impl Op for BackwardData {
    fn buffers(&self) -> Vec<Buf> {
        let all = [self.dy, self.pack, self.dx, self.scratch].into_iter();
        all.chain(GradientSums::places(self.sums)).filter(|&b| b != Buf::NONE).collect()
    }

    fn macs(&self) -> u64 {
        self.conv.shape().macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [form_dy, form_dx] = [self.dy, self.dx].map(|b| m.form(b));
        let [space, x, scale, shift, mean, invstd, dgamma, dbeta] = GradientSums::places(self.sums);
        let Self { dy, pack, dx, scratch, .. } = *self;
        let [dy, pack, dx, scratch, space, x, scale, shift, mean, invstd, dgamma, dbeta] =
            m.get([dy, pack, dx, scratch, space, x, scale, shift, mean, invstd, dgamma, dbeta]);
        let (dy, dx) = (Map::of(dy, form_dy), MapMut::of(dx, form_dx));
        let tally = self.sums.map(|GradientSums { shards, norm, .. }| {
            let source = Source { x: Map::of(x, form_dx), norm: Some(norm.over(scale, shift)) };
            norm::Tally::gradient(shards, source, &mean[..norm.c], space)
        });
        let onto = Onto { accumulate: self.accumulate, tally: tally.as_ref() };
        self.conv.backward_data(e.cx, e.n, dy, pack, dx, onto, scratch);
        if let Some(GradientSums { shards, norm, .. }) = self.sums {
            let (mean, invstd) = (&mean[..norm.c], &invstd[..norm.c]);
            let sums = SumsOf { mean, invstd, dgamma, dbeta };
            norm::tallied_sums(e.cx.isa, space, shards, sums);
        }
    }
}

/// Both gradients in one walk.
#[derive(Debug)]
struct Backward {
    conv: Arc<Conv>,
    x: Buf,
    norm: Option<PendingNorm>,
    dy: Buf,
    /// What is still to be made of `dy`.
    step: Option<PendingStep>,
    pack: Buf,
    dw: Buf,
    dx: Buf,
    accumulate: bool,
    scratch: Buf,
    /// Those of the norm in front, where they are made on the way.
    sums: Option<GradientSums>,
}

impl Backward {
    /// Its buffers, none in the place of those that it does without.
    fn places(&self) -> [Buf; 17] {
        let none = Buf::NONE;
        let [scale, shift] = self.norm.map_or([none; 2], |n| [n.scale, n.shift]);
        let (raw, [a, b, k]) = self.step.map_or((none, [none; 3]), |s| (s.x, s.slopes));
        // The norm in front has its map and its numbers above.
        let [space, _, _, _, mean, invstd, dgamma, dbeta] = GradientSums::places(self.sums);
        let Self { x, dy, pack, dw, dx, scratch, .. } = *self;
        let own = [x, scale, shift, dy, raw, a, b, k, pack, dw, dx, scratch];
        let sums = [space, mean, invstd, dgamma, dbeta];
        std::array::from_fn(|i| own.get(i).copied().unwrap_or_else(|| sums[i - own.len()]))
    }
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        self.places().into_iter().filter(|&b| b != Buf::NONE).collect()
    }

    fn macs(&self) -> u64 {
        2 * self.conv.shape().macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [
            x,
            scale,
            shift,
            dy,
            raw,
            a,
            b,
            k,
            pack,
            dw,
            dx,
            scratch,
            space,
            mean,
            invstd,
            dgamma,
            dbeta,
        ] = m.get(self.places());
        let norm = self.norm.map(|n| n.over(scale, shift));
        let source = Source { x: Map::Full(x), norm };
        let behind =
            self.step.map(|step| Behind { x: raw, slopes: [&*a, &*b, &*k].map(|s| &s[..step.c]) });
        let tally = self.sums.map(|GradientSums { shards, norm, .. }| {
            norm::Tally::gradient(shards, source, &mean[..norm.c], space)
        });
        let onto = Onto { accumulate: self.accumulate, tally: tally.as_ref() };
        self.conv.backward(e.cx, e.n, (source, dy, behind), pack, (dx, onto), dw, scratch);
        if let Some(GradientSums { shards, norm, .. }) = self.sums {
            let (mean, invstd) = (&mean[..norm.c], &invstd[..norm.c]);
            let sums = SumsOf { mean, invstd, dgamma, dbeta };
            norm::tallied_sums(e.cx.isa, space, shards, sums);
        }
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
