//! Networks beside each other.

use super::charts::{open, standalone};
use super::head;
use crate::diagram::escape;
use convoke_engine::table::{thousands, units};
use serde::Serialize;
use std::fmt::Write;

/// A figure over several seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// One for each seed.
    pub all: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their deviation, by n − 1; none of one.
    pub deviation: Option<f64>,
}

impl Measured {
    /// Mean and deviation of figures, of which there is at least one.
    pub fn of(all: Vec<f64>) -> Self {
        let n = all.len().max(1) as f64;
        let mean = all.iter().sum::<f64>() / n;
        let squares = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let deviation = (all.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Measured { all, mean, deviation }
    }

    /// In percent, `98.1 ± 0.2`.
    pub fn percent(&self) -> String {
        match self.deviation {
            Some(d) => format!("{:.2} ± {:.2}", 100.0 * self.mean, 100.0 * d),
            None => format!("{:.2}", 100.0 * self.mean),
        }
    }
}

/// One network of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// What it was called.
    pub model: String,
    /// Trained numbers.
    pub parameters: u64,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Share right on what it is judged by.
    pub top1: Measured,
    /// Pixels that pictures were shifted by, and the share right then.
    pub shifted: Vec<(usize, Measured)>,
    /// Seconds of a training run.
    pub seconds: Measured,
    /// Samples a second in training.
    pub samples_per_second: Measured,
}

/// The page and its chart as a file of its own. `terms` says under what budget.
pub fn compared_page(name: &str, terms: &str, rows: &[Compared]) -> (String, String) {
    let chart = chart(rows);
    let mut t = head(name);
    let _ = writeln!(t, "<p>{}</p><div class=\"row\">{chart}</div>", escape(terms));
    t.push_str("<table><tr><th>network</th><th>parameters</th><th>MACs</th><th>right, %</th>");
    for (pixels, _) in rows.first().map_or(&[][..], |r| &r.shifted) {
        let _ = write!(t, "<th>shifted by {pixels}, %</th>");
    }
    t.push_str("<th>seconds to train</th><th>samples/s</th></tr>\n");
    for r in rows {
        let _ = write!(
            t,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            escape(&r.model),
            thousands(r.parameters),
            units(r.macs),
            r.top1.percent()
        );
        for (_, m) in &r.shifted {
            let _ = write!(t, "<td>{}</td>", m.percent());
        }
        let _ = writeln!(
            t,
            "<td>{:.1}</td><td>{:.0}</td></tr>",
            r.seconds.mean, r.samples_per_second.mean
        );
    }
    t.push_str("</table>\n</main>\n</body>\n</html>\n");
    (t, standalone(&chart))
}

const COLOURS: [&str; 4] = ["#1f62a8", "#d66016", "#5b9069", "#9179b2"];

/// Bars of the share right, one colour for each shift, with deviations and single seeds.
fn chart(rows: &[Compared]) -> String {
    let bars = 1 + rows.first().map_or(0, |r| r.shifted.len());
    let each = 16.0 * bars as f64 + 14.0;
    let (left, wide) = (150.0, 480.0);
    let height = 70.0 + each * rows.len() as f64;
    let mut t = open("right", left + wide + 110.0, height);
    let x = |v: f64| left + v.clamp(0.0, 1.0) * wide;
    for i in 0..=5 {
        let v = f64::from(i) / 5.0;
        let _ = writeln!(
            t,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"34\" y2=\"{1:.1}\" class=\"g\"/><text x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\" class=\"m\">{3:.0} %</text>",
            x(v),
            height - 34.0,
            height - 20.0,
            100.0 * v
        );
    }
    for (i, r) in rows.iter().enumerate() {
        let top = 40.0 + each * i as f64;
        let middle = top + 8.0 * bars as f64 + 3.0;
        let _ = writeln!(
            t,
            "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            escape(&r.model)
        );
        let shifts = r.shifted.iter().map(|(_, m)| m);
        for (k, m) in std::iter::once(&r.top1).chain(shifts).enumerate() {
            let y = top + 16.0 * k as f64;
            let paint = COLOURS[k % COLOURS.len()];
            let _ = writeln!(
                t,
                "<rect x=\"{left}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"12\" fill=\"{paint}\" fill-opacity=\"0.8\"/>",
                x(m.mean) - left
            );
            if let Some(d) = m.deviation {
                let _ = writeln!(
                    t,
                    "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#2d3038\" stroke-width=\"1.5\"/>",
                    x(m.mean - d),
                    x(m.mean + d),
                    y + 6.0
                );
            }
            let _ = writeln!(
                t,
                "<text x=\"{:.1}\" y=\"{:.1}\" class=\"m\">{}</text>",
                x(m.deviation.map_or(m.mean, |d| m.mean + d)) + 6.0,
                y + 10.0,
                m.percent()
            );
        }
    }
    let mut at = 60.0;
    let shifts = rows.first().map_or(&[][..], |r| &r.shifted);
    let names = shifts.iter().map(|(p, _)| format!("shifted by {p}"));
    for (k, word) in
        std::iter::once("as it is".to_string()).chain(names).enumerate().filter(|_| bars > 1)
    {
        let paint = COLOURS[k % COLOURS.len()];
        let _ = writeln!(t, "<text x=\"{at:.1}\" y=\"18\" style=\"fill:{paint}\">{word}</text>");
        at += 7.0 * word.len() as f64 + 14.0;
    }
    t.push_str("</svg>");
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_a_page_with_a_chart() {
        let row = |model: &str, right: f64| Compared {
            model: model.into(),
            parameters: 61_706,
            macs: 416_520,
            top1: Measured::of(vec![right, right - 0.01, right - 0.005]),
            shifted: vec![(2, Measured::of(vec![right - 0.1])), (4, Measured::of(vec![0.3, 0.4]))],
            seconds: Measured::of(vec![3.0, 4.0]),
            samples_per_second: Measured::of(vec![10_000.0]),
        };
        let rows = [row("mlp <x>", 0.97), row("lenet5", 0.99)];
        let (html, svg) = compared_page("compare", "3 epochs", &rows);
        assert!(html.contains("mlp &lt;x&gt;") && html.contains("98.50 ± 0.50"), "{html}");
        assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>") && !svg.contains("NaN"));
        if let Ok(folder) = std::env::var("CONVOKE_PLOTS") {
            std::fs::write(format!("{folder}/compare.svg"), svg).unwrap();
        }
    }

    #[test]
    fn deviations_are_those_of_a_sample() {
        let m = Measured::of(vec![1.0, 2.0, 3.0]);
        assert_eq!((m.mean, m.deviation), (2.0, Some(1.0)));
        assert_eq!(Measured::of(vec![0.5]).percent(), "50.00");
    }
}
