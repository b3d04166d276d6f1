//! Convolutions, their transposes, and products of matrices.

use super::super::Said;
use super::super::tensor::{Kind, Tensor, Walk, broadcast, broadcast_strides};
use super::window::{Windows, each, sizes};
use super::{Call, like};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    let result = match &c.node.op[..] {
        "Conv" => convolution(c),
        "ConvTranspose" => transposed(c),
        "MatMul" => c.input(0).and_then(|a| matmul(c, a, c.input(1)?)),
        "Gemm" => gemm(c),
        _ => return None,
    };
    Some(result.map(|t| vec![t]))
}

fn convolution(c: &Call) -> Said<Tensor> {
    let (x, w) = (c.input(0)?, c.input(1)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(format!("filters of {:?} over {:?}", w.shape, x.shape));
    }
    if let Some(k) = c.node.ints("kernel_shape")?
        && !k.iter().zip(&w.shape[2..]).all(|(&k, &w)| k == w as i64)
    {
        return Err(format!("`kernel_shape` = {k:?} but the filters are {:?}", w.shape));
    }
    conv(c, x, w, c.optional(2))
}

/// `x [n, c, …] · w [m, c/groups, …] -> y [n, m, …]`, sums in f64.
pub(super) fn conv(c: &Call, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Said<Tensor> {
    let windows = Windows::read(c.node, &x.shape[2..], &w.shape[2..])?;
    let groups = usize::try_from(c.node.int("group", 1)?).unwrap_or(0);
    let (n, channels, filters, depth) = (x.shape[0], x.shape[1], w.shape[0], w.shape[1]);
    if groups == 0 || filters % groups != 0 || depth.checked_mul(groups) != Some(channels) {
        return Err(format!("{groups} groups, filters of {:?} over {:?}", w.shape, x.shape));
    }
    let bias = bias.map(|b| b.f32s()).transpose()?;
    if bias.is_some_and(|b| b.len() != filters) {
        return Err("the bias is not one number per filter".into());
    }
    let out = windows.out();
    let shape = [&[n, filters], &out[..]].concat();
    let len = c.budget.room(&shape)?;
    let taps = windows.taps();
    let area: usize = taps.iter().product();
    c.budget.charge(len.saturating_mul(area).saturating_mul(depth))?;
    let (xs, ws) = (x.f32s()?, w.f32s()?);
    let (plane, places): (usize, usize) = (x.shape[2..].iter().product(), out.iter().product());
    let mut y = Vec::with_capacity(len);
    let mut sums = vec![0f64; places];
    for image in 0..n {
        for m in 0..filters {
            sums.fill(bias.map_or(0.0, |b| f64::from(b[m])));
            let first = m / (filters / groups) * depth;
            for d in 0..depth {
                let map = &xs[(image * channels + first + d) * plane..][..plane];
                let filter = &ws[(m * depth + d) * area..][..area];
                spread(&windows, map, filter, &taps, &mut sums);
            }
            y.extend(sums.iter().map(|&s| s as f32));
        }
    }
    Ok(like(x, &shape, y))
}

/// Adds one map times one filter to the sums of all outputs, tap by tap.
fn spread(windows: &Windows, map: &[f32], filter: &[f32], taps: &[usize], sums: &mut [f64]) {
    let spans = &windows.0;
    let (last, rows) = spans.split_last().expect("one axis at least");
    let outer: Vec<usize> = rows.iter().map(|s| s.out).collect();
    let mut tap_number = 0;
    each(taps, |tap| {
        let weight = f64::from(filter[tap_number]);
        tap_number += 1;
        let shift = tap[rows.len()] * last.dilation;
        // The outputs whose tap lies on the map.
        let from = last.before.saturating_sub(shift).div_ceil(last.stride);
        let to =
            (last.input + last.before).saturating_sub(shift).div_ceil(last.stride).min(last.out);
        if from >= to {
            return;
        }
        let mut row = 0;
        each(&outer, |o| {
            let place = row * last.out;
            row += 1;
            let line = rows
                .iter()
                .zip(o)
                .zip(tap)
                .try_fold(0, |at, ((s, &o), &t)| Some(at * s.input + s.at(o, t)?));
            let Some(line) = line else { return };
            let start = line * last.input + from * last.stride + shift - last.before;
            let values = map[start..].iter().step_by(last.stride);
            for (sum, &v) in sums[place + from..place + to].iter_mut().zip(values) {
                *sum += weight * f64::from(v);
            }
        });
    });
}

/// How a transposed convolution lies: padding cut off in front, and sizes of the output.
pub(in super::super) struct Transposed {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Taken off in front; negative where zeros are added.
    pub before: Vec<i64>,
    pub out: Vec<usize>,
}

impl Transposed {
    /// Reads the node for an input's and a filter's sizes along the axes of space.
    pub fn read(node: &super::Node, input: &[usize], taps: &[usize]) -> Said<Self> {
        let n = input.len();
        if taps.len() != n || taps.contains(&0) || input.contains(&0) {
            return Err(format!("a window of {taps:?} over {input:?}"));
        }
        let (strides, dilations) =
            (sizes(node, "strides", n, 1, 1)?, sizes(node, "dilations", n, 1, 1)?);
        let extra = sizes(node, "output_padding", n, 0, 0)?;
        let pads = sizes(node, "pads", 2 * n, 0, 0)?;
        let auto = node.text("auto_pad", "NOTSET")?;
        let asked = match node.ints("output_shape")? {
            // Some files give the batch and the channels too.
            Some(v) if v.len() == n + 2 => Some(&v[2..]),
            Some(v) if v.len() == n => Some(v),
            Some(v) => return Err(format!("`output_shape` = {v:?} for {n} axes")),
            None => None,
        };
        let (mut before, mut out) = (Vec::new(), Vec::new());
        for i in 0..n {
            let whole = strides[i] * (input[i] - 1) + extra[i] + (taps[i] - 1) * dilations[i] + 1;
            let same = matches!(&auto[..], "SAME_UPPER" | "SAME_LOWER");
            let wanted = match asked {
                Some(v) => Some(v[i]),
                None if same => Some((input[i] * strides[i]) as i64),
                None => None,
            };
            let (front, size) = match wanted {
                Some(size) => {
                    let all = (whole as i64 - size).max(0);
                    let front = if auto == "SAME_UPPER" { all / 2 } else { all - all / 2 };
                    (front, size)
                }
                None if auto == "VALID" => (0, whole as i64),
                None => (pads[i] as i64, whole as i64 - pads[i] as i64 - pads[n + i] as i64),
            };
            let size = usize::try_from(size).ok().filter(|&s| s > 0 && s < 1 << 30);
            out.push(size.ok_or("padding leaves nothing of the output")?);
            before.push(front);
        }
        Ok(Transposed { strides, dilations, before, out })
    }
}

/// `x [n, c, …] · w [c, m/groups, …] -> y [n, m, …]`: every input is spread over a window of outputs.
fn transposed(c: &Call) -> Said<Tensor> {
    let (x, w) = (c.input(0)?, c.input(1)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(format!("filters of {:?} over {:?}", w.shape, x.shape));
    }
    let (input, taps) = (&x.shape[2..], &w.shape[2..]);
    let t = Transposed::read(c.node, input, taps)?;
    let groups = usize::try_from(c.node.int("group", 1)?).unwrap_or(0);
    let (n, channels, each_group) = (x.shape[0], x.shape[1], w.shape[1]);
    if groups == 0 || channels % groups != 0 || w.shape[0] != channels {
        return Err(format!("{groups} groups, filters of {:?} over {:?}", w.shape, x.shape));
    }
    let filters = each_group.saturating_mul(groups);
    let shape = [&[n, filters], &t.out[..]].concat();
    let len = c.budget.room(&shape)?;
    let area: usize = taps.iter().product();
    c.budget.charge(x.len().saturating_mul(area).saturating_mul(each_group))?;
    let bias = c.optional(2).map(|b| b.f32s()).transpose()?;
    if bias.is_some_and(|b| b.len() != filters) {
        return Err("the bias is not one number per filter".into());
    }
    let (xs, ws) = (x.f32s()?, w.f32s()?);
    let (plane, places): (usize, usize) = (input.iter().product(), t.out.iter().product());
    let mut y = Vec::with_capacity(len);
    for image in 0..n {
        for m in 0..filters {
            let mut sums = vec![bias.map_or(0.0, |b| f64::from(b[m])); places];
            let group = m / each_group;
            for channel in group * (channels / groups)..(group + 1) * (channels / groups) {
                let map = &xs[(image * channels + channel) * plane..][..plane];
                let filter = &ws[(channel * each_group + m % each_group) * area..][..area];
                let mut i = 0;
                each(input, |at| {
                    let value = f64::from(map[i]);
                    i += 1;
                    let mut k = 0;
                    each(taps, |tap| {
                        let weight = f64::from(filter[k]);
                        k += 1;
                        let place = (0..at.len()).try_fold(0, |p, a| {
                            let o = (at[a] * t.strides[a] + tap[a] * t.dilations[a]) as i64
                                - t.before[a];
                            let o = usize::try_from(o).ok().filter(|&o| o < t.out[a])?;
                            Some(p * t.out[a] + o)
                        });
                        if let Some(p) = place {
                            sums[p] += value * weight;
                        }
                    });
                });
            }
            y.extend(sums.iter().map(|&s| s as f32));
        }
    }
    Ok(like(x, &shape, y))
}

/// `a [rows, k] · b [k, columns]`, sums in f64.
fn product(a: &[f32], b: &[f32], k: usize, columns: usize, y: &mut Vec<f32>) {
    let mut sums = vec![0f64; columns];
    for row in a.chunks_exact(k.max(1)) {
        sums.fill(0.0);
        for (&v, line) in row.iter().zip(b.chunks_exact(columns.max(1))) {
            for (s, &w) in sums.iter_mut().zip(line) {
                *s += f64::from(v) * f64::from(w);
            }
        }
        y.extend(sums.iter().map(|&s| s as f32));
    }
}

/// Products of the last two axes, the others broadcast; a vector is a row on the left, a column on the right.
pub(super) fn matmul(c: &Call, a: &Tensor, b: &Tensor) -> Said<Tensor> {
    if a.rank() == 0 || b.rank() == 0 {
        return Err("a single number is no matrix".into());
    }
    let mut left = a.shape.clone();
    let mut right = b.shape.clone();
    if a.rank() == 1 {
        left.insert(0, 1);
    }
    if b.rank() == 1 {
        right.push(1);
    }
    let (la, lb) = (left.split_off(left.len() - 2), right.split_off(right.len() - 2));
    let ([rows, k], [k2, columns]) = ([la[0], la[1]], [lb[0], lb[1]]);
    if k != k2 {
        return Err(format!("{:?} times {:?}", a.shape, b.shape));
    }
    let outer = broadcast(&left, &right)?;
    let mut shape = [&outer[..], &[rows, columns]].concat();
    let len = c.budget.room(&shape)?;
    c.budget.charge(len.saturating_mul(k))?;
    let (xs, ys) = (a.to_f32s(), b.to_f32s());
    let mut values = Vec::with_capacity(len);
    let (sa, sb) = (broadcast_strides(&left, &outer)?, broadcast_strides(&right, &outer)?);
    let count: usize = outer.iter().product();
    for (i, j) in Walk::new(&outer, &sa).zip(Walk::new(&outer, &sb)).take(count) {
        let (x, y) = (&xs[i * rows * k..][..rows * k], &ys[j * k * columns..][..k * columns]);
        match k {
            0 => values.extend(std::iter::repeat_n(0.0, rows * columns)),
            _ => product(x, y, k, columns, &mut values),
        }
    }
    if b.rank() == 1 {
        shape.pop();
    }
    if a.rank() == 1 {
        let at = shape.len() - if b.rank() == 1 { 1 } else { 2 };
        shape.remove(at);
    }
    match (a.kind.is_float(), b.kind.is_float()) {
        (true, true) => Ok(like(a, &shape, values)),
        _ => Ok(Tensor::ints(Kind::I32, &shape, values.iter().map(|&v| v as i64).collect())),
    }
}

/// `alpha · A' · B' + beta · C`.
fn gemm(c: &Call) -> Said<Tensor> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    if a.rank() != 2 || b.rank() != 2 {
        return Err(format!("{:?} times {:?}; both must be matrices", a.shape, b.shape));
    }
    let turned = |t: &Tensor, flag: &str| -> Said<Tensor> {
        Ok(if c.node.flag(flag, false)? { t.transposed(&[1, 0]) } else { t.clone() })
    };
    let y = matmul(c, &turned(a, "transA")?, &turned(b, "transB")?)?;
    let (alpha, beta) = (c.node.float("alpha", 1.0)?, c.node.float("beta", 1.0)?);
    let mut values: Vec<f32> = y.to_f32s().iter().map(|v| v * alpha).collect();
    if let Some(t) = c.optional(2) {
        let more = t.expanded(&y.shape)?.to_f32s();
        for (v, m) in values.iter_mut().zip(more) {
            *v += beta * m;
        }
    }
    match y.kind.is_float() {
        true => Ok(like(a, &y.shape, values)),
        false => Ok(Tensor::ints(a.kind, &y.shape, values.iter().map(|&v| v as i64).collect())),
    }
}
