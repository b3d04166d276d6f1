//! MobileNet v1 (Howard et al. 2017, table 1) and v2 (Sandler et al. 2018, table 2). v2 is named
//! as in torchvision.
//!
//! v1 is rows of depthwise 3×3 and 1×1. Each inverted residual of v2: 1×1 to t times the channels, depthwise 3×3 with the stride, 1×1 down
//! without activation; a shortcut where size and channels stay.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{Add, BatchNorm, Conv, Dense, Relu, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const V1: Paper = Paper {
    year: 2017,
    title: "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
};
const V2: Paper = Paper {
    year: 2018,
    title: "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
};

pub(crate) const ENTRIES: &[Entry] = &[
    V1.network("mobilenet-v1", "depthwise convolutions in place of full ones", v1),
    V1.network("mobilenet-v1-0.25", "the same with a quarter of the filters, for small pictures", v1_quarter)
        .side(128),
    V2.network(
        "mobilenet-v2",
        "inverted residuals with depthwise convolutions; small and cheap",
        v2,
    ),
];

/// `(t, channels, repeats, stride)`: the paper's table 2.
const TABLE: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

fn v2(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "features.0", Conv::new(32, 3).stride(2).pad(1));
    let (mut channels, mut at) = (32, 1);
    for (t, c, repeats, first_stride) in TABLE {
        for i in 0..repeats {
            let stride = if i == 0 { first_stride } else { 1 };
            inverted_residual(&mut b, &format!("features.{at}.conv"), channels, t, c, stride);
            (channels, at) = (c, at + 1);
        }
    }
    conv(&mut b, "features.18", Conv::new(1280, 1));
    b.global_mean_pool().dropout(0.2);
    let from = b.here();
    b.named("classifier.1", Dense::new(classes), &[from]).build()
}

fn inverted_residual(b: &mut Builder, name: &str, c: usize, t: usize, out: usize, stride: usize) {
    let from = b.here();
    let mut part = 0;
    if t != 1 {
        conv(b, &format!("{name}.0"), Conv::new(c * t, 1));
        part = 1;
    }
    conv(b, &format!("{name}.{part}"), Conv::depthwise(3).stride(stride).pad(1));
    // torchvision numbers the last convolution and norm without a block of their own.
    let conv = Conv::new(out, 1).no_bias().init(WeightInit::HeFanOut);
    let end = b.here();
    b.named(&format!("{name}.{}", part + 1), conv, &[end]);
    let end = b.here();
    let end = b.named(&format!("{name}.{}", part + 2), BatchNorm::default(), &[end]).here();
    if stride == 1 && c == out {
        b.named(&format!("{name}.add"), Add {}, &[from, end]);
    }
}

/// Convolution `.0`, norm `.1` and ReLU6 `.2`.
fn conv(b: &mut Builder, name: &str, conv: Conv) {
    let from = b.here();
    b.named(&format!("{name}.0"), conv.no_bias().init(WeightInit::HeFanOut), &[from]);
    let from = b.here();
    b.named(&format!("{name}.1"), BatchNorm::default(), &[from]);
    let from = b.here();
    b.named(&format!("{name}.2"), Relu { max: Some(6.0) }, &[from]);
}

/// `(channels, stride)` of v1's thirteen blocks.
const ROWS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

fn v1(name: &str, input: Shape, classes: usize) -> Result<Network> {
    v1_thinner(name, input, classes, 1)
}

fn v1_quarter(name: &str, input: Shape, classes: usize) -> Result<Network> {
    v1_thinner(name, input, classes, 4)
}

/// With one of `share` filters. Padding as TensorFlow has it, where the known weights come from.
fn v1_thinner(name: &str, input: Shape, classes: usize, share: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    part(&mut b, "features.0", 0, Conv::new(32 / share, 3).stride(2));
    for (at, (channels, stride)) in (1..).zip(ROWS) {
        let block = format!("features.{at}");
        part(&mut b, &block, 0, Conv::depthwise(3).stride(stride));
        part(&mut b, &block, 3, Conv::new(channels / share, 1));
    }
    b.global_mean_pool().dropout(0.001);
    let from = b.here();
    b.named("classifier", Dense::new(classes), &[from]).build()
}

/// Convolution `.at`, norm `.at + 1` and ReLU6 `.at + 2`.
fn part(b: &mut Builder, block: &str, at: usize, conv: Conv) {
    let from = b.here();
    let conv = conv.no_bias().init(WeightInit::HeFanOut);
    b.named(&format!("{block}.{at}"), conv, &[from]);
    let from = b.here();
    b.named(&format!("{block}.{}", at + 1), BatchNorm::default(), &[from]);
    let from = b.here();
    b.named(&format!("{block}.{}", at + 2), Relu { max: Some(6.0) }, &[from]);
}
