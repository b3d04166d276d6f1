//! What made a network decide on a signal, as shading under its curve.

use super::inside::{Inside, Target, Weights};
use crate::diagram::escape;
use crate::error::{Result, other};
use convoke_engine::NodeId;
use convoke_engine::layers::Layer;
use serde::Serialize;
use std::fmt::Write;

/// A signal with what its answer hangs on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shaded {
    /// What is written above.
    pub title: String,
    /// Channels.
    pub channels: usize,
    /// The input `[length, channels]`.
    pub values: Vec<f32>,
    /// How much each step of time speaks for the class, from 0 to 1.
    pub weight: Vec<f32>,
}

impl Inside {
    /// Class activation map of a signal's answer (Zhou et al. 2016; by gradients, Selvaraju et al. 2017) over the
    /// maps before each mean over time: of an ensemble, the mean of its members'.
    ///
    /// # Errors
    /// When the network takes pictures, or no map of more than one step.
    pub fn shade(&self, x: &[f32], target: &Target) -> Result<Vec<f32>> {
        let (net, input) = (self.network(), self.network().input_shape());
        if input.h != 1 {
            return other(format!("the network takes {input}, which is no signal"));
        }
        let mean = |(_, n): (NodeId, &convoke_engine::Node)| match n.layer {
            Some(Layer::GlobalMeanPool(_)) => n.inputs.first().copied(),
            _ => None,
        };
        let mut places: Vec<NodeId> = net.iter().filter_map(mean).collect();
        if places.is_empty() {
            places.push(self.last_map()?);
        }
        let mut sum = vec![0.0; input.w];
        for place in places {
            let map = self.grad_cam(x, target, place, Weights::Learned)?.per_pixel((1, input.w));
            let most = map.iter().fold(0.0f32, |m, v| m.max(*v));
            if most > 0.0 {
                sum.iter_mut().zip(&map).for_each(|(s, v)| *s += v / most);
            }
        }
        let most = sum.iter().fold(0.0f32, |m, v| m.max(*v)).max(1e-12);
        Ok(sum.into_iter().map(|v| v / most).collect())
    }
}

const WIDTH: f64 = 760.0;
const EACH: f64 = 170.0;
const COLOURS: [&str; 6] = ["#1f62a8", "#5b9069", "#9179b2", "#787c86", "#c9a227", "#2d3038"];

/// Signals one under the other, orange where they speak for their class.
pub fn shaded_curves(all: &[Shaded]) -> String {
    let height = EACH * all.len() as f64 + 10.0;
    let mut t = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\"><style>text{{font:12px system-ui,sans-serif;fill:#2d3038}}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (i, s) in all.iter().enumerate() {
        curve(&mut t, s, EACH * i as f64);
    }
    t.push_str("</svg>");
    t
}

fn curve(t: &mut String, s: &Shaded, top: f64) {
    let steps = s.weight.len().max(1);
    let wide = (WIDTH - 20.0) / steps as f64;
    let (upper, tall) = (top + 26.0, EACH - 40.0);
    let _ = writeln!(t, "<text x=\"10\" y=\"{:.1}\">{}</text>", top + 18.0, escape(&s.title));
    for (k, w) in s.weight.iter().enumerate().filter(|(_, w)| **w > 0.02) {
        let _ = writeln!(
            t,
            "<rect x=\"{:.1}\" y=\"{upper:.1}\" width=\"{:.2}\" height=\"{tall:.1}\" fill=\"#d66016\" fill-opacity=\"{:.2}\"/>",
            10.0 + wide * k as f64,
            wide + 0.3,
            0.55 * f64::from(*w)
        );
    }
    let finite = s.values.iter().filter(|v| v.is_finite());
    let (low, high) = finite.fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    let y = |v: f32| upper + tall * (1.0 - f64::from((v - low) / (high - low).max(1e-6)));
    for c in 0..s.channels {
        let channel = s.values.iter().skip(c).step_by(s.channels).enumerate();
        let points = channel.filter(|p| p.1.is_finite());
        let points: Vec<String> = points
            .map(|(k, &v)| format!("{:.1},{:.1}", 10.0 + wide * (k as f64 + 0.5), y(v)))
            .collect();
        let _ = writeln!(
            t,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>",
            points.join(" "),
            COLOURS[c % COLOURS.len()]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_data::{Fit, Norm, Preprocess, SignalPreprocess};
    use convoke_engine::{Builder, Plan, PlanOptions, Session, Shape, layers::Conv};
    use convoke_formats::{ModelFile, ensemble};

    /// A network that answers class 1 by the mean of one filter, which looks for a bump.
    fn model() -> ModelFile {
        let mut b = Builder::new("bump", Shape::new(1, 40, 1));
        b.conv(Conv::signal(2, 3).no_bias()).relu().global_mean_pool().dense(2);
        let network = b.build().unwrap();
        let mut s =
            Session::new(Plan::compile(&network, &PlanOptions::predict(1, 1)).unwrap()).unwrap();
        s.init(1);
        let mut params = s.params().to_vec();
        // Window `[3, filters]`: the first filter adds up, the second is silent; then dense `[2, 2]` and bias.
        params[..6].copy_from_slice(&[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        params[6..].copy_from_slice(&[-1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let signal = Some(SignalPreprocess { norm: Norm::None, fit: Fit::Pad });
        ModelFile {
            network,
            classes: vec!["flat".into(), "bump".into()],
            preprocess: Preprocess { signal, ..Preprocess::plain(1, 40, 1) },
            task: "classify".into(),
            params,
            state: Vec::new(),
            facts: Default::default(),
            extra: Default::default(),
        }
    }

    #[test]
    fn what_speaks_for_a_class_is_shaded_and_so_for_an_ensemble() {
        let mut x = vec![0.0; 40];
        (25..29).for_each(|t| x[t] = 1.0);
        let joined = ensemble(&[model(), model()]).unwrap();
        for m in [model(), joined] {
            let inside = Inside::new(m, 1).unwrap();
            let target = inside.target(&x, Some(1)).unwrap();
            assert_eq!(target.name, "bump");
            let weight = inside.shade(&x, &target).unwrap();
            let most = (0..40).max_by(|&a, &b| weight[a].total_cmp(&weight[b])).unwrap();
            assert!((25..29).contains(&most) && weight[5] < 0.1, "{weight:?}");
            let title = "bump <1>".to_string();
            let svg = shaded_curves(&[Shaded { title, channels: 1, values: x.clone(), weight }]);
            assert!(
                svg.contains("bump &lt;1&gt;") && !svg.contains("NaN") && svg.ends_with("</svg>")
            );
        }
    }
}
