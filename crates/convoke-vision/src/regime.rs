//! How a detector is to be trained, from what is in the pictures: at which size the network sees things,
//! how large tiles are, at which scales pictures are searched; and why.

use crate::album::Example;
use crate::error::{Result, other};
use serde::{Deserialize, Serialize};

/// Root of the area of a thing that the network should see, in pixels, where things are brought to one
/// size: 3.5 places of a map of every 8th pixel, small enough to search large pictures quickly.
const OBJECT: f64 = 28.0;
/// Where sizes within a class differ by more (nine tenths against one tenth), they say nothing of the
/// thing but of how large a picture shows it.
const SPREAD: f64 = 2.3;
/// Where they say something, the smallest class should be seen as large as this.
const SMALLEST: (f64, f64) = (14.0, 30.0);
/// Numbers of a batch of tiles, about.
const PIXELS: usize = 300_000;

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regime {
    /// Whether every thing is brought to one size; else pictures keep one scale, and sizes tell classes apart.
    pub one_size: bool,
    /// Scale of the pictures where things keep their sizes.
    pub scale: f64,
    /// Typical root of a thing's area as the network sees it.
    pub object: f64,
    /// Typical width and height likewise.
    pub sides: (f64, f64),
    /// Least and largest root of the area that the network learns to tell.
    pub sizes: (f64, f64),
    /// Side of a tile in pixels.
    pub side: usize,
    /// Tiles per step.
    pub batch: usize,
    /// Scales at which pictures are searched.
    pub scales: Vec<f64>,
    /// Octaves by which scales vary either way.
    pub jitter: f64,
    /// Angle by which tiles are turned at most, in radians.
    pub turn: f64,
    /// Whether tiles are mirrored.
    pub mirror: bool,
    /// Change of colours, from 0 to 1.
    pub colour: f32,
    /// Share of tiles that are made from a picture of half the detail.
    pub coarse: f64,
    /// Share of things that are pasted onto other backgrounds.
    pub paste: f64,
    /// Up to how many times as wide as the thing what is pasted with it is.
    pub context: f64,
    /// Share of tiles around things.
    pub things: f64,
    /// Share of tiles around false alarms.
    pub alarms: f64,
    /// Whether coarse maps of every 32nd pixel are needed.
    pub deep: bool,
}

fn share(sorted: &[f64], at: f64) -> f64 {
    let i = (at * (sorted.len() - 1) as f64).round() as usize;
    sorted[i.min(sorted.len() - 1)]
}

fn sorted(mut v: Vec<f64>) -> Vec<f64> {
    v.sort_by(f64::total_cmp);
    v
}

impl Regime {
    /// Chooses from the things of the training pictures. Sides of tiles are multiples of `align`, the
    /// network's largest stride. The second is why, a line for each choice.
    ///
    /// # Errors
    /// When there is no thing to learn.
    pub fn choose(
        examples: &[Example],
        classes: &[String],
        align: usize,
    ) -> Result<(Self, Vec<String>)> {
        let things = || examples.iter().flat_map(|e| &e.things).filter(|t| !t.ignored);
        let by_class: Vec<Vec<f64>> = (0..classes.len())
            .map(|c| {
                sorted(things().filter(|t| t.class == c).map(|t| t.bounds.area().sqrt()).collect())
            })
            .collect();
        let all = sorted(by_class.concat());
        if all.is_empty() {
            return other("there is no box to learn from; mark at least one thing in a picture");
        }
        let filled: Vec<&Vec<f64>> = by_class.iter().filter(|c| !c.is_empty()).collect();
        let spread = filled.iter().map(|c| share(c, 0.9) / share(c, 0.1)).fold(1.0, f64::max);
        let median = share(&all, 0.5);
        let one_size = spread > SPREAD;
        let smallest = filled.iter().map(|c| share(c, 0.5)).fold(f64::MAX, f64::min);
        let scale = match smallest {
            _ if one_size => OBJECT / median,
            s if s < SMALLEST.0 => (SMALLEST.0 + 4.0) / s,
            s if s > SMALLEST.1 => 22.0 / s,
            _ => 1.0,
        };
        let mut why = Vec::new();
        let (sizes, object, scales);
        if one_size {
            sizes = (OBJECT / 1.6, OBJECT * 1.6);
            object = OBJECT;
            scales = ladder(OBJECT / (2.0 * all[all.len() - 1]), OBJECT / all[0]);
            why.push(format!(
                "sizes from {:.0} to {:.0} pixels (median {median:.0}) within a class: pictures show things at any size, so each is brought to about {OBJECT:.0} pixels, and pictures are searched at {} scales",
                all[0], all[all.len() - 1], scales.len()
            ));
        } else {
            sizes = (all[0] * scale * 0.5, all[all.len() - 1] * scale * 2.0);
            object = median * scale;
            scales = vec![scale];
            why.push(format!(
                "sizes of a class differ by {spread:.1} at most: they tell something, so pictures keep one scale, {scale:.2}, at which the smallest class is {:.0} pixels",
                smallest * scale
            ));
        }
        let largest = if one_size { sizes.1 } else { share(&all, 0.95) * scale };
        let seen = |e: &Example| (e.size.0.max(e.size.1) as f64 * scale) as usize;
        let picture = examples.iter().map(seen).max().unwrap_or(1024);
        let side = (2.0 * largest).max(96.0).min(picture as f64).min(320.0) as usize;
        let side = side.max(64).next_multiple_of(align);
        let batch = (PIXELS / (side * side)).clamp(8, 64);
        why.push(format!(
            "tiles of {side}x{side} pixels, {batch} a step: the largest things take {largest:.0}, and what is around them helps"
        ));
        let (n, pictures) = (all.len(), examples.len());
        // Few things in a picture: onto other backgrounds with them. Many: they are their own background.
        let sparse = n < 4 * pictures;
        let paste = if !sparse {
            0.0
        } else if n < 400 {
            0.5
        } else {
            0.25
        };
        if sparse {
            why.push(format!(
                "{n} things in {pictures} pictures: {:.0} % of them are pasted onto other backgrounds",
                100.0 * paste
            ));
        }
        let typical = |of: fn(&crate::bounds::Bounds) -> f64| {
            let shape = sorted(things().map(|t| of(&t.bounds) / t.bounds.area().sqrt()).collect());
            (share(&shape, 0.5) * object * 10.0).round() / 10.0
        };
        let sides = (typical(|b| b.width), typical(|b| b.height));
        let (things, alarms) = if sparse { (0.45, 0.3) } else { (0.75, 0.1) };
        let regime = Regime {
            one_size,
            scale,
            object,
            sides,
            sizes,
            side,
            batch,
            scales,
            jitter: if one_size { 0.45 } else { 0.3 },
            turn: 0.2,
            mirror: true,
            colour: 0.25,
            coarse: if one_size { 0.25 } else { 0.05 },
            paste,
            context: 3.5,
            things,
            alarms,
            deep: largest > 72.0,
        };
        Ok((regime, why))
    }

    /// The scale at which a thing of that size is seen as it should be.
    pub(crate) fn scale_for(&self, size: f64) -> f64 {
        if self.one_size { self.object / size.max(1.0) } else { self.scale }
    }
}

/// Scales from large to small, half an octave apart, that cover both ends; 1 is one of them where it lies
/// between.
fn ladder(least: f64, most: f64) -> Vec<f64> {
    let step = |s: f64| 2.0 * s.log2();
    let (first, last) = (step(least).floor() as i32, step(most).ceil() as i32);
    let last = last.min(first + 40);
    (first..=last)
        .rev()
        .map(|k| 2f64.powf(f64::from(k) / 2.0))
        .map(|s| (s * 1e4).round() / 1e4)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::Bounds;
    use convoke_data::Picture;

    fn example(sides: &[f64]) -> Example {
        let at = |(i, s): (usize, &f64)| Bounds {
            left: 10.0 * i as f64,
            top: 0.0,
            width: *s,
            height: *s,
        };
        Example::new(Picture::filled(600, 400, [0; 3]), sides.iter().enumerate().map(at))
    }

    #[test]
    fn things_of_any_size_are_brought_to_one_and_others_keep_theirs() {
        let names = ["a".to_string()];
        let (r, why) = Regime::choose(&[example(&[10.0, 40.0, 200.0])], &names, 16).unwrap();
        assert!(r.one_size && r.side % 16 == 0 && why.len() >= 2, "{why:?}");
        assert_eq!(r.scale_for(56.0), 0.5);
        assert!(r.scales.contains(&1.0) && r.scales[0] >= 2.8 && *r.scales.last().unwrap() <= 0.07);
        let (r, _) = Regime::choose(&[example(&[26.0, 28.0, 30.0])], &names, 16).unwrap();
        assert!(!r.one_size && r.scale == 1.0 && r.scales == [1.0]);
        assert!(Regime::choose(&[example(&[])], &names, 16).is_err());
    }
}
