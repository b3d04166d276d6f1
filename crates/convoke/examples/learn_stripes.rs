//! Training without a trainer: a network learns to tell horizontal from vertical stripes, step by
//! step, on pictures made on the way.
//!
//! `cargo run --release --example learn_stripes`

use convoke::prelude::*;

const SIDE: usize = 16;
const BATCH: usize = 32;

/// Fills a batch: stripes of random phase and width; label 0 lies, label 1 stands.
fn stripes(seed: &mut u64, pixels: &mut [f32]) -> Vec<u32> {
    let mut random = |n: u64| {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % n
    };
    pixels
        .chunks_exact_mut(SIDE * SIDE)
        .map(|picture| {
            let (label, phase, width) = (random(2), random(8), 2 + random(3));
            for (i, v) in picture.iter_mut().enumerate() {
                let along = if label == 0 { i / SIDE } else { i % SIDE } as u64;
                let noise = random(100) as f32 / 100.0;
                let lit = ((along + phase) / width).is_multiple_of(2);
                *v = f32::from(u8::from(lit)) + noise;
            }
            label as u32
        })
        .collect()
}

fn main() -> Result<(), convoke::engine::Error> {
    let mut b = Builder::new("stripes", Shape::new(SIDE, SIDE, 1));
    b.conv(Conv::new(4, 5)).relu().max_pool(2, 2).global_mean_pool().dense(2);
    let net = b.build()?;
    let loss = Loss::SoftmaxCrossEntropy { label_smoothing: 0.0 };
    let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut session =
        Session::new(Plan::compile(&net, &PlanOptions::train(BATCH, 1, loss, adam))?)?;
    session.init(1);
    let (mut seed, mut right) = (7, 0);
    for step in 1..=400 {
        let labels = stripes(&mut seed, session.input_mut());
        session.labels_mut().copy_from_slice(&labels);
        let report = session.step(0.01)?;
        right += report.correct;
        if step % 100 == 0 {
            let share = right as f64 / (100 * BATCH) as f64;
            println!("step {step}: loss {:.3}, {:.1} % right", report.loss, 100.0 * share);
            right = 0;
        }
    }
    // What the filters look like: weights are [window rows, window columns, channels, filters].
    let filters = &session.params()[..5 * 5 * 4];
    for row in filters.chunks_exact(5 * 4) {
        let line: Vec<String> = (0..4)
            .map(|f| (0..5).map(|x| if row[x * 4 + f] > 0.0 { '#' } else { '.' }).collect())
            .collect();
        println!("{}", line.join("   "));
    }
    Ok(())
}
