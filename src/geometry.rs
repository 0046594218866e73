//! Geometry: page size, granule, block size and unit, validated once.
//!
//! # Design
//!
//! Every size that the allocator's arithmetic depends on, and the only place where
//! one unit is turned into another. The kernel fixes most of them (granule 4 bytes,
//! block = page); here they are free, because sweeps over them are a main use.
//!
//! ```text
//! unit  |<----------------------- unit_size ----------------------->|
//! page  |---- page_size ----|---- page_size ----| ...
//! block |-- block_size --|-- block_size --| ...   (= page in every kernel)
//! map   |.|.|.|.|  one bit per min_alloc_size bytes
//! ```
//!
//! # Invariants
//!
//! G1 page, granule and block are powers of two; G2 granule <= block and granule <= page;
//! G3 the unit is a multiple of page and block, at most 2^30 bytes, 2^20 pages and
//! 2^20 blocks.
//!
//! # Source
//!
//! Specification 00 section 3, 20 section 1, 10 section 11 (free geometry).

use crate::error::ConfigError;
use crate::units::{round_up, Bits, Bytes, Pages};

/// Largest unit that the 32-bit arithmetic of the allocator serves.
pub const MAX_UNIT_SIZE: u64 = 1 << 30;
/// Most pages, and most blocks, of a unit: what a chunk's metadata may take.
const MAX_PARTS: u64 = 1 << 20;
/// `PCPU_SLOT_BASE_SHIFT`.
const SLOT_BASE_SHIFT: i32 = 5;

/// The sizes that all arithmetic depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    page_shift: u32,
    min_alloc_shift: u32,
    block_shift: u32,
    unit_size: u32,
    nr_units: u32,
}

impl Geometry {
    /// Checks and stores the sizes. `block_size` is in mapped bytes.
    pub fn new(
        page_size: Bytes,
        min_alloc_size: Bytes,
        block_size: Bytes,
        unit_size: Bytes,
        nr_units: u32,
    ) -> Result<Self, ConfigError> {
        let power = |name, value: u64, low: u64, high: u64| {
            if value.is_power_of_two() && (low..=high).contains(&value) {
                Ok(value.trailing_zeros())
            } else {
                Err(ConfigError::new(name, value, format!("must be a power of two from {low} to {high}")))
            }
        };
        let page_shift = power("page_size", page_size.0, 16, 1 << 20)?;
        let min_alloc_shift = power("min_alloc_size", min_alloc_size.0, 1, page_size.0)?;
        let block_shift = power("block_size", block_size.0, min_alloc_size.0, MAX_UNIT_SIZE)?;
        let granule = page_size.0.max(block_size.0);
        if unit_size.0 == 0 || unit_size.0 % granule != 0 || unit_size.0 > MAX_UNIT_SIZE {
            return Err(ConfigError::new(
                "unit_size",
                unit_size.0,
                format!(
                    "must be a multiple of {granule} (the larger of page and block) from {granule} to {MAX_UNIT_SIZE}"
                ),
            ));
        }
        let smallest = page_size.0.min(block_size.0);
        if unit_size.0 / smallest > MAX_PARTS {
            let limit = format!("must be at most {MAX_PARTS} times the smaller of page and block, {smallest}");
            return Err(ConfigError::new("unit_size", unit_size.0, limit));
        }
        if nr_units == 0 || nr_units > 1 << 20 {
            return Err(ConfigError::new("nr_units", nr_units, "must be from 1 to 1048576"));
        }
        Ok(Self { page_shift, min_alloc_shift, block_shift, unit_size: unit_size.0 as u32, nr_units })
    }

    /// Page size.
    pub fn page_size(&self) -> Bytes {
        Bytes(1 << self.page_shift)
    }

    /// The granule, `PCPU_MIN_ALLOC_SIZE`.
    pub fn min_alloc_size(&self) -> Bytes {
        Bytes(1 << self.min_alloc_shift)
    }

    /// Bytes that one block describes.
    pub fn block_size(&self) -> Bytes {
        Bytes(1 << self.block_shift)
    }

    /// Bytes of one CPU's copy of a chunk.
    pub fn unit_size(&self) -> Bytes {
        Bytes(u64::from(self.unit_size))
    }

    /// Number of units of a chunk, holes counted.
    pub fn nr_units(&self) -> u32 {
        self.nr_units
    }

    /// Pages of a unit.
    pub fn unit_pages(&self) -> Pages {
        Pages(self.unit_size >> self.page_shift)
    }

    /// Bits of a block's map.
    #[inline]
    pub fn block_bits(&self) -> u32 {
        1 << (self.block_shift - self.min_alloc_shift)
    }

    /// log2 of [`Self::block_bits`].
    #[inline]
    pub fn block_bits_shift(&self) -> u32 {
        self.block_shift - self.min_alloc_shift
    }

    /// Bits of a page.
    #[inline]
    pub fn page_bits(&self) -> u32 {
        1 << (self.page_shift - self.min_alloc_shift)
    }

    /// log2 of [`Self::page_bits`].
    #[inline]
    pub fn page_bits_shift(&self) -> u32 {
        self.page_shift - self.min_alloc_shift
    }

    /// True in every kernel: a block describes exactly one page.
    #[inline]
    pub fn block_is_page(&self) -> bool {
        self.block_shift == self.page_shift
    }

    /// The larger of page and block: chunks are padded to it.
    pub fn chunk_align(&self) -> Bytes {
        self.page_size().max(self.block_size())
    }

    /// Largest request, `PCPU_MIN_UNIT_SIZE`: 32 KiB rounded up to a page. Units smaller than
    /// that, which no kernel has, limit it further.
    #[inline]
    pub fn max_request(&self) -> Bytes {
        Bytes(round_up(32 << 10, self.page_size().0)).min(self.unit_size())
    }

    /// Bytes to bits; `bytes` must be a multiple of the granule.
    #[inline]
    pub fn bytes_to_bits(&self, bytes: Bytes) -> Bits {
        debug_assert_eq!(bytes.0 % self.min_alloc_size().0, 0);
        Bits((bytes.0 >> self.min_alloc_shift) as u32)
    }

    /// Bits to bytes.
    #[inline]
    pub fn bits_to_bytes(&self, bits: Bits) -> Bytes {
        Bytes(u64::from(bits.0) << self.min_alloc_shift)
    }

    /// Pages to bytes.
    #[inline]
    pub fn pages_to_bytes(&self, pages: Pages) -> Bytes {
        Bytes(u64::from(pages.0) << self.page_shift)
    }

    /// Pages to bits.
    #[inline]
    pub fn pages_to_bits(&self, pages: Pages) -> Bits {
        Bits(pages.0 << self.page_bits_shift())
    }

    /// Whole pages in `bytes`, the rest dropped.
    #[inline]
    pub fn bytes_to_pages_floor(&self, bytes: Bytes) -> Pages {
        Pages((bytes.0 >> self.page_shift) as u32)
    }

    /// Pages needed for `bytes`.
    #[inline]
    pub fn bytes_to_pages_ceil(&self, bytes: Bytes) -> Pages {
        Pages(bytes.0.div_ceil(1 << self.page_shift) as u32)
    }

    /// The slot formula `f` of specification 20 section 1, without the fully-free case.
    #[inline]
    pub fn slot_formula(size: Bytes) -> u32 {
        let fls = 64 - size.0.leading_zeros() as i32;
        (fls - SLOT_BASE_SHIFT + 2).max(1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(unit: u64) -> Geometry {
        Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(unit), 1).unwrap()
    }

    #[test]
    fn slot_table_of_the_specification() {
        for (size, slot) in [(1, 1), (15, 1), (16, 2), (31, 2), (32, 3), (64, 4), (128, 5), (4096, 10), (8191, 10)] {
            assert_eq!(Geometry::slot_formula(Bytes(size)), slot, "size {size}");
        }
        assert_eq!(Geometry::slot_formula(Bytes(45056)), 13);
        assert_eq!(Geometry::slot_formula(Bytes(2 << 20)), 19);
    }

    #[test]
    fn conversions_round_as_named() {
        let g = kernel(262144);
        assert_eq!(g.unit_pages(), Pages(64));
        assert_eq!(g.bytes_to_pages_floor(Bytes(8191)), Pages(1));
        assert_eq!(g.bytes_to_pages_ceil(Bytes(8193)), Pages(3));
        assert_eq!(g.pages_to_bits(Pages(2)), Bits(2048));
        assert_eq!(g.max_request(), Bytes(32768));
    }

    #[test]
    fn bad_sizes_name_the_parameter() {
        let new = |p, m, b, u, n| Geometry::new(Bytes(p), Bytes(m), Bytes(b), Bytes(u), n);
        assert_eq!(new(4095, 4, 4096, 32768, 1).unwrap_err().parameter, "page_size");
        assert_eq!(new(4096, 3, 4096, 32768, 1).unwrap_err().parameter, "min_alloc_size");
        assert_eq!(new(4096, 4, 2, 32768, 1).unwrap_err().parameter, "block_size");
        assert_eq!(new(4096, 4, 4096, 32769, 1).unwrap_err().parameter, "unit_size");
        assert_eq!(new(4096, 4, 65536, 32768, 1).unwrap_err().parameter, "unit_size");
        assert_eq!(new(4096, 4, 4096, 32768, 0).unwrap_err().parameter, "nr_units");
    }
}
