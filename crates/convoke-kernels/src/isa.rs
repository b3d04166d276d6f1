//! Instruction sets, chosen when the program runs, never by build flags.

use crate::Pool;

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 with tiles of bf16 products (AMX), for what [`crate::conv`] does better with them; all else
    /// is [`Isa::Avx512`]'s.
    Amx,
    /// AVX-512F (with BW, DQ and VL) and FMA.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// NEON, part of every 64-bit Arm.
    Neon,
    /// Plain Rust.
    Portable,
}

impl Isa {
    /// The best that this machine has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this machine has, best first; the last is always [`Isa::Portable`].
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                if crate::conv::tiles_present() {
                    all.push(Isa::Amx);
                }
                all.push(Isa::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(Isa::Neon);
        all.push(Isa::Portable);
        all
    }

    /// The name that people write.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    /// The instruction set of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Isa::Amx, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable]
            .into_iter()
            .find(|i| i.name() == name)
    }
}

/// What every kernel is given beside its slices.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// The threads.
    pub pool: &'a Pool,
    /// The instruction set; it must be one of [`Isa::available`].
    pub isa: Isa,
}

/// Whether an instruction set of this machine comes with an instruction that rounds to bf16.
pub(crate) fn rounds_bf16(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        matches!(isa, Isa::Avx512 | Isa::Amx) && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        false
    }
}

/// Compiles one `#[inline(always)]` body for every instruction set and calls the one asked for.
///
/// `multiversion!(isa, body(a: &[f32], b: &mut [f32]) -> f32)` is an expression that runs `body(a, b)`,
/// compiled by the compiler's own vectorizer for the instruction set.
#[macro_export]
macro_rules! multiversion {
    ($isa:expr, $body:ident $(::<$($n:ident),+>)? ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            unsafe fn avx512$(<$($n: $crate::map::Number),+>)?($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2$(<$($n: $crate::map::Number),+>)?($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            match $isa {
                // SAFETY: kernels are given instruction sets that `Isa::available` found.
                $crate::Isa::Avx512 | $crate::Isa::Amx => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body($($arg),*),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = $isa;
            $body($($arg),*)
        }
    }};
}

/// Compiles one generic `#[inline(always)] unsafe fn body<S: Simd>(…)` for every instruction set and
/// calls the one asked for. `simd!(isa, body(a: &[f32], b: &mut [f32]))` runs `body::<…>(a, b)`; the
/// caller keeps the body's contract. A body over maps of either kind names their numbers behind it,
/// `body::<N>(x: &[N])`; likewise in [`multiversion!`].
macro_rules! simd {
    ($isa:expr, $body:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {
        simd!(@all $isa, $body [] ($($arg: $ty),*))
    };
    ($isa:expr, $body:ident ::<$($n:ident),+> ( $($arg:ident : $ty:ty),* $(,)? )) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn bf16<$($n: $crate::map::Number),+>($($arg: $ty),*) {
                // SAFETY: this function has the instruction set; the rest is the caller's.
                unsafe { $body::<$crate::gemm::Avx512Bf16, $($n),+>($($arg),*) }
            }
            match $crate::isa::rounds_bf16($isa) {
                true => bf16($($arg),*),
                false => simd!(@all $isa, $body [$($n),+] ($($arg: $ty),*)),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        simd!(@all $isa, $body [$($n),+] ($($arg: $ty),*))
    }};
    (@all $isa:expr, $body:ident [$($n:ident),*] ($($arg:ident : $ty:ty),*)) => {{
        #[allow(clippy::too_many_arguments)]
        unsafe fn portable<$($n: $crate::map::Number),*>($($arg: $ty),*) {
            // SAFETY: the caller's.
            unsafe { $body::<$crate::gemm::Portable $(, $n)*>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512<$($n: $crate::map::Number),*>($($arg: $ty),*) {
                // SAFETY: this function has the instruction set; the rest is the caller's.
                unsafe { $body::<$crate::gemm::Avx512 $(, $n)*>($($arg),*) }
            }
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2<$($n: $crate::map::Number),*>($($arg: $ty),*) {
                // SAFETY: this function has the instruction set; the rest is the caller's.
                unsafe { $body::<$crate::gemm::Avx2 $(, $n)*>($($arg),*) }
            }
            match $isa {
                $crate::Isa::Avx512 | $crate::Isa::Amx => avx512($($arg),*),
                $crate::Isa::Avx2 => avx2($($arg),*),
                _ => portable($($arg),*),
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            #[allow(clippy::too_many_arguments)]
            unsafe fn neon<$($n: $crate::map::Number),*>($($arg: $ty),*) {
                // SAFETY: NEON is part of aarch64; the rest is the caller's.
                unsafe { $body::<$crate::gemm::Neon $(, $n)*>($($arg),*) }
            }
            match $isa {
                $crate::Isa::Neon => neon($($arg),*),
                _ => portable($($arg),*),
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            let _ = $isa;
            portable($($arg),*)
        }
    }};
}
pub(crate) use simd;
