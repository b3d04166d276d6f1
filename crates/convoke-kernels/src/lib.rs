//! Arithmetic on slices for convoke: fast kernels, each beside a plain reference.
//!
//! Everything here knows slices, sizes and strides; nothing knows layers. The instruction set is
//! chosen at run time ([`Isa`]); results are bitwise equal for any number of threads ([`Pool`]).

// What only processors of this kind and systems of this kind have, the others do not use.
#![cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(dead_code, unused_imports, unused_variables)
)]

pub mod activation;
pub mod adaptive_pool;
pub mod axis;
pub mod chain;
pub mod channels;
pub mod combine;
pub mod conv;
pub mod depthwise;
pub mod dropout;
pub mod elementwise;
pub mod function;
pub mod gate;
mod gemm;
mod isa;
pub mod lanes;
pub mod layer_norm;
pub mod loss;
pub mod lrn;
mod map;
pub mod norm;
pub mod optim;
pub mod peak;
mod pool;
pub mod pool2d;
pub mod rearrange;
pub mod reference;
pub mod shortcut;
pub mod upsample;

pub use isa::{Ctx, Isa};
pub use map::{Bf16, Form, Map, MapMut};
pub use pool::{Pool, SharedMut};

/// Floats that a thread claims at once where numbers or rows are independent: 64 KB, long enough to make a claim
/// cheap.
const CHUNK: usize = cut(16 * 1024, 64);

/// A size by which work is cut. Miri (`CONTRIBUTING.md`), which takes ten thousand times longer, has a small one, so
/// that small maps are cut and shared among threads as well.
const fn cut(size: usize, miri: usize) -> usize {
    if cfg!(miri) { miri } else { size }
}
