//! The weights' gradient: every number of it is summed over all samples in one visit, row by row as it lies, and
//! written past the caches where it is long.

use super::Dense;
use super::words::Call;
use crate::gemm::{Even, fence, streams};
use crate::{Ctx, SharedMut};

/// Blocks of inputs that a thread takes at a time.
const ITEM: usize = 8;
/// Words of dy that stay in the nearest cache while these blocks pass over them: 16 kB.
const NEAR: usize = 4096;

impl Dense {
    /// Words of a block of x, `[samples][inputs of a tile]`.
    fn x_block(&self, m: usize) -> (usize, usize) {
        let family = self.words.family();
        let width = family.padded(family.pixels);
        (self.words.of(m) * width, width)
    }

    /// Floats of dy in words and of each thread's blocks of x.
    pub fn weights_scratch_len(&self, batch: usize, threads: usize) -> usize {
        let dy = self.words.of(batch) * self.words.family().padded(self.units);
        dy + threads * ITEM * self.x_block(batch).0
    }

    /// `dw [inputs, units] = x [m, inputs]ᵀ · dy [m, units]`.
    pub fn weights(
        &self,
        cx: Ctx,
        m: usize,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        scratch: &mut [f32],
    ) {
        let dw = &mut dw[..self.inputs * self.units];
        if m == 0 {
            return dw.fill(0.0);
        }
        let (words, family) = (self.words, self.words.family());
        let (block_len, width) = self.x_block(m);
        let own_len = ITEM * block_len;
        let (b, own) = scratch.split_at_mut(scratch.len() - cx.pool.threads() * own_len);
        let panel_len = words.of(m) * family.width();
        let b = &mut b[..words.of(m) * family.padded(self.units)];
        cx.pool.for_chunks_mut(b, panel_len, |i, b, _| {
            let panel = family.panels(self.units).nth(i).expect("a panel for each chunk");
            words.columns(&dy[panel.start..], self.units, m, panel.used, panel.width, b);
        });
        let stream = streams(dw.as_ptr(), dw.len(), self.units);
        let blocks = Even::new(self.inputs, family.pixels);
        let items = Even::new(blocks.parts, ITEM);
        let groups = Even::new(self.units.div_ceil(family.width()), (NEAR / panel_len).max(1));
        let (b, dw, own) = (&*b, SharedMut::new(dw), SharedMut::new(own));
        cx.pool.run(items.parts, &|item, worker| {
            let item = items.range(item);
            // SAFETY: each worker has its own blocks.
            let a = unsafe { own.slice(worker * own_len..(worker + 1) * own_len) };
            for (block, a) in item.clone().zip(a.chunks_exact_mut(block_len)) {
                let rows = blocks.range(block);
                words.columns(&x[rows.start..], self.inputs, m, rows.len(), width, a);
            }
            for group in 0..groups.parts {
                let group = groups.range(group);
                let panels = family.panels(self.units).skip(group.start).take(group.len());
                for (block, a) in item.clone().zip(a.chunks_exact(block_len)) {
                    let rows = blocks.range(block);
                    for (i, panel) in group.clone().zip(panels.clone()) {
                        let call = Call {
                            k: words.of(m),
                            pixels: rows.len(),
                            a: a.as_ptr(),
                            a_px: 1,
                            a_k: width,
                            b: b[i * panel_len..].as_ptr(),
                            b_k: panel.width,
                            // SAFETY: rows and panel lie within dw.
                            c: unsafe {
                                dw.as_mut_ptr().add(rows.start * self.units + panel.start)
                            },
                            c_px: self.units,
                            stream,
                            ..Call::new(panel)
                        };
                        // SAFETY: A and B hold the words of all samples; these rows are this item's alone.
                        unsafe { words.run(&call) };
                    }
                }
            }
            if stream {
                fence();
            }
        });
    }
}
