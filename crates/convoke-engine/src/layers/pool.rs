//! Pooling: the largest or the mean of each window, per channel.
//!
//! `x [n,h,w,c] -> y [n,ho,wo,c]`; padding never wins a maximum (PyTorch `MaxPool2d`), and counts in
//! a mean only when asked (`count_include_pad`).

use super::{Narrow, Reach, Rule, one};
use crate::plan::arena::{Buf, Kind, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, Hw, Padding, Result, Shape, Window};
use convoke_kernels::pool2d::{self, PoolShape};
use convoke_kernels::{Form, Map, MapMut};
use serde::{Deserialize, Serialize};

fn valid() -> Padding {
    Padding::Valid
}

/// The largest value of each window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPool {
    /// Window size.
    pub window: Hw,
    /// Step between two outputs; the window size when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Hw>,
    /// What stands beyond the border.
    #[serde(default = "valid")]
    pub padding: Padding,
}

/// The mean of each window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanPool {
    /// Window size.
    pub window: Hw,
    /// Step between two outputs; the window size when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Hw>,
    /// What stands beyond the border.
    #[serde(default = "valid")]
    pub padding: Padding,
    /// Whether the padding's zeros count in the mean (PyTorch's default is yes, TensorFlow's no).
    #[serde(default)]
    pub count_padding: bool,
}

/// The mean over the whole map: `h × w × c -> 1 × 1 × c` (Lin et al. 2013).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalMeanPool {}

impl MaxPool {
    /// A window moved by its own size, padding `valid`.
    pub fn new(window: impl Into<Hw>) -> Self {
        Self { window: window.into(), stride: None, padding: Padding::Valid }
    }

    /// Sets the stride.
    pub fn stride(self, stride: impl Into<Hw>) -> Self {
        Self { stride: Some(stride.into()), ..self }
    }

    /// Sets any padding.
    pub fn padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// The window with its stride and padding.
    pub fn window(&self) -> Window {
        pool_window(self.window, self.stride, self.padding)
    }
}

impl MeanPool {
    /// A window moved by its own size, padding `valid`.
    pub fn new(window: impl Into<Hw>) -> Self {
        Self { window: window.into(), stride: None, padding: Padding::Valid, count_padding: false }
    }

    /// Sets the stride.
    pub fn stride(self, stride: impl Into<Hw>) -> Self {
        Self { stride: Some(stride.into()), ..self }
    }

    /// Sets any padding.
    pub fn padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// Lets the padding's zeros count in the mean.
    pub fn count_padding(self) -> Self {
        Self { count_padding: true, ..self }
    }

    /// The window with its stride and padding.
    pub fn window(&self) -> Window {
        pool_window(self.window, self.stride, self.padding)
    }
}

fn pool_window(size: Hw, stride: Option<Hw>, padding: Padding) -> Window {
    Window { size, stride: stride.unwrap_or(size), padding, dilation: 1.into() }
}

/// The shape rule of both poolings. A window may not lie wholly in the padding.
fn pooled(name: &str, window: Window, inputs: &[Shape]) -> Result<Shape> {
    let x = one(name, inputs)?;
    let p = window.place(name, x)?;
    if p.top.max(p.bottom) >= window.size.h || p.left.max(p.right) >= window.size.w {
        return Err(Error::layer(
            name,
            format!(
                "padding {} is as large as the window {}; it must be smaller",
                window.padding, window.size
            ),
        ));
    }
    if window.size.h * window.size.w > 255 {
        return Err(Error::layer(
            name,
            format!(
                "window {} has more than 255 places; use global-mean-pool or a smaller window",
                window.size
            ),
        ));
    }
    Ok(Shape::new(p.out_h, p.out_w, x.c))
}

/// All sizes in numbers.
fn sizes(window: Window, unit: &Unit, b: &Lower) -> Result<PoolShape> {
    let node = b.net.node(unit.main);
    let x = b.shape(node.inputs[0]);
    let p = window.place(&node.name, x)?;
    Ok(PoolShape {
        h: x.h,
        w: x.w,
        c: x.c * b.lanes(),
        kh: window.size.h,
        kw: window.size.w,
        sh: window.stride.h,
        sw: window.stride.w,
        top: p.top,
        left: p.left,
        bottom: p.bottom,
        right: p.right,
        oh: p.out_h,
        ow: p.out_w,
    })
}

impl Rule for MaxPool {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        pooled(name, self.window(), inputs)
    }

    fn reach(&self) -> Reach {
        Reach::Window(self.window())
    }

    fn halves(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Alike)
    }

    fn bytes(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Alike)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let s = sizes(self.window(), unit, b)?;
        let x = b.value(b.net.node(unit.main).inputs[0])?;
        let y = b.make(unit.output);
        // One byte a maximum: its place in the window. Maps of bytes, which do not train, have none.
        let places = match b.form(unit.output) {
            Form::Bytes(_) => 0,
            Form::Full | Form::Half => b.map_len(unit.output).div_ceil(4),
        };
        let arg = b.own(unit.main, "places", Kind::Step, places);
        b.emit(unit.main, "forward", MaxForward { s, x, y, arg });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let s = sizes(self.window(), unit, b)?;
        let (dy, arg) = (b.grad(unit.output)?, b.owned(unit.main, "places")?);
        if let Some((dx, accumulate)) = b.grad_into(b.net.node(unit.main).inputs[0])? {
            b.emit(unit.main, "backward", MaxBackward { s, dy, arg, dx, accumulate });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MaxForward {
    s: PoolShape,
    x: Buf,
    y: Buf,
    arg: Buf,
}

impl Op for MaxForward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y, self.arg]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let form = m.form(self.x);
        let [x, y, arg] = m.get([self.x, self.y, self.arg]);
        let (x, y) = (Map::of(x, form), MapMut::of(y, form));
        pool2d::max_forward(e.cx, &self.s, e.maps(), x, y, bytemuck::cast_slice_mut(arg));
    }
}

#[derive(Debug)]
struct MaxBackward {
    s: PoolShape,
    dy: Buf,
    arg: Buf,
    dx: Buf,
    accumulate: bool,
}

impl Op for MaxBackward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.arg, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let form = m.form(self.dx);
        let [dy, arg, dx] = m.get([self.dy, self.arg, self.dx]);
        let (dy, dx) = (Map::of(dy, form), MapMut::of(dx, form));
        let arg = bytemuck::cast_slice(arg);
        pool2d::max_backward(e.cx, &self.s, e.maps(), dy, arg, dx, self.accumulate);
    }
}

impl Rule for MeanPool {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        pooled(name, self.window(), inputs)
    }

    fn reach(&self) -> Reach {
        Reach::Window(self.window())
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let s = sizes(self.window(), unit, b)?;
        let x = b.value(b.net.node(unit.main).inputs[0])?;
        let y = b.make(unit.output);
        b.emit(unit.main, "forward", MeanForward { s, x, y, count_padding: self.count_padding });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let s = sizes(self.window(), unit, b)?;
        let dy = b.grad(unit.output)?;
        if let Some((dx, accumulate)) = b.grad_into(b.net.node(unit.main).inputs[0])? {
            let count_padding = self.count_padding;
            b.emit(unit.main, "backward", MeanBackward { s, dy, dx, count_padding, accumulate });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MeanForward {
    s: PoolShape,
    x: Buf,
    y: Buf,
    count_padding: bool,
}

impl Op for MeanForward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        pool2d::mean_forward(e.cx, &self.s, e.maps(), x, y, self.count_padding);
    }
}

#[derive(Debug)]
struct MeanBackward {
    s: PoolShape,
    dy: Buf,
    dx: Buf,
    count_padding: bool,
    accumulate: bool,
}

impl Op for MeanBackward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [dy, dx] = m.get([self.dy, self.dx]);
        pool2d::mean_backward(e.cx, &self.s, e.maps(), dy, dx, self.count_padding, self.accumulate);
    }
}

impl Rule for GlobalMeanPool {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        Ok(Shape::vector(one(name, inputs)?.c))
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn halves(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Input)
    }

    fn bytes(&self, _: &Unit, _: &Lower) -> Result<Narrow> {
        Ok(Narrow::Input)
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (x, shape) = (b.value(from)?, b.shape(from));
        let y = b.make(unit.output);
        b.emit(
            unit.main,
            "forward",
            GlobalForward { pixels: shape.pixels(), c: shape.c * b.lanes(), x, y },
        );
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        let from = b.net.node(unit.main).inputs[0];
        let (dy, shape) = (b.grad(unit.output)?, b.shape(from));
        if let Some((dx, accumulate)) = b.grad_into(from)? {
            let (pixels, c) = (shape.pixels(), shape.c * b.lanes());
            b.emit(unit.main, "backward", GlobalBackward { pixels, c, dy, dx, accumulate });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct GlobalForward {
    pixels: usize,
    c: usize,
    x: Buf,
    y: Buf,
}

impl Op for GlobalForward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let form = m.form(self.x);
        let [x, y] = m.get([self.x, self.y]);
        let (x, y) = (Map::of(x, form), &mut y[..e.maps() * self.c]);
        pool2d::global_mean_forward(e.cx, self.pixels, self.c, x, y);
    }
}

#[derive(Debug)]
struct GlobalBackward {
    pixels: usize,
    c: usize,
    dy: Buf,
    dx: Buf,
    accumulate: bool,
}

impl Op for GlobalBackward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let form = m.form(self.dx);
        let [dy, dx] = m.get([self.dy, self.dx]);
        let dx = MapMut::of(dx, form).first(e.maps() * self.pixels * self.c);
        pool2d::global_mean_backward(e.cx, self.pixels, self.c, dy, dx, self.accumulate);
    }
}
