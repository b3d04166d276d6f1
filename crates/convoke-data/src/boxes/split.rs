//! Which pictures are learnt from and which judged by: as the set says, or drawn by picture, with
//! pictures that are nearly the same kept on one side.

use super::{BoxSet, Part};
use crate::picture::{Area, Filter, Picture, read_picture, resize};
use crate::{DataError, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// How a set without parts is split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitOptions {
    /// Seed of the split.
    pub seed: u64,
    /// Share of the pictures that goes to validation.
    pub val_fraction: f64,
}

impl Default for SplitOptions {
    fn default() -> Self {
        SplitOptions { seed: 0, val_fraction: 0.2 }
    }
}

/// Positions in [`BoxSet::pictures`], marked ones alone, each part in rising order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BoxSplit {
    /// To learn from.
    pub train: Vec<usize>,
    /// To choose by while training.
    pub val: Vec<usize>,
    /// To report on.
    pub test: Vec<usize>,
    /// Groups of pictures that are nearly the same, of those that were split here.
    pub alike: Vec<Vec<usize>>,
}

impl BoxSet {
    /// Splits the marked pictures. Parts that the set names stay. Where it has no validation part (and
    /// no test part), one is drawn from the training pictures, at least one picture where there are two.
    ///
    /// # Errors
    /// When there is no picture to learn from, or one cannot be read.
    pub fn split(&self, options: &SplitOptions) -> Result<BoxSplit> {
        let mut split = BoxSplit::default();
        let marked = self.pictures.iter().enumerate().filter(|(_, p)| p.boxes.is_some());
        for (i, p) in marked {
            match p.part {
                Some(Part::Val) => split.val.push(i),
                Some(Part::Test) => split.test.push(i),
                _ => split.train.push(i),
            }
        }
        if split.train.is_empty() {
            return Err(DataError::dataset(
                std::path::Path::new(self.kind),
                "there is no marked picture to learn from",
            ));
        }
        if split.val.is_empty() && split.test.is_empty() && options.val_fraction > 0.0 {
            let fraction = options.val_fraction.clamp(0.0, 0.9);
            let groups = self.groups(&split.train)?;
            let wanted = (split.train.len() as f64 * fraction).round().max(1.0) as usize;
            let mut order: Vec<usize> = (0..groups.len()).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
            let all = std::mem::take(&mut split.train);
            for g in order {
                let left = all.len() - split.val.len();
                let fits = split.val.len() < wanted && groups[g].len() < left;
                let to = if fits { &mut split.val } else { &mut split.train };
                to.extend(&groups[g]);
            }
            split.alike = groups.into_iter().filter(|g| g.len() > 1).collect();
        }
        split.train.sort_unstable();
        split.val.sort_unstable();
        Ok(split)
    }

    /// Pictures in `k` parts of about equal size for cross-validation; pictures that are nearly the same
    /// are in the same one.
    ///
    /// # Errors
    /// When a picture cannot be read.
    pub fn folds(&self, k: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
        let marked: Vec<usize> =
            (0..self.pictures.len()).filter(|&i| self.pictures[i].boxes.is_some()).collect();
        let mut groups = self.groups(&marked)?;
        groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        // Large groups first, each into the smallest fold so far.
        groups.sort_by_key(|g| std::cmp::Reverse(g.len()));
        let mut folds = vec![Vec::new(); k.max(1)];
        for group in groups {
            if let Some(least) = folds.iter_mut().min_by_key(|f| f.len()) {
                least.extend(group);
            }
        }
        folds.iter_mut().for_each(|f| f.sort_unstable());
        Ok(folds)
    }

    /// The pictures in groups of those that are nearly the same.
    fn groups(&self, which: &[usize]) -> Result<Vec<Vec<usize>>> {
        let mut hashes = Vec::with_capacity(which.len());
        for &i in which {
            hashes.push(fingerprint(&read_picture(&self.pictures[i].path, 1)?)?);
        }
        let groups = near_duplicates(&hashes);
        Ok(groups.into_iter().map(|g| g.into_iter().map(|at| which[at]).collect()).collect())
    }
}

/// Bits in which the fingerprints of two copies of a picture differ at most.
const APART: u32 = 6;

/// Whether each of 8 × 8 places is brighter than its right neighbour (difference hash, Krawetz 2013).
/// It stays nearly the same when a picture is resized, brightened or saved anew.
pub(crate) fn fingerprint(grey: &Picture) -> Result<u64> {
    let small = resize(grey, Area::whole(grey), 9, 8, Filter::Bilinear)?;
    let mut bits = 0;
    for y in 0..8 {
        for x in 0..8 {
            bits = bits << 1 | u64::from(small.pixel(x, y)[0] > small.pixel(x + 1, y)[0]);
        }
    }
    Ok(bits)
}

/// Groups fingerprints that differ in few bits, directly or through others; each position is in one
/// group, groups in the order of their first members.
pub fn near_duplicates(hashes: &[u64]) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..hashes.len()).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    // Of eight bytes, at least one is equal where at most seven bits differ.
    for byte in 0..8 {
        let mut buckets = vec![Vec::new(); 256];
        for (i, h) in hashes.iter().enumerate() {
            buckets[(h >> (8 * byte) & 255) as usize].push(i);
        }
        for bucket in &buckets {
            for (n, &a) in bucket.iter().enumerate() {
                for &b in &bucket[n + 1..] {
                    if (hashes[a] ^ hashes[b]).count_ones() <= APART {
                        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
                        parent[a.max(b)] = a.min(b);
                    }
                }
            }
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); hashes.len()];
    for i in 0..hashes.len() {
        groups[root(&mut parent, i)].push(i);
    }
    groups.retain(|g| !g.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_that_differ_in_few_bits_are_one_group() {
        let h = 0x0123_4567_89AB_CDEF_u64;
        let far = !h;
        // The third is near the second, the second near the first: one group.
        let all = [h, far, h ^ 0x3F, h ^ 0x3F ^ 0x3F00_0000_0000, far ^ 1, 77];
        assert_eq!(near_duplicates(&all), [vec![0, 2, 3], vec![1, 4], vec![5]]);
        assert!(near_duplicates(&[]).is_empty());
    }

    #[test]
    fn a_smaller_brighter_copy_has_nearly_the_same_fingerprint() {
        let at =
            |x: usize, y: usize| ((x * 7 + y * 13) % 90 + (x / 9 * 31 + y / 7 * 17) % 120) as u8;
        let data = (0..96 * 64).map(|i| at(i % 96, i / 96)).collect();
        let p = Picture { width: 96, height: 64, channels: 1, data };
        let mut copy = resize(&p, Area::whole(&p), 60, 40, Filter::Bilinear).unwrap();
        copy.data.iter_mut().for_each(|v| *v = v.saturating_add(12));
        let other = Picture { data: p.data.iter().rev().copied().collect(), ..p.clone() };
        let of = |p: &Picture| fingerprint(p).unwrap();
        assert!((of(&p) ^ of(&copy)).count_ones() <= APART);
        assert!((of(&p) ^ of(&other)).count_ones() > APART);
    }
}
