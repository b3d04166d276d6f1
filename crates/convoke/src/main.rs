//! The `convoke` command.

#![forbid(unsafe_code)]

// Before all others, whose `println!` it is.
#[macro_use]
mod say;

mod common;
mod fetch;
mod progress;
mod verbs;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Convolutional networks: train, find, look inside, know the cost.
#[derive(Parser)]
#[command(name = "convoke", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Demo(verbs::demo::Args),
    Train(verbs::train::Args),
    Val(verbs::val::Args),
    Predict(verbs::predict::Args),
    Find(verbs::find::Args),
    Look(verbs::look::Args),
    Lens(verbs::lens::Args),
    Plan(verbs::plan::Args),
    Import(verbs::import::Args),
    Export(verbs::export::Args),
    Quantize(verbs::quantize::Args),
    Models(verbs::models::Args),
    Bench(verbs::bench::Args),
    #[command(subcommand)]
    Data(verbs::data::Verb),
    Report(verbs::report::Args),
    Tune(verbs::tune::Args),
    Compare(verbs::compare::Args),
    Forecast(verbs::forecast::Args),
}

fn main() -> ExitCode {
    quiet_pipes();
    let command = Cli::command().mut_subcommand("train", verbs::train::settled);
    let parsed = command.try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return common::usage(e),
    };
    let result = match cli.verb {
        Verb::Demo(a) => verbs::demo::run(a),
        Verb::Train(a) => verbs::train::run(a),
        Verb::Val(a) => verbs::val::run(a),
        Verb::Predict(a) => verbs::predict::run(a),
        Verb::Find(a) => verbs::find::run(a),
        Verb::Look(a) => verbs::look::run(a),
        Verb::Lens(a) => verbs::lens::run(a),
        Verb::Plan(a) => verbs::plan::run(a),
        Verb::Quantize(a) => verbs::quantize::run(a),
        Verb::Import(a) => verbs::import::run(a),
        Verb::Export(a) => verbs::export::run(a),
        Verb::Models(a) => verbs::models::run(a),
        Verb::Bench(a) => verbs::bench::run(a),
        Verb::Data(v) => verbs::data::run(v),
        Verb::Report(a) => verbs::report::run(a),
        Verb::Tune(a) => verbs::tune::run(a),
        Verb::Compare(a) => verbs::compare::run(a),
        Verb::Forecast(a) => verbs::forecast::run(a),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            common::error(&e);
            ExitCode::from(1)
        }
    }
}

/// Ends quietly when the reader of our output has gone (`convoke models | head`), and in one line when it takes no
/// more (a full disk), instead of with a panic's text.
fn quiet_pipes() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().cloned().unwrap_or_default();
        if text.contains("Broken pipe") {
            std::process::exit(0);
        }
        if let Some(why) = text.strip_prefix("failed printing to stdout: ") {
            let _ = writeln!(std::io::stderr(), "error: the output cannot be written: {why}");
            std::process::exit(1);
        }
        default(info);
    }));
}
