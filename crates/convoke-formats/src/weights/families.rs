//! What is known of the weights of each family: what others call its layers, where their network differs, and how
//! its pictures are prepared. Networks of the zoo are named as torchvision names them, or as timm where torchvision has
//! none; where others name the same layers differently, a short table here says so.

use super::names::{Change, Family, Form, Names, Recipe, owned};
use convoke_data::Filter;

/// torchvision's: 224 of 256, mean and deviation of ImageNet.
const IMAGENET: Recipe = Recipe {
    resize: (256, 224),
    filter: Filter::Bilinear,
    bgr: false,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};
const BICUBIC: Recipe = Recipe { filter: Filter::Bicubic, ..IMAGENET };
const WHOLE: Recipe = Recipe { resize: (0, 1), ..IMAGENET };
/// Caffe's: blue first, means taken off, not divided; the input at 227 of 256.
pub(super) const CAFFE: Recipe = Recipe {
    resize: (256, 227),
    filter: Filter::Bilinear,
    bgr: true,
    mean: [104.0 / 255.0, 117.0 / 255.0, 123.0 / 255.0],
    std: [1.0 / 255.0; 3],
};
/// TensorFlow's slim networks: from -1 to 1. torchvision's Inceptions come from there, too: their weights are used with
/// `transform_input`, which turns what ImageNet's mean and deviation made into this.
const SLIM: Recipe = Recipe { mean: [0.5; 3], std: [0.5; 3], ..IMAGENET };

const fn bicubic(short: usize, side: usize) -> Recipe {
    Recipe { resize: (short, side), ..BICUBIC }
}

const fn named(names: &'static [(&'static str, &'static str)]) -> Form {
    Form { names: Names::Table(names), ..Form::PLAIN }
}

const fn made(names: fn() -> Vec<(String, String)>) -> Form {
    Form { names: Names::Made(names), ..Form::PLAIN }
}

/// Everything that is not named as in torchvision, or not prepared so.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        networks: &["lenet5"],
        forms: &[named(&[("fc#", "dense#"), ("features.0", "conv1"), ("features.3", "conv2")])],
        recipe: Recipe { mean: [0.0; 3], std: [1.0; 3], ..WHOLE },
    },
    Family {
        networks: &["vgg*"],
        // timm's.
        forms: &[named(&[
            ("pre_logits.fc1", "classifier.0"),
            ("pre_logits.fc2", "classifier.3"),
            ("head.fc", "classifier.6"),
        ])],
        recipe: IMAGENET,
    },
    Family {
        // akamaster/pytorch_resnet_cifar10 and those that call the last layer `fc`.
        networks: &["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"],
        forms: &[named(&[("fc", "linear")])],
        recipe: WHOLE,
    },
    Family { networks: &["wrn-28-10"], forms: &[], recipe: WHOLE },
    Family { networks: &["googlenet"], forms: &[], recipe: SLIM },
    Family {
        networks: &["inception-v3"],
        forms: &[],
        recipe: Recipe { resize: (342, 299), ..SLIM },
    },
    Family {
        networks: &["inception-resnet-v2", "xception"],
        forms: &[],
        recipe: Recipe { resize: (333, 299), filter: Filter::Bicubic, ..SLIM },
    },
    Family {
        networks: &["resnetv2-*"],
        forms: &[],
        recipe: Recipe { resize: (235, 224), filter: Filter::Bicubic, ..SLIM },
    },
    Family {
        networks: &["densenet*"],
        // torchvision's own files, which it renames as it loads them.
        forms: &[named(&[
            ("features.denseblock#.denselayer#.norm.#", "features.denseblock#.denselayer#.norm#"),
            ("features.denseblock#.denselayer#.conv.#", "features.denseblock#.denselayer#.conv#"),
        ])],
        recipe: IMAGENET,
    },
    Family { networks: &["seresnet50"], forms: &[], recipe: bicubic(235, 224) },
    Family {
        networks: &["seresnet50-v1"],
        // The authors', as timm's `legacy_seresnet50` has it.
        forms: &[named(&[
            ("layer0.conv1", "conv1"),
            ("layer0.bn1", "bn1"),
            ("layer#.#.se_module", "layer#.#.se"),
            ("last_linear", "fc"),
        ])],
        recipe: IMAGENET,
    },
    Family {
        networks: &["senet154"],
        forms: &[
            // Gluon's, as timm's `senet154` has it. First: the names of the authors' leave Gluon's as they are.
            Form {
                names: Names::Same,
                recipe: Some(BICUBIC),
                changes: &[Change::Pad("maxpool", 1)],
                ..Form::PLAIN
            },
            // The authors', as timm's `legacy_senet154` has it.
            named(&[
                ("layer0.conv1", "conv1.0"),
                ("layer0.bn1", "conv1.1"),
                ("layer0.conv2", "conv1.3"),
                ("layer0.bn2", "conv1.4"),
                ("layer0.conv3", "conv1.6"),
                ("layer0.bn3", "bn1"),
                ("layer#.#.se_module", "layer#.#.se"),
                ("last_linear", "fc"),
            ]),
        ],
        recipe: IMAGENET,
    },
    Family {
        networks: &["squeezenet1.0", "squeezenet1-0", "squeezenet-1.0", "squeezenet"],
        forms: &[Form {
            names: Names::Made(squeezenet_caffe),
            recipe: Some(CAFFE),
            side: 227,
            // The authors' last convolution sees a border of zeros.
            changes: &[Change::Pad("classifier.1", 1)],
        }],
        recipe: IMAGENET,
    },
    Family {
        networks: &["mobilenet-v1*"],
        forms: &[
            Form { names: Names::Made(mobilenet_v1_slim), recipe: Some(SLIM), ..Form::PLAIN },
            Form {
                names: Names::Made(mobilenet_v1_timm),
                recipe: Some(Recipe { filter: Filter::Bicubic, ..SLIM }),
                changes: &[Change::PadHalf],
                ..Form::PLAIN
            },
        ],
        recipe: SLIM,
    },
    Family {
        networks: &["mobilenet-v2*"],
        forms: &[
            Form { recipe: Some(BICUBIC), ..made(mobilenet_v2_timm) },
            made(mobilenet_v2_plain),
        ],
        recipe: IMAGENET,
    },
    Family {
        networks: &["mobilenet-v3-large"],
        forms: &[Form {
            recipe: Some(BICUBIC),
            changes: &[Change::Epsilon(1e-5)],
            ..made(mobilenet_v3_large_timm)
        }],
        recipe: IMAGENET,
    },
    Family {
        networks: &["mobilenet-v3-small"],
        forms: &[Form {
            recipe: Some(BICUBIC),
            changes: &[Change::Epsilon(1e-5)],
            ..made(mobilenet_v3_small_timm)
        }],
        recipe: IMAGENET,
    },
    Family { networks: &["efficientnet-b0"], forms: EFFICIENTNET, recipe: bicubic(256, 224) },
    Family { networks: &["efficientnet-b1"], forms: EFFICIENTNET, recipe: bicubic(256, 240) },
    Family { networks: &["efficientnet-b2"], forms: EFFICIENTNET, recipe: bicubic(288, 288) },
    Family { networks: &["efficientnet-b3"], forms: EFFICIENTNET, recipe: bicubic(320, 300) },
    Family { networks: &["efficientnet-b4"], forms: EFFICIENTNET, recipe: bicubic(384, 380) },
    Family { networks: &["tf-efficientnet-b0"], forms: TF_EFFICIENTNET, recipe: bicubic(256, 224) },
    Family { networks: &["tf-efficientnet-b1"], forms: TF_EFFICIENTNET, recipe: bicubic(272, 240) },
    Family { networks: &["tf-efficientnet-b2"], forms: TF_EFFICIENTNET, recipe: bicubic(292, 260) },
    Family { networks: &["tf-efficientnet-b3"], forms: TF_EFFICIENTNET, recipe: bicubic(331, 300) },
    Family { networks: &["tf-efficientnet-b4"], forms: TF_EFFICIENTNET, recipe: bicubic(412, 380) },
    Family { networks: &["repvgg-a0"], forms: &[made(repvgg_authors)], recipe: IMAGENET },
    Family {
        networks: &["convnext-tiny"],
        forms: CONVNEXT,
        recipe: Recipe { resize: (236, 224), ..IMAGENET },
    },
    Family {
        networks: &["convnext-small"],
        forms: CONVNEXT,
        recipe: Recipe { resize: (230, 224), ..IMAGENET },
    },
];

/// Named and prepared as torchvision does it.
pub(super) const OTHER: Family = Family { networks: &["*"], forms: &[], recipe: IMAGENET };

/// timm's.
const EFFICIENTNET: &[Form] = &[Form { recipe: Some(BICUBIC), ..made(efficientnet_timm) }];
const TF_EFFICIENTNET: &[Form] = &[made(efficientnet_timm)];

const CONVNEXT: &[Form] = &[
    // torchvision's, whose scales are no layers.
    named(&[("features.#.#.layer_scale", "features.#.#.layer_scale.weight")]),
    Form { recipe: Some(BICUBIC), ..made(convnext_timm) },
    Form { recipe: Some(BICUBIC), ..made(convnext_authors) },
];

/// Blocks of each stage of MobileNetV2 (its paper's table 2).
const STAGES: [usize; 7] = [1, 2, 3, 4, 3, 3, 1];

/// timm: `blocks.STAGE.BLOCK.conv_pw`, where torchvision counts all blocks in one row.
fn mobilenet_v2_timm() -> Vec<(String, String)> {
    let mut all = owned(&[
        ("conv_stem", "features.0.0"),
        ("bn1", "features.0.1"),
        ("conv_head", "features.18.0"),
        ("bn2", "features.18.1"),
        ("classifier", "classifier.1"),
    ]);
    let mut at = 0;
    for (stage, blocks) in STAGES.into_iter().enumerate() {
        for block in 0..blocks {
            at += 1;
            // The first block has no expansion: its layers stand one earlier.
            let parts: &[(&str, &str)] = match at {
                1 => &[("conv_dw", "0.0"), ("bn1", "0.1"), ("conv_pw", "1"), ("bn2", "2")],
                _ => &[
                    ("conv_pw", "0.0"),
                    ("bn1", "0.1"),
                    ("conv_dw", "1.0"),
                    ("bn2", "1.1"),
                    ("conv_pwl", "2"),
                    ("bn3", "3"),
                ],
            };
            for (theirs, ours) in parts {
                let theirs = format!("blocks.{stage}.{block}.{theirs}");
                all.push((theirs, format!("features.{at}.conv.{ours}")));
            }
        }
    }
    all
}

/// tonylins and d-li14: one flat row of layers in each block, the last convolution called `conv`.
fn mobilenet_v2_plain() -> Vec<(String, String)> {
    let mut all = owned(&[
        ("conv.0", "features.18.0"),
        ("conv.1", "features.18.1"),
        ("classifier", "classifier.1"),
        ("features.1.conv.0", "features.1.conv.0.0"),
        ("features.1.conv.1", "features.1.conv.0.1"),
        ("features.1.conv.3", "features.1.conv.1"),
        ("features.1.conv.4", "features.1.conv.2"),
        ("features.0.0", "features.0.0"),
        ("features.0.1", "features.0.1"),
    ]);
    all.extend(owned(&[
        ("features.#.conv.0", "features.#.conv.0.0"),
        ("features.#.conv.1", "features.#.conv.0.1"),
        ("features.#.conv.3", "features.#.conv.1.0"),
        ("features.#.conv.4", "features.#.conv.1.1"),
        ("features.#.conv.6", "features.#.conv.2"),
        ("features.#.conv.7", "features.#.conv.3"),
    ]));
    all
}

/// The paper's names for its fire modules against torchvision's places.
fn squeezenet_caffe() -> Vec<(String, String)> {
    let mut all = owned(&[("conv1", "features.0"), ("conv_final", "classifier.1")]);
    for (fire, at) in (2..).zip([3, 4, 5, 7, 8, 9, 10, 12]) {
        for (theirs, ours) in
            [("conv1x1_1", "squeeze"), ("conv1x1_2", "expand1x1"), ("conv3x3_2", "expand3x3")]
        {
            all.push((format!("fire{fire}.{theirs}"), format!("features.{at}.{ours}")));
        }
    }
    all
}

/// Convolutions numbered in a row, as TensorFlow Lite's files have them.
fn mobilenet_v1_slim() -> Vec<(String, String)> {
    let mut all = owned(&[("conv_2d_0", "features.0.0"), ("conv_2d_28", "classifier")]);
    for block in 1..=13 {
        let (depthwise, pointwise) = (2 * block - 1, 2 * block);
        all.push((format!("depthwise_conv_2d_{depthwise}"), format!("features.{block}.0")));
        all.push((format!("conv_2d_{pointwise}"), format!("features.{block}.3")));
    }
    all
}

/// timm: blocks in stages.
fn mobilenet_v1_timm() -> Vec<(String, String)> {
    let mut all = owned(&[
        ("conv_stem", "features.0.0"),
        ("bn1", "features.0.1"),
        ("classifier", "classifier"),
    ]);
    let mut at = 0;
    for (stage, blocks) in [1, 2, 2, 6, 2].into_iter().enumerate() {
        for block in 0..blocks {
            at += 1;
            for (theirs, ours) in [("conv_dw", 0), ("bn1", 1), ("conv_pw", 3), ("bn2", 4)] {
                let theirs = format!("blocks.{stage}.{block}.{theirs}");
                all.push((theirs, format!("features.{at}.{ours}")));
            }
        }
    }
    all
}

/// Parts of a block as timm names them: depthwise first where nothing is expanded.
fn parts(block: &str, ours: &str, expands: bool, excites: bool) -> Vec<(String, String)> {
    let rows: &[[&str; 2]] = match expands {
        true => &[["conv_pw", "bn1"], ["conv_dw", "bn2"], ["se", ""], ["conv_pwl", "bn3"]],
        false => &[["conv_dw", "bn1"], ["se", ""], ["conv_pw", "bn2"]],
    };
    let (mut all, mut at) = (Vec::new(), 0);
    for &[conv, norm] in rows {
        match conv {
            "se" if !excites => continue,
            "se" => {
                for (theirs, fc) in [("conv_reduce", "fc1"), ("conv_expand", "fc2")] {
                    all.push((format!("{block}.se.{theirs}"), format!("{ours}.{at}.{fc}")));
                }
            }
            _ => {
                all.push((format!("{block}.{conv}"), format!("{ours}.{at}.0")));
                all.push((format!("{block}.{norm}"), format!("{ours}.{at}.1")));
            }
        }
        at += 1;
    }
    all
}

fn efficientnet_timm() -> Vec<(String, String)> {
    let mut all = owned(&[
        ("conv_stem", "features.0.0"),
        ("bn1", "features.0.1"),
        ("conv_head", "features.8.0"),
        ("bn2", "features.8.1"),
        ("classifier", "classifier.1"),
    ]);
    for stage in 0..7 {
        let (theirs, ours) =
            (format!("blocks.{stage}.#"), format!("features.{}.#.block", stage + 1));
        all.extend(parts(&theirs, &ours, stage > 0, true));
    }
    all
}

fn mobilenet_v3_large_timm() -> Vec<(String, String)> {
    let excites = |at: usize| matches!(at, 4..=6 | 11..=15);
    mobilenet_v3_timm(&[1, 2, 3, 4, 2, 3], excites)
}

fn mobilenet_v3_small_timm() -> Vec<(String, String)> {
    mobilenet_v3_timm(&[1, 2, 3, 2, 3], |at| !matches!(at, 2 | 3))
}

fn mobilenet_v3_timm(stages: &[usize], excites: impl Fn(usize) -> bool) -> Vec<(String, String)> {
    let mut all = owned(&[
        ("conv_stem", "features.0.0"),
        ("bn1", "features.0.1"),
        ("conv_head", "classifier.0"),
        ("classifier", "classifier.3"),
    ]);
    let mut at = 0;
    for (stage, &blocks) in stages.iter().enumerate() {
        for block in 0..blocks {
            at += 1;
            let (theirs, ours) =
                (format!("blocks.{stage}.{block}"), format!("features.{at}.block"));
            all.extend(parts(&theirs, &ours, at > 1, excites(at)));
        }
    }
    let (last, at) = (stages.len(), at + 1);
    all.push((format!("blocks.{last}.0.conv"), format!("features.{at}.0")));
    all.push((format!("blocks.{last}.0.bn1"), format!("features.{at}.1")));
    all
}

/// DingXiaoH/RepVGG.
fn repvgg_authors() -> Vec<(String, String)> {
    let mut all = owned(&[("linear", "head.fc")]);
    let blocks = (0..4).map(|s| (format!("stage{}.#", s + 1), format!("stages.{s}.#")));
    for (theirs, ours) in blocks.chain([("stage0".into(), "stem".into())]) {
        for (a, b) in
            [("rbr_dense", "conv_kxk"), ("rbr_1x1", "conv_1x1"), ("rbr_identity", "identity")]
        {
            // The last stage is one block that changes the size, which has no branch of its own input.
            if (&theirs[..], b) != ("stage4.#", "identity")
                && (&theirs[..], b) != ("stage0", "identity")
            {
                all.push((format!("{theirs}.{a}"), format!("{ours}.{b}")));
            }
        }
    }
    all
}

fn convnext_timm() -> Vec<(String, String)> {
    let stem = [("stem.0", "features.0.0"), ("stem.1", "features.0.1")];
    let head = [("head.norm", "classifier.0"), ("head.fc", "classifier.2")];
    let block = ["conv_dw", "norm", "mlp.fc1", "mlp.fc2"];
    convnext(&[stem, head].concat(), "stages.{}.downsample", "stages.{}.blocks.#", block)
}

/// facebookresearch/ConvNeXt.
fn convnext_authors() -> Vec<(String, String)> {
    let stem =
        [("downsample_layers.0.0", "features.0.0"), ("downsample_layers.0.1", "features.0.1")];
    let head = [("norm", "classifier.0"), ("head", "classifier.2")];
    let block = ["dwconv", "norm", "pwconv1", "pwconv2"];
    convnext(&[stem, head].concat(), "downsample_layers.{}", "stages.{}.#", block)
}

/// `{}` in their names is the number of the stage; what stands between stages has the number of the later one.
fn convnext(
    ends: &[(&str, &str)],
    between: &str,
    block: &str,
    layers: [&str; 4],
) -> Vec<(String, String)> {
    let mut all = owned(ends);
    for stage in 0..4 {
        let number = stage.to_string();
        if stage > 0 {
            let between = between.replace("{}", &number);
            all.push((between, format!("features.{}", 2 * stage)));
        }
        let (theirs, ours) =
            (block.replace("{}", &number), format!("features.{}.#", 2 * stage + 1));
        for (layer, at) in layers.into_iter().zip([0, 2, 3, 5]) {
            all.push((format!("{theirs}.{layer}"), format!("{ours}.block.{at}")));
        }
        all.push((format!("{theirs}.gamma"), format!("{ours}.layer_scale.weight")));
    }
    all
}
