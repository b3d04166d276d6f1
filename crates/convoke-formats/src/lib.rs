//! Model files. One `.safetensors` file is a complete model: network, weights, class names and
//! preprocessing; a checkpoint is a model with the optimizer's memory beside.

mod model;

pub use model::{ModelError, ModelFile};
