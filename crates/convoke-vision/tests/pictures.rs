//! Pictures stay as they were when somebody last looked at them: size, and a small grey copy of each. After a change
//! that is meant, look at the pictures in the folder that `CONVOKE_PICTURES` names, then write the copies anew:
//! `CONVOKE_PICTURES=/tmp/pictures cargo test -p convoke-vision --test pictures`.

mod common;

use convoke_data::check::{CheckOptions, check};
use convoke_data::{Area, Filter, Picture, resize, write_png};
use convoke_vision::diagram::diagram;
use convoke_vision::lens::{Lens, Pooling, Slide, panel, slide};
use convoke_vision::look::{
    Method, explained_picture, field_picture, map_sheet, overview, patch_sheet,
};
use convoke_vision::{check_sheet, filter_sheet};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rows and columns of a small copy.
const SIDE: usize = 20;
/// Grey levels that a copy may differ by: other processors round differently.
const LEVELS: u8 = 6;

fn small(p: &Picture) -> String {
    let copy = resize(p, Area::whole(p), SIDE, SIDE, Filter::Bilinear).unwrap();
    let grey = copy
        .data
        .chunks_exact(3)
        .map(|v| (u32::from(v[0]) + u32::from(v[1]) + u32::from(v[2])) / 3);
    let text: String = grey.map(|v| format!("{v:02x}")).collect();
    format!("{}x{} {text}", p.width, p.height)
}

fn levels(text: &str) -> Vec<u8> {
    let hex = text.split(' ').nth(1).unwrap_or_default();
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

#[test]
fn pictures_look_as_they_did() {
    let all = pictures();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures.txt");
    if let Some(folder) = std::env::var_os("CONVOKE_PICTURES") {
        let mut text = String::new();
        for (name, p) in &all {
            write_png(&PathBuf::from(&folder).join(format!("{name}.png")), p).unwrap();
            text += &format!("{name} {}\n", small(p));
        }
        std::fs::write(file, text).unwrap();
        return;
    }
    let text = std::fs::read_to_string(file).unwrap();
    let kept: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once(' ')).collect();
    assert_eq!(kept.len(), all.len());
    for (name, p) in &all {
        let (was, is) = (kept[name], small(p));
        assert_eq!(was.split(' ').next(), is.split(' ').next(), "{name}: another size");
        let off = levels(was).iter().zip(levels(&is)).map(|(a, b)| a.abs_diff(b)).max();
        assert!(off <= Some(LEVELS), "{name} looks different: by {off:?} levels");
    }
}

/// Drawings are text: they are as they were, letter by letter.
#[test]
fn networks_are_drawn_as_they_were() {
    let (_, inside, ..) = common::open();
    let svg = diagram(inside.network());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diagram.svg");
    if std::env::var_os("CONVOKE_PICTURES").is_some() {
        std::fs::write(file, svg).unwrap();
        return;
    }
    assert!(std::fs::read_to_string(file).unwrap() == svg, "the network is drawn differently");
}

fn pictures() -> Vec<(&'static str, Picture)> {
    let (_, inside, x, target) = common::open();
    let scene = common::scene(5, 120, 90);
    let mut all = Vec::new();
    let lens = Lens::hand_made("edges", 3, 2).unwrap();
    let how =
        Slide { stride: 1, padding: convoke_engine::Padding::Valid, pool: Some((Pooling::Max, 2)) };
    all.push(("lens", panel(&scene, &slide(&scene, &lens, how, 1).unwrap()).unwrap()));
    all.push(("filters", filter_sheet(inside.network(), &inside.model().params).unwrap()));
    let layers = inside.shown_layers();
    let maps = inside.maps(&x, &layers).unwrap();
    let seen = inside.seen(&x);
    let relu = maps.iter().find(|m| m.layer == "relu3").unwrap();
    all.push(("maps", map_sheet(relu, None).unwrap()));
    all.push(("way", overview(&seen, &maps, &inside.model().classes).unwrap()));
    let place = inside.place("relu3").unwrap();
    let report = inside.field(place, std::slice::from_ref(&x), Some((30.0, 30.0))).unwrap();
    all.push(("field", field_picture(&seen, &[report]).unwrap()));
    let explained = inside.explained(&x, &target, &Method::ALL).unwrap();
    all.push(("decision", explained_picture(&seen, &explained).unwrap()));
    let half: Vec<f32> = x.iter().map(|v| 0.5 * v).collect();
    let inputs = [x.clone(), half];
    let found = inside.patches(place, &mut inputs.iter().cloned(), 2).unwrap();
    let picture = |i: usize| Ok(inside.seen(&inputs[i]));
    all.push(("patches", patch_sheet("relu3", &found, 8, &picture).unwrap()));
    all.push(("check", checked()));
    all.push(("check-boxes", checked_boxes()));
    let (inside, x) = common::signal();
    let layers = inside.shown_layers();
    let maps = inside.maps(&x, &layers).unwrap();
    let seen = inside.seen(&x);
    all.push(("signal-way", overview(&seen, &maps, &inside.model().classes).unwrap()));
    let place = inside.last_map().unwrap();
    let report = inside.field(place, std::slice::from_ref(&x), None).unwrap();
    all.push(("signal-field", field_picture(&seen, &[report]).unwrap()));
    let target = inside.target(&x, None).unwrap();
    let explained = inside.explained(&x, &target, &Method::ALL).unwrap();
    all.push(("signal-decision", explained_picture(&seen, &explained).unwrap()));
    all
}

/// Pictures with boxes, two of which are wrong.
fn checked_boxes() -> Picture {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::from("filename,width,height,class,xmin,ymin,xmax,ymax\n");
    for i in 0..12 {
        let p = common::scene(700 + i, 160, 120);
        write_png(&folder.path().join(format!("pages/{i:02}.png")), &p).unwrap();
        table += &format!("{i:02}.png,160,120,disc,{},20,60,50\n", 10 + i);
        table += &format!("{i:02}.png,160,120,ring,{},40,100,80\n", 70 + i);
    }
    table += "05.png,160,120,disc,100,20,100,50\n06.png,160,120,ring,120,20,190,50\n";
    table += "gone.png,160,120,disc,1,2,30,40\n";
    std::fs::write(folder.path().join("boxes.csv"), table).unwrap();
    check_sheet(&check(folder.path(), CheckOptions { quick: false, threads: 1 })).unwrap()
}

/// A data set with something wrong.
fn checked() -> Picture {
    let folder = tempfile::tempdir().unwrap();
    for (split, n) in [("train", 12), ("val", 3)] {
        for (c, class) in ["ant", "bee"].into_iter().enumerate() {
            for i in 0..n {
                let p = common::scene(100 * n + 10 * i + c, 120, 90);
                write_png(&folder.path().join(format!("{split}/{class}/{i:02}.png")), &p).unwrap();
            }
        }
    }
    std::fs::copy(folder.path().join("train/ant/03.png"), folder.path().join("val/ant/x.png"))
        .unwrap();
    std::fs::write(folder.path().join("train/bee/y.png"), "no picture").unwrap();
    check_sheet(&check(folder.path(), CheckOptions { quick: false, threads: 1 })).unwrap()
}
