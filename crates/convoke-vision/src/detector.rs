//! A detector: a fully convolutional network that tells at every place how likely each class has its
//! centre there, and the box that it would have (CenterNet, Zhou et al. 2019). A feature pyramid (Lin
//! et al. 2017) brings what the coarse maps know to the finest one that answers.

use crate::bounds::Bounds;
use crate::error::{Result, other};
use crate::slide::Grid;
use convoke_engine::layers::{Conv, Layer, Upsample, WeightInit};
use convoke_engine::{BOX_CHANNELS as BOX, Builder, Network, NodeId, Shape};
use convoke_formats::ModelFile;
use std::path::Path;

/// A model that finds things.
#[derive(Debug, Clone, PartialEq)]
pub struct Detector {
    /// The network, its weights, class names and preprocessing. The output has a logit for each class and
    /// four numbers of a box at every place.
    pub model: ModelFile,
    /// Typical width and height of the things as the network sees them, in pixels.
    pub object: (f64, f64),
    /// Sizes at which pictures are searched (an image pyramid): 0.5 finds things twice as large.
    pub scales: Vec<f64>,
    /// Least and largest root of a box's area, in pixels as the network sees it, that it was trained to tell.
    pub sizes: (f64, f64),
    /// Least score of a find.
    pub threshold: f64,
}

impl Detector {
    /// The detector with its facts written into the model, as it is saved.
    pub fn to_model(&self) -> ModelFile {
        let mut model = self.model.clone();
        model.task = "find".into();
        let mut fact = |name: &str, value: String| model.facts.insert(name.into(), value);
        let list = |all: &[f64]| all.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        fact("object", format!("{}x{}", self.object.0, self.object.1));
        fact("scales", list(&self.scales));
        fact("sizes", list(&[self.sizes.0, self.sizes.1]));
        fact("threshold", self.threshold.to_string());
        model
    }

    /// Reads the detector's facts from a model.
    ///
    /// # Errors
    /// When the model was not made for finding, or its facts make no sense.
    pub fn from_model(model: ModelFile) -> Result<Self> {
        if model.task != "find" {
            return other(format!(
                "the model is made to {}, not to find; train one with boxes",
                model.task
            ));
        }
        let numbers = |name: &str, least: f64, most: f64| -> Result<Vec<f64>> {
            let text = model.facts.get(name).map(String::as_str).unwrap_or_default();
            let all: Option<Vec<f64>> = text
                .split([',', 'x'])
                .map(|t| t.parse().ok().filter(|v| (least..=most).contains(v)))
                .collect();
            match all.filter(|a| (1..=64).contains(&a.len())) {
                Some(all) => Ok(all),
                None => {
                    other(format!("the model's {name} `{text:.60}` makes no sense; train it anew"))
                }
            }
        };
        let (object, sizes) = (numbers("object", 1.0, 1e5)?, numbers("sizes", 0.0, 1e6)?);
        let (scales, threshold) = (numbers("scales", 1e-3, 16.0)?, numbers("threshold", 0.0, 1.0)?);
        let (&[w, h], &[least, most], &[threshold]) = (&object[..], &sizes[..], &threshold[..])
        else {
            return other("the model's facts make no sense; train it anew");
        };
        let channels = model.network.output_shape().c;
        if model.classes.is_empty() || model.classes.len() + BOX != channels {
            return other(format!(
                "the model names {} classes but its network gives {channels} numbers per place, not that many and {BOX}",
                model.classes.len()
            ));
        }
        Ok(Detector { model, object: (w, h), scales, sizes: (least, most), threshold })
    }

    /// Reads a detector's file.
    ///
    /// # Errors
    /// When the file is damaged or no detector.
    pub fn open(path: &Path) -> Result<Self> {
        Detector::from_model(ModelFile::load(path)?)
    }
}

/// The box that a place tells: `numbers` are its centre across and down from the place and the logarithms
/// of its sides, in strides.
pub(crate) fn decode(grid: &Grid, (row, column): (usize, usize), numbers: &[f32]) -> Bounds {
    let (x, y) = grid.point(row as f64, column as f64);
    let (sx, sy) = (grid.stride.1 as f64, grid.stride.0 as f64);
    let n = |i: usize| f64::from(numbers[i]).clamp(-1e4, 1e4);
    let side = |i: usize, stride: f64| n(i).clamp(-8.0, 12.0).exp() * stride;
    Bounds::around((x + n(0) * sx, y + n(1) * sy), side(2, sx), side(3, sy))
}

/// The numbers that tell a box at a place.
pub(crate) fn encode(grid: &Grid, (row, column): (usize, usize), b: &Bounds) -> [f32; BOX] {
    let ((px, py), (x, y)) = (grid.point(row as f64, column as f64), b.centre());
    let (sx, sy) = (grid.stride.1 as f64, grid.stride.0 as f64);
    let all = [(x - px) / sx, (y - py) / sy, (b.width / sx).ln(), (b.height / sy).ln()];
    all.map(|v| v as f32)
}

/// How large the network is that is trained where none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmallNetwork {
    /// Filters at strides 2, 4, 8, 16 and, where it is not zero, 32.
    pub filters: [usize; 5],
    /// Filters of the pyramid's maps.
    pub pyramid: usize,
    /// Side of the first window.
    pub first: usize,
}

impl Default for SmallNetwork {
    fn default() -> Self {
        SmallNetwork { filters: [16, 24, 48, 96, 0], pyramid: 48, first: 3 }
    }
}

/// A small detector for tiles of `side` pixels. It answers every 8 pixels.
///
/// | stride | layers |
/// |---|---|
/// | 2 | 3×3, or wider |
/// | 4, 8, 16, (32) | 3×3 that halves, then a residual block of two 3×3 (from 8 on) |
/// | back to 8 | 1×1 laterals, repeated and added; 3×3 |
/// | 8 | 1×1 to classes and boxes |
///
/// # Errors
/// When the tile is too small for the windows.
pub fn small_network(side: usize, classes: usize, size: SmallNetwork) -> Result<Network> {
    let mut b = Builder::new("finder", Shape::new(side, side, 3));
    let normed = |b: &mut Builder, conv: Conv| {
        b.conv(conv.no_bias()).batch_norm();
    };
    let mut levels = Vec::new();
    for (level, &filters) in size.filters.iter().enumerate().filter(|(_, f)| **f > 0) {
        let window = if level == 0 { size.first } else { 3 };
        normed(&mut b, Conv::new(filters, window).stride(2).pad(window / 2));
        b.relu();
        if level >= 2 {
            let from = b.here();
            normed(&mut b, Conv::new(filters, 3).pad(1));
            b.relu();
            normed(&mut b, Conv::new(filters, 3).pad(1));
            let to = b.here();
            b.add(&[to, from]).relu();
            levels.push(b.here());
        }
    }
    head(&mut b, &levels, size.pyramid, classes)
}

/// A detector on a network that has learnt or is to learn to tell pictures apart: its maps at strides 8,
/// 16 and 32 feed the pyramid; what lies behind them (pooling, dense layers) is left off. Parameters of the
/// layers that stay have the names they had.
///
/// # Errors
/// When it has no map at stride 8, or looks at the whole picture on the way.
pub fn on_backbone(
    backbone: &Network,
    side: usize,
    classes: usize,
    pyramid: usize,
) -> Result<Network> {
    let fields = backbone.fields();
    let whole = |id: NodeId| {
        let layer = backbone.node(id).layer.as_ref();
        layer.is_some_and(|l| {
            matches!(l, Layer::GlobalMeanPool(_) | Layer::Dense(_) | Layer::Flatten(_))
        })
    };
    let nodes: Vec<NodeId> = backbone.iter().map(|(id, _)| id).collect();
    let end = nodes.iter().position(|&id| whole(id)).unwrap_or(nodes.len());
    // The last map of each stride before anything sees the whole picture.
    let last = |stride: usize| {
        let fits = |id: &&NodeId| {
            let f = &fields[id.index()];
            (f.h.stride, f.w.stride) == (stride, stride) && id.index() > 0
        };
        nodes[..end].iter().rfind(fits).copied()
    };
    let levels: Vec<NodeId> = [8, 16, 32].into_iter().filter_map(last).collect();
    let Some(deepest) = levels.last().filter(|_| last(8).is_some()) else {
        return other(format!(
            "network `{}` has no map of every 8th pixel to find things on; use another --model",
            backbone.name()
        ));
    };
    let input = Shape { h: side, w: side, ..backbone.input_shape() };
    let mut b = Builder::new(&format!("finder-{}", backbone.name()), input);
    for &id in nodes.iter().filter(|id| id.index() > 0 && *id <= deepest) {
        let node = backbone.node(id);
        if let Some(layer) = &node.layer {
            b.named(&node.name, layer.clone(), &node.inputs);
        }
    }
    b.scope("head");
    head(&mut b, &levels, pyramid, classes)
}

/// The pyramid over maps from fine to coarse, each half as large as the one before, and the answer.
fn head(b: &mut Builder, levels: &[NodeId], pyramid: usize, classes: usize) -> Result<Network> {
    let mut top: Option<NodeId> = None;
    for &level in levels.iter().rev() {
        let lateral = b.at(level).conv(Conv::new(pyramid, 1).no_bias()).batch_norm().here();
        top = Some(match top {
            None => b.relu().here(),
            Some(coarse) => {
                let up = b.join(Upsample::new(2), &[coarse, lateral]).here();
                b.add(&[lateral, up]).relu().here()
            }
        });
    }
    b.conv(Conv::new(pyramid, 3).pad(1).no_bias()).batch_norm().relu();
    b.named("answer", Conv::new(classes + BOX, 1).init(WeightInit::Glorot), &[b.here()]);
    Ok(b.build()?)
}

/// Logit of a place that nothing is at, as a detector first says: with zero, the many empty places
/// would outweigh all else (Lin et al. 2017, focal loss).
const EMPTY: f32 = -4.0;

/// Shrinks the first filters. Batch norm follows, so nothing changes in what the network says; but what
/// is learned outgrows the noise of the first draw, and the filters can be read.
pub(crate) fn quieten(network: &Network, params: &mut [f32]) {
    if let Some(first) = network.params().first() {
        params[first.range.clone()].iter_mut().for_each(|w| *w *= 0.05);
    }
}

/// Sets the first biases of the answer: nothing anywhere, boxes of `object` pixels.
pub(crate) fn prime(network: &Network, params: &mut [f32], object: (f64, f64)) {
    let grid = Grid::of_tile(network);
    let strides = (grid.stride.1 as f64, grid.stride.0 as f64);
    let sides = [0.0, 0.0, (object.0 / strides.0).ln() as f32, (object.1 / strides.1).ln() as f32];
    let all = network.params();
    let Some(bias) =
        all.iter().rev().find(|p| p.node == network.output() && p.spec.shape.len() == 1)
    else {
        return;
    };
    let bias = &mut params[bias.range.clone()];
    let classes = bias.len().saturating_sub(BOX);
    bias[..classes].fill(EMPTY);
    bias[classes..].copy_from_slice(&sides);
}
