//! A pass over the calls of a step: what a norm needs to know of its input (mean, variance) is summed by the convolution
//! that writes it, while the outputs of a tile are at hand, if that gains. The map is then not read once more. The sums of
//! a norm's gradient are handed over by [`super::lower::Lower::take_sums`].

use super::arena::{Buf, BufSpec, Kind};
use super::op::Call;
use convoke_kernels::Form;
use convoke_kernels::norm;

/// Sums over the rows of a map, by channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    /// The map.
    pub map: Buf,
    /// Its channels.
    pub c: usize,
    /// Where its writer makes them ([`norm::space_len`]), and its shards; none where they are a pass of their own.
    pub space: Buf,
    pub shards: usize,
}

impl Tally {
    /// Sums that are a pass of their own.
    pub fn apart(map: Buf, c: usize) -> Self {
        Tally { map, c, space: Buf::NONE, shards: 0 }
    }

    /// Whether the writer of the map makes the sums.
    pub fn is_made(&self) -> bool {
        self.shards > 0
    }
}

/// Lets sums be made where their maps are written.
pub(super) fn pass(bufs: &mut Vec<BufSpec>, calls: &mut [Call]) {
    for i in 0..calls.len() {
        let Some(tally) = calls[i].op.tally() else { continue };
        let writer = (0..i).rev().find(|&j| calls[j].op.buffers().contains(&tally.map));
        let Some(j) = writer else { continue };
        let shards = calls[j].op.shards(&tally);
        if shards == 0 {
            continue;
        }
        let (name, len) = (format!("{} sums", calls[i].name), norm::space_len(shards, tally.c));
        bufs.push(BufSpec { name, kind: Kind::Step, len, form: Form::Full });
        let tally = Tally { space: Buf(bufs.len() - 1), shards, ..tally };
        (calls[j].op, calls[i].op) = (calls[j].op.with(tally), calls[i].op.with(tally));
    }
}
