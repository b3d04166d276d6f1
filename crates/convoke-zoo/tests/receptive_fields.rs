//! Receptive fields of the zoo's networks, at the last map before it becomes a vector, are those that are
//! published, measured on the gradients of the networks of others, or worked out from the papers' tables.

use convoke_engine::Network;
use convoke_zoo::{MODELS, Options, build};

fn network(name: &str) -> Network {
    build(name, &Options::default()).unwrap()
}

/// Along the rows, at the last map of more than one place.
fn field(name: &str) -> usize {
    let (net, fields) = (network(name), network(name).fields());
    let last = net.iter().filter(|(_, n)| n.shape.pixels() > 1).last();
    fields[last.unwrap().0.index()].h.size
}

#[test]
fn fields_are_the_published_ones() {
    // Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, table 1.
    for (name, size) in [
        ("alexnet", 195),
        ("vgg16", 212),
        ("vgg16-bn", 212),
        ("resnet50-v1", 483),
        ("resnet101-v1", 1027),
        ("resnet152-v1", 1507),
        ("inception-v2", 699),
        ("inception-v3", 1311),
        ("inception-resnet-v2", 3039),
        ("mobilenet-v1", 315),
    ] {
        assert_eq!(field(name), size, "{name}");
    }
}

/// Every network of the zoo, by `fixtures/fields.py`: measured on the gradients of torchvision's or timm's network,
/// worked out from the paper's table where neither has it, or `all` where a layer sees the whole map. Each line says
/// which.
#[test]
fn fields_are_those_of_others_for_the_whole_zoo() {
    let lines: Vec<[&str; 3]> = include_str!("fixtures/fields.csv")
        .lines()
        .skip(1)
        .map(|l| l.splitn(3, ',').collect::<Vec<_>>().try_into().unwrap())
        .collect();
    for model in MODELS.iter().filter(|m| network(m.name).input_shape().h > 1) {
        assert!(lines.iter().any(|l| l[0] == model.name), "{} is not in the table", model.name);
    }
    let mut wrong = Vec::new();
    for [name, size, source] in lines {
        let (own, input) = (field(name), network(name).input_shape().h);
        let right = match size.parse::<usize>() {
            Ok(size) => own == size,
            // Squeeze and excitation takes a mean over the whole map; a network without maps reads all at once.
            Err(_) => size == "all" && (own > input || own == 1 && sees_all(name)),
        };
        if !right {
            wrong.push(format!("{name}: {own}, not {size} ({source})"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Networks of signals see along their length alone: one and what each window adds, as their papers' tables have them.
#[test]
fn fields_along_signals_are_those_of_the_papers() {
    for (name, size) in [
        ("fcn-1d", 1 + 7 + 4 + 2),
        ("resnet-1d", 1 + 3 * (7 + 4 + 2)),
        // Ismail Fawaz et al. 2020, equation 2: depth 6, windows up to 40.
        ("inceptiontime", 1 + 6 * 39),
    ] {
        let (net, fields) = (network(name), network(name).fields());
        let last = net.iter().filter(|(_, n)| n.shape.pixels() > 1).last();
        assert_eq!(fields[last.unwrap().0.index()].w.size, size, "{name}");
    }
}

/// Whether the answer depends on every pixel.
fn sees_all(name: &str) -> bool {
    let net = network(name);
    net.fields()[net.output().index()].h.size >= net.input_shape().h
}
