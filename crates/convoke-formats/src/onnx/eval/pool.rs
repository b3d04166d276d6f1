//! Pools: the largest, the mean, or a norm of each window or of a whole map.

use super::super::Said;
use super::super::tensor::{Kind, Tensor, count, strides};
use super::window::{Windows, each, sizes};
use super::{Call, like};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    Some(match &c.node.op[..] {
        "MaxPool" => max(c),
        "AveragePool" | "LpPool" => windowed(c).map(|t| vec![t]),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => global(c).map(|t| vec![t]),
        "MaxUnpool" => unpool(c).map(|t| vec![t]),
        _ => return None,
    })
}

fn windows(c: &Call, x: &Tensor) -> Said<(Windows, Vec<usize>)> {
    if x.rank() < 3 {
        return Err(format!("a pool over {:?}", x.shape));
    }
    let n = x.rank() - 2;
    if !c.node.has("kernel_shape") {
        return Err("has no `kernel_shape`".into());
    }
    let taps = sizes(c.node, "kernel_shape", n, 1, 1)?;
    let windows = Windows::read(c.node, &x.shape[2..], &taps)?;
    let shape = [&x.shape[..2], &windows.out()[..]].concat();
    let len = c.budget.room(&shape)?;
    c.budget.charge(len.saturating_mul(count(&taps)?))?;
    Ok((windows, shape))
}

/// Calls `f(place, output)` with the inputs that every output of a map reads.
fn visit(w: &Windows, mut f: impl FnMut(usize, &[usize], &[(usize, Vec<usize>)])) {
    let (out, taps) = (w.out(), w.taps());
    let mut place = 0;
    let mut inside = Vec::new();
    each(&out, |o| {
        inside.clear();
        each(&taps, |t| {
            let at: Option<Vec<usize>> =
                w.0.iter().zip(o.iter().zip(t)).map(|(s, (&o, &t))| s.at(o, t)).collect();
            if let Some(at) = at {
                let flat = w.0.iter().zip(&at).fold(0, |p, (s, &i)| p * s.input + i);
                inside.push((flat, at));
            }
        });
        f(place, o, &inside);
        place += 1;
    });
}

fn max(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    let (w, shape) = windows(c, x)?;
    let (maps, plane, places) = dims(x, &w);
    let column_major = c.node.int("storage_order", 0)? == 1;
    let values = x.to_f32s();
    let len = maps * places;
    let (mut y, mut args) = (vec![f32::NEG_INFINITY; len], vec![0i64; len]);
    visit(&w, |place, _, inside| {
        for map in 0..maps {
            let part = &values[map * plane..][..plane];
            let (mut best, mut arg) = (f32::NEG_INFINITY, None);
            for (flat, at) in inside {
                let v = part[*flat];
                if arg.is_none() || v > best || v.is_nan() {
                    (best, arg) = (v, Some((*flat, at)));
                }
            }
            y[map * places + place] = best;
            if let Some((flat, at)) = arg {
                let within = match column_major {
                    true => w.0.iter().zip(at).rev().fold(0, |p, (s, &i)| p * s.input + i),
                    false => flat,
                };
                args[map * places + place] = (map * plane + within) as i64;
            }
        }
    });
    let values = match x.kind.is_float() {
        true => like(x, &shape, y),
        false => Tensor::ints(x.kind, &shape, y.iter().map(|&v| v as i64).collect()),
    };
    Ok(vec![values, Tensor::ints(Kind::I64, &shape, args)])
}

/// Maps in all, numbers of one, outputs of one.
fn dims(x: &Tensor, w: &Windows) -> (usize, usize, usize) {
    (x.shape[0] * x.shape[1], x.shape[2..].iter().product(), w.out().iter().product())
}

fn windowed(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let (w, shape) = windows(c, x)?;
    let (maps, plane, places) = dims(x, &w);
    let mean = c.node.op == "AveragePool";
    let p = f64::from(c.node.int("p", 2)? as f32);
    let count_padding = c.node.flag("count_include_pad", false)?;
    let values = x.f32s()?;
    let mut y = vec![0f32; maps * places];
    visit(&w, |place, o, inside| {
        // The padding that was asked for counts, what a last window needs beyond it does not.
        let counted = match count_padding {
            false => inside.len(),
            true => w
                .0
                .iter()
                .zip(o)
                .map(|(s, &o)| {
                    (0..s.size)
                        .filter(|t| o * s.stride + t * s.dilation < s.input + s.before + s.after)
                        .count()
                })
                .product(),
        };
        for map in 0..maps {
            let part = inside.iter().map(|(flat, _)| f64::from(values[map * plane + flat]));
            y[map * places + place] = match mean {
                true => (part.sum::<f64>() / counted as f64) as f32,
                false => part.map(|v| v.abs().powf(p)).sum::<f64>().powf(1.0 / p) as f32,
            };
        }
    });
    Ok(like(x, &shape, y))
}

fn global(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    if x.rank() < 2 {
        return Err(format!("a pool over {:?}", x.shape));
    }
    let plane: usize = x.shape[2..].iter().product();
    let mut shape = x.shape.clone();
    shape[2..].fill(1);
    c.budget.charge(x.len())?;
    if plane == 0 {
        return Err(format!("a pool over {:?}", x.shape));
    }
    let p = f64::from(c.node.int("p", 2)? as f32);
    let one = |map: &[f32]| {
        let wide = map.iter().map(|&v| f64::from(v));
        match &c.node.op[..] {
            "GlobalAveragePool" => wide.sum::<f64>() / plane as f64,
            "GlobalMaxPool" => {
                wide.fold(f64::NEG_INFINITY, |m, v| if v > m || v.is_nan() { v } else { m })
            }
            _ => wide.map(|v| v.abs().powf(p)).sum::<f64>().powf(1.0 / p),
        }
    };
    let values = x.f32s()?.chunks_exact(plane).map(|map| one(map) as f32).collect();
    Ok(like(x, &shape, values))
}

/// Puts each number to the place that `MaxPool` found it at.
fn unpool(c: &Call) -> Said<Tensor> {
    let (x, places) = (c.input(0)?, c.input(1)?);
    if x.rank() < 3 || places.shape != x.shape {
        return Err(format!("places of {:?} for {:?}", places.shape, x.shape));
    }
    let n = x.rank() - 2;
    let (taps, step, pads) = (
        sizes(c.node, "kernel_shape", n, 1, 1)?,
        sizes(c.node, "strides", n, 1, 1)?,
        sizes(c.node, "pads", 2 * n, 0, 0)?,
    );
    let natural = (0..n).map(|i| {
        let whole = x.shape[2 + i].saturating_sub(1) * step[i] + taps[i];
        whole.checked_sub(pads[i] + pads[n + i]).ok_or("padding leaves nothing".to_string())
    });
    let natural = [x.shape[..2].to_vec(), natural.collect::<Said<Vec<_>>>()?].concat();
    let shape = match c.optional(2) {
        Some(t) => t.i64s()?.iter().map(|&v| usize::try_from(v).unwrap_or(0)).collect(),
        None => natural.clone(),
    };
    if shape.len() != x.rank() || shape.iter().zip(&natural).any(|(s, n)| s < n) {
        return Err(format!("`output_shape` {shape:?} for {natural:?}"));
    }
    let mut y = vec![0f32; c.budget.room(&shape)?];
    // Places are counted in the smaller map and keep their row and column in the larger one.
    let (from, to) = (strides(&natural), strides(&shape));
    for (&v, &at) in x.f32s()?.iter().zip(places.i64s()?) {
        let at = usize::try_from(at)
            .ok()
            .filter(|&a| a < count(&natural).unwrap_or(0))
            .ok_or("a place is not on the map")?;
        let index = (0..shape.len()).map(|i| at / from[i] % natural[i] * to[i]).sum::<usize>();
        y[index] = v;
    }
    Ok(like(x, &shape, y))
}
