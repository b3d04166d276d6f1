//! Backward-weights with pictures in the lanes: sums are kept apart per picture and merged at the end,
//! or, where a map is one pixel, the sixteen pictures are the sum.

use super::{Frame, LANES};
use crate::conv::ConvShape;
use crate::gemm::{Even, Simd};
use crate::isa::simd;
use crate::{Isa, cut};

/// Floats of both maps that one pass over all filters reads: they stay in the nearest cache.
const PASS: usize = cut(8 * 1024, 512);

/// Floats of work space for [`backward_weights`].
pub fn weights_scratch_len(s: &ConvShape) -> usize {
    match one_pixel(s) {
        true => LANES * s.d.next_multiple_of(LANES),
        false => Frame::forward(s).len(s.c) + s.filter_len() * LANES,
    }
}

/// A dense layer: a window of one pixel on a map of one pixel.
fn one_pixel(s: &ConvShape) -> bool {
    (s.h, s.w, s.kh, s.kw, s.top, s.left) == (1, 1, 1, 1, 0, 0)
}

/// `dw [kh,kw,c,d] += Σ over pixels and pictures of x [h,w,c,16] · dy [oh,ow,d,16]`.
pub fn backward_weights(
    isa: Isa,
    s: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    scratch: &mut [f32],
) {
    let s = *s;
    assert!(super::knows(&s) && dw.len() >= s.filter_len(), "not a convolution for lanes");
    let (x, dy) = (&x[..s.x_len() * LANES], &dy[..s.y_len() * LANES]);
    if one_pixel(&s) {
        let turned = &mut scratch[..weights_scratch_len(&s)];
        // SAFETY: `x` and `dy` are whole vectors, `dw` whole filters, `turned` sixteen padded rows.
        unsafe {
            simd!(isa, dense_body(s: ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32], turned: &mut [f32]))
        };
        return;
    }
    let (framed, sums) = scratch.split_at_mut(Frame::forward(&s).len(s.c));
    let x = Frame::forward(&s).fill(x, (s.h, s.w, s.c), framed);
    let sums = &mut sums[..s.filter_len() * LANES];
    // SAFETY: windows stay within the frame; `sums` holds sixteen numbers per weight.
    unsafe { simd!(isa, conv_body(s: ConvShape, x: &[f32], dy: &[f32], sums: &mut [f32])) };
    for (w, of) in dw.iter_mut().zip(sums.chunks_exact(LANES)) {
        *w += sum(of);
    }
}

/// The sum of sixteen numbers in a fixed order.
#[inline(always)]
fn sum(v: &[f32]) -> f32 {
    let mut v: [f32; LANES] = v.try_into().expect("sixteen numbers");
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            v[i] += v[i + half];
        }
    }
    v[0]
}

#[inline(always)]
unsafe fn conv_body<S: Simd>(s: ConvShape, x: &[f32], dy: &[f32], sums: &mut [f32]) {
    let pixel = s.c * LANES;
    let line = Frame::forward(&s).w * pixel;
    let (places, channels) = if s.dw == 1 { (1, s.kw * s.c) } else { (s.kw, s.c) };
    let (most_channels, most_filters) = if S::LANES == LANES { (4, 6) } else { (3, 4) };
    let (ks, fs) = (Even::new(channels, most_channels), Even::new(s.d, most_filters));
    let row = s.ow * s.d * LANES + s.sh * line;
    let rows = (PASS / row).clamp(1, s.oh);
    for from in (0..s.oh).step_by(rows) {
        let to = s.oh.min(from + rows);
        for kh in 0..s.kh {
            for place in 0..places {
                for k in 0..ks.parts {
                    let k = ks.range(k);
                    for f in 0..fs.parts {
                        let f = fs.range(f);
                        let weight = ((kh * places + place) * channels + k.start) * s.d + f.start;
                        // SAFETY: see `backward_weights`.
                        unsafe {
                            let t = Tile {
                                x: x.as_ptr().add(
                                    (from * s.sh + kh * s.dh) * line
                                        + place * s.dw * pixel
                                        + k.start * LANES,
                                ),
                                x_row: s.sh * line,
                                x_px: s.sw * pixel,
                                dy: dy.as_ptr().add((from * s.ow * s.d + f.start) * LANES),
                                dy_px: s.d * LANES,
                                rows: to - from,
                                columns: s.ow,
                                sums: sums.as_mut_ptr().add(weight * LANES),
                                sums_k: s.d * LANES,
                                first: from == 0,
                            };
                            run::<S>(&t, k.len(), f.len());
                        }
                    }
                }
            }
        }
    }
}

/// `sums[k, f] += Σ over rows and columns of x[k] · dy[f]`, sixteen pictures each.
struct Tile {
    x: *const f32,
    x_row: usize,
    x_px: usize,
    dy: *const f32,
    dy_px: usize,
    rows: usize,
    columns: usize,
    sums: *mut f32,
    sums_k: usize,
    /// Whether sums start from zero.
    first: bool,
}

#[inline(always)]
unsafe fn run<S: Simd>(t: &Tile, k: usize, f: usize) {
    macro_rules! pick {
        ($(($k:literal, $f:literal)),*) => {
            match (k, f) {
                // SAFETY: the caller's contract.
                $(($k, $f) => unsafe { tile::<S, $k, $f>(t) },)*
                _ => unreachable!("no lanes tile of {k} channels by {f} filters"),
            }
        };
    }
    pick!(
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (1, 5),
        (1, 6),
        (2, 1),
        (2, 2),
        (2, 3),
        (2, 4),
        (2, 5),
        (2, 6),
        (3, 1),
        (3, 2),
        (3, 3),
        (3, 4),
        (3, 5),
        (3, 6),
        (4, 1),
        (4, 2),
        (4, 3),
        (4, 4),
        (4, 5),
        (4, 6)
    );
}

#[inline(always)]
unsafe fn tile<S: Simd, const K: usize, const F: usize>(t: &Tile) {
    for half in (0..LANES).step_by(S::LANES) {
        // SAFETY: the caller's contract: all addresses hold sixteen numbers.
        unsafe {
            let out = t.sums.add(half);
            let mut sums = [[S::splat(0.0); F]; K];
            if !t.first {
                for (k, sums) in sums.iter_mut().enumerate() {
                    for (f, sum) in sums.iter_mut().enumerate() {
                        *sum = S::load(out.add(k * t.sums_k + f * LANES));
                    }
                }
            }
            for row in 0..t.rows {
                let mut x = t.x.add(row * t.x_row + half);
                let mut dy = t.dy.add(row * t.columns * t.dy_px + half);
                for _ in 0..t.columns {
                    let mut g = [S::splat(0.0); F];
                    for (f, g) in g.iter_mut().enumerate() {
                        *g = S::load(dy.add(f * LANES));
                    }
                    for (k, sums) in sums.iter_mut().enumerate() {
                        let v = S::load(x.add(k * LANES));
                        for (sum, &g) in sums.iter_mut().zip(&g) {
                            *sum = S::fma(v, g, *sum);
                        }
                    }
                    x = x.wrapping_add(t.x_px);
                    dy = dy.wrapping_add(t.dy_px);
                }
            }
            for (k, sums) in sums.into_iter().enumerate() {
                for (f, sum) in sums.into_iter().enumerate() {
                    S::store(out.add(k * t.sums_k + f * LANES), sum);
                }
            }
        }
    }
}

/// Vectors of filters and input numbers of a dense tile.
const WIDE: usize = 4;
const TALL: usize = 4;

/// A dense layer: `dw [c, d] += Σ over pictures of x · dy`, filters in the lanes, `dy` turned first.
#[inline(always)]
unsafe fn dense_body<S: Simd>(
    s: ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    turned: &mut [f32],
) {
    let line = turned.len() / LANES;
    for (p, row) in turned.chunks_exact_mut(line).enumerate() {
        row[s.d..].fill(0.0);
        for (v, of) in row.iter_mut().zip(dy.chunks_exact(LANES)) {
            *v = of[p];
        }
    }
    for from in (0..s.c).step_by(TALL) {
        let tall = TALL.min(s.c - from);
        for at in (0..s.d).step_by(WIDE * S::LANES) {
            let d = s.d - at;
            // SAFETY: rows `from..from + tall` of `dw` and `x`; lanes below `d`.
            unsafe {
                let (x, dw) = (x.as_ptr().add(from * LANES), dw.as_mut_ptr().add(from * s.d + at));
                let dy = turned.as_ptr().add(at);
                match tall {
                    TALL => dense_tile::<S, TALL>(x, dy, line, dw, s.d, d),
                    _ => (0..tall).for_each(|k| {
                        dense_tile::<S, 1>(x.add(k * LANES), dy, line, dw.add(k * s.d), s.d, d)
                    }),
                }
            }
        }
    }
}

/// `T` rows by up to four vectors of the first `d` filters.
#[inline(always)]
unsafe fn dense_tile<S: Simd, const T: usize>(
    x: *const f32,
    dy: *const f32,
    line: usize,
    dw: *mut f32,
    stride: usize,
    d: usize,
) {
    let wide = d.div_ceil(S::LANES).min(WIDE);
    for v in 0..wide {
        let used = (d - v * S::LANES).min(S::LANES);
        // SAFETY: the caller's contract; `turned` is padded to whole vectors.
        unsafe {
            let m = S::mask(used);
            let mut sums = [S::splat(0.0); T];
            for p in 0..LANES {
                let g = S::load(dy.add(p * line + v * S::LANES));
                for (k, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::splat(*x.add(k * LANES + p)), g, *sum);
                }
            }
            for (k, sum) in sums.into_iter().enumerate() {
                let out = dw.add(k * stride + v * S::LANES);
                S::store_first(out, S::add(S::load_first(out, m), sum), m);
            }
        }
    }
}

/// `db [d] += Σ over pixels and pictures of dy [pixels, d, 16]`.
pub fn bias_gradient(isa: Isa, dy: &[f32], db: &mut [f32]) {
    // SAFETY: `dy` is whole pixels of `db.len()` times sixteen numbers.
    unsafe { simd!(isa, bias_body(dy: &[f32], db: &mut [f32])) };
}

#[inline(always)]
unsafe fn bias_body<S: Simd>(dy: &[f32], db: &mut [f32]) {
    let d = db.len();
    let pixels = dy.len() / (d * LANES);
    for (f, db) in db.iter_mut().enumerate() {
        let mut sums = [0.0; LANES];
        for half in (0..LANES).step_by(S::LANES) {
            // SAFETY: pixel and filter lie within `dy`.
            unsafe {
                let mut sum = [S::splat(0.0); 4];
                for p in 0..pixels {
                    let v = S::load(dy.as_ptr().add((p * d + f) * LANES + half));
                    sum[p % 4] = S::add(sum[p % 4], v);
                }
                let [a, b, c, d] = sum;
                S::store(sums.as_mut_ptr().add(half), S::add(S::add(a, b), S::add(c, d)));
            }
        }
        *db += self::sum(&sums);
    }
}
