//! Forward and backward-data: the window's rows of numbers are the sum, pixels are rows of tiles.
//!
//! A band of source rows is split into pieces with its padding, `[piece][picture][row][pixel][channel]`.
//! All pixels of a picture's band, those of the padding between rows too, then are rows of one matrix
//! with a constant step, whose columns under a window row are one run of numbers; no window is copied
//! out. Rows that belong to no output pixel are summed like the others and not written.

use super::super::walk::{Cell, Walk};
use super::super::{ConvShape, Epilogue};
use super::block::{Block, Form, Tiles};
use super::pack::{self, Columns};
use super::{DEPTH, Precision, SIDE, chunk, floats_for, halves, halves_mut, split};
use crate::gemm::Even;
use crate::norm::Source;
use crate::{Ctx, SharedMut};
use std::ops::Range;

/// Bytes of split source that a thread keeps in its second cache while filters pass over it.
const BAND: usize = 640 * 1024;
/// Output pixels of a band that make reading all filters worth it.
const FEW_PIXELS: usize = 64;
/// Most output pixels of a band, so that the sums of a block of filters stay in the second cache.
const MANY_PIXELS: usize = 2048;

/// Neighbouring window places, whose numbers lie one behind the other on the source.
#[derive(Debug, Clone)]
struct Run {
    cells: Range<usize>,
    row: usize,
    col: usize,
}

/// Steps that are summed in one visit: `[f32, bf16]`.
const ONCE: [usize; 2] = [4, 12];
/// Bytes of an output map from which it is written past the caches.
const STREAM: usize = 8 << 20;
/// Bytes of the filters of blocks that pass over a tile together.
const TOGETHER: usize = 384 * 1024;

/// A [`Walk`] on tiles.
#[derive(Debug, Clone)]
pub(in super::super) struct TileWalk {
    base: Walk,
    precision: Precision,
    runs: Vec<Run>,
    /// Run and first number within it of every step.
    steps: Vec<(usize, usize)>,
    /// Where each step begins, from a pixel's place.
    offsets: Vec<usize>,
    columns: Columns,
    cut: Cut,
}

/// How a run is cut into items, and how a band lies in memory. Any cut gives the same numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    /// Pictures and output rows of a band; where pictures are one row of pixels, one picture and pixels.
    pictures: usize,
    rows: usize,
    /// Parts into which blocks of columns are cut.
    parts: usize,
    /// Columns of a source row in the band, and rows of each phase of the step.
    pitch: usize,
    band_rows: usize,
    /// bf16 numbers of a pixel, of a picture, of a piece.
    pixel: usize,
    picture: usize,
    piece: usize,
    /// Groups of 16 rows of a picture, a whole number of blocks of either form.
    groups: usize,
}

impl TileWalk {
    /// The walk on tiles, where it serves; `threads` changes no number.
    pub fn new(base: &Walk, precision: Precision, batch: usize, threads: usize) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (i, cell) in base.cells.iter().enumerate() {
            match runs.last_mut() {
                Some(r) if r.row == cell.row && r.col + r.cells.len() == cell.col => {
                    r.cells.end += 1
                }
                _ => runs.push(Run { cells: i..i + 1, row: cell.row, col: cell.col }),
            }
        }
        let steps = runs
            .iter()
            .enumerate()
            .flat_map(|(i, r)| {
                (0..r.cells.len() * base.channels).step_by(DEPTH).map(move |k| (i, k))
            })
            .collect();
        let mut walk = TileWalk {
            base: base.clone(),
            precision,
            runs,
            steps,
            offsets: Vec::new(),
            columns: Columns { n: base.filters },
            cut: Cut::default(),
        };
        walk.cut = walk.cut(batch, threads);
        walk.offsets = walk
            .steps
            .iter()
            .map(|&(run, k)| {
                let (run, s) = (&walk.runs[run], base.step_h);
                let row = run.row % s * walk.cut.band_rows + run.row / s;
                (row * walk.cut.pitch + run.col) * walk.cut.pixel + k
            })
            .collect();
        let last = walk.offsets.iter().max().unwrap_or(&0) + DEPTH;
        let cut = &mut walk.cut;
        let rows = cut.groups * SIDE * base.step_w * cut.pixel;
        cut.piece = (cut.pictures - 1) * cut.picture + rows.max(cut.picture) + last;
        cut.piece = (cut.piece + cut.pitch * cut.pixel + DEPTH).next_multiple_of(DEPTH);
        walk
    }

    /// Cycles of one thread, by rates measured on a Sapphire Rapids with `examples/conv_speed.rs`.
    pub fn cost(&self, batch: usize) -> f64 {
        let (base, cut) = (&self.base, &self.cut);
        let (rows, bands) = if base.flat {
            let pixels = (batch * base.out_h * base.out_w) as f64;
            (pixels, (pixels / cut.rows as f64).ceil())
        } else {
            let rows = ((cut.rows - 1) * self.across() + base.out_w).next_multiple_of(2 * SIDE);
            let bands = (base.out_h as f64 / cut.rows as f64).ceil();
            ((batch * rows) as f64 * bands, bands * batch as f64 / cut.pictures as f64)
        };
        let sum = (self.steps.len() * DEPTH) as f64;
        let rate = if self.pieces() == 1 { 260.0 } else { 47.0 };
        let products = rows * self.columns.padded() as f64 * sum / rate;
        let numbers = (batch * base.src_h * base.src_w * base.channels * cut.parts) as f64;
        let split = numbers * (0.3 + 0.15 * self.pieces() as f64);
        let filters = bands * 2.0 * self.columns.packed(self.steps.len(), self.pieces()) as f64;
        let out = (batch * base.out_h * base.out_w * base.filters) as f64;
        products + split + 0.9 * out + 0.1 * filters
    }

    fn pieces(&self) -> usize {
        self.precision.pieces()
    }

    fn cut(&self, batch: usize, threads: usize) -> Cut {
        let (base, pieces) = (&self.base, self.pieces());
        let single = self.runs.iter().all(|r| r.cells.len() == 1);
        let mut pixel = base.channels;
        if single {
            // Aligned rows, whose places in the nearest cache differ.
            pixel = pixel.next_multiple_of(DEPTH);
            if pixel.is_multiple_of(256) {
                pixel += DEPTH;
            }
        }
        let wanted = 2 * threads;
        let blocks = self.columns.blocks();
        let tall = Form::Tall.groups();
        let filters = self.columns.packed(self.steps.len(), pieces) * 2;
        if base.flat {
            let pixels = batch * base.out_h * base.out_w;
            let most = (BAND / (2 * pieces * pixel)).clamp(FEW_PIXELS, MANY_PIXELS);
            let most = most / (tall * SIDE) * (tall * SIDE);
            let few = pixels.div_ceil(FEW_PIXELS).max(1);
            let mut chunks = pixels.div_ceil(most);
            if chunks < wanted && filters < 2 * pieces * pixel * pixels {
                chunks = wanted.min(few).max(chunks);
            }
            let rows = pixels.div_ceil(chunks).next_multiple_of(2 * SIDE);
            let groups = rows.div_ceil(tall * SIDE) * tall;
            let parts = wanted.div_ceil(pixels.div_ceil(rows)).clamp(1, blocks);
            return Cut {
                pictures: 1,
                rows,
                parts,
                pixel,
                picture: rows * pixel,
                groups,
                ..Cut::default()
            };
        }
        let s = base.step_h;
        let (left, copied) = self.margins();
        let pitch = if (s, base.step_w) == (1, 1) {
            // Padding to the right of a row is that to the left of the next.
            (left + copied).max(base.band_w() - left.min(base.band_w())).max(base.out_w)
        } else {
            base.band_w().next_multiple_of(base.step_w)
        };
        let bytes = |rows: usize| base.band_h(rows).div_ceil(s) * s * pitch * pixel * 2 * pieces;
        let mut rows = base.out_h;
        while rows > 1 && (bytes(rows) > BAND || rows * pitch / base.step_w > MANY_PIXELS) {
            rows = rows.div_ceil(2);
        }
        let least = FEW_PIXELS.div_ceil(base.out_w).min(base.out_h);
        rows = rows.max(least);
        let mut bands = base.out_h.div_ceil(rows);
        if batch * bands < wanted && filters < 2 * bytes(base.out_h) {
            bands = wanted.div_ceil(batch).min(base.out_h / least).max(bands);
        }
        let rows = base.out_h.div_ceil(bands);
        let bands = base.out_h.div_ceil(rows);
        let pictures = if bands == 1 {
            let most = (BAND / bytes(rows)).min(MANY_PIXELS / (rows * pitch).max(1));
            most.min(batch / wanted).max(1)
        } else {
            1
        };
        let items = batch.div_ceil(pictures) * bands;
        let parts = wanted.div_ceil(items).clamp(1, blocks);
        let band_rows = base.band_h(rows).div_ceil(s);
        let q = (rows - 1) * (pitch / base.step_w) + base.out_w;
        let groups = q.div_ceil(tall * SIDE) * tall;
        let picture = s * band_rows * pitch * pixel;
        Cut { pictures, rows, parts, pitch, band_rows, pixel, picture, piece: 0, groups }
    }

    /// Columns of padding to the left of a band's row, and source columns behind it.
    fn margins(&self) -> (usize, usize) {
        let base = &self.base;
        let left = base.left.clamp(0, base.band_w() as isize) as usize;
        let first = (-base.left).max(0);
        (left, (base.band_w() - left).min((base.src_w as isize - first).max(0) as usize))
    }

    /// Floats of the packed filters.
    pub fn pack_len(&self) -> usize {
        floats_for(self.columns.packed(self.steps.len(), self.pieces()))
    }

    /// `filters [kh,kw,c,d]`; forward sums over channels, `back` over filters.
    pub fn pack(&self, cx: Ctx, s: &ConvShape, filters: &[f32], back: bool, pack: &mut [f32]) {
        assert!(filters.len() >= s.filter_len(), "filters are too short");
        assert!(pack.len() >= self.pack_len(), "pack is too short");
        let channels = self.base.channels;
        pack::pack(
            cx,
            self.columns,
            self.steps.len(),
            self.pieces(),
            halves_mut(pack),
            &|step, column, lanes, out| {
                let (run, k) = self.steps[step];
                let run = &self.runs[run];
                let end = (run.cells.len() * channels).min(k + DEPTH);
                let mut at = k;
                while at < end {
                    let Cell { kh, kw, .. } = self.base.cells[run.cells.start + at / channels];
                    let first = at % channels;
                    let n = (end - at).min(channels - first);
                    let place = (kh * s.kw + kw) * s.c;
                    if back {
                        for lane in 0..lanes {
                            let from = (place + column + lane) * s.d + first;
                            for (i, &w) in filters[from..from + n].iter().enumerate() {
                                out[at - k + i][lane] = w;
                            }
                        }
                    } else {
                        for i in 0..n {
                            let from = (place + first + i) * s.d + column;
                            out[at - k + i][..lanes].copy_from_slice(&filters[from..from + lanes]);
                        }
                    }
                    at += n;
                }
            },
        );
    }

    /// Floats of a source row that has a norm to apply.
    fn line(&self) -> usize {
        if self.base.flat {
            self.base.channels * SIDE
        } else {
            self.base.src_w * self.base.channels
        }
    }

    /// Floats of work space of one thread.
    pub fn scratch_len(&self) -> usize {
        let cut = &self.cut;
        let sums = cut.pictures * cut.groups * SIDE * 2 * SIDE;
        floats_for(cut.piece * self.pieces()) + sums + 16 + self.line()
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
        if n == 0 || self.steps.is_empty() && accumulate {
            return;
        }
        let (base, cut) = (&self.base, &self.cut);
        let columns = base.filters;
        assert!(pack.len() >= self.pack_len(), "packed filters are too short");
        assert!(epilogue.bias.is_none_or(|b| b.len() >= columns), "bias is too short");
        let out = n * base.dst_h * base.dst_w * columns;
        assert!(dst.len() >= out && epilogue.residual.is_none_or(|r| r.len() >= out));
        assert!(!accumulate || epilogue.residual.is_none(), "adds to one map");
        let per_worker = self.scratch_len();
        assert!(scratch.len() >= per_worker * cx.pool.threads(), "scratch is too short");
        let (dst, scratch) = (SharedMut::new(dst), SharedMut::new(scratch));
        let (pictures, rows) = if base.flat {
            (Even::new(1, 1), Even::new(n * base.out_h * base.out_w, cut.rows))
        } else {
            (Even::new(n, cut.pictures), Even::new(base.out_h, cut.rows))
        };
        let parts = Even::parts(self.columns.blocks(), cut.parts);
        let packed = halves(pack);
        // Whole lines of a map that no cache would hold until it is read.
        let lines = columns.is_multiple_of(SIDE) && dst.as_mut_ptr().align_offset(64) == 0;
        let stream = lines && !accumulate && 4 * out > STREAM;
        cx.pool.run(pictures.parts * rows.parts * parts.parts, &|item, worker| {
            let (item, part) = (item / parts.parts, parts.range(item % parts.parts));
            let (pictures, rows) =
                (pictures.range(item / rows.parts), rows.range(item % rows.parts));
            // SAFETY: each worker has its own part of the scratch.
            let band = unsafe { scratch.slice(worker * per_worker..(worker + 1) * per_worker) };
            let item = Item { pictures, rows, blocks: part, accumulate, stream };
            self.item(cx, &item, src, packed, &dst, epilogue, band);
        });
    }

    fn item(
        &self,
        cx: Ctx,
        item: &Item,
        src: Source,
        packed: &[u16],
        dst: &SharedMut<f32>,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        let cut = &self.cut;
        let (band, rest) = scratch.split_at_mut(floats_for(cut.piece * self.pieces()));
        let (sums, line) = rest.split_at_mut(rest.len() - self.line());
        let skip = sums.as_ptr().align_offset(64);
        let sums = &mut sums[skip..];
        match self.pieces() {
            1 => self.fill::<1>(cx, item, src, band, line),
            _ => self.fill::<3>(cx, item, src, band, line),
        }
        let tiles = Tiles::begin();
        // What is summed in one visit is written as it lies, all columns of a pixel one behind the other.
        let together = if self.once() { self.together() } else { 1 };
        let all = item.blocks.clone();
        let (pictures, groups) = (item.pictures.len(), self.groups(item));
        for start in all.clone().step_by(together) {
            let blocks = start..(start + together).min(all.end);
            if !self.once() {
                let part = Part { pictures: 0..pictures, groups: 0..groups };
                self.block(&tiles, start, &part, item, packed, band, sums, dst, epilogue);
                continue;
            }
            for picture in 0..pictures {
                for first in (0..groups).step_by(Form::Tall.groups()) {
                    let groups = first..(first + Form::Tall.groups()).min(groups);
                    let part = Part { pictures: picture..picture + 1, groups };
                    for block in blocks.clone() {
                        self.block(&tiles, block, &part, item, packed, band, sums, dst, epilogue);
                    }
                }
            }
        }
        if item.stream {
            split::fence();
        }
    }

    /// Whether all steps are summed in one visit.
    fn once(&self) -> bool {
        self.steps.len() <= ONCE[usize::from(self.pieces() == 1)]
    }

    /// Blocks of columns whose filters stay in the second cache together.
    fn together(&self) -> usize {
        let block = 2 * self.steps.len() * Form::Wide.step(self.pieces());
        (TOGETHER / block.max(1)).max(1)
    }

    /// One block of columns over some pixels of the band, some steps of the sum at a time. With the last
    /// steps sums go where they belong, tile by tile, while the next are made.
    fn block(
        &self,
        tiles: &Tiles,
        block: usize,
        part: &Part,
        item: &Item,
        packed: &[u16],
        band: &[f32],
        sums: &mut [f32],
        dst: &SharedMut<f32>,
        epilogue: Epilogue,
    ) {
        let (cut, pieces) = (&self.cut, self.pieces());
        let form = self.columns.block(block).2;
        let band = halves(band).as_ptr();
        let step = self.base.step_w * cut.pixel;
        let operand = self.columns.at(block, self.steps.len(), pieces);
        let once = self.once();
        let mut k = 0;
        loop {
            let most = if once { self.steps.len() } else { chunk(pieces) };
            let n = most.min(self.steps.len() - k);
            let last = k + n >= self.steps.len();
            for picture in part.pictures.clone() {
                for first in part.groups.clone().step_by(form.groups()) {
                    let rows = first * SIDE..(first + form.groups()) * SIDE;
                    if last && !item.stream {
                        self.each_row(item, picture, rows.clone(), |_, count, to, step| {
                            let at = to + self.columns.block(block).0;
                            split::expect(
                                dst.as_mut_ptr().wrapping_add(at),
                                count,
                                step,
                                form.columns(),
                            );
                        });
                    }
                    // Sums that are made at once need no place of their own.
                    let at = if once {
                        0
                    } else {
                        picture * cut.groups * 2 + first * form.columns() / SIDE
                    };
                    let sums = &mut sums[at * SIDE * SIDE..];
                    let (from, to) =
                        (picture * cut.picture + first * SIDE * step, sums.as_mut_ptr());
                    // SAFETY: rows of a picture and what steps reach of them lie in the band, see `new`;
                    // the sums have room for all groups of rows, 32 columns wide.
                    unsafe {
                        let a = |g: usize| band.add(from + g % form.groups() * SIDE * step);
                        let c = |g: usize| to.add(g % form.groups() * SIDE * form.columns());
                        let block = Block {
                            a: [a(0), a(1), a(2), a(3)],
                            a_row: 2 * step,
                            a_piece: cut.piece,
                            steps: self.offsets.as_ptr().add(k),
                            n,
                            b: packed[operand + k * form.step(pieces)..].as_ptr(),
                            c: [c(0), c(1), c(2), c(3)],
                            c_row: 4 * form.columns(),
                            c_column: SIDE,
                            load: k > 0,
                        };
                        tiles.run(form, pieces, &block);
                    }
                    if last {
                        self.each_row(item, picture, rows, |from, count, to, step| {
                            self.finish(
                                block,
                                &sums[from * form.columns()..],
                                count,
                                (to, step),
                                item,
                                dst,
                                epilogue,
                            );
                        });
                    }
                }
            }
            k += n;
            if last {
                return;
            }
        }
    }

    /// Groups of 16 rows that hold output pixels of an item's picture.
    fn groups(&self, item: &Item) -> usize {
        let rows = item.rows.len();
        let pixels =
            if self.base.flat { rows } else { (rows - 1) * self.across() + self.base.out_w };
        pixels.div_ceil(SIDE)
    }

    /// Rows of the matrix from one output row to the next.
    fn across(&self) -> usize {
        self.cut.pitch / self.base.step_w
    }

    /// Output pixels among some rows of a picture's matrix, a run of neighbours at a time:
    /// `f(first row, count, place of the first pixel's numbers, numbers to the next pixel)`.
    #[inline(always)]
    fn each_row(
        &self,
        item: &Item,
        picture: usize,
        matrix: Range<usize>,
        mut f: impl FnMut(usize, usize, usize, usize),
    ) {
        let (base, pixel) = (&self.base, self.base.filters);
        if base.flat {
            let count = item.rows.len().min(matrix.end) - matrix.start;
            return f(0, count, (item.rows.start + matrix.start) * pixel, pixel);
        }
        let (across, p) = (self.across(), item.pictures.start + picture);
        let mut q = matrix.start;
        while q < matrix.end {
            let (row, col) = (q / across, q % across);
            if row >= item.rows.len() {
                return;
            }
            let end = matrix.end.min((row + 1) * across);
            let count = (end - q).min(base.out_w.saturating_sub(col));
            if count > 0 {
                let y = base.row0 + (item.rows.start + row) * base.dst_step_h;
                let x = base.col0 + col * base.dst_step_w;
                let to = ((p * base.dst_h + y) * base.dst_w + x) * pixel;
                f(q - matrix.start, count, to, base.dst_step_w * pixel);
            }
            q = end;
        }
    }

    /// Writes the sums of some neighbouring pixels to where they belong.
    #[inline(always)]
    fn finish(
        &self,
        block: usize,
        sums: &[f32],
        count: usize,
        (to, step): (usize, usize),
        item: &Item,
        dst: &SharedMut<f32>,
        epilogue: Epilogue,
    ) {
        let (start, used, form) = self.columns.block(block);
        debug_assert!(sums.len() >= count * form.columns());
        // SAFETY: `to` addresses outputs of this item alone, within what `run` has checked.
        unsafe {
            let out = dst.as_mut_ptr().add(to + start);
            let more = match epilogue.residual {
                Some(r) => r.as_ptr().add(to + start),
                None if item.accumulate => out.cast_const(),
                None => std::ptr::null(),
            };
            split::finish(&split::Finish {
                sums: sums.as_ptr(),
                width: form.columns(),
                to: out,
                step,
                count,
                used,
                bias: epilogue.bias.map_or(std::ptr::null(), |b| b[start..].as_ptr()),
                more,
                clamp: epilogue.clamp,
                stream: item.stream,
            });
        }
    }

    /// Splits the item's source rows, with padding and norm, into the band.
    fn fill<const P: usize>(
        &self,
        cx: Ctx,
        item: &Item,
        src: Source,
        band: &mut [f32],
        line: &mut [f32],
    ) {
        let (base, cut) = (&self.base, &self.cut);
        let channels = base.channels;
        let band = halves_mut(band);
        assert!(band.len() >= cut.piece * P, "the band is too short");
        let band = band.as_mut_ptr();
        let mut split = |from: Range<usize>, at: usize| {
            let pixels = from.len() / channels;
            let numbers = match src.norm {
                None => &src.x[from],
                Some(_) => {
                    let n = from.len();
                    src.copy(cx.isa, from, &mut line[..n]);
                    &line[..n]
                }
            };
            // SAFETY: the pixels at `at` lie within each piece.
            unsafe {
                if cut.pixel == channels {
                    return split::row::<P>(
                        numbers.as_ptr(),
                        numbers.len(),
                        band.add(at),
                        cut.piece,
                    );
                }
                let zeros = cut.pixel.min(channels.next_multiple_of(DEPTH)) - channels;
                for i in 0..pixels {
                    let to = band.add(at + i * cut.pixel);
                    split::row::<P>(numbers[i * channels..].as_ptr(), channels, to, cut.piece);
                    for piece in 0..P {
                        to.add(piece * cut.piece + channels).write_bytes(0, zeros);
                    }
                }
            }
        };
        let zero = |at: usize, n: usize| {
            for piece in 0..P {
                // SAFETY: the numbers at `at` lie within each piece.
                unsafe { band.add(piece * cut.piece + at).write_bytes(0, n) };
            }
        };
        if base.flat {
            for i in item.rows.clone().step_by(SIDE) {
                let end = (i + SIDE).min(item.rows.end);
                split(i * channels..end * channels, (i - item.rows.start) * cut.pixel);
            }
            return;
        }
        let (left, copied) = self.margins();
        let first = (-base.left).max(0) as usize;
        let (s, pitch) = (base.step_h, cut.pitch * cut.pixel);
        let rows = base.band_h(item.rows.len());
        for (i, p) in item.pictures.clone().enumerate() {
            for phase in 0..s {
                let mut at = i * cut.picture + phase * cut.band_rows * pitch;
                if base.cells.iter().any(|c| c.row % s == phase) {
                    for r in (phase..rows).step_by(s) {
                        let y = (item.rows.start * s + r) as isize - base.top;
                        if y < 0 || y >= base.src_h as isize {
                            zero(at, pitch);
                        } else {
                            let from =
                                ((p * base.src_h + y as usize) * base.src_w + first) * channels;
                            zero(at, left * cut.pixel);
                            split(from..from + copied * channels, at + left * cut.pixel);
                            let filled = (left + copied) * cut.pixel;
                            zero(at + filled, pitch - filled);
                        }
                        at += pitch;
                    }
                }
                // What the last row's sums reach beyond it.
                zero(at, left * cut.pixel + DEPTH);
            }
        }
    }
}

/// Pictures of an item, and groups of 16 rows of each.
struct Part {
    pictures: Range<usize>,
    groups: Range<usize>,
}

/// The outputs of one item.
struct Item {
    pictures: Range<usize>,
    rows: Range<usize>,
    blocks: Range<usize>,
    accumulate: bool,
    /// Outputs go to memory past the caches.
    stream: bool,
}
