//! Finding as a person uses it: pictures with boxes in a CSV become a detector that finds in others.

mod common;

use common::convoke;
use convoke_data::{Picture, write_png};
use serde_json::Value;
use tempfile::TempDir;

fn fill(p: &mut Picture, (x, y): (usize, usize), (w, h): (usize, usize), colour: [u8; 3]) {
    for i in 0..w * h {
        let at = ((y + i / w) * p.width + x + i % w) * 3;
        p.data[at..at + 3].copy_from_slice(&colour);
    }
}

/// Crosses in red among bars in red and crosses in blue: class `cross` are the red ones. One box too many
/// is empty, one picture is missing.
fn pages(pictures: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::from("filename,width,height,class,xmin,ymin,xmax,ymax\n");
    for i in 0..pictures {
        let mut p = Picture::filled(200, 160, [0; 3]);
        p.data.iter_mut().enumerate().for_each(|(k, v)| *v = 90 + ((k * 7919 + i * 31) % 40) as u8);
        for cell in 0..20 {
            let at =
                (cell % 5 * 40 + (cell * 7 + i * 5) % 16, cell / 5 * 40 + (cell * 3 + i * 11) % 16);
            let colour = if cell % 3 == 1 { [40, 60, 220] } else { [220, 30, 30] };
            fill(&mut p, (at.0, at.1 + 7), (20, 6), colour);
            if cell % 3 < 2 {
                fill(&mut p, (at.0 + 7, at.1), (6, 20), colour);
            }
            if cell % 3 == 0 {
                let (x, y) = at;
                table += &format!("{i}.png,200,160,cross,{x},{y},{},{}\n", x + 20, y + 20);
            }
        }
        write_png(&folder.path().join(format!("pages/images/{i}.png")), &p).unwrap();
    }
    table += "0.png,200,160,cross,5,5,5,9\nlost.png,200,160,cross,1,1,20,20\n";
    std::fs::write(folder.path().join("pages/boxes.csv"), table).unwrap();
    folder
}

#[test]
fn the_whole_way_from_boxes_to_finds() {
    let folder = pages(8);
    let f = folder.path();
    let train = ["train", "pages", "--epochs", "1", "--batch", "4", "--out", "run"];
    let (code, out, err) = convoke(f, &train);
    assert_eq!(code, 0, "{err}");
    for words in ["CSV of boxes", "choice ", "box without area", "picture is missing", "sees "] {
        assert!(err.contains(words), "{words}: {err}");
    }
    assert!(out.contains("mAP50") && out.contains("next: convoke find run"), "{out}");
    for file in [
        "args.toml",
        "results.csv",
        "results.png",
        "split.csv",
        "tiles.png",
        "found-1.png",
        "precision-recall.png",
        "weights/best.safetensors",
        "weights/last.safetensors",
        "weights/checkpoint.safetensors",
    ] {
        assert!(f.join("run").join(file).is_file(), "{file}");
    }
    let (code, out, err) = convoke(f, &["val", "run", "pages", "--json", "--out", "judged"]);
    assert_eq!(code, 0, "{err}");
    let v: Value = serde_json::from_str(&out).unwrap();
    assert!(v["map50"].as_f64().unwrap() > 0.8 && v["n"] == 8, "{out}");
    assert!(v["map50_95"].is_number() && f.join("judged/precision-recall.png").is_file());
    // Resuming a run that is done judges nothing anew and does no harm.
    assert_eq!(convoke(f, &["train", "--resume", "run"]).0, 0);

    let find = ["find", "run", "pages/images", "--top", "12", "--json", "--out", "found"];
    let (code, out, err) = convoke(f, &find);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("pictures a second"), "{err}");
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[0]["found"]["candidates"][0]["class"], "cross");
    for kind in ["found.png", "heat.png", "candidates.png", "found.json", "crops"] {
        assert!(f.join("found").join(format!("3-{kind}")).exists(), "{kind}");
    }
    let args = ["find", "run", "pages/images/1.png", "--threshold", "1", "--no-pictures"];
    let (_, out, _) = convoke(f, &args);
    assert!(out.contains(": 0 found") && out.contains("below the threshold"), "{out}");
    let (code, _, err) = convoke(f, &["find", "run", "pages/images/1.png", "--class", "bar"]);
    assert!(code == 1 && err.contains("no class `bar`"), "{err}");
}

#[test]
fn data_check_tells_and_draws_what_is_wrong_with_boxes() {
    let folder = pages(2);
    let f = folder.path();
    let (code, out, err) = convoke(f, &["data", "check", "pages", "--out", "wrong"]);
    assert_eq!(code, 0, "{err}");
    for words in ["CSV of boxes: 2 pictures, 14 boxes", "box without area", "20 x 20", "lost.png"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let faults = std::fs::read_to_string(f.join("wrong/faults.json")).unwrap();
    let faults: Value = serde_json::from_str(&faults).unwrap();
    assert_eq!(faults.as_array().unwrap().len(), 2);
    assert!(f.join("wrong/01-0.png").is_file());
}
