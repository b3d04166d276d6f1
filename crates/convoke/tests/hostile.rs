//! What strangers' files may do. The corpora that the fuzzer left in `fuzz/corpus` are read again by the functions that
//! it drove; and the command is given what no fuzzer gives it: absurd networks, pipes, links in a circle, names that are
//! no text, colours for the terminal.

mod common;
#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use common::{command, photos};
use convoke_data::{Picture, write_png};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The kept files of a target: name and bytes.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
    let mut paths: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    let read = |p: &std::path::PathBuf| {
        (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(p).unwrap())
    };
    paths.iter().map(read).collect()
}

#[test]
fn every_kept_file_of_the_fuzzer_is_read_or_refused_in_a_line() {
    for (target, read) in fuzz::TARGETS {
        let files = corpus(target);
        assert!(files.len() >= 5, "{target}: {} files are no corpus", files.len());
        for (name, bytes) in &files {
            let held = std::panic::catch_unwind(|| read(bytes));
            assert!(held.is_ok(), "fuzz/corpus/{target}/{name}");
        }
    }
}

/// The fuzzer's first studies, checkpoints and models, into the folder `CONVOKE_SEEDS`.
#[test]
#[ignore = "writes files for the fuzzer to begin with"]
fn seeds() {
    use convoke_train::tune::{Halving, Header, Kind, Sampler, Space, State, Study, VERSION, When};
    let out = std::env::var("CONVOKE_SEEDS").expect("CONVOKE_SEEDS is a folder");
    let put = |name: &str, first: &[u8], rest: &[u8]| {
        let path = Path::new(&out).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, [first, rest].concat()).unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    fuzz::tiny_run(folder.path()).checkpoint().unwrap();
    let checkpoint =
        std::fs::read(folder.path().join("run/weights/checkpoint.safetensors")).unwrap();
    put("run/checkpoint", &[4], &checkpoint);
    put("model/checkpoint", &[], &checkpoint);
    let options =
        convoke_train::TrainOptions::suited(3, 2, &convoke_data::Preprocess::plain(2, 2, 1), 1);
    put("run/settings", &[2], toml::to_string(&options).unwrap().as_bytes());
    let mut space = Space::default();
    space.add("lr", Kind::Float { low: 1e-4, high: 1.0, log: true });
    space.add("blocks", Kind::Int { low: 1, high: 3, step: 1, log: false });
    space.add("optimizer", Kind::Choice { of: vec!["sgd".into(), "adam".into()] });
    let when = When { name: "blocks".into(), at_least: Some(2), is: vec![] };
    space.add_when("filters2", Kind::Int { low: 8, high: 64, step: 8, log: false }, when);
    let path = folder.path().join("study.jsonl");
    let (sampler, halving) = (Sampler::Tpe, Some(Halving { first: 1, factor: 3 }));
    let header = Header {
        convoke_study: VERSION,
        space,
        sampler,
        halving,
        epochs: 9,
        seed: 5,
        terms: "data a".into(),
    };
    let mut study = Study::open_or_begin(&path, header).unwrap();
    for i in 0..12 {
        let number = study
            .begin(vec![Some(0.01 * (i + 1) as f64), Some(1.0), Some(0.0), None], 10, 20, 30)
            .unwrap();
        study.epoch(number, 1, 0.5 + 0.01 * i as f64, 1.5, 2.0).unwrap();
        study.end(number, State::Done, "").unwrap();
    }
    study.refuse(vec![Some(0.5), Some(2.0), Some(1.0), Some(16.0)], "too large").unwrap();
    put("run/study", &[0], &std::fs::read(&path).unwrap());
}

/// Exit code and standard error of a command that must end within a minute.
fn ends(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut c = command(folder, args);
    let log = folder.join("stderr.log");
    let (nothing, file) = (Stdio::null(), std::fs::File::create(&log).unwrap());
    let mut child = c.stdin(nothing).stdout(Stdio::null()).stderr(file).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("convoke {args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
    (child.wait().unwrap().code(), text)
}

/// It fails in one line that says so, and without a panic's text.
fn refused(folder: &Path, args: &[&str], words: &str) {
    let (code, text) = ends(folder, args);
    let last = text.trim_end().lines().last().unwrap_or_default();
    assert!(code == Some(1) && last.starts_with("error: "), "{args:?}: {code:?} {text}");
    assert!(last.contains(words) && last.len() < 2000, "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
}

#[test]
fn absurd_networks_are_refused_by_arithmetic() {
    let folder = tempfile::tempdir().unwrap();
    let top = "input = [8, 8, 1]\n";
    let layer = |keys: &str| format!("{top}[[layer]]\n{keys}\n");
    let most = i64::MAX;
    for (text, words) in [
        (layer("type = \"conv\"\nfilters = 4294967295\nwindow = 3"), "too many"),
        (layer("type = \"conv\"\nfilters = 4\nwindow = 1000000000"), "must be from 1"),
        (layer("type = \"conv\"\nfilters = 4\nwindow = 3\nstride = 0"), "must be from 1"),
        (layer(&format!("type = \"conv\"\nfilters = 1\nwindow = 3\npadding = {most}")), "at most"),
        (layer("type = \"conv\"\nfilters = 1048576\nwindow = [1048576, 1048576]"), "too many"),
        (layer(&format!("type = \"dense\"\nunits = {most}")), "too many"),
        (layer(&format!("type = \"upsample\"\nfactor = {most}")), "from 1 to 64"),
        (
            layer(&format!("type = \"constant\"\nshape = [{most}, {most}, {most}]\nfrom = []")),
            "too large",
        ),
        (format!("input = [{most}, {most}, {most}]\n[[layer]]\ntype = \"relu\""), "too large"),
        // 2^62 · 2^62 · 16 is 0 where sizes of 64 or of 128 bits go round.
        (format!("input = [{0}, {0}, 16]\n[[layer]]\ntype = \"relu\"", 1i64 << 62), "too large"),
        (format!("{top}{}", "[[layer]]\ntype = \"relu\"\n".repeat(1_000_000)), "1 MiB"),
        (format!("{top}x = {}", "[".repeat(100_000)), "line 2"),
        (
            format!(
                "input = [1, 1, 1]\n{}",
                "[[layer]]\ntype = \"upsample\"\nfactor = 64\n".repeat(9)
            ),
            "too large",
        ),
        // Tables of places, in gigabytes.
        (
            format!(
                "input = [1, 1, 1]\n{}[[layer]]\ntype = \"dense\"\nunits = 2",
                "[[layer]]\ntype = \"take\"\naxis = \"w\"\nsize = 16777216\n".repeat(60)
            ),
            "too many places",
        ),
        ("\u{0}".into(), "line 1"),
        (String::new(), "input"),
    ] {
        std::fs::write(folder.path().join("n.toml"), &text).unwrap();
        refused(folder.path(), &["plan", "n.toml"], words);
    }
}

#[test]
fn a_network_of_thousands_of_layers_is_planned() {
    let folder = tempfile::tempdir().unwrap();
    let layer = "[[layer]]\ntype=\"conv\"\nfilters=1\nwindow=1\n";
    let text = format!("input = [1, 1, 1]\n{}", layer.repeat(5_000));
    std::fs::write(folder.path().join("n.toml"), text).unwrap();
    let (code, text) = ends(folder.path(), &["plan", "n.toml"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn empty_and_cut_files_of_every_kind_are_refused() {
    let folder = photos();
    let at = |name: &str| folder.path().join(name);
    let picture = std::fs::read(at("photos/red/0.png")).unwrap();
    for (name, bytes) in [("empty", &[][..]), ("cut", &picture[..picture.len() / 2])] {
        for ending in
            ["png", "jpg", "safetensors", "pth", "onnx", "toml", "json", "csv", "ts", "npy", "xml"]
        {
            let file = format!("{name}.{ending}");
            std::fs::write(at(&file), bytes).unwrap();
            refused(folder.path(), &["predict", &file, "photos/red/0.png"], "");
            refused(folder.path(), &["train", &file, "--model", "net.toml"], "");
            refused(folder.path(), &["lens", &file, "--filter", "edges"], "");
            refused(folder.path(), &["import", &file, "--model", "net.toml"], "");
        }
    }
}

/// What is no picture does not keep the photos from being learnt and checked.
#[cfg(unix)]
fn passed_over(folder: &Path) {
    let train = ["train", "photos", "--model", "net.toml", "--epochs", "1", "--bare"];
    let (code, text) = ends(folder, &train);
    assert_eq!(code, Some(0), "{text}");
    assert_ne!(ends(folder, &["data", "check", "photos"]).0, None);
}

#[cfg(unix)]
#[test]
fn pipes_and_folders_are_no_files() {
    let folder = photos();
    let at = |name: &str| folder.path().join(name);
    let mut make = Command::new("mkfifo");
    make.args(["p.png", "p.toml", "p.safetensors", "p.csv", "photos/red/p.png"]);
    if !make.current_dir(folder.path()).status().is_ok_and(|s| s.success()) {
        return eprintln!("skipped: no mkfifo");
    }
    for name in ["d.png", "d.toml", "d.safetensors", "d.csv"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    for ending in ["toml", "safetensors"] {
        for first in ["p", "d"] {
            let file = format!("{first}.{ending}");
            refused(folder.path(), &["plan", &file], "");
            refused(folder.path(), &["predict", &file, "photos/red/0.png"], "");
        }
    }
    for data in ["p.csv", "d.csv", "p.png", "d.png"] {
        refused(folder.path(), &["train", data, "--model", "net.toml"], "");
        refused(folder.path(), &["forecast", data, "--column", "a"], "");
        refused(folder.path(), &["lens", data, "--filter", "edges"], "");
    }
    // A pipe among the pictures is passed over.
    passed_over(folder.path());
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_are_gone_through_once() {
    use std::os::unix::fs::symlink;
    let folder = photos();
    for i in 0..12 {
        symlink("..", folder.path().join(format!("photos/red/up{i}"))).unwrap();
        symlink(".", folder.path().join(format!("photos/blue/here{i}"))).unwrap();
    }
    symlink("loop.png", folder.path().join("photos/red/loop.png")).unwrap();
    symlink("nowhere.png", folder.path().join("photos/red/gone.png")).unwrap();
    passed_over(folder.path());
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_names() {
    use std::os::unix::ffi::OsStrExt;
    let folder = photos();
    let name = std::ffi::OsStr::from_bytes(b"photos/red/\xff\xfe.png");
    write_png(&folder.path().join(name), &Picture::filled(16, 14, [200, 40, 40])).unwrap();
    let class = std::ffi::OsStr::from_bytes(b"photos/\xe9");
    write_png(&folder.path().join(class).join("1.png"), &Picture::filled(9, 9, [0; 3])).unwrap();
    write_png(&folder.path().join(class).join("2.png"), &Picture::filled(9, 9, [0; 3])).unwrap();
    passed_over(folder.path());
    let output = command(folder.path(), &["data", "check", "photos", "--json"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["findings"].to_string().contains('\u{fffd}'), "{told}");
    let table: String = (0..300).map(|i| format!("{},{}\n", i % 7, i * i % 11)).collect();
    let name = std::ffi::OsStr::from_bytes(b"\xff.csv");
    std::fs::write(folder.path().join(name), format!("a,b\n{table}")).unwrap();
    let mut forecast = command(folder.path(), &["forecast", "--column", "a", "--epochs", "1"]);
    assert!(forecast.arg(name).output().unwrap().status.success());
}

#[cfg(unix)]
#[test]
fn no_name_reaches_the_terminal_as_a_command_to_it() {
    let folder = photos();
    let evil = "\x1b]0;owned\x07\x1b[2J\u{9b}31m";
    let bad = format!("{evil}\n.png");
    std::fs::write(folder.path().join(format!("photos/red/{bad}")), "no picture").unwrap();
    std::fs::write(folder.path().join(&bad), "no picture").unwrap();
    let toml = format!("name = {evil:?}\ninput = [8, 8, 1]\n[[layer]]\ntype = {evil:?}")
        .replace("\\u{1b}", "\\u001b")
        .replace("\\u{7}", "\\u0007")
        .replace("\\u{9b}", "\\u009b");
    std::fs::write(folder.path().join("n.toml"), toml).unwrap();
    let net = ["train", "photos", "--model", "net.toml", "--epochs", "1", "--bare", "--out", "run"];
    for args in [
        &net[..],
        &["data", "check", "photos"],
        &["predict", "run", &bad],
        &["plan", "n.toml"],
        &["plan", evil],
        &["predict", "run", "photos/red"],
    ] {
        let output = command(folder.path(), args).output().unwrap();
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            let other = text.chars().find(|c| c.is_control() && *c != '\n');
            assert!(other.is_none(), "{args:?}: {text:?}");
        }
    }
    // A class of such a name would reach pages and pictures as well.
    std::fs::create_dir(folder.path().join(format!("photos/{evil}"))).unwrap();
    write_png(&folder.path().join(format!("photos/{evil}/1.png")), &Picture::filled(9, 9, [0; 3]))
        .unwrap();
    refused(folder.path(), &["train", "photos", "--model", "net.toml"], "cannot be shown");
}
