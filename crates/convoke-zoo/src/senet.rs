//! Squeeze-and-excitation networks (Hu et al. 2018, tables 1 and 2; the appendix for SENet-154): residual networks that
//! weigh the channels of each block by what their means say. Layers are named as in timm (`seresnet50`, `senet154`).
//!
//! | | seresnet50 | seresnet50-v1 | senet154 |
//! |---|---|---|---|
//! | stem | 7×7, 64 /2 | the same | three 3×3: 64 /2, 64, 128 |
//! | pool | 3×3 /2 | 3×3 /2, the last window kept | as v1 |
//! | layer1–4 | 3, 4, 6, 3 bottlenecks | the same | 3, 8, 36, 3, twice as wide, 64 groups |
//! | stride in | 3×3 | 1×1 | 3×3 |
//! | shortcut | 1×1 | 1×1 | 3×3 where halved |
//!
//! `seresnet50-v1` is the authors' form (timm's `legacy_seresnet50`), `seresnet50` has the stride of ResNet v1.5.

use crate::blocks::{Act, squeeze_excite};
use crate::entry::{Entry, Paper};
use convoke_engine::layers::{
    Add, BatchNorm, Conv, Dense, MaxPool, Relu, Sigmoid, WeightInit,
};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper = Paper { year: 2017, title: "Hu et al., Squeeze-and-Excitation Networks" };

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network("seresnet50", "resnet50 whose blocks weigh their channels", |n, i, c| {
        build(n, i, c, &RESNET50)
    }),
    PAPER.network("seresnet50-v1", "the same as the paper has it: the first 1x1 strides", |n, i, c| {
        build(n, i, c, &Form { stride_first: true, pool: Padding::Ceil, ..RESNET50 })
    }),
    PAPER
        .network(
            "senet154",
            "the winner of ImageNet 2017: wide bottlenecks in 64 groups that weigh their channels",
            |n, i, c| build(n, i, c, &SENET154),
        )
        .challenge(2.25),
];

struct Form {
    depths: [usize; 4],
    /// Three 3×3 convolutions in the place of 7×7.
    deep_stem: bool,
    pool: Padding,
    /// Channels of the first and second convolution for each of the stage's width.
    widths: [usize; 2],
    groups: usize,
    stride_first: bool,
    /// Window of the shortcut's convolution where the map is halved.
    shortcut: usize,
    dropout: f32,
}

const RESNET50: Form = Form {
    depths: [3, 4, 6, 3],
    deep_stem: false,
    pool: Padding::Explicit { top: 1, bottom: 1, left: 1, right: 1 },
    widths: [1, 1],
    groups: 1,
    stride_first: false,
    shortcut: 1,
    dropout: 0.0,
};

const SENET154: Form = Form {
    depths: [3, 8, 36, 3],
    deep_stem: true,
    pool: Padding::Ceil,
    widths: [2, 4],
    groups: 64,
    stride_first: false,
    shortcut: 3,
    dropout: 0.2,
};

fn build(name: &str, input: Shape, classes: usize, form: &Form) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let mut channels = 64;
    if form.deep_stem {
        channels = 128;
        norm_relu(&mut b, ["conv1.0", "conv1.1", "conv1.2"], Conv::new(64, 3).stride(2).pad(1));
        norm_relu(&mut b, ["conv1.3", "conv1.4", "conv1.5"], Conv::new(64, 3).pad(1));
        norm_relu(&mut b, ["conv1.6", "bn1", "act1"], Conv::new(128, 3).pad(1));
    } else {
        norm_relu(&mut b, ["conv1", "bn1", "act1"], Conv::new(64, 7).stride(2).pad(3));
    }
    b.then("maxpool", MaxPool::new(3).stride(2).padding(form.pool));
    for (stage, depth) in form.depths.into_iter().enumerate() {
        for i in 0..depth {
            b.scope(&format!("layer{}.{i}", stage + 1));
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            block(&mut b, form, 64 << stage, channels, stride);
            channels = 256 << stage;
        }
    }
    b.scope("").global_mean_pool();
    if form.dropout > 0.0 {
        b.dropout(form.dropout);
    }
    b.then("fc", Dense::new(classes)).build()
}

/// 1×1, 3×3, 1×1 to four times the width, weighed; the block's input is added.
fn block(b: &mut Builder, form: &Form, width: usize, channels: usize, stride: usize) {
    let (from, filters) = (b.here(), 4 * width);
    let [first, second] = form.widths.map(|times| times * width);
    let (one, three) = if form.stride_first { (stride, 1) } else { (1, stride) };
    norm_relu(b, ["conv1", "bn1", "act1"], Conv::new(first, 1).stride(one).pad(0));
    let grouped = Conv::new(second, 3).stride(three).pad(1).groups(form.groups);
    norm_relu(b, ["conv2", "bn2", "act2"], grouped);
    norm(b, ["conv3", "bn3"], Conv::new(filters, 1));
    squeeze_excite(b, "se", [filters / 16, filters], Act::Relu, Sigmoid {});
    let end = b.here();
    let mut short = from;
    if stride > 1 || channels != filters {
        let window = if stride > 1 { form.shortcut } else { 1 };
        let conv = Conv::new(filters, window).stride(stride).pad(window / 2);
        norm(b.at(from), ["downsample.0", "downsample.1"], conv);
        short = b.here();
    }
    b.named("add", Add {}, &[end, short]).then("act3", Relu::default());
}

fn norm(b: &mut Builder, [name, norm]: [&str; 2], conv: Conv) {
    b.then(name, conv.no_bias().init(WeightInit::HeFanOut)).then(norm, BatchNorm::default());
}

fn norm_relu(b: &mut Builder, [conv_name, norm_name, relu]: [&str; 3], conv: Conv) {
    norm(b, [conv_name, norm_name], conv);
    b.then(relu, Relu::default());
}
