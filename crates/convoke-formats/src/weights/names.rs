//! How a family's weights are called elsewhere, what is different there, and how its pictures are prepared; what is
//! known of each family is in `families`.

use super::families::{FAMILIES, OTHER};
use convoke_data::{Filter, Preprocess};
use convoke_engine::layers::Layer;
use convoke_engine::{Hw, Network, Padding, Result, Shape};

/// What is known about the weights of a family of networks.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Names of networks; a `*` at the end stands for anything.
    pub(super) networks: &'static [&'static str],
    /// Other forms of the names.
    pub(crate) forms: &'static [Form],
    pub(super) recipe: Recipe,
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
    /// What else is different there.
    pub changes: &'static [Change],
}

impl Form {
    /// Named and used as here.
    pub const PLAIN: Form = Form { names: Names::Same, recipe: None, side: 0, changes: &[] };
}

/// How a network of others differs from ours in more than names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// That convolution or pooling has so many pixels of padding on each side.
    Pad(&'static str, usize),
    /// Convolutions that halve the map are padded by half a window on each side.
    PadHalf,
    /// Batch norms add that to the variance.
    Epsilon(f32),
}

impl Change {
    pub fn apply(self, network: &Network) -> Result<Network> {
        let to_window = |size: Hw| Padding::Explicit {
            top: size.h / 2,
            bottom: size.h / 2,
            left: size.w / 2,
            right: size.w / 2,
        };
        network.with_layers(|name, layer| match (self, layer) {
            (Change::Pad(at, pixels), Layer::Conv(conv)) if at == name => {
                conv.padding = Padding::symmetric(pixels);
            }
            (Change::Pad(at, pixels), Layer::MaxPool(pool)) if at == name => {
                pool.padding = Padding::symmetric(pixels);
            }
            (Change::PadHalf, Layer::Conv(conv)) if conv.stride.h > 1 => {
                conv.padding = to_window(conv.window);
            }
            (Change::Epsilon(epsilon), Layer::BatchNorm(norm)) => norm.epsilon = epsilon,
            _ => {}
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Names {
    /// As here; such a form takes the place of [`Form::PLAIN`].
    Same,
    Table(&'static [(&'static str, &'static str)]),
    /// For numbers that are counted differently.
    Made(fn() -> Vec<(String, String)>),
}

/// How a picture becomes an input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Recipe {
    /// Short side of the resized picture, for an input of that side; 0 takes the picture as it is.
    pub resize: (usize, usize),
    pub filter: Filter,
    pub bgr: bool,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Krizhevsky 2009, in the order of its labels.
const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

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
        let (short, side) = self.resize;
        let whole = short == 0 || input.h.max(input.w) <= 64;
        let side = if whole { 0 } else { (input.h.max(input.w) * short + side / 2) / side };
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
            Names::Same => Vec::new(),
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

pub(super) fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::families::CAFFE;
    use super::*;

    #[test]
    fn names_are_changed_by_whole_segments() {
        assert_eq!(rename("fc#", "dense#", "fc12.weight").as_deref(), Some("dense12.weight"));
        assert_eq!(rename("fc#", "dense#", "fc.weight"), None);
        assert_eq!(rename("fc", "linear", "fcn.weight"), None);
        assert_eq!(rename("a.#.b.#", "x#.#", "a.1.b.22.c").as_deref(), Some("x1.22.c"));
    }

    #[test]
    fn every_line_of_every_table_leads_to_a_layer_of_its_network() {
        for entry in convoke_zoo::MODELS {
            let net = convoke_zoo::build(entry.name, &convoke_zoo::Options::default()).unwrap();
            let tensors: Vec<String> = net.params().into_iter().map(|p| p.name).collect();
            for form in family(entry.name).forms {
                for (theirs, ours) in form.names.lines().0 {
                    let there = tensors.iter().any(|t| rename(&ours, &ours, t).is_some());
                    assert!(there, "{}: {theirs} is said to be {ours}", entry.name);
                }
            }
        }
    }

    #[test]
    fn sizes_are_torchvisions() {
        let at = |name: &str, side| family(name).preprocess(Shape::new(side, side, 3)).short_side;
        assert_eq!(at("resnet18", 224), 256);
        assert_eq!(at("inception-v3", 299), 342);
        assert_eq!(at("resnet20", 32), 0);
        assert_eq!(at("resnet18", 32), 0);
        let others = [
            ("efficientnet-b0", 224, 256),
            ("efficientnet-b1", 240, 256),
            ("efficientnet-b2", 288, 288),
            ("efficientnet-b3", 300, 320),
            ("efficientnet-b4", 380, 384),
            ("convnext-tiny", 224, 236),
            ("convnext-small", 224, 230),
            ("shufflenet-v2-x1-0", 224, 256),
            // timm's.
            ("xception", 299, 333),
            ("inception-resnet-v2", 299, 333),
            ("resnetv2-50", 224, 235),
            ("tf-efficientnet-b1", 240, 272),
            ("tf-efficientnet-b4", 380, 412),
        ];
        for (name, side, short) in others {
            assert_eq!(at(name, side), short, "{name}");
        }
        assert_eq!(CAFFE.preprocess(Shape::new(227, 227, 3)).short_side, 256);
    }
}
