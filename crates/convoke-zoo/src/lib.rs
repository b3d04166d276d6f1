//! The famous architectures, one file per family, each reading like its paper's table.
//!
//! ```
//! use convoke_zoo::{Options, build};
//! let net = build("resnet18", &Options::default())?;
//! assert_eq!(net.parameters(), 11_689_512);
//! # Ok::<(), convoke_zoo::ZooError>(())
//! ```

mod alexnet;
mod lenet;
mod mlp;
mod mobilenet;
mod resnet;
mod resnet_cifar;

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
    build: fn(&str, Shape, usize) -> convoke_engine::Result<Network>,
}

const GREY: Shape = Shape::new(28, 28, 1);
const CIFAR: Shape = Shape::new(32, 32, 3);
const IMAGENET: Shape = Shape::new(224, 224, 3);
const RESNET: &str = "He et al., Deep Residual Learning for Image Recognition";

/// Every network, oldest idea first.
pub const MODELS: &[Entry] = &[
    Entry {
        name: "mlp",
        year: 1986,
        paper: "Rumelhart et al., Learning Representations by Back-propagating Errors",
        about: "fully connected baseline: two hidden layers of 256",
        input: GREY,
        classes: 10,
        build: mlp::build,
    },
    Entry {
        name: "lenet5",
        year: 1998,
        paper: "LeCun et al., Gradient-Based Learning Applied to Document Recognition",
        about: "two convolutions, two poolings, three dense layers; for digits",
        input: GREY,
        classes: 10,
        build: lenet::lenet5,
    },
    Entry {
        name: "alexnet",
        year: 2012,
        paper: "Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks (2014 form)",
        about: "the network that won ImageNet 2012, in its one-tower form",
        input: IMAGENET,
        classes: 1000,
        build: alexnet::build,
    },
    Entry {
        name: "resnet20",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 20 layers",
        input: CIFAR,
        classes: 10,
        build: |name, input, classes| resnet_cifar::build(name, 3, input, classes),
    },
    Entry {
        name: "resnet32",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 32 layers",
        input: CIFAR,
        classes: 10,
        build: |name, input, classes| resnet_cifar::build(name, 5, input, classes),
    },
    Entry {
        name: "resnet44",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 44 layers",
        input: CIFAR,
        classes: 10,
        build: |name, input, classes| resnet_cifar::build(name, 7, input, classes),
    },
    Entry {
        name: "resnet56",
        year: 2015,
        paper: RESNET,
        about: "residual network for 32x32 pictures, 56 layers",
        input: CIFAR,
        classes: 10,
        build: |name, input, classes| resnet_cifar::build(name, 9, input, classes),
    },
    Entry {
        name: "resnet18",
        year: 2015,
        paper: RESNET,
        about: "residual network of basic blocks, 18 layers",
        input: IMAGENET,
        classes: 1000,
        build: resnet::resnet18,
    },
    Entry {
        name: "resnet34",
        year: 2015,
        paper: RESNET,
        about: "residual network of basic blocks, 34 layers",
        input: IMAGENET,
        classes: 1000,
        build: resnet::resnet34,
    },
    Entry {
        name: "resnet50",
        year: 2015,
        paper: RESNET,
        about: "residual network of bottlenecks, 50 layers (v1.5: the 3x3 strides)",
        input: IMAGENET,
        classes: 1000,
        build: resnet::resnet50,
    },
    Entry {
        name: "mobilenet-v2",
        year: 2018,
        paper: "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        about: "inverted residuals with depthwise convolutions; small and cheap",
        input: IMAGENET,
        classes: 1000,
        build: mobilenet::v2,
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
            for (h, w, c) in [(64, 64, 1), (96, 72, 3), (64, 80, 4)] {
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
