//! Feature maps of a picture: a contact sheet for each layer, from pixels to logits.

use super::inside::{Inside, Weights};
use crate::canvas::{
    Canvas, Font, GAP, INK, LINE, SOFT, Tile, coloured, fit, grid, short, stack, wide_strip,
};
use crate::error::Result;
use convoke_data::Picture;
use convoke_engine::layers::Layer;
use convoke_engine::{NodeId, Shape};
use serde::Serialize;

/// All maps of one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerMaps {
    /// The layer.
    pub layer: String,
    /// Its kind.
    pub kind: &'static str,
    /// `[h, w, c]`.
    pub shape: Shape,
    /// Smallest, mean and largest number.
    pub range: [f32; 3],
    /// Share of numbers that are exactly zero.
    pub zeros: f64,
    /// Maps that are zero everywhere.
    pub dead: usize,
    /// The numbers `[h, w, c]`.
    #[serde(skip)]
    pub values: Vec<f32>,
}

/// Maps on a sheet at most.
const MOST: usize = 64;

impl Inside {
    /// The layers that a contact sheet is worth: not those that only pass their input on.
    pub fn shown_layers(&self) -> Vec<NodeId> {
        let net = self.network();
        let passes = |layer: &Option<Layer>| {
            matches!(layer, Some(Layer::Dropout(_) | Layer::StochasticDepth(_) | Layer::Flatten(_)))
        };
        net.iter().filter(|(_, n)| !passes(&n.layer)).map(|(id, _)| id).collect()
    }

    /// The maps of some layers for one input.
    ///
    /// # Errors
    /// When memory is short.
    pub fn maps(&self, x: &[f32], layers: &[NodeId]) -> Result<Vec<LayerMaps>> {
        let net = self.network();
        let keep: Vec<NodeId> = layers.iter().copied().filter(|l| l.index() > 0).collect();
        let mut s = self.predict(&keep, 1, Weights::Learned)?;
        s.input_mut().copy_from_slice(x);
        s.predict(1)?;
        let of = |&id: &NodeId| {
            let node = net.node(id);
            let values = if id.index() == 0 { x } else { s.map(id).unwrap_or_default() };
            let kind = node.layer.as_ref().map_or("input", Layer::kind);
            LayerMaps::new(&node.name, kind, node.shape, values.to_vec())
        };
        Ok(layers.iter().map(of).collect())
    }
}

impl LayerMaps {
    fn new(layer: &str, kind: &'static str, shape: Shape, values: Vec<f32>) -> Self {
        let n = values.len().max(1) as f64;
        let low = values.iter().fold(f32::INFINITY, |m, v| m.min(*v));
        let high = values.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let mean = (values.iter().map(|v| f64::from(*v)).sum::<f64>() / n) as f32;
        let zeros = values.iter().filter(|v| **v == 0.0).count() as f64 / n;
        let dead = |k: &usize| values[*k..].iter().step_by(shape.c).all(|v| *v == 0.0);
        let dead = (0..shape.c).filter(dead).count();
        LayerMaps {
            layer: layer.into(),
            kind,
            shape,
            range: [low, mean, high],
            zeros,
            dead,
            values,
        }
    }

    /// One map `[h, w]`.
    pub fn plane(&self, k: usize) -> Vec<f32> {
        self.values[k..].iter().step_by(self.shape.c).copied().collect()
    }

    /// The maps that vary most, at most so many, in their own order.
    pub fn liveliest(&self, most: usize) -> Vec<usize> {
        let c = self.shape.c;
        let spread = |k: usize| {
            let plane = self.values[k..].iter().step_by(c).map(|v| f64::from(*v));
            let n = self.shape.pixels() as f64;
            let (sum, squares) = plane.fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
            squares / n - (sum / n) * (sum / n)
        };
        let spreads: Vec<f64> = (0..c).map(spread).collect();
        let mut order: Vec<usize> = (0..c).collect();
        order.sort_by(|&a, &b| spreads[b].total_cmp(&spreads[a]).then(a.cmp(&b)));
        order.truncate(most);
        order.sort_unstable();
        order
    }
}

/// A map as a picture; one of a single row is a strip that can be seen.
fn plane_picture(maps: &LayerMaps, k: usize, side: usize) -> Result<Picture> {
    let (h, w) = (maps.shape.h, maps.shape.w);
    let plane = maps.plane(k);
    // All maps of a layer in the same colours, each by its own largest number.
    let most = plane.iter().fold(0.0f32, |m, v| m.max(v.abs())).max(f32::MIN_POSITIVE);
    let picture = coloured(&plane, h, w, most, maps.range[0] < 0.0);
    match h {
        1 => Ok(wide_strip(&picture, side)),
        _ => fit(&picture, side),
    }
}

/// The contact sheet of one layer: its maps with their numbers, or bars for a vector; `names` are those of the
/// classes where the vector is of logits.
///
/// # Errors
/// When a map cannot be resized.
pub fn map_sheet(maps: &LayerMaps, names: Option<&[String]>) -> Result<Picture> {
    let s = maps.shape;
    let title = format!("{}  {}  {}", maps.layer, maps.kind, s);
    if s.pixels() == 1 {
        return Ok(bars(&title, &maps.values, names));
    }
    let shown = maps.liveliest(MOST);
    let side = if shown.len() <= 16 { 128 } else { 84 };
    let mut tiles = Vec::new();
    for &k in &shown {
        let most = maps.plane(k).iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let caption = [format!("#{k}"), format!("max {}", short(most))];
        let picture = plane_picture(maps, k, side)?;
        tiles.push(Tile::new(picture, &[&caption[0], &caption[1]]));
    }
    let columns = (tiles.len() as f64).sqrt().ceil().clamp(1.0, 8.0) as usize;
    let sheet = grid(&title, &tiles, columns, Font::Small);
    let note = format!(
        "{} of {} maps; from {} to {}, mean {}; {:.0} % zeros, {} maps all zero",
        shown.len(),
        s.c,
        short(maps.range[0]),
        short(maps.range[2]),
        short(maps.range[1]),
        100.0 * maps.zeros,
        maps.dead
    );
    Ok(stack(&[sheet, line(&note)]))
}

fn line(text: &str) -> Picture {
    let (letter, height) = Font::Plain.size();
    let mut canvas = Canvas::new(2 * GAP + letter * text.chars().count(), height + GAP / 2);
    canvas.text(text, GAP, 0, Font::Plain, SOFT);
    canvas.0
}

/// A vector: the largest twenty with their names where they have them, else all as thin bars.
fn bars(title: &str, values: &[f32], names: Option<&[String]>) -> Picture {
    let most = values.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let (letter, height) = Font::Plain.size();
    let head = GAP + Font::Bold.size().1 + GAP;
    let Some(names) = names else {
        let thin = (768 / values.len().max(1)).clamp(1, 12);
        let (width, half) = (values.len().min(1024) * thin, 70);
        let below = if values.iter().any(|v| *v < 0.0) { half } else { 0 };
        let title = match values.len() {
            n if n > 1024 => format!("{title}, the first 1024"),
            _ => title.into(),
        };
        let mut canvas = Canvas::new(
            (width + 2 * GAP).max(2 * GAP + 9 * title.len()),
            head + half + below + GAP,
        );
        canvas.text(&title, GAP, GAP, Font::Bold, INK);
        for (i, v) in values.iter().take(1024).enumerate() {
            let long = ((v.abs() / most) * half as f32).round() as usize;
            let top = if *v < 0.0 { head + half } else { head + half - long };
            let colour = if *v < 0.0 { [70, 120, 190] } else { [205, 80, 60] };
            canvas.fill(GAP + i * thin, top, (thin - usize::from(thin > 3)).max(1), long, colour);
        }
        canvas.fill(GAP, head + half, width, 1, LINE);
        return canvas.0;
    };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(20);
    let name =
        |i: usize| names.get(i).map_or(format!("class {i}"), |n| n.chars().take(28).collect());
    let words = order.iter().map(|&i| name(i).chars().count()).max().unwrap_or(0) * letter;
    let mut canvas =
        Canvas::new(GAP + words + GAP + 320 + 80, head + order.len() * (height + 4) + GAP);
    canvas.text(title, GAP, GAP, Font::Bold, INK);
    for (row, &i) in order.iter().enumerate() {
        let y = head + row * (height + 4);
        canvas.text(&name(i), GAP, y, Font::Plain, INK);
        let long = (values[i].abs() / most * 320.0) as usize;
        let colour = if values[i] < 0.0 { [70, 120, 190] } else { [205, 80, 60] };
        canvas.fill(GAP + words + GAP, y, long.max(1), height - 3, colour);
        canvas.text(&short(values[i]), GAP + words + GAP + long + 6, y, Font::Plain, SOFT);
    }
    canvas.0
}

/// A signal `[w, c]` as lines over its places, a colour a channel.
fn lines(values: &[f32], c: usize) -> Picture {
    const COLOURS: [[u8; 3]; 6] = [
        [70, 120, 190],
        [205, 80, 60],
        [80, 150, 90],
        [150, 100, 180],
        [200, 150, 40],
        [90, 90, 90],
    ];
    let (width, height) = (640, 120);
    let mut canvas = Canvas::new(width, height);
    let low = values.iter().fold(f32::INFINITY, |m, v| m.min(*v));
    let high = values.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let range = (high - low).max(f32::MIN_POSITIVE);
    let n = values.len() / c.max(1);
    let y = |v: f32| ((high - v) / range * (height - 3) as f32) as usize;
    for k in 0..c.min(COLOURS.len()) {
        let at = |x: usize| {
            // Between two places in a straight line.
            let t = x as f32 * n.saturating_sub(1) as f32 / (width - 1) as f32;
            let (i, share) = (t as usize, t.fract());
            let next = values[(i + 1).min(n - 1) * c + k];
            y(values[i * c + k] * (1.0 - share) + next * share)
        };
        for x in 0..width {
            let (a, b) = (at(x.saturating_sub(1)), at(x));
            canvas.fill(x, a.min(b), 1, a.abs_diff(b) + 2, COLOURS[k]);
        }
    }
    canvas.0
}

/// The picture's way through the network on one sheet: six maps of each stage, the logits below.
///
/// # Errors
/// When a map cannot be resized.
pub fn overview(seen: &Picture, layers: &[LayerMaps], names: &[String]) -> Result<Picture> {
    let input = layers.iter().find(|m| m.kind == "input").filter(|m| m.shape.h == 1);
    let (title, first) = match input {
        Some(m) => ("From numbers to logits", lines(&m.values, m.shape.c)),
        None => ("From pixels to logits", fit(seen, 160)?),
    };
    let mut parts =
        vec![grid(title, &[Tile::new(first, &["what the network saw"])], 1, Font::Plain)];
    // Maps at which the size changes, and the last of each size, tell the way.
    let cut = ["input", "take", "spread", "mix", "rearrange", "constant"];
    let maps: Vec<&LayerMaps> =
        layers.iter().filter(|m| !cut.contains(&m.kind) && m.shape.pixels() > 1).collect();
    for (i, m) in maps.iter().enumerate() {
        let last = maps.get(i + 1).is_none_or(|n| (n.shape.h, n.shape.w) != (m.shape.h, m.shape.w));
        if !last && maps.len() > 12 {
            continue;
        }
        let mut tiles = Vec::new();
        for k in m.liveliest(8) {
            tiles.push(Tile::new(plane_picture(m, k, 96)?, &[&format!("#{k}")]));
        }
        parts.push(grid(&format!("{}  {}", m.layer, m.shape), &tiles, 8, Font::Small));
    }
    if let Some(m) = layers.iter().rev().find(|m| m.shape.pixels() == 1) {
        parts.push(map_sheet(m, Some(names))?);
    }
    Ok(stack(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(h: usize, w: usize, c: usize) -> LayerMaps {
        let values = (0..h * w * c).map(|i| if i % c == 1 { 0.0 } else { (i % 7) as f32 - 2.0 });
        LayerMaps::new("conv1", "conv", Shape::new(h, w, c), values.collect())
    }

    #[test]
    fn a_sheet_tells_its_figures() {
        let m = maps(6, 5, 3);
        assert_eq!((m.dead, m.range[0], m.range[2]), (1, -2.0, 4.0));
        assert_eq!(m.liveliest(2), [0, 2]);
        assert_eq!(m.plane(1), vec![0.0; 30]);
        for (h, w, c) in [(6, 5, 3), (1, 40, 4), (1, 1, 9), (1, 1, 3000)] {
            let p = map_sheet(&maps(h, w, c), None).unwrap();
            assert_eq!(p.data.len(), p.width * p.height * 3);
        }
        assert!(map_sheet(&maps(1, 1, 30), Some(&["cat".into()])).unwrap().height > 300);
    }
}
