//! Filters as the tiles of forward and backward-data read them.

use super::super::ConvShape;
use super::super::tiles::{self, Kind, filter_scales, turn};
use super::super::walk::Cell;
use super::WORD;
use super::walk::DotWalk;
use crate::gemm::Panel;
use crate::{Ctx, SharedMut};

impl DotWalk {
    /// The filters `[kh,kw,c,d]` as tiles read them, `[panel][run][word][lane]`; forward sums over channels, `back`
    /// over filters.
    pub fn pack(&self, cx: Ctx, s: &ConvShape, filters: &[f32], back: bool, pack: &mut [f32]) {
        assert!(filters.len() >= s.filter_len(), "filters are too short");
        assert!(pack.len() >= self.pack_len(), "pack is too short");
        let (words, scales) = pack[..self.pack_len()].split_at_mut(self.sum() * self.padded());
        if let Kind::Int8(..) = self.kind {
            debug_assert!(!back, "integers only predict");
            let (scale, less) = scales.split_at_mut(self.padded());
            return self.pack_integers(cx, s, filters, words, scale, less);
        }
        let (family, runs) = (self.family(), self.taps[0].len());
        let panels = self.base.filters.div_ceil(family.width());
        let words = SharedMut::new(words);
        cx.pool.run(panels * runs, &|item, _| {
            let (panel, run) = (item / runs, item % runs);
            let panel = family.panels(self.base.filters).nth(panel).expect("panel exists");
            let len = self.k * panel.width;
            let at = self.sum() * panel.start + run * len;
            // SAFETY: every item has its own words.
            let out = unsafe { words.slice(at..at + len) };
            match back {
                false => self.pack_rows(s, filters, panel, run, out),
                true => self.pack_columns(s, filters, panel, run, out),
            }
        });
    }

    /// The window place and channel of a number of a run's sum.
    fn number(&self, run: usize, i: usize) -> Option<(Cell, usize)> {
        let (cell, channel) = (i / self.pixel, i % self.pixel);
        let exists = cell < self.cells && channel < self.base.channels;
        exists.then(|| (self.base.cells[run * self.cells + cell], channel))
    }

    /// Lanes are filters.
    fn pack_rows(&self, s: &ConvShape, filters: &[f32], panel: Panel, run: usize, out: &mut [f32]) {
        let row = |i: usize, lane: usize| match self.number(run, i) {
            Some((Cell { kh, kw, .. }, channel)) => {
                filters[((kh * s.kw + kw) * s.c + channel) * s.d + panel.start + lane..].as_ptr()
            }
            None => std::ptr::null(),
        };
        for (word, out) in out.chunks_exact_mut(panel.width).enumerate() {
            for (i, out) in out.chunks_exact_mut(tiles::LANES).enumerate() {
                let lane = i * tiles::LANES;
                let rows = [row(2 * word, lane), row(2 * word + 1, lane)];
                let n = (panel.used - lane).min(tiles::LANES);
                // SAFETY: rows have `n` numbers, and `out` 16 words.
                unsafe { tiles::pair::<1>(rows, n, out.as_mut_ptr().cast(), 0) };
            }
        }
    }

    /// Lanes are channels of the input, sums run over filters: 16 by 16 words are turned.
    fn pack_columns(
        &self,
        s: &ConvShape,
        filters: &[f32],
        panel: Panel,
        run: usize,
        out: &mut [f32],
    ) {
        const SIDE: usize = tiles::LANES;
        let per_cell = self.pixel / 2;
        for cell in 0..self.cells {
            let Cell { kh, kw, .. } = self.base.cells[run * self.cells + cell];
            let place = (kh * s.kw + kw) * s.c + panel.start;
            for word in (0..per_cell).step_by(SIDE) {
                let count = (per_cell - word).min(SIDE);
                let n = (s.d - 2 * word).min(2 * SIDE);
                for lane in (0..panel.width).step_by(SIDE) {
                    let lanes = panel.used.saturating_sub(lane).min(SIDE);
                    let (mut rows, mut turned) = ([0.0f32; SIDE * SIDE], [0.0f32; SIDE * 2 * SIDE]);
                    for i in 0..lanes {
                        let from = &filters[(place + lane + i) * s.d + 2 * word..][..n];
                        // SAFETY: a row has 16 words, and `turned` 16 rows of 32.
                        unsafe {
                            let to = rows[i * SIDE..].as_mut_ptr().cast();
                            tiles::rows::<1>(from.as_ptr(), n, to, 0);
                        }
                    }
                    // SAFETY: 16 rows of 16 words, and of 32.
                    unsafe { turn(rows.as_ptr(), SIDE, SIDE, SIDE, turned.as_mut_ptr()) };
                    for i in 0..count {
                        let at = (cell * per_cell + word + i) * panel.width + lane;
                        out[at..at + SIDE].copy_from_slice(&turned[i * 2 * SIDE..][..SIDE]);
                    }
                }
            }
        }
    }

    fn pack_integers(
        &self,
        cx: Ctx,
        s: &ConvShape,
        filters: &[f32],
        out: &mut [f32],
        scale: &mut [f32],
        less: &mut [f32],
    ) {
        let Kind::Int8(way, range) = self.kind else { return };
        let n = self.base.filters;
        filter_scales(&filters[..s.filter_len()], s.d, &mut scale[..n]);
        scale[n..].fill(0.0);
        let (family, runs, together) = (self.family(), self.taps[0].len(), WORD / way.size());
        let panels = n.div_ceil(family.width());
        let (out, less, scales) = (SharedMut::new(out), SharedMut::new(less), &*scale);
        cx.pool.run(panels, &|panel, _| {
            let panel = family.panels(n).nth(panel).expect("panel exists");
            let len = self.sum() * panel.width;
            let at = self.sum() * panel.start;
            // SAFETY: every panel has its own words and lanes.
            let (out, less) = unsafe {
                (out.slice(at..at + len), less.slice(panel.start..panel.start + panel.width))
            };
            less.fill(0.0);
            let mut sums = [0i32; 64];
            for (word, out) in out.chunks_exact_mut(panel.width).enumerate() {
                let (run, word) = (word / self.k % runs.max(1), word % self.k);
                out.fill(0.0);
                for i in 0..together {
                    let Some((cell, channel)) = self.number(run, word * together + i) else {
                        continue;
                    };
                    let row = ((cell.kh * s.kw + cell.kw) * s.c + channel) * s.d + panel.start;
                    for lane in 0..panel.used {
                        let q = tiles::weight(filters[row + lane], scales[panel.start + lane]);
                        sums[lane] += i32::from(q);
                        let bits = match way.size() {
                            1 => u32::from(q as u8),
                            _ => u32::from(i16::from(q) as u16),
                        };
                        let word = out[lane].to_bits() | bits << (8 * way.size() * i);
                        out[lane] = f32::from_bits(word);
                    }
                }
            }
            for (less, sum) in less.iter_mut().zip(sums) {
                *less = f32::from_bits((i32::from(range.zero()) * sum) as u32);
            }
        });
        scale[..n].iter_mut().for_each(|s| *s *= range.scale());
    }
}
