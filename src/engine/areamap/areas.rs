//! The areas of a chunk, as sets of positions instead of an array of offsets.
//!
//! # Design
//!
//! The array of the model moves its rest with every split and merge. Here nothing moves: one set holds
//! where areas start (and where the last one ends), one the starts of free areas. An index of the array is
//! the number of starts below a position, counted by *groups* of 512 granules and groups of those; within a
//! group a byte for each word.
//!
//! ```text
//! array     0*   10   16*  24   256*
//! starts    |    |    |    |    |          a bit a granule of 2 bytes
//! free           |         |
//! index     0    1    2    3    4          = starts below
//! ```
//!
//! The *granule* is as coarse as the starts allow: sets begin with few bits, and are made anew, finer, when an area starts
//! between two granules. A chunk with 256 objects of 1024 bytes has sets of 256 bits, where 2^17 would be needed for areas of
//! any size. Granules never become coarser.
//!
//! A search skips groups by an upper bound of their free areas, and [`Known`] remembers, for the sizes last
//! asked for, a position below which nothing fits. The first free area of all, which is nearly always asked for,
//! is kept at hand with its index.
//!
//! # Units
//!
//! Bytes from the chunk's base; positions in the sets are granules.
//!
//! # Invariants
//!
//! - Position 0 and the end are starts; the end is not free.
//! - `bounds[g]` is at least the size of every free area that starts in group g.
//! - Nothing that fits an entry of `known` starts below its `from`, which is at most `known_to`.
//! - `first` is the first free area, if it is known.
//!
//! # Cost
//!
//! 34 bits for 32 granules and 14 bytes a group, whatever is live. Split and merge are O(1), an index is a sum of at
//! most 64 numbers and one for each 64 groups; a first fit looks at groups whose bound allows it. Making the sets finer
//! takes a step for each area, at most once for each power of two from 2^16 to 2.

use std::borrow::Cow;

use super::tree::Tree;
use crate::bitmap;

/// Words of a group.
const GROUP_WORDS: usize = 8;
/// Granules of a group, as a shift.
const GROUP_SHIFT: u32 = 9;
/// Groups that are counted together.
const GROUPS: usize = 64;
/// Sizes that are remembered.
const NR_KNOWN: usize = 8;
/// log2 of the bytes of the coarsest granule: a group of them fits an offset.
const COARSEST: u32 = 16;

/// Nothing of `size` bytes at `align` is free below position `from`.
#[derive(Clone, Copy, Debug)]
struct Known {
    size: u32,
    align: u32,
    from: u32,
}

impl Known {
    const NOTHING: Known = Known { size: u32::MAX, align: u32::MAX, from: 0 };
}

/// The areas of a chunk.
#[derive(Clone, Debug)]
pub(super) struct Areas {
    /// log2 of the bytes of a granule.
    shift: u32,
    starts: Tree,
    free: Tree,
    /// The end of the last area.
    end: u32,
    /// Starts, the end not among them.
    used: u32,
    /// For each group, the starts in each of its words, a byte a word.
    in_words: Box<[u64]>,
    /// Starts in each group.
    counts: Box<[u16]>,
    /// Starts in each 64 groups.
    counts_above: Box<[u32]>,
    /// Bytes.
    bounds: Box<[u32]>,
    known: [Known; NR_KNOWN],
    /// No `from` of `known` is larger.
    known_to: u32,
    first: Option<Stretch>,
    /// The index of `first`, if that is known.
    first_index: Option<u32>,
}

/// A free area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    pub start: u32,
    pub end: u32,
}

impl Stretch {
    /// Bytes.
    #[inline]
    pub fn size(self) -> u32 {
        self.end - self.start
    }

    /// Whether `size` bytes at `align` fit.
    #[inline]
    pub fn fits(self, size: u32, align: u32) -> bool {
        let head = self.start.wrapping_neg() & (align - 1);
        u64::from(self.size()) >= u64::from(head) + u64::from(size)
    }
}

impl Areas {
    /// No area at all in `end` bytes; the granule of `1 << shift` bytes divides the end.
    fn empty(end: u32, shift: u32) -> Self {
        let last = end >> shift;
        let groups = (last as usize >> GROUP_SHIFT) + 1;
        let mut areas = Self {
            shift,
            starts: Tree::new(last + 1),
            free: Tree::new(last + 1),
            end,
            used: 0,
            in_words: vec![0; groups].into(),
            counts: vec![0; groups].into(),
            counts_above: vec![0; groups.div_ceil(GROUPS)].into(),
            bounds: vec![0; groups].into(),
            known: [Known::NOTHING; NR_KNOWN],
            known_to: 0,
            first: None,
            first_index: None,
        };
        areas.starts.insert(last);
        areas
    }

    /// The areas from each offset in `starts` to the next; the last one is an end. A flag says whether an area is in use.
    pub fn of(starts: &[(u32, bool)]) -> Self {
        let end = starts.last().map_or(0, |last| last.0);
        let offsets = starts.iter().fold(1 << COARSEST, |all, (start, _)| all | start);
        let mut areas = Self::empty(end, offsets.trailing_zeros());
        for pair in starts.windows(2) {
            areas.push(Stretch { start: pair[0].0, end: pair[1].0 }, !pair[0].1);
        }
        areas
    }

    fn push(&mut self, area: Stretch, free: bool) {
        self.add_start(area.start);
        if free {
            self.free.insert(area.start >> self.shift);
            self.raise_bound(area);
        }
    }

    /// Makes the granule as fine as an offset needs.
    #[inline(always)]
    fn divide_for(&mut self, off: u32) {
        if off.trailing_zeros() < self.shift {
            self.divide(off.trailing_zeros());
        }
    }

    #[cold]
    #[inline(never)]
    fn divide(&mut self, shift: u32) {
        let mut finer = Self::empty(self.end, shift);
        let mut starts = self.iter().peekable();
        while let Some(start) = starts.next() {
            let end = starts.peek().copied().unwrap_or(self.end);
            finer.push(Stretch { start, end }, self.is_free(start));
        }
        drop(starts);
        (finer.known, finer.known_to) = (self.known, self.known_to);
        (finer.first, finer.first_index) = (self.first, self.first_index);
        *self = finer;
    }

    #[inline(always)]
    fn group(&self, off: u32) -> usize {
        (off >> self.shift >> GROUP_SHIFT) as usize
    }

    /// The end of the last area.
    #[inline]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Number of areas.
    #[inline]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Whether an area in use starts here; any number may be asked.
    #[inline(always)]
    pub fn is_used_start(&self, off: u32) -> bool {
        let at = off >> self.shift;
        off < self.end && at << self.shift == off && self.starts.contains(at) && !self.free.contains(at)
    }

    /// Whether an area starts here; any number may be asked.
    pub fn has_start(&self, off: u32) -> bool {
        off < self.end && off >> self.shift << self.shift == off && self.starts.contains(off >> self.shift)
    }

    /// Whether the area that starts at `off`, or ends the last one, is free.
    #[inline(always)]
    pub fn is_free(&self, off: u32) -> bool {
        self.free.contains(off >> self.shift)
    }

    /// Where the area that starts at `off` ends.
    #[inline(always)]
    pub fn end_of(&self, off: u32) -> u32 {
        self.starts.next((off >> self.shift) + 1).map_or(self.end, |at| at << self.shift)
    }

    /// The last start below an offset up to the end.
    #[inline]
    pub fn before(&self, off: u32) -> Option<u32> {
        self.starts.last_before(off.div_ceil(1 << self.shift)).map(|at| at << self.shift)
    }

    /// Starts below the start `off`: its index.
    #[inline]
    pub fn index(&self, off: u32) -> u32 {
        match (self.first, self.first_index) {
            (Some(first), Some(index)) if first.start == off => index,
            // Between the first free area and this one is nothing.
            (Some(first), Some(index)) if first.end == off => index + 1,
            _ => self.count_below(off >> self.shift),
        }
    }

    /// The same; the index of the first free area is remembered.
    #[inline]
    pub fn find_index(&mut self, off: u32) -> u32 {
        if let (Some(first), None) = (self.first, self.first_index) {
            if first.start == off || first.end == off {
                self.first_index = Some(self.count_below(first.start >> self.shift));
            }
        }
        self.index(off)
    }

    fn count_below(&self, at: u32) -> u32 {
        let group = (at >> GROUP_SHIFT) as usize;
        let above = group / GROUPS;
        let mut count: u32 = self.counts_above[..above].iter().sum();
        count += self.counts[above * GROUPS..group].iter().map(|count| u32::from(*count)).sum::<u32>();
        let word = (at >> 6) as usize;
        let below = (1_u64 << (word % GROUP_WORDS * 8)) - 1;
        let bytes = self.in_words[group] & below;
        // Eight bytes of at most 64, added in pairs so that no sum overflows.
        let pairs = (bytes & 0x00ff_00ff_00ff_00ff) + (bytes >> 8 & 0x00ff_00ff_00ff_00ff);
        count += (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as u32;
        let rest = self.starts.words()[word] & !(u64::MAX << (at % 64));
        count + rest.count_ones()
    }

    #[inline(always)]
    fn count(&mut self, at: u32, up: bool) {
        let group = (at >> GROUP_SHIFT) as usize;
        let byte = 1_u64 << ((at >> 6) as usize % GROUP_WORDS * 8);
        let (words, count, above) =
            (&mut self.in_words[group], &mut self.counts[group], &mut self.counts_above[group / GROUPS]);
        if up {
            (*words, *count, *above, self.used) = (*words + byte, *count + 1, *above + 1, self.used + 1);
        } else {
            (*words, *count, *above, self.used) = (*words - byte, *count - 1, *above - 1, self.used - 1);
        }
    }

    #[inline(always)]
    fn add_start(&mut self, off: u32) {
        let at = off >> self.shift;
        self.starts.insert(at);
        self.count(at, true);
    }

    #[inline(always)]
    fn remove_start(&mut self, off: u32) {
        let at = off >> self.shift;
        self.starts.remove(at);
        self.count(at, false);
    }

    /// Takes `[place, stop)` of the free area `found`. What is left in front of it stays free with `keep_head`, and
    /// becomes part of the area before without; what is left behind stays free.
    #[inline]
    pub fn take(&mut self, found: Stretch, place: u32, stop: u32, keep_head: bool) {
        self.divide_for(place | stop);
        if !keep_head {
            self.free.remove(found.start >> self.shift);
        }
        if place != found.start {
            if !keep_head {
                self.remove_start(found.start);
            }
            self.add_start(place);
        }
        let rest = Stretch { start: stop, end: found.end };
        if stop < found.end {
            self.add_start(stop);
            self.free.insert(stop >> self.shift);
            self.raise_bound(rest);
        }
        if self.first.is_some_and(|first| first.start == found.start) {
            if keep_head {
                self.first = Some(Stretch { start: found.start, end: place });
            } else {
                self.first = (stop < found.end).then_some(rest);
                self.first_index = self.first_index.map(|index| index + 1);
            }
        }
    }

    /// Takes `count` areas of `size` bytes each from the front of the first free area `first`, and leaves some of it.
    pub fn take_run(&mut self, first: Stretch, size: u32, count: u32) {
        let rest = Stretch { start: first.start + size * count, end: first.end };
        debug_assert!(self.first == Some(first) && rest.start < rest.end);
        self.divide_for(first.start | size);
        self.free.remove(first.start >> self.shift);
        for at in 1..=count {
            self.add_start(first.start + size * at);
        }
        self.free.insert(rest.start >> self.shift);
        self.raise_bound(rest);
        self.first = Some(rest);
        self.first_index = self.first_index.map(|index| index + count);
    }

    /// The first free area, if it is known.
    #[inline(always)]
    pub fn known_first(&self) -> Option<Stretch> {
        self.first
    }

    /// The free area that ends at `off`, where an area starts.
    #[inline(always)]
    pub fn free_before(&self, off: u32) -> Option<Stretch> {
        if let Some(first) = self.first {
            if first.end == off {
                return Some(first);
            }
            if first.start > off {
                return None;
            }
        }
        let at = self.starts.last_before(off >> self.shift).filter(|before| self.free.contains(*before))?;
        Some(Stretch { start: at << self.shift, end: off })
    }

    /// Gives back the area `area` in use, which becomes one with the free areas next to it.
    #[inline(always)]
    pub fn give_back(&mut self, area: Stretch, before: Option<Stretch>, behind: Option<Stretch>) -> Stretch {
        let mut merged = area;
        if let Some(before) = before {
            self.remove_start(area.start);
            merged.start = before.start;
        } else {
            self.free.insert(area.start >> self.shift);
        }
        if let Some(behind) = behind {
            self.free.remove(behind.start >> self.shift);
            self.remove_start(behind.start);
            merged.end = behind.end;
        }
        match self.first {
            Some(first) if merged.start == first.start => self.first = Some(merged),
            Some(first) if merged.start < first.start => (self.first, self.first_index) = (Some(merged), None),
            _ => {}
        }
        self.raise_bound(merged);
        if merged.start < self.known_to {
            self.known_to = merged.start;
            for known in &mut self.known {
                known.from = known.from.min(merged.start);
            }
        }
        merged
    }

    #[inline(always)]
    fn raise_bound(&mut self, free: Stretch) {
        let group = self.group(free.start);
        let bound = &mut self.bounds[group];
        *bound = (*bound).max(free.size());
    }

    /// The first free area; none is before `from`.
    #[inline(always)]
    pub fn first_free(&mut self, from: u32) -> Option<Stretch> {
        if self.first.is_none() {
            (self.first, self.first_index) = (self.next_free(from), None);
        }
        self.first
    }

    /// The first free area that starts at or behind an offset.
    #[inline]
    pub fn next_free(&self, from: u32) -> Option<Stretch> {
        let start = self.free.next(from.div_ceil(1 << self.shift))? << self.shift;
        Some(Stretch { start, end: self.end_of(start) })
    }

    #[inline]
    fn slot(size: u32, align: u32) -> usize {
        ((size / 2) ^ align.trailing_zeros()) as usize % NR_KNOWN
    }

    /// The first free area that `size` bytes at `align` fit in; `first` is the first of all.
    #[inline(always)]
    pub fn first_fit(&mut self, first: Stretch, size: u32, align: u32) -> Option<Stretch> {
        if first.fits(size, align) {
            return Some(first);
        }
        self.fit_behind(first.end, size, align)
    }

    fn fit_behind(&mut self, from: u32, size: u32, align: u32) -> Option<Stretch> {
        let slot = Self::slot(size, align);
        let known = self.known[slot];
        let mut at = from;
        if known.size <= size && known.align <= align {
            at = at.max(known.from);
        }
        let found = self.search(at, size, |found| found.fits(size, align));
        let from = found.map_or(self.end, |found| found.start);
        self.known[slot] = Known { size, align, from };
        self.known_to = self.known_to.max(from);
        found
    }

    /// The first free area at or behind `from`, of `size` bytes or more, that `fits` accepts.
    #[inline]
    pub fn search(&mut self, from: u32, size: u32, mut fits: impl FnMut(Stretch) -> bool) -> Option<Stretch> {
        let mut at = from;
        loop {
            let group = self.group(at);
            let group = group + self.bounds.get(group..)?.iter().position(|bound| *bound >= size)?;
            let group_bytes = 1 << GROUP_SHIFT << self.shift;
            let begin = group as u32 * group_bytes;
            let behind = begin + group_bytes;
            at = at.max(begin);
            let whole = at == begin;
            let mut largest = 0;
            while let Some(found) = self.next_free(at).filter(|found| found.start < behind) {
                if found.size() >= size && fits(found) {
                    return Some(found);
                }
                largest = largest.max(found.size());
                at = found.end;
            }
            if whole {
                self.bounds[group] = largest;
            }
            at = at.max(behind);
        }
    }

    /// Bytes of the largest free area.
    pub fn largest(&mut self) -> u32 {
        let mut largest = 0;
        for group in 0..self.bounds.len() {
            if self.bounds[group] <= largest {
                continue;
            }
            let group_bytes = 1 << GROUP_SHIFT << self.shift;
            let (mut at, mut bound) = (group as u32 * group_bytes, 0);
            let behind = at + group_bytes;
            while let Some(found) = self.next_free(at).filter(|found| found.start < behind) {
                bound = bound.max(found.size());
                at = found.end;
            }
            self.bounds[group] = bound;
            largest = largest.max(bound);
        }
        largest
    }

    /// Makes the granule as fine as any can be.
    #[cfg(test)]
    pub fn refine_for_test(&mut self) {
        self.divide_for(2);
    }

    /// log2 of the bytes of the coarsest granule that the starts and the end allow.
    fn coarsest(&self) -> u32 {
        let words = (0_u32..).zip(self.starts.words()).filter(|(_, word)| **word != 0);
        // Bits in words, and words, that are used at all.
        let (bits, indices) = words.fold((0, 0), |(bits, indices), (index, word)| (bits | word, indices | index));
        let within = match bits & !1 {
            0 => 6 + indices.trailing_zeros(),
            bits => (1..64_u32).filter(|bit| bits >> bit & 1 != 0).map(u32::trailing_zeros).min().unwrap_or(0),
        };
        (self.shift + within).min(COARSEST)
    }

    /// The sets at the coarsest granule, which depends on the areas alone: its log2, starts, free ones.
    pub fn canonical(&self) -> (u32, Cow<'_, [u64]>, Cow<'_, [u64]>) {
        let shift = self.coarsest();
        let words = bitmap::words_for((self.end >> shift) + 1);
        if shift == self.shift {
            let (starts, free) = (&self.starts.words()[..words], &self.free.words()[..words]);
            return (shift, Cow::Borrowed(starts), Cow::Borrowed(free));
        }
        let (mut starts, mut free) = (vec![0; words], vec![0; words]);
        for start in self.iter() {
            bitmap::set(&mut starts, start >> shift);
            if self.is_free(start) {
                bitmap::set(&mut free, start >> shift);
            }
        }
        bitmap::set(&mut starts, self.end >> shift);
        (shift, Cow::Owned(starts), Cow::Owned(free))
    }

    /// Areas from their sets; `None` unless 0 is a start, `end` the last one and in use, and all that is free a start. No free
    /// area may be larger than `largest` bytes.
    pub fn of_sets(end: u32, shift: u32, starts: &[u64], free: &[u64], largest: u32) -> Option<Self> {
        let last = end >> shift;
        let words = bitmap::words_for(last + 1);
        let fits = starts.len() == words && free.len() == words && last > 0 && last << shift == end;
        let fits = fits && bitmap::test(starts, 0) && bitmap::test(starts, last) && !bitmap::test(free, last);
        if !fits || starts.iter().zip(free).any(|(starts, free)| free & !starts != 0) {
            return None;
        }
        if bitmap::next_set(starts, words as u32 * bitmap::WORD_BITS, last + 1) != words as u32 * bitmap::WORD_BITS {
            return None;
        }
        let mut areas = Self::empty(end, shift);
        areas.starts.fill(starts);
        areas.free.fill(free);
        for (group, (starts, free)) in starts.chunks(GROUP_WORDS).zip(free.chunks(GROUP_WORDS)).enumerate() {
            let in_words = (0..).zip(starts).map(|(word, starts)| u64::from(starts.count_ones()) << (word * 8));
            areas.in_words[group] = in_words.fold(0, |all, word| all | word);
            let count: u32 = starts.iter().map(|word| word.count_ones()).sum();
            areas.counts[group] = count as u16;
            areas.counts_above[group / GROUPS] += count;
            areas.used += count;
            areas.bounds[group] = if free.iter().all(|word| *word == 0) { 0 } else { largest };
        }
        // The end is not counted.
        areas.used -= 1;
        areas.counts_above[last as usize >> GROUP_SHIFT >> GROUPS.trailing_zeros()] -= 1;
        areas.counts[last as usize >> GROUP_SHIFT] -= 1;
        areas.in_words[last as usize >> GROUP_SHIFT] -= 1 << ((last >> 6) as usize % GROUP_WORDS * 8);
        Some(areas)
    }

    /// A map of what is free, a bit a granule, and how many free areas there are; `None` if two of them lie side by side.
    ///
    /// Word by word: adding the bits behind the free starts to what starts nowhere carries each of them to the next start, and
    /// from there subtracting the free starts leaves what lies between.
    pub fn free_map(&self) -> Option<(Vec<u64>, u32)> {
        let (mut before, mut carry, mut borrow) = (0, false, false);
        let (mut beside, mut count) = (0, 0);
        let map = self.starts.words().iter().zip(self.free.words()).map(|(starts, free)| {
            let (sum, over) = (free << 1 | before).overflowing_add(!starts);
            let (sum, over_again) = sum.overflowing_add(carry.into());
            (before, carry) = (free >> 63, over || over_again);
            let next = sum & starts;
            beside |= next & free;
            count += free.count_ones();
            let (rest, under) = next.overflowing_sub(*free);
            let (rest, under_again) = rest.overflowing_sub(borrow.into());
            borrow = under || under_again;
            rest
        });
        let map = map.collect();
        (beside == 0).then_some((map, count))
    }

    /// log2 of the bytes of a granule.
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// The starts in order, the end not among them.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (words, last, shift) = (self.starts.words(), self.end >> self.shift, self.shift);
        let (mut index, mut rest) = (0, words[0]);
        std::iter::from_fn(move || {
            while rest == 0 {
                index += 1;
                rest = *words.get(index)?;
            }
            let at = index as u32 * 64 + rest.trailing_zeros();
            rest &= rest - 1;
            (at < last).then_some(at << shift)
        })
    }
}
