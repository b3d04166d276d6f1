//! Numbers into bf16 pieces, in the orders in which tiles read them.
//!
//! A piece is what is left of a number, rounded to the nearest bf16. Functions are generic in the count of
//! pieces; all need AVX512-BF16, which [`crate::Isa::Amx`] has, and every number and place that their lengths say.

use super::pack::Products;
use super::{DEPTH, Precision, SIDE};

/// 16 numbers of a row, or fewer.
pub(in super::super) const LANES: usize = 16;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::LANES;
    use crate::gemm::{Avx512, Simd};
    use std::arch::x86_64::*;

    /// The first `n` of 32 numbers, `to - from` after `from`.
    #[inline(always)]
    fn first32(n: usize) -> u32 {
        if n >= 32 { u32::MAX } else { (1 << n) - 1 }
    }

    #[inline(always)]
    fn first16(n: usize) -> u16 {
        first32(n) as u16
    }

    /// The bf16 numbers nearest to `a` (low half) and `b`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    fn round(a: __m512, b: __m512) -> __m512i {
        // SAFETY: both types are 64 bytes of plain numbers.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a)) }
    }

    /// What rounding left of both.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    fn rest(a: __m512, b: __m512, rounded: __m512i) -> (__m512, __m512) {
        let float = |half: __m256i| {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        };
        let low = float(_mm512_castsi512_si256(rounded));
        let high = float(_mm512_extracti64x4_epi64::<1>(rounded));
        (_mm512_sub_ps(a, low), _mm512_sub_ps(b, high))
    }

    /// `to[piece · stride ..][..n]` = pieces of `from[..n]`.
    ///
    /// # Safety
    /// See the module.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn row<const P: usize>(from: *const f32, n: usize, to: *mut u16, stride: usize) {
        for i in (0..n).step_by(32) {
            let left = n - i;
            // SAFETY: masked to the `n` numbers of the caller.
            unsafe {
                let mut a = _mm512_maskz_loadu_ps(first16(left.min(16)), from.add(i));
                let mut b = _mm512_maskz_loadu_ps(
                    first16(left.saturating_sub(16).min(16)),
                    from.wrapping_add(i + 16),
                );
                for piece in 0..P {
                    let rounded = round(a, b);
                    let at = to.add(piece * stride + i).cast();
                    _mm512_mask_storeu_epi16(at, first32(left), rounded);
                    if piece + 1 < P {
                        (a, b) = rest(a, b, rounded);
                    }
                }
            }
        }
    }

    /// `to[piece · stride ..][lane · 2 + i]` = pieces of lane `lane` of two rows, 16 lanes; lanes from `n`
    /// on are zero, and so is a row that is null.
    ///
    /// # Safety
    /// See the module.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    pub unsafe fn pair<const P: usize>(
        rows: [*const f32; 2],
        n: usize,
        to: *mut u16,
        stride: usize,
    ) {
        // SAFETY: masked to the `n` lanes of the caller.
        unsafe {
            let order = order();
            let load = |row: *const f32| {
                let lanes = if row.is_null() { 0 } else { first16(n) };
                _mm512_maskz_loadu_ps(lanes, row)
            };
            let (mut a, mut b) = (load(rows[0]), load(rows[1]));
            for piece in 0..P {
                let rounded = round(a, b);
                let mixed = _mm512_permutexvar_epi16(order, rounded);
                _mm512_storeu_si512(to.add(piece * stride).cast(), mixed);
                if piece + 1 < P {
                    (a, b) = rest(a, b, rounded);
                }
            }
        }
    }

    /// Takes numbers of the low and the high half in turns.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn order() -> __m512i {
        let mut order = [0u16; 32];
        for (i, o) in order.iter_mut().enumerate() {
            *o = (i / 2 + i % 2 * 16) as u16;
        }
        // SAFETY: 64 bytes of plain numbers.
        unsafe { std::mem::transmute(order) }
    }

    /// `to[lane][i] = from[i · step + lane]` for 16 rows `i` of `n ≤ 16` lanes; rows of `to` are 32 long.
    ///
    /// # Safety
    /// See the module; rows from `rows` on are zero.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn transpose(from: *const f32, step: usize, n: usize, rows: usize, to: *mut f32) {
        // SAFETY: the caller's; `to` has 16 rows of 32.
        unsafe { Avx512::transpose(from, step, (rows, n), to, 32) }
    }

    /// `to[piece · stride + lane · length ..][i]` = pieces of `from[i · step + lane]`, for `count` pixels
    /// of `n ≤ 16` lanes.
    ///
    /// # Safety
    /// See the module.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn columns<const P: usize>(
        from: *const f32,
        step: usize,
        count: usize,
        n: usize,
        to: *mut u16,
        length: usize,
        stride: usize,
    ) {
        let mut turned = [0.0f32; LANES * 32];
        for i in (0..count).step_by(32) {
            let left = (count - i).min(32);
            // SAFETY: pixels and lanes of the caller; `turned` has 16 rows of 32.
            unsafe {
                let t = turned.as_mut_ptr();
                transpose(from.add(i * step), step, n, left.min(16), t);
                if left > 16 {
                    transpose(from.add((i + 16) * step), step, n, left - 16, t.add(16));
                }
                for lane in 0..n {
                    row::<P>(t.add(lane * 32), left, to.add(lane * length + i), stride);
                }
            }
        }
    }

    /// Bias, what is added, bounds: `to [pixel][..used] = clamp(sums [pixel][..used] + bias + more)` for
    /// `count` pixels, `width` apart in `sums` and `step` in `to` and `more`.
    ///
    /// # Safety
    /// See the module.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn finish(f: &super::Finish) {
        let (lo, hi) = f.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi) = (_mm512_set1_ps(lo), _mm512_set1_ps(hi));
        for group in (0..f.used).step_by(LANES) {
            let m = first16((f.used - group).min(LANES));
            // SAFETY: masked to the lanes of the caller.
            unsafe {
                let bias = match f.bias.is_null() {
                    true => _mm512_setzero_ps(),
                    false => _mm512_maskz_loadu_ps(m, f.bias.add(group)),
                };
                for i in 0..f.count {
                    let mut sum = _mm512_loadu_ps(f.sums.add(i * f.width + group));
                    sum = _mm512_add_ps(sum, bias);
                    if !f.more.is_null() {
                        let more = f.more.add(i * f.step + group);
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(m, more));
                    }
                    if f.clamp.is_some() {
                        // A NaN in the second operand is returned.
                        sum = _mm512_min_ps(hi, _mm512_max_ps(lo, sum));
                    }
                    let to = f.to.add(i * f.step + group);
                    if f.stream {
                        _mm512_stream_ps(to, sum);
                    } else {
                        _mm512_mask_storeu_ps(to, m, sum);
                    }
                }
            }
        }
    }

    /// Orders what was written past the caches before what follows.
    pub fn fence() {
        // SAFETY: part of every x86-64.
        unsafe { _mm_sfence() };
    }

    /// Asks for the lines of `count` pixels, which will be written.
    #[inline]
    pub fn expect(at: *mut f32, count: usize, step: usize, columns: usize) {
        for i in 0..count {
            for column in (0..columns).step_by(LANES) {
                let p = at.wrapping_add(i * step + column);
                // SAFETY: a prefetch reads nothing.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) };
            }
        }
    }

    /// Pairs of `pitch` pixels, of which `count` exist and the others are zero, for one block of `used`
    /// columns: pixel `i` is row `i % 2` of pair `(at + i) / 2`, and 16 pairs are a tile, `tile` numbers from
    /// one piece to the next.
    ///
    /// # Safety
    /// See the module; `at` and `pitch` are even.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn pairs<const P: usize>(p: &super::Pairs) {
        let groups = p.groups;
        for group in 0..groups {
            let n = p.used.saturating_sub(group * LANES).min(LANES);
            let mut i = 0;
            while i < p.pitch {
                let (step, pair) = ((p.at + i) / 32, (p.at + i) % 32 / 2);
                let row = |i: usize| match i < p.count && n > 0 {
                    true => p.pixels.wrapping_add(i * p.step + group * LANES),
                    false => std::ptr::null(),
                };
                // SAFETY: the caller's pixels and tiles.
                unsafe {
                    let tile = p.to.add(step * P * groups * 512 + group * 512 + pair * 32);
                    self::pair::<P>([row(i), row(i + 1)], n, tile, groups * 512);
                }
                i += 2;
            }
        }
    }
}

/// Writes a tile of 16 columns of the packed operand, see [`super::pack::pack`].
pub(super) fn tile(p: Precision) -> impl Fn(usize, &Products, *mut u8, usize) {
    move |_, products, tile, stride| {
        for i in 0..SIDE {
            let rows = [products[2 * i].as_ptr(), products[2 * i + 1].as_ptr()];
            let (tile, stride) = (tile.cast::<u16>(), stride / 2);
            // SAFETY: rows of 16 numbers, and a tile for each piece.
            unsafe {
                let to = tile.add(i * DEPTH);
                match p {
                    Precision::Bf16 => pair::<1>(rows, SIDE, to, stride),
                    Precision::F32 => pair::<3>(rows, SIDE, to, stride),
                }
            }
        }
    }
}

/// What [`finish`] is given.
pub(super) struct Finish {
    pub sums: *const f32,
    pub width: usize,
    pub to: *mut f32,
    pub step: usize,
    pub count: usize,
    pub used: usize,
    pub bias: *const f32,
    pub more: *const f32,
    pub clamp: Option<(f32, f32)>,
    /// Whole lines, written past the caches.
    pub stream: bool,
}

/// What [`pairs`] is given.
pub(super) struct Pairs {
    pub pixels: *const f32,
    pub step: usize,
    pub count: usize,
    pub pitch: usize,
    pub at: usize,
    pub used: usize,
    pub groups: usize,
    pub to: *mut u16,
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) use x86::{columns, expect, fence, finish, pair, pairs, row, transpose};

#[cfg(not(target_arch = "x86_64"))]
mod none {
    //! Tiles are planned only where they are present.

    pub unsafe fn row<const P: usize>(_: *const f32, _: usize, _: *mut u16, _: usize) {}
    pub unsafe fn pair<const P: usize>(_: [*const f32; 2], _: usize, _: *mut u16, _: usize) {}
    pub unsafe fn columns<const P: usize>(
        _: *const f32,
        _: usize,
        _: usize,
        _: usize,
        _: *mut u16,
        _: usize,
        _: usize,
    ) {
    }
    pub unsafe fn transpose(_: *const f32, _: usize, _: usize, _: usize, _: *mut f32) {}
    pub unsafe fn finish(_: &super::Finish) {}
    pub fn fence() {}
    pub fn expect(_: *mut f32, _: usize, _: usize, _: usize) {}
    pub unsafe fn pairs<const P: usize>(_: &super::Pairs) {}
}

#[cfg(not(target_arch = "x86_64"))]
pub(in super::super) use none::{columns, expect, fence, finish, pair, pairs, row, transpose};
