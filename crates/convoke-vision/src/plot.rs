//! Curves over a unit square, with words.

use convoke_data::Picture;
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_8X13, FONT_9X15_BOLD};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle};
use embedded_graphics::text::{Alignment, Text};
use std::convert::Infallible;

/// Colours that are told apart, also by those who see fewer (Okabe and Ito 2008).
pub(crate) const PALETTE: [[u8; 3]; 7] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [230, 159, 0],
    [86, 180, 233],
    [60, 60, 60],
];
const GREY: [u8; 3] = [222, 222, 222];
const INK: [u8; 3] = [60, 60, 60];

/// Where a plot's square lies.
pub(crate) struct Axes {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Axes {
    fn point(&self, (x, y): (f64, f64)) -> Point {
        let along =
            |a: i32, b: i32, t: f64| a + (f64::from(b - a) * t.clamp(0.0, 1.0)).round() as i32;
        Point::new(along(self.left, self.right, x), along(self.bottom, self.top, y))
    }
}

/// A white picture to draw on.
pub(crate) struct Canvas(Picture);

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
    ) -> Result<(), Infallible> {
        for Pixel(p, c) in pixels {
            crate::draw::put(&mut self.0, p.x as isize, p.y as isize, [c.r(), c.g(), c.b()]);
        }
        Ok(())
    }
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Canvas(Picture::filled(width, height, [255; 3]))
    }

    pub fn into_picture(self) -> Picture {
        self.0
    }

    fn line(&mut self, a: Point, b: Point, [r, g, bl]: [u8; 3], width: u32) {
        let style = PrimitiveStyle::with_stroke(Rgb888::new(r, g, bl), width);
        let Ok(()) = Line::new(a, b).into_styled(style).draw(self);
    }

    pub fn text(&mut self, text: &str, at: (i32, i32), align: Alignment, bold: bool, c: [u8; 3]) {
        let font = if bold { &FONT_9X15_BOLD } else { &FONT_8X13 };
        let style = MonoTextStyle::new(font, Rgb888::new(c[0], c[1], c[2]));
        let Ok(_) = Text::with_alignment(text, Point::new(at.0, at.1), style, align).draw(self);
    }

    /// A grid from 0 to 1 both ways.
    pub fn axes(&mut self, a: &Axes, title: &str, across: &str, up: &str) {
        self.text(title, (a.left, a.top - 18), Alignment::Left, true, INK);
        for i in 0..=5 {
            let t = f64::from(i) / 5.0;
            let (foot, side) = (a.point((t, 0.0)), a.point((0.0, t)));
            self.line(foot, a.point((t, 1.0)), GREY, 1);
            self.line(side, a.point((1.0, t)), GREY, 1);
            self.text(&format!("{t:.1}"), (foot.x, a.bottom + 18), Alignment::Center, false, INK);
            self.text(&format!("{t:.1}"), (a.left - 8, side.y + 4), Alignment::Right, false, INK);
        }
        self.text(across, ((a.left + a.right) / 2, a.bottom + 40), Alignment::Center, false, INK);
        self.text(up, (a.left - 62, a.top - 4), Alignment::Left, false, INK);
    }

    /// A line through points of the unit square; what is no number is left out.
    pub fn path(&mut self, a: &Axes, points: impl Iterator<Item = (f64, f64)>, colour: [u8; 3]) {
        let mut last = None;
        for p in points.filter(|p| p.0.is_finite() && p.1.is_finite()) {
            let p = a.point(p);
            self.line(last.unwrap_or(p), p, colour, 2);
            last = Some(p);
        }
    }

    /// The name of the `i`-th line, from below.
    pub fn legend(&mut self, a: &Axes, i: usize, text: &str, colour: [u8; 3]) {
        let at = (a.left + 14, a.bottom - 14 - 18 * i as i32);
        self.text(text, at, Alignment::Left, true, colour);
    }
}

/// Shares round by round: each curve is its name and a number from 0 to 1 for each round.
pub fn draw_progress(curves: &[(&str, Vec<f64>)]) -> Picture {
    let mut canvas = Canvas::new(760, 460);
    let axes = Axes { left: 70, top: 46, right: 735, bottom: 400 };
    let rounds = curves.iter().map(|c| c.1.len()).max().unwrap_or(0);
    canvas.axes(&axes, "on the pictures held back", &format!("share of {rounds} rounds"), "share");
    for (i, (name, values)) in curves.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        let at = |(k, v): (usize, &f64)| ((k + 1) as f64 / rounds.max(1) as f64, *v);
        canvas.path(&axes, values.iter().enumerate().map(at), colour);
        let last = values.last().map_or("-".into(), |v| format!("{v:.3}"));
        canvas.legend(&axes, i, &format!("{name} {last}"), colour);
    }
    canvas.into_picture()
}
