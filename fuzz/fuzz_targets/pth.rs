//! PyTorch's files, zip and legacy. Checksums of archives are made right, or nothing behind them would
//! ever be reached.
#![no_main]

use convoke_formats::Weights;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    read(bytes.to_vec());
    // The pickle alone, behind the first pickles of the legacy form.
    let mut legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    legacy.extend_from_slice(bytes);
    read(legacy);
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
