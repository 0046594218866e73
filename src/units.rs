//! Units as types: bytes, bits (allocation granules) and pages; the machine word.
//!
//! # Design
//!
//! One-field structs over an unsigned integer. Addition and subtraction work
//! within one unit only; there is no `Deref`, `From` or `*`. Conversions between
//! units exist only as methods of [`Geometry`](crate::geometry::Geometry), so that
//! a hint in bits can never be taken for a hint in bytes by accident.
//!
//! # Units
//!
//! A *bit* is one granule of `min_alloc_size` bytes (4 in every kernel since 2017).
//!
//! # Source
//!
//! The vocabulary of the specification, section 00.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $suffix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $repr);

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }

        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) {
                self.0 -= other.0;
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }
    };
}

unit!(
    /// A count of bytes.
    Bytes, u64, " bytes"
);
unit!(
    /// A count of allocation granules, one bit of a map each.
    Bits, u32, " bits"
);
unit!(
    /// A count of memory pages of one unit.
    Pages, u32, " pages"
);

/// The machine word, in which the kernel computes sizes and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WordSize {
    /// 32 bits.
    Bits32,
    /// 64 bits.
    #[default]
    Bits64,
}

impl WordSize {
    /// 32 or 64; `None` for anything else.
    pub const fn of_bits(word_bits: u64) -> Option<Self> {
        match word_bits {
            32 => Some(WordSize::Bits32),
            64 => Some(WordSize::Bits64),
            _ => None,
        }
    }

    /// 32 or 64.
    pub const fn bits(self) -> u32 {
        match self {
            WordSize::Bits32 => 32,
            WordSize::Bits64 => 64,
        }
    }

    /// The largest value of a word.
    pub const fn max(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// `value` modulo the word.
    pub const fn wrap(self, value: u64) -> u64 {
        value & self.max()
    }
}

/// The smallest multiple of `align` that is at least `value`; any `align > 0`.
pub const fn round_up(value: u64, align: u64) -> u64 {
    value.div_ceil(align) * align
}

/// The largest multiple of `align` that is at most `value`; any `align > 0`.
pub const fn round_down(value: u64, align: u64) -> u64 {
    value - value % align
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_and_subtract_within_themselves() {
        assert_eq!(Bytes(5) + Bytes(7) - Bytes(2), Bytes(10));
        let mut pages = Pages(3);
        pages += Pages(2);
        pages -= Pages(1);
        assert_eq!(pages.to_string(), "4 pages");
    }

    #[test]
    fn words_wrap() {
        for word in [WordSize::Bits32, WordSize::Bits64] {
            assert_eq!(WordSize::of_bits(u64::from(word.bits())), Some(word));
            assert_eq!((word.wrap(word.max()), word.wrap(word.max().wrapping_add(1))), (word.max(), 0));
        }
        assert_eq!((WordSize::of_bits(16), WordSize::Bits32.wrap(0x1_2345_6789)), (None, 0x2345_6789));
    }

    #[test]
    fn rounding_meets_its_definition() {
        for value in 0..200 {
            for align in 1..40 {
                let up = round_up(value, align);
                assert!(up >= value && up - value < align && up % align == 0);
                let down = round_down(value, align);
                assert!(down <= value && value - down < align && down % align == 0);
            }
        }
    }
}
