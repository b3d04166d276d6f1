//! Branches that learn side by side become the one convolution that they sum up to (Ding et al. 2021, section 3.3).
//!
//! With running statistics a norm is a factor and an offset per channel; a convolution with its norm is a convolution
//! with a bias; 1×1 is a 3×3 whose other places are zero, and nothing at all a 1×1 with one weight of one per filter.
//! Convolutions of the same map with the same stride add up weight by weight.

use convoke_engine::layers::{BatchNorm, Conv, Layer, WeightInit};
use convoke_engine::{Builder, Hw, Network, NodeId, Param, Result};
use std::collections::{BTreeMap, HashMap};

/// A network with its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Reparameterised {
    /// The network.
    pub network: Network,
    /// As [`Network::params`].
    pub params: Vec<f32>,
    /// As [`Network::state`].
    pub state: Vec<f32>,
    /// Sums that became one convolution each.
    pub merged: usize,
}

/// A network in which every sum of convolutions of one map, each with its batch norm (or of a norm alone), is one
/// convolution. It predicts the same; learning goes on with the network as it was.
///
/// # Errors
/// When the network cannot be joined anew: a mistake of this library.
///
/// # Panics
/// When `params` or `state` are not as long as the network's.
pub fn reparameterise(network: &Network, params: &[f32], state: &[f32]) -> Result<Reparameterised> {
    let tensors = Tensors::new(network, params, state);
    let sums: BTreeMap<NodeId, Fused> =
        network.iter().filter_map(|(id, _)| Some((id, Fused::of(&tensors, id)?))).collect();
    let mut gone = vec![false; network.nodes().len()];
    for sum in sums.values() {
        sum.parts.iter().for_each(|p| gone[p.index()] = true);
    }
    let mut b = Builder::new(network.name(), network.input_shape());
    let mut places = HashMap::from([(network.input(), b.here())]);
    let mut made: HashMap<String, &Fused> = HashMap::new();
    for (id, node) in network.iter() {
        let Some(layer) = node.layer.clone().filter(|_| !gone[id.index()]) else { continue };
        match sums.get(&id) {
            Some(sum) => {
                let name = sum.name(network, id);
                b.named(&name, sum.conv.clone(), &[places[&sum.from]]);
                made.insert(name, sum);
            }
            None => {
                let from: Vec<NodeId> = node.inputs.iter().map(|i| places[i]).collect();
                b.named(&node.name, layer, &from);
            }
        }
        places.insert(id, b.here());
    }
    for head in network.heads() {
        b.at(places[&head.place]).head(head.weight);
    }
    let merged = b.at(places[&network.output()]).build()?;
    let gather = |wanted: Vec<Param>| -> Vec<f32> {
        wanted.iter().flat_map(|p| values(&merged, p, &made, &tensors)).collect()
    };
    let (params, state) = (gather(merged.params()), gather(merged.state()));
    Ok(Reparameterised { params, state, merged: sums.len(), network: merged })
}

/// A tensor of the new network: a merged convolution's, or the old one of that name.
fn values(network: &Network, p: &Param, made: &HashMap<String, &Fused>, old: &Tensors) -> Vec<f32> {
    match made.get(&network.node(p.node).name) {
        Some(sum) if p.spec.name == "bias" => sum.bias.clone(),
        Some(sum) => sum.weight.clone(),
        None => old.all.get(&p.name).map(|v| v.to_vec()).unwrap_or_default(),
    }
}

/// Weights and running statistics by name, and who reads what.
struct Tensors<'a> {
    network: &'a Network,
    all: HashMap<String, &'a [f32]>,
    readers: Vec<usize>,
}

impl<'a> Tensors<'a> {
    fn new(network: &'a Network, params: &'a [f32], state: &'a [f32]) -> Self {
        let mut all = HashMap::new();
        for (list, values) in [(network.params(), params), (network.state(), state)] {
            all.extend(list.into_iter().map(|p| (p.name, &values[p.range])));
        }
        let mut readers = vec![0; network.nodes().len()];
        let ends = network.heads().iter().map(|h| h.place).chain([network.output()]);
        for place in network.nodes().iter().flat_map(|n| n.inputs.iter().copied()).chain(ends) {
            readers[place.index()] += 1;
        }
        Tensors { network, all, readers }
    }

    fn get(&self, node: NodeId, name: &str) -> Option<&'a [f32]> {
        self.all.get(&format!("{}.{name}", self.network.node(node).name)).copied()
    }

    /// Factor and offset of each channel of a norm.
    fn norm(&self, id: NodeId, epsilon: f32) -> Option<Vec<(f64, f64)>> {
        let of = |name| self.get(id, name);
        let (weight, bias) = (of("weight")?, of("bias")?);
        let (mean, var) = (of("running_mean")?, of("running_var")?);
        let one = |i: usize| {
            let factor = f64::from(weight[i]) / (f64::from(var[i]) + f64::from(epsilon)).sqrt();
            (factor, f64::from(bias[i]) - f64::from(mean[i]) * factor)
        };
        Some((0..weight.len()).map(one).collect())
    }
}

/// A branch: a norm, and the convolution before it where there is one.
struct Branch {
    norm: Vec<(f64, f64)>,
    conv: Option<(NodeId, Conv)>,
    from: NodeId,
    parts: Vec<NodeId>,
}

impl Branch {
    fn of(t: &Tensors, id: NodeId) -> Option<Self> {
        let node = t.network.node(id);
        let Some(Layer::BatchNorm(BatchNorm { epsilon, .. })) = node.layer else { return None };
        if t.readers[id.index()] != 1 {
            return None;
        }
        let (norm, before) = (t.norm(id, epsilon)?, node.inputs[0]);
        let Some(Layer::Conv(conv)) = &t.network.node(before).layer else {
            return Some(Branch { norm, conv: None, from: before, parts: vec![id] });
        };
        let from = t.network.node(before).inputs[0];
        if t.readers[before.index()] != 1 || !is_centred(t.network, before, from, conv) {
            return None;
        }
        Some(Branch { norm, conv: Some((before, conv.clone())), from, parts: vec![before, id] })
    }

    fn stride(&self) -> Hw {
        self.conv.as_ref().map_or(1.into(), |(_, c)| c.stride)
    }

    fn window(&self) -> Hw {
        self.conv.as_ref().map_or(1.into(), |(_, c)| c.window)
    }

    /// Adds its filters, in the middle of those of `window`, and its bias.
    fn add_to(&self, t: &Tensors, window: Hw, weight: &mut [f64], bias: &mut [f64]) -> Option<()> {
        let d = self.norm.len();
        for (b, (_, offset)) in bias.iter_mut().zip(&self.norm) {
            *b += offset;
        }
        let Hw { h, w } = self.window();
        let (top, left) = ((window.h - h) / 2, (window.w - w) / 2);
        let c = weight.len() / (window.h * window.w * d);
        let Some((id, conv)) = &self.conv else {
            for (i, (factor, _)) in self.norm.iter().enumerate() {
                weight[((top * window.w + left) * c + i) * d + i] += factor;
            }
            return Some(());
        };
        if conv.bias {
            for ((b, own), (factor, _)) in bias.iter_mut().zip(t.get(*id, "bias")?).zip(&self.norm)
            {
                *b += f64::from(*own) * factor;
            }
        }
        let own = t.get(*id, "weight")?;
        for (tap, rows) in own.chunks_exact(c * d).enumerate() {
            let at = ((top + tap / w) * window.w + left + tap % w) * c * d;
            for (i, v) in rows.iter().enumerate() {
                weight[at + i] += f64::from(*v) * self.norm[i % d].0;
            }
        }
        Some(())
    }
}

/// Whether each output stands over the middle of its window, without gaps or groups.
fn is_centred(network: &Network, id: NodeId, from: NodeId, conv: &Conv) -> bool {
    let Hw { h, w } = conv.window;
    let Ok(placed) = conv.window().place(&network.node(id).name, network.node(from).shape) else {
        return false;
    };
    let odd = h % 2 == 1 && w % 2 == 1;
    let middle = placed.top == h / 2 && placed.left == w / 2;
    odd && middle && conv.groups == 1 && conv.dilation == Hw::from(1)
}

/// A sum of branches as one convolution.
struct Fused {
    conv: Conv,
    weight: Vec<f32>,
    bias: Vec<f32>,
    from: NodeId,
    /// Layers that it takes the place of, the sum aside.
    parts: Vec<NodeId>,
}

impl Fused {
    fn of(t: &Tensors, id: NodeId) -> Option<Self> {
        let node = t.network.node(id);
        let Some(Layer::Add(_)) = node.layer else { return None };
        let branches: Vec<Branch> =
            node.inputs.iter().map(|&i| Branch::of(t, i)).collect::<Option<_>>()?;
        let (from, stride) = (branches[0].from, branches[0].stride());
        if branches.iter().any(|b| b.from != from || b.stride() != stride) {
            return None;
        }
        let most = |of: fn(Hw) -> usize| branches.iter().map(|b| of(b.window())).max();
        let window = Hw { h: most(|w| w.h)?, w: most(|w| w.w)? };
        let (c, d) = (t.network.node(from).shape.c, node.shape.c);
        let mut weight = vec![0.0; window.h * window.w * c * d];
        let mut bias = vec![0.0; d];
        for branch in &branches {
            branch.add_to(t, window, &mut weight, &mut bias)?;
        }
        let conv = Conv::new(d, window).stride(stride).pad([window.h / 2, window.w / 2]);
        let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
        Some(Fused {
            conv: conv.init(WeightInit::HeFanOut),
            weight: narrow(weight),
            bias: narrow(bias),
            from,
            parts: branches.into_iter().flat_map(|b| b.parts).collect(),
        })
    }

    /// `block.reparam_conv` for the sum `block.add`, as timm has it; the sum's own name where that is taken.
    fn name(&self, network: &Network, id: NodeId) -> String {
        let own = &network.node(id).name;
        let name = own.rsplit_once('.').map(|(block, _)| format!("{block}.reparam_conv"));
        name.filter(|n| network.find(n).is_none()).unwrap_or_else(|| own.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::{Plan, PlanOptions, Session, Shape};

    fn numbers(n: usize, seed: usize) -> impl Iterator<Item = f32> {
        (0..n).map(move |i| ((i + seed) * 7919 % 2003) as f32 / 1001.0 - 1.0)
    }

    fn predict(net: &Network, params: &[f32], state: &[f32]) -> Vec<f32> {
        let mut s = Session::new(Plan::compile(net, &PlanOptions::predict(2, 2)).unwrap()).unwrap();
        s.set_params(params).unwrap();
        s.set_state(state).unwrap();
        let len = s.input_mut().len();
        s.input_mut().iter_mut().zip(numbers(len, 5)).for_each(|(to, x)| *to = x);
        s.predict(2).unwrap().to_vec()
    }

    /// First weights, with norms whose numbers all differ.
    fn weights(net: &Network) -> (Vec<f32>, Vec<f32>) {
        let mut s = Session::new(Plan::compile(net, &PlanOptions::predict(1, 1)).unwrap()).unwrap();
        s.init(3);
        let (mut params, mut state) = (s.params().to_vec(), s.state().to_vec());
        for p in net.params().iter().filter(|p| p.spec.shape.len() == 1) {
            let base = if p.spec.name == "weight" { 0.5 } else { 0.0 };
            let drawn = numbers(p.range.len(), p.range.start);
            params[p.range.clone()].iter_mut().zip(drawn).for_each(|(v, r)| *v = base + 0.3 * r);
        }
        for p in net.state() {
            let base = if p.spec.name == "running_var" { 1.0 } else { 0.0 };
            let drawn = numbers(p.range.len(), p.range.start);
            state[p.range].iter_mut().zip(drawn).for_each(|(v, r)| *v = base + 0.4 * r);
        }
        (params, state)
    }

    #[test]
    fn repvgg_predicts_the_same_as_plain_convolutions() {
        let options = convoke_zoo::Options { input: Some(Shape::new(64, 48, 3)), classes: None };
        let net = convoke_zoo::build("repvgg-a0", &options).unwrap();
        let (params, state) = weights(&net);
        let plain = reparameterise(&net, &params, &state).unwrap();
        assert_eq!(plain.merged, 22);
        // timm's `repvgg_a0` after its `reparameterize_model`.
        assert_eq!(plain.network.parameters(), 8_309_384);
        assert!(plain.state.is_empty());
        let kinds = |net: &Network, kind: &str| {
            net.nodes()
                .iter()
                .filter(|n| n.layer.as_ref().is_some_and(|l| l.kind() == kind))
                .count()
        };
        assert_eq!((kinds(&plain.network, "conv"), kinds(&plain.network, "add")), (22, 0));
        let (want, got) =
            (predict(&net, &params, &state), predict(&plain.network, &plain.params, &plain.state));
        let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = want.iter().zip(&got).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(most > 1e-3 && off <= 1e-4 * most, "{off:e} of {most:e}");
    }

    #[test]
    fn other_sums_stay() {
        for name in ["resnet18", "resnetv2-50", "wrn-28-10", "xception"] {
            let options =
                convoke_zoo::Options { input: Some(Shape::new(64, 64, 3)), classes: Some(3) };
            let net = convoke_zoo::build(name, &options).unwrap();
            let (params, state) =
                (vec![0.5; net.parameters()], vec![0.5; net.state().last().unwrap().range.end]);
            let same = reparameterise(&net, &params, &state).unwrap();
            assert_eq!((same.merged, same.network), (0, net), "{name}");
        }
    }
}
