//! Networks as graphs, compiled to a static plan over one memory arena.
//!
//! [`Network`] (layers joined in a graph) → [`Plan::compile`] (shapes, derivatives, fusion, schedule,
//! one arena) → [`Session`] (predict, step). A step allocates nothing and decides nothing.

#![forbid(unsafe_code)]

mod available;
mod builder;
mod error;
mod field;
mod file;
pub mod layers;
mod loss;
pub mod names;
mod network;
mod optimizer;
pub mod plan;
mod session;
mod shape;
pub mod table;
mod window;

pub use builder::Builder;
pub use convoke_kernels::loss::BOX as BOX_CHANNELS;
pub use error::{Error, Result};
pub use field::{Axis, Field};
pub use file::Overrides;
pub use network::{Head, Network, Node, NodeId, Param};
pub use plan::{
    BoxLoss, Loss, MemoryReport, Mode, Optimizer, Phase, Plan, PlanOptions, Precision, Ranges,
    Tuning, Watch,
};
pub use session::{CallTime, Session, StepReport};
pub use shape::Shape;
pub use table::Row;
pub use window::{Hw, Padding, Placed, Window};
