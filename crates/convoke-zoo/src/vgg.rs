//! VGG (Simonyan and Zisserman 2015, table 1: configurations A, B, D, E), with and without batch norm.
//! Layers are named as in torchvision, which brings the last map to 7×7; at other input sizes the first
//! dense layer takes the map that there is.

use convoke_engine::layers::{BatchNorm, Conv, Dense, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

/// Convolutions per stage; a stage ends with a pooling.
pub(crate) const A: [usize; 5] = [1, 1, 2, 2, 2];
pub(crate) const B: [usize; 5] = [2, 2, 2, 2, 2];
pub(crate) const D: [usize; 5] = [2, 2, 3, 3, 3];
pub(crate) const E: [usize; 5] = [2, 2, 4, 4, 4];
const FILTERS: [usize; 5] = [64, 128, 256, 512, 512];

pub(crate) fn build(
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
    b.flatten();
    for at in [0, 3] {
        let from = b.here();
        let dense = Dense::new(4096).init(WeightInit::He);
        b.named(&format!("classifier.{at}"), dense, &[from]).layer(Relu::default()).dropout(0.5);
    }
    let from = b.here();
    b.named("classifier.6", Dense::new(classes), &[from]).build()
}
