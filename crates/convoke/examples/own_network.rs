//! Your own network, and what it costs before it runs.
//!
//! `cargo run --release --example own_network`

use convoke::prelude::*;

fn main() -> Result<(), convoke::engine::Error> {
    // A branch: two windows of different size over the same map, side by side.
    let mut b = Builder::new("two-windows", Shape::new(32, 32, 3));
    let x = b.conv(Conv::new(16, 3)).batch_norm().relu().here();
    let narrow = b.conv(Conv::new(16, 3)).relu().here();
    let wide = b.at(x).conv(Conv::new(16, 5)).relu().here();
    b.concat(&[narrow, wide]).max_pool(2, 2).global_mean_pool().dense(10);
    let net = b.build()?;

    let fields = net.fields();
    for (id, node) in net.iter() {
        let sees = fields[id.index()].h.size;
        println!("{:<20} {:>10}  sees {sees} pixels", node.name, node.shape.to_string());
    }
    println!("{} parameters, {} MACs", net.parameters(), net.macs());

    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let plan = Plan::compile(&net, &PlanOptions::train(64, 2, loss, sgd))?;
    println!("training 64 pictures at a time takes {} KiB", plan.memory().total / 1024);

    // The same network as a file: `convoke train DATA --model two-windows.toml`.
    println!("\n{}", net.to_toml());
    Ok(())
}
