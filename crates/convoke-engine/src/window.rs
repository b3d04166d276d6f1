//! Where a sliding window lands: size, stride, padding, dilation, and the shape rule they give.

use crate::{Error, Result, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A pair for the two axes; written as one number when both are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "OneOrTwo", into = "OneOrTwo")]
pub struct Hw {
    /// Along the rows.
    pub h: usize,
    /// Along the columns.
    pub w: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrTwo {
    One(usize),
    Two([usize; 2]),
}

impl From<OneOrTwo> for Hw {
    fn from(v: OneOrTwo) -> Self {
        match v {
            OneOrTwo::One(n) => n.into(),
            OneOrTwo::Two(p) => p.into(),
        }
    }
}

impl From<Hw> for OneOrTwo {
    fn from(v: Hw) -> Self {
        if v.h == v.w { OneOrTwo::One(v.h) } else { OneOrTwo::Two([v.h, v.w]) }
    }
}

impl From<usize> for Hw {
    fn from(n: usize) -> Self {
        Hw { h: n, w: n }
    }
}

impl From<[usize; 2]> for Hw {
    fn from([h, w]: [usize; 2]) -> Self {
        Hw { h, w }
    }
}

impl fmt::Display for Hw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.h, self.w)
    }
}

/// What stands beyond the border of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "PaddingFile", into = "PaddingFile")]
pub enum Padding {
    /// TensorFlow's rule: output = ceil(input / stride); the odd extra row or column of padding
    /// goes to the bottom and right.
    Same,
    /// No padding: the window stays inside the map.
    Valid,
    /// Zeros below and to the right for a last window that begins on the map but does not end on it:
    /// output = ceil((input − span) / stride) + 1. PyTorch's `ceil_mode` without padding.
    Ceil,
    /// That many rows or columns on each side. PyTorch's `padding=p` is `p` on all four.
    Explicit {
        /// Rows above.
        top: usize,
        /// Rows below.
        bottom: usize,
        /// Columns to the left.
        left: usize,
        /// Columns to the right.
        right: usize,
    },
}

impl Padding {
    /// `h` rows above and below, `w` columns left and right.
    pub fn symmetric(p: impl Into<Hw>) -> Self {
        let p = p.into();
        Padding::Explicit { top: p.h, bottom: p.h, left: p.w, right: p.w }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PaddingFile {
    Word(String),
    All(usize),
    Axes([usize; 2]),
    Sides([usize; 4]),
}

impl TryFrom<PaddingFile> for Padding {
    type Error = String;
    fn try_from(v: PaddingFile) -> Result<Self, String> {
        Ok(match v {
            PaddingFile::Word(w) if w == "same" => Padding::Same,
            PaddingFile::Word(w) if w == "valid" => Padding::Valid,
            PaddingFile::Word(w) if w == "ceil" => Padding::Ceil,
            PaddingFile::Word(w) => {
                return Err(format!(
                    "padding `{w}` is unknown; use \"same\", \"valid\", \"ceil\", a number, [rows, columns] or [top, bottom, left, right]"
                ));
            }
            PaddingFile::All(p) => Padding::symmetric(p),
            PaddingFile::Axes(p) => Padding::symmetric(p),
            PaddingFile::Sides([top, bottom, left, right]) => {
                Padding::Explicit { top, bottom, left, right }
            }
        })
    }
}

impl From<Padding> for PaddingFile {
    fn from(p: Padding) -> Self {
        match p {
            Padding::Same => PaddingFile::Word("same".into()),
            Padding::Valid => PaddingFile::Word("valid".into()),
            Padding::Ceil => PaddingFile::Word("ceil".into()),
            Padding::Explicit { top, bottom, left, right }
                if top == bottom && left == right && top == left =>
            {
                PaddingFile::All(top)
            }
            Padding::Explicit { top, bottom, left, right } => {
                PaddingFile::Sides([top, bottom, left, right])
            }
        }
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Padding::Same => write!(f, "same"),
            Padding::Valid => write!(f, "valid"),
            Padding::Ceil => write!(f, "ceil"),
            Padding::Explicit { top, bottom, left, right } => {
                write!(f, "[{top}, {bottom}, {left}, {right}]")
            }
        }
    }
}

/// A sliding window: what convolution and pooling share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Window size.
    pub size: Hw,
    /// Step between two outputs.
    pub stride: Hw,
    /// What stands beyond the border.
    pub padding: Padding,
    /// Step between two taps of the window (1 = dense).
    pub dilation: Hw,
}

/// A window placed on a map: the output size and the padding in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Placed {
    /// Output rows.
    pub out_h: usize,
    /// Output columns.
    pub out_w: usize,
    /// Padding rows above.
    pub top: usize,
    /// Padding rows below.
    pub bottom: usize,
    /// Padding columns to the left.
    pub left: usize,
    /// Padding columns to the right.
    pub right: usize,
}

/// Sizes beyond this are refused, so that no product of sizes can overflow.
const LIMIT: usize = 1 << 20;

impl Window {
    /// Rows and columns that the dilated window spans.
    pub fn span(&self) -> Hw {
        Hw {
            h: (self.size.h - 1) * self.dilation.h + 1,
            w: (self.size.w - 1) * self.dilation.w + 1,
        }
    }

    /// The shape rule. Explicit and valid: `out = floor((in + pads − span) / stride) + 1`
    /// (PyTorch `Conv2d`); same: `out = ceil(in / stride)` (TensorFlow `SAME`).
    ///
    /// # Errors
    /// When a size, stride or dilation is zero, or the window does not fit the padded map.
    pub fn place(&self, layer: &str, input: Shape) -> Result<Placed> {
        for (what, v) in
            [("window", self.size), ("stride", self.stride), ("dilation", self.dilation)]
        {
            if v.h == 0 || v.w == 0 || v.h > LIMIT || v.w > LIMIT {
                return Err(Error::layer(layer, format!("{what} {v} must be from 1 to {LIMIT}")));
            }
        }
        let span = self.span();
        let (top, bottom, left, right) = match self.padding {
            Padding::Valid => (0, 0, 0, 0),
            Padding::Explicit { top, bottom, left, right } => (top, bottom, left, right),
            Padding::Ceil => {
                let rest = |n: usize, span: usize, stride: usize| match n.checked_sub(span) {
                    // A window that would begin beyond the map sees nothing.
                    Some(n) if n % stride > 0 && (n / stride + 1) * stride < n + span => {
                        stride - n % stride
                    }
                    _ => 0,
                };
                let (below, beside) =
                    (rest(input.h, span.h, self.stride.h), rest(input.w, span.w, self.stride.w));
                (0, below, 0, beside)
            }
            Padding::Same => {
                let (t, b) = same_pads(input.h, span.h, self.stride.h);
                let (l, r) = same_pads(input.w, span.w, self.stride.w);
                (t, b, l, r)
            }
        };
        if top.max(bottom).max(left).max(right) > LIMIT {
            return Err(Error::layer(layer, format!("padding must be at most {LIMIT}")));
        }
        if input.h + top + bottom < span.h || input.w + left + right < span.w {
            return Err(Error::layer(
                layer,
                format!(
                    "window {} does not fit the {}x{} map with padding {}; use padding same or a smaller window",
                    span, input.h, input.w, self.padding
                ),
            ));
        }
        Ok(Placed {
            out_h: (input.h + top + bottom - span.h) / self.stride.h + 1,
            out_w: (input.w + left + right - span.w) / self.stride.w + 1,
            top,
            bottom,
            left,
            right,
        })
    }
}

/// TensorFlow's `SAME`: total padding `max((ceil(n/s) − 1)·s + span − n, 0)`, the odd one last.
fn same_pads(n: usize, span: usize, stride: usize) -> (usize, usize) {
    let out = n.div_ceil(stride);
    let total = ((out.max(1) - 1) * stride + span).saturating_sub(n);
    (total / 2, total - total / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(size: usize, stride: usize, padding: Padding) -> Window {
        Window { size: size.into(), stride: stride.into(), padding, dilation: 1.into() }
    }

    #[test]
    fn same_puts_the_odd_zero_at_the_bottom_and_right() {
        let p = window(3, 2, Padding::Same).place("c", Shape::new(224, 7, 3)).unwrap();
        assert_eq!((p.out_h, p.top, p.bottom), (112, 0, 1));
        assert_eq!((p.out_w, p.left, p.right), (4, 1, 1));
    }

    #[test]
    fn ceil_keeps_the_last_window() {
        let out = |n| window(3, 2, Padding::Ceil).place("c", Shape::new(n, n, 1)).map(|p| p.out_h);
        assert_eq!([out(109), out(54), out(27), out(3)].map(Result::unwrap), [54, 27, 13, 1]);
        // The next window would begin at 3, beyond the map.
        let p = window(1, 3, Padding::Ceil).place("c", Shape::new(3, 4, 1)).unwrap();
        assert_eq!((p.out_h, p.out_w), (1, 2));
        assert!(out(2).is_err());
    }

    #[test]
    fn explicit_follows_pytorch() {
        let p = window(7, 2, Padding::symmetric(3)).place("c", Shape::new(224, 224, 3)).unwrap();
        assert_eq!((p.out_h, p.out_w), (112, 112));
    }

    #[test]
    fn a_window_that_does_not_fit_names_the_layer_and_both_sizes() {
        let e = window(5, 1, Padding::Valid).place("conv3", Shape::new(4, 4, 8)).unwrap_err();
        assert_eq!(
            e.to_string(),
            "conv3: window 5x5 does not fit the 4x4 map with padding valid; use padding same or a smaller window"
        );
    }

    #[test]
    fn same_with_a_stride_larger_than_the_window_pads_nothing() {
        let p = window(1, 2, Padding::Same).place("c", Shape::new(5, 4, 8)).unwrap();
        assert_eq!((p.out_h, p.out_w, p.bottom, p.right), (3, 2, 0, 0));
    }
}
