//! Channels taken out of a map, and channels that change places.

use super::{Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::channels as kernels;
use convoke_kernels::elementwise::{self, Channels};
use serde::{Deserialize, Serialize};

/// Channels `start .. start + channels` of a map: `x [n,h,w,c] -> y [n,h,w,channels]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// First channel.
    #[serde(default)]
    pub start: usize,
    /// How many.
    pub channels: usize,
}

/// Channels that lie group by group take turns: `y[i · groups + g] = x[g · c / groups + i]` (Zhang et al. 2018).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelShuffle {
    /// Number of groups; it divides the channels.
    pub groups: usize,
}

impl Rule for Slice {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        match self.start.checked_add(self.channels) {
            Some(end) if end <= x.c && self.channels > 0 => Ok(Shape { c: self.channels, ..x }),
            _ => Err(Error::layer(
                name,
                format!(
                    "{} channels from {} are not in a map of {x}; take from 1 to {}",
                    self.channels,
                    self.start,
                    x.c.saturating_sub(self.start)
                ),
            )),
        }
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (whole, part) = self.sides(b.shape(from));
        let (pixels, src, dst) = (b.shape(from).pixels(), b.value(from)?, b.make(unit.output));
        let op = Place { src, from: whole, dst, to: part, pixels, fresh: false, accumulate: false };
        b.emit(unit.main, "forward", op);
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (whole, part) = self.sides(b.shape(from));
        let (pixels, src) = (b.shape(from).pixels(), b.grad(unit.output)?);
        if let Some((dst, accumulate)) = b.grad_into(from)? {
            let op =
                Place { src, from: part, dst, to: whole, pixels, fresh: !accumulate, accumulate };
            b.emit(unit.main, "backward", op);
        }
        Ok(())
    }
}

impl Slice {
    /// The channels within the map and within the slice.
    fn sides(&self, x: Shape) -> (Channels, Channels) {
        (Channels { width: x.c, at: self.start }, Channels { width: self.channels, at: 0 })
    }
}

/// Copies the narrower range of channels to the other map, which is cleared first where it is `fresh`.
#[derive(Debug)]
struct Place {
    src: Buf,
    from: Channels,
    dst: Buf,
    to: Channels,
    pixels: usize,
    fresh: bool,
    accumulate: bool,
}

impl Op for Place {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [src, dst] = m.get([self.src, self.dst]);
        let (rows, channels) = (e.n * self.pixels, self.from.width.min(self.to.width));
        if self.fresh && self.to.width > channels {
            elementwise::fill(e.cx, &mut dst[..rows * self.to.width], 0.0);
        }
        let (src, dst) = ((&*src, self.from), (dst, self.to));
        elementwise::copy_channels(e.cx, src, dst, rows, channels, self.accumulate);
    }
}

impl Rule for ChannelShuffle {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        if self.groups == 0 || !x.c.is_multiple_of(self.groups) {
            let what = format!("{} groups do not divide the channels of {x}", self.groups);
            return Err(Error::layer(name, what));
        }
        Ok(x)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (c, len) = (b.shape(from).c, b.shape(from).len());
        let (x, y) = (b.value(from)?, b.make(unit.output));
        let op = Shuffle { x, y, c, groups: self.groups, accumulate: false, len };
        b.emit(unit.main, "forward", op);
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (c, len, x) = (b.shape(from).c, b.shape(from).len(), b.grad(unit.output)?);
        if let Some((y, accumulate)) = b.grad_into(from)? {
            let groups = c / self.groups;
            b.emit(unit.main, "backward", Shuffle { x, y, c, groups, accumulate, len });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Shuffle {
    x: Buf,
    y: Buf,
    c: usize,
    groups: usize,
    accumulate: bool,
    len: usize,
}

impl Op for Shuffle {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        let len = e.n * self.len;
        kernels::shuffle(e.cx, &x[..len], &mut y[..len], self.c, self.groups, self.accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Plan, PlanOptions, Session};

    fn predicted(b: &mut Builder) -> Vec<f32> {
        let plan = Plan::compile(&b.build().unwrap(), &PlanOptions::predict(1, 1)).unwrap();
        let mut s = Session::new(plan).unwrap();
        s.input_mut().iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
        s.predict(1).unwrap().to_vec()
    }

    #[test]
    fn channels_take_turns() {
        let mut b = Builder::new("n", Shape::new(1, 1, 6));
        assert_eq!(predicted(b.layer(ChannelShuffle { groups: 2 })), [0., 3., 1., 4., 2., 5.]);
        let mut b = Builder::new("n", Shape::new(1, 1, 6));
        assert_eq!(predicted(b.layer(ChannelShuffle { groups: 3 })), [0., 2., 4., 1., 3., 5.]);
    }

    #[test]
    fn a_slice_is_some_of_the_channels_of_every_pixel() {
        let mut b = Builder::new("n", Shape::new(1, 2, 4));
        assert_eq!(predicted(b.layer(Slice { start: 1, channels: 2 })), [1., 2., 5., 6.]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let told = |layer: super::super::Layer| {
            Builder::new("n", Shape::new(3, 4, 8)).layer(layer).build().unwrap_err().to_string()
        };
        let wanted = "slice1: 4 channels from 6 are not in a map of 3x4x8; take from 1 to 2";
        assert_eq!(told(Slice { start: 6, channels: 4 }.into()), wanted);
        assert!(told(Slice { start: usize::MAX, channels: 2 }.into()).contains("are not in"));
        assert!(told(Slice { start: 0, channels: 0 }.into()).contains("are not in"));
        let wanted = "channel-shuffle1: 3 groups do not divide the channels of 3x4x8";
        assert_eq!(told(ChannelShuffle { groups: 3 }.into()), wanted);
    }
}
