//! Dense layers with more weights than caches hold, over few samples: such a layer takes as long as its
//! weights take to be read, so they are read once, where they lie, and put in the order of the tiles
//! block by block in the second cache.
//!
//! Forward sums over inputs, backward-data over units: `C [m, lanes] = Σ A [m, depth] · W`, with the
//! lanes of forward along the rows of `W [inputs, units]` and those of backward-data across them.

use super::{ConvShape, Epilogue};
use crate::gemm::{Even, Family, Panel, Simd, Start, Tap, Tile};
use crate::isa::simd;
use crate::{Ctx, Isa, SharedMut, cut};
use std::ops::Range;

/// Samples up to which it pays.
const MOST_SAMPLES: usize = 96;
/// Weights from which it pays: 1 MB.
const FEWEST_WEIGHTS: usize = cut(256 * 1024, 64);
/// Depth of a block: forward reads that many rows, backward-data that many numbers of each row.
const DEPTH: [usize; 2] = [cut(64, 4), cut(256, 8)];
/// Lanes of a block at most.
const LANES: [usize; 2] = [cut(512, 32), cut(128, 16)];

/// Forward or backward-data of a dense layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dense {
    isa: Isa,
    /// Length of the sum.
    depth: usize,
    /// Outputs.
    lanes: usize,
    /// Whether the lanes lie across the rows of the weights.
    across: bool,
}

impl Dense {
    /// Forward and backward-data, where the shape is one that they serve.
    pub fn both(s: &ConvShape, isa: Isa, batch: usize) -> Option<[Self; 2]> {
        let one_pixel = (s.h, s.w, s.kh, s.kw, s.groups) == (1, 1, 1, 1, 1)
            && (s.top, s.left, s.oh, s.ow) == (0, 0, 1, 1);
        let large = s.filter_len() >= FEWEST_WEIGHTS && batch <= MOST_SAMPLES;
        (one_pixel && large).then_some([
            Dense { isa, depth: s.c, lanes: s.d, across: false },
            Dense { isa, depth: s.d, lanes: s.c, across: true },
        ])
    }

    fn block(&self) -> (usize, usize) {
        (DEPTH[usize::from(self.across)], LANES[usize::from(self.across)])
    }

    /// Floats of one thread's block of weights and of A.
    pub fn scratch_len(&self, batch: usize) -> usize {
        let (depth, lanes) = self.block();
        depth * (lanes.next_multiple_of(Family::of(self.isa).width()) + batch)
    }

    /// `c [m, lanes] (+)= a [m, depth] · weights`, with bias and bounds.
    pub fn run(
        &self,
        cx: Ctx,
        m: usize,
        a: &[f32],
        weights: &[f32],
        c: &mut [f32],
        accumulate: bool,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        assert!(weights.len() >= self.depth * self.lanes, "weights are too short");
        assert!(a.len() >= m * self.depth && c.len() >= m * self.lanes, "maps are too short");
        let per_worker = scratch.len() / cx.pool.threads();
        let family = Family::of(self.isa);
        // Blocks begin where panels do.
        let panels = self.lanes.div_ceil(family.width());
        let most = (self.block().1 / family.width()).max(1);
        let items =
            Even::parts(panels, panels.div_ceil(most).max((2 * cx.pool.threads()).min(panels)));
        let (c, scratch) = (SharedMut::new(c), SharedMut::new(scratch));
        cx.pool.run(items.parts, &|item, worker| {
            let range = items.range(item);
            // SAFETY: each worker has its own part of the scratch.
            let scratch = unsafe { scratch.slice(worker * per_worker..(worker + 1) * per_worker) };
            self.item(&family, range, m, (a, weights), &c, accumulate, epilogue, scratch);
        });
    }

    /// The outputs of some panels, block by block of the sum.
    fn item(
        &self,
        family: &Family,
        panels: Range<usize>,
        m: usize,
        (a, weights): (&[f32], &[f32]),
        c: &SharedMut<f32>,
        accumulate: bool,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        let blocks = Even::new(self.depth, self.block().0);
        let (block, a_block) = scratch.split_at_mut(scratch.len() - m * self.block().0);
        let panels = family.panels(self.lanes).skip(panels.start).take(panels.len());
        for i in 0..blocks.parts {
            let k = blocks.range(i);
            for (row, out) in a_block.chunks_exact_mut(k.len()).take(m).enumerate() {
                out.copy_from_slice(&a[row * self.depth + k.start..][..k.len()]);
            }
            self.pack(family, panels.clone(), k.clone(), weights, block);
            let last = i + 1 == blocks.parts;
            let tap = Tap { a: 0, b: 0 };
            let strips = Even::new(m, family.pixels);
            for part in 0..strips.parts {
                let strip = strips.range(part);
                let mut at = 0;
                for panel in panels.clone() {
                    let bias = epilogue.bias.filter(|_| last).map(|b| b[panel.start..].as_ptr());
                    let tile = Tile {
                        taps: &tap,
                        ntaps: 1,
                        k: k.len(),
                        a: a_block[strip.start * k.len()..].as_ptr(),
                        a_row: 0,
                        a_px: k.len(),
                        a_k: 1,
                        b: block[at..].as_ptr(),
                        b_k: panel.width,
                        // SAFETY: sample and panel lie within `c`.
                        c: unsafe { c.as_mut_ptr().add(strip.start * self.lanes + panel.start) },
                        c_row: 0,
                        c_px: self.lanes,
                        last: panel.last(),
                        start: if accumulate || i > 0 { Start::Load } else { Start::Zero },
                        bias: bias.unwrap_or(std::ptr::null()),
                        residual: std::ptr::null(),
                        clamp: epilogue.clamp.filter(|_| last),
                        ahead: std::ptr::null(),
                        stream: false,
                    };
                    // SAFETY: A and B hold `k` numbers of each sample and panel; the panels of C are
                    // this item's alone.
                    unsafe { family.tile(1, strip.len(), panel)(&tile) };
                    at += panel.width * k.len();
                }
            }
        }
    }

    /// A block of the weights as tiles read it: `[panel][depth][lane]`, missing lanes zero.
    fn pack(
        &self,
        family: &Family,
        panels: impl Iterator<Item = Panel> + Clone,
        k: Range<usize>,
        weights: &[f32],
        block: &mut [f32],
    ) {
        let _ = family;
        if self.across {
            let mut rest = block;
            for panel in panels {
                let (out, others) = rest.split_at_mut(panel.width * k.len());
                turn(weights, self.depth, panel, k.clone(), out);
                rest = others;
            }
            return;
        }
        let Some(first) = panels.clone().next() else { return };
        let used: usize = panels.map(|p| p.used).sum();
        let (rows, stride) = (&weights[k.start * self.lanes + first.start..], self.lanes);
        let (n, width) = (k.len(), family.width());
        assert!((n - 1) * stride + used <= rows.len(), "weights are too short");
        assert!(block.len() >= n * used.next_multiple_of(width), "block is too short");
        // SAFETY: rows end within the weights; panels of whole vectors within the block.
        unsafe {
            simd!(self.isa, copy_rows(rows: &[f32], stride: usize, n: usize, used: usize, width: usize, block: &mut [f32]))
        };
    }
}

/// `block [panel][row][lane] = rows [n, used]`, `stride` floats from row to row; missing lanes zero.
#[inline(always)]
unsafe fn copy_rows<S: Simd>(
    rows: &[f32],
    stride: usize,
    n: usize,
    used: usize,
    width: usize,
    block: &mut [f32],
) {
    for row in 0..n {
        let from = rows.as_ptr().wrapping_add(row * stride);
        for start in (0..used).step_by(width) {
            let padded = (used - start).min(width).next_multiple_of(S::LANES);
            for at in (0..padded).step_by(S::LANES) {
                let lanes = (used - start - at).min(S::LANES);
                // SAFETY: the caller's contract.
                unsafe {
                    let m = S::mask(lanes);
                    // Main memory answers late: rows are asked for well ahead.
                    S::prefetch(from.wrapping_add(6 * stride + start + at));
                    let v = S::load_first(from.wrapping_add(start + at), m);
                    S::store(block.as_mut_ptr().add(start * n + row * padded + at), v);
                }
            }
        }
    }
}

/// `out [k][lane] = weights[lane, k]` for a panel of rows of `weights [_, units]`.
fn turn(weights: &[f32], units: usize, panel: Panel, k: Range<usize>, out: &mut [f32]) {
    // Sixteen numbers of each row at a time: reads and writes stay in few lines.
    for (block, out) in out.chunks_mut(16 * panel.width).enumerate() {
        let n = out.len() / panel.width;
        for lane in 0..panel.used {
            let from = &weights[(panel.start + lane) * units + k.start + 16 * block..][..n];
            for (i, &v) in from.iter().enumerate() {
                out[i * panel.width + lane] = v;
            }
        }
        for row in out.chunks_exact_mut(panel.width) {
            row[panel.used..].fill(0.0);
        }
    }
}
