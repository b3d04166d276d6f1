//! Inception v2, also BN-Inception (Ioffe and Szegedy 2015, figure 5): the Inception of GoogLeNet with batch norm,
//! two 3×3 in the place of 5×5, and mean pooling within most modules. Padding is TensorFlow's, as at its authors'.

use crate::entry::{Entry, Paper};
use crate::inception::conv;
use convoke_engine::layers::{Concat, Conv, Dense, Dropout, MaxPool, MeanPool};
use convoke_engine::{Builder, Network, NodeId, Padding, Result, Shape};

const PAPER: Paper = Paper {
    year: 2015,
    title: "Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
};

pub(crate) const ENTRIES: &[Entry] =
    &[PAPER.network("inception-v2", "where batch norm comes from: GoogLeNet with it (BN-Inception)", build)];

/// What the pooled branch does: mean or maximum, then 1×1 to so many channels; or the module halves the map and the
/// maximum is passed through.
enum Pool {
    Mean(usize),
    Max(usize),
    Pass,
}
use Pool::{Max, Mean, Pass};

/// Name, 1×1, 1×1 before 3×3, 1×1 before two 3×3, pooling.
type Module = (&'static str, usize, [usize; 2], [usize; 2], Pool);

const MODULES: [Module; 10] = [
    ("inception3a", 64, [64, 64], [64, 96], Mean(32)),
    ("inception3b", 64, [64, 96], [64, 96], Mean(64)),
    ("inception3c", 0, [128, 160], [64, 96], Pass),
    ("inception4a", 224, [64, 96], [96, 128], Mean(128)),
    ("inception4b", 192, [96, 128], [96, 128], Mean(128)),
    ("inception4c", 160, [128, 160], [128, 160], Mean(96)),
    ("inception4d", 96, [128, 192], [160, 192], Mean(96)),
    ("inception4e", 0, [128, 192], [192, 256], Pass),
    ("inception5a", 352, [192, 320], [160, 224], Mean(128)),
    ("inception5b", 352, [192, 320], [192, 224], Max(128)),
];

fn build(name: &str, input: Shape, classes: usize) -> Result<Network> {
    let mut b = Builder::new(name, input);
    let halve = || MaxPool::new(3).stride(2).padding(Padding::Same);
    conv(&mut b, "conv1", Conv::new(64, 7).stride(2));
    b.layer(halve());
    conv(&mut b, "conv2", Conv::new(64, 1));
    conv(&mut b, "conv3", Conv::new(192, 3));
    b.layer(halve());
    for row in MODULES {
        module(&mut b, row);
    }
    b.global_mean_pool().layer(Dropout { rate: 0.2 }).then("fc", Dense::new(classes)).build()
}

fn module(b: &mut Builder, (name, one, three, double, pool): Module) {
    b.scope(name);
    let (from, stride) = (b.here(), if matches!(pool, Pass) { 2 } else { 1 });
    let mut ends = Vec::new();
    if one > 0 {
        ends.push(conv(b, "branch1", Conv::new(one, 1)));
    }
    let [narrow, wide] = three;
    b.at(from);
    conv(b, "branch2.0", Conv::new(narrow, 1));
    ends.push(conv(b, "branch2.1", Conv::new(wide, 3).stride(stride)));
    let [narrow, wide] = double;
    b.at(from);
    conv(b, "branch3.0", Conv::new(narrow, 1));
    conv(b, "branch3.1", Conv::new(wide, 3));
    ends.push(conv(b, "branch3.2", Conv::new(wide, 3).stride(stride)));
    ends.push(pooled(b.at(from), pool));
    b.named("cat", Concat {}, &ends).scope("");
}

fn pooled(b: &mut Builder, pool: Pool) -> NodeId {
    let max = |stride: usize| MaxPool::new(3).stride(stride).padding(Padding::Same);
    let filters = match pool {
        Pass => return b.then("branch4.0", max(2)).here(),
        Max(filters) => {
            b.then("branch4.0", max(1));
            filters
        }
        Mean(filters) => {
            b.then("branch4.0", MeanPool::new(3).stride(1).padding(Padding::Same));
            filters
        }
    };
    conv(b, "branch4.1", Conv::new(filters, 1))
}
