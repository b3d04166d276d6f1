//! Pictures and labels: readers, augmentation, loader, scene generator. Knows nothing of networks.

#![forbid(unsafe_code)]

mod boxes;
pub mod check;
mod cifar;
mod dataset;
mod error;
mod file;
mod idx;
mod loader;
mod picture;
mod rows;
pub mod scene;
mod series;
mod transform;
mod truth;

pub use boxes::{
    Annotation, BoxSet, BoxSplit, BoxedPicture, Fault, FaultKind, Part, SplitOptions,
    near_duplicates,
};
pub use dataset::{Dataset, OpenOptions, Source, Split};
pub use error::{DataError, Result};
pub use file::{open_file, printable, printable_short, read_file, read_text};
pub use loader::{Batch, Loader, LoaderOptions, Problem};
pub use picture::{
    Area, Facts, Filter, MAX_SIDE, Picture, decode_picture, encode_jpeg, encode_png, is_unfinished,
    read_facts, read_picture, read_size, resize, write_file, write_png,
};
pub use rows::Rows;
pub use series::{
    Fit, Norm, Regression, SignalPreprocess, Signals, Table, is_regression, read_signals,
    regression,
};
pub use transform::{Augment, Preprocess, statistics};
