//! A graph while it is written: nodes, constants, and names that are never given twice.

use crate::onnx::proto::{
    AttributeProto, AttributeType, Bytes, DataType, Dim, DimensionProto, NodeProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use std::collections::BTreeSet;

/// What has been written so far.
#[derive(Default)]
pub(super) struct Graph {
    pub nodes: Vec<NodeProto>,
    pub constants: Vec<TensorProto>,
    taken: BTreeSet<String>,
}

impl Graph {
    /// The name, or where it is taken the name with a number behind it.
    pub fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_string();
        let mut n = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}_{n}");
            n += 1;
        }
        name
    }

    /// Adds a node of one output; gives the output's name, which is the node's.
    pub fn node(
        &mut self,
        op: &str,
        wanted: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> String {
        let name = self.name(wanted);
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op.into(),
            attribute,
            ..Default::default()
        });
        name
    }

    /// A constant of 32-bit floats; no sizes make it a scalar.
    pub fn floats(&mut self, wanted: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(wanted, dims, DataType::Float, bytes)
    }

    /// A constant list of 64-bit integers.
    pub fn ints(&mut self, wanted: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(wanted, &[values.len()], DataType::Int64, bytes)
    }

    fn constant(
        &mut self,
        wanted: &str,
        dims: &[usize],
        data_type: DataType,
        raw: Vec<u8>,
    ) -> String {
        let name = self.name(wanted);
        self.constants.push(TensorProto {
            dims: dims.iter().map(|&n| n as i64).collect(),
            data_type: data_type.into(),
            name: name.clone(),
            raw_data: Bytes::from(raw),
            ..Default::default()
        });
        name
    }

    /// Gives a value another name, wherever it is written or read.
    pub fn rename(&mut self, from: &str, to: &str) {
        let values = self.nodes.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
        for value in values.filter(|v| *v == from) {
            *value = to.into();
        }
    }
}

/// A whole number.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    attribute(name, AttributeType::Int, |a| a.i = Some(i))
}

/// Whole numbers.
pub(super) fn ints(name: &str, of: &[usize]) -> AttributeProto {
    attribute(name, AttributeType::Ints, |a| a.ints = of.iter().map(|&n| n as i64).collect())
}

/// A number.
pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    attribute(name, AttributeType::Float, |a| a.f = Some(f))
}

fn attribute(
    name: &str,
    kind: AttributeType,
    set: impl FnOnce(&mut AttributeProto),
) -> AttributeProto {
    let mut a = AttributeProto { name: name.into(), r#type: kind.into(), ..Default::default() };
    set(&mut a);
    a
}

/// An input or output of the graph; names stand for sizes that are open.
pub(super) fn value(name: &str, of: DataType, dims: Vec<Dim>) -> ValueInfoProto {
    let dim = dims.into_iter().map(|d| DimensionProto { value: Some(d), ..Default::default() });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: of.into(), shape });
    let r#type = Some(TypeProto { tensor_type, ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}
