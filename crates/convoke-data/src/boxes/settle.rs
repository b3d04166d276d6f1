//! From what files say to boxes that can be trusted: pictures found and measured, boxes in pixels of the
//! shown picture, mended where that is safe and left out where not.

use super::files::Files;
use super::{Annotation, BoxSet, BoxedPicture, Fault, FaultKind, Said, Told, ToldBox, plain};
use crate::picture::{Area, Facts, read_facts};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A box may leave the picture by that many pixels without a word: files round.
const ROUNDING: f64 = 0.5;
/// Sides of less are no area.
const LEAST: f64 = 0.01;
/// Two sizes are the same shape when their sides' ratios differ by no more.
const SHAPE: f64 = 0.02;

/// Settles everything that was said.
pub(super) fn settle(said: Said, files: &Files) -> BoxSet {
    let Said { kind, classes, pictures, mut faults, .. } = said;
    let mut settled = BTreeMap::<PathBuf, BoxedPicture>::new();
    for told in &pictures {
        let Some(path) = told
            .path
            .clone()
            .or_else(|| Some(files.all[files.find(&told.picture, &told.file)?].clone()))
        else {
            faults.push(Fault {
                kind: FaultKind::MissingPicture,
                file: told.file.clone(),
                place: plain(&told.picture),
                picture: None,
                area: None,
                told: format!("{} boxes left out", told.boxes.as_ref().map_or(0, Vec::len)),
            });
            continue;
        };
        picture(told, path, &mut settled, &mut faults);
    }
    for path in &files.all {
        if !settled.contains_key(path) {
            let told = Told { path: Some(path.clone()), file: path.clone(), ..Told::default() };
            picture(&told, path.clone(), &mut settled, &mut faults);
        }
    }
    let mut pictures: Vec<BoxedPicture> = settled.into_values().collect();
    for p in &mut pictures {
        if let Some(boxes) = &mut p.boxes {
            once(boxes, &p.path, &mut faults);
        }
    }
    BoxSet { kind, classes, pictures, faults }
}

/// Measures a picture and adds its boxes to those that other files told of it.
fn picture(
    told: &Told,
    path: PathBuf,
    settled: &mut BTreeMap<PathBuf, BoxedPicture>,
    faults: &mut Vec<Fault>,
) {
    let facts = match read_facts(&path) {
        Ok(facts) => facts,
        Err(e) => {
            let boxes = told.boxes.as_ref().map_or(0, Vec::len);
            faults.push(Fault {
                kind: FaultKind::UnreadablePicture,
                file: told.file.clone(),
                place: plain(&told.picture),
                picture: Some(path),
                area: None,
                told: format!("{e}; it and {boxes} boxes left out"),
            });
            return;
        }
    };
    let (width, height) = facts.shown();
    let entry = settled.entry(path.clone()).or_insert_with(|| BoxedPicture {
        path: path.clone(),
        width,
        height,
        part: told.part,
        boxes: None,
    });
    entry.part = entry.part.or(told.part);
    let Some(boxes) = &told.boxes else { return };
    let mut turned_told = false;
    let mut kept = Vec::with_capacity(boxes.len());
    for b in boxes {
        let mut note = |kind, area: Area, words: String| {
            faults.push(Fault {
                kind,
                file: told.file.clone(),
                place: b.place.clone(),
                picture: Some(path.clone()),
                area: Some(area),
                told: words,
            });
        };
        let size = b.size.or(told.size);
        let (edges, frame) = placed(b, size, facts, &mut turned_told, &mut note);
        if let Some(area) = mended(edges, frame, (width as f64, height as f64), &mut note) {
            kept.push(Annotation {
                area,
                class: b.class,
                crowd: b.crowd,
                difficult: b.difficult,
                mask_area: b.mask_area,
            });
        }
    }
    entry.boxes.get_or_insert_default().extend(kept);
}

/// Left, top, right, bottom.
type Edges = [f64; 4];

/// Whether the file's size of the picture agrees with the picture.
#[derive(Clone, Copy, PartialEq)]
enum Frame {
    /// It does, or nothing is said.
    Known,
    /// It does not, and the box's place is as the file says it.
    Doubtful,
}

/// The box in pixels of the shown picture, as the file means it.
fn placed(
    b: &ToldBox,
    size: Option<(f64, f64)>,
    facts: Facts,
    turned_told: &mut bool,
    note: &mut impl FnMut(FaultKind, Area, String),
) -> (Edges, Frame) {
    let shown = facts.shown();
    let shown = (shown.0 as f64, shown.1 as f64);
    let raw = (facts.width as f64, facts.height as f64);
    let same = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 1.0 && (a.1 - b.1).abs() < 1.0;
    let scaled = |e: Edges, by: (f64, f64)| [e[0] * by.0, e[1] * by.1, e[2] * by.0, e[3] * by.1];
    // Sizes tell how a tool saw a picture that EXIF lays on its side; else nothing does.
    let on_its_side = facts.orientation >= 5 && !same(raw, shown);
    if on_its_side && size.is_some_and(|s| same(s, raw)) {
        let edges = if b.shares { scaled(b.edges, raw) } else { b.edges };
        let edges = turned(edges, raw, facts.orientation);
        if !*turned_told {
            let words = "boxes were drawn on the picture as stored; turned with it";
            note(FaultKind::Turned, area_of(edges), words.into());
            *turned_told = true;
        }
        return (edges, Frame::Known);
    }
    let edges = if b.shares { scaled(b.edges, shown) } else { b.edges };
    let known = size.is_some_and(|s| same(s, shown));
    if facts.orientation > 1 && !*turned_told && !(on_its_side && known) {
        let words = "nothing says how the boxes were drawn; taken to be for the picture as shown";
        note(FaultKind::Turned, area_of(edges), words.into());
        *turned_told = true;
    }
    let Some(size) = size.filter(|s| !same(*s, shown) && s.0 >= 1.0 && s.1 >= 1.0) else {
        return (edges, Frame::Known);
    };
    let words = format!("{}x{} is told, {}x{} it is", size.0, size.1, shown.0, shown.1);
    let by = (shown.0 / size.0, shown.1 / size.1);
    if !b.shares && (by.0 / by.1 - 1.0).abs() < SHAPE {
        let edges = scaled(b.edges, by);
        note(FaultKind::WrongSize, area_of(edges), format!("{words}; box scaled with it"));
        return (edges, Frame::Known);
    }
    note(FaultKind::WrongSize, area_of(edges), format!("{words}; box taken as it is"));
    (edges, Frame::Doubtful)
}

/// From pixels of the stored picture to pixels of the shown one.
fn turned([l, t, r, b]: Edges, (w, h): (f64, f64), orientation: u8) -> Edges {
    let point = |x: f64, y: f64| match orientation {
        2 => (w - x, y),
        3 => (w - x, h - y),
        4 => (x, h - y),
        5 => (y, x),
        6 => (h - y, x),
        7 => (h - y, w - x),
        8 => (y, w - x),
        _ => (x, y),
    };
    let ((x0, y0), (x1, y1)) = (point(l, t), point(r, b));
    // A turn exchanges edges; a box that came exchanged stays so.
    let order = |a: f64, b: f64, as_told: bool| {
        if (a <= b) == as_told { (a, b) } else { (b, a) }
    };
    let ((l2, r2), (t2, b2)) = (order(x0, x1, l <= r), order(y0, y1, t <= b));
    [l2, t2, r2, b2]
}

/// The box within the picture; none where nothing of it is.
fn mended(
    edges: Edges,
    frame: Frame,
    (width, height): (f64, f64),
    note: &mut impl FnMut(FaultKind, Area, String),
) -> Option<Area> {
    let told = area_of(edges);
    let text = |e: Edges| format!("{:.1}, {:.1} to {:.1}, {:.1}", e[0], e[1], e[2], e[3]);
    if edges.iter().any(|v| !v.is_finite()) {
        note(FaultKind::Malformed, told, "an edge is no number; left out".into());
        return None;
    }
    let [mut l, mut t, mut r, mut b] = edges;
    if l > r || t > b {
        note(FaultKind::Swapped, told, format!("{}; exchanged back", text(edges)));
        (l, r, t, b) = (l.min(r), l.max(r), t.min(b), t.max(b));
    }
    if r - l < LEAST || b - t < LEAST {
        note(FaultKind::ZeroArea, told, format!("{}; left out", text(edges)));
        return None;
    }
    let out = (-l).max(-t).max(r - width).max(b - height);
    let clipped =
        [l.clamp(0.0, width), t.clamp(0.0, height), r.clamp(0.0, width), b.clamp(0.0, height)];
    let area = area_of(clipped);
    if out > ROUNDING {
        let picture = format!("{} in a picture of {width}x{height}", text(edges));
        // With a wrong size, a box that does not fit may lie anywhere.
        let lost = area.width < 1.0 || area.height < 1.0 || frame == Frame::Doubtful;
        let done = if lost { "left out" } else { "cut off at its edge" };
        note(FaultKind::OutOfRange, told, format!("{picture}; {done}"));
        if lost {
            return None;
        }
    }
    (area.width >= LEAST && area.height >= LEAST).then_some(area)
}

fn area_of([l, t, r, b]: Edges) -> Area {
    Area { left: l, top: t, width: r - l, height: b - t }
}

/// Leaves out boxes that are there twice.
fn once(boxes: &mut Vec<Annotation>, picture: &Path, faults: &mut Vec<Fault>) {
    let key = |a: &Annotation| {
        let bits = [a.area.left, a.area.top, a.area.width, a.area.height].map(f64::to_bits);
        (a.class, bits)
    };
    let mut seen = std::collections::HashSet::new();
    boxes.retain(|a| {
        let new = seen.insert(key(a));
        if !new {
            faults.push(Fault {
                kind: FaultKind::Duplicate,
                file: picture.into(),
                place: format!("box at {:.1}, {:.1}", a.area.left, a.area.top),
                picture: Some(picture.into()),
                area: Some(a.area),
                told: "the second one left out".into(),
            });
        }
        new
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_turns_with_its_picture() {
        // A 4 x 2 picture; the box is its upper left pixel.
        let at = |orientation| turned([0.0, 0.0, 1.0, 1.0], (4.0, 2.0), orientation);
        assert_eq!(at(1), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(at(2), [3.0, 0.0, 4.0, 1.0]);
        assert_eq!(at(3), [3.0, 1.0, 4.0, 2.0]);
        assert_eq!(at(4), [0.0, 1.0, 1.0, 2.0]);
        assert_eq!(at(5), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(at(6), [1.0, 0.0, 2.0, 1.0]);
        assert_eq!(at(7), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(at(8), [0.0, 3.0, 1.0, 4.0]);
    }
}
