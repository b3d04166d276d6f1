//! Early stopping by asynchronous successive halving (Li et al. 2020, ASHA): at epochs that grow by a factor, only
//! trials among the best of all that came so far go on. Nobody waits for anybody.

use super::study::Trial;
use serde::{Deserialize, Serialize};

/// When trials are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halving {
    /// Epochs that every trial gets.
    pub first: usize,
    /// One of so many goes on from a rung, and rungs lie that factor apart.
    pub factor: usize,
}

impl Halving {
    /// Whether an epoch (from 1) is a rung.
    pub fn is_rung(&self, epoch: usize) -> bool {
        let (mut rung, factor) = (self.first.max(1), self.factor.max(2));
        while rung < epoch {
            rung = rung.saturating_mul(factor);
        }
        rung == epoch
    }

    /// Whether a trial that has come to `epoch` goes on, beside all others that came there. The best so far always
    /// does.
    pub fn goes_on(&self, mine: &Trial, epoch: usize, all: &[Trial]) -> bool {
        if !self.is_rung(epoch) {
            return true;
        }
        let Some(value) = mine.best_by(epoch) else { return true };
        let others = all.iter().filter(|t| t.number != mine.number);
        let values: Vec<f64> = others.filter_map(|t| t.best_by(epoch)).collect();
        let places = ((values.len() + 1) / self.factor.max(2)).max(1);
        values.iter().filter(|v| **v > value).count() < places
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn rungs_grow_by_the_factor() {
        let h = Halving { first: 2, factor: 3 };
        let rungs: Vec<usize> = (1..100).filter(|&e| h.is_rung(e)).collect();
        assert_eq!(rungs, [2, 6, 18, 54]);
    }

    #[test]
    fn a_third_goes_on() {
        let h = Halving { first: 1, factor: 3 };
        let at = |n: usize, v: f64| Trial::told(n, vec![], State::Running, vec![v]);
        let all: Vec<Trial> = (0..9).map(|n| at(n, n as f64)).collect();
        let on: Vec<usize> = (0..9).filter(|&n| h.goes_on(&all[n], 1, &all)).collect();
        assert_eq!(on, [6, 7, 8]);
        // Between rungs all go on; the first to come goes on; what is no number does not.
        assert!(h.goes_on(&all[0], 2, &all) && h.goes_on(&all[0], 1, &all[..1]));
        assert!(!h.goes_on(&at(9, f64::NAN), 1, &all));
    }
}
