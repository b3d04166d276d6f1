//! How a depthwise convolution lowers together with the 1×1 convolutions beside it, in prediction: one
//! call that keeps what lies between in the caches.

use super::conv::{Conv as Layered, is_depthwise};
use super::{depthwise, linear};
use crate::layers::Layer;
use crate::plan::arena::{Buf, Memory};
use crate::plan::lower::Lower;
use crate::plan::op::{Exec, Op};
use crate::plan::unit::Unit;
use crate::{NodeId, Result};
use convoke_kernels::chain::{Chain, Link};
use convoke_kernels::conv::ConvShape;
use convoke_kernels::{Map, MapMut};

/// Bytes of a batch's map from which it pays not to write it.
const LARGE: usize = 1 << 18;

/// Lowers the units that begin a chain, if they do; returns how many they were.
pub(crate) fn forward(units: &[Unit], b: &mut Lower) -> Result<usize> {
    if b.backward() || b.lanes() > 1 {
        return Ok(0);
    }
    let Some(found) = Found::new(units, b)? else { return Ok(0) };
    let Found { expand, middle, project, s } = found;
    let filters = |u: &Unit, b: &Lower| sizes(u, b).map(|s| s.map(|(s, _)| (s.c, s.d)));
    let before = expand.map(|u| filters(u, b)).transpose()?.flatten().map(|(c, _)| c);
    let after = project.map(|u| filters(u, b)).transpose()?.flatten().map(|(_, d)| d);
    let precise = |u: Option<&Unit>, conv| match u {
        Some(u) => linear::precise(conv, b, b.net.node(u.main).inputs[0]),
        None => conv,
    };
    let ends: [&dyn Fn(_) -> _; 2] =
        [&|conv| precise(expand, conv), &|conv| precise(project, conv)];
    let between = [b.net.node(middle.main).inputs[0], middle.output].map(|place| b.form(place));
    let chain = Chain::new(before, s, after, b.isa, ends, between, b.batch(), b.threads());
    let first = expand.unwrap_or(middle);
    let last = project.unwrap_or(middle);
    let x = b.value(b.net.node(first.main).inputs[0])?;
    let end = |u: Option<&Unit>, conv: Option<&convoke_kernels::conv::Conv>, b: &mut Lower| {
        let (Some(u), Some(conv)) = (u, conv) else { return Ok((None, None)) };
        let (pack, bias) = linear::weights(u, b, &conv.clone().into(), has_bias(u, b))?;
        crate::Result::Ok((Some(pack), bias))
    };
    let ends = [end(expand, chain.expand(), b)?, end(project, chain.project(), b)?];
    let (weight, bias) = depthwise::weights(middle, b, &s, has_bias(middle, b))?;
    let clamp = |u: Option<&Unit>, b: &Lower| u.and_then(|u| u.clamp(b.net));
    let clamps = [clamp(expand, b), clamp(Some(middle), b), clamp(project, b)];
    let residual = last.residual.map(|r| b.value(r)).transpose()?;
    let scratch = b.scratch(chain.scratch_len());
    let y = b.make(last.output);
    let filters = [ends[0].0, Some(weight), ends[1].0];
    let biases = [ends[0].1, bias, ends[1].1];
    let op = Forward { chain, x, filters, biases, clamps, residual, y, scratch };
    b.emit(middle.main, "forward in a chain", op);
    Ok(1 + usize::from(expand.is_some()) + usize::from(project.is_some()))
}

/// A chain among units.
struct Found<'a> {
    expand: Option<&'a Unit>,
    middle: &'a Unit,
    project: Option<&'a Unit>,
    s: ConvShape,
}

impl<'a> Found<'a> {
    fn new(units: &'a [Unit], b: &Lower) -> Result<Option<Self>> {
        let Some(first) = units.first() else { return Ok(None) };
        let expand = Some(first).filter(|u| u.residual.is_none() && is_point(u, b));
        let at = usize::from(expand.is_some());
        let Some(middle) = units.get(at) else { return Ok(None) };
        let Some((s, true)) = sizes(middle, b)? else { return Ok(None) };
        if expand.is_some_and(|u| !feeds(u, middle, b)) {
            return Ok(None);
        }
        let project = units
            .get(at + 1)
            .filter(|u| middle.residual.is_none() && is_point(u, b) && feeds(middle, u, b));
        let between = expand.map_or(0, |_| s.x_len()).max(project.map_or(0, |_| s.y_len()));
        // Threads that share a picture compute the rows between their parts twice.
        let part = s.oh / b.threads().div_ceil(b.batch()).max(1);
        let twice = expand.map_or(0, |_| ((s.kh - 1) * s.dh + 1).saturating_sub(s.sh));
        let pays =
            4 * b.batch() * between >= LARGE && part >= 3 * twice && middle.residual.is_none();
        Ok(pays.then_some(Found { expand, middle, project, s }))
    }
}

/// Whether only the second reads what the first makes.
fn feeds(first: &Unit, second: &Unit, b: &Lower) -> bool {
    b.net.node(second.main).inputs == [first.output]
        && second.residual != Some(first.output)
        && b.net.readers()[first.output.index()] == 1
        && !b.is_pinned(first.output)
}

fn layer<'a>(u: &Unit, b: &Lower<'a>) -> Option<&'a Layered> {
    match &b.net.node(u.main).layer {
        Some(Layer::Conv(conv)) => Some(conv),
        _ => None,
    }
}

fn has_bias(u: &Unit, b: &Lower) -> bool {
    layer(u, b).is_some_and(|l| l.bias)
}

/// A convolution's sizes and whether it has one filter per channel.
fn sizes(u: &Unit, b: &Lower) -> Result<Option<(ConvShape, bool)>> {
    let Some(conv) = layer(u, b) else { return Ok(None) };
    let node = b.net.node(u.main);
    let from: NodeId = node.inputs[0];
    let s = conv.sizes_on(&node.name, b.shape(from))?;
    Ok(Some((s, is_depthwise(&s))))
}

/// A convolution of single pixels.
fn is_point(u: &Unit, b: &Lower) -> bool {
    let Ok(Some((s, false))) = sizes(u, b) else { return false };
    (s.kh, s.kw, s.sh, s.sw, s.groups) == (1, 1, 1, 1, 1)
        && (s.oh, s.ow, s.top, s.left) == (s.h, s.w, 0, 0)
        && s.h * s.w > 1
}

/// Filters, biases and bounds are those of expand, depthwise and project.
#[derive(Debug)]
struct Forward {
    chain: Chain,
    x: Buf,
    filters: [Option<Buf>; 3],
    biases: [Option<Buf>; 3],
    clamps: [Option<(f32, f32)>; 3],
    residual: Option<Buf>,
    y: Buf,
    scratch: Buf,
}

impl Op for Forward {
    fn buffers(&self) -> Vec<Buf> {
        let some = self.filters.iter().chain(&self.biases).flatten().copied();
        [self.x, self.y, self.scratch].into_iter().chain(some).chain(self.residual).collect()
    }

    fn macs(&self) -> u64 {
        self.chain.macs()
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let of = |b: Option<Buf>| b.unwrap_or(Buf::NONE);
        // A residual that is the chain's own input is read through one slice.
        let apart = of(self.residual.filter(|&r| r != self.x));
        let [f0, f1, f2] = self.filters.map(of);
        let [b0, b1, b2] = self.biases.map(of);
        let all = [self.x, self.y, self.scratch, apart, f0, f1, f2, b0, b1, b2];
        let [form_x, form_y, more] = [self.x, self.y, of(self.residual)].map(|b| m.form(b));
        let [x, y, scratch, apart, f0, f1, f2, b0, b1, b2] = m.get(all);
        let (x, apart) = (Map::of(x, form_x), &*apart);
        let link = |i: usize, filters, bias| Link {
            filters,
            bias: self.biases[i].map(|_| bias),
            clamp: self.clamps[i],
        };
        let links = [link(0, &*f0, &*b0), link(1, f1, b1), link(2, f2, b2)];
        let residual = self.residual.map(|r| if r == self.x { x } else { Map::of(apart, more) });
        let y = MapMut::of(y, form_y);
        self.chain.run(e.cx, e.n, x, links, residual, y, scratch);
    }
}
