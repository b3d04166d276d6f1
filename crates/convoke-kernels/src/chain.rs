//! A depthwise convolution with the 1×1 convolutions before and after it, band by band: what lies between
//! them stays in a thread's second cache and never becomes a map.
//!
//! Rows of the widened map that two bands share are kept from one to the next, so nothing is computed
//! twice within a thread's part of a picture. Every number is the one that the three convolutions give
//! one after the other.

use crate::conv::{Conv, ConvShape, Epilogue};
use crate::gemm::Even;
use crate::{Ctx, Form, Isa, Map, MapMut, Pool, SharedMut, cut, depthwise};
use std::ops::Range;

/// Floats of what lies between, for each thread: 896 KB; fewer where there is no widened map, of which every band
/// keeps some rows.
const BAND: usize = cut(224 * 1024, 256);
const NARROW_BAND: usize = cut(96 * 1024, 256);

/// `project(depthwise(expand(x)))`; either end may be absent.
pub struct Chain {
    s: ConvShape,
    expand: Option<Conv>,
    project: Option<Conv>,
    /// What the widened rows and those between are in memory.
    between: [Form; 2],
    /// Output rows of a band.
    rows: usize,
    batch: usize,
    threads: usize,
    /// What a thread runs alone.
    alone: Pool,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let ends = (&self.expand, &self.project);
        f.debug_struct("Chain").field("s", &self.s).field("ends", &ends).finish_non_exhaustive()
    }
}

/// Weights of one of the convolutions and what is done to its sums.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link<'a> {
    /// Filters: packed by [`Chain::expand`] or [`Chain::project`], or those of the depthwise convolution.
    pub filters: &'a [f32],
    /// One number per filter.
    pub bias: Option<&'a [f32]>,
    /// Bounds of the result.
    pub clamp: Option<(f32, f32)>,
}

impl Chain {
    /// `expand`: channels before the depthwise convolution `s`, `project`: channels after it, where there
    /// is a 1×1 convolution at that end; `ends` give both their precision, `between` says what the maps before and
    /// after the depthwise convolution would be. `threads` change no number.
    pub fn new(
        expand: Option<usize>,
        s: ConvShape,
        project: Option<usize>,
        isa: Isa,
        ends: [&dyn Fn(Conv) -> Conv; 2],
        between: [Form; 2],
        batch: usize,
        threads: usize,
    ) -> Self {
        let span = (s.kh - 1) * s.dh + 1;
        let (wide, out) = (between[0].floats(s.w * s.c), between[1].floats(s.ow * s.c));
        let row = expand.map_or(0, |_| s.sh * wide) + project.map_or(0, |_| out);
        let shared = expand.map_or(0, |_| span.saturating_sub(s.sh) * wide);
        let band = if expand.is_some() { BAND } else { NARROW_BAND };
        let rows = (band.saturating_sub(shared) / row.max(1)).clamp(1, s.oh);
        let one = |w: usize, c: usize, d: usize, rows: usize| {
            let shape = ConvShape { h: 1, w, oh: 1, ow: w, ..ConvShape::dense(c, d) };
            Conv::new(shape, isa, rows, 1)
        };
        Chain {
            expand: expand.map(|c| ends[0](one(s.w, c, s.c, ((rows - 1) * s.sh + span).min(s.h)))),
            project: project.map(|d| ends[1](one(s.ow, s.c, d, rows))),
            between,
            s,
            rows,
            batch,
            threads,
            alone: Pool::new(1),
        }
    }

    /// The 1×1 convolution before, whose filters are packed by it.
    pub fn expand(&self) -> Option<&Conv> {
        self.expand.as_ref()
    }

    /// The 1×1 convolution after.
    pub fn project(&self) -> Option<&Conv> {
        self.project.as_ref()
    }

    /// Multiply-accumulates of one sample.
    pub fn macs(&self) -> u64 {
        let ends = |c: &Option<Conv>, rows: usize| {
            c.as_ref().map_or(0, |c| c.shape().macs() * rows as u64)
        };
        self.s.macs() + ends(&self.expand, self.s.h) + ends(&self.project, self.s.oh)
    }

    /// Floats of the widened rows, of the rows between, and of the convolutions' work space.
    fn lens(&self) -> [usize; 3] {
        let s = &self.s;
        let span = (s.kh - 1) * s.dh + 1;
        let inputs = ((self.rows - 1) * s.sh + span).min(s.h);
        let scratch = |c: &Option<Conv>| c.as_ref().map_or(0, Conv::forward_scratch_len);
        [
            self.expand.as_ref().map_or(0, |_| self.between[0].floats(inputs * s.w * s.c)),
            self.project.as_ref().map_or(0, |_| self.between[1].floats(self.rows * s.ow * s.c)),
            scratch(&self.expand).max(scratch(&self.project)),
        ]
        .map(|n| n.next_multiple_of(16))
    }

    /// Floats of work space.
    pub fn scratch_len(&self) -> usize {
        self.threads * self.lens().iter().sum::<usize>()
    }

    /// `y [n,oh,ow,d] = clamp(project(…) + residual)` of `x [n,h,w,c]`; `links` are those of expand,
    /// depthwise and project, empty where there is none.
    pub fn run<'a>(
        &self,
        cx: Ctx,
        n: usize,
        x: impl Into<Map<'a>>,
        links: [Link; 3],
        residual: Option<Map<'a>>,
        y: impl Into<MapMut<'a>>,
        scratch: &mut [f32],
    ) {
        let (s, x, mut y) = (&self.s, x.into(), y.into());
        let (from, to) = (self.x_row(), self.y_row());
        assert!(n <= self.batch, "{n} samples but planned for {}", self.batch);
        assert!(x.len() >= n * s.h * from && y.read().len() >= n * s.oh * to, "maps are too short");
        assert!(residual.is_none_or(|r| r.len() >= n * s.oh * to), "residual is too short");
        let each: usize = self.lens().iter().sum();
        assert!(scratch.len() >= each * cx.pool.threads(), "scratch is too short");
        // Parts of a picture compute the rows that they share twice, so there are only as many as needed.
        let wanted = cx.pool.threads().div_ceil(n.max(1));
        let parts = Even::parts(s.oh, if n >= cx.pool.threads() { 1 } else { wanted.min(s.oh) });
        let (y, scratch) = (y.shared(), SharedMut::new(scratch));
        cx.pool.run(n * parts.parts, &|item, worker| {
            let (p, rows) = (item / parts.parts, parts.range(item % parts.parts));
            let first = (p * s.oh + rows.start) * to;
            let outputs = first..first + rows.len() * to;
            // SAFETY: each worker has its own part of the scratch, each item its own output rows.
            let (mine, y) = unsafe {
                let mine = scratch.slice(worker * each..(worker + 1) * each);
                (mine, y.part(outputs.clone()))
            };
            let residual = residual.map(|r| r.part(outputs));
            let x = x.part(p * s.h * from..(p + 1) * s.h * from);
            let alone = Ctx { pool: &self.alone, isa: cx.isa };
            self.part(alone, rows, x, links, residual, y, mine);
        });
    }

    /// Floats of an input row.
    fn x_row(&self) -> usize {
        self.expand.as_ref().map_or(self.s.w * self.s.c, |c| c.shape().x_len())
    }

    /// Floats of an output row.
    fn y_row(&self) -> usize {
        self.project.as_ref().map_or(self.s.ow * self.s.c, |c| c.shape().y_len())
    }

    /// Some output rows of one picture.
    fn part(
        &self,
        cx: Ctx,
        rows: Range<usize>,
        x: Map,
        [first, middle, last]: [Link; 3],
        residual: Option<Map>,
        mut y: MapMut,
        scratch: &mut [f32],
    ) {
        let s = &self.s;
        let [a, b, _] = self.lens();
        let (wide, rest) = scratch.split_at_mut(a);
        let (between, scratch) = rest.split_at_mut(b);
        let mut wide = MapMut::of(wide, self.between[0]);
        let mut between = MapMut::of(between, self.between[1]);
        let (line, out) = (s.w * s.c, s.ow * s.c);
        let (from, to) = (self.x_row(), self.y_row());
        let bands = Even::new(rows.len(), self.rows);
        let mut have = 0..0;
        for i in 0..bands.parts {
            let part = bands.range(i);
            let outputs = rows.start + part.start..rows.start + part.end;
            let inputs = depthwise::inputs(s, outputs.clone());
            if let Some(expand) = &self.expand {
                if have.is_empty() {
                    have = inputs.start..inputs.start;
                }
                let known = have.end.clamp(inputs.start, inputs.end);
                wide.move_to_front((inputs.start - have.start) * line..(known - have.start) * line);
                let new = (known - inputs.start) * line..(inputs.end - inputs.start) * line;
                let new = wide.reborrow().part(new);
                let e =
                    Epilogue { bias: first.bias, residual: None, clamp: first.clamp, tally: None };
                let (n, x) = (inputs.end - known, x.part(known * from..inputs.end * from));
                expand.forward(cx, n, x.into(), first.filters, new, e, scratch);
                have = inputs.clone();
            }
            let x = match self.expand {
                Some(_) => wide.read().part(0..inputs.len() * line),
                None => x.part(inputs.start * line..inputs.end * line),
            };
            let e = depthwise::Epilogue { bias: middle.bias, clamp: middle.clamp, tally: None };
            let y = y.reborrow().part(part.start * to..part.end * to);
            let Some(project) = &self.project else {
                depthwise::forward_rows(cx.isa, s, outputs, x, middle.filters, y, e);
                continue;
            };
            let mut between = between.reborrow().first(part.len() * out);
            depthwise::forward_rows(cx.isa, s, outputs, x, middle.filters, between.reborrow(), e);
            let residual = residual.map(|r| r.part(part.start * to..part.end * to));
            let e = Epilogue { bias: last.bias, residual, clamp: last.clamp, tally: None };
            project.forward(cx, part.len(), between.read().into(), last.filters, y, e, scratch);
        }
    }
}
