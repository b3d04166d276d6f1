//! Reductions over axes, softmax, running sums, the largest and their places.

use super::super::Said;
use super::super::tensor::{Data, Kind, Tensor};
use super::{Call, axes, axis, like, split_at};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    Some(match &c.node.op[..] {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => {
            reduce(c).map(|t| vec![t])
        }
        "ArgMax" | "ArgMin" => places(c).map(|t| vec![t]),
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax(c).map(|t| vec![t]),
        "CumSum" => running(c).map(|t| vec![t]),
        "TopK" => top(c),
        _ => return None,
    })
}

/// The axes that a reduction goes over; `None` when it does nothing.
pub(in super::super) fn reduced(
    node: &super::Node,
    given: Option<Vec<i64>>,
    rank: usize,
) -> Said<Option<Vec<usize>>> {
    match given {
        Some(list) if !list.is_empty() => axes(&list, rank).map(Some),
        _ if node.flag("noop_with_empty_axes", false)? => Ok(None),
        _ => Ok(Some((0..rank).collect())),
    }
}

fn reduce(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let op = c.node.op.trim_start_matches("Reduce");
    let over = reduced(c.node, c.ints("axes", 1)?, x.rank())?;
    // Without axes each number is reduced by itself.
    let over = over.unwrap_or_default();
    let mut order: Vec<usize> = (0..x.rank()).filter(|a| !over.contains(a)).collect();
    let outer: usize = order.iter().map(|&a| x.shape[a]).product();
    let run: usize = over.iter().map(|&a| x.shape[a]).product();
    let keep = c.node.flag("keepdims", true)?;
    let shape: Vec<usize> = match keep {
        true => (0..x.rank()).map(|a| if over.contains(&a) { 1 } else { x.shape[a] }).collect(),
        false => order.iter().map(|&a| x.shape[a]).collect(),
    };
    c.budget.room(&shape)?;
    order.extend(&over);
    let turned = x.transposed(&order);
    match &turned.data {
        Data::Float(v) => {
            let one = |i: usize| fold(op, &v[i * run..][..run]) as f32;
            Ok(Tensor::of(x.kind, &shape, (0..outer).map(one).collect()))
        }
        Data::Int(v) => {
            let one = |i: usize| x.kind.wrap(fold_whole(op, &v[i * run..][..run], x.kind));
            Ok(Tensor::ints(x.kind, &shape, (0..outer).map(one).collect()))
        }
    }
}

fn fold(op: &str, run: &[f32]) -> f64 {
    let wide = run.iter().map(|&v| f64::from(v));
    match op {
        "Sum" => wide.sum(),
        "Mean" => wide.sum::<f64>() / run.len() as f64,
        "Max" => wide.fold(f64::NEG_INFINITY, |m, v| if v > m || v.is_nan() { v } else { m }),
        "Min" => wide.fold(f64::INFINITY, |m, v| if v < m || v.is_nan() { v } else { m }),
        "Prod" => wide.product(),
        "L1" => wide.map(f64::abs).sum(),
        "L2" => wide.map(|v| v * v).sum::<f64>().sqrt(),
        "SumSquare" => wide.map(|v| v * v).sum(),
        "LogSum" => wide.sum::<f64>().ln(),
        _ => {
            let most = wide.clone().fold(f64::NEG_INFINITY, f64::max);
            match most.is_finite() {
                true => wide.map(|v| (v - most).exp()).sum::<f64>().ln() + most,
                false => most,
            }
        }
    }
}

fn fold_whole(op: &str, run: &[i64], kind: Kind) -> i64 {
    let all = run.iter().copied();
    match op {
        "Sum" => all.fold(0, i64::wrapping_add),
        "Mean" => all.fold(0, i64::wrapping_add).checked_div(run.len() as i64).unwrap_or(0),
        "Max" => all.max().unwrap_or(kind.bounds().0),
        "Min" => all.min().unwrap_or(kind.bounds().1),
        "Prod" => all.fold(1, i64::wrapping_mul),
        "L1" => all.fold(0, |s, v| s.wrapping_add(v.wrapping_abs())),
        "SumSquare" => all.fold(0, |s, v| s.wrapping_add(v.wrapping_mul(v))),
        _ => fold(op, &run.iter().map(|&v| v as f32).collect::<Vec<_>>()) as i64,
    }
}

fn places(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let at = axis(c.node.int("axis", 0)?, x.rank())?;
    let (outer, n, inner) = split_at(&x.shape, at);
    if n == 0 {
        return Err("looks for the largest of nothing".into());
    }
    let (last, keep) = (c.node.flag("select_last_index", false)?, c.node.flag("keepdims", true)?);
    let sign = if c.node.op == "ArgMax" { 1.0 } else { -1.0 };
    let v = x.to_f32s();
    let mut found = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let of = |j: usize| sign * v[(o * n + j) * inner + i];
            let better = |best: usize, j: usize| {
                let (a, b) = (of(j), of(best));
                if a > b || last && a == b { j } else { best }
            };
            found.push((1..n).fold(0, better) as i64);
        }
    }
    let mut shape = x.shape.clone();
    match keep {
        true => shape[at] = 1,
        false => drop(shape.remove(at)),
    }
    Ok(Tensor::ints(Kind::I64, &shape, found))
}

/// Before op set 13 all axes from `axis` on (1 by default) were one.
fn softmax(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let (outer, n, inner) = match c.node.opset < 13 {
        true => {
            let at = c.node.int("axis", 1)?;
            let at = if at == x.rank() as i64 { x.rank() } else { axis(at, x.rank())? };
            (x.shape[..at].iter().product(), x.shape[at..].iter().product(), 1)
        }
        false => split_at(&x.shape, axis(c.node.int("axis", -1)?, x.rank())?),
    };
    let v = x.f32s()?;
    let mut y = vec![0f32; v.len()];
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| (o * n + j) * inner + i;
            let run: Vec<f64> = (0..n).map(|j| f64::from(v[at(j)])).collect();
            let most = run.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = run.iter().map(|v| (v - most).exp()).sum();
            let first = run.iter().position(|&v| v == most);
            for (j, v) in run.iter().enumerate() {
                y[at(j)] = match &c.node.op[..] {
                    "Softmax" => ((v - most).exp() / sum) as f32,
                    "LogSoftmax" => (v - most - sum.ln()) as f32,
                    _ => f32::from(Some(j) == first),
                };
            }
        }
    }
    Ok(like(x, &x.shape, y))
}

fn running(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let at = c.input(1)?.number()? as i64;
    let (outer, n, inner) = split_at(&x.shape, axis(at, x.rank())?);
    let (exclusive, reverse) = (c.node.flag("exclusive", false)?, c.node.flag("reverse", false)?);
    let mut order = vec![0; x.len()];
    let place =
        |o: usize, j: usize, i: usize| (o * n + if reverse { n - 1 - j } else { j }) * inner + i;
    let mut previous = vec![None; x.len()];
    for o in 0..outer {
        for i in 0..inner {
            for j in 0..n {
                let here = place(o, j, i);
                order[(o * inner + i) * n + j] = here;
                previous[here] = j.checked_sub(1).map(|j| place(o, j, i));
            }
        }
    }
    match &x.data {
        Data::Float(v) => {
            let mut y = vec![0f64; v.len()];
            for &here in &order {
                let own = |at: usize| f64::from(v[at]);
                y[here] = match (previous[here], exclusive) {
                    (Some(p), true) => y[p] + own(p),
                    (Some(p), false) => y[p] + own(here),
                    (None, true) => 0.0,
                    (None, false) => own(here),
                };
            }
            Ok(Tensor::of(x.kind, &x.shape, y.iter().map(|&v| v as f32).collect()))
        }
        Data::Int(v) => {
            let mut y = vec![0i64; v.len()];
            for &here in &order {
                y[here] = match (previous[here], exclusive) {
                    (Some(p), true) => y[p].wrapping_add(v[p]),
                    (Some(p), false) => y[p].wrapping_add(v[here]),
                    (None, true) => 0,
                    (None, false) => v[here],
                };
            }
            Ok(Tensor::ints(x.kind, &x.shape, y))
        }
    }
}

fn top(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let at = axis(c.node.int("axis", -1)?, x.rank())?;
    let (outer, n, inner) = split_at(&x.shape, at);
    let k = match c.optional(1) {
        Some(t) => t.i64s()?.first().copied().ok_or("has no k")?,
        None => c.node.int("k", 0)?,
    };
    let k = usize::try_from(k).ok().filter(|&k| k <= n).ok_or(format!("the first {k} of {n}"))?;
    let largest = c.node.flag("largest", true)?;
    c.budget.charge(x.len().saturating_mul(8))?;
    let mut from = vec![0; outer * k * inner];
    let mut found = vec![0i64; outer * k * inner];
    let values = x.to_f32s();
    for o in 0..outer {
        for i in 0..inner {
            let of = |j: usize| (o * n + j) * inner + i;
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| {
                let (x, y) = match &x.data {
                    Data::Int(v) => {
                        return if largest {
                            v[of(b)].cmp(&v[of(a)])
                        } else {
                            v[of(a)].cmp(&v[of(b)])
                        };
                    }
                    Data::Float(_) => (values[of(a)], values[of(b)]),
                };
                let (x, y) = if largest { (y, x) } else { (x, y) };
                x.partial_cmp(&y).unwrap_or(std::cmp::Ordering::Equal)
            });
            for (j, &source) in order.iter().take(k).enumerate() {
                let place = (o * k + j) * inner + i;
                (from[place], found[place]) = (of(source), source as i64);
            }
        }
    }
    let mut shape = x.shape.clone();
    shape[at] = k;
    Ok(vec![x.picked(shape.clone(), from.into_iter()), Tensor::ints(Kind::I64, &shape, found)])
}
