//! Convolutions by products of bf16, on matrix tiles and on vectors, against the plain reference, over odd shapes
//! and threads, and how near they come to the true sums beside the other kernels.
// Miri has none of these instructions, and there is no portable form.
#![cfg(not(miri))]

mod common;

use common::{deviation, numbers, to_bf16};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Precision};
use convoke_kernels::norm::{self, Pending, Source};
use convoke_kernels::reference::conv as reference;
use convoke_kernels::{Ctx, Isa, Pool};

/// Instruction sets of this machine and the precisions that they have products for, or a word that there are none.
fn ways() -> Vec<(Isa, Precision)> {
    let precisions = |isa| [Precision::F32, Precision::Bf16].map(|precision| (isa, precision));
    let ways: Vec<_> = Isa::available().into_iter().flat_map(precisions).collect();
    let ways: Vec<_> = ways.into_iter().filter(|&(isa, p)| Conv::has_products(isa, p)).collect();
    if ways.is_empty() {
        println!("skipped: this machine multiplies no bf16");
    }
    ways
}

#[derive(Clone, Copy)]
struct Case {
    n: usize,
    s: ConvShape,
}

#[allow(clippy::too_many_arguments)]
fn case(
    n: usize,
    (h, w, c): (usize, usize, usize),
    (kh, kw, d): (usize, usize, usize),
    (sh, sw): (usize, usize),
    (top, left, bottom, right): (usize, usize, usize, usize),
    (dh, dw): (usize, usize),
    groups: usize,
) -> Case {
    let oh = (h + top + bottom - (kh - 1) * dh - 1) / sh + 1;
    let ow = (w + left + right - (kw - 1) * dw - 1) / sw + 1;
    Case { n, s: ConvShape { h, w, c, kh, kw, d, sh, sw, top, left, dh, dw, groups, oh, ow } }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        case(1, (1, 1, 1), (1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(3, (1, 1, 5), (3, 3, 17), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(2, (7, 7, 16), (3, 3, 32), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(5, (7, 7, 33), (3, 3, 40), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(2, (28, 28, 1), (5, 5, 6), (1, 1), (2, 2, 2, 2), (1, 1), 1),
        case(3, (14, 14, 6), (5, 5, 16), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(2, (23, 23, 3), (7, 7, 64), (2, 2), (3, 3, 3, 3), (1, 1), 1),
        case(2, (24, 22, 3), (7, 7, 20), (2, 2), (2, 2, 3, 3), (1, 1), 1),
        case(2, (11, 13, 34), (3, 3, 35), (2, 2), (0, 0, 1, 1), (1, 1), 1),
        case(2, (12, 12, 40), (1, 1, 70), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        case(3, (9, 8, 40), (1, 1, 70), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(2, (1, 50, 2), (1, 5, 3), (1, 2), (0, 2, 0, 2), (1, 1), 1),
        case(2, (10, 9, 4), (3, 2, 5), (1, 3), (1, 0, 1, 0), (2, 2), 1),
        case(2, (12, 11, 12), (3, 3, 8), (1, 1), (1, 1, 1, 1), (1, 1), 4),
        case(2, (12, 11, 12), (3, 3, 24), (2, 2), (1, 1, 1, 1), (1, 1), 2),
        case(2, (9, 9, 5), (2, 2, 7), (3, 3), (0, 0, 0, 0), (1, 1), 1),
        case(2, (8, 8, 36), (5, 5, 16), (4, 4), (2, 2, 2, 2), (1, 1), 1),
        case(2, (6, 6, 3), (3, 3, 4), (1, 1), (4, 4, 4, 4), (1, 1), 1),
        case(7, (4, 4, 64), (3, 3, 65), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(2, (32, 32, 16), (3, 3, 16), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(33, (1, 1, 100), (1, 1, 10), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(1, (1, 1, 300), (1, 1, 84), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(1, (64, 60, 3), (3, 3, 8), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(20, (3, 5, 48), (3, 3, 17), (1, 1), (3, 3, 3, 3), (3, 3), 1),
    ]
    .to_vec();
    cases.extend([
        case(3, (14, 14, 64), (3, 3, 64), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(2, (56, 56, 64), (1, 1, 256), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(2, (28, 28, 256), (1, 1, 64), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(3, (28, 28, 96), (3, 3, 80), (2, 2), (1, 1, 1, 1), (1, 1), 1),
        case(2, (112, 70, 32), (3, 3, 16), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(9, (7, 7, 512), (3, 3, 48), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(2, (64, 64, 3), (7, 7, 64), (2, 2), (3, 3, 3, 3), (1, 1), 1),
        case(2, (31, 30, 24), (5, 5, 48), (1, 1), (2, 2, 2, 2), (1, 1), 1),
        case(40, (1, 1, 1024), (1, 1, 100), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ]);
    cases.retain(|c| c.s.groups == 1);
    cases
}

struct Outcome {
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
}

/// Runs all three walks of a plan.
fn run(case: Case, conv: &Conv, isa: Isa, threads: usize, round: bool) -> Outcome {
    let Case { n, s } = case;
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa };
    let [x, w, dy] = inputs(case, round);
    let nan = |len| vec![f32::NAN; len];
    let mut pack = nan(conv.forward_pack_len());
    let pack = conv.pack_forward(cx, &w, &mut pack);
    let mut y = nan(n * s.y_len());
    let mut scratch = nan(conv.forward_scratch_len());
    conv.forward(cx, n, (&x).into(), pack, &mut y, Epilogue::default(), &mut scratch);
    let mut back = nan(conv.backward_pack_len());
    conv.pack_backward(cx, &w, &mut back);
    let mut dx = nan(n * s.x_len());
    let mut scratch = nan(conv.backward_scratch_len());
    conv.backward_data(cx, n, &dy, &back, &mut dx, false, &mut scratch);
    let mut dw = nan(s.filter_len());
    let mut scratch = nan(conv.weights_scratch_len());
    conv.backward_weights(cx, n, (&x).into(), &dy, &mut dw, &mut scratch);
    Outcome { y, dx, dw }
}

/// x, filters and dy; rounded to bf16 if asked.
fn inputs(case: Case, round: bool) -> [Vec<f32>; 3] {
    let Case { n, s } = case;
    let lens = [n * s.x_len(), s.filter_len(), n * s.y_len()];
    let mut all = [1, 2, 3].map(|seed| numbers(lens[seed - 1], seed as u64));
    if round {
        all.iter_mut().flatten().for_each(to_bf16);
    }
    all
}

fn truth(case: Case, round: bool) -> [Vec<f64>; 3] {
    let Case { n, s } = case;
    let [x, w, dy] = inputs(case, round);
    [
        reference::forward(&s, n, &x, &w),
        reference::backward_data(&s, n, &dy, &w),
        reference::backward_weights(&s, n, &x, &dy),
    ]
}

/// In f32, sums on tiles are as near to the true ones as those of fused multiply-adds, within a factor of
/// two and one rounding; in bf16 sums are those of operands rounded beforehand.
#[test]
fn sums_are_as_exact_as_those_of_the_other_kernels() {
    for case in cases() {
        let Case { n, s } = case;
        let conv = Conv::new(s, Isa::Avx512, n, 1);
        let sums = [s.kh * s.kw * s.c, s.kh * s.kw * s.d, n * s.oh * s.ow];
        for (isa, precision) in ways() {
            let round = precision == Precision::Bf16;
            let want = truth(case, round);
            let plain = run(case, &conv, Isa::Avx512, 1, round);
            let narrow = Conv::new(s, isa, n, 1).all_in(precision);
            let got = run(case, &narrow, isa, 1, round);
            let all = [(&got.y, &plain.y), (&got.dx, &plain.dx), (&got.dw, &plain.dw)];
            for (i, (got, plain)) in all.into_iter().enumerate() {
                let (error, beside) = (deviation(got, &want[i]), deviation(plain, &want[i]));
                let rounding = (sums[i] as f64).sqrt() / 3.0 * f64::from(f32::EPSILON);
                println!("{s:?} {precision:?} {i}: {error:.2e} beside {beside:.2e}");
                assert!(
                    error <= 2.0 * beside + rounding,
                    "{s:?} n {n} {precision:?}, {}: {error:e} beside {beside:e}",
                    ["y", "dx", "dw"][i]
                );
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for case in cases() {
        for (isa, precision) in ways() {
            let one = Conv::new(case.s, isa, case.n, 1).all_in(precision);
            let one = run(case, &one, isa, 1, false);
            for threads in [2, 3] {
                let more = Conv::new(case.s, isa, case.n, threads).all_in(precision);
                let more = run(case, &more, isa, threads, false);
                let same = one.y == more.y && one.dx == more.dx && one.dw == more.dw;
                assert!(same, "{:?} {precision:?} with {threads} threads", case.s);
            }
        }
    }
}

/// Bias, residual, bounds, adding to what is there, a norm of the source, and fewer pictures than planned.
#[test]
fn epilogue_accumulation_norm_and_small_batches() {
    let pool = Pool::new(2);
    for (case, (isa, precision)) in
        cases().into_iter().flat_map(|c| ways().into_iter().map(move |w| (c, w)))
    {
        let Case { n, s } = case;
        let cx = Ctx { pool: &pool, isa };
        let round = precision == Precision::Bf16;
        let few = n.div_ceil(2);
        let [x, w, dy] = inputs(case, round);
        let (scale, shift, bias) = (numbers(s.c, 7), numbers(s.c, 8), numbers(s.d, 4));
        let (more, first) = (numbers(few * s.y_len(), 5), numbers(few * s.x_len(), 6));
        let mut applied = vec![0.0; few * s.x_len()];
        let len = applied.len();
        norm::apply(cx, &x[..len], &scale, &shift, None, Some((0.0, 0.7)), &mut applied);
        let conv = Conv::new(s, isa, n, 2).normed().all_in(precision);
        let nan = |len| vec![f32::NAN; len];
        let mut pack = nan(conv.forward_pack_len());
        let pack = conv.pack_forward(cx, &w, &mut pack);
        let forward = |source: Source| {
            let (mut y, mut scratch) = (nan(few * s.y_len()), nan(conv.forward_scratch_len()));
            let epilogue = Epilogue {
                bias: Some(&bias),
                residual: Some((&more).into()),
                clamp: Some((0.0, 1.5)),
                tally: None,
            };
            conv.forward(cx, few, source, pack, &mut y, epilogue, &mut scratch);
            y
        };
        let pending = Pending { scale: &scale, shift: &shift, clamp: (0.0, 0.7) };
        let source = Source { x: (&x).into(), norm: Some(pending) };
        let y = forward((&applied).into());
        assert!(y == forward(source), "norm of {s:?}");
        let sum = (s.kh * s.kw * s.c) as f64;
        let mut rounded = applied.clone();
        if round {
            rounded.iter_mut().for_each(to_bf16);
        }
        let want = reference::forward(&s, few, &rounded, &w);
        for (i, y) in y.iter().enumerate() {
            let want = want[i] + f64::from(bias[i % s.d]) + f64::from(more[i]);
            let error = (f64::from(*y) - want.clamp(0.0, 1.5)).abs();
            assert!(error <= 1e-6 * sum.sqrt().max(2.0), "{s:?} y[{i}]: {error:e}");
        }
        let mut back = nan(conv.backward_pack_len());
        conv.pack_backward(cx, &w, &mut back);
        let (mut dx, mut scratch) = (first.clone(), nan(conv.backward_scratch_len()));
        conv.backward_data(cx, few, &dy, &back, &mut dx, true, &mut scratch);
        let want = reference::backward_data(&s, few, &dy, &w);
        for (i, dx) in dx.iter().enumerate() {
            let error = (f64::from(*dx) - want[i] - f64::from(first[i])).abs();
            let sum = (s.kh * s.kw * s.d) as f64;
            assert!(error <= 1e-6 * sum.sqrt().max(2.0), "{s:?} dx[{i}]: {error:e}");
        }
        let weights = |source: Source| {
            let (mut dw, mut scratch) = (nan(s.filter_len()), nan(conv.weights_scratch_len()));
            conv.backward_weights(cx, few, source, &dy, &mut dw, &mut scratch);
            dw
        };
        assert!(weights((&applied).into()) == weights(source), "norm of {s:?}, weights");
    }
}
