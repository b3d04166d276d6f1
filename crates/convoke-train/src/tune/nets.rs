//! The space of plain convolutional networks and of how they are trained: how many convolutions, and for each its
//! filters, window, stride, padding and the pooling behind it; then the head; then optimizer, rate, batch and
//! augmentation.

use super::space::{Kind, Point, Space, When};
use crate::trainer::TrainOptions;
use convoke_engine::layers::{Conv, Dense, MaxPool, MeanPool, WeightInit};
use convoke_engine::{Builder, Hw, Network, Optimizer, Padding, Result, Shape};

/// Convolutions at most.
const DEEPEST: i64 = 6;

/// Networks for an input and a number of classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetSpace {
    /// Shape of one sample; of one row, it is a signal.
    pub input: Shape,
    /// Classes.
    pub classes: usize,
}

fn int(low: i64, high: i64) -> Kind {
    Kind::Int { low, high, step: 1, log: false }
}

fn log_int(low: i64, high: i64) -> Kind {
    Kind::Int { low, high, step: 1, log: true }
}

fn float(low: f64, high: f64) -> Kind {
    Kind::Float { low, high, log: false }
}

fn log_float(low: f64, high: f64) -> Kind {
    Kind::Float { low, high, log: true }
}

fn choice(of: &[&str]) -> Kind {
    Kind::Choice { of: of.iter().map(|s| s.to_string()).collect() }
}

fn at_least(name: &str, least: i64) -> When {
    When { name: name.into(), at_least: Some(least), is: Vec::new() }
}

fn is(name: &str, words: &[&str]) -> When {
    let is = words.iter().map(|w| w.to_string()).collect();
    When { name: name.into(), at_least: None, is }
}

impl NetSpace {
    fn signal(&self) -> bool {
        self.input.h == 1
    }

    /// The dimensions of the network.
    pub fn space(&self) -> Space {
        let mut s = Space::default();
        s.add("depth", int(1, DEEPEST));
        s.add("norm", choice(&["batch", "none"]));
        s.add("head", choice(&["global-mean", "flatten"]));
        s.add("dense", int(0, 2));
        s.add("dropout", float(0.0, 0.6));
        for i in 1..=DEEPEST {
            let named = |what: &str| format!("{what}{i}");
            let mut add = |what: &str, kind| match i {
                1 => s.add(&named(what), kind),
                _ => s.add_when(&named(what), kind, at_least("depth", i)),
            };
            add("filters", log_int(4, 128));
            let longest = if self.signal() { 25 } else { 7 };
            add("window", Kind::Int { low: 1, high: longest, step: 2, log: false });
            add("stride", int(1, 2));
            add("padding", choice(&["same", "valid"]));
            add("pool", choice(&["none", "max", "mean"]));
            s.add_when(&named("pool-window"), int(2, 3), is(&named("pool"), &["max", "mean"]));
        }
        s.add_when("units1", log_int(16, 512), at_least("dense", 1));
        s.add_when("units2", log_int(16, 512), at_least("dense", 2));
        s
    }

    /// The network of a point.
    ///
    /// # Errors
    /// When a window does not fit the map that is left for it.
    pub fn network(&self, space: &Space, point: &Point) -> Result<Network> {
        let number = |name: &str| space.value(point, name).unwrap_or(0.0);
        let whole = |name: &str| number(name) as usize;
        let sides = |n: usize| Hw { h: if self.signal() { 1 } else { n }, w: n };
        let normed = space.word(point, "norm") == Some("batch");
        let mut b = Builder::new("tuned", self.input);
        for i in 1..=whole("depth") {
            let of = |what: &str| format!("{what}{i}");
            let conv = Conv::new(whole(&of("filters")), sides(whole(&of("window"))));
            let conv = conv.stride(sides(whole(&of("stride"))));
            let conv = match space.word(point, &of("padding")) {
                Some("valid") => conv.valid(),
                _ => conv,
            };
            match normed {
                true => b.conv(conv.no_bias()).batch_norm().relu(),
                false => b.conv(conv).relu(),
            };
            let window = sides(whole(&of("pool-window")));
            let step = sides(2);
            match space.word(point, &of("pool")) {
                Some("max") => b.layer(MaxPool::new(window).stride(step).padding(Padding::Valid)),
                Some("mean") => b.layer(MeanPool::new(window).stride(step)),
                _ => &mut b,
            };
        }
        match space.word(point, "head") {
            Some("flatten") => b.flatten(),
            _ => b.global_mean_pool(),
        };
        for i in 1..=whole("dense") {
            b.layer(Dense::new(whole(&format!("units{i}"))).init(WeightInit::He)).relu();
        }
        // Less than that drops next to nothing and costs a pass.
        let dropout = number("dropout") as f32;
        if dropout > 0.02 {
            b.dropout(dropout);
        }
        b.dense(self.classes).build()
    }
}

/// The dimensions of training, for so many samples of that shape.
pub fn training_space(input: Shape, samples: usize) -> Space {
    let mut s = Space::default();
    s.add("optimizer", choice(&["sgd", "adamw"]));
    s.add_when("lr-sgd", log_float(3e-3, 0.5), is("optimizer", &["sgd"]));
    s.add_when("decay-sgd", log_float(1e-5, 1e-2), is("optimizer", &["sgd"]));
    s.add_when("lr-adamw", log_float(1e-4, 2e-2), is("optimizer", &["adamw"]));
    s.add_when("decay-adamw", log_float(1e-3, 0.3), is("optimizer", &["adamw"]));
    let batches = [8usize, 16, 32, 64, 128, 256];
    // A step sees at most a tenth of what there is, and not so little that an epoch takes thousands of steps.
    let few = |b: &usize| *b * 4 <= samples && samples <= *b * 4000;
    let batches: Vec<String> = batches.iter().filter(|b| few(b)).map(usize::to_string).collect();
    match batches.is_empty() {
        true => s.add("batch", choice(&[&samples.clamp(1, 8).to_string()])),
        false => s.add("batch", Kind::Choice { of: batches }),
    }
    s.add("smoothing", float(0.0, 0.2));
    if input.h > 1 {
        s.add("flip", choice(&["no", "yes"]));
        s.add("shift", int(0, (input.h.min(input.w) / 8).clamp(1, 8) as i64));
        s.add("erase", float(0.0, 0.5));
    } else {
        s.add("warp", float(0.0, 0.5));
    }
    s
}

/// What a point says of training, on top of what is fixed.
pub fn train_options(space: &Space, point: &Point, fixed: &TrainOptions) -> TrainOptions {
    let mut o = fixed.clone();
    let number = |name: &str| space.value(point, name).map(|v| v as f32);
    match space.word(point, "optimizer") {
        Some("sgd") => {
            let weight_decay = number("decay-sgd").unwrap_or(5e-4);
            o.optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay };
        }
        Some("adamw") => {
            let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
            let weight_decay = number("decay-adamw").unwrap_or(0.05);
            o.optimizer = Optimizer::AdamW { beta1, beta2, epsilon, weight_decay };
        }
        _ => {}
    }
    if let Some(lr) = number("lr-sgd").or(number("lr-adamw")) {
        o.lr = lr;
    }
    if let Some(batch) = space.word(point, "batch").and_then(|b| b.parse().ok()) {
        o.batch = batch;
    }
    o.label_smoothing = number("smoothing").unwrap_or(o.label_smoothing);
    o.augment.flip = space.word(point, "flip").map_or(o.augment.flip, |w| w == "yes");
    o.augment.shift = number("shift").map_or(o.augment.shift, |v| v as usize);
    o.augment.erase = number("erase").unwrap_or(o.augment.erase);
    o.augment.warp = number("warp").unwrap_or(o.augment.warp);
    o
}

#[cfg(test)]
mod tests {
    use super::super::Sampler;
    use super::*;
    use convoke_data::Preprocess;

    #[test]
    fn points_are_networks_or_say_why_not() {
        for input in [Shape::new(28, 28, 1), Shape::new(1, 150, 3)] {
            let nets = NetSpace { input, classes: 5 };
            let space = nets.space();
            space.check().unwrap();
            let (mut built, mut depths) = (0, std::collections::BTreeSet::new());
            for n in 0..200 {
                let point = Sampler::Random.propose(&space, &[], 1, n);
                match nets.network(&space, &point) {
                    Ok(net) => {
                        built += 1;
                        depths.insert(space.value(&point, "depth").unwrap() as usize);
                        assert_eq!(net.output_shape(), Shape::vector(5));
                        // What is found is a file to edit.
                        let again = Network::from_toml(&net.to_toml(), &Default::default());
                        assert_eq!(again.unwrap(), net);
                    }
                    Err(e) => assert!(e.to_string().contains("window"), "{e}"),
                }
            }
            assert!(built > 100 && depths.len() >= 5, "{built} {depths:?}");
        }
    }

    #[test]
    fn points_say_how_to_train() {
        let input = Shape::new(28, 28, 1);
        let space = training_space(input, 50_000);
        space.check().unwrap();
        let fixed = TrainOptions::suited(3, 64, &Preprocess::plain(28, 28, 1), 1);
        for n in 0..50 {
            let point = Sampler::Random.propose(&space, &[], 1, n);
            let o = train_options(&space, &point, &fixed);
            let sgd = matches!(o.optimizer, Optimizer::Sgd { .. });
            assert_eq!(sgd, space.word(&point, "optimizer") == Some("sgd"));
            assert!(if sgd { o.lr >= 3e-3 } else { o.lr <= 2e-2 });
            assert!([16, 32, 64, 128, 256].contains(&o.batch) && o.augment.shift <= 3);
        }
        for samples in [1, 5, 31, 50, 1_000_000] {
            training_space(Shape::new(1, 20, 1), samples).check().unwrap();
        }
    }
}
