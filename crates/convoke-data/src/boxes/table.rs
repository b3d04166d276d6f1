//! A CSV of boxes: `filename,width,height,class,xmin,ymin,xmax,ymax`, as TensorFlow's tools and others
//! write it. Columns are found by name in any order; width and height may be missing; edges are in
//! pixels. A row with a picture and nothing else marks a negative.

use super::{FaultKind, MAX_BOXES, Part, Said, Told, ToldBox, head_of, plain};
use crate::file::open_file;
use crate::{DataError, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the columns are.
struct Columns {
    picture: usize,
    class: usize,
    edges: [usize; 4],
    size: Option<(usize, usize)>,
}

impl Columns {
    fn of(head: &csv::StringRecord) -> Option<Columns> {
        let find = |names: &[&str]| {
            head.iter().position(|h| {
                names.contains(&h.trim().trim_start_matches('\u{feff}').to_lowercase().as_str())
            })
        };
        let edge =
            |short: &str| find(&[short, &short.replace("min", "_min").replace("max", "_max")]);
        Some(Columns {
            picture: find(&["filename", "file_name", "file", "image", "image_id", "path"])?,
            class: find(&["class", "label", "name", "class_name"])?,
            edges: [edge("xmin")?, edge("ymin")?, edge("xmax")?, edge("ymax")?],
            size: find(&["width"]).zip(find(&["height"])),
        })
    }
}

fn reader<R: std::io::Read>(from: R) -> csv::Reader<R> {
    csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(from)
}

/// Whether a CSV's first row names the columns of boxes.
pub(super) fn is_one(path: &Path) -> bool {
    let head = head_of(path);
    reader(head.as_bytes()).headers().is_ok_and(|h| Columns::of(h).is_some())
}

pub(super) fn read(paths: &[PathBuf]) -> Result<Said> {
    let mut said = Said::new("CSV of boxes");
    for path in paths {
        file(path, &mut said)?;
    }
    said.sort_classes();
    Ok(said)
}

fn file(path: &Path, said: &mut Said) -> Result<()> {
    let wrong = |e: csv::Error| DataError::dataset(path, plain(&format!("is no CSV: {e}")));
    let mut rows = reader(open_file(path).map_err(|e| DataError::io(path, e))?);
    let columns = Columns::of(rows.headers().map_err(wrong)?);
    let columns = columns.ok_or_else(|| DataError::dataset(path, "names no columns of boxes"))?;
    let part = path.iter().rev().take(2).find_map(|n| Part::of(&n.to_string_lossy()));
    let mut places = HashMap::<String, usize>::new();
    let (mut row, mut number) = (csv::StringRecord::new(), 1);
    loop {
        number += 1;
        let place = format!("row {number}");
        match rows.read_record(&mut row) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) if e.is_io_error() => return Err(wrong(e)),
            Err(e) => {
                said.wrong(FaultKind::Malformed, path, place, &e.to_string());
                continue;
            }
        }
        if number > MAX_BOXES {
            return Err(DataError::dataset(path, "holds too many boxes"));
        }
        let cell = |i: usize| row.get(i).unwrap_or("");
        let name = cell(columns.picture).to_string();
        if name.is_empty() {
            said.wrong(FaultKind::Malformed, path, place, "it names no picture");
            continue;
        }
        let at = *places.entry(name).or_insert_with_key(|name| {
            let (file, picture) = (path.to_path_buf(), name.clone());
            said.pictures.push(Told { file, picture, part, ..Told::default() });
            said.pictures.len() - 1
        });
        said.pictures[at].boxes.get_or_insert_default();
        if cell(columns.class).is_empty() && columns.edges.iter().all(|&i| cell(i).is_empty()) {
            continue;
        }
        let edge = columns.edges.map(|i| cell(i).parse::<f64>().ok().filter(|v| v.is_finite()));
        let [Some(l), Some(t), Some(r), Some(b)] = edge else {
            said.wrong(FaultKind::Malformed, path, place, "its edges are no numbers");
            continue;
        };
        if cell(columns.class).is_empty() {
            said.wrong(FaultKind::UnknownClass, path, place, "it has no class");
            continue;
        }
        let side = |i: usize| cell(i).parse::<f64>().ok().filter(|v| *v >= 1.0);
        let size = columns.size.and_then(|(w, h)| side(w).zip(side(h)));
        let class = said.class(cell(columns.class));
        let told = ToldBox { place, class, edges: [l, t, r, b], size, ..ToldBox::default() };
        said.pictures[at].boxes.get_or_insert_default().push(told);
    }
}
