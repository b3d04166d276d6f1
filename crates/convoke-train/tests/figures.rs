//! Confusion, per-class figures, top-k, calibration and temperature equal scikit-learn's, numpy's and scipy's, on
//! a fixture made by `fixtures/figures.py`.

use convoke_train::{Answer, Calibration, Evaluation, class_figures, class_weights};
use serde_json::Value;

#[test]
fn figures_equal_those_of_others() {
    let f: Value = serde_json::from_str(include_str!("fixtures/figures.json")).unwrap();
    let list = |v: &Value| -> Vec<f64> {
        v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let labels = list(&f["labels"]);
    let rows = f["logits"].as_array().unwrap();
    let answer = |(index, (row, label)): (usize, (&Value, &f64))| Answer {
        index,
        label: *label as usize,
        logits: list(row).iter().map(|v| *v as f32).collect(),
    };
    let answers: Vec<Answer> = rows.iter().zip(&labels).enumerate().map(answer).collect();
    let e = Evaluation::of(&answers, 7);
    let near = |what: &str, got: f64, tolerance: f64| {
        let want = f[what].as_f64().unwrap();
        assert!((got - want).abs() < tolerance, "{what}: {got}, not {want}");
    };
    near("top1", e.top1, 1e-12);
    near("top5", e.top5, 1e-12);
    near("loss", e.loss, 1e-6);
    let confusion: Vec<Vec<f64>> =
        e.confusion.iter().map(|r| r.iter().map(|n| *n as f64).collect()).collect();
    let wanted: Vec<Vec<f64>> = f["confusion"].as_array().unwrap().iter().map(list).collect();
    assert_eq!(confusion, wanted);
    for (c, figures) in class_figures(&e.confusion).iter().enumerate() {
        for (what, got) in
            [("precision", figures.precision), ("recall", figures.recall), ("f1", figures.f1)]
        {
            let want = list(&f[what])[c];
            assert!((got - want).abs() < 1e-12, "{what} of {c}: {got}, not {want}");
        }
        assert_eq!(figures.n as f64, list(&f["support"])[c]);
    }
    let counts: Vec<usize> = list(&f["support"]).iter().map(|n| *n as usize).collect();
    for (got, want) in class_weights(&counts).iter().zip(list(&f["class_weights"])) {
        assert!((f64::from(*got) - want).abs() < 1e-6, "class weight: {got}, not {want}");
    }
    let plain = Calibration::of(&answers, 1.0);
    near("ece", plain.ece, 1e-6);
    near("loss", plain.loss, 1e-6);
    let fitted = Calibration::fitted(&answers);
    near("temperature", fitted.temperature, 1e-4);
    near("ece_at_temperature", fitted.ece, 1e-4);
    near("loss_at_temperature", fitted.loss, 1e-8);
}
