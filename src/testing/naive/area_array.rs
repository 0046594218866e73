//! The area map as the kernel kept it: an array whose rest moves.
//!
//! # Design
//!
//! What [`crate::engine::areamap`] is compared with. Specification 11 as it reads, entry by entry; work is counted where it is
//! done, an entry at a time. Lists, requests and the worker are those of [`Early`].
//!
//! # Units
//!
//! Bytes from the chunk's base; indices of the array.
//!
//! # Source
//!
//! Specification 11.

use std::borrow::Cow;

use crate::bitmap;
use crate::chunk::Role;
use crate::cost::{Counter, Off, Part};
use crate::engine::early::{Area, Early, Entry, PageMap, Room, Space, Task};
use crate::engine::saved::bulk::{Section, Writer};
use crate::engine::{BootRegion, ChunkView, Older, Setup};
use crate::error::{ConfigError, StateError, Violation};
use crate::geometry::Geometry;
use crate::units::{round_down, round_up, Bytes, Pages};
use crate::variant::Generation;

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

/// The area-map allocator, slowly.
pub type ArrayEngine = Early<AreaArray>;

/// The areas of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AreaArray {
    /// Start of each area in bytes, ascending, bit 0 = in use; the last entry is the end, in use.
    map: Vec<u32>,
    /// `map_alloc`: entries that the array has room for.
    capacity: u32,
    /// Index; every area below it is in use. Lower bound.
    first_free: u32,
    /// Bytes in free areas. Exact.
    free_size: u32,
    /// Bytes; no free area is larger. Upper bound, exact after a scan to the end.
    contig_hint: u32,
    /// Area 0 is the hidden front of a boot chunk.
    has_reserved: bool,
    /// On the queue of chunks whose array the worker shall extend.
    queued: bool,
}

impl AreaArray {
    fn with_areas(map: &[u32], capacity: u32, free_size: u32, has_reserved: bool) -> Self {
        let mut entries = Vec::with_capacity(capacity as usize);
        entries.extend_from_slice(map);
        Self { map: entries, capacity, first_free: 0, free_size, contig_hint: free_size, has_reserved, queued: false }
    }

    /// Number of areas.
    fn used(&self) -> u32 {
        self.map.len() as u32 - 1
    }

    /// Start of area `i`, or the end of the last one.
    fn off(&self, i: usize) -> u32 {
        self.map[i] & !IN_USE
    }

    fn size(&self, i: usize) -> u32 {
        self.off(i + 1) - self.off(i)
    }

    fn in_use(&self, i: usize) -> bool {
        self.map[i] & IN_USE != 0
    }

    /// The index of the area that starts at `off`, and the indices looked at on the way.
    fn index_of(&self, off: u32) -> (Option<usize>, Vec<usize>) {
        let (mut low, mut high) = (0, self.used() as usize);
        let mut probes = Vec::new();
        while low < high {
            let middle = (low + high) / 2;
            probes.push(middle);
            if self.off(middle) == off {
                return (Some(middle), probes);
            }
            if self.off(middle) < off {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (None, probes)
    }

    fn touch<C: Counter>(&self, from: usize, to: usize, costs: &mut C) {
        (from..to).for_each(|entry| costs.touch(Part::AreaMap, entry as u32, entry as u32 + 1));
    }

    fn touch_neighbours<C: Counter>(&self, i: usize, costs: &mut C) {
        for entry in [i as i64 - 1, i as i64, i as i64 + 1, i as i64 + 2] {
            if (0..self.map.len() as i64).contains(&entry) {
                self.touch(entry as usize, entry as usize + 1, costs);
            }
        }
    }

    /// The bytes to skip at the front of a free area `[off, off + this_size)` so that `size` bytes
    /// at `align` fit, with `pop_only` on populated pages; `None` if they do not.
    fn fit<C: Counter>(
        g: &Geometry,
        pages: &PageMap,
        (off, this_size): (u32, u32),
        task: &Task,
        costs: &mut C,
    ) -> Option<u32> {
        let page = g.page_size().0 as u32;
        let Task { size, align, atomic } = *task;
        let mut candidate = off;
        let mut looked = std::collections::BTreeSet::new();
        let found = loop {
            let head = candidate.next_multiple_of(align) - off;
            if this_size < head + size {
                break None;
            }
            if !atomic {
                break Some(head);
            }
            let first = (off + head) / page;
            let end = (off + head + size).div_ceil(page);
            let limit = (off + this_size).div_ceil(page);
            let populated = |page: u32| bitmap::test(pages.words(), page);
            let mut hole = first;
            while hole < limit && populated(hole) {
                looked.insert(hole);
                hole += 1;
            }
            if hole < limit {
                looked.insert(hole);
            }
            if hole >= end {
                break Some(head);
            }
            let mut next = hole + 1;
            while next < limit && !populated(next) {
                looked.insert(next);
                next += 1;
            }
            if next < limit {
                looked.insert(next);
            }
            candidate = next * page;
        };
        if let (Some(from), Some(to)) = (looked.first(), looked.last()) {
            costs.search(Part::Populated, *from, to + 1);
        }
        found
    }

    /// Pages that cease or begin to be empty with area `i`: those inside it, and those at its
    /// edges whose rest lies in a free neighbour. The state of area `i` itself does not matter.
    fn pages_of(&self, g: &Geometry, i: usize) -> u32 {
        let page = g.page_size().0;
        let (mut start, mut end) = (u64::from(self.off(i)), u64::from(self.off(i + 1)));
        let (down, up) = (round_down(start, page), round_up(end, page));
        if start != down && i > 0 && !self.in_use(i - 1) && u64::from(self.off(i - 1)) <= down {
            start = down;
        }
        if end != up && i + 1 < self.used() as usize && !self.in_use(i + 1) && u64::from(self.off(i + 2)) >= up {
            end = up;
        }
        (end / page).saturating_sub(start.div_ceil(page)) as u32
    }
}

impl Space for AreaArray {
    const GENERATION: Generation = Generation::AreaMap;
    const SLOT_INVARIANT: &'static str = "A10-slot";
    const COUNTS_PAGES: bool = false;
    const FREES_RAISE: bool = false;

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
        assert!(self.used() + MARGIN_ATOMIC <= self.capacity, "no room for two more entries");
        let mut largest = 0;
        let mut first_seen = None;
        for i in self.first_free as usize..self.used() as usize {
            costs.count(|costs| costs.entries_scanned += 1);
            self.touch(i, i + 2, costs);
            if self.in_use(i) {
                continue;
            }
            let found = (self.off(i), self.size(i));
            match Self::fit(g, pages, found, task, costs) {
                Some(head) => return Some(self.take(g, i, head, task.size, largest, first_seen, costs)),
                None => {
                    first_seen.get_or_insert(i as u32);
                    largest = largest.max(found.1);
                }
            }
        }
        self.touch(self.used() as usize, self.used() as usize + 1, costs);
        costs.count(|costs| costs.chunk_refreshes += 1);
        self.contig_hint = largest;
        if let Some(first) = first_seen {
            self.first_free = first;
        }
        None
    }

    fn has_place(&self, g: &Geometry, pages: &PageMap, task: &Task) -> bool {
        let free = (0..self.used() as usize).filter(|i| !self.in_use(*i));
        free.map(|i| (self.off(i), self.size(i))).any(|area| Self::fit(g, pages, area, task, &mut Off).is_some())
    }

    fn is_area_start(&self, _: &Geometry, off: u64) -> bool {
        let index = u32::try_from(off).ok().and_then(|off| self.index_of(off).0);
        index.is_some_and(|i| self.in_use(i) && !(i == 0 && self.has_reserved))
    }

    fn free<C: Counter>(&mut self, g: &Geometry, _: &PageMap, off: u32, costs: &mut C) -> Area {
        let (found, probes) = self.index_of(off);
        let mut i = found.expect("the area is live");
        probes.into_iter().for_each(|probe| self.touch(probe, probe + 1, costs));
        self.touch_neighbours(i, costs);
        self.first_free = self.first_free.min(i as u32);
        self.map[i] = off;
        let area = Area { off, size: self.size(i), pages: self.pages_of(g, i) };
        self.free_size += area.size;
        // The end marker is in use, so that a free area behind is an area.
        let behind = !self.in_use(i + 1);
        let before = i > 0 && !self.in_use(i - 1);
        i -= usize::from(before);
        let merged = usize::from(before) + usize::from(behind);
        if merged > 0 {
            self.touch(i, self.map.len(), costs);
        }
        for _ in 0..merged {
            self.map.remove(i + 1);
        }
        // What is behind has moved, all of it at once.
        let moved = if merged > 0 { self.map.len() - (i + 1) } else { 0 };
        costs.count(|costs| costs.entries_moved += moved as u64);
        self.contig_hint = self.contig_hint.max(self.size(i));
        area
    }

    fn area_at(&self, _: &Geometry, off: u64) -> Option<(Bytes, Bytes)> {
        let off = u32::try_from(off).ok()?;
        let i = self.map.partition_point(|entry| entry & !IN_USE <= off).checked_sub(1)?;
        let live = i < self.used() as usize && self.in_use(i) && !(i == 0 && self.has_reserved);
        live.then(|| (Bytes(u64::from(self.off(i))), Bytes(u64::from(self.size(i)))))
    }

    fn boot_empty_pages(&self, g: &Geometry) -> i32 {
        self.pages_of(g, self.used() as usize - 1) as i32
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
            costs.count(|costs| costs.entries_moved += self.map.len() as u64);
            self.touch(0, self.map.len(), costs);
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
        let end = if role == Role::Reserved { u64::from(self.off(self.used() as usize)) } else { g.unit_size().0 };
        off < end
    }

    fn show<'a>(&'a self, g: &Geometry, view: &mut ChunkView<'a>) {
        let bits = (g.unit_size().0 / u64::from(GRANULE)) as u32;
        let mut used = vec![0; bitmap::words_for(bits)];
        let mut bounds = vec![0; bitmap::words_for(bits + 1)];
        for i in (0..self.used() as usize).filter(|i| self.in_use(*i)) {
            let (start, end) = (self.off(i) / GRANULE, self.off(i + 1) / GRANULE);
            bitmap::set_range(&mut used, start, end);
            bitmap::set(&mut bounds, start);
            bitmap::set(&mut bounds, end);
        }
        bitmap::set_range(&mut used, self.off(self.used() as usize) / GRANULE, bits);
        view.alloc_map = Cow::Owned(used);
        view.bound_map = Some(Cow::Owned(bounds));
        view.area_map = Some(Cow::Borrowed(&self.map));
        view.older = Some(Older::AreaMap {
            contig_hint: Bytes(u64::from(self.contig_hint)),
            first_free: self.first_free,
            map_alloc: self.capacity,
            has_reserved: self.has_reserved,
        });
    }

    fn save(&self, _: &mut Writer) {}

    fn load(_: &Geometry, saved: &mut Section<'_>, _: Pages) -> Result<Self, StateError> {
        Err(saved.error("space", "has no saved form"))
    }

    fn verify(&self, _: &Geometry, _: &Entry<Self>) -> Result<(), Violation> {
        Ok(())
    }
}

impl AreaArray {
    /// Takes `size` bytes of the free area `i`, `head` bytes behind its start. `largest` and
    /// `first_seen` are what the scan has found before it.
    #[allow(clippy::too_many_arguments)]
    fn take<C: Counter>(
        &mut self,
        g: &Geometry,
        mut i: usize,
        mut head: u32,
        mut size: u32,
        mut largest: u32,
        mut first_seen: Option<u32>,
        costs: &mut C,
    ) -> Area {
        let mut off = self.off(i);
        let mut this_size = self.size(i);
        let free_before = i > 0 && !self.in_use(i - 1);
        if head > 0 && i > 0 && (head < SMALLEST_KEPT || free_before) {
            // Kernel: a small head belongs to the area before until that one is freed.
            self.map[i] += head;
            if free_before {
                largest = largest.max(self.size(i - 1));
            } else {
                self.free_size -= head;
            }
            off += head;
            this_size -= head;
            head = 0;
        }
        let mut tail = this_size - head - size;
        if tail < SMALLEST_KEPT {
            tail = 0;
            size = this_size - head;
        }
        // All new boundaries at once, so that the rest of the array moves once.
        let behind = self.map.split_off(i + 1);
        if head > 0 {
            self.map.push(off + head);
        }
        if tail > 0 {
            self.map.push(off + head + size);
        }
        let moved = if head > 0 || tail > 0 { behind.len() } else { 0 };
        costs.count(|costs| costs.entries_moved += moved as u64);
        self.map.extend(behind);
        if moved > 0 {
            self.touch(i, self.map.len(), costs);
        }
        if head > 0 {
            first_seen.get_or_insert(i as u32);
            i += 1;
            off += head;
            largest = largest.max(head);
        }
        largest = largest.max(tail);
        self.first_free = first_seen.unwrap_or(i as u32 + 1);
        // Exact if everything was scanned.
        let scanned = i + 1 == self.used() as usize;
        costs.count(|costs| costs.chunk_refreshes += u64::from(scanned));
        self.touch_neighbours(i, costs);
        self.contig_hint = if scanned { largest } else { self.contig_hint.max(largest) };
        self.free_size -= size;
        self.map[i] |= IN_USE;
        Area { off, size, pages: self.pages_of(g, i) }
    }
}
