//! Label Studio's json: a list of tasks, each with `annotations` that hold `result`s (JSON), or the
//! short form (JSON-MIN) with the labels as a field of the task. Sides are percent; a turned rectangle
//! turns about its upper left corner.

use super::{FaultKind, Said, Told, ToldBox, bytes_of, head_of};
use crate::{DataError, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Whether a json file is a list of tasks with rectangles.
pub(super) fn is_one(path: &Path) -> bool {
    if !head_of(path).trim_start_matches('\u{feff}').trim_start().starts_with('[') {
        return false;
    }
    let Ok(bytes) = bytes_of(path) else { return false };
    let holds = |word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
    holds("rectanglelabels") || holds("\"annotations\"") && holds("\"result\"")
}

pub(super) fn read(paths: &[PathBuf]) -> Result<Said> {
    let mut said = Said::new("Label Studio json");
    for path in paths {
        let bytes = bytes_of(path)?;
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let tasks: Vec<Value> = serde_json::from_slice(bytes)
            .map_err(|e| DataError::dataset(path, format!("is no list of tasks: {e}")))?;
        for (i, t) in tasks.iter().enumerate() {
            task(path, i + 1, t, &mut said);
        }
    }
    said.sort_classes();
    Ok(said)
}

fn task(path: &Path, n: usize, task: &Value, said: &mut Said) {
    let place = format!("task {n}");
    let Some(picture) = picture_of(task) else {
        said.wrong(FaultKind::Malformed, path, place, "it names no picture");
        return;
    };
    let mut told = Told { file: path.into(), picture, ..Told::default() };
    match task.get("annotations").and_then(Value::as_array) {
        // The last annotation that was not taken back counts.
        Some(all) => {
            let cancelled =
                |a: &&Value| a.get("was_cancelled").and_then(Value::as_bool) == Some(true);
            if let Some(a) = all.iter().rfind(|a| !cancelled(a)) {
                let results = a.get("result").and_then(Value::as_array);
                told.boxes = Some(boxes(path, &place, results.map_or(&[], Vec::as_slice), said));
            }
        }
        None => {
            let labels = task.as_object().into_iter().flatten().map(|(_, v)| v);
            let list = labels
                .filter_map(Value::as_array)
                .find(|list| list.iter().any(|v| v.get("rectanglelabels").is_some()));
            told.boxes = match list {
                Some(list) => Some(boxes(path, &place, list, said)),
                // The short form writes no field where a task was sent without a label.
                None => task.get("annotation_id").is_some().then(Vec::new),
            };
        }
    }
    said.pictures.push(told);
}

/// Under `data`, or the task itself in the short form: the field that ends like a picture.
fn picture_of(task: &Value) -> Option<String> {
    let fields = task.get("data").unwrap_or(task).as_object()?;
    let named = ["image", "img", "picture"].iter().filter_map(|k| fields.get(*k)?.as_str());
    let any = fields.values().filter_map(Value::as_str);
    let looks = |t: &&str| {
        let t = t.to_lowercase();
        [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".jfif"].iter().any(|e| t.ends_with(e))
    };
    let text = named.chain(any.filter(looks)).next()?;
    // `/data/local-files/?d=folder/1.jpg`, `/data/upload/1/0123abcd-1.jpg`
    let text = text.rsplit("?d=").next().unwrap_or(text);
    let text = unescape(text);
    let (folder, name) = text.rsplit_once('/').unwrap_or(("", &text));
    let uploaded = folder.contains("upload");
    let bare = name.split_once('-').filter(|(hash, _)| {
        uploaded && hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit())
    });
    Some(match bare {
        Some((_, bare)) => bare.to_string(),
        None => text.clone(),
    })
}

/// `%20` and the like.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()).filter(|_| bytes[i] == b'%') {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn boxes(path: &Path, task: &str, results: &[Value], said: &mut Said) -> Vec<ToldBox> {
    let mut all = Vec::new();
    for (i, r) in results.iter().enumerate() {
        // The short form has the value's fields in the result itself.
        let value = r.get("value").unwrap_or(r);
        let Some(labels) = value.get("rectanglelabels").and_then(Value::as_array) else { continue };
        let place = format!("{task}, region {}", i + 1);
        let Some(class) = labels.first().and_then(Value::as_str) else {
            said.wrong(FaultKind::UnknownClass, path, place, "the rectangle has no label");
            continue;
        };
        let number = |from: &Value, key: &str| from.get(key).and_then(Value::as_f64);
        let sides = ["x", "y", "width", "height"].map(|k| number(value, k));
        let [Some(x), Some(y), Some(w), Some(h)] = sides else {
            said.wrong(FaultKind::Malformed, path, place, "x, y, width, height are no numbers");
            continue;
        };
        let of = |key: &str| number(r, key).or_else(|| number(value, key));
        let size = of("original_width").zip(of("original_height"));
        let edges = turned([x, y, w, h], number(value, "rotation").unwrap_or(0.0), size);
        let class = said.class(class);
        let edges = edges.map(|e| e / 100.0);
        all.push(ToldBox { place, class, edges, shares: true, size, ..ToldBox::default() });
    }
    all
}

/// The upright rectangle around one that is turned clockwise by `degrees` about its upper left corner;
/// in percent, so the picture's shape matters.
fn turned([x, y, w, h]: [f64; 4], degrees: f64, size: Option<(f64, f64)>) -> [f64; 4] {
    if degrees == 0.0 || !degrees.is_finite() {
        return [x, y, x + w, y + h];
    }
    let (pw, ph) = size.filter(|s| s.0 > 0.0 && s.1 > 0.0).unwrap_or((1.0, 1.0));
    let (sin, cos) = degrees.to_radians().sin_cos();
    let corner = |dx: f64, dy: f64| {
        let (dx, dy) = (dx * pw, dy * ph);
        (x + (dx * cos - dy * sin) / pw, y + (dx * sin + dy * cos) / ph)
    };
    let corners = [(0.0, 0.0), (w, 0.0), (0.0, h), (w, h)].map(|(dx, dy)| corner(dx, dy));
    let fold = |f: fn(f64, f64) -> f64, of: fn(&(f64, f64)) -> f64| {
        corners.iter().map(of).reduce(f).unwrap_or(0.0)
    };
    [
        fold(f64::min, |c| c.0),
        fold(f64::min, |c| c.1),
        fold(f64::max, |c| c.0),
        fold(f64::max, |c| c.1),
    ]
}
