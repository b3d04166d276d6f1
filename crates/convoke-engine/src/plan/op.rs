//! A call of the plan: an operation bound to its buffers.

use super::arena::{Buf, Memory};
use convoke_kernels::Ctx;
use std::fmt;

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
    /// Runs it; allocates nothing.
    fn run(&self, m: &mut Memory, x: &mut Exec);
}

/// What a run knows beside the memory.
pub(crate) struct Exec<'a> {
    pub cx: Ctx<'a>,
    /// Samples of this run.
    pub n: usize,
    /// Labels, one per output pixel.
    pub labels: &'a [u32],
    /// Seed and number of the step, for dropout.
    pub seed: u64,
    pub step: u64,
    /// Learning rate of the step.
    pub lr: f32,
    /// Set by the loss.
    pub loss: f32,
    pub correct: usize,
}

/// A call in the schedule.
#[derive(Debug)]
pub(crate) struct Call {
    /// Layer and part, for people.
    pub name: String,
    pub phase: Phase,
    pub op: Box<dyn Op>,
}
