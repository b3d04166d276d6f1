//! Small networks: pictures in the lanes, sixteen at a time, all layers in one visit to a core's cache.
//!
//! A network of few filters leaves most lanes of a vector empty and is done with each layer in
//! microseconds, so that waiting for all threads between layers costs more than the layers. Such a
//! network is compiled for one group of sixteen pictures whose maps are `[h, w, c, 16]`, and a step
//! is one call: groups run side by side, forward, loss and backward, each shard of groups in memory of
//! its own with a copy of the weights; the gradients of the shards are added in order. Shards are made
//! by the size of the batch, never by threads, so threads change no bit.

use super::arena::{Buf, Kind, Layout, Memory};
use super::lower::Lower;
use super::op::{Call, Exec, Op};
use super::{Loss, Mode, PlanOptions};
use crate::Result;
use crate::layers::Layer;
use crate::network::{Network, NodeId};
use convoke_kernels::lanes::{self, LANES};
use convoke_kernels::{Ctx, Isa, Pool, loss};

/// Filters up to which a convolution is narrow.
const NARROW: usize = 16;
/// Memory of one group, in floats: with the filters it should stay in the second cache.
const GROUP: usize = 512 * 1024;
/// Shards of the groups of a batch at most.
const SHARDS: usize = 16;
/// Numbers of the gradient that one item merges.
const CHUNK: usize = 4096;

/// The network for one group, if that is how it runs best.
pub(super) fn group(net: &Network, options: &PlanOptions, isa: Isa) -> Result<Option<Group>> {
    let asked = options.lanes.unwrap_or(options.batch >= LANES && is_narrow(net)?);
    let one_output = options.keep.is_empty() && net.heads().is_empty();
    let explains = matches!(options.mode, Mode::Explain { .. });
    // Its mean is over the things of the whole batch, which a group does not know.
    let centres = matches!(options.mode, Mode::Train { loss: Loss::Centres { .. }, .. });
    if !asked || !one_output || explains || centres || !is_known(net)? {
        return Ok(None);
    }
    let group = Group::new(net, options, isa)?;
    let fits = options.lanes.is_some() || group.layout.len <= GROUP;
    Ok(fits.then_some(group))
}

/// Whether all layers run with pictures in the lanes.
fn is_known(net: &Network) -> Result<bool> {
    for (_, node) in net.iter() {
        use Layer::*;
        let known = match &node.layer {
            Some(Conv(c)) => {
                let s = c.sizes_on(&node.name, net.node(node.inputs[0]).shape)?;
                lanes::knows(&s) && s.filter_len() <= GROUP / LANES
            }
            Some(
                Dense(_) | MaxPool(_) | MeanPool(_) | GlobalMeanPool(_) | Relu(_) | LeakyRelu(_)
                | Sigmoid(_) | Tanh(_) | HardSigmoid(_) | HardSwish(_) | Silu(_) | Gelu(_)
                | Flatten(_) | Dropout(_),
            )
            | None => true,
            _ => false,
        };
        if !known {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether narrow convolutions do most of the multiply-adds.
fn is_narrow(net: &Network) -> Result<bool> {
    let (mut narrow, mut all) = (0, 0);
    for (_, node) in net.iter() {
        let Some(layer) = &node.layer else { continue };
        let inputs: Vec<_> = node.inputs.iter().map(|i| net.node(*i).shape).collect();
        let macs = layer.rule().macs(&inputs, node.shape);
        all += macs;
        if matches!(layer, Layer::Conv(_)) && node.shape.c <= NARROW {
            narrow += macs;
        }
    }
    Ok(2 * narrow > all)
}

/// A network compiled for sixteen pictures in the lanes.
#[derive(Debug)]
pub(super) struct Group {
    calls: Vec<Call>,
    layout: Layout,
    input: Buf,
    /// Output `[16, …]`, a picture after the other.
    output: Buf,
    targets: Option<Buf>,
}

impl Group {
    fn new(net: &Network, options: &PlanOptions, isa: Isa) -> Result<Self> {
        let options = PlanOptions { batch: LANES, threads: 1, ..options.clone() };
        let mut b = Lower::in_lanes(net, &options, isa, LANES);
        let targets = match options.mode {
            Mode::Train { loss, .. } if !matches!(loss, Loss::SoftmaxCrossEntropy { .. }) => {
                let len = net.output_shape().len() * LANES;
                Some(b.own(net.output(), "targets", Kind::Pinned, len))
            }
            _ => None,
        };
        super::compile::layer_by_layer(&mut b, targets)?;
        let output = b.value(net.output())?;
        let input = b.value(net.input())?;
        let Lower { bufs, calls, .. } = b;
        let touched: Vec<Vec<Buf>> = calls.iter().map(|c| c.op.buffers()).collect();
        Ok(Group { layout: Layout::new(&bufs, &touched, &[]), calls, input, output, targets })
    }
}

/// Turns the output of a group to rows, which the loss and the outside read.
pub(super) fn output_to_rows(b: &mut Lower) -> Result<()> {
    let (id, len) = (b.net.output(), b.net.output_shape().len());
    let (from, to) = (b.value(id)?, b.own(id, "rows", Kind::Pinned, len * LANES));
    b.emit(id, "to rows", ToRows { from, to, len });
    b.replace_value(id, to);
    Ok(())
}

/// Turns the loss's gradient of the output to lanes.
pub(super) fn gradient_to_lanes(b: &mut Lower) -> Result<()> {
    let (id, len) = (b.net.output(), b.net.output_shape().len());
    let from = b.grad(id)?;
    let to = b.replace_grad(id);
    b.emit(id, "to lanes", ToLanes { from, to, len });
    Ok(())
}

/// Emits the call that runs all groups.
pub(super) fn lower(b: &mut Lower, group: Group, targets: Option<Buf>) -> Result<()> {
    let (input, output) = (b.net.input(), b.net.output());
    let groups = b.batch().div_ceil(LANES);
    let per_shard = groups.div_ceil(SHARDS);
    let shards = groups.div_ceil(per_shard);
    let (x, len) = (b.value(input)?, b.net.output_shape().len());
    let y = b.make(output);
    let tail = per_shard * (LANES * len + Told::LEN);
    let shard_len = (group.layout.len + tail).next_multiple_of(LANES);
    let memory = b.own(output, "groups", Kind::Pinned, shards * shard_len);
    let op = Groups {
        solo: Pool::new(1),
        group,
        per_shard,
        shard_len,
        x,
        x_len: b.net.node(input).shape.len(),
        y,
        y_len: len,
        labels: b.net.output_shape().pixels(),
        targets,
        memory,
        macs: macs(b.net, input, b.backward()),
    };
    b.emit(output, "all layers", op);
    Ok(())
}

/// Multiply-adds of a sample: forward, and in training both backward walks.
fn macs(net: &Network, input: NodeId, training: bool) -> u64 {
    let mut sum = 0;
    for (_, node) in net.iter() {
        let Some(layer) = &node.layer else { continue };
        let inputs: Vec<_> = node.inputs.iter().map(|i| net.node(*i).shape).collect();
        let walks = match (training, node.inputs.contains(&input)) {
            (false, _) => 1,
            (true, true) => 2,
            (true, false) => 3,
        };
        sum =
            u64::saturating_add(sum, layer.rule().macs(&inputs, node.shape).saturating_mul(walks));
    }
    sum
}

/// What a group tells, as it lies behind the outputs of its shard.
struct Told {
    loss: f32,
    correct: f32,
}

impl Told {
    const LEN: usize = 2;
}

/// Runs the network over all groups.
#[derive(Debug)]
struct Groups {
    group: Group,
    /// The pool of one thread that calls of a group see.
    solo: Pool,
    per_shard: usize,
    shard_len: usize,
    x: Buf,
    x_len: usize,
    y: Buf,
    y_len: usize,
    /// Labels of a sample.
    labels: usize,
    targets: Option<Buf>,
    memory: Buf,
    macs: u64,
}

impl Op for Groups {
    fn buffers(&self) -> Vec<Buf> {
        [self.x, self.y, self.memory].into_iter().chain(self.targets).collect()
    }

    fn macs(&self) -> u64 {
        self.macs
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let place = |b: Buf| m.layout.places[b.0].clone();
        let section = |k: Kind| match m.layout.section(k) {
            r if r.is_empty() => 0..0,
            r => r,
        };
        let ranges = [
            section(Kind::Param),
            section(Kind::Grad),
            place(self.x),
            place(self.y),
            place(self.memory),
            self.targets.map_or(0..0, place),
        ];
        let [params, grads, x, y, memory, targets] = m.ranges(ranges);
        let n = e.n;
        let groups = n.div_ceil(LANES);
        let shards = groups.div_ceil(self.per_shard);
        let memory = &mut memory[..shards * self.shard_len];
        let counted = loss::counted(e.labels, e.class_weights);
        {
            let given = Given { params, x, targets, counted, e };
            e.cx.pool.for_chunks_mut(memory, self.shard_len, |shard, memory, _| {
                let first = shard * self.per_shard;
                self.shard(first..(first + self.per_shard).min(groups), n, &given, memory);
            });
        }
        let (mut loss, mut correct) = (0.0, 0.0);
        for g in 0..groups {
            let memory = &memory[g / self.per_shard * self.shard_len..];
            let tail = &memory[self.group.layout.len..];
            let slot = g % self.per_shard;
            let rows = &mut y[g * LANES * self.y_len..n.min((g + 1) * LANES) * self.y_len];
            rows.copy_from_slice(&tail[slot * LANES * self.y_len..][..rows.len()]);
            let told = &tail[self.per_shard * LANES * self.y_len + slot * Told::LEN..];
            loss += f64::from(told[0]);
            correct += f64::from(told[1]);
        }
        (e.loss, e.correct) = (loss as f32, correct as usize);
        let from = self.group.layout.section(Kind::Grad).start;
        let memory = &*memory;
        e.cx.pool.for_chunks_mut(grads, CHUNK, |i, out, _| {
            let at = from + i * CHUNK;
            out.copy_from_slice(&memory[at..at + out.len()]);
            for shard in memory.chunks_exact(self.shard_len).skip(1) {
                for (o, g) in out.iter_mut().zip(&shard[at..]) {
                    *o += g;
                }
            }
        });
    }
}

/// What all groups read.
struct Given<'a, 'b> {
    params: &'a [f32],
    x: &'a [f32],
    targets: &'a [f32],
    /// What the labels of the batch count together.
    counted: f64,
    e: &'a Exec<'b>,
}

impl Groups {
    /// Runs one shard's groups, one after the other, in its memory.
    fn shard(&self, groups: std::ops::Range<usize>, n: usize, given: &Given, memory: &mut [f32]) {
        let Group { calls, layout, input, output, targets } = &self.group;
        let (arena, tail) = memory.split_at_mut(layout.len);
        let (outputs, told) = tail.split_at_mut(self.per_shard * LANES * self.y_len);
        arena[layout.section(Kind::Param)].copy_from_slice(given.params);
        arena[layout.section(Kind::Grad)].fill(0.0);
        for (slot, g) in groups.enumerate() {
            let samples = g * LANES..n.min((g + 1) * LANES);
            let of = |len: usize| samples.start * len..samples.end * len;
            let rows = &given.x[of(self.x_len)];
            lanes::gather(rows, self.x_len, 1.0, &mut arena[layout.places[input.0].clone()]);
            let mut share = samples.len() as f32 / n as f32;
            if let Some(t) = targets {
                let rows = &given.targets[of(self.y_len)];
                arena[layout.places[t.0].clone()][..rows.len()].copy_from_slice(rows);
            }
            let labels = given.e.labels.get(of(self.labels)).unwrap_or_default();
            if !labels.is_empty() {
                let counted = loss::counted(labels, given.e.class_weights);
                share = if counted > 0.0 { counted as f32 / given.counted as f32 } else { 0.0 };
            }
            let mut exec = Exec {
                cx: Ctx { pool: &self.solo, isa: given.e.cx.isa },
                n: LANES,
                lanes: LANES,
                samples: samples.len(),
                share,
                labels,
                class_weights: given.e.class_weights,
                // Every group has dropout of its own.
                seed: given.e.seed.wrapping_add((g as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                step: given.e.step,
                lr: 0.0,
                loss: 0.0,
                correct: 0,
            };
            let mut m = Memory { data: &mut *arena, layout };
            for call in calls {
                call.op.run(&mut m, &mut exec);
            }
            let rows = &arena[layout.places[output.0].clone()];
            outputs[slot * LANES * self.y_len..][..rows.len()].copy_from_slice(rows);
            let told = &mut told[slot * Told::LEN..][..Told::LEN];
            let is = Told { loss: exec.loss * share, correct: exec.correct as f32 };
            told.copy_from_slice(&[is.loss, is.correct]);
        }
    }
}

/// `to [16, len] = from [len, 16]`.
#[derive(Debug)]
struct ToRows {
    from: Buf,
    to: Buf,
    len: usize,
}

impl Op for ToRows {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.from, self.to]
    }

    fn run(&self, m: &mut Memory, _: &mut Exec) {
        let [from, to] = m.get([self.from, self.to]);
        lanes::scatter(from, self.len, to);
    }
}

/// `to [len, 16] = from [samples, len]` times the group's share of the batch, missing samples zero.
#[derive(Debug)]
struct ToLanes {
    from: Buf,
    to: Buf,
    len: usize,
}

impl Op for ToLanes {
    fn buffers(&self) -> Vec<Buf> {
        vec![self.from, self.to]
    }

    fn run(&self, m: &mut Memory, e: &mut Exec) {
        let [from, to] = m.get([self.from, self.to]);
        lanes::gather(&from[..e.samples * self.len], self.len, e.share, to);
    }
}
