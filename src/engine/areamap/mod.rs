//! The area map, 2009 to 4.13: a sorted array of boundaries.
//!
//! # Design
//!
//! A chunk's offsets are cut into areas, used and free ones. The array holds the start of each
//! area in order, with bit 0 set if it is in use, and the end of the last one. Splitting an
//! area moves the rest of the array; here `areas` keeps the same as sets of positions, in which nothing
//! moves, and indices are counted where they are asked for.
//!
//! ```text
//! offsets   0       10     16      24                    256
//!           |#######|      |#######|                     |
//! map       0*      10     16*     24                    256*      (* = bit 0, in use)
//! map_used                                               4         (index of the end marker)
//! ```
//!
//! - Pieces of less than 4 bytes are not kept: what alignment leaves in front is glued to the
//!   area before (until that one is freed), what is left behind to the area itself.
//! - The array has a capacity. An ordinary request wants room for 64 entries and extends it; an
//!   atomic one needs 3, and queues the chunk for the worker when fewer than 32 are left.
//! - `contig_hint` rejects hopeless requests. Only a scan that reaches the end of the array
//!   lowers it.
//!
//! Requests, lists and the worker are those of [`Early`](super::early).
//!
//! # Units
//!
//! Bytes from the chunk's base; both boot chunks have the unit's base, the bytes before their
//! region are one area in use. The granule is 2 bytes, whatever the geometry says; there are no
//! blocks.
//!
//! # Invariants
//!
//! A1 to A11 of `docs/design.md`, checked by [`Engine::verify`](super::Engine::verify). Glued
//! bytes can lie on a page without memory, and the count of empty pages can drift by them, as in
//! the kernel.
//!
//! # Cost
//!
//! The model scans the array from the first free area and moves its rest for an allocation; a free does
//! a binary search and moves the rest. Here both are O(1) but for counting (`areas`), and a request
//! for a size that was not to be had lately goes on where the last one ended. 36 KiB for a unit of 256 KiB where areas start at
//! any even byte, 1 KiB where all offsets are multiples of 64. The array and the bitmaps of a [`ChunkView`] are made for each view, O(unit).
//!
//! # Source
//!
//! Specification 11, 31 section 5.1. Where an atomic request cuts the front of the very first
//! area, the kernel reads before the array; here the area before the first counts as in use
//! (11 section 3 step 2).

mod areas;
mod saved;
#[cfg(test)]
mod tests;
mod tree;
mod verify;

use std::borrow::Cow;
use std::fmt;

use super::early::{Area, Bounds, Early, PageMap, Room, Space, Task};
use super::saved::bulk::{Section, Writer};
use super::{BootRegion, ChunkView, Older, Setup};
use crate::bitmap;
use crate::chunk::Role;
use crate::cost::{Counter, Off, Part};
use crate::error::{ConfigError, StateError};
use crate::geometry::Geometry;
use crate::units::{Bytes, Pages};
use crate::variant::Generation;
use areas::{Areas, Stretch};

/// The granule: sizes and alignments are multiples of it, because bit 0 is a flag.
const GRANULE: u32 = 2;
/// Smallest piece that is kept as an area of its own.
const SMALLEST_KEPT: u32 = 4;
/// `PCPU_DFL_MAP_ALLOC`: entries of a new chunk.
const NEW_CAPACITY: u32 = 16;
/// `PERCPU_DYNAMIC_EARLY_SLOTS`: entries of a boot chunk.
const BOOT_CAPACITY: u32 = 128;
/// `PCPU_ATOMIC_MAP_MARGIN_LOW`: spare entries below which an atomic request queues the chunk.
const MARGIN_LOW: u32 = 32;
/// `PCPU_ATOMIC_MAP_MARGIN_HIGH`: spare entries that an ordinary request wants.
const MARGIN_HIGH: u32 = 64;
/// Spare entries that one allocation may need.
const MARGIN_ATOMIC: u32 = 3;
/// Bit 0 of an entry.
const IN_USE: u32 = 1;

/// The area-map allocator, as of 4.13.
pub type AreaMapEngine = Early<AreaMap>;

/// The areas of one chunk.
#[derive(Clone)]
pub struct AreaMap {
    areas: Areas,
    /// `map_alloc`: entries that the array has room for.
    capacity: u32,
    /// Where an area starts, or the end; every area below it is in use. Lower bound.
    first_free: u32,
    /// Bytes in free areas. Exact.
    free_size: u32,
    /// Bytes; no free area is larger. Upper bound, exact after a scan to the end.
    contig_hint: u32,
    /// `contig_hint` is known to be exact. Not part of the state.
    exact: bool,
    /// Area 0 is the hidden front of a boot chunk.
    has_reserved: bool,
    /// On the queue of chunks whose array the worker shall extend.
    queued: bool,
}

impl AreaMap {
    fn with_areas(map: &[u32], capacity: u32, free_size: u32, has_reserved: bool) -> Self {
        let starts: Vec<(u32, bool)> = map.iter().map(|entry| (entry & !IN_USE, entry & IN_USE != 0)).collect();
        Self {
            areas: Areas::of(&starts),
            capacity,
            first_free: 0,
            free_size,
            contig_hint: free_size,
            exact: false,
            has_reserved,
            queued: false,
        }
    }

    /// Number of areas.
    fn used(&self) -> u32 {
        self.areas.used()
    }

    /// The array: starts with their flag, and the end in use.
    fn entries(&self) -> Vec<u32> {
        let entry = |start: u32| start | if self.areas.is_free(start) { 0 } else { IN_USE };
        self.areas.iter().chain([self.areas.end()]).map(entry).collect()
    }

    /// Everything that is state, the array first.
    fn state(&self) -> (Vec<u32>, [u32; 4], [bool; 2]) {
        let first_free = self.areas.index(self.first_free);
        let numbers = [self.capacity, first_free, self.free_size, self.contig_hint];
        (self.entries(), numbers, [self.has_reserved, self.queued])
    }

    /// Area 0 of a boot chunk, which nobody has asked for.
    fn is_hidden(&self, start: u32) -> bool {
        start == 0 && self.has_reserved
    }

    /// The bytes to skip at the front of a free area so that an atomic request fits on populated pages.
    fn fit_populated<C: Counter>(
        g: &Geometry,
        pages: &PageMap,
        free: Stretch,
        task: &Task,
        costs: &mut C,
    ) -> Option<u32> {
        let page = g.page_size().0 as u32;
        let (off, this_size) = (free.start, free.size());
        let mut candidate = off;
        let mut looked_at = None;
        let head = loop {
            let head = candidate.next_multiple_of(task.align) - off;
            if this_size < head + task.size {
                break None;
            }
            let first = (off + head) / page;
            let end = (off + head + task.size).div_ceil(page);
            let limit = (off + this_size).div_ceil(page);
            let hole = bitmap::next_zero(pages.words(), limit, first);
            let (from, _) = looked_at.unwrap_or((first, 0));
            if hole >= end {
                looked_at = Some((from, (hole + 1).min(limit)));
                break Some(head);
            }
            let next = bitmap::next_set(pages.words(), limit, hole + 1);
            looked_at = Some((from, (next + 1).min(limit)));
            candidate = next * page;
        };
        if let Some((from, to)) = looked_at {
            costs.search(Part::Populated, from, to);
        }
        head
    }

    /// Pages that cease or begin to be empty with an area: those inside it, and those at its edges
    /// whose rest lies in a free neighbour.
    fn pages_of(g: &Geometry, area: Stretch, before: Option<Stretch>, behind: Option<Stretch>) -> u32 {
        let page = g.page_size().0;
        // A page is a power of two.
        let shift = page.trailing_zeros();
        let (start, end) = (u64::from(area.start), u64::from(area.end));
        let (down, up) = (start >> shift, (end + page - 1) >> shift);
        let from_down = before.is_some_and(|before| u64::from(before.start) <= down << shift);
        let to_up = behind.is_some_and(|behind| u64::from(behind.end) >= up << shift);
        let first = if from_down { down } else { (start + page - 1) >> shift };
        let last = if to_up { up } else { end >> shift };
        last.saturating_sub(first) as u32
    }
}

/// Equal states are equal, however they came about.
impl PartialEq for AreaMap {
    fn eq(&self, other: &Self) -> bool {
        self.state() == other.state()
    }
}

impl fmt::Debug for AreaMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (map, [capacity, first_free, free_size, contig_hint], [has_reserved, queued]) = self.state();
        f.debug_struct("AreaMap")
            .field("map", &map)
            .field("capacity", &capacity)
            .field("first_free", &first_free)
            .field("free_size", &free_size)
            .field("contig_hint", &contig_hint)
            .field("has_reserved", &has_reserved)
            .field("queued", &queued)
            .finish()
    }
}

impl Space for AreaMap {
    const GENERATION: Generation = Generation::AreaMap;
    const SLOT_INVARIANT: &'static str = "A10-slot";
    const COUNTS_PAGES: bool = false;
    const FREES_RAISE: bool = true;

    fn geometry(setup: &Setup) -> Result<Geometry, ConfigError> {
        let g = &setup.geometry;
        Geometry::new(g.page_size(), Bytes(u64::from(GRANULE)), g.page_size(), g.unit_size(), g.nr_units())
    }

    fn check_region(_: &Geometry, region: &BootRegion) -> Result<(), ConfigError> {
        for (name, bytes) in [("boot.start_offset", region.start_offset), ("boot.size", region.size)] {
            if bytes.0 % u64::from(GRANULE) != 0 {
                return Err(ConfigError::new(name, bytes.0, "must be even: bit 0 of an offset is a flag"));
            }
        }
        Ok(())
    }

    fn new(g: &Geometry) -> Self {
        let unit = g.unit_size().0 as u32;
        Self::with_areas(&[0, unit | IN_USE], NEW_CAPACITY, unit, false)
    }

    fn boot(_: &Geometry, region: &BootRegion) -> Self {
        let (start, size) = (region.start_offset.0 as u32, region.size.0 as u32);
        let end = (start + size) | IN_USE;
        if start == 0 {
            return Self::with_areas(&[0, end], BOOT_CAPACITY, size, false);
        }
        Self::with_areas(&[IN_USE, start, end], BOOT_CAPACITY, size, true)
    }

    fn boot_pages(g: &Geometry, _: &BootRegion) -> Pages {
        g.unit_pages()
    }

    fn free_bytes(&self, _: &Geometry) -> Bytes {
        Bytes(u64::from(self.free_size))
    }

    fn is_exhausted(&self) -> bool {
        self.free_size < SMALLEST_KEPT || self.contig_hint < SMALLEST_KEPT
    }

    fn may_fit(&self, _: &Geometry, size: u32) -> bool {
        size <= self.contig_hint
    }

    fn alloc<C: Counter>(&mut self, g: &Geometry, pages: &PageMap, task: &Task, costs: &mut C) -> Option<Area> {
        debug_assert!(self.used() + MARGIN_ATOMIC <= self.capacity, "no room for two more entries");
        let first = self.areas.first_free(self.first_free);
        let from = first.map_or(self.areas.end(), |first| first.start);
        let mut head = 0;
        let found = if task.atomic {
            self.areas.search(from, task.size, |found| {
                let fit = Self::fit_populated(g, pages, found, task, costs);
                head = fit.unwrap_or(0);
                fit.is_some()
            })
        } else {
            let found = first.and_then(|first| self.areas.first_fit(first, task.size, task.align));
            head = found.map_or(0, |found| found.start.wrapping_neg() & (task.align - 1));
            found
        };
        let Some(found) = found else {
            self.count_failure(costs);
            if !self.exact {
                (self.contig_hint, self.exact) = (self.areas.largest(), true);
            }
            if first.is_some() {
                self.first_free = from;
            }
            return None;
        };
        Some(self.take(g, found, head, task.size, from, costs))
    }

    fn alloc_run<C: Counter>(&mut self, g: &Geometry, off: u32, task: &Task, bounds: &Bounds, costs: &mut C) -> u32 {
        let Some(first) = self.areas.known_first() else { return 0 };
        let (size, page) = (task.size, g.page_size().0 as u32);
        if first.start != off || self.first_free != first.start || (size | off) & (task.align - 1) != 0 {
            return 0;
        }
        // Each leaves something behind itself, up to the end of its last page, and wants the margin of entries.
        let end = (first.end / page * page).min(bounds.end);
        let count = [
            bounds.most,
            end.saturating_sub(off) / size,
            first.size().saturating_sub(SMALLEST_KEPT) / size,
            self.free_size.saturating_sub(bounds.keep_free) / size,
            (self.capacity + 1).saturating_sub(self.used() + MARGIN_HIGH),
        ];
        let count = count.into_iter().min().unwrap_or(0);
        if count == 0 {
            return 0;
        }
        if C::ON {
            let moved = u64::from(self.used() - self.areas.find_index(first.start));
            costs.count(|costs| {
                costs.entries_scanned += u64::from(count);
                costs.entries_moved += moved * u64::from(count);
            });
        }
        self.exact &= first.size() < self.contig_hint;
        self.areas.take_run(first, size, count);
        self.free_size -= size * count;
        self.first_free = first.start + size * count;
        count
    }

    fn has_place(&self, g: &Geometry, pages: &PageMap, task: &Task) -> bool {
        let mut at = 0;
        while let Some(free) = self.areas.next_free(at) {
            let fits = if task.atomic {
                Self::fit_populated(g, pages, free, task, &mut Off).is_some()
            } else {
                free.fits(task.size, task.align)
            };
            if fits {
                return true;
            }
            at = free.end;
        }
        false
    }

    fn is_area_start(&self, _: &Geometry, off: u64) -> bool {
        u32::try_from(off).is_ok_and(|off| self.areas.is_used_start(off) && !self.is_hidden(off))
    }

    #[inline(always)]
    fn free<C: Counter>(&mut self, g: &Geometry, _: &PageMap, off: u32, costs: &mut C) -> Area {
        let area = Stretch { start: off, end: self.areas.end_of(off) };
        self.first_free = self.first_free.min(off);
        let behind =
            self.areas.is_free(area.end).then(|| Stretch { start: area.end, end: self.areas.end_of(area.end) });
        let before = self.areas.free_before(off);
        if C::ON {
            self.count_free(off, before.is_some(), behind.is_some(), costs);
        }
        self.free_size += area.size();
        let merged = self.areas.give_back(area, before, behind).size();
        if merged >= self.contig_hint {
            (self.contig_hint, self.exact) = (merged, true);
        }
        Area { off, size: area.size(), pages: Self::pages_of(g, area, before, behind) }
    }

    fn area_at(&self, _: &Geometry, off: u64) -> Option<(Bytes, Bytes)> {
        let off = u32::try_from(off).ok().filter(|off| *off < self.areas.end())?;
        let start = self.areas.before(off + 1)?;
        let live = !self.areas.is_free(start) && !self.is_hidden(start);
        live.then(|| (Bytes(u64::from(start)), Bytes(u64::from(self.areas.end_of(start) - start))))
    }

    fn boot_empty_pages(&self, g: &Geometry) -> i32 {
        let end = self.areas.end();
        let start = self.areas.before(end).unwrap_or(0);
        Self::pages_of(g, Stretch { start, end }, None, None) as i32
    }

    fn room(&self, atomic: bool) -> Room {
        let margin = if atomic { MARGIN_ATOMIC } else { MARGIN_HIGH };
        let needed = self.used() + margin;
        let grow_to = (self.capacity < needed).then(|| {
            let mut capacity = NEW_CAPACITY;
            while capacity < needed {
                capacity *= 2;
            }
            capacity
        });
        Room { queue: atomic && self.capacity < self.used() + MARGIN_LOW && !self.queued, grow_to }
    }

    fn grow<C: Counter>(&mut self, capacity: u32, costs: &mut C) {
        if capacity > self.capacity {
            self.capacity = capacity;
            let entries = self.used() + 1;
            costs.count(|costs| costs.entries_moved += u64::from(entries));
            costs.touch(Part::AreaMap, 0, entries);
        }
    }

    fn set_queued(&mut self, queued: bool) {
        self.queued = queued;
    }

    fn queued(&self) -> bool {
        self.queued
    }

    /// The reserved chunk owns the unit up to its end, the first chunk the rest (33 section 3).
    fn owns(&self, g: &Geometry, role: Role, off: u64) -> bool {
        let end = u64::from(self.areas.end());
        off < if role == Role::Reserved { end } else { g.unit_size().0 }
    }

    fn show<'a>(&'a self, g: &Geometry, view: &mut ChunkView<'a>) {
        let bits = (g.unit_size().0 / u64::from(GRANULE)) as u32;
        let mut used = vec![0; bitmap::words_for(bits)];
        let mut bounds = vec![0; bitmap::words_for(bits + 1)];
        for start in self.areas.iter().filter(|start| !self.areas.is_free(*start)) {
            let (start, end) = (start / GRANULE, self.areas.end_of(start) / GRANULE);
            bitmap::set_range(&mut used, start, end);
            bitmap::set(&mut bounds, start);
            bitmap::set(&mut bounds, end);
        }
        bitmap::set_range(&mut used, self.areas.end() / GRANULE, bits);
        view.alloc_map = Cow::Owned(used);
        view.bound_map = Some(Cow::Owned(bounds));
        view.area_map = Some(Cow::Owned(self.entries()));
        view.older = Some(Older::AreaMap {
            contig_hint: Bytes(u64::from(self.contig_hint)),
            first_free: self.areas.index(self.first_free),
            map_alloc: self.capacity,
            has_reserved: self.has_reserved,
        });
    }

    fn save(&self, out: &mut Writer) {
        self.to_saved(out);
    }

    fn load(g: &Geometry, saved: &mut Section<'_>, pages: Pages) -> Result<Self, StateError> {
        Self::from_saved(g, saved, pages)
    }

    fn verify(&self, g: &Geometry, entry: &super::early::Entry<Self>) -> Result<(), crate::error::Violation> {
        self.verify_areas(g, entry)
    }
}

impl AreaMap {
    /// Takes `size` bytes of the free area `found`, `head` bytes behind its start. `first` is where the first free
    /// area starts.
    #[inline]
    fn take<C: Counter>(
        &mut self,
        g: &Geometry,
        found: Stretch,
        head: u32,
        size: u32,
        first: u32,
        costs: &mut C,
    ) -> Area {
        // Kernel: a small head belongs to the area before until that one is freed, a small tail to this one.
        let keep_head = head > 0 && (head >= SMALLEST_KEPT || found.start == 0);
        let place = found.start + head;
        let mut area = Stretch { start: place, end: place + size };
        if found.end - area.end < SMALLEST_KEPT {
            area.end = found.end;
        }
        let behind = (area.end < found.end).then_some(Stretch { start: area.end, end: found.end });
        if C::ON {
            self.count_take(found.start, keep_head, behind.is_some(), costs);
        }
        self.free_size -= area.size() + if keep_head { 0 } else { head };
        self.areas.take(found, area.start, area.end, keep_head);
        self.first_free = match (found.start == first, keep_head) {
            (true, false) => area.end,
            _ => first,
        };
        let was_largest = found.size() >= self.contig_hint;
        if area.end < self.areas.end() {
            self.exact &= !was_largest;
        } else {
            // Everything was scanned.
            costs.count(|costs| costs.chunk_refreshes += 1);
            if was_largest || !self.exact {
                (self.contig_hint, self.exact) = (self.areas.largest(), true);
            }
        }
        let before = keep_head.then_some(Stretch { start: found.start, end: area.start });
        Area { off: area.start, size: area.size(), pages: Self::pages_of(g, area, before, behind) }
    }

    /// Counts the scan to the free area at `start`, and the split of it.
    #[inline]
    fn count_take<C: Counter>(&mut self, start: u32, keep_head: bool, keep_tail: bool, costs: &mut C) {
        let index = self.areas.find_index(start);
        let first = if start == self.first_free { index } else { self.areas.find_index(self.first_free) };
        let more = u32::from(keep_head) + u32::from(keep_tail);
        let moved = if more > 0 { self.used() - index } else { 0 };
        costs.count(|costs| {
            costs.entries_scanned += u64::from(index - first + 1);
            costs.entries_moved += u64::from(moved);
        });
        costs.touch(Part::AreaMap, first, index + 2);
        let used = self.used() + more;
        if more > 0 {
            costs.touch(Part::AreaMap, index, used + 1);
        }
        Self::touch_neighbours(index + u32::from(keep_head), used, costs);
    }

    /// Counts a scan to the end that finds nothing.
    fn count_failure<C: Counter>(&mut self, costs: &mut C) {
        if C::ON {
            let first = self.areas.find_index(self.first_free);
            costs.count(|costs| {
                costs.entries_scanned += u64::from(self.used() - first);
                costs.chunk_refreshes += 1;
            });
            costs.touch(Part::AreaMap, first, self.used() + 1);
        }
    }

    /// Counts the binary search for the area at `start`, and its merges.
    #[inline]
    fn count_free<C: Counter>(&mut self, start: u32, before: bool, behind: bool, costs: &mut C) {
        if !before && !behind && !C::FULL {
            return;
        }
        let index = self.areas.find_index(start);
        let used = self.used();
        if before || behind {
            costs.count(|costs| costs.entries_moved += u64::from(used - index - u32::from(behind)));
            costs.touch(Part::AreaMap, index - u32::from(before), used + 1);
        }
        Self::touch_neighbours(index, used, costs);
        if C::FULL {
            let (mut low, mut high) = (0, used);
            loop {
                let middle = (low + high) / 2;
                costs.touch(Part::AreaMap, middle, middle + 1);
                match middle.cmp(&index) {
                    std::cmp::Ordering::Equal => break,
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Greater => high = middle,
                }
            }
        }
    }

    /// The entries that merges and the count of pages look at.
    #[inline]
    fn touch_neighbours<C: Counter>(index: u32, used: u32, costs: &mut C) {
        costs.touch(Part::AreaMap, index.saturating_sub(1), (index + 2).min(used) + 1);
    }
}
