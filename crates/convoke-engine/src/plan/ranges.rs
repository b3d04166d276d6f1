//! What values maps take: watched on real input, so that 8-bit integers can stand for them.

use super::unit;
use crate::layers::Layer;
use crate::{Network, NodeId, PlanOptions, Session};
use convoke_kernels::conv::Range8;
use std::collections::BTreeMap;

/// The range of each map that a convolution or dense layer reads, or that another one makes to be added, by the name of
/// the layer that makes it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ranges(BTreeMap<String, (f32, f32)>);

impl Ranges {
    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Layers and `(lowest, highest)` values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, (f32, f32))> {
        self.0.iter().map(|(name, &range)| (name.as_str(), range))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Range8> {
        self.0.get(name).and_then(|&(lo, hi)| Range8::new(lo, hi))
    }
}

impl FromIterator<(String, (f32, f32))> for Ranges {
    fn from_iter<I: IntoIterator<Item = (String, (f32, f32))>>(ranges: I) -> Self {
        Ranges(ranges.into_iter().collect())
    }
}

/// Watches the maps of a session's runs, to find their [`Ranges`].
#[derive(Debug)]
pub struct Watch {
    maps: Vec<(NodeId, Histogram)>,
}

impl Watch {
    /// The maps that convolutions and dense layers of a network read, and those that they make to be added to another's.
    pub fn new(net: &Network) -> Self {
        let reads = |l: &Option<Layer>| matches!(l, Some(Layer::Conv(_) | Layer::Dense(_)));
        let mut ids: Vec<NodeId> =
            net.iter().filter(|(_, n)| reads(&n.layer)).map(|(_, n)| n.inputs[0]).collect();
        let units = unit::join(net, false, &[]);
        let made = |place: &NodeId| {
            units.iter().any(|u| u.output == *place && reads(&net.node(u.main).layer))
        };
        ids.extend(units.iter().filter_map(|u| u.residual).filter(made));
        ids.sort_by_key(|id| id.index());
        ids.dedup();
        Watch { maps: ids.into_iter().map(|id| (id, Histogram::default())).collect() }
    }

    /// Options of a plan whose runs can be watched: in f32, with the maps kept.
    pub fn options(&self, batch: usize, threads: usize) -> PlanOptions {
        let keep = self.maps.iter().map(|(id, _)| *id).collect();
        PlanOptions { keep, ..PlanOptions::predict(batch, threads) }
    }

    /// Takes in what the last run of `n` samples left.
    pub fn add(&mut self, session: &Session, n: usize) {
        let plan = session.plan();
        for (id, histogram) in &mut self.maps {
            if let Some(map) = session.map(*id) {
                let len = n * plan.network().node(*id).shape.len();
                histogram.add(&map[..len.min(map.len())]);
            }
        }
    }

    /// The ranges with the least mean square error of what was seen. A map that was zero throughout, or that
    /// had numbers that are not finite, has none.
    pub fn ranges(&self, net: &Network) -> Ranges {
        let range = |(id, h): &(NodeId, Histogram)| Some((net.node(*id).name.clone(), h.best()?));
        self.maps.iter().filter_map(range).collect()
    }
}

/// Bins on either side of zero.
const BINS: usize = 2048;
/// Cuts that are tried on either side, as parts of the largest value.
const CUTS: usize = 100;

/// How often which values were seen. The largest that the bins hold doubles as it must.
#[derive(Debug, Clone)]
struct Histogram {
    /// From the most negative to the most positive.
    bins: Vec<u64>,
    /// Magnitude at which the bins end.
    end: f32,
    lo: f32,
    hi: f32,
    finite: bool,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { bins: vec![0; 2 * BINS], end: 0.0, lo: 0.0, hi: 0.0, finite: true }
    }
}

impl Histogram {
    fn add(&mut self, values: &[f32]) {
        let (lo, hi) =
            values.iter().fold((self.lo, self.hi), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let most = hi.max(-lo);
        self.finite &= most.is_finite() && values.iter().all(|v| v.is_finite());
        if !self.finite || most == 0.0 {
            return;
        }
        (self.lo, self.hi) = (lo, hi);
        if self.end == 0.0 {
            self.end = most;
        }
        while self.end < most {
            self.double();
        }
        let per = BINS as f32 / self.end;
        for &v in values {
            // Zero is held exactly, whatever the range.
            if v != 0.0 {
                let bin =
                    ((v * per).floor() as isize + BINS as isize).clamp(0, 2 * BINS as isize - 1);
                self.bins[bin as usize] += 1;
            }
        }
    }

    fn double(&mut self) {
        let mut bins = vec![0; 2 * BINS];
        for (i, n) in self.bins.iter().enumerate() {
            bins[BINS / 2 + i / 2] += n;
        }
        self.bins = bins;
        self.end *= 2.0;
    }

    /// The range with the least mean square error, of those that cut the same parts off either side's largest
    /// value or one side's alone.
    fn best(&self) -> Option<(f32, f32)> {
        if !self.finite || self.end == 0.0 {
            return None;
        }
        let (mut lo, mut hi) = (f64::from(self.lo), f64::from(self.hi));
        // One side after the other, and again, since each depends on the other.
        for _ in 0..3 {
            let part = |i: usize| (i + 1) as f64 / CUTS as f64;
            let least = |of: &dyn Fn(f64) -> f64| {
                let tried = (0..CUTS).map(|i| (of(part(i)), part(i)));
                tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |best| best.1)
            };
            let (low, high) = (f64::from(self.lo), f64::from(self.hi));
            hi = high * least(&|p| self.error(lo, high * p));
            lo = low * least(&|p| self.error(low * p, hi));
        }
        Some((lo as f32, hi as f32))
    }

    /// Sum of squared errors of what was seen, if `lo ..= hi` takes 255 steps.
    fn error(&self, lo: f64, hi: f64) -> f64 {
        let step = (hi - lo) / 255.0;
        let width = f64::from(self.end) / BINS as f64;
        let of = |(i, &n): (usize, &u64)| {
            let value = (i as f64 + 0.5 - BINS as f64) * width;
            let beyond = (lo - value).max(value - hi).max(0.0);
            // Numbers smaller than half a step become zero.
            let inside = if value.abs() < step / 2.0 { value * value } else { step * step / 12.0 };
            n as f64 * if beyond > 0.0 { beyond * beyond } else { inside }
        };
        self.bins.iter().enumerate().filter(|(_, n)| **n > 0).map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cut_off_what_is_rare_and_far_away() {
        let mut h = Histogram::default();
        let values: Vec<f32> = (0..100_000).map(|i| (i % 1000) as f32 / 1000.0).collect();
        h.add(&values);
        let (lo, hi) = h.best().unwrap();
        assert!(lo == 0.0 && (0.95..=1.0).contains(&hi), "{lo} {hi}");
        // One number of a million at 8: (8 − hi)² + 10⁶ · (hi / 255)² / 12 is least at 3.5.
        (0..9).for_each(|_| h.add(&values));
        h.add(&[8.0]);
        let (_, hi) = h.best().unwrap();
        assert!((3.3..3.7).contains(&hi), "{hi}");
        let mut many = h.clone();
        many.add(&vec![8.0; 20_000]);
        assert!(many.best().unwrap().1 > 7.5);
    }

    #[test]
    fn bins_that_double_keep_every_number() {
        let mut h = Histogram::default();
        for i in 0..40 {
            h.add(&[1.5f32.powi(i), -(1.3f32.powi(i))]);
        }
        assert_eq!(h.bins.iter().sum::<u64>(), 80);
        let (lo, hi) = h.best().unwrap();
        assert!(hi <= h.hi && lo >= h.lo && hi > 0.5 * h.hi);
    }

    #[test]
    fn what_is_no_number_or_always_zero_has_no_range() {
        let mut h = Histogram::default();
        h.add(&[0.0; 8]);
        assert!(h.best().is_none());
        h.add(&[1.0, f32::NAN]);
        assert!(h.best().is_none());
        let mut h = Histogram::default();
        h.add(&[f32::INFINITY]);
        assert!(h.best().is_none());
    }
}
