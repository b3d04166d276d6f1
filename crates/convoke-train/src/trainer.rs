//! The training run: batches beside steps, an evaluation and a checkpoint after every epoch.

use crate::checkpoint::{self, Position, Terms};
use crate::error::{Result, TrainError, other};
use crate::metrics::Evaluation;
use crate::plot;
use crate::predict::evaluate;
use crate::range_test::{RangeTest, RateCurve};
use crate::run::{EpochRow, RunFolder};
use crate::schedule::{Rates, Schedule};
use crate::tuning::FineTune;
use convoke_data::{Augment, Dataset, Loader, LoaderOptions, Preprocess, Problem, write_png};
use convoke_engine::layers::Layer;
use convoke_engine::{
    Loss, Mode, Network, Node, Optimizer, Plan, PlanOptions, Precision, Session, Shape,
};
use convoke_formats::ModelFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Everything that a run is told; kept as `args.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Passes over the training split.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Largest learning rate.
    pub lr: f32,
    /// Epochs over which the rate first rises.
    #[serde(default)]
    pub warmup: f32,
    /// Share of the target spread over all classes.
    #[serde(default)]
    pub label_smoothing: f32,
    /// Whether weight decay also applies to biases and norms.
    #[serde(default)]
    pub decay_all: bool,
    /// Seed of weights, order, augmentation and dropout.
    pub seed: u64,
    /// Threads; they change no result.
    pub threads: usize,
    /// Bytes of decoded pictures that may be kept in memory.
    pub cache: usize,
    /// Whether every class comes equally often in training.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub balanced: bool,
    /// Whether the loss of rare classes weighs more: by `samples / (classes · samples of the class)`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub class_weights: bool,
    /// Seconds between two checkpoints within an epoch; there is one after every epoch anyway.
    #[serde(default = "five_minutes")]
    pub checkpoint_seconds: u64,
    /// What sums of products are made in.
    #[serde(default)]
    pub precision: Precision,
    /// How the learning rate moves.
    pub schedule: Schedule,
    /// How weights follow gradients.
    pub optimizer: Optimizer,
    /// Random changes of the training pictures.
    pub augment: Augment,
    /// Epochs between two evaluations; the last is always evaluated.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub judge_every: usize,
    /// Which layers learn when and how fast, for networks that have learnt already.
    #[serde(default, skip_serializing_if = "FineTune::is_default")]
    pub fine_tune: FineTune,
}

/// Learning rate of SGD for each sample of the batch.
const SGD: f32 = 0.1 / 128.0;

fn five_minutes() -> u64 {
    300
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

/// Files are not written more often: epochs of small sets take milliseconds.
const WRITE_EVERY: Duration = Duration::from_secs(1);

impl TrainOptions {
    /// What works for most sets: SGD with momentum and Nesterov, for signals Adam; one cycle, decay on weights
    /// alone, augmentation by the kind of data. The rate is that of a network with batch norm; see
    /// [`TrainOptions::rate`].
    pub fn suited(epochs: usize, batch: usize, pre: &Preprocess, threads: usize) -> Self {
        let optimizer = match pre.signal {
            Some(_) => {
                Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
            }
            None => Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 },
        };
        TrainOptions {
            epochs,
            batch,
            lr: SGD * batch as f32,
            warmup: 0.0,
            label_smoothing: 0.0,
            decay_all: false,
            seed: 0,
            threads,
            precision: Precision::F32,
            cache: 1 << 30,
            balanced: false,
            class_weights: false,
            checkpoint_seconds: five_minutes(),
            judge_every: 1,
            schedule: Schedule::OneCycle,
            optimizer,
            augment: Augment::suited(pre),
            fine_tune: FineTune::default(),
        }
    }

    /// A learning rate to begin with: 0.001 for Adam and AdamW; for SGD 0.1 for every 128 samples of
    /// the batch with batch norm and 0.04 without. AlexNet on 64-pixel satellite pictures stays at
    /// the chance level with 0.1 and learns with 0.04; LeNet-5 learns as well with either.
    pub fn rate(network: &Network, optimizer: Optimizer, batch: usize) -> f32 {
        let normed = |n: &Node| matches!(n.layer, Some(Layer::BatchNorm(_)));
        match optimizer {
            Optimizer::Adam { .. } | Optimizer::AdamW { .. } => 1e-3,
            Optimizer::Sgd { .. } if network.nodes().iter().any(normed) => SGD * batch as f32,
            Optimizer::Sgd { .. } => 0.4 * SGD * batch as f32,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchInfo {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Batches of this epoch done.
    pub batch: usize,
    /// Batches of an epoch.
    pub batches: usize,
    /// Mean loss of this epoch so far.
    pub loss: f64,
    /// Share right in this epoch so far (with augmentation and dropout).
    pub top1: f64,
    /// Pictures a second since the epoch began.
    pub pictures_per_second: f64,
    /// Seconds that the rest of the run will take at this speed.
    pub seconds_left: f64,
}

/// Hears how a run goes.
pub trait Progress {
    /// After every batch.
    fn batch(&mut self, info: &BatchInfo);
    /// After every epoch.
    fn epoch(&mut self, row: &EpochRow);
    /// After every epoch, with all weights as they are by then.
    fn weights(&mut self, _row: &EpochRow, _network: &Network, _params: &[f32]) {}
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs are done.
    Done {
        /// The evaluation of the last epoch, where there is a split to judge by.
        last: Option<Evaluation>,
        /// Best share right, and its epoch (from 1).
        best: Option<(f64, usize)>,
    },
    /// It was asked to stop; the checkpoint continues it.
    Interrupted,
}

/// A run: network, data, options, and the folder it writes to.
pub struct Trainer<'a> {
    network: Network,
    dataset: &'a Dataset,
    preprocess: Preprocess,
    options: TrainOptions,
    folder: RunFolder,
    session: Session,
    /// Whether the session is one in which only the last layer learns.
    head: bool,
    judge: Option<(Session, Loader)>,
    loader: Loader,
    terms: Terms,
    at: Position,
    rows: Vec<EpochRow>,
    /// What the model is to say of itself further.
    facts: BTreeMap<String, String>,
    saved: Instant,
    /// Models of the last and the best epoch that are not written yet.
    pending: [Option<ModelFile>; 2],
    /// When they were written last.
    written: Option<Instant>,
}

impl<'a> Trainer<'a> {
    /// Plans the run. Its weights are drawn from the seed.
    ///
    /// # Errors
    /// When the network does not fit the data or the machine's memory.
    pub fn new(
        network: Network,
        dataset: &'a Dataset,
        preprocess: Preprocess,
        options: TrainOptions,
        folder: RunFolder,
    ) -> Result<Self> {
        let n = dataset.train.len();
        if options.batch == 0 || options.batch > n {
            return other(format!(
                "batch {} does not fit {n} training samples; use --batch {} or less",
                options.batch,
                n.max(1)
            ));
        }
        if !(options.lr.is_finite() && options.lr > 0.0) {
            return other(format!("learning rate {} must be a positive number", options.lr));
        }
        check(&network, dataset.classes.len(), &preprocess)?;
        options.fine_tune.check(&network).map_err(TrainError::Other)?;
        let (batch, threads) = (options.batch, options.threads);
        let head = options.fine_tune.head_epochs > 0;
        let mut session = session(&network, &options, dataset, head)?;
        session.init(options.seed);
        let loader_options = LoaderOptions {
            batch,
            seed: options.seed,
            workers: threads,
            training: true,
            cache: options.cache,
            balanced: options.balanced,
        };
        let loader = Loader::new(
            &dataset.train,
            &preprocess,
            Some(&options.augment),
            loader_options.clone(),
        )?;
        let judge = match dataset.eval() {
            Some(split) => {
                let batch = batch.min(64).min(split.len());
                let judge_options = LoaderOptions { batch, training: false, ..loader_options };
                let loader = Loader::new(split, &preprocess, None, judge_options)?;
                let plan = PlanOptions {
                    precision: options.precision,
                    ..PlanOptions::predict(batch, threads)
                };
                Some((Session::new(Plan::compile(&network, &plan)?)?, loader))
            }
            None => None,
        };
        Ok(Trainer {
            terms: terms(&options, dataset)?,
            at: Position::default(),
            rows: Vec::new(),
            facts: BTreeMap::new(),
            saved: Instant::now(),
            pending: [None, None],
            written: None,
            network,
            dataset,
            preprocess,
            options,
            folder,
            session,
            head,
            judge,
            loader,
        })
    }

    /// The plan of a step in which all layers learn that ever do.
    ///
    /// # Errors
    /// When it does not fit the machine's memory.
    pub fn plan(&self) -> Result<Plan> {
        plan(&self.network, &self.options, false)
    }

    /// All weights as they are now.
    pub fn params(&self) -> &[f32] {
        self.session.params()
    }

    /// Something that the model files are to say of the model.
    pub fn set_fact(&mut self, name: &str, value: &str) {
        self.facts.insert(name.into(), value.into());
    }

    /// Pictures that could not be read so far.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all = self.loader.problems();
        all.extend(self.judge.iter().flat_map(|(_, l)| l.problems()));
        all
    }

    /// Starts from given weights instead of drawn ones.
    ///
    /// # Errors
    /// When they do not fit the network.
    pub fn set_weights(&mut self, params: &[f32], state: &[f32]) -> Result<()> {
        self.session.set_params(params)?;
        Ok(self.session.set_state(state)?)
    }

    /// Continues where the checkpoint stands.
    ///
    /// # Errors
    /// When the checkpoint is of another network, other options or other data.
    pub fn resume(&mut self, checkpoint: &ModelFile) -> Result<()> {
        if checkpoint.network != self.network
            || checkpoint.classes != self.dataset.classes
            || checkpoint.preprocess != self.preprocess
        {
            return other(
                "the checkpoint is of another network, classes or preprocessing; train anew with --model",
            );
        }
        let (at, steps, optimizer) =
            checkpoint::read(checkpoint, &self.terms, self.loader.batches())?;
        self.enter(at.epoch < self.options.fine_tune.head_epochs)?;
        self.set_weights(&checkpoint.params, &checkpoint.state)?;
        self.session.resume(optimizer, steps)?;
        self.session.set_seed(self.options.seed);
        let kept = ["norms", "source"].iter().filter_map(|k| checkpoint.facts.get_key_value(*k));
        self.facts.extend(kept.map(|(k, v)| (k.clone(), v.clone())));
        self.rows = self.folder.read_rows()?.into_iter().filter(|r| r.epoch <= at.epoch).collect();
        self.at = at;
        Ok(())
    }

    /// Runs to the end, or until `stop` is set; then a checkpoint is left.
    ///
    /// # Errors
    /// When the loss is no number any more, nothing can be read, or the folder cannot be written.
    pub fn run(&mut self, progress: &mut dyn Progress, stop: &AtomicBool) -> Result<Outcome> {
        self.saved = Instant::now();
        let mut last = None;
        while self.at.epoch < self.options.epochs {
            let start = Instant::now();
            self.enter(self.at.epoch < self.options.fine_tune.head_epochs)?;
            let speed = self.epoch(progress, stop)?;
            let judged = match speed {
                Some(_) if !self.judges() => Some(None),
                Some(_) => self.judge(stop)?,
                None => None,
            };
            let (Some(speed), Some(evaluation)) = (speed, judged) else {
                self.checkpoint()?;
                return Ok(Outcome::Interrupted);
            };
            let row = self.row(evaluation.as_ref(), start.elapsed().as_secs_f64(), speed);
            progress.epoch(&row);
            progress.weights(&row, &self.network, self.session.params());
            self.finish_epoch(row, evaluation.as_ref())?;
            last = Some(evaluation);
        }
        // A run that was complete already is judged all the same.
        let last = match last {
            Some(evaluation) => evaluation,
            None => self.judge(stop)?.flatten(),
        };
        Ok(Outcome::Done { last, best: self.at.best })
    }

    /// Changes between the session in which only the last layer learns and the one in which all do;
    /// weights, optimizer and steps go along.
    fn enter(&mut self, head: bool) -> Result<()> {
        if self.head == head {
            return Ok(());
        }
        let mut session = session(&self.network, &self.options, self.dataset, head)?;
        session.set_params(self.session.params())?;
        session.set_state(self.session.state())?;
        session.resume(self.session.optimizer_state(), self.session.steps())?;
        session.set_seed(self.options.seed);
        (self.session, self.head) = (session, head);
        Ok(())
    }

    /// Finds a learning rate by trying ever larger ones ([`RateCurve`]) and takes it. The weights are
    /// afterwards what they were.
    ///
    /// # Errors
    /// When nothing can be read, no rate lowers the loss, or it was asked to stop.
    pub fn find_rate(&mut self, stop: &AtomicBool) -> Result<RateCurve> {
        let head = self.head;
        self.enter(false)?;
        let (params, state) = (self.session.params().to_vec(), self.session.state().to_vec());
        let moments = self.session.optimizer_state().to_vec();
        let (mut test, mut epoch) = (RangeTest::default(), 0);
        self.loader.start(epoch, 0);
        while let Some(lr) = test.next() {
            if stop.load(Ordering::Relaxed) {
                return other("stopped while looking for a learning rate; nothing was trained");
            }
            let batch = match self.loader.next_batch() {
                Some(batch) => batch,
                None if epoch < 1000 && self.loader.problems().len() < self.dataset.train.len() => {
                    epoch += 1;
                    self.loader.start(epoch, 0);
                    continue;
                }
                None => {
                    return other(format!("no training picture can be read{}", why(&self.loader)));
                }
            };
            self.session.input_mut().copy_from_slice(&batch.pixels);
            self.session.labels_mut().copy_from_slice(&batch.labels);
            self.loader.recycle(batch);
            let report = self.session.step(lr)?;
            if !test.add(lr, report.loss) {
                break;
            }
        }
        self.set_weights(&params, &state)?;
        self.session.resume(&moments, 0)?;
        self.enter(head)?;
        let Some(curve) = test.finish() else {
            return other("no learning rate lowers the loss; give one with --lr");
        };
        self.options.lr = curve.lr;
        self.terms = terms(&self.options, self.dataset)?;
        write_png(&self.folder.path().join("lr.png"), &plot::rates(&curve))?;
        self.folder.write("lr.csv", &curve.csv())?;
        Ok(curve)
    }

    /// The learning rate of a step, counted from 0 over the whole run.
    fn rate(&self, step: u64) -> f32 {
        let epoch = self.loader.batches() as u64;
        let head = epoch * self.options.fine_tune.head_epochs.min(self.options.epochs) as u64;
        if step < head {
            return self.options.lr;
        }
        let rates = Rates {
            schedule: self.options.schedule,
            lr: self.options.lr,
            steps: epoch * self.options.epochs as u64 - head,
            epoch,
            warmup: (self.options.warmup.max(0.0) * epoch as f32) as u64,
        };
        rates.at(step - head)
    }

    /// The rest of an epoch: pictures a second, or `None` when it was asked to stop.
    fn epoch(&mut self, progress: &mut dyn Progress, stop: &AtomicBool) -> Result<Option<f64>> {
        let batches = self.loader.batches();
        let first = self.at.batch;
        let start = Instant::now();
        self.loader.start(self.at.epoch as u64, first);
        while self.at.batch < batches {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            self.step(self.rate(self.session.steps()))?;
            if self.saved.elapsed().as_secs() >= self.options.checkpoint_seconds {
                self.checkpoint()?;
            }
            let done = self.at.batch - first;
            let seconds = start.elapsed().as_secs_f64();
            let left = (self.options.epochs - self.at.epoch) * batches - self.at.batch;
            progress.batch(&BatchInfo {
                epoch: self.at.epoch,
                epochs: self.options.epochs,
                batch: self.at.batch,
                batches,
                loss: self.at.loss / self.at.batch as f64,
                top1: self.at.correct as f64 / (self.at.batch * self.options.batch) as f64,
                pictures_per_second: (done * self.options.batch) as f64 / seconds,
                seconds_left: seconds / done as f64 * left as f64,
            });
        }
        let pictures = (batches - first) * self.options.batch;
        Ok(Some(pictures as f64 / start.elapsed().as_secs_f64()))
    }

    /// One batch.
    fn step(&mut self, lr: f32) -> Result<()> {
        let Some(batch) = self.loader.next_batch() else {
            return other(format!("no training picture can be read{}", why(&self.loader)));
        };
        self.session.input_mut().copy_from_slice(&batch.pixels);
        self.session.labels_mut().copy_from_slice(&batch.labels);
        self.loader.recycle(batch);
        let report = self.session.step(lr)?;
        if !report.loss.is_finite() {
            return Err(self.diverged());
        }
        self.at.batch += 1;
        self.at.loss += f64::from(report.loss);
        self.at.correct += report.correct;
        Ok(())
    }

    /// Whether this epoch is evaluated.
    fn judges(&self) -> bool {
        let epoch = self.at.epoch + 1;
        epoch == self.options.epochs || epoch.is_multiple_of(self.options.judge_every.max(1))
    }

    /// Numbers that are none any more: where, when, and what is still good.
    fn diverged(&self) -> TrainError {
        let place = self.session.where_not_finite();
        let checkpoint = self.folder.checkpoint();
        let kept = match checkpoint.is_file() {
            true => format!("; the last good weights are in {}", checkpoint.display()),
            false => String::new(),
        };
        TrainError::Other(format!(
            "the loss is no number any more at epoch {}, batch {} (step {}){place}; use a lower --lr \
             than {}{kept}",
            self.at.epoch + 1,
            self.at.batch + 1,
            self.session.steps() + 1,
            self.options.lr,
        ))
    }

    /// Evaluates where there is a split to judge by; `None` when it was asked to stop.
    fn judge(&mut self, stop: &AtomicBool) -> Result<Option<Option<Evaluation>>> {
        let Some((session, loader)) = &mut self.judge else { return Ok(Some(None)) };
        session.set_params(self.session.params())?;
        session.set_state(self.session.state())?;
        let evaluation = evaluate(session, loader, self.dataset.classes.len(), stop)?;
        if evaluation.as_ref().is_some_and(|e| e.n == 0) {
            return other(format!("no validation picture can be read{}", why(loader)));
        }
        Ok(evaluation.map(Some))
    }

    fn row(&self, e: Option<&Evaluation>, seconds: f64, pictures_per_second: f64) -> EpochRow {
        let batches = self.loader.batches();
        EpochRow {
            epoch: self.at.epoch + 1,
            train_loss: self.at.loss / batches as f64,
            train_top1: self.at.correct as f64 / (batches * self.options.batch) as f64,
            on_test: self.dataset.val.is_none(),
            val_loss: e.map(|e| e.loss),
            val_top1: e.map(|e| e.top1),
            val_top5: e.map(|e| e.top5),
            lr: f64::from(self.rate(self.session.steps().saturating_sub(1))),
            seconds,
            pictures_per_second,
        }
    }

    fn finish_epoch(&mut self, row: EpochRow, e: Option<&Evaluation>) -> Result<()> {
        self.check_weights()?;
        let top1 = e.map_or(row.train_top1, |e| e.top1);
        let judged = e.is_some() || self.judge.is_none();
        // Of signals without a validation part the last epoch is taken: choosing by the test part would flatter.
        let latest = self.dataset.is_signals() && self.dataset.val.is_none();
        let better = judged && (latest || self.at.best.is_none_or(|(best, _)| top1 > best));
        if better {
            self.at.best = Some((top1, row.epoch));
        }
        self.rows.push(row);
        (self.at.epoch, self.at.batch) = (self.at.epoch + 1, 0);
        (self.at.loss, self.at.correct) = (0.0, 0);
        let model = self.model(e);
        if better {
            self.pending[1] = Some(model.clone());
        }
        self.pending[0] = Some(model);
        let last = self.at.epoch == self.options.epochs;
        if last || self.written.is_none_or(|w| w.elapsed() >= WRITE_EVERY) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Writes what epochs have left to write.
    fn write(&mut self) -> Result<()> {
        let [last, best] = std::mem::take(&mut self.pending);
        let Some(last) = last else { return Ok(()) };
        last.save(&self.folder.last())?;
        if let Some(best) = best {
            best.save(&self.folder.best())?;
        }
        self.written = Some(Instant::now());
        self.folder.write_rows(&self.rows)
    }

    fn model(&self, e: Option<&Evaluation>) -> ModelFile {
        let mut facts = self.facts.clone();
        facts.insert("epochs".into(), self.at.epoch.to_string());
        if let Some(e) = e {
            facts.insert("top1".into(), e.top1.to_string());
        }
        ModelFile {
            network: self.network.clone(),
            classes: self.dataset.classes.clone(),
            preprocess: self.preprocess.clone(),
            task: "classify".into(),
            params: self.session.params().to_vec(),
            state: self.session.state().to_vec(),
            facts,
            extra: BTreeMap::new(),
        }
    }

    /// Weights that are no numbers replace no good ones on disk.
    fn check_weights(&self) -> Result<()> {
        match self.session.params().iter().all(|p| p.is_finite()) {
            true => Ok(()),
            false => Err(self.diverged()),
        }
    }

    /// Writes what [`Trainer::resume`] needs.
    ///
    /// # Errors
    /// When the weights are no numbers any more, or the folder cannot be written.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.check_weights()?;
        self.write()?;
        let mut model = self.model(None);
        let optimizer = self.session.optimizer_state();
        checkpoint::write(&mut model, &self.at, self.session.steps(), &self.terms, optimizer);
        model.save(&self.folder.checkpoint())?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// The plan of a step; `head` where only the last layer learns.
pub(crate) fn plan(network: &Network, options: &TrainOptions, head: bool) -> Result<Plan> {
    let mode = Mode::Train {
        loss: Loss::SoftmaxCrossEntropy { label_smoothing: options.label_smoothing },
        optimizer: options.optimizer,
        decay_all: options.decay_all,
    };
    let tuning = options.fine_tune.tuning(network, head);
    let predict = PlanOptions::predict(options.batch, options.threads);
    let precision = options.precision;
    let options = PlanOptions { mode, precision, tuning, keep_grads: false, ..predict };
    Ok(Plan::compile(network, &options)?)
}

/// The session of a step.
fn session(
    network: &Network,
    options: &TrainOptions,
    dataset: &Dataset,
    head: bool,
) -> Result<Session> {
    let mut session = Session::new(plan(network, options, head)?)?;
    if options.class_weights {
        let counts = dataset.train.counts(dataset.classes.len());
        session.set_class_weights(&class_weights(&counts))?;
    }
    Ok(session)
}

/// Weights by which all classes count alike in the sum of losses: `samples / (classes · samples of the class)`,
/// 1 on average over the samples (scikit-learn's `balanced`). A class without samples weighs nothing and is not
/// counted.
pub fn class_weights(counts: &[usize]) -> Vec<f32> {
    let all: usize = counts.iter().sum();
    let classes = counts.iter().filter(|n| **n > 0).count();
    let weight = |n: &usize| match *n {
        0 => 0.0,
        n => (all as f64 / (classes * n) as f64) as f32,
    };
    counts.iter().map(weight).collect()
}

/// Whether pictures fit the network's input and classes its output.
fn check(network: &Network, classes: usize, pre: &Preprocess) -> Result<()> {
    let input = Shape::new(pre.height, pre.width, pre.channels);
    if network.input_shape() != input {
        return other(format!(
            "network `{}` takes {} but the preprocessing makes {input}; make them equal",
            network.name(),
            network.input_shape()
        ));
    }
    if network.output_shape() != Shape::vector(classes) {
        return other(format!(
            "network `{}` ends in {} but the data has {classes} classes; end it in a dense layer of {classes}",
            network.name(),
            network.output_shape()
        ));
    }
    Ok(())
}

/// The first picture that could not be read.
fn why(loader: &Loader) -> String {
    let first = loader.problems().into_iter().next();
    first.map_or(String::new(), |p| format!(": {}: {}", p.path.display(), p.why))
}

/// Threads, memory and moments of saving change no result.
fn terms(options: &TrainOptions, dataset: &Dataset) -> Result<Terms> {
    let bare = TrainOptions { threads: 0, cache: 0, checkpoint_seconds: 0, ..options.clone() };
    let options = toml::to_string(&bare)
        .map_err(|e| TrainError::Other(format!("the options cannot be written: {e}")))?;
    Ok(Terms { options, data: checkpoint::fingerprint(&dataset.train) })
}
