//! A network as a short TOML file.
//!
//! ```toml
//! name = "mine"
//! input = [28, 28, 1]
//! [[layer]]
//! type = "conv"
//! filters = 32
//! window = 3
//! activation = "relu"
//! [[layer]]
//! type = "max-pool"
//! window = 2
//! [[layer]]
//! type = "dense"
//! units = "classes"
//! ```
//!
//! Every layer may have a `name`, and `from = "x"` or `from = ["x", "y"]` where it does not read the
//! layer before it (`"input"` is the input). `conv1d` is a `conv` over signals. `batch_norm = true`
//! and `activation = "…"` add those layers behind; who reads such a layer by name reads their end.
//! `output = "x"` names the output where it is not the last layer; `heads = [{ place = "y", weight = 0.3 }]` names
//! further outputs that training has, whose losses are added. With serde, a network is the same
//! table in any other format.

mod read;

use crate::layers::Layer;
use crate::network::{Head, Network, NodeId};
use crate::{Error, Result, Shape};
use read::{line_at, one_line, read};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};

/// What the data say, against what the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Shape of one input sample.
    pub input: Option<Shape>,
    /// What `units = "classes"` and `filters = "classes"` stand for.
    pub classes: Option<usize>,
}

/// A file may be that long: ten thousand layers fit, and reading it stays cheap.
const MAX_BYTES: usize = 1 << 20;

impl Network {
    /// Reads a network file.
    ///
    /// # Errors
    /// When the text is no TOML or larger than 1 MiB, a key or layer type is unknown, or the layers
    /// do not fit: one line that names the line of the file or the layer.
    pub fn from_toml(text: &str, overrides: &Overrides) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(Error::File("is larger than 1 MiB".into()));
        }
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| line_at(text, s.start));
            Error::File(format!("line {line}: {}", one_line(e.message())))
        })?;
        read(table, overrides).map_err(|m| Error::File(m.told(Some(text))))?.assemble()
    }

    /// The network as a file; [`Network::from_toml`] gives it back equal.
    pub fn to_toml(&self) -> String {
        let mut table = to_table(self);
        let layers = table.remove("layer");
        let mut text = String::new();
        let mut section = |mut table: Table| {
            // What it is first, then how it is.
            for key in ["type", "name", "from", "input", "output", "heads"] {
                if let Some(value) = table.remove(key) {
                    text += &format!("{key} = {value}\n");
                }
            }
            for (key, value) in table {
                text += &format!("{key} = {value}\n");
            }
            text += "\n[[layer]]\n";
        };
        section(table);
        for layer in layers.as_ref().and_then(Value::as_array).into_iter().flatten() {
            section(layer.as_table().cloned().unwrap_or_default());
        }
        text.truncate(text.len() - "\n[[layer]]\n".len());
        text
    }

    /// The same network with one layer changed.
    ///
    /// # Errors
    /// When no layer has that name, or the layers do not fit any more.
    pub fn with_layer(&self, name: &str, change: impl FnOnce(&mut Layer)) -> Result<Self> {
        if self.find(name).is_none_or(|id| id == self.input()) {
            return Err(Error::layer(name, "is not in the network"));
        }
        let mut change = Some(change);
        self.with_layers(|at, layer| {
            if at == name
                && let Some(change) = change.take()
            {
                change(layer);
            }
        })
    }

    /// The same network after `change(name, layer)` of every layer.
    ///
    /// # Errors
    /// When the layers do not fit any more.
    pub fn with_layers(&self, mut change: impl FnMut(&str, &mut Layer)) -> Result<Self> {
        let mut layers: Vec<(String, Layer, Vec<NodeId>)> = self
            .nodes()
            .iter()
            .filter_map(|n| Some((n.name.clone(), n.layer.clone()?, n.inputs.clone())))
            .collect();
        layers.iter_mut().for_each(|(name, layer, _)| change(name, layer));
        Network::assemble(self.name(), self.input_shape(), layers, self.output())?
            .with_heads(self.heads().to_vec())
    }

    /// The same network for another number of classes: the last dense layer (or, without one, the
    /// last convolution) before the output, and before each head, gets that many outputs.
    ///
    /// # Errors
    /// When the network has neither, or the layers behind do not fit any more.
    pub fn with_classes(&self, classes: usize) -> Result<Self> {
        let mut layers: Vec<_> = self.nodes()[1..]
            .iter()
            .filter_map(|n| Some((n.name.clone(), n.layer.clone()?, n.inputs.clone())))
            .collect();
        let ends = self.heads().iter().map(|h| h.place).chain([self.output()]);
        for end in ends {
            let sees = self.before([end]);
            let last = |of: fn(&Layer) -> bool| {
                layers.iter().enumerate().rposition(|(i, (_, l, _))| sees[i + 1] && of(l))
            };
            let head = last(|l| matches!(l, Layer::Dense(_)))
                .or_else(|| last(|l| matches!(l, Layer::Conv(_))))
                .ok_or_else(|| Error::Network {
                    network: self.name().into(),
                    what: "has no dense or conv layer to give the classes; add one at its end"
                        .into(),
                })?;
            match &mut layers[head].1 {
                Layer::Dense(d) => d.units = classes,
                Layer::Conv(c) => c.filters = classes,
                _ => {}
            }
        }
        Network::assemble(self.name(), self.input_shape(), layers, self.output())?
            .with_heads(self.heads().to_vec())
    }
}

/// The form of a network file, in whatever format.
impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        to_table(self).serialize(serializer)
    }
}

/// The form of a network file, in whatever format.
impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error as _;
        let table = Table::deserialize(deserializer)?;
        let parts =
            read(table, &Overrides::default()).map_err(|m| D::Error::custom(m.told(None)))?;
        parts.assemble().map_err(D::Error::custom)
    }
}

fn to_table(net: &Network) -> Table {
    let text = |s: &str| Value::String(s.into());
    let Shape { h, w, c } = net.input_shape();
    let mut table = Table::new();
    table.insert("name".into(), text(net.name()));
    table.insert("input".into(), Value::Array([h, w, c].map(|n| Value::Integer(n as i64)).into()));
    if net.output().index() + 1 != net.nodes().len() {
        table.insert("output".into(), text(&net.node(net.output()).name));
    }
    if !net.heads().is_empty() {
        let head = |h: &Head| {
            let mut weight = Value::Float(h.weight.into());
            shorten(&mut weight);
            let place = text(&net.node(h.place).name);
            Value::Table(Table::from_iter([("place".into(), place), ("weight".into(), weight)]))
        };
        table.insert("heads".into(), Value::Array(net.heads().iter().map(head).collect()));
    }
    let layers = net.iter().skip(1).map(|(id, node)| {
        // Every size was checked when the network was joined, so each fits a TOML integer.
        let mut layer = match Value::try_from(&node.layer) {
            Ok(Value::Table(t)) => t,
            _ => Table::new(),
        };
        layer.iter_mut().for_each(|(_, v)| shorten(v));
        layer.insert("name".into(), text(&node.name));
        if node.inputs[..] != [NodeId(id.0 - 1)] {
            let mut from: Vec<_> = node.inputs.iter().map(|i| text(&net.node(*i).name)).collect();
            let one = from.len() == 1;
            layer.insert("from".into(), if one { from.remove(0) } else { Value::Array(from) });
        }
        Value::Table(layer)
    });
    table.insert("layer".into(), Value::Array(layers.collect()));
    table
}

/// Writes an f32 with as few digits as give it back: 0.1, not 0.10000000149011612.
fn shorten(value: &mut Value) {
    let Value::Float(v) = value else { return };
    let short = (*v as f32).to_string().parse().unwrap_or(*v);
    if short as f32 == *v as f32 {
        *v = short;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::Padding;
    use crate::layers::{Conv, MaxPool};

    const MINE: &str = r#"
name = "mine"
input = [28, 28, 1]
[[layer]]
type = "conv"
filters = 8
window = [3, 5]
batch_norm = true
activation = "relu"
name = "first"
[[layer]]
type = "max-pool"
window = 2
[[layer]]
type = "dense"
units = "classes"
"#;

    #[test]
    fn a_file_and_builder_calls_give_the_same_network() {
        let overrides = Overrides { input: None, classes: Some(4) };
        let net = Network::from_toml(MINE, &overrides).unwrap();
        let mut b = Builder::new("mine", Shape::new(28, 28, 1));
        let input = b.here();
        b.named("first", Conv::new(8, [3, 5]), &[input]).batch_norm().relu();
        b.layer(MaxPool::new(2)).dense(4);
        assert_eq!(net, b.build().unwrap());
    }

    #[test]
    fn a_network_goes_to_a_file_and_back() {
        let mut b = Builder::new("round \"trip\"\n", Shape::new(9, 9, 3));
        let x = b
            .conv(Conv::new(3, 3).stride(2).padding(Padding::Explicit {
                top: 0,
                bottom: 1,
                left: 2,
                right: 1,
            }))
            .here();
        let y = b.layer(crate::layers::LeakyRelu { slope: 0.3 }).dropout(0.1).here();
        let out = b.add(&[y, x]).concat(&[x, y]).relu6().here();
        b.batch_norm().at(out);
        let net = b.build().unwrap();
        let text = net.to_toml();
        assert_eq!(Network::from_toml(&text, &Overrides::default()).unwrap(), net, "{text}");
        assert!(text.contains("rate = 0.1\n") && text.contains("output = \"relu1\""), "{text}");
        let json = serde_json::to_string(&net).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), net, "{json}");
    }

    #[test]
    fn heads_go_to_a_file_and_back() {
        let mut b = Builder::new("heads", Shape::new(9, 9, 3));
        let x = b.conv(Conv::new(4, 3)).here();
        b.dense(5).head(0.3);
        b.at(x).conv(Conv::new(5, 1)).global_mean_pool();
        let net = b.build().unwrap();
        let text = net.to_toml();
        assert!(text.contains(r#"heads = [{ place = "dense1", weight = 0.3 }]"#), "{text}");
        assert_eq!(Network::from_toml(&text, &Overrides::default()).unwrap(), net, "{text}");
        let json = serde_json::to_string(&net).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), net, "{json}");
        let other = net.with_classes(8).unwrap();
        let shape = |name| other.node(other.find(name).unwrap()).shape;
        assert_eq!((shape("dense1"), other.output_shape()), (Shape::vector(8), Shape::vector(8)));
        assert_eq!(other.heads(), net.heads());
        let named = |h: &str| text.replace(r#"[{ place = "dense1", weight = 0.3 }]"#, h);
        for (heads, words) in [
            (r#"[{ place = "dense9", weight = 0.3 }]"#, "did you mean `dense1`"),
            (r#"[{ place = "conv1", weight = 0.3 }]"#, "no layer may read it"),
            (r#"[{ place = "dense1", weight = -1.0 }]"#, "weight -1"),
            (r#"[{ place = "dense1" }]"#, "must be a list such as"),
            ("3", "must be a list such as"),
        ] {
            assert!(told(&named(heads)).contains(words), "{}", told(&named(heads)));
        }
    }

    #[test]
    fn every_float_keeps_its_bits() {
        for bits in (0..0x7f80_0000u32).step_by(104_729) {
            let v = f32::from_bits(bits);
            let mut value = Value::Float(f64::from(v));
            shorten(&mut value);
            assert_eq!(value.as_float().unwrap() as f32, v);
        }
    }

    fn told(text: &str) -> String {
        let e = Network::from_toml(text, &Overrides::default()).unwrap_err().to_string();
        assert!(!e.contains('\n'), "{e}");
        e
    }

    #[test]
    fn mistakes_are_told_in_one_line_with_line_and_remedy() {
        let conv = "input = [8, 8, 1]\n\n[[layer]]\ntype = \"conv\"\nfilters = 1\n";
        for (rest, words) in [
            ("", "line 3: conv: missing field `window`"),
            (
                "filter = 3\nwindow = 3",
                "line 6: conv: key `filter` is unknown; did you mean `filters`?",
            ),
            (
                "window = 3\nzzzz = 1",
                "line 7: conv: key `zzzz` is unknown; there is filters, window",
            ),
            ("window = 9\npadding = \"valid\"", "conv1: window 9x9 does not fit the 8x8 map"),
            ("window = \"x\"", "line 6: conv: `window` = \"x\": must be a whole number or a list"),
            ("window = -3", "line 6: conv: `window` = -3: must be a whole number or a list"),
            ("window = 3\nbias = 1", "line 7: conv: `bias` = 1: invalid type"),
            (
                "window = 3\npadding = \"smae\"",
                "line 7: conv: `padding` = \"smae\": padding `smae` is unknown; use",
            ),
            (
                "window = 3\nactivation = \"rleu\"",
                "line 7: activation `rleu` is unknown; did you mean `relu`?",
            ),
            ("window = 3\nactivation = 3", "line 7: `activation` must be text"),
            ("window = 3\nbatch_norm = 1", "line 7: `batch_norm` must be true or false"),
            (
                "window = 3\nfrom = \"inptu\"",
                "line 7: from = \"inptu\" is no earlier layer; did you mean `input`?",
            ),
            ("window = 3\nfrom = []", "takes one input but 0 are joined"),
            (
                "window = 3\n[[layer]]\ntype = \"dropout\"\nrate = nan",
                "line 9: dropout: `rate` = nan must be a finite",
            ),
            (
                "window = 3\n[[layer]]\ntype = \"covn\"",
                "line 8: type `covn` is unknown; did you mean `conv`?",
            ),
            ("window = 3\n[[layer]]\nunits = 3", "line 7: a layer has no `type`"),
            (
                "window = 3\n[[layer]]\ntype = \"dense\"\nunits = \"classes\"",
                "line 9: the number of classes is not known",
            ),
            (
                "window = 3\n[[layer]]\ntype = \"relu\"\nname = \"conv1\"",
                "two layers are named `conv1`",
            ),
        ] {
            let e = told(&format!("{conv}{rest}"));
            assert!(e.contains(words), "{rest:?} gives\n{e} without\n{words}");
        }
    }

    #[test]
    fn mistakes_at_the_top_are_told_too() {
        for (text, words) in [
            ("input = [8, 8", "line 1"),
            ("[[layer]]\ntype = \"relu\"", "has no `input`; add input = [height, width, channels]"),
            ("input = [0, 8, 1]\n[[layer]]\ntype = \"relu\"", "empty"),
            ("input = [8, 8]\n[[layer]]\ntype = \"relu\"", "line 1: `input` must be"),
            ("input = [8, 8, 1]", "has no layers"),
            ("input = [8, 8, 1]\n[layer]\ntype = \"relu\"", "line 2: write [[layer]]"),
            ("name = 3\ninput = [8, 8, 1]", "line 1: `name` must be text"),
            (
                "inptu = [8, 8, 1]\ninput = [8, 8, 1]",
                "line 1: key `inptu` is unknown; did you mean `input`?",
            ),
            (
                "output = \"x\"\ninput = [8, 8, 1]\n[[layer]]\ntype = \"relu\"",
                "line 1: output = \"x\" is no earlier layer",
            ),
        ] {
            let e = told(text);
            assert!(e.contains(words), "{text:?} gives\n{e} without\n{words}");
        }
        let e = serde_json::from_str::<Network>(
            "{\"input\": [8, 8, 1], \"layer\": [{\"type\": \"rleu\"}]}",
        );
        let e = e.unwrap_err().to_string();
        assert!(e.contains("layer 1: type `rleu` is unknown; did you mean `relu`?"), "{e}");
    }

    #[test]
    fn hostile_files_are_refused_before_they_cost_anything() {
        let wide = "input = [8, 8, 1]\n[[layer]]\ntype = \"dense\"\nunits = 9000000000000000000";
        assert!(told(wide).contains("too many"));
        let huge = "input = [9000000000, 9000000000, 9000000000]\n[[layer]]\ntype = \"relu\"";
        assert!(told(huge).contains("too large"));
        assert!(told(&"a".repeat(MAX_BYTES + 1)).contains("1 MiB"));
        assert!(told(&format!("x = {}", "[".repeat(500_000))).contains("line 1"));
        assert!(told(&format!("name = \"{}\"", "\\u001b".repeat(1000))).len() < 500);
    }

    #[test]
    fn a_name_stands_for_all_that_was_added_to_its_layer() {
        let text = "input = [8, 8, 2]\n[[layer]]\ntype = \"conv\"\nname = \"stem\"\nfilters = 2\nwindow = 3\n\
            batch_norm = true\nactivation = \"relu6\"\n[[layer]]\ntype = \"conv\"\nfilters = 2\nwindow = 1\n\
            [[layer]]\ntype = \"add\"\nfrom = [\"conv1\", \"stem\"]\nactivation = \"relu\"";
        // The second convolution is unnamed and counted: the first counts too, so it is conv2.
        assert!(told(text).contains("`conv1`") || told(text).contains("\"conv1\""));
        let net =
            Network::from_toml(&text.replace("conv1", "conv2"), &Overrides::default()).unwrap();
        let add = net.node(net.find("add1").unwrap());
        let names: Vec<_> = add.inputs.iter().map(|i| net.node(*i).name.as_str()).collect();
        assert_eq!(names, ["conv2", "relu1"]);
    }

    #[test]
    fn the_data_override_the_file() {
        let overrides = Overrides { input: Some(Shape::new(32, 20, 3)), classes: Some(7) };
        let net = Network::from_toml(MINE, &overrides).unwrap();
        assert_eq!(net.input_shape(), Shape::new(32, 20, 3));
        assert_eq!(net.output_shape(), Shape::vector(7));
        assert_eq!(net.with_classes(3).unwrap().output_shape(), Shape::vector(3));
    }

    #[test]
    fn the_head_may_be_a_convolution() {
        let mut b = Builder::new("n", Shape::new(8, 8, 1));
        b.conv(Conv::new(4, 3)).relu().conv(Conv::new(10, 1)).global_mean_pool();
        let net = b.build().unwrap().with_classes(5).unwrap();
        assert_eq!(net.output_shape(), Shape::vector(5));
        let e = Builder::new("n", Shape::new(8, 8, 1)).relu().build().unwrap().with_classes(5);
        assert!(e.unwrap_err().to_string().contains("no dense or conv layer"));
    }

    #[test]
    fn signals_have_layers_of_their_own() {
        let text = "input = [1, 100, 2]\n[[layer]]\ntype = \"conv1d\"\nfilters = 4\nwindow = 7\nstride = 2\npadding = 3";
        let net = Network::from_toml(text, &Overrides::default()).unwrap();
        assert_eq!(net.output_shape(), Shape::new(1, 50, 4));
        let conv = Conv::signal(4, 7).stride([1, 2]).pad([0, 3]);
        assert_eq!(net.nodes()[1].layer, Some(conv.into()));
    }
}
