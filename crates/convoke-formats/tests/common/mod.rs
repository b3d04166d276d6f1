//! What tests of graphs share.
#![allow(dead_code)] // each test uses a part

use convoke_formats::onnx::Tensor;
use std::path::{Path, PathBuf};

/// A file of the test data, which is not part of the project.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {name} is not there");
        return None;
    }
    Some(path)
}

/// The tensors of a folder of ONNX's test data, in order.
pub fn tensors(set: &Path, kind: &str) -> Result<Vec<Tensor>, String> {
    let mut all = Vec::new();
    for i in 0.. {
        let Ok(bytes) = std::fs::read(set.join(format!("{kind}_{i}.pb"))) else { break };
        all.push(Tensor::from_file(&bytes)?.1);
    }
    Ok(all)
}

/// A `.npy` file of 32-bit floats.
pub fn npy(path: &Path) -> Tensor {
    let bytes = std::fs::read(path).unwrap();
    let end = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = String::from_utf8_lossy(&bytes[10..end]).into_owned();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"));
    let shape =
        header.split(['(', ')']).nth(1).unwrap().split(',').filter_map(|n| n.trim().parse().ok());
    let values = bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Tensor::floats(&shape.collect::<Vec<_>>(), values.collect())
}

/// Numbers between −1 and 1, the same each time.
pub fn numbers(n: usize) -> Vec<f32> {
    let mut s = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Largest difference in units of the largest number.
pub fn apart(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0f32, |m, (g, w)| {
        let d = if g == w || g.is_nan() && w.is_nan() { 0.0 } else { (g - w).abs() };
        if d.is_nan() { f32::INFINITY } else { m.max(d) }
    }) / largest
}
