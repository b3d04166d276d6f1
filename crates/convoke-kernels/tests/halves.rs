//! Maps of bf16 give what maps of f32 that hold the same numbers give, rounded once at the end, bit for bit.

mod common;

use common::{everywhere, numbers, or_for_miri, shape};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Precision, Winograd};
use convoke_kernels::norm::{self, Clamped, Pending, Saved, Source, Statistics, SumsOf};
use convoke_kernels::pool2d::{self, PoolShape};
use convoke_kernels::shortcut::{self, ShortcutShape};
use convoke_kernels::{Bf16, Ctx, Isa, Map, Pool, depthwise, elementwise};

/// A map of bf16, and the same numbers in f32.
struct Both {
    half: Vec<Bf16>,
    full: Vec<f32>,
}

fn both(n: usize, seed: u64) -> Both {
    let half: Vec<Bf16> = numbers(n, seed).into_iter().map(Bf16::new).collect();
    Both { full: half.iter().map(|h| h.get()).collect(), half }
}

fn rounded(full: &[f32]) -> Vec<Bf16> {
    full.iter().map(|&x| Bf16::new(x)).collect()
}

/// All passes of a convolution, with maps of bf16 or of f32.
struct Passes<'a> {
    cx: Ctx<'a>,
    conv: &'a Conv,
    n: usize,
    w: Vec<f32>,
    norm: Option<Pending<'a>>,
}

impl Passes<'_> {
    fn check(&self, said: &str) {
        let s = self.conv.shape();
        let (n, conv, cx) = (self.n, self.conv, self.cx);
        let (x, dy) = (both(n * s.x_len(), 1), both(n * s.y_len(), 2));
        let source = |x| Source { x, norm: self.norm };
        let (of_half, of_full) = (source(Map::Half(&x.half)), source(Map::Full(&x.full)));

        let mut pack = vec![f32::NAN; conv.forward_pack_len()];
        let pack = conv.pack_forward(cx, &self.w, &mut pack);
        let mut scratch = vec![f32::NAN; conv.forward_scratch_len()];
        let (mut y, mut wide) = (both(dy.half.len(), 3), vec![f32::NAN; dy.half.len()]);
        let none = Epilogue::default();
        conv.forward(cx, n, of_half, pack, &mut y.half[..], none, &mut scratch);
        conv.forward(cx, n, of_full, pack, &mut y.full, none, &mut scratch);
        assert_eq!(y.half, rounded(&y.full), "{said}: forward");
        // One side alone may be bf16.
        conv.forward(cx, n, of_half, pack, &mut wide, none, &mut scratch);
        assert_eq!(wide, y.full, "{said}: forward to f32");

        let mut pack = vec![f32::NAN; conv.backward_pack_len()];
        let pack = conv.pack_backward(cx, &self.w, &mut pack);
        let mut scratch = vec![f32::NAN; conv.backward_scratch_len()];
        for add in [false, true] {
            let mut dx = both(x.half.len(), 4);
            conv.backward_data(cx, n, &dy.half[..], pack, &mut dx.half[..], add, &mut scratch);
            conv.backward_data(cx, n, &dy.full, pack, &mut dx.full, add, &mut scratch);
            assert_eq!(dx.half, rounded(&dx.full), "{said}: backward data, adding: {add}");
        }

        let mut scratch = vec![f32::NAN; conv.weights_scratch_len()];
        let [mut dw, mut want] = [(); 2].map(|()| vec![f32::NAN; s.filter_len()]);
        conv.backward_weights(cx, n, of_half, &dy.half[..], &mut dw, &mut scratch);
        conv.backward_weights(cx, n, of_full, &dy.full, &mut want, &mut scratch);
        assert_eq!(dw, want, "{said}: backward weights");
        conv.backward_weights(cx, n, of_full, &dy.half[..], &mut dw, &mut scratch);
        assert_eq!(dw, want, "{said}: backward weights from f32");
    }
}

#[test]
fn convolutions_read_and_write_them() {
    if !Conv::has_products(Isa::Avx512, Precision::Bf16) {
        println!("skipped: this machine multiplies no bf16 on vectors");
        return;
    }
    let odd = (9, 7);
    let shapes = [
        (3, shape(odd, 64, 96, 1, 1)),
        (2, shape(odd, 33, 17, 1, 1)),
        (2, shape(odd, 32, 80, 1, 2)),
        (3, shape((7, 7), 1024, 40, 1, 1)),
        (2, shape((14, 14), 2048, 32, 1, 1)),
        (17, shape((8, 8), 48, 130, 1, 1)),
        (2, shape((12, 11), 24, 40, 3, 2)),
        (2, shape((13, 12), 3, 16, 7, 2)),
        (2, shape((14, 14), 20, 33, 5, 1)),
        (3, shape((14, 13), 64, 48, 3, 1)),
        (2, shape((7, 7), 130, 33, 3, 1)),
    ];
    for (n, s) in shapes {
        let (scale, shift) = (numbers(s.c, 5), numbers(s.c, 6));
        let pending = Pending { scale: &scale, shift: &shift, clamp: (0.0, f32::INFINITY) };
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let cx = Ctx { pool: &pool, isa: Isa::Avx512 };
            let direct = Conv::new(s, cx.isa, n, threads).all_in(Precision::Bf16);
            let fewer = direct.clone().winograd(Winograd::Training);
            for (how, conv) in [("direct", direct), ("fewer products", fewer)] {
                assert!(conv.takes_halves());
                for norm in [None, Some(pending)] {
                    let conv = if norm.is_some() { conv.clone().normed() } else { conv.clone() };
                    let w = numbers(s.filter_len(), 7);
                    Passes { cx, conv: &conv, n, w, norm }.check(&format!(
                        "{s:?}, {how}, {threads} threads, norm: {}",
                        norm.is_some()
                    ));
                }
            }
        }
    }
}

#[test]
fn norms_read_and_write_them() {
    everywhere(|cx| {
        let all = vec![(1, 5), (37, 16), (300, 33), (700, 64)];
        for (rows, c) in or_for_miri(all, vec![(1, 5), (9, 17)]) {
            let (x, y, dy) = (both(rows * c, 1), both(rows * c, 2), both(rows * c, 3));
            let [gamma, scale, shift] = [4, 5, 6].map(|seed| numbers(c, seed));
            let mut scratch = vec![f32::NAN; norm::scratch_len(rows, c).max(3 * c)];
            let mut statistics = |x: Map| {
                let [mut mean, mut invstd, mut rm, mut rv] = [(); 4].map(|()| vec![0.5; c]);
                let s = Statistics {
                    mean: &mut mean,
                    invstd: &mut invstd,
                    running_mean: &mut rm,
                    running_var: &mut rv,
                };
                norm::statistics(cx, x, s, 0.1, 1e-5, &mut scratch);
                [mean, invstd, rm, rv]
            };
            let [mean, invstd, ..] = statistics(Map::Full(&x.full));
            assert_eq!(statistics(Map::Half(&x.half)), statistics(Map::Full(&x.full)));

            for residual in [false, true] {
                let mut out = both(rows * c, 7);
                let clamp = Some((0.0, 0.9));
                let (half, full) = (Map::Half(&y.half), Map::Full(&y.full));
                let (half, full) =
                    (Some(half).filter(|_| residual), Some(full).filter(|_| residual));
                norm::apply(cx, &x.half[..], &scale, &shift, half, clamp, &mut out.half[..]);
                norm::apply(cx, &x.full, &scale, &shift, full, clamp, &mut out.full);
                assert_eq!(out.half, rounded(&out.full));
            }

            let anew = Clamped::Anew { scale: &scale, shift: &shift, max: 0.9 };
            let by = |y| Clamped::Output { y, max: 0.9 };
            for (half, full) in [
                (Clamped::No, Clamped::No),
                (by(Map::Half(&y.half)), by(Map::Full(&y.full))),
                (anew, anew),
            ] {
                let saved =
                    |x, clamped| Saved { x, clamped, mean: &mean, invstd: &invstd, gamma: &gamma };
                let half = saved(Map::Half(&x.half), half);
                let full = saved(Map::Full(&x.full), full);
                let [mut dg, mut db, mut want_dg, mut want_db] = [(); 4].map(|()| vec![0.0; c]);
                let mut g = both(rows * c, 3);
                assert_eq!(g.half, dy.half);
                norm::backward_sums(cx, half, &mut g.half[..], &mut dg, &mut db, &mut scratch);
                norm::backward_sums(
                    cx,
                    full,
                    &mut g.full,
                    &mut want_dg,
                    &mut want_db,
                    &mut scratch,
                );
                assert_eq!((&dg, &db), (&want_dg, &want_db));
                assert_eq!(g.half, rounded(&g.full));
                let mut dx = both(rows * c, 8);
                let apart = Some((&mut dx.half[..]).into());
                norm::backward_data(cx, half, &mut g.half[..], &dg, &db, apart, &mut scratch);
                let apart = Some((&mut dx.full).into());
                norm::backward_data(cx, full, &mut g.full, &dg, &db, apart, &mut scratch);
                assert_eq!(dx.half, rounded(&dx.full));
                norm::backward_data(cx, half, &mut g.half[..], &dg, &db, None, &mut scratch);
                assert_eq!(g.half, dx.half);
            }
        }
    });
}

#[test]
fn pools_shortcuts_and_sums_read_and_write_them() {
    everywhere(|cx| {
        let (n, h, w, c, d) = or_for_miri((3, 11, 8, 70, 90), (1, 11, 8, 9, 12));
        let (kh, kw, sh, sw) = (3, 3, 2, 2);
        let (top, left, bottom, right, oh, ow) = (1, 1, 1, 1, 6, 4);
        let s = PoolShape { h, w, c, kh, kw, sh, sw, top, left, bottom, right, oh, ow };
        let (x, dy) = (both(n * h * w * c, 1), both(n * oh * ow * c, 2));
        let mut y = both(dy.half.len(), 3);
        let mut args = [(); 2].map(|()| vec![0u8; dy.half.len()]);
        let [arg, want] = &mut args;
        pool2d::max_forward(cx, &s, n, &x.half[..], &mut y.half[..], arg);
        pool2d::max_forward(cx, &s, n, &x.full, &mut y.full, want);
        assert_eq!((&y.half, &arg), (&rounded(&y.full), &want));
        for add in [false, true] {
            let mut dx = both(x.half.len(), 4);
            pool2d::max_backward(cx, &s, n, &dy.half[..], arg, &mut dx.half[..], add);
            pool2d::max_backward(cx, &s, n, &dy.full, arg, &mut dx.full, add);
            assert_eq!(dx.half, rounded(&dx.full));

            let mut dx = both(x.half.len(), 4);
            let dy = numbers(n * c, 5);
            pool2d::global_mean_backward(cx, h * w, c, &dy, &mut dx.half[..], add);
            pool2d::global_mean_backward(cx, h * w, c, &dy, &mut dx.full, add);
            assert_eq!(dx.half, rounded(&dx.full));
        }
        let s = ShortcutShape { h, w, c, d, stride: (sh, sw) };
        let (mut y, dy) = (both(n * oh * ow * d, 4), both(n * oh * ow * d, 5));
        shortcut::forward(cx, s, &x.half[..], &mut y.half[..]);
        shortcut::forward(cx, s, &x.full, &mut y.full);
        assert_eq!(y.half, rounded(&y.full));
        for add in [false, true] {
            let mut dx = both(x.half.len(), 6);
            shortcut::backward(cx, s, &dy.half[..], &mut dx.half[..], add);
            shortcut::backward(cx, s, &dy.full, &mut dx.full, add);
            assert_eq!(dx.half, rounded(&dx.full));
        }

        let [mut mean, mut want] = [(); 2].map(|()| vec![0.0; n * c]);
        pool2d::global_mean_forward(cx, h * w, c, &x.half[..], &mut mean);
        pool2d::global_mean_forward(cx, h * w, c, &x.full, &mut want);
        assert_eq!(mean, want);

        let mut sum = both(x.half.len(), 6);
        elementwise::add_assign(cx, &mut sum.half[..], &x.half[..]);
        elementwise::add_assign(cx, &mut sum.full, &x.full);
        assert_eq!(sum.half, rounded(&sum.full));
        elementwise::copy(cx, &x.half[..], &mut sum.half[..]);
        assert_eq!(sum.half, x.half);
    });
}

#[test]
fn depthwise_convolutions_read_and_write_them() {
    let all = vec![(2, 3, 1, 70), (2, 3, 2, 33), (1, 5, 1, 16), (3, 5, 2, 8), (2, 2, 3, 20)];
    for (n, k, step, c) in or_for_miri(all, vec![(1, 3, 2, 9)]) {
        let s = ConvShape { groups: c, ..shape((13, 12), c, c, k, step) };
        let (x, dy) = (both(n * s.x_len(), 1), both(n * s.y_len(), 2));
        let (f, scale, shift) = (numbers(s.filter_len(), 3), numbers(c, 4), numbers(c, 5));
        let pending = Pending { scale: &scale, shift: &shift, clamp: (0.0, 0.7) };
        everywhere(|cx| {
            for norm in [None, Some(pending)] {
                let (half, full) = (Map::Half(&x.half), Map::Full(&x.full));
                let (half, full) = (Source { x: half, norm }, Source { x: full, norm });
                let (mut y, e) = (both(dy.half.len(), 6), depthwise::Epilogue::default());
                depthwise::forward(cx, &s, n, half, &f, &mut y.half[..], e);
                depthwise::forward(cx, &s, n, full, &f, &mut y.full, e);
                assert_eq!(y.half, rounded(&y.full), "{s:?}");
                let [mut dw, mut want] = [(); 2].map(|()| vec![f32::NAN; s.filter_len()]);
                let mut scratch = vec![f32::NAN; depthwise::scratch_len(&s, n)];
                depthwise::backward_weights(cx, &s, n, half, &dy.half[..], &mut dw, &mut scratch);
                depthwise::backward_weights(cx, &s, n, full, &dy.full, &mut want, &mut scratch);
                assert_eq!(dw, want, "{s:?}");
                let (mut dx, (half, full)) = (both(x.half.len(), 7), (half, full));
                let [mut sums, mut wanted] = [(); 2].map(|()| vec![vec![f32::NAN; c]; 2]);
                let (half_dx, full_dx) = (&mut dx.half[..], &mut dx.full[..]);
                for (x, dy, dx, dw, sums) in [
                    (half, Map::Half(&dy.half), half_dx.into(), &mut dw, &mut sums),
                    (full, Map::Full(&dy.full), full_dx.into(), &mut want, &mut wanted),
                ] {
                    let [dgamma, dbeta] = &mut sums[..] else { unreachable!() };
                    let norm = norm.map(|_| SumsOf { mean: &shift, invstd: &scale, dgamma, dbeta });
                    let sums = depthwise::Sums { dw, norm, scratch: &mut scratch };
                    depthwise::backward(cx, &s, n, (x, dy), &f, (dx, false), sums);
                }
                assert_eq!((dw, &dx.half), (want, &rounded(&dx.full)), "{s:?}");
                assert!(norm.is_none() || sums == wanted, "{s:?}");
            }
            for add in [false, true] {
                let mut dx = both(x.half.len(), 7);
                depthwise::backward_data(cx, &s, n, &dy.half[..], &f, &mut dx.half[..], add);
                depthwise::backward_data(cx, &s, n, &dy.full, &f, &mut dx.full, add);
                assert_eq!(dx.half, rounded(&dx.full), "{s:?}");
            }
        });
    }
}
