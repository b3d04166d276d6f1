//! Every layer in ONNX's ops.

use super::ExportOptions;
use super::graph::{Graph, float, int, ints};
use crate::ModelFile;
use crate::onnx::proto::AttributeProto;
use crate::weights::layout::to_torch;
use convoke_engine::layers::{
    AdaptiveMeanPool, BatchNorm, ChannelShuffle, Conv, Dense, Layer, LayerNorm, LocalResponseNorm,
    MaxPool, MeanPool, Rescale, Scale, Shortcut, Slice, Upsample,
};
use convoke_engine::{Network, NodeId, Placed, Shape, Window};
use std::collections::BTreeMap;

/// How the numbers of an engine's map `[h, w, c]` lie in a value of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `[n, c, h, w]`.
    Map,
    /// `[n, c]`, for maps of one pixel.
    Vector,
    /// `[n, c·h·w]`: a flattened map of that shape, channel by channel, where the engine has it pixel by
    /// pixel.
    Flat(Shape),
}

/// A value of the graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub name: String,
    pub form: Form,
}

/// Writes a network node by node.
pub(super) struct Writer<'a> {
    pub network: &'a Network,
    pub opset: i64,
    pub graph: Graph,
    pub values: BTreeMap<NodeId, Value>,
    /// Convolutions and dense layers with the norm that becomes part of them.
    folded: BTreeMap<NodeId, NodeId>,
    /// Values that were brought to another form, so that it is done once.
    turned: BTreeMap<(String, &'static str), String>,
    /// Weights and statistics: shape and numbers.
    pub tensors: BTreeMap<String, (Vec<usize>, &'a [f32])>,
}

impl<'a> Writer<'a> {
    /// `start` is the value that the network's input is.
    pub fn new(model: &'a ModelFile, options: &ExportOptions, graph: Graph, start: String) -> Self {
        let network = &model.network;
        let mut tensors = BTreeMap::new();
        for (params, values) in [(network.params(), &model.params), (network.state(), &model.state)]
        {
            for p in params {
                tensors.insert(p.name, (p.spec.shape, &values[p.range]));
            }
        }
        Writer {
            network,
            opset: options.opset,
            graph,
            values: [(network.input(), Value { name: start, form: Form::Map })].into(),
            folded: if options.fold { folded(network) } else { BTreeMap::new() },
            turned: BTreeMap::new(),
            tensors,
        }
    }

    /// Writes all that the output needs; gives its name and sizes per picture.
    pub fn network(&mut self) -> Result<(String, Vec<usize>), String> {
        let needed = needed(self.network);
        for (id, node) in self.network.iter() {
            let Some(layer) = node.layer.as_ref().filter(|_| needed[id.index()]) else { continue };
            let value = self.layer(id, layer)?;
            self.values.insert(id, value);
        }
        let (output, shape) = (self.network.output(), self.network.output_shape());
        let (name, sizes) = match shape.pixels() {
            1 => (self.vector(output), vec![shape.c]),
            _ => (self.map(output), vec![shape.c, shape.h, shape.w]),
        };
        // An output that is the input itself is no node's.
        match self.graph.nodes.iter().any(|n| n.output.contains(&name)) {
            true => Ok((name, sizes)),
            false => Ok((self.graph.node("Identity", "same", &[&name], vec![]), sizes)),
        }
    }

    /// The ops of one layer. No arm stands for several: a new layer must say here what it is in ONNX.
    fn layer(&mut self, id: NodeId, layer: &Layer) -> Result<Value, String> {
        Ok(match layer {
            Layer::Conv(l) => self.conv(id, l)?,
            Layer::Dense(l) => self.dense(id, l),
            Layer::BatchNorm(l) => self.batch_norm(id, l),
            Layer::LocalResponseNorm(l) => self.local_response_norm(id, l),
            Layer::MaxPool(l) => self.max_pool(id, l)?,
            Layer::MeanPool(l) => self.mean_pool(id, l)?,
            Layer::GlobalMeanPool(_) => {
                let x = self.map(self.input(id));
                self.op(id, "GlobalAveragePool", &[&x], vec![], Form::Map)
            }
            Layer::AdaptiveMeanPool(l) => self.adaptive_mean_pool(id, l),
            Layer::LayerNorm(l) => self.layer_norm(id, l)?,
            Layer::Scale(l) => self.scale(id, l),
            Layer::Rescale(l) => self.rescale(id, l),
            Layer::Slice(l) => self.slice(id, l),
            Layer::ChannelShuffle(l) => self.channel_shuffle(id, l),
            Layer::Take(l) => self.take(id, l)?,
            Layer::Spread(l) => self.spread(id, l),
            Layer::Mix(l) => self.mix(id, l),
            Layer::Reduce(l) => self.reduce(id, l),
            Layer::Function(l) => self.function(id, l),
            Layer::Combine(l) => self.combine(id, l),
            Layer::Constant(l) => self.constant(id, l),
            Layer::Rearrange(l) => self.rearrange(id, l),
            // Prediction drops nothing.
            Layer::Dropout(_) | Layer::StochasticDepth(_) => self.values[&self.input(id)].clone(),
            Layer::Relu(l) => match l.max {
                None => self.each(id, "Relu", vec![]),
                Some(max) => self.clip(id, 0.0, max),
            },
            Layer::LeakyRelu(l) => self.each(id, "LeakyRelu", vec![float("alpha", l.slope)]),
            Layer::Sigmoid(_) => self.each(id, "Sigmoid", vec![]),
            Layer::Tanh(_) => self.each(id, "Tanh", vec![]),
            Layer::HardSigmoid(_) => self.each(id, "HardSigmoid", hard_sigmoid()),
            Layer::HardSwish(_) => self.hard_swish(id),
            Layer::Silu(_) => self.gated(id, "Sigmoid", vec![]),
            Layer::Gelu(_) => self.gelu(id),
            Layer::Softmax(_) => self.each(id, "Softmax", vec![int("axis", 1)]),
            Layer::Add(_) => self.add(id),
            Layer::Concat(_) => {
                let inputs = self.maps(id);
                self.op(id, "Concat", &refs(&inputs), vec![int("axis", 1)], Form::Map)
            }
            Layer::Gate(_) => {
                let inputs = self.maps(id);
                self.op(id, "Mul", &refs(&inputs), vec![], Form::Map)
            }
            Layer::Flatten(_) => self.flat(self.input(id)),
            Layer::Shortcut(l) => self.shortcut(id, l),
            Layer::Upsample(l) => self.upsample(id, l),
        })
    }

    fn conv(&mut self, id: NodeId, l: &Conv) -> Result<Value, String> {
        let input = self.input(id);
        let (from, x) = (self.shape(input), self.map(input));
        let window =
            Window { size: l.window, stride: l.stride, padding: l.padding, dilation: l.dilation };
        let placed = self.placed(id, window)?;
        let (w, b) = self.weights(id, l.bias, None);
        let groups = if l.groups == 0 { from.c } else { l.groups };
        let mut attributes = vec![
            ints("kernel_shape", &[l.window.h, l.window.w]),
            ints("strides", &[l.stride.h, l.stride.w]),
            pads(placed),
        ];
        if (l.dilation.h, l.dilation.w) != (1, 1) {
            attributes.push(ints("dilations", &[l.dilation.h, l.dilation.w]));
        }
        if groups != 1 {
            attributes.push(int("group", groups as i64));
        }
        let inputs: Vec<&str> = [&x, &w].into_iter().chain(&b).map(|s| &s[..]).collect();
        Ok(self.op(id, "Conv", &inputs, attributes, Form::Map))
    }

    fn dense(&mut self, id: NodeId, l: &Dense) -> Value {
        let x = self.flat(self.input(id));
        let map = if let Form::Flat(map) = x.form { Some(map) } else { None };
        let (w, b) = self.weights(id, l.bias, map);
        let inputs: Vec<&str> = [&x.name, &w].into_iter().chain(&b).map(|s| &s[..]).collect();
        self.op(id, "Gemm", &inputs, vec![int("transB", 1)], Form::Vector)
    }

    /// Weights and bias of a convolution or dense layer, the norm after it folded in where that is asked.
    fn weights(&mut self, id: NodeId, bias: bool, map: Option<Shape>) -> (String, Option<String>) {
        let (shape, mut w) = self.tensor(id, "weight", map);
        let mut b = bias.then(|| self.tensor(id, "bias", None).1);
        if let Some(&norm) = self.folded.get(&id) {
            let (scale, shift) = self.affine(norm);
            let each = w.len() / scale.len();
            for (w, s) in w.chunks_exact_mut(each).zip(&scale) {
                w.iter_mut().for_each(|w| *w = (f64::from(*w) * s) as f32);
            }
            let old = b.unwrap_or_else(|| vec![0.0; scale.len()]);
            let moved = |((b, s), t): ((&f32, &f64), &f64)| (f64::from(*b) * s + t) as f32;
            b = Some(old.iter().zip(&scale).zip(&shift).map(moved).collect());
        }
        let name = &self.network.node(id).name;
        let w = self.graph.floats(&format!("{name}.weight"), &shape, &w);
        (w, b.map(|b| self.graph.floats(&format!("{name}.bias"), &[b.len()], &b)))
    }

    /// A norm in prediction as `scale · x + shift` per channel.
    fn affine(&self, norm: NodeId) -> (Vec<f64>, Vec<f64>) {
        let Some(Layer::BatchNorm(l)) = &self.network.node(norm).layer else {
            return (Vec::new(), Vec::new());
        };
        let [weight, bias, mean, var] = ["weight", "bias", "running_mean", "running_var"]
            .map(|what| self.tensor(norm, what, None).1);
        let scale: Vec<f64> = (weight.iter().zip(&var))
            .map(|(&g, &v)| f64::from(g) / (f64::from(v) + f64::from(l.epsilon)).sqrt())
            .collect();
        let shift = (bias.iter().zip(&mean).zip(&scale))
            .map(|((&b, &m), s)| f64::from(b) - f64::from(m) * s)
            .collect();
        (scale, shift)
    }

    fn batch_norm(&mut self, id: NodeId, l: &BatchNorm) -> Value {
        let input = self.input(id);
        if self.folded.get(&input) == Some(&id) {
            return self.values[&input].clone();
        }
        let x = self.channels(input);
        let name = self.network.node(id).name.clone();
        let tensors = ["weight", "bias", "running_mean", "running_var"].map(|what| {
            let (shape, values) = self.tensor(id, what, None);
            self.graph.floats(&format!("{name}.{what}"), &shape, &values)
        });
        let inputs: Vec<&str> = [&x.name].into_iter().chain(&tensors).map(|s| &s[..]).collect();
        self.op(id, "BatchNormalization", &inputs, vec![float("epsilon", l.epsilon)], x.form)
    }

    /// Of each pixel over its channels, which ONNX wants last.
    fn layer_norm(&mut self, id: NodeId, l: &LayerNorm) -> Result<Value, String> {
        let name = self.network.node(id).name.clone();
        if self.opset < 17 {
            return Err(format!(
                "`{name}` is a layer norm, which ONNX has since opset 17; give --opset 17"
            ));
        }
        let x = self.channels(self.input(id));
        let tensors = ["weight", "bias"].map(|what| {
            let (shape, values) = self.tensor(id, what, None);
            self.graph.floats(&format!("{name}.{what}"), &shape, &values)
        });
        let attributes = vec![int("axis", -1), float("epsilon", l.epsilon)];
        if x.form == Form::Vector {
            let inputs = [&x.name[..], &tensors[0], &tensors[1]];
            return Ok(self.op(id, "LayerNormalization", &inputs, attributes, x.form));
        }
        let last = vec![ints("perm", &[0, 2, 3, 1])];
        let last = self.graph.node("Transpose", &format!("{name}/last"), &[&x.name], last);
        let inputs = [&last[..], &tensors[0], &tensors[1]];
        let normed =
            self.graph.node("LayerNormalization", &format!("{name}/normed"), &inputs, attributes);
        let first = vec![ints("perm", &[0, 3, 1, 2])];
        Ok(self.op(id, "Transpose", &[&normed], first, Form::Map))
    }

    fn scale(&mut self, id: NodeId, _: &Scale) -> Value {
        let x = self.channels(self.input(id));
        let (_, values) = self.tensor(id, "weight", None);
        let name = format!("{}.weight", self.network.node(id).name);
        let along: &[usize] = if x.form == Form::Map { &[1, 1] } else { &[] };
        let weight = self.graph.floats(&name, &[&[values.len()], along].concat(), &values);
        self.op(id, "Mul", &[&x.name, &weight], vec![], x.form)
    }

    fn rescale(&mut self, id: NodeId, l: &Rescale) -> Value {
        let x = self.values[&self.input(id)].clone();
        let name = self.network.node(id).name.clone();
        let factor = self.graph.floats(&format!("{name}/factor"), &[], &[l.factor]);
        if l.offset == 0.0 {
            return self.op(id, "Mul", &[&x.name, &factor], vec![], x.form);
        }
        let product = format!("{name}/product");
        let product = self.graph.node("Mul", &product, &[&x.name, &factor], vec![]);
        let offset = self.graph.floats(&format!("{name}/offset"), &[], &[l.offset]);
        self.op(id, "Add", &[&product, &offset], vec![], x.form)
    }

    fn slice(&mut self, id: NodeId, l: &Slice) -> Value {
        let x = self.channels(self.input(id));
        let name = self.network.node(id).name.clone();
        let [starts, ends, axes] =
            [("starts", l.start), ("ends", l.start + l.channels), ("axes", 1)]
                .map(|(what, n)| self.graph.ints(&format!("{name}/{what}"), &[n as i64]));
        self.op(id, "Slice", &[&x.name, &starts, &ends, &axes], vec![], x.form)
    }

    /// Channels as a table of groups, which is turned.
    fn channel_shuffle(&mut self, id: NodeId, l: &ChannelShuffle) -> Value {
        let (x, s) = (self.map(self.input(id)), self.shape(id));
        let name = self.network.node(id).name.clone();
        let (groups, each) = (l.groups as i64, (s.c / l.groups) as i64);
        let g = &mut self.graph;
        let table = g.ints(&format!("{name}/table"), &[0, groups, each, s.pixels() as i64]);
        let table = g.node("Reshape", &format!("{name}/groups"), &[&x, &table], vec![]);
        let perm = vec![ints("perm", &[0, 2, 1, 3])];
        let turned = g.node("Transpose", &format!("{name}/turned"), &[&table], perm);
        let map = g.ints(&format!("{name}/shape"), &[0, s.c as i64, s.h as i64, s.w as i64]);
        self.op(id, "Reshape", &[&turned, &map], vec![], Form::Map)
    }

    /// Windows of one size where the sizes divide; else a product with the shares of each row and column.
    fn adaptive_mean_pool(&mut self, id: NodeId, l: &AdaptiveMeanPool) -> Value {
        let input = self.input(id);
        let (from, to) = (self.shape(input), self.shape(id));
        if from == to {
            return self.values[&input].clone();
        }
        let (x, name) = (self.map(input), self.network.node(id).name.clone());
        if from.h.is_multiple_of(l.size.h) && from.w.is_multiple_of(l.size.w) {
            let window = [from.h / l.size.h, from.w / l.size.w];
            let attributes = vec![ints("kernel_shape", &window), ints("strides", &window)];
            return self.op(id, "AveragePool", &[&x], attributes, Form::Map);
        }
        // Row i of `to` is the mean of rows floor(i · from / to) .. ceil((i + 1) · from / to).
        let share = |i: usize, j: usize, from: usize, to: usize| {
            let (first, end) = (i * from / to, ((i + 1) * from).div_ceil(to));
            if (first..end).contains(&j) { 1.0 / (end - first) as f32 } else { 0.0 }
        };
        let rows: Vec<f32> =
            (0..from.h * to.h).map(|at| share(at % to.h, at / to.h, from.h, to.h)).collect();
        let columns: Vec<f32> =
            (0..from.w * to.w).map(|at| share(at % to.w, at / to.w, from.w, to.w)).collect();
        let g = &mut self.graph;
        let rows = g.floats(&format!("{name}/rows"), &[from.h, to.h], &rows);
        let columns = g.floats(&format!("{name}/columns"), &[from.w, to.w], &columns);
        let turn = || vec![ints("perm", &[0, 1, 3, 2])];
        let narrow = g.node("MatMul", &format!("{name}/narrow"), &[&x, &columns], vec![]);
        let turned = g.node("Transpose", &format!("{name}/turned"), &[&narrow], turn());
        let low = g.node("MatMul", &format!("{name}/low"), &[&turned, &rows], vec![]);
        self.op(id, "Transpose", &[&low], turn(), Form::Map)
    }

    /// Rows and columns by their numbers, the last one repeated where repeats run out.
    fn upsample(&mut self, id: NodeId, l: &Upsample) -> Value {
        let input = self.input(id);
        let (x, from, to) = (self.map(input), self.shape(input), self.shape(id));
        let name = self.network.node(id).name.clone();
        let numbers = |n: usize, factor: usize, last: usize| -> Vec<i64> {
            (0..n).map(|i| (i / factor).min(last - 1) as i64).collect()
        };
        let rows = self.graph.ints(&format!("{name}/rows"), &numbers(to.h, l.factor.h, from.h));
        let columns =
            self.graph.ints(&format!("{name}/columns"), &numbers(to.w, l.factor.w, from.w));
        let (tall, axis) = (format!("{name}/tall"), vec![int("axis", 2)]);
        let tall = self.graph.node("Gather", &tall, &[&x, &rows], axis);
        self.op(id, "Gather", &[&tall, &columns], vec![int("axis", 3)], Form::Map)
    }

    /// ONNX's LRN where the neighbourhood is even on both sides; else the mean of squares is an average
    /// pooling along the channels, since ONNX puts the odd neighbour behind, the engine (and torch) in front.
    fn local_response_norm(&mut self, id: NodeId, l: &LocalResponseNorm) -> Value {
        let x = self.map(self.input(id));
        if l.size % 2 == 1 {
            let attributes = vec![
                int("size", l.size as i64),
                float("alpha", l.alpha),
                float("beta", l.beta),
                float("bias", l.k),
            ];
            return self.op(id, "LRN", &[&x], attributes, Form::Map);
        }
        let (name, s) = (self.network.node(id).name.clone(), self.shape(id));
        let g = &mut self.graph;
        let squares = g.node("Mul", &format!("{name}/squares"), &[&x, &x], vec![]);
        let column = g.ints(&format!("{name}/column"), &[0, 1, s.c as i64, s.pixels() as i64]);
        let columns = g.node("Reshape", &format!("{name}/columns"), &[&squares, &column], vec![]);
        let pool = vec![
            ints("kernel_shape", &[l.size, 1]),
            ints("strides", &[1, 1]),
            ints("pads", &[l.size / 2, 0, l.size.div_ceil(2) - 1, 0]),
            int("count_include_pad", 1),
        ];
        let means = g.node("AveragePool", &format!("{name}/means"), &[&columns], pool);
        let map = g.ints(&format!("{name}/shape"), &[0, s.c as i64, s.h as i64, s.w as i64]);
        let means = g.node("Reshape", &format!("{name}/map"), &[&means, &map], vec![]);
        let [alpha, k, beta] = [("alpha", l.alpha), ("k", l.k), ("beta", l.beta)]
            .map(|(what, v)| g.floats(&format!("{name}/{what}"), &[], &[v]));
        let scaled = g.node("Mul", &format!("{name}/scaled"), &[&means, &alpha], vec![]);
        let sum = g.node("Add", &format!("{name}/sum"), &[&scaled, &k], vec![]);
        let power = g.node("Pow", &format!("{name}/power"), &[&sum, &beta], vec![]);
        self.op(id, "Div", &[&x, &power], vec![], Form::Map)
    }

    fn max_pool(&mut self, id: NodeId, l: &MaxPool) -> Result<Value, String> {
        let x = self.map(self.input(id));
        let attributes = self.pool(id, l.window())?;
        Ok(self.op(id, "MaxPool", &[&x], attributes, Form::Map))
    }

    fn mean_pool(&mut self, id: NodeId, l: &MeanPool) -> Result<Value, String> {
        let x = self.map(self.input(id));
        let mut attributes = self.pool(id, l.window())?;
        attributes.push(int("count_include_pad", l.count_padding.into()));
        Ok(self.op(id, "AveragePool", &[&x], attributes, Form::Map))
    }

    fn pool(&self, id: NodeId, w: Window) -> Result<Vec<AttributeProto>, String> {
        Ok(vec![
            ints("kernel_shape", &[w.size.h, w.size.w]),
            ints("strides", &[w.stride.h, w.stride.w]),
            pads(self.placed(id, w)?),
        ])
    }

    pub(super) fn clip(&mut self, id: NodeId, min: f32, max: f32) -> Value {
        let x = self.values[&self.input(id)].clone();
        let name = self.network.node(id).name.clone();
        let min = self.graph.floats(&format!("{name}/min"), &[], &[min]);
        let max = self.graph.floats(&format!("{name}/max"), &[], &[max]);
        self.op(id, "Clip", &[&x.name, &min, &max], vec![], x.form)
    }

    fn hard_swish(&mut self, id: NodeId) -> Value {
        match self.opset {
            ..14 => self.gated(id, "HardSigmoid", hard_sigmoid()),
            _ => self.each(id, "HardSwish", vec![]),
        }
    }

    /// `x · op(x)`.
    pub(super) fn gated(&mut self, id: NodeId, op: &str, attributes: Vec<AttributeProto>) -> Value {
        let x = self.values[&self.input(id)].clone();
        let gate = format!("{}/gate", self.network.node(id).name);
        let gate = self.graph.node(op, &gate, &[&x.name], attributes);
        self.op(id, "Mul", &[&x.name, &gate], vec![], x.form)
    }

    /// `x · (1 + erf(x / √2)) / 2`, which is an op of its own since opset 20.
    fn gelu(&mut self, id: NodeId) -> Value {
        if self.opset >= 20 {
            return self.each(id, "Gelu", vec![]);
        }
        let x = self.values[&self.input(id)].clone();
        let name = self.network.node(id).name.clone();
        let g = &mut self.graph;
        let [root, one, half] = [("root", std::f32::consts::SQRT_2), ("one", 1.0), ("half", 0.5)]
            .map(|(what, v)| g.floats(&format!("{name}/{what}"), &[], &[v]));
        let scaled = g.node("Div", &format!("{name}/scaled"), &[&x.name, &root], vec![]);
        let erf = g.node("Erf", &format!("{name}/erf"), &[&scaled], vec![]);
        let sum = g.node("Add", &format!("{name}/sum"), &[&erf, &one], vec![]);
        let product = g.node("Mul", &format!("{name}/product"), &[&x.name, &sum], vec![]);
        self.op(id, "Mul", &[&product, &half], vec![], x.form)
    }

    fn add(&mut self, id: NodeId) -> Value {
        let inputs = self.network.node(id).inputs.clone();
        let forms: Vec<Form> = inputs.iter().map(|i| self.values[i].form).collect();
        let (names, form): (Vec<String>, Form) = match forms.iter().all(|f| *f == forms[0]) {
            true => (inputs.iter().map(|i| self.values[i].name.clone()).collect(), forms[0]),
            false => (self.maps(id), Form::Map),
        };
        let op = if names.len() == 2 { "Add" } else { "Sum" };
        self.op(id, op, &refs(&names), vec![], form)
    }

    /// Every s-th pixel by a slice, zero channels by padding.
    fn shortcut(&mut self, id: NodeId, l: &Shortcut) -> Value {
        let input = self.input(id);
        let (mut x, from) = (self.map(input), self.shape(input));
        let name = self.network.node(id).name.clone();
        let (front, more) = ((l.channels - from.c) / 2, l.channels - from.c);
        if (l.stride.h, l.stride.w) != (1, 1) {
            let lists = [
                ("starts", [0, 0]),
                ("ends", [from.h as i64, from.w as i64]),
                ("axes", [2, 3]),
                ("steps", [l.stride.h as i64, l.stride.w as i64]),
            ]
            .map(|(what, of)| self.graph.ints(&format!("{name}/{what}"), &of));
            let inputs: Vec<&str> = [&x].into_iter().chain(&lists).map(|s| &s[..]).collect();
            x = self.graph.node("Slice", &format!("{name}/pixels"), &inputs, vec![]);
        }
        let pads = [0, front as i64, 0, 0, 0, (more - front) as i64, 0, 0];
        let pads = self.graph.ints(&format!("{name}/pads"), &pads);
        self.op(id, "Pad", &[&x, &pads], vec![], Form::Map)
    }
}

/// What the layers are written with.
impl Writer<'_> {
    pub(super) fn input(&self, id: NodeId) -> NodeId {
        self.network.node(id).inputs[0]
    }

    pub(super) fn shape(&self, id: NodeId) -> Shape {
        self.network.node(id).shape
    }

    /// A layer's node; it has the layer's name, and so has its value.
    pub(super) fn op(
        &mut self,
        id: NodeId,
        op: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        form: Form,
    ) -> Value {
        let name = self.graph.node(op, &self.network.node(id).name, inputs, attributes);
        Value { name, form }
    }

    /// An op that goes number by number, or along the channels, whatever the form.
    pub(super) fn each(&mut self, id: NodeId, op: &str, attributes: Vec<AttributeProto>) -> Value {
        let x = self.values[&self.input(id)].clone();
        self.op(id, op, &[&x.name], attributes, x.form)
    }

    fn placed(&self, id: NodeId, window: Window) -> Result<Placed, String> {
        let name = &self.network.node(id).name;
        window.place(name, self.shape(self.input(id))).map_err(|e| e.to_string())
    }

    /// A weight or statistic in torch's layout.
    fn tensor(&self, id: NodeId, what: &str, map: Option<Shape>) -> (Vec<usize>, Vec<f32>) {
        let (shape, values) = &self.tensors[&format!("{}.{what}", self.network.node(id).name)];
        to_torch(shape, values, map)
    }

    /// All inputs of a layer as `[n, c, h, w]`.
    pub(super) fn maps(&mut self, id: NodeId) -> Vec<String> {
        self.network.node(id).inputs.clone().into_iter().map(|i| self.map(i)).collect()
    }

    /// A value as `[n, c, h, w]`.
    pub(super) fn map(&mut self, id: NodeId) -> String {
        if self.values[&id].form == Form::Map {
            return self.values[&id].name.clone();
        }
        let (x, shape) = (self.vector(id), self.shape(id));
        self.once(x, "map", |g, x, name| {
            let sizes = [0, shape.c as i64, shape.h as i64, shape.w as i64];
            let sizes = g.ints(&format!("{name}/shape"), &sizes);
            g.node("Reshape", name, &[x, &sizes], vec![])
        })
    }

    /// A value whose second axis is the engine's channels.
    fn channels(&mut self, id: NodeId) -> Value {
        match self.values[&id].clone() {
            Value { form: Form::Flat(_), .. } => {
                Value { name: self.vector(id), form: Form::Vector }
            }
            value => value,
        }
    }

    /// A map of one pixel as `[n, c]` in the engine's order.
    pub(super) fn vector(&mut self, id: NodeId) -> String {
        let Value { name, form } = self.flat(id);
        let Form::Flat(map) = form else { return name };
        // Brought from channel by channel to pixel by pixel.
        self.once(name, "pixels", |g, x, name| {
            let sizes = [0, map.c as i64, map.h as i64, map.w as i64];
            let sizes = g.ints(&format!("{name}/shape"), &sizes);
            let map = g.node("Reshape", &format!("{name}/map"), &[x, &sizes], vec![]);
            let perm = vec![ints("perm", &[0, 2, 3, 1])];
            let turned = g.node("Transpose", &format!("{name}/turned"), &[&map], perm);
            g.node("Flatten", name, &[&turned], vec![int("axis", 1)])
        })
    }

    /// A value as `[n, numbers]`, in whatever order.
    fn flat(&mut self, id: NodeId) -> Value {
        let value = self.values[&id].clone();
        if value.form != Form::Map {
            return value;
        }
        let s = self.shape(id);
        let name = self.once(value.name, "flat", |g, x, name| {
            g.node("Flatten", name, &[x], vec![int("axis", 1)])
        });
        let same = s.pixels() == 1 || s.c == 1;
        Value { name, form: if same { Form::Vector } else { Form::Flat(s) } }
    }

    /// A value brought to another form, once for all that read it.
    fn once(
        &mut self,
        of: String,
        form: &'static str,
        make: impl FnOnce(&mut Graph, &str, &str) -> String,
    ) -> String {
        let key = (of.clone(), form);
        if let Some(name) = self.turned.get(&key) {
            return name.clone();
        }
        let name = make(&mut self.graph, &of, &format!("{of}/{form}"));
        self.turned.insert(key, name.clone());
        name
    }
}

pub(super) fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(|n| &n[..]).collect()
}

fn pads(p: Placed) -> AttributeProto {
    ints("pads", &[p.top, p.left, p.bottom, p.right])
}

/// The engine's hard sigmoid, `x / 6 + 1/2` between 0 and 1; ONNX's own has other constants.
fn hard_sigmoid() -> Vec<AttributeProto> {
    vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)]
}

/// What the output is made of.
fn needed(network: &Network) -> Vec<bool> {
    let mut needed = vec![false; network.nodes().len()];
    needed[network.output().index()] = true;
    for (id, node) in network.iter().collect::<Vec<_>>().into_iter().rev() {
        if needed[id.index()] {
            node.inputs.iter().for_each(|i| needed[i.index()] = true);
        }
    }
    needed
}

/// Convolutions and dense layers whose only reader is a batch norm, with it.
fn folded(network: &Network) -> BTreeMap<NodeId, NodeId> {
    let mut readers = BTreeMap::new();
    *readers.entry(network.output()).or_insert(0) += 1;
    for node in network.nodes() {
        node.inputs.iter().for_each(|i| *readers.entry(*i).or_insert(0) += 1);
    }
    let mut all = BTreeMap::new();
    for (id, node) in network.iter() {
        let (Some(Layer::BatchNorm(_)), [from]) = (&node.layer, &node.inputs[..]) else { continue };
        let linear = matches!(network.node(*from).layer, Some(Layer::Conv(_) | Layer::Dense(_)));
        if linear && readers[from] == 1 {
            all.insert(*from, id);
        }
    }
    all
}
