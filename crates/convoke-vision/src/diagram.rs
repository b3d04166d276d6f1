//! A network drawn as boxes that get narrower and deeper, as SVG.
//!
//! Every place through which all paths lead is a box: layers on a chain, or what a block of branches ends in.
//! Layers that change no size stand in the label of the box before; equal blocks in a row are one box.

use convoke_engine::layers::Layer;
use convoke_engine::table::{thousands, units};
use convoke_engine::{Network, NodeId, Shape};
use serde::Serialize;
use std::fmt::Write;

/// A box of the drawing: a layer, or a block of branches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// What it is, such as `conv 3x3 /2` or `residual block`.
    pub label: String,
    /// What follows it without changing its size: norms, activations.
    pub behind: Vec<String>,
    /// How many of it stand in a row.
    pub count: usize,
    /// Shape of its output.
    pub shape: Shape,
    /// Names of its layers.
    pub layers: Vec<String>,
    /// Trained numbers.
    pub parameters: usize,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Rows and columns of the input that a place of it can see.
    pub field: [usize; 2],
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Input,
    Conv,
    Pool,
    Block,
    Dense,
    Other,
}

/// The boxes of a network, from input to output.
pub fn stages(network: &Network) -> Vec<Stage> {
    let (fields, params) = (network.fields(), network.params());
    let ids: Vec<NodeId> = network.iter().map(|(id, _)| id).collect();
    let mut stages: Vec<Stage> = Vec::new();
    let mut from = 0;
    for at in trunk(network) {
        let part = &ids[if stages.is_empty() { 0 } else { from + 1 }..=at];
        from = at;
        let node = network.node(ids[at]);
        let own = |id: &NodeId| {
            params.iter().filter(|p| p.node == *id).map(|p| p.range.len()).sum::<usize>()
        };
        let field = fields[at];
        let (kind, label) = told(network, part);
        let stage = Stage {
            label,
            behind: Vec::new(),
            count: 1,
            shape: node.shape,
            layers: part.iter().map(|id| network.node(*id).name.clone()).collect(),
            parameters: part.iter().map(own).sum(),
            macs: part.iter().map(|id| network.macs_of(*id)).sum(),
            field: [field.h.size, field.w.size],
            kind,
        };
        add(&mut stages, stage);
    }
    stages
}

/// Joins a stage to the one before where it changes no size, or is one more of the same.
fn add(stages: &mut Vec<Stage>, stage: Stage) {
    if let Some(last) = stages.last_mut().filter(|l| l.shape == stage.shape) {
        let quiet = stage.kind == Kind::Other && last.kind != Kind::Input;
        let again =
            stage.kind == Kind::Block && last.kind == Kind::Block && last.label == stage.label;
        if quiet || again {
            match again {
                true => last.count += 1,
                false => last.behind.push(stage.label),
            }
            last.layers.extend(stage.layers);
            last.parameters += stage.parameters;
            last.macs += stage.macs;
            last.field = stage.field;
            return;
        }
    }
    stages.push(stage);
}

/// Places that every path from input to output passes, up to the output.
fn trunk(network: &Network) -> Vec<usize> {
    let mut last = vec![0; network.nodes().len()];
    for (id, node) in network.iter() {
        for i in &node.inputs {
            last[i.index()] = last[i.index()].max(id.index());
        }
    }
    let end = network.output().index();
    let mut open = 0;
    let mut all = Vec::new();
    for at in 0..=end {
        if open <= at {
            all.push(at);
        }
        open = open.max(last[at]);
    }
    all
}

/// What the layers between two places of the trunk are called.
fn told(network: &Network, part: &[NodeId]) -> (Kind, String) {
    let layer = |id: &NodeId| network.node(*id).layer.as_ref();
    let [id] = part else {
        let has = |f: fn(&Layer) -> bool| part.iter().filter_map(layer).any(f);
        let label = match () {
            () if has(|l| matches!(l, Layer::Add(_))) => "residual block",
            () if has(|l| matches!(l, Layer::Concat(_))) => "block of branches",
            () if has(|l| matches!(l, Layer::Gate(_))) => "gated block",
            () => "block",
        };
        return (Kind::Block, label.into());
    };
    let Some(layer) = layer(id) else { return (Kind::Input, "input".into()) };
    let stride = |s: convoke_engine::Hw| {
        if s.h * s.w > 1 { format!(" /{}", s.h.max(s.w)) } else { String::new() }
    };
    match layer {
        Layer::Conv(c) => (Kind::Conv, format!("conv {}{}", c.window, stride(c.stride))),
        Layer::MaxPool(p) => {
            (Kind::Pool, format!("max pool {}{}", p.window, stride(p.window().stride)))
        }
        Layer::MeanPool(p) => {
            (Kind::Pool, format!("mean pool {}{}", p.window, stride(p.window().stride)))
        }
        Layer::GlobalMeanPool(_) => (Kind::Pool, "mean over the map".into()),
        Layer::Dense(_) => (Kind::Dense, "dense".into()),
        Layer::Flatten(_) => (Kind::Other, "flatten".into()),
        other => (Kind::Other, other.kind().into()),
    }
}

/// Height of the largest map, in points.
const TALL: f64 = 170.0;
/// Points to the right and up for each point of a map's width.
const LEAN: (f64, f64) = (0.34, 0.3);

struct Placed {
    x: f64,
    thick: f64,
    tall: f64,
    lean: (f64, f64),
}

/// The drawing; boxes tell layers, parameters, MACs and receptive field when pointed at.
pub fn diagram(network: &Network) -> String {
    let stages = stages(network);
    let input = network.input_shape();
    let signal = input.h == 1;
    let longest = stages.iter().map(|s| s.shape.h.max(s.shape.w)).max().unwrap_or(1).max(2) as f64;
    // The root, so that 7 of 224 pixels are still to be seen.
    let long = |n: usize| if n == 1 { 7.0 } else { TALL * (n as f64 / longest).sqrt() };
    let thick = |c: usize| 3.0 + 7.0 * (c as f64).log2();
    let mut placed: Vec<Placed> = Vec::new();
    let mut x = 30.0;
    for s in &stages {
        let (h, w) = if signal { (s.shape.w, 1) } else { (s.shape.h, s.shape.w) };
        // A vector stands upright: its numbers one below the other.
        let (t, tall) = if s.shape.pixels() == 1 {
            (9.0, 12.0 * (s.shape.c as f64).log2() + 8.0)
        } else {
            (thick(s.shape.c), long(h))
        };
        let wide = long(w);
        let lean = (LEAN.0 * wide, LEAN.1 * wide);
        // Captions of neighbours may not meet.
        let slot = (t + lean.0 + 18.0).max(74.0);
        placed.push(Placed { x: x + (slot - t - lean.0 - 18.0) / 2.0, thick: t, tall, lean });
        x += slot;
    }
    let width = (x + 20.0).max(360.0);
    let up = placed.iter().map(|p| p.tall / 2.0 + p.lean.1).fold(0.0, f64::max);
    let down = placed.iter().map(|p| p.tall / 2.0).fold(0.0, f64::max);
    let axis = 62.0 + up;
    let height = axis + down + 96.0;
    let mut t = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"system-ui, sans-serif\" font-size=\"10\" fill=\"#2d3038\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fafaf8\"/>\n"
    );
    let _ = writeln!(
        t,
        "<text x=\"24\" y=\"28\" font-size=\"17\" font-weight=\"600\">{}</text>",
        escape(network.name())
    );
    let _ = writeln!(
        t,
        "<text x=\"24\" y=\"44\" fill=\"#787c86\">{} in, {} out; {} parameters, {} MACs</text>",
        input,
        network.output_shape(),
        thousands(network.parameters() as u64),
        units(network.macs())
    );
    for (i, (s, p)) in stages.iter().zip(&placed).enumerate() {
        if let Some(next) = placed.get(i + 1) {
            let (from, to) = (p.x + p.thick + p.lean.0 / 2.0, next.x);
            let _ = writeln!(
                t,
                "<line x1=\"{from:.1}\" y1=\"{axis:.1}\" x2=\"{to:.1}\" y2=\"{axis:.1}\" stroke=\"#b9bbc0\"/>"
            );
        }
        let _ = writeln!(t, "<g><title>{}</title>", escape(&about(s)));
        solid(&mut t, s.kind, p, axis);
        caption(&mut t, s, p, axis + down + 18.0 + if i % 2 == 0 { 0.0 } else { 36.0 });
        t.push_str("</g>\n");
    }
    t.push_str("</svg>\n");
    t
}

/// Front, top and side of a box.
fn solid(t: &mut String, kind: Kind, p: &Placed, axis: f64) {
    let [front, top, side] = match kind {
        Kind::Input => ["#c9cdd6", "#dcdfe6", "#aeb3bf"],
        Kind::Conv => ["#6f9fd8", "#a4c4ea", "#4d7fbb"],
        Kind::Pool => ["#d98a6a", "#ecb69f", "#bb6a49"],
        Kind::Block => ["#7db08a", "#acd0b5", "#5b9069"],
        Kind::Dense => ["#b39ad1", "#d0c0e4", "#9179b2"],
        Kind::Other => ["#b8b5a6", "#d2d0c6", "#98958a"],
    };
    let (x0, x1, y0, y1) = (p.x, p.x + p.thick, axis - p.tall / 2.0, axis + p.tall / 2.0);
    let (dx, dy) = p.lean;
    let mut face = |points: [(f64, f64); 4], colour: &str| {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            t,
            "<polygon points=\"{}\" fill=\"{colour}\" stroke=\"#fafaf8\" stroke-width=\"0.6\"/>",
            points.join(" ")
        );
    };
    face([(x0, y0), (x1, y0), (x1 + dx, y0 - dy), (x0 + dx, y0 - dy)], top);
    face([(x1, y0), (x1 + dx, y0 - dy), (x1 + dx, y1 - dy), (x1, y1)], side);
    face([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], front);
}

fn caption(t: &mut String, s: &Stage, p: &Placed, y: f64) {
    let x = p.x + (p.thick + p.lean.0) / 2.0;
    let times = if s.count > 1 { format!("{} x {}", s.count, s.label) } else { s.label.clone() };
    let shape = if s.shape.pixels() == 1 { s.shape.c.to_string() } else { s.shape.to_string() };
    let mut line = |k: usize, text: &str, colour: &str, weight: &str| {
        let y = y + 12.0 * k as f64;
        let _ = writeln!(
            t,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"{colour}\" font-weight=\"{weight}\">{}</text>",
            escape(text)
        );
    };
    line(0, &times, "#2d3038", "400");
    line(1, &shape, "#4d515c", "600");
}

fn about(s: &Stage) -> String {
    let names = match &s.layers[..] {
        [one] => one.clone(),
        [first, .., last] => format!("{first} … {last} ({} layers)", s.layers.len()),
        [] => String::new(),
    };
    let behind =
        if s.behind.is_empty() { String::new() } else { format!(", then {}", s.behind.join(", ")) };
    format!(
        "{names}\n{}{behind}\noutput {}\n{} parameters, {} MACs\nsees {}x{} pixels",
        s.label,
        s.shape,
        thousands(s.parameters as u64),
        units(s.macs),
        s.field[0],
        s.field[1]
    )
}

/// Text between tags.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::Builder;
    use convoke_engine::layers::Conv;

    fn residual() -> Network {
        let mut b = Builder::new("r <&> \"x\"", Shape::new(32, 32, 3));
        b.conv(Conv::new(16, 3).stride(2)).batch_norm().relu();
        for _ in 0..2 {
            let x = b.here();
            let y = b.conv(Conv::new(16, 3)).batch_norm().here();
            b.add(&[y, x]).relu();
        }
        b.max_pool(2, 2).global_mean_pool().flatten().dense(10);
        b.build().unwrap()
    }

    #[test]
    fn blocks_in_a_row_are_one_box_and_quiet_layers_have_none() {
        let net = residual();
        let all = stages(&net);
        let told: Vec<(String, usize)> = all.iter().map(|s| (s.label.clone(), s.count)).collect();
        let want = [
            ("input", 1),
            ("conv 3x3 /2", 1),
            ("residual block", 2),
            ("max pool 2x2 /2", 1),
            ("mean over the map", 1),
            ("dense", 1),
        ];
        assert_eq!(told, want.map(|(l, n)| (l.to_string(), n)));
        assert_eq!(all.iter().map(|s| s.layers.len()).sum::<usize>(), net.nodes().len());
        assert_eq!(all.iter().map(|s| s.parameters).sum::<usize>(), net.parameters());
        assert_eq!(all.iter().map(|s| s.macs).sum::<u64>(), net.macs());
    }

    #[test]
    fn a_drawing_is_well_formed_and_tells_the_sizes() {
        let svg = diagram(&residual());
        assert!(svg.contains("r &lt;&amp;&gt; &quot;x&quot;") && svg.contains("16x16x16"), "{svg}");
        assert_eq!(svg.matches("<polygon").count(), 3 * 6);
        assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
        assert_eq!(svg, diagram(&residual()));
        let mut b = Builder::new("signal", Shape::new(1, 128, 2));
        let net = b.conv(Conv::signal(8, 5)).relu().global_mean_pool().dense(3).build().unwrap();
        assert!(diagram(&net).contains("1x128x8"));
    }
}
