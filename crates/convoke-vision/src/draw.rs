//! Pictures of what was found: boxes, and the heat map in which the place pops out.

use crate::bounds::Bounds;
use crate::canvas::{Canvas, Font};
use crate::find::{Candidate, Found};
use convoke_data::Picture;

/// Red, green, blue.
pub(crate) type Rgb = [u8; 3];

/// Frame of the best find.
pub(crate) const BEST: Rgb = [255, 46, 84];
/// Frames of further finds.
pub(crate) const FURTHER: Rgb = [255, 196, 0];
/// Frames of places below the threshold.
pub(crate) const BELOW: Rgb = [120, 132, 150];
/// Frames of finds where there are several classes; after the last, from the first again.
const CLASSES: [Rgb; 8] = [
    [255, 196, 0],
    [64, 196, 255],
    [255, 112, 180],
    [120, 220, 100],
    [255, 140, 60],
    [170, 140, 255],
    [80, 220, 200],
    [220, 220, 220],
];
/// Frames of annotations.
const KEPT: Rgb = [60, 150, 255];
const DARK: Rgb = [20, 20, 28];

/// A grey picture in colour; a colour picture as it is.
pub(crate) fn in_colour(p: &Picture) -> Picture {
    if p.channels == 3 {
        return p.clone();
    }
    let data = p.data.iter().flat_map(|&v| [v; 3]).collect();
    Picture { channels: 3, data, ..*p }
}

/// The picture with a frame around each find; the best one's is the boldest. Where finds are of several classes, each has
/// its colour, and its name and score above.
pub fn mark(picture: &Picture, found: &Found) -> Picture {
    let mut p = in_colour(picture);
    let bold = (p.width.max(p.height) / 300).clamp(2, 12) as isize;
    let finds: Vec<&Candidate> = found.candidates.iter().filter(|c| c.found).collect();
    let mut classes: Vec<&str> = found.candidates.iter().map(|c| &c.class[..]).collect();
    classes.sort_unstable();
    classes.dedup();
    for (rank, c) in finds.iter().enumerate().rev() {
        let line = if rank == 0 { bold } else { (bold / 2).max(1) };
        let class = classes.iter().position(|name| *name == c.class).unwrap_or(0);
        match classes.len() {
            0 | 1 => {
                frame(&mut p, &c.bounds, 2 * line, line, if rank == 0 { BEST } else { FURTHER })
            }
            _ => {
                let colour = CLASSES[class % CLASSES.len()];
                frame(&mut p, &c.bounds, 0, line, colour);
                p = name(p, c, line, colour);
            }
        }
    }
    p
}

/// Writes class and score above a find's frame, or within it where the picture ends.
fn name(p: Picture, c: &Candidate, line: isize, colour: Rgb) -> Picture {
    let font = if p.width.max(p.height) > 1500 { Font::Bold } else { Font::Small };
    let (letter, height) = font.size();
    let text = format!("{:.24} {:.2}", c.class, c.score);
    let width = text.chars().count() * letter + 6;
    let left = (c.bounds.left - line as f64).max(0.0) as usize;
    let top = c.bounds.top as isize - line - height as isize;
    let top = if top < 0 { c.bounds.top.max(0.0) as usize } else { top as usize };
    let left = left.min(p.width.saturating_sub(width));
    let mut canvas = Canvas(p);
    canvas.fill(left, top, width, height, colour);
    canvas.text(&text, left + 3, top + 1, font, DARK);
    canvas.0
}

/// A picture with annotations drawn on it: those that are kept in blue, wrong ones in red.
pub fn draw_boxes(picture: &Picture, kept: &[Bounds], wrong: &[Bounds]) -> Picture {
    let mut p = in_colour(picture);
    let line = (p.width.max(p.height) / 400).clamp(1, 8) as isize;
    kept.iter().for_each(|b| frame(&mut p, b, 0, line, KEPT));
    // What lies outside is drawn at the edge.
    let (w, h) = (p.width as f64, p.height as f64);
    for b in wrong {
        let (l, t) = (b.left.min(b.left + b.width), b.top.min(b.top + b.height));
        let (r, d) = (b.left.max(b.left + b.width), b.top.max(b.top + b.height));
        let (l, t) = (l.clamp(0.0, w - 3.0), t.clamp(0.0, h - 3.0));
        let (r, d) = (r.clamp(l + 2.0, w), d.clamp(t + 2.0, h));
        let inside = Bounds { left: l, top: t, width: r - l, height: d - t };
        frame(&mut p, &inside, line, line, BEST);
    }
    p
}

/// A frame of thickness `line`, `gap` pixels off the box, with a dark edge on both sides.
pub(crate) fn frame(p: &mut Picture, b: &Bounds, gap: isize, line: isize, colour: Rgb) {
    let (l, t) = (b.left.round() as isize - gap, b.top.round() as isize - gap);
    let (r, d) =
        ((b.left + b.width).round() as isize + gap, (b.top + b.height).round() as isize + gap);
    let mut ring = |from: isize, until: isize, colour: Rgb| {
        for k in from..until {
            for x in l - k..=r + k {
                put(p, x, t - k, colour);
                put(p, x, d + k, colour);
            }
            for y in t - k..=d + k {
                put(p, l - k, y, colour);
                put(p, r + k, y, colour);
            }
        }
    };
    ring(-1, 0, DARK);
    ring(0, line, colour);
    ring(line, line + 1, DARK);
}

pub(crate) fn put(p: &mut Picture, x: isize, y: isize, colour: Rgb) {
    if (0..p.width as isize).contains(&x) && (0..p.height as isize).contains(&y) {
        let at = (y as usize * p.width + x as usize) * 3;
        p.data[at..at + 3].copy_from_slice(&colour);
    }
}

/// The heat map: where the network answers, the picture shines through as it is, with a glow; the rest
/// is blurred, pale and dim. Weaker answers show as embers.
pub fn heat_map(picture: &Picture, found: &Found) -> Picture {
    let sharp = in_colour(picture);
    let heat = heat(found);
    let radius = (sharp.width.max(sharp.height) / 340).max(1);
    let mut out = blur(&blur(&sharp, radius), radius);
    for (i, (o, s)) in out.data.chunks_exact_mut(3).zip(sharp.data.chunks_exact(3)).enumerate() {
        let h = heat[i];
        let grey = 0.3 * f32::from(o[0]) + 0.59 * f32::from(o[1]) + 0.11 * f32::from(o[2]);
        let shows = smooth((h - 0.45) / 0.25);
        let glow = ember(h);
        let strength = 0.75 * smooth(h / 0.5) * (1.0 - shows);
        for c in 0..3 {
            let dim = 0.46 * (0.35 * f32::from(o[c]) + 0.65 * grey) + [6.0, 8.0, 18.0][c];
            let lit = dim + (glow[c] - dim) * strength;
            o[c] = (lit + (f32::from(s[c]) - lit) * shows) as u8;
        }
    }
    out
}

/// From 0 to 1 for every pixel: the best answer of any place nearby, falling off with the distance
/// measured in sizes of the thing. Answers that lead to no candidate (of a size that the scale is not for,
/// say) are embers at most.
fn heat(found: &Found) -> Vec<f32> {
    let (width, height) = found.picture;
    let mut heat = vec![0.0_f32; width * height];
    let best = found.candidates.first().map_or(1.0, |b| b.score).max(1e-9);
    for map in &found.maps {
        let (w, h) = (found.object.0 / map.scale, found.object.1 / map.scale);
        for (place, logit) in map.values.iter().enumerate() {
            // Embers show what else was looked at twice.
            let p = 1.0 / (1.0 + (-logit).exp()) / best as f32;
            let p = ((p - COLD) / (1.0 - COLD)).min(1.0) * EMBER;
            if p > 0.0 {
                let (row, column) = (place / map.grid.width, place % map.grid.width);
                let (x, y) = map.grid.point(row as f64, column as f64);
                spread(&mut heat, (width, height), (x / map.scale, y / map.scale), (w, h), p);
            }
        }
    }
    for c in found.candidates.iter().rev() {
        // What was found shines through; the best place does so even where nothing is sure.
        let p = match (c.found, c.score >= best) {
            (true, _) => 0.75 + 0.25 * c.score,
            (false, true) => 0.55 + 0.2 * c.score,
            _ => f64::from(EMBER) * c.score / best,
        };
        let (w, h) = (c.bounds.width, c.bounds.height);
        spread(&mut heat, (width, height), c.bounds.centre(), (w, h), p as f32);
    }
    heat
}

/// Strongest answer that is no find.
const EMBER: f32 = 0.42;
/// Answers up to this share of the best find's score leave no ember: in a crowd, much looks a little like
/// the thing.
const COLD: f32 = 0.6;

/// Lays a hill of height `p` over the map: flat over the thing, gone one size further out.
fn spread(
    heat: &mut [f32],
    (width, height): (usize, usize),
    (x, y): (f64, f64),
    (w, h): (f64, f64),
    p: f32,
) {
    let reach = |at: f64, by: f64, len: usize| {
        ((at - by).floor().max(0.0) as usize)..(((at + by).ceil().max(0.0) as usize).min(len))
    };
    // Thin things get a rounder hill.
    let (rx, ry) = (1.7 * w.max(0.6 * h), 1.4 * h.max(0.6 * w));
    for py in reach(y, ry, height) {
        for px in reach(x, rx, width) {
            let (dx, dy) = ((px as f64 + 0.5 - x) / rx, (py as f64 + 0.5 - y) / ry);
            let far = (dx * dx + dy * dy).sqrt() as f32;
            let v = p * (1.0 - smooth((far - 0.2) / 0.8));
            let at = &mut heat[py * width + px];
            *at = at.max(v);
        }
    }
}

fn smooth(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Dark violet, red, orange, pale yellow.
fn ember(t: f32) -> [f32; 3] {
    const STOPS: [[f32; 3]; 5] = [
        [30.0, 10.0, 60.0],
        [130.0, 20.0, 90.0],
        [225.0, 70.0, 50.0],
        [250.0, 165.0, 40.0],
        [255.0, 240.0, 170.0],
    ];
    let at = t.clamp(0.0, 1.0) * 4.0;
    let i = (at as usize).min(3);
    std::array::from_fn(|c| STOPS[i][c] + (STOPS[i + 1][c] - STOPS[i][c]) * (at - i as f32))
}

/// Mean over a square of `2 r + 1` pixels, rows then columns, by running sums; the border repeats.
fn blur(p: &Picture, r: usize) -> Picture {
    let across = blur_lines(&p.data, p.height, p.width, p.width * 3, 3, r);
    let data = blur_lines(&across, p.width, p.height, 3, p.width * 3, r);
    Picture { data, ..*p }
}

/// Blurs `lines` lines of `len` pixels; neighbours on a line are `step` bytes apart, lines `pitch`.
fn blur_lines(
    data: &[u8],
    lines: usize,
    len: usize,
    pitch: usize,
    step: usize,
    r: usize,
) -> Vec<u8> {
    let mut out = vec![0; data.len()];
    let n = (2 * r + 1) as u32;
    for line in 0..lines {
        for c in 0..3 {
            let at = |i: isize| line * pitch + i.clamp(0, len as isize - 1) as usize * step + c;
            let r = r as isize;
            let mut sum: u32 = (-r..=r).map(|i| u32::from(data[at(i)])).sum();
            for i in 0..len as isize {
                out[at(i)] = ((sum + n / 2) / n) as u8;
                sum = sum + u32::from(data[at(i + r + 1)]) - u32::from(data[at(i - r)]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::Heat;
    use crate::slide::Grid;

    fn found(values: Vec<f32>) -> Found {
        let grid = Grid { height: 4, width: 5, channels: 5, stride: (10, 10), offset: (5.0, 5.0) };
        let map = Heat { scale: 1.0, grid, values };
        let candidate = |x: f64, score: f64| Candidate {
            bounds: Bounds::around((x, 25.0), 6.0, 8.0),
            class: "thing".into(),
            score,
            logit: 0.0,
            scale: 1.0,
            found: score > 0.5,
        };
        Found {
            candidates: vec![candidate(25.0, 0.9), candidate(5.0, 0.1)],
            maps: vec![map],
            picture: (50, 40),
            object: (6.0, 8.0),
        }
    }

    fn checks() -> Picture {
        let data =
            (0..50 * 40).flat_map(|i| [if (i + i / 50) % 2 == 0 { 255 } else { 0 }; 3]).collect();
        Picture { width: 50, height: 40, channels: 3, data }
    }

    #[test]
    fn several_classes_have_colours_and_names_of_their_own() {
        let mut of_two = found(vec![0.0; 20]);
        let picture = Picture::filled(200, 160, [0; 3]);
        of_two.candidates[0].bounds = Bounds::around((60.0, 80.0), 40.0, 40.0);
        of_two.candidates[1].bounds = Bounds::around((150.0, 80.0), 40.0, 40.0);
        of_two.candidates[1].found = true;
        let one = mark(&picture, &of_two);
        of_two.candidates[1].class = "other".into();
        let two = mark(&picture, &of_two);
        let has = |p: &Picture, colour: Rgb| p.data.chunks(3).any(|v| *v == colour);
        assert!(has(&one, BEST) && !has(&one, CLASSES[1]));
        assert!(!has(&two, BEST) && has(&two, CLASSES[0]) && has(&two, CLASSES[1]));
        // The strip of the name lies above the box.
        assert_eq!(two.data[((60 - 8) * 200 + 131) * 3..][..3], CLASSES[0]);
        assert_eq!(one.data[((60 - 12) * 200 + 131) * 3..][..3], [0; 3]);
    }

    #[test]
    fn where_the_network_answers_the_picture_stays_and_elsewhere_it_fades() {
        let mut values = vec![-40.0; 20];
        values[2 * 5 + 2] = 20.0;
        let p = checks();
        let shown = heat_map(&p, &found(values));
        assert_eq!(shown.pixel(25, 25), p.pixel(25, 25));
        assert_eq!(shown.pixel(26, 25), p.pixel(26, 25));
        let far: Vec<u8> = (0..6).map(|x| shown.pixel(x, 3)[1]).collect();
        assert!(far.iter().all(|v| (40..90).contains(v)), "{far:?}");
    }

    #[test]
    fn only_finds_are_framed() {
        let p = Picture::filled(50, 40, [9, 9, 9]);
        let marked = mark(&p, &found(vec![0.0; 20]));
        let red = marked.data.chunks_exact(3).filter(|&c| c == BEST).count();
        assert!(red > 40, "{red}");
        assert_eq!(marked.pixel(5, 25), [9, 9, 9]);
        assert_eq!(marked.pixel(25, 25), [9, 9, 9]);
    }

    #[test]
    fn a_frame_may_leave_the_picture() {
        let mut p = Picture::filled(8, 8, [0; 3]);
        frame(&mut p, &Bounds { left: -20.0, top: -3.0, width: 60.0, height: 6.0 }, 2, 2, BEST);
        assert!(p.data.chunks_exact(3).any(|c| c == BEST));
    }

    #[test]
    fn a_blur_keeps_an_even_picture_and_the_mean() {
        let even = Picture::filled(7, 5, [10, 200, 30]);
        assert_eq!(blur(&even, 3), even);
        let b = blur(&checks(), 2);
        assert!((110..150).contains(&b.pixel(20, 20)[0]));
    }
}
