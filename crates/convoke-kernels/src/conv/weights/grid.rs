//! One-pixel windows: `dw [c,d] = sum over pixels of x · dy`.
//!
//! dw is cut in a grid of channels × filters, and where both are few the batch in shards as well; what costs least is
//! chosen by shape alone. An item of the grid sums over all pixels of its shard, chunk by chunk, straight into dw. For
//! each chunk its channels of x are copied, in blocks as tiles take them, and its filters of dy panel by panel, just
//! before tiles read them. While tiles run they ask for the next panel and for the next chunk of x.

use super::ConvShape;
use super::chunk::add_shards;
use super::copy::{Pieces, copy_last, copy_pixels};
use crate::gemm::{Even, Family, LINE, Panel, Start, Tap, Tile};
use crate::norm::{Pending, Source};
use crate::{Ctx, Isa, SharedMut, cut};
use std::ops::Range;

/// Cuts of the channels and parts of the filters at most.
const MOST: usize = 16;
/// Floats that a chunk's copy of x should take, so that the next chunk of x fits in the second cache as well.
const CHUNK: usize = cut(104 * 1024, 64);
/// Pixels of a chunk: enough that sums are seldom read and written, few enough that a panel of dy stays in the nearest
/// cache.
const PIXELS: Range<usize> = cut(96, 4)..cut(288, 12);
/// Costs in products: copying a number of x and of dy, reading and writing a sum once more, and writing and adding it
/// for one shard of several.
const COPY_X: f64 = 7.0;
const COPY_DY: f64 = 7.0;
const VISIT: f64 = 5.0;
const MERGE: f64 = 16.0;

#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    s: ConvShape,
    isa: Isa,
    shares: Shares,
    /// Channels and pixels that are copied at most.
    channels: usize,
    chunk: usize,
}

/// Shards of the batch, cuts of the channels and parts of the filters.
#[derive(Debug, Clone, Copy)]
struct Shares {
    shards: usize,
    cuts: usize,
    parts: usize,
}

/// What one item sums.
#[derive(Debug, Clone)]
struct Item {
    index: usize,
    shard: usize,
    pixels: Range<usize>,
    blocks: Range<usize>,
    panels: Range<usize>,
}

impl Grid {
    /// For windows of one pixel that never leave the map, in one group.
    pub fn new(s: &ConvShape, isa: Isa, batch: usize) -> Self {
        let family = Family::of(isa);
        let pixels = (batch * s.oh * s.ow).max(1);
        let shares = Shares::best(s, &family, pixels);
        let (channels, _) = shares.largest(s, &family);
        let pixels = pixels.div_ceil(shares.shards);
        // Chunks of equal length, so that the last does not visit the sums for a few pixels.
        let chunk = Even::new(pixels, chunk_pixels(channels)).range(0).len();
        Grid { s: *s, isa, shares, channels, chunk }
    }

    fn partial_len(&self) -> usize {
        match self.shares.shards {
            1 => 0,
            shards => shards * self.s.filter_len(),
        }
    }

    /// Floats of copied x and of copied dy per worker.
    fn band_lens(&self) -> (usize, usize) {
        (self.chunk * self.channels, self.chunk * Family::of(self.isa).width())
    }

    pub fn scratch_len(&self, threads: usize) -> usize {
        let (x, dy) = self.band_lens();
        self.partial_len() + threads * (x + dy)
    }

    pub fn run(
        &self,
        cx: Ctx,
        n: usize,
        x: Source,
        dy: &[f32],
        dw: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (len, shards) = (self.s.filter_len(), self.shares.shards);
        let (partials, bands) = scratch.split_at_mut(self.partial_len());
        let (x_len, dy_len) = self.band_lens();
        let bands = SharedMut::new(bands);
        {
            let target = SharedMut::new(if shards > 1 { &mut *partials } else { &mut dw[..len] });
            cx.pool.run(self.shares.items(), &|index, worker| {
                let (from, to) = (worker * (x_len + dy_len), (worker + 1) * (x_len + dy_len));
                // SAFETY: each worker has its own band.
                let (x_band, dy_band) = unsafe { bands.slice(from..to) }.split_at_mut(x_len);
                let item = self.item(n, index);
                // SAFETY: items of one shard write different channels or filters, items of different
                // shards different buffers; the pointer is used for nothing else.
                let out = unsafe { target.as_mut_ptr().add(item.shard * len) };
                self.sum(n, &item, x, dy, out, x_band, dy_band);
            });
        }
        if shards > 1 {
            add_shards(cx, shards, partials, &mut dw[..len]);
        }
    }

    fn blocks(&self) -> Even {
        Even::new(self.s.c, Family::of(self.isa).pixels)
    }

    /// What an item sums, of `n` pictures.
    fn item(&self, n: usize, index: usize) -> Item {
        let Shares { shards, cuts, parts } = self.shares;
        let (shard, share) = (index / (cuts * parts), index % (cuts * parts));
        let panels = self.s.d.div_ceil(Family::of(self.isa).width());
        Item {
            index,
            shard,
            pixels: Even::parts(n * self.s.oh * self.s.ow, shards).range(shard),
            blocks: Even::parts(self.blocks().parts, cuts).range(share / parts),
            panels: Even::parts(panels, parts).range(share % parts),
        }
    }

    /// The sums of one item, chunk by chunk.
    fn sum(
        &self,
        n: usize,
        item: &Item,
        x: Source,
        dy: &[f32],
        out: *mut f32,
        x_band: &mut [f32],
        dy_band: &mut [f32],
    ) {
        let family = Family::of(self.isa);
        let mut start = item.pixels.start;
        loop {
            let chunk = start..(start + self.chunk).min(item.pixels.end);
            let first = start == item.pixels.start;
            self.copy_x(&item.blocks, &chunk, x, x_band);
            let next = self.next(n, item, chunk.end);
            let mut next_x =
                next.as_ref().map_or(Run::NONE, |next| self.run_of_x(next, x.x.full()));
            for i in item.panels.clone() {
                let panel = self.panel(&family, i);
                self.copy_dy(panel, &chunk, dy, dy_band);
                let mut next_dy = match &next {
                    _ if i + 1 < item.panels.end => self.run_of_dy(i + 1, &chunk, dy),
                    Some(next) => self.run_of_dy(next.panels.start, &next.pixels, dy),
                    None => Run::NONE,
                };
                for block in item.blocks.clone() {
                    let ahead = if next_dy.columns > 0 { &mut next_dy } else { &mut next_x };
                    let ahead = ahead.next(chunk.len());
                    self.tile(item, block, panel, chunk.len(), first, x_band, dy_band, out, ahead);
                }
            }
            start = chunk.end;
            if start >= item.pixels.end {
                return;
            }
        }
    }

    fn panel(&self, family: &Family, i: usize) -> Panel {
        family.panels(self.s.d).nth(i).expect("items have panels that exist")
    }

    /// Adds a chunk of `pixels` to the sums of one block and one panel.
    fn tile(
        &self,
        item: &Item,
        block: usize,
        panel: Panel,
        pixels: usize,
        first: bool,
        x: &[f32],
        dy: &[f32],
        out: *mut f32,
        (ahead, ahead_k): (*const f32, usize),
    ) {
        let blocks = self.blocks();
        let (m, skipped) = (blocks.range(block), blocks.range(item.blocks.start).start);
        let tap = Tap { a: 0, b: 0 };
        let tile = Tile {
            taps: &raw const tap,
            ntaps: 1,
            k: pixels,
            a: x[(m.start - skipped) * self.chunk..].as_ptr(),
            a_row: 0,
            a_px: 1,
            a_k: m.len(),
            b: dy.as_ptr(),
            b_k: panel.width,
            // SAFETY: within this item's part of dw.
            c: unsafe { out.add(m.start * self.s.d + panel.start) },
            c_row: 0,
            c_px: self.s.d,
            last: panel.last(),
            start: if first { Start::Zero } else { Start::Load },
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            clamp: None,
            ahead,
            ahead_k,
            stream: false,
        };
        // SAFETY: both copies hold so many pixels; `c` addresses this item's part of dw.
        unsafe { Family::of(self.isa).unit_tile(m.len(), panel)(&tile) };
    }

    /// The channels of some blocks.
    fn channels(&self, blocks: &Range<usize>) -> Range<usize> {
        let of = self.blocks();
        of.range(blocks.start).start..of.range(blocks.end - 1).end
    }

    /// Whether a picture's outputs lie as its inputs do.
    fn as_map(&self) -> bool {
        (self.s.oh, self.s.ow) == (self.s.h, self.s.w)
    }

    /// Copies a chunk's channels of x, norm applied: `[block][pixel][channel]`.
    fn copy_x(&self, blocks: &Range<usize>, chunk: &Range<usize>, x: Source, band: &mut [f32]) {
        let s = &self.s;
        let channels = self.channels(blocks);
        let norm = x.norm.map(|n| Pending {
            scale: &n.scale[channels.start..],
            shift: &n.shift[channels.start..],
            ..n
        });
        let pieces = Even::parts(channels.len(), blocks.len());
        let mut copy = |pixel: usize, stride: usize, at: usize, n: usize| {
            let to = Pieces { pieces, at, of: self.chunk };
            let from = &x.x.full()[pixel * s.c + channels.start..];
            copy_pixels(self.isa, from, norm, stride * s.c, n, to, band);
        };
        if self.as_map() {
            if !chunk.is_empty() {
                copy(chunk.start, 1, 0, chunk.len());
            }
            return;
        }
        let mut pixel = chunk.start;
        while pixel < chunk.end {
            let (row, ox) = (pixel / s.ow, pixel % s.ow);
            let n = (s.ow - ox).min(chunk.end - pixel);
            let from = ((row / s.oh) * s.h + (row % s.oh) * s.sh) * s.w + ox * s.sw;
            copy(from, s.sw, pixel - chunk.start, n);
            pixel += n;
        }
    }

    /// Copies a chunk's filters of dy of one panel: `[pixel][lane]`, missing lanes zero.
    fn copy_dy(&self, panel: Panel, chunk: &Range<usize>, dy: &[f32], band: &mut [f32]) {
        if chunk.is_empty() {
            return;
        }
        let d = self.s.d;
        let from = &dy[chunk.start * d + panel.start..];
        if panel.used == panel.width {
            let to = Pieces { pieces: Even::parts(panel.width, 1), at: 0, of: chunk.len() };
            copy_pixels(self.isa, from, None, d, chunk.len(), to, band);
        } else {
            copy_last(self.isa, from, d, panel.used, &mut band[..chunk.len() * panel.width]);
        }
    }

    /// What a thread sums after the pixels of an item up to `end`: its next chunk, or the first of the next item.
    fn next(&self, n: usize, item: &Item, end: usize) -> Option<Item> {
        let mut next = match () {
            () if end < item.pixels.end => Item { pixels: end..item.pixels.end, ..item.clone() },
            () if item.index + 1 < self.shares.items() => self.item(n, item.index + 1),
            () => return None,
        };
        next.pixels.end = next.pixels.end.min(next.pixels.start + self.chunk);
        Some(next)
    }

    /// What will be copied of x.
    fn run_of_x(&self, next: &Item, x: &[f32]) -> Run {
        match self.as_map() {
            true => Run::new(x, self.channels(&next.blocks), self.s.c, &next.pixels),
            false => Run::NONE,
        }
    }

    /// What will be copied of dy for a panel.
    fn run_of_dy(&self, panel: usize, pixels: &Range<usize>, dy: &[f32]) -> Run {
        let width = Family::of(self.isa).width();
        let filters = panel * width..((panel + 1) * width).min(self.s.d);
        Run::new(dy, filters, self.s.d, pixels)
    }
}

/// Pixels of a chunk that copies so many channels.
fn chunk_pixels(channels: usize) -> usize {
    (CHUNK / channels.max(1)).clamp(PIXELS.start, PIXELS.end)
}

impl Shares {
    fn items(&self) -> usize {
        self.shards * self.cuts * self.parts
    }

    /// The cheapest for so many pixels.
    fn best(s: &ConvShape, family: &Family, pixels: usize) -> Self {
        let most = |n: usize, max: usize| 1..=n.div_ceil(max).min(MOST);
        let mut best = (f64::MAX, Shares { shards: 1, cuts: 1, parts: 1 });
        for shards in [1, 2, 4, 8, 16].into_iter().filter(|&shards| shards <= pixels) {
            for cuts in most(s.c, family.pixels) {
                for parts in most(s.d, family.width()) {
                    let shares = Shares { shards, cuts, parts };
                    let cost = shares.cost(s, family, pixels);
                    if cost < best.0 {
                        best = (cost, shares);
                    }
                }
            }
        }
        best.1
    }

    /// Channels and filters of the largest item.
    fn largest(&self, s: &ConvShape, family: &Family) -> (usize, usize) {
        let (blocks, panels) = (Even::new(s.c, family.pixels), s.d.div_ceil(family.width()));
        let channels = blocks.parts.div_ceil(self.cuts) * blocks.range(0).len();
        (channels, panels.div_ceil(self.parts) * family.width())
    }

    /// Time in products.
    fn cost(&self, s: &ConvShape, family: &Family, pixels: usize) -> f64 {
        let (channels, filters) = self.largest(s, family);
        let pixels = pixels.div_ceil(self.shards);
        let chunks = pixels.div_ceil(chunk_pixels(channels)) as f64;
        let (pixels, sums) = (pixels as f64, (channels * filters) as f64);
        let copied = COPY_X * channels as f64 + COPY_DY * filters as f64;
        let item = pixels * (sums + copied) + chunks * VISIT * sums;
        // Some of so many threads wait for the last item.
        let taken = |threads| (self.items().div_ceil(threads) * threads) as f64;
        let items = (taken(2) + taken(4) + taken(8)) / 3.0;
        let merged =
            if self.shards > 1 { MERGE * (self.shards * s.filter_len()) as f64 } else { 0.0 };
        items * item + merged
    }
}

/// Columns of cache lines that tiles ask for: the first lines of all pixels, then their second ones; or, where
/// pixels are taken whole, all lines in one column.
#[derive(Debug, Clone, Copy)]
struct Run {
    at: *const f32,
    /// Floats from one line to the next, lines of a column, and those of them that have been asked for.
    stride: usize,
    lines: usize,
    done: usize,
    columns: usize,
}

impl Run {
    const NONE: Run = Run { at: std::ptr::null(), stride: 0, lines: 0, done: 0, columns: 0 };

    /// Some channels of some pixels of a map of `of` channels.
    fn new(map: &[f32], channels: Range<usize>, of: usize, pixels: &Range<usize>) -> Self {
        let from = pixels.start * of + channels.start;
        let at = map[from.min(map.len())..].as_ptr();
        let (stride, lines, columns) = match channels.len() == of {
            true => (LINE, (pixels.len() * of).div_ceil(LINE), 1),
            // Channels may begin anywhere in a line.
            false => (of, pixels.len(), (channels.len() + LINE - 1).div_ceil(LINE)),
        };
        Run { at, stride, lines, done: 0, columns }
    }

    /// Where the next lines begin, for so many steps of a tile, and the floats from one to the next.
    fn next(&mut self, steps: usize) -> (*const f32, usize) {
        if self.columns == 0 {
            return (std::ptr::null(), 0);
        }
        let at = self.at.wrapping_add(self.done * self.stride);
        self.done += steps;
        if self.done >= self.lines {
            (self.at, self.done, self.columns) = (self.at.wrapping_add(LINE), 0, self.columns - 1);
        }
        (at, self.stride)
    }
}
