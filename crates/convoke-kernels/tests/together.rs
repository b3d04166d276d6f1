//! The way back through a one-pixel convolution in one walk: both gradients are those of two walks, with a norm behind
//! those of its own pass before, and the sums of a norm in front those of a pass after; the same for any number of threads.

mod common;

use common::{everywhere, numbers, or_for_miri, shape};
use convoke_kernels::conv::{Conv, ConvShape, Onto};
use convoke_kernels::norm::{self, Behind, Clamped, Pending, Saved, Source, SumsOf, Tally};
use convoke_kernels::reference::conv as reference;
use convoke_kernels::{Ctx, Isa};
use std::cell::RefCell;
use std::collections::HashMap;

/// Pictures that are planned for, those that come, and their convolution.
fn cases() -> Vec<(usize, usize, ConvShape)> {
    let all = vec![
        (6, 6, shape((40, 37), 19, 128, 1, 1)),
        (9, 7, shape((33, 29), 64, 144, 1, 1)),
        (9, 9, shape((90, 81), 5, 16, 1, 1)),
        (4, 2, shape((61, 40), 33, 192, 1, 1)),
        (6, 5, shape((40, 37), 144, 24, 1, 1)),
        (9, 9, shape((33, 29), 131, 61, 1, 1)),
    ];
    let few = vec![(2, 2, shape((3, 4), 5, 16, 1, 1)), (3, 1, shape((2, 3), 17, 23, 1, 1))];
    or_for_miri(all, few)
}

/// What a case is made of.
struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
    /// The map behind, which a norm takes, and what it makes of the gradient: a, b, k.
    raw: Vec<f32>,
    slopes: [Vec<f32>; 3],
    first: Vec<f32>,
    norm: [Vec<f32>; 3],
}

impl Data {
    fn new(n: usize, s: &ConvShape) -> Self {
        Data {
            x: numbers(n * s.x_len(), 1),
            w: numbers(s.filter_len(), 2),
            dy: numbers(n * s.y_len(), 3),
            raw: numbers(n * s.y_len(), 4),
            slopes: [5, 6, 7].map(|seed| numbers(s.d, seed)),
            first: numbers(n * s.x_len(), 8),
            norm: [9, 10, 11].map(|seed| numbers(s.c, seed)),
        }
    }

    /// The gradient as it reaches the convolution.
    fn gradient(&self, behind: bool) -> Vec<f32> {
        let [a, b, k] = &self.slopes;
        let made = |(i, (&g, &x)): (usize, (&f32, &f32))| {
            let c = i % a.len();
            g.mul_add(a[c], x.mul_add(b[c], k[c]))
        };
        match behind {
            true => self.dy.iter().zip(&self.raw).enumerate().map(made).collect(),
            false => self.dy.clone(),
        }
    }
}

/// A variant: with a norm behind, with a norm in front whose sums are made, onto what is there.
#[derive(Debug, Clone, Copy)]
struct Way {
    behind: bool,
    front: bool,
    accumulate: bool,
}

const WAYS: [Way; 4] = [
    Way { behind: false, front: false, accumulate: false },
    Way { behind: true, front: false, accumulate: true },
    Way { behind: true, front: true, accumulate: false },
    Way { behind: false, front: true, accumulate: true },
];

/// dx, dw and the sums of the norm in front.
fn together(
    cx: Ctx,
    (batch, n, s): (usize, usize, ConvShape),
    d: &Data,
    way: Way,
) -> [Vec<f32>; 4] {
    let conv = Conv::new(s, cx.isa, batch, cx.pool.threads()).together();
    assert!(conv.is_together(), "{s:?}");
    let [scale, shift, mean] = &d.norm;
    let norm = way.front.then_some(Pending { scale, shift, clamp: (0.0, 0.6) });
    let source = Source { x: (&d.x).into(), norm };
    let behind =
        way.behind.then(|| Behind { x: &d.raw, slopes: d.slopes.each_ref().map(|s| &s[..]) });
    let nan = |len| vec![f32::NAN; len];
    let (mut dx, mut dw) = (d.first.clone(), nan(s.filter_len()));
    let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![0.0; s.c]);
    let (mut pack, mut scratch) = (nan(conv.backward_pack_len()), nan(conv.together_scratch_len()));
    let pack = conv.pack_backward(cx, &d.w, &mut pack);
    let shards = conv.shards()[1];
    let mut space = nan(norm::space_len(shards, s.c));
    let tally = way.front.then(|| Tally::gradient(shards, source, mean, &mut space));
    let onto = Onto { accumulate: way.accumulate, tally: tally.as_ref() };
    conv.backward(cx, n, (source, &d.dy, behind), pack, (&mut dx, onto), &mut dw, &mut scratch);
    if way.front {
        let invstd = vec![1.0; s.c];
        let sums = SumsOf { mean, invstd: &invstd, dgamma: &mut dgamma, dbeta: &mut dbeta };
        norm::tallied_sums(cx.isa, &space, shards, sums);
    }
    [dx, dw, dgamma, dbeta]
}

fn close(what: &str, got: &[f32], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let bound = bound + 4.0 * f64::from(f32::EPSILON) * w.abs();
        assert!((f64::from(g) - w).abs() <= bound, "{what}[{i}]: {g} instead of {w}");
    }
}

/// The same of plain references and passes of their own.
fn check(cx: Ctx, (_, n, s): (usize, usize, ConvShape), d: &Data, way: Way, got: &[Vec<f32>; 4]) {
    let what = |name: &str| format!("{:?} {s:?} {way:?} {name}", cx.isa);
    let [scale, shift, mean] = &d.norm;
    let g = d.gradient(way.behind);
    let mut x = d.x.clone();
    if way.front {
        norm::apply(cx, &d.x, scale, shift, None, Some((0.0, 0.6)), &mut x);
    }
    let eps = f64::from(f32::EPSILON);
    let mut dx = reference::backward_data(&s, n, &g, &d.w);
    if way.accumulate {
        dx.iter_mut().zip(&d.first).for_each(|(v, &f)| *v += f64::from(f));
    }
    let inside = |i: usize| !way.front || x[i] > 0.0 && x[i] < 0.6;
    let masked: Vec<f64> =
        dx.iter().enumerate().map(|(i, &v)| if inside(i) { v } else { 0.0 }).collect();
    close(&what("dx"), &got[0], &masked, 32.0 * (s.d as f64).sqrt() * eps);
    let dw = reference::backward_weights(&s, n, &x, &g);
    let pixels = (n * s.oh * s.ow) as f64;
    close(&what("dw"), &got[1], &dw, 32.0 * pixels.sqrt() * eps);
    if !way.front {
        return;
    }
    // Sums are checked against those of the gradient that was written: it rounds, they do not add to that.
    let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![0.0f64; s.c]);
    for (i, &v) in got[0].iter().enumerate() {
        let c = i % s.c;
        dbeta[c] += f64::from(v);
        dgamma[c] += f64::from(v) * f64::from(d.x[i] - mean[c]);
    }
    close(&what("dgamma"), &got[2], &dgamma, 64.0 * pixels.sqrt() * (s.d as f64).sqrt() * eps);
    close(&what("dbeta"), &got[3], &dbeta, 64.0 * pixels.sqrt() * (s.d as f64).sqrt() * eps);
}

#[test]
fn both_gradients_are_those_of_two_walks() {
    for case in cases() {
        let data = Data::new(case.1, &case.2);
        for way in WAYS {
            let first: RefCell<HashMap<Isa, [Vec<f32>; 4]>> = RefCell::default();
            everywhere(|cx| {
                let got = together(cx, case, &data, way);
                if let Some(first) = first.borrow().get(&cx.isa) {
                    assert!(*first == got, "{case:?} {way:?}: threads change bits");
                    return;
                }
                check(cx, case, &data, way, &got);
                first.borrow_mut().insert(cx.isa, got);
            });
        }
    }
}

/// The slopes make what the pass of the norm makes.
#[test]
fn slopes_are_those_of_a_pass() {
    let (rows, c) = or_for_miri((777, 35), (9, 17));
    let (x, first) = (numbers(rows * c, 1), numbers(rows * c, 2));
    let [mean, invstd, gamma, dgamma, dbeta] = [3, 4, 5, 6, 7].map(|seed| numbers(c, seed));
    let (clamped, mean, invstd) = (Clamped::No, &mean[..], &invstd[..]);
    let saved = Saved { x: (&x).into(), clamped, mean, invstd, gamma: &gamma };
    let [mut a, mut b, mut k] = [(); 3].map(|()| vec![f32::NAN; c]);
    norm::slopes(rows, [mean, invstd, &gamma], [&dgamma, &dbeta], [&mut a, &mut b, &mut k]);
    let of = |i: usize| first[i].mul_add(a[i % c], x[i].mul_add(b[i % c], k[i % c]));
    let want: Vec<f32> = (0..rows * c).map(of).collect();
    everywhere(|cx| {
        let (mut dy, mut scratch) = (first.clone(), vec![f32::NAN; 3 * c]);
        norm::backward_data(cx, saved, &mut dy, &dgamma, &dbeta, None, &mut scratch);
        // Where an instruction set has no fused multiply-add, it is made of two roundings.
        let same = dy.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()));
        assert!(same, "{:?}", cx.isa);
    });
}

/// Other convolutions go back in two walks.
#[test]
fn others_stay_as_they_are() {
    let s = shape((40, 37), 19, 128, 1, 1);
    let of = |s: ConvShape, n: usize| Conv::new(s, Isa::Portable, n, 1).together().is_together();
    assert!(of(s, 6) && (cfg!(miri) || !of(s, 1)));
    let strided = ConvShape { sh: 2, sw: 2, oh: 20, ow: 19, ..s };
    for other in [strided, ConvShape { groups: 2, c: 18, ..s }, ConvShape { c: 65, ..s }] {
        assert!(!of(other, 6), "{other:?}");
    }
    assert!(!of(shape((40, 37), 19, 128, 3, 1), 6));
}
