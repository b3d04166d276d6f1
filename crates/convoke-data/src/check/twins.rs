//! Pictures that are the same, or nearly: by their bytes, and by what is in them.

use crate::picture::{Area, Filter, Picture, resize};
use std::collections::HashMap;

/// Rows and columns of the small grey copy.
const SIDE: usize = 16;
/// Bits in which the hashes of near twins may differ.
const BITS: u32 = 6;
/// Pieces of a hash; two hashes that differ in at most `BITS` bits share one whole.
const PIECES: u32 = BITS + 1;
/// Sides below which pictures are compared pixel by pixel: too many small ones look alike from afar.
const LEAST: usize = 48;

/// What is kept of a picture to compare it.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// Which of two neighbours in a row of nine is brighter, for eight rows (a difference hash).
    hash: u64,
    /// `[SIDE, SIDE]` of brightness.
    grey: Vec<u8>,
    /// Mean colour.
    colour: [f32; 3],
    /// Deviation of the brightness.
    pub contrast: f32,
}

impl Trace {
    /// The trace of a picture of three channels; none for pictures too small to be compared.
    pub fn of(p: &Picture) -> Option<Self> {
        if p.width.min(p.height) < LEAST {
            return None;
        }
        let small = |w, h| resize(p, Area::whole(p), w, h, Filter::Bilinear).ok();
        let luma = |v: &[u8]| {
            ((299 * u32::from(v[0]) + 587 * u32::from(v[1]) + 114 * u32::from(v[2])) / 1000) as u8
        };
        let thumb = small(SIDE, SIDE)?;
        let grey: Vec<u8> = thumb.data.chunks_exact(3).map(luma).collect();
        let rows = small(9, 8)?;
        let rows: Vec<u8> = rows.data.chunks_exact(3).map(luma).collect();
        let mut hash = 0u64;
        for row in rows.chunks_exact(9) {
            for pair in row.windows(2) {
                hash = hash << 1 | u64::from(pair[0] < pair[1]);
            }
        }
        let n = grey.len() as f32;
        let mean = grey.iter().map(|v| f32::from(*v)).sum::<f32>() / n;
        let spread = grey.iter().map(|v| (f32::from(*v) - mean).powi(2)).sum::<f32>() / n;
        let colour = std::array::from_fn(|c| {
            thumb.data[c..].iter().step_by(3).map(|v| f32::from(*v)).sum::<f32>() / n
        });
        Some(Trace { hash, grey, colour, contrast: spread.sqrt() })
    }

    /// Whether two pictures show the same: brightness goes up and down together, colours and levels are
    /// close. Even pictures are never near twins: there is nothing in them to tell by.
    fn is_like(&self, other: &Trace) -> bool {
        if self.contrast.min(other.contrast) < 10.0 || (self.hash ^ other.hash).count_ones() > BITS
        {
            return false;
        }
        if self.colour.iter().zip(&other.colour).any(|(a, b)| (a - b).abs() > 12.0) {
            return false;
        }
        correlation(&self.grey, &other.grey) > 0.985
    }
}

fn correlation(a: &[u8], b: &[u8]) -> f32 {
    let mean = |v: &[u8]| v.iter().map(|v| f32::from(*v)).sum::<f32>() / v.len() as f32;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (x, y) = (f32::from(*a) - ma, f32::from(*b) - mb);
        (ab, aa, bb) = (ab + x * y, aa + x * x, bb + y * y);
    }
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// Pairs of near twins, each pair once, smaller number first.
pub(crate) fn near(traces: &[Option<Trace>]) -> Vec<(usize, usize)> {
    let mut buckets: HashMap<(u32, u64), Vec<usize>> = HashMap::new();
    for (i, t) in traces.iter().enumerate() {
        let Some(t) = t else { continue };
        for piece in 0..PIECES {
            let (from, to) = (piece * 64 / PIECES, (piece + 1) * 64 / PIECES);
            let bits = t.hash >> from & ((1 << (to - from)) - 1);
            buckets.entry((piece, bits)).or_default().push(i);
        }
    }
    let mut pairs = Vec::new();
    for all in buckets.into_values() {
        // A bucket of thousands is of pictures that have nothing in them.
        for (k, &i) in all.iter().enumerate().take(2000) {
            for &j in all[k + 1..].iter().take(2000) {
                if let (Some(a), Some(b)) = (&traces[i], &traces[j])
                    && a.is_like(b)
                {
                    pairs.push((i, j));
                }
            }
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// Random directions along which small pictures are measured.
const DIRECTIONS: usize = 8;

/// What is kept of a small picture to compare it: its numbers summed along random directions. Two pictures whose
/// numbers differ by `r` (root of the mean of squares) differ by about `r` along each, so that few pairs are left
/// to be compared pixel by pixel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sketch {
    along: [f32; DIRECTIONS],
    size: [u16; 3],
    /// Deviation of the numbers.
    contrast: f32,
}

impl Sketch {
    /// The sketch of `[h, w, c]` numbers; none for pictures that are large enough for a [`Trace`], and for tiny ones.
    pub fn of(w: usize, h: usize, c: usize, pixels: &[u8]) -> Option<Self> {
        if !(8..LEAST).contains(&w.min(h)) || w.max(h) > 4 * LEAST {
            return None;
        }
        let (mut along, mut sum, mut squares) = ([0.0f32; DIRECTIONS], 0.0f64, 0.0f64);
        for (i, v) in pixels.iter().enumerate() {
            let bits = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let bits = (bits ^ bits >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
            let v = f32::from(*v);
            for (k, a) in along.iter_mut().enumerate() {
                *a += if bits >> k & 1 == 0 { v } else { -v };
            }
            (sum, squares) = (sum + f64::from(v), squares + f64::from(v * v));
        }
        let n = pixels.len() as f64;
        let contrast = (squares / n - (sum / n).powi(2)).max(0.0).sqrt() as f32;
        let along = along.map(|a| a / (n as f32).sqrt());
        let size = [w, h, c].map(|v| v as u16);
        (contrast >= 10.0).then_some(Sketch { along, size, contrast })
    }

    /// By how much another may differ and still show the same: a twentieth of the contrast, as the noise of a JPEG
    /// does. Of the digits of MNIST no two are nearer than a seventh.
    fn limit(&self) -> f32 {
        (0.05 * self.contrast).min(6.0)
    }
}

/// By how much two small pictures may differ.
pub(crate) fn allowed(a: &Option<Sketch>, b: &Option<Sketch>) -> f32 {
    let limit = |s: &Option<Sketch>| s.map_or(0.0, |s| s.limit());
    limit(a).min(limit(b))
}

/// Root of the mean of squared differences; infinite for other lengths.
pub(crate) fn difference(a: &[u8], b: &[u8]) -> f32 {
    if a.len() != b.len() || a.is_empty() {
        return f32::INFINITY;
    }
    let squares: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    (squares as f64 / a.len() as f64).sqrt() as f32
}

/// Pairs that are looked at before it is given up; a hundred thousand pictures need a tenth of it.
const MOST: usize = 20_000_000_000;

/// Pairs of small pictures that may be near twins, smaller number first: they are to be compared with
/// [`difference`].
pub(crate) fn near_small(sketches: &[Option<Sketch>]) -> Vec<(usize, usize)> {
    let mut all: Vec<(Sketch, usize)> =
        sketches.iter().enumerate().filter_map(|(i, s)| Some((s.as_ref().copied()?, i))).collect();
    all.sort_by(|a, b| a.0.along[0].total_cmp(&b.0.along[0]));
    let (mut pairs, mut looked) = (Vec::new(), 0);
    for (k, (a, i)) in all.iter().enumerate() {
        // Three deviations: of a hundred twins two are missed.
        let reach = 3.0 * a.limit();
        let within = |b: &Sketch| (0..DIRECTIONS).all(|d| (a.along[d] - b.along[d]).abs() <= reach);
        for (b, j) in all[k + 1..].iter().take_while(|b| b.0.along[0] - a.along[0] <= reach) {
            looked += 1;
            if within(b) && a.size == b.size {
                pairs.push((*i.min(j), *i.max(j)));
            }
        }
        if looked > MOST || pairs.len() > 1 << 20 {
            break;
        }
    }
    pairs.sort_unstable();
    pairs
}

/// 128 bits of a hash that differs for different bytes (two of FNV-1a with other offsets, by words): not for
/// secrets, for telling files apart.
pub(crate) fn digest(bytes: &[u8]) -> u128 {
    let go = |seed: u64| {
        let mut h = seed ^ bytes.len() as u64;
        for word in bytes.chunks(8) {
            let mut w = [0; 8];
            w[..word.len()].copy_from_slice(word);
            h = (h ^ u64::from_le_bytes(w)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            h ^= h >> 29;
        }
        h
    };
    u128::from(go(0xCBF2_9CE4_8422_2325)) << 64 | u128::from(go(0x8422_2325_CBF2_9CE4))
}

/// Groups of equal digests, in the order of their first members.
pub(crate) fn equal(digests: &[Option<u128>]) -> Vec<Vec<usize>> {
    let mut groups: HashMap<u128, Vec<usize>> = HashMap::new();
    for (i, d) in digests.iter().enumerate() {
        if let Some(d) = d {
            groups.entry(*d).or_default().push(i);
        }
    }
    let mut all: Vec<Vec<usize>> = groups.into_values().filter(|g| g.len() > 1).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(seed: usize, w: usize, h: usize) -> Picture {
        let mut p = Picture::filled(w, h, [90, 110, 130]);
        for k in 0..9 {
            let n = seed.wrapping_mul(7919).wrapping_add(k * 104_729);
            let (cx, cy, r) = (n % 100, n / 100 % 100, 8 + n / 10_000 % 20);
            for y in 0..h {
                for x in 0..w {
                    let (dx, dy) = (
                        (x * 100 / w) as isize - cx as isize,
                        (y * 100 / h) as isize - cy as isize,
                    );
                    if (dx * dx + dy * dy) as usize <= r * r {
                        let v = [(n % 256) as u8, (n / 7 % 256) as u8, (n / 31 % 256) as u8];
                        p.data[(y * w + x) * 3..][..3].copy_from_slice(&v);
                    }
                }
            }
        }
        p
    }

    #[test]
    fn the_same_scene_in_another_size_is_a_twin_and_other_scenes_are_none() {
        let mut all: Vec<Picture> = (0..30).map(|i| scene(i, 96, 80)).collect();
        all.push(scene(4, 64, 54));
        let traces: Vec<_> = all.iter().map(Trace::of).collect();
        assert_eq!(near(&traces), [(4, 30)]);
        assert!(Trace::of(&scene(1, 40, 60)).is_none());
    }

    #[test]
    fn small_pictures_are_twins_when_they_differ_by_noise_alone() {
        let mut all: Vec<Picture> = (0..60).map(|i| scene(i, 28, 28)).collect();
        let mut noisy = all[7].clone();
        for (i, v) in noisy.data.iter_mut().enumerate() {
            *v = v.saturating_add((i * 7 % 5) as u8).saturating_sub(2);
        }
        all.push(noisy);
        // The same in another size is not found, nor the same at another place.
        all.push(scene(9, 27, 28));
        let mut moved = all[11].clone();
        moved.data.rotate_right(3);
        all.push(moved);
        let sketches: Vec<_> =
            all.iter().map(|p| Sketch::of(p.width, p.height, 3, &p.data)).collect();
        let near: Vec<_> = near_small(&sketches)
            .into_iter()
            .filter(|&(i, j)| {
                difference(&all[i].data, &all[j].data) <= allowed(&sketches[i], &sketches[j])
            })
            .collect();
        assert_eq!(near, [(7, 60)]);
        assert!(Sketch::of(64, 64, 3, &scene(1, 64, 64).data).is_none());
        assert!(Sketch::of(16, 16, 3, &[9; 768]).is_none());
    }

    #[test]
    fn even_pictures_are_no_twins() {
        let traces: Vec<_> =
            (0..9).map(|i| Trace::of(&Picture::filled(64, 64, [i, i, i]))).collect();
        assert!(near(&traces).is_empty());
    }

    #[test]
    fn digests_tell_bytes_and_lengths_apart() {
        let all: Vec<Vec<u8>> = vec![
            vec![],
            vec![0],
            vec![0; 8],
            vec![0; 9],
            vec![1; 9],
            b"ab".to_vec(),
            b"ba".to_vec(),
        ];
        let digests: Vec<_> = all.iter().map(|b| Some(digest(b))).collect();
        assert!(equal(&digests).is_empty());
        assert_eq!(equal(&[Some(5), None, Some(7), Some(5)]), [[0, 3]]);
    }
}
