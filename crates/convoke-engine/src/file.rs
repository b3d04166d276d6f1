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
//! layer before it. `conv1d` is a `conv` over signals. `batch_norm = true` and `activation = "…"` add
//! those layers behind.

use crate::layers::Layer;
use crate::names::{hint, nearest};
use crate::network::{Network, NodeId};
use crate::{Error, Result, Shape};
use std::collections::HashMap;
use toml::{Table, Value};

/// What the data say, against what the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Shape of one input sample.
    pub input: Option<Shape>,
    /// What `units = "classes"` and `filters = "classes"` stand for.
    pub classes: Option<usize>,
}

/// A file may be that long.
const MAX_BYTES: usize = 16 << 20;

impl Network {
    /// Reads a network file.
    ///
    /// # Errors
    /// When the text is no TOML, a key or layer type is unknown, or the layers do not fit.
    pub fn from_toml(text: &str, overrides: &Overrides) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(Error::File("is larger than 16 MiB".into()));
        }
        let mut file: Table = text.parse().map_err(|e: toml::de::Error| {
            let line =
                e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            Error::File(format!("line {line}: {}", e.message().replace('\n', " ")))
        })?;
        let name = match file.remove("name") {
            None => "network".to_string(),
            Some(Value::String(s)) => s,
            Some(_) => return Err(Error::File("`name` must be text".into())),
        };
        let input = match (overrides.input, file.remove("input")) {
            (Some(shape), _) => shape,
            (None, Some(value)) => value
                .try_into()
                .map_err(|_| Error::File("`input` must be [height, width, channels]".into()))?,
            (None, None) => {
                return Err(Error::File(
                    "has no `input`; add input = [height, width, channels]".into(),
                ));
            }
        };
        let output = file.remove("output");
        let layers = match file.remove("layer") {
            Some(Value::Array(layers)) => layers,
            _ => return Err(Error::File("has no layers; add a [[layer]] with a type".into())),
        };
        if let Some(key) = file.keys().next() {
            let hint = hint(key, ["name", "input", "layer", "output"]);
            return Err(Error::File(format!("key `{key}` is unknown{hint}")));
        }
        let mut reader = Reader { classes: overrides.classes, ..Reader::default() };
        reader.places.insert("input".into(), NodeId(0));
        for (i, layer) in layers.into_iter().enumerate() {
            reader.layer(layer).map_err(|what| Error::File(format!("layer {}: {what}", i + 1)))?;
        }
        let mut end = reader.last;
        if let Some(name) = output {
            let name = name.as_str().unwrap_or_default().to_string();
            end = *reader
                .places
                .get(&name)
                .ok_or_else(|| Error::File(format!("output `{name}` is no layer")))?;
        }
        Network::assemble(&name, input, reader.layers, end)
    }

    /// The network as a file; [`Network::from_toml`] gives it back equal.
    pub fn to_toml(&self) -> String {
        let mut text = format!("name = {}\n", Value::String(self.name().into()));
        let Shape { h, w, c } = self.input_shape();
        text += &format!("input = [{h}, {w}, {c}]\n");
        if self.output().index() + 1 != self.nodes().len() {
            text += &format!("output = {}\n", Value::String(self.node(self.output()).name.clone()));
        }
        for (id, node) in self.iter().skip(1) {
            text += "\n[[layer]]\n";
            let mut table = match Value::try_from(&node.layer) {
                Ok(Value::Table(t)) => t,
                _ => Table::new(),
            };
            // The kind and name first, then how it is.
            for (key, value) in [
                ("type", table.remove("type")),
                ("name", Some(Value::String(node.name.clone()))),
                ("from", self.sources_of(id)),
            ] {
                if let Some(value) = value {
                    text += &format!("{key} = {value}\n");
                }
            }
            for (key, value) in table {
                text += &format!("{key} = {value}\n");
            }
        }
        text
    }

    /// The `from` of a layer that does not simply read the one before it.
    fn sources_of(&self, id: NodeId) -> Option<Value> {
        let inputs = &self.node(id).inputs;
        if inputs.len() == 1 && inputs[0].0 + 1 == id.0 {
            return None;
        }
        let names: Vec<Value> =
            inputs.iter().map(|i| Value::String(self.node(*i).name.clone())).collect();
        Some(if let [one] = &names[..] { one.clone() } else { Value::Array(names) })
    }

    /// The same network for another number of classes: the last dense layer (or, without one, the
    /// last convolution) gets that many outputs.
    ///
    /// # Errors
    /// When the network has neither.
    pub fn with_classes(&self, classes: usize) -> Result<Self> {
        let mut layers: Vec<_> = self.nodes()[1..]
            .iter()
            .filter_map(|n| Some((n.name.clone(), n.layer.clone()?, n.inputs.clone())))
            .collect();
        let last = |of: fn(&Layer) -> bool| layers.iter().rposition(|(_, l, _)| of(l));
        let head = last(|l| matches!(l, Layer::Dense(_)))
            .or_else(|| last(|l| matches!(l, Layer::Conv(_))))
            .ok_or_else(|| Error::File("has no dense or conv layer to give the classes".into()))?;
        match &mut layers[head].1 {
            Layer::Dense(d) => d.units = classes,
            Layer::Conv(c) => c.filters = classes,
            _ => {}
        }
        Network::assemble(self.name(), self.input_shape(), layers, self.output())
    }
}

#[derive(Default)]
struct Reader {
    classes: Option<usize>,
    layers: Vec<(String, Layer, Vec<NodeId>)>,
    places: HashMap<String, NodeId>,
    counts: HashMap<&'static str, usize>,
    last: NodeId,
}

impl Reader {
    fn layer(&mut self, value: Value) -> std::result::Result<(), String> {
        let Value::Table(mut table) = value else { return Err("is no table".into()) };
        let name = match table.remove("name") {
            None => None,
            Some(Value::String(s)) => Some(s),
            Some(_) => return Err("`name` must be text".into()),
        };
        let from = match table.remove("from") {
            None => vec![self.last],
            Some(Value::String(s)) => vec![self.place(&s)?],
            Some(Value::Array(all)) => all
                .iter()
                .map(|v| self.place(v.as_str().unwrap_or_default()))
                .collect::<std::result::Result<_, _>>()?,
            Some(_) => return Err("`from` must be a name or a list of names".into()),
        };
        let activation = match table.remove("activation") {
            None => None,
            Some(Value::String(s)) => Some(s),
            Some(_) => return Err("`activation` must be text".into()),
        };
        let norm = match table.remove("batch_norm") {
            None => false,
            Some(Value::Boolean(b)) => b,
            Some(_) => return Err("`batch_norm` must be true or false".into()),
        };
        self.sugar(&mut table)?;
        let layer = read_layer(table)?;
        self.push(name, layer, from);
        if norm {
            let at = vec![self.last];
            self.push(None, crate::layers::BatchNorm::default().into(), at);
        }
        if let Some(kind) = activation {
            let layer = match kind.as_str() {
                "relu6" => crate::layers::Relu { max: Some(6.0) }.into(),
                _ => read_layer(Table::from_iter([("type".to_string(), Value::String(kind))]))?,
            };
            let at = vec![self.last];
            self.push(None, layer, at);
        }
        Ok(())
    }

    fn place(&self, name: &str) -> std::result::Result<NodeId, String> {
        self.places.get(name).copied().ok_or_else(|| {
            let hint = hint(name, self.places.keys().map(String::as_str));
            format!("reads `{name}`, which is no earlier layer{hint}")
        })
    }

    /// `"classes"` becomes the number, `conv1d` a `conv` of one row.
    fn sugar(&self, table: &mut Table) -> std::result::Result<(), String> {
        for key in ["units", "filters"] {
            if table.get(key).and_then(Value::as_str) == Some("classes") {
                let n = self
                    .classes
                    .ok_or("`classes` is not known here; give a number or --classes")?;
                table.insert(key.into(), Value::Integer(n as i64));
            }
        }
        if table.get("type").and_then(Value::as_str) != Some("conv1d") {
            return Ok(());
        }
        table.insert("type".into(), Value::String("conv".into()));
        for key in ["window", "stride", "dilation"] {
            if let Some(Value::Integer(n)) = table.get(key).cloned() {
                table.insert(key.into(), Value::Array(vec![Value::Integer(1), Value::Integer(n)]));
            }
        }
        if let Some(Value::Integer(n)) = table.get("padding").cloned() {
            let pads = [0, 0, n, n].map(Value::Integer).to_vec();
            table.insert("padding".into(), Value::Array(pads));
        }
        Ok(())
    }

    fn push(&mut self, name: Option<String>, layer: Layer, from: Vec<NodeId>) {
        let count = self.counts.entry(layer.kind()).or_default();
        *count += 1;
        let name = name.unwrap_or_else(|| format!("{}{count}", layer.kind()));
        self.layers.push((name.clone(), layer, from));
        self.last = NodeId(self.layers.len());
        self.places.insert(name, self.last);
    }
}

fn read_layer(table: Table) -> std::result::Result<Layer, String> {
    let Some(kind) = table.get("type").and_then(Value::as_str).map(String::from) else {
        return Err("has no `type`".into());
    };
    if !Layer::KINDS.contains(&kind.as_str()) {
        let hint = nearest(&kind, Layer::KINDS.iter().copied()).map_or_else(
            || format!("; there are {}", Layer::KINDS.join(", ")),
            |n| format!("; did you mean `{n}`?"),
        );
        return Err(format!("type `{kind}` is unknown{hint}"));
    }
    Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| format!("{kind}: {}", e.message().replace('\n', " ")))
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
        let mut b = Builder::new("round", Shape::new(9, 9, 3));
        let x = b
            .conv(Conv::new(3, 3).stride(2).padding(Padding::Explicit {
                top: 0,
                bottom: 1,
                left: 2,
                right: 1,
            }))
            .here();
        let y = b.layer(crate::layers::LeakyRelu { slope: 0.3 }).dropout(0.1).here();
        b.add(&[y, x]).concat(&[x, y]).relu6();
        let net = b.build().unwrap();
        assert_eq!(Network::from_toml(&net.to_toml(), &Overrides::default()).unwrap(), net);
    }

    #[test]
    fn mistakes_are_told_in_one_line_with_a_remedy() {
        for (text, words) in [
            ("input = [8, 8, 1]\n[[layer]]\ntype = \"covn\"", "did you mean `conv`"),
            ("input = [8, 8, 1]\n[[layer]]\ntype = \"conv\"\nfilter = 3\nwindow = 3", "filter"),
            ("input = [8, 8, 1]\n[[layer]]\ntype = \"dense\"\nunits = \"classes\"", "--classes"),
            ("input = [8, 8, 1]\n[[layer]]\ntype = \"relu\"\nfrom = \"x\"", "no earlier layer"),
            ("input = [8, 8", "line 1"),
            ("[[layer]]\ntype = \"relu\"", "input"),
            (
                "input = [4, 4, 1]\n[[layer]]\ntype = \"conv\"\nfilters = 1\nwindow = 5\npadding = \"valid\"",
                "does not fit",
            ),
            (
                "input = [8, 8, 1]\n[[layer]]\ntype = \"conv\"\nfilters = 1\nwindow = 3\npadding = \"smae\"",
                "padding `smae`",
            ),
        ] {
            let e = Network::from_toml(text, &Overrides::default()).unwrap_err().to_string();
            assert!(e.contains(words) && !e.contains('\n'), "{e}");
        }
    }

    #[test]
    fn signals_have_layers_of_their_own() {
        let text = "input = [1, 100, 2]\n[[layer]]\ntype = \"conv1d\"\nfilters = 4\nwindow = 7\nstride = 2";
        let net = Network::from_toml(text, &Overrides::default()).unwrap();
        assert_eq!(net.output_shape(), Shape::new(1, 50, 4));
    }
}
