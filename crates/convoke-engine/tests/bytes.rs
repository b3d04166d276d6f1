//! Prediction in integers keeps maps in bytes between layers: the same numbers where these were made of them anyway, near
//! where sums and depthwise convolutions read them, the same for any threads, and f32 for whoever looks.

use convoke_engine::layers::*;
use convoke_engine::{
    Builder, Network, NodeId, Plan, PlanOptions, Precision, Ranges, Session, Shape, Watch,
};
use convoke_kernels::Isa;

const BATCH: usize = 5;

/// Convolutions one after the other, with what leaves integers as they are between them.
fn straight() -> Network {
    let mut b = Builder::new("straight", Shape::new(35, 33, 3));
    b.conv(Conv::new(24, 7).stride(2)).relu().layer(MaxPool::new(3).stride(2));
    b.conv(Conv::new(40, 1)).conv(Conv::new(33, 3)).relu().layer(MaxPool::new(2));
    b.flatten().dense(50).relu().layer(Dropout { rate: 0.5 }).dense(9);
    b.build().unwrap()
}

/// Residual blocks, one of them of 1×1 and depthwise convolutions in a chain, a depthwise convolution on maps too small
/// for one, and a shortcut without weights.
fn branching() -> Network {
    let mut b = Builder::new("branching", Shape::new(36, 34, 3));
    let x = b.conv(Conv::new(24, 3)).batch_norm().relu().here();
    let y = b.conv(Conv::new(24, 3).no_bias()).batch_norm().relu().conv(Conv::new(24, 1)).here();
    let x = b.add(&[y, x]).relu().here();
    let y = b.conv(Conv::new(96, 1)).batch_norm().relu6().here();
    b.at(y).conv(Conv::depthwise(3)).batch_norm().relu6();
    let y = b.conv(Conv::new(24, 1).no_bias()).batch_norm().here();
    let x = b.add(&[y, x]).here();
    let short = b.at(x).layer(Shortcut { stride: 2.into(), channels: 40 }).here();
    let y = b.at(x).conv(Conv::new(40, 3).stride(2)).relu().conv(Conv::new(40, 3)).here();
    let x = b.add(&[y, short]).relu().here();
    let down = b.at(x).conv(Conv::new(64, 1).stride(2)).here();
    let y = b.at(x).conv(Conv::new(64, 3).stride(2)).here();
    b.add(&[y, down]).relu().conv(Conv::depthwise(3)).relu().conv(Conv::new(48, 1)).relu();
    b.layer(GlobalMeanPool {}).dense(9);
    b.build().unwrap()
}

fn session(net: &Network, options: &PlanOptions) -> Session {
    let mut s = Session::new(Plan::compile(net, options).unwrap()).unwrap();
    s.init(5);
    let mut state = Vec::new();
    for param in s.plan().state() {
        let mean = param.spec.name.contains("mean");
        let (least, more) = if mean { (-0.1, 200.0) } else { (0.4, 40.0) };
        state.extend((0..param.spec.len()).map(|i| least + (i * 31 % 40) as f32 / more));
    }
    s.set_state(&state).unwrap();
    for (i, v) in s.input_mut().iter_mut().enumerate() {
        *v = (i * 29 % 97) as f32 / 48.0 - 1.0;
    }
    s
}

fn ranges(net: &Network) -> Ranges {
    let mut watch = Watch::new(net);
    let mut s = session(net, &watch.options(BATCH, 2));
    s.predict(BATCH).unwrap();
    watch.add(&s, BATCH);
    watch.ranges(net)
}

fn options(net: &Network, isa: Isa, precision: Precision, threads: usize) -> PlanOptions {
    let isa = Some(isa);
    PlanOptions { isa, precision, ranges: ranges(net), ..PlanOptions::predict(BATCH, threads) }
}

fn predict(net: &Network, options: &PlanOptions, n: usize) -> Vec<f32> {
    session(net, options).predict(n).unwrap().to_vec()
}

fn off(a: &[f32], b: &[f32]) -> f32 {
    let sum = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    sum(&mut a.iter().zip(b).map(|(a, b)| a - b)) / sum(&mut a.iter().copied())
}

/// Matrix tiles read and write f32.
fn without_tiles() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().filter(|&isa| isa != Isa::Amx)
}

#[test]
fn maps_take_a_third_of_the_memory() {
    for net in [straight(), branching()] {
        // What the caller writes is f32.
        let input = 4 * BATCH * net.input_shape().len();
        for isa in without_tiles() {
            let of = |precision| {
                let plan = Plan::compile(&net, &options(&net, isa, precision, 1)).unwrap();
                plan.memory().activations - input
            };
            let (full, bytes) = (of(Precision::F32), of(Precision::Int8));
            assert!(3 * bytes < full, "{}, {isa:?}: {bytes} of {full} bytes", net.name());
        }
    }
}

/// Places that are kept are f32 and end what runs as one call where these end anyway.
#[test]
fn readers_get_the_integers_that_they_would_make_themselves() {
    let net = straight();
    let ends = |id: NodeId| {
        let layer = net.node(id).layer.as_ref();
        matches!(layer, Some(Layer::Relu(_) | Layer::MaxPool(_)))
    };
    let keep: Vec<NodeId> = net.iter().map(|(id, _)| id).filter(|&id| ends(id)).collect();
    assert_eq!(keep.len(), 5);
    for isa in Isa::available() {
        let bytes = options(&net, isa, Precision::Int8, 2);
        let full = PlanOptions { keep: keep.clone(), ..bytes.clone() };
        let y = predict(&net, &bytes, BATCH);
        let mut s = session(&net, &full);
        assert_eq!(y, s.predict(BATCH).unwrap(), "{isa:?}");
        let floats =
            session(&net, &options(&net, isa, Precision::F32, 2)).predict(BATCH).unwrap().to_vec();
        assert!((1e-4..0.05).contains(&off(&floats, &y)), "{isa:?}: {}", off(&floats, &y));
        for &place in &keep {
            let map = &s.map(place).unwrap()[..net.node(place).shape.len()];
            assert!(map.iter().all(|x| x.is_finite()) && map.iter().any(|&x| x != 0.0));
        }
    }
}

#[test]
fn sums_and_depthwise_convolutions_come_near_to_floats() {
    let net = branching();
    for isa in Isa::available() {
        let floats = predict(&net, &options(&net, isa, Precision::F32, 2), BATCH);
        let bytes = predict(&net, &options(&net, isa, Precision::Int8, 2), BATCH);
        let off = off(&floats, &bytes);
        assert!((1e-4..0.05).contains(&off), "{isa:?}: {off}");
    }
}

#[test]
fn threads_and_pictures_beside_it_change_no_bit() {
    for net in [straight(), branching()] {
        for isa in Isa::available() {
            let one = predict(&net, &options(&net, isa, Precision::Int8, 1), BATCH);
            for threads in [2, 3] {
                let many = options(&net, isa, Precision::Int8, threads);
                assert_eq!(one, predict(&net, &many, BATCH), "{}, {isa:?}", net.name());
                assert_eq!(one[..18], predict(&net, &many, 2), "{}, {isa:?}", net.name());
            }
        }
    }
}

/// A place whose range nobody knows is f32, and so is all that it is tied to.
#[test]
fn places_without_a_range_are_floats() {
    let net = straight();
    let isa = without_tiles().next().unwrap();
    let known = options(&net, isa, Precision::Int8, 1);
    let pool = net.iter().find(|(_, n)| matches!(n.layer, Some(Layer::MaxPool(_)))).unwrap().1;
    let less = ranges(&net)
        .iter()
        .filter(|(name, _)| *name != pool.name)
        .map(|(n, r)| (n.to_string(), r))
        .collect();
    let of = |options: &PlanOptions| Plan::compile(&net, options).unwrap().memory().activations;
    assert!(of(&PlanOptions { ranges: less, ..known.clone() }) > 2 * of(&known));
}
