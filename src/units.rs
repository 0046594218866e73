//! Units as types: bytes, bits (allocation granules) and pages.
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
