//! Tiles to learn from: cut from pictures at any place, scale and angle, things pasted onto other
//! backgrounds, colours changed; with the heat map and boxes that the network should answer.

use crate::album::{Album, Halves};
use crate::bounds::Bounds;
use crate::detector::encode;
use crate::error::Result;
use crate::regime::Regime;
use crate::slide::Grid;
use convoke_data::Preprocess;
use convoke_engine::BOX_CHANNELS as BOX;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A place where the network saw a thing that is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Alarm {
    pub picture: usize,
    pub at: (f64, f64),
    pub scale: f64,
}

/// Where tiles come from.
pub(crate) struct Tiles<'a> {
    pub album: &'a Album,
    pub regime: &'a Regime,
    pub grid: Grid,
    pub pre: &'a Preprocess,
    pub classes: usize,
    pub alarms: &'a [Alarm],
    /// Things to learn, by class: picture and position in it.
    pub things: &'a [Vec<(usize, usize)>],
    pub seed: u64,
}

/// How a tile looks at a picture.
#[derive(Debug, Clone, Copy)]
struct View {
    picture: usize,
    /// Point of the picture that is at `to` in the tile.
    from: (f64, f64),
    to: (f64, f64),
    scale: f64,
    angle: f64,
    mirrored: bool,
}

impl View {
    /// A point of the tile in the picture.
    fn back(&self, (u, v): (f64, f64)) -> (f64, f64) {
        let (sin, cos) = self.angle.sin_cos();
        let (du, dv) = ((u - self.to.0) / self.scale, (v - self.to.1) / self.scale);
        let du = if self.mirrored { -du } else { du };
        (self.from.0 + cos * du - sin * dv, self.from.1 + sin * du + cos * dv)
    }

    /// A point of the picture in the tile.
    fn forth(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = (x - self.from.0, y - self.from.1);
        let (du, dv) = (cos * dx + sin * dy, cos * dy - sin * dx);
        let du = if self.mirrored { -du } else { du };
        (self.to.0 + du * self.scale, self.to.1 + dv * self.scale)
    }

    /// A box of the picture in the tile; turned as the ellipse in it.
    fn bounds(&self, b: &Bounds) -> Bounds {
        let (sin, cos) = self.angle.sin_cos();
        let (w, h) = (b.width * self.scale, b.height * self.scale);
        let across = ((w * cos).powi(2) + (h * sin).powi(2)).sqrt();
        let down = ((w * sin).powi(2) + (h * cos).powi(2)).sqrt();
        Bounds::around(self.forth(b.centre()), across, down)
    }
}

/// A thing as a tile shows it.
#[derive(Debug, Clone, Copy)]
struct Shown {
    bounds: Bounds,
    class: usize,
    ignored: bool,
}

/// A patch laid over a tile.
struct Patch {
    view: View,
    /// Ellipse in the tile: centre, radii.
    centre: (f64, f64),
    radii: (f64, f64),
    /// From full to nothing over this share beyond the ellipse.
    feather: f64,
}

impl Patch {
    fn alpha(&self, u: f64, v: f64) -> f64 {
        let (dx, dy) = ((u - self.centre.0) / self.radii.0, (v - self.centre.1) / self.radii.1);
        let far = (dx * dx + dy * dy).sqrt();
        let t = ((1.0 + self.feather - far) / self.feather).clamp(0.0, 1.0);
        t * t * (3.0 - 2.0 * t)
    }

    /// Share of a box that it covers, roughly.
    fn covers(&self, b: &Bounds) -> f64 {
        let mut covered = 0.0;
        for i in 0..16 {
            let (fx, fy) = ((f64::from(i % 4) + 0.5) / 4.0, (f64::from(i / 4) + 0.5) / 4.0);
            covered += self.alpha(b.left + fx * b.width, b.top + fy * b.height) / 16.0;
        }
        covered
    }
}

impl Tiles<'_> {
    /// Writes tile number `n` of the run into `input [side, side, 3]` and its answer into
    /// `targets [places, classes + 4]`. The same number gives the same tile.
    ///
    /// # Errors
    /// When a picture cannot be read.
    pub fn make(&self, n: u64, input: &mut [f32], targets: &mut [f32]) -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(n + 1);
        let rng = &mut rng;
        let (mut view, thing) = self.choose(rng);
        let mut patches = Vec::new();
        let mut shown = Vec::new();
        if let Some((p, t)) = thing {
            let thing = self.album.examples[p].things[t];
            if rng.random_bool(self.regime.paste) {
                let patch = self.patch(rng, view, &view.bounds(&thing.bounds));
                shown.push(Shown {
                    bounds: view.bounds(&thing.bounds),
                    class: thing.class,
                    ignored: false,
                });
                view = self.anywhere(rng);
                patches.push(patch);
            }
        }
        // A patch of something else, so that seams alone tell nothing.
        if patches.is_empty() && rng.random_bool(0.4 * self.regime.paste) {
            let other = self.anywhere(rng);
            let size = self.regime.object * rng.random_range(0.8..1.5);
            let b = Bounds::around(other.to, size * rng.random_range(0.7..1.1), size);
            let clear = |t: &crate::album::Thing| other.bounds(&t.bounds).iou(&b) == 0.0;
            if self.album.examples[other.picture].things.iter().all(clear) {
                patches.push(self.patch(rng, other, &b));
            }
        }
        for t in &self.album.examples[view.picture].things {
            let bounds = view.bounds(&t.bounds);
            let hidden = patches.iter().any(|p| p.covers(&bounds) > 0.35);
            let gone = patches.iter().any(|p| p.covers(&bounds) > 0.9);
            if !gone {
                shown.push(Shown { bounds, class: t.class, ignored: t.ignored || hidden });
            }
        }
        self.paint(rng, &view, &patches, input)?;
        self.answer(&shown, targets);
        Ok(())
    }

    /// A view for the next tile, and the thing it was made for.
    fn choose(&self, rng: &mut ChaCha8Rng) -> (View, Option<(usize, usize)>) {
        let dice: f64 = rng.random();
        let filled: Vec<&Vec<(usize, usize)>> =
            self.things.iter().filter(|t| !t.is_empty()).collect();
        if dice < self.regime.things && !filled.is_empty() {
            let class = filled[rng.random_range(0..filled.len())];
            let (p, t) = class[rng.random_range(0..class.len())];
            let b = self.album.examples[p].things[t].bounds;
            let scale = self.regime.scale_for(b.area().sqrt()) * self.jitter(rng);
            return (self.view(rng, p, b.centre(), scale, 0.22), Some((p, t)));
        }
        if dice < self.regime.things + self.regime.alarms && !self.alarms.is_empty() {
            // The later of two: what the network still takes for a thing tells more than what it once did.
            let mut any = || rng.random_range(0..self.alarms.len());
            let a = self.alarms[any().max(any())];
            let scale = a.scale * rng.random_range(0.85..1.18);
            return (self.view(rng, a.picture, a.at, scale, 0.22), None);
        }
        (self.anywhere(rng), None)
    }

    /// Any place of any picture, at a scale that some thing would have.
    fn anywhere(&self, rng: &mut ChaCha8Rng) -> View {
        // Large pictures have more places.
        let p = rng.random_range(0..self.album.examples.len());
        let q = rng.random_range(0..self.album.examples.len());
        let pixels = |i: usize| self.album.examples[i].size.0 * self.album.examples[i].size.1;
        let p = if pixels(q) > pixels(p) { q } else { p };
        let filled: Vec<&Vec<(usize, usize)>> =
            self.things.iter().filter(|t| !t.is_empty()).collect();
        // Things of the same picture tell best how large it shows things.
        let own: Vec<f64> =
            self.album.examples[p].things.iter().map(|t| t.bounds.area().sqrt()).collect();
        let size = if !own.is_empty() && rng.random_bool(0.6) {
            own[rng.random_range(0..own.len())]
        } else if filled.is_empty() {
            self.regime.object
        } else {
            let class = filled[rng.random_range(0..filled.len())];
            let (p, t) = class[rng.random_range(0..class.len())];
            self.album.examples[p].things[t].bounds.area().sqrt()
        };
        let scale = self.regime.scale_for(size) * self.jitter(rng);
        let (w, h) = self.album.examples[p].size;
        let at = (rng.random_range(0.0..w as f64), rng.random_range(0.0..h as f64));
        self.view(rng, p, at, scale, 0.0)
    }

    fn jitter(&self, rng: &mut ChaCha8Rng) -> f64 {
        let j = self.regime.jitter;
        2f64.powf(rng.random_range(-j..=j))
    }

    fn view(
        &self,
        rng: &mut ChaCha8Rng,
        picture: usize,
        from: (f64, f64),
        scale: f64,
        shift: f64,
    ) -> View {
        let side = self.regime.side as f64;
        let mut place = || side * (0.5 + rng.random_range(-shift..=shift));
        let to = (place(), place());
        let turn = self.regime.turn;
        let angle = if rng.random_bool(0.7) { rng.random_range(-turn..=turn) } else { 0.0 };
        let mirrored = self.regime.mirror && rng.random_bool(0.5);
        View { picture, from, to, scale, angle, mirrored }
    }

    /// An ellipse around a box and some of what surrounds it: from next to nothing, as things look that hide
    /// behind others, to most of a tile, because what a thing is part of tells much.
    fn patch(&self, rng: &mut ChaCha8Rng, view: View, b: &Bounds) -> Patch {
        let (x, y) = b.centre();
        let grow = 1.05 * (self.regime.context / 1.05).powf(rng.random());
        let mut aside = |side: f64| 0.35 * (grow - 1.0) * side * rng.random_range(-1.0..=1.0);
        Patch {
            view,
            centre: (x + aside(b.width), y + aside(b.height)),
            radii: (0.5 * b.width * grow, 0.5 * b.height * grow),
            feather: rng.random_range(0.08..0.45),
        }
    }

    /// Pixels: pictures, colours, grain.
    fn paint(
        &self,
        rng: &mut ChaCha8Rng,
        view: &View,
        patches: &[Patch],
        input: &mut [f32],
    ) -> Result<()> {
        let side = self.regime.side;
        let mut tile = vec![None; side * side];
        let coarse = |rng: &mut ChaCha8Rng| usize::from(rng.random_bool(self.regime.coarse));
        sample(&*self.album.halves(view.picture)?, view, coarse(rng), side, &mut tile);
        recolour(rng, &mut tile, self.regime.colour);
        for p in patches {
            let mut over = vec![None; side * side];
            sample(&*self.album.halves(p.view.picture)?, &p.view, coarse(rng), side, &mut over);
            recolour(rng, &mut over, self.regime.colour);
            for (i, (under, over)) in tile.iter_mut().zip(&over).enumerate() {
                let a = p.alpha((i % side) as f64 + 0.5, (i / side) as f64 + 0.5) as f32;
                if let Some(over) = over.filter(|_| a > 0.0) {
                    let base = under.unwrap_or(over);
                    *under = Some(std::array::from_fn(|c| base[c] + a * (over[c] - base[c])));
                }
            }
        }
        if rng.random_bool(0.2) {
            soften(&mut tile, side, rng.random_range(0.3..1.0));
        }
        let grain = if rng.random_bool(0.3) { rng.random_range(0.0..8.0_f32) } else { 0.0 };
        let swap = |c: usize| if self.pre.bgr { 2 - c } else { c };
        for (to, pixel) in input.chunks_exact_mut(3).zip(&tile) {
            // Outside of the picture lies the mean, as when sliding.
            let Some(pixel) = pixel else {
                to.fill(0.0);
                continue;
            };
            for (c, to) in to.iter_mut().enumerate() {
                let noise = if grain > 0.0 { grain * rng.random_range(-1.0..1.0_f32) } else { 0.0 };
                let level = (pixel[swap(c)] + noise).clamp(0.0, 255.0) / 255.0;
                *to = (level - self.pre.mean[c]) / self.pre.std[c];
            }
        }
        Ok(())
    }

    /// The heat map and boxes that are right for what is shown.
    fn answer(&self, shown: &[Shown], targets: &mut [f32]) {
        let (grid, classes) = (&self.grid, self.classes);
        let c = classes + BOX;
        for t in targets.chunks_exact_mut(c) {
            t.fill(0.0);
            t[classes] = f32::NAN;
        }
        let side = self.regime.side as f64;
        let (least, most) = self.regime.sizes;
        let told = |s: &Shown| {
            let size = s.bounds.area().sqrt();
            let (x, y) = s.bounds.centre();
            let inside = (0.0..side).contains(&x) && (0.0..side).contains(&y);
            !s.ignored && inside && (least..=most).contains(&size)
        };
        for s in shown.iter().filter(|s| !told(s)) {
            disregard(grid, s, classes, targets);
        }
        // Small things on top of large ones.
        let mut all: Vec<&Shown> = shown.iter().filter(|s| told(s)).collect();
        all.sort_by(|a, b| b.bounds.area().total_cmp(&a.bounds.area()));
        let mut held = vec![0.0_f64; grid.height * grid.width];
        for s in all {
            hill(grid, s, classes, targets, &mut held);
        }
    }
}

/// Spread of a hill in strides, at least, and as a share of the box's side.
const SPREAD: (f64, f64) = (0.7, 0.13);
/// Places where the hill is at least so high learn the box.
const BOXED: f64 = 0.3;

/// A hill of the heat map over a thing's centre, highest (1) at the place next to it.
fn hill(grid: &Grid, s: &Shown, classes: usize, targets: &mut [f32], held: &mut [f64]) {
    let c = classes + BOX;
    let (row, column) = grid.place(s.bounds.centre());
    let place = |v: f64, len: usize| (v.round().max(0.0) as usize).min(len - 1);
    let top = (place(row, grid.height), place(column, grid.width));
    let spread = |side: f64, stride: usize| SPREAD.0.max(SPREAD.1 * side / stride as f64);
    let (sy, sx) = (spread(s.bounds.height, grid.stride.0), spread(s.bounds.width, grid.stride.1));
    let reach = |at: usize, spread: f64, len: usize| {
        let by = (3.0 * spread).ceil() as usize;
        at.saturating_sub(by)..(at + by + 1).min(len)
    };
    for r in reach(top.0, sy, grid.height) {
        for k in reach(top.1, sx, grid.width) {
            let (dy, dx) = ((r as f64 - top.0 as f64) / sy, (k as f64 - top.1 as f64) / sx);
            let height = (-0.5 * (dy * dy + dx * dx)).exp();
            let t = &mut targets[(r * grid.width + k) * c..][..c];
            t[s.class] = t[s.class].max(if height < 0.02 { 0.0 } else { height as f32 });
            let held = &mut held[r * grid.width + k];
            if height >= BOXED && height >= *held {
                *held = height;
                t[classes..].copy_from_slice(&encode(grid, (r, k), &s.bounds));
            }
        }
    }
}

/// What is neither a thing to tell nor background: places over it do not count.
fn disregard(grid: &Grid, s: &Shown, classes: usize, targets: &mut [f32]) {
    let c = classes + BOX;
    let b = &s.bounds;
    let (x, y) = b.centre();
    let inner = Bounds::around(
        (x, y),
        b.width.max(1.5 * grid.stride.1 as f64),
        b.height.max(1.5 * grid.stride.0 as f64),
    );
    let range = |from: f64, to: f64, len: usize| {
        (from.ceil().clamp(0.0, len as f64) as usize)
            ..((to.floor() + 1.0).clamp(0.0, len as f64) as usize)
    };
    let (top, left) = grid.place((inner.left, inner.top));
    let (bottom, right) = grid.place((inner.left + inner.width, inner.top + inner.height));
    for r in range(top, bottom, grid.height) {
        for k in range(left, right, grid.width) {
            targets[(r * grid.width + k) * c + s.class] = -1.0;
        }
    }
}

/// The picture as a view sees it, between pixels by the four around; none outside of it. From a copy that is
/// `coarser` times halved once more, as small scans look when they are enlarged.
fn sample(
    halves: &Halves,
    view: &View,
    coarser: usize,
    side: usize,
    tile: &mut [Option<[f32; 3]>],
) {
    let (p, by) = halves.at(view.scale / (1 << coarser) as f64);
    let (w, h) = (p.width as f64, p.height as f64);
    let origin = view.back((0.5, 0.5));
    let (right, down) = (view.back((1.5, 0.5)), view.back((0.5, 1.5)));
    let step = |to: (f64, f64)| ((to.0 - origin.0) / by, (to.1 - origin.1) / by);
    let (across, along) = (step(right), step(down));
    let start = (origin.0 / by, origin.1 / by);
    for (i, to) in tile.iter_mut().enumerate() {
        let (u, v) = ((i % side) as f64, (i / side) as f64);
        let x = start.0 + u * across.0 + v * along.0;
        let y = start.1 + u * across.1 + v * along.1;
        if !(0.0..w).contains(&x) || !(0.0..h).contains(&y) {
            continue;
        }
        let (x, y) = ((x - 0.5).clamp(0.0, w - 1.0), (y - 0.5).clamp(0.0, h - 1.0));
        let (x0, y0) = (x as usize, y as usize);
        let (x1, y1) = ((x0 + 1).min(p.width - 1), (y0 + 1).min(p.height - 1));
        let (fx, fy) = ((x - x0 as f64) as f32, (y - y0 as f64) as f32);
        let at = |x: usize, y: usize| (y * p.width + x) * 3;
        let corners = [at(x0, y0), at(x1, y0), at(x0, y1), at(x1, y1)];
        *to = Some(std::array::from_fn(|c| {
            let [a, b, d, e] = corners.map(|at| f32::from(p.data[at + c]));
            let (top, bottom) = (a + fx * (b - a), d + fx * (e - d));
            top + fy * (bottom - top)
        }));
    }
}

/// Brightness, contrast, saturation and the balance of colours change by up to `by`.
fn recolour(rng: &mut ChaCha8Rng, tile: &mut [Option<[f32; 3]>], by: f32) {
    let mut factor = |by: f32| 1.0 + rng.random_range(-by..=by);
    let contrast = factor(by);
    let saturation = factor(1.5 * by);
    let balance = [factor(0.6 * by), factor(0.6 * by), factor(0.6 * by)];
    let light = 127.0 * (factor(0.6 * by) - 1.0);
    let grey = by > 0.0 && rng.random_bool(0.03);
    for p in tile.iter_mut().flatten() {
        let luma = 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
        let saturation = if grey { 0.0 } else { saturation };
        for c in 0..3 {
            let v = luma + saturation * (p[c] - luma);
            p[c] = ((v - 127.0) * contrast + 127.0) * balance[c] + light;
        }
    }
}

/// Each pixel moves towards the mean of its neighbours by `share`.
fn soften(tile: &mut [Option<[f32; 3]>], side: usize, share: f32) {
    let old = tile.to_vec();
    for y in 1..side.saturating_sub(1) {
        for x in 1..side - 1 {
            let i = y * side + x;
            let near = [i - 1, i + 1, i - side, i + side];
            let Some(p) = &mut tile[i] else { continue };
            let (mut sum, mut n) = ([0.0; 3], 0.0);
            for q in near.iter().filter_map(|&q| old[q]) {
                (0..3).for_each(|c| sum[c] += q[c]);
                n += 1.0;
            }
            if n > 0.0 {
                (0..3).for_each(|c| p[c] += share * (sum[c] / n - p[c]) * 0.8);
            }
        }
    }
}
