//! Forward and backward-data: rows of tiles are transformed, multiplied and transformed back while they lie in a
//! thread's second cache.

use super::filters::{self, Filters};
use super::minimal::MOST;
use super::multiply::{Ahead, Product, multiply, room, step};
use super::source::{Lines, each_kind, source_row as whole};
use super::transform::{self, Finish, Tiles};
use super::words::{Words, words};
use super::{Maps, PASS, pitch};
use crate::conv::Epilogue;
use crate::gemm::{Even, Family, Simd, fence};
use crate::isa::simd;
use crate::map::At;
use crate::norm::Source;
use crate::{Bf16, Ctx, Isa, Map, MapMut, SharedMut, cut};
use std::ops::Range;

/// Floats of transformed tiles of a thread, sources and sums, which lie in the second cache.
const CACHED: usize = cut(128 * 1024, 256);
/// Tiles that pass over the filters together at least, however many channels they have; where filters are many it is
/// [`PASS`].
const FEWEST: usize = cut(28, 4);
/// Floats of a block of transformed filters: it lies in the second cache beside tiles.
const BLOCK: usize = cut(144 * 1024, 512);

/// A walk over maps `[n,h,w,c]`.
#[derive(Debug, Clone)]
pub(in crate::conv) struct WinogradWalk {
    maps: Maps,
    isa: Isa,
    /// Rows of tiles of an item at most.
    rows: usize,
    /// Filters are those of the forward pass, or transposed and turned by 180°.
    turned: bool,
    /// Words of a block of filters where each item transforms them as it needs them, none where all are packed before.
    block: Option<usize>,
}

impl WinogradWalk {
    /// A walk over such maps of a batch; with `turned` filters backward-data's. They change with each call if `train`.
    pub(super) fn new(maps: Maps, isa: Isa, batch: usize, turned: bool, train: bool) -> Self {
        let each = maps.way.places() * (maps.words() + maps.d);
        let in_blocks = train && maps.in_blocks(isa, batch);
        let least = if in_blocks || maps.many(isa) { PASS } else { FEWEST };
        let tiles = (CACHED / each).max(least);
        let (rows, columns) = maps.tiles();
        let block = BLOCK / (maps.way.places() * 2 * Family::of(isa).lanes);
        WinogradWalk {
            maps,
            isa,
            rows: (tiles / columns).min(batch * rows).max(1),
            turned,
            block: in_blocks.then_some(block.clamp(1, maps.words())),
        }
    }

    /// Whether filters are not packed but read as they are.
    pub fn is_unpacked(&self) -> bool {
        self.block.is_some()
    }

    /// Floats of the transformed filters, `[place][panel of two vectors][word of c][lane]`, where they are packed.
    pub fn pack_len(&self) -> usize {
        if self.is_unpacked() { 0 } else { self.maps.filters(self.isa) }
    }

    /// Floats from one tile to the next, of transformed sources and of sums.
    fn pitches(&self) -> [usize; 2] {
        let sums = if self.is_unpacked() { self.width().min(self.maps.d) } else { self.maps.d };
        [self.maps.words(), sums].map(pitch)
    }

    /// Floats from one place to the next, of transformed sources, of sums and of a block of filters.
    fn places(&self) -> [usize; 3] {
        let tiles = room(Family::of(self.isa).lanes, self.rows * self.maps.tiles().1);
        // An odd number of lines, as in `pitch`.
        let [v, m] = self.pitches().map(|pitch| tiles * pitch + 16);
        [v, m, self.block.map_or(0, |words| words * self.width() + 16)]
    }

    /// Floats of work space of a thread.
    pub fn scratch_len(&self) -> usize {
        self.maps.way.places() * self.places().iter().sum::<usize>() + 16
    }

    /// Transforms `filters [3,3,c,d]` of the convolution, all of them.
    pub fn pack(&self, cx: Ctx, filters: &[f32], pack: &mut [f32]) {
        assert!(filters.len() >= 9 * self.maps.c * self.maps.d, "filters are too short");
        assert!(pack.len() >= self.pack_len(), "pack is too short");
        let pack = SharedMut::new(pack);
        cx.pool.run(self.maps.d.div_ceil(self.width()), &|panel, _| {
            let words = 0..self.maps.words();
            // SAFETY: items have panels of their own; `pack` holds all places of all panels.
            unsafe {
                let to = pack.as_mut_ptr().add(words.len() * panel * self.width());
                self.transform(filters, words, panel, to, self.maps.place(self.isa));
            }
        });
    }

    /// Some words of the filters of a panel.
    ///
    /// # Safety
    /// `filters` are all there are, `to` has room for the words at all places, which are `place` apart.
    unsafe fn transform(
        &self,
        filters: &[f32],
        words: Range<usize>,
        panel: usize,
        to: *mut f32,
        place: usize,
    ) {
        let (Maps { c, d, .. }, turned) = (self.maps, self.turned);
        let panel = panel * self.width()..d.min((panel + 1) * self.width());
        let f = &Filters { all: filters, turned, c, d, words, panel, to, place };
        // SAFETY: the caller's.
        unsafe { words!(self.maps.way, self.isa, filter_body(f: &Filters)) }
    }

    /// `dst [n,out_h,out_w,d] (+)= epilogue(src [n,src_h,src_w,c] ∗ filters)`, packed filters or, where they are not,
    /// those of the convolution.
    pub fn run(
        &self,
        cx: Ctx,
        n: usize,
        src: Source,
        filters: &[f32],
        mut dst: MapMut,
        accumulate: bool,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        let all = n * self.maps.tiles().0;
        let (rows, parts) = self.items(all, cx.pool.threads());
        let each = self.scratch_len();
        let least =
            if self.is_unpacked() { 9 * self.maps.c * self.maps.d } else { self.pack_len() };
        assert!(filters.len() >= least, "filters are too short");
        assert!(scratch.len() >= each * cx.pool.threads(), "scratch is too short");
        assert!(epilogue.bias.is_none_or(|b| b.len() >= self.maps.d), "bias is too short");
        assert!(
            epilogue.residual.is_none_or(|r| r.len() >= dst.read().len()),
            "residual is too short"
        );
        let len = n * self.maps.out_h * self.maps.out_w * self.maps.d;
        assert!(dst.read().len() >= len, "output is too short");
        let dst = dst.at(0);
        let stream = !accumulate && dst.streams(len, self.maps.d);
        let finish = (accumulate, stream);
        let scratch = SharedMut::new(scratch);
        cx.pool.run(all.div_ceil(rows) * parts.parts, &|item, worker| {
            // SAFETY: each worker has its own part of the scratch.
            let scratch = unsafe { scratch.slice(worker * each..(worker + 1) * each) };
            let (item, part) = (item / parts.parts, parts.range(item % parts.parts));
            let rows = item * rows..all.min((item + 1) * rows);
            self.item(rows, part, src, filters, dst, finish, epilogue, scratch);
            if stream {
                fence();
            }
        });
    }

    /// Channels of a panel of filters.
    fn width(&self) -> usize {
        2 * Family::of(self.isa).lanes
    }

    /// Rows of an item, and the parts of its panels of filters, that keep all threads busy longest: tiles are computed in
    /// rounded numbers, each item reads its filters, which takes as long as `FILTERS` tiles, and transforms its sources,
    /// which takes as long as `SOURCES` numbers of a tile's output.
    fn items(&self, all: usize, threads: usize) -> (usize, Even) {
        const FILTERS: f64 = 5.0;
        const SOURCES: f64 = 4.0;
        let (lanes, panels) = (Family::of(self.isa).lanes, self.maps.d.div_ceil(self.width()));
        let step = step(lanes, if self.maps.d > lanes { 2 } else { 1 });
        let time = |&(rows, parts): &(usize, usize)| {
            let tiles = rows * self.maps.tiles().1;
            let share = panels.div_ceil(parts) as f64 / panels as f64;
            let products = share * (tiles.next_multiple_of(step) as f64 + FILTERS);
            let sources = SOURCES / self.maps.d as f64 * tiles as f64;
            (all.div_ceil(rows) * parts).div_ceil(threads) as f64 * (products + sources)
        };
        let parts = || (0..).map(|i| 1 << i).take_while(|&parts| parts <= panels.min(threads));
        let rows = (1..=self.rows.min(all.max(1))).rev();
        let best = rows.flat_map(|rows| parts().map(move |parts| (rows, parts)));
        let (rows, parts) = best.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or((1, 1));
        (rows, Even::parts(panels, parts))
    }

    /// Some rows of tiles, counted over all pictures, and panels of the output's channels.
    fn item(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        src: Source,
        filters: &[f32],
        dst: At,
        finish: (bool, bool),
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        let (maps, columns) = (&self.maps, self.maps.tiles().1);
        let [v, m, u] = self.tiles(scratch);
        for (i, row) in rows.clone().enumerate() {
            let lines = Lines::new(maps, src, row, 0..maps.c);
            let to = Tiles { at: v.at.wrapping_add(i * columns * v.tile), ..v };
            // SAFETY: the map holds what the lines say is there; `v` has room for all rows of an item.
            unsafe {
                words!(maps.way, self.isa, source_row(lines: Lines, columns: usize, to: Tiles))
            }
        }
        let together = if self.is_unpacked() { 1 } else { panels.len().max(1) };
        for panel in panels.step_by(together) {
            let first = panel * self.width();
            let channels = (first, maps.d.min(first + together * self.width()));
            // Sums of one panel begin with its first channel.
            let before = if self.is_unpacked() { first } else { 0 };
            let m = Tiles { at: m.at.wrapping_sub(before), ..m };
            let product = Product {
                ahead: Ahead::NONE,
                v: v.at,
                v_place: v.place,
                v_tile: v.tile,
                u: filters[maps.words() * first..].as_ptr(),
                u_place: maps.place(self.isa),
                m: m.at,
                m_place: m.place,
                m_tile: m.tile,
                tiles: rows.len() * columns,
                c: maps.words(),
                d: channels,
                load: false,
            };
            match self.block {
                Some(words) => self.blocks(words, product, panel, filters, u),
                None => {
                    let ahead = self.written(rows.clone(), dst, finish.1);
                    self.multiply(&Product { ahead, ..product });
                }
            }
            for (i, row) in rows.clone().enumerate() {
                let from = Tiles { at: m.at.wrapping_add(i * columns * m.tile), ..m };
                self.outputs(row, channels, from, dst, finish, epilogue);
            }
        }
    }

    /// Where a thread has transformed sources, sums and a block of filters, which has no tiles.
    fn tiles(&self, scratch: &mut [f32]) -> [Tiles; 3] {
        let ([v, m, u], [of_v, of_m]) = (self.places(), self.pitches());
        let skip = scratch.as_ptr().align_offset(64).min(16);
        let mut rest = &mut scratch[skip..];
        [(v, of_v), (m, of_m), (u, 0)].map(|(place, tile)| {
            let len = self.maps.way.places() * place;
            let (own, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            Tiles { at: own.as_mut_ptr(), place, tile }
        })
    }

    /// What the outputs of some rows of tiles will overwrite, where they do not go past the caches.
    fn written(&self, rows: Range<usize>, dst: At, stream: bool) -> Ahead {
        let (first, _) = self.output_rows(rows.start);
        let (last, lines) = self.output_rows(rows.end - 1);
        let numbers = last - first + lines * self.maps.out_w * self.maps.d;
        let len = if stream { 0 } else { dst.floats(numbers) };
        Ahead { at: dst.address(first), len, rows: [(1, 0); 2] }
    }

    /// The filters of some words and a panel.
    fn untransformed(&self, filters: &[f32], words: Range<usize>, panel: usize) -> Ahead {
        let (Maps { c, d, .. }, first) = (self.maps, panel * self.width());
        let lanes = self.width().min(d.saturating_sub(first));
        let numbers = self.maps.way.numbers(words.start)..self.maps.way.numbers(words.end).min(c);
        let (start, len, rows) = match self.turned {
            false => (numbers.start * d + first, lanes, (numbers.len(), d)),
            true => (first * c + numbers.start, numbers.len(), (lanes, c)),
        };
        Ahead { at: filters.as_ptr().wrapping_add(start), len, rows: [rows, (9, c * d)] }
    }

    /// The product of one panel, block by block of its filters, which are transformed before.
    fn blocks(&self, words: usize, whole: Product, panel: usize, filters: &[f32], u: Tiles) {
        let all = self.maps.words();
        let block = |first: usize| first..all.min(first + words);
        for first in (0..all).step_by(words) {
            let words = block(first);
            let ahead = match words.end < all {
                true => self.untransformed(filters, block(words.end), panel),
                false => self.untransformed(filters, block(0), panel + 1),
            };
            let product = Product {
                ahead,
                v: whole.v.wrapping_add(first),
                u: u.at,
                u_place: u.place,
                c: words.len(),
                load: first > 0,
                ..whole
            };
            // SAFETY: `run` has looked that there are all filters; `u` has room for a block of a panel.
            unsafe { self.transform(filters, words, panel, u.at, u.place) };
            self.multiply(&product);
        }
    }

    fn multiply(&self, product: &Product) {
        // SAFETY: places have room for rounded tiles of padded channels, filters are whole vectors.
        unsafe { words!(self.maps.way, self.isa, product_body(product: &Product)) };
    }

    /// The outputs of a row of tiles.
    fn outputs(
        &self,
        row: usize,
        channels: (usize, usize),
        from: Tiles,
        dst: At,
        (accumulate, stream): (bool, bool),
        epilogue: Epilogue,
    ) {
        let maps = &self.maps;
        let (at, lines) = self.output_rows(row);
        let of = |v: Option<&[f32]>| {
            std::array::from_fn(|r| match v {
                Some(v) if r < lines => v[at + r * maps.out_w * maps.d..].as_ptr(),
                _ => std::ptr::null(),
            })
        };
        let finish = Finish {
            bias: epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
            residual: of(epilogue.residual.map(Map::full)),
            clamp: epilogue.clamp,
            channels,
            accumulate,
            stream,
        };
        let out: [*mut f32; MOST] = std::array::from_fn(|r| match r < lines {
            true => dst.address(at + r * maps.out_w * maps.d),
            false => std::ptr::null_mut(),
        });
        let (columns, width, d) = (maps.tiles().1, maps.out_w, maps.d);
        // SAFETY: the rows lie on the map; items have rows of their own, or channels.
        unsafe {
            if dst.is_half() {
                let out = out.map(<*mut f32>::cast::<Bf16>);
                words!(maps.way, self.isa, output_halves(from: Tiles, columns: usize, out: [*mut Bf16; MOST], width: usize, d: usize, finish: Finish))
            } else {
                words!(maps.way, self.isa, output_row(from: Tiles, columns: usize, out: [*mut f32; MOST], width: usize, d: usize, finish: Finish))
            }
        }
    }

    /// Where the output rows of a row of tiles begin, and how many there are.
    fn output_rows(&self, row: usize) -> (usize, usize) {
        let maps = &self.maps;
        let (p, y) = (row / maps.tiles().0, row % maps.tiles().0 * maps.way.step());
        ((p * maps.out_h + y) * maps.out_w * maps.d, maps.way.step().min(maps.out_h - y))
    }
}

#[inline(always)]
unsafe fn source_row<W: Words>(lines: Lines, n: usize, to: Tiles) {
    // SAFETY: the caller's.
    unsafe { each_kind!(lines, whole::<W>(lines, n, to)) }
}

#[inline(always)]
unsafe fn product_body<W: Words>(p: &Product) {
    // SAFETY: the caller's.
    unsafe { multiply::<W>(p) }
}

#[inline(always)]
unsafe fn output_row<W: Words>(
    from: Tiles,
    n: usize,
    rows: [*mut f32; MOST],
    width: usize,
    d: usize,
    f: Finish,
) {
    // SAFETY: the caller's.
    unsafe { transform::output_row::<W::S, W::F, f32>(from, n, rows, width, d, f) }
}

#[inline(always)]
unsafe fn output_halves<W: Words>(
    from: Tiles,
    n: usize,
    rows: [*mut Bf16; MOST],
    width: usize,
    d: usize,
    f: Finish,
) {
    // SAFETY: the caller's.
    unsafe { transform::output_row::<W::S, W::F, Bf16>(from, n, rows, width, d, f) }
}

#[inline(always)]
unsafe fn filter_body<W: Words>(f: &Filters) {
    // SAFETY: the caller's.
    unsafe { filters::transform::<W>(f) }
}
