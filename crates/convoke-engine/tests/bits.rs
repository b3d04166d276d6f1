//! Weights are bitwise equal for any number of threads and from run to run; partial batches predict
//! what full ones do; a network slides over larger inputs.

use convoke_engine::layers::*;
use convoke_engine::{
    Builder, Loss, Network, Optimizer, Padding, Plan, PlanOptions, Precision, Session, Shape,
};
use convoke_kernels::{Isa, conv};

fn network() -> Network {
    let mut b = Builder::new("all", Shape::new(17, 18, 3));
    b.conv(Conv::new(9, 5).stride(2)).layer(LocalResponseNorm::default()).relu();
    b.layer(MaxPool::new(3).stride(2).padding(Padding::symmetric(1)));
    let x = b.conv(Conv::new(33, 3).no_bias()).batch_norm().relu().here();
    b.conv(Conv::depthwise(3)).batch_norm().layer(LeakyRelu { slope: 0.1 });
    let y = b.conv(Conv::new(33, 1)).batch_norm().here();
    b.add(&[y, x]).layer(Tanh {});
    let z = b.here();
    b.concat(&[z, x]).layer(MeanPool::new(2)).conv(Conv::new(24, 3).groups(3)).layer(Sigmoid {});
    b.flatten().dropout(0.2).dense(30).relu().dense(5);
    b.build().unwrap()
}

/// Wide enough for matrix tiles, where the processor has them.
fn wide() -> Network {
    let mut b = Builder::new("wide", Shape::new(19, 18, 3));
    b.conv(Conv::new(48, 5).stride(2)).batch_norm().relu();
    let x = b.here();
    b.conv(Conv::new(64, 3).no_bias()).batch_norm().relu();
    b.conv(Conv::new(48, 1).no_bias()).batch_norm();
    let y = b.here();
    b.add(&[y, x]).relu().conv(Conv::new(80, 3).stride(2)).relu();
    b.layer(GlobalMeanPool {}).dense(5);
    b.build().unwrap()
}

fn train(threads: usize) -> (Vec<f32>, Vec<f32>) {
    train_of(&network(), Precision::F32, threads)
}

fn train_of(network: &Network, precision: Precision, threads: usize) -> (Vec<f32>, Vec<f32>) {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.1 };
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    let options = PlanOptions { precision, ..PlanOptions::train(7, threads, loss, sgd) };
    let mut s = Session::new(Plan::compile(network, &options).unwrap()).unwrap();
    five_steps(&mut s)
}

fn five_steps(s: &mut Session) -> (Vec<f32>, Vec<f32>) {
    s.init(3);
    for step in 0..5 {
        for (i, v) in s.input_mut().iter_mut().enumerate() {
            *v = ((i * 31 + step * 7) % 101) as f32 / 50.0 - 1.0;
        }
        for (i, l) in s.labels_mut().iter_mut().enumerate() {
            *l = (i + step) as u32 % 5;
        }
        assert!(s.step(0.05).unwrap().loss.is_finite());
    }
    (s.params().to_vec(), s.state().to_vec())
}

#[test]
fn threads_change_no_bit() {
    let one = train(1);
    assert_eq!(one, train(1));
    for threads in [2, 3] {
        assert_eq!(one, train(threads), "{threads} threads");
    }
}

/// Maps that are made again, weights that follow their gradients at once: the same bits.
#[test]
fn sparing_memory_changes_no_bit() {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.1 };
    let (beta1, beta2, epsilon, weight_decay) = (0.9, 0.99, 1e-8, 1e-3);
    let optimizers = [
        Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay },
        Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay },
        Optimizer::Adam { beta1, beta2, epsilon, weight_decay },
        Optimizer::AdamW { beta1, beta2, epsilon, weight_decay },
    ];
    for net in [network(), wide(), blocks()] {
        for optimizer in optimizers {
            for precision in [Precision::F32, Precision::Bf16] {
                let lavish = PlanOptions {
                    precision,
                    least: usize::MAX,
                    ..PlanOptions::train(7, 2, loss, optimizer)
                };
                let sparing = PlanOptions { least: 1, keep_grads: false, ..lavish.clone() };
                let plans = [lavish, sparing].map(|o| Plan::compile(&net, &o).unwrap());
                let memory = plans.each_ref().map(Plan::memory);
                assert!(memory[0].total > memory[1].total && memory[1].gradients == 0);
                if net.name() == "blocks" {
                    assert!(memory[0].activations > memory[1].activations, "nothing is made again");
                }
                let [one, other] = plans.map(|p| five_steps(&mut Session::new(p).unwrap()));
                assert_eq!(one, other, "{} {optimizer:?} {precision:?}", net.name());
            }
        }
    }
}

#[test]
fn weights_that_follow_at_once_stay_where_the_loss_is_no_number() {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 };
    let options =
        PlanOptions { least: 1, keep_grads: false, ..PlanOptions::train(7, 2, loss, sgd) };
    let mut s = Session::new(Plan::compile(&blocks(), &options).unwrap()).unwrap();
    let (before, _) = five_steps(&mut s);
    assert!(s.backward().unwrap_err().to_string().contains("keep_grads") && s.grads().is_empty());
    s.input_mut().fill(f32::NAN);
    assert!(s.step(0.1).unwrap().loss.is_nan());
    assert_eq!((s.params(), s.steps()), (&before[..], 5));
}

/// Residual blocks, whose outputs are made again on the way back; one after the other in a stage, so that they are
/// made of each other.
fn blocks() -> Network {
    let mut b = Builder::new("blocks", Shape::new(24, 24, 3));
    b.conv(Conv::new(16, 3).no_bias()).batch_norm().relu();
    for (stage, filters) in [16, 32, 48].into_iter().enumerate() {
        for block in 0..3 {
            let from = b.here();
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            b.conv(Conv::new(filters, 3).stride(stride).no_bias()).batch_norm().relu();
            let inner = b.conv(Conv::new(filters, 3).no_bias()).batch_norm().here();
            let side = match stride {
                1 => from,
                _ => b.at(from).conv(Conv::new(filters, 1).stride(2).no_bias()).batch_norm().here(),
            };
            b.add(&[inner, side]).relu();
        }
    }
    b.layer(GlobalMeanPool {}).dense(5);
    b.build().unwrap()
}

/// From smaller to larger networks and back, from training to predicting: memory that others have written
/// changes no bit.
#[test]
fn another_plan_in_the_same_memory_changes_no_bit() {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.1 };
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    let plan = |net: &Network, precision, threads| {
        let options = PlanOptions { precision, ..PlanOptions::train(7, threads, loss, sgd) };
        Plan::compile(net, &options).unwrap()
    };
    let mut s = Session::new(plan(&network(), Precision::F32, 2)).unwrap();
    five_steps(&mut s);
    for (net, precision, threads) in [
        (wide(), Precision::F32, 1),
        (network(), Precision::F32, 2),
        (wide(), Precision::Bf16, 2),
        (network(), Precision::F32, 3),
    ] {
        // Nothing may depend on what lies there.
        s.input_mut().fill(f32::NAN);
        let _ = s.backward();
        s.replan(plan(&net, precision, threads)).unwrap();
        assert_eq!(five_steps(&mut s), train_of(&net, precision, 1), "{}", net.name());
        assert!(s.labels_mut().len() == 7);
    }
    let predicting = Plan::compile(&wide(), &PlanOptions::predict(3, 2)).unwrap();
    let mut fresh =
        Session::new(Plan::compile(&wide(), &PlanOptions::predict(3, 2)).unwrap()).unwrap();
    s.input_mut().fill(f32::NAN);
    let _ = s.backward();
    s.replan(predicting).unwrap();
    for s in [&mut s, &mut fresh] {
        s.init(9);
        let (input, pool) = s.input_and_pool();
        pool.for_chunks_mut(input, 100, |i, part, _| part.fill(i as f32 / 9.0));
    }
    assert_eq!(s.predict(3).unwrap(), fresh.predict(3).unwrap());
}

#[test]
fn threads_change_no_bit_in_either_precision() {
    for precision in [Precision::F32, Precision::Bf16] {
        let one = train_of(&wide(), precision, 1);
        for threads in [2, 3] {
            assert_eq!(
                one,
                train_of(&wide(), precision, threads),
                "{precision:?} {threads} threads"
            );
        }
    }
}

/// About the edge between narrow products and full ones threads once decided: the work that they have cut costs other
/// cycles.
#[test]
fn threads_do_not_choose_what_is_multiplied() {
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    for (height, width) in [(4, 6), (5, 7), (6, 8), (6, 9)] {
        let mut b = Builder::new("edge", Shape::new(height, width, 16));
        b.conv(Conv::new(33, [1, 3])).relu().layer(GlobalMeanPool {}).dense(5);
        let network = b.build().unwrap();
        let gradients = |threads: usize| {
            let options = PlanOptions {
                precision: Precision::Bf16,
                lanes: Some(false),
                ..PlanOptions::train(3, threads, loss, sgd)
            };
            let mut s = Session::new(Plan::compile(&network, &options).unwrap()).unwrap();
            s.init(3);
            s.input_mut()
                .iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = (i % 97) as f32 / 50.0 - 1.0);
            s.backward().unwrap();
            s.grads().to_vec()
        };
        let one = gradients(1);
        assert!(one == gradients(2) && one == gradients(3), "{height}x{width}");
    }
}

/// bf16 keeps eight bits: outputs come within a hundredth of f32's, and are not the same where bf16 is multiplied.
#[test]
fn bf16_predicts_nearly_what_f32_does() {
    let net = wide();
    let outputs = [Precision::F32, Precision::Bf16].map(|precision| {
        let options = PlanOptions { precision, ..PlanOptions::predict(4, 2) };
        let mut s = Session::new(Plan::compile(&net, &options).unwrap()).unwrap();
        s.init(5);
        for (i, v) in s.input_mut().iter_mut().enumerate() {
            *v = (i % 89) as f32 / 44.0 - 1.0;
        }
        s.predict(4).unwrap().to_vec()
    });
    let largest = outputs[0].iter().fold(0f32, |m, v| m.max(v.abs()));
    for (a, b) in outputs[0].iter().zip(&outputs[1]) {
        assert!((a - b).abs() <= 1e-2 * largest, "{a} against {b}");
    }
    let bf16 = conv::Conv::has_products(Isa::detect(), conv::Precision::Bf16);
    assert_eq!(outputs[0] != outputs[1], bf16);
}

#[test]
fn a_part_of_a_batch_predicts_what_the_whole_does() {
    let plan = Plan::compile(&network(), &PlanOptions::predict(7, 2)).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.init(3);
    for (i, v) in s.input_mut().iter_mut().enumerate() {
        *v = (i % 101) as f32 / 50.0 - 1.0;
    }
    let whole = s.predict(7).unwrap().to_vec();
    for n in 1..7 {
        assert_eq!(s.predict(n).unwrap(), &whole[..n * 5], "{n} of 7");
    }
}

/// Prediction folds norms into filters and joins layers; training keeps them apart. With the batch's
/// own statistics as running ones, both must agree.
#[test]
fn folded_prediction_agrees_with_the_layers_one_by_one() {
    let net = network();
    let (params, state) = train(2);
    let keep: Vec<_> = net.iter().map(|(id, _)| id).collect();
    let mut outputs = Vec::new();
    for keep in [Vec::new(), keep] {
        let options = PlanOptions { keep, ..PlanOptions::predict(4, 2) };
        let mut s = Session::new(Plan::compile(&net, &options).unwrap()).unwrap();
        s.set_params(&params).unwrap();
        s.set_state(&state).unwrap();
        for (i, v) in s.input_mut().iter_mut().enumerate() {
            *v = (i % 89) as f32 / 44.0 - 1.0;
        }
        outputs.push(s.predict(4).unwrap().to_vec());
        assert!(options.keep.iter().all(|&id| s.map(id).is_some()));
    }
    let largest = outputs[0].iter().fold(0f32, |m, v| m.max(v.abs()));
    for (a, b) in outputs[0].iter().zip(&outputs[1]) {
        assert!((a - b).abs() <= 1e-4 * largest, "{a} against {b}");
    }
}

#[test]
fn a_fully_convolutional_network_slides_and_a_dense_one_says_why_not() {
    let mut b = Builder::new("slide", Shape::new(9, 9, 1));
    b.conv(Conv::new(4, 3).valid()).relu().conv(Conv::new(2, 7).valid());
    let net = b.build().unwrap();
    assert_eq!(net.output_shape(), Shape::new(1, 1, 2));
    assert_eq!(
        net.with_input(Shape::new(20, 31, 1)).unwrap().output_shape(),
        Shape::new(12, 23, 2)
    );
    let e = network().with_input(Shape::new(40, 40, 3)).unwrap_err().to_string();
    assert!(e.contains("dense1") && e.contains("cannot slide"), "{e}");
}

#[test]
fn wrong_use_is_told() {
    let net = network();
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: true, weight_decay: 0.0 };
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let e = Plan::compile(&net, &PlanOptions::train(2, 1, loss, sgd)).unwrap_err().to_string();
    assert!(e.contains("momentum"), "{e}");
    let e = Plan::compile(&net, &PlanOptions::predict(0, 1)).unwrap_err().to_string();
    assert!(e.contains("batch 0"), "{e}");
    let mut s = Session::new(Plan::compile(&net, &PlanOptions::predict(2, 1)).unwrap()).unwrap();
    assert!(s.step(0.1).unwrap_err().to_string().contains("predicts"));
    assert!(s.predict(3).unwrap_err().to_string().contains("made for 2"));
    assert!(s.set_params(&[0.0]).unwrap_err().to_string().contains("1 weights were given"));
}
