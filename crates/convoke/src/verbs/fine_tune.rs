//! What `convoke train` begins with: a network for the data and, where there are any, weights that have
//! learnt before.

use crate::common::{self, Model, Source};
use crate::fetch;
use crate::verbs::import::{network_for, source_of};
use anyhow::{Result, bail};
use convoke_data::{Dataset, Preprocess};
use convoke_engine::layers::Layer;
use convoke_engine::{Network, Node, Shape};
use convoke_formats::weights::{FitOptions, Fitted, adapt, fit, fit_model};
use convoke_formats::{ModelFile, Weights};
use convoke_train::{FineTune, Trainer, layers};
use std::path::{Path, PathBuf};

/// Weights to begin with, and how they go on learning.
#[derive(clap::Args)]
#[command(next_help_heading = "Fine-tuning")]
pub struct Args {
    /// Begin with these weights: .pth or .safetensors of others, or a model file or run folder of
    /// convoke; their preprocessing comes along, and a last layer for other classes is drawn anew
    #[arg(long, value_name = "FILE")]
    pretrained: Option<PathBuf>,
    /// Freeze the first N layers with weights for good, and let all others learn from the start
    /// [default: only the last layer learns first, then all]
    #[arg(long, value_name = "N")]
    freeze: Option<u32>,
    /// Epochs at the beginning in which only the last layer learns [default: a fifth of them, with
    /// --pretrained and without --freeze]
    #[arg(long, value_name = "N", conflicts_with = "freeze")]
    head_epochs: Option<u32>,
    /// Learning rate of the first layer as a share of the last one's [default: 0.1 with --pretrained]
    #[arg(long, value_name = "X")]
    early_rate: Option<f32>,
    /// Batch norms keep the statistics that they came with
    #[arg(long)]
    freeze_norms: bool,
}

impl Args {
    /// The weights to begin with.
    pub fn file(&self) -> Option<&Path> {
        self.pretrained.as_deref()
    }
}

/// A last layer that is drawn anew begins with a share of its usual weights: what it says at first is
/// wrong anyway, and should not be said loudly.
const NEW: f32 = 0.1;

/// What a run begins with.
pub struct Start {
    /// The network for the data.
    pub network: Network,
    /// How it sees pictures, where it has learnt on some before.
    pub preprocess: Option<Preprocess>,
    /// How it goes on learning.
    pub fine_tune: FineTune,
    weights: Option<Fitted>,
    /// The file that the weights came from.
    pub from: Option<PathBuf>,
}

/// The network for the data: `model` is a zoo name, a network file or a model to go on from.
pub fn start(
    args: &Args,
    model: Option<&str>,
    size: Option<u32>,
    epochs: u32,
    dataset: &Dataset,
) -> Result<Start> {
    let side = size.map(|s| s as usize);
    let mut start = match &args.pretrained {
        Some(file) => pretrained(file, model, side, dataset)?,
        None if dataset.is_signals() => plain(model.unwrap_or("inceptiontime"), side, dataset)?,
        None => plain(model.unwrap_or("resnet18"), side, dataset)?,
    };
    let tuned = args.pretrained.is_some();
    let folded = start.weights.as_ref().is_some_and(|w| w.folded);
    let fifth = (epochs / 5).max(1).min(epochs - 1);
    start.fine_tune = FineTune {
        freeze: args.freeze.unwrap_or(0) as usize,
        head_epochs: match args.head_epochs {
            Some(n) => n as usize,
            None if tuned && args.freeze.is_none() => fifth as usize,
            None => 0,
        },
        early_rate: args.early_rate.unwrap_or(if tuned { 0.1 } else { 1.0 }),
        freeze_norms: args.freeze_norms || folded,
    };
    Ok(start)
}

/// A network without weights, or a model that goes on as it is.
pub fn plain(model: &str, side: Option<usize>, dataset: &Dataset) -> Result<Start> {
    let classes = dataset.classes.len();
    let fine_tune = FineTune::default();
    match common::model(model)? {
        Model::Network(source) => {
            let natural = dataset.size.map(|(h, w)| Shape::new(h, w, dataset.channels));
            let own = source.input().map(|s| Shape { c: dataset.channels, ..s });
            let side = side.map(|s| Shape::new(s, s, dataset.channels));
            // A network file means its size; a zoo network takes the data's where all are equal.
            let wanted = match source {
                Source::Toml(..) => side.or(source.input()).or(natural),
                Source::Zoo(_) => side.or(natural).or(own),
            };
            let wanted = match dataset.is_signals() {
                // A signal's length is the data's, whatever the side of pictures.
                true => natural,
                false => wanted,
            };
            let wrong = |c: &usize| !dataset.is_signals() && !matches!(c, 1 | 3);
            if let Some(c) = wanted.map(|s| s.c).filter(wrong) {
                bail!("the network takes {c} channels; pictures have 1 or 3");
            }
            let network = source.build_to_train(wanted, Some(classes))?;
            Ok(Start { network, preprocess: None, fine_tune, weights: None, from: None })
        }
        Model::File(file, path) => {
            if file.classes != dataset.classes {
                bail!(
                    "{} was trained on other classes; give it as --pretrained, which draws the last layer anew",
                    path.display()
                );
            }
            let network = file.network.clone();
            let preprocess = Some(file.preprocess.clone());
            let weights = Some(fit_model(&network, &file).map_err(anyhow::Error::msg)?);
            Ok(Start { network, preprocess, fine_tune, weights, from: Some(path) })
        }
    }
}

fn pretrained(
    file: &Path,
    model: Option<&str>,
    side: Option<usize>,
    dataset: &Dataset,
) -> Result<Start> {
    let classes = dataset.classes.len();
    let file = &fetch::local(file)?;
    let (network, fitted) = match own(file)? {
        Some(known) => {
            if let Some(name) = model {
                bail!(
                    "{} says itself what network it is; leave out --model {name}",
                    file.display()
                );
            }
            let network = match known.network.output_shape() == Shape::vector(classes) {
                true => known.network.clone(),
                false => known.network.with_classes(classes)?,
            };
            let network = match side {
                Some(s) => network.with_input(Shape { h: s, w: s, ..network.input_shape() })?,
                None => network,
            };
            let mut fitted = fit_model(&network, &known).map_err(anyhow::Error::msg)?;
            if known.classes != dataset.classes && fitted.drawn.is_empty() {
                fitted.drawn = head_ranges(&network);
            }
            if let Some(s) = side {
                let pre = &mut fitted.preprocess;
                pre.short_side = pre.short_side * s / pre.height.max(1);
                (pre.height, pre.width) = (s, s);
            }
            (network, fitted)
        }
        None => {
            let weights = Weights::open(file)?;
            let source = source_of(model, &weights)?;
            let theirs = network_for(&source, &weights, side)?;
            let network = source.build(Some(theirs.input_shape()), Some(classes))?;
            let network = match network.output_shape() == Shape::vector(classes) {
                true => network,
                false => network.with_classes(classes)?,
            };
            let network = adapt(network, &weights)?;
            let mut fitted = fit(&network, &weights, FitOptions { swap_head: true })?;
            if fitted.drawn.is_empty() {
                // As many classes by chance: they are other ones all the same.
                fitted.drawn = head_ranges(&network);
            }
            if let Some(published) = fetch::preprocess_of(file, &fitted.preprocess) {
                fitted.preprocess = published;
            }
            (network, fitted)
        }
    };
    let preprocess = fitted.preprocess.clone();
    Ok(Start {
        network,
        preprocess: Some(preprocess),
        fine_tune: FineTune::default(),
        weights: Some(fitted),
        from: Some(file.into()),
    })
}

/// The file as a model of convoke's own, if it is one.
fn own(file: &Path) -> Result<Option<ModelFile>> {
    if file.is_dir() || file.extension().is_some_and(|e| e == "onnx") {
        return match common::model(&file.to_string_lossy())? {
            Model::File(model, _) => Ok(Some(*model)),
            Model::Network(_) => Ok(None),
        };
    }
    match ModelFile::is_one(file) {
        true => Ok(Some(ModelFile::load(file)?)),
        false => Ok(None),
    }
}

/// Where the last layer's weights lie.
fn head_ranges(network: &Network) -> Vec<std::ops::Range<usize>> {
    let head = convoke_formats::weights::head(network);
    network.params().into_iter().filter(|p| Some(p.node) == head).map(|p| p.range).collect()
}

impl Start {
    /// Puts the weights into a trainer; what was not in the file stays as the trainer drew it.
    pub fn fill(&self, trainer: &mut Trainer) -> Result<()> {
        let Some(w) = &self.weights else { return Ok(()) };
        let mut params = w.params.clone();
        for range in &w.drawn {
            let drawn = &trainer.params()[range.clone()];
            for (p, d) in params[range.clone()].iter_mut().zip(drawn) {
                *p = NEW * d;
            }
        }
        trainer.set_weights(&params, &w.state)?;
        if w.folded {
            trainer.set_fact("norms", "folded");
        }
        Ok(())
    }

    /// Learning rate of fine-tuning as a share of that from scratch. Without batch norm it is small:
    /// SqueezeNet 1.0 learns ants from bees with a twentieth (0.0005 for 32 pictures), and with a fifth
    /// its outputs die.
    pub fn share(&self) -> f32 {
        let normed = |n: &Node| matches!(n.layer, Some(Layer::BatchNorm(_)));
        if self.network.nodes().iter().any(normed) { 0.2 } else { 0.05 }
    }

    /// Whether weights of other classes or elsewhere are tuned to the data.
    pub fn tunes(&self) -> bool {
        self.weights.as_ref().is_some_and(|w| !w.drawn.is_empty())
    }

    /// What is tuned and how, in a line.
    pub fn told(&self) -> Option<String> {
        let (from, weights) = (self.from.as_ref()?, self.weights.as_ref()?);
        let f = &self.fine_tune;
        let mut parts = vec![format!("weights of {}", from.display())];
        if !weights.drawn.is_empty() {
            parts.push("a new last layer".into());
        }
        if f.freeze > 0 {
            parts.push(format!("{} of {} layers frozen", f.freeze, layers(&self.network)));
        }
        if f.head_epochs > 0 {
            parts.push(format!("the last layer alone for {} epochs", f.head_epochs));
        }
        if f.early_rate != 1.0 {
            parts.push(format!("the first layer at {} of the rate", f.early_rate));
        }
        if f.freeze_norms {
            parts.push("norms keep their statistics".into());
        }
        Some(parts.join(", "))
    }
}
