//! Batch normalisation as its definition reads, over rows of `c` numbers.

/// Mean and biased variance of each channel of `x [rows, c]`.
pub fn statistics(x: &[f32], c: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (x.len() / c) as f64;
    let column = |i: usize| x[i..].iter().step_by(c).map(|&v| f64::from(v));
    let mean: Vec<f64> = (0..c).map(|i| column(i).sum::<f64>() / rows).collect();
    let var =
        (0..c).map(|i| column(i).map(|v| (v - mean[i]).powi(2)).sum::<f64>() / rows).collect();
    (mean, var)
}

/// Gradients of `x`, `gamma` and `beta` from that of `(x − mean) / sqrt(var + epsilon) · gamma + beta`.
pub fn backward(
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    epsilon: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let c = gamma.len();
    let rows = (x.len() / c) as f64;
    let (mean, var) = statistics(x, c);
    let invstd: Vec<f64> = var.iter().map(|v| 1.0 / (v + epsilon).sqrt()).collect();
    let normal = |i: usize| (f64::from(x[i]) - mean[i % c]) * invstd[i % c];
    let (mut dgamma, mut dbeta) = (vec![0.0; c], vec![0.0; c]);
    for (i, &g) in dy.iter().enumerate() {
        dgamma[i % c] += f64::from(g) * normal(i);
        dbeta[i % c] += f64::from(g);
    }
    let dx = (0..x.len())
        .map(|i| {
            let k = i % c;
            let centred = f64::from(dy[i]) - dbeta[k] / rows - normal(i) * dgamma[k] / rows;
            f64::from(gamma[k]) * invstd[k] * centred
        })
        .collect();
    (dx, dgamma, dbeta)
}
