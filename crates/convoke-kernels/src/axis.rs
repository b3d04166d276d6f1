//! Work along one axis of a box `[outer, n, inner]`: sums of weighted places (cutting, padding, resizing,
//! summing), and the largest or smallest place. A map `[h, w, c]` has its rows at `[·, h, w · c]`, its columns
//! at `[h, w, c]` and its channels at `[h · w, c, 1]`.

use crate::{CHUNK, Ctx};

/// For each output along an axis the inputs that it is a weighted sum of.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    inputs: usize,
    starts: Vec<usize>,
    parts: Vec<(usize, f32)>,
}

impl Table {
    /// One row per output; all places are below `inputs`.
    pub fn new<R: IntoIterator<Item = (usize, f32)>>(
        inputs: usize,
        rows: impl IntoIterator<Item = R>,
    ) -> Self {
        let (mut starts, mut parts) = (vec![0], Vec::new());
        for row in rows {
            parts.extend(row);
            starts.push(parts.len());
        }
        assert!(parts.iter().all(|p| p.0 < inputs), "a place beyond the axis");
        Table { inputs, starts, parts }
    }

    /// Inputs along the axis.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs along the axis.
    pub fn outputs(&self) -> usize {
        self.starts.len() - 1
    }

    /// The inputs of one output.
    fn row(&self, i: usize) -> &[(usize, f32)] {
        &self.parts[self.starts[i]..self.starts[i + 1]]
    }

    /// The table of gradients: what each input gives to which outputs.
    pub fn transposed(&self) -> Self {
        let mut rows = vec![Vec::new(); self.inputs];
        for output in 0..self.outputs() {
            for &(input, weight) in self.row(output) {
                rows[input].push((output, weight));
            }
        }
        Table::new(self.outputs(), rows)
    }
}

/// `y [outer, outputs, inner] (+)= Σ weight · x [outer, inputs, inner]`.
pub fn apply(cx: Ctx, t: &Table, inner: usize, x: &[f32], y: &mut [f32], accumulate: bool) {
    let (n, m) = (t.inputs(), t.outputs());
    assert!(x.len() * m == y.len() * n, "lengths differ");
    let lines = (CHUNK / inner.max(1)).max(1);
    cx.pool.for_chunks_mut(y, lines * inner, |i, part, _| {
        for (r, line) in part.chunks_exact_mut(inner).enumerate() {
            let (outer, output) = ((i * lines + r) / m, (i * lines + r) % m);
            if !accumulate {
                line.fill(0.0);
            }
            for &(input, weight) in t.row(output) {
                let from = &x[(outer * n + input) * inner..][..inner];
                for (y, &x) in line.iter_mut().zip(from) {
                    *y += weight * x;
                }
            }
        }
    });
}

/// `y [outer, inner]`: the largest (or, with `sign` −1, smallest) of `x [outer, n, inner]`.
pub fn extreme(cx: Ctx, (n, inner): (usize, usize), sign: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len() * n, "lengths differ");
    let lines = (CHUNK / (n * inner).max(1)).max(1);
    cx.pool.for_chunks_mut(y, lines * inner, |i, part, _| {
        for (r, line) in part.chunks_exact_mut(inner).enumerate() {
            let block = &x[(i * lines + r) * n * inner..][..n * inner];
            line.copy_from_slice(&block[..inner]);
            for from in block.chunks_exact(inner) {
                for (y, &x) in line.iter_mut().zip(from) {
                    *y = if sign * x > sign * *y || x.is_nan() { x } else { *y };
                }
            }
        }
    });
}

/// `dx [outer, n, inner] (+)= dy [outer, inner]` at the first place where `x` is `y`.
pub fn extreme_backward(
    cx: Ctx,
    (n, inner): (usize, usize),
    (x, y, dy): (&[f32], &[f32], &[f32]),
    dx: &mut [f32],
    accumulate: bool,
) {
    assert!(x.len() == dx.len() && y.len() * n == dx.len() && dy.len() == y.len());
    let blocks = (CHUNK / (n * inner).max(1)).max(1);
    cx.pool.for_chunks_mut(dx, blocks * n * inner, |i, part, _| {
        for (r, to) in part.chunks_exact_mut(n * inner).enumerate() {
            let outer = i * blocks + r;
            if !accumulate {
                to.fill(0.0);
            }
            for k in 0..inner {
                let best = y[outer * inner + k];
                let place = |j: &usize| x[(outer * n + j) * inner + k] == best;
                if let Some(j) = (0..n).find(place) {
                    to[j * inner + k] += dy[outer * inner + k];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Pool};

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7919 % 1009) as f32 / 64.0 - 5.0).collect()
    }

    /// Runs `f` with one thread and with three; both must give the same.
    fn same(mut f: impl FnMut(Ctx) -> Vec<f32>) -> Vec<f32> {
        let mut run = |threads| {
            let pool = Pool::new(threads);
            f(Ctx { pool: &pool, isa: Isa::detect() })
        };
        let one = run(1);
        assert_eq!(one, run(3));
        one
    }

    const BOXES: [(usize, usize, usize); 5] = match cfg!(miri) {
        true => [(1, 1, 1), (3, 7, 5), (2, 9, 1), (7, 2, 40), (1, 30, 9)],
        false => [(1, 1, 1), (3, 7, 5), (2, 9, 1), (7, 2, 4000), (1, 300, 33)],
    };

    #[test]
    fn a_table_and_its_transpose_are_the_plain_sums() {
        for (outer, n, inner) in BOXES {
            let m = n / 2 + 2;
            let row = |i: usize| (0..i % 4).map(move |k| ((i * 3 + k) % n, k as f32 - 0.75));
            let t = Table::new(n, (0..m).map(row));
            let (x, dy) = (numbers(outer * n * inner), numbers(outer * m * inner));
            let mut want = vec![0.5; outer * m * inner];
            let mut want_dx = vec![0.25; x.len()];
            for o in 0..outer {
                for i in 0..m {
                    for (j, w) in row(i) {
                        for k in 0..inner {
                            want[(o * m + i) * inner + k] += w * x[(o * n + j) * inner + k];
                            want_dx[(o * n + j) * inner + k] += w * dy[(o * m + i) * inner + k];
                        }
                    }
                }
            }
            let y = same(|cx| {
                let mut y = vec![0.5; want.len()];
                apply(cx, &t, inner, &x, &mut y, true);
                y
            });
            assert_eq!(y, want);
            let dx = same(|cx| {
                let mut dx = vec![0.25; x.len()];
                apply(cx, &t.transposed(), inner, &dy, &mut dx, true);
                dx
            });
            assert!(dx.iter().zip(&want_dx).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }

    #[test]
    fn the_largest_hands_its_gradient_to_its_first_place() {
        for (outer, n, inner) in BOXES {
            let x = numbers(outer * n * inner);
            let y = same(|cx| {
                let mut y = vec![0.0; outer * inner];
                extreme(cx, (n, inner), 1.0, &x, &mut y);
                y
            });
            let dy = numbers(y.len());
            let dx = same(|cx| {
                let mut dx = vec![f32::NAN; x.len()];
                extreme_backward(cx, (n, inner), (&x, &y, &dy), &mut dx, false);
                dx
            });
            for o in 0..outer {
                for k in 0..inner {
                    let at = |j: usize| (o * n + j) * inner + k;
                    let best = (0..n).fold(0, |b, j| if x[at(j)] > x[at(b)] { j } else { b });
                    assert_eq!(y[o * inner + k], x[at(best)]);
                    let given = |j| if j == best { dy[o * inner + k] } else { 0.0 };
                    assert!((0..n).all(|j| dx[at(j)] == given(j)));
                }
            }
        }
    }
}
