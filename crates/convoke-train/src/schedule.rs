//! Learning rates over a run, step by step.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

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
        let lr = f64::from(self.lr);
        if step < self.warmup {
            return (lr * (step + 1) as f64 / (self.warmup + 1) as f64) as f32;
        }
        let (step, steps) = (step - self.warmup, self.steps.saturating_sub(self.warmup).max(1));
        let rate = match self.schedule {
            Schedule::Constant => lr,
            Schedule::Step { every, factor } => {
                let epoch = (step + self.warmup) / self.epoch.max(1);
                let changes = (epoch / every.max(1) as u64).min(1 << 20);
                lr * f64::from(factor).powi(changes as i32)
            }
            Schedule::Cosine => anneal(lr, 0.0, step as f64 / steps as f64),
            Schedule::OneCycle => one_cycle(lr, step as f64, steps as f64),
        };
        rate as f32
    }
}

/// PyTorch's phases end at fractional steps.
fn one_cycle(lr: f64, step: f64, steps: f64) -> f64 {
    let (start, end) = (lr / 25.0, lr / 25.0 / 1e4);
    let (top, last) = (0.3 * steps - 1.0, steps - 1.0);
    if step <= top {
        // A top at step 0 is the whole way up.
        return anneal(start, lr, if top > 0.0 { step / top } else { 1.0 });
    }
    anneal(lr, end, ((step - top) / (last - top)).min(1.0))
}

/// Along half a cosine; `share` from 0 to 1.
fn anneal(from: f64, to: f64, share: f64) -> f64 {
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
        // What OneCycleLR(max_lr=0.1, total_steps=n) of PyTorch 2.15.0 sets before each step.
        let twenty = [
            (0, 0.0040000000000000036),
            (1, 0.013167184270002533),
            (5, 0.1),
            (6, 0.09874640062350874),
            (12, 0.0500002),
            (19, 4e-7),
        ];
        let seven = [(0, 0.004), (1, 0.09805566273349588), (5, 0.00992967918932656), (6, 4e-7)];
        let three = [(0, 0.09944154354509119), (1, 0.046263710266697504), (2, 4e-7)];
        let two = [(0, 0.0811745653949763), (1, 4e-7)];
        for (steps, want) in
            [(20, &twenty[..]), (7, &seven), (3, &three), (2, &two), (1, &[(0, 4e-7)])]
        {
            let r = Rates { steps, ..rates(Schedule::OneCycle, 0) };
            for &(step, rate) in want {
                let got = f64::from(r.at(step));
                assert!((got / rate - 1.0).abs() < 1e-6, "{steps}, {step}: {got}, not {rate}");
            }
        }
    }

    #[test]
    fn every_rate_of_every_schedule_is_a_number_within_bounds() {
        let step = Schedule::Step { every: 0, factor: 0.5 };
        for schedule in [Schedule::Constant, step, Schedule::Cosine, Schedule::OneCycle] {
            for (steps, warmup) in [(0, 0), (1, 0), (1, 3), (4, 0), (10, 0), (10, 4), (10, 10)] {
                let r = Rates { steps, warmup, epoch: 0, ..rates(schedule, 0) };
                let bad = (0..steps + 5).find(|&s| !(0.0..=0.1 + 1e-7).contains(&r.at(s)));
                assert_eq!(bad, None, "{schedule:?} {steps} {warmup}");
            }
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
