//! The curves of a run as a picture: loss on the left, top-1 on the right.

use crate::range_test::{RateCurve, RatePoint};
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
    let judge = rows.first().map_or("val", EpochRow::judge);
    let pair = |train: Vec<(f64, f64)>, val: Vec<(f64, f64)>| {
        [
            Curve { name: "train", colour: BLUE, points: train },
            Curve { name: judge, colour: ORANGE, points: val },
        ]
    };
    let loss = pair(points(&|r| Some(r.train_loss)), points(&|r| r.val_loss));
    let right =
        pair(points(&|r| Some(100.0 * r.train_top1)), points(&|r| r.val_top1.map(|v| 100.0 * v)));
    let epoch = Axis { name: "epoch", label: |v| format!("{v:.0}") };
    panel(&mut canvas, 0, "loss", &loss, 0.0, epoch);
    panel(&mut canvas, WIDTH / 2, "top-1, %", &right, f64::NEG_INFINITY, epoch);
    canvas.0
}

/// Loss against learning rate, and the rate that was picked.
pub(crate) fn rates(curve: &RateCurve) -> Picture {
    let mut canvas = Canvas(Picture::filled((WIDTH / 2) as usize, HEIGHT as usize, [255; 3]));
    // Where the loss bursts, the rest of the curve would be flat.
    let lowest = curve.points.iter().fold(f64::MAX, |m, p| m.min(p.smooth));
    let top = 2.0 * curve.points.first().map_or(1.0, |p| p.smooth).max(lowest);
    let place = |v: f64| v.clamp(-1e6, top);
    let of = |f: fn(&RatePoint) -> f64| -> Vec<(f64, f64)> {
        curve.points.iter().map(|p| (p.lr.log10(), place(f(p)))).collect()
    };
    let picked = f64::from(curve.lr).log10();
    let curves = [
        Curve { name: "loss", colour: GREY, points: of(|p| p.loss) },
        Curve { name: "smooth", colour: BLUE, points: of(|p| p.smooth) },
        Curve { name: "", colour: ORANGE, points: vec![(picked, lowest), (picked, top)] },
    ];
    let axis = Axis { name: "learning rate", label: |v| format!("1e{v:.0}") };
    panel(&mut canvas, 0, &format!("picked {:.2e}", curve.lr), &curves, 0.0, axis);
    canvas.0
}

/// What lies below a panel.
#[derive(Clone, Copy)]
struct Axis {
    name: &'static str,
    label: fn(f64) -> String,
}

fn panel(canvas: &mut Canvas, left: i32, title: &str, curves: &[Curve], floor: f64, axis: Axis) {
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
        // One epoch alone stands in the middle.
        let share = if last > first { (p.0 - first) / (last - first) } else { 0.5 };
        let x = f64::from(x0) + share * f64::from(x1 - x0);
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
        canvas.text(&(axis.label)(epoch), Point::new(x, y0 + 20), Alignment::Center, false, INK);
        epoch += every;
    }
    canvas.text(axis.name, Point::new((x0 + x1) / 2, y0 + 40), Alignment::Center, false, INK);
    for (i, c) in curves.iter().filter(|c| !c.points.is_empty()).enumerate() {
        for w in c.points.windows(2) {
            canvas.line(place(w[0]), place(w[1]), c.colour, 2);
        }
        // Dots closer than this would be a band.
        let dots = c.points.len() <= 40;
        for &p in c.points.iter().filter(|_| dots) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, val: bool) -> Vec<EpochRow> {
        let row = |epoch: usize| {
            let t = epoch as f64;
            EpochRow {
                epoch,
                train_loss: 2.3 * (-t / 20.0).exp(),
                train_top1: 1.0 - 0.9 * (-t / 25.0).exp(),
                on_test: false,
                val_loss: val.then_some(0.4 + 1.9 * (-t / 12.0).exp() + 0.03 * (t * 7.0).sin()),
                val_top1: val.then_some(0.8 - 0.7 * (-t / 15.0).exp() + 0.01 * (t * 5.0).cos()),
                val_top5: None,
                lr: 0.1,
                seconds: 1.0,
                pictures_per_second: 1.0,
            }
        };
        (1..=n).map(row).collect()
    }

    fn count(p: &Picture, c: Rgb888) -> usize {
        p.data.chunks_exact(3).filter(|v| **v == [c.r(), c.g(), c.b()]).count()
    }

    #[test]
    fn curves_are_drawn_for_any_number_of_epochs() {
        for n in [1, 2, 3, 17, 120, 2000] {
            let p = curves(&rows(n, true));
            if let Ok(folder) = std::env::var("CONVOKE_PLOTS") {
                convoke_data::write_png(format!("{folder}/{n}.png").as_ref(), &p).unwrap();
            }
            assert!(count(&p, BLUE) > 100 && count(&p, ORANGE) > 100, "{n}");
        }
        let p = curves(&rows(5, false));
        assert!(count(&p, BLUE) > 100 && count(&p, ORANGE) == 0);
    }

    #[test]
    fn the_curve_of_rates_is_drawn() {
        let point = |i: i32| {
            let lr = 10f64.powf(f64::from(i) / 10.0 - 6.0);
            let loss = if i > 60 { 1e30 } else { 2.0 - 1.5 * f64::from(i) / 60.0 };
            RatePoint { lr, loss, smooth: loss }
        };
        let p = rates(&RateCurve { points: (0..70).map(point).collect(), lr: 0.1 });
        if let Ok(folder) = std::env::var("CONVOKE_PLOTS") {
            convoke_data::write_png(format!("{folder}/lr.png").as_ref(), &p).unwrap();
        }
        assert!(count(&p, BLUE) > 300 && count(&p, ORANGE) > 300);
    }

    #[test]
    fn numbers_that_cannot_be_drawn_are_left_out() {
        assert_eq!(count(&curves(&[]), BLUE), 0);
        let mut r = rows(4, true);
        (r[0].train_loss, r[1].train_loss) = (f64::NAN, f64::INFINITY);
        (r[2].train_loss, r[3].train_loss) = (1e300, -1e300);
        r.iter_mut().for_each(|r| r.val_loss = Some(0.0));
        assert_eq!(curves(&r).data.len(), (WIDTH * HEIGHT * 3) as usize);
        r.iter_mut().for_each(|r| r.train_loss = 5.0);
        assert!(count(&curves(&r), BLUE) > 100);
    }
}
