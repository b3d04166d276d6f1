//! The report's pictures and tables as files.

use super::{Judged, RunReport};
use crate::canvas::{Canvas, Font, GAP, INK, LINE, SOFT, Tile, fit, grid};
use crate::draw::Rgb;
use crate::error::Result;
use convoke_data::{Picture, decode_picture, write_file, write_png};
use convoke_train::Calibration;
use std::path::Path;

/// Classes of a matrix as a picture at most.
const CLASSES: usize = 60;

/// Writes them into a folder.
pub(super) fn write(folder: &Path, r: &RunReport) -> Result<()> {
    write_file(&folder.join("network.svg"), r.network.diagram.as_bytes())?;
    let mut seen = Vec::new();
    for (b, name) in r.batches.iter().zip(["batch-train.png", "batch-judged.png"]) {
        for (bytes, class) in b.pictures.iter().zip(&b.classes) {
            seen.push(Tile::new(fit(&decode_picture(bytes, 3)?, 128)?, &[class]));
        }
        write_png(&folder.join(name), &grid(&b.title, &std::mem::take(&mut seen), 8, Font::Small))?;
    }
    let Some(j) = &r.judged else { return Ok(()) };
    write_png(&folder.join("confusion.png"), &confusion(j))?;
    write_png(
        &folder.join("calibration.png"),
        &calibration(&[("as it is", &j.plain), ("at that temperature", &j.fitted)]),
    )?;
    write_png(&folder.join("top-losses.png"), &losses(j)?)?;
    write_file(&folder.join("per-class.csv"), per_class_csv(j).as_bytes())?;
    write_file(&folder.join("confusion.csv"), confusion_csv(j).as_bytes())?;
    Ok(write_file(&folder.join("predictions.csv"), predictions_csv(j).as_bytes())?)
}

fn quoted(s: &str) -> String {
    format!("\"{}\"", s.replace('"', "\"\""))
}

fn per_class_csv(j: &Judged) -> String {
    let mut t = String::from("class,precision,recall,f1,pictures\n");
    for (name, c) in j.classes.iter().zip(&j.per_class) {
        t += &format!("{},{:.6},{:.6},{:.6},{}\n", quoted(name), c.precision, c.recall, c.f1, c.n);
    }
    t
}

/// Rows are what is there, columns what it was called.
fn confusion_csv(j: &Judged) -> String {
    let names: Vec<String> = j.classes.iter().map(|c| quoted(c)).collect();
    let mut t = format!("actual,{}\n", names.join(","));
    for (name, row) in names.iter().zip(&j.evaluation.confusion) {
        let cells: Vec<String> = row.iter().map(usize::to_string).collect();
        t += &format!("{name},{}\n", cells.join(","));
    }
    t
}

fn predictions_csv(j: &Judged) -> String {
    let mut t = String::from("picture,actual,predicted,probability,probability_of_actual,loss\n");
    for s in &j.samples {
        let (guess, p) = s.guesses.first().copied().unwrap_or((0, 0.0));
        t += &format!(
            "{},{},{},{p:.6},{:.6},{:.6}\n",
            quoted(&s.name),
            quoted(&j.classes[s.actual]),
            quoted(&j.classes[guess]),
            s.probability,
            s.loss
        );
    }
    t
}

fn confusion(j: &Judged) -> Picture {
    let n = j.classes.len().min(CLASSES);
    let (letter, line) = Font::Plain.size();
    let name = |c: usize| j.classes[c].chars().take(22).collect::<String>();
    let words = (0..n).map(|c| name(c).chars().count()).max().unwrap_or(0) * letter;
    let side = if n <= 20 { 36 } else { 16 };
    let head = GAP + Font::Bold.size().1 + line + GAP;
    let mut canvas =
        Canvas::new((2 * GAP + words + n * side + GAP).max(420), head + n * side + line + GAP);
    canvas.text("Confusion: rows are, columns called", GAP, GAP, Font::Bold, INK);
    for a in 0..n {
        let row = &j.evaluation.confusion[a];
        let all = row.iter().sum::<usize>().max(1);
        let y = head + a * side;
        canvas.text(&name(a), GAP, y + side / 2 - 7, Font::Plain, INK);
        canvas.text(
            &format!("{a}"),
            2 * GAP + words + a * side + side / 2 - 4,
            head - line,
            Font::Small,
            SOFT,
        );
        for p in 0..n {
            let (x, share) = (2 * GAP + words + p * side, (row[p] as f32 / all as f32).sqrt());
            let full: Rgb = if a == p { [63, 143, 87] } else { [214, 96, 22] };
            let tint = |k: usize| (250.0 + (f32::from(full[k]) - 250.0) * share) as u8;
            canvas.fill(x, y, side - 1, side - 1, [tint(0), tint(1), tint(2)]);
            if row[p] > 0 && side > 20 {
                canvas.text(&row[p].to_string(), x + 4, y + side / 2 - 6, Font::Small, INK);
            }
        }
    }
    canvas.0
}

fn calibration(all: &[(&str, &Calibration)]) -> Picture {
    let (side, wide) = (240, 300);
    let mut canvas = Canvas::new(GAP + all.len() * wide, side + 96);
    for (k, (title, c)) in all.iter().enumerate() {
        let (x0, y0) = (GAP + k * wide, 56);
        let told =
            format!("T {:.2}, error {:.2} %, loss {:.3}", c.temperature, 100.0 * c.ece, c.loss);
        canvas.text(title, x0, GAP, Font::Bold, INK);
        canvas.text(&told, x0, GAP + 20, Font::Plain, SOFT);
        canvas.fill(x0, y0, side, side, [240, 240, 236]);
        for i in 0..side {
            canvas.fill(x0 + i, y0 + side - 1 - i, 1, 1, LINE);
        }
        let bar = side / c.bins.len();
        for (i, b) in c.bins.iter().enumerate().filter(|b| b.1.n > 0) {
            let tall = (b.accuracy * side as f64) as usize;
            canvas.fill(x0 + i * bar, y0 + side - tall, bar - 1, tall, [76, 127, 187]);
            let at = ((b.confidence * side as f64) as usize).min(side - 1);
            canvas.fill(x0 + i * bar, y0 + side - 1 - at, bar - 1, 2, [214, 96, 22]);
        }
        canvas.text(
            "confidence (orange), share right (blue)",
            x0,
            y0 + side + 6,
            Font::Small,
            SOFT,
        );
    }
    canvas.0
}

fn losses(j: &Judged) -> Result<Picture> {
    let mut tiles = Vec::new();
    for &i in &j.top_losses {
        let s = &j.samples[i];
        let Some(p) = s.thumb.as_deref().and_then(|b| decode_picture(b, 3).ok()) else { continue };
        let Some((guess, sure)) = s.guesses.first() else { continue };
        let name = |c: usize| j.classes[c].chars().take(16).collect::<String>();
        let called = format!("{} {:.0} %", name(*guess), 100.0 * sure);
        let is = format!("is {}", name(s.actual));
        tiles.push(Tile::new(p, &[&called, &is, &format!("loss {:.2}", s.loss)]));
    }
    Ok(grid("Top losses", &tiles, 9, Font::Small))
}
