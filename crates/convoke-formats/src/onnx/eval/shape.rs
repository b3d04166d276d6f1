//! Ops that move numbers without changing them: by shape alone.

use super::super::Said;
use super::super::graph::Attribute;
use super::super::tensor::{Data, Kind, Tensor, strides};
use super::{Call, axes, axis, split_at};

pub(super) fn call(c: &Call) -> Option<Said<Vec<Tensor>>> {
    let result = match &c.node.op[..] {
        "Constant" => constant(c),
        "ConstantOfShape" => filled(c),
        "Shape" => shape_of(c),
        "Size" => c.input(0).map(|x| Tensor::ints(Kind::I64, &[], vec![x.len() as i64])),
        "Reshape" => reshape(c),
        "Flatten" => flatten(c),
        "Squeeze" => squeeze(c),
        "Unsqueeze" => unsqueeze(c),
        "Transpose" => transpose(c),
        "Concat" => concat(c),
        "Split" => return Some(split(c)),
        "Slice" => slice(c),
        "Expand" => expand(c),
        "Tile" => tile(c),
        "Pad" => pad(c),
        "DepthToSpace" => depth_to_space(c),
        "SpaceToDepth" => space_to_depth(c),
        "Range" => range(c),
        "EyeLike" => eye(c),
        "Trilu" => triangle(c),
        _ => return None,
    };
    Some(result.map(|t| vec![t]))
}

fn constant(c: &Call) -> Said<Tensor> {
    if let Some(t) = c.node.tensor("value")? {
        return Ok((**t).clone());
    }
    for (name, attribute) in &c.node.attributes {
        match (&name[..], attribute) {
            ("value_float", Attribute::Float(v)) => return Ok(Tensor::floats(&[], vec![*v])),
            ("value_int", Attribute::Int(v)) => return Ok(Tensor::ints(Kind::I64, &[], vec![*v])),
            ("value_floats", Attribute::Floats(v)) => {
                return Ok(Tensor::floats(&[v.len()], v.clone()));
            }
            ("value_ints", Attribute::Ints(v)) => return Ok(Tensor::vector(v.clone())),
            _ => {}
        }
    }
    Err("holds a constant that is not supported".into())
}

/// Sizes from a list of integers.
fn sizes(list: &[i64]) -> Said<Vec<usize>> {
    list.iter().map(|&v| usize::try_from(v).map_err(|_| format!("a size of {v}"))).collect()
}

fn filled(c: &Call) -> Said<Tensor> {
    let shape = sizes(c.input(0)?.i64s()?)?;
    let n = c.budget.room(&shape)?;
    let value = match c.node.tensor("value")? {
        None => return Ok(Tensor::floats(&shape, vec![0.0; n])),
        Some(t) => t,
    };
    Ok(match &value.data {
        Data::Float(v) => {
            Tensor::of(value.kind, &shape, vec![*v.first().ok_or("has no value")?; n])
        }
        Data::Int(v) => {
            Tensor::ints(value.kind, &shape, vec![*v.first().ok_or("has no value")?; n])
        }
    })
}

/// The sizes of a shape from `start` to `end`.
pub(in super::super) fn shape_part(node: &super::Node, shape: &[usize]) -> Said<Tensor> {
    let rank = shape.len() as i64;
    let at = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (at(node.int("start", 0)?), at(node.int("end", rank)?));
    let part = shape.get(start..end).unwrap_or(&[]);
    Ok(Tensor::vector(part.iter().map(|&s| s as i64).collect()))
}

fn shape_of(c: &Call) -> Said<Tensor> {
    shape_part(c.node, &c.input(0)?.shape)
}

/// The shape that `Reshape` asks for: 0 keeps a size, −1 is what is left.
pub(in super::super) fn reshape_to(
    from: &[usize],
    to: &[i64],
    allow_zero: bool,
) -> Said<Vec<usize>> {
    let mut shape = Vec::new();
    let mut open = None;
    for (i, &v) in to.iter().enumerate() {
        shape.push(match v {
            0 if !allow_zero => *from.get(i).ok_or(format!("{to:?} keeps axis {i} of {from:?}"))?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            v => usize::try_from(v).map_err(|_| format!("a shape of {to:?}"))?,
        });
    }
    let n: usize = from.iter().product();
    if let Some(i) = open {
        let known = super::count(&shape)?;
        if known == 0 || !n.is_multiple_of(known) {
            return Err(format!("{from:?} cannot be read as {to:?}"));
        }
        shape[i] = n / known;
    }
    match super::count(&shape)? == n {
        true => Ok(shape),
        false => Err(format!("{from:?} cannot be read as {to:?}")),
    }
}

fn reshape(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let to = c.ints("shape", 1)?.ok_or("has no shape")?;
    x.reshaped(reshape_to(&x.shape, &to, c.node.flag("allowzero", false)?)?)
}

fn flatten(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let at = c.node.int("axis", 1)?;
    let at = if at == x.rank() as i64 { x.rank() } else { axis(at, x.rank())? };
    x.reshaped(vec![x.shape[..at].iter().product(), x.shape[at..].iter().product()])
}

fn squeeze(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let out = match c.ints("axes", 1)? {
        Some(list) => axes(&list, x.rank())?,
        None => (0..x.rank()).filter(|&a| x.shape[a] == 1).collect(),
    };
    if out.iter().any(|&a| x.shape[a] != 1) {
        return Err(format!("axes {out:?} of {:?} are not all of one", x.shape));
    }
    x.reshaped((0..x.rank()).filter(|a| !out.contains(a)).map(|a| x.shape[a]).collect())
}

fn unsqueeze(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let list = c.ints("axes", 1)?.ok_or("has no axes")?;
    let rank = x.rank() + list.len();
    let new = axes(&list, rank)?;
    let mut old = x.shape.iter();
    let size = |a| if new.contains(&a) { 1 } else { old.next().copied().unwrap_or(1) };
    x.reshaped((0..rank).map(size).collect())
}

fn transpose(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let order = match c.node.ints("perm")? {
        Some(list) => axes(list, x.rank())?,
        None => (0..x.rank()).rev().collect(),
    };
    match order.len() == x.rank() {
        true => Ok(x.transposed(&order)),
        false => Err(format!("`perm` = {order:?} for {:?}", x.shape)),
    }
}

fn concat(c: &Call) -> Said<Tensor> {
    let all = c.all();
    let first = all.first().ok_or("has no inputs")?;
    let at = axis(c.node.int("axis", if c.node.opset < 4 { 1 } else { 0 })?, first.rank())?;
    let fits = |t: &&Tensor| {
        t.rank() == first.rank()
            && t.kind.is_float() == first.kind.is_float()
            && (0..t.rank()).all(|a| a == at || t.shape[a] == first.shape[a])
    };
    if !all.iter().all(fits) {
        let shapes: Vec<_> = all.iter().map(|t| &t.shape).collect();
        return Err(format!("{shapes:?} do not fit beside each other along axis {at}"));
    }
    let mut shape = first.shape.clone();
    shape[at] = all.iter().map(|t| t.shape[at]).sum();
    let n = c.budget.room(&shape)?;
    let outer: usize = shape[..at].iter().product();
    fn join<T: Copy>(parts: &[&[T]], outer: usize, n: usize) -> Vec<T> {
        let mut values = Vec::with_capacity(n);
        for o in 0..outer {
            for part in parts {
                let run = part.len() / outer;
                values.extend_from_slice(&part[o * run..(o + 1) * run]);
            }
        }
        values
    }
    match &first.data {
        Data::Float(_) => {
            let parts = all.iter().map(|t| t.f32s()).collect::<Said<Vec<_>>>()?;
            Ok(Tensor::of(first.kind, &shape, join(&parts, outer.max(1), n)))
        }
        Data::Int(_) => {
            let parts = all.iter().map(|t| t.i64s()).collect::<Said<Vec<_>>>()?;
            Ok(Tensor::ints(first.kind, &shape, join(&parts, outer.max(1), n)))
        }
    }
}

/// Sizes of the parts that `Split` makes of an axis of `n`.
pub(in super::super) fn parts(
    node: &super::Node,
    given: Option<Vec<i64>>,
    n: usize,
) -> Said<Vec<usize>> {
    let parts = match given {
        Some(list) => sizes(&list)?,
        None => {
            let count = node.int("num_outputs", node.outputs.len() as i64)?;
            let count = usize::try_from(count).ok().filter(|&c| c > 0 && c <= node.outputs.len());
            let count = count.ok_or("splits into no outputs")?;
            let each = n.div_ceil(count);
            (0..count).map(|i| each.min(n.saturating_sub(i * each))).collect()
        }
    };
    match parts.iter().try_fold(0usize, |s, &p| s.checked_add(p)) == Some(n) {
        true => Ok(parts),
        false => Err(format!("parts of {parts:?} for an axis of {n}")),
    }
}

fn split(c: &Call) -> Said<Vec<Tensor>> {
    let x = c.input(0)?;
    c.budget.room(&x.shape)?;
    let at = axis(c.node.int("axis", 0)?, x.rank())?;
    let (outer, n, inner) = split_at(&x.shape, at);
    let mut start = 0;
    let part = |size: usize| {
        let mut shape = x.shape.clone();
        shape[at] = size;
        let from = start;
        start += size;
        let run = move |o: usize| (o * n + from) * inner..(o * n + from + size) * inner;
        x.picked(shape, (0..outer).flat_map(run))
    };
    Ok(parts(c.node, c.ints("split", 1)?, n)?.into_iter().map(part).collect())
}

/// For every axis: first place, step, and number of places that `Slice` takes.
pub(in super::super) fn slice_ranges(
    shape: &[usize],
    starts: &[i64],
    ends: &[i64],
    list: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Said<Vec<(usize, i64, usize)>> {
    let mut all: Vec<(usize, i64, usize)> = shape.iter().map(|&n| (0, 1, n)).collect();
    let over = match list {
        Some(list) => axes(list, shape.len())?,
        None => (0..starts.len()).collect(),
    };
    let fits = starts.len() == over.len() && ends.len() == over.len() && over.len() <= shape.len();
    if !fits || steps.is_some_and(|s| s.len() != over.len()) {
        return Err(format!("starts {starts:?} and ends {ends:?} of {shape:?}"));
    }
    for (i, &a) in over.iter().enumerate() {
        let n = shape[a] as i64;
        let step = steps.map_or(1, |s| s[i]);
        if step == 0 {
            return Err("a step of 0".into());
        }
        let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (lo, hi) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let start = from_end(starts[i]).clamp(if step > 0 { 0 } else { -1 }, hi);
        let end = from_end(ends[i]).clamp(lo, hi.max(if step > 0 { n } else { n - 1 }));
        let span = if step > 0 { end - start } else { start - end };
        let count = if span > 0 { (span as u64).div_ceil(step.unsigned_abs()) as usize } else { 0 };
        all[a] = (start.max(0) as usize, step, count);
    }
    Ok(all)
}

fn slice(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let starts = c.ints("starts", 1)?.ok_or("has no starts")?;
    let ends = c.ints("ends", 2)?.ok_or("has no ends")?;
    let (list, steps) = (c.ints("axes", 3)?, c.ints("steps", 4)?);
    let ranges = slice_ranges(&x.shape, &starts, &ends, list.as_deref(), steps.as_deref())?;
    let tables: Vec<Vec<Option<usize>>> = ranges
        .iter()
        .map(|&(start, step, n)| {
            (0..n as i64).map(|i| Some((start as i64 + i * step) as usize)).collect()
        })
        .collect();
    by_tables(c, x, &tables, 0.0)
}

/// A tensor whose places along every axis come from the places that a table names; a place from nowhere
/// is filled.
fn by_tables(c: &Call, x: &Tensor, tables: &[Vec<Option<usize>>], fill: f32) -> Said<Tensor> {
    let shape: Vec<usize> = tables.iter().map(Vec::len).collect();
    let n = c.budget.room(&shape)?;
    let own = strides(&x.shape);
    let mut sources = Vec::with_capacity(n);
    super::window::each(&shape, |index| {
        let place =
            index.iter().zip(tables).zip(&own).try_fold(0, |at, ((&i, t), s)| Some(at + t[i]? * s));
        sources.push(place);
    });
    Ok(match &x.data {
        Data::Float(v) => {
            Tensor::of(x.kind, &shape, sources.iter().map(|s| s.map_or(fill, |i| v[i])).collect())
        }
        Data::Int(v) => {
            let fill = fill as i64;
            Tensor::ints(x.kind, &shape, sources.iter().map(|s| s.map_or(fill, |i| v[i])).collect())
        }
    })
}

fn expand(c: &Call) -> Said<Tensor> {
    let (x, to) = (c.input(0)?, sizes(c.input(1)?.i64s()?)?);
    let shape = super::super::tensor::broadcast(&x.shape, &to)?;
    c.budget.room(&shape)?;
    x.expanded(&shape)
}

fn tile(c: &Call) -> Said<Tensor> {
    let (x, times) = (c.input(0)?, sizes(c.input(1)?.i64s()?)?);
    if times.len() != x.rank() {
        return Err(format!("{times:?} repeats of {:?}", x.shape));
    }
    let shape: Option<Vec<usize>> =
        x.shape.iter().zip(&times).map(|(n, t)| n.checked_mul(*t)).collect();
    let shape = shape.ok_or("repeats too often")?;
    c.budget.room(&shape)?;
    let tables: Vec<Vec<Option<usize>>> =
        x.shape.iter().zip(&shape).map(|(&n, &m)| (0..m).map(|i| Some(i % n)).collect()).collect();
    by_tables(c, x, &tables, 0.0)
}

/// Where each place of a padded axis comes from; `before` and `after` may be negative.
pub(in super::super) fn padded(
    mode: &str,
    n: usize,
    before: i64,
    after: i64,
) -> Said<Vec<Option<usize>>> {
    const MOST: i64 = 1 << 22;
    let size = n as i64 + before.clamp(-MOST, MOST) + after.clamp(-MOST, MOST);
    if before.abs() > MOST || after.abs() > MOST {
        return Err("pads too much".into());
    }
    let n = n as i64;
    let source = |i: i64| -> Said<Option<usize>> {
        let at = i - before;
        if (0..n).contains(&at) {
            return Ok(Some(at as usize));
        }
        let from = match mode {
            "constant" => return Ok(None),
            _ if n == 0 => return Err(format!("mode `{mode}` pads nothing")),
            "edge" => at.clamp(0, n - 1),
            "wrap" => at.rem_euclid(n),
            "reflect" if n == 1 => 0,
            "reflect" => {
                let at = at.rem_euclid(2 * n - 2);
                if at < n { at } else { 2 * n - 2 - at }
            }
            _ => return Err(format!("mode `{mode}` is unknown")),
        };
        Ok(Some(from as usize))
    };
    (0..size.max(0)).map(source).collect()
}

/// What `Pad` adds before and behind each axis.
pub(in super::super) fn pad_sides(
    rank: usize,
    pads: &[i64],
    list: Option<&[i64]>,
) -> Said<Vec<(i64, i64)>> {
    let over = match list {
        Some(list) => axes(list, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * over.len() {
        return Err(format!("pads {pads:?} for {} axes", over.len()));
    }
    let mut sides = vec![(0, 0); rank];
    for (i, &a) in over.iter().enumerate() {
        sides[a] = (pads[i], pads[over.len() + i]);
    }
    Ok(sides)
}

fn pad(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let old = if c.node.has("paddings") { "paddings" } else { "pads" };
    let pads = c.ints(old, 1)?.ok_or("has no pads")?;
    let fill = match c.optional(2) {
        Some(t) if !t.is_empty() => t.number()?,
        _ => c.node.float("value", 0.0)?,
    };
    let list = c.optional(3).map(|t| t.i64s()).transpose()?;
    let mode = c.node.text("mode", "constant")?;
    let sides = pad_sides(x.rank(), &pads, list)?;
    let tables = x.shape.iter().zip(sides).map(|(&n, (b, a))| padded(&mode, n, b, a));
    by_tables(c, x, &tables.collect::<Said<Vec<_>>>()?, fill)
}

/// Block size, with the map's sizes checked.
fn block(c: &Call, x: &Tensor) -> Said<(usize, [usize; 4])> {
    let b = usize::try_from(c.node.int("blocksize", 0)?).ok().filter(|&b| b > 0 && b < 1 << 15);
    match x.shape[..] {
        [n, ch, h, w] => Ok((b.ok_or("has no `blocksize`")?, [n, ch, h, w])),
        _ => Err(format!("needs maps but got {:?}", x.shape)),
    }
}

fn depth_to_space(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let (b, [n, ch, h, w]) = block(c, x)?;
    if ch % (b * b) != 0 {
        return Err(format!("{ch} channels in blocks of {b}x{b}"));
    }
    c.budget.room(&x.shape)?;
    let d = ch / (b * b);
    let (split, order) = match &c.node.text("mode", "DCR")?[..] {
        "CRD" => (vec![n, d, b, b, h, w], [0, 1, 4, 2, 5, 3]),
        _ => (vec![n, b, b, d, h, w], [0, 3, 4, 1, 5, 2]),
    };
    x.reshaped(split)?.transposed(&order).reshaped(vec![n, d, h * b, w * b])
}

fn space_to_depth(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let (b, [n, ch, h, w]) = block(c, x)?;
    if h % b != 0 || w % b != 0 {
        return Err(format!("{h}x{w} in blocks of {b}x{b}"));
    }
    c.budget.room(&x.shape)?;
    let split = x.reshaped(vec![n, ch, h / b, b, w / b, b])?;
    split.transposed(&[0, 3, 5, 1, 2, 4]).reshaped(vec![n, ch * b * b, h / b, w / b])
}

fn range(c: &Call) -> Said<Tensor> {
    let (start, end, step) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (s, e, d) = (start.number()?, end.number()?, step.number()?);
    if d == 0.0 {
        return Err("a step of 0".into());
    }
    let n = ((f64::from(e) - f64::from(s)) / f64::from(d)).ceil().max(0.0);
    if n.is_nan() || n >= 1e8 {
        return Err("is too long".into());
    }
    let n = c.budget.room(&[n as usize])?;
    Ok(match (&start.data, &step.data) {
        (Data::Int(s), Data::Int(d)) => {
            let v = (0..n as i64).map(|i| s[0].wrapping_add(i.wrapping_mul(d[0]))).collect();
            Tensor::ints(start.kind, &[n], v)
        }
        _ => Tensor::of(start.kind, &[n], (0..n).map(|i| s + i as f32 * d).collect()),
    })
}

fn eye(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    let [rows, columns] = x.shape[..] else { return Err("needs a matrix".into()) };
    c.budget.room(&x.shape)?;
    let k = c.node.int("k", 0)?;
    let kind = match c.node.has("dtype") {
        true => Kind::of(c.node.int("dtype", 1)? as i32).ok_or("a type that is not supported")?,
        false => x.kind,
    };
    let on = |i: usize| (i / columns) as i64 == ((i % columns) as i64).saturating_sub(k);
    let ones = (0..rows * columns).map(|i| i64::from(on(i)));
    let ones = Tensor::ints(Kind::I64, &x.shape, ones.collect());
    Ok(super::math::converted(&ones, kind))
}

fn triangle(c: &Call) -> Said<Tensor> {
    let x = c.input(0)?;
    if x.rank() < 2 {
        return Err("needs a matrix".into());
    }
    c.budget.room(&x.shape)?;
    let (rows, columns) = (x.shape[x.rank() - 2], x.shape[x.rank() - 1]);
    let k = c.optional(1).map_or(Ok(0.0), Tensor::number)? as i64;
    let upper = c.node.flag("upper", true)?;
    let keeps = |i: usize| {
        let (row, column) = ((i / columns % rows) as i64, (i % columns) as i64);
        if upper { column - row >= k } else { column - row <= k }
    };
    let mut y = x.clone();
    match &mut y.data {
        Data::Float(v) => {
            v.iter_mut().enumerate().filter(|(i, _)| !keeps(*i)).for_each(|(_, v)| *v = 0.0)
        }
        Data::Int(v) => {
            v.iter_mut().enumerate().filter(|(i, _)| !keeps(*i)).for_each(|(_, v)| *v = 0)
        }
    }
    Ok(y)
}
