//! Convolution and dense layers as walks of one micro-kernel.
//!
//! `x [n,h,w,c] · filters [kh,kw,c/groups,d] -> y [n,oh,ow,d]`. A dense layer is a 1×1 convolution
//! over a 1×1 map. Depthwise convolutions have kernels of their own in [`crate::depthwise`].
//!
//! Forward and backward-data are both a `walk::Walk`; backward-weights is a `weights::Weights`. Where they take
//! less time, `tiles` and `dots` (narrower numbers) or `winograd` (fewer products) take their place.

mod dense;
mod dots;
mod narrow;
mod pack;
mod tiles;
mod together;
mod walk;
mod weights;
mod winograd;

use crate::norm::{Behind, Source, Tally};
use crate::{Ctx, Isa, Map, MapMut};
use dense::Dense;
use narrow::{Narrow, NarrowWalk, NarrowWeights};
use tiles::Kind;
pub(crate) use tiles::Steps;
pub(crate) use tiles::present as tiles_present;
pub use tiles::{Int8, Precision, Range8};
use together::Together;
use walk::Walk;
use weights::Weights;
use winograd::Fewer;
pub use winograd::Winograd;

/// Sizes of a convolution, padding in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Input channels.
    pub c: usize,
    /// Window rows.
    pub kh: usize,
    /// Window columns.
    pub kw: usize,
    /// Filters.
    pub d: usize,
    /// Step between output rows.
    pub sh: usize,
    /// Step between output columns.
    pub sw: usize,
    /// Padding rows above.
    pub top: usize,
    /// Padding columns to the left.
    pub left: usize,
    /// Step between window rows.
    pub dh: usize,
    /// Step between window columns.
    pub dw: usize,
    /// Independent groups of channels.
    pub groups: usize,
    /// Output rows.
    pub oh: usize,
    /// Output columns.
    pub ow: usize,
}

impl ConvShape {
    /// A dense layer: `inputs` → `units`.
    pub fn dense(inputs: usize, units: usize) -> Self {
        ConvShape {
            h: 1,
            w: 1,
            c: inputs,
            kh: 1,
            kw: 1,
            d: units,
            sh: 1,
            sw: 1,
            top: 0,
            left: 0,
            dh: 1,
            dw: 1,
            groups: 1,
            oh: 1,
            ow: 1,
        }
    }

    /// Floats of one input sample.
    pub fn x_len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Floats of one output sample.
    pub fn y_len(&self) -> usize {
        self.oh * self.ow * self.d
    }

    /// Floats of the filters.
    pub fn filter_len(&self) -> usize {
        self.kh * self.kw * (self.c / self.groups) * self.d
    }

    /// Multiply-accumulates of one sample.
    pub fn macs(&self) -> u64 {
        (self.y_len() * self.kh * self.kw) as u64 * (self.c / self.groups) as u64
    }
}

/// What is done to a sum before it is written: `clamp(sum + bias + residual)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One number per filter `[d]`.
    pub bias: Option<&'a [f32]>,
    /// Added number by number, shaped as the output. Only where outputs are of integers ([`Conv::takes_bytes`]) it may
    /// be another kind of map than f32.
    pub residual: Option<Map<'a>>,
    /// Lower and upper bound (ReLU is `(0, inf)`).
    pub clamp: Option<(f32, f32)>,
    /// Sums over the output, made while it is written, where there are [`Conv::shards`].
    pub tally: Option<&'a Tally<'a>>,
}

/// What becomes of a gradient that is computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Onto<'a> {
    /// Whether it is added to what is there.
    pub accumulate: bool,
    /// Sums over all of it, made while it is written, where there are [`Conv::shards`].
    pub tally: Option<&'a Tally<'a>>,
}

impl From<bool> for Onto<'_> {
    fn from(accumulate: bool) -> Self {
        Onto { accumulate, tally: None }
    }
}

/// A convolution planned for one instruction set: every walk decided.
#[derive(Debug, Clone)]
pub struct Conv {
    shape: ConvShape,
    forward: Walk,
    backward: Vec<Walk>,
    weights: Weights,
    /// The same by narrower numbers, where they are faster.
    narrow: Narrow,
    /// The same with fewer products, where asked for.
    winograd: Fewer,
    /// Everything straight from the filters, see [`Conv::unpacked`].
    dense: Option<Dense>,
    /// The way back in one walk, where asked for.
    together: Option<Together>,
    precision: Precision,
    batch: usize,
    threads: usize,
}

impl Conv {
    /// Plans for up to `batch` samples on `threads` threads (which change no result), in f32.
    pub fn new(shape: ConvShape, isa: Isa, batch: usize, threads: usize) -> Self {
        let conv = Conv {
            shape,
            forward: Walk::forward(&shape, isa, false),
            backward: Walk::backward_data(&shape, isa),
            weights: Weights::new(&shape, isa, (batch, threads), false),
            narrow: Narrow::default(),
            winograd: Fewer::default(),
            dense: None,
            together: None,
            precision: Precision::F32,
            batch,
            threads,
        };
        conv.precision(Precision::F32)
    }

    /// The same in another precision.
    pub fn precision(self, precision: Precision) -> Self {
        Conv { narrow: Narrow::new(&self, precision, false), precision, ..self }
    }

    /// The same with everything in the products of a precision where [`Conv::has_products`], faster or not: to test
    /// and to measure.
    pub fn all_in(self, precision: Precision) -> Self {
        Conv { narrow: Narrow::new(&self, precision, true), precision, ..self }
    }

    /// Whether an instruction set comes, on this machine, with products of its own for a precision: on tiles
    /// ([`Isa::Amx`]), or of bf16 on vectors.
    pub fn has_products(isa: Isa, precision: Precision) -> bool {
        Isa::available().contains(&isa) && Narrow::serves(isa, precision)
    }

    /// The same with [`Conv::forward`] in integers of 8 bits, for maps of this range; `way` `None` takes the best of
    /// the instruction set. As it was where sums could overflow (more than 66,000 products) and in groups.
    pub fn int8(self, range: Range8, way: Option<Int8>) -> Self {
        let way = way.unwrap_or_else(|| Int8::best(self.forward.isa()));
        let kind = Kind::Int8(way, range);
        let walk = NarrowWalk::new(&self.forward, kind, self.batch, self.threads);
        if self.shape.groups > 1 || !walk.holds() {
            return self;
        }
        Conv { narrow: Narrow { forward: Some(walk), ..self.narrow }, dense: None, ..self }
    }

    /// Whether [`Conv::forward`] is in integers.
    pub fn is_int8(&self) -> bool {
        self.narrow.forward.as_ref().is_some_and(NarrowWalk::is_int8)
    }

    /// The same with fewer products (Winograd's minimal filtering) for windows of 3×3 at stride 1: in f32, and last
    /// in the row of such calls.
    pub fn winograd(self, when: Winograd) -> Self {
        Conv { winograd: Fewer::new(&self, when), ..self }
    }

    /// Whether any pass takes fewer products.
    pub fn is_winograd(&self) -> bool {
        let Fewer { forward, backward, weights } = &self.winograd;
        forward.is_some() || backward.is_some() || weights.is_some()
    }

    /// The same for an input that may have a norm to apply.
    pub fn normed(self) -> Self {
        let isa = self.forward.isa();
        Conv {
            forward: Walk::forward(&self.shape, isa, true),
            weights: Weights::new(&self.shape, isa, (self.batch, self.threads), true),
            ..self
        }
    }

    /// The same, reading the filters themselves in the place of packed ones where they are so many that
    /// packing would cost as much as using them. Packed filters then take no memory.
    pub fn unpacked(self) -> Self {
        let Some(dense) = Dense::new(&self.shape, self.forward.isa(), self.batch, self.precision)
        else {
            return self;
        };
        // On tiles the gradient of the weights stays there.
        let weights = self.narrow.weights.filter(|_| self.forward.isa() == Isa::Amx);
        let narrow = Narrow { forward: None, backward: None, weights };
        Conv { dense: Some(dense), narrow, ..self }
    }

    /// Whether [`Conv::forward`] and [`Conv::backward_data`] read filters as they are, without packing.
    pub fn is_unpacked(&self) -> [bool; 2] {
        let Fewer { forward, backward, .. } = &self.winograd;
        [forward, backward].map(|walk| match walk {
            Some(walk) => walk.is_unpacked(),
            None => self.dense.is_some(),
        })
    }

    /// The same with the way back in one walk ([`Conv::backward`]) where that takes less time: in f32, and last in the row
    /// of such calls.
    pub fn together(self) -> Self {
        let (narrow, fewer) = (&self.narrow, &self.winograd);
        let other = self.dense.is_some() || narrow.backward.is_some() || narrow.weights.is_some();
        let free = !other && fewer.backward.is_none() && fewer.weights.is_none();
        let plain = free && self.precision == Precision::F32;
        let isa = self.forward.isa();
        let together = plain.then(|| Together::new(&self.shape, isa, self.batch)).flatten();
        Conv { together, ..self }
    }

    /// Whether the way back is [`Conv::backward`].
    pub fn is_together(&self) -> bool {
        self.together.is_some()
    }

    /// The sizes.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Floats of the filters packed for [`Conv::forward`].
    pub fn forward_pack_len(&self) -> usize {
        if let Some(winograd) = &self.winograd.forward {
            return winograd.pack_len();
        }
        match &self.narrow.forward {
            Some(narrow) => narrow.pack_len(),
            None => self.forward.pack_len(),
        }
    }

    /// Floats of the filters packed for [`Conv::backward_data`].
    pub fn backward_pack_len(&self) -> usize {
        if let Some(winograd) = &self.winograd.backward {
            return winograd.pack_len();
        }
        match &self.narrow.backward {
            Some(narrow) => narrow.iter().map(NarrowWalk::pack_len).sum(),
            None => self.backward.iter().map(Walk::pack_len).sum(),
        }
    }

    /// Floats of work space for [`Conv::forward`].
    pub fn forward_scratch_len(&self) -> usize {
        if let Some(winograd) = &self.winograd.forward {
            return winograd.scratch_len() * self.threads;
        }
        let one = match (&self.dense, &self.narrow.forward) {
            (Some(dense), _) => return dense.forward_scratch_len(self.batch, self.threads),
            (_, Some(narrow)) => narrow.scratch_len(),
            _ => self.forward.scratch_len(self.batch, self.threads),
        };
        one * self.threads
    }

    /// Floats of work space for [`Conv::backward_data`].
    pub fn backward_scratch_len(&self) -> usize {
        if let Some(winograd) = &self.winograd.backward {
            return winograd.scratch_len() * self.threads;
        }
        if let Some(dense) = &self.dense {
            return dense.data_scratch_len(self.batch, self.threads);
        }
        let most = match &self.narrow.backward {
            Some(narrow) => narrow.iter().map(NarrowWalk::scratch_len).max(),
            None => self.backward.iter().map(|w| w.scratch_len(self.batch, self.threads)).max(),
        };
        most.unwrap_or(0) * self.threads
    }

    /// Floats of work space for [`Conv::backward_weights`].
    pub fn weights_scratch_len(&self) -> usize {
        if let Some(winograd) = &self.winograd.weights {
            return winograd.scratch_len(self.threads);
        }
        match (&self.narrow.weights, &self.dense) {
            (Some(narrow), _) => narrow.scratch_len(self.threads),
            (None, Some(dense)) => dense.weights_scratch_len(self.batch, self.threads),
            (None, None) => self.weights.scratch_len(self.threads),
        }
    }

    /// Floats of work space for [`Conv::backward`].
    pub fn together_scratch_len(&self) -> usize {
        self.together.as_ref().map_or(0, |t| t.scratch_len(self.threads))
    }

    /// Orders the filters as [`Conv::forward`] reads them; gives back what it reads, `pack` or, where
    /// [`Conv::is_unpacked`], the filters.
    pub fn pack_forward<'a>(&self, cx: Ctx, filters: &'a [f32], pack: &'a mut [f32]) -> &'a [f32] {
        if self.is_unpacked()[0] {
            return filters;
        }
        match (&self.winograd.forward, &self.narrow.forward) {
            (Some(winograd), _) => winograd.pack(cx, filters, pack),
            (None, Some(narrow)) => narrow.pack(cx, &self.shape, filters, false, pack),
            (None, None) => pack::forward(cx, &self.shape, &self.forward, filters, pack),
        }
        pack
    }

    /// Orders the filters as [`Conv::backward_data`] reads them, flipped and transposed; gives back what it reads, `pack`
    /// or, where [`Conv::is_unpacked`], the filters.
    pub fn pack_backward<'a>(&self, cx: Ctx, filters: &'a [f32], pack: &'a mut [f32]) -> &'a [f32] {
        if self.is_unpacked()[1] {
            return filters;
        }
        let mut rest = &mut *pack;
        match (&self.winograd.backward, &self.narrow.backward) {
            (Some(winograd), _) => winograd.pack(cx, filters, rest),
            (None, Some(narrow)) => {
                for walk in narrow {
                    let (mine, others) = rest.split_at_mut(walk.pack_len());
                    walk.pack(cx, &self.shape, filters, true, mine);
                    rest = others;
                }
            }
            (None, None) => {
                for walk in &self.backward {
                    let (mine, others) = rest.split_at_mut(walk.pack_len());
                    pack::backward(cx, &self.shape, walk, filters, mine);
                    rest = others;
                }
            }
        }
        pack
    }

    /// Shards of a [`Tally`] over what [`Conv::forward`] and the way back write; none where they make none.
    pub fn shards(&self) -> [usize; 2] {
        let (narrow, fewer, packed) = (&self.narrow, &self.winograd, self.dense.is_none());
        let forward = packed && fewer.forward.is_none() && narrow.forward.is_none();
        let backward = packed && fewer.backward.is_none() && narrow.backward.is_none();
        let [forward, backward] =
            [(forward, std::slice::from_ref(&self.forward)), (backward, &self.backward[..])].map(
                |(plain, walks)| match walks {
                    [one] if plain => one.shards(self.batch),
                    _ => 0,
                },
            );
        [forward, self.together.as_ref().map_or(backward, |t| t.shards)]
    }

    /// Whether [`Conv::forward`], [`Conv::backward_data`] and [`Conv::backward_weights`] read and write maps of bf16
    /// as well, any of theirs.
    pub fn takes_halves(&self) -> bool {
        let (narrow, fewer) = (&self.narrow, &self.winograd);
        let dots = |walks: &[NarrowWalk]| walks.iter().all(NarrowWalk::takes_halves);
        self.dense.is_none()
            && (fewer.forward.is_some()
                || narrow.forward.as_ref().is_some_and(NarrowWalk::takes_halves))
            && (fewer.backward.is_some() || narrow.backward.as_deref().is_some_and(dots))
            && (fewer.weights.is_some()
                || narrow.weights.as_ref().is_some_and(NarrowWeights::takes_halves))
    }

    /// Whether [`Conv::forward`] reads, adds and writes maps of bytes as well, any of them. Those that it reads are of
    /// the range of [`Conv::int8`].
    pub fn takes_bytes(&self) -> bool {
        self.dense.is_none()
            && self.winograd.forward.is_none()
            && self.narrow.forward.as_ref().is_some_and(NarrowWalk::takes_bytes)
    }

    /// `y [n,oh,ow,d] = epilogue(x [n,h,w,c] ∗ filters)`; maps of bf16 have no residual added. Bytes are what f32 would
    /// be, rounded once.
    pub fn forward<'a>(
        &self,
        cx: Ctx,
        n: usize,
        x: Source,
        pack: &[f32],
        y: impl Into<MapMut<'a>>,
        epilogue: Epilogue,
        scratch: &mut [f32],
    ) {
        let y = y.into();
        self.check(n, x.x, y.read());
        if let Some(dense) = &self.dense {
            assert!(epilogue.residual.is_none(), "dense layers add no residual");
            assert!(x.norm.is_none(), "dense layers apply no norm");
            return dense.forward(cx, n, x.x.full(), pack, y.full(), epilogue, scratch);
        }
        if let Some(winograd) = &self.winograd.forward {
            return winograd.run(cx, n, x, pack, y, false, epilogue, scratch);
        }
        if let Some(narrow) = &self.narrow.forward {
            return narrow.run(cx, n, x, pack, y, false, epilogue, scratch);
        }
        self.forward.run(cx, n, x, pack, y.full(), false, epilogue, scratch);
    }

    /// `dx [n,h,w,c] (+)= dy [n,oh,ow,d] ∗ flipped, transposed filters`.
    pub fn backward_data<'a>(
        &self,
        cx: Ctx,
        n: usize,
        dy: impl Into<Map<'a>>,
        pack: &[f32],
        dx: impl Into<MapMut<'a>>,
        onto: impl Into<Onto<'a>>,
        scratch: &mut [f32],
    ) {
        let Onto { accumulate, tally } = onto.into();
        let (dy, mut dx) = (dy.into(), dx.into());
        self.check(n, dx.read(), dy);
        if let Some(dense) = &self.dense {
            return dense.data(cx, n, dy.full(), pack, dx.full(), accumulate, scratch);
        }
        let (mut rest, plain) = (pack, Epilogue { tally, ..Epilogue::default() });
        if let Some(winograd) = &self.winograd.backward {
            return winograd.run(cx, n, dy.into(), pack, dx, accumulate, plain, scratch);
        }
        if let Some(narrow) = &self.narrow.backward {
            for walk in narrow {
                let (mine, others) = rest.split_at(walk.pack_len());
                walk.run(cx, n, dy.into(), mine, dx.reborrow(), accumulate, plain, scratch);
                rest = others;
            }
            return;
        }
        let dx = dx.full();
        for walk in &self.backward {
            let (mine, others) = rest.split_at(walk.pack_len());
            walk.run(cx, n, dy.into(), mine, dx, accumulate, plain, scratch);
            rest = others;
        }
    }

    /// `dw [kh,kw,c/groups,d] = sum over pictures and pixels of x · dy`. The sum is split by shape
    /// and by the planned batch, never by threads.
    pub fn backward_weights<'a>(
        &self,
        cx: Ctx,
        n: usize,
        x: Source,
        dy: impl Into<Map<'a>>,
        dw: &mut [f32],
        scratch: &mut [f32],
    ) {
        let dy = dy.into();
        self.check(n, x.x, dy);
        assert!(dw.len() >= self.shape.filter_len(), "filters' gradient is too short");
        if let Some(winograd) = &self.winograd.weights {
            return winograd.run(cx, n, x, dy, dw, scratch);
        }
        if let Some(narrow) = &self.narrow.weights {
            return narrow.run(cx, n, x, dy, dw, scratch);
        }
        let dy = dy.full();
        if let Some(dense) = &self.dense {
            return dense.weights(cx, n, x.x.full(), dy, dw, scratch);
        }
        self.weights.run(cx, n, x, dy, dw, scratch);
    }

    /// [`Conv::backward_data`] and [`Conv::backward_weights`] in one walk, where [`Conv::is_together`]: `dx`, onto what is
    /// there, and `dw`. With a norm behind, `dy` is the gradient of that norm's output.
    ///
    /// # Panics
    /// When it is not.
    pub fn backward(
        &self,
        cx: Ctx,
        n: usize,
        (x, dy, behind): (Source, &[f32], Option<Behind>),
        pack: &[f32],
        (dx, onto): (&mut [f32], Onto),
        dw: &mut [f32],
        scratch: &mut [f32],
    ) {
        self.check(n, x.x, Map::Full(dy));
        let together = self.together.as_ref().expect("a convolution whose way back is one walk");
        together.run(cx, n, (x, dy, behind), pack, (dx, onto), dw, scratch);
    }

    fn check(&self, n: usize, x: Map, y: Map) {
        assert!(n <= self.batch, "{n} samples but planned for {}", self.batch);
        assert!(x.len() >= n * self.shape.x_len(), "input is too short");
        assert!(y.len() >= n * self.shape.y_len(), "output is too short");
    }
}
