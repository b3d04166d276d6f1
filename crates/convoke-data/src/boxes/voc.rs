//! Pascal VOC xml, one file a picture, and CVAT's xml, one file for all.
//!
//! VOC's own files count pixels from 1 and name the first and last one of a box; nearly all other
//! tools write edges counted from 0 into the same fields. The source that a file names tells which.

use super::{FaultKind, Part, Said, Told, ToldBox, files, head_of, plain, text_of};
use crate::{DataError, Result};
use roxmltree::{Document, Node};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Files of annotations and the lists that say which part they belong to.
pub(crate) struct Layout {
    notes: Vec<PathBuf>,
    parts: HashMap<String, Part>,
}

impl Layout {
    pub(super) fn of(notes: Vec<PathBuf>) -> Self {
        Layout { notes, parts: HashMap::new() }
    }
}

/// Whether an xml file's root is VOC's.
pub(super) fn is_one(path: &Path) -> bool {
    let head = head_of(path);
    head.contains("<annotation>") || head.contains("<annotation ")
}

/// Whether an xml file is what CVAT calls "CVAT for images".
pub(super) fn is_cvat(path: &Path) -> bool {
    let head = head_of(path);
    head.contains("<annotations") && (head.contains("<meta") || head.contains("<image "))
}

/// The xml files of a folder, with the lists of `ImageSets/Main` or the parts that their folders name.
pub(super) fn by_folder(path: &Path, near: &[PathBuf]) -> Option<Layout> {
    let xml = near.iter().filter(|p| files::ending(p) == "xml");
    let notes: Vec<PathBuf> = xml.filter(|p| is_one(p)).cloned().collect();
    if notes.is_empty() {
        return None;
    }
    let mut parts = HashMap::new();
    for (name, part) in [("test", Part::Test), ("val", Part::Val), ("train", Part::Train)] {
        let list = path.join("ImageSets/Main").join(format!("{name}.txt"));
        let Ok(text) = text_of(&list) else { continue };
        let stems = text.lines().filter_map(|l| l.split_whitespace().next());
        parts.extend(stems.map(|s| (s.to_string(), part)));
    }
    Some(Layout { notes, parts })
}

pub(super) fn read(layout: &Layout) -> Result<Said> {
    let mut said = Said::new("Pascal VOC xml");
    for path in &layout.notes {
        // A file that is no xml costs its own picture, not the set.
        if let Err(e) = note(path, layout, &mut said) {
            said.wrong(FaultKind::Malformed, path, "file", &e);
        }
    }
    said.sort_classes();
    Ok(said)
}

fn note(path: &Path, layout: &Layout, said: &mut Said) -> std::result::Result<(), String> {
    let text = text_of(path).map_err(|e| e.to_string())?;
    let document = Document::parse(&text).map_err(|e| e.to_string())?;
    let root = document.root_element();
    let stem = path.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned());
    // Files are renamed more often than what stands in them: the own name counts first.
    let picture = word(root, "filename").unwrap_or(&stem).to_string();
    let folder = path.parent().and_then(|p| p.file_name());
    let part = layout.parts.get(&stem).copied();
    let part = part.or_else(|| Part::of(&folder?.to_string_lossy()));
    let size = child(root, "size");
    let side = |name: &str| size.and_then(|s| number(s, name)).filter(|v| *v >= 1.0);
    let database = child(root, "source").and_then(|s| word(s, "database")).unwrap_or("");
    let from = if database.starts_with("The VOC") { 1.0 } else { 0.0 };
    let mut boxes = Vec::new();
    for (i, object) in root.children().filter(|c| c.has_tag_name("object")).enumerate() {
        let place = format!("object {}", i + 1);
        let Some(name) = word(object, "name") else {
            said.wrong(FaultKind::UnknownClass, path, place, "it has no name");
            continue;
        };
        let edge = |name: &str| child(object, "bndbox").and_then(|b| number(b, name));
        let (Some(l), Some(t), Some(r), Some(b)) =
            (edge("xmin"), edge("ymin"), edge("xmax"), edge("ymax"))
        else {
            said.wrong(FaultKind::Malformed, path, place, "its bndbox has not four numbers");
            continue;
        };
        let class = said.class(name);
        let difficult = number(object, "difficult").is_some_and(|d| d > 0.0);
        let edges = [l - from, t - from, r, b];
        boxes.push(ToldBox { place, class, edges, difficult, ..ToldBox::default() });
    }
    said.pictures.push(Told {
        file: path.into(),
        picture,
        path: None,
        size: side("width").zip(side("height")),
        part,
        boxes: Some(boxes),
    });
    Ok(())
}

pub(super) fn read_cvat(path: &Path) -> Result<Said> {
    let mut said = Said::new("CVAT xml");
    let text = text_of(path)?;
    let document = Document::parse(&text)
        .map_err(|e| DataError::dataset(path, plain(&format!("is no xml: {e}"))))?;
    for (i, image) in document.descendants().filter(|n| n.has_tag_name("image")).enumerate() {
        let attribute = |of: Node, name: &str| {
            of.attribute(name)?.trim().parse::<f64>().ok().filter(|v| v.is_finite())
        };
        let Some(name) = image.attribute("name") else {
            said.wrong(FaultKind::Malformed, path, format!("image {}", i + 1), "it has no name");
            continue;
        };
        let mut boxes = Vec::new();
        for (k, b) in image.children().filter(|n| n.has_tag_name("box")).enumerate() {
            let place = format!("{}, box {}", plain(name), k + 1);
            let edge = |name: &str| attribute(b, name);
            let edges = (edge("xtl"), edge("ytl"), edge("xbr"), edge("ybr"));
            let (Some(l), Some(t), Some(r), Some(d)) = edges else {
                said.wrong(FaultKind::Malformed, path, place, "its edges are no numbers");
                continue;
            };
            let Some(label) = b.attribute("label") else {
                said.wrong(FaultKind::UnknownClass, path, place, "it has no label");
                continue;
            };
            let class = said.class(label);
            boxes.push(ToldBox { place, class, edges: [l, t, r, d], ..ToldBox::default() });
        }
        let side = |name: &str| attribute(image, name).filter(|v| *v >= 1.0);
        said.pictures.push(Told {
            file: path.into(),
            picture: name.to_string(),
            path: None,
            size: side("width").zip(side("height")),
            part: image.attribute("subset").and_then(Part::of),
            boxes: Some(boxes),
        });
    }
    said.sort_classes();
    Ok(said)
}

fn child<'a, 'i>(of: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    of.children().find(|c| c.has_tag_name(name))
}

fn word<'a>(of: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(of, name)?.text().map(str::trim).filter(|t| !t.is_empty())
}

fn number(of: Node, name: &str) -> Option<f64> {
    word(of, name)?.parse().ok().filter(|v: &f64| v.is_finite())
}
