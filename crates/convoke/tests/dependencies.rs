//! What default features bring in on this system: no C, no library of the system, and only licences that ask for no
//! more than a notice. `deny.toml` says the same for all systems.

use std::process::Command;

/// Of a licence's alternatives one must be among these.
const LICENCES: [&str; 8] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
];

/// What builds C or links to it.
const UNWANTED: [&str; 6] = ["cc", "cmake", "pkg-config", "vcpkg", "bindgen", "ring"];

/// Declarations of a system's calls, in plain Rust.
const DECLARATIONS: [&str; 2] = ["linux-raw-sys", "windows-sys"];

/// Whether every part of `A AND (B OR C)` has an alternative that is let in.
fn is_free(licence: &str) -> bool {
    let part = |part: &str| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')');
        part.split(" OR ").flat_map(|l| l.split('/')).any(|l| LICENCES.contains(&l.trim()))
    };
    !licence.is_empty() && licence.split(" AND ").all(part)
}

#[test]
fn default_features_bring_in_no_c_and_only_free_licences() {
    let args = ["tree", "-p", "convoke", "-e", "no-dev", "--offline", "--locked"];
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(["--prefix", "none", "--format", "{p}|{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().map(|l| l.trim_end_matches(" (*)")).collect();
    assert!(lines.len() > 50, "{text}");
    for line in lines {
        let (package, licence) = line.split_once('|').unwrap();
        let name = package.split(' ').next().unwrap();
        let is_c = UNWANTED.contains(&name) || name.ends_with("-sys");
        assert!(!is_c || DECLARATIONS.contains(&name), "{package} needs C");
        assert!(is_free(licence), "{package} is under `{licence}`");
    }
}

#[test]
fn licences_are_read_as_they_are_meant() {
    for free in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
        assert!(is_free(free), "{free}");
    }
    for other in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0-only-or-so", "(GPL-3.0 OR X) AND MIT"]
    {
        assert!(!is_free(other), "{other}");
    }
}
