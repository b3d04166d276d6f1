//! Several networks with seeds of their own, averaged in one model.

use super::{Args, Place, one};
use anyhow::{Result, bail};
use convoke_data::Dataset;
use convoke_formats::{ModelFile, ensemble};
use convoke_train::{Predictor, RunFolder};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// How many networks are trained: as asked, or as InceptionTime's paper has it.
pub(super) fn count(args: &Args, dataset: &Dataset) -> u64 {
    let usual = match args.model.as_deref() {
        Some("inceptiontime") => 5,
        None if dataset.is_signals() => 5,
        _ => 1,
    };
    args.members.map_or(usual, u64::from)
}

/// Trains the members and joins them. Seeds lie a thousand apart, so that ensembles of neighbouring seeds share
/// none.
pub(super) fn fresh(
    args: &Args,
    data: &Path,
    dataset: &Dataset,
    members: u64,
    stop: &AtomicBool,
) -> Result<()> {
    let base = match &args.out {
        Some(out) => RunFolder::create(out)?,
        None => {
            let data = data.canonicalize().unwrap_or(data.into());
            let data = data.file_stem().map_or("data".into(), |s| s.to_string_lossy().into_owned());
            RunFolder::next(Path::new("runs/classify"), &format!("ensemble-{data}"))?
        }
    };
    let folder = |k: u64| base.path().join(format!("member-{}", k + 1));
    for k in 0..members {
        let place = Place { fold: None, out: Some(folder(k)), seed: Some(args.seed + 1000 * k) };
        if one(args, data, dataset, place, stop)?.is_none() {
            bail!("stopped at member {} of {members}; the members before it are whole", k + 1);
        }
    }
    let models = (0..members).map(|k| ModelFile::load(&best(&folder(k))));
    let model = ensemble(&models.collect::<Result<Vec<_>, _>>()?).map_err(anyhow::Error::msg)?;
    model.save(&base.best())?;
    // What was asked for, so that the folder is a run's.
    base.write("args.toml", &RunFolder::open(&folder(0))?.settings()?)?;
    let Some(split) = dataset.test.as_ref().or(dataset.val.as_ref()) else { return Ok(()) };
    let threads = args.threads.count();
    let mut predictor = Predictor::new(model, 64.min(split.len()), threads)?;
    let (e, _) = predictor.evaluate(split, threads)?;
    let on = if dataset.test.is_some() { "test" } else { "validation" };
    println!(
        "{:.2} % right on {} {on} samples with {members} networks together; {}",
        100.0 * e.top1,
        e.n,
        base.path().display()
    );
    Ok(())
}

fn best(folder: &Path) -> PathBuf {
    folder.join("weights/best.safetensors")
}
