//! What figures stand on: bands of sea, sand, paving and grass with wavy borders, grained.

use super::paint::{mix, rgb};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tiny_skia::{Color, Pixmap, PremultipliedColorU8};

/// A kind of ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Soil {
    Sea,
    Sand,
    Paving,
    Grass,
}

/// A band of one soil, down to that share of the picture's height.
#[derive(Debug, Clone, Copy)]
struct Band {
    soil: Soil,
    until: f32,
}

/// The bands of one picture.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    bands: Vec<Band>,
    height: f32,
    seed: u32,
}

impl Ground {
    /// Draws a layout: beach, park or fair.
    pub fn draw(rng: &mut ChaCha8Rng, height: f32) -> Self {
        use Soil::{Grass, Paving, Sand, Sea};
        let layout: &[(Soil, f32)] = match rng.random_range(0..4) {
            0 | 1 => &[(Sea, 0.15), (Sand, 0.6), (Paving, 0.72), (Grass, 1.0)],
            2 => &[(Grass, 0.3), (Paving, 0.42), (Grass, 0.75), (Sand, 1.0)],
            _ => &[(Sea, 0.12), (Paving, 0.24), (Grass, 0.5), (Sand, 0.8), (Paving, 1.0)],
        };
        let mut shift = || rng.random_range(-0.03..0.03);
        let bands = layout
            .iter()
            .map(|&(soil, until)| Band {
                soil,
                until: if until < 1.0 { until + shift() } else { 9.0 },
            })
            .collect();
        Ground { bands, height, seed: rng.random() }
    }

    /// Height of border line `y` at column `x`, waves included.
    fn wavy(&self, x: f32, y: f32) -> f32 {
        let s = (self.seed % 97) as f32;
        let wave = (x * 0.011 + s).sin() * 9.0 + (x * 0.031 + 2.0 * s).sin() * 3.0;
        y + wave + 4.0 * (noise(x * 0.05, y * 0.05, self.seed) - 0.5)
    }

    /// The band at a pixel, and how many pixels below its upper border it lies.
    fn band(&self, x: f32, y: f32) -> (usize, f32, f32) {
        let wavy = self.wavy(x, y) / self.height;
        let at = self.bands.iter().position(|b| wavy < b.until).unwrap_or(0);
        let above = if at == 0 { 0.0 } else { self.bands[at - 1].until };
        (at, (wavy - above) * self.height, (self.bands[at].until - wavy) * self.height)
    }

    /// The soil at a pixel.
    pub fn soil(&self, x: f32, y: f32) -> Soil {
        self.bands[self.band(x, y).0].soil
    }

    /// Lowest row of the sea, 0 where there is none.
    pub fn shore(&self) -> f32 {
        match self.bands[0] {
            Band { soil: Soil::Sea, until } => until * self.height,
            _ => 0.0,
        }
    }

    /// Paints every pixel.
    pub fn paint(&self, canvas: &mut Pixmap) {
        let width = canvas.width() as usize;
        for (i, pixel) in canvas.pixels_mut().iter_mut().enumerate() {
            let (x, y) = ((i % width) as f32, (i / width) as f32);
            let c = self.colour(x, y).to_color_u8();
            if let Some(p) = PremultipliedColorU8::from_rgba(c.red(), c.green(), c.blue(), 255) {
                *pixel = p;
            }
        }
    }

    fn colour(&self, x: f32, y: f32) -> Color {
        let (at, below, above) = self.band(x, y);
        let soft = noise(x * 0.02, y * 0.03, self.seed) * 0.6
            + noise(x * 0.09, y * 0.12, self.seed ^ 7) * 0.4;
        let grain = hash(x as u32, y as u32, self.seed);
        let c = match self.bands[at].soil {
            Soil::Sea => sea(x, y / self.height, above, soft, self.seed),
            Soil::Sand => {
                let wet = at > 0 && self.bands[at - 1].soil == Soil::Sea && below < 10.0;
                let dry = mix(rgb(0xEFD9A3), rgb(0xE2C383), soft);
                let c = if wet { mix(rgb(0xB99A63), dry, below / 10.0) } else { dry };
                if grain > 0.985 { mix(c, rgb(0xA98850), 0.5) } else { c }
            }
            Soil::Paving => paving(x, y, soft, self.seed),
            Soil::Grass => {
                let c = mix(rgb(0x9CC25A), rgb(0x7DAA47), soft);
                let blade = noise(x * 0.6, y * 0.18, self.seed ^ 3);
                mix(c, rgb(0x5F8E38), if blade > 0.72 { 0.45 } else { 0.0 })
            }
        };
        let edge = at > 0 && below < 2.2 && self.bands[at - 1].soil != Soil::Sea;
        let c = if edge { mix(c, rgb(0x6E5B3C), 0.45) } else { c };
        mix(c, rgb(if grain > 0.5 { 0xFFFFFF } else { 0x302010 }), (grain - 0.5).abs() * 0.09)
    }
}

fn sea(x: f32, y: f32, above: f32, soft: f32, seed: u32) -> Color {
    let c = mix(rgb(0x2E7FA8), rgb(0x5CC4C6), y * 7.0 + 0.3 * (soft - 0.5));
    let ripple = (x * 0.05 + noise(x * 0.02, y * 60.0, seed) * 9.0).sin() * (y * 420.0).sin();
    let c = if ripple > 0.86 { mix(c, rgb(0xE8FAF6), 0.45) } else { c };
    // Foam at the shore.
    let foam = above + 4.0 * (noise(x * 0.08, 3.0, seed) - 0.5);
    if foam < 4.0 { mix(c, rgb(0xFFFFFF), 0.85) } else { c }
}

/// Flat stones in rows, each row shifted.
fn paving(x: f32, y: f32, soft: f32, seed: u32) -> Color {
    let row = (y / 9.0).floor();
    let shifted = x + row * 7.3;
    let column = (shifted / 16.0).floor();
    let tone = hash(column as i32 as u32, row as u32, seed ^ 11);
    let c = mix(rgb(0xD9CDB8), rgb(0xC4B49B), 0.6 * tone + 0.4 * soft);
    let joint = y - row * 9.0 < 1.0 || shifted - column * 16.0 < 1.0;
    if joint { mix(c, rgb(0x9C8C74), 0.7) } else { c }
}

/// A number in 0..1 from three (a mix of shifts and products, after Wang).
fn hash(x: u32, y: u32, seed: u32) -> f32 {
    let mut h =
        x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    ((h ^ (h >> 15)) >> 8) as f32 / (1 << 24) as f32
}

/// Smooth noise in 0..1: hashed corners of a unit grid, blended.
fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (fx, fy) = (x.floor(), y.floor());
    let (tx, ty) = (x - fx, y - fy);
    let (tx, ty) = (tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty));
    let corner = |dx: i32, dy: i32| hash((fx as i32 + dx) as u32, (fy as i32 + dy) as u32, seed);
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * tx;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * tx;
    top + (bottom - top) * ty
}
