//! Learning rates over a run, step by step.

use serde::{Deserialize, Serialize};
use std::f32::consts::PI;

/// How the learning rate moves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It is multiplied by `factor` every `every` epochs (PyTorch `StepLR`).
    Step {
        /// Epochs between two changes.
        every: usize,
        /// What the rate is multiplied by.
        factor: f32,
    },
    /// Half a cosine, from the rate to zero (Loshchilov and Hutter 2017, without restarts).
    Cosine,
    /// Up from `1/25` of the rate over the first 30 % of the steps, then down to `1/250,000` of it,
    /// both along a cosine (Smith and Topin 2018; PyTorch `OneCycleLR`, momentum left alone).
    OneCycle,
}

/// A schedule over a run of known length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// The kind.
    pub schedule: Schedule,
    /// The (largest) rate.
    pub lr: f32,
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps of one epoch.
    pub epoch: u64,
    /// Steps over which the rate first rises from zero, in a line.
    pub warmup: u64,
}

impl Rates {
    /// The rate of a step, counted from 0.
    pub fn at(&self, step: u64) -> f32 {
        if step < self.warmup {
            return self.lr * (step + 1) as f32 / (self.warmup + 1) as f32;
        }
        let (step, steps) = (step - self.warmup, self.steps.saturating_sub(self.warmup).max(1));
        match self.schedule {
            Schedule::Constant => self.lr,
            Schedule::Step { every, factor } => {
                let epoch = (step + self.warmup) / self.epoch.max(1);
                self.lr * factor.powi((epoch / every.max(1) as u64).min(1 << 20) as i32)
            }
            Schedule::Cosine => self.lr * 0.5 * (1.0 + (PI * step as f32 / steps as f32).cos()),
            Schedule::OneCycle => {
                // PyTorch's phases end at these (fractional) steps.
                let up = 0.3 * steps as f32 - 1.0;
                let down = (steps as f32 - 1.0 - up).max(1e-6);
                let (start, end) = (self.lr / 25.0, self.lr / 25.0 / 1e4);
                let step = step as f32;
                if step <= up {
                    anneal(start, self.lr, step / up.max(1e-6))
                } else {
                    anneal(self.lr, end, ((step - up) / down).min(1.0))
                }
            }
        }
    }
}

fn anneal(from: f32, to: f32, share: f32) -> f32 {
    to + (from - to) / 2.0 * ((PI * share).cos() + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup: u64) -> Rates {
        Rates { schedule, lr: 0.1, steps: 20, epoch: 5, warmup }
    }

    #[test]
    fn one_cycle_is_pytorchs() {
        // torch.optim.lr_scheduler.OneCycleLR(max_lr=0.1, total_steps=20), torch 2.15.
        let want = [
            (0, 0.004),
            (1, 0.013_167_2),
            (5, 0.1),
            (6, 0.098_746_2),
            (12, 0.050_000_2),
            (19, 4e-7),
        ];
        for (step, rate) in want {
            let got = rates(Schedule::OneCycle, 0).at(step);
            assert!((got - rate).abs() < 2e-5, "step {step}: {got} against {rate}");
        }
    }

    #[test]
    fn cosine_falls_to_nothing_and_steps_are_stairs() {
        let r = rates(Schedule::Cosine, 0);
        assert_eq!(r.at(0), 0.1);
        assert!((r.at(10) - 0.05).abs() < 1e-6 && r.at(19) < 0.001);
        let r = rates(Schedule::Step { every: 2, factor: 0.1 }, 0);
        assert_eq!((r.at(9), r.at(10)), (0.1, 0.1 * 0.1));
    }

    #[test]
    fn warm_up_rises_in_a_line() {
        let r = rates(Schedule::Constant, 4);
        assert_eq!((r.at(0), r.at(4)), (0.1 / 5.0, 0.1));
    }
}
