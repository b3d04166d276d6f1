//! The passes in order, and the plan they make.

use super::arena::{Buf, Kind, Layout};
use super::lower::Lower;
use super::op::{Call, Phase};
use super::{Loss, MemoryReport, Mode, PlanOptions, Precision};
use super::{bytes, halves, lanes, ops, remake, statistics, unit};
use crate::layers::{self, Rule};
use crate::network::{Network, NodeId, Param};
use crate::{Error, Result, loss, optimizer};
use convoke_kernels::Isa;
use std::fmt::Write;

/// A network with everything decided: a flat schedule of calls over one arena.
#[derive(Debug)]
pub struct Plan {
    net: Network,
    options: PlanOptions,
    isa: Isa,
    params: Vec<Param>,
    state: Vec<Param>,
    pub(crate) calls: Vec<Call>,
    pub(crate) layout: Layout,
    pub(crate) input: Buf,
    pub(crate) output: Buf,
    pub(crate) targets: Option<Buf>,
    pub(crate) labels: usize,
    kept: Vec<(NodeId, Buf)>,
    kept_grads: Vec<(NodeId, Buf)>,
    /// Whether weights follow their gradients while these are made, see [`PlanOptions::keep_grads`].
    pub(crate) at_once: bool,
    pub(crate) seed: Option<Buf>,
    names: Vec<(String, Kind)>,
}

/// Emits each unit's calls: forward, the loss, backward.
pub(super) fn layer_by_layer(b: &mut Lower, targets: Option<Buf>) -> Result<()> {
    let (net, options) = (b.net, b.options);
    let mut keep = options.keep.clone();
    if matches!(options.mode, Mode::Train { .. }) {
        keep.extend(net.heads().iter().map(|h| h.place));
    }
    let units = unit::join(net, b.backward(), &keep);
    b.keep_in(match options.precision {
        Precision::Int8 => bytes::of(&units, b)?,
        _ => halves::of(&units, b)?,
    });
    let mut next = 0;
    while let Some(u) = units.get(next) {
        next += match layers::chain(&units[next..], b)? {
            0 => {
                rule(net, u.main)?.forward(u, b)?;
                1
            }
            taken => taken,
        };
    }
    if b.lanes() > 1 {
        lanes::output_to_rows(b)?;
    }
    b.enter(Phase::Backward);
    match options.mode {
        Mode::Predict => return Ok(()),
        Mode::Train { loss, .. } => {
            loss::lower(b, loss, targets)?;
            if b.lanes() > 1 {
                lanes::gradient_to_lanes(b)?;
            }
        }
        Mode::Explain { from, .. } => {
            let (src, len) = (b.owned(from, "seed")?, b.shape(from).len());
            let dst = b.seed_grad(from);
            b.emit(from, "seed", ops::Copy { src, dst, len });
        }
    }
    for u in units.iter().rev() {
        if b.wants_grad(u.output) && b.has_grad(u.output) {
            explain(u, b)?;
            rule(net, u.main)?.backward(u, b)?;
            b.release_grad(u.output);
        }
    }
    if matches!(options.mode, Mode::Explain { .. }) && b.has_grad(net.input()) {
        b.keep_grad(net.input())?;
    }
    Ok(())
}

/// What a plan that explains does with the gradient of a unit before it goes on: keeps it where it was asked
/// for, and takes off what is negative in front of a guided ReLU.
fn explain(u: &unit::Unit, b: &mut Lower) -> Result<()> {
    let Mode::Explain { guided, .. } = b.options.mode else { return Ok(()) };
    if b.options.keep.contains(&u.output) {
        b.keep_grad(u.output)?;
    }
    let relu = matches!(b.net.node(u.output).layer, Some(layers::Layer::Relu(_)));
    if guided && relu {
        let (dst, len) = (b.grad_mut(u.output)?, b.shape(u.output).len());
        b.emit(u.output, "guide", ops::Clamp { dst, lo: 0.0, hi: f32::INFINITY, len });
    }
    Ok(())
}

/// A session may not ask for more than this many floats (1 TiB).
const MAX_FLOATS: usize = 1 << 38;

impl Plan {
    /// Compiles the network: units, calls, places.
    ///
    /// # Errors
    /// When batch or threads are zero, the loss does not fit the output, or the arena is too large.
    pub fn compile(net: &Network, options: &PlanOptions) -> Result<Self> {
        check(net, options)?;
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let group = lanes::group(net, options, isa)?;
        let mut b = Lower::new(net, options, isa);
        if group.is_none() && optimizer::at_once(net, options) {
            b.follow_at_once();
        }
        let (mut targets, mut labels) = (None, 0);
        if let Mode::Train { loss, .. } = &options.mode {
            match loss {
                Loss::SoftmaxCrossEntropy { .. } => {
                    labels = options.batch * net.output_shape().pixels();
                }
                _ => {
                    let len = b.map_len(net.output());
                    targets = Some(b.own(net.output(), "targets", Kind::Pinned, len));
                }
            }
        }
        if let Mode::Explain { from, .. } = options.mode {
            b.own(from, "seed", Kind::Pinned, b.map_len(from));
        }
        match group {
            Some(group) => lanes::lower(&mut b, group, targets)?,
            None => layer_by_layer(&mut b, targets)?,
        }
        if let Mode::Train { optimizer, decay_all, .. } = &options.mode {
            b.enter(Phase::Update);
            optimizer::lower(&mut b, *optimizer, *decay_all)?;
        }
        Plan::finish(net, options, isa, b, targets, labels)
    }

    fn finish(
        net: &Network,
        options: &PlanOptions,
        isa: Isa,
        b: Lower,
        targets: Option<Buf>,
        labels: usize,
    ) -> Result<Self> {
        // Running order: forward, backward, update, and prepare at the end of a step.
        let order = [Phase::Forward, Phase::Backward, Phase::Update, Phase::Prepare];
        let place = |p: Phase| order.iter().position(|&o| o == p);
        let (input, output) = (b.value(net.input())?, b.value(net.output())?);
        let kept = options.keep.iter().map(|&k| Ok((k, b.value(k)?))).collect::<Result<_>>()?;
        let seed = match options.mode {
            Mode::Explain { from, .. } => Some(b.owned(from, "seed")?),
            _ => None,
        };
        let Lower { mut bufs, mut calls, params, state, at_once, kept_grads, .. } = b;
        calls.sort_by_key(|c| place(c.phase));
        statistics::pass(&mut bufs, &mut calls);
        let remade = remake::pass(&bufs, &mut calls, options.least);
        let touched: Vec<Vec<Buf>> = calls.iter().map(|c| c.op.buffers()).collect();
        let total: u128 = bufs.iter().map(|b| b.len as u128).sum();
        if total > 64 * MAX_FLOATS as u128 {
            return Err(Error::Plan("needs too much memory; use a smaller batch or input".into()));
        }
        let layout = Layout::new(&bufs, &touched, &remade);
        if layout.len > MAX_FLOATS {
            return Err(Error::Plan(format!(
                "needs {} GiB of memory; use a smaller batch or input",
                layout.len >> 28
            )));
        }
        Ok(Plan {
            net: net.clone(),
            options: options.clone(),
            isa,
            params,
            state,
            calls,
            layout,
            input,
            output,
            targets,
            labels,
            kept,
            kept_grads,
            at_once,
            seed,
            names: bufs.into_iter().map(|b| (b.name, b.kind)).collect(),
        })
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// What was asked for.
    pub fn options(&self) -> &PlanOptions {
        &self.options
    }

    /// The instruction set that was chosen.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Trained tensors in the order of the flat buffer.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Running statistics in the order of the flat buffer.
    pub fn state(&self) -> &[Param] {
        &self.state
    }

    pub(crate) fn kept(&self, id: NodeId) -> Option<Buf> {
        self.kept.iter().find(|k| k.0 == id).map(|k| k.1)
    }

    pub(crate) fn kept_grad(&self, id: NodeId) -> Option<Buf> {
        self.kept_grads.iter().find(|k| k.0 == id).map(|k| k.1)
    }

    /// What a session of this plan allocates, in bytes.
    pub fn memory(&self) -> MemoryReport {
        let of = |k| 4 * self.layout.section(k).len();
        MemoryReport {
            parameters: of(Kind::Param) + of(Kind::State),
            packs: of(Kind::Pack),
            gradients: of(Kind::Grad),
            optimizer: of(Kind::Moment),
            activations: of(Kind::Pinned) + of(Kind::Step),
            scratch: of(Kind::Scratch),
            total: 4 * self.layout.len,
        }
    }

    /// The schedule for people: every call with its buffers and their places.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        let m = self.memory();
        let _ = writeln!(
            text,
            "{}: batch {}, {:?}, {} calls, {} MiB in one arena",
            self.net.name(),
            self.options.batch,
            self.isa,
            self.calls.len(),
            m.total >> 20
        );
        for call in &self.calls {
            let _ = write!(text, "{:<9} {:<40}", format!("{:?}", call.phase), call.name);
            for b in call.op.buffers() {
                let (name, _) = &self.names[b.0];
                let r = &self.layout.places[b.0];
                let _ = write!(text, " {name}@{}+{}", r.start, r.len());
            }
            text.push('\n');
        }
        text
    }
}

pub(super) fn rule(net: &Network, id: NodeId) -> Result<&dyn Rule> {
    match &net.node(id).layer {
        Some(layer) => Ok(layer.rule()),
        None => Err(Error::Plan("the input is no layer (a bug in convoke)".into())),
    }
}

/// A plan's tables may name that many places.
const MAX_PLACES: usize = 1 << 22;

/// At most that many places stand in the tables of layers that take, spread or mix them; a few lines of a file may ask
/// for gigabytes of such tables.
fn places(net: &Network) -> usize {
    use layers::Layer::{Mix, Spread, Take};
    let longest = |s: crate::Shape| s.h.max(s.w).max(s.c);
    let tables =
        net.nodes().iter().filter(|n| matches!(n.layer, Some(Take(_) | Spread(_) | Mix(_))));
    let sides = |n: &crate::Node| {
        let before = net.shapes(&n.inputs).into_iter().map(longest).max().unwrap_or(0);
        longest(n.shape).saturating_add(before)
    };
    tables.map(sides).fold(0, usize::saturating_add)
}

fn check(net: &Network, options: &PlanOptions) -> Result<()> {
    if options.batch == 0 || options.batch > 1 << 24 {
        return Err(Error::Plan(format!("batch {} must be from 1 to 2^24", options.batch)));
    }
    if options.threads == 0 || options.threads > 1024 {
        return Err(Error::Plan(format!("{} threads; use 1 to 1024", options.threads)));
    }
    // Before anything is sized, so that no product of sizes can overflow.
    let maps: u128 = net.nodes().iter().map(|n| n.shape.len() as u128).sum();
    if maps * options.batch as u128 + net.parameters() as u128 > 64 * MAX_FLOATS as u128 {
        return Err(Error::Plan("needs too much memory; use a smaller batch or input".into()));
    }
    if places(net) > MAX_PLACES {
        return Err(Error::Plan(
            "takes or mixes too many places along axes; use smaller maps".into(),
        ));
    }
    let (rates, tensors) = (&options.tuning.rates, net.params().len());
    if !rates.is_empty() && rates.len() != tensors {
        return Err(Error::Plan(format!("{} rates for {tensors} tensors", rates.len())));
    }
    if rates.iter().any(|r| !(r.is_finite() && *r >= 0.0)) {
        return Err(Error::Plan("a rate is no number from 0 on".into()));
    }
    if let Some(isa) = options.isa.filter(|isa| !Isa::available().contains(isa)) {
        return Err(Error::Plan(format!(
            "this machine has no {isa:?}; leave the choice to convoke"
        )));
    }
    if options.precision == Precision::Int8 {
        if options.mode != Mode::Predict {
            return Err(Error::Plan("int8 is for prediction; train in f32 or bf16".into()));
        }
        if options.ranges.is_empty() {
            return Err(Error::Plan(
                "int8 needs to know what values the maps take; see `convoke quantize`".into(),
            ));
        }
    }
    if options.keep.iter().any(|k| k.index() >= net.nodes().len()) {
        return Err(Error::Plan("a place to keep is not in the network".into()));
    }
    if let Mode::Explain { from, .. } = options.mode
        && (from == net.input() || !options.keep.contains(&from))
    {
        return Err(Error::Plan("the place to explain must be a layer that is kept".into()));
    }
    Ok(())
}
