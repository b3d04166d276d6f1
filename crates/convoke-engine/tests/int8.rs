//! Prediction in integers of 8 bits: near to f32, the same for any threads and in parts, and only to predict.

use convoke_engine::layers::*;
use convoke_engine::{
    Builder, Loss, Network, Optimizer, Plan, PlanOptions, Precision, Ranges, Session, Shape, Watch,
};
use convoke_kernels::Isa;

/// A residual block, grouped filters, a dense layer.
fn network() -> Network {
    let mut b = Builder::new("integers", Shape::new(19, 17, 3));
    let x = b.conv(Conv::new(24, 5).stride(2)).batch_norm().relu().here();
    let y = b.conv(Conv::new(24, 3).no_bias()).batch_norm().here();
    b.add(&[y, x]).relu();
    b.conv(Conv::new(48, 3).groups(2)).relu().conv(Conv::new(40, 1)).relu();
    b.flatten().dense(30).relu().dense(9);
    b.build().unwrap()
}

fn session(options: &PlanOptions) -> Session {
    let mut s = Session::new(Plan::compile(&network(), options).unwrap()).unwrap();
    s.init(5);
    let state: Vec<f32> = (0..s.state().len()).map(|i| 0.4 + (i * 31 % 40) as f32 / 40.0).collect();
    s.set_state(&state).unwrap();
    for (i, v) in s.input_mut().iter_mut().enumerate() {
        *v = (i * 29 % 97) as f32 / 48.0 - 1.0;
    }
    s
}

fn ranges() -> Ranges {
    let mut watch = Watch::new(&network());
    let mut s = session(&watch.options(5, 2));
    s.predict(5).unwrap();
    watch.add(&s, 5);
    watch.ranges(&network())
}

fn predict(isa: Isa, precision: Precision, threads: usize, n: usize) -> Vec<f32> {
    let options = PlanOptions {
        isa: Some(isa),
        precision,
        ranges: ranges(),
        ..PlanOptions::predict(5, threads)
    };
    session(&options).predict(n).unwrap().to_vec()
}

#[test]
fn integers_come_near_to_floats_and_change_no_bit_with_threads() {
    assert_eq!(ranges().iter().count(), 6);
    let floats = predict(Isa::Portable, Precision::F32, 1, 5);
    let size = floats.iter().map(|v| v * v).sum::<f32>().sqrt();
    for isa in Isa::available() {
        let integers = predict(isa, Precision::Int8, 1, 5);
        let off = floats.iter().zip(&integers).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        assert!(off < 0.03 * size && off > 1e-4 * size, "{isa:?}: {}", off / size);
        for threads in [2, 3] {
            assert_eq!(integers, predict(isa, Precision::Int8, threads, 5), "{isa:?}");
            assert_eq!(integers[..18], predict(isa, Precision::Int8, threads, 2), "{isa:?}");
        }
    }
}

#[test]
fn integers_are_for_prediction_and_need_ranges() {
    let net = network();
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    let train = PlanOptions {
        precision: Precision::Int8,
        ranges: ranges(),
        ..PlanOptions::train(2, 1, loss, sgd)
    };
    assert!(Plan::compile(&net, &train).unwrap_err().to_string().contains("for prediction"));
    let bare = PlanOptions { precision: Precision::Int8, ..PlanOptions::predict(2, 1) };
    assert!(Plan::compile(&net, &bare).unwrap_err().to_string().contains("quantize"));
}
