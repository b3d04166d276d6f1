//! Enlarging by repeating pixels (nearest neighbour), on the way down a feature pyramid (Lin et al. 2017).
//!
//! `x [n,h,w,c] -> y [n, h·f, w·f, c]`. With a second input the output has that one's height and width:
//! a map that was halved from an odd size comes back to it. Where repeats run out, the last pixel is
//! repeated further.

use super::{Reach, Rule};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Hw, Result, Shape};
use convoke_kernels::upsample::{self, UpsampleShape};
use serde::{Deserialize, Serialize};

/// Repeats each pixel; a second input gives the size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upsample {
    /// How often rows and columns are repeated.
    pub factor: Hw,
}

impl Upsample {
    /// Repeats rows and columns that often.
    pub fn new(factor: impl Into<Hw>) -> Self {
        Upsample { factor: factor.into() }
    }

    fn shape(&self, x: Shape, y: Shape) -> UpsampleShape {
        let factor = (self.factor.h, self.factor.w);
        UpsampleShape { h: x.h, w: x.w, c: x.c, out: (y.h, y.w), factor }
    }
}

impl Rule for Upsample {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let Hw { h, w } = self.factor;
        if !(1..=64).contains(&h) || !(1..=64).contains(&w) {
            return Err(Error::layer(name, format!("factor {} must be from 1 to 64", self.factor)));
        }
        match *inputs {
            [x] => Ok(Shape::new(x.h * h, x.w * w, x.c)),
            [x, like] if x.h * h + h > like.h && x.w * w + w > like.w => {
                Ok(Shape::new(like.h, like.w, x.c))
            }
            [x, like] => Err(Error::layer(
                name,
                format!("a map of {x} repeated {} times is too small for {like}", self.factor),
            )),
            _ => Err(Error::layer(name, "takes a map, and maybe another one that gives the size")),
        }
    }

    fn reach(&self) -> Reach {
        Reach::Repeated(self.factor)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (shape, len) =
            (self.shape(b.shape(from), b.shape(unit.main)), b.shape(unit.main).len());
        let (src, dst) = (b.value(from)?, b.make(unit.output));
        b.emit(unit.main, "forward", Repeat { src, dst, shape, len });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (shape, len) = (self.shape(b.shape(from), b.shape(unit.main)), b.shape(from).len());
        let src = b.grad(unit.output)?;
        if let Some((dst, accumulate)) = b.grad_into(from)? {
            b.emit(unit.main, "backward", Gather { src, dst, shape, len, accumulate });
        }
        Ok(())
    }
}

/// `dst [n, len]` with the pixels of `src` repeated.
#[derive(Debug)]
struct Repeat {
    src: Buf,
    dst: Buf,
    shape: UpsampleShape,
    len: usize,
}

impl Op for Repeat {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [src, dst] = m.get([self.src, self.dst]);
        upsample::forward(e.cx, self.shape, src, &mut dst[..e.n * self.len]);
    }
}

/// `dst [n, len]` gets the sums of the gradients of repeated pixels.
#[derive(Debug)]
struct Gather {
    src: Buf,
    dst: Buf,
    shape: UpsampleShape,
    len: usize,
    accumulate: bool,
}

impl Op for Gather {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [src, dst] = m.get([self.src, self.dst]);
        upsample::backward(e.cx, self.shape, src, &mut dst[..e.n * self.len], self.accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::layers::Conv;

    #[test]
    fn a_second_input_gives_the_size_and_receptive_fields_stay_true() {
        let mut b = Builder::new("n", Shape::new(7, 9, 3));
        let fine = b.conv(Conv::new(4, 3)).here();
        let coarse = b.conv(Conv::new(4, 2).valid().stride(2)).here();
        assert!(b.clone().layer(Upsample::new(0)).build().is_err());
        let back = b.join(Upsample::new(2), &[coarse, fine]).here();
        let net = b.build().unwrap();
        assert_eq!(net.output_shape(), Shape::new(7, 9, 4));
        let fields = net.fields();
        // The coarse map sees 4 pixels from -1 on, every 2; either of two repeats may be meant.
        let (h, up) = (fields[coarse.index()].h, fields[back.index()].h);
        assert_eq!((h.size, h.stride, h.start), (4, 2, -1));
        assert_eq!((up.size, up.stride, up.start), (5, 1, -2));
        let e = b.at(coarse).join(Upsample::new(1), &[coarse, fine]).build().unwrap_err();
        assert!(e.to_string().contains("too small for 7x9x4"), "{e}");
    }
}
