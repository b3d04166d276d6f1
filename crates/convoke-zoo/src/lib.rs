//! The famous architectures, one file per family, each reading like its paper's table.
//!
//! ```
//! use convoke_zoo::{Options, build};
//! let net = build("resnet18", &Options::default())?;
//! assert_eq!(net.parameters(), 11_689_512);
//! # Ok::<(), convoke_zoo::ZooError>(())
//! ```
//!
//! To add an architecture: write its file, with its `ENTRIES`, and add one line to `families!`.

#![forbid(unsafe_code)]

mod blocks;
mod entry;

use convoke_engine::{Network, Shape};
pub use entry::Entry;

macro_rules! families {
    ($($family:ident),* $(,)?) => {
        $(mod $family;)*
        const FAMILIES: &[&[Entry]] = &[$($family::ENTRIES),*];
    };
}

// Oldest idea first.
families!(
    mlp,
    lenet,
    alexnet,
    zfnet,
    vgg,
    inception,
    inception_v2,
    resnet_cifar,
    resnet,
    resnet_v2,
    squeezenet,
    wide_resnet,
    inception_resnet,
    densenet,
    xception,
    mobilenet,
    senet,
    shufflenet,
    mobilenet_v3,
    efficientnet,
    repvgg,
    convnext,
    signal,
    tcn,
    inception_time,
);

const COUNT: usize = {
    let (mut count, mut i) = (0, 0);
    while i < FAMILIES.len() {
        count += FAMILIES[i].len();
        i += 1;
    }
    count
};

/// Every network, family by family.
pub const MODELS: &[Entry] = &{
    let mut all = [FAMILIES[0][0]; COUNT];
    let (mut at, mut i) = (0, 0);
    while i < FAMILIES.len() {
        let mut k = 0;
        while k < FAMILIES[i].len() {
            all[at] = FAMILIES[i][k];
            (at, k) = (at + 1, k + 1);
        }
        i += 1;
    }
    all
};

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

/// The network of that name, as it predicts.
///
/// # Errors
/// When there is none, or the input is too small for it.
pub fn build(name: &str, options: &Options) -> Result<Network, ZooError> {
    let entry = find(name)?;
    Ok(entry.built(entry.build, options)?)
}

/// The network of that name as its paper trains it: with the auxiliary heads of GoogLeNet and Inception v3
/// ([`Network::heads`]); as [`build`] where there are none.
///
/// # Errors
/// When there is none, or the input is too small for it or its heads.
pub fn build_to_train(name: &str, options: &Options) -> Result<Network, ZooError> {
    let entry = find(name)?;
    Ok(entry.built(entry.with_heads.unwrap_or(entry.build), options)?)
}

impl Entry {
    fn built(&self, build: entry::Build, options: &Options) -> convoke_engine::Result<Network> {
        let input = options.input.unwrap_or(self.input);
        build(self.name, input, options.classes.unwrap_or(self.classes))
    }
}
