//! Events in a long recording: a classifier of signals slid over it, window by window.

use crate::error::{Result, other};
use crate::predict::Predictor;
use convoke_data::Signals;
use serde::Serialize;

/// A stretch of a recording that looks like a class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// The class.
    pub class: String,
    /// First row of the window that is surest.
    pub start: usize,
    /// The row behind its last.
    pub end: usize,
    /// Its probability.
    pub probability: f64,
}

/// The stretches of a recording `[rows, channels]` whose windows, of the model's length and a `stride` apart, have a
/// class above `threshold`: of windows in a row with the same class the surest, and of those that overlap by more
/// than half the surer. In order of time.
///
/// # Errors
/// When the recording is shorter than a window, or has other channels.
pub fn events(
    predictor: &mut Predictor,
    recording: &[f32],
    channels: usize,
    stride: usize,
    threshold: f64,
) -> Result<Vec<Event>> {
    let window = predictor.model().preprocess.width;
    let rows = recording.len() / channels.max(1);
    if rows < window {
        return other(format!(
            "the recording has {rows} rows; the model looks at {window} at a time"
        ));
    }
    let starts: Vec<usize> = (0..=rows - window).step_by(stride.max(1)).collect();
    let mut runs: Vec<Event> = Vec::new();
    let mut last: Option<String> = None;
    for part in starts.chunks(1024) {
        let cut = |&s: &usize| recording[s * channels..(s + window) * channels].to_vec();
        let windows: Vec<Vec<f32>> = part.iter().map(cut).collect();
        let windows = Signals::new(&windows, channels).map_err(crate::TrainError::Other)?;
        for (&start, guesses) in part.iter().zip(predictor.predict_signals(&windows, 1)?) {
            let Some(guess) = guesses.into_iter().next().filter(|g| g.probability >= threshold)
            else {
                last = None;
                continue;
            };
            let probability = guess.probability;
            let event =
                Event { class: guess.class.clone(), start, end: start + window, probability };
            match runs.last_mut().filter(|_| last.as_ref() == Some(&guess.class)) {
                Some(run) if run.probability >= probability => {}
                Some(run) => *run = event,
                None => runs.push(event),
            }
            last = Some(guess.class);
        }
    }
    Ok(apart(runs))
}

/// Without those that overlap a surer one by more than half.
fn apart(mut all: Vec<Event>) -> Vec<Event> {
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.start.cmp(&b.start)));
    let mut kept: Vec<Event> = Vec::new();
    for e in all {
        let half = (e.end - e.start) / 2;
        let over = |k: &Event| k.end.min(e.end).saturating_sub(k.start.max(e.start)) > half;
        if !kept.iter().any(over) {
            kept.push(e);
        }
    }
    kept.sort_by_key(|e| e.start);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_overlapping_events_the_surer_stays() {
        let event = |start: usize, probability: f64| Event {
            class: "a".into(),
            start,
            end: start + 10,
            probability,
        };
        let kept = apart(vec![event(0, 0.7), event(3, 0.9), event(8, 0.8), event(30, 0.6)]);
        let starts: Vec<usize> = kept.iter().map(|e| e.start).collect();
        assert_eq!(starts, [3, 8, 30]);
    }
}
