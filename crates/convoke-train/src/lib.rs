//! Training runs: schedules, metrics, the trainer, checkpoints and run folders; and using what was
//! trained.

#![forbid(unsafe_code)]

mod checkpoint;
mod error;
mod figures;
mod metrics;
mod plot;
mod predict;
mod quantize;
mod range_test;
mod run;
mod schedule;
pub mod series;
mod trainer;
pub mod tune;
mod tuning;

pub use error::{Result, TrainError};
pub use figures::{
    Answer, BINS, Bin, Calibration, ClassFigures, class_figures, likeliest, softmax,
};
pub use metrics::{Evaluation, probabilities};
pub use predict::{Guess, Predictor};
pub use quantize::{Quantized, quantize};
pub use range_test::{RateCurve, RatePoint};
pub use run::{EpochRow, RunFolder};
pub use schedule::{Rates, Schedule};
pub use trainer::{BatchInfo, Outcome, Progress, TrainOptions, Trainer, class_weights};
pub use tuning::{FineTune, layers};
