//! Reverse-mode differentiation of single numbers in f64: every number remembers what it was made of. Slow, short,
//! and without a line in common with the kernels.

use crate::draw::Rng;

/// A number on the tape.
pub type Var = u32;

pub struct Tape {
    values: Vec<f64>,
    /// Where a number's parts begin in `parts`; one more than there are numbers.
    begins: Vec<usize>,
    /// What a number depends on, and its derivative there.
    parts: Vec<(Var, f64)>,
    /// How near the nearest kink is: what an input may be off by before a maximum or a rectifier decides otherwise.
    pub margin: f64,
    /// Relative error of what is given and of every derivative, at most; drawn from `dice`.
    rounding: f64,
    dice: Rng,
}

impl Tape {
    pub fn new(rounding: f64, seed: u64) -> Self {
        let (values, parts) = (Vec::new(), Vec::new());
        let (begins, margin, dice) = (vec![0], f64::INFINITY, Rng(seed));
        Self { values, begins, parts, margin, rounding, dice }
    }

    fn rounded(&mut self, v: f64) -> f64 {
        v * (1.0 + self.rounding * f64::from(self.dice.number()))
    }

    pub fn value(&self, v: Var) -> f64 {
        self.values[v as usize]
    }

    pub fn values(&self, vars: &[Var]) -> Vec<f64> {
        vars.iter().map(|&v| self.value(v)).collect()
    }

    /// A number that depends on `parts` with these derivatives.
    pub fn push(&mut self, value: f64, parts: impl IntoIterator<Item = (Var, f64)>) -> Var {
        self.values.push(value);
        self.parts.extend(parts);
        self.begins.push(self.parts.len());
        self.values.len() as Var - 1
    }

    pub fn leaf(&mut self, value: f64) -> Var {
        self.push(value, [])
    }

    pub fn leaves(&mut self, values: &[f32]) -> Vec<Var> {
        let leaf = |&v: &f32| {
            let v = self.rounded(f64::from(v));
            self.leaf(v)
        };
        values.iter().map(leaf).collect()
    }

    /// Notes how far a decision was from falling the other way.
    pub fn decided_by(&mut self, distance: f64) {
        self.margin = self.margin.min(distance.abs());
    }

    pub fn add(&mut self, a: Var, b: Var) -> Var {
        self.push(self.value(a) + self.value(b), [(a, 1.0), (b, 1.0)])
    }

    pub fn mul(&mut self, a: Var, b: Var) -> Var {
        let (x, y) = (self.value(a), self.value(b));
        self.push(x * y, [(a, y), (b, x)])
    }

    /// Sum of the numbers, each times a constant.
    pub fn weighted(&mut self, terms: &[(Var, f64)]) -> Var {
        let sum = terms.iter().map(|&(v, k)| k * self.value(v)).sum();
        self.push(sum, terms.iter().copied())
    }

    pub fn mean(&mut self, vars: &[Var]) -> Var {
        let k = 1.0 / vars.len() as f64;
        let terms: Vec<_> = vars.iter().map(|&v| (v, k)).collect();
        self.weighted(&terms)
    }

    /// Sum of products of pairs, and a bias.
    pub fn products(&mut self, pairs: &[(Var, Var)], bias: Option<Var>) -> Var {
        let sum: f64 = pairs.iter().map(|&(a, b)| self.value(a) * self.value(b)).sum();
        let sum = sum + bias.map_or(0.0, |b| self.value(b));
        let parts: Vec<_> = pairs
            .iter()
            .flat_map(|&(a, b)| [(a, self.value(b)), (b, self.value(a))])
            .chain(bias.map(|b| (b, 1.0)))
            .collect();
        self.push(sum, parts)
    }

    /// The largest; decided by its lead over the second.
    pub fn max(&mut self, vars: &[Var]) -> Var {
        let best = *vars
            .iter()
            .reduce(|a, b| if self.value(*b) > self.value(*a) { b } else { a })
            .unwrap();
        let second =
            vars.iter().filter(|&&v| v != best).map(|&v| self.value(v)).fold(f64::MIN, f64::max);
        self.decided_by(self.value(best) - second);
        self.push(self.value(best), [(best, 1.0)])
    }

    /// Derivatives of one number by all numbers before it.
    pub fn gradients(&mut self, of: Var) -> Vec<f64> {
        let mut g = vec![0.0; self.values.len()];
        g[of as usize] = 1.0;
        for i in (0..=of as usize).rev() {
            if g[i] == 0.0 {
                continue;
            }
            g[i] = self.rounded(g[i]);
            for &(v, d) in &self.parts[self.begins[i]..self.begins[i + 1]] {
                g[v as usize] += g[i] * d;
            }
        }
        g
    }
}
