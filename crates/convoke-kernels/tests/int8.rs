//! Convolutions in integers of 8 bits: every way to multiply gives the very numbers of the plain formula, which
//! are as near to the float convolution as steps of that size allow.

use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Int8, Range8};
use convoke_kernels::{Ctx, Isa, Pool};

fn numbers(n: usize, seed: u64, lo: f32, hi: f32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            lo + (hi - lo) * (s >> 40) as f32 / (1u64 << 24) as f32
        })
        .collect()
}

fn shape(
    (h, w, c): (usize, usize, usize),
    (kh, kw, d): (usize, usize, usize),
    step: usize,
    pad: usize,
    dilation: usize,
) -> ConvShape {
    let out = |x: usize, k: usize| (x + 2 * pad - (k - 1) * dilation - 1) / step + 1;
    ConvShape {
        h,
        w,
        c,
        kh,
        kw,
        d,
        sh: step,
        sw: step,
        top: pad,
        left: pad,
        dh: dilation,
        dw: dilation,
        groups: 1,
        oh: out(h, kh),
        ow: out(w, kw),
    }
}

/// Few and small ones for Miri (`CONTRIBUTING.md`), which takes ten thousand times longer: every tail and edge, no size.
fn miri_shapes() -> Vec<(usize, ConvShape)> {
    vec![
        (1, shape((1, 1, 1), (1, 1, 1), 1, 0, 1)),
        (1, shape((3, 3, 3), (3, 3, 9), 1, 1, 1)),
        (1, shape((3, 4, 2), (3, 3, 17), 2, 1, 1)),
        (1, shape((5, 4, 4), (3, 2, 5), 3, 1, 2)),
        (5, shape((1, 1, 70), (1, 1, 3), 1, 0, 1)),
        (2, shape((2, 3, 5), (1, 1, 18), 1, 0, 1)),
        (1, shape((1, 2, 1), (3, 3, 2), 1, 3, 1)),
        (1, shape((9, 3, 2), (3, 3, 2), 1, 1, 1)),
    ]
}

fn shapes() -> Vec<(usize, ConvShape)> {
    if cfg!(miri) {
        return miri_shapes();
    }
    vec![
        (1, shape((1, 1, 1), (1, 1, 1), 1, 0, 1)),
        (3, shape((5, 6, 5), (3, 3, 17), 1, 1, 1)),
        (2, shape((7, 7, 16), (3, 3, 32), 1, 1, 1)),
        (5, shape((7, 7, 33), (3, 3, 40), 1, 1, 1)),
        (2, shape((28, 28, 1), (5, 5, 6), 1, 2, 1)),
        (2, shape((23, 23, 3), (7, 7, 64), 2, 3, 1)),
        (2, shape((11, 13, 34), (3, 3, 35), 2, 1, 1)),
        (2, shape((12, 12, 40), (1, 1, 70), 2, 0, 1)),
        (3, shape((9, 8, 40), (1, 1, 70), 1, 0, 1)),
        (2, shape((10, 9, 4), (3, 2, 5), 3, 1, 2)),
        (33, shape((1, 1, 100), (1, 1, 10), 1, 0, 1)),
        (2, shape((31, 30, 24), (5, 5, 48), 1, 2, 1)),
        (2, shape((56, 56, 64), (1, 1, 96), 1, 0, 1)),
        (9, shape((7, 7, 256), (3, 3, 48), 1, 1, 1)),
        (2, shape((6, 6, 3), (3, 3, 4), 1, 4, 1)),
        (1, shape((1, 1, 9216), (1, 1, 40), 1, 0, 1)),
    ]
}

struct Input {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    range: Range8,
}

fn input(n: usize, s: &ConvShape, lo: f32) -> Input {
    Input {
        // Some numbers leave the range.
        x: numbers(n * s.x_len(), 1, lo * 1.2, 1.1),
        w: numbers(s.filter_len(), 2, -0.5, 0.7),
        bias: numbers(s.d, 3, -1.0, 1.0),
        residual: numbers(n * s.y_len(), 4, -1.0, 1.0),
        range: Range8::new(lo, 1.0).unwrap(),
    }
}

fn run(way: Int8, n: usize, s: &ConvShape, i: &Input, threads: usize) -> Vec<f32> {
    let isa = Isa::detect();
    let conv = Conv::new(*s, isa, n, threads).int8(i.range, Some(way));
    assert!(conv.is_int8());
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa };
    let mut pack = vec![f32::NAN; conv.forward_pack_len()];
    let pack = conv.pack_forward(cx, &i.w, &mut pack);
    let mut y = vec![f32::NAN; n * s.y_len()];
    let mut scratch = vec![f32::NAN; conv.forward_scratch_len()];
    let epilogue = Epilogue {
        bias: Some(&i.bias),
        residual: Some((&i.residual).into()),
        clamp: Some((0.0, 6.0)),
        tally: None,
    };
    conv.forward(cx, n, (&i.x).into(), pack, &mut y, epilogue, &mut scratch);
    y
}

/// `(by integers, by floats, what the difference may be)`, without bounds.
fn plain(n: usize, s: &ConvShape, i: &Input) -> Vec<(f32, f64, f64)> {
    let (step, zero) = (i.range.scale(), i32::from(i.range.zero()));
    let mut scales = vec![0.0f32; s.d];
    for (k, w) in i.w.iter().enumerate() {
        scales[k % s.d] = scales[k % s.d].max(w.abs());
    }
    scales.iter_mut().for_each(|s| *s /= 127.0);
    let mut out = Vec::new();
    for at in 0..n * s.y_len() {
        let (f, pixel) = (at % s.d, at / s.d);
        let (p, oy, ox) = (pixel / (s.oh * s.ow), pixel / s.ow % s.oh, pixel % s.ow);
        let (mut sum, mut float, mut error) = (0i32, 0.0, 0.0);
        for (kh, kw) in (0..s.kh).flat_map(|kh| (0..s.kw).map(move |kw| (kh, kw))) {
            let (y, x) = ((oy * s.sh + kh * s.dh), (ox * s.sw + kw * s.dw));
            let (Some(y), Some(x)) = (y.checked_sub(s.top), x.checked_sub(s.left)) else {
                continue;
            };
            if y >= s.h || x >= s.w {
                continue;
            }
            for c in 0..s.c {
                let x = i.x[((p * s.h + y) * s.w + x) * s.c + c];
                let w = i.w[((kh * s.kw + kw) * s.c + c) * s.d + f];
                let (q, qw) = (i32::from(i.range.quantize(x)), (w / scales[f]).round_ties_even());
                sum += (q - zero) * qw as i32;
                float += f64::from(x) * f64::from(w);
                let dx = f64::from(x - (q - zero) as f32 * step).abs();
                let dw = f64::from(scales[f]) / 2.0;
                error += dx * f64::from(w.abs()) + dw * (f64::from(x.abs()) + dx);
            }
        }
        let by_integers = sum as f32 * (scales[f] * step) + i.bias[f] + i.residual[at];
        let more = f64::from(i.bias[f]) + f64::from(i.residual[at]);
        out.push((by_integers, float + more, error + 1e-4));
    }
    out
}

#[test]
fn every_way_gives_the_numbers_of_the_formula_on_any_count_of_threads() {
    for (n, s) in shapes() {
        for lo in [0.0, -0.8] {
            let i = input(n, &s, lo);
            let wanted = plain(n, &s, &i);
            for way in Int8::available() {
                for threads in [1, 3] {
                    let y = run(way, n, &s, &i, threads);
                    for (at, (&y, w)) in y.iter().zip(&wanted).enumerate() {
                        let bound = w.0.clamp(0.0, 6.0);
                        assert!(y == bound, "{way:?} {s:?} at {at}: {y} is not {bound}");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_are_as_near_as_their_steps_allow() {
    for (n, s) in shapes() {
        let i = input(n, &s, -0.8);
        for (by_integers, float, may) in plain(n, &s, &i) {
            let off = (f64::from(by_integers) - float).abs();
            assert!(off <= may, "{s:?}: off by {off}, at most {may}");
        }
    }
}

#[test]
fn ranges_hold_zero_and_whatever_is_given() {
    for (lo, hi) in [(0.0, 0.0), (1.0, 3.0), (-2.0, -1.0), (-1.0, 1e-3), (0.0, 1e30)] {
        let r = Range8::new(lo, hi).unwrap();
        assert_eq!(r.quantize(0.0), r.zero());
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, lo, hi] {
            let _ = r.quantize(x);
        }
        if lo < hi {
            let step = r.scale();
            let back = |x: f32| (f32::from(r.quantize(x)) - f32::from(r.zero())) * step;
            assert!((back(hi.max(0.0)) - hi.max(0.0)).abs() <= step);
            assert!((back(lo.min(0.0)) - lo.min(0.0)).abs() <= step);
        }
    }
    assert!(Range8::new(f32::NAN, 1.0).is_none());
    assert!(Range8::new(1.0, -1.0).is_none());
    assert!(Range8::new(f32::NEG_INFINITY, 1.0).is_none());
}

#[test]
fn sums_that_could_overflow_stay_floats() {
    let s = shape((1, 1, 70_000), (1, 1, 4), 1, 0, 1);
    let range = Range8::new(0.0, 1.0).unwrap();
    assert!(!Conv::new(s, Isa::detect(), 1, 1).int8(range, None).is_int8());
}
