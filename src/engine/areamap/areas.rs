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
//! A search skips groups by an upper bound of their free areas, and [`Known`] remembers, for the sizes last
//! asked for, a position below which nothing fits. The first free area of all, which is nearly always asked for,
//! is kept at hand with its index.
//!
//! # Units
//!
//! Granules in positions, bytes in sizes.
//!
//! # Invariants
//!
//! - Position 0 and the end are starts; the end is not free.
//! - `bounds[g]` is at least the size of every free area that starts in group g.
//! - Nothing that fits an entry of `known` starts below its `from`.
//! - `first` is the first free area, if it is known.
//!
//! # Cost
//!
//! 34 bits for 32 granules and 14 bytes a group, whatever is live. Split and merge are O(1), an index is a sum of at
//! most 64 numbers and one for each 64 groups; a first fit looks at groups whose bound allows it.

use super::tree::Tree;
use super::GRANULE;

/// Words of a group.
const GROUP_WORDS: usize = 8;
/// Granules of a group, as a shift.
const GROUP_SHIFT: u32 = 9;
/// Groups that are counted together.
const GROUPS: usize = 64;
/// Sizes that are remembered.
const NR_KNOWN: usize = 8;

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
    first: Option<Stretch>,
    /// The index of `first`, if that is known.
    first_index: Option<u32>,
}

/// A free area, in granules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    pub start: u32,
    pub end: u32,
}

impl Stretch {
    /// Bytes.
    #[inline]
    pub fn size(self) -> u32 {
        (self.end - self.start) * GRANULE
    }

    /// Whether `size` bytes at `align` fit.
    #[inline]
    pub fn fits(self, size: u32, align: u32) -> bool {
        let start = self.start * GRANULE;
        let head = start.wrapping_neg() & (align - 1);
        u64::from(self.size()) >= u64::from(head) + u64::from(size)
    }
}

impl Areas {
    /// No area at all in `end` granules.
    pub fn empty(end: u32) -> Self {
        let groups = (end as usize >> GROUP_SHIFT) + 1;
        let mut areas = Self {
            starts: Tree::new(end + 1),
            free: Tree::new(end + 1),
            end,
            used: 0,
            in_words: vec![0; groups].into(),
            counts: vec![0; groups].into(),
            counts_above: vec![0; groups.div_ceil(GROUPS)].into(),
            bounds: vec![0; groups].into(),
            known: [Known::NOTHING; NR_KNOWN],
            first: None,
            first_index: None,
        };
        areas.starts.insert(end);
        areas
    }

    /// Position behind the last area.
    #[inline]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Number of areas.
    #[inline]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Whether an area starts here.
    #[inline]
    pub fn is_start(&self, at: u32) -> bool {
        at < self.end && self.starts.contains(at)
    }

    /// Whether a free area starts here.
    #[inline]
    pub fn is_free(&self, at: u32) -> bool {
        self.free.contains(at)
    }

    /// Where the area that starts at `at` ends.
    #[inline]
    pub fn end_of(&self, at: u32) -> u32 {
        self.starts.next(at + 1).unwrap_or(self.end)
    }

    /// The start of the area before that at `at`.
    #[inline]
    pub fn before(&self, at: u32) -> Option<u32> {
        self.starts.last_before(at)
    }

    /// Starts below a position: the index of the area that starts there.
    #[inline]
    pub fn index(&self, at: u32) -> u32 {
        match (self.first, self.first_index) {
            (Some(first), Some(index)) if first.start == at => index,
            _ => self.count_below(at),
        }
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
    fn add_start(&mut self, at: u32) {
        self.starts.insert(at);
        self.count(at, true);
    }

    #[inline(always)]
    fn remove_start(&mut self, at: u32) {
        self.starts.remove(at);
        self.count(at, false);
    }

    /// Takes `[place, stop)` of the free area `found`. What is left in front of it stays free with `keep_head`, and
    /// becomes part of the area before without; what is left behind stays free.
    #[inline]
    pub fn take(&mut self, found: Stretch, place: u32, stop: u32, keep_head: bool) {
        if !keep_head {
            self.free.remove(found.start);
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
            self.free.insert(stop);
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

    /// Takes `count` areas of `size` granules each from the front of the first free area `first`, and leaves some of it.
    pub fn take_run(&mut self, first: Stretch, size: u32, count: u32) {
        let rest = Stretch { start: first.start + size * count, end: first.end };
        debug_assert!(self.first == Some(first) && rest.start < rest.end);
        self.free.remove(first.start);
        for at in 1..=count {
            self.add_start(first.start + size * at);
        }
        self.free.insert(rest.start);
        self.raise_bound(rest);
        self.first = Some(rest);
        self.first_index = self.first_index.map(|index| index + count);
    }

    /// The first free area, if it is known.
    #[inline(always)]
    pub fn known_first(&self) -> Option<Stretch> {
        self.first
    }

    /// The free area that ends at `at`, where an area starts.
    #[inline(always)]
    pub fn free_before(&self, at: u32) -> Option<Stretch> {
        if let Some(first) = self.first {
            if first.end == at {
                return Some(first);
            }
            if first.start > at {
                return None;
            }
        }
        let start = self.starts.last_before(at).filter(|before| self.free.contains(*before))?;
        Some(Stretch { start, end: at })
    }

    /// Gives back the area `area` in use, which becomes one with the free areas next to it.
    #[inline]
    pub fn give_back(&mut self, area: Stretch, before: Option<Stretch>, behind: Option<Stretch>) -> Stretch {
        let mut merged = area;
        if let Some(before) = before {
            self.remove_start(area.start);
            merged.start = before.start;
        } else {
            self.free.insert(area.start);
        }
        if let Some(behind) = behind {
            self.free.remove(behind.start);
            self.remove_start(behind.start);
            merged.end = behind.end;
        }
        match self.first {
            Some(first) if merged.start == first.start => self.first = Some(merged),
            Some(first) if merged.start < first.start => (self.first, self.first_index) = (Some(merged), None),
            _ => {}
        }
        self.raise_bound(merged);
        for known in &mut self.known {
            known.from = known.from.min(merged.start);
        }
        merged
    }

    #[inline]
    fn raise_bound(&mut self, free: Stretch) {
        let bound = &mut self.bounds[(free.start >> GROUP_SHIFT) as usize];
        *bound = (*bound).max(free.size());
    }

    /// Adds an area behind those that there are.
    pub fn push(&mut self, area: Stretch, in_use: bool) {
        self.add_start(area.start);
        if !in_use {
            self.free.insert(area.start);
            self.raise_bound(area);
        }
    }

    /// The first free area; none is before `from`.
    #[inline(always)]
    pub fn first_free(&mut self, from: u32) -> Option<Stretch> {
        if self.first.is_none() {
            (self.first, self.first_index) = (self.next_free(from), None);
        }
        self.first
    }

    /// The first free area at or behind a position.
    #[inline]
    pub fn next_free(&self, from: u32) -> Option<Stretch> {
        let start = self.free.next(from)?;
        Some(Stretch { start, end: self.end_of(start) })
    }

    #[inline]
    fn slot(size: u32, align: u32) -> usize {
        ((size / GRANULE) ^ align.trailing_zeros()) as usize % NR_KNOWN
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
        found
    }

    /// The first free area at or behind `from`, of `size` bytes or more, that `fits` accepts.
    #[inline]
    pub fn search(&mut self, from: u32, size: u32, mut fits: impl FnMut(Stretch) -> bool) -> Option<Stretch> {
        let mut at = from;
        loop {
            let group = (at >> GROUP_SHIFT) as usize;
            let group = group + self.bounds.get(group..)?.iter().position(|bound| *bound >= size)?;
            let begin = (group as u32) << GROUP_SHIFT;
            let behind = begin + (1 << GROUP_SHIFT);
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
            let behind = (group as u32 + 1) << GROUP_SHIFT;
            let (mut at, mut bound) = (behind - (1 << GROUP_SHIFT), 0);
            while let Some(found) = self.next_free(at).filter(|found| found.start < behind) {
                bound = bound.max(found.size());
                at = found.end;
            }
            self.bounds[group] = bound;
            largest = largest.max(bound);
        }
        largest
    }

    /// The starts in order, the end not among them.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.starts.next(at).filter(|start| *start < self.end)?;
            at = start + 1;
            Some(start)
        })
    }
}
