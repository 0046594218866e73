//! Finding a place: region iterators over the hints, block fit, area scan.
//!
//! Nothing here changes the chunk. Offsets are chunk bits, signed as in the kernel,
//! because an alignment pad below a small block may come out negative.
//!
//! Source: specification 10 sections 4, 6.1 and 6.2.

use super::{count, Chunk, Mode};
use crate::bitmap;
use crate::cost::Counter;

/// A stretch of free bits seen by an iterator, or the end of the map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub off: i32,
    pub len: i32,
}

/// The place that the area scan found, and the largest area that it passed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub off: u32,
    /// Start and length; length 0 = nothing was passed over.
    pub skipped: (u32, u32),
}

/// Rounds up to a power of two.
#[inline]
fn align_up(value: i32, align: i32) -> i32 {
    (value + align - 1) & -align
}

impl Chunk {
    /// The next free region at or after `off`, for refreshing the chunk-wide hint: per block
    /// the contig run if it lies inside, and the runs across block borders.
    pub(super) fn next_free_region<M: Mode>(&self, m: M, off: i32) -> Region {
        let shift = m.block_shift();
        let bits = m.block_bits() as i32;
        let mut index = (off >> shift) as usize;
        let mut block_off = off & (bits - 1);
        let mut region = Region { off, len: 0 };
        while let Some(block) = self.blocks.get(index) {
            if region.len != 0 {
                region.len += block.left_free;
                if block.left_free != bits {
                    return region;
                }
                index += 1;
                continue;
            }
            region.len = block.contig_hint;
            if region.len != 0 && block.contig_hint_start >= block_off && block.contig_hint_start + region.len < bits {
                region.off = ((index as i32) << shift) + block.contig_hint_start;
                return region;
            }
            block_off = 0;
            region.len = block.right_free;
            region.off = ((index as i32 + 1) << shift) - block.right_free;
            index += 1;
        }
        region
    }

    /// Offers the free regions from `off` on, ascending as [`Chunk::next_free_region`] gives them, each as
    /// `(start, end)`; `offer` returns the contig hint that they led to, `contig` is that before the first.
    ///
    /// Left out is what cannot matter to a fold over regions that come in ascending order: a region shorter than the
    /// contig hint, unless it ends the map. So a hint of two blocks passes over all that has no whole free block.
    #[inline(always)]
    pub(super) fn walk_regions<M: Mode>(
        &self,
        m: M,
        off: i32,
        mut contig: i32,
        mut offer: impl FnMut(i32, i32) -> i32,
    ) {
        let (shift, bits) = (m.block_shift(), m.block_bits() as i32);
        let mut index = (off >> shift) as usize;
        let mut block_off = off & (bits - 1);
        // A run that has reached the right edge of the block before.
        let (mut run_off, mut run) = (0, 0);
        loop {
            let (start, len);
            if let Some(block) = self.blocks.get(index) {
                if run != 0 {
                    run += block.left_free;
                    if block.left_free == bits {
                        let free = bitmap::next_zero(&self.whole, self.blocks.len() as u32, index as u32 + 1) as usize;
                        run += ((free - index - 1) as i32) << shift;
                        index = free;
                        continue;
                    }
                    (start, len) = (run_off, run);
                    run = 0;
                } else if block.contig_hint != 0
                    && block.contig_hint_start >= block_off
                    && block.contig_hint_start + block.contig_hint < bits
                {
                    (start, len) = (((index as i32) << shift) + block.contig_hint_start, block.contig_hint);
                } else {
                    block_off = 0;
                    run = block.right_free;
                    index += 1;
                    run_off = ((index as i32) << shift) - run;
                    if run == 0 && contig >= 2 * bits {
                        index = self.pass_over_used(index, bits);
                    }
                    continue;
                }
            } else if run != 0 {
                (start, len) = (run_off, run);
                run = 0;
            } else {
                return;
            }
            if len >= contig || start + len == self.md.nr_bits {
                contig = offer(start, start + len);
            }
            let next = start + len + 1;
            index = (next >> shift) as usize;
            block_off = next & (bits - 1);
        }
    }

    /// The last block before the next free one, or before the end of the map, if a walk that is at the start of
    /// block `index` can only come there in one way that matters; else `index`.
    #[inline]
    fn pass_over_used(&self, index: usize, bits: i32) -> usize {
        let next = bitmap::next_set(&self.whole, self.blocks.len() as u32, index as u32) as usize;
        match next.checked_sub(1).filter(|last| *last > index).map(|last| (last, &self.blocks[last])) {
            // A run that ends one bit before the right edge would make the walk go on behind that edge.
            Some((last, block))
                if block.left_free != bits - 1 && block.contig_hint_start + block.contig_hint != bits - 1 =>
            {
                last
            }
            _ => index,
        }
    }

    /// The next region at or after `off` that fits `bits` at `align`; `off` at the end of the
    /// map when there is none.
    ///
    /// `resumed`: the search goes on at a page behind a region that was rejected. Where blocks
    /// are larger than pages that may be inside a block, and runs count from there on only
    /// (`docs/free-geometry.md`); else `off` starts a block and it makes no difference.
    #[inline]
    fn next_fit_region<M: Mode>(&self, m: M, bits: i32, align: i32, off: i32, resumed: bool) -> Region {
        let shift = m.block_shift();
        let block_bits = m.block_bits() as i32;
        let mut index = (off >> shift) as usize;
        let came_to = |last: usize| m.tally().walk_blocks((off >> shift) as u32, last as u32 + 1);
        let mut block_off = off & (block_bits - 1);
        let mut floor = if resumed { block_off } else { 0 };
        let mut region = Region { off, len: 0 };
        while let Some(block) = self.blocks.get(index) {
            if region.len != 0 {
                region.len += block.left_free;
                if region.len >= bits {
                    came_to(index);
                    return region;
                }
                if block.left_free == block_bits {
                    index += 1;
                    continue;
                }
            }
            let contig_start = block.contig_hint_start.max(floor);
            let contig = block.contig_hint - (contig_start - block.contig_hint_start);
            let pad = align_up(contig_start, align) - contig_start;
            if contig > 0 && contig_start >= block_off && contig >= pad + bits {
                let start = block.next_hint(bits, m.rules()).max(floor);
                region.len = pad + bits + contig_start - start;
                region.off = ((index as i32) << shift) + start;
                came_to(index);
                return region;
            }
            let start = align_up((block_bits - block.right_free).max(floor), align);
            (block_off, floor) = (0, 0);
            region.len = block_bits - start;
            region.off = ((index as i32) << shift) + start;
            if region.len >= bits {
                came_to(index);
                return region;
            }
            index += 1;
        }
        m.tally().walk_blocks((off >> shift) as u32, index as u32);
        region.off = self.md.nr_bits;
        region
    }

    /// Where a search for `bits` at `align` must start; `None` if the hints show no fit.
    ///
    /// `pop_only` accepts only regions whose pages are all populated.
    #[inline]
    pub fn find_block_fit<M: Mode>(&self, m: M, bits: u32, align: u32, pop_only: bool) -> Option<u32> {
        let (bits, align) = (bits as i32, align as i32);
        // Kernel: the contig run is judged at its own alignment; an aligned fit elsewhere
        // does not help (10 section 6.1).
        let pad = align_up(self.md.contig_hint_start, align) - self.md.contig_hint_start;
        if pad + bits > self.md.contig_hint {
            return None;
        }
        let mut off = self.md.next_hint(bits, m.rules());
        let mut resumed = false;
        loop {
            let region = self.next_fit_region(m, bits, align, off, resumed);
            if region.off >= self.md.nr_bits {
                return None;
            }
            if !pop_only {
                return Some(region.off as u32);
            }
            let next = self.skip_unpopulated(m, region);
            count::tested_pages(m, region.off, region.len, next);
            match next {
                None => return Some(region.off as u32),
                Some(next) => (off, resumed) = (next, true),
            }
        }
    }

    /// `None` if every page of the region is populated, else the bit where the search goes on:
    /// the first populated page after the first unpopulated one.
    fn skip_unpopulated<M: Mode>(&self, m: M, region: Region) -> Option<i32> {
        let shift = m.page_shift();
        let first = (region.off >> shift) as u32;
        let end = ((region.off + region.len + m.page_bits() as i32 - 1) >> shift) as u32;
        let hole = bitmap::next_zero(&self.populated, end, first);
        if hole >= end {
            return None;
        }
        let next = bitmap::next_set(&self.populated, end, hole + 1);
        Some((next << shift) as i32)
    }

    /// Where the scan for `bits` clear bits from `start` ends at the latest.
    ///
    /// To 5.1 the window is not bounded by the map; with hints as kept here it never finds anything beyond.
    #[inline(always)]
    pub(super) fn scan_end<M: Mode>(&self, m: M, bits: u32, start: u32) -> u32 {
        (start + bits + m.block_bits()).min(self.nr_bits().0)
    }

    /// Scans the map from `start` for `bits` clear bits at `align`. Whoever commits what it finds counts it.
    ///
    /// `pop_only`: gives up if the place is not populated, which happens only with alignments
    /// above the block (`docs/free-geometry.md`).
    #[inline]
    pub(super) fn find_area<M: Mode>(&self, m: M, bits: u32, align: u32, start: u32, pop_only: bool) -> Option<Found> {
        let end = self.scan_end(m, bits, start);
        if bits == 1 && align <= m.block_bits() {
            // A single bit fits at the first aligned clear one, and passes over nothing that counts.
            let off = bitmap::next_aligned_zero(&self.alloc_map, end, start, align);
            return (off < end).then_some(Found { off, skipped: (0, 0) });
        }
        let mut start = start;
        let mut skipped = (0, 0);
        loop {
            let clear = bitmap::next_zero(&self.alloc_map, end, start);
            let off = (clear + align - 1) & align.wrapping_neg();
            if off + bits > end {
                return None;
            }
            let hit = bitmap::next_set(&self.alloc_map, off + bits, off);
            if hit >= off + bits {
                if pop_only && align > m.block_bits() {
                    let region = Region { off: off as i32, len: bits as i32 };
                    if self.skip_unpopulated(m, region).is_some() {
                        return None;
                    }
                }
                return Some(Found { off, skipped });
            }
            let len = hit - off;
            let (best, best_len): (u32, u32) = skipped;
            if len > best_len
                || (len == best_len && best != 0 && (off == 0 || off.trailing_zeros() > best.trailing_zeros()))
            {
                skipped = (off, len);
            }
            start = hit + 1;
        }
    }
}
