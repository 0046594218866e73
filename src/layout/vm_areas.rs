//! Areas of vmalloc space with the spacing of the first chunk.
//!
//! # Design
//!
//! A chunk needs one area for each group, all at fixed offsets from one base. [`VmallocSpace`] holds what is taken
//! and finds the base; an [`AreaSet`] is what is asked for.
//!
//! ```text
//!            start                                                     end
//! space      |   [lazy]       [busy]             [busy]          [busy] |      free blocks lie between
//! areas             [ group 1 ]       [ group 0 ]
//!                   ^ base
//! ```
//!
//! The base is the largest multiple of the alignment at which every area fits. Two generations compute that by
//! different walks ([`Search`]); [`Search::Declarative`] jumps from obstacle to obstacle and needs no other state.
//! The older walk starts at a hint, so after frees it may miss room that the others see.
//!
//! What is given back is *lazy*: still in the way until a purge, which happens when a search finds nothing, or past
//! [`VmallocSpace::lazy_threshold`]. A call purges at most once and searches at most twice.
//!
//! # Units
//!
//! Bytes; addresses are `u64`, ranges `start..end` without their end. The threshold is in pages.
//!
//! # Invariants
//!
//! [`VmallocSpace::verify`] checks: W1 *disjoint*: busy ranges never overlap. W2 *complement*: free blocks are
//! exactly what is not busy in `1..2^64 - 1`, and never touch each other. W3 *lazy*: every lazy range is busy, and
//! their bytes are counted.
//!
//! # Cost
//!
//! A change is logarithmic in the number of busy ranges. A search makes at most (areas) x (ranges + 1) tests, each
//! logarithmic; on a space that only chunks use it is one or two. Memory is linear in live areas and obstacles;
//! with [`Search::BusyAreas`] in lazy areas too.
//!
//! # Source
//!
//! Specification 32. Groups without bytes, which no chunk has, are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::error::{ensure_invariant, ConfigError, Violation};
use crate::layout::request::{VMALLOC_START, VMALLOC_TOTAL};

mod search;

/// How the base is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Search {
    /// 2.6.32 to 5.1: along the busy areas, from the highest area of the last call downwards.
    BusyAreas,
    /// 5.2 and later: along the free blocks, from the top.
    #[default]
    FreeBlocks,
    /// The rule that both follow on fresh space, without their walks.
    Declarative,
}

impl Search {
    /// The walk of a kernel release.
    pub fn of_release(release: (u32, u32, u32)) -> Self {
        if release < (5, 2, 0) {
            Search::BusyAreas
        } else {
            Search::FreeBlocks
        }
    }

    /// The name in snapshots.
    pub const fn name(self) -> &'static str {
        match self {
            Search::BusyAreas => "busy_areas",
            Search::FreeBlocks => "free_blocks",
            Search::Declarative => "declarative",
        }
    }

    /// The walk of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Search::BusyAreas, Search::FreeBlocks, Search::Declarative].into_iter().find(|search| search.name() == name)
    }
}

/// What a chunk asks for: one area for each group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaSet {
    offsets: Vec<u64>,
    sizes: Vec<u64>,
    align: u64,
    /// Index of the greatest offset.
    last: usize,
    /// Where that area ends, from the base.
    last_end: u64,
}

impl AreaSet {
    /// Areas of `sizes` at `offsets` from a base that is a multiple of `align`.
    pub fn new(offsets: &[u64], sizes: &[u64], align: u64, page_size: u64) -> Result<Self, ConfigError> {
        let bad = |name, given: String, limit: String| Err(ConfigError::new(name, given, limit));
        if !align.is_power_of_two() || page_size == 0 || align % page_size != 0 {
            let limit = format!("must be a power of two and a multiple of the page size {page_size}");
            return bad("align", align.to_string(), limit);
        }
        if offsets.is_empty() || offsets.len() != sizes.len() {
            let limit = format!("must be at least one, with as many sizes ({})", sizes.len());
            return bad("offsets", format!("{} offsets", offsets.len()), limit);
        }
        for (name, values) in [("offsets", offsets), ("sizes", sizes)] {
            if let Some(value) = values.iter().find(|&&value| value % align != 0) {
                return bad(name, value.to_string(), format!("must be a multiple of the alignment {align}"));
            }
        }
        let mut sorted: Vec<usize> = (0..offsets.len()).collect();
        sorted.sort_by_key(|&index| offsets[index]);
        let mut end_before = 0;
        for &index in &sorted {
            let (offset, size) = (offsets[index], sizes[index]);
            if size == 0 {
                return bad("sizes", "0".to_string(), "must be at least the alignment".to_string());
            }
            let Some(end) = offset.checked_add(size).filter(|_| offset >= end_before) else {
                let limit = format!("{size} bytes must neither overlap another area nor wrap around");
                return bad("offsets", offset.to_string(), limit);
            };
            end_before = end;
        }
        let last = sorted[sorted.len() - 1];
        Ok(Self { offsets: offsets.to_vec(), sizes: sizes.to_vec(), align, last, last_end: end_before })
    }

    /// Offsets from the base, by index.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Bytes, by index.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Alignment of the base.
    pub fn align(&self) -> u64 {
        self.align
    }

    /// From the base to the end of the highest area.
    pub fn span(&self) -> u64 {
        self.last_end
    }

    /// The areas at `base`, by index; `None` if they leave the address space.
    pub fn ranges(&self, base: u64) -> Option<Vec<Range<u64>>> {
        base.checked_add(self.last_end)?;
        let ranges = self.offsets.iter().zip(&self.sizes).map(|(offset, size)| base + offset..base + offset + size);
        Some(ranges.collect())
    }
}

/// What can be made to fail, for tests of the paths behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No memory for the objects that describe the areas: the call fails before it searches.
    Objects,
    /// No memory to split the free block of this area, as if it had to be split: what was taken is returned, then
    /// as when nothing is found. Free blocks only.
    Split(usize),
    /// No shadow memory for this area: what was taken is returned and the call fails at once (5.5 and later). Free
    /// blocks only.
    Shadow(usize),
}

/// Where the areas of a call lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The base.
    pub base: u64,
    /// Areas that were tested, over both searches.
    pub tests: u64,
    /// A purge was needed.
    pub purged: bool,
}

/// Why a call got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The areas are too far apart for the space, whatever is in it; the kernel warns.
    TooFarApart,
    /// They fit nowhere, even after a purge.
    NoRoom,
    /// An injected fault.
    Fault,
}

/// Address space for mapped memory, and what is taken of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmallocSpace {
    search: Search,
    start: u64,
    end: u64,
    page_size: u64,
    /// What is given back stays busy until a purge.
    pub lazy_free: bool,
    /// Purge when more pages than this are lazy; `None` = only when a search finds nothing.
    pub lazy_threshold: Option<u64>,
    /// Start to end of what is taken, lazy ranges included.
    busy: BTreeMap<u64, u64>,
    /// Starts of lazy ranges.
    lazy: BTreeSet<u64>,
    lazy_bytes: u64,
    /// Start to end of what is not taken, over the whole address space.
    free: BTreeMap<u64, u64>,
    /// Where the walk along busy areas starts.
    hint: u64,
    /// Fails this many more calls.
    fault: Option<(Fault, u32)>,
}

/// The lowest and the highest address that a free block may have.
const EVERYTHING: Range<u64> = 1..u64::MAX;

impl VmallocSpace {
    /// An empty space between `VMALLOC_START` and `VMALLOC_END`. Areas end at or below `end` rounded *down*: on
    /// x86-64, whose `VMALLOC_END` is the last byte, the topmost atom is never used.
    pub fn new(search: Search, start: u64, end: u64, page_size: u64) -> Result<Self, ConfigError> {
        if start == 0 || end <= start {
            let limit = "must not be 0 and lie below vmalloc_end";
            return Err(ConfigError::new("vmalloc_start", format!("{start:#x}"), limit));
        }
        if !page_size.is_power_of_two() {
            return Err(ConfigError::new("page_size", page_size, "must be a power of two"));
        }
        Ok(Self {
            search,
            start,
            end,
            page_size,
            lazy_free: true,
            lazy_threshold: None,
            busy: BTreeMap::new(),
            lazy: BTreeSet::new(),
            lazy_bytes: 0,
            free: BTreeMap::from([(EVERYTHING.start, EVERYTHING.end)]),
            hint: end,
            fault: None,
        })
    }

    /// The empty space of x86-64: 4-level page tables, no randomisation, 4 KiB pages.
    pub fn x86_64(search: Search) -> Self {
        let end = VMALLOC_START + (VMALLOC_TOTAL - 1);
        let space = Self::new(search, VMALLOC_START, end, 4096);
        space.expect("the constants are in order")
    }

    /// How the base is looked for.
    pub fn search(&self) -> Search {
        self.search
    }

    /// `VMALLOC_START` and `VMALLOC_END`.
    pub fn bounds(&self) -> (u64, u64) {
        (self.start, self.end)
    }

    /// Page, bytes.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Where the walk along busy areas starts (`vmap_area_pcpu_hole`).
    pub fn hint(&self) -> u64 {
        self.hint
    }

    /// What is taken, upwards; the flag says lazy.
    pub fn busy(&self) -> impl Iterator<Item = (Range<u64>, bool)> + '_ {
        self.busy.iter().map(|(&start, &end)| (start..end, self.lazy.contains(&start)))
    }

    /// Free blocks of the whole address space, upwards.
    pub fn free_blocks(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.free.iter().map(|(&start, &end)| start..end)
    }

    /// Pages that the next purge would free, parts of pages included.
    pub fn lazy_pages(&self) -> u64 {
        self.lazy_bytes.div_ceil(self.page_size)
    }

    /// Whether a range was taken as such and is not lazy.
    pub fn is_live(&self, range: &Range<u64>) -> bool {
        self.busy.get(&range.start) == Some(&range.end) && !self.lazy.contains(&range.start)
    }

    /// The fault that is set, and how many more calls it fails.
    pub fn fault(&self) -> Option<(Fault, u32)> {
        self.fault
    }

    /// Lets the next `calls` attempts that reach `fault` fail; an attempt after a purge counts too.
    pub fn inject(&mut self, fault: Fault, calls: u32) -> Result<(), ConfigError> {
        if self.search == Search::BusyAreas && fault != Fault::Objects {
            return Err(ConfigError::new("fault", format!("{fault:?}"), "cannot happen before 5.2"));
        }
        self.fault = (calls > 0).then_some((fault, calls));
        Ok(())
    }

    /// Takes a range for something else: an obstacle.
    pub fn occupy(&mut self, range: Range<u64>) -> Result<(), ConfigError> {
        let error = |limit: &str| ConfigError::new("range", format!("{:#x}..{:#x}", range.start, range.end), limit);
        if range.is_empty() || range.start < EVERYTHING.start {
            return Err(error("must be a range of addresses from 1 to 2^64 - 2"));
        }
        if self.highest_overlap(&range).is_some() {
            return Err(error("must not overlap what is taken"));
        }
        self.take(range);
        Ok(())
    }

    /// Takes the areas of `set` at a given base: all or none.
    pub fn occupy_set(&mut self, set: &AreaSet, base: u64) -> Result<(), ConfigError> {
        let error = |limit: &str| ConfigError::new("base_addr", format!("{base:#x}"), limit);
        let ranges = set.ranges(base).filter(|_| base >= EVERYTHING.start);
        let ranges = ranges.ok_or_else(|| error("must leave all areas in the address space"))?;
        if ranges.iter().any(|range| self.highest_overlap(range).is_some()) {
            return Err(error("areas must not overlap what is taken"));
        }
        ranges.into_iter().for_each(|range| self.take(range));
        Ok(())
    }

    /// The base that a search would find now, without a purge; nothing changes.
    pub fn find_base(&self, set: &AreaSet) -> Option<u64> {
        search::find(self, set, &mut 0)
    }

    /// Takes the areas of `set` where the search puts them (`pcpu_get_vm_areas`).
    pub fn alloc(&mut self, set: &AreaSet) -> Result<Placed, Refusal> {
        let (vs, ve) = search::bounds(self, set.align);
        if ve - vs < i128::from(set.last_end) {
            return Err(Refusal::TooFarApart);
        }
        if self.faulty(|fault| fault == Fault::Objects) {
            return Err(Refusal::Fault);
        }
        let mut tests = 0;
        for purged in [false, true] {
            if purged {
                self.purge();
            }
            let found = search::find(self, set, &mut tests);
            let Some((base, ranges)) = found.and_then(|base| Some((base, set.ranges(base)?))) else { continue };
            // Kernel: a failed split goes on as when nothing is found, missing shadow memory does not.
            if self.faulty(|fault| matches!(fault, Fault::Split(area) if area < ranges.len())) {
                continue;
            }
            if self.faulty(|fault| matches!(fault, Fault::Shadow(area) if area < ranges.len())) {
                return Err(Refusal::Fault);
            }
            self.hint = ranges[set.last].start;
            ranges.into_iter().for_each(|range| self.take(range));
            return Ok(Placed { base, tests, purged });
        }
        Err(Refusal::NoRoom)
    }

    /// Gives the areas of `set` at `base` back, in order: all or none.
    pub fn release(&mut self, set: &AreaSet, base: u64) -> Result<(), ConfigError> {
        let ranges = set.ranges(base).filter(|ranges| ranges.iter().all(|range| self.is_live(range)));
        let ranges = ranges.ok_or_else(|| ConfigError::new("base_addr", format!("{base:#x}"), "has no such areas"))?;
        ranges.into_iter().for_each(|range| self.give_back(range));
        Ok(())
    }

    /// Gives the range that starts at `start` back.
    pub fn release_range(&mut self, start: u64) -> Result<(), ConfigError> {
        let range = self.busy.get(&start).map(|&end| start..end).filter(|range| self.is_live(range));
        let range = range.ok_or_else(|| ConfigError::new("start", format!("{start:#x}"), "starts nothing taken"))?;
        self.give_back(range);
        Ok(())
    }

    /// Frees what is lazy; the number of ranges.
    pub fn purge(&mut self) -> usize {
        let lazy = std::mem::take(&mut self.lazy);
        self.lazy_bytes = 0;
        for &start in &lazy {
            let end = self.busy[&start];
            self.set_free(start..end);
        }
        lazy.len()
    }

    /// Rescans everything: W1 to W3.
    pub fn verify(&self) -> Result<(), Violation> {
        let mut at = EVERYTHING.start;
        let mut free = Vec::new();
        for (&start, &end) in &self.busy {
            ensure_invariant!(start >= at && start < end, "W1 disjoint", "{start:#x}..{end:#x} behind {at:#x}");
            if start > at {
                free.push((at, start));
            }
            at = end;
        }
        if at < EVERYTHING.end {
            free.push((at, EVERYTHING.end));
        }
        let kept: Vec<(u64, u64)> = self.free.iter().map(|(&start, &end)| (start, end)).collect();
        ensure_invariant!(kept == free, "W2 complement", "{kept:x?}, but {free:x?} is free");
        let lazy: Option<Vec<u64>> = self.lazy.iter().map(|start| Some(self.busy.get(start)? - start)).collect();
        let bytes = lazy.map(|sizes| sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size)));
        ensure_invariant!(bytes == Some(self.lazy_bytes), "W3 lazy", "{bytes:?} bytes, counted {}", self.lazy_bytes);
        Ok(())
    }

    /// Marks the taken ranges that start at `lazy` as lazy and sets the hint: for spaces stored elsewhere.
    pub fn restore(&mut self, lazy: &[u64], hint: u64) -> Result<(), ConfigError> {
        for &start in lazy {
            let end = self.busy.get(&start).filter(|_| !self.lazy.contains(&start));
            let end = *end.ok_or_else(|| ConfigError::new("lazy", format!("{start:#x}"), "starts nothing taken"))?;
            self.lazy.insert(start);
            self.lazy_bytes = self.lazy_bytes.saturating_add(end - start);
        }
        self.hint = hint;
        Ok(())
    }

    fn faulty(&mut self, reached: impl Fn(Fault) -> bool) -> bool {
        match &mut self.fault {
            Some((fault, calls)) if reached(*fault) => {
                *calls -= 1;
                if *calls == 0 {
                    self.fault = None;
                }
                true
            }
            _ => false,
        }
    }

    fn give_back(&mut self, range: Range<u64>) {
        if !self.lazy_free {
            return self.set_free(range);
        }
        self.lazy_bytes = self.lazy_bytes.saturating_add(range.end - range.start);
        self.lazy.insert(range.start);
        if self.search != Search::BusyAreas {
            self.join_lazy(range);
        }
        if self.lazy_threshold.is_some_and(|pages| self.lazy_pages() > pages) {
            self.purge();
        }
    }

    /// Joins a lazy range with lazy neighbours, so that a long life of chunks that come and go takes no memory. Only
    /// the walk along busy areas could tell the difference.
    fn join_lazy(&mut self, range: Range<u64>) {
        let mut start = range.start;
        if let Some((&before, end)) = self.busy.range_mut(..range.start).next_back() {
            if *end == range.start && self.lazy.contains(&before) {
                *end = range.end;
                self.busy.remove(&range.start);
                self.lazy.remove(&range.start);
                start = before;
            }
        }
        if self.lazy.remove(&range.end) {
            if let Some(end) = self.busy.remove(&range.end) {
                self.busy.insert(start, end);
            }
        }
    }

    /// Moves a free range to the busy ones.
    fn take(&mut self, range: Range<u64>) {
        let block = self.free.range(..=range.start).next_back().map(|(&start, &end)| (start, end));
        let (start, end) = block.expect("the range was found free");
        debug_assert!(range.end <= end);
        if start < range.start {
            self.free.insert(start, range.start);
        } else {
            self.free.remove(&start);
        }
        if range.end < end {
            self.free.insert(range.end, end);
        }
        self.busy.insert(range.start, range.end);
    }

    /// Moves a busy range to the free ones.
    fn set_free(&mut self, range: Range<u64>) {
        self.busy.remove(&range.start);
        // Kernel: only ranges that end within the space raise the hint.
        if range.end > self.start && range.end <= self.end {
            self.hint = self.hint.max(range.end);
        }
        let end = self.free.remove(&range.end).unwrap_or(range.end);
        match self.free.range_mut(..range.start).next_back() {
            Some((_, before)) if *before == range.start => *before = end,
            _ => {
                self.free.insert(range.start, end);
            }
        }
    }

    /// The highest busy range that overlaps `range`.
    fn highest_overlap(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let (&start, &end) = self.busy.range(..range.end).next_back()?;
        (end > range.start).then_some(start..end)
    }
}

#[cfg(test)]
mod tests;
