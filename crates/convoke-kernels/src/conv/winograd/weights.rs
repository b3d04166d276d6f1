//! Backward-weights: tiles of both maps are transformed, a chunk at a time; each place then sums the products of
//! all tiles of the chunk.

use super::multiply::{Outer, add_outer, channels};
use super::transform::{self, Tiles};
use super::walk::Band;
use super::words::{Words, words};
use super::{Maps, PLACES, SIDE, STEP, costs, pairs, pitch, words_of};
use crate::conv::ConvShape;
use crate::gemm::{Even, Family, Simd};
use crate::isa::simd;
use crate::map::{At, Number};
use crate::norm::Source;
use crate::{Bf16, Ctx, Isa, Map, SharedMut, cut};
use std::ops::Range;

/// Floats of the transformed tiles of a chunk, which lie in a thread's second cache beside its sums.
const CHUNK: usize = cut(96 * 1024, 2 * 1024);
/// Words of tiles that a chunk has at least, whatever they take: sums are read and written once a chunk.
const FEWEST: usize = cut(64, 4);
/// Tiles of a shard at least: its sums are written and read once more to be added to the others'.
const TILES: usize = cut(400, 4);
/// Floats of the sums of all shards together.
const SUMS: usize = 4 << 20;
/// Items that a layer is cut into, so that many threads have something to do.
const ITEMS: usize = 16;
/// Channels of a part at least: each part transforms the gradients again.
const PART: usize = 64;
/// Floats behind the last tile: channels are read in whole blocks.
const SLACK: usize = 16;

/// `dw [3,3,c,d] = Σ over pictures and pixels of x · dy`.
///
/// The work is cut by shape alone: rows of tiles into shards, which have sums of their own, and where these would be
/// long channels into parts. What a thread transforms, it multiplies itself: caches of other cores are far.
#[derive(Debug, Clone)]
pub(in crate::conv) struct WinogradWeights {
    maps: Maps,
    isa: Isa,
    /// Products of pairs of bf16.
    pairs: bool,
    /// Shards of the rows of tiles of all pictures.
    shards: usize,
    /// Blocks of channels that are multiplied together, in each of the parts.
    parts: Even,
    /// Rows of tiles of a chunk.
    rows: usize,
}

impl WinogradWeights {
    pub fn new(s: &ConvShape, isa: Isa, batch: usize, pairs: bool) -> Self {
        let maps = Maps::forward(s);
        let lanes = Family::of(isa).lanes;
        let (rows, columns) = maps.tiles();
        let sums = PLACES * s.c * s.d.next_multiple_of(lanes);
        let shards = (SUMS / sums).min(batch * rows * columns / TILES).clamp(1, ITEMS);
        let parts = (ITEMS / 2 / shards).min(s.c / PART).max(1);
        let parts = Even::parts(s.c.div_ceil(channels(lanes, s.c)), parts);
        let walk = WinogradWeights { maps, isa, pairs, shards, parts, rows: 1 };
        let each = PLACES * (pitch(walk.channels(0).len()) + pitch(s.d));
        let words = (CHUNK / each).max(FEWEST);
        let tiles = if pairs { 2 * words } else { words };
        WinogradWeights { rows: (tiles / columns).clamp(1, (batch * rows).max(1)), ..walk }
    }

    /// Whether it takes less time than the direct sum, for `n` pictures. In pairs, which the direct sum makes at some
    /// expense, it always does where there are enough channels to fill a vector.
    pub fn pays(&self, n: usize) -> bool {
        let (direct, winograd) = costs(&self.maps, self.isa, n, true, self.pairs);
        winograd < direct || self.pairs && self.maps.c.min(self.maps.d) >= 16
    }

    /// Channels of a part; the first has the most.
    fn channels(&self, part: usize) -> Range<usize> {
        let each = channels(Family::of(self.isa).lanes, self.maps.c);
        let blocks = self.parts.range(part);
        blocks.start * each..(blocks.end * each).min(self.maps.c)
    }

    /// Floats from one place to the next, of transformed sources and gradients.
    fn places(&self) -> [usize; 2] {
        let tiles = words_of(self.rows * self.maps.tiles().1, self.pairs);
        [self.channels(0).len(), self.maps.d].map(|channels| tiles * pitch(channels) + 16)
    }

    /// Floats of the sums of all places of a shard.
    fn sums_len(&self) -> usize {
        PLACES * self.maps.c * Family::of(self.isa).padded(self.maps.d)
    }

    /// Floats of work space of a thread.
    fn thread_len(&self) -> usize {
        let [v, z] = self.places();
        (PLACES * (v + z) + SLACK + self.maps.band_len()).next_multiple_of(16)
    }

    /// Floats of work space of all threads.
    pub fn scratch_len(&self, threads: usize) -> usize {
        16 + self.shards * self.sums_len() + threads * self.thread_len()
    }

    pub fn run(&self, cx: Ctx, n: usize, x: Source, dy: Map, dw: &mut [f32], scratch: &mut [f32]) {
        assert!(scratch.len() >= self.scratch_len(cx.pool.threads()), "scratch is too short");
        if n == 0 {
            return dw[..9 * self.maps.c * self.maps.d].fill(0.0);
        }
        let skip = scratch.as_ptr().align_offset(64).min(16);
        let (sums, threads) = scratch[skip..].split_at_mut(self.shards * self.sums_len());
        let (sums, threads) = (SharedMut::new(sums), SharedMut::new(threads));
        let (all, each) = (n * self.maps.tiles().0, self.thread_len());
        let shards = Even::parts(all, self.shards.min(all));
        cx.pool.run(shards.parts * self.parts.parts, &|item, worker| {
            let (shard, part) = (item / self.parts.parts, item % self.parts.parts);
            // SAFETY: each worker has its own part of the scratch.
            let own = unsafe { threads.slice(worker * each..(worker + 1) * each) };
            // SAFETY: a shard's part of the sums; items have channels of their own.
            let sums = unsafe { sums.as_mut_ptr().add(shard * self.sums_len()) };
            self.item(shards.range(shard), self.channels(part), x, dy, sums, own);
        });
        self.finish(cx, shards.parts, &sums, dw);
    }

    /// The sums of some channels over some rows of tiles, counted over all pictures.
    fn item(
        &self,
        rows: Range<usize>,
        channels: Range<usize>,
        x: Source,
        dy: Map,
        sums: *mut f32,
        own: &mut [f32],
    ) {
        let (maps, isa) = (&self.maps, self.isa);
        let padded = Family::of(isa).padded(maps.d);
        let [v_place, z_place] = self.places();
        let (v, rest) = own.split_at_mut(PLACES * v_place);
        let (z, rest) = rest.split_at_mut(PLACES * z_place);
        let v = Tiles { at: v.as_mut_ptr(), place: v_place, tile: pitch(self.channels(0).len()) };
        let z = Tiles { at: z.as_mut_ptr(), place: z_place, tile: pitch(maps.d) };
        let mut band = Band { maps, band: &mut rest[SLACK..], last: None };
        for first in rows.clone().step_by(self.rows) {
            let chunk = first..rows.end.min(first + self.rows);
            let tiles = words_of(chunk.len() * maps.tiles().1, self.pairs);
            self.transform(chunk, channels.clone(), x, dy, &mut band, v, z);
            for place in 0..PLACES {
                let outer = Outer {
                    v: v.at.wrapping_add(place * v.place),
                    v_tile: v.tile,
                    z: z.at.wrapping_add(place * z.place),
                    z_tile: z.tile,
                    w: sums.wrapping_add((place * maps.c + channels.start) * padded),
                    w_row: padded,
                    tiles,
                    c: channels.len(),
                    load: first > rows.start,
                };
                let outer = &outer;
                // SAFETY: all tiles of the chunk are transformed; the sums are this item's.
                unsafe { words!(self.pairs, isa, outer_body(outer: &Outer)) };
            }
        }
    }

    /// Tiles of both maps of a chunk's rows.
    fn transform(
        &self,
        rows: Range<usize>,
        channels: Range<usize>,
        x: Source,
        dy: Map,
        band: &mut Band,
        v: Tiles,
        z: Tiles,
    ) {
        let (maps, isa) = (&self.maps, self.isa);
        let (tile_rows, columns) = maps.tiles();
        for (i, row) in rows.enumerate() {
            let sources = band.fill(isa, x, row).map(|line| line.wrapping_add(channels.start));
            let (d, width) = (maps.d, maps.out_w);
            let (p, y) = (row / tile_rows, row % tile_rows * STEP);
            let lines = STEP.min(maps.out_h - y);
            let at = (p * maps.out_h + y) * width * d;
            let gradients = dy.part(at..at + lines * width * d).at(0);
            let first = i * columns;
            let (word, odd) = if self.pairs { (first / 2, first % 2 == 1) } else { (first, false) };
            let v = Tiles { at: v.at.wrapping_add(word * v.tile), ..v };
            let z = Tiles { at: z.at.wrapping_add(word * z.tile), ..z };
            let sizes =
                &Sizes { c: maps.c, channels: channels.len(), d, lines, width, columns, odd };
            // SAFETY: the rows hold the tiles' pixels; both operands have room for a chunk.
            unsafe {
                words!(self.pairs, isa, transform_rows(sources: [*const f32; SIDE], gradients: At, sizes: &Sizes, v: Tiles, z: Tiles))
            }
        }
    }

    /// The way back to filters, of the sums of all shards.
    fn finish(&self, cx: Ctx, shards: usize, sums: &SharedMut<f32>, dw: &mut [f32]) {
        let Maps { c, d, .. } = self.maps;
        assert!(dw.len() >= 9 * c * d, "filters' gradient is too short");
        let dw = SharedMut::new(dw);
        let items = Even::new(c, 16);
        cx.pool.run(items.parts, &|item, _| {
            let (from, to) = (sums.as_mut_ptr().cast_const(), dw.as_mut_ptr());
            let range = items.range(item);
            // SAFETY: items have channels of their own.
            unsafe {
                simd!(self.isa, finish_body(from: *const f32, shards: usize, c: usize, d: usize, range: Range<usize>, to: *mut f32))
            }
        });
    }
}

/// Numbers of a row of tiles.
struct Sizes {
    /// Channels of a source pixel, and those that are transformed.
    c: usize,
    channels: usize,
    d: usize,
    /// Rows of gradients, and the pixels of each.
    lines: usize,
    width: usize,
    columns: usize,
    odd: bool,
}

#[inline(always)]
unsafe fn outer_body<W: Words>(p: &Outer) {
    // SAFETY: the caller's.
    unsafe { add_outer::<W>(p) }
}

#[inline(always)]
unsafe fn transform_rows<W: Words>(x: [*const f32; SIDE], dy: At, s: &Sizes, v: Tiles, z: Tiles) {
    let &Sizes { c, channels, columns, odd, .. } = s;
    // SAFETY: the caller's.
    unsafe {
        match W::NUMBERS {
            2 => pairs::source_row::<W>(x, c, channels, columns, odd, v),
            _ => transform::source_row::<W>(x, c, channels, columns, v),
        }
        match dy.is_half() {
            true => gradient_rows::<W, Bf16>(dy.start.cast(), s, z),
            false => gradient_rows::<W, f32>(dy.start, s, z),
        }
    }
}

/// The gradients of a row of tiles.
#[inline(always)]
unsafe fn gradient_rows<W: Words, N: Number>(dy: *const N, s: &Sizes, z: Tiles) {
    let &Sizes { lines, width, d, columns, odd, .. } = s;
    let second = if lines == STEP { dy.wrapping_add(width * d) } else { std::ptr::null() };
    let rows = [dy, second];
    // SAFETY: the caller's.
    unsafe {
        match W::NUMBERS {
            2 => pairs::gradient_row::<W, N>(rows, width, d, columns, odd, z),
            _ => transform::gradient_row::<W::S, N>(rows, width, d, columns, z),
        }
    }
}

#[inline(always)]
unsafe fn finish_body<S: Simd>(
    sums: *const f32,
    shards: usize,
    c: usize,
    d: usize,
    range: Range<usize>,
    dw: *mut f32,
) {
    let padded = d.next_multiple_of(S::LANES);
    // SAFETY: the caller's.
    unsafe {
        for channel in range {
            for at in (0..d).step_by(S::LANES) {
                let m = S::mask((d - at).min(S::LANES));
                let from = sums.add(channel * padded + at);
                let window = transform::filter_gradients::<S>(from, c * padded, shards);
                for y in 0..3 {
                    for x in 0..3 {
                        let to = dw.add(((y * 3 + x) * c + channel) * d + at);
                        S::store_first(to, window[y][x], m);
                    }
                }
            }
        }
    }
}
