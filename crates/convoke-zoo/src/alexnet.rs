//! AlexNet in its one-tower form (Krizhevsky 2014), as torchvision has it.
//!
//! torchvision brings the last map to 6×6 by adaptive pooling, which changes nothing at 224×224.
//! At other sizes the dense layer simply takes the map that there is.

use convoke_engine::layers::{Conv, Dense, MaxPool, Relu, WeightInit};
use convoke_engine::{Builder, Network, Result, Shape};

pub(crate) fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    // (name, filters, window, stride, padding, pooled)
    for (at, filters, window, stride, pad, pooled) in [
        (0, 64, 11, 4, 2, true),
        (3, 192, 5, 1, 2, true),
        (6, 384, 3, 1, 1, false),
        (8, 256, 3, 1, 1, false),
        (10, 256, 3, 1, 1, true),
    ] {
        let conv = Conv::new(filters, window).stride(stride).pad(pad);
        let from = b.here();
        b.named(&format!("features.{at}"), conv, &[from]).layer(Relu::default());
        if pooled {
            b.layer(MaxPool::new(3).stride(2));
        }
    }
    b.flatten();
    for at in [1, 4] {
        b.dropout(0.5);
        let from = b.here();
        let dense = Dense::new(4096).init(WeightInit::He);
        b.named(&format!("classifier.{at}"), dense, &[from]).layer(Relu::default());
    }
    let from = b.here();
    b.named("classifier.6", Dense::new(classes), &[from]).build()
}
