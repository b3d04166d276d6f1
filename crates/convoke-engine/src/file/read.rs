//! From a table to layers: the sugar of network files, and telling mistakes by line.

use super::Overrides;
use crate::layers::{BatchNorm, Layer, Relu};
use crate::names::hint;
use crate::network::{Head, Network, NodeId};
use crate::{Result, Shape};
use serde::Deserialize;
use std::collections::HashMap;
use toml::de::DeTable;
use toml::{Table, Value};

/// What `activation` may be.
const ACTIVATIONS: [&str; 10] = [
    "relu",
    "relu6",
    "leaky-relu",
    "sigmoid",
    "tanh",
    "softmax",
    "hard-sigmoid",
    "hard-swish",
    "silu",
    "gelu",
];

/// What is wrong, in which layer and at which key.
#[derive(Default)]
pub(super) struct Mistake {
    layer: Option<usize>,
    key: Option<String>,
    what: String,
}

impl Mistake {
    fn at(key: &str, what: impl Into<String>) -> Self {
        Mistake { layer: None, key: Some(key.into()), what: what.into() }
    }

    /// One line: the place as a line of the file where there is one, else as the layer's number.
    pub(super) fn told(&self, text: Option<&str>) -> String {
        let what = one_line(&self.what);
        match (text.and_then(|t| self.line(t)), self.layer) {
            (Some(line), _) => format!("line {line}: {what}"),
            (None, Some(layer)) => format!("layer {}: {what}", layer + 1),
            (None, None) => what,
        }
    }

    /// The file is read once more, with places, only when there is something to tell.
    fn line(&self, text: &str) -> Option<usize> {
        let file = DeTable::parse(text).ok()?;
        let mut table = file.get_ref();
        let mut place = None;
        if let Some(layer) = self.layer {
            let at = table.get("layer")?.get_ref().as_array()?.get(layer)?;
            place = Some(at.span().start);
            table = at.get_ref().as_table()?;
        }
        let key = table.iter().find(|(k, _)| Some(k.get_ref().as_ref()) == self.key.as_deref());
        place = key.map(|(k, _)| k.span().start).or(place);
        Some(line_at(text, place?))
    }
}

impl<S: Into<String>> From<S> for Mistake {
    fn from(what: S) -> Self {
        Mistake { what: what.into(), ..Mistake::default() }
    }
}

pub(super) type Read<T> = std::result::Result<T, Mistake>;

pub(super) fn line_at(text: &str, byte: usize) -> usize {
    text.as_bytes().iter().take(byte).filter(|&&b| b == b'\n').count() + 1
}

/// A message that may quote a hostile file: one line, printable, not endless.
pub(super) fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// A file's contents, not yet joined.
pub(super) struct Parts {
    name: String,
    input: Shape,
    layers: Vec<(String, Layer, Vec<NodeId>)>,
    output: NodeId,
    heads: Vec<Head>,
}

impl Parts {
    pub(super) fn assemble(self) -> Result<Network> {
        Network::assemble(&self.name, self.input, self.layers, self.output)?.with_heads(self.heads)
    }
}

pub(super) fn read(mut file: Table, overrides: &Overrides) -> Read<Parts> {
    let name = take_text(&mut file, "name")?.unwrap_or_else(|| "network".into());
    let output = take_text(&mut file, "output")?;
    let heads: Vec<HeadOf> = match file.remove("heads") {
        None => Vec::new(),
        Some(value) => value.try_into().map_err(|_| Mistake::at("heads", HEADS))?,
    };
    let form = "`input` must be [height, width, channels]";
    let input = match file.remove("input") {
        Some(value) => Some(value.try_into().map_err(|_| Mistake::at("input", form))?),
        None => None,
    };
    let input = overrides.input.or(input);
    let input = input.ok_or("has no `input`; add input = [height, width, channels]")?;
    let layers = match file.remove("layer") {
        Some(Value::Array(layers)) => layers,
        Some(_) => return Err(Mistake::at("layer", "write [[layer]] in double brackets")),
        None => Vec::new(),
    };
    if let Some(key) = file.keys().next() {
        let hint = hint(key, ["name", "input", "layer", "output", "heads"]);
        return Err(Mistake::at(key, format!("key `{key}` is unknown{hint}")));
    }
    if layers.is_empty() {
        return Err("has no layers; add a [[layer]] with a type".into());
    }
    let mut reader = Reader { classes: overrides.classes, ..Reader::default() };
    reader.places.insert("input".into(), NodeId(0));
    for (i, layer) in layers.into_iter().enumerate() {
        reader.layer(layer).map_err(|m| Mistake { layer: Some(i), ..m })?;
    }
    let output = match output {
        Some(name) => reader.place("output", &name)?,
        None => reader.last,
    };
    let head = |h: HeadOf| Ok(Head { place: reader.place("heads", &h.place)?, weight: h.weight });
    let heads = heads.into_iter().map(head).collect::<Read<_>>()?;
    Ok(Parts { name, input, layers: reader.layers, output, heads })
}

const HEADS: &str = "`heads` must be a list such as [{ place = \"aux\", weight = 0.3 }]";

/// A head as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadOf {
    place: String,
    weight: f32,
}

fn take_text(table: &mut Table, key: &str) -> Read<Option<String>> {
    match table.remove(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(_) => Err(Mistake::at(key, format!("`{key}` must be text"))),
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
    fn layer(&mut self, value: Value) -> Read<()> {
        let Value::Table(mut table) = value else { return Err("a layer must be a table".into()) };
        let name = take_text(&mut table, "name")?;
        let from = self.sources(table.remove("from"))?;
        let activation = take_text(&mut table, "activation")?;
        let norm = match table.remove("batch_norm") {
            None => false,
            Some(Value::Boolean(b)) => b,
            Some(_) => {
                return Err(Mistake::at("batch_norm", "`batch_norm` must be true or false"));
            }
        };
        self.sugar(&mut table)?;
        let name = self.push(name, read_layer(table)?, from);
        if norm {
            let at = vec![self.last];
            self.push(None, BatchNorm::default().into(), at);
        }
        if let Some(kind) = activation {
            let at = vec![self.last];
            self.push(None, read_activation(&kind)?, at);
        }
        // The name stands for the layer with all that was added behind it.
        self.places.insert(name, self.last);
        Ok(())
    }

    fn sources(&self, from: Option<Value>) -> Read<Vec<NodeId>> {
        let names = match from {
            None => return Ok(vec![self.last]),
            Some(Value::Array(names)) => names,
            Some(name) => vec![name],
        };
        let place = |v: &Value| match v {
            Value::String(name) => self.place("from", name),
            _ => Err(Mistake::at("from", "`from` must be a name or a list of names")),
        };
        names.iter().map(place).collect()
    }

    fn place(&self, key: &str, name: &str) -> Read<NodeId> {
        self.places.get(name).copied().ok_or_else(|| {
            let hint = hint(name, self.places.keys().map(String::as_str));
            Mistake::at(key, format!("{key} = \"{name}\" is no earlier layer{hint}"))
        })
    }

    /// `"classes"` becomes the number, `conv1d` a `conv` of one row.
    fn sugar(&self, table: &mut Table) -> Read<()> {
        for key in ["units", "filters"] {
            if table.get(key).and_then(Value::as_str) == Some("classes") {
                let unknown = "the number of classes is not known here; give a number or --classes";
                let n = self.classes.ok_or_else(|| Mistake::at(key, unknown))?;
                table.insert(key.into(), Value::Integer(i64::try_from(n).unwrap_or(i64::MAX)));
            }
        }
        if table.get("type").and_then(Value::as_str) != Some("conv1d") {
            return Ok(());
        }
        table.insert("type".into(), Value::String("conv".into()));
        // A stride of 2 along a signal is [1, 2]; padding is [top, bottom, left, right].
        for (key, before) in [("window", &[1][..]), ("stride", &[1]), ("dilation", &[1])] {
            widen(table, key, before, 1);
        }
        widen(table, "padding", &[0, 0], 2);
        Ok(())
    }

    fn push(&mut self, name: Option<String>, layer: Layer, from: Vec<NodeId>) -> String {
        let count = self.counts.entry(layer.kind()).or_default();
        *count += 1;
        let name = name.unwrap_or_else(|| format!("{}{count}", layer.kind()));
        self.layers.push((name.clone(), layer, from));
        self.last = NodeId(self.layers.len());
        self.places.insert(name.clone(), self.last);
        name
    }
}

/// `key = n` becomes `key = [before…, n, …]` with n repeated.
fn widen(table: &mut Table, key: &str, before: &[i64], repeat: usize) {
    if let Some(&Value::Integer(n)) = table.get(key) {
        let all = before.iter().copied().chain(std::iter::repeat_n(n, repeat));
        table.insert(key.into(), Value::Array(all.map(Value::Integer).collect()));
    }
}

fn read_activation(kind: &str) -> Read<Layer> {
    if !ACTIVATIONS.contains(&kind) {
        let what = unknown("activation", kind, &ACTIVATIONS);
        return Err(Mistake::at("activation", what));
    }
    match kind {
        "relu6" => Ok(Relu { max: Some(6.0) }.into()),
        _ => read_layer(Table::from_iter([("type".to_string(), Value::String(kind.into()))])),
    }
}

fn read_layer(table: Table) -> Read<Layer> {
    let Some(kind) = table.get("type").and_then(Value::as_str).map(String::from) else {
        return Err("a layer has no `type`; add one, such as type = \"conv\"".into());
    };
    if !Layer::KINDS.contains(&kind.as_str()) {
        return Err(Mistake::at("type", unknown("type", &kind, Layer::KINDS)));
    }
    if let Some((key, v)) = table.iter().find(|(_, v)| v.as_float().is_some_and(overflows)) {
        return Err(Mistake::at(key, format!("{kind}: `{key}` = {v} must be a finite number")));
    }
    let parse = |table: Table| -> std::result::Result<Layer, String> {
        Value::Table(table).try_into().map_err(|e: toml::de::Error| e.message().to_string())
    };
    let message = match parse(table.clone()) {
        Ok(layer) => return Ok(layer),
        Err(message) => message,
    };
    if let Some((key, known)) = unknown_key(&message) {
        return Err(Mistake::at(key, format!("{kind}: {}", unknown("key", key, &known))));
    }
    if message.starts_with("missing field") {
        return Err(format!("{kind}: {message}").into());
    }
    // serde does not say which key has the wrong value: it is the one without which it says
    // something else. No layer has more keys than a few.
    let blamed = table.keys().take(16).find(|key| {
        let mut without = table.clone();
        without.remove(*key);
        *key != "type" && parse(without).err().as_ref() != Some(&message)
    });
    let what = plain(&message);
    Err(match blamed {
        Some(key) => Mistake::at(key, format!("{kind}: `{key}` = {}: {what}", table[key])),
        None => format!("{kind}: {what}").into(),
    })
}

/// Layers compute in f32, where 1e300 is infinite.
fn overflows(v: f64) -> bool {
    !(v as f32).is_finite()
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let hint = match hint(name, known.iter().copied()) {
        none if none.is_empty() => format!("; there is {}", known.join(", ")),
        hint => hint,
    };
    format!("{what} `{name}` is unknown{hint}")
}

/// The key and the known ones out of serde's "unknown field `a`, expected one of `b`, `c`".
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown field `")?.split('`').step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

/// serde's words in the words of a network file.
fn plain(message: &str) -> String {
    if message.starts_with("data did not match any variant") {
        return "must be a whole number or a list of them, such as 3 or [3, 5]".into();
    }
    message.replace("usize", "a whole number from 0").replace("f32", "a number")
}
