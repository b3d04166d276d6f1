//! Wide residual networks for CIFAR (Zagoruyko and Komodakis 2016, table 1): WRN-28-10, pre-activation
//! blocks of two 3×3 convolutions, ten times the width, dropout between them.

use crate::entry::{CIFAR, Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, Dropout, Relu, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper =
    Paper { year: 2016, title: "Zagoruyko and Komodakis, Wide Residual Networks" };

pub(crate) const ENTRIES: &[Entry] = &[PAPER
    .network("wrn-28-10", "wide residual network for 32x32 pictures", |n, i, c| build(n, i, c, (4, 10)))
    .input(CIFAR)
    .classes(10)];

/// `depth = 6 · blocks + 4`.
fn build(
    name: &str,
    input: Shape,
    classes: usize,
    (blocks, widen): (usize, usize),
) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "conv1", Conv::new(16, 3));
    let mut channels = 16;
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for i in 0..blocks {
            b.scope(&format!("block{}.{i}", stage + 1));
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            block(&mut b, channels, width * widen, stride);
            channels = width * widen;
        }
    }
    b.scope("");
    norm_relu(&mut b, "bn1");
    b.global_mean_pool();
    let from = b.here();
    b.named("fc", Dense::new(classes), &[from]).build()
}

fn block(b: &mut Builder, channels: usize, width: usize, stride: usize) {
    let input = b.here();
    norm_relu(b, "bn1");
    let mut short = input;
    if channels != width {
        let active = b.here();
        let project = Conv::new(width, 1).stride(stride).pad(0);
        conv(b, "shortcut", project);
        short = b.here();
        b.at(active);
    }
    conv(b, "conv1", Conv::new(width, 3).stride(stride));
    norm_relu(b, "bn2");
    let from = b.here();
    b.named("dropout", Dropout { rate: 0.3 }, &[from]);
    conv(b, "conv2", Conv::new(width, 3));
    let end = b.here();
    b.named("add", Add {}, &[end, short]);
}

fn conv(b: &mut Builder, name: &str, conv: Conv) {
    let conv = if conv.window.h == 3 { conv.pad(1) } else { conv };
    let from = b.here();
    b.named(name, conv.no_bias().init(WeightInit::HeFanOut), &[from]);
}

fn norm_relu(b: &mut Builder, name: &str) {
    let from = b.here();
    b.named(name, BatchNorm::default(), &[from]);
    let from = b.here();
    b.named(&format!("{name}.relu"), Relu::default(), &[from]);
}
