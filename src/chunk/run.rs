//! Many at once: runs of equal requests, and of frees of neighbours.
//!
//! # Design
//!
//! A batch often asks for the same thing again and again, and the next place is the next one in the same
//! free run:
//!
//! ```text
//! XXXX.XX|.................|      block: all below is in use, or gaps that are too small
//! XXXX.XX|OO.OO.OO.OO......|      equal areas, a gap behind each if the alignment asks for it
//!         contig run -----> shrinks to its tail
//! ```
//!
//! Then maps, hints and counters after `count` areas can be written down at once. What has to hold for that is
//! checked here, and as soon as anything could come out differently the run ends before: at the last area of a
//! block, where another region would become the largest, where the chunk would change its list. The rest is done
//! one by one. The outcome is that of single calls, to the last stale hint; property tests compare the two.
//!
//! # Units
//!
//! Bits; block-relative in the hints of blocks.
//!
//! # Source
//!
//! Specification 10 sections 5 to 7; the closed forms follow from them.

use super::{count, Chunk, Mode};
use crate::bitmap;
use crate::block::Block;
use crate::cost::Counter;
use crate::request::Place;

/// Equal areas in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First bit of the first one.
    pub off: u32,
    /// From one to the next.
    pub step: u32,
    /// How many.
    pub count: u32,
}

impl Chunk {
    /// Takes up to `most` areas of `bits` where nothing but the end of the map is free, and all of that: as
    /// [`Chunk::alloc_run`], but over several blocks, and areas must fill blocks exactly. `spare` blocks may be begun; the first
    /// area in one more is the last. `None`, and nothing changed, if not even one can be taken so.
    #[inline]
    pub fn fresh_run<M: Mode>(
        &mut self,
        m: M,
        bits: u32,
        align: u32,
        start: u32,
        most: u32,
        spare: i32,
    ) -> Option<Run> {
        let (block_bits, rules) = (m.block_bits(), m.rules());
        let md = &self.md;
        let (from, contig) = (md.contig_hint_start as u32, md.contig_hint as u32);
        let tail = md.first_free as u32 == from && start == from && from + contig == md.nr_bits as u32;
        let fills = bits % align == 0 && bits.is_power_of_two() && bits <= block_bits && from % bits == 0;
        if !tail || !fills || from == 0 || (rules.scan_hints && md.scan_hint != 0) || !m.block_is_page() {
            return None;
        }
        // Every refresh counts the empty pages.
        if !rules.exact_empty_pages
            && bitmap::count_both(&self.whole, &self.populated) as i32 != self.nr_empty_pop_pages
        {
            return None;
        }
        // The slot must stay, and something of the run.
        let lowest = if rules.slot_by_contig { lowest_of_slot(m.bytes(contig)).div_ceil(m.bytes(1)) } else { 1 };
        let mut most = most.min(contig.checked_sub(lowest)? / bits);
        if !rules.slot_by_contig {
            most = most.min(self.free_bytes.checked_sub(lowest_of_slot(self.free_bytes))? / m.bytes(bits));
        }
        if !self.is_free_to_edge(m, from) {
            return None;
        }
        let (mut end, mut taken, mut begun) = (from, 0, 0);
        while taken < most && begun <= spare {
            let index = end >> m.block_shift();
            let so = (end & (block_bits - 1)) as i32;
            let block = &mut self.blocks[index as usize];
            let plain = block.contig_hint_start == so
                && block.contig_hint_start + block.contig_hint == block_bits as i32
                && block.first_free == so
                && (!rules.scan_hints || block.scan_hint == 0);
            if !plain || !bitmap::test(&self.populated, index) {
                break;
            }
            let mut here = (block_bits - so as u32) / bits;
            if so == 0 {
                begun += 1;
                if begun > spare {
                    here = 1;
                }
            }
            let here = here.min(most - taken);
            taken += here;
            end += here * bits;
            let used = so + (here * bits) as i32;
            let rest = block_bits as i32 - used;
            block.contig_hint = rest;
            // Nothing is left of a full block but where its last area began.
            block.contig_hint_start = if rest == 0 { used - bits as i32 } else { used };
            block.first_free = used;
            block.right_free = rest;
            if so == 0 || !rules.scan_hints {
                block.left_free = 0;
            }
            if so == 0 {
                bitmap::clear(&mut self.whole, index);
            }
            self.count_fresh(m, bits, index, so as u32, here);
        }
        if taken == 0 {
            return None;
        }
        bitmap::set_range(&mut self.alloc_map, from, end);
        if taken == 1 {
            bitmap::set_bounds(&mut self.bound_map, from, end);
        } else {
            bitmap::clear_range(&mut self.bound_map, from, end);
            bitmap::set_periodic(&mut self.bound_map, from, 1, bits, taken);
            bitmap::set(&mut self.bound_map, end);
        }
        self.free_bytes -= m.bytes(end - from);
        self.nr_empty_pop_pages -= begun;
        let md = &mut self.md;
        md.first_free = end as i32;
        md.contig_hint_start = end as i32;
        md.contig_hint -= (end - from) as i32;
        if rules.scan_hints {
            md.right_free = md.contig_hint;
        }
        Some(Run { off: from, step: bits, count: taken })
    }

    /// Takes up to `most` areas of `bits` at `align`, as calls of [`Chunk::find_block_fit`] and
    /// [`Chunk::alloc_area`] would one after the other; `start` is what the first search has found. `None`, and
    /// nothing changed, unless two or more can be taken at once. All lie on populated pages, the count of empty
    /// pages is the same for all, and so is the slot of the chunk.
    #[inline]
    pub fn alloc_run<M: Mode>(&mut self, m: M, bits: u32, align: u32, start: u32, most: u32) -> Option<Run> {
        let block_bits = m.block_bits();
        let step = (bits + align - 1) & align.wrapping_neg();
        let index = start >> m.block_shift();
        let block = &self.blocks[index as usize];
        let (contig, contig_start) = (block.contig_hint as u32, block.contig_hint_start as u32);
        // A run up to the right edge, with room for three. Not a whole block: taking that costs an empty page.
        if most < 2 || contig < 3 * step || contig_start == 0 || contig_start + contig != block_bits {
            return None;
        }
        if !m.block_is_page() || !bitmap::test(&self.populated, index) {
            return None;
        }
        let base = index << m.block_shift();
        let from = base + contig_start;
        let first = (from + align - 1) & align.wrapping_neg();
        if !self.is_free_to_edge(m, from) {
            return None;
        }
        if M::Tally::ON && !self.search_repeats(m, bits, index, from, start) {
            return None;
        }
        let found = self.find_area(m, bits, align, start, false)?;
        if found.off != first || found.skipped.1 != 0 {
            return None;
        }
        // Between the start of the run and the first area, and between areas.
        let (gap, gaps) = (first - from, step - bits);
        // A gap as long as an area becomes the scan hint, and then searches begin at the first free bit: what the scan hint
        // has hidden until now must have no place either.
        let first_free = base + block.first_free as u32;
        if m.rules().scan_hints && gap.max(gaps) >= bits && first_free < from {
            let again = self.find_area(m, bits, align, first_free, false)?;
            if again.off != first || again.skipped.1 != 0 {
                return None;
            }
        }
        let (rest, others) = self.other_runs(m, index)?;
        let limit = others.max(gap).max(gaps);
        // The tail must stay the largest run.
        let room = block_bits.checked_sub(first - base + bits + limit + 1)?;
        let mut count = most.min(room / step + 1);
        // What is left of the chunk-wide hint, and of the free bytes, must neither leave the slot nor be outdone.
        let chunk_limit = self.chunk_wide_limit(m, from, first)?;
        if let Some(limit) = chunk_limit {
            let room = (self.md.contig_hint as u32).checked_sub(first - from + bits + limit)?;
            count = count.min(room / step + 1);
        } else {
            // The chunk-wide hints lie elsewhere.
            let end = (first + (count - 1) * step + bits) as i32;
            let md = &self.md;
            let touched = |start: i32, len: i32| start < end && (from as i32) < start + len;
            if touched(md.contig_hint_start, md.contig_hint)
                || (m.rules().scan_hints && touched(md.scan_hint_start, md.scan_hint))
            {
                return None;
            }
        }
        if !m.rules().slot_by_contig {
            let room = self.free_bytes.checked_sub(lowest_of_slot(self.free_bytes))? / m.bytes(bits);
            count = count.min(room);
        }
        if count < 2 {
            return None;
        }
        let run = Run { off: first, step, count };
        self.count_run(m, bits, index, run, from, chunk_limit.is_some());
        self.take_run(m, bits, index, run, from, rest, chunk_limit.is_some());
        Some(run)
    }

    /// True if all bits from `from` to the edge of its block are clear. What a damaged state says of a block that is partly used
    /// need not be so; of a whole one it was checked.
    #[inline(always)]
    fn is_free_to_edge<M: Mode>(&self, m: M, from: u32) -> bool {
        let edge = (from | (m.block_bits() - 1)) + 1;
        bitmap::next_set(&self.alloc_map, edge, from) >= edge
    }

    /// What is free in a block besides its contig run, which reaches the right edge: the scan hint after a refresh (0 = none) and
    /// the longest other run that matters. `None` if a refresh would see more than one.
    #[inline(always)]
    fn other_runs<M: Mode>(&self, m: M, index: u32) -> Option<(u32, u32)> {
        let block = &self.blocks[index as usize];
        let base = index << m.block_shift();
        let contig_start = block.contig_hint_start as u32;
        if m.rules().scan_hints {
            if block.scan_hint == 0 {
                return (block.first_free as u32 == contig_start).then_some((0, 0));
            }
            let behind = (block.scan_hint_start + block.scan_hint) as u32;
            let next = bitmap::next_zero(&self.alloc_map, base + contig_start, base + behind);
            let scan_hint = block.scan_hint as u32;
            return (behind <= contig_start && next == base + contig_start).then_some((scan_hint, scan_hint));
        }
        Some((0, bitmap::longest_clear(&self.alloc_map, base + block.first_free as u32, base + contig_start)))
    }

    /// The least length to which the chunk-wide contig hint may shrink, if it is the run that begins at `from`, an area at
    /// `first` hits it, and every refresh finds it again; `Some(None)` if it lies elsewhere, `None` if it is hard to tell.
    #[inline(always)]
    fn chunk_wide_limit<M: Mode>(&self, m: M, from: u32, first: u32) -> Option<Option<u32>> {
        let md = &self.md;
        let (start, len) = (md.contig_hint_start as u32, md.contig_hint as u32);
        if !m.rules().scan_hints {
            if first < start || first >= start + len {
                return Some(None);
            }
            // Every refresh counts the empty pages.
            if bitmap::count_both(&self.whole, &self.populated) as i32 != self.nr_empty_pop_pages {
                return None;
            }
            // Every region is looked at; the others must stay shorter.
            if (start, md.first_free as u32) == (from, from) && start + len == md.nr_bits as u32 {
                return Some(Some(1));
            }
            let (mut own, mut others) = (0, 0);
            self.walk_regions(m, md.first_free, 0, |start, end| {
                if start as u32 == from {
                    own = (end - start) as u32;
                } else {
                    others = others.max((end - start) as u32);
                }
                0
            });
            return (start == from && own == len).then_some(Some(others + 1));
        }
        if start + len <= from {
            return Some(None);
        }
        if start != from {
            return if start > from { Some(None) } else { None };
        }
        let after = if md.scan_hint > 0 { md.scan_hint_start + md.scan_hint } else { md.first_free };
        if after > from as i32 {
            return None;
        }
        let region = self.next_free_region(m, after);
        if (region.off as u32, region.len as u32) != (from, len) {
            return None;
        }
        let behind = from + len + 1;
        if behind < md.nr_bits as u32 && self.next_free_region(m, behind as i32).off < md.nr_bits {
            return None;
        }
        let lowest = lowest_of_slot(m.bytes(len)).div_ceil(m.bytes(1));
        Some(Some(lowest.max(md.scan_hint as u32 + 1)))
    }

    /// Writes down a run that [`Chunk::alloc_run`] has found to be plain.
    #[expect(clippy::too_many_arguments, reason = "what was found out before")]
    #[inline(always)]
    fn take_run<M: Mode>(&mut self, m: M, bits: u32, index: u32, run: Run, from: u32, scan: u32, hits_chunk: bool) {
        let Run { off: first, step, count } = run;
        let base = index << m.block_shift();
        let end = first + (count - 1) * step + bits;
        let (gap, gaps) = (first - from, step - bits);
        bitmap::set_periodic(&mut self.alloc_map, first, bits, step, count);
        if gaps == 0 {
            bitmap::clear_range(&mut self.bound_map, first, end);
            bitmap::set_periodic(&mut self.bound_map, first, 1, step, count);
            bitmap::set(&mut self.bound_map, end);
        } else if bits == 1 {
            bitmap::set_periodic(&mut self.bound_map, first, 2, step, count);
        } else {
            for at in 0..count {
                bitmap::set_bounds(&mut self.bound_map, first + at * step, first + at * step + bits);
            }
        }
        self.free_bytes -= m.bytes(bits) * count;
        // The first gap, if there is one, stays the first free bit.
        let next_free = if gaps == 0 { end } else { first + bits };
        if self.md.first_free as u32 == first {
            self.md.first_free = next_free as i32;
        }
        let tail = (base + m.block_bits() - end) as i32;
        let block = &mut self.blocks[index as usize];
        let old_first_free = block.first_free;
        if block.first_free as u32 == first - base {
            block.first_free = (next_free - base) as i32;
        }
        block.contig_hint = tail;
        block.contig_hint_start = (end - base) as i32;
        block.right_free = tail;
        if m.rules().scan_hints {
            // The last gap that is as long as the scan hint before becomes the scan hint.
            let mut scan = scan;
            if gap > 0 && gap >= scan {
                (scan, block.scan_hint_start) = (gap, (from - base) as i32);
            }
            if gaps > 0 && gaps >= scan {
                (scan, block.scan_hint_start) = (gaps, (end - step - base) as i32);
            }
            block.scan_hint = scan as i32;
        } else {
            let left = bitmap::next_set(&self.alloc_map, from, base) - base;
            block.left_free = if old_first_free == 0 { left as i32 } else { 0 };
        }
        if hits_chunk {
            let md = &mut self.md;
            md.contig_hint -= (end - from) as i32;
            md.contig_hint_start = end as i32;
            if m.rules().scan_hints && md.contig_hint_start + md.contig_hint == md.nr_bits {
                md.right_free = md.contig_hint;
            }
        }
    }

    /// How many blocks the first of the live areas at `place`, up to `most`, fill without gaps behind the only free run of the
    /// chunk, or in a full one: what [`Chunk::free_blocks`] can free.
    #[inline(always)]
    pub fn blocks_behind_run<M: Mode>(&self, m: M, place: Place, most: u32) -> u32 {
        let bits = m.block_bits();
        let Place { bit: first, count, len, step, .. } = place;
        // Boot chunks hide their ends.
        if step != len || first & (bits - 1) != 0 || bits % len != 0 {
            return 0;
        }
        let (start, contig) = (self.md.contig_hint_start as u32, self.md.contig_hint as u32);
        let only_run =
            self.free_bytes == m.bytes(contig) && (contig == 0 || start & (bits - 1) == 0 && start + contig == first);
        if !only_run || !m.block_is_page() || self.immutable() {
            return 0;
        }
        (count.min(most) * len) >> m.block_shift()
    }

    /// Frees the first of the live areas at `place`, one after the other: those of so many blocks, as
    /// [`Chunk::blocks_behind_run`] has found them. Returns how many.
    ///
    /// The last area of each leaves its block wholly free. Then the hints of the block are recomputed from nothing, and those of the
    /// chunk, which come to the one run: what was offered to them before does not matter.
    #[inline(always)]
    pub fn free_blocks<M: Mode>(&mut self, m: M, place: Place, blocks: u32) -> u32 {
        let (bits, rules) = (m.block_bits(), m.rules());
        let Place { bit: first, len, .. } = place;
        let index = first >> m.block_shift();
        let start = if self.md.contig_hint == 0 { first } else { self.md.contig_hint_start as u32 };
        let (end, count) = (first + blocks * bits, blocks * bits / len);
        self.count_freed_blocks(m, first, len, blocks);
        bitmap::clear_range(&mut self.alloc_map, first, end);
        for block in &mut self.blocks[index as usize..(index + blocks) as usize] {
            let scan_hint_start = block.scan_hint_start;
            *block = Block { scan_hint_start, ..Block::free(bits as i32) };
        }
        bitmap::set_range(&mut self.whole, index, index + blocks);
        self.free_bytes += m.bytes(end - first);
        self.nr_alloc -= count;
        let md = &mut self.md;
        md.first_free = md.first_free.min(first as i32);
        // Stale hints matter at the first block only.
        for end in [first + bits, end] {
            md.contig_hint = 0;
            if rules.scan_hints {
                md.update(start as i32, end as i32, rules);
            } else {
                md.offer_contig(start as i32, (end - start) as i32);
            }
        }
        if rules.exact_empty_pages {
            self.nr_empty_pop_pages += blocks as i32;
        } else {
            self.recount_empty_pages(m);
        }
        count
    }

    /// Frees live areas of this chunk, which `areas` begins with, one after the other, as long as each lies in the block of the
    /// first and leaves that not wholly free; at most `most`. Returns how many, and how many places of `areas` are done; of one
    /// that is done in part the areas are taken off. Stops before what single calls have to do. No page becomes empty, and since
    /// 5.2 the slot stays.
    #[inline(always)]
    pub fn free_in_block<M: Mode>(&mut self, m: M, areas: &mut [Place], most: u32) -> (u32, usize) {
        let bits = m.block_bits();
        let Place { chunk: id, bit: first, .. } = areas[0];
        let index = first >> m.block_shift();
        // The first block offers its runs to the chunk-wide hint, which may change the slot; boot chunks hide their ends.
        if !m.block_is_page() || self.immutable() || (m.rules().free_offers_interval && index == 0) {
            return (0, 0);
        }
        let nr_bits = self.nr_bits().0;
        let Self { alloc_map, blocks, md, .. } = self;
        let block = &mut blocks[index as usize];
        let base = index << m.block_shift();
        let edge = base + bits;
        let left_free = block.left_free;
        let (mut count, mut freed, mut lowest, mut words) = (0, 0, u32::MAX, 0);
        let mut at = 0;
        while let Some(&place) = areas.get(at) {
            let off = place.bit;
            if off.wrapping_sub(base) >= bits || place.chunk != id || place.count == 0 || count >= most {
                break;
            }
            let mut end = off + place.len;
            if end > edge {
                break;
            }
            // As in `update_hints_free`.
            let (so, eo) = ((off - base) as i32, (end - base) as i32);
            let from = if so == block.contig_hint + block.contig_hint_start {
                block.contig_hint_start
            } else {
                (bitmap::free_from_near(alloc_map, base, off) - base) as i32
            };
            let mut to = if eo == block.contig_hint_start {
                block.contig_hint_start + block.contig_hint
            } else {
                (bitmap::next_set_near(alloc_map, edge, end) - base) as i32
            };
            if from == 0 && to == bits as i32 {
                break;
            }
            words += count::words_of_free(m, nr_bits, block, (off, end), (from, to));
            block.update(from, to, m.rules());
            count += 1;
            freed += end - off;
            at += usize::from(place.count == 1);
            if place.count > 1 {
                areas[at].pass(1);
            }
            if block.contig_hint_start == from && block.contig_hint == to - from {
                // It is the largest run now. While the next areas are its upper neighbours it only grows.
                let mut grown = false;
                while let Some(&place) = areas.get(at) {
                    let start = base + to as u32;
                    if place.bit != start || place.chunk != id || place.count == 0 || count >= most {
                        break;
                    }
                    let mut taken = 1;
                    if place.count > 1 {
                        // Those whose gaps are free.
                        let here = (edge - start + place.step - place.len) / place.step;
                        taken = place.count.min(most - count).min(here);
                        if place.step > place.len && taken > 1 {
                            taken = bitmap::count_apart(alloc_map, start, place.len, place.step, taken).max(1);
                        }
                    }
                    let mut next_end = start + taken.saturating_sub(1) * place.step + place.len;
                    if taken == 0 || next_end > edge {
                        break;
                    }
                    let mut next_to = (bitmap::next_set_near(alloc_map, edge, next_end) - base) as i32;
                    let frees_block = from == 0 && next_to == bits as i32;
                    if frees_block {
                        // By the last one, which is left then.
                        taken -= 1;
                        if taken == 0 {
                            break;
                        }
                        // The run ends where that one starts.
                        next_to = (start + taken * place.step - base) as i32;
                        next_end -= place.step;
                    }
                    words += count::words_of_grown(m, nr_bits, edge, place, taken, base + next_to as u32);
                    (end, to, grown) = (next_end, next_to, true);
                    count += taken;
                    freed += taken * place.len;
                    at += usize::from(place.count == taken);
                    if place.count > taken {
                        areas[at].pass(taken);
                    }
                    if frees_block {
                        break;
                    }
                }
                if grown {
                    block.update(from, to, m.rules());
                }
            }
            bitmap::clear_range(alloc_map, off, end);
            lowest = lowest.min(off);
            if !m.rules().free_offers_interval {
                md.offer_contig(base as i32 + from, block.contig_hint);
            }
        }
        m.tally().count(|costs| costs.words_read += words);
        if count > 0 {
            // The block is not wholly free now; its hint may have said so before.
            if left_free == bits as i32 {
                self.note_whole(index);
            }
            self.md.first_free = self.md.first_free.min(lowest as i32);
            self.free_bytes += m.bytes(freed);
            self.nr_alloc -= count;
        }
        (count, at)
    }
}

/// The fewest bytes of the slot that `bytes` belong to.
#[inline(always)]
fn lowest_of_slot(bytes: u32) -> u32 {
    if bytes < 16 {
        1
    } else {
        1 << bytes.ilog2()
    }
}
