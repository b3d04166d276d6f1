//! Sums that a convolution makes of what it writes: the outputs keep their bits, the sums are those of a pass of their
//! own but for rounding, and the same for any number of threads.

mod common;

use common::{everywhere, numbers, or_for_miri, shape};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Onto};
use convoke_kernels::norm::{self, Clamped, Pending, Saved, Source, Statistics, SumsOf, Tally};
use convoke_kernels::{Bf16, Ctx, Form, Isa, Map, MapMut, depthwise};
use std::cell::RefCell;
use std::collections::HashMap;

/// What is planned for, and how many pictures come.
const BATCH: [(usize, usize); 2] = [(3, 3), (5, 2)];

fn shapes() -> Vec<ConvShape> {
    let all = vec![
        shape((9, 7), 5, 19, 1, 1),
        shape((1, 1), 3, 4, 1, 1),
        shape((14, 14), 24, 144, 1, 1),
        shape((13, 11), 96, 40, 1, 1),
        shape((5, 6), 1024, 1030, 1, 1),
        shape((15, 13), 3, 33, 3, 2),
        shape((12, 10), 8, 20, 3, 1),
        shape((30, 31), 3, 16, 7, 2),
        ConvShape { groups: 2, ..shape((8, 9), 6, 34, 3, 1) },
    ];
    or_for_miri(all, vec![shape((3, 3), 5, 19, 1, 1), shape((5, 4), 3, 6, 3, 2)])
}

/// Floats that begin at a cache line, where maps may be written past the caches.
struct Room(Vec<f32>, usize);

impl Room {
    fn of(numbers: &[f32]) -> Self {
        let mut room = vec![f32::NAN; numbers.len() + 16];
        let skip = room.as_ptr().align_offset(64).min(16);
        room[skip..][..numbers.len()].copy_from_slice(numbers);
        Room(room, skip)
    }

    fn get(&mut self, len: usize) -> &mut [f32] {
        &mut self.0[self.1..][..len]
    }
}

/// The same for any number of threads of an instruction set.
#[derive(Default)]
struct Same(RefCell<HashMap<String, Vec<Vec<f32>>>>);

impl Same {
    fn check(&self, isa: Isa, case: usize, sums: Vec<Vec<f32>>) {
        let mut seen = self.0.borrow_mut();
        let before = seen.entry(format!("{isa:?} {case}")).or_insert_with(|| sums.clone());
        assert!(*before == sums, "{isa:?}, case {case}: threads change bits");
    }
}

fn close(what: &str, got: &[f32], want: &[f32], bound: f32) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound * (1.0 + w.abs()), "{what}: {i}: {g} instead of {w}");
    }
}

/// Mean, inverse deviation and running numbers, filled by `f`.
fn statistics(c: usize, f: impl FnOnce(Statistics)) -> Vec<Vec<f32>> {
    let [mut mean, mut invstd, mut rm, mut rv] = [(); 4].map(|()| vec![0.5; c]);
    f(Statistics {
        mean: &mut mean,
        invstd: &mut invstd,
        running_mean: &mut rm,
        running_var: &mut rv,
    });
    vec![mean, invstd, rm, rv]
}

fn forward(cx: Ctx, s: &ConvShape, (batch, n): (usize, usize)) -> Option<Vec<Vec<f32>>> {
    let conv = Conv::new(*s, cx.isa, batch, cx.pool.threads());
    let [shards, _] = conv.shards();
    if shards == 0 {
        return None;
    }
    let (len, c) = (n * s.y_len(), s.d);
    // A large mean against a small deviation, where careless sums lose everything.
    let bias: Vec<f32> = numbers(c, 3).iter().map(|v| 100.0 + v).collect();
    let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
    let mut pack = vec![f32::NAN; conv.forward_pack_len()];
    let pack = conv.pack_forward(cx, &w, &mut pack);
    let run = |tally: Option<&Tally>| {
        let mut y = Room::of(&vec![f32::NAN; len]);
        let mut scratch = vec![f32::NAN; conv.forward_scratch_len()];
        let e = Epilogue { bias: Some(&bias), residual: None, clamp: None, tally };
        conv.forward(cx, n, (&x).into(), pack, y.get(len), e, &mut scratch);
        y
    };
    let mut space = vec![f32::NAN; norm::space_len(shards, c)];
    let tally = Tally::statistics(shards, c, &mut space);
    let (mut made, mut plain) = (run(Some(&tally)), run(None));
    assert!(made.get(len) == plain.get(len), "{s:?}: outputs differ");
    let got = statistics(c, |s| norm::tallied_statistics(cx.isa, &space, shards, s, 0.1, 1e-5));
    let mut scratch = vec![f32::NAN; norm::scratch_len(len / c, c)];
    let want =
        statistics(c, |s| norm::statistics(cx, &*plain.get(len), s, 0.1, 1e-5, &mut scratch));
    for (got, want) in got.iter().zip(&want) {
        close(&format!("{s:?} statistics"), got, want, 2e-5);
    }
    Some(got)
}

fn backward(
    cx: Ctx,
    s: &ConvShape,
    (batch, n): (usize, usize),
    masked: bool,
) -> Option<Vec<Vec<f32>>> {
    let conv = Conv::new(*s, cx.isa, batch, cx.pool.threads());
    let [_, shards] = conv.shards();
    if shards == 0 {
        return None;
    }
    let (len, c) = (n * s.x_len(), s.c);
    let (dy, w) = (numbers(n * s.y_len(), 1), numbers(s.filter_len(), 2));
    let (x, first) = (numbers(len, 3), numbers(len, 4));
    let [scale, shift, mean] = [5, 6, 7].map(|seed| numbers(c, seed));
    let invstd: Vec<f32> = numbers(c, 8).iter().map(|v| 1.5 + v).collect();
    let mut pack = vec![f32::NAN; conv.backward_pack_len()];
    let pack = conv.pack_backward(cx, &w, &mut pack);
    let clamp = if masked { (0.0, 0.9) } else { (f32::NEG_INFINITY, f32::INFINITY) };
    let norm = Some(Pending { scale: &scale, shift: &shift, clamp });
    let run = |tally: Option<&Tally>| {
        // What is added to is part of the sums.
        let mut dx = Room::of(&first);
        let mut scratch = vec![f32::NAN; conv.backward_scratch_len()];
        let onto = Onto { accumulate: masked, tally };
        conv.backward_data(cx, n, &dy, pack, dx.get(len), onto, &mut scratch);
        dx
    };
    let mut space = vec![f32::NAN; norm::space_len(shards, c)];
    let source = Source { x: (&x).into(), norm };
    let tally = Tally::gradient(shards, source, &mean, &mut space);
    let (mut made, mut plain) = (run(Some(&tally)), run(None));
    let [mut dgamma, mut dbeta, mut want_dgamma, mut want_dbeta] = [(); 4].map(|()| vec![0.0; c]);
    let sums = SumsOf { mean: &mean, invstd: &invstd, dgamma: &mut dgamma, dbeta: &mut dbeta };
    norm::tallied_sums(cx.isa, &space, shards, sums);
    let mut scratch = vec![f32::NAN; norm::scratch_len(len / c, c)];
    let mut y = vec![f32::NAN; len];
    norm::apply(cx, &x, &scale, &shift, None, Some(clamp), &mut y);
    let clamped = match masked {
        true => Clamped::Output { y: (&y).into(), max: 0.9 },
        false => Clamped::No,
    };
    let saved = Saved { x: (&x).into(), clamped, mean: &mean, invstd: &invstd, gamma: &scale };
    let gradient = plain.get(len);
    norm::backward_sums(cx, saved, &mut *gradient, &mut want_dgamma, &mut want_dbeta, &mut scratch);
    assert!(made.get(len) == gradient, "{s:?}: gradients differ");
    let bound = 2e-5 * (s.kh * s.kw * s.d) as f32;
    close(&format!("{s:?} dgamma"), &dgamma, &want_dgamma, bound);
    close(&format!("{s:?} dbeta"), &dbeta, &want_dbeta, bound);
    Some(vec![dgamma, dbeta])
}

#[test]
fn statistics_of_outputs() {
    let (same, shapes) = (Same::default(), shapes());
    everywhere(|cx| {
        let cases = shapes.iter().flat_map(|s| BATCH.map(|b| (s, b))).enumerate();
        for (i, (s, batch)) in cases {
            let sums = forward(cx, s, batch).expect("forward sums in f32");
            same.check(cx.isa, i, sums);
        }
    });
}

#[test]
fn sums_of_gradients() {
    let (same, shapes) = (Same::default(), shapes());
    everywhere(|cx| {
        let mut made = 0;
        let cases = shapes.iter().flat_map(|s| BATCH.map(|b| (s, b))).enumerate();
        for (i, (s, batch)) in cases {
            for masked in [false, true] {
                if let Some(sums) = backward(cx, s, batch, masked) {
                    same.check(cx.isa, 2 * i + usize::from(masked), sums);
                    made += 1;
                }
            }
        }
        assert!(made > 0);
    });
}

/// Maps that go past the caches are summed on their way.
#[test]
#[cfg(not(miri))]
fn long_maps() {
    let same = Same::default();
    let wide = shape((72, 72), 16, 512, 1, 1);
    let narrow = ConvShape { c: 512, d: 16, ..wide };
    everywhere(|cx| {
        same.check(cx.isa, 0, forward(cx, &wide, (2, 2)).expect("sums"));
        same.check(cx.isa, 1, backward(cx, &narrow, (2, 2), false).expect("sums"));
    });
}

/// Those of depthwise convolutions, over maps of f32 and of bf16.
#[test]
fn statistics_of_depthwise_outputs() {
    let same = Same::default();
    let depthwise = |s: ConvShape| ConvShape { groups: s.c, ..s };
    let all = vec![
        depthwise(shape((37, 9), 20, 20, 3, 1)),
        depthwise(shape((11, 14), 33, 33, 5, 2)),
        depthwise(shape((6, 5), 16, 16, 4, 1)),
    ];
    let shapes = or_for_miri(all, vec![depthwise(shape((5, 4), 5, 5, 3, 2))]);
    everywhere(|cx| {
        for (i, s) in shapes.iter().enumerate() {
            let (n, c) = (2, s.c);
            let (len, bias) = (n * s.y_len(), vec![100.0; c]);
            let (x, w) = (numbers(n * s.x_len(), 1), numbers(s.filter_len(), 2));
            for form in [Form::Full, Form::Half] {
                let of = |numbers: &[f32]| {
                    let mut map = vec![0.0; numbers.len()];
                    match MapMut::of(&mut map, form) {
                        MapMut::Half(m) => {
                            m.iter_mut().zip(numbers).for_each(|(m, &x)| *m = Bf16::new(x));
                        }
                        MapMut::Full(m) => m.copy_from_slice(numbers),
                        MapMut::Bytes(..) => unreachable!(),
                    }
                    map
                };
                let x = of(&x);
                let run = |tally: Option<&Tally>| {
                    let mut y = vec![0.0; len];
                    let e = depthwise::Epilogue { bias: Some(&bias), clamp: None, tally };
                    let (x, y_map) = (Map::of(&x, form), MapMut::of(&mut y, form));
                    depthwise::forward(cx, s, n, x.into(), &w, y_map, e);
                    y
                };
                let shards = depthwise::shards(s, n, form);
                let mut space = vec![f32::NAN; norm::space_len(shards, c)];
                let tally = Tally::statistics(shards, c, &mut space);
                let (made, plain) = (run(Some(&tally)), run(None));
                assert!(made == plain, "{s:?}: outputs differ");
                let got = statistics(c, |s| {
                    norm::tallied_statistics(cx.isa, &space, shards, s, 0.1, 1e-5);
                });
                let mut scratch = vec![f32::NAN; norm::scratch_len(len / c, c)];
                let y = Map::of(&plain, form).part(0..len);
                let want = statistics(c, |s| norm::statistics(cx, y, s, 0.1, 1e-5, &mut scratch));
                for (got, want) in got.iter().zip(&want) {
                    close(&format!("{s:?} statistics"), got, want, 2e-5);
                }
                same.check(cx.isa, 2 * i + usize::from(form == Form::Half), got);
            }
        }
    });
}
