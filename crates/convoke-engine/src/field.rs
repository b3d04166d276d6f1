//! Receptive fields: what of the input a place of the network can see.
//!
//! Along a path, `size += (span − 1) · stride`, `stride *= window stride`,
//! `start −= padding · stride` (Araujo et al., Computing Receptive Fields of Convolutional Neural
//! Networks, 2019); where paths join, the union counts.

use crate::layers::{Layer, Reach};
use crate::network::Network;
use serde::Serialize;

/// What one output pixel sees, along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Axis {
    /// Input pixels seen, padding included.
    pub size: usize,
    /// Input pixels between the fields of two neighbouring outputs.
    pub stride: usize,
    /// First input pixel that output 0 sees; negative in the padding.
    pub start: isize,
}

/// What one output pixel sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Along the rows.
    pub h: Axis,
    /// Along the columns.
    pub w: Axis,
}

impl Network {
    /// The receptive field of every place, in running order. A layer that sees the whole map (dense,
    /// global pooling) is given the fields of all its pixels together.
    pub fn fields(&self) -> Vec<Field> {
        let point = Axis { size: 1, stride: 1, start: 0 };
        let mut fields = vec![Field { h: point, w: point }];
        for node in &self.nodes()[1..] {
            let inputs = node.inputs.iter().map(|i| (fields[i.0], self.node(*i).shape));
            let reach = node.layer.as_ref().map_or(Reach::Point, |l| l.rule().reach());
            let flatten = matches!(node.layer, Some(Layer::Flatten(_)));
            let field = inputs
                .map(|(f, shape)| match reach {
                    Reach::Window(window) => {
                        let (span, placed) = (window.span(), window.place(&node.name, shape).ok());
                        let (top, left) = placed.map_or((0, 0), |p| (p.top, p.left));
                        Field {
                            h: slide(f.h, span.h, window.stride.h, top),
                            w: slide(f.w, span.w, window.stride.w, left),
                        }
                    }
                    Reach::Whole => {
                        Field { h: slide(f.h, shape.h, 1, 0), w: slide(f.w, shape.w, 1, 0) }
                    }
                    Reach::Point if flatten => {
                        Field { h: slide(f.h, shape.h, 1, 0), w: slide(f.w, shape.w, 1, 0) }
                    }
                    Reach::Point => f,
                })
                .reduce(|a, b| Field { h: union(a.h, b.h), w: union(a.w, b.w) });
            fields.push(field.unwrap_or(Field { h: point, w: point }));
        }
        fields
    }
}

fn slide(a: Axis, span: usize, stride: usize, pad: usize) -> Axis {
    Axis {
        size: a.size + (span - 1) * a.stride,
        stride: a.stride * stride,
        start: a.start - (pad * a.stride) as isize,
    }
}

fn union(a: Axis, b: Axis) -> Axis {
    let start = a.start.min(b.start);
    let end = (a.start + a.size as isize).max(b.start + b.size as isize);
    Axis { size: (end - start) as usize, stride: a.stride.max(b.stride), start }
}

#[cfg(test)]
mod tests {
    use crate::layers::{Conv, MaxPool};
    use crate::{Builder, Shape};

    #[test]
    fn two_windows_of_three_see_five() {
        let mut b = Builder::new("n", Shape::new(16, 16, 1));
        b.conv(Conv::new(1, 3)).conv(Conv::new(1, 3).valid()).layer(MaxPool::new(2));
        let f = b.build().unwrap().fields();
        assert_eq!((f[2].h.size, f[2].h.stride, f[2].h.start), (5, 1, -1));
        assert_eq!((f[3].w.size, f[3].w.stride), (6, 2));
    }

    #[test]
    fn a_join_sees_the_union_of_its_branches() {
        let mut b = Builder::new("n", Shape::new(16, 16, 1));
        let x = b.here();
        let wide = b.conv(Conv::new(1, 7)).here();
        let narrow = b.at(x).conv(Conv::new(1, 3)).here();
        b.add(&[wide, narrow]);
        assert_eq!(b.build().unwrap().fields()[3].h.size, 7);
    }
}
