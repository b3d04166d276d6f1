//! Data sets, recognised by what lies in the folder: class folders, IDX, CIFAR-10 batches.

use crate::picture::Picture;
use crate::series::{self, Signals};
use crate::{DataError, Result, cifar, idx};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the pixels of a split come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files, decoded when needed.
    Files(Vec<PathBuf>),
    /// Pixels in memory, `[n, height, width, channels]`.
    Memory {
        /// All pixels.
        pixels: Arc<Vec<u8>>,
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Channels.
        channels: usize,
    },
    /// Signals in memory.
    Signals(Signals),
}

/// One part of a data set.
#[derive(Debug, Clone)]
pub struct Split {
    /// Where the pixels come from.
    pub source: Source,
    /// Class of each sample.
    pub labels: Vec<u32>,
}

impl Split {
    /// All pictures under a folder, or a file alone, without classes.
    ///
    /// # Errors
    /// When there are none.
    pub fn unlabelled(path: &Path) -> Result<Self> {
        let (mut files, mut ignored) = (Vec::new(), 0);
        match path.is_dir() {
            true => pictures(path, &mut files, &mut ignored)?,
            false => files.push(path.into()),
        }
        if files.is_empty() {
            return Err(DataError::dataset(path, "holds no pictures"));
        }
        let labels = vec![0; files.len()];
        Ok(Split { source: Source::Files(files), labels })
    }

    /// At most `n` samples, from all over the split.
    pub fn spread(&self, n: usize) -> Split {
        let n = n.min(self.len());
        self.pick(&(0..n).map(|i| i * self.len() / n).collect::<Vec<_>>())
    }

    /// These samples, which must be in the split, in this order.
    pub fn pick(&self, chosen: &[usize]) -> Split {
        let labels = chosen.iter().map(|&i| self.labels[i]).collect();
        let source = match &self.source {
            Source::Files(files) => {
                Source::Files(chosen.iter().map(|&i| files[i].clone()).collect())
            }
            Source::Memory { pixels, height, width, channels } => {
                let len = height * width * channels;
                let mut all = Vec::with_capacity(len * chosen.len());
                chosen.iter().for_each(|i| all.extend_from_slice(&pixels[i * len..(i + 1) * len]));
                let (height, width, channels) = (*height, *width, *channels);
                Source::Memory { pixels: all.into(), height, width, channels }
            }
            Source::Signals(all) => Source::Signals(all.pick(chosen)),
        };
        Split { source, labels }
    }

    /// Two parts of the split, the second with `fraction` of each class, drawn by the seed; at least one sample of
    /// a class that has two.
    pub fn stratified(&self, fraction: f64, seed: u64) -> (Split, Split) {
        let mut by_class = std::collections::BTreeMap::<u32, Vec<usize>>::new();
        for (i, &label) in self.labels.iter().enumerate() {
            by_class.entry(label).or_default().push(i);
        }
        let (mut most, mut rest) = (Vec::new(), Vec::new());
        for (label, mut class) in by_class {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(u64::from(label));
            class.shuffle(&mut rng);
            let wanted = (class.len() as f64 * fraction.clamp(0.0, 0.9)).round() as usize;
            let wanted = wanted.max(usize::from(fraction > 0.0)).min(class.len() - 1);
            most.extend(class.split_off(wanted));
            rest.extend(class);
        }
        most.sort_unstable();
        rest.sort_unstable();
        (self.pick(&most), self.pick(&rest))
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// One sample as a picture of 1 or 3 channels.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn read(&self, i: usize, channels: usize) -> Result<Picture> {
        crate::transform::read_sample(self, i, channels)
    }

    /// Samples per class.
    pub fn counts(&self, classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        for &l in &self.labels {
            counts[l as usize] += 1;
        }
        counts
    }
}

/// A data set with its classes and splits.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// What was recognised, for people.
    pub kind: &'static str,
    /// Class names; labels are their positions.
    pub classes: Vec<String>,
    /// To learn from.
    pub train: Split,
    /// To choose by while training.
    pub val: Option<Split>,
    /// To report on.
    pub test: Option<Split>,
    /// 1 when all pictures are grey by their format, else 3.
    pub channels: usize,
    /// Size of all pictures where the format fixes it: `(height, width)`.
    pub size: Option<(usize, usize)>,
    /// Files that are no pictures by their names, left out.
    pub ignored: usize,
}

/// How a folder without a validation part is split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OpenOptions {
    /// Seed of the split.
    pub seed: u64,
    /// Share of each class that goes to validation.
    pub val_fraction: f64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { seed: 0, val_fraction: 0.2 }
    }
}

const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "gif", "bmp", "webp", "jfif"];
/// Folders are searched that deep.
const MAX_DEPTH: usize = 16;

impl Dataset {
    /// Opens what lies at `path`.
    ///
    /// # Errors
    /// When nothing is there, nothing is recognised, or fewer than two classes have pictures.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        if !path.exists() {
            return Err(DataError::dataset(
                path,
                "does not exist; give a folder of class folders, IDX files or CIFAR batches",
            ));
        }
        let set = recognise(path, options)?;
        // Names are shown on terminals and in pages.
        match set.classes.iter().find(|c| c.chars().any(char::is_control)) {
            Some(c) => {
                let what = format!("has a class `{c:.60}`, a name that cannot be shown; rename it");
                Err(DataError::dataset(path, what))
            }
            None => Ok(set),
        }
    }

    /// Files of another format than nearly all the others of their split: `(file, its format, theirs)`.
    /// In a folder of photos, a lone GIF is more often a web page's placeholder than a photo.
    pub fn strangers(&self) -> Vec<(PathBuf, String, String)> {
        let mut found = Vec::new();
        for split in
            [Some(&self.train), self.val.as_ref(), self.test.as_ref()].into_iter().flatten()
        {
            let Source::Files(files) = &split.source else { continue };
            let mut counts = std::collections::BTreeMap::<String, usize>::new();
            for file in files {
                *counts.entry(format_of(file)).or_default() += 1;
            }
            let Some((most, count)) = counts.iter().max_by_key(|c| c.1) else { continue };
            let rest = files.len() - count;
            if rest == 0 || rest * 50 > files.len() {
                continue;
            }
            let others = files.iter().filter(|f| format_of(f) != *most);
            found.extend(others.map(|f| (f.clone(), format_of(f), format!("{most} pictures"))));
        }
        found
    }

    /// Part `fold` of `k` to judge by, the others to learn from (k-fold cross-validation): training and validation
    /// parts are put together and dealt out anew, each class evenly; a test part stays apart.
    ///
    /// # Errors
    /// When `k` is below 2, `fold` is not below `k`, a class has fewer than `k` samples, or the samples are not
    /// files.
    pub fn fold(&self, k: usize, fold: usize, seed: u64) -> Result<Dataset> {
        let wrong = |what: String| Err(DataError::dataset(Path::new("folds"), what));
        if k < 2 || fold >= k {
            return wrong(format!("{k} folds, number {fold}: give at least 2"));
        }
        let mut by_class = vec![Vec::new(); self.classes.len()];
        for split in [Some(&self.train), self.val.as_ref()].into_iter().flatten() {
            let Source::Files(files) = &split.source else {
                return wrong("only folders of pictures can be dealt out".into());
            };
            for (file, &label) in files.iter().zip(&split.labels) {
                by_class[label as usize].push(file.clone());
            }
        }
        let (mut train, mut val) = (Vec::new(), Vec::new());
        for (label, mut class) in by_class.into_iter().enumerate() {
            if class.len() < k {
                return wrong(format!(
                    "class `{}` has {} pictures, too few for {k} folds",
                    self.classes[label],
                    class.len()
                ));
            }
            class.sort();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(label as u64);
            class.shuffle(&mut rng);
            let part = |mine: bool| {
                let dealt = class.iter().enumerate().filter(move |(i, _)| (i % k == fold) == mine);
                let mut files: Vec<PathBuf> = dealt.map(|(_, f)| f.clone()).collect();
                files.sort();
                files
            };
            train.push(part(false));
            val.push(part(true));
        }
        Ok(Dataset { train: together(train), val: Some(together(val)), ..self.clone() })
    }

    /// Whether there are signals at a path, rather than pictures.
    pub fn holds_signals(path: &Path) -> bool {
        series::is_one(path)
    }

    /// Whether its samples are signals.
    pub fn is_signals(&self) -> bool {
        matches!(self.train.source, Source::Signals(_))
    }

    /// The split to judge by: validation, or else test.
    pub fn eval(&self) -> Option<&Split> {
        self.val.as_ref().or(self.test.as_ref())
    }

    /// Which file went where, as CSV, for sets that were split here.
    pub fn split_csv(&self) -> String {
        let mut text = String::from("split,class,file\n");
        for (name, split) in
            [("train", Some(&self.train)), ("val", self.val.as_ref()), ("test", self.test.as_ref())]
        {
            let Some(Split { source: Source::Files(files), labels }) = split else { continue };
            for (file, &label) in files.iter().zip(labels) {
                let quoted = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
                let class = quoted(&self.classes[label as usize]);
                text += &format!("{name},{class},{}\n", quoted(&file.display().to_string()));
            }
        }
        text
    }
}

fn recognise(path: &Path, options: &OpenOptions) -> Result<Dataset> {
    if let Some(set) = series::open(path, options)? {
        return Ok(set);
    }
    if !path.is_dir() {
        return Err(DataError::dataset(path, "is a file; give the folder that holds the data"));
    }
    if let Some(set) = idx::open(path)? {
        return Ok(set);
    }
    if let Some(set) = cifar::open(path)? {
        return Ok(set);
    }
    folders(path, options)
}

/// A folder of class folders, flat or in `train`, `val`, `test`.
fn folders(path: &Path, options: &OpenOptions) -> Result<Dataset> {
    let parts = subfolders(path)?;
    let part = |names: &[&str]| {
        parts.iter().find(|p| names.contains(&name(p).to_lowercase().as_str())).cloned()
    };
    let train = part(&["train", "training"]);
    let mut ignored = 0;
    let Some(train) = train else {
        let (classes, files) = class_folders(path, &mut ignored)?;
        check_classes(path, &classes, &files)?;
        let (train, val) = together(files).stratified(options.val_fraction, options.seed);
        let kind = "folder of class folders";
        let val = Some(val).filter(|v| !v.is_empty());
        return Ok(Dataset {
            kind,
            classes,
            train,
            val,
            test: None,
            channels: 3,
            size: None,
            ignored,
        });
    };
    let (classes, files) = class_folders(&train, &mut ignored)?;
    check_classes(&train, &classes, &files)?;
    let mut other = |names: &[&str]| -> Result<Option<Split>> {
        let Some(folder) = part(names) else { return Ok(None) };
        let (found, files) = class_folders(&folder, &mut ignored)?;
        if let Some(new) = found.iter().find(|c| !classes.contains(c)) {
            return Err(DataError::dataset(
                &folder,
                format!(
                    "class `{new}` is not among the training classes; remove it or add it to {}",
                    train.display()
                ),
            ));
        }
        let by_class = classes
            .iter()
            .map(|c| found.iter().position(|f| f == c).map_or(vec![], |i| files[i].clone()))
            .collect::<Vec<_>>();
        Ok(Some(together(by_class)).filter(|s| !s.is_empty()))
    };
    let val = other(&["val", "valid", "validation"])?;
    let test = other(&["test", "testing"])?;
    let (train, val) = match (&val, &test) {
        (None, None) => {
            let (train, val) = together(files).stratified(options.val_fraction, options.seed);
            (train, Some(val).filter(|v| !v.is_empty()))
        }
        _ => (together(files), val),
    };
    let kind = "folder of class folders in train and val or test";
    Ok(Dataset { kind, classes, train, val, test, channels: 3, size: None, ignored })
}

fn check_classes(path: &Path, classes: &[String], files: &[Vec<PathBuf>]) -> Result<()> {
    let total: usize = files.iter().map(Vec::len).sum();
    if classes.is_empty() || total == 0 {
        return Err(DataError::dataset(
            path,
            "holds no pictures in class folders; put the pictures of each class into a folder named after it",
        ));
    }
    if classes.len() == 1 {
        return Err(DataError::dataset(
            path,
            format!(
                "has only one class, `{}`; a classifier needs at least two class folders",
                classes[0]
            ),
        ));
    }
    if let Some(i) = files.iter().position(Vec::is_empty) {
        return Err(DataError::dataset(
            path,
            format!("class folder `{}` holds no pictures; add some or remove it", classes[i]),
        ));
    }
    Ok(())
}

/// Class names, sorted, with the pictures of each, sorted.
fn class_folders(path: &Path, ignored: &mut usize) -> Result<(Vec<String>, Vec<Vec<PathBuf>>)> {
    let (mut classes, mut files) = (Vec::new(), Vec::new());
    for folder in subfolders(path)? {
        let mut found = Vec::new();
        pictures(&folder, &mut found, ignored)?;
        found.sort();
        classes.push(name(&folder));
        files.push(found);
    }
    Ok((classes, files))
}

/// The format that a file's name tells, as people write it.
fn format_of(path: &Path) -> String {
    let ending = path.extension().map_or(String::new(), |e| e.to_string_lossy().to_uppercase());
    if matches!(ending.as_str(), "JPG" | "JFIF") { "JPEG".into() } else { ending }
}

fn name(path: &Path) -> String {
    path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned())
}

pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| DataError::io(path, e))? {
        let entry = entry.map_err(|e| DataError::io(path, e))?.path();
        if !name(&entry).starts_with('.') {
            all.push(entry);
        }
    }
    all.sort();
    Ok(all)
}

fn subfolders(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(path)?.into_iter().filter(|p| p.is_dir()).collect())
}

/// All pictures under a folder, and how many files are none by their names. What is no file at all (a pipe, a link to
/// nowhere) is passed over. Links to folders are followed, but never into one that holds the link: a few such would be
/// a tree of billions.
pub(crate) fn pictures(path: &Path, out: &mut Vec<PathBuf>, ignored: &mut usize) -> Result<()> {
    let here = path.canonicalize().map_err(|e| DataError::io(path, e))?;
    below(path, &mut vec![here], out, ignored)
}

fn below(
    path: &Path,
    above: &mut Vec<PathBuf>,
    out: &mut Vec<PathBuf>,
    ignored: &mut usize,
) -> Result<()> {
    for entry in entries(path)? {
        let Ok(facts) = std::fs::metadata(&entry) else { continue };
        if facts.is_dir() {
            let Ok(real) = entry.canonicalize() else { continue };
            if above.len() <= MAX_DEPTH && !above.contains(&real) {
                above.push(real);
                below(&entry, above, out, ignored)?;
                above.pop();
            }
            continue;
        }
        let extension = entry.extension().map(|e| e.to_string_lossy().to_lowercase());
        if !facts.is_file() {
            continue;
        }
        if extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) {
            out.push(entry);
        } else {
            *ignored += 1;
        }
    }
    Ok(())
}

fn together(by_class: Vec<Vec<PathBuf>>) -> Split {
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    for (label, class) in by_class.into_iter().enumerate() {
        labels.extend(std::iter::repeat_n(label as u32, class.len()));
        files.extend(class);
    }
    Split { source: Source::Files(files), labels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_png;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for f in files {
            let path = folder.path().join(f);
            if f.ends_with(".png") {
                write_png(&path, &Picture::filled(3, 2, [1, 2, 3])).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "text").unwrap();
            }
        }
        folder
    }

    fn open(folder: &tempfile::TempDir) -> Result<Dataset> {
        Dataset::open(folder.path(), &OpenOptions::default())
    }

    #[test]
    fn a_flat_folder_is_split_by_class_and_the_split_is_repeatable() {
        let names: Vec<String> =
            (0..20).map(|i| format!("{}/{i}.png", if i % 4 == 0 { "b" } else { "a" })).collect();
        let folder = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let set = open(&folder).unwrap();
        assert_eq!(set.classes, ["a", "b"]);
        assert_eq!(set.val.as_ref().unwrap().counts(2), [3, 1]);
        assert_eq!(set.train.counts(2), [12, 4]);
        assert_eq!(set.split_csv(), open(&folder).unwrap().split_csv());
        assert_eq!(set.split_csv().lines().count(), 21);
    }

    #[test]
    fn every_sample_is_judged_in_one_fold_and_learnt_in_the_others() {
        let names: Vec<String> =
            (0..22).map(|i| format!("{}/{i}.png", if i % 4 == 0 { "b" } else { "a" })).collect();
        let set = open(&tree(&names.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
        let mut judged = Vec::new();
        for i in 0..5 {
            let fold = set.fold(5, i, 3).unwrap();
            let files = |s: &Split| match &s.source {
                Source::Files(f) => f.clone(),
                Source::Memory { .. } | Source::Signals(_) => vec![],
            };
            let (train, val) = (files(&fold.train), files(fold.val.as_ref().unwrap()));
            assert_eq!(train.len() + val.len(), 22);
            assert!(val.iter().all(|f| !train.contains(f)));
            assert!(fold.val.unwrap().counts(2).iter().all(|n| *n > 0));
            judged.extend(val);
        }
        judged.sort();
        judged.dedup();
        assert_eq!(judged.len(), 22);
        assert!(set.fold(7, 0, 0).unwrap_err().to_string().contains("`b` has 6"));
        assert!(set.fold(1, 0, 0).is_err() && set.fold(3, 3, 0).is_err());
    }

    #[test]
    fn train_and_val_folders_are_taken_as_they_are() {
        let folder =
            tree(&["Train/a/1.png", "Train/b/deep/2.png", "VAL/a/3.png", "Train/a/notes.txt"]);
        let set = open(&folder).unwrap();
        assert_eq!((set.train.len(), set.val.unwrap().len(), set.ignored), (2, 1, 1));
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        for (files, words) in [
            (&["a/1.png"][..], "only one class"),
            (&["a/1.png", "b/x.txt"], "holds no pictures"),
            (&["x.txt"], "no pictures in class folders"),
            (&["train/a/1.png", "train/b/1.png", "val/c/1.png"], "class `c`"),
        ] {
            let e = open(&tree(files)).unwrap_err().to_string();
            assert!(e.contains(words) && !e.contains('\n'), "{e}");
        }
        let e = Dataset::open(Path::new("/nowhere/at/all"), &OpenOptions::default()).unwrap_err();
        assert!(e.to_string().contains("does not exist"));
    }
}
