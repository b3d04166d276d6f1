//! The one error type of this crate: every message names the layer and says what to do.

/// What can be wrong with a network or with a plan made from it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A layer does not fit its inputs; `what` gives the shapes, the rule and a remedy.
    #[error("{}: {}", shown(layer), shown(what))]
    Layer {
        /// Name of the layer in the network.
        layer: String,
        /// Shapes, rule and remedy in one line.
        what: String,
    },
    /// The network as a whole cannot be built.
    #[error("network `{}`: {}", shown(network), shown(what))]
    Network {
        /// Name of the network.
        network: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A network file cannot be read.
    #[error("network file: {0}")]
    File(String),
    /// A plan cannot be made or run as asked.
    #[error("plan: {0}")]
    Plan(String),
}

impl Error {
    pub(crate) fn layer(layer: &str, what: impl Into<String>) -> Self {
        Error::Layer { layer: layer.into(), what: what.into() }
    }
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names come from files: in one line that a terminal may show, and not endless.
fn shown(text: &str) -> String {
    let dull = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(400).map(dull).collect()
}
