//! Weights in the order in which torch and ONNX have them.

use convoke_engine::Shape;

/// A tensor in torch's layout: its shape and its numbers. Filters `[kh, kw, i, o]` become
/// `[o, i, kh, kw]`, dense weights `[i, o]` become `[o, i]`; all others stay. `map` is the map that was
/// flattened before a dense layer: its pixels lie channel by channel there, pixel by pixel here.
pub(crate) fn to_torch(
    shape: &[usize],
    values: &[f32],
    map: Option<Shape>,
) -> (Vec<usize>, Vec<f32>) {
    match *shape {
        [h, w, i, o] => (vec![o, i, h, w], turned(values, (h * w, i, o), |i| i)),
        [i, o] => {
            let place = |at: usize| match map {
                Some(m) => at % m.pixels() * m.c + at / m.pixels(),
                None => at,
            };
            (vec![o, i], turned(values, (1, i, o), place))
        }
        _ => (shape.to_vec(), values.to_vec()),
    }
}

/// `[taps, i, o] -> [o, i, taps]`; input number `i` there is `place(i)` here.
fn turned(
    values: &[f32],
    (taps, i, o): (usize, usize, usize),
    place: impl Fn(usize) -> usize,
) -> Vec<f32> {
    // Lines of the cache are read whole while they are there.
    const BLOCK: usize = 16;
    let mut out = vec![0.0; values.len()];
    for first in (0..i).step_by(BLOCK) {
        for oo in 0..o {
            for ii in first..(first + BLOCK).min(i) {
                for tap in 0..taps {
                    out[(oo * i + ii) * taps + tap] = values[(tap * i + place(ii)) * o + oo];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_dense_weights_are_turned() {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let (shape, turned) = to_torch(&[1, 2, 3, 2], &values, None);
        assert_eq!(shape, [2, 3, 1, 2]);
        assert_eq!(turned, [0.0, 6.0, 2.0, 8.0, 4.0, 10.0, 1.0, 7.0, 3.0, 9.0, 5.0, 11.0]);
        // Two pixels of three channels before two units.
        let (shape, turned) = to_torch(&[6, 2], &values, Some(Shape::new(1, 2, 3)));
        assert_eq!(shape, [2, 6]);
        assert_eq!(turned, [0.0, 6.0, 2.0, 8.0, 4.0, 10.0, 1.0, 7.0, 3.0, 9.0, 5.0, 11.0]);
        assert_eq!(to_torch(&[3], &values[..3], None), (vec![3], values[..3].to_vec()));
    }
}
