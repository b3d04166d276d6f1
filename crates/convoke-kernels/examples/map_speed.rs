//! Speed of the passes over maps that take as long as memory does, in GB/s of what they must read and write once.
//! `cargo run --release -p convoke-kernels --example map_speed [threads [words of a name]]`.

use convoke_kernels::conv::ConvShape;
use convoke_kernels::norm::{self, Clamped, Pending, Saved, Source, Statistics, SumsOf, Tally};
use convoke_kernels::{Ctx, Form, Isa, Pool, depthwise};
use std::time::Instant;

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(2);
    let filter = std::env::args().nth(2).unwrap_or_default();
    let pool = Pool::new(threads);
    let cx = Ctx { pool: &pool, isa: Isa::detect() };
    println!("{:<44} {:>8} {:>8}", "pass", "ms", "GB/s");
    let measure = |name: String, floats: usize, f: &mut dyn FnMut()| {
        if !name.contains(&filter) {
            return;
        }
        let mut best = f64::MAX;
        for _ in 0..9 {
            let start = Instant::now();
            f();
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{name:<44} {:>8.2} {:>8.1}", 1e3 * best, 4e-9 * floats as f64 / best);
    };
    for (n, h, c, step) in [
        (16, 112, 32, 1),
        (16, 112, 96, 2),
        (16, 56, 144, 1),
        (16, 56, 144, 2),
        (16, 28, 192, 1),
        (16, 28, 192, 2),
        (16, 14, 384, 1),
        (16, 14, 576, 2),
        (16, 14, 576, 1),
        (16, 7, 960, 1),
    ] {
        let o = h / step;
        let s = ConvShape {
            h,
            w: h,
            c,
            kh: 3,
            kw: 3,
            d: c,
            sh: step,
            sw: step,
            top: usize::from(step == 1),
            left: usize::from(step == 1),
            dh: 1,
            dw: 1,
            groups: c,
            oh: o,
            ow: o,
        };
        let (map, out) = (n * s.x_len(), n * s.y_len());
        let aligned = |len: usize| {
            let v: Vec<f32> = (0..len + 16).map(|i| (i % 1000) as f32 / 500.0 - 1.0).collect();
            let skip = v.as_ptr().align_offset(64);
            (v, skip..skip + len)
        };
        let ((x, xr), (mut g, gr), (mut z, zr)) = (aligned(map), aligned(map), aligned(map));
        let (x, g, z) = (&x[xr], &mut g[gr], &mut z[zr]);
        let ((mut y, yr), (filters, fr)) = (aligned(out), aligned(9 * c));
        let (y, filters) = (&mut y[yr], &filters[fr]);
        let mut per = vec![vec![0.5f32; c]; 8];
        let [mean, invstd, gamma, shift, rm, rv, dgamma, dbeta] = &mut per[..] else {
            unreachable!()
        };
        let mut scratch = vec![0.0; norm::scratch_len(n * h * h, c).max(3 * c)];
        let mut band = vec![0.0; depthwise::scratch_len(&s, n)];
        let name = |pass: &str| format!("{pass} {h}x{h}x{c}/{step}, batch {n}");
        measure(name("statistics"), map, &mut || {
            let s = Statistics {
                mean: &mut *mean,
                invstd: &mut *invstd,
                running_mean: &mut *rm,
                running_var: &mut *rv,
            };
            norm::statistics(cx, x, s, 0.1, 1e-5, &mut scratch)
        });
        measure(name("apply"), 2 * map, &mut || {
            norm::apply(cx, x, gamma, shift, None, Some((0.0, 6.0)), &mut *z)
        });
        let clamped = Clamped::Anew { scale: gamma, shift, max: 6.0 };
        let saved = Saved { x: x.into(), clamped, mean, invstd, gamma };
        measure(name("backward sums"), 2 * map, &mut || {
            norm::backward_sums(cx, saved, &mut *g, dgamma, dbeta, &mut scratch)
        });
        measure(name("backward data"), 3 * map, &mut || {
            norm::backward_data(cx, saved, &mut *g, dgamma, dbeta, None, &mut scratch)
        });
        let source =
            Source { x: x.into(), norm: Some(Pending { scale: gamma, shift, clamp: (0.0, 6.0) }) };
        measure(name("depthwise forward"), map + out, &mut || {
            depthwise::forward(cx, &s, n, source, filters, &mut *y, Default::default())
        });
        let shards = depthwise::shards(&s, n, Form::Full);
        let mut space = vec![0.0; norm::space_len(shards, c)];
        measure(name("depthwise forward, sums"), map + out, &mut || {
            let tally = Tally::statistics(shards, c, &mut space);
            let tally = (shards > 0).then_some(&tally);
            let e = depthwise::Epilogue { tally, ..Default::default() };
            depthwise::forward(cx, &s, n, source, filters, &mut *y, e)
        });
        measure(name("depthwise plain forward"), map + out, &mut || {
            depthwise::forward(cx, &s, n, x.into(), filters, &mut *y, Default::default())
        });
        measure(name("depthwise backward data"), map + out, &mut || {
            depthwise::backward_data(cx, &s, n, &*y, filters, &mut *z, false)
        });
        let mut dw = vec![0.0; 9 * c];
        measure(name("depthwise backward weights"), map + out, &mut || {
            depthwise::backward_weights(cx, &s, n, source, &*y, &mut dw, &mut band)
        });
        measure(name("depthwise backward"), 2 * map + out, &mut || {
            let of_norm = SumsOf { mean, invstd, dgamma, dbeta };
            let sums = depthwise::Sums { dw: &mut dw, norm: Some(of_norm), scratch: &mut band };
            let (maps, dx) = ((source, (&*y).into()), (&mut *z).into());
            depthwise::backward(cx, &s, n, maps, filters, (dx, false), sums)
        });
    }
}
