//! A pass over the calls of a step: the sums that a norm needs, over its input for the statistics and over its output's
//! gradient on the way back, are made by the call that writes the map, where that is a convolution which gains by it.
//! The map is then not read once more for them.

use super::arena::{Buf, BufSpec, Kind};
use super::op::{Call, Exec};
use convoke_kernels::norm::{self, Clamped, Saved};
use convoke_kernels::{Form, Map};

/// Sums over the rows of a map, by channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    /// The map.
    pub map: Buf,
    /// Its numbers per sample, and channels.
    pub len: usize,
    pub c: usize,
    /// Of a gradient, what its sums need; else the map's statistics are summed.
    pub gradient: Option<Gradient>,
    /// Where the writer of the map makes them ([`norm::space_len`]), and its shards; none where they are a pass of
    /// their own.
    pub space: Buf,
    pub shards: usize,
}

/// What the sums over the gradient of a norm's output need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gradient {
    /// The norm's input.
    pub x: Buf,
    pub mean: Buf,
    pub mask: Mask,
}

/// How the gradient of a clamp is masked, see [`Clamped`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mask {
    No,
    Output { y: Buf, max: f32 },
    Anew { scale: Buf, shift: Buf, max: f32 },
}

/// Buffers of a tally beside its map: space, x, mean, and two of the mask; [`Buf::NONE`] where there is none.
pub(crate) type Slots = [Buf; 5];

impl Tally {
    /// Sums that are a pass of their own.
    pub fn apart(map: Buf, len: usize, c: usize, gradient: Option<Gradient>) -> Self {
        Tally { map, len, c, gradient, space: Buf::NONE, shards: 0 }
    }

    /// Whether the writer of the map makes the sums.
    pub fn is_made(&self) -> bool {
        self.shards > 0
    }

    /// Its buffers beside the map.
    pub fn slots(&self) -> Slots {
        let Some(Gradient { x, mean, mask }) = self.gradient else {
            return [self.space, Buf::NONE, Buf::NONE, Buf::NONE, Buf::NONE];
        };
        let [a, b] = match mask {
            Mask::No => [Buf::NONE; 2],
            Mask::Output { y, .. } => [y, Buf::NONE],
            Mask::Anew { scale, shift, .. } => [scale, shift],
        };
        [self.space, x, mean, a, b]
    }

    /// Those that there are.
    pub fn buffers(&self) -> impl Iterator<Item = Buf> {
        self.slots().into_iter().filter(|&b| b != Buf::NONE)
    }

    /// Buffers of a call that may begin sums.
    pub fn slots_of(tally: Option<Tally>) -> Slots {
        tally.map_or([Buf::NONE; 5], |t| t.slots())
    }

    /// What the sums over a gradient of `n` samples need, from the slots; maps are of one form.
    pub fn saved<'a>(
        &self,
        n: usize,
        form: Form,
        [x, mean, a, b]: [&'a [f32]; 4],
    ) -> Option<Saved<'a>> {
        let whole = |map: &'a [f32]| Map::of(map, form).part(0..n * self.len);
        let clamped = match self.gradient?.mask {
            Mask::No => Clamped::No,
            Mask::Output { max, .. } => Clamped::Output { y: whole(a), max },
            Mask::Anew { max, .. } => {
                Clamped::Anew { scale: &a[..self.c], shift: &b[..self.c], max }
            }
        };
        // Sums need no more than that.
        let (invstd, gamma): (&[f32], &[f32]) = (&[], &[]);
        Some(Saved { x: whole(x), clamped, mean: &mean[..self.c], invstd, gamma })
    }

    /// The sums as the writer of the map makes them.
    pub fn begin<'a>(
        &self,
        e: &Exec,
        form: Form,
        [space, x, mean, a, b]: [&'a mut [f32]; 5],
    ) -> norm::Tally<'a> {
        match self.saved(e.n, form, [x, mean, a, b]) {
            Some(saved) => norm::Tally::gradient(self.shards, saved, space),
            None => norm::Tally::statistics(self.shards, self.c, space),
        }
    }
}

/// Lets sums be made where their maps are written.
pub(crate) fn pass(bufs: &mut Vec<BufSpec>, calls: &mut [Call]) {
    for i in 0..calls.len() {
        let Some(tally) = calls[i].op.tally() else { continue };
        let writer = (0..i).rev().find(|&j| calls[j].op.buffers().contains(&tally.map));
        let Some(j) = writer else { continue };
        let shards = calls[j].op.shards(&tally);
        if shards == 0 {
            continue;
        }
        let name = format!("{} sums", calls[i].name);
        let len = norm::space_len(shards, tally.c);
        bufs.push(BufSpec { name, kind: Kind::Step, len, form: Form::Full });
        let tally = Tally { space: Buf(bufs.len() - 1), shards, ..tally };
        (calls[j].op, calls[i].op) = (calls[j].op.with(tally), calls[i].op.with(tally));
    }
}
