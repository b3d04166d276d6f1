//! Dense layers with more weights than caches hold, over few samples: such a layer takes little longer than its
//! weights take to be read, or their gradient to be written, so weights are read once, where they lie, and asked for
//! while those before them are multiplied.
//!
//! `x [m, inputs] · weights [inputs, units] -> y [m, units]`. Forward ([`forward`]) has units in the lanes of vectors,
//! backward-data ([`data`]) samples, so that weights need no turning, and the weights' gradient ([`weights`]) units.
//! All three multiply f32 or, where the processor does, pairs of bf16 ([`words`]).

mod data;
mod forward;
mod weights;
mod words;

use super::{ConvShape, Precision};
use crate::{Isa, cut};
use words::Words;

/// Samples up to which it pays.
const MOST_SAMPLES: usize = 96;
/// Weights from which it pays: 1 MB.
const FEWEST_WEIGHTS: usize = cut(256 * 1024, 64);

/// A dense layer's three passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dense {
    words: Words,
    inputs: usize,
    units: usize,
}

impl Dense {
    /// The passes, where the shape is one that they serve.
    pub fn new(s: &ConvShape, isa: Isa, batch: usize, precision: Precision) -> Option<Self> {
        let one_pixel = (s.h, s.w, s.kh, s.kw, s.groups) == (1, 1, 1, 1, 1)
            && (s.top, s.left, s.oh, s.ow) == (0, 0, 1, 1);
        let large = s.filter_len() >= FEWEST_WEIGHTS && batch <= MOST_SAMPLES;
        let words = Words::new(isa, precision);
        (one_pixel && large).then_some(Dense { words, inputs: s.c, units: s.d })
    }
}
