//! Forward and backward-data: rows of tiles are transformed, multiplied and transformed back while they lie in a
//! thread's second cache.

use super::minimal::{MOST, Minimal};
use super::multiply::{Product, multiply, room, step};
use super::source::{Lines, each_kind, source_row as whole};
use super::transform::{self, Finish, Tiles};
use super::words::{Words, words};
use super::{Maps, pitch};
use crate::conv::Epilogue;
use crate::gemm::{Even, Family, Simd, fence};
use crate::isa::simd;
use crate::map::At;
use crate::norm::Source;
use crate::{Bf16, Ctx, Isa, Map, MapMut, SharedMut, cut};
use std::ops::Range;

/// Floats of transformed tiles of a thread, sources and sums, which lie in the second cache.
const CACHED: usize = cut(128 * 1024, 256);
/// Tiles that pass over the filters together at least, however many channels they have: more where the filters are more
/// than a share of the last cache.
const FEWEST: [usize; 2] = [cut(28, 4), cut(112, 4)];
/// Floats of that share.
const SHARED: usize = cut(768 * 1024, 4 * 1024);

/// A walk over maps `[n,h,w,c]`.
#[derive(Debug, Clone)]
pub(in crate::conv) struct WinogradWalk {
    maps: Maps,
    isa: Isa,
    /// Rows of tiles of an item at most.
    rows: usize,
    /// Filters are those of the forward pass, or transposed and turned by 180°.
    turned: bool,
}

impl WinogradWalk {
    /// A walk over such maps of a batch; with `turned` filters backward-data's.
    pub(super) fn new(maps: Maps, isa: Isa, batch: usize, turned: bool) -> Self {
        let each = maps.way.places() * (maps.words() + maps.d);
        let walk = WinogradWalk { maps, isa, rows: 1, turned };
        let tiles = (CACHED / each).max(FEWEST[usize::from(walk.pack_len() > SHARED)]);
        let (rows, columns) = maps.tiles();
        WinogradWalk { rows: (tiles / columns).min(batch * rows).max(1), ..walk }
    }

    /// Floats of the transformed filters, `[place][panel of two vectors][word of c][lane]`.
    pub fn pack_len(&self) -> usize {
        self.maps.filters(self.isa)
    }

    /// Floats from one place to the next, of transformed sources and of sums.
    fn places(&self) -> [usize; 2] {
        let tiles = room(Family::of(self.isa).lanes, self.rows * self.maps.tiles().1);
        // An odd number of lines, as in `pitch`.
        [self.maps.words(), self.maps.d].map(|channels| tiles * pitch(channels) + 16)
    }

    /// Floats of work space of a thread.
    pub fn scratch_len(&self) -> usize {
        let [v, m] = self.places();
        self.maps.way.places() * (v + m) + 16
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
                    words!(self.maps.way, cx.isa, pack_turned(filters: &[f32], c: usize, d: usize, panel: Range<usize>, out: *mut f32))
                } else {
                    words!(self.maps.way, cx.isa, pack_forward(filters: &[f32], c: usize, d: usize, panel: Range<usize>, out: *mut f32))
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
        let (rows, parts) = self.items(all, cx.pool.threads());
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
        cx.pool.run(all.div_ceil(rows) * parts.parts, &|item, worker| {
            // SAFETY: each worker has its own part of the scratch.
            let scratch = unsafe { scratch.slice(worker * each..(worker + 1) * each) };
            let (item, part) = (item / parts.parts, parts.range(item % parts.parts));
            let rows = item * rows..all.min((item + 1) * rows);
            let channels = (part.start * self.width(), self.maps.d.min(part.end * self.width()));
            self.item(rows, channels, src, pack, dst, finish, epilogue, scratch);
            if stream {
                fence();
            }
        });
    }

    /// Channels of a panel of filters.
    fn width(&self) -> usize {
        2 * Family::of(self.isa).lanes
    }

    /// Rows of an item, and the parts of its panels of filters, that keep all threads busy longest: tiles are computed in
    /// rounded numbers, each item reads its filters, which takes as long as `FILTERS` tiles, and transforms its sources,
    /// which takes as long as `SOURCES` numbers of a tile's output.
    fn items(&self, all: usize, threads: usize) -> (usize, Even) {
        const FILTERS: f64 = 5.0;
        const SOURCES: f64 = 4.0;
        let (lanes, panels) = (Family::of(self.isa).lanes, self.maps.d.div_ceil(self.width()));
        let step = step(lanes, if self.maps.d > lanes { 2 } else { 1 });
        let time = |&(rows, parts): &(usize, usize)| {
            let tiles = rows * self.maps.tiles().1;
            let share = panels.div_ceil(parts) as f64 / panels as f64;
            let products = share * (tiles.next_multiple_of(step) as f64 + FILTERS);
            let sources = SOURCES / self.maps.d as f64 * tiles as f64;
            (all.div_ceil(rows) * parts).div_ceil(threads) as f64 * (products + sources)
        };
        let parts = || (0..).map(|i| 1 << i).take_while(|&parts| parts <= panels.min(threads));
        let rows = (1..=self.rows.min(all.max(1))).rev();
        let best = rows.flat_map(|rows| parts().map(move |parts| (rows, parts)));
        let (rows, parts) = best.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or((1, 1));
        (rows, Even::parts(panels, parts))
    }

    /// Some rows of tiles, counted over all pictures, and channels of the output.
    fn item(
        &self,
        rows: Range<usize>,
        channels: (usize, usize),
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
        let skip = scratch.as_ptr().align_offset(64).min(16);
        let (v, m) = scratch[skip..].split_at_mut(maps.way.places() * v_place);
        let v = Tiles { at: v.as_mut_ptr(), place: v_place, tile: pitch(maps.words()) };
        let m = Tiles { at: m.as_mut_ptr(), place: m_place, tile: pitch(maps.d) };
        for (i, row) in rows.clone().enumerate() {
            let lines = Lines::new(maps, src, row, 0..maps.c);
            let to = Tiles { at: v.at.wrapping_add(i * columns * v.tile), ..v };
            // SAFETY: the map holds what the lines say is there; `v` has room for all rows of an item.
            unsafe {
                words!(self.maps.way, isa, source_row(lines: Lines, columns: usize, to: Tiles))
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
            u_place: maps.filters(isa) / maps.way.places(),
            m: m.at,
            m_place,
            m_tile: m.tile,
            tiles: rows.len() * columns,
            c: maps.words(),
            d: channels,
        };
        let product = &product;
        // SAFETY: places have room for rounded tiles of padded channels, the pack for whole vectors.
        unsafe { words!(self.maps.way, isa, product_body(product: &Product)) };
        for (i, row) in rows.enumerate() {
            let (at, lines) = self.output_rows(row);
            let of = |v: Option<&[f32]>| {
                std::array::from_fn(|r| match v {
                    Some(v) if r < lines => v[at + r * maps.out_w * maps.d..].as_ptr(),
                    _ => std::ptr::null(),
                })
            };
            let finish = Finish {
                bias: epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
                residual: of(epilogue.residual.map(Map::full)),
                clamp: epilogue.clamp,
                channels,
                accumulate,
                stream,
            };
            let out: [*mut f32; MOST] = std::array::from_fn(|r| match r < lines {
                true => dst.address(at + r * maps.out_w * maps.d),
                false => std::ptr::null_mut(),
            });
            let from = Tiles { at: m.at.wrapping_add(i * columns * m.tile), ..m };
            let (width, d) = (maps.out_w, maps.d);
            // SAFETY: the rows lie on the map; items have rows of their own.
            unsafe {
                if dst.is_half() {
                    let out = out.map(<*mut f32>::cast::<Bf16>);
                    words!(maps.way, isa, output_halves(from: Tiles, columns: usize, out: [*mut Bf16; MOST], width: usize, d: usize, finish: Finish))
                } else {
                    words!(maps.way, isa, output_row(from: Tiles, columns: usize, out: [*mut f32; MOST], width: usize, d: usize, finish: Finish))
                }
            }
        }
    }

    /// Where the output rows of a row of tiles begin, and how many there are.
    fn output_rows(&self, row: usize) -> (usize, usize) {
        let maps = &self.maps;
        let (p, y) = (row / maps.tiles().0, row % maps.tiles().0 * maps.way.step());
        ((p * maps.out_h + y) * maps.out_w * maps.d, maps.way.step().min(maps.out_h - y))
    }
}

#[inline(always)]
unsafe fn source_row<W: Words>(lines: Lines, n: usize, to: Tiles) {
    // SAFETY: the caller's.
    unsafe { each_kind!(lines, whole::<W>(lines, n, to)) }
}

#[inline(always)]
unsafe fn product_body<W: Words>(p: &Product) {
    // SAFETY: the caller's.
    unsafe { multiply::<W>(p) }
}

#[inline(always)]
unsafe fn output_row<W: Words>(
    from: Tiles,
    n: usize,
    rows: [*mut f32; MOST],
    width: usize,
    d: usize,
    f: Finish,
) {
    // SAFETY: the caller's.
    unsafe { transform::output_row::<W::S, W::F, f32>(from, n, rows, width, d, f) }
}

#[inline(always)]
unsafe fn output_halves<W: Words>(
    from: Tiles,
    n: usize,
    rows: [*mut Bf16; MOST],
    width: usize,
    d: usize,
    f: Finish,
) {
    // SAFETY: the caller's.
    unsafe { transform::output_row::<W::S, W::F, Bf16>(from, n, rows, width, d, f) }
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
                let first = transform::filters::<W::S, W::F>(from, 3 * step, step, m);
                let mut second = [[W::S::splat(0.0); MOST]; MOST];
                if W::NUMBERS == 2 && channel + 1 < c {
                    second = transform::filters::<W::S, W::F>(from.add(d), 3 * step, step, m);
                }
                let to = out.add(words * panel.start + word * width + lane);
                for r in 0..W::F::SIDE {
                    for k in 0..W::F::SIDE {
                        let to = to.add((r * W::F::SIDE + k) * place);
                        W::join(to, first[r][k], second[r][k]);
                    }
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
    const LANES: usize = 16;
    let (vector, words) = (W::S::LANES, c.div_ceil(W::NUMBERS));
    let place = words * d.next_multiple_of(vector);
    let width = panel.len().next_multiple_of(vector);
    let step = (c * d) as isize;
    // Filters in the lanes, then transposed block by block; behind them a row of zeros.
    let mut block = [[[0.0f32; LANES]; LANES]; MOST * MOST];
    let mut turned = [[0.0f32; LANES]; LANES + 1];
    let places = W::F::SIDE * W::F::SIDE;
    for lanes in (0..width).step_by(vector) {
        let used = (panel.len() - lanes).min(vector);
        for from in (0..c).step_by(vector) {
            let n = (c - from).min(vector);
            // SAFETY: masks end with the filters; panels and channels lie within `filters` and `out`.
            unsafe {
                let m = W::S::mask(n);
                for lane in 0..used {
                    let at = filters.as_ptr().add((panel.start + lanes + lane) * c + from);
                    let at = at.add(8 * c * d);
                    let all = transform::filters::<W::S, W::F>(at, -3 * step, -step, m);
                    for r in 0..W::F::SIDE {
                        for k in 0..W::F::SIDE {
                            W::S::store(block[r * W::F::SIDE + k][lane].as_mut_ptr(), all[r][k]);
                        }
                    }
                }
                let at = words * panel.start + from / W::NUMBERS * width + lanes;
                for (k, block) in block[..places].iter().enumerate() {
                    for (i, row) in turned[..n].iter_mut().enumerate() {
                        for (lane, v) in row.iter_mut().enumerate() {
                            *v = if lane < used { block[lane][i] } else { 0.0 };
                        }
                    }
                    turned[n] = [0.0; LANES];
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
