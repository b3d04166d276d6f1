//! Dropout from counters: the mask of a number depends on seed, step, layer and place alone, so it
//! is drawn again in backward instead of being stored, and threads change nothing.

use crate::{CHUNK, Ctx, multiversion};

/// Which mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run.
    pub step: u64,
    /// Number of the layer.
    pub layer: u64,
    /// Probability of a zero.
    pub rate: f32,
}

/// One key for all places: SplitMix64's finalizer over seed, step and layer.
fn key(m: &Mask) -> u32 {
    let mut z = m.seed;
    for part in [m.step, m.layer] {
        z = (z ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
    }
    (z ^ (z >> 32)) as u32
}

/// `y (+)= x · mask / (1 − rate)`: forward with `x`, backward with `dy`.
pub fn apply(cx: Ctx, m: &Mask, x: &[f32], y: &mut [f32], accumulate: bool) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    let key = key(m);
    // A number stays when its 24 random bits are at least this.
    let least = (f64::from(m.rate) * f64::from(1u32 << 24)).round() as u32;
    let scale = 1.0 / (1.0 - m.rate);
    cx.pool.for_chunks_mut(y, CHUNK, |i, y, _| {
        let x = &x[i * CHUNK..][..y.len()];
        let at = (i * CHUNK) as u64;
        let key = key ^ (at >> 32) as u32;
        let at = at as u32;
        multiversion!(cx.isa, body(key: u32, at: u32, least: u32, scale: f32, x: &[f32], y: &mut [f32],
            accumulate: bool));
    });
}

/// [`apply`] with one draw for all `len` numbers of a sample: `x [n, len]`.
pub fn apply_samples(cx: Ctx, m: &Mask, x: &[f32], y: &mut [f32], len: usize, accumulate: bool) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    let key = key(m);
    let least = (f64::from(m.rate) * f64::from(1u32 << 24)).round() as u32;
    cx.pool.for_chunks_mut(y, len, |i, y, _| {
        let x = &x[i * len..][..y.len()];
        let scale = if draw(key, i as u32) >= least { 1.0 / (1.0 - m.rate) } else { 0.0 };
        multiversion!(cx.isa, scale_body(scale: f32, x: &[f32], y: &mut [f32], accumulate: bool));
    });
}

#[inline(always)]
fn scale_body(scale: f32, x: &[f32], y: &mut [f32], accumulate: bool) {
    for (y, &x) in y.iter_mut().zip(x) {
        // Not a product, so that a dropped sample's infinities are dropped too.
        let v = if scale > 0.0 { x * scale } else { 0.0 };
        *y = if accumulate { *y + v } else { v };
    }
}

#[inline(always)]
fn body(key: u32, at: u32, least: u32, scale: f32, x: &[f32], y: &mut [f32], accumulate: bool) {
    for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
        let v = if draw(key, at.wrapping_add(i as u32)) >= least { x * scale } else { 0.0 };
        *y = if accumulate { *y + v } else { v };
    }
}

/// 24 random bits of a place: two rounds of a 32-bit mixer (Wellons's `lowbias32`), keyed.
#[inline(always)]
fn draw(key: u32, place: u32) -> u32 {
    let mut h = place ^ key;
    for _ in 0..2 {
        h ^= h >> 16;
        h = h.wrapping_mul(0x7feb_352d);
        h ^= h >> 15;
        h = h.wrapping_mul(0x846c_a68b);
        h ^= h >> 16;
        h = h.wrapping_add(key.rotate_left(16));
    }
    h >> 8
}
