//! Boxes around things, their overlap, and the choice among overlapping ones.

use convoke_data::Area;
use serde::{Deserialize, Serialize};

/// A box in pixels of the picture; edges may lie between pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl From<Area> for Bounds {
    fn from(a: Area) -> Self {
        Bounds { left: a.left, top: a.top, width: a.width, height: a.height }
    }
}

impl Bounds {
    /// A box around a centre `(x, y)`.
    pub fn around((x, y): (f64, f64), width: f64, height: f64) -> Self {
        Bounds { left: x - width / 2.0, top: y - height / 2.0, width, height }
    }

    /// Its centre `(x, y)`.
    pub fn centre(&self) -> (f64, f64) {
        (self.left + self.width / 2.0, self.top + self.height / 2.0)
    }

    /// Whether the point is inside.
    pub fn contains(&self, (x, y): (f64, f64)) -> bool {
        (self.left..self.left + self.width).contains(&x)
            && (self.top..self.top + self.height).contains(&y)
    }

    /// Square pixels.
    pub fn area(&self) -> f64 {
        self.width.max(0.0) * self.height.max(0.0)
    }

    /// Intersection over union, from 0 (apart) to 1 (equal).
    pub fn iou(&self, o: &Bounds) -> f64 {
        let w = (self.left + self.width).min(o.left + o.width) - self.left.max(o.left);
        let h = (self.top + self.height).min(o.top + o.height) - self.top.max(o.top);
        let both = w.max(0.0) * h.max(0.0);
        let any = self.area() + o.area() - both;
        if any > 0.0 { both / any } else { 0.0 }
    }
}

/// Non-maximum suppression: of items in order of falling worth, keeps each that overlaps no kept one
/// by more than `most` (intersection over union); at most `top` are kept.
pub fn suppress<T>(items: Vec<T>, bounds: impl Fn(&T) -> Bounds, most: f64, top: usize) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in items {
        if kept.len() >= top {
            break;
        }
        if kept.iter().all(|k| bounds(k).iou(&bounds(&item)) <= most) {
            kept.push(item);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(left: f64, top: f64) -> Bounds {
        Bounds { left, top, width: 10.0, height: 10.0 }
    }

    #[test]
    fn overlap_is_one_for_equal_boxes_a_third_for_half_shifted_ones_and_zero_apart() {
        assert_eq!(at(0.0, 0.0).iou(&at(0.0, 0.0)), 1.0);
        assert!((at(0.0, 0.0).iou(&at(5.0, 0.0)) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(at(0.0, 0.0).iou(&at(10.0, 0.0)), 0.0);
        let empty = Bounds { left: 0.0, top: 0.0, width: 0.0, height: 0.0 };
        assert_eq!(empty.iou(&empty), 0.0);
    }

    #[test]
    fn of_overlapping_boxes_the_first_stays() {
        let boxes = vec![at(0.0, 0.0), at(2.0, 0.0), at(30.0, 0.0), at(31.0, 1.0)];
        let kept = suppress(boxes, |b| *b, 0.3, 10);
        assert_eq!(kept, [at(0.0, 0.0), at(30.0, 0.0)]);
        assert_eq!(suppress(vec![at(0.0, 0.0), at(30.0, 0.0)], |b| *b, 0.3, 1).len(), 1);
    }

    #[test]
    fn a_box_around_a_point_has_it_as_its_centre() {
        let b = Bounds::around((7.0, 9.0), 4.0, 6.0);
        assert_eq!(b.centre(), (7.0, 9.0));
        assert!(b.contains((5.0, 6.0)) && !b.contains((9.0, 9.0)));
    }
}
