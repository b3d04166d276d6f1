//! Pictures in the lanes against pictures one after the other: the same network, weights and batch.

use convoke_engine::layers::{Conv, Dropout, LeakyRelu, MeanPool, Sigmoid, Tanh};
use convoke_engine::{Builder, Loss, Network, Optimizer, Plan, PlanOptions, Session, Shape};

const CROSS: Loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.1 };
const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 };

fn nets() -> Vec<Network> {
    let mut b = Builder::new("lenet", Shape::new(12, 12, 1));
    b.conv(Conv::new(6, 5)).relu().max_pool(2, 2).conv(Conv::new(9, 3).valid()).relu();
    b.flatten().dense(20).relu().dense(5);
    let lenet = b.build().unwrap();
    let mut b = Builder::new("branches", Shape::new(9, 7, 3));
    b.conv(Conv::new(5, 3).stride(2).no_bias()).layer(Tanh {});
    b.layer(MeanPool { stride: Some(1.into()), ..MeanPool::new(2) });
    b.conv(Conv::new(4, 2)).layer(LeakyRelu::default()).global_mean_pool().dense(3);
    let means = b.build().unwrap();
    let mut b = Builder::new("map", Shape::new(6, 6, 2));
    b.conv(Conv::new(4, 3)).layer(Sigmoid {}).conv(Conv::new(3, 1));
    vec![lenet, means, b.build().unwrap()]
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed | 1;
    let mut next = || {
        s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn session(net: &Network, options: PlanOptions, lanes: bool) -> Session {
    let plan = Plan::compile(net, &PlanOptions { lanes: Some(lanes), ..options }).unwrap();
    assert_eq!(plan.explain().contains("all layers"), lanes);
    let mut s = Session::new(plan).unwrap();
    s.init(7);
    s
}

fn fill(s: &mut Session, net: &Network) {
    let x = numbers(s.input_mut().len(), 3);
    s.input_mut().copy_from_slice(&x);
    let classes = net.output_shape().c as u32;
    for (i, l) in s.labels_mut().iter_mut().enumerate() {
        // Some pixels have no label.
        *l = if i % 7 == 3 { u32::MAX } else { i as u32 * 5 % classes };
    }
    let t = numbers(s.targets_mut().len(), 4);
    s.targets_mut().copy_from_slice(&t);
}

fn close(what: &str, a: &[f32], b: &[f32]) {
    let most = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 1e-5 * most, "{what}[{i}]: {a} against {b}");
    }
}

#[test]
fn loss_gradients_and_output_are_those_of_the_other_layout() {
    for net in nets() {
        for batch in [16, 5, 40] {
            for (loss, weighted) in [(CROSS, false), (CROSS, true), (Loss::MeanSquaredError, false)]
            {
                let mut pair = [true, false].map(|lanes| {
                    let options = PlanOptions::train(batch, 2, loss, SGD);
                    let mut s = session(&net, options, lanes);
                    fill(&mut s, &net);
                    if weighted {
                        let weights: Vec<f32> =
                            (0..net.output_shape().c).map(|k| 0.2 + k as f32 * 0.7).collect();
                        s.set_class_weights(&weights).unwrap();
                    }
                    let report = s.backward().unwrap();
                    (s, report)
                });
                let name = |what| format!("{} {batch} {loss:?} {weighted} {what}", net.name());
                let [(a, ra), (b, rb)] = &mut pair;
                close(&name("output"), a.output(), b.output());
                close(&name("gradients"), a.grads(), b.grads());
                close(&name("loss"), &[ra.loss], &[rb.loss]);
                assert_eq!(ra.correct, rb.correct);
                for _ in 0..3 {
                    a.step(0.1).unwrap();
                    b.step(0.1).unwrap();
                }
                close(&name("weights"), a.params(), b.params());
            }
        }
    }
}

#[test]
fn predictions_are_those_of_the_other_layout_for_any_number_of_pictures() {
    for net in nets() {
        let mut pair = [true, false].map(|l| session(&net, PlanOptions::predict(40, 2), l));
        pair.iter_mut().for_each(|s| fill(s, &net));
        let [a, b] = &mut pair;
        for n in [1, 16, 17, 40] {
            close(net.name(), a.predict(n).unwrap(), b.predict(n).unwrap());
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let mut b = Builder::new("dropout", Shape::new(8, 8, 1));
    b.conv(Conv::new(6, 3)).relu().layer(Dropout { rate: 0.4 }).flatten().dense(4);
    let net = b.build().unwrap();
    let weights = [1, 2, 3].map(|threads| {
        let mut s = session(&net, PlanOptions::train(77, threads, CROSS, SGD), true);
        fill(&mut s, &net);
        for _ in 0..4 {
            s.step(0.05).unwrap();
        }
        s.params().to_vec()
    });
    assert!(weights[0] == weights[1] && weights[0] == weights[2]);
}

#[test]
fn narrow_networks_take_it_by_themselves_and_others_do_not() {
    let takes = |net: &Network, options: PlanOptions| {
        Plan::compile(net, &options).unwrap().explain().contains("all layers")
    };
    let nets = nets();
    assert!(takes(&nets[0], PlanOptions::train(64, 2, CROSS, SGD)));
    assert!(!takes(&nets[0], PlanOptions::train(8, 2, CROSS, SGD)));
    let keep = vec![nets[0].find("conv1").unwrap()];
    assert!(!takes(&nets[0], PlanOptions { keep, ..PlanOptions::predict(64, 2) }));
    let mut b = Builder::new("wide", Shape::new(12, 12, 3));
    b.conv(Conv::new(32, 3)).relu().conv(Conv::new(64, 3)).relu().global_mean_pool().dense(5);
    assert!(!takes(&b.build().unwrap(), PlanOptions::train(64, 2, CROSS, SGD)));
    let mut b = Builder::new("norm", Shape::new(12, 12, 3));
    b.conv(Conv::new(8, 3)).batch_norm().relu().global_mean_pool().dense(5);
    assert!(!takes(&b.build().unwrap(), PlanOptions::train(64, 2, CROSS, SGD)));
}
