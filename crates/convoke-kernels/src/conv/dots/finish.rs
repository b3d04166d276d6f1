//! What becomes of a tile's sums of integers where outputs, or what is added to them, are bytes: a function of its own,
//! which is given the sums in memory. At the end of every tile it would be so much code that the compiler keeps sums in
//! memory all along ([`super::tile`]).

use super::super::tiles::{Int8, Kind, Range8, Steps};
use super::tile::{Dot, Tile, Words};
use crate::Map;
use crate::gemm::Simd;

/// The function, and what its bytes stand for.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Finish {
    pub run: FinishFn,
    to: Steps,
    more: Steps,
}

/// Sums of `rows` × `pixels` × `vectors`, one behind the other, into C.
///
/// # Safety
/// The instruction set must be present, the sums be as many, and C and what is added be valid as for
/// [`super::tile::TileFn`].
pub(in super::super) type FinishFn =
    unsafe fn(t: &Tile, f: &Finish, sums: *const u8, shape: [usize; 3]);

/// What is added to sums.
const NOTHING: u8 = 0;
const FLOATS: u8 = 1;
const BYTES: u8 = 2;

impl Finish {
    /// For these outputs and what is added to them; none where both are f32.
    pub fn new(kind: Kind, to: Map, more: Option<Map>) -> Option<Self> {
        let range = |map: Map| match map {
            Map::Bytes(_, range) => Some(range),
            Map::Full(_) | Map::Half(_) => None,
        };
        let (out, added) = (range(to), more.and_then(range));
        if out.is_none() && added.is_none() {
            return None;
        }
        let none = Range8::new(0.0, 0.0)?;
        let [to, steps] = [out, added].map(|r| r.unwrap_or(none).steps());
        let more = match (more, added) {
            (None, _) => NOTHING,
            (_, None) => FLOATS,
            _ => BYTES,
        };
        Some(Finish { run: pick(kind, out.is_some(), more), to, more: steps })
    }
}

fn pick(kind: Kind, bytes: bool, more: u8) -> FinishFn {
    match kind {
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::Avx512Vnni, _) => x86::avx512_vnni(bytes, more),
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::Avx512, _) => x86::avx512(bytes, more),
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::AvxVnni, _) => x86::avx_vnni(bytes, more),
        #[cfg(target_arch = "x86_64")]
        Kind::Int8(Int8::Avx2, _) => x86::avx2(bytes, more),
        _ => portable(bytes, more),
    }
}

/// Asks for what the end of the tile over the next pixels will read and write: sums of few products take less time than
/// main memory. Bytes of all vectors of a pixel lie in one cache line, mostly.
#[inline(always)]
pub(super) fn ask_for_next<D: Dot, const R: usize, const Q: usize>(t: &Tile) {
    for r in 0..R {
        for q in 0..Q {
            let at = r * t.c_row + (Q + q) * t.c_px;
            D::Floats::prefetch(t.c.address(at));
            if !t.residual.start.is_null() {
                D::Floats::prefetch(t.residual.address(at));
            }
        }
    }
}

/// Hands a copy of the sums to what finishes them: those whose address is given away would lie in memory all along.
#[inline(always)]
pub(super) unsafe fn finish_sums<D: Dot, const R: usize, const Q: usize, const V: usize>(
    t: &Tile,
    finish: Finish,
    sums: &[[[D::Sum; V]; Q]; R],
) {
    // SAFETY: the caller keeps the contract of `TileFn`.
    unsafe {
        let copy = *sums;
        (finish.run)(t, &finish, (&raw const copy).cast(), [R, Q, V]);
    }
}

/// `C = act(scale · sums + bias + more)`, rounded to the nearest integer if C is bytes.
#[inline(always)]
unsafe fn finish<D: Dot, const OUT: bool, const MORE: u8>(
    t: &Tile,
    f: &Finish,
    sums: *const D::Sum,
    [rows, pixels, vectors]: [usize; 3],
) {
    // SAFETY: the caller keeps the contract of `FinishFn`.
    unsafe {
        let (lanes, splat) = (D::Floats::LANES, |x| D::Floats::splat(x));
        let (inverse, zero) = (splat(f.to.inverse), f.to.zero as u8);
        let (more_scale, more_zero) = (splat(f.more.scale), splat(f.more.zero));
        let integers = t.c.start.cast::<u8>();
        let (floats, bytes) = (t.residual.start.cast_const(), t.residual.start.cast::<u8>());
        for v in 0..vectors {
            let used = if v + 1 == vectors { t.last } else { lanes };
            let m = D::Floats::mask(used);
            let scale = D::Floats::load(t.scale.add(v * lanes));
            let bias = match t.bias.is_null() {
                true => splat(0.0),
                false => D::Floats::load_first(t.bias.add(v * lanes), m),
            };
            let mut sums = sums.wrapping_add(v);
            for r in 0..rows {
                let mut at = r * t.c_row + v * lanes;
                for _ in 0..pixels {
                    let mut x = D::floats(sums.read());
                    x = D::Floats::add(D::Floats::mul(x, scale), bias);
                    if MORE == FLOATS {
                        x = D::Floats::add(x, D::Floats::load_first(floats.wrapping_add(at), m));
                    }
                    if MORE == BYTES {
                        let q = D::Floats::load_bytes(bytes.wrapping_add(at), m);
                        let more = D::Floats::mul(D::Floats::sub(q, more_zero), more_scale);
                        x = D::Floats::add(x, more);
                    }
                    if let Some((lo, hi)) = t.clamp {
                        x = D::Floats::clamp(x, splat(lo), splat(hi));
                    }
                    let (c, q) = (integers.wrapping_add(at), D::Floats::mul(x, inverse));
                    match (OUT, used == lanes) {
                        (true, true) => D::Floats::store_bytes_all(c, q, zero),
                        (true, false) => D::Floats::store_bytes(c, q, zero, m),
                        (false, _) => D::Floats::store_first(t.c.start.wrapping_add(at), x, m),
                    }
                    at += t.c_px;
                    sums = sums.wrapping_add(vectors);
                }
            }
        }
    }
}

/// Writes the table of what finishes the sums of one way to multiply.
macro_rules! finishes {
    ($(#[$feature:meta])* $name:ident, $dot:ty) => {
        pub(super) fn $name(bytes: bool, more: u8) -> FinishFn {
            $(#[$feature])*
            unsafe fn of<const OUT: bool, const MORE: u8>(
                t: &Tile,
                f: &Finish,
                sums: *const u8,
                shape: [usize; 3],
            ) {
                // SAFETY: the caller keeps the contract of `FinishFn`.
                unsafe { finish::<$dot, OUT, MORE>(t, f, sums.cast(), shape) }
            }
            match (bytes, more) {
                (true, NOTHING) => of::<true, NOTHING>,
                (true, FLOATS) => of::<true, FLOATS>,
                (true, _) => of::<true, BYTES>,
                (false, _) => of::<false, BYTES>,
            }
        }
    };
}

finishes!(portable, Words);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::tile::Tile;
    use super::super::tile::x86::{Vnni256, Vnni512, Words256, Words512};
    use super::{BYTES, FLOATS, Finish, FinishFn, NOTHING, finish};

    finishes!(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        avx512_vnni,
        Vnni512
    );
    finishes!(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        avx512,
        Words512
    );
    finishes!(
        #[target_feature(enable = "avx2,fma,avxvnni")]
        avx_vnni,
        Vnni256
    );
    finishes!(
        #[target_feature(enable = "avx2,fma")]
        avx2,
        Words256
    );
}
