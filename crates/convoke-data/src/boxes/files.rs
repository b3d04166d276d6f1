//! Where the pictures and files of boxes lie.

use crate::dataset::{entries, pictures};
use crate::{DataError, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Folders are searched for files of boxes that deep.
const DEPTH: usize = 3;

/// The ending in small letters.
pub(super) fn ending(path: &Path) -> String {
    path.extension().map_or(String::new(), |e| e.to_string_lossy().to_lowercase())
}

/// The name without folders, in small letters.
fn name(path: &str) -> String {
    path.rsplit(['/', '\\']).next().unwrap_or(path).to_lowercase()
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Files that may hold boxes: json, csv, xml near the top of a folder.
pub(super) fn notes(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(folder, 0, &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in entries(folder)? {
        if entry.is_dir() {
            if depth < DEPTH {
                walk(&entry, depth + 1, out)?;
            }
        } else if matches!(ending(&entry).as_str(), "json" | "csv" | "xml") {
            out.push(entry);
        }
    }
    Ok(())
}

/// All pictures around a file of boxes, by name. Only these can be named by it, so no file leads out of
/// its folder.
pub(super) struct Files {
    pub all: Vec<PathBuf>,
    by_name: HashMap<String, Vec<usize>>,
    by_stem: HashMap<String, Vec<usize>>,
}

impl Files {
    /// The pictures of a folder; for a file those beside it or, where there are none, of the folder above.
    pub fn around(path: &Path) -> Result<Self> {
        let mut root = match path.is_dir() {
            true => path.to_path_buf(),
            false => match path.parent() {
                Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
                _ => PathBuf::from("."),
            },
        };
        let mut all = Vec::new();
        pictures(&root, &mut all, &mut 0)?;
        if all.is_empty() && path.is_file() {
            let absolute = root.canonicalize().map_err(|e| DataError::io(&root, e))?;
            root = absolute.parent().map_or(absolute.clone(), Path::to_path_buf);
            pictures(&root, &mut all, &mut 0)?;
        }
        all.sort();
        let mut files = Files { all, by_name: HashMap::new(), by_stem: HashMap::new() };
        for (i, path) in files.all.iter().enumerate() {
            let name = name(&path.to_string_lossy());
            files.by_stem.entry(stem(&name).to_string()).or_default().push(i);
            files.by_name.entry(name).or_default().push(i);
        }
        Ok(files)
    }

    /// The picture that a file of boxes at `near` calls `said`: of those of that name (or of that name
    /// with another ending) the one with most folders in common, first with the words, then with the file.
    pub fn find(&self, said: &str, near: &Path) -> Option<usize> {
        let name = name(said);
        let known = self.by_name.get(&name).or_else(|| self.by_stem.get(stem(&name)))?;
        let words: Vec<&str> = said.split(['/', '\\']).filter(|w| !w.is_empty()).collect();
        let common = |i: &usize| {
            let path = self.all[*i].to_string_lossy();
            let back = path.split(['/', '\\']).rev().skip(1);
            let same = back.zip(words.iter().rev().skip(1)).take_while(|(a, b)| a == *b).count();
            let beside = self.all[*i].components().zip(near.components());
            (same, beside.take_while(|(a, b)| a == b).count())
        };
        // The first of the best: max_by_key takes the last of equals.
        known.iter().rev().max_by_key(|i| common(i)).copied()
    }
}
