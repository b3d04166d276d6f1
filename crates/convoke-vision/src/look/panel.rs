//! All explanations of one answer side by side, those of drawn weights below.

use super::explain::{Attribution, Method, Sanity};
use super::inside::{Inside, Target, Weights};
use crate::canvas::{Canvas, Font, GAP, INK, Tile, colours, fit, grid, stack, veil};
use crate::error::Result;
use convoke_data::Picture;
use serde::Serialize;

/// Explanations of one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// What is explained.
    pub target: Target,
    /// What a blank input answers instead.
    pub blank: f32,
    /// The layer that class activation maps are drawn from.
    pub cam_layer: String,
    /// How far the integrated gradients' sum is off what the answer gains over the blank input's.
    pub completeness: f64,
    /// How like each is to that of drawn weights.
    pub sanity: Vec<Sanity>,
    /// The explanations.
    #[serde(skip)]
    pub attributions: Vec<Attribution>,
    /// Those of drawn weights.
    #[serde(skip)]
    pub drawn: Vec<Attribution>,
}

impl Inside {
    /// Explains an answer in the given ways and checks each against drawn weights.
    ///
    /// # Errors
    /// As [`Inside::explain`].
    pub fn explained(&self, x: &[f32], target: &Target, methods: &[Method]) -> Result<Explained> {
        let mut all = Explained {
            target: target.clone(),
            blank: self.logit(&vec![0.0; x.len()], target)?,
            cam_layer: self.network().node(self.cam_map(x, target)?).name.clone(),
            completeness: 0.0,
            sanity: Vec::new(),
            attributions: Vec::new(),
            drawn: Vec::new(),
        };
        for &method in methods {
            let a = self.explain(x, target, method, Weights::Learned)?;
            let (sanity, drawn) = self.sanity(x, target, &a)?;
            if method == Method::Integrated {
                let sum: f64 = a.values.iter().map(|v| f64::from(*v)).sum();
                all.completeness = sum - f64::from(target.logit - all.blank);
            }
            all.sanity.push(sanity);
            all.attributions.push(a);
            all.drawn.push(drawn);
        }
        Ok(all)
    }

    /// The target's logit of another input.
    fn logit(&self, x: &[f32], target: &Target) -> Result<f32> {
        let logits = self.logits();
        let mut s = self.predict(&[logits], 1, Weights::Learned)?;
        s.input_mut().copy_from_slice(x);
        s.predict(1)?;
        Ok(s.map(logits).map_or(0.0, |m| m[target.index]))
    }
}

/// Explanations beside the picture that the network saw; those of drawn weights below, with how like they are.
///
/// # Errors
/// When a picture cannot be resized.
pub fn explained_picture(seen: &Picture, e: &Explained) -> Result<Picture> {
    let input = (seen.height, seen.width);
    let draw = |a: &Attribution| {
        let values = a.per_pixel(input);
        let values = if a.method == Method::GradCam { values } else { without_specks(values) };
        let picture = match a.method {
            Method::GradCam => veil(seen, &values),
            _ => colours(&values, input.0, input.1),
        };
        fit(&picture, 224)
    };
    let answer = format!("{:.1} %, logit {:.2}", 100.0 * e.target.probability, e.target.logit);
    let name: String = e.target.name.chars().take(30).collect();
    let mut top = vec![Tile::new(fit(seen, 224)?, &[&name, &answer])];
    let mut below =
        vec![Tile::new(Picture::filled(top[0].picture.width, 1, crate::canvas::PAPER), &[])];
    for ((a, d), s) in e.attributions.iter().zip(&e.drawn).zip(&e.sanity) {
        let note = match a.method {
            Method::GradCam => format!("at {}", e.cam_layer),
            Method::Integrated => format!("sum off by {:.1e}", e.completeness),
            _ => String::new(),
        };
        top.push(Tile::new(draw(a)?, &[a.method.name(), &note]));
        let verdict = if s.passed { "explains the network" } else { "tells of the picture alone" };
        below.push(Tile::new(
            draw(d)?,
            &[&format!("rank correlation {:.2}", s.correlation), verdict],
        ));
    }
    let columns = top.len();
    let upper = grid("What made it decide", &top, columns, Font::Plain);
    let lower = grid(
        "The same with drawn weights: a good explanation looks different",
        &below,
        columns,
        Font::Plain,
    );
    let note =
        "red speaks for the answer, blue against it; where there is no blue, light is strong";
    let mut canvas = Canvas::new(2 * GAP + 7 * note.len(), 20);
    canvas.text(note, GAP, 0, Font::Plain, INK);
    Ok(stack(&[upper, lower, canvas.0]))
}

/// The strongest one in two hundred cut down, so that a few specks do not take all the colour.
fn without_specks(mut values: Vec<f32>) -> Vec<f32> {
    let mut sizes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    sizes.sort_by(f32::total_cmp);
    let most = sizes.get(sizes.len() * 199 / 200).copied().unwrap_or(0.0);
    if most > 0.0 {
        values.iter_mut().for_each(|v| *v = v.clamp(-most, most));
    }
    values
}
