//! The walk of backward-weights: `dw [kh,kw,c/groups,d] = sum over pixels of x · dy`.
//!
//! For one window place the sum runs over rows (taps of the tile) and pixels (k); input channels are
//! the tile's pixels and filters its lanes. A chunk of rows is copied first, x in blocks of as many
//! channels as the tile has pixels and dy in panels of as many filters as it has lanes, so that every
//! tile reads two short runs of memory whatever the strides of the maps are; few channels of one-pixel windows at
//! stride 1 are copied as they lie (`plain`), and dy not at all (`in_place`): so few tiles read it that a copy would
//! only keep them waiting. Where channels are few,
//! a whole window row `kw · c` is contiguous behind each pixel and taken as one range of channels
//! (`merged`). Windows three places wide take another tile (`places`), which reads x where it lies.
//!
//! The batch is cut into `shards` by shape alone; each shard sums into its own buffer and the buffers
//! are added in order, so the result does not depend on the number of threads. One-pixel windows of many channels go
//! another way ([`grid`]).

pub(super) mod chunk;
pub(super) mod copy;
mod grid;

use super::ConvShape;
use crate::gemm::{Even, Family, LINE, Panel, Start, Tap, Tile};
use crate::norm::{Pending, Source};
use crate::{Ctx, Isa, SharedMut, cut};
use chunk::{Ahead, Chunk, Rows, add_shards};
use copy::{Pieces, copy_last, copy_pixels};
use grid::Grid;
use std::ops::Range;

/// Rows that one chunk has at most.
const MAX_ROWS: usize = 512;
/// Floats that the copies of one chunk should take: they stay in the second cache.
const CHUNK: usize = cut(160 * 1024, 256);
/// Output pixels of a chunk: enough that reading and writing dw once per chunk costs little, few
/// enough that a panel of dy stays in the nearest cache.
const PIXELS: Range<usize> = cut(128, 4)..cut(320, 12);
/// Floats of partial sums at most.
const PARTIALS: usize = 1 << 20;
/// Below so many channels and up to so many filters copies of x in blocks cost more than they save.
const WIDE: usize = 256;
const NARROW: usize = 96;
/// Blocks of channels up to which a copy of dy costs more than it saves.
const IN_PLACE: usize = 3;
/// Shards of one-pixel windows whose sums are many beside the maps: writing and adding them takes its time too.
const FEW_SHARDS: usize = 8;
/// Items of a thread, windows of more than a pixel.
const ITEMS: usize = 2;
/// Channels from which one-pixel windows are walked as a grid: each number of dy that it copies serves so many products.
const GRID: usize = cut(96, 24);
/// Channels up to which window rows are merged.
const MERGE: usize = 32;

#[derive(Debug, Clone)]
pub(super) struct Weights {
    s: ConvShape,
    isa: Isa,
    /// Window rows are taken as one range of `kw · c` channels.
    merged: bool,
    /// The places tile serves: windows three places wide over neighbouring pixels. x is read where it
    /// lies, and copied rows of dy have two pixels of zeros on both sides.
    places: bool,
    /// x may have a norm to apply: the places tile reads copied rows too.
    normed: bool,
    /// The window is one pixel that never leaves the map: a chunk is one run of pixels.
    single: bool,
    /// Copied pixels of x lie as on the map.
    plain: bool,
    /// dy is read where it lies.
    in_place: bool,
    /// Columns of a copied row, the source columns from one to the next, and the copied columns from
    /// one output pixel to the next.
    line: usize,
    line_step: usize,
    k_step: usize,
    shards: usize,
    /// Parts into which the panels of one shard are cut.
    parts: usize,
    /// Output rows of the whole batch per chunk.
    chunk_rows: usize,
    /// Another walk for one-pixel windows, unless their channels are few.
    grid: Option<Grid>,
}

impl Weights {
    /// `normed`: x may have a norm to apply.
    pub fn new(s: &ConvShape, isa: Isa, (batch, threads): (usize, usize), normed: bool) -> Self {
        let family = Family::of(isa);
        let places = (s.kw, s.sw, s.dw) == (3, 1, 1)
            && s.ow >= 3
            && family.panels(s.d / s.groups).all(|p| family.place_channels(p) > 0);
        let merged =
            !places && (s.kh, s.kw) != (1, 1) && s.groups == 1 && s.dw == 1 && s.c <= MERGE;
        let unpadded =
            (s.top, s.left) == (0, 0) && (s.oh - 1) * s.sh < s.h && (s.ow - 1) * s.sw < s.w;
        let (line, line_step, k_step) = match s.kw {
            1 => (s.ow, s.sw, 1),
            _ => ((s.ow - 1) * s.sw + (s.kw - 1) * s.dw + 1, 1, s.sw),
        };
        let shards = (PARTIALS / s.filter_len().max(1)).clamp(1, 16);
        let single = (s.kh, s.kw) == (1, 1) && unpadded;
        let maps = batch * s.oh * s.ow * (s.c + s.d);
        // Dense layers have sums enough for any number of parts.
        let of_map = single && s.oh * s.ow > 1;
        let many = of_map && 4 * shards * s.filter_len() > maps;
        let shards = if many { shards.min(FEW_SHARDS) } else { shards };
        let shards = (1 << shards.ilog2()).min(batch.max(1));
        let panels = (s.d / s.groups).div_ceil(family.width());
        let narrow = s.c < WIDE && s.d <= NARROW;
        let items: usize = match (of_map, single) {
            (true, _) => FEW_SHARDS,
            (_, true) => 16,
            // Each part copies x for itself.
            _ => ITEMS * threads,
        };
        let parts = panels.min(items.div_ceil(shards));
        let as_map = single && (s.oh, s.ow, s.groups) == (s.h, s.w, 1);
        let few = s.c.div_ceil(family.pixels) <= IN_PLACE;
        let in_place = as_map && few && parts == 1 && s.d.is_multiple_of(family.lanes);
        let plain = as_map && (narrow || in_place);
        let mut weights = Weights {
            s: *s,
            isa,
            merged,
            places,
            normed,
            single,
            plain,
            in_place,
            line,
            line_step,
            k_step,
            shards,
            parts,
            chunk_rows: 1,
            grid: (of_map && s.groups == 1 && !plain && s.c >= GRID)
                .then(|| Grid::new(s, isa, batch)),
        };
        let per_row = line * s.sh * (s.c / s.groups) + weights.dy_line() * weights.panels_width();
        let pixels = (CHUNK * s.ow / per_row.max(1)).clamp(PIXELS.start, PIXELS.end);
        weights.chunk_rows = pixels.div_ceil(s.ow).min(MAX_ROWS);
        if of_map {
            // Chunks of equal length, so that the last does not read and write dw for a few pixels.
            let rows = batch.div_ceil(shards).max(1) * s.oh;
            weights.chunk_rows = Even::new(rows, weights.chunk_rows).range(0).len();
        }
        weights
    }

    fn panels(&self) -> usize {
        (self.s.d / self.s.groups).div_ceil(Family::of(self.isa).width())
    }

    /// Lanes of the panels of one part at most.
    fn panels_width(&self) -> usize {
        self.panels().div_ceil(self.parts) * Family::of(self.isa).width()
    }

    fn partial_len(&self) -> usize {
        if self.shards > 1 { self.shards * self.s.filter_len() } else { 0 }
    }

    /// Pixels of a copied row of dy.
    fn dy_line(&self) -> usize {
        if self.places { self.s.ow + 4 } else { self.s.ow }
    }

    /// Source rows copied for a chunk at most.
    fn slots(&self) -> usize {
        let s = &self.s;
        if self.places && !self.normed {
            return 0;
        }
        if s.kh == 1 {
            return self.chunk_rows;
        }
        let pictures = (self.chunk_rows - 1).div_ceil(s.oh) + 1;
        let span = (s.kh - 1) * s.dh + 1;
        self.chunk_rows * s.sh + pictures * span.saturating_sub(s.sh)
    }

    /// Floats of copied x and of copied dy per worker.
    fn band_lens(&self) -> (usize, usize) {
        let s = &self.s;
        let line = if self.places { s.w * s.c } else { self.line * (s.c / s.groups) };
        let dy = self.chunk_rows * self.dy_line() * self.panels_width();
        (self.slots() * line, if self.in_place { 0 } else { dy })
    }

    pub fn scratch_len(&self, threads: usize) -> usize {
        if let Some(grid) = &self.grid {
            return grid.scratch_len(threads);
        }
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
        if let Some(grid) = &self.grid {
            return grid.run(cx, n, x, dy, dw, scratch);
        }
        let len = self.s.filter_len();
        let (partials, bands) = scratch.split_at_mut(self.partial_len());
        let (x_len, dy_len) = self.band_lens();
        let bands = SharedMut::new(bands);
        {
            let target = SharedMut::new(if self.shards > 1 { partials } else { &mut *dw });
            let shards = Even::parts(n, self.shards);
            let panels = Even::parts(self.panels(), self.parts);
            cx.pool.run(self.shards * self.parts, &|item, worker| {
                let (shard, part) = (item / self.parts, item % self.parts);
                let (from, to) = (worker * (x_len + dy_len), (worker + 1) * (x_len + dy_len));
                // SAFETY: each worker has its own band.
                let band = unsafe { bands.slice(from..to) };
                // SAFETY: items of one shard write different panels, items of different shards
                // different buffers; the pointer is used for nothing else.
                let out = unsafe { target.as_mut_ptr().add(shard * len) };
                self.part(shards.range(shard), panels.range(part), x, dy, out, band);
            });
        }
        if self.shards > 1 {
            add_shards(cx, self.shards, &scratch[..self.partial_len()], &mut dw[..len]);
        }
    }

    /// One shard's sums for a range of panels, chunk by chunk.
    fn part(
        &self,
        pictures: Range<usize>,
        panels: Range<usize>,
        x: Source,
        dy: &[f32],
        out: *mut f32,
        band: &mut [f32],
    ) {
        let family = Family::of(self.isa);
        let (x_band, dy_band) = band.split_at_mut(self.band_lens().0);
        let rows = pictures.start * self.s.oh..pictures.end * self.s.oh;
        let mut start = rows.start;
        loop {
            let end = (start + self.chunk_rows).min(rows.end);
            let chunk = Chunk { rows: start..end, first: start == rows.start };
            for group in 0..self.s.groups {
                if self.plain {
                    self.copy_plain(&chunk, x, x_band);
                } else if !self.places {
                    self.copy_x(&family, &chunk, group, x, x_band);
                } else if self.normed && group == 0 {
                    self.copy_rows(&chunk, x, x_band);
                }
                if !self.in_place {
                    self.copy_dy(&family, &chunk, group, panels.clone(), dy, dy_band);
                }
                let mut ahead = self.ahead(&chunk, x.x.full(), dy);
                // Where every sum is made in one visit, they are visited as they lie in dw.
                let blocks = self.blocks(&family).parts;
                let rowwise = self.single && chunk.rows == rows;
                let passes = if rowwise { blocks } else { 1 };
                for pass in 0..passes {
                    let blocks = if rowwise { pass..pass + 1 } else { 0..blocks };
                    let of_group = family.panels(self.s.d / self.s.groups);
                    for (i, panel) in of_group.skip(panels.start).take(panels.len()).enumerate() {
                        let dy = if self.in_place {
                            // A shard without pictures may lie behind the map; nothing is read then.
                            let from = chunk.rows.start * self.s.ow * self.s.d + panel.start;
                            &dy[from.min(dy.len())..]
                        } else {
                            &dy_band[i * family.width() * chunk.rows.len() * self.dy_line()..]
                        };
                        if self.places {
                            let x = if self.normed { &*x_band } else { x.x.full() };
                            self.panel_of_places(&family, &chunk, group, panel, x, dy, out);
                        } else {
                            let blocks = blocks.clone();
                            self.panel(
                                &family, &chunk, group, panel, blocks, x_band, dy, out, &mut ahead,
                            );
                        }
                    }
                }
            }
            start = end;
            if start >= rows.end {
                return;
            }
        }
    }

    /// The pixels after a chunk, where all of them are what this thread reads next.
    fn ahead(&self, chunk: &Chunk, x: &[f32], dy: &[f32]) -> Ahead {
        let s = &self.s;
        if !self.single || self.line_step != 1 {
            return Ahead::NONE;
        }
        let (start, pixels) = (chunk.rows.end * s.ow, chunk.rows.len() * s.ow);
        let run = |map: &[f32], channels: usize| {
            let from = (start * channels).min(map.len());
            (map[from..].as_ptr(), (pixels * channels).min(map.len() - from))
        };
        let none = (std::ptr::null(), 0);
        Ahead([run(x, s.c), if self.parts == 1 { run(dy, s.d) } else { none }])
    }

    /// Input channels as tiles take them.
    fn blocks(&self, family: &Family) -> Even {
        let s = &self.s;
        let channels = if self.merged { s.kw * s.c } else { s.c / s.groups };
        Even::new(channels, family.pixels)
    }

    /// Adds a chunk to the sums of one panel, for some blocks of channels and all window places.
    fn panel(
        &self,
        family: &Family,
        chunk: &Chunk,
        group: usize,
        panel: Panel,
        blocks: Range<usize>,
        x: &[f32],
        dy: &[f32],
        out: *mut f32,
        ahead: &mut Ahead,
    ) {
        let s = &self.s;
        let cg = s.c / s.groups;
        let filters = group * (s.d / s.groups) + panel.start;
        let mut taps = [Tap { a: 0, b: 0 }; MAX_ROWS];
        let columns = if self.merged { 1 } else { s.kw };
        for block in blocks {
            let m = self.blocks(family).range(block);
            // Merged and plain: all channels of a pixel lie together and a tile takes some of them.
            let (pixel, base) = if self.merged || self.plain {
                (s.c, m.start)
            } else {
                (m.len(), m.start * self.slots() * self.line)
            };
            for kh in 0..s.kh {
                let (ntaps, k) = self.taps(chunk, kh, pixel, panel.width, &mut taps);
                if ntaps == 0 && !chunk.first {
                    continue;
                }
                for kw in 0..columns {
                    let place = kh * s.kw + kw;
                    let tile = Tile {
                        taps: taps.as_ptr(),
                        ntaps,
                        k,
                        a: x[base + kw * s.dw * pixel..].as_ptr(),
                        a_row: 0,
                        a_px: 1,
                        a_k: self.k_step * pixel,
                        b: dy.as_ptr(),
                        b_k: if self.in_place { s.d } else { panel.width },
                        // SAFETY: within this panel's part of dw.
                        c: unsafe { out.add((place * cg + m.start) * s.d + filters) },
                        c_row: 0,
                        c_px: s.d,
                        last: panel.last(),
                        start: if chunk.first { Start::Zero } else { Start::Load },
                        bias: std::ptr::null(),
                        residual: std::ptr::null(),
                        clamp: None,
                        ahead: ahead.next(ntaps * k * LINE),
                        ahead_k: LINE,
                        stream: false,
                    };
                    // SAFETY: taps and columns stay in the copies, whose rows hold every column that
                    // the window reaches; `c` addresses this panel's part of dw.
                    unsafe { family.unit_tile(m.len(), panel)(&tile) };
                }
            }
        }
    }

    /// [`Weights::panel`] with the places tile.
    fn panel_of_places(
        &self,
        family: &Family,
        chunk: &Chunk,
        group: usize,
        panel: Panel,
        x: &[f32],
        dy: &[f32],
        out: *mut f32,
    ) {
        let s = &self.s;
        let cg = s.c / s.groups;
        let filters = group * (s.d / s.groups) + panel.start;
        let blocks = Even::new(cg, family.place_channels(panel));
        // Columns of x that some place of the window reaches.
        let columns = s.w.min((s.ow + 2).saturating_sub(s.left));
        let mut taps = [Tap { a: 0, b: 0 }; MAX_ROWS];
        for kh in 0..s.kh {
            let mut ntaps = 0;
            chunk.each_picture(s, |picture| {
                for (i, oy) in picture.outputs.clone().enumerate() {
                    let y = (oy * s.sh + kh * s.dh).checked_sub(s.top).filter(|&y| y < s.h);
                    if let Some(y) = y.filter(|_| columns > 0) {
                        let pixel = (picture.first + i) * self.dy_line() + 2 + s.left;
                        taps[ntaps] = Tap {
                            a: (self.row_of(picture, y) * s.w * s.c) as isize,
                            b: (pixel * panel.width) as isize,
                        };
                        ntaps += 1;
                    }
                }
            });
            if ntaps == 0 && !chunk.first {
                continue;
            }
            for block in 0..blocks.parts {
                let m = blocks.range(block);
                let tile = Tile {
                    taps: taps.as_ptr(),
                    ntaps,
                    k: columns,
                    a: x[(group * cg + m.start).min(x.len())..].as_ptr(),
                    a_row: 0,
                    a_px: 1,
                    a_k: s.c,
                    b: dy.as_ptr(),
                    b_k: panel.width,
                    // SAFETY: within this panel's part of dw.
                    c: unsafe { out.add((kh * 3 * cg + m.start) * s.d + filters) },
                    c_row: cg * s.d,
                    c_px: s.d,
                    last: panel.last(),
                    start: if chunk.first { Start::Zero } else { Start::Load },
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                    clamp: None,
                    ahead: std::ptr::null(),
                    ahead_k: 0,
                    stream: false,
                };
                // SAFETY: columns lie on the map; a copied row of dy has `ow + 4` pixels, of which
                // `left .. left + 2 + columns` are read; `c` addresses this panel's part of dw.
                unsafe { family.places_tile(m.len(), panel)(&tile) };
            }
        }
    }

    /// Fills the taps of one window row: a copied source row and a copied row of dy each. Returns
    /// their number and the pixels of each.
    fn taps(
        &self,
        chunk: &Chunk,
        kh: usize,
        pixel: usize,
        width: usize,
        taps: &mut [Tap; MAX_ROWS],
    ) -> (usize, usize) {
        let s = &self.s;
        if self.single {
            taps[0] = Tap { a: 0, b: 0 };
            return (usize::from(!chunk.rows.is_empty()), chunk.rows.len() * s.ow);
        }
        let mut n = 0;
        chunk.each_row(s, kh, |slot, at| {
            taps[n] =
                Tap { a: (slot * self.line * pixel) as isize, b: (at * s.ow * width) as isize };
            n += 1;
        });
        (n, s.ow)
    }

    /// Where row `y` of a picture lies for the places tile: copied, or on the map.
    fn row_of(&self, picture: &Rows, y: usize) -> usize {
        if self.normed {
            picture.slot + y - picture.sources.start
        } else {
            picture.index * self.s.h + y
        }
    }

    /// Copies the chunk's source rows as they are, norm applied: `[row][column][channel]`.
    fn copy_rows(&self, chunk: &Chunk, x: Source, band: &mut [f32]) {
        let s = &self.s;
        let line = s.w * s.c;
        chunk.each_picture(s, |picture| {
            let from = (picture.index * s.h + picture.sources.start) * line;
            let len = picture.sources.len() * line;
            x.copy(self.isa, from..from + len, &mut band[picture.slot * line..][..len]);
        });
    }

    /// Copies the chunk's pixels as they are, norm applied: `[pixel][channel]`.
    fn copy_plain(&self, chunk: &Chunk, x: Source, band: &mut [f32]) {
        let c = self.s.c;
        let range = chunk.rows.start * self.s.ow * c..chunk.rows.end * self.s.ow * c;
        let len = range.len();
        x.copy(self.isa, range, &mut band[..len]);
    }

    /// Copies the chunk's source rows: `[block][row][column][channel]`, columns off the map zero.
    fn copy_x(&self, family: &Family, chunk: &Chunk, group: usize, x: Source, band: &mut [f32]) {
        let s = &self.s;
        let cg = s.c / s.groups;
        let blocks = Even::new(cg, if self.merged { cg } else { family.pixels });
        let first = s.left.div_ceil(self.line_step).min(self.line);
        let end = (s.w + s.left).div_ceil(self.line_step).clamp(first, self.line);
        let mut copy = |picture: usize, y: usize, slot: usize| {
            if first > 0 || end < self.line {
                for block in 0..blocks.parts {
                    let m = blocks.range(block);
                    let at = (m.start * self.slots() + slot * m.len()) * self.line;
                    let line = &mut band[at..at + self.line * m.len()];
                    line[..first * m.len()].fill(0.0);
                    line[end * m.len()..].fill(0.0);
                }
            }
            if first == end {
                return;
            }
            let pixel = (picture * s.h + y) * s.w + first * self.line_step - s.left;
            if self.merged && self.line_step == 1 {
                let len = (end - first) * s.c;
                let from = pixel * s.c;
                let to = &mut band[(slot * self.line + first) * s.c..][..len];
                x.copy(self.isa, from..from + len, to);
                return;
            }
            let to = Pieces {
                pieces: blocks,
                at: slot * self.line + first,
                of: self.slots() * self.line,
            };
            copy_pixels(
                self.isa,
                &x.x.full()[pixel * s.c + group * cg..],
                x.norm.map(|n| Pending {
                    scale: &n.scale[group * cg..],
                    shift: &n.shift[group * cg..],
                    ..n
                }),
                self.line_step * s.c,
                end - first,
                to,
                band,
            );
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

    /// Copies the chunk's rows of dy for some panels: `[panel][pixel][lane]`, missing lanes zero.
    fn copy_dy(
        &self,
        family: &Family,
        chunk: &Chunk,
        group: usize,
        panels: Range<usize>,
        dy: &[f32],
        band: &mut [f32],
    ) {
        let s = &self.s;
        let (pixels, width, dg) = (chunk.rows.len() * s.ow, family.width(), s.d / s.groups);
        if pixels == 0 || panels.is_empty() {
            return;
        }
        let begin = panels.start * width;
        let end = (panels.end * width).min(dg);
        let from = &dy[chunk.rows.start * s.ow * s.d + group * dg + begin..];
        let full = (end - begin) / width;
        // Rows with zeros around them one by one, others as one run of pixels.
        let (rows, row, line) = match self.places {
            true => (chunk.rows.len(), s.ow, self.dy_line()),
            false => (1, pixels, pixels),
        };
        let margin = (line - row) / 2;
        if margin > 0 {
            for panel in 0..(end - begin).div_ceil(width) {
                let width = (end - begin - panel * width).min(width).next_multiple_of(family.lanes);
                let lines = &mut band[panel * family.width() * rows * line..];
                for line in lines.chunks_exact_mut(line * width).take(rows) {
                    line[..margin * width].fill(0.0);
                    line[(margin + row) * width..].fill(0.0);
                }
            }
        }
        if full > 0 {
            for r in 0..rows {
                let pieces = Even::new(full * width, width);
                let to = Pieces { pieces, at: r * line + margin, of: rows * line };
                copy_pixels(self.isa, &from[r * row * s.d..], None, s.d, row, to, band);
            }
        }
        let used = (end - begin) % width;
        if used > 0 {
            let padded = used.next_multiple_of(family.lanes);
            let to = &mut band[full * width * rows * line..][..rows * line * padded];
            for r in 0..rows {
                let to = &mut to[(r * line + margin) * padded..][..row * padded];
                let from = &from[r * row * s.d + full * width..];
                copy_last(self.isa, from, s.d, used, to);
            }
        }
    }
}
