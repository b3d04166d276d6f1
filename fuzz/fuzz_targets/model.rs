//! Model files of convoke's own.
#![no_main]

use convoke_formats::ModelFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = ModelFile::from_bytes(bytes) {
        assert!(!e.contains('\n') && e.len() < 2000, "{e}");
    }
});
