//! Signals: series of numbers over time, of one channel or several, of equal lengths or not. To a network a signal
//! is a map of one row, `[1, length, channels]`.
//!
//! Readers ([`ts`], [`rows`], [`npy`]) only say what a file says; [`open()`] makes a data set of the files of a
//! folder; [`SignalPreprocess`] makes inputs of one length.

mod npy;
mod open;
mod prepare;
mod rows;
mod table;
mod ts;
mod warp;

pub use open::{Regression, is_regression, read_signals, regression};
pub(crate) use open::{is_one, open};
pub use prepare::{Fit, Norm, SignalPreprocess};
pub use table::Table;
pub(crate) use warp::warp;

use std::sync::Arc;

/// Signals in memory, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Signals {
    /// Numbers of all signals, each `[length, channels]`.
    values: Arc<Vec<f32>>,
    /// Where each begins and the last ends, in steps of time.
    starts: Arc<Vec<usize>>,
    channels: usize,
}

impl Signals {
    /// Signals of so many channels, each `[length, channels]`.
    ///
    /// # Errors
    /// When one is empty, or its numbers are not a multiple of the channels.
    pub fn new(all: &[Vec<f32>], channels: usize) -> Result<Self, String> {
        let (mut values, mut starts) = (Vec::new(), vec![0]);
        for (i, signal) in all.iter().enumerate() {
            if channels == 0 || signal.is_empty() || signal.len() % channels != 0 {
                let n = signal.len();
                return Err(format!(
                    "signal {i} has {n} numbers, no multiple of {channels} channels"
                ));
            }
            values.extend_from_slice(signal);
            starts.push(values.len() / channels);
        }
        Ok(Signals { values: values.into(), starts: starts.into(), channels })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers at each step of time.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// One signal, `[length, channels]`.
    pub fn get(&self, i: usize) -> &[f32] {
        &self.values[self.starts[i] * self.channels..self.starts[i + 1] * self.channels]
    }

    /// Steps of time of one signal.
    pub fn length(&self, i: usize) -> usize {
        self.starts[i + 1] - self.starts[i]
    }

    /// Shortest and longest.
    pub fn lengths(&self) -> (usize, usize) {
        let all = (0..self.len()).map(|i| self.length(i));
        (all.clone().min().unwrap_or(0), all.max().unwrap_or(0))
    }

    /// These signals, in this order.
    pub fn pick(&self, chosen: &[usize]) -> Signals {
        let all: Vec<Vec<f32>> = chosen.iter().map(|&i| self.get(i).to_vec()).collect();
        let (mut values, mut starts) = (Vec::new(), vec![0]);
        for signal in all {
            values.extend(signal);
            starts.push(values.len() / self.channels.max(1));
        }
        Signals { values: values.into(), starts: starts.into(), channels: self.channels }
    }
}

/// What a file of signals says, before classes are given numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Said {
    /// Each `[length, channels]`; NaN where a value is missing.
    pub signals: Vec<Vec<f32>>,
    /// Channels of all.
    pub channels: usize,
    /// Class or target of each as it stands in the file; empty where the file has none.
    pub labels: Vec<String>,
    /// Classes in the order of the file's own list, where it has one.
    pub classes: Option<Vec<String>>,
    /// Whether the labels are numbers to estimate.
    pub targets: bool,
}

/// Larger files are refused.
const MAX_BYTES: u64 = 4 << 30;
/// A signal may have at most so many steps, which is what a map may have.
const MAX_LENGTH: usize = 1 << 16;

/// A number of a text file; `?`, `NaN` and nothing are missing values.
fn number(text: &str) -> Option<f32> {
    match text.trim() {
        "" | "?" => Some(f32::NAN),
        t if t.eq_ignore_ascii_case("nan") || t.eq_ignore_ascii_case("na") => Some(f32::NAN),
        t => t.parse::<f32>().ok().filter(|v| v.is_finite()),
    }
}

/// Fills missing values of a signal from their neighbours in time, in a line; those at the ends by the nearest. A
/// channel without any value becomes 0.
fn fill(signal: &mut [f32], channels: usize) {
    for c in 0..channels {
        let mut last: Option<(usize, f32)> = None;
        let steps = signal.len() / channels;
        for t in 0..steps {
            let v = signal[t * channels + c];
            if v.is_nan() {
                continue;
            }
            let from = last.map_or(0, |l| l.0 + 1);
            for k in from..t {
                signal[k * channels + c] = match last {
                    Some((at, before)) => before + (v - before) * (k - at) as f32 / (t - at) as f32,
                    None => v,
                };
            }
            last = Some((t, v));
        }
        let (from, v) = last.map_or((0, 0.0), |(t, v)| (t + 1, v));
        (from..steps).for_each(|t| signal[t * channels + c] = v);
    }
}

/// The text of a file, which may not be longer than we read.
fn text_of(path: &std::path::Path) -> crate::Result<String> {
    let bytes = crate::file::read_file(path, MAX_BYTES)?;
    String::from_utf8(bytes).map_err(|_| crate::DataError::dataset(path, "is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_values_lie_between_their_neighbours() {
        let n = f32::NAN;
        let mut s = [n, 1.0, 0.0, n, n, n, 3.0, 4.0, n, n];
        fill(&mut s, 2);
        assert_eq!(s, [0.0, 1.0, 0.0, 2.0, 1.5, 3.0, 3.0, 4.0, 3.0, 4.0]);
        let mut s = [n, n];
        fill(&mut s, 1);
        assert_eq!(s, [0.0, 0.0]);
    }

    #[test]
    fn signals_of_any_length_lie_side_by_side() {
        let s = Signals::new(&[vec![1.0, 2.0], vec![3.0; 6], vec![4.0; 4]], 2).unwrap();
        assert_eq!((s.len(), s.length(1), s.lengths()), (3, 3, (1, 3)));
        let p = s.pick(&[2, 0]);
        assert_eq!((p.get(0), p.get(1)), (&[4.0; 4][..], &[1.0, 2.0][..]));
        assert!(Signals::new(&[vec![1.0]], 2).is_err() && Signals::new(&[vec![]], 1).is_err());
    }
}
