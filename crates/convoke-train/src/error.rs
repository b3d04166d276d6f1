//! The one error type of this crate.

/// What can stop a training run, an evaluation or a prediction.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data.
    #[error(transparent)]
    Data(#[from] convoke_data::DataError),
    /// The network or its plan.
    #[error(transparent)]
    Engine(#[from] convoke_engine::Error),
    /// A model file.
    #[error(transparent)]
    Model(#[from] convoke_formats::ModelError),
    /// Anything else, with its remedy.
    #[error("{}", convoke_data::printable_short(.0))]
    Other(String),
}

/// Result with this crate's [`TrainError`].
pub type Result<T> = std::result::Result<T, TrainError>;

pub(crate) fn other<T>(what: impl Into<String>) -> Result<T> {
    Err(TrainError::Other(what.into()))
}
