//! VGG (Simonyan and Zisserman 2015, table 1: configurations A, B, D, E), with and without batch norm.
//! Layers are named as in torchvision. The last map is brought to 7×7 by mean pooling, which changes nothing at
//! 224×224.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{AdaptiveMeanPool, BatchNorm, Conv, Dense, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper = Paper {
    year: 2014,
    title: "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition",
};

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network("vgg11", "3x3 convolutions alone, 11 layers", |n, i, c| build(n, i, c, A, false)),
    PAPER.network("vgg11-bn", "the same with batch norm", |n, i, c| build(n, i, c, A, true)),
    PAPER.network("vgg13", "3x3 convolutions alone, 13 layers", |n, i, c| build(n, i, c, B, false)),
    PAPER.network("vgg13-bn", "the same with batch norm", |n, i, c| build(n, i, c, B, true)),
    PAPER
        .network("vgg16", "3x3 convolutions alone, 16 layers", |n, i, c| build(n, i, c, D, false))
        .challenge(7.3),
    PAPER.network("vgg16-bn", "the same with batch norm", |n, i, c| build(n, i, c, D, true)),
    PAPER
        .network("vgg19", "3x3 convolutions alone, 19 layers", |n, i, c| build(n, i, c, E, false))
        .challenge(7.3),
    PAPER.network("vgg19-bn", "the same with batch norm", |n, i, c| build(n, i, c, E, true)),
];

/// Convolutions per stage; a stage ends with a pooling.
const A: [usize; 5] = [1, 1, 2, 2, 2];
const B: [usize; 5] = [2, 2, 2, 2, 2];
const D: [usize; 5] = [2, 2, 3, 3, 3];
const E: [usize; 5] = [2, 2, 4, 4, 4];
const FILTERS: [usize; 5] = [64, 128, 256, 512, 512];

fn build(
    name: &str,
    input: Shape,
    classes: usize,
    stages: [usize; 5],
    norm: bool,
) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let mut at = 0;
    let mut next = |layers: usize| {
        at += layers;
        format!("features.{}", at - layers)
    };
    for (convs, filters) in stages.into_iter().zip(FILTERS) {
        for _ in 0..convs {
            let from = b.here();
            let conv = Conv::new(filters, 3).pad(1).init(WeightInit::HeFanOut);
            b.named(&next(1), conv, &[from]);
            if norm {
                let from = b.here();
                b.named(&next(1), BatchNorm::default(), &[from]);
            }
            let from = b.here();
            b.named(&next(1), Relu::default(), &[from]);
        }
        let from = b.here();
        b.named(&next(1), MaxPool::new(2).stride(2), &[from]);
    }
    b.layer(AdaptiveMeanPool { size: 7.into() }).flatten();
    for at in [0, 3] {
        let from = b.here();
        let dense = Dense::new(4096).init(WeightInit::He);
        b.named(&format!("classifier.{at}"), dense, &[from]).layer(Relu::default()).dropout(0.5);
    }
    let from = b.here();
    b.named("classifier.6", Dense::new(classes), &[from]).build()
}
