//! The box of numbers that one sample occupies at one place in the network.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Height × width × channels of one sample (a signal has `h == 1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "[usize; 3]", into = "[usize; 3]")]
pub struct Shape {
    /// Rows.
    pub h: usize,
    /// Columns (the length of a signal).
    pub w: usize,
    /// Channels (the depth: number of feature maps).
    pub c: usize,
}

impl Shape {
    /// A box of `h` × `w` × `c`.
    pub const fn new(h: usize, w: usize, c: usize) -> Self {
        Self { h, w, c }
    }

    /// A plain vector of `c` numbers, `1x1xc`.
    pub const fn vector(c: usize) -> Self {
        Self::new(1, 1, c)
    }

    /// How many numbers the box holds.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Number of pixels, `h * w`.
    pub const fn pixels(&self) -> usize {
        self.h * self.w
    }
}

impl From<[usize; 3]> for Shape {
    fn from([h, w, c]: [usize; 3]) -> Self {
        Self { h, w, c }
    }
}

impl From<Shape> for [usize; 3] {
    fn from(s: Shape) -> Self {
        [s.h, s.w, s.c]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.h, self.w, self.c)
    }
}
