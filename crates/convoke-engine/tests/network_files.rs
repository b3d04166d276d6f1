//! Network files come from anywhere: whatever is in them, the answer is a network or one line.

use convoke_engine::layers::Layer;
use convoke_engine::{Network, Overrides};
use proptest::prelude::*;

const VALID: &str = r#"name = "mine"
input = [12, 10, 2]
[[layer]]
type = "conv"
name = "a"
filters = 4
window = [3, 2]
padding = [1, 1, 0, 1]
batch_norm = true
activation = "relu6"
[[layer]]
type = "max-pool"
window = 2
[[layer]]
type = "conv"
from = "a"
filters = 4
window = 3
stride = 2
[[layer]]
type = "add"
from = ["max-pool1", "conv2"]
[[layer]]
type = "dense"
units = "classes"
"#;

/// A network, which then goes to a file and back and has a cost, or an error of one line.
fn check(text: &str) {
    match Network::from_toml(text, &Overrides { input: None, classes: Some(3) }) {
        Ok(net) => {
            let again = Network::from_toml(&net.to_toml(), &Overrides::default()).unwrap();
            assert_eq!(again, net);
            assert_eq!(net.rows().len(), net.nodes().len());
            let _ = net.with_classes(5);
        }
        Err(e) => assert!(!e.to_string().contains('\n'), "{e}"),
    }
}

fn value() -> impl Strategy<Value = String> {
    let words = ["same", "valid", "input", "classes", "conv1", "he-fan-out", "x", "relu"];
    prop_oneof![
        (0i64..6).prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}")),
        any::<bool>().prop_map(|b| b.to_string()),
        prop::collection::vec(0i64..9, 0..5).prop_map(|v| format!("{v:?}")),
        prop::sample::select(words.to_vec()).prop_map(|w| format!("{w:?}")),
        Just("[\"input\", \"input\"]".to_string()),
        "\\PC{0,8}",
    ]
}

fn layer() -> impl Strategy<Value = String> {
    let keys = [
        "filters",
        "window",
        "stride",
        "padding",
        "dilation",
        "groups",
        "bias",
        "init",
        "units",
        "rate",
        "epsilon",
        "momentum",
        "size",
        "alpha",
        "beta",
        "k",
        "max",
        "slope",
        "channels",
        "count_padding",
        "from",
        "name",
        "activation",
        "batch_norm",
        "typ",
    ];
    let key = prop::sample::select(keys.to_vec());
    let kind = prop_oneof![
        prop::sample::select(Layer::KINDS).prop_map(String::from),
        Just("conv1d".into())
    ];
    (kind, prop::collection::btree_map(key, value(), 0..5)).prop_map(|(kind, keys)| {
        let keys: String = keys.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        format!("[[layer]]\ntype = {kind:?}\n{keys}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn any_layers_are_answered(layers in prop::collection::vec(layer(), 0..4)) {
        check(&format!("input = [9, 7, 2]\n{}", layers.concat()));
    }

    #[test]
    fn a_damaged_file_is_answered(at in 0..VALID.len(), len in 0usize..12, new in "[ -~\n]{0,6}") {
        let end = (at + len).min(VALID.len());
        check(&format!("{}{new}{}", &VALID[..at], &VALID[end..]));
    }
}

#[test]
fn the_undamaged_file_is_a_network() {
    let net = Network::from_toml(VALID, &Overrides { input: None, classes: Some(3) }).unwrap();
    assert_eq!(net.output_shape().c, 3);
    check(VALID);
}
