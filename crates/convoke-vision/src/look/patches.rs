//! What a filter looks for: the patches of many pictures to which it answers most (Zeiler and Fergus 2014).

use super::inside::{Inside, Weights};
use crate::canvas::{Canvas, Font, GAP, INK, LINE, SOFT, fit, short};
use crate::draw::{in_colour, put};
use crate::error::Result;
use convoke_data::Picture;
use convoke_engine::{Axis, NodeId};
use serde::Serialize;

/// A place of a picture to which a filter answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Patch {
    /// Number of the picture.
    pub picture: usize,
    /// Row and column of the place in the filter's map.
    pub place: (usize, usize),
    /// First row and column of the input that the place can see; height, width. Outside is padding.
    pub sees: (isize, isize, usize, usize),
    /// The answer.
    pub value: f32,
}

/// The strongest patches of one filter, the strongest first, one of each picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FilterPatches {
    /// Its layer.
    pub layer: String,
    /// Number of the filter.
    pub filter: usize,
    /// Its patches.
    pub patches: Vec<Patch>,
}

impl Inside {
    /// The strongest `most` patches of every filter of a layer over pictures' inputs.
    ///
    /// # Errors
    /// When memory is short.
    pub fn patches(
        &self,
        place: NodeId,
        inputs: &mut dyn Iterator<Item = Vec<f32>>,
        most: usize,
    ) -> Result<Vec<FilterPatches>> {
        let net = self.network();
        let (node, field) = (net.node(place), net.fields()[place.index()]);
        let (w, c) = (node.shape.w, node.shape.c);
        let new = |filter| FilterPatches { layer: node.name.clone(), filter, patches: Vec::new() };
        let mut all: Vec<FilterPatches> = (0..c).map(new).collect();
        let mut s = self.predict(&[place], 1, Weights::Learned)?;
        for (picture, x) in inputs.enumerate() {
            s.input_mut().copy_from_slice(&x);
            s.predict(1)?;
            let map = s.map(place).unwrap_or_default();
            let mut best = vec![(f32::NEG_INFINITY, 0); c];
            for (at, pixel) in map.chunks_exact(c).enumerate() {
                for (best, v) in best.iter_mut().zip(pixel) {
                    if *v > best.0 {
                        *best = (*v, at);
                    }
                }
            }
            for (f, (value, at)) in all.iter_mut().zip(best) {
                let place = (at / w, at % w);
                let start = |a: Axis, i: usize| a.start.saturating_add_unsigned(i * a.stride);
                let sees =
                    (start(field.h, place.0), start(field.w, place.1), field.h.size, field.w.size);
                let before = f.patches.partition_point(|p| p.value >= value);
                if before < most {
                    f.patches.insert(before, Patch { picture, place, sees, value });
                    f.patches.truncate(most);
                }
            }
        }
        Ok(all)
    }
}

/// Rows of patches: the filters with the strongest answers above, at most `most`; `seen` gives a picture by its
/// number as the network saw it.
///
/// # Errors
/// When a patch cannot be resized.
pub fn patch_sheet(
    layer: &str,
    filters: &[FilterPatches],
    most: usize,
    seen: &dyn Fn(usize) -> Result<Picture>,
) -> Result<Picture> {
    let strength = |f: &&FilterPatches| f.patches.first().map_or(f32::MIN, |p| p.value);
    let mut order: Vec<&FilterPatches> = filters.iter().collect();
    order.sort_by(|a, b| strength(b).total_cmp(&strength(a)));
    order.truncate(most);
    order.sort_by_key(|f| f.filter);
    let (side, (letter, line)) = (72, Font::Small.size());
    let columns = order.iter().map(|f| f.patches.len()).max().unwrap_or(0).max(1);
    let halves = if order.len() > 8 { 2 } else { 1 };
    let (cell, left) = (side + 4, 7 * letter);
    let rows = order.len().div_ceil(halves);
    let head = GAP + Font::Bold.size().1 + GAP;
    let block = left + columns * cell + 2 * GAP;
    let title = format!("{layer}: the patches that each filter answers most");
    let width = (GAP + halves * block).max(2 * GAP + 9 * title.chars().count());
    let mut canvas = Canvas::new(width, head + rows * (side + line + 6) + GAP);
    canvas.text(&title, GAP, GAP, Font::Bold, INK);
    for (i, f) in order.iter().enumerate() {
        let (x0, y) = (GAP + i / rows * block, head + i % rows * (side + line + 6));
        canvas.text(&format!("#{}", f.filter), x0, y + side / 2 - 5, Font::Plain, INK);
        for (k, patch) in f.patches.iter().enumerate() {
            let x = x0 + left + k * cell;
            let crop = cut(&in_colour(&seen(patch.picture)?), patch.sees);
            let tile = fit(&crop, side)?;
            canvas.fill(x, y, side, side, LINE);
            canvas.paste(&tile, x + (side - tile.width) / 2, y + (side - tile.height) / 2);
            canvas.text(&short(patch.value), x, y + side + 2, Font::Small, SOFT);
        }
    }
    Ok(canvas.0)
}

/// The part of a picture that a place sees, not more than the picture's own size around it: what lies outside
/// is grey.
fn cut(p: &Picture, (top, left, h, w): (isize, isize, usize, usize)) -> Picture {
    let part = |start: isize, len: usize, whole: usize| {
        // A field larger than the picture shows the picture.
        if len >= whole { (0, whole) } else { (start, len) }
    };
    let ((top, h), (left, w)) = (part(top, h, p.height), part(left, w, p.width));
    let mut out = Picture::filled(w.max(1), h.max(1), [128, 128, 128]);
    for y in 0..h {
        for x in 0..w {
            let (py, px) = (top + y as isize, left + x as isize);
            if (0..p.height as isize).contains(&py) && (0..p.width as isize).contains(&px) {
                let v = p.pixel(px as usize, py as usize);
                put(&mut out, x as isize, y as isize, [v[0], v[1], v[2]]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_at_the_border_is_grey_outside() {
        let p = Picture::filled(6, 6, [9, 9, 9]);
        let c = cut(&p, (-2, 4, 4, 4));
        assert_eq!((c.width, c.height), (4, 4));
        assert_eq!((c.pixel(0, 0)[0], c.pixel(0, 2)[0], c.pixel(2, 2)[0]), (128, 9, 128));
        assert_eq!(cut(&p, (-20, -20, 50, 50)), p);
    }
}
