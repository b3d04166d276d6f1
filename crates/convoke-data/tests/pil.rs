//! Pictures are seen as PIL and torchvision see them: JPEGs to the bit, resizing within one grey level,
//! centres at the same pixel. What they make of the pictures was written by `fixtures/make.py`.

use convoke_data::{Area, Filter, Picture, Preprocess, read_picture, resize};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn fixtures(ending: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<_> = all.filter(|p| p.to_string_lossy().ends_with(ending)).collect();
    all.sort();
    all
}

const FILTERS: [(&str, Filter); 2] = [("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)];

/// The largest difference of two pixels.
fn apart(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// What a network with `short_side` and the square of `side` sees, as grey levels.
fn seen(p: &Picture, short_side: usize, side: usize, filter: Filter) -> Vec<u8> {
    let pre = Preprocess { short_side, filter, ..Preprocess::plain(side, side, 3) };
    let mut out = vec![0.0; pre.sample_len()];
    pre.apply(p, &mut out).unwrap();
    out.into_iter().map(|v| (v * 255.0).round() as u8).collect()
}

#[test]
fn jpegs_are_decoded_and_turned_to_the_bit() {
    let jpegs = fixtures(".jpg");
    assert_eq!(jpegs.len(), 11);
    for path in jpegs {
        let want = read_picture(&fixture(&format!("{}.png", path.display())), 3).unwrap();
        assert_eq!(read_picture(&path, 3).unwrap(), want, "{}", path.display());
    }
}

#[test]
fn resizing_is_within_one_grey_level() {
    for (name, sizes) in [
        ("wide", [(24, 24), (50, 33), (71, 60), (9, 61)]),
        ("tall", [(20, 40), (50, 95), (24, 60), (9, 61)]),
    ] {
        let p = read_picture(&fixture(&format!("{name}.png")), 3).unwrap();
        for (f, filter) in FILTERS {
            for (w, h) in sizes {
                let want = read_picture(&fixture(&format!("{name}.{f}.{w}x{h}.png")), 3).unwrap();
                let got = resize(&p, Area::whole(&p), w, h, filter).unwrap();
                assert!(apart(&got.data, &want.data) <= 1, "{name} {f} {w}x{h}");
            }
        }
    }
}

#[test]
fn the_centre_is_torchvisions() {
    for name in ["wide", "tall"] {
        let p = read_picture(&fixture(&format!("{name}.png")), 3).unwrap();
        for (f, filter) in FILTERS {
            let want = read_picture(&fixture(&format!("{name}.{f}.27of22.png")), 3).unwrap();
            assert!(apart(&seen(&p, 27, 22, filter), &want.data) <= 1, "{name} {f}");
        }
    }
}

#[test]
fn ten_crops_are_torchvisions() {
    for name in ["wide", "tall"] {
        let p = read_picture(&fixture(&format!("{name}.png")), 3).unwrap();
        let want = read_picture(&fixture(&format!("{name}.ten.png")), 3).unwrap();
        let pre = Preprocess { short_side: 27, ..Preprocess::plain(22, 22, 3) };
        let mut out = vec![0.0; 10 * pre.sample_len()];
        pre.ten(&p, &mut out).unwrap();
        let got: Vec<u8> = out.into_iter().map(|v| (v * 255.0).round() as u8).collect();
        assert!(apart(&got, &want.data) <= 1, "{name}");
    }
}

#[test]
fn photos_are_seen_as_torchvision_sees_them() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: the test data is not there");
        return;
    }
    let text = std::fs::read_to_string(fixture("photos.txt")).unwrap();
    let (mut photos, mut sights) = (0, Vec::new());
    for line in text.lines() {
        if let Some(photo) = line.strip_prefix("photo ") {
            let parts: Vec<&str> = photo.splitn(4, ' ').collect();
            let p = read_picture(&data.join(parts[3]), 3).unwrap();
            assert_eq!([p.width, p.height].map(|n| n.to_string()), parts[1..3], "{photo}");
            let mut crc = flate2::Crc::new();
            crc.update(&p.data);
            assert_eq!(format!("{:08x}", crc.sum()), parts[0], "{photo}");
            sights = FILTERS.map(|(f, filter)| (f, seen(&p, 256, 224, filter))).to_vec();
            photos += 1;
            continue;
        }
        let parts: Vec<&str> = line.split(' ').collect();
        let numbers: Vec<usize> = parts[1..].iter().map(|n| n.parse().unwrap()).collect();
        let (_, sight) = sights.iter().find(|s| s.0 == parts[0]).unwrap();
        let at = (numbers[1] * 224 + numbers[0]) * 3;
        for (got, want) in sight[at..at + 3].iter().zip(&numbers[2..]) {
            assert!(usize::from(*got).abs_diff(*want) <= 1, "photo {photos}: {line}, got {got}");
        }
    }
    assert!(photos >= 10);
}

/// Decoders for hostile files: whatever the bytes, an answer of one line and no memory beyond what
/// the picture's size asks for.
#[test]
fn altered_jpegs_are_pictures_or_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.jpg");
    let mut seed = 1u64;
    let mut draw = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let mut errors = 0;
    for jpeg in ["full.jpg", "progressive.jpg", "turned6.jpg", "grey.jpg"] {
        let good = std::fs::read(fixture(jpeg)).unwrap();
        for _ in 0..400 {
            let mut bytes = good.clone();
            for _ in 0..=draw(3) {
                // The first half of the flips in the headers.
                let at = if draw(2) == 0 { draw(700) } else { draw(bytes.len()) };
                bytes[at] ^= 1 << draw(8);
            }
            std::fs::write(&path, &bytes).unwrap();
            match read_picture(&path, 3) {
                Ok(p) => assert_eq!(p.data.len(), p.width * p.height * 3),
                Err(e) => {
                    let e = e.to_string();
                    assert!(!e.contains('\n') && e.contains("p.jpg"), "{e}");
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > 100, "{errors}");
}
