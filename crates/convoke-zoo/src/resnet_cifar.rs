//! Residual networks for CIFAR (He et al. 2016, section 4.2): 6n + 2 layers.
//!
//! 3×3, 16; then three stages of n blocks at 16, 32, 64 filters, the first block of a later stage
//! with stride 2; mean pool; dense. Shortcuts have no parameters (option A): where the depth grows,
//! every second pixel is taken and the missing channels are zero.

use crate::entry::{Build, CIFAR, Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, Relu, Shortcut, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper =
    Paper { year: 2015, title: "He et al., Deep Residual Learning for Image Recognition" };

pub(crate) const ENTRIES: &[Entry] = &[
    small("resnet20", "residual network for 32x32 pictures, 20 layers", |n, i, c| build(n, 3, i, c)),
    small("resnet32", "residual network for 32x32 pictures, 32 layers", |n, i, c| build(n, 5, i, c)),
    small("resnet44", "residual network for 32x32 pictures, 44 layers", |n, i, c| build(n, 7, i, c)),
    small("resnet56", "residual network for 32x32 pictures, 56 layers", |n, i, c| build(n, 9, i, c)),
];

const fn small(name: &'static str, about: &'static str, build: Build) -> Entry {
    PAPER.network(name, about, build).input(CIFAR).classes(10)
}

fn build(name: &str, n: usize, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "1", 16, 1);
    b.relu();
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for i in 0..n {
            let grows = stage > 0 && i == 0;
            let stride = if grows { 2 } else { 1 };
            b.scope(&format!("layer{}.{i}", stage + 1));
            let from = b.here();
            conv(&mut b, "1", width, stride);
            let at = b.here();
            b.named("relu1", Relu::default(), &[at]);
            conv(&mut b, "2", width, 1);
            let end = b.here();
            let short = if grows {
                b.named("shortcut", Shortcut { stride: 2.into(), channels: width }, &[from]).here()
            } else {
                from
            };
            b.named("add", Add {}, &[end, short]);
            let sum = b.here();
            b.named("relu", Relu::default(), &[sum]);
        }
    }
    b.scope("").global_mean_pool();
    let from = b.here();
    b.named("linear", Dense::new(classes), &[from]).build()
}

fn conv(b: &mut Builder, n: &str, filters: usize, stride: usize) {
    let conv = Conv::new(filters, 3).stride(stride).pad(1).no_bias().init(WeightInit::He);
    let from = b.here();
    b.named(&format!("conv{n}"), conv, &[from]);
    let from = b.here();
    b.named(&format!("bn{n}"), BatchNorm::default(), &[from]);
}
