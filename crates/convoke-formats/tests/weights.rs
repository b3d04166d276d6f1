//! Weights of others give the numbers that others get from them.

use convoke_engine::{Network, Overrides, Plan, PlanOptions, Session, Shape};
use convoke_formats::Weights;
use convoke_formats::weights::{FitOptions, Fitted, adapt, fit, suggest};
use convoke_zoo::{Options, build};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A file of the test data, which is not part of the project.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {name} is not there");
        return None;
    }
    Some(path)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Numbers of a `.npy` file of 32-bit floats.
fn npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    assert!(bytes[10..10 + header].windows(5).any(|w| w == b"'<f4'"));
    floats(&bytes[10 + header..])
}

/// `[n, c, h, w] -> [n, h, w, c]`
fn nhwc(x: &[f32], s: Shape) -> Vec<f32> {
    let plane = s.h * s.w;
    let one =
        |x: &[f32]| -> Vec<f32> { (0..s.len()).map(|i| x[i % s.c * plane + i / s.c]).collect() };
    x.chunks_exact(s.len()).flat_map(one).collect()
}

fn logits(name: &str, file: &Path, x: &[f32]) -> (Vec<f32>, Fitted) {
    logits_of(&build(name, &Options::default()).unwrap(), file, x)
}

fn logits_of(net: &Network, file: &Path, x: &[f32]) -> (Vec<f32>, Fitted) {
    let fitted = fit(net, &Weights::open(file).unwrap(), FitOptions::default()).unwrap();
    let n = x.len() / net.input_shape().len();
    let mut s = Session::new(Plan::compile(net, &PlanOptions::predict(n, 2)).unwrap()).unwrap();
    s.set_params(&fitted.params).unwrap();
    s.set_state(&fitted.state).unwrap();
    s.input_mut().copy_from_slice(x);
    (s.predict(n).unwrap().to_vec(), fitted)
}

/// Largest difference in units of the largest number.
fn off(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn lenet5_of_the_tutorials_gives_torchs_logits() {
    let bytes = std::fs::read(fixture("lenet5.expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let x = floats(file.tensor("input").unwrap().data());
    let want = floats(file.tensor("logits").unwrap().data());
    let (got, _) = logits("lenet5", &fixture("lenet5.pth"), &x);
    assert!(off(&got, &want) < 1e-5, "{}", off(&got, &want));
}

#[test]
fn cifar_resnets_give_the_reference_logits() {
    for (net, file) in [
        ("resnet20", "resnet20-12fca82f.th"),
        ("resnet20", "resnet20-cifar10.safetensors"),
        ("resnet56", "resnet56-cifar10.safetensors"),
    ] {
        let Some(path) = shared(&format!("pretrained/{file}")) else { return };
        let reference = path.parent().unwrap().join("reference");
        let x = npy(&reference.join("resnet-cifar10.input8.npy"));
        let want = npy(&reference.join(format!("{net}-cifar10.logits8.npy")));
        let (got, fitted) = logits(net, &path, &nhwc(&x, Shape::new(32, 32, 3)));
        assert!(off(&got, &want) < 1e-5, "{file}: {}", off(&got, &want));
        assert!(!fitted.folded && fitted.drawn.is_empty());
    }
}

/// A network of a file, for weights whose layers are numbered in their own ways.
fn network(file: &str, classes: usize) -> Network {
    let text = std::fs::read_to_string(fixture(file)).unwrap();
    let overrides = Overrides { input: None, classes: Some(classes) };
    Network::from_toml(&text, &overrides).unwrap()
}

#[test]
fn squeezenet_and_mobilenet_give_the_reference_probabilities() {
    for (net, classes, file, bgr, folded) in [
        ("squeezenet1.0.toml", 1000, "squeezenet-v1.0-deepcompressed", true, false),
        ("mobilenet-v1-0.25.toml", 1001, "mobilenet-v1-0.25-128-dequantised", false, true),
    ] {
        let Some(path) = shared(&format!("pretrained/{file}.safetensors")) else { return };
        let reference = path.parent().unwrap().join("reference");
        let x = npy(&reference.join(format!("{file}.cat.bmp.input.npy")));
        let want = npy(&reference.join(format!("{file}.cat.bmp.prob.npy")));
        let weights = Weights::open(&path).unwrap();
        let net = adapt(network(net, classes), &weights).unwrap();
        assert_eq!(suggest(&net, &weights).classes, Some(classes));
        let (logits, fitted) = logits_of(&net, &path, &nhwc(&x, net.input_shape()));
        assert_eq!((fitted.folded, fitted.preprocess.bgr), (folded, bgr), "{file}");
        let largest = logits.iter().fold(f32::MIN, |m, v| m.max(*v));
        let exp: Vec<f32> = logits.iter().map(|v| (v - largest).exp()).collect();
        let sum: f32 = exp.iter().sum();
        let got: Vec<f32> = exp.iter().map(|e| e / sum).collect();
        assert!(off(&got, &want) < 1e-5, "{file}: {}", off(&got, &want));
        let best = |p: &[f32]| (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b]));
        assert_eq!(best(&got), best(&want));
    }
}

#[test]
fn everything_that_does_not_fit_is_told_in_one_line() {
    let weights = Weights::open(&fixture("lenet5.pth")).unwrap();
    let e = |name: &str, classes, swap_head| {
        let net = build(name, &Options { classes, ..Options::default() }).unwrap();
        let e = fit(&net, &weights, FitOptions { swap_head }).err()?.to_string();
        assert!(!e.contains('\n'), "{e}");
        Some(e)
    };
    let other = e("resnet20", None, false).unwrap();
    for words in [
        "does not fit `resnet20`",
        "missing",
        "`layer1.0.conv1.weight`",
        "left over",
        "`fc1.bias`",
        "more",
    ] {
        assert!(other.contains(words), "{other}");
    }
    let head = e("lenet5", Some(7), false).unwrap();
    assert!(head.contains("`fc3.weight` [10, 84] for [7, 84]"), "{head}");
    assert_eq!(e("lenet5", Some(7), true), None);
}

#[test]
fn a_head_for_other_classes_is_left_open() {
    let weights = Weights::open(&fixture("lenet5.pth")).unwrap();
    let net = build("lenet5", &Options { classes: Some(7), ..Options::default() }).unwrap();
    let fitted = fit(&net, &weights, FitOptions { swap_head: true }).unwrap();
    let head: Vec<_> = net.params().into_iter().filter(|p| p.name.starts_with("dense3")).collect();
    let ranges: Vec<_> = head.into_iter().map(|p| p.range).collect();
    assert_eq!(fitted.drawn, ranges);
    assert_eq!(convoke_formats::weights::suggest(&net, &weights).classes, Some(10));
}

/// Whatever is opened is read too; errors are one line of a bounded length.
fn open(name: &str, bytes: Vec<u8>) -> Result<usize, String> {
    let len = bytes.len();
    let weights = Weights::from_bytes(Path::new(name), bytes).inspect_err(|e| {
        assert!(!e.contains('\n') && e.len() < 1000, "{e}");
    })?;
    let names: Vec<String> = weights.iter().map(|(n, _)| n.to_string()).collect();
    for n in &names {
        match weights.floats(n) {
            Ok(values) => assert!(values.len() <= len),
            Err(e) => assert!(!e.contains('\n') && e.len() < 1000, "{e}"),
        }
    }
    Ok(names.len())
}

#[test]
fn damaged_copies_of_the_pretrained_files_never_panic() {
    let Some(folder) = shared("pretrained") else { return };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    let ours =
        |p: &PathBuf| p.extension().is_some_and(|e| e == "pth" || e == "th" || e == "safetensors");
    files.retain(ours);
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    let mut seed = 7u64;
    let mut draw = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let good = std::fs::read(&path).unwrap();
        assert!(open(&name, good.clone()).unwrap() > 50, "{name}");
        // Where the names and shapes lie: at the front, and the directory of an archive at the end.
        let (front, back) = (20_000.min(good.len()), good.len() - 20_000);
        for _ in 0..60 {
            let n = if draw(3) == 0 { draw(front) } else { draw(good.len()) };
            assert!(open(&name, good[..n].to_vec()).is_err(), "{name} cut to {n} bytes");
        }
        let mut refused = 0;
        for _ in 0..150 {
            let mut bytes = good.clone();
            for _ in 0..=draw(4) {
                let at = match draw(4) {
                    0 => draw(bytes.len()),
                    1 => back + draw(20_000),
                    _ => draw(front),
                };
                bytes[at] ^= 1 << draw(8);
            }
            refused += usize::from(open(&name, bytes).is_err());
        }
        assert!(refused > 20, "{name}: {refused}");
    }
}

/// A file of tensors that has nothing but names.
fn only_names(names: &[&str]) -> Weights {
    let bytes = [0u8; 4];
    let tensor = |n: &&str| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &bytes);
        (n.to_string(), view.unwrap())
    };
    let file = safetensors::serialize(names.iter().map(tensor), None).unwrap();
    Weights::from_bytes(Path::new("names"), file).unwrap()
}

#[test]
fn two_senets_differ_in_more_than_names() {
    let net = build("senet154", &Options::default()).unwrap();
    let pool = |names: &[&str]| {
        let net = adapt(net.clone(), &only_names(names)).unwrap();
        let id = net.find("maxpool").unwrap();
        match &net.node(id).layer {
            Some(convoke_engine::layers::Layer::MaxPool(pool)) => pool.padding,
            other => panic!("{other:?}"),
        }
    };
    let gluon = pool(&["conv1.0.weight", "conv1.1.weight", "bn1.weight", "fc.weight"]);
    assert_eq!(gluon, convoke_engine::Padding::symmetric(1));
    let authors = pool(&["layer0.conv1.weight", "layer0.bn1.weight", "last_linear.weight"]);
    assert_eq!(authors, convoke_engine::Padding::Ceil);
}

#[test]
fn scales_of_convnext_are_written_as_torchvision_has_them() {
    let mut b = convoke_engine::Builder::new("convnext-small", Shape::new(2, 2, 3));
    b.scope("features.1.0").then("block.3", convoke_engine::layers::Conv::new(3, 1).no_bias());
    b.then("layer_scale", convoke_engine::layers::Scale { first: 0.5 });
    let network = b.build().unwrap();
    let model = convoke_formats::ModelFile {
        network,
        classes: vec![],
        preprocess: convoke_data::Preprocess::plain(2, 2, 3),
        task: "features".into(),
        params: (0..12).map(|i| i as f32).collect(),
        state: vec![],
        facts: Default::default(),
        extra: Default::default(),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    convoke_formats::weights::save_torch(&path, &model).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let scale = file.tensor("features.1.0.layer_scale").unwrap();
    assert_eq!((scale.shape(), floats(scale.data())), (&[3, 1, 1][..], vec![9.0, 10.0, 11.0]));
    assert_eq!(file.tensor("features.1.0.block.3.weight").unwrap().shape(), [3, 3]);
    let weights = Weights::open(&path).unwrap();
    let again = fit(&model.network, &weights, FitOptions::default()).unwrap();
    assert_eq!(again.params, model.params);
}
