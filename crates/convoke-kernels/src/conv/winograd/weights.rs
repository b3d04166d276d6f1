//! Backward-weights: tiles of both maps are transformed, a chunk at a time; each place then sums the products of
//! all tiles of the chunk.

use super::multiply::{Outer, add_outer, channels};
use super::pairs::source_row as paired;
use super::source::{Lines, each_kind, source_row as whole};
use super::transform::{self, Tiles};
use super::words::{Words, words};
use super::{Maps, Way, pairs, pitch};
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
/// Outputs of a shard at least: its sums are written and read once more to be added to the others'.
const OUTPUTS: usize = cut(1600, 16);
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
/// long channels into parts. What a thread transforms, it multiplies itself: caches of other cores are far. Where there is
/// one shard, a thread takes its part's sums to the end at once.
#[derive(Debug, Clone)]
pub(in crate::conv) struct WinogradWeights {
    maps: Maps,
    isa: Isa,
    /// Shards of the rows of tiles of all pictures.
    shards: usize,
    /// Blocks of channels that are multiplied together, in each of the parts.
    parts: Even,
    /// Rows of tiles of a chunk.
    rows: usize,
}

impl WinogradWeights {
    /// For the maps of forward.
    pub(super) fn new(maps: Maps, isa: Isa, batch: usize) -> Self {
        let (lanes, places) = (Family::of(isa).lanes, maps.way.places());
        let (rows, columns) = maps.tiles();
        let sums = places * maps.c * maps.d.next_multiple_of(lanes);
        let outputs = batch * rows * columns * maps.way.step().pow(2);
        // A power of two, which most numbers of threads share evenly.
        let shards = 1 << (SUMS / sums).min(outputs / OUTPUTS).clamp(1, ITEMS).ilog2();
        let parts = (ITEMS / 2 / shards).min(maps.c / PART).max(1);
        let parts = Even::parts(maps.c.div_ceil(channels(lanes, maps.c)), parts);
        let walk = WinogradWeights { maps, isa, shards, parts, rows: 1 };
        let each = places * (pitch(walk.channels(0).len()) + pitch(maps.d));
        let words = (CHUNK / each).max(FEWEST);
        let tiles = if maps.way == Way::Pairs { 2 * words } else { words };
        WinogradWeights { rows: (tiles / columns).clamp(1, (batch * rows).max(1)), ..walk }
    }

    /// Channels of a part; the first has the most.
    fn channels(&self, part: usize) -> Range<usize> {
        let each = channels(Family::of(self.isa).lanes, self.maps.c);
        let blocks = self.parts.range(part);
        blocks.start * each..(blocks.end * each).min(self.maps.c)
    }

    /// Floats from one place to the next, of transformed sources and gradients.
    fn places(&self) -> [usize; 2] {
        let tiles = self.maps.way.words(self.rows * self.maps.tiles().1);
        [self.channels(0).len(), self.maps.d].map(|channels| tiles * pitch(channels) + 16)
    }

    /// Channels whose sums lie together: all those of a shard, or of a part where there are no others to add.
    fn together(&self) -> usize {
        if self.shards > 1 { self.maps.c } else { self.channels(0).len() }
    }

    /// Floats of the sums of all places that lie together.
    fn sums_len(&self) -> usize {
        self.maps.way.places() * self.together() * Family::of(self.isa).padded(self.maps.d)
    }

    /// How many of them there are.
    fn buffers(&self, threads: usize) -> usize {
        if self.shards > 1 { self.shards } else { threads }
    }

    /// Floats of work space of a thread.
    fn thread_len(&self) -> usize {
        let [v, z] = self.places();
        (self.maps.way.places() * (v + z) + SLACK).next_multiple_of(16)
    }

    /// Floats of work space of all threads.
    pub fn scratch_len(&self, threads: usize) -> usize {
        16 + self.buffers(threads) * self.sums_len() + threads * self.thread_len()
    }

    pub fn run(&self, cx: Ctx, n: usize, x: Source, dy: Map, dw: &mut [f32], scratch: &mut [f32]) {
        assert!(scratch.len() >= self.scratch_len(cx.pool.threads()), "scratch is too short");
        if n == 0 {
            return dw[..9 * self.maps.c * self.maps.d].fill(0.0);
        }
        assert!(dw.len() >= 9 * self.maps.c * self.maps.d, "filters' gradient is too short");
        let skip = scratch.as_ptr().align_offset(64).min(16);
        let buffers = self.buffers(cx.pool.threads());
        let (sums, threads) = scratch[skip..].split_at_mut(buffers * self.sums_len());
        let (sums, threads, dw) =
            (SharedMut::new(sums), SharedMut::new(threads), SharedMut::new(dw));
        let (all, each) = (n * self.maps.tiles().0, self.thread_len());
        let shards = Even::parts(all, self.shards.min(all));
        cx.pool.run(shards.parts * self.parts.parts, &|item, worker| {
            let (shard, part) = (item / self.parts.parts, item % self.parts.parts);
            // SAFETY: each worker has its own part of the scratch.
            let own = unsafe { threads.slice(worker * each..(worker + 1) * each) };
            let (rows, channels) = (shards.range(shard), self.channels(part));
            let (buffer, first) =
                if self.shards > 1 { (shard, 0) } else { (worker, channels.start) };
            // SAFETY: a shard's sums, of which items have channels of their own, or a worker's.
            let at = unsafe { sums.as_mut_ptr().add(buffer * self.sums_len()) };
            let sums = Sums { at, first, channels: self.together(), shards: shards.parts };
            self.item(rows, channels.clone(), x, dy, sums, own);
            if self.shards == 1 {
                self.finish(channels, sums, &dw);
            }
        });
        if self.shards > 1 {
            let (at, channels) = (sums.as_mut_ptr(), self.maps.c);
            let sums = Sums { at, first: 0, channels, shards: shards.parts };
            let items = Even::new(channels, 16);
            cx.pool.run(items.parts, &|item, _| self.finish(items.range(item), sums, &dw));
        }
    }

    /// The sums of some channels over some rows of tiles, counted over all pictures.
    fn item(
        &self,
        rows: Range<usize>,
        channels: Range<usize>,
        x: Source,
        dy: Map,
        sums: Sums,
        own: &mut [f32],
    ) {
        let (maps, isa) = (&self.maps, self.isa);
        let padded = Family::of(isa).padded(maps.d);
        let [v_place, z_place] = self.places();
        let (v, rest) = own.split_at_mut(maps.way.places() * v_place);
        let z = &mut rest[..maps.way.places() * z_place];
        let v = Tiles { at: v.as_mut_ptr(), place: v_place, tile: pitch(self.channels(0).len()) };
        let z = Tiles { at: z.as_mut_ptr(), place: z_place, tile: pitch(maps.d) };
        for first in rows.clone().step_by(self.rows) {
            let chunk = first..rows.end.min(first + self.rows);
            let tiles = maps.way.words(chunk.len() * maps.tiles().1);
            self.transform(chunk, channels.clone(), x, dy, v, z);
            for place in 0..maps.way.places() {
                let outer = Outer {
                    v: v.at.wrapping_add(place * v.place),
                    v_tile: v.tile,
                    z: z.at.wrapping_add(place * z.place),
                    z_tile: z.tile,
                    w: sums.of(place, channels.start, padded),
                    w_row: padded,
                    tiles,
                    c: channels.len(),
                    load: first > rows.start,
                };
                let outer = &outer;
                // SAFETY: all tiles of the chunk are transformed; the sums are this item's.
                unsafe { words!(self.maps.way, isa, outer_body(outer: &Outer)) };
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
        v: Tiles,
        z: Tiles,
    ) {
        let (maps, isa) = (&self.maps, self.isa);
        let (tile_rows, columns) = maps.tiles();
        for (i, row) in rows.enumerate() {
            let sources = Lines::new(maps, x, row, channels.clone());
            let (d, width) = (maps.d, maps.out_w);
            let (p, y) = (row / tile_rows, row % tile_rows * maps.way.step());
            let lines = maps.way.step().min(maps.out_h - y);
            let at = (p * maps.out_h + y) * width * d;
            let gradients = dy.part(at..at + lines * width * d).at(0);
            let first = i * columns;
            let (word, odd) = match maps.way {
                Way::Pairs => (first / 2, first % 2 == 1),
                Way::Two | Way::Four => (first, false),
            };
            let v = Tiles { at: v.at.wrapping_add(word * v.tile), ..v };
            let z = Tiles { at: z.at.wrapping_add(word * z.tile), ..z };
            let sizes = &Sizes { d, lines, width, columns, odd };
            // SAFETY: the rows hold the tiles' pixels; both operands have room for a chunk.
            unsafe {
                words!(self.maps.way, isa, transform_rows(sources: Lines, gradients: At, sizes: &Sizes, v: Tiles, z: Tiles))
            }
        }
    }

    /// The way back to the filters of some channels, which nobody else has, of the sums of all shards.
    fn finish(&self, range: Range<usize>, sums: Sums, dw: &SharedMut<f32>) {
        let (Maps { c, d, .. }, dw) = (self.maps, dw.as_mut_ptr());
        // SAFETY: the caller's channels; `dw` holds all filters.
        unsafe {
            words!(self.maps.way, self.isa, finish_body(sums: Sums, c: usize, d: usize, range: Range<usize>, dw: *mut f32))
        }
    }
}

/// Where sums `[shard][place][channel][d, whole vectors]` lie.
#[derive(Clone, Copy)]
struct Sums {
    at: *mut f32,
    /// The first channel, and their number.
    first: usize,
    channels: usize,
    shards: usize,
}

// SAFETY: an address; those who read and write there promise disjoint parts.
unsafe impl Sync for Sums {}

impl Sums {
    /// The first shard's of a place and channel, `padded` floats.
    #[inline(always)]
    fn of(&self, place: usize, channel: usize, padded: usize) -> *mut f32 {
        self.at.wrapping_add((place * self.channels + channel - self.first) * padded)
    }
}

/// Numbers of a row of tiles.
struct Sizes {
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
unsafe fn transform_rows<W: Words>(x: Lines, dy: At, s: &Sizes, v: Tiles, z: Tiles) {
    let &Sizes { columns, odd, .. } = s;
    // SAFETY: the caller's.
    unsafe {
        match W::NUMBERS {
            2 => each_kind!(x, paired::<W>(x, columns, odd, v)),
            _ => each_kind!(x, whole::<W>(x, columns, v)),
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
    let rows = std::array::from_fn(|r| match r < lines {
        true => dy.wrapping_add(r * width * d),
        false => std::ptr::null(),
    });
    // SAFETY: the caller's.
    unsafe {
        match W::NUMBERS {
            2 => pairs::gradient_row::<W, N>(rows, width, d, columns, odd, z),
            _ => transform::gradient_row::<W, N>(rows, width, d, columns, z),
        }
    }
}

#[inline(always)]
unsafe fn finish_body<W: Words>(sums: Sums, c: usize, d: usize, range: Range<usize>, dw: *mut f32) {
    let lanes = W::S::LANES;
    let padded = d.next_multiple_of(lanes);
    // SAFETY: the caller's.
    unsafe {
        for channel in range {
            for at in (0..d).step_by(lanes) {
                let m = W::S::mask((d - at).min(lanes));
                let from = sums.of(0, channel, padded).add(at).cast_const();
                let place = sums.channels * padded;
                let window = transform::filter_gradients::<W::S, W::F>(from, place, sums.shards);
                for y in 0..3 {
                    for x in 0..3 {
                        let to = dw.add(((y * 3 + x) * c + channel) * d + at);
                        W::S::store_first(to, window[y][x], m);
                    }
                }
            }
        }
    }
}
