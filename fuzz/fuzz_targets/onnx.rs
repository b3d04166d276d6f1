//! Graphs: read, made a network, run a little.
#![no_main]

use convoke_formats::onnx::{Model, Tensor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let one_line = |e: &str| assert!(!e.contains('\n') && e.len() < 2000, "{e}");
    let model = match Model::from_bytes(bytes) {
        Ok(model) => model,
        Err(e) => return one_line(&e),
    };
    match model.to_network(None) {
        Ok(net) => assert_eq!(net.params.len(), net.network.parameters()),
        Err(e) => one_line(&e),
    }
    if model.inputs().iter().any(|p| p.shape.len() > 5) {
        return;
    }
    let input = |p: &convoke_formats::onnx::Port| {
        let sizes: Vec<usize> = p.shape.iter().map(|s| s.unwrap_or(1).min(6)).collect();
        Tensor::floats(&sizes, vec![0.5; sizes.iter().product()])
    };
    let inputs: Vec<Tensor> = model.inputs().iter().map(input).collect();
    if let Err(e) = model.run_bounded(&inputs, 1 << 18) {
        one_line(&e);
    }
});
