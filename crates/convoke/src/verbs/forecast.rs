//! `convoke forecast`.

use crate::common::{self, Model, Threads, thousands, trained};
use crate::progress::{Bar, interrupt};
use anyhow::{Context, Result, bail};
use convoke_data::{Table, write_file};
use convoke_engine::{Network, Shape};
use convoke_train::RunFolder;
use convoke_train::series::{FitOptions, ForecastOptions, Forecaster, Walk, walk_forward};
use convoke_vision::searched::forecast_chart;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Forecast the next steps of a series, and tell how good such forecasts have been
///
/// The last part of the table is forecast step by step, each time from what was known then, by networks that learnt
/// from what was known then. Errors are told beside those of the naive forecast, that all stays as it is.
#[derive(clap::Args)]
pub struct Args {
    /// CSV with a heading, a row for each step of time, oldest first
    table: PathBuf,
    /// Column to forecast, by name
    #[arg(long, value_name = "NAME", required_unless_present = "model_file")]
    column: Option<String>,
    /// Columns to look at, by name [default: the forecast one]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    inputs: Vec<String>,
    /// Zoo name or network file
    #[arg(long, default_value = "tcn", value_name = "MODEL")]
    model: String,
    /// Forecast with this model file instead of training one
    #[arg(long = "use", value_name = "MODEL", id = "model_file", conflicts_with_all = ["column", "inputs"])]
    model_file: Option<String>,
    /// Rows that a forecast looks back
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=65_536))]
    window: u32,
    /// Steps that it looks ahead
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    ahead: u32,
    /// Share of the rows, at the end, that are forecast to judge by
    #[arg(long, default_value_t = 0.2, value_name = "X")]
    test: f64,
    /// Parts of them, before each of which the network learns anew
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    folds: u32,
    /// Passes over the rows
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: u32,
    /// Windows per step
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Largest learning rate
    #[arg(long, default_value_t = 1e-3, value_name = "X")]
    lr: f32,
    /// Weight decay
    #[arg(long, default_value_t = 0.05, value_name = "X")]
    weight_decay: f32,
    /// Seed of weights, order and dropout
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
    /// Folder of the run [default: the next free of runs/forecast/<table>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let table = Table::read(&args.table)?;
    if let Some(model) = &args.model_file {
        let forecaster = Forecaster::of_model(&trained(model)?, &table, args.threads.count())?;
        return next(&forecaster, &table, args.json);
    }
    if !(args.lr.is_finite() && args.lr > 0.0 && args.weight_decay >= 0.0) {
        bail!("--lr must be a positive number, --weight-decay none below 0");
    }
    if !(0.01..=0.9).contains(&args.test) {
        bail!("--test {} must be from 0.01 to 0.9", args.test);
    }
    let options = options(&args, &table)?;
    let network = network(&args, &options)?;
    let name = args.table.file_stem().map_or("table".into(), |s| s.to_string_lossy().into_owned());
    let folder = match &args.out {
        Some(out) => RunFolder::create(out)?,
        None => RunFolder::next(Path::new("runs/forecast"), &name)?,
    };
    eprintln!(
        "data     {} rows; {} forecast from {} by {} back, {} ahead; left out, being no numbers: {}",
        thousands(table.rows() as u64),
        table.names[options.column],
        options.inputs.iter().map(|&c| table.names[c].as_str()).collect::<Vec<_>>().join(", "),
        options.window,
        options.ahead,
        if table.left_out.is_empty() { "none".into() } else { table.left_out.join(", ") }
    );
    let (stop, mut bar) = (interrupt(), Bar::new(false));
    let all = (options.folds + 1) * options.fit.epochs;
    let mut told = |fold: usize, epoch: usize, loss: f64| {
        bar.work("epoch", fold * options.fit.epochs + epoch, all, &format!("loss {loss:.4}"));
    };
    let walk = walk_forward(&network, &table, &options, &mut told, &stop)?;
    let mut last = |epoch: usize, loss: f64| told(options.folds, epoch, loss);
    let forecaster = Forecaster::train(&network, &table, table.rows(), &options, &mut last, &stop)?;
    bar.finish();
    forecaster.model(&table).save(&folder.best())?;
    folder.write_settings(
        &json!({"table": args.table.to_string_lossy(), "model": args.model, "forecast": options}),
    )?;
    folder.write("forecast.csv", &csv(&walk))?;
    let ahead = forecaster.forecast(&table, &[table.rows() - 1])?.remove(0);
    let chart = forecast_chart(&table, options.column, &walk.origins, &ahead);
    write_file(&folder.path().join("forecast.svg"), chart.as_bytes())?;
    if args.json {
        let object =
            json!({"column": table.names[options.column], "errors": walk.errors, "next": ahead});
        println!("{object}");
        return Ok(());
    }
    report(&walk);
    next(&forecaster, &table, false)?;
    println!("run: {}", folder.path().display());
    Ok(())
}

fn options(args: &Args, table: &Table) -> Result<ForecastOptions> {
    let column = |name: &String| {
        let hint = convoke_engine::names::hint(name, table.names.iter().map(String::as_str));
        table.column(name).with_context(|| {
            format!("{} has no column of numbers `{name}`{hint}", args.table.display())
        })
    };
    let wanted = column(args.column.as_ref().context("--column is missing")?)?;
    let inputs = match args.inputs.is_empty() {
        true => vec![wanted],
        false => args.inputs.iter().map(column).collect::<Result<Vec<_>>>()?,
    };
    let fit = FitOptions {
        epochs: args.epochs as usize,
        batch: args.batch as usize,
        lr: args.lr,
        weight_decay: args.weight_decay,
        seed: args.seed,
        threads: args.threads.count(),
    };
    Ok(ForecastOptions {
        column: wanted,
        inputs,
        window: args.window as usize,
        ahead: args.ahead as usize,
        test: args.test,
        folds: args.folds as usize,
        fit,
    })
}

fn network(args: &Args, o: &ForecastOptions) -> Result<Network> {
    match common::model(&args.model)? {
        Model::Network(source) => {
            source.build(Some(Shape::new(1, o.window, o.inputs.len())), Some(o.ahead))
        }
        Model::File(..) => bail!("{} has weights already; give it as --use", args.model),
    }
}

fn csv(walk: &Walk) -> String {
    let mut text = String::from("row,ahead,known,forecast,came\n");
    for o in &walk.origins {
        for (k, said) in o.said.iter().enumerate() {
            let came = o.came.get(k).map_or(String::new(), f32::to_string);
            text += &format!("{},{},{},{said},{came}\n", o.row, k + 1, o.last);
        }
    }
    text
}

fn report(walk: &Walk) {
    println!("ahead  RMSE       naive      MAE        naive      direction      n");
    for e in &walk.errors {
        println!(
            "{:>5}  {:<9.4}  {:<9.4}  {:<9.4}  {:<9.4}  {:>5.1} %  {:>9}",
            e.ahead,
            e.rmse,
            e.rmse_naive,
            e.mae,
            e.mae_naive,
            100.0 * e.direction,
            e.n
        );
    }
    let better = walk.errors.iter().filter(|e| e.rmse < e.rmse_naive).count();
    let gain = |e: &convoke_train::series::Errors| 100.0 * (1.0 - e.rmse / e.rmse_naive);
    let mean = walk.errors.iter().map(gain).sum::<f64>() / walk.errors.len().max(1) as f64;
    match (better == walk.errors.len(), mean > 2.0) {
        (true, true) => println!("better than the naive forecast by {mean:.1} % on average"),
        (false, _) if better == 0 => {
            println!("worse than the naive forecast at every step: that all stays as it is")
        }
        _ => println!(
            "no better than the naive forecast, which is that all stays as it is ({mean:+.1} % on average)"
        ),
    }
}

fn next(forecaster: &Forecaster, table: &Table, json: bool) -> Result<()> {
    let ahead = forecaster.forecast(table, &[table.rows() - 1])?.remove(0);
    if json {
        println!("{}", json!({ "next": ahead }));
        return Ok(());
    }
    let (_, column) = forecaster.looks();
    let last = table.values[(table.rows() - 1) * table.names.len() + column];
    let said: Vec<String> = ahead.iter().map(|v| format!("{v:.4}")).collect();
    println!("next     {} after {last:.4}", said.join(", "));
    Ok(())
}
