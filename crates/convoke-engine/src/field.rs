//! Receptive fields: what of the input a place of the network can see.
//!
//! Along a path, `size += (span − 1) · stride`, `stride *= window stride`,
//! `start −= padding · stride` (Araujo et al., Computing Receptive Fields of Convolutional Neural
//! Networks, 2019); where paths join, the union counts.

use crate::layers::{Layer, Reach};
use crate::network::Network;
use convoke_kernels::adaptive_pool::window;
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
            // A second input of a repeated map only gives the size.
            let read = match node.layer {
                Some(Layer::Upsample(_)) => &node.inputs[..1],
                _ => &node.inputs[..],
            };
            let inputs = read.iter().map(|i| (fields[i.0], self.node(*i).shape));
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
                    Reach::Parts(size) => Field {
                        h: slide(f.h, widest(shape.h, size.h), (shape.h / size.h).max(1), 0),
                        w: slide(f.w, widest(shape.w, size.w), (shape.w / size.w).max(1), 0),
                    },
                    Reach::Whole => {
                        Field { h: slide(f.h, shape.h, 1, 0), w: slide(f.w, shape.w, 1, 0) }
                    }
                    Reach::Repeated(factor) => {
                        Field { h: repeat(f.h, factor.h), w: repeat(f.w, factor.w) }
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

/// The widest window of a pooling from `size` to `outputs`.
fn widest(size: usize, outputs: usize) -> usize {
    // Windows repeat after `outputs` steps at most; a hostile file may ask for many.
    (0..outputs.min(1 << 16)).map(|i| window(i, size, outputs).len()).max().unwrap_or(1)
}

/// Saturating: strides multiply along a hostile file's chain of layers.
fn slide(a: Axis, span: usize, stride: usize, pad: usize) -> Axis {
    let before = isize::try_from(pad.saturating_mul(a.stride)).unwrap_or(isize::MAX);
    Axis {
        size: a.size.saturating_add((span - 1).saturating_mul(a.stride)),
        stride: a.stride.saturating_mul(stride),
        start: a.start.saturating_sub(before),
    }
}

/// Pixels repeated: places come closer by the factor, and a place may be any of the repeats.
fn repeat(a: Axis, factor: usize) -> Axis {
    let stride = (a.stride / factor.max(1)).max(1);
    let more = stride.saturating_mul(factor.saturating_sub(1));
    Axis {
        size: a.size.saturating_add(more),
        stride,
        start: a.start.saturating_sub(isize::try_from(more).unwrap_or(isize::MAX)),
    }
}

fn union(a: Axis, b: Axis) -> Axis {
    let end = |x: Axis| x.start.saturating_add_unsigned(x.size);
    let start = a.start.min(b.start);
    let size = end(a).max(end(b)).abs_diff(start);
    Axis { size, stride: a.stride.max(b.stride), start }
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

    /// A chain of `(window, stride)`.
    fn size_of(windows: &[(usize, usize)]) -> usize {
        let mut b = Builder::new("n", Shape::new(224, 224, 1));
        for &(window, stride) in windows {
            b.conv(Conv::new(1, window).stride(stride));
        }
        b.build().unwrap().fields().last().unwrap().w.size
    }

    #[test]
    fn known_networks_see_what_is_published() {
        // VGG-16's last pooling, Araujo et al. 2019: 212.
        let stage = |n: usize| [vec![(3, 1); n], vec![(2, 2)]].concat();
        assert_eq!(size_of(&[2, 2, 3, 3, 3].map(stage).concat()), 212);
        // ResNet-50: 483 with the stride in the 1x1 of a stage's first bottleneck, as in the paper;
        // 427 with it in the 3x3 (v1.5). The 1x1 without stride changes nothing.
        let stage = |blocks: usize, first: [(usize, usize); 2]| {
            [first.to_vec(), vec![(3, 1); blocks - 1]].concat()
        };
        let net = |first| {
            let later = [4, 6, 3].map(|n| stage(n, first)).concat();
            size_of(&[vec![(7, 2), (3, 2)], stage(3, [(1, 1), (3, 1)]), later].concat())
        };
        assert_eq!(net([(1, 2), (3, 1)]), 483);
        assert_eq!(net([(1, 1), (3, 2)]), 427);
    }

    #[test]
    fn what_sees_the_whole_map_sees_all_its_fields() {
        // LeNet-5 by hand: 5, 6, 14, 16; then a 5x5 map of stride 4: 16 + 4 * 4.
        let mut b = Builder::new("n", Shape::new(28, 28, 1));
        b.conv(Conv::new(6, 5)).layer(MaxPool::new(2));
        b.conv(Conv::new(16, 5).valid()).layer(MaxPool::new(2)).flatten().dense(120).dense(84);
        let f = b.build().unwrap().fields();
        assert_eq!(f.iter().map(|f| f.h.size).collect::<Vec<_>>(), [1, 5, 6, 14, 16, 32, 32, 32]);
        assert_eq!(f[7].h.start, -2);
    }

    #[test]
    fn axes_and_dilation_count_apart() {
        let mut b = Builder::new("n", Shape::new(1, 64, 2));
        b.conv(Conv::signal(2, 3).dilation(4)).conv(Conv::signal(2, 5).stride([1, 2]));
        let f = b.build().unwrap().fields();
        assert_eq!((f[2].h.size, f[2].w.size, f[2].w.stride), (1, 13, 2));
    }

    #[test]
    fn a_chain_of_huge_strides_saturates() {
        let mut b = Builder::new("n", Shape::new(8, 8, 1));
        for _ in 0..40 {
            b.conv(Conv::new(1, 3).stride(64));
        }
        let x = b.here();
        b.add(&[x, x]);
        assert_eq!(b.build().unwrap().fields().last().unwrap().h.stride, usize::MAX);
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
