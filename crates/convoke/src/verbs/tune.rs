//! `convoke tune`.

use crate::common::{self, Model, Threads, duration, thousands, units};
use crate::progress::{Bar, interrupt};
use crate::verbs::fine_tune;
use crate::verbs::series::Signal;
use anyhow::{Context, Result, bail};
use convoke_data::{Dataset, OpenOptions, write_file};
use convoke_engine::{Network, Optimizer, Shape};
use convoke_formats::ModelFile;
use convoke_train::tune::{
    self, Budget, Event, Halving, Header, Importance, Limits, NetSpace, Nets, Sampler, Space,
    State, Study, Training, Trial, VERSION, importance, train_options, training_space,
    trial_folder,
};
use convoke_train::{Evaluation, Predictor, TrainOptions};
use convoke_vision::searched::{Searched, searched_page};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Search for the right hyperparameters: how deep, how many filters, which windows, where to pool, how to train
///
/// A study lives in its folder: give the same command again and it goes on, where it was killed too. What is not
/// in `--model` is searched as well: the network.
#[derive(clap::Args)]
pub struct Args {
    /// Pictures in class folders, IDX files, CIFAR-10 batches, or signals (.ts, .tsv, .csv, .npy)
    data: PathBuf,
    /// Search the training of this network only: a zoo name or a network file
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Trials, refused ones apart
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trials: u32,
    /// Minutes that this run takes at most; trials under way are paused then, and go on the next time
    #[arg(long, value_name = "X")]
    minutes: Option<f64>,
    /// Epochs of a trial that is not stopped early
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: u32,
    /// Who proposes trials
    #[arg(long, value_enum, default_value = "tpe")]
    sampler: SamplerArg,
    /// At 1, 3, 9, … epochs only the best of so many trials goes on (ASHA)
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100))]
    halving: u32,
    /// First epoch after which trials are stopped
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    first: u32,
    /// Let every trial run to its end
    #[arg(long, conflicts_with_all = ["halving", "first"])]
    no_stop: bool,
    /// The space to search, as a file; `--out` holds the one that was searched
    #[arg(long, value_name = "FILE.toml")]
    space: Option<PathBuf>,
    /// Refuse networks with more multiply-accumulates for a sample, such as 30M
    #[arg(long, value_name = "N", value_parser = count)]
    max_macs: Option<u64>,
    /// Refuse networks with more parameters, such as 100k
    #[arg(long, value_name = "N", value_parser = count)]
    max_params: Option<u64>,
    /// Refuse networks whose training step needs more memory, such as 512MiB
    #[arg(long, value_name = "BYTES", value_parser = count)]
    max_memory: Option<u64>,
    /// Refuse networks that take longer to predict one sample on one thread, in milliseconds
    #[arg(long, value_name = "MS")]
    max_latency: Option<f64>,
    /// Trials at a time, one thread each [default: one for each thread; for large --model one with all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Learn from so many samples only, spread over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    samples: Option<u32>,
    /// Share of each class held out to choose by, where there is no validation part; a test part is only looked at
    /// in the end
    #[arg(long, default_value_t = 0.2, value_name = "X")]
    val_fraction: f64,
    /// Side of the input in pixels [default: the data's or the network's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=4096))]
    size: Option<u32>,
    #[command(flatten)]
    signal: Signal,
    /// Seed of the search and of every training
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
    /// Folder of the study [default: runs/tune/<data>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq)]
enum SamplerArg {
    Random,
    Tpe,
}

/// `30M`, `512MiB`, `100k`, `5e6`.
fn count(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E'));
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let scale = match unit.to_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("write a number such as 30M, 100k or 512MiB".into()),
    };
    let value = number.trim().parse::<f64>().map(|v| v * scale).unwrap_or(f64::NAN);
    match (1.0..1e18).contains(&value) {
        true => Ok(value as u64),
        false => Err("write a number such as 30M, 100k or 512MiB".into()),
    }
}

pub fn run(args: Args) -> Result<()> {
    if !(0.01..=0.9).contains(&args.val_fraction) {
        bail!("--val-fraction {} must be from 0.01 to 0.9", args.val_fraction);
    }
    if args.minutes.is_some_and(|m| !(m.is_finite() && m > 0.0 && m < 1e6)) {
        bail!("--minutes must be a positive number");
    }
    let dataset = held_out(&args)?;
    let nets = nets(&args, &dataset)?;
    let input = match &nets {
        Nets::Space(s) => s.input,
        Nets::One(n) => n.input_shape(),
    };
    let preprocess = args.signal.preprocess(&dataset, input)?;
    let threads = args.threads.count();
    let large = matches!(&nets, Nets::One(n) if n.macs() > LARGE);
    let workers = args.workers.map_or(if large { 1 } else { threads }, usize::from);
    let space = space(&args, &nets, dataset.train.len())?;
    let per_trial = (threads / workers).max(1);
    let batch = 64.min(dataset.train.len());
    let suited = TrainOptions::suited(args.epochs as usize, batch, &preprocess, per_trial);
    let cache = suited.cache / workers;
    let fixed = TrainOptions { seed: args.seed, cache, checkpoint_seconds: 60, ..suited };
    let folder = args.out.clone().unwrap_or_else(|| default_folder(&args.data));
    let header = header(&args, space, &fixed, &dataset, &nets)?;
    let mut study = Study::open_or_begin(&folder.join("study.jsonl"), header)?;
    let training = Training {
        dataset: &dataset,
        preprocess,
        nets,
        fixed,
        limits: limits(&args),
        folder: folder.clone(),
    };
    let space = toml::to_string(&study.header().space).context("the space cannot be written")?;
    write_file(&folder.join("space.toml"), space.as_bytes())?;
    eprintln!(
        "study    {}: {} settings, {} trials so far, {workers} at a time",
        folder.display(),
        study.header().space.dimension.len(),
        study.trials().iter().filter(|t| t.state != State::Refused).count()
    );
    let budget = Budget {
        trials: Some(args.trials as usize),
        time: args.minutes.map(|m| Duration::from_secs_f64(60.0 * m)),
        workers,
    };
    let stop = interrupt();
    let mut table = Table::new(&args, folder.clone());
    let ended = tune::search(&mut study, &training, budget, &mut |s, e| table.hear(s, e), &stop);
    table.bar.finish();
    let ended = ended?;
    finish(&args, &study, &training, &folder)?;
    if !ended {
        println!("interrupted; the same command goes on");
    }
    Ok(())
}

/// Multiply-accumulates from which a trial gets all threads.
const LARGE: u64 = 50_000_000;

/// The data, with a part held out to choose by.
fn held_out(args: &Args) -> Result<Dataset> {
    let whole = OpenOptions { seed: args.seed, val_fraction: args.val_fraction };
    let mut dataset = Dataset::open(&args.data, &whole)?;
    if dataset.val.is_none() {
        let (train, val) = dataset.train.stratified(args.val_fraction, args.seed);
        if val.is_empty() {
            bail!("{} has too few samples to hold some out", args.data.display());
        }
        (dataset.train, dataset.val) = (train, Some(val));
    }
    if let Some(n) = args.samples {
        dataset.train = dataset.train.spread(n as usize);
    }
    let count = |s: Option<&convoke_data::Split>| thousands(s.map_or(0, |s| s.len()) as u64);
    eprintln!(
        "data     {}: {} classes, {} to train, {} held out to choose by, {} to test in the end",
        dataset.kind,
        dataset.classes.len(),
        thousands(dataset.train.len() as u64),
        count(dataset.val.as_ref()),
        count(dataset.test.as_ref())
    );
    Ok(dataset)
}

fn nets(args: &Args, dataset: &Dataset) -> Result<Nets> {
    let classes = dataset.classes.len();
    if let Some(model) = &args.model {
        if matches!(common::model(model)?, Model::File(..)) {
            bail!("{model} has weights already; give a zoo name or a network file");
        }
        let start = fine_tune::plain(model, args.size.map(|s| s as usize), dataset)?;
        return Ok(Nets::One(start.network));
    }
    let side = args.size.map(|s| Shape::new(s as usize, s as usize, dataset.channels));
    let own = dataset.size.map(|(h, w)| Shape::new(h, w, dataset.channels));
    // Photos of any size are searched small, or a trial would take hours.
    let input = side.or(own).unwrap_or(Shape::new(64, 64, dataset.channels));
    Ok(Nets::Space(NetSpace { input, classes }))
}

fn space(args: &Args, nets: &Nets, samples: usize) -> Result<Space> {
    if let Some(path) = &args.space {
        let text = common::read_text(path)?;
        let space: Space = toml::from_str(&text)
            .map_err(|e| anyhow::anyhow!("{}: {}", path.display(), e.message()))?;
        space.check().with_context(|| path.display().to_string())?;
        return Ok(space);
    }
    let (mut space, input) = match nets {
        Nets::Space(nets) => (nets.space(), nets.input),
        Nets::One(network) => (Space::default(), network.input_shape()),
    };
    space.dimension.extend(training_space(input, samples).dimension);
    Ok(space)
}

fn limits(args: &Args) -> Limits {
    Limits {
        parameters: args.max_params,
        macs: args.max_macs,
        memory: args.max_memory,
        latency: args.max_latency.map(|ms| ms / 1e3),
    }
}

fn header(
    args: &Args,
    space: Space,
    fixed: &TrainOptions,
    dataset: &Dataset,
    nets: &Nets,
) -> Result<Header> {
    let bare = TrainOptions { threads: 0, cache: 0, checkpoint_seconds: 0, ..fixed.clone() };
    let count = |s: Option<&convoke_data::Split>| s.map_or(0, |s| s.len());
    let mut terms = format!(
        "data = {} {} {}\n",
        dataset.classes.join(" "),
        dataset.train.len(),
        count(dataset.val.as_ref())
    );
    terms += &format!("limits = {:?}\n", limits(args));
    let signal = args.signal.choices();
    terms += &format!("signals = {:?} {:?}\n", signal.norm, signal.fit);
    match nets {
        Nets::Space(n) => terms += &format!("networks for {} and {}\n", n.input, n.classes),
        Nets::One(n) => terms += &n.to_toml(),
    }
    terms += &toml::to_string(&bare).context("settings cannot be written")?;
    let halving = Halving { first: args.first as usize, factor: args.halving as usize };
    Ok(Header {
        convoke_study: VERSION,
        space,
        sampler: match args.sampler {
            SamplerArg::Random => Sampler::Random,
            SamplerArg::Tpe => Sampler::Tpe,
        },
        halving: (!args.no_stop).then_some(halving),
        epochs: args.epochs as usize,
        seed: args.seed,
        terms,
    })
}

fn default_folder(data: &Path) -> PathBuf {
    let data = data.canonicalize().unwrap_or(data.into());
    let name = data.file_stem().map_or("data".into(), |s| s.to_string_lossy().into_owned());
    Path::new("runs/tune").join(name)
}

/// The live table: a line for each trial that ends, and a bar with the best and the time left.
struct Table {
    bar: Bar,
    folder: PathBuf,
    trials: usize,
    minutes: Option<f64>,
    start: Instant,
    /// Trials that had ended when this run began.
    before: Option<usize>,
    headed: bool,
}

impl Table {
    fn new(args: &Args, folder: PathBuf) -> Self {
        Table {
            bar: Bar::new(false),
            folder,
            trials: args.trials as usize,
            minutes: args.minutes,
            start: Instant::now(),
            before: None,
            headed: false,
        }
    }

    fn hear(&mut self, study: &Study, event: Event) {
        let ended = |t: &&Trial| !matches!(t.state, State::Running | State::Refused);
        let done = study.trials().iter().filter(ended).count();
        let before = *self.before.get_or_insert(done);
        if let Event::Ends(number) = event {
            tune::clear(&self.folder, study);
            if !self.headed {
                self.bar.line("trial  right    epochs  MACs     parameters  seconds");
                self.headed = true;
            }
            self.bar.line(&line(&study.trials()[number], study.best().map(|b| b.number)));
        }
        let passed = self.start.elapsed().as_secs_f64();
        let each = passed / (done - before).max(1) as f64;
        let by_trials = each * self.trials.saturating_sub(done) as f64;
        let left = self.minutes.map_or(by_trials, |m| by_trials.min(60.0 * m - passed));
        let left = match done > before {
            true => format!("{} left", duration(left)),
            false => String::new(),
        };
        let refused = study.trials().iter().filter(|t| t.state == State::Refused).count();
        let best = study.best().and_then(|b| Some((b.best()?.0, b.number)));
        let best = best.map_or(String::new(), |(v, n)| {
            format!("best {:.2} % in trial {}  ", 100.0 * v, n + 1)
        });
        self.bar.work("trial", done, self.trials, &format!("{best}{refused} refused  {left}"));
    }
}

fn line(t: &Trial, best: Option<usize>) -> String {
    let right = t.best().map_or("-".into(), |b| format!("{:.2} %", 100.0 * b.0));
    let told = match t.state {
        State::Stopped => "stopped".into(),
        State::Failed => format!("failed: {}", t.why),
        _ => String::new(),
    };
    let mark = if best == Some(t.number) { "  best so far" } else { "" };
    format!(
        "{:>5}  {right:<7}  {:>6}  {:<7}  {:>10}  {:>7.1}  {told}{mark}",
        t.number + 1,
        t.values.len(),
        units(t.macs as f64),
        thousands(t.parameters),
        t.seconds
    )
}

/// Network, weights, page and charts of what was found.
fn finish(args: &Args, study: &Study, training: &Training, folder: &Path) -> Result<()> {
    let Some(best) = study.best() else {
        println!("no trial came through an epoch yet; {}", folder.display());
        return Ok(());
    };
    let space = &study.header().space;
    let network = training.nets.network(space, &best.point)?;
    write_file(&folder.join("best.toml"), network.to_toml().as_bytes())?;
    let options = train_options(space, &best.point, &training.fixed);
    let options = TrainOptions { threads: args.threads.count(), cache: 1 << 30, ..options };
    let settings = toml::to_string(&options).context("settings cannot be written")?;
    write_file(&folder.join("settings.toml"), settings.as_bytes())?;
    let weights = trial_folder(folder, best.number).join("weights/best.safetensors");
    let test = match weights.is_file() {
        true => {
            let model = ModelFile::load(&weights)?;
            model.save(&folder.join("best.safetensors"))?;
            tested(model, training.dataset, args.threads.count())?
        }
        false => None,
    };
    let matters = importance(space, study.trials());
    let name = format!("tune {}", args.data.display());
    let command = format!(
        "convoke train {} --model {} --settings {} --epochs {}",
        args.data.display(),
        folder.join("best.toml").display(),
        folder.join("settings.toml").display(),
        args.epochs
    );
    let text = network.to_toml();
    let (page, charts) = searched_page(&Searched {
        name: &name,
        space,
        trials: study.trials(),
        importance: matters.as_ref(),
        network: &text,
        command: &command,
        test: test.as_ref().map(|e| (e.top1, e.n)),
    });
    write_file(&folder.join("tune.html"), page.as_bytes())?;
    for (name, svg) in charts {
        write_file(&folder.join(format!("{name}.svg")), svg.as_bytes())?;
    }
    match args.json {
        true => println!("{}", as_json(study, best, &network, matters.as_ref(), test.as_ref())),
        false => told(study, best, &network, &options, matters.as_ref(), test.as_ref()),
    }
    if !args.json {
        println!("page: {}", folder.join("tune.html").display());
        println!("next: {command}");
    }
    Ok(())
}

/// The best on the test part, which the search never saw.
fn tested(model: ModelFile, dataset: &Dataset, threads: usize) -> Result<Option<Evaluation>> {
    let Some(test) = &dataset.test else { return Ok(None) };
    let mut predictor = Predictor::new(model, 64.min(test.len()), threads)?;
    Ok(Some(predictor.evaluate(test, threads)?.0))
}

fn told(
    study: &Study,
    best: &Trial,
    network: &Network,
    options: &TrainOptions,
    matters: Option<&Importance>,
    test: Option<&Evaluation>,
) {
    let (value, epoch) = best.best().unwrap_or_default();
    println!(
        "best     trial {}: {:.2} % right on what was held out, after {epoch} epochs",
        best.number + 1,
        100.0 * value
    );
    if let Some(e) = test {
        println!(
            "test     {:.2} % right on {} samples that the search never saw",
            100.0 * e.top1,
            e.n
        );
    }
    println!(
        "network  {} parameters, {} MACs",
        thousands(network.parameters() as u64),
        units(network.macs() as f64)
    );
    let chosen = study.header().space.dimension.iter().zip(&best.point);
    let chosen = chosen.filter_map(|(d, v)| Some(format!("{} {}", d.name, d.kind.told((*v)?))));
    println!("chosen   {}", chosen.collect::<Vec<_>>().join(", "));
    let optimizer = match options.optimizer {
        Optimizer::Sgd { .. } => "sgd",
        Optimizer::Adam { .. } => "adam",
        Optimizer::AdamW { .. } => "adamw",
    };
    println!("training {optimizer}, rate {:.2e}, batch {}", options.lr, options.batch);
    match matters {
        Some(i) => {
            let shares = i.shares.iter().take(5).filter(|s| s.1 > 0.005);
            let shares: Vec<String> =
                shares.map(|(n, s)| format!("{n} {:.0} %", 100.0 * s)).collect();
            println!(
                "matters  {} (explains {:.0} % of the differences)",
                shares.join(", "),
                100.0 * i.explained.max(0.0)
            );
        }
        None => println!("matters  too few trials to tell"),
    }
}

fn as_json(
    study: &Study,
    best: &Trial,
    network: &Network,
    matters: Option<&Importance>,
    test: Option<&Evaluation>,
) -> serde_json::Value {
    let (value, epoch) = best.best().unwrap_or_default();
    let count = |s: State| study.trials().iter().filter(|t| t.state == s).count();
    json!({
        "best": {"trial": best.number + 1, "top1": value, "epoch": epoch,
            "chosen": study.header().space.to_json(&best.point),
            "parameters": network.parameters(), "macs": network.macs()},
        "test": test.map(|e| json!({"top1": e.top1, "loss": e.loss, "n": e.n})),
        "trials": {"done": count(State::Done), "stopped": count(State::Stopped),
            "refused": count(State::Refused), "failed": count(State::Failed),
            "running": count(State::Running)},
        "importance": matters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_people_write_them() {
        for (text, n) in [
            ("30M", 30_000_000),
            ("1.5k", 1500),
            ("512MiB", 512 << 20),
            ("2GB", 2_000_000_000),
            ("5e6", 5_000_000),
            ("77", 77),
        ] {
            assert_eq!(count(text), Ok(n), "{text}");
        }
        for wrong in ["", "M", "-5", "0", "1x", "1e40", "nan"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }
}
