//! One item of a [`TileWalk`]: a band of source rows is filled, blocks pass over it, sums go where they belong.

use super::super::Epilogue;
use super::block::{Block, Form, Multiply, Tiles};
use super::quantize::{self, Range8};
use super::walk::TileWalk;
use super::{Kind, SIDE, bytes, bytes_mut, chunk, floats_for, split};
use crate::norm::Source;
use crate::{Isa, Map, SharedMut};
use std::ops::Range;

/// The outputs of one item, and what they are made of.
pub(super) struct Item<'a> {
    pub walk: &'a TileWalk,
    pub isa: Isa,
    pub pictures: Range<usize>,
    pub rows: Range<usize>,
    /// Blocks of columns.
    pub blocks: Range<usize>,
    pub packed: &'a [u8],
    /// What makes floats of sums of integers.
    pub scales: &'a [f32],
    pub dst: &'a SharedMut<'a, f32>,
    pub epilogue: Epilogue<'a>,
    pub accumulate: bool,
    /// Outputs go to memory past the caches.
    pub stream: bool,
}

/// Pictures of an item, and groups of 16 rows of each.
struct Part {
    pictures: Range<usize>,
    groups: Range<usize>,
}

impl Item<'_> {
    pub fn run(&self, src: Source, scratch: &mut [f32]) {
        let (walk, cut) = (self.walk, &self.walk.cut);
        let (band, rest) = scratch.split_at_mut(floats_for(cut.piece * walk.size()));
        let (sums, line) = rest.split_at_mut(rest.len() - walk.line());
        let skip = sums.as_ptr().align_offset(64);
        let sums = &mut sums[skip..];
        self.fill_band(src, bytes_mut(band), line);
        let tiles = Tiles::begin();
        let band = bytes(band);
        // What is summed in one visit is written as it lies, all columns of a pixel one behind the other.
        let together = if walk.once() { walk.together() } else { 1 };
        let all = self.blocks.clone();
        let (pictures, groups) = (self.pictures.len(), self.groups());
        for start in all.clone().step_by(together) {
            let blocks = start..(start + together).min(all.end);
            if !walk.once() {
                let part = Part { pictures: 0..pictures, groups: 0..groups };
                self.block(&tiles, start, &part, band, sums);
                continue;
            }
            for picture in 0..pictures {
                for first in (0..groups).step_by(Form::Tall.groups()) {
                    let groups = first..(first + Form::Tall.groups()).min(groups);
                    let part = Part { pictures: picture..picture + 1, groups };
                    for block in blocks.clone() {
                        self.block(&tiles, block, &part, band, sums);
                    }
                }
            }
        }
        if self.stream {
            split::fence();
        }
    }

    /// One block of columns over some pixels of the band, some steps of the sum at a time. With the last
    /// steps sums go where they belong, tile by tile, while the next are made.
    fn block(&self, tiles: &Tiles, block: usize, part: &Part, band: &[u8], sums: &mut [f32]) {
        let (walk, cut, pieces) = (self.walk, &self.walk.cut, self.walk.kind.pieces());
        let (start, _, form) = walk.columns.block(block);
        let size = walk.kind.size();
        let step = walk.base.step_w * cut.pixel * size;
        let operand = walk.columns.at(block, walk.steps.len(), pieces);
        let multiply = match walk.kind {
            Kind::Floats(p) => p.into(),
            Kind::Int8(..) => Multiply::Int8,
        };
        let once = walk.once();
        let mut k = 0;
        loop {
            let most = if once { walk.steps.len() } else { chunk(pieces) };
            let n = most.min(walk.steps.len() - k);
            let last = k + n >= walk.steps.len();
            for picture in part.pictures.clone() {
                for first in part.groups.clone().step_by(form.groups()) {
                    let rows = first * SIDE..(first + form.groups()) * SIDE;
                    if last && !self.stream {
                        self.each_row(picture, rows.clone(), |_, count, to, step| {
                            let at = self.dst.as_mut_ptr().wrapping_add(to + start);
                            split::expect(at, count, step, form.columns());
                        });
                    }
                    // Sums that are made at once need no place of their own.
                    let at = if once {
                        0
                    } else {
                        picture * cut.groups * 2 + first * form.columns() / SIDE
                    };
                    let sums = &mut sums[at * SIDE * SIDE..];
                    let from = picture * cut.picture * size + first * SIDE * step;
                    let to = sums.as_mut_ptr();
                    // SAFETY: rows of a picture and what steps reach of them lie in the band, see
                    // `TileWalk::new`; the sums have room for all groups of rows, 32 columns wide.
                    unsafe {
                        let a =
                            |g: usize| band.as_ptr().add(from + g % form.groups() * SIDE * step);
                        let c = |g: usize| to.add(g % form.groups() * SIDE * form.columns());
                        let block = Block {
                            a: [a(0), a(1), a(2), a(3)],
                            a_row: step,
                            a_piece: cut.piece * size,
                            steps: walk.offsets.as_ptr().add(k),
                            n,
                            b: self.packed[operand + k * form.step(pieces)..].as_ptr(),
                            c: [c(0), c(1), c(2), c(3)],
                            c_row: 4 * form.columns(),
                            c_column: SIDE,
                            load: k > 0,
                        };
                        tiles.run(form, multiply, &block);
                    }
                    if last {
                        self.each_row(picture, rows, |from, count, to, step| {
                            let sums = &sums[from * form.columns()..];
                            self.finish(block, sums, count, (to, step));
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

    /// Groups of 16 rows that hold output pixels of a picture.
    fn groups(&self) -> usize {
        let (rows, base) = (self.rows.len(), &self.walk.base);
        let pixels = if base.flat { rows } else { (rows - 1) * self.walk.across() + base.out_w };
        pixels.div_ceil(SIDE)
    }

    /// Output pixels among some rows of a picture's matrix, a run of neighbours at a time:
    /// `f(first row, count, place of the first pixel's numbers, numbers to the next pixel)`.
    #[inline(always)]
    fn each_row(
        &self,
        picture: usize,
        matrix: Range<usize>,
        mut f: impl FnMut(usize, usize, usize, usize),
    ) {
        let (base, pixel) = (&self.walk.base, self.walk.base.filters);
        if base.flat {
            let count = self.rows.len().min(matrix.end) - matrix.start;
            return f(0, count, (self.rows.start + matrix.start) * pixel, pixel);
        }
        let (across, p) = (self.walk.across(), self.pictures.start + picture);
        let mut q = matrix.start;
        while q < matrix.end {
            let (row, col) = (q / across, q % across);
            if row >= self.rows.len() {
                return;
            }
            let end = matrix.end.min((row + 1) * across);
            let count = (end - q).min(base.out_w.saturating_sub(col));
            if count > 0 {
                let y = base.row0 + (self.rows.start + row) * base.dst_step_h;
                let x = base.col0 + col * base.dst_step_w;
                let to = ((p * base.dst_h + y) * base.dst_w + x) * pixel;
                f(q - matrix.start, count, to, base.dst_step_w * pixel);
            }
            q = end;
        }
    }

    /// Writes the sums of some neighbouring pixels to where they belong.
    #[inline(always)]
    fn finish(&self, block: usize, sums: &[f32], count: usize, (to, step): (usize, usize)) {
        let (start, used, form) = self.walk.columns.block(block);
        debug_assert!(sums.len() >= count * form.columns());
        let Epilogue { bias, residual, clamp, .. } = self.epilogue;
        // SAFETY: `to` addresses outputs of this item alone, within what `TileWalk::run` has checked.
        unsafe {
            let out = self.dst.as_mut_ptr().add(to + start);
            let more = match residual.map(Map::full) {
                Some(r) => r.as_ptr().add(to + start),
                None if self.accumulate => out.cast_const(),
                None => std::ptr::null(),
            };
            let (width, to) = (form.columns(), out);
            if let Kind::Int8(..) = self.walk.kind {
                let (scale, less) = self.walk.scales().at(self.scales, start);
                let bias = bias.map(|b| &b[start..]);
                return quantize::finish(
                    self.isa,
                    &quantize::Finish {
                        sums,
                        width,
                        to,
                        step,
                        count,
                        used,
                        scale,
                        less,
                        bias,
                        more,
                        clamp,
                    },
                );
            }
            let (sums, bias) =
                (sums.as_ptr(), bias.map_or(std::ptr::null(), |b| b[start..].as_ptr()));
            let stream = self.stream;
            split::finish(&split::Finish {
                sums,
                width,
                to,
                step,
                count,
                used,
                bias,
                more,
                clamp,
                stream,
            });
        }
    }

    /// Brings the source rows, with padding and norm, into the band.
    fn fill_band(&self, src: Source, band: &mut [u8], line: &mut [f32]) {
        let (walk, isa) = (self.walk, self.isa);
        let stride = walk.cut.piece;
        assert!(band.len() >= stride * walk.size(), "the band is too short");
        let to = band.as_mut_ptr();
        match (walk.kind, walk.kind.pieces()) {
            (Kind::Int8(_, range), _) => self.fill(src, &Bytes { to, isa, range }, line),
            (_, 1) => self.fill(src, &Pieces::<1> { to: to.cast(), stride }, line),
            _ => self.fill(src, &Pieces::<3> { to: to.cast(), stride }, line),
        }
    }

    fn fill(&self, src: Source, to: &impl Put, line: &mut [f32]) {
        let (base, cut) = (&self.walk.base, &self.walk.cut);
        let channels = base.channels;
        let mut put = |from: Range<usize>, at: usize| {
            let numbers = match src.norm {
                None => &src.x.full()[from],
                Some(_) => {
                    let n = from.len();
                    src.copy(self.isa, from, &mut line[..n]);
                    &line[..n]
                }
            };
            // SAFETY: the pixels at `at` lie within the band.
            unsafe {
                if cut.pixel == channels {
                    return to.numbers(numbers, at);
                }
                let depth = self.walk.kind.depth();
                let zeros = cut.pixel.min(channels.next_multiple_of(depth)) - channels;
                for (i, numbers) in numbers.chunks_exact(channels).enumerate() {
                    let at = at + i * cut.pixel;
                    to.numbers(numbers, at);
                    to.zeros(at + channels, zeros);
                }
            }
        };
        // SAFETY: the caller of `zero` gives places within the band.
        let zero = |at: usize, n: usize| unsafe { to.zeros(at, n) };
        if base.flat {
            for i in self.rows.clone().step_by(SIDE) {
                let end = (i + SIDE).min(self.rows.end);
                put(i * channels..end * channels, (i - self.rows.start) * cut.pixel);
            }
            return;
        }
        let (left, copied) = self.walk.margins();
        let first = (-base.left).max(0) as usize;
        let (s, pitch) = (base.step_h, cut.pitch * cut.pixel);
        let rows = base.band_h(self.rows.len());
        for (i, p) in self.pictures.clone().enumerate() {
            for phase in 0..s {
                let mut at = i * cut.picture + phase * cut.band_rows * pitch;
                if base.cells.iter().any(|c| c.row % s == phase) {
                    for r in (phase..rows).step_by(s) {
                        let y = (self.rows.start * s + r) as isize - base.top;
                        if y < 0 || y >= base.src_h as isize {
                            zero(at, pitch);
                        } else {
                            let from =
                                ((p * base.src_h + y as usize) * base.src_w + first) * channels;
                            zero(at, left * cut.pixel);
                            put(from..from + copied * channels, at + left * cut.pixel);
                            let filled = (left + copied) * cut.pixel;
                            zero(at + filled, pitch - filled);
                        }
                        at += pitch;
                    }
                }
                // What the last row's sums reach beyond it.
                zero(at, left * cut.pixel + self.walk.kind.depth());
            }
        }
    }
}

/// A band to be filled; places are in numbers.
trait Put {
    /// # Safety
    /// All places must lie within the band.
    unsafe fn numbers(&self, from: &[f32], at: usize);
    /// # Safety
    /// All places must lie within the band.
    unsafe fn zeros(&self, at: usize, n: usize);
}

/// `P` bf16 pieces, one piece `stride` numbers behind the other.
struct Pieces<const P: usize> {
    to: *mut u16,
    stride: usize,
}

impl<const P: usize> Put for Pieces<P> {
    unsafe fn numbers(&self, from: &[f32], at: usize) {
        // SAFETY: the caller's.
        unsafe { split::row::<P>(from.as_ptr(), from.len(), self.to.add(at), self.stride) };
    }

    unsafe fn zeros(&self, at: usize, n: usize) {
        for piece in 0..P {
            // SAFETY: the caller's.
            unsafe { self.to.add(piece * self.stride + at).write_bytes(0, n) };
        }
    }
}

/// Integers of 8 bits.
struct Bytes {
    to: *mut u8,
    isa: Isa,
    range: Range8,
}

impl Put for Bytes {
    unsafe fn numbers(&self, from: &[f32], at: usize) {
        // SAFETY: the caller's.
        let to = unsafe { std::slice::from_raw_parts_mut(self.to.add(at), from.len()) };
        quantize::bytes(self.isa, self.range, from, to);
    }

    unsafe fn zeros(&self, at: usize, n: usize) {
        // SAFETY: the caller's.
        unsafe { self.to.add(at).write_bytes(self.range.zero(), n) };
    }
}
