//! Xception (Chollet 2017, figure 5). Layers are named as in timm's `legacy_xception`.
//!
//! Separable convolutions (depthwise 3×3, then 1×1) in blocks with shortcuts: three blocks that halve the
//! map, eight in the middle, one more that halves, and two convolutions at the end.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper = Paper {
    year: 2017,
    title: "Chollet, Xception: Deep Learning with Depthwise Separable Convolutions",
};

pub(crate) const ENTRIES: &[Entry] =
    &[PAPER.network("xception", "separable convolutions with shortcuts", build).side(299)];

fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "conv1", Conv::new(32, 3).stride(2).valid());
    norm(&mut b, "bn1");
    relu(&mut b, "act1");
    conv(&mut b, "conv2", Conv::new(64, 3).valid());
    norm(&mut b, "bn2");
    relu(&mut b, "act2");
    for (at, filters) in [(1, [128, 128]), (2, [256, 256]), (3, [728, 728])] {
        halving(&mut b, at, filters, at > 1);
    }
    for at in 4..=11 {
        b.scope(&format!("block{at}"));
        let input = b.here();
        separable_row(&mut b, &[728; 3], true);
        let end = b.here();
        b.named("add", Add {}, &[end, input]);
    }
    halving(&mut b, 12, [728, 1024], true);
    b.scope("");
    for (at, filters) in [(3, 1536), (4, 2048)] {
        separable(&mut b, &format!("conv{at}"), filters);
        norm(&mut b, &format!("bn{at}"));
        relu(&mut b, &format!("act{at}"));
    }
    b.global_mean_pool();
    let from = b.here();
    b.named("fc", Dense::new(classes), &[from]).build()
}

/// Two separable convolutions and a pooling of stride 2, beside a 1×1 of stride 2.
fn halving(b: &mut Builder, at: usize, filters: [usize; 2], relu_first: bool) {
    b.scope(&format!("block{at}"));
    let input = b.here();
    separable_row(b, &filters, relu_first);
    let from = b.here();
    let pool = MaxPool::new(3).stride(2).padding(Padding::symmetric(1));
    b.named("pool", pool, &[from]);
    let end = b.here();
    b.at(input);
    conv(b, "skip", Conv::new(filters[1], 1).stride(2).pad(0));
    norm(b, "skipbn");
    let skip = b.here();
    b.named("add", Add {}, &[end, skip]);
}

/// ReLU, separable convolution and norm for each depth, numbered in a row.
fn separable_row(b: &mut Builder, filters: &[usize], relu_first: bool) {
    let mut at = 0;
    for (i, &filters) in filters.iter().enumerate() {
        if i > 0 || relu_first {
            relu(b, &format!("rep.{at}"));
            at += 1;
        }
        separable(b, &format!("rep.{at}"), filters);
        norm(b, &format!("rep.{}", at + 1));
        at += 2;
    }
}

fn separable(b: &mut Builder, name: &str, filters: usize) {
    conv(b, &format!("{name}.conv1"), Conv::depthwise(3).pad(1));
    conv(b, &format!("{name}.pointwise"), Conv::new(filters, 1));
}

fn conv(b: &mut Builder, name: &str, conv: Conv) {
    let from = b.here();
    b.named(name, conv.no_bias().init(WeightInit::HeFanOut), &[from]);
}

fn norm(b: &mut Builder, name: &str) {
    let from = b.here();
    b.named(name, BatchNorm::default(), &[from]);
}

fn relu(b: &mut Builder, name: &str) {
    let from = b.here();
    b.named(name, Relu::default(), &[from]);
}
