//! Winograd's minimal filtering in products of bf16, over odd shapes and threads: exact where nothing is rounded,
//! and near the direct sum in bf16 elsewhere.
#![cfg(not(miri))]

mod common;

use common::{deviation, numbers};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Precision, Winograd};
use convoke_kernels::reference::conv as reference;
use convoke_kernels::{Ctx, Isa, Pool};

/// Whether the machine multiplies bf16 on vectors.
fn present() -> bool {
    let present = Conv::has_products(Isa::Avx512, Precision::Bf16);
    if !present {
        println!("skipped: this machine multiplies no bf16 on vectors");
    }
    present
}

/// Maps of `h`×`w`×`c` to `d` filters, padded by `pad`.
fn shape((h, w, c): (usize, usize, usize), d: usize, pad: usize) -> ConvShape {
    let (oh, ow) = (h + 2 * pad - 2, w + 2 * pad - 2);
    let (kh, kw, sh, sw, dh, dw, groups) = (3, 3, 1, 1, 1, 1, 1);
    ConvShape { h, w, c, kh, kw, d, sh, sw, top: pad, left: pad, dh, dw, groups, oh, ow }
}

/// Odd channels, and rows of one tile, an odd and an even number of them.
fn cases() -> Vec<(usize, ConvShape)> {
    vec![
        (1, shape((2, 2, 1), 1, 1)),
        (3, shape((5, 5, 3), 5, 1)),
        (1, shape((3, 3, 2), 40, 1)),
        (5, shape((7, 6, 33), 40, 1)),
        (2, shape((14, 14, 64), 48, 1)),
        (3, shape((9, 13, 20), 17, 2)),
        (2, shape((11, 8, 31), 16, 0)),
        (40, shape((14, 14, 30), 96, 1)),
        (17, shape((6, 10, 130), 33, 1)),
        // Filters that are not packed.
        (3, shape((5, 6, 325), 310, 1)),
    ]
}

struct Passes {
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
}

fn run(n: usize, conv: &Conv, [x, w, dy]: &[Vec<f32>; 3], threads: usize) -> Passes {
    let s = conv.shape();
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa: Isa::Avx512 };
    let nan = |len| vec![f32::NAN; len];
    let (mut y, mut dx, mut dw) = (nan(n * s.y_len()), nan(n * s.x_len()), nan(s.filter_len()));
    let mut pack = nan(conv.forward_pack_len());
    let pack = conv.pack_forward(cx, w, &mut pack);
    let mut scratch = nan(conv.forward_scratch_len());
    conv.forward(cx, n, x.into(), pack, &mut y, Epilogue::default(), &mut scratch);
    let mut pack = nan(conv.backward_pack_len());
    let pack = conv.pack_backward(cx, w, &mut pack);
    let mut scratch = nan(conv.backward_scratch_len());
    conv.backward_data(cx, n, dy, pack, &mut dx, false, &mut scratch);
    let mut scratch = nan(conv.weights_scratch_len());
    conv.backward_weights(cx, n, x.into(), dy, &mut dw, &mut scratch);
    Passes { y, dx, dw }
}

fn pairs(n: usize, s: ConvShape, threads: usize) -> Conv {
    let conv = Conv::new(s, Isa::Avx512, n, threads);
    conv.precision(Precision::Bf16).winograd(Winograd::Always(2))
}

fn inputs(n: usize, s: &ConvShape) -> [Vec<f32>; 3] {
    [numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2), numbers(n * s.y_len(), 3)]
}

/// Small whole numbers, filters in fours: all transforms, products and sums are whole numbers that bf16 and f32 hold.
#[test]
fn whole_numbers_are_exact() {
    if !present() {
        return;
    }
    for (n, s) in cases() {
        let [x, w, dy] = inputs(n, &s);
        let whole = |v: &[f32], by: f32| v.iter().map(|x| (x * 3.0).round() * by).collect();
        let all: [Vec<f32>; 3] = [whole(&x, 1.0), whole(&w, 4.0), whole(&dy, 1.0)];
        let got = run(n, &pairs(n, s, 1), &all, 1);
        let [x, w, dy] = &all;
        let same = |what: &str, got: &[f32], want: &[f64]| {
            for (i, (g, w)) in got.iter().zip(want).enumerate() {
                assert!(f64::from(*g) == *w, "{what}[{i}] of {s:?}: {g} against {w}");
            }
        };
        same("y", &got.y, &reference::forward(&s, n, x, w));
        same("dx", &got.dx, &reference::backward_data(&s, n, dy, w));
        same("dw", &got.dw, &reference::backward_weights(&s, n, x, dy));
    }
}

/// Transformed numbers are sums of up to four, so their roundings are larger: by two and a half times the direct
/// sum's at most where there are enough numbers to tell.
#[test]
fn errors_are_a_small_multiple_of_the_direct_sums() {
    if !present() {
        return;
    }
    for (n, s) in cases().into_iter().filter(|(n, s)| n * s.y_len() > 1000) {
        let all = inputs(n, &s);
        let [x, w, dy] = &all;
        let got = run(n, &pairs(n, s, 1), &all, 1);
        let conv = Conv::new(s, Isa::Avx512, n, 1).all_in(Precision::Bf16);
        let direct = run(n, &conv, &all, 1);
        let y = reference::forward(&s, n, x, w);
        let dx = reference::backward_data(&s, n, dy, w);
        let dw = reference::backward_weights(&s, n, x, dy);
        for (what, got, direct, want) in [
            ("y", &got.y, &direct.y, &y),
            ("dx", &got.dx, &direct.dx, &dx),
            ("dw", &got.dw, &direct.dw, &dw),
        ] {
            let (got, direct) = (deviation(got, want), deviation(direct, want));
            println!("{what} of {s:?}: {:.2} times", got / direct);
            assert!(got > 0.0 && got <= 2.5 * direct, "{what} of {s:?}: {got} against {direct}");
        }
    }
}

#[test]
fn threads_change_no_bit() {
    if !present() {
        return;
    }
    for (n, s) in cases() {
        let all = inputs(n, &s);
        let one = run(n, &pairs(n, s, 1), &all, 1);
        for threads in [2, 3] {
            let more = run(n, &pairs(n, s, threads), &all, threads);
            let same = one.y == more.y && one.dx == more.dx && one.dw == more.dw;
            assert!(same, "{s:?} with {threads} threads");
        }
    }
}
