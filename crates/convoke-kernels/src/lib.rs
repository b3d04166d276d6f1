//! Arithmetic on slices for convoke: fast kernels, each beside a plain reference.
//!
//! Everything here knows slices, sizes and strides; nothing knows layers. The instruction set is
//! chosen at run time ([`Isa`]); results are bitwise equal for any number of threads ([`Pool`]).

pub mod conv;
mod gemm;
mod isa;
pub mod peak;
mod pool;
pub mod reference;

pub use isa::{Ctx, Isa};
pub use pool::{Pool, SharedMut};
