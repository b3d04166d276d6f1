//! `convoke import`.

use crate::common::{self, Model, Source, thousands};
use crate::fetch;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use convoke_data::{Filter, Fit, Norm, Preprocess};
use convoke_engine::{Network, Shape};
use convoke_formats::weights::{FitOptions, Fitted, adapt, compare, family, fit, suggest};
use convoke_formats::{ModelFile, Weights, onnx, reparameterise};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Make a model file of weights from elsewhere
#[derive(clap::Args)]
pub struct Args {
    /// A graph: .onnx. Or weights: .pth, .pt, .th of PyTorch, or .safetensors; read as data, nothing in them is
    /// run. Or a name that `models get` has fetched
    file: PathBuf,
    /// Zoo name or network file (.toml) that the weights are for [default: the zoo's network whose
    /// tensors they are]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Names of the classes, one per line in the order of the outputs [default: known ones, else numbers]
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// The model file to write [default: FILE's name, .convoke.safetensors, in this folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Sums of convolutions of one map, as RepVGG learns with, become one convolution each: it predicts the same,
    /// faster, but does not learn as well any more
    #[arg(long)]
    reparameterise: bool,
    #[command(flatten)]
    pictures: Pictures,
}

/// How pictures are prepared, where it differs from what is known of the network.
#[derive(clap::Args)]
struct Pictures {
    /// Side of the network's input in pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=4096))]
    size: Option<u32>,
    /// Pixels to which the short side is brought before the centre is cut; 0 takes all there is
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=8192))]
    short_side: Option<u32>,
    /// How pictures are resized
    #[arg(long, value_enum)]
    filter: Option<FilterArg>,
    /// Taken off each channel, in units of 0 to 1, such as 0.485,0.456,0.406
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', allow_negative_numbers = true)]
    mean: Option<Vec<f32>>,
    /// What each channel is divided by
    #[arg(long, value_name = "R,G,B", value_delimiter = ',')]
    std: Option<Vec<f32>>,
    /// Blue comes first; --mean and --std are in that order too
    #[arg(long)]
    bgr: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FilterArg {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

pub fn run(args: Args) -> Result<()> {
    if args.file.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
        return graph(args);
    }
    let weights = Weights::open(&fetch::local(&args.file)?)?;
    let source = source_of(args.model.as_deref(), &weights)?;
    let size = args.pictures.size.map(|s| s as usize);
    let mut network = network_for(&source, &weights, size)?;
    let Fitted { mut params, mut state, folded, preprocess, .. } =
        fit(&network, &weights, FitOptions::default())?;
    if args.reparameterise {
        let plain = reparameterise(&network, &params, &state)?;
        if plain.merged == 0 {
            bail!("{} has no sums of convolutions of one map to reparameterise", network.name());
        }
        (network, params, state) = (plain.network, plain.params, plain.state);
    }
    let published = fetch::preprocess_of(weights.path(), &preprocess);
    let preprocess = args.pictures.over(published.unwrap_or(preprocess))?;
    let classes = names(args.classes.as_deref(), &network)?;
    let from = args.file.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let mut facts = BTreeMap::from([("source".to_string(), from)]);
    if folded {
        facts.insert("norms".into(), "folded".into());
    }
    let out = out_path(args.out, &args.file);
    if out.canonicalize().ok().is_some_and(|o| Some(o) == args.file.canonicalize().ok()) {
        bail!("{} would overwrite the weights; give another --out", out.display());
    }
    let (task, extra) = ("classify".to_string(), BTreeMap::new());
    println!(
        "{}: {} on {}, {} parameters, {} classes",
        args.file.display(),
        network.name(),
        network.input_shape(),
        thousands(network.parameters() as u64),
        classes.len()
    );
    println!("pictures: {}", told(&preprocess));
    if folded {
        println!("batch norms were folded into the convolutions; fine-tuning keeps them frozen");
    }
    ModelFile { network, classes, preprocess, task, params, state, facts, extra }.save(&out)?;
    println!("next: convoke predict {} PICTURE", out.display());
    Ok(())
}

fn out_path(out: Option<PathBuf>, file: &Path) -> PathBuf {
    out.unwrap_or_else(|| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        PathBuf::from(format!("{name}.convoke.safetensors"))
    })
}

/// A graph is network and weights at once.
fn graph(args: Args) -> Result<()> {
    let shown = args.file.display();
    if args.model.is_some() {
        bail!("{shown} holds its network; leave --model out");
    }
    let graph = onnx::Model::open(&args.file)?;
    let size = args.pictures.size.map(|s| (s as usize, s as usize));
    let mut model = graph.to_model(size).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?;
    model.preprocess = args.pictures.over(model.preprocess)?;
    if args.classes.is_some() {
        model.classes = names(args.classes.as_deref(), &model.network)?;
    }
    let from = args.file.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    model.facts.insert("source".into(), from);
    let out = out_path(args.out, &args.file);
    println!(
        "{shown}: {} layers on {}, {} parameters, output {}",
        model.network.nodes().len() - 1,
        model.network.input_shape(),
        thousands(model.network.parameters() as u64),
        model.network.output_shape()
    );
    println!("pictures: {}", told(&model.preprocess));
    if !graph.knows_pictures() && args.pictures.mean.is_none() {
        println!(
            "the file does not say how pictures are prepared; see --mean, --std, --short-side, --bgr"
        );
    }
    model.save(&out)?;
    println!("next: convoke predict {} PICTURE", out.display());
    Ok(())
}

/// The network that weights are for: what the user names, or the one of the zoo that they fit.
pub fn source_of(model: Option<&str>, weights: &Weights) -> Result<Source> {
    if let Some(name) = model {
        return match common::model(name)? {
            Model::Network(source) => Ok(source),
            Model::File(..) => {
                bail!("{name} is a model with weights already; give a zoo name or a network file")
            }
        };
    }
    let mut nearest: Option<(f64, Network)> = None;
    for entry in convoke_zoo::MODELS {
        let source = Source::Zoo(entry);
        let Ok(network) = network_for(&source, weights, None) else { continue };
        let m = compare(&network, weights);
        if m.whole {
            return Ok(source);
        }
        let share = m.found as f64 / m.wanted.max(1) as f64;
        if share > 0.5 && nearest.as_ref().is_none_or(|(best, _)| share > *best) {
            nearest = Some((share, network));
        }
    }
    if let Some((_, network)) = nearest {
        let what = "no network of the zoo has just these tensors; the nearest has others";
        fit(&network, weights, FitOptions::default()).context(what)?;
    }
    let mut names = weights.iter().map(|(n, s)| format!("`{n}` {s:?}"));
    let first: Vec<String> = names.by_ref().take(2).collect();
    bail!(
        "{}: fits no network of the zoo; it holds {} tensors such as {}; give --model",
        weights.path().display(),
        first.len() + names.count(),
        first.join(" and ")
    )
}

/// The network with as many classes as the weights have, at the size that was given or that they
/// want.
pub fn network_for(source: &Source, weights: &Weights, size: Option<usize>) -> Result<Network> {
    // A network file may leave the classes open.
    let first = source.build(None, None).or_else(|e| source.build(None, Some(2)).map_err(|_| e))?;
    let told = suggest(&first, weights);
    let shape = first.input_shape();
    let side = size.or(told.side);
    let input = side.map_or(shape, |s| Shape::new(s, s, shape.c));
    let network = source.build(Some(input), told.classes.filter(|&n| n > 0))?;
    Ok(adapt(network, weights)?)
}

fn names(file: Option<&Path>, network: &Network) -> Result<Vec<String>> {
    let count = network.output_shape().c;
    let Some(file) = file else {
        let known = family(network.name()).class_names(count);
        return Ok(known.unwrap_or_else(|| (0..count).map(|i| i.to_string()).collect()));
    };
    let text = common::read_text(file)?;
    let names: Vec<String> = text.lines().map(|l| l.trim().to_string()).collect();
    let names: Vec<String> = names.into_iter().filter(|n| !n.is_empty()).collect();
    if names.len() != count {
        bail!("{} names {} classes; the weights have {count}", file.display(), names.len());
    }
    Ok(apart(names))
}

/// Names that occur more than once get their position behind them: ImageNet's list has two cranes.
fn apart(names: Vec<String>) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for n in &names {
        *counts.entry(n).or_default() += 1;
    }
    let told = |(i, n): (usize, &String)| match counts[&n[..]] {
        1 => n.clone(),
        _ => format!("{n} ({i})"),
    };
    names.iter().enumerate().map(told).collect()
}

impl Pictures {
    fn over(&self, known: Preprocess) -> Result<Preprocess> {
        let mut pre = known;
        if let Some(side) = self.short_side {
            pre.short_side = side as usize;
        }
        if let Some(filter) = self.filter {
            pre.filter = match filter {
                FilterArg::Nearest => Filter::Nearest,
                FilterArg::Bilinear => Filter::Bilinear,
                FilterArg::Bicubic => Filter::Bicubic,
                FilterArg::Lanczos => Filter::Lanczos,
            };
        }
        pre.mean = self.mean.clone().unwrap_or(pre.mean);
        pre.std = self.std.clone().unwrap_or(pre.std);
        pre.bgr |= self.bgr;
        pre.check().map_err(anyhow::Error::msg)?;
        Ok(pre)
    }
}

/// The preprocessing in a line.
pub fn told(pre: &Preprocess) -> String {
    if let Some(s) = pre.signal {
        let norm = match s.norm {
            Norm::Series => "each channel of each to mean 0 and deviation 1".into(),
            Norm::Set => format!("mean {:.4?}, std {:.4?}", pre.mean, pre.std),
            Norm::None => "numbers as they are".to_string(),
        };
        let fit = if s.fit == Fit::Pad { "zeros behind" } else { "stretched" };
        return format!(
            "signals of {} steps ({fit}) and {} channels, {norm}",
            pre.width, pre.channels
        );
    }
    let resized = match pre.short_side {
        0 => format!("the largest centre at {}x{}", pre.height, pre.width),
        s => format!("short side to {s}, centre of {}x{}", pre.height, pre.width),
    };
    let filter = format!("{:?}", pre.filter).to_lowercase();
    let order = if pre.bgr { ", blue first" } else { "" };
    format!("{resized}, {filter}, mean {:.4?}, std {:.4?}{order}", pre.mean, pre.std)
}
