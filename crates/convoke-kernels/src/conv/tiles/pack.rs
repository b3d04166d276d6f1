//! Filters in the order in which tiles read them: `[block of columns][step][piece][16 columns]` tiles, each
//! of 16 rows of 16 columns of so many products as four bytes hold.

use super::block::Form;
use super::{Kind, ROW, SIDE, TILE};
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

    /// Bytes of the packed operand for so many steps.
    pub fn packed(self, steps: usize, pieces: usize) -> usize {
        (0..self.blocks()).map(|i| self.block(i).2.step(pieces)).sum::<usize>() * steps
    }

    /// Where a block's operand begins.
    pub fn at(self, block: usize, steps: usize, pieces: usize) -> usize {
        block * steps * Form::Wide.step(pieces)
    }
}

/// A step of 16 columns: `[product][column]`.
pub(super) type Products = [[f32; SIDE]; ROW];

/// Packs the steps of a sum. `fill(step, column, lanes, out)` writes `lanes` columns from `column` on of a
/// step's products to `out`, which is zero before; `put(column, products, tile, stride)` writes its tiles, so
/// many bytes from one piece to the next.
pub(super) fn pack(
    cx: Ctx,
    columns: Columns,
    steps: usize,
    kind: Kind,
    to: &mut [u8],
    fill: &(dyn Fn(usize, usize, usize, &mut Products) + Sync),
    put: &(dyn Fn(usize, &Products, *mut u8, usize) + Sync),
) {
    let pieces = kind.pieces();
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
                let mut products = [[0.0; SIDE]; ROW];
                if lanes > 0 {
                    fill(step, column, lanes, &mut products);
                }
                // SAFETY: every item has its own steps of its own block.
                let tile = unsafe { to.as_mut_ptr().add(at + group * TILE) };
                put(column, &products, tile, groups * TILE);
            }
        }
    });
}
