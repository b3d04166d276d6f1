//! The axes of a box in another order.

use crate::{CHUNK, Ctx};

/// `x [n, sizes…] -> y [n, sizes in that order…]`, decided before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rearrange {
    /// Sizes of the output, outermost first.
    sizes: Vec<usize>,
    /// Numbers of the input from one place to the next along each axis of the output.
    steps: Vec<usize>,
}

impl Rearrange {
    /// `order[i]` is the input's axis that becomes the output's axis `i`.
    pub fn new(sizes: &[usize], order: &[usize]) -> Self {
        let mut own = vec![1; sizes.len()];
        for i in (1..sizes.len()).rev() {
            own[i - 1] = own[i] * sizes[i];
        }
        let pick = |of: &[usize]| order.iter().map(|&a| of[a]).collect();
        Rearrange { sizes: pick(sizes), steps: pick(&own) }
    }

    /// The order that undoes this one.
    pub fn inverse(order: &[usize]) -> Vec<usize> {
        let mut back = vec![0; order.len()];
        for (i, &a) in order.iter().enumerate() {
            back[a] = i;
        }
        back
    }

    /// Numbers of one sample.
    fn len(&self) -> usize {
        self.sizes.iter().product()
    }
}

/// `y (+)= x` in the other order, sample by sample.
pub fn apply(cx: Ctx, r: &Rearrange, x: &[f32], y: &mut [f32], accumulate: bool) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    let (len, last) = (r.len(), r.sizes.last().copied().unwrap_or(1).max(1));
    let step = r.steps.last().copied().unwrap_or(1);
    let lines = (CHUNK / last).max(1);
    cx.pool.for_chunks_mut(y, lines * last, |i, part, _| {
        for (k, line) in part.chunks_exact_mut(last).enumerate() {
            let at = (i * lines + k) * last;
            let (mut from, mut rest) = (at / len * len, at % len / last);
            for (size, step) in r.sizes.iter().zip(&r.steps).rev().skip(1) {
                from += rest % size * step;
                rest /= size;
            }
            for (j, y) in line.iter_mut().enumerate() {
                let x = x[from + j * step];
                *y = if accumulate { *y + x } else { x };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Pool};

    #[test]
    fn places_are_the_plain_ones_and_back() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let cx = Ctx { pool: &pool, isa: Isa::detect() };
            for (sizes, order) in [
                (vec![3, 4, 5], vec![2, 0, 1]),
                (vec![7], vec![0]),
                (vec![2, 3, 2, 3], vec![3, 1, 0, 2]),
                (if cfg!(miri) { vec![2, 5, 4] } else { vec![40, 50, 30] }, vec![1, 2, 0]),
            ] {
                let (n, len) = (3, sizes.iter().product::<usize>());
                let x: Vec<f32> = (0..n * len).map(|i| i as f32).collect();
                let mut y = vec![0.0; x.len()];
                apply(cx, &Rearrange::new(&sizes, &order), &x, &mut y, false);
                let to: Vec<usize> = order.iter().map(|&a| sizes[a]).collect();
                for i in 0..x.len() {
                    let mut index = vec![0; sizes.len()];
                    let mut rest = i % len;
                    for k in (0..to.len()).rev() {
                        index[order[k]] = rest % to[k];
                        rest /= to[k];
                    }
                    let from = index.iter().zip(&sizes).fold(0, |p, (i, s)| p * s + i);
                    assert_eq!(y[i], x[i / len * len + from]);
                }
                let mut back = vec![1.0; x.len()];
                let inverse = Rearrange::new(&to, &Rearrange::inverse(&order));
                apply(cx, &inverse, &y, &mut back, true);
                assert!(back.iter().zip(&x).all(|(b, x)| *b == x + 1.0));
            }
        }
    }
}
