//! A brush over a canvas: ellipses, polygons and lines with smooth edges, in a frame of its own.

use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform,
};

/// A point in the brush's frame.
pub(super) type Point = (f32, f32);

/// The colour `0xRRGGBB`.
pub(super) fn rgb(hex: u32) -> Color {
    Color::from_rgba8((hex >> 16) as u8, (hex >> 8) as u8, hex as u8, 255)
}

/// The colour, that opaque (0 to 1).
pub(super) fn faint(mut colour: Color, opacity: f32) -> Color {
    colour.set_alpha(opacity);
    colour
}

/// From `a` (0) to `b` (1).
pub(super) fn mix(a: Color, b: Color, t: f32) -> Color {
    let t = t.clamp(0.0, 1.0);
    let m = |a: f32, b: f32| (a + (b - a) * t).clamp(0.0, 1.0);
    Color::from_rgba(m(a.red(), b.red()), m(a.green(), b.green()), m(a.blue(), b.blue()), 1.0)
        .unwrap_or(a)
}

/// Darker by that share of black.
pub(super) fn darker(c: Color, t: f32) -> Color {
    mix(c, rgb(0x201408), t)
}

/// Paints shapes given in its own frame: origin, size of a unit, lean, mirrored or not.
pub(super) struct Brush<'a> {
    canvas: &'a mut Pixmap,
    frame: Transform,
    /// Width of the dark line around inked shapes, in units.
    pub ink: f32,
}

/// The dark line around shapes.
const INK: u32 = 0x2B1D14;

impl<'a> Brush<'a> {
    /// A brush whose origin is at pixel `at`, whose unit is `unit` pixels; `lean` moves points
    /// sideways by that share of their height; negative `unit` of the first axis mirrors.
    pub fn new(canvas: &'a mut Pixmap, at: Point, unit: Point, lean: f32) -> Self {
        let frame = Transform::from_row(unit.0, 0.0, lean * unit.1, unit.1, at.0, at.1);
        Brush { canvas, frame, ink: 0.6 }
    }

    fn fill(&mut self, path: Option<Path>, colour: Color) {
        let mut paint = Paint { anti_alias: true, ..Paint::default() };
        paint.set_color(colour);
        if let Some(path) = path {
            self.canvas.fill_path(&path, &paint, FillRule::Winding, self.frame, None);
        }
    }

    fn trace(&mut self, path: Option<Path>, width: f32, colour: Color) {
        let mut paint = Paint { anti_alias: true, ..Paint::default() };
        paint.set_color(colour);
        let stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        if let Some(path) = path {
            self.canvas.stroke_path(&path, &paint, &stroke, self.frame, None);
        }
    }

    /// A filled ellipse.
    pub fn ellipse(&mut self, (x, y): Point, rx: f32, ry: f32, colour: Color) {
        self.fill(oval(x, y, rx, ry), colour);
    }

    /// A filled ellipse with a dark line around it.
    pub fn inked_ellipse(&mut self, (x, y): Point, rx: f32, ry: f32, colour: Color) {
        self.trace(oval(x, y, rx, ry), 2.0 * self.ink, faint(rgb(INK), 0.6));
        self.fill(oval(x, y, rx, ry), colour);
    }

    /// The line of an ellipse.
    pub fn ring(&mut self, (x, y): Point, r: f32, width: f32, colour: Color) {
        self.trace(oval(x, y, r, r), width, colour);
    }

    /// A filled polygon.
    pub fn polygon(&mut self, points: &[Point], colour: Color) {
        self.fill(outline(points, true), colour);
    }

    /// A filled polygon with a dark line around it.
    pub fn inked_polygon(&mut self, points: &[Point], colour: Color) {
        self.trace(outline(points, true), 2.0 * self.ink, faint(rgb(INK), 0.6));
        self.fill(outline(points, true), colour);
    }

    /// A line with round ends through the points.
    pub fn line(&mut self, points: &[Point], width: f32, colour: Color) {
        self.trace(outline(points, false), width, colour);
    }

    /// A line with round ends and a dark line around it.
    pub fn inked_line(&mut self, points: &[Point], width: f32, colour: Color) {
        let around = width + 2.0 * self.ink;
        self.trace(outline(points, false), around, faint(rgb(INK), 0.6));
        self.trace(outline(points, false), width, colour);
    }

    /// The upper part of an ellipse: the half above its centre line, bulging by `bulge` below it.
    pub fn dome(&mut self, (x, y): Point, rx: f32, ry: f32, bulge: f32, colour: Color) {
        let path = cap(x, y, rx, ry, bulge);
        self.fill(path, colour);
    }

    /// The same with a dark line around it.
    pub fn inked_dome(&mut self, at: Point, rx: f32, ry: f32, bulge: f32, colour: Color) {
        let path = cap(at.0, at.1, rx, ry, bulge);
        self.trace(path, 2.0 * self.ink, faint(rgb(INK), 0.6));
        self.dome(at, rx, ry, bulge, colour);
    }

    /// Stripes of width `step` every second step across a quadrilateral, parallel to its upper edge.
    /// `q` is upper left, upper right, lower right, lower left.
    pub fn stripes(&mut self, q: [Point; 4], count: usize, colour: Color) {
        let n = (2 * count + 1) as f32;
        for i in 0..count {
            let (t0, t1) = ((2 * i + 1) as f32 / n, (2 * i + 2) as f32 / n);
            let left = |t| along(q[0], q[3], t);
            let right = |t| along(q[1], q[2], t);
            self.polygon(&[left(t0), right(t0), right(t1), left(t1)], colour);
        }
    }
}

/// The point at share `t` of the way from `a` to `b`.
pub(super) fn along(a: Point, b: Point, t: f32) -> Point {
    (a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t)
}

fn oval(x: f32, y: f32, rx: f32, ry: f32) -> Option<Path> {
    PathBuilder::from_oval(Rect::from_xywh(x - rx, y - ry, 2.0 * rx, 2.0 * ry)?)
}

fn outline(points: &[Point], close: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    let (first, rest) = points.split_first()?;
    path.move_to(first.0, first.1);
    for p in rest {
        path.line_to(p.0, p.1);
    }
    if close {
        path.close();
    }
    path.finish()
}

fn cap(x: f32, y: f32, rx: f32, ry: f32, bulge: f32) -> Option<Path> {
    // A quarter of an ellipse as one cubic (error below 0.03 %).
    const K: f32 = 0.552_284_8;
    let mut path = PathBuilder::new();
    path.move_to(x - rx, y);
    path.cubic_to(x - rx, y - K * ry, x - K * rx, y - ry, x, y - ry);
    path.cubic_to(x + K * rx, y - ry, x + rx, y - K * ry, x + rx, y);
    path.quad_to(x, y + 2.0 * bulge, x - rx, y);
    path.close();
    path.finish()
}
