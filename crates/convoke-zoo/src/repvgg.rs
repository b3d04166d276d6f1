//! RepVGG (Ding et al. 2021, table 2): a VGG that learns as a residual network. Layers are named as in timm.
//!
//! | | A0 |
//! |---|---|
//! | stem | 48, stride 2 |
//! | stages 0–3, each first block with stride 2 | 2 of 48, 4 of 96, 14 of 192, 1 of 1280 |
//! | head | mean pool, dense |
//!
//! This is the form that learns: a block is the sum of 3×3, 1×1 and, where size and depth stay, of nothing, each with
//! batch norm. For prediction `reparameterise` of `convoke-formats` makes one 3×3 convolution of each.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, Relu, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper =
    Paper { year: 2021, title: "Ding et al., RepVGG: Making VGG-style ConvNets Great Again" };

pub(crate) const ENTRIES: &[Entry] = &[PAPER.network(
    "repvgg-a0",
    "learns with branches, predicts as 3x3 convolutions in a row",
    |n, i, c| build(n, i, c, [(2, 48), (4, 96), (14, 192), (1, 1280)]),
)];

fn build(name: &str, input: Shape, classes: usize, stages: [(usize, usize); 4]) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let mut channels = stages[0].1;
    block(b.scope("stem"), input.c, channels, 2);
    for (stage, (depth, width)) in stages.into_iter().enumerate() {
        for i in 0..depth {
            b.scope(&format!("stages.{stage}.{i}"));
            block(&mut b, channels, width, if i == 0 { 2 } else { 1 });
            channels = width;
        }
    }
    b.scope("").global_mean_pool().then("head.fc", Dense::new(classes)).build()
}

fn block(b: &mut Builder, channels: usize, filters: usize, stride: usize) {
    let from = b.here();
    let mut branch = |name: &str, window: usize| {
        let conv = Conv::new(filters, window).stride(stride).pad(window / 2).no_bias();
        b.at(from).then(&format!("{name}.conv"), conv.init(WeightInit::HeFanOut));
        b.then(&format!("{name}.bn"), BatchNorm::default()).here()
    };
    let mut ends = vec![branch("conv_1x1", 1), branch("conv_kxk", 3)];
    if stride == 1 && channels == filters {
        ends.push(b.at(from).then("identity", BatchNorm::default()).here());
    }
    b.named("add", Add {}, &ends).then("act", Relu::default());
}
