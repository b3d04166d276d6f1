//! `tune`, `compare`, signals and forecasts as a person uses them, on tiny data.

mod common;

use common::{command, convoke};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// IDX files of three classes: a bright row at one of three heights, with noise.
fn pictures() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, n) in [("train", 120u32), ("t10k", 45)] {
        let (mut pixels, mut labels) = (vec![0, 0, 8, 3], vec![0, 0, 8, 1]);
        [n, 12, 12].iter().for_each(|v| pixels.extend(v.to_be_bytes()));
        labels.extend(n.to_be_bytes());
        for i in 0..n {
            let class = i % 3;
            labels.push(class as u8);
            for k in 0..144u32 {
                let bright = k / 12 == 2 + 3 * class;
                pixels.push((if bright { 180 } else { 30 }) + ((k * 37 + i * 101) % 60) as u8);
            }
        }
        let write = |what: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(format!("{name}-{what}-ubyte")), bytes).unwrap();
        };
        write("images-idx3", &pixels);
        write("labels-idx1", &labels);
    }
    folder
}

/// `.ts` files of two classes: slow and fast waves of unequal lengths.
fn signals() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (part, n) in [("TRAIN", 24), ("TEST", 12)] {
        let mut text = String::from("@univariate true\n@classLabel true slow fast\n@data\n");
        for i in 0..n {
            let (rate, name) = if i % 2 == 0 { (0.3, "slow") } else { (0.9, "fast") };
            let wave =
                (0..20 + i % 5).map(|t| format!("{:.4}", (rate * t as f32 + i as f32).sin()));
            text += &format!("{}:{name}\n", wave.collect::<Vec<_>>().join(","));
        }
        std::fs::write(folder.path().join(format!("Waves_{part}.ts")), text).unwrap();
    }
    folder
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

#[test]
fn a_search_finds_a_network_and_tells_what_mattered() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let (f, d) = (folder.path(), data.path().to_str().unwrap());
    let tune = [
        "tune",
        d,
        "--trials",
        "16",
        "--epochs",
        "3",
        "--threads",
        "1",
        "--out",
        "s",
        "--max-macs",
        "2M",
    ];
    let (code, out, err) = convoke(f, &[&tune[..], &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let v = json(&out);
    assert!(v["best"]["top1"].as_f64().unwrap() > 0.6, "{out}");
    assert!(v["best"]["macs"].as_u64().unwrap() <= 2_000_000);
    assert_eq!(v["test"]["n"], 45);
    let t = &v["trials"];
    let count = |name: &str| t[name].as_u64().unwrap();
    assert_eq!(count("done") + count("stopped") + count("failed"), 16, "{out}");
    assert!(count("stopped") > 0 && count("refused") > 0, "{out}");
    assert_eq!(v["importance"]["trials"], 16);
    for file in [
        "best.toml",
        "best.safetensors",
        "settings.toml",
        "space.toml",
        "tune.html",
        "parallel.svg",
        "slices.svg",
        "importance.svg",
        "front.svg",
        "history.svg",
    ] {
        assert!(f.join("s").join(file).is_file(), "{file}");
    }
    // The weights of the best alone are kept.
    let kept = std::fs::read_dir(f.join("s/trials"))
        .unwrap()
        .filter(|t| t.as_ref().unwrap().path().join("weights").is_dir());
    assert_eq!(kept.count(), 1);
    // What is found is trained, and judged, with other verbs.
    let (code, out, err) = convoke(f, &["val", "s/best.safetensors", d, "--json"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(json(&out)["top1"], v["test"]["top1"]);
    let train = [
        "train",
        d,
        "--model",
        "s/best.toml",
        "--settings",
        "s/settings.toml",
        "--epochs",
        "1",
        "--bare",
        "--out",
        "t",
    ];
    let (code, _, err) = convoke(f, &train);
    assert_eq!(code, 0, "{err}");
    let args = std::fs::read_to_string(f.join("t/args.toml")).unwrap();
    let settings = std::fs::read_to_string(f.join("s/settings.toml")).unwrap();
    let lr = settings.lines().find(|l| l.starts_with("lr = ")).unwrap();
    assert!(args.contains(lr), "{lr}: {args}");
    // More trials go on; other terms do not.
    let (code, out, err) = convoke(f, &[&tune[..3], &["17"], &tune[4..], &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let t = &json(&out)["trials"];
    let sum = ["done", "stopped", "failed"].map(|n| t[n].as_u64().unwrap()).iter().sum::<u64>();
    assert_eq!(sum, 17);
    let (code, _, err) = convoke(f, &[&tune[..], &["--seed", "1"]].concat());
    assert_eq!(code, 1);
    assert!(err.contains("error") && err.contains("seed"), "{err}");
}

#[test]
fn a_killed_search_goes_on() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let (f, d) = (folder.path(), data.path().to_str().unwrap());
    let tune = [
        "tune",
        d,
        "--trials",
        "12",
        "--epochs",
        "27",
        "--threads",
        "2",
        "--out",
        "s",
        "--no-stop",
        "--max-macs",
        "3M",
    ];
    let mut child = command(f, &tune).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let study = f.join("s/study.jsonl");
    let lines = || std::fs::read_to_string(&study).unwrap_or_default().lines().count();
    let start = Instant::now();
    while lines() < 60 && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(5));
    }
    // No word of warning: as the power goes.
    child.kill().unwrap();
    child.wait().unwrap();
    let before = std::fs::read_to_string(&study).unwrap();
    assert!(before.lines().count() >= 60);
    let (code, out, err) = convoke(f, &[&tune[..], &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let v = json(&out);
    assert_eq!(v["trials"]["running"], 0, "{out}");
    let sum = v["trials"]["done"].as_u64().unwrap() + v["trials"]["failed"].as_u64().unwrap();
    assert_eq!(sum, 12, "{out}");
    let after = std::fs::read_to_string(&study).unwrap();
    let whole = before.rfind('\n').unwrap();
    assert_eq!(after[..whole], before[..whole]);
}

#[test]
fn limits_and_spaces_that_leave_nothing_are_told() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let (f, d) = (folder.path(), data.path().to_str().unwrap());
    for (args, words) in [
        (&["--max-params", "10"][..], "widen the limits"),
        (&["--max-latency", "0.000001"][..], "ms to predict"),
        (&["--space", "none.toml"][..], "does not exist"),
        (&["--model", "lenet6"][..], "did you mean"),
    ] {
        let (code, _, err) = convoke(f, &[&["tune", d, "--trials", "2"], args].concat());
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(words), "{args:?}: {err}");
        let _ = std::fs::remove_dir_all(f.join("runs"));
    }
    std::fs::write(
        f.join("bad.toml"),
        "[[dimension]]\nname = \"lr\"\nkind = \"float\"\nlow = 2\nhigh = 1\n",
    )
    .unwrap();
    let (code, _, err) = convoke(f, &["tune", d, "--space", "bad.toml"]);
    assert!(code == 1 && err.contains("`lr`"), "{err}");
    let (code, _, err) = convoke(f, &["tune", d, "--max-macs", "many"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn a_network_of_the_zoo_is_tuned_in_its_training_alone() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let (f, d) = (folder.path(), data.path().to_str().unwrap());
    let args = [
        "tune",
        d,
        "--model",
        "mlp",
        "--trials",
        "3",
        "--epochs",
        "2",
        "--sampler",
        "random",
        "--out",
        "s",
        "--threads",
        "1",
        "--json",
    ];
    let (code, out, err) = convoke(f, &args);
    assert_eq!(code, 0, "{err}");
    let chosen = json(&out)["best"]["chosen"].clone();
    assert!(chosen["depth"].is_null() && chosen["optimizer"].is_string(), "{out}");
    assert!(std::fs::read_to_string(f.join("s/best.toml")).unwrap().contains("name = \"mlp\""));
}

#[test]
fn networks_are_compared_under_the_same_budget() {
    let data = pictures();
    let folder = tempfile::tempdir().unwrap();
    let (f, d) = (folder.path(), data.path().to_str().unwrap());
    let args = [
        "compare", d, "mlp", "lenet5", "--epochs", "4", "--seeds", "2", "--batch", "16", "--shift",
        "1", "--out", "c", "--json",
    ];
    let (code, out, err) = convoke(f, &args);
    assert_eq!(code, 0, "{err}");
    let v = json(&out);
    assert_eq!(v["judged_on"], "test");
    for (i, name) in ["mlp", "lenet5"].into_iter().enumerate() {
        let n = &v["networks"][i];
        assert_eq!(n["model"], name);
        assert_eq!(n["top1"]["all"].as_array().unwrap().len(), 2);
        assert!(n["top1"]["deviation"].is_number() && n["shifted"][0][0] == 1, "{out}");
        assert!(n["macs"].as_u64().unwrap() > 1000 && n["seconds"]["mean"].as_f64().unwrap() > 0.0);
    }
    assert!(f.join("c/compare.html").is_file() && f.join("c/compare.svg").is_file());
    let (code, _, err) = convoke(f, &["compare", d, "nonet"]);
    assert!(code == 1 && err.contains("no network is called"), "{err}");
}

#[test]
fn signals_are_trained_judged_and_named() {
    let data = signals();
    let folder = tempfile::tempdir().unwrap();
    let (f, d) = (folder.path(), data.path().to_str().unwrap());
    let args = [
        "train",
        d,
        "--model",
        "fcn-1d",
        "--epochs",
        "30",
        "--batch",
        "8",
        "--norm",
        "series",
        "--fit",
        "pad",
        "--members",
        "2",
        "--threads",
        "1",
        "--out",
        "r",
    ];
    let (code, out, err) = convoke(f, &args);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("2 networks together"), "{out}");
    let (code, out, err) = convoke(f, &["val", "r", d, "--json"]);
    assert_eq!(code, 0, "{err}");
    assert!(json(&out)["top1"].as_f64().unwrap() > 0.8 && json(&out)["n"] == 12, "{out}");
    let test = data.path().join("Waves_TEST.ts");
    let (code, out, err) = convoke(f, &["predict", "r", test.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0, "{err}");
    let first = json(out.lines().next().unwrap());
    assert_eq!(first["guesses"][0]["class"], "slow", "{out}");
    assert_eq!(out.lines().count(), 12);
    // Events in a recording: slow, silence, fast.
    let at = |t: usize| match t {
        0..60 => (0.3 * t as f32).sin(),
        60..100 => 0.0,
        _ => (0.9 * t as f32).sin(),
    };
    let table: String = (0..160).map(|t| format!("{:.4}\n", at(t))).collect();
    std::fs::write(f.join("long.csv"), format!("value\n{table}")).unwrap();
    let (code, out, err) = convoke(f, &["find", "r", "long.csv", "--threshold", "0.7", "--json"]);
    assert_eq!(code, 0, "{err}");
    let found = json(&out)["events"].as_array().unwrap().clone();
    let near = |name: &str, rows: std::ops::Range<u64>| {
        let mine = found.iter().filter(|e| e["class"] == name);
        mine.filter(|e| rows.contains(&e["start"].as_u64().unwrap())).count()
    };
    assert!(near("slow", 0..45) >= 1 && near("fast", 90..160) >= 1, "{out}");
    // What decided, under the curves.
    let (code, out, err) = convoke(f, &["look", "r", test.to_str().unwrap(), "--out", "l"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("signals.svg") && f.join("l/signals.svg").is_file(), "{out}");
    // The choice of scale is in the model file.
    let model = convoke_formats::ModelFile::load(&f.join("r/weights/best.safetensors")).unwrap();
    let signal = model.preprocess.signal.unwrap();
    assert_eq!((signal.norm, signal.fit), (convoke_data::Norm::Series, convoke_data::Fit::Pad));
    // A search over signals.
    let (code, out, err) = convoke(
        f,
        &["tune", d, "--trials", "3", "--epochs", "3", "--threads", "1", "--out", "s", "--json"],
    );
    assert_eq!(code, 0, "{err}");
    assert_eq!(json(&out)["test"]["n"], 12);
    let (code, _, err) = convoke(
        f,
        &["train", d, "--model", "resnet-1d", "--epochs", "2", "--lr", "1e9", "--out", "x"],
    );
    assert!(code == 1 && err.contains("lower"), "{err}");
}

#[test]
fn numbers_of_signals_are_estimated() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    for (part, n) in [("TRAIN", 60), ("TEST", 20)] {
        let mut text = String::from("@targetLabel true\n@data\n");
        for i in 0..n {
            let rate = 0.2 + (i * 7 % 10) as f32 / 10.0;
            let wave: Vec<String> =
                (0..24).map(|t| format!("{:.4}", (rate * t as f32).sin())).collect();
            text += &format!("{}:{rate:.3}\n", wave.join(","));
        }
        std::fs::write(f.join(format!("R_{part}.ts")), text).unwrap();
    }
    let (code, out, err) =
        convoke(f, &["train", ".", "--model", "mlp-1d", "--epochs", "60", "--out", "r"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("RMSE"), "{out}");
    let (code, out, err) = convoke(f, &["val", "r", ".", "--json"]);
    assert_eq!(code, 0, "{err}");
    assert!(json(&out)["r2"].as_f64().unwrap() > 0.5, "{out}");
    let (code, out, err) = convoke(f, &["predict", "r", "R_TEST.ts", "--json"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().count() == 20 && json(out.lines().next().unwrap())["estimate"].is_number());
}

#[test]
fn a_series_is_forecast_and_judged_beside_the_naive_forecast() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let row = |t: i32| {
        format!("day {t},{:.4},{:.4}\n", (t as f32 / 4.0).sin() + 3.0, (t as f32 / 9.0).cos())
    };
    let table: String =
        std::iter::once("date,price,other\n".to_string()).chain((0..160).map(row)).collect();
    std::fs::write(f.join("t.csv"), table).unwrap();
    let args = [
        "forecast",
        "t.csv",
        "--column",
        "price",
        "--inputs",
        "price,other",
        "--window",
        "12",
        "--ahead",
        "3",
        "--epochs",
        "30",
        "--folds",
        "2",
        "--out",
        "r",
    ];
    let (code, out, err) = convoke(f, &args);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("better than the naive forecast") && out.contains("next "), "{out}");
    for file in ["forecast.csv", "forecast.svg", "weights/best.safetensors"] {
        assert!(f.join("r").join(file).is_file(), "{file}");
    }
    let (code, out, err) = convoke(f, &["forecast", "t.csv", "--use", "r", "--json"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(json(&out)["next"].as_array().unwrap().len(), 3);
    let (code, _, err) = convoke(f, &["forecast", "t.csv", "--column", "prize"]);
    assert!(code == 1 && err.contains("did you mean `price`"), "{err}");
    let (code, _, err) = convoke(f, &["forecast", "t.csv", "--column", "date"]);
    assert!(code == 1 && err.contains("no column of numbers"), "{err}");
}
