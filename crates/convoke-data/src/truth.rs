//! Labels from a list beside a flat folder of pictures, as ImageNet's validation set comes.

use crate::dataset::{Source, Split, pictures};
use crate::file::read_file;
use crate::{DataError, Result};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Lists longer than this are refused.
const MAX_BYTES: u64 = 1 << 30;

impl Split {
    /// The pictures of a folder with the classes that a list gives them. A line names a picture (with or
    /// without folders and ending) and its class, with blanks or a comma between: a name of `classes`,
    /// the first word of one (`n01440764` of `n01440764 tench`), or a position counted from 0. Further
    /// words mean nothing, nor does a first line that names no picture. A list of bare positions is for
    /// the pictures in the order of their names.
    ///
    /// # Errors
    /// When a line names no picture or no class, a picture is not in the list, or nothing is there.
    pub fn flat(folder: &Path, list: &Path, classes: &[String]) -> Result<Split> {
        let text = String::from_utf8(read_file(list, MAX_BYTES)?)
            .map_err(|_| DataError::dataset(list, "is no text in UTF-8"))?;
        let (mut files, mut ignored) = (Vec::new(), 0);
        pictures(folder, &mut files, &mut ignored)?;
        files.sort();
        if files.is_empty() {
            return Err(DataError::dataset(folder, "holds no pictures"));
        }
        let labels = labels(&files, &text, classes).map_err(|e| DataError::dataset(list, e))?;
        Ok(Split { source: Source::Files(files), labels })
    }
}

/// The class of a word: by name, by the first word of a name, by position.
struct Classes<'a> {
    names: HashMap<&'a str, u32>,
    count: usize,
}

impl<'a> Classes<'a> {
    fn new(classes: &'a [String]) -> Self {
        let mut names = HashMap::new();
        for (i, name) in classes.iter().enumerate() {
            let word = name.split([' ', ',']).next().unwrap_or(name);
            names.entry(word).or_insert(i as u32);
        }
        for (i, name) in classes.iter().enumerate() {
            names.insert(name, i as u32);
        }
        Classes { names, count: classes.len() }
    }

    fn of(&self, word: &str) -> std::result::Result<u32, String> {
        if let Some(&label) = self.names.get(word) {
            return Ok(label);
        }
        match word.parse::<u32>() {
            Ok(n) if (n as usize) < self.count => Ok(n),
            Ok(n) => Err(format!(
                "{n} is no class: there are {}, counted from 0 (numbers of ImageNet's development kit are in another order)",
                self.count
            )),
            Err(_) => Err(format!("`{}` is no class of the model", short(word))),
        }
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

fn labels(
    files: &[PathBuf],
    text: &str,
    classes: &[String],
) -> std::result::Result<Vec<u32>, String> {
    let classes = Classes::new(classes);
    let lines: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .map(|(i, l)| (i + 1, l.trim()))
        .filter(|(_, l)| !l.is_empty())
        .collect();
    let at = |n: usize, e: String| format!("line {n}: {e}");
    if lines.iter().all(|(_, l)| l.parse::<u32>().is_ok()) {
        if lines.len() != files.len() {
            return Err(format!("{} labels for {} pictures", lines.len(), files.len()));
        }
        return lines.iter().map(|(n, l)| classes.of(l).map_err(|e| at(*n, e))).collect();
    }
    let stem = |p: &Path| p.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned());
    let place: HashMap<String, usize> =
        files.iter().enumerate().map(|(i, f)| (stem(f), i)).collect();
    let mut labels = vec![None; files.len()];
    for (i, &(n, line)) in lines.iter().enumerate() {
        let mut words = line.split([' ', '\t', ',']).filter(|w| !w.is_empty());
        let (Some(name), Some(class)) = (words.next(), words.next()) else {
            return Err(at(n, "is not a picture and its class".into()));
        };
        match place.get(&stem(Path::new(name))) {
            Some(&p) => labels[p] = Some(classes.of(class).map_err(|e| at(n, e))?),
            None if i == 0 => {}
            None => return Err(at(n, format!("there is no picture `{}`", short(name)))),
        }
    }
    let missing = labels.iter().position(Option::is_none);
    if let Some(i) = missing {
        return Err(format!("has no line for `{}`", short(&stem(&files[i]))));
    }
    if files.len() != place.len() {
        let mut seen = HashSet::new();
        let twice = files.iter().map(|f| stem(f)).find(|s| !seen.insert(s.clone()));
        return Err(format!("two pictures are named `{}`", short(&twice.unwrap_or_default())));
    }
    Ok(labels.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        ["n01440764 tench", "n01443537 goldfish, gold", "cat"].map(String::from).to_vec()
    }

    fn read(text: &str) -> std::result::Result<Vec<u32>, String> {
        let files: Vec<PathBuf> =
            ["a/v_1.JPEG", "a/v_2.JPEG", "a/v_3.jpg"].map(PathBuf::from).into();
        labels(&files, text, &classes())
    }

    #[test]
    fn the_lists_that_people_have() {
        assert_eq!(read("v_1.JPEG 2\nv_3.jpg 0\nv_2.JPEG 1\n"), Ok(vec![2, 1, 0]));
        let kaggle = "ImageId,PredictionString\nv_2,n01443537 85 1 499 272 \nv_1,cat 1 2 3 4\nv_3,n01440764\n";
        assert_eq!(read(kaggle), Ok(vec![2, 1, 0]));
        assert_eq!(read("1\n0\n\n2\n"), Ok(vec![1, 0, 2]));
    }

    #[test]
    fn what_is_wrong_is_told_by_line() {
        for (text, words) in [
            ("1\n2\n3\n", "line 3: 3 is no class"),
            ("1\n2\n", "2 labels for 3 pictures"),
            ("v_1 0\nv_2 1\n", "no line for `v_3`"),
            ("v_1 0\nv_2 1\nv_4 1\n", "line 3: there is no picture `v_4`"),
            ("v_1 0\nv_2 dog\nv_3 1\n", "line 2: `dog` is no class"),
            ("v_1 0\nv_2\n", "line 2: is not"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.contains(words), "{e}");
        }
    }
}
