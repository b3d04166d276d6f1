//! A depthwise convolution and the 1×1 convolutions beside it, run as one call, give the bits that they
//! give one after the other.

use convoke_engine::layers::*;
use convoke_engine::{
    Builder, Network, NodeId, Plan, PlanOptions, Precision, Ranges, Session, Shape, Watch,
};
use convoke_kernels::Isa;

/// Inverted residuals with and without a sum, and a separable convolution; and the places within.
fn network() -> (Network, Vec<NodeId>) {
    let mut b = Builder::new("chains", Shape::new(61, 58, 8));
    let mut within = Vec::new();
    let x = b.here();
    b.conv(Conv::new(56, 1).no_bias()).batch_norm().layer(Relu { max: Some(6.0) });
    within.push(b.here());
    b.conv(Conv::depthwise(3).no_bias()).batch_norm().layer(Relu { max: Some(6.0) });
    within.push(b.here());
    let y = b.conv(Conv::new(8, 1).no_bias()).batch_norm().here();
    b.add(&[y, x]);
    b.conv(Conv::new(72, 1)).relu();
    within.push(b.here());
    b.conv(Conv::depthwise(5).stride(2)).batch_norm().relu();
    within.push(b.here());
    b.conv(Conv::new(128, 1)).batch_norm();
    within.push(b.here());
    b.conv(Conv::depthwise(3)).relu();
    within.push(b.here());
    b.conv(Conv::new(160, 1)).relu().global_mean_pool().dense(7);
    (b.build().unwrap(), within)
}

fn predict(options: &PlanOptions, n: usize) -> (Vec<f32>, usize) {
    let (session, chained) = predicted(options, n);
    (session.output()[..n * 7].to_vec(), chained)
}

fn predicted(options: &PlanOptions, n: usize) -> (Session, usize) {
    let (net, _) = network();
    let plan = Plan::compile(&net, options).unwrap();
    let chained = plan.explain().matches("forward in a chain").count();
    let mut s = Session::new(plan).unwrap();
    s.init(11);
    let state: Vec<f32> = (0..s.state().len()).map(|i| 0.3 + (i * 37 % 50) as f32 / 40.0).collect();
    s.set_state(&state).unwrap();
    for (i, v) in s.input_mut().iter_mut().enumerate() {
        *v = (i * 31 % 101) as f32 / 50.0 - 1.0;
    }
    s.predict(n).unwrap();
    (s, chained)
}

fn ranges() -> Ranges {
    let (net, _) = network();
    let mut watch = Watch::new(&net);
    let (session, _) = predicted(&watch.options(2, 1), 2);
    watch.add(&session, 2);
    watch.ranges(&net)
}

fn near(a: &[f32], b: &[f32]) {
    let size = |x: Vec<f32>| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    let off = size(a.iter().zip(b).map(|(a, b)| a - b).collect()) / size(a.to_vec());
    assert!(off < 0.01, "off by {off}");
}

#[test]
fn chains_give_the_bits_of_their_parts() {
    let (_, within) = network();
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let options = |batch, threads, keep: &[NodeId]| PlanOptions {
                isa: Some(isa),
                precision,
                ranges: ranges(),
                keep: keep.to_vec(),
                ..PlanOptions::predict(batch, threads)
            };
            let (apart, none) = predict(&options(6, 2, &within), 6);
            assert_eq!(none, 0);
            assert!(apart.iter().all(|v| v.is_finite()) && apart[0] != apart[1]);
            // Where so many threads share a picture, the convolution before runs by itself.
            let (alone, fewer) = predict(&options(1, 32, &[]), 1);
            assert_eq!(fewer, 2);
            for threads in [1, 2, 3] {
                let (together, chained) = predict(&options(6, threads, &[]), 6);
                assert_eq!(chained, 3);
                assert_eq!(alone, together[..7], "{isa:?} {precision:?} {threads} threads");
                // Kept places are f32, of which a depthwise convolution makes other numbers than of bytes.
                match precision {
                    Precision::Int8 => near(&apart, &together),
                    _ => assert_eq!(apart, together, "{isa:?} {precision:?} {threads} threads"),
                }
                let (part, _) = predict(&options(6, threads, &[]), 2);
                assert_eq!(part, together[..14], "{isa:?} {precision:?} {threads} threads, 2 of 6");
            }
        }
    }
}
