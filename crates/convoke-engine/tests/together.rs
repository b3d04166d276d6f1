//! One-pixel convolutions over maps that no near cache keeps go back in one walk, and make the last step of the way back
//! through the norm behind them: the gradients are those of the same network whose windows are 3×3, all zero but for the
//! middle, which goes other ways.

use convoke_engine::layers::*;
use convoke_engine::{Builder, Loss, Network, Optimizer, Plan, PlanOptions, Session, Shape};

const BATCH: usize = 5;

/// An inverted residual block behind a norm that stays pending, and one without.
fn network(window: usize) -> Network {
    let conv = |filters: usize, window: usize| Conv::new(filters, window).no_bias();
    let mut b = Builder::new("inverted", Shape::new(124, 115, 3));
    b.conv(conv(6, 1)).batch_norm();
    b.conv(conv(16, window)).batch_norm().relu6();
    b.conv(Conv::depthwise(3).no_bias()).batch_norm().relu6();
    b.conv(conv(8, 1)).batch_norm();
    let x = b.here();
    b.conv(conv(32, window)).batch_norm().relu6();
    b.conv(Conv::depthwise(3).no_bias()).batch_norm().relu6();
    b.conv(conv(8, 1)).batch_norm();
    let y = b.here();
    b.add(&[x, y]);
    // No norm behind, but a bias and an activation.
    b.conv(Conv::new(16, window)).relu();
    b.layer(GlobalMeanPool {}).dense(3);
    b.build().unwrap()
}

fn session(net: &Network, threads: usize) -> Session {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let plan = Plan::compile(net, &PlanOptions::train(BATCH, threads, loss, sgd)).unwrap();
    Session::new(plan).unwrap()
}

/// The layers whose calls have such a name, in the order of the schedule.
fn calls(s: &Session, name: &str) -> Vec<String> {
    let layer = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_string();
    s.plan().explain().lines().filter(|l| l.contains(name)).map(layer).collect()
}

fn gradients(s: &mut Session, params: &[f32]) -> (f32, Vec<f32>) {
    s.set_params(params).unwrap();
    for (i, v) in s.input_mut().iter_mut().enumerate() {
        *v = (i * 7919 % 1013) as f32 / 500.0 - 1.0;
    }
    for (i, l) in s.labels_mut().iter_mut().enumerate() {
        *l = i as u32 % 3;
    }
    let loss = s.backward().unwrap().loss;
    (loss, s.grads().to_vec())
}

#[test]
fn gradients_are_those_of_other_ways() {
    let (one, three) = (network(1), network(3));
    let (mut a, mut b) = (session(&one, 2), session(&three, 2));
    a.init(5);
    let params = a.params().to_vec();
    assert_eq!(calls(&a, " slopes "), ["batch-norm5", "batch-norm4", "batch-norm2"]);
    assert_eq!(calls(&a, "conv8 backward "), ["conv8"]);
    assert_eq!(calls(&b, " slopes "), ["batch-norm4"]);
    // The same weights, in the middle of windows.
    let mut wide = vec![0.0; b.params().len()];
    let pairs: Vec<_> =
        a.plan().params().to_vec().into_iter().zip(b.plan().params().to_vec()).collect();
    let middle = |p: &convoke_engine::Param, q: &convoke_engine::Param| {
        let same = p.range.len() == q.range.len();
        let from = q.range.start + if same { 0 } else { 4 * p.range.len() };
        from..from + p.range.len()
    };
    for (p, q) in &pairs {
        wide[middle(p, q)].copy_from_slice(&params[p.range.clone()]);
    }
    let (loss, got) = gradients(&mut a, &params);
    let (other, want) = gradients(&mut b, &wide);
    assert!((loss - other).abs() < 1e-5, "{loss} instead of {other}");
    for (p, q) in &pairs {
        let (g, w) = (&got[p.range.clone()], &want[middle(p, q)]);
        let length =
            |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let apart = length(&mut g.iter().zip(w).map(|(g, w)| g - w));
        let size = length(&mut w.iter().copied());
        assert!(apart <= 3e-4 * size + 1e-6, "{}: {apart:e} of {size:e}", p.name);
    }
}

#[test]
fn threads_change_no_bit() {
    let net = network(1);
    let mut first = session(&net, 1);
    first.init(5);
    let params = first.params().to_vec();
    let want = gradients(&mut first, &params);
    for threads in [2, 3] {
        assert!(gradients(&mut session(&net, threads), &params) == want, "{threads} threads");
    }
}
