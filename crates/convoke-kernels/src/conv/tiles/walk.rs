//! Forward and backward-data: the window's rows of numbers are the sum, pixels are rows of tiles.
//!
//! A band of source rows is split into pieces with its padding, `[piece][picture][row][pixel][channel]`.
//! All pixels of a picture's band, those of the padding between rows too, then are rows of one matrix
//! with a constant step, whose columns under a window row are one run of numbers; no window is copied
//! out. Rows that belong to no output pixel are summed like the others and not written.

use super::super::walk::{Cell, Walk};
use super::super::{ConvShape, Epilogue};
use super::block::Form;
use super::item::Item;
use super::pack::{self, Columns};
use super::quantize::{self, LONGEST, Scales};
use super::{Kind, SIDE, bytes, bytes_mut, floats_for, split};
use crate::gemm::Even;
use crate::norm::Source;
use crate::{Ctx, SharedMut};
use std::ops::Range;
use std::sync::atomic::{AtomicI32, Ordering};

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

/// Steps that are summed in one visit: of three pieces, of one.
const ONCE: [usize; 2] = [4, 12];
/// Bytes of an output map from which it is written past the caches.
const STREAM: usize = 8 << 20;
/// Bytes of the filters of blocks that pass over a tile together.
const TOGETHER: usize = 384 * 1024;

/// A [`Walk`] on tiles.
#[derive(Debug, Clone)]
pub(in super::super) struct TileWalk {
    pub(super) base: Walk,
    pub(super) kind: Kind,
    runs: Vec<Run>,
    /// Run and first number within it of every step.
    pub(super) steps: Vec<(usize, usize)>,
    /// Where each step begins, from a pixel's place, in bytes.
    pub(super) offsets: Vec<usize>,
    pub(super) columns: Columns,
    pub(super) cut: Cut,
}

/// How a run is cut into items, and how a band lies in memory. Any cut gives the same numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cut {
    /// Pictures and output rows of a band; where pictures are one row of pixels, one picture and pixels.
    pub pictures: usize,
    pub rows: usize,
    /// Parts into which blocks of columns are cut.
    pub parts: usize,
    /// Columns of a source row in the band, and rows of each phase of the step.
    pub pitch: usize,
    pub band_rows: usize,
    /// Numbers of a pixel, of a picture, of a piece.
    pub pixel: usize,
    pub picture: usize,
    pub piece: usize,
    /// Groups of 16 rows of a picture, a whole number of blocks of either form.
    pub groups: usize,
}

impl TileWalk {
    /// The walk on tiles, where it serves; `threads` changes no number.
    pub fn new(base: &Walk, kind: Kind, batch: usize, threads: usize) -> Self {
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
                (0..r.cells.len() * base.channels).step_by(kind.depth()).map(move |k| (i, k))
            })
            .collect();
        let mut walk = TileWalk {
            base: base.clone(),
            kind,
            runs,
            steps,
            offsets: Vec::new(),
            columns: Columns { n: base.filters },
            cut: Cut::default(),
        };
        walk.cut = walk.cut(batch, threads);
        let (size, depth) = (kind.size(), kind.depth());
        for &(run, k) in &walk.steps {
            let (run, s) = (&walk.runs[run], base.step_h);
            let row = run.row % s * walk.cut.band_rows + run.row / s;
            walk.offsets.push(((row * walk.cut.pitch + run.col) * walk.cut.pixel + k) * size);
        }
        let last = walk.offsets.iter().max().unwrap_or(&0) / size + depth;
        let cut = &mut walk.cut;
        let rows = cut.groups * SIDE * base.step_w * cut.pixel;
        cut.piece = (cut.pictures - 1) * cut.picture + rows.max(cut.picture) + last;
        cut.piece = (cut.piece + cut.pitch * cut.pixel + depth).next_multiple_of(depth);
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
        let sum = (self.steps.len() * self.kind.depth()) as f64;
        let rate = if self.pieces() == 1 { 260.0 } else { 47.0 };
        let products = rows * self.columns.padded() as f64 * sum / rate;
        let numbers = (batch * base.src_h * base.src_w * base.channels * cut.parts) as f64;
        let split = numbers * (0.3 + 0.15 * self.pieces() as f64);
        let filters = bands * self.columns.packed(self.steps.len(), self.pieces()) as f64;
        let out = (batch * base.out_h * base.out_w * base.filters) as f64;
        products + split + 0.9 * out + 0.1 * filters
    }

    fn pieces(&self) -> usize {
        self.kind.pieces()
    }

    /// Bytes of a number with all its pieces.
    pub(super) fn size(&self) -> usize {
        self.kind.size() * self.pieces()
    }

    fn cut(&self, batch: usize, threads: usize) -> Cut {
        let (base, size, depth) = (&self.base, self.size(), self.kind.depth());
        let single = self.runs.iter().all(|r| r.cells.len() == 1);
        let mut pixel = base.channels;
        if single {
            // Aligned rows, whose places in the nearest cache differ.
            pixel = pixel.next_multiple_of(depth);
            if pixel.is_multiple_of(8 * depth) {
                pixel += depth;
            }
        }
        let wanted = 2 * threads;
        let blocks = self.columns.blocks();
        let tall = Form::Tall.groups();
        let filters = self.columns.packed(self.steps.len(), self.pieces());
        if base.flat {
            let pixels = batch * base.out_h * base.out_w;
            let most = (BAND / (size * pixel)).clamp(FEW_PIXELS, MANY_PIXELS);
            let most = most / (tall * SIDE) * (tall * SIDE);
            let few = pixels.div_ceil(FEW_PIXELS).max(1);
            let mut chunks = pixels.div_ceil(most);
            if chunks < wanted && filters < size * pixel * pixels {
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
        let bytes = |rows: usize| base.band_h(rows).div_ceil(s) * s * pitch * pixel * size;
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
    pub(super) fn margins(&self) -> (usize, usize) {
        let base = &self.base;
        let left = base.left.clamp(0, base.band_w() as isize) as usize;
        let first = (-base.left).max(0);
        (left, (base.band_w() - left).min((base.src_w as isize - first).max(0) as usize))
    }

    pub fn is_int8(&self) -> bool {
        matches!(self.kind, Kind::Int8(..))
    }

    /// Whether the sum cannot overflow, whatever the numbers.
    pub fn holds(&self) -> bool {
        matches!(self.kind, Kind::Floats(_))
            || self.base.cells.len() * self.base.channels <= LONGEST
    }

    /// Floats of the packed filters, with the scales of those that are integers.
    pub fn pack_len(&self) -> usize {
        let scales = match self.kind {
            Kind::Floats(_) => 0,
            Kind::Int8(..) => self.scales().len(),
        };
        floats_for(self.columns.packed(self.steps.len(), self.pieces())) + scales
    }

    pub(super) fn scales(&self) -> Scales {
        Scales { columns: self.columns }
    }

    /// `filters [kh,kw,c,d]`; forward sums over channels, `back` over filters.
    pub fn pack(&self, cx: Ctx, s: &ConvShape, filters: &[f32], back: bool, pack: &mut [f32]) {
        assert!(filters.len() >= s.filter_len(), "filters are too short");
        assert!(pack.len() >= self.pack_len(), "pack is too short");
        let fill = |step: usize, column: usize, lanes: usize, out: &mut pack::Products| {
            self.fill_products(s, filters, back, (step, column, lanes), out)
        };
        let (columns, steps) = (self.columns, self.steps.len());
        let (way, range) = match self.kind {
            Kind::Floats(p) => {
                let put = split::tile(p);
                return pack::pack(cx, columns, steps, self.kind, bytes_mut(pack), &fill, &put);
            }
            Kind::Int8(way, range) => (way, range),
        };
        let end = self.pack_len() - self.scales().len();
        let (pack, scales) = pack.split_at_mut(end);
        let (scale, less) = scales.split_at_mut(columns.padded());
        quantize::filter_scales(&filters[..s.filter_len()], s.d, &mut scale[..columns.n]);
        let sums: Vec<AtomicI32> = (0..columns.padded()).map(|_| AtomicI32::new(0)).collect();
        let of_filters = &*scale;
        let put = |column: usize, products: &pack::Products, tile: *mut u8, _| {
            let mut added = [0; SIDE];
            let scales = &of_filters[column.min(columns.n)..columns.n];
            // SAFETY: the tile that is to be written.
            unsafe { quantize::put(products, scales, way.size(), tile, &mut added) };
            for (sum, add) in sums[column..].iter().zip(added) {
                // Integers add up to the same in any order.
                sum.fetch_add(add, Ordering::Relaxed);
            }
        };
        pack::pack(cx, columns, steps, self.kind, bytes_mut(pack), &fill, &put);
        for (less, sum) in less.iter_mut().zip(sums) {
            *less = f32::from_bits((i32::from(range.zero()) * sum.into_inner()) as u32);
        }
        scale[..columns.n].iter_mut().for_each(|s| *s *= range.scale());
        scale[columns.n..].fill(0.0);
    }

    /// What the packed operand holds in one step of some columns.
    fn fill_products(
        &self,
        s: &ConvShape,
        filters: &[f32],
        back: bool,
        (step, column, lanes): (usize, usize, usize),
        out: &mut pack::Products,
    ) {
        let (run, k) = self.steps[step];
        let (run, channels) = (&self.runs[run], self.base.channels);
        let end = (run.cells.len() * channels).min(k + self.kind.depth());
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
    }

    /// Floats of a source row that has a norm to apply.
    pub(super) fn line(&self) -> usize {
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
        floats_for(cut.piece * self.size()) + sums + 16 + self.line()
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
        let (packed, scales) = pack[..self.pack_len()].split_at(match self.kind {
            Kind::Floats(_) => self.pack_len(),
            Kind::Int8(..) => self.pack_len() - self.scales().len(),
        });
        let packed = bytes(packed);
        // Whole lines of a map that no cache would hold until it is read.
        let lines = columns.is_multiple_of(SIDE) && dst.as_mut_ptr().align_offset(64) == 0;
        let floats = matches!(self.kind, Kind::Floats(_));
        let stream = floats && lines && !accumulate && 4 * out > STREAM;
        cx.pool.run(pictures.parts * rows.parts * parts.parts, &|item, worker| {
            let (item, part) = (item / parts.parts, parts.range(item % parts.parts));
            let (pictures, rows) =
                (pictures.range(item / rows.parts), rows.range(item % rows.parts));
            // SAFETY: each worker has its own part of the scratch.
            let band = unsafe { scratch.slice(worker * per_worker..(worker + 1) * per_worker) };
            let item = Item {
                walk: self,
                isa: cx.isa,
                pictures,
                rows,
                blocks: part,
                packed,
                scales,
                dst: &dst,
                epilogue,
                accumulate,
                stream,
            };
            item.run(src, band);
        });
    }

    /// Whether all steps are summed in one visit.
    pub(super) fn once(&self) -> bool {
        self.steps.len() <= ONCE[usize::from(self.pieces() == 1)]
    }

    /// Blocks of columns whose filters stay in the second cache together.
    pub(super) fn together(&self) -> usize {
        let block = 2 * self.steps.len() * Form::Wide.step(self.pieces());
        (TOGETHER / block.max(1)).max(1)
    }

    /// Rows of the matrix from one output row to the next.
    pub(super) fn across(&self) -> usize {
        self.cut.pitch / self.base.step_w
    }
}
