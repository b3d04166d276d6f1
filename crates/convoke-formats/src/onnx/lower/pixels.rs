//! Pools, reductions, and what cuts, pads, picks and resizes.

use super::super::Said;
use super::super::eval::{self, Windows};
use super::super::graph::Node;
use super::super::tensor::Tensor;
use super::Lower;
use super::layout::Map;
use super::linear::{explicit, pair};
use convoke_engine::layers::*;

/// Places along an axis that are told one by one: more is no picture.
const LONGEST: usize = 1 << 16;

impl Lower<'_> {
    pub fn pool(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        let rank = m.axes.len();
        let taps = node.ints("kernel_shape")?.ok_or("has no `kernel_shape`")?;
        let size = |&k: &i64| usize::try_from(k).ok().filter(|&k| k > 0 && k < 1 << 20);
        let taps: Option<Vec<usize>> = taps.iter().map(size).collect();
        let taps = taps.ok_or("`kernel_shape` is not positive")?;
        if rank < 2 {
            return Err("has no maps".into());
        }
        let windows = Windows::read(node, &m.sizes()[1..], &taps)?;
        if windows.0.iter().any(|s| s.dilation > 1 && s.size > 1) {
            return Err("is dilated, which pools of a network are not".into());
        }
        let max = node.op == "MaxPool";
        if max && node.outputs.get(1).is_some_and(|o| !o.is_empty()) {
            return Err("gives places of its maxima, which is not supported".into());
        }
        let spans = &windows.0;
        let whole = spans.iter().all(|s| s.size == s.input && s.before + s.after == 0);
        if whole && spans.iter().all(|s| s.out == 1) {
            return self.whole(&m, max);
        }
        // What a last window needs beyond the padding that was asked for never counts.
        let last = |s: &eval::Span| {
            let needed = ((s.out - 1) * s.stride + s.size).saturating_sub(s.input + s.before);
            (s.before, s.after, needed)
        };
        let sides: Vec<_> = spans.iter().map(last).collect();
        let ((top, below, need_h), (left, behind, need_w)) = pair(&sides, (0, 0, 0))?;
        let of = |f: fn(&eval::Span) -> usize| pair(&spans.iter().map(f).collect::<Vec<_>>(), 1);
        let ((kh, kw), (sh, sw)) = (of(|s| s.size)?, of(|s| s.stride)?);
        let count_padding = node.flag("count_include_pad", false)?;
        let pads = (top.max(left).max(below).max(behind)) > 0;
        let mut place = m.place;
        let (mut padding, counted) = (
            [top, below.max(need_h), left, behind.max(need_w)],
            count_padding && need_h <= below && need_w <= behind,
        );
        if !max && count_padding && pads && !counted {
            // Zeros that count, then a ragged edge that does not.
            let s = self.shape(place);
            for (axis, n, before, after) in
                [(Axis::H, s.h, top, below), (Axis::W, s.w, left, behind)]
            {
                if before + after > 0 {
                    let take =
                        Take { axis, start: -(before as i64), step: 1, size: n + before + after };
                    place = self.add("", take, &[place])?;
                }
            }
            padding = [0, need_h.saturating_sub(below), 0, need_w.saturating_sub(behind)];
        }
        let padding = explicit(padding[0], padding[1], padding[2], padding[3]);
        let place = match max {
            true => {
                self.add("", MaxPool::new([kh, kw]).stride([sh, sw]).padding(padding), &[place])?
            }
            false => {
                let mut mean = MeanPool::new([kh, kw]).stride([sh, sw]).padding(padding);
                mean.count_padding = counted && pads;
                self.add("", mean, &[place])?
            }
        };
        Ok(Map::fresh(place, self.shape(place), rank))
    }

    /// The largest or the mean of whole maps.
    fn whole(&mut self, m: &Map, max: bool) -> Said<Map> {
        let mut place = m.place;
        if max {
            for axis in [Axis::H, Axis::W] {
                place = self.add("", Reduce { axis, by: By::Max }, &[place])?;
            }
        } else {
            place = self.add("", GlobalMeanPool {}, &[place])?;
        }
        let sizes: Vec<usize> =
            std::iter::once(m.size(0)).chain(m.axes[1..].iter().map(|_| 1)).collect();
        self.reshaped(&Map::fresh(place, self.shape(place), 1), &sizes)
    }

    pub fn global_pool(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        if m.axes.len() < 2 {
            return Err("has no maps".into());
        }
        self.whole(&m, node.op == "GlobalMaxPool")
    }

    pub fn reduce(&mut self, node: &Node) -> Said<Map> {
        let mut m = self.map(node, 0)?;
        let rank = m.axes.len();
        let given = self.ints(node, "axes", 1)?;
        let op = node.op.trim_start_matches("Reduce").to_string();
        let over = eval::reduced(node, given, rank + 1)?.unwrap_or_default();
        if over.contains(&0) {
            return Err("reduces over the batch".into());
        }
        let mut over: Vec<usize> = over.into_iter().map(|a| a - 1).collect();
        over.sort_unstable();
        let keep = node.flag("keepdims", true)?;
        let square = Function { of: FunctionKind::Power, a: 2.0, b: 0.0 };
        let (before, by, after) = match &op[..] {
            "Mean" => (None, By::Mean, None),
            "Sum" => (None, By::Sum, None),
            "Max" => (None, By::Max, None),
            "Min" => (None, By::Min, None),
            "L1" => (Some(Function::new(FunctionKind::Abs)), By::Sum, None),
            "L2" => (Some(square), By::Sum, Some(Function::new(FunctionKind::Sqrt))),
            "SumSquare" => (Some(square), By::Sum, None),
            "LogSum" => (None, By::Sum, Some(Function::new(FunctionKind::Log))),
            _ if over.len() == 1 => return self.log_sum_exp(&m, over[0], keep),
            _ => return Err("is supported over one axis only".into()),
        };
        if let Some(f) = before {
            let place = self.add("", f, &[m.place])?;
            m = m.at(place);
        }
        let usual = Map::fresh(m.place, self.shape(m.place), rank);
        if by == By::Mean
            && rank == 3
            && over == [1, 2]
            && m.atoms == usual.atoms
            && m.axes == usual.axes
        {
            m = self.whole(&m, false)?;
        } else {
            for &axis in &over {
                let line = self.line(&m, axis)?;
                let place = self.add("", Reduce { axis: line.of, by }, &[line.place()])?;
                m = line.changed(place, 1);
            }
        }
        if let Some(f) = after {
            let place = self.add("", f, &[m.place])?;
            m = m.at(place);
        }
        self.dropped(m, &over, keep)
    }

    fn dropped(&self, mut m: Map, over: &[usize], keep: bool) -> Said<Map> {
        if !keep {
            for &axis in over.iter().rev() {
                m = m.squeezed(axis)?;
            }
        }
        Ok(m)
    }

    fn log_sum_exp(&mut self, m: &Map, axis: usize, keep: bool) -> Said<Map> {
        let line = self.line(m, axis)?;
        let (place, of) = (line.place(), line.of);
        let largest = self.add("", Reduce { axis: of, by: By::Max }, &[place])?;
        let low = self.add("", Combine { by: CombineKind::Subtract }, &[place, largest])?;
        let exp = self.add("", Function::new(FunctionKind::Exp), &[low])?;
        let sum = self.add("", Reduce { axis: of, by: By::Sum }, &[exp])?;
        let log = self.add("", Function::new(FunctionKind::Log), &[sum])?;
        let place = self.add("", Add {}, &[log, largest])?;
        let m = line.changed(place, 1);
        self.dropped(m, &[axis], keep)
    }

    /// Places `start, start + step, …` along an axis.
    fn take(&mut self, m: &Map, axis: usize, start: i64, step: i64, size: usize) -> Said<Map> {
        if (start, step, size) == (0, 1, m.size(axis)) {
            return Ok(m.clone());
        }
        if size == 0 {
            return Err("leaves nothing".into());
        }
        let line = self.line(m, axis)?;
        let inside = start >= 0 && start as usize + size <= m.size(axis);
        let place = match line.of {
            Axis::C if step == 1 && inside => {
                self.add("", Slice { start: start as usize, channels: size }, &[line.place()])?
            }
            axis => self.add("", Take { axis, start, step, size }, &[line.place()])?,
        };
        Ok(line.changed(place, size))
    }

    /// Weighted sums along an axis.
    fn mix(&mut self, m: &Map, axis: usize, table: Vec<Vec<(usize, f32)>>) -> Said<Map> {
        let (size, out) = (m.size(axis), table.len());
        if out > LONGEST {
            return Err(format!("makes {out} places of {size}; at most {LONGEST}"));
        }
        let line = self.line(m, axis)?;
        let place = self.add("", Mix { axis: line.of, size, table }, &[line.place()])?;
        Ok(line.changed(place, out))
    }

    /// Each output along an axis is the input at a place.
    fn picked(&mut self, m: &Map, axis: usize, places: &[usize]) -> Said<Map> {
        if let Some(&first) = places.first()
            && places.windows(2).all(|w| w[1] == w[0] + 1)
        {
            return self.take(m, axis, first as i64, 1, places.len());
        }
        self.mix(m, axis, places.iter().map(|&p| vec![(p, 1.0)]).collect())
    }

    pub fn pad(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let old = if node.has("paddings") { "paddings" } else { "pads" };
        let pads = self.ints(node, old, 1)?.ok_or("has no pads")?;
        let fill = match self.known(node, 2)? {
            Some(t) if !t.is_empty() => t.number()?,
            _ => node.float("value", 0.0)?,
        };
        let list = self.known(node, 3)?;
        let list = list.as_ref().map(|t| t.i64s()).transpose()?;
        let mode = node.text("mode", "constant")?;
        let sides = eval::pad_sides(m.axes.len() + 1, &pads, list)?;
        if sides[0] != (0, 0) {
            return Err("pads the batch".into());
        }
        let mut m = m;
        let shifted = mode == "constant" && fill != 0.0;
        if shifted {
            let place = self.add("", Rescale { factor: 1.0, offset: -fill }, &[m.place])?;
            m = m.at(place);
        }
        for (axis, &(before, after)) in sides[1..].iter().enumerate() {
            let n = m.size(axis);
            let places = eval::padded(&mode, n, before, after)?;
            m = match mode == "constant" {
                true => self.take(&m, axis, -before, 1, places.len())?,
                false => {
                    self.picked(&m, axis, &places.into_iter().flatten().collect::<Vec<_>>())?
                }
            };
        }
        if shifted {
            let place = self.add("", Rescale { factor: 1.0, offset: fill }, &[m.place])?;
            m = m.at(place);
        }
        Ok(m)
    }

    pub fn slice(&mut self, node: &Node) -> Said<Map> {
        let mut m = self.map(node, 0)?;
        let starts = self.ints(node, "starts", 1)?.ok_or("has no starts")?;
        let ends = self.ints(node, "ends", 2)?.ok_or("has no ends")?;
        let (list, steps) = (self.ints(node, "axes", 3)?, self.ints(node, "steps", 4)?);
        let sizes = self.sizes(&m);
        let ranges = eval::slice_ranges(&sizes, &starts, &ends, list.as_deref(), steps.as_deref())?;
        if ranges[0] != (0, 1, self.batch) {
            return Err("cuts the batch".into());
        }
        for (axis, &(start, step, size)) in ranges[1..].iter().enumerate() {
            m = self.take(&m, axis, start as i64, step, size)?;
        }
        Ok(m)
    }

    pub fn split(&mut self, node: &Node) -> Said<Vec<Map>> {
        let m = self.map(node, 0)?;
        let at = eval::axis(node.int("axis", 0)?, m.axes.len() + 1)?;
        let axis = at.checked_sub(1).ok_or("cuts the batch")?;
        let parts = eval::parts(node, self.ints(node, "split", 1)?, m.size(axis))?;
        let mut start = 0;
        let mut all = Vec::new();
        for size in parts {
            all.push(self.take(&m, axis, start as i64, 1, size)?);
            start += size;
        }
        Ok(all)
    }

    pub fn gather(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let which = self.known(node, 1)?.ok_or("has no indices")?;
        let at = eval::axis(node.int("axis", 0)?, m.axes.len() + 1)?;
        let axis = at.checked_sub(1).ok_or("picks from the batch")?;
        let n = m.size(axis) as i64;
        let place = |&i: &i64| {
            let at = if i < 0 { i + n } else { i };
            usize::try_from(at).ok().filter(|_| at < n).ok_or(format!("place {i} of {n}"))
        };
        let places = which.i64s()?.iter().map(place).collect::<Said<Vec<_>>>()?;
        let picked = self.picked(&m, axis, &places)?;
        match which.rank() {
            0 => picked.squeezed(axis),
            1 => Ok(picked),
            _ => {
                let sizes = picked.sizes();
                let to = [&sizes[..axis], &which.shape[..], &sizes[axis + 1..]].concat();
                self.reshaped(&picked, &to)
            }
        }
    }

    pub fn resize(&mut self, node: &Node) -> Said<Map> {
        let mut m = self.map(node, 0)?;
        let mut given: Vec<Option<Tensor>> = Vec::new();
        for i in 0..node.inputs.len() {
            given.push(if i == 0 { None } else { self.known(node, i)?.map(|t| (*t).clone()) });
        }
        let sizes = self.sizes(&m);
        let plan = eval::resize::plan(node, &sizes, &|i| given.get(i).cloned().flatten())?;
        if plan.tables[0].is_some() {
            return Err("resizes the batch".into());
        }
        for (axis, table) in plan.tables.into_iter().skip(1).enumerate() {
            let Some(table) = table else { continue };
            if plan.fill != 0.0 && table.iter().any(Vec::is_empty) {
                return Err("fills what lies outside with a number other than 0".into());
            }
            let narrow =
                |row: Vec<(usize, f64)>| row.into_iter().map(|(i, w)| (i, w as f32)).collect();
            m = self.mix(&m, axis, table.into_iter().map(narrow).collect())?;
        }
        Ok(m)
    }

    pub fn repeat(&mut self, node: &Node) -> Said<Map> {
        let mut m = self.map(node, 0)?;
        let list = self.known(node, 1)?.ok_or("has no sizes")?;
        let sizes = self.sizes(&m);
        let given =
            list.i64s()?.iter().map(|&v| usize::try_from(v).map_err(|_| format!("a size of {v}")));
        let given = given.collect::<Said<Vec<_>>>()?;
        let to = match &node.op[..] {
            "Expand" => super::super::tensor::broadcast(&sizes, &given)?,
            _ if given.len() == sizes.len() => {
                sizes.iter().zip(&given).map(|(s, g)| s.saturating_mul(*g)).collect()
            }
            _ => return Err(format!("{given:?} repeats of {sizes:?}")),
        };
        if to.len() != sizes.len() || to[0] != sizes[0] {
            return Err("repeats the batch".into());
        }
        super::super::tensor::count(&to)?;
        for axis in 0..m.axes.len() {
            let (n, wanted) = (sizes[axis + 1], to[axis + 1]);
            if wanted > LONGEST {
                return Err(format!("makes {wanted} places of {n}; at most {LONGEST}"));
            }
            if n != wanted {
                let places: Vec<usize> = (0..wanted).map(|i| i % n).collect();
                m = self.mix(&m, axis, places.iter().map(|&p| vec![(p, 1.0)]).collect())?;
            }
        }
        Ok(m)
    }
}
