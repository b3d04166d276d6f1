//! A map times one number per channel: the second half of squeeze-and-excitation (Hu et al. 2018).
//! `x [n,h,w,c], gate [n,1,1,c] -> y [n,h,w,c]`.

use super::Rule;
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::gate as kernels;
use serde::{Deserialize, Serialize};

/// Multiplies each channel of the first input by its number in the second.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {}

impl Rule for Gate {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        match inputs {
            [x, g] if *g == Shape::vector(x.c) => Ok(*x),
            [x, g] => {
                let what = format!("a gate for {x} is {} but it is {g}", Shape::vector(x.c));
                Err(Error::layer(name, what))
            }
            _ => Err(Error::layer(name, "takes a map and its gate")),
        }
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let inputs = b.net.node(unit.main).inputs.clone();
        let (x, gate, shape) = (b.value(inputs[0])?, b.value(inputs[1])?, b.shape(unit.main));
        let y = b.make(unit.output);
        b.emit(unit.main, "forward", Forward { x, gate, y, pixels: shape.pixels(), c: shape.c });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let inputs = b.net.node(unit.main).inputs.clone();
        let (x, gate, shape) = (b.value(inputs[0])?, b.value(inputs[1])?, b.shape(unit.main));
        let (pixels, c, dy) = (shape.pixels(), shape.c, b.grad(unit.output)?);
        if let Some((dgate, accumulate)) = b.grad_into(inputs[1])? {
            let op = BackwardGate { dy, x, dgate, pixels, c, accumulate };
            b.emit(unit.main, "backward gate", op);
        }
        if let Some((dx, accumulate)) = b.grad_into(inputs[0])? {
            let op = BackwardMap { dy, gate, dx, pixels, c, accumulate };
            b.emit(unit.main, "backward map", op);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Forward {
    x: Buf,
    gate: Buf,
    y: Buf,
    pixels: usize,
    c: usize,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.gate, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, gate, y] = m.get([self.x, self.gate, self.y]);
        let (n, len) = (e.n * self.c, e.n * self.pixels * self.c);
        kernels::forward(e.cx, self.pixels, &x[..len], &gate[..n], &mut y[..len], self.c);
    }
}

#[derive(Debug)]
struct BackwardGate {
    dy: Buf,
    x: Buf,
    dgate: Buf,
    pixels: usize,
    c: usize,
    accumulate: bool,
}

impl Op for BackwardGate {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.x, self.dgate]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, x, dgate] = m.get([self.dy, self.x, self.dgate]);
        let (n, len) = (e.n * self.c, e.n * self.pixels * self.c);
        let (dy, x, dgate) = (&dy[..len], &x[..len], &mut dgate[..n]);
        kernels::backward_gate(e.cx, self.pixels, dy, x, dgate, self.c, self.accumulate);
    }
}

#[derive(Debug)]
struct BackwardMap {
    dy: Buf,
    gate: Buf,
    dx: Buf,
    pixels: usize,
    c: usize,
    accumulate: bool,
}

impl Op for BackwardMap {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.gate, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, gate, dx] = m.get([self.dy, self.gate, self.dx]);
        let (n, len) = (e.n * self.c, e.n * self.pixels * self.c);
        let (dy, gate, dx) = (&dy[..len], &gate[..n], &mut dx[..len]);
        kernels::backward_map(e.cx, self.pixels, dy, gate, dx, self.c, self.accumulate);
    }
}
