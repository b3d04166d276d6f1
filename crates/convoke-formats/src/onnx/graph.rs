//! A graph as it runs: nodes with checked attributes, joined by the names of values.

use super::Said;
use super::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// What an attribute holds.
#[derive(Debug, Clone)]
pub(super) enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    Tensor(Arc<Tensor>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Graph(Box<Graph>),
    /// Kept as a kind, so that only an op that needs it fails.
    Other,
}

/// One op in its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub op: String,
    /// The op set: empty for ONNX's own.
    pub domain: String,
    pub name: String,
    /// Names of values; an empty one is left out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: HashMap<String, Attribute>,
    /// Version of its op set.
    pub opset: i64,
}

/// What a caller gives or gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// Sizes; `None` where one is open, an empty list where even their number may be.
    pub shape: Vec<Option<usize>>,
    /// Whether its numbers are floats.
    pub(super) float: bool,
}

/// Nodes, constants, and what goes in and out.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    pub name: String,
    pub nodes: Vec<Node>,
    pub constants: HashMap<String, Arc<Tensor>>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

impl Graph {
    /// How many numbers its constants hold.
    pub fn numbers(&self) -> usize {
        let attributes = self.nodes.iter().flat_map(|n| n.attributes.values());
        let inside = attributes.map(|a| match a {
            Attribute::Tensor(t) => t.len(),
            _ => 0,
        });
        self.constants.values().map(|t| t.len()).chain(inside).sum()
    }
}

impl Node {
    /// The node for people: by its name, or by what it makes.
    pub fn told(&self) -> String {
        let name = match (&self.name[..], self.outputs.iter().find(|o| !o.is_empty())) {
            ("", Some(output)) => format!("that makes `{}`", super::one_line(output)),
            (name, _) => format!("`{}`", super::one_line(name)),
        };
        let domain = if self.domain.is_empty() { "" } else { "." };
        let (domain, op) =
            (super::one_line(&format!("{}{domain}", self.domain)), super::one_line(&self.op));
        format!("node {name} ({domain}{op})")
    }

    pub fn has(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }

    pub fn int(&self, name: &str, default: i64) -> Said<i64> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(i)) => Ok(*i),
            Some(_) => Err(format!("attribute `{name}` is no whole number")),
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> Said<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    pub fn float(&self, name: &str, default: f32) -> Said<f32> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(f)) => Ok(*f),
            Some(_) => Err(format!("attribute `{name}` is no number")),
        }
    }

    pub fn text(&self, name: &str, default: &str) -> Said<String> {
        match self.attributes.get(name) {
            None => Ok(default.into()),
            Some(Attribute::Text(s)) => Ok(s.clone()),
            Some(_) => Err(format!("attribute `{name}` is no text")),
        }
    }

    pub fn ints(&self, name: &str) -> Said<Option<&[i64]>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(format!("attribute `{name}` is no list of whole numbers")),
        }
    }

    pub fn floats(&self, name: &str) -> Said<Option<&[f32]>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Floats(v)) => Ok(Some(v)),
            Some(_) => Err(format!("attribute `{name}` is no list of numbers")),
        }
    }

    pub fn tensor(&self, name: &str) -> Said<Option<&Arc<Tensor>>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Tensor(t)) => Ok(Some(t)),
            Some(_) => Err(format!("attribute `{name}` is no tensor")),
        }
    }

    pub fn graph(&self, name: &str) -> Said<&Graph> {
        match self.attributes.get(name) {
            Some(Attribute::Graph(g)) => Ok(g),
            _ => Err(format!("has no graph `{name}`")),
        }
    }
}
