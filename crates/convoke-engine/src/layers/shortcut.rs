//! The parameter-free shortcut of He et al. 2016 (option A).
//!
//! `x [n,h,w,c] -> y [n, ceil(h/s), ceil(w/s), channels]`: every s-th pixel; missing channels are
//! zero, half of them in front and half behind. The paper leaves their place open; this is where the
//! known CIFAR weights (Idelbayev, pytorch_resnet_cifar10) have them.

use super::{Narrow, Reach, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Hw, Padding, Result, Shape, Window};
use convoke_kernels::shortcut::{self, ShortcutShape};
use convoke_kernels::{Map, MapMut};
use serde::{Deserialize, Serialize};

/// Every `stride`-th pixel, between zero channels up to `channels` in all.
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
                format!("{} channels for a map of {x}; give from {} to 2^20", self.channels, x.c),
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

    fn halves(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Alike)
    }

    fn bytes(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Alike)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (shape, len) = (self.shape(b.shape(from)), b.shape(unit.main).len());
        let (src, dst) = (b.value(from)?, b.make(unit.output));
        b.emit(unit.main, "forward", Pick { src, dst, shape, len });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (shape, len) = (self.shape(b.shape(from)), b.shape(from).len());
        let src = b.grad(unit.output)?;
        if let Some((dst, accumulate)) = b.grad_into(from)? {
            b.emit(unit.main, "backward", Spread { src, dst, shape, len, accumulate });
        }
        Ok(())
    }
}

impl Shortcut {
    fn shape(&self, x: Shape) -> ShortcutShape {
        let stride = (self.stride.h, self.stride.w);
        ShortcutShape { h: x.h, w: x.w, c: x.c, d: self.channels, stride }
    }
}

/// `dst [n, len]` from every stride-th pixel of `src`.
#[derive(Debug)]
struct Pick {
    src: Buf,
    dst: Buf,
    shape: ShortcutShape,
    len: usize,
}

impl Op for Pick {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let form = m.form(self.src);
        let [src, dst] = m.get([self.src, self.dst]);
        let (src, dst) = (Map::of(src, form), MapMut::of(dst, form).first(e.n * self.len));
        shortcut::forward(e.cx, self.shape, src, dst);
    }
}

/// `dst [n, len]` gets the gradient at the pixels that were taken.
#[derive(Debug)]
struct Spread {
    src: Buf,
    dst: Buf,
    shape: ShortcutShape,
    len: usize,
    accumulate: bool,
}

impl Op for Spread {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let form = m.form(self.src);
        let [src, dst] = m.get([self.src, self.dst]);
        let (src, dst) = (Map::of(src, form), MapMut::of(dst, form).first(e.n * self.len));
        shortcut::backward(e.cx, self.shape, src, dst, self.accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Plan, PlanOptions, Session};

    #[test]
    fn every_second_pixel_between_zero_channels() {
        let mut b = Builder::new("n", Shape::new(3, 4, 1));
        b.layer(Shortcut { stride: 2.into(), channels: 4 });
        let plan = Plan::compile(&b.build().unwrap(), &PlanOptions::predict(1, 1)).unwrap();
        let mut s = Session::new(plan).unwrap();
        for (i, x) in s.input_mut().iter_mut().enumerate() {
            *x = i as f32 + 1.0;
        }
        let y = s.predict(1).unwrap();
        let rows: Vec<_> = y.chunks(4).map(|p| (p[1], p[0] + p[2] + p[3])).collect();
        assert_eq!(rows, [(1.0, 0.0), (3.0, 0.0), (9.0, 0.0), (11.0, 0.0)]);
    }

    #[test]
    fn fewer_channels_than_the_input_are_refused() {
        let e = Builder::new("n", Shape::new(3, 4, 8))
            .layer(Shortcut { stride: 2.into(), channels: 4 })
            .build()
            .unwrap_err();
        let wanted = "shortcut1: 4 channels for a map of 3x4x8; give from 8 to 2^20";
        assert_eq!(e.to_string(), wanted);
    }
}
