//! Normalisations and softmax.

use super::super::Said;
use super::super::eval;
use super::super::graph::Node;
use super::Lower;
use super::layout::Map;
use convoke_engine::layers::*;

impl Lower<'_> {
    /// Input `i` of a node, one number per channel.
    fn channels(&self, node: &Node, i: usize, n: usize) -> Said<Vec<f32>> {
        let t = self.known(node, i)?.ok_or_else(|| format!("input {i} is missing"))?;
        match t.len() == n {
            true => Ok(t.f32s()?.to_vec()),
            false => Err(format!("input {i} has {} numbers for {n} channels", t.len())),
        }
    }

    pub fn batch_norm(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        if m.axes.is_empty() {
            return Err("has no channels".into());
        }
        if node.flag("training_mode", false)? {
            return Err("is in training mode; export the model for inference".into());
        }
        let c = m.size(0);
        let [scale, bias, mean, var] = [1, 2, 3, 4].map(|i| self.channels(node, i, c));
        let norm = BatchNorm {
            epsilon: node.float("epsilon", 1e-5)?,
            // The weight of the newest batch; ONNX gives that of what was before.
            momentum: 1.0 - node.float("momentum", 0.9)?,
        };
        let tensors = vec![
            ("weight", scale?),
            ("bias", bias?),
            ("running_mean", mean?),
            ("running_var", var?),
        ];
        let place = self.add_with(norm, &[m.place], tensors)?;
        Ok(m.at(place))
    }

    /// Mean 0 and variance 1 of every channel over its map.
    fn standard(&mut self, place: usize, epsilon: f32) -> Said<usize> {
        let mean = self.add("", GlobalMeanPool {}, &[place])?;
        let centred = self.add("", Combine { by: CombineKind::Subtract }, &[place, mean])?;
        let square = Function { of: FunctionKind::Power, a: 2.0, b: 0.0 };
        let squares = self.add("", square, &[centred])?;
        let var = self.add("", GlobalMeanPool {}, &[squares])?;
        let var = self.add("", Rescale { factor: 1.0, offset: epsilon }, &[var])?;
        let root = Function { of: FunctionKind::Power, a: -0.5, b: 0.0 };
        let scale = self.add("", root, &[var])?;
        self.add("", Gate {}, &[centred, scale])
    }

    /// Times a number per channel, plus another.
    fn affine(&mut self, place: usize, scale: Vec<f32>, bias: Vec<f32>) -> Said<usize> {
        let scaled = self.add_with(Scale::default(), &[place], vec![("weight", scale)])?;
        let shape = convoke_engine::Shape::vector(bias.len());
        let bias = self.add_with(Constant { shape }, &[], vec![("weight", bias)])?;
        self.add("", Combine { by: CombineKind::Add }, &[scaled, bias])
    }

    pub fn instance_norm(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        if m.axes.len() < 2 {
            return Err("has no maps".into());
        }
        let c = m.size(0);
        let (scale, bias) = (self.channels(node, 1, c)?, self.channels(node, 2, c)?);
        let place = self.standard(m.place, node.float("epsilon", 1e-5)?)?;
        let plain = scale.iter().all(|&s| s == 1.0) && bias.iter().all(|&b| b == 0.0);
        let place = if plain { place } else { self.affine(place, scale, bias)? };
        Ok(m.at(place))
    }

    pub fn group_norm(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        let groups = usize::try_from(node.int("num_groups", 0)?).unwrap_or(0);
        let sizes = m.sizes();
        let Some(&c) = sizes.first() else { return Err("has no channels".into()) };
        if groups == 0 || c % groups != 0 {
            return Err(format!("{groups} groups of {c} channels"));
        }
        let each = |v: Vec<f32>| match v.len() == groups {
            true => (0..c).map(|i| v[i / (c / groups)]).collect(),
            false => v,
        };
        let own = |i: usize| self.channels(node, i, c).or_else(|_| self.channels(node, i, groups));
        let (scale, bias) = (each(own(1)?), each(own(2)?));
        let split = self.reshaped(&m, &[&[groups], &[c / groups], &sizes[1..]].concat())?;
        let split = self.inmost(&split, &[0])?;
        let place = self.standard(split.place, node.float("epsilon", 1e-5)?)?;
        let whole = self.reshaped(&split.at(place), &sizes)?;
        let whole = self.natural(&whole)?;
        let place = self.affine(whole.place, scale, bias)?;
        Ok(whole.at(place))
    }

    pub fn layer_norm(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let rank = m.axes.len();
        let at = eval::axis(node.int("axis", -1)?, rank + 1)?;
        if at == 0 {
            return Err("normalises over the batch".into());
        }
        let over: Vec<usize> = (at - 1..rank).collect();
        let sizes: Vec<usize> = over.iter().map(|&a| m.size(a)).collect();
        let n: usize = sizes.iter().product();
        let m = self.inmost(&m, &over)?;
        // Scale and bias in the order in which the numbers lie.
        let scale = self.known(node, 1)?.ok_or("has no scale")?.expanded(&sizes)?;
        let bias = match self.known(node, 2)? {
            Some(b) => b.expanded(&sizes)?.f32s()?.to_vec(),
            None => vec![0.0; n],
        };
        let norm = LayerNorm { epsilon: node.float("epsilon", 1e-5)? };
        let tensors = vec![("weight", scale.f32s()?.to_vec()), ("bias", bias)];
        let place = self.add_with(norm, &[m.place], tensors)?;
        Ok(m.at(place))
    }

    pub fn local_response(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        let size = usize::try_from(node.int("size", 0)?).unwrap_or(0);
        if size.is_multiple_of(2) {
            return Err(format!("size = {size}; only odd ones are supported"));
        }
        let norm = LocalResponseNorm {
            size,
            alpha: node.float("alpha", 1e-4)?,
            beta: node.float("beta", 0.75)?,
            k: node.float("bias", 1.0)?,
        };
        let place = self.add("", norm, &[m.place])?;
        Ok(m.at(place))
    }

    pub fn softmax(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let rank = m.axes.len();
        let old = node.opset < 13;
        let at = eval::axis(node.int("axis", if old { 1 } else { -1 })?, rank + 1)?;
        if at == 0 {
            return Err("is over the batch".into());
        }
        let over: Vec<usize> = if old { (at - 1..rank).collect() } else { vec![at - 1] };
        let m = self.inmost(&m, &over)?;
        if node.op == "Softmax" {
            let place = self.add("", Softmax {}, &[m.place])?;
            return Ok(m.at(place));
        }
        let place = m.place;
        let largest = self.add("", Reduce { axis: Axis::C, by: By::Max }, &[place])?;
        let low = self.add("", Combine { by: CombineKind::Subtract }, &[place, largest])?;
        let exp = self.add("", Function::new(FunctionKind::Exp), &[low])?;
        let sum = self.add("", Reduce { axis: Axis::C, by: By::Sum }, &[exp])?;
        let log = self.add("", Function::new(FunctionKind::Log), &[sum])?;
        let place = self.add("", Combine { by: CombineKind::Subtract }, &[low, log])?;
        Ok(m.at(place))
    }
}
