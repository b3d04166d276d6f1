//! Charts of a search as SVG.

use super::{best, value};
use crate::diagram::escape;
use convoke_engine::table::units;
use convoke_train::tune::{Kind, Space, State, Trial};
use std::fmt::Write;

const COOL: [f64; 3] = [31.0, 98.0, 168.0];
const HOT: [f64; 3] = [214.0, 96.0, 22.0];
/// Axes of the parallel coordinates, and charts of slices, at most.
const MOST: usize = 12;

/// A chart as a file of its own: with its name space and style.
pub(super) fn standalone(svg: &str) -> String {
    let style = "<style>text{font:11px system-ui,sans-serif;fill:#2d3038}.m{fill:#6d7280}.t{font-weight:600;font-size:13px}.g{stroke:#dcdcd6}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";
    let svg = svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
    match svg.find('>') {
        Some(end) => format!("{}{style}{}", &svg[..=end], &svg[end + 1..]),
        None => svg,
    }
}

pub(super) fn open(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\"><text x=\"8\" y=\"18\" class=\"t\">{}</text>\n",
        escape(title)
    )
}

fn text(t: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, words: &str) {
    let words = escape(words);
    let _ = writeln!(
        t,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{words}</text>"
    );
}

fn rule(t: &mut String, (x0, y0): (f64, f64), (x1, y1): (f64, f64)) {
    let _ = writeln!(
        t,
        "<line x1=\"{x0:.1}\" y1=\"{y0:.1}\" x2=\"{x1:.1}\" y2=\"{y1:.1}\" class=\"g\"/>"
    );
}

/// From cool to hot.
fn colour(share: f64) -> String {
    let part = |i: usize| COOL[i] + share.clamp(0.0, 1.0) * (HOT[i] - COOL[i]);
    format!("rgb({:.0},{:.0},{:.0})", part(0), part(1), part(2))
}

/// Least and largest of what is drawn as accuracy. Broken trials far below would press all others together, so the
/// lowest tenth may lie below the edge.
fn range(trials: &[Trial]) -> Option<(f64, f64)> {
    let mut all: Vec<f64> = trials.iter().map(value).filter(|v| v.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    let (low, high) = (*all.get(all.len() / 10)?, *all.last()?);
    let room = 0.06 * (high - low).max(1e-3);
    Some((low - room, high + room))
}

struct Square {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    low: f64,
    high: f64,
}

impl Square {
    fn y(&self, v: f64) -> f64 {
        let share = ((v - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.top + (1.0 - share) * self.height
    }

    fn x(&self, share: f64) -> f64 {
        self.left + share.clamp(0.0, 1.0) * self.width
    }

    /// Lines across, with shares in percent.
    fn grid(&self, t: &mut String, lines: usize, labels: bool) {
        for i in 0..=lines {
            let v = self.low + (self.high - self.low) * i as f64 / lines as f64;
            let y = self.y(v);
            rule(t, (self.left, y), (self.left + self.width, y));
            if labels {
                text(t, (self.left - 6.0, y + 3.5), "end", "m", &format!("{:.1} %", 100.0 * v));
            }
        }
    }
}

fn dot(t: &mut String, (x, y): (f64, f64), r: f64, paint: &str, trial: &Trial, more: &str) {
    let fill = match trial.state {
        State::Stopped => format!("fill=\"none\" stroke=\"{paint}\""),
        _ => format!("fill=\"{paint}\""),
    };
    let _ = writeln!(
        t,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\" {fill}><title>trial {}: {:.2} %{}</title></circle>",
        trial.number + 1,
        100.0 * value(trial),
        escape(more)
    );
}

/// Values in the order of trials, and the best so far.
pub(super) fn history(trials: &[Trial]) -> String {
    let mut t = open("search", 720.0, 260.0);
    if let Some((low, high)) = range(trials) {
        let s = Square { left: 60.0, top: 32.0, width: 640.0, height: 190.0, low, high };
        s.grid(&mut t, 4, true);
        let judged: Vec<&Trial> = trials.iter().filter(|t| value(t).is_finite()).collect();
        let last = judged.len().max(2) - 1;
        let x = |i: usize| s.x(i as f64 / last as f64);
        let (mut top, mut path) = (f64::NEG_INFINITY, Vec::new());
        for (i, trial) in judged.iter().enumerate() {
            if value(trial) > top {
                path.extend((i > 0).then(|| format!("{:.1},{:.1}", x(i), s.y(top.max(low)))));
                top = value(trial);
            }
            path.push(format!("{:.1},{:.1}", x(i), s.y(top)));
        }
        let _ = writeln!(
            t,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#d66016\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (i, trial) in judged.iter().enumerate() {
            dot(&mut t, (x(i), s.y(value(trial))), 3.0, "#1f62a8", trial, "");
        }
        text(
            &mut t,
            (380.0, 246.0),
            "middle",
            "m",
            &format!("{} trials; hollow: stopped early", judged.len()),
        );
    }
    t.push_str("</svg>");
    t
}

/// Shares as bars.
pub(super) fn bars(title: &str, shares: &[(String, f64)]) -> String {
    let shown: Vec<_> = shares.iter().take(15).filter(|s| s.1 > 0.001).collect();
    let mut t = open(title, 520.0, 44.0 + 20.0 * shown.len() as f64);
    let most = shown.first().map_or(1.0, |s| s.1.max(1e-9));
    for (i, (name, share)) in shown.into_iter().enumerate() {
        let y = 34.0 + 20.0 * i as f64;
        text(&mut t, (128.0, y + 10.0), "end", "", name);
        let wide = 320.0 * share / most;
        let _ = writeln!(
            t,
            "<rect x=\"136\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"13\" fill=\"#1f62a8\"/>"
        );
        text(&mut t, (142.0 + wide, y + 10.0), "start", "m", &format!("{:.1} %", 100.0 * share));
    }
    t.push_str("</svg>");
    t
}

/// Where a value lies on a dimension's axis, from 0 to 1.
fn place(kind: &Kind, v: f64) -> f64 {
    let along =
        |v: f64, low: f64, high: f64| if high > low { (v - low) / (high - low) } else { 0.5 };
    match kind {
        Kind::Choice { of } => along(v, 0.0, of.len() as f64 - 1.0),
        &Kind::Float { low, high, log } => match log {
            true => along(v.ln(), low.ln(), high.ln()),
            false => along(v, low, high),
        },
        &Kind::Int { low, high, log, .. } => match log {
            true => along(v.ln(), (low as f64).ln(), (high as f64).ln()),
            false => along(v, low as f64, high as f64),
        },
    }
}

/// What is written along an axis: places and words.
fn marks(kind: &Kind) -> Vec<(f64, String)> {
    match kind {
        Kind::Choice { of } => {
            of.iter().enumerate().map(|(i, w)| (place(kind, i as f64), w.clone())).collect()
        }
        &Kind::Float { low, high, .. } => {
            vec![(0.0, kind.told(low)), (1.0, kind.told(high))]
        }
        &Kind::Int { low, high, .. } => {
            vec![(0.0, low.to_string()), (1.0, high.to_string())]
        }
    }
}

/// A line for each trial across the axes of the dimensions that matter most, and its value.
pub(super) fn coordinates(space: &Space, trials: &[Trial], order: &[usize]) -> String {
    // What is hardly ever there says little here.
    let there =
        |d: &&usize| 2 * trials.iter().filter(|t| t.point[**d].is_some()).count() >= trials.len();
    let axes: Vec<usize> = order.iter().filter(there).take(MOST - 2).copied().collect();
    let (left, top, height, gap) = (70.0, 56.0, 240.0, 92.0);
    let mut t = open("trials", left + gap * axes.len() as f64 + 70.0, top + height + 54.0);
    let Some((low, high)) = range(trials) else {
        t.push_str("</svg>");
        return t;
    };
    let s = Square { left, top, width: 0.0, height, low, high };
    let x = |i: usize| left + gap * i as f64;
    let mut judged: Vec<&Trial> = trials.iter().filter(|t| value(t).is_finite()).collect();
    judged.sort_by(|a, b| value(a).total_cmp(&value(b)));
    for (rank, trial) in judged.iter().enumerate() {
        let mut points: Vec<String> = Vec::new();
        for (i, &d) in axes.iter().enumerate() {
            let y = match trial.point[d] {
                Some(v) => top + (1.0 - place(&space.dimension[d].kind, v)) * height,
                None => top + height + 16.0,
            };
            points.push(format!("{:.1},{y:.1}", x(i)));
        }
        points.push(format!("{:.1},{:.1}", x(axes.len()), s.y(value(trial))));
        // By rank, so that a few broken trials do not make all others alike.
        let share = rank as f64 / (judged.len().max(2) - 1) as f64;
        let last = rank + 1 == judged.len();
        let _ = writeln!(
            t,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-opacity=\"{:.2}\"><title>trial {}: {:.2} %</title></polyline>",
            points.join(" "),
            colour(share * share),
            if last { 3.0 } else { 1.3 },
            if last { 1.0 } else { 0.15 + 0.55 * share },
            trial.number + 1,
            100.0 * value(trial)
        );
    }
    for (i, &d) in axes.iter().enumerate() {
        let dimension = &space.dimension[d];
        let line = "stroke=\"#6d7280\"";
        let _ = writeln!(
            t,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{1:.1}\" {line}/>",
            x(i),
            top + height
        );
        text(&mut t, (x(i), top - 18.0), "middle", "", &dimension.name);
        for (at, word) in marks(&dimension.kind) {
            let y = top + (1.0 - at) * height;
            let y = y + if at == 1.0 {
                -4.0
            } else if at == 0.0 {
                11.0
            } else {
                3.0
            };
            text(&mut t, (x(i) - 4.0, y), "end", "m", &word);
        }
    }
    let end = x(axes.len());
    let _ = writeln!(
        t,
        "<line x1=\"{end:.1}\" x2=\"{end:.1}\" y1=\"{top}\" y2=\"{:.1}\" stroke=\"#d66016\"/>",
        top + height
    );
    text(&mut t, (end, top - 18.0), "middle", "", "right");
    for v in [low, high] {
        text(&mut t, (end + 6.0, s.y(v) + 3.0), "start", "m", &format!("{:.1} %", 100.0 * v));
    }
    text(&mut t, (left, top + height + 40.0), "start", "m", "below the axes: not there");
    t.push_str("</svg>");
    t
}

/// Value against each dimension that matters.
pub(super) fn slices(space: &Space, trials: &[Trial], order: &[usize]) -> String {
    let shown: Vec<usize> = order.iter().take(MOST).copied().collect();
    let (wide, high_each, columns) = (236.0, 168.0, 4);
    let rows = shown.len().div_ceil(columns);
    let mut t =
        open("one setting at a time", 62.0 + wide * columns as f64, 30.0 + high_each * rows as f64);
    let Some((low, high)) = range(trials) else {
        t.push_str("</svg>");
        return t;
    };
    for (k, &d) in shown.iter().enumerate() {
        let dimension = &space.dimension[d];
        let s = Square {
            left: 58.0 + wide * (k % columns) as f64,
            top: 48.0 + high_each * (k / columns) as f64,
            width: wide - 34.0,
            height: high_each - 58.0,
            low,
            high,
        };
        s.grid(&mut t, 3, k % columns == 0);
        text(&mut t, (s.left, s.top - 6.0), "start", "", &dimension.name);
        for (at, word) in marks(&dimension.kind) {
            let anchor = if at == 0.0 {
                "start"
            } else if at == 1.0 {
                "end"
            } else {
                "middle"
            };
            text(&mut t, (s.x(at), s.top + s.height + 14.0), anchor, "m", &word);
        }
        for trial in trials.iter().filter(|t| value(t).is_finite()) {
            let Some(v) = trial.point[d] else { continue };
            let late = trial.number as f64 / trials.len().max(1) as f64;
            let paint = format!("rgba(31,98,168,{:.2})", 0.25 + 0.75 * late);
            // Words and small numbers would lie on one another.
            let aside = match dimension.kind {
                Kind::Float { .. } => 0.0,
                _ => ((trial.number * 7) % 13) as f64 - 6.0,
            };
            let x = (s.x(place(&dimension.kind, v)) + aside).clamp(s.left, s.left + s.width);
            let more = format!(", {} {}", dimension.name, dimension.kind.told(v));
            dot(&mut t, (x, s.y(value(trial))), 2.6, &paint, trial, &more);
        }
    }
    t.push_str("</svg>");
    t
}

/// Accuracy against multiply-accumulates, and the trials that no other beats in both.
pub(super) fn front(trials: &[Trial]) -> String {
    let mut t = open("right against multiply-accumulates", 720.0, 320.0);
    let judged: Vec<&Trial> =
        trials.iter().filter(|t| value(t).is_finite() && t.macs > 0).collect();
    let logs = || judged.iter().map(|t| (t.macs as f64).log10());
    let (first, last) = logs().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    let (Some((low, high)), true) = (range(trials), first <= last) else {
        t.push_str("</svg>");
        return t;
    };
    let (first, last) = ((first - 0.1).floor(), (last + 0.1).ceil());
    let s = Square { left: 60.0, top: 32.0, width: 640.0, height: 244.0, low, high };
    s.grid(&mut t, 4, true);
    let x = |macs: u64| s.x(((macs as f64).log10() - first) / (last - first));
    for power in first as i32..=last as i32 {
        let at = s.x((f64::from(power) - first) / (last - first));
        rule(&mut t, (at, s.top), (at, s.top + s.height));
        let anchor = if power as f64 == last { "end" } else { "middle" };
        text(
            &mut t,
            (at, s.top + s.height + 16.0),
            anchor,
            "m",
            &units(10u64.pow(power.clamp(0, 19) as u32)),
        );
    }
    for trial in &judged {
        dot(
            &mut t,
            (x(trial.macs), s.y(value(trial))),
            3.0,
            "#1f62a8",
            trial,
            &format!(", {} MACs", units(trial.macs)),
        );
    }
    let mut order = judged.clone();
    order.sort_by(|a, b| a.macs.cmp(&b.macs).then(value(b).total_cmp(&value(a))));
    let (mut top, mut path) = (f64::NEG_INFINITY, Vec::new());
    for trial in order {
        if value(trial) > top {
            path.extend(
                (!path.is_empty()).then(|| format!("{:.1},{:.1}", x(trial.macs), s.y(top))),
            );
            top = value(trial);
            path.push(format!("{:.1},{:.1}", x(trial.macs), s.y(top)));
        }
    }
    let _ = writeln!(
        t,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#d66016\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    if let Some(b) = best(trials).filter(|b| b.macs > 0) {
        let at = x(b.macs);
        let anchor = if at > 500.0 { "end" } else { "start" };
        let told = format!("{:.2} % with {} MACs", 100.0 * value(b), units(b.macs));
        text(
            &mut t,
            (at + if at > 500.0 { -8.0 } else { 8.0 }, s.y(value(b)) - 7.0),
            anchor,
            "",
            &told,
        );
    }
    text(&mut t, (380.0, 310.0), "middle", "m", "multiply-accumulates for one sample");
    t.push_str("</svg>");
    t
}
