//! Convolutions by narrower numbers: which passes take them, and whether on tiles or in dot products of vectors.

use super::dots::{self, DotWalk, DotWeights};
use super::tiles::{Int8, Kind, Precision, TileWalk, TileWeights};
use super::walk::Walk;
use super::{Conv, ConvShape, Epilogue};
use crate::norm::Source;
use crate::{Ctx, Isa, Map, MapMut};

/// What multiplies bf16 (f32 as sums of it, on tiles) or integers.
#[derive(Debug, Clone, Default)]
pub(super) struct Narrow {
    pub forward: Option<NarrowWalk>,
    pub backward: Option<Vec<NarrowWalk>>,
    pub weights: Option<NarrowWeights>,
}

/// A walk on matrix tiles or in dot products of vectors.
#[derive(Debug, Clone)]
pub(super) enum NarrowWalk {
    Tiles(TileWalk),
    Dots(DotWalk),
}

/// Backward-weights likewise.
#[derive(Debug, Clone)]
pub(super) enum NarrowWeights {
    Tiles(TileWeights),
    Dots(DotWeights),
}

/// Calls a method of whichever it is.
macro_rules! either {
    ($of:ident, $self:expr, $method:ident($($arg:expr),*)) => {
        match $self {
            $of::Tiles(tiles) => tiles.$method($($arg),*),
            $of::Dots(dots) => dots.$method($($arg),*),
        }
    };
}

impl NarrowWalk {
    pub fn new(base: &Walk, kind: Kind, batch: usize, threads: usize) -> Self {
        match kind {
            Kind::Int8(way, _) if way != Int8::Tiles => {
                NarrowWalk::Dots(DotWalk::new(base, kind, batch, threads))
            }
            Kind::Floats(_) if base.isa() != Isa::Amx => {
                NarrowWalk::Dots(DotWalk::new(base, kind, batch, threads))
            }
            _ => NarrowWalk::Tiles(TileWalk::new(base, kind, batch, threads)),
        }
    }

    pub fn pack_len(&self) -> usize {
        either!(NarrowWalk, self, pack_len())
    }

    pub fn scratch_len(&self) -> usize {
        either!(NarrowWalk, self, scratch_len())
    }

    /// Whether sums of integers cannot overflow.
    pub fn holds(&self) -> bool {
        either!(NarrowWalk, self, holds())
    }

    pub fn is_int8(&self) -> bool {
        either!(NarrowWalk, self, is_int8())
    }

    pub fn pack(&self, cx: Ctx, s: &ConvShape, filters: &[f32], turned: bool, pack: &mut [f32]) {
        either!(NarrowWalk, self, pack(cx, s, filters, turned, pack))
    }

    pub fn run(
        &self,
        cx: Ctx,
        n: usize,
        src: Source,
        pack: &[f32],
        dst: MapMut,
        accumulate: bool,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        match self {
            NarrowWalk::Dots(w) => w.run(cx, n, src, pack, dst, accumulate, epilogue, scratch),
            NarrowWalk::Tiles(w) => {
                w.run(cx, n, src, pack, dst.full(), accumulate, epilogue, scratch);
            }
        }
    }

    /// Whether its maps may be bf16 in memory.
    pub fn takes_halves(&self) -> bool {
        matches!(self, NarrowWalk::Dots(_)) && !self.is_int8()
    }

    /// Whether its maps may be bytes in memory.
    pub fn takes_bytes(&self) -> bool {
        matches!(self, NarrowWalk::Dots(_)) && self.is_int8()
    }

    fn cost(&self, batch: usize) -> f64 {
        either!(NarrowWalk, self, cost(batch))
    }
}

impl NarrowWeights {
    /// Floats of work space of all threads.
    pub fn scratch_len(&self, threads: usize) -> usize {
        match self {
            NarrowWeights::Tiles(tiles) => tiles.scratch_len(),
            NarrowWeights::Dots(dots) => dots.scratch_len(threads),
        }
    }

    pub fn run(&self, cx: Ctx, n: usize, x: Source, dy: Map, dw: &mut [f32], scratch: &mut [f32]) {
        match self {
            NarrowWeights::Dots(dots) => dots.run(cx, n, x, dy, dw, scratch),
            NarrowWeights::Tiles(tiles) => tiles.run(cx, n, x, dy.full(), dw, scratch),
        }
    }

    /// As [`NarrowWalk::takes_halves`].
    pub fn takes_halves(&self) -> bool {
        matches!(self, NarrowWeights::Dots(_))
    }

    fn cost(&self, batch: usize) -> f64 {
        either!(NarrowWeights, self, cost(batch))
    }
}

impl Narrow {
    /// Whether an instruction set has faster products for a precision.
    pub fn serves(isa: Isa, precision: Precision) -> bool {
        isa == Isa::Amx || precision == Precision::Bf16 && dots::bf16_present(isa)
    }

    /// Those of the three that take fewer cycles so; all of them if they must.
    pub fn new(conv: &Conv, precision: Precision, must: bool) -> Self {
        let (s, batch, threads) = (&conv.shape, conv.batch, conv.threads);
        let isa = conv.forward.isa();
        if !Self::serves(isa, precision) || s.groups > 1 {
            return Narrow::default();
        }
        // Forward and backward-data choose by channels and window, whatever the extent of the maps, so that
        // a picture in parts gives the bits that it gives in one piece.
        let typical = typical(s);
        let few = s.oh * s.ow == 1 && batch < FEW && isa == Isa::Amx;
        let long = s.filter_len() > MANY;
        let kind = Kind::Floats(precision);
        let cost = |w: &Walk| NarrowWalk::new(w, kind, TYPICAL_BATCH, 1).cost(TYPICAL_BATCH);
        let forward = cost(&Walk::forward(&typical, isa, false));
        let backward: f64 = Walk::backward_data(&typical, isa).iter().map(cost).sum();
        let weights = |threads: usize| match isa {
            Isa::Amx => NarrowWeights::Tiles(TileWeights::new(s, precision, batch, threads)),
            _ => NarrowWeights::Dots(DotWeights::new(s, batch, threads)),
        };
        let narrow = |w: &Walk| NarrowWalk::new(w, kind, batch, threads);
        let chosen = |few: bool, narrow: f64, fma: f64| must || !few && narrow < fma;
        Narrow {
            forward: chosen(few, forward, fma(&typical, TYPICAL_BATCH, s.d, s.c))
                .then(|| narrow(&conv.forward)),
            backward: chosen(few, backward, fma(&typical, TYPICAL_BATCH, s.c, s.d))
                .then(|| conv.backward.iter().map(narrow).collect()),
            // Threads cut the work, and so what it costs; they may not decide what is multiplied.
            weights: chosen(long, weights(1).cost(batch), fma(s, batch, s.d, s.c))
                .then(|| weights(threads)),
        }
    }
}

/// Cycles of the register tile: 25 products each, of 32 that it could make, and what maps take to be read
/// and written.
fn fma(s: &ConvShape, batch: usize, lanes: usize, sum: usize) -> f64 {
    let products = (batch * s.oh * s.ow * s.kh * s.kw) as f64;
    let maps = (batch * (s.x_len() + s.y_len())) as f64;
    products * (lanes.next_multiple_of(SIMD) * sum) as f64 / 25.0 + 0.3 * maps
}

/// The same convolution over maps of a usual size.
fn typical(s: &ConvShape) -> ConvShape {
    const SIDE: usize = 32;
    if (s.kh, s.kw, s.oh, s.ow) == (1, 1, 1, 1) {
        return *s;
    }
    let across =
        |k: usize, step: usize, dilation: usize| (SIDE - 1) * step + (k - 1) * dilation + 1;
    let (h, w) = (across(s.kh, s.sh, s.dh), across(s.kw, s.sw, s.dw));
    ConvShape { h: h - s.top.min(h - 1), w: w - s.left.min(w - 1), oh: SIDE, ow: SIDE, ..*s }
}

/// Pictures of the usual batch.
const TYPICAL_BATCH: usize = 8;
/// Samples of a dense layer below which tiles stand mostly empty.
const FEW: usize = 64;
/// Weights whose gradient takes as long as it takes to be written, however it is made.
const MANY: usize = 4 << 20;
/// Floats of an AVX-512 vector.
const SIMD: usize = 16;
