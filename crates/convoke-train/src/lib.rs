//! Training runs: schedules, metrics, the trainer, checkpoints and run folders; and using what was
//! trained.

mod checkpoint;
mod error;
mod metrics;
mod plot;
mod predict;
mod run;
mod schedule;
mod trainer;

pub use error::{Result, TrainError};
pub use metrics::{Evaluation, probabilities};
pub use predict::{Guess, Predictor};
pub use run::{EpochRow, RunFolder};
pub use schedule::{Rates, Schedule};
pub use trainer::{BatchInfo, Outcome, Progress, TrainOptions, Trainer};
