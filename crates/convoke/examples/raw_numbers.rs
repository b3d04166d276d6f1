//! Runs a model file on raw numbers: reads 32-bit floats `[n, h, w, c]` from one file and writes the outputs
//! to another. For comparing with other software without pictures between.
//!
//! cargo run --release --example raw_numbers -- model.safetensors input.f32 output.f32

use convoke::prelude::*;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, output] = &args[..] else {
        return Err("usage: raw_numbers MODEL INPUT OUTPUT".into());
    };
    let model = ModelFile::load(Path::new(model))?;
    let bytes = std::fs::read(input)?;
    let x: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let n = x.len() / model.network.input_shape().len();
    let mut session = Session::new(Plan::compile(&model.network, &PlanOptions::predict(n, 2))?)?;
    session.set_params(&model.params)?;
    session.set_state(&model.state)?;
    session.input_mut().copy_from_slice(&x);
    let y: Vec<u8> = session.predict(n)?.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(output, y)?;
    Ok(())
}
