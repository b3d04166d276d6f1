//! Two maps, number by number, and maps that are constants of the network.

use super::{Init, ParamSpec, Rule};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::combine as kernels;
use serde::{Deserialize, Serialize};

/// `y = f(a, b)` number by number; heights, widths and depths of one are repeated to the other's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Combine {
    /// What is computed.
    pub by: CombineKind,
}

/// What a [`Combine`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CombineKind {
    /// `a + b`
    Add,
    /// `a − b`
    Subtract,
    /// `a · b`
    Multiply,
    /// `a / b`
    Divide,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// `a ^ b`
    Power,
}

/// A map of trained numbers, the same for every sample; it reads nothing (`from = []`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// Its shape.
    pub shape: Shape,
}

impl Combine {
    fn kernel(&self) -> kernels::Combine {
        match self.by {
            CombineKind::Add => kernels::Combine::Add,
            CombineKind::Subtract => kernels::Combine::Subtract,
            CombineKind::Multiply => kernels::Combine::Multiply,
            CombineKind::Divide => kernels::Combine::Divide,
            CombineKind::Max => kernels::Combine::Max,
            CombineKind::Min => kernels::Combine::Min,
            CombineKind::Power => kernels::Combine::Power,
        }
    }

    fn sides(&self, unit: &Unit, b: &Lower) -> Result<Sides> {
        let inputs = &b.net.node(unit.main).inputs;
        let [sa, sb] = [0, 1].map(|i| b.shape(inputs[i]));
        let s = b.shape(unit.main);
        Ok(Sides { a: b.value(inputs[0])?, b: b.value(inputs[1])?, sa, sb, s, f: self.kernel() })
    }
}

impl Rule for Combine {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let [a, b] = inputs else {
            return Err(Error::layer(name, "combines two maps"));
        };
        let size = |a: usize, b: usize| match (a, b) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(()),
        };
        match (size(a.h, b.h), size(a.w, b.w), size(a.c, b.c)) {
            (Ok(h), Ok(w), Ok(c)) => Ok(Shape::new(h, w, c)),
            _ => Err(Error::layer(name, format!("cannot combine maps of {a} and {b}"))),
        }
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let sides = self.sides(unit, b)?;
        let y = b.make(unit.output);
        b.emit(unit.main, "forward", Forward { sides, y });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (sides, dy) = (self.sides(unit, b)?, b.grad(unit.output)?);
        let inputs = b.net.node(unit.main).inputs.clone();
        for (second, input) in [false, true].into_iter().zip(inputs) {
            if let Some((dx, accumulate)) = b.grad_into(input)? {
                let part = if second { "backward second" } else { "backward first" };
                b.emit(unit.main, part, Backward { sides, second, dy, dx, accumulate });
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
struct Sides {
    f: kernels::Combine,
    a: Buf,
    b: Buf,
    sa: Shape,
    sb: Shape,
    s: Shape,
}

#[derive(Debug)]
struct Forward {
    sides: Sides,
    y: Buf,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.sides.a, self.sides.b, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let Sides { f, a, b, sa, sb, s } = self.sides;
        let len = e.n * s.len();
        if a == b {
            let [a, y] = m.get([a, self.y]);
            kernels::forward(e.cx, f, (a, sa.into()), (a, sb.into()), &mut y[..len], s.into());
            return;
        }
        let [a, b, y] = m.get([a, b, self.y]);
        kernels::forward(e.cx, f, (a, sa.into()), (b, sb.into()), &mut y[..len], s.into());
    }
}

#[derive(Debug)]
struct Backward {
    sides: Sides,
    second: bool,
    dy: Buf,
    dx: Buf,
    accumulate: bool,
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.sides.a, self.sides.b, self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let Sides { f, a, b, sa, sb, s } = self.sides;
        let len = e.n * if self.second { sb.len() } else { sa.len() };
        let (second, accumulate) = (self.second, self.accumulate);
        let (sa, sb, s) = (sa.into(), sb.into(), s.into());
        if a == b {
            let [a, dy, dx] = m.get([a, self.dy, self.dx]);
            let dx = &mut dx[..len];
            kernels::backward(e.cx, f, second, (a, sa), (a, sb), (dy, s), dx, accumulate);
            return;
        }
        let [a, b, dy, dx] = m.get([a, b, self.dy, self.dx]);
        let dx = &mut dx[..len];
        kernels::backward(e.cx, f, second, (a, sa), (b, sb), (dy, s), dx, accumulate);
    }
}

impl Rule for Constant {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        match inputs {
            [] => Ok(self.shape),
            _ => Err(Error::layer(name, "reads nothing; write from = []")),
        }
    }

    fn params(&self, _: &[Shape]) -> Vec<ParamSpec> {
        let Shape { h, w, c } = self.shape;
        vec![ParamSpec::new("weight", &[h, w, c], Init::Zeros, false)]
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (from, len) = (b.param(unit.main, "weight")?, b.shape(unit.main).len());
        let to = b.make(unit.output);
        b.emit(unit.main, "forward", Repeat { from, to, len });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (to, len) = (b.param_grad(unit.main, "weight")?, b.shape(unit.main).len());
        let from = b.grad(unit.output)?;
        b.emit(unit.main, "backward", SumSamples { from, to, len });
        Ok(())
    }
}

/// `to [n, len]`: the same for every sample.
#[derive(Debug)]
struct Repeat {
    from: Buf,
    to: Buf,
    len: usize,
}

impl Op for Repeat {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.from, self.to]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [from, to] = m.get([self.from, self.to]);
        for sample in to[..e.n * self.len].chunks_exact_mut(self.len) {
            sample.copy_from_slice(&from[..self.len]);
        }
    }
}

/// `to [len] = Σ over samples of from [n, len]`.
#[derive(Debug)]
struct SumSamples {
    from: Buf,
    to: Buf,
    len: usize,
}

impl Op for SumSamples {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.from, self.to]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [from, to] = m.get([self.from, self.to]);
        to[..self.len].fill(0.0);
        for sample in from[..e.n * self.len].chunks_exact(self.len) {
            for (t, f) in to.iter_mut().zip(sample) {
                *t += f;
            }
        }
    }
}
