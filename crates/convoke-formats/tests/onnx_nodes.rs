//! ONNX's own backend cases give their expected outputs. What is counted:
//!
//! ```sh
//! cargo test --release -p convoke-formats --test onnx_nodes -- --nocapture
//! ```
//!
//! `CONVOKE_ONNX_NODES` may name another folder of such cases.

use convoke_formats::onnx::{Data, Model, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Closer than ONNX's own backend tests ask (1e-3 and 1e-7 to 1e-5).
const RELATIVE: f32 = 1e-4;
const ABSOLUTE: f32 = 1e-5;

/// Cases that are given to the test today; fewer passing is a step back.
const PASSED: usize = 434;

fn folder() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/onnx-nodes");
    let path = std::env::var_os("CONVOKE_ONNX_NODES").map_or(shared, PathBuf::from);
    path.is_dir().then_some(path)
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// The tensors of a data set's files, in order.
fn tensors(set: &Path, kind: &str) -> Result<Vec<Tensor>, String> {
    let mut all = Vec::new();
    for i in 0.. {
        let path = set.join(format!("{kind}_{i}.pb"));
        let Ok(bytes) = std::fs::read(path) else { break };
        all.push(Tensor::from_file(&bytes)?.1);
    }
    Ok(all)
}

fn differs(got: &Tensor, want: &Tensor) -> Option<String> {
    if got.shape != want.shape || got.kind.is_float() != want.kind.is_float() {
        return Some(format!(
            "{:?} {:?}, not {:?} {:?}",
            got.kind, got.shape, want.kind, want.shape
        ));
    }
    let (Data::Float(got), Data::Float(want)) = (&got.data, &want.data) else {
        return (got != want).then(|| "other integers".into());
    };
    let wrong = |&(&g, &w): &(&f32, &f32)| {
        g.is_nan() != w.is_nan()
            || g != w && (g - w).abs() > ABSOLUTE + RELATIVE * w.abs()
            || (g - w).is_nan() && g != w && !w.is_nan()
    };
    let first = got.iter().zip(want).find(wrong);
    first.map(|(g, w)| format!("{g} instead of {w}"))
}

fn case(folder: &Path) -> Outcome {
    let bytes = match std::fs::read(folder.join("model.onnx")) {
        Ok(bytes) => bytes,
        Err(e) => return Outcome::Failed(e.to_string()),
    };
    let model = match Model::from_bytes(&bytes) {
        Ok(model) => model,
        Err(e) => return Outcome::Failed(e),
    };
    let name = folder.file_name().unwrap().to_string_lossy();
    if ["identity_sequence", "identity_opt"].iter().any(|n| name.ends_with(n)) {
        return Outcome::Skipped("its input is no tensor but a sequence or an optional".into());
    }
    let mut sets = 0;
    for i in 0.. {
        let set = folder.join(format!("test_data_set_{i}"));
        if !set.is_dir() {
            break;
        }
        sets += 1;
        let (inputs, want) = match (tensors(&set, "input"), tensors(&set, "output")) {
            (Ok(i), Ok(o)) => (i, o),
            (Err(e), _) | (_, Err(e)) => return Outcome::Failed(e),
        };
        let got = match model.run(&inputs) {
            Ok(got) => got,
            Err(e) => return Outcome::Failed(e),
        };
        if got.len() != want.len() {
            return Outcome::Failed(format!("{} outputs of {}", got.len(), want.len()));
        }
        for (got, want) in got.iter().zip(&want) {
            if let Some(what) = differs(got, want) {
                return Outcome::Failed(what);
            }
        }
    }
    if sets == 0 { Outcome::Failed("has no data".into()) } else { Outcome::Passed }
}

#[test]
fn onnx_backend_cases_give_their_outputs() {
    let Some(folder) = folder() else {
        eprintln!("skipped: onnx-nodes is not there");
        return;
    };
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    cases.sort();
    let (mut passed, mut failed) = (0, Vec::new());
    let mut skipped: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in &cases {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match case(path) {
            Outcome::Passed => passed += 1,
            Outcome::Skipped(why) => skipped.entry(why).or_default().push(name),
            Outcome::Failed(why) => failed.push(format!("{name}: {why}")),
        }
    }
    let count: usize = skipped.values().map(Vec::len).sum();
    println!("{} cases: {passed} passed, {count} skipped, {} failed", cases.len(), failed.len());
    for (why, names) in &skipped {
        println!("skipped: {why}: {}", names.join(", "));
    }
    for line in &failed {
        println!("failed: {line}");
    }
    assert!(failed.is_empty(), "{} failed", failed.len());
    assert!(passed >= PASSED, "{passed} of {PASSED}");
}
