//! What `data check` found, as a picture: classes and sizes as bars, and the pictures that are wrong.

use crate::bounds::Bounds;
use crate::canvas::{Canvas, Font, GAP, INK, LINE, SOFT, Tile, fit, grid, stack};
use crate::draw::{Rgb, draw_boxes};
use crate::error::Result;
use convoke_data::check::{Report, Severity, SplitFacts};
use convoke_data::{Area, Filter, Picture, read_picture, resize};
use std::path::Path;

const BAR: usize = 360;
const COLOURS: [Rgb; 3] = [[76, 127, 187], [214, 130, 62], [108, 160, 120]];
/// Classes that have bars of their own.
const CLASSES: usize = 40;
/// Findings of each kind that are shown.
const SHOWN: usize = 6;

/// Classes, sizes, and the first pictures of each kind of finding.
///
/// # Errors
/// When a picture cannot be resized.
pub fn check_sheet(report: &Report) -> Result<Picture> {
    let mut parts = vec![classes(report), sizes(report)];
    for (kind, findings) in report.by_kind() {
        let mut tiles = Vec::new();
        for f in findings.iter().take(SHOWN) {
            for file in f.files.iter().take(2) {
                let Ok(p) = read_picture(file, 3) else { continue };
                let p = match f.area {
                    Some(area) => near(&p, area)?,
                    None => fit(&p, TILE)?,
                };
                tiles.push(Tile::new(p, &[&name(file), &shortened(&f.told, 26)]));
            }
        }
        let title = format!("{} ({})", kind.words(), findings.len());
        let mark = match kind.severity() {
            Severity::Error => "ERROR  ",
            Severity::Warning => "warning  ",
            Severity::Note => "note  ",
        };
        parts.push(if tiles.is_empty() {
            lines(
                &format!("{mark}{title}"),
                &findings
                    .iter()
                    .take(SHOWN)
                    .map(|f| {
                        let file =
                            f.files.first().map_or(String::new(), |p| format!("{}  ", name(p)));
                        shortened(&format!("{file}{}", f.told), 110)
                    })
                    .collect::<Vec<_>>(),
            )
        } else {
            grid(&format!("{mark}{title}"), &tiles, 6, Font::Small)
        });
    }
    Ok(stack(&parts))
}

/// Sides of the pictures that are shown.
const TILE: usize = 120;

/// The surroundings of a wrong box, with the box in red.
fn near(p: &Picture, box_: Area) -> Result<Picture> {
    let (w, h) = (p.width as f64, p.height as f64);
    let side = (4.0 * box_.width.abs().max(box_.height.abs())).max(w.min(h) / 5.0).min(w.min(h));
    let (x, y) = (box_.left + box_.width / 2.0, box_.top + box_.height / 2.0);
    let left = (x - side / 2.0).clamp(0.0, w - side);
    let top = (y - side / 2.0).clamp(0.0, h - side);
    let area = Area { left, top, width: side, height: side };
    let shown = resize(p, area, TILE, TILE, Filter::Bilinear)?;
    let zoom = TILE as f64 / side;
    let wrong = Bounds {
        left: (box_.left - left) * zoom,
        top: (box_.top - top) * zoom,
        width: box_.width * zoom,
        height: box_.height * zoom,
    };
    Ok(draw_boxes(&shown, &[], &[wrong]))
}

fn name(path: &Path) -> String {
    let text = path.file_name().map_or(path.to_string_lossy(), |n| n.to_string_lossy());
    shortened(&text, 26)
}

fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() {
        n if n <= most => text.into(),
        _ => text.chars().take(most - 1).chain(['~']).collect(),
    }
}

fn lines(title: &str, lines: &[String]) -> Picture {
    let (letter, height) = Font::Plain.size();
    let widest = lines
        .iter()
        .map(|l| l.chars().count() * letter)
        .max()
        .unwrap_or(0)
        .max(9 * title.chars().count());
    let head = GAP + Font::Bold.size().1 + 4;
    let mut canvas = Canvas::new(widest + 2 * GAP, head + lines.len() * height + GAP);
    canvas.text(title, GAP, GAP, Font::Bold, INK);
    for (i, line) in lines.iter().enumerate() {
        canvas.text(line, GAP, head + i * height, Font::Plain, SOFT);
    }
    canvas.0
}

/// A bar for each class and split.
fn classes(r: &Report) -> Picture {
    let (letter, height) = Font::Plain.size();
    let n = r.classes.len().min(CLASSES);
    let words =
        r.classes[..n].iter().map(|c| c.chars().count().min(28)).max().unwrap_or(0) * letter;
    let row = r.splits.len() * 6 + height - 4;
    let head = GAP + Font::Bold.size().1 + height + 6;
    let mut canvas = Canvas::new(GAP + words + GAP + BAR + 90, head + n * row + GAP);
    canvas.text(
        &shortened(
            &match r.boxes {
                Some(_) => format!("{}: boxes of {} classes", r.kind, r.classes.len()),
                None => format!("{}: {} classes", r.kind, r.classes.len()),
            },
            60,
        ),
        GAP,
        GAP,
        Font::Bold,
        INK,
    );
    let mut x = GAP;
    for (s, colour) in r.splits.iter().zip(COLOURS) {
        canvas.fill(x, GAP + 22, 10, 10, colour);
        let told = match r.boxes {
            Some(_) => format!("{} {} pictures", s.name, s.n),
            None => format!("{} {}", s.name, s.n),
        };
        canvas.text(&told, x + 14, GAP + 20, Font::Plain, SOFT);
        x += 14 + letter * (told.len() + 2);
    }
    let most = r.splits.iter().flat_map(|s| &s.per_class).max().copied().unwrap_or(1).max(1);
    for (i, class) in r.classes[..n].iter().enumerate() {
        let y = head + i * row;
        canvas.text(&shortened(class, 28), GAP, y, Font::Plain, INK);
        for (k, (s, colour)) in r.splits.iter().zip(COLOURS).enumerate() {
            let count = s.per_class[i];
            let long = (count * BAR).div_ceil(most);
            canvas.fill(GAP + words + GAP, y + k * 6, long, 5, colour);
        }
        let counts: Vec<String> =
            r.splits.iter().map(|s: &SplitFacts| s.per_class[i].to_string()).collect();
        canvas.text(&counts.join("/"), GAP + words + GAP + BAR + 6, y, Font::Plain, SOFT);
    }
    canvas.0
}

/// Pictures by their shorter side.
fn sizes(r: &Report) -> Picture {
    let bins = &r.sizes.histogram;
    if bins.is_empty() {
        return Canvas::new(1, 1).0;
    }
    let most = bins.iter().map(|b| b.1).max().unwrap_or(1).max(1);
    let (wide, tall, head) = (46, 90, GAP + 24);
    let mut canvas = Canvas::new(2 * GAP + bins.len() * wide, head + tall + 40);
    let title = format!("shorter side in pixels; median {}x{}", r.sizes.width, r.sizes.height);
    canvas.text(&title, GAP, GAP, Font::Bold, INK);
    for (i, (below, n)) in bins.iter().enumerate() {
        let (x, long) = (GAP + i * wide, (n * tall).div_ceil(most));
        canvas.fill(x, head + tall - long, wide - 6, long, COLOURS[0]);
        let bound = if *below == usize::MAX { "more".into() } else { format!("<{below}") };
        canvas.text(&bound, x, head + tall + 4, Font::Small, SOFT);
        if *n > 0 {
            canvas.text(&n.to_string(), x, head + tall + 16, Font::Small, INK);
        }
    }
    canvas.fill(GAP, head + tall, bins.len() * wide, 1, LINE);
    canvas.0
}
