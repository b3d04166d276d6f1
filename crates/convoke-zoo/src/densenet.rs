//! DenseNet (Huang et al. 2017, table 1), growth 32. Layers are named as in torchvision.
//!
//! Each layer of a block reads all maps before it: norm, ReLU, 1×1 to 4 · growth, norm, ReLU, 3×3 to
//! growth maps, which are put beside the others. Between blocks 1×1 halves the maps and their sides.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{BatchNorm, Concat, Conv, Dense, MaxPool, MeanPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper =
    Paper { year: 2017, title: "Huang et al., Densely Connected Convolutional Networks" };

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network("densenet121", "each layer reads all before it, 121 layers", |n, i, c| {
        build(n, i, c, [6, 12, 24, 16])
    }),
    PAPER.network("densenet169", "the same, 169 layers", |n, i, c| build(n, i, c, [6, 12, 32, 32])),
];

const GROWTH: usize = 32;

fn build(
    name: &str,
    input: Shape,
    classes: usize,
    blocks: [usize; 4],
) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "features.conv0", Conv::new(2 * GROWTH, 7).stride(2).pad(3));
    norm_relu(&mut b, "features.norm0", "features.relu0");
    let from = b.here();
    let pool = MaxPool::new(3).stride(2).padding(Padding::symmetric(1));
    b.named("features.pool0", pool, &[from]);
    let mut channels = 2 * GROWTH;
    for (i, layers) in (1..).zip(blocks) {
        for layer in 1..=layers {
            dense_layer(&mut b, &format!("features.denseblock{i}.denselayer{layer}"));
            channels += GROWTH;
        }
        if i < blocks.len() {
            let at = format!("features.transition{i}");
            norm_relu(&mut b, &format!("{at}.norm"), &format!("{at}.relu"));
            channels /= 2;
            conv(&mut b, &format!("{at}.conv"), Conv::new(channels, 1));
            let from = b.here();
            b.named(&format!("{at}.pool"), MeanPool::new(2).stride(2), &[from]);
        }
    }
    norm_relu(&mut b, "features.norm5", "features.relu5");
    b.global_mean_pool();
    let from = b.here();
    b.named("classifier", Dense::new(classes), &[from]).build()
}

fn dense_layer(b: &mut Builder, at: &str) {
    let before = b.here();
    norm_relu(b, &format!("{at}.norm1"), &format!("{at}.relu1"));
    conv(b, &format!("{at}.conv1"), Conv::new(4 * GROWTH, 1));
    norm_relu(b, &format!("{at}.norm2"), &format!("{at}.relu2"));
    conv(b, &format!("{at}.conv2"), Conv::new(GROWTH, 3).pad(1));
    let grown = b.here();
    b.named(&format!("{at}.cat"), Concat {}, &[before, grown]);
}

fn conv(b: &mut Builder, name: &str, conv: Conv) {
    let from = b.here();
    b.named(name, conv.no_bias().init(WeightInit::He), &[from]);
}

fn norm_relu(b: &mut Builder, norm: &str, relu: &str) {
    let from = b.here();
    b.named(norm, BatchNorm::default(), &[from]);
    let from = b.here();
    b.named(relu, Relu::default(), &[from]);
}
