//! A fully convolutional network slid over a whole picture.
//!
//! The picture is framed by a margin of mean colour, so that the network's window can be centred on
//! every pixel of it. Large pictures are walked in blocks that overlap by the receptive field: the
//! result is that of one pass, and memory stays bounded however large the picture is.

use crate::error::{Result, other};
use convoke_data::{Picture, Preprocess};
use convoke_engine::{Axis, Network, Plan, PlanOptions, Precision, Session, Shape};
use std::ops::Range;

/// How to slide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlideOptions {
    /// Threads; changes no result.
    pub threads: usize,
    /// Bytes that the network's memory may take; blocks are made as small as that needs. Small blocks are
    /// faster, too: 64 MiB takes 1.3 s for a scene of 6000 × 4000, all at once 2.9 s (2 cores, 2026).
    pub memory: usize,
}

impl Default for SlideOptions {
    fn default() -> Self {
        SlideOptions { threads: 1, memory: 64 << 20 }
    }
}

/// The network's output at every place where its window was put.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ScoreMap {
    /// Rows of places.
    pub height: usize,
    /// Columns of places.
    pub width: usize,
    /// Numbers per place.
    pub channels: usize,
    /// Picture pixels between two places, down and across.
    pub stride: (usize, usize),
    /// Centre of the receptive field of place (0, 0) in the picture, down and across, in pixels from
    /// the upper left corner (the centre of the first pixel is 0.5).
    pub offset: (f64, f64),
    /// The network's outputs (logits), `[height, width, channels]`.
    pub values: Vec<f32>,
}

impl ScoreMap {
    /// The point `(x, y)` of the picture at place (`row`, `column`), fractions allowed.
    pub fn point(&self, row: f64, column: f64) -> (f64, f64) {
        let x = self.offset.1 + column * self.stride.1 as f64;
        (x, self.offset.0 + row * self.stride.0 as f64)
    }

    /// Probability of a class at every place: softmax over the channels, or the logistic function
    /// where there is one channel.
    pub fn probabilities(&self, class: usize) -> Vec<f32> {
        self.margins(class).into_iter().map(|m| 1.0 / (1.0 + (-m).exp())).collect()
    }

    /// Logit of that probability at every place: the class's output against the sum of the others.
    /// It ranks where probabilities have all become 1.
    pub fn margins(&self, class: usize) -> Vec<f32> {
        let margin = |v: &[f32]| {
            if v.len() == 1 {
                return v[0];
            }
            let others = || v.iter().enumerate().filter(|&(i, _)| i != class).map(|(_, &o)| o);
            let most = others().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = others().map(|o| (o - most).exp()).sum();
            v[class.min(v.len() - 1)] - most - sum.ln()
        };
        self.values.chunks_exact(self.channels).map(margin).collect()
    }
}

/// A network with its weights, ready to slide over pictures.
pub struct Slider {
    network: Network,
    params: Vec<f32>,
    state: Vec<f32>,
    /// Per channel, the number that each of the 256 levels becomes.
    levels: Vec<[f32; 256]>,
    options: SlideOptions,
    /// The session of the last block size.
    session: Option<(Shape, Session)>,
}

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
        let channels = self.network.input_shape().c;
        if picture.channels != channels || picture.width == 0 || picture.height == 0 {
            return other(format!(
                "the picture has {} channels but the network takes {channels}",
                picture.channels
            ));
        }
        let (h, w) = last_field(&self.network);
        let margin = (h.size / 2, w.size / 2);
        let canvas =
            Shape::new(picture.height + 2 * margin.0, picture.width + 2 * margin.1, channels);
        let whole = self.network.with_input(canvas)?;
        let (h, w) = last_field(&whole);
        let output = whole.output_shape();
        let block = self.choose(canvas, h, w)?;
        let cuts = |len, piece, n, axis| {
            cut(len, piece, n, axis).ok_or_else(|| {
                crate::VisionError::Other(format!(
                    "the memory allowed ({} MiB) is too small for the network's window",
                    self.options.memory >> 20
                ))
            })
        };
        let rows = cuts(canvas.h, block.h, output.h, h)?;
        let columns = cuts(canvas.w, block.w, output.w, w)?;
        let centre = |a: Axis, margin: usize| a.start as f64 + a.size as f64 / 2.0 - margin as f64;
        let mut map = ScoreMap {
            height: output.h,
            width: output.w,
            channels: output.c,
            stride: (h.stride, w.stride),
            offset: (centre(h, margin.0), centre(w, margin.1)),
            values: vec![0.0; output.len()],
        };
        for row in &rows {
            for column in &columns {
                self.block(picture, block, margin, row, column, &mut map)?;
            }
        }
        Ok(map)
    }

    /// The largest block whose plan fits the memory. Its sides leave the same remainder by the stride
    /// as the canvas's, so that padding `same` falls alike in every block.
    fn choose(&mut self, canvas: Shape, h: Axis, w: Axis) -> Result<Shape> {
        let mut block = canvas;
        loop {
            if self.session.as_ref().is_some_and(|(s, _)| *s == block) {
                return Ok(block);
            }
            let plan = self.plan(block)?;
            let least = |axis: Axis| axis.size + 2 * axis.stride + (-axis.start).max(0) as usize;
            let smaller = |len: usize, whole: usize, axis: Axis| {
                let half = (len / 2).max(least(axis)).min(len);
                // Up to the whole's remainder.
                let rest = (whole % axis.stride + axis.stride - half % axis.stride) % axis.stride;
                (half + rest).min(len)
            };
            let next = if block.h > block.w || smaller(block.w, canvas.w, w) == block.w {
                Shape { h: smaller(block.h, canvas.h, h), ..block }
            } else {
                Shape { w: smaller(block.w, canvas.w, w), ..block }
            };
            if plan.memory().total <= self.options.memory || next == block {
                self.open(block, plan)?;
                return Ok(block);
            }
            block = next;
        }
    }

    fn plan(&self, block: Shape) -> Result<Plan> {
        let network = self.network.with_input(block)?;
        Ok(Plan::compile(&network, &options(self.options.threads))?)
    }

    fn open(&mut self, block: Shape, plan: Plan) -> Result<()> {
        let mut session = Session::new(plan)?;
        session.set_params(&self.params)?;
        session.set_state(&self.state)?;
        self.session = Some((block, session));
        Ok(())
    }

    /// Runs one block and keeps what no border has touched.
    fn block(
        &mut self,
        picture: &Picture,
        block: Shape,
        margin: (usize, usize),
        row: &Cut,
        column: &Cut,
        map: &mut ScoreMap,
    ) -> Result<()> {
        let Some((_, session)) = &mut self.session else {
            return other("no session is open");
        };
        let c = block.c;
        let input = session.input_mut();
        input[..block.len()].fill(0.0);
        for y in 0..block.h {
            let Some(py) = (row.start + y).checked_sub(margin.0).filter(|&y| y < picture.height)
            else {
                continue;
            };
            let from = margin.1.saturating_sub(column.start).min(block.w);
            let until = (picture.width + margin.1).saturating_sub(column.start).min(block.w);
            for x in from..until {
                let px = column.start + x - margin.1;
                let pixel = &picture.data[(py * picture.width + px) * c..][..c];
                for (k, (&v, levels)) in pixel.iter().zip(&self.levels).enumerate() {
                    input[(y * block.w + x) * c + k] = levels[v as usize];
                }
            }
        }
        let width = session.plan().network().output_shape().w;
        let output = session.predict(1)?;
        let run = column.keep.len() * map.channels;
        for (i, y) in row.keep.clone().enumerate() {
            let from = ((row.first + i) * width + column.first) * map.channels;
            let to = (y * map.width + column.keep.start) * map.channels;
            map.values[to..to + run].copy_from_slice(&output[from..from + run]);
        }
        Ok(())
    }
}

fn last_field(network: &Network) -> (Axis, Axis) {
    let f = network.fields()[network.output().index()];
    (f.h, f.w)
}

/// Of one picture, such that blocks give the bits of the whole.
fn options(threads: usize) -> PlanOptions {
    PlanOptions { precision: Precision::F32Direct, ..PlanOptions::predict(1, threads) }
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

/// Cuts an axis of `len` input pixels and `n` outputs into blocks of `piece` pixels. `piece` and `len`
/// leave the same remainder by the stride. None where a block is too small for the window.
fn cut(len: usize, piece: usize, n: usize, axis: Axis) -> Option<Vec<Cut>> {
    if piece >= len {
        return Some(vec![Cut { start: 0, first: 0, keep: 0..n }]);
    }
    let stride = axis.stride;
    let head = (-axis.start).max(0) as usize;
    // Of a block inside the picture, outputs `first..=last` see only the block's own pixels.
    let first = head.div_ceil(stride);
    let last = (piece + head).checked_sub(axis.size)? / stride;
    let useful = (last + 1).checked_sub(first).filter(|&u| u > 0)?;
    let (mut cuts, mut start, mut next) = (Vec::new(), 0, 0);
    loop {
        let at_end = start + piece >= len;
        start = start.min(len - piece);
        let until = if at_end { n } else { start / stride + last + 1 };
        cuts.push(Cut { start, first: next - start / stride, keep: next..until });
        if at_end {
            return Some(cuts);
        }
        (start, next) = (start + useful * stride, until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::Builder;
    use convoke_engine::layers::{Conv, MaxPool};

    fn picture(width: usize, height: usize) -> Picture {
        let data = (0..width * height * 3).map(|i| (i * i % 251 + i % 5) as u8).collect();
        Picture { width, height, channels: 3, data }
    }

    fn weights(network: &Network) -> (Vec<f32>, Vec<f32>) {
        let mut s = Session::new(Plan::compile(network, &options(1)).unwrap()).unwrap();
        s.init(3);
        (s.params().to_vec(), s.state().to_vec())
    }

    fn slide(network: &Network, p: &Picture, memory: usize, threads: usize) -> (ScoreMap, usize) {
        let (params, state) = weights(network);
        let pre = Preprocess::plain(1, 1, 3);
        let options = SlideOptions { threads, memory };
        let mut slider = Slider::new(network, &params, &state, &pre, options).unwrap();
        let map = slider.run(p).unwrap();
        let block = slider.session.unwrap().0;
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

    #[test]
    fn blocks_give_what_one_pass_gives() {
        for network in [valid(), same()] {
            for (width, height) in [(101, 67), (64, 150), (97, 98), (40, 31)] {
                let p = picture(width, height);
                let (whole, all) = slide(&network, &p, usize::MAX, 1);
                let (blocks, some) = slide(&network, &p, 60_000, 2);
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
        let mut s = Session::new(Plan::compile(&network, &options(1)).unwrap()).unwrap();
        s.set_params(&params).unwrap();
        s.set_state(&state).unwrap();
        let input = network.input_shape();
        let (row, column) = (5, 7);
        let (x, y) = map.point(row as f64, column as f64);
        // The tile network sees the same field size that the slid one has.
        let field = network.fields()[network.output().index()];
        let left = (x - field.w.size as f64 / 2.0) as usize;
        let top = (y - field.h.size as f64 / 2.0) as usize;
        let tile = p.crop(left, top, input.w, input.h);
        for (i, v) in s.input_mut().iter_mut().enumerate() {
            *v = f32::from(tile.data[i]) / 255.0;
        }
        let alone = s.predict(1).unwrap()[..5].to_vec();
        let slid = &map.values[(row * map.width + column) * 5..][..5];
        for (a, b) in alone.iter().zip(slid) {
            assert!((a - b).abs() < 1e-4, "{alone:?} {slid:?}");
        }
    }

    #[test]
    fn every_output_is_kept_once() {
        let axis = Axis { size: 11, stride: 4, start: -3 };
        for len in 40..120 {
            let n = len / 4 + 1;
            for piece in (20 + len % 4..len).filter(|p| p % 4 == len % 4) {
                let cuts = cut(len, piece, n, axis).unwrap();
                let mut next = 0;
                for c in &cuts {
                    assert_eq!(c.keep.start, next);
                    assert!(c.start % 4 == 0 && c.start + piece <= len);
                    next = c.keep.end;
                }
                assert_eq!(next, n);
            }
        }
        assert!(cut(100, 8, 22, axis).is_none());
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

    #[test]
    fn margins_are_the_logits_of_probabilities() {
        let map = ScoreMap {
            height: 1,
            width: 1,
            channels: 3,
            stride: (1, 1),
            offset: (0.5, 0.5),
            values: vec![1.0, 2.0, 3.0],
        };
        let sum: f32 = (1..=3).map(|v| (v as f32).exp()).sum();
        for class in 0..3 {
            let wanted = ((class + 1) as f32).exp() / sum;
            assert!((map.probabilities(class)[0] - wanted).abs() < 1e-6);
        }
    }
}
