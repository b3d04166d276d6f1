//! Finding: the network's answers all over a picture, at every scale → peaks → boxes → those of all views
//! merged → ranked candidates. Data first; pictures of it are made by [`crate::draw`].

use crate::bounds::Bounds;
use crate::detector::{Detector, decode};
use crate::error::{Result, other};
use crate::slide::{Bands, Grid, SlideOptions, Slider};
use convoke_data::{Area, Filter, Picture, resize};
use convoke_engine::BOX_CHANNELS as BOX;
use serde::Serialize;

/// How to find.
#[derive(Debug, Clone, PartialEq)]
pub struct FindOptions {
    /// Most candidates to tell.
    pub top: usize,
    /// Least score; none for the detector's own threshold divided by 10, so that runners-up show.
    pub least: Option<f64>,
    /// Scales at which the picture is looked at; none for the detector's own.
    pub scales: Option<Vec<f64>>,
    /// Pictures are not enlarged beyond so many pixels: what a large scan shows is seldom tiny.
    pub enlarge: f64,
    /// Also looks at the mirrored picture and takes the mean: twice the time, fewer false alarms. Pictures
    /// in bands are not mirrored.
    pub mirror: bool,
    /// Positions of the classes to look for; none for all.
    pub classes: Option<Vec<usize>>,
    /// Finds that overlap by more (intersection over union) are one.
    pub overlap: f64,
    /// How much the next best scale counts beside the best, from 0 to 0.5 (their mean): a thing is seen at
    /// neighbouring scales alike, what merely looks like it at one seldom is.
    pub support: f64,
}

impl Default for FindOptions {
    fn default() -> Self {
        FindOptions {
            top: 20,
            least: None,
            scales: None,
            enlarge: 6e6,
            mirror: true,
            classes: None,
            overlap: 0.5,
            support: 0.5,
        }
    }
}

/// A place where a thing may be.
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
    /// Size of the picture at which it was seen best.
    pub scale: f64,
    /// Whether the score reaches the detector's threshold.
    pub found: bool,
}

/// How the network answers all over a picture at one scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat {
    /// Size of the picture.
    pub scale: f64,
    /// Its places.
    pub grid: Grid,
    /// The largest logit of any class at each place, `[height, width]`.
    pub values: Vec<f32>,
}

/// What was found in a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// The network's answers; large, so not part of reports.
    #[serde(skip)]
    pub maps: Vec<Heat>,
    /// Width and height of the picture.
    pub picture: (usize, usize),
    /// Width and height of the things looked for, as the network sees them.
    pub object: (f64, f64),
}

impl Found {
    /// The same for a copy of the picture of another size: what to draw on where the picture itself is too
    /// large.
    pub fn at_scale(&self, scale: f64) -> Found {
        let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
        let mut found = self.clone();
        found.picture = (side(self.picture.0), side(self.picture.1));
        for c in &mut found.candidates {
            let b = c.bounds;
            c.bounds = Bounds {
                left: b.left * scale,
                top: b.top * scale,
                width: b.width * scale,
                height: b.height * scale,
            };
        }
        found.maps.iter_mut().for_each(|m| m.scale /= scale);
        found
    }
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

    /// The scales at which a picture of that size is looked at.
    pub fn scales(&self, width: usize, height: usize, options: &FindOptions) -> Vec<f64> {
        let all = options.scales.as_ref().unwrap_or(&self.detector.scales);
        let pixels = (width * height) as f64;
        let fits = |s: f64| {
            let sides = (width as f64 * s, height as f64 * s);
            let enlarged = s > 1.0 && options.scales.is_none() && pixels * s * s > options.enlarge;
            sides.0.min(sides.1) >= 8.0 && sides.0.max(sides.1) <= 25_000.0 && !enlarged
        };
        let mut fitting: Vec<f64> = all.iter().copied().filter(|&s| fits(s)).collect();
        if fitting.is_empty() {
            fitting.extend(
                all.iter().copied().min_by(|a, b| (a - 1.0).abs().total_cmp(&(b - 1.0).abs())),
            );
        }
        fitting
    }

    /// Finds things in a picture.
    ///
    /// # Errors
    /// When the picture does not fit the network, or a scale makes no sense.
    pub fn find(&mut self, picture: &Picture, options: &FindOptions) -> Result<Found> {
        let mut search = Search::new(&self.detector, (picture.width, picture.height), options);
        for scale in self.scales(picture.width, picture.height, options) {
            let sized = if scale == 1.0 { None } else { Some(scaled(picture, scale)?) };
            let sized = sized.as_ref().unwrap_or(picture);
            search.view(&mut self.slider, &mut { sized }, scale, false)?;
            if options.mirror {
                let mirrored = mirrored(sized);
                search.view(&mut self.slider, &mut { &mirrored }, scale, true)?;
            }
        }
        Ok(search.finish())
    }

    /// Finds things in a picture that comes in bands, at one scale after the other: `open` gives the
    /// picture at a scale. The picture need never be in memory as a whole.
    ///
    /// # Errors
    /// As [`Finder::find`], and where a band cannot be read.
    pub fn find_in_bands(
        &mut self,
        size: (usize, usize),
        open: &mut dyn FnMut(f64) -> Result<Box<dyn Bands>>,
        options: &FindOptions,
    ) -> Result<Found> {
        let mut search = Search::new(&self.detector, size, options);
        for scale in self.scales(size.0, size.1, options) {
            search.view(&mut self.slider, &mut *open(scale)?, scale, false)?;
        }
        Ok(search.finish())
    }
}

/// The picture at a scale.
pub(crate) fn scaled(p: &Picture, scale: f64) -> Result<Picture> {
    let side = |n: usize| (n as f64 * scale).round().max(1.0);
    let (w, h) = (side(p.width), side(p.height));
    if !(1.0..=25_000.0).contains(&w) || !(1.0..=25_000.0).contains(&h) {
        return other(format!("scale {scale} makes a picture of {w} x {h}; use a smaller one"));
    }
    Ok(resize(p, Area::whole(p), w as usize, h as usize, Filter::Bilinear)?)
}

fn mirrored(p: &Picture) -> Picture {
    let mut m = p.clone();
    for row in m.data.chunks_exact_mut(p.width * p.channels) {
        let (mut a, mut b) = (0, p.width - 1);
        while a < b {
            for c in 0..p.channels {
                row.swap(a * p.channels + c, b * p.channels + c);
            }
            (a, b) = (a + 1, b - 1);
        }
    }
    m
}

/// A peak of one view.
#[derive(Debug, Clone, Copy)]
struct Peak {
    class: usize,
    logit: f32,
    bounds: Bounds,
    scale: f64,
    mirrored: bool,
}

/// A picture while it is searched.
struct Search<'a> {
    detector: &'a Detector,
    options: &'a FindOptions,
    picture: (usize, usize),
    floor: f32,
    peaks: Vec<Peak>,
    maps: Vec<Heat>,
    /// Scales so far.
    scales: Vec<f64>,
    /// Whether it was also looked at mirrored.
    mirrored: bool,
}

/// Of the places of a view, this many may be peaks; of more, the best are kept.
const PEAKS: usize = 50_000;

impl<'a> Search<'a> {
    fn new(detector: &'a Detector, picture: (usize, usize), options: &'a FindOptions) -> Self {
        let least = options.least.unwrap_or(detector.threshold / 10.0).clamp(1e-6, 1.0 - 1e-6);
        let floor = (least / (1.0 - least)).ln() as f32;
        let (peaks, maps, scales) = (Vec::new(), Vec::new(), Vec::new());
        Search { detector, options, picture, floor, peaks, maps, scales, mirrored: false }
    }

    /// Looks at the picture at one scale.
    fn view(
        &mut self,
        slider: &mut Slider,
        bands: &mut dyn Bands,
        scale: f64,
        mirrored: bool,
    ) -> Result<()> {
        let (width, height, _) = bands.size();
        // What rounding the sides did to the scale.
        let by = (width as f64 / self.picture.0 as f64, height as f64 / self.picture.1 as f64);
        let classes = self.detector.model.classes.len();
        let wanted: Vec<bool> = (0..classes)
            .map(|c| self.options.classes.as_ref().is_none_or(|all| all.contains(&c)))
            .collect();
        let mut heat: Vec<Vec<f32>> = vec![Vec::new(); classes];
        let mut ridges: Vec<Ridge> = Vec::new();
        let mut row = 0;
        let floor = self.floor;
        let grid = slider.walk(bands, &mut |grid, rows| {
            let c = grid.channels;
            for line in rows.chunks_exact(grid.width * c) {
                for (class, heat) in heat.iter_mut().enumerate() {
                    let from = heat.len();
                    heat.extend(line.chunks_exact(c).map(|v| v[class]));
                    if wanted[class] {
                        ridge(&heat[from..], floor, |column| {
                            let numbers: [f32; BOX] =
                                std::array::from_fn(|i| line[column * c + classes + i]);
                            ridges.push(Ridge { class, row, column, numbers });
                        });
                    }
                }
                row += 1;
            }
            if ridges.len() > 2 * PEAKS {
                strongest(&mut ridges, &heat, grid.width);
            }
        })?;
        for r in &ridges {
            let logit = heat[r.class][r.row * grid.width + r.column];
            if is_peak(&heat[r.class], &grid, (r.row, r.column)) {
                self.peak(r, logit, &grid, (width, height), by, scale, mirrored);
            }
        }
        if mirrored {
            self.mirrored = true;
        } else {
            self.scales.push(scale);
            let mut values = heat.pop().unwrap_or_default();
            for other in heat {
                values.iter_mut().zip(other).for_each(|(v, o)| *v = v.max(o));
            }
            self.maps.push(Heat { scale, grid, values });
        }
        Ok(())
    }

    /// Notes a peak, in pixels of the picture, if it lies in it and has a size that this view is for.
    fn peak(
        &mut self,
        r: &Ridge,
        logit: f32,
        grid: &Grid,
        (width, height): (usize, usize),
        by: (f64, f64),
        scale: f64,
        mirrored: bool,
    ) {
        let mut b = decode(grid, (r.row, r.column), &r.numbers);
        let size = b.area().sqrt();
        let (least, most) = self.detector.sizes;
        let (x, y) = b.centre();
        let inside = (0.0..width as f64).contains(&x) && (0.0..height as f64).contains(&y);
        if !inside || size < least * 0.8 || size > most * 1.25 {
            return;
        }
        if mirrored {
            b.left = width as f64 - b.left - b.width;
        }
        // A box ends where the picture ends.
        let (r_, d) = ((b.left + b.width).min(width as f64), (b.top + b.height).min(height as f64));
        let (l, t) = (b.left.max(0.0), b.top.max(0.0));
        let bounds = Bounds {
            left: l / by.0,
            top: t / by.1,
            width: (r_ - l) / by.0,
            height: (d - t) / by.1,
        };
        self.peaks.push(Peak { class: r.class, logit, bounds, scale, mirrored });
    }

    /// Merges what all views saw.
    fn finish(self) -> Found {
        let names = &self.detector.model.classes;
        let candidate = |m: Merged| {
            let score = 1.0 / (1.0 + (-m.logit).exp());
            Candidate {
                bounds: m.bounds,
                class: names[m.class].clone(),
                score,
                logit: m.logit,
                scale: m.scale,
                found: score >= self.detector.threshold,
            }
        };
        let views =
            Views { scales: &self.scales, sizes: self.detector.sizes, mirrored: self.mirrored };
        let merged = merge(self.peaks, self.options, &views);
        Found {
            candidates: merged.into_iter().map(candidate).collect(),
            maps: self.maps,
            picture: self.picture,
            object: self.detector.object,
        }
    }
}

/// A place that is no lower than its neighbours on the left and right.
struct Ridge {
    class: usize,
    row: usize,
    column: usize,
    numbers: [f32; BOX],
}

fn ridge(line: &[f32], floor: f32, mut each: impl FnMut(usize)) {
    for (i, &v) in line.iter().enumerate() {
        let left = i == 0 || line[i - 1] <= v;
        let right = i + 1 == line.len() || line[i + 1] <= v;
        if v >= floor && left && right {
            each(i);
        }
    }
}

fn strongest(ridges: &mut Vec<Ridge>, heat: &[Vec<f32>], width: usize) {
    let logit = |r: &Ridge| heat[r.class][r.row * width + r.column];
    ridges.sort_by(|a, b| logit(b).total_cmp(&logit(a)));
    ridges.truncate(PEAKS);
}

/// Whether no place beside it is better; of equal places the first is the peak.
fn is_peak(heat: &[f32], grid: &Grid, (row, column): (usize, usize)) -> bool {
    let at = row * grid.width + column;
    let rows = row.saturating_sub(1)..(row + 2).min(grid.height);
    let columns = column.saturating_sub(1)..(column + 2).min(grid.width);
    rows.flat_map(|r| columns.clone().map(move |c| r * grid.width + c))
        .all(|o| heat[at] > heat[o] || heat[at] == heat[o] && at <= o)
}

/// Peaks that are one find.
struct Merged {
    class: usize,
    logit: f64,
    bounds: Bounds,
    scale: f64,
    /// The best peak, its weight, and the weighted sums of edges of those that agree with it.
    best: Bounds,
    weight: f64,
    sums: [f64; 4],
    /// Whether mirrored, scale and best logit of each view that saw it, best first.
    seen: Vec<(bool, f64, f64)>,
}

/// Peaks whose boxes overlap by this share have a say in where the box lies.
const AGREE: f64 = 0.6;
/// What a view does not see is at most so much less likely there than where it was seen best.
const MISSING: f64 = 3.0;
/// How far apart, about, the logits of a thing are at the two scales that see it best.
const TYPICAL: f64 = 0.6;

/// Joins each peak, best first, to the first find of its class that it overlaps by more than the options
/// allow or begins a new one.
fn merge(mut peaks: Vec<Peak>, o: &FindOptions, views: &Views) -> Vec<Merged> {
    peaks.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    let (top, overlap) = (o.top, o.overlap);
    let most = 20 * top + 200;
    let mut finds: Vec<Merged> = Vec::new();
    for p in &peaks {
        let logit = f64::from(p.logit);
        let weight = 1.0 / (1.0 + (-logit).exp());
        let known =
            finds.iter().position(|f| f.class == p.class && f.best.iou(&p.bounds) > overlap);
        let known = match known {
            Some(i) => i,
            None if finds.len() < most => {
                finds.push(Merged {
                    class: p.class,
                    logit,
                    bounds: p.bounds,
                    scale: p.scale,
                    best: p.bounds,
                    weight: 0.0,
                    sums: [0.0; 4],
                    seen: Vec::new(),
                });
                finds.len() - 1
            }
            None => continue,
        };
        let find = &mut finds[known];
        if !find.seen.iter().any(|s| (s.0, s.1) == (p.mirrored, p.scale)) {
            find.seen.push((p.mirrored, p.scale, logit));
        }
        if find.best.iou(&p.bounds) >= AGREE {
            let b = &p.bounds;
            let edges = [b.left, b.top, b.left + b.width, b.top + b.height];
            find.weight += weight;
            find.sums.iter_mut().zip(edges).for_each(|(s, e)| *s += weight * e);
        }
    }
    for f in &mut finds {
        if f.weight > 0.0 {
            let [l, t, r, b] = f.sums.map(|s| s / f.weight);
            f.bounds = Bounds { left: l, top: t, width: r - l, height: b - t };
        }
        f.logit = pooled(&f.seen, f.bounds.area().sqrt(), o, views);
    }
    finds.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    finds.truncate(top);
    finds
}

/// How a picture was looked at.
struct Views<'a> {
    scales: &'a [f64],
    /// Least and largest root of a box's area that a view is for, as it sees it.
    sizes: (f64, f64),
    /// Whether also mirrored.
    mirrored: bool,
}

/// The logit of a thing of that size from what views saw: with mirrored views the mean of both sides, of
/// the scales the best and, by its support, the next best. Where no other scale was for things of that
/// size, as for the smallest ones, they are taken to differ by [`TYPICAL`].
fn pooled(seen: &[(bool, f64, f64)], size: f64, o: &FindOptions, views: &Views) -> f64 {
    let best = seen.iter().map(|s| s.2).fold(f64::NEG_INFINITY, f64::max);
    let least = best - MISSING;
    let side = |mirrored: bool, scale: f64| {
        let own = seen.iter().filter(|s| (s.0, s.1) == (mirrored, scale)).map(|s| s.2);
        own.fold(least, f64::max)
    };
    let (mut first, mut next) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for &scale in views.scales {
        let for_it = (views.sizes.0 * 1.2..=views.sizes.1 / 1.2).contains(&(size * scale));
        if !for_it && !seen.iter().any(|s| s.1 == scale) {
            continue;
        }
        let mut logit = side(false, scale);
        if views.mirrored {
            logit = 0.5 * (logit + side(true, scale));
        }
        (first, next) = (first.max(logit), next.max(first.min(logit)));
    }
    let apart = match views.scales.len() {
        0 | 1 => 0.0,
        _ if next == f64::NEG_INFINITY => TYPICAL,
        _ => (first - next).min(MISSING),
    };
    first - o.support * apart
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use convoke_data::Preprocess;
    use convoke_engine::layers::Conv;
    use convoke_engine::{Builder, Shape};
    use convoke_formats::ModelFile;

    /// A network of one 5 x 5 window whose class answers to bright squares and says that they are 5 x 5.
    pub(crate) fn detector() -> Detector {
        let mut b = Builder::new("bright", Shape::new(5, 5, 3));
        b.conv(Conv::new(1 + BOX, 5).valid());
        let network = b.build().unwrap();
        let mut params = vec![0.0; network.parameters()];
        for p in network.params() {
            for (i, v) in params[p.range.clone()].iter_mut().enumerate() {
                *v = match (p.spec.shape.len(), i % (1 + BOX)) {
                    (4, 0) => 0.2,
                    (1, 0) => -7.5,
                    (1, 3 | 4) => 5f32.ln(),
                    _ => 0.0,
                };
            }
        }
        let model = ModelFile {
            network,
            classes: vec!["square".into()],
            preprocess: Preprocess::plain(5, 5, 3),
            task: "find".into(),
            params,
            state: vec![],
            facts: Default::default(),
            extra: Default::default(),
        };
        let object = (5.0, 5.0);
        Detector { model, object, scales: vec![1.0], sizes: (0.0, 100.0), threshold: 0.5 }
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
    fn bright_squares_are_found_brightest_first_in_the_right_place_also_in_the_mirror() {
        let mut finder = Finder::new(detector(), SlideOptions::default()).unwrap();
        let p = squares(&[(10, 20, 200), (40, 8, 255), (59, 43, 230)], 5);
        for mirror in [false, true] {
            let found = finder.find(&p, &FindOptions { mirror, ..FindOptions::default() }).unwrap();
            // Sizes are exponentials, so corners are whole but for rounding.
            let corners: Vec<(f64, f64)> =
                found.candidates.iter().map(|c| (c.bounds.left, c.bounds.top)).collect();
            let want = [(40.0, 8.0), (59.0, 43.0), (10.0, 20.0)];
            let near = |(a, b): (&(f64, f64), &(f64, f64))| {
                (a.0 - b.0).abs() < 1e-6 && (a.1 - b.1).abs() < 1e-6
            };
            assert!(corners.len() == 3 && corners.iter().zip(&want).all(near), "{corners:?}");
            assert!(found.candidates.iter().all(|c| c.found && c.class == "square"));
        }
        let none = FindOptions { classes: Some(vec![]), ..FindOptions::default() };
        assert!(finder.find(&p, &none).unwrap().candidates.is_empty());
    }

    #[test]
    fn a_smaller_copy_of_the_picture_finds_larger_things() {
        let mut finder = Finder::new(detector(), SlideOptions::default()).unwrap();
        let scales = Some(vec![1.0, 0.5]);
        let options = FindOptions { scales, ..FindOptions::default() };
        let found = finder.find(&squares(&[(20, 20, 220)], 10), &options).unwrap();
        let best = &found.candidates.iter().find(|c| c.scale == 0.5).unwrap().bounds;
        let truth = Bounds { left: 20.0, top: 20.0, width: 10.0, height: 10.0 };
        assert!(best.iou(&truth) > 0.7, "{best:?}");
        assert_eq!(found.maps.len(), 2);
        let options = FindOptions { scales: Some(vec![1e-3]), ..options };
        assert_eq!(finder.scales(64, 48, &options), [1e-3]);
        assert!(finder.find(&squares(&[], 1), &options).is_ok());
    }

    #[test]
    fn what_neighbouring_scales_and_the_mirror_see_too_outranks_what_one_view_sees() {
        let o = FindOptions::default();
        let views = Views { scales: &[2.0, 1.4, 1.0, 0.7], sizes: (17.0, 45.0), mirrored: false };
        let twice = [(false, 1.4, 2.0), (false, 1.0, 1.6), (false, 0.7, -1.0)];
        assert_eq!(pooled(&twice, 24.0, &o, &views), 1.8);
        // Another scale was for things of that size but saw nothing.
        assert_eq!(pooled(&[(false, 1.4, 2.5)], 24.0, &o, &views), 1.0);
        // No other scale was.
        assert!((pooled(&[(false, 2.0, 2.5)], 12.0, &o, &views) - 2.2).abs() < 1e-9);
        let one = Views { scales: &[1.0], ..views };
        assert_eq!(pooled(&[(false, 1.0, 2.5)], 24.0, &o, &one), 2.5);
        let both = Views { mirrored: true, ..one };
        assert_eq!(pooled(&[(false, 1.0, 2.5), (true, 1.0, 1.5)], 24.0, &o, &both), 2.0);
        assert_eq!(pooled(&[(true, 1.0, 2.5)], 24.0, &o, &both), 1.0);
    }

    #[test]
    fn a_picture_in_bands_gives_the_same_as_a_whole_one() {
        struct Rows(Picture, Picture);
        impl Bands for Rows {
            fn size(&self) -> (usize, usize, usize) {
                (self.0.width, self.0.height, 3)
            }
            fn band(&mut self, rows: std::ops::Range<usize>) -> Result<(&Picture, usize)> {
                self.1 = self.0.crop(0, rows.start, self.0.width, rows.len());
                Ok((&self.1, rows.start))
            }
        }
        let p = squares(&[(10, 20, 200), (40, 8, 255), (59, 43, 230)], 5);
        let options = SlideOptions { memory: 100_000, ..SlideOptions::default() };
        let mut finder = Finder::new(detector(), options).unwrap();
        let options = FindOptions { mirror: false, ..FindOptions::default() };
        let whole = finder.find(&p, &options).unwrap();
        let mut open = |_| -> Result<Box<dyn Bands>> { Ok(Box::new(Rows(p.clone(), p.clone()))) };
        let bands = finder.find_in_bands((64, 48), &mut open, &options).unwrap();
        assert_eq!(whole, bands);
        assert_eq!(bands.candidates.len(), 3);
    }

    #[test]
    fn a_detector_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.safetensors");
        let detector = Detector { scales: vec![0.5, 1.0], ..detector() };
        let model = detector.to_model();
        model.save(&path).unwrap();
        let back = Detector::open(&path).unwrap();
        assert_eq!((back.object, back.threshold, back.sizes), ((5.0, 5.0), 0.5, (0.0, 100.0)));
        assert_eq!(back.scales, [0.5, 1.0]);
        for (key, value) in [
            ("object", "5"),
            ("object", "0x4"),
            ("threshold", "2"),
            ("threshold", "NaN"),
            ("scales", ""),
            ("scales", "1,1e9"),
            ("sizes", "1"),
        ] {
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
