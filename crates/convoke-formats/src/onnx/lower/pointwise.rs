//! Functions and arithmetic, number by number, and the patterns that other tools write activations in.

use super::super::Said;
use super::super::graph::Node;
use super::super::tensor::{Kind, Tensor, broadcast};
use super::layout::Map;
use super::{Lower, Value};
use convoke_engine::Shape;
use convoke_engine::layers::*;

impl Lower<'_> {
    /// An op of one value, number by number.
    pub fn function(&mut self, node: &Node) -> Said<Map> {
        let number = |name: &str, default: f32| node.float(name, default);
        let f = |of: FunctionKind, a: f32, b: f32| Layer::from(Function { of, a, b });
        use FunctionKind as K;
        let layer: Layer = match &node.op[..] {
            "Relu" => Relu::default().into(),
            "LeakyRelu" => LeakyRelu { slope: number("alpha", 0.01)? }.into(),
            "Sigmoid" => Sigmoid {}.into(),
            "Tanh" => Tanh {}.into(),
            "HardSwish" => HardSwish {}.into(),
            "HardSigmoid" => {
                let (a, b) = (number("alpha", 0.2)?, number("beta", 0.5)?);
                match near(a, 1.0 / 6.0) && near(b, 0.5) {
                    true => HardSigmoid {}.into(),
                    false => f(K::HardSigmoid, a, b),
                }
            }
            "Gelu" if node.text("approximate", "none")? == "tanh" => f(K::GeluTanh, 0.0, 0.0),
            "Gelu" => Gelu {}.into(),
            "Swish" => match number("alpha", 1.0)? {
                1.0 => Silu {}.into(),
                a => f(K::Swish, a, 0.0),
            },
            "Elu" => f(K::Elu, number("alpha", 1.0)?, 1.0),
            "Selu" => f(K::Elu, number("alpha", 1.673_263_2)?, number("gamma", 1.050_701)?),
            "Softplus" => f(K::Softplus, 0.0, 0.0),
            "Softsign" => f(K::Softsign, 0.0, 0.0),
            "Mish" => f(K::Mish, 0.0, 0.0),
            "Erf" => f(K::Erf, 0.0, 0.0),
            "Abs" => f(K::Abs, 0.0, 0.0),
            "Exp" => f(K::Exp, 0.0, 0.0),
            "Log" => f(K::Log, 0.0, 0.0),
            "Sqrt" => f(K::Sqrt, 0.0, 0.0),
            "Reciprocal" => f(K::Reciprocal, 0.0, 0.0),
            "Sin" => f(K::Sin, 0.0, 0.0),
            "Cos" => f(K::Cos, 0.0, 0.0),
            "ThresholdedRelu" => f(K::Threshold, number("alpha", 1.0)?, 0.0),
            "Shrink" => f(K::Shrink, number("lambd", 0.5)?, number("bias", 0.0)?),
            "Round" => f(K::Round, f32::MIN, f32::MAX),
            "Neg" => Rescale { factor: -1.0, offset: 0.0 }.into(),
            "Clip" => return self.clip(node),
            "PRelu" => return self.prelu(node),
            "Identity" => return self.map(node, 0),
            "Dropout" => return self.dropout(node),
            "Cast" => return self.cast(node),
            "QuantizeLinear" | "DequantizeLinear" => return self.quantized(node),
            _ => return Err("the op is not supported in a network".into()),
        };
        let m = self.map(node, 0)?;
        self.unary(&m, layer)
    }

    fn unary(&mut self, m: &Map, layer: impl Into<Layer>) -> Said<Map> {
        let place = self.add("", layer, &[m.place])?;
        Ok(m.at(place))
    }

    fn clip(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let bound = |name: &str, i: usize, default: f32| match self.known(node, i)? {
            Some(t) => t.number(),
            None => node.float(name, default),
        };
        let (lo, hi) = (bound("min", 1, f32::MIN)?, bound("max", 2, f32::MAX)?);
        self.clipped(&m, lo, hi)
    }

    fn clipped(&mut self, m: &Map, lo: f32, hi: f32) -> Said<Map> {
        match (lo, hi) {
            (0.0, f32::MAX | f32::INFINITY) => self.unary(m, Relu::default()),
            (0.0, hi) if hi > 0.0 => self.unary(m, Relu { max: Some(hi) }),
            (lo, hi) => {
                let (a, b) = (lo.max(f32::MIN), hi.min(f32::MAX));
                self.unary(m, Function { of: FunctionKind::Clip, a, b })
            }
        }
    }

    /// `x` where positive, else times a slope per channel: two ReLUs, so that slopes are trained.
    fn prelu(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let slopes = self.known(node, 1)?.ok_or("has no slopes")?;
        if let ([slope], true) = (slopes.f32s()?, slopes.len() == 1) {
            return self.unary(&m, LeakyRelu { slope: *slope });
        }
        let m = self.natural(&m)?;
        let mut t = (*slopes).clone();
        let rank = m.axes.len() + 1;
        let channel = t.rank() == 1 && rank > 2 && t.len() == m.size(0);
        if channel && (node.opset < 7 || m.sizes().last() != Some(&t.len())) {
            t = t.reshaped([vec![t.len()], vec![1; rank - 2]].concat())?;
        }
        let negated = Tensor::floats(&t.shape, t.f32s()?.iter().map(|v| -v).collect());
        let positive = self.unary(&m, Relu::default())?;
        let turned = self.unary(&m, Rescale { factor: -1.0, offset: 0.0 })?;
        let negative = self.unary(&turned, Relu::default())?;
        let negative = self.with_constant(&negative, &negated, "Mul", false)?;
        self.two(&positive, &negative, CombineKind::Add)
    }

    fn dropout(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let rate = match self.known(node, 1)? {
            Some(t) => t.number()?,
            None => node.float("ratio", 0.5)?,
        };
        match rate > 0.0 && rate < 1.0 {
            true => self.unary(&m, Dropout { rate }),
            false => Ok(m),
        }
    }

    fn cast(&mut self, node: &Node) -> Said<Map> {
        let to = Kind::of(i32::try_from(node.int("to", 0)?).unwrap_or(0));
        match to.is_some_and(Kind::is_float) {
            true => self.map(node, 0),
            false => Err("casts what depends on the picture to integers".into()),
        }
    }

    /// Numbers as integers with one scale, kept as floats: rounded and bounded.
    fn quantized(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let scale = self.known(node, 1)?.ok_or("has no scale")?;
        let zero = self.known(node, 2)?;
        if scale.len() != 1 || zero.as_ref().is_some_and(|z| z.len() != 1) {
            return Err("has a scale per channel, which is supported for constants only".into());
        }
        let (s, kind) = (scale.number()?, zero.as_ref().map_or(Kind::U8, |z| z.kind));
        let z = zero.map_or(Ok(0.0), |z| z.number())?;
        if node.op == "DequantizeLinear" {
            return self.unary(&m, Rescale { factor: s, offset: -z * s });
        }
        let (lo, hi) = kind.bounds();
        let m = self.unary(&m, Rescale { factor: 1.0 / s, offset: 0.0 })?;
        let round = Function { of: FunctionKind::Round, a: lo as f32 - z, b: hi as f32 - z };
        let m = self.unary(&m, round)?;
        self.unary(&m, Rescale { factor: 1.0, offset: z })
    }

    /// Sums, products and the like of two or more values.
    pub fn arithmetic(&mut self, node: &Node) -> Said<Map> {
        let mut values = Vec::new();
        for i in 0..node.inputs.len() {
            values.extend(self.given(node, i)?);
        }
        let count = values.len();
        let op = match &node.op[..] {
            "Sum" | "Mean" => "Add",
            op => op,
        };
        if let Some(m) = self.sum(&values).filter(|_| op == "Add" && count > 1) {
            let m = m?;
            return if node.op == "Mean" { self.mean_of(&m, count) } else { Ok(m) };
        }
        let mut values = values.into_iter();
        let mut sum = values.next().ok_or("has no inputs")?;
        for v in values {
            sum = Value::Map(match (&sum, &v) {
                (Value::Map(a), Value::Map(b)) => self.maps(a, b, op)?,
                (Value::Map(m), Value::Known(t)) => {
                    let t = old_broadcast(node, &self.sizes(m), t)?;
                    self.with_constant(m, &t, op, false)?
                }
                (Value::Known(t), Value::Map(m)) => {
                    let either = matches!(op, "Add" | "Mul" | "Max" | "Min");
                    self.with_constant(m, t, op, !either)?
                }
                (Value::Known(a), Value::Known(b)) => {
                    return Err(format!("two constants of {:?} and {:?}", a.shape, b.shape));
                }
            });
        }
        match sum {
            Value::Map(m) if node.op == "Mean" => self.mean_of(&m, count),
            Value::Map(m) => Ok(m),
            Value::Known(_) => Err("is a constant".into()),
        }
    }

    fn mean_of(&mut self, m: &Map, count: usize) -> Said<Map> {
        self.unary(m, Rescale { factor: 1.0 / count as f32, offset: 0.0 })
    }

    /// Maps that lie alike are summed by one layer.
    fn sum(&mut self, values: &[Value]) -> Option<Said<Map>> {
        let maps: Option<Vec<&Map>> = values
            .iter()
            .map(|v| match v {
                Value::Map(m) => Some(m),
                Value::Known(_) => None,
            })
            .collect();
        let maps = maps?;
        let first = *maps.first()?;
        let alike = |m: &&Map| {
            m.atoms == first.atoms
                && m.axes == first.axes
                && self.shape(m.place) == self.shape(first.place)
        };
        if !maps.iter().all(alike) {
            return None;
        }
        let places: Vec<usize> = maps.iter().map(|m| m.place).collect();
        Some(self.add("", Add {}, &places).map(|place| first.at(place)))
    }

    fn maps(&mut self, a: &Map, b: &Map, op: &str) -> Said<Map> {
        let by = match op {
            "Add" => CombineKind::Add,
            "Sub" => CombineKind::Subtract,
            "Mul" => CombineKind::Multiply,
            "Div" => CombineKind::Divide,
            "Max" => CombineKind::Max,
            "Min" => CombineKind::Min,
            _ => CombineKind::Power,
        };
        // An activation is one only where both lie alike.
        if by == CombineKind::Multiply
            && (&a.atoms, &a.axes) == (&b.atoms, &b.axes)
            && let Some(layer) =
                self.gated(a.place, b.place).or_else(|| self.gated(b.place, a.place))
        {
            let (layer, place) = layer;
            let m = if a.place == place { a } else { b };
            return self.unary(&m.at(place), layer);
        }
        self.two(a, b, by)
    }

    /// The activation that `x · f(x)` is; and the place of `x`.
    fn gated(&self, x: usize, gate: usize) -> Option<(Layer, usize)> {
        let (layer, from) = self.layer(gate)?;
        match (layer, from[0] == x) {
            (Layer::Sigmoid(_), true) => Some((Silu {}.into(), x)),
            (Layer::HardSigmoid(_), true) => Some((HardSwish {}.into(), x)),
            // x / 2 · (1 + erf(x / √2))
            (Layer::Rescale(r), _) if r.factor == 1.0 && r.offset == 1.0 => {
                let inner = self.normal_share(gate)?;
                match self.layer(x)? {
                    (Layer::Rescale(r), from)
                        if near(r.factor, 0.5) && r.offset == 0.0 && from[0] == inner =>
                    {
                        Some((Gelu {}.into(), inner))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The place of `x` behind `1 + erf(x / √2)`.
    fn normal_share(&self, place: usize) -> Option<usize> {
        let (Layer::Rescale(Rescale { factor: 1.0, offset: 1.0 }), from) = self.layer(place)?
        else {
            return None;
        };
        let (Layer::Function(Function { of: FunctionKind::Erf, .. }), from) =
            self.layer(from[0])?
        else {
            return None;
        };
        match self.layer(from[0])? {
            (Layer::Rescale(r), from)
                if near(r.factor, std::f32::consts::FRAC_1_SQRT_2) && r.offset == 0.0 =>
            {
                Some(from[0])
            }
            _ => None,
        }
    }

    /// `min(max(x + 3, 0), 6)`: the place of `x`.
    fn hard(&self, place: usize) -> Option<usize> {
        let (Layer::Relu(Relu { max: Some(max) }), from) = self.layer(place)? else { return None };
        match self.layer(from[0])? {
            (Layer::Rescale(Rescale { factor: 1.0, offset: 3.0 }), from) if *max == 6.0 => {
                Some(from[0])
            }
            _ => None,
        }
    }

    /// `factor · x + offset`, or the activation that it completes.
    fn rescaled(&mut self, m: &Map, factor: f32, offset: f32) -> Said<Map> {
        if offset == 0.0 && near(factor, 1.0 / 6.0) {
            if let Some(x) = self.hard(m.place) {
                return self.unary(&m.at(x), HardSigmoid {});
            }
            if let Some((Layer::Combine(Combine { by: CombineKind::Multiply }), from)) =
                self.layer(m.place)
            {
                let (a, b) = (from[0], from[1]);
                for (x, gate) in [(a, b), (b, a)] {
                    if self.hard(gate) == Some(x) {
                        return self.unary(&m.at(x), HardSwish {});
                    }
                }
            }
        }
        if offset == 0.0
            && near(factor, 0.5)
            && let Some((Layer::Combine(Combine { by: CombineKind::Multiply }), from)) =
                self.layer(m.place)
        {
            let (a, b) = (from[0], from[1]);
            for (x, gate) in [(a, b), (b, a)] {
                if self.normal_share(gate) == Some(x) {
                    return self.unary(&m.at(x), Gelu {});
                }
            }
        }
        self.unary(m, Rescale { factor, offset })
    }

    /// Two maps, number by number, repeated along axes of one.
    fn two(&mut self, a: &Map, b: &Map, by: CombineKind) -> Said<Map> {
        if a.axes.len() != b.axes.len() {
            return Err(format!(
                "{:?} and {:?} have different ranks",
                self.sizes(a),
                self.sizes(b)
            ));
        }
        broadcast(&a.sizes(), &b.sizes())?;
        let alike =
            a.atoms == b.atoms && a.axes == b.axes && self.shape(a.place) == self.shape(b.place);
        if alike {
            let place = match by {
                CombineKind::Add => self.add("", Add {}, &[a.place, b.place])?,
                by => self.add("", Combine { by }, &[a.place, b.place])?,
            };
            return Ok(a.at(place));
        }
        let (mut a, mut b) = (self.natural(a)?, self.natural(b)?);
        if a.axes.len() > 3 {
            let all = broadcast(&a.sizes(), &b.sizes())?;
            if a.sizes() != all || b.sizes() != all {
                return Err("repeats values of more than three axes".into());
            }
        }
        let (sa, sb) = (self.shape(a.place), self.shape(b.place));
        if by == CombineKind::Multiply {
            if sa == Shape::vector(sb.c) && sb != sa {
                std::mem::swap(&mut a, &mut b);
            }
            let (sa, sb) = (self.shape(a.place), self.shape(b.place));
            if sb == Shape::vector(sa.c) && sa != sb {
                let place = self.add("", Gate {}, &[a.place, b.place])?;
                return Ok(a.at(place));
            }
        }
        let layer: Layer = match by {
            CombineKind::Add if sa == sb => Add {}.into(),
            by => Combine { by }.into(),
        };
        let place = self.add("", layer, &[a.place, b.place])?;
        let (s, rank) = (self.shape(place), a.axes.len());
        match rank {
            0..=3 => Ok(Map::fresh(place, s, rank)),
            _ => Ok(a.at(place)),
        }
    }

    /// A value and a constant; `first` where the constant comes first.
    fn with_constant(&mut self, m: &Map, t: &Tensor, op: &str, first: bool) -> Said<Map> {
        let values = t.f32s()?;
        let sizes = self.sizes(m);
        if let ([v], true) = (values, t.rank() <= sizes.len()) {
            return self.with_number(m, *v, op, first);
        }
        // One value for all: as a number, unless it widens an axis.
        if broadcast(&sizes, &t.shape)? == sizes
            && values.windows(2).all(|w| w[0] == w[1])
            && !values.is_empty()
        {
            return self.with_number(m, values[0], op, first);
        }
        let rank = m.axes.len();
        if t.rank() > rank + 1 || t.rank() == rank + 1 && t.shape[0] != 1 {
            return Err(format!("a constant of {:?} for {sizes:?}", t.shape));
        }
        let shape = if t.rank() == rank + 1 { &t.shape[1..] } else { &t.shape[..] };
        let shape = [vec![1; rank - shape.len()], shape.to_vec()].concat();
        let long: Vec<usize> = (0..rank).filter(|&a| shape[a] > 1).collect();
        // One number per channel, where an axis lies innermost.
        if let [axis] = long[..]
            && m.axes[axis].iter().copied().eq(m.atoms.len() - m.axes[axis].len()..m.atoms.len())
            && self.shape(m.place).c == shape[axis]
            && m.size(axis) == shape[axis]
            && !first
        {
            return self.per_channel(m, values, op);
        }
        let m = self.natural(m)?;
        let order: Vec<usize> = (1..rank).chain([0]).collect();
        let full = t.reshaped(shape.clone())?;
        let (full, lies) = match rank {
            0..=3 => (full, shape),
            _ => (full.expanded(&m.sizes())?, m.sizes()),
        };
        let turned = full.transposed(&order);
        let of = |a: usize| lies.get(a).copied().unwrap_or(1);
        let shape = match rank {
            1 => Shape::vector(of(0)),
            2 => Shape::new(1, of(1), of(0)),
            3 => Shape::new(of(1), of(2), of(0)),
            _ => self.shape(m.place),
        };
        let constant =
            self.add_with(Constant { shape }, &[], vec![("weight", turned.f32s()?.to_vec())])?;
        let by = match op {
            "Add" => CombineKind::Add,
            "Sub" => CombineKind::Subtract,
            "Mul" => CombineKind::Multiply,
            "Div" => CombineKind::Divide,
            "Max" => CombineKind::Max,
            "Min" => CombineKind::Min,
            _ => CombineKind::Power,
        };
        let sides = if first { [constant, m.place] } else { [m.place, constant] };
        let place = self.add("", Combine { by }, &sides)?;
        match rank {
            0..=3 => Ok(Map::fresh(place, self.shape(place), rank)),
            _ => Ok(m.at(place)),
        }
    }

    fn per_channel(&mut self, m: &Map, values: &[f32], op: &str) -> Said<Map> {
        let scaled = |l: &mut Self, values: Vec<f32>| {
            let place = l.add_with(Scale::default(), &[m.place], vec![("weight", values)])?;
            Ok(m.at(place))
        };
        let by = match op {
            "Mul" => return scaled(self, values.to_vec()),
            "Div" => return scaled(self, values.iter().map(|v| 1.0 / v).collect()),
            "Add" | "Sub" => {
                let sign = if op == "Add" { 1.0 } else { -1.0 };
                let signed: Vec<f32> = values.iter().map(|v| sign * v).collect();
                if let Some(place) = self.with_bias(m.place, &signed)? {
                    return Ok(m.at(place));
                }
                return self.with_vector(m, signed, CombineKind::Add);
            }
            "Max" => CombineKind::Max,
            "Min" => CombineKind::Min,
            _ => CombineKind::Power,
        };
        self.with_vector(m, values.to_vec(), by)
    }

    fn with_vector(&mut self, m: &Map, values: Vec<f32>, by: CombineKind) -> Said<Map> {
        let shape = Shape::vector(values.len());
        let constant = self.add_with(Constant { shape }, &[], vec![("weight", values)])?;
        let place = self.add("", Combine { by }, &[m.place, constant])?;
        Ok(m.at(place))
    }

    fn with_number(&mut self, m: &Map, v: f32, op: &str, first: bool) -> Said<Map> {
        let power = |a: f32| Function { of: FunctionKind::Power, a, b: 0.0 };
        match (op, first) {
            ("Add", _) if v == 0.0 => Ok(m.clone()),
            ("Add", _) => self.rescaled(m, 1.0, v),
            ("Sub", false) => self.rescaled(m, 1.0, -v),
            ("Sub", true) => self.rescaled(m, -1.0, v),
            ("Mul", _) if v == 1.0 => Ok(m.clone()),
            ("Mul", _) => self.rescaled(m, v, 0.0),
            ("Div", false) => self.rescaled(m, 1.0 / v, 0.0),
            ("Div", true) => {
                let m = self.unary(m, Function::new(FunctionKind::Reciprocal))?;
                self.rescaled(&m, v, 0.0)
            }
            ("Max", _) => self.clipped(m, v, f32::MAX),
            ("Min", _) => self.clipped(m, f32::MIN, v),
            ("Pow", false) if v == 1.0 => Ok(m.clone()),
            ("Pow", false) if v == 0.5 => self.unary(m, Function::new(FunctionKind::Sqrt)),
            ("Pow", false) if v == -1.0 => self.unary(m, Function::new(FunctionKind::Reciprocal)),
            ("Pow", false) => self.unary(m, power(v)),
            ("Pow", true) if v > 0.0 => {
                // v ^ x = exp(x · ln v)
                let m = self.rescaled(m, v.ln(), 0.0)?;
                self.unary(&m, Function::new(FunctionKind::Exp))
            }
            _ => Err(format!("a power of {v}")),
        }
    }
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-6 * b.abs()
}

/// Before op set 7 the second input's axes were placed by `axis`.
fn old_broadcast(node: &Node, sizes: &[usize], t: &Tensor) -> Said<Tensor> {
    if node.opset >= 7 || !node.flag("broadcast", false)? || t.rank() >= sizes.len() {
        return Ok(t.clone());
    }
    let at = super::eval::axis(node.int("axis", (sizes.len() - t.rank()) as i64)?, sizes.len())?;
    let behind = sizes.len().checked_sub(at + t.rank()).ok_or("axis leaves no room")?;
    t.reshaped([t.shape.clone(), vec![1; behind]].concat())
}
