//! Filters in the order in which tiles read them: `[block of columns][step][piece][16 columns]` tiles, each
//! of 16 pairs of products by 16 columns.

use super::block::Form;
use super::{DEPTH, SIDE, TILE, split};
use crate::gemm::Even;
use crate::{Ctx, SharedMut};

/// How columns are cut into blocks: wide ones, and a tall one for 16 columns or fewer that are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    /// Columns that exist.
    pub n: usize,
}

impl Columns {
    pub fn blocks(self) -> usize {
        self.n.div_ceil(2 * SIDE)
    }

    /// First column, columns that exist, and form of a block.
    pub fn block(self, i: usize) -> (usize, usize, Form) {
        let start = i * 2 * SIDE;
        let used = (self.n - start).min(2 * SIDE);
        (start, used, if used <= SIDE { Form::Tall } else { Form::Wide })
    }

    /// Columns of all blocks.
    pub fn padded(self) -> usize {
        (0..self.blocks()).map(|i| self.block(i).2.columns()).sum()
    }

    /// bf16 numbers of the packed operand for so many steps.
    pub fn packed(self, steps: usize, pieces: usize) -> usize {
        (0..self.blocks()).map(|i| self.block(i).2.step(pieces)).sum::<usize>() * steps
    }

    /// Where a block's operand begins.
    pub fn at(self, block: usize, steps: usize, pieces: usize) -> usize {
        block * steps * Form::Wide.step(pieces)
    }
}

type Fill<'a> = dyn Fn(usize, usize, usize, &mut [[f32; SIDE]; DEPTH]) + Sync + 'a;

/// Packs `steps` of 32 products. `fill(step, column, lanes, out)` writes `lanes` columns from `column` on of a
/// step's products to `out`, which is zero before.
pub(super) fn pack(
    cx: Ctx,
    columns: Columns,
    steps: usize,
    pieces: usize,
    to: &mut [u16],
    fill: &Fill,
) {
    let to = SharedMut::new(&mut to[..columns.packed(steps, pieces)]);
    const TOGETHER: usize = 8;
    let parts = Even::new(steps, TOGETHER);
    cx.pool.run(columns.blocks() * parts.parts, &|item, _| {
        let (block, part) = (item / parts.parts, parts.range(item % parts.parts));
        let (start, used, form) = columns.block(block);
        let groups = form.columns() / SIDE;
        for step in part {
            let at = columns.at(block, steps, pieces) + step * form.step(pieces);
            for group in 0..groups {
                let column = start + group * SIDE;
                let lanes = (start + used).saturating_sub(column).min(SIDE);
                let mut products = [[0.0; SIDE]; DEPTH];
                if lanes > 0 {
                    fill(step, column, lanes, &mut products);
                }
                // SAFETY: every item has its own steps of its own block.
                unsafe {
                    let tile = to.as_mut_ptr().add(at + group * TILE);
                    for i in 0..SIDE {
                        let rows = [products[2 * i].as_ptr(), products[2 * i + 1].as_ptr()];
                        let out = tile.add(i * DEPTH);
                        match pieces {
                            1 => split::pair::<1>(rows, SIDE, out, groups * TILE),
                            _ => split::pair::<3>(rows, SIDE, out, groups * TILE),
                        }
                    }
                }
            }
        }
    });
}
