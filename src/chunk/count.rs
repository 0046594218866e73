//! What chunk operations cost, by positions; nothing here is read or changed that an operation needs.
//!
//! # Design
//!
//! `search`, `update` and `run` call these where the positions are known between which the kernel's code reads. A shortcut counts
//! what the way that it shortens would have cost; a run of equal areas counts the sum over its areas in closed form.
//!
//! ```text
//! block   XXXX.XX|OO.OO.OO.OO......|        area i begins at p(i) = first + i * step
//!          s     from        p(i)   edge
//! scan    [s, p(i) + bits)                  s fixed, or p(i), or the end of the gap before
//! refresh [f, edge)                         f fixed, or p(i) + bits, or the end of the gap before
//! ```
//!
//! So the words of each sum are those of stretches whose ends move by 0 or `step`, and [`word_sum`] adds them up.
//!
//! # Units
//!
//! Bits from the chunk's base, blocks and pages by number.
//!
//! # Cost
//!
//! Some additions a call; nothing with a counter that is off.
//!
//! # Source
//!
//! `docs/design.md` section 6.

use super::run::Run;
use super::{Chunk, Mode};
use crate::bitmap;
use crate::block::{overlaps, Block};
use crate::cost::{words_of, Counter, Part, WORD_BITS};
use crate::request::Place;

/// log2 of the bits of a word.
const WORD_SHIFT: u32 = WORD_BITS.trailing_zeros();

/// The sum of the words' numbers of the bits `start + i * step`, for i below `count`.
#[inline]
fn word_sum(start: u32, step: u32, count: u32) -> u64 {
    let (n, word) = (u64::from(count), u64::from(start >> WORD_SHIFT));
    if step % WORD_BITS == 0 {
        return n * word + u64::from(step >> WORD_SHIFT) * (n * n.saturating_sub(1) / 2);
    }
    if step < WORD_BITS && step.is_power_of_two() {
        // So many to a word.
        let shift = WORD_SHIFT - step.trailing_zeros();
        let below = |x: u64| {
            let full = x >> shift;
            ((full * full.saturating_sub(1) / 2) << shift) + full * (x - (full << shift))
        };
        let first = u64::from((start & (WORD_BITS - 1)) >> step.trailing_zeros());
        return n * word + below(first + n) - below(first);
    }
    (0..count).map(|i| u64::from((start + i * step) >> WORD_SHIFT)).sum()
}

/// Stretches of bits `[start + i * start_step, end + i * end_step)`, none of them empty: the words of all.
#[inline]
fn words_of_stretches(start: (u32, u32), end: (u32, u32), count: u32) -> u64 {
    word_sum(end.0 - 1, end.1, count) + u64::from(count) - word_sum(start.0, start.1, count)
}

/// The fit iterator has offered a region, and its pages were tested; the search goes on at bit `next`, if at all.
#[inline(always)]
pub(super) fn tested_pages<M: Mode>(m: M, off: i32, len: i32, next: Option<i32>) {
    let shift = m.page_shift();
    let end = (off + len + m.page_bits() as i32 - 1) >> shift;
    let end = next.map_or(end, |next| end.min((next >> shift) + 1));
    m.tally().search(Part::Populated, (off >> shift) as u32, end as u32);
}

/// An area was or will be taken.
#[inline(always)]
pub(super) fn taken<M: Mode>(m: M, off: u32, bits: u32) {
    let mut tally = m.tally();
    tally.touch(Part::AllocMap, off, off + bits);
    tally.touch(Part::BoundMap, off, off + bits + 1);
    tally.touch(Part::Blocks, off >> m.block_shift(), ((off + bits - 1) >> m.block_shift()) + 1);
}

/// The first clear bit behind `behind` was looked for, and found at `found`, in the chunk or in one block: below `limit`.
#[inline(always)]
pub(super) fn first_free<M: Mode>(m: M, behind: u32, found: u32, limit: u32) {
    m.tally().search(Part::AllocMap, behind, (found + 1).min(limit));
}

/// The area `[from, to)`, in bits of the stretch of `hints`, overlaps its scan hint.
#[inline(always)]
pub(super) fn broken_scan<M: Mode>(m: M, hints: &Block, from: i32, to: i32) {
    let (start, len) = (hints.scan_hint_start, hints.scan_hint);
    m.tally().count(|costs| costs.hints_broken += u64::from(len > 0 && overlaps(start, start + len, from, to)));
}

/// The hints of the block at bit `base` are recomputed from bit `from` of it on.
#[inline(always)]
pub(super) fn block_refresh<M: Mode>(m: M, base: u32, from: i32) {
    let mut tally = m.tally();
    tally.count(|costs| costs.block_refreshes += 1);
    tally.search(Part::AllocMap, base + from as u32, base + m.block_bits());
}

/// The words that the searches of a free read which begins and ends in one block: for the end of the area `[off, end)`, and for
/// the ends of the free run `[from, to)` of the block that it becomes part of. `block` is as it was before. 0 if nothing is counted.
#[inline(always)]
pub(super) fn words_of_free<M: Mode>(
    m: M,
    nr_bits: u32,
    block: &Block,
    (off, end): (u32, u32),
    (from, to): (i32, i32),
) -> u64 {
    if !M::Tally::ON {
        return 0;
    }
    let base = off & m.block_bits().wrapping_neg();
    let word = |bit: u32| bit >> WORD_SHIFT;
    let known_before = (off - base) as i32 == block.contig_hint + block.contig_hint_start;
    let known_behind = (end - base) as i32 == block.contig_hint_start;
    let (low, high) = (base + from as u32, base + to as u32);
    if from > 0 && to < m.block_bits() as i32 && !known_behind {
        // Both searches have found a set bit; the word of `end` cancels out.
        let behind = word(high) - word(off + 1) + 2;
        return u64::from(behind + if known_before { 0 } else { word(off - 1) - word(low - 1) + 1 });
    }
    let edge = base + m.block_bits();
    let mut words = words_of(off + 1, (end + 1).min(nr_bits));
    if !known_before {
        words += words_of(low.saturating_sub(1).max(base), off);
    }
    if !known_behind {
        words += words_of(end, (high + 1).min(edge));
    }
    u64::from(words)
}

/// The same for the first `taken` areas of a place, freed one after the other: the known largest run of their block reaches up to
/// each, and with the last one up to bit `to`. The block ends at `edge`.
#[inline(always)]
pub(super) fn words_of_grown<M: Mode>(_: M, nr_bits: u32, edge: u32, place: Place, taken: u32, to: u32) -> u64 {
    if !M::Tally::ON {
        return 0;
    }
    let Place { bit: start, len, step, .. } = place;
    let inner = taken - 1;
    let end = start + inner * step + len;
    // The boundary behind each, and the next set bit behind that: the start of the next one.
    let last = words_of(end - len + 1, (end + 1).min(nr_bits)) + words_of(end, (to + 1).min(edge));
    u64::from(last)
        + words_of_stretches((start + 1, step), (start + len + 1, step), inner)
        + words_of_stretches((start + len, step), (start + step + 1, step), inner)
}

/// A freed area that begins at `off` is joined to the free run before it, which begins at bit `from` of the block at `base`.
#[inline(always)]
pub(super) fn join_before<M: Mode>(m: M, block: &Block, base: u32, off: u32, from: i32) {
    let known = (off - base) as i32 == block.contig_hint + block.contig_hint_start;
    let first = base + (from as u32).saturating_sub(1);
    m.tally().search(Part::AllocMap, first, if known { first } else { off });
}

/// A freed area that ends at `end` is joined to the free run behind it, which ends at bit `to` of the block at `base`.
#[inline(always)]
pub(super) fn join_behind<M: Mode>(m: M, block: &Block, base: u32, end: u32, to: i32) {
    let known = (end - base) as i32 == block.contig_hint_start;
    let last = (base + to as u32 + 1).min(base + m.block_bits());
    m.tally().search(Part::AllocMap, end, if known { end } else { last });
}

impl Chunk {
    /// The chunk-wide hint is recomputed from bit `from` on, so many times.
    #[inline(always)]
    pub(super) fn count_chunk_refreshes<M: Mode>(&self, m: M, from: u32, times: u32) {
        let times_wide = u64::from(times);
        let mut tally = m.tally();
        tally.count(|costs| costs.chunk_refreshes += times_wide);
        let (first, blocks) = (from >> m.block_shift(), self.blocks.len() as u32);
        tally.count(|costs| costs.blocks_visited += times_wide * u64::from(blocks.saturating_sub(first)));
        tally.touch(Part::Blocks, first, blocks);
        if !m.rules().exact_empty_pages {
            let page = from >> m.page_shift();
            tally.count(|costs| costs.words_read += times_wide * u64::from(words_of(page, self.nr_pages)));
            tally.touch(Part::Populated, page, self.nr_pages);
        }
    }

    /// The live area `[off, end)` is freed.
    #[inline(always)]
    pub(super) fn count_freed<M: Mode>(&self, m: M, off: u32, end: u32) {
        let mut tally = m.tally();
        tally.search(Part::BoundMap, off + 1, (end + 1).min(self.nr_bits().0));
        tally.touch(Part::AllocMap, off, end);
        tally.touch(Part::Blocks, off >> m.block_shift(), ((end - 1) >> m.block_shift()) + 1);
    }

    /// Areas of `len` bits are freed, one after the other, that fill so many full blocks from bit `first` on without gaps, each behind
    /// the only free run of the chunk.
    #[inline(always)]
    pub(super) fn count_freed_blocks<M: Mode>(&self, m: M, first: u32, len: u32, blocks: u32) {
        if !M::Tally::ON {
            return;
        }
        let (nr_bits, end) = (self.nr_bits().0, first + (blocks << m.block_shift()));
        let count = (end - first) / len;
        let wide = |n: u32| u64::from(n);
        // The boundary behind each; the end of the map has none that is read.
        let inner = count - 1;
        let mut words = words_of_stretches((first + 1, len), (first + len + 1, len), inner)
            + wide(words_of(end - len + 1, (end + 1).min(nr_bits)));
        // The next set bit, which the area behind begins with, unless it is that of the next block.
        words += wide(count - blocks);
        // Of a full block the first area may end where the last hint began: then nothing is looked for.
        if len < m.block_bits() {
            let index = (first >> m.block_shift()) as usize;
            let full = &self.blocks[index..index + blocks as usize];
            words -= full.iter().filter(|block| block.contig_hint_start == len as i32).count() as u64;
        }
        m.tally().count(|costs| costs.words_read += words);
        self.count_chunk_refreshes(m, first.min(self.md.first_free as u32), blocks);
    }

    /// `count` areas of `bits` are taken that fill block `index` from bit `so` of it on, where nothing else of the chunk is free
    /// below or beside ([`Chunk::fresh_run`]). What led to them is not counted here.
    #[inline(always)]
    pub(super) fn count_fresh<M: Mode>(&self, m: M, bits: u32, index: u32, so: u32, count: u32) {
        if !M::Tally::ON {
            return;
        }
        let (base, block_bits) = (index << m.block_shift(), m.block_bits());
        let (first, end) = (base + so, base + so + count * bits);
        // The last one may leave nothing of the block.
        let fills = u32::from(end == base + block_bits);
        let inner = count - fills;
        let wide = |n: u32| u64::from(n);
        let scans = wide(count) * wide(bits.div_ceil(WORD_BITS));
        let rests = words_of_stretches((first + bits, bits), (base + block_bits, 0), inner);
        let mut tally = m.tally();
        tally.count(|costs| {
            // The scan; the chunk's and the block's first free bit, which are the next one; the refresh.
            costs.words_read += scans + wide(count + inner) + rests;
            costs.block_refreshes += wide(count);
            costs.hints_broken += 2 * wide(count);
        });
        self.count_chunk_refreshes(m, first, inner);
        self.count_chunk_refreshes(m, end, fills);
    }

    /// True if the search for the first area of a run has gone the way that those for the others will go: to the contig hint of block
    /// `index`, which begins at bit `from` of the chunk. `start` is where it has led.
    #[inline(always)]
    pub(super) fn search_repeats<M: Mode>(&self, m: M, bits: u32, index: u32, from: u32, start: u32) -> bool {
        let base = index << m.block_shift();
        let block = &self.blocks[index as usize];
        start as i32 == base as i32 + block.next_hint(bits as i32, m.rules())
            && self.md.next_hint(bits as i32, m.rules()) <= from as i32
    }

    /// A run of areas of `bits` is about to be taken in block `index` ([`Chunk::alloc_run`]), whose contig hint begins at bit `from`
    /// of the chunk; `hits_chunk`: it is part of the chunk-wide one. What led to them is not counted here.
    #[inline(always)]
    pub(super) fn count_run<M: Mode>(&self, m: M, bits: u32, index: u32, run: Run, from: u32, hits_chunk: bool) {
        if !M::Tally::ON {
            return;
        }
        let Run { off: first, step, count } = run;
        let (gap, gaps) = (first - from, step - bits);
        let (base, edge) = (index << m.block_shift(), (index + 1) << m.block_shift());
        let block = &self.blocks[index as usize];
        let place = |i: u32| first + i * step;
        // The scan hint (0 = none) before the i-th area, and where it ends.
        let old = if m.rules().scan_hints { block.scan_hint as u32 } else { 0 };
        let old_end = base + (block.scan_hint_start + block.scan_hint) as u32;
        let scan = |i: u32| match i {
            _ if !m.rules().scan_hints => (0, 0),
            0 => (old, old_end),
            _ => {
                let (len, end) = if gap > 0 && gap >= old { (gap, first) } else { (old, old_end) };
                if i > 1 && gaps > 0 && gaps >= len {
                    (gaps, place(i - 1))
                } else {
                    (len, end)
                }
            }
        };
        let begins_at = |first_free: u32| first_free == first;
        // The first free bit of the block before the i-th area.
        let block_first = base + block.first_free as u32;
        let first_free = |i: u32| match i {
            _ if !begins_at(block_first) || i == 0 => block_first,
            _ if gaps == 0 => place(i),
            _ => first + bits,
        };
        let scan_start = |i: u32| {
            let (len, end) = scan(i);
            if len > 0 && bits > len {
                end
            } else {
                first_free(i)
            }
        };
        let refresh_start = |i: u32| {
            let (len, end) = scan(i);
            if len > 0 {
                end
            } else {
                first_free(i + 1)
            }
        };
        let mut words = 0;
        for i in 0..count.min(2) {
            words += words_of(scan_start(i), place(i) + bits) + words_of(refresh_start(i), edge);
        }
        let mut words = u64::from(words);
        if count > 2 {
            // From the third one on each start stays, or moves with the areas.
            let moving = |start: &dyn Fn(u32) -> u32| (start(2), start(3) - start(2));
            words += words_of_stretches(moving(&scan_start), (place(2) + bits, step), count - 2);
            words += words_of_stretches(moving(&refresh_start), (edge, 0), count - 2);
        }
        // The first free bit of chunk and block moves on by one look, each time or once.
        let looks = if gaps == 0 { count } else { 1 };
        let moves = |first_free: u32| u64::from(if begins_at(first_free) { looks } else { 0 });
        let md = &self.md;
        words += moves(block_first) + moves(md.first_free as u32);
        let wide = u64::from(count);
        m.tally().count(|costs| {
            costs.words_read += words;
            costs.block_refreshes += wide;
            costs.hints_broken += wide * (1 + u64::from(hits_chunk));
        });
        if hits_chunk {
            let promoted = m.rules().scan_hints && md.scan_hint > 0;
            let from = if promoted { md.scan_hint_start + md.scan_hint } else { md.first_free };
            self.count_chunk_refreshes(m, from as u32, count);
        }
    }

    /// There is an aligned place for `bits`, with `pop_only` on populated pages.
    pub(crate) fn has_place<M: Mode>(&self, m: M, bits: u32, align: u32, pop_only: bool) -> bool {
        let shift = m.page_shift();
        bitmap::clear_runs(&self.alloc_map, 0, self.nr_bits().0).any(|(start, end)| {
            let places = (start.next_multiple_of(align)..end).step_by(align as usize);
            places
                .take_while(|off| off + bits <= end)
                .any(|off| !pop_only || self.is_populated(off >> shift..(off + bits + m.page_bits() - 1) >> shift))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_words() {
        for start in [0, 1, 5, 63, 64, 100, 1023] {
            for step in [0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 32, 48, 63, 64, 65, 96, 128, 192, 1024] {
                for count in [0, 1, 2, 3, 7, 64, 100] {
                    let one_by_one: u64 = (0..count).map(|i| u64::from((start + i * step) / 64)).sum();
                    assert_eq!(word_sum(start, step, count), one_by_one, "{start} {step} {count}");
                }
            }
        }
        let stretches = [(0, 70), (8, 78), (16, 86), (24, 94)];
        let words: u32 = stretches.iter().map(|(start, end)| words_of(*start, *end)).sum();
        assert_eq!(words_of_stretches((0, 8), (70, 8), 4), u64::from(words));
    }
}
