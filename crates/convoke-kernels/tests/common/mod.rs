//! What the tests of kernels share.
#![allow(dead_code, reason = "each file of tests takes what it needs")]

use convoke_kernels::conv::ConvShape;
use convoke_kernels::{Ctx, Isa, Pool};

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

/// On every instruction set, with one thread and with three.
pub fn everywhere(f: impl Fn(Ctx)) {
    for isa in Isa::available() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            f(Ctx { pool: &pool, isa });
        }
    }
}

/// `k`×`k` windows at step `s` from `c` to `d` channels over a map of `h`×`w`.
pub fn shape((h, w): (usize, usize), c: usize, d: usize, k: usize, s: usize) -> ConvShape {
    let pad = k / 2;
    let (oh, ow) = ((h + 2 * pad - k) / s + 1, (w + 2 * pad - k) / s + 1);
    let (dh, dw, groups) = (1, 1, 1);
    let (sh, sw, kh, kw, top, left) = (s, s, k, k, pad, pad);
    ConvShape { h, w, c, kh, kw, d, sh, sw, top, left, dh, dw, groups, oh, ow }
}
