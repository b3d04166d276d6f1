//! Learning to find from pictures with boxes: a network is trained on tiles, and its own false alarms on
//! the same pictures become tiles that it is trained on next (hard negative mining, Sung and Poggio 1998).

use crate::album::{Album, Example};
use crate::detector::{Detector, SmallNetwork, decode, on_backbone, prime, quieten, small_network};
use crate::draw::{frame, put};
use crate::error::{Result, VisionError, other};
use crate::find::{FindOptions, Finder};
use crate::metrics::is_hit;
use crate::regime::Regime;
use crate::sheet::paste;
use crate::slide::{Grid, SlideOptions};
use crate::tiles::{Alarm, Tiles};
use convoke_data::{Picture, Preprocess};
use convoke_engine::{
    BOX_CHANNELS as BOX, BoxLoss, Loss, Network, Optimizer, Plan, PlanOptions, Precision, Session,
};
use convoke_formats::ModelFile;
use serde::{Deserialize, Serialize};
use std::sync::mpsc::{Receiver, sync_channel};

/// How to learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearnOptions {
    /// Rounds; after each the run can be judged, and false alarms are gathered between them.
    pub epochs: usize,
    /// Updates of a round.
    pub steps: usize,
    /// Highest learning rate.
    pub lr: f32,
    /// Weight decay of AdamW.
    pub weight_decay: f32,
    /// How many times false alarms are gathered, evenly over the rounds.
    pub minings: usize,
    /// Weight of the boxes beside the heat map.
    pub box_weight: f32,
    /// How boxes are compared.
    pub boxes: BoxLoss,
    /// What sums of products are made in.
    pub precision: Precision,
    /// Same seed, same detector.
    pub seed: u64,
    /// Threads; they change no result.
    pub threads: usize,
}

impl Default for LearnOptions {
    fn default() -> Self {
        LearnOptions {
            epochs: 10,
            steps: 500,
            lr: 4e-3,
            weight_decay: 0.03,
            minings: 3,
            box_weight: 0.3,
            boxes: BoxLoss::Giou,
            precision: Precision::F32,
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
    /// False alarms gathered so far.
    pub alarms: usize,
    /// Learning rate of the last update.
    pub lr: f32,
}

/// What a detector begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Beginning {
    /// The network, for tiles of the regime's side.
    pub network: Network,
    /// Weights and running statistics, where it has learnt before; of the layers of the same names.
    pub weights: Option<(Vec<f32>, Vec<f32>)>,
    /// How it sees pictures.
    pub preprocess: Preprocess,
}

impl Beginning {
    /// The small network with drawn weights.
    ///
    /// # Errors
    /// When the tile is too small for it.
    pub fn small(regime: &Regime, classes: usize, mut size: SmallNetwork) -> Result<Self> {
        if regime.deep {
            size.filters[4] = 128;
        }
        let network = small_network(regime.side, classes, size)?;
        let (mean, std) = (vec![0.5; 3], vec![0.25; 3]);
        let preprocess = Preprocess { mean, std, ..Preprocess::plain(regime.side, regime.side, 3) };
        Ok(Beginning { network, weights: None, preprocess })
    }

    /// A backbone of the zoo, or a model that has learnt to tell pictures apart.
    ///
    /// # Errors
    /// When it has no map to find things on.
    pub fn backbone(
        backbone: &Network,
        model: Option<&ModelFile>,
        regime: &Regime,
        classes: usize,
    ) -> Result<Self> {
        let network = on_backbone(backbone, regime.side, classes, 64)?;
        let Some(model) = model else {
            let (mean, std) = (vec![0.5; 3], vec![0.25; 3]);
            let preprocess =
                Preprocess { mean, std, ..Preprocess::plain(regime.side, regime.side, 3) };
            return Ok(Beginning { network, weights: None, preprocess });
        };
        let side = regime.side;
        let preprocess =
            Preprocess { height: side, width: side, short_side: 0, ..model.preprocess.clone() };
        // What was drawn stays where the model has nothing of that name.
        let mut session = Session::new(Plan::compile(&network, &PlanOptions::predict(1, 1))?)?;
        session.init(1);
        let (mut params, mut state) = (session.params().to_vec(), session.state().to_vec());
        let copy = |to: &mut [f32],
                    theirs: &[f32],
                    own: &[convoke_engine::Param],
                    old: &[convoke_engine::Param]| {
            for p in own {
                let same = old.iter().find(|o| o.name == p.name && o.spec.shape == p.spec.shape);
                if let Some(o) = same {
                    to[p.range.clone()].copy_from_slice(&theirs[o.range.clone()]);
                }
            }
        };
        copy(&mut params, &model.params, &network.params(), &model.network.params());
        copy(&mut state, &model.state, &network.state(), &model.network.state());
        Ok(Beginning { network, weights: Some((params, state)), preprocess })
    }
}

/// A detector while it learns.
pub struct Learner {
    album: Album,
    regime: Regime,
    classes: Vec<String>,
    options: LearnOptions,
    network: Network,
    preprocess: Preprocess,
    session: Session,
    things: Vec<Vec<(usize, usize)>>,
    alarms: Vec<Alarm>,
    moment: Moment,
    mined: usize,
    /// Pictures that could not be read.
    pub problems: Vec<String>,
}

/// Alarms of one gathering, for each picture.
const ALARMS: usize = 40;
/// More alarms than this are thinned out.
const MOST_ALARMS: usize = 200_000;

/// Pictures and targets of a batch.
type Made = Result<(Vec<f32>, Vec<f32>)>;

impl Learner {
    /// Plans the run.
    ///
    /// # Errors
    /// When there is nothing to learn from or the network does not fit.
    pub fn new(
        examples: Vec<Example>,
        classes: Vec<String>,
        regime: Regime,
        beginning: Beginning,
        options: LearnOptions,
    ) -> Result<Self> {
        let (album, problems) = Album::new(examples)?;
        let mut things = vec![Vec::new(); classes.len()];
        for (p, e) in album.examples.iter().enumerate() {
            for (t, thing) in e.things.iter().enumerate().filter(|(_, t)| !t.ignored) {
                things[thing.class].push((p, t));
            }
        }
        let Beginning { network, weights, preprocess } = beginning;
        let loss = Loss::Centres { box_weight: options.box_weight, boxes: options.boxes };
        let (beta1, beta2, epsilon) = (0.9, 0.99, 1e-8);
        let adamw = Optimizer::AdamW { beta1, beta2, epsilon, weight_decay: options.weight_decay };
        let plan = PlanOptions {
            precision: options.precision,
            keep_grads: false,
            ..PlanOptions::train(regime.batch, options.threads, loss, adamw)
        };
        let mut session = Session::new(Plan::compile(&network, &plan)?)?;
        session.init(options.seed);
        let mut params = session.params().to_vec();
        match &weights {
            Some((given, state)) => {
                params.copy_from_slice(given);
                session.set_state(state)?;
            }
            None => quieten(&network, &mut params),
        }
        prime(&network, &mut params, regime.sides);
        session.set_params(&params)?;
        let steps = options.epochs * options.steps;
        let moment = Moment { step: 0, steps, loss: 0.0, alarms: 0, lr: 0.0 };
        let (alarms, mined) = (Vec::new(), 0);
        Ok(Learner {
            album,
            regime,
            classes,
            options,
            network,
            preprocess,
            session,
            things,
            alarms,
            moment,
            mined,
            problems,
        })
    }

    /// The regime.
    pub fn regime(&self) -> &Regime {
        &self.regime
    }

    /// Where it is.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        self.session.plan()
    }

    /// The detector as it is now.
    pub fn detector(&self) -> Detector {
        Detector {
            model: ModelFile {
                network: self.network.clone(),
                classes: self.classes.clone(),
                preprocess: self.preprocess.clone(),
                task: "find".into(),
                params: self.session.params().to_vec(),
                state: self.session.state().to_vec(),
                facts: Default::default(),
                extra: Default::default(),
            },
            object: self.regime.sides,
            scales: self.regime.scales.clone(),
            sizes: self.regime.sizes,
            threshold: 0.4,
        }
    }

    /// Learns up to the end of the current round; false alarms are gathered first where it is time to.
    /// `each` is told how it goes and says whether to go on.
    ///
    /// # Errors
    /// [`VisionError::Stopped`] when the caller stops (the learner can be saved and goes on from there);
    /// when the loss is no number or a picture cannot be read.
    pub fn epoch(&mut self, each: &mut dyn FnMut(Moment) -> bool) -> Result<()> {
        let o = &self.options;
        let (threads, seed) = (o.threads, o.seed);
        let end = (self.moment.step / o.steps + 1) * o.steps;
        let due = self.moment.step / o.steps * (o.minings + 1) / o.epochs.max(1);
        if due > self.mined {
            self.mine(each)?;
            self.mined = due;
        }
        let (batch, classes) = (self.regime.batch, self.classes.len());
        // Field by field: the session is changed beside them.
        let tiles = Tiles {
            album: &self.album,
            regime: &self.regime,
            grid: Grid::of_tile(&self.network),
            pre: &self.preprocess,
            classes,
            alarms: &self.alarms,
            things: &self.things,
            seed,
        };
        let (session, moment, options) = (&mut self.session, &mut self.moment, &self.options);
        let (first, places) = (moment.step, tiles.grid.height * tiles.grid.width * (classes + BOX));
        std::thread::scope(|scope| {
            // Thread t makes every batch that leaves the remainder t: the order is always the same.
            let makers: Vec<Receiver<Made>> = (0..threads)
                .map(|t| {
                    let (send, receive) = sync_channel(1);
                    let tiles = &tiles;
                    scope.spawn(move || {
                        for step in (first..end).filter(|s| s % threads == t) {
                            if send.send(batch_of(tiles, step, batch, places)).is_err() {
                                return;
                            }
                        }
                    });
                    receive
                })
                .collect();
            for step in first..end {
                let made = makers[step % threads].recv();
                let (input, targets) = made.map_err(|_| {
                    VisionError::Other("a thread that cuts tiles has died".into())
                })??;
                session.input_mut().copy_from_slice(&input);
                session.targets_mut().copy_from_slice(&targets);
                moment.lr = rate(step, moment.steps, options.lr);
                let report = session.step(moment.lr)?;
                if !report.loss.is_finite() {
                    return other(format!(
                        "the loss is no number after {step} steps{}; use a lower --lr than {}",
                        session.where_not_finite(),
                        options.lr
                    ));
                }
                moment.step = step + 1;
                moment.loss += (if step == 0 { 1.0 } else { 0.03 }) * (report.loss - moment.loss);
                if !each(*moment) {
                    return Err(VisionError::Stopped);
                }
            }
            Ok(())
        })
    }

    /// The first tiles of the next round as the network sees them, eight in a row, with the boxes that it
    /// should tell and, in green, what it is asked nothing about.
    ///
    /// # Errors
    /// When a picture cannot be read.
    pub fn tile_sheet(&self, n: usize) -> Result<Picture> {
        let (side, c) = (self.regime.side, self.classes.len() + BOX);
        let tiles = self.tiles();
        let (rows, gap) = (n.div_ceil(8), 4);
        let mut sheet = Picture::filled(8 * (side + gap) + gap, rows * (side + gap) + gap, [30; 3]);
        let mut input = vec![0.0; side * side * 3];
        let mut targets = vec![0.0; tiles.grid.height * tiles.grid.width * c];
        let first = self.moment.step * self.regime.batch;
        for k in 0..n {
            tiles.make((first + k) as u64, &mut input, &mut targets)?;
            let mut tile = self.seen(&input);
            for (place, t) in targets.chunks_exact(c).enumerate() {
                let at = (place / tiles.grid.width, place % tiles.grid.width);
                if t[..c - BOX].iter().any(|&h| h >= 1.0) {
                    let b = decode(&tiles.grid, at, &t[c - BOX..]);
                    frame(&mut tile, &b, 0, 1, [255, 46, 84]);
                } else if t[..c - BOX].iter().any(|&h| h < 0.0) {
                    let (x, y) = tiles.grid.point(at.0 as f64, at.1 as f64);
                    for d in 0..9 {
                        put(
                            &mut tile,
                            x as isize + d % 3 - 1,
                            y as isize + d / 3 - 1,
                            [60, 220, 90],
                        );
                    }
                }
            }
            paste(&mut sheet, &tile, gap + k % 8 * (side + gap), gap + k / 8 * (side + gap));
        }
        Ok(sheet)
    }

    /// A tile's pixels back from the network's numbers.
    fn seen(&self, input: &[f32]) -> Picture {
        let (side, pre) = (self.regime.side, &self.preprocess);
        let level = |(i, v): (usize, &f32)| {
            let c = i % 3;
            ((v * pre.std[c] + pre.mean[c]) * 255.0).round().clamp(0.0, 255.0) as u8
        };
        let data = input.iter().enumerate().map(level).collect();
        Picture { width: side, height: side, channels: 3, data }
    }

    fn tiles(&self) -> Tiles<'_> {
        Tiles {
            album: &self.album,
            regime: &self.regime,
            grid: Grid::of_tile(&self.network),
            pre: &self.preprocess,
            classes: self.classes.len(),
            alarms: &self.alarms,
            things: &self.things,
            seed: self.options.seed,
        }
    }

    /// Whether all rounds are done.
    pub fn is_done(&self) -> bool {
        self.moment.step >= self.moment.steps
    }

    /// Gathers the detector's best wrong places.
    fn mine(&mut self, each: &mut dyn FnMut(Moment) -> bool) -> Result<()> {
        let threads = self.options.threads;
        let slide = SlideOptions { threads, exact: false, ..SlideOptions::default() };
        let mut finder = Finder::new(self.detector(), slide)?;
        let options =
            FindOptions { top: ALARMS, least: Some(0.03), mirror: false, ..FindOptions::default() };
        let (n, mut new) = (self.album.examples.len(), Vec::new());
        // Of many pictures a part, another one each time.
        let step = n.div_ceil(200);
        for i in (self.mined % step..n).step_by(step) {
            if !each(self.moment) {
                return Err(VisionError::Stopped);
            }
            let Ok(halves) = self.album.halves(i) else { continue };
            let found = finder.find(halves.at(1.0).0, &options)?;
            let things = &self.album.examples[i].things;
            for c in &found.candidates {
                if !things.iter().any(|t| is_hit(&c.bounds, &t.bounds)) {
                    // As exact as a checkpoint keeps it.
                    let short = |v: f64| f64::from(v as f32);
                    let (x, y) = c.bounds.centre();
                    let at = (short(x), short(y));
                    new.push(Alarm { picture: i, at, scale: short(c.scale) });
                }
            }
        }
        self.alarms.append(&mut new);
        if self.alarms.len() > MOST_ALARMS {
            let old = self.alarms.len() - MOST_ALARMS;
            self.alarms.drain(..old);
        }
        self.moment.alarms = self.alarms.len();
        Ok(())
    }

    /// Everything that a run goes on from.
    pub fn checkpoint(&self) -> ModelFile {
        let mut model = self.detector().to_model();
        model.task = "checkpoint".into();
        let mut fact = |name: &str, value: String| model.facts.insert(name.into(), value);
        fact("steps", self.session.steps().to_string());
        fact("mined", self.mined.to_string());
        fact("loss", self.moment.loss.to_string());
        fact("terms", self.terms());
        model.extra.insert("optimizer".into(), self.session.optimizer_state().to_vec());
        // Numbers up to 2^24 are exact; pictures are far larger in no direction.
        let flat = |a: &Alarm| [a.picture as f32, a.at.0 as f32, a.at.1 as f32, a.scale as f32];
        if !self.alarms.is_empty() {
            model.extra.insert("alarms".into(), self.alarms.iter().flat_map(flat).collect());
        }
        model
    }

    /// Goes on from a checkpoint of the same run.
    ///
    /// # Errors
    /// When it is one of another run.
    pub fn resume(&mut self, checkpoint: &ModelFile) -> Result<()> {
        let fact = |name: &str| checkpoint.facts.get(name).map(String::as_str).unwrap_or_default();
        let (steps, mined) = (fact("steps").parse::<u64>(), fact("mined").parse::<usize>());
        let (Ok(steps), Ok(mined), "checkpoint") = (steps, mined, checkpoint.task.as_str()) else {
            return other("the file is no checkpoint of a detector; train anew");
        };
        if fact("terms") != self.terms()
            || checkpoint.network != self.network
            || steps > self.moment.steps as u64
        {
            return other("the checkpoint is of a run with other data or options; train anew");
        }
        let empty = Vec::new();
        let alarm = |a: &[f32]| {
            let picture = (a[0].max(0.0) as usize).min(self.album.examples.len() - 1);
            Alarm {
                picture,
                at: (f64::from(a[1]), f64::from(a[2])),
                scale: f64::from(a[3]).clamp(1e-3, 64.0),
            }
        };
        let alarms = checkpoint.extra.get("alarms").unwrap_or(&empty);
        if !alarms.len().is_multiple_of(4) || !alarms.iter().all(|v| v.is_finite()) {
            return other("the checkpoint's false alarms are no places; train anew");
        }
        self.alarms = alarms.chunks_exact(4).map(alarm).collect();
        self.session.set_params(&checkpoint.params)?;
        self.session.set_state(&checkpoint.state)?;
        self.session.resume(checkpoint.extra.get("optimizer").unwrap_or(&empty), steps)?;
        self.mined = mined;
        self.moment.step = steps as usize;
        self.moment.loss = fact("loss").parse().unwrap_or(0.0);
        self.moment.alarms = self.alarms.len();
        Ok(())
    }

    /// What must be the same for the bits to be the same.
    fn terms(&self) -> String {
        let o = LearnOptions { threads: 0, ..self.options.clone() };
        let things: Vec<usize> = self.things.iter().map(Vec::len).collect();
        format!(
            "{} pictures, {things:?} things, {o:?}, {:?}",
            self.album.examples.len(),
            self.regime
        )
    }
}

/// Batch number `step`.
fn batch_of(
    tiles: &Tiles,
    step: usize,
    batch: usize,
    places: usize,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let len = tiles.regime.side * tiles.regime.side * 3;
    let (mut input, mut targets) = (vec![0.0; batch * len], vec![0.0; batch * places]);
    let both = input.chunks_exact_mut(len).zip(targets.chunks_exact_mut(places));
    for (k, (x, t)) in both.enumerate() {
        tiles.make((step * batch + k) as u64, x, t)?;
    }
    Ok((input, targets))
}

/// Linear warm-up over a twentieth of the steps, then half a cosine down to zero.
fn rate(step: usize, steps: usize, lr: f32) -> f32 {
    let t = (step as f32 + 1.0) / steps.max(1) as f32;
    let warm = (t / 0.05).min(1.0);
    lr * warm * 0.5 * (1.0 + (std::f32::consts::PI * t.min(1.0)).cos())
}

/// Trains a detector with the small network, as the data asks for. `each` is told how it goes and says
/// whether to go on.
///
/// # Errors
/// When there is nothing to learn from, the caller stops, or the loss is no number.
pub fn train_detector(
    examples: Vec<Example>,
    classes: Vec<String>,
    options: LearnOptions,
    each: &mut dyn FnMut(Moment) -> bool,
) -> Result<Detector> {
    let (regime, _) = Regime::choose(&examples, &classes, 32)?;
    let beginning = Beginning::small(&regime, classes.len(), SmallNetwork::default())?;
    let mut learner = Learner::new(examples, classes, regime, beginning, options)?;
    while !learner.is_done() {
        learner.epoch(each)?;
    }
    Ok(learner.detector())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::Bounds;
    use convoke_data::Picture;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

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
            Example::new(p, boxes)
        };
        (0..count).map(|_| example()).collect()
    }

    fn options(threads: usize) -> LearnOptions {
        LearnOptions { epochs: 10, steps: 25, minings: 1, threads, ..LearnOptions::default() }
    }

    fn learner(threads: usize) -> Learner {
        let (examples, classes) = (examples(4, 1), vec!["cross".to_string()]);
        let (mut regime, _) = Regime::choose(&examples, &classes, 32).unwrap();
        regime.batch = 8;
        let beginning = Beginning::small(&regime, 1, SmallNetwork::default()).unwrap();
        Learner::new(examples, classes, regime, beginning, options(threads)).unwrap()
    }

    fn run(learner: &mut Learner, until: usize) {
        while !learner.is_done() && learner.moment().step < until {
            match learner.epoch(&mut |m| m.step < until) {
                Ok(()) | Err(VisionError::Stopped) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    #[test]
    fn crosses_are_learnt_in_seconds_with_the_same_bits_for_any_threads_and_after_a_pause() {
        let mut whole = learner(1);
        run(&mut whole, usize::MAX);
        let mut first = learner(2);
        run(&mut first, 37);
        let saved = first.checkpoint();
        let mut second = learner(3);
        second.resume(&ModelFile::from_bytes(&bytes(&saved)).unwrap()).unwrap();
        run(&mut second, usize::MAX);
        assert!(whole.moment().alarms > 0);
        assert!(whole.detector().model.params == second.detector().model.params, "bits differ");
        let mut finder = Finder::new(whole.detector(), SlideOptions::default()).unwrap();
        for e in examples(2, 77) {
            let found = finder.find(&e.picture().unwrap(), &FindOptions::default()).unwrap();
            let right =
                |c: &crate::find::Candidate| e.things.iter().any(|t| t.bounds.iou(&c.bounds) > 0.5);
            assert!(found.candidates[..4].iter().all(right), "{:?}", found.candidates);
        }
        let mut other = learner(1);
        other.options.lr = 1e-3;
        assert!(other.resume(&saved).is_err());
        for alarms in [vec![0.0, f32::NAN, 1.0, 1.0], vec![0.0, 1.0, 1.0]] {
            let mut broken = saved.clone();
            broken.extra.insert("alarms".into(), alarms);
            assert!(learner(1).resume(&broken).is_err());
        }
    }

    fn bytes(model: &ModelFile) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        model.save(&path).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn nothing_to_learn_from_is_told() {
        let none = Example::new(Picture::filled(100, 100, [0; 3]), []);
        let e =
            train_detector(vec![none], vec!["a".into()], options(1), &mut |_| true).unwrap_err();
        assert!(e.to_string().contains("no box"), "{e}");
    }
}
