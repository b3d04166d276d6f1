//! What explains an answer equals captum's and pytorch-grad-cam's on the same weights, on a fixture made by
//! `fixtures/explain.py`.

use convoke_data::Preprocess;
use convoke_engine::{Network, Overrides};
use convoke_formats::ModelFile;
use convoke_vision::look::{Inside, Method, Occluder, Target, Weights};
use safetensors::SafeTensors;

const TOLERANCE: f32 = 1e-3;

struct Fixture(SafeTensors<'static>);

impl Fixture {
    fn floats(&self, name: &str) -> Vec<f32> {
        let t = self.0.tensor(name).expect(name);
        t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

fn open() -> (Fixture, Inside, Vec<f32>, Target) {
    let bytes = include_bytes!("fixtures/explain.safetensors");
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let header = header.metadata().clone().unwrap();
    let f = Fixture(SafeTensors::deserialize(bytes).unwrap());
    let network = Network::from_toml(&header["network"], &Overrides::default()).unwrap();
    let flat = |params: Vec<convoke_engine::Param>| -> Vec<f32> {
        params.iter().flat_map(|p| f.floats(&p.name)).collect()
    };
    let model = ModelFile {
        classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
        preprocess: Preprocess::plain(20, 18, 3),
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

/// Equal to a thousandth of the largest number.
fn same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / most;
    assert!(off < TOLERANCE, "{what} is off by {off:.1e}");
}

#[test]
fn gradients_and_occlusion_equal_captums() {
    let (f, inside, x, target) = open();
    assert!((target.logit - f.floats("logits")[target.class]).abs() < 1e-4);
    let of = |method| inside.explain(&x, &target, method, Weights::Learned).unwrap().values;
    same("gradient", &of(Method::Gradient), &f.floats("gradient"));
    same("guided", &of(Method::Guided), &f.floats("guided"));
    same("integrated", &of(Method::Integrated), &f.floats("integrated"));
    let occluder = Occluder { window: 5, stride: 3 };
    let lost = inside.occlusion(&x, &target, occluder, Weights::Learned).unwrap();
    same("occlusion", &lost, &f.floats("occlusion"));
}

#[test]
fn class_activation_maps_equal_those_of_pytorch_grad_cam() {
    let (f, inside, x, target) = open();
    assert_eq!(inside.network().node(inside.last_map().unwrap()).name, "relu3");
    let cam = inside.explain(&x, &target, Method::GradCam, Weights::Learned).unwrap();
    assert_eq!(cam.size, (10, 9));
    // It scales to 0..1 before it resizes.
    let low = cam.values.iter().fold(f32::MAX, |m, v| m.min(*v));
    let high = cam.values.iter().fold(0f32, |m, v| m.max(*v));
    let scaled: Vec<f32> = cam.values.iter().map(|v| (v - low) / (high - low + 1e-7)).collect();
    same("cam", &convoke_vision::upsample(&scaled, cam.size, (20, 18)), &f.floats("cam"));
}

#[test]
fn effective_fields_equal_numpys() {
    let (f, inside, x, _) = open();
    let place = inside.place("relu3").unwrap();
    let e = inside.effective_field(place, (5, 4), &[x]).unwrap();
    same("gradient of the middle", &e.values, &f.floats("field"));
    let figures = f.floats("field.figures");
    assert!((e.side as f32 - figures[0]).abs() < 1e-4, "{} {}", e.side, figures[0]);
    assert_eq!(e.middle.map(|v| v as f32), figures[1..]);
}

#[test]
fn an_explanation_is_checked_against_drawn_weights_and_shares_add_up() {
    let (_, inside, x, target) = open();
    let e = inside.explained(&x, &target, &Method::ALL).unwrap();
    assert_eq!(e.sanity.len(), 5);
    assert!(e.sanity.iter().all(|s| (-1.0..=1.0).contains(&s.correlation)));
    assert!(e.completeness.abs() < 0.02 * f64::from((target.logit - e.blank).abs()), "{e:?}");
    let same = inside.explain(&x, &target, Method::Gradient, Weights::Learned).unwrap();
    let (s, _) = inside.sanity(&x, &target, &same).unwrap();
    assert!(s.correlation < 0.9, "drawn weights give another gradient: {}", s.correlation);
}

#[test]
fn the_arithmetic_of_any_number_adds_up_to_the_networks() {
    let (_, inside, x, _) = open();
    for (layer, filter, place) in [
        ("stem", None, None),
        ("stem", Some(2), Some((0, 0))),
        ("inner", Some(5), Some((19, 17))),
        ("last", Some(0), Some((3, 4))),
    ] {
        let id = inside.place(layer).unwrap();
        let a = inside.arithmetic(&x, id, filter, place).unwrap();
        assert_eq!(a.terms.len(), 9 * a.channels);
        assert!((a.sum - f64::from(a.network)).abs() < 1e-4, "{layer}: {} {}", a.sum, a.network);
        assert!(a.text().contains("the network says"));
    }
    let relu = inside.place("relu1").unwrap();
    assert!(
        inside.arithmetic(&x, relu, None, None).unwrap_err().to_string().contains("no convolution")
    );
    let stem = inside.place("stem").unwrap();
    assert!(inside.arithmetic(&x, stem, Some(6), None).is_err());
    assert!(inside.place("rely1").unwrap_err().to_string().contains("`relu1`"));
}

#[test]
fn the_strongest_patches_are_where_the_maps_are_largest() {
    let (_, inside, x, _) = open();
    let place = inside.place("relu3").unwrap();
    let darker: Vec<f32> = x.iter().map(|v| 0.5 * v).collect();
    let all = [darker, x];
    let found = inside.patches(place, &mut all.iter().cloned(), 1).unwrap();
    for f in found {
        let maps: Vec<_> =
            all.iter().map(|x| inside.maps(x, &[place]).unwrap().remove(0)).collect();
        let most = maps.iter().flat_map(|m| m.plane(f.filter)).fold(0f32, f32::max);
        let p = &f.patches[0];
        assert_eq!(p.value, most);
        assert_eq!(maps[p.picture].plane(f.filter)[p.place.0 * 9 + p.place.1], most);
    }
}
