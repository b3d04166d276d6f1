//! Learning to find from pictures with boxes: a small network is trained on tiles, and its own false
//! alarms on the same pictures become the tiles it is trained on next (hard negative mining, Sung and
//! Poggio 1998).

use crate::bounds::Bounds;
use crate::error::{Result, VisionError, other};
use crate::find::{Detector, FindOptions, Finder};
use crate::slide::SlideOptions;
use convoke_data::{Area, Filter, Picture, Preprocess, resize};
use convoke_engine::layers::{Conv, WeightInit};
use convoke_engine::{Builder, Loss, Network, Optimizer, Plan, PlanOptions, Session, Shape};
use convoke_formats::ModelFile;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A picture with the boxes of the things to find. All else in it is background.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The picture, in colour.
    pub picture: Picture,
    /// Where the things are.
    pub boxes: Vec<Bounds>,
}

/// How to learn.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnOptions {
    /// Name of the thing.
    pub class: String,
    /// Updates in all.
    pub steps: usize,
    /// Tiles per update.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f32,
    /// How many times false alarms are gathered, evenly over the steps.
    pub minings: usize,
    /// Same seed, same detector.
    pub seed: u64,
    /// Threads; changes no result.
    pub threads: usize,
}

impl Default for LearnOptions {
    fn default() -> Self {
        LearnOptions {
            class: "thing".into(),
            steps: 1500,
            batch: 64,
            lr: 2e-3,
            minings: 4,
            seed: 1,
            threads: 1,
        }
    }
}

/// Where learning is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Updates done.
    pub step: usize,
    /// Updates in all.
    pub steps: usize,
    /// Mean loss of the last updates.
    pub loss: f32,
    /// Share of right answers on the last tiles.
    pub accuracy: f32,
    /// False alarms gathered so far.
    pub alarms: usize,
}

/// What learning gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// The detector.
    pub detector: Detector,
    /// How it ended.
    pub last: Moment,
    /// Tiles per update.
    pub batch: usize,
}

/// Input side that gives a window of about `size`: `4 k + 3` pixels for the network below.
fn tile_side(size: f64) -> usize {
    let k = ((size - 3.0) / 4.0).round().clamp(5.0, 60.0) as usize;
    4 * k + 3
}

/// A small fully convolutional network for tiles of about `width` × `height` pixels: its output is one
/// place of two classes (background, thing) for a tile, and one place every 4 pixels over a picture.
///
/// | layer | window, stride | filters |
/// |---|---|---|
/// | colour and edges | 7×7, 2 | 16 |
/// | two times | 3×3 | 24 |
/// | halving | 3×3, 2 | 32 |
/// | the rest of the tile | all of it | 64 |
/// | answer | 1×1 | 2 |
///
/// # Errors
/// When the tile is too small for the windows.
pub fn detector_network(width: usize, height: usize) -> Result<Network> {
    let mut b = Builder::new("finder", Shape::new(height, width, 3));
    for (filters, window, stride) in [(16, 7, 2), (24, 3, 1), (32, 3, 2), (32, 3, 1)] {
        b.conv(Conv::new(filters, window).stride(stride).valid().no_bias()).batch_norm().relu();
    }
    let map = b.build()?.output_shape();
    b.conv(Conv::new(64, [map.h, map.w]).valid().no_bias()).batch_norm().relu();
    b.conv(Conv::new(2, 1).init(WeightInit::Glorot));
    Ok(b.build()?)
}

/// Trains a detector. `each` is told how it goes and says whether to go on.
///
/// # Errors
/// When there is nothing to learn from, the caller stops, or the loss is no number.
pub fn train_detector(
    examples: &[Example],
    options: &LearnOptions,
    each: &mut dyn FnMut(Moment) -> bool,
) -> Result<Learned> {
    let object = mean_size(examples)?;
    let tile = (tile_side(object.0 * 1.7), tile_side(object.1 * 1.25));
    let network = detector_network(tile.0, tile.1)?;
    let (mean, std) = (vec![0.5; 3], vec![0.25; 3]);
    let pre = Preprocess { mean, std, ..Preprocess::plain(tile.1, tile.0, 3) };
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.005 };
    let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.02 };
    let plan = PlanOptions::train(options.batch, options.threads, loss, adamw);
    let mut session = Session::new(Plan::compile(&network, &plan)?)?;
    session.init(options.seed);
    quieten(&mut session, &network)?;
    let mut tiles = Tiles::new(examples, tile, options.seed);
    let detector = |session: &Session, network: Network| Detector {
        model: ModelFile {
            network,
            classes: vec!["background".into(), options.class.clone()],
            preprocess: pre.clone(),
            task: "find".into(),
            params: session.params().to_vec(),
            state: session.state().to_vec(),
            facts: Default::default(),
            extra: Default::default(),
        },
        object,
        threshold: 0.5,
    };
    let mut m = Moment { step: 0, steps: options.steps, loss: 0.0, accuracy: 0.0, alarms: 0 };
    for step in 0..options.steps {
        if is_mining(step, options) {
            tiles.mine(detector(&session, network.clone()), options.threads)?;
            m.alarms = tiles.alarms.len();
        }
        let (input, labels) = tiles.batch(options.batch, &pre)?;
        session.input_mut().copy_from_slice(&input);
        session.labels_mut().copy_from_slice(&labels);
        let report = session.step(rate(step, options))?;
        if !report.loss.is_finite() {
            return other(format!(
                "the loss is no number after {step} steps; use a lower learning rate"
            ));
        }
        let share = if step == 0 { 1.0 } else { 0.03 };
        m.step = step + 1;
        m.loss += share * (report.loss - m.loss);
        m.accuracy += share * (report.correct as f32 / options.batch as f32 - m.accuracy);
        if !each(m) {
            return Err(VisionError::Stopped);
        }
    }
    Ok(Learned { detector: detector(&session, network), last: m, batch: options.batch })
}

/// Shrinks the first filters. Batch norm follows, so nothing changes in what the network says; but what
/// is learned outgrows the noise of the first draw, and the filters can be read.
fn quieten(session: &mut Session, network: &Network) -> Result<()> {
    let mut params = session.params().to_vec();
    if let Some(first) = network.params().first() {
        params[first.range.clone()].iter_mut().for_each(|w| *w *= 0.05);
    }
    Ok(session.set_params(&params)?)
}

fn is_mining(step: usize, o: &LearnOptions) -> bool {
    let every = (o.steps / (o.minings + 1)).max(1);
    step > 0 && step.is_multiple_of(every) && step / every <= o.minings
}

/// Linear warm-up over a twentieth of the steps, then half a cosine down to zero.
fn rate(step: usize, o: &LearnOptions) -> f32 {
    let t = (step as f32 + 1.0) / o.steps as f32;
    let warm = (t / 0.05).min(1.0);
    o.lr * warm * 0.5 * (1.0 + (std::f32::consts::PI * t).cos())
}

fn mean_size(examples: &[Example]) -> Result<(f64, f64)> {
    let boxes = || examples.iter().flat_map(|e| &e.boxes);
    let n = boxes().count() as f64;
    if n == 0.0 {
        return other("there is no box to learn from; mark at least one thing in a picture");
    }
    let mean = |of: fn(&Bounds) -> f64| (boxes().map(of).sum::<f64>() / n * 10.0).round() / 10.0;
    let (w, h) = (mean(|b| b.width), mean(|b| b.height));
    if !(4.0..=200.0).contains(&w) || !(4.0..=200.0).contains(&h) {
        return other(format!(
            "the boxes are {w} x {h} pixels on average; scale the pictures so that they are from 4 to 200"
        ));
    }
    Ok((w, h))
}

/// A place in a picture: which, and the centre (x, y).
type Spot = (usize, (f64, f64));

/// Where tiles come from.
struct Tiles<'a> {
    examples: &'a [Example],
    /// Width and height.
    tile: (usize, usize),
    things: Vec<Spot>,
    alarms: Vec<Spot>,
    rng: ChaCha8Rng,
}

impl<'a> Tiles<'a> {
    fn new(examples: &'a [Example], tile: (usize, usize), seed: u64) -> Self {
        let spots =
            |(i, e): (usize, &Example)| e.boxes.iter().map(|b| (i, b.centre())).collect::<Vec<_>>();
        let things = examples.iter().enumerate().flat_map(spots).collect();
        Tiles { examples, tile, things, alarms: Vec::new(), rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Gathers the detector's best wrong places.
    fn mine(&mut self, detector: Detector, threads: usize) -> Result<()> {
        let mut finder =
            Finder::new(detector, SlideOptions { threads, ..SlideOptions::default() })?;
        let options = FindOptions { top: 60, least: Some(0.02), ..FindOptions::default() };
        for (i, e) in self.examples.iter().enumerate() {
            let found = finder.find(&e.picture, &options)?;
            let centres = found.candidates.iter().map(|c| c.bounds.centre());
            self.alarms.extend(centres.filter(|&at| !near(e, at)).map(|at| (i, at)));
        }
        Ok(())
    }

    /// `n` tiles `[n, height, width, 3]`, a quarter of them things, with their labels.
    fn batch(&mut self, n: usize, pre: &Preprocess) -> Result<(Vec<f32>, Vec<u32>)> {
        let len = pre.sample_len();
        let (mut input, mut labels) = (vec![0.0; n * len], vec![0; n]);
        for (k, out) in input.chunks_exact_mut(len).enumerate() {
            let spot = match k % 4 {
                0 => {
                    labels[k] = 1;
                    self.thing()
                }
                1 | 2 if !self.alarms.is_empty() => self.alarm(),
                _ => self.anywhere(),
            };
            self.cut(spot, pre, out)?;
        }
        Ok((input, labels))
    }

    fn shaken(&mut self, (i, (x, y)): Spot, by: f64) -> Spot {
        (i, (x + self.rng.random_range(-by..=by), y + self.rng.random_range(-by..=by)))
    }

    fn thing(&mut self) -> Spot {
        let spot = self.things[self.rng.random_range(0..self.things.len())];
        self.shaken(spot, 2.5)
    }

    fn alarm(&mut self) -> Spot {
        let spot = self.alarms[self.rng.random_range(0..self.alarms.len())];
        let shaken = self.shaken(spot, 2.5);
        if near(&self.examples[shaken.0], shaken.1) { spot } else { shaken }
    }

    fn anywhere(&mut self) -> Spot {
        let mut spot = (0, (0.0, 0.0));
        for _ in 0..50 {
            let i = self.rng.random_range(0..self.examples.len());
            let p = &self.examples[i].picture;
            let x = self.rng.random_range(0.0..p.width as f64);
            spot = (i, (x, self.rng.random_range(0.0..p.height as f64)));
            if !near(&self.examples[i], spot.1) {
                break;
            }
        }
        spot
    }

    /// Writes the tile around a spot: scaled a little, mirrored or not, brighter or darker.
    fn cut(&mut self, (i, (x, y)): Spot, pre: &Preprocess, out: &mut [f32]) -> Result<()> {
        let scale = if self.rng.random_bool(0.5) { 1.0 } else { self.rng.random_range(0.93..1.07) };
        let mirrored = self.rng.random_bool(0.5);
        let gain: [f32; 3] = std::array::from_fn(|_| self.rng.random_range(0.92..1.08));
        let light = self.rng.random_range(-0.04..0.04_f32);
        let (w, h) = self.tile;
        let tile = cut_tile(&self.examples[i].picture, (x, y), (w, h), scale)?;
        for (at, o) in out.iter_mut().enumerate() {
            let (row, column, c) = (at / (3 * w), at / 3 % w, at % 3);
            let column = if mirrored { w - 1 - column } else { column };
            // Outside of the picture lies the mean, as when sliding.
            let v = match tile[(row * w + column) * 3 + c] {
                None => pre.mean[c],
                Some(v) => f32::from(v) / 255.0 * gain[c] + light,
            };
            *o = (v - pre.mean[c]) / pre.std[c];
        }
        Ok(())
    }
}

/// Whether a spot is so close to a thing that it is neither the thing nor background.
fn near(e: &Example, (x, y): (f64, f64)) -> bool {
    e.boxes.iter().any(|b| {
        let (bx, by) = b.centre();
        (bx - x).abs() < 0.5 * b.width && (by - y).abs() < 0.35 * b.height
    })
}

/// The levels of the tile around (x, y), seen `scale` times as large as in the picture; none outside.
fn cut_tile(
    p: &Picture,
    (x, y): (f64, f64),
    (w, h): (usize, usize),
    scale: f64,
) -> Result<Vec<Option<u8>>> {
    // A little more than the tile, as whole pixels; then brought to size.
    let (gw, gh) = ((w as f64 / scale).round() as isize, (h as f64 / scale).round() as isize);
    let left = (x - gw as f64 / 2.0).round() as isize;
    let top = (y - gh as f64 / 2.0).round() as isize;
    let (l, t) = (left.clamp(0, p.width as isize), top.clamp(0, p.height as isize));
    let (r, b) = ((left + gw).clamp(l, p.width as isize), (top + gh).clamp(t, p.height as isize));
    let mut tile = vec![None; w * h * 3];
    if r - l < 2 || b - t < 2 {
        return Ok(tile);
    }
    let inside = p.crop(l as usize, t as usize, (r - l) as usize, (b - t) as usize);
    let place =
        |n: isize, all: usize, of: isize| (n as f64 * all as f64 / of as f64).round() as usize;
    let (x0, x1) = (place(l - left, w, gw), place(r - left, w, gw));
    let (y0, y1) = (place(t - top, h, gh), place(b - top, h, gh));
    if x1 <= x0 || y1 <= y0 {
        return Ok(tile);
    }
    let same = (x1 - x0, y1 - y0) == (inside.width, inside.height);
    let sized = if same {
        inside
    } else {
        resize(&inside, Area::whole(&inside), x1 - x0, y1 - y0, Filter::Bilinear)?
    };
    for row in y0..y1 {
        for column in x0..x1 {
            let pixel = sized.pixel(column - x0, row - y0);
            for c in 0..3 {
                tile[(row * w + column) * 3 + c] = Some(pixel[c]);
            }
        }
    }
    Ok(tile)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red crosses among green ones and red bars, on a grained ground.
    fn examples(count: usize, seed: u64) -> Vec<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let bar =
            |p: &mut Picture, (x, y): (usize, usize), (w, h): (usize, usize), colour: [u8; 3]| {
                for i in 0..w * h {
                    let at = ((y + i / w) * p.width + x + i % w) * 3;
                    p.data[at..at + 3].copy_from_slice(&colour);
                }
            };
        let mut example = || {
            let mut p = Picture::filled(160, 120, [0; 3]);
            p.data.iter_mut().for_each(|v| *v = rng.random_range(90..140));
            let mut boxes = Vec::new();
            for cell in 0..12 {
                let x = cell % 4 * 40 + rng.random_range(2..18);
                let y = cell / 4 * 40 + rng.random_range(2..18);
                let colour = if cell % 3 == 1 { [40, 200, 40] } else { [220, 30, 30] };
                bar(&mut p, (x, y + 7), (20, 6), colour);
                if cell % 3 < 2 {
                    bar(&mut p, (x + 7, y), (6, 20), colour);
                }
                if cell % 3 == 0 {
                    boxes.push(Bounds { left: x as f64, top: y as f64, width: 20.0, height: 20.0 });
                }
            }
            Example { picture: p, boxes }
        };
        (0..count).map(|_| example()).collect()
    }

    fn quick(threads: usize) -> LearnOptions {
        LearnOptions { steps: 90, batch: 24, minings: 2, threads, ..LearnOptions::default() }
    }

    #[test]
    fn red_crosses_are_learned_and_found_in_a_fresh_picture() {
        let learned = train_detector(&examples(4, 1), &quick(2), &mut |_| true).unwrap();
        let mut finder = Finder::new(learned.detector, SlideOptions::default()).unwrap();
        let fresh = &examples(1, 2)[0];
        let found = finder.find(&fresh.picture, &FindOptions::default()).unwrap();
        let best = &found.candidates[..fresh.boxes.len()];
        for b in &fresh.boxes {
            assert!(best.iter().any(|c| c.bounds.iou(b) > 0.5), "{b:?} is not among {best:?}");
        }
        assert!(best.iter().all(|c| c.found));
    }

    #[test]
    fn the_number_of_threads_changes_no_weight() {
        let few = LearnOptions { steps: 12, ..quick(1) };
        let one = train_detector(&examples(2, 1), &few, &mut |_| true).unwrap();
        let two =
            train_detector(&examples(2, 1), &LearnOptions { threads: 2, ..few }, &mut |_| true)
                .unwrap();
        assert_eq!(one, two);
    }

    #[test]
    fn learning_stops_when_told_and_refuses_to_start_from_nothing() {
        let mut seen = 0;
        let stopped = train_detector(&examples(1, 1), &quick(1), &mut |m| {
            seen = m.step;
            m.step < 3
        });
        assert!(matches!(stopped, Err(VisionError::Stopped)) && seen == 3);
        let mut none = examples(1, 1);
        none[0].boxes.clear();
        assert!(train_detector(&none, &quick(1), &mut |_| true).is_err());
    }

    #[test]
    fn alarms_are_gathered_evenly_and_never_at_the_start() {
        let o = LearnOptions { steps: 100, minings: 4, ..LearnOptions::default() };
        let steps: Vec<usize> = (0..100).filter(|&s| is_mining(s, &o)).collect();
        assert_eq!(steps, [20, 40, 60, 80]);
    }

    #[test]
    fn a_tile_outside_of_the_picture_is_empty_and_one_at_the_border_partly() {
        let p = Picture::filled(30, 20, [7, 8, 9]);
        let far = cut_tile(&p, (-50.0, 5.0), (8, 6), 1.0).unwrap();
        assert!(far.iter().all(Option::is_none));
        for scale in [1.0, 0.9, 1.3] {
            let edge = cut_tile(&p, (0.0, 10.0), (8, 6), scale).unwrap();
            assert_eq!((edge[0], edge[3 * 7]), (None, Some(7)), "{scale}");
            let inside = cut_tile(&p, (15.0, 10.0), (8, 6), scale).unwrap();
            assert!(inside.iter().all(Option::is_some));
        }
    }
}
