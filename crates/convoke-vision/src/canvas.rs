//! Pictures put together of pictures: text, tiles with captions, colours for numbers.

use crate::draw::{Rgb, in_colour, put};
use crate::error::Result;
use convoke_data::{Area, Filter, Picture, resize};
use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_7X13, FONT_9X15_BOLD};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::text::{Baseline, Text};
use std::convert::Infallible;

pub(crate) const PAPER: Rgb = [250, 250, 248];
pub(crate) const INK: Rgb = [45, 48, 56];
pub(crate) const SOFT: Rgb = [120, 124, 134];
pub(crate) const LINE: Rgb = [214, 214, 208];
pub(crate) const GAP: usize = 12;

/// A picture that text can be written on.
pub(crate) struct Canvas(pub Picture);

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width as u32, self.0.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> std::result::Result<(), Infallible> {
        for Pixel(p, c) in pixels {
            put(&mut self.0, p.x as isize, p.y as isize, [c.r(), c.g(), c.b()]);
        }
        Ok(())
    }
}

/// Sizes of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Font {
    Small,
    Plain,
    Bold,
}

impl Font {
    fn face(self) -> &'static MonoFont<'static> {
        match self {
            Font::Small => &FONT_6X10,
            Font::Plain => &FONT_7X13,
            Font::Bold => &FONT_9X15_BOLD,
        }
    }

    /// Width of a letter and height of a line.
    pub fn size(self) -> (usize, usize) {
        let s = self.face().character_size;
        (s.width as usize, s.height as usize + 2)
    }
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Canvas(Picture::filled(width.max(1), height.max(1), PAPER))
    }

    /// Writes a line with its upper left corner at (x, y).
    pub fn text(&mut self, text: &str, x: usize, y: usize, font: Font, colour: Rgb) {
        let colour = Rgb888::new(colour[0], colour[1], colour[2]);
        let style = MonoTextStyle::new(font.face(), colour);
        let at = Point::new(x as i32, y as i32);
        let Ok(_) = Text::with_baseline(text, at, style, Baseline::Top).draw(self);
    }

    /// Lays a picture on; what would leave the canvas is cut.
    pub fn paste(&mut self, tile: &Picture, x: usize, y: usize) {
        let tile = in_colour(tile);
        let width = tile.width.min(self.0.width.saturating_sub(x));
        for row in 0..tile.height.min(self.0.height.saturating_sub(y)) {
            let (from, to) = (row * tile.width * 3, ((y + row) * self.0.width + x) * 3);
            self.0.data[to..to + 3 * width].copy_from_slice(&tile.data[from..from + 3 * width]);
        }
    }

    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Rgb) {
        for row in y..y + height {
            for column in x..x + width {
                put(&mut self.0, column as isize, row as isize, colour);
            }
        }
    }
}

/// A picture with lines below it.
pub(crate) struct Tile {
    pub picture: Picture,
    pub caption: Vec<String>,
}

impl Tile {
    pub fn new(picture: Picture, caption: &[&str]) -> Self {
        Tile { picture, caption: caption.iter().map(|c| c.to_string()).collect() }
    }
}

/// The tiles in rows of `columns` under a title; captions in the small or the plain font.
pub(crate) fn grid(title: &str, tiles: &[Tile], columns: usize, font: Font) -> Picture {
    let columns = columns.clamp(1, tiles.len().max(1));
    let (letter, line) = font.size();
    let lines = tiles.iter().map(|t| t.caption.len()).max().unwrap_or(0);
    let words = tiles.iter().flat_map(|t| &t.caption).map(|c| c.chars().count()).max();
    let widest = tiles.iter().map(|t| t.picture.width).max().unwrap_or(1);
    let cell = widest.max(letter * words.unwrap_or(0));
    let head = if title.is_empty() { 0 } else { Font::Bold.size().1 + GAP };
    let rows = tiles.chunks(columns);
    let tall: Vec<usize> =
        rows.clone().map(|r| r.iter().map(|t| t.picture.height).max().unwrap_or(0)).collect();
    let foot = lines * line + if lines > 0 { 4 } else { 0 };
    let height = GAP + head + tall.iter().map(|h| h + foot + GAP).sum::<usize>();
    let width =
        (GAP + columns * (cell + GAP)).max(2 * GAP + Font::Bold.size().0 * title.chars().count());
    let mut canvas = Canvas::new(width, height);
    canvas.text(title, GAP, GAP, Font::Bold, INK);
    let mut y = GAP + head;
    for (row, tall) in rows.zip(tall) {
        for (i, tile) in row.iter().enumerate() {
            let x = GAP + i * (cell + GAP);
            canvas.paste(&tile.picture, x, y);
            for (k, words) in tile.caption.iter().enumerate() {
                let colour = if k == 0 { INK } else { SOFT };
                canvas.text(words, x, y + tile.picture.height + 4 + k * line, font, colour);
            }
        }
        y += tall + foot + GAP;
    }
    canvas.0
}

/// Pictures one below the other, left edges in line.
pub(crate) fn stack(parts: &[Picture]) -> Picture {
    let width = parts.iter().map(|p| p.width).max().unwrap_or(1);
    let mut canvas = Canvas::new(width, parts.iter().map(|p| p.height).sum());
    let mut y = 0;
    for part in parts {
        canvas.paste(part, 0, y);
        y += part.height;
    }
    canvas.0
}

/// The picture at a size that fits into a square of `side`: enlarged by whole pixels, shrunk by averages.
pub(crate) fn fit(p: &Picture, side: usize) -> Result<Picture> {
    if p.height == 1 && p.width > 24 {
        return Ok(wide_strip(p, side));
    }
    let longest = p.width.max(p.height).max(1);
    if longest > side {
        let to = |n: usize| (n * side / longest).max(1);
        return Ok(resize(p, Area::whole(p), to(p.width), to(p.height), Filter::Bilinear)?);
    }
    Ok(enlarge(p, side / longest))
}

/// A picture of one row, about `side` wide and tall enough to be seen.
pub(crate) fn wide_strip(p: &Picture, side: usize) -> Picture {
    let wide = enlarge(p, (side / p.width.max(1)).max(1));
    let data = wide.data[..wide.width * wide.channels].to_vec();
    strip(Picture { height: 1, data, ..wide }, 24)
}

/// A picture of one row, drawn `rows` tall; others as they are.
pub(crate) fn strip(p: Picture, rows: usize) -> Picture {
    match p.height {
        1 => Picture { height: rows.max(1), data: p.data.repeat(rows.max(1)), ..p },
        _ => p,
    }
}

/// Each pixel as a square of `times` pixels.
pub(crate) fn enlarge(p: &Picture, times: usize) -> Picture {
    let times = times.max(1);
    let (width, height, channels) = (p.width * times, p.height * times, p.channels);
    let mut data = Vec::with_capacity(width * height * channels);
    for y in 0..height {
        for x in 0..width {
            data.extend_from_slice(p.pixel(x / times, y / times));
        }
    }
    Picture { width, height, channels, data }
}

/// From dark violet over red to pale yellow, for numbers from 0 to 1; even steps look even.
pub(crate) fn heat(t: f32) -> Rgb {
    const STOPS: [[f32; 3]; 6] = [
        [6.0, 6.0, 22.0],
        [72.0, 16.0, 98.0],
        [150.0, 38.0, 96.0],
        [222.0, 76.0, 62.0],
        [250.0, 158.0, 48.0],
        [252.0, 248.0, 180.0],
    ];
    mix(&STOPS, t)
}

/// Blue for −1, near white for 0, red for 1.
pub(crate) fn signed(t: f32) -> Rgb {
    const STOPS: [[f32; 3]; 5] = [
        [20.0, 60.0, 140.0],
        [110.0, 160.0, 215.0],
        [247.0, 247.0, 244.0],
        [230.0, 130.0, 105.0],
        [150.0, 20.0, 35.0],
    ];
    mix(&STOPS, (t + 1.0) / 2.0)
}

fn mix(stops: &[[f32; 3]], t: f32) -> Rgb {
    let last = stops.len() - 1;
    let at = if t.is_nan() { 0.0 } else { t.clamp(0.0, 1.0) * last as f32 };
    let i = (at as usize).min(last - 1);
    std::array::from_fn(|c| {
        (stops[i][c] + (stops[i + 1][c] - stops[i][c]) * (at - i as f32)).round() as u8
    })
}

/// Numbers `[h, w]` in colours: heat where none is negative, else blue and red around white.
pub(crate) fn colours(values: &[f32], h: usize, w: usize) -> Picture {
    let most = values.iter().fold(0.0f32, |m, v| m.max(v.abs())).max(f32::MIN_POSITIVE);
    coloured(values, h, w, most, values.iter().any(|v| *v < 0.0))
}

/// The same for numbers up to `most`, in the colours of numbers with or without a sign.
pub(crate) fn coloured(values: &[f32], h: usize, w: usize, most: f32, negative: bool) -> Picture {
    let of = |v: &f32| if negative { signed(v / most) } else { heat(v / most) };
    Picture { width: w, height: h, channels: 3, data: values.iter().flat_map(of).collect() }
}

/// The picture under a veil of heat: where `values [h, w]` (of the picture's size) are large it glows.
pub(crate) fn veil(picture: &Picture, values: &[f32]) -> Picture {
    let mut p = in_colour(picture);
    let most = values.iter().fold(0.0f32, |m, v| m.max(*v)).max(f32::MIN_POSITIVE);
    for (pixel, v) in p.data.chunks_exact_mut(3).zip(values) {
        // The root, so that what is weak shows, too.
        let t = (v / most).clamp(0.0, 1.0).sqrt();
        let glow = heat(0.25 + 0.75 * t);
        let grey =
            0.3 * f32::from(pixel[0]) + 0.59 * f32::from(pixel[1]) + 0.11 * f32::from(pixel[2]);
        for (c, g) in pixel.iter_mut().zip(glow) {
            let dim = 0.55 * grey + 0.15 * f32::from(*c);
            *c = (dim + (0.75 * f32::from(g) + 0.25 * f32::from(*c) - dim) * t).round() as u8;
        }
    }
    p
}

/// Bilinear between pixel centres, the border repeated (OpenCV's `INTER_LINEAR`): `[h, w]` to `[oh, ow]`.
pub fn upsample(values: &[f32], (h, w): (usize, usize), (oh, ow): (usize, usize)) -> Vec<f32> {
    let place = |i: usize, n: usize, on: usize| {
        let at = ((i as f32 + 0.5) * n as f32 / on as f32 - 0.5).clamp(0.0, (n - 1) as f32);
        (at as usize, (at as usize + 1).min(n - 1), at.fract())
    };
    let columns: Vec<_> = (0..ow).map(|x| place(x, w, ow)).collect();
    let mut out = Vec::with_capacity(oh * ow);
    for y in 0..oh {
        let (top, bottom, down) = place(y, h, oh);
        out.extend(columns.iter().map(|&(left, right, along)| {
            let line = |y: usize| {
                let (a, b) = (values[y * w + left], values[y * w + right]);
                a + (b - a) * along
            };
            let (a, b) = (line(top), line(bottom));
            a + (b - a) * down
        }));
    }
    out
}

/// A number in a few letters.
pub(crate) fn short(v: f32) -> String {
    let a = v.abs();
    match a {
        _ if a == 0.0 => "0".into(),
        _ if !(0.001..10_000.0).contains(&a) => format!("{v:.1e}"),
        _ if a >= 100.0 => format!("{v:.0}"),
        _ if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_stand_in_rows_with_their_captions() {
        let tile = || Tile::new(Picture::filled(20, 10, [200, 0, 0]), &["one", "two"]);
        let p = grid("title", &[tile(), tile(), tile()], 2, Font::Small);
        assert_eq!(p.pixel(GAP + 1, GAP + 17 + GAP + 1), [200, 0, 0]);
        assert_eq!(p.width, GAP + 2 * (20 + GAP));
        assert!(p.data.chunks_exact(3).filter(|c| **c == INK).count() > 40);
    }

    #[test]
    fn colours_tell_signs() {
        let p = colours(&[1.0, -1.0, 0.0], 1, 3);
        let (up, down, none) = (p.pixel(0, 0), p.pixel(1, 0), p.pixel(2, 0));
        assert!(up[0] > up[2] && down[2] > down[0] && none.iter().all(|&v| v > 240));
        let p = colours(&[0.0, 1.0], 1, 2);
        assert!(p.pixel(0, 0)[0] < 20 && p.pixel(1, 0)[0] > 240);
    }

    #[test]
    fn upsampling_keeps_the_border_and_goes_straight_between() {
        let up = upsample(&[0.0, 4.0], (1, 2), (1, 8));
        assert_eq!(up, [0.0, 0.0, 0.5, 1.5, 2.5, 3.5, 4.0, 4.0]);
        assert_eq!(upsample(&[3.0], (1, 1), (2, 2)), [3.0; 4]);
    }

    #[test]
    fn a_picture_is_enlarged_by_whole_pixels_and_shrunk_to_fit() {
        let p = Picture::filled(10, 4, [1, 2, 3]);
        assert_eq!(fit(&p, 35).unwrap().width, 30);
        assert_eq!((fit(&p, 5).unwrap().width, fit(&p, 5).unwrap().height), (5, 2));
    }
}
