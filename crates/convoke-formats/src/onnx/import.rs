//! A graph as a complete model: network, weights, class names, preprocessing.

use super::{Imported, Model, Said};
use crate::ModelFile;
use crate::weights::one_line;
use convoke_data::Preprocess;
use convoke_engine::layers::Layer;
use convoke_engine::{Builder, Network, NodeId, Shape};
use std::collections::BTreeMap;

impl Model {
    /// The graph as a model file: the network of [`Model::to_network`], whose last softmax is left to whoever
    /// reads the logits; class names and preprocessing from the file's metadata, where convoke wrote them.
    /// Without them classes are numbered and pictures become numbers from 0 to 1.
    ///
    /// # Errors
    /// The first node that stands in the way, or metadata that make no sense, in one line.
    pub fn to_model(&self, size: Option<(usize, usize)>) -> Result<ModelFile, String> {
        let Imported { network, params, state, .. } = self.to_network(size)?;
        let network = without_softmax(network)?;
        let shape = network.input_shape();
        let classes = self.classes(&network)?;
        let preprocess = self.preprocess(shape)?;
        let facts = self.metadata.iter().filter_map(|(k, v)| Some((k.strip_prefix("fact.")?, v)));
        let facts: BTreeMap<String, String> =
            facts.map(|(k, v)| (k.to_string(), v.clone())).collect();
        let task = self.metadata.get("task").map_or("classify", |t| &t[..]);
        let task = one_line(task);
        Ok(ModelFile {
            network,
            classes,
            preprocess,
            task,
            params,
            state,
            facts,
            extra: BTreeMap::new(),
        })
    }

    /// Whether the file says how pictures are prepared.
    pub fn knows_pictures(&self) -> bool {
        self.metadata.contains_key("preprocess")
    }

    fn classes(&self, network: &Network) -> Said<Vec<String>> {
        let count = network.output_shape().c;
        let numbered = || (0..count).map(|i| i.to_string()).collect();
        let Some(text) = self.metadata.get("labels") else { return Ok(numbered()) };
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(names) if names.len() == count => Ok(names),
            Ok(names) => Err(format!("its metadata name {} classes of {count}", names.len())),
            Err(_) => Ok(numbered()),
        }
    }

    fn preprocess(&self, s: Shape) -> Said<Preprocess> {
        let pre = match self.metadata.get("preprocess") {
            None => Preprocess::plain(s.h, s.w, s.c),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| one_line(&format!("its metadata's `preprocess`: {e}")))?,
        };
        if !matches!(s.c, 1 | 3) {
            return Err(format!("its input {s} is no picture: it has {} channels", s.c));
        }
        pre.check()?;
        Ok(pre)
    }
}

/// The network without a softmax at its end.
fn without_softmax(network: Network) -> Said<Network> {
    let last = network.node(network.output());
    let (Some(Layer::Softmax(_)), &[before]) = (&last.layer, &last.inputs[..]) else {
        return Ok(network);
    };
    if before == network.input() {
        return Ok(network);
    }
    let mut b = Builder::new(network.name(), network.input_shape());
    let mut ids: Vec<NodeId> = vec![b.here()];
    for node in &network.nodes()[1..] {
        let from: Vec<NodeId> = node.inputs.iter().map(|i| ids[i.index()]).collect();
        if let Some(layer) = &node.layer {
            if node.name == last.name {
                break;
            }
            ids.push(b.named(&node.name, layer.clone(), &from).here());
        }
    }
    b.at(ids[before.index()]).build().map_err(|e| e.to_string())
}
