//! What tests of the command share: tiny pictures, a network for them, and the command itself.
#![allow(dead_code, reason = "not every test needs all of it")]

use assert_cmd::cargo::cargo_bin;
use convoke_data::{Picture, write_png};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

pub const NET: &str = r#"
name = "tiny"
input = [12, 12, 3]
[[layer]]
type = "conv"
filters = 8
window = 3
batch_norm = true
activation = "relu"
[[layer]]
type = "max-pool"
window = 2
[[layer]]
type = "dense"
units = "classes"
"#;

/// Three classes of twelve pictures: red, green, blue, with some noise.
pub fn photos() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, name) in ["red", "green", "blue"].into_iter().enumerate() {
        for i in 0..12 {
            let mut p = Picture::filled(16, 14, [40, 40, 40]);
            for (k, pixel) in p.data.chunks_exact_mut(3).enumerate() {
                pixel[class] = 150 + ((k * 37 + i * 101) % 90) as u8;
            }
            write_png(&folder.path().join(format!("photos/{name}/{i}.png")), &p).unwrap();
        }
    }
    std::fs::write(folder.path().join("net.toml"), NET).unwrap();
    folder
}

/// The command in that folder.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("convoke"));
    command.current_dir(folder).args(args);
    command
}

/// Its exit code, what it prints, and what it tells.
pub fn convoke(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = command(folder, args).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
