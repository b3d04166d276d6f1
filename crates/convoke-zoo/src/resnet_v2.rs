//! Residual networks with pre-activation (He et al. 2016, Identity Mappings): norm and ReLU stand before
//! each convolution, and nothing stands between the sums. Layers are named as in timm's `resnetv2_50`.
//!
//! | stem | 7×7, 64, stride 2; max pool 3×3, stride 2 |
//! |---|---|
//! | stages 0–3 | 3, 4, 6, 3 bottlenecks of 64, 128, 256, 512 (101: 3, 4, 23, 3; 152: 3, 8, 36, 3) |
//! | head | norm, ReLU, mean pool, dense |

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper =
    Paper { year: 2016, title: "He et al., Identity Mappings in Deep Residual Networks" };

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network("resnetv2-50", "residual network with pre-activation, 50 layers", |n, i, c| {
        build(n, i, c, [3, 4, 6, 3])
    }),
    PAPER.network("resnetv2-101", "the same, 101 layers", |n, i, c| build(n, i, c, [3, 4, 23, 3])),
    PAPER.network("resnetv2-152", "the same, 152 layers", |n, i, c| build(n, i, c, [3, 8, 36, 3])),
];

fn build(name: &str, input: Shape, classes: usize, depths: [usize; 4]) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "stem.conv", Conv::new(64, 7).stride(2).pad(3));
    b.layer(MaxPool::new(3).stride(2).padding(Padding::symmetric(1)));
    for (stage, depth) in depths.into_iter().enumerate() {
        for i in 0..depth {
            b.scope(&format!("stages.{stage}.blocks.{i}"));
            block(&mut b, 64 << stage, if stage > 0 && i == 0 { 2 } else { 1 }, i == 0);
        }
    }
    b.scope("");
    norm_relu(&mut b, "norm");
    b.global_mean_pool();
    let from = b.here();
    b.named("head.fc", Dense::new(classes), &[from]).build()
}

/// 1×1, 3×3 with the stride, 1×1 to four times the width; the first of a stage projects its activated
/// input for the shortcut.
fn block(b: &mut Builder, width: usize, stride: usize, project: bool) {
    let input = b.here();
    norm_relu(b, "norm1");
    let active = b.here();
    let mut short = input;
    if project {
        conv(b, "downsample.conv", Conv::new(4 * width, 1).stride(stride).pad(0));
        short = b.here();
        b.at(active);
    }
    conv(b, "conv1", Conv::new(width, 1));
    norm_relu(b, "norm2");
    conv(b, "conv2", Conv::new(width, 3).stride(stride).pad(1));
    norm_relu(b, "norm3");
    conv(b, "conv3", Conv::new(4 * width, 1));
    let end = b.here();
    b.named("add", Add {}, &[end, short]);
}

fn conv(b: &mut Builder, name: &str, conv: Conv) {
    let from = b.here();
    b.named(name, conv.no_bias().init(WeightInit::HeFanOut), &[from]);
}

fn norm_relu(b: &mut Builder, name: &str) {
    let from = b.here();
    b.named(name, BatchNorm::default(), &[from]);
    let from = b.here();
    b.named(&format!("{name}.relu"), Relu::default(), &[from]);
}
