//! Dense (fully connected) layer: `x [n, in] · weight [in, out] + bias -> y [n, out]`.
//! A map `h × w × c` on its input is read as one vector in that order.

use super::{Init, Narrow, ParamSpec, Reach, Rule, WeightInit, linear, one};
use crate::plan::lower::Lower;
use crate::plan::unit::Unit;
use crate::{Error, Result, Shape};
use convoke_kernels::conv::ConvShape;
use serde::{Deserialize, Serialize};

/// Every unit sees every input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Number of outputs.
    pub units: usize,
    /// Whether each unit adds a learned number.
    #[serde(default = "yes")]
    pub bias: bool,
    /// How the weights are drawn at first.
    #[serde(default = "glorot")]
    pub init: WeightInit,
}

fn yes() -> bool {
    true
}
fn glorot() -> WeightInit {
    WeightInit::Glorot
}

impl Dense {
    /// `units` outputs, with bias, Glorot initialisation.
    pub fn new(units: usize) -> Self {
        Self { units, bias: true, init: WeightInit::Glorot }
    }

    /// Leaves the bias out.
    pub fn no_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// Chooses how the weights are drawn at first.
    pub fn init(self, init: WeightInit) -> Self {
        Self { init, ..self }
    }
}

impl Rule for Dense {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        one(name, inputs)?;
        match self.units {
            0 => Err(Error::layer(name, "units = 0; give the number of outputs wanted")),
            u if u > 1 << 24 => Err(Error::layer(name, format!("{u} units are too many"))),
            u => Ok(Shape::vector(u)),
        }
    }

    fn params(&self, inputs: &[Shape]) -> Vec<ParamSpec> {
        let n = inputs[0].len();
        let init = self.init.with(n, self.units);
        let mut params = vec![ParamSpec::new("weight", &[n, self.units], init, true)];
        if self.bias {
            params.push(ParamSpec::new("bias", &[self.units], Init::Zeros, false));
        }
        params
    }

    fn macs(&self, inputs: &[Shape], output: Shape) -> u64 {
        (inputs[0].len() as u64).saturating_mul(output.len() as u64)
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn bytes(&self, unit: &Unit, b: &Lower) -> Result<Narrow> {
        let shape = ConvShape::dense(b.shape(b.net.node(unit.main).inputs[0]).len(), self.units);
        Ok(linear::bytes(unit, b, shape))
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let shape = ConvShape::dense(b.shape(b.net.node(unit.main).inputs[0]).len(), self.units);
        linear::forward(unit, b, shape, self.bias)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let shape = ConvShape::dense(b.shape(b.net.node(unit.main).inputs[0]).len(), self.units);
        linear::backward(unit, b, shape, self.bias)
    }
}
