//! A filter as a lens: slid over a picture, with window, stride, padding and pooling in one's own hands.
//!
//! The arithmetic is the engine's own: a network of one convolution with one filter, and a pooling.

use crate::Bounds;
use crate::canvas::{Font, Tile, colours, enlarge, fit, grid, short};
use crate::draw::{BEST, frame, in_colour};
use crate::error::{Result, other};
use convoke_data::Picture;
use convoke_engine::layers::{Conv, MaxPool, MeanPool};
use convoke_engine::{Builder, Network, Padding, Plan, PlanOptions, Session, Shape};
use serde::Serialize;

/// A filter with its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lens {
    /// For people.
    pub name: String,
    /// Rows, columns.
    pub size: (usize, usize),
    /// 1 (over brightness) or 3 (over colours).
    pub channels: usize,
    /// `[rows, columns, channels]`.
    pub weights: Vec<f32>,
}

/// Filters that need no file.
pub const HAND_MADE: [&str; 8] = [
    "stripes",
    "stripes-vertical",
    "stripes-red",
    "edges",
    "edges-horizontal",
    "edges-vertical",
    "blobs",
    "blur",
];

/// A window may have at most that many rows and columns.
const MOST: usize = 255;

impl Lens {
    fn over_grey(name: &str, (h, w): (usize, usize), of: impl Fn(f32, f32) -> f32) -> Self {
        let centre = |i: usize, n: usize| i as f32 - (n - 1) as f32 / 2.0;
        let weights = (0..h * w).map(|i| of(centre(i / w, h), centre(i % w, w))).collect();
        Lens { name: name.into(), size: (h, w), channels: 1, weights }
    }

    /// A filter made by hand, `window` pixels wide and high; stripes change every `half` pixels.
    ///
    /// - `stripes`, `stripes-vertical`: light and dark stripes; `stripes-red`: red and white ones.
    /// - `edges`: where brightness bends (Laplacian of a Gaussian, negated); `edges-horizontal`,
    ///   `edges-vertical`: where it rises downward, to the right (Sobel at 3).
    /// - `blobs`: light spots as large as half the window. `blur`: the mean.
    ///
    /// # Errors
    /// When there is no filter of that name, or the window is 0 or above 255.
    pub fn hand_made(name: &str, window: usize, half: usize) -> Result<Self> {
        if window == 0 || window > MOST || half == 0 {
            return other(format!(
                "a window of {window} and stripes of {half} make no filter; use 1 to {MOST}"
            ));
        }
        let size = (window, window);
        let side = |at: f32| {
            let first = at + (window - 1) as f32 / 2.0;
            if (first as usize / half).is_multiple_of(2) { 1.0 } else { -1.0 }
        };
        let sigma = window as f32 / 6.0;
        let bell = |y: f32, x: f32, s: f32| (-(y * y + x * x) / (2.0 * s * s)).exp();
        let slope = |along: f32, y: f32, x: f32| match window {
            3 => along * (3.0 - y.abs() - x.abs()),
            _ => along * bell(y, x, sigma.max(0.5)),
        };
        let lens = match name {
            "stripes" => Self::over_grey(name, size, |y, _| side(y)).balanced(),
            "stripes-vertical" => Self::over_grey(name, size, |_, x| side(x)).balanced(),
            "stripes-red" => {
                // Red all over; green and blue, which only white has, by stripes.
                let grey = Self::over_grey(name, size, |y, _| side(y)).balanced();
                let weights = grey.weights.iter().flat_map(|v| [0.0, -v / 2.0, -v / 2.0]).collect();
                Lens { channels: 3, weights, ..grey }
            }
            "edges" if window == 3 => {
                Self::over_grey(name, size, |y, x| if y == 0.0 && x == 0.0 { 8.0 } else { -1.0 })
            }
            "edges" => {
                let s = sigma.max(0.5);
                let bend = |y: f32, x: f32| {
                    let r = (y * y + x * x) / (2.0 * s * s);
                    (1.0 - r) * (-r).exp()
                };
                Self::over_grey(name, size, bend).balanced()
            }
            "edges-horizontal" => Self::over_grey(name, size, |y, x| slope(y, y, x)).balanced(),
            "edges-vertical" => Self::over_grey(name, size, |y, x| slope(x, y, x)).balanced(),
            "blobs" => {
                let r = window as f32 / 4.0;
                let inside = |y: f32, x: f32| if y * y + x * x <= r * r { 1.0 } else { 0.0 };
                Self::over_grey(name, size, inside).balanced()
            }
            "blur" => Self::over_grey(name, size, |_, _| 1.0 / (window * window) as f32),
            _ => {
                let hint = convoke_engine::names::hint(name, HAND_MADE);
                return other(format!(
                    "there is no filter `{name}`{hint}; known are {}",
                    HAND_MADE.join(", ")
                ));
            }
        };
        Ok(if name == "blur" { lens } else { lens.normed() })
    }

    /// A matrix of numbers: a row a line, separated by blanks, commas or semicolons.
    ///
    /// # Errors
    /// When a row has another length than the first, a cell is no number, or it is too large.
    pub fn from_text(name: &str, text: &str) -> Result<Self> {
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let cells = line.split([',', ';', ' ', '\t']).filter(|c| !c.is_empty());
            let row: Option<Vec<f32>> =
                cells.map(|c| c.parse().ok().filter(|v: &f32| v.is_finite())).collect();
            let Some(row) = row else {
                return other(format!("{name}: line {} holds what is no number", i + 1));
            };
            if row.is_empty() {
                continue;
            }
            if rows.first().is_some_and(|r| r.len() != row.len()) {
                return other(format!(
                    "{name}: line {} has {} numbers, the first has {}",
                    i + 1,
                    row.len(),
                    rows[0].len()
                ));
            }
            rows.push(row);
        }
        let size = (rows.len(), rows.first().map_or(0, Vec::len));
        if size.0 == 0 || size.0.max(size.1) > MOST {
            return other(format!(
                "{name}: a filter of {}x{} is empty or too large",
                size.0, size.1
            ));
        }
        Ok(Lens { name: name.into(), size, channels: 1, weights: rows.concat() })
    }

    /// A patch of the picture itself, each channel less its mean: it answers most where the picture looks the
    /// same, as a rule (a place of more contrast may answer as much).
    ///
    /// # Errors
    /// When the patch leaves the picture or is larger than 255 pixels.
    pub fn patch(p: &Picture, x: usize, y: usize, w: usize, h: usize) -> Result<Self> {
        if w == 0
            || h == 0
            || w.max(h) > MOST
            || x.saturating_add(w) > p.width
            || y.saturating_add(h) > p.height
        {
            return other(format!(
                "patch {x},{y},{w},{h} is empty, larger than {MOST} or leaves the picture of {}x{}",
                p.width, p.height
            ));
        }
        let crop = in_colour(&p.crop(x, y, w, h));
        let weights = crop.data.iter().map(|v| f32::from(*v) / 255.0).collect();
        let lens =
            Lens { name: format!("patch {x},{y} {w}x{h}"), size: (h, w), channels: 3, weights };
        Ok(lens.balanced().normed())
    }

    /// A filter of a network's first convolution.
    ///
    /// # Errors
    /// When the network has none over 1 or 3 channels, or no filter of that number.
    pub fn learned(network: &Network, params: &[f32], filter: usize) -> Result<Self> {
        let Some((p, [h, w, c, d])) = crate::sheet::first_filters(network) else {
            return other(format!(
                "network `{}` has no first convolution over 1 or 3 channels",
                network.name()
            ));
        };
        if filter >= d {
            return other(format!("filter {filter} but `{}` has {d}", p.name));
        }
        let weights = (0..h * w * c).map(|i| params[p.range.start + i * d + filter]).collect();
        Ok(Lens { name: format!("{} {filter}", p.name), size: (h, w), channels: c, weights })
    }

    /// Each channel with its mean taken off: an even picture answers 0.
    fn balanced(mut self) -> Self {
        let n = (self.size.0 * self.size.1) as f32;
        for c in 0..self.channels {
            let mean = self.weights[c..].iter().step_by(self.channels).sum::<f32>() / n;
            self.weights[c..].iter_mut().step_by(self.channels).for_each(|v| *v -= mean);
        }
        self
    }

    /// Scaled so that the magnitudes sum to 2: answers then lie between -1 and 1 for a balanced filter.
    fn normed(mut self) -> Self {
        let sum: f32 = self.weights.iter().map(|v| v.abs()).sum();
        if sum > 0.0 {
            self.weights.iter_mut().for_each(|v| *v *= 2.0 / sum);
        }
        self
    }
}

/// Which pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The largest of each window.
    Max,
    /// The mean of each window.
    Mean,
}

/// How the lens is moved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Slide {
    /// Pixels from one place to the next.
    pub stride: usize,
    /// What stands beyond the border.
    pub padding: Padding,
    /// Pooling behind it, with its window (and stride).
    pub pool: Option<(Pooling, usize)>,
}

/// A map of numbers `[h, w]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Map {
    /// Rows and columns.
    pub size: (usize, usize),
    /// Row by row.
    #[serde(skip)]
    pub values: Vec<f32>,
}

/// What a lens showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slid {
    /// The lens.
    pub lens: Lens,
    /// How it was moved.
    pub slide: Slide,
    /// Width and height of the picture.
    pub picture: (usize, usize),
    /// The feature map.
    pub map: Map,
    /// After pooling.
    pub pooled: Option<Map>,
    /// Row and column of the map's largest number, and the number.
    pub best: (usize, usize, f32),
    /// First column and row of the picture below the lens there; in the padding they may be negative.
    pub under: (isize, isize),
}

/// Slides the lens over a picture, whose levels count from 0 to 1.
///
/// # Errors
/// When window or pooling do not fit the picture.
pub fn slide(picture: &Picture, lens: &Lens, how: Slide, threads: usize) -> Result<Slid> {
    let (w, h, c) = (picture.width, picture.height, lens.channels);
    let mut b = Builder::new("lens", Shape::new(h, w, c));
    let window = [lens.size.0, lens.size.1];
    let conv = Conv::new(1, window).no_bias().stride(how.stride).padding(how.padding);
    let place = conv.window().place("lens", Shape::new(h, w, c))?;
    let map = b.conv(conv).here();
    match how.pool {
        Some((Pooling::Max, n)) => drop(b.layer(MaxPool::new(n))),
        Some((Pooling::Mean, n)) => drop(b.layer(MeanPool::new(n))),
        None => {}
    }
    let network = b.build()?;
    let options = PlanOptions { keep: vec![map], ..PlanOptions::predict(1, threads) };
    let mut s = Session::new(Plan::compile(&network, &options)?)?;
    s.set_params(&lens.weights)?;
    let pixels = levels(picture, c);
    s.input_mut().copy_from_slice(&pixels);
    s.predict(1)?;
    let of =
        |values: &[f32], shape: Shape| Map { size: (shape.h, shape.w), values: values.to_vec() };
    let feature = of(s.map(map).unwrap_or_default(), network.node(map).shape);
    let columns = feature.size.1;
    let strongest = (0..feature.values.len())
        .fold(0, |b, i| if feature.values[i] > feature.values[b] { i } else { b });
    let (row, column) = (strongest / columns, strongest % columns);
    Ok(Slid {
        pooled: how.pool.map(|_| of(s.output(), network.output_shape())),
        best: (row, column, feature.values[strongest]),
        under: (
            (column * how.stride) as isize - place.left as isize,
            (row * how.stride) as isize - place.top as isize,
        ),
        map: feature,
        lens: lens.clone(),
        slide: how,
        picture: (w, h),
    })
}

/// Levels from 0 to 1 in one channel (brightness by Rec. 601) or three.
fn levels(p: &Picture, channels: usize) -> Vec<f32> {
    let level = |v: u8| f32::from(v) / 255.0;
    match (p.channels, channels) {
        (a, b) if a == b => p.data.iter().map(|v| level(*v)).collect(),
        (1, _) => p.data.iter().flat_map(|v| [level(*v); 3]).collect(),
        _ => p
            .data
            .chunks_exact(3)
            .map(|v| 0.299 * level(v[0]) + 0.587 * level(v[1]) + 0.114 * level(v[2]))
            .collect(),
    }
}

/// The map in colours, a pixel a place.
pub fn map_picture(map: &Map) -> Picture {
    colours(&map.values, map.size.0, map.size.1)
}

/// The filter in colours: blue against, red for; a filter over colours in its own, grey for none.
pub fn lens_picture(lens: &Lens) -> Picture {
    let (h, w) = lens.size;
    if lens.channels == 1 {
        return colours(&lens.weights, h, w);
    }
    let most = lens.weights.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let data = lens.weights.iter().map(|v| (127.5 + 127.5 * v / most) as u8).collect();
    Picture { width: w, height: h, channels: 3, data }
}

/// Picture, filter, map and pooled map side by side with their sizes; where the lens answered most is framed.
///
/// # Errors
/// When a picture cannot be resized.
pub fn panel(picture: &Picture, slid: &Slid) -> Result<Picture> {
    let side = 420;
    let (lens, how) = (&slid.lens, &slid.slide);
    let sizes = |m: &Map| format!("{}x{}", m.size.1, m.size.0);
    let size = format!("{}x{}", slid.picture.0, slid.picture.1);
    let window = format!("{}x{} x {} channels", lens.size.1, lens.size.0, lens.channels);
    let moved = format!("stride {}, padding {}", how.stride, how.padding);
    let (row, column, most) = slid.best;
    let largest = format!("largest {} at {column},{row}", short(most));
    let under = format!("{},{} of the picture: {}", slid.under.0, slid.under.1, short(most));
    let times = (160 / lens.size.0.max(lens.size.1)).max(1);
    let filter = fit(&enlarge(&lens_picture(lens), times), 160)?;
    let mut tiles = vec![
        Tile::new(marked(picture, slid, side)?, &["picture", &size, "framed: strongest answer"]),
        Tile::new(filter, &[&format!("filter: {}", lens.name), &window, &moved]),
        Tile::new(close(picture, slid)?, &["where it answers most", &under]),
        Tile::new(strong(&slid.map, side), &["feature map", &sizes(&slid.map), &largest]),
    ];
    if let (Some(p), Some((kind, n))) = (&slid.pooled, how.pool) {
        let kind = if kind == Pooling::Max { "max" } else { "mean" };
        tiles.push(Tile::new(
            strong(p, side),
            &[&format!("after {kind} pooling {n}x{n}"), &sizes(p)],
        ));
    }
    // In one row, or in two with the pooled map.
    let columns = if tiles.len() == 4 { 4 } else { 3 };
    Ok(grid("A filter slid over a picture", &tiles, columns, Font::Plain))
}

/// The pixels under the lens at the strongest answer, in a picture of `side` pixels at most.
fn marked(picture: &Picture, slid: &Slid, side: usize) -> Result<Picture> {
    let mut p = in_colour(&fit(picture, side)?);
    let scale = p.width as f64 / picture.width as f64;
    let size = |n: usize| (n as f64 * scale).max(6.0);
    let bounds = Bounds {
        left: slid.under.0 as f64 * scale,
        top: slid.under.1 as f64 * scale,
        width: size(slid.lens.size.1),
        height: size(slid.lens.size.0),
    };
    frame(&mut p, &bounds, 2, 2, BEST);
    Ok(p)
}

/// The same, close up: four times the lens around it.
fn close(picture: &Picture, slid: &Slid) -> Result<Picture> {
    let axis = |under: isize, lens: usize, whole: usize| {
        let n = (4 * lens).min(whole);
        let middle = under + lens as isize / 2 - n as isize / 2;
        (middle.clamp(0, (whole - n) as isize) as usize, n)
    };
    let (left, w) = axis(slid.under.0, slid.lens.size.1, picture.width);
    let (top, h) = axis(slid.under.1, slid.lens.size.0, picture.height);
    let crop = picture.crop(left, top, w, h);
    let times = (220 / w.max(h)).max(1);
    let mut p = in_colour(&enlarge(&crop, times));
    let at = |under: isize, from: usize| ((under - from as isize) * times as isize) as f64;
    let bounds = Bounds {
        left: at(slid.under.0, left),
        top: at(slid.under.1, top),
        width: (slid.lens.size.1 * times) as f64,
        height: (slid.lens.size.0 * times) as f64,
    };
    frame(&mut p, &bounds, 0, 1, BEST);
    fit(&p, 220)
}

/// A map in colours in `side` pixels at most; where it must shrink, a pixel shows the strongest of the places
/// that it stands for, since answers of both signs would cancel in a mean.
fn strong(map: &Map, side: usize) -> Picture {
    let (h, w) = map.size;
    let step = h.max(w).div_ceil(side).max(1);
    let (rows, columns) = (h.div_ceil(step), w.div_ceil(step));
    let mut values = vec![0.0f32; rows * columns];
    for (i, v) in map.values.iter().enumerate() {
        let at = &mut values[i / w / step * columns + i % w / step];
        if v.abs() > at.abs() {
            *at = *v;
        }
    }
    enlarge(&colours(&values, rows, columns), side / h.max(w).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slide_one() -> Slide {
        Slide { stride: 1, padding: Padding::Same, pool: None }
    }

    #[test]
    fn stripes_answer_where_stripes_are() {
        let mut p = Picture::filled(60, 50, [120, 120, 120]);
        for y in 20..28 {
            for x in 30..38 {
                let v = if (y - 20) / 2 % 2 == 0 { 255 } else { 0 };
                p.data[(y * 60 + x) * 3..][..3].fill(v);
            }
        }
        let lens = Lens::hand_made("stripes", 8, 2).unwrap();
        let valid = Slide { padding: Padding::Valid, ..slide_one() };
        let s = slide(&p, &lens, valid, 1).unwrap();
        assert_eq!((s.best.0, s.best.1, s.under), (20, 30, (30, 20)));
        assert!((s.best.2 - 1.0).abs() < 1e-5, "{}", s.best.2);
        assert_eq!(s.map.size, (43, 53));
    }

    #[test]
    fn maps_have_the_sizes_of_their_rules() {
        let p = Picture::filled(31, 20, [9, 9, 9]);
        let lens = Lens::hand_made("edges", 5, 2).unwrap();
        for (stride, padding, pool, map, pooled) in [
            (1, Padding::Same, None, (20, 31), None),
            (1, Padding::Valid, Some((Pooling::Max, 2)), (16, 27), Some((8, 13))),
            (3, Padding::Same, Some((Pooling::Mean, 3)), (7, 11), Some((2, 3))),
        ] {
            let s = slide(&p, &lens, Slide { stride, padding, pool }, 2).unwrap();
            assert_eq!((s.map.size, s.pooled.map(|p| p.size)), (map, pooled));
        }
        assert!(
            slide(
                &Picture::filled(3, 3, [0; 3]),
                &lens,
                Slide { padding: Padding::Valid, ..slide_one() },
                1
            )
            .is_err()
        );
    }

    #[test]
    fn balanced_filters_do_not_answer_an_even_picture() {
        let p = Picture::filled(30, 30, [200, 90, 10]);
        for name in HAND_MADE.iter().filter(|n| **n != "blur") {
            for window in [3, 8] {
                let lens = Lens::hand_made(name, window, 2).unwrap();
                let s =
                    slide(&p, &lens, Slide { padding: Padding::Valid, ..slide_one() }, 1).unwrap();
                assert!(s.map.values.iter().all(|v| v.abs() < 1e-5), "{name} {window}");
            }
        }
    }

    #[test]
    fn a_patch_answers_most_where_it_was_cut_out() {
        let mut state = 7u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let data = (0..40 * 30 * 3).map(|_| noise()).collect();
        let p = Picture { width: 40, height: 30, channels: 3, data };
        let lens = Lens::patch(&p, 11, 7, 6, 5).unwrap();
        let s = slide(&p, &lens, Slide { padding: Padding::Valid, ..slide_one() }, 1).unwrap();
        assert_eq!(s.under, (11, 7));
        assert!(Lens::patch(&p, 36, 0, 6, 5).is_err() && Lens::patch(&p, 0, 0, 0, 5).is_err());
    }

    #[test]
    fn a_matrix_is_read_and_what_is_none_is_told() {
        let lens = Lens::from_text("f", "# Sobel\n-1 0 1\n-2, 0, 2\n-1;0;1\n").unwrap();
        assert_eq!((lens.size, lens.weights[3]), ((3, 3), -2.0));
        for (text, words) in
            [("1 2\n3", "line 2 has 1"), ("1 x", "line 1"), ("", "empty"), ("nan", "line 1")]
        {
            let e = Lens::from_text("f", text).unwrap_err().to_string();
            assert!(e.contains(words), "{e}");
        }
        let e = Lens::hand_made("strips", 3, 1).unwrap_err().to_string();
        assert!(e.contains("`stripes`"), "{e}");
    }
}
