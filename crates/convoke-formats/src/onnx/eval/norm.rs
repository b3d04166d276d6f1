//! Normalisations.

use super::super::Said;
use super::super::tensor::{Kind, Tensor};
use super::{Call, axes, axis, like, split_at};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    Some(match &c.node.op[..] {
        "BatchNormalization" => batch(c),
        "InstanceNormalization" => instance(c).map(|t| vec![t]),
        "GroupNormalization" => group(c).map(|t| vec![t]),
        "LayerNormalization" => layer(c),
        "RMSNormalization" => root_mean_square(c).map(|t| vec![t]),
        "LRN" => local_response(c).map(|t| vec![t]),
        "LpNormalization" => lp(c).map(|t| vec![t]),
        "MeanVarianceNormalization" => mean_variance(c).map(|t| vec![t]),
        _ => return None,
    })
}

/// One number per channel.
fn per_channel<'a>(c: &Call<'a>, i: usize, channels: usize) -> Said<&'a [f32]> {
    let v = c.input(i)?.f32s()?;
    match v.len() == channels {
        true => Ok(v),
        false => Err(format!("input {i} has {} numbers for {channels} channels", v.len())),
    }
}

fn batch(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    if x.rank() < 2 {
        return Err(format!("has no channels in {:?}", x.shape));
    }
    let (n, channels, plane) = split_at(&x.shape, 1);
    if !c.node.flag("spatial", true)? {
        return Err("normalises each place by itself (spatial = 0), which is not supported".into());
    }
    let [scale, bias, mean, var] = [1, 2, 3, 4].map(|i| per_channel(c, i, channels));
    let (scale, bias, mut mean, mut var) = (scale?, bias?, mean?.to_vec(), var?.to_vec());
    let (epsilon, momentum) = (c.node.float("epsilon", 1e-5)?, c.node.float("momentum", 0.9)?);
    let xs = x.f32s()?;
    // In op sets before 7, `is_test` = 0 meant training; from 14 on, `training_mode`.
    let training = c.node.flag("training_mode", false)?;
    let mut more = Vec::new();
    if training {
        let count = (n * plane) as f64;
        let (mut running_mean, mut running_var) = (mean.clone(), var.clone());
        for ch in 0..channels {
            let all = || (0..n).flat_map(move |i| &xs[(i * channels + ch) * plane..][..plane]);
            let m = all().map(|&v| f64::from(v)).sum::<f64>() / count;
            let v = all().map(|&v| (f64::from(v) - m).powi(2)).sum::<f64>() / count;
            (mean[ch], var[ch]) = (m as f32, v as f32);
            running_mean[ch] = running_mean[ch] * momentum + mean[ch] * (1.0 - momentum);
            running_var[ch] = running_var[ch] * momentum + var[ch] * (1.0 - momentum);
        }
        more = vec![like(x, &[channels], running_mean), like(x, &[channels], running_var)];
    }
    let mut y = Vec::with_capacity(xs.len());
    for (i, map) in xs.chunks_exact(plane.max(1)).enumerate() {
        let ch = i % channels;
        let factor = f64::from(scale[ch]) / (f64::from(var[ch]) + f64::from(epsilon)).sqrt();
        let shift = f64::from(bias[ch]) - f64::from(mean[ch]) * factor;
        y.extend(map.iter().map(|&v| (f64::from(v) * factor + shift) as f32));
    }
    more.insert(0, like(x, &x.shape, y));
    Ok(more)
}

/// Mean 0 and variance 1 of a run of numbers.
fn standard(run: &[f32], epsilon: f32) -> impl Iterator<Item = f64> + '_ {
    let (mean, scale, _) = moments(run, epsilon);
    run.iter().map(move |&v| (f64::from(v) - mean) * scale)
}

/// Mean, `1 / sqrt(variance + epsilon)`.
fn moments(run: &[f32], epsilon: f32) -> (f64, f64, f64) {
    let n = run.len() as f64;
    let mean = run.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let var = run.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (var + f64::from(epsilon)).sqrt(), var)
}

fn instance(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    if x.rank() < 3 {
        return Err(format!("has no maps in {:?}", x.shape));
    }
    c.budget.room(&x.shape)?;
    let (_, channels, plane) = split_at(&x.shape, 1);
    let (scale, bias) = (per_channel(c, 1, channels)?, per_channel(c, 2, channels)?);
    let epsilon = c.node.float("epsilon", 1e-5)?;
    let mut y = Vec::with_capacity(x.len());
    for (i, map) in x.f32s()?.chunks_exact(plane.max(1)).enumerate() {
        let (s, b) = (f64::from(scale[i % channels]), f64::from(bias[i % channels]));
        y.extend(standard(map, epsilon).map(|v| (v * s + b) as f32));
    }
    Ok(like(x, &x.shape, y))
}

fn group(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    if x.rank() < 2 {
        return Err(format!("has no channels in {:?}", x.shape));
    }
    c.budget.room(&x.shape)?;
    let (n, channels, plane) = split_at(&x.shape, 1);
    let groups = usize::try_from(c.node.int("num_groups", 0)?).unwrap_or(0);
    if groups == 0 || channels % groups != 0 {
        return Err(format!("{groups} groups of {channels} channels"));
    }
    // Before op set 21 scale and bias were per group.
    let each = |i: usize| -> Said<Vec<f32>> {
        let v = c.input(i)?.f32s()?;
        match v.len() {
            l if l == channels => Ok(v.to_vec()),
            l if l == groups => Ok((0..channels).map(|ch| v[ch / (channels / groups)]).collect()),
            l => Err(format!("input {i} has {l} numbers for {channels} channels")),
        }
    };
    let (scale, bias) = (each(1)?, each(2)?);
    let epsilon = c.node.float("epsilon", 1e-5)?;
    let run = (channels / groups * plane).max(1);
    let mut y = Vec::with_capacity(n * channels * plane);
    for part in x.f32s()?.chunks_exact(run) {
        for v in standard(part, epsilon) {
            let ch = y.len() / plane % channels;
            y.push((v * f64::from(scale[ch]) + f64::from(bias[ch])) as f32);
        }
    }
    Ok(like(x, &x.shape, y))
}

fn layer(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let at = axis(c.node.int("axis", -1)?, x.rank())?;
    let epsilon = c.node.float("epsilon", 1e-5)?;
    let run: usize = x.shape[at..].iter().product();
    let scale = c.input(1)?.expanded(&x.shape[at..])?;
    let bias = c.optional(2).map(|b| b.expanded(&x.shape[at..])).transpose()?;
    let (mut y, mut means, mut scales) = (Vec::with_capacity(x.len()), Vec::new(), Vec::new());
    for part in x.f32s()?.chunks_exact(run.max(1)) {
        let (mean, factor, _) = moments(part, epsilon);
        means.push(mean as f32);
        scales.push(factor as f32);
        for (i, v) in standard(part, epsilon).enumerate() {
            let shift = bias.as_ref().map_or(Ok(0.0), |b| b.f32s().map(|b| f64::from(b[i])))?;
            y.push((v * f64::from(scale.f32s()?[i]) + shift) as f32);
        }
    }
    let mut shape = x.shape.clone();
    shape[at..].fill(1);
    let told = |v| Tensor::of(Kind::F32, &shape, v);
    Ok(vec![like(x, &x.shape, y), told(means), told(scales)])
}

fn root_mean_square(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let at = axis(c.node.int("axis", -1)?, x.rank())?;
    let epsilon = f64::from(c.node.float("epsilon", 1e-5)?);
    let run: usize = x.shape[at..].iter().product();
    let scale = c.input(1)?.expanded(&x.shape[at..])?;
    let mut y = Vec::with_capacity(x.len());
    for part in x.f32s()?.chunks_exact(run.max(1)) {
        let mean = part.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / run as f64;
        let factor = 1.0 / (mean + epsilon).sqrt();
        y.extend(
            part.iter()
                .zip(scale.f32s()?)
                .map(|(&v, &s)| (f64::from(v) * factor * f64::from(s)) as f32),
        );
    }
    Ok(like(x, &x.shape, y))
}

fn local_response(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    if x.rank() < 2 {
        return Err(format!("has no channels in {:?}", x.shape));
    }
    let size =
        usize::try_from(c.node.int("size", 0)?).ok().filter(|&s| s > 0).ok_or("has no `size`")?;
    let alpha = f64::from(c.node.float("alpha", 1e-4)?);
    let (beta, k) = (f64::from(c.node.float("beta", 0.75)?), f64::from(c.node.float("bias", 1.0)?));
    c.budget.room(&x.shape)?;
    let (_, channels, plane) = split_at(&x.shape, 1);
    c.budget.charge(x.len().saturating_mul(size.min(channels)))?;
    let xs = x.f32s()?;
    let mut y = Vec::with_capacity(xs.len());
    for i in 0..xs.len() {
        let (ch, place) =
            (i / plane % channels, i / plane / channels * channels * plane + i % plane);
        let (from, to) = (ch.saturating_sub((size - 1) / 2), (ch + size / 2).min(channels - 1));
        let squares: f64 = (from..=to).map(|c| f64::from(xs[place + c * plane]).powi(2)).sum();
        y.push((f64::from(xs[i]) / (k + alpha / size as f64 * squares).powf(beta)) as f32);
    }
    Ok(like(x, &x.shape, y))
}

fn lp(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let (outer, n, inner) = split_at(&x.shape, axis(c.node.int("axis", -1)?, x.rank())?);
    let p = c.node.int("p", 2)?;
    let mut y = x.f32s()?.to_vec();
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| (o * n + j) * inner + i;
            let sum: f64 = (0..n)
                .map(|j| f64::from(y[at(j)]))
                .map(|v| if p == 1 { v.abs() } else { v * v })
                .sum();
            let norm = if p == 1 { sum } else { sum.sqrt() };
            for j in 0..n {
                y[at(j)] = if norm == 0.0 { 0.0 } else { (f64::from(y[at(j)]) / norm) as f32 };
            }
        }
    }
    Ok(like(x, &x.shape, y))
}

fn mean_variance(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let default = [0, 2, 3];
    let over = axes(c.node.ints("axes")?.unwrap_or(&default), x.rank())?;
    // The axes to normalise over go last.
    let mut order: Vec<usize> = (0..x.rank()).filter(|a| !over.contains(a)).collect();
    order.extend(&over);
    let turned = x.transposed(&order);
    let run: usize = over.iter().map(|&a| x.shape[a]).product();
    let mut y = Vec::with_capacity(x.len());
    for part in turned.f32s()?.chunks_exact(run.max(1)) {
        let (mean, _, var) = moments(part, 0.0);
        y.extend(part.iter().map(|&v| ((f64::from(v) - mean) / (var.sqrt() + 1e-9)) as f32));
    }
    let mut back = vec![0; order.len()];
    for (i, &a) in order.iter().enumerate() {
        back[a] = i;
    }
    Ok(like(x, &turned.shape, y).transposed(&back))
}
