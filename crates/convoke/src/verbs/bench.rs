//! `convoke bench`.

use crate::common::{self, Arithmetic, Model, Threads, bytes, parse_shape};
use anyhow::Result;
use clap::ValueEnum;
use convoke_engine::{
    CallTime, Loss, Network, Optimizer, Plan, PlanOptions, Precision, Ranges, Session, Shape, Watch,
};
use convoke_kernels::peak;
use serde_json::json;
use std::time::Instant;

/// Measure the speed of a network on this machine
#[derive(clap::Args)]
pub struct Args {
    /// Zoo name, network file, model file or run folder
    model: String,
    /// What to measure
    #[arg(long, value_enum, default_value = "train")]
    mode: Mode,
    /// Pictures per step
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Input as height x width x channels [default: the network's own]
    #[arg(long, value_parser = parse_shape, value_name = "HxWxC")]
    input: Option<Shape>,
    /// Measure for about so long
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    seconds: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Read a number of seconds from each line of standard input, measure that long, print one JSON
    /// line; for measuring in turns with another program
    #[arg(long, hide = true)]
    turns: bool,
    /// Also print what each call of the schedule takes, slowest first
    #[arg(long, conflicts_with_all = ["turns", "json"])]
    profile: bool,
    #[command(flatten)]
    arithmetic: Arithmetic,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Mode {
    Train,
    Infer,
}

pub fn run(args: Args) -> Result<()> {
    let baseline = memory("VmRSS:");
    let mut precision = args.arithmetic.precision();
    let network = match common::model(&args.model)? {
        Model::Network(source) => source.build(args.input, None)?,
        Model::File(file, _) => {
            if let Mode::Infer = args.mode {
                precision = args.arithmetic.precision_of(&file);
            }
            match args.input {
                Some(input) => file.network.with_input(input)?,
                None => file.network,
            }
        }
    };
    let mut session = session(&network, &args, precision)?;
    let step = |session: &mut Session| -> Result<()> {
        match args.mode {
            Mode::Train => drop(session.step(1e-4)?),
            Mode::Infer => drop(session.predict(args.batch as usize)?.len()),
        }
        Ok(())
    };
    step(&mut session)?;
    if args.turns {
        println!("{}", json!({"ready": true}));
        for line in std::io::stdin().lines() {
            let seconds =
                median(line?.trim().parse().unwrap_or(args.seconds), || step(&mut session))?;
            println!("{}", Figures::of(&args, &network, &session, seconds, baseline).json());
        }
        return Ok(());
    }
    if args.profile {
        session.begin_profile();
    }
    let seconds = median(args.seconds, || step(&mut session))?;
    let figures = Figures::of(&args, &network, &session, seconds, baseline);
    if args.json {
        println!("{}", figures.json());
    } else {
        figures.print(&args);
    }
    if args.profile {
        print_profile(&session.profile(), &figures);
    }
    Ok(())
}

/// Median seconds of a step over about `seconds`.
fn median(seconds: f64, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        step()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn session(network: &Network, args: &Args, precision: Precision) -> Result<Session> {
    let (batch, threads) = (args.batch as usize, args.threads.count());
    let options = match args.mode {
        Mode::Infer => PlanOptions::predict(batch, threads),
        Mode::Train => {
            let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
            let loss = if network.output_shape().c > 1 {
                Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 }
            } else {
                Loss::SigmoidCrossEntropy { positive_weight: 1.0 }
            };
            PlanOptions { keep_grads: false, ..PlanOptions::train(batch, threads, loss, sgd) }
        }
    };
    let ranges = match precision {
        Precision::Int8 => ranges(network, threads)?,
        _ => Ranges::default(),
    };
    ready(network, &PlanOptions { precision, ranges, ..options })
}

/// A session with some weights and input: any numbers do, as long as they are not all equal.
fn ready(network: &Network, options: &PlanOptions) -> Result<Session> {
    let mut session = Session::new(Plan::compile(network, options)?)?;
    session.init(0);
    for (i, v) in session.input_mut().iter_mut().enumerate() {
        *v = (i.wrapping_mul(2_654_435_761) % 1024) as f32 / 512.0 - 1.0;
    }
    Ok(session)
}

/// What values the maps take on that input.
fn ranges(network: &Network, threads: usize) -> Result<Ranges> {
    let mut watch = Watch::new(network);
    let mut session = ready(network, &watch.options(1, threads))?;
    session.predict(1)?;
    watch.add(&session, 1);
    Ok(watch.ranges(network))
}

/// What one measurement gave.
struct Figures {
    images_per_second: f64,
    seconds_per_step: f64,
    gflops: f64,
    peak_gflops: f64,
    peak_memory: Option<usize>,
    baseline_memory: Option<usize>,
    plan_memory: usize,
}

impl Figures {
    fn of(
        args: &Args,
        network: &Network,
        session: &Session,
        seconds: f64,
        baseline: Option<usize>,
    ) -> Figures {
        let speed = f64::from(args.batch) / seconds;
        // Training multiplies by the filters three times: forward, and twice backward, except that the
        // first layer needs no gradient of its input.
        let first = network
            .iter()
            .find(|(_, n)| n.inputs.contains(&network.input()))
            .map_or(0, |(id, _)| network.macs_of(id));
        let macs = match args.mode {
            Mode::Infer => network.macs(),
            Mode::Train => 3 * network.macs() - first,
        };
        Figures {
            images_per_second: speed,
            seconds_per_step: seconds,
            gflops: 2.0 * macs as f64 * speed / 1e9,
            peak_gflops: peak::fma_gflops(session.plan().isa(), session.pool()),
            peak_memory: memory("VmHWM:"),
            baseline_memory: baseline,
            plan_memory: session.plan().memory().total,
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({"images_per_second": self.images_per_second, "gflops": self.gflops,
            "peak_fraction": self.gflops / self.peak_gflops, "peak_memory_bytes": self.peak_memory,
            "baseline_memory_bytes": self.baseline_memory, "plan_memory_bytes": self.plan_memory,
            "seconds_per_step": self.seconds_per_step})
    }

    fn print(&self, args: &Args) {
        println!(
            "{:.1} pictures/s ({:.2} ms a step of {})",
            self.images_per_second,
            1e3 * self.seconds_per_step,
            args.batch
        );
        println!(
            "{:.0} GFLOP/s, {:.0} % of the {:.0} that multiply-adds alone reach here",
            self.gflops,
            100.0 * self.gflops / self.peak_gflops,
            self.peak_gflops
        );
        let used = self.peak_memory.map_or("unknown".into(), bytes);
        println!("memory: plan {}, process at most {used}", bytes(self.plan_memory));
    }
}

/// Calls, slowest first: share of the time, milliseconds a step, fraction of the multiply-add peak, and the
/// rate at which its buffers pass if each is touched once.
fn print_profile(calls: &[CallTime], figures: &Figures) {
    let all: f64 = calls.iter().map(|c| c.seconds).sum();
    let mut calls: Vec<_> = calls.iter().filter(|c| c.seconds > 0.0).collect();
    calls.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    println!("{:>6} {:>9} {:>8} {:>7}  call", "share", "ms", "of peak", "GB/s");
    for c in calls {
        let share = c.seconds / all;
        let step = share * figures.seconds_per_step;
        let peak = 2e-9 * c.macs as f64 / step / figures.peak_gflops;
        let peak = if c.macs > 0 { format!("{:.0} %", 100.0 * peak) } else { String::new() };
        println!(
            "{:>5.1}% {:>9.3} {peak:>8} {:>7.1}  {} ({:?})",
            100.0 * share,
            1e3 * step,
            1e-9 * c.bytes as f64 / step,
            c.name,
            c.phase
        );
    }
}

/// A resident size of this process, where the system tells: `VmRSS:` now, `VmHWM:` at most so far.
fn memory(key: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|k| k * 1024)
}
