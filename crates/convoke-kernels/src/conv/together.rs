//! The way back through a one-pixel convolution in one walk: a chunk of pixels' gradients is read once, in a cache, for
//! the gradients of input and filters. Where a norm follows the convolution, the last step of the way back through it is
//! made on the way ([`Behind`]), and its result never becomes a map.
//!
//! Pixels are cut into shards by shape alone, which sum the filters' gradients apart; shards are added in order.

use super::weights::chunk::{Ahead, add_shards};
use super::weights::copy::copy_last;
use super::{ConvShape, Onto};
use crate::gemm::{Even, Family, LINE, Start, Tap, Tile, fence, streams};
use crate::norm::{Behind, Source, Strip};
use crate::{Ctx, Isa, SharedMut, cut};
use std::ops::Range;

/// Shards at most.
const SHARDS: usize = 16;
/// Floats of a chunk's gradients, which lie in the second cache beside those that come next.
const CHUNK: usize = cut(24 * 1024, 256);
/// Pixels of a chunk: sums of the filters' gradients are read and written once a chunk.
const PIXELS: Range<usize> = cut(56, 4)..cut(224, 12);
/// Channels of the narrower map at most: tiles read a chunk again for every few of them.
const CHANNELS: usize = cut(64, 24);
/// Floats of the wider map from which reading it twice takes longer.
const LONG: usize = cut(1 << 20, 1);

/// One-pixel windows at stride 1 from or to few channels, over maps that no near cache keeps.
#[derive(Debug, Clone)]
pub(super) struct Together {
    s: ConvShape,
    isa: Isa,
    pub shards: usize,
    /// Pixels of a chunk.
    chunk: usize,
}

/// What the walk reads.
#[derive(Clone, Copy)]
struct Reads<'a> {
    x: Source<'a>,
    dy: &'a [f32],
    behind: Option<Behind<'a>>,
    /// The filters packed for backward-data.
    pack: &'a [f32],
}

/// What it writes of a shard.
struct Writes<'a> {
    dx: *mut f32,
    dw: *mut f32,
    onto: Onto<'a>,
    stream: bool,
    shard: usize,
}

impl Together {
    /// Where it takes less time than two walks.
    pub fn new(s: &ConvShape, isa: Isa, batch: usize) -> Option<Self> {
        let family = Family::of(isa);
        let one = (s.kh, s.kw, s.sh, s.sw, s.groups) == (1, 1, 1, 1, 1)
            && (s.oh, s.ow) == (s.h, s.w)
            && s.oh * s.ow > 1;
        let pixels = batch * s.oh * s.ow;
        let (few, many) = (s.c.min(s.d), s.c.max(s.d));
        if !one || few > CHANNELS || pixels * many < LONG {
            return None;
        }
        let chunk = (CHUNK / many).clamp(PIXELS.start, PIXELS.end);
        let chunk = chunk / family.pixels * family.pixels;
        let shards = (pixels / chunk).clamp(1, SHARDS);
        Some(Together { s: *s, isa, shards: 1 << shards.ilog2(), chunk: chunk.max(1) })
    }

    /// Floats from one pixel's gradients to the next where they are made in a cache: an odd number of lines.
    fn pitch(&self) -> usize {
        self.s.d.next_multiple_of(2 * LINE) + LINE
    }

    /// Where a chunk's gradients lie in whole vectors, and floats from one pixel's to the next.
    fn gradients(
        &self,
        first: usize,
        reads: &Reads,
        dy: &[f32],
        band: &mut [f32],
    ) -> (*const f32, usize) {
        let (d, padded) = (self.s.d, Family::of(self.isa).padded(self.s.d));
        if let Some(behind) = reads.behind {
            behind.make(self.isa, first, dy, band, self.pitch());
            return (band.as_ptr(), self.pitch());
        }
        if d == padded {
            return (dy.as_ptr(), d);
        }
        copy_last(self.isa, dy, d, d, &mut band[..dy.len() / d * padded]);
        (band.as_ptr(), padded)
    }

    /// Floats of a chunk's copied pixels, and of its gradients.
    fn bands(&self) -> [usize; 2] {
        [self.chunk * self.s.c.next_multiple_of(LINE), self.chunk * self.pitch()]
    }

    fn partial_len(&self) -> usize {
        if self.shards > 1 { self.shards * self.s.filter_len() } else { 0 }
    }

    /// Floats of work space of all threads.
    pub fn scratch_len(&self, threads: usize) -> usize {
        self.partial_len() + threads * self.bands().iter().sum::<usize>()
    }

    /// `dx [pixels,c] (+)= g · filtersᵀ` and `dw [c,d] = xᵀ · g`, where g is `dy [pixels,d]` or, with a norm behind, what
    /// that makes of it.
    pub fn run(
        &self,
        cx: Ctx,
        n: usize,
        (x, dy, behind): (Source, &[f32], Option<Behind>),
        pack: &[f32],
        (dx, onto): (&mut [f32], Onto),
        dw: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (s, pixels, len) = (&self.s, n * self.s.oh * self.s.ow, self.s.filter_len());
        assert!(scratch.len() >= self.scratch_len(cx.pool.threads()), "scratch is too short");
        assert!(pack.len() >= s.d * Family::of(self.isa).padded(s.c), "pack is too short");
        assert!(behind.is_none_or(|b| b.holds(pixels, s.d)), "the norm behind has too few numbers");
        let (dx, dw, dy) = (&mut dx[..pixels * s.c], &mut dw[..len], &dy[..pixels * s.d]);
        let fits = onto.tally.is_none_or(|t| t.fits(pixels, s.c, self.shards));
        assert!(fits, "not planned for these sums");
        let stream =
            !onto.accumulate && onto.tally.is_none() && streams(dx.as_ptr(), dx.len(), s.c);
        let (partials, bands) = scratch.split_at_mut(self.partial_len());
        let each = self.bands().iter().sum::<usize>();
        {
            let target = SharedMut::new(if self.shards > 1 { partials } else { &mut *dw });
            let (dx, bands) = (SharedMut::new(dx), SharedMut::new(bands));
            let shards = Even::parts(pixels, self.shards);
            let reads = Reads { x, dy, behind, pack };
            cx.pool.run(self.shards, &|shard, worker| {
                // SAFETY: each worker has its own band.
                let band = unsafe { bands.slice(worker * each..(worker + 1) * each) };
                // SAFETY: each shard has sums of its own.
                let dw = unsafe { target.as_mut_ptr().add(shard * len) };
                let to = Writes { dx: dx.as_mut_ptr(), dw, onto, stream, shard };
                self.shard(shards.range(shard), &reads, &to, band);
                if stream {
                    fence();
                }
            });
        }
        if self.shards > 1 {
            add_shards(cx, self.shards, &scratch[..self.partial_len()], dw);
        }
    }

    /// A shard's pixels, chunk by chunk.
    fn shard(&self, pixels: Range<usize>, reads: &Reads, to: &Writes, band: &mut [f32]) {
        let (s, [of_x, _]) = (&self.s, self.bands());
        let (x_band, g_band) = band.split_at_mut(of_x);
        let mut first = pixels.start;
        loop {
            let chunk = first..pixels.end.min(first + self.chunk);
            let x = match reads.x.norm {
                None => &reads.x.x.full()[chunk.start * s.c..chunk.end * s.c],
                Some(_) => {
                    let x = &mut x_band[..chunk.len() * s.c];
                    reads.x.copy(self.isa, chunk.start * s.c..chunk.end * s.c, x);
                    &*x
                }
            };
            let dy = &reads.dy[chunk.start * s.d..chunk.end * s.d];
            let g = self.gradients(chunk.start, reads, dy, g_band);
            let mut ahead =
                self.ahead(chunk.end..pixels.end.min(chunk.end + self.chunk), reads, to);
            self.weights(x, g, chunk.len(), first == pixels.start, to, &mut ahead);
            self.data(g, chunk.clone(), reads.pack, to, &mut ahead);
            if let Some(tally) = to.onto.tally {
                let here = to.dx.wrapping_add(chunk.start * s.c);
                let strip = Strip {
                    from: here.cast_const(),
                    from_row: s.c,
                    to: here,
                    to_row: s.c,
                    row: chunk.start,
                    rows: chunk.len(),
                    channel: 0,
                    channels: s.c,
                    shard: to.shard,
                    first: first == pixels.start,
                };
                // SAFETY: pixels and shard are this item's alone.
                unsafe { tally.strip(self.isa, &strip) };
            }
            first = chunk.end;
            if first >= pixels.end {
                break;
            }
        }
        if let Some(tally) = to.onto.tally {
            // SAFETY: the shard is this item's.
            unsafe { tally.count(to.shard, pixels.len()) };
        }
    }

    /// What the next chunk reads and writes.
    fn ahead(&self, next: Range<usize>, reads: &Reads, to: &Writes) -> Ahead<4> {
        let s = &self.s;
        let run = |map: *const f32, channels: usize| {
            (map.wrapping_add(next.start * channels), next.len() * channels)
        };
        let behind = reads.behind.map_or((std::ptr::null(), 0), |b| run(b.x.as_ptr(), s.d));
        let dx = match to.stream {
            true => (std::ptr::null(), 0),
            false => run(to.dx.cast_const(), s.c),
        };
        Ahead([run(reads.dy.as_ptr(), s.d), behind, run(reads.x.x.full().as_ptr(), s.c), dx])
    }

    /// Adds a chunk of `pixels` to a shard's sums.
    fn weights(
        &self,
        x: &[f32],
        (g, pitch): (*const f32, usize),
        pixels: usize,
        first: bool,
        to: &Writes,
        ahead: &mut Ahead<4>,
    ) {
        let (s, family) = (&self.s, Family::of(self.isa));
        let blocks = Even::new(s.c, family.pixels);
        for panel in family.panels(s.d) {
            for block in (0..blocks.parts).map(|i| blocks.range(i)) {
                let tile = Tile {
                    taps: &Tap { a: 0, b: 0 },
                    ntaps: 1,
                    k: pixels,
                    a: x[block.start.min(x.len())..].as_ptr(),
                    a_row: 0,
                    a_px: 1,
                    a_k: s.c,
                    b: g.wrapping_add(panel.start),
                    b_k: pitch,
                    c: to.dw.wrapping_add(block.start * s.d + panel.start),
                    c_row: 0,
                    c_px: s.d,
                    last: panel.last(),
                    start: if first { Start::Zero } else { Start::Load },
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                    clamp: None,
                    ahead: ahead.next(pixels * LINE),
                    ahead_k: LINE,
                    stream: false,
                };
                // SAFETY: x and g hold the chunk's pixels, g whole vectors; the sums are this shard's.
                unsafe { family.unit_tile(block.len(), panel)(&tile) };
            }
        }
    }

    /// The input's gradient at a chunk's pixels.
    fn data(
        &self,
        (g, pitch): (*const f32, usize),
        chunk: Range<usize>,
        pack: &[f32],
        to: &Writes,
        ahead: &mut Ahead<4>,
    ) {
        let (s, family) = (&self.s, Family::of(self.isa));
        let blocks = Even::new(chunk.len(), family.pixels);
        for panel in family.panels(s.c) {
            for block in (0..blocks.parts).map(|i| blocks.range(i)).filter(|b| !b.is_empty()) {
                let at = (chunk.start + block.start) * s.c + panel.start;
                let tile = Tile {
                    taps: &Tap { a: 0, b: 0 },
                    ntaps: 1,
                    k: s.d,
                    a: g.wrapping_add(block.start * pitch),
                    a_row: 0,
                    a_px: pitch,
                    a_k: 1,
                    b: pack[s.d * panel.start..].as_ptr(),
                    b_k: panel.width,
                    c: to.dx.wrapping_add(at),
                    c_row: 0,
                    c_px: s.c,
                    last: panel.last(),
                    start: if to.onto.accumulate { Start::Load } else { Start::Zero },
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                    clamp: None,
                    ahead: ahead.next(s.d * LINE),
                    ahead_k: LINE,
                    stream: to.stream,
                };
                // SAFETY: g holds the chunk's pixels, the pack whole vectors; the pixels are this shard's.
                unsafe { family.tile(1, block.len(), panel)(&tile) };
            }
        }
    }
}
