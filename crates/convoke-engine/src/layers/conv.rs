//! Convolution, grouped and depthwise convolution; a signal is a map of one row.
//!
//! `x [n,h,w,c] · filters [kh,kw,c/groups,d] -> y [n,ho,wo,d]`, a cross-correlation as in every
//! framework (LeCun et al. 1998; PyTorch `Conv2d`).

use super::{Init, Narrow, ParamSpec, Reach, Rule, WeightInit, depthwise, linear, one};
use crate::plan::lower::Lower;
use crate::plan::unit::Unit;
use crate::{Error, Hw, NodeId, Padding, Result, Shape, Window};
use convoke_kernels::conv::ConvShape;
use serde::{Deserialize, Serialize};

/// Convolution with `filters` learned windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Number of filters: the depth of the output. `0` with `groups = 0` means "as many as there
    /// are input channels" and makes the layer depthwise.
    pub filters: usize,
    /// Window size.
    pub window: Hw,
    /// Step between two outputs.
    #[serde(default = "one_by_one")]
    pub stride: Hw,
    /// What stands beyond the border.
    #[serde(default = "same")]
    pub padding: Padding,
    /// Step between two taps of the window.
    #[serde(default = "one_by_one")]
    pub dilation: Hw,
    /// Channels are split into that many independent groups; `0` means one group per channel.
    #[serde(default = "one_group")]
    pub groups: usize,
    /// Whether each filter adds a learned number.
    #[serde(default = "yes")]
    pub bias: bool,
    /// How the filters are drawn at first.
    #[serde(default)]
    pub init: WeightInit,
}

fn one_by_one() -> Hw {
    1.into()
}
fn same() -> Padding {
    Padding::Same
}
fn one_group() -> usize {
    1
}
fn yes() -> bool {
    true
}

impl Conv {
    /// `filters` windows of the given size, stride 1, padding `same`, with bias.
    pub fn new(filters: usize, window: impl Into<Hw>) -> Self {
        Self {
            filters,
            window: window.into(),
            stride: 1.into(),
            padding: Padding::Same,
            dilation: 1.into(),
            groups: 1,
            bias: true,
            init: WeightInit::He,
        }
    }

    /// A 1-D convolution over signals `[n, l, c]`.
    pub fn signal(filters: usize, window: usize) -> Self {
        Self::new(filters, [1, window])
    }

    /// One filter per input channel.
    pub fn depthwise(window: impl Into<Hw>) -> Self {
        Self { groups: 0, ..Self::new(0, window) }
    }

    /// Sets the stride.
    pub fn stride(self, stride: impl Into<Hw>) -> Self {
        Self { stride: stride.into(), ..self }
    }

    /// Sets padding `valid`.
    pub fn valid(self) -> Self {
        Self { padding: Padding::Valid, ..self }
    }

    /// Sets PyTorch's symmetric padding.
    pub fn pad(self, p: impl Into<Hw>) -> Self {
        Self { padding: Padding::symmetric(p), ..self }
    }

    /// Sets any padding.
    pub fn padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// Sets the dilation.
    pub fn dilation(self, dilation: impl Into<Hw>) -> Self {
        Self { dilation: dilation.into(), ..self }
    }

    /// Splits the channels into groups.
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Leaves the bias out.
    pub fn no_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// Chooses how the filters are drawn at first.
    pub fn init(self, init: WeightInit) -> Self {
        Self { init, ..self }
    }

    /// The window with its stride, padding and dilation.
    pub fn window(&self) -> Window {
        Window {
            size: self.window,
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
        }
    }

    /// Groups and filters in numbers for `c` input channels.
    pub(crate) fn split(&self, c: usize) -> (usize, usize) {
        let groups = if self.groups == 0 { c } else { self.groups };
        let filters = if self.filters == 0 { c } else { self.filters };
        (groups, filters)
    }
}

impl Rule for Conv {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        if self.filters == 0 && self.groups != 0 {
            return Err(Error::layer(name, "filters = 0; give the number of feature maps wanted"));
        }
        let (groups, filters) = self.split(x.c);
        if filters > 1 << 20 {
            return Err(Error::layer(
                name,
                format!("{filters} filters are too many; at most 2^20"),
            ));
        }
        if groups == 0 || x.c % groups != 0 || filters % groups != 0 {
            return Err(Error::layer(
                name,
                format!(
                    "{groups} groups must divide both the {} input channels and the {filters} filters",
                    x.c
                ),
            ));
        }
        let p = self.window().place(name, x)?;
        Ok(Shape::new(p.out_h, p.out_w, filters))
    }

    fn params(&self, inputs: &[Shape]) -> Vec<ParamSpec> {
        let (groups, filters) = self.split(inputs[0].c);
        let (area, c) = (self.window.h * self.window.w, inputs[0].c / groups);
        // A network with so many is refused; this is before.
        let fans = (area.saturating_mul(c), area.saturating_mul(filters) / groups);
        let init = self.init.with(fans.0, fans.1);
        let shape = [self.window.h, self.window.w, c, filters];
        let mut params = vec![ParamSpec::new("weight", &shape, init, true)];
        if self.bias {
            params.push(ParamSpec::new("bias", &[filters], Init::Zeros, false));
        }
        params
    }

    fn macs(&self, inputs: &[Shape], output: Shape) -> u64 {
        let (groups, _) = self.split(inputs[0].c);
        let taps = self.window.h.saturating_mul(self.window.w) as u64;
        (output.len() as u64).saturating_mul(taps).saturating_mul((inputs[0].c / groups) as u64)
    }

    fn reach(&self) -> Reach {
        Reach::Window(self.window())
    }

    fn halves(&self, unit: &Unit, b: &Lower) -> Result<Narrow> {
        let shape = self.sizes(unit, b)?;
        match is_depthwise(&shape) {
            // The gradients of a bias and of an activation are read in f32.
            true if self.bias || unit.act.is_some() => Ok(Narrow::None),
            true => Ok(Narrow::Alike),
            false => linear::halves(unit, b, shape, self.bias),
        }
    }

    fn bytes(&self, unit: &Unit, b: &Lower) -> Result<Narrow> {
        let shape = self.sizes(unit, b)?;
        match is_depthwise(&shape) {
            // A residual is added by a call of its own.
            true if unit.residual.is_some() => Ok(Narrow::None),
            true => Ok(Narrow::Both),
            false => Ok(linear::bytes(unit, b, shape)),
        }
    }

    fn makes_step(&self, id: NodeId, b: &Lower) -> Result<bool> {
        let node = b.net.node(id);
        let shape = self.sizes_on(&node.name, b.shape(node.inputs[0]))?;
        Ok(!self.bias && !is_depthwise(&shape) && linear::makes_step(node.inputs[0], b, shape)?)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let shape = self.sizes(unit, b)?;
        if is_depthwise(&shape) {
            return depthwise::forward(unit, b, shape, self.bias);
        }
        linear::forward(unit, b, shape, self.bias)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let shape = self.sizes(unit, b)?;
        if is_depthwise(&shape) {
            return depthwise::backward(unit, b, shape, self.bias);
        }
        linear::backward(unit, b, shape, self.bias)
    }
}

/// One filter per channel, which has kernels of its own.
pub(super) fn is_depthwise(s: &ConvShape) -> bool {
    s.groups > 1 && s.groups == s.c && s.groups == s.d
}

impl Conv {
    fn sizes(&self, unit: &Unit, b: &Lower) -> Result<ConvShape> {
        let node = b.net.node(unit.main);
        self.sizes_on(&node.name, b.shape(node.inputs[0]))
    }

    /// All sizes in numbers, on an input of shape `x`.
    pub(crate) fn sizes_on(&self, name: &str, x: Shape) -> Result<ConvShape> {
        let (groups, d) = self.split(x.c);
        let p = self.window().place(name, x)?;
        Ok(ConvShape {
            h: x.h,
            w: x.w,
            c: x.c,
            kh: self.window.h,
            kw: self.window.w,
            d,
            sh: self.stride.h,
            sw: self.stride.w,
            top: p.top,
            left: p.left,
            dh: self.dilation.h,
            dw: self.dilation.w,
            groups,
            oh: p.out_h,
            ow: p.out_w,
        })
    }
}
