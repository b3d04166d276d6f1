//! From a picture to a network's input: fixed preprocessing, and augmentation for training.

use crate::dataset::{Source, Split};
use crate::picture::{Area, Filter, Picture, read_picture, resize};
use crate::series::{Norm, SignalPreprocess, Signals};
use crate::{DataError, Result};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a picture becomes the network's input. It travels inside model files, so that `val` and
/// `predict` see pictures as training did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Share of the largest centred area of the input's shape that is taken: 1 for all of it, 0.875
    /// for ImageNet's 224 of 256. 0 stretches the whole picture instead.
    pub crop: f32,
    /// Where it is not 0, `crop` means nothing: the picture's short side is first brought to that many
    /// pixels, and the input's size is then cut from the middle, rounded as torchvision's `Resize`
    /// and `CenterCrop` round.
    #[serde(default)]
    pub short_side: usize,
    /// Whether blue comes first, as in networks from Caffe. `mean` and `std` are in that order too.
    #[serde(default)]
    pub bgr: bool,
    /// How pixels are resampled.
    pub filter: Filter,
    /// Taken off each channel, in units of 0..=1.
    pub mean: Vec<f32>,
    /// Each channel is then divided by this.
    pub std: Vec<f32>,
    /// Of signals, how they are brought to length `width` and to scale; the fields for pictures then mean nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalPreprocess>,
}

/// Share of a signal that is warped. InceptionTime on ArrowHead has 81.0 % without and 84.9, 84.9 and 84.2 % with
/// 0.1, 0.25 and 0.5 (five networks each); on ItalyPowerDemand 96.6, 96.7 and 96.5 % without, with 0.1 and 0.25.
const WARP: f32 = 0.2;

/// Changes drawn anew for every sample of every epoch. Nothing is drawn where a field is off.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Augment {
    /// Mirrors left and right, every other time.
    #[serde(default)]
    pub flip: bool,
    /// Shifts by up to that many pixels each way; black comes in.
    #[serde(default)]
    pub shift: usize,
    /// Takes a random area of this share of the picture (smallest, largest) and of aspect 3/4 to
    /// 4/3 (Szegedy et al. 2015).
    #[serde(default)]
    pub area: Option<(f32, f32)>,
    /// Brightness, contrast and saturation change by a factor of up to 1 ± this.
    #[serde(default)]
    pub colour: f32,
    /// Probability that a random rectangle is erased (Zhong et al. 2020).
    #[serde(default)]
    pub erase: f32,
    /// Of signals, the only field with a meaning: a window of this share of the length runs at half to twice its
    /// speed (Le Guennec et al. 2016). Left out of files where it is 0, as files of before have it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warp: f32,
}

fn is_zero(x: &f32) -> bool {
    *x == 0.0
}

impl Augment {
    /// What suits such inputs. Signals have a fifth of them warped. Grey pictures (digits, clothes) are left alone,
    /// since mirrored digits are no digits; small ones are mirrored and shifted by 4; others are mirrored and cut.
    pub fn suited(pre: &Preprocess) -> Self {
        if pre.signal.is_some() {
            return Augment { warp: WARP, ..Augment::default() };
        }
        if pre.channels == 1 {
            return Augment::default();
        }
        if pre.height.max(pre.width) <= 40 {
            return Augment { flip: true, shift: 4, ..Augment::default() };
        }
        Augment { flip: true, area: Some((0.35, 1.0)), colour: 0.2, ..Augment::default() }
    }
}

impl Preprocess {
    /// Numbers from 0 to 1, the largest centred area.
    pub fn plain(height: usize, width: usize, channels: usize) -> Self {
        let (mean, std) = (vec![0.0; channels], vec![1.0; channels]);
        let (filter, short_side) = (Filter::Bilinear, 0);
        let (crop, bgr, signal) = (1.0, false, None);
        Preprocess { height, width, channels, crop, short_side, bgr, filter, mean, std, signal }
    }

    /// For signals: their longest length, and the mean and deviation of their channels.
    pub fn signals(signals: &Signals, signal: SignalPreprocess) -> Self {
        let (mean, std) = match signal.norm {
            Norm::Set => signals.moments(),
            _ => (vec![0.0; signals.channels()], vec![1.0; signals.channels()]),
        };
        let plain = Preprocess::plain(1, signals.lengths().1, signals.channels());
        Preprocess { mean, std, signal: Some(signal), ..plain }
    }

    /// Writes the network's input `[1, length, channels]` of a signal `[any length, channels]`.
    ///
    /// # Errors
    /// When the model is for pictures, or the signal has other channels.
    pub fn apply_signal(&self, signal: &[f32], channels: usize, out: &mut [f32]) -> Result<()> {
        let wrong = |what: String| Err(DataError::picture(Path::new("signal"), what));
        let Some(s) = self.signal else {
            return wrong("cannot be seen by a model for pictures".into());
        };
        if channels != self.channels || signal.is_empty() || !signal.len().is_multiple_of(channels)
        {
            return wrong(format!("has {channels} channels; the model takes {}", self.channels));
        }
        s.apply(signal, &self.mean, &self.std, &mut out[..self.sample_len()]);
        Ok(())
    }

    /// Floats of one sample.
    pub fn sample_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Checks what came from a file.
    ///
    /// # Errors
    /// When sizes are zero or do not fit each other, in one line.
    pub fn check(&self) -> std::result::Result<(), String> {
        let sides = self.height.min(self.width) > 0 && self.height.max(self.width) <= 1 << 16;
        let channels = match self.signal {
            Some(_) => self.height == 1 && (1..=1 << 16).contains(&self.channels),
            None => matches!(self.channels, 1 | 3),
        };
        let lists = self.mean.len() == self.channels && self.std.len() == self.channels;
        let numbers = self.mean.iter().all(|m| m.is_finite())
            && self.std.iter().all(|s| s.is_finite() && *s > 0.0)
            && (0.0..=1.0).contains(&self.crop)
            && (self.short_side == 0
                || (self.height.max(self.width)..=1 << 16).contains(&self.short_side))
            && !(self.bgr && self.channels != 3);
        if sides && channels && lists && numbers {
            return Ok(());
        }
        let Preprocess { height, width, channels, .. } = self;
        Err(format!("preprocessing to {height}x{width}x{channels} contradicts itself"))
    }

    /// The area of a picture that is seen.
    fn area(&self, p: &Picture) -> Area {
        if self.crop <= 0.0 {
            return Area::whole(p);
        }
        let (w, h) = (p.width as f64, p.height as f64);
        let scale = (w / self.width as f64).min(h / self.height as f64) * f64::from(self.crop);
        let (width, height) = (self.width as f64 * scale, self.height as f64 * scale);
        Area { left: (w - width) / 2.0, top: (h - height) / 2.0, width, height }
    }

    /// The whole picture with its short side at `short_side`, the long one rounded down.
    fn shortened(&self, p: &Picture) -> Result<Picture> {
        let (w, h, side) = (p.width, p.height, self.short_side);
        let long = |long: usize, short: usize| (side * long / short.max(1)).max(side);
        let (width, height) = if w <= h { (side, long(h, w)) } else { (long(w, h), side) };
        if (width, height) == (w, h) {
            return Ok(p.clone());
        }
        if width.max(height) > 1 << 16 {
            let what = format!("{w}x{h} is too long and narrow to be resized");
            return Err(DataError::picture(Path::new("picture"), what));
        }
        resize(p, Area::whole(p), width, height, self.filter)
    }

    /// Left and upper edge of the middle: half to even, as Python rounds.
    fn centre(&self, width: usize, height: usize) -> (usize, usize) {
        let half = |all: usize, part: usize| ((all - part) as f64 / 2.0).round_ties_even() as usize;
        (half(width, self.width), half(height, self.height))
    }

    /// Ten crops of a picture, `[10, height, width, channels]` (Krizhevsky et al. 2012): corners and
    /// middle of the picture at `short_side`, and the same of its mirror image, in the order of
    /// torchvision's `TenCrop`. Without a short side the picture is brought to 8/7 of the input's.
    ///
    /// # Errors
    /// When the picture cannot be resized.
    pub fn ten(&self, p: &Picture, out: &mut [f32]) -> Result<()> {
        let (w, h) = (self.width, self.height);
        let side = match self.short_side {
            0 => w.max(h) * 8 / 7,
            s => s,
        };
        let sized = Preprocess { short_side: side, ..self.clone() }.shortened(p)?;
        let (right, bottom) = (sized.width - w, sized.height - h);
        let corners = [
            (0, 0),
            (right, 0),
            (0, bottom),
            (right, bottom),
            self.centre(sized.width, sized.height),
        ];
        let table = Table::new(self);
        for (i, out) in out.chunks_exact_mut(self.sample_len()).take(10).enumerate() {
            let (left, top) = corners[i % 5];
            // The left corner of the mirror image is the right one of the picture.
            let left = if i < 5 { left } else { right - left };
            table.copy(&sized.crop(left, top, w, h), i >= 5, (0, 0), out);
        }
        Ok(())
    }

    /// A network's input `[height, width, channels]` as the picture that it is.
    pub fn seen(&self, x: &[f32]) -> Picture {
        let c = self.channels;
        let mut data = Vec::with_capacity(x.len());
        for pixel in x.chunks_exact(c) {
            let level = |i: usize| {
                let i = if self.bgr { c - 1 - i } else { i };
                (255.0 * (pixel[i] * self.std[i] + self.mean[i])).round().clamp(0.0, 255.0) as u8
            };
            data.extend((0..c).map(level));
        }
        Picture { width: self.width, height: self.height, channels: c, data }
    }

    /// Writes the network's input `[height, width, channels]` of a picture.
    ///
    /// # Errors
    /// When the picture cannot be resized.
    pub fn apply(&self, p: &Picture, out: &mut [f32]) -> Result<()> {
        Table::new(self).apply(p, out)
    }
}

/// A preprocessing with the 256 possible numbers of each channel computed.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub pre: Preprocess,
    numbers: Vec<[f32; 256]>,
}

impl Table {
    pub fn new(pre: &Preprocess) -> Self {
        // Filled in the order of the picture's channels.
        let at = |c: usize| if pre.bgr { pre.channels - 1 - c } else { c };
        let number = |c: usize, v: usize| (v as f32 / 255.0 - pre.mean[at(c)]) / pre.std[at(c)];
        let numbers = (0..pre.channels).map(|c| std::array::from_fn(|v| number(c, v))).collect();
        Table { pre: pre.clone(), numbers }
    }

    pub fn apply(&self, p: &Picture, out: &mut [f32]) -> Result<()> {
        if self.pre.short_side > 0 {
            let sized = self.pre.shortened(p)?;
            let (left, top) = self.pre.centre(sized.width, sized.height);
            let cut = sized.crop(left, top, self.pre.width, self.pre.height);
            self.copy(&cut, false, (0, 0), out);
            return Ok(());
        }
        let area = self.pre.area(p);
        let sized = self.sized(p, area)?;
        self.copy(sized.as_ref().unwrap_or(p), false, (0, 0), out);
        Ok(())
    }

    /// Writes an augmented sample; all that is random comes from `rng`.
    pub fn augment(
        &self,
        p: &Picture,
        a: &Augment,
        rng: &mut ChaCha8Rng,
        out: &mut [f32],
    ) -> Result<()> {
        let area = match a.area {
            Some(range) => random_area(p, range, rng),
            None => self.pre.area(p),
        };
        let sized = self.sized(p, area)?;
        let mut sized = sized
            .as_ref()
            .map_or_else(|| std::borrow::Cow::Borrowed(p), std::borrow::Cow::Borrowed);
        if a.colour > 0.0 {
            recolour(&mut sized.to_mut().data, p.channels, a.colour, rng);
        }
        let flip = a.flip && rng.random::<bool>();
        let s = a.shift.min(1 << 15) as i32;
        let shift =
            if s > 0 { (rng.random_range(-s..=s), rng.random_range(-s..=s)) } else { (0, 0) };
        let shift = (shift.0 as isize, shift.1 as isize);
        self.copy(&sized, flip, shift, out);
        if a.erase > 0.0 && rng.random::<f32>() < a.erase {
            self.erase(rng, out);
        }
        Ok(())
    }

    /// The area at the input's size; `None` when the picture already is that.
    fn sized(&self, p: &Picture, area: Area) -> Result<Option<Picture>> {
        let (w, h) = (self.pre.width, self.pre.height);
        if (p.width, p.height) == (w, h) && area == Area::whole(p) {
            return Ok(None);
        }
        resize(p, area, w, h, self.pre.filter).map(Some)
    }

    fn copy(&self, p: &Picture, flip: bool, (dx, dy): (isize, isize), out: &mut [f32]) {
        let (w, h, c) = (self.pre.width, self.pre.height, self.pre.channels);
        let place = |i: usize| if self.pre.bgr { c - 1 - i } else { i };
        if !flip && (dx, dy) == (0, 0) {
            for (pixel, out) in p.data.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
                for i in 0..c {
                    out[place(i)] = self.numbers[i][pixel[i] as usize];
                }
            }
            return;
        }
        for y in 0..h {
            let from_y = y as isize + dy;
            for x in 0..w {
                let mirrored = if flip { w - 1 - x } else { x };
                let from_x = mirrored as isize + dx;
                let out = &mut out[(y * w + x) * c..][..c];
                let inside = (0..h as isize).contains(&from_y) && (0..w as isize).contains(&from_x);
                for i in 0..c {
                    let v = if inside {
                        p.data[(from_y as usize * w + from_x as usize) * c + i]
                    } else {
                        0
                    };
                    out[place(i)] = self.numbers[i][v as usize];
                }
            }
        }
    }

    /// Fills a rectangle of 2 to 30 % of the area with the mean.
    fn erase(&self, rng: &mut ChaCha8Rng, out: &mut [f32]) {
        let (w, h, c) = (self.pre.width, self.pre.height, self.pre.channels);
        let area = rng.random_range(0.02..0.3f32) * (w * h) as f32;
        let aspect = rng.random_range(0.3f32.ln()..3.3f32.ln()).exp();
        let eh = ((area * aspect).sqrt() as usize).clamp(1, h);
        let ew = ((area / aspect).sqrt() as usize).clamp(1, w);
        let (top, left) = (rng.random_range(0..=h - eh), rng.random_range(0..=w - ew));
        for y in top..top + eh {
            out[(y * w + left) * c..(y * w + left + ew) * c].fill(0.0);
        }
    }
}

fn random_area(p: &Picture, (least, most): (f32, f32), rng: &mut ChaCha8Rng) -> Area {
    let (w, h) = (p.width as f64, p.height as f64);
    for _ in 0..10 {
        let area = w * h * f64::from(rng.random_range(least..=most));
        let aspect = rng.random_range((0.75f64).ln()..=(4.0f64 / 3.0).ln()).exp();
        let (width, height) = ((area * aspect).sqrt(), (area / aspect).sqrt());
        if width <= w && height <= h {
            let left = rng.random::<f64>() * (w - width);
            let top = rng.random::<f64>() * (h - height);
            return Area { left, top, width, height };
        }
    }
    let side = w.min(h);
    Area { left: (w - side) / 2.0, top: (h - side) / 2.0, width: side, height: side }
}

/// Brightness, contrast, saturation, each by a factor of its own.
fn recolour(data: &mut [u8], channels: usize, strength: f32, rng: &mut ChaCha8Rng) {
    let mut factor = || 1.0 + strength * rng.random_range(-1.0..=1.0f32);
    let (brightness, contrast, saturation) = (factor(), factor(), factor());
    let mean = data.iter().map(|&v| f64::from(v)).sum::<f64>() / data.len().max(1) as f64;
    let mean = mean as f32 * brightness;
    for pixel in data.chunks_exact_mut(channels) {
        let lit = |v: u8| (f32::from(v) * brightness - mean) * contrast + mean;
        let grey = pixel.iter().map(|&v| lit(v)).sum::<f32>() / channels as f32;
        for v in pixel {
            *v = (grey + (lit(*v) - grey) * saturation).round().clamp(0.0, 255.0) as u8;
        }
    }
}

/// Mean and deviation of each channel over at most 2,000 samples of a split, in units of 0..=1.
/// Unreadable pictures are passed over.
pub fn statistics(split: &Split, channels: usize) -> (Vec<f32>, Vec<f32>) {
    let step = split.len().div_ceil(2000).max(1);
    let (mut sum, mut square, mut count) = (vec![0u64; channels], vec![0u64; channels], 0u64);
    for i in (0..split.len()).step_by(step) {
        let Ok(p) = read_sample(split, i, channels) else { continue };
        count += (p.width * p.height) as u64;
        for pixel in p.data.chunks_exact(channels) {
            for (c, &v) in pixel.iter().enumerate() {
                sum[c] += u64::from(v);
                square[c] += u64::from(v) * u64::from(v);
            }
        }
    }
    let n = count.max(1) as f64;
    let mean: Vec<f64> = sum.iter().map(|&s| s as f64 / n / 255.0).collect();
    let std = square.iter().zip(&mean).map(|(&s, m)| {
        let var = s as f64 / n / 255.0 / 255.0 - m * m;
        var.max(1e-6).sqrt() as f32
    });
    (mean.iter().map(|&m| m as f32).collect(), std.collect())
}

/// One sample of a split as a picture.
pub(crate) fn read_sample(split: &Split, i: usize, channels: usize) -> Result<Picture> {
    match &split.source {
        Source::Files(files) => read_picture(&files[i], channels),
        Source::Memory { pixels, width, height, channels: c } => {
            let len = width * height * c;
            let data = pixels[i * len..(i + 1) * len].to_vec();
            if *c == channels {
                return Ok(Picture { width: *width, height: *height, channels: *c, data });
            }
            if *c == 1 && channels == 3 {
                let data = data.iter().flat_map(|&v| [v; 3]).collect();
                return Ok(Picture { width: *width, height: *height, channels: 3, data });
            }
            Err(DataError::picture(
                Path::new("sample"),
                format!("has {c} channels, not {channels}"),
            ))
        }
        Source::Signals(_) => {
            Err(DataError::picture(Path::new("sample"), "is a signal, not a picture"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn ramp(w: usize, h: usize) -> Picture {
        let data = (0..w * h * 3).map(|i| (i % 251) as u8).collect();
        Picture { width: w, height: h, channels: 3, data }
    }

    #[test]
    fn a_picture_of_the_right_size_is_only_scaled() {
        let mut pre = Preprocess::plain(4, 6, 3);
        (pre.mean, pre.std) = (vec![0.5; 3], vec![0.25; 3]);
        let mut out = vec![0.0; 72];
        pre.apply(&ramp(6, 4), &mut out).unwrap();
        assert_eq!(out[5], (5.0 / 255.0 - 0.5) / 0.25);
    }

    #[test]
    fn a_wide_picture_is_cut_at_both_sides() {
        let pre = Preprocess::plain(2, 2, 3);
        let mut p = Picture::filled(4, 2, [200, 0, 0]);
        for y in 0..2 {
            for x in [0, 3] {
                p.data[(y * 4 + x) * 3] = 0;
            }
        }
        let mut out = vec![0.0; 12];
        pre.apply(&p, &mut out).unwrap();
        assert!(out.chunks_exact(3).all(|v| (v[0] - 200.0 / 255.0).abs() < 1e-6), "{out:?}");
    }

    #[test]
    fn the_same_random_numbers_give_the_same_sample() {
        let pre = Preprocess::plain(8, 8, 3);
        let a = Augment {
            flip: true,
            shift: 2,
            area: Some((0.3, 1.0)),
            colour: 0.3,
            erase: 0.5,
            warp: 0.0,
        };
        let draw = |seed| {
            let mut out = vec![0.0; 192];
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            Table::new(&pre).augment(&ramp(20, 14), &a, &mut rng, &mut out).unwrap();
            out
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn one_pixel_is_a_picture_too() {
        let pre = Preprocess::plain(8, 8, 3);
        let a = Augment::suited(&Preprocess::plain(64, 64, 3));
        let mut out = vec![f32::NAN; 192];
        pre.apply(&ramp(1, 1), &mut out).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        Table::new(&pre).augment(&ramp(1, 1), &a, &mut rng, &mut out).unwrap();
        assert!(out.iter().all(|v| v.is_finite()));
    }
}
