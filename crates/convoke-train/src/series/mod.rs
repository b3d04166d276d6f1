//! Numbers instead of classes: estimating one from a signal (regression), and the next steps of a series
//! (forecasting), both with the mean of squared differences as loss.

mod events;
mod fit;
mod forecast;
mod regress;

pub use events::{Event, events};
pub use fit::{FitOptions, Fitted};
pub use forecast::{Errors, ForecastOptions, Forecaster, Origin, Walk, walk_forward};
pub use regress::{Regressed, estimate, regress};

/// Inputs that are made elsewhere: numbers as they are.
pub(crate) const PLAIN: convoke_data::SignalPreprocess =
    convoke_data::SignalPreprocess { norm: convoke_data::Norm::None, fit: convoke_data::Fit::Pad };
