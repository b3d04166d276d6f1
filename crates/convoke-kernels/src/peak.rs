//! The machine's peak: a loop of fused multiply-adds that touches no memory, to measure others by.

use crate::{Isa, Pool};
use std::time::Instant;

/// Turns of the measured loop: about 20 ms.
const TURNS: usize = 2_000_000;

#[inline(always)]
fn body<const LANES: usize, const ACCS: usize>(turns: usize) -> f32 {
    let mut acc = [[0.0f32; LANES]; ACCS];
    let (a, b) = (std::hint::black_box(0.999_99f32), std::hint::black_box(0.000_01f32));
    for _ in 0..turns {
        for row in &mut acc {
            for v in row.iter_mut() {
                *v = v.mul_add(a, b);
            }
        }
    }
    acc.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512(turns: usize) -> f32 {
    body::<16, 12>(turns)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(turns: usize) -> f32 {
    body::<8, 12>(turns)
}

fn run(isa: Isa, turns: usize) -> (f32, usize) {
    match isa {
        // SAFETY: kernels are given instruction sets that `Isa::available` found.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (unsafe { avx512(turns) }, 16 * 12),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (unsafe { avx2(turns) }, 8 * 12),
        Isa::Neon => (body::<4, 16>(turns), 4 * 16),
        _ => (body::<4, 4>(turns / 100), 4 * 4),
    }
}

/// Billions of floating-point operations a second of a loop of fused multiply-adds on all threads
/// of the pool at once: the best of five tries. One multiply-add counts as two.
pub fn fma_gflops(isa: Isa, pool: &Pool) -> f64 {
    let turns = if matches!(isa, Isa::Portable) { TURNS / 100 } else { TURNS };
    let flops = (2 * turns * run(isa, 0).1 * pool.threads()) as f64;
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
