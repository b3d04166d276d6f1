//! Who proposes the next point.

use super::random::Random;
use super::space::{Point, Space};
use super::study::Trial;
use super::tpe;
use serde::{Deserialize, Serialize};

/// Proposes points of a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Every point is as likely, whatever came before.
    Random,
    /// Where good trials are dense and others are not (Bergstra et al. 2011): a tree-structured Parzen estimator.
    Tpe,
}

impl Sampler {
    /// The point of question number `number`, from 0. The same seed, number and history give the same point.
    pub fn propose(self, space: &Space, history: &[Trial], seed: u64, number: u64) -> Point {
        let mut random = Random::new(seed, number);
        match self {
            Sampler::Random => space.draw(&mut random),
            Sampler::Tpe => tpe::propose(space, history, &mut random),
        }
    }
}
