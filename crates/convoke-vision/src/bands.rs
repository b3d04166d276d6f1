//! Pictures that come in bands at a scale, for what is too large for memory.

use crate::bounds::Bounds;
use crate::error::{Result, other};
use crate::slide::Bands;
use convoke_data::{Area, Filter, Picture, Rows, resize};
use std::ops::Range;
use std::path::Path;

/// Rows of the picture that a band of a smaller copy is made from beyond its own, each way, in rows of the
/// copy: what antialiasing asks for.
const BEYOND: f64 = 2.0;

/// A band is made from so many rows of the file at a time, about: small copies ask for most of a file at once.
const STRIP: f64 = 512.0;

/// A picture file at a scale, in bands.
pub struct ScaledRows {
    rows: Rows,
    size: (usize, usize),
    /// The last band, and the row that is its first.
    band: Picture,
    first: usize,
}

impl ScaledRows {
    /// Opens a file; none where it does not come row by row.
    ///
    /// # Errors
    /// When it cannot be read, or the scale makes no picture.
    pub fn open(path: &Path, scale: f64) -> Result<Option<Self>> {
        let Some(rows) = Rows::open(path)? else { return Ok(None) };
        let side = |n: usize| (n as f64 * scale).round();
        let (w, h) = (side(rows.size().0), side(rows.size().1));
        if !(1.0..=25_000.0).contains(&w) || !(1.0..=25_000.0).contains(&h) {
            return other(format!("scale {scale} makes a picture of {w} x {h}; use a smaller one"));
        }
        let band = Picture { width: w as usize, height: 0, channels: 3, data: Vec::new() };
        Ok(Some(ScaledRows { rows, size: (w as usize, h as usize), band, first: 0 }))
    }
}

impl Bands for ScaledRows {
    fn size(&self) -> (usize, usize, usize) {
        (self.size.0, self.size.1, 3)
    }

    fn band(&mut self, rows: Range<usize>) -> Result<(&Picture, usize)> {
        if self.rows.size() == self.size {
            return Ok(self.rows.band(rows)?);
        }
        // Rows that the last band has stay.
        let line = self.size.0 * 3;
        let done = self.first + self.band.height;
        if (self.first..done).contains(&rows.start) {
            self.band.data.drain(..(rows.start - self.first) * line);
        } else {
            self.band.data.clear();
        }
        let mut next = rows.start + self.band.data.len() / line;
        let strip =
            (STRIP * self.size.1 as f64 / self.rows.size().1 as f64).ceil().max(1.0) as usize;
        while next < rows.end {
            let until = (next + strip).min(rows.end);
            let more = self.strip(next..until)?;
            self.band.data.extend_from_slice(&more.data);
            next = until;
        }
        self.first = rows.start;
        self.band.height = self.band.data.len() / line;
        Ok((&self.band, self.first))
    }
}

impl ScaledRows {
    /// Some rows of the copy.
    fn strip(&mut self, rows: Range<usize>) -> Result<Picture> {
        let (width, height) = self.rows.size();
        let by = height as f64 / self.size.1 as f64;
        let (top, bottom) = (rows.start as f64 * by, rows.end as f64 * by);
        let reach = BEYOND * by.max(1.0) + 1.0;
        let from = (top - reach).floor().max(0.0) as usize;
        let until = ((bottom + reach).ceil() as usize).min(height);
        let (source, first) = self.rows.band(from..until)?;
        let area = Area {
            left: 0.0,
            top: top - first as f64,
            width: width as f64,
            height: (bottom - top).min((source.height + first) as f64 - top),
        };
        Ok(resize(source, area, self.size.0, rows.len(), Filter::Bilinear)?)
    }
}

/// A smaller copy of a picture file of at most `pixels` pixels, made band by band, and its scale.
///
/// # Errors
/// When it cannot be read.
pub fn overview(path: &Path, pixels: f64) -> Result<Option<(Picture, f64)>> {
    let Some(rows) = Rows::open(path)? else { return Ok(None) };
    let scale = (pixels / (rows.size().0 * rows.size().1) as f64).sqrt().min(1.0);
    let Some(mut scaled) = ScaledRows::open(path, scale)? else { return Ok(None) };
    let (width, height, channels) = scaled.size();
    let mut copy = Picture { width, height, channels, data: Vec::new() };
    for from in (0..height).step_by(128) {
        let until = (from + 128).min(height);
        let (band, first) = scaled.band(from..until)?;
        let line = width * channels;
        copy.data.extend_from_slice(&band.data[(from - first) * line..(until - first) * line]);
    }
    Ok(Some((copy, scale)))
}

/// The squares around boxes, as large as [`crate::candidate_crop`] shows them, from one way through a file.
/// Each comes with the box in it.
///
/// # Errors
/// When the file cannot be read.
pub fn surroundings(path: &Path, boxes: &[Bounds]) -> Result<Vec<(Picture, Bounds)>> {
    let Some(mut rows) = Rows::open(path)? else { return Ok(Vec::new()) };
    let (width, height) = rows.size();
    let reach = |b: &Bounds| {
        let ((x, y), half) = (b.centre(), (2.0 * b.width.max(b.height)).max(16.0));
        let side = |from: f64, to: f64, len: usize| {
            (
                from.floor().clamp(0.0, len as f64 - 1.0) as usize,
                to.ceil().clamp(1.0, len as f64) as usize,
            )
        };
        (side(x - half, x + half, width), side(y - half, y + half, height))
    };
    // From top to bottom, as the file is read.
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by_key(|&i| reach(&boxes[i]).1.0);
    let mut all: Vec<Option<(Picture, Bounds)>> = vec![None; boxes.len()];
    for i in order {
        let ((l, r), (t, b)) = reach(&boxes[i]);
        let (band, first) = rows.band(t..b)?;
        let picture = band.crop(l, t - first, r.max(l + 1) - l, b.max(t + 1) - t);
        let own =
            Bounds { left: boxes[i].left - l as f64, top: boxes[i].top - t as f64, ..boxes[i] };
        all[i] = Some((picture, own));
    }
    Ok(all.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::scaled;
    use convoke_data::write_png;

    #[test]
    fn bands_at_a_scale_are_those_of_the_whole_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        let data = (0..120 * 90 * 3).map(|i| (i / 7 * i % 251) as u8).collect();
        let p = Picture { width: 120, height: 90, channels: 3, data };
        write_png(&path, &p).unwrap();
        for scale in [1.0, 0.5, 0.37, 1.5] {
            let whole = scaled(&p, scale).unwrap();
            let mut bands = ScaledRows::open(&path, scale).unwrap().unwrap();
            assert_eq!(bands.size(), (whole.width, whole.height, 3));
            let mut off = 0;
            for from in (0..whole.height).step_by(17) {
                let until = (from + 25).min(whole.height);
                let (band, first) = bands.band(from..until).unwrap();
                let part = band.crop(0, from - first, whole.width, until - from);
                let same = whole.crop(0, from, whole.width, until - from);
                let far =
                    part.data.iter().zip(&same.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                off = off.max(far);
            }
            // Positions are rounded in another place.
            assert!(off <= 2, "{scale}: off by {off}");
        }
        let (copy, scale) = overview(&path, 2700.0).unwrap().unwrap();
        assert_eq!((copy.width, copy.height, scale), (60, 45, 0.5));
        let b = Bounds { left: 100.0, top: 80.0, width: 12.0, height: 9.0 };
        let crops = surroundings(&path, &[b, Bounds { left: 1.0, ..b }]).unwrap();
        let (picture, own) = &crops[0];
        assert_eq!(picture.pixel(own.left as usize, own.top as usize), p.pixel(100, 80));
        assert_eq!(crops.len(), 2);
    }
}
