//! Every planted fault is found, and none is found where nothing is wrong.

use convoke_data::check::{CheckOptions, Kind, Report, Verdict, check};
use convoke_data::{Picture, write_png};
use std::path::{Path, PathBuf};

const FULL: CheckOptions = CheckOptions { quick: false, threads: 2 };
const QUICK: CheckOptions = CheckOptions { quick: true, threads: 2 };

/// A picture of coloured discs; every seed gives another.
fn scene(seed: usize, w: usize, h: usize) -> Picture {
    let mut p = Picture::filled(w, h, [90, 110, 130]);
    let mut state = seed as u64 * 977 + 13;
    let mut draw = |n: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for _ in 0..12 {
        let (cx, cy, r) = (draw(100) as i64, draw(100) as i64, 6 + draw(22) as i64);
        let colour = [draw(256) as u8, draw(256) as u8, draw(256) as u8];
        for y in 0..h {
            for x in 0..w {
                let (dx, dy) = ((x * 100 / w) as i64 - cx, (y * 100 / h) as i64 - cy);
                if dx * dx + dy * dy <= r * r {
                    p.data[(y * w + x) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
    }
    p
}

/// Two splits of two classes, nothing wrong.
fn clean() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = 0;
    for (split, n) in [("train", 14), ("val", 4)] {
        for class in ["ant", "bee"] {
            for i in 0..n {
                seed += 1;
                let path = folder.path().join(format!("{split}/{class}/{i:02}.png"));
                write_png(&path, &scene(seed, 120, 90)).unwrap();
            }
        }
    }
    folder
}

fn kinds(r: &Report) -> Vec<Kind> {
    r.by_kind().into_iter().map(|(k, _)| k).collect()
}

#[test]
fn nothing_is_found_in_clean_data() {
    let folder = clean();
    for options in [FULL, QUICK] {
        let r = check(folder.path(), options);
        assert_eq!(r.findings, [], "{options:?}");
        assert_eq!(r.verdict(), Verdict::Clean);
        assert_eq!((r.splits[0].n, &r.splits[1].per_class[..]), (28, &[4, 4][..]));
        assert_eq!((r.sizes.width, r.sizes.height), (120, 90));
    }
}

fn jpeg(p: &Picture) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let rgb = image::RgbImage::from_raw(p.width as u32, p.height as u32, p.data.clone()).unwrap();
    rgb.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// A segment put behind the start of a JPEG.
fn with_segment(jpeg: &[u8], marker: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 2) as u16;
    [&jpeg[..2], &[0xFF, marker], &length.to_be_bytes(), body, &jpeg[2..]].concat()
}

/// EXIF that tells orientation 6.
const EXIF: &[u8] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";

/// A fault, the file that it sits in, and how it is planted: `(kind, file, plant(path))`.
type Plant = (Kind, &'static str, fn(&Path));

fn save(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn dynamic(path: &Path, p: image::DynamicImage) {
    p.save(path).unwrap();
}

fn rgb(seed: usize) -> image::RgbImage {
    let p = scene(seed, 120, 90);
    image::RgbImage::from_raw(120, 90, p.data).unwrap()
}

const PLANTS: &[Plant] = &[
    (Kind::Empty, "train/ant/p.png", |p| save(p, b"")),
    (Kind::NotAPicture, "train/ant/p.jpg", |p| save(p, b"<html>404 not found</html>")),
    (Kind::Broken, "train/ant/p.png", |p| {
        write_png(p, &scene(900, 120, 90)).unwrap();
        let bytes = std::fs::read(p).unwrap();
        save(p, &bytes[..bytes.len() / 2]);
    }),
    (Kind::Broken, "val/bee/p.jpg", |p| {
        let bytes = jpeg(&scene(901, 120, 90));
        save(p, &bytes[..bytes.len() * 2 / 3]);
    }),
    (Kind::Foreign, "train/ant/p.tif", |p| save(p, b"II*\0\x08\0\0\0junk")),
    (Kind::Leak, "val/ant/p.png", |p| {
        std::fs::copy(p.with_file_name("../../train/ant/03.png"), p).unwrap();
    }),
    (Kind::Conflict, "train/bee/p.png", |p| {
        std::fs::copy(p.with_file_name("../ant/05.png"), p).unwrap();
    }),
    (Kind::Duplicate, "train/bee/p.bmp", |p| {
        // The same pixels in another file format.
        let p0 = convoke_data::read_picture(&p.with_file_name("06.png"), 3).unwrap();
        dynamic(p, image::RgbImage::from_raw(120, 90, p0.data).unwrap().into());
    }),
    (Kind::NearDuplicate, "train/bee/p.jpg", |p| {
        let p0 = convoke_data::read_picture(&p.with_file_name("07.png"), 3).unwrap();
        save(p, &jpeg(&p0));
    }),
    (Kind::NearLeak, "val/bee/p.png", |p| {
        let p0 =
            convoke_data::read_picture(&p.with_file_name("../../train/bee/08.png"), 3).unwrap();
        let small = convoke_data::resize(
            &p0,
            convoke_data::Area::whole(&p0),
            96,
            72,
            convoke_data::Filter::Bilinear,
        );
        write_png(p, &small.unwrap()).unwrap();
    }),
    (Kind::Misnamed, "train/ant/p.png", |p| save(p, &jpeg(&scene(902, 120, 90)))),
    (Kind::Misnamed, "train/ant/p.jpg_large", |p| save(p, &jpeg(&scene(903, 120, 90)))),
    (Kind::Loose, "p.png", |p| write_png(p, &scene(904, 120, 90)).unwrap()),
    (Kind::Cmyk, "train/ant/p.jpg", |p| save(p, include_bytes!("fixtures/odd/cmyk.jpg"))),
    (Kind::Cmyk, "train/ant/p.jpg", |p| {
        // Behind a long profile, as those of inks are.
        let part = [&b"ICC_PROFILE\0\x01\x0a"[..], &[7; 60_000]].concat();
        let mut bytes = include_bytes!("fixtures/odd/cmyk.jpg").to_vec();
        for _ in 0..10 {
            bytes = with_segment(&bytes, 0xE2, &part);
        }
        save(p, &bytes);
    }),
    (Kind::OtherColours, "train/ant/p.jpg", |p| {
        let profile = b"ICC_PROFILE\0\x01\x01....desc....Adobe RGB (1998)";
        save(p, &with_segment(&jpeg(&scene(905, 120, 90)), 0xE2, profile));
    }),
    (Kind::Turned, "train/ant/p.jpg", |p| {
        save(p, &with_segment(&jpeg(&scene(906, 120, 90)), 0xE1, EXIF));
    }),
    (Kind::Deep, "train/ant/p.png", |p| {
        dynamic(p, image::DynamicImage::ImageRgb8(rgb(907)).into_rgb16().into());
    }),
    (Kind::Transparent, "train/ant/p.png", |p| {
        dynamic(p, image::DynamicImage::ImageRgb8(rgb(908)).into_rgba8().into());
    }),
    (Kind::Grey, "train/ant/p.png", |p| {
        dynamic(p, image::DynamicImage::ImageRgb8(rgb(909)).into_luma8().into());
    }),
    (Kind::Blank, "train/ant/p.png", |p| {
        write_png(p, &Picture::filled(120, 90, [7, 8, 9])).unwrap()
    }),
    (Kind::Small, "train/ant/p.png", |p| write_png(p, &scene(910, 20, 15)).unwrap()),
    (Kind::Large, "train/ant/p.png", |p| write_png(p, &scene(911, 1000, 900)).unwrap()),
    (Kind::Narrow, "train/ant/p.png", |p| write_png(p, &scene(912, 640, 90)).unwrap()),
    (Kind::Animated, "train/ant/p.gif", |p| {
        let mut file = std::fs::File::create(p).unwrap();
        let mut gif = image::codecs::gif::GifEncoder::new(&mut file);
        for seed in [913, 914] {
            let frame = image::DynamicImage::ImageRgb8(rgb(seed)).into_rgba8();
            gif.encode_frame(image::Frame::new(frame)).unwrap();
        }
    }),
    (Kind::TinyClass, "train/cow/p.png", |p| write_png(p, &scene(915, 120, 90)).unwrap()),
    (Kind::MissingClass, "train/cow/p.png", |p| write_png(p, &scene(916, 120, 90)).unwrap()),
    (Kind::SameName, "train/Bees/p.png", |p| write_png(p, &scene(917, 120, 90)).unwrap()),
    (Kind::Imbalance, "train/cow/p.png", |p| write_png(p, &scene(918, 120, 90)).unwrap()),
    (Kind::Stray, "train/ant/notes.txt", |p| save(p, b"ask Bob")),
    (Kind::Layout, "val/dog/p.png", |p| write_png(p, &scene(919, 120, 90)).unwrap()),
];

#[test]
fn every_planted_fault_is_found() {
    let mut planted: Vec<Kind> = Vec::new();
    for (kind, file, plant) in PLANTS {
        let folder = clean();
        let path: PathBuf = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        plant(&path);
        let r = check(folder.path(), FULL);
        let found: Vec<_> = r.findings.iter().filter(|f| f.kind == *kind).collect();
        assert!(!found.is_empty(), "{kind:?} in {file}: {:?}", r.findings);
        let classes = matches!(
            kind,
            Kind::TinyClass | Kind::MissingClass | Kind::SameName | Kind::Imbalance | Kind::Layout
        );
        let plain = |p: &Path| {
            p.components().filter(|c| c.as_os_str() != "..").count() > 0 && p.ends_with(file)
        };
        assert!(
            classes || found.iter().any(|f| f.files.iter().any(|p| plain(p))),
            "{kind:?}: {found:?}"
        );
        // Nothing else, but what follows from it.
        let follows = [Kind::Stranger, Kind::TinyClass, Kind::MissingClass, Kind::Imbalance];
        let others: Vec<Kind> =
            kinds(&r).into_iter().filter(|k| k != kind && !follows.contains(k)).collect();
        assert!(others.is_empty(), "{kind:?} in {file} also gives {others:?}: {:?}", r.findings);
        planted.push(*kind);
    }
    planted.sort();
    planted.dedup();
    assert!(planted.len() >= 26, "{} kinds", planted.len());
}

/// Twelve pictures with two boxes each in a CSV, nothing wrong; `more` rows are added.
fn boxes(more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::from("filename,width,height,class,xmin,ymin,xmax,ymax\n");
    for i in 0..12 {
        write_png(&folder.path().join(format!("pages/{i:02}.png")), &scene(300 + i, 120, 90))
            .unwrap();
        table += &format!("{i:02}.png,120,90,disc,{},20,60,50\n", 10 + i);
        table += &format!("{i:02}.png,120,90,ring,{},40,100,80\n", 70 + i);
    }
    std::fs::write(folder.path().join("boxes.csv"), table + more).unwrap();
    folder
}

#[test]
fn pictures_with_boxes_are_looked_at_as_well() {
    let r = check(boxes("").path(), FULL);
    assert_eq!((r.findings.as_slice(), r.verdict()), (&[][..], Verdict::Clean));
    assert_eq!(r.boxes.unwrap().classes[1].median, Some((25.0, 40.0)));

    // What is planted, the file, its rows in the table.
    type PlantBox = (Kind, &'static str, fn(&str) -> String, fn(&Path));
    let plants: &[PlantBox] = &[
        (Kind::Empty, "p.png", |_| String::new(), |p| save(p, b"")),
        (Kind::NotAPicture, "p.jpg", |_| String::new(), |p| save(p, b"<html>404</html>")),
        (Kind::Misnamed, "p.png", |_| String::new(), |p| save(p, &jpeg(&scene(902, 120, 90)))),
        (Kind::Foreign, "p.tif", |_| String::new(), |p| save(p, b"II*\0\x08\0\0\0junk")),
        (
            Kind::Cmyk,
            "p.jpg",
            |_| String::new(),
            |p| save(p, include_bytes!("fixtures/odd/cmyk.jpg")),
        ),
        (
            Kind::Turned,
            "p.jpg",
            |_| String::new(),
            |p| {
                save(p, &with_segment(&jpeg(&scene(906, 120, 90)), 0xE1, EXIF));
            },
        ),
        (
            Kind::OtherBoxes,
            "p.png",
            |f| format!("{f},120,90,disc,1,2,30,40\n"),
            |p| {
                std::fs::copy(p.with_file_name("03.png"), p).unwrap();
            },
        ),
        (
            Kind::Duplicate,
            "p.png",
            |_| String::new(),
            |p| {
                std::fs::copy(p.with_file_name("03.png"), p).unwrap();
            },
        ),
        (
            Kind::NearDuplicate,
            "p.jpg",
            |_| String::new(),
            |p| {
                let p0 = convoke_data::read_picture(&p.with_file_name("07.png"), 3).unwrap();
                save(p, &jpeg(&p0));
            },
        ),
        (
            Kind::Broken,
            "p.jpg",
            |_| String::new(),
            |p| {
                let bytes = jpeg(&scene(901, 120, 90));
                save(p, &bytes[..bytes.len() * 2 / 3]);
            },
        ),
        (
            Kind::Blank,
            "p.png",
            |_| String::new(),
            |p| write_png(p, &Picture::filled(120, 90, [7, 8, 9])).unwrap(),
        ),
        (Kind::MissingPicture, "boxes.csv", |_| "gone.png,120,90,disc,1,2,30,40\n".into(), |_| {}),
        (Kind::Box, "05.png", |f| format!("{f},120,90,disc,10,20,10,50\n"), |_| {}),
        (Kind::Box, "05.png", |f| format!("{f},120,90,disc,100,20,190,50\n"), |_| {}),
        (Kind::TinyClass, "", |_| "05.png,120,90,dot,10,20,15,50\n".into(), |_| {}),
    ];
    for (kind, file, rows, plant) in plants {
        let folder = boxes(&rows(file));
        plant(&folder.path().join("pages").join(file));
        let r = check(folder.path(), FULL);
        let found: Vec<_> = r.findings.iter().filter(|f| f.kind == *kind).collect();
        let names = |f: &&convoke_data::check::Finding| f.files.iter().any(|p| p.ends_with(file));
        assert!(
            found.iter().any(|f| names(f) || f.files.is_empty()),
            "{kind:?} in {file}: {:?}",
            r.findings
        );
        let others: Vec<Kind> =
            kinds(&r).into_iter().filter(|k| k != kind && *k != Kind::Imbalance).collect();
        assert!(others.is_empty(), "{kind:?} in {file} also gives {others:?}: {:?}", r.findings);
    }
    // In two parts of a set the same picture is a leak.
    let folder = boxes("");
    let root = folder.path().join("parts");
    for part in ["train", "val"] {
        for i in 0..12 {
            let name = format!("{part}/images/{part}{i}.png");
            write_png(
                &root.join(&name),
                &scene(if i == 5 { 500 } else { 600 + i + 40 * part.len() }, 120, 90),
            )
            .unwrap();
            save(&root.join(format!("{part}/labels/{part}{i}.txt")), b"0 0.5 0.5 0.2 0.3\n");
        }
    }
    save(&root.join("data.yaml"), b"train: train/images\nval: val/images\nnames: [disc]\n");
    let r = check(&root, FULL);
    assert_eq!((kinds(&r), r.verdict()), (vec![Kind::Leak], Verdict::Unfit), "{:?}", r.findings);
    assert_eq!(r.findings[0].told, "in train, val");
}

/// Digits as IDX files hold them: one is in both parts, another nearly so.
#[test]
fn the_same_and_nearly_the_same_are_found_in_memory() {
    let small = |seed| {
        convoke_data::resize(
            &scene(seed, 56, 56),
            convoke_data::Area { left: 0.0, top: 0.0, width: 56.0, height: 56.0 },
            28,
            28,
            convoke_data::Filter::Bilinear,
        )
        .unwrap()
    };
    let split = |from: usize, n: usize| {
        let mut pixels: Vec<u8> = (from..from + n).flat_map(|i| small(i).data).collect();
        if from == 0 {
            pixels.extend(&small(1003).data);
            pixels.extend(
                small(1004).data.iter().enumerate().map(|(i, v)| v.saturating_add((i % 3) as u8)),
            );
        }
        let n = pixels.len() / (28 * 28 * 3);
        convoke_data::Split {
            labels: (0..n as u32).map(|i| i % 2).collect(),
            source: convoke_data::Source::Memory {
                pixels: pixels.into(),
                width: 28,
                height: 28,
                channels: 3,
            },
        }
    };
    let set = convoke_data::Dataset {
        kind: "made",
        classes: vec!["even".into(), "odd".into()],
        train: split(0, 41),
        val: None,
        test: Some(split(1000, 20)),
        channels: 3,
        size: Some((28, 28)),
        ignored: 0,
    };
    let r = convoke_data::check::check_dataset(None, &set, FULL);
    assert_eq!(kinds(&r), [Kind::Leak, Kind::NearLeak], "{:?}", r.findings);
    assert_eq!(r.findings[0].files, [PathBuf::from("train 41"), PathBuf::from("test 3")]);
    assert_eq!(r.findings[1].files, [PathBuf::from("train 42"), PathBuf::from("test 4")]);
}

#[test]
fn a_folder_that_is_no_data_set_has_its_pictures_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..3 {
        write_png(&folder.path().join(format!("{i}.png")), &scene(i, 120, 90)).unwrap();
    }
    save(&folder.path().join("3.png"), b"no");
    let r = check(folder.path(), FULL);
    assert_eq!(kinds(&r), [Kind::Layout, Kind::NotAPicture], "{:?}", r.findings);
}

#[test]
fn the_quick_form_finds_what_headers_and_bytes_tell() {
    let quick = [
        Kind::Empty,
        Kind::NotAPicture,
        Kind::Misnamed,
        Kind::Cmyk,
        Kind::Turned,
        Kind::Leak,
        Kind::Conflict,
    ];
    for (kind, file, plant) in PLANTS.iter().filter(|p| quick.contains(&p.0)) {
        let folder = clean();
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        plant(&path);
        assert!(kinds(&check(folder.path(), QUICK)).contains(kind), "{kind:?} in {file}");
    }
}

#[test]
fn a_lone_gif_among_many_is_a_stranger() {
    let folder = clean();
    for i in 0..60 {
        write_png(&folder.path().join(format!("train/ant/x{i}.png")), &scene(2000 + i, 60, 50))
            .unwrap();
    }
    dynamic(&folder.path().join("train/ant/p.gif"), image::DynamicImage::ImageRgb8(rgb(77)));
    let r = check(folder.path(), FULL);
    assert_eq!(kinds(&r), [Kind::Stranger], "{:?}", r.findings);
}

#[test]
fn what_is_no_data_set_is_a_finding() {
    let r = check(Path::new("/nowhere/at/all"), FULL);
    assert_eq!((kinds(&r), r.verdict()), (vec![Kind::Layout], Verdict::Unfit));
}

/// On real data, the faults that are known of it.
#[test]
fn known_faults_of_real_data_are_found() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let photos = data.join("hymenoptera");
    if !photos.is_dir() {
        eprintln!("skipped: no ../shared/data");
        return;
    }
    let r = check(&photos, FULL);
    let strangers: Vec<_> = r.findings.iter().filter(|f| f.kind == Kind::Stranger).collect();
    assert!(
        strangers.iter().any(|f| f.files[0].extension().is_some_and(|e| e == "gif")),
        "{:?}",
        r.findings
    );
    assert_eq!(r.count(convoke_data::check::Severity::Error), 0, "{:?}", r.findings);
    for clean in ["eurosat-2k", "mnist"] {
        assert_eq!(check(&data.join(clean), FULL).findings, [], "{clean}");
    }
    let r = check(&data.join("waldo"), FULL);
    let told = |k: Kind| -> Vec<&str> {
        r.findings.iter().filter(|f| f.kind == k).map(|f| f.told.as_str()).collect()
    };
    assert_eq!(told(Kind::Cmyk).len(), 1, "{:?}", r.findings);
    assert!(told(Kind::MissingPicture)[0].contains("23.jpg"), "{:?}", r.findings);
    assert!(told(Kind::Box)[0].starts_with("wrong picture size"), "{:?}", r.findings);
    let r = check(&data.join("bccd"), FULL);
    let empty = |f: &&convoke_data::check::Finding| f.told.starts_with("box without area");
    assert_eq!(r.findings.iter().filter(empty).count(), 2, "{:?}", r.findings);
    // All that the suite says are broken, and none of the others.
    let r = check(&data.join("pngsuite"), FULL);
    let broken: Vec<_> = r
        .findings
        .iter()
        .filter(|f| f.kind == Kind::Broken || f.kind == Kind::NotAPicture)
        .collect();
    let names = |f: &&convoke_data::check::Finding| {
        f.files[0].file_name().is_some_and(|n| n.to_string_lossy().starts_with('x'))
    };
    assert!(broken.iter().all(names), "{broken:?}");
}
