//! Maps of 8-bit integers give what maps of f32 that hold the same numbers give, rounded once at the end, bit for bit.

mod common;

use common::{everywhere, numbers, or_for_miri, shape};
use convoke_kernels::chain::{Chain, Link};
use convoke_kernels::conv::{Conv, ConvShape, Epilogue, Int8, Range8};
use convoke_kernels::pool2d::{self, PoolShape};
use convoke_kernels::shortcut::{self, ShortcutShape};
use convoke_kernels::{Ctx, Form, Isa, Map, MapMut, Pool, depthwise};

/// Every integer, from all over.
fn integers(n: usize, seed: u64) -> Vec<u8> {
    numbers(n, seed).into_iter().map(|x| (x.mul_add(128.0, 128.0)) as u8).collect()
}

fn values(q: &[u8], range: Range8) -> Vec<f32> {
    q.iter().map(|&q| range.value(q)).collect()
}

fn rounded(x: &[f32], range: Range8) -> Vec<u8> {
    x.iter().map(|&x| range.quantize(x)).collect()
}

fn range(lo: f32, hi: f32) -> Range8 {
    Range8::new(lo, hi).unwrap()
}

fn shapes() -> Vec<(usize, ConvShape)> {
    let odd = (9, 7);
    or_for_miri(
        vec![
            (3, shape(odd, 64, 96, 1, 1)),
            (2, shape(odd, 33, 17, 1, 1)),
            (2, shape(odd, 34, 70, 1, 2)),
            (2, shape((4, 5), 2048, 24, 1, 1)),
            (3, shape((17, 16), 256, 70, 1, 1)),
            (2, shape((12, 11), 24, 40, 3, 2)),
            (2, shape((13, 12), 3, 16, 7, 2)),
            (2, shape((14, 14), 21, 33, 5, 1)),
            (3, shape((14, 13), 64, 48, 3, 1)),
            (9, shape((7, 7), 131, 35, 3, 1)),
            (33, ConvShape::dense(100, 10)),
            (2, shape((5, 4), 1, 1, 3, 1)),
        ],
        vec![
            (1, shape((3, 3), 3, 9, 3, 1)),
            (1, shape((3, 4), 2, 17, 3, 2)),
            (2, shape((2, 3), 5, 18, 1, 1)),
            (1, shape((2, 3), 8, 5, 1, 1)),
        ],
    )
}

#[test]
fn convolutions_read_add_and_write_them() {
    for (n, s) in shapes() {
        for lo in [0.0, -0.8] {
            let (from, added) = (range(lo, 1.0), range(-0.3, 0.7));
            let x = integers(n * s.x_len(), 1);
            let w = numbers(s.filter_len(), 2);
            // What no range holds.
            let mut bias = numbers(s.d, 3);
            let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -1e30];
            bias.iter_mut().skip(4).step_by(5).zip(odd).for_each(|(b, odd)| *b = odd);
            let more = integers(n * s.y_len(), 4);
            for way in Int8::available().into_iter().filter(|&way| way != Int8::Tiles) {
                for threads in [1, 3] {
                    let isa = Isa::detect();
                    let conv = Conv::new(s, isa, n, threads).int8(from, Some(way));
                    assert!(conv.takes_bytes());
                    let pool = Pool::new(threads);
                    let c = Case { cx: Ctx { pool: &pool, isa }, conv, n, from, added };
                    c.check(&x, &w, &bias, &more, &format!("{way:?} {s:?} {threads} threads"));
                }
            }
        }
    }
}

struct Case<'a> {
    cx: Ctx<'a>,
    conv: Conv,
    n: usize,
    from: Range8,
    added: Range8,
}

impl Case<'_> {
    fn check(&self, x: &[u8], w: &[f32], bias: &[f32], more: &[u8], said: &str) {
        let (cx, conv, n, len) = (self.cx, &self.conv, self.n, more.len());
        let mut pack = vec![f32::NAN; conv.forward_pack_len()];
        conv.pack_forward(cx, w, &mut pack);
        let mut scratch = vec![f32::NAN; conv.forward_scratch_len()];
        let (full, full_more) = (values(x, self.from), values(more, self.added));
        let mut run = |x: Map, y: MapMut, e| {
            conv.forward(cx, n, x.into(), &pack, y, e, &mut scratch);
        };
        let (of_bytes, of_full) = (Map::Bytes(x, self.from), Map::Full(&full));
        let residuals = [None, Some(Map::Full(&full_more)), Some(Map::Bytes(more, self.added))];
        // The last two ranges hold bounds of their own.
        let ends = [
            (None, range(-3.0, 2.5)),
            (Some((0.0, f32::INFINITY)), range(-1.0, 2.5)),
            (Some((0.0, f32::INFINITY)), range(0.0, 2.5)),
            (Some((0.0, 6.0)), range(0.0, 1.3)),
        ];
        for (clamp, to) in ends {
            let bias = Some(bias).filter(|_| clamp.is_some());
            for residual in residuals {
                let e = Epilogue { bias, residual, clamp, tally: None };
                let same = residual.map(|_| Map::Full(&full_more));
                let mut want = vec![f32::NAN; len];
                run(of_full, (&mut want).into(), Epilogue { residual: same, ..e });
                let mut y = vec![f32::NAN; len];
                run(of_bytes, (&mut y).into(), e);
                let bits = |y: &[f32]| -> Vec<u32> { y.iter().map(|y| y.to_bits()).collect() };
                assert!(bits(&y) == bits(&want), "{said}: from bytes to f32");
                for x in [of_bytes, of_full] {
                    let mut q = vec![77; len];
                    run(x, MapMut::Bytes(&mut q, to), e);
                    assert_eq!(q, rounded(&want, to), "{said}, {clamp:?}, {to:?}");
                }
            }
        }
    }
}

#[test]
fn pools_and_shortcuts_read_and_write_them() {
    everywhere(|cx| {
        for c in or_for_miri(vec![70, 64, 3], vec![5]) {
            let (n, h, w, d) = (3, 11, 8, c + 21);
            let (kh, kw, sh, sw) = (3, 3, 2, 2);
            let (top, left, bottom, right, oh, ow) = (1, 1, 1, 1, 6, 4);
            let s = PoolShape { h, w, c, kh, kw, sh, sw, top, left, bottom, right, oh, ow };
            let r = range(-0.4, 1.0);
            let q = integers(n * h * w * c, 1);
            let (x, full) = (Map::Bytes(&q, r), values(&q, r));
            let (mut y, mut want) = (vec![7; n * oh * ow * c], vec![0.0; n * oh * ow * c]);
            let mut arg = vec![0; want.len()];
            pool2d::max_forward(cx, &s, n, x, MapMut::Bytes(&mut y, r), &mut []);
            pool2d::max_forward(cx, &s, n, &full, &mut want, &mut arg);
            assert_eq!(y, rounded(&want, r));

            let s = ShortcutShape { h, w, c, d, stride: (sh, sw) };
            let (mut y, mut want) = (vec![7; n * oh * ow * d], vec![0.0; n * oh * ow * d]);
            shortcut::forward(cx, s, x, MapMut::Bytes(&mut y, r));
            shortcut::forward(cx, s, &full, &mut want);
            assert_eq!(y, rounded(&want, r));

            // Sums of integers are exact, those of floats are not.
            let [mut mean, mut want] = [(); 2].map(|()| vec![0.0; n * c]);
            pool2d::global_mean_forward(cx, h * w, c, x, &mut mean);
            pool2d::global_mean_forward(cx, h * w, c, &full, &mut want);
            for (m, w) in mean.iter().zip(&want) {
                assert!((m - w).abs() < 1e-6, "{m} {w}");
            }
        }
    });
}

/// A convolution of integers as floats, scaled, with its bias added as this instruction set does.
fn depthwise_of(
    cx: Ctx,
    s: &ConvShape,
    n: usize,
    x: &[u8],
    from: Range8,
    f: &[f32],
    bias: &[f32],
) -> Vec<f32> {
    let zero = f32::from(from.zero());
    let whole: Vec<f32> = x.iter().map(|&q| f32::from(q) - zero).collect();
    let mut y = vec![f32::NAN; n * s.y_len()];
    let none = depthwise::Epilogue::default();
    depthwise::forward(cx, s, n, (&whole).into(), f, &mut y, none);
    for (i, y) in y.iter_mut().enumerate() {
        let bias = bias[i % s.c];
        *y = match cx.isa {
            Isa::Portable => *y * from.scale() + bias,
            _ => y.mul_add(from.scale(), bias),
        };
    }
    y
}

#[test]
fn depthwise_convolutions_read_and_write_them() {
    let all = vec![(2, 3, 1, 70), (2, 3, 2, 33), (1, 5, 1, 16), (3, 5, 2, 8), (2, 2, 3, 200)];
    for (n, k, step, c) in or_for_miri(all, vec![(1, 3, 2, 9)]) {
        let s = ConvShape { groups: c, ..shape((13, 12), c, c, k, step) };
        let (x, f, bias) = (integers(n * s.x_len(), 1), numbers(s.filter_len(), 2), numbers(c, 3));
        for (from, to) in [(range(0.0, 1.0), range(0.0, 0.8)), (range(-0.6, 1.0), range(-0.9, 0.7))]
        {
            everywhere(|cx| {
                let clamp = Some((0.0, 0.75));
                let want = depthwise_of(cx, &s, n, &x, from, &f, &bias);
                let want: Vec<f32> = want.into_iter().map(|y| y.clamp(0.0, 0.75)).collect();
                let mut y = vec![7; want.len()];
                let e = depthwise::Epilogue { bias: Some(&bias), clamp, tally: None };
                let to_bytes = MapMut::Bytes(&mut y, to);
                depthwise::forward(cx, &s, n, Map::Bytes(&x, from).into(), &f, to_bytes, e);
                assert_eq!(y, rounded(&want, to), "{:?} {s:?}", cx.isa);
            });
        }
    }
}

/// A chain whose every map is of bytes gives what its parts give one after the other.
#[test]
fn chains_keep_what_lies_between_in_them() {
    let all = vec![(2, 24, 70, 40, 1, (30, 29)), (3, 16, 96, 24, 2, (17, 20))];
    for (n, c, t, d, step, size) in or_for_miri(all, vec![(1, 3, 9, 5, 1, (5, 4))]) {
        let s = ConvShape { groups: t, ..shape(size, t, t, 3, step) };
        let [lin, wide, between, out] =
            [range(-1.0, 1.0), range(0.0, 3.0), range(0.0, 2.0), range(-4.0, 4.0)];
        let x = integers(n * s.h * s.w * c, 1);
        let more = integers(n * s.oh * s.ow * d, 2);
        let filters = [numbers(c * t, 3), numbers(s.filter_len(), 4), numbers(t * d, 5)];
        let bias = [numbers(t, 6), numbers(t, 7), numbers(d, 8)];
        let clamp = Some((0.0, 6.0));
        everywhere(|cx| {
            let ways = |range| move |conv: Conv| conv.int8(range, None);
            let ends: [&dyn Fn(Conv) -> Conv; 2] = [&ways(lin), &ways(between)];
            let forms = [Form::Bytes(wide), Form::Bytes(between)];
            let threads = cx.pool.threads();
            let chain = Chain::new(Some(c), s, Some(d), cx.isa, ends, forms, n, threads);
            let (expand, project) = (chain.expand().unwrap(), chain.project().unwrap());
            if !expand.takes_bytes() {
                return;
            }
            let pack = |conv: &Conv, w: &[f32]| {
                let mut pack = vec![f32::NAN; conv.forward_pack_len()];
                conv.pack_forward(cx, w, &mut pack);
                pack
            };
            let packs = [pack(expand, &filters[0]), pack(project, &filters[2])];
            let link = |filters, k: usize| Link { filters, bias: Some(&bias[k]), clamp };
            let mut links = [link(&packs[0], 0), link(&filters[1], 1), link(&packs[1], 2)];
            links[2].clamp = None;
            let mut scratch = vec![f32::NAN; chain.scratch_len()];
            let mut y = vec![7; more.len()];
            let (from, residual) = (Map::Bytes(&x, lin), Some(Map::Bytes(&more, out)));
            let to = MapMut::Bytes(&mut y, out);
            chain.run(cx, n, from, links, residual, to, &mut scratch);

            let alone = |conv: Conv, w: &[f32], x: Map, e: Epilogue, to: Range8| {
                let mut y = vec![7; n * conv.shape().y_len()];
                let mut scratch = vec![f32::NAN; conv.forward_scratch_len()];
                let (pack, to) = (pack(&conv, w), MapMut::Bytes(&mut y, to));
                conv.forward(cx, n, x.into(), &pack, to, e, &mut scratch);
                y
            };
            let point = |h, w, c, d, range| {
                Conv::new(shape((h, w), c, d, 1, 1), cx.isa, n, threads).int8(range, None)
            };
            let e = Epilogue { bias: Some(&bias[0]), residual: None, clamp, tally: None };
            let a = alone(point(s.h, s.w, c, t, lin), &filters[0], from, e, wide);
            let mut b = vec![7; n * s.y_len()];
            let e = depthwise::Epilogue { bias: Some(&bias[1]), clamp, tally: None };
            let (a, to) = (Map::Bytes(&a, wide), MapMut::Bytes(&mut b, between));
            depthwise::forward(cx, &s, n, a.into(), &filters[1], to, e);
            let e = Epilogue { bias: Some(&bias[2]), residual, clamp: None, tally: None };
            let b = Map::Bytes(&b, between);
            let want = alone(point(s.oh, s.ow, t, d, between), &filters[2], b, e, out);
            assert!(y == want, "{:?}, {threads} threads, {s:?}", cx.isa);
        });
    }
}
