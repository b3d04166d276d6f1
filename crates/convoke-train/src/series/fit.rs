//! Training on inputs and targets in memory.

use crate::error::{Result, other};
use crate::schedule::{Rates, Schedule};
use convoke_engine::{Loss, Mode, Network, Optimizer, Plan, PlanOptions, Session};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How a network is trained on numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FitOptions {
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples per step, if there are as many.
    pub batch: usize,
    /// Largest rate of Adam, along one cycle.
    pub lr: f32,
    /// Decay of the weights (AdamW).
    pub weight_decay: f32,
    /// Seed of weights, order and dropout.
    pub seed: u64,
    /// Threads; they change no result.
    pub threads: usize,
}

/// A network that has learnt.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The network.
    pub network: Network,
    /// Its weights.
    pub params: Vec<f32>,
    /// Its running statistics.
    pub state: Vec<f32>,
}

/// Trains a network on inputs and targets, one after the other. `told` hears the mean loss of each epoch.
pub(super) fn fit(
    network: &Network,
    inputs: &[f32],
    targets: &[f32],
    o: &FitOptions,
    told: &mut dyn FnMut(usize, f64),
    stop: &AtomicBool,
) -> Result<Fitted> {
    let (x, y) = (network.input_shape().len(), network.output_shape().len());
    let n = targets.len() / y;
    let batch = o.batch.clamp(1, n.max(1));
    if n == 0 || inputs.len() != n * x {
        return other("there is nothing to learn from; give more rows, or a shorter window");
    }
    let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
    let optimizer = Optimizer::AdamW { beta1, beta2, epsilon, weight_decay: o.weight_decay };
    let mode = Mode::Train { loss: Loss::MeanSquaredError, optimizer, decay_all: false };
    let plan = PlanOptions { mode, keep_grads: false, ..PlanOptions::predict(batch, o.threads) };
    let mut session = Session::new(Plan::compile(network, &plan)?)?;
    session.init(o.seed);
    let steps = n / batch;
    let rates = Rates {
        schedule: Schedule::OneCycle,
        lr: o.lr,
        steps: (o.epochs * steps) as u64,
        epoch: steps as u64,
        warmup: 0,
    };
    for epoch in 0..o.epochs {
        let mut order: Vec<usize> = (0..n).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(o.seed);
        rng.set_stream(epoch as u64);
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        for chosen in order.chunks_exact(batch) {
            if stop.load(Relaxed) {
                return other("stopped; nothing was written");
            }
            let input = session.input_mut();
            for (&i, to) in chosen.iter().zip(input.chunks_exact_mut(x)) {
                to.copy_from_slice(&inputs[i * x..(i + 1) * x]);
            }
            for (&i, to) in chosen.iter().zip(session.targets_mut().chunks_exact_mut(y)) {
                to.copy_from_slice(&targets[i * y..(i + 1) * y]);
            }
            let loss = session.step(rates.at(session.steps()))?.loss;
            if !loss.is_finite() {
                return other(format!(
                    "the loss is no number after {} steps{}; use a lower --lr than {}",
                    session.steps(),
                    session.where_not_finite(),
                    o.lr
                ));
            }
            sum += f64::from(loss);
        }
        told(epoch + 1, sum / steps as f64);
    }
    let (params, state) = (session.params().to_vec(), session.state().to_vec());
    Ok(Fitted { network: network.clone(), params, state })
}

impl Fitted {
    /// Outputs for inputs, one after the other.
    ///
    /// # Errors
    /// When the network cannot be planned.
    pub fn outputs(&self, inputs: &[f32], threads: usize) -> Result<Vec<f32>> {
        let x = self.network.input_shape().len();
        let n = inputs.len() / x;
        let batch = n.clamp(1, 64);
        let plan = Plan::compile(&self.network, &PlanOptions::predict(batch, threads))?;
        let mut session = Session::new(plan)?;
        session.set_params(&self.params)?;
        session.set_state(&self.state)?;
        let mut all = Vec::with_capacity(n * self.network.output_shape().len());
        for part in inputs.chunks(batch * x) {
            session.input_mut()[..part.len()].copy_from_slice(part);
            all.extend_from_slice(session.predict(part.len() / x)?);
        }
        Ok(all)
    }
}
