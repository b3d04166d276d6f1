//! InceptionTime (Ismail Fawaz et al. 2020, figures 1 and 2): inception modules over time. The paper's classifier is
//! an ensemble of five of these networks, whose probabilities are averaged.
//!
//! | module | |
//! |---|---|
//! | bottleneck | 32 @ 1, where there is more than one channel |
//! | beside each other | 32 @ 40, 32 @ 20, 32 @ 10 of the bottleneck; max pooling 3, then 32 @ 1 of the input |
//! | behind | norm, ReLU |
//!
//! Six modules; behind each third the input of the three is added, through a 1×1 convolution with a norm. Then the
//! mean over time and a dense layer.

use crate::entry::{Entry, Paper};
use crate::signal::SIGNAL;
use convoke_engine::layers::{Add, BatchNorm, Concat, Conv, MaxPool, Relu};
use convoke_engine::{Builder, Network, Padding, Result, Shape};

const PAPER: Paper = Paper {
    year: 2020,
    title: "Ismail Fawaz et al., InceptionTime: Finding AlexNet for Time Series Classification",
};

pub(crate) const ENTRIES: &[Entry] = &[PAPER
    .network("inceptiontime", "signals: inception modules over time (the paper's is five of it)", build)
    .input(SIGNAL)
    .classes(2)];

const FILTERS: usize = 32;
const MODULES: usize = 6;

fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let mut from = b.here();
    for i in 0..MODULES {
        b.scope(&format!("module{}", i + 1));
        module(&mut b, i > 0 || input.c > 1);
        if i % 3 == 2 {
            let end = b.here();
            b.at(from).then("shortcut", Conv::signal(4 * FILTERS, 1).no_bias());
            let short = b.then("shortcut-bn", BatchNorm::default()).here();
            b.named("add", Add {}, &[end, short]).then("add-relu", Relu::default());
            from = b.here();
        }
    }
    b.scope("").global_mean_pool().dense(classes).build()
}

fn module(b: &mut Builder, bottleneck: bool) {
    let from = b.here();
    if bottleneck {
        b.then("bottleneck", Conv::signal(FILTERS, 1).no_bias());
    }
    let narrow = b.here();
    let mut parts: Vec<_> = [40, 20, 10]
        .map(|w| b.at(narrow).then(&format!("conv{w}"), Conv::signal(FILTERS, w).no_bias()).here())
        .into();
    let pool = MaxPool::new([1, 3]).stride(1).padding(Padding::Same);
    b.at(from).then("pool", pool).then("conv1", Conv::signal(FILTERS, 1).no_bias());
    parts.push(b.here());
    b.named("concat", Concat {}, &parts).then("bn", BatchNorm::default());
    b.then("relu", Relu::default());
}
