//! Filters in the order in which tiles read them: `[group][panel][cell][channel][lane]`, the last
//! panel's missing lanes zero.

use super::ConvShape;
use super::walk::Walk;
use crate::gemm::Family;
use crate::{Ctx, SharedMut};

/// `filters [kh,kw,c/groups,d]` for the forward walk: lanes are filters.
pub(super) fn forward(cx: Ctx, s: &ConvShape, walk: &Walk, filters: &[f32], pack: &mut [f32]) {
    let (cg, dg) = (s.c / s.groups, s.d / s.groups);
    assert!(filters.len() >= s.filter_len(), "filters are too short");
    each(cx, walk, pack, &|group, cell, start, used, width, out| {
        for ci in 0..cg {
            let at = ((cell.kh * s.kw + cell.kw) * cg + ci) * s.d + group * dg + start;
            let row = &mut out[ci * width..][..width];
            row[..used].copy_from_slice(&filters[at..at + used]);
            row[used..].fill(0.0);
        }
    });
}

/// `filters [kh,kw,c/groups,d]` for backward-data: lanes are input channels, the sum runs over filters.
pub(super) fn backward(cx: Ctx, s: &ConvShape, walk: &Walk, filters: &[f32], pack: &mut [f32]) {
    let (cg, dg) = (s.c / s.groups, s.d / s.groups);
    assert!(filters.len() >= s.filter_len(), "filters are too short");
    each(cx, walk, pack, &|group, cell, start, used, width, out| {
        out.fill(0.0);
        // 16 filters at a time: what is read stays in lines, what is written in a small block.
        for block in (0..dg).step_by(16) {
            let n = (dg - block).min(16);
            for lane in 0..used {
                let at =
                    ((cell.kh * s.kw + cell.kw) * cg + start + lane) * s.d + group * dg + block;
                for (i, &v) in filters[at..at + n].iter().enumerate() {
                    out[(block + i) * width + lane] = v;
                }
            }
        }
    });
}

type Fill<'a> = dyn Fn(usize, super::walk::Cell, usize, usize, usize, &mut [f32]) + Sync + 'a;

/// Calls `fill(group, cell, first lane, lanes, width, out [channels][width])` for every block.
fn each(cx: Ctx, walk: &Walk, pack: &mut [f32], fill: &Fill) {
    assert!(pack.len() >= walk.pack_len(), "pack is too short");
    let family = Family::of(cx.isa);
    let panels = walk.filters.div_ceil(family.width());
    let cells = walk.cells.len();
    let pack = SharedMut::new(pack);
    cx.pool.run(walk.groups * panels * cells, &|item, _| {
        let (item, cell) = (item / cells, item % cells);
        let (group, panel) = (item / panels, item % panels);
        let panel = family.panels(walk.filters).nth(panel).expect("panel exists");
        let block = walk.channels * panel.width;
        let at = group * walk.group_pack_len() + cells * walk.channels * panel.start + cell * block;
        // SAFETY: every item has its own block.
        let out = unsafe { pack.slice(at..at + block) };
        fill(group, walk.cells[cell], panel.start, panel.used, panel.width, out);
    });
}
