//! The one error type of this crate: what is wrong with the data, and what to do.

use std::path::{Path, PathBuf};

/// What can be wrong with data on disk.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A picture cannot be decoded.
    #[error("{path}: {what}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        what: String,
    },
    /// The data set as a whole is not usable.
    #[error("{path}: {what}")]
    Dataset {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
}

/// Result with this crate's [`DataError`].
pub type Result<T> = std::result::Result<T, DataError>;

impl DataError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        DataError::Io { path: path.into(), source }
    }

    pub(crate) fn picture(path: &Path, what: impl ToString) -> Self {
        // Decoders may say several lines; an error is one.
        let what = what.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        DataError::Picture { path: path.into(), what }
    }

    pub(crate) fn dataset(path: &Path, what: impl Into<String>) -> Self {
        DataError::Dataset { path: path.into(), what: what.into() }
    }
}
