//! A map read as a box of any axes, its axes in another order, and the result read as a map again.

use super::{Reach, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::rearrange as kernels;
use serde::{Deserialize, Serialize};

/// A sample's numbers, which lie as `[h, w, c]`, are read as a box of `sizes`; axis `order[i]` of it becomes axis
/// `i`; the result is read as `shape`. Channels before pixels as other tools flatten, blocks of pixels as
/// channels (Shi et al. 2016), and shuffles of any kind. Where the order changes nothing, nothing moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rearrange {
    /// Sizes of the box, outermost first.
    pub sizes: Vec<usize>,
    /// Which of its axes comes where.
    pub order: Vec<usize>,
    /// Shape of the output.
    pub shape: Shape,
}

impl Rearrange {
    /// The same numbers as another shape.
    pub fn reshape(shape: Shape) -> Self {
        Self { sizes: vec![shape.len()], order: vec![0], shape }
    }

    fn moves(&self) -> bool {
        let long = |&&a: &&usize| self.sizes[a] > 1;
        !self.order.iter().filter(long).is_sorted()
    }
}

impl Rule for Rearrange {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        let whole = (0..self.sizes.len()).eq(sorted);
        let product = |s: &[usize]| s.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        let Shape { h, w, c } = self.shape;
        let fits = product(&self.sizes) == Some(x.len()) && product(&[h, w, c]) == Some(x.len());
        if !whole || self.sizes.len() > 16 || !fits {
            return Err(Error::layer(
                name,
                format!(
                    "{x} cannot be read as {:?}, put in the order {:?} and read as {}",
                    self.sizes, self.order, self.shape
                ),
            ));
        }
        Ok(self.shape)
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        if !self.moves() {
            return b.pass_value(from, unit.output);
        }
        let (x, len) = (b.value(from)?, b.shape(from).len());
        let (r, y) = (kernels::Rearrange::new(&self.sizes, &self.order), b.make(unit.output));
        b.emit(unit.main, "forward", Apply { r, x, y, len, accumulate: false });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        if !self.moves() {
            return b.pass_grad(unit.output, from);
        }
        let (x, len) = (b.grad(unit.output)?, b.shape(from).len());
        if let Some((y, accumulate)) = b.grad_into(from)? {
            let sizes: Vec<usize> = self.order.iter().map(|&a| self.sizes[a]).collect();
            let r = kernels::Rearrange::new(&sizes, &kernels::Rearrange::inverse(&self.order));
            b.emit(unit.main, "backward", Apply { r, x, y, len, accumulate });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Apply {
    r: kernels::Rearrange,
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
        kernels::apply(e.cx, &self.r, &x[..len], &mut y[..len], self.accumulate);
    }
}
