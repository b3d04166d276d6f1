//! The report of a run: everything that people ask of it, as data ([`RunReport`]), as one self-contained page, as
//! pictures, tables and TensorBoard's event files.

mod charts;
mod events;
mod gather;
mod page;
mod pictures;

pub use events::{Event, encode as encode_events};
pub use gather::gather;

use crate::error::Result;
use convoke_data::check::Report;
use convoke_data::write_file;
use convoke_engine::{MemoryReport, Row};
use convoke_train::{Calibration, ClassFigures, EpochRow, Evaluation};
use serde::Serialize;
use std::path::Path;

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    /// The run folder's name.
    pub name: String,
    /// The network.
    pub network: NetworkFacts,
    /// Settings as `args.toml` holds them: key and value, sections joined by dots.
    pub settings: Vec<(String, String)>,
    /// What the data are, by a quick look.
    pub data: Report,
    /// Epochs.
    pub rows: Vec<EpochRow>,
    /// How the best weights answer on the split to judge by.
    pub judged: Option<Judged>,
    /// The first samples of the first batches, exactly as the network saw them.
    pub batches: Vec<Batch>,
    /// First filters by epoch.
    pub filters: Vec<Filters>,
    /// Memory.
    pub memory: Memory,
}

/// The network in figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkFacts {
    /// Its name.
    pub name: String,
    /// Its input.
    pub input: String,
    /// Trained numbers.
    pub parameters: usize,
    /// Multiply-accumulates of a picture.
    pub macs: u64,
    /// Layers.
    pub layers: Vec<Row>,
    /// Its drawing, SVG.
    #[serde(skip)]
    pub diagram: String,
}

/// Planned and measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, serde::Deserialize)]
pub struct Memory {
    /// The plan of a training step.
    pub train: MemoryReport,
    /// The plan that judges.
    pub predict: MemoryReport,
    /// Bytes of pictures that the loader may keep.
    pub cache: usize,
    /// Largest resident size of the process that trained, where the system tells it.
    pub peak: Option<u64>,
}

/// How the best weights answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// `validation` or `test`.
    pub split: &'static str,
    /// Class names.
    pub classes: Vec<String>,
    /// Shares, loss, confusion.
    pub evaluation: Evaluation,
    /// Precision, recall, F1 of every class.
    pub per_class: Vec<ClassFigures>,
    /// As the model is.
    pub plain: Calibration,
    /// With its logits divided by the temperature that suits them best.
    pub fitted: Calibration,
    /// Every sample in the order of the split.
    pub samples: Vec<Sample>,
    /// Positions in `samples` of the largest losses, the largest first.
    pub top_losses: Vec<usize>,
    /// For each cell of the confusion with samples: actual, predicted, positions in `samples`, the surest first.
    pub cells: Vec<(usize, usize, Vec<usize>)>,
}

/// One judged sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Its file, or its number.
    pub name: String,
    /// The right class.
    pub actual: usize,
    /// The likeliest classes with their probabilities, the likeliest first, at most five.
    pub guesses: Vec<(usize, f64)>,
    /// Probability of the right class.
    pub probability: f64,
    /// Softmax cross-entropy.
    pub loss: f64,
    /// The picture, small: JPEG.
    #[serde(skip)]
    pub thumb: Option<Vec<u8>>,
}

/// Samples of a batch as the network saw them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Batch {
    /// What it is.
    pub title: String,
    /// Class of each.
    pub classes: Vec<String>,
    /// Each: PNG.
    #[serde(skip)]
    pub pictures: Vec<Vec<u8>>,
}

/// First filters after an epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Filters {
    /// From 1.
    pub epoch: usize,
    /// Their sheet, PNG.
    #[serde(skip)]
    pub picture: Vec<u8>,
}

/// Folder in the run folder where the trainer's filters lie, a PNG for each epoch.
pub const FILTERS: &str = "filters";
/// File in the run folder that holds [`Memory`].
pub const MEMORY: &str = "memory.json";

/// Writes the report into a run folder: `report.html`, `report.json`, pictures and tables in `report/`, and an event
/// file for TensorBoard.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, report: &RunReport) -> Result<()> {
    let json = serde_json::to_string(report);
    let json =
        json.map_err(|e| crate::VisionError::Other(format!("the report cannot be told: {e}")))?;
    write_file(&folder.join("report.json"), json.as_bytes())?;
    pictures::write(&folder.join("report"), report)?;
    write_file(&folder.join("events.out.tfevents.0.convoke"), &events::of_run(folder, report))?;
    Ok(write_file(&folder.join("report.html"), page::html(report).as_bytes())?)
}
