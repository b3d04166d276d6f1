//! A series with its forecasts.

use super::charts::{open, standalone};
use crate::diagram::escape;
use convoke_data::Table;
use convoke_train::series::Origin;
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 340.0;
/// Rows shown before the first forecast, as a share of those forecast.
const BEFORE: f64 = 0.4;
/// Forecasts that are drawn, at most.
const DRAWN: usize = 24;

/// The end of a column as it came, some of the forecasts of it as fans of lines, and what is forecast next.
pub fn forecast_chart(table: &Table, column: usize, origins: &[Origin], next: &[f32]) -> String {
    let rows = table.rows();
    let first = origins.first().map_or(rows.saturating_sub(100), |o| o.row);
    let begin = first.saturating_sub(((rows - first) as f64 * BEFORE) as usize);
    let value = |t: usize| f64::from(table.values[t * table.names.len() + column]);
    let every = origins.len().div_ceil(DRAWN).max(1);
    let fans: Vec<&Origin> = origins.iter().step_by(every).collect();
    let said = fans.iter().flat_map(|o| &o.said).chain(next).map(|&v| f64::from(v));
    let all = (begin..rows).map(value).chain(said).filter(|v| v.is_finite());
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    let room = 0.05 * (high - low).max(1e-9);
    let (low, high) = (low - room, high + room);
    let end = (rows + next.len()).max(begin + 2) - 1;
    let x = |t: usize| 70.0 + (t - begin) as f64 / (end - begin) as f64 * (WIDTH - 90.0);
    let y = |v: f64| 34.0 + (1.0 - (v - low) / (high - low)).clamp(0.0, 1.0) * (HEIGHT - 74.0);
    let mut t = open(&table.names[column], WIDTH, HEIGHT);
    for i in 0..=4 {
        let v = low + (high - low) * f64::from(i) / 4.0;
        let _ = writeln!(
            t,
            "<line x1=\"70\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" class=\"g\"/><text x=\"62\" y=\"{2:.1}\" text-anchor=\"end\" class=\"m\">{3:.2}</text>",
            WIDTH - 20.0,
            y(v),
            y(v) + 3.5,
            v
        );
    }
    let line = |t: &mut String, points: &mut dyn Iterator<Item = (usize, f64)>, style: &str| {
        let points: Vec<String> = points.map(|(i, v)| format!("{:.1},{:.1}", x(i), y(v))).collect();
        let _ = writeln!(t, "<polyline points=\"{}\" fill=\"none\" {style}/>", points.join(" "));
    };
    line(
        &mut t,
        &mut (begin..rows).map(|i| (i, value(i))),
        "stroke=\"#1f62a8\" stroke-width=\"1.5\"",
    );
    for o in fans {
        let steps = o.said.iter().enumerate().map(|(k, &v)| (o.row + k + 1, f64::from(v)));
        let mut fan =
            std::iter::once((o.row, f64::from(o.last))).chain(steps.filter(|s| s.0 <= end));
        line(&mut t, &mut fan, "stroke=\"#d66016\" stroke-width=\"1.5\"");
    }
    let steps = next.iter().enumerate().map(|(k, &v)| (rows + k, f64::from(v)));
    let mut last = std::iter::once((rows - 1, value(rows - 1))).chain(steps);
    line(&mut t, &mut last, "stroke=\"#d66016\" stroke-width=\"3\"");
    let words = format!(
        "blue: what came; orange: forecasts, {} of {}, each from what was known where it begins; thick: what comes next",
        origins.len().div_ceil(every),
        origins.len()
    );
    let _ = writeln!(
        t,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" class=\"m\">{}</text></svg>",
        WIDTH / 2.0,
        HEIGHT - 10.0,
        escape(&words)
    );
    standalone(t.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_drawn_with_its_forecasts() {
        let values = (0..200).map(|t| (t as f32 / 9.0).sin() * 5.0 + 100.0).collect();
        let table = Table { names: vec!["price".into()], values, left_out: vec![] };
        let origin = |row: usize| Origin {
            row,
            last: table.values[row],
            said: vec![table.values[row] + 0.5, table.values[row] + 1.0],
            came: vec![],
        };
        let origins: Vec<Origin> = (159..199).map(origin).collect();
        let svg = forecast_chart(&table, 0, &origins, &[101.0, 102.0]);
        assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>") && !svg.contains("NaN"));
        if let Ok(folder) = std::env::var("CONVOKE_PLOTS") {
            std::fs::write(format!("{folder}/forecast.svg"), svg).unwrap();
        }
        for n in [0, 1] {
            assert!(!forecast_chart(&table, 0, &origins[..n], &[]).contains("NaN"));
        }
    }
}
