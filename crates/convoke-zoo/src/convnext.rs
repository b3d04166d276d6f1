//! ConvNeXt (Liu et al. 2022, table 9): a residual network with the habits of vision transformers. Layers are named as
//! in torchvision.
//!
//! | | tiny | small |
//! |---|---|---|
//! | stem | 4×4, 96 /4, layer norm | the same |
//! | stages | 3, 3, 9, 3 blocks of 96, 192, 384, 768 | 3, 3, 27, 3 |
//! | between | layer norm, 2×2 /2 | the same |
//! | head | mean pool, layer norm, dense | the same |
//!
//! A block: depthwise 7×7, layer norm, 1×1 to four times the channels, GELU, 1×1 back, a scale per channel; its input is
//! added.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{
    Add, Conv, Dense, Gelu, GlobalMeanPool, LayerNorm, Scale, StochasticDepth, WeightInit,
};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper = Paper { year: 2022, title: "Liu et al., A ConvNet for the 2020s" };

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network("convnext-tiny", "a ResNet with the habits of transformers", |n, i, c| {
        build(n, i, c, [3, 3, 9, 3], 0.1)
    }),
    PAPER.network("convnext-small", "the same, deeper", |n, i, c| {
        build(n, i, c, [3, 3, 27, 3], 0.4)
    }),
];

const WIDTHS: [usize; 4] = [96, 192, 384, 768];
/// First value of the scales at the end of blocks.
const SCALE: f32 = 1e-6;
const NORM: LayerNorm = LayerNorm { epsilon: 1e-6 };

/// `drop` is how often the last block is left out in training; the first never is.
fn build(name: &str, input: Shape, classes: usize, depths: [usize; 4], drop: f32) -> Result<Network> {
    let mut b = Builder::new(name, input);
    b.then("features.0.0", conv(WIDTHS[0], 4).stride(4).valid()).then("features.0.1", NORM);
    let (blocks, mut at) = (depths.iter().sum::<usize>(), 0);
    for (stage, (depth, width)) in depths.into_iter().zip(WIDTHS).enumerate() {
        if stage > 0 {
            let between = format!("features.{}", 2 * stage);
            b.then(&format!("{between}.0"), NORM);
            b.then(&format!("{between}.1"), conv(width, 2).stride(2).valid());
        }
        for i in 0..depth {
            b.scope(&format!("features.{}.{i}", 2 * stage + 1));
            block(&mut b, width, drop * at as f32 / (blocks - 1) as f32);
            at += 1;
        }
        b.scope("");
    }
    b.then("avgpool", GlobalMeanPool {}).then("classifier.0", NORM);
    b.then("classifier.2", Dense::new(classes)).build()
}

fn block(b: &mut Builder, width: usize, drop: f32) {
    let from = b.here();
    b.then("block.0", Conv::depthwise(7).pad(3).init(WeightInit::Glorot)).then("block.2", NORM);
    b.then("block.3", conv(4 * width, 1)).then("block.4", Gelu {});
    b.then("block.5", conv(width, 1)).then("layer_scale", Scale { first: SCALE });
    if drop > 0.0 {
        b.then("stochastic_depth", StochasticDepth { rate: drop });
    }
    let end = b.here();
    b.named("add", Add {}, &[end, from]);
}

fn conv(filters: usize, window: usize) -> Conv {
    Conv::new(filters, window).init(WeightInit::Glorot)
}
