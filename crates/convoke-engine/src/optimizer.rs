//! The update: one pass over weights, gradients and moments.

use crate::network::{Network, NodeId};
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Call, Exec, Op, Phase};
use crate::plan::{Mode, Optimizer, PlanOptions};
use crate::{Error, Result};
use convoke_kernels::{Ctx, optim};
use std::ops::Range;
use std::sync::Arc;

/// Emits the update of all weights.
pub(crate) fn lower(b: &mut Lower, optimizer: Optimizer, decay_all: bool) -> Result<()> {
    let id = b.net.output();
    let len = b.params.last().map_or(0, |p| p.range.end);
    let moments = match optimizer {
        Optimizer::Sgd { momentum: 0.0, .. } => 0,
        Optimizer::Sgd { .. } => 1,
        Optimizer::Adam { .. } | Optimizer::AdamW { .. } => 2,
    };
    if let Optimizer::Sgd { nesterov: true, momentum, .. } = optimizer
        && momentum <= 0.0
    {
        return Err(Error::Plan("Nesterov needs a momentum; set momentum 0.9".into()));
    }
    let names = ["momentum", "second moment"];
    let moments: Vec<Buf> =
        names.iter().take(moments).map(|name| b.own(id, name, Kind::Moment, len)).collect();
    if b.at_once {
        return follow(b, optimizer, decay_all, moments);
    }
    let mut groups: Vec<(Range<usize>, bool, f32)> = Vec::new();
    for (i, p) in b.params.iter().enumerate() {
        let (decays, rate) = (decay_all || p.spec.decay, b.options.tuning.rate(i));
        match groups.last_mut() {
            Some((range, d, r)) if (*d, *r) == (decays, rate) => range.end = p.range.end,
            _ => groups.push((p.range.clone(), decays, rate)),
        }
    }
    groups.retain(|g| g.2 > 0.0);
    b.emit(id, "update", Update { optimizer, moments, groups });
    Ok(())
}

/// Whether each tensor follows its gradient as soon as it is made.
pub(crate) fn at_once(net: &Network, options: &PlanOptions) -> bool {
    let learns = matches!(options.mode, Mode::Train { .. });
    learns && !options.keep_grads && net.parameters() >= options.least.saturating_mul(4)
}

/// Emits the update of each tensor behind the last call that needs it or its gradient.
fn follow(b: &mut Lower, optimizer: Optimizer, decay_all: bool, moments: Vec<Buf>) -> Result<()> {
    let touched: Vec<Vec<Buf>> = b.calls.iter().map(|c| c.op.buffers()).collect();
    let mut behind: Vec<(usize, Follow)> = Vec::new();
    for (i, p) in b.params.clone().into_iter().enumerate() {
        let rate = b.options.tuning.rate(i);
        if rate == 0.0 {
            continue;
        }
        let name = &p.spec.name;
        let (weight, grad) = (b.param(p.node, name)?, b.param_grad(p.node, name)?);
        let needs = |(call, touched): (&Call, &Vec<Buf>)| {
            let backward = call.phase == Phase::Backward;
            backward && (touched.contains(&weight) || touched.contains(&grad))
        };
        let last = b.calls.iter().zip(&touched).rposition(needs);
        let early = touched.iter().any(|t| t.contains(&grad));
        let (decays, moments) = (decay_all || p.spec.decay, moments.clone());
        let op = Follow {
            node: p.node,
            optimizer,
            weight,
            grad,
            moments,
            range: p.range,
            decays,
            rate,
            early,
        };
        match last.filter(|_| early) {
            Some(last) => behind.push((last, op)),
            None => {
                // No gradient reaches it: it is zero for good, and the weights may still decay.
                b.bufs[grad.0].kind = Kind::Grad;
                b.emit(p.node, "update", op);
            }
        }
    }
    behind.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
    for (last, op) in behind {
        let name = format!("{} update", b.net.node(op.node).name);
        b.calls.insert(last + 1, Call { name, phase: Phase::Backward, op: Arc::new(op) });
    }
    Ok(())
}

/// One tensor follows its gradient, unless the loss is no finite number.
#[derive(Debug)]
struct Follow {
    node: NodeId,
    optimizer: Optimizer,
    weight: Buf,
    grad: Buf,
    /// First (and second) moments of all weights.
    moments: Vec<Buf>,
    /// The tensor's part of them.
    range: Range<usize>,
    decays: bool,
    rate: f32,
    /// Whether it runs within the step, before that is counted.
    early: bool,
}

impl Op for Follow {
    fn buffers(&self) -> Vec<Buf> {
        [self.weight, self.grad].into_iter().chain(self.moments.iter().copied()).collect()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        if !e.loss.is_finite() {
            return;
        }
        let place = |b: Buf| m.layout.places[b.0].clone();
        let moment = |i: usize| match self.moments.get(i) {
            None => 0..0,
            Some(&b) => place(b).start + self.range.start..place(b).start + self.range.end,
        };
        let parts = [place(self.weight), place(self.grad), moment(0), moment(1)];
        let [weights, grads, first, second] = m.ranges(parts);
        let tensor = Tensor { weights, grads, first, second };
        let (lr, step) = (e.lr * self.rate, e.step + u64::from(self.early));
        self.optimizer.follow(e.cx, tensor, lr, self.decays, step);
    }
}

/// Weights with their gradients and moments; empty where there are none.
struct Tensor<'a> {
    weights: &'a mut [f32],
    grads: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Optimizer {
    fn follow(self, cx: Ctx, t: Tensor, lr: f32, decays: bool, step: u64) {
        let decay = |d: f32| if decays { d } else { 0.0 };
        let (beta1, beta2, epsilon, weight_decay, decoupled) = match self {
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                let v = if t.first.is_empty() { None } else { Some(t.first) };
                let o = optim::Sgd { lr, momentum, nesterov, weight_decay: decay(weight_decay) };
                return optim::sgd(cx, t.weights, t.grads, v, &o);
            }
            Optimizer::Adam { beta1, beta2, epsilon, weight_decay } => {
                (beta1, beta2, epsilon, decay(weight_decay), false)
            }
            Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
                (beta1, beta2, epsilon, decay(weight_decay), true)
            }
        };
        let o = optim::Adam { lr, beta1, beta2, epsilon, weight_decay, decoupled, step };
        optim::adam(cx, t.weights, t.grads, t.first, t.second, &o);
    }
}

#[derive(Debug)]
struct Update {
    optimizer: Optimizer,
    /// First (and second) moments, as long as the weights.
    moments: Vec<Buf>,
    /// Neighbouring weights, whether they decay, and what their rate is multiplied by.
    groups: Vec<(Range<usize>, bool, f32)>,
}

impl Op for Update {
    fn buffers(&self) -> Vec<Buf> {
        self.moments.clone()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let places = |i: usize| m.layout.places[self.moments[i].0].clone();
        let (mut first, mut second) = (0..0, 0..0);
        if !self.moments.is_empty() {
            first = places(0);
        }
        if self.moments.len() > 1 {
            second = places(1);
        }
        let base = m.layout.section(Kind::Moment).start;
        let [weights, grads, moments] = m.sections([Kind::Param, Kind::Grad, Kind::Moment]);
        let (a, b) = moments.split_at_mut(second.start.max(first.end).saturating_sub(base));
        for (range, decays, rate) in &self.groups {
            let first = if first.is_empty() { &mut [][..] } else { &mut a[range.clone()] };
            let second = if second.is_empty() { &mut [][..] } else { &mut b[range.clone()] };
            let (weights, grads) = (&mut weights[range.clone()], &grads[range.clone()]);
            let tensor = Tensor { weights, grads, first, second };
            self.optimizer.follow(e.cx, tensor, e.lr * rate, *decays, e.step);
        }
    }
}
