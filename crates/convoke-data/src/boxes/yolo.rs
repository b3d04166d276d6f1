//! YOLO's text files: one beside each picture (or in `labels/` where the pictures are in `images/`), a
//! line `class x y width height` for each box, centres and sides as shares of the picture. Classes and
//! parts stand in a `data.yaml`, in CVAT's `obj.data` and `obj.names`, or in `classes.txt`.
//!
//! An empty file says that nothing is in the picture; no file, that nobody has looked.

use super::files::ending;
use super::{FaultKind, Files, MAX_BOXES, Part, Said, Told, ToldBox, head_of, plain, text_of};
use crate::dataset::{entries, pictures};
use crate::{DataError, Result};
use saphyr::{LoadableYamlNode, Yaml};
use std::path::{Path, PathBuf};

/// What was found.
pub(crate) struct Layout {
    /// Folder or file of pictures for each part; all pictures around where it is empty.
    parts: Vec<(Option<Part>, PathBuf)>,
    /// Class names.
    names: Vec<String>,
    /// The file they come from.
    from: PathBuf,
    /// Lines hold key points after the box.
    points: bool,
}

/// More names than this are no list of classes.
const MAX_CLASSES: usize = 100_000;

/// A folder with a yaml file that names classes, or CVAT's `obj.data`.
pub(super) fn by_lists(folder: &Path) -> Result<Option<Layout>> {
    let mut lists = entries(folder)?;
    // data.yaml before any other.
    lists.sort_by_key(|p| !p.file_stem().is_some_and(|s| s == "data" || s == "dataset"));
    for path in lists.iter().filter(|p| matches!(ending(p).as_str(), "yaml" | "yml")) {
        if let Some(layout) = by_yaml(path)? {
            return Ok(Some(layout));
        }
    }
    let names = folder.join("obj.names");
    if !names.is_file() {
        return Ok(None);
    }
    let data = text_of(&folder.join("obj.data")).unwrap_or_default();
    let mut parts = Vec::new();
    for line in data.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let name = value.trim().trim_start_matches("data/");
        let part = Part::of(key).or_else(|| Part::of(name));
        if let Some(path) = inside(folder, name).filter(|p| part.is_some() && p.exists()) {
            parts.push((part, path));
        }
    }
    Ok(Some(Layout { parts, names: lines(&names)?, from: names, points: false }))
}

/// A yaml file with `names`.
pub(super) fn by_yaml(path: &Path) -> Result<Option<Layout>> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > 16 << 20) {
        return Ok(None);
    }
    let text = text_of(path)?;
    if !text.contains("names") {
        return Ok(None);
    }
    let wrong = |what: String| DataError::dataset(path, plain(&what));
    if aliased(&text) {
        return Err(wrong("holds anchors or aliases; write its values out".into()));
    }
    if nested(&text) {
        return Err(wrong("is nested too deep for a list of classes".into()));
    }
    let documents = Yaml::load_from_str(&text).map_err(|e| wrong(format!("is no yaml: {e}")))?;
    let Some(root) = documents.first() else { return Ok(None) };
    let Some(names) = root.as_mapping_get("names") else { return Ok(None) };
    let names = names_of(names).ok_or_else(|| wrong("its `names` is no list of names".into()))?;
    let here = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = root.as_mapping_get("path").and_then(|p| p.as_str());
    let mut parts = Vec::new();
    for (key, part) in [
        ("train", Part::Train),
        ("val", Part::Val),
        ("valid", Part::Val),
        ("validation", Part::Val),
        ("test", Part::Test),
    ] {
        let Some(value) = root.as_mapping_get(key) else { continue };
        let one = value.as_str().into_iter();
        let many = value.as_sequence().into_iter().flatten().filter_map(|v| v.as_str());
        for name in one.chain(many) {
            let Some(place) = place(here, base, name) else {
                return Err(wrong(format!("`{key}: {name}` is not there")));
            };
            parts.push((Some(part), place));
        }
    }
    let points = root.as_mapping_get("kpt_shape").is_some();
    Ok(Some(Layout { parts, names, from: path.into(), points }))
}

/// Whether a yaml text may refer to its own parts: a few lines of such can mean terabytes.
fn aliased(text: &str) -> bool {
    let words = text.split([' ', '\t', '\n', '\r', ',', '[', ']', '{', '}', ':']);
    words.filter(|w| w.len() > 1).any(|w| w.starts_with('*') || w.starts_with('&'))
}

/// Whether values lie in values far deeper than any list of classes: the parser's tree is let go of by recursion, and a
/// stack ends.
fn nested(text: &str) -> bool {
    let mut depth = 0usize;
    for b in text.bytes() {
        match b {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > 1000 {
            return true;
        }
    }
    text.lines().any(|line| {
        let bare = line.trim_start();
        let dashes = bare.split_whitespace().take_while(|w| matches!(*w, "-" | "?")).count();
        dashes > 20 || line.len() - bare.len() > 400 && !bare.is_empty()
    })
}

/// Where a part of a yaml file lies: under its `path`, beside the file, or, as Roboflow writes it
/// (`../train/images`), beside the file without the way up.
fn place(here: &Path, base: Option<&str>, name: &str) -> Option<PathBuf> {
    let bases = base.map(|b| here.join(b)).into_iter().chain([here.to_path_buf()]);
    let bare = name.trim_start_matches("../");
    let mut tries: Vec<PathBuf> = bases.map(|b| b.join(name)).collect();
    tries.push(here.join(bare));
    tries.into_iter().find(|p| p.exists())
}

/// `[a, b]` or `{0: a, 1: b}`; gaps are named by their numbers.
fn names_of(yaml: &Yaml) -> Option<Vec<String>> {
    let text = |v: &Yaml| {
        let number = || v.as_integer().map(|i| i.to_string());
        let other = || v.as_bool().map(|b| b.to_string());
        v.as_str().map(plain).or_else(number).or_else(other)
    };
    if let Some(list) = yaml.as_sequence() {
        return (list.len() <= MAX_CLASSES).then(|| list.iter().map(text).collect())?;
    }
    let mut names = Vec::new();
    for (key, value) in yaml.as_mapping()? {
        let at = key.as_integer().or_else(|| key.as_str()?.parse().ok())?;
        let at = usize::try_from(at).ok().filter(|&at| at < MAX_CLASSES)?;
        while names.len() <= at {
            names.push(names.len().to_string());
        }
        names[at] = text(value)?;
    }
    Some(names)
}

/// Pictures with text files of numbers beside them or in `labels/`.
pub(super) fn by_labels(folder: &Path) -> Result<Option<Layout>> {
    let mut all = Vec::new();
    pictures(folder, &mut all, &mut 0)?;
    let labels = || all.iter().filter_map(|p| label_of(p));
    let looks = |p: &PathBuf| {
        let head = head_of(p);
        let line = head.lines().next().unwrap_or("");
        let numbers = line.split_whitespace().map(|w| w.parse::<f64>());
        numbers.clone().count() >= 5 && numbers.clone().all(|n| n.is_ok())
    };
    if !labels().take(50).any(|p| looks(&p)) {
        return Ok(None);
    }
    let above = folder.join("classes.txt");
    let beside = labels().next().map(|p| p.with_file_name("classes.txt"));
    let from = [Some(above), beside].into_iter().flatten().find(|p| p.is_file());
    let names = match &from {
        Some(path) => lines(path)?,
        None => Vec::new(),
    };
    let from = from.unwrap_or(folder.into());
    Ok(Some(Layout { parts: Vec::new(), names, from, points: false }))
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let text = text_of(path)?;
    Ok(text.lines().map(plain).filter(|l| !l.is_empty()).take(MAX_CLASSES).collect())
}

/// A path below a folder, without a way out of it.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let fine = path
        .components()
        .all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir));
    fine.then(|| folder.join(path))
}

/// The text file of a picture: `…/images/…/1.jpg` → `…/labels/…/1.txt`, or beside it.
fn label_of(picture: &Path) -> Option<PathBuf> {
    let parts: Vec<_> = picture.iter().collect();
    let images = parts.iter().rposition(|p| p.eq_ignore_ascii_case("images"));
    let swapped = images.map(|at| {
        let mut path: PathBuf = parts[..at].iter().collect();
        path.push("labels");
        path.extend(&parts[at + 1..]);
        path.with_extension("txt")
    });
    [swapped, Some(picture.with_extension("txt"))].into_iter().flatten().find(|p| p.is_file())
}

/// The pictures of a part: a folder, or a list of files.
fn pictures_of(path: &Path, files: &Files) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    if path.is_dir() {
        pictures(path, &mut all, &mut 0)?;
        all.sort();
        return Ok(all);
    }
    for line in lines(path)? {
        let beside = path.parent().map(|p| p.join(line.trim_start_matches("./")));
        match beside.filter(|p| p.is_file()) {
            Some(p) => all.push(p),
            None => all.extend(files.find(&line, path).map(|i| files.all[i].clone())),
        }
    }
    Ok(all)
}

pub(super) fn read(layout: &Layout, files: &Files) -> Result<Said> {
    let mut said = Said::new("YOLO text files");
    said.classes = layout.names.clone();
    let mut all = Vec::new();
    for (part, path) in &layout.parts {
        all.extend(pictures_of(path, files)?.into_iter().map(|p| (*part, p)));
    }
    if layout.parts.is_empty() {
        let part = |p: &PathBuf| {
            p.iter().rev().skip(1).take(2).find_map(|n| Part::of(&n.to_string_lossy()))
        };
        all.extend(files.all.iter().map(|p| (part(p), p.clone())));
    }
    let mut count = 0;
    for (part, picture) in all {
        let label = label_of(&picture);
        let boxes = match &label {
            Some(path) => Some(boxes(path, layout, &mut said)?),
            None => None,
        };
        count += boxes.as_ref().map_or(0, Vec::len);
        if count > MAX_BOXES {
            return Err(DataError::dataset(&layout.from, "names too many boxes"));
        }
        let name = picture.to_string_lossy().into_owned();
        let file = label.unwrap_or_else(|| picture.clone());
        said.pictures.push(Told {
            file,
            picture: name,
            path: Some(picture),
            size: None,
            part,
            boxes,
        });
    }
    Ok(said)
}

fn boxes(path: &Path, layout: &Layout, said: &mut Said) -> Result<Vec<ToldBox>> {
    let text = text_of(path)?;
    let mut all = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let place = format!("line {}", i + 1);
        let numbers: Option<Vec<f64>> = line.split_whitespace().map(|w| w.parse().ok()).collect();
        let Some([class, sides @ ..]) = numbers.as_deref() else {
            said.wrong(FaultKind::Malformed, path, place, "it is not all numbers");
            continue;
        };
        let edges = match *sides {
            // An outline, x and y in turn: the box around it.
            [..] if !layout.points && sides.len() >= 6 && sides.len() % 2 == 0 => around(sides),
            // A box, maybe with a score or key points behind it.
            [x, y, w, h, ..] => [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0],
            _ => {
                said.wrong(FaultKind::Malformed, path, place, "it has not five numbers");
                continue;
            }
        };
        let whole = class.fract() == 0.0 && (0.0..MAX_CLASSES as f64).contains(class);
        let class = *class as usize;
        if !whole || !layout.names.is_empty() && class >= layout.names.len() {
            let told = format!("there are {} classes, counted from 0", layout.names.len());
            said.wrong(FaultKind::UnknownClass, path, place, &told);
            continue;
        }
        while said.classes.len() <= class {
            said.classes.push(said.classes.len().to_string());
        }
        all.push(ToldBox { place, class, edges, shares: true, ..ToldBox::default() });
    }
    Ok(all)
}

fn around(outline: &[f64]) -> [f64; 4] {
    let of = |from: usize, f: fn(f64, f64) -> f64| {
        outline.iter().skip(from).step_by(2).copied().reduce(f).unwrap_or(f64::NAN)
    };
    [of(0, f64::min), of(1, f64::min), of(0, f64::max), of(1, f64::max)]
}
