//! From a signal to a network's input: one length, and a stated normalisation.

use super::Signals;
use serde::{Deserialize, Serialize};

/// How numbers are brought to a common scale. It is chosen, and kept in the model file, since it decides what a
/// network can see: the first makes loud and quiet alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Each channel of each signal to mean 0 and deviation 1 (z-normalisation, as most of the UCR archive).
    Series,
    /// Each channel by its mean and deviation over all training signals.
    Set,
    /// Numbers stay.
    None,
}

/// How a signal gets the input's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Zeros behind its end, after it was normalised; what is longer is cut.
    Pad,
    /// It is stretched or shortened, in lines from value to value.
    Stretch,
}

/// How a signal becomes a network's input; part of [`crate::Preprocess`], whose width is the length and whose `mean`
/// and `std` are those of [`Norm::Set`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalPreprocess {
    /// The scale.
    pub norm: Norm,
    /// The length.
    pub fit: Fit,
}

impl SignalPreprocess {
    /// Writes the input `[length, channels]` of a signal `[any length, channels]`.
    pub(crate) fn apply(&self, signal: &[f32], mean: &[f32], std: &[f32], out: &mut [f32]) {
        let channels = mean.len();
        for c in 0..channels {
            let values = || signal.iter().skip(c).step_by(channels);
            let (mean, std) = match self.norm {
                Norm::Set => (mean[c], std[c]),
                Norm::None => (0.0, 1.0),
                Norm::Series => moments(values()),
            };
            let scaled = |v: f32| (v - mean) / std;
            let (from, to) = (signal.len() / channels, out.len() / channels);
            for t in 0..to {
                out[t * channels + c] = match self.fit {
                    Fit::Pad if t < from => scaled(signal[t * channels + c]),
                    Fit::Pad => 0.0,
                    Fit::Stretch => {
                        let place = t as f64 * (from - 1) as f64 / (to - 1).max(1) as f64;
                        scaled(between(signal, channels, c, place))
                    }
                };
            }
        }
    }
}

/// A channel of a signal `[length, channels]` at a place in time, in a line from value to value; behind the last the last.
pub(super) fn between(signal: &[f32], channels: usize, c: usize, place: f64) -> f32 {
    let last = signal.len() / channels - 1;
    let at = (place as usize).min(last);
    let (a, b) = (signal[at * channels + c], signal[(at + 1).min(last) * channels + c]);
    a + place.fract() as f32 * (b - a)
}

/// Mean and deviation; of a constant, a deviation of 1, so that it becomes 0.
fn moments<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> (f32, f32) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values.map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let std = variance.sqrt();
    (mean as f32, if std < 1e-8 { 1.0 } else { std as f32 })
}

impl Signals {
    /// Mean and deviation of each channel over all signals.
    pub fn moments(&self) -> (Vec<f32>, Vec<f32>) {
        let of = |c: usize| moments(self.values.iter().skip(c).step_by(self.channels));
        (0..self.channels).map(of).unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(norm: Norm, fit: Fit, signal: &[f32], length: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; length * 2];
        SignalPreprocess { norm, fit }.apply(signal, &[1.0, 10.0], &[2.0, 10.0], &mut out);
        out
    }

    #[test]
    fn each_choice_does_what_it_says() {
        let s = [1.0, 0.0, 3.0, 20.0];
        assert_eq!(apply(Norm::None, Fit::Pad, &s, 3), [1.0, 0.0, 3.0, 20.0, 0.0, 0.0]);
        assert_eq!(apply(Norm::Set, Fit::Pad, &s, 1), [0.0, -1.0]);
        assert_eq!(apply(Norm::Series, Fit::Pad, &s, 3), [-1.0, -1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(apply(Norm::None, Fit::Stretch, &s, 3), [1.0, 0.0, 2.0, 10.0, 3.0, 20.0]);
        assert_eq!(apply(Norm::None, Fit::Stretch, &s, 1), [1.0, 0.0]);
        assert_eq!(apply(Norm::Series, Fit::Stretch, &[5.0, 5.0], 2), [0.0; 4]);
    }
}
