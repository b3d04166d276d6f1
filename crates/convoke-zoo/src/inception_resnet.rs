//! Inception-ResNet-v2 (Szegedy et al. 2017, figures 15 to 18): Inception modules whose result is scaled down and added
//! to their input. Layers are named as in timm.
//!
//! | stem | 3×3 /2, 3×3, 3×3, pool /2, 1×1, 3×3, pool /2 |
//! |---|---|
//! | 35×35 | mixed_5b, 10 blocks |
//! | 17×17 | mixed_6a, 20 blocks |
//! | 8×8 | mixed_7a, 10 blocks, the last without ReLU |
//! | head | 1×1 to 1536, mean pool, dense |

use crate::entry::{Entry, Paper};
use crate::inception::conv;
use convoke_engine::layers::{
    Add, Concat, Conv, Dense, Dropout, MaxPool, MeanPool, Relu, Rescale, WeightInit,
};
use convoke_engine::{Builder, Network, NodeId, Padding, Result, Shape};

const PAPER: Paper = Paper {
    year: 2016,
    title: "Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
};

pub(crate) const ENTRIES: &[Entry] =
    &[PAPER.network("inception-resnet-v2", "Inception modules as residual blocks", build).side(299)];

/// Convolutions of a branch in a row: `(filters, window)`, padded to keep the size.
type Row = &'static [(usize, [usize; 2])];

const BLOCK_35: [Row; 3] = [
    &[(32, [1, 1])],
    &[(32, [1, 1]), (32, [3, 3])],
    &[(32, [1, 1]), (48, [3, 3]), (64, [3, 3])],
];
const BLOCK_17: [Row; 2] = [&[(192, [1, 1])], &[(128, [1, 1]), (160, [1, 7]), (192, [7, 1])]];
const BLOCK_8: [Row; 2] = [&[(192, [1, 1])], &[(192, [1, 1]), (224, [1, 3]), (256, [3, 1])]];
/// The last convolution of each row has stride 2.
const TO_17: [Row; 2] = [&[(384, [3, 3])], &[(256, [1, 1]), (256, [3, 3]), (384, [3, 3])]];
const TO_8: [Row; 3] = [
    &[(256, [1, 1]), (384, [3, 3])],
    &[(256, [1, 1]), (288, [3, 3])],
    &[(256, [1, 1]), (288, [3, 3]), (320, [3, 3])],
];

fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "conv2d_1a", Conv::new(32, 3).stride(2).valid());
    conv(&mut b, "conv2d_2a", Conv::new(32, 3).valid());
    conv(&mut b, "conv2d_2b", Conv::new(64, 3).pad(1));
    b.max_pool(3, 2);
    conv(&mut b, "conv2d_3b", Conv::new(80, 1));
    conv(&mut b, "conv2d_4a", Conv::new(192, 3).valid());
    b.max_pool(3, 2);
    mixed_5b(&mut b);
    for i in 0..10 {
        residual(&mut b, &format!("repeat.{i}"), &BLOCK_35, (320, 0.17), true);
    }
    halve(&mut b, "mixed_6a", &TO_17);
    for i in 0..20 {
        residual(&mut b, &format!("repeat_1.{i}"), &BLOCK_17, (1088, 0.1), true);
    }
    halve(&mut b, "mixed_7a", &TO_8);
    for i in 0..9 {
        residual(&mut b, &format!("repeat_2.{i}"), &BLOCK_8, (2080, 0.2), true);
    }
    // Here timm does not scale.
    residual(&mut b, "block8", &BLOCK_8, (2080, 1.0), false);
    conv(&mut b, "conv2d_7b", Conv::new(1536, 1));
    b.global_mean_pool().layer(Dropout { rate: 0.2 }).then("classif", Dense::new(classes)).build()
}

/// 1×1; 5×5; two 3×3; mean pooling.
fn mixed_5b(b: &mut Builder) {
    b.scope("mixed_5b");
    let from = b.here();
    let rows: [Row; 3] = [
        &[(96, [1, 1])],
        &[(48, [1, 1]), (64, [5, 5])],
        &[(64, [1, 1]), (96, [3, 3]), (96, [3, 3])],
    ];
    let mut ends: Vec<_> = (0..).zip(rows).map(|(i, row)| branch(b, from, i, row, 1)).collect();
    let mean = MeanPool::new(3).stride(1).padding(Padding::symmetric(1));
    b.at(from).then("branch3.0", mean);
    ends.push(conv(b, "branch3.1", Conv::new(64, 1)));
    b.named("cat", Concat {}, &ends).scope("");
}

/// `x + factor · 1×1 of the branches`, and ReLU.
fn residual(b: &mut Builder, name: &str, rows: &[Row], (c, factor): (usize, f32), relu: bool) {
    b.scope(name);
    let from = b.here();
    let ends: Vec<_> = (0..).zip(rows).map(|(i, row)| branch(b, from, i, row, 1)).collect();
    b.named("cat", Concat {}, &ends).then("conv2d", Conv::new(c, 1).init(WeightInit::He));
    if factor != 1.0 {
        b.then("scale", Rescale { factor, offset: 0.0 });
    }
    let end = b.here();
    b.named("add", Add {}, &[end, from]);
    if relu {
        b.then("relu", Relu::default());
    }
    b.scope("");
}

/// Branches that halve the map, and a pooling beside them.
fn halve(b: &mut Builder, name: &str, rows: &[Row]) {
    b.scope(name);
    let from = b.here();
    let mut ends: Vec<_> = (0..).zip(rows).map(|(i, row)| branch(b, from, i, row, 2)).collect();
    ends.push(b.at(from).then("pool", MaxPool::new(3).stride(2)).here());
    b.named("cat", Concat {}, &ends).scope("");
}

/// A row of convolutions, the last with that stride; a single one has no number.
fn branch(b: &mut Builder, from: NodeId, at: usize, row: Row, stride: usize) -> NodeId {
    b.at(from);
    for (i, &(filters, [h, w])) in row.iter().enumerate() {
        let last = i + 1 == row.len();
        let name = match row.len() {
            1 => format!("branch{at}"),
            _ => format!("branch{at}.{i}"),
        };
        let plain = Conv::new(filters, [h, w]);
        conv(b, &name, match last && stride > 1 {
            true => plain.stride(stride).valid(),
            false => plain.pad([h / 2, w / 2]),
        });
    }
    b.here()
}
