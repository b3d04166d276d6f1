//! The update: one pass over weights, gradients and moments.

use crate::plan::Optimizer;
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::{Error, Result};
use convoke_kernels::optim;
use std::ops::Range;

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
            let lr = e.lr * rate;
            let (w, g) = (&mut weights[range.clone()], &grads[range.clone()]);
            let decay = |d: f32| if *decays { d } else { 0.0 };
            match self.optimizer {
                Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                    let v = if first.is_empty() { None } else { Some(&mut a[range.clone()]) };
                    let o =
                        optim::Sgd { lr, momentum, nesterov, weight_decay: decay(weight_decay) };
                    optim::sgd(e.cx, w, g, v, &o);
                }
                Optimizer::Adam { beta1, beta2, epsilon, weight_decay } => {
                    let o = optim::Adam {
                        lr,
                        beta1,
                        beta2,
                        epsilon,
                        weight_decay: decay(weight_decay),
                        decoupled: false,
                        step: e.step,
                    };
                    optim::adam(e.cx, w, g, &mut a[range.clone()], &mut b[range.clone()], &o);
                }
                Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
                    let o = optim::Adam {
                        lr,
                        beta1,
                        beta2,
                        epsilon,
                        weight_decay: decay(weight_decay),
                        decoupled: true,
                        step: e.step,
                    };
                    optim::adam(e.cx, w, g, &mut a[range.clone()], &mut b[range.clone()], &o);
                }
            }
        }
    }
}
