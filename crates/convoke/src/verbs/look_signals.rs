//! `convoke look` on signals: what made the network decide, as shading under the curves.

use anyhow::{Context, Result};
use convoke_data::{Signals, read_signals, write_file};
use convoke_formats::ModelFile;
use convoke_vision::look::{Inside, Shaded, shaded_curves};
use serde_json::json;
use std::path::Path;

/// Signals that are drawn, at most.
const MOST: usize = 8;

/// Whether a file is one of several signals rather than of one signal's numbers alone.
pub fn is_one(path: &Path, model: &ModelFile) -> bool {
    model.preprocess.signal.is_some() && read_signals(path, model.preprocess.width).is_ok()
}

/// Draws signals from all over a file.
pub fn run(
    model: ModelFile,
    path: &Path,
    out: &Path,
    class: Option<&str>,
    json: bool,
    threads: usize,
) -> Result<()> {
    let pre = model.preprocess.clone();
    let class = match class {
        Some(name) => {
            let at = model.classes.iter().position(|c| c == name);
            Some(at.with_context(|| format!("the model has no class `{name}`"))?)
        }
        None => None,
    };
    let all: Signals = read_signals(path, pre.width)?;
    let inside = Inside::new(model, threads)?;
    let n = all.len().min(MOST);
    let (mut drawn, mut told) = (Vec::new(), Vec::new());
    for i in (0..n).map(|k| k * all.len() / n) {
        let mut x = vec![0.0; pre.sample_len()];
        pre.apply_signal(all.get(i), all.channels(), &mut x)?;
        let target = inside.target(&x, class)?;
        let weight = inside.shade(&x, &target)?;
        let title = format!("series {i}: {} ({:.1} %)", target.name, 100.0 * target.probability);
        told.push(json!({"series": i, "class": target.name, "probability": target.probability, "weight": weight}));
        drawn.push(Shaded { title, channels: pre.channels, values: x, weight });
    }
    write_file(&out.join("signals.svg"), shaded_curves(&drawn).as_bytes())?;
    let object = json!({ "signals": told });
    write_file(&out.join("look.json"), object.to_string().as_bytes())?;
    match json {
        true => println!("{object}"),
        false => {
            drawn.iter().for_each(|d| println!("{}", d.title));
            println!(
                "decision     {}: orange where a signal speaks for its class",
                out.join("signals.svg").display()
            );
        }
    }
    Ok(())
}
