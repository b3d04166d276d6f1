//! Mean pooling to a given size (PyTorch `AdaptiveAvgPool2d`): `x [n,h,w,c] -> y [n,H,W,c]`, where output row `i`
//! is the mean of rows `floor(i · h / H) .. ceil((i + 1) · h / H)`, columns likewise. It lets the dense layers of
//! AlexNet and VGG take a picture of any size; at the size they were made for it changes nothing.

use super::{Narrow, Reach, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Hw, NodeId, Result, Shape};
use convoke_kernels::adaptive_pool::{self as kernels, AdaptiveShape};
use serde::{Deserialize, Serialize};

/// Means of as many windows as the output has pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveMeanPool {
    /// Rows and columns of the output.
    pub size: Hw,
}

impl Rule for AdaptiveMeanPool {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        if self.size.h == 0 || self.size.w == 0 {
            return Err(Error::layer(name, format!("size {} must be at least 1", self.size)));
        }
        // A size that is too large is refused by the network, as any map that is too large.
        Ok(Shape::new(self.size.h, self.size.w, x.c))
    }

    fn reach(&self) -> Reach {
        Reach::Parts(self.size)
    }

    fn bytes(&self, unit: &Unit, b: &Lower) -> Result<Narrow> {
        let same = b.shape(b.net.node(unit.main).inputs[0]) == b.shape(unit.main);
        Ok(if same { Narrow::Alike } else { Narrow::None })
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        if b.shape(from) == b.shape(unit.main) {
            return b.pass_value(from, unit.output);
        }
        let (s, x, y) = (self.sizes(from, b), b.value(from)?, b.make(unit.output));
        b.emit(unit.main, "forward", Forward { s, x, y });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        if b.shape(from) == b.shape(unit.main) {
            return b.pass_grad(unit.output, from);
        }
        let (s, dy) = (self.sizes(from, b), b.grad(unit.output)?);
        if let Some((dx, accumulate)) = b.grad_into(from)? {
            b.emit(unit.main, "backward", Backward { s, dy, dx, accumulate });
        }
        Ok(())
    }
}

impl AdaptiveMeanPool {
    fn sizes(&self, from: NodeId, b: &Lower) -> AdaptiveShape {
        let Shape { h, w, c } = b.shape(from);
        AdaptiveShape { h, w, c, oh: self.size.h, ow: self.size.w }
    }
}

#[derive(Debug)]
struct Forward {
    s: AdaptiveShape,
    x: Buf,
    y: Buf,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        kernels::forward(e.cx, &self.s, e.n, x, y);
    }
}

#[derive(Debug)]
struct Backward {
    s: AdaptiveShape,
    dy: Buf,
    dx: Buf,
    accumulate: bool,
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, dx] = m.get([self.dy, self.dx]);
        kernels::backward(e.cx, &self.s, e.n, dy, dx, self.accumulate);
    }
}
