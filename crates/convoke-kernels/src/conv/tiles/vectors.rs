//! The block of tiles on vectors: sums of integer products, four bytes of a row at a time.

use super::block::{Block, Form};
use super::quantize::Int8;
use super::{ROW, SIDE, TILE};

/// Vectors of `LANES` sums. All need the instruction set, and what the pointers say.
trait Dot: Copy {
    const LANES: usize;
    type V: Copy;
    unsafe fn load(p: *const i32) -> Self::V;
    unsafe fn store(p: *mut i32, v: Self::V);
    unsafe fn zero() -> Self::V;
    /// Four bytes in every lane.
    unsafe fn splat(p: *const i32) -> Self::V;
    /// `sum + a · b`, where each lane holds the products of four bytes.
    unsafe fn dot(sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
}

/// Adds to the sums of a block.
///
/// # Safety
/// As [`super::block::Tiles::run`], and the processor has what `way` says.
pub(super) unsafe fn run(way: Int8, form: Form, block: &Block) {
    // SAFETY: the caller's.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        match way {
            Int8::Avx512Vnni => return x86::avx512_vnni(form, block),
            Int8::Avx512 => return x86::avx512(form, block),
            Int8::AvxVnni => return x86::avx_vnni(form, block),
            Int8::Avx2 => return x86::avx2(form, block),
            Int8::Tiles | Int8::Portable => {}
        }
        let _ = way;
        all::<Portable, 4, 2>(form, block);
    }
}

/// All rows of a block, `R` rows by `V` vectors at a time.
#[inline(always)]
unsafe fn all<D: Dot, const R: usize, const V: usize>(form: Form, t: &Block) {
    let vectors = form.columns() / D::LANES;
    for g in 0..form.groups() {
        for r in (0..SIDE).step_by(R) {
            for v in (0..vectors).step_by(V) {
                // SAFETY: rows and columns of the block.
                unsafe { some::<D, R, V>(form, t, g, r, v) };
            }
        }
    }
}

#[inline(always)]
unsafe fn some<D: Dot, const R: usize, const V: usize>(
    form: Form,
    t: &Block,
    group: usize,
    row: usize,
    vector: usize,
) {
    // SAFETY: the caller's block holds all that is reached.
    unsafe {
        let a = t.a[group].add(row * t.a_row);
        let lanes = |v: usize| (vector + v) * D::LANES;
        let c = |r: usize, v: usize| {
            t.c[group].cast::<u8>().add((row + r) * t.c_row).cast::<i32>().add(lanes(v))
        };
        let mut sums = [[D::zero(); V]; R];
        if t.load {
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = D::load(c(r, v));
                }
            }
        }
        for i in 0..t.n {
            let (a, b) = (a.add(*t.steps.add(i)), t.b.add(i * form.step(1)));
            for quad in 0..*t.quads.add(i) {
                let mut operand = [D::zero(); V];
                for (v, o) in operand.iter_mut().enumerate() {
                    let at = lanes(v) / SIDE * TILE + quad * ROW + lanes(v) % SIDE * 4;
                    *o = D::load(b.add(at).cast());
                }
                for r in 0..R {
                    let x = D::splat(a.add(r * t.a_row + quad * 4).cast());
                    for v in 0..V {
                        sums[r][v] = D::dot(sums[r][v], x, operand[v]);
                    }
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                D::store(c(r, v), sums[r][v]);
            }
        }
    }
}

/// Products of 16 bits.
#[derive(Clone, Copy)]
struct Portable;

impl Dot for Portable {
    const LANES: usize = 8;
    type V = [i32; 8];

    #[inline(always)]
    unsafe fn load(p: *const i32) -> [i32; 8] {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut i32, v: [i32; 8]) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn zero() -> [i32; 8] {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn splat(p: *const i32) -> [i32; 8] {
        // SAFETY: the caller's.
        [unsafe { p.read_unaligned() }; 8]
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; 8], a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        for lane in 0..8 {
            // Two integers of 16 bits, the first in the first bytes of memory.
            let pair = |x: i32| x.to_ne_bytes();
            let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (pair(a[lane]), pair(b[lane]));
            let number = |x, y| i32::from(i16::from_ne_bytes([x, y]));
            sum[lane] += number(a0, a1) * number(b0, b1) + number(a2, a3) * number(b2, b3);
        }
        sum
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Dot, Form, all};
    use std::arch::x86_64::*;

    macro_rules! dot {
        ($name:ident, $v:ty, $lanes:literal, $load:ident, $store:ident, $zero:ident, $splat:ident,
            |$sum:ident, $a:ident, $b:ident| $dot:expr) => {
            #[derive(Clone, Copy)]
            struct $name;

            impl Dot for $name {
                const LANES: usize = $lanes;
                type V = $v;

                #[inline(always)]
                unsafe fn load(p: *const i32) -> $v {
                    // SAFETY: the caller's.
                    unsafe { $load(p.cast()) }
                }
                #[inline(always)]
                unsafe fn store(p: *mut i32, v: $v) {
                    // SAFETY: the caller's.
                    unsafe { $store(p.cast(), v) }
                }
                #[inline(always)]
                unsafe fn zero() -> $v {
                    // SAFETY: the caller's.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn splat(p: *const i32) -> $v {
                    // SAFETY: the caller's.
                    unsafe { $splat(p.read_unaligned()) }
                }
                #[inline(always)]
                unsafe fn dot($sum: $v, $a: $v, $b: $v) -> $v {
                    // SAFETY: the caller's.
                    unsafe { $dot }
                }
            }
        };
    }
    macro_rules! run {
        ($name:ident, $features:literal, $dot:ident, $rows:literal, $tall_rows:literal, $vectors:literal) => {
            /// See [`super::run`].
            #[target_feature(enable = $features)]
            pub unsafe fn $name(form: Form, block: &Block) {
                // SAFETY: the caller's.
                unsafe {
                    match form {
                        Form::Wide => all::<$dot, $rows, 2>(form, block),
                        Form::Tall => all::<$dot, $tall_rows, $vectors>(form, block),
                    }
                }
            }
        };
    }

    dot!(
        Vnni512,
        __m512i,
        16,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        _mm512_setzero_si512,
        _mm512_set1_epi32,
        |s, a, b| _mm512_dpbusd_epi32(s, a, b)
    );
    dot!(
        Words512,
        __m512i,
        16,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        _mm512_setzero_si512,
        _mm512_set1_epi32,
        |s, a, b| _mm512_add_epi32(s, _mm512_madd_epi16(a, b))
    );
    dot!(
        Vnni256,
        __m256i,
        8,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_setzero_si256,
        _mm256_set1_epi32,
        |s, a, b| _mm256_dpbusd_avx_epi32(s, a, b)
    );
    dot!(
        Words256,
        __m256i,
        8,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_setzero_si256,
        _mm256_set1_epi32,
        |s, a, b| _mm256_add_epi32(s, _mm256_madd_epi16(a, b))
    );

    run!(avx512_vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", Vnni512, 8, 16, 1);
    run!(avx512, "avx512f,avx512bw,avx512dq,avx512vl", Words512, 8, 16, 1);
    run!(avx_vnni, "avx2,avxvnni", Vnni256, 4, 4, 2);
    run!(avx2, "avx2", Words256, 4, 4, 2);
}
