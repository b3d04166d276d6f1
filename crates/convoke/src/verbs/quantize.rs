//! `convoke quantize`.

use crate::common::{Threads, model_path, trained};
use crate::progress::Bar;
use anyhow::{Result, bail};
use convoke_data::{Dataset, OpenOptions, Split};
use convoke_train::quantize;
use std::path::PathBuf;

/// Make a trained model ready to predict in 8-bit integers
#[derive(clap::Args)]
pub struct Args {
    /// Run folder or model file
    model: String,
    /// Pictures like those it will see, with classes or without; not those that it is measured on
    pictures: PathBuf,
    /// Look at so many of them, from all over
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    most: u32,
    /// Model file to write [default: MODEL with -int8 in its name]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> Result<()> {
    let mut model = trained(&args.model)?;
    let path = model_path(&args.model)?;
    let out = args.out.unwrap_or_else(|| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!("{stem}-int8.safetensors"))
    });
    let split = split(&args.pictures)?.spread(args.most as usize);
    let mut bar = Bar::new(false);
    let seen = quantize(&mut model, &split, args.threads.count(), |done, all| {
        bar.work("quantize", done, all, "pictures, in f32 and then in int8");
    });
    bar.finish();
    let seen = seen?;
    if seen.maps == 0 {
        bail!("no map has a range: the network's numbers are zero or not finite on these pictures");
    }
    model.save(&out)?;
    println!(
        "{}: ranges of {} maps from {} pictures; int8 names the class that f32 names for {} of them",
        out.display(),
        seen.maps,
        seen.pictures,
        seen.same
    );
    println!("next: convoke val {} DATA", out.display());
    Ok(())
}

/// The pictures that it was trained with, where they can be told apart from those it is measured on.
fn split(path: &std::path::Path) -> Result<Split> {
    let options = OpenOptions { seed: 0, val_fraction: 0.0 };
    match Dataset::open(path, &options) {
        Ok(data) => Ok(data.train),
        Err(e) => match Split::unlabelled(path) {
            Ok(split) if path.is_dir() => Ok(split),
            _ => Err(e.into()),
        },
    }
}
