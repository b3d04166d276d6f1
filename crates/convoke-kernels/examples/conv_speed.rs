//! Speed of the convolution walks as a fraction of the multiply-add loop's, on one thread and on all.
//! `cargo run --release -p convoke-kernels --example conv_speed [threads [avx512|amx|tiles|bf16|halves|int8|bytes|winograd|winograd-2|avx2-winograd|bf16-winograd|halves-winograd] [WORD]]`:
//! an instruction set, or everything on tiles, in f32 or in bf16 (`halves`: maps too), forward in integers (`bytes`:
//! maps too), or with fewer products where windows allow; only lines that have the word.

use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Precision, Range8, Winograd};
use convoke_kernels::{Bf16, Ctx, Form, Isa, Map, MapMut, Pool, peak};
use std::time::Instant;

fn best(mut f: impl FnMut()) -> f64 {
    (0..7)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

/// Numbers with all their bits, since multipliers that switch less run faster.
fn numbers(n: usize) -> Vec<f32> {
    let mut s = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A map of these numbers, two of bf16 in each float where it is `half`; and as many floats as it takes to align it.
fn map(numbers: Vec<f32>, form: Form) -> Vec<f32> {
    let mut map = vec![0.0f32; numbers.len() + 16];
    match MapMut::of(aligned(&mut map), form) {
        MapMut::Full(map) => map[..numbers.len()].copy_from_slice(&numbers),
        MapMut::Half(map) => {
            map.iter_mut().zip(&numbers).for_each(|(m, &x)| *m = Bf16::new(x));
        }
        MapMut::Bytes(map, range) => {
            map.iter_mut().zip(&numbers).for_each(|(m, &x)| *m = range.quantize(x));
        }
    }
    map
}

/// The part that begins a cache line.
fn aligned(map: &mut [f32]) -> &mut [f32] {
    let skip = map.as_ptr().align_offset(64);
    &mut map[skip..]
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let how = std::env::args().nth(2).unwrap_or_default();
    let only = std::env::args().nth(3).unwrap_or_default();
    let (isa, how) = match how.split_once('-').unwrap_or((&how, "")) {
        (first, rest) if Isa::parse(first).is_some() => (Isa::parse(first), rest),
        _ => (None, how.as_str()),
    };
    let isa = isa.unwrap_or_else(Isa::detect);
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa };
    let peak = peak::fma_gflops(isa, &pool);
    println!("{isa:?}, {threads} threads, peak {peak:.0} GFLOP/s");
    println!("{:<34} {:>8} {:>8} {:>8}   % of peak", "convolution", "forward", "data", "weights");
    for (n, h, c, k, s, d) in [
        (1usize, 1usize, 16, 1, 1usize, 16),
        (8, 224, 3, 7, 2, 64),
        (8, 56, 64, 3, 1, 64),
        (8, 56, 64, 3, 2, 128),
        (8, 28, 128, 3, 1, 128),
        (8, 14, 256, 3, 1, 256),
        (8, 7, 512, 3, 1, 512),
        (8, 56, 64, 1, 2, 128),
        (8, 56, 64, 1, 1, 256),
        (8, 56, 256, 1, 1, 64),
        (8, 28, 512, 1, 1, 128),
        (8, 14, 1024, 1, 1, 256),
        (8, 7, 512, 1, 1, 2048),
        (64, 32, 16, 3, 1, 16),
        (64, 32, 16, 3, 2, 32),
        (64, 16, 32, 3, 1, 32),
        (64, 8, 64, 3, 1, 64),
        (64, 28, 1, 5, 1, 6),
        (64, 14, 6, 5, 1, 16),
        (16, 112, 16, 1, 1, 96),
        (16, 112, 32, 1, 1, 16),
        (8, 56, 24, 1, 1, 144),
        (8, 56, 144, 1, 1, 24),
        (16, 28, 32, 1, 1, 192),
        (16, 28, 192, 1, 1, 32),
        (16, 14, 96, 1, 1, 576),
        (16, 14, 576, 1, 1, 96),
        (16, 7, 160, 1, 1, 960),
        (16, 7, 960, 1, 1, 320),
        (32, 1, 9216, 1, 1, 4096),
        (64, 1, 400, 1, 1, 120),
    ] {
        let o = h.div_ceil(s);
        let pad = ((o - 1) * s + k).saturating_sub(h) / 2;
        let shape = ConvShape {
            h,
            w: h,
            c,
            kh: k,
            kw: k,
            d,
            sh: s,
            sw: s,
            top: pad,
            left: pad,
            dh: 1,
            dw: 1,
            groups: 1,
            oh: o,
            ow: o,
        };
        let name = format!("{k}x{k}/{s} {h}x{h}x{c} -> {d}, batch {n}");
        if !name.contains(&only) {
            continue;
        }
        let conv = Conv::new(shape, isa, n, threads);
        let range = Range8::new(-1.0, 1.0).expect("a range");
        let conv = match how {
            "tiles" => conv.all_in(Precision::F32),
            "bf16" | "halves" => conv.all_in(Precision::Bf16),
            "int8" | "bytes" => conv.int8(range, None),
            "winograd-2" => conv.winograd(Winograd::Always(2)),
            "winograd" => conv.winograd(Winograd::Always(4)),
            "bf16-winograd" | "halves-winograd" => {
                conv.precision(Precision::Bf16).winograd(Winograd::Always(2))
            }
            _ => conv,
        };
        let form = match how {
            "halves" | "halves-winograd" => Form::Half,
            "bytes" => Form::Bytes(range),
            _ => Form::Full,
        };
        let numbers_of = |len: usize| map(numbers(len), form);
        let (mut x, mut y) = (numbers_of(n * shape.x_len()), numbers_of(n * shape.y_len()));
        let (x, y) = (aligned(&mut x), aligned(&mut y));
        let w = numbers(shape.filter_len());
        let mut dw = vec![0.0f32; shape.filter_len()];
        let mut pack = vec![0.0; conv.forward_pack_len()];
        let mut back = vec![0.0; conv.backward_pack_len()];
        let most = conv.forward_scratch_len().max(conv.backward_scratch_len());
        let mut scratch = vec![0.0; most.max(conv.weights_scratch_len())];
        let pack = conv.pack_forward(cx, &w, &mut pack);
        let back = conv.pack_backward(cx, &w, &mut back);
        let flops = 2.0 * n as f64 * shape.macs() as f64;
        let share = |seconds: f64| 100.0 * flops / seconds / 1e9 / peak;
        let e = Epilogue::default();
        // Integers are for forward alone.
        let back_form = if form == Form::Full || form == Form::Half { form } else { Form::Full };
        let f = best(|| {
            let (x, y) = (Map::of(x, form), MapMut::of(y, form));
            conv.forward(cx, n, x.into(), pack, y, e, &mut scratch)
        });
        let b = best(|| {
            let (dy, dx) = (Map::of(y, back_form), MapMut::of(x, back_form));
            conv.backward_data(cx, n, dy, back, dx, false, &mut scratch)
        });
        let g = best(|| {
            let (x, dy) = (Map::of(x, back_form), Map::of(y, back_form));
            conv.backward_weights(cx, n, x.into(), dy, &mut dw, &mut scratch)
        });
        println!("{name:<34} {:>8.0} {:>8.0} {:>8.0}", share(f), share(b), share(g));
    }
}
