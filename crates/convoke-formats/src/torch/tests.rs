use super::*;
use crate::weights::Weights;
use safetensors::SafeTensors;
use std::path::Path;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn open(bytes: Vec<u8>) -> Result<Weights> {
    Weights::from_bytes(Path::new("w.pth"), bytes)
}

fn error(bytes: Vec<u8>) -> String {
    let e = open(bytes).err().expect("an error");
    assert!(!e.contains('\n') && e.len() < 600, "{e}");
    e
}

#[test]
fn every_type_and_stride_is_read_as_torch_reads_it() {
    let expected = fixture("plain.expected.safetensors");
    let expected = SafeTensors::deserialize(&expected).unwrap();
    for file in ["plain.zip.pth", "plain.legacy.pth"] {
        let w = open(fixture(file)).unwrap();
        assert_eq!(w.iter().count(), expected.len(), "{file}");
        for (name, view) in expected.iter() {
            assert_eq!(w.shape(name), Some(view.shape()), "{file} {name}");
            let want = view.data().chunks_exact(4);
            let want: Vec<f32> =
                want.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            assert_eq!(w.floats(name).unwrap(), want, "{file} {name}");
        }
    }
}

#[test]
fn the_state_dict_is_found_within_a_checkpoint_and_wrappers_go() {
    for file in ["nested.zip.pth", "nested.legacy.pth"] {
        let w = open(fixture(file)).unwrap();
        let names: Vec<&str> = w.iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["fc.bias", "fc.weight"], "{file}");
        assert_eq!(w.floats("fc.weight").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}

/// A file of the old form around an object's pickle.
fn around(object: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\n".to_vec();
    bytes.extend(MAGIC);
    bytes.extend(b".\x80\x02M\xe9\x03.\x80\x02}.");
    bytes.extend(object);
    bytes.extend(b"\x80\x02].");
    bytes
}

#[test]
fn nothing_is_run_and_the_culprit_is_named() {
    let e = error(around(b"\x80\x02cposix\nsystem\nX\x09\0\0\0touch /xx\x85R."));
    assert!(e.contains("`posix.system`") && e.contains("nothing was run"), "{e}");
    let e = error(around(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R."));
    assert!(e.contains("`os.system`"), "{e}");
    let e = error(around(b"\x80\x02ctorchvision.models.resnet\nResNet\n)\x81."));
    assert!(e.contains("ResNet") && e.contains("state_dict"), "{e}");
}

#[test]
fn bombs_are_refused_without_memory() {
    // A long that claims 2 GiB, a text that claims 2^63 bytes, lists that double.
    error(around(b"\x80\x02\x8b\xff\xff\xff\x7f."));
    error(around(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f."));
    let mut doubling = b"\x80\x02]q\x00".to_vec();
    for _ in 0..64 {
        doubling.extend(b"(h\x00h\x00e");
    }
    doubling.push(b'.');
    error(around(&doubling));
    let mut nested = b"\x80\x02".to_vec();
    // Each dictionary holds the one before it twice: 2^40 ways to the innermost.
    nested.extend(b"}q\x00");
    for _ in 0..40 {
        nested.extend(b"}(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00uq\x00");
    }
    nested.push(b'.');
    error(around(&nested));
    error(around(b"\x80\x02}q\x00(X\x01\0\0\0ah\x00u."));
}

#[test]
fn tensors_must_lie_within_their_storage() {
    let good = fixture("plain.legacy.pth");
    assert!(open(good.clone()).is_ok());
    // The pickle's sizes of the first tensor, (2, 3, 2, 2), are `(K\x02K\x03K\x02K\x02t`.
    let at = good.windows(10).position(|w| w == b"(K\x02K\x03K\x02K\x02t").unwrap();
    for (byte, value) in [(2, 200), (4, 4), (6, 255)] {
        let mut bytes = good.clone();
        bytes[at + byte] = value;
        assert!(error(bytes).contains("f32"));
    }
}

/// Every cut and many flips of every small file: an error of one line or a file that can be read
/// whole, within the memory of the file.
#[test]
fn cuts_and_flips_never_panic() {
    for name in
        ["plain.zip.pth", "plain.legacy.pth", "nested.zip.pth", "nested.legacy.pth", "lenet5.pth"]
    {
        let good = fixture(name);
        let cuts = (0..good.len()).step_by((good.len() / 1500).max(1));
        for n in cuts {
            error(good[..n].to_vec());
        }
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        for _ in 0..3000 {
            let mut bytes = good.clone();
            for _ in 0..1 + state % 3 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] ^= 1 << (state >> 29 & 7);
            }
            match open(bytes) {
                Err(e) => assert!(!e.contains('\n') && e.len() < 600, "{e}"),
                Ok(w) => {
                    for (name, shape) in w.iter() {
                        let count: usize = shape.iter().product();
                        assert!(count <= good.len());
                        let _ = w.floats(name);
                    }
                }
            }
        }
    }
}
