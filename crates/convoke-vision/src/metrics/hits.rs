//! Hits among the first candidates of a picture: what counts when there is one thing to find.

use crate::bounds::Bounds;
use serde::Serialize;

/// Least intersection over union of a hit.
const OVERLAP: f64 = 0.3;
/// A hit's centre may lie in the true box made larger by this.
const LARGER: f64 = 1.5;

/// Whether a candidate points at a thing: its centre lies in the true box enlarged by half, or the two
/// overlap (intersection over union) by 0.3.
pub fn is_hit(found: &Bounds, truth: &Bounds) -> bool {
    let larger = Bounds::around(truth.centre(), truth.width * LARGER, truth.height * LARGER);
    larger.contains(found.centre()) || truth.iou(found) >= OVERLAP
}

/// The rank, from 0, of the first candidate that points at any of the things.
pub fn first_hit<'a>(
    candidates: impl IntoIterator<Item = &'a Bounds>,
    truths: &[Bounds],
) -> Option<usize> {
    candidates.into_iter().position(|c| truths.iter().any(|t| is_hit(c, t)))
}

/// Hits over pictures that hold something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Hits {
    /// Pictures.
    pub pictures: usize,
    /// Those whose first candidate is right.
    pub at_1: usize,
    /// Those where one of the first five is.
    pub at_5: usize,
    /// Those where one of the first ten is.
    pub at_10: usize,
}

impl Hits {
    /// Counts one picture in, by the rank of its first right candidate.
    pub fn count(&mut self, rank: Option<usize>) {
        let within = |k: usize| usize::from(rank.is_some_and(|r| r < k));
        self.pictures += 1;
        self.at_1 += within(1);
        self.at_5 += within(5);
        self.at_10 += within(10);
    }

    /// Share of pictures hit by the first `k` of 1, 5, 10 candidates.
    pub fn share(&self, k: usize) -> f64 {
        let hits = if k < 5 {
            self.at_1
        } else if k < 10 {
            self.at_5
        } else {
            self.at_10
        };
        hits as f64 / self.pictures.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_points_into_the_enlarged_box_or_overlaps_it() {
        let truth = Bounds { left: 10.0, top: 10.0, width: 20.0, height: 20.0 };
        let tiny = |x: f64, y: f64| Bounds::around((x, y), 1.0, 1.0);
        assert!(is_hit(&tiny(20.0, 20.0), &truth) && is_hit(&tiny(5.5, 34.5), &truth));
        assert!(!is_hit(&tiny(4.5, 20.0), &truth));
        let wide = Bounds { left: 10.0, top: 10.0, width: 60.0, height: 20.0 };
        assert!(is_hit(&wide, &truth));
        let ranks = [tiny(0.0, 0.0), tiny(20.0, 20.0)];
        let rank = first_hit(&ranks, &[truth]);
        assert_eq!(rank, Some(1));
        let mut hits = Hits::default();
        hits.count(rank);
        hits.count(None);
        assert_eq!((hits.share(1), hits.share(5), hits.share(10)), (0.0, 0.5, 0.5));
    }
}
