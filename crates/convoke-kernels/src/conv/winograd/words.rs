//! How transformed numbers lie in words of four bytes, and how words are multiplied: whole floats, or pairs of
//! bf16 whose two products are added at once (AVX512-BF16).

use super::minimal::Minimal;
use crate::gemm::Simd;
use std::marker::PhantomData;

/// Words of transformed numbers. All need the instruction set, and what the pointers say.
pub(super) trait Words: Copy {
    type S: Simd;
    /// The filtering whose numbers they hold.
    type F: Minimal;
    type W: Copy;
    /// Numbers of a word.
    const NUMBERS: usize;
    unsafe fn load(p: *const f32) -> Self::W;
    /// One word in every lane.
    unsafe fn splat(p: *const f32) -> Self::W;
    /// `sum + a · b`, number by number of each lane's word.
    unsafe fn fma(a: Self::W, b: Self::W, sum: Vector<Self>) -> Vector<Self>;
    /// A vector of neighbouring numbers, in order.
    unsafe fn put(p: *mut f32, v: Vector<Self>);
    /// A vector of words: the first numbers of each, and the second where there are two.
    unsafe fn join(p: *mut f32, first: Vector<Self>, second: Vector<Self>);
    /// The second numbers of words whose second is zero.
    unsafe fn complete(p: *mut f32, second: Vector<Self>);
}

/// The vector of floats that belongs to words.
pub(super) type Vector<W> = <<W as Words>::S as Simd>::V;

/// Floats as they are.
#[derive(Clone, Copy)]
pub(super) struct Whole<S, F>(PhantomData<(S, F)>);

impl<S: Simd, F: Minimal> Words for Whole<S, F> {
    type S = S;
    type F = F;
    type W = S::V;
    const NUMBERS: usize = 1;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::splat(*p) }
    }
    #[inline(always)]
    unsafe fn fma(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::fma(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn put(p: *mut f32, v: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(p, v) }
    }
    #[inline(always)]
    unsafe fn join(p: *mut f32, first: S::V, _: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(p, first) }
    }
    #[inline(always)]
    unsafe fn complete(_: *mut f32, _: S::V) {}
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Pairs;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Words;
    use crate::conv::winograd::minimal::Two;
    use crate::gemm::Avx512Bf16;
    use std::arch::x86_64::*;

    /// Pairs of bf16.
    #[derive(Clone, Copy)]
    pub struct Pairs;

    /// Numbers 0, 16, 1, 17, … of 32.
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };

    impl Words for Pairs {
        type S = Avx512Bf16;
        type F = Two;
        type W = __m512bh;
        const NUMBERS: usize = 2;

        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512bh {
            // SAFETY: the caller has AVX-512F and 64 bytes, of plain numbers.
            unsafe { std::mem::transmute::<__m512, __m512bh>(_mm512_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const f32) -> __m512bh {
            // SAFETY: as above, of one word; a word that is no number as a float is copied bit by bit.
            unsafe {
                let word = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
                std::mem::transmute::<__m512i, __m512bh>(word)
            }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
            // SAFETY: the caller has AVX512-BF16.
            unsafe { _mm512_dpbf16_ps(sum, a, b) }
        }
        #[inline(always)]
        unsafe fn put(p: *mut f32, v: __m512) {
            // SAFETY: the caller has AVX512-BF16 and room for 16 numbers of two bytes.
            unsafe {
                let v = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm256_storeu_si256(p.cast(), v);
            }
        }
        #[inline(always)]
        unsafe fn join(p: *mut f32, first: __m512, second: __m512) {
            // SAFETY: the caller has AVX512-BF16 and room for a vector.
            unsafe {
                let both = _mm512_cvtne2ps_pbh(second, first);
                let both = std::mem::transmute::<__m512bh, __m512i>(both);
                let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
                _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi16(order, both));
            }
        }
        #[inline(always)]
        unsafe fn complete(p: *mut f32, second: __m512) {
            // SAFETY: the caller has AVX512-BF16 and a vector there.
            unsafe {
                let v = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(second));
                let v = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v));
                let first = _mm512_loadu_si512(p.cast());
                _mm512_storeu_si512(p.cast(), _mm512_or_si512(first, v));
            }
        }
    }
}

/// Compiles one generic `#[inline(always)] unsafe fn body<W: Words>(…)` for each [`super::Way`] and every instruction
/// set, and calls the one asked for; the caller keeps the body's contract, and asks for pairs only where the machine
/// multiplies bf16.
macro_rules! words {
    ($way:expr, $isa:expr, $body:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {{
        use $crate::conv::winograd::{Way, minimal, words};
        #[inline(always)]
        #[allow(clippy::too_many_arguments)]
        unsafe fn two<S: Simd>($($arg: $ty),*) {
            // SAFETY: the caller's.
            unsafe { $body::<words::Whole<S, minimal::Two>>($($arg),*) }
        }
        #[inline(always)]
        #[allow(clippy::too_many_arguments)]
        unsafe fn four<S: Simd>($($arg: $ty),*) {
            // SAFETY: the caller's.
            unsafe { $body::<words::Whole<S, minimal::Four>>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
        #[allow(clippy::too_many_arguments)]
        unsafe fn pairs($($arg: $ty),*) {
            // SAFETY: this function has the instruction set; the rest is the caller's.
            unsafe { $body::<words::Pairs>($($arg),*) }
        }
        match $way {
            Way::Four => simd!($isa, four($($arg: $ty),*)),
            #[cfg(target_arch = "x86_64")]
            Way::Pairs => pairs($($arg),*),
            _ => simd!($isa, two($($arg: $ty),*)),
        }
    }};
}
pub(super) use words;
