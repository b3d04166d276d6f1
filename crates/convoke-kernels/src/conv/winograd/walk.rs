//! Forward and backward-data: rows of tiles are transformed, multiplied and transformed back while they lie in a
//! thread's second cache.

use super::multiply::{Product, multiply, round};
use super::transform::{self, Finish, Tiles};
use super::words::{Words, words};
use super::{Maps, PLACES, SIDE, STEP, costs, pitch, words_of};
use crate::conv::{ConvShape, Epilogue};
use crate::gemm::{Family, Simd, fence};
use crate::isa::simd;
use crate::map::{At, Number};
use crate::norm::Source;
use crate::{Bf16, Ctx, Isa, Map, MapMut, SharedMut, cut};
use std::ops::Range;

/// Floats of transformed tiles of a thread, sources and sums, which lie in the second cache.
const CACHED: usize = cut(128 * 1024, 256);
/// Tiles that pass over the filters together at least, however many channels they have.
const FEWEST: usize = cut(112, 4);

/// A walk over maps `[n,h,w,c]`.
#[derive(Debug, Clone)]
pub(in crate::conv) struct WinogradWalk {
    maps: Maps,
    isa: Isa,
    /// Rows of tiles of an item at most.
    rows: usize,
    /// Filters are those of the forward pass, or transposed and turned by 180°.
    turned: bool,
    /// Products of pairs of bf16.
    pairs: bool,
}

impl WinogradWalk {
    pub fn forward(s: &ConvShape, isa: Isa, pairs: bool) -> Self {
        Self::new(Maps::forward(s), isa, false, pairs)
    }

    pub fn backward_data(s: &ConvShape, isa: Isa, pairs: bool) -> Self {
        Self::new(Maps::backward(s), isa, true, pairs)
    }

    fn new(maps: Maps, isa: Isa, turned: bool, pairs: bool) -> Self {
        let tiles = (CACHED / (PLACES * (words_of(maps.c, pairs) + maps.d))).max(FEWEST);
        WinogradWalk { rows: (tiles / maps.tiles().1).max(1), maps, isa, turned, pairs }
    }

    /// Words of a sum.
    fn words(&self) -> usize {
        words_of(self.maps.c, self.pairs)
    }

    /// Whether it takes less time than the direct sum, for `n` pictures; `pack`: filters are packed each time.
    pub fn pays(&self, n: usize, pack: bool) -> bool {
        let (direct, winograd) = costs(&self.maps, self.isa, n, pack, self.pairs);
        winograd < direct
    }

    /// Floats of the transformed filters, `[place][panel of two vectors][word of c][lane]`.
    pub fn pack_len(&self) -> usize {
        PLACES * self.words() * Family::of(self.isa).padded(self.maps.d)
    }

    /// Floats from one place to the next, of transformed sources and of sums.
    fn places(&self) -> [usize; 2] {
        let tiles =
            (self.rows * self.maps.tiles().1).next_multiple_of(round(Family::of(self.isa).lanes));
        // An odd number of lines, as in `pitch`.
        [self.words(), self.maps.d].map(|channels| tiles * pitch(channels) + 16)
    }

    /// Floats of work space of a thread.
    pub fn scratch_len(&self) -> usize {
        let [v, m] = self.places();
        self.maps.band_len().next_multiple_of(16) + PLACES * (v + m) + 16
    }

    /// Transforms `filters [3,3,c,d]` of the convolution.
    pub fn pack(&self, cx: Ctx, filters: &[f32], pack: &mut [f32]) {
        let Maps { c, d, .. } = self.maps;
        assert!(filters.len() >= 9 * c * d, "filters are too short");
        assert!(pack.len() >= self.pack_len(), "pack is too short");
        let lanes = Family::of(self.isa).lanes;
        let (turned, pack) = (self.turned, SharedMut::new(pack));
        cx.pool.run(d.div_ceil(2 * lanes), &|panel, _| {
            let panel = panel * 2 * lanes..d.min((panel + 1) * 2 * lanes);
            let out = pack.as_mut_ptr();
            // SAFETY: items have panels of their own; `pack` holds all places of all panels.
            unsafe {
                if turned {
                    words!(self.pairs, cx.isa, pack_turned(filters: &[f32], c: usize, d: usize, panel: Range<usize>, out: *mut f32))
                } else {
                    words!(self.pairs, cx.isa, pack_forward(filters: &[f32], c: usize, d: usize, panel: Range<usize>, out: *mut f32))
                }
            }
        });
    }

    /// `dst [n,out_h,out_w,d] (+)= epilogue(src [n,src_h,src_w,c] ∗ filters)`.
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
        let all = n * self.maps.tiles().0;
        let rows = self.rows_of_items(all, cx.pool.threads());
        let each = self.scratch_len();
        assert!(pack.len() >= self.pack_len(), "packed filters are too short");
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
        cx.pool.run(all.div_ceil(rows), &|item, worker| {
            // SAFETY: each worker has its own part of the scratch.
            let scratch = unsafe { scratch.slice(worker * each..(worker + 1) * each) };
            let rows = item * rows..all.min((item + 1) * rows);
            self.item(rows, src, pack, dst, finish, epilogue, scratch);
            if stream {
                fence();
            }
        });
    }

    /// Rows of an item that keep all threads busy longest: tiles are computed in rounded numbers, and each item
    /// reads all filters, which takes as long as `FILTERS` tiles.
    fn rows_of_items(&self, all: usize, threads: usize) -> usize {
        const FILTERS: usize = 5;
        let lanes = Family::of(self.isa).lanes;
        let step = if self.maps.d > lanes { round(lanes) / 2 } else { round(lanes) };
        let time = |rows: usize| {
            let tiles = (rows * self.maps.tiles().1).next_multiple_of(step);
            all.div_ceil(rows).div_ceil(threads) * (tiles + FILTERS)
        };
        (1..=self.rows.min(all.max(1))).rev().min_by_key(|&rows| time(rows)).unwrap_or(1)
    }

    /// Some rows of tiles, counted over all pictures.
    fn item(
        &self,
        rows: Range<usize>,
        src: Source,
        pack: &[f32],
        dst: At,
        (accumulate, stream): (bool, bool),
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        let (maps, isa) = (&self.maps, self.isa);
        let columns = maps.tiles().1;
        let [v_place, m_place] = self.places();
        let (band, rest) = scratch.split_at_mut(maps.band_len().next_multiple_of(16));
        let skip = rest.as_ptr().align_offset(64).min(16);
        let (v, m) = rest[skip..].split_at_mut(PLACES * v_place);
        let v = Tiles { at: v.as_mut_ptr(), place: v_place, tile: pitch(self.words()) };
        let m = Tiles { at: m.as_mut_ptr(), place: m_place, tile: pitch(maps.d) };
        let mut band = Band { maps, band, last: None };
        for (i, row) in rows.clone().enumerate() {
            let lines = band.fill(isa, src, row);
            let to = Tiles { at: v.at.wrapping_add(i * columns * v.tile), ..v };
            let c = maps.c;
            // SAFETY: the band's rows hold the tiles' pixels; `v` has room for all rows of an item.
            unsafe {
                words!(self.pairs, isa, source_row(lines: [*const f32; SIDE], c: usize, columns: usize, to: Tiles))
            }
        }
        let (first, _) = self.output_rows(rows.start);
        let (last, lines) = self.output_rows(rows.end - 1);
        let product = Product {
            ahead: dst.address(first),
            ahead_len: match stream {
                true => 0,
                false => dst.floats(last - first + lines * maps.out_w * maps.d),
            },
            v: v.at,
            v_place,
            v_tile: v.tile,
            u: pack.as_ptr(),
            m: m.at,
            m_place,
            m_tile: m.tile,
            tiles: rows.len() * columns,
            c: self.words(),
            d: maps.d,
        };
        let product = &product;
        // SAFETY: places have room for rounded tiles of padded channels, the pack for whole vectors.
        unsafe { words!(self.pairs, isa, product_body(product: &Product)) };
        for (i, row) in rows.enumerate() {
            let (at, lines) = self.output_rows(row);
            let of = |v: Option<&[f32]>| {
                [0, 1].map(|r| match v {
                    Some(v) if r < lines => v[at + r * maps.out_w * maps.d..].as_ptr(),
                    _ => std::ptr::null(),
                })
            };
            let finish = Finish {
                bias: epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
                residual: of(epilogue.residual.map(Map::full)),
                clamp: epilogue.clamp,
                accumulate,
                stream,
            };
            let out = [0, 1].map(|r| match r < lines {
                true => dst.address(at + r * maps.out_w * maps.d),
                false => std::ptr::null_mut(),
            });
            let from = Tiles { at: m.at.wrapping_add(i * columns * m.tile), ..m };
            let (width, d) = (maps.out_w, maps.d);
            if dst.is_half() {
                let out = out.map(<*mut f32>::cast::<Bf16>);
                // SAFETY: the rows lie on the map; items have rows of their own.
                unsafe {
                    simd!(isa, output_row::<N>(from: Tiles, columns: usize, out: [*mut N; STEP], width: usize, d: usize, finish: Finish))
                }
            } else {
                // SAFETY: as above.
                unsafe {
                    simd!(isa, output_row::<N>(from: Tiles, columns: usize, out: [*mut N; STEP], width: usize, d: usize, finish: Finish))
                }
            }
        }
    }

    /// Where the output rows of a row of tiles begin, and how many there are.
    fn output_rows(&self, row: usize) -> (usize, usize) {
        let maps = &self.maps;
        let (p, y) = (row / maps.tiles().0, row % maps.tiles().0 * STEP);
        ((p * maps.out_h + y) * maps.out_w * maps.d, STEP.min(maps.out_h - y))
    }
}

#[inline(always)]
unsafe fn source_row<W: Words>(rows: [*const f32; SIDE], c: usize, n: usize, to: Tiles) {
    // SAFETY: the caller's.
    unsafe { transform::source_row::<W>(rows, c, c, n, to) }
}

#[inline(always)]
unsafe fn product_body<W: Words>(p: &Product) {
    // SAFETY: the caller's.
    unsafe { multiply::<W>(p) }
}

#[inline(always)]
unsafe fn output_row<S: Simd, N: Number>(
    from: Tiles,
    n: usize,
    rows: [*mut N; STEP],
    width: usize,
    d: usize,
    f: Finish,
) {
    // SAFETY: the caller's.
    unsafe { transform::output_row::<S, N>(from, n, rows, width, d, f) }
}

/// Copies of source rows, with their padding and norm: the four under a row of tiles, of which the next row of
/// tiles reads two again.
pub(super) struct Band<'a> {
    pub maps: &'a Maps,
    pub band: &'a mut [f32],
    /// The row of tiles whose sources lie here.
    pub last: Option<usize>,
}

impl Band<'_> {
    /// The source rows under a row of tiles, counted over all pictures.
    pub fn fill(&mut self, isa: Isa, src: Source, row: usize) -> [*const f32; SIDE] {
        let maps = self.maps;
        let tile_rows = maps.tiles().0;
        let (p, first) = (row / tile_rows, row % tile_rows * STEP);
        let known = match self.last {
            Some(last) if last + 1 == row && first > 0 => SIDE - STEP,
            _ => 0,
        };
        self.last = Some(row);
        let line = maps.band_w() * maps.c;
        for y in first + known..first + SIDE {
            self.copy(isa, src, p, y, y % SIDE * line);
        }
        [0, 1, 2, 3].map(|r| self.band[(first + r) % SIDE * line..].as_ptr())
    }

    /// Row `y` counted from the padding's first.
    fn copy(&mut self, isa: Isa, src: Source, picture: usize, y: usize, at: usize) {
        let Maps { src_h, src_w, top, left, c, .. } = *self.maps;
        let line = &mut self.band[at..at + self.maps.band_w() * c];
        let Some(y) = y.checked_sub(top).filter(|&y| y < src_h) else { return line.fill(0.0) };
        let copied = src_w.min(self.maps.band_w() - left);
        let (zero, rest) = line.split_at_mut(left * c);
        let (body, end) = rest.split_at_mut(copied * c);
        zero.fill(0.0);
        end.fill(0.0);
        let from = (picture * src_h + y) * src_w * c;
        src.copy(isa, from..from + copied * c, body);
    }
}

/// `u [place][panel][word of c][lane]` of a panel of `filters [3,3,c,d]`: lanes are filters.
#[inline(always)]
unsafe fn pack_forward<W: Words>(
    filters: &[f32],
    c: usize,
    d: usize,
    panel: Range<usize>,
    out: *mut f32,
) {
    let (lanes, words) = (W::S::LANES, c.div_ceil(W::NUMBERS));
    let place = words * d.next_multiple_of(lanes);
    let width = panel.len().next_multiple_of(lanes);
    let step = (c * d) as isize;
    // SAFETY: masks end with the panel, which lies within a row of `d` filters; the rest is the caller's.
    unsafe {
        for word in 0..words {
            let channel = word * W::NUMBERS;
            for lane in (0..width).step_by(lanes) {
                let m = W::S::mask((panel.len() - lane).min(lanes));
                let from = filters.as_ptr().add(channel * d + panel.start + lane);
                let first = transform::filters::<W::S>(from, 3 * step, step, m);
                let mut second = [W::S::splat(0.0); PLACES];
                if W::NUMBERS == 2 && channel + 1 < c {
                    second = transform::filters::<W::S>(from.add(d), 3 * step, step, m);
                }
                let to = out.add(words * panel.start + word * width + lane);
                for k in 0..PLACES {
                    W::join(to.add(k * place), first[k], second[k]);
                }
            }
        }
    }
}

/// The same for backward-data: lanes are a panel of the `d` input channels, the sum runs over `c` filters, of
/// `filters [3,3,d,c]` turned by 180°.
#[inline(always)]
unsafe fn pack_turned<W: Words>(
    filters: &[f32],
    c: usize,
    d: usize,
    panel: Range<usize>,
    out: *mut f32,
) {
    const MOST: usize = 16;
    let (vector, words) = (W::S::LANES, c.div_ceil(W::NUMBERS));
    let place = words * d.next_multiple_of(vector);
    let width = panel.len().next_multiple_of(vector);
    let step = (c * d) as isize;
    // Filters in the lanes, then transposed block by block; behind them a row of zeros.
    let mut block = [[[0.0f32; MOST]; MOST]; PLACES];
    let mut turned = [[0.0f32; MOST]; MOST + 1];
    for lanes in (0..width).step_by(vector) {
        let used = (panel.len() - lanes).min(vector);
        for from in (0..c).step_by(vector) {
            let n = (c - from).min(vector);
            // SAFETY: masks end with the filters; panels and channels lie within `filters` and `out`.
            unsafe {
                let m = W::S::mask(n);
                for lane in 0..used {
                    let at = filters.as_ptr().add((panel.start + lanes + lane) * c + from);
                    let all = transform::filters::<W::S>(at.add(8 * c * d), -3 * step, -step, m);
                    for k in 0..PLACES {
                        W::S::store(block[k][lane].as_mut_ptr(), all[k]);
                    }
                }
                let at = words * panel.start + from / W::NUMBERS * width + lanes;
                for (k, block) in block.iter().enumerate() {
                    for (i, row) in turned[..n].iter_mut().enumerate() {
                        for (lane, v) in row.iter_mut().enumerate() {
                            *v = if lane < used { block[lane][i] } else { 0.0 };
                        }
                    }
                    turned[n] = [0.0; MOST];
                    for i in (0..n).step_by(W::NUMBERS) {
                        let [first, second] = [0, W::NUMBERS - 1].map(|j| turned[i + j].as_ptr());
                        let to = out.add(k * place + at + i / W::NUMBERS * width);
                        W::join(to, W::S::load(first), W::S::load(second));
                    }
                }
            }
        }
    }
}
