//! ShuffleNet v2 (Ma et al. 2018, table 5). Layers are named as in torchvision.
//!
//! | | x0.5 | x1.0 | x1.5 | x2.0 |
//! |---|---|---|---|---|
//! | conv1 | 3×3, 24 /2; max pool 3×3 /2 | | | |
//! | stage2: 4 units | 48 | 116 | 176 | 244 |
//! | stage3: 8 units | 96 | 232 | 352 | 488 |
//! | stage4: 4 units | 192 | 464 | 704 | 976 |
//! | conv5: 1×1 | 1024 | 1024 | 1024 | 2048 |
//!
//! A unit passes half of its channels on as they are, convolves the other half, and shuffles both; the first of a stage
//! convolves all of them twice, with stride 2, and so doubles them.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{
    BatchNorm, ChannelShuffle, Concat, Conv, Dense, MaxPool, Relu, Slice, WeightInit,
};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper = Paper {
    year: 2018,
    title: "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
};

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network("shufflenet-v2-x0-5", "halves of channels that take turns; half as wide", |n, i, c| {
        build(n, i, c, [48, 96, 192, 1024])
    }),
    PAPER.network("shufflenet-v2-x1-0", "halves of channels that take turns", |n, i, c| {
        build(n, i, c, [116, 232, 464, 1024])
    }),
    PAPER.network("shufflenet-v2-x1-5", "the same, wider", |n, i, c| {
        build(n, i, c, [176, 352, 704, 1024])
    }),
    PAPER.network("shufflenet-v2-x2-0", "the same, twice as wide", |n, i, c| {
        build(n, i, c, [244, 488, 976, 2048])
    }),
];

fn build(name: &str, input: Shape, classes: usize, widths: [usize; 4]) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "conv1", 0, Conv::new(24, 3).stride(2).pad(1), true);
    b.then("maxpool", MaxPool::new(3).stride(2).padding(Padding::symmetric(1)));
    let [.., last] = widths;
    for ((stage, units), width) in [(2, 4), (3, 8), (4, 4)].into_iter().zip(widths) {
        for i in 0..units {
            b.scope(&format!("stage{stage}.{i}"));
            unit(&mut b, width / 2, if i == 0 { 2 } else { 1 });
        }
    }
    b.scope("");
    conv(&mut b, "conv5", 0, Conv::new(last, 1), true);
    b.global_mean_pool().then("fc", Dense::new(classes)).build()
}

/// `half` is the width of each branch.
fn unit(b: &mut Builder, half: usize, stride: usize) {
    let from = b.here();
    let depthwise = || Conv::depthwise(3).stride(stride).pad(1);
    let one = if stride == 1 {
        let kept = b.then("keep", Slice { start: 0, channels: half }).here();
        b.at(from).then("split", Slice { start: half, channels: half });
        kept
    } else {
        conv(b, "branch1", 0, depthwise(), false);
        conv(b, "branch1", 2, Conv::new(half, 1), true);
        let end = b.here();
        b.at(from);
        end
    };
    conv(b, "branch2", 0, Conv::new(half, 1), true);
    conv(b, "branch2", 3, depthwise(), false);
    conv(b, "branch2", 5, Conv::new(half, 1), true);
    let two = b.here();
    b.named("cat", Concat {}, &[one, two]).then("shuffle", ChannelShuffle { groups: 2 });
}

/// Convolution `.at`, norm `.at + 1` and, where asked, ReLU `.at + 2`.
fn conv(b: &mut Builder, branch: &str, at: usize, conv: Conv, relu: bool) {
    b.then(&format!("{branch}.{at}"), conv.no_bias().init(WeightInit::HeFanOut));
    b.then(&format!("{branch}.{}", at + 1), BatchNorm::default());
    if relu {
        b.then(&format!("{branch}.{}", at + 2), Relu::default());
    }
}
