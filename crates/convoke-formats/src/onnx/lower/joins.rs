//! Values side by side, and values whose axes are read anew.

use super::super::Said;
use super::super::eval;
use super::super::graph::Node;
use super::layout::Map;
use super::{Lower, Value};
use convoke_engine::Shape;
use convoke_engine::layers::{Concat, Constant};

impl Lower<'_> {
    pub fn concat(&mut self, node: &Node) -> Said<Map> {
        let mut values = Vec::new();
        for i in 0..node.inputs.len() {
            values.extend(self.given(node, i)?);
        }
        let first = values.iter().find_map(|v| match v {
            Value::Map(m) => Some(m.clone()),
            Value::Known(_) => None,
        });
        let rank = first.ok_or("has no inputs")?.axes.len();
        let at = eval::axis(node.int("axis", 1)?, rank + 1)?;
        let axis = at.checked_sub(1).ok_or("joins batches")?;
        let mut maps = Vec::new();
        for v in values {
            maps.push(match v {
                Value::Map(m) => m,
                Value::Known(t) => {
                    if t.rank() != rank + 1 || t.shape[0] != 1 {
                        return Err(format!("a constant of {:?} beside maps", t.shape));
                    }
                    let row = Constant { shape: Shape::new(1, 1, t.len()) };
                    let place = self.add_with(row, &[], vec![("weight", t.f32s()?.to_vec())])?;
                    Map::plain(place, &t.shape[1..])
                }
            });
        }
        if maps.iter().any(|m| m.axes.len() != rank) {
            return Err("joins values of different ranks".into());
        }
        let others = |m: &Map| {
            let mut sizes = m.sizes();
            sizes.remove(axis);
            sizes
        };
        if let Some(m) = maps.iter().find(|m| others(m) != others(&maps[0])) {
            return Err(format!("{:?} does not fit beside {:?}", m.sizes(), maps[0].sizes()));
        }
        // Where the axis is outermost in memory as it is, values lie one behind the other.
        let rest: Vec<usize> = (0..rank).filter(|&a| a != axis).collect();
        let outermost = |m: &Map| {
            let order = [m.axes[axis].clone(), m.atoms_of(rest.iter().copied())].concat();
            order.iter().filter(|&&a| m.atoms[a] > 1).is_sorted()
        };
        let behind = maps.iter().all(outermost)
            && !(axis == 0 && maps.iter().all(|m| others(m).iter().all(|&s| s == 1)));
        let total: usize = maps.iter().map(|m| m.size(axis)).sum();
        let mut places = Vec::new();
        if behind {
            for m in &maps {
                let order = [m.axes[axis].clone(), m.atoms_of(rest.iter().copied())].concat();
                places.push(self.arranged(m, [vec![], vec![], order])?.place);
            }
            let place = self.add("", Concat {}, &places)?;
            let mut sizes = maps[0].sizes();
            sizes[axis] = total;
            // The axis first in memory, then the others in order.
            let order: Vec<usize> = std::iter::once(axis).chain(rest).collect();
            let atoms = order.iter().map(|&a| sizes[a]).collect();
            let axes = (0..rank).map(|a| vec![order.iter().position(|&o| o == a).unwrap_or(0)]);
            return Ok(Map { place, atoms, axes: axes.collect() });
        }
        if axis == 0 {
            for m in &maps {
                places.push(self.natural(m)?.place);
            }
            let place = self.add("", Concat {}, &places)?;
            let mut sizes = maps[0].sizes();
            sizes[0] = total;
            // The usual form, of any rank.
            let order: Vec<usize> = (1..rank).chain([0]).collect();
            let atoms = order.iter().map(|&a| sizes[a]).collect();
            let axes = (0..rank).map(|a| vec![order.iter().position(|&o| o == a).unwrap_or(0)]);
            return Ok(Map { place, atoms, axes: axes.collect() });
        }
        let mut shape = None;
        for m in &maps {
            let m = self.inmost(m, &[axis])?;
            // Innermost, the others in order in front.
            let groups = [m.atoms_of(rest.iter().copied()), vec![], m.axes[axis].clone()];
            let m = self.arranged(&m, groups)?;
            shape.get_or_insert(others(&m));
            places.push(m.place);
        }
        let place = self.add("", Concat {}, &places)?;
        let atoms = [shape.unwrap_or_default(), vec![total]].concat();
        let axes = (0..rank).map(|a| match a {
            a if a == axis => vec![rank - 1],
            a if a < axis => vec![a],
            a => vec![a - 1],
        });
        Ok(Map { place, atoms, axes: axes.collect() })
    }

    /// Ops that only read the axes anew.
    pub fn rename(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let sizes = self.sizes(&m);
        let rank = sizes.len();
        match &node.op[..] {
            "Reshape" => {
                let to = self.ints(node, "shape", 1)?.ok_or("has no shape")?;
                let to = eval::reshape_to(&sizes, &to, node.flag("allowzero", false)?)?;
                self.behind_batch(&m, &to)
            }
            "Flatten" => {
                let at = node.int("axis", 1)?;
                let at = if at == rank as i64 { rank } else { eval::axis(at, rank)? };
                self.behind_batch(&m, &[sizes[..at].iter().product(), sizes[at..].iter().product()])
            }
            "Squeeze" => {
                let out = match self.ints(node, "axes", 1)? {
                    Some(list) => eval::axes(&list, rank)?,
                    None => (1..rank).filter(|&a| sizes[a] == 1).collect(),
                };
                let kept = (0..rank).filter(|a| !out.contains(a)).map(|a| sizes[a]);
                if out.iter().any(|&a| sizes[a] != 1) || out.contains(&0) {
                    return Err(format!("axes {out:?} of {sizes:?}"));
                }
                self.behind_batch(&m, &kept.collect::<Vec<_>>())
            }
            "Unsqueeze" => {
                let list = self.ints(node, "axes", 1)?.ok_or("has no axes")?;
                let new = eval::axes(&list, rank + list.len())?;
                let mut old = sizes.iter().copied();
                let all = (0..rank + list.len())
                    .map(|a| if new.contains(&a) { 1 } else { old.next().unwrap_or(1) });
                if new.contains(&0) {
                    return Err("puts an axis before the batch".into());
                }
                self.behind_batch(&m, &all.collect::<Vec<_>>())
            }
            "Transpose" => {
                let order = match node.ints("perm")? {
                    Some(list) => eval::axes(list, rank)?,
                    None => (0..rank).rev().collect(),
                };
                if order.len() != rank || order[0] != 0 {
                    return Err("moves the batch".into());
                }
                Ok(m.transposed(&order[1..].iter().map(|a| a - 1).collect::<Vec<_>>()))
            }
            op => {
                let b = usize::try_from(node.int("blocksize", 0)?)
                    .ok()
                    .filter(|&b| b > 0 && b < 1 << 12);
                let (b, [_, c, h, w]) = match (b, &sizes[..]) {
                    (Some(b), &[n, c, h, w]) => (b, [n, c, h, w]),
                    _ => return Err(format!("needs maps but got {sizes:?}")),
                };
                if op == "SpaceToDepth" {
                    let split = self.reshaped(&m, &[c, h / b, b, w / b, b])?;
                    let turned = split.transposed(&[2, 4, 0, 1, 3]);
                    return self.reshaped(&turned, &[c * b * b, h / b, w / b]);
                }
                let d = c / (b * b);
                let (split, order) = match &node.text("mode", "DCR")?[..] {
                    "CRD" => ([d, b, b, h, w], [0, 3, 1, 4, 2]),
                    _ => ([b, b, d, h, w], [2, 3, 0, 4, 1]),
                };
                let turned = self.reshaped(&m, &split)?.transposed(&order);
                self.reshaped(&turned, &[d, h * b, w * b])
            }
        }
    }

    fn behind_batch(&mut self, m: &Map, sizes: &[usize]) -> Said<Map> {
        match sizes {
            [batch, rest @ ..] if *batch == self.batch => self.reshaped(m, rest),
            _ => Err(format!(
                "reads {:?} as {sizes:?}, which mixes samples of a batch",
                self.sizes(m)
            )),
        }
    }
}
