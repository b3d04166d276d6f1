//! `convoke export`.

use super::import::told;
use crate::common::{self, Model, Threads, bytes};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use convoke_data::scene::{SceneOptions, draw_scene};
use convoke_engine::{Network, Plan, PlanOptions, Session, Shape};
use convoke_formats::ModelFile;
use convoke_formats::onnx::{self, ExportOptions, OPSETS, Tensor};
use convoke_formats::weights::{family, save_torch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Write a model for other tools
#[derive(clap::Args)]
pub struct Args {
    /// Run folder, model file, zoo name or network file; the last two get fresh weights
    model: String,
    /// onnx: network, weights, class names and preprocessing; safetensors: weights alone, as PyTorch has
    /// them
    #[arg(long, value_enum)]
    format: Format,
    /// File to write [default: MODEL's name with the format's ending]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Make batch norms part of the convolutions before them
    #[arg(long)]
    fold: bool,
    /// Take pictures as they are, uint8 [batch, height, width, channels]: resizing, cutting and
    /// normalisation go into the graph
    #[arg(long)]
    preprocess: bool,
    /// ONNX operator set
    #[arg(long, value_name = "N", default_value_t = ExportOptions::default().opset, value_parser = clap::value_parser!(i64).range(OPSETS))]
    opset: i64,
    /// Seed of fresh weights
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Onnx,
    Safetensors,
}

pub fn run(args: Args) -> Result<()> {
    let (model, from) = match common::model(&args.model)? {
        Model::File(model, path) => (*model, Some(path)),
        Model::Network(source) => (fresh(source.build(None, None)?, args.seed)?, None),
    };
    let out = args.out.clone().unwrap_or_else(|| default_out(&args, from.as_deref()));
    if out.canonicalize().ok().is_some_and(|o| from.and_then(|f| f.canonicalize().ok()) == Some(o))
    {
        bail!("{} would overwrite the model; give another --out", out.display());
    }
    if args.format == Format::Safetensors {
        if args.fold || args.preprocess {
            bail!("--fold and --preprocess are for --format onnx: safetensors hold weights alone");
        }
        save_torch(&out, &model)?;
        let tensors = model.network.params().len() + model.network.state().len();
        println!(
            "{}: {tensors} tensors, {}, named and laid out as PyTorch has them",
            out.display(),
            size(&out)?
        );
        return Ok(());
    }
    if args.preprocess && model.preprocess.signal.is_some() {
        bail!("--preprocess is for pictures; how signals are prepared is told in the file");
    }
    let options = ExportOptions { opset: args.opset, fold: args.fold, preprocess: args.preprocess };
    onnx::export(&out, &model, &options)?;
    println!(
        "{}: {}, opset {}, {} classes",
        out.display(),
        size(&out)?,
        args.opset,
        model.classes.len()
    );
    if args.preprocess {
        println!("input: image, uint8 [batch, height, width, {}]", model.preprocess.channels);
        println!("in the graph: {}", told(&model.preprocess));
    } else {
        let s = model.network.input_shape();
        println!("input: float [batch, {}, {}, {}]", s.c, s.h, s.w);
        println!("pictures: {}", told(&model.preprocess));
    }
    if !model.ranges().is_empty() {
        println!("written in f32: the ranges for 8-bit integers stay behind");
    }
    read_back(&out, &model, &options, args.threads.count())
}

/// Pictures that a file is compared on.
const PICTURES: usize = 4;
/// More than that, in units of the largest output, is no rounding.
const ROUNDING: f32 = 1e-3;

/// Reads the file as `import` reads it and compares what both networks make of drawn pictures. With the
/// preprocessing in the graph its network alone is compared.
fn read_back(out: &Path, model: &ModelFile, options: &ExportOptions, threads: usize) -> Result<()> {
    let told = || format!("{} is written, but cannot be read back", out.display());
    let file = if options.preprocess {
        let bytes = onnx::to_bytes(model, &ExportOptions { preprocess: false, ..*options });
        onnx::Model::from_bytes(&bytes.map_err(anyhow::Error::msg)?).map_err(anyhow::Error::msg)
    } else {
        onnx::Model::open(out).map_err(Into::into)
    };
    let back =
        file.and_then(|f| f.to_network(None).map_err(anyhow::Error::msg)).with_context(told)?;
    let (s, x) = (model.network.input_shape(), pictures(model)?);
    let want = predicted(&model.network, &model.params, &model.state, &x, threads)?;
    let given = Tensor::floats(&[PICTURES, s.c, s.h, s.w], channels_first(&x, s));
    let given = back.input(&given).map_err(anyhow::Error::msg)?;
    let got = predicted(&back.network, &back.params, &back.state, &given, threads)?;
    let got = back.outputs(&got, PICTURES).map_err(anyhow::Error::msg)?;
    let got = got[0].f32s().map_err(anyhow::Error::msg)?;
    let want = channels_first(&want, model.network.output_shape());
    let largest = want.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
    println!(
        "read back: at most {off:.1e} of the largest output apart, on {PICTURES} drawn pictures"
    );
    if got.len() != want.len() || off.is_nan() || off > ROUNDING {
        bail!("{} is written, but gives other outputs than the model", out.display());
    }
    Ok(())
}

fn predicted(
    network: &Network,
    params: &[f32],
    state: &[f32],
    x: &[f32],
    threads: usize,
) -> Result<Vec<f32>> {
    let mut s = Session::new(Plan::compile(network, &PlanOptions::predict(PICTURES, threads))?)?;
    s.set_params(params)?;
    s.set_state(state)?;
    s.input_mut().copy_from_slice(x);
    Ok(s.predict(PICTURES)?.to_vec())
}

/// Drawn scenes as the model sees them; waves where its input is no picture.
fn pictures(model: &ModelFile) -> Result<Vec<f32>> {
    let (s, pre) = (model.network.input_shape(), &model.preprocess);
    let mut x = vec![0.0; PICTURES * s.len()];
    let picture = s == Shape::new(pre.height, pre.width, 3) && pre.signal.is_none();
    if !picture {
        x.iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 * 0.37).sin());
        return Ok(x);
    }
    for (seed, out) in x.chunks_exact_mut(s.len()).enumerate() {
        let size = SceneOptions { width: 320, height: 240, ..SceneOptions::new(seed as u64) };
        pre.apply(&draw_scene(&size).picture, out)?;
    }
    Ok(x)
}

/// `[n, h, w, c] -> [n, c, h, w]`
fn channels_first(x: &[f32], s: Shape) -> Vec<f32> {
    let place = |i: usize| i % s.pixels() * s.c + i / s.pixels();
    x.chunks_exact(s.len())
        .flat_map(|x| (0..s.len()).map(|i| x[place(i)]).collect::<Vec<_>>())
        .collect()
}

fn size(path: &Path) -> Result<String> {
    Ok(bytes(std::fs::metadata(path)?.len() as usize))
}

/// Beside a model file or in its run folder; in this folder for a network.
fn default_out(args: &Args, from: Option<&Path>) -> PathBuf {
    let ending = match args.format {
        Format::Onnx => "onnx",
        Format::Safetensors => "torch.safetensors",
    };
    let base = from.map_or_else(
        || PathBuf::from(Path::new(&args.model).file_name().unwrap_or_default()),
        PathBuf::from,
    );
    let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = [".safetensors", ".toml"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(&name);
    base.with_file_name(format!("{stem}.{ending}"))
}

/// A network with its first weights.
fn fresh(network: Network, seed: u64) -> Result<ModelFile> {
    let mut session = Session::new(Plan::compile(&network, &PlanOptions::predict(1, 1))?)?;
    session.init(seed);
    let known = family(network.name());
    let count = network.output_shape().c;
    let classes =
        known.class_names(count).unwrap_or_else(|| (0..count).map(|i| i.to_string()).collect());
    Ok(ModelFile {
        classes,
        preprocess: known.preprocess(network.input_shape()),
        task: "classify".into(),
        params: session.params().to_vec(),
        state: session.state().to_vec(),
        facts: BTreeMap::new(),
        extra: BTreeMap::new(),
        network,
    })
}
