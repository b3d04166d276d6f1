//! The register tile of dot products: [`crate::gemm`]'s tile over words, its sums made in one visit.

use super::super::tiles::{Int8, Kind};
use super::finish::{Finish, ask_for_next, finish_sums};
use crate::gemm::{Panel, Portable, Simd};
use crate::map::{At, Number};

/// Offsets of one tap in A and in B, in words.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Tap {
    pub a: isize,
    pub b: isize,
}

/// One call of a tile: pointers and strides, in words and floats.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Tile {
    /// Taps in the order of summation.
    pub taps: *const Tap,
    pub ntaps: usize,
    /// Words of the sum within a tap.
    pub k: usize,
    pub a: *const u32,
    pub a_row: usize,
    pub a_px: usize,
    pub a_k: usize,
    pub b: *const u32,
    pub b_k: usize,
    pub c: At,
    pub c_row: usize,
    pub c_px: usize,
    /// Lanes of the last vector that exist in C, bias and residual; all else has them all.
    pub last: usize,
    /// What is taken from sums of integers, in a float's place, and what makes numbers of them, per lane.
    pub less: *const f32,
    pub scale: *const f32,
    /// Added per lane, or null.
    pub bias: *const f32,
    /// Added number by number, laid out as C and of its kind unless [`Tile::finish`] says otherwise, or none. It may be
    /// C.
    pub residual: At,
    /// What becomes of sums of integers where C, or what is added, is of bytes.
    pub finish: Option<Finish>,
    /// Bounds of the result, or none.
    pub clamp: Option<(f32, f32)>,
    /// What is read after this tile, or null: two cache lines for each word of the sum are asked for from here on, with
    /// so many floats from one to the next.
    pub ahead: *const f32,
    pub ahead_k: usize,
    /// Whether sums as they are go past the caches ([`crate::gemm::streams`]); not where lanes are missing.
    pub stream: bool,
}

/// A tile compiled for one way to multiply and one size.
///
/// # Safety
/// The instruction set must be present, and every address that the strides reach must be valid: reads of A, B
/// and what is added, writes of C, to which nobody else has access.
pub(in super::super) type TileFn = unsafe fn(&Tile);

/// Vectors of words and of their sums. All need the instruction set, and what the pointers say.
pub(super) trait Dot: Copy {
    /// The floats that sums become.
    type Floats: Simd;
    type Words: Copy;
    type Sum: Copy;
    /// What outputs, and what is added to them, are in memory.
    type Out: Number;
    /// Whether sums are integers, to be scaled.
    const INTEGERS: bool;
    /// Whether outputs have neither bias nor bounds.
    const BARE: bool = false;
    /// What sums start from: zero, or of integers, whose sums have no order, what is taken from them.
    unsafe fn start(less: *const f32) -> Self::Sum;
    unsafe fn load(p: *const u32) -> Self::Words;
    /// One word in every lane.
    unsafe fn splat(p: *const u32) -> Self::Words;
    /// `sum + a · b`, number by number of each lane's word.
    unsafe fn dot(sum: Self::Sum, a: Self::Words, b: Self::Words) -> Self::Sum;
    unsafe fn floats(sum: Self::Sum) -> <Self::Floats as Simd>::V;
}

/// `C [R,Q,V·LANES] = act(scale · (sum over taps, k of A [R,Q] · B [V·LANES] − less) + bias + residual)`.
///
/// With `UNIT`, `a_px` is 1, see [`crate::gemm`].
///
/// # Safety
/// See [`TileFn`].
#[inline(always)]
unsafe fn tile<
    D: Dot,
    const R: usize,
    const Q: usize,
    const V: usize,
    const MASKED: bool,
    const UNIT: bool,
>(
    t: &Tile,
) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let lanes = D::Floats::LANES;
        let a_px = if UNIT { 1 } else { t.a_px };
        let mut start = [D::start(t.less); V];
        for v in 1..V {
            start[v] = D::start(t.less.wrapping_add(v * lanes));
        }
        let mut sums = [[start; Q]; R];
        // What the end of the tile reads and writes comes from main memory while the sums are made.
        match D::INTEGERS && t.finish.is_some() {
            true => ask_for_next::<D, R, Q>(t),
            false => ask::<D, R, Q, V, MASKED>(t),
        }
        let mut ahead = t.ahead;
        for tap in 0..t.ntaps {
            let tap = *t.taps.add(tap);
            let (mut a, mut b) = (t.a.wrapping_offset(tap.a), t.b.wrapping_offset(tap.b));
            for _ in 0..t.k {
                if !ahead.is_null() {
                    D::Floats::prefetch_far(ahead);
                    D::Floats::prefetch_far(ahead.wrapping_add(t.ahead_k));
                    ahead = ahead.wrapping_add(2 * t.ahead_k);
                }
                let mut words = [D::load(b); V];
                for v in 0..V {
                    words[v] = D::load(b.add(v * lanes));
                    D::Floats::prefetch(b.wrapping_add(8 * t.b_k + v * lanes).cast());
                }
                if UNIT {
                    D::Floats::prefetch(a.wrapping_add(16 * t.a_k).cast());
                }
                for r in 0..R {
                    for q in 0..Q {
                        let x = D::splat(a.add(r * t.a_row + q * a_px));
                        for v in 0..V {
                            sums[r][q][v] = D::dot(sums[r][q][v], x, words[v]);
                        }
                    }
                }
                a = a.wrapping_add(t.a_k);
                b = b.wrapping_add(t.b_k);
            }
        }
        if D::INTEGERS
            && let Some(finish) = t.finish
        {
            return finish_sums::<D, R, Q, V>(t, finish, &sums);
        }
        if t.stream && !MASKED {
            let c = t.c.start.cast::<D::Out>();
            for r in 0..R {
                for q in 0..Q {
                    for v in 0..V {
                        let p = c.add(r * t.c_row + q * t.c_px + v * lanes);
                        D::Out::stream::<D::Floats>(p, D::floats(sums[r][q][v]));
                    }
                }
            }
            return;
        }
        match D::BARE {
            true => bare_end::<D, R, Q, V, MASKED>(t, &sums),
            false => end::<D, R, Q, V, MASKED>(t, &sums),
        }
    }
}

/// Asks for what the end of the tile reads and writes.
#[inline(always)]
fn ask<D: Dot, const R: usize, const Q: usize, const V: usize, const MASKED: bool>(t: &Tile) {
    let (c, residual) = (t.c.start.cast::<D::Out>(), t.residual.start.cast::<D::Out>());
    for r in 0..R {
        for q in 0..Q {
            for v in 0..V {
                let at = r * t.c_row + q * t.c_px + v * D::Floats::LANES;
                if MASKED || !t.stream {
                    D::Floats::prefetch(c.wrapping_add(at).cast());
                }
                if !residual.is_null() {
                    D::Floats::prefetch(residual.wrapping_add(at).cast());
                }
            }
        }
    }
}

/// The way to memory of sums to which at most a residual is added.
#[inline(always)]
unsafe fn bare_end<D: Dot, const R: usize, const Q: usize, const V: usize, const MASKED: bool>(
    t: &Tile,
    sums: &[[[D::Sum; V]; Q]; R],
) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let (c, residual) = (t.c.start.cast::<D::Out>(), t.residual.start.cast::<D::Out>());
        let lanes = D::Floats::LANES;
        for r in 0..R {
            for q in 0..Q {
                for v in 0..V {
                    let used = if MASKED && v == V - 1 { t.last } else { lanes };
                    let (at, m) = (r * t.c_row + q * t.c_px + v * lanes, D::Floats::mask(used));
                    let mut x = D::floats(sums[r][q][v]);
                    if !residual.is_null() {
                        let more = D::Out::load::<D::Floats>(residual.add(at), m);
                        x = D::Floats::add(x, more);
                    }
                    D::Out::store::<D::Floats>(c.add(at), x, m);
                }
            }
        }
    }
}

/// Scale, bias, residual, bounds, and the way to memory.
#[inline(always)]
unsafe fn end<D: Dot, const R: usize, const Q: usize, const V: usize, const MASKED: bool>(
    t: &Tile,
    sums: &[[[D::Sum; V]; Q]; R],
) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let (lanes, zero) = (D::Floats::LANES, D::Floats::splat(0.0));
        // Integers become floats before all else, in as little code: with more, the compiler keeps sums in memory.
        let mut floats = [[[zero; V]; Q]; R];
        for r in 0..R {
            for q in 0..Q {
                for v in 0..V {
                    let x = D::floats(sums[r][q][v]);
                    floats[r][q][v] = x;
                    if D::INTEGERS {
                        floats[r][q][v] =
                            D::Floats::mul(x, D::Floats::load(t.scale.add(v * lanes)));
                    }
                }
            }
        }
        for v in 0..V {
            // For the same reason there is one way for all vectors of a tile.
            let mask = D::Floats::mask(if v == V - 1 { t.last } else { lanes });
            let load = |p: *const f32| match MASKED {
                true => D::Floats::load_first(p, mask),
                false => D::Floats::load(p),
            };
            let bias = if t.bias.is_null() { zero } else { load(t.bias.add(v * lanes)) };
            for r in 0..R {
                for q in 0..Q {
                    let at = r * t.c_row + q * t.c_px + v * lanes;
                    let mut x = floats[r][q][v];
                    if !t.bias.is_null() {
                        x = D::Floats::add(x, bias);
                    }
                    if !t.residual.start.is_null() {
                        x = D::Floats::add(x, load(t.residual.start.add(at)));
                    }
                    if let Some((lo, hi)) = t.clamp {
                        x = D::Floats::clamp(x, D::Floats::splat(lo), D::Floats::splat(hi));
                    }
                    match MASKED {
                        true => D::Floats::store_first(t.c.start.add(at), x, mask),
                        false => D::Floats::store(t.c.start.add(at), x),
                    }
                }
            }
        }
    }
}

/// The tile of `rows` × `pixels` over a panel; with `unit`, of pixels that lie next to each other in A, and with `half`,
/// whose outputs are bf16.
///
/// # Panics
/// When there is no such tile: walks ask only for sizes that [`super::family`] has.
pub(in super::super) fn pick(
    kind: Kind,
    rows: usize,
    pixels: usize,
    panel: Panel,
    unit: bool,
    half: bool,
) -> TileFn {
    let vectors = panel.width / super::lanes(kind);
    let masked = panel.used < panel.width;
    let pick = match kind {
        #[cfg(target_arch = "x86_64")]
        Kind::Floats(_) if half => x86::bf16_half,
        #[cfg(target_arch = "x86_64")]
        Kind::Floats(_) if unit => x86::bf16_unit,
        #[cfg(target_arch = "x86_64")]
        Kind::Floats(_) => x86::bf16,
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::Avx512Vnni, _) => x86::avx512_vnni,
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::Avx512, _) => x86::avx512,
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::AvxVnni, _) => x86::avx_vnni,
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::Avx2, _) => x86::avx2,
        _ => portable,
    };
    pick(rows, pixels, vectors, masked).expect("walks ask only for tiles that exist")
}

/// Writes the table of tiles of one way to multiply: `(rows, pixels)` pairs × vectors × masked.
macro_rules! tiles {
    ($(#[$feature:meta])* $name:ident, $dot:ty, $unit:literal, $sizes:tt) => {
        pub(super) fn $name(r: usize, q: usize, v: usize, masked: bool) -> Option<TileFn> {
            $(#[$feature])*
            unsafe fn of<const R: usize, const Q: usize, const V: usize, const M: bool>(t: &Tile) {
                // SAFETY: the caller keeps the contract of `TileFn`.
                unsafe { tile::<$dot, R, Q, V, M, $unit>(t) }
            }
            match v {
                1 => tiles!(@of 1, r, q, masked, $sizes),
                2 => tiles!(@of 2, r, q, masked, $sizes),
                _ => None,
            }
        }
    };
    (@of $v:literal, $r:ident, $q:ident, $masked:ident, [$(($rows:literal, $px:literal)),*]) => {
        match ($r, $q, $masked) {
            $(($rows, $px, false) => Some(of::<$rows, $px, $v, false> as TileFn),
              ($rows, $px, true) => Some(of::<$rows, $px, $v, true> as TileFn),)*
            _ => None,
        }
    };
}

/// Words of two integers of 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Words;

impl Dot for Words {
    type Floats = Portable;
    type Words = [u32; 8];
    type Sum = [i32; 8];
    type Out = f32;
    const INTEGERS: bool = true;

    #[inline(always)]
    unsafe fn start(less: *const f32) -> [i32; 8] {
        // SAFETY: the caller's.
        unsafe { less.cast::<[i32; 8]>().read_unaligned() }.map(i32::wrapping_neg)
    }
    #[inline(always)]
    unsafe fn load(p: *const u32) -> [u32; 8] {
        // SAFETY: the caller's.
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const u32) -> [u32; 8] {
        // SAFETY: the caller's.
        [unsafe { p.read_unaligned() }; 8]
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; 8], a: [u32; 8], b: [u32; 8]) -> [i32; 8] {
        // The first number lies in the first bytes of memory; a sum has no order.
        let halves = |x: u32| (i32::from(x as i16), i32::from((x >> 16) as i16));
        for lane in 0..8 {
            let ((a0, a1), (b0, b1)) = (halves(a[lane]), halves(b[lane]));
            sum[lane] = sum[lane].wrapping_add(a0 * b0 + a1 * b1);
        }
        sum
    }
    #[inline(always)]
    unsafe fn floats(sum: [i32; 8]) -> [f32; 8] {
        sum.map(|s| s as f32)
    }
}

tiles!(portable, Words, false, [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]);

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{Dot, Tile, TileFn, tile};
    use crate::gemm::{Avx2, Avx512, Avx512Bf16};
    use std::arch::x86_64::*;

    macro_rules! dot {
        ($name:ident, $floats:ty, integers $integers:literal, $v:ty, $sum:ty, $load:ident, |$less:ident| $start:expr,
            $splat:ident, |$s:ident, $a:ident, $b:ident| $dot:expr, $out:expr) => {
            #[derive(Clone, Copy)]
            pub(in super::super) struct $name;

            impl Dot for $name {
                type Floats = $floats;
                type Words = $v;
                type Sum = $sum;
                type Out = f32;
                const INTEGERS: bool = $integers;

                #[inline(always)]
                unsafe fn start($less: *const f32) -> $sum {
                    // SAFETY: the caller's.
                    unsafe { $start }
                }
                #[inline(always)]
                unsafe fn load(p: *const u32) -> $v {
                    // SAFETY: the caller's.
                    unsafe { $load(p.cast()) }
                }
                #[inline(always)]
                unsafe fn splat(p: *const u32) -> $v {
                    // SAFETY: the caller's.
                    unsafe { $splat(p.cast::<i32>().read_unaligned()) }
                }
                #[inline(always)]
                unsafe fn dot($s: $sum, $a: $v, $b: $v) -> $sum {
                    // SAFETY: the caller's.
                    unsafe { $dot }
                }
                #[inline(always)]
                #[allow(unused_unsafe)]
                unsafe fn floats($s: $sum) -> <$floats as crate::gemm::Simd>::V {
                    // SAFETY: the caller's.
                    unsafe { $out }
                }
            }
        };
    }

    /// Both are 64 bytes of plain numbers.
    #[inline(always)]
    unsafe fn pairs(x: __m512i) -> __m512bh {
        // SAFETY: as it says.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
    }

    dot!(
        Bf16,
        Avx512,
        integers false,
        __m512i,
        __m512,
        _mm512_loadu_si512,
        |_less| _mm512_setzero_ps(),
        _mm512_set1_epi32,
        |s, a, b| _mm512_dpbf16_ps(s, pairs(a), pairs(b)),
        s
    );
    /// [`Bf16`] with outputs of bf16, as the instruction rounds them. Of what may be done to outputs they have as little
    /// as training needs: with more, the compiler keeps sums in memory.
    #[derive(Clone, Copy)]
    struct Halves;

    impl Dot for Halves {
        type Floats = Avx512Bf16;
        type Words = __m512i;
        type Sum = __m512;
        type Out = crate::Bf16;
        const INTEGERS: bool = false;
        const BARE: bool = true;

        #[inline(always)]
        unsafe fn start(less: *const f32) -> __m512 {
            // SAFETY: the caller's, here and below.
            unsafe { Bf16::start(less) }
        }
        #[inline(always)]
        unsafe fn load(p: *const u32) -> __m512i {
            // SAFETY: as above.
            unsafe { Bf16::load(p) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const u32) -> __m512i {
            // SAFETY: as above.
            unsafe { Bf16::splat(p) }
        }
        #[inline(always)]
        unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            // SAFETY: as above.
            unsafe { Bf16::dot(sum, a, b) }
        }
        #[inline(always)]
        unsafe fn floats(sum: __m512) -> __m512 {
            sum
        }
    }

    macro_rules! integers {
        (512 $name:ident, |$s:ident, $a:ident, $b:ident| $dot:expr) => {
            dot!(
                $name,
                Avx512,
                integers true,
                __m512i,
                __m512i,
                _mm512_loadu_si512,
                |less| _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_loadu_si512(less.cast())),
                _mm512_set1_epi32,
                |$s, $a, $b| $dot,
                _mm512_cvtepi32_ps($s)
            );
        };
        (256 $name:ident, |$s:ident, $a:ident, $b:ident| $dot:expr) => {
            dot!(
                $name,
                Avx2,
                integers true,
                __m256i,
                __m256i,
                _mm256_loadu_si256,
                |less| _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_loadu_si256(less.cast())),
                _mm256_set1_epi32,
                |$s, $a, $b| $dot,
                _mm256_cvtepi32_ps($s)
            );
        };
    }
    integers!(512 Vnni512, |s, a, b| _mm512_dpbusd_epi32(s, a, b));
    integers!(512 Words512, |s, a, b| _mm512_add_epi32(s, _mm512_madd_epi16(a, b)));
    integers!(256 Vnni256, |s, a, b| _mm256_dpbusd_avx_epi32(s, a, b));
    integers!(256 Words256, |s, a, b| _mm256_add_epi32(s, _mm256_madd_epi16(a, b)));

    macro_rules! tiles512 {
        ($feature:literal, $name:ident, $dot:ty) => {
            tiles!(
                #[target_feature(enable = $feature)]
                $name,
                $dot,
                false,
                [
                    (1, 1),
                    (1, 2),
                    (1, 3),
                    (1, 4),
                    (1, 5),
                    (1, 6),
                    (1, 7),
                    (1, 8),
                    (1, 9),
                    (1, 10),
                    (1, 11),
                    (1, 12),
                    (1, 13),
                    (1, 14),
                    (2, 1),
                    (2, 2),
                    (2, 3),
                    (2, 4),
                    (2, 5),
                    (2, 6),
                    (2, 7),
                    (3, 1),
                    (3, 2),
                    (3, 3),
                    (3, 4),
                    (4, 1),
                    (4, 2),
                    (4, 3)
                ]
            );
        };
    }
    macro_rules! tiles256 {
        ($feature:literal, $name:ident, $dot:ty) => {
            tiles!(
                #[target_feature(enable = $feature)]
                $name,
                $dot,
                false,
                [
                    (1, 1),
                    (1, 2),
                    (1, 3),
                    (1, 4),
                    (1, 5),
                    (1, 6),
                    (2, 1),
                    (2, 2),
                    (2, 3),
                    (3, 1),
                    (3, 2),
                    (4, 1)
                ]
            );
        };
    }
    tiles512!("avx512f,avx512bf16", bf16, Bf16);
    tiles512!("avx512f,avx512bw,avx512vl,avx512bf16", bf16_half, Halves);
    tiles512!("avx512f,avx512vnni", avx512_vnni, Vnni512);
    tiles512!("avx512f,avx512bw", avx512, Words512);
    tiles256!("avx2,fma,avxvnni", avx_vnni, Vnni256);
    tiles256!("avx2,fma", avx2, Words256);
    tiles!(
        #[target_feature(enable = "avx512f,avx512bf16")]
        bf16_unit,
        Bf16,
        true,
        [
            (1, 1),
            (1, 2),
            (1, 3),
            (1, 4),
            (1, 5),
            (1, 6),
            (1, 7),
            (1, 8),
            (1, 9),
            (1, 10),
            (1, 11),
            (1, 12),
            (1, 13),
            (1, 14)
        ]
    );
}
