//! From a network to a plan: everything is decided before anything runs.
//!
//! The passes, in order, each in its file: `unit` joins layers that run as one call; `halves` says which maps are
//! bf16 where that is trained in, `bytes` which are integers of 8 bits where these predict; `lower` emits forward calls, the loss, backward calls and the update; `arena` gives
//! every buffer its place.

pub(crate) mod arena;
mod bytes;
mod compile;
mod halves;
mod lanes;
pub(crate) mod lower;
pub(crate) mod op;
pub(crate) mod ops;
mod ranges;
mod remake;
pub(crate) mod statistics;
pub(crate) mod unit;

pub use compile::Plan;
pub use op::Phase;
pub use ranges::{Ranges, Watch};

use crate::NodeId;
use convoke_kernels::Isa;
use convoke_kernels::conv::Winograd;
use serde::{Deserialize, Serialize};

/// What the network's output is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Loss {
    /// Softmax cross-entropy over the channels of every output pixel, against one label each
    /// ([`crate::Session::labels_mut`]; `u32::MAX` leaves a pixel out). Mean over pixels; classes may weigh
    /// differently ([`crate::Session::set_class_weights`]).
    SoftmaxCrossEntropy {
        /// Share of the target spread evenly over all classes (Szegedy et al. 2016); 0 for none.
        label_smoothing: f32,
    },
    /// Logistic cross-entropy of every output number against a target in 0..=1
    /// ([`crate::Session::targets_mut`]). Mean over all numbers.
    SigmoidCrossEntropy {
        /// Weight of positive targets; 1 for none.
        positive_weight: f32,
    },
    /// Mean of squared differences over all output numbers.
    MeanSquaredError,
    /// A heat map of centres with a box at each place: the last four channels are the box, the others
    /// are classes. What targets mean is told at [`convoke_kernels::loss::centres`].
    Centres {
        /// Weight of the boxes beside the heat map.
        box_weight: f32,
        /// How boxes are compared.
        boxes: BoxLoss,
    },
}

/// How far two boxes are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoxLoss {
    /// Generalised IoU (Rezatofighi et al. 2019).
    Giou,
    /// IoU and the distance of centres (Zheng et al. 2020).
    Diou,
    /// The same and the ratio of sides.
    Ciou,
}

impl From<BoxLoss> for convoke_kernels::loss::BoxLoss {
    fn from(b: BoxLoss) -> Self {
        match b {
            BoxLoss::Giou => Self::Giou,
            BoxLoss::Diou => Self::Diou,
            BoxLoss::Ciou => Self::Ciou,
        }
    }
}

/// How weights follow gradients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Optimizer {
    /// Stochastic gradient descent as PyTorch `SGD` defines it.
    Sgd {
        /// Momentum.
        momentum: f32,
        /// Nesterov's form.
        nesterov: bool,
        /// L2 penalty added to the gradient.
        weight_decay: f32,
    },
    /// Adam (Kingma and Ba 2015), L2 penalty added to the gradient.
    Adam {
        /// Decay of the mean.
        beta1: f32,
        /// Decay of the squared mean.
        beta2: f32,
        /// Added to the root.
        epsilon: f32,
        /// L2 penalty.
        weight_decay: f32,
    },
    /// AdamW (Loshchilov and Hutter 2019), decay apart from the gradient.
    AdamW {
        /// Decay of the mean.
        beta1: f32,
        /// Decay of the squared mean.
        beta2: f32,
        /// Added to the root.
        epsilon: f32,
        /// Decay.
        weight_decay: f32,
    },
}

/// What the plan is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// Forward only: batch norm by running statistics, no dropout.
    Predict,
    /// Forward, loss, backward, update.
    Train {
        /// What to lower.
        loss: Loss,
        /// How.
        optimizer: Optimizer,
        /// Whether weight decay also applies to biases and norms (PyTorch's default).
        decay_all: bool,
    },
    /// Forward as in prediction (batch norm by running statistics, no dropout), then backward from one place
    /// to the input, to ask what a number depends on: [`crate::Session::explain`].
    Explain {
        /// Where backward begins, with a gradient that the caller gives ([`crate::Session::seed_mut`]). It must be
        /// among [`PlanOptions::keep`].
        from: NodeId,
        /// Whether ReLUs pass on positive gradients only (guided backpropagation, Springenberg et al. 2015).
        guided: bool,
    },
}

/// What sums of products are made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit floats. Where the processor multiplies bf16 on matrix tiles (AMX), large convolutions are
    /// made of such products, as exact as those of 32 bits: see [`convoke_kernels::conv`]. Windows of 3×3 at stride 1
    /// take fewer products where that is faster (Winograd's minimal filtering); errors are then a small multiple of
    /// those of [`Precision::F32Direct`].
    #[default]
    F32,
    /// 32-bit floats, every product made: a map in parts gives the bits that it gives in one piece.
    F32Direct,
    /// Convolutions and dense layers multiply numbers rounded to bf16 (8 bits of mantissa) and sum in 32
    /// bits, where the processor multiplies bf16 (matrix tiles, AVX512-BF16) and it pays; elsewhere as
    /// [`Precision::F32`]. Weights, statistics of norms, losses and updates stay in 32 bits. Training on vectors keeps
    /// the maps between convolutions, norms and pools in bf16, with their gradients, and takes fewer products too, whose
    /// errors are then twice those of direct sums in bf16.
    Bf16,
    /// Convolutions and dense layers sum products of 8-bit integers, maps by the ranges of
    /// [`PlanOptions::ranges`], filters each by a scale of their own; what lies between layers that take them is kept
    /// in such integers too, without matrix tiles. Only to predict. Layers whose input has no known range, grouped convolutions and networks that run with pictures
    /// in the lanes stay as [`Precision::F32`].
    Int8,
}

impl From<Precision> for convoke_kernels::conv::Precision {
    fn from(p: Precision) -> Self {
        match p {
            Precision::F32 | Precision::F32Direct | Precision::Int8 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// How to compile a network.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOptions {
    /// Samples per run at most (predict) or exactly (train).
    pub batch: usize,
    /// What the plan is for.
    pub mode: Mode,
    /// Threads that the session will use; changes no result.
    pub threads: usize,
    /// Instruction set; `None` takes the best that the machine has.
    pub isa: Option<Isa>,
    /// Places whose maps must stay readable after a run ([`crate::Session::map`]).
    pub keep: Vec<NodeId>,
    /// Whether pictures lie in the lanes of vectors, sixteen at a time, which serves networks of few
    /// filters; `None` leaves it to the plan. A network with a layer that cannot do it runs as always.
    pub lanes: Option<bool>,
    /// What sums of products are made in.
    pub precision: Precision,
    /// What values the maps take, for [`Precision::Int8`].
    pub ranges: Ranges,
    /// Which weights learn, and how fast; says nothing to a plan that predicts.
    pub tuning: Tuning,
    /// Whether the gradients of the weights stay readable after a step ([`crate::Session::grads`]). Without, in a
    /// network with many weights each tensor follows its gradient as soon as it is made: the same numbers, and no
    /// memory for all gradients at once.
    pub keep_grads: bool,
    /// Maps of fewer floats are kept from forward to backward even where making them again is cheap, and fewer
    /// weights than four times that follow their gradients all at once. Changes no result.
    pub least: usize,
}

/// Which weights follow their gradients, and how fast.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tuning {
    /// What each tensor's learning rate is multiplied by, in the order of [`crate::Network::params`];
    /// 0 freezes it. Empty for 1 everywhere. Backward ends where all before is frozen, and a batch norm
    /// with frozen weights keeps its running statistics too.
    pub rates: Vec<f32>,
    /// Every batch norm normalises by its running statistics and keeps them.
    pub freeze_norms: bool,
}

impl Tuning {
    /// The factor of one tensor.
    pub(crate) fn rate(&self, param: usize) -> f32 {
        self.rates.get(param).copied().unwrap_or(1.0)
    }
}

impl PlanOptions {
    /// A plan that predicts up to `batch` samples at a time.
    pub fn predict(batch: usize, threads: usize) -> Self {
        Self {
            batch,
            mode: Mode::Predict,
            threads,
            isa: None,
            keep: Vec::new(),
            lanes: None,
            precision: Precision::F32,
            ranges: Ranges::default(),
            tuning: Tuning::default(),
            keep_grads: true,
            least: 5 << 19,
        }
    }

    /// For whom convolutions take fewer products, if they do.
    pub(crate) fn fewer_products(&self) -> Option<Winograd> {
        let when = match self.mode {
            Mode::Predict => Winograd::Prediction,
            Mode::Train { .. } => Winograd::Training,
            // Small differences are what is asked for.
            Mode::Explain { .. } => return None,
        };
        (self.precision != Precision::F32Direct).then_some(when)
    }

    /// A plan that tells what the place `from` depends on: gradients of the input and of the places `keep`.
    pub fn explain(from: NodeId, keep: &[NodeId], batch: usize, threads: usize) -> Self {
        let keep = keep.iter().copied().filter(|&k| k != from).chain([from]).collect();
        Self { mode: Mode::Explain { from, guided: false }, keep, ..Self::predict(batch, threads) }
    }

    /// A plan that trains `batch` samples at a time.
    pub fn train(batch: usize, threads: usize, loss: Loss, optimizer: Optimizer) -> Self {
        let mode = Mode::Train { loss, optimizer, decay_all: true };
        Self { mode, ..Self::predict(batch, threads) }
    }
}

/// What a plan takes of memory, in bytes; the sum is what a session allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryReport {
    /// Weights and running statistics.
    pub parameters: usize,
    /// Weights in the order that kernels read them.
    pub packs: usize,
    /// Gradients of the weights.
    pub gradients: usize,
    /// Momentum and the like.
    pub optimizer: usize,
    /// Input, maps, their gradients and saved statistics, sharing places where lifetimes allow.
    pub activations: usize,
    /// Work space of kernels.
    pub scratch: usize,
    /// All of it.
    pub total: usize,
}
