//! How good a detector is: COCO's mean average precision and recall, Pascal VOC's average precision,
//! hits among the first k candidates of a picture, precision against recall.

mod coco;
mod curve;
mod hits;
mod voc;

pub use coco::{CocoClass, CocoReport, coco};
pub use curve::{CurvePoint, PrecisionRecall, draw_curves, precision_recall};
pub use hits::{Hits, first_hit, is_hit};
pub use voc::{VocYear, voc_average_precision};

use crate::bounds::Bounds;
use convoke_data::Annotation;

/// A thing that is in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Position of the picture; pictures count in this order where scores are equal.
    pub picture: usize,
    /// Position of the class.
    pub class: usize,
    /// Where.
    pub bounds: Bounds,
    /// Square pixels by which COCO sorts things into small, medium and large.
    pub area: f64,
    /// A group that is neither asked for nor a false alarm, however often it is found (COCO).
    pub crowd: bool,
    /// Neither asked for nor a false alarm (Pascal VOC).
    pub difficult: bool,
}

impl Truth {
    /// An annotation of that picture.
    pub fn of(picture: usize, a: &Annotation) -> Self {
        let bounds = Bounds::from(a.area);
        Truth {
            picture,
            class: a.class,
            bounds,
            area: a.mask_area.unwrap_or(bounds.width * bounds.height),
            crowd: a.crowd,
            difficult: a.difficult,
        }
    }
}

/// A thing that a detector says is in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Position of the picture.
    pub picture: usize,
    /// Position of the class.
    pub class: usize,
    /// Where.
    pub bounds: Bounds,
    /// How sure; any number that is larger for surer ones.
    pub score: f64,
}

/// Positions by falling score; equal ones stay in their order.
fn by_score(detections: &[Detection], mut which: Vec<usize>) -> Vec<usize> {
    which.sort_by(|&a, &b| detections[b].score.total_cmp(&detections[a].score));
    which
}
