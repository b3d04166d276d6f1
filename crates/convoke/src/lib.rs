//! convoke: convolutional networks in Rust. Train one on your own pictures, find a small thing in a
//! big picture, know before a run what it costs.
//!
//! ```
//! use convoke::prelude::*;
//!
//! // A network is a graph of layers; its shapes are known at once.
//! let mut b = Builder::new("small", Shape::new(28, 28, 1));
//! b.conv(Conv::new(8, 3)).relu().max_pool(2, 2).flatten().dense(10);
//! let net = b.build()?;
//!
//! // Compiled, it is a flat schedule over one arena whose size is known before the run.
//! let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
//! let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
//! let plan = Plan::compile(&net, &PlanOptions::train(32, 2, loss, sgd))?;
//! println!("{} bytes", plan.memory().total);
//!
//! // A session holds the arena and the threads; a step allocates nothing.
//! let mut session = Session::new(plan)?;
//! session.init(0);
//! session.input_mut().fill(0.5);
//! session.labels_mut().fill(3);
//! let before = session.step(0.05)?.loss;
//! let after = session.step(0.05)?.loss;
//! assert!(after < before);
//! # Ok::<(), convoke::engine::Error>(())
//! ```

#![forbid(unsafe_code)]

pub use convoke_data as data;
pub use convoke_engine as engine;
pub use convoke_formats as formats;
pub use convoke_train as train;
pub use convoke_vision as vision;
pub use convoke_zoo as zoo;

/// What most programs need.
pub mod prelude {
    pub use convoke_data::{
        Augment, Dataset, OpenOptions, Picture, Preprocess, read_picture, write_png,
    };
    pub use convoke_engine::layers::*;
    pub use convoke_engine::{
        Builder, Loss, Network, Optimizer, Overrides, Padding, Plan, PlanOptions, Session, Shape,
    };
    pub use convoke_formats::ModelFile;
    pub use convoke_train::{Predictor, RunFolder, Schedule, TrainOptions, Trainer};
    pub use convoke_zoo::Options as ZooOptions;
}
