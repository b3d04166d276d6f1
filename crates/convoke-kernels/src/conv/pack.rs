//! Filters in the order in which tiles read them: `[group][panel][run][channel][cell of the run][lane]`
//! (a run is one cell, or three for the row tile), the last panel's missing lanes zero.

use super::ConvShape;
use super::walk::{Cell, Walk};
use crate::gemm::{Family, Panel, Simd};
use crate::isa::simd;
use crate::{Ctx, SharedMut};

/// `filters [kh,kw,c/groups,d]` for the forward walk: lanes are filters.
pub(super) fn forward(cx: Ctx, s: &ConvShape, walk: &Walk, filters: &[f32], pack: &mut [f32]) {
    let (cg, dg) = (s.c / s.groups, s.d / s.groups);
    assert!(filters.len() >= s.filter_len(), "filters are too short");
    each(cx, walk, pack, &|group, cell, lanes, out, step| {
        for ci in 0..cg {
            let at = ((cell.kh * s.kw + cell.kw) * cg + ci) * s.d + group * dg + lanes.start;
            let row = &mut out[ci * step..][..lanes.width];
            row[..lanes.used].copy_from_slice(&filters[at..at + lanes.used]);
            row[lanes.used..].fill(0.0);
        }
    });
}

/// `filters [kh,kw,c/groups,d]` for backward-data: lanes are input channels, the sum runs over filters.
pub(super) fn backward(cx: Ctx, s: &ConvShape, walk: &Walk, filters: &[f32], pack: &mut [f32]) {
    let (cg, dg) = (s.c / s.groups, s.d / s.groups);
    assert!(filters.len() >= s.filter_len(), "filters are too short");
    let isa = cx.isa;
    each(cx, walk, pack, &|group, cell, lanes, out, step| {
        let from = ((cell.kh * s.kw + cell.kw) * cg + lanes.start) * s.d + group * dg;
        let (from, rows) = (&filters[from..], (lanes.used, lanes.width));
        assert!((rows.0 - 1) * s.d + dg <= from.len(), "reads past the end");
        assert!((dg - 1) * step + rows.1 <= out.len(), "writes past the end");
        // SAFETY: `used` rows of `dg` numbers lie in `from`, `dg` rows of whole vectors in `out`.
        unsafe {
            let (from, pitch, to) = (from.as_ptr(), s.d, out.as_mut_ptr());
            simd!(isa, turned(from: *const f32, pitch: usize, rows: (usize, usize), dg: usize, to: *mut f32, step: usize))
        }
    });
}

/// `to[i · step + lane] = from[lane · pitch + i]` for `n` numbers of the used lanes; those from there to the width are zero.
#[inline(always)]
unsafe fn turned<S: Simd>(
    from: *const f32,
    pitch: usize,
    (used, width): (usize, usize),
    n: usize,
    to: *mut f32,
    step: usize,
) {
    let mut part = [0.0f32; 256];
    for lane in (0..width).step_by(S::LANES) {
        let rows = used.saturating_sub(lane).min(S::LANES);
        for first in (0..n).step_by(S::LANES) {
            let (from, count) =
                (from.wrapping_add(lane * pitch + first), (n - first).min(S::LANES));
            // SAFETY: the caller's; a square that is not whole goes by way of `part`.
            unsafe {
                let to = to.add(first * step + lane);
                if count == S::LANES {
                    S::transpose(from, pitch, (rows, count), to, step);
                    continue;
                }
                S::transpose(from, pitch, (rows, count), part.as_mut_ptr(), S::LANES);
                for i in 0..count {
                    S::store(to.add(i * step), S::load(part.as_ptr().add(i * S::LANES)));
                }
            }
        }
    }
}

type Fill<'a> = dyn Fn(usize, Cell, Panel, &mut [f32], usize) + Sync + 'a;

/// Calls `fill(group, cell, lanes, out, step)` for every cell: channel `i`'s lanes begin at `out[i · step]`.
fn each(cx: Ctx, walk: &Walk, pack: &mut [f32], fill: &Fill) {
    assert!(pack.len() >= walk.pack_len(), "pack is too short");
    let family = Family::of(cx.isa);
    let panels = walk.filters.div_ceil(family.width());
    let cells = walk.cells.len();
    let runs = cells / walk.run;
    let pack = SharedMut::new(pack);
    cx.pool.run(walk.groups * panels * runs, &|item, _| {
        let (item, run) = (item / runs, item % runs);
        let (group, panel) = (item / panels, item % panels);
        let panel = family.panels(walk.filters).nth(panel).expect("panel exists");
        let step = walk.run * panel.width;
        let block = walk.channels * step;
        let at = group * walk.group_pack_len() + cells * walk.channels * panel.start + run * block;
        // SAFETY: every item has its own block.
        let out = unsafe { pack.slice(at..at + block) };
        for i in 0..walk.run {
            let cell = walk.cells[run * walk.run + i];
            fill(group, cell, panel, &mut out[i * panel.width..], step);
        }
    });
}
