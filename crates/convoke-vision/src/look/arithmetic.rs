//! One number of a feature map, worked out in the open: patch × filter = number.

use super::inside::{Inside, Weights};
use crate::error::{Result, other};
use convoke_engine::layers::Layer;
use convoke_engine::{NodeId, Shape};
use serde::Serialize;
use std::fmt::Write;

/// One product of the sum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Term {
    /// Row and column of the layer's input; in the padding they lie outside of it.
    pub at: (isize, isize),
    /// Channel of the layer's input.
    pub channel: usize,
    /// The number there; 0 in the padding.
    pub value: f32,
    /// The filter's weight.
    pub weight: f32,
}

/// One number of a convolution's map with all that makes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Arithmetic {
    /// The layer.
    pub layer: String,
    /// The filter.
    pub filter: usize,
    /// Row and column of the map.
    pub place: (usize, usize),
    /// Rows and columns of the window.
    pub window: (usize, usize),
    /// Channels that the filter sees.
    pub channels: usize,
    /// Products, channel by channel, row by row.
    pub terms: Vec<Term>,
    /// What the filter adds.
    pub bias: f32,
    /// The sum of all products and the bias.
    pub sum: f64,
    /// The number that the network itself makes.
    pub network: f32,
}

impl Inside {
    /// Works out one number of a convolution: filter and place as given, else the largest of the map.
    ///
    /// # Errors
    /// When the layer is no convolution, or filter or place are not in its map.
    pub fn arithmetic(
        &self,
        x: &[f32],
        layer: NodeId,
        filter: Option<usize>,
        place: Option<(usize, usize)>,
    ) -> Result<Arithmetic> {
        let net = self.network();
        let node = net.node(layer);
        let Some(Layer::Conv(conv)) = &node.layer else {
            return other(format!("`{}` is no convolution; name one with --layer", node.name));
        };
        let (from, shape) = (node.inputs[0], node.shape);
        let inside = |f: usize, (y, x): (usize, usize)| f < shape.c && y < shape.h && x < shape.w;
        if !inside(filter.unwrap_or(0), place.unwrap_or((0, 0))) {
            return other(format!("filter or place is not in the map {shape} of `{}`", node.name));
        }
        let keep: Vec<NodeId> = [from, layer].into_iter().filter(|k| k.index() > 0).collect();
        let mut s = self.predict(&keep, 1, Weights::Learned)?;
        s.input_mut().copy_from_slice(x);
        s.predict(1)?;
        let input = if from.index() == 0 { x } else { s.map(from).unwrap_or_default() };
        let map = s.map(layer).unwrap_or_default();
        let fits = |i: &usize| {
            let at = (i / shape.c / shape.w, i / shape.c % shape.w);
            filter.is_none_or(|f| i % shape.c == f) && place.is_none_or(|p| p == at)
        };
        let best =
            (0..map.len()).filter(fits).max_by(|&a, &b| map[a].total_cmp(&map[b])).unwrap_or(0);
        let (filter, place) =
            (best % shape.c, (best / shape.c / shape.w, best / shape.c % shape.w));
        let all = net.params();
        let tensor = |name: &str| {
            let p = all.iter().find(|p| p.node == layer && p.spec.name == name)?;
            Some((&self.model().params[p.range.clone()], p.spec.shape.clone()))
        };
        let Some((weight, sizes)) = tensor("weight") else {
            return other(format!("`{}` has no weights", node.name));
        };
        let xs = net.node(from).shape;
        let terms = terms(conv, &node.name, xs, input, (weight, &sizes), filter, place)?;
        let bias = tensor("bias").map_or(0.0, |(b, _)| b[filter]);
        let product = |t: &Term| f64::from(t.value) * f64::from(t.weight);
        Ok(Arithmetic {
            layer: node.name.clone(),
            filter,
            place,
            window: (sizes[0], sizes[1]),
            channels: sizes[2],
            sum: terms.iter().map(product).sum::<f64>() + f64::from(bias),
            terms,
            bias,
            network: map[best],
        })
    }
}

/// The products of `filter` at a place; `weight [kh, kw, c / groups, d]`.
fn terms(
    conv: &convoke_engine::layers::Conv,
    name: &str,
    xs: Shape,
    input: &[f32],
    (weight, sizes): (&[f32], &[usize]),
    filter: usize,
    place: (usize, usize),
) -> Result<Vec<Term>> {
    let window = conv.window();
    let p = window.place(name, xs)?;
    let [kh, kw, channels, d] = [0, 1, 2, 3].map(|i| sizes[i]);
    // The group's first channel.
    let first = filter / (d / (xs.c / channels)).max(1) * channels;
    let mut terms = Vec::with_capacity(kh * kw * channels);
    for channel in 0..channels {
        for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
            let y = (place.0 * window.stride.h + i * window.dilation.h) as isize - p.top as isize;
            let x = (place.1 * window.stride.w + j * window.dilation.w) as isize - p.left as isize;
            let inside = (0..xs.h as isize).contains(&y) && (0..xs.w as isize).contains(&x);
            let at = |y: isize, x: isize| (y as usize * xs.w + x as usize) * xs.c + first + channel;
            let value = if inside { input[at(y, x)] } else { 0.0 };
            let weight = weight[((i * kw + j) * channels + channel) * d + filter];
            terms.push(Term { at: (y, x), channel: first + channel, value, weight });
        }
    }
    Ok(terms)
}

/// Channels that are written out.
const SHOWN: usize = 4;

impl Arithmetic {
    /// For people: patch and filter side by side, channel by channel, and the sum.
    pub fn text(&self) -> String {
        let (kh, kw) = self.window;
        let mut t = format!(
            "{} filter {} at row {}, column {}: patch x filter = number\n",
            self.layer, self.filter, self.place.0, self.place.1
        );
        let number = |v: f32| format!("{v:>8.3}");
        let mut sums = Vec::new();
        for (k, plane) in self.terms.chunks(kh * kw).enumerate() {
            let sum: f64 = plane.iter().map(|t| f64::from(t.value) * f64::from(t.weight)).sum();
            sums.push(sum);
            if k >= SHOWN || kw > 11 {
                continue;
            }
            let _ = writeln!(t, "\nchannel {}", plane[0].channel);
            for (i, row) in plane.chunks(kw).enumerate() {
                let middle = i == kh / 2;
                let (times, equals) = if middle { (" x ", " = ") } else { ("   ", "   ") };
                let values: String = row.iter().map(|t| number(t.value)).collect();
                let weights: String = row.iter().map(|t| number(t.weight)).collect();
                let products: String = row.iter().map(|t| number(t.value * t.weight)).collect();
                let end = if middle { format!("   sum {sum:.4}") } else { String::new() };
                let _ = writeln!(t, "  [{values} ]{times}[{weights} ]{equals}[{products} ]{end}");
            }
        }
        if sums.len() > SHOWN {
            let _ = writeln!(t, "\n… and {} channels more", sums.len() - SHOWN);
        }
        let shown: Vec<String> = sums.iter().take(SHOWN).map(|s| format!("{s:.4}")).collect();
        let more = if sums.len() > SHOWN { " + …" } else { "" };
        let _ = writeln!(
            t,
            "\n{}{more} + bias {:.4} = {:.4}; the network says {:.4}",
            shown.join(" + "),
            self.bias,
            self.sum,
            self.network
        );
        t
    }
}
