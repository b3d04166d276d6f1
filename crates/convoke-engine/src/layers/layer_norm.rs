//! Layer normalisation of each pixel over its channels (Ba et al. 2016, as ConvNeXt has it).
//!
//! `x [n,h,w,c] -> y = (x − mean) / sqrt(var + epsilon) · weight + bias`: mean and biased variance of the
//! pixel's channels, in training as in prediction (PyTorch `LayerNorm` over the channels).

use super::{Init, ParamSpec, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Result, Shape};
use convoke_kernels::layer_norm::{self as kernels, Gradients};
use serde::{Deserialize, Serialize};

/// Normalises each pixel over its channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm {
    /// Added to the variance.
    #[serde(default = "epsilon")]
    pub epsilon: f32,
}

fn epsilon() -> f32 {
    1e-5
}

impl Default for LayerNorm {
    fn default() -> Self {
        Self { epsilon: epsilon() }
    }
}

impl Rule for LayerNorm {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        one(name, inputs)
    }

    fn params(&self, inputs: &[Shape]) -> Vec<ParamSpec> {
        let c = [inputs[0].c];
        vec![
            ParamSpec::new("weight", &c, Init::Ones, false),
            ParamSpec::new("bias", &c, Init::Zeros, false),
        ]
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
        let (x, gamma, beta) = (b.value(from)?, b.param(id, "weight")?, b.param(id, "bias")?);
        let (y, len) = (b.make(unit.output), b.shape(id).len());
        b.emit(id, "forward", Forward { x, gamma, beta, y, epsilon: self.epsilon, len });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let (id, from) = (unit.main, b.net.node(unit.main).inputs[0]);
        let (c, len) = (b.shape(id).c, b.shape(id).len());
        let (x, dy, gamma) = (b.value(from)?, b.grad(unit.output)?, b.param(id, "weight")?);
        let (dgamma, dbeta) = (b.param_grad(id, "weight")?, b.param_grad(id, "bias")?);
        let scratch = b.scratch(kernels::scratch_len(b.map_len(from) / c, c));
        let (dx, accumulate) = b.grad_into(from)?.unwrap_or((Buf::NONE, false));
        let epsilon = self.epsilon;
        let op = Backward { x, dy, gamma, dgamma, dbeta, dx, accumulate, scratch, epsilon, len };
        b.emit(id, "backward", op);
        Ok(())
    }
}

#[derive(Debug)]
struct Forward {
    x: Buf,
    gamma: Buf,
    beta: Buf,
    y: Buf,
    epsilon: f32,
    len: usize,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.gamma, self.beta, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, gamma, beta, y] = m.get([self.x, self.gamma, self.beta, self.y]);
        let len = e.n * self.len;
        kernels::forward(e.cx, &x[..len], gamma, beta, self.epsilon, &mut y[..len]);
    }
}

#[derive(Debug)]
struct Backward {
    x: Buf,
    dy: Buf,
    gamma: Buf,
    dgamma: Buf,
    dbeta: Buf,
    /// [`Buf::NONE`] where nobody asks for it.
    dx: Buf,
    accumulate: bool,
    scratch: Buf,
    epsilon: f32,
    len: usize,
}

impl Op for Backward {
    fn buffers(&self) -> Vec<Buf> {
        let mut all =
            vec![self.x, self.dy, self.gamma, self.dgamma, self.dbeta, self.dx, self.scratch];
        all.retain(|b| *b != Buf::NONE);
        all
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, dy, gamma, dgamma, dbeta, dx, scratch] =
            m.get([self.x, self.dy, self.gamma, self.dgamma, self.dbeta, self.dx, self.scratch]);
        let len = e.n * self.len;
        let dx = (self.dx != Buf::NONE).then(|| (&mut dx[..len], self.accumulate));
        let to = Gradients { dx, dgamma, dbeta };
        kernels::backward(e.cx, &x[..len], &dy[..len], gamma, self.epsilon, to, scratch);
    }
}
