//! `convoke find` with a model over signals: events in long recordings.

use crate::common::left_out;
use anyhow::{Context, Result};
use convoke_data::Table;
use convoke_engine::PlanOptions;
use convoke_formats::ModelFile;
use convoke_train::Predictor;
use convoke_train::series::{Event, events};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What is looked for, and how.
pub struct Look<'a> {
    pub files: &'a [PathBuf],
    /// Least probability; nine tenths when left out.
    pub threshold: Option<f64>,
    /// These classes alone; all when empty.
    pub classes: &'a [String],
    pub json: bool,
    pub threads: usize,
}

/// Goes through recordings: CSV tables with a heading, a row for each step of time, whose columns of numbers are the
/// model's channels in order.
pub fn run(model: ModelFile, look: &Look) -> Result<()> {
    if let Some(name) = look.classes.iter().find(|c| !model.classes.contains(c)) {
        anyhow::bail!("the model knows no class `{name}`; it knows {}", model.classes.join(", "));
    }
    let (channels, window) = (model.preprocess.channels, model.preprocess.width);
    let mut predictor = Predictor::planned(model, &PlanOptions::predict(64, look.threads))?;
    let mut failed = Vec::new();
    for path in look.files {
        match one(&mut predictor, path, channels, window, look) {
            Ok(found) => told(path, &found, look.json),
            Err(e) => failed.push(e.context(path.display().to_string())),
        }
    }
    left_out(failed, look.files.len(), "searched")
}

fn one(
    p: &mut Predictor,
    path: &Path,
    channels: usize,
    window: usize,
    look: &Look,
) -> Result<Vec<Event>> {
    let table = Table::read(path)?;
    let wrong =
        || format!("has {} columns of numbers; the model looks at {channels}", table.names.len());
    (table.names.len() == channels).then_some(()).with_context(wrong)?;
    // Half a window would step over events that lie between two; an eighth sees each nearly whole.
    let stride = (window / 8).max(1);
    let mut found = events(p, &table.values, channels, stride, look.threshold.unwrap_or(0.9))?;
    found.retain(|e| look.classes.is_empty() || look.classes.contains(&e.class));
    Ok(found)
}

fn told(path: &Path, found: &[Event], json: bool) {
    if json {
        return println!("{}", json!({"recording": path.to_string_lossy(), "events": found}));
    }
    println!("{}: {} events", path.display(), found.len());
    for e in found {
        println!(
            "  rows {:>7} to {:>7}  {:>6.2} %  {}",
            e.start,
            e.end,
            100.0 * e.probability,
            e.class
        );
    }
}
