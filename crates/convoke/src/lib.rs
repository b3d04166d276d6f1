//! convoke: convolutional networks in Rust.
