//! Backward-weights: pixels are the sum, window places and input channels the rows, filters the columns.
//!
//! A band of pictures is split into pieces: x turned, `[piece][phase][channel][row][pixel]`, so that a
//! window place is a shift along the rows of tiles, and dy in pairs of pixels, as tiles read a packed
//! operand. Padding between rows and pictures is zero and summed like the rest.
//!
//! Where filters are few, the batch is cut into `shards` by shape alone, each with sums of its own, added in
//! order, so that a thread multiplies what it has split; where they are many, threads split a band
//! together and then share the sums out. Neither lets the number of threads change a bit.

use super::super::ConvShape;
use super::block::{Block, Form, Tiles};
use super::pack::Columns;
use super::{DEPTH, Precision, SIDE, bytes, bytes_mut, chunk, floats_for, split};
use crate::gemm::Even;
use crate::norm::Source;
use crate::{Ctx, Isa, SharedMut};
use std::ops::Range;

/// Bytes of split maps of a band: of one thread, which stay in its second cache, or of all together.
const BAND: [usize; 2] = [1024 * 1024, 2560 * 1024];
/// Steps of the sum between reading the sums and writing them, where windows are one pixel.
const FLAT_CHUNK: usize = 12;
/// Floats of partial sums at most.
const PARTIALS: usize = 1 << 20;
/// Pixels of a row where pictures do not matter.
const FLAT: usize = 64;
/// Rows of a map that one item of splitting takes.
const FILL_ROWS: usize = 8;

/// Sixteen rows of sums: where they begin on the turned x, and in the filters' gradient.
#[derive(Debug, Clone, Copy)]
struct Unit {
    a: usize,
    out: usize,
}

#[derive(Debug, Clone)]
pub(in super::super) struct TileWeights {
    s: ConvShape,
    precision: Precision,
    columns: Columns,
    /// A window row's `kw · c` numbers are the channels of a pixel.
    merged: bool,
    /// Channels of a pixel as they are turned, and column phases.
    channels: usize,
    phases: [usize; 2],
    units: Vec<Unit>,
    /// Pixels are taken as they come, so many to a row, whatever picture they are of.
    flat: bool,
    /// Output pixels of a picture.
    pixels: usize,
    /// Row phases and column phases that some window place reads.
    used: [Vec<bool>; 2],
    /// Pictures and output rows of a band, columns and rows of a picture within the sum.
    pictures: usize,
    rows: usize,
    pitch: usize,
    lines: usize,
    /// Length of a turned channel and of a piece of x, in numbers.
    length: usize,
    piece: usize,
    /// Where the steps of the sum begin on a turned channel, in bytes.
    steps: Vec<usize>,
    threads: usize,
    /// Parts of the batch with sums of their own.
    shards: usize,
}

impl TileWeights {
    pub fn new(s: &ConvShape, precision: Precision, batch: usize, threads: usize) -> Self {
        let flat = (s.kh, s.kw, s.sh, s.sw, s.top, s.left) == (1, 1, 1, 1, 0, 0)
            && (s.oh, s.ow) == (s.h, s.w);
        let pixels = s.oh * s.ow;
        let (s, batch) = &match flat {
            true => {
                let row = ConvShape { h: 1, oh: 1, w: FLAT, ow: FLAT, ..*s };
                (row, (batch * s.h * s.w).div_ceil(FLAT))
            }
            false => (*s, batch),
        };
        let merged = s.c < SIDE && s.kw > 1 && s.dw == 1;
        let phases = [s.sh, if merged { 1 } else { s.sw }];
        let channels = if merged { s.kw * s.c } else { s.c };
        let mut w = TileWeights {
            s: *s,
            precision,
            columns: Columns { n: s.d },
            merged,
            channels,
            phases,
            units: Vec::new(),
            flat,
            pixels,
            used: [s.sh, phases[1]].map(|step| vec![false; step]),
            pictures: 1,
            rows: s.oh,
            pitch: 0,
            lines: 0,
            length: 0,
            piece: 0,
            steps: Vec::new(),
            threads,
            shards: 1,
        };
        let shards = (PARTIALS / s.filter_len().max(1)).clamp(1, 16);
        w.shards = (1 << shards.ilog2()).min((*batch).max(1));
        for kh in 0..s.kh {
            w.used[0][kh * s.dh % s.sh] = true;
        }
        for kw in 0..s.kw {
            w.used[1][kw * s.dw % phases[1]] = true;
        }
        w.lay_out(*batch);
        w.units = w.units();
        w
    }

    /// How a band lies in memory.
    fn lay_out(&mut self, batch: usize) {
        let s = self.s;
        let span_h = (s.kh - 1) * s.dh + 1;
        let span_w = if self.merged { 1 } else { (s.kw - 1) * s.dw + 1 };
        let used_w = s.w.min(((s.ow - 1) * s.sw + (s.kw - 1) * s.dw + 1).saturating_sub(s.left));
        let used_h = s.h.min(((s.oh - 1) * s.sh + span_h).saturating_sub(s.top));
        // With step 1, padding behind a row (a picture) is that before the next.
        let width = if (self.phases[1], self.merged) == (1, false) {
            s.ow.max(s.left + used_w).max((s.ow + span_w - 1).saturating_sub(s.left))
        } else {
            s.ow + (span_w - 1) / s.sw
        };
        self.pitch = width.next_multiple_of(2);
        let whole = if s.sh == 1 {
            s.oh.max(s.top + used_h).max((s.oh + span_h - 1).saturating_sub(s.top))
        } else {
            s.oh + (span_h - 1) / s.sh
        };
        let pieces = self.precision.pieces();
        let channels = self.phases[0] * self.phases[1] * self.channels + s.d;
        let size = |lines: usize| 2 * pieces * channels * lines * self.pitch;
        self.lines = whole;
        let most = BAND[usize::from(self.shards == 1)];
        let batch = batch.div_ceil(self.shards).max(1);
        self.pictures = (most / size(whole).max(1)).clamp(1, batch);
        // No longer than the sum of a picture of 64 × 64: what is turned together is used together.
        while self.rows > 1 && size(self.rows + (span_h - 1) / s.sh) > most {
            self.rows = self.rows.div_ceil(2);
        }
        if self.rows < s.oh {
            self.lines = self.rows + (span_h - 1) / s.sh;
        }
        let sum = (self.pictures * self.lines * self.pitch).next_multiple_of(DEPTH);
        self.steps = (0..sum).step_by(DEPTH).map(|place| 2 * place).collect();
        let shift = (span_h - 1) / s.sh * self.pitch + (span_w - 1) / s.sw;
        // Rows of tiles lie in different places of the nearest cache.
        self.length = (sum + shift).next_multiple_of(DEPTH);
        if (self.length / DEPTH).is_multiple_of(2) {
            self.length += DEPTH;
        }
        let rows = self.phases[0] * self.phases[1] * self.channels + SIDE;
        self.piece = rows * self.length;
    }

    /// Rows of sums, those that read the same channels one behind the other.
    fn units(&self) -> Vec<Unit> {
        let s = &self.s;
        let tiles = self.channels.div_ceil(SIDE);
        let columns = if self.merged { 1 } else { s.kw };
        let mut units = Vec::new();
        for pair in (0..tiles).step_by(2) {
            for kh in 0..s.kh {
                for kw in 0..columns {
                    let (row, col) = (kh * s.dh, kw * s.dw);
                    let phase = row % s.sh * self.phases[1] + col % self.phases[1];
                    let shift = row / s.sh * self.pitch + col / s.sw;
                    for tile in pair..(pair + 2).min(tiles) {
                        let channel = phase * self.channels + tile * SIDE;
                        let out = (kh * columns + kw) * self.channels + tile * SIDE;
                        units.push(Unit { a: channel * self.length + shift, out });
                    }
                }
            }
        }
        units
    }

    /// Cycles of one thread, as [`super::TileWalk::cost`].
    pub fn cost(&self, batch: usize) -> f64 {
        let s = &self.s;
        let bands = self.pictures_of(batch) as f64 / self.pictures as f64
            * (s.oh as f64 / self.rows as f64).ceil();
        let sum = bands * (self.steps.len() * DEPTH) as f64;
        let together = self.columns.block(0).2.groups();
        let rows = self.units.len().next_multiple_of(together) * SIDE;
        let pieces = self.precision.pieces();
        let rate = if pieces == 1 { 145.0 } else { 32.0 };
        let products = sum * (rows * self.columns.padded()) as f64 / rate;
        let channels =
            self.used.iter().map(|u| u.iter().filter(|&&u| u).count()).product::<usize>();
        let turned = sum * (channels * self.channels) as f64;
        products
            + turned * (0.9 + 0.25 * pieces as f64)
            + sum * s.d as f64 * (0.2 + 0.15 * pieces as f64)
    }

    /// Pictures, or rows of pixels, of a batch.
    fn pictures_of(&self, n: usize) -> usize {
        if self.flat { (n * self.pixels).div_ceil(FLAT) } else { n }
    }

    /// Floats of the sums in the work space: 16 rows for each unit.
    fn sums(&self) -> usize {
        self.units.len() * SIDE * self.row() + 16
    }

    /// Floats from one row of sums to the next: tiles of neighbours lie in different places of a page, so
    /// that loads do not wait for stores.
    fn row(&self) -> usize {
        self.columns.padded() + SIDE
    }

    fn x_len(&self) -> usize {
        floats_for(2 * self.piece * self.precision.pieces())
    }

    fn dy_len(&self) -> usize {
        floats_for(self.columns.packed(self.steps.len(), self.precision.pieces()))
    }

    /// Floats of a source row with its padding.
    fn line(&self) -> usize {
        let s = &self.s;
        let reach = self.pitch * s.sw + (s.kw - 1) * s.dw;
        reach.max(s.left + s.w) * s.c + SIDE
    }

    /// Floats of what one thread, or all together, need to split a band.
    fn band_len(&self) -> usize {
        self.x_len() + self.dy_len() + if self.shards > 1 { self.line() } else { 0 }
    }

    /// Floats of work space.
    pub fn scratch_len(&self) -> usize {
        if self.shards > 1 {
            self.shards * self.sums() + self.threads * self.band_len()
        } else {
            self.sums() + self.band_len() + self.threads * self.line()
        }
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
        assert!(cx.pool.threads() <= self.threads, "planned for fewer threads");
        assert!(scratch.len() >= self.scratch_len(), "scratch is too short");
        let dw = &mut dw[..self.s.filter_len()];
        let (sums, bands) = scratch.split_at_mut(self.shards * self.sums());
        let n = Pictures { pixels: n * self.pixels, range: 0..self.pictures_of(n) };
        if n.range.is_empty() {
            return dw.fill(0.0);
        }
        if self.shards == 1 {
            self.add_up(&Team::All(cx), &n, x, dy, sums, bands);
        } else {
            let of = Even::parts(n.range.len(), self.shards);
            let (sums, bands) = (SharedMut::new(&mut *sums), SharedMut::new(bands));
            let (each, mine) = (self.sums(), self.band_len());
            cx.pool.run(self.shards, &|shard, worker| {
                // SAFETY: each shard has its own sums, each worker its own band.
                let (sums, band) = unsafe {
                    let band = bands.slice(worker * mine..(worker + 1) * mine);
                    (sums.slice(shard * each..(shard + 1) * each), band)
                };
                let n = Pictures { range: of.range(shard), ..n };
                if n.range.is_empty() {
                    return sums.fill(0.0);
                }
                self.add_up(&Team::One(cx), &n, x, dy, sums, band);
            });
        }
        self.collect(cx, sums, dw);
    }

    /// Sums over some pictures.
    fn add_up(
        &self,
        team: &Team,
        n: &Pictures,
        x: Source,
        dy: &[f32],
        sums: &mut [f32],
        band: &mut [f32],
    ) {
        let (x_band, rest) = band.split_at_mut(self.x_len());
        let (dy_band, lines) = rest.split_at_mut(self.dy_len());
        let mut first = true;
        for p in n.range.clone().step_by(self.pictures) {
            let pictures = p..(p + self.pictures).min(n.range.end);
            for row in (0..self.s.oh).step_by(self.rows) {
                let rows = row..(row + self.rows).min(self.s.oh);
                let band = Band { pictures: pictures.clone(), rows, first, pixels: n.pixels };
                match self.precision.pieces() {
                    1 => self.fill::<1>(team, &band, x, dy, x_band, dy_band, lines),
                    _ => self.fill::<3>(team, &band, x, dy, x_band, dy_band, lines),
                }
                self.multiply(team, &band, bytes(x_band), bytes(dy_band), sums);
                first = false;
            }
        }
    }

    /// Places of the sum that a band fills.
    fn filled(&self, band: &Band) -> usize {
        band.pictures.len() * self.lines * self.pitch
    }

    /// Splits a band of both maps.
    fn fill<const P: usize>(
        &self,
        team: &Team,
        band: &Band,
        x: Source,
        dy: &[f32],
        x_band: &mut [f32],
        dy_band: &mut [f32],
        lines: &mut [f32],
    ) {
        let (x_band, dy_band) =
            (SharedMut::new(bytes_mut(x_band)), SharedMut::new(bytes_mut(dy_band)));
        let lines = SharedMut::new(lines);
        let per_picture = Even::new(self.lines, FILL_ROWS);
        let items = band.pictures.len() * per_picture.parts;
        team.run(2 * items + 1, &|item, worker| {
            let (x_to, dy_to) = (x_band.as_mut_ptr().cast(), dy_band.as_mut_ptr());
            // SAFETY: items write different places of either band; each worker has its own line.
            unsafe {
                if item == 2 * items {
                    return self.fill_ends::<P>(band, x_to, dy_to);
                }
                let (turned, item) = (item < items, item % items);
                let picture = item / per_picture.parts;
                for row in per_picture.range(item % per_picture.parts) {
                    if turned {
                        let line = lines.slice(worker * self.line()..(worker + 1) * self.line());
                        self.turn_row::<P>(team.isa(), band, picture, row, x, x_to, line);
                    } else {
                        self.pair_row::<P>(band, picture, row, dy, dy_to);
                    }
                }
            }
        });
    }

    /// Zeros where no row reaches: behind the last picture.
    unsafe fn fill_ends<const P: usize>(&self, band: &Band, x: *mut u16, dy: *mut u8) {
        let filled = self.filled(band);
        let rows = self.phases[0] * self.phases[1] * self.channels;
        for piece in 0..P {
            for row in 0..rows {
                // SAFETY: a row of x is `length` long.
                unsafe {
                    let at = piece * self.piece + row * self.length + filled;
                    x.add(at).write_bytes(0, self.length - filled);
                }
            }
        }
        let zeros = filled.next_multiple_of(DEPTH) - filled;
        // SAFETY: within the steps of the sum.
        unsafe { self.pairs::<P>(filled, &[], 0, zeros, dy) };
    }

    /// Turns the rows of x that lie on line `row` of a picture, one for each row phase.
    unsafe fn turn_row<const P: usize>(
        &self,
        isa: Isa,
        band: &Band,
        picture: usize,
        row: usize,
        x: Source,
        to: *mut u16,
        line: &mut [f32],
    ) {
        let s = &self.s;
        let q = (picture * self.lines + row) * self.pitch;
        for phase in (0..self.phases[0]).filter(|&p| self.used[0][p]) {
            let padded = (band.rows.start + row) * s.sh + phase;
            let y = padded.checked_sub(s.top).filter(|&y| y < s.h);
            // A row of the next picture is not one of this.
            let y = y.filter(|_| padded < (s.oh - 1) * s.sh + (s.kh - 1) * s.dh + 1);
            line.fill(0.0);
            if let Some(y) = y {
                let from = ((band.pictures.start + picture) * s.h + y) * s.w * s.c;
                let n = self.existing(band, picture) * s.c;
                x.copy(isa, from..from + n, &mut line[s.left * s.c..][..n]);
            }
            for column in (0..self.phases[1]).filter(|&p| self.used[1][p]) {
                let first = (phase * self.phases[1] + column) * self.channels;
                for channel in (0..self.channels).step_by(split::LANES) {
                    let n = (self.channels - channel).min(split::LANES);
                    // SAFETY: a line holds all pixels of the pitch; rows of x are `length` long.
                    unsafe {
                        split::columns::<P>(
                            line[column * s.c + channel..].as_ptr(),
                            s.sw * s.c,
                            self.pitch,
                            n,
                            to.add((first + channel) * self.length + q),
                            self.length,
                            self.piece,
                        );
                    }
                }
            }
        }
    }

    /// Pixels of a source row that exist.
    fn existing(&self, band: &Band, picture: usize) -> usize {
        let before = (band.pictures.start + picture) * FLAT;
        if self.flat { FLAT.min(band.pixels - before) } else { self.s.w }
    }

    /// Pairs the pixels of dy on line `row` of a picture.
    unsafe fn pair_row<const P: usize>(
        &self,
        band: &Band,
        picture: usize,
        row: usize,
        dy: &[f32],
        to: *mut u8,
    ) {
        let s = &self.s;
        let y = band.rows.start + row;
        let count = match (y < band.rows.end, self.flat) {
            (false, _) => 0,
            (true, true) => self.existing(band, picture),
            (true, false) => s.ow,
        };
        let from = ((band.pictures.start + picture) * s.oh + y) * s.ow * s.d;
        let pixels = if count > 0 { &dy[from..from + count * s.d] } else { &[] };
        let q = (picture * self.lines + row) * self.pitch;
        // SAFETY: within the steps of the sum.
        unsafe { self.pairs::<P>(q, pixels, count, self.pitch, to) };
    }

    /// Pixels at places `q ..` of the sum, `count` that exist and zeros, all columns.
    unsafe fn pairs<const P: usize>(
        &self,
        q: usize,
        pixels: &[f32],
        count: usize,
        pitch: usize,
        to: *mut u8,
    ) {
        for block in 0..self.columns.blocks() {
            let (start, used, form) = self.columns.block(block);
            let at = self.columns.at(block, self.steps.len(), P);
            let pixels = pixels.as_ptr().wrapping_add(start);
            let groups = form.columns() / SIDE;
            // SAFETY: the pixels that exist have all columns; the tiles lie within the block's operand.
            unsafe {
                let (to, step) = (to.add(at).cast(), self.s.d);
                let p = split::Pairs { pixels, step, count, pitch, at: q, used, groups, to };
                split::pairs::<P>(&p);
            }
        }
    }

    /// Adds a band's products to the sums: each item some units and some blocks of columns.
    fn multiply(&self, team: &Team, band: &Band, x: &[u8], dy: &[u8], target: &mut [f32]) {
        let blocks = self.columns.blocks();
        let tall = self.columns.block(0).2 == Form::Tall;
        let together = if tall { 4 } else { 2 };
        let calls = self.units.len().div_ceil(together);
        // Items whose maps share caches, and enough of them for all threads.
        let of_blocks = Even::new(blocks, 4);
        let most = (self.s.kh * self.s.kw * 4).min(calls.div_ceil(2));
        let least = if self.shards > 1 { 1 } else { (4 * self.threads).div_ceil(of_blocks.parts) };
        let of_units = Even::parts(calls, calls.div_ceil(most.max(1)).max(least).min(calls));
        let skip = target.len() - aligned(target).len();
        let target = SharedMut::new(&mut target[skip..]);
        team.run(of_blocks.parts * of_units.parts, &|item, _| {
            let blocks = of_blocks.range(item % of_blocks.parts);
            let calls = of_units.range(item / of_blocks.parts);
            let units = calls.start * together..(calls.end * together).min(self.units.len());
            self.item(band, blocks, &self.units[units.clone()], units.start, x, dy, &target);
        });
    }

    fn item(
        &self,
        band: &Band,
        blocks: Range<usize>,
        units: &[Unit],
        first_unit: usize,
        x: &[u8],
        dy: &[u8],
        target: &SharedMut<f32>,
    ) {
        let pieces = self.precision.pieces();
        let tiles = Tiles::begin();
        let steps = self.filled(band).div_ceil(DEPTH);
        let row = self.row();
        let chunk = if self.flat && pieces > 1 { FLAT_CHUNK } else { chunk(pieces) };
        for k in (0..steps).step_by(chunk) {
            let n = chunk.min(steps - k);
            for block in blocks.clone() {
                let (start, _, form) = self.columns.block(block);
                let at = self.columns.at(block, self.steps.len(), pieces) + k * form.step(pieces);
                for (i, group) in units.chunks(form.groups()).enumerate() {
                    // Units that are missing sum what the last one sums, to its own place.
                    let unit = |g: usize| group[g.min(group.len() - 1)];
                    let place =
                        |g: usize| (first_unit + i * form.groups() + g.min(group.len() - 1)) * SIDE;
                    let a = |g: usize| x[2 * unit(g).a..].as_ptr();
                    // SAFETY: rows and columns of the sums are this item's alone.
                    let c = |g: usize| unsafe { target.as_mut_ptr().add(place(g) * row + start) };
                    let block = Block {
                        a: [a(0), a(1), a(2), a(3)],
                        a_row: 2 * self.length,
                        a_piece: 2 * self.piece,
                        steps: self.steps[k..].as_ptr(),
                        n,
                        b: dy[at..].as_ptr(),
                        c: [c(0), c(1), c(2), c(3)],
                        c_row: 4 * row,
                        c_column: SIDE,
                        load: k > 0 || !band.first,
                    };
                    // SAFETY: 16 rows of x behind every unit, as long as the steps and shifts say.
                    unsafe { tiles.run(form, self.precision.into(), &block) };
                }
            }
        }
    }

    /// Brings the sums of the work space into the gradient.
    fn collect(&self, cx: Ctx, sums: &[f32], dw: &mut [f32]) {
        let (d, padded) = (self.s.d, self.row());
        let dw = SharedMut::new(dw);
        let places = self.s.filter_len() / d;
        cx.pool.run(self.units.len(), &|i, _| {
            let out = self.units[i].out;
            // The last unit of a place may have rows of no channel.
            let rows = (self.channels - out % self.channels).min(SIDE).min(places - out);
            for r in 0..rows {
                // SAFETY: units have different rows of the gradient.
                let to = unsafe { dw.slice((out + r) * d..(out + r + 1) * d) };
                for shard in 0..self.shards {
                    let sums = &sums[shard * self.sums()..][..self.sums()];
                    let from = &aligned(sums)[(i * SIDE + r) * padded..][..d];
                    if shard == 0 {
                        to.copy_from_slice(from);
                        continue;
                    }
                    for (t, f) in to.iter_mut().zip(from) {
                        *t += f;
                    }
                }
            }
        });
    }
}

/// Those who work on a band: one thread, or all.
enum Team<'a> {
    One(Ctx<'a>),
    All(Ctx<'a>),
}

impl Team<'_> {
    fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        match self {
            Team::One(_) => (0..items).for_each(|item| task(item, 0)),
            Team::All(cx) => cx.pool.run(items, task),
        }
    }

    fn isa(&self) -> Isa {
        let (Team::One(cx) | Team::All(cx)) = self;
        cx.isa
    }
}

/// A buffer from its first cache line on.
fn aligned(floats: &[f32]) -> &[f32] {
    &floats[floats.as_ptr().align_offset(64).min(floats.len())..]
}

/// Some pictures, and the output pixels of all.
struct Pictures {
    range: Range<usize>,
    pixels: usize,
}

/// Pictures, output rows, and whether the sums begin here.
struct Band {
    pictures: Range<usize>,
    rows: Range<usize>,
    /// Output pixels of the whole run.
    pixels: usize,
    first: bool,
}
