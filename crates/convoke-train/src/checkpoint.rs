//! Where a run stands, so that it continues with the same bits: a model file with the optimizer's
//! memory as further numbers and the position as facts.

use crate::error::{Result, TrainError, other};
use convoke_data::{Source, Split};
use convoke_formats::ModelFile;

/// Where a run stands. All but `epoch`, `batch` and the options could be counted anew; they are kept
/// so that reports go on as well.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Position {
    /// Epochs done.
    pub epoch: usize,
    /// Batches of this epoch done.
    pub batch: usize,
    /// Sum of the losses of these batches.
    pub loss: f64,
    /// Samples that were right in them.
    pub correct: usize,
    /// Best share right, and its epoch from 1.
    pub best: Option<(f64, usize)>,
}

/// What must be the same for the bits to be the same.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Terms {
    /// The options as text, without those that change no result.
    pub options: String,
    /// Of the training split's order and labels.
    pub data: String,
}

/// Adds a run's state to its model.
pub(crate) fn write(
    model: &mut ModelFile,
    at: &Position,
    steps: u64,
    terms: &Terms,
    optimizer: &[f32],
) {
    model.task = "checkpoint".into();
    let mut fact = |name: &str, value: String| model.facts.insert(name.into(), value);
    fact("steps", steps.to_string());
    fact("epoch", at.epoch.to_string());
    fact("batch", at.batch.to_string());
    fact("loss_bits", at.loss.to_bits().to_string());
    fact("correct", at.correct.to_string());
    fact("options", terms.options.clone());
    fact("data", terms.data.clone());
    if let Some((best, epoch)) = at.best {
        fact("best", best.to_string());
        fact("best_epoch", epoch.to_string());
    }
    model.extra.insert("optimizer".into(), optimizer.to_vec());
}

/// Reads a run's state: where it stands, steps done, the optimizer's memory. `batches` are those of
/// an epoch.
///
/// # Errors
/// When it is no checkpoint, or one of a run on other terms.
pub(crate) fn read<'m>(
    model: &'m ModelFile,
    terms: &Terms,
    batches: usize,
) -> Result<(Position, u64, &'m [f32])> {
    let fact = |name: &str| model.facts.get(name).map(String::as_str);
    let lacks = |name: &str| {
        TrainError::Other(format!("the checkpoint has no `{name}`; train anew with --model"))
    };
    let number = |name: &str| -> Result<u64> {
        fact(name).and_then(|t| t.parse().ok()).ok_or_else(|| lacks(name))
    };
    let there = fact("options").ok_or_else(|| lacks("options"))?;
    if there != terms.options {
        let mut lines = there.lines().zip(terms.options.lines());
        let (there, here) = lines.find(|(a, b)| a != b).unwrap_or(("other options", "these"));
        return other(format!(
            "the checkpoint was made with `{there}`, not `{here}`; resume with the same options, or train anew with --model"
        ));
    }
    if fact("data").ok_or_else(|| lacks("data"))? != terms.data {
        return other(
            "the training data has changed since the checkpoint; restore it, or train anew with --model",
        );
    }
    let steps = number("steps")?;
    let best = fact("best").and_then(|t| t.parse().ok()).zip(number("best_epoch").ok());
    let at = Position {
        epoch: number("epoch")? as usize,
        batch: number("batch")? as usize,
        loss: f64::from_bits(number("loss_bits")?),
        correct: number("correct")? as usize,
        best: best.map(|(top1, epoch)| (top1, epoch as usize)),
    };
    let counted = at.epoch.checked_mul(batches).and_then(|n| n.checked_add(at.batch));
    if at.batch > batches || counted.map(|n| n as u64) != Some(steps) || !at.loss.is_finite() {
        return other("the checkpoint contradicts itself; train anew with --model");
    }
    let optimizer = model.extra.get("optimizer").map_or(&[][..], Vec::as_slice);
    Ok((at, steps, optimizer))
}

/// Says whether a split is the same in the same order: FNV-1a over labels and file names. Folders may
/// move.
pub(crate) fn fingerprint(split: &Split) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for &b in bytes {
            hash = (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for label in &split.labels {
        eat(&label.to_le_bytes());
    }
    if let Source::Files(files) = &split.source {
        for name in files.iter().filter_map(|f| f.file_name()) {
            eat(name.to_string_lossy().as_bytes());
            eat(&[0]);
        }
    }
    format!("{} samples, {hash:016x}", split.len())
}
