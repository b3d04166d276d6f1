//! EfficientNet (Tan and Le 2019, table 1), B0 to B4: one table, scaled in width and depth. Layers are named
//! as in torchvision.

use crate::entry::{Entry, Paper};
use crate::blocks::{Act, conv_norm, divisible, squeeze_excite};
use convoke_engine::layers::{Add, Conv, Dense, Dropout, GlobalMeanPool, Sigmoid, StochasticDepth};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper = Paper {
    year: 2019,
    title: "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
};

/// Inputs as torchvision trains them, and as the authors do.
pub(crate) const ENTRIES: &[Entry] = &[
    PAPER
        .network("efficientnet-b0", "searched, then scaled in width, depth and input", |n, i, c| {
            build(n, i, c, B0, TORCH)
        })
        .side(224),
    PAPER.network("efficientnet-b1", "one step larger", |n, i, c| build(n, i, c, B1, TORCH)).side(240),
    PAPER.network("efficientnet-b2", "two steps larger", |n, i, c| build(n, i, c, B2, TORCH)).side(288),
    PAPER.network("efficientnet-b3", "three steps larger", |n, i, c| build(n, i, c, B3, TORCH)).side(300),
    PAPER.network("efficientnet-b4", "four steps larger", |n, i, c| build(n, i, c, B4, TORCH)).side(380),
    PAPER.network("tf-efficientnet-b0", AUTHORS, |n, i, c| build(n, i, c, B0, TF)).side(224),
    PAPER.network("tf-efficientnet-b1", AUTHORS, |n, i, c| build(n, i, c, B1, TF)).side(240),
    PAPER.network("tf-efficientnet-b2", AUTHORS, |n, i, c| build(n, i, c, B2, TF)).side(260),
    PAPER.network("tf-efficientnet-b3", AUTHORS, |n, i, c| build(n, i, c, B3, TF)).side(300),
    PAPER.network("tf-efficientnet-b4", AUTHORS, |n, i, c| build(n, i, c, B4, TF)).side(380),
];
const AUTHORS: &str = "the same as its authors have it: TensorFlow's padding and norms";

/// Width, depth, dropout.
type Scale = (f64, f64, f32);
const B0: Scale = (1.0, 1.0, 0.2);
const B1: Scale = (1.0, 1.1, 0.2);
const B2: Scale = (1.1, 1.2, 0.3);
const B3: Scale = (1.2, 1.4, 0.3);
const B4: Scale = (1.4, 1.8, 0.4);

/// What torchvision and TensorFlow do differently: padding, and epsilon and momentum of norms.
#[derive(Clone, Copy)]
struct Form {
    symmetric: bool,
    norm: (f32, f32),
}
const TORCH: Form = Form { symmetric: true, norm: (1e-5, 0.1) };
const TF: Form = Form { symmetric: false, norm: (1e-3, 0.01) };

impl Form {
    fn conv_norm(self, b: &mut Builder, name: &str, conv: Conv, act: Act) {
        let conv = if self.symmetric { conv.clone().pad([conv.window.h / 2; 2]) } else { conv };
        conv_norm(b, name, conv, act, self.norm);
    }
}

/// `(expansion, window, stride, channels, repeats)`.
const TABLE: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
];

fn build(
    name: &str,
    input: Shape,
    classes: usize,
    (width, depth, dropout): Scale,
    form: Form,
) -> Result<Network> {
    let wide = |channels: usize| divisible(channels as f64 * width);
    let deep = |repeats: usize| (repeats as f64 * depth).ceil() as usize;
    let mut b = Builder::new(name, input);
    form.conv_norm(&mut b, "features.0", Conv::new(wide(32), 3).stride(2), Act::Silu);
    let blocks: usize = TABLE.iter().map(|row| deep(row.4)).sum();
    let (mut channels, mut at) = (wide(32), 0);
    for (stage, (expansion, window, first, filters, repeats)) in (1..).zip(TABLE) {
        for i in 0..deep(repeats) {
            let block = Block {
                name: format!("features.{stage}.{i}"),
                expanded: expansion * channels,
                window,
                stride: if i == 0 { first } else { 1 },
                filters: wide(filters),
                // The deeper the block, the more often it is left out.
                dropped: 0.2 * at as f32 / blocks as f32,
            };
            block.add(&mut b, channels, form);
            (channels, at) = (wide(filters), at + 1);
        }
    }
    form.conv_norm(&mut b, "features.8", Conv::new(4 * channels, 1), Act::Silu);
    b.layer(GlobalMeanPool {}).layer(Dropout { rate: dropout });
    let from = b.here();
    b.named("classifier.1", Dense::new(classes), &[from]).build()
}

/// 1×1 to the expanded channels, depthwise, squeeze and excitation, 1×1 down.
struct Block {
    name: String,
    expanded: usize,
    window: usize,
    stride: usize,
    filters: usize,
    dropped: f32,
}

impl Block {
    fn add(&self, b: &mut Builder, channels: usize, form: Form) {
        let (at, input, mut part) = (&self.name, b.here(), 0);
        if self.expanded != channels {
            form.conv_norm(b, &format!("{at}.block.0"), Conv::new(self.expanded, 1), Act::Silu);
            part = 1;
        }
        let depthwise = Conv::depthwise(self.window).stride(self.stride);
        form.conv_norm(b, &format!("{at}.block.{part}"), depthwise, Act::Silu);
        let sizes = [(channels / 4).max(1), self.expanded];
        squeeze_excite(b, &format!("{at}.block.{}", part + 1), sizes, Act::Silu, Sigmoid {});
        let down = Conv::new(self.filters, 1);
        form.conv_norm(b, &format!("{at}.block.{}", part + 2), down, Act::None);
        if self.stride == 1 && channels == self.filters {
            if self.dropped > 0.0 {
                let end = b.here();
                let drop = StochasticDepth { rate: self.dropped };
                b.named(&format!("{at}.stochastic_depth"), drop, &[end]);
            }
            let end = b.here();
            b.named(&format!("{at}.add"), Add {}, &[input, end]);
        }
    }
}
