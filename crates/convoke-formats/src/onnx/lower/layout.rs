//! How a graph's values, whose axes are batch, channels, rows, columns, lie in maps `[h, w, c]`.
//!
//! A sample's numbers lie in a row of *atoms*, sizes whose product is the sample's length; each axis of the graph
//! is made of some of them. Flattening, splitting, merging and turning axes then only renames atoms, and nothing
//! moves before an op needs the numbers side by side: `Flatten` before a dense layer costs nothing, a channel
//! shuffle is one.

use super::super::Said;
use super::super::tensor::count;
use super::Lower;
use convoke_engine::Shape;
use convoke_engine::layers::{Axis, ChannelShuffle, Rearrange};

/// A value of the graph that lies in a place of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    /// The place.
    pub place: usize,
    /// Sizes in the order in which the numbers lie.
    pub atoms: Vec<usize>,
    /// The graph's axes behind the batch: which atoms, outermost first. None for a size of one.
    pub axes: Vec<Vec<usize>>,
}

impl Map {
    /// The usual form of a place of shape `s` for a graph's value of so many axes behind the batch: channels first.
    pub fn fresh(place: usize, s: Shape, rank: usize) -> Self {
        let Shape { h, w, c } = s;
        let (atoms, axes) = match rank {
            0 => (vec![], vec![]),
            1 => (vec![h * w * c], vec![vec![0]]),
            2 => (vec![h * w, c], vec![vec![1], vec![0]]),
            _ => (vec![h, w, c], vec![vec![2], vec![0], vec![1]]),
        };
        Map { place, atoms, axes }
    }

    /// Axes in the order in which the numbers lie.
    pub fn plain(place: usize, sizes: &[usize]) -> Self {
        Map { place, atoms: sizes.to_vec(), axes: (0..sizes.len()).map(|i| vec![i]).collect() }
    }

    /// Size of an axis.
    pub fn size(&self, axis: usize) -> usize {
        self.axes[axis].iter().map(|&a| self.atoms[a]).product()
    }

    /// Sizes of all axes.
    pub fn sizes(&self) -> Vec<usize> {
        (0..self.axes.len()).map(|a| self.size(a)).collect()
    }

    /// The same with its numbers in another place.
    pub fn at(&self, place: usize) -> Self {
        Map { place, ..self.clone() }
    }

    /// Atoms of several axes in a row.
    pub fn atoms_of(&self, axes: impl IntoIterator<Item = usize>) -> Vec<usize> {
        axes.into_iter().flat_map(|a| self.axes[a].clone()).collect()
    }

    /// For every number in the graph's order the place where it lies in the sample.
    pub fn places(&self) -> Vec<usize> {
        let order = self.atoms_of(0..self.axes.len());
        let own = super::super::tensor::strides(&self.atoms);
        let (sizes, steps): (Vec<usize>, Vec<usize>) =
            order.iter().map(|&a| (self.atoms[a], own[a])).unzip();
        let n = sizes.iter().product();
        super::super::tensor::Walk::new(&sizes, &steps).take(n).collect()
    }

    /// Splits an atom in two.
    fn split(&mut self, atom: usize, outer: usize) {
        let inner = self.atoms[atom] / outer;
        self.atoms.splice(atom..=atom, [outer, inner]);
        for axis in &mut self.axes {
            let moved = |&a: &usize| match a {
                a if a < atom => vec![a],
                a if a == atom => vec![a, a + 1],
                a => vec![a + 1],
            };
            *axis = axis.iter().flat_map(moved).collect();
        }
    }

    /// The axes turned.
    pub fn transposed(&self, order: &[usize]) -> Self {
        Map { axes: order.iter().map(|&a| self.axes[a].clone()).collect(), ..self.clone() }
    }

    /// The axes read as others, where atoms need not move for it.
    fn regrouped(&self, sizes: &[usize]) -> Option<Self> {
        let mut map = self.clone();
        let mut axes = Vec::new();
        let mut next = 0;
        for &size in sizes {
            let mut axis = Vec::new();
            let mut left = size;
            while left > 1 {
                let order = map.atoms_of(0..map.axes.len());
                let &atom = order.get(next)?;
                let n = map.atoms[atom];
                if n > left || left % n != 0 {
                    if !n.is_multiple_of(left) {
                        return None;
                    }
                    map.split(atom, left);
                    for a in
                        axes.iter_mut().flat_map(|a: &mut Vec<usize>| a.iter_mut()).chain(&mut axis)
                    {
                        *a += usize::from(*a > atom);
                    }
                    axis.push(atom);
                    next += 1;
                    left = 1;
                    continue;
                }
                axis.push(atom);
                next += 1;
                left /= n;
            }
            axes.push(axis);
        }
        map.axes = axes;
        map.without_loose_atoms()
    }

    /// Atoms of one that no axis has are dropped.
    fn without_loose_atoms(mut self) -> Option<Self> {
        for atom in (0..self.atoms.len()).rev() {
            if self.axes.iter().flatten().any(|&a| a == atom) {
                continue;
            }
            if self.atoms[atom] != 1 {
                return None;
            }
            self.atoms.remove(atom);
            self.axes.iter_mut().flatten().filter(|a| **a > atom).for_each(|a| *a -= 1);
        }
        Some(self)
    }

    /// The axis gone; it is of one.
    pub fn squeezed(&self, axis: usize) -> Said<Self> {
        let mut map = self.clone();
        map.axes.remove(axis);
        map.without_loose_atoms().ok_or_else(|| format!("axis {axis} is not of one"))
    }

    /// The axis, whose atoms lie side by side, with another size in another place.
    fn resized(&self, axis: usize, place: usize, size: usize) -> Self {
        let mut map = self.at(place);
        let own = map.axes[axis].clone();
        let Some(&first) = own.first() else {
            map.axes[axis] = vec![map.atoms.len()];
            map.atoms.push(size);
            return map;
        };
        map.atoms.splice(first..first + own.len(), [size]);
        for (i, atoms) in map.axes.iter_mut().enumerate() {
            if i == axis {
                *atoms = vec![first];
                continue;
            }
            atoms.iter_mut().filter(|a| **a > first).for_each(|a| *a -= own.len() - 1);
        }
        map
    }
}

/// One axis of a value as an axis of its map.
pub(super) struct Line {
    map: Map,
    axis: usize,
    /// Where the axis is in the map.
    pub of: Axis,
}

impl Line {
    /// The place with the numbers.
    pub fn place(&self) -> usize {
        self.map.place
    }

    /// The value once an op has changed the axis.
    pub fn changed(self, place: usize, size: usize) -> Map {
        self.map.resized(self.axis, place, size)
    }
}

impl Lower<'_> {
    /// Brings the numbers into the order of three groups of atoms: rows, columns, channels.
    pub fn arranged(&mut self, m: &Map, groups: [Vec<usize>; 3]) -> Said<Map> {
        let size = |g: &[usize]| g.iter().map(|&a| m.atoms[a]).product::<usize>();
        let shape = Shape::new(size(&groups[0]), size(&groups[1]), size(&groups[2]));
        let order = groups.concat();
        let now = self.shape(m.place);
        let still = order.iter().filter(|&&a| m.atoms[a] > 1).is_sorted();
        let place = match still {
            true if now == shape => m.place,
            true => self.add("", Rearrange::reshape(shape), &[m.place])?,
            false => match shuffle(m, &order, now) {
                Some(groups) if now == shape => {
                    self.add("", ChannelShuffle { groups }, &[m.place])?
                }
                _ => {
                    let (sizes, order) = (m.atoms.clone(), order.clone());
                    self.add("", Rearrange { sizes, order, shape }, &[m.place])?
                }
            },
        };
        let mut back = vec![0; order.len()];
        for (i, &a) in order.iter().enumerate() {
            back[a] = i;
        }
        Ok(Map {
            place,
            atoms: order.iter().map(|&a| m.atoms[a]).collect(),
            axes: m.axes.iter().map(|axis| axis.iter().map(|&a| back[a]).collect()).collect(),
        })
    }

    /// The usual form: channels innermost, columns before them, all else in front.
    pub fn natural(&mut self, m: &Map) -> Said<Map> {
        let rank = m.axes.len();
        let groups = match rank {
            0 => [vec![], vec![], m.atoms_of(0..0)],
            1 => [vec![], vec![], m.atoms_of([0])],
            2 => [vec![], m.atoms_of([1]), m.atoms_of([0])],
            _ => [m.atoms_of(1..rank - 1), m.atoms_of([rank - 1]), m.atoms_of([0])],
        };
        self.arranged(m, groups)
    }

    /// Some axes innermost, as the channels.
    pub fn inmost(&mut self, m: &Map, axes: &[usize]) -> Said<Map> {
        let last = m.atoms_of(axes.iter().copied());
        let size: usize = last.iter().map(|&a| m.atoms[a]).product();
        // As they lie, where they are innermost already.
        let front = m.atoms.len() - last.len();
        if last.iter().copied().eq(front..m.atoms.len()) && self.shape(m.place).c == size {
            return Ok(m.clone());
        }
        let others = m.atoms_of((0..m.axes.len()).filter(|a| !axes.contains(a)));
        self.arranged(m, [others, vec![], last])
    }

    /// An axis whose atoms lie side by side, as an axis of a map.
    pub fn line(&mut self, m: &Map, axis: usize) -> Said<Line> {
        let together = |m: &Map| m.axes[axis].windows(2).all(|w| w[1] == w[0] + 1);
        let m = if together(m) { m.clone() } else { self.natural(m)? };
        let (first, n) = (m.axes[axis].first().copied().unwrap_or(m.atoms.len()), m.size(axis));
        let before: usize = m.atoms[..first].iter().product();
        let after: usize = m.atoms[first + m.axes[axis].len()..].iter().product();
        let s = self.shape(m.place);
        let (of, place) = match () {
            () if s.c == n && after == 1 => (Axis::C, m.place),
            () if s.w == n && after == s.c => (Axis::W, m.place),
            () if s.h == n && after == s.w * s.c => (Axis::H, m.place),
            () => {
                let shape = Shape::new(before, n, after);
                (Axis::W, self.add("", Rearrange::reshape(shape), &[m.place])?)
            }
        };
        Ok(Line { map: m.at(place), axis, of })
    }

    /// The axes behind the batch read as others.
    pub fn reshaped(&mut self, m: &Map, sizes: &[usize]) -> Said<Map> {
        if count(sizes)? != self.shape(m.place).len() {
            return Err(format!("{:?} cannot be read as {sizes:?}", m.sizes()));
        }
        if let Some(map) = m.regrouped(sizes) {
            return Ok(map);
        }
        let all = m.atoms_of(0..m.axes.len());
        let row = self.arranged(m, [vec![], vec![], all])?;
        Ok(Map::plain(row.place, sizes))
    }
}

/// Groups of the channel shuffle that brings atoms into an order, if that is what it is.
fn shuffle(m: &Map, order: &[usize], now: Shape) -> Option<usize> {
    let long: Vec<usize> = order.iter().copied().filter(|&a| m.atoms[a] > 1).collect();
    let [front @ .., i, g] = &long[..] else { return None };
    let behind = m.atoms[*g] * m.atoms[*i] == now.c;
    (front.is_sorted() && front.iter().all(|a| a < g) && g < i && behind).then(|| m.atoms[*g])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flattening_and_splitting_only_rename() {
        let m = Map::fresh(0, Shape::new(2, 3, 8), 3);
        assert_eq!(m.sizes(), [8, 2, 3]);
        let flat = m.regrouped(&[48]).unwrap();
        assert_eq!(flat.axes, [[2, 0, 1]]);
        // Channel 0 of the six pixels, then channel 1, …
        assert_eq!(flat.places()[..7], [0, 8, 16, 24, 32, 40, 1]);
        let grouped = m.regrouped(&[2, 4, 2, 3]).unwrap();
        assert_eq!((&grouped.atoms[..], grouped.sizes()), (&[2, 3, 2, 4][..], vec![2, 4, 2, 3]));
        let back = grouped.transposed(&[1, 0, 2, 3]).regrouped(&[8, 2, 3]).unwrap();
        assert_eq!(back.axes, [vec![3, 2], vec![0], vec![1]]);
        assert!(m.regrouped(&[3, 16]).is_none());
    }

    #[test]
    fn axes_change_their_size_where_they_lie() {
        let m = Map::fresh(0, Shape::new(2, 3, 8), 3).regrouped(&[2, 4, 6]).unwrap();
        assert_eq!(m.atoms, [2, 3, 2, 4]);
        let r = m.resized(2, 9, 5);
        assert_eq!((r.place, &r.atoms[..], r.sizes()), (9, &[5, 2, 4][..], vec![2, 4, 5]));
        let one = Map::fresh(0, Shape::new(1, 1, 8), 3);
        assert_eq!(one.squeezed(1).unwrap().squeezed(1).unwrap().sizes(), [8]);
        assert!(one.squeezed(0).is_err());
    }
}
