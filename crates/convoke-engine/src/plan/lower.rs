//! Second pass: units become calls. Each layer's file says which; [`Lower`] keeps the books.
//!
//! Gradients: a place's gradient buffer is made by its last reader (backward runs in reverse) and
//! added to by the others. A sum hands its own gradient buffer on to its inputs without a copy; such
//! a shared buffer is copied only if someone is about to change it while another still needs it.

use super::arena::{Buf, BufSpec, Kind};
use super::op::{Call, Op, Phase};
use super::ops;
use super::{Mode, PlanOptions};
use crate::network::{Network, NodeId, Param};
use crate::{Error, Result, Shape};
use convoke_kernels::{Form, Isa, norm};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The one scratch buffer.
pub(crate) const SCRATCH: Buf = Buf(0);

/// A norm that its reader applies: `clamp(x · scale + shift)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PendingNorm {
    pub x: Buf,
    pub scale: Buf,
    pub shift: Buf,
    pub clamp: (f32, f32),
    /// Channels.
    pub c: usize,
    /// What its sums take, where the call that writes its gradient may make them on the way.
    pub sums: Option<NormSums>,
}

/// What the sums of a norm take beside the gradient and the raw map, and where they go; `[c]` each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormSums {
    pub mean: Buf,
    pub invstd: Buf,
    pub dgamma: Buf,
    pub dbeta: Buf,
}

impl NormSums {
    /// As a call's buffers; as many that are none where it makes no sums.
    pub fn buffers(sums: Option<Self>) -> [Buf; 4] {
        sums.map_or([Buf::NONE; 4], |s| [s.mean, s.invstd, s.dgamma, s.dbeta])
    }
}

/// The last step of the way back through a norm that the reader of its input's gradient makes:
/// `a · gradient + b · x + k`, of the masked gradient of its output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PendingStep {
    pub x: Buf,
    /// a, b and k, `[c]` each.
    pub slopes: [Buf; 3],
    /// Channels.
    pub c: usize,
}

impl PendingNorm {
    /// The norm's numbers as kernels take them.
    pub fn over<'a>(&self, scale: &'a [f32], shift: &'a [f32]) -> norm::Pending<'a> {
        norm::Pending { scale: &scale[..self.c], shift: &shift[..self.c], clamp: self.clamp }
    }
}

/// The state of lowering: buffers and calls so far.
pub(crate) struct Lower<'a> {
    pub net: &'a Network,
    pub options: &'a PlanOptions,
    pub isa: Isa,
    pub bufs: Vec<BufSpec>,
    pub calls: Vec<Call>,
    pub params: Vec<Param>,
    pub state: Vec<Param>,
    lanes: usize,
    phase: Phase,
    values: Vec<Option<Buf>>,
    pending: HashMap<NodeId, PendingNorm>,
    /// Pending norms whose sums the writer of their gradient makes.
    summed: HashSet<NodeId>,
    /// What is still to be made of the gradients of places.
    steps: HashMap<NodeId, PendingStep>,
    grads: Vec<Option<Buf>>,
    /// What the maps of places, and their gradients, are: see [`super::halves`] and [`super::bytes`].
    forms: Vec<Form>,
    /// How many places still need what a gradient buffer holds.
    holders: HashMap<Buf, usize>,
    needs_grad: Vec<bool>,
    named: HashMap<(usize, String), Buf>,
    /// Whether weights follow their gradients at once, see [`PlanOptions::keep_grads`].
    pub at_once: bool,
    /// Gradients that stay readable after a run.
    pub kept_grads: Vec<(NodeId, Buf)>,
}

impl<'a> Lower<'a> {
    pub fn new(net: &'a Network, options: &'a PlanOptions, isa: Isa) -> Self {
        let nodes = net.nodes().len();
        let mut lower = Lower {
            net,
            options,
            isa,
            bufs: vec![BufSpec {
                name: "scratch".into(),
                kind: Kind::Scratch,
                len: 0,
                form: Form::Full,
            }],
            calls: Vec::new(),
            params: net.params(),
            state: net.state(),
            lanes: 1,
            phase: Phase::Forward,
            values: vec![None; nodes],
            pending: HashMap::new(),
            summed: HashSet::new(),
            steps: HashMap::new(),
            grads: vec![None; nodes],
            forms: vec![Form::Full; nodes],
            holders: HashMap::new(),
            needs_grad: vec![false; nodes],
            named: HashMap::new(),
            at_once: false,
            kept_grads: Vec::new(),
        };
        lower.needs_grad[0] = lower.explains();
        for (i, p) in lower.params.clone().into_iter().enumerate() {
            lower.needs_grad[p.node.0] |= lower.learns() && options.tuning.rate(i) > 0.0;
            let len = p.spec.len();
            lower.own(p.node, &format!("param {}", p.spec.name), Kind::Param, len);
            if lower.backward() {
                // Where nothing learns, what layers make of them is passed over.
                let kind = if lower.learns() { Kind::Grad } else { Kind::Step };
                lower.own(p.node, &format!("grad {}", p.spec.name), kind, len);
            }
        }
        for p in lower.state.clone() {
            lower.own(p.node, &format!("state {}", p.spec.name), Kind::State, p.spec.len());
        }
        for (id, node) in net.iter() {
            lower.needs_grad[id.0] |= node.inputs.iter().any(|i| lower.needs_grad[i.0]);
        }
        let input = lower.buffer_of("input", Kind::Pinned, lower.map_len(net.input()));
        lower.values[0] = Some(input);
        lower
    }

    /// The same with pictures in the lanes: maps are `[h, w, c, lanes]` for each group of so many.
    pub fn in_lanes(net: &'a Network, options: &'a PlanOptions, isa: Isa, lanes: usize) -> Self {
        Lower { lanes, ..Lower::new(net, options, isa) }
    }

    /// Lets weights follow their gradients at once: these live no longer.
    pub fn follow_at_once(&mut self) {
        self.at_once = true;
        self.bufs.iter_mut().filter(|b| b.kind == Kind::Grad).for_each(|b| b.kind = Kind::Step);
    }

    /// Keeps the maps of places, and their gradients, so.
    pub fn keep_in(&mut self, forms: Vec<Form>) {
        self.forms = forms;
    }

    /// What the map of a place is.
    pub fn form(&self, id: NodeId) -> Form {
        self.forms[id.0]
    }

    /// Samples that share a pixel's numbers; 1 where each has a map of its own.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Whether the plan runs backward: to train, or to explain.
    pub fn backward(&self) -> bool {
        self.learns() || self.explains()
    }

    /// Whether weights follow their gradients.
    pub fn learns(&self) -> bool {
        matches!(self.options.mode, Mode::Train { .. })
    }

    /// Whether gradients reach the input and weights have none.
    fn explains(&self) -> bool {
        matches!(self.options.mode, Mode::Explain { .. })
    }

    /// Whether a batch norm keeps its running statistics while the plan runs backward.
    pub fn keeps_statistics(&self, norm: NodeId) -> bool {
        if self.explains() {
            return true;
        }
        let tuning = &self.options.tuning;
        let mut own = self.params.iter().enumerate().filter(|(_, p)| p.node == norm).peekable();
        tuning.freeze_norms || own.peek().is_some() && own.all(|(i, _)| tuning.rate(i) == 0.0)
    }

    /// Samples per run.
    pub fn batch(&self) -> usize {
        self.options.batch
    }

    /// Threads of the session.
    pub fn threads(&self) -> usize {
        self.options.threads
    }

    /// Shape of a place, per sample.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.net.node(id).shape
    }

    /// Floats of a place's map over the batch.
    pub fn map_len(&self, id: NodeId) -> usize {
        self.shape(id).len() * self.batch()
    }

    /// Enters the next phase.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Appends a call in the current phase.
    pub fn emit(&mut self, id: NodeId, part: &str, op: impl Op + 'static) {
        let phase = self.phase;
        self.emit_in(phase, id, part, op);
    }

    /// Appends a call that runs whenever weights have changed.
    pub fn prepare(&mut self, id: NodeId, part: &str, op: impl Op + 'static) {
        self.emit_in(Phase::Prepare, id, part, op);
    }

    fn emit_in(&mut self, phase: Phase, id: NodeId, part: &str, op: impl Op + 'static) {
        let name = format!("{} {part}", self.net.node(id).name);
        self.calls.push(Call { name, phase, op: Arc::new(op) });
    }

    fn buffer_of(&mut self, name: &str, kind: Kind, len: usize) -> Buf {
        self.buffer(BufSpec { name: name.into(), kind, len, form: Form::Full })
    }

    fn buffer(&mut self, spec: BufSpec) -> Buf {
        self.bufs.push(spec);
        Buf(self.bufs.len() - 1)
    }

    /// A buffer for the map of a place or its gradient, in the form of the place.
    fn map_of(&mut self, name: &str, kind: Kind, id: NodeId) -> Buf {
        let form = self.form(id);
        let len = form.floats(self.map_len(id));
        self.buffer(BufSpec { name: name.into(), kind, len, form })
    }

    /// A buffer that a layer keeps under a name, from forward to backward or for good.
    pub fn own(&mut self, id: NodeId, name: &str, kind: Kind, len: usize) -> Buf {
        let label = format!("{} {name}", self.net.node(id).name);
        let buf = self.buffer_of(&label, kind, len);
        self.named.insert((id.0, name.into()), buf);
        buf
    }

    /// A buffer kept with [`Lower::own`].
    ///
    /// # Errors
    /// When the layer keeps none of that name: a mistake in its lowering.
    pub fn owned(&self, id: NodeId, name: &str) -> Result<Buf> {
        self.named.get(&(id.0, name.to_string())).copied().ok_or_else(|| {
            Error::layer(
                &self.net.node(id).name,
                format!("has no buffer `{name}` (a bug in convoke)"),
            )
        })
    }

    /// A trained tensor.
    pub fn param(&self, id: NodeId, name: &str) -> Result<Buf> {
        self.owned(id, &format!("param {name}"))
    }

    /// A trained tensor's gradient.
    pub fn param_grad(&self, id: NodeId, name: &str) -> Result<Buf> {
        self.owned(id, &format!("grad {name}"))
    }

    /// A running statistic.
    pub fn state(&self, id: NodeId, name: &str) -> Result<Buf> {
        self.owned(id, &format!("state {name}"))
    }

    /// The scratch buffer, at least that long.
    pub fn scratch(&mut self, len: usize) -> Buf {
        self.bufs[SCRATCH.0].len = self.bufs[SCRATCH.0].len.max(len);
        SCRATCH
    }

    /// The value of a place.
    ///
    /// # Errors
    /// When it has not been made yet: a mistake in a pass.
    pub fn value(&self, id: NodeId) -> Result<Buf> {
        self.values[id.0].ok_or_else(|| {
            Error::layer(&self.net.node(id).name, "is read before it is made (a bug in convoke)")
        })
    }

    /// Makes the buffer for a place's value.
    pub fn make(&mut self, id: NodeId) -> Buf {
        let pinned = id == self.net.output() || self.options.keep.contains(&id);
        let kind = if pinned { Kind::Pinned } else { Kind::Step };
        let name = self.net.node(id).name.clone();
        let buf = self.map_of(&name, kind, id);
        self.values[id.0] = Some(buf);
        buf
    }

    /// Leaves the norm that makes a place's value to its reader.
    pub fn leave_pending(&mut self, id: NodeId, norm: PendingNorm) {
        self.pending.insert(id, norm);
    }

    /// What a convolution reads: a value, or a raw map and the norm to apply.
    ///
    /// # Errors
    /// When the value has not been made yet: a mistake in a pass.
    pub fn source(&self, id: NodeId) -> Result<(Buf, Option<PendingNorm>)> {
        match self.pending.get(&id) {
            Some(&norm) => Ok((norm.x, Some(norm))),
            None => Ok((self.value(id)?, None)),
        }
    }

    /// The sums of the pending norm that makes a place's value, for the call that writes the place's gradient: it makes
    /// them on the way and masks what it writes, and the norm's own pass over both is left out. `None` where that is not
    /// to be; then the gradient is written as it is.
    pub fn take_sums(&mut self, id: NodeId) -> Option<NormSums> {
        let alone = self.wants_grad(id) && !self.has_grad(id);
        let sums = self.pending.get(&id)?.sums.filter(|_| alone)?;
        self.summed.insert(id);
        Some(sums)
    }

    /// Whether [`Lower::take_sums`] has given the sums of the norm that makes a place's value to another call.
    pub fn has_sums(&self, id: NodeId) -> bool {
        self.summed.contains(&id)
    }

    /// Leaves the last step of the way back through a norm to the reader of a place's gradient, which is that of the norm's
    /// output until then.
    pub fn leave_step(&mut self, id: NodeId, step: PendingStep) {
        self.steps.insert(id, step);
    }

    /// The step that is left to the reader of a place's gradient.
    pub fn step(&self, id: NodeId) -> Option<PendingStep> {
        self.steps.get(&id).copied()
    }

    /// Puts another buffer in the place of a value.
    pub fn replace_value(&mut self, id: NodeId, buf: Buf) {
        self.values[id.0] = Some(buf);
    }

    /// A new buffer for the gradient of a place, in the place of the one that was there.
    pub fn replace_grad(&mut self, id: NodeId) -> Buf {
        self.new_grad(id)
    }

    /// Whether a place must have a buffer of its own, which no later call may change.
    pub fn is_pinned(&self, id: NodeId) -> bool {
        id == self.net.output() || self.options.keep.contains(&id)
    }

    /// Gives a place the value of another without a copy (the numbers are the same).
    pub fn pass_value(&mut self, from: NodeId, to: NodeId) -> Result<()> {
        if self.is_pinned(to) {
            let (src, dst) = (self.value(from)?, self.make(to));
            let len = self.shape(to).len();
            self.emit(to, "copy", ops::Copy { src, dst, len });
            return Ok(());
        }
        self.values[to.0] = Some(self.value(from)?);
        Ok(())
    }

    /// Whether anything needs the gradient of a place.
    pub fn wants_grad(&self, id: NodeId) -> bool {
        self.needs_grad[id.0]
    }

    /// Whether a gradient has reached the place.
    pub fn has_grad(&self, id: NodeId) -> bool {
        self.grads[id.0].is_some()
    }

    /// Makes the buffer for the gradient of the network's output.
    pub fn seed_grad(&mut self, id: NodeId) -> Buf {
        let buf = self.buffer_of("loss gradient", Kind::Step, self.map_len(id));
        self.grads[id.0] = Some(buf);
        self.holders.insert(buf, 1);
        buf
    }

    /// Keeps the gradient of a place as it is now, for [`crate::Session::gradient`].
    pub fn keep_grad(&mut self, id: NodeId) -> Result<()> {
        let (src, len) = (self.grad(id)?, self.shape(id).len());
        let dst = self.own(id, "kept gradient", Kind::Pinned, self.map_len(id));
        self.emit(id, "keep gradient", ops::Copy { src, dst, len });
        self.kept_grads.push((id, dst));
        Ok(())
    }

    /// The gradient of a place, to read.
    pub fn grad(&self, id: NodeId) -> Result<Buf> {
        self.grads[id.0].ok_or_else(|| {
            Error::layer(&self.net.node(id).name, "has no gradient (a bug in convoke)")
        })
    }

    /// The gradient of a place, to change: copied first if another place still needs it.
    pub fn grad_mut(&mut self, id: NodeId) -> Result<Buf> {
        let buf = self.grad(id)?;
        if self.holders[&buf] == 1 {
            return Ok(buf);
        }
        *self.holders.entry(buf).or_default() -= 1;
        let own = self.new_grad(id);
        let len = self.shape(id).len();
        self.emit(id, "gradient copy", ops::Copy { src: buf, dst: own, len });
        Ok(own)
    }

    fn new_grad(&mut self, id: NodeId) -> Buf {
        let name = format!("{} gradient", self.net.node(id).name);
        let buf = self.map_of(&name, Kind::Step, id);
        self.grads[id.0] = Some(buf);
        self.holders.insert(buf, 1);
        buf
    }

    /// A gradient of a place that is none of the place's own yet, to be added to it.
    pub fn part_of_grad(&mut self, id: NodeId) -> Buf {
        let name = format!("{} part of gradient", self.net.node(id).name);
        self.map_of(&name, Kind::Step, id)
    }

    /// Where to put a contribution to a place's gradient: the buffer, and whether to add to it.
    /// `None` when nobody needs it.
    pub fn grad_into(&mut self, id: NodeId) -> Result<Option<(Buf, bool)>> {
        if !self.wants_grad(id) {
            return Ok(None);
        }
        if self.has_grad(id) {
            return Ok(Some((self.grad_mut(id)?, true)));
        }
        Ok(Some((self.new_grad(id), false)))
    }

    /// Hands the gradient of `from` on to `to` unchanged: shared where `to` has none yet, else added.
    pub fn pass_grad(&mut self, from: NodeId, to: NodeId) -> Result<()> {
        if !self.wants_grad(to) {
            return Ok(());
        }
        let src = self.grad(from)?;
        if !self.has_grad(to) {
            self.grads[to.0] = Some(src);
            *self.holders.entry(src).or_default() += 1;
            return Ok(());
        }
        let shared = self.grad(to)? == src;
        let dst = self.grad_mut(to)?;
        let len = self.shape(to).len();
        if shared && dst == src {
            return Err(Error::layer(
                &self.net.node(to).name,
                "gradient aliases itself (a bug in convoke)",
            ));
        }
        self.emit(to, "gradient sum", ops::AddTo { src, dst, len });
        Ok(())
    }

    /// The place's backward calls are emitted: its gradient is needed no more.
    pub fn release_grad(&mut self, id: NodeId) {
        if let Some(buf) = self.grads[id.0]
            && let Some(n) = self.holders.get_mut(&buf)
        {
            *n = n.saturating_sub(1);
        }
    }
}
