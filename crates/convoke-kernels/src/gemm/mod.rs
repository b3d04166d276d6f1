//! One micro-kernel, walked by every dense loop of the engine.
//!
//! `C[m, n] (+)= sum over taps t, k of A[a_t + m, k] · B[b_t + k, n]` with free strides: forward walks
//! output pixels (m) and channels (k); backward-data is forward over flipped, transposed filters;
//! backward-weights walks input channels (m) and pixels (k). `n` lies in the vector lanes.
//!
//! A register tile holds `R` rows × `Q` pixels × `V` vectors. Every output number is summed in the
//! order of its taps and k by fused multiply-adds, whatever the tile, so results do not depend on
//! how the work is cut.

mod simd;
mod tile;
mod turn;

#[cfg(target_arch = "aarch64")]
pub(crate) use simd::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use simd::{Avx2, Avx512, Avx512Bf16};
pub(crate) use simd::{Portable, Simd, fence, long, streams};
pub(crate) use tile::{Family, LINE, Panel, Start, Tap, Tile};

/// Cuts `total` into the fewest parts of at most `max`, as even as can be: `(parts, length of part i)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Even {
    total: usize,
    /// Number of parts.
    pub parts: usize,
}

impl Even {
    /// The fewest parts of at most `max`.
    pub fn new(total: usize, max: usize) -> Self {
        Self { total, parts: total.div_ceil(max).max(1) }
    }

    /// That many parts (some may be empty).
    pub fn parts(total: usize, parts: usize) -> Self {
        Self { total, parts: parts.max(1) }
    }

    /// Range of part `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        let (small, extra) = (self.total / self.parts, self.total % self.parts);
        let start = i * small + i.min(extra);
        start..start + small + usize::from(i < extra)
    }
}
