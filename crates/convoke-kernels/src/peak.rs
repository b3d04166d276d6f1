//! The machine's peak: a loop of fused multiply-adds that touches no memory, to measure others by.

use crate::gemm::Simd;
use crate::{Isa, Pool};
use std::time::Instant;

/// Turns of the measured loop: about 20 ms.
const TURNS: usize = 2_000_000;

/// Independent sums: more than latency × units of any machine we know.
const SUMS: usize = 12;

/// # Safety
/// The instruction set must be present.
#[inline(always)]
unsafe fn body<S: Simd>(turns: usize) -> f32 {
    let mut out = [0.0f32; 16];
    // SAFETY: the caller has the instruction set; `out` holds the widest vector.
    unsafe {
        let (a, b) =
            (S::splat(std::hint::black_box(0.999_99)), S::splat(std::hint::black_box(1e-5)));
        let mut sums = [b; SUMS];
        for _ in 0..turns {
            for s in &mut sums {
                *s = S::fma(*s, a, b);
            }
        }
        let mut all = sums[0];
        for s in &sums[1..] {
            all = S::add(all, *s);
        }
        S::store(out.as_mut_ptr(), all);
    }
    out.iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(turns: usize) -> f32 {
    // SAFETY: this function has the instruction set.
    unsafe { body::<crate::gemm::Avx512>(turns) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(turns: usize) -> f32 {
    // SAFETY: this function has the instruction set.
    unsafe { body::<crate::gemm::Avx2>(turns) }
}

/// The loop, and the numbers that one turn works on.
fn run(isa: Isa, turns: usize) -> (f32, usize) {
    match isa {
        // SAFETY: kernels are given instruction sets that `Isa::available` found.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => (unsafe { avx512(turns) }, 16 * SUMS),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (unsafe { avx2(turns) }, 8 * SUMS),
        // SAFETY: NEON is part of aarch64.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => (unsafe { body::<crate::gemm::Neon>(turns) }, 4 * SUMS),
        // SAFETY: plain Rust.
        _ => (unsafe { body::<crate::gemm::Portable>(turns) }, 8 * SUMS),
    }
}

/// Billions of floating-point operations a second of a loop of fused multiply-adds on all threads
/// of the pool at once: the best of five tries. One multiply-add counts as two.
pub fn fma_gflops(isa: Isa, pool: &Pool) -> f64 {
    let flops = (2 * TURNS * run(isa, 0).1 * pool.threads()) as f64;
    let mut best = 0.0f64;
    for _ in 0..5 {
        let start = Instant::now();
        pool.run(pool.threads(), &|_, _| {
            std::hint::black_box(run(isa, TURNS).0);
        });
        best = best.max(flops / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}
