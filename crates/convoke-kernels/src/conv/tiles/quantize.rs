//! Maps and filters as integers of 8 bits, and sums of their products back as floats.
//!
//! A map of the range `lo ..= hi` becomes `q = round(x / s) + z` in 0 ..= 255 with `s = (hi - lo) / 255` and `z` the
//! integer of zero (what leaves the range is put at its ends), a filter `round(w / sw)` in −127 ..= 127 with a
//! scale of its own, so that `Σ x·w ≈ s·sw · (Σ q·qw − z·Σ qw)` (Jacob et al. 2018, "Quantization and training of
//! neural networks for efficient integer-arithmetic-only inference"). Sums are exact, so every way to make them,
//! on whatever processor, gives the same numbers.

use super::pack::{Columns, Products};
use super::{ROW, SIDE, TILE};
use crate::{Isa, multiversion};

/// A way to sum products of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Int8 {
    /// Tiles of u8 · i8 (AMX).
    Tiles,
    /// Vectors of u8 · i8 (AVX-512 VNNI).
    Avx512Vnni,
    /// The same of half the length (AVX-VNNI).
    AvxVnni,
    /// Products of 16 bits, whose sums cannot overflow as those of 8 bits do (AVX-512BW).
    Avx512,
    /// The same of half the length (AVX2).
    Avx2,
    /// Plain Rust.
    Portable,
}

impl Int8 {
    /// The best that this machine has within an instruction set.
    pub fn best(isa: Isa) -> Self {
        let fits = |way: &Int8| match isa {
            Isa::Amx => true,
            Isa::Avx512 => *way != Int8::Tiles,
            Isa::Avx2 => matches!(way, Int8::AvxVnni | Int8::Avx2 | Int8::Portable),
            Isa::Neon | Isa::Portable => *way == Int8::Portable,
        };
        Self::available().into_iter().find(fits).unwrap_or(Int8::Portable)
    }

    /// All that this machine has, best first.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let isas = Isa::available();
            if isas.contains(&Isa::Amx) {
                all.push(Int8::Tiles);
            }
            if isas.contains(&Isa::Avx512) {
                if is_x86_feature_detected!("avx512vnni") {
                    all.push(Int8::Avx512Vnni);
                }
                all.push(Int8::Avx512);
            }
            if isas.contains(&Isa::Avx2) {
                if is_x86_feature_detected!("avxvnni") {
                    all.push(Int8::AvxVnni);
                }
                all.push(Int8::Avx2);
            }
        }
        all.push(Int8::Portable);
        all
    }

    /// Bytes of a number.
    pub(in super::super) fn size(self) -> usize {
        match self {
            Int8::Tiles | Int8::Avx512Vnni | Int8::AvxVnni => 1,
            Int8::Avx512 | Int8::Avx2 | Int8::Portable => 2,
        }
    }
}

/// The longest sum that cannot overflow.
pub(in super::super) const LONGEST: usize = i32::MAX as usize / (255 * 127);

/// The values of a map that integers stand for, zero among them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range8 {
    lo: f32,
    hi: f32,
}

impl Range8 {
    /// Values from `lo` to `hi`, made wider so that zero is among them. `None` where they are not finite or not
    /// in this order.
    pub fn new(lo: f32, hi: f32) -> Option<Self> {
        let ordered = lo.is_finite() && hi.is_finite() && lo <= hi && hi - lo < f32::MAX;
        ordered.then(|| Range8 { lo: lo.min(0.0), hi: hi.max(0.0) })
    }

    /// The step from one integer to the next.
    pub fn scale(self) -> f32 {
        ((self.hi - self.lo) / 255.0).max(f32::MIN_POSITIVE)
    }

    /// The integer of zero.
    pub fn zero(self) -> u8 {
        (-self.lo / self.scale()).round_ties_even() as u8
    }

    /// The integer of a value.
    pub fn quantize(self, x: f32) -> u8 {
        one(x, 1.0 / self.scale(), f32::from(self.zero()))
    }

    /// The value that an integer stands for.
    pub fn value(self, q: u8) -> f32 {
        (f32::from(q) - f32::from(self.zero())) * self.scale()
    }

    /// Whether bounds of a value are those that its integer has anyway.
    pub(crate) fn clamps(self, (lo, hi): (f32, f32)) -> bool {
        (self.quantize(lo), self.quantize(hi)) == (0, 255)
    }

    /// What integers are made with and read with.
    pub(crate) fn steps(self) -> Steps {
        let scale = self.scale();
        Steps { zero: f32::from(self.zero()), scale, inverse: 1.0 / scale }
    }
}

/// How integers stand for values: `(q − zero) · scale`, and back by `inverse`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub zero: f32,
    pub scale: f32,
    pub inverse: f32,
}

#[inline(always)]
fn one(x: f32, inverse: f32, zero: f32) -> u8 {
    let q = (x * inverse).round_ties_even() + zero;
    // A comparison with NaN is false.
    let q = if q > 0.0 { q } else { 0.0 };
    let q = if q < 255.0 { q } else { 255.0 };
    // SAFETY: from 0 to 255.
    unsafe { q.to_int_unchecked::<i32>() as u8 }
}

/// `to` = integers of `from`.
pub(in super::super) fn bytes(isa: Isa, range: Range8, from: &[f32], to: &mut [u8]) {
    let Steps { inverse, zero, .. } = range.steps();
    multiversion!(isa, bytes_body(inverse: f32, zero: f32, from: &[f32], to: &mut [u8]));
}

#[inline(always)]
fn bytes_body(inverse: f32, zero: f32, from: &[f32], to: &mut [u8]) {
    for (t, &x) in to.iter_mut().zip(from) {
        *t = one(x, inverse, zero);
    }
}

/// [`bytes`] as integers of 16 bits.
pub(in super::super) fn words(isa: Isa, range: Range8, from: &[f32], to: &mut [i16]) {
    let Steps { inverse, zero, .. } = range.steps();
    multiversion!(isa, words_body(inverse: f32, zero: f32, from: &[f32], to: &mut [i16]));
}

#[inline(always)]
fn words_body(inverse: f32, zero: f32, from: &[f32], to: &mut [i16]) {
    for (t, &x) in to.iter_mut().zip(from) {
        *t = i16::from(one(x, inverse, zero));
    }
}

/// The scale of each filter of `[sum][d]`: its largest number becomes 127.
pub(in super::super) fn filter_scales(filters: &[f32], d: usize, scales: &mut [f32]) {
    scales.fill(0.0);
    for row in filters.chunks_exact(d) {
        for (s, w) in scales.iter_mut().zip(row) {
            *s = s.max(w.abs());
        }
    }
    for s in scales {
        // A filter of zeros stays one.
        *s = (*s / 127.0).max(f32::MIN_POSITIVE);
    }
}

/// The integer of a filter's number.
pub(in super::super) fn weight(w: f32, scale: f32) -> i8 {
    (w / scale).round_ties_even() as i8
}

/// Writes a tile of 16 columns, numbers of `size` bytes, four bytes of a column beside each other, and adds
/// each column's integers up.
///
/// # Safety
/// `tile` has room for a tile.
pub(super) unsafe fn put(
    products: &Products,
    scales: &[f32],
    size: usize,
    tile: *mut u8,
    sums: &mut [i32; SIDE],
) {
    let together = 4 / size;
    for (k, row) in products[..ROW / size].iter().enumerate() {
        for (lane, &w) in row.iter().enumerate() {
            let q = weight(w, scales.get(lane).copied().unwrap_or(1.0));
            sums[lane] += i32::from(q);
            let at = k / together * ROW + lane * 4 + k % together * size;
            // SAFETY: one of the tile's bytes, or two.
            unsafe {
                match size {
                    1 => tile.add(at).write(q as u8),
                    _ => tile.add(at).cast::<i16>().write_unaligned(i16::from(q)),
                }
            }
        }
    }
    debug_assert!(ROW / size / together * ROW == TILE);
}

/// What lies behind the packed filters: each column's scale, and what zero adds to its sum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    pub columns: Columns,
}

impl Scales {
    /// Floats.
    pub fn len(self) -> usize {
        2 * self.columns.padded()
    }

    /// `(scale, zero's sum)` of the columns from `start` on. The second are integers in a float's place.
    pub fn at(self, scales: &[f32], start: usize) -> (&[f32], &[f32]) {
        let (scale, less) = scales.split_at(self.columns.padded());
        (&scale[start..], &less[start..])
    }
}

/// What [`finish`] is given: `to [pixel][..used] = clamp((sums − less) · scale + bias + more)` for `count` pixels,
/// `width` apart in `sums` and `step` in `to` and `more`.
pub(super) struct Finish<'a> {
    /// Integers in a float's place, as `less`.
    pub sums: &'a [f32],
    pub width: usize,
    pub to: *mut f32,
    pub step: usize,
    pub count: usize,
    pub used: usize,
    pub scale: &'a [f32],
    pub less: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub more: *const f32,
    pub clamp: Option<(f32, f32)>,
}

/// Sums into numbers of a map.
///
/// # Safety
/// `to` and, if it is not null, `more` are valid for `used` floats at every pixel, and nobody else writes there.
pub(super) unsafe fn finish(isa: Isa, f: &Finish) {
    multiversion!(isa, finish_body(f: &Finish));
}

#[inline(always)]
fn finish_body(f: &Finish) {
    for group in (0..f.used).step_by(SIDE) {
        let n = (f.used - group).min(SIDE);
        let sixteen = |of: &[f32]| -> Lanes {
            let mut lanes = [0.0; SIDE];
            lanes[..n].copy_from_slice(&of[group..group + n]);
            lanes
        };
        let of = [sixteen(f.scale), sixteen(f.less), f.bias.map_or([0.0; SIDE], sixteen)];
        // SAFETY: the caller's; `n` numbers of every pixel.
        unsafe {
            match n {
                SIDE => finish_group::<true>(f, group, n, &of),
                _ => finish_group::<false>(f, group, n, &of),
            }
        }
    }
}

type Lanes = [f32; SIDE];

/// Up to 16 filters of all pixels, `WHOLE` if they are 16.
#[inline(always)]
unsafe fn finish_group<const WHOLE: bool>(f: &Finish, group: usize, n: usize, of: &[Lanes; 3]) {
    let (lo, hi) = f.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    let [scale, less, bias] = of;
    for i in 0..f.count {
        let mut sums = [0.0; SIDE];
        sums.copy_from_slice(&f.sums[i * f.width + group..][..SIDE]);
        let mut more = [0.0; SIDE];
        let at = i * f.step + group;
        if !f.more.is_null() {
            // SAFETY: the caller's.
            unsafe {
                match WHOLE {
                    true => more = f.more.add(at).cast::<Lanes>().read_unaligned(),
                    false => f.more.add(at).copy_to_nonoverlapping(more.as_mut_ptr(), n),
                }
            }
        }
        let mut out = [0.0; SIDE];
        for lane in 0..SIDE {
            let sum = (sums[lane].to_bits() as i32).wrapping_sub(less[lane].to_bits() as i32);
            let v = sum as f32 * scale[lane] + bias[lane] + more[lane];
            let v = if v < lo { lo } else { v };
            out[lane] = if v > hi { hi } else { v };
        }
        // SAFETY: the caller's.
        unsafe {
            match WHOLE {
                true => f.to.add(at).cast::<Lanes>().write_unaligned(out),
                false => f.to.add(at).copy_from_nonoverlapping(out.as_ptr(), n),
            }
        }
    }
}
