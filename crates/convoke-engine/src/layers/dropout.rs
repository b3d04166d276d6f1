//! Dropout (Srivastava et al. 2014), inverted: in training each number is zeroed with probability
//! `rate` and the others are divided by `1 − rate`; prediction changes nothing.

use super::{Narrow, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::dropout as kernels;
use serde::{Deserialize, Serialize};

/// Zeroes numbers at random while training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropout {
    /// Probability of a zero.
    pub rate: f32,
}

/// Zeroes all of a sample's numbers together in training, with probability `rate` (Huang et al. 2016), in
/// front of a sum: the block that made them is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StochasticDepth {
    /// Probability that a sample is dropped, in 0..1.
    pub rate: f32,
}

impl Rule for Dropout {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        output(self.rate, name, inputs)
    }

    fn bytes(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Alike)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(self.rate, false, unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(self.rate, false, unit, b)
    }
}

impl Rule for StochasticDepth {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        output(self.rate, name, inputs)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(self.rate, true, unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(self.rate, true, unit, b)
    }
}

fn output(rate: f32, name: &str, inputs: &[Shape]) -> Result<Shape> {
    if !(0.0..1.0).contains(&rate) {
        return Err(Error::layer(name, format!("rate {rate} must be at least 0 and below 1")));
    }
    one(name, inputs)
}

fn forward(rate: f32, whole: bool, unit: &Unit, b: &mut Lower) -> Result<()> {
    let from = b.net.node(unit.main).inputs[0];
    if !b.learns() {
        return b.pass_value(from, unit.output);
    }
    let (x, len) = (b.value(from)?, b.shape(from).len());
    let y = b.make(unit.output);
    let op = Apply { rate, whole, layer: unit.main.index(), x, y, len, accumulate: false };
    b.emit(unit.main, "forward", op);
    Ok(())
}

fn backward(rate: f32, whole: bool, unit: &Unit, b: &mut Lower) -> Result<()> {
    let from = b.net.node(unit.main).inputs[0];
    if !b.learns() {
        return b.pass_grad(unit.output, from);
    }
    let (dy, len) = (b.grad(unit.output)?, b.shape(from).len());
    if let Some((dx, accumulate)) = b.grad_into(from)? {
        let layer = unit.main.index();
        let op = Apply { rate, whole, layer, x: dy, y: dx, len, accumulate };
        b.emit(unit.main, "backward", op);
    }
    Ok(())
}

#[derive(Debug)]
struct Apply {
    rate: f32,
    /// One draw for a whole sample.
    whole: bool,
    layer: usize,
    x: Buf,
    y: Buf,
    len: usize,
    accumulate: bool,
}

impl Op for Apply {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        let len = e.n * self.len;
        let (seed, step, layer) = (e.seed, e.step, self.layer as u64);
        let mask = kernels::Mask { seed, step, layer, rate: self.rate };
        let (x, y) = (&x[..len], &mut y[..len]);
        match self.whole {
            true => kernels::apply_samples(e.cx, &mask, x, y, self.len, self.accumulate),
            false => kernels::apply(e.cx, &mask, x, y, self.accumulate),
        }
    }
}
