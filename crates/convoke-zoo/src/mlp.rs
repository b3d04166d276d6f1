//! A multilayer perceptron: what there was before convolutions, kept to compare with.

use crate::entry::{Entry, GREY, Paper};
use convoke_engine::layers::{Dense, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper = Paper {
    year: 1986,
    title: "Rumelhart et al., Learning Representations by Back-propagating Errors",
};

pub(crate) const ENTRIES: &[Entry] =
    &[PAPER.network("mlp", "fully connected baseline: two hidden layers of 256", build).input(GREY).classes(10)];

/// Two hidden layers of 256: about as many parameters as a small convolutional network has, and the
/// size at which more units bring little on 28×28 digits.
fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    b.flatten();
    for _ in 0..2 {
        b.layer(Dense::new(256).init(WeightInit::He)).relu();
    }
    b.dense(classes).build()
}
