//! Activations: `y [n,h,w,c] = f(x [n,h,w,c])`, number by number; softmax over the channels.

use super::{Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Result, Shape};
use convoke_kernels::activation::{self as kernels, Activation};
use serde::{Deserialize, Serialize};

/// `max(x, 0)`, and `min(·, max)` where a maximum is given (ReLU6 has `max = 6`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relu {
    /// Upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f32>,
}

/// `x` where positive, `slope · x` elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeakyRelu {
    /// Slope of the negative side.
    #[serde(default = "slope")]
    pub slope: f32,
}

fn slope() -> f32 {
    0.01
}

impl Default for LeakyRelu {
    fn default() -> Self {
        Self { slope: slope() }
    }
}

/// `1 / (1 + exp(−x))`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sigmoid {}

/// `tanh(x)`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tanh {}

/// `exp(x_c) / sum over channels of exp(x)`, at every pixel.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Softmax {}

/// `min(max(x / 6 + 1/2, 0), 1)` (Howard et al. 2019).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardSigmoid {}

/// `x` times its hard sigmoid (Howard et al. 2019).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardSwish {}

/// `x · sigmoid(x)` (Elfwing et al. 2018; also called swish).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silu {}

/// `x` times the share of the normal distribution below it (Hendrycks and Gimpel 2016), by erf.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gelu {}

/// `factor · x + offset`, constants of the network (the residual scaling of Szegedy et al. 2017).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rescale {
    /// What multiplies.
    pub factor: f32,
    /// What is added.
    #[serde(default)]
    pub offset: f32,
}

impl Rule for Relu {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        one(name, inputs)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(Activation::Relu { max: self.max.unwrap_or(f32::INFINITY) }, unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(Activation::Relu { max: self.max.unwrap_or(f32::INFINITY) }, unit, b)
    }
}

impl Rule for LeakyRelu {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        one(name, inputs)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(Activation::LeakyRelu { slope: self.slope }, unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(Activation::LeakyRelu { slope: self.slope }, unit, b)
    }
}

impl Rescale {
    fn function(&self) -> Activation {
        Activation::Rescale { factor: self.factor, offset: self.offset }
    }
}

impl Rule for Rescale {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        one(name, inputs)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(self.function(), unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(self.function(), unit, b)
    }
}

macro_rules! elementwise {
    ($($layer:ident),*) => {$(
        impl Rule for $layer {
            fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
                one(name, inputs)
            }

            fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
                forward(Activation::$layer, unit, b)
            }

            fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
                backward(Activation::$layer, unit, b)
            }
        }
    )*};
}
elementwise!(Sigmoid, Tanh, HardSigmoid, HardSwish, Silu, Gelu);

impl Rule for Softmax {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        one(name, inputs)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (x, shape) = (b.value(from)?, b.shape(from));
        let y = b.make(unit.output);
        b.emit(unit.main, "forward", SoftmaxForward { x, y, classes: shape.c, len: shape.len() });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (y, dy, shape) = (b.value(unit.output)?, b.grad(unit.output)?, b.shape(from));
        if let Some((dx, accumulate)) = b.grad_into(from)? {
            let (classes, len) = (shape.c, shape.len());
            b.emit(unit.main, "backward", SoftmaxBackward { y, dy, dx, classes, len, accumulate });
        }
        Ok(())
    }
}

/// Emits `y = f(x)`.
fn forward(f: Activation, unit: &Unit, b: &mut Lower) -> Result<()> {
    let from = b.net.node(unit.main).inputs[0];
    let (x, len) = (b.value(from)?, b.shape(from).len());
    let y = b.make(unit.output);
    b.emit(unit.main, "forward", Forward { f, x, y, len });
    Ok(())
}

/// Emits `dx (+)= f'(x) · dy` from the output alone.
fn backward(f: Activation, unit: &Unit, b: &mut Lower) -> Result<()> {
    let from = b.net.node(unit.main).inputs[0];
    let saved = b.value(if f.keeps_input() { from } else { unit.output })?;
    let (dy, len) = (b.grad(unit.output)?, b.shape(from).len());
    if let Some((dx, accumulate)) = b.grad_into(from)? {
        b.emit(unit.main, "backward", Backward { f, saved, dy, dx, len, accumulate });
    }
    Ok(())
}

#[derive(Debug)]
struct Forward {
    f: Activation,
    x: Buf,
    y: Buf,
    len: usize,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        let len = e.n * self.len;
        kernels::forward(e.cx, self.f, &x[..len], &mut y[..len]);
    }
}

#[derive(Debug)]
struct Backward {
    f: Activation,
    saved: Buf,
    dy: Buf,
    dx: Buf,
    len: usize,
    accumulate: bool,
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.saved, self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [saved, dy, dx] = m.get([self.saved, self.dy, self.dx]);
        let len = e.n * self.len;
        kernels::backward(e.cx, self.f, &saved[..len], &dy[..len], &mut dx[..len], self.accumulate);
    }
}

#[derive(Debug)]
struct SoftmaxForward {
    x: Buf,
    y: Buf,
    classes: usize,
    len: usize,
}

impl Op for SoftmaxForward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        let len = e.n * self.len;
        kernels::softmax(e.cx, &x[..len], &mut y[..len], self.classes);
    }
}

#[derive(Debug)]
struct SoftmaxBackward {
    y: Buf,
    dy: Buf,
    dx: Buf,
    classes: usize,
    len: usize,
    accumulate: bool,
}

impl Op for SoftmaxBackward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.y, self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [y, dy, dx] = m.get([self.y, self.dy, self.dx]);
        let len = e.n * self.len;
        let (y, dy, dx) = (&y[..len], &dy[..len], &mut dx[..len]);
        kernels::softmax_backward(e.cx, y, dy, dx, self.classes, self.accumulate);
    }
}
