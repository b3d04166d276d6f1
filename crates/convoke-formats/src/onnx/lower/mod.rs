//! From a graph to a network: constants are folded, layouts turned, and each op becomes a layer or a few.

mod joins;
mod layout;
mod linear;
mod norm;
mod pixels;
mod pointwise;

use super::eval::{self, Budget, Call};
use super::graph::{Graph, Node};
use super::tensor::Tensor;
use super::{Said, one_line};
use convoke_engine::layers::{Concat, Layer};
use convoke_engine::{Builder, Network, NodeId, Shape};
use layout::Map;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A graph made a network, with its weights.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The network.
    pub network: Network,
    /// All weights, in the order of [`Network::params`].
    pub params: Vec<f32>,
    /// All running statistics, in the order of [`Network::state`].
    pub state: Vec<f32>,
    input: Map,
    outputs: Vec<Output>,
}

/// Where a graph's output lies in the network's.
#[derive(Debug, Clone)]
struct Output {
    /// First number of the sample.
    start: usize,
    /// Sizes behind the batch.
    sizes: Vec<usize>,
    /// For every number in the graph's order its place behind `start`.
    places: Vec<usize>,
}

impl Imported {
    /// Turns a graph's input `[n, channels, rows, columns]` to the network's `[n, h, w, c]`.
    ///
    /// # Errors
    /// When it is of another shape.
    pub fn input(&self, x: &Tensor) -> Result<Vec<f32>, String> {
        let sizes = self.input.sizes();
        if x.shape.get(1..) != Some(&sizes[..]) {
            return Err(format!("the input is {:?} behind the batch, not {:?}", sizes, x.shape));
        }
        let places = self.input.places();
        let mut all = Vec::with_capacity(x.len());
        for sample in x.to_f32s().chunks_exact(places.len().max(1)) {
            let mut to = vec![0.0; sample.len()];
            for (&v, &p) in sample.iter().zip(&places) {
                to[p] = v;
            }
            all.extend(to);
        }
        Ok(all)
    }

    /// The graph's outputs in order, from the network's output for `n` samples.
    ///
    /// # Errors
    /// When there are not so many numbers.
    pub fn outputs(&self, y: &[f32], n: usize) -> Result<Vec<Tensor>, String> {
        let len = self.network.output_shape().len();
        if y.len() != n * len {
            return Err(format!("{} numbers for {n} samples of {len}", y.len()));
        }
        let one = |o: &Output| {
            let of = |sample: &'_ [f32]| {
                o.places.iter().map(|p| sample[o.start + p]).collect::<Vec<_>>()
            };
            let values = y.chunks_exact(len).flat_map(of).collect();
            Tensor::floats(&[&[n], &o.sizes[..]].concat(), values)
        };
        Ok(self.outputs.iter().map(one).collect())
    }
}

/// A value while a graph is made a network.
#[derive(Debug, Clone)]
enum Value {
    /// Known before anything runs.
    Known(Arc<Tensor>),
    /// In a place of the network.
    Map(Map),
}

/// Layers so far.
struct Lower<'a> {
    graph: &'a Graph,
    /// Place 0 is the input.
    layers: Vec<(String, Layer, Vec<usize>)>,
    shapes: Vec<Shape>,
    names: HashSet<String>,
    weights: HashMap<String, Vec<f32>>,
    values: HashMap<String, Value>,
    /// The first axis of every value.
    batch: usize,
    budget: Budget,
    /// Name for the layers of the node at hand.
    hint: String,
}

/// Makes a network of a graph; `size` are rows and columns where the graph leaves them open.
pub(super) fn lower(graph: &Graph, name: &str, size: Option<(usize, usize)>) -> Said<Imported> {
    let [port] = &graph.inputs[..] else {
        let names: Vec<_> = graph.inputs.iter().map(|p| one_line(&p.name)).collect();
        return Err(format!(
            "a network has one input but the graph has {}: {names:?}",
            names.len()
        ));
    };
    let (shape, batch, input) = input_of(port, size)?;
    let mut l = Lower {
        graph,
        layers: Vec::new(),
        shapes: vec![shape],
        names: HashSet::from(["input".to_string()]),
        weights: HashMap::new(),
        values: HashMap::new(),
        batch,
        budget: Budget::folding(graph.numbers()),
        hint: String::new(),
    };
    l.values.insert(port.name.clone(), Value::Map(input.clone()));
    for node in &graph.nodes {
        l.node(node).map_err(|e| format!("{}: {e}", node.told()))?;
    }
    l.finish(name, input)
}

/// Rows, columns and channels of an input; its batch; how it lies.
fn input_of(port: &super::Port, size: Option<(usize, usize)>) -> Said<(Shape, usize, Map)> {
    let shown = one_line(&port.name);
    let open = || format!("the sizes of input `{shown}` are open; give --size");
    if !port.float {
        return Err(format!("input `{shown}` holds no floats"));
    }
    let [batch, sizes @ ..] = &port.shape[..] else {
        return Err(format!("input `{shown}` has no batch"));
    };
    // Channels last, as graphs from TensorFlow have them.
    let few = |s: &Option<usize>| matches!(s, Some(1 | 3 | 4));
    let last = sizes.len() == 3 && few(&sizes[2]) && !few(&sizes[0]);
    let mut sizes: Vec<Option<usize>> = sizes.to_vec();
    if let (3, Some((h, w))) = (sizes.len(), size) {
        let at = usize::from(!last);
        (sizes[at], sizes[at + 1]) = (Some(h), Some(w));
    }
    let sizes = sizes
        .iter()
        .map(|s| s.filter(|&s| s > 0 && s < 1 << 20))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(open)?;
    let (shape, map) = match sizes[..] {
        [c] => (Shape::vector(c), Map::plain(0, &[c])),
        [c, l] => (Shape::new(1, l, c), Map::fresh(0, Shape::new(1, l, c), 2)),
        [h, w, c] if last => (Shape::new(h, w, c), Map::plain(0, &[h, w, c])),
        [c, h, w] => (Shape::new(h, w, c), Map::fresh(0, Shape::new(h, w, c), 3)),
        _ => {
            return Err(format!(
                "input `{shown}` has {} axes; a network takes vectors, signals and pictures",
                sizes.len() + 1
            ));
        }
    };
    super::tensor::count(&sizes)?;
    Ok((shape, batch.unwrap_or(1), map))
}

impl Lower<'_> {
    /// Adds a layer on places; its name is the node's.
    fn add(&mut self, part: &str, layer: impl Into<Layer>, from: &[usize]) -> Said<usize> {
        let layer = layer.into();
        let part = if part.is_empty() { layer.kind() } else { part };
        let first = match self.hint.is_empty() {
            true => part.to_string(),
            false => self.hint.clone(),
        };
        let mut name = first.clone();
        let mut n = 1;
        while self.names.contains(&name) {
            n += 1;
            name = match n {
                2 if first != part => format!("{first}.{part}"),
                _ => format!("{first}.{part}{n}"),
            };
        }
        let shapes: Vec<Shape> = from.iter().map(|&p| self.shapes[p]).collect();
        let shape = layer.output(&name, &shapes).map_err(|e| e.to_string())?;
        let len = super::tensor::count(&shape_list(shape))?;
        if len == 0 || self.layers.len() > 50_000 {
            return Err("the network grows too large".into());
        }
        self.names.insert(name.clone());
        self.layers.push((name, layer, from.to_vec()));
        self.shapes.push(shape);
        Ok(self.layers.len())
    }

    /// Adds a layer with its tensors.
    fn add_with(
        &mut self,
        layer: impl Into<Layer>,
        from: &[usize],
        tensors: Vec<(&str, Vec<f32>)>,
    ) -> Said<usize> {
        let place = self.add("", layer, from)?;
        let name = &self.layers[place - 1].0;
        for (tensor, values) in tensors {
            if let Some(v) = values.iter().find(|v| !v.is_finite()) {
                return Err(format!("`{tensor}` holds {v}"));
            }
            self.weights.insert(format!("{name}.{tensor}"), values);
        }
        Ok(place)
    }

    /// The layer that makes a place.
    fn layer(&self, place: usize) -> Option<(&Layer, &[usize])> {
        let (_, layer, from) = self.layers.get(place.checked_sub(1)?)?;
        Some((layer, from))
    }

    /// A tensor of the layer that makes a place.
    fn tensor(&self, place: usize, name: &str) -> Option<&Vec<f32>> {
        let (layer, ..) = self.layers.get(place.checked_sub(1)?)?;
        self.weights.get(&format!("{layer}.{name}"))
    }

    fn shape(&self, place: usize) -> Shape {
        self.shapes[place]
    }

    /// Sizes of a value, the batch in front.
    fn sizes(&self, m: &Map) -> Vec<usize> {
        [vec![self.batch], m.sizes()].concat()
    }

    fn value(&self, name: &str) -> Said<Value> {
        let known = || self.graph.constants.get(name).cloned().map(Value::Known);
        let missing = || format!("`{}` is made by no node before", one_line(name));
        self.values.get(name).cloned().or_else(known).ok_or_else(missing)
    }

    /// Input `i` of a node; `None` where it is left out.
    fn given(&self, node: &Node, i: usize) -> Said<Option<Value>> {
        match node.inputs.get(i).map(|n| &n[..]) {
            None | Some("") => Ok(None),
            Some(name) => self.value(name).map(Some),
        }
    }

    /// Input `i`, which must be a map.
    fn map(&self, node: &Node, i: usize) -> Said<Map> {
        match self.given(node, i)? {
            Some(Value::Map(m)) => Ok(m),
            Some(Value::Known(_)) => {
                Err(format!("input {i} is a constant, which is not supported"))
            }
            None => Err(format!("input {i} is missing")),
        }
    }

    /// Input `i`, which must be known; `None` where it is left out.
    fn known(&self, node: &Node, i: usize) -> Said<Option<Arc<Tensor>>> {
        match self.given(node, i)? {
            Some(Value::Known(t)) => Ok(Some(t)),
            Some(Value::Map(_)) => {
                Err(format!("input {i} depends on the picture; a network wants it constant"))
            }
            None => Ok(None),
        }
    }

    /// Whole numbers from an attribute, or from an input where newer op sets have them.
    fn ints(&self, node: &Node, attribute: &str, i: usize) -> Said<Option<Vec<i64>>> {
        if let Some(v) = node.ints(attribute)? {
            return Ok(Some(v.to_vec()));
        }
        self.known(node, i)?.map(|t| t.i64s().map(<[i64]>::to_vec)).transpose()
    }

    fn node(&mut self, node: &Node) -> Said<()> {
        let inputs =
            (0..node.inputs.len()).map(|i| self.given(node, i)).collect::<Said<Vec<_>>>()?;
        let folds = inputs.iter().flatten().all(|v| matches!(v, Value::Known(_)));
        self.hint = hint(node);
        let made: Vec<Value> = if folds {
            if node.op == "If" {
                return Err("branches are not supported in a network".into());
            }
            let known = |v: Option<Value>| match v {
                Some(Value::Known(t)) => Some(t),
                _ => None,
            };
            let inputs: Vec<_> = inputs.into_iter().map(known).collect();
            let made = eval::call(&Call { node, inputs: &inputs, budget: &self.budget })?;
            made.into_iter().map(|t| Value::Known(Arc::new(t))).collect()
        } else {
            self.op(node)?
        };
        for (name, value) in node.outputs.iter().zip(made) {
            if !name.is_empty() {
                self.values.insert(name.clone(), value);
            }
        }
        // Outputs that a network has not, such as the places of a pool's maxima, must not be read.
        Ok(())
    }

    fn op(&mut self, node: &Node) -> Said<Vec<Value>> {
        if !node.domain.is_empty() {
            return Err("the op is not supported".into());
        }
        let one = |m: Said<Map>| m.map(|m| vec![Value::Map(m)]);
        match &node.op[..] {
            "Conv" => one(self.conv(node)),
            "ConvTranspose" => one(self.conv_transpose(node)),
            "Gemm" => one(self.gemm(node)),
            "MatMul" => one(self.matmul(node)),
            "BatchNormalization" => one(self.batch_norm(node)),
            "InstanceNormalization" => one(self.instance_norm(node)),
            "GroupNormalization" => one(self.group_norm(node)),
            "LayerNormalization" => one(self.layer_norm(node)),
            "LRN" => one(self.local_response(node)),
            "Softmax" | "LogSoftmax" => one(self.softmax(node)),
            "MaxPool" | "AveragePool" => one(self.pool(node)),
            "GlobalAveragePool" | "GlobalMaxPool" => one(self.global_pool(node)),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2"
            | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => one(self.reduce(node)),
            "Pad" => one(self.pad(node)),
            "Slice" => one(self.slice(node)),
            "Split" => self.split(node).map(|all| all.into_iter().map(Value::Map).collect()),
            "Gather" => one(self.gather(node)),
            "Resize" | "Upsample" => one(self.resize(node)),
            "Expand" | "Tile" => one(self.repeat(node)),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "DepthToSpace"
            | "SpaceToDepth" => one(self.rename(node)),
            "Concat" => one(self.concat(node)),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Mean" => {
                one(self.arithmetic(node))
            }
            "Shape" => {
                let shape = self.sizes(&self.map(node, 0)?);
                Ok(vec![Value::Known(Arc::new(eval::shape_part(node, &shape)?))])
            }
            "Size" => {
                let n = self.sizes(&self.map(node, 0)?).iter().product::<usize>();
                let n = Tensor::ints(super::Kind::I64, &[], vec![n as i64]);
                Ok(vec![Value::Known(Arc::new(n))])
            }
            _ => one(self.function(node)),
        }
    }

    /// The network of the layers that its outputs need.
    fn finish(mut self, name: &str, input: Map) -> Said<Imported> {
        self.hint = String::new();
        let mut maps = Vec::new();
        for port in &self.graph.outputs {
            match self.value(&port.name).map_err(|e| format!("output {e}"))? {
                Value::Map(m) => maps.push(m),
                Value::Known(_) => {
                    return Err(format!("output `{}` is a constant", one_line(&port.name)));
                }
            }
        }
        let (place, outputs) = self.join_outputs(maps)?;
        let mut alive = vec![false; self.shapes.len()];
        alive[place] = true;
        for p in (1..self.shapes.len()).rev() {
            if alive[p] {
                self.layers[p - 1].2.iter().for_each(|&i| alive[i] = true);
            }
        }
        if !alive[0] {
            return Err("its outputs do not depend on its input".into());
        }
        let mut b = Builder::new(name, self.shapes[0]);
        let mut ids: Vec<NodeId> = vec![b.here(); self.shapes.len()];
        for (i, (name, layer, from)) in self.layers.iter().enumerate().filter(|(i, _)| alive[i + 1])
        {
            let from: Vec<NodeId> = from.iter().map(|&p| ids[p]).collect();
            ids[i + 1] = b.named(name, layer.clone(), &from).here();
        }
        if place == 0 {
            return Err("its output is its input".into());
        }
        let network = b.at(ids[place]).build().map_err(|e| e.to_string())?;
        let mut flat = |wanted: Vec<convoke_engine::Param>| -> Said<Vec<f32>> {
            let mut all = Vec::new();
            for p in wanted {
                let values = self.weights.remove(&p.name).unwrap_or_default();
                if values.len() != p.range.len() {
                    return Err(format!(
                        "`{}` has {} numbers but the layer takes {}",
                        p.name,
                        values.len(),
                        p.range.len()
                    ));
                }
                all.extend(values);
            }
            Ok(all)
        };
        let (params, state) = (flat(network.params())?, flat(network.state())?);
        Ok(Imported { network, params, state, input, outputs })
    }

    /// One output stays a map; several become one vector, one behind the other.
    fn join_outputs(&mut self, maps: Vec<Map>) -> Said<(usize, Vec<Output>)> {
        let long = |m: &Map| self.shape(m.place).len();
        if maps.iter().map(long).sum::<usize>() > 1 << 25 {
            return Err("its outputs are too large".into());
        }
        if let [m] = &maps[..] {
            let m = self.natural(m)?;
            let output = Output { start: 0, sizes: m.sizes(), places: m.places() };
            return Ok((m.place, vec![output]));
        }
        let (mut places, mut outputs, mut start) = (Vec::new(), Vec::new(), 0);
        for m in &maps {
            let row = self.arranged(m, [vec![], vec![], m.atoms_of(0..m.axes.len())])?;
            let len = self.shape(row.place).len();
            outputs.push(Output { start, sizes: row.sizes(), places: (0..len).collect() });
            places.push(row.place);
            start += len;
        }
        if places.is_empty() {
            return Err("has no outputs".into());
        }
        Ok((self.add("outputs", Concat {}, &places)?, outputs))
    }
}

fn shape_list(s: Shape) -> [usize; 3] {
    [s.h, s.w, s.c]
}

/// A layer's name after its node's: without slashes and what no name should have.
fn hint(node: &Node) -> String {
    let name = match node.name.is_empty() {
        true => node.outputs.iter().find(|o| !o.is_empty()).map_or("", |o| &o[..]),
        false => &node.name[..],
    };
    let name = name.trim_matches('/').replace('/', ".");
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().take(120).map(plain).collect()
}
