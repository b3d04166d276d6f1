//! GoogLeNet (Szegedy et al. 2015, table 1) in torchvision's form, with batch norm and 3×3 in the place of 5×5,
//! and Inception v3 (Szegedy et al. 2016, table 1). Layers are named as in torchvision. In training, auxiliary heads
//! classify the maps halfway, so that the gradient reaches the first layers.
//!
//! A module looks at the same maps through windows of several sizes and puts what it sees side by side.

use crate::entry::{Entry, Paper};
use convoke_engine::layers::{
    AdaptiveMeanPool, BatchNorm, Concat, Conv, Dense, Dropout, Flatten, GlobalMeanPool, MaxPool, MeanPool, Relu,
    WeightInit,
};
use convoke_engine::{Builder, Network, NodeId, Padding, Result, Shape};

const V1: Paper = Paper { year: 2014, title: "Szegedy et al., Going Deeper with Convolutions" };
const V3: Paper = Paper {
    year: 2015,
    title: "Szegedy et al., Rethinking the Inception Architecture for Computer Vision",
};

pub(crate) const ENTRIES: &[Entry] = &[
    V1.network(
        "googlenet",
        "the winner of ImageNet 2014: windows of several sizes side by side (with batch norm)",
        |n, i, c| googlenet(n, i, c, false),
    )
    .heads(|n, i, c| googlenet(n, i, c, true))
    .challenge(6.67),
    V3.network("inception-v3", "large windows taken apart into 1x7 and 7x1", |n, i, c| {
        v3(n, i, c, false)
    })
    .heads(|n, i, c| v3(n, i, c, true))
    .side(299),
];

/// 1×1; 1×1 before 3×3; 1×1 before the second 3×3; 1×1 after pooling. `None` is a pooling between modules.
type Module = Option<(&'static str, usize, [usize; 2], [usize; 2], usize)>;

const GOOGLENET: [Module; 11] = [
    Some(("inception3a", 64, [96, 128], [16, 32], 32)),
    Some(("inception3b", 128, [128, 192], [32, 96], 64)),
    None,
    Some(("inception4a", 192, [96, 208], [16, 48], 64)),
    Some(("inception4b", 160, [112, 224], [24, 64], 64)),
    Some(("inception4c", 128, [128, 256], [24, 64], 64)),
    Some(("inception4d", 112, [144, 288], [32, 64], 64)),
    Some(("inception4e", 256, [160, 320], [32, 128], 128)),
    None,
    Some(("inception5a", 256, [160, 320], [32, 128], 128)),
    Some(("inception5b", 384, [192, 384], [48, 128], 128)),
];

fn googlenet(name: &str, input: Shape, classes: usize, heads: bool) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "conv1", Conv::new(64, 7).stride(2).pad(3));
    halve(&mut b, 3);
    conv(&mut b, "conv2", Conv::new(64, 1));
    conv(&mut b, "conv3", Conv::new(192, 3).pad(1));
    halve(&mut b, 3);
    for (i, module) in GOOGLENET.into_iter().enumerate() {
        let Some((at, one, three, five, pooled)) = module else {
            halve(&mut b, if i < 3 { 3 } else { 2 });
            continue;
        };
        b.scope(at);
        let from = b.here();
        let mut ends = vec![conv(&mut b, "branch1", Conv::new(one, 1))];
        for (branch, [narrow, wide]) in [("branch2", three), ("branch3", five)] {
            b.at(from);
            conv(&mut b, &format!("{branch}.0"), Conv::new(narrow, 1));
            ends.push(conv(&mut b, &format!("{branch}.1"), Conv::new(wide, 3).pad(1)));
        }
        let pool = MaxPool::new(3).stride(1).padding(Padding::symmetric(1));
        b.named("branch4.0", pool, &[from]);
        ends.push(conv(&mut b, "branch4.1", Conv::new(pooled, 1)));
        b.named("cat", Concat {}, &ends).scope("");
        match at {
            "inception4a" if heads => auxiliary(&mut b, "aux1", classes),
            "inception4d" if heads => auxiliary(&mut b, "aux2", classes),
            _ => {}
        }
    }
    head(&mut b, 0.2, classes)
}

/// Mean to 4×4, 1×1, two dense layers; its loss counts 0.3 (the paper's section 5).
fn auxiliary(b: &mut Builder, name: &str, classes: usize) {
    let from = b.here();
    b.scope(name).then("pool", AdaptiveMeanPool { size: 4.into() });
    conv(b, "conv", Conv::new(128, 1));
    b.then("flatten", Flatten {}).then("fc1", Dense::new(1024).init(WeightInit::He));
    b.then("relu", Relu::default()).then("dropout", Dropout { rate: 0.7 });
    b.then("fc2", Dense::new(classes)).head(0.3).scope("").at(from);
}

/// Max pooling that keeps the last window.
fn halve(b: &mut Builder, window: usize) {
    b.layer(MaxPool::new(window).stride(2).padding(Padding::Ceil));
}

fn head(b: &mut Builder, dropout: f32, classes: usize) -> Result<Network> {
    b.global_mean_pool().layer(Dropout { rate: dropout });
    let from = b.here();
    b.named("fc", Dense::new(classes), &[from]).build()
}

/// Convolution `.conv`, norm `.bn` and ReLU `.relu`.
pub(crate) fn conv(b: &mut Builder, name: &str, conv: Conv) -> NodeId {
    let from = b.here();
    b.named(&format!("{name}.conv"), conv.no_bias().init(WeightInit::He), &[from]);
    let from = b.here();
    let norm = BatchNorm { epsilon: 1e-3, ..BatchNorm::default() };
    b.named(&format!("{name}.bn"), norm, &[from]);
    let from = b.here();
    b.named(&format!("{name}.relu"), Relu::default(), &[from]).here()
}

fn v3(name: &str, input: Shape, classes: usize, heads: bool) -> Result<Network> {
    let mut b = Builder::new(name, input);
    conv(&mut b, "Conv2d_1a_3x3", Conv::new(32, 3).stride(2).valid());
    conv(&mut b, "Conv2d_2a_3x3", Conv::new(32, 3).valid());
    conv(&mut b, "Conv2d_2b_3x3", Conv::new(64, 3).pad(1));
    b.max_pool(3, 2);
    conv(&mut b, "Conv2d_3b_1x1", Conv::new(80, 1));
    conv(&mut b, "Conv2d_4a_3x3", Conv::new(192, 3).valid());
    b.max_pool(3, 2);
    for (name, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        module(&mut b, name, |b, from| module_a(b, from, pooled));
    }
    module(&mut b, "Mixed_6a", module_b);
    for (name, c) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        module(&mut b, name, |b, from| module_c(b, from, c));
    }
    if heads {
        auxiliary_v3(&mut b, classes);
    }
    module(&mut b, "Mixed_7a", module_d);
    for name in ["Mixed_7b", "Mixed_7c"] {
        module(&mut b, name, module_e);
    }
    head(&mut b, 0.5, classes)
}

/// Mean of 5×5, 1×1, 5×5, dense; its loss counts 0.4, as in TensorFlow's models.
fn auxiliary_v3(b: &mut Builder, classes: usize) {
    let from = b.here();
    b.scope("AuxLogits").then("pool", MeanPool::new(5).stride(3));
    conv(b, "conv0", Conv::new(128, 1));
    conv(b, "conv1", Conv::new(768, 5).valid());
    b.then("mean", GlobalMeanPool {}).then("fc", Dense::new(classes)).head(0.4);
    b.scope("").at(from);
}

/// Branches of a module, side by side.
fn module(b: &mut Builder, name: &str, branches: impl Fn(&mut Builder, NodeId) -> Vec<NodeId>) {
    b.scope(name);
    let from = b.here();
    let ends = branches(b, from);
    b.named("cat", Concat {}, &ends).scope("");
}

/// Convolutions in a row: `(name, filters, window)`, padded to keep the size.
fn row(b: &mut Builder, from: NodeId, convs: &[(&str, usize, [usize; 2])]) -> NodeId {
    b.at(from);
    for &(name, filters, [h, w]) in convs {
        conv(b, name, Conv::new(filters, [h, w]).pad([h / 2, w / 2]));
    }
    b.here()
}

/// 3×3 of stride 2 at the cursor.
fn strided(b: &mut Builder, name: &str, filters: usize) -> NodeId {
    conv(b, name, Conv::new(filters, 3).stride(2).valid())
}

/// Mean of 3×3, zeros counted, and 1×1.
fn pooled(b: &mut Builder, from: NodeId, filters: usize) -> NodeId {
    let mean = MeanPool::new(3).stride(1).padding(Padding::symmetric(1)).count_padding();
    b.named("pool", mean, &[from]);
    conv(b, "branch_pool", Conv::new(filters, 1))
}

fn max_pooled(b: &mut Builder, from: NodeId) -> NodeId {
    b.named("pool", MaxPool::new(3).stride(2), &[from]).here()
}

/// 1×1; 5×5; two 3×3; pooling.
fn module_a(b: &mut Builder, from: NodeId, filters: usize) -> Vec<NodeId> {
    let double = [
        ("branch3x3dbl_1", 64, [1, 1]),
        ("branch3x3dbl_2", 96, [3, 3]),
        ("branch3x3dbl_3", 96, [3, 3]),
    ];
    vec![
        row(b, from, &[("branch1x1", 64, [1, 1])]),
        row(b, from, &[("branch5x5_1", 48, [1, 1]), ("branch5x5_2", 64, [5, 5])]),
        row(b, from, &double),
        pooled(b, from, filters),
    ]
}

/// The map halved by 3×3, by two 3×3, by pooling.
fn module_b(b: &mut Builder, from: NodeId) -> Vec<NodeId> {
    b.at(from);
    let three = strided(b, "branch3x3", 384);
    row(b, from, &[("branch3x3dbl_1", 64, [1, 1]), ("branch3x3dbl_2", 96, [3, 3])]);
    vec![three, strided(b, "branch3x3dbl_3", 96), max_pooled(b, from)]
}

/// 1×1; 7×7 as 1×7 and 7×1, once and twice; pooling.
fn module_c(b: &mut Builder, from: NodeId, c: usize) -> Vec<NodeId> {
    let once =
        [("branch7x7_1", c, [1, 1]), ("branch7x7_2", c, [1, 7]), ("branch7x7_3", 192, [7, 1])];
    let twice = [
        ("branch7x7dbl_1", c, [1, 1]),
        ("branch7x7dbl_2", c, [7, 1]),
        ("branch7x7dbl_3", c, [1, 7]),
        ("branch7x7dbl_4", c, [7, 1]),
        ("branch7x7dbl_5", 192, [1, 7]),
    ];
    vec![
        row(b, from, &[("branch1x1", 192, [1, 1])]),
        row(b, from, &once),
        row(b, from, &twice),
        pooled(b, from, 192),
    ]
}

/// The map halved by 3×3, by 7×7 and 3×3, by pooling.
fn module_d(b: &mut Builder, from: NodeId) -> Vec<NodeId> {
    row(b, from, &[("branch3x3_1", 192, [1, 1])]);
    let three = strided(b, "branch3x3_2", 320);
    let seven = [
        ("branch7x7x3_1", 192, [1, 1]),
        ("branch7x7x3_2", 192, [1, 7]),
        ("branch7x7x3_3", 192, [7, 1]),
    ];
    row(b, from, &seven);
    vec![three, strided(b, "branch7x7x3_4", 192), max_pooled(b, from)]
}

/// 1×1; 1×3 beside 3×1, after 1×1 and after 3×3; pooling.
fn module_e(b: &mut Builder, from: NodeId) -> Vec<NodeId> {
    let mut ends = vec![row(b, from, &[("branch1x1", 320, [1, 1])])];
    let narrow = row(b, from, &[("branch3x3_1", 384, [1, 1])]);
    let wide = row(b, from, &[("branch3x3dbl_1", 448, [1, 1]), ("branch3x3dbl_2", 384, [3, 3])]);
    for (from, [across, down]) in
        [(narrow, ["branch3x3_2a", "branch3x3_2b"]), (wide, ["branch3x3dbl_3a", "branch3x3dbl_3b"])]
    {
        ends.push(row(b, from, &[(across, 384, [1, 3])]));
        ends.push(row(b, from, &[(down, 384, [3, 1])]));
    }
    ends.push(pooled(b, from, 192));
    ends
}
