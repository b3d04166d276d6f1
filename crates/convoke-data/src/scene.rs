//! Crowd scenes drawn by program: a striped figure to find among hundreds that look almost like it.
//!
//! Everything follows from the seed: the same options give the same picture. Things are painted from
//! the back (top) to the front (bottom), so that neighbours cover each other.

mod figure;
mod ground;
mod paint;
mod props;

pub use figure::Kind;

use crate::{Area, Picture};
use figure::{HEIGHT, Look, WIDTH};
use ground::{Ground, Soil};
use paint::Brush;
use props::Prop;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tiny_skia::Pixmap;

/// What to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SceneOptions {
    /// Columns, brought into 128..=8192.
    pub width: usize,
    /// Rows, brought into 128..=8192.
    pub height: usize,
    /// Same seed, same scene.
    pub seed: u64,
    /// How many targets: one, as in the picture books; more to learn from.
    pub targets: usize,
    /// How many figures there are per target that look almost like it, at least.
    pub look_alikes: usize,
    /// Square pixels per figure: less is more crowded.
    pub pixels_per_figure: usize,
}

impl SceneOptions {
    /// A picture of 1024 × 768 with one target.
    pub fn new(seed: u64) -> Self {
        SceneOptions {
            width: 1024,
            height: 768,
            seed,
            targets: 1,
            look_alikes: 14,
            pixels_per_figure: 1250,
        }
    }
}

/// One figure in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Who it is.
    pub kind: Kind,
    /// From the top of a hat to the shoes, in pixels; the same proportions for everyone.
    pub area: Area,
}

/// A picture with its ground truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The picture, in colour.
    pub picture: Picture,
    /// Everyone, from back to front.
    pub figures: Vec<Figure>,
}

impl Scene {
    /// Where the targets are.
    pub fn targets(&self) -> impl Iterator<Item = Area> + '_ {
        self.figures.iter().filter(|f| f.kind == Kind::Target).map(|f| f.area)
    }
}

/// Mean width and height of a figure in pixels: the size of box to look for.
pub const FIGURE: (f64, f64) = (17.0, 38.0);
/// Height of a figure at the upper and at the lower border.
const NEAR: (f32, f32) = (31.0, 43.0);
/// So much of a target's upper part may be covered by others.
const COVERED: f32 = 0.3;

/// Draws a scene.
pub fn draw_scene(options: &SceneOptions) -> Scene {
    let side = |n: usize| n.clamp(128, 8192);
    let (width, height) = (side(options.width), side(options.height));
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut canvas = Pixmap::new(width as u32, height as u32).expect("sides are in range");
    let ground = Ground::draw(&mut rng, height as f32);
    ground.paint(&mut canvas);
    let mut crowd = Crowd {
        width: width as f32,
        height: height as f32,
        ground,
        people: Vec::new(),
        props: Vec::new(),
        covered: Vec::new(),
        rng,
    };
    crowd.place_targets(options.targets);
    crowd.place_props();
    let look_alikes = options.look_alikes * options.targets.max(1);
    let all = width * height / options.pixels_per_figure.max(200);
    for i in 0..all.max(look_alikes) {
        crowd.place_other(if i < look_alikes { Kind::LookAlike } else { Kind::Passerby });
    }
    let figures = crowd.paint(&mut canvas);
    let data = canvas.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    Scene { picture: Picture { width, height, channels: 3, data }, figures }
}

struct Person {
    look: Look,
    kind: Kind,
    x: f32,
    y: f32,
    /// Pixels per unit.
    unit: f32,
    mirrored: bool,
    lean: f32,
}

impl Person {
    /// Left, top, right, bottom.
    fn edges(&self) -> [f32; 4] {
        let half = 0.5 * WIDTH * self.unit;
        [self.x - half, self.y - HEIGHT * self.unit, self.x + half, self.y]
    }
}

struct Placed {
    prop: Prop,
    x: f32,
    y: f32,
    unit: f32,
    mirrored: bool,
}

/// A scene in the making.
struct Crowd {
    width: f32,
    height: f32,
    ground: Ground,
    people: Vec<Person>,
    props: Vec<Placed>,
    /// Share of each target that is covered; targets are the first people.
    covered: Vec<f32>,
    rng: ChaCha8Rng,
}

impl Crowd {
    /// Height of a figure that stands at row `y`, in pixels, with its own variation.
    fn unit(&mut self, y: f32) -> f32 {
        let own = self.rng.random_range(0.94..1.06);
        (NEAR.0 + (NEAR.1 - NEAR.0) * y / self.height) * own / HEIGHT
    }

    fn person(&mut self, kind: Kind, x: f32, y: f32) -> Person {
        let rng = &mut self.rng;
        let look = match kind {
            Kind::Target => figure::target(rng),
            Kind::LookAlike => figure::look_alike(rng),
            Kind::Passerby => figure::passerby(rng),
        };
        let (mirrored, lean) = (rng.random_bool(0.5), rng.random_range(-0.08..0.08));
        Person { look, kind, x, y, unit: self.unit(y), mirrored, lean }
    }

    fn spot(&mut self) -> (f32, f32) {
        let top = self.ground.shore() + 12.0;
        let x = self.rng.random_range(0.0..self.width);
        (x, self.rng.random_range(top.max(0.04 * self.height)..self.height + 12.0))
    }

    fn place_targets(&mut self, targets: usize) {
        let mut tries = 0;
        while self.people.len() < targets && tries < 100 * targets {
            tries += 1;
            let (x, y) = self.spot();
            let p = self.person(Kind::Target, x, y);
            let [left, top, right, bottom] = p.edges();
            let inside =
                left > 2.0 && top > 2.0 && right < self.width - 2.0 && bottom < self.height - 2.0;
            let apart =
                self.people.iter().all(|o| (o.x - x).abs() > 50.0 || (o.y - y).abs() > 60.0);
            if inside && apart && self.ground.soil(x, y) != Soil::Sea {
                self.people.push(p);
                self.covered.push(0.0);
            }
        }
    }

    fn place_props(&mut self) {
        let count = (self.width * self.height / 12_000.0) as usize;
        if self.ground.shore() > 60.0 && self.rng.random_bool(0.7) {
            let (x, unit) = (self.rng.random_range(0.08..0.92) * self.width, 0.8);
            let y = self.ground.shore() * 0.9;
            self.place_prop(Placed { prop: Prop::Lighthouse, x, y, unit, mirrored: false });
        }
        for _ in 0..3 * count {
            if self.props.len() >= count {
                break;
            }
            let x = self.rng.random_range(0.0..self.width);
            let y = self.rng.random_range(0.02..1.02) * self.height;
            let prop = props::suited(&mut self.rng, self.ground.soil(x, y));
            let (unit, mirrored) = (self.unit(y), self.rng.random_bool(0.5));
            self.place_prop(Placed { prop, x, y, unit, mirrored });
        }
    }

    /// Keeps the prop if it stands free and hides no target.
    fn place_prop(&mut self, p: Placed) {
        let half = p.prop.size().0 * p.unit;
        let free = self.props.iter().all(|o| {
            let apart = 0.8 * (half + o.prop.size().0 * o.unit);
            (o.x - p.x).abs() > apart || (o.y - p.y).abs() > 26.0
        });
        let edges = [p.x - half, p.y - p.prop.size().1 * p.unit, p.x + half, p.y];
        let hides = self.shares(edges).iter().any(|&s| s > 0.0);
        if free && (p.prop.flat() || !hides) {
            self.props.push(p);
        }
    }

    /// For each target that stands behind row `edges[3]`: the share of its upper part within `edges`.
    fn shares(&self, [left, top, right, bottom]: [f32; 4]) -> Vec<f32> {
        let targets = self.people[..self.covered.len()].iter();
        targets
            .map(|t| {
                let [l, u, r, d] = t.edges();
                let d = u + 0.7 * (d - u);
                let (w, h) = (right.min(r) - left.max(l), bottom.min(d) - top.max(u));
                let behind = t.y < bottom && w > 0.0 && h > 0.0;
                if behind { w * h / ((r - l) * (d - u)) } else { 0.0 }
            })
            .collect()
    }

    /// Puts one more figure where there is room; passers-by often beside someone.
    fn place_other(&mut self, kind: Kind) {
        for _ in 0..12 {
            let (mut x, mut y) = self.spot();
            if kind == Kind::Passerby && !self.people.is_empty() && self.rng.random_bool(0.45) {
                let friend = &self.people[self.rng.random_range(0..self.people.len())];
                x = friend.x + self.rng.random_range(-26.0..26.0);
                y = friend.y + self.rng.random_range(-9.0..9.0);
            }
            let room = self.people.iter().all(|o| (o.x - x).abs() > 10.0 || (o.y - y).abs() > 7.0);
            if !room || y < 0.0 || self.ground.soil(x, y - 3.0) == Soil::Sea {
                continue;
            }
            let p = self.person(kind, x, y);
            let shares = self.shares(p.edges());
            if shares.iter().zip(&self.covered).any(|(s, c)| s + c > COVERED) {
                continue;
            }
            self.covered.iter_mut().zip(shares).for_each(|(c, s)| *c += s);
            self.people.push(p);
            return;
        }
    }

    /// Paints everything from back to front and tells who is where.
    fn paint(&mut self, canvas: &mut Pixmap) -> Vec<Figure> {
        self.people.sort_by(|a, b| a.y.total_cmp(&b.y));
        self.props.sort_by(|a, b| b.prop.flat().cmp(&a.prop.flat()).then(a.y.total_cmp(&b.y)));
        let side = |mirrored: bool, unit: f32| (if mirrored { -unit } else { unit }, unit);
        let mut props = self.props.iter().peekable();
        let mut figures = Vec::with_capacity(self.people.len());
        for p in &self.people {
            while let Some(o) = props.next_if(|o| o.prop.flat() || o.y <= p.y) {
                o.prop.paint(&mut Brush::new(canvas, (o.x, o.y), side(o.mirrored, o.unit), 0.0));
            }
            p.look.paint(&mut Brush::new(canvas, (p.x, p.y), side(p.mirrored, p.unit), p.lean));
            let [left, top, right, bottom] = p.edges().map(f64::from);
            let area = Area { left, top, width: right - left, height: bottom - top };
            figures.push(Figure { kind: p.kind, area });
        }
        for o in props {
            o.prop.paint(&mut Brush::new(canvas, (o.x, o.y), side(o.mirrored, o.unit), 0.0));
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(seed: u64) -> SceneOptions {
        SceneOptions { width: 400, height: 300, ..SceneOptions::new(seed) }
    }

    #[test]
    fn the_same_seed_draws_the_same_scene() {
        assert_eq!(draw_scene(&small(5)), draw_scene(&small(5)));
        assert_ne!(draw_scene(&small(5)).picture, draw_scene(&small(6)).picture);
    }

    #[test]
    fn every_scene_has_one_target_inside_the_picture_among_look_alikes() {
        for seed in 0..40 {
            let scene = draw_scene(&small(seed));
            let targets: Vec<Area> = scene.targets().collect();
            assert_eq!(targets.len(), 1, "seed {seed}");
            let t = targets[0];
            assert!(t.left >= 0.0 && t.top >= 0.0, "seed {seed}: {t:?}");
            assert!(t.left + t.width <= 400.0 && t.top + t.height <= 300.0, "seed {seed}: {t:?}");
            assert!((28.0..48.0).contains(&t.height), "seed {seed}: {t:?}");
            let alike = scene.figures.iter().filter(|f| f.kind == Kind::LookAlike).count();
            assert!(alike >= 10, "seed {seed}: {alike} look-alikes");
        }
    }

    #[test]
    fn the_target_shows_its_red_and_white_stripes() {
        for seed in 0..20 {
            let scene = draw_scene(&small(seed));
            let t = scene.targets().next().unwrap();
            let (mut red, mut white) = (0, 0);
            for y in t.top as usize..(t.top + t.height) as usize {
                for x in t.left as usize..(t.left + t.width) as usize {
                    let p = scene.picture.pixel(x, y);
                    red += usize::from(p[0] > 170 && p[1] < 110 && p[2] < 110);
                    white += usize::from(p.iter().all(|&v| v > 200));
                }
            }
            assert!(red > 20 && white > 20, "seed {seed}: {red} red, {white} white pixels");
        }
    }

    #[test]
    fn odd_sizes_are_brought_into_range() {
        let tiny = SceneOptions { width: 0, height: 1, targets: 0, ..SceneOptions::new(1) };
        let scene = draw_scene(&tiny);
        assert_eq!((scene.picture.width, scene.picture.height), (128, 128));
        assert_eq!(scene.targets().count(), 0);
    }
}
