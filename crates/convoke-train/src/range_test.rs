//! A learning rate found by trying: the range test of Smith (2017). The rate rises from step to step
//! by the same factor; where the loss is lowest, the rate is about as large as the network bears for a
//! moment, and a tenth of that is what it bears for a run.

use serde::Serialize;

/// One step of the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RatePoint {
    /// Learning rate of the step.
    pub lr: f64,
    /// Loss of its batch.
    pub loss: f64,
    /// Losses so far, the newest counting most.
    pub smooth: f64,
}

/// What the test found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RateCurve {
    /// Step by step.
    pub points: Vec<RatePoint>,
    /// The rate to train with.
    pub lr: f32,
}

impl RateCurve {
    /// The curve as CSV.
    pub fn csv(&self) -> String {
        let mut text = String::from("lr,loss,smooth\n");
        for p in &self.points {
            text += &format!("{:.8},{:.6},{:.6}\n", p.lr, p.loss, p.smooth);
        }
        text
    }
}

/// First and last rate, and the steps between them.
const RANGE: (f64, f64) = (1e-6, 10.0);
const STEPS: usize = 120;
/// Share of the past in the smoothed loss.
const PAST: f64 = 0.9;
/// The test ends where the smoothed loss is so many times its lowest.
const TOO_HIGH: f64 = 3.0;
/// The loss must fall to this share of the first at least, or the test says nothing.
const LOWERED: f64 = 0.98;
/// What is picked, as a share of the rate of the lowest loss.
const SHARE: f64 = 0.1;

/// The test under way.
#[derive(Debug, Default)]
pub(crate) struct RangeTest {
    points: Vec<RatePoint>,
    mean: f64,
}

impl RangeTest {
    /// The rate of the next step; `None` at the end.
    pub fn next(&self) -> Option<f32> {
        let n = self.points.len();
        let lowest = self.lowest().map_or(f64::INFINITY, |p| p.smooth);
        // The first losses are those of the network as it is.
        let high = n > 10 && self.points.last().is_some_and(|p| p.smooth > TOO_HIGH * lowest);
        if n >= STEPS || high {
            return None;
        }
        let share = n as f64 / (STEPS - 1) as f64;
        Some((RANGE.0 * (RANGE.1 / RANGE.0).powf(share)) as f32)
    }

    /// Notes the loss of the step; `false` where it is no number any more.
    pub fn add(&mut self, lr: f32, loss: f32) -> bool {
        if !loss.is_finite() {
            return false;
        }
        let loss = f64::from(loss);
        self.mean = PAST * self.mean + (1.0 - PAST) * loss;
        let smooth = self.mean / (1.0 - PAST.powi(self.points.len() as i32 + 1));
        self.points.push(RatePoint { lr: f64::from(lr), loss, smooth });
        true
    }

    fn lowest(&self) -> Option<&RatePoint> {
        self.points.iter().min_by(|a, b| a.smooth.total_cmp(&b.smooth))
    }

    /// The curve and the rate; `None` when no step was made, or none lowered the loss.
    pub fn finish(self) -> Option<RateCurve> {
        let (first, lowest) = (self.points.first()?.smooth, self.lowest()?);
        if lowest.smooth > LOWERED * first {
            return None;
        }
        let lr = (lowest.lr * SHARE) as f32;
        Some(RateCurve { points: self.points, lr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(loss: impl Fn(f64) -> f64) -> (usize, Option<RateCurve>) {
        let mut t = RangeTest::default();
        while let Some(lr) = t.next() {
            if !t.add(lr, loss(f64::from(lr)) as f32) {
                break;
            }
        }
        (t.points.len(), t.finish())
    }

    #[test]
    fn a_tenth_of_the_rate_of_the_lowest_loss_is_picked() {
        // Lowest at 0.1; the smoothed loss lags a little.
        let (steps, curve) = run(|lr| 1.0 + (lr.log10() + 1.0).powi(2) / 10.0);
        let curve = curve.unwrap();
        assert!((0.01..0.05).contains(&curve.lr), "{}", curve.lr);
        assert_eq!(steps, STEPS);
        assert_eq!(curve.csv().lines().count(), STEPS + 1);
    }

    #[test]
    fn it_ends_where_the_loss_bursts() {
        let burst = |lr: f64| if lr > 0.01 { 50.0 } else { 2.0 - lr * 100.0 };
        let (steps, curve) = run(burst);
        assert!(steps < STEPS * 2 / 3, "{steps}");
        assert!((5e-4..2e-3).contains(&curve.unwrap().lr));
        let (_, curve) = run(|lr| if lr > 0.01 { f64::NAN } else { 2.0 - lr * 100.0 });
        assert!((5e-4..2e-3).contains(&curve.unwrap().lr));
    }

    #[test]
    fn where_nothing_learns_nothing_is_picked() {
        assert_eq!(run(|_| 2.0).1.map(|c| c.lr), None);
        assert_eq!(run(|_| f64::NAN).1, None);
    }
}
