//! MobileNetV3 (Howard et al. 2019, tables 1 and 2), large and small. Layers are named as in torchvision.
//!
//! Each block: 1×1 to the expanded channels, depthwise, squeeze and excitation where marked, 1×1 down.

use crate::entry::{Entry, Paper};
use crate::blocks::{Act, conv_norm, divisible, squeeze_excite};
use convoke_engine::layers::{
    Add, Conv, Dense, Dropout, GlobalMeanPool, HardSigmoid, HardSwish, WeightInit,
};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper = Paper { year: 2019, title: "Howard et al., Searching for MobileNetV3" };

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER.network(
        "mobilenet-v3-large",
        "searched by machine for phones: squeeze and excitation, hard swish",
        |n, i, c| build(n, i, c, &LARGE, 1280),
    ),
    PAPER.network("mobilenet-v3-small", "the smaller of the two", |n, i, c| {
        build(n, i, c, &SMALL, 1024)
    }),
];

/// `(window, expanded, channels, squeeze and excitation, hard swish, stride)`.
type Row = (usize, usize, usize, bool, bool, usize);

const LARGE: [Row; 15] = [
    (3, 16, 16, false, false, 1),
    (3, 64, 24, false, false, 2),
    (3, 72, 24, false, false, 1),
    (5, 72, 40, true, false, 2),
    (5, 120, 40, true, false, 1),
    (5, 120, 40, true, false, 1),
    (3, 240, 80, false, true, 2),
    (3, 200, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 480, 112, true, true, 1),
    (3, 672, 112, true, true, 1),
    (5, 672, 160, true, true, 2),
    (5, 960, 160, true, true, 1),
    (5, 960, 160, true, true, 1),
];

const SMALL: [Row; 11] = [
    (3, 16, 16, true, false, 2),
    (3, 72, 24, false, false, 2),
    (3, 88, 24, false, false, 1),
    (5, 96, 40, true, true, 2),
    (5, 240, 40, true, true, 1),
    (5, 240, 40, true, true, 1),
    (5, 120, 48, true, true, 1),
    (5, 144, 48, true, true, 1),
    (5, 288, 96, true, true, 2),
    (5, 576, 96, true, true, 1),
    (5, 576, 96, true, true, 1),
];

fn build(name: &str, input: Shape, classes: usize, rows: &[Row], last: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    norm(&mut b, "features.0", Conv::new(16, 3).stride(2).pad(1), Act::HardSwish);
    let mut channels = 16;
    for (at, &row) in (1..).zip(rows) {
        block(&mut b, &format!("features.{at}"), channels, row);
        channels = row.2;
    }
    let at = format!("features.{}", rows.len() + 1);
    norm(&mut b, &at, Conv::new(6 * channels, 1), Act::HardSwish);
    b.layer(GlobalMeanPool {});
    let from = b.here();
    b.named("classifier.0", Dense::new(last).init(WeightInit::He), &[from]);
    b.layer(HardSwish {}).layer(Dropout { rate: 0.2 });
    let from = b.here();
    b.named("classifier.3", Dense::new(classes), &[from]).build()
}

fn block(b: &mut Builder, at: &str, channels: usize, row: Row) {
    let (window, expanded, filters, excite, hard_swish, stride) = row;
    let act = if hard_swish { Act::HardSwish } else { Act::Relu };
    let (input, mut part) = (b.here(), 0);
    if expanded != channels {
        norm(b, &format!("{at}.block.{part}"), Conv::new(expanded, 1), act);
        part += 1;
    }
    let depthwise = Conv::depthwise(window).stride(stride).pad(window / 2);
    norm(b, &format!("{at}.block.{part}"), depthwise, act);
    part += 1;
    if excite {
        let squeezed = divisible(expanded as f64 / 4.0);
        squeeze_excite(
            b,
            &format!("{at}.block.{part}"),
            [squeezed, expanded],
            Act::Relu,
            HardSigmoid {},
        );
        part += 1;
    }
    norm(b, &format!("{at}.block.{part}"), Conv::new(filters, 1), Act::None);
    if stride == 1 && channels == filters {
        let end = b.here();
        b.named(&format!("{at}.add"), Add {}, &[input, end]);
    }
}

fn norm(b: &mut Builder, name: &str, conv: Conv, act: Act) {
    conv_norm(b, name, conv, act, (1e-3, 0.01));
}
