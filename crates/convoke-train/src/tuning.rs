//! Fine-tuning: which layers of a network that has learnt already go on learning, when and how fast.

use convoke_engine::layers::Layer;
use convoke_engine::{Network, Tuning};
use serde::{Deserialize, Serialize};

/// How a network that has learnt already goes on learning. The default changes nothing: every layer
/// learns from the first step on, at the same rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FineTune {
    /// So many layers with weights, from the input on, never learn. A norm belongs to the layer
    /// before it.
    pub freeze: usize,
    /// For so many epochs at the beginning only the last layer learns, at the full rate; the schedule
    /// then runs over the other epochs.
    pub head_epochs: usize,
    /// Learning rate of the first layer as a share of the last one's; between them it grows by the same
    /// factor from layer to layer (Howard and Ruder 2018, discriminative fine-tuning).
    pub early_rate: f32,
    /// Batch norms normalise by their running statistics and keep them.
    pub freeze_norms: bool,
}

impl Default for FineTune {
    fn default() -> Self {
        FineTune { freeze: 0, head_epochs: 0, early_rate: 1.0, freeze_norms: false }
    }
}

impl FineTune {
    /// Whether it changes nothing.
    pub fn is_default(&self) -> bool {
        *self == FineTune::default()
    }

    /// What a plan is told; `head` while only the last layer learns.
    pub(crate) fn tuning(&self, network: &Network, head: bool) -> Tuning {
        let freeze_norms = self.freeze_norms;
        if self.freeze == 0 && self.early_rate == 1.0 && !head {
            return Tuning { rates: Vec::new(), freeze_norms };
        }
        let groups = groups(network);
        let last = groups.iter().copied().max().unwrap_or(0);
        let rate = |&g: &usize| match g {
            g if g == last => 1.0,
            g if head || g < self.freeze => 0.0,
            g => f64::from(self.early_rate).powf((last - g) as f64 / last as f64) as f32,
        };
        Tuning { rates: groups.iter().map(rate).collect(), freeze_norms }
    }

    /// What is wrong with it for that network, in a line.
    pub(crate) fn check(&self, network: &Network) -> Result<(), String> {
        let layers = layers(network);
        if self.freeze >= layers {
            return Err(format!(
                "--freeze {} would freeze all of `{}`, which has {layers} layers with weights; freeze fewer",
                self.freeze,
                network.name()
            ));
        }
        match self.early_rate.is_finite() && self.early_rate > 0.0 {
            true => Ok(()),
            false => Err(format!("the early rate {} must be a positive number", self.early_rate)),
        }
    }
}

/// How many layers with weights a network has; a norm belongs to the layer before it.
pub fn layers(network: &Network) -> usize {
    groups(network).iter().max().map_or(0, |last| last + 1)
}

/// The layer that each trained tensor belongs to, counted from 0.
fn groups(network: &Network) -> Vec<usize> {
    let (mut group, mut before) = (None::<usize>, None);
    let of = |p: &convoke_engine::Param| {
        if before != Some(p.node) {
            let norm =
                !matches!(network.node(p.node).layer, Some(Layer::Conv(_) | Layer::Dense(_)));
            group = Some(match group {
                Some(g) if norm => g,
                Some(g) => g + 1,
                None => 0,
            });
            before = Some(p.node);
        }
        group.unwrap_or(0)
    };
    network.params().iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::{Builder, Shape, layers::Conv};

    fn network() -> Network {
        let mut b = Builder::new("n", Shape::new(8, 8, 3));
        b.conv(Conv::new(4, 3).no_bias()).batch_norm().relu().conv(Conv::new(4, 3)).relu();
        b.global_mean_pool().dense(2);
        b.build().unwrap()
    }

    #[test]
    fn a_norm_belongs_to_the_layer_before_it() {
        assert_eq!(groups(&network()), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(layers(&network()), 3);
    }

    #[test]
    fn early_layers_learn_slower_and_frozen_ones_not_at_all() {
        let net = network();
        assert_eq!(FineTune::default().tuning(&net, false), Tuning::default());
        let fine = FineTune { early_rate: 0.01, ..FineTune::default() };
        let close = |rates: Vec<f32>, want: [f32; 7]| {
            assert!(rates.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{rates:?}");
        };
        close(fine.tuning(&net, false).rates, [0.01, 0.01, 0.01, 0.1, 0.1, 1.0, 1.0]);
        close(fine.tuning(&net, true).rates, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
        let fine = FineTune { freeze: 1, ..fine };
        close(fine.tuning(&net, false).rates, [0.0, 0.0, 0.0, 0.1, 0.1, 1.0, 1.0]);
        assert!(FineTune { freeze: 3, ..fine }.check(&net).unwrap_err().contains("3 layers"));
        assert!(FineTune { early_rate: 0.0, ..fine }.check(&net).is_err());
    }
}
