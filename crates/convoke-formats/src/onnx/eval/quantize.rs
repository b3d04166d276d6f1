//! Numbers as small integers with a scale and a zero point, and back.

use super::super::Said;
use super::super::tensor::{Kind, Tensor};
use super::{Call, axis, conv, like};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    Some(match &c.node.op[..] {
        "QuantizeLinear" => quantize(c).map(|t| vec![t]),
        "DequantizeLinear" => dequantize(c).map(|t| vec![t]),
        "DynamicQuantizeLinear" => dynamic(c),
        "ConvInteger" | "MatMulInteger" => integer(c).map(|t| vec![t]),
        "QLinearConv" | "QLinearMatMul" => linear(c).map(|t| vec![t]),
        _ => return None,
    })
}

/// Which scale each number of `x` has: one for all, one per place along an axis, or one per block of it.
fn scale_of(c: &Call, x: &Tensor, scale: &Tensor) -> Said<Vec<usize>> {
    let n = x.len();
    if scale.len() == 1 && scale.rank() <= 1 {
        return Ok(vec![0; n]);
    }
    let at = axis(c.node.int("axis", 1)?, x.rank())?;
    let inner: usize = x.shape[at + 1..].iter().product();
    let size = x.shape[at];
    if scale.rank() == 1 {
        return match scale.len() == size {
            true => Ok((0..n).map(|i| i / inner % size).collect()),
            false => Err(format!("{} scales for {:?} along axis {at}", scale.len(), x.shape)),
        };
    }
    let block = usize::try_from(c.node.int("block_size", 0)?).unwrap_or(0);
    let blocks = scale.shape.get(at).copied().unwrap_or(0);
    let mut want = x.shape.clone();
    want[at] = blocks;
    if scale.shape != want || block == 0 || size.div_ceil(block) != blocks {
        return Err(format!("scales of {:?} for {:?} in blocks of {block}", scale.shape, x.shape));
    }
    let of = |i: usize| {
        let (outer, place, rest) = (i / (inner * size), i / inner % size, i % inner);
        (outer * blocks + place / block) * inner + rest
    };
    Ok((0..n).map(of).collect())
}

fn quantize(c: &Call) -> Said<Tensor> {
    let (x, scale, zero) = (c.input(0)?, c.input(1)?, c.optional(2));
    c.budget.room(&x.shape)?;
    let kind = match zero {
        Some(z) => z.kind,
        None if c.node.has("output_dtype") => {
            Kind::of(c.node.int("output_dtype", 0)? as i32).ok_or("a type that is not supported")?
        }
        None => Kind::U8,
    };
    if kind.is_float() {
        return Err(format!("quantizes to {kind:?}, which is not supported"));
    }
    let (which, scales) = (scale_of(c, x, scale)?, scale.f32s()?);
    let zeros = zero.map(|z| z.i64s()).transpose()?;
    if zeros.is_some_and(|z| z.len() != scales.len()) {
        return Err("has another number of zero points than of scales".into());
    }
    let values = x.to_f32s();
    let one = |(&v, &s): (&f32, &usize)| to_whole(v, scales[s], zeros.map_or(0, |z| z[s]), kind);
    Ok(Tensor::ints(kind, &x.shape, values.iter().zip(&which).map(one).collect()))
}

/// `round(v / scale) + zero`, within the type's range.
fn to_whole(v: f32, scale: f32, zero: i64, kind: Kind) -> i64 {
    let (lo, hi) = kind.bounds();
    let rounded = f64::from((v / scale).round_ties_even());
    if rounded.is_nan() {
        return zero;
    }
    (rounded + zero as f64).clamp(lo as f64, hi as f64) as i64
}

fn dequantize(c: &Call) -> Said<Tensor> {
    let (x, scale) = (c.input(0)?, c.input(1)?);
    c.budget.room(&x.shape)?;
    let (which, scales) = (scale_of(c, x, scale)?, scale.f32s()?);
    let zeros = c.optional(2).map(|z| z.i64s()).transpose()?;
    if zeros.is_some_and(|z| z.len() != scales.len()) {
        return Err("has another number of zero points than of scales".into());
    }
    let one = |(&v, &s): (&i64, &usize)| (v - zeros.map_or(0, |z| z[s])) as f32 * scales[s];
    Ok(like(scale, &x.shape, x.i64s()?.iter().zip(&which).map(one).collect()))
}

fn dynamic(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let v = x.f32s()?;
    let lo = v.iter().fold(0f32, |m, &v| m.min(v));
    let hi = v.iter().fold(0f32, |m, &v| m.max(v));
    let scale = (hi - lo) / 255.0;
    let zero = if scale == 0.0 { 0 } else { to_whole(-lo, scale, 0, Kind::U8) };
    let y = v.iter().map(|&v| to_whole(v, scale, zero, Kind::U8)).collect();
    Ok(vec![
        Tensor::ints(Kind::U8, &x.shape, y),
        Tensor::floats(&[], vec![scale]),
        Tensor::ints(Kind::U8, &[], vec![zero]),
    ])
}

/// Integers less their zero points as floats: sums of products of bytes are exact in f64.
fn centred(x: &Tensor, zero: Option<&Tensor>, at: usize) -> Said<Tensor> {
    let v = x.i64s()?;
    let zeros = zero.map(|z| z.i64s()).transpose()?.unwrap_or(&[0]);
    let (size, inner) = match zeros.len() {
        1 => (1, x.len().max(1)),
        n if x.shape.get(at) == Some(&n) => (n, x.shape[at + 1..].iter().product::<usize>()),
        n => return Err(format!("{n} zero points for {:?}", x.shape)),
    };
    let values = v.iter().enumerate().map(|(i, &v)| (v - zeros[i / inner.max(1) % size]) as f32);
    Ok(Tensor::floats(&x.shape, values.collect()))
}

fn integer(c: &Call) -> Said<Tensor> {
    let matmul = c.node.op == "MatMulInteger";
    let (a, b) = (c.input(0)?, c.input(1)?);
    let left = centred(a, c.optional(2), a.rank().saturating_sub(2))?;
    let right = centred(b, c.optional(3), if matmul { b.rank().saturating_sub(1) } else { 0 })?;
    let y = match matmul {
        true => conv::matmul(c, &left, &right)?,
        false if a.rank() >= 3 && b.rank() == a.rank() => conv::conv(c, &left, &right, None)?,
        false => return Err(format!("filters of {:?} over {:?}", b.shape, a.shape)),
    };
    Ok(Tensor::ints(Kind::I32, &y.shape, y.f32s()?.iter().map(|&v| v as i64).collect()))
}

fn linear(c: &Call) -> Said<Tensor> {
    let matmul = c.node.op == "QLinearMatMul";
    let (a, a_scale, b, b_scale) = (c.input(0)?, c.input(1)?.number()?, c.input(3)?, c.input(4)?);
    let (scale, zero) = (c.input(6)?.number()?, c.input(7)?);
    let left = centred(a, c.optional(2), 0)?;
    let right = centred(b, c.optional(5), if matmul { b.rank().saturating_sub(1) } else { 0 })?;
    let y = match matmul {
        true => conv::matmul(c, &left, &right)?,
        false if a.rank() >= 3 && b.rank() == a.rank() => {
            let bias = c.optional(8).map(|b| Tensor::floats(&b.shape, b.to_f32s()));
            conv::conv(c, &left, &right, bias.as_ref())?
        }
        false => return Err(format!("filters of {:?} over {:?}", b.shape, a.shape)),
    };
    let scales = b_scale.f32s()?;
    // One scale for all, or one per filter (per column of a matrix).
    let inner: usize = if matmul { 1 } else { y.shape[2..].iter().product() };
    let z = zero.i64s()?.first().copied().ok_or("has no zero point")?;
    let one = |(i, &v): (usize, &f32)| {
        let s = scales[i / inner.max(1) % scales.len().max(1)];
        to_whole(v * (a_scale * s / scale), 1.0, z, zero.kind)
    };
    if scales.is_empty() {
        return Err("has no scale".into());
    }
    Ok(Tensor::ints(zero.kind, &y.shape, y.f32s()?.iter().enumerate().map(one).collect()))
}
