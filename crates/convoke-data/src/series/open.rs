//! Which files make a set of signals, and the set.

use super::{Said, Signals, fill, npy, rows, ts};
use crate::dataset::{Dataset, OpenOptions, Source, Split, entries};
use crate::{DataError, Result};
use std::path::{Path, PathBuf};

/// Formats, the one that says most first.
const EXTENSIONS: [&str; 4] = ["ts", "tsv", "csv", "npy"];

/// Files of a set.
#[derive(Debug, PartialEq)]
struct Files {
    train: PathBuf,
    val: Option<PathBuf>,
    test: Option<PathBuf>,
}

/// Whether there are signals at a path.
pub(crate) fn is_one(path: &Path) -> bool {
    matches!(files(path), Ok(Some(_)))
}

/// The set at a path; none when there are no signals.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Option<Dataset>> {
    let Some(files) = files(path)? else { return Ok(None) };
    let train = read(&files.train)?;
    let others = [&files.val, &files.test].map(|p| p.as_ref().map(|p| Ok((read(p)?, p))));
    let [val, test] = others;
    let (val, test) = (val.transpose()?, test.transpose()?);
    if train.targets {
        let what = "is a set of numbers to estimate, not of classes; give --task regress";
        return Err(DataError::dataset(&files.train, what));
    }
    let classes =
        classes(&train, [val.as_ref(), test.as_ref()].into_iter().flatten().map(|o| &o.0));
    if classes.len() < 2 {
        let what = "has fewer than two classes; each series needs its class";
        return Err(DataError::dataset(&files.train, what));
    }
    let channels = train.channels;
    let mut part = split(&files.train, train, &classes, channels)?;
    let other = |o: Option<(Said, &PathBuf)>| {
        o.map(|(said, path)| split(path, said, &classes, channels)).transpose()
    };
    let (mut val, test) = (other(val)?, other(test)?);
    if val.is_none() && test.is_none() && options.val_fraction > 0.0 {
        let (most, rest) = part.stratified(options.val_fraction, options.seed);
        (part, val) = (most, Some(rest).filter(|r| !r.is_empty()));
    }
    let longest = match &part.source {
        Source::Signals(s) => s.lengths().1,
        _ => 0,
    };
    Ok(Some(Dataset {
        kind: "signals",
        classes,
        train: part,
        val,
        test,
        channels,
        size: Some((1, longest)),
        ignored: 0,
    }))
}

/// Whether the signals at a path have a number each to estimate.
pub fn is_regression(path: &Path) -> bool {
    let train = files(path).ok().flatten().map(|f| f.train);
    train.is_some_and(|t| read(&t).is_ok_and(|said| said.targets))
}

/// The signals of one file, for a model whose signals have that length; classes and targets are passed over. A row
/// of as many numbers has no class before them.
///
/// # Errors
/// When the file cannot be read.
pub fn read_signals(path: &Path, length: usize) -> Result<Signals> {
    let said = match extension(path).as_deref() {
        Some("tsv" | "csv") => rows::read_bare(path, length)?,
        Some("ts" | "npy") => read(path)?,
        _ => {
            return Err(DataError::dataset(
                path,
                "is no file of signals; give .ts, .tsv, .csv or .npy",
            ));
        }
    };
    signals(path, said.signals, said.channels)
}

/// Signals with a number each.
#[derive(Debug, Clone)]
pub struct Regression {
    /// To learn from.
    pub train: (Signals, Vec<f32>),
    /// To report on.
    pub test: Option<(Signals, Vec<f32>)>,
}

/// The set of numbers to estimate at a path.
///
/// # Errors
/// When there is none, or a target is no number.
pub fn regression(path: &Path) -> Result<Regression> {
    let Some(files) = files(path)? else {
        return Err(DataError::dataset(path, "holds no signals (.ts, .tsv, .csv, .npy)"));
    };
    let numbers = |path: &Path| {
        let said = read(path)?;
        let number = |l: &String| l.parse::<f32>().ok().filter(|v| v.is_finite());
        let targets = said.labels.iter().map(number).collect::<Option<Vec<f32>>>();
        let Some(targets) = targets.filter(|t| t.len() == said.signals.len()) else {
            return Err(DataError::dataset(path, "has series without a number to estimate"));
        };
        Ok((signals(path, said.signals, said.channels)?, targets))
    };
    let train = numbers(&files.train)?;
    let test = files.test.as_deref().or(files.val.as_deref()).map(numbers).transpose()?;
    if test.as_ref().is_some_and(|t| t.0.channels() != train.0.channels()) {
        return Err(DataError::dataset(path, "has other channels to test than to train"));
    }
    Ok(Regression { train, test })
}

/// The files of a set in a folder, or of one of its files.
fn files(path: &Path) -> Result<Option<Files>> {
    let (folder, named) = match path.is_dir() {
        true => (path, None),
        false => {
            (path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")), Some(path))
        }
    };
    let wanted = named.and_then(extension);
    if named.is_some() && !wanted.as_deref().is_some_and(|w| EXTENSIONS.contains(&w)) {
        return Ok(None);
    }
    let all: Vec<PathBuf> = entries(folder)?.into_iter().filter(|p| p.is_file()).collect();
    for kind in EXTENSIONS.into_iter().filter(|k| wanted.as_deref().is_none_or(|w| w == *k)) {
        let mine = all.iter().filter(|p| extension(p).as_deref() == Some(kind) && !is_labels(p));
        let mine: Vec<&PathBuf> = mine.collect();
        let part = |words: &[&str]| mine.iter().find(|p| words.iter().any(|w| says(p, w)));
        let train = match named {
            // A file alone, or one of a pair, which then is the pair.
            Some(file) if !says(file, "train") && !says(file, "test") => {
                Some(&file.to_path_buf()).cloned()
            }
            _ => part(&["train"]).map(|p| p.to_path_buf()).or_else(|| match mine[..] {
                [one] if named.is_none() => Some(one.clone()),
                _ => named.map(Path::to_path_buf),
            }),
        };
        let Some(train) = train else { continue };
        let signals = match kind {
            "csv" | "tsv" => rows::is_one(&train),
            _ => true,
        };
        if !signals {
            continue;
        }
        let pair = says(&train, "train");
        let other =
            |words: &[&str]| part(words).filter(|p| pair && ***p != train).map(|p| p.to_path_buf());
        return Ok(Some(Files {
            val: other(&["val", "valid", "validation"]),
            test: other(&["test"]),
            train,
        }));
    }
    Ok(None)
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_string_lossy().to_lowercase())
}

/// Whether a file's name has that word in it: `GunPoint_TRAIN`, `x-train`.
fn says(path: &Path, word: &str) -> bool {
    let stem = path.file_stem().map_or(String::new(), |s| s.to_string_lossy().to_lowercase());
    stem.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w == word)
}

/// Whether it is the file of classes beside one of series: `y_train.npy`, `labels.npy`.
fn is_labels(path: &Path) -> bool {
    extension(path).as_deref() == Some("npy") && (says(path, "y") || says(path, "labels"))
}

fn read(path: &Path) -> Result<Said> {
    match extension(path).as_deref() {
        Some("ts") => ts::read(path),
        Some("npy") => npy::read(path, labels_of(path).as_deref()),
        _ => rows::read(path),
    }
}

/// The file of classes beside a file of series: `X` becomes `y`, or `labels`.
fn labels_of(path: &Path) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    let swapped = |to: &str| {
        let swap =
            |part: &str| if part.eq_ignore_ascii_case("x") { to.to_string() } else { part.into() };
        stem.split('_').map(swap).collect::<Vec<_>>().join("_")
    };
    let names = [
        swapped("y"),
        swapped("Y"),
        swapped("labels"),
        format!("{stem}_labels"),
        format!("{stem}_y"),
    ];
    names.iter().map(|n| path.with_file_name(format!("{n}.npy"))).find(|p| p != path && p.is_file())
}

/// Classes of a set: as the file lists them, or all that there are, numbers by their size.
fn classes<'a>(train: &'a Said, others: impl Iterator<Item = &'a Said>) -> Vec<String> {
    if let Some(classes) = &train.classes {
        return classes.clone();
    }
    let mut all: Vec<String> = train.labels.clone();
    others.for_each(|o| all.extend(o.labels.iter().cloned()));
    all.sort();
    all.dedup();
    if all.iter().all(|c| c.parse::<f64>().is_ok()) {
        let value = |c: &String| c.parse::<f64>().unwrap_or(0.0);
        all.sort_by(|a, b| value(a).total_cmp(&value(b)));
    }
    all
}

fn split(path: &Path, said: Said, classes: &[String], channels: usize) -> Result<Split> {
    let wrong = |what: String| Err(DataError::dataset(path, what));
    if said.channels != channels {
        return wrong(format!(
            "has {} channels; the training signals have {channels}",
            said.channels
        ));
    }
    if said.labels.len() != said.signals.len() {
        return wrong(
            "has series without classes; beside x.npy put y.npy, in .ts say @classLabel true"
                .into(),
        );
    }
    let label = |l: &String| classes.iter().position(|c| c == l).map(|i| i as u32);
    let labels = said.labels.iter().map(label).collect::<Option<Vec<u32>>>();
    let Some(labels) = labels else {
        let unknown = said.labels.iter().find(|l| !classes.contains(l));
        return wrong(format!(
            "has a class `{}` that is not among the set's",
            unknown.map_or("", |s| s)
        ));
    };
    Ok(Split { source: Source::Signals(signals(path, said.signals, channels)?), labels })
}

fn signals(path: &Path, mut all: Vec<Vec<f32>>, channels: usize) -> Result<Signals> {
    all.iter_mut().for_each(|s| fill(s, channels));
    Signals::new(&all, channels).map_err(|what| DataError::dataset(path, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
    }

    #[test]
    fn a_pair_of_files_is_a_set() {
        let folder = tempfile::tempdir().unwrap();
        let head = "@classLabel true b a\n@data\n";
        let train = format!("{head}1,2:a\n3,4,5:b\n");
        write(folder.path(), &[("S_TRAIN.ts", &train), ("S_TEST.ts", &format!("{head}9,9:b\n"))]);
        for path in [folder.path().to_path_buf(), folder.path().join("S_TRAIN.ts")] {
            let set = open(&path, &OpenOptions::default()).unwrap().unwrap();
            assert_eq!((set.train.len(), set.test.as_ref().unwrap().len()), (2, 1));
            assert!(set.val.is_none());
            assert_eq!((set.classes, set.size), (vec!["b".to_string(), "a".into()], Some((1, 3))));
            assert_eq!(set.train.labels, [1, 0]);
        }
    }

    #[test]
    fn one_file_is_split_evenly() {
        let folder = tempfile::tempdir().unwrap();
        let rows: String = (0..20).map(|i| format!("{},{i},{i},{i}\n", i % 2)).collect();
        write(folder.path(), &[("all.csv", &rows)]);
        let set = open(folder.path(), &OpenOptions::default()).unwrap().unwrap();
        assert_eq!(set.train.counts(2), [8, 8]);
        assert_eq!(set.val.unwrap().counts(2), [2, 2]);
        assert!(set.test.is_none());
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = |files: &[(&str, &str)]| {
            write(folder.path(), files);
            open(folder.path(), &OpenOptions::default()).unwrap_err().to_string()
        };
        let good = ("A_TRAIN.ts", "@classLabel true a b\n@data\n1,2:a\n3,4:b\n");
        let e = told(&[good, ("A_TEST.ts", "@classLabel true a c\n@data\n1,2:c\n")]);
        assert!(e.contains("class `c`"), "{e}");
        let e = told(&[good, ("A_TEST.ts", "@classLabel true a b\n@data\n1,2:3,4:a\n")]);
        assert!(e.contains("2 channels"), "{e}");
        let e = told(&[("A_TRAIN.ts", "@classLabel false\n@data\n1,2\n")]);
        assert!(e.contains("fewer than two classes"), "{e}");
        let e = told(&[("A_TRAIN.ts", "@targetLabel true\n@data\n1,2:0.5\n")]);
        assert!(e.contains("regress"), "{e}");
        // A table of other things is none of ours.
        let other = tempfile::tempdir().unwrap();
        write(other.path(), &[("notes.csv", "name,size,colour\nx,y,z\n")]);
        assert!(open(other.path(), &OpenOptions::default()).unwrap().is_none());
    }

    /// The archive's own files, where they are.
    #[test]
    fn the_archives_sets_are_read() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/series-ucr");
        if !data.is_dir() {
            return eprintln!("skipped: no {}", data.display());
        }
        for (name, n, channels, lengths) in [
            ("GunPoint", [50, 150], 1, (150, 150)),
            ("ItalyPowerDemand", [67, 1029], 1, (24, 24)),
            ("ArrowHead", [36, 175], 1, (251, 251)),
            ("BasicMotions", [40, 40], 6, (100, 100)),
            ("JapaneseVowels", [270, 370], 12, (7, 26)),
        ] {
            let set = open(&data.join(name), &OpenOptions::default()).unwrap().unwrap();
            let test = set.test.as_ref().unwrap();
            assert_eq!([set.train.len(), test.len()], n, "{name}");
            let Source::Signals(s) = &set.train.source else { panic!("{name}") };
            assert_eq!((s.channels(), s.lengths()), (channels, lengths), "{name}");
        }
        // The same set as .tsv.
        let tsv = rows::read(&data.join("ArrowHead/ArrowHead_TRAIN.tsv")).unwrap();
        let ts = ts::read(&data.join("ArrowHead/ArrowHead_TRAIN.ts")).unwrap();
        assert_eq!(tsv.signals.len(), ts.signals.len());
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(tsv.signals.iter().zip(&ts.signals).all(|(a, b)| a.iter().zip(b).all(near)));
    }
}
