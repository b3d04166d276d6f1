//! Convolutions by dot products of words on vectors: a lane multiplies two bf16 numbers, or four integers of
//! 8 bits (two where products of bytes would overflow), and adds them to its sum in one instruction.
//!
//! A vector of words takes as long as one of f32, so the walks are those of f32 ([`super::walk`],
//! [`super::weights`]) over maps that are copied, a band at a time into a thread's cache, as words of
//! neighbouring channels, or for backward-weights of neighbouring pixels. Sums are made whole, in registers
//! ([`tile`]). Maps are f32 in memory, or bf16, or bytes, which a pixel of one word after the other is read as it lies
//! ([`finish`] writes them).
//!
//! Processors with matrix tiles take [`super::tiles`].

mod finish;
mod pack;
mod tile;
mod walk;
mod weights;
mod words;

pub(super) use tile::{Tap, Tile, pick};
pub(super) use walk::DotWalk;
pub(super) use weights::DotWeights;
pub(super) use words::{Interleave, interleave};

use super::tiles::{Int8, Kind};
use crate::Isa;
use crate::gemm::Family;
use crate::isa::rounds_bf16;

/// Whether an instruction set comes with products of bf16 (AVX512-BF16) on this machine, and none on tiles.
pub(super) fn bf16_present(isa: Isa) -> bool {
    isa == Isa::Avx512 && rounds_bf16(isa)
}

/// The instruction set whose vectors multiply.
fn isa(kind: Kind) -> Isa {
    match kind {
        Kind::Floats(_) | Kind::Int8(Int8::Avx512Vnni | Int8::Avx512 | Int8::Tiles, _) => {
            Isa::Avx512
        }
        Kind::Int8(Int8::AvxVnni | Int8::Avx2, _) => Isa::Avx2,
        Kind::Int8(Int8::Portable, _) => Isa::Portable,
    }
}

/// How outputs are cut into vectors and tiles.
fn family(kind: Kind) -> Family {
    Family::of(isa(kind))
}

/// Lanes of a vector.
fn lanes(kind: Kind) -> usize {
    match isa(kind) {
        Isa::Avx512 => 16,
        _ => 8,
    }
}

/// Bytes of a word.
const WORD: usize = 4;
