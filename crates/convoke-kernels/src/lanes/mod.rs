//! Convolution and dense layers with pictures in the lanes: maps are `[h, w, c, 16]`, sixteen pictures
//! at a time. Filters are read one number at a time, so few filters and few channels, which would leave
//! most lanes of other kernels empty, cost no more than their multiply-adds. Layers that treat every
//! channel alike (pooling, activations) see such maps as maps of `16 · c` channels.
//!
//! Everything here runs on the calling thread: groups of pictures are what runs side by side.

mod tile;
mod weights;

pub use weights::{backward_weights, bias_gradient, weights_scratch_len};

use crate::Isa;
use crate::conv::ConvShape;
use crate::gemm::{Even, Simd};
use crate::isa::simd;
use tile::{Taps, Tile};

/// Pictures of a group.
pub const LANES: usize = 16;

/// `rows [n, len]` of up to 16 pictures, times `scale`, as `lanes [len, 16]`; missing pictures are zero.
pub fn gather(rows: &[f32], len: usize, scale: f32, lanes: &mut [f32]) {
    let lanes = &mut lanes[..len * LANES];
    if rows.len() < len * LANES {
        lanes.fill(0.0);
    }
    // Sixteen numbers of each picture at a time: what is read and written stays in few lines.
    for (block, out) in lanes.chunks_mut(LANES * LANES).enumerate() {
        for (p, row) in rows.chunks_exact(len).enumerate() {
            for (i, out) in out.chunks_exact_mut(LANES).enumerate() {
                out[p] = row[block * LANES + i] * scale;
            }
        }
    }
}

/// `lanes [len, 16]` as `rows [n, len]`.
pub fn scatter(lanes: &[f32], len: usize, rows: &mut [f32]) {
    for (p, row) in rows.chunks_exact_mut(len).enumerate() {
        for (v, of) in row.iter_mut().zip(lanes.chunks_exact(LANES)) {
            *v = of[p];
        }
    }
}

/// Whether the kernels of this module know the convolution.
pub fn knows(s: &ConvShape) -> bool {
    s.groups == 1 && ((s.dh, s.dw) == (1, 1) || (s.sh, s.sw) == (1, 1))
}

/// A map with zeros around it, or with rows and columns cut off.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Rows and columns of zeros above and to the left; negative where they are cut off.
    top: isize,
    left: isize,
    h: usize,
    w: usize,
}

impl Frame {
    /// The rows and columns that the windows of a convolution cover.
    fn forward(s: &ConvShape) -> Self {
        Frame {
            top: s.top as isize,
            left: s.left as isize,
            h: (s.oh - 1) * s.sh + (s.kh - 1) * s.dh + 1,
            w: (s.ow - 1) * s.sw + (s.kw - 1) * s.dw + 1,
        }
    }

    /// The rows and columns of outputs that see some input.
    fn backward(s: &ConvShape) -> Self {
        let axis = |pad: usize, reach: usize, step: usize, size: usize| {
            let first = (pad as isize - reach as isize).div_euclid(step as isize);
            (-first, ((size - 1 + pad) / step) as isize - first + 1)
        };
        let (top, h) = axis(s.top, (s.kh - 1) * s.dh, s.sh, s.h);
        let (left, w) = axis(s.left, (s.kw - 1) * s.dw, s.sw, s.w);
        Frame { top, left, h: h as usize, w: w as usize }
    }

    fn len(&self, c: usize) -> usize {
        self.h * self.w * c * LANES
    }

    /// The map within the frame: itself where the frame is the map, else a copy in `scratch`.
    fn fill<'a>(
        &self,
        map: &'a [f32],
        (h, w, c): (usize, usize, usize),
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        if (self.top, self.left, self.h, self.w) == (0, 0, h, w) {
            return map;
        }
        let (pixel, line) = (c * LANES, self.w * c * LANES);
        let before = self.left.clamp(0, self.w as isize) as usize;
        let first = (-self.left).clamp(0, w as isize) as usize;
        let copied = (self.w - before).min(w - first);
        for (r, out) in scratch[..self.h * line].chunks_exact_mut(line).enumerate() {
            let y = r as isize - self.top;
            if y < 0 || y >= h as isize {
                out.fill(0.0);
                continue;
            }
            let from = (y as usize * w + first) * pixel;
            out[..before * pixel].fill(0.0);
            out[before * pixel..][..copied * pixel].copy_from_slice(&map[from..][..copied * pixel]);
            out[(before + copied) * pixel..].fill(0.0);
        }
        &scratch[..self.h * line]
    }
}

/// Floats of work space for [`forward`].
pub fn forward_scratch_len(s: &ConvShape) -> usize {
    Frame::forward(s).len(s.c)
}

/// Floats of work space for [`backward_data`].
pub fn backward_scratch_len(s: &ConvShape) -> usize {
    Frame::backward(s).len(s.d)
}

/// `y [oh,ow,d,16] = clamp(x [h,w,c,16] ∗ filters [kh,kw,c,d] + bias)`.
pub fn forward(
    isa: Isa,
    s: &ConvShape,
    x: &[f32],
    filters: &[f32],
    bias: Option<&[f32]>,
    clamp: Option<(f32, f32)>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let s = *s;
    assert!(knows(&s) && filters.len() >= s.filter_len(), "not a convolution for lanes");
    assert!(y.len() >= s.y_len() * LANES && bias.is_none_or(|b| b.len() >= s.d));
    let x = Frame::forward(&s).fill(&x[..s.x_len() * LANES], (s.h, s.w, s.c), scratch);
    // SAFETY: windows stay within the frame; outputs within `y`.
    unsafe {
        simd!(isa, forward_body(s: ConvShape, x: &[f32], filters: &[f32], bias: Option<&[f32]>,
            clamp: Option<(f32, f32)>, y: &mut [f32]))
    };
}

#[inline(always)]
unsafe fn forward_body<S: Simd>(
    s: ConvShape,
    x: &[f32],
    filters: &[f32],
    bias: Option<&[f32]>,
    clamp: Option<(f32, f32)>,
    y: &mut [f32],
) {
    let pixel = s.c * LANES;
    let line = Frame::forward(&s).w * pixel;
    // Neighbouring places of a window row are one run of numbers.
    let (places, k) = if s.dw == 1 { (1, s.kw * s.c) } else { (s.kw, s.c) };
    let size = tile::size::<S>(s.d, s.ow);
    let columns = Even::new(s.ow, size.pixels);
    let blocks = Even::new(s.d, size.filters);
    for oy in 0..s.oh {
        for part in 0..columns.parts {
            let ox = columns.range(part);
            for block in 0..blocks.parts {
                let f = blocks.range(block);
                // SAFETY: see `forward`.
                unsafe {
                    let t = Tile {
                        x: x.as_ptr().add(oy * s.sh * line + ox.start * s.sw * pixel),
                        x_px: s.sw * pixel,
                        rows: Taps {
                            n: s.kh,
                            x: (s.dh * line) as isize,
                            w: (s.kw * s.c * s.d) as isize,
                        },
                        places: Taps {
                            n: places,
                            x: (s.dw * pixel) as isize,
                            w: (s.c * s.d) as isize,
                        },
                        k,
                        w: filters.as_ptr().add(f.start),
                        w_k: s.d,
                        w_f: 1,
                        y: y.as_mut_ptr().add(((oy * s.ow + ox.start) * s.d + f.start) * LANES),
                        y_px: s.d * LANES,
                        bias: bias.map_or(std::ptr::null(), |b| b[f.start..].as_ptr()),
                        clamp,
                        load: false,
                    };
                    tile::run::<S, true>(&t, f.len(), ox.len());
                }
            }
        }
    }
}

/// `dx [h,w,c,16] (+)= dy [oh,ow,d,16] ∗ flipped, transposed filters`, one walk per parity of the
/// stride.
pub fn backward_data(
    isa: Isa,
    s: &ConvShape,
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    scratch: &mut [f32],
) {
    let s = *s;
    assert!(knows(&s) && filters.len() >= s.filter_len(), "not a convolution for lanes");
    assert!(dx.len() >= s.x_len() * LANES, "input gradient is too short");
    let dy = Frame::backward(&s).fill(&dy[..s.y_len() * LANES], (s.oh, s.ow, s.d), scratch);
    // SAFETY: all outputs that see an input lie within the frame; inputs within `dx`.
    unsafe {
        simd!(isa, backward_body(s: ConvShape, dy: &[f32], filters: &[f32], dx: &mut [f32], accumulate: bool))
    };
}

#[inline(always)]
unsafe fn backward_body<S: Simd>(
    s: ConvShape,
    dy: &[f32],
    filters: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let frame = Frame::backward(&s);
    let (pixel, line) = (s.d * LANES, frame.w * s.d * LANES);
    for iy in 0..s.h {
        // Window rows that see this input row: `first`, `first + stride`, …, each one output up.
        let first_row = (iy + s.top) % s.sh;
        let oy = (iy + s.top) / s.sh;
        // Rows of outputs beyond the map would only add zeros.
        let skipped = (oy + 1).saturating_sub(s.oh).div_ceil(s.dh);
        let row_taps =
            s.kh.saturating_sub(first_row)
                .div_ceil(s.sh)
                .min(oy / s.dh + 1)
                .saturating_sub(skipped);
        let row = oy as isize - (skipped * s.dh) as isize + frame.top;
        let first_row = first_row + skipped * s.sh;
        for first_ix in 0..s.sw.min(s.w) {
            let first_col = (first_ix + s.left) % s.sw;
            let col_taps = s.kw.saturating_sub(first_col).div_ceil(s.sw);
            let count = (s.w - first_ix).div_ceil(s.sw);
            let size = tile::size::<S>(s.c, count);
            let columns = Even::new(count, size.pixels);
            let blocks = Even::new(s.c, size.filters.min(8));
            for part in 0..columns.parts {
                let range = columns.range(part);
                let ix = first_ix + range.start * s.sw;
                let col = (ix + s.left) as isize / s.sw as isize + frame.left;
                for block in 0..blocks.parts {
                    let c = blocks.range(block);
                    let w = (first_row * s.kw + first_col) * s.c * s.d + c.start * s.d;
                    // SAFETY: see `backward_data`.
                    unsafe {
                        let t = Tile {
                            x: dy.as_ptr().offset(row * line as isize + col * pixel as isize),
                            x_px: pixel,
                            rows: Taps {
                                n: row_taps,
                                x: -((s.dh * line) as isize),
                                w: (s.sh * s.kw * s.c * s.d) as isize,
                            },
                            places: Taps {
                                n: col_taps,
                                x: -((s.dw * pixel) as isize),
                                w: (s.sw * s.c * s.d) as isize,
                            },
                            k: s.d,
                            w: filters.as_ptr().wrapping_add(w),
                            w_k: 1,
                            w_f: s.d,
                            y: dx.as_mut_ptr().add(((iy * s.w + ix) * s.c + c.start) * LANES),
                            y_px: s.sw * s.c * LANES,
                            bias: std::ptr::null(),
                            clamp: None,
                            load: accumulate,
                        };
                        tile::run::<S, false>(&t, c.len(), range.len());
                    }
                }
            }
        }
    }
}
