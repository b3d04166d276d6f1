//! ZFNet (Zeiler and Fergus 2014, figure 3), the winner of 2013: AlexNet with a smaller first window and
//! stride, chosen by looking at what the first layers saw.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Conv, Dense, LocalResponseNorm, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper =
    Paper { year: 2013, title: "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks" };

pub(crate) const ENTRIES: &[Entry] = &[PAPER
    .network("zfnet", "the winner of ImageNet 2013: AlexNet with finer first layers", build)
    .challenge(11.7)];

fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    // 224 → 110 → 55 → 26 → 13 → 6.
    b.conv(Conv::new(96, 7).stride(2).pad(1)).relu();
    b.layer(MaxPool::new(3).stride(2).padding(Padding::Ceil)).layer(LocalResponseNorm::default());
    b.conv(Conv::new(256, 5).stride(2).valid()).relu();
    b.layer(MaxPool::new(3).stride(2).padding(Padding::Ceil)).layer(LocalResponseNorm::default());
    for filters in [384, 384, 256] {
        b.conv(Conv::new(filters, 3).pad(1)).layer(Relu::default());
    }
    b.max_pool(3, 2).flatten();
    for _ in 0..2 {
        b.layer(Dense::new(4096).init(WeightInit::He)).relu().dropout(0.5);
    }
    b.dense(classes).build()
}
