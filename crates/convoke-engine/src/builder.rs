//! Building a network call by call. The builder keeps a cursor, the place that the next layer reads;
//! the first mistake is kept and told by [`Builder::build`].

use crate::layers::*;
use crate::network::{Head, Network, NodeId};
use crate::{Hw, Result, Shape};
use std::collections::HashMap;

/// A network in the making.
///
/// ```
/// use convoke_engine::{Builder, Shape, layers::Conv};
/// let mut b = Builder::new("tiny", Shape::new(28, 28, 1));
/// b.conv(Conv::new(8, 3)).relu().max_pool(2, 2).flatten().dense(10);
/// let net = b.build()?;
/// assert_eq!(net.output_shape(), Shape::vector(10));
/// # Ok::<(), convoke_engine::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    input: Shape,
    layers: Vec<(String, Layer, Vec<NodeId>)>,
    cursor: NodeId,
    heads: Vec<Head>,
    counts: HashMap<&'static str, usize>,
    prefix: String,
}

impl Builder {
    /// Starts at the input.
    pub fn new(name: &str, input: Shape) -> Self {
        Self {
            name: name.into(),
            input,
            layers: Vec::new(),
            cursor: NodeId(0),
            heads: Vec::new(),
            counts: HashMap::new(),
            prefix: String::new(),
        }
    }

    /// The place that the next layer reads.
    pub fn here(&self) -> NodeId {
        self.cursor
    }

    /// Moves the cursor to an earlier place: the start of a branch.
    pub fn at(&mut self, place: NodeId) -> &mut Self {
        self.cursor = place;
        self
    }

    /// Names of the layers to come start with `prefix.` (empty: no prefix).
    pub fn scope(&mut self, prefix: &str) -> &mut Self {
        self.prefix = prefix.into();
        self
    }

    /// Appends a layer of that name on the given places and moves the cursor to it.
    pub fn named(&mut self, name: &str, layer: impl Into<Layer>, inputs: &[NodeId]) -> &mut Self {
        let name =
            if self.prefix.is_empty() { name.into() } else { format!("{}.{name}", self.prefix) };
        self.layers.push((name, layer.into(), inputs.to_vec()));
        self.cursor = NodeId(self.layers.len());
        self
    }

    /// Appends a layer of that name at the cursor.
    pub fn then(&mut self, name: &str, layer: impl Into<Layer>) -> &mut Self {
        let cursor = self.cursor;
        self.named(name, layer, &[cursor])
    }

    /// Makes the cursor a further output that training has: its loss times `weight` is added to the output's.
    pub fn head(&mut self, weight: f32) -> &mut Self {
        self.heads.push(Head { place: self.cursor, weight });
        self
    }

    /// Appends a layer at the cursor, named after its kind and count (`conv1`, `conv2`, …).
    pub fn layer(&mut self, layer: impl Into<Layer>) -> &mut Self {
        let cursor = self.cursor;
        self.join(layer, &[cursor])
    }

    /// Appends a layer on several places, named after its kind and count.
    pub fn join(&mut self, layer: impl Into<Layer>, inputs: &[NodeId]) -> &mut Self {
        let layer = layer.into();
        let count = self.counts.entry(layer.kind()).or_default();
        *count += 1;
        let name = format!("{}{count}", layer.kind());
        self.named(&name, layer, inputs)
    }

    /// Convolution.
    pub fn conv(&mut self, conv: Conv) -> &mut Self {
        self.layer(conv)
    }

    /// Dense layer with bias, Glorot initialisation.
    pub fn dense(&mut self, units: usize) -> &mut Self {
        self.layer(Dense::new(units))
    }

    /// Batch normalisation.
    pub fn batch_norm(&mut self) -> &mut Self {
        self.layer(BatchNorm::default())
    }

    /// ReLU.
    pub fn relu(&mut self) -> &mut Self {
        self.layer(Relu::default())
    }

    /// ReLU6.
    pub fn relu6(&mut self) -> &mut Self {
        self.layer(Relu { max: Some(6.0) })
    }

    /// Max pooling without padding.
    pub fn max_pool(&mut self, window: impl Into<Hw>, stride: impl Into<Hw>) -> &mut Self {
        self.layer(MaxPool::new(window).stride(stride))
    }

    /// Mean pooling without padding.
    pub fn mean_pool(&mut self, window: impl Into<Hw>, stride: impl Into<Hw>) -> &mut Self {
        self.layer(MeanPool::new(window).stride(stride))
    }

    /// Mean over the whole map.
    pub fn global_mean_pool(&mut self) -> &mut Self {
        self.layer(GlobalMeanPool {})
    }

    /// A map as one vector.
    pub fn flatten(&mut self) -> &mut Self {
        self.layer(Flatten {})
    }

    /// Dropout.
    pub fn dropout(&mut self, rate: f32) -> &mut Self {
        self.layer(Dropout { rate })
    }

    /// Sum of the places.
    pub fn add(&mut self, places: &[NodeId]) -> &mut Self {
        self.join(Add {}, places)
    }

    /// The places side by side along the channels.
    pub fn concat(&mut self, places: &[NodeId]) -> &mut Self {
        self.join(Concat {}, places)
    }

    /// The network; the cursor is its output.
    ///
    /// # Errors
    /// The first layer that does not fit, by name, with shapes and rule.
    pub fn build(&self) -> Result<Network> {
        Network::assemble(&self.name, self.input, self.layers.clone(), self.cursor)?
            .with_heads(self.heads.clone())
    }
}
