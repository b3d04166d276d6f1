//! The report as one self-contained page: data, pictures, style and script in it, nothing fetched.

use super::charts::{Line, lines, parts, reliability};
use super::{Judged, RunReport};
use crate::diagram::escape;
use convoke_data::check::Severity;
use convoke_engine::MemoryReport;
use convoke_engine::table::{bytes, thousands, units};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Classes of a confusion matrix that is shown whole; of larger ones the worst are.
const CLASSES: usize = 40;

/// The page.
pub(super) fn html(r: &RunReport) -> String {
    let mut t = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<header><h1>{0}</h1><p>{2} on {3}: {4} parameters, {5} MACs a picture</p></header>\n",
        escape(&r.name),
        include_str!("style.css"),
        escape(&r.network.name),
        r.network.input,
        thousands(r.network.parameters as u64),
        units(r.network.macs)
    );
    let sections = [
        ("curves", "Curves", curves(r)),
        ("confusion", "Confusion", r.judged.as_ref().map_or(String::new(), confusion)),
        ("classes", "Classes", r.judged.as_ref().map_or(String::new(), classes)),
        ("losses", "Top losses", r.judged.as_ref().map_or(String::new(), losses)),
        ("calibration", "Calibration", r.judged.as_ref().map_or(String::new(), calibration)),
        ("batches", "What the network saw", batches(r)),
        ("filters", "Filters", filters(r)),
        ("network", "Network", network(r)),
        ("memory", "Memory", memory(r)),
        ("data-set", "Data", data(r)),
        ("settings", "Settings", settings(r)),
    ];
    t.push_str("<nav><div>");
    for (id, title, _) in sections.iter().filter(|s| !s.2.is_empty()) {
        let _ = write!(t, "<a href=\"#{id}\">{title}</a>");
    }
    t.push_str("</div></nav>\n<main>\n");
    t.push_str(&head(r));
    for (id, title, body) in sections.iter().filter(|s| !s.2.is_empty()) {
        let _ = writeln!(t, "<section><h2 id=\"{id}\">{title}</h2>\n{body}</section>");
    }
    let _ = write!(
        t,
        "</main>\n<script type=\"application/json\" id=\"data\">{}</script>\n<script>{}</script>\n</body>\n</html>\n",
        script_data(r),
        include_str!("page.js")
    );
    t
}

/// What the script needs, safe between script tags.
fn script_data(r: &RunReport) -> String {
    let Some(j) = &r.judged else {
        return json!({"classes": [], "cells": {}, "samples": {}}).to_string();
    };
    let mut cells = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for (actual, predicted, all) in &j.cells {
        let count = j.evaluation.confusion[*actual][*predicted];
        cells.insert(format!("{actual}-{predicted}"), json!([actual, predicted, all, count]));
        for &i in all {
            let s = &j.samples[i];
            samples.insert(
                i,
                json!({"name": s.name, "actual": s.actual, "guesses": &s.guesses[..1],
                "probability": s.probability, "thumb": s.thumb.as_deref().map(base64)}),
            );
        }
    }
    let all = json!({"classes": j.classes, "cells": cells, "samples": samples});
    all.to_string().replace('<', "\\u003c")
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn head(r: &RunReport) -> String {
    let mut t = String::from("<div class=\"figures\">");
    let mut figure = |name: &str, value: String| {
        let _ = write!(t, "<div><b>{value}</b><span class=\"soft\">{}</span></div>", escape(name));
    };
    if let Some(j) = &r.judged {
        figure(
            &format!("top-1 on {} {} pictures", thousands(j.evaluation.n as u64), j.split),
            percent(j.evaluation.top1),
        );
        if j.classes.len() > 5 {
            figure("top-5", percent(j.evaluation.top5));
        }
        figure("loss", format!("{:.4}", j.evaluation.loss));
        let f1: f64 =
            j.per_class.iter().map(|c| c.f1).sum::<f64>() / j.per_class.len().max(1) as f64;
        figure("mean F1 of the classes", format!("{f1:.4}"));
        figure("expected calibration error", percent(j.plain.ece));
    }
    if let Some(last) = r.rows.last() {
        let seconds: f64 = r.rows.iter().map(|r| r.seconds).sum();
        figure("epochs", last.epoch.to_string());
        figure(
            "training time",
            if seconds < 120.0 {
                format!("{seconds:.0} s")
            } else {
                format!("{:.0} min", seconds / 60.0)
            },
        );
    }
    t.push_str("</div>\n");
    t
}

fn curves(r: &RunReport) -> String {
    if r.rows.is_empty() {
        return String::new();
    }
    let judge = r.rows[0].judge();
    let points = |of: &dyn Fn(&convoke_train::EpochRow) -> Option<f64>| -> Vec<(f64, f64)> {
        r.rows.iter().filter_map(|row| Some((row.epoch as f64, of(row)?))).collect()
    };
    let pair = |train, judged| {
        [
            Line { name: "train", colour: "#1f62a8", points: train },
            Line { name: judge, colour: "#d66016", points: judged },
        ]
    };
    let loss = pair(points(&|r| Some(r.train_loss)), points(&|r| r.val_loss));
    let right =
        pair(points(&|r| Some(100.0 * r.train_top1)), points(&|r| r.val_top1.map(|v| 100.0 * v)));
    let rate = [Line { name: "learning rate", colour: "#5b9069", points: points(&|r| Some(r.lr)) }];
    let speed = [Line {
        name: "pictures a second",
        colour: "#9179b2",
        points: points(&|r| Some(r.pictures_per_second)),
    }];
    format!(
        "<div class=\"row\">{}{}{}{}</div>",
        lines("Loss", &loss, false),
        lines("Top-1, %", &right, false),
        lines("Learning rate at the epoch's end", &rate, true),
        lines("Speed", &speed, false)
    )
}

/// Classes that are shown: all, or the worst.
fn shown(j: &Judged) -> Vec<usize> {
    let mut order: Vec<usize> = (0..j.classes.len()).collect();
    if order.len() > CLASSES {
        order.sort_by(|&a, &b| j.per_class[a].f1.total_cmp(&j.per_class[b].f1).then(a.cmp(&b)));
        order.truncate(CLASSES);
        order.sort_unstable();
    }
    order
}

fn confusion(j: &Judged) -> String {
    let order = shown(j);
    let mut t = String::from(
        "<p>Rows are what is there, columns what it was called. A cell opens its pictures.</p>\n",
    );
    if order.len() < j.classes.len() {
        let _ =
            writeln!(t, "<p>The {} classes of least F1 of {}.</p>", order.len(), j.classes.len());
    }
    t.push_str("<div class=\"wide\"><table class=\"confusion\"><thead><tr><td></td>");
    for &c in &order {
        let _ = write!(t, "<th scope=\"col\" title=\"{0}\">{0}</th>", escape(&j.classes[c]));
    }
    t.push_str("</tr></thead><tbody>\n");
    for &a in &order {
        let row = &j.evaluation.confusion[a];
        let n: usize = row.iter().sum();
        let _ = write!(t, "<tr><th scope=\"row\" title=\"{0}\">{0}</th>", escape(&j.classes[a]));
        for &p in &order {
            let count = row[p];
            let share = count as f64 / n.max(1) as f64;
            let colour = if a == p { "63,143,87" } else { "214,96,22" };
            let tint = if count == 0 { 0.0 } else { 0.1 + 0.8 * share.sqrt() };
            let _ = write!(t, "<td style=\"background:rgba({colour},{tint:.2})\">");
            if count > 0 {
                let title = format!("{} called {}: {count} of {n}", j.classes[a], j.classes[p]);
                let _ = write!(
                    t,
                    "<button type=\"button\" data-cell=\"{a}-{p}\" title=\"{}\">{count}</button>",
                    escape(&title)
                );
            }
            t.push_str("</td>");
        }
        t.push_str("</tr>\n");
    }
    t.push_str("</tbody></table></div>\n<div id=\"cell\" aria-live=\"polite\"></div>\n");
    t
}

fn classes(j: &Judged) -> String {
    let mut t = String::from(
        "<div class=\"wide\"><table><thead><tr><th>class</th><th>precision</th><th>recall</th><th>F1</th><th>pictures</th></tr></thead><tbody>\n",
    );
    for (name, c) in j.classes.iter().zip(&j.per_class) {
        let _ = writeln!(
            t,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.4}</td><td>{}</td></tr>",
            escape(name),
            percent(c.precision),
            percent(c.recall),
            c.f1,
            thousands(c.n as u64)
        );
    }
    t.push_str("</tbody></table></div>\n");
    t
}

fn losses(j: &Judged) -> String {
    let mut t = String::from(
        "<p>What the model is most wrong about. Look at the labels, too: some may be wrong themselves.</p>\n<div class=\"thumbs\">\n",
    );
    for &i in &j.top_losses {
        let s = &j.samples[i];
        let Some((guess, p)) = s.guesses.first() else { continue };
        let others: Vec<String> = s
            .guesses
            .iter()
            .map(|(c, p)| format!("{} {:.1} %", j.classes[*c], 100.0 * p))
            .collect();
        let picture = s.thumb.as_deref().map_or(String::new(), |b| {
            format!("<img alt=\"\" src=\"data:image/jpeg;base64,{}\">", base64(b))
        });
        let mark = if *guess == s.actual { "yes" } else { "no" };
        let _ = writeln!(
            t,
            "<figure title=\"{}&#10;{}\">{picture}<figcaption><div class=\"{mark}\">called {}, {:.1} %</div><div>is {}, {:.1} %</div><div class=\"soft\">loss {:.2}</div></figcaption></figure>",
            escape(&s.name),
            escape(&others.join(", ")),
            escape(&j.classes[*guess]),
            100.0 * p,
            escape(&j.classes[s.actual]),
            100.0 * s.probability,
            s.loss
        );
    }
    t.push_str("</div>\n");
    t
}

fn calibration(j: &Judged) -> String {
    let told = format!(
        "<p>Expected calibration error {} over {} bins; with the logits divided by the temperature {:.3} that suits these pictures best it is {}, and the loss {:.4} instead of {:.4}.</p>",
        percent(j.plain.ece),
        j.plain.bins.len(),
        j.fitted.temperature,
        percent(j.fitted.ece),
        j.fitted.loss,
        j.plain.loss
    );
    format!(
        "{told}<div class=\"row\">{}{}</div>",
        reliability("As it is", &j.plain),
        reliability("At that temperature", &j.fitted)
    )
}

fn batches(r: &RunReport) -> String {
    let mut t = String::new();
    for b in &r.batches {
        let _ = writeln!(t, "<p>{}</p>\n<div class=\"thumbs\">", escape(&b.title));
        for (p, class) in b.pictures.iter().zip(&b.classes) {
            let _ = writeln!(
                t,
                "<figure class=\"seen\"><img alt=\"\" src=\"data:image/png;base64,{}\"><figcaption>{}</figcaption></figure>",
                base64(p),
                escape(class)
            );
        }
        t.push_str("</div>\n");
    }
    t
}

fn filters(r: &RunReport) -> String {
    if r.filters.is_empty() {
        return String::new();
    }
    let mut t = String::from(
        "<p>The first convolution's filters, strongest first, after some epochs.</p>\n<div class=\"thumbs\">\n",
    );
    for f in &r.filters {
        let _ = writeln!(
            t,
            "<figure class=\"wide-figure\"><img alt=\"\" src=\"data:image/png;base64,{}\"><figcaption>epoch {}</figcaption></figure>",
            base64(&f.picture),
            f.epoch
        );
    }
    t.push_str("</div>\n");
    t
}

fn network(r: &RunReport) -> String {
    let mut t = format!(
        "<div class=\"wide card drawing\">{}</div>\n<details><summary>All {} layers</summary><div class=\"wide\"><table><thead><tr><th>layer</th><th>kind</th><th>output</th><th>parameters</th><th>MACs</th><th>field</th></tr></thead><tbody>\n",
        r.network.diagram,
        r.network.layers.len()
    );
    for l in &r.network.layers {
        let _ = writeln!(
            t,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}x{}</td></tr>",
            escape(&l.name),
            l.kind,
            l.output,
            thousands(l.parameters as u64),
            units(l.macs),
            l.field[0],
            l.field[1]
        );
    }
    t.push_str("</tbody></table></div></details>\n");
    t
}

fn memory(r: &RunReport) -> String {
    let m = &r.memory;
    if m.train.total == 0 {
        return String::new();
    }
    let bar = |title: &str, m: &MemoryReport| {
        let all = [
            ("weights", m.parameters),
            ("packed", m.packs),
            ("gradients", m.gradients),
            ("optimizer", m.optimizer),
            ("maps", m.activations),
            ("work space", m.scratch),
        ];
        parts(&format!("{title}: {}", bytes(m.total as u64)), &all)
    };
    let measured = match m.peak {
        Some(p) => format!(
            "Measured: the process held {} at most; planned are {}, beside the program and up to {} of decoded pictures.",
            bytes(p),
            bytes((m.train.total + m.predict.total) as u64),
            bytes(m.cache as u64)
        ),
        None => "The system does not tell what the process held.".into(),
    };
    format!(
        "<div class=\"row\">{}{}</div><p>{measured}</p>\n",
        bar("Planned for a training step", &m.train),
        bar("Planned for judging", &m.predict)
    )
}

fn data(r: &RunReport) -> String {
    let d = &r.data;
    let mut t = format!(
        "<p>{}; {} classes; pictures of {}x{} pixels (median)</p>\n<div class=\"wide\"><table><thead><tr><th>class</th>",
        escape(&d.kind),
        d.classes.len(),
        d.sizes.width,
        d.sizes.height
    );
    for s in &d.splits {
        let _ = write!(t, "<th>{}</th>", s.name);
    }
    t.push_str("</tr></thead><tbody>\n");
    for (i, class) in d.classes.iter().enumerate().take(200) {
        let _ = write!(t, "<tr><td>{}</td>", escape(class));
        for s in &d.splits {
            let _ = write!(t, "<td>{}</td>", thousands(s.per_class[i] as u64));
        }
        t.push_str("</tr>\n");
    }
    t.push_str("<tr><td>all</td>");
    for s in &d.splits {
        let _ = write!(t, "<td>{}</td>", thousands(s.n as u64));
    }
    t.push_str("</tr></tbody></table></div>\n");
    for (kind, all) in d.by_kind() {
        let mark = match kind.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let first = all.first().map_or(String::new(), |f| f.told.clone());
        let _ = writeln!(
            t,
            "<p><span class=\"{mark}\">{mark}</span>: {} ({}): {}</p>",
            kind.words(),
            all.len(),
            escape(&first)
        );
    }
    if d.findings.is_empty() {
        t.push_str("<p>A quick look finds nothing wrong.</p>\n");
    }
    t
}

fn settings(r: &RunReport) -> String {
    let mut t = String::from("<table class=\"settings\"><tbody>\n");
    for (k, v) in &r.settings {
        let _ = writeln!(t, "<tr><td>{}</td><td><code>{}</code></td></tr>", escape(k), escape(v));
    }
    t.push_str("</tbody></table>\n");
    t
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let at = |i: usize| u32::from(part.get(i).copied().unwrap_or(0));
        let v = at(0) << 16 | at(1) << 8 | at(2);
        for k in 0..4 {
            let letter =
                if k <= part.len() { LETTERS[(v >> (18 - 6 * k) & 63) as usize] } else { b'=' };
            out.push(char::from(letter));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_rfcs() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
