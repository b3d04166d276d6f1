//! ONNX: graphs of other tools in, networks out.

#[allow(dead_code)] // until the reader and the writer use all of it
mod proto;
