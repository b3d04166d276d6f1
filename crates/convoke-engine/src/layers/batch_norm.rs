//! Batch normalisation (Ioffe and Szegedy 2015).
//!
//! `x [n,h,w,c] -> y = (x − mean) / sqrt(var + epsilon) · weight + bias` per channel: mean and biased
//! variance of the batch in training, running ones in prediction. Running statistics move by
//! `running += momentum · (batch − running)` with the unbiased variance (PyTorch `BatchNorm2d`).

use super::{Init, Narrow, ParamSpec, Rule, one};
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::{Lower, NormSums, PendingNorm, PendingStep};
use crate::plan::op::{Exec, Op};
use crate::plan::ops;
use crate::plan::statistics::Tally;
use crate::plan::unit::Unit;
use crate::{NodeId, Result, Shape};
use convoke_kernels::norm::{self, Clamped, Saved, Statistics};
use convoke_kernels::{Map, MapMut};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Normalises each channel over batch and pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// Added to the variance.
    #[serde(default = "epsilon")]
    pub epsilon: f32,
    /// Weight of the newest batch in the running statistics.
    #[serde(default = "momentum")]
    pub momentum: f32,
}

fn epsilon() -> f32 {
    1e-5
}
fn momentum() -> f32 {
    0.1
}

impl Default for BatchNorm {
    fn default() -> Self {
        Self { epsilon: epsilon(), momentum: momentum() }
    }
}

impl Rule for BatchNorm {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        one(name, inputs)
    }

    fn params(&self, inputs: &[Shape]) -> Vec<ParamSpec> {
        let c = [inputs[0].c];
        vec![
            ParamSpec::new("weight", &c, Init::Ones, false),
            ParamSpec::new("bias", &c, Init::Zeros, false),
        ]
    }

    fn state(&self, inputs: &[Shape]) -> Vec<ParamSpec> {
        let c = [inputs[0].c];
        vec![
            ParamSpec::new("running_mean", &c, Init::Zeros, false),
            ParamSpec::new("running_var", &c, Init::Ones, false),
        ]
    }

    fn halves(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Alike)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
        let (c, len) = (b.shape(id).c, b.shape(id).len());
        let measured = b.backward() && !b.keeps_statistics(id);
        let [mean, invstd, scale, shift] = ["mean", "invstd", "scale", "shift"]
            .map(|name| b.own(id, name, if measured { Kind::Step } else { Kind::Pack }, c));
        let batch = Batch { mean, invstd, scale, shift };
        let (gamma, beta) = (b.param(id, "weight")?, b.param(id, "bias")?);
        let running = (b.state(id, "running_mean")?, b.state(id, "running_var")?);
        let (x, residual) = (b.value(from)?, unit.residual.map(|r| b.value(r)).transpose()?);
        if measured {
            let scratch = b.scratch(norm::scratch_len(b.map_len(from) / c, c));
            let (epsilon, momentum) = (self.epsilon, self.momentum);
            let tally = Tally::apart(x, c);
            let op =
                Measure { tally, len, batch, gamma, beta, running, epsilon, momentum, scratch };
            b.emit(id, "statistics", op);
        } else {
            b.prepare(
                id,
                "statistics",
                Running { batch, gamma, beta, running, epsilon: self.epsilon },
            );
        }
        let clamp = unit.clamp(b.net);
        if unit.pending {
            let clamp = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
            // Where statistics are kept or nothing learns, the sums are no part of the gradient.
            let sums = match measured && b.learns() {
                true => Some(NormSums {
                    mean,
                    invstd,
                    dgamma: b.param_grad(id, "weight")?,
                    dbeta: b.param_grad(id, "bias")?,
                }),
                false => None,
            };
            b.leave_pending(unit.output, PendingNorm { x, scale, shift, clamp, c, sums });
            return Ok(());
        }
        let y = b.make(unit.output);
        b.emit(id, "forward", Apply { x, residual, y, batch, clamp, c, len });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
        let (c, len) = (b.shape(id).c, b.shape(id).len());
        let summed = b.has_sums(unit.output);
        let mask = match (unit.clamp(b.net), unit.residual) {
            (None, _) => Mask::No,
            // Whoever made the sums has masked it.
            (Some(_), None) if summed => Mask::No,
            (Some((_, max)), None) => {
                Mask::Anew { scale: b.owned(id, "scale")?, shift: b.owned(id, "shift")?, max }
            }
            // A residual's gradient is the masked one, so it is written.
            (Some((_, max)), Some(_)) => Mask::Output { y: b.value(unit.output)?, max },
        };
        let writes = matches!(mask, Mask::Output { .. });
        let scratch = b.scratch(norm::scratch_len(b.map_len(from) / c, c).max(3 * c));
        let kept = b.keeps_statistics(id);
        let mut back = Backward {
            x: b.value(from)?,
            mask,
            mean: if kept { b.state(id, "running_mean")? } else { b.owned(id, "mean")? },
            invstd: b.owned(id, "invstd")?,
            gamma: b.param(id, "weight")?,
            dgamma: b.param_grad(id, "weight")?,
            dbeta: b.param_grad(id, "bias")?,
            dy: if writes { b.grad_mut(unit.output)? } else { b.grad(unit.output)? },
            dx: None,
            c,
            len,
            scratch,
        };
        // Where nothing learns, the sums still mask the gradient on the way.
        if !summed && (b.learns() || writes) {
            b.emit(id, "backward sums", Sums(back));
        }
        if kept {
            // Kept statistics do not depend on x: without the sums, dx is dy times the scale.
            back.dgamma = b.own(id, "no sum over weight", Kind::Pack, c);
            back.dbeta = b.own(id, "no sum over bias", Kind::Pack, c);
        }
        if !b.wants_grad(from) {
            return residual_grad(unit, b);
        }
        residual_grad(unit, b)?;
        let apart = unit.residual.is_some_and(|r| b.wants_grad(r));
        if !apart {
            if matches!(back.mask, Mask::No) && left_to(from, b)? {
                let slopes = ["slope", "slope of input", "constant"];
                let slopes = slopes.map(|name| b.own(id, name, Kind::Step, c));
                b.emit(id, "slopes", Slopes { of: back, slopes });
                b.leave_step(from, PendingStep { x: back.x, slopes, c });
                return b.pass_grad(unit.output, from);
            }
            // Nobody else needs the masked gradient: dx takes its place.
            back.dy = b.grad_mut(unit.output)?;
            b.emit(id, "backward data", Data(back));
            return b.pass_grad(unit.output, from);
        }
        if !b.has_grad(from) {
            back.dx = b.grad_into(from)?.map(|(dx, _)| dx);
            b.emit(id, "backward data", Data(back));
            return Ok(());
        }
        let dx = b.part_of_grad(from);
        back.dx = Some(dx);
        b.emit(id, "backward data", Data(back));
        if let Some((dst, _)) = b.grad_into(from)? {
            b.emit(id, "gradient sum", ops::AddTo { src: dx, dst, len });
        }
        Ok(())
    }
}

/// Whether the layer that makes a norm's input makes the last step of the way back through the norm.
fn left_to(from: NodeId, b: &Lower) -> Result<bool> {
    let alone = b.net.readers()[from.index()] == 1 && !b.is_pinned(from) && !b.has_grad(from);
    match &b.net.node(from).layer {
        Some(layer) if alone => layer.rule().makes_step(from, b),
        _ => Ok(false),
    }
}

/// Hands the (masked) gradient on to the residual.
fn residual_grad(unit: &Unit, b: &mut Lower) -> Result<()> {
    match unit.residual {
        Some(r) => b.pass_grad(unit.output, r),
        None => Ok(()),
    }
}

/// Per-channel numbers of a batch, `[c]` each.
#[derive(Debug, Clone, Copy)]
struct Batch {
    mean: Buf,
    invstd: Buf,
    scale: Buf,
    shift: Buf,
}

/// Statistics of the batch, running statistics, scale and shift.
#[derive(Debug, Clone)]
struct Measure {
    /// Its map is the norm's input.
    tally: Tally,
    len: usize,
    batch: Batch,
    gamma: Buf,
    beta: Buf,
    running: (Buf, Buf),
    epsilon: f32,
    momentum: f32,
    /// Where they are a pass of their own.
    scratch: Buf,
}

impl Measure {
    /// Sums that are made, or the map and where they are made of it; the others are none.
    fn sources(&self) -> [Buf; 3] {
        match self.tally.is_made() {
            true => [self.tally.space, Buf::NONE, Buf::NONE],
            false => [Buf::NONE, self.tally.map, self.scratch],
        }
    }
}

impl Op for Measure {
    fn buffers(&self) -> Vec<Buf> {
        let Batch { mean, invstd, scale, shift } = self.batch;
        let (rm, rv) = self.running;
        let all = [mean, invstd, scale, shift, self.gamma, self.beta, rm, rv];
        all.into_iter().chain(self.sources().into_iter().filter(|&b| b != Buf::NONE)).collect()
    }

    fn tally(&self) -> Option<Tally> {
        Some(self.tally)
    }

    fn with(&self, tally: Tally) -> Arc<dyn Op> {
        Arc::new(Measure { tally, ..self.clone() })
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let Batch { mean, invstd, scale, shift } = self.batch;
        let Tally { map, c, shards, .. } = self.tally;
        let ((rm, rv), form, [space, x, scratch]) = (self.running, m.form(map), self.sources());
        let [mean_now, invstd_now, rm, rv, space, x, scratch] =
            m.get([mean, invstd, rm, rv, space, x, scratch]);
        let s = Statistics {
            mean: &mut mean_now[..c],
            invstd: &mut invstd_now[..c],
            running_mean: rm,
            running_var: rv,
        };
        let (momentum, epsilon) = (self.momentum, self.epsilon);
        if self.tally.is_made() {
            norm::tallied_statistics(e.cx.isa, space, shards, s, momentum, epsilon);
        } else {
            let x = Map::of(x, form).part(0..e.n * self.len);
            norm::statistics(e.cx, x, s, momentum, epsilon, scratch);
        }
        let [mean, invstd, scale, shift, gamma, beta] =
            m.get([mean, invstd, scale, shift, self.gamma, self.beta]);
        norm::scale_shift(gamma, beta, mean, invstd, scale, shift);
    }
}

/// Scale and shift from the running statistics.
#[derive(Debug)]
struct Running {
    batch: Batch,
    gamma: Buf,
    beta: Buf,
    running: (Buf, Buf),
    epsilon: f32,
}

impl Op for Running {
    fn buffers(&self) -> Vec<Buf> {
        let Batch { invstd, scale, shift, mean } = self.batch;
        vec![mean, invstd, scale, shift, self.gamma, self.beta, self.running.0, self.running.1]
    }

    fn run(&self, m: &mut Memory, _: &mut Exec) {
        let Batch { invstd, scale, shift, .. } = self.batch;
        let (rm, rv) = self.running;
        let [invstd, scale, shift, gamma, beta, mean, var] =
            m.get([invstd, scale, shift, self.gamma, self.beta, rm, rv]);
        for (i, v) in invstd.iter_mut().zip(&*var) {
            *i = 1.0 / (v + self.epsilon).sqrt();
        }
        norm::scale_shift(gamma, beta, mean, invstd, scale, shift);
    }
}

/// `y = clamp(x · scale + shift + residual)`.
#[derive(Debug)]
struct Apply {
    x: Buf,
    residual: Option<Buf>,
    y: Buf,
    batch: Batch,
    clamp: Option<(f32, f32)>,
    c: usize,
    len: usize,
}

impl Op for Apply {
    fn buffers(&self) -> Vec<Buf> {
        let all = [self.x, self.y, self.batch.scale, self.batch.shift];
        all.into_iter().chain(self.residual).collect()
    }

    fn remakes(&self) -> Option<Buf> {
        Some(self.y)
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let Batch { scale, shift, .. } = self.batch;
        let (len, c, form) = (e.n * self.len, self.c, m.form(self.x));
        let apart = self.residual.filter(|&r| r != self.x).unwrap_or(Buf::NONE);
        let [x, y, scale, shift, apart] = m.get([self.x, self.y, scale, shift, apart]);
        let x = Map::of(x, form).part(0..len);
        let residual = self.residual.map(|r| match r == self.x {
            true => x,
            false => Map::of(apart, form).part(0..len),
        });
        let y = MapMut::of(y, form).first(len);
        norm::apply(e.cx, x, &scale[..c], &shift[..c], residual, self.clamp, y);
    }
}

/// What both passes of backward touch.
#[derive(Debug, Clone, Copy)]
struct Backward {
    x: Buf,
    mask: Mask,
    mean: Buf,
    invstd: Buf,
    gamma: Buf,
    dgamma: Buf,
    dbeta: Buf,
    dy: Buf,
    dx: Option<Buf>,
    c: usize,
    len: usize,
    scratch: Buf,
}

/// How the clamp's gradient is masked, see [`Clamped`].
#[derive(Debug, Clone, Copy)]
enum Mask {
    No,
    Output { y: Buf, max: f32 },
    Anew { scale: Buf, shift: Buf, max: f32 },
}

impl Backward {
    fn fixed(&self) -> [Buf; 8] {
        [self.x, self.mean, self.invstd, self.gamma, self.dgamma, self.dbeta, self.dy, self.scratch]
    }

    fn buffers(&self) -> Vec<Buf> {
        let all = self.fixed();
        let mask = match self.mask {
            Mask::Anew { scale, shift, .. } => [Some(scale), Some(shift)],
            _ => [None, None],
        };
        all.into_iter().chain(self.dx).chain(mask.into_iter().flatten()).collect()
    }
}

/// First pass: mask and sums.
#[derive(Debug)]
struct Sums(Backward);

impl Op for Sums {
    fn buffers(&self) -> Vec<Buf> {
        let y = match self.0.mask {
            Mask::Output { y, .. } => Some(y),
            _ => None,
        };
        self.0.buffers().into_iter().chain(y).collect()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let b = self.0;
        let (len, form) = (e.n * b.len, m.form(b.x));
        let go = |[x, mean, invstd, gamma, dgamma, dbeta, dy, scratch]: [&mut [f32]; 8],
                  clamped| {
            let (mean, invstd, gamma) = (&mean[..b.c], &invstd[..b.c], &*gamma);
            let saved = Saved { x: Map::of(x, form).part(0..len), clamped, mean, invstd, gamma };
            let dy = MapMut::of(dy, form).first(len);
            norm::backward_sums(e.cx, saved, dy, dgamma, dbeta, scratch);
        };
        let [f0, f1, f2, f3, f4, f5, f6, f7] = b.fixed();
        match b.mask {
            Mask::No => go(m.get(b.fixed()), Clamped::No),
            Mask::Output { y, max } => {
                let [s0, s1, s2, s3, s4, s5, s6, s7, y] =
                    m.get([f0, f1, f2, f3, f4, f5, f6, f7, y]);
                let clamped = Clamped::Output { y: Map::of(y, form).part(0..len), max };
                go([s0, s1, s2, s3, s4, s5, s6, s7], clamped);
            }
            Mask::Anew { scale, shift, max } => {
                let [s0, s1, s2, s3, s4, s5, s6, s7, scale, shift] =
                    m.get([f0, f1, f2, f3, f4, f5, f6, f7, scale, shift]);
                let clamped = Clamped::Anew { scale: &scale[..b.c], shift: &shift[..b.c], max };
                go([s0, s1, s2, s3, s4, s5, s6, s7], clamped);
            }
        }
    }
}

/// What is left of the second pass where another makes it on the way.
#[derive(Debug)]
struct Slopes {
    of: Backward,
    slopes: [Buf; 3],
}

impl Op for Slopes {
    fn buffers(&self) -> Vec<Buf> {
        let Backward { mean, invstd, gamma, dgamma, dbeta, .. } = self.of;
        [mean, invstd, gamma, dgamma, dbeta].into_iter().chain(self.slopes).collect()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let Backward { mean, invstd, gamma, dgamma, dbeta, c, len, .. } = self.of;
        let [s0, s1, s2] = self.slopes;
        let [mean, invstd, gamma, dgamma, dbeta, s0, s1, s2] =
            m.get([mean, invstd, gamma, dgamma, dbeta, s0, s1, s2]);
        let of_norm = [&mean[..c], &*invstd, &*gamma];
        norm::slopes(e.n * len / c, of_norm, [&*dgamma, &*dbeta], [s0, s1, s2]);
    }
}

/// Second pass: dx, in place of dy or beside it.
#[derive(Debug)]
struct Data(Backward);

impl Op for Data {
    fn buffers(&self) -> Vec<Buf> {
        self.0.buffers()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let b = self.0;
        let (len, form) = (e.n * b.len, m.form(b.x));
        let go = |[x, mean, invstd, gamma, dgamma, dbeta, dy, scratch]: [&mut [f32]; 8],
                  clamped,
                  dx: Option<&mut [f32]>| {
            let (mean, invstd, gamma) = (&mean[..b.c], &invstd[..b.c], &*gamma);
            let saved = Saved { x: Map::of(x, form).part(0..len), clamped, mean, invstd, gamma };
            let dy = MapMut::of(dy, form).first(len);
            let dx = dx.map(|dx| MapMut::of(dx, form).first(len));
            norm::backward_data(e.cx, saved, dy, dgamma, dbeta, dx, scratch);
        };
        let [f0, f1, f2, f3, f4, f5, f6, f7] = b.fixed();
        match (b.mask, b.dx) {
            // Without a residual dx always takes the place of dy.
            (Mask::Anew { scale, shift, max }, _) => {
                let [s0, s1, s2, s3, s4, s5, s6, s7, scale, shift] =
                    m.get([f0, f1, f2, f3, f4, f5, f6, f7, scale, shift]);
                let clamped = Clamped::Anew { scale: &scale[..b.c], shift: &shift[..b.c], max };
                go([s0, s1, s2, s3, s4, s5, s6, s7], clamped, None);
            }
            (_, None) => go(m.get(b.fixed()), Clamped::No, None),
            (_, Some(dx)) => {
                let [s0, s1, s2, s3, s4, s5, s6, s7, dx] =
                    m.get([f0, f1, f2, f3, f4, f5, f6, f7, dx]);
                go([s0, s1, s2, s3, s4, s5, s6, s7], Clamped::No, Some(dx));
            }
        }
    }
}
