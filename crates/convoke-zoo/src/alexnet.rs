//! AlexNet in its one-tower form (Krizhevsky 2014), as torchvision has it.
//!
//! The last map is brought to 6×6 by mean pooling, which changes nothing at 224×224.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{AdaptiveMeanPool, Conv, Dense, LocalResponseNorm, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const TOWERS: Paper = Paper {
    year: 2012,
    title: "Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks",
};
const WEIRD: Paper = Paper {
    year: 2014,
    title: "Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks",
};

pub(crate) const ENTRIES: &[Entry] = &[
    TOWERS
        .network(
            "alexnet-2012",
            "the winner of ImageNet 2012 as it was: two towers, local response norm",
            two_towers,
        )
        .side(227)
        .challenge(15.3),
    WEIRD.network("alexnet", "the network that won ImageNet 2012, in its one-tower form", build),
];

fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    // (name, filters, window, stride, padding, pooled)
    for (at, filters, window, stride, pad, pooled) in [
        (0, 64, 11, 4, 2, true),
        (3, 192, 5, 1, 2, true),
        (6, 384, 3, 1, 1, false),
        (8, 256, 3, 1, 1, false),
        (10, 256, 3, 1, 1, true),
    ] {
        let conv = Conv::new(filters, window).stride(stride).pad(pad);
        let from = b.here();
        b.named(&format!("features.{at}"), conv, &[from]).layer(Relu::default());
        if pooled {
            b.layer(MaxPool::new(3).stride(2));
        }
    }
    b.layer(AdaptiveMeanPool { size: 6.into() }).flatten();
    for at in [1, 4] {
        b.dropout(0.5);
        let from = b.here();
        let dense = Dense::new(4096).init(WeightInit::He);
        b.named(&format!("classifier.{at}"), dense, &[from]).layer(Relu::default());
    }
    let from = b.here();
    b.named("classifier.6", Dense::new(classes), &[from]).build()
}

/// The form of 2012 (Krizhevsky et al., figure 2): two towers, which are groups of the convolutions whose
/// maps lay on one of two GPUs, local response normalisation, overlapping pooling, 227×227.
fn two_towers(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    // The paper's alpha of 1e-4 stands before the sum, ours before the mean of 5.
    let response = LocalResponseNorm { alpha: 5e-4, ..LocalResponseNorm::default() };
    b.conv(Conv::new(96, 11).stride(4).valid()).relu().layer(response.clone()).max_pool(3, 2);
    b.conv(Conv::new(256, 5).pad(2).groups(2)).relu().layer(response).max_pool(3, 2);
    b.conv(Conv::new(384, 3).pad(1)).relu();
    b.conv(Conv::new(384, 3).pad(1).groups(2)).relu();
    b.conv(Conv::new(256, 3).pad(1).groups(2)).relu().max_pool(3, 2);
    b.flatten();
    for _ in 0..2 {
        b.layer(Dense::new(4096).init(WeightInit::He)).relu().dropout(0.5);
    }
    b.dense(classes).build()
}
