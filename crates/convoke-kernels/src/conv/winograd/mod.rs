//! Windows of 3×3 at stride 1 with fewer products: Winograd's minimal filtering F(2×2, 3×3) (Lavin and Gray,
//! Fast Algorithms for Convolutional Neural Networks, 2016).
//!
//! `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`: a tile of 4×4 source pixels gives 2×2 outputs by 16 products a channel and
//! filter where the direct sum takes 36. Summed over channels, each of the 16 places is a matrix product. The
//! gradient of the filters is the same algorithm turned around, `dg = Gᵀ [Σ (A dY Aᵀ) ⊙ (Bᵀ d B)] G`.
//!
//! Transforms add and subtract (filters are halved besides), so errors stay a small multiple of the direct sum's;
//! `tests/winograd.rs` bounds them. Sums run over channels (or tiles) in one order, so neither threads nor cuts
//! change a bit.
//!
//! In bf16 (training alone) transformed numbers are rounded and multiplied in pairs (`words.rs`); the transforms and
//! sums stay f32.

mod multiply;
mod pairs;
mod transform;
mod walk;
mod weights;
mod words;

use super::dots::bf16_present;
use super::{Conv, ConvShape, Precision};
use crate::Isa;
use crate::gemm::Family;
use walk::WinogradWalk;
use weights::WinogradWeights;

/// For whom [`Conv::winograd`] chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winograd {
    /// All three passes, filters transformed in each step.
    Training,
    /// Forward alone, filters transformed once.
    Prediction,
    /// Wherever it fits, faster or not: to test and to measure.
    Always,
}

/// What runs with fewer products.
#[derive(Debug, Clone, Default)]
pub(super) struct Fewer {
    pub forward: Option<WinogradWalk>,
    pub backward: Option<WinogradWalk>,
    pub weights: Option<WinogradWeights>,
}

impl Fewer {
    pub fn new(conv: &Conv, when: Winograd) -> Self {
        let (s, batch, isa) = (&conv.shape, conv.batch, conv.forward.isa());
        if !fits(s) || conv.dense.is_some() {
            return Fewer::default();
        }
        let always = when == Winograd::Always;
        let step = when == Winograd::Training;
        let some = |walk: WinogradWalk| Some(walk).filter(|w| always || w.pays(batch, step));
        let narrow = &conv.narrow;
        let trains = when != Winograd::Prediction;
        let pairs = trains && conv.precision == Precision::Bf16 && bf16_present(isa);
        let (forward, backward) =
            (WinogradWalk::forward(s, isa, pairs), WinogradWalk::backward_data(s, isa, pairs));
        let weights = WinogradWeights::new(s, isa, batch, pairs);
        let free = |taken: bool| always || pairs || !taken;
        Fewer {
            forward: some(forward).filter(|_| free(narrow.forward.is_some())),
            backward: some(backward).filter(|_| trains && free(narrow.backward.is_some())),
            weights: Some(weights)
                .filter(|w| always || trains && free(narrow.weights.is_some()) && w.pays(batch)),
        }
    }
}

/// Rows and columns of a source tile.
const SIDE: usize = 4;
/// Products of a tile.
const PLACES: usize = SIDE * SIDE;
/// Output rows and columns of a tile.
const STEP: usize = 2;

/// The maps of one direction: forward, or backward-data with its maps and channels exchanged.
#[derive(Debug, Clone, Copy)]
struct Maps {
    src_h: usize,
    src_w: usize,
    /// Source rows above the first window and columns to its left, all zero.
    top: usize,
    left: usize,
    /// Channels that are summed.
    c: usize,
    out_h: usize,
    out_w: usize,
    /// Channels of the output.
    d: usize,
}

impl Maps {
    fn forward(s: &ConvShape) -> Self {
        let (top, left) = (s.top, s.left);
        Maps { src_h: s.h, src_w: s.w, top, left, c: s.c, out_h: s.oh, out_w: s.ow, d: s.d }
    }

    /// `dx` at row y sums `dy` at rows `y + top − 2 ..= y + top`.
    fn backward(s: &ConvShape) -> Self {
        let (top, left) = (2 - s.top, 2 - s.left);
        Maps { src_h: s.oh, src_w: s.ow, top, left, c: s.d, out_h: s.h, out_w: s.w, d: s.c }
    }

    /// Rows of tiles of a picture, and tiles of a row.
    fn tiles(&self) -> (usize, usize) {
        (self.out_h.div_ceil(STEP), self.out_w.div_ceil(STEP))
    }

    /// Pixels of a copied source row.
    fn band_w(&self) -> usize {
        self.tiles().1 * STEP + SIDE - STEP
    }

    /// Floats of copied source rows: those of one row of tiles.
    fn band_len(&self) -> usize {
        SIDE * self.band_w() * self.c
    }
}

/// Whether the algorithm is for such windows.
fn fits(s: &ConvShape) -> bool {
    (s.kh, s.kw, s.sh, s.sw, s.dh, s.dw, s.groups) == (3, 3, 1, 1, 1, 1, 1)
        && s.top <= 2
        && s.left <= 2
        && s.oh.min(s.ow) >= STEP
        && s.h.min(s.w) >= STEP
}

/// Vector operations of a direct sum and of this algorithm, for `n` pictures of these maps; `pack`: the filters
/// are transformed each time. Transforms of pairs, and what the direct sum does to make them, are measured.
fn costs(m: &Maps, isa: Isa, n: usize, pack: bool, pairs: bool) -> (f64, f64) {
    let lanes = Family::of(isa).lanes;
    let vectors = |channels: usize| channels.div_ceil(lanes) as f64;
    let (rows, columns) = m.tiles();
    let tiles = (n * rows * columns) as f64;
    let sums = words_of(m.c, pairs) as f64 * vectors(m.d);
    let maps = tiles * (vectors(m.c) + vectors(m.d));
    let (into_pairs, transforms) = if pairs { (50.0, 140.0) } else { (0.0, 100.0) };
    let direct = (n * m.out_h * m.out_w * 9) as f64 * sums / 0.92 + into_pairs * maps;
    let filters = if pack { 50.0 * sums } else { 0.0 };
    (direct, tiles * PLACES as f64 * sums / 0.85 + transforms * maps + filters)
}

/// Words of so many numbers.
fn words_of(numbers: usize, pairs: bool) -> usize {
    if pairs { numbers.div_ceil(2) } else { numbers }
}

/// Floats from one tile to the next: whole vectors, an odd number of cache lines so that neighbours do not fall
/// into the same ways of a cache.
fn pitch(channels: usize) -> usize {
    let lines = channels.div_ceil(16);
    16 * (lines + usize::from(lines.is_multiple_of(2)))
}
