//! Forward: weights are copied in blocks of a few cache lines of [`DEPTH`] rows, which the strips of samples then
//! read from the nearest cache, and which are asked for some blocks before. Sums lie together until they are whole:
//! samples whose lengths are powers of two share places of the caches.

use super::Dense;
use super::words::{Call, ask};
use crate::conv::Epilogue;
use crate::gemm::{Even, LINE, Panel};
use crate::{Ctx, SharedMut, cut};
use std::ops::Range;

/// Rows of a block: enough that sums are seldom read and written.
const DEPTH: usize = cut(128, 8);
/// Blocks from asking to reading.
const AHEAD: usize = 1;
/// Outputs that a thread takes at a time at most.
const LANES: usize = cut(512, 32);

impl Dense {
    /// Floats of x in words, and of each thread's block and sums.
    pub fn forward_scratch_len(&self, batch: usize, threads: usize) -> usize {
        let own = self.block_len() + batch * LANES;
        self.forward_blocks() * batch * self.words.of(DEPTH) + threads * own
    }

    fn forward_blocks(&self) -> usize {
        self.inputs.div_ceil(DEPTH)
    }

    fn block_len(&self) -> usize {
        self.words.of(DEPTH) * self.words.family().width()
    }

    /// `y [m, units] = x [m, inputs] · weights`, with bias and bounds.
    pub fn forward(
        &self,
        cx: Ctx,
        m: usize,
        x: &[f32],
        weights: &[f32],
        y: &mut [f32],
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        assert!(weights.len() >= self.inputs * self.units, "weights are too short");
        assert!(x.len() >= m * self.inputs && y.len() >= m * self.units, "maps are too short");
        let threads = cx.pool.threads();
        let own = self.block_len() + m * LANES;
        let (a, owns) = scratch.split_at_mut(scratch.len() - threads * own);
        let k = self.words.of(DEPTH);
        cx.pool.for_chunks_mut(&mut a[..self.forward_blocks() * m * k], m * k, |i, a, _| {
            let from = i * DEPTH..((i + 1) * DEPTH).min(self.inputs);
            for (row, a) in a.chunks_exact_mut(k).enumerate() {
                self.words.row(&x[row * self.inputs..][from.clone()], a);
            }
        });
        let family = self.words.family();
        let panels = Even::new(self.units.div_ceil(family.width()), LANES / family.width());
        let items = Even::parts(self.units.div_ceil(family.width()), panels.parts.max(2 * threads));
        let (y, owns) = (SharedMut::new(y), SharedMut::new(owns));
        cx.pool.run(items.parts, &|item, worker| {
            // SAFETY: each worker has its own part.
            let own = unsafe { owns.slice(worker * own..(worker + 1) * own) };
            let (block, sums) = own.split_at_mut(self.block_len());
            let panels = items.range(item);
            self.outputs(panels.clone(), m, a, weights, epilogue, block, sums);
            for (panel, sums) in self.panels(&panels).zip(sums.chunks(m * family.width())) {
                for (sample, sums) in sums.chunks(panel.width).take(m).enumerate() {
                    let at = sample * self.units + panel.start;
                    // SAFETY: these outputs are this item's alone.
                    let y = unsafe { y.slice(at..at + panel.used) };
                    y.copy_from_slice(&sums[..panel.used]);
                }
            }
        });
    }

    fn panels(&self, of: &Range<usize>) -> impl Iterator<Item = Panel> + Clone {
        self.words.family().panels(self.units).skip(of.start).take(of.len())
    }

    /// `sums [panel][sample][lane]` of some panels, with bias and bounds.
    fn outputs(
        &self,
        panels: Range<usize>,
        m: usize,
        a: &[f32],
        weights: &[f32],
        epilogue: Epilogue,
        block: &mut [f32],
        sums: &mut [f32],
    ) {
        let (words, family) = (self.words, self.words.family());
        let strips = Even::new(m, family.pixels);
        let k = words.of(DEPTH);
        let lines = family.width().div_ceil(LINE);
        for i in 0..self.forward_blocks() {
            let rows = i * DEPTH..((i + 1) * DEPTH).min(self.inputs);
            let last = rows.end == self.inputs;
            for (j, panel) in self.panels(&panels).enumerate() {
                let from = &weights[rows.start * self.units + panel.start..];
                words.columns(from, self.units, rows.len(), panel.used, panel.width, block);
                // The block to ask for, of this item's.
                let next = i * panels.len() + j + AHEAD;
                let (next, at) = (next / panels.len(), panels.start + next % panels.len());
                let next = match next < self.forward_blocks() {
                    true => &raw const weights[next * DEPTH * self.units + at * family.width()],
                    false => std::ptr::null(),
                };
                for line in strips.parts..lines {
                    ask(words.isa(), next.wrapping_add(line * LINE), self.units, DEPTH);
                }
                for part in 0..strips.parts {
                    let strip = strips.range(part);
                    let ahead = next.wrapping_add(part * LINE);
                    let call = Call {
                        k: words.of(rows.len()),
                        pixels: strip.len(),
                        a: a[(i * m + strip.start) * k..].as_ptr(),
                        a_px: k,
                        b: block.as_ptr(),
                        b_k: panel.width,
                        c: sums[j * m * family.width() + strip.start * panel.width..].as_mut_ptr(),
                        c_px: panel.width,
                        add: i > 0,
                        bias: match epilogue.bias {
                            Some(bias) if last => bias[panel.start..].as_ptr(),
                            _ => std::ptr::null(),
                        },
                        clamp: epilogue.clamp.filter(|_| last),
                        ahead: if part < lines && !next.is_null() {
                            ahead
                        } else {
                            std::ptr::null()
                        },
                        ahead_k: self.units,
                        ..Call::new(panel)
                    };
                    // SAFETY: A, B and the sums hold every word of these samples and lanes.
                    unsafe { words.run(&call) };
                }
            }
        }
    }
}
