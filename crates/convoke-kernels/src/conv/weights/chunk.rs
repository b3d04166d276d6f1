//! What the walks of backward-weights share, whatever they multiply: the rows that are summed at a time, what is asked
//! for ahead, and the sums of shards.

use crate::Ctx;
use crate::conv::ConvShape;
use std::ops::Range;

/// Output rows of the whole batch that are summed at a time.
pub(in crate::conv) struct Chunk {
    pub rows: Range<usize>,
    /// Whether sums start from zero.
    pub first: bool,
}

/// A chunk's rows of one picture.
pub(in crate::conv) struct Rows {
    /// The picture.
    pub index: usize,
    /// Its output rows.
    pub outputs: Range<usize>,
    /// Rows of the chunk before it.
    pub first: usize,
    /// Source rows under its windows.
    pub sources: Range<usize>,
    /// Where the first of them is copied to.
    pub slot: usize,
}

impl Chunk {
    /// Calls `f` for every picture that the chunk touches.
    pub fn each_picture(&self, s: &ConvShape, mut f: impl FnMut(&Rows)) {
        let span = (s.kh - 1) * s.dh + 1;
        let (mut row, mut slot) = (self.rows.start, 0);
        while row < self.rows.end {
            let (index, oy) = (row / s.oh, row % s.oh);
            let end = s.oh.min(oy + self.rows.end - row);
            let low = (oy * s.sh).saturating_sub(s.top).min(s.h);
            let high = ((end - 1) * s.sh + span).saturating_sub(s.top).clamp(low, s.h);
            let first = row - self.rows.start;
            f(&Rows { index, outputs: oy..end, first, sources: low..high, slot });
            slot += high - low;
            row += end - oy;
        }
    }

    /// Calls `f(copied source row, row of the chunk)` for every output row whose window row `kh` lies on the map.
    pub fn each_row(&self, s: &ConvShape, kh: usize, mut f: impl FnMut(usize, usize)) {
        self.each_picture(s, |picture| {
            for (i, oy) in picture.outputs.clone().enumerate() {
                let Some(y) = (oy * s.sh + kh * s.dh).checked_sub(s.top).filter(|&y| y < s.h)
                else {
                    continue;
                };
                let at = picture.first + i;
                let slot = if s.kh == 1 { at } else { picture.slot + y - picture.sources.start };
                f(slot, at);
            }
        });
    }
}

/// Runs of memory that tiles ask for while they compute: where each starts, and the floats that are left of it.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Ahead<const RUNS: usize = 2>(pub [(*const f32, usize); RUNS]);

impl<const RUNS: usize> Ahead<RUNS> {
    /// Nothing.
    pub const NONE: Self = Ahead([(std::ptr::null(), 0); RUNS]);

    /// Where the next `n` floats begin, or fewer, or null where none are left.
    pub fn next(&mut self, n: usize) -> *const f32 {
        let Some((start, left)) = self.0.iter_mut().find(|(_, left)| *left > 0) else {
            return std::ptr::null();
        };
        let at = *start;
        (*start, *left) = (at.wrapping_add(n), left.saturating_sub(n));
        at
    }
}

/// `dw` = the sum of the shards' sums, in order.
pub(in crate::conv) fn add_shards(cx: Ctx, shards: usize, partials: &[f32], dw: &mut [f32]) {
    let len = dw.len();
    cx.pool.for_chunks_mut(dw, 4096, |i, out, _| {
        let at = i * 4096;
        out.copy_from_slice(&partials[at..at + out.len()]);
        for shard in 1..shards {
            let part = &partials[shard * len + at..][..out.len()];
            for (o, p) in out.iter_mut().zip(part) {
                *o += p;
            }
        }
    });
}
