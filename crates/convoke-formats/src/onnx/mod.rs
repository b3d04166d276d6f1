//! ONNX: graphs of other tools in, networks out.

mod export;
#[allow(dead_code)] // until the reader and the writer use all of it
mod proto;

pub use export::{ExportOptions, OPSETS, export, to_bytes};
