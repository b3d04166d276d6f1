//! Outputs, losses, gradients and running statistics of every layer equal PyTorch's to 1e-4 of the
//! largest number, on fixtures made by `fixtures/generate.py`.

use convoke_engine::{BoxLoss, Loss, Network, Optimizer, Overrides, Plan, PlanOptions, Session};
use safetensors::SafeTensors;
use serde_json::Value;

const TOLERANCE: f32 = 1e-4;

fn floats(file: &SafeTensors, name: &str) -> Option<Vec<f32>> {
    let t = file.tensor(name).ok()?;
    Some(t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn largest(v: &[f32]) -> f32 {
    v.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-6)
}

/// The largest difference, relative to `most`.
fn off(got: &[f32], want: &[f32], most: f32) -> f32 {
    assert_eq!(got.len(), want.len());
    let worst =
        |m: f32, (a, b): (&f32, &f32)| if a.is_nan() { f32::NAN } else { m.max((a - b).abs()) };
    got.iter().zip(want).fold(0f32, worst) / most
}

fn loss_of(v: &Value) -> Loss {
    let number = |key: &str| v[key].as_f64().unwrap_or(0.0) as f32;
    match v["kind"].as_str() {
        Some("softmax-cross-entropy") => {
            Loss::SoftmaxCrossEntropy { label_smoothing: number("label_smoothing") }
        }
        Some("sigmoid-cross-entropy") => {
            Loss::SigmoidCrossEntropy { positive_weight: number("positive_weight") }
        }
        Some("centres") => Loss::Centres {
            box_weight: number("box_weight"),
            boxes: match v["boxes"].as_str() {
                Some("giou") => BoxLoss::Giou,
                Some("diou") => BoxLoss::Diou,
                _ => BoxLoss::Ciou,
            },
        },
        _ => Loss::MeanSquaredError,
    }
}

fn flat(file: &SafeTensors, prefix: &str, params: &[convoke_engine::Param]) -> Vec<f32> {
    params
        .iter()
        .flat_map(|p| floats(file, &format!("{prefix}.{}", p.name)).expect(&p.name))
        .collect()
}

/// Everything that differs in one case.
fn check(file: &SafeTensors, name: &str, about: &Value) -> Vec<String> {
    let net =
        Network::from_toml(about["network"].as_str().unwrap(), &Overrides::default()).unwrap();
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let plan =
        Plan::compile(&net, &PlanOptions::train(3, 2, loss_of(&about["loss"]), sgd)).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.init(0);
    s.set_params(&flat(file, &format!("{name}/param"), &net.params())).unwrap();
    s.input_mut().copy_from_slice(&floats(file, &format!("{name}/x")).unwrap());
    if let Some(labels) = floats(file, &format!("{name}/labels")) {
        for (to, from) in s.labels_mut().iter_mut().zip(labels) {
            *to = from as u32;
        }
    }
    if let Some(targets) = floats(file, &format!("{name}/targets")) {
        s.targets_mut().copy_from_slice(&targets);
    }
    let weights = about["loss"]["class_weights"].as_array().map_or(&[][..], |w| w);
    let weights: Vec<f32> = weights.iter().map(|w| w.as_f64().unwrap() as f32).collect();
    s.set_class_weights(&weights).unwrap();
    let loss = s.backward().unwrap().loss;
    let mut wrong = Vec::new();
    let mut see = |what: &str, got: &[f32], want: &[f32], most: f32| {
        let e = off(got, want, most);
        if e.is_nan() || e > TOLERANCE {
            wrong.push(format!("{name}: {what} is off by {e:.1e}"));
        }
    };
    let own = |what: &str| floats(file, &format!("{name}/{what}")).unwrap();
    see("output", s.output(), &own("y"), largest(&own("y")));
    see("loss", &[loss], &own("loss"), largest(&own("loss")));
    for p in net.params() {
        let want = own(&format!("grad.{}", p.name));
        // Relative to the layer's largest gradient: that of a bias in front of a norm is zero but for
        // rounding, here and there.
        let layer = net.params().into_iter().filter(|q| q.node == p.node);
        let most = layer.map(|q| largest(&own(&format!("grad.{}", q.name)))).fold(0f32, f32::max);
        see(&p.name, &s.grads()[p.range], &want, most);
    }
    for p in net.state() {
        let want = own(&format!("state.{}", p.name));
        see(&p.name, &s.state()[p.range], &want, largest(&want));
    }
    wrong
}

#[test]
fn every_layer_equals_pytorch() {
    assert!(all(include_bytes!("fixtures/layers.safetensors")) >= 101);
}

#[test]
fn layers_and_losses_of_detectors_equal_pytorch() {
    assert_eq!(all(include_bytes!("fixtures/detection.safetensors")), 10);
}

/// Checks all cases of a file and counts them.
fn all(bytes: &[u8]) -> usize {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let file = SafeTensors::deserialize(bytes).unwrap();
    let cases = metadata.metadata().clone().unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (name, about) in &cases {
        let Ok(about) = serde_json::from_str::<Value>(about) else { continue };
        wrong.extend(check(&file, name, &about));
        count += 1;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    count
}
