//! One measurement of burn or candle that answers in turns: each line of standard input is a number of seconds,
//! each answer one line of JSON. Started by compare.py.
//!
//! Usage: rust_peers burn|candle NET train|infer BATCH THREADS

mod burn_nets;
mod candle_nets;

use serde_json::json;
use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// One step of training or one prediction of the whole batch.
pub type Step = Box<dyn FnMut() -> Result<(), String>>;

/// What is measured.
pub struct Work {
    pub net: String,
    pub train: bool,
    pub batch: usize,
}

/// Height, width, channels and classes, as in nets.py.
pub fn sizes(net: &str) -> Result<(usize, usize, usize, usize), String> {
    match net {
        "lenet5" => Ok((28, 28, 1, 10)),
        "resnet20" | "resnet32" | "resnet44" | "resnet56" => Ok((32, 32, 3, 10)),
        "resnet18" => Ok((224, 224, 3, 1000)),
        _ => Err(format!(
            "{net} is not written for burn and candle; lenet5, resnet18, resnet20 to resnet56 are"
        )),
    }
}

/// The blocks of a residual network: channels in, channels out, stride.
pub fn blocks(net: &str) -> Vec<(usize, usize, usize)> {
    let (widths, repeats): (&[usize], usize) = match net {
        "resnet18" => (&[64, 128, 256, 512], 2),
        _ => (&[16, 32, 64], (net["resnet".len()..].parse::<usize>().unwrap_or(20) - 2) / 6),
    };
    let mut c = widths[0];
    let mut list = Vec::new();
    for (stage, &d) in widths.iter().enumerate() {
        for i in 0..repeats {
            list.push((c, d, if stage > 0 && i == 0 { 2 } else { 1 }));
            c = d;
        }
    }
    list
}

/// A line of /proc/self/status, in bytes.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    let kilobytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Pictures a second, by the median of the steps' times.
fn measure(step: &mut Step, batch: usize, seconds: f64) -> Result<f64, String> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        step()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(batch as f64 / times[times.len() / 2])
}

fn run() -> Result<(), String> {
    let usage = "usage: rust_peers burn|candle NET train|infer BATCH THREADS";
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [library, net, mode, batch, threads] = args.as_slice() else { return Err(usage.into()) };
    // Both libraries read this variable, and only when they start.
    if std::env::var("RAYON_NUM_THREADS").as_ref() != Ok(threads) {
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        return Err(Command::new(exe)
            .args(&args)
            .env("RAYON_NUM_THREADS", threads)
            .exec()
            .to_string());
    }
    let batch = batch.parse().map_err(|_| usage)?;
    let work = Work { net: net.clone(), train: mode == "train", batch };
    let baseline = memory("VmRSS");
    let mut step = match library.as_str() {
        "burn" => burn_nets::step(&work)?,
        "candle" => candle_nets::step(&work)?,
        _ => return Err(usage.into()),
    };
    for _ in 0..2 {
        step()?;
    }
    println!("{}", json!({"ready": true}));
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| e.to_string())?;
        let seconds =
            line.trim().parse().map_err(|_| format!("{line}: not a number of seconds"))?;
        let speed = measure(&mut step, batch, seconds)?;
        let peak = memory("VmHWM");
        println!(
            "{}",
            json!({"images_per_second": speed, "peak_memory_bytes": peak, "baseline_memory_bytes": baseline})
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", e.lines().next().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}
