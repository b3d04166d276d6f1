//! Networks written as ONNX: maps are `[n, c, h, w]`, filters `[d, c/groups, kh, kw]`, dense weights
//! `[out, in]`, padding in numbers, the number of pictures open.

mod general;
mod graph;
mod layers;
mod picture;

#[cfg(test)]
mod tests;

use super::proto::{
    DataType, Dim, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto,
};
use crate::{ModelError, ModelFile};
use graph::{Graph, value};
use layers::Writer;
use prost::Message;
use serde_json::json;
use std::path::Path;

/// How a model becomes ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportOptions {
    /// The operator set: from [`OPSETS`].
    pub opset: i64,
    /// Batch norms become part of the convolutions and dense layers before them, where nothing else
    /// reads what lies between.
    pub fold: bool,
    /// Takes pictures as they are, `uint8 [n, height, width, channels]` of any size: resizing, cutting and
    /// normalisation are part of the graph.
    pub preprocess: bool,
}

/// Operator sets that are written. 13 (2020) is the oldest in which softmax is told its axis.
pub const OPSETS: std::ops::RangeInclusive<i64> = 13..=22;

impl Default for ExportOptions {
    fn default() -> Self {
        Self { opset: 17, fold: false, preprocess: false }
    }
}

/// Protobuf's own bound.
const MAX_BYTES: usize = i32::MAX as usize;

/// Writes a model as an ONNX file, beside its place and renamed there.
///
/// # Errors
/// When the options do not fit the model, a weight is not finite, or the file cannot be written.
pub fn export(path: &Path, model: &ModelFile, options: &ExportOptions) -> Result<(), ModelError> {
    let bytes = to_bytes(model, options).map_err(|what| {
        let what = format!("not written: {what}");
        ModelError::File { path: path.into(), what }
    })?;
    Ok(convoke_data::write_file(path, &bytes)?)
}

/// The same, in memory.
///
/// # Errors
/// What is wrong, in one line without the path.
pub fn to_bytes(model: &ModelFile, options: &ExportOptions) -> Result<Vec<u8>, String> {
    let proto = model_proto(model, options)?;
    match proto.encoded_len() {
        n if n > MAX_BYTES => Err("the model is larger than ONNX's 2 GiB".into()),
        n => {
            let mut bytes = Vec::with_capacity(n);
            proto.encode(&mut bytes).map_err(|e| e.to_string())?;
            Ok(bytes)
        }
    }
}

pub(super) fn model_proto(
    model: &ModelFile,
    options: &ExportOptions,
) -> Result<ModelProto, String> {
    if !OPSETS.contains(&options.opset) {
        let (first, last) = (OPSETS.start(), OPSETS.end());
        return Err(format!(
            "opset {} is not written; give one from {first} to {last}",
            options.opset
        ));
    }
    model.check()?;
    let (network, pre) = (&model.network, &model.preprocess);
    let mut graph = Graph::default();
    let batch = || Dim::Param("batch".into());
    let (input, start) = if options.preprocess {
        let name = graph.name("image");
        let sizes = ["height", "width"].map(|s| Dim::Param(s.into()));
        let [h, w] = sizes;
        let dims = vec![batch(), h, w, Dim::Value(pre.channels as i64)];
        let start = picture::prepare(&mut graph, &name, pre);
        (value(&name, DataType::Uint8, dims), start)
    } else {
        let name = graph.name("input");
        let s = network.input_shape();
        let dims = [s.c, s.h, s.w].map(|n| Dim::Value(n as i64));
        let dims = std::iter::once(batch()).chain(dims).collect();
        (value(&name, DataType::Float, dims), name)
    };
    let mut writer = Writer::new(model, options, graph, start);
    let (last, sizes) = writer.network()?;
    let mut graph = writer.graph;
    let wanted = if model.task == "classify" { "logits" } else { "output" };
    let mut output = last.clone();
    if last != wanted {
        output = graph.name(wanted);
        graph.rename(&last, &output);
    }
    let dims = std::iter::once(batch()).chain(sizes.into_iter().map(|n| Dim::Value(n as i64)));
    let output = value(&output, DataType::Float, dims.collect());
    Ok(ModelProto {
        ir_version: ir_version(options.opset),
        producer_name: "convoke".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: told(model, options),
        graph: Some(GraphProto {
            node: graph.nodes,
            name: network.name().into(),
            initializer: graph.constants,
            input: vec![input],
            output: vec![output],
            ..Default::default()
        }),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: options.opset }],
        metadata_props: facts(model, options),
        ..Default::default()
    })
}

/// The oldest version of the file format that has the operator set (ONNX's `Versioning.md`).
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}

/// What the input is, for people who open the file.
fn told(model: &ModelFile, options: &ExportOptions) -> String {
    let pre = &model.preprocess;
    if let Some(s) = pre.signal {
        return format!(
            "input: float [batch, channels, 1, length], a signal; {s:?} with mean {:?}, std {:?}",
            pre.mean, pre.std
        );
    }
    let order = match (pre.channels, pre.bgr && !options.preprocess) {
        (3, true) => "BGR",
        (3, false) => "RGB",
        _ => "grey",
    };
    if options.preprocess {
        return format!("image: uint8 [batch, height, width, channels], {order}, of any size");
    }
    format!(
        "input: float [batch, channels, height, width], {order}; (value / 255 - mean) / std with mean {:?}, std {:?}",
        pre.mean, pre.std
    )
}

/// What the model file says beside the network: class names and preprocessing as JSON.
fn facts(model: &ModelFile, options: &ExportOptions) -> Vec<StringStringEntryProto> {
    let mut all = vec![
        ("labels".to_string(), json!(model.classes).to_string()),
        ("preprocess".into(), json!(model.preprocess).to_string()),
        ("preprocess_in_graph".into(), options.preprocess.to_string()),
        ("task".into(), model.task.clone()),
    ];
    all.extend(model.facts.iter().map(|(k, v)| (format!("fact.{k}"), v.clone())));
    all.into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect()
}
