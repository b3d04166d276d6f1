//! Using a trained model: evaluation over a split, predictions for single pictures.

use crate::error::{Result, other};
use crate::metrics::{Counter, Evaluation, probabilities};
use convoke_data::{Loader, LoaderOptions, Picture, Problem, Split, read_picture};
use convoke_engine::{Network, Plan, PlanOptions, Session, Shape};
use convoke_formats::ModelFile;
use serde::Serialize;
use std::path::Path;

/// A model ready to predict.
pub struct Predictor {
    model: ModelFile,
    session: Session,
    batch: usize,
}

/// A class with its probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guess {
    /// Class name.
    pub class: String,
    /// From 0 to 1.
    pub probability: f64,
}

impl Predictor {
    /// Plans the model for `batch` pictures at a time.
    ///
    /// # Errors
    /// When the model is no classifier or its preprocessing does not fit its input.
    pub fn new(model: ModelFile, batch: usize, threads: usize) -> Result<Self> {
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
        let mut session = predict_session(network, batch, threads)?;
        session.set_params(&model.params)?;
        session.set_state(&model.state)?;
        Ok(Predictor { model, session, batch })
    }

    /// The model.
    pub fn model(&self) -> &ModelFile {
        &self.model
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
        let classes = &self.model.classes;
        let logits = self.session.predict(pictures.len())?;
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
    /// When the split is empty.
    pub fn evaluate(
        &mut self,
        split: &Split,
        threads: usize,
    ) -> Result<(Evaluation, Vec<Problem>)> {
        let options = LoaderOptions {
            batch: self.batch,
            seed: 0,
            workers: threads,
            training: false,
            cache: 0,
        };
        let mut loader = Loader::new(split, &self.model.preprocess, None, options)?;
        let evaluation = evaluate(&mut self.session, &mut loader, self.model.classes.len())?;
        Ok((evaluation, loader.problems()))
    }
}

/// A session that predicts.
pub(crate) fn predict_session(network: &Network, batch: usize, threads: usize) -> Result<Session> {
    Ok(Session::new(Plan::compile(network, &PlanOptions::predict(batch, threads))?)?)
}

/// Runs a whole split through a session.
pub(crate) fn evaluate(
    session: &mut Session,
    loader: &mut Loader,
    classes: usize,
) -> Result<Evaluation> {
    let mut counter = Counter::new(classes);
    loader.start(0, 0);
    while let Some(batch) = loader.next_batch() {
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
    Ok(counter.finish())
}
