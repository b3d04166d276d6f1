//! The walk of backward-weights: `dw [kh,kw,c/groups,d] = sum over pixels of x · dy`.
//!
//! For one window place the sum runs over rows (taps of the tile) and pixels (k); input channels are
//! the tile's pixels and filters its lanes. Places that fall outside the map are left out of the
//! ranges, so nothing is padded. Where channels are few, a whole window row `kw · c` lies
//! contiguous behind each pixel and is taken as one range of channels (`merged`); then rows are
//! copied with their padding.
//!
//! The batch is cut into `shards` by shape alone; each shard sums into its own buffer and the buffers
//! are added in order, so the result does not depend on the number of threads.

use super::ConvShape;
use crate::gemm::{Even, Family, Panel, Start, Tap, Tile};
use crate::{Ctx, Isa, SharedMut};

/// Rows that one tile call sums over at most.
const MAX_ROWS: usize = 256;
/// Floats of x and dy that one chunk of rows may span: they pass through the cache once per tile.
const CHUNK: usize = 192 * 1024;
/// Pixels of a chunk at least.
const MIN_PIXELS: usize = 256;
/// Floats of partial sums at most.
const PARTIALS: usize = 1 << 20;
/// Channels up to which window rows are merged.
const MERGE: usize = 32;

#[derive(Debug, Clone)]
pub(super) struct Weights {
    s: ConvShape,
    isa: Isa,
    /// Window rows are taken as one range of `kw · c` channels.
    merged: bool,
    /// Rows are copied with their padding (merged, and the window leaves the map sideways).
    padded: bool,
    /// All pixels are one row: 1×1, stride 1.
    flat: bool,
    shards: usize,
    /// Parts into which tiles of one shard are cut.
    parts: usize,
    /// Output rows of the whole batch per chunk.
    chunk_rows: usize,
}

impl Weights {
    pub fn new(s: &ConvShape, isa: Isa, batch: usize) -> Self {
        let single = (s.kh, s.kw) == (1, 1);
        let merged = !single && s.groups == 1 && s.dw == 1 && s.c <= MERGE;
        let band_w = (s.ow - 1) * s.sw + s.kw;
        let padded = merged && (s.left > 0 || band_w - s.left > s.w);
        let unpadded = (s.top, s.left) == (0, 0) && (s.oh, s.ow) == (s.h, s.w);
        let flat = single && (s.sh, s.sw) == (1, 1) && unpadded;
        let shards = (PARTIALS / s.filter_len().max(1)).clamp(1, 16);
        let shards = 1 << shards.ilog2();
        let shards = shards.min(batch.max(1));
        let mut weights =
            Weights { s: *s, isa, merged, padded, flat, shards, parts: 1, chunk_rows: 1 };
        let row = s.sh * s.w * s.c + s.ow * s.d;
        // Long sums over each chunk, because every chunk loads and stores the whole dw once.
        let rows = (CHUNK / row.max(1)).max(MIN_PIXELS.div_ceil(s.ow));
        weights.chunk_rows = if flat { rows } else { rows.min(MAX_ROWS) };
        weights.parts = weights.units().min(16usize.div_ceil(shards));
        weights
    }

    /// Window places that one unit of work is made of: all of them, or rows when merged.
    fn places(&self) -> usize {
        if self.merged { self.s.kh } else { self.s.kh * self.s.kw }
    }

    /// Units of work: group × window place × panel of filters.
    fn units(&self) -> usize {
        let panels = (self.s.d / self.s.groups).div_ceil(Family::of(self.isa).width());
        self.s.groups * self.places() * panels
    }

    fn partial_len(&self) -> usize {
        if self.shards > 1 { self.shards * self.s.filter_len() } else { 0 }
    }

    fn band_pitch(&self) -> usize {
        ((self.s.ow - 1) * self.s.sw + self.s.kw) * self.s.c
    }

    /// Floats of padded rows per worker.
    fn band_len(&self) -> usize {
        if !self.padded {
            return 0;
        }
        self.chunk_rows * self.band_pitch()
    }

    pub fn scratch_len(&self, threads: usize) -> usize {
        self.partial_len() + threads * self.band_len()
    }

    pub fn run(
        &self,
        cx: Ctx,
        n: usize,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        scratch: &mut [f32],
    ) {
        let len = self.s.filter_len();
        let (partials, bands) = scratch.split_at_mut(self.partial_len());
        let bands = SharedMut::new(bands);
        {
            let target = SharedMut::new(if self.shards > 1 { partials } else { &mut *dw });
            let shards = Even::parts(n, self.shards);
            let units = Even::parts(self.units(), self.parts);
            cx.pool.run(self.shards * self.parts, &|item, worker| {
                let (shard, part) = (item / self.parts, item % self.parts);
                let (from, to) = (worker * self.band_len(), (worker + 1) * self.band_len());
                // SAFETY: each worker has its own band.
                let band = unsafe { bands.slice(from..to) };
                // SAFETY: items of one shard write different units (windows places and panels), items
                // of different shards different buffers; the pointer is used for nothing else.
                let out = unsafe { target.as_mut_ptr().add(shard * len) };
                self.part(shards.range(shard), units.range(part), x, dy, out, band);
            });
        }
        if self.shards > 1 {
            let partials = &scratch[..self.partial_len()];
            cx.pool.for_chunks_mut(&mut dw[..len], 4096, |i, out, _| {
                let at = i * 4096;
                out.copy_from_slice(&partials[at..at + out.len()]);
                for shard in 1..self.shards {
                    let part = &partials[shard * len + at..][..out.len()];
                    for (o, p) in out.iter_mut().zip(part) {
                        *o += p;
                    }
                }
            });
        }
    }

    /// One shard's sums for a range of units, chunk by chunk.
    fn part(
        &self,
        pictures: std::ops::Range<usize>,
        units: std::ops::Range<usize>,
        x: &[f32],
        dy: &[f32],
        out: *mut f32,
        band: &mut [f32],
    ) {
        let family = Family::of(self.isa);
        let panels = (self.s.d / self.s.groups).div_ceil(family.width());
        let rows = pictures.start * self.s.oh..pictures.end * self.s.oh;
        let mut start = rows.start;
        loop {
            let end = (start + self.chunk_rows).min(rows.end);
            for unit in units.clone() {
                let (unit, panel) = (unit / panels, unit % panels);
                let (group, place) = (unit / self.places(), unit % self.places());
                let panel = family.panels(self.s.d / self.s.groups).nth(panel).expect("exists");
                let chunk =
                    Chunk { rows: start..end, first: start == rows.start, group, place, panel };
                self.unit(&family, &chunk, x, dy, out, band);
            }
            start = end;
            if start >= rows.end {
                return;
            }
        }
    }

    /// Adds one chunk of rows to the sums of one window place and panel.
    fn unit(
        &self,
        family: &Family,
        chunk: &Chunk,
        x: &[f32],
        dy: &[f32],
        out: *mut f32,
        band: &mut [f32],
    ) {
        let s = &self.s;
        let (cg, dg) = (s.c / s.groups, s.d / s.groups);
        let (kh, kw) =
            if self.merged { (chunk.place, 0) } else { (chunk.place / s.kw, chunk.place % s.kw) };
        // Output columns whose window place lies on the map.
        let cols = if self.merged { 0..s.ow } else { on_map(s.ow, s.sw, s.left, kw * s.dw, s.w) };
        let mut taps = [Tap { a: 0, b: 0 }; MAX_ROWS];
        let mut ntaps = 0;
        let k;
        let mut a = x.as_ptr();
        if self.flat {
            k = chunk.rows.len() * s.ow;
            taps[0] = Tap {
                a: (chunk.rows.start * s.w * s.c + chunk.group * cg) as isize,
                b: (chunk.rows.start * s.ow * s.d) as isize,
            };
            ntaps = usize::from(k > 0);
        } else {
            k = cols.len();
            if self.padded {
                a = band.as_ptr();
            }
            for row in chunk.rows.clone() {
                let (p, oy) = (row / s.oh, row % s.oh);
                let Some(y) = (oy * s.sh + kh * s.dh).checked_sub(s.top).filter(|&y| y < s.h)
                else {
                    continue;
                };
                if k == 0 {
                    break;
                }
                let source = (p * s.h + y) * s.w;
                let at = if self.padded {
                    let line = &mut band[ntaps * self.band_pitch()..][..self.band_pitch()];
                    self.pad_row(&x[source * s.c..][..s.w * s.c], line);
                    ntaps * self.band_pitch()
                } else {
                    let column =
                        if self.merged { 0 } else { cols.start * s.sw + kw * s.dw - s.left };
                    (source + column) * s.c + chunk.group * cg
                };
                taps[ntaps] = Tap { a: at as isize, b: ((row * s.ow + cols.start) * s.d) as isize };
                ntaps += 1;
            }
        }
        let filters = chunk.group * dg + chunk.panel.start;
        let channels = if self.merged { s.kw * s.c } else { cg };
        let place = if self.merged { kh * s.kw } else { kh * s.kw + kw };
        let mut tile = Tile {
            taps: taps.as_ptr(),
            ntaps,
            k,
            a,
            a_row: 0,
            a_px: 1,
            a_k: s.sw * s.c,
            b: dy[filters.min(dy.len())..].as_ptr(),
            b_k: s.d,
            c: out,
            c_row: 0,
            c_px: s.d,
            last: chunk.panel.last(),
            start: if chunk.first { Start::Zero } else { Start::Load },
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            clamp: None,
        };
        if ntaps == 0 && !chunk.first {
            return;
        }
        let blocks = Even::new(channels, family.pixels);
        for block in 0..blocks.parts {
            let m = blocks.range(block);
            // SAFETY: rows and columns were cut to the map (or copied to the band), so reads stay in
            // x, band and dy; `out` addresses this unit's part of dw.
            unsafe {
                tile.a = a.add(m.start);
                tile.c = out.add((place * cg + m.start) * s.d + filters);
                family.tile(1, m.len(), chunk.panel)(&tile);
            }
        }
    }

    /// One source row with the columns of padding that the window reaches.
    fn pad_row(&self, row: &[f32], line: &mut [f32]) {
        let s = &self.s;
        let left = (s.left * s.c).min(line.len());
        let (zero, rest) = line.split_at_mut(left);
        zero.fill(0.0);
        let n = rest.len().min(row.len());
        let (body, zero) = rest.split_at_mut(n);
        body.copy_from_slice(&row[..n]);
        zero.fill(0.0);
    }
}

/// What one call of [`Weights::unit`] covers.
struct Chunk {
    /// Output rows of the whole batch.
    rows: std::ops::Range<usize>,
    /// Whether sums start from zero.
    first: bool,
    group: usize,
    place: usize,
    panel: Panel,
}

/// Outputs `o` of `n` for which `o · step + offset − pad` lies in `0..size`.
fn on_map(n: usize, step: usize, pad: usize, offset: usize, size: usize) -> std::ops::Range<usize> {
    let first = pad.saturating_sub(offset).div_ceil(step).min(n);
    let end = (size + pad).saturating_sub(offset).div_ceil(step).min(n);
    first..end.max(first)
}
