//! One small figure: what it looks like, and how it is painted.
//!
//! The frame of a figure: origin at the feet, upwards negative, [`HEIGHT`] units to the top of a hat.

use super::paint::{Brush, Point, along, darker, faint, mix, rgb};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use tiny_skia::Color;

/// Height of a figure with a hat, in units.
pub(super) const HEIGHT: f32 = 44.0;
/// Width of a figure with its arms down, in units.
pub(super) const WIDTH: f32 = 20.0;

const SKIN: [u32; 7] = [0xFBD9BD, 0xF3C6A0, 0xE8B48A, 0xD29A6C, 0xB0764A, 0x8D5A36, 0x6B4228];
const HAIR: [u32; 8] =
    [0x2B1B12, 0x4A2E1A, 0x6E4423, 0x9A6231, 0xC98E3E, 0xE8C15A, 0xB0482A, 0xB9B4AC];
const CLOTH: [u32; 18] = [
    0xD8343A, 0xE7662F, 0xF2A33A, 0xF5D04C, 0x9CBF3B, 0x4E9F50, 0x2F7F6B, 0x3FA7B5, 0x3D7CC9,
    0x2D4F93, 0x6A4FA3, 0xA55AB0, 0xE27BA6, 0xF4F0E6, 0xC9C2B4, 0x5C6570, 0x33302E, 0x8A5A3C,
];
const LEGS: [u32; 10] = [
    0x2F4A7D, 0x3E63A8, 0x24324F, 0x6B5A45, 0x8C7B5A, 0x3A3A3D, 0x5E6B3B, 0x7A3B35, 0xB9A780,
    0x4B6C78,
];
const RED: u32 = 0xD42A2E;
const WHITE: u32 = 0xFAF7F0;

/// Who a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The one to find: red-and-white level stripes, red-and-white bobble hat, round glasses.
    Target,
    /// Has some of the target's marks, never all of them.
    LookAlike,
    /// Anyone else.
    Passerby,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pattern {
    Plain,
    Level(Color),
    Upright(Color),
    Dots(Color),
    Braces(Color),
    Badge(Color),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hat {
    None,
    /// Dome, brim and bobble.
    Bobble(Color, Color),
    Cap(Color),
    Straw(Color),
    Tall(Color),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hairdo {
    Short,
    Long,
    Bun,
    Curls,
    Bald,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Legs {
    Trousers,
    Shorts,
    Skirt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arm {
    Down,
    Hip,
    Wave,
    Up,
    Forward,
}

/// A thing in the hand.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Held {
    Nothing,
    Balloon(Color),
    IceCream(Color),
    Bag(Color),
    Stick,
}

/// Everything that decides how a figure is painted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    skin: Color,
    hair: Color,
    hairdo: Hairdo,
    beard: bool,
    shirt: Color,
    pattern: Pattern,
    long_sleeves: bool,
    hat: Hat,
    glasses: bool,
    legs: Legs,
    cloth: Color,
    shoes: Color,
    arms: [Arm; 2],
    held: Held,
    stance: f32,
}

fn pick(rng: &mut ChaCha8Rng, colours: &[u32]) -> Color {
    rgb(colours.choose(rng).copied().unwrap_or(RED))
}

/// A small drift of colour, so that no two shirts are quite the same.
fn drift(rng: &mut ChaCha8Rng, c: Color) -> Color {
    mix(c, pick(rng, &CLOTH), rng.random_range(0.0..0.12))
}

/// Anyone.
pub(super) fn passerby(rng: &mut ChaCha8Rng) -> Look {
    let arm = |rng: &mut ChaCha8Rng| match rng.random_range(0..10) {
        0..=4 => Arm::Down,
        5 | 6 => Arm::Hip,
        7 => Arm::Wave,
        8 => Arm::Up,
        _ => Arm::Forward,
    };
    let shirt = pick(rng, &CLOTH);
    let other = pick(rng, &CLOTH);
    let hat_colour = pick(rng, &CLOTH);
    let thing = pick(rng, &CLOTH);
    Look {
        skin: pick(rng, &SKIN),
        hair: pick(rng, &HAIR),
        hairdo: match rng.random_range(0..12) {
            0..=4 => Hairdo::Short,
            5..=7 => Hairdo::Long,
            8 | 9 => Hairdo::Bun,
            10 => Hairdo::Curls,
            _ => Hairdo::Bald,
        },
        beard: rng.random_bool(0.1),
        shirt: drift(rng, shirt),
        pattern: match rng.random_range(0..16) {
            0..=6 => Pattern::Plain,
            7 | 8 => level(shirt, other),
            9 => Pattern::Upright(other),
            10 | 11 => Pattern::Dots(other),
            12 | 13 => Pattern::Braces(other),
            _ => Pattern::Badge(other),
        },
        long_sleeves: rng.random_bool(0.5),
        hat: match rng.random_range(0..18) {
            0..=8 => Hat::None,
            9 | 10 => Hat::Bobble(hat_colour, other),
            11..=13 => Hat::Cap(hat_colour),
            14..=16 => Hat::Straw(other),
            _ => Hat::Tall(hat_colour),
        },
        glasses: rng.random_bool(0.15),
        legs: match rng.random_range(0..8) {
            0..=4 => Legs::Trousers,
            5 => Legs::Shorts,
            _ => Legs::Skirt,
        },
        cloth: pick(rng, &LEGS),
        shoes: pick(rng, &[0x3B2A20, 0x222222, 0x7A4A2A, 0xEDE6DA, 0xA33A32]),
        arms: [arm(rng), arm(rng)],
        held: match rng.random_range(0..20) {
            0 => Held::Balloon(thing),
            1 | 2 => Held::IceCream(thing),
            3 | 4 => Held::Bag(thing),
            5 => Held::Stick,
            _ => Held::Nothing,
        },
        stance: rng.random_range(-1.0..1.0),
    }
}

/// Level stripes, but never the target's pair of colours: red ones get navy instead of white.
fn level(shirt: Color, other: Color) -> Pattern {
    let reddish = |c: Color| c.red() > 0.7 && c.green() < 0.5 && c.blue() < 0.7;
    let pale = |c: Color| c.red().min(c.green()).min(c.blue()) > 0.6;
    if reddish(shirt) && pale(other) || pale(shirt) && reddish(other) {
        Pattern::Dots(other)
    } else {
        Pattern::Level(other)
    }
}

/// The one to find.
pub(super) fn target(rng: &mut ChaCha8Rng) -> Look {
    Look {
        skin: pick(rng, &SKIN[..3]),
        hair: pick(rng, &HAIR[1..4]),
        hairdo: Hairdo::Short,
        beard: false,
        shirt: rgb(WHITE),
        pattern: Pattern::Level(rgb(RED)),
        long_sleeves: true,
        hat: Hat::Bobble(rgb(WHITE), rgb(RED)),
        glasses: true,
        legs: Legs::Trousers,
        cloth: rgb(0x3564B0),
        shoes: rgb(0x6B3F22),
        ..passerby(rng)
    }
}

/// Someone who shares marks with the target, with at least one of them wrong.
pub(super) fn look_alike(rng: &mut ChaCha8Rng) -> Look {
    let mut look = target(rng);
    look.skin = pick(rng, &SKIN);
    let other = pick(rng, &[0x2D4F93, 0x2F7F6B, 0x33302E, 0x6A4FA3, 0xF2A33A, 0x4E9F50, 0x3D7CC9]);
    match rng.random_range(0..10) {
        // Stripes of another colour.
        0 => look.pattern = Pattern::Level(other),
        // Upright stripes.
        1 => look.pattern = Pattern::Upright(rgb(RED)),
        // A plain or dotted shirt under hat and glasses.
        2 => {
            look.pattern = Pattern::Plain;
            look.shirt = pick(rng, &[RED, WHITE, 0x3D7CC9]);
        }
        3 => look.pattern = Pattern::Dots(rgb(RED)),
        // The stripes without the hat.
        4 => look.hat = Hat::None,
        5 => look.hat = Hat::Bobble(other, rgb(WHITE)),
        6 => {
            look.hat = Hat::Cap(pick(rng, &[RED, 0x3D7CC9]));
            look.hairdo = Hairdo::Long;
        }
        7 => look.hat = Hat::Straw(rgb(RED)),
        // All but the glasses.
        8 => look.glasses = false,
        // Red on another colour.
        _ => {
            look.shirt = other;
            look.glasses = rng.random_bool(0.5);
        }
    }
    if rng.random_bool(0.5) {
        look.cloth = pick(rng, &LEGS);
    }
    look
}

impl Look {
    /// Paints the figure; the brush stands at its feet.
    pub fn paint(&self, b: &mut Brush) {
        b.ellipse((2.5, -0.3), 9.0, 2.4, faint(rgb(0x1A1408), 0.22));
        if self.hairdo == Hairdo::Long {
            b.inked_ellipse((0.0, -29.0), 6.9, 8.0, self.hair);
        }
        self.paint_legs(b);
        let back = self.arm_points(0);
        self.paint_arm(b, back);
        self.paint_torso(b);
        self.paint_head(b);
        self.paint_hat(b);
        let front = self.arm_points(1);
        self.paint_arm(b, front);
        self.paint_held(b, front[2]);
    }

    fn paint_legs(&self, b: &mut Brush) {
        let s = 1.3 * self.stance;
        let feet = [(-3.2 - s, -1.6), (3.2 + s, -1.6)];
        let hips = [(-2.7, -12.0), (2.7, -12.0)];
        for (hip, foot) in hips.into_iter().zip(feet) {
            b.inked_ellipse((foot.0 + 0.9, foot.1 + 0.3), 2.9, 1.6, self.shoes);
            match self.legs {
                Legs::Trousers => b.inked_line(&[hip, foot], 4.4, self.cloth),
                _ => b.inked_line(&[hip, foot], 3.0, self.skin),
            }
            if self.legs == Legs::Shorts {
                b.inked_line(&[hip, along(hip, foot, 0.4)], 4.8, self.cloth);
            }
        }
        if self.legs == Legs::Skirt {
            let q = [(-5.0, -13.5), (5.0, -13.5), (7.6, -4.8), (-7.6, -4.8)];
            b.inked_polygon(&q, self.cloth);
        } else if self.legs == Legs::Trousers {
            b.line(&[(0.0, -10.0), (0.0, -7.5)], 0.6, darker(self.cloth, 0.4));
        }
    }

    fn paint_torso(&self, b: &mut Brush) {
        let q: [Point; 4] = [(-5.6, -25.4), (5.6, -25.4), (5.5, -11.2), (-5.5, -11.2)];
        b.inked_polygon(&q, self.shirt);
        match self.pattern {
            Pattern::Plain => {}
            Pattern::Level(c) => b.stripes(q, 3, c),
            Pattern::Upright(c) => b.stripes([q[3], q[0], q[1], q[2]], 3, c),
            Pattern::Dots(c) => {
                for (x, y) in
                    [(-3.2, -22.5), (2.8, -22.8), (0.0, -19.0), (-3.4, -15.4), (3.3, -15.0)]
                {
                    b.ellipse((x, y), 1.3, 1.3, c);
                }
            }
            Pattern::Braces(c) => {
                for x in [-3.1, 3.1] {
                    b.line(&[(x, -24.6), (x, -12.0)], 1.5, c);
                }
            }
            Pattern::Badge(c) => b.ellipse((0.0, -18.5), 2.7, 2.7, c),
        }
        // Light from the left.
        let shade = [(3.0, -25.4), (5.6, -25.4), (5.5, -11.2), (3.4, -11.2)];
        b.polygon(&shade, faint(rgb(0x1A1408), 0.13));
    }

    /// Shoulder, elbow, hand.
    fn arm_points(&self, side: usize) -> [Point; 3] {
        let x = if side == 0 { -1.0 } else { 1.0 };
        let at = |px: f32, py: f32| (x * px, py);
        match self.arms[side] {
            Arm::Down => [at(5.6, -23.4), at(7.6, -18.0), at(7.7, -12.6)],
            Arm::Hip => [at(5.6, -23.4), at(9.3, -18.4), at(5.6, -14.0)],
            Arm::Wave => [at(5.6, -23.4), at(9.4, -23.6), at(10.6, -30.6)],
            Arm::Up => [at(5.6, -23.4), at(8.6, -28.6), at(8.2, -35.0)],
            Arm::Forward => [at(5.6, -23.4), at(7.8, -19.0), at(11.2, -20.2)],
        }
    }

    fn paint_arm(&self, b: &mut Brush, [shoulder, elbow, hand]: [Point; 3]) {
        let wrist = along(elbow, hand, 0.85);
        b.inked_ellipse(hand, 1.7, 1.7, self.skin);
        if !self.long_sleeves {
            b.inked_line(&[shoulder, elbow, hand], 2.8, self.skin);
            b.inked_line(&[shoulder, along(shoulder, elbow, 0.7)], 3.6, self.shirt);
            return;
        }
        b.inked_line(&[shoulder, elbow, wrist], 3.5, self.shirt);
        if let Pattern::Level(c) = self.pattern {
            for (from, to) in [(shoulder, elbow), (elbow, wrist)] {
                let (dx, dy) = (to.0 - from.0, to.1 - from.1);
                let len = dx.hypot(dy).max(0.1);
                let (nx, ny) = (-dy / len * 1.75, dx / len * 1.75);
                let edge = |p: Point, s: f32| (p.0 + s * nx, p.1 + s * ny);
                let q = [edge(from, 1.0), edge(from, -1.0), edge(to, -1.0), edge(to, 1.0)];
                b.stripes(q, 1, c);
            }
        }
    }

    fn paint_head(&self, b: &mut Brush) {
        let ink = rgb(0x2A1A14);
        b.inked_ellipse((0.0, -31.0), 5.9, 6.2, self.skin);
        match self.hairdo {
            Hairdo::Bald => b.ellipse((-2.0, -35.0), 1.4, 0.8, faint(rgb(0xFFFFFF), 0.5)),
            Hairdo::Curls => {
                for (x, y) in
                    [(-5.0, -33.5), (-3.4, -36.6), (0.0, -37.8), (3.4, -36.6), (5.0, -33.5)]
                {
                    b.ellipse((x, y), 2.5, 2.5, self.hair);
                }
            }
            _ => b.dome((0.0, -32.6), 6.2, 5.6, -0.9, self.hair),
        }
        if self.hairdo == Hairdo::Bun {
            b.inked_ellipse((0.0, -39.2), 2.6, 2.2, self.hair);
        }
        if self.hairdo == Hairdo::Short {
            // Sideburns show below any hat.
            for x in [-5.6, 5.6] {
                b.ellipse((x, -31.6), 1.0, 1.9, self.hair);
            }
        }
        if self.beard {
            b.dome((0.0, -29.2), 5.0, -4.6, -0.6, self.hair);
        }
        b.line(
            &[(-1.5, -27.7), (0.0, -27.1), (1.5, -27.7)],
            0.8,
            mix(self.skin, rgb(0x8A1F1F), 0.7),
        );
        for x in [-2.4, 2.4] {
            if self.glasses {
                b.ellipse((x, -30.8), 2.2, 2.2, faint(rgb(0xFFFFFF), 0.75));
            } else {
                b.ellipse((x * 1.5, -28.8), 1.2, 0.8, faint(rgb(0xE0605A), 0.3));
            }
            b.ellipse((x, -30.8), 0.8, 0.9, ink);
            if self.glasses {
                b.ring((x, -30.8), 2.2, 0.85, ink);
            }
        }
    }

    fn paint_hat(&self, b: &mut Brush) {
        match self.hat {
            Hat::None => {}
            Hat::Bobble(dome, brim) => {
                b.inked_dome((0.0, -34.4), 5.9, 6.2, 0.4, dome);
                b.inked_line(&[(-5.3, -34.3), (5.3, -34.3)], 2.5, brim);
                b.inked_ellipse((0.0, -41.6), 2.1, 2.0, brim);
            }
            Hat::Cap(c) => {
                b.inked_line(&[(0.0, -34.2), (8.2, -33.7)], 1.6, darker(c, 0.2));
                b.inked_dome((0.0, -34.0), 6.1, 5.2, 0.3, c);
            }
            Hat::Straw(band) => {
                let straw = rgb(0xEBCB7B);
                b.inked_ellipse((0.0, -34.4), 9.0, 1.9, straw);
                b.inked_dome((0.0, -34.4), 5.4, 5.0, 0.3, straw);
                b.line(&[(-4.8, -35.4), (4.8, -35.4)], 1.5, band);
            }
            Hat::Tall(c) => {
                b.inked_ellipse((0.0, -34.3), 7.6, 1.5, c);
                b.inked_polygon(&[(-4.6, -43.0), (4.6, -43.0), (4.3, -34.5), (-4.3, -34.5)], c);
            }
        }
    }

    fn paint_held(&self, b: &mut Brush, hand: Point) {
        let (x, y) = hand;
        match self.held {
            Held::Nothing => {}
            Held::Balloon(c) => {
                b.line(&[hand, (x + 2.0, y - 12.0)], 0.5, rgb(0x444444));
                b.inked_ellipse((x + 2.4, y - 17.0), 4.4, 5.4, c);
                b.ellipse((x + 1.0, y - 19.0), 1.1, 1.6, faint(rgb(0xFFFFFF), 0.6));
            }
            Held::IceCream(c) => {
                b.inked_polygon(
                    &[(x - 1.7, y - 1.5), (x + 1.7, y - 1.5), (x, y + 3.2)],
                    rgb(0xD79A4E),
                );
                b.inked_ellipse((x, y - 2.4), 2.1, 2.0, c);
            }
            Held::Bag(c) => {
                b.line(&[hand, (x, y + 2.0)], 0.8, darker(c, 0.4));
                b.inked_polygon(
                    &[
                        (x - 2.6, y + 1.6),
                        (x + 2.6, y + 1.6),
                        (x + 3.0, y + 7.0),
                        (x - 3.0, y + 7.0),
                    ],
                    c,
                );
            }
            Held::Stick => b.line(&[(x, y - 3.0), (x + 0.8, -0.6)], 1.0, rgb(0x6B4A2A)),
        }
    }
}
