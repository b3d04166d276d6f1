//! What verbs share: flags, the recognition of MODEL, errors of one line.

use anyhow::{Context, Result, bail};
use convoke_engine::{Network, Overrides, Precision, Shape};
use convoke_formats::{ModelFile, onnx};
use convoke_train::RunFolder;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Threads, for every verb that computes.
#[derive(clap::Args, Clone, Copy)]
pub struct Threads {
    /// Threads; they change no result [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Threads {
    /// How many.
    pub fn count(self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.map_or_else(cores, usize::from)
    }
}

/// Precision, for verbs whose time it shortens.
#[derive(clap::Args, Clone, Copy)]
pub struct Arithmetic {
    /// What sums of products are made in: bf16 rounds what is multiplied to 8 bits where the processor is
    /// faster with it, in training what lies between layers too, and leaves weights in f32; int8 predicts with models that `quantize` made; f32-direct makes
    /// every product where f32 takes fewer for 3x3 windows (Winograd)
    /// [default: int8 for such models, else f32]
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum PrecisionArg {
    F32,
    Bf16,
    Int8,
    F32Direct,
}

impl Arithmetic {
    /// As plans take it.
    pub fn precision(self) -> Precision {
        match self.precision {
            None | Some(PrecisionArg::F32) => Precision::F32,
            Some(PrecisionArg::Bf16) => Precision::Bf16,
            Some(PrecisionArg::Int8) => Precision::Int8,
            Some(PrecisionArg::F32Direct) => Precision::F32Direct,
        }
    }

    /// To predict with a model.
    pub fn precision_of(self, model: &ModelFile) -> Precision {
        match self.precision {
            None if !model.ranges().is_empty() => Precision::Int8,
            _ => self.precision(),
        }
    }
}

/// What MODEL turned out to be.
pub enum Model {
    /// A network without weights: a zoo name or a network file.
    Network(Source),
    /// A model with weights.
    File(Box<ModelFile>, PathBuf),
}

/// Where a network without weights comes from; its size and classes are still open.
pub enum Source {
    /// A name of the zoo.
    Zoo(&'static convoke_zoo::Entry),
    /// A network file and its text.
    Toml(PathBuf, String),
}

impl Source {
    /// The network for an input and a number of classes; what is left out is the paper's or file's.
    pub fn build(&self, input: Option<Shape>, classes: Option<usize>) -> Result<Network> {
        match self {
            Source::Zoo(e) => {
                Ok(convoke_zoo::build(e.name, &convoke_zoo::Options { input, classes })?)
            }
            Source::Toml(path, text) => Network::from_toml(text, &Overrides { input, classes })
                .with_context(|| path.display().to_string()),
        }
    }

    /// The same as it is trained: with the auxiliary heads of its paper, where they fit the input.
    pub fn build_to_train(&self, input: Option<Shape>, classes: Option<usize>) -> Result<Network> {
        let with_heads = match self {
            Source::Zoo(e) => {
                convoke_zoo::build_to_train(e.name, &convoke_zoo::Options { input, classes }).ok()
            }
            Source::Toml(..) => None,
        };
        with_heads.map_or_else(|| self.build(input, classes), Ok)
    }

    /// The input that the paper or file names.
    pub fn input(&self) -> Option<Shape> {
        match self {
            Source::Zoo(e) => Some(e.input),
            Source::Toml(_, text) => {
                let table: toml::Table = text.parse().ok()?;
                table.get("input")?.clone().try_into().ok()
            }
        }
    }
}

/// Recognises MODEL: a zoo name, a network file, a weights file or a run folder.
pub fn model(name: &str) -> Result<Model> {
    let path = Path::new(name);
    if path.is_dir() {
        let best = RunFolder::open(path)?.best();
        if !best.is_file() {
            bail!("{name} holds no weights yet; let it train for an epoch");
        }
        return Ok(Model::File(Box::new(ModelFile::load(&best)?), best));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => Ok(Model::File(Box::new(ModelFile::load(path)?), path.into())),
        Some("onnx") => {
            let graph = onnx::Model::open(path)?;
            let model = graph.to_model(None).map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
            Ok(Model::File(Box::new(model), path.into()))
        }
        Some("toml") => {
            let text = read_text(path)?;
            Ok(Model::Network(Source::Toml(path.into(), text)))
        }
        _ if path.is_file() => {
            bail!(
                "{name}: is neither a network file (.toml) nor a model file (.safetensors, .onnx)"
            )
        }
        _ => Ok(Model::Network(Source::Zoo(convoke_zoo::find(name)?))),
    }
}

/// The file of a trained MODEL that is given as a file or a folder: a run's best weights, or the one
/// model in the folder.
pub fn model_path(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if !path.is_dir() {
        return Ok(path.into());
    }
    let best = path.join("weights/best.safetensors");
    if best.is_file() {
        return Ok(best);
    }
    let mut models: Vec<PathBuf> = std::fs::read_dir(path)?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    match (models.pop(), models.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => bail!("{name} holds no model file (.safetensors)"),
        _ => bail!("{name} holds several model files; name one"),
    }
}

/// MODEL with weights, for verbs that need them.
pub fn trained(name: &str) -> Result<ModelFile> {
    match model(name)? {
        Model::File(file, _) => Ok(*file),
        Model::Network(_) => bail!(
            "`{name}` has no weights; give a run folder or a .safetensors file, or train one first"
        ),
    }
}

/// `224x224x3`, `28x28` (three channels) or `1x100x2`.
pub fn parse_shape(text: &str) -> Result<Shape, String> {
    let parts: Vec<usize> = text.split('x').filter_map(|p| p.parse().ok()).collect();
    match (text.split('x').count(), &parts[..]) {
        (3, &[h, w, c]) if h * w * c > 0 && h.max(w).max(c) <= 1 << 16 => Ok(Shape::new(h, w, c)),
        (2, &[h, w]) if h * w > 0 && h.max(w) <= 1 << 16 => Ok(Shape::new(h, w, 3)),
        _ => Err("write height x width x channels, such as 224x224x3".into()),
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(d);
    }
    text
}

/// A number with k, M, G behind it.
pub fn units(n: f64) -> String {
    let (scale, unit) = match n {
        n if n >= 1e9 => (1e9, "G"),
        n if n >= 1e6 => (1e6, "M"),
        n if n >= 1e3 => (1e3, "k"),
        _ => return format!("{n:.0}"),
    };
    format!("{:.2}{unit}", n / scale)
}

/// Bytes in MiB or GiB.
pub fn bytes(n: usize) -> String {
    match n as f64 / f64::from(1 << 20) {
        m if m >= 1024.0 => format!("{:.2} GiB", m / 1024.0),
        m if m >= 10.0 => format!("{m:.0} MiB"),
        m => format!("{m:.2} MiB"),
    }
}

/// Seconds as people say them.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        _ => format!("{}:{:02} h", s / 3600, s / 60 % 60),
    }
}

/// The end of a verb that went over several files: the one file's error, or a line for each that was
/// left out and an error that counts them.
pub fn left_out(failed: Vec<anyhow::Error>, files: usize, what: &str) -> Result<()> {
    match failed.len() {
        0 => Ok(()),
        1 if files == 1 => failed.into_iter().next().map_or(Ok(()), Err),
        n => {
            for e in &failed {
                eprintln!("left out {}", one_line(e));
            }
            bail!("{n} of {files} pictures could not be {what}")
        }
    }
}

/// The text of a file.
pub fn read_text(path: &Path) -> Result<String> {
    Ok(convoke_data::read_text(path)?)
}

fn one_line(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain() {
        // Some errors already tell their cause.
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text += &format!("{colon}{cause}");
        }
    }
    crate::say::tame(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// An error in one line.
pub fn error(e: &anyhow::Error) {
    eprintln!("error: {}", one_line(e));
}

/// Wrong usage: one line and exit code 2; help and version go to standard output.
pub fn usage(e: clap::Error) -> ExitCode {
    use clap::error::{ContextKind, ErrorKind};
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = e.print();
        return ExitCode::from(2);
    }
    let text = e.to_string();
    let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let mut line = first.trim_end_matches(':').to_string();
    if e.kind() == ErrorKind::MissingRequiredArgument {
        let missing = e.get(ContextKind::InvalidArg).map_or(String::new(), ToString::to_string);
        line = format!("{} is missing", missing.replace(['\n', '\r'], " "));
    }
    let suggested =
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(|k| e.get(k));
    if let Some(s) = suggested {
        line += &format!("; did you mean `{s}`?");
    }
    eprintln!("error: {line}; see `convoke help`");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        assert_eq!(parse_shape("224x200x1"), Ok(Shape::new(224, 200, 1)));
        assert_eq!(parse_shape("64x64"), Ok(Shape::new(64, 64, 3)));
        for wrong in ["", "64", "0x3x3", "axbxc", "1x2x3x4", "99999999x1x1"] {
            assert!(parse_shape(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(11_689_512), "11,689,512");
        assert_eq!(units(1.814e9), "1.81G");
        assert_eq!(duration(75.0), "1:15 min");
    }
}
