//! Where branches meet, and where a map becomes a vector.

use super::{Narrow, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::ops;
use crate::plan::unit::Unit;
use crate::{Error, NodeId, Result, Shape};
use convoke_kernels::elementwise::{self, Channels};
use serde::{Deserialize, Serialize};

/// Sum of equal maps: `y = a + b (+ …)` (the shortcut of He et al. 2016).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {}

/// Maps of equal height and width side by side along the channels.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concat {}

/// `h × w × c` read as `1 × 1 × (h·w·c)`; nothing moves in memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flatten {}

fn list(shapes: &[Shape]) -> String {
    shapes.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(", ")
}

impl Rule for Add {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        match inputs {
            [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|s| s == first) => Ok(*first),
            [_, _, ..] => Err(Error::layer(
                name,
                format!(
                    "add needs equal maps but got {}; bring them to one shape with a 1x1 conv",
                    list(inputs)
                ),
            )),
            _ => Err(Error::layer(name, "add needs at least two inputs")),
        }
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let inputs = b.net.node(unit.main).inputs.clone();
        let len = b.shape(unit.main).len();
        let (first, second) = (b.value(inputs[0])?, b.value(inputs[1])?);
        let dst = b.make(unit.output);
        if first == second {
            b.emit(unit.main, "copy", ops::Copy { src: first, dst, len });
            b.emit(unit.main, "forward", ops::AddTo { src: first, dst, len });
        } else {
            b.emit(unit.main, "forward", Sum { a: first, b: second, dst, len });
        }
        for &more in &inputs[2..] {
            let src = b.value(more)?;
            b.emit(unit.main, "forward", ops::AddTo { src, dst, len });
        }
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        for input in b.net.node(unit.main).inputs.clone() {
            b.pass_grad(unit.output, input)?;
        }
        Ok(())
    }
}

/// `dst [n, len] = a + b`.
#[derive(Debug)]
struct Sum {
    a: Buf,
    b: Buf,
    dst: Buf,
    len: usize,
}

impl Op for Sum {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.a, self.b, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [a, b, dst] = m.get([self.a, self.b, self.dst]);
        let len = e.n * self.len;
        elementwise::add(e.cx, &a[..len], &b[..len], &mut dst[..len]);
    }
}

impl Rule for Concat {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let [first, ..] = inputs else {
            return Err(Error::layer(name, "concat needs at least one input"));
        };
        if inputs.iter().any(|s| (s.h, s.w) != (first.h, first.w)) {
            return Err(Error::layer(
                name,
                format!("concat needs maps of equal height and width but got {}", list(inputs)),
            ));
        }
        Ok(Shape { c: inputs.iter().map(|s| s.c).sum(), ..*first })
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let dst = b.make(unit.output);
        for (input, inner, outer) in parts(unit, b) {
            let (src, pixels) = (b.value(input)?, b.shape(input).pixels());
            let op = Place { src, from: inner, dst, to: outer, pixels, accumulate: false };
            b.emit(unit.main, "forward", op);
        }
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let src = b.grad(unit.output)?;
        for (input, inner, outer) in parts(unit, b) {
            let pixels = b.shape(input).pixels();
            if let Some((dst, accumulate)) = b.grad_into(input)? {
                let op = Place { src, from: outer, dst, to: inner, pixels, accumulate };
                b.emit(unit.main, "backward", op);
            }
        }
        Ok(())
    }
}

/// Each input with its channels within itself and within the whole.
fn parts(unit: &Unit, b: &Lower) -> Vec<(NodeId, Channels, Channels)> {
    let width = b.shape(unit.main).c;
    let mut at = 0;
    let place = |&input: &NodeId| {
        let c = b.shape(input).c;
        at += c;
        (input, Channels { width: c, at: 0 }, Channels { width, at: at - c })
    };
    b.net.node(unit.main).inputs.iter().map(place).collect()
}

/// Copies the narrower range of channels from one map to the other.
#[derive(Debug)]
struct Place {
    src: Buf,
    from: Channels,
    dst: Buf,
    to: Channels,
    pixels: usize,
    accumulate: bool,
}

impl Op for Place {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.src, self.dst]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [src, dst] = m.get([self.src, self.dst]);
        let (rows, channels) = (e.n * self.pixels, self.from.width.min(self.to.width));
        let (src, dst) = ((&*src, self.from), (dst, self.to));
        elementwise::copy_channels(e.cx, src, dst, rows, channels, self.accumulate);
    }
}

impl Rule for Flatten {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        Ok(Shape::vector(one(name, inputs)?.len()))
    }

    fn bytes(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Alike)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        b.pass_value(b.net.node(unit.main).inputs[0], unit.output)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        b.pass_grad(unit.output, b.net.node(unit.main).inputs[0])
    }
}
