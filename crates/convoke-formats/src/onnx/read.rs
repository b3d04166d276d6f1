//! From the bytes of a file to a checked graph.

use super::graph::{Attribute, Graph, Node, Port};
use super::proto::{
    AttributeProto, AttributeType, Bytes, Dim, GraphProto, ModelProto, NodeProto, TensorProto,
    ValueInfoProto,
};
use super::tensor::{Kind, Tensor};
use super::{Said, one_line};
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Nodes, constants and names of all graphs together: more is no CNN.
const MAX_PARTS: usize = 200_000;
/// Bytes of external data in all.
const MAX_OUTSIDE: u64 = 16 << 30;

/// What a file holds.
pub(super) struct Contents {
    pub graph: Graph,
    pub metadata: BTreeMap<String, String>,
}

/// Reads a model; `folder` is where its external data may lie.
pub(super) fn read(bytes: Vec<u8>, folder: Option<&Path>) -> Said<Contents> {
    const WRONG: &str = "is no ONNX model, or is damaged or cut short";
    check_parts(&bytes, 0, &mut 0).ok_or(WRONG)?;
    let model = ModelProto::decode(Bytes::from(bytes)).map_err(|_| WRONG.to_string())?;
    let graph = model.graph.ok_or("holds no graph")?;
    let mut reader = Reader { opsets: HashMap::new(), folder, outside: 0 };
    for set in model.opset_import {
        reader.opsets.insert(domain(&set.domain), set.version);
    }
    // Files of the first IR version name no op set: theirs is the first.
    reader.opsets.entry(String::new()).or_insert(1);
    let graph = reader.graph(graph)?;
    let text = |p: super::proto::StringStringEntryProto| (p.key, p.value);
    Ok(Contents { graph, metadata: model.metadata_props.into_iter().map(text).collect() })
}

/// Reads one tensor of its own (`input_0.pb`).
pub(super) fn tensor(bytes: &[u8]) -> Said<(String, Tensor)> {
    check_parts(bytes, 0, &mut 0).ok_or("is no tensor, or is damaged or cut short")?;
    let t = TensorProto::decode(bytes).map_err(|_| "is no tensor, or is damaged or cut short")?;
    let tensor = Tensor::read(&t, &mut |_, _| Err("a tensor file has no data outside".into()))?;
    Ok((t.name, tensor))
}

/// Empty for ONNX's own op set, which has two names.
fn domain(name: &str) -> String {
    if name == "ai.onnx" { String::new() } else { name.into() }
}

/// Counts what looks like messages or texts, and refuses a file of very many before it is decoded: an
/// empty message takes two bytes there and hundreds in memory.
fn check_parts(bytes: &[u8], depth: usize, parts: &mut usize) -> Option<()> {
    let mut at = 0;
    while at < bytes.len() {
        let key = varint(bytes, &mut at)?;
        match key & 7 {
            0 => drop(varint(bytes, &mut at)?),
            1 => at = at.checked_add(8)?,
            5 => at = at.checked_add(4)?,
            2 => {
                let len = usize::try_from(varint(bytes, &mut at)?).ok()?;
                let part = bytes.get(at..at.checked_add(len)?)?;
                *parts += 1;
                if *parts > 12 * MAX_PARTS {
                    return None;
                }
                // Whether it is a message only the schema knows. Parts of a graph lie at depth three
                // (model, graph, node, attribute, and bodies of branches below), and data is long.
                if depth < 5 && len < 1 << 20 || depth == 0 {
                    let before = *parts;
                    if check_parts(part, depth + 1, parts).is_none() {
                        if *parts > 12 * MAX_PARTS {
                            return None;
                        }
                        *parts = before;
                    }
                }
                at += len;
            }
            _ => return None,
        }
    }
    (at == bytes.len()).then_some(())
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in 0..10 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(7 * shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

struct Reader<'a> {
    opsets: HashMap<String, i64>,
    folder: Option<&'a Path>,
    /// Bytes of external data so far.
    outside: u64,
}

impl Reader<'_> {
    fn graph(&mut self, g: GraphProto) -> Said<Graph> {
        if g.node.len() + g.initializer.len() > MAX_PARTS {
            return Err("holds too many nodes".into());
        }
        let mut constants = HashMap::new();
        for t in &g.initializer {
            let tensor = self.tensor(t);
            let tensor = tensor.map_err(|e| format!("`{}`: {e}", one_line(&t.name)))?;
            constants.insert(t.name.clone(), Arc::new(tensor));
        }
        // In old files constants are inputs too; what is given of them is a default.
        // Some name as inputs what nodes make.
        let made: HashSet<&String> = g.node.iter().flat_map(|n| &n.output).collect();
        let given = |name: &String| !constants.contains_key(name) && !made.contains(name);
        let inputs = g.input.iter().filter(|i| given(&i.name));
        let inputs: Vec<Port> = inputs.map(port).collect();
        let outputs = g.output.iter().map(port).collect();
        drop(made);
        let nodes = g.node.into_iter().map(|n| self.node(n)).collect::<Said<Vec<_>>>()?;
        let nodes = sorted(nodes);
        Ok(Graph { name: one_line(&g.name), nodes, constants, inputs, outputs })
    }

    fn node(&mut self, n: NodeProto) -> Said<Node> {
        let domain = domain(&n.domain);
        let opset = self.opsets.get(&domain).copied().unwrap_or(1);
        let mut node = Node {
            op: n.op_type,
            domain,
            name: n.name,
            inputs: n.input,
            outputs: n.output,
            attributes: HashMap::new(),
            opset,
        };
        for a in n.attribute {
            let name = a.name.clone();
            let value = self
                .attribute(a)
                .map_err(|e| format!("{}: attribute `{}`: {e}", node.told(), one_line(&name)))?;
            node.attributes.insert(name, value);
        }
        Ok(node)
    }

    fn attribute(&mut self, a: AttributeProto) -> Said<Attribute> {
        use AttributeType as T;
        let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
        Ok(match a.r#type() {
            T::Float => Attribute::Float(a.f.unwrap_or(0.0)),
            T::Int => Attribute::Int(a.i.unwrap_or(0)),
            T::String => Attribute::Text(a.s.as_ref().map(text).unwrap_or_default()),
            T::Floats => Attribute::Floats(a.floats),
            T::Ints => Attribute::Ints(a.ints),
            T::Tensor => Attribute::Tensor(Arc::new(self.tensor(&a.t.ok_or("has no tensor")?)?)),
            T::Graph => Attribute::Graph(Box::new(self.graph(a.g.ok_or("has no graph")?)?)),
            // Not said: whichever field is set.
            T::Undefined => match (a.f, a.i, &a.s, &a.t) {
                (Some(f), ..) => Attribute::Float(f),
                (_, Some(i), ..) => Attribute::Int(i),
                (_, _, Some(s), _) => Attribute::Text(text(s)),
                (.., Some(t)) => Attribute::Tensor(Arc::new(self.tensor(t)?)),
                _ if !a.floats.is_empty() => Attribute::Floats(a.floats),
                _ => Attribute::Ints(a.ints),
            },
            _ => Attribute::Other,
        })
    }

    fn tensor(&mut self, t: &TensorProto) -> Said<Tensor> {
        Tensor::read(t, &mut |t, len| self.outside(t, len))
    }

    /// The bytes of a tensor that lie in a file beside the model.
    fn outside(&mut self, t: &TensorProto, len: usize) -> Said<Vec<u8>> {
        let entry = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| &e.value[..]);
        let location = entry("location").ok_or("external data without a location")?;
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(v) => {
                v.parse::<u64>().map(Some).map_err(|_| format!("external {key} is no number"))
            }
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if length.is_some_and(|l| l != len as u64) {
            return Err(format!("external data of {length:?} bytes for a tensor of {len}"));
        }
        let folder =
            self.folder.ok_or("its data lies in another file; open the model by its path")?;
        let path = inside(folder, location)?;
        self.outside += len as u64;
        if self.outside > MAX_OUTSIDE {
            return Err("has too much external data".into());
        }
        let shown = one_line(location);
        let wrong = |e: std::io::Error| format!("external data `{shown}`: {e}");
        let mut file = File::open(&path).map_err(wrong)?;
        let facts = file.metadata().map_err(wrong)?;
        if !facts.is_file() || offset.checked_add(len as u64).is_none_or(|end| end > facts.len()) {
            return Err(format!("external data `{shown}` is cut short"));
        }
        file.seek(SeekFrom::Start(offset)).map_err(wrong)?;
        let mut bytes = Vec::with_capacity(len);
        file.take(len as u64).read_to_end(&mut bytes).map_err(wrong)?;
        match bytes.len() == len {
            true => Ok(bytes),
            false => Err(format!("external data `{shown}` is cut short")),
        }
    }
}

/// The file that a location names, in the model's folder or below: never elsewhere, not by a link either.
fn inside(folder: &Path, location: &str) -> Said<PathBuf> {
    let shown = one_line(location);
    let plain = Path::new(location)
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if location.is_empty() || !plain {
        return Err(format!("external data `{shown}` lies outside the model's folder"));
    }
    let wrong = |e: std::io::Error| format!("external data `{shown}`: {e}");
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (folder, path) = (folder.canonicalize().map_err(wrong)?, folder.join(location));
    let path = path.canonicalize().map_err(wrong)?;
    match path.starts_with(&folder) {
        true => Ok(path),
        false => Err(format!("external data `{shown}` lies outside the model's folder")),
    }
}

fn port(v: &ValueInfoProto) -> Port {
    let tensor = v.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let dims = tensor.and_then(|t| t.shape.as_ref()).map_or(&[][..], |s| &s.dim[..]);
    let size = |d: &super::proto::DimensionProto| match d.value {
        Some(Dim::Value(n)) => usize::try_from(n).ok(),
        _ => None,
    };
    let float = tensor.is_some_and(|t| Kind::of(t.elem_type).is_some_and(Kind::is_float));
    Port { name: v.name.clone(), shape: dims.iter().map(size).collect(), float }
}

/// The nodes in an order in which they can run. Files should have them so; where some do not, each
/// goes behind the nodes whose outputs it reads.
fn sorted(nodes: Vec<Node>) -> Vec<Node> {
    let made: HashMap<String, usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(i, n)| n.outputs.iter().map(move |o| (o.clone(), i)))
        .collect();
    let mut seen: HashSet<&str> = HashSet::new();
    let in_order = nodes.iter().all(|n| {
        let ready = n.inputs.iter().all(|i| !made.contains_key(i) || seen.contains(&i[..]));
        seen.extend(n.outputs.iter().map(|o| &o[..]));
        ready
    });
    if in_order {
        return nodes;
    }
    let (mut waiting, mut readers) = (vec![0; nodes.len()], vec![Vec::new(); nodes.len()]);
    for (i, n) in nodes.iter().enumerate() {
        for &maker in n.inputs.iter().filter_map(|name| made.get(name)) {
            waiting[i] += 1;
            readers[maker].push(i);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..nodes.len()).filter(|&i| waiting[i] == 0).collect();
    let mut order = Vec::new();
    while let Some(i) = ready.pop_first() {
        order.push(i);
        for &r in &readers[i] {
            waiting[r] -= 1;
            if waiting[r] == 0 {
                ready.insert(r);
            }
        }
    }
    // A circle stays behind, and running it says what is missing.
    order.extend((0..nodes.len()).filter(|&i| waiting[i] > 0));
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| nodes[i].take()).collect()
}
