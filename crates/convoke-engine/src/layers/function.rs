//! Functions number by number that networks of other tools are made of: `y [n,h,w,c] = f(x [n,h,w,c])`.

use super::{Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::function as kernels;
use serde::{Deserialize, Serialize};

/// A function of each number; `a` and `b` are constants of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Which function.
    pub of: FunctionKind,
    /// First constant.
    #[serde(default)]
    pub a: f32,
    /// Second constant.
    #[serde(default)]
    pub b: f32,
}

/// The functions there are; `a` and `b` are a [`Function`]'s constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FunctionKind {
    /// `|x|`
    Abs,
    /// `exp(x)`
    Exp,
    /// `ln(x)`
    Log,
    /// `√x`
    Sqrt,
    /// `1 / x`
    Reciprocal,
    /// `x ^ a`
    Power,
    /// `b · x` where positive, `b · a · (exp(x) − 1)` elsewhere.
    Elu,
    /// `ln(1 + exp(x))`
    Softplus,
    /// `x / (1 + |x|)`
    Softsign,
    /// `x · tanh(softplus(x))`
    Mish,
    /// `x · sigmoid(a · x)`
    Swish,
    /// The error function.
    Erf,
    /// GELU by tanh.
    GeluTanh,
    /// `min(max(a · x + b, 0), 1)`
    HardSigmoid,
    /// `min(max(x, a), b)`
    Clip,
    /// `x` above `a`, 0 elsewhere.
    Threshold,
    /// `x` moved towards zero by `b` where `|x| > a`, 0 elsewhere.
    Shrink,
    /// `sin(x)`
    Sin,
    /// `cos(x)`
    Cos,
    /// To the nearest whole number between `a` and `b`; backward as if not rounded.
    Round,
}

impl Function {
    /// A function without constants.
    pub fn new(of: FunctionKind) -> Self {
        Self { of, a: 0.0, b: 0.0 }
    }

    fn kernel(&self) -> kernels::Function {
        use FunctionKind as K;
        use kernels::Function as F;
        let (a, b) = (self.a, self.b);
        match self.of {
            K::Abs => F::Abs,
            K::Exp => F::Exp,
            K::Log => F::Log,
            K::Sqrt => F::Sqrt,
            K::Reciprocal => F::Reciprocal,
            K::Power => F::Power { a },
            K::Elu => F::Elu { a, b },
            K::Softplus => F::Softplus,
            K::Softsign => F::Softsign,
            K::Mish => F::Mish,
            K::Swish => F::Swish { a },
            K::Erf => F::Erf,
            K::GeluTanh => F::GeluTanh,
            K::HardSigmoid => F::HardSigmoid { a, b },
            K::Clip => F::Clip { a, b },
            K::Threshold => F::Threshold { a },
            K::Shrink => F::Shrink { a, b },
            K::Sin => F::Sin,
            K::Cos => F::Cos,
            K::Round => F::Round { a, b },
        }
    }
}

impl Rule for Function {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        if !(self.a.is_finite() && self.b.is_finite()) {
            return Err(Error::layer(name, "its constants must be finite numbers"));
        }
        one(name, inputs)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (x, len) = (b.value(from)?, b.shape(from).len());
        let y = b.make(unit.output);
        b.emit(unit.main, "forward", Forward { f: self.kernel(), x, y, len });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (x, dy, len) = (b.value(from)?, b.grad(unit.output)?, b.shape(from).len());
        if let Some((dx, accumulate)) = b.grad_into(from)? {
            let f = self.kernel();
            b.emit(unit.main, "backward", Backward { f, x, dy, dx, len, accumulate });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Forward {
    f: kernels::Function,
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
    f: kernels::Function,
    x: Buf,
    dy: Buf,
    dx: Buf,
    len: usize,
    accumulate: bool,
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, dy, dx] = m.get([self.x, self.dy, self.dx]);
        let len = e.n * self.len;
        kernels::backward(e.cx, self.f, &x[..len], &dy[..len], &mut dx[..len], self.accumulate);
    }
}
