//! What the tests of kernels share.
#![allow(dead_code, reason = "each file of tests takes what it needs")]

/// Numbers uniform in ±1, the same for the same seed.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Rounds to the nearest bf16.
pub fn to_bf16(v: &mut f32) {
    let bits = v.to_bits();
    *v = f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
}

/// Root of the mean square of the errors.
pub fn deviation(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let sum: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    (sum / want.len() as f64).sqrt()
}

/// One of two, the second for Miri (`CONTRIBUTING.md`), which takes ten thousand times longer.
pub fn or_for_miri<T>(all: T, few: T) -> T {
    if cfg!(miri) { few } else { all }
}
