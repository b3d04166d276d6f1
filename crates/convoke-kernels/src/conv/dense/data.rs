//! Backward-data: samples lie in the lanes, so that weights are multiplied in the order in which they lie. Some rows
//! of them are copied [`DEPTH`] numbers at a time, since rows whose lengths are powers of two share places of the
//! nearest cache, and sums are turned at the end.

use super::Dense;
use super::words::Call;
use crate::gemm::{Even, LINE};
use crate::{Ctx, SharedMut, cut};
use std::ops::Range;

/// Numbers of each row that are copied at a time.
const DEPTH: usize = cut(64, 16);
/// Copies for which weights are asked for together: while each is multiplied, one row's numbers for all of the next.
const TOGETHER: usize = LINE;
/// Blocks of rows that a thread takes at a time, so that dy comes from the second cache.
const ITEM: usize = cut(8, 2);

impl Dense {
    /// Numbers of the sum that are copied at a time.
    fn depth(&self) -> usize {
        DEPTH * self.words.numbers()
    }

    /// Samples in whole vectors.
    fn lanes(&self, m: usize) -> usize {
        self.words.family().padded(m)
    }

    /// Floats of each thread's copy and sums.
    fn data_own_len(&self, batch: usize) -> usize {
        self.words.family().pixels * (DEPTH + ITEM * self.lanes(batch))
    }

    /// Floats of dy in words, and of each thread's copy and sums.
    pub fn data_scratch_len(&self, batch: usize, threads: usize) -> usize {
        let steps = self.units.div_ceil(self.depth());
        steps * DEPTH * self.lanes(batch) + threads * self.data_own_len(batch)
    }

    /// `dx [m, inputs] (+)= dy [m, units] · weightsᵀ`.
    pub fn data(
        &self,
        cx: Ctx,
        m: usize,
        dy: &[f32],
        weights: &[f32],
        dx: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        assert!(weights.len() >= self.inputs * self.units, "weights are too short");
        assert!(dx.len() >= m * self.inputs && dy.len() >= m * self.units, "maps are too short");
        let (threads, own) = (cx.pool.threads(), self.data_own_len(m));
        let (b, owns) = scratch.split_at_mut(scratch.len() - threads * own);
        let lanes = self.lanes(m);
        let b = &mut b[..self.units.div_ceil(self.depth()) * DEPTH * lanes];
        cx.pool.for_chunks_mut(b, DEPTH * lanes, |i, b, _| self.turn(i, m, dy, b));
        let blocks = Even::new(self.inputs, self.words.family().pixels);
        let items = Even::parts(blocks.parts, blocks.parts.div_ceil(ITEM));
        let (b, dx, owns) = (&*b, SharedMut::new(dx), SharedMut::new(owns));
        cx.pool.run(items.parts, &|item, worker| {
            // SAFETY: each worker has its own part.
            let own = unsafe { owns.slice(worker * own..(worker + 1) * own) };
            let (copy, sums) = own.split_at_mut(self.words.family().pixels * DEPTH);
            let item = items.range(item);
            self.sums(blocks, item.clone(), lanes, weights, b, copy, sums);
            let rows = blocks.range(item.start).start..blocks.range(item.end - 1).end;
            for sample in 0..m {
                let at = sample * self.inputs + rows.start;
                // SAFETY: these rows' part of a sample is this item's alone.
                let dx = unsafe { dx.slice(at..at + rows.len()) };
                for (i, dx) in dx.iter_mut().enumerate() {
                    let sum = sums[i * lanes + sample];
                    *dx = if accumulate { *dx + sum } else { sum };
                }
            }
        });
    }

    /// `b [word][sample]` of the numbers that are copied `i`-th.
    fn turn(&self, i: usize, m: usize, dy: &[f32], b: &mut [f32]) {
        let lanes = self.lanes(m);
        let range = i * self.depth()..((i + 1) * self.depth()).min(self.units);
        let mut row = [0.0; DEPTH];
        for sample in 0..lanes {
            if sample < m {
                self.words.row(&dy[sample * self.units..][range.clone()], &mut row);
            } else {
                row.fill(0.0);
            }
            for (word, b) in row.iter().zip(b.chunks_exact_mut(lanes)) {
                b[sample] = *word;
            }
        }
    }

    /// `sums [row][sample]` of an item's blocks of rows of the weights.
    fn sums(
        &self,
        blocks: Even,
        item: Range<usize>,
        lanes: usize,
        weights: &[f32],
        b: &[f32],
        copy: &mut [f32],
        sums: &mut [f32],
    ) {
        let first = blocks.range(item.start).start;
        let groups = Even::new(self.units.div_ceil(self.depth()), TOGETHER);
        for group in 0..groups.parts {
            let steps = groups.range(group);
            for block in item.clone() {
                // What is read next: the same columns of the next rows, or the next columns of the first.
                let (next, column) = match block + 1 < item.end {
                    true => (blocks.range(block + 1), steps.start),
                    false if group + 1 < groups.parts => (blocks.range(item.start), steps.end),
                    false => (0..0, 0),
                };
                let rows = blocks.range(block);
                for (i, step) in steps.clone().enumerate() {
                    let ahead = match i < next.len() {
                        true => {
                            &raw const weights
                                [(next.start + i) * self.units + column * self.depth()]
                        }
                        false => std::ptr::null(),
                    };
                    let sums = &mut sums[(rows.start - first) * lanes..];
                    self.step(rows.clone(), step, lanes, weights, b, ahead, copy, sums);
                }
            }
        }
    }

    /// Adds the numbers that are copied at a time to the sums of some rows.
    fn step(
        &self,
        rows: Range<usize>,
        step: usize,
        lanes: usize,
        weights: &[f32],
        b: &[f32],
        mut ahead: *const f32,
        copy: &mut [f32],
        sums: &mut [f32],
    ) {
        let (words, units) = (self.words, self.units);
        let k = step * self.depth()..((step + 1) * self.depth()).min(units);
        words.rows(
            &weights[rows.start * units + k.start..],
            units,
            rows.len(),
            k.len(),
            DEPTH,
            copy,
        );
        for panel in words.family().panels(lanes) {
            let call = Call {
                k: words.of(k.len()),
                pixels: rows.len(),
                a: copy.as_ptr(),
                a_px: DEPTH,
                b: b[step * DEPTH * lanes + panel.start..].as_ptr(),
                b_k: lanes,
                c: sums[panel.start..].as_mut_ptr(),
                c_px: lanes,
                add: step > 0,
                ahead: std::mem::replace(&mut ahead, std::ptr::null()),
                ahead_k: LINE,
                ..Call::new(panel)
            };
            // SAFETY: the copy, B and the sums hold every word of these rows and samples.
            unsafe { words.run(&call) };
        }
    }
}
