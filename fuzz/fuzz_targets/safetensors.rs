//! Weights in safetensors: the bytes as they are, and as a header behind its right length.
#![no_main]

use convoke_formats::Weights;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    read(bytes.to_vec());
    let header = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let mut whole = (header as u64).to_le_bytes().to_vec();
    whole.extend_from_slice(bytes);
    read(whole);
});

fn read(bytes: Vec<u8>) {
    let len = bytes.len();
    match Weights::from_bytes(Path::new("file"), bytes) {
        Ok(weights) => {
            let names: Vec<String> = weights.iter().map(|(n, _)| n.to_string()).collect();
            for name in names.iter().take(64) {
                if let Ok(values) = weights.floats(name) {
                    assert!(values.len() <= len, "more numbers than bytes");
                }
            }
        }
        Err(e) => assert!(!e.contains('\n') && e.len() < 2000, "{e}"),
    }
}
