//! What made the network decide: how its answer hangs on every part of the input.

use super::inside::{Inside, Target, Weights};
use crate::canvas::upsample;
use crate::error::{Result, other};
use convoke_engine::NodeId;
use serde::Serialize;

/// A way to share an answer out over the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Class activation map by gradients (Selvaraju et al. 2017).
    GradCam,
    /// Gradient of the answer by the input (Simonyan et al. 2014).
    Gradient,
    /// The same with ReLUs that pass on positive gradients only (Springenberg et al. 2015).
    Guided,
    /// Mean gradient on the way from a blank input, times the way (Sundararajan et al. 2017).
    Integrated,
    /// What the answer loses when a square of the input is blank (Zeiler and Fergus 2014).
    Occlusion,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 5] =
        [Method::GradCam, Method::Gradient, Method::Guided, Method::Integrated, Method::Occlusion];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Method::GradCam => "Grad-CAM",
            Method::Gradient => "gradient",
            Method::Guided => "guided gradient",
            Method::Integrated => "integrated gradients",
            Method::Occlusion => "occlusion",
        }
    }
}

/// An answer shared out over the input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attribution {
    /// How.
    pub method: Method,
    /// Rows and columns.
    pub size: (usize, usize),
    /// Channels: 1 for maps over places, else those of the input.
    pub channels: usize,
    /// `[h, w, channels]`.
    pub values: Vec<f32>,
}

impl Attribution {
    /// One number per pixel for drawing, at the input's size: the largest magnitude over the channels of
    /// gradients, the sum over them of shares, a map of places brought to the input's size.
    pub fn per_pixel(&self, input: (usize, usize)) -> Vec<f32> {
        let fold: fn(&[f32]) -> f32 = match self.method {
            Method::Gradient | Method::Guided => |p| p.iter().fold(0.0, |m, v| m.max(v.abs())),
            _ => |p| p.iter().sum(),
        };
        let values: Vec<f32> = self.values.chunks_exact(self.channels.max(1)).map(fold).collect();
        if self.size == input { values } else { upsample(&values, self.size, input) }
    }
}

/// The square that hides a part of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Occluder {
    /// Side in pixels.
    pub window: usize,
    /// Step between two places.
    pub stride: usize,
}

impl Occluder {
    /// A seventh of the input's longer side, moved by half of itself.
    pub fn suited(height: usize, width: usize) -> Self {
        let window = (height.max(width) / 7).max(1);
        Occluder { window, stride: window.div_ceil(2) }
    }
}

/// How like an explanation is to that of a network of drawn weights: a method that explains the network, and
/// not merely the picture, gives another (Adebayo et al. 2018).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sanity {
    /// The method.
    pub method: Method,
    /// Spearman's rank correlation of the magnitudes, from −1 to 1.
    pub correlation: f64,
    /// Whether it is below one half.
    pub passed: bool,
}

/// Steps of integrated gradients.
const STEPS: usize = 50;
/// Inputs at a time.
const BATCH: usize = 10;

impl Inside {
    /// Explains one number of the output.
    ///
    /// # Errors
    /// When the network has no map to draw (Grad-CAM), or memory is short.
    pub fn explain(
        &self,
        x: &[f32],
        target: &Target,
        method: Method,
        weights: Weights,
    ) -> Result<Attribution> {
        let s = self.network().input_shape();
        let whole = |values| Attribution { method, size: (s.h, s.w), channels: s.c, values };
        match method {
            Method::Gradient => Ok(whole(self.gradient(x, target, false, weights)?)),
            Method::Guided => Ok(whole(self.gradient(x, target, true, weights)?)),
            Method::Integrated => Ok(whole(self.integrated(x, target, STEPS, weights)?)),
            Method::GradCam => self.grad_cam(x, target, self.cam_map(x, target)?, weights),
            Method::Occlusion => {
                self.occlusion(x, target, Occluder::suited(s.h, s.w), weights).map(whole)
            }
        }
    }

    /// Gradient of the target by the input, `[h, w, c]`.
    ///
    /// # Errors
    /// When memory is short.
    pub fn gradient(
        &self,
        x: &[f32],
        target: &Target,
        guided: bool,
        weights: Weights,
    ) -> Result<Vec<f32>> {
        let mut s = self.gradients(self.logits(), &[], 1, guided, weights)?;
        s.input_mut().copy_from_slice(x);
        s.predict(1)?;
        s.seed_mut().fill(0.0);
        s.seed_mut()[target.index] = 1.0;
        s.explain(1)?;
        match s.gradient(self.network().input()) {
            Some(g) => Ok(g.to_vec()),
            None => other("the output does not depend on the input"),
        }
    }

    /// Integrated gradients from an input of zeros (the mean colour, where colours are normalised), by
    /// Gauss and Legendre's rule, `[h, w, c]`. They sum to what the target gains on the way.
    ///
    /// # Errors
    /// When memory is short.
    pub fn integrated(
        &self,
        x: &[f32],
        target: &Target,
        steps: usize,
        weights: Weights,
    ) -> Result<Vec<f32>> {
        let logits = self.logits();
        let mut s = self.gradients(logits, &[], BATCH, false, weights)?;
        let per = self.network().node(logits).shape.len();
        let mut mean = vec![0.0f64; x.len()];
        for part in gauss_legendre(steps).chunks(BATCH) {
            let input = s.input_mut();
            input.fill(0.0);
            for (row, (at, _)) in input.chunks_exact_mut(x.len()).zip(part) {
                row.iter_mut().zip(x).for_each(|(r, v)| *r = *at as f32 * v);
            }
            s.predict(BATCH)?;
            s.seed_mut().fill(0.0);
            for i in 0..part.len() {
                s.seed_mut()[i * per + target.index] = 1.0;
            }
            s.explain(BATCH)?;
            let Some(g) = s.gradient(self.network().input()) else {
                return other("the output does not depend on the input");
            };
            for (g, (_, weight)) in g.chunks_exact(x.len()).zip(part) {
                mean.iter_mut().zip(g).for_each(|(m, g)| *m += weight * f64::from(*g));
            }
        }
        Ok(mean.iter().zip(x).map(|(m, v)| (m * f64::from(*v)) as f32).collect())
    }

    /// Grad-CAM at a place: its maps, weighed by their mean gradients, summed, negative sums left out.
    ///
    /// # Errors
    /// When the target does not depend on the place.
    pub fn grad_cam(
        &self,
        x: &[f32],
        target: &Target,
        place: NodeId,
        weights: Weights,
    ) -> Result<Attribution> {
        let mut s = self.gradients(self.logits(), &[place], 1, false, weights)?;
        s.input_mut().copy_from_slice(x);
        s.predict(1)?;
        s.seed_mut().fill(0.0);
        s.seed_mut()[target.index] = 1.0;
        s.explain(1)?;
        let node = self.network().node(place);
        let (Some(maps), Some(g)) = (s.map(place), s.gradient(place)) else {
            return other(format!("the answer does not depend on `{}`", node.name));
        };
        let (c, n) = (node.shape.c, node.shape.pixels());
        let mean =
            |k: usize| g[k..].iter().step_by(c).map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        let mean: Vec<f64> = (0..c).map(mean).collect();
        let sum = |m: &[f32]| m.iter().zip(&mean).map(|(m, w)| f64::from(*m) * w).sum::<f64>();
        let values = maps.chunks_exact(c).map(|m| sum(m).max(0.0) as f32).collect();
        let size = (node.shape.h, node.shape.w);
        Ok(Attribution { method: Method::GradCam, size, channels: 1, values })
    }

    /// What the target loses, on average over the squares of zeros that cover a pixel, `[h, w, c]`.
    ///
    /// # Errors
    /// When memory is short.
    pub fn occlusion(
        &self,
        x: &[f32],
        target: &Target,
        occluder: Occluder,
        weights: Weights,
    ) -> Result<Vec<f32>> {
        let (logits, shape) = (self.logits(), self.network().input_shape());
        let Occluder { window, stride } = occluder;
        // A last square that is cut short where the steps do not fit.
        let steps = |n: usize| n.saturating_sub(window).div_ceil(stride.max(1)) + 1;
        let squares: Vec<(usize, usize)> = (0..steps(shape.h))
            .flat_map(|y| (0..steps(shape.w)).map(move |x| (y * stride, x * stride)))
            .collect();
        let mut s = self.predict(&[logits], BATCH, weights)?;
        let per = self.network().node(logits).shape.len();
        s.input_mut()[..x.len()].copy_from_slice(x);
        s.predict(1)?;
        let whole = s.map(logits).map_or(0.0, |m| m[target.index]);
        let inside = |(top, left): (usize, usize)| {
            let rows = top..(top + window).min(shape.h);
            rows.map(move |y| (y, left..(left + window).min(shape.w)))
        };
        let (mut loss, mut count) = (vec![0.0f32; shape.pixels()], vec![0u32; shape.pixels()]);
        for part in squares.chunks(BATCH) {
            for (row, &square) in s.input_mut().chunks_exact_mut(x.len()).zip(part) {
                row.copy_from_slice(x);
                for (y, columns) in inside(square) {
                    let at = |x: usize| (y * shape.w + x) * shape.c;
                    row[at(columns.start)..at(columns.end)].fill(0.0);
                }
            }
            s.predict(part.len())?;
            let answers = s.map(logits).unwrap_or_default();
            for (i, &square) in part.iter().enumerate() {
                let lost = whole - answers[i * per + target.index];
                for (y, columns) in inside(square) {
                    for x in columns {
                        loss[y * shape.w + x] += lost;
                        count[y * shape.w + x] += 1;
                    }
                }
            }
        }
        let mean = loss.iter().zip(&count).map(|(l, n)| l / (*n).max(1) as f32);
        Ok(mean.flat_map(|v| std::iter::repeat_n(v, shape.c)).collect())
    }

    /// Compares an explanation with that of drawn weights.
    ///
    /// # Errors
    /// As [`Inside::explain`].
    pub fn sanity(
        &self,
        x: &[f32],
        target: &Target,
        of: &Attribution,
    ) -> Result<(Sanity, Attribution)> {
        let drawn = self.explain(x, target, of.method, Weights::Drawn(1))?;
        let sizes =
            |a: &Attribution| a.per_pixel(a.size).iter().map(|v| v.abs()).collect::<Vec<_>>();
        // Where neither says anything, as beyond the field of an answer at one place, they agree on nothing.
        let (a, b): (Vec<f32>, Vec<f32>) =
            sizes(of).into_iter().zip(sizes(&drawn)).filter(|p| *p != (0.0, 0.0)).unzip();
        let correlation = rank_correlation(&a, &b);
        let passed = correlation < 0.5;
        Ok((Sanity { method: of.method, correlation, passed }, drawn))
    }
}

/// Places in 0..1 and weights of Gauss and Legendre's rule with `n` points.
pub fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let root = |i: usize| {
        // Newton's method from Tricomi's guess.
        let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut p, mut before) = (1.0, 0.0);
            for k in 0..n {
                let next = ((2 * k + 1) as f64 * x * p - k as f64 * before) / (k + 1) as f64;
                (before, p) = (p, next);
            }
            slope = n as f64 * (x * p - before) / (x * x - 1.0);
            let step = p / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        (0.5 * (1.0 - x), 1.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..n).map(root).collect()
}

/// Spearman's correlation: Pearson's of the ranks, equal numbers sharing theirs.
pub(crate) fn rank_correlation(a: &[f32], b: &[f32]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let same =
            order[from..].iter().take_while(|&&i| values[i] == values[order[from]]).count().max(1);
        for &i in &order[from..from + same] {
            ranks[i] = from as f64 + (same - 1) as f64 / 2.0;
        }
        from += same;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_n_points_is_exact_up_to_degree_2n_minus_1() {
        for n in [1, 2, 5, 50] {
            let rule = gauss_legendre(n);
            for degree in 0..2 * n {
                let sum: f64 = rule.iter().map(|(x, w)| w * x.powi(degree as i32)).sum();
                assert!(
                    (sum - 1.0 / (degree + 1) as f64).abs() < 1e-12,
                    "{n} points, degree {degree}"
                );
            }
        }
    }

    #[test]
    fn ranks_are_shared_by_equal_numbers() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0]), [2.5, 1.0, 2.5, 0.0]);
        assert!((rank_correlation(&[1.0, 2.0, 3.0], &[1.0, 8.0, 9.0]) - 1.0).abs() < 1e-12);
        assert!((rank_correlation(&[1.0, 2.0, 3.0], &[9.0, 8.0, 1.0]) + 1.0).abs() < 1e-12);
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }
}
