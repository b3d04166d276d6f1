//! Filters in the order in which tiles read them: `[group][panel][run][channel][cell of the run][lane]`
//! (a run is one cell, or three for the row tile), the last panel's missing lanes zero.

use super::ConvShape;
use super::walk::{Cell, Walk};
use crate::gemm::{Family, Panel};
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
    each(cx, walk, pack, &|group, cell, lanes, out, step| {
        if lanes.used < lanes.width {
            for row in 0..dg {
                out[row * step..][lanes.used..lanes.width].fill(0.0);
            }
        }
        // 16 filters at a time: what is read stays in lines, what is written in a small block.
        for block in (0..dg).step_by(16) {
            let n = (dg - block).min(16);
            for lane in 0..lanes.used {
                let at = ((cell.kh * s.kw + cell.kw) * cg + lanes.start + lane) * s.d
                    + group * dg
                    + block;
                for (i, &v) in filters[at..at + n].iter().enumerate() {
                    out[(block + i) * step + lane] = v;
                }
            }
        }
    });
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
