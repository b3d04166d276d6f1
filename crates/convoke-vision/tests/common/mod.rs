//! What several tests open: the fixture's network, and drawn scenes.
#![allow(dead_code)]

use convoke_data::{Picture, Preprocess};
use convoke_engine::layers::Conv;
use convoke_engine::{Builder, Network, Overrides, Plan, PlanOptions, Session, Shape};
use convoke_formats::ModelFile;
use convoke_vision::look::{Inside, Target};
use safetensors::SafeTensors;

/// The tensors that `fixtures/explain.py` wrote.
pub struct Fixture(SafeTensors<'static>);

impl Fixture {
    pub fn floats(&self, name: &str) -> Vec<f32> {
        let t = self.0.tensor(name).expect(name);
        t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// The fixture, its network, its input, and the class that it explains.
pub fn open() -> (Fixture, Inside, Vec<f32>, Target) {
    let bytes = include_bytes!("../fixtures/explain.safetensors");
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let header = header.metadata().clone().unwrap();
    let f = Fixture(SafeTensors::deserialize(bytes).unwrap());
    let network = Network::from_toml(&header["network"], &Overrides::default()).unwrap();
    let flat = |params: Vec<convoke_engine::Param>| -> Vec<f32> {
        params.iter().flat_map(|p| f.floats(&p.name)).collect()
    };
    let model = ModelFile {
        classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
        preprocess: Preprocess {
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            ..Preprocess::plain(20, 18, 3)
        },
        task: "classify".into(),
        params: flat(network.params()),
        state: flat(network.state()),
        facts: Default::default(),
        extra: Default::default(),
        network,
    };
    let inside = Inside::new(model, 2).unwrap();
    let x = f.floats("x");
    let target = inside.target(&x, None).unwrap();
    assert_eq!(target.class.to_string(), header["class"]);
    (f, inside, x, target)
}

/// A network over signals of two channels with drawn weights, and a signal.
pub fn signal() -> (Inside, Vec<f32>) {
    let mut b = Builder::new("signals", Shape::new(1, 96, 2));
    b.conv(Conv::signal(6, 5)).relu().max_pool([1, 2], [1, 2]);
    b.conv(Conv::signal(8, 3)).relu().global_mean_pool().dense(3);
    let network = b.build().unwrap();
    let mut session =
        Session::new(Plan::compile(&network, &PlanOptions::predict(1, 1)).unwrap()).unwrap();
    session.init(3);
    let model = ModelFile {
        classes: ["up", "down", "even"].map(String::from).to_vec(),
        preprocess: Preprocess::plain(1, 96, 2),
        task: "classify".into(),
        params: session.params().to_vec(),
        state: session.state().to_vec(),
        facts: Default::default(),
        extra: Default::default(),
        network,
    };
    let wave = |i: usize| {
        let t = i as f32 / 96.0;
        [
            (t * 20.0).sin() * (1.0 - t),
            if (40..52).contains(&i) { 1.5 } else { 0.1 * (t * 70.0).cos() },
        ]
    };
    (Inside::new(model, 1).unwrap(), (0..96).flat_map(wave).collect())
}

/// A picture of coloured discs; every seed gives another.
pub fn scene(seed: usize, w: usize, h: usize) -> Picture {
    let mut p = Picture::filled(w, h, [90, 110, 130]);
    let mut state = seed as u64 * 977 + 13;
    let mut draw = |n: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for _ in 0..12 {
        let (cx, cy, r) = (draw(100) as i64, draw(100) as i64, 6 + draw(22) as i64);
        let colour = [draw(256) as u8, draw(256) as u8, draw(256) as u8];
        for y in 0..h {
            for x in 0..w {
                let (dx, dy) = ((x * 100 / w) as i64 - cx, (y * 100 / h) as i64 - cy);
                if dx * dx + dy * dy <= r * r {
                    p.data[(y * w + x) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
    }
    p
}
