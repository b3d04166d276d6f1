//! From the same weights and batches, 20 steps of SGD with momentum give PyTorch's losses to 1e-3.
//! The numbers come from `fixtures/generate.py`.

use convoke_engine::{Loss, Network, Optimizer, Overrides, Plan, PlanOptions, Session, Shape};
use convoke_zoo::{Options, build_to_train};

/// The generator that both sides share: `n` numbers in ±1 from SplitMix64's finalizer over the name's
/// FNV-1a hash plus the index.
fn numbers(name: &str, n: usize, start: usize) -> Vec<f32> {
    let hash = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    (start..start + n)
        .map(|i| {
            let mut z = hash.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn draw(net: &Network) -> Vec<f32> {
    let mut all = Vec::new();
    for p in net.params() {
        if p.spec.shape.len() == 1 {
            let value = if p.name.ends_with("weight") { 1.0 } else { 0.0 };
            all.extend(std::iter::repeat_n(value, p.range.len()));
            continue;
        }
        let fan: usize = p.spec.shape[..p.spec.shape.len() - 1].iter().product();
        let bound = (6.0 / fan as f64).sqrt() as f32;
        all.extend(numbers(&p.name, p.range.len(), 0).iter().map(|v| v * bound));
    }
    all
}

fn check(name: &str, input: Shape, batch: usize, lr: f32, want: [f64; 20]) {
    let net = build_to_train(name, &Options { input: Some(input), classes: Some(10) }).unwrap();
    // Dropout off: masks are drawn differently everywhere.
    let text: Vec<String> = net
        .to_toml()
        .lines()
        .map(|l| if l.starts_with("rate = ") { "rate = 0.0".into() } else { l.to_string() })
        .collect();
    let net = Network::from_toml(&text.join("\n"), &Overrides::default()).unwrap();
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let plan = Plan::compile(&net, &PlanOptions::train(batch, 2, loss, sgd)).unwrap();
    let mut s = Session::new(plan).unwrap();
    s.init(0);
    s.set_params(&draw(&net)).unwrap();
    for (step, want) in want.into_iter().enumerate() {
        let len = batch * input.len();
        s.input_mut().copy_from_slice(&numbers("input", len, step * len));
        for (i, l) in s.labels_mut().iter_mut().enumerate() {
            *l = ((step * batch + i) * 7 % 10) as u32;
        }
        let got = f64::from(s.step(lr).unwrap().loss);
        let off = (got - want).abs() / want;
        assert!(off < 1e-3, "{name} step {step}: {got} against {want}, off by {off:.1e}");
    }
}

#[test]
fn lenet5() {
    // torch 2.15.0, whose f32 and f64 are apart by 2e-7.
    let want = [
        4.0407402, 2.8074006, 2.4415859, 2.8299447, 2.4458973, 2.3300508, 2.7441301, 2.1893617,
        2.4549243, 2.3422164, 2.2990110, 2.3888085, 2.3726300, 2.2945910, 2.2722769, 2.2811821,
        2.2605262, 2.3314593, 2.2932545, 2.3942807,
    ];
    check("lenet5", Shape::new(28, 28, 1), 16, 0.01, want);
}

#[test]
fn resnet20() {
    // torch 2.15.0, whose f32 and f64 are apart by 3e-5.
    let want = [
        5.8079874, 4.9541051, 4.8644877, 4.9789258, 4.4326473, 5.1619151, 4.2338919, 4.1167998,
        4.1023882, 3.5739028, 4.3201215, 3.5678269, 3.4720693, 3.4779691, 3.1292906, 3.6382370,
        3.0759947, 2.8244229, 3.0544922, 2.7888506,
    ];
    check("resnet20", Shape::new(32, 32, 3), 16, 1e-3, want);
}

#[test]
fn resnet18() {
    // torchvision's, whose f32 and f64 are apart by 5e-4.
    let want = [
        2.5357867, 2.6643551, 2.8917114, 2.5612890, 3.1982687, 2.6685671, 2.7325540, 2.8284178,
        2.6535142, 3.1724178, 2.7869407, 2.8986638, 2.6574153, 2.6932690, 2.5586412, 2.2388998,
        2.5748390, 2.8191208, 2.6220666, 3.0712418,
    ];
    check("resnet18", Shape::new(64, 64, 3), 8, 1e-4, want);
}

#[test]
fn mobilenet_v2() {
    // torchvision's, whose f32 and f64 are apart by 3e-4.
    let want = [
        2.4278392, 2.6134313, 2.4451982, 2.4813203, 2.6801012, 2.6927662, 2.5704124, 2.4722654,
        2.6382774, 2.5737256, 2.5557528, 2.3167559, 2.6989138, 2.5367699, 2.6313716, 2.6767299,
        2.4043955, 2.5710391, 2.347145, 2.6668279,
    ];
    check("mobilenet-v2", Shape::new(64, 64, 3), 16, 1e-5, want);
}

/// With its two heads, each with 0.3 of the loss.
#[test]
fn googlenet() {
    // torchvision's, whose f32 and f64 are apart by 2e-4.
    let want = [
        3.9805906, 3.7860764, 4.0572524, 3.8612640, 3.9328775, 3.9963342, 4.1098133, 3.9019140,
        3.9483487, 4.1814945, 3.9236324, 4.0596430, 4.0296533, 3.9047154, 4.0370883, 4.0696871,
        3.7780683, 4.0486361, 3.9768315, 3.8004466,
    ];
    check("googlenet", Shape::new(96, 96, 3), 8, 1e-5, want);
}
