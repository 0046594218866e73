//! Finding a region: block hints first, then the map. Nothing is changed here.
//!
//! Source: specification 13 sections 4 and 5.

use super::BitSpace;
use crate::bitmap;
use crate::cost::{Counter, Part};
use crate::engine::early::PageMap;
use crate::geometry::Geometry;

impl BitSpace {
    /// The bit from which the map is to be searched for `bits` at `align`, by the hints; with
    /// `pop_only` on pages that the defective test holds to be populated.
    pub(super) fn find_block_fit<C: Counter>(
        &self,
        g: &Geometry,
        bits: u32,
        align: u32,
        pop_only: Option<&PageMap>,
        costs: &mut C,
    ) -> Option<u32> {
        // The chunk-wide run is judged at its own alignment.
        let start = self.contig_hint_start as u32;
        if (start.next_multiple_of(align) - start + bits) as i32 > self.contig_hint {
            return None;
        }
        let size = g.block_bits();
        // A run is assembled from block `from`, bit `off`, over the edges of blocks; `run` bits so far.
        let (mut from, mut off, mut run) = (self.first_free_block, 0, 0);
        let mut index = self.first_free_block;
        // Behind the map, which a step over unpopulated pages can reach, there is nothing.
        while let Some(block) = self.blocks.get(index as usize) {
            costs.walk_blocks(index, index + 1);
            run += block.left_free as u32;
            let extent = if run >= bits {
                Some(bits)
            } else if block.left_free as u32 == size {
                index += 1;
                continue;
            } else {
                (from, run) = (index, 0);
                let contig = block.contig_hint_start as u32;
                off = contig.next_multiple_of(align) - contig;
                if block.contig_hint as u32 >= off + bits {
                    off = block.first_free as u32;
                    // Kernel: what alignment skips is not part of the tested extent.
                    Some(contig - off + bits)
                } else {
                    off = (size - block.right_free as u32).next_multiple_of(align);
                    if off >= size {
                        (from, off, index) = (from + 1, 0, index + 1);
                        continue;
                    }
                    run = size - off;
                    (run >= bits).then_some(bits)
                }
            };
            let Some(extent) = extent else {
                index += 1;
                continue;
            };
            let start = from * size + off;
            match pop_only.and_then(|pages| Self::unpopulated_step(g, pages, start, extent, costs)) {
                None => return Some(start),
                Some(next) => (from, off, run, index) = (next, 0, 0, next),
            }
        }
        None
    }

    /// `None` if the pages that stand for `extent` bits from bit `start` are populated, else the
    /// block where the search goes on.
    ///
    /// Kernel: the bit number is taken for a byte offset. Pages behind the map read as
    /// unpopulated.
    fn unpopulated_step<C: Counter>(
        g: &Geometry,
        pages: &PageMap,
        start: u32,
        extent: u32,
        costs: &mut C,
    ) -> Option<u32> {
        let granule = g.min_alloc_size().0 as u32;
        let page = g.page_size().0 as u32;
        let end = (start + granule * extent).div_ceil(page);
        let known = end.min(pages.nr_pages());
        let hole = bitmap::next_zero(pages.words(), known, start / page);
        if hole >= end {
            costs.search(Part::Populated, start / page, end);
            return None;
        }
        let next = bitmap::next_set(pages.words(), known, hole + 1);
        costs.search(Part::Populated, start / page, (next + 1).min(known));
        let next = if next < known { next } else { end };
        // A page in bits of what was taken for bytes.
        Some(next * page / g.block_bits())
    }

    /// Scans the map from `start` for `bits` clear bits at `align`, over at most a block more.
    pub(super) fn find_area<C: Counter>(
        &self,
        g: &Geometry,
        bits: u32,
        align: u32,
        start: u32,
        costs: &mut C,
    ) -> Option<u32> {
        // The kernel's window is not bounded by the map; what lies behind counts as used.
        let end = (start + bits + g.block_bits()).min(self.nr_bits);
        let from = start;
        let mut start = start;
        loop {
            let off = bitmap::next_zero(&self.alloc_map, end, start).next_multiple_of(align);
            if off + bits > end {
                costs.search(Part::AllocMap, from, end);
                return None;
            }
            let hit = bitmap::next_set(&self.alloc_map, off + bits, off);
            if hit >= off + bits {
                costs.search(Part::AllocMap, from, off + bits);
                return Some(off);
            }
            start = hit + 1;
        }
    }
}
