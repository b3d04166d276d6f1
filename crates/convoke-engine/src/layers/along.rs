//! Work along one axis of a map: places taken, mixed, or reduced to one.

use super::{Reach, Rule, one};
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{Error, NodeId, Result, Shape};
use convoke_kernels::axis::{self, Table};
use serde::{Deserialize, Serialize};

/// An axis of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Rows.
    H,
    /// Columns.
    W,
    /// Channels.
    C,
}

/// Places `start, start + step, …` along an axis, `size` of them; beyond the border there are zeros. With step 1
/// it cuts and pads, with another it thins out, with −1 it mirrors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Take {
    /// Which axis.
    pub axis: Axis,
    /// First place; negative in the zeros in front.
    #[serde(default)]
    pub start: i64,
    /// From one place to the next.
    #[serde(default = "step")]
    pub step: i64,
    /// How many.
    pub size: usize,
}

fn step() -> i64 {
    1
}

/// `step − 1` zeros between neighbours along both axes: what turns the transpose of a strided convolution into a
/// convolution (Dumoulin and Visin 2016, section 4.6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Which axis.
    pub axis: Axis,
    /// From one place to the next.
    pub step: usize,
}

/// Each output along an axis is a weighted sum of inputs: resizing, whatever the filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Which axis.
    pub axis: Axis,
    /// Inputs along the axis.
    pub size: usize,
    /// For each output the places and weights of its inputs.
    pub table: Vec<Vec<(usize, f32)>>,
}

/// One number of all places along an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reduce {
    /// Which axis.
    pub axis: Axis,
    /// Which number.
    pub by: By,
}

/// What a [`Reduce`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The largest; the first of equal ones gets the gradient.
    Max,
    /// The smallest.
    Min,
}

/// Sizes beyond this are refused.
const LIMIT: usize = 1 << 24;

impl Axis {
    /// Size of a map along the axis, and of what lies behind each place.
    fn of(self, s: Shape) -> (usize, usize) {
        match self {
            Axis::H => (s.h, s.w * s.c),
            Axis::W => (s.w, s.c),
            Axis::C => (s.c, 1),
        }
    }

    fn with(self, s: Shape, n: usize) -> Shape {
        match self {
            Axis::H => Shape { h: n, ..s },
            Axis::W => Shape { w: n, ..s },
            Axis::C => Shape { c: n, ..s },
        }
    }
}

fn sized(name: &str, axis: Axis, x: Shape, size: Option<usize>) -> Result<Shape> {
    match size {
        Some(n) if (1..=LIMIT).contains(&n) => Ok(axis.with(x, n)),
        _ => Err(Error::layer(name, format!("a size of {size:?} is empty or too large"))),
    }
}

impl Take {
    fn table(&self, n: usize) -> Table {
        let place = |i: usize| {
            let at = (i as i64).checked_mul(self.step).and_then(|s| s.checked_add(self.start));
            at.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < n).map(|at| (at, 1.0))
        };
        Table::new(n, (0..self.size).map(place))
    }
}

impl Rule for Take {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        sized(name, self.axis, one(name, inputs)?, Some(self.size))
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(self.axis, |n| self.table(n), unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(self.axis, |n| self.table(n), unit, b)
    }
}

impl Spread {
    fn table(&self, n: usize) -> Table {
        let place = |i: usize| i.is_multiple_of(self.step).then_some((i / self.step, 1.0));
        Table::new(n, (0..(n - 1) * self.step + 1).map(place))
    }
}

impl Rule for Spread {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        let n = self.axis.of(x).0;
        let size = (n - 1).checked_mul(self.step).filter(|_| self.step > 0).map(|s| s + 1);
        sized(name, self.axis, x, size)
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(self.axis, |n| self.table(n), unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(self.axis, |n| self.table(n), unit, b)
    }
}

impl Mix {
    fn kernel(&self, n: usize) -> Table {
        Table::new(n, self.table.iter().cloned())
    }
}

impl Rule for Mix {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        let x = one(name, inputs)?;
        let n = self.axis.of(x).0;
        if n != self.size {
            return Err(Error::layer(name, format!("is for {} places but {x} has {n}", self.size)));
        }
        let mut parts = self.table.iter().flatten();
        if parts.any(|(at, weight)| *at >= n || !weight.is_finite()) {
            return Err(Error::layer(name, "its table names a place that is not there"));
        }
        sized(name, self.axis, x, Some(self.table.len()))
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        forward(self.axis, |n| self.kernel(n), unit, b)
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        backward(self.axis, |n| self.kernel(n), unit, b)
    }
}

impl Reduce {
    /// Sums are a table of one row.
    fn table(&self, n: usize) -> Option<Table> {
        let weight = match self.by {
            By::Sum => 1.0,
            By::Mean => 1.0 / n as f32,
            By::Max | By::Min => return None,
        };
        Some(Table::new(n, [(0..n).map(|i| (i, weight))]))
    }

    fn extreme(&self, from: NodeId, b: &Lower) -> Extreme {
        let (n, inner) = self.axis.of(b.shape(from));
        let sign = if self.by == By::Max { 1.0 } else { -1.0 };
        Extreme { n, inner, len: b.shape(from).len(), sign }
    }
}

impl Rule for Reduce {
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
        sized(name, self.axis, one(name, inputs)?, Some(1))
    }

    fn reach(&self) -> Reach {
        Reach::Whole
    }

    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        if self.table(1).is_some() {
            return forward(self.axis, |n| self.table(n).expect("a sum"), unit, b);
        }
        let from = b.net.node(unit.main).inputs[0];
        let e = self.extreme(from, b);
        let (x, y) = (b.value(from)?, b.make(unit.output));
        b.emit(unit.main, "forward", ExtremeForward { e, x, y });
        Ok(())
    }

    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()> {
        if self.table(1).is_some() {
            return backward(self.axis, |n| self.table(n).expect("a sum"), unit, b);
        }
        let from = b.net.node(unit.main).inputs[0];
        let e = self.extreme(from, b);
        let (x, y, dy) = (b.value(from)?, b.value(unit.output)?, b.grad(unit.output)?);
        if let Some((dx, accumulate)) = b.grad_into(from)? {
            b.emit(unit.main, "backward", ExtremeBackward { e, x, y, dy, dx, accumulate });
        }
        Ok(())
    }
}

fn forward(axis: Axis, table: impl Fn(usize) -> Table, unit: &Unit, b: &mut Lower) -> Result<()> {
    let from = b.net.node(unit.main).inputs[0];
    let (n, inner) = axis.of(b.shape(from));
    let (len, out_len) = (b.shape(from).len(), b.shape(unit.main).len());
    let (x, y) = (b.value(from)?, b.make(unit.output));
    let op = Apply { table: table(n), inner, x, y, len, out_len, accumulate: false };
    b.emit(unit.main, "forward", op);
    Ok(())
}

fn backward(axis: Axis, table: impl Fn(usize) -> Table, unit: &Unit, b: &mut Lower) -> Result<()> {
    let from = b.net.node(unit.main).inputs[0];
    let (n, inner) = axis.of(b.shape(from));
    let (len, out_len) = (b.shape(unit.main).len(), b.shape(from).len());
    let x = b.grad(unit.output)?;
    if let Some((y, accumulate)) = b.grad_into(from)? {
        let table = table(n).transposed();
        b.emit(unit.main, "backward", Apply { table, inner, x, y, len, out_len, accumulate });
    }
    Ok(())
}

/// `y (+)= table · x` along the axis; lengths are per sample.
#[derive(Debug)]
struct Apply {
    table: Table,
    inner: usize,
    x: Buf,
    y: Buf,
    len: usize,
    out_len: usize,
    accumulate: bool,
}

impl Op for Apply {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        let (x, y) = (&x[..e.n * self.len], &mut y[..e.n * self.out_len]);
        axis::apply(e.cx, &self.table, self.inner, x, y, self.accumulate);
    }
}

#[derive(Debug, Clone, Copy)]
struct Extreme {
    n: usize,
    inner: usize,
    /// Of the input, per sample.
    len: usize,
    sign: f32,
}

#[derive(Debug)]
struct ExtremeForward {
    e: Extreme,
    x: Buf,
    y: Buf,
}

impl Op for ExtremeForward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y] = m.get([self.x, self.y]);
        let Extreme { n, inner, len, sign } = self.e;
        let (x, y) = (&x[..e.n * len], &mut y[..e.n * len / n]);
        axis::extreme(e.cx, (n, inner), sign, x, y);
    }
}

#[derive(Debug)]
struct ExtremeBackward {
    e: Extreme,
    x: Buf,
    y: Buf,
    dy: Buf,
    dx: Buf,
    accumulate: bool,
}

impl Op for ExtremeBackward {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.x, self.y, self.dy, self.dx]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [x, y, dy, dx] = m.get([self.x, self.y, self.dy, self.dx]);
        let Extreme { n, inner, len, .. } = self.e;
        let (len, short) = (e.n * len, e.n * len / n);
        let from = (&x[..len], &y[..short], &dy[..short]);
        axis::extreme_backward(e.cx, (n, inner), from, &mut dx[..len], self.accumulate);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layer;
    use super::*;
    use crate::{Builder, Plan, PlanOptions, Session};

    /// The layer's output for `0, 1, 2, …`.
    fn of(shape: Shape, layer: impl Into<Layer>) -> Vec<f32> {
        let mut b = Builder::new("n", shape);
        let net = b.layer(layer).build().unwrap();
        let mut s =
            Session::new(Plan::compile(&net, &PlanOptions::predict(1, 1)).unwrap()).unwrap();
        s.input_mut().iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
        s.predict(1).unwrap().to_vec()
    }

    #[test]
    fn places_are_taken_along_the_axis() {
        let row = Shape::new(1, 4, 1);
        let take = |start, step, size| of(row, Take { axis: Axis::W, start, step, size });
        assert_eq!(take(1, 1, 2), [1., 2.]);
        assert_eq!(take(-1, 1, 6), [0., 0., 1., 2., 3., 0.]);
        assert_eq!(take(3, -1, 4), [3., 2., 1., 0.]);
        assert_eq!(take(0, 2, 2), [0., 2.]);
        assert_eq!(of(row, Spread { axis: Axis::W, step: 2 }), [0., 0., 1., 0., 2., 0., 3.]);
        let rows = Shape::new(2, 2, 2);
        assert_eq!(of(rows, Take { axis: Axis::H, start: 1, step: 1, size: 1 }), [4., 5., 6., 7.]);
        assert_eq!(of(rows, Take { axis: Axis::C, start: 1, step: 1, size: 1 }), [1., 3., 5., 7.]);
    }

    #[test]
    fn places_are_reduced_and_mixed() {
        let rows = Shape::new(2, 2, 2);
        let reduce = |axis, by| of(rows, Reduce { axis, by });
        assert_eq!(reduce(Axis::H, By::Sum), [4., 6., 8., 10.]);
        assert_eq!(reduce(Axis::W, By::Mean), [1., 2., 5., 6.]);
        assert_eq!(reduce(Axis::C, By::Max), [1., 3., 5., 7.]);
        assert_eq!(reduce(Axis::H, By::Min), [0., 1., 2., 3.]);
        let table = vec![vec![(0, 0.5), (1, 0.5)], vec![], vec![(1, 2.0)]];
        assert_eq!(of(Shape::new(1, 2, 1), Mix { axis: Axis::W, size: 2, table }), [0.5, 0., 2.]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let told =
            |layer: Layer| Builder::new("n", Shape::new(3, 4, 8)).layer(layer).build().is_err();
        assert!(told(Take { axis: Axis::W, start: 0, step: 1, size: 0 }.into()));
        assert!(told(Take { axis: Axis::W, start: 0, step: 1, size: usize::MAX }.into()));
        assert!(told(Spread { axis: Axis::W, step: 0 }.into()));
        assert!(told(Spread { axis: Axis::W, step: usize::MAX }.into()));
        assert!(told(Mix { axis: Axis::W, size: 4, table: vec![vec![(4, 1.0)]] }.into()));
        assert!(told(Mix { axis: Axis::W, size: 3, table: vec![vec![(0, 1.0)]] }.into()));
        assert!(!told(Take { axis: Axis::W, start: i64::MAX, step: i64::MAX, size: 2 }.into()));
    }
}
