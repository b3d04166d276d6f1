//! Plans that explain: gradients of the input and of kept places from a gradient that is given, by running
//! statistics and without dropout.

use convoke_engine::layers::*;
use convoke_engine::{Builder, Mode, Network, NodeId, Plan, PlanOptions, Session, Shape};

/// Numbers in -1..1 that repeat for a seed.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A bit of everything: norms, a residual, branches, dropout, pools, a scale, a gate.
fn network() -> Network {
    let mut b = Builder::new("all", Shape::new(9, 8, 3));
    b.conv(Conv::new(6, 3)).batch_norm().relu().dropout(0.5);
    let x = b.here();
    let y =
        b.conv(Conv::new(6, 3).no_bias()).batch_norm().relu().conv(Conv::new(6, 3)).batch_norm();
    let y = y.here();
    b.add(&[y, x]).relu();
    let x = b.here();
    let p = b.layer(MaxPool::new(3).stride(2)).here();
    let q = b.at(x).conv(Conv::depthwise(3).valid().stride(2)).layer(Silu {}).here();
    b.concat(&[p, q]);
    b.layer(LayerNorm::default()).layer(Scale { first: 0.5 });
    let maps = b.here();
    b.global_mean_pool().dense(12).layer(Sigmoid {});
    let gate = b.here();
    b.join(Gate {}, &[maps, gate]).flatten().dense(5);
    b.build().unwrap()
}

fn session(net: &Network, from: NodeId, keep: &[NodeId], guided: bool) -> Session {
    let mut options = PlanOptions::explain(from, keep, 2, 2);
    options.mode = Mode::Explain { from, guided };
    let mut s = Session::new(Plan::compile(net, &options).unwrap()).unwrap();
    s.init(3);
    let moved: Vec<f32> =
        s.params().iter().zip(numbers(s.params().len(), 5)).map(|(p, r)| p + 0.1 * r).collect();
    s.set_params(&moved).unwrap();
    let state: Vec<f32> = numbers(s.state().len(), 6).iter().map(|v| 1.0 + 0.5 * v).collect();
    s.set_state(&state).unwrap();
    s
}

/// The seed's product with what is at `from`.
fn value(s: &mut Session, from: NodeId, x: &[f32], seed: &[f32]) -> f64 {
    s.input_mut().copy_from_slice(x);
    s.predict(2).unwrap();
    s.map(from).unwrap().iter().zip(seed).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn gradients_of_the_input_equal_finite_differences() {
    let net = network();
    for from in [net.output(), net.find("concat1").unwrap(), net.find("relu2").unwrap()] {
        let mut s = session(&net, from, &[], false);
        let x = numbers(s.input_mut().len(), 1);
        let seed = numbers(s.seed_mut().len(), 2);
        s.input_mut().copy_from_slice(&x);
        s.predict(2).unwrap();
        s.seed_mut().copy_from_slice(&seed);
        s.explain(2).unwrap();
        let gradient = s.gradient(net.input()).unwrap().to_vec();
        let direction = numbers(x.len(), 7);
        let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let size: f64 = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let best = [1e-2f32, 3e-3, 1e-3, 3e-4].map(|h| {
            let at = |sign: f32| -> Vec<f32> {
                x.iter().zip(&direction).map(|(x, d)| x + sign * h * d).collect()
            };
            let up = value(&mut s, from, &at(1.0), &seed);
            let down = value(&mut s, from, &at(-1.0), &seed);
            (((up - down) / (2.0 * f64::from(h))) - slope).abs() / size
        });
        let best = best.into_iter().fold(f64::MAX, f64::min);
        assert!(best < 5e-3, "{}: off by {best:.1e}", net.node(from).name);
    }
}

#[test]
fn outputs_equal_those_of_a_plan_that_predicts() {
    let net = network();
    let mut s = session(&net, net.output(), &[], false);
    let mut p = Session::new(Plan::compile(&net, &PlanOptions::predict(2, 2)).unwrap()).unwrap();
    p.set_params(s.params()).unwrap();
    p.set_state(s.state()).unwrap();
    let x = numbers(s.input_mut().len(), 1);
    s.input_mut().copy_from_slice(&x);
    p.input_mut().copy_from_slice(&x);
    let (a, b) = (s.predict(2).unwrap().to_vec(), p.predict(2).unwrap());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn the_gradient_of_a_kept_place_is_whole_and_not_masked_by_its_own_relu() {
    let mut b = Builder::new("n", Shape::new(4, 4, 2));
    let relu = b.conv(Conv::new(3, 3)).relu().here();
    let dense = b.flatten().dense(2).here();
    let net = b.build().unwrap();
    let mut s = session(&net, dense, &[relu], false);
    let x = numbers(s.input_mut().len(), 1);
    s.input_mut().copy_from_slice(&x);
    s.predict(2).unwrap();
    s.seed_mut().fill(0.0);
    s.seed_mut()[1] = 1.0;
    s.explain(2).unwrap();
    let weight = net.params().into_iter().find(|p| p.name == "dense1.weight").unwrap();
    let column: Vec<f32> = s.params()[weight.range].chunks_exact(2).map(|w| w[1]).collect();
    let gradient = s.gradient(relu).unwrap();
    assert_eq!(gradient[..48], column);
    assert!(gradient[48..].iter().all(|g| *g == 0.0), "the other picture has no seed");
}

#[test]
fn guided_relus_pass_on_positive_gradients_only() {
    let mut b = Builder::new("n", Shape::new(5, 5, 1));
    let conv = b.conv(Conv::new(4, 1).no_bias()).here();
    let out = b.relu().conv(Conv::new(2, 1).no_bias()).here();
    let net = b.build().unwrap();
    let gradient = |guided| {
        let mut s = session(&net, out, &[conv], guided);
        let x = numbers(s.input_mut().len(), 1);
        s.input_mut().copy_from_slice(&x);
        s.predict(2).unwrap();
        let seed = numbers(s.seed_mut().len(), 9);
        s.seed_mut().copy_from_slice(&seed);
        s.explain(2).unwrap();
        s.gradient(conv).unwrap().to_vec()
    };
    let (plain, guided) = (gradient(false), gradient(true));
    assert!(plain.iter().any(|g| *g < 0.0));
    assert_eq!(guided, plain.iter().map(|g| g.max(0.0)).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_explained_is_told() {
    let net = network();
    let mut options = PlanOptions::explain(net.output(), &[], 1, 1);
    options.keep.clear();
    assert!(Plan::compile(&net, &options).unwrap_err().to_string().contains("kept"));
    let mut p = Session::new(Plan::compile(&net, &PlanOptions::predict(1, 1)).unwrap()).unwrap();
    assert!(p.explain(1).unwrap_err().to_string().contains("does not explain"));
    assert!(p.seed_mut().is_empty() && p.gradient(net.input()).is_none());
}
