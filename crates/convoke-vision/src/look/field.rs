//! Receptive fields: what a place can see by the network's windows, and what it does see by its gradient.

use super::inside::{Inside, Weights};
use crate::bounds::Bounds;
use crate::canvas::{Canvas, Font, GAP, INK, SOFT, Tile, fit, grid, stack, strip, veil};
use crate::draw::{BEST, FURTHER, frame, in_colour};
use crate::error::{Result, other};
use convoke_data::Picture;
use convoke_engine::{Field, NodeId};
use serde::Serialize;

/// What one place sees by its gradient: the effective receptive field (Luo et al. 2016).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Effective {
    /// Rows and columns of the input.
    pub size: (usize, usize),
    /// Mean over the inputs of the gradient's magnitude, summed over channels: `[h, w]`.
    pub values: Vec<f32>,
    /// Root of the number of pixels above 4.55 % of the strongest, as Luo et al. measure it.
    pub side: f64,
    /// The middle 95 % of the gradient along rows and columns: first row and column, height, width.
    pub middle: [usize; 4],
    /// Share of the gradient within that box.
    pub share: f64,
}

impl Effective {
    /// Measures a map of magnitudes `[h, w]`.
    pub fn of(values: Vec<f32>, (h, w): (usize, usize)) -> Self {
        let most = values.iter().fold(0.0f32, |m, v| m.max(*v));
        let least = (1.0 - 0.9545) * f64::from(most);
        let count = values.iter().filter(|v| most > 0.0 && f64::from(**v) > least).count();
        let row = |y: usize| values[y * w..][..w].iter().map(|v| f64::from(*v)).sum::<f64>();
        let column = |x: usize| (0..h).map(|y| f64::from(values[y * w + x])).sum::<f64>();
        let (top, height) = middle(&(0..h).map(row).collect::<Vec<_>>());
        let (left, width) = middle(&(0..w).map(column).collect::<Vec<_>>());
        let all: f64 = values.iter().map(|v| f64::from(*v)).sum();
        let within: f64 = (top..top + height)
            .flat_map(|y| &values[y * w + left..y * w + left + width])
            .map(|v| f64::from(*v))
            .sum();
        let share = if all > 0.0 { within / all } else { 0.0 };
        Effective {
            size: (h, w),
            side: (count as f64).sqrt(),
            middle: [top, left, height, width],
            share,
            values,
        }
    }
}

/// First place and length of the shortest run from the first place whose sum passes 2.5 % to the one that
/// passes 97.5 %.
fn middle(sums: &[f64]) -> (usize, usize) {
    let all: f64 = sums.iter().sum();
    let passes = |share: f64| {
        let mut sum = 0.0;
        sums.iter().position(|v| {
            sum += v;
            sum > share * all
        })
    };
    match (passes(0.025), passes(0.975)) {
        (Some(a), Some(b)) => (a, b + 1 - a),
        _ => (0, sums.len()),
    }
}

/// Fields of one layer's middle place, theoretical and effective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldReport {
    /// The layer.
    pub layer: String,
    /// What it can see.
    pub field: Field,
    /// The place in the middle of its map: row and column.
    pub place: (usize, usize),
    /// First row and column of the input that the place can see, height, width; what lies in the padding
    /// counts.
    pub sees: (isize, isize, usize, usize),
    /// What it does see.
    pub effective: Effective,
    /// What to know of it.
    pub warnings: Vec<String>,
}

impl Inside {
    /// The fields of the middle place of a layer's map, over some inputs; `object` is the width and height in
    /// the input's pixels of what is to be recognised, where it is known.
    ///
    /// # Errors
    /// When there are no inputs, or the layer does not depend on them.
    pub fn field(
        &self,
        place: NodeId,
        inputs: &[Vec<f32>],
        object: Option<(f64, f64)>,
    ) -> Result<FieldReport> {
        let net = self.network();
        let (node, field) = (net.node(place), net.fields()[place.index()]);
        let at = (node.shape.h / 2, node.shape.w / 2);
        let effective = self.effective_field(place, at, inputs)?;
        let start = |axis: convoke_engine::Axis, i: usize| axis.start + (i * axis.stride) as isize;
        Ok(FieldReport {
            layer: node.name.clone(),
            field,
            place: at,
            sees: (start(field.h, at.0), start(field.w, at.1), field.h.size, field.w.size),
            warnings: warnings(&node.name, &field, &effective, object, self.last_map()? == place),
            effective,
        })
    }

    /// The mean magnitude of the gradient of all maps at one place by the input.
    ///
    /// # Errors
    /// As [`Inside::field`].
    pub fn effective_field(
        &self,
        place: NodeId,
        at: (usize, usize),
        inputs: &[Vec<f32>],
    ) -> Result<Effective> {
        let (input, shape) = (self.network().input_shape(), self.network().node(place).shape);
        let mut s = self.gradients(place, &[], 1, false, Weights::Learned)?;
        s.seed_mut().fill(0.0);
        let from = (at.0 * shape.w + at.1) * shape.c;
        s.seed_mut()[from..from + shape.c].fill(1.0);
        let mut sum = vec![0.0f64; input.pixels()];
        for x in inputs {
            s.input_mut().copy_from_slice(x);
            s.predict(1)?;
            s.explain(1)?;
            let Some(g) = s.gradient(self.network().input()) else {
                return other(format!(
                    "`{}` does not depend on the input",
                    self.network().node(place).name
                ));
            };
            for (sum, pixel) in sum.iter_mut().zip(g.chunks_exact(input.c)) {
                *sum += pixel.iter().map(|v| f64::from(v.abs())).sum::<f64>();
            }
        }
        if inputs.is_empty() {
            return other("an effective receptive field needs at least one picture");
        }
        let n = inputs.len() as f64;
        Ok(Effective::of(sum.iter().map(|v| (v / n) as f32).collect(), (input.h, input.w)))
    }
}

fn warnings(
    layer: &str,
    field: &Field,
    e: &Effective,
    object: Option<(f64, f64)>,
    last: bool,
) -> Vec<String> {
    let mut all = Vec::new();
    let (h, w) = (field.h.size as f64, field.w.size as f64);
    if let Some((ow, oh)) = object {
        let size = format!("{ow:.0}x{oh:.0}");
        if w < ow || h < oh {
            all.push(format!(
                "objects of {size} pixels are larger than the {w:.0}x{h:.0} that `{layer}` can see; use a deeper layer, more stride or smaller pictures"
            ));
        } else if e.side < 0.7 * (ow * oh).sqrt() {
            all.push(format!(
                "objects of {size} pixels are larger than the {0:.0}x{0:.0} that `{layer}` really looks at, though it could see {w:.0}x{h:.0}",
                e.side
            ));
        }
        if e.side > 4.0 * (ow * oh).sqrt() {
            all.push(format!(
                "objects of {size} pixels are much smaller than the {0:.0}x{0:.0} that `{layer}` looks at; it may decide by what is around them: use an earlier layer or larger pictures",
                e.side
            ));
        }
    } else if last && ((h as usize) < e.size.0 || (w as usize) < e.size.1) {
        let (seen, all_there) = match e.size.0 {
            1 => (format!("{w:.0}"), format!("{} steps", e.size.1)),
            _ => (format!("{w:.0}x{h:.0}"), format!("{}x{} pixels", e.size.1, e.size.0)),
        };
        all.push(format!(
            "`{layer}` can see {seen} of {all_there}: larger things are seen in parts"
        ));
    }
    all
}

/// The field on the picture `seen` by the network: a yellow frame for what the place can see, a glow and a red
/// frame for what it does see.
///
/// # Errors
/// When the picture cannot be resized.
pub fn field_picture(seen: &Picture, reports: &[FieldReport]) -> Result<Picture> {
    let mut tiles = Vec::new();
    let scale = (260 / seen.width.max(seen.height).max(1)).max(1);
    for r in reports {
        let veiled = veil(&in_colour(seen), &r.effective.values);
        let signal = veiled.height == 1;
        let mut p = crate::canvas::enlarge(&strip(veiled, 24 / scale), scale);
        let s = scale as f64;
        let (top, left, h, w) = r.sees;
        // A signal has one row, drawn tall.
        let (top, h) = if signal { (0, 24 / scale.min(24)) } else { (top, h) };
        let bounds = Bounds {
            left: left as f64 * s,
            top: top as f64 * s,
            width: w as f64 * s,
            height: h as f64 * s,
        };
        frame(&mut p, &bounds, 0, 1, FURTHER);
        let [top, left, h, w] = r.effective.middle.map(|v| v as f64 * s);
        let (top, h) = if signal { (0.0, p.height as f64) } else { (top, h) };
        frame(&mut p, &Bounds { left, top, width: w, height: h }, 0, 1, BEST);
        let field = match signal {
            true => format!("can see {} places, stride {}", r.field.w.size, r.field.w.stride),
            false => {
                format!(
                    "can see {}x{}, stride {}",
                    r.field.h.size, r.field.w.size, r.field.h.stride
                )
            }
        };
        let sees = match signal {
            true => format!("looks at about {} places", r.effective.middle[3]),
            false => format!("looks at about {0:.0}x{0:.0}", r.effective.side),
        };
        tiles.push(Tile::new(fit(&p, 300)?, &[&r.layer, &field, &sees]));
    }
    let picture = grid("What one place sees of the picture", &tiles, 4, Font::Plain);
    let mut notes: Vec<(String, [u8; 3])> = vec![(
        "yellow: all that its windows reach; glow: its gradient, mean over the pictures; red: the middle 95 % of it"
            .into(),
        SOFT,
    )];
    notes.extend(reports.iter().flat_map(|r| &r.warnings).map(|w| (w.clone(), INK)));
    let (letter, line) = Font::Plain.size();
    let widest = notes.iter().map(|n| n.0.chars().count()).max().unwrap_or(0);
    let mut canvas = Canvas::new(2 * GAP + letter * widest, GAP + line * notes.len());
    for (i, (text, colour)) in notes.iter().enumerate() {
        canvas.text(text, GAP, i * line, Font::Plain, *colour);
    }
    Ok(stack(&[picture, canvas.0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_engine::Axis;

    #[test]
    fn a_hill_is_measured_as_by_hand() {
        // 1 2 4 2 1 along both axes.
        let line = [1.0f32, 2.0, 4.0, 2.0, 1.0];
        let values: Vec<f32> = line.iter().flat_map(|a| line.map(|b| a * b)).collect();
        let e = Effective::of(values, (5, 5));
        // All 25 are above 4.55 % of 16 = 0.728.
        assert_eq!(e.side, 5.0);
        assert_eq!(e.middle, [0, 0, 5, 5]);
        let mut one = vec![0.0; 12];
        one[5] = 1.0;
        let e = Effective::of(one, (3, 4));
        assert_eq!((e.side, e.middle, e.share), (1.0, [1, 1, 1, 1], 1.0));
        assert_eq!(Effective::of(vec![0.0; 4], (2, 2)).side, 0.0);
    }

    #[test]
    fn objects_too_large_or_too_small_are_told() {
        let axis = Axis { size: 40, stride: 4, start: 0 };
        let field = Field { h: axis, w: axis };
        let e =
            Effective { size: (64, 64), values: vec![], side: 20.0, middle: [0; 4], share: 1.0 };
        let words = |object| warnings("conv5", &field, &e, object, true).join(" ");
        assert!(words(Some((50.0, 30.0))).contains("larger than the 40x40"));
        assert!(words(Some((38.0, 38.0))).contains("really looks at"));
        assert!(words(Some((3.0, 4.0))).contains("smaller"));
        assert_eq!(words(Some((20.0, 20.0))), "");
        assert!(words(None).contains("40x40 of 64x64"));
        assert!(warnings("conv5", &field, &e, None, false).is_empty());
    }
}
