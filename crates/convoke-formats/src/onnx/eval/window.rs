//! Windows over any number of axes: the shape rule that convolutions and pools share.

use super::super::Said;
use super::super::graph::Node;

/// A window along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Span {
    /// Size of the input.
    pub input: usize,
    /// Taps.
    pub size: usize,
    pub stride: usize,
    pub dilation: usize,
    /// Padding in front and behind.
    pub before: usize,
    pub after: usize,
    /// Size of the output.
    pub out: usize,
}

impl Span {
    /// Input that the window spans.
    pub fn reach(&self) -> usize {
        (self.size - 1) * self.dilation + 1
    }

    /// The input that a tap of an output reads, or `None` in the padding.
    pub fn at(&self, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride + tap * self.dilation)
            .checked_sub(self.before)
            .filter(|&i| i < self.input)
    }
}

/// Windows along all axes of space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Windows(pub Vec<Span>);

/// No size of a window may be larger.
const LIMIT: i64 = 1 << 24;

/// Whole numbers of an attribute, one per axis, each in its range.
pub(super) fn sizes(
    node: &Node,
    name: &str,
    n: usize,
    default: i64,
    least: i64,
) -> Said<Vec<usize>> {
    let all = match node.ints(name)? {
        Some(v) => v.to_vec(),
        None => vec![default; n],
    };
    if all.len() != n || all.iter().any(|v| !(least..=LIMIT).contains(v)) {
        return Err(format!("`{name}` = {all:?} does not fit {n} axes"));
    }
    Ok(all.into_iter().map(|v| v as usize).collect())
}

impl Windows {
    /// Reads strides, dilations and padding of a node; `taps` are the sizes of the window.
    ///
    /// # Errors
    /// When they do not fit the input's axes, or a window does not fit the padded input.
    pub fn read(node: &Node, input: &[usize], taps: &[usize]) -> Said<Self> {
        let n = input.len();
        if taps.len() != n || taps.contains(&0) {
            return Err(format!("a window of {taps:?} over {input:?}"));
        }
        let (strides, dilations) =
            (sizes(node, "strides", n, 1, 1)?, sizes(node, "dilations", n, 1, 1)?);
        let pads = sizes(node, "pads", 2 * n, 0, 0)?;
        let auto = node.text("auto_pad", "NOTSET")?;
        let ceil = node.flag("ceil_mode", false)?;
        let span = |i: usize| {
            let mut s = Span {
                input: input[i],
                size: taps[i],
                stride: strides[i],
                dilation: dilations[i],
                before: 0,
                after: 0,
                out: 0,
            };
            match &auto[..] {
                "SAME_UPPER" | "SAME_LOWER" => {
                    s.out = s.input.div_ceil(s.stride);
                    let all =
                        (s.out.saturating_sub(1) * s.stride + s.reach()).saturating_sub(s.input);
                    let (less, more) = (all / 2, all - all / 2);
                    (s.before, s.after) =
                        if auto == "SAME_UPPER" { (less, more) } else { (more, less) };
                    return Ok(s);
                }
                "VALID" => {}
                _ => (s.before, s.after) = (pads[i], pads[n + i]),
            }
            let room = (s.input + s.before + s.after).checked_sub(s.reach()).ok_or_else(|| {
                format!("window {taps:?} does not fit {input:?} with padding {pads:?}")
            })?;
            s.out = room / s.stride + 1;
            if ceil && room % s.stride != 0 && s.out * s.stride < s.input + s.before {
                // A last window, if it does not begin in the padding.
                s.out += 1;
            }
            Ok(s)
        };
        Ok(Windows((0..n).map(span).collect::<Said<Vec<_>>>()?))
    }

    pub fn out(&self) -> Vec<usize> {
        self.0.iter().map(|s| s.out).collect()
    }

    pub fn taps(&self) -> Vec<usize> {
        self.0.iter().map(|s| s.size).collect()
    }
}

/// Calls `f` with every index of a shape, the last axis fastest.
pub(super) fn each(shape: &[usize], mut f: impl FnMut(&[usize])) {
    let n: usize = shape.iter().product();
    let mut index = vec![0; shape.len()];
    for _ in 0..n {
        f(&index);
        for (i, size) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *size {
                break;
            }
            *i = 0;
        }
    }
}
