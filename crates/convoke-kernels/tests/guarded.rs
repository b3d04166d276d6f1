//! Every kernel with each of its buffers between pages that nobody may touch. All tests of this crate run here once
//! more, first with every buffer flush against the page after it, then against the page before it. A kernel that
//! reads or writes one number too many is ended by a signal (`gdb` shows where).
#![cfg(all(unix, not(miri)))]
#![allow(clippy::duplicate_mod, reason = "each file of tests brings what they share")]

#[path = "bytes.rs"]
mod bytes;
#[path = "chain.rs"]
mod chain;
#[path = "conv.rs"]
mod conv;
#[path = "common/guard.rs"]
mod guard;
#[path = "halves.rs"]
mod halves;
#[path = "int8.rs"]
mod int8;
#[path = "lanes.rs"]
mod lanes;
#[path = "long_maps.rs"]
mod long_maps;
#[path = "pointwise.rs"]
mod pointwise;
#[path = "pool.rs"]
mod pool;
#[path = "tally.rs"]
mod tally;
#[path = "tiles.rs"]
mod tiles;
#[path = "together.rs"]
mod together;
#[path = "winograd.rs"]
mod winograd;
#[path = "winograd_bf16.rs"]
mod winograd_bf16;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

#[global_allocator]
static GUARD: guard::Guarded = guard::Guarded;

/// These tests again in another process, with buffers flush against the page before or after them.
fn again(side: &str, args: &[&str]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).env(guard::SIDE.to_str().unwrap(), side).output().unwrap()
}

#[test]
fn again_flush_against_the_start() {
    if std::env::var_os(guard::SIDE.to_str().unwrap()).is_some() {
        return;
    }
    // Long maps fill whole pages, so they lie against both already.
    let output = again("start", &["--skip", "long_maps"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("test result: ok"), "{said}");
}

/// Numbers of a buffer that fills no page.
const SHORT: usize = 37;

#[test]
#[ignore = "ends the process; `what_lies_beside_a_buffer_cannot_be_read` runs it"]
fn reads_behind() {
    let short = Vec::from([1.0f32; SHORT]);
    // SAFETY: there is none: this must end the process.
    std::hint::black_box(unsafe { std::ptr::read_volatile(short.as_ptr().add(SHORT)) });
}

#[test]
#[ignore = "ends the process; `what_lies_beside_a_buffer_cannot_be_read` runs it"]
fn reads_before() {
    let short = Vec::from([1.0f32; SHORT]);
    // SAFETY: there is none: this must end the process.
    std::hint::black_box(unsafe { std::ptr::read_volatile(short.as_ptr().sub(1)) });
}

#[test]
fn what_lies_beside_a_buffer_cannot_be_read() {
    for (side, test) in [("end", "reads_behind"), ("start", "reads_before")] {
        let output = again(side, &["--exact", test, "--ignored"]);
        let signal = output.status.signal();
        assert!(
            matches!(signal, Some(libc::SIGSEGV | libc::SIGBUS)),
            "{test} was not stopped: {}",
            output.status
        );
    }
}
