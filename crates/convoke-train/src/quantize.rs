//! Post-training quantization: which values the maps of a trained model take, seen on some pictures.

use crate::error::{Result, other};
use crate::predict::Predictor;
use convoke_data::{Loader, LoaderOptions, Split};
use convoke_engine::{PlanOptions, Precision, Watch};
use convoke_formats::ModelFile;

/// Pictures at a time: all maps are kept, so there are few.
const BATCH: usize = 8;

/// What [`quantize`] saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantized {
    /// Pictures that were read.
    pub pictures: usize,
    /// Of those, how many 8-bit integers put in the same class as f32.
    pub same: usize,
    /// Maps whose range is known.
    pub maps: usize,
}

/// Finds the ranges of a model's maps on the pictures of a split (labels mean nothing), and puts them into the
/// model; `progress(done, all)` is called as it goes. About a hundred pictures of all kinds do.
///
/// # Errors
/// When the model is no classifier or no picture can be read.
pub fn quantize(
    model: &mut ModelFile,
    split: &Split,
    threads: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Quantized> {
    let mut watch = Watch::new(&model.network);
    let mut plain = Predictor::planned(model.clone(), &watch.options(BATCH, threads))?;
    let all = 2 * split.len();
    let floats = classes_of(&mut plain, split, threads, |predictor, n, done| {
        watch.add(predictor.session(), n);
        progress(done, all);
    })?;
    if floats.is_empty() {
        return other("none of the pictures can be read");
    }
    let ranges = watch.ranges(&model.network);
    let maps = ranges.iter().count();
    model.set_ranges(&ranges);
    let options =
        PlanOptions { precision: Precision::Int8, ..PlanOptions::predict(BATCH, threads) };
    let mut quantized = Predictor::planned(model.clone(), &options)?;
    let integers = classes_of(&mut quantized, split, threads, |_, _, done| {
        progress(split.len() + done, all);
    })?;
    let same = floats.iter().zip(&integers).filter(|(a, b)| a == b).count();
    Ok(Quantized { pictures: floats.len(), same, maps })
}

/// The likeliest class of every picture that can be read; `seen(predictor, n, done)` after every batch.
fn classes_of(
    predictor: &mut Predictor,
    split: &Split,
    threads: usize,
    mut seen: impl FnMut(&Predictor, usize, usize),
) -> Result<Vec<usize>> {
    let options = LoaderOptions {
        batch: BATCH,
        seed: 0,
        workers: threads,
        training: false,
        cache: 0,
        balanced: false,
    };
    let preprocess = predictor.model().preprocess.clone();
    let mut loader = Loader::new(split, &preprocess, None, options)?;
    loader.start(0, 0);
    let mut classes = Vec::new();
    while let Some(batch) = loader.next_batch() {
        classes.extend(predictor.classes(&batch.pixels, batch.len())?);
        seen(predictor, batch.len(), classes.len());
        loader.recycle(batch);
    }
    Ok(classes)
}
