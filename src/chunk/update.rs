//! Committing: allocate and free areas, keep hints and page counts.
//!
//! Source: specification 10 sections 5.3, 5.4, 6.2 to 8.

use super::{Chunk, Context};
use crate::bitmap;
use crate::block::Block;
use crate::units::{Bits, Pages};

impl Chunk {
    /// Allocates `bits` at `align` from `start`, which [`Chunk::find_block_fit`] gave for the same
    /// `pop_only`. Without a fit nothing changes.
    #[inline]
    pub fn alloc_area(&mut self, ctx: &Context, bits: u32, align: u32, start: u32, pop_only: bool) -> Option<Bits> {
        let found = self.find_area(ctx, bits, align, start, pop_only)?;
        if ctx.rules.bounded_search && found.skipped.1 > 0 {
            self.record_skipped(ctx, found.skipped);
        }
        self.place(ctx, found.off, bits);
        Some(Bits(found.off))
    }

    /// Takes the area `[off, off + bits)`, which must be clear.
    pub fn place(&mut self, ctx: &Context, off: u32, bits: u32) {
        debug_assert!(
            bitmap::next_set(&self.alloc_map, off + bits, off) >= off + bits,
            "area {off}+{bits} is not free"
        );
        let lost = self.counts_pages_by_maps(ctx).then(|| self.free_pages_touched(ctx, off, bits));
        bitmap::set_range(&mut self.alloc_map, off, off + bits);
        bitmap::set(&mut self.bound_map, off);
        bitmap::clear_range(&mut self.bound_map, off + 1, off + bits);
        bitmap::set(&mut self.bound_map, off + bits);
        self.free_bytes -= ctx.geometry.bits_to_bytes(Bits(bits)).0 as u32;
        if off as i32 == self.md.first_free {
            self.md.first_free = bitmap::next_zero(&self.alloc_map, self.nr_bits().0, off + bits) as i32;
        }
        if let Some(lost) = lost {
            self.nr_empty_pop_pages -= lost as i32;
        }
        self.update_hints_alloc(ctx, off, bits);
    }

    /// Frees the area that starts at bit `off` and returns its length.
    #[inline]
    pub fn free_area(&mut self, ctx: &Context, off: u32) -> Bits {
        let bits = self.area_end(off) - off;
        bitmap::clear_range(&mut self.alloc_map, off, off + bits);
        self.free_bytes += ctx.geometry.bits_to_bytes(Bits(bits)).0 as u32;
        self.md.first_free = self.md.first_free.min(off as i32);
        if self.counts_pages_by_maps(ctx) {
            self.nr_empty_pop_pages += self.free_pages_touched(ctx, off, bits) as i32;
        }
        self.update_hints_free(ctx, off, bits);
        Bits(bits)
    }

    /// Marks the pages `[first, end)` populated.
    pub fn mark_populated(&mut self, ctx: &Context, first: u32, end: u32, for_alloc: bool) -> Pages {
        bitmap::set_range(&mut self.populated, first, end);
        self.nr_populated += end - first;
        // To 5.1, pages populated for an allocation are not counted as empty.
        if ctx.rules.exact_empty_pages || !for_alloc {
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
    #[inline]
    pub(super) fn counts_pages_by_maps(&self, ctx: &Context) -> bool {
        ctx.rules.exact_empty_pages && !ctx.geometry.block_is_page()
    }

    /// Pages touched by `[off, off + bits)` that have no allocated bit.
    fn free_pages_touched(&self, ctx: &Context, off: u32, bits: u32) -> u32 {
        let shift = ctx.geometry.page_bits_shift();
        (off >> shift..=(off + bits - 1) >> shift).filter(|page| self.page_is_free(ctx, *page)).count() as u32
    }

    /// Tells the block of the largest skipped area about it; the chunk-wide hint is not told.
    fn record_skipped(&mut self, ctx: &Context, (off, len): (u32, u32)) {
        let bits = ctx.geometry.block_bits();
        let start = off & (bits - 1);
        let end = start + len;
        if end > bits {
            return;
        }
        let base = off - start;
        let start = bitmap::last_set(&self.alloc_map, base, off).map_or(0, |bit| bit + 1 - base);
        self.blocks[(base >> ctx.geometry.block_bits_shift()) as usize].update(start as i32, end as i32, &ctx.rules);
    }

    /// Recomputes the hints of block `index` from the map, from behind the scan hint if there is
    /// one.
    ///
    /// `behind` is the bit behind the allocation. Where nothing below it is free and the contig run
    /// reached the right edge, that bit to the edge is all there is, and the map need not be read.
    #[inline]
    fn refresh_block(&mut self, ctx: &Context, index: usize, behind: u32) {
        let bits = ctx.geometry.block_bits();
        let block = &mut self.blocks[index];
        let (start, edge) = (behind as i32, bits as i32);
        let in_run = block.contig_hint_start <= start && block.contig_hint_start + block.contig_hint == edge;
        if in_run && start < edge && start == block.first_free && block.scan_hint == 0 {
            block.contig_hint = edge - start;
            block.contig_hint_start = start;
            block.right_free = edge - start;
            if !ctx.rules.scan_hints {
                block.left_free = 0;
            }
            return;
        }
        self.rescan_block(ctx, index);
    }

    fn rescan_block(&mut self, ctx: &Context, index: usize) {
        let bits = ctx.geometry.block_bits();
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
        if !ctx.rules.scan_hints {
            block.left_free = 0;
        }
        for (start, end) in bitmap::clear_runs(&self.alloc_map, base + from as u32, base + bits) {
            block.update((start - base) as i32, (end - base) as i32, &ctx.rules);
        }
    }

    /// Recomputes the chunk-wide hint after an allocation inside its run; `behind` is the bit behind
    /// the allocation.
    ///
    /// Where nothing below that bit is free and the run reached the end of the map, that bit to the end
    /// is all there is, and the blocks need not be read; the first block must know its right edge, or
    /// the walk over the blocks would not see it.
    #[inline]
    fn refresh_chunk_after_alloc(&mut self, ctx: &Context, behind: i32) {
        let md = &mut self.md;
        let (start, end) = (behind, md.nr_bits);
        let in_run = md.contig_hint_start <= start && md.contig_hint_start + md.contig_hint == end;
        if in_run && start < end && start == md.first_free && md.scan_hint == 0 {
            let shift = ctx.geometry.block_bits_shift();
            let bits = ctx.geometry.block_bits() as i32;
            let block = &self.blocks[(start >> shift) as usize];
            if block.right_free == bits - (start & (bits - 1)) {
                md.contig_hint = end - start;
                md.contig_hint_start = start;
                if ctx.rules.scan_hints {
                    md.right_free = end - start;
                }
                if ctx.rules.exact_empty_pages {
                    return;
                }
                if ctx.geometry.block_is_page() {
                    self.nr_empty_pop_pages = self.populated_pages_within(ctx, start as u32, end as u32) as i32;
                    return;
                }
            }
        }
        self.refresh_chunk(ctx, false);
    }

    /// Recomputes the chunk-wide hint from the blocks. Since 5.2 from behind the scan hint,
    /// unless `full`.
    fn refresh_chunk(&mut self, ctx: &Context, full: bool) {
        let promoted = if full { None } else { self.md.promote_scan_hint() };
        let mut off = promoted.unwrap_or_else(|| {
            self.md.contig_hint = 0;
            self.md.first_free
        });
        let mut empty = 0;
        loop {
            let region = self.next_free_region(ctx, off);
            if region.off >= self.md.nr_bits {
                break;
            }
            if ctx.rules.scan_hints {
                self.md.update(region.off, region.off + region.len, &ctx.rules);
            } else {
                self.md.offer_contig(region.off, region.len);
            }
            if !ctx.rules.exact_empty_pages {
                empty += self.populated_pages_within(ctx, region.off as u32, (region.off + region.len) as u32);
            }
            off = region.off + region.len + 1;
            if off >= self.md.nr_bits {
                break;
            }
        }
        if !ctx.rules.exact_empty_pages {
            if !ctx.geometry.block_is_page() {
                empty = bitmap::set_runs(&self.populated, 0, self.nr_pages)
                    .flat_map(|(first, end)| first..end)
                    .filter(|page| self.page_is_free(ctx, *page))
                    .count() as u32;
            }
            self.nr_empty_pop_pages = empty as i32;
        }
    }

    /// Keeps the hints after `[off, off + len)` was allocated; the map is already set.
    pub(super) fn update_hints_alloc(&mut self, ctx: &Context, off: u32, len: u32) {
        let rules = &ctx.rules;
        let bits = ctx.geometry.block_bits();
        let shift = ctx.geometry.block_bits_shift();
        let first = (off >> shift) as usize;
        let last = ((off + len - 1) >> shift) as usize;
        let start = off & (bits - 1);
        let end = ((off + len - 1) & (bits - 1)) + 1;
        let mut lost = 0;

        let base = first as u32 * bits;
        let block = &mut self.blocks[first];
        lost += i32::from(block.is_free());
        if start as i32 == block.first_free {
            block.first_free = (bitmap::next_zero(&self.alloc_map, base + bits, base + start + len) - base) as i32;
        }
        let (from, to) = (start as i32, (start + len) as i32);
        if rules.scan_hints {
            block.break_scan_hint(from, to);
        }
        if block.contig_hit(from, to, rules) {
            if rules.scan_hints && start == 0 {
                block.left_free = 0;
            }
            self.refresh_block(ctx, first, start + len);
        } else {
            block.left_free = block.left_free.min(from);
            block.right_free = if first == last { block.right_free.min((bits - end) as i32) } else { 0 };
        }

        if first != last {
            let base = last as u32 * bits;
            let block = &mut self.blocks[last];
            lost += i32::from(block.is_free());
            block.first_free = (bitmap::next_zero(&self.alloc_map, base + bits, base + end) - base) as i32;
            let mut full_until = last;
            if end == bits {
                full_until += 1;
            } else {
                if rules.scan_hints {
                    if end as i32 > block.scan_hint_start {
                        block.scan_hint = 0;
                    }
                    block.left_free = 0;
                }
                if end as i32 > block.contig_hint_start {
                    self.refresh_block(ctx, last, end);
                } else {
                    block.left_free = 0;
                    block.right_free = block.right_free.min((bits - end) as i32);
                }
            }
            lost += (last - first - 1) as i32;
            for block in &mut self.blocks[first + 1..full_until] {
                block.contig_hint = 0;
                block.left_free = 0;
                block.right_free = 0;
                if rules.scan_hints {
                    block.scan_hint = 0;
                }
            }
        }

        if rules.exact_empty_pages && ctx.geometry.block_is_page() {
            self.nr_empty_pop_pages -= lost;
        }
        let (from, to) = (off as i32, (off + len) as i32);
        if rules.scan_hints {
            self.md.break_scan_hint(from, to);
        }
        if self.md.contig_hit(from, to, rules) {
            self.refresh_chunk_after_alloc(ctx, to);
        }
    }

    /// Keeps the hints after `[off, off + len)` was freed; the map is already clear.
    fn update_hints_free(&mut self, ctx: &Context, off: u32, len: u32) {
        let rules = &ctx.rules;
        let bits = ctx.geometry.block_bits();
        let shift = ctx.geometry.block_bits_shift();
        let first = (off >> shift) as usize;
        let last = ((off + len - 1) >> shift) as usize;
        let first_base = first as u32 * bits;
        let last_base = last as u32 * bits;
        let mut gained = 0;

        // The freed area joined with its free neighbours inside the first and the last block.
        let block = &self.blocks[first];
        let start = if (off - first_base) as i32 == block.contig_hint + block.contig_hint_start {
            block.contig_hint_start
        } else {
            bitmap::last_set(&self.alloc_map, first_base, off).map_or(0, |bit| (bit + 1 - first_base) as i32)
        };
        let block = &self.blocks[last];
        let freed_end = off + len - last_base;
        let end = if freed_end as i32 == block.contig_hint_start {
            block.contig_hint_start + block.contig_hint
        } else {
            (bitmap::next_set(&self.alloc_map, last_base + bits, off + len) - last_base) as i32
        };

        let edge = if first == last { end } else { bits as i32 };
        gained += i32::from(start == 0 && edge == bits as i32);
        self.blocks[first].update(start, edge, rules);
        if first != last {
            gained += i32::from(end == bits as i32);
            self.blocks[last].update(0, end, rules);
            gained += (last - first - 1) as i32;
            for block in &mut self.blocks[first + 1..last] {
                let scan_hint_start = block.scan_hint_start;
                *block = Block { scan_hint_start, ..Block::free(bits as i32) };
            }
        }
        if rules.exact_empty_pages && ctx.geometry.block_is_page() {
            self.nr_empty_pop_pages += gained;
        }

        if self.free_asks_refresh(ctx, first == last, start, end) {
            self.refresh_chunk(ctx, true);
        } else if rules.free_offers_interval {
            // Kernel: `end` is still relative to the block, so in every block but the first the
            // length is negative and the hint is not raised (10 section 7.3).
            self.md.update(first_base as i32 + start, end, rules);
        } else {
            // Kernel: the length offered is that of the block's hint, not of the freed run.
            self.md.offer_contig(first_base as i32 + start, self.blocks[first].contig_hint);
        }
    }

    /// True if a free makes the whole chunk-wide hint be recomputed.
    fn free_asks_refresh(&self, ctx: &Context, one_block: bool, start: i32, end: i32) -> bool {
        let bits = ctx.geometry.block_bits() as i32;
        if !one_block || end - start >= bits {
            return true;
        }
        // To 5.1 also when the run holds a whole page of a larger block; the hints that give
        // `start` and `end` are exact there. No kernel was configured so.
        let page = ctx.geometry.page_bits() as i32;
        !ctx.rules.free_offers_interval && page < bits && (end & -page) > ((start + page - 1) & -page)
    }
}
