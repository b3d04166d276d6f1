//! Searching for hyperparameters: a [`Space`], a [`Sampler`] that proposes points of it, a [`Halving`] rule that
//! stops the weak early, a [`Study`] on disk, and [`search`], which runs trials of an [`Objective`] in parallel.

mod halving;
mod importance;
mod nets;
mod random;
mod sampler;
mod search;
mod space;
mod study;
mod tpe;
mod training;

pub use halving::Halving;
pub use importance::{Importance, importance};
pub use nets::{NetSpace, train_options, training_space};
pub use sampler::Sampler;
pub use search::{Budget, Event, Limits, Objective, Planned, Reply, search};
pub use space::{Dimension, Kind, Point, Space, When};
pub use study::{Header, State, Study, Trial, VERSION};
pub use training::{Nets, Training, clear, trial_folder};
