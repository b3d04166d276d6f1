//! Winograd's minimal filtering against the plain reference, over odd shapes, instruction sets and threads.

mod common;

use common::{deviation, numbers};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Winograd};
use convoke_kernels::norm::{self, Pending, Source};
use convoke_kernels::reference::conv as reference;
use convoke_kernels::{Ctx, Isa, Pool};

/// Maps of `h`×`w`×`c` to `d` filters, padded above, left, below and right.
fn shape((h, w, c): (usize, usize, usize), d: usize, pad: [usize; 4]) -> ConvShape {
    let [top, left, bottom, right] = pad;
    let (oh, ow) = (h + top + bottom - 2, w + left + right - 2);
    let (kh, kw, sh, sw, dh, dw, groups) = (3, 3, 1, 1, 1, 1, 1);
    ConvShape { h, w, c, kh, kw, d, sh, sw, top, left, dh, dw, groups, oh, ow }
}

/// Few and small ones for Miri (`CONTRIBUTING.md`), which takes ten thousand times longer: every tail and edge, no size.
fn miri_cases() -> Vec<(usize, ConvShape)> {
    vec![
        (1, shape((2, 2, 1), 1, [1; 4])),
        (2, shape((4, 4, 3), 5, [0; 4])),
        (1, shape((2, 3, 2), 17, [1; 4])),
        (1, shape((2, 3, 5), 5, [1; 4])),
        (1, shape((2, 2, 17), 2, [1, 1, 0, 2])),
        (1, shape((5, 3, 2), 3, [2; 4])),
        (5, shape((2, 2, 2), 3, [1; 4])),
    ]
}

fn cases() -> Vec<(usize, ConvShape)> {
    if cfg!(miri) {
        return miri_cases();
    }
    vec![
        (1, shape((2, 2, 1), 1, [1; 4])),
        (3, shape((4, 4, 3), 5, [0; 4])),
        (2, shape((7, 7, 16), 32, [1; 4])),
        (5, shape((7, 6, 33), 40, [1; 4])),
        (1, shape((9, 13, 20), 17, [2; 4])),
        (2, shape((8, 11, 64), 64, [1, 1, 0, 2])),
        (2, shape((12, 12, 70), 16, [0, 2, 2, 0])),
        (9, shape((5, 3, 130), 48, [1; 4])),
        (2, shape((32, 32, 16), 16, [1; 4])),
        (1, shape((30, 70, 8), 9, [1; 4])),
        (40, shape((14, 14, 100), 96, [1; 4])),
        // Filters that are not packed.
        (2, shape((7, 6, 230), 217, [1; 4])),
        (3, shape((5, 4, 157), 331, [1, 0, 2, 1])),
    ]
}

struct Passes {
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
}

/// Outputs of a tile's side.
const SIDES: [usize; 2] = [2, 4];

fn run(n: usize, s: ConvShape, isa: Isa, side: usize, threads: usize) -> Passes {
    let conv = Conv::new(s, isa, n, threads).winograd(Winograd::Always(side));
    passes(n, &conv, isa, threads)
}

fn passes(n: usize, conv: &Conv, isa: Isa, threads: usize) -> Passes {
    let (pool, s) = (Pool::new(threads), *conv.shape());
    let cx = Ctx { pool: &pool, isa };
    let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
    let dy = numbers(n * s.y_len(), 3);
    let nan = |len| vec![f32::NAN; len];
    let (mut y, mut dx, mut dw) = (nan(n * s.y_len()), nan(n * s.x_len()), nan(s.filter_len()));
    let mut pack = nan(conv.forward_pack_len());
    let pack = conv.pack_forward(cx, &w, &mut pack);
    let mut scratch = nan(conv.forward_scratch_len());
    conv.forward(cx, n, (&x).into(), pack, &mut y, Epilogue::default(), &mut scratch);
    let mut pack = nan(conv.backward_pack_len());
    let pack = conv.pack_backward(cx, &w, &mut pack);
    let mut scratch = nan(conv.backward_scratch_len());
    conv.backward_data(cx, n, &dy, pack, &mut dx, false, &mut scratch);
    let mut scratch = nan(conv.weights_scratch_len());
    conv.backward_weights(cx, n, (&x).into(), &dy, &mut dw, &mut scratch);
    Passes { y, dx, dw }
}

/// The direct sum's bound (`tests/conv.rs`: 2·√K·ε·s) times four: transformed numbers are sums of up to four.
fn close(what: &str, got: &[f32], want: &[f64], k: usize) {
    assert_eq!(got.len(), want.len(), "{what}");
    let root = (k as f64).sqrt();
    let bound = 8.0 * root * f64::from(f32::EPSILON) * (root / 3.0).max(1.0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let e = (f64::from(*g) - w).abs();
        assert!(e <= bound, "{what}[{i}]: {g} against {w}, error {e:e} bound {bound:e}");
    }
}

#[test]
fn every_pass_equals_the_reference_on_every_instruction_set() {
    for (i, (n, s)) in cases().into_iter().enumerate() {
        let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
        let dy = numbers(n * s.y_len(), 3);
        let y = reference::forward(&s, n, &x, &w);
        let dx = reference::backward_data(&s, n, &dy, &w);
        let dw = reference::backward_weights(&s, n, &x, &dy);
        for (isa, side) in Isa::available().into_iter().flat_map(|isa| SIDES.map(|s| (isa, s))) {
            let got = run(n, s, isa, side, 1);
            close(&format!("case {i} {isa:?} {side} y"), &got.y, &y, 9 * s.c);
            close(&format!("case {i} {isa:?} {side} dx"), &got.dx, &dx, 9 * s.d);
            close(&format!("case {i} {isa:?} {side} dw"), &got.dw, &dw, n * s.oh * s.ow);
        }
    }
}

/// Transforms round too: by four times the direct sum's roundings at most where there are enough numbers to tell.
#[test]
fn errors_are_a_small_multiple_of_the_direct_sums() {
    for (n, s) in cases().into_iter().filter(|(n, s)| n * s.y_len() > 10_000) {
        let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
        let dy = numbers(n * s.y_len(), 3);
        let y = reference::forward(&s, n, &x, &w);
        let dx = reference::backward_data(&s, n, &dy, &w);
        let dw = reference::backward_weights(&s, n, &x, &dy);
        let direct = passes(n, &Conv::new(s, Isa::detect(), n, 1), Isa::detect(), 1);
        for side in SIDES {
            let got = run(n, s, Isa::detect(), side, 1);
            for (what, got, direct, want) in [
                ("y", &got.y, &direct.y, &y),
                ("dx", &got.dx, &direct.dx, &dx),
                ("dw", &got.dw, &direct.dw, &dw),
            ] {
                let times = deviation(got, want) / deviation(direct, want);
                println!("{what} of {s:?} in tiles of {side}: {times:.2} times");
                assert!(times > 0.0 && times <= 4.0, "{what} of {s:?}: {times:.2} times");
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for (n, s) in cases() {
        for (isa, side) in Isa::available().into_iter().flat_map(|isa| SIDES.map(|s| (isa, s))) {
            let one = run(n, s, isa, side, 1);
            for threads in if cfg!(miri) { 3..4 } else { 2..4 } {
                let more = run(n, s, isa, side, threads);
                assert!(
                    one.y == more.y && one.dx == more.dx && one.dw == more.dw,
                    "{isa:?} {s:?} with {threads} threads"
                );
            }
        }
    }
}

/// A map, and filters with a tail.
const MAP: (usize, usize, usize) = if cfg!(miri) { (3, 3, 2) } else { (9, 7, 20) };
const FILTERS: usize = if cfg!(miri) { 9 } else { 21 };

/// Half the batch gives the bits of the whole one's first half.
#[test]
fn smaller_batches_change_no_bit() {
    let s = shape(MAP, if cfg!(miri) { 8 } else { 24 }, [1; 4]);
    for side in SIDES {
        let [whole, half] = [6, 3].map(|n| run(n, s, Isa::detect(), side, 2));
        assert!(whole.y.starts_with(&half.y), "tiles of {side}");
        assert!(whole.dx.starts_with(&half.dx[..half.dx.len() / 2]), "tiles of {side}");
    }
}

/// No picture has no gradient.
#[test]
fn an_empty_batch_leaves_zeros() {
    let s = shape(MAP, FILTERS, [1; 4]);
    let pool = Pool::new(1);
    let cx = Ctx { pool: &pool, isa: Isa::detect() };
    let conv = Conv::new(s, cx.isa, 2, 1).winograd(Winograd::Always(4));
    let mut dw = vec![f32::NAN; s.filter_len()];
    let mut scratch = vec![f32::NAN; conv.weights_scratch_len()];
    conv.backward_weights(
        cx,
        0,
        (&[0.0f32; 0][..]).into(),
        &[0.0f32; 0][..],
        &mut dw,
        &mut scratch,
    );
    assert!(dw.iter().all(|v| *v == 0.0));
}

#[test]
fn norm_bias_residual_bounds_and_accumulation() {
    let (n, s) = (3, shape(MAP, FILTERS, [1; 4]));
    let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
    let (scale, shift) = (numbers(s.c, 7), numbers(s.c, 8));
    let (bias, residual) = (numbers(s.d, 4), numbers(n * s.y_len(), 5));
    let (dy, first) = (numbers(n * s.y_len(), 3), numbers(n * s.x_len(), 6));
    for (isa, side) in Isa::available().into_iter().flat_map(|isa| SIDES.map(|s| (isa, s))) {
        let pool = Pool::new(2);
        let cx = Ctx { pool: &pool, isa };
        let mut applied = vec![0.0; x.len()];
        norm::apply(cx, &x, &scale, &shift, None, Some((0.0, 0.7)), &mut applied);
        let plain = reference::forward(&s, n, &applied, &w);
        let sum = |(i, y): (usize, &f64)| y + f64::from(bias[i % s.d]) + f64::from(residual[i]);
        let want: Vec<f64> = plain.iter().enumerate().map(sum).map(|v| v.clamp(0.0, 1.5)).collect();
        let conv = Conv::new(s, isa, n, 2).normed().winograd(Winograd::Always(side));
        let mut pack = vec![f32::NAN; conv.forward_pack_len()];
        let pack = conv.pack_forward(cx, &w, &mut pack);
        let mut y = vec![f32::NAN; n * s.y_len()];
        let mut scratch = vec![f32::NAN; conv.forward_scratch_len()];
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some((&residual).into()),
            clamp: Some((0.0, 1.5)),
            tally: None,
        };
        let norm = Some(Pending { scale: &scale, shift: &shift, clamp: (0.0, 0.7) });
        conv.forward(cx, n, Source { x: (&x).into(), norm }, pack, &mut y, epilogue, &mut scratch);
        close(&format!("{isa:?} {side} y"), &y, &want, 180);

        let plain = reference::backward_data(&s, n, &dy, &w);
        let want: Vec<f64> = plain.iter().zip(&first).map(|(a, b)| a + f64::from(*b)).collect();
        let mut pack = vec![f32::NAN; conv.backward_pack_len()];
        let pack = conv.pack_backward(cx, &w, &mut pack);
        let mut dx = first.clone();
        let mut scratch = vec![f32::NAN; conv.backward_scratch_len()];
        conv.backward_data(cx, n, &dy, pack, &mut dx, true, &mut scratch);
        close(&format!("{isa:?} {side} dx"), &dx, &want, 189);
    }
}

/// Filters that are transformed as they are needed give the bits of those that were packed.
#[test]
fn unpacked_filters_change_no_bit() {
    let n = if cfg!(miri) { 4 } else { 8 };
    let s =
        if cfg!(miri) { shape((4, 4, 12), 11, [1; 4]) } else { shape((14, 14, 190), 210, [1; 4]) };
    for isa in Isa::available() {
        let of = |when| Conv::new(s, isa, n, 2).winograd(when);
        let (train, predict) = (of(Winograd::Training), of(Winograd::Prediction));
        assert_eq!((train.is_unpacked(), predict.is_unpacked()), ([true; 2], [false; 2]));
        let forward = |conv: &Conv| {
            let (pool, nan) = (Pool::new(2), |len| vec![f32::NAN; len]);
            let cx = Ctx { pool: &pool, isa };
            let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
            let (mut y, mut pack) = (nan(n * s.y_len()), nan(conv.forward_pack_len()));
            let pack = conv.pack_forward(cx, &w, &mut pack);
            let mut scratch = nan(conv.forward_scratch_len());
            conv.forward(cx, n, (&x).into(), pack, &mut y, Epilogue::default(), &mut scratch);
            y
        };
        assert!(forward(&train) == forward(&predict), "{isa:?}");
    }
}

#[test]
fn other_windows_stay_as_they_are() {
    let s = shape((8, 8, 64), 64, [1; 4]);
    for other in [
        ConvShape { sh: 2, oh: 4, ..s },
        ConvShape { groups: 2, ..s },
        ConvShape { kh: 1, top: 0, ..s },
        ConvShape { dh: 2, top: 2, ..s },
    ] {
        let conv = Conv::new(other, Isa::Portable, 4, 1).winograd(Winograd::Always(2));
        assert!(!conv.is_winograd(), "{other:?}");
    }
    assert!(Conv::new(s, Isa::Portable, 4, 1).winograd(Winograd::Always(2)).is_winograd());
}
