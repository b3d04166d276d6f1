//! The one error type of this crate.

/// What can go wrong when looking or finding.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    /// The network does not fit.
    #[error(transparent)]
    Engine(#[from] convoke_engine::Error),
    /// A picture cannot be read or written.
    #[error(transparent)]
    Data(#[from] convoke_data::DataError),
    /// A model file cannot be read or written.
    #[error(transparent)]
    Model(#[from] convoke_formats::ModelError),
    /// A model cannot be run.
    #[error(transparent)]
    Train(#[from] convoke_train::TrainError),
    /// Something is not as it must be; one line that says what to do.
    #[error("{}", convoke_data::printable_short(.0))]
    Other(String),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Result with this crate's [`VisionError`].
pub type Result<T> = std::result::Result<T, VisionError>;

pub(crate) fn other<T>(what: impl Into<String>) -> Result<T> {
    Err(VisionError::Other(what.into()))
}
