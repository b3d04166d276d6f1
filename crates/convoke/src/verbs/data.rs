//! `convoke data`.

use crate::common::thousands;
use crate::verbs::data_boxes;
use anyhow::{Result, bail};
use convoke_data::{BoxSet, Dataset, OpenOptions, Source, read_size};
use std::path::PathBuf;

/// Look at data before training on it
#[derive(clap::Subcommand)]
pub enum Verb {
    Check(Check),
}

/// Count classes, and name the files that are no readable pictures
#[derive(clap::Args)]
pub struct Check {
    /// Folder of class folders, IDX files or CIFAR-10 batches, or pictures with boxes
    data: PathBuf,
    /// Folder for pictures of what is wrong with boxes, and a list of it
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(verb: Verb) -> Result<()> {
    let Verb::Check(args) = verb;
    if BoxSet::is_one(&args.data) {
        return data_boxes::run(&args.data, args.out.as_deref());
    }
    let set = Dataset::open(&args.data, &OpenOptions { seed: 0, val_fraction: 0.0 })?;
    println!("{}: {} classes", set.kind, set.classes.len());
    let splits =
        [("train", Some(&set.train)), ("val", set.val.as_ref()), ("test", set.test.as_ref())];
    let mut broken = 0;
    for (name, split) in splits {
        let Some(split) = split else { continue };
        let counts = split.counts(set.classes.len());
        println!("{name}: {} pictures", thousands(split.len() as u64));
        for (class, count) in set.classes.iter().zip(&counts) {
            println!("  {:>8}  {class}", thousands(*count as u64));
        }
        let (least, most) = (counts.iter().min().unwrap_or(&0), counts.iter().max().unwrap_or(&0));
        if *most > 10 * (*least).max(1) {
            println!("  unbalanced: the largest class has {most} pictures, the smallest {least}");
        }
        let Source::Files(files) = &split.source else { continue };
        for path in files {
            if let Err(e) = read_size(path) {
                broken += 1;
                println!("  broken: {e}");
            }
        }
    }
    for (path, kind, others) in set.strangers() {
        println!("stranger: {} is a {kind} among {others}; look at it", path.display());
    }
    if set.ignored > 0 {
        println!("{} files are no pictures by their names and are left out", set.ignored);
    }
    match broken {
        0 => Ok(()),
        n => bail!("{n} pictures cannot be read; training leaves them out"),
    }
}
