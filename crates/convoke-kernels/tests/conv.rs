//! Every convolution walk against the plain reference, over odd shapes, instruction sets and threads.

mod common;

use common::{numbers, to_bf16};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Precision};
use convoke_kernels::norm::{self, Pending, Source};
use convoke_kernels::reference::conv as reference;
use convoke_kernels::{Ctx, Isa, Pool};

/// |a − b| ≤ c·√K·ε·s with s = √K/3 the deviation of a sum of K products of numbers uniform in ±1.
fn close(what: &str, got: &[f32], want: &[f64], k: usize) {
    assert_eq!(got.len(), want.len(), "{what}");
    let root = (k.max(1) as f64).sqrt();
    let bound = 2.0 * root * f64::from(f32::EPSILON) * (root / 3.0).max(1.0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let e = (f64::from(*g) - w).abs();
        assert!(e <= bound, "{what}[{i}]: {g} against {w}, error {e:e} bound {bound:e}");
    }
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

/// Few and small ones for Miri (`CONTRIBUTING.md`), which takes ten thousand times longer: every tail and edge, no size.
fn miri_cases() -> Vec<Case> {
    vec![
        case(1, (1, 1, 1), (1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(1, (3, 4, 2), (3, 3, 9), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(1, (1, 5, 2), (1, 3, 17), (1, 1), (0, 1, 0, 1), (1, 1), 1),
        case(1, (1, 3, 17), (3, 3, 2), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(2, (5, 4, 3), (3, 3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 1),
        case(1, (3, 3, 1), (5, 5, 2), (1, 1), (2, 2, 2, 2), (1, 1), 1),
        case(2, (2, 3, 3), (1, 1, 19), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(2, (4, 3, 3), (1, 1, 18), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        case(1, (2, 3, 32), (1, 1, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(3, (2, 3, 25), (1, 1, 97), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(2, (4, 3, 26), (1, 1, 98), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        case(1, (6, 5, 2), (3, 2, 5), (1, 3), (1, 0, 1, 0), (2, 2), 1),
        case(1, (3, 3, 4), (3, 3, 4), (1, 1), (1, 1, 1, 1), (1, 1), 2),
        case(2, (5, 5, 3), (2, 2, 3), (3, 3), (0, 0, 0, 0), (1, 1), 1),
        case(1, (2, 2, 1), (3, 3, 2), (1, 1), (3, 3, 3, 3), (1, 1), 1),
        case(1, (9, 3, 2), (3, 3, 2), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        case(9, (1, 1, 7), (1, 1, 10), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ]
}

fn cases() -> Vec<Case> {
    if cfg!(miri) {
        return miri_cases();
    }
    vec![
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
        case(3, (4, 5, 1024), (1, 1, 20), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(2, (5, 7, 20), (1, 1, 2048), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(3, (19, 18, 24), (1, 1, 40), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(5, (7, 7, 161), (1, 1, 195), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(2, (19, 20, 129), (1, 1, 101), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(3, (9, 12, 270), (1, 1, 33), (2, 3), (0, 0, 0, 0), (1, 1), 1),
        case(4, (2, 1, 515), (1, 1, 258), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        case(1, (1, 2, 300), (1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
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
}

/// Runs all three walks and returns y, dx, dw.
fn run(case: Case, isa: Isa, threads: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let Case { n, s } = case;
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa };
    let conv = Conv::new(s, isa, n, threads);
    let x = numbers(n * s.x_len(), 1);
    let w = numbers(s.filter_len(), 2);
    let dy = numbers(n * s.y_len(), 3);
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
    (y, dx, dw)
}

#[test]
fn every_walk_equals_the_reference_on_every_instruction_set() {
    for (i, case) in cases().into_iter().enumerate() {
        let Case { n, s } = case;
        let x = numbers(n * s.x_len(), 1);
        let w = numbers(s.filter_len(), 2);
        let dy = numbers(n * s.y_len(), 3);
        let y = reference::forward(&s, n, &x, &w);
        let dx = reference::backward_data(&s, n, &dy, &w);
        let dw = reference::backward_weights(&s, n, &x, &dy);
        let area = s.kh * s.kw;
        for isa in Isa::available() {
            let got = run(case, isa, 1);
            let name = |what| format!("case {i} {isa:?} {what}");
            close(&name("y"), &got.0, &y, area * s.c / s.groups);
            close(&name("dx"), &got.1, &dx, area * s.d / s.groups);
            close(&name("dw"), &got.2, &dw, n * s.oh * s.ow);
        }
    }
}

#[test]
fn gradients_of_fewer_pictures_than_planned() {
    for case in cases().into_iter().filter(|case| case.n > 1) {
        let Case { n, s } = case;
        for few in [1, n - 1] {
            let (x, dy) = (numbers(few * s.x_len(), 1), numbers(few * s.y_len(), 3));
            let want = reference::backward_weights(&s, few, &x, &dy);
            for isa in Isa::available() {
                let pool = Pool::new(2);
                let conv = Conv::new(s, isa, n, 2);
                let mut dw = vec![f32::NAN; s.filter_len()];
                let mut scratch = vec![f32::NAN; conv.weights_scratch_len()];
                let cx = Ctx { pool: &pool, isa };
                conv.backward_weights(cx, few, (&x).into(), &dy, &mut dw, &mut scratch);
                let what = format!("{isa:?} {few} of {n} {s:?}");
                close(&what, &dw, &want, few * s.oh * s.ow);
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for case in cases() {
        let one = run(case, Isa::detect(), 1);
        for threads in if cfg!(miri) { 3..4 } else { 2..4 } {
            let more = run(case, Isa::detect(), threads);
            assert!(one == more, "{:?} with {threads} threads", case.s);
        }
    }
}

#[test]
fn the_epilogue_adds_bias_and_residual_and_clamps() {
    let (x, filters) = if cfg!(miri) { ((3, 4, 2), 17) } else { ((5, 6, 3), 21) };
    let case = case(2, x, (3, 3, filters), (1, 1), (1, 1, 1, 1), (1, 1), 1);
    let Case { n, s } = case;
    let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
    let (bias, residual) = (numbers(s.d, 4), numbers(n * s.y_len(), 5));
    let plain = reference::forward(&s, n, &x, &w);
    let want: Vec<f64> = plain
        .iter()
        .enumerate()
        .map(|(i, y)| (y + f64::from(bias[i % s.d]) + f64::from(residual[i])).clamp(0.0, 1.5))
        .collect();
    for isa in Isa::available() {
        let pool = Pool::new(2);
        let cx = Ctx { pool: &pool, isa };
        let conv = Conv::new(s, isa, n, 2);
        let mut pack = vec![0.0; conv.forward_pack_len()];
        let pack = conv.pack_forward(cx, &w, &mut pack);
        let mut y = vec![f32::NAN; n * s.y_len()];
        let mut scratch = vec![0.0; conv.forward_scratch_len()];
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some((&residual).into()),
            clamp: Some((0.0, 1.5)),
            tally: None,
        };
        conv.forward(cx, n, (&x).into(), pack, &mut y, epilogue, &mut scratch);
        close(&format!("{isa:?}"), &y, &want, 27);
    }
}

#[test]
fn backward_data_accumulates_when_asked() {
    let case = case(2, (7, 6, 5), (3, 3, 9), (2, 2), (1, 1, 1, 1), (1, 1), 1);
    let Case { n, s } = case;
    let (w, dy) = (numbers(s.filter_len(), 2), numbers(n * s.y_len(), 3));
    let first = numbers(n * s.x_len(), 6);
    let plain = reference::backward_data(&s, n, &dy, &w);
    let want: Vec<f64> = plain.iter().zip(&first).map(|(a, b)| a + f64::from(*b)).collect();
    for isa in Isa::available() {
        let pool = Pool::new(1);
        let cx = Ctx { pool: &pool, isa };
        let conv = Conv::new(s, isa, n, 1);
        let mut pack = vec![0.0; conv.backward_pack_len()];
        let pack = conv.pack_backward(cx, &w, &mut pack);
        let mut dx = first.clone();
        let mut scratch = vec![0.0; conv.backward_scratch_len()];
        conv.backward_data(cx, n, &dy, pack, &mut dx, true, &mut scratch);
        close(&format!("{isa:?}"), &dx, &want, 81);
    }
}

/// Samples, inputs and units of dense layers that count as large, and inputs and units that do not.
const LARGE: &[(usize, usize, usize)] = match cfg!(miri) {
    true => &[(1, 7, 19), (3, 21, 9), (5, 13, 20), (2, 33, 4)],
    false => &[
        (1, 700, 400),
        (3, 257, 1025),
        (5, 1031, 517),
        (32, 600, 1100),
        (33, 300, 1000),
        (96, 520, 513),
    ],
};
const SMALL: usize = if cfg!(miri) { 7 } else { 100 };

/// All three passes of a large dense layer, which reads the filters as they are: y with bias and bounds, dx added to
/// what was there, dw.
fn unpacked(
    (n, s): (usize, &ConvShape),
    (isa, precision): (Isa, Precision),
    threads: usize,
    [x, w, dy, bias, first]: [&[f32]; 5],
) -> [Vec<f32>; 3] {
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa };
    // Planned for more samples than there are.
    let conv = Conv::new(*s, isa, n + n % 2, threads).precision(precision).unpacked();
    assert_eq!(conv.is_unpacked(), [true; 2]);
    let nan = |len| vec![f32::NAN; len];
    let (mut y, mut dx, mut dw) = (nan(n * s.d), first.to_vec(), nan(s.filter_len()));
    let epilogue =
        Epilogue { bias: Some(bias), residual: None, clamp: Some((-3.0, 4.0)), tally: None };
    conv.forward(cx, n, x.into(), w, &mut y, epilogue, &mut nan(conv.forward_scratch_len()));
    conv.backward_data(cx, n, dy, w, &mut dx, true, &mut nan(conv.backward_scratch_len()));
    let mut scratch = nan(conv.weights_scratch_len());
    conv.backward_weights(cx, n, x.into(), dy, &mut dw, &mut scratch);
    [y, dx, dw]
}

/// In f32 and, where there are such, in products of bf16, whose sums are those of operands rounded beforehand.
#[test]
fn unpacked_dense_layers_equal_the_reference() {
    for &(n, c, d) in LARGE {
        let s = ConvShape::dense(c, d);
        let (bias, first) = (numbers(d, 4), numbers(n * c, 5));
        for precision in [Precision::F32, Precision::Bf16] {
            let raw = [numbers(n * c, 1), numbers(c * d, 2), numbers(n * d, 3)];
            let mut rounded = raw.clone();
            if precision == Precision::Bf16 {
                rounded.iter_mut().flatten().for_each(to_bf16);
            }
            let [x, w, dy] = &rounded;
            let y = reference::forward(&s, n, x, w).into_iter().enumerate();
            let y: Vec<f64> =
                y.map(|(i, y)| (y + f64::from(bias[i % d])).clamp(-3.0, 4.0)).collect();
            let dx = reference::backward_data(&s, n, dy, w);
            let dx: Vec<f64> = dx.iter().zip(&first).map(|(a, b)| a + f64::from(*b)).collect();
            let dw = reference::backward_weights(&s, n, x, dy);
            for isa in Isa::available() {
                if precision == Precision::Bf16 && !Conv::has_products(isa, precision) {
                    continue;
                }
                let run = |threads, [x, w, dy]: &[Vec<f32>; 3]| {
                    let all = [&x[..], &w[..], &dy[..], &bias[..], &first[..]];
                    unpacked((n, &s), (isa, precision), threads, all)
                };
                let got = run(1, &rounded);
                for (i, (want, k)) in [(&y, c), (&dx, d), (&dw, n)].into_iter().enumerate() {
                    close(
                        &format!("{isa:?} {precision:?} {}", ["y", "dx", "dw"][i]),
                        &got[i],
                        want,
                        k,
                    );
                }
                assert!([2, 3].iter().all(|&t| run(t, &rounded) == got), "threads differ");
                // Tiles (AMX) keep forward and backward-data in f32.
                if isa != Isa::Amx {
                    assert!(run(2, &raw) == got, "{isa:?} {precision:?} rounds otherwise");
                }
            }
        }
    }
    let small = Conv::new(ConvShape::dense(SMALL, SMALL), Isa::Portable, 8, 1).unpacked();
    assert_eq!(small.is_unpacked(), [false; 2]);
}

/// A norm applied while a map is read gives the bits of the norm applied before.
#[test]
fn a_pending_norm_is_the_norm_applied_before() {
    for case in cases() {
        let Case { n, s } = case;
        let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
        let (scale, shift, dy) = (numbers(s.c, 7), numbers(s.c, 8), numbers(n * s.y_len(), 3));
        for isa in Isa::available() {
            for threads in if cfg!(miri) { vec![3] } else { vec![1, 3] } {
                let pool = Pool::new(threads);
                let cx = Ctx { pool: &pool, isa };
                let mut applied = vec![f32::NAN; x.len()];
                norm::apply(cx, &x, &scale, &shift, None, Some((0.0, 0.7)), &mut applied);
                let pending = Pending { scale: &scale, shift: &shift, clamp: (0.0, 0.7) };
                let run = |conv: Conv, source: Source| {
                    let nan = |len| vec![f32::NAN; len];
                    let (mut y, mut dw) = (nan(n * s.y_len()), nan(s.filter_len()));
                    let mut pack = nan(conv.forward_pack_len());
                    let pack = conv.pack_forward(cx, &w, &mut pack);
                    let mut scratch = nan(conv.forward_scratch_len());
                    conv.forward(cx, n, source, pack, &mut y, Epilogue::default(), &mut scratch);
                    let mut scratch = nan(conv.weights_scratch_len());
                    conv.backward_weights(cx, n, source, &dy, &mut dw, &mut scratch);
                    (y, dw)
                };
                let conv = Conv::new(s, isa, n, threads);
                let want = run(conv.clone(), (&applied).into());
                let got = run(conv.normed(), Source { x: (&x).into(), norm: Some(pending) });
                assert!(got == want, "{isa:?} {threads} threads {s:?}");
            }
        }
    }
}
