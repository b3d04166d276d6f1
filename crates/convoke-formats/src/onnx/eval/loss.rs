//! Losses, and the optimizers of the training op set.

use super::super::Said;
use super::super::tensor::Tensor;
use super::{Call, like};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    Some(match &c.node.op[..] {
        "NegativeLogLikelihoodLoss" => c.input(0).and_then(|x| likelihood(c, x)).map(|t| vec![t]),
        "SoftmaxCrossEntropyLoss" => entropy(c),
        "Adagrad" | "Adam" | "Momentum" if !c.node.domain.is_empty() => step(c),
        _ => return None,
    })
}

/// `−weight[label] · x[label]` of log probabilities `x [n, classes, …]`, reduced as asked.
fn likelihood(c: &Call, x: &Tensor) -> Said<Tensor> {
    let labels = c.input(1)?;
    let weights = c.optional(2).map(|w| w.f32s()).transpose()?;
    let [n, classes, ..] = x.shape[..] else { return Err(format!("scores of {:?}", x.shape)) };
    let plane: usize = x.shape[2..].iter().product();
    if labels.shape != [&[n], &x.shape[2..]].concat() || weights.is_some_and(|w| w.len() != classes)
    {
        return Err(format!("labels of {:?} for scores of {:?}", labels.shape, x.shape));
    }
    c.budget.room(&labels.shape)?;
    let ignored = c.node.has("ignore_index").then(|| c.node.int("ignore_index", 0)).transpose()?;
    let values = x.f32s()?;
    let (mut losses, mut total) = (Vec::with_capacity(labels.len()), 0f64);
    for (i, &label) in labels.i64s()?.iter().enumerate() {
        if Some(label) == ignored {
            losses.push(0.0);
            continue;
        }
        let class = usize::try_from(label).ok().filter(|&l| l < classes);
        let class = class.ok_or_else(|| format!("label {label} of {classes} classes"))?;
        let weight = weights.map_or(1.0, |w| w[class]);
        total += f64::from(weight);
        losses.push(-weight * values[(i / plane * classes + class) * plane + i % plane]);
    }
    let sum = || losses.iter().map(|&l| f64::from(l)).sum::<f64>();
    match &c.node.text("reduction", "mean")?[..] {
        "none" => Ok(like(x, &labels.shape, losses)),
        "sum" => Ok(like(x, &[], vec![sum() as f32])),
        _ => Ok(like(x, &[], vec![(sum() / total) as f32])),
    }
}

fn entropy(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    let [n, classes, ..] = x.shape[..] else { return Err(format!("scores of {:?}", x.shape)) };
    let plane: usize = x.shape[2..].iter().product();
    c.budget.room(&x.shape)?;
    let values = x.f32s()?;
    let mut logs = vec![0f32; values.len()];
    for i in 0..n * plane {
        let at = |class: usize| (i / plane * classes + class) * plane + i % plane;
        let most = (0..classes).map(|k| values[at(k)]).fold(f32::NEG_INFINITY, f32::max);
        let exp = |k: usize| f64::from(values[at(k)] - most).exp();
        let sum = (0..classes).map(exp).sum::<f64>().ln();
        for k in 0..classes {
            logs[at(k)] = (f64::from(values[at(k)] - most) - sum) as f32;
        }
    }
    let logs = like(x, &x.shape, logs);
    Ok(vec![likelihood(c, &logs)?, logs])
}

/// One step of an optimizer over several tensors: inputs are the rate, the step's number, then all
/// tensors, all gradients, and the memory.
fn step(c: &Call) -> Said<Vec<Tensor>> {
    let adam = c.node.op == "Adam";
    let rate = f64::from(c.input(0)?.number()?);
    let t = c.input(1)?.number()?;
    let per = if adam { 4 } else { 3 };
    let count = (c.inputs.len() - 2) / per;
    let part = |kind: usize, i: usize| c.input(2 + kind * count + i)?.f32s();
    let number = |name: &str, default: f32| c.node.float(name, default).map(f64::from);
    let (decay, epsilon) = (number("norm_coefficient", 0.0)?, number("epsilon", 0.0)?);
    let mut outputs: Vec<Vec<Tensor>> = vec![Vec::new(); per - 1];
    for i in 0..count {
        let (x, g, m) = (part(0, i)?, part(1, i)?, part(2, i)?);
        let v = if adam { part(3, i)? } else { m };
        let shape = &c.input(2 + i)?.shape;
        if [g, m, v].iter().any(|p| p.len() != x.len()) {
            return Err("tensors and gradients differ in size".into());
        }
        c.budget.room(shape)?;
        let mut new = vec![Vec::with_capacity(x.len()); per - 1];
        for j in 0..x.len() {
            let (x, m) = (f64::from(x[j]), f64::from(m[j]));
            let g = f64::from(g[j]) + decay * x;
            let out = match &c.node.op[..] {
                "Adagrad" => {
                    let rate = rate / (1.0 + f64::from(t) * number("decay_factor", 0.0)?);
                    let h = m + g * g;
                    [x - rate * g / (h.sqrt() + epsilon), h, 0.0]
                }
                "Adam" => {
                    let (a, b) = (number("alpha", 0.9)?, number("beta", 0.999)?);
                    let (m, v) = (a * m + (1.0 - a) * g, b * f64::from(v[j]) + (1.0 - b) * g * g);
                    let t = f64::from(t);
                    let rate = match t > 0.0 {
                        true => rate * (1.0 - b.powf(t)).sqrt() / (1.0 - a.powf(t)),
                        false => rate,
                    };
                    let x = x - rate * m / (v.sqrt() + epsilon);
                    [x * (1.0 - number("norm_coefficient_post", 0.0)?), m, v]
                }
                _ => {
                    let (a, b) = (number("alpha", 0.0)?, number("beta", 0.0)?);
                    let b = if t > 0.0 { b } else { 1.0 };
                    let m = a * m + b * g;
                    let nesterov = c.node.text("mode", "standard")? == "nesterov";
                    [x - rate * if nesterov { g + a * m } else { m }, m, 0.0]
                }
            };
            for (to, v) in new.iter_mut().zip(out) {
                to.push(v as f32);
            }
        }
        for (to, values) in outputs.iter_mut().zip(new) {
            to.push(Tensor::floats(shape, values));
        }
    }
    Ok(outputs.into_iter().flatten().collect())
}
