//! Convolutions, their transposes, and dense layers.

use super::super::Said;
use super::super::eval::{Transposed, Windows};
use super::super::graph::Node;
use super::super::tensor::Tensor;
use super::Lower;
use super::layout::Map;
use convoke_engine::layers::{Axis, Conv, Dense, Layer, Spread, Take};
use convoke_engine::{Hw, Padding, Shape};

/// Rows and columns of what has one number for each axis of space; a signal has one row.
pub(super) fn pair<T: Copy>(v: &[T], one: T) -> Said<(T, T)> {
    match *v {
        [w] => Ok((one, w)),
        [h, w] => Ok((h, w)),
        _ => Err("has more than two axes of space, which a network has not".into()),
    }
}

impl Lower<'_> {
    /// The filters of a convolution as rows, columns, channels of a group, filters.
    fn filters(w: &Tensor) -> Said<(Hw, [usize; 2], Vec<f32>)> {
        if w.rank() < 3 {
            return Err(format!("filters of {:?}", w.shape));
        }
        let (m, c) = (w.shape[0], w.shape[1]);
        let (kh, kw) = pair(&w.shape[2..], 1)?;
        let turned = w.reshaped(vec![m, c, kh, kw])?.transposed(&[2, 3, 1, 0]);
        Ok((Hw { h: kh, w: kw }, [m, c], turned.to_f32s()))
    }

    pub fn conv(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        let w = self.known(node, 1)?.ok_or("has no filters")?;
        if w.rank() < 3 || w.rank() != m.axes.len() + 1 {
            return Err(format!("filters of {:?} over {:?}", w.shape, self.sizes(&m)));
        }
        let windows = Windows::read(node, &m.sizes()[1..], &w.shape[2..])?;
        let (window, [filters, depth], weights) = Self::filters(&w)?;
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0);
        if depth.checked_mul(groups) != Some(m.size(0)) {
            return Err(format!(
                "{groups} groups, filters of {:?} over {:?}",
                w.shape,
                self.sizes(&m)
            ));
        }
        let of = |f: fn(&super::super::eval::Span) -> usize, one| {
            pair(&windows.0.iter().map(f).collect::<Vec<_>>(), one)
        };
        let ((sh, sw), (dh, dw)) = (of(|s| s.stride, 1)?, of(|s| s.dilation, 1)?);
        let ((top, left), (bottom, right)) = (of(|s| s.before, 0)?, of(|s| s.after, 0)?);
        // Zeros that a layer before puts around the map are padding.
        let (place, around) = self.unpadded(m.place);
        let [top, bottom, left, right] =
            [top + around[0], bottom + around[1], left + around[2], right + around[3]];
        let mut conv = Conv::new(filters, window)
            .stride([sh, sw])
            .dilation([dh, dw])
            .groups(groups)
            .padding(explicit(top, bottom, left, right));
        let bias = self.known(node, 2)?;
        conv.bias = bias.is_some();
        let mut tensors = vec![("weight", weights)];
        if let Some(b) = bias {
            tensors.push(("bias", b.f32s()?.to_vec()));
        }
        let place = self.add_with(conv, &[place], tensors)?;
        Ok(Map::fresh(place, self.shape(place), m.axes.len()))
    }

    /// A place without the zeros around it: rows above and below, columns left and right.
    fn unpadded(&self, mut place: usize) -> (usize, [usize; 4]) {
        let mut around = [0; 4];
        while let Some((&Layer::Take(Take { axis, start, step: 1, size }), from)) =
            self.layer(place)
        {
            let s = self.shape(from[0]);
            let (n, at) = match axis {
                Axis::H => (s.h, 0),
                Axis::W => (s.w, 2),
                Axis::C => break,
            };
            let (before, after) = (-start, size as i64 + start - n as i64);
            if before < 0 || after < 0 {
                break;
            }
            around[at] += before as usize;
            around[at + 1] += after as usize;
            place = from[0];
        }
        (place, around)
    }

    /// A transposed convolution is one over the map with zeros between its pixels, filters mirrored.
    pub fn conv_transpose(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let m = self.natural(&m)?;
        let w = self.known(node, 1)?.ok_or("has no filters")?;
        if w.rank() < 3 || w.rank() != m.axes.len() + 1 || w.shape[0] != m.size(0) {
            return Err(format!("filters of {:?} over {:?}", w.shape, self.sizes(&m)));
        }
        let sizes = m.sizes();
        let t = Transposed::read(node, &sizes[1..], &w.shape[2..])?;
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0);
        if groups == 0 || sizes[0] % groups != 0 {
            return Err(format!("{groups} groups of {} channels", sizes[0]));
        }
        let ((kh, kw), (dh, dw)) = (pair(&w.shape[2..], 1)?, pair(&t.dilations, 1)?);
        let ((sh, sw), (oh, ow)) = (pair(&t.strides, 1)?, pair(&t.out, 1)?);
        let (cut_h, cut_w) = pair(&t.before, 0)?;
        let (c, each) = (sizes[0] / groups, w.shape[1]);
        let filters = each * groups;
        let s = self.shape(m.place);
        let mut place = m.place;
        let mut pads = [0; 4];
        for (axis, n, step, k, d, cut, out, at) in
            [(Axis::H, s.h, sh, kh, dh, cut_h, oh, 0), (Axis::W, s.w, sw, kw, dw, cut_w, ow, 2)]
        {
            if step > 1 && n > 1 {
                place = self.add("", Spread { axis, step }, &[place])?;
            }
            let (whole, reach) = (((n - 1) * step + 1) as i64, ((k - 1) * d) as i64);
            let before = reach - cut;
            let after = out as i64 + reach - whole - before;
            if before < 0 || after < 0 {
                // More is cut off than the window reaches over: cut the map itself.
                let size =
                    usize::try_from(whole + before + after).map_err(|_| "cuts everything off")?;
                place = self.add("", Take { axis, start: -before, step: 1, size }, &[place])?;
            } else {
                (pads[at], pads[at + 1]) = (before as usize, after as usize);
            }
        }
        let ws = w.f32s()?;
        let mut weights = Vec::with_capacity(ws.len());
        for i in 0..kh * kw {
            for channel in 0..c {
                for f in 0..filters {
                    let from = f / each * c + channel;
                    weights.push(ws[(from * each + f % each) * kh * kw + kh * kw - 1 - i]);
                }
            }
        }
        let [top, bottom, left, right] = pads;
        let mut conv = Conv::new(filters, [kh, kw])
            .dilation([dh, dw])
            .groups(groups)
            .padding(explicit(top, bottom, left, right));
        let bias = self.known(node, 2)?;
        conv.bias = bias.is_some();
        let mut tensors = vec![("weight", weights)];
        if let Some(b) = bias {
            tensors.push(("bias", b.f32s()?.to_vec()));
        }
        let place = self.add_with(conv, &[place], tensors)?;
        Ok(Map::fresh(place, self.shape(place), m.axes.len()))
    }

    /// `x [n, k] · w [k, units]`: the rows of `w` in the order in which the sample's numbers lie.
    fn dense(&mut self, m: &Map, w: &Tensor, bias: Option<Vec<f32>>) -> Said<Map> {
        let [k, units] = w.shape[..] else { return Err(format!("weights of {:?}", w.shape)) };
        if k != m.size(0) {
            return Err(format!("weights of {:?} for {:?}", w.shape, self.sizes(m)));
        }
        let ws = w.f32s()?;
        let mut weights = vec![0.0; ws.len()];
        for (logical, place) in m.places().into_iter().enumerate() {
            weights[place * units..][..units].copy_from_slice(&ws[logical * units..][..units]);
        }
        let mut dense = Dense::new(units);
        dense.bias = bias.is_some();
        let mut tensors = vec![("weight", weights)];
        tensors.extend(bias.map(|b| ("bias", b)));
        let place = self.add_with(dense, &[m.place], tensors)?;
        Ok(Map::fresh(place, self.shape(place), 1))
    }

    pub fn gemm(&mut self, node: &Node) -> Said<Map> {
        let m = self.map(node, 0)?;
        let w = self.known(node, 1)?.ok_or("has no weights")?;
        if node.flag("transA", false)? || m.axes.len() != 1 || w.rank() != 2 {
            return Err(format!("{:?} times {:?} is no dense layer", self.sizes(&m), w.shape));
        }
        let mut w = if node.flag("transB", false)? { w.transposed(&[1, 0]) } else { (*w).clone() };
        let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
        w = Tensor::floats(&w.shape, w.f32s()?.iter().map(|v| v * alpha).collect());
        let bias = match self.known(node, 2)? {
            None => None,
            Some(b) => {
                // The same for every sample.
                let row = b.expanded(&[1, w.shape[1]])?;
                Some(row.f32s()?.iter().map(|v| v * beta).collect())
            }
        };
        self.dense(&m, &w, bias)
    }

    pub fn matmul(&mut self, node: &Node) -> Said<Map> {
        let Ok(Some(rows)) = self.known(node, 0) else {
            let m = self.map(node, 0)?;
            let w = self.known(node, 1)?.ok_or("has no weights")?;
            return self.times(&m, &w);
        };
        // A · X is (Xᵀ · Aᵀ)ᵀ.
        let m = self.map(node, 1)?;
        let rank = m.axes.len();
        if rows.rank() != 2 || rank < 2 {
            return Err(format!("{:?} times {:?} is no dense layer", rows.shape, self.sizes(&m)));
        }
        let mut turn: Vec<usize> = (0..rank).collect();
        turn.swap(rank - 1, rank - 2);
        Ok(self.times(&m.transposed(&turn), &rows.transposed(&[1, 0]))?.transposed(&turn))
    }

    /// `m […, k] · w [k, n]`.
    fn times(&mut self, m: &Map, w: &Tensor) -> Said<Map> {
        let rank = m.axes.len();
        if w.rank() != 2 || rank == 0 || w.shape[0] != m.size(rank - 1) {
            return Err(format!("{:?} times {:?} is no dense layer", self.sizes(m), w.shape));
        }
        if rank == 1 {
            return self.dense(m, w, None);
        }
        // The same dense layer at every place: a convolution of one pixel.
        let m = self.inmost(m, &[rank - 1])?;
        let conv = Conv::new(w.shape[1], 1).valid().no_bias();
        let place = self.add_with(conv, &[m.place], vec![("weight", w.f32s()?.to_vec())])?;
        let line = self.line(&m, rank - 1)?;
        Ok(line.changed(place, w.shape[1]))
    }

    /// The layer that makes a place, with a bias where it is linear and has none.
    pub fn with_bias(&mut self, place: usize, bias: &[f32]) -> Said<Option<usize>> {
        let Some((layer, from)) = self.layer(place) else { return Ok(None) };
        let (mut layer, from) = (layer.clone(), from.to_vec());
        let (Layer::Conv(Conv { bias: has, .. }) | Layer::Dense(Dense { bias: has, .. })) =
            &mut layer
        else {
            return Ok(None);
        };
        let Shape { c, .. } = self.shape(place);
        let Some(weights) =
            self.tensor(place, "weight").cloned().filter(|_| !*has && c == bias.len())
        else {
            return Ok(None);
        };
        *has = true;
        self.add_with(layer, &from, vec![("weight", weights), ("bias", bias.to_vec())]).map(Some)
    }
}

/// Padding in numbers, by its shortest word.
pub(super) fn explicit(top: usize, bottom: usize, left: usize, right: usize) -> Padding {
    match [top, bottom, left, right] {
        [0, 0, 0, 0] => Padding::Valid,
        _ => Padding::Explicit { top, bottom, left, right },
    }
}
