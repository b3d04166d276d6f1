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
/// Channels and filters of a part at least: each part transforms its sources and gradients again.
const PART: [usize; 2] = [64, 128];
/// The same where there would be only a few parts, and so many.
const SMALL: ([usize; 2], usize) = ([16, 32], 4);
/// Floats behind the last tile: channels are read in whole blocks.
const SLACK: usize = 16;

/// `dw [3,3,c,d] = Σ over pictures and pixels of x · dy`.
///
/// The work is cut by shape alone: rows of tiles into shards, which have sums of their own, and where these would be
/// long channels and filters into parts. What a thread transforms, it multiplies itself: caches of other cores are far. Where there is
/// one shard, a thread takes its part's sums to the end at once.
#[derive(Debug, Clone)]
pub(in crate::conv) struct WinogradWeights {
    maps: Maps,
    isa: Isa,
    /// Shards of the rows of tiles of all pictures.
    shards: usize,
    /// Blocks of channels that are multiplied together, in each of the parts.
    channels: Even,
    /// Panels of filters in each of the parts.
    filters: Even,
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
        let (mut parts, sizes) = ([1, 1], [maps.c, maps.d]);
        for (least, items) in [(PART, ITEMS), SMALL] {
            while shards * parts[0] * parts[1] < items {
                // The longer side of a part is cut, as far as it may be.
                let free = |i: &usize| sizes[*i] >= 2 * parts[*i] * least[*i];
                match [0, 1].into_iter().filter(free).max_by_key(|&i| sizes[i] / parts[i]) {
                    Some(side) => parts[side] *= 2,
                    None => break,
                }
            }
        }
        let channels = Even::parts(maps.c.div_ceil(channels(lanes, maps.c)), parts[0]);
        let filters = Even::parts(maps.d.div_ceil(2 * lanes), parts[1]);
        let walk = WinogradWeights { maps, isa, shards, channels, filters, rows: 1 };
        let part = walk.part(0);
        let each = places * (pitch(part.channels.len()) + pitch(part.filters.len()));
        let words = (CHUNK / each).max(FEWEST);
        let tiles = if maps.way == Way::Pairs { 2 * words } else { words };
        WinogradWeights { rows: (tiles / columns).clamp(1, (batch * rows).max(1)), ..walk }
    }

    /// What a part computes; the first has the most.
    fn part(&self, part: usize) -> Part {
        let Maps { c, d, .. } = self.maps;
        let lanes = Family::of(self.isa).lanes;
        let range = |parts: Even, part: usize, each: usize, end: usize| {
            let blocks = parts.range(part);
            blocks.start * each..(blocks.end * each).min(end)
        };
        Part {
            channels: range(self.channels, part / self.filters.parts, channels(lanes, c), c),
            filters: range(self.filters, part % self.filters.parts, 2 * lanes, d),
        }
    }

    /// All channels and filters.
    fn whole(&self) -> Part {
        Part { channels: 0..self.maps.c, filters: 0..self.maps.d }
    }

    /// Floats from one place to the next, of transformed sources and gradients.
    fn places(&self) -> [usize; 2] {
        let tiles = self.maps.way.words(self.rows * self.maps.tiles().1);
        let Part { channels, filters } = self.part(0);
        [channels.len(), filters.len()].map(|channels| tiles * pitch(channels) + 16)
    }

    /// Sums that lie together: all those of a shard, or of a part where there are no others to add.
    fn together(&self) -> Part {
        if self.shards > 1 { self.whole() } else { self.part(0) }
    }

    /// Floats of the sums of all places that lie together.
    fn sums_len(&self) -> usize {
        let Part { channels, filters } = self.together();
        self.maps.way.places() * channels.len() * Family::of(self.isa).padded(filters.len())
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
        let together = self.together();
        let row = Family::of(self.isa).padded(together.filters.len());
        let sums_of = |buffer: usize, first: &Part| Sums {
            // SAFETY: within the sums.
            at: unsafe { sums.as_mut_ptr().add(buffer * self.sums_len()) },
            first: (first.channels.start, first.filters.start),
            row,
            place: together.channels.len() * row,
            shards: shards.parts,
        };
        let parts = self.channels.parts * self.filters.parts;
        cx.pool.run(shards.parts * parts, &|item, worker| {
            let (shard, part) = (item / parts, self.part(item % parts));
            // SAFETY: each worker has its own part of the scratch.
            let own = unsafe { threads.slice(worker * each..(worker + 1) * each) };
            // A shard's sums, of which items have parts of their own, or a worker's.
            let sums = match self.shards > 1 {
                true => sums_of(shard, &self.whole()),
                false => sums_of(worker, &part),
            };
            self.item(shards.range(shard), &part, x, dy, sums, own);
            if self.shards == 1 {
                self.finish(&part, sums, &dw);
            }
        });
        if self.shards > 1 {
            let (sums, items) = (sums_of(0, &self.whole()), Even::new(self.maps.c, 16));
            cx.pool.run(items.parts, &|item, _| {
                self.finish(&Part { channels: items.range(item), ..self.whole() }, sums, &dw);
            });
        }
    }

    /// The sums of a part over some rows of tiles, counted over all pictures.
    fn item(
        &self,
        rows: Range<usize>,
        part: &Part,
        x: Source,
        dy: Map,
        sums: Sums,
        own: &mut [f32],
    ) {
        let (maps, isa) = (&self.maps, self.isa);
        let most = self.part(0);
        let [v_place, z_place] = self.places();
        let (v, rest) = own.split_at_mut(maps.way.places() * v_place);
        let z = &mut rest[..maps.way.places() * z_place];
        let v = Tiles { at: v.as_mut_ptr(), place: v_place, tile: pitch(most.channels.len()) };
        let z = Tiles { at: z.as_mut_ptr(), place: z_place, tile: pitch(most.filters.len()) };
        for first in rows.clone().step_by(self.rows) {
            let chunk = first..rows.end.min(first + self.rows);
            let tiles = maps.way.words(chunk.len() * maps.tiles().1);
            self.transform(chunk, part, x, dy, v, z);
            for place in 0..maps.way.places() {
                let outer = Outer {
                    v: v.at.wrapping_add(place * v.place),
                    v_tile: v.tile,
                    z: z.at.wrapping_add(place * z.place),
                    z_tile: z.tile,
                    w: sums.of(place, part.channels.start, part.filters.start),
                    w_row: sums.row,
                    tiles,
                    c: part.channels.len(),
                    d: Family::of(isa).padded(part.filters.len()),
                    load: first > rows.start,
                };
                let outer = &outer;
                // SAFETY: all tiles of the chunk are transformed; the sums are this item's.
                unsafe { words!(self.maps.way, isa, outer_body(outer: &Outer)) };
            }
        }
    }

    /// Tiles of both maps of a chunk's rows.
    fn transform(&self, rows: Range<usize>, part: &Part, x: Source, dy: Map, v: Tiles, z: Tiles) {
        let (maps, isa) = (&self.maps, self.isa);
        let (tile_rows, columns) = maps.tiles();
        for (i, row) in rows.enumerate() {
            let sources = Lines::new(maps, x, row, part.channels.clone());
            let (d, width) = (maps.d, maps.out_w);
            let (p, y) = (row / tile_rows, row % tile_rows * maps.way.step());
            let lines = maps.way.step().min(maps.out_h - y);
            let at = (p * maps.out_h + y) * width * d;
            let gradients = dy.part(at..at + lines * width * d).at(part.filters.start);
            let first = i * columns;
            let (word, odd) = match maps.way {
                Way::Pairs => (first / 2, first % 2 == 1),
                Way::Two | Way::Four => (first, false),
            };
            let v = Tiles { at: v.at.wrapping_add(word * v.tile), ..v };
            let z = Tiles { at: z.at.wrapping_add(word * z.tile), ..z };
            let sizes = &Sizes { d, filters: part.filters.len(), lines, width, columns, odd };
            // SAFETY: the rows hold the tiles' pixels; both operands have room for a chunk.
            unsafe {
                words!(self.maps.way, isa, transform_rows(sources: Lines, gradients: At, sizes: &Sizes, v: Tiles, z: Tiles))
            }
        }
    }

    /// The way back to the filters of a part, which nobody else has, of the sums of all shards.
    fn finish(&self, part: &Part, sums: Sums, dw: &SharedMut<f32>) {
        let (Maps { c, d, .. }, dw) = (self.maps, dw.as_mut_ptr());
        // SAFETY: the caller's part; `dw` holds all filters.
        unsafe {
            words!(self.maps.way, self.isa, finish_body(sums: Sums, c: usize, d: usize, part: &Part, dw: *mut f32))
        }
    }
}

/// Channels and filters that are computed together.
struct Part {
    channels: Range<usize>,
    filters: Range<usize>,
}

/// Where sums `[shard][place][channel][filters, whole vectors]` lie.
#[derive(Clone, Copy)]
struct Sums {
    at: *mut f32,
    /// The first channel and filter.
    first: (usize, usize),
    /// Floats from one channel to the next, and from one place.
    row: usize,
    place: usize,
    shards: usize,
}

// SAFETY: an address; those who read and write there promise disjoint parts.
unsafe impl Sync for Sums {}

impl Sums {
    /// The first shard's of a place, channel and filter.
    #[inline(always)]
    fn of(&self, place: usize, channel: usize, filter: usize) -> *mut f32 {
        let (channel, filter) = (channel - self.first.0, filter - self.first.1);
        self.at.wrapping_add(place * self.place + channel * self.row + filter)
    }
}

/// Numbers of a row of tiles.
struct Sizes {
    /// Channels of a pixel, and those that are transformed.
    d: usize,
    filters: usize,
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
    let &Sizes { lines, width, d, filters, columns, odd, .. } = s;
    let rows = std::array::from_fn(|r| match r < lines {
        true => dy.wrapping_add(r * width * d),
        false => std::ptr::null(),
    });
    // SAFETY: the caller's.
    unsafe {
        match W::NUMBERS {
            2 => pairs::gradient_row::<W, N>(rows, width, (d, filters), columns, odd, z),
            _ => transform::gradient_row::<W, N>(rows, width, (d, filters), columns, z),
        }
    }
}

#[inline(always)]
unsafe fn finish_body<W: Words>(sums: Sums, c: usize, d: usize, part: &Part, dw: *mut f32) {
    let lanes = W::S::LANES;
    // SAFETY: the caller's.
    unsafe {
        for channel in part.channels.clone() {
            for at in part.filters.clone().step_by(lanes) {
                let m = W::S::mask((part.filters.end - at).min(lanes));
                let from = sums.of(0, channel, at).cast_const();
                let window =
                    transform::filter_gradients::<W::S, W::F>(from, sums.place, sums.shards);
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
