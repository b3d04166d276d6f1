//! Maps as they lie in memory: numbers of 32 bits, of 16 ([`Bf16`]), as which training in bf16 keeps what lies
//! between its convolutions and norms, or of 8, as which prediction in integers keeps what lies between its layers.

use crate::SharedMut;
use crate::conv::Range8;
use crate::gemm::Simd;
use std::ops::Range;

/// A number of 16 bits: the upper half of an f32, with all of its powers of two and 8 bits of mantissa.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Bf16 {
    /// The nearest number, the even one of two; NaN stays NaN.
    #[inline(always)]
    pub fn new(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        let bits = if x.is_nan() { bits | QUIET } else { rounded };
        Bf16((bits >> 16) as u16)
    }

    /// The number.
    #[inline(always)]
    pub fn get(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// The bit of a NaN that its upper half keeps.
pub(crate) const QUIET: u32 = 0x0040_0000;

/// What the numbers of a map are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Form {
    /// f32.
    #[default]
    Full,
    /// bf16.
    Half,
    /// Integers of 8 bits that stand for the values of a range.
    Bytes(Range8),
}

impl Form {
    /// Floats of a buffer that holds so many numbers.
    pub fn floats(self, numbers: usize) -> usize {
        match self {
            Form::Full => numbers,
            Form::Half => numbers.div_ceil(2),
            Form::Bytes(_) => numbers.div_ceil(4),
        }
    }
}

/// A map to read.
#[derive(Debug, Clone, Copy)]
pub enum Map<'a> {
    /// Of f32.
    Full(&'a [f32]),
    /// Of bf16.
    Half(&'a [Bf16]),
    /// Of integers of 8 bits, and the range that they stand for.
    Bytes(&'a [u8], Range8),
}

/// A map to write.
#[derive(Debug)]
pub enum MapMut<'a> {
    /// Of f32.
    Full(&'a mut [f32]),
    /// Of bf16.
    Half(&'a mut [Bf16]),
    /// Of integers of 8 bits, and the range that they stand for.
    Bytes(&'a mut [u8], Range8),
}

/// Integers only predict: what trains has no maps of them.
pub(crate) fn no_bytes() -> ! {
    panic!("this kernel takes no maps of bytes")
}

impl<'a> Map<'a> {
    /// A buffer as a map: as it is, or with two or four numbers in the place of each float.
    pub fn of(buffer: &'a [f32], form: Form) -> Self {
        // SAFETY: two numbers of 16 bits or four of 8 lie in each float, which is aligned for them.
        unsafe {
            match form {
                Form::Full => Map::Full(buffer),
                Form::Half => {
                    Map::Half(std::slice::from_raw_parts(buffer.as_ptr().cast(), 2 * buffer.len()))
                }
                Form::Bytes(range) => Map::Bytes(
                    std::slice::from_raw_parts(buffer.as_ptr().cast(), 4 * buffer.len()),
                    range,
                ),
            }
        }
    }

    /// Numbers.
    #[expect(clippy::len_without_is_empty, reason = "it is asked whether all numbers are there")]
    pub fn len(self) -> usize {
        match self {
            Map::Full(x) => x.len(),
            Map::Half(x) => x.len(),
            Map::Bytes(x, _) => x.len(),
        }
    }

    /// A range of its numbers.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Map::Full(x) => Map::Full(&x[range]),
            Map::Half(x) => Map::Half(&x[range]),
            Map::Bytes(x, of) => Map::Bytes(&x[range], of),
        }
    }

    /// The numbers of a map that kernels of f32 alone are given.
    pub(crate) fn full(self) -> &'a [f32] {
        match self {
            Map::Full(x) => x,
            Map::Half(_) | Map::Bytes(..) => panic!("this kernel reads f32"),
        }
    }

    /// Where its numbers lie; the address may be past them.
    pub(crate) fn at(self, index: usize) -> At {
        match self {
            Map::Full(x) => At { start: x.as_ptr().cast_mut(), size: 4 },
            Map::Half(x) => At { start: x.as_ptr().cast_mut().cast(), size: 2 },
            Map::Bytes(x, _) => At { start: x.as_ptr().cast_mut().cast(), size: 1 },
        }
        .plus(index)
    }
}

impl<'a> MapMut<'a> {
    /// As [`Map::of`].
    pub fn of(buffer: &'a mut [f32], form: Form) -> Self {
        let (start, len) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: as in `Map::of`; whatever such numbers are, they make floats.
        unsafe {
            match form {
                Form::Full => MapMut::Full(buffer),
                Form::Half => MapMut::Half(std::slice::from_raw_parts_mut(start.cast(), 2 * len)),
                Form::Bytes(range) => {
                    MapMut::Bytes(std::slice::from_raw_parts_mut(start.cast(), 4 * len), range)
                }
            }
        }
    }

    /// Its first numbers.
    pub fn first(self, len: usize) -> Self {
        self.part(0..len)
    }

    /// As [`Map::part`].
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            MapMut::Full(x) => MapMut::Full(&mut x[range]),
            MapMut::Half(x) => MapMut::Half(&mut x[range]),
            MapMut::Bytes(x, of) => MapMut::Bytes(&mut x[range], of),
        }
    }

    /// The same for a while.
    pub(crate) fn reborrow(&mut self) -> MapMut<'_> {
        match self {
            MapMut::Full(x) => MapMut::Full(x),
            MapMut::Half(x) => MapMut::Half(x),
            MapMut::Bytes(x, range) => MapMut::Bytes(x, *range),
        }
    }

    /// Moves a range of its numbers to its front.
    pub(crate) fn move_to_front(&mut self, range: Range<usize>) {
        match self {
            MapMut::Full(x) => x.copy_within(range, 0),
            MapMut::Half(x) => x.copy_within(range, 0),
            MapMut::Bytes(x, _) => x.copy_within(range, 0),
        }
    }

    /// For several threads that write at once, each its own part.
    pub(crate) fn shared(&mut self) -> Shared<'_> {
        match self {
            MapMut::Full(x) => Shared::Full(SharedMut::new(x)),
            MapMut::Half(x) => Shared::Half(SharedMut::new(x)),
            MapMut::Bytes(x, range) => Shared::Bytes(SharedMut::new(x), *range),
        }
    }

    /// The same to read.
    pub fn read(&self) -> Map<'_> {
        match self {
            MapMut::Full(x) => Map::Full(x),
            MapMut::Half(x) => Map::Half(x),
            MapMut::Bytes(x, range) => Map::Bytes(x, *range),
        }
    }

    /// As [`Map::full`].
    pub(crate) fn full(self) -> &'a mut [f32] {
        match self {
            MapMut::Full(x) => x,
            MapMut::Half(_) | MapMut::Bytes(..) => panic!("this kernel writes f32"),
        }
    }

    /// As [`Map::at`].
    pub(crate) fn at(&mut self, index: usize) -> At {
        match self {
            MapMut::Full(x) => At { start: x.as_mut_ptr(), size: 4 },
            MapMut::Half(x) => At { start: x.as_mut_ptr().cast(), size: 2 },
            MapMut::Bytes(x, _) => At { start: x.as_mut_ptr().cast(), size: 1 },
        }
        .plus(index)
    }
}

/// A [`MapMut`] as several threads write it, see [`SharedMut`].
pub(crate) enum Shared<'a> {
    Full(SharedMut<'a, f32>),
    Half(SharedMut<'a, Bf16>),
    Bytes(SharedMut<'a, u8>, Range8),
}

impl Shared<'_> {
    /// A range of its numbers.
    ///
    /// # Safety
    /// As [`SharedMut::slice`].
    pub unsafe fn part(&self, range: Range<usize>) -> MapMut<'_> {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Shared::Full(x) => MapMut::Full(x.slice(range)),
                Shared::Half(x) => MapMut::Half(x.slice(range)),
                Shared::Bytes(x, of) => MapMut::Bytes(x.slice(range), *of),
            }
        }
    }
}

macro_rules! from {
    ($($from:ty => $to:ident::$kind:ident),* $(,)?) => {
        $(impl<'a> From<$from> for $to<'a> {
            fn from(x: $from) -> Self {
                $to::$kind(x)
            }
        })*
    };
}
from!(
    &'a [f32] => Map::Full,
    &'a mut [f32] => MapMut::Full,
    &'a Vec<f32> => Map::Full,
    &'a mut Vec<f32> => MapMut::Full,
    &'a [Bf16] => Map::Half,
    &'a mut [Bf16] => MapMut::Half,
);

/// A place in a map, for kernels that address by offset. Whoever holds one keeps the rules of its slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    /// In the place of a number's address, whatever its size.
    pub start: *mut f32,
    /// Bytes of a number.
    pub size: usize,
}

// SAFETY: an address; those who read and write there promise disjoint parts.
unsafe impl Sync for At {}
// SAFETY: as above.
unsafe impl Send for At {}

impl At {
    /// No place.
    pub const NONE: At = At::full(std::ptr::null_mut());

    /// A place among floats.
    pub const fn full(start: *mut f32) -> Self {
        At { start, size: 4 }
    }

    /// Whether numbers are bf16.
    pub fn is_half(self) -> bool {
        self.size == 2
    }

    /// The place some numbers further on.
    #[inline(always)]
    pub fn plus(self, numbers: usize) -> Self {
        At { start: self.address(numbers), ..self }
    }

    /// The address of that place. Numbers may wrap around: a way back.
    #[inline(always)]
    pub fn address(self, numbers: usize) -> *mut f32 {
        self.start.wrapping_byte_add(numbers.wrapping_mul(self.size))
    }

    /// As many bytes as these numbers take, in floats.
    pub fn floats(self, numbers: usize) -> usize {
        (numbers * self.size).div_ceil(4)
    }

    /// Whether a map of `len` numbers from here on is written past the caches, see [`crate::gemm::streams`].
    pub fn streams(self, len: usize, pitch: usize) -> bool {
        match self.size {
            4 => crate::gemm::streams(self.start, len, pitch),
            2 => crate::gemm::streams(self.start.cast::<Bf16>(), len, pitch),
            _ => false,
        }
    }
}

/// What maps are made of.
pub(crate) trait Number: Copy + Default + Send + Sync {
    /// Whether they stand for values of a range.
    const INTEGERS: bool = false;
    /// The numbers of a map of them.
    fn of(map: Map<'_>) -> &[Self];
    /// The same to write.
    fn of_mut(map: MapMut<'_>) -> &mut [Self];
    fn get(self) -> f32;
    fn round(x: f32) -> Self;

    /// The first lanes of a vector.
    ///
    /// # Safety
    /// The instruction set is present, and the mask's numbers lie there.
    unsafe fn load<S: Simd>(p: *const Self, m: S::M) -> S::V;
    /// Writes all lanes, without a mask where there need be none.
    ///
    /// # Safety
    /// As [`Number::load`], of a whole vector.
    unsafe fn store_all<S: Simd>(p: *mut Self, v: S::V);
    /// Writes the first lanes.
    ///
    /// # Safety
    /// As [`Number::load`].
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V, m: S::M);
    /// A whole vector past the caches.
    ///
    /// # Safety
    /// As [`Simd::stream`].
    unsafe fn stream<S: Simd>(p: *mut Self, v: S::V);
}

impl Number for f32 {
    fn of(map: Map<'_>) -> &[f32] {
        map.full()
    }
    fn of_mut(map: MapMut<'_>) -> &mut [f32] {
        map.full()
    }
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
    #[inline(always)]
    fn round(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32, m: S::M) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_first(p, m) }
    }
    #[inline(always)]
    unsafe fn store_all<S: Simd>(p: *mut f32, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut f32, v: S::V, m: S::M) {
        // SAFETY: the caller's.
        unsafe { S::store_first(p, v, m) }
    }
    #[inline(always)]
    unsafe fn stream<S: Simd>(p: *mut f32, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::stream(p, v) }
    }
}

impl Number for Bf16 {
    fn of(map: Map<'_>) -> &[Bf16] {
        match map {
            Map::Half(x) => x,
            Map::Full(_) | Map::Bytes(..) => panic!("maps of one call are of one kind"),
        }
    }
    fn of_mut(map: MapMut<'_>) -> &mut [Bf16] {
        match map {
            MapMut::Half(x) => x,
            MapMut::Full(_) | MapMut::Bytes(..) => panic!("maps of one call are of one kind"),
        }
    }
    #[inline(always)]
    fn get(self) -> f32 {
        Bf16::get(self)
    }
    #[inline(always)]
    fn round(x: f32) -> Bf16 {
        Bf16::new(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Bf16, m: S::M) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_half(p, m) }
    }
    #[inline(always)]
    unsafe fn store_all<S: Simd>(p: *mut Bf16, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store_half(p, v, S::mask(S::LANES)) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Bf16, v: S::V, m: S::M) {
        // SAFETY: the caller's.
        unsafe { S::store_half(p, v, m) }
    }
    #[inline(always)]
    unsafe fn stream<S: Simd>(p: *mut Bf16, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::stream_half(p, v) }
    }
}

/// An integer from 0 to 255 as such; whoever reads and writes it knows what it stands for.
impl Number for u8 {
    const INTEGERS: bool = true;
    fn of(map: Map<'_>) -> &[u8] {
        match map {
            Map::Bytes(x, _) => x,
            Map::Full(_) | Map::Half(_) => panic!("maps of one call are of one kind"),
        }
    }
    fn of_mut(map: MapMut<'_>) -> &mut [u8] {
        match map {
            MapMut::Bytes(x, _) => x,
            MapMut::Full(_) | MapMut::Half(_) => panic!("maps of one call are of one kind"),
        }
    }
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from(self)
    }
    #[inline(always)]
    fn round(x: f32) -> u8 {
        // What leaves the range is put at its ends, and NaN at the lower.
        x.round_ties_even() as u8
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8, m: S::M) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_bytes(p, m) }
    }
    #[inline(always)]
    unsafe fn store_all<S: Simd>(p: *mut u8, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store_bytes_all(p, v, 0) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut u8, v: S::V, m: S::M) {
        // SAFETY: the caller's.
        unsafe { S::store_bytes(p, v, 0, m) }
    }
    #[inline(always)]
    unsafe fn stream<S: Simd>(p: *mut u8, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store_bytes_all(p, v, 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_the_nearest_even_and_keeps_what_is_no_number() {
        let rounded = |x: f32| Bf16::new(x).get();
        // Eight bits of mantissa: steps of 2⁻⁷ between 1 and 2.
        let step = 1.0 / 128.0;
        for (x, want) in [
            (1.0, 1.0),
            (1.0 + 0.4 * step, 1.0),
            (1.0 + 0.5 * step, 1.0),
            (1.0 + 1.5 * step, 1.0 + 2.0 * step),
            (-1.0 - 0.6 * step, -1.0 - step),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (-0.0, -0.0),
        ] {
            assert_eq!(rounded(x).to_bits(), want.to_bits(), "{x}");
        }
        for bits in [0x7fff_ffff, 0x7f80_0001, 0xffc0_0000] {
            assert!(rounded(f32::from_bits(bits)).is_nan());
        }
    }
}
