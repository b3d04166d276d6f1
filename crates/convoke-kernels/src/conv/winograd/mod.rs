//! Windows of 3×3 at stride 1 with fewer products: Winograd's minimal filtering F(4×4, 3×3) and F(2×2, 3×3) (Lavin and
//! Gray, Fast Algorithms for Convolutional Neural Networks, 2016).
//!
//! `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`: a tile of 6×6 source pixels gives 4×4 outputs by 36 products a channel and
//! filter where the direct sum takes 144 (4×4 source pixels 2×2 outputs by 16 for 36). Summed over channels, each of the
//! places is a matrix product. The gradient of the filters is the same algorithm turned around,
//! `dg = Gᵀ [Σ (A dY Aᵀ) ⊙ (Bᵀ d B)] G`.
//!
//! Transforms add, subtract and scale (`minimal.rs`), so errors stay a small multiple of the direct sum's;
//! `tests/winograd.rs` bounds them. Sums run over channels (or tiles) in one order, so neither threads nor cuts
//! change a bit.
//!
//! In bf16 (training alone) transformed numbers are rounded and multiplied in pairs (`words.rs`), in the smaller tiles,
//! which bear the rounding; the transforms and sums stay f32.

mod filters;
mod minimal;
mod multiply;
mod pairs;
mod source;
mod transform;
mod walk;
mod weights;
mod words;

use super::dots::bf16_present;
use super::{Conv, ConvShape, Precision};
use crate::gemm::Family;
use crate::{Isa, cut};
use minimal::{Four, Minimal, Two};
use multiply::step;
use walk::WinogradWalk;
use weights::WinogradWeights;

/// For whom [`Conv::winograd`] chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winograd {
    /// All three passes, filters transformed in each step.
    Training,
    /// Forward alone, filters transformed once.
    Prediction,
    /// Wherever it fits, faster or not, in tiles of 2 or 4 outputs a side (in bf16 always 2): to test and to measure.
    Always(usize),
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
        let always = matches!(when, Winograd::Always(_));
        let trains = when != Winograd::Prediction;
        let pairs = trains && conv.precision == Precision::Bf16 && bf16_present(isa);
        let ways: &[Way] = match when {
            _ if pairs => &[Way::Pairs],
            Winograd::Always(2) => &[Way::Two],
            Winograd::Always(_) => &[Way::Four],
            Winograd::Training | Winograd::Prediction => &[Way::Four, Way::Two],
        };
        let best = |maps: Maps| {
            let of = |way: Way| Maps { way, ..maps };
            let small = |way: &Way| {
                ways.len() == 1 || trains || *way == Way::Two || of(*way).bears(isa, batch)
            };
            let cost = |way: &Way| of(*way).cost(isa, batch, trains);
            let ways = ways.iter().copied().filter(small);
            let way = ways.min_by(|a, b| cost(a).total_cmp(&cost(b)));
            Maps { way: way.unwrap_or(Way::Two), ..maps }
        };
        let pays = |maps: &Maps| always || maps.cost(isa, batch, trains) < maps.direct(isa, batch);
        let free = |taken: bool| always || pairs || !taken;
        let (forward, backward) = (best(Maps::forward(s)), best(Maps::backward(s)));
        let narrow = &conv.narrow;
        let walk = |maps: Maps, turned, taken| {
            (free(taken) && pays(&maps))
                .then(|| WinogradWalk::new(maps, isa, batch, turned, trains))
        };
        // In pairs, which the direct sum makes at some expense, it always does where channels fill a vector.
        let sums = pays(&forward) || pairs && s.c.min(s.d) >= 16;
        Fewer {
            forward: walk(forward, false, narrow.forward.is_some()),
            backward: walk(backward, true, narrow.backward.is_some()).filter(|_| trains),
            weights: (trains && free(narrow.weights.is_some()) && sums)
                .then(|| WinogradWeights::new(forward, isa, batch)),
        }
    }
}

/// A filtering and the numbers it multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// F(2×2, 3×3) in f32.
    Two,
    /// F(4×4, 3×3) in f32.
    Four,
    /// F(2×2, 3×3) in pairs of bf16.
    Pairs,
}

impl Way {
    /// Output rows and columns of a tile.
    fn step(self) -> usize {
        match self {
            Way::Two | Way::Pairs => Two::STEP,
            Way::Four => Four::STEP,
        }
    }

    /// Rows and columns of a source tile.
    fn side(self) -> usize {
        self.step() + 2
    }

    /// Products of a tile.
    fn places(self) -> usize {
        self.side() * self.side()
    }

    /// Numbers of so many words.
    fn numbers(self, words: usize) -> usize {
        match self {
            Way::Two | Way::Four => words,
            Way::Pairs => 2 * words,
        }
    }

    /// Words of so many numbers.
    fn words(self, numbers: usize) -> usize {
        match self {
            Way::Two | Way::Four => numbers,
            Way::Pairs => numbers.div_ceil(2),
        }
    }
}

/// The maps of one direction: forward, or backward-data with its maps and channels exchanged.
#[derive(Debug, Clone, Copy)]
struct Maps {
    way: Way,
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
        let way = Way::Two;
        Maps { way, src_h: s.h, src_w: s.w, top, left, c: s.c, out_h: s.oh, out_w: s.ow, d: s.d }
    }

    /// `dx` at row y sums `dy` at rows `y + top − 2 ..= y + top`.
    fn backward(s: &ConvShape) -> Self {
        let (top, left) = (2 - s.top, 2 - s.left);
        let way = Way::Two;
        Maps { way, src_h: s.oh, src_w: s.ow, top, left, c: s.d, out_h: s.h, out_w: s.w, d: s.c }
    }

    /// Rows of tiles of a picture, and tiles of a row.
    fn tiles(&self) -> (usize, usize) {
        (self.out_h.div_ceil(self.way.step()), self.out_w.div_ceil(self.way.step()))
    }

    /// Words of a sum.
    fn words(&self) -> usize {
        self.way.words(self.c)
    }

    /// Vectors of the channels of both maps, and words of a sum for each of the output's.
    fn vectors(&self, isa: Isa) -> (f64, f64) {
        let lanes = Family::of(isa).lanes;
        let vectors = |channels: usize| channels.div_ceil(lanes) as f64;
        (vectors(self.c) + vectors(self.d), self.words() as f64 * vectors(self.d))
    }

    /// Floats from one place of the transformed filters to the next: an odd number of cache lines, as in [`pitch`].
    fn place(&self, isa: Isa) -> usize {
        (self.words() * Family::of(isa).padded(self.d)).next_multiple_of(32) + 16
    }

    /// Floats of the transformed filters.
    fn filters(&self, isa: Isa) -> usize {
        self.way.places() * self.place(isa)
    }

    /// Whether they are more than a share of the last cache.
    fn many(&self, isa: Isa) -> bool {
        self.filters(isa) > cut(768 * 1024, 4 * 1024)
    }

    /// Whether filters that change with each of `n` pictures are transformed a block at a time, while they lie in a cache:
    /// where they are many, and where they are needed only once.
    fn in_blocks(&self, isa: Isa, n: usize) -> bool {
        self.many(isa) || n * self.tiles().0 * self.tiles().1 <= PASS
    }

    /// Whether the maps of `n` pictures are not too small beside the transformed filters, which take memory where they
    /// are kept: in prediction.
    fn bears(&self, isa: Isa, n: usize) -> bool {
        const TIMES: usize = 8;
        let maps = self.src_h * self.src_w * self.c + self.out_h * self.out_w * self.d;
        self.filters(isa) <= TIMES * n * maps
    }

    /// Vector operations of the direct sum over `n` pictures. What it does to make pairs is measured.
    fn direct(&self, isa: Isa, n: usize) -> f64 {
        let (maps, sums) = self.vectors(isa);
        let into_pairs = if self.way == Way::Pairs { 50.0 } else { 0.0 };
        let tiles = (n * self.tiles().0 * self.tiles().1) as f64;
        let products = (n * self.out_h * self.out_w * 9) as f64 / 0.92;
        sums * (products + 9.0 * FAR) + into_pairs * maps * tiles
    }

    /// Vector operations of this algorithm, of transforms as they are measured; if they `train`, filters are transformed
    /// each time, many a block at a time while they lie in a cache.
    fn cost(&self, isa: Isa, n: usize, train: bool) -> f64 {
        let (maps, sums) = self.vectors(isa);
        let places = self.way.places() as f64;
        let transforms = match self.way {
            Way::Two => 100.0,
            Way::Four => 260.0,
            Way::Pairs => 140.0,
        };
        let tiles = n * self.tiles().0 * self.tiles().1;
        let rounded = tiles.next_multiple_of(step(Family::of(isa).lanes, 2)) as f64;
        let filters = match (train, self.in_blocks(isa, n)) {
            (true, true) => 4.0 * places + FAR * 9.0,
            (true, false) => (3.0 + FAR) * places,
            (false, _) => FAR * places,
        };
        sums * (rounded * places / 0.85 + filters) + transforms * maps * tiles as f64
    }
}

/// Tiles that pass over many filters together at least.
const PASS: usize = cut(112, 4);

/// Vector operations in the time in which a vector of filters comes from main memory.
const FAR: f64 = 10.0;

/// Whether the algorithm is for such windows.
fn fits(s: &ConvShape) -> bool {
    (s.kh, s.kw, s.sh, s.sw, s.dh, s.dw, s.groups) == (3, 3, 1, 1, 1, 1, 1)
        && s.top <= 2
        && s.left <= 2
        && s.oh.min(s.ow) >= 2
        && s.h.min(s.w) >= 2
}

/// Floats from one tile to the next: whole vectors, an odd number of cache lines so that neighbours do not fall
/// into the same ways of a cache.
fn pitch(channels: usize) -> usize {
    let lines = channels.div_ceil(16);
    16 * (lines + usize::from(lines.is_multiple_of(2)))
}
