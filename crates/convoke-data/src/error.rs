//! The one error type of this crate: what is wrong with the data, and what to do.

use crate::file::{printable, printable_short};
use std::path::{Path, PathBuf};

/// What can be wrong with data on disk.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read or written.
    #[error("{}: {}", shown(path), plainly(cause))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A picture cannot be decoded.
    #[error("{}: {}", shown(path), printable(what))]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        what: String,
    },
    /// The data set as a whole is not usable.
    #[error("{}: {}", shown(path), printable(what))]
    Dataset {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
}

/// A path in one line that a terminal may show.
fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// What the system says, and what to do about it.
fn plainly(e: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match e.kind() {
        ErrorKind::NotFound => "does not exist; check the path".into(),
        ErrorKind::PermissionDenied => "permission denied; check who may read and write it".into(),
        ErrorKind::StorageFull => "the disk is full; free some space or give another folder".into(),
        ErrorKind::ReadOnlyFilesystem => "the disk is read-only; give another folder".into(),
        _ => e.to_string(),
    }
}

/// Result with this crate's [`DataError`].
pub type Result<T> = std::result::Result<T, DataError>;

impl DataError {
    pub(crate) fn io(path: &Path, cause: std::io::Error) -> Self {
        DataError::Io { path: path.into(), cause }
    }

    pub(crate) fn picture(path: &Path, what: impl ToString) -> Self {
        // Decoders may say several lines; an error is one.
        let what = what.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        DataError::Picture { path: path.into(), what: printable_short(&what) }
    }

    pub(crate) fn dataset(path: &Path, what: impl Into<String>) -> Self {
        DataError::Dataset { path: path.into(), what: printable_short(&what.into()) }
    }
}
