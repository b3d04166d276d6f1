//! Runs an ONNX file on numbers of a `.npy` file: as a network, or with `--plain` op by op.
//!
//! ```sh
//! cargo run --release -p convoke-formats --example onnx_run -- model.onnx input.npy output.npy [--plain]
//! ```

use convoke_engine::{Plan, PlanOptions, Session};
use convoke_formats::onnx::{Model, Tensor};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, output, rest @ ..] = &args[..] else {
        return Err("usage: onnx_run MODEL.onnx INPUT.npy OUTPUT.npy [--plain]".into());
    };
    let model = Model::open(Path::new(model))?;
    let x = read_npy(Path::new(input))?;
    let outputs = match rest {
        [flag] if flag == "--plain" => model.run(&[x])?,
        _ => as_network(&model, &x)?,
    };
    for (port, y) in model.outputs().iter().zip(&outputs) {
        println!("{} {:?}", port.name, y.shape);
    }
    write_npy(Path::new(output), &outputs[0])
}

fn as_network(model: &Model, x: &Tensor) -> Result<Vec<Tensor>, Box<dyn Error>> {
    let size = (x.rank() == 4).then(|| (x.shape[2], x.shape[3]));
    let net = model.to_network(size)?;
    let layers = &net.network.nodes()[1..];
    let kinds: BTreeSet<&str> =
        layers.iter().filter_map(|n| Some(n.layer.as_ref()?.kind())).collect();
    println!("{} layers of {kinds:?}", layers.len());
    let (n, threads) = (x.shape[0], std::thread::available_parallelism()?.get());
    let plan = Plan::compile(&net.network, &PlanOptions::predict(n, threads))?;
    let mut session = Session::new(plan)?;
    session.set_params(&net.params)?;
    session.set_state(&net.state)?;
    session.input_mut().copy_from_slice(&net.input(x)?);
    Ok(net.outputs(session.predict(n)?, n)?)
}

fn read_npy(path: &Path) -> Result<Tensor, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..end]).into_owned();
    if !header.contains("'<f4'") || header.contains("'fortran_order': True") {
        return Err("the input must be 32-bit floats in C order".into());
    }
    let sizes = header.split(['(', ')']).nth(1).unwrap_or("");
    let shape: Vec<usize> = sizes.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let values = bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(Tensor::floats(&shape, values.collect()))
}

fn write_npy(path: &Path, t: &Tensor) -> Result<(), Box<dyn Error>> {
    let sizes: String = t.shape.iter().map(|n| format!("{n},")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}");
    // Numbers begin at a multiple of 64 bytes, a line break before them.
    let end = (10 + header.len() + 1).next_multiple_of(64) - 1;
    header.extend(std::iter::repeat_n(' ', end - 10 - header.len()));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len())?.to_le_bytes());
    bytes.extend(header.into_bytes());
    bytes.extend(t.f32s()?.iter().flat_map(|v| v.to_le_bytes()));
    Ok(std::fs::write(path, bytes)?)
}
