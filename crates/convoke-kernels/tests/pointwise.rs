//! Every other kernel against its plain twin, on every instruction set, over odd sizes, and bitwise
//! equal for 1 and 3 threads.

mod common;

use common::{numbers, or_for_miri};
use convoke_kernels::activation::{self, Activation};
use convoke_kernels::adaptive_pool::{self, AdaptiveShape};
use convoke_kernels::conv::ConvShape;
use convoke_kernels::dropout::{self, Mask};
use convoke_kernels::elementwise::{self, Channels};
use convoke_kernels::layer_norm::{self, Gradients};
use convoke_kernels::lrn::{self, Lrn};
use convoke_kernels::norm::{self, Clamped, Pending, Saved, Source, Statistics};
use convoke_kernels::optim::{self, Adam, Sgd};
use convoke_kernels::pool2d::{self, PoolShape};
use convoke_kernels::{Ctx, Isa, Pool, channels, depthwise, gate, loss, reference};

/// The largest difference is within `tolerance` of the largest number.
fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*g) - w).abs();
        assert!(off <= tolerance * most, "{what}[{i}]: {g} against {w}");
    }
}

/// Runs `f` for every instruction set on 1 and 3 threads; the threads must agree bit by bit.
fn everywhere(f: impl Fn(Ctx) -> Vec<Vec<f32>>) -> Vec<(Isa, Vec<Vec<f32>>)> {
    let (one, three) = (Pool::new(1), Pool::new(3));
    let run = |isa| {
        let bits = |v: Vec<Vec<f32>>| -> Vec<Vec<u32>> {
            v.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
        };
        let result = f(Ctx { pool: &one, isa });
        assert!(
            bits(result.clone()) == bits(f(Ctx { pool: &three, isa })),
            "{isa:?}: threads differ"
        );
        (isa, result)
    };
    Isa::available().into_iter().map(run).collect()
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&x| f64::from(x)).collect()
}

/// Rows and channels.
const SIZES: &[(usize, usize)] = match cfg!(miri) {
    true => &[(1, 1), (1, 5), (7, 3), (9, 17)],
    false => &[(1, 1), (1, 5), (7, 3), (130, 6), (49, 17), (300, 64), (33, 100), (5000, 24)],
};

/// Without a residual, masking by the output and by the output computed anew must give the same bits.
fn clamp_computed_anew(cx: Ctx, saved: Saved, dy: &[f32], scale: &[f32], shift: &[f32]) {
    let (rows, c) = (saved.x.len() / scale.len(), scale.len());
    let mut y = vec![f32::NAN; rows * c];
    norm::apply(cx, saved.x, scale, shift, None, Some((0.0, 0.9)), &mut y);
    let both =
        [Clamped::Output { y: (&y).into(), max: 0.9 }, Clamped::Anew { scale, shift, max: 0.9 }]
            .map(|clamped| {
                let s = Saved { clamped, ..saved };
                let (mut dy, mut dg, mut db) = (dy.to_vec(), vec![0.0; c], vec![0.0; c]);
                let mut scratch = vec![f32::NAN; norm::scratch_len(rows, c).max(3 * c)];
                norm::backward_sums(cx, s, &mut dy, &mut dg, &mut db, &mut scratch);
                norm::backward_data(cx, s, &mut dy, &dg, &db, None, &mut scratch);
                (dy, dg, db)
            });
    assert!(both[0] == both[1], "{:?} {rows}x{c}: the mask differs", cx.isa);
}

#[test]
fn batch_norm() {
    for (rows, c) in SIZES.iter().copied() {
        // A large mean against a small deviation, where careless sums lose everything.
        let x: Vec<f32> = numbers(rows * c, 1).iter().map(|v| 300.0 + v).collect();
        let (gamma, beta) = (numbers(c, 2), numbers(c, 3));
        let (residual, dy) = (numbers(rows * c, 4), numbers(rows * c, 5));
        let (mean, var) = reference::norm::statistics(&x, c);
        let results = everywhere(|cx| {
            let [mut m, mut i, mut rm, mut rv, mut scale, mut shift, mut dg, mut db] =
                std::array::from_fn(|_| vec![0.0; c]);
            let mut scratch = vec![f32::NAN; norm::scratch_len(rows, c).max(3 * c)];
            let s = Statistics {
                mean: &mut m,
                invstd: &mut i,
                running_mean: &mut rm,
                running_var: &mut rv,
            };
            norm::statistics(cx, &x, s, 0.1, 1e-5, &mut scratch);
            norm::scale_shift(&gamma, &beta, &m, &i, &mut scale, &mut shift);
            let mut y = vec![f32::NAN; rows * c];
            norm::apply(cx, &x, &scale, &shift, Some((&residual).into()), Some((0.0, 0.9)), &mut y);
            let clamped = Clamped::Output { y: (&y).into(), max: 0.9 };
            let saved = Saved { x: (&x).into(), clamped, mean: &m, invstd: &i, gamma: &gamma };
            let mut masked = dy.clone();
            norm::backward_sums(cx, saved, &mut masked, &mut dg, &mut db, &mut scratch);
            let mut dx = vec![f32::NAN; rows * c];
            norm::backward_data(
                cx,
                saved,
                &mut masked,
                &dg,
                &db,
                Some((&mut dx).into()),
                &mut scratch,
            );
            let mut in_place = masked.clone();
            norm::backward_data(cx, saved, &mut in_place, &dg, &db, None, &mut scratch);
            assert_eq!(dx, in_place);
            clamp_computed_anew(cx, saved, &dy, &scale, &shift);
            vec![m, i, rm, rv, y, masked, dg, db, dx]
        });
        let invstd: Vec<f64> = var.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
        let n = rows as f64;
        let unbiased: Vec<f64> =
            var.iter().map(|v| 0.1 * if rows > 1 { v * n / (n - 1.0) } else { *v }).collect();
        for (isa, r) in results {
            let name = |what| format!("{isa:?} {rows}x{c} {what}");
            close(&name("mean"), &r[0], &mean, 1e-6);
            // Numbers near 300 are themselves only known to 3e-5.
            close(&name("invstd"), &r[1], &invstd, 1e-3);
            close(
                &name("running mean"),
                &r[2],
                &mean.iter().map(|m| 0.1 * m).collect::<Vec<_>>(),
                1e-6,
            );
            close(&name("running variance"), &r[3], &unbiased, 1e-3);
            let mask = |i: usize| r[4][i] > 0.0 && r[4][i] < 0.9;
            let masked: Vec<f32> =
                dy.iter().enumerate().map(|(i, &g)| if mask(i) { g } else { 0.0 }).collect();
            assert_eq!(r[5], masked, "{}", name("masked"));
            let (dx, dgamma, dbeta) = reference::norm::backward(&x, &masked, &gamma, 1e-5);
            close(&name("dgamma"), &r[6], &dgamma, 1e-3);
            close(&name("dbeta"), &r[7], &dbeta, 1e-5);
            if rows > 1 {
                close(&name("dx"), &r[8], &dx, 2e-3);
            }
        }
    }
}

#[test]
fn pooling() {
    let all = vec![
        (1, 1, 1, 1, 1, 0),
        (7, 7, 3, 3, 2, 1),
        (8, 5, 17, 2, 2, 0),
        (9, 9, 64, 3, 1, 1),
        (6, 7, 33, 2, 3, 0),
        (28, 28, 6, 2, 2, 0),
        (13, 11, 5, 5, 4, 2),
    ];
    let few = vec![
        (1, 1, 1, 1, 1, 0),
        (5, 5, 3, 3, 2, 1),
        (4, 3, 17, 2, 2, 0),
        (3, 3, 9, 3, 1, 1),
        (4, 5, 5, 2, 3, 0),
        (6, 5, 2, 5, 4, 2),
    ];
    for (h, w, c, k, stride, pad) in or_for_miri(all, few) {
        let n = 3;
        let out = |size: usize| (size + 2 * pad - k) / stride + 1;
        let s = PoolShape {
            h,
            w,
            c,
            kh: k,
            kw: k,
            sh: stride,
            sw: stride,
            top: pad,
            left: pad,
            bottom: pad,
            right: pad,
            oh: out(h),
            ow: out(w),
        };
        let (x, dy) = (numbers(n * h * w * c, 1), numbers(n * s.oh * s.ow * c, 2));
        let first = numbers(n * h * w * c, 3);
        let results = everywhere(|cx| {
            let mut y = vec![f32::NAN; dy.len()];
            let mut arg = vec![0u8; dy.len()];
            pool2d::max_forward(cx, &s, n, &x, &mut y, &mut arg);
            let mut dx = first.clone();
            pool2d::max_backward(cx, &s, n, &dy, &arg, &mut dx, true);
            let mut all = vec![y, dx];
            for count in [false, true] {
                let mut y = vec![f32::NAN; dy.len()];
                pool2d::mean_forward(cx, &s, n, &x, &mut y, count);
                let mut dx = vec![f32::NAN; x.len()];
                pool2d::mean_backward(cx, &s, n, &dy, &mut dx, count, false);
                all.extend([y, dx]);
            }
            let mut y = vec![f32::NAN; n * c];
            pool2d::global_mean_forward(cx, h * w, c, &x, &mut y);
            let mut dx = first.clone();
            pool2d::global_mean_backward(cx, h * w, c, &dy[..n * c], &mut dx, true);
            all.extend([y, dx]);
            all
        });
        let (y, from) = reference::pool2d::max_forward(&s, n, &x);
        let dx = reference::pool2d::max_backward(&s, n, &from, &dy);
        let added: Vec<f64> = dx.iter().zip(&first).map(|(a, b)| a + f64::from(*b)).collect();
        for (isa, r) in results {
            let name = |what| format!("{isa:?} {h}x{w}x{c}/{k} {what}");
            assert_eq!(r[0], y, "{}", name("max"));
            close(&name("max backward"), &r[1], &added, 1e-6);
            for (i, count) in [false, true].into_iter().enumerate() {
                let want = reference::pool2d::mean_forward(&s, n, &x, count);
                close(&name("mean"), &r[2 + 2 * i], &want, 1e-6);
                let want = reference::pool2d::mean_backward(&s, n, &dy, count);
                close(&name("mean backward"), &r[3 + 2 * i], &want, 1e-6);
            }
            let mean = |i: usize| {
                (0..h * w).map(|p| f64::from(x[(i / c * h * w + p) * c + i % c])).sum::<f64>()
            };
            let want: Vec<f64> = (0..n * c).map(|i| mean(i) / (h * w) as f64).collect();
            close(&name("global"), &r[6], &want, 1e-5);
            let share = |i: usize| f64::from(dy[i / (h * w * c) * c + i % c]) / (h * w) as f64;
            let want: Vec<f64> = (0..x.len()).map(|i| f64::from(first[i]) + share(i)).collect();
            close(&name("global backward"), &r[7], &want, 1e-6);
        }
    }
}

#[test]
fn adaptive_pooling() {
    // Divided evenly, unevenly, not at all, and to more than there is.
    let all =
        [(1, 1, 1, 1, 1), (8, 6, 4, 3, 17), (7, 7, 7, 7, 3), (13, 11, 6, 4, 5), (2, 3, 7, 7, 33)];
    let few =
        [(1, 1, 1, 1, 1), (4, 2, 2, 1, 17), (3, 3, 3, 3, 3), (5, 4, 3, 3, 5), (2, 3, 4, 4, 9)];
    for (h, w, oh, ow, c) in or_for_miri(all, few) {
        let (n, s) = (3, AdaptiveShape { h, w, c, oh, ow });
        let (x, dy) = (numbers(n * h * w * c, 1), numbers(n * oh * ow * c, 2));
        let first = numbers(x.len(), 3);
        let results = everywhere(|cx| {
            let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
            adaptive_pool::forward(cx, &s, n, &x, &mut y);
            adaptive_pool::backward(cx, &s, n, &dy, &mut dx, false);
            let mut added = first.clone();
            adaptive_pool::backward(cx, &s, n, &dy, &mut added, true);
            vec![y, dx, added]
        });
        let (y, dx) = reference::pool2d::adaptive_mean(&s, n, &x, &dy);
        let added: Vec<f64> = dx.iter().zip(&first).map(|(a, b)| a + f64::from(*b)).collect();
        for (isa, r) in results {
            for (what, got, want) in
                [("forward", &r[0], &y), ("backward", &r[1], &dx), ("added", &r[2], &added)]
            {
                close(&format!("{isa:?} {h}x{w} to {oh}x{ow} {what}"), got, want, 1e-6);
            }
        }
    }
}

#[test]
fn layer_norm() {
    for (rows, c) in SIZES.iter().copied() {
        // A mean far from zero, where careless sums lose digits.
        let x: Vec<f32> = numbers(rows * c, 1).iter().map(|v| 30.0 + v).collect();
        let (gamma, beta) = (numbers(c, 2), numbers(c, 3));
        let (dy, first) = (numbers(rows * c, 4), numbers(rows * c, 5));
        let results = everywhere(|cx| {
            let mut y = vec![f32::NAN; rows * c];
            layer_norm::forward(cx, &x, &gamma, &beta, 1e-3, &mut y);
            let mut scratch = vec![f32::NAN; layer_norm::scratch_len(rows, c)];
            let mut all = vec![y];
            for accumulate in [false, true] {
                let mut dx = if accumulate { first.clone() } else { vec![f32::NAN; rows * c] };
                let [mut dgamma, mut dbeta] = std::array::from_fn(|_| vec![f32::NAN; c]);
                let to = Gradients {
                    dx: Some((&mut dx, accumulate)),
                    dgamma: &mut dgamma,
                    dbeta: &mut dbeta,
                };
                layer_norm::backward(cx, &x, &dy, &gamma, 1e-3, to, &mut scratch);
                let [mut again, mut bias] = std::array::from_fn(|_| vec![f32::NAN; c]);
                let to = Gradients { dx: None, dgamma: &mut again, dbeta: &mut bias };
                layer_norm::backward(cx, &x, &dy, &gamma, 1e-3, to, &mut scratch);
                assert!(again == dgamma && bias == dbeta);
                all.extend([dx, dgamma, dbeta]);
            }
            all
        });
        let y = reference::layer_norm::forward(&x, &gamma, &beta, 1e-3);
        let (dx, dgamma, dbeta) = reference::layer_norm::backward(&x, &dy, &gamma, 1e-3);
        let added: Vec<f64> = dx.iter().zip(&first).map(|(a, b)| a + f64::from(*b)).collect();
        for (isa, r) in results {
            // Numbers near 30 are themselves only known to 2e-6.
            for (what, got, want) in [
                ("forward", &r[0], &y),
                ("dx", &r[1], &dx),
                ("dgamma", &r[2], &dgamma),
                ("dbeta", &r[3], &dbeta),
                ("added dx", &r[4], &added),
            ] {
                close(&format!("{isa:?} {rows}x{c} {what}"), got, want, 1e-4);
            }
        }
    }
}

#[test]
fn shuffled_and_scaled_channels() {
    for (rows, c) in SIZES.iter().copied() {
        let (x, y, w) = (numbers(rows * c, 1), numbers(rows * c, 2), numbers(c, 3));
        let groups: Vec<usize> = (1..=c).filter(|g| c.is_multiple_of(*g)).collect();
        let results = everywhere(|cx| {
            let mut all = Vec::new();
            for &g in &groups {
                let [mut mixed, mut back] = std::array::from_fn(|_| vec![f32::NAN; rows * c]);
                channels::shuffle(cx, &x, &mut mixed, c, g, false);
                channels::shuffle(cx, &mixed, &mut back, c, c / g, false);
                assert_eq!(back, x);
                let mut added = y.clone();
                channels::shuffle(cx, &x, &mut added, c, g, true);
                assert!(added.iter().zip(&mixed).zip(&y).all(|((a, m), y)| *a == m + y));
                all.push(mixed);
            }
            let (mut scaled, mut added) = (vec![f32::NAN; rows * c], y.clone());
            channels::scale(cx, &x, &w, &mut scaled, false);
            channels::scale(cx, &x, &w, &mut added, true);
            let mut sums = vec![f32::NAN; c];
            let mut scratch = vec![f32::NAN; channels::products_scratch_len(rows, c)];
            channels::products(cx, &x, &y, &mut sums, &mut scratch);
            all.extend([scaled, added, sums]);
            all
        });
        for (isa, mut r) in results {
            let name = |what: &str| format!("{isa:?} {rows}x{c} {what}");
            let rest = r.split_off(groups.len());
            for (&g, mixed) in groups.iter().zip(&r) {
                let from = |i: usize| i / c * c + i % c % g * (c / g) + i % c / g;
                assert!((0..rows * c).all(|i| mixed[i] == x[from(i)]), "{}", name("shuffle"));
            }
            let at = |v: &[f32], i: usize| f64::from(v[i]);
            let want: Vec<f64> = (0..rows * c).map(|i| at(&x, i) * at(&w, i % c)).collect();
            close(&name("scale"), &rest[0], &want, 1e-6);
            let want: Vec<f64> = want.iter().zip(&y).map(|(a, b)| a + f64::from(*b)).collect();
            close(&name("scale added"), &rest[1], &want, 1e-6);
            let row = |i: usize, r: usize| at(&x, r * c + i) * at(&y, r * c + i);
            let sums: Vec<f64> = (0..c).map(|i| (0..rows).map(|r| row(i, r)).sum()).collect();
            close(&name("products"), &rest[2], &sums, 1e-5);
        }
    }
}

#[test]
fn activations_to_a_millionth() {
    let mut x: Vec<f32> = numbers(or_for_miri(20_001, 71), 1).iter().map(|v| v * 12.0).collect();
    x.extend([0.0, -0.0, 1e-20, -1e-20, 90.0, -90.0, 1e30, -1e30]);
    let dy = numbers(x.len(), 2);
    for f in [
        Activation::Relu { max: f32::INFINITY },
        Activation::Relu { max: 6.0 },
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::HardSigmoid,
        Activation::HardSwish,
        Activation::Silu,
        Activation::Gelu,
        Activation::Rescale { factor: 0.17, offset: 0.0 },
        Activation::Rescale { factor: -2.0, offset: 100.0 },
    ] {
        let results = everywhere(|cx| {
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![0.0; x.len()]);
            activation::forward(cx, f, &x, &mut y);
            let saved = if f.keeps_input() { &x } else { &y };
            activation::backward(cx, f, saved, &dy, &mut dx, true);
            vec![y, dx]
        });
        for (isa, r) in results {
            for i in 0..x.len() {
                let v = f64::from(x[i]);
                let want = reference::pointwise::activation(f, v);
                let off = (f64::from(r[0][i]) - want).abs();
                assert!(
                    off <= 1e-6 * want.abs().max(1e-3),
                    "{isa:?} {f:?}({v}): {} against {want}",
                    r[0][i]
                );
                let want = reference::pointwise::slope(f, v) * f64::from(dy[i]);
                let off = (f64::from(r[1][i]) - want).abs();
                assert!(off <= 1e-6, "{isa:?} {f:?}'({v}): {} against {want}", r[1][i]);
            }
        }
    }
    let cx_pool = Pool::new(1);
    for isa in Isa::available() {
        let mut y = [0.0; 2];
        use Activation::*;
        for f in [Sigmoid, Tanh, Relu { max: 6.0 }, HardSigmoid, HardSwish, Silu, Gelu] {
            activation::forward(Ctx { pool: &cx_pool, isa }, f, &[f32::NAN, 1.0], &mut y);
            assert!(y[0].is_nan() && y[1].is_finite(), "{isa:?} {f:?} hides a NaN");
        }
    }
}

#[test]
fn softmax_and_local_response_norm() {
    for (rows, c) in SIZES.iter().copied() {
        let x: Vec<f32> = numbers(rows * c, 1).iter().map(|v| v * 8.0).collect();
        let dy = numbers(rows * c, 2);
        let o = Lrn { c, size: 4, alpha: 0.5, beta: 0.75, k: 1.5 };
        let results = everywhere(|cx| {
            let [mut y, mut dx, mut s, mut z] = std::array::from_fn(|_| vec![f32::NAN; rows * c]);
            activation::softmax(cx, &x, &mut y, c);
            activation::softmax_backward(cx, &y, &dy, &mut dx, c, false);
            lrn::forward(cx, &o, &x, &mut s, &mut z);
            vec![y, dx, z, s]
        });
        let by_row =
            |f: &dyn Fn(usize) -> Vec<f64>| -> Vec<f64> { (0..rows).flat_map(f).collect() };
        let row = |r: usize| &x[r * c..(r + 1) * c];
        for (isa, r) in results {
            let name = |what| format!("{isa:?} {rows}x{c} {what}");
            close(
                &name("softmax"),
                &r[0],
                &by_row(&|i| reference::pointwise::softmax(row(i))),
                2e-6,
            );
            let want = by_row(&|i| {
                reference::pointwise::softmax_backward(row(i), &dy[i * c..(i + 1) * c])
            });
            // `dy − Σ y·dy` cancels where one class has nearly all: the error is of the order of dy.
            for (i, (got, want)) in r[1].iter().zip(&want).enumerate() {
                let off = (f64::from(*got) - want).abs();
                assert!(off <= 5e-7, "{} [{i}]: {got} against {want}", name("softmax backward"));
            }
            close(&name("lrn"), &r[2], &by_row(&|i| reference::pointwise::lrn(&o, row(i)).0), 2e-6);
            close(
                &name("lrn sums"),
                &r[3],
                &by_row(&|i| reference::pointwise::lrn(&o, row(i)).1),
                2e-6,
            );
        }
    }
}

#[test]
fn losses() {
    for (rows, c) in or_for_miri(
        vec![(1, 2), (7, 10), (100, 3), (33, 1000), (4097, 5)],
        vec![(1, 2), (7, 10), (30, 3), (3, 70)],
    ) {
        let x: Vec<f32> = numbers(rows * c, 1).iter().map(|v| v * 9.0).collect();
        let targets: Vec<f32> = numbers(rows * c, 2).iter().map(|v| v * 0.5 + 0.5).collect();
        let labels: Vec<u32> = (0..rows as u32)
            .map(|i| if i % 5 == 4 { u32::MAX } else { i * 7 % c as u32 })
            .collect();
        let results = everywhere(|cx| {
            let mut scratch = vec![f32::NAN; loss::scratch_len(rows * c, c)];
            let [mut a, mut b, mut d] = std::array::from_fn(|_| vec![f32::NAN; rows * c]);
            let r = loss::softmax_cross_entropy(cx, &x, &labels, c, 0.1, &[], &mut a, &mut scratch);
            let s = loss::sigmoid_cross_entropy(cx, &x, &targets, 3.0, &mut b, &mut scratch);
            let m = loss::mean_squared_error(cx, &x, &targets, &mut d, &mut scratch);
            vec![vec![r.loss, s, m], a, b, d, vec![r.correct as f32]]
        });
        let counted = labels.iter().filter(|&&l| l != u32::MAX).count() as f64;
        let (mut sums, mut grads) = ([0.0; 3], [vec![], vec![], vec![]]);
        let mut correct = 0.0;
        for r in 0..rows {
            let row = &x[r * c..(r + 1) * c];
            if labels[r] == u32::MAX {
                grads[0].extend(vec![0.0; c]);
                continue;
            }
            let label = labels[r] as usize;
            let (l, g) = reference::pointwise::softmax_cross_entropy(row, label, 0.1);
            sums[0] += l / counted;
            grads[0].extend(g.iter().map(|v| v / counted));
            correct += f32::from(u8::from(row.iter().all(|&v| v <= row[label])));
        }
        let n = (rows * c) as f64;
        for (&v, &t) in x.iter().zip(&targets) {
            let (l, g) =
                reference::pointwise::sigmoid_cross_entropy(f64::from(v), f64::from(t), 3.0);
            sums[1] += l / n;
            grads[1].push(g / n);
            let e = f64::from(v) - f64::from(t);
            sums[2] += e * e / n;
            grads[2].push(2.0 * e / n);
        }
        for (isa, r) in results {
            close(&format!("{isa:?} {rows}x{c} losses"), &r[0], &sums, 1e-5);
            for k in 0..3 {
                close(&format!("{isa:?} {rows}x{c} gradient {k}"), &r[1 + k], &grads[k], 1e-5);
            }
            assert_eq!(r[4], [correct], "{isa:?} {rows}x{c}");
        }
    }
}

#[test]
fn losses_with_class_weights() {
    for (rows, c, smoothing) in or_for_miri(
        [(1, 2, 0.0), (7, 10, 0.2), (100, 3, 0.1), (33, 1000, 0.0)],
        [(1, 2, 0.0), (7, 10, 0.2), (30, 3, 0.1), (3, 70, 0.0)],
    ) {
        let x: Vec<f32> = numbers(rows * c, 1).iter().map(|v| v * 9.0).collect();
        // One class weighs nothing.
        let weights: Vec<f32> = (0..c).map(|k| (k % 7) as f32 * 0.3).collect();
        let labels: Vec<u32> = (0..rows as u32)
            .map(|i| if i % 5 == 4 { u32::MAX } else { (i * 7 + 1) % c as u32 })
            .collect();
        let results = everywhere(|cx| {
            let mut scratch = vec![f32::NAN; loss::scratch_len(rows * c, c)];
            let mut d = vec![f32::NAN; rows * c];
            let r = loss::softmax_cross_entropy(
                cx,
                &x,
                &labels,
                c,
                smoothing,
                &weights,
                &mut d,
                &mut scratch,
            );
            vec![vec![r.loss], d]
        });
        let counted: f64 =
            labels.iter().filter_map(|&l| weights.get(l as usize)).map(|w| f64::from(*w)).sum();
        assert!((counted - loss::counted(&labels, &weights)).abs() < 1e-9);
        let (mut sum, mut gradient) = (0.0, Vec::new());
        for (row, &label) in x.chunks_exact(c).zip(&labels) {
            if label == u32::MAX {
                gradient.extend(vec![0.0; c]);
                continue;
            }
            let (l, g) = reference::pointwise::weighted_cross_entropy(
                row,
                label as usize,
                f64::from(smoothing),
                &weights,
            );
            sum += l / counted;
            gradient.extend(g.iter().map(|v| v / counted));
        }
        for (isa, r) in results {
            close(&format!("{isa:?} {rows}x{c} loss"), &r[0], &[sum], 1e-5);
            close(&format!("{isa:?} {rows}x{c} gradient"), &r[1], &gradient, 1e-5);
        }
    }
}

#[test]
fn centres_of_heat_maps_and_their_boxes() {
    for (places, classes) in
        or_for_miri([(1, 1), (7, 3), (100, 1), (533, 2)], [(1, 1), (7, 3), (23, 1), (19, 2)])
    {
        let c = classes + loss::BOX;
        let y: Vec<f32> = numbers(places * c, 1).iter().map(|v| v * 3.0).collect();
        let mut targets: Vec<f32> = numbers(places * c, 2);
        for (i, t) in targets.chunks_exact_mut(c).enumerate() {
            for (k, t) in t[..classes].iter_mut().enumerate() {
                *t = match (i + k) % 5 {
                    0 => 1.0,
                    1 => -1.0,
                    2 => 0.0,
                    _ => t.abs() * 0.99,
                };
            }
            if i % 3 == 1 {
                t[classes] = f32::NAN;
            }
            // Boxes apart, beside each other, one within the other.
            t[classes + 1] *= [0.1, 1.0, 9.0][i % 3];
        }
        let rows = || y.chunks_exact(c).zip(targets.chunks_exact(c));
        let tops =
            targets.chunks_exact(c).flat_map(|t| &t[..classes]).filter(|t| **t >= 1.0).count();
        let boxed = rows().filter(|(_, t)| !t[classes].is_nan()).count();
        for boxes in [loss::BoxLoss::Giou, loss::BoxLoss::Diou, loss::BoxLoss::Ciou] {
            let o = loss::Centres { box_weight: 2.0, boxes };
            let (mut sum, mut grads) = (0.0, Vec::new());
            for (x, t) in rows() {
                for k in 0..classes {
                    let (l, g) = reference::pointwise::focal(f64::from(x[k]), f64::from(t[k]));
                    sum += l / tops.max(1) as f64;
                    grads.push(g / tops.max(1) as f64);
                }
                if t[classes].is_nan() {
                    grads.extend([0.0; 4]);
                    continue;
                }
                let four = |v: &[f32]| std::array::from_fn(|i| f64::from(v[classes + i]));
                let (l, g) = reference::pointwise::box_loss(four(x), four(t), boxes);
                sum += 2.0 * l / boxed as f64;
                grads.extend(g.map(|g| 2.0 * g / boxed as f64));
            }
            for (isa, r) in everywhere(|cx| {
                let mut scratch = vec![f32::NAN; loss::scratch_len(y.len(), c)];
                let mut dy = vec![f32::NAN; y.len()];
                let l = loss::centres(cx, &y, &targets, classes, o, &mut dy, &mut scratch);
                vec![vec![l], dy]
            }) {
                let name = format!("{isa:?} {places}x{classes} {boxes:?}");
                close(&format!("{name} loss"), &r[0], &[sum], 1e-5);
                close(&format!("{name} gradient"), &r[1], &grads, 1e-4);
            }
        }
    }
}

#[test]
fn updates() {
    let n = or_for_miri(40_003, 131);
    let (w, g) = (numbers(n, 1), numbers(n, 2));
    for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
        let o = Sgd { lr: 0.1, momentum, nesterov, weight_decay: 0.01 };
        let results = everywhere(|cx| {
            let (mut a, mut v) = (w.clone(), vec![0.0; n]);
            for _ in 0..3 {
                optim::sgd(cx, &mut a, &g, (momentum > 0.0).then_some(&mut v[..]), &o);
            }
            vec![a]
        });
        let want: Vec<f64> = (0..n)
            .map(|i| {
                let (mut a, mut v) = (f64::from(w[i]), 0.0);
                for _ in 0..3 {
                    (a, v) = reference::pointwise::sgd(a, f64::from(g[i]), v, &o);
                }
                a
            })
            .collect();
        results.iter().for_each(|(isa, r)| close(&format!("{isa:?} sgd"), &r[0], &want, 1e-6));
    }
    for decoupled in [false, true] {
        let adam = |step| Adam {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            decoupled,
            step,
        };
        let results = everywhere(|cx| {
            let (mut a, mut m, mut v) = (w.clone(), vec![0.0; n], vec![0.0; n]);
            for step in 1..=4 {
                optim::adam(cx, &mut a, &g, &mut m, &mut v, &adam(step));
            }
            vec![a]
        });
        let want: Vec<f64> = (0..n)
            .map(|i| {
                let (mut a, mut m, mut v) = (f64::from(w[i]), 0.0, 0.0);
                for step in 1..=4 {
                    (a, m, v) = reference::pointwise::adam(a, f64::from(g[i]), m, v, &adam(step));
                }
                a
            })
            .collect();
        results.iter().for_each(|(isa, r)| close(&format!("{isa:?} adam"), &r[0], &want, 2e-6));
    }
}

/// A norm applied while a map is read gives the bits of the norm applied before, and the way back in one walk those of
/// each gradient by itself. Returns what the norm sums, by that walk and as it should be.
fn depthwise_of_a_pending_norm(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    [x, f, dy]: [&[f32]; 3],
) -> [Vec<Vec<f32>>; 2] {
    let what = format!("{:?} {s:?}", cx.isa);
    let (c, scale, shift) = (s.c, numbers(s.c, 7), numbers(s.c, 8));
    let mut applied = vec![f32::NAN; x.len()];
    norm::apply(cx, x, &scale, &shift, None, Some((0.0, 0.7)), &mut applied);
    let pending = Pending { scale: &scale, shift: &shift, clamp: (0.0, 0.7) };
    let normed = Source { x: x.into(), norm: Some(pending) };
    let mut scratch = vec![f32::NAN; depthwise::scratch_len(s, n)];
    let mut one_by_one = |source| {
        let (mut y, mut dw) = (vec![f32::NAN; n * s.y_len()], vec![f32::NAN; s.filter_len()]);
        depthwise::forward(cx, s, n, source, f, &mut y, depthwise::Epilogue::default());
        depthwise::backward_weights(cx, s, n, source, dy, &mut dw, &mut scratch);
        (y, dw)
    };
    let before = one_by_one(applied.as_slice().into());
    assert!(before == one_by_one(normed), "{what}");

    let (mean, invstd) = (numbers(c, 9), numbers(c, 10));
    let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![f32::NAN; c]);
    let mut masked = vec![f32::NAN; x.len()];
    for (summed, add) in [(false, false), (false, true), (true, false)] {
        let (mut dx, mut dw) = (numbers(x.len(), 11), vec![f32::NAN; s.filter_len()]);
        let mut want = dx.clone();
        depthwise::backward_data(cx, s, n, dy, f, &mut want, add);
        let (dgamma, dbeta) = (&mut dgamma[..], &mut dbeta[..]);
        let of_norm = norm::SumsOf { mean: &mean, invstd: &invstd, dgamma, dbeta };
        let norm = if summed { Some(of_norm) } else { None };
        let sums = depthwise::Sums { dw: &mut dw, norm, scratch: &mut scratch };
        depthwise::backward(cx, s, n, (normed, dy.into()), f, ((&mut dx).into(), add), sums);
        if summed {
            let inside = |y: f32| 0.0 < y && y < 0.7;
            want.iter_mut().zip(&applied).filter(|y| !inside(*y.1)).for_each(|g| *g.0 = 0.0);
            masked.copy_from_slice(&want);
        }
        assert!(dx == want, "{what}: data, summed: {summed}, adding: {add}");
        assert!(dw == before.1, "{what}: weights, summed: {summed}");
    }
    let mut sums = [(); 2].map(|()| vec![0.0; c]);
    for (i, (&g, &x)) in masked.iter().zip(x).enumerate() {
        sums[0][i % c] += f64::from(g) * f64::from(x - mean[i % c]) * f64::from(invstd[i % c]);
        sums[1][i % c] += f64::from(g);
    }
    let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect::<Vec<_>>();
    [vec![dgamma, dbeta], sums.map(narrow).to_vec()]
}

#[test]
fn depthwise_convolution() {
    let all = vec![
        (1, 1, 1, 1, 1, 1, 0),
        (7, 7, 17, 3, 1, 1, 1),
        (8, 9, 33, 3, 2, 1, 1),
        (9, 8, 64, 5, 1, 2, 4),
        (6, 6, 3, 2, 3, 1, 0),
        (5, 20, 96, 3, 2, 1, 0),
        (4, 16, 5, 4, 1, 1, 3),
        (9, 23, 20, 3, 1, 1, 1),
        (12, 30, 48, 3, 1, 1, 0),
        (10, 25, 7, 5, 1, 1, 2),
        (11, 26, 18, 5, 2, 1, 2),
        (9, 27, 34, 5, 2, 1, 1),
        (8, 19, 40, 7, 1, 1, 3),
        (8, 2, 16, 3, 2, 1, 1),
        (3, 3, 21, 7, 1, 1, 3),
        (7, 14, 160, 3, 2, 1, 2),
        (17, 12, 30, 3, 4, 6, 5),
        (13, 15, 16, 4, 6, 4, 3),
        (9, 11, 24, 3, 3, 1, 0),
        (4, 15, 300, 3, 1, 1, 1),
        (3, 5, 578, 3, 2, 1, 1),
    ];
    // Every length of a row's blocks, and borders on both of its sides.
    let short = (1..=18).flat_map(|w| [(3, w, 18, 3, 1, 1, 1), (4, w, 5, 5, 2, 1, 2)]);
    let all = all.into_iter().chain(short).collect();
    let few = vec![
        (1, 1, 1, 1, 1, 1, 0),
        (4, 5, 9, 3, 1, 1, 1),
        (5, 4, 17, 3, 2, 1, 1),
        (3, 3, 4, 3, 1, 2, 2),
        (4, 4, 3, 2, 3, 1, 0),
        (2, 3, 3, 4, 1, 1, 2),
        (3, 7, 2, 5, 1, 1, 2),
        (6, 9, 3, 5, 2, 1, 1),
        (3, 4, 2, 7, 1, 1, 3),
    ];
    for (h, w, c, k, stride, dilation, pad) in or_for_miri(all, few) {
        let n = 2;
        let out = |size: usize| (size + 2 * pad - (k - 1) * dilation - 1) / stride + 1;
        let s = ConvShape {
            h,
            w,
            c,
            kh: k,
            kw: k,
            d: c,
            sh: stride,
            sw: stride,
            top: pad,
            left: pad,
            dh: dilation,
            dw: dilation,
            groups: c,
            oh: out(h),
            ow: out(w),
        };
        let (x, f) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
        let (dy, bias) = (numbers(n * s.y_len(), 3), numbers(c, 4));
        let results = everywhere(|cx| {
            let (mut y, mut dx) = (vec![f32::NAN; n * s.y_len()], vec![f32::NAN; n * s.x_len()]);
            let mut dw = vec![f32::NAN; s.filter_len()];
            let e =
                depthwise::Epilogue { bias: Some(&bias), clamp: Some((-0.5, 0.8)), tally: None };
            depthwise::forward(cx, &s, n, (&x).into(), &f, &mut y, e);
            depthwise::backward_data(cx, &s, n, &dy, &f, &mut dx, false);
            let mut scratch = vec![f32::NAN; depthwise::scratch_len(&s, n)];
            depthwise::backward_weights(cx, &s, n, (&x).into(), &dy, &mut dw, &mut scratch);
            let [got, want] = depthwise_of_a_pending_norm(cx, &s, n, [&x, &f, &dy]);
            for (got, want) in got.iter().zip(&want) {
                close(&format!("{:?} {s:?}: sums of the norm", cx.isa), got, &wide(want), 5e-6);
            }
            [vec![y, dx, dw], got].concat()
        });
        let y = reference::conv::forward(&s, n, &x, &f);
        let y: Vec<f64> = y
            .iter()
            .enumerate()
            .map(|(i, v)| (v + f64::from(bias[i % c])).clamp(-0.5, f64::from(0.8f32)))
            .collect();
        let dx = reference::conv::backward_data(&s, n, &dy, &f);
        let dw = reference::conv::backward_weights(&s, n, &x, &dy);
        for (isa, r) in results {
            let name = |what| format!("{isa:?} {h}x{w}x{c} {what}");
            close(&name("y"), &r[0], &y, 2e-6);
            close(&name("dx"), &r[1], &dx, 2e-6);
            close(&name("dw"), &r[2], &dw, 5e-6);
        }
    }
}

#[test]
fn sums_and_copies() {
    for (rows, c) in SIZES.iter().copied() {
        let (a, b) = (numbers(rows * c, 1), numbers(rows * c, 2));
        let results = everywhere(|cx| {
            let mut sum = vec![f32::NAN; c];
            let mut scratch = vec![f32::NAN; elementwise::column_sum_scratch_len(rows, c)];
            elementwise::column_sum(cx, &a, &mut sum, &mut scratch);
            let mut both = vec![f32::NAN; rows * c];
            elementwise::add(cx, &a, &b, &mut both);
            elementwise::add_assign(cx, &mut both, &b);
            elementwise::clamp(cx, &mut both, -1.0, 1.5);
            let mut joined = vec![7.0; rows * (c + 3)];
            let (from, to) = (Channels { width: c, at: 0 }, Channels { width: c + 3, at: 2 });
            elementwise::copy_channels(cx, (&a, from), (&mut joined, to), rows, c, false);
            let mut back = b.clone();
            elementwise::copy_channels(cx, (&joined, to), (&mut back, from), rows, c, true);
            vec![sum, both, joined, back]
        });
        let sums: Vec<f64> = (0..c).map(|i| wide(&a)[i..].iter().step_by(c).sum()).collect();
        for (isa, r) in results {
            close(&format!("{isa:?} {rows}x{c} column sum"), &r[0], &sums, 1e-5);
            for i in 0..rows * c {
                assert_eq!(r[1][i], (a[i] + b[i] + b[i]).clamp(-1.0, 1.5));
                assert_eq!(r[3][i], b[i] + a[i]);
                assert_eq!(r[2][i / c * (c + 3) + 2 + i % c], a[i]);
            }
            assert!(r[2].chunks_exact(c + 3).all(|l| l[0] == 7.0 && l[c + 2] == 7.0));
        }
    }
}

#[test]
fn dropout_keeps_the_mean_and_depends_on_seed_step_and_layer_alone() {
    // Few numbers say little of a share.
    let (n, near) = or_for_miri((100_000, 0.005), (400, 0.1));
    let x = vec![1.0f32; n];
    let mask = |seed, step, layer| Mask { seed, step, layer, rate: 0.3 };
    let draw = |m: Mask| {
        let results = everywhere(|cx| {
            let mut y = vec![0.0; n];
            dropout::apply(cx, &m, &x, &mut y, false);
            vec![y]
        });
        let first = results[0].1[0].clone();
        assert!(results.iter().all(|(_, r)| r[0] == first), "instruction sets differ");
        first
    };
    let y = draw(mask(1, 2, 3));
    let zeros = y.iter().filter(|v| **v == 0.0).count() as f64 / n as f64;
    assert!((zeros - 0.3).abs() < near, "{zeros}");
    assert!(y.iter().all(|v| *v == 0.0 || (v - 1.0 / 0.7).abs() < 1e-6));
    // Neighbours are independent: the share of two zeros in a row is the square.
    let pairs = y.windows(2).filter(|w| w[0] == 0.0 && w[1] == 0.0).count() as f64 / n as f64;
    assert!((pairs - 0.09).abs() < near, "{pairs}");
    assert_eq!(y, draw(mask(1, 2, 3)));
    for other in [mask(2, 2, 3), mask(1, 3, 3), mask(1, 2, 4)] {
        let z = draw(other);
        let same = y.iter().zip(&z).filter(|(a, b)| a == b).count() as f64 / n as f64;
        assert!((same - 0.58).abs() < 2.0 * near, "masks are related: {same}");
    }
}

#[test]
fn maps_times_a_gate() {
    for (n, pixels, c) in or_for_miri(
        [(1, 1, 1), (3, 7, 5), (2, 30, 17), (3, 49, 64), (2, 5, 100)],
        [(1, 1, 1), (3, 7, 5), (2, 9, 17), (1, 3, 64), (2, 1, 40)],
    ) {
        let (x, dy) = (numbers(n * pixels * c, 1), numbers(n * pixels * c, 2));
        let (gate, first) = (numbers(n * c, 3), numbers(n * pixels * c, 4));
        let results = everywhere(|cx| {
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], first.clone());
            gate::forward(cx, pixels, &x, &gate, &mut y, c);
            gate::backward_map(cx, pixels, &dy, &gate, &mut dx, c, true);
            let (mut once, mut twice) = (vec![f32::NAN; n * c], vec![1.0; n * c]);
            gate::backward_gate(cx, pixels, &dy, &x, &mut once, c, false);
            gate::backward_gate(cx, pixels, &dy, &x, &mut twice, c, true);
            vec![y, dx, once, twice]
        });
        let (x, dy, first) = (wide(&x), wide(&dy), wide(&first));
        let at = |i: usize| f64::from(gate[i / (pixels * c) * c + i % c]);
        let y: Vec<f64> = (0..x.len()).map(|i| x[i] * at(i)).collect();
        let dx: Vec<f64> = (0..x.len()).map(|i| first[i] + dy[i] * at(i)).collect();
        let mut sums = vec![0.0; n * c];
        for i in 0..x.len() {
            sums[i / (pixels * c) * c + i % c] += x[i] * dy[i];
        }
        let added: Vec<f64> = sums.iter().map(|v| v + 1.0).collect();
        for (isa, r) in results {
            for (k, want) in [&y, &dx, &sums, &added].into_iter().enumerate() {
                close(&format!("{isa:?} {n}x{pixels}x{c} {k}"), &r[k], want, 2e-6);
            }
        }
    }
}

#[test]
fn rows_taken_and_maps_scaled() {
    for (rows, c) in SIZES.iter().copied() {
        let x = numbers(rows * c, 1);
        for to in [c, c + 3, c.div_ceil(2)] {
            let results = everywhere(|cx| {
                // Every row but the first comes from the one before it.
                let pick = |r: usize| r.checked_sub(1);
                let (mut y, mut added) = (vec![f32::NAN; rows * to], vec![1.0; rows * to]);
                elementwise::gather_rows(cx, &x, &mut y, (c, to), false, pick);
                elementwise::gather_rows(cx, &x, &mut added, (c, to), true, pick);
                let (mut copy, mut filled) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
                elementwise::copy(cx, &x, &mut copy);
                elementwise::multiply(cx, &mut copy, -0.5);
                elementwise::fill(cx, &mut filled, 7.0);
                vec![y, added, copy, filled, vec![elementwise::sum_of_squares(&x) as f32]]
            });
            let at = |i: usize| match (i / to, i % to) {
                (r, k) if r > 0 && k < c => x[(r - 1) * c + k],
                _ => 0.0,
            };
            let squares: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
            for (isa, r) in results {
                let name = format!("{isa:?} {rows}x{c} to {to}");
                assert!((0..rows * to).all(|i| r[0][i] == at(i)), "{name}");
                assert!((0..rows * to).all(|i| r[1][i] == 1.0 + at(i)), "{name} added");
                assert!(r[2].iter().zip(&x).all(|(a, b)| *a == b * -0.5), "{name} scaled");
                assert!(r[3].iter().all(|v| *v == 7.0), "{name} filled");
                close(&name, &r[4], &[squares], 1e-6);
            }
        }
    }
}
