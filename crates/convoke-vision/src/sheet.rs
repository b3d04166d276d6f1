//! Contact sheets: ranked candidates, and the first layer's filters as tiles.

use crate::bounds::Bounds;
use crate::draw::{BELOW, BEST, FURTHER, Rgb, in_colour, put};
use crate::error::{Result, other};
use crate::find::Found;
use convoke_data::{Area, Filter, Picture, resize};
use convoke_engine::layers::Layer;
use convoke_engine::{Network, Param};

const PAPER: Rgb = [27, 30, 38];
const GAP: usize = 12;
/// How much of a picture a crop shows, in heights of the thing.
const AROUND: f64 = 2.2;

/// The first `most` candidates, enlarged, best first, five in a row; below each its rank and score.
///
/// # Errors
/// When the picture cannot be resized.
pub fn candidate_sheet(picture: &Picture, found: &Found, most: usize) -> Result<Picture> {
    let p = in_colour(picture);
    let shown = &found.candidates[..found.candidates.len().min(most)];
    let (columns, rows) = (shown.len().clamp(1, 5), shown.len().div_ceil(5).max(1));
    // The thing with what is around it, 176 pixels high.
    let ratio = (1.2 * found.object.0.max(0.5 * found.object.1) / found.object.1).clamp(0.6, 1.6);
    let (h, text) = (176, 30);
    let w = ((h as f64 * ratio) as usize).max(100);
    let mut sheet =
        Picture::filled(GAP + columns * (w + GAP), GAP + rows * (h + text + GAP), PAPER);
    for (rank, c) in shown.iter().enumerate() {
        let (x, y) = (GAP + rank % 5 * (w + GAP), GAP + rank / 5 * (h + text + GAP));
        let tall = AROUND * c.bounds.height.max(c.bounds.width / ratio);
        let tile = zoom(&p, c.bounds.centre(), (tall * w as f64 / h as f64, tall), (w, h))?;
        let colour = match (c.found, rank) {
            (true, 0) => BEST,
            (true, _) => FURTHER,
            _ => BELOW,
        };
        for row in 0..h + 8 {
            for column in 0..w + 8 {
                put(&mut sheet, (x + column) as isize - 4, (y + row) as isize - 4, colour);
            }
        }
        paste(&mut sheet, &tile, x, y);
        let caption = format!("#{} {}", rank + 1, percent(c.score));
        write(&mut sheet, &caption, x, y + h + 10, 2, colour);
    }
    Ok(sheet)
}

/// A candidate with as much around it as makes a place to recognise, at least 256 pixels high.
///
/// # Errors
/// When the picture cannot be resized.
pub fn candidate_crop(picture: &Picture, b: &Bounds) -> Result<Picture> {
    let p = in_colour(picture);
    let side = (3.0 * b.width.max(b.height)).max(16.0);
    let shown = (side.ceil() as usize).clamp(256, 1024);
    zoom(&p, b.centre(), (side, side), (shown, shown))
}

/// A share in percent, with as many places as tell it from 0 and 100.
fn percent(share: f64) -> String {
    let p = 100.0 * share;
    if (1.0..99.0).contains(&p) { format!("{p:.0}%") } else { format!("{p:.2}%") }
}

/// The area of that size around (x, y), enlarged to `w` × `h`; paper where it leaves the picture.
fn zoom(
    p: &Picture,
    (x, y): (f64, f64),
    size: (f64, f64),
    (w, h): (usize, usize),
) -> Result<Picture> {
    let (cw, ch) =
        ((size.0.ceil() as usize).clamp(2, 4096), (size.1.ceil() as usize).clamp(2, 4096));
    let mut crop = Picture::filled(cw, ch, PAPER);
    let (left, top) =
        ((x - cw as f64 / 2.0).round() as isize, (y - ch as f64 / 2.0).round() as isize);
    for row in 0..ch {
        for column in 0..cw {
            let (px, py) = (left + column as isize, top + row as isize);
            if (0..p.width as isize).contains(&px) && (0..p.height as isize).contains(&py) {
                let pixel = p.pixel(px as usize, py as usize);
                put(&mut crop, column as isize, row as isize, [pixel[0], pixel[1], pixel[2]]);
            }
        }
    }
    Ok(resize(&crop, Area::whole(&crop), w, h, Filter::Bicubic)?)
}

pub(crate) fn paste(sheet: &mut Picture, tile: &Picture, x: usize, y: usize) {
    for row in 0..tile.height {
        let from = row * tile.width * 3;
        let to = ((y + row) * sheet.width + x) * 3;
        sheet.data[to..to + tile.width * 3]
            .copy_from_slice(&tile.data[from..from + tile.width * 3]);
    }
}

fn is_filters(network: &Network, p: &Param) -> bool {
    matches!(network.node(p.node).layer, Some(Layer::Conv(_))) && p.spec.shape.len() == 4
}

/// The first convolution's filters, if they are over 1 or 3 channels: the tensor and its sizes
/// `[rows, columns, channels, filters]`.
pub(crate) fn first_filters(network: &Network) -> Option<(Param, [usize; 4])> {
    let p = network.params().into_iter().find(|p| is_filters(network, p))?;
    let sizes = [0, 1, 2, 3].map(|i| p.spec.shape[i]);
    matches!(sizes[2], 1 | 3).then_some((p, sizes))
}

/// The filters of the first convolution as tiles, sorted by strength. Mid grey is no weight; brighter
/// and darker are weights for and against, in the channel's colour. Each filter has its own range.
///
/// # Errors
/// When the network does not begin with a convolution over 1 or 3 channels, or the weights are not its.
pub fn filter_sheet(network: &Network, params: &[f32]) -> Result<Picture> {
    let first = network.params().into_iter().find(|p| is_filters(network, p));
    let Some(p) = first else {
        return other(format!("network `{}` has no convolution to show", network.name()));
    };
    let [kh, kw, c, d] = [0, 1, 2, 3].map(|i| p.spec.shape[i]);
    let (Some(weights), true) = (params.get(p.range), c == 1 || c == 3) else {
        return other(format!(
            "the filters of `{}` look at {c} channels; only 1 or 3 are colours",
            p.name
        ));
    };
    let filter = |f: usize| (0..kh * kw * c).map(move |i| weights[i * d + f]);
    let norm = |f: usize| filter(f).map(|v| v * v).sum::<f32>();
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&a, &b| norm(b).total_cmp(&norm(a)));
    let side = (96 / kh.max(kw)).max(1);
    let (w, h) = (kw * side, kh * side);
    let columns = columns(d);
    let rows = d.div_ceil(columns);
    let mut sheet = Picture::filled(GAP + columns * (w + GAP), GAP + rows * (h + GAP), PAPER);
    for (i, &f) in order.iter().enumerate() {
        let most = filter(f).fold(1e-9_f32, |m, v| m.max(v.abs()));
        let values: Vec<u8> = filter(f).map(|v| (127.5 + 127.5 * v / most) as u8).collect();
        let (x, y) = (GAP + i % columns * (w + GAP), GAP + i / columns * (h + GAP));
        for row in 0..h {
            for column in 0..w {
                let v = &values[(row / side * kw + column / side) * c..][..c];
                let colour = if c == 3 { [v[0], v[1], v[2]] } else { [v[0]; 3] };
                put(&mut sheet, (x + column) as isize, (y + row) as isize, colour);
            }
        }
    }
    Ok(sheet)
}

/// Tiles per row: full rows where there is a fitting number.
fn columns(tiles: usize) -> usize {
    let full = (3..=12).rev().find(|c| tiles.is_multiple_of(*c) && c * c <= 4 * tiles);
    full.unwrap_or(((1.6 * tiles as f64).sqrt().ceil() as usize).clamp(1, 16).min(tiles.max(1)))
}

/// Digits and a few signs, 5 × 7, one row per byte, the leftmost pixel in bit 4.
const GLYPHS: [(char, [u8; 7]); 13] = [
    ('0', [0x0E, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0E]),
    ('1', [0x04, 0x0C, 0x04, 0x04, 0x04, 0x04, 0x0E]),
    ('2', [0x0E, 0x11, 0x01, 0x06, 0x08, 0x10, 0x1F]),
    ('3', [0x0E, 0x11, 0x01, 0x06, 0x01, 0x11, 0x0E]),
    ('4', [0x02, 0x06, 0x0A, 0x12, 0x1F, 0x02, 0x02]),
    ('5', [0x1F, 0x10, 0x1E, 0x01, 0x01, 0x11, 0x0E]),
    ('6', [0x06, 0x08, 0x10, 0x1E, 0x11, 0x11, 0x0E]),
    ('7', [0x1F, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08]),
    ('8', [0x0E, 0x11, 0x11, 0x0E, 0x11, 0x11, 0x0E]),
    ('9', [0x0E, 0x11, 0x11, 0x0F, 0x01, 0x02, 0x0C]),
    ('.', [0x00, 0x00, 0x00, 0x00, 0x00, 0x0C, 0x0C]),
    ('%', [0x18, 0x19, 0x02, 0x04, 0x08, 0x13, 0x03]),
    ('#', [0x0A, 0x0A, 0x1F, 0x0A, 0x1F, 0x0A, 0x0A]),
];

/// Writes text with its upper left corner at (x, y), each point of a letter `size` pixels wide.
fn write(p: &mut Picture, text: &str, x: usize, y: usize, size: usize, colour: Rgb) {
    for (i, letter) in text.chars().enumerate() {
        let Some((_, rows)) = GLYPHS.iter().find(|(c, _)| *c == letter) else { continue };
        for at in 0..7 * 5 * size * size {
            let (dy, dx) = (at / (5 * size), at % (5 * size));
            if rows[dy / size] >> (4 - dx / size) & 1 == 1 {
                put(p, (x + i * 6 * size + dx) as isize, (y + dy) as isize, colour);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::Candidate;
    use convoke_engine::layers::Conv;
    use convoke_engine::{Builder, Shape};

    fn found(n: usize) -> Found {
        let candidate = |i: usize| Candidate {
            bounds: Bounds::around((10.0 * i as f64, 3.0), 8.0, 16.0),
            class: "thing".into(),
            score: 1.0 / (i + 1) as f64,
            logit: 0.0,
            scale: 1.0,
            found: i == 0,
        };
        let candidates = (0..n).map(candidate).collect();
        Found { candidates, maps: vec![], picture: (60, 40), object: (8.0, 16.0) }
    }

    #[test]
    fn candidates_stand_in_rows_of_five_also_at_the_border() {
        let p = Picture::filled(60, 40, [0, 200, 0]);
        let one = candidate_sheet(&p, &found(1), 10).unwrap();
        let seven = candidate_sheet(&p, &found(7), 10).unwrap();
        assert_eq!(seven.width, GAP + 5 * (one.width - GAP));
        assert_eq!(seven.height, GAP + 2 * (one.height - GAP));
        assert!(seven.data.chunks_exact(3).any(|c| c == [0, 200, 0]));
        candidate_sheet(&p, &found(0), 10).unwrap();
    }

    #[test]
    fn filters_become_tiles_in_their_own_colours() {
        let mut b = Builder::new("n", Shape::new(8, 8, 3));
        let network = b.conv(Conv::new(2, 3).no_bias()).build().unwrap();
        // Filter 1 is for red and against blue; filter 0 is weaker.
        let weights: Vec<f32> = (0..27).flat_map(|i| [0.1, [1.0, 0.0, -1.0][i % 3]]).collect();
        let sheet = filter_sheet(&network, &weights).unwrap();
        assert_eq!(sheet.pixel(GAP + 2, GAP + 2), [255, 127, 0]);
        assert!(filter_sheet(&network, &[]).is_err());
    }

    #[test]
    fn filters_over_many_channels_are_refused_in_one_line() {
        let mut b = Builder::new("n", Shape::new(8, 8, 5));
        let network = b.conv(Conv::new(2, 3)).build().unwrap();
        let e = filter_sheet(&network, &vec![0.0; network.parameters()]).unwrap_err().to_string();
        assert!(e.contains("5 channels") && !e.contains('\n'), "{e}");
    }

    #[test]
    fn rows_of_tiles_are_full_where_they_can_be() {
        assert_eq!([16, 24, 32, 64, 96, 6, 20, 7, 1].map(columns), [8, 8, 8, 8, 12, 3, 5, 4, 1]);
    }

    #[test]
    fn scores_keep_the_places_that_matter() {
        assert_eq!([0.9996, 0.5, 0.0004].map(percent), ["99.96%", "50%", "0.04%"]);
    }
}
