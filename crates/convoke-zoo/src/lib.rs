//! The famous architectures, one file per family, each reading like its paper's table.
//!
//! ```
//! use convoke_zoo::{Options, build};
//! let net = build("resnet18", &Options::default())?;
//! assert_eq!(net.parameters(), 11_689_512);
//! # Ok::<(), convoke_zoo::ZooError>(())
//! ```

mod alexnet;
mod blocks;
mod densenet;
mod efficientnet;
mod inception;
mod lenet;
mod mlp;
mod mobilenet;
mod mobilenet_v3;
mod resnet;
mod resnet_cifar;
mod resnet_v2;
mod squeezenet;
mod vgg;
mod wide_resnet;
mod xception;
mod zfnet;

use convoke_engine::{Network, Shape};

/// What can go wrong when a network is asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ZooError {
    /// No network has that name.
    #[error("no network is called `{name}`{hint}; `convoke models` lists them")]
    Unknown {
        /// What was asked for.
        name: String,
        /// `; did you mean …` or nothing.
        hint: String,
    },
    /// The network does not fit the input.
    #[error(transparent)]
    Network(#[from] convoke_engine::Error),
}

/// What may differ from the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Input size and channels; the paper's when left out.
    pub input: Option<Shape>,
    /// Number of classes; the paper's when left out.
    pub classes: Option<usize>,
}

/// A network of the zoo.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name on the command line.
    pub name: &'static str,
    /// Year of the paper.
    pub year: u16,
    /// The paper.
    pub paper: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The paper's input.
    pub input: Shape,
    /// The paper's number of classes.
    pub classes: usize,
    /// Top-5 error in percent in the year's ImageNet challenge, where it stood in one (as entered, which was
    /// with several networks and crops).
    pub challenge: Option<f32>,
    build: fn(&str, Shape, usize) -> convoke_engine::Result<Network>,
}

const GREY: Shape = Shape::new(28, 28, 1);
const CIFAR: Shape = Shape::new(32, 32, 3);
const IMAGENET: Shape = Shape::new(224, 224, 3);
const RESNET: &str = "He et al., Deep Residual Learning for Image Recognition";

const VGG: &str =
    "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition";

const EFFICIENT: &str =
    "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks";

/// Every network, oldest idea first.
pub const MODELS: &[Entry] = &[
    Entry {
        name: "mlp",
        year: 1986,
        paper: "Rumelhart et al., Learning Representations by Back-propagating Errors",
        about: "fully connected baseline: two hidden layers of 256",
        input: GREY,
        classes: 10,
        challenge: None,
        build: mlp::build,
    },
    Entry {
        name: "lenet5-1998",
        year: 1998,
        paper: "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
        about: "as it was: tanh and mean pooling, on 32x32",
        input: Shape::new(32, 32, 1),
        classes: 10,
        challenge: None,
        build: lenet::lenet5_1998,
    },
    Entry {
        name: "lenet5",
        year: 1998,
        paper: "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
        about: "two convolutions, two poolings, three dense layers; for digits",
        input: GREY,
        classes: 10,
        challenge: None,
        build: lenet::lenet5,
    },
    Entry {
        name: "alexnet-2012",
        year: 2012,
        paper: "Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks",
        about: "the winner of ImageNet 2012 as it was: two towers, local response norm",
        input: Shape::new(227, 227, 3),
        classes: 1000,
        challenge: Some(15.3),
        build: alexnet::two_towers,
    },
    Entry {
        name: "alexnet",
        year: 2012,
        paper: "Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks (2014 form)",
        about: "the network that won ImageNet 2012, in its one-tower form",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: alexnet::build,
    },
    Entry {
        name: "zfnet",
        year: 2013,
        paper: "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks",
        about: "the winner of ImageNet 2013: AlexNet with finer first layers",
        input: IMAGENET,
        classes: 1000,
        challenge: Some(11.7),
        build: zfnet::build,
    },
    Entry {
        name: "vgg11",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 11 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| vgg::build(name, input, classes, vgg::A, false),
    },
    Entry {
        name: "vgg11-bn",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 11 layers, with batch norm",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| vgg::build(name, input, classes, vgg::A, true),
    },
    Entry {
        name: "vgg13",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 13 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| vgg::build(name, input, classes, vgg::B, false),
    },
    Entry {
        name: "vgg13-bn",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 13 layers, with batch norm",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| vgg::build(name, input, classes, vgg::B, true),
    },
    Entry {
        name: "vgg16",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 16 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: Some(7.3),
        build: |name, input, classes| vgg::build(name, input, classes, vgg::D, false),
    },
    Entry {
        name: "vgg16-bn",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 16 layers, with batch norm",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| vgg::build(name, input, classes, vgg::D, true),
    },
    Entry {
        name: "vgg19",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 19 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: Some(7.3),
        build: |name, input, classes| vgg::build(name, input, classes, vgg::E, false),
    },
    Entry {
        name: "vgg19-bn",
        year: 2014,
        paper: VGG,
        about: "3x3 convolutions alone, 19 layers, with batch norm",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| vgg::build(name, input, classes, vgg::E, true),
    },
    Entry {
        name: "googlenet",
        year: 2014,
        paper: "Szegedy et al., Going Deeper with Convolutions",
        about: "the winner of ImageNet 2014: windows of several sizes side by side (with batch norm)",
        input: IMAGENET,
        classes: 1000,
        challenge: Some(6.67),
        build: inception::googlenet,
    },
    Entry {
        name: "inception-v3",
        year: 2015,
        paper: "Szegedy et al., Rethinking the Inception Architecture for Computer Vision",
        about: "large windows taken apart into 1x7 and 7x1",
        input: Shape::new(299, 299, 3),
        classes: 1000,
        challenge: None,
        build: inception::v3,
    },
    Entry {
        name: "resnet20",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 20 layers",
        input: CIFAR,
        classes: 10,
        challenge: None,
        build: |name, input, classes| resnet_cifar::build(name, 3, input, classes),
    },
    Entry {
        name: "resnet32",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 32 layers",
        input: CIFAR,
        classes: 10,
        challenge: None,
        build: |name, input, classes| resnet_cifar::build(name, 5, input, classes),
    },
    Entry {
        name: "resnet44",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 44 layers",
        input: CIFAR,
        classes: 10,
        challenge: None,
        build: |name, input, classes| resnet_cifar::build(name, 7, input, classes),
    },
    Entry {
        name: "resnet56",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 56 layers",
        input: CIFAR,
        classes: 10,
        challenge: None,
        build: |name, input, classes| resnet_cifar::build(name, 9, input, classes),
    },
    Entry {
        name: "resnet18",
        year: 2015,
        paper: RESNET,
        about: "residual network of basic blocks, 18 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: resnet::resnet18,
    },
    Entry {
        name: "resnet34",
        year: 2015,
        paper: RESNET,
        about: "residual network of basic blocks, 34 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: resnet::resnet34,
    },
    Entry {
        name: "resnet50",
        year: 2015,
        paper: RESNET,
        about: "residual network of bottlenecks, 50 layers (v1.5: the 3x3 strides)",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: resnet::resnet50,
    },
    Entry {
        name: "resnet50-v1",
        year: 2015,
        paper: RESNET,
        about: "residual network of bottlenecks as the paper has it: the first 1x1 strides",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: resnet::resnet50_v1,
    },
    Entry {
        name: "resnet101",
        year: 2015,
        paper: RESNET,
        about: "residual network of bottlenecks, 101 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: resnet::resnet101,
    },
    Entry {
        name: "resnet152",
        year: 2015,
        paper: RESNET,
        about: "the winner of ImageNet 2015: bottlenecks, 152 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: Some(3.57),
        build: resnet::resnet152,
    },
    Entry {
        name: "resnetv2-50",
        year: 2016,
        paper: "He et al., Identity Mappings in Deep Residual Networks",
        about: "residual network with pre-activation, 50 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: resnet_v2::resnet50,
    },
    Entry {
        name: "squeezenet1-0",
        year: 2016,
        paper: "Iandola et al., SqueezeNet: AlexNet-level Accuracy with 50x Fewer Parameters",
        about: "fire modules, no dense layer; AlexNet's accuracy in 5 MB",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: squeezenet::v1_0,
    },
    Entry {
        name: "squeezenet1-1",
        year: 2016,
        paper: "Iandola et al., SqueezeNet: AlexNet-level Accuracy with 50x Fewer Parameters",
        about: "the same with less than half of the multiply-adds",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: squeezenet::v1_1,
    },
    Entry {
        name: "wrn-28-10",
        year: 2016,
        paper: "Zagoruyko and Komodakis, Wide Residual Networks",
        about: "wide residual network for 32x32 pictures",
        input: CIFAR,
        classes: 10,
        challenge: None,
        build: |name, input, classes| wide_resnet::build(name, input, classes, (4, 10)),
    },
    Entry {
        name: "resnext50-32x4d",
        year: 2017,
        paper: "Xie et al., Aggregated Residual Transformations for Deep Neural Networks",
        about: "residual network of bottlenecks in 32 groups of 4",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: resnet::resnext50,
    },
    Entry {
        name: "densenet121",
        year: 2017,
        paper: "Huang et al., Densely Connected Convolutional Networks",
        about: "each layer reads all before it, 121 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| densenet::build(name, input, classes, [6, 12, 24, 16]),
    },
    Entry {
        name: "densenet169",
        year: 2017,
        paper: "Huang et al., Densely Connected Convolutional Networks",
        about: "each layer reads all before it, 169 layers",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: |name, input, classes| densenet::build(name, input, classes, [6, 12, 32, 32]),
    },
    Entry {
        name: "xception",
        year: 2017,
        paper: "Chollet, Xception: Deep Learning with Depthwise Separable Convolutions",
        about: "separable convolutions with shortcuts",
        input: Shape::new(299, 299, 3),
        classes: 1000,
        challenge: None,
        build: xception::build,
    },
    Entry {
        name: "mobilenet-v1",
        year: 2017,
        paper: "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
        about: "depthwise convolutions in place of full ones",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: mobilenet::v1,
    },
    Entry {
        name: "mobilenet-v2",
        year: 2018,
        paper: "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        about: "inverted residuals with depthwise convolutions; small and cheap",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: mobilenet::v2,
    },
    Entry {
        name: "mobilenet-v3-large",
        year: 2019,
        paper: "Howard et al., Searching for MobileNetV3",
        about: "searched by machine for phones: squeeze and excitation, hard swish",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: mobilenet_v3::large,
    },
    Entry {
        name: "mobilenet-v3-small",
        year: 2019,
        paper: "Howard et al., Searching for MobileNetV3",
        about: "the smaller of the two",
        input: IMAGENET,
        classes: 1000,
        challenge: None,
        build: mobilenet_v3::small,
    },
    Entry {
        name: "efficientnet-b0",
        year: 2019,
        paper: EFFICIENT,
        about: "width, depth and input scaled together, 224x224",
        input: Shape::new(224, 224, 3),
        classes: 1000,
        challenge: None,
        build: |name, input, classes| efficientnet::build(name, input, classes, (1.0, 1.0, 0.2)),
    },
    Entry {
        name: "efficientnet-b1",
        year: 2019,
        paper: EFFICIENT,
        about: "width, depth and input scaled together, 240x240",
        input: Shape::new(240, 240, 3),
        classes: 1000,
        challenge: None,
        build: |name, input, classes| efficientnet::build(name, input, classes, (1.0, 1.1, 0.2)),
    },
    Entry {
        name: "efficientnet-b2",
        year: 2019,
        paper: EFFICIENT,
        about: "width, depth and input scaled together, 288x288",
        input: Shape::new(288, 288, 3),
        classes: 1000,
        challenge: None,
        build: |name, input, classes| efficientnet::build(name, input, classes, (1.1, 1.2, 0.3)),
    },
    Entry {
        name: "efficientnet-b3",
        year: 2019,
        paper: EFFICIENT,
        about: "width, depth and input scaled together, 300x300",
        input: Shape::new(300, 300, 3),
        classes: 1000,
        challenge: None,
        build: |name, input, classes| efficientnet::build(name, input, classes, (1.2, 1.4, 0.3)),
    },
    Entry {
        name: "efficientnet-b4",
        year: 2019,
        paper: EFFICIENT,
        about: "width, depth and input scaled together, 380x380",
        input: Shape::new(380, 380, 3),
        classes: 1000,
        challenge: None,
        build: |name, input, classes| efficientnet::build(name, input, classes, (1.4, 1.8, 0.4)),
    },
];

/// The entry of that name.
///
/// # Errors
/// When there is none, with the nearest name.
pub fn find(name: &str) -> Result<&'static Entry, ZooError> {
    MODELS.iter().find(|m| m.name == name).ok_or_else(|| {
        let hint = convoke_engine::names::hint(name, MODELS.iter().map(|m| m.name));
        ZooError::Unknown { name: name.into(), hint }
    })
}

/// The network of that name.
///
/// # Errors
/// When there is none, or the input is too small for it.
pub fn build(name: &str, options: &Options) -> Result<Network, ZooError> {
    let entry = find(name)?;
    let input = options.input.unwrap_or(entry.input);
    let classes = options.classes.unwrap_or(entry.classes);
    Ok((entry.build)(entry.name, input, classes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_the_papers_and_torchvisions() {
        for (name, parameters) in [
            ("lenet5", 61_706),
            ("alexnet", 61_100_840),
            ("resnet20", 269_722),
            ("resnet32", 464_154),
            ("resnet44", 658_586),
            ("resnet56", 853_018),
            ("resnet18", 11_689_512),
            ("resnet34", 21_797_672),
            ("resnet50", 25_557_032),
            ("mobilenet-v2", 3_504_872),
            ("lenet5-1998", 61_706),
            ("alexnet-2012", 60_965_224),
            ("zfnet", 62_357_608),
            ("vgg11", 132_863_336),
            ("vgg11-bn", 132_868_840),
            ("vgg13", 133_047_848),
            ("vgg13-bn", 133_053_736),
            ("vgg16", 138_357_544),
            ("vgg16-bn", 138_365_992),
            ("vgg19", 143_667_240),
            ("vgg19-bn", 143_678_248),
            ("resnet50-v1", 25_557_032),
            ("resnet101", 44_549_160),
            ("resnet152", 60_192_808),
            ("resnetv2-50", 25_549_352),
            ("resnext50-32x4d", 25_028_904),
            ("wrn-28-10", 36_479_194),
            ("densenet121", 7_978_856),
            ("densenet169", 14_149_480),
            ("squeezenet1-0", 1_248_424),
            ("squeezenet1-1", 1_235_496),
            ("mobilenet-v1", 4_231_976),
            ("xception", 22_855_952),
            ("mobilenet-v3-large", 5_483_032),
            ("mobilenet-v3-small", 2_542_856),
            ("efficientnet-b0", 5_288_548),
            ("efficientnet-b1", 7_794_184),
            ("efficientnet-b2", 9_109_994),
            ("efficientnet-b3", 12_233_232),
            ("efficientnet-b4", 19_341_616),
            // torchvision's without their auxiliary heads.
            ("googlenet", 6_624_904),
            ("inception-v3", 23_834_568),
        ] {
            let net = build(name, &Options::default()).unwrap();
            assert_eq!(net.parameters(), parameters, "{name}");
        }
    }

    #[test]
    fn macs_are_the_published_ones_within_a_hundredth() {
        for (name, giga) in [
            ("alexnet", 0.714),
            ("resnet18", 1.814),
            ("resnet34", 3.664),
            ("resnet50", 4.089),
            ("mobilenet-v2", 0.301),
            // torchvision's table.
            ("vgg11", 7.609),
            ("vgg16", 15.47),
            ("vgg19-bn", 19.63),
            ("resnet101", 7.801),
            ("resnet152", 11.514),
            ("resnext50-32x4d", 4.230),
            ("densenet121", 2.834),
            ("densenet169", 3.360),
            ("squeezenet1-0", 0.819),
            ("squeezenet1-1", 0.349),
            ("mobilenet-v1", 0.569),
            ("googlenet", 1.498),
            ("mobilenet-v3-large", 0.217),
            ("mobilenet-v3-small", 0.0565),
            ("efficientnet-b0", 0.386),
            ("efficientnet-b1", 0.687),
            ("efficientnet-b2", 1.088),
            ("efficientnet-b3", 1.827),
            ("efficientnet-b4", 4.394),
            ("inception-v3", 5.713),
            // timm.
            ("xception", 8.40),
            ("resnet20", 0.0408),
            ("resnet56", 0.1257),
        ] {
            let macs = build(name, &Options::default()).unwrap().macs() as f64 / 1e9;
            assert!((macs / giga - 1.0).abs() < 0.01, "{name}: {macs}");
        }
    }

    #[test]
    fn every_network_takes_other_sizes_channels_and_classes() {
        for entry in MODELS {
            // Some leave little of a small input.
            let more = match entry.name {
                "alexnet-2012" => 32,
                "inception-v3" => 16,
                _ => 0,
            };
            for (h, w, c) in [(64, 64, 1), (96, 72, 3), (64, 80, 4)] {
                let (h, w) = (h + more, w + more);
                let options = Options { input: Some(Shape::new(h, w, c)), classes: Some(7) };
                let net = build(entry.name, &options).unwrap();
                assert_eq!(net.output_shape(), Shape::vector(7), "{}", entry.name);
            }
        }
        for name in ["resnet18", "mobilenet-v2", "resnet50"] {
            let options = Options { input: Some(Shape::new(32, 32, 3)), classes: Some(10) };
            build(name, &options).unwrap();
        }
    }

    #[test]
    fn receptive_fields_are_the_published_ones() {
        // Araujo et al. 2019, table 1; AlexNet's last pooling; resnet50 in its v1.5 form.
        for (name, place, size) in [
            ("alexnet", "max-pool3", 195),
            ("resnet18", "layer4.1.relu", 435),
            ("resnet50", "layer4.2.relu", 427),
        ] {
            let net = build(name, &Options::default()).unwrap();
            let id = net.find(place).unwrap();
            assert_eq!(net.fields()[id.index()].h.size, size, "{name}");
        }
    }

    #[test]
    fn too_small_an_input_is_told_by_layer() {
        let options = Options { input: Some(Shape::new(16, 16, 3)), classes: None };
        let e = build("alexnet", &options).unwrap_err().to_string();
        assert!(e.contains("does not fit"), "{e}");
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        let e = build("resent18", &Options::default()).unwrap_err().to_string();
        assert!(e.contains("did you mean `resnet18`"), "{e}");
        let e = build("mobilenetv2", &Options::default()).unwrap_err().to_string();
        assert!(e.contains("did you mean `mobilenet-v2`"), "{e}");
        let e = build("zzz", &Options::default()).unwrap_err().to_string();
        assert!(!e.contains("did you mean"), "{e}");
    }
}
