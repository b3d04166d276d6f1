//! Files of every release open and say what they said then. `fixtures/release-X.Y` holds what release X.Y wrote, the
//! tiny data it was made of, and what that release said about them; none is ever removed.
//!
//! Before a release: `cargo test --release -p convoke --test releases -- --ignored` writes its own folder.

mod common;

use common::{command, convoke};

use convoke_data::{BoxSet, Picture, write_png};
use convoke_vision::{Beginning, Example, LearnOptions, Learner, Regime, SmallNetwork};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a release said to a command.
#[derive(Serialize, Deserialize)]
struct Answer {
    args: Vec<String>,
    /// What it printed: a line of JSON each.
    says: Vec<Value>,
    /// How far numbers may be off, relatively: processors round differently.
    within: f64,
}

/// Predictions of the same weights.
const SAME: f64 = 1e-4;
/// Of weights that the two processors trained for a while, each by itself.
const TRAINED: f64 = 1e-2;
/// Stands for the folder in `args.toml`, where runs keep where their data are.
const HERE: &str = "@HERE@";
const RED: &str = "photos/red/0.png";
const PICTURE: &str = "photos/green/2.png";
const BLUE: &str = "photos/blue/5.png";

/// The models and what they are asked, in the order in which they are made.
const QUESTIONS: [(&[&str], f64); 6] = [
    (&["predict", "classifier.safetensors", RED, PICTURE, BLUE, "--top", "3", "--json"], SAME),
    (&["predict", "quantized.safetensors", RED, PICTURE, BLUE, "--top", "3", "--json"], SAME),
    (&["find", "detector.safetensors", "pages", "--top", "3", "--no-pictures", "--json"], SAME),
    (&["predict", "signals.safetensors", "waves/Waves_TEST.ts", "--json"], SAME),
    (&["predict", "ensemble.safetensors", "waves/Waves_TEST.ts", "--json"], SAME),
    (&["forecast", "table.csv", "--use", "forecaster.safetensors", "--json"], SAME),
];
/// Asked once the run has been resumed.
const RESUMED: &[&str] = &["predict", "run", PICTURE, "--top", "3", "--json"];
const STUDY: &[&str] = &[
    "tune",
    "photos",
    "--model",
    "net.toml",
    "--epochs",
    "2",
    "--threads",
    "1",
    "--out",
    "study",
    "--json",
    "--trials",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}

/// Every file of a folder, at the same place in another one; `edit` may change texts of runs.
fn copy(from: &Path, to: &Path, edit: impl Fn(&str) -> String) {
    for path in files(from) {
        let place = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        match path.ends_with("args.toml") {
            true => fs::write(place, edit(&fs::read_to_string(&path).unwrap())).unwrap(),
            false => drop(fs::copy(&path, place).unwrap()),
        }
    }
}

/// A copy of a release's folder, to work in.
fn release(of: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap().replace('\\', "/");
    copy(of, folder.path(), |text| text.replace(HERE, &here));
    folder
}

fn releases() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.file_name().unwrap().to_str().unwrap().starts_with("release-"));
    all.sort();
    assert!(!all.is_empty());
    all
}

/// What a command prints, lines of JSON without what clocks say.
fn said(folder: &Path, args: &[&str]) -> Vec<Value> {
    let (code, out, err) = convoke(folder, args);
    assert_eq!(code, 0, "{args:?}: {err}");
    let parse = |l: &str| {
        let mut v: Value = serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        v.as_object_mut().unwrap().remove("seconds");
        v
    };
    out.lines().map(parse).collect()
}

/// The same but for numbers, which are near: what is said now may say more, but nothing less.
fn near(what: &str, got: &Value, want: &Value, within: f64) {
    match (got, want) {
        (Value::Number(g), Value::Number(w)) => {
            let (g, w) = (g.as_f64().unwrap(), w.as_f64().unwrap());
            assert!((g - w).abs() <= within * w.abs() + 1e-6, "{what}: {g} and not {w}");
        }
        (Value::Array(g), Value::Array(w)) => {
            assert_eq!(g.len(), w.len(), "{what}");
            g.iter().zip(w).for_each(|(g, w)| near(what, g, w, within));
        }
        (Value::Object(g), Value::Object(w)) => {
            let part = |k: &String| g.get(k).unwrap_or_else(|| panic!("{what}: no `{k}`"));
            w.iter().for_each(|(k, w)| near(&format!("{what}, {k}"), part(k), w, within));
        }
        _ => assert_eq!(got, want, "{what}"),
    }
}

#[test]
fn files_of_every_release_say_what_they_said() {
    for of in releases() {
        let folder = release(&of);
        let f = folder.path();
        let text = fs::read_to_string(of.join("answers.json")).unwrap();
        let answers: Vec<Answer> = serde_json::from_str(&text).unwrap();
        assert_eq!(answers.len(), QUESTIONS.len() + 1);
        let (code, _, err) = convoke(f, &["train", "--resume", "run"]);
        assert_eq!(code, 0, "{}: {err}", of.display());
        for Answer { args, says, within } in answers {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let got = said(f, &args);
            let what = format!("{} {}", of.display(), args.join(" "));
            assert_eq!(got.len(), says.len(), "{what}");
            got.iter().zip(&says).for_each(|(g, w)| near(&what, g, w, within));
        }
    }
}

#[test]
fn runs_of_every_release_go_on_to_their_end() {
    for of in releases() {
        let folder = release(&of);
        let run = folder.path().join("run");
        let rows = || fs::read_to_string(run.join("results.csv")).unwrap();
        let before = rows();
        let (code, out, err) = convoke(folder.path(), &["train", "--resume", "run"]);
        assert_eq!(code, 0, "{}: {err}", of.display());
        assert!(out.contains("right on"), "{out}");
        let after = rows();
        let settings: toml::Table =
            toml::from_str(&fs::read_to_string(run.join("args.toml")).unwrap()).unwrap();
        let epochs = settings["train"]["epochs"].as_integer().unwrap() as usize;
        assert!(after.starts_with(&before) && before.lines().count() < epochs, "{before}");
        assert_eq!(after.lines().count(), 1 + epochs, "a heading, and a row for each epoch");
    }
}

#[test]
fn studies_of_every_release_go_on() {
    for of in releases() {
        let folder = release(&of);
        let study = folder.path().join("study/study.jsonl");
        let before = fs::read_to_string(&study).unwrap();
        let v = said(folder.path(), &[STUDY, &["4"]].concat());
        assert_eq!(v[0]["trials"]["done"].as_u64().unwrap() + stopped(&v[0]), 4, "{v:?}");
        assert!(fs::read_to_string(&study).unwrap().starts_with(&before));
    }
}

fn stopped(v: &Value) -> u64 {
    ["stopped", "failed"].map(|n| v["trials"][n].as_u64().unwrap()).iter().sum()
}

#[test]
fn files_of_a_newer_convoke_are_refused_in_a_line() {
    let folder = release(releases().last().unwrap());
    let f = folder.path();
    let change = |name: &str, from: &str, to: &str| {
        let bytes = fs::read(f.join(name)).unwrap();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect(name);
        let after = &bytes[at + from.len()..];
        fs::write(f.join(name), [&bytes[..at], to.as_bytes(), after].concat()).unwrap();
    };
    let models = [
        "classifier.safetensors",
        "quantized.safetensors",
        "detector.safetensors",
        "signals.safetensors",
        "ensemble.safetensors",
        "forecaster.safetensors",
    ];
    for name in models.into_iter().chain(["run/weights/checkpoint.safetensors"]) {
        change(name, r#""convoke.version":"1""#, r#""convoke.version":"2""#);
    }
    let refused = |args: &[&str]| {
        let (code, _, err) = convoke(f, args);
        let errors = err.lines().filter(|l| l.starts_with("error")).count();
        assert!(code == 1 && errors == 1 && err.contains("newer convoke"), "{args:?}: {err}");
    };
    QUESTIONS.iter().for_each(|(args, _)| refused(args));
    refused(&["train", "--resume", "run"]);
    change("run/args.toml", "convoke_run = 1", "convoke_run = 2");
    refused(&["train", "--resume", "run"]);
    refused(&["report", "run"]);
    change("study/study.jsonl", r#""convoke_study":1"#, r#""what":{},"convoke_study":2"#);
    refused(&[STUDY, &["4"]].concat());
}

/// Pictures in red, green and blue; pages with red squares; slow and fast waves; a table; networks for them.
fn write_data(f: &Path) {
    for (class, name) in ["red", "green", "blue"].into_iter().enumerate() {
        for i in 0..6 {
            let mut p = Picture::filled(14, 12, [40, 40, 40]);
            for (k, pixel) in p.data.chunks_exact_mut(3).enumerate() {
                pixel[class] = 150 + ((k * 37 + i * 101) % 90) as u8;
            }
            write_png(&f.join(format!("photos/{name}/{i}.png")), &p).unwrap();
        }
    }
    let mut table = String::from("filename,width,height,class,xmin,ymin,xmax,ymax\n");
    for i in 0..4 {
        let mut p = Picture::filled(96, 64, [90, 100, 95]);
        for k in 0..3 {
            let (x, y) = (4 + k * 30 + i * 3, 6 + (k * 17 + i * 7) % 40);
            for at in (0..144).map(|j| ((y + j / 12) * 96 + x + j % 12) * 3) {
                p.data[at..at + 3].copy_from_slice(&[220, 30, 30]);
            }
            table += &format!("{i}.png,96,64,square,{x},{y},{},{}\n", x + 12, y + 12);
        }
        write_png(&f.join(format!("pages/{i}.png")), &p).unwrap();
    }
    fs::write(f.join("pages/boxes.csv"), table).unwrap();
    fs::create_dir(f.join("waves")).unwrap();
    for (part, n) in [("TRAIN", 12), ("TEST", 6)] {
        let mut text = String::from("@univariate true\n@classLabel true slow fast\n@data\n");
        for i in 0..n {
            let (rate, name) = if i % 2 == 0 { (0.3, "slow") } else { (0.9, "fast") };
            let wave =
                (0..16 + i % 5).map(|t| format!("{:.3}", (rate * t as f32 + i as f32).sin()));
            text += &format!("{}:{name}\n", wave.collect::<Vec<_>>().join(","));
        }
        fs::write(f.join(format!("waves/Waves_{part}.ts")), text).unwrap();
    }
    let row = |i: i32| format!("{i},{:.4}\n", (0.7 * i as f32).sin() * 3.0 + 0.05 * i as f32);
    let rows: String = (0..60).map(row).collect();
    fs::write(f.join("table.csv"), format!("day,close\n{rows}")).unwrap();
    let net = |name: &str, input: [usize; 3], [filters, kh, kw]: [usize; 3], pool: &str| {
        let text = format!(
            "name = \"{name}\"\ninput = {input:?}\n[[layer]]\ntype = \"conv\"\nfilters = {filters}\n\
             window = [{kh}, {kw}]\nbatch_norm = true\nactivation = \"relu\"\n[[layer]]\n{pool}\n\
             [[layer]]\ntype = \"dense\"\nunits = \"classes\"\n"
        );
        fs::write(f.join(format!("{name}.toml")), text).unwrap();
    };
    net("net", [12, 12, 3], [6, 3, 3], "type = \"max-pool\"\nwindow = 3");
    net("wave", [1, 20, 1], [4, 1, 5], "type = \"global-mean-pool\"");
    net("step", [1, 8, 1], [4, 1, 5], "type = \"global-mean-pool\"");
}

fn done(f: &Path, args: &str) {
    let (code, _, err) = convoke(f, &args.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{args}: {err}");
}

/// A detector of few filters, on the squares.
fn write_detector(f: &Path) {
    let set = BoxSet::open(&f.join("pages")).unwrap();
    let examples = Example::of_set(&set, &[0, 1, 2, 3]);
    let (regime, _) = Regime::choose(&examples, &set.classes, 32).unwrap();
    let regime = Regime { batch: 4, ..regime };
    let size = SmallNetwork { filters: [4, 6, 8, 0, 0], pyramid: 8, first: 3 };
    let beginning = Beginning::small(&regime, set.classes.len(), size).unwrap();
    let options = LearnOptions { epochs: 1, steps: 300, minings: 0, ..LearnOptions::default() };
    let mut learner =
        Learner::new(examples, set.classes.clone(), regime, beginning, options).unwrap();
    while !learner.is_done() {
        learner.epoch(&mut |_| true).unwrap();
    }
    learner.detector().to_model().save(&f.join("detector.safetensors")).unwrap();
}

/// A run that was asked to end when its first epochs had been written.
fn write_run(f: &Path) {
    let args = "train photos --model net.toml --epochs 400 --batch 4 --bare --out run";
    let mut command = command(f, &args.split(' ').collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (rows, start) = (f.join("run/results.csv"), Instant::now());
    while !rows.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the run never began");
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    child.wait().unwrap();
    let rows = fs::read_to_string(rows).unwrap().lines().count();
    assert!((2..300).contains(&rows), "{rows} rows: it was not interrupted early; try again");
}

#[test]
#[ignore = "writes the folder of this release"]
fn write_this_release() {
    let version: Vec<&str> = env!("CARGO_PKG_VERSION").split('.').collect();
    let to = fixtures().join(format!("release-{}.{}", version[0], version[1]));
    assert!(!to.exists(), "{} is there; files of a release are never changed", to.display());
    let folder = tempfile::tempdir().unwrap();
    let f = &folder.path().canonicalize().unwrap();
    write_data(f);
    let model = |name: &str| f.join(format!("{name}.safetensors"));
    let best = |run: &str| f.join(run).join("weights/best.safetensors");
    let waves = "--model wave.toml --epochs 3 --batch 4 --bare";
    done(f, "train photos --model net.toml --epochs 3 --batch 4 --bare --out made/classifier");
    fs::rename(best("made/classifier"), model("classifier")).unwrap();
    done(f, "quantize classifier.safetensors photos --out quantized.safetensors");
    write_detector(f);
    done(f, &format!("train waves {waves} --out made/signals"));
    fs::rename(best("made/signals"), model("signals")).unwrap();
    done(f, &format!("train waves {waves} --members 2 --out made/ensemble"));
    fs::rename(best("made/ensemble"), model("ensemble")).unwrap();
    let forecast = "--column close --ahead 2 --window 8 --epochs 2 --folds 1 --model step.toml";
    done(f, &format!("forecast table.csv {forecast} --out made/forecaster"));
    fs::rename(best("made/forecaster"), model("forecaster")).unwrap();
    said(f, &[STUDY, &["2"]].concat());
    write_run(f);
    let ask = |f: &Path, args: &[&str], within: f64| Answer {
        args: args.iter().map(|a| a.to_string()).collect(),
        says: said(f, args),
        within,
    };
    let mut answers: Vec<Answer> = QUESTIONS.iter().map(|(q, within)| ask(f, q, *within)).collect();
    // What is resumed is a copy; the folder keeps the run as it was interrupted.
    let resumed = tempfile::tempdir().unwrap();
    copy(f, resumed.path(), str::to_string);
    done(resumed.path(), "train --resume run");
    answers.push(ask(resumed.path(), RESUMED, TRAINED));
    // Models' runs, and what `find` writes.
    ["made", "runs"].iter().for_each(|made| fs::remove_dir_all(f.join(made)).unwrap());
    for path in files(f) {
        let made = path.strip_prefix(f).unwrap();
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let shown = matches!(kind, "png" | "svg" | "html")
            && (made.starts_with("run") || made.starts_with("study"));
        if shown || path.ends_with(".lock") {
            fs::remove_file(path).unwrap();
        }
    }
    let mut text = serde_json::to_string_pretty(&answers).unwrap();
    text.push('\n');
    fs::write(f.join("answers.json"), text).unwrap();
    copy(f, &to, |text| text.replace(f.to_str().unwrap(), HERE));
}
