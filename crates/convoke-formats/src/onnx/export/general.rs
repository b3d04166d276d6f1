//! Layers that networks of other tools are made of, in ONNX's ops.

use super::graph::{float, int, ints};
use super::layers::{Form, Value, Writer, refs};
use convoke_engine::layers::{
    Axis, By, Combine, CombineKind, Constant, Function, FunctionKind, Layer, Mix, Rearrange,
    Reduce, Spread, Take,
};
use convoke_engine::{NodeId, Shape};

/// An axis in `[n, c, h, w]`.
fn place(axis: Axis) -> usize {
    match axis {
        Axis::C => 1,
        Axis::H => 2,
        Axis::W => 3,
    }
}

fn sizes(s: Shape) -> [usize; 3] {
    [s.c, s.h, s.w]
}

impl Writer<'_> {
    /// A slice of what is on the map, between zeros for what is not.
    pub(super) fn take(&mut self, id: NodeId, l: &Take) -> Result<Value, String> {
        let input = self.input(id);
        let (mut x, axis) = (self.map(input), place(l.axis));
        let name = self.network.node(id).name.clone();
        let n = sizes(self.shape(input))[axis - 1] as i64;
        let at = |i: usize| l.start.saturating_add((i as i64).saturating_mul(l.step));
        let on = |i: &usize| (0..n).contains(&at(*i));
        let Some(first) = (0..l.size).find(on) else {
            return Err(format!("`{name}` takes nothing but zeros"));
        };
        let last = (first..l.size).take_while(on).last().unwrap_or(first);
        if (at(first), at(last), l.step) != (0, n - 1, 1) {
            // Going backwards to the first place ends before it: n places before that.
            let end = at(last) + l.step.signum();
            let end = if end < 0 { -n - 1 } else { end };
            let lists =
                [("start", at(first)), ("end", end), ("axis", axis as i64), ("step", l.step)]
                    .map(|(what, v)| self.graph.ints(&format!("{name}/{what}"), &[v]));
            let inputs: Vec<&str> = [&x].into_iter().chain(&lists).map(|s| &s[..]).collect();
            x = self.graph.node("Slice", &format!("{name}/taken"), &inputs, vec![]);
        }
        if (first, last) == (0, l.size - 1) {
            return Ok(Value { name: x, form: Form::Map });
        }
        let mut pads = [0; 8];
        (pads[axis], pads[axis + 4]) = (first as i64, (l.size - 1 - last) as i64);
        let pads = self.graph.ints(&format!("{name}/pads"), &pads);
        Ok(self.op(id, "Pad", &[&x, &pads], vec![], Form::Map))
    }

    /// Zeros behind each place, on an axis of their own that is then joined to the other.
    pub(super) fn spread(&mut self, id: NodeId, l: &Spread) -> Value {
        let input = self.input(id);
        let (x, axis, from) = (self.map(input), place(l.axis), sizes(self.shape(input)));
        let name = self.network.node(id).name.clone();
        let list = |s: &[usize]| -> Vec<i64> {
            std::iter::once(0).chain(s.iter().map(|&n| n as i64)).collect()
        };
        let (mut apart, mut joined) = (from.to_vec(), from);
        apart.insert(axis, 1);
        joined[axis - 1] *= l.step;
        let mut pads = [0; 10];
        pads[axis + 1 + 5] = l.step as i64 - 1;
        let g = &mut self.graph;
        let apart = g.ints(&format!("{name}/apart/shape"), &list(&apart));
        let apart = g.node("Reshape", &format!("{name}/apart"), &[&x, &apart], vec![]);
        let pads = g.ints(&format!("{name}/pads"), &pads);
        let padded = g.node("Pad", &format!("{name}/padded"), &[&apart, &pads], vec![]);
        let joined = g.ints(&format!("{name}/joined/shape"), &list(&joined));
        let joined = g.node("Reshape", &format!("{name}/joined"), &[&padded, &joined], vec![]);
        let end = (from[axis - 1] - 1) * l.step + 1;
        let [start, end, axis] = [("start", 0), ("end", end), ("axis", axis)]
            .map(|(what, v)| g.ints(&format!("{name}/{what}"), &[v as i64]));
        self.op(id, "Slice", &[&joined, &start, &end, &axis], vec![], Form::Map)
    }

    /// A product with the table as a matrix.
    pub(super) fn mix(&mut self, id: NodeId, l: &Mix) -> Value {
        let input = self.input(id);
        let (x, to) = (self.map(input), self.shape(id));
        let name = self.network.node(id).name.clone();
        let (rows, columns) = (l.table.len(), l.size);
        let mut matrix = vec![0.0; rows * columns];
        for (row, parts) in l.table.iter().enumerate() {
            for &(column, weight) in parts {
                // Columns are multiplied from the right, so their matrix is turned.
                let at = match l.axis {
                    Axis::W => column * rows + row,
                    Axis::H | Axis::C => row * columns + column,
                };
                matrix[at] += weight;
            }
        }
        let shape = if l.axis == Axis::W { [columns, rows] } else { [rows, columns] };
        let matrix = self.graph.floats(&format!("{name}/table"), &shape, &matrix);
        match l.axis {
            Axis::W => self.op(id, "MatMul", &[&x, &matrix], vec![], Form::Map),
            Axis::H => self.op(id, "MatMul", &[&matrix, &x], vec![], Form::Map),
            Axis::C => {
                let g = &mut self.graph;
                let lines = g.ints(&format!("{name}/lines/shape"), &[0, columns as i64, -1]);
                let lines = g.node("Reshape", &format!("{name}/lines"), &[&x, &lines], vec![]);
                let mixed = g.node("MatMul", &format!("{name}/mixed"), &[&matrix, &lines], vec![]);
                let map = [0, to.c as i64, to.h as i64, to.w as i64];
                let map = g.ints(&format!("{name}/shape"), &map);
                self.op(id, "Reshape", &[&mixed, &map], vec![], Form::Map)
            }
        }
    }

    pub(super) fn reduce(&mut self, id: NodeId, l: &Reduce) -> Value {
        let (x, axis) = (self.map(self.input(id)), place(l.axis));
        let op = match l.by {
            By::Sum => "ReduceSum",
            By::Mean => "ReduceMean",
            By::Max => "ReduceMax",
            By::Min => "ReduceMin",
        };
        // The axes became an input: of sums with opset 13, of the others with 18.
        if l.by != By::Sum && self.opset < 18 {
            return self.op(id, op, &[&x], vec![ints("axes", &[axis])], Form::Map);
        }
        let axes = format!("{}/axes", self.network.node(id).name);
        let axes = self.graph.ints(&axes, &[axis as i64]);
        self.op(id, op, &[&x, &axes], vec![int("keepdims", 1)], Form::Map)
    }

    pub(super) fn function(&mut self, id: NodeId, l: &Function) -> Value {
        let (a, b) = (l.a, l.b);
        match l.of {
            FunctionKind::Abs => self.each(id, "Abs", vec![]),
            FunctionKind::Exp => self.each(id, "Exp", vec![]),
            FunctionKind::Log => self.each(id, "Log", vec![]),
            FunctionKind::Sqrt => self.each(id, "Sqrt", vec![]),
            FunctionKind::Reciprocal => self.each(id, "Reciprocal", vec![]),
            FunctionKind::Softplus => self.each(id, "Softplus", vec![]),
            FunctionKind::Softsign => self.each(id, "Softsign", vec![]),
            FunctionKind::Erf => self.each(id, "Erf", vec![]),
            FunctionKind::Sin => self.each(id, "Sin", vec![]),
            FunctionKind::Cos => self.each(id, "Cos", vec![]),
            FunctionKind::Elu => self.each(id, "Selu", vec![float("alpha", a), float("gamma", b)]),
            FunctionKind::HardSigmoid => {
                self.each(id, "HardSigmoid", vec![float("alpha", a), float("beta", b)])
            }
            FunctionKind::Threshold => self.each(id, "ThresholdedRelu", vec![float("alpha", a)]),
            FunctionKind::Shrink => {
                self.each(id, "Shrink", vec![float("lambd", a), float("bias", b)])
            }
            FunctionKind::Clip => self.clip(id, a, b),
            FunctionKind::Power => {
                let x = self.values[&self.input(id)].clone();
                let exponent = self.number(id, "exponent", a);
                self.op(id, "Pow", &[&x.name, &exponent], vec![], x.form)
            }
            FunctionKind::Round => {
                let x = self.values[&self.input(id)].clone();
                let [min, max] = [("min", a), ("max", b)].map(|(what, v)| self.number(id, what, v));
                let whole = self.part(id, "Round", "whole", &[&x.name]);
                self.op(id, "Clip", &[&whole, &min, &max], vec![], x.form)
            }
            FunctionKind::Mish => {
                let x = self.values[&self.input(id)].clone();
                let soft = self.part(id, "Softplus", "softplus", &[&x.name]);
                let gate = self.part(id, "Tanh", "gate", &[&soft]);
                self.op(id, "Mul", &[&x.name, &gate], vec![], x.form)
            }
            FunctionKind::Swish => {
                let x = self.values[&self.input(id)].clone();
                let factor = self.number(id, "factor", a);
                let scaled = self.part(id, "Mul", "scaled", &[&x.name, &factor]);
                let gate = self.part(id, "Sigmoid", "gate", &[&scaled]);
                self.op(id, "Mul", &[&x.name, &gate], vec![], x.form)
            }
            FunctionKind::GeluTanh => self.gelu_tanh(id),
        }
    }

    /// `x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 · x³)))`
    fn gelu_tanh(&mut self, id: NodeId) -> Value {
        let x = self.values[&self.input(id)].clone();
        let root = (2.0 / std::f32::consts::PI).sqrt();
        let [three, small, root, one, half] =
            [("three", 3.0), ("small", 0.044_715), ("root", root), ("one", 1.0), ("half", 0.5)]
                .map(|(what, v)| self.number(id, what, v));
        let cube = self.part(id, "Pow", "cube", &[&x.name, &three]);
        let bent = self.part(id, "Mul", "bent", &[&cube, &small]);
        let sum = self.part(id, "Add", "sum", &[&x.name, &bent]);
        let scaled = self.part(id, "Mul", "scaled", &[&sum, &root]);
        let tanh = self.part(id, "Tanh", "tanh", &[&scaled]);
        let gate = self.part(id, "Add", "gate", &[&tanh, &one]);
        let product = self.part(id, "Mul", "product", &[&x.name, &gate]);
        self.op(id, "Mul", &[&product, &half], vec![], x.form)
    }

    pub(super) fn combine(&mut self, id: NodeId, l: &Combine) -> Value {
        let op = match l.by {
            CombineKind::Add => "Add",
            CombineKind::Subtract => "Sub",
            CombineKind::Multiply => "Mul",
            CombineKind::Divide => "Div",
            CombineKind::Max => "Max",
            CombineKind::Min => "Min",
            CombineKind::Power => "Pow",
        };
        let inputs = self.maps(id);
        self.op(id, op, &refs(&inputs), vec![], Form::Map)
    }

    /// `[1, c, h, w]` where others repeat it by themselves, else repeated for every picture.
    pub(super) fn constant(&mut self, id: NodeId, l: &Constant) -> Value {
        let (s, name) = (l.shape, self.network.node(id).name.clone());
        let (_, values) = &self.tensors[&format!("{name}.weight")];
        let plane = s.pixels();
        let turned: Vec<f32> = (0..s.len()).map(|i| values[i % plane * s.c + i / plane]).collect();
        let own = self.graph.floats(&format!("{name}.weight"), &[1, s.c, s.h, s.w], &turned);
        let constant = |i: &NodeId| matches!(self.network.node(*i).layer, Some(Layer::Constant(_)));
        let repeats =
            self.network.nodes().iter().filter(|n| n.inputs.contains(&id)).all(|n| {
                matches!(n.layer, Some(Layer::Combine(_))) && !n.inputs.iter().all(constant)
            });
        if repeats && self.network.output() != id {
            return Value { name: own, form: Form::Map };
        }
        let start = self.values[&self.network.input()].name.clone();
        let shape = self.part(id, "Shape", "pictures/shape", &[&start]);
        let zero = self.graph.ints(&format!("{name}/zero"), &[0]);
        let pictures = self.part(id, "Gather", "pictures", &[&shape, &zero]);
        let ones = self.graph.ints(&format!("{name}/ones"), &[1, 1, 1]);
        let along = vec![int("axis", 0)];
        let all = format!("{name}/all");
        let all = self.graph.node("Concat", &all, &[&pictures, &ones], along);
        self.op(id, "Expand", &[&own, &all], vec![], Form::Map)
    }

    /// The engine's own order of numbers is a map turned to `[n, h, w, c]`.
    pub(super) fn rearrange(&mut self, id: NodeId, l: &Rearrange) -> Value {
        let input = self.input(id);
        let (from, to) = (self.shape(input), l.shape);
        let name = self.network.node(id).name.clone();
        if l.sizes == [from.h, from.w, from.c] && l.order == [2, 0, 1] && to.pixels() == 1 {
            let x = self.map(input);
            return self.op(id, "Flatten", &[&x], vec![int("axis", 1)], Form::Vector);
        }
        let mut x = if from.pixels() == 1 { self.vector(input) } else { self.map(input) };
        let turn = |w: &mut Self, x: &str, what: &str, perm: &[usize]| {
            let perm = vec![ints("perm", perm)];
            w.graph.node("Transpose", &format!("{name}/{what}"), &[x], perm)
        };
        if from.pixels() > 1 {
            x = turn(self, &x, "channels_last", &[0, 2, 3, 1]);
        }
        let list = |s: &[usize]| -> Vec<i64> {
            std::iter::once(0).chain(s.iter().map(|&n| n as i64)).collect()
        };
        if !l.order.is_sorted() {
            let sizes = self.graph.ints(&format!("{name}/sizes"), &list(&l.sizes));
            x = self.part(id, "Reshape", "box", &[&x, &sizes]);
            let perm: Vec<usize> =
                std::iter::once(0).chain(l.order.iter().map(|a| a + 1)).collect();
            x = turn(self, &x, "turned", &perm);
        }
        let vector = to.pixels() == 1;
        let last = if vector { list(&[to.c]) } else { list(&[to.h, to.w, to.c]) };
        let last = self.graph.ints(&format!("{name}/shape"), &last);
        if vector {
            return self.op(id, "Reshape", &[&x, &last], vec![], Form::Vector);
        }
        let x = self.part(id, "Reshape", "map", &[&x, &last]);
        self.op(id, "Transpose", &[&x], vec![ints("perm", &[0, 3, 1, 2])], Form::Map)
    }

    /// A constant of a layer.
    fn number(&mut self, id: NodeId, what: &str, v: f32) -> String {
        let name = format!("{}/{what}", self.network.node(id).name);
        self.graph.floats(&name, &[], &[v])
    }

    /// One op of several that a layer is.
    fn part(&mut self, id: NodeId, op: &str, what: &str, inputs: &[&str]) -> String {
        let name = format!("{}/{what}", self.network.node(id).name);
        self.graph.node(op, &name, inputs, vec![])
    }
}
