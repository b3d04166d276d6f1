//! Charts of the page as SVG.

use crate::diagram::escape;
use convoke_train::Calibration;
use std::fmt::Write;

/// A line of a chart.
pub(super) struct Line<'a> {
    pub name: &'a str,
    pub colour: &'a str,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 260.0;
/// Left, right, top, bottom.
const EDGE: [f64; 4] = [54.0, 14.0, 30.0, 34.0];

/// Lines over epochs.
pub(super) fn lines(title: &str, all: &[Line], log: bool) -> String {
    let scale = |v: f64| if log { v.max(1e-12).log10() } else { v };
    let points = || all.iter().flat_map(|l| &l.points).filter(|p| p.1.is_finite());
    let (first, last) = points().fold((f64::MAX, f64::MIN), |(a, b), p| (a.min(p.0), b.max(p.0)));
    let (low, high) =
        points().fold((f64::MAX, f64::MIN), |(a, b), p| (a.min(scale(p.1)), b.max(scale(p.1))));
    let mut t = open(title, WIDTH, HEIGHT);
    if first > last {
        t.push_str("</svg>");
        return t;
    }
    let step = nice((high - low).max(high.abs() * 1e-3).max(1e-9) / 4.0);
    let (low, high) = (
        (low / step).floor() * step,
        ((high / step).ceil() * step).max((low / step).floor() * step + step),
    );
    let x = |v: f64| {
        let share = if last > first { (v - first) / (last - first) } else { 0.5 };
        EDGE[0] + share * (WIDTH - EDGE[0] - EDGE[1])
    };
    let y = |v: f64| HEIGHT - EDGE[3] - (v - low) / (high - low) * (HEIGHT - EDGE[2] - EDGE[3]);
    for i in 0..=((high - low) / step).round() as i32 {
        let v = low + f64::from(i) * step;
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let label = if log { format!("{:.0e}", 10f64.powf(v)) } else { format!("{v:.digits$}") };
        rule(&mut t, EDGE[0], y(v), WIDTH - EDGE[1], &label);
    }
    let every = nice(((last - first) / 7.0).max(1.0)).max(1.0);
    let mut epoch = (first / every).ceil() * every;
    while epoch <= last {
        let _ = writeln!(
            t,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" class=\"m\">{epoch:.0}</text>",
            x(epoch),
            HEIGHT - 14.0
        );
        epoch += every;
    }
    let mut at = WIDTH - EDGE[1];
    for l in all.iter().rev().filter(|l| !l.points.is_empty()) {
        let good: Vec<_> = l.points.iter().filter(|p| p.1.is_finite()).collect();
        let path: Vec<String> =
            good.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(scale(p.1)))).collect();
        let _ = writeln!(
            t,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            l.colour
        );
        for p in &good {
            let _ = writeln!(
                t,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{}\" fill=\"{}\"><title>{} {}: {:.4}</title></circle>",
                x(p.0),
                y(scale(p.1)),
                if good.len() > 40 { 1.2 } else { 2.6 },
                l.colour,
                escape(l.name),
                p.0,
                p.1
            );
        }
        let _ = writeln!(
            t,
            "<text x=\"{at:.1}\" y=\"18\" text-anchor=\"end\" fill=\"{}\">{}</text>",
            l.colour,
            escape(l.name)
        );
        at -= 8.0 * l.name.len() as f64 + 16.0;
    }
    t.push_str("</svg>");
    t
}

/// Confidence against accuracy: bars, and the diagonal on which they should end.
pub(super) fn reliability(title: &str, c: &Calibration) -> String {
    let (width, height) = (300.0, 270.0);
    let mut t = open(title, width, height);
    let side = 210.0;
    let x = |v: f64| 44.0 + v * side;
    let y = |v: f64| 34.0 + (1.0 - v) * side;
    for i in 0..=4 {
        let v = f64::from(i) / 4.0;
        rule(&mut t, x(0.0), y(v), x(1.0), &format!("{:.0} %", 100.0 * v));
    }
    let n: usize = c.bins.iter().map(|b| b.n).sum();
    let wide = side / c.bins.len() as f64;
    for (i, b) in c.bins.iter().enumerate().filter(|b| b.1.n > 0) {
        let left = x(i as f64 / c.bins.len() as f64);
        let share = b.n as f64 / n.max(1) as f64;
        let _ = writeln!(
            t,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#1f62a8\" fill-opacity=\"{:.2}\"><title>{} samples: {:.1} % sure, {:.1} % right</title></rect>",
            left + 0.5,
            y(b.accuracy),
            wide - 1.0,
            y(0.0) - y(b.accuracy),
            0.25 + 0.75 * share.sqrt(),
            b.n,
            100.0 * b.confidence,
            100.0 * b.accuracy
        );
        let _ = writeln!(
            t,
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#d66016\" stroke-width=\"2\"/>",
            left + 0.5,
            left + wide - 0.5,
            y(b.confidence)
        );
    }
    let _ = writeln!(
        t,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"g\" stroke-dasharray=\"4 3\"/>",
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0)
    );
    let _ = writeln!(
        t,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" class=\"m\">confidence (orange) and share right (blue), {} bins</text>",
        width / 2.0,
        height - 8.0,
        c.bins.len()
    );
    t.push_str("</svg>");
    t
}

/// Parts of a whole, one bar.
pub(super) fn parts(title: &str, all: &[(&str, usize)]) -> String {
    const COLOURS: [&str; 6] = ["#1f62a8", "#5b9069", "#d66016", "#9179b2", "#c9a227", "#787c86"];
    let (width, height) = (520.0, 82.0);
    let mut t = open(title, width, height);
    let whole: usize = all.iter().map(|p| p.1).sum::<usize>().max(1);
    let (mut x, mut words) = (0.0, 0.0);
    for ((name, n), colour) in all.iter().zip(COLOURS).filter(|p| p.0.1 > 0) {
        let wide = *n as f64 / whole as f64 * width;
        let told = format!("{name} {}", convoke_engine::table::bytes(*n as u64));
        let _ = writeln!(
            t,
            "<rect x=\"{x:.1}\" y=\"28\" width=\"{wide:.1}\" height=\"18\" fill=\"{colour}\"><title>{told}</title></rect>"
        );
        let line = if words + 6.6 * told.len() as f64 > 2.0 * width { 0.0 } else { words };
        let (tx, ty) = if line > width - 90.0 { (line - width + 90.0, 76.0) } else { (line, 61.0) };
        let _ = writeln!(t, "<text x=\"{tx:.1}\" y=\"{ty}\" fill=\"{colour}\">{told}</text>");
        words += 6.0 * told.len() as f64 + 12.0;
        x += wide;
    }
    t.push_str("</svg>");
    t
}

fn open(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\"><text x=\"2\" y=\"18\" class=\"t\">{}</text>\n",
        escape(title)
    )
}

fn rule(t: &mut String, x0: f64, y: f64, x1: f64, label: &str) {
    let _ = writeln!(
        t,
        "<line x1=\"{x0:.1}\" y1=\"{y:.1}\" x2=\"{x1:.1}\" y2=\"{y:.1}\" class=\"g\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" class=\"m\">{label}</text>",
        x0 - 6.0,
        y + 3.5
    );
}

/// The next of 1, 2, 5 times a power of ten.
fn nice(v: f64) -> f64 {
    let power = 10f64.powf(v.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|k| k * power).find(|k| *k >= v * 0.999).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_survive_what_runs_give_them() {
        let line = |points: Vec<(f64, f64)>| [Line { name: "a <b>", colour: "#000", points }];
        for points in [
            vec![],
            vec![(1.0, 0.0)],
            vec![(1.0, f64::NAN), (2.0, 5.0)],
            vec![(1.0, 1e-9), (300.0, 1e9)],
        ] {
            for log in [false, true] {
                let svg = lines("loss", &line(points.clone()), log);
                assert!(
                    svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("a <b>"),
                    "{svg}"
                );
            }
        }
        assert!(parts("memory", &[("weights", 5), ("maps", 0)]).contains("weights 5 B"));
    }
}
