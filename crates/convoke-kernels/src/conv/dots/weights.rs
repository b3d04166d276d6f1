//! Backward-weights: [`super::super::weights`] over words of two neighbouring output pixels.
//!
//! A chunk of rows is copied: dy in panels of filters, `[panel][row][pair of pixels][filter]`, x in blocks of
//! channels, `[block][row][phase][pair][16]`, fewer of which are channels than a line has words. A pair of x is that of one window place; places that lie a
//! whole number of pairs apart share a phase, so that at step 1 there are two, from even and from odd columns on.
//! Where channels are few, the `kw · c` numbers of a window row are the channels of a pixel (`merged`).
//!
//! The batch is cut into `shards` by shape alone, each with sums of its own, added in order.

use super::super::ConvShape;
use super::super::tiles::{Kind, Precision};
use super::super::weights::chunk::{Ahead, Chunk, add_shards};
use super::tile::{Tap, Tile, pick};
use super::words::{Interleave, interleave};
use crate::gemm::{Even, Family, Panel};
use crate::map::At;
use crate::norm::Source;
use crate::{Ctx, Isa, Map, SharedMut};
use std::ops::Range;

/// Rows that one chunk has at most.
const MAX_ROWS: usize = 512;
/// Words that the copies of one chunk should take: they stay in the second cache.
const CHUNK: usize = 144 * 1024;
/// Output pixels of a chunk: enough that reading and writing dw once per chunk costs little, few enough that a
/// panel of dy stays in the nearest cache.
const PIXELS: Range<usize> = 256..512;
/// Floats of the chunk after it that are asked for while a chunk is multiplied, at most: with the copies they stay in
/// the second cache.
const AHEAD: usize = 96 * 1024;
/// Floats of dw up to which a chunk has the fewest pixels, so that what is asked for goes further.
const SMALL: usize = 256 * 1024;
/// Floats of partial sums at most.
const PARTIALS: usize = 1 << 20;
/// Shards that keep threads busy, whose parts then take all filters; and the lanes of a part where there are fewer.
const MANY_SHARDS: usize = 8;
const FEW_LANES: usize = 128;
/// Floats of a cache line.
const LINE: usize = 16;
/// Channels up to which window rows are merged.
const MERGE: usize = 16;
/// Pixels that have a norm applied at a time, where rows do not matter.
const NORMED: usize = 32;

#[derive(Debug, Clone)]
pub(in super::super) struct DotWeights {
    s: ConvShape,
    /// Window rows are taken as one range of `kw · c` channels.
    merged: bool,
    /// The window is one pixel that never leaves the map: a chunk is one run of pixels.
    single: bool,
    /// No window leaves the map.
    unpadded: bool,
    /// First columns of the phases, and the pairs of each copied row.
    phases: Vec<usize>,
    x_pairs: usize,
    dy_pairs: usize,
    shards: usize,
    /// Parts into which the panels of one shard are cut.
    parts: usize,
    /// Output rows of the whole batch per chunk.
    chunk_rows: usize,
}

impl DotWeights {
    /// `threads` change no number.
    pub fn new(s: &ConvShape, batch: usize, threads: usize) -> Self {
        let family = Self::family();
        let unpadded =
            (s.top, s.left) == (0, 0) && (s.oh - 1) * s.sh < s.h && (s.ow - 1) * s.sw < s.w;
        let single = (s.kh, s.kw, s.sh, s.sw) == (1, 1, 1, 1) && unpadded && s.ow == s.w;
        let merged = s.kw > 1 && s.dw == 1 && s.c <= MERGE;
        let (mut phases, mut shift) = (vec![0], 0);
        if !merged {
            for column in (0..s.kw).map(|kw| kw * s.dw) {
                let phase = column % (2 * s.sw);
                if !phases.contains(&phase) {
                    phases.push(phase);
                }
                shift = shift.max(column / (2 * s.sw));
            }
        }
        let shards = (PARTIALS / s.filter_len().max(1)).clamp(1, 16);
        let shards = (1 << shards.ilog2()).min(batch.max(1));
        let panels = s.d.div_ceil(family.width());
        // Every part copies x: as few as keep threads busy, twice as many where threads would not get equally many.
        let parts = threads.div_ceil(shards);
        let uneven = !(shards * parts).is_multiple_of(threads.max(1));
        let parts = if uneven { (2 * threads).div_ceil(shards) } else { parts };
        let mut weights = DotWeights {
            s: *s,
            merged,
            single,
            unpadded,
            phases,
            x_pairs: s.ow.div_ceil(2) + shift,
            dy_pairs: s.ow.div_ceil(2),
            shards,
            parts: panels.min(parts),
            chunk_rows: 1,
        };
        let x = weights.x_row() * s.sh.min(s.kh);
        let lanes = family.padded(s.d);
        let lanes = if shards < MANY_SHARDS { lanes.min(FEW_LANES) } else { lanes };
        let per_row = x + weights.dy_pairs * lanes;
        let most = if single && s.filter_len() <= SMALL { PIXELS.start } else { PIXELS.end };
        let pixels = (CHUNK * s.ow / per_row.max(1)).clamp(PIXELS.start, most);
        weights.chunk_rows = pixels.div_ceil(s.ow).min(MAX_ROWS);
        if single && !s.ow.is_multiple_of(2) {
            weights.chunk_rows = weights.chunk_rows.next_multiple_of(2);
        }
        weights
    }

    fn family() -> Family {
        super::family(Self::kind())
    }

    fn kind() -> Kind {
        Kind::Floats(Precision::Bf16)
    }

    /// Channels of a copied pixel.
    fn channels(&self) -> usize {
        if self.merged { self.s.kw * self.s.c } else { self.s.c }
    }

    /// Words of a copied row of x.
    fn x_row(&self) -> usize {
        self.blocks(&Self::family()).parts * LINE * self.phases.len() * self.x_pairs
    }

    /// Lines of a block of channels: an odd number, so that blocks lie in different places of the nearest cache.
    fn x_block(&self) -> usize {
        (self.slots() * self.phases.len() * self.x_pairs) | 1
    }

    /// Pairs from one panel of dy to the next: an odd number, as in `x_block`.
    fn panel_pairs(&self, rows: usize) -> usize {
        (rows * self.dy_pairs) | 1
    }

    fn panels(&self) -> usize {
        self.s.d.div_ceil(Self::family().width())
    }

    /// Lanes of the panels of one part at most.
    fn panels_width(&self) -> usize {
        self.panels().div_ceil(self.parts) * Self::family().width()
    }

    fn partial_len(&self) -> usize {
        if self.shards > 1 { self.shards * self.s.filter_len() } else { 0 }
    }

    /// Source rows copied for a chunk at most.
    fn slots(&self) -> usize {
        let s = &self.s;
        if s.kh == 1 {
            return self.chunk_rows;
        }
        let pictures = (self.chunk_rows - 1).div_ceil(s.oh) + 1;
        let span = (s.kh - 1) * s.dh + 1;
        self.chunk_rows * s.sh + pictures * span.saturating_sub(s.sh)
    }

    /// Floats of copied x, of copied dy and of a source row with its padding, per worker.
    fn band_lens(&self) -> [usize; 3] {
        let x = self.blocks(&Self::family()).parts * self.x_block() * LINE;
        let dy = self.panel_pairs(self.chunk_rows) * self.panels_width();
        [x, dy, self.line()].map(|len: usize| len.next_multiple_of(LINE))
    }

    /// Floats of a source row with its padding, as far as pairs reach.
    fn line(&self) -> usize {
        let s = &self.s;
        if self.single {
            return NORMED * s.c;
        }
        let last = self.phases.iter().max().unwrap_or(&0);
        let reach = last + 2 * self.x_pairs * s.sw + if self.merged { s.kw } else { 1 };
        reach.max(s.left + s.w) * s.c
    }

    pub fn scratch_len(&self, threads: usize) -> usize {
        self.partial_len() + threads * (LINE + self.band_lens().iter().sum::<usize>())
    }

    /// Cycles of one thread, as [`super::DotWalk::cost`].
    pub fn cost(&self, batch: usize) -> f64 {
        let s = &self.s;
        let rows = (batch * s.oh) as f64;
        let lanes = Self::family().padded(s.d) as f64;
        let products = rows * (self.dy_pairs * s.kh * s.kw * s.c) as f64 * lanes;
        let x = rows * (s.sh.min(s.kh) * self.x_row()) as f64 * self.parts as f64;
        let dy = rows * self.dy_pairs as f64 * lanes;
        products / 25.0 + 0.8 * (x + dy)
    }

    pub fn run(&self, cx: Ctx, n: usize, x: Source, dy: Map, dw: &mut [f32], scratch: &mut [f32]) {
        let len = self.s.filter_len();
        assert!(scratch.len() >= self.scratch_len(cx.pool.threads()), "scratch is too short");
        assert!(x.x.len() >= n * self.s.x_len() && dy.len() >= n * self.s.y_len());
        let (partials, bands) = scratch.split_at_mut(self.partial_len());
        let band_len = LINE + self.band_lens().iter().sum::<usize>();
        let bands = SharedMut::new(bands);
        {
            let target = SharedMut::new(if self.shards > 1 { partials } else { &mut *dw });
            let shards = Even::parts(n, self.shards);
            let panels = Even::parts(self.panels(), self.parts);
            cx.pool.run(self.shards * self.parts, &|item, worker| {
                let (shard, part) = (item / self.parts, item % self.parts);
                // SAFETY: each worker has its own band.
                let band = unsafe { bands.slice(worker * band_len..(worker + 1) * band_len) };
                // SAFETY: items of one shard write different panels, items of different shards different
                // buffers; the pointer is used for nothing else.
                let out = unsafe { target.as_mut_ptr().add(shard * len) };
                self.part(cx.isa, shards.range(shard), panels.range(part), x, dy, out, band);
            });
        }
        if self.shards > 1 {
            add_shards(cx, self.shards, &scratch[..self.partial_len()], &mut dw[..len]);
        }
    }

    /// One shard's sums for a range of panels, chunk by chunk.
    fn part(
        &self,
        isa: Isa,
        pictures: Range<usize>,
        panels: Range<usize>,
        x: Source,
        dy: Map,
        out: *mut f32,
        band: &mut [f32],
    ) {
        let family = Self::family();
        let [x_len, dy_len, _] = self.band_lens();
        let skip = band.as_ptr().align_offset(4 * LINE);
        let (x_band, band) = band[skip..].split_at_mut(x_len);
        let (dy_band, line) = band.split_at_mut(dy_len);
        let rows = pictures.start * self.s.oh..pictures.end * self.s.oh;
        let mut start = rows.start;
        loop {
            let end = (start + self.chunk_rows).min(rows.end);
            let chunk = Chunk { rows: start..end, first: start == rows.start };
            self.copy_x(isa, &chunk, x, x_band, line);
            self.copy_dy(&family, &chunk, panels.clone(), dy, dy_band);
            let next = end..(end + self.chunk_rows).min(rows.end);
            let mut later = self.later(next, panels.len(), x, dy);
            let of = family.panels(self.s.d).skip(panels.start).take(panels.len());
            for (i, panel) in of.enumerate() {
                let at = i * family.width() * self.panel_pairs(chunk.rows.len());
                self.panel(&family, &chunk, panel, x_band, &dy_band[at..], out, &mut later);
            }
            start = end;
            if start >= rows.end {
                return;
            }
        }
    }

    /// What is asked for of the maps of the rows that come next, where they are runs of pixels: x, and dy where a part
    /// has all panels.
    fn later(&self, rows: Range<usize>, panels: usize, x: Source, dy: Map) -> Ahead {
        let pixels = if self.single { rows.len() * self.s.ow } else { 0 };
        let (c, d) = (self.s.c, if panels == self.panels() { self.s.d } else { 0 });
        let start = rows.start * self.s.ow;
        let (x, dy) = (x.x.at(start * c), dy.at(start * d));
        let of_x = x.floats(pixels * c).min(AHEAD);
        Ahead([(x.start, of_x), (dy.start, dy.floats(pixels * d).min(AHEAD - of_x))])
    }

    /// Input channels as tiles take them.
    fn blocks(&self, family: &Family) -> Even {
        Even::new(self.channels(), family.pixels)
    }

    /// Pairs of a chunk that is one run of pixels.
    fn single_pairs(&self, chunk: &Chunk) -> usize {
        (chunk.rows.len() * self.s.ow).div_ceil(2)
    }

    /// Adds a chunk to the sums of one panel, for all channels and window places.
    fn panel(
        &self,
        family: &Family,
        chunk: &Chunk,
        panel: Panel,
        x: &[f32],
        dy: &[f32],
        out: *mut f32,
        later: &mut Ahead,
    ) {
        let s = &self.s;
        let mut taps = [Tap { a: 0, b: 0 }; MAX_ROWS];
        let columns = if self.merged { 1 } else { s.kw };
        let blocks = self.blocks(family);
        for block in 0..blocks.parts {
            let (m, base) = (blocks.range(block), block * self.x_block());
            for kh in 0..s.kh {
                let (ntaps, k) = self.taps(chunk, kh, panel.width, &mut taps);
                if ntaps == 0 && !chunk.first {
                    continue;
                }
                for kw in 0..columns {
                    let (phase, shift) = (kw * s.dw % (2 * s.sw), kw * s.dw / (2 * s.sw));
                    let phase = self.phases.iter().position(|&p| p == phase).unwrap_or(0);
                    let a = (base + phase * self.x_pairs + shift) * LINE;
                    let place =
                        if self.merged { kh * self.channels() } else { (kh * s.kw + kw) * s.c };
                    // SAFETY: within this panel's part of dw.
                    let c = unsafe { out.add((place + m.start) * s.d + panel.start) };
                    let c = At::full(c);
                    let null = std::ptr::null();
                    let tile = Tile {
                        taps: taps.as_ptr(),
                        ntaps,
                        k,
                        a: x[a.min(x.len())..].as_ptr().cast(),
                        a_row: 0,
                        a_px: 1,
                        a_k: LINE,
                        b: dy.as_ptr().cast(),
                        b_k: panel.width,
                        c,
                        c_row: 0,
                        c_px: s.d,
                        last: panel.last(),
                        less: null,
                        scale: null,
                        bias: null,
                        residual: if chunk.first { At::NONE } else { c },
                        finish: None,
                        clamp: None,
                        ahead: later.next(2 * LINE * ntaps * k),
                        ahead_k: LINE,
                        stream: false,
                    };
                    // SAFETY: taps and pairs stay in the copies, whose rows hold every pair that the window
                    // reaches; `c` addresses this panel's part of dw.
                    unsafe { pick(Self::kind(), 1, m.len(), panel, true, false)(&tile) };
                }
            }
        }
    }

    /// Fills the taps of one window row: a copied source row and a copied row of dy each. Returns their number and
    /// the pairs of each.
    fn taps(
        &self,
        chunk: &Chunk,
        kh: usize,
        width: usize,
        taps: &mut [Tap; MAX_ROWS],
    ) -> (usize, usize) {
        let s = &self.s;
        if self.single {
            taps[0] = Tap { a: 0, b: 0 };
            return (usize::from(!chunk.rows.is_empty()), self.single_pairs(chunk));
        }
        let row = self.phases.len() * self.x_pairs * LINE;
        let mut n = 0;
        chunk.each_row(s, kh, |slot, at| {
            taps[n] = Tap { a: (slot * row) as isize, b: (at * self.dy_pairs * width) as isize };
            n += 1;
        });
        (n, self.dy_pairs)
    }

    /// Copies the chunk's source rows in pairs.
    fn copy_x(&self, isa: Isa, chunk: &Chunk, x: Source, band: &mut [f32], line: &mut [f32]) {
        let s = &self.s;
        if self.single {
            return self.copy_run(isa, chunk, x, band, line);
        }
        line.fill(0.0);
        let pieces = self.blocks(&Self::family());
        assert!(band.len() >= pieces.parts * self.x_block() * LINE, "the band is too short");
        // A window of one pixel reads nothing but the map.
        let in_place = (s.kh, s.kw) == (1, 1) && self.unpadded && x.norm.is_none();
        let pixels = if in_place { s.ow } else { 2 * self.x_pairs };
        let mut copy = |picture: usize, y: usize, slot: usize| {
            let from = (picture * s.h + y) * s.w * s.c;
            let row = from..from + s.w * s.c;
            let from = match in_place {
                true => x.x.part(row),
                false => {
                    x.copy(isa, row, &mut line[s.left * s.c..][..s.w * s.c]);
                    Map::Full(line)
                }
            };
            for (i, phase) in self.phases.iter().enumerate() {
                let pairs = Interleave {
                    from: from.at(phase * s.c),
                    next: s.sw * s.c,
                    step: 2 * s.sw * s.c,
                    pixels,
                    channels: self.channels(),
                    pieces,
                    width: LINE,
                    of: self.x_block(),
                    at: (slot * self.phases.len() + i) * self.x_pairs,
                    to: band.as_mut_ptr().cast(),
                    far: in_place,
                };
                // SAFETY: the line reaches as far as pairs do, see `line`, and a row of the map as far as its pixels; the
                // band has a place for every row.
                unsafe { interleave(&pairs) };
            }
        };
        chunk.each_picture(s, |picture| {
            if s.kh == 1 {
                for (i, oy) in picture.outputs.clone().enumerate() {
                    if let Some(y) = (oy * s.sh).checked_sub(s.top).filter(|&y| y < s.h) {
                        copy(picture.index, y, picture.first + i);
                    }
                }
            } else {
                for (i, y) in picture.sources.clone().enumerate() {
                    copy(picture.index, y, picture.slot + i);
                }
            }
        });
    }

    /// Copies the pixels of a chunk that is one run of them.
    fn copy_run(&self, isa: Isa, chunk: &Chunk, x: Source, band: &mut [f32], line: &mut [f32]) {
        let s = &self.s;
        let pixels = chunk.rows.start * s.ow..chunk.rows.end * s.ow;
        let pieces = self.blocks(&Self::family());
        assert!(band.len() >= pieces.parts * self.x_block() * LINE, "the band is too short");
        for first in pixels.clone().step_by(NORMED) {
            let n = (pixels.end - first).min(NORMED);
            let range = first * s.c..(first + n) * s.c;
            let from = match x.norm {
                None => x.x.part(range),
                Some(_) => {
                    x.copy(isa, range, &mut line[..n * s.c]);
                    Map::Full(&line[..n * s.c])
                }
            };
            let pairs = Interleave {
                from: from.at(0),
                next: s.c,
                step: 2 * s.c,
                pixels: n,
                channels: s.c,
                pieces,
                width: LINE,
                of: self.x_block(),
                at: (first - pixels.start) / 2,
                to: band.as_mut_ptr().cast(),
                far: x.norm.is_none(),
            };
            // SAFETY: `n` pixels of all channels; the band has a place for every pair.
            unsafe { interleave(&pairs) };
        }
    }

    /// Copies the chunk's rows of dy for some panels.
    fn copy_dy(
        &self,
        family: &Family,
        chunk: &Chunk,
        panels: Range<usize>,
        dy: Map,
        band: &mut [f32],
    ) {
        let s = &self.s;
        // Rows one by one, or one run of pixels.
        let (rows, pixels, pairs) = match self.single {
            true => (1, chunk.rows.len() * s.ow, self.single_pairs(chunk)),
            false => (chunk.rows.len(), s.ow, self.dy_pairs),
        };
        if chunk.rows.is_empty() {
            return;
        }
        let width = family.width();
        let (start, end) = (panels.start * width, (panels.end * width).min(s.d));
        let full = (end - start) / width * width;
        let used = end - start - full;
        let of = self.panel_pairs(chunk.rows.len());
        assert!(band.len() >= of * (full + family.padded(used)), "the band is too short");
        for row in 0..rows {
            let first = (chunk.rows.start * s.ow + row * pixels) * s.d;
            let from = dy.part(first..first + pixels * s.d);
            let mut copy = |at: usize, channels: usize, width: usize| {
                let pairs = Interleave {
                    from: from.at(start + at),
                    next: s.d,
                    step: 2 * s.d,
                    pixels,
                    channels,
                    pieces: Even::new(channels, width),
                    width,
                    of,
                    at: row * pairs,
                    to: band[at * of..].as_mut_ptr().cast(),
                    far: true,
                };
                // SAFETY: `pixels` pixels of all filters; the band has a place for every row.
                unsafe { interleave(&pairs) };
            };
            if full > 0 {
                copy(0, full, width);
            }
            if used > 0 {
                copy(full, used, family.padded(used));
            }
        }
    }
}
