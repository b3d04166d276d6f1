//! One number of a signal.

use super::fit::{FitOptions, Fitted, fit};
use crate::error::{Result, other};
use convoke_data::{Preprocess, Signals};
use convoke_engine::{Network, Shape};
use convoke_formats::ModelFile;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// How near a regression comes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Regressed {
    /// Root of the mean of squared differences.
    pub rmse: f64,
    /// Mean of differences.
    pub mae: f64,
    /// The same as `rmse` for always saying the mean of the training targets.
    pub rmse_of_mean: f64,
    /// Share of the variance that is explained; of what always says the mean, 0.
    pub r2: f64,
    /// Samples.
    pub n: usize,
}

/// Trains a network with one output to estimate the number of each signal. Targets are learnt in units of their
/// deviation around their mean, which the model file keeps.
///
/// # Errors
/// When the network does not fit, or training breaks.
pub fn regress(
    network: &Network,
    pre: &Preprocess,
    signals: &Signals,
    targets: &[f32],
    options: &FitOptions,
    told: &mut dyn FnMut(usize, f64),
    stop: &AtomicBool,
) -> Result<ModelFile> {
    if network.output_shape() != Shape::vector(1) {
        let name = network.name();
        return other(format!(
            "network `{name}` ends in {}, not one number",
            network.output_shape()
        ));
    }
    let n = targets.len().max(1) as f64;
    let mean = targets.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = targets.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let scale = variance.sqrt().max(1e-12);
    let scaled: Vec<f32> =
        targets.iter().map(|&v| ((f64::from(v) - mean) / scale) as f32).collect();
    let fitted = fit(network, &inputs(pre, signals)?, &scaled, options, told, stop)?;
    let facts = [("target_mean", mean), ("target_scale", scale)];
    Ok(ModelFile {
        network: fitted.network,
        classes: Vec::new(),
        preprocess: pre.clone(),
        task: "regress".into(),
        params: fitted.params,
        state: fitted.state,
        facts: facts.map(|(k, v)| (k.to_string(), v.to_string())).into(),
        extra: BTreeMap::new(),
    })
}

fn inputs(pre: &Preprocess, signals: &Signals) -> Result<Vec<f32>> {
    let len = pre.sample_len();
    let mut all = vec![0.0; len * signals.len()];
    for (i, out) in all.chunks_exact_mut(len).enumerate() {
        pre.apply_signal(signals.get(i), signals.channels(), out)?;
    }
    Ok(all)
}

/// The numbers that a model estimates for signals, and how near they come to given ones.
///
/// # Errors
/// When the model estimates no numbers, or the signals have other channels.
pub fn estimate(
    model: &ModelFile,
    signals: &Signals,
    truth: Option<&[f32]>,
    threads: usize,
) -> Result<(Vec<f32>, Option<Regressed>)> {
    let fact = |name: &str| model.facts.get(name).and_then(|t| t.parse::<f64>().ok());
    let (Some(mean), Some(scale)) = (fact("target_mean"), fact("target_scale")) else {
        return other("the model estimates no numbers; it was trained for something else");
    };
    let (network, params) = (model.network.clone(), model.params.clone());
    let fitted = Fitted { network, params, state: model.state.clone() };
    let outputs = fitted.outputs(&inputs(&model.preprocess, signals)?, threads)?;
    let said: Vec<f32> = outputs.iter().map(|&v| (f64::from(v) * scale + mean) as f32).collect();
    let near = truth.map(|truth| {
        let n = truth.len().max(1) as f64;
        let differences = || truth.iter().zip(&said).map(|(t, s)| f64::from(*t) - f64::from(*s));
        let squares = differences().map(|d| d * d).sum::<f64>();
        let of_mean = truth.iter().map(|t| (f64::from(*t) - mean).powi(2)).sum::<f64>();
        Regressed {
            rmse: (squares / n).sqrt(),
            mae: differences().map(f64::abs).sum::<f64>() / n,
            rmse_of_mean: (of_mean / n).sqrt(),
            r2: 1.0 - squares / of_mean.max(1e-300),
            n: truth.len(),
        }
    });
    Ok((said, near))
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_data::{Fit, Norm, SignalPreprocess};
    use convoke_engine::{Builder, layers::Conv};

    /// Waves whose number is how often they swing.
    fn waves(n: usize, from: usize) -> (Signals, Vec<f32>) {
        let swings = |i: usize| 1.0 + ((i + from) * 37 % 100) as f32 / 25.0;
        let wave =
            |i: usize| (0..40).map(|t| (swings(i) * t as f32 / 6.4).sin()).collect::<Vec<f32>>();
        let all: Vec<Vec<f32>> = (0..n).map(wave).collect();
        (Signals::new(&all, 1).unwrap(), (0..n).map(swings).collect())
    }

    #[test]
    fn a_network_learns_to_count_swings() {
        let (train, targets) = waves(120, 0);
        let (test, truth) = waves(40, 1000);
        let pre = Preprocess::signals(&train, SignalPreprocess { norm: Norm::None, fit: Fit::Pad });
        let mut b = Builder::new("n", Shape::new(1, 40, 1));
        b.conv(Conv::signal(8, 7)).relu().conv(Conv::signal(8, 5)).relu().flatten().dense(1);
        let options =
            FitOptions { epochs: 40, batch: 16, lr: 0.01, weight_decay: 0.0, seed: 0, threads: 1 };
        let never = AtomicBool::new(false);
        let mut losses = Vec::new();
        let mut told = |_: usize, loss: f64| losses.push(loss);
        let net = b.build().unwrap();
        let model = regress(&net, &pre, &train, &targets, &options, &mut told, &never).unwrap();
        let again =
            regress(&net, &pre, &train, &targets, &options, &mut |_, _| {}, &never).unwrap();
        assert_eq!(model, again);
        let (said, near) = estimate(&model, &test, Some(&truth), 1).unwrap();
        let near = near.unwrap();
        assert_eq!(said.len(), 40);
        assert!(near.r2 > 0.9 && near.rmse < 0.4 * near.rmse_of_mean, "{near:?} {losses:?}");
        // What it estimates survives the file.
        let again = ModelFile::from_bytes(&bytes(&model)).unwrap();
        assert_eq!(estimate(&again, &test, None, 1).unwrap().0, said);
    }

    fn bytes(model: &ModelFile) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        model.save(&path).unwrap();
        std::fs::read(path).unwrap()
    }
}
