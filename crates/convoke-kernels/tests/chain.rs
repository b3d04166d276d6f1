//! A depthwise convolution with the 1×1 convolutions beside it, against the three one after the other in the plain
//! reference, over odd shapes, instruction sets and threads.

mod common;

use common::numbers;
use convoke_kernels::chain::{Chain, Link};
use convoke_kernels::conv::{Conv, ConvShape};
use convoke_kernels::reference::conv as reference;
use convoke_kernels::{Ctx, Form, Isa, Pool};

#[derive(Debug, Clone, Copy)]
struct Case {
    n: usize,
    expand: Option<usize>,
    s: ConvShape,
    project: Option<usize>,
}

/// Maps of `h`×`w` with `c` channels in the middle, windows of `k`, stride, padding on all sides, dilation.
fn case(
    n: usize,
    expand: Option<usize>,
    (h, w, c): (usize, usize, usize),
    [k, step, pad, dilation]: [usize; 4],
    project: Option<usize>,
) -> Case {
    let out = |size: usize| (size + 2 * pad - (k - 1) * dilation - 1) / step + 1;
    let (sh, sw, top, left, dh, dw) = (step, step, pad, pad, dilation, dilation);
    let (kh, kw, d, groups, oh, ow) = (k, k, c, c, out(h), out(w));
    let s = ConvShape { h, w, c, kh, kw, d, sh, sw, top, left, dh, dw, groups, oh, ow };
    Case { n, expand, s, project }
}

/// Few and small ones for Miri (`CONTRIBUTING.md`), which takes ten thousand times longer: every tail and edge, no size.
fn miri_cases() -> Vec<Case> {
    vec![
        case(1, Some(1), (1, 1, 1), [1, 1, 0, 1], Some(1)),
        case(1, Some(3), (5, 4, 9), [3, 1, 1, 1], Some(5)),
        case(2, None, (5, 6, 5), [3, 2, 1, 1], Some(18)),
        case(1, Some(6), (5, 4, 9), [5, 2, 2, 1], None),
        case(1, Some(3), (6, 5, 4), [3, 1, 2, 2], Some(9)),
    ]
}

fn cases() -> Vec<Case> {
    if cfg!(miri) {
        return miri_cases();
    }
    vec![
        case(1, Some(1), (1, 1, 1), [1, 1, 0, 1], Some(1)),
        case(2, Some(3), (7, 5, 17), [3, 1, 1, 1], Some(5)),
        case(3, None, (9, 8, 33), [3, 2, 1, 1], Some(20)),
        case(2, Some(16), (11, 13, 40), [5, 2, 2, 1], None),
        case(1, Some(24), (30, 31, 70), [3, 1, 1, 1], Some(24)),
        case(2, Some(7), (8, 9, 19), [3, 1, 2, 2], Some(33)),
        // Several bands a picture.
        case(1, Some(16), (61, 63, 96), [3, 1, 1, 1], Some(17)),
        case(1, None, (60, 62, 64), [5, 2, 2, 1], Some(16)),
    ]
}

/// A 1×1 convolution over a map.
fn pointwise(s: &ConvShape, c: usize, d: usize, output: bool) -> ConvShape {
    let (h, w) = if output { (s.oh, s.ow) } else { (s.h, s.w) };
    ConvShape { h, w, oh: h, ow: w, ..ConvShape::dense(c, d) }
}

struct Inputs {
    x: Vec<f32>,
    filters: [Vec<f32>; 3],
    bias: [Vec<f32>; 3],
    residual: Vec<f32>,
}

const CLAMPS: [(f32, f32); 3] = [(0.0, 1.5), (-0.5, 0.75), (-2.0, 3.0)];

fn inputs(case: Case) -> Inputs {
    let Case { n, expand, s, project } = case;
    let (first, last) = (expand.unwrap_or(s.c), project.unwrap_or(s.c));
    Inputs {
        x: numbers(n * s.h * s.w * first, 1),
        filters: [numbers(first * s.c, 2), numbers(s.filter_len(), 3), numbers(s.c * last, 4)],
        bias: [numbers(s.c, 5), numbers(s.c, 6), numbers(last, 7)],
        residual: numbers(n * s.oh * s.ow * last, 8),
    }
}

fn run(case: Case, i: &Inputs, isa: Isa, threads: usize) -> Vec<f32> {
    let Case { n, expand, s, project } = case;
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa };
    let full = [Form::Full; 2];
    let chain = Chain::new(expand, s, project, isa, [&|c| c, &|c| c], full, n, threads);
    let pack = |conv: Option<&Conv>, w: &[f32]| {
        let Some(conv) = conv else { return Vec::new() };
        let mut pack = vec![f32::NAN; conv.forward_pack_len()];
        conv.pack_forward(cx, w, &mut pack);
        pack
    };
    let ends = [pack(chain.expand(), &i.filters[0]), pack(chain.project(), &i.filters[2])];
    let filters = [&ends[0], &i.filters[1], &ends[1]];
    let links = [0, 1, 2].map(|k| Link {
        filters: filters[k],
        bias: Some(&i.bias[k]),
        clamp: Some(CLAMPS[k]),
    });
    let mut y = vec![f32::NAN; i.residual.len()];
    let mut scratch = vec![f32::NAN; chain.scratch_len()];
    let residual = project.is_some().then_some((&i.residual).into());
    chain.run(cx, n, &i.x, links, residual, &mut y, &mut scratch);
    y
}

fn plain(case: Case, i: &Inputs) -> Vec<f64> {
    let Case { n, expand, s, project } = case;
    let step = |k: usize, shape: ConvShape, x: &[f32], residual: Option<&[f32]>| -> Vec<f64> {
        let (lo, hi) = CLAMPS[k];
        let mut y = reference::forward(&shape, n, x, &i.filters[k]);
        for (at, y) in y.iter_mut().enumerate() {
            let more = residual.map_or(0.0, |r| f64::from(r[at]));
            *y = (*y + f64::from(i.bias[k][at % shape.d]) + more).clamp(lo.into(), hi.into());
        }
        y
    };
    let narrow = |v: Vec<f64>| -> Vec<f32> { v.into_iter().map(|v| v as f32).collect() };
    let x = expand.map(|c| narrow(step(0, pointwise(&s, c, s.c, false), &i.x, None)));
    let y = step(1, s, x.as_deref().unwrap_or(&i.x), None);
    match project {
        Some(d) => step(2, pointwise(&s, s.c, d, true), &narrow(y), Some(&i.residual)),
        None => y,
    }
}

#[test]
fn a_chain_equals_its_parts_one_after_the_other() {
    for case in cases() {
        let i = inputs(case);
        let want = plain(case, &i);
        for isa in Isa::available() {
            let got = run(case, &i, isa, 1);
            for (at, (g, w)) in got.iter().zip(&want).enumerate() {
                let off = (f64::from(*g) - w).abs();
                assert!(off < 3e-5, "{isa:?} {case:?} [{at}]: {g} against {w}");
            }
            for threads in if cfg!(miri) { 3..4 } else { 2..4 } {
                assert!(got == run(case, &i, isa, threads), "{isa:?} {case:?}: threads differ");
            }
        }
    }
}
