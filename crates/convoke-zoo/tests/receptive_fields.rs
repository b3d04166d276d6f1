//! Receptive fields of the zoo's networks, at the last map before it becomes a vector, are those that are
//! published or measured on the gradients of torchvision's networks.

use convoke_engine::Network;
use convoke_zoo::{Options, build};

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
        ("inception-v3", 1311),
        ("mobilenet-v1", 315),
    ] {
        assert_eq!(field(name), size, "{name}");
    }
}

#[test]
fn fields_are_those_measured_on_torchvisions_networks() {
    let lines: Vec<_> = include_str!("fixtures/fields.csv").lines().skip(1).collect();
    assert!(lines.len() >= 19);
    for line in lines {
        let (name, size) = line.split_once(',').unwrap();
        assert_eq!(field(name).to_string(), size, "{name}");
    }
}

#[test]
fn gates_see_everything() {
    // Squeeze and excitation takes a mean over the whole map.
    for name in ["mobilenet-v3-small", "efficientnet-b0"] {
        assert!(field(name) > network(name).input_shape().h, "{name}");
    }
}
