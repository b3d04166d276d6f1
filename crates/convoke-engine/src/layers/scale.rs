//! A trained number per channel that multiplies: `x [n,h,w,c] · weight [c] -> y [n,h,w,c]` (the layer scale of
//! Touvron et al. 2021, which ConvNeXt has at the end of each block).

use super::{Init, ParamSpec, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::channels as kernels;
use serde::{Deserialize, Serialize};

/// Multiplies each channel by a number that is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// First value of every number.
    #[serde(default = "first")]
    pub first: f32,
}

fn first() -> f32 {
    1.0
}

impl Default for Scale {
    fn default() -> Self {
        Self { first: first() }
    }
}

impl Rule for Scale {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        if !self.first.is_finite() {
            return Err(Error::layer(name, format!("first = {} is no finite number", self.first)));
        }
        one(name, inputs)
    }

    fn params(&self, inputs: &[Shape]) -> Vec<ParamSpec> {
        let first = Init::Constant { value: self.first };
        vec![ParamSpec::new("weight", &[inputs[0].c], first, false)]
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
        let (x, weight, len) = (b.value(from)?, b.param(id, "weight")?, b.shape(id).len());
        let y = b.make(unit.output);
        b.emit(id, "forward", Times { x, weight, y, accumulate: false, len });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
        let (c, len) = (b.shape(id).c, b.shape(id).len());
        let (x, dy) = (b.value(from)?, b.grad(unit.output)?);
        let (weight, dw) = (b.param(id, "weight")?, b.param_grad(id, "weight")?);
        let scratch = b.scratch(kernels::products_scratch_len(b.map_len(from) / c, c));
        b.emit(id, "backward weights", Products { x, dy, dw, scratch, len });
        if let Some((dx, accumulate)) = b.grad_into(from)? {
            b.emit(id, "backward data", Times { x: dy, weight, y: dx, accumulate, len });
        }
        Ok(())
    }
}

/// `y (+)= x · weight`.
#[derive(Debug)]
struct Times {
    x: Buf,
    weight: Buf,
    y: Buf,
    accumulate: bool,
    len: usize,
}

impl Op for Times {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.weight, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, weight, y] = m.get([self.x, self.weight, self.y]);
        let len = e.n * self.len;
        kernels::scale(e.cx, &x[..len], weight, &mut y[..len], self.accumulate);
    }
}

/// `dw = Σ over pixels of x · dy`.
#[derive(Debug)]
struct Products {
    x: Buf,
    dy: Buf,
    dw: Buf,
    scratch: Buf,
    len: usize,
}

impl Op for Products {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.dy, self.dw, self.scratch]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, dy, dw, scratch] = m.get([self.x, self.dy, self.dw, self.scratch]);
        let len = e.n * self.len;
        kernels::products(e.cx, &x[..len], &dy[..len], dw, scratch);
    }
}
