//! Model files and weight formats. One `.safetensors` file is a complete model: network, weights, class
//! names and preprocessing; a checkpoint is a model with the optimizer's memory beside. Weights of
//! others, from safetensors and from PyTorch's files, are brought into a network by [`weights::fit`].

#![forbid(unsafe_code)]

mod ensemble;
mod model;
pub mod onnx;
mod reparameterise;
mod torch;
pub mod weights;

pub use ensemble::ensemble;
pub use model::{ModelError, ModelFile};
pub use reparameterise::{Reparameterised, reparameterise};
pub use weights::Weights;
