//! Maps long enough to be written past the caches hold the same bits as short ones.
#![cfg(not(miri))]

mod common;

use common::numbers;
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Precision, Winograd};
use convoke_kernels::norm::{self, Clamped, Pending, Saved, Source, SumsOf};
use convoke_kernels::{Ctx, Isa, Pool, depthwise};

/// Two of these pictures are long, one is not.
const SIDE: usize = 240;
const CHANNELS: usize = 64;
const BATCH: usize = 2;

/// Room for a map at a multiple of a cache line, NaN.
struct Map(Vec<f32>, std::ops::Range<usize>);

impl Map {
    fn new(len: usize) -> Self {
        // Memory that begins there needs no more, so that nothing lies between a map and its end (`guarded`).
        let exact = vec![f32::NAN; len];
        let aligned = exact.as_ptr().align_offset(64) == 0;
        let room = if aligned { exact } else { vec![f32::NAN; len + 16] };
        let skip = room.as_ptr().align_offset(64);
        Map(room, skip..skip + len)
    }

    fn get(&mut self) -> &mut [f32] {
        &mut self.0[self.1.clone()]
    }
}

fn everywhere(f: impl Fn(Ctx)) {
    let pool = Pool::new(2);
    Isa::available().into_iter().for_each(|isa| f(Ctx { pool: &pool, isa }));
}

fn shape(side: usize, c: usize, k: usize, d: usize, step: usize, groups: usize) -> ConvShape {
    ConvShape {
        h: side,
        w: side,
        kh: k,
        kw: k,
        c,
        d,
        sh: step,
        sw: step,
        top: k / 2,
        left: k / 2,
        dh: 1,
        dw: 1,
        groups,
        oh: side.div_ceil(step),
        ow: side.div_ceil(step),
    }
}

/// `f(first picture, pictures, out)` gives the same for all pictures at once and for one at a time.
fn at_once_as_one_by_one(what: &str, picture: usize, f: impl Fn(usize, usize, &mut [f32])) {
    let (mut all, mut one) = (Map::new(BATCH * picture), Map::new(picture));
    f(0, BATCH, all.get());
    for p in 0..BATCH {
        f(p, 1, one.get());
        assert!(all.get()[p * picture..][..picture] == *one.get(), "{what}, picture {p}");
    }
}

/// The gradient of a dense layer's weights, which goes past the caches where it begins at a cache line.
#[test]
fn gradients_of_dense_weights() {
    let (n, s) = (3, ConvShape::dense(1301, 4096));
    let (x, dy) = (numbers(n * s.c, 1), numbers(n * s.d, 2));
    everywhere(|cx| {
        for precision in [Precision::F32, Precision::Bf16] {
            let conv = Conv::new(s, cx.isa, n, 2).precision(precision).unpacked();
            let mut scratch = vec![f32::NAN; conv.weights_scratch_len()];
            let (mut long, mut beside) = (Map::new(s.filter_len()), Map::new(s.filter_len() + 1));
            conv.backward_weights(cx, n, (&x).into(), &dy, long.get(), &mut scratch);
            let beside = &mut beside.get()[1..];
            conv.backward_weights(cx, n, (&x).into(), &dy, beside, &mut scratch);
            assert!(long.get() == beside, "{:?} {precision:?}", cx.isa);
        }
    });
}

/// How products are made.
#[derive(Debug, Clone, Copy)]
enum How {
    Direct,
    Winograd,
    Bf16,
}

#[test]
fn convolutions() {
    everywhere(|cx| {
        for (few, k, step, how) in [
            (16, 1, 1, How::Direct),
            (3, 3, 1, How::Direct),
            (3, 3, 1, How::Winograd),
            (8, 1, 2, How::Direct),
            (16, 1, 1, How::Bf16),
            (8, 1, 2, How::Bf16),
            (4, 3, 1, How::Bf16),
        ] {
            let planned = |s| {
                let conv = Conv::new(s, cx.isa, BATCH, 2);
                match how {
                    How::Direct => conv,
                    How::Winograd => conv.winograd(Winograd::Always(4)),
                    How::Bf16 => conv.all_in(Precision::Bf16),
                }
            };
            let isa = cx.isa;
            let (wide, narrow) = (step * SIDE, SIDE);
            let s = shape(wide, few, k, CHANNELS, step, 1);
            let conv = planned(s);
            let (x, w, bias) =
                (numbers(BATCH * s.x_len(), 1), numbers(s.filter_len(), 2), numbers(CHANNELS, 3));
            let mut pack = vec![0.0; conv.forward_pack_len()];
            let pack = conv.pack_forward(cx, &w, &mut pack);
            // Sums of bf16 only go past the caches as they are.
            let e = match how {
                How::Bf16 => Epilogue::default(),
                _ => Epilogue {
                    bias: Some(&bias),
                    residual: None,
                    clamp: Some((0.0, 0.8)),
                    tally: None,
                },
            };
            at_once_as_one_by_one(
                &format!("{isa:?} {how:?} {k}x{k}/{step} forward"),
                s.y_len(),
                |p, n, y| {
                    let mut scratch = vec![0.0; conv.forward_scratch_len()];
                    conv.forward(cx, n, (&x[p * s.x_len()..]).into(), pack, y, e, &mut scratch);
                },
            );
            let s = shape(narrow, CHANNELS, k, few, step, 1);
            let conv = planned(s);
            let (dy, w) = (numbers(BATCH * s.y_len(), 1), numbers(s.filter_len(), 2));
            let mut pack = vec![0.0; conv.backward_pack_len()];
            let pack = conv.pack_backward(cx, &w, &mut pack);
            at_once_as_one_by_one(
                &format!("{isa:?} {how:?} {k}x{k}/{step} data"),
                s.x_len(),
                |p, n, dx| {
                    let mut scratch = vec![0.0; conv.backward_scratch_len()];
                    conv.backward_data(cx, n, &dy[p * s.y_len()..], pack, dx, false, &mut scratch);
                },
            );
        }
    });
}

#[test]
fn depthwise_convolutions() {
    everywhere(|cx| {
        let isa = cx.isa;
        let s = shape(SIDE, CHANNELS, 3, CHANNELS, 1, CHANNELS);
        let (x, filters) = (numbers(BATCH * s.x_len(), 1), numbers(s.filter_len(), 2));
        let (scale, shift) = (numbers(CHANNELS, 3), numbers(CHANNELS, 4));
        let norm = Pending { scale: &scale, shift: &shift, clamp: (0.0, 6.0) };
        for norm in [None, Some(norm)] {
            let what = format!("{isa:?} forward, norm {}", norm.is_some());
            at_once_as_one_by_one(&what, s.y_len(), |p, n, y| {
                let x = Source { x: (&x[p * s.x_len()..]).into(), norm };
                depthwise::forward(cx, &s, n, x, &filters, y, Default::default());
            });
        }
        at_once_as_one_by_one(&format!("{isa:?} data"), s.x_len(), |p, n, dx| {
            depthwise::backward_data(cx, &s, n, &x[p * s.y_len()..], &filters, dx, false);
        });
        at_once_as_one_by_one(&format!("{isa:?} backward"), s.x_len(), |p, n, dx| {
            let source = Source { x: (&x[p * s.x_len()..]).into(), norm: Some(norm) };
            let mut dw = vec![f32::NAN; s.filter_len()];
            let mut scratch = vec![f32::NAN; depthwise::scratch_len(&s, n)];
            let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![f32::NAN; CHANNELS]);
            let (dgamma, dbeta) = (&mut dgamma[..], &mut dbeta[..]);
            let of_norm = SumsOf { mean: &shift, invstd: &scale, dgamma, dbeta };
            let sums = depthwise::Sums { dw: &mut dw, norm: Some(of_norm), scratch: &mut scratch };
            let dy = (&x[p * s.y_len()..]).into();
            depthwise::backward(cx, &s, n, (source, dy), &filters, (dx.into(), false), sums);
        });
    });
}

#[test]
fn norms() {
    let len = SIDE * SIDE * CHANNELS;
    let (x, residual, per) =
        (numbers(BATCH * len, 1), numbers(BATCH * len, 2), numbers(CHANNELS, 3));
    everywhere(|cx| {
        at_once_as_one_by_one(&format!("{:?} apply", cx.isa), len, |p, n, y| {
            let range = p * len..(p + n) * len;
            let (x, residual) = (&x[range.clone()], Some(&residual[range]));
            norm::apply(cx, x, &per, &per, residual.map(Into::into), Some((0.0, 1.0)), y);
        });
        let saved =
            Saved { x: (&x).into(), clamped: Clamped::No, mean: &per, invstd: &per, gamma: &per };
        let (mut dx, mut in_place) = (Map::new(BATCH * len), residual.clone());
        let mut scratch = vec![0.0; 3 * CHANNELS];
        let mut dy = residual.clone();
        norm::backward_data(cx, saved, &mut dy, &per, &per, Some(dx.get().into()), &mut scratch);
        norm::backward_data(cx, saved, &mut in_place, &per, &per, None, &mut scratch);
        assert!(*dx.get() == in_place, "{:?} backward data", cx.isa);
    });
}
