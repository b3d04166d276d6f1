//! What explains an answer equals captum's and pytorch-grad-cam's on the same weights, on a fixture made by
//! `fixtures/explain.py`.

mod common;

use common::open;
use convoke_vision::look::{Method, Occluder, Weights};

const TOLERANCE: f32 = 1e-3;

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
    // It scales to 0..1 before it resizes, and again behind.
    let scaled = |values: Vec<f32>| -> Vec<f32> {
        let low = values.iter().fold(f32::MAX, |m, v| m.min(*v));
        let high = values.iter().fold(f32::MIN, |m, v| m.max(*v));
        values.iter().map(|v| (v - low) / (high - low + 1e-7)).collect()
    };
    let large = convoke_vision::upsample(&scaled(cam.values), cam.size, (20, 18));
    same("cam", &scaled(large), &f.floats("cam"));
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

#[test]
fn signals_are_looked_into_as_well() {
    use convoke_data::Preprocess;
    use convoke_engine::layers::Conv;
    use convoke_engine::{Builder, Plan, PlanOptions, Session, Shape};
    let mut b = Builder::new("signal", Shape::new(1, 64, 1));
    b.conv(Conv::signal(6, 7)).batch_norm().relu().max_pool([1, 2], [1, 2]);
    b.conv(Conv::signal(8, 5)).relu().global_mean_pool().dense(3);
    let network = b.build().unwrap();
    let mut s =
        Session::new(Plan::compile(&network, &PlanOptions::predict(1, 1)).unwrap()).unwrap();
    s.init(1);
    let model = convoke_formats::ModelFile {
        classes: ["a", "b", "c"].map(String::from).to_vec(),
        preprocess: Preprocess::plain(1, 64, 1),
        task: "classify".into(),
        params: s.params().to_vec(),
        state: s.state().to_vec(),
        facts: Default::default(),
        extra: Default::default(),
        network,
    };
    let inside = convoke_vision::look::Inside::new(model, 1).unwrap();
    let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
    let target = inside.target(&x, Some(2)).unwrap();
    let e = inside.explained(&x, &target, &Method::ALL).unwrap();
    assert!(e.attributions.iter().all(|a| a.size.0 == 1 && a.values.iter().any(|v| *v != 0.0)));
    convoke_vision::look::explained_picture(&inside.seen(&x), &e).unwrap();
    let relu = inside.place("relu2").unwrap();
    let field = inside.field(relu, std::slice::from_ref(&x), None).unwrap();
    // 7, then a pool of 2, then 5 at stride 2.
    assert_eq!((field.field.w.size, field.field.h.size), (7 + 1 + 4 * 2, 1));
    assert!(field.effective.middle[3] <= 16 && field.effective.side >= 1.0, "{field:?}");
    for maps in inside.maps(&x, &inside.shown_layers()).unwrap() {
        convoke_vision::look::map_sheet(&maps, None).unwrap();
    }
    let conv = inside.place("conv2").unwrap();
    let a = inside.arithmetic(&x, conv, None, None).unwrap();
    assert_eq!((a.window, a.channels), ((1, 5), 6));
    assert!((a.sum - f64::from(a.network)).abs() < 1e-4);
}
