//! Pooling as its definition reads.

use crate::adaptive_pool::AdaptiveShape;
use crate::pool2d::PoolShape;

/// Calls `f(x index, window place)` for every place of output `(i, oy, ox, c)`'s window on the map.
fn window(s: &PoolShape, [i, oy, ox, c]: [usize; 4], mut f: impl FnMut(usize, usize)) {
    for kh in 0..s.kh {
        for kw in 0..s.kw {
            let y = (oy * s.sh + kh) as isize - s.top as isize;
            let x = (ox * s.sw + kw) as isize - s.left as isize;
            if y >= 0 && x >= 0 && (y as usize) < s.h && (x as usize) < s.w {
                f(((i * s.h + y as usize) * s.w + x as usize) * s.c + c, kh * s.kw + kw);
            }
        }
    }
}

/// Calls `f(y index, place)` for every output.
fn outputs(s: &PoolShape, n: usize, mut f: impl FnMut(usize, [usize; 4])) {
    for i in 0..n {
        for oy in 0..s.oh {
            for ox in 0..s.ow {
                for c in 0..s.c {
                    f(((i * s.oh + oy) * s.ow + ox) * s.c + c, [i, oy, ox, c]);
                }
            }
        }
    }
}

/// The largest of each window, and where in `x` it stands (the first of equals).
pub fn max_forward(s: &PoolShape, n: usize, x: &[f32]) -> (Vec<f32>, Vec<usize>) {
    let len = n * s.oh * s.ow * s.c;
    let (mut y, mut from) = (vec![f32::NEG_INFINITY; len], vec![usize::MAX; len]);
    outputs(s, n, |o, at| {
        window(s, at, |i, _| {
            if from[o] == usize::MAX || x[i] > y[o] {
                (y[o], from[o]) = (x[i], i);
            }
        });
    });
    (y, from)
}

/// Each output's gradient goes to where its maximum stood.
pub fn max_backward(s: &PoolShape, n: usize, from: &[usize], dy: &[f32]) -> Vec<f64> {
    let mut dx = vec![0.0; n * s.h * s.w * s.c];
    for (&i, &g) in from.iter().zip(dy) {
        dx[i] += f64::from(g);
    }
    dx
}

/// How many places a window's mean is taken over.
fn count(s: &PoolShape, at: [usize; 4], count_padding: bool) -> f64 {
    let mut inside = 0;
    window(s, at, |_, _| inside += 1);
    if !count_padding {
        return f64::from(inside);
    }
    let rows = s.kh.min(s.h + s.top + s.bottom - at[1] * s.sh);
    let cols = s.kw.min(s.w + s.left + s.right - at[2] * s.sw);
    (rows * cols) as f64
}

/// The mean of each window.
pub fn mean_forward(s: &PoolShape, n: usize, x: &[f32], count_padding: bool) -> Vec<f64> {
    let mut y = vec![0.0; n * s.oh * s.ow * s.c];
    outputs(s, n, |o, at| {
        window(s, at, |i, _| y[o] += f64::from(x[i]));
        y[o] /= count(s, at, count_padding);
    });
    y
}

/// Each output's gradient is shared among its window.
pub fn mean_backward(s: &PoolShape, n: usize, dy: &[f32], count_padding: bool) -> Vec<f64> {
    let mut dx = vec![0.0; n * s.h * s.w * s.c];
    outputs(s, n, |o, at| {
        let share = f64::from(dy[o]) / count(s, at, count_padding);
        window(s, at, |i, _| dx[i] += share);
    });
    dx
}

/// Mean pooling to `oh × ow`, and `dx` for the gradient `dy`: output `(oy, ox)` is the mean of rows
/// `floor(oy · h / oh) .. ceil((oy + 1) · h / oh)` and columns likewise.
pub fn adaptive_mean(s: &AdaptiveShape, n: usize, x: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let edge = |i: usize, size: usize, out: usize| i as f64 * size as f64 / out as f64;
    let span = |i: usize, size: usize, out: usize| {
        edge(i, size, out).floor() as usize..edge(i + 1, size, out).ceil() as usize
    };
    let (mut y, mut dx) = (vec![0.0; n * s.oh * s.ow * s.c], vec![0.0; n * s.h * s.w * s.c]);
    for o in 0..y.len() {
        let (c, ox, oy) = (o % s.c, o / s.c % s.ow, o / s.c / s.ow % s.oh);
        let sample = o / (s.c * s.ow * s.oh);
        let (rows, columns) = (span(oy, s.h, s.oh), span(ox, s.w, s.ow));
        let share = 1.0 / (rows.len() * columns.len()) as f64;
        for row in rows {
            for column in columns.clone() {
                let i = ((sample * s.h + row) * s.w + column) * s.c + c;
                y[o] += share * f64::from(x[i]);
                dx[i] += share * f64::from(dy[o]);
            }
        }
    }
    (y, dx)
}
