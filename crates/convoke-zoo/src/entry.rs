//! What the list of networks says about each.

use convoke_engine::{Network, Result, Shape};

/// Builds a network of that name for an input and a number of classes.
pub(crate) type Build = fn(&str, Shape, usize) -> Result<Network>;

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
    pub(crate) build: Build,
    /// The same with the auxiliary heads that the paper trains it with.
    pub(crate) with_heads: Option<Build>,
}

pub(crate) const GREY: Shape = Shape::new(28, 28, 1);
pub(crate) const CIFAR: Shape = Shape::new(32, 32, 3);
const IMAGENET: Shape = Shape::new(224, 224, 3);

impl Entry {
    /// For an input of another size than ImageNet's usual 224 × 224.
    pub(crate) const fn input(self, input: Shape) -> Self {
        Self { input, ..self }
    }

    /// For a square input of three channels.
    pub(crate) const fn side(self, side: usize) -> Self {
        self.input(Shape::new(side, side, 3))
    }

    /// For another number of classes than ImageNet's 1000.
    pub(crate) const fn classes(self, classes: usize) -> Self {
        Self { classes, ..self }
    }

    /// Stood in an ImageNet challenge, with that top-5 error in percent.
    pub(crate) const fn challenge(self, error: f32) -> Self {
        Self { challenge: Some(error), ..self }
    }

    /// Is trained with auxiliary heads.
    pub(crate) const fn heads(self, build: Build) -> Self {
        Self { with_heads: Some(build), ..self }
    }
}

/// Where a family comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paper {
    pub year: u16,
    /// Authors and title.
    pub title: &'static str,
}

impl Paper {
    /// One of the paper's networks, for ImageNet.
    pub const fn network(self, name: &'static str, about: &'static str, build: Build) -> Entry {
        Entry {
            name,
            year: self.year,
            paper: self.title,
            about,
            input: IMAGENET,
            classes: 1000,
            challenge: None,
            build,
            with_heads: None,
        }
    }
}
