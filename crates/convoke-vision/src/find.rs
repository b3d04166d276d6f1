//! Finding: score map → peaks → boxes → overlaps removed → ranked candidates. Data first; pictures of
//! it are made by [`crate::draw`].

use crate::bounds::{Bounds, suppress};
use crate::error::{Result, other};
use crate::slide::{ScoreMap, SlideOptions, Slider};
use convoke_data::{Area, Filter, Picture, resize};
use convoke_formats::ModelFile;
use serde::Serialize;
use std::path::Path;

/// Largest share of overlap (intersection over union) of two candidates.
const OVERLAP: f64 = 0.3;
/// A place is a peak when none is better within this share of the thing's size around it.
const AROUND: f64 = 0.6;
/// Places around a peak that say where between them it lies.
const NEIGHBOURS: usize = 2;

/// A model that finds things. Class 0 is the background.
#[derive(Debug, Clone, PartialEq)]
pub struct Detector {
    /// The network, its weights, class names and preprocessing.
    pub model: ModelFile,
    /// Width and height of the things to find, in pixels.
    pub object: (f64, f64),
    /// Least score of a find.
    pub threshold: f64,
}

impl Detector {
    /// The detector with its facts written into the model, as it is saved.
    pub fn to_model(&self) -> ModelFile {
        let mut model = self.model.clone();
        model.task = "find".into();
        model.facts.insert("object".into(), format!("{}x{}", self.object.0, self.object.1));
        model.facts.insert("threshold".into(), self.threshold.to_string());
        model
    }

    /// Reads the detector's facts from a model.
    ///
    /// # Errors
    /// When the model was not made for finding, or its facts make no sense.
    pub fn from_model(model: ModelFile) -> Result<Self> {
        if model.task != "find" {
            return other(format!(
                "the model is made to {}, not to find; train one with boxes",
                model.task
            ));
        }
        let fact = |name: &str| model.facts.get(name).map(String::as_str).unwrap_or_default();
        let sides: Option<Vec<f64>> = fact("object").split('x').map(|s| s.parse().ok()).collect();
        let object = match sides.as_deref() {
            Some(&[w, h]) if (1.0..1e5).contains(&w) && (1.0..1e5).contains(&h) => (w, h),
            _ => {
                return other(format!(
                    "the model's object size `{}` makes no sense",
                    fact("object")
                ));
            }
        };
        let threshold = match fact("threshold").parse() {
            Ok(t) if (0.0..=1.0).contains(&t) => t,
            _ => {
                return other(format!(
                    "the model's threshold `{}` is not from 0 to 1",
                    fact("threshold")
                ));
            }
        };
        let channels = model.network.output_shape().c;
        if model.classes.len() != channels || channels < 2 {
            return other(format!(
                "the model names {} classes but its network gives {channels} numbers per place",
                model.classes.len()
            ));
        }
        Ok(Detector { model, object, threshold })
    }

    /// Reads a detector's file.
    ///
    /// # Errors
    /// When the file is damaged or no detector.
    pub fn open(path: &Path) -> Result<Self> {
        Detector::from_model(ModelFile::load(path)?)
    }
}

/// How to find.
#[derive(Debug, Clone, PartialEq)]
pub struct FindOptions {
    /// Most candidates to tell.
    pub top: usize,
    /// Least score; none for the detector's own threshold divided by 10, so that runners-up show.
    pub least: Option<f64>,
    /// Sizes at which the picture is looked at (an image pyramid): 0.5 finds things twice as large.
    pub scales: Vec<f64>,
}

impl Default for FindOptions {
    fn default() -> Self {
        FindOptions { top: 20, least: None, scales: vec![1.0] }
    }
}

/// A place where the thing may be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Where.
    pub bounds: Bounds,
    /// What.
    pub class: String,
    /// Probability, from 0 to 1.
    pub score: f64,
    /// Its logit, by which candidates are ranked.
    pub logit: f64,
    /// Size of the picture at which it was seen.
    pub scale: f64,
    /// Whether the score reaches the detector's threshold.
    pub found: bool,
}

/// What was found in a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// The network's answers all over the picture, per scale; large, so not part of reports.
    #[serde(skip)]
    pub maps: Vec<(f64, ScoreMap)>,
    /// Width and height of the picture.
    pub picture: (usize, usize),
    /// Width and height of the things looked for.
    pub object: (f64, f64),
}

/// A detector ready to work.
pub struct Finder {
    detector: Detector,
    slider: Slider,
}

impl Finder {
    /// Prepares a detector.
    ///
    /// # Errors
    /// When its network cannot slide over pictures.
    pub fn new(detector: Detector, options: SlideOptions) -> Result<Self> {
        let m = &detector.model;
        let slider = Slider::new(&m.network, &m.params, &m.state, &m.preprocess, options)?;
        Ok(Finder { detector, slider })
    }

    /// The detector.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Finds things in a picture.
    ///
    /// # Errors
    /// When the picture does not fit the network, or a scale makes no sense.
    pub fn find(&mut self, picture: &Picture, options: &FindOptions) -> Result<Found> {
        let (mut all, mut maps) = (Vec::new(), Vec::new());
        let least = options.least.unwrap_or(self.detector.threshold / 10.0);
        for &scale in &options.scales {
            let map = match scale {
                1.0 => self.slider.run(picture)?,
                _ => self.slider.run(&scaled(picture, scale)?)?,
            };
            for class in 1..map.channels {
                all.extend(self.peaks(&map, class, scale, least));
            }
            maps.push((scale, map));
        }
        all.sort_by(|a, b| b.logit.total_cmp(&a.logit));
        let candidates = suppress(all, |c| c.bounds, OVERLAP, options.top);
        let picture = (picture.width, picture.height);
        Ok(Found { candidates, maps, picture, object: self.detector.object })
    }

    /// The places that are better than all around them.
    fn peaks(&self, map: &ScoreMap, class: usize, scale: f64, least: f64) -> Vec<Candidate> {
        let margins = map.margins(class);
        let floor = (least / (1.0 - least).max(1e-9)).ln() as f32;
        let (w, h) = self.detector.object;
        let reach =
            |size: f64, stride: usize| ((AROUND * size / stride as f64).round() as usize).max(1);
        let around = (reach(h, map.stride.0), reach(w, map.stride.1));
        let mut found = Vec::new();
        for row in 0..map.height {
            for column in 0..map.width {
                let at = row * map.width + column;
                if margins[at] < floor || !is_peak(&margins, map, (row, column), around) {
                    continue;
                }
                let (dy, dx) = centre_of_mass(&margins, map, row, column);
                let (x, y) = map.point(row as f64 + dy, column as f64 + dx);
                let logit = f64::from(margins[at]);
                let score = 1.0 / (1.0 + (-logit).exp());
                found.push(Candidate {
                    bounds: Bounds::around((x / scale, y / scale), w / scale, h / scale),
                    class: self.detector.model.classes[class].clone(),
                    score,
                    logit,
                    scale,
                    found: score >= self.detector.threshold,
                });
            }
        }
        found
    }
}

fn scaled(p: &Picture, scale: f64) -> Result<Picture> {
    let side = |n: usize| (n as f64 * scale).round();
    let (w, h) = (side(p.width), side(p.height));
    if !(1.0..=25_000.0).contains(&w) || !(1.0..=25_000.0).contains(&h) {
        return other(format!("scale {scale} makes a picture of {w} x {h}; use one from 0.1 to 4"));
    }
    Ok(resize(p, Area::whole(p), w as usize, h as usize, Filter::Bilinear)?)
}

/// The places at most `around` (rows, columns) away from (row, column).
fn neighbours(
    map: &ScoreMap,
    (row, column): (usize, usize),
    around: (usize, usize),
) -> impl Iterator<Item = (usize, usize)> + use<> {
    let rows = row.saturating_sub(around.0)..(row + around.0 + 1).min(map.height);
    let columns = column.saturating_sub(around.1)..(column + around.1 + 1).min(map.width);
    rows.flat_map(move |r| columns.clone().map(move |c| (r, c)))
}

/// Of equal places the first is the peak.
fn is_peak(margins: &[f32], map: &ScoreMap, place: (usize, usize), around: (usize, usize)) -> bool {
    let at = place.0 * map.width + place.1;
    neighbours(map, place, around).all(|(r, c)| {
        let o = r * map.width + c;
        margins[at] > margins[o] || margins[at] == margins[o] && at <= o
    })
}

/// Where between the places the peak lies: rows and columns from it, weighted by the root of each
/// neighbour's odds relative to the peak's.
fn centre_of_mass(margins: &[f32], map: &ScoreMap, row: usize, column: usize) -> (f64, f64) {
    let top = margins[row * map.width + column];
    let (mut sum, mut dy, mut dx) = (0.0, 0.0, 0.0);
    for (r, c) in neighbours(map, (row, column), (NEIGHBOURS, NEIGHBOURS)) {
        let weight = f64::from((0.5 * (margins[r * map.width + c] - top)).exp());
        sum += weight;
        dy += weight * (r as f64 - row as f64);
        dx += weight * (c as f64 - column as f64);
    }
    (dy / sum, dx / sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_data::Preprocess;
    use convoke_engine::layers::Conv;
    use convoke_engine::{Builder, Shape};

    /// A network of one 5 x 5 window whose class 1 answers to bright squares.
    fn detector() -> Detector {
        let mut b = Builder::new("bright", Shape::new(5, 5, 3));
        b.conv(Conv::new(2, 5).valid());
        let network = b.build().unwrap();
        let mut params = vec![0.0; network.parameters()];
        for p in network.params() {
            for (i, v) in params[p.range.clone()].iter_mut().enumerate() {
                *v = match (p.spec.shape.len(), i % 2) {
                    (4, 1) => 0.2,
                    (1, 1) => -7.5,
                    _ => 0.0,
                };
            }
        }
        let model = ModelFile {
            network,
            classes: vec!["background".into(), "square".into()],
            preprocess: Preprocess::plain(5, 5, 3),
            task: "find".into(),
            params,
            state: vec![],
            facts: Default::default(),
            extra: Default::default(),
        };
        Detector { model, object: (5.0, 5.0), threshold: 0.5 }
    }

    fn squares(at: &[(usize, usize, u8)], side: usize) -> Picture {
        let mut p = Picture::filled(64, 48, [0, 0, 0]);
        for &(x, y, level) in at {
            for dy in 0..side {
                let from = ((y + dy) * 64 + x) * 3;
                p.data[from..from + 3 * side].fill(level);
            }
        }
        p
    }

    #[test]
    fn bright_squares_are_found_brightest_first_in_the_right_place() {
        let mut finder = Finder::new(detector(), SlideOptions::default()).unwrap();
        let p = squares(&[(10, 20, 200), (40, 8, 255), (59, 43, 230)], 5);
        let found = finder.find(&p, &FindOptions::default()).unwrap();
        let corners: Vec<(f64, f64)> =
            found.candidates.iter().map(|c| (c.bounds.left, c.bounds.top)).collect();
        let wanted = [(40.0, 8.0), (59.0, 43.0), (10.0, 20.0)];
        assert_eq!(corners.len(), 3);
        for (c, w) in corners.iter().zip(wanted) {
            assert!((c.0 - w.0).abs() < 0.6 && (c.1 - w.1).abs() < 0.6, "{corners:?}");
        }
        assert!(found.candidates.iter().all(|c| c.found && c.class == "square"));
    }

    #[test]
    fn a_smaller_copy_of_the_picture_finds_larger_things() {
        let mut finder = Finder::new(detector(), SlideOptions::default()).unwrap();
        let options = FindOptions { scales: vec![1.0, 0.5], ..FindOptions::default() };
        let found = finder.find(&squares(&[(20, 20, 220)], 10), &options).unwrap();
        let best = &found.candidates.iter().find(|c| c.scale == 0.5).unwrap().bounds;
        assert!(
            best.iou(&Bounds { left: 20.0, top: 20.0, width: 10.0, height: 10.0 }) > 0.7,
            "{best:?}"
        );
        let options = FindOptions { scales: vec![0.0], ..options };
        assert!(finder.find(&squares(&[], 1), &options).is_err());
    }

    #[test]
    fn a_detector_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.safetensors");
        let model = detector().to_model();
        model.save(&path).unwrap();
        let back = Detector::open(&path).unwrap();
        assert_eq!((back.object, back.threshold), ((5.0, 5.0), 0.5));
        for (key, value) in
            [("object", "5"), ("object", "0x4"), ("threshold", "2"), ("threshold", "NaN")]
        {
            let mut broken = model.clone();
            broken.facts.insert(key.into(), value.into());
            assert!(Detector::from_model(broken).is_err(), "{key} {value}");
        }
    }

    #[test]
    fn candidates_are_json() {
        let mut finder = Finder::new(detector(), SlideOptions::default()).unwrap();
        let found = finder.find(&squares(&[(10, 20, 255)], 5), &FindOptions::default()).unwrap();
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["candidates"][0]["class"], "square");
        assert_eq!(json["picture"], serde_json::json!([64, 48]));
    }
}
