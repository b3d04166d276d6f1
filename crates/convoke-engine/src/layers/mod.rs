//! The catalogue of layers, one file each: what it is, its parameters, shape rule, cost, and how it
//! lowers to calls forward and backward.
//!
//! To add a layer: write its file, implement `Rule` in it, and add one line to `layers!` below.

use crate::plan::lower::Lower;
use crate::plan::unit::Unit;
use crate::{Hw, NodeId, Result, Shape, Window};
use serde::{Deserialize, Serialize};

mod activation;
mod adaptive_pool;
mod along;
mod batch_norm;
mod chain;
mod channels;
mod combine;
mod conv;
mod dense;
mod depthwise;
mod dropout;
mod function;
mod gate;
mod join;
mod lanes;
mod layer_norm;
mod linear;
mod lrn;
mod pool;
mod rearrange;
mod scale;
mod shortcut;
mod upsample;

pub(crate) use chain::forward as chain;

pub use activation::{
    Gelu, HardSigmoid, HardSwish, LeakyRelu, Relu, Rescale, Sigmoid, Silu, Softmax, Tanh,
};
pub use adaptive_pool::AdaptiveMeanPool;
pub use along::{Axis, By, Mix, Reduce, Spread, Take};
pub use batch_norm::BatchNorm;
pub use channels::{ChannelShuffle, Slice};
pub use combine::{Combine, CombineKind, Constant};
pub use conv::Conv;
pub use dense::Dense;
pub use dropout::{Dropout, StochasticDepth};
pub use function::{Function, FunctionKind};
pub use gate::Gate;
pub use join::{Add, Concat, Flatten};
pub use layer_norm::LayerNorm;
pub use lrn::LocalResponseNorm;
pub use pool::{GlobalMeanPool, MaxPool, MeanPool};
pub use rearrange::Rearrange;
pub use scale::Scale;
pub use shortcut::Shortcut;
pub use upsample::Upsample;

/// How the first values of a parameter are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All the same.
    Constant {
        /// The value.
        value: f32,
    },
    /// Normal with deviation sqrt(2 / fan) (He et al. 2015).
    HeNormal {
        /// Inputs (or outputs) that one weight's unit sums over.
        fan: usize,
    },
    /// Uniform in ± sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).
    GlorotUniform {
        /// Inputs of one unit.
        fan_in: usize,
        /// Outputs that one input reaches.
        fan_out: usize,
    },
}

/// Which rule draws the weights of a convolution or dense layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightInit {
    /// He normal over the inputs of a unit, for layers followed by a ReLU.
    #[default]
    He,
    /// He normal over the outputs of a unit (`fan_out`), as residual networks use it.
    HeFanOut,
    /// Glorot uniform, for layers followed by tanh, sigmoid or softmax.
    Glorot,
}

impl WeightInit {
    pub(crate) fn with(self, fan_in: usize, fan_out: usize) -> Init {
        match self {
            WeightInit::He => Init::HeNormal { fan: fan_in },
            WeightInit::HeFanOut => Init::HeNormal { fan: fan_out },
            WeightInit::Glorot => Init::GlorotUniform { fan_in, fan_out },
        }
    }
}

/// One trained tensor (or one running statistic) of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// `weight`, `bias`, … within the layer; `layer.weight` within the network.
    pub name: String,
    /// Sizes, outermost first. Filters are `[kh, kw, c / groups, d]`, dense weights `[in, out]`.
    pub shape: Vec<usize>,
    /// How the first values are drawn.
    pub init: Init,
    /// Whether weight decay applies when biases and norms are spared.
    pub decay: bool,
}

impl ParamSpec {
    pub(crate) fn new(name: &str, shape: &[usize], init: Init, decay: bool) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), init, decay }
    }

    /// How many numbers it holds.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What one output pixel of a layer looks at in the layer's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The same pixel.
    Point,
    /// A window.
    Window(Window),
    /// The window of an output that has so many rows and columns, whatever the input's size.
    Parts(Hw),
    /// The whole map.
    Whole,
    /// One pixel, which so many rows and columns of outputs share.
    Repeated(Hw),
}

/// Which maps of a unit may be narrower than f32: bf16 where that is trained in, integers of 8 bits where these predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Narrow {
    /// None of them.
    None,
    /// The input alone.
    Input,
    /// Input and output (integers: and what is added), each as it comes.
    Any,
    /// All of them or none, integers of one range.
    Alike,
    /// The same, integers of a range each.
    Both,
}

/// What every layer tells about itself. All shapes are per sample.
pub(crate) trait Rule {
    /// The shape rule.
    ///
    /// # Errors
    /// When the inputs do not fit, with the layer's name, the shapes and the rule.
    fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape>;

    /// Trained tensors, in a fixed order.
    fn params(&self, _inputs: &[Shape]) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// Running statistics: saved with the weights, not trained by the optimizer.
    fn state(&self, _inputs: &[Shape]) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// Multiply-accumulates of one forward pass over one sample (1 MAC = 2 FLOP).
    fn macs(&self, _inputs: &[Shape], _output: Shape) -> u64 {
        0
    }

    /// What one output pixel sees of the input.
    fn reach(&self) -> Reach {
        Reach::Point
    }

    /// Which of the unit's maps may be bf16.
    fn halves(&self, _unit: &Unit, _b: &Lower) -> Result<Narrow> {
        Ok(Narrow::None)
    }

    /// Which of the unit's maps may be integers of 8 bits.
    fn bytes(&self, _unit: &Unit, _b: &Lower) -> Result<Narrow> {
        Ok(Narrow::None)
    }

    /// Whether the backward pass of the layer at `id` makes the last step of the way back through a norm behind it, see
    /// [`Lower::leave_step`].
    fn makes_step(&self, _id: NodeId, _b: &Lower) -> Result<bool> {
        Ok(false)
    }

    /// Emits the calls of the forward pass.
    fn forward(&self, unit: &Unit, b: &mut Lower) -> Result<()>;

    /// Emits the calls of the backward pass: from the output's gradient to the parameters' and inputs'.
    fn backward(&self, unit: &Unit, b: &mut Lower) -> Result<()>;
}

macro_rules! layers {
    ($($(#[$doc:meta])* $name:ident => $kind:literal),* $(,)?) => {
        /// A layer of a network. In a network file its kind is the key `type`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", deny_unknown_fields)]
        pub enum Layer {
            $($(#[$doc])* #[serde(rename = $kind)] $name($name),)*
        }

        impl Layer {
            /// The kind as network files and tables write it.
            pub fn kind(&self) -> &'static str {
                match self { $(Layer::$name(_) => $kind,)* }
            }

            /// Every kind there is.
            pub const KINDS: &'static [&'static str] = &[$($kind),*];

            /// The shape that the layer makes of its inputs'.
            ///
            /// # Errors
            /// When they do not fit, with the layer's name, the shapes and the rule.
            pub fn output(&self, name: &str, inputs: &[Shape]) -> Result<Shape> {
                self.rule().output(name, inputs)
            }

            /// What the layer tells about itself.
            pub(crate) fn rule(&self) -> &dyn Rule {
                match self { $(Layer::$name(l) => l,)* }
            }
        }

        $(impl From<$name> for Layer {
            fn from(l: $name) -> Self { Layer::$name(l) }
        })*
    };
}

layers! {
    /// Convolution.
    Conv => "conv",
    /// Max pooling.
    MaxPool => "max-pool",
    /// Mean pooling.
    MeanPool => "mean-pool",
    /// Mean pooling to a given size.
    AdaptiveMeanPool => "adaptive-mean-pool",
    /// Mean over the whole map.
    GlobalMeanPool => "global-mean-pool",
    /// Fully connected layer.
    Dense => "dense",
    /// Batch normalisation.
    BatchNorm => "batch-norm",
    /// Normalisation of each pixel over its channels.
    LayerNorm => "layer-norm",
    /// Dropout.
    Dropout => "dropout",
    /// Dropout of whole samples.
    StochasticDepth => "stochastic-depth",
    /// Local response normalisation.
    LocalResponseNorm => "local-response-norm",
    /// Rectified linear unit.
    Relu => "relu",
    /// Leaky rectified linear unit.
    LeakyRelu => "leaky-relu",
    /// Logistic sigmoid.
    Sigmoid => "sigmoid",
    /// Hyperbolic tangent.
    Tanh => "tanh",
    /// A sigmoid of straight lines.
    HardSigmoid => "hard-sigmoid",
    /// A number times its hard sigmoid.
    HardSwish => "hard-swish",
    /// A number times its sigmoid.
    Silu => "silu",
    /// A number times the share of the normal distribution below it.
    Gelu => "gelu",
    /// A factor and an offset that are not trained.
    Rescale => "rescale",
    /// Softmax over the channels.
    Softmax => "softmax",
    /// Sum of equal maps.
    Add => "add",
    /// Maps side by side along the channels.
    Concat => "concat",
    /// A map times one number per channel.
    Gate => "gate",
    /// A map times one trained number per channel.
    Scale => "scale",
    /// Some of a map's channels.
    Slice => "slice",
    /// Channels of groups that take turns.
    ChannelShuffle => "channel-shuffle",
    /// A map as one vector.
    Flatten => "flatten",
    /// Every s-th pixel with zero channels added.
    Shortcut => "shortcut",
    /// Places along an axis.
    Take => "take",
    /// Zeros between neighbours.
    Spread => "spread",
    /// Weighted sums along an axis.
    Mix => "mix",
    /// One number of an axis.
    Reduce => "reduce",
    /// A function number by number.
    Function => "function",
    /// Two maps number by number.
    Combine => "combine",
    /// A trained map.
    Constant => "constant",
    /// Axes in another order.
    Rearrange => "rearrange",
    /// Repeated pixels.
    Upsample => "upsample",
}

/// The single input of a layer that takes exactly one.
pub(crate) fn one(name: &str, inputs: &[Shape]) -> Result<Shape> {
    match inputs {
        [s] => Ok(*s),
        _ => Err(crate::Error::layer(
            name,
            format!("takes one input but {} are joined to it", inputs.len()),
        )),
    }
}
