//! Numbers of maps into words.

use super::super::tiles::{Kind, Range8, integers, integers16, rows};
use crate::gemm::Even;
use crate::map::At;
use crate::{Bf16, Isa};

/// `to` = `from`, as narrow numbers.
///
/// # Safety
/// `to` has room for as many numbers, and the machine has what `kind` multiplies with.
pub(super) unsafe fn put(kind: Kind, isa: Isa, from: &[f32], to: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        match kind {
            Kind::Floats(_) => rows::<1>(from.as_ptr(), from.len(), to.cast(), 0),
            Kind::Int8(way, range) if way.size() == 1 => {
                integers(isa, range, from, std::slice::from_raw_parts_mut(to, from.len()));
            }
            Kind::Int8(_, range) => {
                let to = std::slice::from_raw_parts_mut(to.cast(), from.len());
                integers16(isa, range, from, to);
            }
        }
    }
}

/// `n` zeros of the map.
///
/// # Safety
/// As [`put`].
pub(super) unsafe fn zeros(kind: Kind, n: usize, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        match kind {
            Kind::Floats(_) => to.write_bytes(0, 2 * n),
            Kind::Int8(way, range) if way.size() == 1 => to.write_bytes(range.zero(), n),
            Kind::Int8(_, range) => {
                let to = std::slice::from_raw_parts_mut(to.cast::<i16>(), n);
                to.fill(i16::from(range.zero()));
            }
        }
    }
}

/// Whole pixels of a map into a band, each followed by zeros up to `pixel` numbers.
///
/// # Safety
/// As [`put`], for `pixel` numbers of every pixel.
pub(super) unsafe fn pixels(
    kind: Kind,
    isa: Isa,
    from: &[f32],
    channels: usize,
    pixel: usize,
    to: *mut u8,
) {
    // SAFETY: the caller's.
    unsafe {
        if pixel == channels {
            return put(kind, isa, from, to);
        }
        if let (Kind::Int8(way, range), 3, 4) = (kind, channels, pixel)
            && way.size() == 1
        {
            return threes(isa, range, from, to);
        }
        #[cfg(target_arch = "x86_64")]
        if matches!(kind, Kind::Floats(_)) && pixel <= 16 {
            return x86::small(from.as_ptr(), from.len() / channels, channels, pixel, to.cast());
        }
        for (i, from) in from.chunks_exact(channels).enumerate() {
            let to = to.add(i * pixel * kind.size());
            put(kind, isa, from, to);
            zeros(kind, pixel - channels, to.add(channels * kind.size()));
        }
    }
}

/// As [`pixels`], of a map that is bf16 already.
///
/// # Safety
/// As [`put`], for `pixel` numbers of every pixel.
pub(super) unsafe fn halves(from: &[Bf16], channels: usize, pixel: usize, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        if pixel == channels {
            return from.as_ptr().copy_to_nonoverlapping(to.cast(), from.len());
        }
        for (i, from) in from.chunks_exact(channels).enumerate() {
            let to = to.cast::<Bf16>().add(i * pixel);
            from.as_ptr().copy_to_nonoverlapping(to, channels);
            to.add(channels).write_bytes(0, pixel - channels);
        }
    }
}

/// As [`pixels`], of a map that is integers already.
///
/// # Safety
/// As [`put`], for `pixel` numbers of every pixel.
pub(super) unsafe fn bytes(kind: Kind, from: &[u8], channels: usize, pixel: usize, to: *mut u8) {
    let size = kind.size();
    // SAFETY: the caller's.
    unsafe {
        let put = |from: &[u8], to: *mut u8| match size {
            1 => from.as_ptr().copy_to_nonoverlapping(to, from.len()),
            _ => {
                let to = std::slice::from_raw_parts_mut(to.cast::<i16>(), from.len());
                to.iter_mut().zip(from).for_each(|(t, &q)| *t = i16::from(q));
            }
        };
        if pixel == channels {
            return put(from, to);
        }
        for (i, from) in from.chunks_exact(channels).enumerate() {
            let to = to.add(i * pixel * size);
            put(from, to);
            zeros(kind, pixel - channels, to.add(channels * size));
        }
    }
}

/// Pixels of three numbers as words of four bytes. A call for each of them would take longer than all else.
///
/// # Safety
/// As [`pixels`].
unsafe fn threes(isa: Isa, range: Range8, from: &[f32], to: *mut u8) {
    const PIXELS: usize = 64;
    let (to, last) = (to.cast::<u32>(), u32::from(range.zero()) << 24);
    for (i, from) in from.chunks(3 * PIXELS).enumerate() {
        let mut bytes = [0; 3 * PIXELS];
        integers(isa, range, from, &mut bytes[..from.len()]);
        for (k, q) in bytes[..from.len()].chunks_exact(3).enumerate() {
            let word = u32::from_le_bytes([q[0], q[1], q[2], 0]) | last;
            // SAFETY: the caller's; a word for each pixel, in the order of its bytes.
            unsafe { to.add(i * PIXELS + k).write_unaligned(word.to_le()) };
        }
    }
}

/// What [`interleave`] is given: where pixels lie, `next` numbers from the first of a pair to the second and
/// `step` from one pair to the next, and where words go: of piece `m` and pair `i`, `width` words at
/// `to + (m · of + at + i) · width`.
pub(in super::super) struct Interleave {
    pub from: At,
    pub next: usize,
    pub step: usize,
    /// Pixels; the missing one of an odd number is zero.
    pub pixels: usize,
    /// Channels that exist; words behind the last are zero.
    pub channels: usize,
    /// Channels of each piece. Words behind them are those of the next piece.
    pub pieces: Even,
    /// A whole number of vectors.
    pub width: usize,
    pub of: usize,
    pub at: usize,
    pub to: *mut u32,
    /// Whether pixels come from main memory, which answers late.
    pub far: bool,
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) use x86::interleave;

/// There is no bf16 without vectors of it.
#[cfg(not(target_arch = "x86_64"))]
pub(in super::super) unsafe fn interleave(_: &Interleave) {}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Interleave;
    use crate::Bf16;
    use crate::gemm::{Avx512, Simd};
    use std::arch::x86_64::*;

    /// Numbers from what is read to what is asked for, for the second cache: main memory answers late, and the first
    /// cache holds no more of it than waits already.
    const AHEAD: usize = 8192;

    /// The first `n` of 32 numbers.
    fn first(n: usize) -> u32 {
        if n >= 32 { u32::MAX } else { (1 << n) - 1 }
    }

    /// `n` pixels of at most 16 channels, `pixel ≤ 16` numbers from one to the next.
    ///
    /// # Safety
    /// See [`super::pixels`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn small(from: *const f32, n: usize, channels: usize, pixel: usize, to: *mut u16) {
        let (read, write) = (first(channels) as u16, first(pixel) as u16);
        for i in 0..n {
            // SAFETY: masked to the numbers of the caller's pixels.
            unsafe {
                let x = _mm512_maskz_loadu_ps(read, from.add(i * channels));
                let x = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
                _mm256_mask_storeu_epi16(to.add(i * pixel).cast(), write, x);
            }
        }
    }

    /// Pairs of pixels as words of bf16, a word for each channel.
    ///
    /// # Safety
    /// Pixels and words that [`Interleave`] names must be valid, and the machine have AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn interleave(p: &Interleave) {
        // SAFETY: the caller's.
        unsafe {
            match p.from.is_half() {
                false => pairs_of(p, p.from.start.cast_const()),
                true => pairs_of(p, p.from.start.cast::<Bf16>().cast_const()),
            }
        }
    }

    /// What pairs are made of.
    trait Numbers: Sized {
        /// A vector of each of two pixels, one behind the other, as bf16; numbers that the masks leave out are zero.
        unsafe fn both(a: *const Self, b: *const Self, of: [u16; 2]) -> __m512i;
    }

    impl Numbers for f32 {
        #[inline(always)]
        unsafe fn both(a: *const f32, b: *const f32, of: [u16; 2]) -> __m512i {
            // SAFETY: the caller has AVX512-BF16 and the numbers of the masks.
            unsafe {
                let a = _mm512_maskz_loadu_ps(of[0], a);
                let b = _mm512_maskz_loadu_ps(of[1], b);
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a))
            }
        }
    }

    impl Numbers for Bf16 {
        #[inline(always)]
        unsafe fn both(a: *const Bf16, b: *const Bf16, of: [u16; 2]) -> __m512i {
            // SAFETY: the caller has AVX-512 and the numbers of the masks.
            unsafe {
                let a = _mm256_maskz_loadu_epi16(of[0], a.cast());
                let b = _mm256_maskz_loadu_epi16(of[1], b.cast());
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
            }
        }
    }

    /// [`interleave`] over numbers of one kind.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pairs_of<N: Numbers>(p: &Interleave, from: *const N) {
        let mut order = [0u16; 32];
        for (i, o) in order.iter_mut().enumerate() {
            *o = (i / 2 + i % 2 * 16) as u16;
        }
        // SAFETY: 64 bytes of plain numbers.
        let order = unsafe { std::mem::transmute::<[u16; 32], __m512i>(order) };
        let pair = |at: *const N, both: bool, left: usize, to: *mut u32| {
            // SAFETY: masked to the channels and words of the caller.
            unsafe {
                let read = first(left.min(16)) as u16;
                let second = if both { read } else { 0 };
                let pair = N::both(at, at.wrapping_add(p.next), [read, second]);
                _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(order, pair));
            }
        };
        let most = p.pieces.range(0).len();
        let long = (0..p.pieces.parts).take_while(|&i| p.pieces.range(i).len() == most).count();
        for i in 0..p.pixels.div_ceil(2) {
            let both = 2 * i + 1 < p.pixels;
            let at = from.wrapping_add(i * p.step);
            if p.far {
                for channel in (0..p.channels).step_by(64 / size_of::<N>()) {
                    let ahead = at.wrapping_add(AHEAD + channel);
                    Avx512::prefetch_far(ahead.cast());
                    Avx512::prefetch_far(ahead.wrapping_add(p.next).cast());
                }
            }
            let (mut start, mut to) = (0, p.to.wrapping_add((p.at + i) * p.width));
            for piece in 0..p.pieces.parts {
                for lane in (0..p.width).step_by(16) {
                    let channel = start + lane;
                    let (at, to) = (at.wrapping_add(channel), to.wrapping_add(lane));
                    match both && channel + 16 <= p.channels {
                        true => pair(at, true, 16, to),
                        false => pair(at, both, p.channels.saturating_sub(channel), to),
                    }
                }
                start += if piece < long { most } else { most - 1 };
                to = to.wrapping_add(p.of * p.width);
            }
        }
    }
}
