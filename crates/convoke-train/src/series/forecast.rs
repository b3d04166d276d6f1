//! The next steps of a series, judged by walking forward: at each origin a forecast knows the rows up to it and
//! nothing behind, neither in its input, nor in the scales, nor in what its network learnt from. The test part is
//! cut into folds; before each, the network is trained anew on all rows before.
//!
//! A window is what came before, less its last value, in units of what a step of that column usually moves; a target
//! is how much the forecast column will have moved. So a network says by how much to correct the naive forecast,
//! which is that all stays as it is. Prices mostly do not let themselves be corrected, and then the figures say so.

use super::fit::{FitOptions, Fitted, fit};
use crate::error::{Result, other};
use convoke_data::{Preprocess, Table};
use convoke_engine::{Network, Shape};
use convoke_formats::ModelFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// How a series is forecast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForecastOptions {
    /// The column that is forecast.
    pub column: usize,
    /// The columns that are looked at.
    pub inputs: Vec<usize>,
    /// Rows that a forecast looks back.
    pub window: usize,
    /// Steps that it looks ahead.
    pub ahead: usize,
    /// Share of the rows, at the end, that are forecast.
    pub test: f64,
    /// Parts of them, before each of which the network learns anew.
    pub folds: usize,
    /// How the network learns.
    pub fit: FitOptions,
}

/// A forecast from one origin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Origin {
    /// The last row that was known.
    pub row: usize,
    /// Its value, which is the naive forecast of all steps.
    pub last: f32,
    /// Forecasts of the next steps.
    pub said: Vec<f32>,
    /// What came; shorter where the rows end.
    pub came: Vec<f32>,
}

/// Errors of one number of steps ahead.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Errors {
    /// Steps ahead, from 1.
    pub ahead: usize,
    /// Root of the mean of squared errors.
    pub rmse: f64,
    /// The same of the naive forecast.
    pub rmse_naive: f64,
    /// Mean of errors.
    pub mae: f64,
    /// The same of the naive forecast.
    pub mae_naive: f64,
    /// Share of origins where the direction was right, of those where the value moved.
    pub direction: f64,
    /// Origins.
    pub n: usize,
}

/// What walking forward showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Walk {
    /// Every origin of the test part.
    pub origins: Vec<Origin>,
    /// Errors of each number of steps ahead.
    pub errors: Vec<Errors>,
}

/// What a step usually moves, by column: the deviation of the differences of rows below `end`.
fn steps(table: &Table, columns: &[usize], end: usize) -> Vec<f32> {
    let wide = table.names.len();
    let of = |&c: &usize| {
        let at = |t: usize| f64::from(table.values[t * wide + c]);
        let moved = (1..end).map(|t| (at(t) - at(t - 1)).powi(2)).sum::<f64>();
        let step = (moved / (end.max(2) - 1) as f64).sqrt();
        if step > 1e-12 { step as f32 } else { 1.0 }
    };
    columns.iter().map(of).collect()
}

/// A network that forecasts, with the scales that it was trained with.
#[derive(Debug, Clone)]
pub struct Forecaster {
    fitted: Fitted,
    options: ForecastOptions,
    /// What a step of each looked-at column, and last of the forecast one, usually moves.
    steps: Vec<f32>,
}

impl Forecaster {
    /// Trains on the rows below `end` alone. The network takes `[1, window, inputs]` and gives `ahead` numbers.
    ///
    /// # Errors
    /// When the rows are too few, or the network does not fit.
    pub fn train(
        network: &Network,
        table: &Table,
        end: usize,
        options: &ForecastOptions,
        told: &mut dyn FnMut(usize, f64),
        stop: &AtomicBool,
    ) -> Result<Self> {
        let o = options;
        let wanted = Shape::new(1, o.window, o.inputs.len());
        if network.input_shape() != wanted || network.output_shape() != Shape::vector(o.ahead) {
            return other(format!(
                "network `{}` makes {} of {}; a forecast makes {} numbers of {wanted}",
                network.name(),
                network.output_shape(),
                network.input_shape(),
                o.ahead
            ));
        }
        if end < o.window + o.ahead + 1 || end > table.rows() {
            return other(format!(
                "{end} rows are too few for a window of {} and {} steps ahead; use shorter ones",
                o.window, o.ahead
            ));
        }
        let columns: Vec<usize> = o.inputs.iter().copied().chain([o.column]).collect();
        let steps = steps(table, &columns, end);
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        // The last target of the last origin is the last row that may be known.
        for origin in o.window - 1..end - o.ahead {
            window(table, origin, o, &steps, &mut inputs);
            let value = |t: usize| table.values[t * table.names.len() + o.column];
            targets.extend(
                (1..=o.ahead).map(|k| (value(origin + k) - value(origin)) / unit(&steps, k)),
            );
        }
        let fitted = fit(network, &inputs, &targets, &o.fit, told, stop)?;
        Ok(Forecaster { fitted, options: o.clone(), steps })
    }

    /// Forecasts from origins, each of which knows the rows up to it.
    ///
    /// # Errors
    /// When an origin has too few rows before it.
    pub fn forecast(&self, table: &Table, origins: &[usize]) -> Result<Vec<Vec<f32>>> {
        let o = &self.options;
        let mut inputs = Vec::new();
        for &origin in origins {
            if origin + 1 < o.window || origin >= table.rows() {
                return other(format!(
                    "a forecast needs {} rows; there are {}",
                    o.window,
                    origin + 1
                ));
            }
            window(table, origin, o, &self.steps, &mut inputs);
        }
        let outputs = self.fitted.outputs(&inputs, o.fit.threads)?;
        let one = |(&origin, out): (&usize, &[f32])| {
            let last = table.values[origin * table.names.len() + o.column];
            out.iter().enumerate().map(|(k, v)| last + v * unit(&self.steps, k + 1)).collect()
        };
        Ok(origins.iter().zip(outputs.chunks_exact(o.ahead)).map(one).collect())
    }

    /// As a model file, which names the columns.
    pub fn model(&self, table: &Table) -> ModelFile {
        let o = &self.options;
        let names: Vec<&str> = o.inputs.iter().map(|&c| table.names[c].as_str()).collect();
        let fact = |k: &str, v: String| (k.to_string(), v);
        let names = serde_json::Value::from(names).to_string();
        let facts = [fact("forecasts", table.names[o.column].clone()), fact("looks_at", names)];
        ModelFile {
            network: self.fitted.network.clone(),
            classes: Vec::new(),
            preprocess: Preprocess {
                signal: Some(crate::series::PLAIN),
                ..Preprocess::plain(1, o.window, o.inputs.len())
            },
            task: "forecast".into(),
            params: self.fitted.params.clone(),
            state: self.fitted.state.clone(),
            facts: facts.into(),
            extra: BTreeMap::from([("steps".to_string(), self.steps.clone())]),
        }
    }

    /// From a model file, for a table with the columns that it names.
    ///
    /// # Errors
    /// When the model does not forecast, or the table lacks a column.
    pub fn of_model(model: &ModelFile, table: &Table, threads: usize) -> Result<Self> {
        let column = |name: &str| match table.column(name) {
            Some(c) => Ok(c),
            None => other(format!("the table has no column `{name}`, which the model looks at")),
        };
        let facts = model.facts.get("forecasts").zip(model.facts.get("looks_at"));
        let steps = model.extra.get("steps");
        let (Some((name, names)), Some(steps)) =
            (facts.filter(|_| model.task == "forecast"), steps)
        else {
            return other("the model forecasts nothing; train one with `convoke forecast`");
        };
        let names: Vec<String> = serde_json::from_str(names).unwrap_or_default();
        let inputs = names.iter().map(|n| column(n)).collect::<Result<Vec<_>>>()?;
        let (input, output) = (model.network.input_shape(), model.network.output_shape());
        if input.c != inputs.len() || steps.len() != inputs.len() + 1 {
            return other("the model contradicts itself; train it again");
        }
        let fit = FitOptions { epochs: 0, batch: 1, lr: 0.0, weight_decay: 0.0, seed: 0, threads };
        let options = ForecastOptions {
            column: column(name)?,
            inputs,
            window: input.w,
            ahead: output.c,
            test: 0.0,
            folds: 0,
            fit,
        };
        let (network, params) = (model.network.clone(), model.params.clone());
        let fitted = Fitted { network, params, state: model.state.clone() };
        Ok(Forecaster { fitted, options, steps: steps.clone() })
    }

    /// Steps that it looks ahead, and the column that it forecasts.
    pub fn looks(&self) -> (usize, usize) {
        (self.options.ahead, self.options.column)
    }
}

/// A move of k steps in units of what it would be if each were by chance.
fn unit(steps: &[f32], k: usize) -> f32 {
    steps.last().copied().unwrap_or(1.0) * (k as f32).sqrt()
}

/// Appends the input of an origin: rows `origin + 1 − window ..= origin`, less the last of them.
fn window(table: &Table, origin: usize, o: &ForecastOptions, steps: &[f32], out: &mut Vec<f32>) {
    let wide = table.names.len();
    let scale = (o.window as f32).sqrt();
    for t in origin + 1 - o.window..=origin {
        for (&c, step) in o.inputs.iter().zip(steps) {
            out.push(
                (table.values[t * wide + c] - table.values[origin * wide + c]) / (step * scale),
            );
        }
    }
}

/// Forecasts the test part fold by fold, each with a network trained on the rows before the fold.
///
/// # Errors
/// When there are too few rows, or training breaks.
pub fn walk_forward(
    network: &Network,
    table: &Table,
    o: &ForecastOptions,
    told: &mut dyn FnMut(usize, usize, f64),
    stop: &AtomicBool,
) -> Result<Walk> {
    let rows = table.rows();
    let first = rows - ((rows as f64 * o.test.clamp(0.01, 0.9)) as usize).clamp(1, rows);
    let folds = o.folds.clamp(1, rows - first);
    let mut origins = Vec::new();
    for fold in 0..folds {
        let begin = first + (rows - first) * fold / folds;
        let end = first + (rows - first) * (fold + 1) / folds;
        let mut heard = |epoch: usize, loss: f64| told(fold, epoch, loss);
        let forecaster = Forecaster::train(network, table, begin, o, &mut heard, stop)?;
        // The first forecast of a fold stands at the last row that its network knew.
        let mine: Vec<usize> = (begin - 1..end - 1).collect();
        for (&row, said) in mine.iter().zip(forecaster.forecast(table, &mine)?) {
            let value = |t: usize| table.values[t * table.names.len() + o.column];
            let came = (1..=o.ahead).filter(|k| row + k < rows).map(|k| value(row + k)).collect();
            origins.push(Origin { row, last: value(row), said, came });
        }
    }
    let errors = (1..=o.ahead).filter_map(|k| errors(&origins, k)).collect();
    Ok(Walk { origins, errors })
}

fn errors(origins: &[Origin], ahead: usize) -> Option<Errors> {
    let all: Vec<[f64; 3]> = origins
        .iter()
        .filter_map(|o| {
            let (came, said) = (*o.came.get(ahead - 1)?, o.said[ahead - 1]);
            Some([said, o.last, came].map(f64::from))
        })
        .collect();
    let n = all.len();
    let mean = |of: &dyn Fn(&[f64; 3]) -> f64| all.iter().map(of).sum::<f64>() / n as f64;
    let moved: Vec<&[f64; 3]> = all.iter().filter(|a| a[2] != a[1]).collect();
    let right = moved.iter().filter(|a| (a[0] > a[1]) == (a[2] > a[1])).count();
    (n > 0).then(|| Errors {
        ahead,
        rmse: mean(&|a| (a[0] - a[2]).powi(2)).sqrt(),
        rmse_naive: mean(&|a| (a[1] - a[2]).powi(2)).sqrt(),
        mae: mean(&|a| (a[0] - a[2]).abs()),
        mae_naive: mean(&|a| (a[1] - a[2]).abs()),
        direction: right as f64 / moved.len().max(1) as f64,
        n,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::{Builder, layers::Conv};
    use proptest::prelude::*;

    fn network(window: usize, inputs: usize, ahead: usize) -> Network {
        let mut b = Builder::new("n", Shape::new(1, window, inputs));
        b.conv(Conv::signal(6, 3)).batch_norm().relu().flatten().dense(ahead).build().unwrap()
    }

    fn options(epochs: usize) -> ForecastOptions {
        let fit =
            FitOptions { epochs, batch: 16, lr: 0.01, weight_decay: 0.0, seed: 1, threads: 1 };
        ForecastOptions {
            column: 0,
            inputs: vec![0, 1],
            window: 8,
            ahead: 3,
            test: 0.3,
            folds: 3,
            fit,
        }
    }

    fn table(rows: usize, of: impl Fn(usize) -> [f32; 2]) -> Table {
        let names = ["a", "b"].map(String::from).to_vec();
        Table { names, values: (0..rows).flat_map(of).collect(), left_out: vec![] }
    }

    fn wave(t: usize) -> [f32; 2] {
        let t = t as f32;
        [(t / 3.0).sin() + (t / 7.0).cos(), (t / 5.0).sin()]
    }

    fn walk(table: &Table, epochs: usize) -> Walk {
        let (never, net) = (AtomicBool::new(false), network(8, 2, 3));
        walk_forward(&net, table, &options(epochs), &mut |_, _, _| {}, &never).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever comes after an origin changes no bit of its forecast: not through its window, not through the
        /// scales, not through what the network learnt.
        #[test]
        fn the_future_cannot_influence_a_forecast(
            cut in 57usize..79,
            future in proptest::collection::vec(-1e3f32..1e3, 2 * 80),
        ) {
            let known = table(80, wave);
            let mut changed = known.clone();
            changed.values[2 * (cut + 1)..].copy_from_slice(&future[2 * (cut + 1)..]);
            let (a, b) = (walk(&known, 1), walk(&changed, 1));
            let before = |w: &Walk| {
                let mine = w.origins.iter().filter(|o| o.row <= cut);
                mine.map(|o| (o.row, o.said.iter().map(|v| v.to_bits()).collect::<Vec<_>>())).collect::<Vec<_>>()
            };
            prop_assert!(!before(&a).is_empty());
            prop_assert_eq!(before(&a), before(&b));
            // The test would see it if it did: later forecasts do change.
            if cut < 77 {
                prop_assert!(a.origins.last() != b.origins.last());
            }
        }
    }

    #[test]
    fn every_row_of_the_test_part_is_forecast_once() {
        let w = walk(&table(80, wave), 1);
        let rows: Vec<usize> = w.origins.iter().map(|o| o.row).collect();
        assert_eq!(rows, (55..79).collect::<Vec<_>>());
        assert_eq!(w.origins.last().unwrap().came.len(), 1);
        assert_eq!(w.errors.iter().map(|e| e.n).collect::<Vec<_>>(), [24, 23, 22]);
    }

    #[test]
    fn a_wave_is_forecast_and_chance_is_not() {
        let w = walk(&table(300, wave), 80);
        for e in &w.errors {
            assert!(e.rmse < 0.4 * e.rmse_naive && e.direction > 0.9, "{e:?}");
        }
        // A walk by chance: nothing is better than that all stays.
        let mut seed = 1u64;
        let mut at = 0.0;
        let mut draw = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let steps: Vec<f32> = (0..300)
            .map(|_| {
                at += draw();
                at
            })
            .collect();
        let w = walk(&table(300, |t| [steps[t], 0.0]), 5);
        assert!(w.errors.iter().all(|e| e.rmse > 0.9 * e.rmse_naive), "{:?}", w.errors);
    }

    #[test]
    fn a_forecaster_survives_its_file() {
        let (t, never) = (table(80, wave), AtomicBool::new(false));
        let net = network(8, 2, 3);
        let f = Forecaster::train(&net, &t, 80, &options(2), &mut |_, _| {}, &never).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        f.model(&t).save(&path).unwrap();
        let again = Forecaster::of_model(&ModelFile::load(&path).unwrap(), &t, 1).unwrap();
        assert_eq!(f.forecast(&t, &[79]).unwrap(), again.forecast(&t, &[79]).unwrap());
        let other = Table { names: vec!["x".into(), "b".into()], ..t.clone() };
        let e = Forecaster::of_model(&f.model(&t), &other, 1).unwrap_err().to_string();
        assert!(e.contains("no column `a`"), "{e}");
        assert!(Forecaster::train(&net, &t, 10, &options(1), &mut |_, _| {}, &never).is_err());
        assert!(f.forecast(&t, &[5]).is_err());
    }
}
