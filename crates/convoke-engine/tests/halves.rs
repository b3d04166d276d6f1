//! Training in bf16 keeps maps in bf16: less memory, the same learning, and no bit that depends on the threads.

use convoke_engine::layers::*;
use convoke_engine::{
    Builder, Loss, Network, NodeId, Optimizer, Padding, Plan, PlanOptions, Precision, Session,
    Shape,
};
use convoke_kernels::{Isa, conv};

/// Every layer that keeps bf16, with residuals of both kinds.
fn network() -> Network {
    let conv = |filters: usize, window: usize| Conv::new(filters, window).no_bias();
    let mut b = Builder::new("halves", Shape::new(38, 36, 3));
    b.conv(conv(32, 7).stride(2)).batch_norm().relu();
    let x = b.layer(MaxPool::new(3).stride(2).padding(Padding::symmetric(1))).here();
    let short = b.at(x).conv(conv(64, 1)).batch_norm().here();
    b.at(x).conv(conv(48, 1)).batch_norm().relu();
    b.conv(conv(48, 3)).batch_norm().relu();
    b.conv(conv(64, 1)).batch_norm();
    let y = b.here();
    let x = b.add(&[y, short]).relu().here();
    let short = b.at(x).layer(Shortcut { stride: 2.into(), channels: 96 }).here();
    b.at(x).conv(conv(80, 1)).batch_norm().relu();
    b.conv(Conv::depthwise(3).no_bias().stride(2)).batch_norm().relu();
    b.conv(conv(96, 1)).batch_norm();
    let y = b.here();
    b.add(&[y, short]).relu();
    b.layer(GlobalMeanPool {}).dense(5);
    b.build().unwrap()
}

const BATCH: usize = 6;

fn options(precision: Precision, threads: usize) -> PlanOptions {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 };
    PlanOptions { precision, ..PlanOptions::train(BATCH, threads, loss, sgd) }
}

/// Losses of some steps over the same pictures, and the weights behind them.
fn train(options: &PlanOptions) -> (Vec<f32>, Vec<f32>) {
    let mut s = Session::new(Plan::compile(&network(), options).unwrap()).unwrap();
    s.init(3);
    let mut losses = Vec::new();
    for _ in 0..8 {
        for (i, v) in s.input_mut().iter_mut().enumerate() {
            *v = (i * 31 % 101) as f32 / 50.0 - 1.0;
        }
        for (i, l) in s.labels_mut().iter_mut().enumerate() {
            *l = i as u32 % 5;
        }
        losses.push(s.step(0.02).unwrap().loss);
    }
    (losses, s.params().to_vec())
}

/// Whether maps are kept so on this machine.
fn present() -> bool {
    conv::Conv::has_products(Isa::Avx512, conv::Precision::Bf16) && Isa::detect() == Isa::Avx512
}

#[test]
fn maps_take_half_the_memory() {
    let activations = |precision| {
        let plan = Plan::compile(&network(), &options(precision, 1)).unwrap();
        plan.memory().activations
    };
    let (full, half) = (activations(Precision::F32), activations(Precision::Bf16));
    match present() {
        true => assert!(20 * half < 11 * full, "{half} of {full} bytes"),
        false => println!("skipped: maps are f32 on this machine"),
    }
}

#[test]
fn it_learns_as_in_f32() {
    let [full, half] = [Precision::F32, Precision::Bf16].map(|p| train(&options(p, 2)).0);
    for (step, (f, h)) in full.iter().zip(&half).enumerate() {
        assert!((f - h).abs() <= 0.05 * (1.0 + f), "step {step}: {half:?} against {full:?}");
    }
    assert!(half[7] < 0.7 * half[0], "{half:?}");
}

#[test]
fn threads_change_no_bit() {
    let one = train(&options(Precision::Bf16, 1));
    for threads in [2, 3] {
        assert!(one == train(&options(Precision::Bf16, threads)), "{threads} threads");
    }
}

/// What is kept to be read is f32, and so is all that is added to it; the network learns the same.
#[test]
fn kept_places_are_f32() {
    let net = network();
    let keep: Vec<NodeId> = net.iter().map(|(id, _)| id).skip(1).collect();
    let all = PlanOptions { keep, ..options(Precision::Bf16, 2) };
    let (losses, half) = (train(&all).0, train(&options(Precision::Bf16, 2)).0);
    for (a, b) in losses.iter().zip(&half) {
        assert!((a - b).abs() <= 0.05 * (1.0 + a), "{losses:?} against {half:?}");
    }
}
