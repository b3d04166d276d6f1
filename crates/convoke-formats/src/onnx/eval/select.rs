//! Ops that pick numbers by other numbers.

use super::super::Said;
use super::super::tensor::{Data, Kind, Tensor, count, strides};
use super::{Call, axis, split_at};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    let result = match &c.node.op[..] {
        "Gather" => gather(c),
        "GatherElements" => gather_elements(c),
        "GatherND" => gather_nd(c),
        "ScatterElements" | "Scatter" => scatter_elements(c),
        "ScatterND" => scatter_nd(c),
        "OneHot" => one_hot(c),
        "NonZero" => non_zero(c),
        "Compress" => compress(c),
        "NonMaxSuppression" => suppress(c),
        _ => return None,
    };
    Some(result.map(|t| vec![t]))
}

fn place(i: i64, n: usize) -> Said<usize> {
    let at = if i < 0 { i.checked_add(n as i64) } else { Some(i) };
    let at = at.and_then(|i| usize::try_from(i).ok()).filter(|&i| i < n);
    at.ok_or_else(|| format!("place {i} of {n}"))
}

fn gather(c: &Call) -> Said<Tensor> {
    let (x, which) = (c.input(0)?, c.input(1)?);
    let at = axis(c.node.int("axis", 0)?, x.rank())?;
    let (outer, n, inner) = split_at(&x.shape, at);
    let places = which.i64s()?.iter().map(|&i| place(i, n)).collect::<Said<Vec<_>>>()?;
    let shape = [&x.shape[..at], &which.shape[..], &x.shape[at + 1..]].concat();
    c.budget.room(&shape)?;
    let places = &places;
    let source = (0..outer).flat_map(move |o| {
        places.iter().flat_map(move |p| (o * n + p) * inner..(o * n + p + 1) * inner)
    });
    Ok(x.picked(shape, source))
}

fn gather_elements(c: &Call) -> Said<Tensor> {
    let (x, which) = (c.input(0)?, c.input(1)?);
    let at = axis(c.node.int("axis", 0)?, x.rank())?;
    c.budget.room(&which.shape)?;
    let places = elements(x, which, at)?;
    Ok(x.picked(which.shape.clone(), places.into_iter()))
}

/// Where each index of `which` points in `x` along an axis.
fn elements(x: &Tensor, which: &Tensor, at: usize) -> Said<Vec<usize>> {
    let fits =
        which.rank() == x.rank() && (0..x.rank()).all(|a| a == at || which.shape[a] <= x.shape[a]);
    if !fits {
        return Err(format!("indices of {:?} into {:?}", which.shape, x.shape));
    }
    let (own, index) = (strides(&x.shape), strides(&which.shape));
    let to = |(i, &v): (usize, &i64)| {
        let p = place(v, x.shape[at])?;
        Ok((0..x.rank())
            .map(|a| own[a] * if a == at { p } else { i / index[a] % which.shape[a] })
            .sum())
    };
    which.i64s()?.iter().enumerate().map(to).collect()
}

/// Offsets in `shape` that the last axis of `which` points to, behind `batch` shared axes; and the size of
/// what lies there.
fn offsets(shape: &[usize], which: &Tensor, batch: usize) -> Said<(Vec<usize>, usize)> {
    let depth = *which.shape.last().ok_or("indices have no axis")?;
    if batch + depth > shape.len()
        || which.rank() <= batch
        || which.shape[..batch] != shape[..batch]
    {
        return Err(format!("indices of {:?} into {shape:?}", which.shape));
    }
    let own = strides(shape);
    let run = shape[batch + depth..].iter().product();
    if depth == 0 {
        return Err("indices of no number".into());
    }
    let per_batch: usize = which.shape[batch..which.rank() - 1].iter().product();
    let stride: usize = shape[batch..].iter().product();
    let at = |(i, index): (usize, &[i64])| {
        let inside = index
            .iter()
            .enumerate()
            .map(|(k, &v)| Ok(place(v, shape[batch + k])? * own[batch + k]));
        Ok(i / per_batch.max(1) * stride + inside.sum::<Said<usize>>()?)
    };
    Ok((which.i64s()?.chunks_exact(depth).enumerate().map(at).collect::<Said<Vec<_>>>()?, run))
}

fn gather_nd(c: &Call) -> Said<Tensor> {
    let (x, which) = (c.input(0)?, c.input(1)?);
    let batch =
        usize::try_from(c.node.int("batch_dims", 0)?).map_err(|_| "`batch_dims` is negative")?;
    let (at, run) = offsets(&x.shape, which, batch)?;
    let depth = which.shape[which.rank() - 1];
    let shape = [&which.shape[..which.rank() - 1], &x.shape[batch + depth..]].concat();
    c.budget.room(&shape)?;
    Ok(x.picked(shape, at.into_iter().flat_map(move |o| o..o + run)))
}

/// Puts updates at their places, or joins them with what stands there.
fn scatter(c: &Call, x: &Tensor, at: &[usize], updates: &Tensor) -> Said<Tensor> {
    if at.len() != updates.len() {
        return Err(format!("{} updates for {} places", updates.len(), at.len()));
    }
    let how = c.node.text("reduction", "none")?;
    let mut y = x.clone();
    match (&mut y.data, &updates.data) {
        (Data::Float(v), Data::Float(u)) => {
            for (&i, &u) in at.iter().zip(u) {
                v[i] = match &how[..] {
                    "add" => v[i] + u,
                    "mul" => v[i] * u,
                    "max" => v[i].max(u),
                    "min" => v[i].min(u),
                    _ => u,
                };
            }
        }
        (Data::Int(v), Data::Int(u)) => {
            for (&i, &u) in at.iter().zip(u) {
                v[i] = x.kind.wrap(match &how[..] {
                    "add" => v[i].wrapping_add(u),
                    "mul" => v[i].wrapping_mul(u),
                    "max" => v[i].max(u),
                    "min" => v[i].min(u),
                    _ => u,
                });
            }
        }
        _ => return Err("mixes types".into()),
    }
    Ok(y)
}

fn scatter_elements(c: &Call) -> Said<Tensor> {
    let (x, which, updates) = (c.input(0)?, c.input(1)?, c.input(2)?);
    c.budget.room(&x.shape)?;
    let at = axis(c.node.int("axis", 0)?, x.rank())?;
    scatter(c, x, &elements(x, which, at)?, updates)
}

fn scatter_nd(c: &Call) -> Said<Tensor> {
    let (x, which, updates) = (c.input(0)?, c.input(1)?, c.input(2)?);
    c.budget.room(&x.shape)?;
    let (at, run) = offsets(&x.shape, which, 0)?;
    c.budget.room(&[at.len(), run])?;
    let all: Vec<usize> = at.into_iter().flat_map(|o| o..o + run).collect();
    scatter(c, x, &all, updates)
}

fn one_hot(c: &Call) -> Said<Tensor> {
    let (which, depth, values) = (c.input(0)?, c.input(1)?.number()?, c.input(2)?);
    if !(1.0..1e8).contains(&depth) || values.len() != 2 {
        return Err("has no depth or no two values".into());
    }
    let depth = depth as usize;
    let at = axis(c.node.int("axis", -1)?, which.rank() + 1)?;
    let mut shape = which.shape.clone();
    shape.insert(at, depth);
    let n = c.budget.room(&shape)?;
    let inner: usize = which.shape[at..].iter().product();
    let index = which.to_f32s();
    let on = |i: usize| {
        let (outer, place, rest) = (i / (depth * inner), i / inner % depth, i % inner);
        let v = index[outer * inner + rest];
        let v = if v < 0.0 { v + depth as f32 } else { v };
        usize::from(v == place as f32)
    };
    Ok(values.picked(shape, (0..n).map(on)))
}

fn non_zero(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let values = x.to_f32s();
    let found: Vec<usize> = (0..values.len()).filter(|&i| values[i] != 0.0).collect();
    let own = strides(&x.shape);
    let index = |a: usize| {
        let (stride, n) = (own[a], x.shape[a]);
        found.iter().map(move |&i| (i / stride % n) as i64)
    };
    let all = (0..x.rank()).flat_map(index).collect();
    Ok(Tensor::ints(Kind::I64, &[x.rank(), found.len()], all))
}

fn compress(c: &Call) -> Said<Tensor> {
    let (x, keep) = (c.input(0)?, c.input(1)?.i64s()?);
    c.budget.room(&x.shape)?;
    let chosen: Vec<usize> = (0..keep.len()).filter(|&i| keep[i] != 0).collect();
    let (outer, n, inner, at) = match c.node.has("axis") {
        true => {
            let at = axis(c.node.int("axis", 0)?, x.rank())?;
            let (o, n, i) = split_at(&x.shape, at);
            (o, n, i, Some(at))
        }
        false => (1, x.len(), 1, None),
    };
    if chosen.last().is_some_and(|&i| i >= n) {
        return Err(format!("keeps more than {n}"));
    }
    let shape = match at {
        Some(at) => {
            let mut shape = x.shape.clone();
            shape[at] = chosen.len();
            shape
        }
        None => vec![chosen.len()],
    };
    let chosen = &chosen;
    let source = (0..outer).flat_map(move |o| {
        chosen.iter().flat_map(move |p| (o * n + p) * inner..(o * n + p + 1) * inner)
    });
    Ok(x.picked(shape, source))
}

/// Boxes of one class that overlap a better one too much are left out.
fn suppress(c: &Call) -> Said<Tensor> {
    let (boxes, scores) = (c.input(0)?, c.input(1)?);
    let ([batches, n, 4], [b, classes, m]) = (shape3(boxes)?, shape3(scores)?) else {
        return Err(format!("boxes of {:?}", boxes.shape));
    };
    if batches != b || n != m {
        return Err(format!("scores of {:?} for boxes of {:?}", scores.shape, boxes.shape));
    }
    let number = |i: usize, default: f32| c.optional(i).map_or(Ok(default), Tensor::number);
    let most = number(2, 0.0)?.max(0.0) as usize;
    let overlap = number(3, 0.0)?;
    let least = number(4, f32::NEG_INFINITY)?;
    c.budget.charge(count(&[batches, classes, n])?.saturating_mul(n.min(most + 1)))?;
    let centre = c.node.int("center_point_box", 0)? == 1;
    let corners = |r: &[f32]| match centre {
        true => [r[1] - r[3] / 2.0, r[0] - r[2] / 2.0, r[1] + r[3] / 2.0, r[0] + r[2] / 2.0],
        false => [r[0].min(r[2]), r[1].min(r[3]), r[0].max(r[2]), r[1].max(r[3])],
    };
    let rects: Vec<[f32; 4]> = boxes.f32s()?.chunks_exact(4).map(corners).collect();
    let shared = |a: &[f32; 4], b: &[f32; 4]| {
        let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
        let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
        let both = side(0) * side(1);
        let union = area(a) + area(b) - both;
        if union > 0.0 { both / union } else { 0.0 }
    };
    let mut found = Vec::new();
    for batch in 0..batches {
        for class in 0..classes {
            let scores = &scores.f32s()?[(batch * classes + class) * n..][..n];
            let mut order: Vec<usize> = (0..n).filter(|&i| scores[i] > least).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() >= most {
                    break;
                }
                let rect = &rects[batch * n + i];
                if kept.iter().all(|&k| shared(&rects[batch * n + k], rect) <= overlap) {
                    kept.push(i);
                    found.extend([batch as i64, class as i64, i as i64]);
                }
            }
        }
    }
    Ok(Tensor::ints(Kind::I64, &[found.len() / 3, 3], found))
}

fn shape3(t: &Tensor) -> Said<[usize; 3]> {
    t.shape[..].try_into().map_err(|_| format!("needs three axes but got {:?}", t.shape))
}
