//! Residual networks for ImageNet (He et al. 2016, table 1), version 1.5: the 3×3 convolution of a
//! bottleneck takes the stride, as in torchvision. Layers are named as there.
//!
//! | | resnet18 | resnet34 | resnet50 | resnet101 | resnet152 |
//! |---|---|---|---|---|---|
//! | conv1 | 7×7, 64, stride 2; max pool 3×3, stride 2 | | | | |
//! | layer1–4 | 2, 2, 2, 2 basic | 3, 4, 6, 3 basic | 3, 4, 6, 3 bottleneck | 3, 4, 23, 3 | 3, 8, 36, 3 |
//! | head | mean pool, dense | | | | |
//!
//! The paper's own form (`resnet50-v1` and so on) has the stride in the first 1×1. ResNeXt (Xie et al. 2017, table 1)
//! has 32 groups of 4 channels in the 3×3.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, NodeId, Padding, Result, Shape};

const PAPER: Paper =
    Paper { year: 2015, title: "He et al., Deep Residual Learning for Image Recognition" };
const NEXT: Paper = Paper {
    year: 2017,
    title: "Xie et al., Aggregated Residual Transformations for Deep Neural Networks",
};
const D50: [usize; 4] = [3, 4, 6, 3];
const D101: [usize; 4] = [3, 4, 23, 3];
const D152: [usize; 4] = [3, 8, 36, 3];

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network("resnet18", "residual network of basic blocks, 18 layers", |n, i, c| {
        build(n, i, c, [2, 2, 2, 2], basic, 1)
    }),
    PAPER.network("resnet34", "residual network of basic blocks, 34 layers", |n, i, c| {
        build(n, i, c, D50, basic, 1)
    }),
    PAPER.network(
        "resnet50",
        "residual network of bottlenecks, 50 layers (v1.5: the 3x3 strides)",
        |n, i, c| build(n, i, c, D50, bottleneck, 4),
    ),
    PAPER.network("resnet101", "the same, 101 layers", |n, i, c| {
        build(n, i, c, D101, bottleneck, 4)
    }),
    PAPER.network("resnet152", "the same, 152 layers", |n, i, c| {
        build(n, i, c, D152, bottleneck, 4)
    }),
    PAPER.network(
        "resnet50-v1",
        "bottlenecks as the paper has them: the first 1x1 strides; 50 layers",
        |n, i, c| build(n, i, c, D50, bottleneck_v1, 4),
    ),
    PAPER.network("resnet101-v1", "the same, 101 layers", |n, i, c| {
        build(n, i, c, D101, bottleneck_v1, 4)
    }),
    PAPER
        .network("resnet152-v1", "the winner of ImageNet 2015 as it was, 152 layers", |n, i, c| {
            build(n, i, c, D152, bottleneck_v1, 4)
        })
        .challenge(3.57),
    NEXT.network(
        "resnext50-32x4d",
        "residual network of bottlenecks in 32 groups of 4",
        |n, i, c| build(n, i, c, D50, grouped, 4),
    ),
];

/// Emits the convolutions of a block and returns their end: `(builder, width, stride)`.
type Block = fn(&mut Builder, usize, usize);

fn build(
    name: &str,
    input: Shape,
    classes: usize,
    depths: [usize; 4],
    block: Block,
    expansion: usize,
) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "1", 64, 7, 2);
    b.relu().layer(MaxPool::new(3).stride(2).padding(Padding::symmetric(1)));
    let mut channels = 64;
    for (stage, depth) in depths.into_iter().enumerate() {
        let width = 64 << stage;
        for i in 0..depth {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            b.scope(&format!("layer{}.{i}", stage + 1));
            let from = b.here();
            block(&mut b, width, stride);
            let end = b.here();
            let short = shortcut(&mut b, from, channels, width * expansion, stride);
            b.named("add", Add {}, &[end, short]);
            let sum = b.here();
            b.named("relu", Relu::default(), &[sum]);
            channels = width * expansion;
        }
    }
    b.scope("").global_mean_pool();
    let from = b.here();
    b.named("fc", Dense::new(classes), &[from]).build()
}

/// Convolution `conv<n>` and norm `bn<n>`.
fn conv(b: &mut Builder, n: &str, filters: usize, window: usize, stride: usize) {
    let conv = Conv::new(filters, window).stride(stride).pad(window / 2).no_bias();
    let from = b.here();
    b.named(&format!("conv{n}"), conv.init(WeightInit::HeFanOut), &[from]);
    let from = b.here();
    b.named(&format!("bn{n}"), BatchNorm::default(), &[from]);
}

fn relu(b: &mut Builder, n: &str) {
    let from = b.here();
    b.named(&format!("relu{n}"), Relu::default(), &[from]);
}

/// 3×3, 3×3.
fn basic(b: &mut Builder, width: usize, stride: usize) {
    conv(b, "1", width, 3, stride);
    relu(b, "1");
    conv(b, "2", width, 3, 1);
}

/// 1×1, 3×3, 1×1 to four times the width.
fn bottleneck(b: &mut Builder, width: usize, stride: usize) {
    conv(b, "1", width, 1, 1);
    relu(b, "1");
    conv(b, "2", width, 3, stride);
    relu(b, "2");
    conv(b, "3", 4 * width, 1, 1);
}

/// 1×1 with the stride, 3×3, 1×1 to four times the width.
fn bottleneck_v1(b: &mut Builder, width: usize, stride: usize) {
    conv(b, "1", width, 1, stride);
    relu(b, "1");
    conv(b, "2", width, 3, 1);
    relu(b, "2");
    conv(b, "3", 4 * width, 1, 1);
}

/// 1×1 to twice the width, 3×3 in 32 groups, 1×1 to four times the width.
fn grouped(b: &mut Builder, width: usize, stride: usize) {
    conv(b, "1", 2 * width, 1, 1);
    relu(b, "1");
    let from = b.here();
    let groups = Conv::new(2 * width, 3).stride(stride).pad(1).groups(32).no_bias();
    b.named("conv2", groups.init(WeightInit::HeFanOut), &[from]);
    let from = b.here();
    b.named("bn2", BatchNorm::default(), &[from]);
    relu(b, "2");
    conv(b, "3", 4 * width, 1, 1);
}

/// The block's input, through a 1×1 convolution where size or depth change (option B).
fn shortcut(b: &mut Builder, from: NodeId, c: usize, filters: usize, stride: usize) -> NodeId {
    if stride == 1 && c == filters {
        return from;
    }
    let conv = Conv::new(filters, 1).stride(stride).pad(0).no_bias().init(WeightInit::HeFanOut);
    b.named("downsample.0", conv, &[from]);
    let end = b.here();
    b.named("downsample.1", BatchNorm::default(), &[end]).here()
}
