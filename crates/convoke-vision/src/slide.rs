//! A fully convolutional network slid over a whole picture.
//!
//! A network without padding gets a margin of mean colour around the picture, so that its window can be
//! centred on every pixel. Large pictures are walked in blocks that overlap by the receptive field, row of
//! blocks by row of blocks: the result is that of one pass, and memory stays bounded however large the
//! picture is. Canvas and blocks are multiples of the network's largest stride, so that padding falls on
//! the same side in all of them.

use crate::error::{Result, other};
use convoke_data::{Picture, Preprocess};
use convoke_engine::{Axis, Network, Plan, PlanOptions, Precision, Session, Shape};
use std::collections::HashMap;
use std::ops::Range;

/// How to slide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlideOptions {
    /// Threads; changes no result.
    pub threads: usize,
    /// Bytes that the network's memory may take; blocks are made as small as that needs. Small blocks overlap
    /// more: a page of 2048 × 1251 takes 1.2 s with 64 MiB and 0.75 s with 256 (2 cores, 2026).
    pub memory: usize,
    /// Whether blocks must give the bits of one pass. Without, windows of 3×3 take fewer products
    /// ([`Precision::F32`]): faster, and off by rounding.
    pub exact: bool,
}

impl Default for SlideOptions {
    fn default() -> Self {
        SlideOptions { threads: 1, memory: 256 << 20, exact: true }
    }
}

/// The network's output at every place where its window was put.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ScoreMap {
    /// The places.
    pub grid: Grid,
    /// The network's outputs, `[height, width, channels]`.
    pub values: Vec<f32>,
}

/// Where pixels come from, a band of rows at a time. Bands are asked for from top to bottom and may overlap
/// the one before.
pub trait Bands {
    /// Width, height and channels.
    fn size(&self) -> (usize, usize, usize);

    /// A picture of the same width that holds the rows, and the row that is its first.
    ///
    /// # Errors
    /// When they cannot be read.
    fn band(&mut self, rows: Range<usize>) -> Result<(&Picture, usize)>;
}

/// A picture in memory.
impl Bands for &Picture {
    fn size(&self) -> (usize, usize, usize) {
        (self.width, self.height, self.channels)
    }

    fn band(&mut self, _: Range<usize>) -> Result<(&Picture, usize)> {
        Ok((self, 0))
    }
}

/// The places of a picture: everything of a [`ScoreMap`] but its values.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Grid {
    /// Rows of places.
    pub height: usize,
    /// Columns of places.
    pub width: usize,
    /// Numbers per place.
    pub channels: usize,
    /// Picture pixels between two places, down and across.
    pub stride: (usize, usize),
    /// Centre of the receptive field of place (0, 0) in the picture, down and across.
    pub offset: (f64, f64),
}

impl Grid {
    /// The point `(x, y)` of the picture at place (`row`, `column`), fractions allowed.
    pub fn point(&self, row: f64, column: f64) -> (f64, f64) {
        let x = self.offset.1 + column * self.stride.1 as f64;
        (x, self.offset.0 + row * self.stride.0 as f64)
    }

    /// The place, fractions allowed, at point `(x, y)`: row and column.
    pub fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let row = (y - self.offset.0) / self.stride.0 as f64;
        (row, (x - self.offset.1) / self.stride.1 as f64)
    }

    /// The places of a network over a tile of its input's size.
    pub fn of_tile(network: &Network) -> Grid {
        let (h, w) = last_field(network);
        let output = network.output_shape();
        Grid {
            height: output.h,
            width: output.w,
            channels: output.c,
            stride: (h.stride, w.stride),
            offset: (centre(h), centre(w)),
        }
    }
}

fn centre(a: Axis) -> f64 {
    a.start as f64 + a.size as f64 / 2.0
}

/// A network with its weights, ready to slide over pictures.
pub struct Slider {
    network: Network,
    params: Vec<f32>,
    state: Vec<f32>,
    /// Per channel, the number that each of the 256 levels becomes.
    levels: Vec<[f32; 256]>,
    options: SlideOptions,
    /// One block size after the other, in the same memory.
    session: Option<(Shape, Session)>,
    /// Plans of the last block sizes: a pyramid asks for the same again.
    plans: Vec<(Shape, Plan)>,
    /// The block for each canvas so far.
    blocks: HashMap<Shape, Shape>,
}

/// Plans that are kept beside the one that runs.
const PLANS: usize = 24;

impl Slider {
    /// Checks that the network can slide.
    ///
    /// # Errors
    /// When the network fixes its input size (a dense layer) or its channels differ from the
    /// preprocessing's.
    pub fn new(
        network: &Network,
        params: &[f32],
        state: &[f32],
        pre: &Preprocess,
        options: SlideOptions,
    ) -> Result<Self> {
        let input = network.input_shape();
        if input.c != pre.channels || pre.mean.len() != input.c || pre.std.len() != input.c {
            return other(format!(
                "the network takes {} channels but its preprocessing makes {}; the model is damaged",
                input.c, pre.channels
            ));
        }
        // A network slides when a larger input gives a larger map.
        let field = last_field(network);
        let larger = network.with_input(Shape::new(
            input.h + field.0.stride,
            input.w + field.1.stride,
            input.c,
        ))?;
        let (small, large) = (network.output_shape(), larger.output_shape());
        if large.h <= small.h || large.w <= small.w {
            return other(format!(
                "network `{}` gives one answer for a whole picture; finding needs a fully convolutional one, without global pooling or dense layers",
                network.name()
            ));
        }
        let level =
            |c: usize| std::array::from_fn(|v| (v as f32 / 255.0 - pre.mean[c]) / pre.std[c]);
        Ok(Slider {
            network: network.clone(),
            params: params.to_vec(),
            state: state.to_vec(),
            levels: (0..input.c).map(level).collect(),
            options,
            session: None,
            plans: Vec::new(),
            blocks: HashMap::new(),
        })
    }

    /// Replaces the weights.
    pub fn set_weights(&mut self, params: &[f32], state: &[f32]) -> Result<()> {
        self.params = params.to_vec();
        self.state = state.to_vec();
        if let Some((_, session)) = &mut self.session {
            session.set_params(params)?;
            session.set_state(state)?;
        }
        Ok(())
    }

    /// The network's output all over the picture.
    ///
    /// # Errors
    /// When the picture's channels differ from the network's, or memory is too small for one block.
    pub fn run(&mut self, picture: &Picture) -> Result<ScoreMap> {
        let mut values = Vec::new();
        let grid = self.walk(&mut { picture }, &mut |_, rows| values.extend_from_slice(rows))?;
        Ok(ScoreMap { grid, values })
    }

    /// The same from bands of a picture that may be too large for memory: `each` gets rows of places from
    /// top to bottom, `[rows, width, channels]`.
    ///
    /// # Errors
    /// As [`Slider::run`], and where a band cannot be read.
    pub fn walk(
        &mut self,
        bands: &mut dyn Bands,
        each: &mut dyn FnMut(&Grid, &[f32]),
    ) -> Result<Grid> {
        let channels = self.network.input_shape().c;
        let (width, height, theirs) = bands.size();
        if theirs != channels || width == 0 || height == 0 {
            return other(format!(
                "the picture has {theirs} channels but the network takes {channels}"
            ));
        }
        let (h, w) = last_field(&self.network);
        let align = align(&self.network);
        let margin = (margin(h), margin(w));
        // What padding does not reach of one window must be there.
        let side = |len: usize, margin: usize, axis: Axis, align: usize| {
            let least = axis.size.saturating_add_signed(axis.start).min(1 << 14);
            (len + 2 * margin).max(least).next_multiple_of(align)
        };
        let canvas = Shape::new(
            side(height, margin.0, h, align.0),
            side(width, margin.1, w, align.1),
            channels,
        );
        let whole = self.network.with_input(canvas)?;
        let (h, w) = last_field(&whole);
        let output = whole.output_shape();
        let block = self.choose(canvas, (h, align.0), (w, align.1))?;
        let cuts = |len, piece, n, axis, align| {
            cut(len, piece, n, axis, align).ok_or_else(|| {
                crate::VisionError::Other(format!(
                    "the memory allowed ({} MiB) is too small for the network's window",
                    self.options.memory >> 20
                ))
            })
        };
        let rows = cuts(canvas.h, block.h, output.h, h, align.0)?;
        let columns = cuts(canvas.w, block.w, output.w, w, align.1)?;
        let grid = Grid {
            height: output.h,
            width: output.w,
            channels: output.c,
            stride: (h.stride, w.stride),
            offset: (centre(h) - margin.0 as f64, centre(w) - margin.1 as f64),
        };
        let mut values = Vec::new();
        for row in &rows {
            let top = row.start.saturating_sub(margin.0).min(height);
            let bottom = (row.start + block.h).saturating_sub(margin.0).clamp(top, height);
            let (band, first) = bands.band(top..bottom)?;
            values.resize(row.keep.len() * grid.width * grid.channels, 0.0);
            for column in &columns {
                let place = Place { margin, first, height };
                self.block(band, place, block, row, column, &grid, &mut values)?;
            }
            each(&grid, &values);
        }
        Ok(grid)
    }

    /// The largest block whose plan fits the memory; the session is then made for it.
    fn choose(&mut self, canvas: Shape, h: (Axis, usize), w: (Axis, usize)) -> Result<Shape> {
        let mut block = self.blocks.get(&canvas).copied().unwrap_or(canvas);
        loop {
            if self.session.as_ref().is_some_and(|(open, _)| *open == block) {
                return Ok(block);
            }
            let known = self.plans.iter().position(|(b, _)| *b == block);
            let plan = match known {
                Some(known) => self.plans.remove(known).1,
                None => self.plan(block)?,
            };
            let smaller = |len: usize, (axis, align): (Axis, usize)| {
                let least = axis.size + 2 * align + (-axis.start).max(0) as usize;
                (len / 2).max(least).next_multiple_of(align).min(len)
            };
            let next = if block.h > block.w || smaller(block.w, w) == block.w {
                Shape { h: smaller(block.h, h), ..block }
            } else {
                Shape { w: smaller(block.w, w), ..block }
            };
            if plan.memory().total <= self.options.memory || next == block {
                self.open(block, plan)?;
                if self.blocks.len() < 1000 {
                    self.blocks.insert(canvas, block);
                }
                return Ok(block);
            }
            block = next;
        }
    }

    fn plan(&self, block: Shape) -> Result<Plan> {
        let network = self.network.with_input(block)?;
        Ok(Plan::compile(&network, &options(self.options))?)
    }

    fn open(&mut self, block: Shape, plan: Plan) -> Result<()> {
        let session = match self.session.take() {
            None => Session::new(plan)?,
            Some((size, mut session)) => {
                let old = session.replan(plan)?;
                if self.plans.len() == PLANS {
                    self.plans.remove(0);
                }
                self.plans.push((size, old));
                session
            }
        };
        let (_, session) = self.session.insert((block, session));
        session.set_params(&self.params)?;
        session.set_state(&self.state)?;
        Ok(())
    }

    /// Runs one block and keeps what no border has touched, in `rows` of the whole map.
    fn block(
        &mut self,
        band: &Picture,
        place: Place,
        block: Shape,
        row: &Cut,
        column: &Cut,
        grid: &Grid,
        rows: &mut [f32],
    ) -> Result<()> {
        let Some((_, session)) = &mut self.session else {
            return other("no session is open");
        };
        let (c, margin) = (block.c, place.margin);
        let from = margin.1.saturating_sub(column.start).min(block.w);
        let until = (band.width + margin.1).saturating_sub(column.start).clamp(from, block.w);
        let (input, pool) = session.input_and_pool();
        let levels = &self.levels;
        pool.for_chunks_mut(&mut input[..block.len()], block.w * c, |y, line, _| {
            let py = (row.start + y).checked_sub(margin.0).filter(|&y| y < place.height);
            let Some(py) = py.filter(|_| until > from) else {
                line.fill(0.0);
                return;
            };
            line[..from * c].fill(0.0);
            line[until * c..].fill(0.0);
            let at = ((py - place.first) * band.width + column.start + from - margin.1) * c;
            let pixels = &band.data[at..at + (until - from) * c];
            let line = &mut line[from * c..until * c];
            for (to, pixel) in line.chunks_exact_mut(c).zip(pixels.chunks_exact(c)) {
                for ((to, &v), levels) in to.iter_mut().zip(pixel).zip(levels) {
                    *to = levels[v as usize];
                }
            }
        });
        let width = session.plan().network().output_shape().w;
        let output = session.predict(1)?;
        let run = column.keep.len() * grid.channels;
        for i in 0..row.keep.len() {
            let from = ((row.first + i) * width + column.first) * grid.channels;
            let to = (i * grid.width + column.keep.start) * grid.channels;
            rows[to..to + run].copy_from_slice(&output[from..from + run]);
        }
        Ok(())
    }
}

/// Where a band lies.
#[derive(Clone, Copy)]
struct Place {
    /// Canvas above and left of the picture.
    margin: (usize, usize),
    /// The picture's row that is the band's first.
    first: usize,
    /// Rows of the picture.
    height: usize,
}

/// Canvas that a network needs around a picture, so that places cover it to the edge.
fn margin(axis: Axis) -> usize {
    (axis.start + (axis.size / 2) as isize).max(0) as usize
}

/// The largest stride of any layer, down and across: what blocks are multiples of.
pub(crate) fn align(network: &Network) -> (usize, usize) {
    let fields = network.fields();
    let most = |of: fn(&convoke_engine::Field) -> usize| fields.iter().map(of).max().unwrap_or(1);
    (most(|f| f.h.stride), most(|f| f.w.stride))
}

fn last_field(network: &Network) -> (Axis, Axis) {
    let f = network.fields()[network.output().index()];
    (f.h, f.w)
}

/// Of one picture.
fn options(o: SlideOptions) -> PlanOptions {
    let precision = if o.exact { Precision::F32Direct } else { Precision::F32 };
    PlanOptions { precision, ..PlanOptions::predict(1, o.threads) }
}

/// One block along one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    /// First input pixel.
    start: usize,
    /// First output of the block that counts.
    first: usize,
    /// The outputs of the whole that it gives.
    keep: Range<usize>,
}

/// Cuts an axis of `len` input pixels and `n` outputs into blocks of `piece` pixels, all multiples of
/// `align`. None where a block is too small for the window.
fn cut(len: usize, piece: usize, n: usize, axis: Axis, align: usize) -> Option<Vec<Cut>> {
    if piece >= len {
        return Some(vec![Cut { start: 0, first: 0, keep: 0..n }]);
    }
    let stride = axis.stride;
    let head = (-axis.start).max(0) as usize;
    // Of a block inside the picture, outputs `first..=last` see only the block's own pixels.
    let first = head.div_ceil(stride);
    let last = (piece + head).checked_sub(axis.size)? / stride;
    let useful = (last + 1).checked_sub(first)? * stride / align * align;
    if useful == 0 {
        return None;
    }
    let (mut cuts, mut start, mut next) = (Vec::new(), 0, 0);
    loop {
        let at_end = start + piece >= len;
        start = start.min(len - piece);
        let until = if at_end { n } else { start / stride + last + 1 };
        cuts.push(Cut { start, first: next - start / stride, keep: next..until });
        if at_end {
            return Some(cuts);
        }
        // The next block's first output that counts is at most the next one wanted.
        start += useful;
        next = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::Builder;
    use convoke_engine::layers::{Conv, MaxPool, Upsample};

    fn picture(width: usize, height: usize) -> Picture {
        let data = (0..width * height * 3).map(|i| (i * i % 251 + i % 5) as u8).collect();
        Picture { width, height, channels: 3, data }
    }

    fn weights(network: &Network) -> (Vec<f32>, Vec<f32>) {
        let mut s =
            Session::new(Plan::compile(network, &options(SlideOptions::default())).unwrap())
                .unwrap();
        s.init(3);
        (s.params().to_vec(), s.state().to_vec())
    }

    fn slide(network: &Network, p: &Picture, memory: usize, threads: usize) -> (ScoreMap, usize) {
        let (params, state) = weights(network);
        let pre = Preprocess::plain(1, 1, 3);
        let options = SlideOptions { threads, memory, exact: true };
        let mut slider = Slider::new(network, &params, &state, &pre, options).unwrap();
        let map = slider.run(p).unwrap();
        let block = slider.session.as_ref().unwrap().0;
        (map, block.h * block.w)
    }

    fn valid() -> Network {
        let mut b = Builder::new("valid", Shape::new(19, 15, 3));
        b.conv(Conv::new(8, 5).valid().stride(2)).batch_norm().relu();
        b.conv(Conv::new(12, 3).valid()).relu().max_pool(2, 2);
        b.conv(Conv::new(5, [3, 2]).valid()).build().unwrap()
    }

    fn same() -> Network {
        let mut b = Builder::new("same", Shape::new(16, 16, 3));
        b.conv(Conv::new(8, 3).stride(2)).relu();
        b.layer(MaxPool::new(3).stride(2).padding(convoke_engine::Padding::Same));
        b.conv(Conv::new(6, 5)).relu().conv(Conv::new(2, 1));
        b.build().unwrap()
    }

    /// A pyramid: coarse maps brought back to finer ones.
    fn pyramid() -> Network {
        let mut b = Builder::new("pyramid", Shape::new(32, 32, 3));
        let fine =
            b.conv(Conv::new(8, 3).stride(2)).relu().conv(Conv::new(8, 3).stride(2)).relu().here();
        let middle = b.conv(Conv::new(8, 3).pad(1).stride(2)).relu().here();
        let coarse =
            b.layer(MaxPool::new(3).stride(2).padding(convoke_engine::Padding::Same)).here();
        let back = b.join(Upsample::new(2), &[coarse, middle]).here();
        let sum = b.add(&[back, middle]).conv(Conv::new(8, 3)).here();
        let back = b.join(Upsample::new(2), &[sum, fine]).here();
        b.add(&[back, fine]).conv(Conv::new(3, 3)).build().unwrap()
    }

    #[test]
    fn blocks_give_what_one_pass_gives() {
        let small = [(101, 67), (64, 150), (97, 98), (40, 31)];
        // A block of the pyramid is at least as large as what its coarsest map sees.
        let large = [(301, 267), (164, 350), (297, 298), (240, 231)];
        for (network, sizes, memory) in
            [(valid(), small, 90_000), (same(), small, 90_000), (pyramid(), large, 900_000)]
        {
            for (width, height) in sizes {
                let p = picture(width, height);
                let (whole, all) = slide(&network, &p, usize::MAX, 1);
                let (blocks, some) = slide(&network, &p, memory, 2);
                let name = network.name();
                assert!(some < all, "{name} {width}x{height}: was not cut");
                assert_eq!(whole, blocks, "{name} {width}x{height}");
            }
        }
    }

    #[test]
    fn each_place_answers_for_the_tile_around_its_point() {
        let network = valid();
        let (params, state) = weights(&network);
        let p = picture(60, 50);
        let (map, _) = slide(&network, &p, usize::MAX, 1);
        let mut s =
            Session::new(Plan::compile(&network, &options(SlideOptions::default())).unwrap())
                .unwrap();
        s.set_params(&params).unwrap();
        s.set_state(&state).unwrap();
        let input = network.input_shape();
        let (row, column) = (5, 7);
        let (x, y) = map.grid.point(row as f64, column as f64);
        // The tile network sees the same field size that the slid one has.
        let field = network.fields()[network.output().index()];
        let left = (x - field.w.size as f64 / 2.0) as usize;
        let top = (y - field.h.size as f64 / 2.0) as usize;
        let tile = p.crop(left, top, input.w, input.h);
        for (i, v) in s.input_mut().iter_mut().enumerate() {
            *v = f32::from(tile.data[i]) / 255.0;
        }
        let alone = s.predict(1).unwrap()[..5].to_vec();
        let slid = &map.values[(row * map.grid.width + column) * 5..][..5];
        for (a, b) in alone.iter().zip(slid) {
            assert!((a - b).abs() < 1e-4, "{alone:?} {slid:?}");
        }
    }

    #[test]
    fn every_output_is_kept_once() {
        let axis = Axis { size: 11, stride: 4, start: -3 };
        for len in 40..120 {
            let n = len / 4 + 1;
            for (piece, align) in (20..len).flat_map(|p| [(p, 4), (p, 8)]) {
                if piece % align > 0 || len % align > 0 || piece < 16 + align {
                    continue;
                }
                let cuts = cut(len, piece, n, axis, align).unwrap();
                let mut next = 0;
                for c in &cuts {
                    assert_eq!(c.keep.start, next);
                    assert!(
                        c.start % align == 0
                            && c.start + piece <= len
                            && (c.start == 0 || c.first >= 1)
                    );
                    next = c.keep.end;
                }
                assert_eq!(next, n);
            }
        }
        assert!(cut(100, 8, 22, axis, 4).is_none());
    }

    #[test]
    fn a_network_with_a_dense_layer_cannot_slide() {
        for pool in [true, false] {
            let mut b = Builder::new("d", Shape::new(8, 8, 3));
            b.conv(Conv::new(2, 3)).relu();
            let network =
                if pool { b.global_mean_pool() } else { b.flatten() }.dense(2).build().unwrap();
            let (params, state) = weights(&network);
            let pre = Preprocess::plain(8, 8, 3);
            let e = Slider::new(&network, &params, &state, &pre, SlideOptions::default())
                .err()
                .unwrap();
            assert!(!e.to_string().contains('\n'), "{e}");
        }
    }
}
