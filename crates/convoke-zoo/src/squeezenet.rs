//! SqueezeNet (Iandola et al. 2016, table 1), versions 1.0 and 1.1. Layers are named as in torchvision.
//!
//! A fire module squeezes to few channels by 1×1 and expands by 1×1 and 3×3 side by side. There is no
//! dense layer: the last convolution has a filter per class, and its maps are averaged.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Concat, Conv, Dropout, GlobalMeanPool, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

/// First convolution `(filters, window)`, and fire modules `(squeeze, expand each)` with poolings between.
struct Table {
    first: (usize, usize),
    parts: [Part; 10],
}

enum Part {
    Fire(usize, usize),
    Pool,
}
use Part::{Fire, Pool};

const PAPER: Paper = Paper {
    year: 2016,
    title: "Iandola et al., SqueezeNet: AlexNet-level Accuracy with 50x Fewer Parameters",
};

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network(
        "squeezenet1-0",
        "fire modules, no dense layer; AlexNet's accuracy in 5 MB",
        |n, i, c| build(n, i, c, &V1_0),
    ),
    PAPER.network(
        "squeezenet1-1",
        "the same with less than half of the multiply-adds",
        |n, i, c| build(n, i, c, &V1_1),
    ),
];

const V1_0: Table = Table {
    first: (96, 7),
    parts: [
        Fire(16, 64),
        Fire(16, 64),
        Fire(32, 128),
        Pool,
        Fire(32, 128),
        Fire(48, 192),
        Fire(48, 192),
        Fire(64, 256),
        Pool,
        Fire(64, 256),
    ],
};

const V1_1: Table = Table {
    first: (64, 3),
    parts: [
        Fire(16, 64),
        Fire(16, 64),
        Pool,
        Fire(32, 128),
        Fire(32, 128),
        Pool,
        Fire(48, 192),
        Fire(48, 192),
        Fire(64, 256),
        Fire(64, 256),
    ],
};

fn build(name: &str, input: Shape, classes: usize, table: &Table) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let (filters, window) = table.first;
    conv(&mut b, "features.0", Conv::new(filters, window).stride(2).valid());
    pool(&mut b, 2);
    for (at, part) in (3..).zip(&table.parts) {
        match *part {
            Pool => pool(&mut b, at),
            Fire(squeeze, expand) => fire(&mut b, at, squeeze, expand),
        }
    }
    let from = b.here();
    b.named("classifier.0", Dropout { rate: 0.5 }, &[from]);
    conv(&mut b, "classifier.1", Conv::new(classes, 1));
    let from = b.here();
    b.named("classifier.3", GlobalMeanPool {}, &[from]).build()
}

fn fire(b: &mut Builder, at: usize, squeeze: usize, expand: usize) {
    conv(b, &format!("features.{at}.squeeze"), Conv::new(squeeze, 1));
    let squeezed = b.here();
    conv(b, &format!("features.{at}.expand1x1"), Conv::new(expand, 1));
    let one = b.here();
    b.at(squeezed);
    conv(b, &format!("features.{at}.expand3x3"), Conv::new(expand, 3).pad(1));
    let three = b.here();
    b.named(&format!("features.{at}.cat"), Concat {}, &[one, three]);
}

fn pool(b: &mut Builder, at: usize) {
    let from = b.here();
    let pool = MaxPool::new(3).stride(2).padding(Padding::Ceil);
    b.named(&format!("features.{at}"), pool, &[from]);
}

fn conv(b: &mut Builder, name: &str, conv: Conv) {
    let from = b.here();
    b.named(name, conv.init(WeightInit::He), &[from]);
    let from = b.here();
    b.named(&format!("{name}.relu"), Relu::default(), &[from]);
}
