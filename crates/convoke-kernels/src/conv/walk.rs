//! The walk of forward and backward-data: every output number is a sum over the cells of a window.

use super::{ConvShape, Epilogue};
use crate::gemm::{Even, Family, LINE, Panel, Start, Tap, Tile, fence, streams};
use crate::norm::{Source, Strip, Tally};
use crate::{Ctx, Isa, Map, SharedMut, cut};
use std::mem::MaybeUninit;
use std::ops::Range;

/// One place of the window: its offset on the source map, and the filter place it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub row: usize,
    pub col: usize,
    pub kh: usize,
    pub kw: usize,
}

/// Rows of padded source kept in a thread's cache while all filters pass over them, in floats:
/// 384 KB, so that they share 1 MB of L2 with a panel of filters.
const BAND: usize = cut(96 * 1024, 256);

/// Filters of one slice, in floats: 24 KB, half of the nearest cache.
const SLICE: usize = cut(6 * 1024, 128);

/// Filters of the panels that pass over a strip together, in floats: 256 KB, a part of the second cache.
const TOGETHER: usize = cut(64 * 1024, 256);

/// Panels that pass over a strip together at most.
const MOST_PANELS: usize = 32;

/// Items into which a run is cut that makes a tally: they are its shards, which may not depend on the number of threads.
const TALLIED: usize = 16;

/// Channels of pixels whose lines would fall into one set of the nearest cache, 4 KB apart: they are copied a line
/// further apart. More of them would not stay in the second.
const FAR_APART: usize = cut(1024, 32);
const TOO_FAR: usize = 4096;

/// A part of the sum: some taps, and a range within each.
#[derive(Debug, Clone)]
struct Slice {
    taps: Range<usize>,
    k: Range<usize>,
}

/// `dst [n, …, filters] (+)= sum over cells, channels of src [n, src_h, src_w, groups·channels] · pack`.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    pub(super) isa: Isa,
    // Source map and where output (0, 0) begins on it.
    pub(super) src_h: usize,
    pub(super) src_w: usize,
    pub(super) top: isize,
    pub(super) left: isize,
    pub(super) step_h: usize,
    pub(super) step_w: usize,
    pub(super) span_h: usize,
    pub(super) span_w: usize,
    /// Window places in the order of summation.
    pub(super) cells: Vec<Cell>,
    /// Channels of one group of the source.
    pub(super) channels: usize,
    // Output pixels, and where they lie on the destination map.
    pub(super) out_h: usize,
    pub(super) out_w: usize,
    pub(super) dst_h: usize,
    pub(super) dst_w: usize,
    pub(super) row0: usize,
    pub(super) col0: usize,
    pub(super) dst_step_h: usize,
    pub(super) dst_step_w: usize,
    /// Outputs of one group.
    pub(super) filters: usize,
    pub(super) groups: usize,
    /// Whether the window leaves the source map anywhere, so that rows are copied with their padding.
    pub(super) padded: bool,
    /// Whether rows are copied: with their padding, or with the norm of the source applied.
    pub(super) banded: bool,
    /// Whether all pictures are one row of pixels.
    pub(super) flat: bool,
    /// Floats between copied pixels of a flat walk.
    gap: usize,
    /// Cells in a run: 3 where the row tile takes them (packed `[channel][3][lane]`), else 1.
    pub(super) run: usize,
    /// Taps and slices for full panels and for the last one.
    pub(super) taps: [Vec<Tap>; 2],
    slices: [Vec<Slice>; 2],
    pub(super) tap_k: usize,
}

/// How a run is cut into items. Any cut gives the same numbers.
struct Cut {
    /// Pictures (1 when flat), rows and columns of output.
    pictures: usize,
    rows: usize,
    cols: usize,
    group: Even,
    bands: Even,
    chunks: Even,
    panels: Even,
}

impl Walk {
    /// `normed`: the source may have a norm to apply.
    pub fn forward(s: &ConvShape, isa: Isa, normed: bool) -> Self {
        let cells = (0..s.kh)
            .flat_map(|kh| (0..s.kw).map(move |kw| (kh, kw)))
            .map(|(kh, kw)| Cell { row: kh * s.dh, col: kw * s.dw, kh, kw })
            .collect();
        Walk {
            isa,
            src_h: s.h,
            src_w: s.w,
            top: s.top as isize,
            left: s.left as isize,
            step_h: s.sh,
            step_w: s.sw,
            span_h: (s.kh - 1) * s.dh + 1,
            span_w: (s.kw - 1) * s.dw + 1,
            cells,
            channels: s.c / s.groups,
            out_h: s.oh,
            out_w: s.ow,
            dst_h: s.oh,
            dst_w: s.ow,
            row0: 0,
            col0: 0,
            dst_step_h: 1,
            dst_step_w: 1,
            filters: s.d / s.groups,
            groups: s.groups,
            padded: false,
            banded: normed,
            flat: false,
            gap: 0,
            run: 1,
            taps: Default::default(),
            slices: Default::default(),
            tap_k: 0,
        }
        .finish()
    }

    /// One walk per parity of the output's row and column: with stride `s`, pixels `s·i + p` of dx
    /// all see the same filter places, `(p + top − k·dilation)` divisible by `s`, at
    /// `oy = i + (p + top − k·dilation) / s`. Nothing is scattered.
    pub fn backward_data(s: &ConvShape, isa: Isa) -> Vec<Self> {
        let axis = |p: usize, pad: usize, k: usize, dilation: usize, step: usize| {
            let mut reach: Vec<(isize, usize)> = (0..k)
                .map(|i| ((p + pad) as isize - (i * dilation) as isize, i))
                .filter(|(o, _)| o.rem_euclid(step as isize) == 0)
                .map(|(o, i)| (o.div_euclid(step as isize), i))
                .collect();
            reach.sort_unstable();
            reach
        };
        let mut walks = Vec::new();
        for ph in 0..s.sh.min(s.h) {
            for pw in 0..s.sw.min(s.w) {
                let rows = axis(ph, s.top, s.kh, s.dh, s.sh);
                let cols = axis(pw, s.left, s.kw, s.dw, s.sw);
                let first = |v: &[(isize, usize)]| v.first().map_or(0, |f| f.0);
                let span =
                    |v: &[(isize, usize)]| v.last().map_or(1, |l| (l.0 - first(v)) as usize + 1);
                let (r0, c0) = (first(&rows), first(&cols));
                let mut cells = Vec::new();
                for &(r, kh) in &rows {
                    for &(c, kw) in &cols {
                        cells.push(Cell { row: (r - r0) as usize, col: (c - c0) as usize, kh, kw });
                    }
                }
                walks.push(
                    Walk {
                        isa,
                        src_h: s.oh,
                        src_w: s.ow,
                        top: -r0,
                        left: -c0,
                        step_h: 1,
                        step_w: 1,
                        span_h: span(&rows),
                        span_w: span(&cols),
                        cells,
                        channels: s.d / s.groups,
                        out_h: (s.h - ph).div_ceil(s.sh),
                        out_w: (s.w - pw).div_ceil(s.sw),
                        dst_h: s.h,
                        dst_w: s.w,
                        row0: ph,
                        col0: pw,
                        dst_step_h: s.sh,
                        dst_step_w: s.sw,
                        filters: s.c / s.groups,
                        groups: s.groups,
                        padded: false,
                        banded: false,
                        flat: false,
                        gap: 0,
                        run: 1,
                        taps: Default::default(),
                        slices: Default::default(),
                        tap_k: 0,
                    }
                    .finish(),
                );
            }
        }
        walks
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Shards of a [`Tally`] of up to `batch` pictures at most; none where outputs do not lie one behind the other.
    pub fn shards(&self, batch: usize) -> usize {
        if (self.dst_step_h, self.dst_step_w) != (1, 1) {
            return 0;
        }
        let cut = self.cut(batch, TALLIED, 1);
        // Fewer pictures may be cut into more bands each.
        (cut.group.parts * cut.bands.parts * cut.chunks.parts).max(2 * TALLIED) + 1
    }

    /// Decides padding, flatness and taps.
    fn finish(mut self) -> Self {
        let end =
            |n: usize, step: usize, span: usize, pad: isize| ((n - 1) * step + span) as isize - pad;
        self.padded = !self.cells.is_empty()
            && (self.top > 0
                || self.left > 0
                || self.top < 0 && self.src_h == 0
                || end(self.out_h, self.step_h, self.span_h, self.top) > self.src_h as isize
                || end(self.out_w, self.step_w, self.span_w, self.left) > self.src_w as isize);
        self.flat = !self.padded
            && self.cells.len() == 1
            && (self.top, self.left, self.step_h, self.step_w) == (0, 0, 1, 1)
            && (self.dst_step_h, self.dst_step_w) == (1, 1)
            && (self.out_h, self.out_w) == (self.src_h, self.src_w)
            && (self.out_h, self.out_w) == (self.dst_h, self.dst_w);
        let pixel = self.groups * self.channels;
        if self.flat && pixel.is_multiple_of(FAR_APART) && pixel <= TOO_FAR {
            (self.banded, self.gap) = (true, LINE);
        }
        self.banded |= self.padded;
        // Neighbouring cells of a row are one run of numbers where a pixel has one group.
        let merge = self.groups == 1;
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (i, cell) in self.cells.iter().enumerate() {
            match runs.last_mut() {
                Some((start, len))
                    if merge
                        && self.cells[*start].row == cell.row
                        && self.cells[*start].col + *len == cell.col =>
                {
                    *len += 1
                }
                _ => runs.push((i, 1)),
            }
        }
        // All runs of a window are equally long; if not, fall back to single cells.
        let len = runs.first().map_or(1, |r| r.1);
        let len = if runs.iter().all(|r| r.1 == len) { len } else { 1 };
        self.run = if self.takes_rows(len) { 3 } else { 1 };
        self.tap_k = if self.run == 3 { self.channels } else { len * self.channels };
        let pitch = self.pitch();
        let pixel = self.groups * self.channels;
        let taps = |width: usize| {
            (0..self.cells.len())
                .step_by(len)
                .map(|i| Tap {
                    a: (self.cells[i].row * pitch + self.cells[i].col * pixel) as isize,
                    b: (i * self.channels * width) as isize,
                })
                .collect::<Vec<_>>()
        };
        let family = Family::of(self.isa);
        let last = family.panels(self.filters).last().map_or(family.width(), |p| p.width);
        self.taps = [taps(family.width()), taps(last)];
        self.slices = [self.slices(family.width()), self.slices(last)];
        self
    }

    /// Cuts the sum so that a panel's filters of one slice stay in the nearest cache while they pass over
    /// a block's pixels. The row tile needs that; others read filters slowly enough for the second cache.
    fn slices(&self, width: usize) -> Vec<Slice> {
        let taps = self.taps[0].len();
        let per_k = self.run * width;
        if self.run == 1 || taps * self.tap_k * per_k <= SLICE {
            return vec![Slice { taps: 0..taps, k: 0..self.tap_k }];
        }
        let whole = (SLICE / (self.tap_k * per_k)).max(1);
        let parts = Even::new(self.tap_k, (SLICE / per_k).max(1));
        (0..taps)
            .step_by(whole)
            .flat_map(|tap| (0..parts.parts).map(move |part| (tap, part)))
            .map(|(tap, part)| Slice { taps: tap..(tap + whole).min(taps), k: parts.range(part) })
            .collect()
    }

    /// Whether the row tile serves: windows of runs three places wide over neighbouring pixels.
    fn takes_rows(&self, run: usize) -> bool {
        let family = Family::of(self.isa);
        run == 3
            && self.step_w == 1
            && self.out_w >= 3
            && family.panels(self.filters).all(|p| family.row_pixels(p) > 0)
    }

    /// Columns of a padded source row.
    pub(super) fn band_w(&self) -> usize {
        (self.out_w - 1) * self.step_w + self.span_w
    }

    /// Floats from one source row to the next, as the tiles see it.
    fn pitch(&self) -> usize {
        let width = if self.banded && !self.flat { self.band_w() } else { self.src_w };
        self.groups * self.channels * width
    }

    /// Source rows under `rows` output rows.
    pub(super) fn band_h(&self, rows: usize) -> usize {
        (rows - 1) * self.step_h + self.span_h
    }

    /// Floats of the packed filters.
    pub fn pack_len(&self) -> usize {
        self.groups * self.group_pack_len()
    }

    /// Floats of one group's packed filters.
    pub fn group_pack_len(&self) -> usize {
        self.cells.len() * self.channels * Family::of(self.isa).padded(self.filters)
    }

    /// Floats of copied rows that one thread needs.
    pub fn scratch_len(&self, batch: usize, threads: usize) -> usize {
        self.band_len(batch, 4 * threads).max(self.band_len(batch, TALLIED))
    }

    fn band_len(&self, batch: usize, wanted: usize) -> usize {
        if !self.banded {
            return 0;
        }
        if self.flat {
            let pixels = self.flat_pixels().min(batch * self.out_h * self.out_w);
            return pixels * (self.groups * self.channels + self.gap);
        }
        let cut = self.cut(batch, wanted, 1);
        let (group, rows) = (cut.group.range(0).len(), cut.bands.range(0).len());
        // A smaller batch may be cut into larger groups, but never beyond the band's budget.
        let one = self.band_h(rows) * self.pitch();
        let most = (BAND / (self.band_h(self.out_h) * self.pitch()).max(1)).min(batch);
        (group * one).max(most * self.band_h(self.out_h) * self.pitch())
    }

    /// Pixels of an item at most, where pictures are one row of pixels.
    fn flat_pixels(&self) -> usize {
        let tile = 2 * Family::of(self.isa).pixels;
        (BAND / (self.groups * self.channels + self.gap).max(1)).max(tile)
    }

    /// A cut into as many items as are `wanted`, if maps are long enough for so many, and where they are not, of panels
    /// for some threads.
    fn cut(&self, n: usize, wanted: usize, threads: usize) -> Cut {
        let family = Family::of(self.isa);
        let panels = self.filters.div_ceil(family.width());
        let split = |items: usize| panels.min((4 * threads).div_ceil(items)).max(1);
        let even = Even::parts;
        let cut = if self.flat {
            let pixels = n * self.out_h * self.out_w;
            let most = self.flat_pixels();
            let chunks = pixels.div_ceil(most).max(wanted.min(pixels.div_ceil(2 * family.pixels)));
            let split = split(chunks);
            (1, 1, pixels, even(1, 1), even(1, 1), even(pixels, chunks), even(panels, split))
        } else {
            let row = self.step_h * self.pitch();
            let most_rows = (BAND / row.max(1)).saturating_sub(self.span_h / self.step_h).max(1);
            let mut bands = self.out_h.div_ceil(most_rows);
            if n * bands < wanted {
                bands = wanted.div_ceil(n).min(self.out_h.div_ceil(4)).max(bands);
            }
            let picture = self.band_h(self.out_h) * self.pitch();
            let together =
                if bands == 1 { (BAND / picture.max(1)).min(n / wanted).max(1) } else { 1 };
            let groups = n.div_ceil(together);
            let items = groups * bands;
            let split = split(items);
            let (rows, cols) = (self.out_h, self.out_w);
            (n, rows, cols, even(n, groups), even(rows, bands), even(cols, 1), even(panels, split))
        };
        let (pictures, rows, cols, group, bands, chunks, panels) = cut;
        Cut { pictures, rows, cols, group, bands, chunks, panels }
    }

    /// Runs the walk over `n` pictures.
    pub fn run(
        &self,
        cx: Ctx,
        n: usize,
        src: Source,
        pack: &[f32],
        dst: &mut [f32],
        accumulate: bool,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        if n == 0 || self.cells.is_empty() && accumulate {
            return;
        }
        let tally = epilogue.tally;
        let threads = cx.pool.threads();
        let cut = self.cut(n, if tally.is_some() { TALLIED } else { 4 * threads }, threads);
        debug_assert_eq!(cut.pictures * cut.rows * cut.cols, n * self.out_h * self.out_w);
        assert!(pack.len() >= self.pack_len(), "packed filters are too short");
        if let Some(b) = epilogue.bias {
            assert!(b.len() >= self.groups * self.filters, "bias is too short");
        }
        if let Some(r) = epilogue.residual {
            assert!(r.len() >= n * self.dst_h * self.dst_w * self.groups * self.filters);
        }
        assert!(self.banded || src.norm.is_none(), "not planned for a norm");
        let per_worker = if self.banded { scratch.len() / cx.pool.threads() } else { 0 };
        let pixel = self.groups * self.filters;
        let len = n * self.dst_h * self.dst_w * pixel;
        let stream = !accumulate && streams(dst.as_ptr(), len, pixel);
        let (dst, scratch) = (SharedMut::new(dst), SharedMut::new(scratch));
        let items = cut.group.parts * cut.bands.parts * cut.chunks.parts * cut.panels.parts;
        assert!(
            tally.is_none_or(|t| (self.dst_step_h, self.dst_step_w) == (1, 1)
                && t.fits(n * self.dst_h * self.dst_w, pixel, items / cut.panels.parts)),
            "not planned for these sums"
        );
        cx.pool.run(items, &|item, worker| {
            let shard = item / cut.panels.parts;
            let (item, panels) = (shard, cut.panels.range(item % cut.panels.parts));
            let (item, cols) = (item / cut.chunks.parts, cut.chunks.range(item % cut.chunks.parts));
            let (item, rows) = (item / cut.bands.parts, cut.bands.range(item % cut.bands.parts));
            let pictures = cut.group.range(item);
            if rows.is_empty() || cols.is_empty() || pictures.is_empty() || panels.is_empty() {
                return;
            }
            // SAFETY: each worker has its own part of the scratch.
            let band = unsafe { scratch.slice(worker * per_worker..(worker + 1) * per_worker) };
            if let Some(tally) = tally.filter(|_| panels.start == 0) {
                // SAFETY: one item of each shard has the first panel.
                unsafe { tally.count(shard, pictures.len() * rows.len() * cols.len()) };
            }
            let block = Block { pictures, rows, cols, panels, stream, shard };
            self.block(&block, src, pack, &dst, accumulate, epilogue, band);
            if stream {
                fence();
            }
        });
    }

    /// All outputs of one item. Filters of a few panels stay in the second cache while all of them pass
    /// over a strip of pixels, so that outputs are written as they lie. The row tile takes panels one by
    /// one, in slices of the sum, so that its filters stay in the nearest cache.
    fn block(
        &self,
        block: &Block,
        src: Source,
        pack: &[f32],
        dst: &SharedMut<f32>,
        accumulate: bool,
        epilogue: Epilogue,
        band: &mut [f32],
    ) {
        let family = Family::of(self.isa);
        let picture = if self.banded { self.fill(block, src, band) } else { 0 };
        let source = if self.banded { band.as_ptr() } else { src.x.full().as_ptr() };
        let sum_len = self.cells.len() * self.channels;
        let together = match self.run {
            1 => (TOGETHER / (sum_len * family.width()).max(1)).clamp(1, MOST_PANELS),
            _ => 1,
        };
        let chunks = Even::new(block.panels.len(), together);
        for item in 0..self.groups * chunks.parts {
            let (group, chunk) = (item / chunks.parts, chunks.range(item % chunks.parts));
            let first = block.panels.start + chunk.start;
            let panels = family.panels(self.filters).skip(first).take(chunk.len());
            // Several panels have one slice each.
            let slices =
                panels.clone().next().map_or(0, |p| self.slices[self.kind(&family, p)].len());
            for slice in 0..slices {
                let mut tiles = [None; MOST_PANELS];
                for (slot, panel) in tiles.iter_mut().zip(panels.clone()) {
                    let pack = &pack[group * self.group_pack_len() + sum_len * panel.start..];
                    let tile = self.tile(panel, group, slice, (source, pack, dst), epilogue);
                    let load = accumulate || slice > 0;
                    let start = if load { Start::Load } else { Start::Zero };
                    let stream =
                        block.stream && slices == 1 && (group * self.filters).is_multiple_of(16);
                    *slot = Some((panel, Tile { start, stream, ..tile }));
                }
                let map = if item == 0 { src.x.full() } else { &[] };
                let ahead = self.ahead(block, map);
                let tally = epilogue.tally.filter(|_| slice + 1 == slices);
                let tally = tally.map(|tally| Tallied { tally, dst: dst.as_mut_ptr() });
                self.sweep(&family, block, &tiles[..chunk.len()], picture, ahead, tally);
            }
        }
    }

    /// What a walk over pixels of one row reads after the strip of pixel 0: the next strips, or, where they are
    /// copied, those of the next item; to the end of the map.
    fn ahead(&self, block: &Block, src: &[f32]) -> Range<*const f32> {
        let Range { start, end } = src.as_ptr_range();
        if !self.flat {
            return end..end;
        }
        let pixels = if self.banded { block.cols.len() } else { 2 * Family::of(self.isa).pixels };
        start.wrapping_add(pixels * self.groups * self.channels)..end
    }

    /// Which taps and slices a panel has: those of full panels, or of the last one.
    fn kind(&self, family: &Family, panel: Panel) -> usize {
        usize::from(panel.width != family.width())
    }

    /// A panel's tile for one slice of the sum, as it stands at the first pixel of the maps.
    fn tile(
        &self,
        panel: Panel,
        group: usize,
        slice: usize,
        (source, pack, dst): (*const f32, &[f32], &SharedMut<f32>),
        epilogue: Epilogue,
    ) -> Tile {
        let kind = self.kind(&Family::of(self.isa), panel);
        let slices = &self.slices[kind];
        let (last, slice) = (slice + 1 == slices.len(), &slices[slice]);
        let column = group * self.filters + panel.start;
        let pixel = self.groups * self.filters;
        let of = |v: Option<&[f32]>| match v.filter(|_| last) {
            Some(v) => v[column..].as_ptr(),
            None => std::ptr::null(),
        };
        Tile {
            taps: self.taps[kind][slice.taps.clone()].as_ptr(),
            ntaps: slice.taps.len(),
            k: slice.k.len(),
            a: source.wrapping_add(group * self.channels + slice.k.start),
            a_row: self.step_h * self.pitch(),
            a_px: self.step_w * self.groups * self.channels + self.gap,
            a_k: 1,
            b: pack[slice.k.start * self.run * panel.width..].as_ptr(),
            b_k: panel.width,
            c: dst.as_mut_ptr().wrapping_add(column),
            c_row: self.dst_step_h * self.dst_w * pixel,
            c_px: self.dst_step_w * pixel,
            last: panel.last(),
            start: Start::Zero,
            bias: of(epilogue.bias),
            residual: of(epilogue.residual.map(Map::full)),
            clamp: epilogue.clamp.filter(|_| last),
            ahead: std::ptr::null(),
            ahead_k: LINE,
            stream: false,
        }
    }

    /// Passes tiles of some panels over the block's pixels, strip by strip.
    fn sweep(
        &self,
        family: &Family,
        block: &Block,
        tiles: &[Option<(Panel, Tile)>],
        picture: usize,
        ahead: Range<*const f32>,
        tally: Option<Tallied>,
    ) {
        let Some(Some((panel, one))) = tiles.first() else { return };
        let rowwise = self.run == 3;
        let most_rows = if rowwise { 1 } else { family.rows_of(block.cols.len()) };
        let most = if rowwise { family.row_pixels(*panel) } else { family.pixels };
        let (src_pixel, dst_pixel) = (self.groups * self.channels, self.groups * self.filters);
        let written: usize = tiles.iter().flatten().map(|(panel, _)| panel.used).sum();
        // Past the caches goes only what is summed.
        let mut near = (tally.is_some() && one.stream).then(|| Near([MaybeUninit::uninit(); NEAR]));
        assert!(near.is_none() || written * family.pixels <= NEAR);
        let near = near.as_mut().map(|near| near.0.as_mut_ptr().cast::<f32>());
        let start = panel.start;
        for p in block.pictures.clone() {
            // Where output (0, 0)'s window begins, in floats from the source's (or band's) start.
            let origin = if self.banded && self.flat {
                -((block.cols.start * one.a_px) as isize)
            } else if self.banded {
                let start = (p - block.pictures.start) * picture;
                start as isize - (block.rows.start * one.a_row) as isize
            } else {
                let rows = (p * self.src_h) as isize - self.top;
                (rows * self.src_w as isize - self.left) * src_pixel as isize
            };
            let corner = ((p * self.dst_h + self.row0) * self.dst_w + self.col0) * dst_pixel;
            let mut i = block.rows.start;
            while i < block.rows.end {
                let rows = most_rows.min(block.rows.end - i);
                let strips = Even::new(block.cols.len(), most / rows);
                for part in 0..strips.parts {
                    let strip = strips.range(part);
                    let j = block.cols.start + strip.start;
                    let a = origin + (i * one.a_row + j * one.a_px) as isize;
                    let c = corner + i * one.c_row + j * one.c_px;
                    let next = ahead.start.wrapping_add(j * src_pixel);
                    let mut next = if next < ahead.end { next } else { std::ptr::null() };
                    for (panel, tile) in tiles.iter().flatten() {
                        let mut tile = *tile;
                        tile.ahead = std::mem::replace(&mut next, std::ptr::null());
                        // SAFETY: offsets of windows stay within the source (or its padded band), see
                        // `finish`; `c` addresses outputs of this item alone.
                        unsafe {
                            tile.a = tile.a.wrapping_offset(a);
                            tile.c = tile.c.add(c);
                            if !tile.residual.is_null() {
                                tile.residual = tile.residual.add(c);
                            }
                            let kernel = match self.run {
                                3 => family.row_tile(strip.len(), *panel),
                                _ => family.tile(rows, strip.len(), *panel),
                            };
                            if let Some(near) = near {
                                tile.c = near.add(panel.start - start);
                                (tile.c_px, tile.c_row) = (written, strip.len() * written);
                                tile.stream = false;
                            }
                            kernel(&tile);
                        }
                    }
                    let Some(tallied) = tally else { continue };
                    let first = (p, i, part) == (block.pictures.start, block.rows.start, 0);
                    // SAFETY: these outputs are made; this thread alone has them.
                    unsafe {
                        let (to, sizes) = (one.c.add(c), (rows, strip.len(), written));
                        self.sum(tallied, block.shard, first, (near, to), sizes);
                    }
                }
                i += rows;
            }
        }
    }

    /// Sums so many outputs, by rows, pixels and channels, that lie `near` or where they belong.
    ///
    /// # Safety
    /// They do, and this thread alone has them and sums these channels of the shard.
    unsafe fn sum(
        &self,
        Tallied { tally, dst }: Tallied,
        shard: usize,
        first: bool,
        (near, to): (Option<*mut f32>, *mut f32),
        (rows, pixels, channels): (usize, usize, usize),
    ) {
        let pixel = self.groups * self.filters;
        // SAFETY: the caller's.
        unsafe {
            let at = to.offset_from(dst) as usize;
            for r in 0..rows {
                let to = to.add(r * self.dst_w * pixel);
                let strip = Strip {
                    from: near.map_or(to, |near| near.add(r * pixels * channels)),
                    from_row: if near.is_some() { channels } else { pixel },
                    to,
                    to_row: pixel,
                    row: at / pixel + r * self.dst_w,
                    rows: pixels,
                    channel: at % pixel,
                    channels,
                    shard,
                    first: first && r == 0,
                };
                tally.strip(self.isa, &strip);
            }
        }
    }

    /// Copies the block's source rows with their padding into `band`; returns the floats per picture.
    fn fill(&self, block: &Block, src: Source, band: &mut [f32]) -> usize {
        let pixel = self.groups * self.channels;
        if self.flat {
            let range = block.cols.start * pixel..block.cols.end * pixel;
            if self.gap == 0 {
                let len = range.len();
                src.copy(self.isa, range, &mut band[..len]);
                return 0;
            }
            for (from, to) in range.step_by(pixel).zip(band.chunks_mut(pixel + self.gap)) {
                src.copy(self.isa, from..from + pixel, &mut to[..pixel]);
            }
            return 0;
        }
        let (pitch, width) = (self.pitch(), self.src_w as isize);
        let rows = self.band_h(block.rows.len());
        let left = self.left.clamp(0, self.band_w() as isize) as usize;
        let first = (-self.left).max(0);
        let copied = (self.band_w() - left).min((width - first).max(0) as usize);
        for (i, p) in block.pictures.clone().enumerate() {
            for r in 0..rows {
                let line = &mut band[(i * rows + r) * pitch..][..pitch];
                let y = (block.rows.start * self.step_h + r) as isize - self.top;
                if y < 0 || y >= self.src_h as isize {
                    line.fill(0.0);
                    continue;
                }
                let from = ((p * self.src_h + y as usize) * self.src_w + first as usize) * pixel;
                let (zero, rest) = line.split_at_mut(left * pixel);
                zero.fill(0.0);
                let (body, zero) = rest.split_at_mut(copied * pixel);
                src.copy(self.isa, from..from + copied * pixel, body);
                zero.fill(0.0);
            }
        }
        rows * pitch
    }
}

/// The outputs of one item.
struct Block {
    pictures: Range<usize>,
    rows: Range<usize>,
    cols: Range<usize>,
    panels: Range<usize>,
    /// Whether outputs go past the caches.
    stream: bool,
    /// The shard of a tally that these outputs are.
    shard: usize,
}

/// Sums over the map that begins at `dst`.
#[derive(Clone, Copy)]
struct Tallied<'a> {
    tally: &'a Tally<'a>,
    dst: *const f32,
}

/// Outputs of the tiles of a strip.
const NEAR: usize = 14 * 32 * MOST_PANELS;
#[repr(align(64))]
struct Near([MaybeUninit<f32>; NEAR]);
