//! A call of the plan: an operation bound to its buffers.

use super::arena::{Buf, Memory};
use super::statistics::Tally;
use convoke_kernels::Ctx;
use std::fmt;
use std::sync::Arc;

/// When a call runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Whenever weights have changed: filters are packed, norms folded.
    Prepare,
    /// Every run.
    Forward,
    /// After forward, in training: loss and gradients.
    Backward,
    /// After backward, in a step: weights follow gradients.
    Update,
}

/// An operation with its buffers decided. Implementations live beside their layer.
pub(crate) trait Op: fmt::Debug + Send + Sync {
    /// All buffers that it touches.
    fn buffers(&self) -> Vec<Buf>;
    /// Multiply-accumulates per sample, where they are what it is for.
    fn macs(&self) -> u64 {
        0
    }
    /// The buffer that it makes of its others, where doing so once more is cheaper than keeping it: one walk, and the
    /// same numbers as before.
    fn remakes(&self) -> Option<Buf> {
        None
    }
    /// The sums that it makes over a map, which whoever writes the map may make for it.
    fn tally(&self) -> Option<Tally> {
        None
    }
    /// Shards of such sums, if it writes their map and can make them, else none.
    fn shards(&self, tally: &Tally) -> usize {
        let _ = tally;
        0
    }
    /// The same call with sums that are made where their map is written, by this call if it has shards of them.
    ///
    /// # Panics
    /// When it has to do with no sums.
    fn with(&self, tally: Tally) -> Arc<dyn Op> {
        unreachable!("{self:?} makes no sums: {tally:?}")
    }
    /// Runs it; allocates nothing.
    fn run(&self, m: &mut Memory, x: &mut Exec);
}

/// What a run knows beside the memory.
pub(crate) struct Exec<'a> {
    pub cx: Ctx<'a>,
    /// Samples that the maps hold.
    pub n: usize,
    /// Samples that share a pixel's numbers: 1, or 16 where pictures lie in the lanes.
    pub lanes: usize,
    /// Samples of this run that exist; fewer than `n` in a group that is not full.
    pub samples: usize,
    /// Share of these samples in the mean loss of the batch.
    pub share: f32,
    /// Labels, one per output pixel.
    pub labels: &'a [u32],
    /// What each class weighs in softmax cross-entropy; empty for all alike.
    pub class_weights: &'a [f32],
    /// Seed and number of the step, for dropout.
    pub seed: u64,
    pub step: u64,
    /// Learning rate of the step.
    pub lr: f32,
    /// Set by the loss.
    pub loss: f32,
    pub correct: usize,
}

impl Exec<'_> {
    /// Maps of this run: each of `lanes` samples.
    pub fn maps(&self) -> usize {
        self.n / self.lanes
    }
}

/// A call in the schedule.
#[derive(Debug)]
pub(crate) struct Call {
    /// Layer and part, for people.
    pub name: String,
    pub phase: Phase,
    pub op: Arc<dyn Op>,
}
