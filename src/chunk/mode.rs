//! Rules and sizes as the hot paths see them: constants where a kernel has them.
//!
//! # Design
//!
//! Everything on a chunk is generic over a [`Mode`], which answers what the rules and the shifts between
//! bytes, bits, blocks and pages are. [`Kernel`] answers with constants: the compiler makes one copy of the code for each
//! generation with 4-byte granules and blocks of one 4096-byte page, in which no flag is looked at and no shift is computed. `&Context`
//! answers with what is stored, for every other geometry or set of flags, and where speed does not matter.
//!
//! A mode also carries the counter of work ([`Mode::tally`]), so that whatever is told how to do something can say what it
//! has done. Modes by themselves count nothing; [`Counted`] is one with a counter.
//!
//! [`Kind::of`] says which of them fits a [`Context`]; an engine asks once and then calls the right copy.

use super::Context;
use crate::cost::{Counter, Off};
use crate::variant::Rules;

/// Rules, and shifts between units, as log2.
pub trait Mode: Copy {
    /// What counts.
    type Tally: Counter + Copy;

    /// The counter of work.
    fn tally(&self) -> Self::Tally;
    /// Behaviour flags.
    fn rules(&self) -> &Rules;
    /// Bytes of a bit.
    fn granule_shift(&self) -> u32;
    /// Bits of a block.
    fn block_shift(&self) -> u32;
    /// Bits of a page.
    fn page_shift(&self) -> u32;

    /// Bits of a block.
    #[inline(always)]
    fn block_bits(&self) -> u32 {
        1 << self.block_shift()
    }

    /// Bits of a page.
    #[inline(always)]
    fn page_bits(&self) -> u32 {
        1 << self.page_shift()
    }

    /// True in every kernel: a block describes exactly one page.
    #[inline(always)]
    fn block_is_page(&self) -> bool {
        self.block_shift() == self.page_shift()
    }

    /// Bytes of a stretch of bits.
    #[inline(always)]
    fn bytes(&self, bits: u32) -> u32 {
        bits << self.granule_shift()
    }
}

impl Mode for &Context {
    type Tally = Off;

    #[inline(always)]
    fn tally(&self) -> Off {
        Off
    }

    #[inline]
    fn rules(&self) -> &Rules {
        &self.rules
    }

    #[inline]
    fn granule_shift(&self) -> u32 {
        self.geometry.min_alloc_size().0.trailing_zeros()
    }

    #[inline]
    fn block_shift(&self) -> u32 {
        self.geometry.block_bits_shift()
    }

    #[inline]
    fn page_shift(&self) -> u32 {
        self.geometry.page_bits_shift()
    }
}

/// One of the three generations with the sizes of most machines: a number of [`Kind`].
#[derive(Clone, Copy, Debug)]
pub struct Kernel<const KIND: u8>;

/// log2 of the sizes that [`Kernel`] stands for.
const PAGE_SHIFT: u32 = 12;
const GRANULE_SHIFT: u32 = 2;

impl<const KIND: u8> Mode for Kernel<KIND> {
    type Tally = Off;

    #[inline(always)]
    fn tally(&self) -> Off {
        Off
    }

    #[inline(always)]
    fn rules(&self) -> &Rules {
        match KIND {
            0 => &Rules::LINUX_4_14,
            1 => &Rules::LINUX_5_2,
            _ => &Rules::LINUX_5_14,
        }
    }

    #[inline(always)]
    fn granule_shift(&self) -> u32 {
        GRANULE_SHIFT
    }

    #[inline(always)]
    fn block_shift(&self) -> u32 {
        PAGE_SHIFT - GRANULE_SHIFT
    }

    #[inline(always)]
    fn page_shift(&self) -> u32 {
        PAGE_SHIFT - GRANULE_SHIFT
    }
}

/// Another mode, with a counter.
#[derive(Clone, Copy, Debug)]
pub struct Counted<M, T>(pub M, pub T);

impl<M: Mode, T: Counter + Copy> Mode for Counted<M, T> {
    type Tally = T;

    #[inline(always)]
    fn tally(&self) -> T {
        self.1
    }

    #[inline(always)]
    fn rules(&self) -> &Rules {
        self.0.rules()
    }

    #[inline(always)]
    fn granule_shift(&self) -> u32 {
        self.0.granule_shift()
    }

    #[inline(always)]
    fn block_shift(&self) -> u32 {
        self.0.block_shift()
    }

    #[inline(always)]
    fn page_shift(&self) -> u32 {
        self.0.page_shift()
    }
}

/// Which copy of the code a context needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `Kernel<0>`.
    Linux414,
    /// `Kernel<1>`.
    Linux52,
    /// `Kernel<2>`.
    Linux514,
    /// `&Context`.
    Free,
}

impl Kind {
    /// The copy for `ctx`.
    pub fn of(ctx: &Context) -> Self {
        let g = &ctx.geometry;
        let kernel =
            g.min_alloc_size().0 == 1 << GRANULE_SHIFT && g.page_size().0 == 1 << PAGE_SHIFT && g.block_is_page();
        match ctx.rules {
            _ if !kernel => Kind::Free,
            Rules::LINUX_4_14 => Kind::Linux414,
            Rules::LINUX_5_2 => Kind::Linux52,
            Rules::LINUX_5_14 => Kind::Linux514,
            _ => Kind::Free,
        }
    }
}

/// Calls the copy of the code that `$kind` names, with the mode as `$m`.
macro_rules! with_mode {
    ($kind:expr, $ctx:expr, $m:ident => $body:expr) => {
        match $kind {
            $crate::chunk::mode::Kind::Linux414 => {
                let $m = $crate::chunk::mode::Kernel::<0>;
                $body
            }
            $crate::chunk::mode::Kind::Linux52 => {
                let $m = $crate::chunk::mode::Kernel::<1>;
                $body
            }
            $crate::chunk::mode::Kind::Linux514 => {
                let $m = $crate::chunk::mode::Kernel::<2>;
                $body
            }
            $crate::chunk::mode::Kind::Free => {
                let ctx = $ctx;
                let $m = &ctx;
                $body
            }
        }
    };
}
pub(crate) use with_mode;

/// The same for `$holder`, which has `kind`, `ctx` and a `meter`: `$m` has the counter that the meter asks for. The operation ends
/// here if `$ends` says so of the result. `$body` must not return out of the place where it stands.
macro_rules! with_meter {
    ($holder:expr, $m:ident => $body:expr) => {
        $crate::chunk::mode::with_meter!($holder, $m => $body, |_| true)
    };
    ($holder:expr, $m:ident => $body:expr, $ends:expr) => {
        match $holder.meter.counting() {
            $crate::cost::Counting::Off => $crate::chunk::mode::with_mode!($holder.kind, $holder.ctx, $m => $body),
            $crate::cost::Counting::Totals => {
                let mut full = $holder.meter.take();
                let tally = &*std::cell::Cell::from_mut(full.totals());
                let result = $crate::chunk::mode::with_mode!($holder.kind, $holder.ctx, plain => {
                    let $m = $crate::chunk::mode::Counted(plain, tally);
                    $body
                });
                $holder.meter.put(full);
                result
            }
            $crate::cost::Counting::Full => {
                let full = std::cell::RefCell::new($holder.meter.take());
                let ctx = $holder.ctx;
                let $m = $crate::chunk::mode::Counted(&ctx, &full);
                let result = $body;
                let ends: fn(&_) -> bool = $ends;
                let mut full = full.into_inner();
                if ends(&result) {
                    $crate::cost::Counter::finish(&mut *full);
                }
                $holder.meter.put(full);
                result
            }
        }
    };
}
pub(crate) use with_meter;
