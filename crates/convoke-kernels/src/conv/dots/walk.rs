//! Forward and backward-data: [`super::super::walk`] over words of neighbouring channels.
//!
//! A band of source rows is copied as words with its padding, `[picture][row][pixel][word]`; a window row of
//! pixels is one contiguous sum. Pixels are padded to whole words, except where windows begin at whole words
//! anyway. Where a pixel of the output is made of one of the source and all filters stay in the second cache, pixels
//! stream by instead, a strip at a time.

use super::super::Epilogue;
use super::super::tiles::{self, Kind, LONGEST};
use super::super::walk::{Cell, Walk};
use super::finish::Finish;
use super::tile::{Tap, Tile, pick};
use super::{WORD, family, words};
use crate::gemm::{Even, Family, LINE, Panel, fence};
use crate::map::At;
use crate::norm::Source;
use crate::{Ctx, Map, MapMut, SharedMut, cut};
use std::ops::Range;

/// Words of source rows kept in a thread's cache while all filters pass over them: 384 KB, so that they share
/// 1 MB of L2 with a panel of filters.
const BAND: usize = cut(96 * 1024, 256);
/// Words of the filters of panels that pass over a strip together: 256 KB, a part of the second cache.
const TOGETHER: usize = cut(64 * 1024, 256);
/// Words of all filters that stay in the second cache while maps that are one row of pixels stream by: 640 KB.
const STAY: usize = cut(160 * 1024, 512);
/// Numbers of such maps that are asked for ahead of what is read, so that main memory works while sums are made.
const AHEAD: usize = 8192;
/// Panels that pass over a strip together at most.
const MOST_PANELS: usize = 32;
/// Words by which pixels a multiple of 2 KB apart are moved, so that those of a tile lie in different places of
/// the nearest cache.
const APART: usize = 16;
/// Pixels that have a norm applied at a time.
const NORMED: usize = 16;

/// A [`Walk`] in dot products.
#[derive(Debug, Clone)]
pub(in super::super) struct DotWalk {
    pub(super) base: Walk,
    pub(super) kind: Kind,
    /// Whether all pictures are one row of pixels: an output pixel is made of one source pixel, and outputs lie one
    /// behind the other.
    flat: bool,
    /// Numbers of a pixel in the sum, and words from one pixel to the next.
    pub(super) pixel: usize,
    step: usize,
    /// Neighbouring window places, whose numbers lie one behind the other: places of each, and words.
    pub(super) cells: usize,
    pub(super) k: usize,
    /// Words of a band's row.
    pitch: usize,
    /// Taps for full panels and for the last one.
    pub(super) taps: [Vec<Tap>; 2],
    batch: usize,
    threads: usize,
}

/// How a run is cut into items. Any cut gives the same numbers.
struct Cut {
    /// Pictures (1 when flat), rows and columns of output.
    group: Even,
    bands: Even,
    chunks: Even,
    panels: Even,
}

/// The outputs of one item.
struct Block {
    pictures: Range<usize>,
    rows: Range<usize>,
    cols: Range<usize>,
    panels: Range<usize>,
}

/// What a run is given.
struct Run<'a> {
    src: Source<'a>,
    pack: &'a [f32],
    dst: At,
    /// What is added to outputs; it may be `dst`, of which items read what they alone write.
    residual: Option<At>,
    epilogue: Epilogue<'a>,
    isa: crate::Isa,
    /// Where outputs, or what is added to them, are bytes.
    finish: Option<Finish>,
    /// Whether outputs go past the caches.
    stream: bool,
}

impl DotWalk {
    pub fn new(base: &Walk, kind: Kind, batch: usize, threads: usize) -> Self {
        let (c, size) = (base.channels, kind.size());
        let cells = Self::run_of(&base.cells);
        let whole = |n: usize| (n * size).is_multiple_of(WORD);
        // Windows begin at whole words without padding between pixels.
        let dense = whole(base.step_w * c)
            && base.cells.iter().step_by(cells).all(|cell| whole(cell.col * c));
        let pixel = if dense { c } else { c.next_multiple_of(WORD / size) };
        let k = (cells * pixel * size).div_ceil(WORD);
        let flat = !base.padded
            && base.cells.len() == 1
            && (base.top, base.left) == (0, 0)
            && (base.dst_step_h, base.dst_step_w) == (1, 1)
            && (base.out_h, base.out_w) == (base.dst_h, base.dst_w);
        let step = (if flat { 1 } else { base.step_w } * pixel * size).div_ceil(WORD);
        let step = match flat && step.is_multiple_of(512) {
            true => step + APART,
            false => step,
        };
        let tail = usize::from(!whole(cells * pixel));
        let pitch = (base.band_w() * pixel * size).div_ceil(WORD) + tail;
        let taps = |width: usize| {
            let of = |(i, cell): (usize, &Cell)| Tap {
                a: (cell.row * pitch + cell.col * pixel * size / WORD) as isize,
                b: (i * k * width) as isize,
            };
            base.cells.iter().step_by(cells).enumerate().map(of).collect()
        };
        let family = family(kind);
        let last = family.panels(base.filters).last().map_or(family.width(), |p| p.width);
        DotWalk {
            taps: [taps(family.width()), taps(last)],
            base: base.clone(),
            kind,
            flat,
            pixel,
            step,
            cells,
            k,
            pitch,
            batch,
            threads,
        }
    }

    /// Neighbours of a row that all windows' rows have: 1 where their number differs.
    fn run_of(cells: &[Cell]) -> usize {
        let follows =
            |i: usize| cells[i].row == cells[i - 1].row && cells[i].col == cells[i - 1].col + 1;
        let len = (1..cells.len()).find(|&i| !follows(i)).unwrap_or(cells.len()).max(1);
        let even = cells.len().is_multiple_of(len)
            && (1..cells.len()).all(|i| follows(i) != i.is_multiple_of(len));
        if even { len } else { 1 }
    }

    pub(super) fn family(&self) -> Family {
        family(self.kind)
    }

    /// Words of the whole sum.
    pub(super) fn sum(&self) -> usize {
        self.taps[0].len() * self.k
    }

    /// Cycles of one thread in the units of the f32 walks' cost, see [`super::super::fma`].
    pub fn cost(&self, batch: usize) -> f64 {
        let base = &self.base;
        let pixels = (batch * base.out_h * base.out_w) as f64;
        let source = match self.flat {
            true => pixels * base.channels as f64,
            false => (batch * base.src_h * base.src_w * base.channels) as f64,
        };
        let out = pixels * base.filters as f64;
        let products = pixels * (self.family().padded(base.filters) * self.sum()) as f64;
        products / 25.0 + 0.5 * source + 0.3 * out
    }

    pub fn is_int8(&self) -> bool {
        matches!(self.kind, Kind::Int8(..))
    }

    /// Whether the sum cannot overflow, whatever the numbers.
    pub fn holds(&self) -> bool {
        !self.is_int8() || self.base.cells.len() * self.base.channels <= LONGEST
    }

    pub(super) fn padded(&self) -> usize {
        self.family().padded(self.base.filters)
    }

    /// Floats of the packed filters, with the scales of those that are integers.
    pub fn pack_len(&self) -> usize {
        (self.sum() + if self.is_int8() { 2 } else { 0 }) * self.padded()
    }

    /// Floats of work space of one thread.
    pub fn scratch_len(&self) -> usize {
        self.band_len() + tiles::floats_for(0) + self.line()
    }

    fn band_len(&self) -> usize {
        let base = &self.base;
        if self.flat {
            let most = if self.streams_by() { self.family().pixels } else { self.flat_pixels() };
            return most.min(self.batch * base.out_h * base.out_w) * self.step;
        }
        let cut = self.cut(self.batch, self.threads);
        let (group, rows) = (cut.group.range(0).len(), cut.bands.range(0).len());
        let picture = base.band_h(base.out_h) * self.pitch;
        // A smaller batch may be cut into larger groups, but never beyond the band's budget.
        let most = (BAND / picture.max(1)).min(self.batch);
        (group * base.band_h(rows) * self.pitch).max(most * picture)
    }

    /// Floats of pixels that have a norm applied.
    fn line(&self) -> usize {
        let pixels = if self.flat { NORMED } else { self.base.src_w };
        pixels * self.base.channels
    }

    /// Whether filters stay and pixels stream by, a strip at a time, instead of a band that all panels pass over.
    fn streams_by(&self) -> bool {
        let panels = self.base.filters.div_ceil(self.family().width());
        self.flat && panels <= MOST_PANELS && self.sum() * self.padded() <= STAY
    }

    /// Pixels of an item at most, where pictures are one row of pixels.
    fn flat_pixels(&self) -> usize {
        (BAND / self.step).max(2 * self.family().pixels)
    }

    fn cut(&self, n: usize, threads: usize) -> Cut {
        let (base, family, even) = (&self.base, self.family(), Even::parts);
        let wanted = 4 * threads;
        let panels = base.filters.div_ceil(family.width());
        if self.flat {
            let pixels = n * base.out_h * base.out_w;
            let chunks = pixels
                .div_ceil(self.flat_pixels())
                .max(wanted.min(pixels.div_ceil(2 * family.pixels)));
            let split = if chunks < wanted { panels.min(wanted.div_ceil(chunks)) } else { 1 };
            return Cut {
                group: even(1, 1),
                bands: even(1, 1),
                chunks: even(pixels, chunks),
                panels: even(panels, split),
            };
        }
        let row = base.step_h * self.pitch;
        let most_rows = (BAND / row.max(1)).saturating_sub(base.span_h / base.step_h).max(1);
        let mut bands = base.out_h.div_ceil(most_rows);
        if n * bands < wanted {
            bands = wanted.div_ceil(n).min(base.out_h.div_ceil(4)).max(bands);
        }
        let picture = base.band_h(base.out_h) * self.pitch;
        let together = if bands == 1 { (BAND / picture.max(1)).min(n / wanted).max(1) } else { 1 };
        let groups = n.div_ceil(together);
        let items = groups * bands;
        let split = if items < wanted { panels.min(wanted.div_ceil(items)) } else { 1 };
        Cut {
            group: even(n, groups),
            bands: even(base.out_h, bands),
            chunks: even(base.out_w, 1),
            panels: even(panels, split),
        }
    }

    /// Runs the walk over `n` pictures.
    pub fn run(
        &self,
        cx: Ctx,
        n: usize,
        src: Source,
        pack: &[f32],
        mut dst: MapMut,
        accumulate: bool,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        let base = &self.base;
        if n == 0 || base.cells.is_empty() && accumulate {
            return;
        }
        assert!(pack.len() >= self.pack_len(), "packed filters are too short");
        assert!(epilogue.bias.is_none_or(|b| b.len() >= base.filters), "bias is too short");
        let out = n * base.dst_h * base.dst_w * base.filters;
        assert!(dst.read().len() >= out && epilogue.residual.is_none_or(|r| r.len() >= out));
        assert!(src.x.len() >= n * base.src_h * base.src_w * base.channels, "source is too short");
        if let Map::Bytes(_, range) = src.x {
            let same = matches!(self.kind, Kind::Int8(_, of) if of == range);
            assert!(same && src.norm.is_none(), "bytes of another range");
        }
        let finish = Finish::new(self.kind, dst.read(), epilogue.residual);
        let implied =
            matches!(dst, MapMut::Bytes(_, to) if epilogue.clamp.is_some_and(|c| to.clamps(c)));
        let epilogue = Epilogue { clamp: epilogue.clamp.filter(|_| !implied), ..epilogue };
        let dst = dst.at(0);
        assert!(!accumulate || epilogue.residual.is_none(), "adds to one map");
        let cut = self.cut(n, cx.pool.threads());
        let per_worker = scratch.len() / cx.pool.threads();
        // Only sums as they are pass the caches, and those of integers are to be scaled.
        let Epilogue { bias, residual, clamp, .. } = epilogue;
        let bare = bias.is_none() && residual.is_none() && clamp.is_none();
        assert!(bare || !dst.is_half(), "outputs of bf16 are sums as they are");
        let plain = bare && !accumulate;
        let stream = plain && !self.is_int8() && dst.streams(out, base.filters);
        let scratch = SharedMut::new(scratch);
        let residual = residual.map(|r| r.at(0)).or(accumulate.then_some(dst));
        let run = Run { src, pack, dst, residual, epilogue, isa: cx.isa, finish, stream };
        let items = cut.group.parts * cut.bands.parts * cut.chunks.parts * cut.panels.parts;
        cx.pool.run(items, &|item, worker| {
            let (item, panels) =
                (item / cut.panels.parts, cut.panels.range(item % cut.panels.parts));
            let (item, cols) = (item / cut.chunks.parts, cut.chunks.range(item % cut.chunks.parts));
            let (item, rows) = (item / cut.bands.parts, cut.bands.range(item % cut.bands.parts));
            let pictures = cut.group.range(item);
            let block = Block { pictures, rows, cols, panels };
            if [&block.pictures, &block.rows, &block.cols, &block.panels]
                .iter()
                .any(|r| r.is_empty())
            {
                return;
            }
            // SAFETY: each worker has its own part of the scratch.
            let scratch = unsafe { scratch.slice(worker * per_worker..(worker + 1) * per_worker) };
            self.block(&block, &run, scratch);
            if stream {
                fence();
            }
        });
    }

    /// All outputs of one item. Filters of a few panels stay in the second cache while all of them pass over a
    /// strip of pixels, so that outputs are written as they lie.
    fn block(&self, block: &Block, run: &Run, scratch: &mut [f32]) {
        let (base, family) = (&self.base, self.family());
        let (line, band) = scratch.split_at_mut(self.line());
        let skip = band.as_ptr().align_offset(64);
        let band = &mut band[skip..];
        if self.streams_by() {
            return self.stream_by(block, run, band, line);
        }
        let (source, picture) = self.source_of(block, run, band, line);
        let together = TOGETHER / (self.sum() * family.width()).max(1);
        let chunks = Even::new(block.panels.len(), together.clamp(1, MOST_PANELS));
        for chunk in (0..chunks.parts).map(|i| chunks.range(i)) {
            let first = block.panels.start + chunk.start;
            let panels = family.panels(base.filters).skip(first).take(chunk.len());
            let mut tiles = [None; MOST_PANELS];
            for (slot, panel) in tiles.iter_mut().zip(panels) {
                *slot = Some((panel, self.tile(panel, source, run)));
            }
            self.sweep(&family, block, &tiles[..chunk.len()], picture);
        }
    }

    /// All outputs of one item of maps that are one row of pixels, strip by strip. The first tiles of a strip ask
    /// for pixels further on.
    fn stream_by(&self, block: &Block, run: &Run, band: &mut [f32], line: &mut [f32]) {
        let (base, family) = (&self.base, self.family());
        let panels = family.panels(base.filters).skip(block.panels.start).take(block.panels.len());
        let mut tiles = [None; MOST_PANELS];
        for (slot, panel) in tiles.iter_mut().zip(panels) {
            *slot = Some((panel, self.tile(panel, std::ptr::null(), run)));
        }
        let strips = Even::new(block.cols.len(), family.pixels);
        for strip in (0..strips.parts).map(|i| strips.range(i)) {
            let cols = block.cols.start + strip.start..block.cols.start + strip.end;
            // Of pixels that lie apart, nothing.
            let asked = if base.flat { cols.len() * base.channels } else { 0 };
            let next = run.src.x.at(cols.start * base.channels + AHEAD);
            let (mut ahead, end) = (next.start.cast_const(), next.address(asked).cast_const());
            let (pictures, panels) = (block.pictures.clone(), block.panels.clone());
            let strip = Block { pictures, rows: block.rows.clone(), cols, panels };
            let (source, _) = self.source_of(&strip, run, band, line);
            for (_, tile) in tiles.iter_mut().flatten() {
                tile.a = source;
                tile.ahead = if ahead < end { ahead } else { std::ptr::null() };
                ahead = ahead.wrapping_add(2 * LINE * self.sum());
            }
            self.sweep(&family, &strip, &tiles[..block.panels.len()], 0);
        }
    }

    /// A panel's tile as it stands at the first pixel of the maps.
    fn tile(&self, panel: Panel, source: *const u32, run: &Run) -> Tile {
        let (base, null) = (&self.base, std::ptr::null::<f32>());
        let taps = &self.taps[usize::from(panel.width != self.family().width())];
        let scales = self.sum() * self.padded();
        let (scale, less) = match self.is_int8() {
            true => {
                let scale = &run.pack[scales + panel.start..];
                (scale.as_ptr(), scale[self.padded()..].as_ptr())
            }
            false => (null, null),
        };
        Tile {
            taps: taps.as_ptr(),
            ntaps: taps.len(),
            k: self.k,
            a: source,
            a_row: base.step_h * self.pitch,
            a_px: self.step,
            a_k: 1,
            b: run.pack[self.sum() * panel.start..].as_ptr().cast(),
            b_k: panel.width,
            c: run.dst.plus(panel.start),
            c_row: base.dst_step_h * base.dst_w * base.filters,
            c_px: base.dst_step_w * base.filters,
            last: panel.last(),
            less,
            scale,
            bias: run.epilogue.bias.map_or(null, |b| b[panel.start..].as_ptr()),
            residual: run.residual.map_or(At::NONE, |r| r.plus(panel.start)),
            finish: run.finish,
            clamp: run.epilogue.clamp,
            ahead: null,
            ahead_k: LINE,
            stream: run.stream,
        }
    }

    /// Passes tiles of some panels over the block's pixels, strip by strip.
    fn sweep(
        &self,
        family: &Family,
        block: &Block,
        tiles: &[Option<(Panel, Tile)>],
        picture: usize,
    ) {
        let Some(Some((_, one))) = tiles.first() else { return };
        let base = &self.base;
        let most_rows = family.rows_of(block.cols.len());
        for p in block.pictures.clone() {
            // Where output (0, 0)'s window begins, from the band's start.
            let origin = match self.flat {
                true => -((block.cols.start * one.a_px) as isize),
                false => {
                    let start = (p - block.pictures.start) * picture;
                    start as isize - (block.rows.start * one.a_row) as isize
                }
            };
            let corner = ((p * base.dst_h + base.row0) * base.dst_w + base.col0) * base.filters;
            let mut i = block.rows.start;
            while i < block.rows.end {
                let rows = most_rows.min(block.rows.end - i);
                let strips = Even::new(block.cols.len(), family.pixels / rows);
                for part in 0..strips.parts {
                    let strip = strips.range(part);
                    let j = block.cols.start + strip.start;
                    let a = origin + (i * one.a_row + j * one.a_px) as isize;
                    let c = corner + i * one.c_row + j * one.c_px;
                    for (panel, tile) in tiles.iter().flatten() {
                        let mut tile = *tile;
                        // SAFETY: windows stay within the padded band, see `fill`; `c` addresses outputs of
                        // this item alone.
                        unsafe {
                            tile.a = tile.a.wrapping_offset(a);
                            tile.c = tile.c.plus(c);
                            if !tile.residual.start.is_null() {
                                tile.residual = tile.residual.plus(c);
                            }
                            let half = tile.c.is_half();
                            pick(self.kind, rows, strip.len(), *panel, false, half)(&tile);
                        }
                    }
                }
                i += rows;
            }
        }
    }

    /// The source pixel of an output pixel of a flat walk.
    fn source(&self, pixel: usize) -> usize {
        let base = &self.base;
        if base.flat {
            return pixel;
        }
        let (row, x) = (pixel / base.out_w, pixel % base.out_w);
        let (picture, y) = (row / base.out_h, row % base.out_h);
        (picture * base.src_h + y * base.step_h) * base.src_w + x * base.step_w
    }

    /// The block's source as words, and how many a picture has: copied into `band`, or where it lies if that is how
    /// tiles read it.
    fn source_of(
        &self,
        block: &Block,
        run: &Run,
        band: &mut [f32],
        line: &mut [f32],
    ) -> (*const u32, usize) {
        let (src, c) = (run.src, self.base.channels);
        let as_it_lies = self.base.flat
            && src.norm.is_none()
            && self.step * WORD == c * self.kind.size()
            && src.x.at(0).size == self.kind.size();
        if as_it_lies {
            return (src.x.at(block.cols.start * c).start.cast_const().cast(), 0);
        }
        let picture = self.fill(block, run, band, line);
        (band.as_ptr().cast(), picture)
    }

    /// Copies the block's source as words into `band`; returns the words per picture.
    fn fill(&self, block: &Block, run: &Run, band: &mut [f32], line: &mut [f32]) -> usize {
        let (base, c, size) = (&self.base, self.base.channels, self.kind.size());
        let (src, isa) = (run.src, run.isa);
        // Whole pixels of the map to a place of the band, in bytes.
        let mut put = |from: Range<usize>, to: *mut u8| {
            let numbers = match (src.norm, src.x.part(from.clone())) {
                (None, Map::Full(numbers)) => numbers,
                // SAFETY: as below.
                (None, Map::Half(numbers)) => unsafe {
                    return words::halves(numbers, c, self.pixel, to);
                },
                // SAFETY: as below.
                (None, Map::Bytes(numbers, _)) => unsafe {
                    return words::bytes(self.kind, numbers, c, self.pixel, to);
                },
                (Some(_), _) => {
                    let n = from.len();
                    src.copy(isa, from, &mut line[..n]);
                    &line[..n]
                }
            };
            // SAFETY: the callers below stay within the band.
            unsafe { words::pixels(self.kind, isa, numbers, c, self.pixel, to) };
        };
        let to = band.as_mut_ptr().cast::<u8>();
        if self.taps[0].is_empty() {
            return 0;
        }
        if self.flat {
            assert!(band.len() >= block.cols.len() * self.step, "the band is too short");
            let together = match base.flat && self.step * WORD == self.pixel * size {
                true => NORMED,
                false => 1,
            };
            for i in block.cols.clone().step_by(together) {
                let n = together.min(block.cols.end - i);
                let from = self.source(i) * c;
                let to = to.wrapping_add((i - block.cols.start) * self.step * WORD);
                put(from..from + n * c, to);
            }
            return 0;
        }
        let rows = base.band_h(block.rows.len());
        let left = base.left.clamp(0, base.band_w() as isize) as usize;
        let first = (-base.left).max(0);
        let copied = (base.band_w() - left).min((base.src_w as isize - first).max(0) as usize);
        let pitch = self.pitch * WORD;
        assert!(band.len() >= block.pictures.len() * rows * self.pitch, "the band is too short");
        for (i, p) in block.pictures.clone().enumerate() {
            for r in 0..rows {
                let to = to.wrapping_add((i * rows + r) * pitch);
                // SAFETY: a row of the band is `pitch` long.
                let zeros = |from: usize, end: usize| unsafe {
                    words::zeros(self.kind, (end - from) / size, to.add(from));
                };
                let y = (block.rows.start * base.step_h + r) as isize - base.top;
                if y < 0 || y >= base.src_h as isize {
                    zeros(0, pitch);
                    continue;
                }
                let from = ((p * base.src_h + y as usize) * base.src_w + first as usize) * c;
                let (left, copied) = (left * self.pixel * size, copied * c);
                zeros(0, left);
                put(from..from + copied, to.wrapping_add(left));
                zeros(left + copied / c * self.pixel * size, pitch);
            }
        }
        rows * self.pitch
    }
}
