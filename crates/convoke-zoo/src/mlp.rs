//! A multilayer perceptron: what there was before convolutions, kept to compare with.

use convoke_engine::layers::{Dense, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

/// Two hidden layers of 256: about as many parameters as a small convolutional network has, and the
/// size at which more units bring little on 28×28 digits.
pub(crate) fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    b.flatten();
    for _ in 0..2 {
        b.layer(Dense::new(256).init(WeightInit::He)).relu();
    }
    b.dense(classes).build()
}
