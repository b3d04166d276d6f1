//! LeNet-5 (LeCun et al. 1998, figure 2) in the form taught today.
//!
//! | layer | 1998 | here |
//! |---|---|---|
//! | C1 | 6 @ 5×5 on 32×32 | the same, on 28×28 with padding |
//! | S2, S4 | trained mean pooling | max pooling 2×2 |
//! | C3 | 16 @ 5×5, partly connected | fully connected |
//! | C5, F6 | 120, 84, scaled tanh | the same, ReLU |
//! | output | radial basis functions | dense |

use crate::entry::{Entry, GREY, Paper};
use convoke_engine::layers::{Conv, Dense, Tanh, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

const PAPER: Paper = Paper {
    year: 1998,
    title: "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
};

pub(crate) const ENTRIES: &[Entry] = &[
    PAPER
        .network("lenet5-1998", "as it was: tanh and mean pooling, on 32x32", lenet5_1998)
        .input(Shape::new(32, 32, 1))
        .classes(10),
    PAPER
        .network("lenet5", "two convolutions, two poolings, three dense layers; for digits", lenet5)
        .input(GREY)
        .classes(10),
];

fn lenet5(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    b.conv(Conv::new(6, 5)).relu().max_pool(2, 2);
    b.conv(Conv::new(16, 5).valid()).relu().max_pool(2, 2);
    b.flatten();
    for units in [120, 84] {
        b.layer(Dense::new(units).init(WeightInit::He)).relu();
    }
    b.dense(classes).build()
}

/// The form of 1998: tanh and mean pooling on 32×32. Its sub-sampling had a weight and a bias per map, its
/// third layer saw some of the maps only, and its output units were radial basis functions; here they
/// are a plain mean, all maps, and a dense layer, so that the parameters are those of `lenet5`.
fn lenet5_1998(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let glorot = |filters| Conv::new(filters, 5).valid().init(WeightInit::Glorot);
    b.conv(glorot(6)).layer(Tanh {}).mean_pool(2, 2);
    b.conv(glorot(16)).layer(Tanh {}).mean_pool(2, 2);
    b.flatten();
    for units in [120, 84] {
        b.layer(Dense::new(units)).layer(Tanh {});
    }
    b.dense(classes).build()
}
