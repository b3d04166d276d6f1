//! Which hyperparameters matter: a random forest (Breiman 2001) learns value from point, and a dimension matters as
//! much as the forest errs more on trials it has not seen when that dimension's values are shuffled among them.
//!
//! Dimensions that are not always there are shuffled whole, "not there" included.

use super::random::Random;
use super::space::Space;
use super::study::{State, Trial};
use serde::Serialize;

/// How much the dimensions matter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importance {
    /// Each dimension with its share, which sum to 1; the most important first.
    pub shares: Vec<(String, f64)>,
    /// Share of the values' variance that the forest explains on trials it has not seen. Where it is near 0 or below,
    /// the shares say nothing.
    pub explained: f64,
    /// Trials that it learnt from.
    pub trials: usize,
}

const TREES: usize = 100;
const LEAST_LEAF: usize = 2;
/// Fewer trials tell nothing.
const LEAST_TRIALS: usize = 12;
const SHUFFLES: usize = 5;

/// What matters in these trials; none when they are too few or all alike.
pub fn importance(space: &Space, trials: &[Trial]) -> Option<Importance> {
    let judged: Vec<&Trial> =
        trials.iter().filter(|t| t.state != State::Refused && t.best().is_some()).collect();
    let n = judged.len();
    if n < LEAST_TRIALS {
        return None;
    }
    // A dimension that is not there lies beside all values that it could have.
    let place = |v: &Option<f64>| v.unwrap_or(f64::NEG_INFINITY);
    let x: Vec<Vec<f64>> = judged.iter().map(|t| t.point.iter().map(place).collect()).collect();
    let y: Vec<f64> = judged.iter().map(|t| t.rank()).collect();
    let mean = y.iter().sum::<f64>() / n as f64;
    let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
    if variance <= 1e-12 {
        return None;
    }
    let forest: Vec<(Node, Vec<usize>)> = (0..TREES).map(|t| grow_one(&x, &y, t as u64)).collect();
    let error = |x: &[Vec<f64>]| {
        let (mut sums, mut counts) = (vec![0.0; n], vec![0; n]);
        for (tree, out) in &forest {
            for &i in out {
                sums[i] += tree.at(&x[i]);
                counts[i] += 1;
            }
        }
        let seen = (0..n).filter(|&i| counts[i] > 0);
        let squares = seen.clone().map(|i| (sums[i] / f64::from(counts[i]) - y[i]).powi(2));
        squares.sum::<f64>() / seen.count().max(1) as f64
    };
    let base = error(&x);
    let more = |d: usize| {
        let mut sum = 0.0;
        for k in 0..SHUFFLES {
            let mut random = Random::new(11, (d * SHUFFLES + k) as u64);
            let mut column: Vec<f64> = x.iter().map(|r| r[d]).collect();
            for i in (1..n).rev() {
                column.swap(i, random.below(i + 1));
            }
            let mut shuffled = x.clone();
            shuffled.iter_mut().zip(&column).for_each(|(row, &v)| row[d] = v);
            sum += error(&shuffled) - base;
        }
        (sum / SHUFFLES as f64).max(0.0)
    };
    let all: Vec<f64> = (0..space.dimension.len()).map(more).collect();
    let sum: f64 = all.iter().sum();
    let share = |v: f64| if sum > 0.0 { v / sum } else { 0.0 };
    let named = space.dimension.iter().zip(&all);
    let mut shares: Vec<(String, f64)> = named.map(|(d, &v)| (d.name.clone(), share(v))).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    Some(Importance { shares, explained: 1.0 - base / variance, trials: n })
}

/// A tree of a regression forest.
enum Node {
    Leaf(f64),
    /// Dimension, threshold, below, above.
    Split(usize, f64, Box<[Node; 2]>),
}

impl Node {
    fn at(&self, x: &[f64]) -> f64 {
        match self {
            Node::Leaf(v) => *v,
            Node::Split(d, at, parts) => parts[usize::from(x[*d] > *at)].at(x),
        }
    }
}

/// A tree on as many trials as there are, drawn with replacement, and the trials that were not drawn.
fn grow_one(x: &[Vec<f64>], y: &[f64], stream: u64) -> (Node, Vec<usize>) {
    let n = y.len();
    let mut random = Random::new(7, stream);
    let drawn: Vec<usize> = (0..n).map(|_| random.below(n)).collect();
    let out = (0..n).filter(|i| !drawn.contains(i)).collect();
    (grow(x, y, drawn, &mut random), out)
}

fn grow(x: &[Vec<f64>], y: &[f64], rows: Vec<usize>, random: &mut Random) -> Node {
    let mean = rows.iter().map(|&i| y[i]).sum::<f64>() / rows.len().max(1) as f64;
    if rows.len() < 2 * LEAST_LEAF {
        return Node::Leaf(mean);
    }
    // A third of the dimensions at each split, as usual for regression.
    let all = x[0].len();
    let tried = (0..all.div_ceil(3)).map(|_| random.below(all));
    let mut best: Option<(f64, usize, f64)> = None;
    for d in tried {
        let mut order = rows.clone();
        order.sort_by(|&a, &b| x[a][d].total_cmp(&x[b][d]));
        let (mut left, whole) = (0.0, mean * rows.len() as f64);
        for k in 1..order.len() {
            left += y[order[k - 1]];
            let (a, b) = (x[order[k - 1]][d], x[order[k]][d]);
            if a == b || k < LEAST_LEAF || order.len() - k < LEAST_LEAF {
                continue;
            }
            // What remains of the squares is least where this is largest.
            let (l, r) = (k as f64, (order.len() - k) as f64);
            let gain = left * left / l + (whole - left) * (whole - left) / r;
            let middle = if a.is_finite() { 0.5 * (a + b) } else { a };
            if best.is_none_or(|g| gain > g.0) {
                best = Some((gain, d, middle));
            }
        }
    }
    let least = mean * mean * rows.len() as f64;
    let Some((gain, d, at)) = best.filter(|b| b.0 > least + 1e-15) else { return Node::Leaf(mean) };
    debug_assert!(gain.is_finite());
    let (above, below): (Vec<usize>, Vec<usize>) = rows.into_iter().partition(|&i| x[i][d] > at);
    let parts = [grow(x, y, below, random), grow(x, y, above, random)];
    Node::Split(d, at, Box::new(parts))
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Sampler, When};
    use super::*;

    /// Values of `f` at points drawn evenly.
    fn trials(space: &Space, n: usize, f: impl Fn(&[Option<f64>]) -> f64) -> Vec<Trial> {
        let trial = |i: usize| {
            let point = Sampler::Random.propose(space, &[], 3, i as u64);
            let value = f(&point);
            Trial::told(i, point, State::Done, vec![value])
        };
        (0..n).map(trial).collect()
    }

    fn space() -> Space {
        let mut s = Space::default();
        for name in ["a", "b", "c"] {
            s.add(name, Kind::Float { low: 0.0, high: 1.0, log: false });
        }
        s.add("word", Kind::Choice { of: ["x", "y", "z"].map(String::from).into() });
        let when = When { name: "word".into(), at_least: None, is: vec!["y".into()] };
        s.add_when("only-y", Kind::Float { low: 0.0, high: 1.0, log: false }, when);
        s
    }

    #[test]
    fn what_the_value_depends_on_matters() {
        let s = space();
        let f = |p: &[Option<f64>]| {
            3.0 * p[1].unwrap() + 0.5 * p[0].unwrap() + if p[3] == Some(2.0) { 1.0 } else { 0.0 }
        };
        let i = importance(&s, &trials(&s, 150, f)).unwrap();
        let share = |name: &str| i.shares.iter().find(|s| s.0 == name).unwrap().1;
        assert!(i.explained > 0.7, "{i:?}");
        assert!(share("b") > share("word") && share("word") > share("a"), "{i:?}");
        assert!(share("c") < 0.02 && share("only-y") < 0.05, "{i:?}");
        assert!((i.shares.iter().map(|s| s.1).sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(i.shares[0].0, "b");
    }

    #[test]
    fn noise_is_not_explained_and_few_trials_tell_nothing() {
        let s = space();
        let noise = |p: &[Option<f64>]| (p[0].unwrap() * 1e6).fract();
        let i = importance(&s, &trials(&s, 80, noise)).unwrap();
        assert!(i.explained < 0.2, "{i:?}");
        assert!(importance(&s, &trials(&s, 5, noise)).is_none());
        assert!(importance(&s, &trials(&s, 50, |_| 1.0)).is_none());
    }
}
