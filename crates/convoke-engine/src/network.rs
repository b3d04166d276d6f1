//! A network: layers joined in a graph, with every shape known.

use crate::layers::{Layer, ParamSpec};
use crate::{Error, Result, Shape};
use std::collections::HashSet;

/// A place in a network: the input, or the output of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// Position in [`Network::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One layer in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// The layer; `None` for the network's input.
    pub layer: Option<Layer>,
    /// Where its inputs come from, always earlier nodes.
    pub inputs: Vec<NodeId>,
    /// Shape of its output, per sample.
    pub shape: Shape,
}

/// A further output that training has and prediction has not: its loss, against the same labels or targets, is
/// added to the output's (the auxiliary classifiers of Szegedy et al. 2015).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// The place whose map is measured; shaped as the output.
    pub place: NodeId,
    /// What its loss is multiplied by.
    pub weight: f32,
}

/// Layers joined in a graph. Nodes are in an order in which they can run; node 0 is the input.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    name: String,
    nodes: Vec<Node>,
    output: NodeId,
    heads: Vec<Head>,
}

/// A network may have at most that many layers.
const MAX_NODES: usize = 100_000;
/// A map may have at most that many numbers per sample.
const MAX_LEN: usize = 1 << 33;
/// A layer may take at most that many multiply-accumulates per sample.
const MAX_MACS: u64 = 1 << 56;

impl Network {
    /// Joins layers: `(name, layer, inputs)`, each input an earlier node.
    pub(crate) fn assemble(
        name: &str,
        input: Shape,
        layers: Vec<(String, Layer, Vec<NodeId>)>,
        output: NodeId,
    ) -> Result<Self> {
        let mut net = Network { name: name.into(), nodes: Vec::new(), output, heads: Vec::new() };
        let mut names = HashSet::from(["input".to_string()]);
        if layers.len() > MAX_NODES {
            return Err(net.error(format!("{} layers are too many", layers.len())));
        }
        net.check_size("input", input)?;
        net.nodes.push(Node { name: "input".into(), layer: None, inputs: vec![], shape: input });
        for (layer_name, layer, inputs) in layers {
            let shapes = net.shapes(&inputs);
            let shape = layer.rule().output(&layer_name, &shapes)?;
            net.check_size(&layer_name, shape)?;
            let params = layer.rule().params(&shapes);
            let len = params.iter().try_fold(0, |n: usize, p| n.checked_add(product(&p.shape)?));
            if len.is_none_or(|n| n > MAX_LEN) {
                return Err(Error::layer(&layer_name, "has too many parameters"));
            }
            if layer.rule().macs(&shapes, shape) > MAX_MACS {
                return Err(Error::layer(&layer_name, "needs too many multiplications"));
            }
            if layer_name.chars().any(char::is_control) {
                return Err(Error::layer(
                    &layer_name,
                    "has a name that cannot be shown; rename it",
                ));
            }
            if !names.insert(layer_name.clone()) {
                return Err(net.error(format!("two layers are named `{layer_name}`; rename one")));
            }
            net.nodes.push(Node { name: layer_name, layer: Some(layer), inputs, shape });
        }
        if net.nodes.len() == 1 {
            return Err(net.error("has no layers; add at least one"));
        }
        Ok(net)
    }

    /// The same network with these heads.
    ///
    /// # Errors
    /// When a head's place is read by a layer or is the output, its shape is not the output's, or its weight is no
    /// number above zero.
    pub fn with_heads(mut self, heads: Vec<Head>) -> Result<Self> {
        self.heads.clear();
        let readers = self.readers();
        for (i, head) in heads.iter().enumerate() {
            let Some(node) = self.nodes.get(head.place.0) else {
                return Err(self.error("a head's place is not in the network"));
            };
            let told = |what: String| Err(Error::layer(&node.name, what));
            if readers[head.place.0] > 0 || heads[..i].iter().any(|h| h.place == head.place) {
                return told("is a head, so no layer may read it and it is one only once".into());
            }
            if node.shape != self.output_shape() {
                let output = self.output_shape();
                return told(format!("is a head of {} but the output is {output}", node.shape));
            }
            if !(head.weight.is_finite() && head.weight > 0.0) {
                return told(format!("is a head of weight {}; use a number above 0", head.weight));
            }
        }
        self.heads = heads;
        Ok(self)
    }

    /// The further outputs that training has.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// The network as prediction runs it: without heads and without layers that only they need.
    ///
    /// # Errors
    /// Never for a network that was built.
    pub fn without_heads(&self) -> Result<Self> {
        let alive = self.alive(&[]);
        let mut places = vec![NodeId(0); self.nodes.len()];
        let mut layers = Vec::new();
        for (id, node) in self.iter() {
            let Some(layer) = node.layer.clone().filter(|_| alive[id.0]) else { continue };
            let inputs = node.inputs.iter().map(|i| places[i.0]).collect();
            layers.push((node.name.clone(), layer, inputs));
            places[id.0] = NodeId(layers.len());
        }
        Network::assemble(&self.name, self.input_shape(), layers, places[self.output.0])
    }

    /// Places that the output or one of the given places depends on.
    pub(crate) fn alive(&self, also: &[NodeId]) -> Vec<bool> {
        self.before(also.iter().copied().chain([self.output]))
    }

    /// The given places and all that they depend on.
    pub(crate) fn before(&self, places: impl IntoIterator<Item = NodeId>) -> Vec<bool> {
        let mut alive = vec![false; self.nodes.len()];
        for place in places {
            alive[place.0] = true;
        }
        for (id, node) in self.nodes.iter().enumerate().rev() {
            if alive[id] {
                for i in &node.inputs {
                    alive[i.0] = true;
                }
            }
        }
        alive
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::Network { network: self.name.clone(), what: what.into() }
    }

    fn check_size(&self, name: &str, s: Shape) -> Result<()> {
        if !product(&[s.h, s.w, s.c]).is_some_and(|n| (1..=MAX_LEN).contains(&n)) {
            return Err(Error::layer(name, format!("a map of {s} is empty or too large")));
        }
        Ok(())
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All nodes in running order; the first is the input.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The input's place.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// Shape of one input sample.
    pub fn input_shape(&self) -> Shape {
        self.nodes[0].shape
    }

    /// The output's place (logits, for a classifier).
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Shape of one output sample.
    pub fn output_shape(&self) -> Shape {
        self.node(self.output).shape
    }

    /// The node of that name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name).map(NodeId)
    }

    /// Shapes of the given places.
    pub fn shapes(&self, ids: &[NodeId]) -> Vec<Shape> {
        ids.iter().map(|&id| self.node(id).shape).collect()
    }

    /// Every place with its node, in running order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i), n))
    }

    /// The same layers over another input size: how a fully convolutional network slides over a
    /// whole picture. Parameters keep their shapes where the layers allow it.
    ///
    /// # Errors
    /// When a layer does not fit, or its parameters would change shape (a dense layer fixes the size).
    pub fn with_input(&self, input: Shape) -> Result<Self> {
        let layers = self.nodes[1..]
            .iter()
            .map(|n| {
                (
                    n.name.clone(),
                    n.layer.clone().expect("only node 0 is the input"),
                    n.inputs.clone(),
                )
            })
            .collect();
        let other = Network::assemble(&self.name, input, layers, self.output)?
            .with_heads(self.heads.clone())?;
        for (a, b) in self.params().iter().zip(other.params()) {
            if a.spec.shape != b.spec.shape {
                return Err(Error::layer(
                    &self.node(a.node).name,
                    format!(
                        "its `{}` is {:?} for input {} but would be {:?} for input {input}; a layer of fixed size cannot slide",
                        a.spec.name,
                        a.spec.shape,
                        self.input_shape(),
                        b.spec.shape
                    ),
                ));
            }
        }
        Ok(other)
    }

    /// Every trained tensor in its fixed order: the order of the flat parameter buffer.
    pub fn params(&self) -> Vec<Param> {
        self.tensors(|l, shapes| l.rule().params(shapes))
    }

    /// Every running statistic in its fixed order.
    pub fn state(&self) -> Vec<Param> {
        self.tensors(|l, shapes| l.rule().state(shapes))
    }

    fn tensors(&self, of: impl Fn(&Layer, &[Shape]) -> Vec<ParamSpec>) -> Vec<Param> {
        let (mut all, mut start) = (Vec::new(), 0);
        for (id, node) in self.iter() {
            let Some(layer) = &node.layer else { continue };
            for spec in of(layer, &self.shapes(&node.inputs)) {
                let len = spec.len();
                let name = format!("{}.{}", node.name, spec.name);
                all.push(Param { name, node: id, spec, range: start..start + len });
                start += len;
            }
        }
        all
    }

    /// Number of trained numbers.
    pub fn parameters(&self) -> usize {
        self.params().last().map_or(0, |p| p.range.end)
    }

    /// Multiply-accumulates of one forward pass over one sample, heads aside.
    pub fn macs(&self) -> u64 {
        let alive = self.alive(&[]);
        let all = self.iter().filter(|(id, _)| alive[id.0]).map(|(id, _)| self.macs_of(id));
        all.fold(0, u64::saturating_add)
    }

    /// Multiply-accumulates of one layer over one sample.
    pub fn macs_of(&self, id: NodeId) -> u64 {
        let node = self.node(id);
        node.layer.as_ref().map_or(0, |l| l.rule().macs(&self.shapes(&node.inputs), node.shape))
    }

    /// How many layers read each place; being the network's output or a head counts as one reader.
    pub(crate) fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.nodes.len()];
        for node in &self.nodes {
            for id in &node.inputs {
                readers[id.0] += 1;
            }
        }
        for place in self.heads.iter().map(|h| h.place).chain([self.output]) {
            readers[place.0] += 1;
        }
        readers
    }
}

/// None where it is more than a machine can count.
fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1, |n: usize, &s| n.checked_mul(s))
}

/// A trained tensor (or running statistic) in its place in the flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// `layer.weight`.
    pub name: String,
    /// The layer it belongs to.
    pub node: NodeId,
    /// Sizes, first values, decay.
    pub spec: ParamSpec,
    /// Where it lies in the flat buffer.
    pub range: std::ops::Range<usize>,
}
