//! The parameter-free shortcut of He et al. 2016 (option A).
//!
//! `x [n,h,w,c] -> y [n, ceil(h/s), ceil(w/s), channels]`: every s-th pixel, missing channels zero.

use super::{Reach, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Hw, Padding, Result, Shape, Window};
use convoke_kernels::elementwise;
use serde::{Deserialize, Serialize};

/// Every `stride`-th pixel, with zero channels added up to `channels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shortcut {
    /// Step between two pixels.
    pub stride: Hw,
    /// Channels of the output, at least those of the input.
    pub channels: usize,
}

impl Rule for Shortcut {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        if self.stride.h == 0 || self.stride.w == 0 {
            return Err(Error::layer(name, format!("stride {} must be at least 1", self.stride)));
        }
        if self.channels < x.c || self.channels > 1 << 20 {
            return Err(Error::layer(
                name,
                format!("{} channels; give at least the input's {}", self.channels, x.c),
            ));
        }
        Ok(Shape::new(x.h.div_ceil(self.stride.h), x.w.div_ceil(self.stride.w), self.channels))
    }

    fn reach(&self) -> Reach {
        Reach::Window(Window {
            size: 1.into(),
            stride: self.stride,
            padding: Padding::Valid,
            dilation: 1.into(),
        })
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (src, small, large) = (b.value(from)?, b.shape(unit.main), b.shape(from));
        let dst = b.make(unit.output);
        b.emit(unit.main, "forward", Pick { src, dst, small, large, stride: self.stride });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (src, small, large) = (b.grad(unit.output)?, b.shape(unit.main), b.shape(from));
        if let Some((dst, accumulate)) = b.grad_into(from)? {
            let op = Spread { src, dst, small, large, stride: self.stride, accumulate };
            b.emit(unit.main, "backward", op);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Pick {
    src: Buf,
    dst: Buf,
    small: Shape,
    large: Shape,
    stride: Hw,
}

impl Op for Pick {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [src, dst] = m.get([self.src, self.dst]);
        let Pick { small, large, stride, .. } = *self;
        let dst = &mut dst[..e.n * small.len()];
        elementwise::gather_rows(e.cx, src, dst, (large.c, small.c), false, |row| {
            let (p, y, x) = (row / small.pixels(), row / small.w % small.h, row % small.w);
            Some((p * large.h + y * stride.h) * large.w + x * stride.w)
        });
    }
}

#[derive(Debug)]
struct Spread {
    src: Buf,
    dst: Buf,
    small: Shape,
    large: Shape,
    stride: Hw,
    accumulate: bool,
}

impl Op for Spread {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [src, dst] = m.get([self.src, self.dst]);
        let Spread { small, large, stride, .. } = *self;
        let dst = &mut dst[..e.n * large.len()];
        let accumulate = self.accumulate;
        elementwise::gather_rows(e.cx, src, dst, (small.c, large.c), accumulate, |row| {
            let (p, y, x) = (row / large.pixels(), row / large.w % large.h, row % large.w);
            let on = y % stride.h == 0 && x % stride.w == 0;
            on.then(|| (p * small.h + y / stride.h) * small.w + x / stride.w)
        });
    }
}
