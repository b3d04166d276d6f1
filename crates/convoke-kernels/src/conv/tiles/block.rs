//! The block of tiles: up to four 16 × 16 sums over some steps of 64 bytes of a row.

use super::{Precision, SIDE, TILE};

/// One call: where rows, packed operand and sums lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// Up to four groups of 16 rows of A.
    pub a: [*const u8; 4],
    /// Bytes from one row to the next.
    pub a_row: usize,
    /// Bytes from one piece of A to the next.
    pub a_piece: usize,
    /// Where each step of the sum begins, in bytes from `a`; the operand's are zero behind the last number.
    pub steps: *const usize,
    pub n: usize,
    /// Packed operand of these steps: `[step][piece][columns / 16]` tiles.
    pub b: *const u8,
    /// Sums of each group of rows, of f32 or i32.
    pub c: [*mut f32; 4],
    /// Bytes from one row of sums to the next.
    pub c_row: usize,
    /// Floats to the second 16 columns.
    pub c_column: usize,
    /// Goes on from what the sums hold.
    pub load: bool,
}

/// What a step multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Multiply {
    /// Six products of three bf16 pieces.
    Split,
    Bf16,
    /// u8 of rows, i8 of the packed operand.
    Int8,
}

impl From<Precision> for Multiply {
    fn from(p: Precision) -> Self {
        match p {
            Precision::F32 => Multiply::Split,
            Precision::Bf16 => Multiply::Bf16,
        }
    }
}

/// What a block covers: two groups of rows by 32 columns, or four by 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Wide,
    Tall,
}

impl Form {
    /// Columns of a block.
    pub fn columns(self) -> usize {
        match self {
            Form::Wide => 2 * SIDE,
            Form::Tall => SIDE,
        }
    }

    /// Groups of 16 rows.
    pub fn groups(self) -> usize {
        match self {
            Form::Wide => 2,
            Form::Tall => 4,
        }
    }

    /// Bytes of one packed step.
    pub fn step(self, pieces: usize) -> usize {
        pieces * self.columns() / SIDE * TILE
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::super::ROW;
    use super::{Block, Form, Multiply, TILE};
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::sync::OnceLock;

    /// Whether the processor has tiles of bf16 and int8 (none has one without the other), and the system lets this process use them.
    pub(crate) fn present() -> bool {
        static PRESENT: OnceLock<bool> = OnceLock::new();
        *PRESENT.get_or_init(|| {
            if !is_x86_feature_detected!("avx512bf16") {
                return false;
            }
            // SAFETY: leaf 7 exists where AVX-512 does.
            #[allow(unused_unsafe)]
            let features = unsafe { __cpuid_count(7, 0) }.edx;
            let bf16_tile_int8 = 0b1101 << 22;
            features & bf16_tile_int8 == bf16_tile_int8 && permitted()
        })
    }

    /// Asks Linux (5.16 or newer) for the tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`.
    fn permitted() -> bool {
        let (call, request, tiles) = (158_i64, 0x1023_i64, 18_i64);
        let answer: i64;
        // SAFETY: the call reads and writes no memory of this process; an unknown request is refused.
        unsafe {
            asm!("syscall", inlateout("rax") call => answer, in("rdi") request, in("rsi") tiles,
                lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        answer == 0
    }

    /// The tile registers, configured while this lives.
    pub(crate) struct Tiles(());

    impl Tiles {
        /// Eight tiles of 16 rows of 64 bytes.
        pub fn begin() -> Self {
            #[repr(C, align(64))]
            struct Config([u8; 64]);
            let mut config = Config([0; 64]);
            config.0[0] = 1;
            for i in 0..8 {
                config.0[16 + 2 * i] = 64;
                config.0[48 + i] = 16;
            }
            assert!(present(), "tiles are planned only where they are present");
            // SAFETY: the instruction is present, and reads 64 bytes.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
            Tiles(())
        }

        /// Adds to the sums of a block.
        ///
        /// # Safety
        /// All rows that steps and pieces reach must be readable, the packed operand as long as they
        /// say, and the sums nobody else's.
        pub unsafe fn run(&self, form: Form, multiply: Multiply, block: &Block) {
            // SAFETY: the caller keeps the contract.
            unsafe {
                match (form, multiply) {
                    (Form::Wide, Multiply::Split) => wide3(block),
                    (Form::Tall, Multiply::Split) => tall3(block),
                    (Form::Wide, Multiply::Bf16) => wide_bf16(block),
                    (Form::Tall, Multiply::Bf16) => tall_bf16(block),
                    (Form::Wide, Multiply::Int8) => wide_int8(block),
                    (Form::Tall, Multiply::Int8) => tall_int8(block),
                }
            }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: the instruction is present, since `begin` configured the tiles.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }

    // The compiler knows no tile register and uses none, so tiles keep what they hold from one `asm!` to
    // the next. The macros are used by functions whose callers keep the contract of `Tiles::run`.
    macro_rules! zero {
        ($($tile:literal)*) => {$(asm!(concat!("tilezero tmm", $tile), options(nostack, nomem));)*};
    }
    macro_rules! load {
        ($tile:literal, $at:expr, $row:expr) => {
            asm!(concat!("tileloadd tmm", $tile, ", [{at} + {row}*1]"),
                at = in(reg) $at, row = in(reg) $row, options(nostack, readonly))
        };
    }
    macro_rules! store {
        ($tile:literal, $at:expr, $row:expr) => {
            asm!(concat!("tilestored [{at} + {row}*1], tmm", $tile),
                at = in(reg) $at, row = in(reg) $row, options(nostack))
        };
    }
    macro_rules! products {
        (int8 $(($c:literal $a:literal $b:literal))*) => {$(
            asm!(concat!("tdpbusd tmm", $c, ", tmm", $a, ", tmm", $b), options(nostack, nomem));
        )*};
        (bf16 $(($c:literal $a:literal $b:literal))*) => {$(
            asm!(concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b), options(nostack, nomem));
        )*};
        ($($product:tt)*) => { products!(bf16 $($product)*) };
    }

    /// Runs `steps` between taking the sums from memory and putting them back; sums of wide blocks lie
    /// in tiles 0 1 (first rows) and 2 3, those of tall blocks in 0 to 3.
    macro_rules! sums {
        ($t:ident, $form:ident, $steps:block) => {{
            if $t.load {
                sums!(@ $t, $form, load);
            } else {
                zero!(0 1 2 3);
            }
            $steps
            sums!(@ $t, $form, store);
        }};
        (@ $t:ident, wide, $do:ident) => {
            $do!(0, $t.c[0], $t.c_row);
            $do!(1, $t.c[0].add($t.c_column), $t.c_row);
            $do!(2, $t.c[1], $t.c_row);
            $do!(3, $t.c[1].add($t.c_column), $t.c_row);
        };
        (@ $t:ident, tall, $do:ident) => {
            $do!(0, $t.c[0], $t.c_row);
            $do!(1, $t.c[1], $t.c_row);
            $do!(2, $t.c[2], $t.c_row);
            $do!(3, $t.c[3], $t.c_row);
        };
    }

    /// The blocks of numbers that are one piece.
    macro_rules! one_piece {
        ($kind:ident, $wide:ident, $tall:ident) => {
            unsafe fn $wide(t: &Block) {
                // SAFETY: the caller's.
                unsafe {
                    sums!(t, wide, {
                        for i in 0..t.n {
                            let (step, b) = (*t.steps.add(i), t.b.add(i * 2 * TILE));
                            load!(4, t.a[0].add(step), t.a_row);
                            load!(6, b, ROW);
                            load!(7, b.add(TILE), ROW);
                            load!(5, t.a[1].add(step), t.a_row);
                            products!($kind (0 4 6)(1 4 7)(2 5 6)(3 5 7));
                        }
                    });
                }
            }

            unsafe fn $tall(t: &Block) {
                // SAFETY: the caller's.
                unsafe {
                    sums!(t, tall, {
                        for i in 0..t.n {
                            let step = *t.steps.add(i);
                            load!(5, t.b.add(i * TILE), ROW);
                            load!(4, t.a[0].add(step), t.a_row);
                            load!(6, t.a[1].add(step), t.a_row);
                            products!($kind (0 4 5)(1 6 5));
                            load!(4, t.a[2].add(step), t.a_row);
                            load!(6, t.a[3].add(step), t.a_row);
                            products!($kind (2 4 5)(3 6 5));
                        }
                    });
                }
            }
        };
    }
    one_piece!(bf16, wide_bf16, tall_bf16);
    one_piece!(int8, wide_int8, tall_int8);

    unsafe fn wide3(t: &Block) {
        // SAFETY: the caller's.
        unsafe {
            sums!(t, wide, {
                for i in 0..t.n {
                    let (step, b) = (*t.steps.add(i), t.b.add(i * 6 * TILE));
                    let (a0, a1) = (t.a[0].add(step), t.a[1].add(step));
                    macro_rules! a {
                        ($piece:literal) => {
                            load!(4, a0.add($piece * t.a_piece), t.a_row);
                            load!(5, a1.add($piece * t.a_piece), t.a_row);
                        };
                    }
                    macro_rules! b {
                        ($piece:literal) => {
                            load!(6, b.add($piece * 2 * TILE), ROW);
                            load!(7, b.add($piece * 2 * TILE + TILE), ROW);
                        };
                    }
                    a!(0);
                    b!(2);
                    products!((0 4 6)(1 4 7)(2 5 6)(3 5 7));
                    b!(1);
                    products!((0 4 6)(1 4 7)(2 5 6)(3 5 7));
                    b!(0);
                    products!((0 4 6)(1 4 7)(2 5 6)(3 5 7));
                    a!(1);
                    products!((0 4 6)(1 4 7)(2 5 6)(3 5 7));
                    b!(1);
                    products!((0 4 6)(1 4 7)(2 5 6)(3 5 7));
                    a!(2);
                    b!(0);
                    products!((0 4 6)(1 4 7)(2 5 6)(3 5 7));
                }
            });
        }
    }

    unsafe fn tall3(t: &Block) {
        // SAFETY: the caller's.
        unsafe {
            sums!(t, tall, {
                for i in 0..t.n {
                    let (step, b) = (*t.steps.add(i), t.b.add(i * 3 * TILE));
                    load!(5, b, ROW);
                    load!(6, b.add(TILE), ROW);
                    load!(7, b.add(2 * TILE), ROW);
                    macro_rules! rows {
                        ($piece:literal, $($c:literal)*; $($b:literal)*) => {$(
                            load!(4, t.a[$c].add(step + $piece * t.a_piece), t.a_row);
                            rows!(@ $c; $b);
                        )*};
                        (@ $c:literal; $b:literal) => { products!(($c 4 $b)); };
                    }
                    rows!(0, 0 1 2 3; 7 7 7 7);
                    rows!(0, 0 1 2 3; 6 6 6 6);
                    rows!(0, 0 1 2 3; 5 5 5 5);
                    rows!(1, 0 1 2 3; 5 5 5 5);
                    rows!(1, 0 1 2 3; 6 6 6 6);
                    rows!(2, 0 1 2 3; 5 5 5 5);
                }
            });
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod amx {
    use super::{Block, Form, Multiply};

    /// There are none.
    pub(crate) fn present() -> bool {
        false
    }

    /// Never made.
    pub(crate) struct Tiles(());

    impl Tiles {
        pub fn begin() -> Self {
            unreachable!("tiles are planned only where they are present")
        }

        pub unsafe fn run(&self, _: Form, _: Multiply, _: &Block) {}
    }
}

pub(super) use amx::Tiles;
pub(crate) use amx::present;
