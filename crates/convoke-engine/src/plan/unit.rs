//! First pass: layers that run as one call are joined to a unit.
//!
//! Training keeps raw convolution outputs, so a norm starts a unit of its own: `norm [+ residual]
//! [→ relu]`. Prediction folds the norm into the filters: `conv|dense [→ norm] [+ residual] [→ relu]`.
//! A norm (with its ReLU) whose only reader is a convolution stays pending: the convolution applies it
//! while it reads.
//!
//! A layer joins only when nobody else reads what lies between and nobody asked to keep it.

use crate::layers::Layer;
use crate::network::{Network, NodeId};

/// Layers that run as one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The layer that does the work.
    pub main: NodeId,
    /// A batch norm folded into it.
    pub norm: Option<NodeId>,
    /// A value added to its result.
    pub residual: Option<NodeId>,
    /// The ReLU that follows.
    pub act: Option<NodeId>,
    /// Whether the reader of this unit, a norm, applies it: its value is never written.
    pub pending: bool,
    /// The place whose value the unit makes: its last layer.
    pub output: NodeId,
}

impl Unit {
    /// Bounds of the activation, where there is one.
    pub(crate) fn clamp(&self, net: &Network) -> Option<(f32, f32)> {
        match &net.node(self.act?).layer {
            Some(Layer::Relu(r)) => Some((0.0, r.max.unwrap_or(f32::INFINITY))),
            _ => None,
        }
    }
}

/// Joins the layers that lead to the output or to a kept place; others are left out.
pub(crate) fn join(net: &Network, training: bool, keep: &[NodeId]) -> Vec<Unit> {
    let alive = net.alive(keep);
    let readers = net.readers();
    let mut taken = vec![false; net.nodes().len()];
    let mut units = Vec::new();
    for (id, node) in net.iter() {
        let Some(layer) = &node.layer else { continue };
        if taken[id.0] || !alive[id.0] {
            continue;
        }
        let mut unit =
            Unit { main: id, norm: None, residual: None, act: None, pending: false, output: id };
        let mut sum = None;
        let linear = matches!(layer, Layer::Conv(_) | Layer::Dense(_));
        let next = |at: NodeId| -> Option<NodeId> {
            if readers[at.0] != 1 || keep.contains(&at) || at == net.output() {
                return None;
            }
            let reader = net.iter().skip(at.0 + 1).find(|(_, n)| n.inputs.contains(&at));
            reader.map(|(i, _)| i).filter(|i| !taken[i.0])
        };
        let kind = |at: NodeId| net.node(at).layer.as_ref();
        if linear
            && !training
            && let Some(n) =
                next(unit.output).filter(|&n| matches!(kind(n), Some(Layer::BatchNorm(_))))
        {
            (unit.norm, unit.output) = (Some(n), n);
        }
        if (linear && !training || matches!(layer, Layer::BatchNorm(_)))
            && let Some(n) = next(unit.output).filter(|&n| matches!(kind(n), Some(Layer::Add(_))))
        {
            // The unit runs where the sum stood, so the other value is there by then, unless it
            // is made by a later unit that has not been placed: units are sorted by output below.
            if let [a, b] = net.node(n).inputs[..] {
                let other = if a == unit.output { b } else { a };
                if other != unit.output {
                    (unit.residual, unit.output, sum) = (Some(other), n, Some(n));
                }
            }
        }
        if (linear || matches!(layer, Layer::BatchNorm(_)))
            && let Some(n) = next(unit.output).filter(|&n| matches!(kind(n), Some(Layer::Relu(_))))
        {
            (unit.act, unit.output) = (Some(n), n);
        }
        // The input of one convolution: it reads the raw map and applies the norm on the way.
        unit.pending = training
            && matches!(layer, Layer::BatchNorm(_))
            && unit.residual.is_none()
            && next(unit.output).is_some_and(|n| matches!(kind(n), Some(Layer::Conv(_))));
        for part in [unit.norm, sum, unit.act].into_iter().flatten() {
            taken[part.0] = true;
        }
        units.push(unit);
    }
    units.sort_by_key(|u| u.output);
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Conv;
    use crate::{Builder, Shape};

    /// conv1 → norm → relu → conv2 → norm + input of conv1's relu → relu.
    fn residual() -> Network {
        let mut b = Builder::new("r", Shape::new(8, 8, 4));
        let x = b.conv(Conv::new(4, 3)).batch_norm().relu().here();
        let y = b.conv(Conv::new(4, 3)).batch_norm().here();
        b.add(&[y, x]).relu();
        b.build().unwrap()
    }

    fn names(net: &Network, units: &[Unit]) -> Vec<(String, String)> {
        let name = |id: NodeId| net.node(id).name.clone();
        units.iter().map(|u| (name(u.main), name(u.output))).collect()
    }

    #[test]
    fn training_keeps_raw_convolutions_and_joins_norm_sum_and_relu() {
        let net = residual();
        let units = join(&net, true, &[]);
        let pairs = names(&net, &units);
        let want = [
            ("conv1", "conv1"),
            ("batch-norm1", "relu1"),
            ("conv2", "conv2"),
            ("batch-norm2", "relu2"),
        ];
        assert_eq!(pairs, want.map(|(a, b)| (a.to_string(), b.to_string())));
    }

    #[test]
    fn prediction_runs_a_residual_block_as_two_convolutions() {
        let net = residual();
        let units = join(&net, false, &[]);
        let want = [("conv1", "relu1"), ("conv2", "relu2")];
        assert_eq!(names(&net, &units), want.map(|(a, b)| (a.to_string(), b.to_string())));
    }

    #[test]
    fn a_kept_place_ends_its_unit() {
        let net = residual();
        let keep = net.find("conv2").unwrap();
        let units = join(&net, false, &[keep]);
        assert!(names(&net, &units).contains(&("conv2".into(), "conv2".into())));
    }

    #[test]
    fn a_value_added_to_itself_is_not_joined() {
        let mut b = Builder::new("twice", Shape::new(2, 2, 2));
        let x = b.batch_norm().here();
        b.add(&[x, x]);
        let net = b.build().unwrap();
        assert_eq!(join(&net, true, &[]).len(), 2);
    }
}
