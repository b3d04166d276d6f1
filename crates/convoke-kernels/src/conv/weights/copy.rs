//! Copies of pixels for backward-weights, in the order in which tiles read them.

use crate::Isa;
use crate::gemm::{Even, Family, Simd};
use crate::isa::simd;
use crate::norm::Pending;

/// Floats that are asked for ahead of those being copied, or pixels where parts of them are copied.
const AHEAD: usize = 2048;
const PIXELS_AHEAD: usize = 8;

/// How far ahead numbers are asked for. Parts of pixels soon drive each other out of the nearest cache.
fn far(channels: usize, stride: usize) -> usize {
    if channels == stride { AHEAD } else { PIXELS_AHEAD * stride }
}

/// Where the pieces of a pixel's channels go: piece `m` of pixel `j` to `m.start · of + (at + j) · m.len()`.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    pub pieces: Even,
    pub at: usize,
    pub of: usize,
}

/// Fills `to` with whole vectors for each pixel: the first `used` numbers of it, then zeros. Pixels are `stride` floats
/// apart.
pub(in crate::conv) fn copy_last(
    isa: Isa,
    from: &[f32],
    stride: usize,
    used: usize,
    to: &mut [f32],
) {
    let n = to.len() / used.next_multiple_of(Family::of(isa).lanes);
    assert!(used <= stride && (n - 1) * stride + used <= from.len(), "reads past the end");
    // SAFETY: pixel `n − 1` ends within `from`; `to` holds whole vectors for `n` pixels.
    unsafe { simd!(isa, last_body(from: &[f32], stride: usize, used: usize, to: &mut [f32])) };
}

#[inline(always)]
unsafe fn last_body<S: Simd>(from: &[f32], stride: usize, used: usize, to: &mut [f32]) {
    let padded = used.next_multiple_of(S::LANES);
    let far = far(used, stride);
    for (i, to) in to.chunks_exact_mut(padded).enumerate() {
        let from = from.as_ptr().wrapping_add(i * stride);
        for at in (0..padded).step_by(S::LANES) {
            // SAFETY: by the caller's contract; lanes beyond `used` are not read.
            unsafe {
                let from = from.add(at);
                S::prefetch(from.wrapping_add(far));
                let v = S::load_first(from, S::mask((used - at).min(S::LANES)));
                S::store(to.as_mut_ptr().add(at), v);
            }
        }
    }
}

/// Copies `n` pixels, `stride` floats from one to the next, in pieces. Whole pixels are read one after
/// the other, as they lie in memory.
pub(super) fn copy_pixels(
    isa: Isa,
    from: &[f32],
    norm: Option<Pending>,
    stride: usize,
    n: usize,
    p: Pieces,
    to: &mut [f32],
) {
    let channels = p.pieces.range(p.pieces.parts - 1).end;
    assert!(n == 0 || (n - 1) * stride + channels <= from.len(), "reads past the end");
    assert!(p.at + n <= p.of && p.of * channels <= to.len(), "writes past the end");
    // SAFETY: pixel `n − 1` ends within `from`; every piece has its own `of · m.len()` floats of `to`.
    unsafe {
        simd!(isa, copy_body(from: &[f32], norm: Option<Pending>, stride: usize, n: usize, p: Pieces, to: &mut [f32]))
    };
}

#[inline(always)]
unsafe fn copy_body<S: Simd>(
    from: &[f32],
    norm: Option<Pending>,
    stride: usize,
    n: usize,
    p: Pieces,
    to: &mut [f32],
) {
    // SAFETY: by the caller's contract; a norm has a number for every channel.
    unsafe {
        match norm {
            None => copy_of::<S>(from, stride, n, p, to, |_, _, v| v),
            Some(Pending { scale, shift, clamp: (lo, hi) }) => {
                let (lo, hi) = (S::splat(lo), S::splat(hi));
                copy_of::<S>(from, stride, n, p, to, |channel, m, v| {
                    let scale = S::load_first(scale.as_ptr().add(channel), m);
                    let shift = S::load_first(shift.as_ptr().add(channel), m);
                    S::clamp(S::fma(v, scale, shift), lo, hi)
                })
            }
        }
    }
}

#[inline(always)]
unsafe fn copy_of<S: Simd>(
    from: &[f32],
    stride: usize,
    n: usize,
    p: Pieces,
    to: &mut [f32],
    f: impl Fn(usize, S::M, S::V) -> S::V,
) {
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    let first = p.pieces.range(0).len();
    let last = p.pieces.range(p.pieces.parts - 1);
    // The first pieces are one channel longer, or all are as long.
    let long =
        if last.len() == first { p.pieces.parts } else { last.end - last.len() * p.pieces.parts };
    // Pixels ahead: main memory answers late.
    let far = far(last.end, stride);
    if first <= S::LANES {
        // A vector holds a piece: nothing to find out for each.
        let short = p.pieces.parts - long;
        let runs = [(long, first, 0), (short, last.len(), long * first)];
        for j in 0..n {
            for (pieces, len, start) in runs {
                // SAFETY: by the caller's contract.
                let mask = unsafe { S::mask(len) };
                let (mut src, mut dst) = (
                    from.wrapping_add(j * stride + start),
                    to.wrapping_add(start * p.of + (p.at + j) * len),
                );
                for i in 0..pieces {
                    // SAFETY: by the caller's contract.
                    unsafe {
                        S::prefetch(src.wrapping_add(far));
                        let v = f(start + i * len, mask, S::load_first(src, mask));
                        S::store_first(dst, v, mask);
                    }
                    (src, dst) = (src.wrapping_add(len), dst.wrapping_add(len * p.of));
                }
            }
        }
        return;
    }
    for j in 0..n {
        let mut start = 0;
        for piece in 0..p.pieces.parts {
            let len = if piece < long { first } else { first - 1 };
            // SAFETY: by the caller's contract.
            unsafe {
                let (src, dst) =
                    (from.add(j * stride + start), to.add(start * p.of + (p.at + j) * len));
                let mut at = 0;
                let ahead = src.wrapping_add(far);
                while at + S::LANES <= len {
                    S::prefetch(ahead.wrapping_add(at));
                    let v = f(start + at, S::mask(S::LANES), S::load(src.add(at)));
                    S::store(dst.add(at), v);
                    at += S::LANES;
                }
                if at < len {
                    S::prefetch(ahead.wrapping_add(at));
                    let m = S::mask(len - at);
                    let v = f(start + at, m, S::load_first(src.add(at), m));
                    S::store_first(dst.add(at), v, m);
                }
            }
            start += len;
        }
    }
}
