//! A tree-structured Parzen estimator (Bergstra et al. 2011; its parts weighed by Watanabe 2023, arXiv 2304.11127):
//! a density of the good trials and one of the others; of points drawn from the first, the one that it likes most
//! beside the second is proposed.
//!
//! Dimensions that are there together are modelled together (Falkner et al. 2018), each kernel a product over them.
//! A kernel's width is the distance to its farther neighbour; a broad prior is one kernel more. Trials under way and
//! refused ones count among the others, so that parallel trials keep apart and refused regions are left.

use super::random::Random;
use super::space::{Kind, Point, Space};
use super::study::{State, Trial};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// So many trials are drawn evenly at first.
const FIRST: usize = 10;
/// Points drawn from the good density.
const DRAWN: usize = 24;
/// At most so many trials are good; of few trials a tenth.
const MOST_GOOD: usize = 25;
/// That many latest trials weigh 1; earlier ones less, in a line.
const RECENT: usize = 25;

pub(super) fn propose(space: &Space, history: &[Trial], random: &mut Random) -> Point {
    let judged = history.iter().filter(|t| t.state.judged()).count();
    if judged < FIRST {
        return space.draw(random);
    }
    let (good, others) = split(history, judged.div_ceil(10).min(MOST_GOOD));
    let mut point: Point = vec![None; space.dimension.len()];
    for group in space.groups() {
        if !space.there(group[0], &point) {
            continue;
        }
        let (good, others) = (rows(&good, &group), rows(&others, &group));
        let kinds: Vec<&Kind> = group.iter().map(|&i| &space.dimension[i].kind).collect();
        let (good, others) = (Density::new(&kinds, &good), Density::new(&kinds, &others));
        let mut best: Option<(f64, Vec<f64>)> = None;
        for _ in 0..DRAWN {
            let drawn = good.draw(random);
            let liked = good.log_at(&drawn) - others.log_at(&drawn);
            if best.as_ref().is_none_or(|b| liked > b.0) {
                best = Some((liked, drawn));
            }
        }
        for (&i, v) in group.iter().zip(best.map_or(Vec::new(), |b| b.1)) {
            point[i] = Some(v);
        }
    }
    point
}

/// The good trials and the others, both in order of their numbers. Those that ran to the end come first, then those
/// that were stopped, the later stopped before.
fn split(history: &[Trial], good: usize) -> (Vec<&Trial>, Vec<&Trial>) {
    let mut order: Vec<&Trial> = history.iter().filter(|t| t.state.judged()).collect();
    let late = |t: &Trial| if t.state == State::Done { usize::MAX } else { t.values.len() };
    order.sort_by(|a, b| {
        late(b).cmp(&late(a)).then(b.rank().total_cmp(&a.rank())).then(a.number.cmp(&b.number))
    });
    let mut others = order.split_off(good.min(order.len()));
    let unjudged = history.iter().filter(|t| matches!(t.state, State::Running | State::Refused));
    others.extend(unjudged);
    order.sort_by_key(|t| t.number);
    others.sort_by_key(|t| t.number);
    (order, others)
}

/// Values of a group in the trials that have it.
fn rows(trials: &[&Trial], group: &[usize]) -> Vec<Vec<f64>> {
    let row = |t: &&Trial| group.iter().map(|&i| t.point.get(i).copied().flatten()).collect();
    trials.iter().filter_map(row).collect()
}

/// A mixture of products, a kernel for each observation and one for the prior, which is the last.
struct Density<'a> {
    kinds: &'a [&'a Kind],
    weights: Vec<f64>,
    /// `axes[dimension][kernel]`.
    axes: Vec<Vec<Kernel>>,
}

enum Kernel {
    /// A normal distribution cut off at the range: mean, deviation, logarithm of what lies within.
    Normal(f64, f64, f64),
    /// Probabilities of words.
    Words(Vec<f64>),
}

impl<'a> Density<'a> {
    fn new(kinds: &'a [&'a Kind], rows: &[Vec<f64>]) -> Self {
        let mut weights = ramp(rows.len());
        weights.push(1.0);
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        let axis = |(i, kind): (usize, &&Kind)| {
            let values: Vec<f64> = rows.iter().map(|r| r[i]).collect();
            match kind {
                Kind::Choice { of } => words(&values, of.len()),
                _ => normals(kind, &values),
            }
        };
        Density { kinds, weights, axes: kinds.iter().enumerate().map(axis).collect() }
    }

    fn draw(&self, random: &mut Random) -> Vec<f64> {
        let kernel = pick(&self.weights, random);
        let value = |(kind, axis): (&&Kind, &Vec<Kernel>)| match &axis[kernel] {
            Kernel::Words(p) => pick(p, random) as f64,
            &Kernel::Normal(mean, deviation, _) => {
                let (low, high) = kind.bounds();
                // The mean is within and the deviation at most the range, so a third of all tries hits.
                let tries = (0..1000).map(|_| mean + deviation * random.normal());
                let within = |v: &f64| (low..=high).contains(v);
                kind.of_scale(tries.into_iter().find(within).unwrap_or(mean))
            }
        };
        self.kinds.iter().zip(&self.axes).map(value).collect()
    }

    /// Logarithm of the density.
    fn log_at(&self, values: &[f64]) -> f64 {
        let kernel = |k: usize| {
            let parts = self.kinds.iter().zip(&self.axes).zip(values);
            let part = |((kind, axis), &v): ((&&Kind, &Vec<Kernel>), &f64)| match &axis[k] {
                Kernel::Words(p) => p.get(v as usize).map_or(f64::NEG_INFINITY, |p| p.ln()),
                &Kernel::Normal(mean, deviation, within) => {
                    log_normal(kind, v, mean, deviation) - within
                }
            };
            self.weights[k].ln() + parts.map(part).sum::<f64>()
        };
        let logs: Vec<f64> = (0..self.weights.len()).map(kernel).collect();
        let largest = logs.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v));
        if largest == f64::NEG_INFINITY {
            return largest;
        }
        largest + logs.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
    }
}

/// Weights of so many observations in order.
fn ramp(n: usize) -> Vec<f64> {
    if n < RECENT {
        return vec![1.0; n];
    }
    let old = n - RECENT;
    let first = 1.0 / n as f64;
    let early = |i: usize| match old {
        1 => first,
        _ => first + (1.0 - first) * i as f64 / (old - 1) as f64,
    };
    (0..old).map(early).chain(std::iter::repeat_n(1.0, RECENT)).collect()
}

fn words(values: &[f64], choices: usize) -> Vec<Kernel> {
    let share = 1.0 / (values.len() + 1) as f64;
    let sum = choices as f64 * share + 1.0;
    let kernel = |&v: &f64| {
        let mut p = vec![share / sum; choices];
        if let Some(p) = p.get_mut(v as usize) {
            *p += 1.0 / sum;
        }
        Kernel::Words(p)
    };
    let prior = Kernel::Words(vec![1.0 / choices as f64; choices]);
    values.iter().map(kernel).chain([prior]).collect()
}

fn normals(kind: &Kind, values: &[f64]) -> Vec<Kernel> {
    let (low, high) = kind.bounds();
    // A range of one value has a kernel of some width all the same.
    let range = (high - low).max(1e-12);
    let means: Vec<f64> = values.iter().map(|&v| kind.to_scale(v)).collect();
    let mut order: Vec<usize> = (0..means.len()).collect();
    order.sort_by(|&a, &b| means[a].total_cmp(&means[b]));
    let least = range / (2.0 + means.len() as f64).min(100.0);
    let mut widths = vec![range; means.len()];
    for (at, &i) in order.iter().enumerate() {
        let gap = |a: usize, b: usize| means[order[b]] - means[order[a]];
        let left = at.checked_sub(1).map(|l| gap(l, at));
        let right = (at + 1 < order.len()).then(|| gap(at, at + 1));
        // The outermost look inwards only; one alone looks to the ends of the range.
        let width = match (left, right) {
            (None, None) => (means[i] - low).max(high - means[i]),
            (l, r) => l.unwrap_or(0.0).max(r.unwrap_or(0.0)),
        };
        widths[i] = width.clamp(least, range);
    }
    let kernel = |(mean, deviation): (f64, f64)| {
        let within = mass((low - mean) / deviation, (high - mean) / deviation);
        Kernel::Normal(mean, deviation, within.ln())
    };
    let prior = (0.5 * (low + high), range);
    means.into_iter().zip(widths).chain([prior]).map(kernel).collect()
}

/// Logarithm of a normal density at a value; of a whole number, of the probability of its step.
fn log_normal(kind: &Kind, v: f64, mean: f64, deviation: f64) -> f64 {
    if let &Kind::Int { step, .. } = kind {
        let (edge, half) = (|v: f64| (kind.to_scale(v) - mean) / deviation, 0.5 * step as f64);
        return mass(edge(v - half), edge(v + half)).max(f64::MIN_POSITIVE).ln();
    }
    let z = (kind.to_scale(v) - mean) / deviation;
    -0.5 * z * z - deviation.ln() - 0.5 * (2.0 * PI).ln()
}

/// The share of the standard normal distribution from `a` to `b`, exact in both tails.
fn mass(a: f64, b: f64) -> f64 {
    if a > 0.0 { tail(a) - tail(b) } else { tail(-b) - tail(-a) }
}

/// The share above `x`, from the series of the error function near zero and a continued fraction beyond.
fn tail(x: f64) -> f64 {
    let a = x.abs() * FRAC_1_SQRT_2;
    let above = if a < 2.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > 1e-17 * sum {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        0.5 - sum * (-a * a).exp() / PI.sqrt()
    } else if a < 27.0 {
        let mut fraction = a;
        for k in (1..60).rev() {
            fraction = a + f64::from(k) / 2.0 / fraction;
        }
        0.5 * (-a * a).exp() / (PI.sqrt() * fraction)
    } else {
        0.0
    };
    if x >= 0.0 { above } else { 1.0 - above }
}

/// One of weights that sum to 1.
fn pick(weights: &[f64], random: &mut Random) -> usize {
    let (mut at, place) = (0.0, random.unit());
    let found = weights.iter().position(|w| {
        at += w;
        place < at
    });
    found.unwrap_or(weights.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::super::Sampler;
    use super::*;

    #[test]
    fn tails_of_the_normal_distribution() {
        // scipy.stats.norm.sf
        for (x, want) in [
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457_05),
            (-1.0, 0.841_344_746_068_542_9),
            (2.9, 0.001_865_813_300_384_045),
            (6.0, 9.865_876_450_376_946e-10),
            (20.0, 2.753_624_118_606_232e-89),
        ] {
            assert!((tail(x) / want - 1.0).abs() < 1e-11, "{x}: {} not {want}", tail(x));
        }
        assert!((mass(5.0, 6.0) / 2.856_649_842_3e-7 - 1.0).abs() < 1e-8, "{}", mass(5.0, 6.0));
    }

    #[test]
    fn a_density_over_whole_numbers_sums_to_one() {
        for log in [false, true] {
            let kind = Kind::Int { low: 2, high: 41, step: 3, log };
            let kinds = [&kind];
            let rows: Vec<Vec<f64>> = [2.0, 5.0, 5.0, 17.0, 41.0].map(|v| vec![v]).into();
            let d = Density::new(&kinds, &rows);
            let sum: f64 = (2..=41).step_by(3).map(|v| d.log_at(&[f64::from(v)]).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        }
    }

    #[test]
    fn a_density_over_numbers_and_words_sums_to_one() {
        let words = Kind::Choice { of: ["a", "b", "c"].map(String::from).into() };
        let number = Kind::Float { low: -2.0, high: 3.0, log: false };
        let kinds = [&number, &words];
        let rows = [vec![-2.0, 0.0], vec![0.5, 2.0], vec![0.6, 2.0]];
        let d = Density::new(&kinds, &rows);
        let n = 4000;
        let at = |i: usize| -2.0 + 5.0 * (i as f64 + 0.5) / n as f64;
        let sum: f64 = (0..n)
            .flat_map(|i| (0..3).map(move |w| (i, w)))
            .map(|(i, w)| d.log_at(&[at(i), f64::from(w)]).exp() * 5.0 / n as f64)
            .sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }

    /// A study of `(x − 0.3)²`, `trials` long.
    fn parabola(seed: u64, sampler: Sampler, trials: usize) -> Vec<Trial> {
        let mut space = Space::default();
        space.add("x", Kind::Float { low: -5.0, high: 5.0, log: false });
        let mut history = Vec::new();
        for n in 0..trials {
            let point = sampler.propose(&space, &history, seed, n as u64);
            let value = -(point[0].unwrap() - 0.3).powi(2);
            history.push(Trial::told(n, point, State::Done, vec![value]));
        }
        history
    }

    #[test]
    fn the_same_seed_and_history_give_the_same_points() {
        let points = |seed| parabola(seed, Sampler::Tpe, 40).into_iter().map(|t| t.point);
        assert!(points(1).eq(points(1)));
        assert!(!points(1).eq(points(2)));
    }

    #[test]
    fn it_gets_nearer_than_chance() {
        let best = |sampler| {
            let seeds = (0..20).map(|s| {
                let values = parabola(s, sampler, 60).into_iter().map(|t| t.values[0]);
                -values.fold(f64::MIN, f64::max)
            });
            let mut all: Vec<f64> = seeds.collect();
            all.sort_by(f64::total_cmp);
            all[10]
        };
        let (tpe, random) = (best(Sampler::Tpe), best(Sampler::Random));
        assert!(tpe < 0.2 * random, "{tpe} {random}");
    }

    #[test]
    fn refused_regions_are_left() {
        let mut space = Space::default();
        space.add("x", Kind::Float { low: 0.0, high: 1.0, log: false });
        let (mut history, mut refused) = (Vec::new(), [0, 0]);
        for n in 0..120 {
            let point = Sampler::Tpe.propose(&space, &history, 4, n as u64);
            let x = point[0].unwrap();
            let trial = match x > 0.5 {
                true => Trial::told(n, point, State::Refused, vec![]),
                false => Trial::told(n, point, State::Done, vec![x]),
            };
            refused[n / 60] += usize::from(trial.state == State::Refused);
            history.push(trial);
        }
        assert!(refused[1] < refused[0], "{refused:?}");
    }
}
