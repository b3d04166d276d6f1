//! Convolutions on matrix tiles (AMX): 16 × 16 sums over 32 products at a time, of bf16 numbers into f32.
//!
//! One tile instruction does in 16 cycles what takes 256 by fused multiply-adds, but multiplies only
//! bf16, which keeps 8 bits of f32's 24. In f32 arithmetic every number is therefore taken as a sum of
//! three bf16 pieces, `x = x₁ + x₂ + x₃`, exact but for the last bits, and a product as the six of nine
//! products of pieces that matter at all:
//!
//! `x·w ≈ x₁w₁ + (x₁w₂ + x₂w₁) + (x₁w₃ + x₂w₂ + x₃w₁)`
//!
//! What is left out is below 2⁻²⁴ of the product, where f32 rounds, so results are as near to the true
//! sum as those of the other kernels (`tests/tiles.rs` measures both), at over twice their speed
//! (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for
//! higher-precision computations"). In bf16 arithmetic one piece and one product do.
//!
//! What is out of range: pieces below 2⁻¹²⁶ count as zero, so products of numbers below about 2⁻¹⁰⁰ lose
//! bits, and infinity becomes NaN.
//!
//! In int8 arithmetic ([`quantize`]) maps become 8-bit integers and the same walk runs with integer products.
//! Where there are no tiles, [`super::dots`] multiplies bf16 and integers on vectors.
//!
//! [`walk`] is forward and backward-data, [`weights`] backward-weights; both turn maps into pieces in the
//! order in which tiles read them ([`split`]) and pass them to the block of [`block`].

mod block;
mod item;
mod pack;
mod quantize;
mod split;
mod walk;
mod weights;

pub(crate) use block::present;
pub(crate) use quantize::Steps;
pub use quantize::{Int8, Range8};
pub(super) use quantize::{LONGEST, bytes as integers, filter_scales, weight, words as integers16};
pub(super) use split::{LANES, pair, row as rows, transpose as turn};
pub(super) use walk::TileWalk;
pub(super) use weights::TileWeights;

/// What a sum of products is made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// f32, whatever it is made of.
    #[default]
    F32,
    /// Operands rounded to bf16, sums in f32, where the processor multiplies bf16 faster, on tiles
    /// ([`crate::Isa::Amx`]) or on vectors (AVX512-BF16); elsewhere as f32.
    Bf16,
}

impl Precision {
    /// Pieces of a number.
    fn pieces(self) -> usize {
        match self {
            Precision::F32 => 3,
            Precision::Bf16 => 1,
        }
    }
}

/// What maps and filters are multiplied as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// bf16 pieces of floats.
    Floats(Precision),
    /// Integers of 8 bits, which lie in a map's range, by one of the ways to multiply them.
    Int8(Int8, Range8),
}

impl Kind {
    /// Pieces of a number.
    pub fn pieces(self) -> usize {
        match self {
            Kind::Floats(precision) => precision.pieces(),
            Kind::Int8(..) => 1,
        }
    }

    /// Bytes of a piece.
    pub fn size(self) -> usize {
        match self {
            Kind::Floats(_) => 2,
            Kind::Int8(way, _) => way.size(),
        }
    }

    /// Products summed in one step.
    pub fn depth(self) -> usize {
        ROW / self.size()
    }
}

/// Rows of a tile, and its columns.
const SIDE: usize = 16;
/// Bytes of a row of a tile.
const ROW: usize = 64;
/// bf16 products summed by one tile instruction.
const DEPTH: usize = ROW / 2;
/// Bytes of a tile.
const TILE: usize = SIDE * ROW;

/// Steps of the sum whose packed operand stays in the nearest cache while others pass over it.
fn chunk(pieces: usize) -> usize {
    if pieces == 1 { 8 } else { 3 }
}

/// The bytes of a buffer of floats, as tiles read them: from the first cache line on.
fn bytes(floats: &[f32]) -> &[u8] {
    let skip = floats.as_ptr().align_offset(ROW).min(floats.len());
    let floats = &floats[skip..];
    // SAFETY: the same memory; every bit pattern is a number of either kind.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), 4 * floats.len()) }
}

/// [`bytes`] to write.
fn bytes_mut(floats: &mut [f32]) -> &mut [u8] {
    let skip = floats.as_ptr().align_offset(ROW).min(floats.len());
    let floats = &mut floats[skip..];
    // SAFETY: the same memory; every bit pattern is a number of either kind.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 4 * floats.len()) }
}

/// Floats that hold so many bytes wherever the buffer begins.
pub(super) fn floats_for(bytes: usize) -> usize {
    bytes.div_ceil(4) + 16
}
