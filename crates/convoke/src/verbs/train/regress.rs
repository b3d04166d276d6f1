//! `convoke train` on signals with a number each.

use super::Args;
use crate::common::{self, Model, thousands};
use crate::progress::{Bar, interrupt};
use anyhow::{Result, bail};
use convoke_data::{Preprocess, regression};
use convoke_engine::Shape;
use convoke_train::RunFolder;
use convoke_train::series::{FitOptions, estimate, regress};
use serde_json::json;
use std::path::Path;

/// Steps of training where no epochs are given.
const STEPS: usize = 1500;

pub(super) fn fresh(args: &Args, data: &Path) -> Result<()> {
    let set = regression(data)?;
    let (signals, targets) = &set.train;
    let pre = Preprocess::signals(signals, args.signal.choices());
    let name = args.model.as_deref().unwrap_or("inceptiontime");
    let Model::Network(source) = common::model(name)? else {
        bail!("{name} has weights already; give a zoo name or a network file");
    };
    let network = source.build(Some(Shape::new(1, pre.width, pre.channels)), Some(1))?;
    let batch = args.batch.map_or(super::SIGNALS, |b| b as usize).min(targets.len().max(1));
    let epochs = STEPS.div_ceil((targets.len() / batch).max(1));
    let lr = match args.lr {
        Some(super::Lr::Rate(lr)) => lr,
        Some(super::Lr::Find) => bail!("--lr find is for classes; give a number"),
        None => 1e-3,
    };
    let options = FitOptions {
        epochs: args.epochs.map_or(epochs, |e| e as usize),
        batch,
        lr,
        weight_decay: args.weight_decay.unwrap_or(0.0),
        seed: args.seed,
        threads: args.threads.count(),
    };
    let folder = match &args.out {
        Some(out) => RunFolder::create(out)?,
        None => RunFolder::next(Path::new("runs/regress"), name)?,
    };
    eprintln!(
        "data     {} signals of 1x{}x{} with a number each",
        thousands(targets.len() as u64),
        pre.width,
        pre.channels
    );
    let mut bar = Bar::new(false);
    let mut told = |epoch: usize, loss: f64| {
        bar.work("epoch", epoch, options.epochs, &format!("loss {loss:.4}"));
    };
    let model = regress(&network, &pre, signals, targets, &options, &mut told, &interrupt())?;
    bar.finish();
    model.save(&folder.best())?;
    folder
        .write_settings(&json!({"data": data.to_string_lossy(), "model": name, "fit": options}))?;
    let (judged, on) = match &set.test {
        Some(test) => (test, "test"),
        None => (&set.train, "training"),
    };
    if let (_, Some(n)) = estimate(&model, &judged.0, Some(&judged.1), options.threads)? {
        println!(
            "RMSE {:.4}, MAE {:.4}, R2 {:.4} on {} {on} signals (always the mean: RMSE {:.4}); {}",
            n.rmse,
            n.mae,
            n.r2,
            n.n,
            n.rmse_of_mean,
            folder.path().display()
        );
    }
    Ok(())
}
