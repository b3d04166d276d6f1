//! Convolution with pictures in the lanes against the plain reference.

mod common;

use common::numbers;
use convoke_kernels::conv::ConvShape;
use convoke_kernels::reference::conv as reference;
use convoke_kernels::{Isa, lanes};

fn close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 3e-6 * most, "{what}[{i}]: {g} against {w}");
    }
}

/// Height, width, channels; window and filters; strides; top and left, bottom and right; dilation.
type Case = ([usize; 3], [usize; 3], [usize; 2], [usize; 4], [usize; 2]);

/// Few and small ones for Miri (`CONTRIBUTING.md`), which takes ten thousand times longer: every tail and edge, no size.
const MIRI_CASES: &[Case] = &[
    ([1, 1, 7], [1, 1, 10], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1, 3], [1, 1, 1], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1, 5], [1, 1, 33], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1, 3], [3, 3, 5], [1, 1], [1, 1, 1, 1], [1, 1]),
    ([3, 3, 1], [3, 3, 5], [1, 1], [1, 1, 1, 1], [1, 1]),
    ([5, 4, 1], [3, 3, 3], [2, 2], [1, 1, 1, 1], [1, 1]),
    ([3, 4, 1], [3, 2, 5], [2, 3], [0, 0, 1, 1], [1, 1]),
    ([4, 4, 2], [1, 1, 5], [2, 2], [0, 0, 0, 0], [1, 1]),
    ([4, 3, 1], [3, 2, 2], [1, 1], [1, 0, 1, 0], [2, 2]),
    ([1, 9, 2], [1, 5, 3], [1, 2], [0, 2, 0, 2], [1, 1]),
    ([1, 1, 1], [3, 3, 2], [1, 1], [3, 3, 3, 3], [1, 1]),
    ([4, 4, 2], [2, 2, 3], [3, 3], [0, 0, 0, 0], [1, 1]),
];

const CASES: &[Case] = &[
    ([28, 28, 1], [5, 5, 6], [1, 1], [2, 2, 2, 2], [1, 1]),
    ([14, 14, 6], [5, 5, 16], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1, 400], [1, 1, 120], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1, 7], [1, 1, 10], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1, 3], [1, 1, 1], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1, 3], [3, 3, 5], [1, 1], [1, 1, 1, 1], [1, 1]),
    ([9, 8, 3], [3, 3, 7], [2, 2], [1, 1, 1, 1], [1, 1]),
    ([11, 13, 5], [3, 2, 9], [2, 3], [0, 0, 1, 1], [1, 1]),
    ([8, 8, 4], [1, 1, 13], [2, 2], [0, 0, 0, 0], [1, 1]),
    ([10, 9, 2], [3, 2, 5], [1, 1], [1, 0, 1, 0], [2, 2]),
    ([1, 50, 2], [1, 5, 3], [1, 2], [0, 2, 0, 2], [1, 1]),
    ([6, 6, 3], [3, 3, 4], [1, 1], [4, 4, 4, 4], [1, 1]),
    ([9, 9, 5], [2, 2, 7], [3, 3], [0, 0, 0, 0], [1, 1]),
    ([7, 5, 33], [3, 3, 17], [1, 1], [1, 1, 1, 1], [1, 1]),
];

fn shape((x, f, step, pad, dilation): Case) -> ConvShape {
    let out = |size: usize, before: usize, after: usize, k: usize, d: usize, step: usize| {
        (size + before + after - (k - 1) * d - 1) / step + 1
    };
    let ([h, w, c], [kh, kw, d], [sh, sw]) = (x, f, step);
    let ([top, left, bottom, right], [dh, dw]) = (pad, dilation);
    let (oh, ow) = (out(h, top, bottom, kh, dh, sh), out(w, left, right, kw, dw, sw));
    ConvShape { h, w, c, kh, kw, d, sh, sw, top, left, dh, dw, groups: 1, oh, ow }
}

fn gathered(rows: &[f32], len: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; len * lanes::LANES];
    lanes::gather(rows, len, 1.0, &mut out);
    out
}

fn scattered(of: &[f32], len: usize, n: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n * len];
    lanes::scatter(of, len, &mut out);
    out
}

#[test]
fn walks_equal_the_reference() {
    let cases = if cfg!(miri) { MIRI_CASES } else { CASES };
    for (i, &case) in cases.iter().enumerate() {
        // A full group, and one with pictures missing.
        for n in [lanes::LANES, 3] {
            let s = shape(case);
            assert!(lanes::knows(&s));
            let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
            let (dy, bias) = (numbers(n * s.y_len(), 3), numbers(s.d, 4));
            let mut y = reference::forward(&s, n, &x, &w);
            for (i, y) in y.iter_mut().enumerate() {
                *y = (*y + f64::from(bias[i % s.d])).clamp(-2.0, 3.0);
            }
            let dx = reference::backward_data(&s, n, &dy, &w);
            let dw = reference::backward_weights(&s, n, &x, &dy);
            let db: Vec<f64> = (0..s.d)
                .map(|f| dy[f..].iter().step_by(s.d).map(|&v| f64::from(v)).sum())
                .collect();
            let (xl, dyl) = (gathered(&x, s.x_len()), gathered(&dy, s.y_len()));
            for isa in Isa::available() {
                let name = |what| format!("case {i} n {n} {isa:?} {what}");
                let nan = |len| vec![f32::NAN; len];
                let (mut got, mut scratch) =
                    (nan(s.y_len() * lanes::LANES), nan(lanes::forward_scratch_len(&s)));
                let clamp = Some((-2.0, 3.0));
                lanes::forward(isa, &s, &xl, &w, Some(&bias), clamp, &mut got, &mut scratch);
                close(&name("y"), &scattered(&got, s.y_len(), n), &y);

                let (mut got, mut scratch) =
                    (nan(s.x_len() * lanes::LANES), nan(lanes::backward_scratch_len(&s)));
                lanes::backward_data(isa, &s, &dyl, &w, &mut got, false, &mut scratch);
                close(&name("dx"), &scattered(&got, s.x_len(), n), &dx);
                lanes::backward_data(isa, &s, &dyl, &w, &mut got, true, &mut scratch);
                let twice: Vec<f64> = dx.iter().map(|v| 2.0 * v).collect();
                close(&name("dx twice"), &scattered(&got, s.x_len(), n), &twice);

                let (mut got, mut scratch) =
                    (vec![1.0; s.filter_len()], nan(lanes::weights_scratch_len(&s)));
                lanes::backward_weights(isa, &s, &xl, &dyl, &mut got, &mut scratch);
                let added: Vec<f64> = dw.iter().map(|v| v + 1.0).collect();
                close(&name("dw"), &got, &added);

                let mut got = vec![0.0; s.d];
                lanes::bias_gradient(isa, &dyl, &mut got);
                close(&name("db"), &got, &db);
            }
        }
    }
}
