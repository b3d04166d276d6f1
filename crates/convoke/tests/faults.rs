//! What happens when the ground shakes: killed at any moment, two at once, no room, no memory, files that go. Nothing
//! half-written is taken for whole, and what was done is not lost.
//!
//! `CONVOKE_KILLS=50 cargo test --release -p convoke --test faults` kills more often.

mod common;

use common::{command, photos};
use convoke_data::is_unfinished;
use convoke_formats::ModelFile;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A command that says nothing.
fn silent(folder: &Path, args: &[&str]) -> Command {
    let mut c = command(folder, args);
    c.stdout(Stdio::null()).stderr(Stdio::null());
    c
}

fn train<'a>(epochs: &'a str, out: &'a str) -> [&'a str; 11] {
    [
        "train", "photos", "--model", "net.toml", "--epochs", epochs, "--batch", "8", "--bare",
        "--out", out,
    ]
}

fn told(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        silent(folder, args).stderr(Stdio::piped()).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// The last line is the error, and there is no panic's text.
fn error_of(stderr: &str) -> &str {
    let last = stderr.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && !stderr.contains("panicked"), "{stderr}");
    last
}

/// Files of a run, but for those that were being written when it was killed.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path());
    let whole = entries.filter(|p| !is_unfinished(p));
    whole.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}

/// Every file can be read to its end.
fn check_whole(run: &Path) {
    for path in files(run) {
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => drop(ModelFile::load(&path).unwrap()),
            Some("csv") => {
                let text = std::fs::read_to_string(&path).unwrap();
                let cells = |l: &str| l.split(',').count();
                let head = text.lines().next().map(cells);
                assert!(
                    text.ends_with('\n') && text.lines().all(|l| Some(cells(l)) == head),
                    "{text}"
                );
            }
            Some("png") => drop(convoke_data::read_size(&path).unwrap()),
            Some("toml") => {
                assert!(std::fs::read_to_string(&path).unwrap().contains("epochs"), "{path:?}");
            }
            _ => {}
        }
    }
}

/// Everything that a run found, without what clocks say.
fn found(run: &Path) -> (Vec<u8>, Vec<u8>, Vec<String>) {
    let weights = |n: &str| std::fs::read(run.join(format!("weights/{n}.safetensors"))).unwrap();
    let rows = std::fs::read_to_string(run.join("results.csv")).unwrap();
    let row = |l: &str| l.split(',').take(7).collect::<Vec<_>>().join(",");
    (weights("last"), weights("best"), rows.lines().map(row).collect())
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_one_that_was_not() {
    let folder = photos();
    let kills: usize = std::env::var("CONVOKE_KILLS").map_or(8, |v| v.parse().unwrap());
    let epochs = (60 * kills).to_string();
    assert!(silent(folder.path(), &train(&epochs, "whole")).status().unwrap().success());
    let run = folder.path().join("killed");
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let (mut done, mut resumed) = (0, 0);
    while done < kills {
        let again = run.join("args.toml").exists();
        let mut child = match again {
            true => silent(folder.path(), &["train", "--resume", "killed"]),
            false => silent(folder.path(), &train(&epochs, "killed")),
        }
        .spawn()
        .unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(random % 300));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "ended by itself with {status} after {done} kills");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check_whole(&run);
        done += 1;
        resumed += usize::from(again);
    }
    assert!(done == kills && resumed > kills / 3, "{done} kills, {resumed} of them after a resume");
    let end = silent(folder.path(), &["train", "--resume", "killed"]).status().unwrap();
    assert!(end.success());
    assert!(found(&run) == found(&folder.path().join("whole")), "after {kills} kills");
    let left: Vec<_> =
        std::fs::read_dir(run.join("weights")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!left.iter().any(|p| is_unfinished(p)), "{left:?}");
}

/// Waits until a run has begun to write.
fn begun(run: &Path) {
    let start = Instant::now();
    while !run.join("results.csv").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the run never began");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_second_process_on_a_run_is_told_and_the_first_goes_on() {
    let folder = photos();
    let mut first = silent(folder.path(), &train("100000", "run")).spawn().unwrap();
    begun(&folder.path().join("run"));
    let (code, err) = told(folder.path(), &["train", "--resume", "run"]);
    assert!(code == Some(1) && error_of(&err).contains("another convoke"), "{err}");
    assert!(first.try_wait().unwrap().is_none());
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
#[cfg(unix)]
fn a_run_that_is_asked_to_end_leaves_a_checkpoint() {
    let folder = photos();
    let mut child = silent(folder.path(), &train("100000", "run")).spawn().unwrap();
    begun(&folder.path().join("run"));
    let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let ended = child.wait().unwrap();
    assert!(ended.code().is_some(), "it ended by itself: {ended}");
    check_whole(&folder.path().join("run"));
    let (code, err) = told(folder.path(), &["train", "--resume", "run", "--epochs", "3"]);
    assert!(code == Some(2) && err.contains("--epochs"), "{err}");
    let mut again = silent(folder.path(), &["train", "--resume", "run"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(again.try_wait().unwrap().is_none(), "it goes on");
    again.kill().unwrap();
    again.wait().unwrap();
}

/// A file may grow to a kilobyte: what a full disk does, for one process alone.
#[test]
#[cfg(unix)]
fn a_full_disk_is_told_in_a_line_and_leaves_no_half_file() {
    let folder = photos();
    let script = format!(
        "trap '' XFSZ; ulimit -f 2; exec {} {}",
        env!("CARGO_BIN_EXE_convoke"),
        train("3", "run").join(" ")
    );
    let output =
        Command::new("sh").current_dir(folder.path()).args(["-c", &script]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(error_of(&err).contains("run/weights"), "{err}");
    check_whole(&folder.path().join("run"));
    assert!(!folder.path().join("run/args.toml").exists(), "no run was begun");
    // With room again the same command works.
    assert_eq!(told(folder.path(), &train("3", "run")).0, Some(0));
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_nobody_can_take_is_told_in_a_line() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_convoke"))
        .arg("models")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error_of(&err).contains("output"), "{err}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let folder = photos();
    let (code, err) = told(folder.path(), &train("1", "net.toml/run"));
    assert!(code == Some(1) && error_of(&err).contains("net.toml/run"), "{err}");
}

#[test]
fn pictures_that_vanish_or_change_are_left_out() {
    let folder = photos();
    let mut child = silent(folder.path(), &train("400", "run")).spawn().unwrap();
    begun(&folder.path().join("run"));
    for i in 0..4 {
        std::fs::remove_file(folder.path().join(format!("photos/red/{i}.png"))).unwrap();
        std::fs::write(folder.path().join(format!("photos/green/{i}.png")), "no picture").unwrap();
    }
    assert!(child.wait().unwrap().success());
    check_whole(&folder.path().join("run"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_that_memory_cannot_hold_is_refused_with_what_can() {
    let folder = photos();
    let large = common::NET
        .replace("[12, 12, 3]", "[2000, 2000, 3]")
        .replace("filters = 8", "filters = 500");
    std::fs::write(folder.path().join("net.toml"), large).unwrap();
    let (code, err) = told(folder.path(), &train("1", "run"));
    let e = error_of(&err);
    assert!(code == Some(1) && e.contains("for a batch of 8") && e.contains("MiB are free"), "{e}");
    assert!(!folder.path().join("run/args.toml").exists());
}

#[test]
fn a_loss_that_is_no_number_names_layer_step_and_checkpoint() {
    let folder = photos();
    let (code, err) = told(folder.path(), &[&train("9", "run")[..], &["--lr", "1e30"]].concat());
    let e = error_of(&err);
    assert_eq!(code, Some(1), "{e}");
    for word in ["step ", "first in `", "run/weights/checkpoint.safetensors", "--lr"] {
        assert!(e.contains(word), "{e}");
    }
    let kept = ModelFile::load(&folder.path().join("run/weights/checkpoint.safetensors")).unwrap();
    assert!(kept.params.iter().all(|p| p.is_finite()));
}
