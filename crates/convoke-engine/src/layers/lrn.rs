//! Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).
//!
//! `y_c = x_c / (k + alpha / size · sum over the size nearest channels of x²)^beta`
//! (PyTorch `LocalResponseNorm`; the paper's alpha is this one divided by size).

use super::{Rule, one};
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::lrn as kernels;
use serde::{Deserialize, Serialize};

/// Divides each number by the strength of its neighbours in depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalResponseNorm {
    /// Number of neighbouring channels.
    #[serde(default = "size")]
    pub size: usize,
    /// Strength.
    #[serde(default = "alpha")]
    pub alpha: f32,
    /// Exponent.
    #[serde(default = "beta")]
    pub beta: f32,
    /// Constant under the exponent.
    #[serde(default = "k")]
    pub k: f32,
}

fn size() -> usize {
    5
}
fn alpha() -> f32 {
    1e-4
}
fn beta() -> f32 {
    0.75
}
fn k() -> f32 {
    2.0
}

impl Default for LocalResponseNorm {
    fn default() -> Self {
        Self { size: size(), alpha: alpha(), beta: beta(), k: k() }
    }
}

impl Rule for LocalResponseNorm {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        if self.size == 0 {
            return Err(Error::layer(name, "size = 0; use at least 1"));
        }
        one(name, inputs)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (x, len) = (b.value(from)?, b.map_len(from));
        let sums = b.own(unit.main, "sums", Kind::Step, len);
        let y = b.make(unit.output);
        b.emit(unit.main, "forward", Forward { o: self.sizes(b, unit), x, sums, y });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (x, sums, y) = (b.value(from)?, b.owned(unit.main, "sums")?, b.value(unit.output)?);
        let (o, dy) = (self.sizes(b, unit), b.grad(unit.output)?);
        if let Some((dx, accumulate)) = b.grad_into(from)? {
            b.emit(unit.main, "backward", Backward { o, x, sums, y, dy, dx, accumulate });
        }
        Ok(())
    }
}

impl LocalResponseNorm {
    fn sizes(&self, b: &Lower, unit: &Unit) -> (kernels::Lrn, usize) {
        let shape = b.shape(unit.main);
        let &LocalResponseNorm { size, alpha, beta, k } = self;
        (kernels::Lrn { c: shape.c, size, alpha, beta, k }, shape.len())
    }
}

#[derive(Debug)]
struct Forward {
    o: (kernels::Lrn, usize),
    x: Buf,
    sums: Buf,
    y: Buf,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.sums, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, sums, y] = m.get([self.x, self.sums, self.y]);
        let len = e.n * self.o.1;
        kernels::forward(e.cx, &self.o.0, &x[..len], &mut sums[..len], &mut y[..len]);
    }
}

#[derive(Debug)]
struct Backward {
    o: (kernels::Lrn, usize),
    x: Buf,
    sums: Buf,
    y: Buf,
    dy: Buf,
    dx: Buf,
    accumulate: bool,
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.sums, self.y, self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, sums, y, dy, dx] = m.get([self.x, self.sums, self.y, self.dy, self.dx]);
        let len = e.n * self.o.1;
        let saved = (&x[..len], &sums[..len], &y[..len]);
        kernels::backward(e.cx, &self.o.0, saved, &dy[..len], &mut dx[..len], self.accumulate);
    }
}
