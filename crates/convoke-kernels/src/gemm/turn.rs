//! Blocks of numbers with rows and columns exchanged.

/// `to[lane · pitch + i] = from[i · step + lane]` for `side` rows and lanes, of which those beyond `(rows, lanes)` are zero.
///
/// # Safety
/// `from` has `rows` rows of `lanes` floats, `to` has `side` rows of `side`.
#[inline(always)]
pub(super) unsafe fn plain(
    side: usize,
    from: *const f32,
    step: usize,
    (rows, lanes): (usize, usize),
    to: *mut f32,
    pitch: usize,
) {
    for lane in 0..side {
        for i in 0..side {
            let there = i < rows && lane < lanes;
            // SAFETY: the caller's.
            unsafe {
                *to.add(lane * pitch + i) = if there { *from.add(i * step + lane) } else { 0.0 };
            }
        }
    }
}

/// The same of 16 × 16 by AVX-512.
///
/// # Safety
/// As above; the machine has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn avx512(
    from: *const f32,
    step: usize,
    (rows, lanes): (usize, usize),
    to: *mut f32,
    pitch: usize,
) {
    use std::arch::x86_64::*;
    // SAFETY: rows and lanes are masked to what the caller has.
    unsafe {
        let mask = ((1u32 << lanes) - 1) as __mmask16;
        let mut v = [_mm512_setzero_ps(); 16];
        for i in 0..16 {
            if i < rows {
                v[i] = _mm512_maskz_loadu_ps(mask, from.add(i * step));
            }
        }
        let mut t = [_mm512_setzero_ps(); 16];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
        }
        for i in 0..4 {
            let (a, b) = (_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 1]));
            let (c, d) = (_mm512_castps_pd(t[4 * i + 2]), _mm512_castps_pd(t[4 * i + 3]));
            v[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            v[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            v[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            v[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
        // v[4g + r] holds, in each quarter q, lane 4q + r of rows 4g … 4g + 3.
        for r in 0..4 {
            let low01 = _mm512_shuffle_f32x4::<0x88>(v[r], v[4 + r]);
            let high01 = _mm512_shuffle_f32x4::<0xdd>(v[r], v[4 + r]);
            let low23 = _mm512_shuffle_f32x4::<0x88>(v[8 + r], v[12 + r]);
            let high23 = _mm512_shuffle_f32x4::<0xdd>(v[8 + r], v[12 + r]);
            let to = to.add(r * pitch);
            _mm512_storeu_ps(to, _mm512_shuffle_f32x4::<0x88>(low01, low23));
            _mm512_storeu_ps(to.add(4 * pitch), _mm512_shuffle_f32x4::<0x88>(high01, high23));
            _mm512_storeu_ps(to.add(8 * pitch), _mm512_shuffle_f32x4::<0xdd>(low01, low23));
            _mm512_storeu_ps(to.add(12 * pitch), _mm512_shuffle_f32x4::<0xdd>(high01, high23));
        }
    }
}
