//! Networks for signals `[1, length, channels]` (Wang et al. 2017, figure 1): the baselines of time series
//! classification.
//!
//! | | mlp-1d | fcn-1d | resnet-1d |
//! |---|---|---|---|
//! | body | dropout 0.1, then 3 × (dense 500, ReLU, dropout 0.2, 0.2, 0.3) | 128 @ 8, 256 @ 5, 128 @ 3 | 3 blocks of 8, 5, 3 with 64, 128, 128 filters |
//! | head | dense | mean, dense | mean, dense |
//!
//! Each convolution is followed by a norm and ReLU; a block's shortcut is a 1×1 convolution with a norm where the
//! depth changes, and a norm where not. Padding is `same`, so that any length fits.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, Relu, WeightInit};
use convoke_engine::{Builder, Network, NodeId, Result, Shape};

const PAPER: Paper = Paper {
    year: 2017,
    title: "Wang et al., Time Series Classification from Scratch with Deep Neural Networks",
};
/// GunPoint's.
pub(crate) const SIGNAL: Shape = Shape::new(1, 150, 1);

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER
        .network("mlp-1d", "signals: three hidden layers of 500 with dropout", mlp)
        .input(SIGNAL)
        .classes(2),
    PAPER
        .network("fcn-1d", "signals: three convolutions and a mean", fcn)
        .input(SIGNAL)
        .classes(2),
    PAPER
        .network("resnet-1d", "signals: residual network of three blocks", resnet)
        .input(SIGNAL)
        .classes(2),
];

fn mlp(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    b.flatten().dropout(0.1);
    for rate in [0.2, 0.2, 0.3] {
        b.layer(Dense::new(500).init(WeightInit::He)).relu().dropout(rate);
    }
    b.dense(classes).build()
}

fn fcn(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    for (filters, window) in [(128, 8), (256, 5), (128, 3)] {
        b.conv(Conv::signal(filters, window).no_bias()).batch_norm().relu();
    }
    b.global_mean_pool().dense(classes).build()
}

fn resnet(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let mut depth = input.c;
    for (i, filters) in [64, 128, 128].into_iter().enumerate() {
        b.scope(&format!("block{}", i + 1));
        let from = b.here();
        for (k, window) in [8, 5, 3].into_iter().enumerate() {
            conv(&mut b, &format!("{}", k + 1), filters, window);
            if k < 2 {
                b.then(&format!("relu{}", k + 1), Relu::default());
            }
        }
        let end = b.here();
        let short = shortcut(&mut b, from, depth, filters);
        b.named("add", Add {}, &[end, short]).then("relu", Relu::default());
        depth = filters;
    }
    b.scope("").global_mean_pool().dense(classes).build()
}

fn conv(b: &mut Builder, n: &str, filters: usize, window: usize) {
    b.then(&format!("conv{n}"), Conv::signal(filters, window).no_bias());
    b.then(&format!("bn{n}"), BatchNorm::default());
}

/// A block's input at another depth, normed.
pub(crate) fn shortcut(b: &mut Builder, from: NodeId, depth: usize, filters: usize) -> NodeId {
    b.at(from);
    if depth != filters {
        b.then("shortcut", Conv::signal(filters, 1).no_bias());
    }
    b.then("shortcut-bn", BatchNorm::default()).here()
}
