//! The bitmap allocator as posted on 2017-07-16, with its defects.
//!
//! # Design
//!
//! What [`chunk`](crate::chunk) is for the merged allocator: maps, block hints, a chunk-wide hint.
//! It is kept apart because nearly every rule differs in a detail:
//!
//! ```text
//!             rfc-v1                                  merged (4.14)
//! start       first_free_block, a block               first_bit, a bit
//! ends        only a hidden front, floor(pages)       hidden front and back
//! ties        the first of equal runs stays           the better aligned one wins
//! last block  always refreshed by an allocation       only if its hint is hit
//! pages       empty ones also counted when populated  not when populated for an allocation
//!             for an allocation
//! atomic      tests the wrong pages                   tests the right pages
//! ```
//!
//! The last row is the known defect: the test of populated pages takes a bit number for a byte
//! offset, so that roughly the first quarter of the chunk's pages decides. Atomic requests can be
//! given pages without memory, which [`BackendEvent::Unpopulated`] reports, and can be refused
//! pages that have it.
//!
//! `search` finds, `update` keeps hints; requests, lists and the worker are those of
//! [`Early`](super::early).
//!
//! # Units
//!
//! Bits of `min_alloc_size` bytes; a block is a page.
//!
//! # Invariants
//!
//! B1 to B5, B7, C1 to C4, C16, P2, R1, R2 of `docs/design.md`. Block hints are exact, the
//! chunk-wide hint can be wrong in both directions, the count of empty pages too.
//!
//! # Cost
//!
//! As in [`chunk`](crate::chunk), but a refresh of the chunk-wide hint starts at the first block
//! with room and every allocation over a block's edge rescans its last block.
//!
//! # Source
//!
//! Specification 13, and 10 where 13 refers to it. In the recordings the defective test never
//! finds an unpopulated page: two traces were cut before the request in which it first does (the
//! original would write outside its maps), and the test here agrees with both cuts. Where the
//! search goes on after that is by the specification alone.
//!
//! [`BackendEvent::Unpopulated`]: crate::backend::BackendEvent::Unpopulated

mod saved;
mod search;
#[cfg(test)]
mod tests;
mod update;
mod verify;

use std::borrow::Cow;

use super::early::{Area, Early, Entry, PageMap, Space, Task};
use super::saved::bulk::{Section, Writer};
use super::{BootRegion, ChunkView, Older, Setup};
use crate::bitmap;
use crate::block::Block;
use crate::chunk::Role;
use crate::cost::{Counter, Off, Part};
use crate::error::{ConfigError, StateError, Violation};
use crate::geometry::Geometry;
use crate::units::{Bits, Bytes, Pages};
use crate::variant::Generation;

/// The allocator of the posting.
pub type RfcV1 = Early<BitSpace>;

/// The maps and hints of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BitSpace {
    /// Bits of the map.
    nr_bits: u32,
    /// Clear bits. Exact.
    free_bits: u32,
    /// Set = allocated.
    alloc_map: Box<[u64]>,
    /// An area starts here, or the one before ends here; one bit more than `alloc_map`.
    bound_map: Box<[u64]>,
    /// Hints in bits relative to the block; the scan hint is not used.
    blocks: Box<[Block]>,
    /// Length in bits of the largest known run. Can be too small and too large.
    contig_hint: i32,
    /// Its start in bits; kept when the length becomes 0.
    contig_hint_start: i32,
    /// Index; no block below it has a free bit. Lower bound.
    first_free_block: u32,
    /// Empty populated pages. Too high after populating for an allocation, until a refresh.
    nr_empty_pop_pages: i32,
    /// Bits hidden in front.
    hidden: u32,
}

impl BitSpace {
    fn blank(g: &Geometry, pages: Pages) -> Self {
        let nr_bits = g.pages_to_bits(pages).0;
        Self {
            nr_bits,
            free_bits: nr_bits,
            alloc_map: vec![0; bitmap::words_for(nr_bits)].into(),
            bound_map: vec![0; bitmap::words_for(nr_bits + 1)].into(),
            blocks: vec![Block::free(g.block_bits() as i32); pages.0 as usize].into(),
            contig_hint: nr_bits as i32,
            contig_hint_start: 0,
            first_free_block: 0,
            nr_empty_pop_pages: 0,
            hidden: 0,
        }
    }

    /// Size and alignment of a request in bits.
    fn in_bits(g: &Geometry, task: &Task) -> (u32, u32) {
        let bits = |bytes: u32| g.bytes_to_bits(Bytes(u64::from(bytes))).0;
        (bits(task.size), bits(task.align))
    }

    /// The end of the live area that starts at bit `start`.
    fn area_end(&self, start: u32) -> u32 {
        bitmap::next_set(&self.bound_map, self.nr_bits, start + 1)
    }

    fn area(&self, g: &Geometry, start: u32, end: u32) -> Area {
        let bytes = |bits| g.bits_to_bytes(Bits(bits)).0 as u32;
        Area { off: bytes(start), size: bytes(end - start), pages: 0 }
    }

    /// Live areas in ascending order, in bits.
    fn areas(&self) -> Vec<(u32, u32)> {
        let mut areas = Vec::new();
        let mut pos = self.hidden;
        loop {
            let start = bitmap::next_set(&self.alloc_map, self.nr_bits, pos);
            if start >= self.nr_bits {
                return areas;
            }
            pos = self.area_end(start);
            areas.push((start, pos));
        }
    }
}

impl Space for BitSpace {
    const GENERATION: Generation = Generation::RfcV1;
    const SLOT_INVARIANT: &'static str = "S3-list-is-slot";
    const COUNTS_PAGES: bool = true;
    const FREES_RAISE: bool = false;

    fn geometry(setup: &Setup) -> Result<Geometry, ConfigError> {
        if !setup.geometry.block_is_page() {
            let given = setup.geometry.block_size().0;
            return Err(ConfigError::new("block_size", given, "must be the page size in rfc-v1"));
        }
        Ok(setup.geometry)
    }

    fn check_region(g: &Geometry, region: &BootRegion) -> Result<(), ConfigError> {
        if region.start_offset >= g.page_size() {
            let limit = "must be below the page size: the base is the page that the region starts in";
            return Err(ConfigError::new("boot.start_offset", region.start_offset.0, limit));
        }
        if Self::boot_pages(g, region).0 == 0 {
            return Err(ConfigError::new("boot.size", region.size.0, "must fill at least one page"));
        }
        Ok(())
    }

    fn new(g: &Geometry) -> Self {
        Self::blank(g, g.unit_pages())
    }

    fn boot(g: &Geometry, region: &BootRegion) -> Self {
        let pages = Self::boot_pages(g, region);
        let mut space = Self::blank(g, pages);
        space.nr_empty_pop_pages = pages.0 as i32;
        space.hidden = (region.start_offset.0 / g.min_alloc_size().0) as u32;
        let hidden = space.hidden;
        if hidden > 0 {
            space.free_bits -= hidden;
            space.contig_hint -= hidden as i32;
            bitmap::set_range(&mut space.alloc_map, 0, hidden);
            bitmap::set(&mut space.bound_map, 0);
            bitmap::set(&mut space.bound_map, hidden);
            let mut populated = vec![0; bitmap::words_for(pages.0)];
            bitmap::set_range(&mut populated, 0, pages.0);
            space.update_hints_alloc(g, &populated, 0, hidden, &mut Off);
        }
        space
    }

    /// Kernel: bytes behind the last whole page are lost.
    fn boot_pages(g: &Geometry, region: &BootRegion) -> Pages {
        g.bytes_to_pages_floor(region.start_offset + region.size)
    }

    fn free_bytes(&self, g: &Geometry) -> Bytes {
        g.bits_to_bytes(Bits(self.free_bits))
    }

    fn is_exhausted(&self) -> bool {
        self.free_bits == 0 || self.contig_hint == 0
    }

    fn may_fit(&self, g: &Geometry, size: u32) -> bool {
        g.bytes_to_bits(Bytes(u64::from(size))).0 as i32 <= self.contig_hint
    }

    fn alloc<C: Counter>(&mut self, g: &Geometry, pages: &PageMap, task: &Task, costs: &mut C) -> Option<Area> {
        let (bits, align) = Self::in_bits(g, task);
        let start = self.find_block_fit(g, bits, align, task.atomic.then_some(pages), costs)?;
        let off = self.find_area(g, bits, align, start, costs)?;
        self.place(g, pages.words(), off, bits, costs);
        Some(self.area(g, off, off + bits))
    }

    fn has_place(&self, g: &Geometry, pages: &PageMap, task: &Task) -> bool {
        let (bits, align) = Self::in_bits(g, task);
        let page = g.page_bits();
        let populated = |off: u32| {
            let end = (off + bits).div_ceil(page);
            bitmap::next_zero(pages.words(), end, off / page) >= end
        };
        bitmap::clear_runs(&self.alloc_map, 0, self.nr_bits).any(|(start, end)| {
            let places = (start.next_multiple_of(align)..end).step_by(align as usize);
            places.take_while(|off| off + bits <= end).any(|off| !task.atomic || populated(off))
        })
    }

    fn is_area_start(&self, g: &Geometry, off: u64) -> bool {
        let granule = g.min_alloc_size().0;
        let bit = off / granule;
        off % granule == 0
            && (u64::from(self.hidden)..u64::from(self.nr_bits)).contains(&bit)
            && bitmap::test(&self.alloc_map, bit as u32)
            && bitmap::test(&self.bound_map, bit as u32)
    }

    fn free<C: Counter>(&mut self, g: &Geometry, pages: &PageMap, off: u32, costs: &mut C) -> Area {
        let start = g.bytes_to_bits(Bytes(u64::from(off))).0;
        let end = self.area_end(start);
        costs.search(Part::BoundMap, start + 1, (end + 1).min(self.nr_bits));
        self.release(g, pages.words(), start, end - start, costs);
        self.area(g, start, end)
    }

    fn area_at(&self, g: &Geometry, off: u64) -> Option<(Bytes, Bytes)> {
        let bit = u32::try_from(off / g.min_alloc_size().0).ok()?;
        if !(self.hidden..self.nr_bits).contains(&bit) || !bitmap::test(&self.alloc_map, bit) {
            return None;
        }
        let start = bitmap::last_set(&self.bound_map, self.hidden, bit + 1)?;
        Some((g.bits_to_bytes(Bits(start)), g.bits_to_bytes(Bits(self.area_end(start) - start))))
    }

    fn boot_empty_pages(&self, _: &Geometry) -> i32 {
        self.nr_empty_pop_pages
    }

    fn nr_empty_pop_pages(&self) -> i32 {
        self.nr_empty_pop_pages
    }

    /// Kernel: also counted when populated for an allocation, whose pages are not empty.
    fn pages_changed(&mut self, change: i32) {
        self.nr_empty_pop_pages += change;
    }

    fn owns(&self, g: &Geometry, role: Role, off: u64) -> bool {
        let from = if role == Role::Reserved { g.bits_to_bytes(Bits(self.hidden)).0 } else { 0 };
        (from..g.bits_to_bytes(Bits(self.nr_bits)).0).contains(&off)
    }

    fn show<'a>(&'a self, _: &Geometry, view: &mut ChunkView<'a>) {
        view.nr_empty_pop_pages = Some(self.nr_empty_pop_pages);
        view.alloc_map = Cow::Borrowed(&self.alloc_map);
        view.bound_map = Some(Cow::Borrowed(&self.bound_map));
        view.blocks = Some(Cow::Borrowed(&self.blocks));
        view.older = Some(Older::RfcV1 {
            contig_hint: Bits(self.contig_hint as u32),
            contig_hint_start: Bits(self.contig_hint_start as u32),
            first_free_block: self.first_free_block,
            has_reserved: self.hidden > 0,
        });
    }

    fn save(&self, out: &mut Writer) {
        self.to_saved(out);
    }

    fn load(g: &Geometry, saved: &mut Section<'_>, pages: Pages) -> Result<Self, StateError> {
        Self::from_saved(g, saved, pages)
    }

    fn verify(&self, g: &Geometry, entry: &Entry<Self>) -> Result<(), Violation> {
        self.verify_space(g, entry)
    }
}
