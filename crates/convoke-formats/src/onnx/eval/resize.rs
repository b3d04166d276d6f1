//! `Resize` and `Upsample`: each axis by itself, from a table of weights.

use super::super::Said;
use super::super::graph::Node;
use super::super::tensor::{Data, Tensor};
use super::{Call, axes, like, split_at};

/// For every output along an axis: the inputs it is made of, with weights; empty where it lies outside and
/// is filled.
pub(in super::super) type Table = Vec<Vec<(usize, f64)>>;

/// How to resize each axis: `None` where it stays.
pub(in super::super) struct Plan {
    pub tables: Vec<Option<Table>>,
    pub fill: f32,
}

struct Settings {
    mode: String,
    coordinates: String,
    nearest: String,
    cubic: f64,
    exclude_outside: bool,
    antialias: bool,
}

/// Reads a node for an input's shape; `floats` gives its input tensors where they are known.
pub(in super::super) fn plan(
    node: &Node,
    shape: &[usize],
    input: &dyn Fn(usize) -> Option<Tensor>,
) -> Said<Plan> {
    let upsample = node.op == "Upsample";
    let old = upsample || node.opset < 11;
    let settings = Settings {
        mode: node.text("mode", "nearest")?,
        coordinates: node.text(
            "coordinate_transformation_mode",
            if old { "asymmetric" } else { "half_pixel" },
        )?,
        nearest: node.text("nearest_mode", if old { "floor" } else { "round_prefer_floor" })?,
        cubic: f64::from(node.float("cubic_coeff_a", -0.75)?),
        exclude_outside: node.flag("exclude_outside", false)?,
        antialias: node.flag("antialias", false)?,
    };
    let over = match node.ints("axes")? {
        Some(list) => axes(list, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    let given = |i: usize| input(i).filter(|t| !t.is_empty());
    let (scales, sizes) = match old {
        true => {
            let scales = match node.floats("scales")? {
                Some(v) => Some(v.to_vec()),
                None => given(1).map(|t| t.to_f32s()),
            };
            (scales, None)
        }
        false => (given(2).map(|t| t.to_f32s()), given(3).map(|t| t.to_f32s())),
    };
    let wrong = || format!("scales or sizes for {} axes are missing", over.len());
    let mut factors: Vec<(usize, f64)> = Vec::new();
    match (sizes, scales) {
        (Some(sizes), _) => {
            if sizes.len() != over.len() || over.iter().any(|&a| shape[a] == 0) {
                return Err(wrong());
            }
            let ratio = |(&a, &s): (&usize, &f32)| f64::from(s) / shape[a] as f64;
            let ratios = over.iter().zip(&sizes).map(ratio);
            let one = match &node.text("keep_aspect_ratio_policy", "stretch")?[..] {
                "not_larger" => ratios.reduce(f64::min),
                "not_smaller" => ratios.reduce(f64::max),
                _ => None,
            };
            for (&a, &s) in over.iter().zip(&sizes) {
                let n = shape[a] as f64;
                factors.push(match one {
                    Some(f) => ((f * n).round() as usize, f),
                    None => (s.max(0.0) as usize, f64::from(s) / n),
                });
            }
        }
        (None, Some(scales)) => {
            if scales.len() != over.len() || scales.iter().any(|s| s.is_nan() || *s <= 0.0) {
                return Err(wrong());
            }
            for (&a, &s) in over.iter().zip(&scales) {
                // The scale is a 32-bit number: 0.6 of 10 is 6, not 5.
                factors.push(((s * shape[a] as f32).floor() as usize, f64::from(s)));
            }
        }
        (None, None) => return Err(wrong()),
    }
    let roi =
        given(1).filter(|_| settings.coordinates == "tf_crop_and_resize").map(|t| t.to_f32s());
    if settings.coordinates == "tf_crop_and_resize"
        && roi.as_ref().is_none_or(|r| r.len() != 2 * over.len())
    {
        return Err("has no region to crop".into());
    }
    let mut tables = vec![None; shape.len()];
    for (i, (&a, &(out, scale))) in over.iter().zip(&factors).enumerate() {
        if out > 1 << 20 {
            return Err(format!("resizes {} to {out}", shape[a]));
        }
        let region = roi.as_ref().map(|r| (f64::from(r[i]), f64::from(r[over.len() + i])));
        if out == shape[a] && scale == 1.0 && region.is_none_or(|r| r == (0.0, 1.0)) {
            continue;
        }
        tables[a] = Some(table(&settings, shape[a], out, scale, region)?);
    }
    Ok(Plan { tables, fill: node.float("extrapolation_value", 0.0)? })
}

/// The weights of one axis.
fn table(
    s: &Settings,
    n: usize,
    out: usize,
    scale: f64,
    region: Option<(f64, f64)>,
) -> Said<Table> {
    if n == 0 {
        return Err("resizes nothing".into());
    }
    let (len, out_len) = (n as f64, out as f64);
    let source = |o: usize| {
        let o = o as f64;
        Ok(match &s.coordinates[..] {
            "half_pixel" => (o + 0.5) / scale - 0.5,
            "pytorch_half_pixel" if out > 1 => (o + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => 0.0,
            "align_corners" if out > 1 => o * (len - 1.0) / (out_len - 1.0),
            "align_corners" => 0.0,
            "asymmetric" => o / scale,
            "tf_half_pixel_for_nn" => (o + 0.5) / scale,
            "half_pixel_symmetric" => {
                let adjust = out_len / (scale * len);
                let offset = len / 2.0 * (1.0 - adjust);
                offset + (o + 0.5) / scale - 0.5
            }
            "tf_crop_and_resize" => {
                let (start, end) = region.unwrap_or((0.0, 1.0));
                match out {
                    0 | 1 => 0.5 * (start + end) * (len - 1.0),
                    _ => start * (len - 1.0) + o * (end - start) * (len - 1.0) / (out_len - 1.0),
                }
            }
            other => return Err(format!("coordinate mode `{other}` is unknown")),
        })
    };
    let one = |o: usize| {
        let x: f64 = source(o)?;
        if region.is_some() && !(0.0..=len - 1.0).contains(&x) {
            return Ok(Vec::new());
        }
        Ok(match &s.mode[..] {
            "nearest" => vec![(nearest(&s.nearest, x)?.clamp(0.0, len - 1.0) as usize, 1.0)],
            "linear" | "bilinear" => weights(s, x, n, scale, 1.0, |d| (1.0 - d).max(0.0)),
            "cubic" => weights(s, x, n, scale, 2.0, |d| cubic(s.cubic, d)),
            other => return Err(format!("mode `{other}` is unknown")),
        })
    };
    (0..out).map(one).collect()
}

fn nearest(mode: &str, x: f64) -> Said<f64> {
    Ok(match mode {
        "round_prefer_floor" => (x - 0.5).ceil(),
        "round_prefer_ceil" => (x + 0.5).floor(),
        "floor" => x.floor(),
        "ceil" => x.ceil(),
        other => return Err(format!("nearest mode `{other}` is unknown")),
    })
}

/// Keys' cubic convolution with coefficient `a`.
fn cubic(a: f64, d: f64) -> f64 {
    match d {
        d if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
        d if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
        _ => 0.0,
    }
}

/// A kernel of the given reach around `x`; antialiased it is as wide as the step between outputs. Places
/// beyond the border are the border's, or left out.
fn weights(
    s: &Settings,
    x: f64,
    n: usize,
    scale: f64,
    reach: f64,
    kernel: impl Fn(f64) -> f64,
) -> Vec<(usize, f64)> {
    let stretch = if s.antialias && scale < 1.0 { scale } else { 1.0 };
    let reach = reach / stretch;
    let (from, to) = ((x - reach).floor() as i64 + 1, (x + reach).ceil() as i64 - 1);
    let (from, to) = if from > to { (x.round() as i64, x.round() as i64) } else { (from, to) };
    let mut all: Vec<(usize, f64)> = Vec::new();
    for i in from..=to {
        let inside = (0..n as i64).contains(&i);
        if !inside && s.exclude_outside {
            continue;
        }
        let weight = kernel((x - i as f64).abs() * stretch);
        let at = i.clamp(0, n as i64 - 1) as usize;
        match all.last_mut() {
            Some((last, w)) if *last == at => *w += weight,
            _ => all.push((at, weight)),
        }
    }
    let sum: f64 = all.iter().map(|w| w.1).sum();
    if (s.exclude_outside || stretch < 1.0) && sum != 0.0 {
        all.iter_mut().for_each(|w| w.1 /= sum);
    }
    all
}

pub(super) fn call(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let plan = plan(c.node, &x.shape, &|i| c.optional(i).cloned())?;
    let shape = plan.tables.iter().zip(&x.shape).map(|(t, &n)| t.as_ref().map_or(n, Vec::len));
    c.budget.room(&shape.collect::<Vec<_>>())?;
    let mut y = Tensor::floats(&x.shape, x.to_f32s());
    for (a, table) in plan.tables.iter().enumerate() {
        let Some(table) = table else { continue };
        y = along(c, &y, a, table, plan.fill)?;
    }
    Ok(match &x.data {
        Data::Float(_) => like(x, &y.shape, y.to_f32s()),
        Data::Int(_) => {
            let whole = |&v: &f32| x.kind.wrap(v.round_ties_even() as i64);
            Tensor::ints(x.kind, &y.shape, y.f32s()?.iter().map(whole).collect())
        }
    })
}

/// Applies a table to one axis.
fn along(c: &Call, x: &Tensor, axis: usize, table: &Table, fill: f32) -> Said<Tensor> {
    let (outer, n, inner) = split_at(&x.shape, axis);
    let mut shape = x.shape.clone();
    shape[axis] = table.len();
    let len = c.budget.room(&shape)?;
    let v = x.f32s()?;
    let mut y = Vec::with_capacity(len);
    for o in 0..outer {
        for parts in table {
            for i in 0..inner {
                let sum = parts.iter().map(|&(j, w)| w * f64::from(v[(o * n + j) * inner + i]));
                y.push(if parts.is_empty() { fill } else { sum.sum::<f64>() as f32 });
            }
        }
    }
    Ok(like(x, &shape, y))
}
