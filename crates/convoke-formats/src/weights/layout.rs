//! Weights in the order in which torch and ONNX have them.

use crate::{ModelError, ModelFile};
use convoke_engine::layers::Layer;
use convoke_engine::{Network, NodeId, Shape};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// Writes a model's weights and statistics alone, as torch has them: names of the layers (the zoo's are
/// torchvision's), filters `[o, i, kh, kw]`, dense weights `[o, i]`. `load_state_dict` takes them.
///
/// # Errors
/// When a weight is not finite or the file cannot be written.
pub fn save_torch(path: &Path, model: &ModelFile) -> Result<(), ModelError> {
    let wrong = |what: String| {
        let what = format!("not written: {what}");
        ModelError::File { path: path.into(), what }
    };
    model.check().map_err(wrong)?;
    let network = &model.network;
    let mut tensors = Vec::new();
    for (params, values) in [(network.params(), &model.params), (network.state(), &model.state)] {
        for p in params {
            let map = if p.spec.shape.len() == 2 { flattened(network, p.node) } else { None };
            let (mut shape, turned) = to_torch(&p.spec.shape, &values[p.range], map);
            let bytes: Vec<u8> = turned.iter().flat_map(|v| v.to_le_bytes()).collect();
            let name = match network.name().starts_with("convnext") {
                true => as_convnext(p.name, &mut shape),
                false => p.name,
            };
            tensors.push((name, shape, bytes));
        }
    }
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(n, s, b)| Ok((n, TensorView::new(Dtype::F32, s.clone(), b)?)))
        .collect();
    // Readers of safetensors take this for "made for torch".
    let facts = [("format".to_string(), "pt".to_string())].into();
    let bytes = views
        .and_then(|views| safetensors::serialize(views, Some(facts)))
        .map_err(|e| wrong(e.to_string()))?;
    Ok(convoke_data::write_file(path, &bytes)?)
}

/// A tensor of ConvNeXt as torchvision has it: scales are no layers and have the axes of a map, and what here are
/// convolutions of 1×1 behind the norm are dense layers there.
fn as_convnext(name: String, shape: &mut Vec<usize>) -> String {
    if let Some(block) = name.strip_suffix(".layer_scale.weight") {
        shape.extend([1, 1]);
        return format!("{block}.layer_scale");
    }
    if name.ends_with(".block.3.weight") || name.ends_with(".block.5.weight") {
        shape.truncate(2);
    }
    name
}

/// A tensor in torch's layout: its shape and its numbers. Filters `[kh, kw, i, o]` become
/// `[o, i, kh, kw]`, dense weights `[i, o]` become `[o, i]`; all others stay. `map` is the map that was
/// flattened before a dense layer: its pixels lie channel by channel there, pixel by pixel here.
pub(crate) fn to_torch(
    shape: &[usize],
    values: &[f32],
    map: Option<Shape>,
) -> (Vec<usize>, Vec<f32>) {
    match *shape {
        [h, w, i, o] => (vec![o, i, h, w], turned(values, (h * w, i, o), |i| i)),
        [i, o] => {
            let place = |at: usize| match map {
                Some(m) => at % m.pixels() * m.c + at / m.pixels(),
                None => at,
            };
            (vec![o, i], turned(values, (1, i, o), place))
        }
        _ => (shape.to_vec(), values.to_vec()),
    }
}

/// `[taps, i, o] -> [o, i, taps]`; input number `i` there is `place(i)` here.
fn turned(
    values: &[f32],
    (taps, i, o): (usize, usize, usize),
    place: impl Fn(usize) -> usize,
) -> Vec<f32> {
    // Lines of the cache are read whole while they are there.
    const BLOCK: usize = 16;
    let mut out = vec![0.0; values.len()];
    for first in (0..i).step_by(BLOCK) {
        for oo in 0..o {
            for ii in first..(first + BLOCK).min(i) {
                for tap in 0..taps {
                    out[(oo * i + ii) * taps + tap] = values[(tap * i + place(ii)) * o + oo];
                }
            }
        }
    }
    out
}

/// The map that was flattened before a dense layer: its pixels lie there channel by channel, here
/// pixel by pixel.
pub(crate) fn flattened(network: &Network, dense: NodeId) -> Option<Shape> {
    let mut at = network.node(dense).inputs.first().copied()?;
    loop {
        let node = network.node(at);
        if node.shape.h * node.shape.w > 1 {
            return Some(node.shape);
        }
        // Only layers that leave every number in its place may stand between.
        match (&node.layer, &node.inputs[..]) {
            (Some(Layer::Conv(_) | Layer::Dense(_)), _) | (None, _) => return None,
            (Some(layer), &[from]) => {
                let before = network.node(from).shape;
                if before.len() != node.shape.len() {
                    return None;
                }
                let keeps = matches!(layer, Layer::Flatten(_)) || before == node.shape;
                if !keeps {
                    return None;
                }
                at = from;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_dense_weights_are_turned() {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let (shape, turned) = to_torch(&[1, 2, 3, 2], &values, None);
        assert_eq!(shape, [2, 3, 1, 2]);
        assert_eq!(turned, [0.0, 6.0, 2.0, 8.0, 4.0, 10.0, 1.0, 7.0, 3.0, 9.0, 5.0, 11.0]);
        // Two pixels of three channels before two units.
        let (shape, turned) = to_torch(&[6, 2], &values, Some(Shape::new(1, 2, 3)));
        assert_eq!(shape, [2, 6]);
        assert_eq!(turned, [0.0, 6.0, 2.0, 8.0, 4.0, 10.0, 1.0, 7.0, 3.0, 9.0, 5.0, 11.0]);
        assert_eq!(to_torch(&[3], &values[..3], None), (vec![3], values[..3].to_vec()));
    }
}
