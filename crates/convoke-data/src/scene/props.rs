//! Things between the figures. Each is painted in its own frame: origin at its foot, upwards negative,
//! in the same units as figures.

use super::ground::Soil;
use super::paint::{Brush, Point, along, darker, faint, mix, rgb};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use tiny_skia::Color;

/// A thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Prop {
    Umbrella(Color, Color),
    Towel(Color, Color),
    Ball(Color),
    Castle,
    Hut(Color, Color),
    Stall(Color, Color),
    Bench,
    Lamp,
    Tree(u32),
    Palm,
    Bush(u32),
    Flowers(Color, u32),
    Picnic(Color),
    Boat(Color),
    Swimmer(Color),
    Lighthouse,
}

const BRIGHT: [u32; 9] =
    [0xD8343A, 0xE7662F, 0xF5C23C, 0x4E9F50, 0x2F8F8A, 0x3D7CC9, 0x6A4FA3, 0xE27BA6, 0xD8343A];
const PALE: [u32; 4] = [0xFAF7F0, 0xFDF0C8, 0xDFF0EC, 0xFAF7F0];

/// Something that fits the soil.
pub(super) fn suited(rng: &mut ChaCha8Rng, soil: Soil) -> Prop {
    let bright = rgb(BRIGHT.choose(rng).copied().unwrap_or(BRIGHT[0]));
    let pale = rgb(PALE.choose(rng).copied().unwrap_or(PALE[0]));
    let shape = rng.random::<u32>();
    match (soil, rng.random_range(0..12)) {
        (Soil::Sea, 0..=4) => Prop::Boat(bright),
        (Soil::Sea, _) => Prop::Swimmer(bright),
        (Soil::Sand, 0..=3) => Prop::Umbrella(bright, pale),
        (Soil::Sand, 4..=7) => Prop::Towel(bright, pale),
        (Soil::Sand, 8) => Prop::Ball(bright),
        (Soil::Sand, 9) => Prop::Castle,
        (Soil::Sand, 10) => Prop::Hut(bright, pale),
        (Soil::Sand, _) => Prop::Palm,
        (Soil::Paving, 0..=5) => Prop::Stall(bright, pale),
        (Soil::Paving, 6..=8) => Prop::Bench,
        (Soil::Paving, _) => Prop::Lamp,
        (Soil::Grass, 0..=3) => Prop::Tree(shape),
        (Soil::Grass, 4..=6) => Prop::Bush(shape),
        (Soil::Grass, 7..=9) => Prop::Flowers(bright, shape),
        (Soil::Grass, 10) => Prop::Picnic(bright),
        (Soil::Grass, _) => Prop::Umbrella(bright, pale),
    }
}

impl Prop {
    /// Half of the width and the height, in units.
    pub fn size(self) -> (f32, f32) {
        match self {
            Prop::Umbrella(..) => (27.0, 60.0),
            Prop::Towel(..) | Prop::Picnic(_) => (20.0, 14.0),
            Prop::Ball(_) => (6.0, 12.0),
            Prop::Castle => (12.0, 18.0),
            Prop::Hut(..) => (20.0, 62.0),
            Prop::Stall(..) => (34.0, 62.0),
            Prop::Bench => (18.0, 18.0),
            Prop::Lamp => (5.0, 66.0),
            Prop::Tree(_) => (28.0, 86.0),
            Prop::Palm => (28.0, 80.0),
            Prop::Bush(_) => (17.0, 20.0),
            Prop::Flowers(..) => (15.0, 12.0),
            Prop::Boat(_) => (28.0, 46.0),
            Prop::Swimmer(_) => (9.0, 12.0),
            Prop::Lighthouse => (30.0, 104.0),
        }
    }

    /// Whether it lies flat on the ground, below everything that stands.
    pub fn flat(self) -> bool {
        matches!(self, Prop::Towel(..) | Prop::Picnic(_) | Prop::Flowers(..))
    }

    /// Paints it; the brush stands at its foot.
    pub fn paint(self, b: &mut Brush) {
        b.ink = 0.8;
        match self {
            Prop::Umbrella(c, pale) => umbrella(b, c, pale),
            Prop::Towel(c, pale) => towel(b, c, pale),
            Prop::Ball(c) => ball(b, c),
            Prop::Castle => castle(b),
            Prop::Hut(c, pale) => hut(b, c, pale),
            Prop::Stall(c, pale) => stall(b, c, pale),
            Prop::Bench => bench(b),
            Prop::Lamp => lamp(b),
            Prop::Tree(shape) => tree(b, shape),
            Prop::Palm => palm(b),
            Prop::Bush(shape) => bush(b, shape),
            Prop::Flowers(c, shape) => flowers(b, c, shape),
            Prop::Picnic(c) => picnic(b, c),
            Prop::Boat(c) => boat(b, c),
            Prop::Swimmer(c) => swimmer(b, c),
            Prop::Lighthouse => lighthouse(b),
        }
    }
}

fn shadow(b: &mut Brush, rx: f32) {
    b.ellipse((rx * 0.2, -0.5), rx, rx * 0.25, faint(rgb(0x1A1408), 0.22));
}

/// A bit of the prop's own chance: bits `at..at + 3` of its shape as a number in 0..1.
fn bit(shape: u32, at: u32) -> f32 {
    (shape.rotate_right(at * 3) & 7) as f32 / 7.0
}

fn umbrella(b: &mut Brush, c: Color, pale: Color) {
    shadow(b, 24.0);
    b.inked_line(&[(0.0, -1.0), (0.0, -58.0)], 1.4, rgb(0xE9E2D4));
    b.inked_dome((0.0, -38.0), 26.0, 19.0, 2.5, c);
    // Gores: narrower towards the sides.
    let rim = [-26.0, -18.0, -7.0, 7.0, 18.0, 26.0_f32];
    for (i, pair) in rim.windows(2).enumerate() {
        if i % 2 == 1 {
            let curve =
                |x: f32, t: f32| (x * (1.0 - (1.0 - t) * (1.0 - t)).sqrt(), -57.0 + 19.0 * t);
            let mut gore: Vec<Point> = (0..=6).map(|k| curve(pair[0], k as f32 / 6.0)).collect();
            gore.push((0.5 * (pair[0] + pair[1]), -36.4));
            gore.extend((0..=6).rev().map(|k| curve(pair[1], k as f32 / 6.0)));
            b.polygon(&gore, pale);
        }
    }
    b.ellipse((0.0, -57.8), 1.5, 1.5, rgb(0xE9E2D4));
}

fn towel(b: &mut Brush, c: Color, pale: Color) {
    let q = [(-16.0, -11.0), (19.0, -11.0), (16.0, 0.0), (-19.0, 0.0)];
    b.inked_polygon(&q, pale);
    b.stripes([q[3], q[0], q[1], q[2]], 4, c);
}

fn picnic(b: &mut Brush, c: Color) {
    let q = [(-14.0, -13.0), (17.0, -13.0), (14.0, 0.0), (-17.0, 0.0)];
    b.inked_polygon(&q, rgb(0xFAF7F0));
    b.stripes(q, 3, faint(c, 0.6));
    b.stripes([q[3], q[0], q[1], q[2]], 4, faint(c, 0.6));
    b.inked_ellipse((-3.0, -7.0), 3.4, 2.2, rgb(0xC58B4A));
    b.ellipse((6.0, -6.0), 2.2, 1.5, rgb(0xFFFFFF));
}

fn ball(b: &mut Brush, c: Color) {
    shadow(b, 6.0);
    b.inked_ellipse((0.0, -5.5), 5.4, 5.4, rgb(0xFAF7F0));
    b.polygon(&[(0.0, -5.5), (-5.2, -6.8), (-2.6, -10.2)], c);
    b.polygon(&[(0.0, -5.5), (2.2, -10.4), (5.2, -6.6)], rgb(0x3D7CC9));
    b.polygon(&[(0.0, -5.5), (4.2, -2.2), (-1.6, -0.4)], rgb(0xF5C23C));
}

fn castle(b: &mut Brush) {
    let sand = rgb(0xD9B46C);
    shadow(b, 12.0);
    b.inked_polygon(&[(-9.0, 0.0), (-8.0, -7.0), (8.0, -7.0), (9.0, 0.0)], sand);
    for x in [-7.0, 0.0, 7.0] {
        let h = if x == 0.0 { 13.0 } else { 10.0 };
        b.inked_polygon(&[(x - 2.6, -4.0), (x - 2.2, -h), (x + 2.2, -h), (x + 2.6, -4.0)], sand);
        b.polygon(&[(x - 2.2, -h), (x + 2.2, -h), (x, -h - 3.0)], darker(sand, 0.25));
    }
    b.line(&[(0.0, -15.0), (0.0, -19.0)], 0.5, rgb(0x5A4630));
    b.polygon(&[(0.0, -19.0), (4.0, -17.8), (0.0, -16.6)], rgb(0xD8343A));
}

fn hut(b: &mut Brush, c: Color, pale: Color) {
    shadow(b, 20.0);
    let wall = [(-15.0, -36.0), (15.0, -36.0), (15.0, 0.0), (-15.0, 0.0)];
    b.inked_polygon(&wall, pale);
    b.stripes([wall[3], wall[0], wall[1], wall[2]], 4, c);
    b.inked_polygon(&[(-19.0, -34.0), (0.0, -56.0), (19.0, -34.0)], darker(c, 0.25));
    b.inked_polygon(&[(-5.0, 0.0), (-5.0, -22.0), (5.0, -22.0), (5.0, 0.0)], rgb(0x7A5634));
    b.ellipse((3.0, -11.0), 0.8, 0.8, rgb(0xF5D04C));
}

fn stall(b: &mut Brush, c: Color, pale: Color) {
    shadow(b, 32.0);
    for x in [-26.0, 26.0] {
        b.inked_line(&[(x, 0.0), (x, -44.0)], 2.0, rgb(0x8A6238));
    }
    b.polygon(
        &[(-26.0, -40.0), (26.0, -40.0), (26.0, -16.0), (-26.0, -16.0)],
        faint(rgb(0x3A2A1C), 0.55),
    );
    let front = [(-28.0, -18.0), (28.0, -18.0), (28.0, 0.0), (-28.0, 0.0)];
    b.inked_polygon(&front, rgb(0xB98A53));
    b.stripes(front, 2, rgb(0xA87A46));
    for (i, x) in (0..8).map(|i| (i, -23.0 + 6.6 * i as f32)) {
        let fruit = [0xD8343A, 0xF2A33A, 0x9CBF3B, 0xF5D04C][i % 4];
        b.inked_ellipse((x, -19.6), 2.8, 2.6, rgb(fruit));
    }
    let n = 9;
    let (top, rim) = ([(-24.0, -58.0), (24.0, -58.0)], [(-32.0, -40.0), (32.0, -40.0)]);
    b.inked_polygon(&[top[0], top[1], rim[1], rim[0]], pale);
    for i in 0..n {
        let (t0, t1) = (i as f32 / n as f32, (i + 1) as f32 / n as f32);
        let colour = if i % 2 == 0 { c } else { pale };
        let (l, r) = (along(rim[0], rim[1], t0), along(rim[0], rim[1], t1));
        b.polygon(&[along(top[0], top[1], t0), along(top[0], top[1], t1), r, l], colour);
        b.dome((0.5 * (l.0 + r.0), -40.0), 0.5 * (r.0 - l.0), -4.0, 0.0, darker(colour, 0.12));
    }
}

fn bench(b: &mut Brush) {
    shadow(b, 17.0);
    let wood = rgb(0x9A6A3B);
    for x in [-13.0, 13.0] {
        b.inked_line(&[(x, 0.0), (x, -15.0)], 1.8, rgb(0x4A4A4C));
    }
    for y in [-15.0, -11.5, -6.5] {
        b.inked_line(&[(-16.0, y), (16.0, y)], 2.2, wood);
    }
}

fn lamp(b: &mut Brush) {
    shadow(b, 5.0);
    b.inked_line(&[(0.0, 0.0), (0.0, -52.0)], 1.8, rgb(0x2F4A45));
    b.inked_ellipse((0.0, -56.0), 4.0, 4.6, rgb(0xFFF3C4));
    b.inked_polygon(&[(-4.4, -59.0), (4.4, -59.0), (0.0, -64.0)], rgb(0x2F4A45));
}

fn tree(b: &mut Brush, shape: u32) {
    shadow(b, 22.0);
    b.inked_polygon(&[(-4.5, 0.0), (-2.6, -40.0), (2.6, -40.0), (4.5, 0.0)], rgb(0x7B5836));
    let leaf = mix(rgb(0x3F8746), rgb(0x6FA23C), bit(shape, 0));
    let blobs = [
        (-14.0, -46.0, 12.0),
        (13.0, -47.0, 12.5),
        (0.0, -42.0, 12.0),
        (-7.0, -61.0, 13.0),
        (8.0, -63.0, 12.0),
        (0.0, -71.0, 10.5),
    ];
    let at = |i: usize, (x, y, r): (f32, f32, f32)| {
        let d = bit(shape, 1 + i as u32) - 0.5;
        (x + 4.0 * d, y - 3.0 * d, r + 2.0 * d)
    };
    for (i, blob) in blobs.into_iter().enumerate() {
        let (x, y, r) = at(i, blob);
        b.inked_ellipse((x, y), r, r * 0.92, darker(leaf, 0.25));
    }
    for (i, blob) in blobs.into_iter().enumerate() {
        let (x, y, r) = at(i, blob);
        b.ellipse((x, y), r, r * 0.92, darker(leaf, 0.12));
        b.ellipse((x - 0.15 * r, y - 0.2 * r), 0.8 * r, 0.7 * r, leaf);
        b.ellipse((x - 0.3 * r, y - 0.4 * r), 0.42 * r, 0.32 * r, mix(leaf, rgb(0xE9F3A8), 0.28));
    }
    if bit(shape, 7) > 0.6 {
        for i in 0..9 {
            let (x, y) = (-16.0 + 4.1 * i as f32, -44.0 - 26.0 * bit(shape, 8 + i));
            b.ellipse((x, y), 1.7, 1.7, rgb(0xD8343A));
        }
    }
}

fn palm(b: &mut Brush) {
    shadow(b, 14.0);
    b.inked_polygon(
        &[(-3.0, 0.0), (1.5, -34.0), (6.0, -60.0), (9.0, -60.0), (5.0, -34.0), (3.0, 0.0)],
        rgb(0x9C7442),
    );
    for i in 1..6 {
        let (x, y) = along((0.0, 0.0), (7.0, -60.0), i as f32 / 6.0);
        b.line(&[(x - 2.4, y), (x + 2.2, y - 1.0)], 0.8, rgb(0x6E4E28));
    }
    for (i, (dx, dy)) in [
        (-22.0, -2.0),
        (-17.0, -13.0),
        (-2.0, -19.0),
        (14.0, -14.0),
        (20.0, -2.0),
        (10.0, 9.0),
        (-13.0, 9.0),
    ]
    .into_iter()
    .enumerate()
    {
        let leaf = if i % 2 == 0 { rgb(0x3E8E4B) } else { rgb(0x5BA651) };
        let (x, y) = (7.5, -61.0);
        let (mx, my) = (x + 0.55 * dx, y + 0.55 * dy - 6.0);
        b.inked_polygon(
            &[(x, y - 1.5), (mx, my - 3.0), (x + dx, y + dy + 5.0), (mx, my + 3.0), (x, y + 1.5)],
            leaf,
        );
    }
    b.inked_ellipse((5.5, -58.5), 2.4, 2.4, rgb(0x6E4A26));
    b.inked_ellipse((9.6, -58.0), 2.4, 2.4, rgb(0x7A522A));
}

fn bush(b: &mut Brush, shape: u32) {
    shadow(b, 15.0);
    let leaf = mix(rgb(0x4C8F45), rgb(0x7FAF45), bit(shape, 0));
    for (i, (x, y, r)) in
        [(-9.0, -6.0, 7.0), (9.0, -6.0, 7.0), (0.0, -10.0, 9.0)].into_iter().enumerate()
    {
        let r = r + 1.6 * (bit(shape, 1 + i as u32) - 0.5);
        b.inked_ellipse((x, y), r, r * 0.9, darker(leaf, 0.18));
        b.ellipse((x - 1.0, y - 1.6), r * 0.76, r * 0.62, leaf);
    }
    if bit(shape, 5) > 0.5 {
        for i in 0..7 {
            let p = (-11.0 + 3.6 * i as f32, -4.0 - 10.0 * bit(shape, 6 + i));
            b.ellipse(p, 1.3, 1.3, rgb(0xF7D7E4));
        }
    }
}

fn flowers(b: &mut Brush, c: Color, shape: u32) {
    for i in 0..9 {
        let (x, y) = (-13.0 + 3.2 * i as f32, -1.0 - 8.0 * bit(shape, i));
        b.line(&[(x, y + 3.0), (x, y)], 0.8, rgb(0x4C7F37));
        for (dx, dy) in [(-1.2, 0.0), (1.2, 0.0), (0.0, -1.2), (0.0, 1.2)] {
            b.ellipse((x + dx, y + dy), 1.1, 1.1, c);
        }
        b.ellipse((x, y), 0.9, 0.9, rgb(0xF9E27A));
    }
}

fn boat(b: &mut Brush, c: Color) {
    b.ellipse((0.0, 0.5), 24.0, 2.6, faint(rgb(0xFFFFFF), 0.45));
    b.inked_line(&[(0.0, -6.0), (0.0, -44.0)], 1.2, rgb(0x7A5634));
    b.inked_polygon(&[(2.0, -42.0), (2.0, -11.0), (21.0, -11.0)], rgb(0xFAF7F0));
    b.inked_polygon(&[(-2.0, -38.0), (-2.0, -11.0), (-15.0, -11.0)], c);
    b.inked_polygon(
        &[(-22.0, -8.0), (24.0, -8.0), (16.0, 0.5), (-15.0, 0.5)],
        mix(c, rgb(0x3A2A1C), 0.3),
    );
}

fn swimmer(b: &mut Brush, c: Color) {
    b.ellipse((0.0, -1.0), 9.0, 2.6, faint(rgb(0xFFFFFF), 0.6));
    b.inked_ellipse((0.0, -6.0), 4.2, 4.4, rgb(0xE8B48A));
    b.dome((0.0, -7.0), 4.3, 3.8, -0.4, c);
    b.inked_ellipse((0.0, -1.6), 7.6, 2.6, rgb(0xFAF7F0));
    for x in [-6.0, -1.0, 4.0] {
        b.polygon(&[(x, -3.6), (x + 2.4, -3.8), (x + 2.6, 0.6), (x + 0.2, 0.8)], c);
    }
}

fn lighthouse(b: &mut Brush) {
    b.inked_polygon(
        &[(-30.0, 0.0), (-20.0, -12.0), (-6.0, -15.0), (14.0, -13.0), (24.0, -7.0), (30.0, 0.0)],
        rgb(0x8B7F72),
    );
    b.polygon(&[(-20.0, -12.0), (-6.0, -15.0), (-2.0, -6.0), (-14.0, -4.0)], rgb(0xA69A8B));
    let tower = [(-7.0, -82.0), (7.0, -82.0), (10.0, -12.0), (-10.0, -12.0)];
    b.inked_polygon(&tower, rgb(0xFAF7F0));
    b.stripes(tower, 3, rgb(0xCF3A34));
    b.inked_polygon(&[(-9.0, -82.0), (9.0, -82.0), (9.0, -85.0), (-9.0, -85.0)], rgb(0x4A4A50));
    b.inked_polygon(&[(-5.0, -85.0), (5.0, -85.0), (5.0, -94.0), (-5.0, -94.0)], rgb(0xFFF0A8));
    b.inked_dome((0.0, -94.0), 6.5, 7.0, 0.3, rgb(0xCF3A34));
}
