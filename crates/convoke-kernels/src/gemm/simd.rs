//! What differs per instruction set: the vector, its load, store and fused multiply-add.

use super::turn;
use crate::Bf16;
use crate::map::Number;

/// Vectors of `LANES` floats. All functions need the instruction set to be present and, where they
/// take a pointer, `LANES` (or, masked, the first `lanes`) floats behind it.
pub(crate) trait Simd: Copy {
    const LANES: usize;
    type V: Copy;
    /// Selects the first lanes.
    type M: Copy;

    /// Asks for the cache line at `p`, which need not be valid, for reading soon.
    #[inline(always)]
    fn prefetch(p: *const f32) {
        let _ = p;
    }
    /// The same for the second cache, for what is read later.
    #[inline(always)]
    fn prefetch_far(p: *const f32) {
        let _ = p;
    }
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// A store past the caches, at a multiple of a vector; [`super::fence`] before others may read it.
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: Self::V) {
        // SAFETY: the caller's contract.
        unsafe { Self::store(p, v) }
    }
    unsafe fn mask(lanes: usize) -> Self::M;
    unsafe fn load_first(p: *const f32, m: Self::M) -> Self::V;
    unsafe fn store_first(p: *mut f32, v: Self::V, m: Self::M);
    /// The first lanes from numbers of 16 bits.
    unsafe fn load_half(p: *const Bf16, m: Self::M) -> Self::V;
    /// The first lanes as numbers of 16 bits, as [`Bf16::new`] rounds them.
    unsafe fn store_half(p: *mut Bf16, v: Self::V, m: Self::M);
    /// All of them past the caches, at a multiple of half a vector.
    #[inline(always)]
    unsafe fn stream_half(p: *mut Bf16, v: Self::V) {
        // SAFETY: the caller's contract.
        unsafe { Self::store_half(p, v, Self::mask(Self::LANES)) }
    }
    /// The first lanes from integers of 8 bits.
    unsafe fn load_bytes(p: *const u8, m: Self::M) -> Self::V;
    /// The first lanes as integers of 8 bits: the nearest, the even one of two, plus that of zero; at the ends of
    /// 0 ..= 255 what lies beyond, and NaN at 0.
    unsafe fn store_bytes(p: *mut u8, v: Self::V, zero: u8, m: Self::M);
    /// All of them.
    unsafe fn store_bytes_all(p: *mut u8, v: Self::V, zero: u8);
    /// The nearest whole number, the even one of two.
    unsafe fn round_even(v: Self::V) -> Self::V;
    /// `a · b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    #[allow(dead_code)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `v` where `lo < a < hi`, else 0.
    unsafe fn keep_between(v: Self::V, a: Self::V, lo: Self::V, hi: Self::V) -> Self::V;
    /// `min(max(v, lo), hi)` that lets NaN through.
    unsafe fn clamp(v: Self::V, lo: Self::V, hi: Self::V) -> Self::V;
    /// `to[lane · pitch + i] = from[i · step + lane]` for a square of `LANES`, zero beyond `(rows, lanes)`.
    #[inline(always)]
    unsafe fn transpose(
        from: *const f32,
        step: usize,
        size: (usize, usize),
        to: *mut f32,
        pitch: usize,
    ) {
        // SAFETY: the caller's.
        unsafe { turn::plain(Self::LANES, from, step, size, to, pitch) }
    }
}

/// Bytes of a map from which it is written past the caches ([`Simd::stream`]): more than a last cache
/// keeps until it is read. A cached store would first read what it overwrites.
const STREAM: usize = 20 << 20;

/// Whether a map of `len` numbers is written past the caches: it is long, and numbers `pitch` apart begin a cache
/// line.
pub(crate) fn streams<N>(map: *const N, len: usize, pitch: usize) -> bool {
    long::<N>(len)
        && (pitch * size_of::<N>()).is_multiple_of(64)
        && (map as usize).is_multiple_of(64)
}

/// Whether a map of `len` numbers is so long.
pub(crate) fn long<N>(len: usize) -> bool {
    len * size_of::<N>() >= STREAM
}

/// Makes what [`Simd::stream`] wrote visible before anything written later.
#[inline(always)]
pub(crate) fn fence() {
    // SAFETY: every x86-64 has it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_sfence()
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Avx512Bf16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Bf16, Simd, some_halves, some_of_halves, turn};
    use crate::map::QUIET;
    use std::arch::x86_64::*;

    /// AVX-512: 16 lanes, 32 registers; with `BF16`, that comes with it.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512Of<const BF16: bool>;
    pub(crate) type Avx512 = Avx512Of<false>;
    pub(crate) type Avx512Bf16 = Avx512Of<true>;

    impl<const BF16: bool> Simd for Avx512Of<BF16> {
        const LANES: usize = 16;
        type V = __m512;
        type M = __mmask16;

        #[inline(always)]
        fn prefetch(p: *const f32) {
            // SAFETY: a prefetch reads nothing; it is part of every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        fn prefetch_far(p: *const f32) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn transpose(
            from: *const f32,
            step: usize,
            size: (usize, usize),
            to: *mut f32,
            pitch: usize,
        ) {
            // SAFETY: the caller has AVX-512F.
            unsafe { turn::avx512(from, step, size, to, pitch) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            // SAFETY: the caller has AVX-512F and 16 floats at `p`.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            // SAFETY: the caller has AVX-512F and room for 16 floats at `p`.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn stream(p: *mut f32, v: __m512) {
            // SAFETY: the caller has AVX-512F and room for 16 floats at `p`, a multiple of 64 bytes.
            unsafe { _mm512_stream_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn mask(lanes: usize) -> __mmask16 {
            ((1u32 << lanes) - 1) as __mmask16
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, m: __mmask16) -> __m512 {
            // SAFETY: lanes outside the mask are not read.
            unsafe { _mm512_maskz_loadu_ps(m, p) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, v: __m512, m: __mmask16) {
            // SAFETY: lanes outside the mask are not written.
            unsafe { _mm512_mask_storeu_ps(p, m, v) }
        }
        #[inline(always)]
        unsafe fn load_half(p: *const Bf16, m: __mmask16) -> __m512 {
            // SAFETY: lanes outside the mask are not read.
            unsafe {
                let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
            }
        }
        #[inline(always)]
        unsafe fn store_half(p: *mut Bf16, v: __m512, m: __mmask16) {
            // SAFETY: lanes outside the mask are not written.
            unsafe { _mm256_mask_storeu_epi16(p.cast(), m, halves::<BF16>(v)) }
        }
        #[inline(always)]
        unsafe fn stream_half(p: *mut Bf16, v: __m512) {
            // SAFETY: the caller has AVX-512 and room for 16 numbers at `p`, a multiple of 32 bytes.
            unsafe { _mm256_stream_si256(p.cast(), halves::<BF16>(v)) }
        }
        #[inline(always)]
        unsafe fn load_bytes(p: *const u8, m: __mmask16) -> __m512 {
            // SAFETY: the caller has AVX-512; lanes outside the mask are not read.
            unsafe {
                let bytes = _mm_maskz_loadu_epi8(m, p.cast());
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m512, zero: u8, m: __mmask16) {
            // SAFETY: the caller has AVX-512; lanes outside the mask are not written.
            unsafe { _mm_mask_storeu_epi8(p.cast(), m, bytes(v, zero)) }
        }
        #[inline(always)]
        unsafe fn store_bytes_all(p: *mut u8, v: __m512, zero: u8) {
            // SAFETY: the caller has AVX-512 and room for 16 numbers.
            unsafe { _mm_storeu_si128(p.cast(), bytes(v, zero)) }
        }
        #[inline(always)]
        unsafe fn round_even(v: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn keep_between(v: __m512, a: __m512, lo: __m512, hi: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe {
                _mm512_maskz_mov_ps(
                    _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, lo)
                        & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, hi),
                    v,
                )
            }
        }
        #[inline(always)]
        unsafe fn clamp(v: __m512, lo: __m512, hi: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F. A NaN in the second operand is returned.
            unsafe { _mm512_min_ps(hi, _mm512_max_ps(lo, v)) }
        }
    }

    /// As [`Bf16::new`]; the instruction takes what is subnormal for zero.
    #[inline(always)]
    unsafe fn halves<const BF16: bool>(v: __m512) -> __m256i {
        // SAFETY: the caller has AVX-512, and where it says so AVX512-BF16, whose vectors are plain numbers.
        unsafe {
            if BF16 {
                return std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            }
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(QUIET as i32));
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v);
            let bits = _mm512_mask_add_epi32(quiet, number, bits, up);
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits))
        }
    }

    /// As [`Simd::store_bytes`]. A maximum that has NaN in the first place returns the second. What no integer holds
    /// becomes the lowest, which is a large number without a sign.
    #[inline(always)]
    unsafe fn bytes(v: __m512, zero: u8) -> __m128i {
        // SAFETY: the caller has AVX-512.
        unsafe {
            let q = _mm512_cvtps_epi32(_mm512_max_ps(v, _mm512_set1_ps(-f32::from(zero))));
            _mm512_cvtusepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(i32::from(zero))))
        }
    }

    /// [`bytes`] of 8 lanes, in the lower half. A minimum that has NaN in the second place returns it, and it becomes the
    /// lowest integer.
    #[inline(always)]
    unsafe fn bytes8(v: __m256, zero: u8) -> __m128i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let q = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(255.0), v));
            let q = _mm256_add_epi32(q, _mm256_set1_epi32(i32::from(zero)));
            let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
            let words = _mm_packs_epi32(low, high);
            _mm_packus_epi16(words, words)
        }
    }

    /// AVX2 with FMA: 8 lanes, 16 registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    /// The first `n` of at most 8 bytes, zeros behind them.
    #[inline(always)]
    unsafe fn some_bytes(p: *const u8, n: usize) -> i64 {
        let mut bytes = [0u8; 8];
        // SAFETY: the caller has `n` numbers there.
        unsafe { p.copy_to_nonoverlapping(bytes.as_mut_ptr(), n) };
        i64::from_le_bytes(bytes)
    }

    static LANE_MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    impl Simd for Avx2 {
        const LANES: usize = 8;
        type V = __m256;
        type M = __m256i;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            // SAFETY: the caller has AVX2 and 8 floats at `p`.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            // SAFETY: the caller has AVX2 and room for 8 floats at `p`.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn stream(p: *mut f32, v: __m256) {
            // SAFETY: the caller has AVX2 and room for 8 floats at `p`, a multiple of 32 bytes.
            unsafe { _mm256_stream_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn mask(lanes: usize) -> __m256i {
            // SAFETY: `lanes <= 8`, so 8 words from `8 - lanes` lie within the 16 of the table.
            unsafe { _mm256_loadu_si256(LANE_MASKS.as_ptr().add(8 - lanes).cast()) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, m: __m256i) -> __m256 {
            // SAFETY: lanes outside the mask are not read.
            unsafe { _mm256_maskload_ps(p, m) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, v: __m256, m: __m256i) {
            // SAFETY: lanes outside the mask are not written.
            unsafe { _mm256_maskstore_ps(p, m, v) }
        }
        #[inline(always)]
        unsafe fn load_half(p: *const Bf16, m: __m256i) -> __m256 {
            // SAFETY: the caller has AVX2, and as many numbers as the mask has lanes.
            unsafe {
                let lanes = _mm256_movemask_ps(_mm256_castsi256_ps(m)).count_ones();
                Self::load(some_of_halves::<8>(p, lanes as usize).as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_half(p: *mut Bf16, v: __m256, m: __m256i) {
            let mut lanes = [0.0f32; 8];
            // SAFETY: as above, of room.
            unsafe {
                Self::store(lanes.as_mut_ptr(), v);
                let n = _mm256_movemask_ps(_mm256_castsi256_ps(m)).count_ones();
                some_halves(lanes, p, n as usize);
            }
        }
        #[inline(always)]
        unsafe fn load_bytes(p: *const u8, m: __m256i) -> __m256 {
            // SAFETY: the caller has AVX2, and as many numbers as the mask has lanes.
            unsafe {
                let lanes = _mm256_movemask_ps(_mm256_castsi256_ps(m)).count_ones();
                let bytes = match lanes {
                    8 => _mm_loadl_epi64(p.cast()),
                    n => _mm_cvtsi64_si128(some_bytes(p, n as usize)),
                };
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m256, zero: u8, m: __m256i) {
            // SAFETY: as above, of room.
            unsafe {
                let lanes = _mm256_movemask_ps(_mm256_castsi256_ps(m)).count_ones();
                let bytes = _mm_cvtsi128_si64(bytes8(v, zero)).to_le_bytes();
                p.copy_from_nonoverlapping(bytes.as_ptr(), lanes as usize);
            }
        }
        #[inline(always)]
        unsafe fn store_bytes_all(p: *mut u8, v: __m256, zero: u8) {
            // SAFETY: the caller has AVX2 and room for 8 numbers.
            unsafe { _mm_storel_epi64(p.cast(), bytes8(v, zero)) }
        }
        #[inline(always)]
        unsafe fn round_even(v: __m256) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the caller has FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn keep_between(v: __m256, a: __m256, lo: __m256, hi: __m256) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe {
                _mm256_and_ps(
                    _mm256_and_ps(
                        _mm256_cmp_ps::<_CMP_GT_OQ>(a, lo),
                        _mm256_cmp_ps::<_CMP_LT_OQ>(a, hi),
                    ),
                    v,
                )
            }
        }
        #[inline(always)]
        unsafe fn clamp(v: __m256, lo: __m256, hi: __m256) -> __m256 {
            // SAFETY: the caller has AVX2. A NaN in the second operand is returned.
            unsafe { _mm256_min_ps(hi, _mm256_max_ps(lo, v)) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Bf16, Simd, some_halves, some_of_bytes, some_of_halves, some_to_bytes};
    use std::arch::aarch64::*;

    /// NEON: 4 lanes, 32 registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Neon;

    impl Simd for Neon {
        const LANES: usize = 4;
        type V = float32x4_t;
        type M = usize;

        #[inline(always)]
        unsafe fn splat(x: f32) -> float32x4_t {
            // SAFETY: NEON is part of aarch64.
            unsafe { vdupq_n_f32(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> float32x4_t {
            // SAFETY: the caller has 4 floats at `p`.
            unsafe { vld1q_f32(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: float32x4_t) {
            // SAFETY: the caller has room for 4 floats at `p`.
            unsafe { vst1q_f32(p, v) }
        }
        #[inline(always)]
        unsafe fn mask(lanes: usize) -> usize {
            lanes
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, lanes: usize) -> float32x4_t {
            let mut buf = [0.0f32; 4];
            // SAFETY: the caller has `lanes <= 4` floats at `p`.
            unsafe {
                std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), lanes);
                vld1q_f32(buf.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, v: float32x4_t, lanes: usize) {
            let mut buf = [0.0f32; 4];
            // SAFETY: the caller has room for `lanes <= 4` floats at `p`.
            unsafe {
                vst1q_f32(buf.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(buf.as_ptr(), p, lanes);
            }
        }
        #[inline(always)]
        unsafe fn load_half(p: *const Bf16, lanes: usize) -> float32x4_t {
            // SAFETY: the caller has `lanes <= 4` numbers at `p`.
            unsafe { vld1q_f32(some_of_halves::<4>(p, lanes).as_ptr()) }
        }
        #[inline(always)]
        unsafe fn store_half(p: *mut Bf16, v: float32x4_t, lanes: usize) {
            let mut buf = [0.0f32; 4];
            // SAFETY: the caller has room for `lanes <= 4` numbers at `p`.
            unsafe {
                vst1q_f32(buf.as_mut_ptr(), v);
                some_halves(buf, p, lanes);
            }
        }
        #[inline(always)]
        unsafe fn load_bytes(p: *const u8, lanes: usize) -> float32x4_t {
            // SAFETY: the caller has `lanes <= 4` numbers at `p`.
            unsafe { vld1q_f32(some_of_bytes::<4>(p, lanes).as_ptr()) }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: float32x4_t, zero: u8, lanes: usize) {
            let mut buf = [0.0f32; 4];
            // SAFETY: the caller has room for `lanes <= 4` numbers at `p`.
            unsafe {
                vst1q_f32(buf.as_mut_ptr(), v);
                some_to_bytes(buf, zero, p, lanes);
            }
        }
        #[inline(always)]
        unsafe fn store_bytes_all(p: *mut u8, v: float32x4_t, zero: u8) {
            // SAFETY: the caller has room for 4 numbers at `p`.
            unsafe { Self::store_bytes(p, v, zero, 4) }
        }
        #[inline(always)]
        unsafe fn round_even(v: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64.
            unsafe { vrndnq_f32(v) }
        }
        #[inline(always)]
        unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64.
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64.
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64.
            unsafe { vsubq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64.
            unsafe { vmulq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn keep_between(
            v: float32x4_t,
            a: float32x4_t,
            lo: float32x4_t,
            hi: float32x4_t,
        ) -> float32x4_t {
            // SAFETY: NEON is part of aarch64.
            unsafe {
                let inside = vandq_u32(vcgtq_f32(a, lo), vcltq_f32(a, hi));
                vreinterpretq_f32_u32(vandq_u32(inside, vreinterpretq_u32_f32(v)))
            }
        }
        #[inline(always)]
        unsafe fn clamp(v: float32x4_t, lo: float32x4_t, hi: float32x4_t) -> float32x4_t {
            // SAFETY: NEON is part of aarch64; its min and max return NaN where an operand is NaN.
            unsafe { vminq_f32(vmaxq_f32(v, lo), hi) }
        }
    }
}

/// The first `n` of some numbers of 16 bits, zeros behind them.
#[inline(always)]
unsafe fn some_of_halves<const LANES: usize>(p: *const Bf16, n: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(n) {
        // SAFETY: the caller has `n` numbers there.
        *lane = unsafe { p.add(i).read() }.get();
    }
    lanes
}

/// Writes the first `n` lanes as numbers of 16 bits.
#[inline(always)]
unsafe fn some_halves<const LANES: usize>(lanes: [f32; LANES], p: *mut Bf16, n: usize) {
    for (i, lane) in lanes.into_iter().enumerate().take(n) {
        // SAFETY: the caller has room for `n` numbers there.
        unsafe { p.add(i).write(Bf16::new(lane)) };
    }
}

/// The first `n` of some integers of 8 bits, zeros behind them.
#[inline(always)]
unsafe fn some_of_bytes<const LANES: usize>(p: *const u8, n: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(n) {
        // SAFETY: the caller has `n` numbers there.
        *lane = unsafe { p.add(i).read() }.get();
    }
    lanes
}

/// Writes the first `n` lanes as integers of 8 bits.
#[inline(always)]
unsafe fn some_to_bytes<const LANES: usize>(lanes: [f32; LANES], zero: u8, p: *mut u8, n: usize) {
    for (i, lane) in lanes.into_iter().enumerate().take(n) {
        // SAFETY: the caller has room for `n` numbers there.
        unsafe { p.add(i).write(u8::round(lane.round_ties_even() + f32::from(zero))) };
    }
}

/// An array of what an expression is for each lane: written out, which Miri goes through ten times faster than
/// through calls of a closure.
macro_rules! lanes {
    ($i:ident => $of:expr) => {
        lanes!(@each $i $of; 0 1 2 3 4 5 6 7)
    };
    (@each $i:ident $of:expr; $($lane:literal)*) => {
        [$({
            let $i = $lane;
            $of
        }),*]
    };
}

/// Plain Rust: 8 lanes in an array.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    const LANES: usize = 8;
    type V = [f32; 8];
    type M = usize;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: the caller has 8 floats at `p`; arrays of f32 have its alignment.
        unsafe { p.cast::<[f32; 8]>().read() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller has room for 8 floats at `p`.
        unsafe { p.cast::<[f32; 8]>().write(v) }
    }
    #[inline(always)]
    unsafe fn mask(lanes: usize) -> usize {
        lanes
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, lanes: usize) -> [f32; 8] {
        let mut v = [0.0; 8];
        // SAFETY: the caller has `lanes <= 8` floats at `p`.
        unsafe { std::ptr::copy_nonoverlapping(p, v.as_mut_ptr(), lanes) };
        v
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: [f32; 8], lanes: usize) {
        // SAFETY: the caller has room for `lanes <= 8` floats at `p`.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), p, lanes) };
    }
    #[inline(always)]
    unsafe fn load_half(p: *const Bf16, lanes: usize) -> [f32; 8] {
        // SAFETY: the caller's.
        unsafe { some_of_halves(p, lanes) }
    }
    #[inline(always)]
    unsafe fn store_half(p: *mut Bf16, v: [f32; 8], lanes: usize) {
        // SAFETY: the caller's.
        unsafe { some_halves(v, p, lanes) };
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, lanes: usize) -> [f32; 8] {
        // SAFETY: the caller's.
        unsafe { some_of_bytes(p, lanes) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: [f32; 8], zero: u8, lanes: usize) {
        // SAFETY: the caller's.
        unsafe { some_to_bytes(v, zero, p, lanes) };
    }
    #[inline(always)]
    unsafe fn store_bytes_all(p: *mut u8, v: [f32; 8], zero: u8) {
        // SAFETY: the caller's.
        unsafe { some_to_bytes(v, zero, p, 8) };
    }
    #[inline(always)]
    unsafe fn round_even(v: [f32; 8]) -> [f32; 8] {
        lanes!(i => v[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Two roundings: `mul_add` without hardware support is a slow library call.
        lanes!(i => a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn keep_between(v: [f32; 8], a: [f32; 8], lo: [f32; 8], hi: [f32; 8]) -> [f32; 8] {
        lanes!(i => if a[i] > lo[i] && a[i] < hi[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn clamp(v: [f32; 8], lo: [f32; 8], hi: [f32; 8]) -> [f32; 8] {
        lanes!(i => {
            let x = if v[i] < lo[i] { lo[i] } else { v[i] };
            if x > hi[i] { hi[i] } else { x }
        })
    }
}
