//! Pictures and labels: readers, augmentation, loader, scene generator. Knows nothing of networks.

pub mod check;
mod cifar;
mod dataset;
mod error;
mod idx;
mod loader;
mod picture;
pub mod scene;
mod transform;
mod truth;

pub use dataset::{Dataset, OpenOptions, Source, Split};
pub use error::{DataError, Result};
pub use loader::{Batch, Loader, LoaderOptions, Problem};
pub use picture::{
    Area, Filter, MAX_SIDE, Picture, decode_picture, encode_jpeg, encode_png, read_picture,
    read_size, resize, write_file, write_png,
};
pub use transform::{Augment, Preprocess, statistics};
