//! Layer normalisation as its definition reads, over rows of `c` numbers.

/// `(x − mean) / sqrt(var + epsilon)` of each row.
fn normal(x: &[f32], c: usize, epsilon: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut invstd) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(c) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / c as f64;
        let var = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / c as f64;
        let scale = 1.0 / (var + epsilon).sqrt();
        y.extend(row.iter().map(|&v| (f64::from(v) - mean) * scale));
        invstd.push(scale);
    }
    (y, invstd)
}

/// `(x − mean) / sqrt(var + epsilon) · gamma + beta`.
pub fn forward(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f64) -> Vec<f64> {
    let c = gamma.len();
    let (mut y, _) = normal(x, c, epsilon);
    for (i, y) in y.iter_mut().enumerate() {
        *y = *y * f64::from(gamma[i % c]) + f64::from(beta[i % c]);
    }
    y
}

/// Gradients of `x`, `gamma` and `beta`.
pub fn backward(
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    epsilon: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let c = gamma.len();
    let (n, invstd) = normal(x, c, epsilon);
    let (mut dgamma, mut dbeta, mut dx) = (vec![0.0; c], vec![0.0; c], Vec::new());
    for (row, scale) in invstd.into_iter().enumerate() {
        let at = row * c..(row + 1) * c;
        let (n, dy) = (&n[at.clone()], &dy[at]);
        let g: Vec<f64> =
            dy.iter().zip(gamma).map(|(&d, &w)| f64::from(d) * f64::from(w)).collect();
        let mean = g.iter().sum::<f64>() / c as f64;
        let product = g.iter().zip(n).map(|(g, n)| g * n).sum::<f64>() / c as f64;
        for i in 0..c {
            dgamma[i] += f64::from(dy[i]) * n[i];
            dbeta[i] += f64::from(dy[i]);
            dx.push(scale * (g[i] - mean - n[i] * product));
        }
    }
    (dx, dgamma, dbeta)
}
