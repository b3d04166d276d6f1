//! Every layer's backward against central differences of its own forward, and against odd graphs:
//! branches, joins, a value added to itself.

use convoke_engine::layers::*;
use convoke_engine::{
    BoxLoss, Builder, Hw, Loss, Network, Optimizer, Padding, Plan, PlanOptions, Session, Shape,
    Tuning,
};

const BATCH: usize = 3;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn session(net: &Network, loss: Loss, threads: usize) -> Session {
    tuned(net, loss, threads, Tuning::default())
}

fn tuned(net: &Network, loss: Loss, threads: usize, tuning: Tuning) -> Session {
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let options = PlanOptions { tuning, ..PlanOptions::train(BATCH, threads, loss, sgd) };
    let plan = Plan::compile(net, &options).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.init(7);
    // Biases and norms away from their first values, where mistakes hide.
    let shifted: Vec<f32> =
        s.params().iter().zip(numbers(s.params().len(), 5)).map(|(p, r)| p + 0.1 * r).collect();
    s.set_params(&shifted).unwrap();
    let x = numbers(s.input_mut().len(), 3);
    s.input_mut().copy_from_slice(&x);
    let classes = net.output_shape().c as u32;
    for (i, l) in s.labels_mut().iter_mut().enumerate() {
        *l = i as u32 % classes;
    }
    let t: Vec<f32> = numbers(s.targets_mut().len(), 4).iter().map(|v| v * 0.5 + 0.5).collect();
    s.targets_mut().copy_from_slice(&t);
    s
}

/// The gradient along random directions equals the difference of the loss, to the accuracy that f32
/// differences allow.
fn check(name: &str, net: &Network, loss: Loss) {
    check_session(name, net, session(net, loss, 2));
}

fn check_session(name: &str, net: &Network, mut s: Session) {
    s.backward().unwrap();
    let (params, grads) = (s.params().to_vec(), s.grads().to_vec());
    for p in net.params() {
        let range = p.range.clone();
        let direction = numbers(range.len(), 11);
        let slope: f64 =
            grads[range.clone()].iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let size: f64 = grads[range.clone()].iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let mut best = f64::MAX;
        // Differences suffer from rounding when small and from curvature or kinks when large.
        for h in [3e-2f32, 1e-2, 3e-3, 1e-3] {
            let mut at = |sign: f32| -> f64 {
                let mut moved = params.clone();
                for (m, d) in moved[range.clone()].iter_mut().zip(&direction) {
                    *m += sign * h * d;
                }
                s.set_params(&moved).unwrap();
                f64::from(s.backward().unwrap().loss)
            };
            let difference = (at(1.0) - at(-1.0)) / (2.0 * f64::from(h));
            best = best.min((difference - slope).abs() / (size + 1e-2));
        }
        assert!(best < 2e-2, "{name} {}: off by {best:.1e} of {size:.1e}", p.name);
    }
}

const MSE: Loss = Loss::MeanSquaredError;

fn chain(name: &str, input: Shape, f: impl FnOnce(&mut Builder)) {
    let mut b = Builder::new(name, input);
    // Something to train in front, so that the layer's input gradient is checked too.
    b.conv(Conv::new(input.c, 1).init(WeightInit::Glorot));
    f(&mut b);
    check(name, &b.build().unwrap(), MSE);
}

#[test]
fn convolutions() {
    let s = Shape::new(7, 6, 4);
    chain("same", s, |b| {
        b.conv(Conv::new(5, 3));
    });
    chain("valid stride 2", s, |b| {
        b.conv(Conv::new(5, 3).valid().stride(2));
    });
    chain("same stride 2", s, |b| {
        b.conv(Conv::new(17, [2, 3]).stride(2));
    });
    chain("stride beyond window", s, |b| {
        b.conv(Conv::new(3, 1).stride(3));
    });
    chain("dilated", s, |b| {
        b.conv(Conv::new(3, 3).dilation(2).no_bias());
    });
    chain("groups", s, |b| {
        b.conv(Conv::new(6, 3).groups(2).pad(1));
    });
    chain("depthwise", s, |b| {
        b.conv(Conv::depthwise(3).stride(2));
    });
    chain("depthwise dilated", s, |b| {
        b.conv(Conv::depthwise([3, 2]).dilation(2));
    });
    chain("signal", Shape::new(1, 20, 3), |b| {
        b.conv(Conv::signal(4, 5).stride([1, 2]));
    });
    chain("one pixel", Shape::new(1, 1, 5), |b| {
        b.conv(Conv::new(3, 3));
    });
    chain("with relu", s, |b| {
        b.conv(Conv::new(9, 3)).relu();
    });
}

#[test]
fn pools_norms_and_activations() {
    let s = Shape::new(7, 5, 3);
    let pad = Padding::symmetric(1);
    chain("max", s, |b| {
        b.layer(MaxPool::new(3).stride(2).padding(pad));
    });
    chain("max same", s, |b| {
        b.layer(MaxPool::new(2).padding(Padding::Same));
    });
    chain("mean", s, |b| {
        b.layer(MeanPool::new(3).stride(2).padding(pad));
    });
    chain("mean counted", s, |b| {
        b.layer(MeanPool::new([2, 3]).stride(1).padding(Padding::Same).count_padding());
    });
    chain("global", s, |b| {
        b.global_mean_pool();
    });
    chain("adaptive mean, smaller and overlapping", s, |b| {
        b.layer(AdaptiveMeanPool { size: Hw { h: 3, w: 2 } });
    });
    chain("adaptive mean, larger", s, |b| {
        b.layer(AdaptiveMeanPool { size: 8.into() });
    });
    chain("adaptive mean, as it is", s, |b| {
        b.layer(AdaptiveMeanPool { size: Hw { h: 7, w: 5 } }).conv(Conv::new(2, 1));
    });
    chain("layer norm", Shape::new(4, 3, 19), |b| {
        b.layer(LayerNorm { epsilon: 1e-2 }).conv(Conv::new(2, 1));
    });
    chain("scale", s, |b| {
        b.layer(Scale { first: 0.3 }).conv(Conv::new(2, 1));
    });
    chain("slice", s, |b| {
        b.layer(Slice { start: 1, channels: 1 });
    });
    chain("slice of all", s, |b| {
        b.layer(Slice { start: 0, channels: 3 });
    });
    chain("channel shuffle", Shape::new(3, 3, 6), |b| {
        b.layer(ChannelShuffle { groups: 2 }).layer(Relu::default()).conv(Conv::new(2, 1));
    });
    chain("rescale", s, |b| {
        b.layer(Rescale { factor: -0.7, offset: 0.2 }).layer(Tanh {});
    });
    chain("batch norm", s, |b| {
        b.batch_norm();
    });
    chain("batch norm relu6", s, |b| {
        b.batch_norm().relu6();
    });
    chain("lrn", s, |b| {
        b.layer(LocalResponseNorm { size: 4, alpha: 0.5, beta: 0.75, k: 1.0 });
    });
    chain("relu", s, |b| {
        b.relu().conv(Conv::new(2, 1));
    });
    chain("leaky", s, |b| {
        b.layer(LeakyRelu { slope: 0.2 });
    });
    chain("sigmoid", s, |b| {
        b.layer(Sigmoid {});
    });
    chain("tanh", s, |b| {
        b.layer(Tanh {});
    });
    chain("hard sigmoid", s, |b| {
        b.layer(HardSigmoid {});
    });
    chain("hard swish", s, |b| {
        b.layer(HardSwish {});
    });
    chain("silu", s, |b| {
        b.layer(Silu {});
    });
    chain("gelu", s, |b| {
        b.layer(Gelu {});
    });
    chain("stochastic depth", s, |b| {
        b.layer(StochasticDepth { rate: 0.4 }).conv(Conv::new(2, 3));
    });
    chain("softmax", s, |b| {
        b.layer(Softmax {});
    });
    chain("dropout", s, |b| {
        b.dropout(0.4).conv(Conv::new(2, 3));
    });
    chain("dense", s, |b| {
        b.flatten().dense(7).relu().dense(3);
    });
}

#[test]
fn graphs_with_branches_and_joins() {
    let s = Shape::new(5, 4, 3);
    chain("added to itself", s, |b| {
        let x = b.here();
        b.add(&[x, x]).conv(Conv::new(2, 3));
    });
    chain("beside itself", s, |b| {
        let x = b.here();
        b.concat(&[x, x]).conv(Conv::new(2, 3));
    });
    chain("three readers", s, |b| {
        let x = b.here();
        let p = b.conv(Conv::new(3, 3)).relu().here();
        let q = b.at(x).batch_norm().here();
        b.add(&[p, q, x]).relu();
    });
    chain("residual block", s, |b| {
        let x = b.conv(Conv::new(6, 3).no_bias()).batch_norm().relu().here();
        let y = b.conv(Conv::new(6, 3).no_bias()).batch_norm().relu();
        let y = y.conv(Conv::new(6, 3).no_bias()).batch_norm().here();
        b.add(&[y, x]).relu();
        let x = b.here();
        let short = b.conv(Conv::new(8, 1).stride(2).no_bias()).batch_norm().here();
        let y = b.at(x).conv(Conv::new(8, 3).stride(2)).batch_norm().here();
        b.add(&[y, short]).relu().global_mean_pool().dense(3);
    });
    chain("sum of sums", s, |b| {
        let x = b.here();
        let a = b.conv(Conv::new(3, 3)).here();
        let c = b.add(&[a, x]).here();
        let d = b.layer(Tanh {}).here();
        b.add(&[c, d, a]);
        let e = b.here();
        b.concat(&[e, c, x]).max_pool(2, 1);
    });
    chain("norm with two readers", s, |b| {
        let x = b.here();
        let n = b.batch_norm().here();
        let r = b.relu().here();
        b.add(&[n, r, x]);
    });
    chain("shortcut without parameters", s, |b| {
        let x = b.here();
        let y = b.conv(Conv::new(5, 3).stride(2).pad(1)).batch_norm().here();
        let short = b.join(Shortcut { stride: 2.into(), channels: 5 }, &[x]).here();
        b.add(&[y, short]).relu();
        b.at(x).layer(Shortcut { stride: 2.into(), channels: 5 });
        let again = b.here();
        b.concat(&[again, short]);
    });
    chain("feature pyramid", s, |b| {
        let fine = b.conv(Conv::new(4, 3)).here();
        let coarse = b.conv(Conv::new(4, 3).stride(2)).relu().here();
        let up = b.join(Upsample::new(2), &[coarse, fine]).here();
        b.add(&[fine, up]).conv(Conv::new(2, 1)).layer(Upsample::new([1, 3]));
    });
    chain("squeeze and excitation", s, |b| {
        let x = b.conv(Conv::new(4, 3)).here();
        b.global_mean_pool().conv(Conv::new(2, 1)).layer(Silu {});
        let gate = b.conv(Conv::new(4, 1)).layer(Sigmoid {}).here();
        b.join(Gate {}, &[x, gate]).layer(HardSwish {}).conv(Conv::new(2, 1));
    });
    chain("channels that go two ways and take turns", Shape::new(4, 5, 6), |b| {
        let x = b.here();
        let kept = b.layer(Slice { start: 0, channels: 3 }).here();
        let seen = b.at(x).layer(Slice { start: 3, channels: 3 }).here();
        let seen = b.at(seen).conv(Conv::new(3, 3)).batch_norm().relu().here();
        b.concat(&[kept, seen]).layer(ChannelShuffle { groups: 2 }).conv(Conv::new(2, 1));
    });
    chain("layer norm and scale beside their input", s, |b| {
        let x = b.here();
        b.layer(LayerNorm::default()).conv(Conv::new(6, 1)).layer(Gelu {}).conv(Conv::new(3, 1));
        let y = b.layer(Scale { first: 0.5 }).here();
        b.add(&[y, x]).layer(LayerNorm::default()).conv(Conv::new(2, 1));
    });
    chain("inverted residual", s, |b| {
        let x = b.here();
        b.conv(Conv::new(18, 1).no_bias()).batch_norm().relu6();
        b.conv(Conv::depthwise(3).no_bias()).batch_norm().relu6();
        let y = b.conv(Conv::new(3, 1).no_bias()).batch_norm().here();
        b.add(&[x, y]).conv(Conv::new(4, 1));
    });
}

#[test]
fn layers_of_other_tools_graphs() {
    let s = Shape::new(5, 4, 6);
    for axis in [Axis::H, Axis::W, Axis::C] {
        chain("take", s, |b| {
            b.layer(Take { axis, start: -1, step: 2, size: 4 });
        });
        chain("mirrored", s, |b| {
            b.layer(Take { axis, start: 2, step: -1, size: 3 });
        });
        chain("spread", s, |b| {
            b.layer(Spread { axis, step: 3 });
        });
        chain("mix", s, |b| {
            let size = match axis {
                Axis::H => 5,
                Axis::W => 4,
                Axis::C => 6,
            };
            let table = vec![vec![(0, 0.25), (3, 0.75)], vec![], vec![(2, -1.5)]];
            b.layer(Mix { axis, size, table });
        });
        for by in [By::Sum, By::Mean, By::Max, By::Min] {
            chain("reduce", s, |b| {
                b.layer(Reduce { axis, by });
            });
        }
    }
    use FunctionKind as K;
    for of in [
        K::Abs,
        K::Exp,
        K::Reciprocal,
        K::Power,
        K::Elu,
        K::Softplus,
        K::Softsign,
        K::Mish,
        K::Swish,
        K::Erf,
        K::GeluTanh,
        K::HardSigmoid,
        K::Sin,
    ] {
        chain("function", s, |b| {
            // Away from poles and from what is not defined below zero.
            b.layer(Rescale { factor: 0.3, offset: 1.5 });
            b.layer(Function { of, a: 0.7, b: 0.9 });
        });
    }
    chain("rearranged", s, |b| {
        let shape = Shape::new(2, 10, 6);
        b.layer(Rearrange { sizes: vec![5, 4, 2, 3], order: vec![2, 1, 3, 0], shape });
        b.conv(Conv::new(2, 3));
    });
    chain("reshaped", s, |b| {
        b.layer(Rearrange::reshape(Shape::new(1, 20, 6))).conv(Conv::new(2, [1, 3]));
    });
    use CombineKind as C;
    for by in [C::Add, C::Subtract, C::Multiply, C::Divide, C::Max, C::Min, C::Power] {
        chain("combined", s, |b| {
            let x = b.layer(Rescale { factor: 0.3, offset: 2.0 }).here();
            let row = b.layer(Reduce { axis: Axis::H, by: By::Mean }).here();
            let own = b
                .named("own", Constant { shape: Shape::new(5, 1, 1) }, &[])
                .layer(Rescale { factor: 1.0, offset: 1.5 })
                .here();
            let y = b.join(Combine { by }, &[x, row]).here();
            b.join(Combine { by }, &[own, y]);
            let z = b.here();
            b.join(Combine { by: C::Multiply }, &[z, z]);
        });
    }
}

#[test]
fn losses() {
    let mut b = Builder::new("losses", Shape::new(4, 4, 2));
    b.conv(Conv::new(5, Hw { h: 3, w: 2 }));
    let net = b.build().unwrap();
    check("softmax", &net, Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 });
    check("smoothed", &net, Loss::SoftmaxCrossEntropy { label_smoothing: 0.2 });
    for label_smoothing in [0.0, 0.2] {
        let mut s = session(&net, Loss::SoftmaxCrossEntropy { label_smoothing }, 2);
        s.set_class_weights(&[0.2, 3.0, 0.0, 1.0, 0.7]).unwrap();
        check_session("weighted", &net, s);
    }
    check("sigmoid", &net, Loss::SigmoidCrossEntropy { positive_weight: 3.0 });
    check("squares", &net, MSE);
    for boxes in [BoxLoss::Giou, BoxLoss::Diou] {
        let mut s = session(&net, Loss::Centres { box_weight: 2.0, boxes }, 2);
        // One class: centres, hills, places that do not count; boxes at every third place.
        for (i, t) in s.targets_mut().chunks_exact_mut(5).enumerate() {
            match i % 4 {
                0 => t[0] = 1.0,
                1 => t[0] = -1.0,
                _ => {}
            }
            if i % 3 > 0 {
                t[1] = f32::NAN;
            }
        }
        check_session(&format!("{boxes:?}"), &net, s);
    }
}

#[test]
fn heads_add_their_losses() {
    let mut b = Builder::new("heads", Shape::new(5, 4, 3));
    let x = b.conv(Conv::new(4, 3)).relu().here();
    b.global_mean_pool().dense(6).relu().dense(3).head(0.3);
    let y = b.at(x).conv(Conv::new(4, 3)).batch_norm().relu().here();
    b.dense(3).head(2.0);
    b.at(y).global_mean_pool().dense(3);
    let net = b.build().unwrap();
    for loss in [MSE, Loss::SoftmaxCrossEntropy { label_smoothing: 0.1 }] {
        check("heads", &net, loss);
    }
    // The output's own loss is less, and prediction has no head.
    let (mut all, mut one) =
        (session(&net, MSE, 1), session(&net.without_heads().unwrap(), MSE, 1));
    assert!(all.backward().unwrap().loss > one.backward().unwrap().loss);
    assert_eq!(
        net.without_heads().unwrap().parameters(),
        net.parameters() - (4 * 6 + 6 + 6 * 3 + 3) - (80 * 3 + 3)
    );
    assert_eq!(net.macs(), net.without_heads().unwrap().macs());
    assert!(net.without_heads().unwrap().heads().is_empty());
}

#[test]
fn a_head_that_hangs_on_frozen_layers_alone_changes_nothing_else() {
    let mut b = Builder::new("heads", Shape::new(5, 4, 3));
    let x = b.conv(Conv::new(4, 3)).relu().here();
    b.dense(3).head(0.5);
    b.at(x).global_mean_pool().dense(3);
    let net = b.build().unwrap();
    let rates: Vec<f32> =
        net.params().iter().map(|p| f32::from(u8::from(p.name.starts_with("dense2")))).collect();
    let mut s = tuned(&net, MSE, 1, Tuning { rates, ..Tuning::default() });
    let before = s.params().to_vec();
    s.step(0.1).unwrap();
    for p in net.params() {
        let same = before[p.range.clone()] == s.params()[p.range.clone()];
        assert_eq!(same, !p.name.starts_with("dense2"), "{}", p.name);
    }
}

/// conv, norm, relu, twice with a sum, and a dense layer.
fn residual() -> Network {
    let mut b = Builder::new("residual", Shape::new(5, 6, 3));
    b.conv(Conv::new(4, 3)).batch_norm().relu();
    let from = b.here();
    b.conv(Conv::new(4, 3).no_bias()).batch_norm().relu().conv(Conv::new(4, 3)).batch_norm();
    let end = b.here();
    b.add(&[end, from]).relu().global_mean_pool().dense(3);
    b.build().unwrap()
}

#[test]
fn norms_that_keep_their_statistics_pass_gradients_as_fixed_scales() {
    let net = residual();
    let tuning = Tuning { freeze_norms: true, ..Tuning::default() };
    let mut s = tuned(&net, MSE, 2, tuning);
    let state: Vec<f32> = numbers(s.state().len(), 9).iter().map(|v| 1.0 + 0.5 * v).collect();
    s.set_state(&state).unwrap();
    s.step(0.1).unwrap();
    assert_eq!(s.state(), state);
    check_session("kept statistics", &net, s);
}

#[test]
fn frozen_tensors_stay_and_the_others_move_as_without() {
    let net = residual();
    let params = net.params();
    let frozen = |name: &str| name.starts_with("conv1") || name.starts_with("batch-norm1");
    let rates = params.iter().map(|p| match &p.name[..] {
        n if frozen(n) => 0.0,
        n if n.starts_with("dense") => 2.0,
        _ => 1.0,
    });
    let mut part = tuned(&net, MSE, 2, Tuning { rates: rates.collect(), freeze_norms: true });
    let mut full = tuned(&net, MSE, 2, Tuning { freeze_norms: true, ..Tuning::default() });
    let first = part.params().to_vec();
    part.step(0.01).unwrap();
    full.step(0.01).unwrap();
    for p in params {
        let (was, now, all) =
            (&first[p.range.clone()], &part.params()[p.range.clone()], &full.params()[p.range]);
        match frozen(&p.name) {
            true => assert_eq!(was, now, "{}", p.name),
            false if p.name.starts_with("dense") => {
                let twice = was.iter().zip(all).map(|(w, a)| w + 2.0 * (a - w));
                assert!(now.iter().zip(twice).all(|(n, t)| (n - t).abs() < 1e-6), "{}", p.name);
                assert_ne!(was, now);
            }
            false => assert_eq!(now, all, "{}", p.name),
        }
    }
    let wrong = Tuning { rates: vec![1.0], ..Tuning::default() };
    let options = PlanOptions { tuning: wrong, ..PlanOptions::predict(1, 1) };
    assert!(Plan::compile(&net, &options).unwrap_err().to_string().contains("1 rates for"));
}
