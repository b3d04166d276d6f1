//! The curves of a run as a picture: loss on the left, share right on the right.

use crate::run::EpochRow;
use convoke_data::Picture;
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_8X13, FONT_9X15_BOLD};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Circle, Line, PrimitiveStyle};
use embedded_graphics::text::{Alignment, Text};
use std::convert::Infallible;

const WIDTH: i32 = 1100;
const HEIGHT: i32 = 460;
const BLUE: Rgb888 = Rgb888::new(31, 98, 168);
const ORANGE: Rgb888 = Rgb888::new(214, 96, 22);
const GREY: Rgb888 = Rgb888::new(220, 220, 220);
const INK: Rgb888 = Rgb888::new(60, 60, 60);

/// A picture that text and lines can be drawn on.
struct Canvas(Picture);

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
            if (0..self.0.width as i32).contains(&p.x) && (0..self.0.height as i32).contains(&p.y) {
                let at = (p.y as usize * self.0.width + p.x as usize) * 3;
                self.0.data[at..at + 3].copy_from_slice(&[c.r(), c.g(), c.b()]);
            }
        }
        Ok(())
    }
}

impl Canvas {
    fn line(&mut self, a: Point, b: Point, colour: Rgb888, width: u32) {
        let Ok(()) =
            Line::new(a, b).into_styled(PrimitiveStyle::with_stroke(colour, width)).draw(self);
    }

    fn text(&mut self, text: &str, at: Point, align: Alignment, bold: bool, colour: Rgb888) {
        let font = if bold { &FONT_9X15_BOLD } else { &FONT_8X13 };
        let Ok(_) =
            Text::with_alignment(text, at, MonoTextStyle::new(font, colour), align).draw(self);
    }
}

/// One panel's curve.
struct Curve {
    name: &'static str,
    colour: Rgb888,
    points: Vec<(f64, f64)>,
}

/// The two panels.
pub(crate) fn curves(rows: &[EpochRow]) -> Picture {
    let mut canvas = Canvas(Picture::filled(WIDTH as usize, HEIGHT as usize, [255, 255, 255]));
    let points = |of: &dyn Fn(&EpochRow) -> Option<f64>| -> Vec<(f64, f64)> {
        rows.iter()
            .filter_map(|r| Some((r.epoch as f64, of(r)?)))
            .filter(|p| p.1.is_finite())
            .collect()
    };
    let pair = |train: Vec<(f64, f64)>, val: Vec<(f64, f64)>| {
        [
            Curve { name: "train", colour: BLUE, points: train },
            Curve { name: "val", colour: ORANGE, points: val },
        ]
    };
    let loss = pair(points(&|r| Some(r.train_loss)), points(&|r| r.val_loss));
    let right =
        pair(points(&|r| Some(100.0 * r.train_top1)), points(&|r| r.val_top1.map(|v| 100.0 * v)));
    panel(&mut canvas, 0, "loss", &loss, 0.0);
    panel(&mut canvas, WIDTH / 2, "right, %", &right, f64::NEG_INFINITY);
    canvas.0
}

fn panel(canvas: &mut Canvas, left: i32, title: &str, curves: &[Curve], floor: f64) {
    let (x0, x1, y0, y1) = (left + 70, left + WIDTH / 2 - 25, HEIGHT - 50, 50);
    let all = || curves.iter().flat_map(|c| &c.points);
    let (first, last) = all().fold((f64::MAX, f64::MIN), |(a, b), p| (a.min(p.0), b.max(p.0)));
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(a, b), p| (a.min(p.1), b.max(p.1)));
    canvas.text(title, Point::new(x0, 28), Alignment::Left, true, INK);
    if first > last {
        return;
    }
    let step = nice((high - low.max(floor)).max(high.abs() * 1e-3).max(1e-9) / 5.0);
    let low = (low / step).floor() * step;
    let high = ((high / step).ceil() * step).max(low + step);
    let place = |p: (f64, f64)| {
        let x = f64::from(x0) + (p.0 - first) / (last - first).max(1.0) * f64::from(x1 - x0);
        let y = f64::from(y0) - (p.1 - low) / (high - low) * f64::from(y0 - y1);
        Point::new(x.round() as i32, y.round() as i32)
    };
    for i in 0..=((high - low) / step).round() as i32 {
        let v = low + f64::from(i) * step;
        let y = place((first, v)).y;
        canvas.line(Point::new(x0, y), Point::new(x1, y), GREY, 1);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        canvas.text(
            &format!("{v:.digits$}"),
            Point::new(x0 - 8, y + 4),
            Alignment::Right,
            false,
            INK,
        );
    }
    let every = nice((last - first) / 8.0).max(1.0);
    let mut epoch = (first / every).ceil() * every;
    while epoch <= last {
        let x = place((epoch, low)).x;
        canvas.text(&format!("{epoch:.0}"), Point::new(x, y0 + 20), Alignment::Center, false, INK);
        epoch += every;
    }
    canvas.text("epoch", Point::new((x0 + x1) / 2, y0 + 40), Alignment::Center, false, INK);
    for (i, c) in curves.iter().filter(|c| !c.points.is_empty()).enumerate() {
        for w in c.points.windows(2) {
            canvas.line(place(w[0]), place(w[1]), c.colour, 2);
        }
        for &p in &c.points {
            let Ok(()) = Circle::with_center(place(p), 6)
                .into_styled(PrimitiveStyle::with_fill(c.colour))
                .draw(canvas);
        }
        let x = x1 - 70 * (1 - i as i32);
        canvas.text(c.name, Point::new(x, 28), Alignment::Right, true, c.colour);
    }
}

/// The next of 1, 2, 5, 10, … at or above.
fn nice(v: f64) -> f64 {
    let power = 10f64.powf(v.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&m| m >= v * 0.999).unwrap_or(power)
}
