//! What is exported gives the engine's numbers: in the plain interpreter, and as a network again.

use super::*;
use crate::onnx::{Kind, Model, Tensor};
use convoke_data::{Filter, Preprocess};
use convoke_engine::layers::*;
use convoke_engine::{Builder, Hw, Network, Padding, Plan, PlanOptions, Session, Shape};
use std::collections::BTreeSet;

/// Numbers from −1 to 1, the same for the same seed.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2).wrapping_add(1);
    let mut draw = || {
        s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| draw()).collect()
}

/// A model with weights of no pattern; variances are positive.
fn model(network: Network) -> ModelFile {
    let params = numbers(network.parameters(), 1);
    let state = network.state().iter().map(|p| p.range.end).max().unwrap_or(0);
    let mut state: Vec<f32> = numbers(state, 2).iter().map(|v| 0.3 * v).collect();
    for p in network.state() {
        if p.name.ends_with("running_var") {
            state[p.range].iter_mut().for_each(|v| *v = 1.0 + v.abs());
        }
    }
    let s = network.input_shape();
    let classes = (0..network.output_shape().c).map(|i| format!("class {i}")).collect();
    let preprocess = Preprocess::plain(s.h, s.w, if s.c == 1 { 1 } else { 3 });
    let (task, facts, extra) = ("classify".into(), Default::default(), Default::default());
    ModelFile { network, classes, preprocess, task, params, state, facts, extra }
}

const N: usize = 3;

fn predicted(network: &Network, params: &[f32], state: &[f32], x: &[f32]) -> Vec<f32> {
    let mut s = Session::new(Plan::compile(network, &PlanOptions::predict(N, 2)).unwrap()).unwrap();
    s.set_params(params).unwrap();
    s.set_state(state).unwrap();
    s.input_mut().copy_from_slice(x);
    s.predict(N).unwrap().to_vec()
}

/// `[n, h, w, c] -> [n, c, h, w]`
fn nchw(x: &[f32], s: Shape) -> Vec<f32> {
    let plane = s.pixels();
    let one =
        |x: &[f32]| -> Vec<f32> { (0..s.len()).map(|i| x[i % plane * s.c + i / plane]).collect() };
    x.chunks_exact(s.len()).flat_map(one).collect()
}

fn apart(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let most = want.iter().fold(1e-6, |m: f32, v| m.max(v.abs()));
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / most
}

/// Exports with several options and compares every way of running it.
fn same(what: &str, model: &ModelFile) {
    let (s, out) = (model.network.input_shape(), model.network.output_shape());
    let x = numbers(N * s.len(), 3);
    let want = nchw(&predicted(&model.network, &model.params, &model.state, &x), out);
    let given = Tensor::floats(&[N, s.c, s.h, s.w], nchw(&x, s));
    for (opset, fold) in [(17, false), (17, true), (*OPSETS.end(), false)] {
        let told = format!("{what}, opset {opset}, fold {fold}");
        let bytes = to_bytes(model, &ExportOptions { opset, fold, preprocess: false }).unwrap();
        let read = Model::from_bytes(&bytes).unwrap();
        let got = read.run(std::slice::from_ref(&given)).unwrap_or_else(|e| panic!("{told}: {e}"));
        let off = apart(got[0].f32s().unwrap(), &want);
        assert!(off < 2e-5, "{told}: {off} apart in the interpreter");
        let back = read.to_network(None).unwrap_or_else(|e| panic!("{told}: {e}"));
        let y = predicted(&back.network, &back.params, &back.state, &back.input(&given).unwrap());
        let y = back.outputs(&y, N).unwrap();
        let off = apart(y[0].f32s().unwrap(), &want);
        assert!(off < 2e-5, "{told}: {off} apart as a network");
    }
}

fn chain(what: &str, input: Shape, f: impl FnOnce(&mut Builder)) -> Vec<&'static str> {
    let mut b = Builder::new(what, input);
    f(&mut b);
    let model = model(b.build().unwrap());
    same(what, &model);
    model.network.nodes().iter().filter_map(|n| Some(n.layer.as_ref()?.kind())).collect()
}

#[test]
fn every_layer_gives_the_engines_numbers() {
    let s = Shape::new(7, 6, 4);
    let mut seen = BTreeSet::new();
    let mut check = |what: &str, input: Shape, f: &dyn Fn(&mut Builder)| {
        seen.extend(chain(what, input, |b| f(b)));
    };
    check("padding of all kinds", s, &|b| {
        b.conv(Conv::new(5, [3, 2]).stride(2)).conv(Conv::new(6, 3).pad(1).dilation(2));
        let odd = Padding::Explicit { top: 1, bottom: 0, left: 0, right: 2 };
        b.conv(Conv::new(4, 2).padding(odd).no_bias()).conv(Conv::new(3, 1).valid());
    });
    check("groups and one filter a channel", s, &|b| {
        b.conv(Conv::new(6, 3).groups(2)).conv(Conv::depthwise(3).stride(2)).flatten().dense(3);
    });
    check("norms that fold and norms that do not", s, &|b| {
        let x = b.conv(Conv::new(4, 3).no_bias()).batch_norm().relu().here();
        let y = b.conv(Conv::new(4, 3)).here();
        let z = b.batch_norm().here();
        b.add(&[x, y, z]).batch_norm().conv(Conv::depthwise(3)).batch_norm();
        b.global_mean_pool().dense(5).batch_norm().relu6().dense(2);
    });
    check("pools", Shape::new(11, 9, 3), &|b| {
        let x = b.here();
        let p = b.layer(MaxPool::new(3).stride(2).padding(Padding::Same)).here();
        let q = b.at(x).layer(MeanPool::new(3).stride(2).padding(Padding::symmetric(1))).here();
        let counted = MeanPool::new(3).stride(2).padding(Padding::symmetric(1)).count_padding();
        let r = b.at(x).layer(counted).here();
        b.concat(&[p, q, r]).layer(MaxPool::new(2).padding(Padding::Ceil));
        b.layer(AdaptiveMeanPool { size: Hw { h: 2, w: 2 } }).layer(GlobalMeanPool {});
    });
    check("means of given size", Shape::new(6, 4, 3), &|b| {
        b.layer(AdaptiveMeanPool { size: Hw { h: 3, w: 2 } }).flatten().dense(4);
    });
    check("pixels repeated, to the size of another map too", s, &|b| {
        let x = b.here();
        let small = b.layer(MaxPool::new(2).stride(2).padding(Padding::Ceil)).here();
        let back = b.join(Upsample::new(2), &[small, x]).here();
        b.add(&[back, x]).layer(Upsample::new([1, 3]));
    });
    check("a dense layer on a map", s, &|b| {
        b.conv(Conv::new(3, 3)).relu().dense(6).layer(Softmax {}).dropout(0.5);
    });
    check("a flattened map as it is", s, &|b| {
        b.flatten();
    });
    check("a norm on a flattened map", Shape::new(2, 3, 2), &|b| {
        b.flatten().batch_norm().layer(Scale { first: 0.5 }).dense(3);
    });
    check("response norms", s, &|b| {
        b.layer(LocalResponseNorm { size: 3, alpha: 0.5, beta: 0.75, k: 1.0 });
        b.layer(LocalResponseNorm { size: 4, alpha: 0.5, beta: 0.6, k: 2.0 });
    });
    check("activations", s, &|b| {
        let x = b.here();
        let all: [Layer; 9] = [
            LeakyRelu { slope: 0.2 }.into(),
            Sigmoid {}.into(),
            Tanh {}.into(),
            HardSigmoid {}.into(),
            HardSwish {}.into(),
            Silu {}.into(),
            Gelu {}.into(),
            Rescale { factor: -0.7, offset: 0.2 }.into(),
            Softmax {}.into(),
        ];
        let all: Vec<_> = all.into_iter().map(|l| b.at(x).layer(l).here()).collect();
        b.concat(&all);
    });
    check("a gate", s, &|b| {
        let x = b.here();
        let gate = b.global_mean_pool().dense(4).layer(Sigmoid {}).here();
        b.join(Gate {}, &[x, gate]).layer(StochasticDepth { rate: 0.1 }).conv(Conv::new(2, 1));
    });
    check("shortcuts without weights", s, &|b| {
        let x = b.layer(Shortcut { stride: 1.into(), channels: 7 }).here();
        b.layer(Shortcut { stride: 2.into(), channels: 7 });
        b.at(x).layer(Shortcut { stride: Hw { h: 3, w: 2 }, channels: 10 });
    });
    check("layer norm and scale", s, &|b| {
        let x = b.here();
        let y = b.layer(LayerNorm { epsilon: 1e-3 }).layer(Scale { first: 0.5 }).here();
        b.add(&[x, y]).global_mean_pool().layer(LayerNorm::default()).dense(3);
    });
    check("slices and shuffles", Shape::new(4, 5, 6), &|b| {
        let x = b.here();
        let kept = b.layer(Slice { start: 0, channels: 3 }).here();
        let seen = b.at(x).layer(Slice { start: 3, channels: 3 }).here();
        b.concat(&[seen, kept]).layer(ChannelShuffle { groups: 2 });
    });
    check("places along an axis", Shape::new(5, 4, 3), &|b| {
        b.layer(Take { axis: Axis::H, start: -2, step: 1, size: 8 });
        b.layer(Take { axis: Axis::W, start: 3, step: -1, size: 5 });
        b.layer(Take { axis: Axis::C, start: 1, step: 2, size: 1 });
        b.layer(Spread { axis: Axis::H, step: 2 }).layer(Spread { axis: Axis::W, step: 3 });
    });
    check("mixes and reductions", Shape::new(3, 4, 2), &|b| {
        let table =
            |n: usize| vec![vec![(0, 0.5), (n - 1, 0.25)], vec![(n - 1, 1.0)], vec![(0, -1.0)]];
        for (axis, n) in [(Axis::H, 3), (Axis::W, 4), (Axis::C, 2)] {
            b.layer(Mix { axis, size: n, table: table(n) });
        }
        let x = b.here();
        let each = [By::Sum, By::Mean, By::Max, By::Min]
            .map(|by| b.at(x).layer(Reduce { axis: Axis::W, by }).here());
        b.concat(&each).layer(Reduce { axis: Axis::C, by: By::Mean });
    });
    check("two maps and constants", Shape::new(3, 4, 2), &|b| {
        let x = b.here();
        let one = b.join(Constant { shape: Shape::new(1, 4, 2) }, &[]).here();
        let mut y = x;
        for by in [CombineKind::Add, CombineKind::Subtract, CombineKind::Multiply, CombineKind::Max]
        {
            y = b.join(Combine { by }, &[y, one]).here();
        }
        let y = b.join(Combine { by: CombineKind::Min }, &[one, y]).here();
        let whole = b.join(Constant { shape: Shape::new(3, 4, 2) }, &[]).here();
        b.concat(&[y, whole]);
    });
    check("boxes in another order", Shape::new(4, 6, 4), &|b| {
        let blocks = vec![2, 2, 3, 2, 4];
        let shape = Shape::new(2, 3, 16);
        b.layer(Rearrange { sizes: blocks, order: vec![0, 2, 1, 3, 4], shape });
        b.layer(Rearrange {
            sizes: vec![2, 3, 16],
            order: vec![2, 0, 1],
            shape: Shape::vector(96),
        });
        b.dense(5);
    });
    let missing: Vec<_> =
        Layer::KINDS.iter().filter(|k| !seen.contains(*k) && **k != "function").collect();
    assert!(missing.is_empty(), "not tried: {missing:?}");
}

#[test]
fn every_function_gives_the_engines_numbers() {
    use FunctionKind as K;
    for of in
        [K::Abs, K::Exp, K::Softplus, K::Softsign, K::Mish, K::Erf, K::GeluTanh, K::Sin, K::Cos]
    {
        chain(&format!("{of:?}"), Shape::new(2, 3, 2), |b| {
            b.layer(Function::new(of));
        });
    }
    for of in [K::Log, K::Sqrt, K::Reciprocal] {
        chain(&format!("{of:?}"), Shape::new(2, 3, 2), |b| {
            b.layer(Rescale { factor: 0.4, offset: 1.0 }).layer(Function::new(of));
        });
    }
    for (of, a, b) in [
        (K::Power, 2.0, 0.0),
        (K::Elu, 0.7, 1.2),
        (K::Swish, 1.5, 0.0),
        (K::HardSigmoid, 0.3, 0.4),
        (K::Clip, -0.3, 0.4),
        (K::Threshold, 0.2, 0.0),
        (K::Shrink, 0.3, 0.1),
    ] {
        chain(&format!("{of:?}"), Shape::new(2, 3, 2), |c| {
            c.layer(Function { of, a, b });
        });
    }
    // Rounded to tenths, of which none lies between two.
    chain("round", Shape::new(2, 3, 2), |b| {
        b.layer(Rescale { factor: 10.0, offset: 0.0 });
        b.layer(Function { of: K::Round, a: -5.0, b: 7.0 });
    });
}

fn small() -> ModelFile {
    let mut b = Builder::new("small", Shape::new(9, 8, 3));
    b.conv(Conv::new(4, 3).stride(2).no_bias()).batch_norm().relu().flatten().dense(3);
    model(b.build().unwrap())
}

fn proto(model: &ModelFile, options: ExportOptions) -> GraphProto {
    let bytes = to_bytes(model, &options).unwrap();
    ModelProto::decode(&bytes[..]).unwrap().graph.unwrap()
}

#[test]
fn the_file_says_what_it_is() {
    let m = small();
    let bytes = to_bytes(&m, &ExportOptions::default()).unwrap();
    let file = ModelProto::decode(&bytes[..]).unwrap();
    assert_eq!((file.ir_version, file.opset_import[0].version), (8, 17));
    let facts = Model::from_bytes(&bytes).unwrap().metadata().clone();
    assert_eq!(facts["labels"], r#"["class 0","class 1","class 2"]"#);
    assert_eq!(serde_json::from_str::<Preprocess>(&facts["preprocess"]).unwrap(), m.preprocess);
    let graph = file.graph.unwrap();
    let ops: Vec<&str> = graph.node.iter().map(|n| &n.op_type[..]).collect();
    assert_eq!(ops, ["Conv", "BatchNormalization", "Relu", "Flatten", "Gemm"]);
    let shapes: Vec<(&str, &[i64])> =
        graph.initializer.iter().map(|t| (&t.name[..], &t.dims[..])).collect();
    assert_eq!(shapes[0], ("conv1.weight", &[4, 3, 3, 3][..]));
    assert_eq!(shapes[5], ("dense1.weight", &[3, 80][..]));
    // 9×8 at stride 2 with padding `same`: one row above and below, one column to the right.
    let pads = graph.node[0].attribute.iter().find(|a| a.name == "pads").unwrap();
    assert_eq!(pads.ints, [1, 0, 1, 1]);
    assert_eq!((&*graph.input[0].name, &*graph.output[0].name), ("input", "logits"));
    assert_eq!(graph.node[4].output, ["logits"]);
}

#[test]
fn every_name_is_given_once_and_before_it_is_read() {
    let mut b = Builder::new("names", Shape::new(4, 4, 3));
    // Layers named as the graph names its own values.
    b.then("logits", Conv::new(4, 1)).then("image", Relu::default()).then("logits/flat", Tanh {});
    b.then("conv.weight", Sigmoid {})
        .then("conv", Conv::new(2, 1))
        .flatten()
        .then("output", Dense::new(2));
    let m = model(b.build().unwrap());
    same("names", &m);
    for preprocess in [false, true] {
        let graph = proto(&m, ExportOptions { preprocess, ..Default::default() });
        let mut known: BTreeSet<&str> = graph.initializer.iter().map(|t| &t.name[..]).collect();
        assert_eq!(known.len(), graph.initializer.len());
        assert!(known.insert(&graph.input[0].name));
        for node in &graph.node {
            for input in &node.input {
                assert!(known.contains(&input[..]), "{input} is read before it is made");
            }
            assert!(known.insert(&node.output[0]), "{} is made twice", node.output[0]);
        }
        assert!(known.contains(&graph.output[0].name[..]));
    }
}

#[test]
fn folded_norms_are_gone() {
    let graph = proto(&small(), ExportOptions { fold: true, ..Default::default() });
    let ops: Vec<&str> = graph.node.iter().map(|n| &n.op_type[..]).collect();
    assert_eq!(ops, ["Conv", "Relu", "Flatten", "Gemm"]);
    assert_eq!(graph.node[0].input.len(), 3);
}

#[test]
fn pictures_are_prepared_in_the_graph_as_elsewhere() {
    let (h, w) = (23, 31);
    let levels: Vec<u8> = numbers(h * w * 3, 5).iter().map(|v| (127.5 + 127.0 * v) as u8).collect();
    let picture = convoke_data::Picture { width: w, height: h, channels: 3, data: levels.clone() };
    let mut b = Builder::new("copy", Shape::new(9, 8, 3));
    b.layer(Rescale { factor: 1.0, offset: 0.0 });
    let mut m = model(b.build().unwrap());
    for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
        for (short_side, crop, bgr) in
            [(12, 1.0, false), (40, 1.0, true), (0, 0.875, false), (0, 0.0, false)]
        {
            let (mean, std) = (vec![0.1, 0.2, 0.3], vec![0.5, 0.25, 1.0]);
            m.preprocess = Preprocess {
                height: 9,
                width: 8,
                channels: 3,
                crop,
                short_side,
                bgr,
                filter,
                mean,
                std,
                signal: None,
            };
            let mut want = vec![0.0; 9 * 8 * 3];
            m.preprocess.apply(&picture, &mut want).unwrap();
            let options = ExportOptions { preprocess: true, ..Default::default() };
            let read = Model::from_bytes(&to_bytes(&m, &options).unwrap()).unwrap();
            let image = levels.iter().map(|&v| v.into()).collect();
            let image = Tensor::ints(Kind::U8, &[1, h, w, 3], image);
            let got = read.run(&[image]).unwrap();
            let want = nchw(&want, Shape::new(9, 8, 3));
            // One grey level, where a tie went the other way.
            let level = 1.0 / 255.0 / 0.25;
            let off = got[0]
                .f32s()
                .unwrap()
                .iter()
                .zip(&want)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(off <= level * 1.01, "{:?}: {off}", m.preprocess);
        }
    }
}

#[test]
fn what_cannot_be_written_is_told() {
    let said = |model: &ModelFile, options: ExportOptions| to_bytes(model, &options).unwrap_err();
    let e = said(&small(), ExportOptions { opset: 9, ..Default::default() });
    assert!(e.contains("opset 9") && e.contains("13"), "{e}");
    let mut broken = small();
    broken.params[7] = f32::NAN;
    assert!(said(&broken, ExportOptions::default()).contains("conv1.weight"));
    broken.params.pop();
    assert!(said(&broken, ExportOptions::default()).contains("weights"));
    let mut b = Builder::new("normed", Shape::new(2, 2, 3));
    b.layer(LayerNorm::default());
    let e = said(&model(b.build().unwrap()), ExportOptions { opset: 15, ..Default::default() });
    assert!(e.contains("opset 17"), "{e}");
}
