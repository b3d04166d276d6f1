//! Convolution as its definition reads: loops, and sums in f64.

use crate::conv::ConvShape;

/// Calls `f(sample, x index, filter index, y index)` for every product of the convolution.
fn each(s: &ConvShape, n: usize, mut f: impl FnMut(usize, usize, usize)) {
    let (cg, dg) = (s.c / s.groups, s.d / s.groups);
    for i in 0..n {
        for oy in 0..s.oh {
            for ox in 0..s.ow {
                for kh in 0..s.kh {
                    for kw in 0..s.kw {
                        let y = (oy * s.sh + kh * s.dh) as isize - s.top as isize;
                        let x = (ox * s.sw + kw * s.dw) as isize - s.left as isize;
                        if y < 0 || x < 0 || y >= s.h as isize || x >= s.w as isize {
                            continue;
                        }
                        for filter in 0..s.d {
                            let group = filter / dg;
                            for c in 0..cg {
                                let at = (i * s.h + y as usize) * s.w + x as usize;
                                f(
                                    at * s.c + group * cg + c,
                                    ((kh * s.kw + kw) * cg + c) * s.d + filter,
                                    ((i * s.oh + oy) * s.ow + ox) * s.d + filter,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `y [n,oh,ow,d] = x [n,h,w,c] ∗ filters [kh,kw,c/groups,d]`.
pub fn forward(s: &ConvShape, n: usize, x: &[f32], filters: &[f32]) -> Vec<f64> {
    let mut y = vec![0.0; n * s.y_len()];
    each(s, n, |xi, fi, yi| y[yi] += f64::from(x[xi]) * f64::from(filters[fi]));
    y
}

/// `dx [n,h,w,c]`: every product's gradient goes back to its input.
pub fn backward_data(s: &ConvShape, n: usize, dy: &[f32], filters: &[f32]) -> Vec<f64> {
    let mut dx = vec![0.0; n * s.x_len()];
    each(s, n, |xi, fi, yi| dx[xi] += f64::from(dy[yi]) * f64::from(filters[fi]));
    dx
}

/// `dw [kh,kw,c/groups,d]`: every product's gradient goes back to its filter.
pub fn backward_weights(s: &ConvShape, n: usize, x: &[f32], dy: &[f32]) -> Vec<f64> {
    let mut dw = vec![0.0; s.filter_len()];
    each(s, n, |xi, fi, yi| dw[fi] += f64::from(x[xi]) * f64::from(dy[yi]));
    dw
}
