//! Backward-weights: tiles of both maps are transformed, a chunk at a time; each place then sums the products of
//! all tiles of the chunk.

use super::multiply::{Outer, add_outer, channels};
use super::transform::{self, Tiles};
use super::walk::Band;
use super::{Maps, PLACES, SIDE, STEP, costs, pitch};
use crate::conv::ConvShape;
use crate::gemm::{Even, Family, Simd};
use crate::isa::simd;
use crate::norm::Source;
use crate::{Ctx, Isa, SharedMut, cut};
use std::ops::Range;

/// Floats of the transformed tiles of a chunk: they and the sums pass through the caches.
const CHUNK: usize = cut(256 * 1024, 2 * 1024);
/// Floats of sums from which reading and writing them takes so long that chunks have as many.
const MANY: usize = 2 << 20;

/// Floats behind the last tile: channels are read in whole blocks.
const SLACK: usize = 16;

/// `dw [3,3,c,d] = Σ over pictures and pixels of x · dy`.
#[derive(Debug, Clone)]
pub(in crate::conv) struct WinogradWeights {
    maps: Maps,
    isa: Isa,
    /// Rows of tiles of a chunk.
    rows: usize,
}

impl WinogradWeights {
    pub fn new(s: &ConvShape, isa: Isa, batch: usize) -> Self {
        let maps = Maps::forward(s);
        let (rows, columns) = maps.tiles();
        let each = columns * PLACES * (pitch(s.c) + pitch(s.d));
        let walk = WinogradWeights { maps, isa, rows: 1 };
        let chunk = if walk.sums_len() < MANY { CHUNK } else { walk.sums_len() };
        WinogradWeights { rows: (chunk / each).clamp(1, (batch * rows).max(1)), ..walk }
    }

    /// Whether it takes less time than the direct sum, for `n` pictures. Chunks pass through the last cache.
    pub fn pays(&self, n: usize) -> bool {
        let (direct, winograd) = costs(&self.maps, self.isa, n, true);
        let (rows, columns) = self.maps.tiles();
        let lines = (PLACES * (pitch(self.maps.c) + pitch(self.maps.d)) / 16) as f64;
        winograd + (n * rows * columns) as f64 * 6.0 * lines < direct
    }

    /// Floats from one place to the next, of transformed sources and gradients.
    fn places(&self) -> [usize; 2] {
        let tiles = self.rows * self.maps.tiles().1;
        [self.maps.c, self.maps.d].map(|channels| tiles * pitch(channels) + 16)
    }

    /// Floats of the sums of all places.
    fn sums_len(&self) -> usize {
        PLACES * self.maps.c * Family::of(self.isa).padded(self.maps.d)
    }

    /// Floats of work space of all threads.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let [v, z] = self.places();
        PLACES * (v + z) + SLACK + self.sums_len() + 16 + threads * self.maps.band_len()
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
        let (maps, isa) = (&self.maps, self.isa);
        let (tile_rows, columns) = maps.tiles();
        let [v_place, z_place] = self.places();
        assert!(scratch.len() >= self.scratch_len(cx.pool.threads()), "scratch is too short");
        let skip = scratch.as_ptr().align_offset(64).min(16);
        let (sums, rest) = scratch[skip..].split_at_mut(self.sums_len());
        let (v, rest) = rest.split_at_mut(PLACES * v_place);
        let (z, rest) = rest.split_at_mut(PLACES * z_place);
        let bands = &mut rest[SLACK..];
        let v = Shared(Tiles { at: v.as_mut_ptr(), place: v_place, tile: pitch(maps.c) });
        let z = Shared(Tiles { at: z.as_mut_ptr(), place: z_place, tile: pitch(maps.d) });
        let padded = Family::of(isa).padded(maps.d);
        let sums = SharedMut::new(sums);
        let chunks = Even::new(n * tile_rows, self.rows);
        for chunk in 0..chunks.parts {
            let rows = chunks.range(chunk);
            self.transform(cx, rows.clone(), x, dy, v, z, bands);
            let each = channels(Family::of(isa).lanes, maps.c);
            let blocks = Even::parts(maps.c.div_ceil(each), 2);
            cx.pool.run(PLACES * blocks.parts, &|item, _| {
                let place = item / blocks.parts;
                let block = blocks.range(item % blocks.parts);
                let c = block.start * each..(block.end * each).min(maps.c);
                if c.is_empty() {
                    return;
                }
                let (Shared(v), Shared(z)) = (v, z);
                let outer = Outer {
                    v: v.at.wrapping_add(place * v.place + c.start),
                    v_tile: v.tile,
                    z: z.at.wrapping_add(place * z.place),
                    z_tile: z.tile,
                    w: sums.as_mut_ptr().wrapping_add((place * maps.c + c.start) * padded),
                    w_row: padded,
                    tiles: rows.len() * columns,
                    c: c.len(),
                    load: chunk > 0,
                };
                let outer = &outer;
                // SAFETY: all tiles of the chunk are transformed; items have sums of their own.
                unsafe { simd!(isa, outer_body(outer: &Outer)) };
            });
        }
        self.finish(cx, &sums, dw);
    }

    /// Both maps' tiles of some rows of tiles.
    fn transform(
        &self,
        cx: Ctx,
        rows: Range<usize>,
        x: Source,
        dy: &[f32],
        v: Shared,
        z: Shared,
        bands: &mut [f32],
    ) {
        let (maps, isa) = (&self.maps, self.isa);
        let (tile_rows, columns) = maps.tiles();
        let band_len = maps.band_len();
        let bands = SharedMut::new(bands);
        // Neighbouring rows together, since they share sources.
        let items = Even::new(rows.len(), 8);
        cx.pool.run(items.parts, &|item, worker| {
            let (Shared(v), Shared(z)) = (v, z);
            // SAFETY: each worker has its own band.
            let band = unsafe { bands.slice(worker * band_len..(worker + 1) * band_len) };
            let mut band = Band { maps, band, last: None };
            for i in items.range(item) {
                let row = rows.start + i;
                let lines = band.fill(isa, x, row);
                let to = Tiles { at: v.at.wrapping_add(i * columns * v.tile), ..v };
                let (c, d, width) = (maps.c, maps.d, maps.out_w);
                let (p, y) = (row / tile_rows, row % tile_rows * STEP);
                let gradients = [0, 1].map(|r| match y + r < maps.out_h {
                    true => dy[(p * maps.out_h + y + r) * width * d..][..width * d].as_ptr(),
                    false => std::ptr::null(),
                });
                let z = Tiles { at: z.at.wrapping_add(i * columns * z.tile), ..z };
                // SAFETY: the rows hold the tiles' pixels; both operands have room for a chunk.
                unsafe {
                    simd!(isa, transform_rows(lines: [*const f32; SIDE], gradients: [*const f32; STEP], width: usize, c: usize, d: usize, columns: usize, to: Tiles, z: Tiles))
                }
            }
        });
    }

    /// The sums' way back to filters.
    fn finish(&self, cx: Ctx, sums: &SharedMut<f32>, dw: &mut [f32]) {
        let Maps { c, d, .. } = self.maps;
        assert!(dw.len() >= 9 * c * d, "filters' gradient is too short");
        let dw = SharedMut::new(dw);
        let items = Even::new(c, 16);
        cx.pool.run(items.parts, &|item, _| {
            let (from, to) = (sums.as_mut_ptr().cast_const(), dw.as_mut_ptr());
            let range = items.range(item);
            // SAFETY: items have channels of their own.
            unsafe {
                simd!(self.isa, finish_body(from: *const f32, c: usize, d: usize, range: Range<usize>, to: *mut f32))
            }
        });
    }
}

/// Tiles that threads write parts of.
#[derive(Clone, Copy)]
struct Shared(Tiles);

// SAFETY: a place in memory; who writes what is said where it is used.
unsafe impl Sync for Shared {}

#[inline(always)]
unsafe fn outer_body<S: Simd>(p: &Outer) {
    // SAFETY: the caller's.
    unsafe { add_outer::<S>(p) }
}

#[inline(always)]
unsafe fn transform_rows<S: Simd>(
    x: [*const f32; SIDE],
    dy: [*const f32; STEP],
    width: usize,
    c: usize,
    d: usize,
    n: usize,
    v: Tiles,
    z: Tiles,
) {
    // SAFETY: the caller's.
    unsafe {
        transform::source_row::<S>(x, c, n, v);
        transform::gradient_row::<S>(dy, width, d, n, z);
    }
}

#[inline(always)]
unsafe fn finish_body<S: Simd>(
    sums: *const f32,
    c: usize,
    d: usize,
    range: Range<usize>,
    dw: *mut f32,
) {
    let padded = d.next_multiple_of(S::LANES);
    // SAFETY: the caller's.
    unsafe {
        for channel in range {
            for at in (0..d).step_by(S::LANES) {
                let m = S::mask((d - at).min(S::LANES));
                let from = sums.add(channel * padded + at);
                let window = transform::filter_gradients::<S>(from, c * padded);
                for y in 0..3 {
                    for x in 0..3 {
                        let to = dw.add(((y * 3 + x) * c + channel) * d + at);
                        S::store_first(to, window[y][x], m);
                    }
                }
            }
        }
    }
}
