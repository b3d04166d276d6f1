//! What a family's weights are called elsewhere, and how its pictures are prepared. Networks of the
//! zoo are named as torchvision names them; where others name the same layers differently, a short
//! table here says so.

use convoke_data::{Filter, Preprocess};
use convoke_engine::Shape;

/// What is known about the weights of a family of networks.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Names of networks; a `*` at the end stands for anything.
    networks: &'static [&'static str],
    /// Other forms of the names.
    pub(crate) forms: &'static [Form],
    recipe: Recipe,
}

/// One way to name a family's layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// Theirs and ours. A `#` is a number and comes again on the other side.
    pub names: Names,
    /// How these weights want their pictures, when not as the family does.
    pub recipe: Option<Recipe>,
    /// Side of their input in pixels; 0 for the family's.
    pub side: usize,
    /// A convolution of ours that has other padding there.
    pub padding: Option<(&'static str, usize)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Names {
    Table(&'static [(&'static str, &'static str)]),
    /// For numbers that are counted differently.
    Made(fn() -> Vec<(String, String)>),
}

/// How a picture becomes an input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Recipe {
    /// Short side for each 224 pixels of the input; 0 takes the picture as it is.
    resize: usize,
    filter: Filter,
    bgr: bool,
    mean: [f32; 3],
    std: [f32; 3],
}

/// torchvision's: 224 of 256, mean and deviation of ImageNet.
const IMAGENET: Recipe = Recipe {
    resize: 256,
    filter: Filter::Bilinear,
    bgr: false,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};
const WHOLE: Recipe = Recipe { resize: 0, ..IMAGENET };
/// Caffe's: blue first, means taken off, not divided; the input at 227 of 256.
const CAFFE: Recipe = Recipe {
    resize: 253,
    filter: Filter::Bilinear,
    bgr: true,
    mean: [104.0 / 255.0, 117.0 / 255.0, 123.0 / 255.0],
    std: [1.0 / 255.0; 3],
};
/// TensorFlow's slim networks: from -1 to 1.
const SLIM: Recipe = Recipe { mean: [0.5; 3], std: [0.5; 3], ..IMAGENET };

/// Everything that is not named as in torchvision, or not prepared so.
const FAMILIES: &[Family] = &[
    Family {
        networks: &["lenet5"],
        forms: &[Form {
            names: Names::Table(&[
                ("fc#", "dense#"),
                ("features.0", "conv1"),
                ("features.3", "conv2"),
            ]),
            recipe: None,
            side: 0,
            padding: None,
        }],
        recipe: Recipe { resize: 0, mean: [0.0; 3], std: [1.0; 3], ..IMAGENET },
    },
    Family {
        // akamaster/pytorch_resnet_cifar10 and those that call the last layer `fc`.
        networks: &["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"],
        forms: &[Form {
            names: Names::Table(&[("fc", "linear")]),
            recipe: None,
            side: 0,
            padding: None,
        }],
        recipe: WHOLE,
    },
    Family {
        networks: &["mobilenet-v2*"],
        forms: &[
            Form { names: Names::Made(mobilenet_v2_timm), recipe: None, side: 0, padding: None },
            Form { names: Names::Made(mobilenet_v2_plain), recipe: None, side: 0, padding: None },
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
            padding: Some(("classifier.1", 1)),
        }],
        recipe: IMAGENET,
    },
    Family {
        networks: &["mobilenet-v1*"],
        forms: &[Form {
            names: Names::Made(mobilenet_v1_slim),
            recipe: Some(SLIM),
            side: 0,
            padding: None,
        }],
        recipe: SLIM,
    },
    Family {
        networks: &["xception"],
        forms: &[],
        recipe: Recipe { resize: 249, filter: Filter::Bicubic, ..SLIM },
    },
    Family {
        networks: &["efficientnet-*"],
        forms: &[],
        recipe: Recipe { resize: 256, filter: Filter::Bicubic, ..IMAGENET },
    },
];

/// Krizhevsky 2009, in the order of its labels.
const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const OTHER: Family = Family { networks: &["*"], forms: &[], recipe: IMAGENET };

/// What is known about a network of that name; torchvision's ways where nothing else is.
pub fn family(network: &str) -> Family {
    let fits = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => network.starts_with(start),
        None => network == *pattern,
    };
    FAMILIES.iter().find(|f| f.networks.iter().any(fits)).copied().unwrap_or(OTHER)
}

impl Family {
    /// Names of the classes where all known weights of the family are for the same ones.
    pub fn class_names(&self, count: usize) -> Option<Vec<String>> {
        let cifar = self.networks.contains(&"resnet20") && count == CIFAR10.len();
        cifar.then(|| CIFAR10.map(String::from).to_vec())
    }

    /// How pictures become an input of that shape.
    pub fn preprocess(&self, input: Shape) -> Preprocess {
        self.recipe.preprocess(input)
    }
}

impl Recipe {
    pub(crate) fn preprocess(&self, input: Shape) -> Preprocess {
        let plain = Preprocess::plain(input.h, input.w, input.c);
        // Inputs of CIFAR's size are whole pictures, whatever the network.
        let whole = self.resize == 0 || input.h.max(input.w) <= 64;
        let side = if whole { 0 } else { (input.h.max(input.w) * self.resize + 112) / 224 };
        let (mean, std) = match input.c {
            3 => (self.mean.to_vec(), self.std.to_vec()),
            _ => (plain.mean.clone(), plain.std.clone()),
        };
        let bgr = self.bgr && input.c == 3;
        Preprocess { short_side: side, filter: self.filter, bgr, mean, std, ..plain }
    }
}

/// A table of names, made once.
pub(crate) struct Lines(Vec<(String, String)>);

impl Names {
    pub fn lines(&self) -> Lines {
        Lines(match self {
            Names::Table(t) => owned(t),
            Names::Made(of) => of(),
        })
    }
}

impl Lines {
    /// Our name for theirs; theirs where no line of the table fits.
    pub fn ours(&self, theirs: &str) -> String {
        let renamed = self.0.iter().find_map(|(from, to)| rename(from, to, theirs));
        renamed.unwrap_or_else(|| theirs.to_string())
    }
}

/// `name` with its first segments changed, if they are those of the pattern.
fn rename(from: &str, to: &str, name: &str) -> Option<String> {
    let (mut rest, mut numbers) = (name, Vec::new());
    for c in from.chars() {
        if c != '#' {
            rest = rest.strip_prefix(c)?;
            continue;
        }
        let n = rest.bytes().take_while(u8::is_ascii_digit).count();
        if n == 0 {
            return None;
        }
        numbers.push(&rest[..n]);
        rest = &rest[n..];
    }
    if !(rest.is_empty() || rest.starts_with('.')) {
        return None;
    }
    let mut numbers = numbers.into_iter();
    let mut renamed = String::new();
    for c in to.chars() {
        match c {
            '#' => renamed += numbers.next()?,
            c => renamed.push(c),
        }
    }
    Some(renamed + rest)
}

/// Blocks of each stage of MobileNetV2 (its paper's table 2).
const STAGES: [usize; 7] = [1, 2, 3, 4, 3, 3, 1];

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_changed_by_whole_segments() {
        assert_eq!(rename("fc#", "dense#", "fc12.weight").as_deref(), Some("dense12.weight"));
        assert_eq!(rename("fc#", "dense#", "fc.weight"), None);
        assert_eq!(rename("fc", "linear", "fcn.weight"), None);
        assert_eq!(rename("a.#.b.#", "x#.#", "a.1.b.22.c").as_deref(), Some("x1.22.c"));
    }

    #[test]
    fn sizes_are_torchvisions() {
        let at = |name: &str, side| family(name).preprocess(Shape::new(side, side, 3)).short_side;
        assert_eq!(at("resnet18", 224), 256);
        assert_eq!(at("inception-v3", 299), 342);
        assert_eq!(at("resnet20", 32), 0);
        assert_eq!(at("resnet18", 32), 0);
        assert_eq!(CAFFE.preprocess(Shape::new(227, 227, 3)).short_side, 256);
    }
}
