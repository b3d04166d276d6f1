//! What is multiplied: words of one f32 each, or of two bf16 that are neighbours in the sum. Both are 4 bytes and
//! lie in buffers of floats.

use super::super::Precision;
use super::super::dots::{self, Interleave, interleave};
use super::super::tiles::{Kind, rows};
use crate::gemm::{Even, Family, Panel, Simd, Start, Tap, Tile};
use crate::isa::simd;
use crate::map::At;
use crate::{Isa, Map};

/// f32, or pairs of bf16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    isa: Isa,
    /// Found once: tiles are short.
    family: Family,
    pairs: bool,
}

/// One call of a tile, `C [pixels, lanes] (+)= A [pixels, k] · B [k, lanes]`: strides of A and B in words.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// Words of the sum.
    pub k: usize,
    pub pixels: usize,
    pub panel: Panel,
    pub a: *const f32,
    pub a_px: usize,
    pub a_k: usize,
    pub b: *const f32,
    pub b_k: usize,
    pub c: *mut f32,
    pub c_px: usize,
    /// Whether sums are added to what C holds.
    pub add: bool,
    /// A number for each lane, or null, and bounds.
    pub bias: *const f32,
    pub clamp: Option<(f32, f32)>,
    /// What is read later, or null: a cache line for each number of the sum, with so many floats from one to the next.
    pub ahead: *const f32,
    pub ahead_k: usize,
    /// Whether C goes past the caches.
    pub stream: bool,
}

impl Call {
    /// Of no length.
    pub fn new(panel: Panel) -> Self {
        Call {
            k: 0,
            pixels: 0,
            panel,
            a: std::ptr::null(),
            a_px: 0,
            a_k: 1,
            b: std::ptr::null(),
            b_k: 0,
            c: std::ptr::null_mut(),
            c_px: 0,
            add: false,
            bias: std::ptr::null(),
            clamp: None,
            ahead: std::ptr::null(),
            ahead_k: 0,
            stream: false,
        }
    }
}

impl Words {
    pub fn new(isa: Isa, precision: Precision) -> Self {
        let pairs = precision == Precision::Bf16 && dots::bf16_present(isa);
        Words { isa, family: Family::of(isa), pairs }
    }

    pub fn isa(self) -> Isa {
        self.isa
    }

    pub fn family(self) -> Family {
        self.family
    }

    /// Numbers of a word.
    pub fn numbers(self) -> usize {
        if self.pairs { 2 } else { 1 }
    }

    /// Words of a sum over so many numbers.
    pub fn of(self, numbers: usize) -> usize {
        numbers.div_ceil(self.numbers())
    }

    /// `to` = a run of numbers that are neighbours in the sum.
    pub fn row(self, from: &[f32], to: &mut [f32]) {
        let to = &mut to[..self.of(from.len())];
        if !self.pairs {
            return to.copy_from_slice(from);
        }
        if let Some(last) = to.last_mut() {
            *last = 0.0;
        }
        // SAFETY: `to` has two halves for each pair; pairs are only where AVX512-BF16 is.
        unsafe { rows::<1>(from.as_ptr(), from.len(), to.as_mut_ptr().cast(), 0) }
    }

    /// `to [n][width]` = words of `n` rows of `len` numbers that are neighbours in the sum, `stride` floats from row to row.
    pub fn rows(
        self,
        from: &[f32],
        stride: usize,
        n: usize,
        len: usize,
        width: usize,
        to: &mut [f32],
    ) {
        if !self.pairs {
            return self.columns(from, stride, n, len, width, to);
        }
        for (row, to) in to.chunks_exact_mut(width).take(n).enumerate() {
            self.row(&from[row * stride..][..len], to);
        }
    }

    /// `to [of(n)][width]` = words of `n` rows of `used` lanes, `stride` floats apart, which are neighbours in the sum;
    /// missing lanes zero.
    pub fn columns(
        self,
        from: &[f32],
        stride: usize,
        n: usize,
        used: usize,
        width: usize,
        to: &mut [f32],
    ) {
        assert!(n > 0 && (n - 1) * stride + used <= from.len(), "numbers are too few");
        assert!(used <= width && self.of(n) * width <= to.len(), "the block is too short");
        assert!(width.is_multiple_of(self.family().lanes), "words fill vectors");
        if !self.pairs {
            // SAFETY: rows end within `from`, whole vectors within `to`.
            return unsafe {
                simd!(self.isa, copy(from: &[f32], stride: usize, n: usize, used: usize, width: usize, to: &mut [f32]))
            };
        }
        let pairs = Interleave {
            from: Map::Full(from).at(0),
            next: stride,
            step: 2 * stride,
            pixels: n,
            channels: used,
            pieces: Even::new(used, width),
            width,
            of: 0,
            at: 0,
            to: to.as_mut_ptr().cast(),
            far: false,
        };
        // SAFETY: `n` rows of `used` numbers; `to` holds `width` words for each pair.
        unsafe { interleave(&pairs) }
    }

    /// Runs a tile.
    ///
    /// # Safety
    /// See [`crate::gemm`]: A, B, C and bias must be as long as `call` says, and C nobody else's.
    pub unsafe fn run(self, call: &Call) {
        // SAFETY: the caller's contract.
        unsafe { if self.pairs { self.run_pairs(call) } else { self.run_floats(call) } }
    }

    unsafe fn run_floats(self, call: &Call) {
        let tile = Tile {
            taps: &Tap { a: 0, b: 0 },
            ntaps: 1,
            k: call.k,
            a: call.a,
            a_row: 0,
            a_px: call.a_px,
            a_k: call.a_k,
            b: call.b,
            b_k: call.b_k,
            c: call.c,
            c_row: 0,
            c_px: call.c_px,
            last: call.panel.last(),
            start: if call.add { Start::Load } else { Start::Zero },
            bias: call.bias,
            residual: std::ptr::null(),
            clamp: call.clamp,
            ahead: call.ahead,
            ahead_k: call.ahead_k,
            stream: call.stream,
        };
        let family = &self.family;
        // SAFETY: the caller's contract.
        unsafe {
            match call.a_px {
                1 => family.unit_tile(call.pixels, call.panel)(&tile),
                _ => family.tile(1, call.pixels, call.panel)(&tile),
            }
        }
    }

    unsafe fn run_pairs(self, call: &Call) {
        let null = std::ptr::null();
        let tile = dots::Tile {
            taps: &dots::Tap { a: 0, b: 0 },
            ntaps: 1,
            k: call.k,
            a: call.a.cast(),
            a_row: 0,
            a_px: call.a_px,
            a_k: call.a_k,
            b: call.b.cast(),
            b_k: call.b_k,
            c: At::full(call.c),
            c_row: 0,
            c_px: call.c_px,
            last: call.panel.last(),
            less: null,
            scale: null,
            bias: call.bias,
            residual: if call.add { At::full(call.c) } else { At::NONE },
            finish: None,
            clamp: call.clamp,
            ahead: call.ahead,
            ahead_k: call.ahead_k,
            stream: call.stream,
        };
        let kind = Kind::Floats(Precision::Bf16);
        // SAFETY: the caller's contract.
        unsafe { dots::pick(kind, 1, call.pixels, call.panel, call.a_px == 1, false)(&tile) }
    }
}

/// `to [n][width]` = rows of `used` lanes, `stride` floats apart; missing lanes zero.
#[inline(always)]
unsafe fn copy<S: Simd>(
    from: &[f32],
    stride: usize,
    n: usize,
    used: usize,
    width: usize,
    to: &mut [f32],
) {
    for row in 0..n {
        for at in (0..width).step_by(S::LANES) {
            // SAFETY: the caller's contract.
            unsafe {
                let m = S::mask(used.saturating_sub(at).min(S::LANES));
                let from = from.as_ptr().wrapping_add(row * stride + at);
                S::store(to.as_mut_ptr().add(row * width + at), S::load_first(from, m));
            }
        }
    }
}

/// Asks for `n` cache lines, `step` floats from one to the next.
pub(super) fn ask(isa: Isa, at: *const f32, step: usize, n: usize) {
    // SAFETY: nothing is read.
    unsafe { simd!(isa, ask_body(at: *const f32, step: usize, n: usize)) }
}

#[inline(always)]
unsafe fn ask_body<S: Simd>(at: *const f32, step: usize, n: usize) {
    for i in 0..n {
        S::prefetch_far(at.wrapping_add(i * step));
    }
}
