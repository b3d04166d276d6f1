//! The command as a person uses it: the whole way on tiny pictures, and what it says when things are
//! wrong: one line, the right exit code, nothing half-written.

mod common;

use common::{NET, convoke, photos};
use convoke_data::{Picture, write_png};
use convoke_formats::ModelFile;
use serde_json::Value;
use std::path::Path;

fn train(folder: &Path, out: &str, more: &[&str]) -> (i32, String, String) {
    let args =
        ["train", "photos", "--model", "net.toml", "--epochs", "4", "--batch", "8", "--out", out];
    convoke(folder, &[&args, more].concat())
}

/// The error is one line and says these words; the exit code is as given.
fn fails(folder: &Path, args: &[&str], code: i32, words: &str) {
    let (got, _, err) = convoke(folder, args);
    assert_eq!(got, code, "{args:?}: {err}");
    let errors: Vec<&str> = err.lines().filter(|l| l.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {err}");
    assert!(errors[0].contains(words), "{args:?}: {err}");
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn the_whole_way_from_pictures_to_predictions() {
    let folder = photos();
    let f = folder.path();
    let (code, out, err) = train(f, "run", &[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("right on") && out.contains("next: convoke predict"), "{out}");
    for file in [
        "args.toml",
        "results.csv",
        "results.png",
        "split.csv",
        "weights/best.safetensors",
        "weights/last.safetensors",
    ] {
        assert!(f.join("run").join(file).is_file(), "{file}");
    }
    let (code, out, err) = convoke(f, &["val", "run", "photos", "--json"]);
    assert_eq!(code, 0, "{err}");
    let v: Value = serde_json::from_str(&out).unwrap();
    assert!(v["top1"].as_f64().unwrap() > 0.9 && v["n"] == 36, "{out}");
    assert!(v["top5"] == 1.0 && v["loss"].is_number());
    let (_, out, _) = convoke(f, &["predict", "run", "photos/green/3.png", "--top", "2", "--json"]);
    let v: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(v["guesses"][0]["class"], "green");
    assert_eq!(v["guesses"].as_array().unwrap().len(), 2);
    // The model file alone is enough.
    std::fs::rename(f.join("run/weights/best.safetensors"), f.join("m.safetensors")).unwrap();
    assert_eq!(convoke(f, &["predict", "m.safetensors", "photos/red/1.png"]).0, 0);
    fails(f, &["train", "photos", "--model", "net.toml", "--out", "run"], 1, "already holds a run");
}

#[test]
fn the_same_seed_gives_the_same_file_for_any_number_of_threads() {
    let folder = photos();
    let f = folder.path();
    for (out, threads) in [("one", "1"), ("two", "2")] {
        assert_eq!(train(f, out, &["--threads", threads]).0, 0);
    }
    let read = |run: &str| std::fs::read(f.join(run).join("weights/last.safetensors")).unwrap();
    assert_eq!(read("one"), read("two"));
    assert_eq!(train(f, "three", &["--seed", "5"]).0, 0);
    assert_ne!(read("one"), read("three"));
}

#[test]
fn a_trained_model_is_tuned_to_other_classes() {
    let folder = photos();
    let f = folder.path();
    assert_eq!(train(f, "first", &[]).0, 0);
    // Two of the classes under other names.
    for (from, to) in [("red", "warm"), ("blue", "cold")] {
        std::fs::create_dir_all(f.join("other")).unwrap();
        std::fs::rename(f.join("photos").join(from), f.join("other").join(to)).unwrap();
    }
    let tune = |out: &str, more: &[&str]| {
        let base = ["train", "other", "--epochs", "4", "--batch", "8", "--out", out];
        convoke(f, &[&base, &["--pretrained", "first"][..], more].concat())
    };
    let (code, out, err) = tune("second", &["--lr", "find"]);
    assert_eq!(code, 0, "{err}");
    for words in ["a new last layer", "the last layer alone for 1 epochs", "lr.png", "rate "] {
        assert!(err.contains(words), "{words}: {err}");
    }
    assert!(out.contains("right on"), "{out}");
    assert!(f.join("second/lr.png").is_file());
    let read = |run: &str| -> (Value, Vec<f32>) {
        // A run folder stands for its best epoch.
        let m = ModelFile::load(&f.join(run).join("weights/best.safetensors")).unwrap();
        (serde_json::to_value(&m.preprocess).unwrap(), m.params)
    };
    assert_eq!(read("first").0, read("second").0, "the preprocessing travels along");
    assert_eq!(tune("third", &["--freeze", "1", "--freeze-norms"]).0, 0);
    let first = read("first").1;
    let filters = 3 * 3 * 3 * 8;
    assert!(read("third").1[..filters] == first[..filters], "frozen filters stay");
    assert!(first[..filters].iter().any(|&v| v != 0.0));
    fails(f, &["train", "other", "--pretrained", "first", "--freeze", "9", "--out", "x"], 1, "9");
    fails(f, &["train", "other", "--pretrained", "nowhere.pth", "--out", "x"], 1, "nowhere.pth");
    fails(f, &["train", "other", "--model", "first", "--out", "x"], 1, "--pretrained");
    fails(f, &["train", "other", "--lr", "fnid"], 2, "find");
    fails(f, &["import", "other/cold/1.png"], 1, "neither safetensors nor");
}

#[test]
fn a_quantized_model_tells_what_integers_cost() {
    let folder = photos();
    let f = folder.path();
    assert_eq!(train(f, "run", &[]).0, 0);
    fails(f, &["predict", "run", "photos/red/0.png", "--precision", "int8"], 1, "convoke quantize");
    fails(f, &["train", "photos", "--model", "net.toml", "--precision", "int8"], 1, "prediction");
    fails(f, &["quantize", "run", "nowhere"], 1, "nowhere");
    for pictures in ["photos", "photos/red"] {
        let args = ["quantize", "run", pictures, "--most", "20", "--out", "small.safetensors"];
        let (code, out, err) = convoke(f, &args);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("ranges of 2 maps"), "{out}");
    }
    let (code, out, err) = convoke(f, &["val", "small.safetensors", "photos"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("int8 costs"), "{out}");
    let (_, out, _) = convoke(f, &["val", "small.safetensors", "photos", "--json"]);
    let figures: Value = serde_json::from_str(&out).unwrap();
    assert!((figures["f32"]["top1"].as_f64().unwrap() - 1.0).abs() < 0.2, "{out}");
    let (_, out, _) = convoke(f, &["val", "small.safetensors", "photos", "--precision", "f32"]);
    assert!(!out.contains("int8"), "{out}");
}

#[test]
fn val_takes_flat_folders_with_lists_names_of_others_and_ten_crops() {
    let folder = photos();
    let f = folder.path();
    assert_eq!(train(f, "run", &[]).0, 0);
    let mut list = String::from("picture,class\n");
    for (i, class) in ["blue", "green", "red"].into_iter().enumerate() {
        for k in 0..4 {
            let name = format!("{class}{k}.png");
            let from = f.join("photos").join(class).join(format!("{k}.png"));
            std::fs::create_dir_all(f.join("flat")).unwrap();
            std::fs::copy(&from, f.join("flat").join(&name)).unwrap();
            // By position for some, by name for others.
            let said = if k % 2 == 0 { i.to_string() } else { class.to_string() };
            list += &format!("{name},{said}\n");
            let wnid = f.join(format!("in/val/n0000000{}/{name}", 9 - i));
            std::fs::create_dir_all(wnid.parent().unwrap()).unwrap();
            std::fs::copy(&from, wnid).unwrap();
        }
    }
    std::fs::write(f.join("truth.csv"), &list).unwrap();
    std::fs::write(f.join("wnids.txt"), "n00000009\nn00000008\nn00000007\n").unwrap();
    let top1 = |args: &[&str]| {
        let (code, out, err) = convoke(f, &[&["val", "run"], args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {err}");
        let v: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(v["n"], 12);
        v["top1"].as_f64().unwrap()
    };
    let flat = top1(&["flat", "--truth", "truth.csv"]);
    assert!(flat > 0.8, "{flat}");
    assert!(top1(&["flat", "--truth", "truth.csv", "--ten-crop", "--batch", "25"]) > 0.8);
    assert_eq!(top1(&["in", "--classes", "wnids.txt"]), flat);
    std::fs::write(f.join("wnids.txt"), "n00000007\nn00000009\nn00000008\n").unwrap();
    assert!(top1(&["in", "--classes", "wnids.txt"]) < 0.2);
    fails(f, &["val", "run", "in"], 1, "--classes");
    std::fs::write(f.join("truth.csv"), list.replace("red1.png,red", "red1.png,rde")).unwrap();
    fails(f, &["val", "run", "flat", "--truth", "truth.csv"], 1, "line 11: `rde`");
}

#[test]
fn broken_pictures_are_named_and_left_out() {
    let folder = photos();
    let f = folder.path();
    std::fs::write(f.join("photos/red/broken.jpg"), b"\xff\xd8\xff not a picture").unwrap();
    std::fs::write(f.join("photos/red/notes.txt"), b"text").unwrap();
    let (code, _, err) = train(f, "run", &[]);
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = convoke(f, &["data", "check", "photos"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("broken.jpg") && err.contains("not fit to train on: 1 error"),
        "{out}{err}"
    );
    fails(f, &["predict", "run", "photos/red/broken.jpg"], 1, "broken.jpg");
}

#[test]
fn what_costs_are_is_told_for_machines_too() {
    let folder = photos();
    let f = folder.path();
    let (_, out, _) = convoke(f, &["models", "--json"]);
    let models: Value = serde_json::from_str(&out).unwrap();
    let resnet = models.as_array().unwrap().iter().find(|m| m["name"] == "resnet18").unwrap();
    assert_eq!(resnet["parameters"], 11_689_512);
    let (_, out, _) = convoke(f, &["plan", "lenet5", "--batch", "64", "--json"]);
    let plan: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(plan["parameters"], 61_706);
    let memory = plan["memory"]["train"]["total"].as_u64().unwrap();
    let args = ["bench", "lenet5", "--batch", "64", "--seconds", "0.2", "--json"];
    let (code, out, err) = convoke(f, &args);
    assert_eq!(code, 0, "{err}");
    let bench: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(bench["plan_memory_bytes"], memory);
    assert!(bench["images_per_second"].as_f64().unwrap() > 0.0);
    assert!(bench["peak_fraction"].as_f64().unwrap() > 0.0);
    let (_, out, _) = convoke(f, &["plan", "net.toml"]);
    assert!(out.contains("conv1") && out.contains("memory at batch 1"), "{out}");
}

#[test]
fn wrong_use_ends_with_two_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    fails(f, &["trian"], 2, "did you mean `train`");
    fails(f, &["train", "x", "--epcohs", "3"], 2, "did you mean `--epochs`");
    fails(f, &["train", "x", "--epochs", "many"], 2, "invalid value 'many'");
    fails(f, &["train", "x", "--epochs", "0"], 2, "0");
    fails(f, &["bench", "lenet5", "--mode", "trian"], 2, "did you mean `train`");
    fails(f, &["val", "x"], 2, "DATA");
    for verb in ["demo", "train", "val", "predict", "find", "plan", "models", "bench"] {
        let (code, out, _) = convoke(f, &[verb, "--help"]);
        assert!(code == 0 && out.contains("Usage"), "{verb}");
    }
}

#[test]
fn what_is_missing_or_damaged_ends_with_one_and_a_remedy() {
    let folder = photos();
    let f = folder.path();
    std::fs::create_dir(f.join("empty")).unwrap();
    std::fs::create_dir_all(f.join("single")).unwrap();
    write_png(&f.join("single/cat/1.png"), &Picture::filled(8, 8, [1, 2, 3])).unwrap();
    fails(f, &["train", "nowhere"], 1, "does not exist");
    fails(f, &["train", "empty"], 1, "put the pictures of each class");
    fails(f, &["train", "single"], 1, "only one class");
    fails(f, &["train", "photos", "--model", "resent18"], 1, "did you mean `resnet18`");
    fails(f, &["train", "photos", "--model", "net.toml", "--batch", "999"], 1, "--batch");
    fails(
        f,
        &["train", "photos", "--model", "net.toml", "--lr", "-1", "--out", "r"],
        1,
        "learning rate",
    );
    fails(
        f,
        &["train", "photos", "--model", "net.toml", "--lr", "1e30", "--out", "n"],
        1,
        "lower --lr",
    );
    fails(f, &["train", "photos", "--model", "net.toml", "--out", "net.toml/x"], 1, "net.toml/x");
    fails(f, &["train", "--resume", "empty"], 1, "no run folder");
    fails(f, &["predict", "lenet5", "x.png"], 1, "has no weights");
    fails(f, &["predict", "nowhere.safetensors", "x.png"], 1, "nowhere.safetensors");
    fails(f, &["find", "empty", "x.png"], 1, "no model file");
    assert_eq!(train(f, "run", &[]).0, 0);
    let best = f.join("run/weights/best.safetensors");
    let whole = std::fs::read(&best).unwrap();
    std::fs::write(&best, &whole[..whole.len() / 2]).unwrap();
    fails(f, &["predict", "run", "photos/red/1.png"], 1, "copy it again");
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    std::fs::write(&best, &altered).unwrap();
    fails(f, &["predict", "run", "photos/red/1.png"], 1, "copy it again");
    std::fs::write(&best, &whole).unwrap();
    fails(f, &["predict", "run", "photos/red/none.png"], 1, "none.png");
    fails(f, &["find", "run/weights/best.safetensors", "photos/red/1.png"], 1, "not to find");
    std::fs::write(f.join("bad.toml"), NET.replace("conv", "covn")).unwrap();
    fails(f, &["plan", "bad.toml"], 1, "did you mean `conv`");
}

#[test]
fn a_picture_of_one_pixel_and_a_very_large_one_are_pictures() {
    let folder = photos();
    let f = folder.path();
    assert_eq!(train(f, "run", &[]).0, 0);
    write_png(&f.join("dot.png"), &Picture::filled(1, 1, [200, 30, 30])).unwrap();
    let wide = Picture::filled(6000, 4000, [30, 200, 30]);
    write_png(&f.join("wide.png"), &wide).unwrap();
    let (code, out, err) = convoke(f, &["predict", "run", "dot.png", "wide.png", "--json"]);
    assert_eq!(code, 0, "{err}");
    let second: Value = serde_json::from_str(out.lines().nth(1).unwrap()).unwrap();
    assert_eq!(second["guesses"][0]["class"], "green");
}

#[test]
fn a_lens_is_slid_over_a_picture_and_sizes_are_told_at_each_step() {
    let folder = photos();
    let f = folder.path();
    std::fs::write(f.join("sobel.txt"), "-1 0 1\n-2 0 2\n-1 0 1\n").unwrap();
    for filter in ["stripes", "edges", "sobel.txt", "patch:2,3,5,4"] {
        let args =
            ["lens", "photos/red/0.png", "--filter", filter, "--window", "4", "--padding", "valid"];
        let more = ["--pool", "max", "--out", "lens"];
        let (code, out, err) = convoke(f, &[&args[..], &more].concat());
        assert_eq!(code, 0, "{filter}: {err}");
        assert!(out.contains("picture      16x14") && out.contains("feature map"), "{out}");
    }
    let (_, out, _) = convoke(
        f,
        &["lens", "photos/red/0.png", "--filter", "sobel.txt", "--padding", "valid", "--json"],
    );
    let v: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&v["map"]["size"][0], &v["map"]["size"][1]), (&12.into(), &14.into()));
    for name in ["lens.png", "filter.png", "map.png", "pooled.png", "lens.json"] {
        assert!(f.join("lens").join(format!("0-{name}")).is_file(), "{name}");
    }
    fails(f, &["lens", "photos/red/0.png", "--filter", "strips"], 1, "did you mean `stripes`");
    fails(f, &["lens", "photos/red/0.png", "--filter", "patch:14,0,5,5"], 1, "leaves the picture");
    fails(f, &["lens", "photos/red/0.png", "--stride", "0"], 2, "stride");
}

#[test]
fn a_run_is_looked_into_and_has_a_report() {
    let folder = photos();
    let f = folder.path();
    let (code, out, err) = train(f, "run", &["--seed", "3"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("report: run/report.html"), "{out}");
    let page = std::fs::read_to_string(f.join("run/report.html")).unwrap();
    for id in [
        "curves",
        "confusion",
        "classes",
        "losses",
        "calibration",
        "batches",
        "filters",
        "network",
        "memory",
        "settings",
    ] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    // Nothing is fetched: every address is within the page or a data URI.
    let addresses = ["src=\"", "href=\""].into_iter().flat_map(|a| page.split(a).skip(1));
    assert!(addresses.filter(|a| !a.starts_with("data:") && !a.starts_with('#')).count() == 0);
    assert!(!page.contains("@import") && !page.contains("url("));
    let v: Value =
        serde_json::from_slice(&std::fs::read(f.join("run/report.json")).unwrap()).unwrap();
    assert_eq!(v["rows"].as_array().unwrap().len(), 4);
    assert_eq!(v["judged"]["plain"]["bins"].as_array().unwrap().len(), 15);
    for name in [
        "confusion.png",
        "calibration.png",
        "top-losses.png",
        "per-class.csv",
        "predictions.csv",
        "network.svg",
    ] {
        assert!(f.join("run/report").join(name).is_file(), "{name}");
    }
    assert!(f.join("run/events.out.tfevents.0.convoke").is_file());
    let (code, out, err) = convoke(f, &["report", "run"]);
    assert_eq!((code, out.trim()), (0, "run/report.html"), "{err}");

    let (code, out, err) =
        convoke(f, &["look", "run", "photos/green/3.png", "--out", "look", "--json"]);
    assert_eq!(code, 0, "{err}");
    let v: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(v["maps"].as_array().unwrap().len(), 6, "input, conv, norm, relu, pool, dense");
    assert_eq!(v["decision"]["sanity"].as_array().unwrap().len(), 5);
    let (sum, network) = (&v["arithmetic"][0]["sum"], &v["arithmetic"][0]["network"]);
    assert!((sum.as_f64().unwrap() - network.as_f64().unwrap()).abs() < 1e-4);
    for name in ["filters.png", "maps.png", "field.png", "cam.png", "arithmetic.txt", "look.json"] {
        assert!(f.join("look").join(name).is_file(), "{name}");
    }
    let (code, out, err) = convoke(f, &["look", "run", "photos", "--filters", "--out", "folder"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("answers most in 36 pictures"), "{out}");
    let (_, out, _) =
        convoke(f, &["look", "run", "photos/green/3.png", "--field", "--object", "40x40"]);
    assert!(out.contains("larger than"), "{out}");
    fails(f, &["look", "run", "--cam"], 1, "needs a picture");
    fails(
        f,
        &["look", "run", "photos/red/0.png", "--maps", "--layer", "convv1"],
        1,
        "did you mean",
    );
    fails(
        f,
        &["look", "run", "photos/red/0.png", "--cam", "--class", "gren"],
        1,
        "did you mean `green`",
    );
}

#[test]
fn tiny_sets_are_judged_by_folds_and_unbalanced_ones_dealt_evenly() {
    let folder = photos();
    let f = folder.path();
    let (code, out, err) = train(f, "runs", &["--folds", "3", "--balance", "--epochs", "1"]);
    // The second --epochs is one too many.
    assert_eq!(code, 2, "{out}{err}");
    let args = [
        "train", "photos", "--model", "net.toml", "--epochs", "2", "--batch", "8", "--out", "runs",
    ];
    let (code, out, err) =
        convoke(f, &[&args[..], &["--folds", "3", "--balance", "--bare"]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("on average over 3 folds"), "{out}");
    assert!(
        f.join("runs/fold-3/results.csv").is_file() && !f.join("runs/fold-3/report.html").exists()
    );
    let (code, _, err) = convoke(f, &["report", "runs/fold-2"]);
    assert_eq!(code, 0, "{err}");
    let settings = |run: &str| std::fs::read_to_string(f.join(run).join("args.toml")).unwrap();
    assert!(settings("runs/fold-1").contains("balanced = true"));
    let weigh = [
        "train",
        "photos",
        "--model",
        "net.toml",
        "--epochs",
        "1",
        "--batch",
        "8",
        "--out",
        "weighed",
        "--balance=weights",
        "--bare",
    ];
    let (code, _, err) = convoke(f, &weigh);
    assert_eq!(code, 0, "{err}");
    assert!(settings("weighed").contains("class_weights = true"));
    assert!(!settings("weighed").contains("balanced"));
}

#[test]
fn data_that_leak_are_not_fit_and_networks_are_drawn() {
    let folder = photos();
    let f = folder.path();
    for (from, to) in [
        ("red/1.png", "train/red/1.png"),
        ("green/1.png", "train/green/1.png"),
        ("red/1.png", "val/red/2.png"),
    ] {
        std::fs::create_dir_all(f.join("set").join(to).parent().unwrap()).unwrap();
        std::fs::copy(f.join("photos").join(from), f.join("set").join(to)).unwrap();
    }
    let (code, out, err) = convoke(f, &["data", "check", "set", "--json", "--out", "check"]);
    assert_eq!(code, 1, "{err}");
    let v: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&v["verdict"], &v["findings"][0]["kind"]), (&"unfit".into(), &"leak".into()));
    assert!(f.join("check/check.png").is_file() && f.join("check/check.json").is_file());
    fails(f, &["data", "check", "set"], 1, "not fit");
    let (code, _, err) = convoke(f, &["plan", "net.toml", "--svg", "net.svg"]);
    assert_eq!(code, 0, "{err}");
    let svg = std::fs::read_to_string(f.join("net.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("12x12x8")
    );
}
