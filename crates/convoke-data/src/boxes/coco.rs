//! COCO json: `images`, `annotations`, `categories`. A picture of the list without annotations is a
//! negative. Boxes are `[left, top, width, height]`.

use super::{FaultKind, MAX_BOXES, Part, Said, Told, ToldBox, bytes_of, head_of};
use crate::{DataError, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct File {
    images: Vec<Image>,
    annotations: Vec<Thing>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: Id,
    #[serde(default)]
    file_name: String,
    #[serde(default)]
    width: f64,
    #[serde(default)]
    height: f64,
}

#[derive(Deserialize)]
struct Thing {
    image_id: Id,
    category_id: Id,
    #[serde(default)]
    bbox: Vec<f64>,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default)]
    iscrowd: Flag,
}

#[derive(Deserialize)]
struct Category {
    id: Id,
    name: String,
}

/// Numbers, or words as some tools write them.
#[derive(Deserialize, PartialEq, Eq, Hash, Clone, Debug)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Word(String),
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Flag {
    #[default]
    Missing,
    Number(i64),
    Word(bool),
}

impl Flag {
    fn set(&self) -> bool {
        matches!(self, Flag::Number(1..) | Flag::Word(true))
    }
}

/// Whether a json file is COCO's: an object with `images`, `annotations` and `categories`.
pub(super) fn is_one(path: &Path) -> bool {
    if !head_of(path).trim_start_matches('\u{feff}').trim_start().starts_with('{') {
        return false;
    }
    let Ok(bytes) = bytes_of(path) else { return false };
    let holds = |word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
    holds("\"images\"") && holds("\"annotations\"") && holds("\"categories\"")
}

pub(super) fn read(paths: &[PathBuf]) -> Result<Said> {
    let mut said = Said::new("COCO json");
    for path in paths {
        file(path, &mut said)?;
    }
    Ok(said)
}

fn file(path: &Path, said: &mut Said) -> Result<()> {
    let bytes = bytes_of(path)?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let file: File = serde_json::from_slice(bytes)
        .map_err(|e| DataError::dataset(path, format!("is no COCO json: {e}")))?;
    if file.annotations.len() > MAX_BOXES {
        return Err(DataError::dataset(path, "holds too many boxes"));
    }
    let part = part_of(path);
    let mut categories = file.categories;
    categories.sort_by(|a, b| match (&a.id, &b.id) {
        (Id::Number(a), Id::Number(b)) => a.cmp(b),
        _ => std::cmp::Ordering::Equal,
    });
    let classes: HashMap<Id, usize> =
        categories.into_iter().map(|c| (c.id, said.class(&c.name))).collect();
    let first = said.pictures.len();
    let mut places = HashMap::new();
    for image in file.images {
        places.insert(image.id, said.pictures.len());
        said.pictures.push(Told {
            file: path.into(),
            picture: image.file_name,
            path: None,
            size: (image.width > 0.0 && image.height > 0.0).then_some((image.width, image.height)),
            part,
            boxes: Some(Vec::new()),
        });
    }
    for (i, a) in file.annotations.into_iter().enumerate() {
        let place = format!("annotation {}", i + 1);
        let Some(&at) = places.get(&a.image_id).filter(|&&at| at >= first) else {
            said.wrong(FaultKind::MissingPicture, path, place, "its image is not in the list");
            continue;
        };
        let Some(&class) = classes.get(&a.category_id) else {
            let told = format!("category {:?} is not in the list", a.category_id);
            said.wrong(FaultKind::UnknownClass, path, place, &told);
            continue;
        };
        let [x, y, w, h] = a.bbox[..] else {
            said.wrong(FaultKind::Malformed, path, place, "its bbox has not four numbers");
            continue;
        };
        let told = ToldBox {
            place,
            class,
            edges: [x, y, x + w, y + h],
            crowd: a.iscrowd.set(),
            mask_area: a.area.filter(|a| a.is_finite() && *a >= 0.0),
            ..ToldBox::default()
        };
        said.pictures[at].boxes.get_or_insert_default().push(told);
    }
    Ok(())
}

/// By the file's name, else its folder's (`train/_annotations.coco.json`).
fn part_of(path: &Path) -> Option<Part> {
    let names = path.iter().rev().take(2);
    names.filter_map(|n| Part::of(&n.to_string_lossy())).next()
}
