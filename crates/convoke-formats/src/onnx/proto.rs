//! The messages of ONNX's protobuf schema (`onnx.proto`, IR version 3 to 14) that a CNN needs, written by
//! hand for `prost`: field numbers and names are the schema's. Fields left out (sparse tensors, training
//! info, functions, device configurations) are skipped when read.
//!
//! Decode from [`Bytes`]: raw tensor data is then a window of the file and is not copied.

use prost::Message;
pub use prost::bytes::Bytes;

/// A whole file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the schema itself.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The tool that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// Namespace of the model, such as `org.example`.
    #[prost(string, tag = "4")]
    pub domain: String,
    /// The model's own version.
    #[prost(int64, tag = "5")]
    pub model_version: i64,
    /// Text for people.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// The network.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets that the graph's ops are taken from.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Facts by name.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// One operator set: a domain (empty: ONNX's own) and a version.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty or `ai.onnx` for ONNX's own ops.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// The opset's number.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A name with a text.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// The name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The text.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Nodes joined by the names of what they read and write.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// In an order in which they can run.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// The graph's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants: weights, shapes, axes.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Text for people.
    #[prost(string, tag = "10")]
    pub doc_string: String,
    /// What the caller gives. Before IR version 4 initialisers stand here too.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// What the caller gets.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of values in between.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
}

/// One op in its place.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of values; an empty one is an optional input left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of values; an empty one is an output that nobody reads.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// The node's name, often empty.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The op, such as `Conv`.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// What the op is told beside its inputs.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Text for people.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// The operator set; empty for ONNX's own.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// A named setting of a node; [`r#type`](Self::type) says which field holds it.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// The name, such as `kernel_shape`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A number.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// A whole number.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// UTF-8 text.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// A graph: the body of a loop or a branch.
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    /// Numbers.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Whole numbers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Texts.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    /// Tensors.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    /// Graphs.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
    /// Text for people.
    #[prost(string, tag = "13")]
    pub doc_string: String,
    /// Which field holds the value. Files of IR version 1 leave it 0: the field that is set holds it.
    #[prost(enumeration = "AttributeType", tag = "20")]
    pub r#type: i32,
    /// In a function's body: the attribute of the function that gives the value.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
}

/// Which field of an [`AttributeProto`] holds the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AttributeType {
    /// Not said.
    Undefined = 0,
    /// `f`
    Float = 1,
    /// `i`
    Int = 2,
    /// `s`
    String = 3,
    /// `t`
    Tensor = 4,
    /// `g`
    Graph = 5,
    /// `floats`
    Floats = 6,
    /// `ints`
    Ints = 7,
    /// `strings`
    Strings = 8,
    /// `tensors`
    Tensors = 9,
    /// `graphs`
    Graphs = 10,
    /// A sparse tensor (not read).
    SparseTensor = 11,
    /// Sparse tensors (not read).
    SparseTensors = 12,
    /// A type (not read).
    TypeProto = 13,
    /// Types (not read).
    TypeProtos = 14,
}

/// A tensor with its values, which lie in exactly one field: `raw_data` (little-endian), the one for the
/// type, or a file beside.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Sizes, outermost first; none for a scalar.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// The type of a value.
    #[prost(enumeration = "DataType", tag = "2")]
    pub data_type: i32,
    /// float, complex64 (pairs).
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// int32, and in one number each: the smaller ints, bool, float16 and bfloat16 as bits.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// string
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub string_data: Vec<Bytes>,
    /// int64
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// The value's name in the graph.
    #[prost(string, tag = "8")]
    pub name: String,
    /// All types but string, little-endian, without gaps.
    #[prost(bytes = "bytes", tag = "9")]
    pub raw_data: Bytes,
    /// double, complex128 (pairs).
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// uint32, uint64
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Text for people.
    #[prost(string, tag = "12")]
    pub doc_string: String,
    /// `location` (a path beside the model), `offset`, `length`, `checksum`.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// Whether the values lie in a file beside.
    #[prost(enumeration = "DataLocation", tag = "14")]
    pub data_location: i32,
}

/// Where the values of a [`TensorProto`] lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DataLocation {
    /// In the message.
    Default = 0,
    /// In the file that `external_data` names.
    External = 1,
}

/// The type of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum DataType {
    Undefined = 0,
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    String = 8,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Uint32 = 12,
    Uint64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    Bfloat16 = 16,
    Float8e4m3fn = 17,
    Float8e4m3fnuz = 18,
    Float8e5m2 = 19,
    Float8e5m2fnuz = 20,
    Uint4 = 21,
    Int4 = 22,
    Float4e2m1 = 23,
    Float8e8m0 = 24,
    Uint2 = 25,
    Int2 = 26,
    Float6e2m3 = 27,
    Float6e3m2 = 28,
}

/// A value's name and type.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
    /// Text for people.
    #[prost(string, tag = "3")]
    pub doc_string: String,
}

/// A value's type. Without `tensor_type` it is no dense tensor (a sequence, a map, an optional …).
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// A dense tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
    /// What the value means, such as `IMAGE`.
    #[prost(string, tag = "6")]
    pub denotation: String,
}

/// The type of a dense tensor (`TypeProto.Tensor`).
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// The type of a value.
    #[prost(enumeration = "DataType", tag = "1")]
    pub elem_type: i32,
    /// Sizes; `None` where not even their number is known.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// Sizes of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// One size (`TensorShapeProto.Dimension`).
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// A number or a name; `None` where unknown.
    #[prost(oneof = "Dim", tags = "1, 2")]
    pub value: Option<Dim>,
    /// What the axis means, such as `DATA_BATCH`.
    #[prost(string, tag = "3")]
    pub denotation: String,
}

/// A size known or named.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Dim {
    /// A number.
    #[prost(int64, tag = "1")]
    Value(i64),
    /// A name, such as `batch`: sizes of the same name are equal.
    #[prost(string, tag = "2")]
    Param(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by ONNX's own library with every field above set (`tests/fixtures/onnx.py`).
    const ALL: &[u8] = include_bytes!("../../tests/fixtures/fields.onnx");

    #[test]
    fn what_onnx_wrote_is_read_and_written_back_to_the_byte() {
        let model = ModelProto::decode(Bytes::from_static(ALL)).unwrap();
        assert_eq!(model.encode_to_vec(), ALL);
    }

    #[test]
    fn every_field_lands_in_its_place() {
        let model = ModelProto::decode(ALL).unwrap();
        assert_eq!((model.ir_version, &*model.producer_name, model.model_version), (9, "p", 5));
        assert_eq!(model.opset_import[0], OperatorSetIdProto { domain: "d".into(), version: 17 });
        let graph = model.graph.unwrap();
        let node = &graph.node[0];
        assert_eq!((&*node.input[0], &*node.output[0], &*node.op_type), ("x", "y", "Op"));
        let a = &node.attribute[0];
        assert_eq!((a.f, a.i, a.s.as_deref()), (Some(0.0), Some(0), Some(&b"s"[..])));
        assert_eq!((&a.floats[..], &a.ints[..]), (&[1.5, 2.5][..], &[-1, 300][..]));
        assert_eq!((a.strings.len(), a.tensors.len(), a.graphs.len()), (2, 2, 1));
        assert_eq!(a.r#type(), AttributeType::Floats);
        let t = &graph.initializer[0];
        assert_eq!((&t.dims[..], t.data_type()), (&[2, 3][..], DataType::Float6e3m2));
        assert_eq!((&t.float_data[..], &t.int32_data[..]), (&[0.5][..], &[-7][..]));
        assert_eq!((&t.int64_data[..], &t.uint64_data[..]), (&[-8][..], &[9][..]));
        assert_eq!((&t.double_data[..], &t.raw_data[..]), (&[0.25][..], &b"raw"[..]));
        assert_eq!((&*t.external_data[0].key, t.data_location()), ("k", DataLocation::External));
        let of = |v: &ValueInfoProto| v.r#type.clone().unwrap().tensor_type.unwrap();
        let input = of(&graph.input[0]);
        assert_eq!(input.elem_type(), DataType::Uint8);
        let dims = input.shape.unwrap().dim;
        assert_eq!(dims[0].value, Some(Dim::Param("batch".into())));
        assert_eq!((dims[1].value.clone(), &*dims[1].denotation), (Some(Dim::Value(0)), "C"));
        assert_eq!(dims[2].value, None);
        assert_eq!((&*graph.output[0].name, &*graph.value_info[0].name), ("out", "between"));
    }
}
