//! Using a trained model: evaluation over a split, predictions for single pictures.

use crate::error::{Result, TrainError, other};
use crate::figures::Answer;
use crate::metrics::{Counter, Evaluation, probabilities};
use convoke_data::{Loader, LoaderOptions, Picture, Problem, Signals, Source, Split, read_picture};
use convoke_engine::{Plan, PlanOptions, Session, Shape};
use convoke_formats::ModelFile;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A model ready to predict.
pub struct Predictor {
    model: ModelFile,
    session: Session,
    batch: usize,
}

/// Pictures at a time where nothing else is asked for.
const BATCH: usize = 16;

/// A class with its probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guess {
    /// Class name.
    pub class: String,
    /// From 0 to 1.
    pub probability: f64,
}

impl Predictor {
    /// Opens a model file, to predict several pictures at a time.
    ///
    /// # Errors
    /// When it cannot be read or is no classifier.
    pub fn open(path: &Path, threads: usize) -> Result<Self> {
        Self::new(ModelFile::load(path)?, BATCH, threads)
    }

    /// Plans the model for `batch` pictures at a time.
    ///
    /// # Errors
    /// When the model is no classifier or its preprocessing does not fit its input.
    pub fn new(model: ModelFile, batch: usize, threads: usize) -> Result<Self> {
        Self::planned(model, &PlanOptions::predict(batch, threads))
    }

    /// Plans the model as the options say.
    ///
    /// # Errors
    /// As [`Predictor::new`].
    pub fn planned(model: ModelFile, options: &PlanOptions) -> Result<Self> {
        let (network, pre) = (&model.network, &model.preprocess);
        let input = Shape::new(pre.height, pre.width, pre.channels);
        if input != network.input_shape() {
            return other(format!(
                "the model takes {} but its preprocessing makes {input}; the file is damaged",
                network.input_shape()
            ));
        }
        let output = network.output_shape();
        if output != Shape::vector(model.classes.len()) {
            return other(format!(
                "the model's output is {output}, not one number for each of its {} classes; for a detector use `find`",
                model.classes.len()
            ));
        }
        let options = &PlanOptions { ranges: model.ranges(), ..options.clone() };
        let mut session = Session::new(Plan::compile(network, options)?)?;
        session.set_params(&model.params)?;
        session.set_state(&model.state)?;
        Ok(Predictor { model, session, batch: options.batch })
    }

    /// The model.
    pub fn model(&self) -> &ModelFile {
        &self.model
    }

    /// The plan with its memory.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// The likeliest class of each of `n` inputs, at most as many as it was planned for.
    pub(crate) fn classes(&mut self, inputs: &[f32], n: usize) -> Result<Vec<usize>> {
        let len = n * self.model.preprocess.sample_len();
        self.session.input_mut()[..len].copy_from_slice(&inputs[..len]);
        let logits = self.session.predict(n)?;
        let likeliest = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        let rows = logits.chunks_exact(self.model.classes.len());
        Ok(rows.map(|row| likeliest(row).unwrap_or(0)).collect())
    }

    /// The most likely classes of each picture, at most `batch` pictures.
    ///
    /// # Errors
    /// When a picture cannot be prepared.
    pub fn predict(&mut self, pictures: &[Picture], top: usize) -> Result<Vec<Vec<Guess>>> {
        if pictures.len() > self.batch {
            return other(format!(
                "{} pictures at once; planned for {}",
                pictures.len(),
                self.batch
            ));
        }
        let pre = &self.model.preprocess;
        for (p, out) in
            pictures.iter().zip(self.session.input_mut().chunks_exact_mut(pre.sample_len()))
        {
            pre.apply(p, out)?;
        }
        self.guesses(pictures.len(), top)
    }

    /// The most likely classes of each picture file, any number of them: decoded on all threads,
    /// predicted a batch at a time. A file that cannot be read is an error of its own.
    ///
    /// # Errors
    /// When the network cannot be run.
    pub fn predict_files(
        &mut self,
        paths: &[PathBuf],
        top: usize,
    ) -> Result<Vec<Result<Vec<Guess>>>> {
        let mut all = Vec::with_capacity(paths.len());
        for paths in paths.chunks(self.batch) {
            let samples = self.samples(paths);
            let len = self.model.preprocess.sample_len();
            let good = samples.iter().flatten();
            for (sample, out) in good.zip(self.session.input_mut().chunks_exact_mut(len)) {
                out.copy_from_slice(sample);
            }
            let mut guesses = self.guesses(samples.iter().flatten().count(), top)?.into_iter();
            all.extend(samples.into_iter().map(|s| s.map(|_| guesses.next().unwrap_or_default())));
        }
        Ok(all)
    }

    /// The most likely classes of each signal.
    ///
    /// # Errors
    /// When the model is for pictures, or for signals of other channels.
    pub fn predict_signals(&mut self, signals: &Signals, top: usize) -> Result<Vec<Vec<Guess>>> {
        let len = self.model.preprocess.sample_len();
        let (mut all, order) = (Vec::new(), (0..signals.len()).collect::<Vec<_>>());
        for part in order.chunks(self.batch) {
            let inputs = self.session.input_mut().chunks_exact_mut(len);
            for (&i, out) in part.iter().zip(inputs) {
                self.model.preprocess.apply_signal(signals.get(i), signals.channels(), out)?;
            }
            all.extend(self.guesses(part.len(), top)?);
        }
        Ok(all)
    }

    /// Inputs of picture files, made on as many threads as the plan has.
    fn samples(&self, paths: &[PathBuf]) -> Vec<Result<Vec<f32>>> {
        let pre = &self.model.preprocess;
        let sample = |path: &PathBuf| {
            let mut out = vec![0.0; pre.sample_len()];
            pre.apply(&self.read(path)?, &mut out)?;
            Ok(out)
        };
        let share = paths.len().div_ceil(self.session.plan().options().threads.max(1)).max(1);
        std::thread::scope(|s| {
            let work = |part: &'_ [PathBuf]| part.iter().map(sample).collect::<Vec<_>>();
            let parts = paths.chunks(share);
            let parts: Vec<_> = parts.map(|p| (p.len(), s.spawn(move || work(p)))).collect();
            let failed = |n| (0..n).map(|_| other("the decoder failed on this picture")).collect();
            parts.into_iter().flat_map(|(n, t)| t.join().unwrap_or_else(|_| failed(n))).collect()
        })
    }

    fn guesses(&mut self, n: usize, top: usize) -> Result<Vec<Vec<Guess>>> {
        if n == 0 {
            return Ok(Vec::new());
        }
        let classes = &self.model.classes;
        let logits = self.session.predict(n)?;
        let guesses = logits.chunks_exact(classes.len()).map(|row| {
            let p = probabilities(row);
            let mut order: Vec<usize> = (0..p.len()).collect();
            order.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
            let guess = |&i: &usize| Guess { class: classes[i].clone(), probability: p[i] };
            order.iter().take(top).map(guess).collect()
        });
        Ok(guesses.collect())
    }

    /// Reads a picture as the model wants it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &Path) -> Result<Picture> {
        Ok(read_picture(path, self.model.preprocess.channels)?)
    }

    /// Evaluates a split whose labels are positions in the model's classes.
    ///
    /// # Errors
    /// When the split is empty or has a label that is no class of the model.
    pub fn evaluate(
        &mut self,
        split: &Split,
        threads: usize,
    ) -> Result<(Evaluation, Vec<Problem>)> {
        let classes = self.checked(split)?;
        let options = LoaderOptions {
            batch: self.batch,
            seed: 0,
            workers: threads,
            training: false,
            cache: 0,
            balanced: false,
        };
        let mut loader = Loader::new(split, &self.model.preprocess, None, options)?;
        let never = AtomicBool::new(false);
        match evaluate(&mut self.session, &mut loader, classes, &never)? {
            Some(evaluation) => Ok((evaluation, loader.problems())),
            None => other("the evaluation was stopped"),
        }
    }
}

impl Predictor {
    /// What the model answers to every sample of a split whose labels are positions in the model's classes.
    ///
    /// # Errors
    /// As [`Predictor::evaluate`].
    pub fn answers(
        &mut self,
        split: &Split,
        threads: usize,
    ) -> Result<(Vec<Answer>, Vec<Problem>)> {
        let classes = self.checked(split)?;
        let workers = threads;
        let options = LoaderOptions {
            batch: self.batch,
            seed: 0,
            workers,
            training: false,
            cache: 0,
            balanced: false,
        };
        let mut loader = Loader::new(split, &self.model.preprocess, None, options)?;
        let mut answers = Vec::with_capacity(split.len());
        loader.start(0, 0);
        while let Some(batch) = loader.next_batch() {
            let input = self.session.input_mut();
            let len = input.len().min(batch.pixels.len());
            input[..len].copy_from_slice(&batch.pixels[..len]);
            let logits = self.session.predict(batch.len())?;
            let rows = logits.chunks_exact(classes).zip(&batch.labels).zip(&batch.indices);
            answers.extend(rows.map(|((row, &label), &index)| Answer {
                index,
                label: label as usize,
                logits: row.to_vec(),
            }));
            loader.recycle(batch);
        }
        Ok((answers, loader.problems()))
    }
}

/// Crops of a picture in an evaluation by ten crops.
const CROPS: usize = 10;

impl Predictor {
    /// Evaluates a split by the mean of the probabilities of ten crops of each picture
    /// ([`convoke_data::Preprocess::ten`]; Krizhevsky et al. 2012).
    ///
    /// # Errors
    /// As [`Predictor::evaluate`], and when the predictor was made for fewer than ten pictures at a time.
    pub fn evaluate_ten(
        &mut self,
        split: &Split,
        threads: usize,
    ) -> Result<(Evaluation, Vec<Problem>)> {
        let classes = self.checked(split)?;
        let at_once = self.batch / CROPS;
        if at_once == 0 {
            return other(format!("ten crops need a batch of 10 or more, not {}", self.batch));
        }
        let (mut counter, mut problems) = (Counter::new(classes), Vec::new());
        let len = CROPS * self.model.preprocess.sample_len();
        let all: Vec<usize> = (0..split.len()).collect();
        for part in all.chunks(at_once) {
            let mut labels = Vec::new();
            for (&i, crops) in part.iter().zip(self.crops(split, part, threads)) {
                match crops {
                    Ok(crops) => {
                        let at = labels.len() * len;
                        self.session.input_mut()[at..at + len].copy_from_slice(&crops);
                        labels.push(split.labels[i] as usize);
                    }
                    Err(e) => problems.push(problem(split, i, &e)),
                }
            }
            if labels.is_empty() {
                continue;
            }
            let logits = self.session.predict(CROPS * labels.len())?;
            for (ten, label) in logits.chunks_exact(CROPS * classes).zip(labels) {
                counter.add(&mean_of(ten, classes), label);
            }
        }
        Ok((counter.finish(), problems))
    }

    /// Ten crops of each of these samples, made on several threads.
    fn crops(&self, split: &Split, part: &[usize], threads: usize) -> Vec<Result<Vec<f32>>> {
        let pre = &self.model.preprocess;
        let crops = |&i: &usize| {
            let mut out = vec![0.0; CROPS * pre.sample_len()];
            pre.ten(&split.read(i, pre.channels)?, &mut out)?;
            Ok(out)
        };
        std::thread::scope(|s| {
            let share = part.len().div_ceil(threads.max(1)).max(1);
            let work = |part: &'_ [usize]| part.iter().map(crops).collect::<Vec<_>>();
            let parts = part.chunks(share).map(|p| (p.len(), s.spawn(move || work(p))));
            let parts: Vec<_> = parts.collect();
            let failed = |n| (0..n).map(|_| other("the decoder failed on this picture")).collect();
            parts.into_iter().flat_map(|(n, t)| t.join().unwrap_or_else(|_| failed(n))).collect()
        })
    }

    /// The number of classes, when all labels are among them.
    fn checked(&self, split: &Split) -> Result<usize> {
        let classes = self.model.classes.len();
        match split.labels.iter().find(|&&l| l as usize >= classes) {
            Some(label) => other(format!("label {label} but the model has {classes} classes")),
            None => Ok(classes),
        }
    }
}

/// The logarithm of the mean of the crops' probabilities.
fn mean_of(logits: &[f32], classes: usize) -> Vec<f32> {
    let mut mean = vec![0.0; classes];
    for row in logits.chunks_exact(classes) {
        for (m, p) in mean.iter_mut().zip(probabilities(row)) {
            *m += p;
        }
    }
    let crops = (logits.len() / classes) as f64;
    mean.into_iter().map(|m| (m / crops).ln() as f32).collect()
}

fn problem(split: &Split, i: usize, e: &TrainError) -> Problem {
    let path = match &split.source {
        Source::Files(files) => files[i].clone(),
        _ => PathBuf::from(format!("sample {i}")),
    };
    let why = e.to_string();
    let why = why.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&why).to_string();
    Problem { path, why }
}

/// Runs a whole split through a session; `None` when it was asked to stop.
pub(crate) fn evaluate(
    session: &mut Session,
    loader: &mut Loader,
    classes: usize,
    stop: &AtomicBool,
) -> Result<Option<Evaluation>> {
    let mut counter = Counter::new(classes);
    loader.start(0, 0);
    while let Some(batch) = loader.next_batch() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let n = batch.len();
        let input = session.input_mut();
        let len = input.len().min(batch.pixels.len());
        input[..len].copy_from_slice(&batch.pixels[..len]);
        let logits = session.predict(n)?;
        for (row, &label) in logits.chunks_exact(classes).zip(&batch.labels) {
            counter.add(row, label as usize);
        }
        loader.recycle(batch);
    }
    Ok(Some(counter.finish()))
}
