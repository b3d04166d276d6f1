//! What a search over hyperparameters found and what a comparison of networks showed, as pages and single charts.

mod charts;
mod compared;
mod forecasts;

use crate::diagram::escape;
use charts::{bars, coordinates, front, history, slices, standalone};
pub use compared::{Compared, Measured, compared_page};
use convoke_engine::table::{thousands, units};
use convoke_train::tune::{Importance, Space, State, Trial};
pub use forecasts::forecast_chart;
use std::fmt::Write;

/// What is shown of a search.
pub struct Searched<'a> {
    /// Heading.
    pub name: &'a str,
    /// What was searched.
    pub space: &'a Space,
    /// All trials.
    pub trials: &'a [Trial],
    /// What mattered.
    pub importance: Option<&'a Importance>,
    /// The best trial's network as a file.
    pub network: &'a str,
    /// How to train it again.
    pub command: &'a str,
    /// Share right of the best on pictures that the search never saw, and how many.
    pub test: Option<(f64, usize)>,
}

/// A chart's name and the chart.
pub type Chart = (&'static str, String);

/// The page, and its charts as files of their own.
pub fn searched_page(s: &Searched) -> (String, Vec<Chart>) {
    let order = ordered(s);
    let mut charts: Vec<Chart> = vec![("history", history(s.trials))];
    if let Some(i) = s.importance {
        charts.push(("importance", bars("what matters", &i.shares)));
    }
    charts.push(("parallel", coordinates(s.space, s.trials, &order)));
    charts.push(("slices", slices(s.space, s.trials, &order)));
    charts.push(("front", front(s.trials)));
    let mut t = head(s.name);
    let count = |state: State| s.trials.iter().filter(|t| t.state == state).count();
    let best = best(s.trials);
    t.push_str("<div class=\"figures\">");
    let mut figure = |value: String, what: &str| {
        let _ = write!(t, "<div><b>{value}</b>{what}</div>");
    };
    if let Some(b) = best {
        figure(format!("{:.2} %", 100.0 * value(b)), "best on what was held out");
    }
    if let Some((share, n)) = s.test {
        figure(
            format!("{:.2} %", 100.0 * share),
            &format!("of {} never seen", thousands(n as u64)),
        );
    }
    if let Some(b) = best {
        figure(units(b.macs), "MACs");
        figure(thousands(b.parameters), "parameters");
    }
    let ran = s.trials.len() - count(State::Refused);
    figure(ran.to_string(), &format!("trials, {} stopped early", count(State::Stopped)));
    figure(count(State::Refused).to_string(), "refused before a run");
    t.push_str("</div>\n");
    for (name, chart) in &charts {
        let told = match *name {
            "importance" => s.importance.map_or(String::new(), told),
            "parallel" => "Each line is a trial, the better the more orange; the best is drawn last. Below the axes: not there.".into(),
            "slices" => "Each point is a trial, later ones darker; hollow ones were stopped early.".into(),
            "front" => "Each point is a trial; no trial is better and cheaper than those on the line.".into(),
            _ => "Each point is a trial in the order of their beginning; the line is the best so far.".into(),
        };
        let _ = writeln!(t, "<section><div class=\"row\">{chart}</div><p>{told}</p></section>");
    }
    t.push_str(&table(s));
    let _ = writeln!(
        t,
        "<section><h2>Best network</h2><p>Train it again: <code>{}</code></p><details><summary>as a file</summary><pre>{}</pre></details></section>",
        escape(s.command),
        escape(s.network)
    );
    t.push_str("</main>\n</body>\n</html>\n");
    (t, charts.into_iter().map(|(name, chart)| (name, standalone(&chart))).collect())
}

fn told(i: &Importance) -> String {
    let share = 100.0 * i.explained.max(0.0);
    let trust = match i.explained {
        e if e < 0.2 => " So little that the shares may be chance.",
        _ => "",
    };
    format!(
        "How much worse a random forest guesses unseen trials when a setting is shuffled among them, as shares. It explains {share:.0} % of their differences, from {} trials.{trust}",
        i.trials
    )
}

fn head(name: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<header><h1>{0}</h1></header>\n<main>\n",
        escape(name),
        include_str!("../report/style.css")
    )
}

/// Dimensions, those that matter first.
fn ordered(s: &Searched) -> Vec<usize> {
    match s.importance {
        Some(i) => i.shares.iter().filter_map(|(name, _)| s.space.position(name)).collect(),
        None => (0..s.space.dimension.len()).collect(),
    }
}

fn value(t: &Trial) -> f64 {
    t.best().map_or(f64::NAN, |b| b.0)
}

fn best(trials: &[Trial]) -> Option<&Trial> {
    trials.iter().filter(|t| !value(t).is_nan()).max_by(|a, b| value(a).total_cmp(&value(b)))
}

/// The best trials.
fn table(s: &Searched) -> String {
    let mut all: Vec<&Trial> = s.trials.iter().filter(|t| !value(t).is_nan()).collect();
    all.sort_by(|a, b| value(b).total_cmp(&value(a)).then(a.number.cmp(&b.number)));
    let mut t = String::from(
        "<section><h2>Best trials</h2><div class=\"wide\"><table><tr><th>trial</th><th>right</th><th>epochs</th><th>MACs</th><th>parameters</th><th>seconds</th><th style=\"text-align:left\">chosen</th></tr>\n",
    );
    for trial in all.iter().take(15) {
        let chosen = s.space.dimension.iter().zip(&trial.point);
        let chosen = chosen.filter_map(|(d, v)| Some(format!("{} {}", d.name, d.kind.told((*v)?))));
        let _ = writeln!(
            t,
            "<tr><td>{}</td><td>{:.2} %</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1}</td><td style=\"text-align:left\" class=\"soft\">{}</td></tr>",
            trial.number + 1,
            100.0 * value(trial),
            trial.values.len(),
            units(trial.macs),
            thousands(trial.parameters),
            trial.seconds,
            escape(&chosen.collect::<Vec<_>>().join(", "))
        );
    }
    t.push_str("</table></div></section>\n");
    t
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_train::tune::{NetSpace, Sampler, importance, training_space};

    /// A made search in which deeper networks and rates near 0.03 are better.
    pub(super) fn made(n: usize) -> (Space, Vec<Trial>) {
        let input = convoke_engine::Shape::new(28, 28, 1);
        let nets = NetSpace { input, classes: 10 };
        let mut space = nets.space();
        space.dimension.extend(training_space(input, 5000).dimension);
        let mut trials = Vec::new();
        for i in 0..n {
            let point = Sampler::Random.propose(&space, &[], 1, i as u64);
            let Ok(net) = nets.network(&space, &point) else {
                trials.push(Trial::told(i, point, State::Refused, vec![]));
                continue;
            };
            let lr = space.value(&point, "lr-sgd").or(space.value(&point, "lr-adamw")).unwrap();
            let depth = space.value(&point, "depth").unwrap();
            let top = 0.93 - 0.05 / depth - 0.02 * (lr / 0.03).ln().powi(2) / 4.0;
            let epochs = if i % 3 == 0 { 9 } else { 1 + i % 3 };
            let values = (1..=epochs).map(|e| top * (1.0 - 0.4 * 0.5f64.powi(e as i32)));
            let state = if epochs == 9 { State::Done } else { State::Stopped };
            let mut trial = Trial::told(trials.len(), point, state, values.collect());
            (trial.macs, trial.parameters) = (net.macs(), net.parameters() as u64);
            trials.push(trial);
        }
        (space, trials)
    }

    fn page(space: &Space, trials: &[Trial]) -> (String, Vec<Chart>) {
        let i = importance(space, trials);
        searched_page(&Searched {
            name: "tune <made>",
            space,
            trials,
            importance: i.as_ref(),
            network: "name = \"x\"",
            command: "convoke train",
            test: Some((0.9, 1000)),
        })
    }

    #[test]
    fn a_search_is_a_page_with_charts() {
        let (space, trials) = made(80);
        let (html, charts) = page(&space, &trials);
        assert!(html.contains("tune &lt;made&gt;") && !html.contains("NaN"), "{html}");
        let names: Vec<_> = charts.iter().map(|c| c.0).collect();
        assert_eq!(names, ["history", "importance", "parallel", "slices", "front"]);
        for (name, svg) in &charts {
            assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>"), "{name}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}: {svg}");
        }
        if let Ok(folder) = std::env::var("CONVOKE_PLOTS") {
            std::fs::write(format!("{folder}/tune.html"), html).unwrap();
            charts
                .iter()
                .for_each(|(n, s)| std::fs::write(format!("{folder}/{n}.svg"), s).unwrap());
        }
    }

    #[test]
    fn few_trials_or_none_are_a_page_too() {
        let (space, trials) = made(4);
        for n in 0..=4 {
            let (html, charts) = page(&space, &trials[..n]);
            assert!(html.ends_with("</html>\n"));
            assert!(charts.iter().all(|c| !c.1.contains("NaN") && !c.1.contains("inf")), "{n}");
        }
    }
}
