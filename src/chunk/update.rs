//! Committing: allocate and free areas, keep hints and page counts.
//!
//! Source: specification 10 sections 5.3, 5.4, 6.2 to 8.

use super::{count, Chunk, Mode};
use crate::bitmap;
use crate::block::Block;
use crate::cost::{Counter, Part};
use crate::units::{Bits, Pages};

impl Chunk {
    /// Allocates `bits` at `align` from `start`, which [`Chunk::find_block_fit`] gave for the same
    /// `pop_only`. Without a fit nothing changes.
    #[inline]
    pub fn alloc_area<M: Mode>(&mut self, m: M, bits: u32, align: u32, start: u32, pop_only: bool) -> Option<Bits> {
        let found = self.find_area(m, bits, align, start, pop_only);
        let end = found.map_or(self.scan_end(m, bits, start), |found| found.off + bits);
        m.tally().search(Part::AllocMap, start, end);
        let found = found?;
        if m.rules().bounded_search && found.skipped.1 > 0 {
            self.record_skipped(m, found.skipped);
        }
        self.place(m, found.off, bits);
        Some(Bits(found.off))
    }

    /// Takes the area `[off, off + bits)`, which must be clear.
    #[inline]
    pub fn place<M: Mode>(&mut self, m: M, off: u32, bits: u32) {
        debug_assert!(
            bitmap::next_set(&self.alloc_map, off + bits, off) >= off + bits,
            "area {off}+{bits} is not free"
        );
        count::taken(m, off, bits);
        let lost = self.counts_pages_by_maps(m).then(|| self.free_pages_touched(m, off, bits));
        bitmap::set_range(&mut self.alloc_map, off, off + bits);
        bitmap::set_bounds(&mut self.bound_map, off, off + bits);
        self.free_bytes -= m.bytes(bits);
        if off as i32 == self.md.first_free {
            self.md.first_free = self.next_free_bit(m, off + bits) as i32;
            count::first_free(m, off + bits, self.md.first_free as u32, self.nr_bits().0);
        }
        if let Some(lost) = lost {
            self.nr_empty_pop_pages -= lost as i32;
        }
        self.update_hints_alloc(m, off, bits);
    }

    /// The first clear bit at or behind `off`. Blocks without a contig hint are full and passed over; the
    /// block of `off` itself and what is not allocated there yet is read off the map.
    #[inline(always)]
    fn next_free_bit<M: Mode>(&self, m: M, off: u32) -> u32 {
        let nr_bits = self.nr_bits().0;
        let edge = (off + m.block_bits()) & m.block_bits().wrapping_neg();
        let found = bitmap::next_zero(&self.alloc_map, edge.min(nr_bits), off);
        if found < edge || edge >= nr_bits {
            return found;
        }
        let blocks = &self.blocks[(edge >> m.block_shift()) as usize..];
        match blocks.iter().position(|block| block.contig_hint != 0) {
            Some(at) => bitmap::next_zero(&self.alloc_map, nr_bits, edge + ((at as u32) << m.block_shift())),
            None => nr_bits,
        }
    }

    /// Frees the area that starts at bit `off` and returns its length; `len` if it is known.
    #[inline]
    pub fn free_area<M: Mode>(&mut self, m: M, off: u32, len: Option<u32>) -> Bits {
        let end = len.map_or_else(|| self.area_end(off), |len| off + len);
        self.count_freed(m, off, end);
        bitmap::clear_range(&mut self.alloc_map, off, end);
        self.free_bytes += m.bytes(end - off);
        self.md.first_free = self.md.first_free.min(off as i32);
        if self.counts_pages_by_maps(m) {
            self.nr_empty_pop_pages += self.free_pages_touched(m, off, end - off) as i32;
        }
        self.update_hints_free(m, off, end - off);
        Bits(end - off)
    }

    /// Marks the pages `[first, end)` populated.
    pub fn mark_populated<M: Mode>(&mut self, m: M, first: u32, end: u32, for_alloc: bool) -> Pages {
        bitmap::set_range(&mut self.populated, first, end);
        self.nr_populated += end - first;
        // To 5.1, pages populated for an allocation are not counted as empty.
        if m.rules().exact_empty_pages || !for_alloc {
            self.nr_empty_pop_pages += (end - first) as i32;
        }
        Pages(end - first)
    }

    /// Marks the pages `[first, end)` unpopulated.
    pub fn mark_depopulated(&mut self, first: u32, end: u32) -> Pages {
        bitmap::clear_range(&mut self.populated, first, end);
        self.nr_populated -= end - first;
        self.nr_empty_pop_pages -= (end - first) as i32;
        Pages(end - first)
    }

    /// Where no kernel has the geometry, page emptiness is read off the map, not off block hints
    /// (specification 10 section 11).
    #[inline(always)]
    pub(super) fn counts_pages_by_maps<M: Mode>(&self, m: M) -> bool {
        m.rules().exact_empty_pages && !m.block_is_page()
    }

    /// Pages touched by `[off, off + bits)` that have no allocated bit.
    fn free_pages_touched<M: Mode>(&self, m: M, off: u32, bits: u32) -> u32 {
        let shift = m.page_shift();
        (off >> shift..=(off + bits - 1) >> shift).filter(|page| self.page_is_free(m, *page)).count() as u32
    }

    /// Tells the block of the largest skipped area about it; the chunk-wide hint is not told.
    fn record_skipped<M: Mode>(&mut self, m: M, (off, len): (u32, u32)) {
        let bits = m.block_bits();
        let start = off & (bits - 1);
        let end = start + len;
        if end > bits {
            return;
        }
        let base = off - start;
        let start = bitmap::last_set(&self.alloc_map, base, off).map_or(0, |bit| bit + 1 - base);
        let index = base >> m.block_shift();
        m.tally().search(Part::AllocMap, base + start.saturating_sub(1), off);
        m.tally().touch(Part::Blocks, index, index + 1);
        self.blocks[index as usize].update(start as i32, end as i32, m.rules());
        self.note_whole(index);
    }

    /// Keeps [`Chunk::whole`] for a block whose left edge may have changed.
    #[inline]
    pub(super) fn note_whole(&mut self, index: u32) {
        let block = &self.blocks[index as usize];
        if block.left_free == block.nr_bits {
            bitmap::set(&mut self.whole, index);
        } else {
            bitmap::clear(&mut self.whole, index);
        }
    }

    /// Recomputes the hints of block `index` from the map, from behind the scan hint if there is
    /// one.
    ///
    /// `behind` is the bit behind the allocation. Where nothing below it is free and the contig run
    /// reached the right edge, that bit to the edge is all there is, and the map need not be read.
    #[inline(always)]
    fn refresh_block<M: Mode>(&mut self, m: M, index: usize, behind: u32) {
        let block = &mut self.blocks[index];
        let (start, edge) = (behind as i32, m.block_bits() as i32);
        let in_run = block.contig_hint_start <= start && block.contig_hint_start + block.contig_hint == edge;
        if in_run && start < edge && start == block.first_free && block.scan_hint == 0 {
            block.contig_hint = edge - start;
            block.contig_hint_start = start;
            block.right_free = edge - start;
            if !m.rules().scan_hints {
                block.left_free = 0;
            }
            count::block_refresh(m, index as u32 * m.block_bits(), start);
            return;
        }
        self.rescan_block(m, index);
    }

    fn rescan_block<M: Mode>(&mut self, m: M, index: usize) {
        let bits = m.block_bits();
        let base = index as u32 * bits;
        let block = &mut self.blocks[index];
        let from = match block.promote_scan_hint() {
            Some(from) => from,
            None => {
                block.contig_hint = 0;
                block.first_free
            }
        };
        block.right_free = 0;
        if !m.rules().scan_hints {
            block.left_free = 0;
        }
        count::block_refresh(m, base, from);
        for (start, end) in bitmap::clear_runs(&self.alloc_map, base + from as u32, base + bits) {
            block.update((start - base) as i32, (end - base) as i32, m.rules());
        }
    }

    /// Recomputes the chunk-wide hint after an allocation inside its run; `behind` is the bit behind
    /// the allocation.
    ///
    /// Where nothing below that bit is free and the run reached the end of the map, that bit to the end
    /// is all there is, and the blocks need not be read; the first block must know its right edge, or
    /// the walk over the blocks would not see it.
    #[inline(always)]
    fn refresh_chunk_after_alloc<M: Mode>(&mut self, m: M, behind: i32) {
        let md = &mut self.md;
        let (start, end) = (behind, md.nr_bits);
        let in_run = md.contig_hint_start <= start && md.contig_hint_start + md.contig_hint == end;
        if in_run && start < end && start == md.first_free && md.scan_hint == 0 {
            let bits = m.block_bits() as i32;
            let block = &self.blocks[(start >> m.block_shift()) as usize];
            if block.right_free == bits - (start & (bits - 1)) {
                md.contig_hint = end - start;
                md.contig_hint_start = start;
                if m.rules().scan_hints {
                    md.right_free = end - start;
                }
                if !m.rules().exact_empty_pages {
                    self.recount_empty_pages(m);
                }
                self.count_chunk_refreshes(m, start as u32, 1);
                return;
            }
        }
        self.refresh_chunk(m, false);
    }

    /// Counts the populated pages without an allocated bit (to 5.1, at every chunk refresh): every wholly free block
    /// is part of a region that the kernel visits.
    #[inline]
    pub(super) fn recount_empty_pages<M: Mode>(&mut self, m: M) {
        self.nr_empty_pop_pages = if m.block_is_page() {
            bitmap::count_both(&self.whole, &self.populated) as i32
        } else {
            let populated = bitmap::set_runs(&self.populated, 0, self.nr_pages).flat_map(|(first, end)| first..end);
            populated.filter(|page| self.page_is_free(m, *page)).count() as i32
        };
    }

    /// Recomputes the chunk-wide hint from the blocks. Since 5.2 from behind the scan hint,
    /// unless `full`.
    pub(super) fn refresh_chunk<M: Mode>(&mut self, m: M, full: bool) {
        let promoted = if full { None } else { self.md.promote_scan_hint() };
        let from = promoted.unwrap_or_else(|| {
            self.md.contig_hint = 0;
            self.md.first_free
        });
        self.count_chunk_refreshes(m, from as u32, 1);
        let mut md = self.md;
        self.walk_regions(m, from, md.contig_hint, |start, end| {
            if m.rules().scan_hints {
                md.update(start, end, m.rules());
            } else {
                md.offer_contig(start, end - start);
            }
            md.contig_hint
        });
        self.md = md;
        if !m.rules().exact_empty_pages {
            self.recount_empty_pages(m);
        }
    }

    /// Keeps the hints after `[off, off + len)` was allocated; the map is already set.
    #[inline(always)]
    pub(super) fn update_hints_alloc<M: Mode>(&mut self, m: M, off: u32, len: u32) {
        let rules = m.rules();
        let bits = m.block_bits();
        let shift = m.block_shift();
        let first = (off >> shift) as usize;
        let last = ((off + len - 1) >> shift) as usize;
        let start = off & (bits - 1);
        let end = ((off + len - 1) & (bits - 1)) + 1;
        let mut lost = 0;

        let base = first as u32 * bits;
        let block = &mut self.blocks[first];
        let was_whole = block.left_free == bits as i32;
        lost += i32::from(block.is_free());
        if start as i32 == block.first_free {
            block.first_free = (bitmap::next_zero(&self.alloc_map, base + bits, base + start + len) - base) as i32;
            let found = base + block.first_free as u32;
            count::first_free(m, base + start + len, found, base + bits);
        }
        let (from, to) = (start as i32, (start + len) as i32);
        if rules.scan_hints {
            count::broken_scan(m, block, from, to);
            block.break_scan_hint(from, to);
        }
        if block.contig_hit(from, to, rules) {
            m.tally().count(|costs| costs.hints_broken += u64::from(block.contig_hint > 0));
            if rules.scan_hints && start == 0 {
                block.left_free = 0;
            }
            self.refresh_block(m, first, start + len);
        } else {
            block.left_free = block.left_free.min(from);
            block.right_free = if first == last { block.right_free.min((bits - end) as i32) } else { 0 };
        }
        if was_whole {
            self.note_whole(first as u32);
        }

        if first != last {
            lost += self.update_last_blocks(m, first, last, end);
        }

        if rules.exact_empty_pages && m.block_is_page() {
            self.nr_empty_pop_pages -= lost;
        }
        let (from, to) = (off as i32, (off + len) as i32);
        if rules.scan_hints {
            count::broken_scan(m, &self.md, from, to);
            self.md.break_scan_hint(from, to);
        }
        if self.md.contig_hit(from, to, rules) {
            m.tally().count(|costs| costs.hints_broken += u64::from(self.md.contig_hint > 0));
            self.refresh_chunk_after_alloc(m, to);
        }
    }

    /// The blocks behind the first one of an allocation; `end` is where it ends in the last. Returns how many of
    /// them were free.
    fn update_last_blocks<M: Mode>(&mut self, m: M, first: usize, last: usize, end: u32) -> i32 {
        let rules = m.rules();
        let bits = m.block_bits();
        let base = last as u32 * bits;
        let block = &mut self.blocks[last];
        let lost = i32::from(block.is_free()) + (last - first - 1) as i32;
        block.first_free = (bitmap::next_zero(&self.alloc_map, base + bits, base + end) - base) as i32;
        let found = base + block.first_free as u32;
        count::first_free(m, base + end, found, base + bits);
        let mut full_until = last;
        if end == bits {
            full_until += 1;
        } else {
            if rules.scan_hints {
                if end as i32 > block.scan_hint_start {
                    m.tally().count(|costs| costs.hints_broken += u64::from(block.scan_hint > 0));
                    block.scan_hint = 0;
                }
                block.left_free = 0;
            }
            if end as i32 > block.contig_hint_start {
                m.tally().count(|costs| costs.hints_broken += u64::from(block.contig_hint > 0));
                self.refresh_block(m, last, end);
            } else {
                block.left_free = 0;
                block.right_free = block.right_free.min((bits - end) as i32);
            }
        }
        for block in &mut self.blocks[first + 1..full_until] {
            block.contig_hint = 0;
            block.left_free = 0;
            block.right_free = 0;
            if rules.scan_hints {
                block.scan_hint = 0;
            }
        }
        bitmap::clear_range(&mut self.whole, first as u32 + 1, full_until as u32);
        self.note_whole(last as u32);
        lost
    }

    /// Keeps the hints after `[off, off + len)` was freed; the map is already clear.
    #[inline(always)]
    fn update_hints_free<M: Mode>(&mut self, m: M, off: u32, len: u32) {
        let rules = m.rules();
        let bits = m.block_bits();
        let shift = m.block_shift();
        let first = (off >> shift) as usize;
        let last = ((off + len - 1) >> shift) as usize;
        let first_base = first as u32 * bits;
        let last_base = last as u32 * bits;

        // The freed area joined with its free neighbours inside the first and the last block.
        let block = &self.blocks[first];
        let start = if (off - first_base) as i32 == block.contig_hint + block.contig_hint_start {
            block.contig_hint_start
        } else {
            bitmap::last_set(&self.alloc_map, first_base, off).map_or(0, |bit| (bit + 1 - first_base) as i32)
        };
        count::join_before(m, block, first_base, off, start);
        let block = &self.blocks[last];
        let freed_end = off + len - last_base;
        let end = if freed_end as i32 == block.contig_hint_start {
            block.contig_hint_start + block.contig_hint
        } else {
            (bitmap::next_set(&self.alloc_map, last_base + bits, off + len) - last_base) as i32
        };
        count::join_behind(m, block, last_base, off + len, end);

        let edge = if first == last { end } else { bits as i32 };
        let mut gained = i32::from(start == 0 && edge == bits as i32);
        self.blocks[first].update(start, edge, rules);
        if start == 0 {
            self.note_whole(first as u32);
        }
        if first != last {
            gained += i32::from(end == bits as i32);
            gained += self.update_freed_blocks(m, first, last, end);
        }
        if rules.exact_empty_pages && m.block_is_page() {
            self.nr_empty_pop_pages += gained;
        }

        if self.free_asks_refresh(m, first == last, start, end) {
            self.refresh_chunk(m, true);
        } else if rules.free_offers_interval {
            // Kernel: `end` is still relative to the block, so in every block but the first the
            // length is negative and the hint is not raised (10 section 7.3).
            if first == 0 {
                self.md.update(start, end, rules);
            } else {
                self.md.first_free = self.md.first_free.min(first_base as i32 + start);
            }
        } else {
            // Kernel: the length offered is that of the block's hint, not of the freed run.
            self.md.offer_contig(first_base as i32 + start, self.blocks[first].contig_hint);
        }
    }

    /// The blocks behind the first one of a freed area; `end` is where the free run ends in the last. Returns how
    /// many lie between the two.
    fn update_freed_blocks<M: Mode>(&mut self, m: M, first: usize, last: usize, end: i32) -> i32 {
        self.blocks[last].update(0, end, m.rules());
        for block in &mut self.blocks[first + 1..last] {
            let scan_hint_start = block.scan_hint_start;
            *block = Block { scan_hint_start, ..Block::free(m.block_bits() as i32) };
        }
        bitmap::set_range(&mut self.whole, first as u32 + 1, last as u32);
        self.note_whole(last as u32);
        (last - first - 1) as i32
    }

    /// True if a free makes the whole chunk-wide hint be recomputed.
    #[inline(always)]
    fn free_asks_refresh<M: Mode>(&self, m: M, one_block: bool, start: i32, end: i32) -> bool {
        let bits = m.block_bits() as i32;
        if !one_block || end - start >= bits {
            return true;
        }
        // To 5.1 also when the run holds a whole page of a larger block; the hints that give
        // `start` and `end` are exact there. No kernel was configured so.
        let page = m.page_bits() as i32;
        !m.rules().free_offers_interval && page < bits && (end & -page) > ((start + page - 1) & -page)
    }
}
