//! Graphs of other tools, made networks: what they compute, and that they can be trained on.

mod common;

use common::{apart, npy, numbers, shared, tensors};
use convoke_engine::{Loss, Optimizer, Plan, PlanOptions, Session};
use convoke_formats::onnx::{Imported, Model, Tensor};
use std::path::Path;

/// The outputs of a graph's network for one input.
fn through(net: &Imported, x: &Tensor) -> Vec<Tensor> {
    let n = x.shape[0];
    let options = PlanOptions::predict(n, 2);
    let mut s = Session::new(Plan::compile(&net.network, &options).unwrap()).unwrap();
    s.set_params(&net.params).unwrap();
    s.set_state(&net.state).unwrap();
    s.input_mut().copy_from_slice(&net.input(x).unwrap());
    let y = s.predict(n).unwrap().to_vec();
    net.outputs(&y, n).unwrap()
}

/// Largest difference of all outputs in units of the largest number.
fn off(got: &[Tensor], want: &[Tensor]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(g, w)| apart(g.f32s().unwrap(), w.f32s().unwrap()))
        .fold(0.0, f32::max)
}

#[test]
fn pretrained_graphs_give_their_reference_outputs() {
    for (file, input, output) in [
        ("resnet20-cifar10", "resnet-cifar10.input8", "resnet20-cifar10.logits8"),
        ("resnet56-cifar10", "resnet-cifar10.input8", "resnet56-cifar10.logits8"),
        ("squeezenet-v1.0-deepcompressed", "", ""),
        ("mobilenet-v1-0.25-128-dequantised", "", ""),
        ("mobilenet-v2-1.0-224-dequantised", "", ""),
    ] {
        let Some(path) = shared(&format!("pretrained/{file}.onnx")) else { return };
        let reference = |name: &str, own: &str| {
            let name = if name.is_empty() { format!("{file}.cat.bmp.{own}") } else { name.into() };
            npy(&path.with_file_name("reference").join(format!("{name}.npy")))
        };
        let (x, want) = (reference(input, "input"), reference(output, "prob"));
        let net = Model::open(&path).unwrap().to_network(None).unwrap();
        let got = through(&net, &x);
        let apart = off(&got, &[want]);
        println!("{file}: {} layers, off by {apart:.1e}", net.network.nodes().len());
        assert!(apart < 2e-5, "{file}: {apart:.1e}");
    }
}

#[test]
fn a_graph_of_two_outputs_gives_both() {
    let Some(path) = shared("pretrained/version-slim-320_without_postprocessing.onnx") else {
        return;
    };
    let model = Model::open(&path).unwrap();
    let x = Tensor::floats(&[1, 3, 240, 320], numbers(3 * 240 * 320));
    let want = model.run(std::slice::from_ref(&x)).unwrap();
    let net = model.to_network(None).unwrap();
    let got = through(&net, &x);
    assert_eq!((&got[0].shape[..], &got[1].shape[..]), (&[1, 4420, 2][..], &[1, 4420, 4][..]));
    assert!(off(&got, &want) < 1e-4, "{:.1e}", off(&got, &want));
}

#[test]
fn whole_graphs_of_onnx_give_their_outputs_both_ways() {
    for name in ["bvlc_alexnet", "inception_v1", "resnet50", "squeezenet"] {
        let Some(path) = shared(&format!("onnx-light/light_{name}.onnx")) else { return };
        let model = Model::open(&path).unwrap();
        let output = path.with_file_name(format!("light_{name}_output_0.pb"));
        let want = Tensor::from_file(&std::fs::read(output).unwrap()).unwrap().1;
        // What ONNX's backend test gives these graphs: 0, 1, 2, … divided by their number.
        let shape: Vec<usize> = model.inputs()[0].shape.iter().map(|s| s.unwrap()).collect();
        let n: usize = shape.iter().product();
        let x = Tensor::floats(&shape, (0..n).map(|i| (i as f64 / n as f64) as f32).collect());
        let plain = model.run(std::slice::from_ref(&x)).unwrap();
        let net = through(&model.to_network(None).unwrap(), &x);
        let (a, b) =
            (off(&plain, std::slice::from_ref(&want)), off(&net, std::slice::from_ref(&want)));
        println!("{name}: plain {a:.1e}, network {b:.1e}");
        assert!(a < 1e-4 && b < 1e-4, "{name}: plain {a:.1e}, network {b:.1e}");
    }
}

/// Cases of one op whose graph becomes a network.
const NETWORKS: usize = 193;

#[test]
fn cases_that_become_networks_give_their_outputs() {
    let Some(folder) = shared("onnx-nodes") else { return };
    let mut cases: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    let (mut count, mut wrong) = (0, Vec::new());
    for case in cases.iter().filter(|c| c.is_dir()) {
        let set = case.join("test_data_set_0");
        let Ok(model) = Model::open(&case.join("model.onnx")) else { continue };
        let (Ok(inputs), Ok(want)) = (tensors(&set, "input"), tensors(&set, "output")) else {
            continue;
        };
        // Inputs behind the first are weights and settings: constants here.
        let Ok(model) = model.with_constants(inputs.get(1..).unwrap_or(&[])) else { continue };
        let Some(x) = inputs.first().filter(|x| x.kind.is_float() && x.rank() > 1 && !x.is_empty())
        else {
            continue;
        };
        let Ok(net) = model.to_network(None) else { continue };
        let apart = off(&through(&net, x), &want);
        count += 1;
        if apart.is_nan() || apart >= 2e-5 {
            wrong.push(format!("{}: {apart:.1e}", case.file_name().unwrap().to_string_lossy()));
        }
    }
    println!("{count} cases ran as networks");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= NETWORKS, "{count} of {NETWORKS}");
}

/// Small graphs with random weights as PyTorch exports them, and what ONNX Runtime makes of them.
#[test]
fn graphs_of_every_kind_give_what_onnx_runtime_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "onnx") {
            continue;
        }
        count += 1;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let model = Model::open(&path).unwrap();
        let read = |part: &str| {
            let bytes = std::fs::read(path.with_extension(part)).unwrap();
            Tensor::from_file(&bytes).unwrap().1
        };
        let (x, want) = (read("input.pb"), read("output.pb"));
        let plain = model.run(std::slice::from_ref(&x)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let net = model.to_network(None).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (a, b) = (
            off(&plain, std::slice::from_ref(&want)),
            off(&through(&net, &x), std::slice::from_ref(&want)),
        );
        println!("{name}: plain {a:.1e}, network {b:.1e}");
        if !(a < 1e-5 && b < 1e-5) {
            wrong.push(format!("{name}: plain {a:.1e}, network {b:.1e}"));
        }
        // What was written and read again is the same.
        let text = net.network.to_toml();
        let again = convoke_engine::Network::from_toml(&text, &Default::default()).unwrap();
        assert_eq!(again, net.network, "{name}");
    }
    assert!(count >= 10 && wrong.is_empty(), "{count}: {}", wrong.join("\n"));
}

#[test]
fn an_imported_network_learns_and_its_norms_stay_norms() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx/residual.onnx");
    let net = Model::open(&path).unwrap().to_network(None).unwrap();
    assert!(
        net.network
            .nodes()
            .iter()
            .any(|n| n.layer.as_ref().is_some_and(|l| l.kind() == "batch-norm"))
    );
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let plan = Plan::compile(&net.network, &PlanOptions::train(8, 2, loss, sgd)).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.set_params(&net.params).unwrap();
    s.set_state(&net.state).unwrap();
    let x = numbers(s.input_mut().len());
    s.input_mut().copy_from_slice(&x);
    let classes = net.network.output_shape().c as u32;
    s.labels_mut().iter_mut().enumerate().for_each(|(i, l)| *l = i as u32 % classes);
    let first = s.step(0.02).unwrap().loss;
    let second = s.step(0.02).unwrap().loss;
    assert!(second < first, "{first} then {second}");
    let last = (0..30).map(|_| s.step(0.02).unwrap().loss).last().unwrap();
    assert!(last < 0.5 * first, "{first}, in the end {last}");
    assert_ne!(s.state(), net.state);
}

#[test]
fn what_no_network_can_be_is_named_with_its_node() {
    let Some(folder) = shared("onnx-nodes") else { return };
    for (case, word) in [("test_Conv3d", "5 axes"), ("test_matmul_3d", "one input")] {
        let model = Model::open(&folder.join(case).join("model.onnx")).unwrap();
        let e = model.to_network(None).unwrap_err();
        assert!(e.contains(word) && !e.contains('\n'), "{case}: {e}");
    }
}

#[test]
fn an_unknown_op_is_named_with_its_node() {
    let Some(path) = shared("onnx-nodes/test_relu/model.onnx") else { return };
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"Relu").unwrap();
    bytes[at..at + 4].copy_from_slice(b"Xelu");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, bytes).unwrap();
    let model = Model::open(&file).unwrap();
    let x = Tensor::floats(&[3, 4, 5], numbers(60));
    for e in [model.to_network(None).unwrap_err(), model.run(&[x]).unwrap_err()] {
        println!("{e}");
        assert!(e.contains("Xelu") && e.contains("not supported") && !e.contains('\n'), "{e}");
    }
}
