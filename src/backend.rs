//! What stands behind chunks: pages, mappings, address space; and their faults.
//!
//! # Design
//!
//! The allocator asks for three things that can fail: address space for a new chunk, pages
//! for a range of every unit, and the mapping of these pages. Each comes from a [`Supply`]
//! that can be set to run dry, so that every failure path can be driven on command. What
//! happened is recorded in a [`Journal`] on request.
//!
//! Address space goes upwards from 2^30 and is never reused; a replay gives the addresses of
//! its recording instead. [`Backend::with_vmalloc`] takes it from a [`VmallocSpace`] as the
//! kernel does: groups keep their distances, freed areas stay lazy, and the space can be full.
//!
//! # Units
//!
//! Addresses in bytes; ranges in pages of a unit; supplies in calls (address space, mapping)
//! or in pages of one CPU.
//!
//! # Source
//!
//! Specification 20 section 5, 21 section 7, 32; the fault rules of the golden data's description.

use crate::error::ConfigError;
use crate::layout::{AreaSet, VmallocSpace};
use crate::request::ChunkId;
use crate::units::round_up;

/// A resource that may run dry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Supply(Option<u64>);

impl Supply {
    /// Never runs dry.
    pub const ENDLESS: Supply = Supply(None);

    /// Serves the next `n` requests and fails from then on.
    pub const fn of(n: u64) -> Self {
        Supply(Some(n))
    }

    /// What is left; `None` = endless.
    pub const fn left(&self) -> Option<u64> {
        self.0
    }

    /// Takes `n`, one by one, and returns how many there were. What was taken is gone, also
    /// when it was not enough.
    pub fn take(&mut self, n: u64) -> u64 {
        match &mut self.0 {
            None => n,
            Some(left) => {
                let taken = n.min(*left);
                *left -= taken;
                taken
            }
        }
    }
}

/// Something that happened behind the allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendEvent {
    /// Address space for a chunk was made.
    New(ChunkId),
    /// A chunk was destroyed.
    Del(ChunkId),
    /// Pages `first..end` of a chunk were mapped in all units.
    Map(ChunkId, u32, u32),
    /// Pages `first..end` of a chunk were unmapped in all units.
    Unmap(ChunkId, u32, u32),
    /// An area was handed out on a page that is not populated (rfc-v1 only).
    Unpopulated(ChunkId, u32),
}

/// Record of backend events and log lines; empty unless enabled.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Whether anything is recorded.
    pub enabled: bool,
    /// Backend events in order.
    pub events: Vec<BackendEvent>,
    /// Log lines as `(level, text)` in order.
    pub log: Vec<(u8, String)>,
}

impl Journal {
    fn event(&mut self, event: BackendEvent) {
        if self.enabled {
            self.events.push(event);
        }
    }
}

/// Address space as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vmalloc {
    /// What is taken.
    pub space: VmallocSpace,
    /// What a chunk asks for.
    pub areas: AreaSet,
}

/// Pages, mappings and address space.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Address space for new chunks, one per chunk.
    pub chunk_supply: Supply,
    /// Pages, one per page of one CPU.
    pub page_supply: Supply,
    /// Mapping calls, one per range of one CPU.
    pub map_supply: Supply,
    /// Extensions of area maps, one each (`areamap` only).
    pub extend_supply: Supply,
    /// What happened.
    pub journal: Journal,
    /// Contiguous memory instead of mapped pages: chunks are populated as a whole when they
    /// are made (the no-MMU back end).
    pub contiguous: bool,
    /// Pages held, over all CPUs.
    pub backing_pages: u64,
    /// Chunks must end at or below this address where they are put one after the other.
    pub address_limit: u64,
    /// Failing mapping calls are undone even if nothing was mapped (6.6 and later).
    pub unmap_nothing: bool,
    nr_cpus: u64,
    next_addr: u64,
    atom_size: u64,
    chunk_span: u64,
    page_size: u64,
    /// Where chunks get their addresses; `None` = one after the other.
    vmalloc: Option<Vmalloc>,
}

impl Backend {
    /// A backend for `nr_cpus` possible CPUs whose chunks span `chunk_span` bytes of address
    /// space, aligned to `atom_size`.
    pub fn new(nr_cpus: u32, page_size: u64, atom_size: u64, chunk_span: u64) -> Self {
        Self {
            chunk_supply: Supply::ENDLESS,
            page_supply: Supply::ENDLESS,
            map_supply: Supply::ENDLESS,
            extend_supply: Supply::ENDLESS,
            journal: Journal::default(),
            contiguous: false,
            backing_pages: 0,
            unmap_nothing: false,
            address_limit: u64::MAX / 2,
            nr_cpus: u64::from(nr_cpus),
            next_addr: 1 << 30,
            atom_size,
            chunk_span,
            page_size,
            vmalloc: None,
        }
    }

    /// The same backend with chunks in a vmalloc space: one area for each group, of `sizes` at
    /// `offsets` from the chunk's base, aligned to `atom_size`. One group must be at offset 0,
    /// so that every chunk has bytes at its base.
    pub fn with_vmalloc(
        mut self,
        space: VmallocSpace,
        offsets: &[u64],
        sizes: &[u64],
        atom_size: u64,
    ) -> Result<Self, ConfigError> {
        if self.contiguous {
            return Err(ConfigError::new("backend", "contiguous pages", "takes no vmalloc space"));
        }
        let areas = AreaSet::new(offsets, sizes, atom_size, self.page_size)?;
        if !offsets.contains(&0) {
            return Err(ConfigError::new("offsets", format!("{offsets:?}"), "must have a group at 0"));
        }
        (self.chunk_span, self.atom_size) = (areas.span(), atom_size);
        self.vmalloc = Some(Vmalloc { space, areas });
        Ok(self)
    }

    /// Where chunks get their addresses, if from a vmalloc space.
    pub fn vmalloc(&self) -> Option<&Vmalloc> {
        self.vmalloc.as_ref()
    }

    /// The same, to add obstacles, to purge or to inject faults.
    pub fn vmalloc_space_mut(&mut self) -> Option<&mut VmallocSpace> {
        self.vmalloc.as_mut().map(|vmalloc| &mut vmalloc.space)
    }

    /// Where the search for address space goes on, and what a chunk takes of it, in bytes.
    pub fn address_space(&self) -> (u64, u64) {
        (self.next_addr, self.chunk_span)
    }

    /// Sets what [`Backend::address_space`] shows, and the alignment of chunks.
    pub fn set_address_space(&mut self, next_addr: u64, chunk_span: u64, atom_size: u64) {
        (self.next_addr, self.chunk_span, self.atom_size) = (next_addr, chunk_span, atom_size);
    }

    /// CPUs that every range is populated for.
    pub fn nr_cpus(&self) -> u64 {
        self.nr_cpus
    }

    /// Alignment of chunks, in bytes.
    pub fn atom_size(&self) -> u64 {
        self.atom_size
    }

    /// Whether a chunk at `base` has its address space: taken in the vmalloc space, or behind where the
    /// search goes on, so that no other chunk can overlap it.
    pub fn holds_chunk(&self, base: u64) -> bool {
        match &self.vmalloc {
            Some(Vmalloc { space, areas }) => {
                areas.ranges(base).is_some_and(|ranges| ranges.iter().all(|range| space.is_live(range)))
            }
            None => base.checked_add(self.chunk_span).is_some_and(|end| end <= self.next_addr),
        }
    }

    /// Takes `span` bytes of address space that are used by something else.
    pub fn reserve_span(&mut self, align: u64, span: u64) -> u64 {
        let base = round_up(self.next_addr, align);
        self.next_addr = base.saturating_add(span).saturating_add(self.page_size);
        base
    }

    /// Where the next chunk would end.
    fn next_end(&self) -> u128 {
        u128::from(self.next_addr).next_multiple_of(u128::from(self.atom_size)) + u128::from(self.chunk_span)
    }

    /// Moves the search for address space behind chunks whose addresses came from elsewhere: `taken` has the base of the
    /// last one that begins within so many bytes around an address.
    pub fn pass_over(&mut self, taken: impl Fn(u64, u64) -> Option<u64>) {
        while self.vmalloc.is_none() && self.next_end() <= u128::from(self.address_limit) {
            let Some(base) = taken(round_up(self.next_addr, self.atom_size), self.chunk_span) else { return };
            self.next_addr = base.saturating_add(self.chunk_span).saturating_add(self.page_size);
        }
    }

    /// Address space for chunk `id`; `None` if there is none. `unit_pages` for contiguous memory.
    pub fn create(&mut self, id: ChunkId, unit_pages: u32) -> Option<u64> {
        if self.chunk_supply.take(1) == 0 {
            return None;
        }
        let full = self.next_end() > u128::from(self.address_limit);
        let base = match &mut self.vmalloc {
            Some(Vmalloc { space, areas }) => space.alloc(areas).ok()?.base,
            None if full => return None,
            None => self.reserve_span(self.atom_size, self.chunk_span),
        };
        self.count_created(id, unit_pages);
        Some(base)
    }

    /// Counts chunk `id`, whose address came from elsewhere. In a vmalloc space it takes its areas if they are
    /// free; the recording is right in any case.
    pub fn note_created(&mut self, id: ChunkId, base: u64, unit_pages: u32) {
        if let Some(Vmalloc { space, areas }) = &mut self.vmalloc {
            let _ = space.occupy_set(areas, base);
        }
        self.count_created(id, unit_pages);
    }

    fn count_created(&mut self, id: ChunkId, unit_pages: u32) {
        if self.contiguous {
            self.backing_pages += u64::from(unit_pages) * self.nr_cpus;
        }
        self.journal.event(BackendEvent::New(id));
    }

    /// Gives back what chunk `id` at `base` was made of.
    pub fn destroy(&mut self, id: ChunkId, base: u64, unit_pages: u32) {
        if let Some(Vmalloc { space, areas }) = &mut self.vmalloc {
            // Only a chunk at a recorded address may have no areas of its own.
            let _ = space.release(areas, base);
        }
        if self.contiguous {
            self.backing_pages = self.backing_pages.saturating_sub(u64::from(unit_pages) * self.nr_cpus);
        }
        self.journal.event(BackendEvent::Del(id));
    }

    /// Pages `first..end` for every unit of chunk `id`, mapped: all or nothing.
    pub fn populate(&mut self, id: ChunkId, first: u32, end: u32) -> bool {
        if self.contiguous {
            return true;
        }
        let pages = u64::from(end - first) * self.nr_cpus;
        if self.page_supply.take(pages) < pages {
            return false;
        }
        let mapped = self.map_supply.take(self.nr_cpus);
        if mapped > 0 {
            self.journal.event(BackendEvent::Map(id, first, end));
        }
        if mapped < self.nr_cpus {
            if mapped > 0 || self.unmap_nothing {
                self.journal.event(BackendEvent::Unmap(id, first, end));
            }
            return false;
        }
        self.backing_pages += pages;
        true
    }

    /// Records that an area was handed out on page `page` of chunk `id`, which has no memory.
    pub fn note_unpopulated(&mut self, id: ChunkId, page: u32) {
        self.journal.event(BackendEvent::Unpopulated(id, page));
    }

    /// Gives back the pages `first..end` of every unit of chunk `id`.
    pub fn depopulate(&mut self, id: ChunkId, first: u32, end: u32) {
        if self.contiguous {
            return;
        }
        // In a replay pages can come by other ways than through here.
        self.backing_pages = self.backing_pages.saturating_sub(u64::from(end - first) * self.nr_cpus);
        self.journal.event(BackendEvent::Unmap(id, first, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_supply_keeps_nothing() {
        let mut b = Backend::new(4, 4096, 4096, 65536);
        b.page_supply = Supply::of(7);
        assert!(!b.populate(ChunkId(1), 0, 2));
        assert_eq!(b.backing_pages, 0);
        assert!(!b.populate(ChunkId(1), 0, 1), "the pages of a failed request do not come back");
        b.page_supply = Supply::ENDLESS;
        assert!(b.populate(ChunkId(1), 0, 2));
        assert_eq!(b.backing_pages, 8);
    }

    #[test]
    fn failing_maps_are_undone() {
        for (unmap_nothing, left, events) in [(false, 0, 0), (true, 0, 1), (false, 2, 2), (true, 2, 2)] {
            let mut b = Backend::new(4, 4096, 4096, 65536);
            b.journal.enabled = true;
            b.unmap_nothing = unmap_nothing;
            b.map_supply = Supply::of(left);
            assert!(!b.populate(ChunkId(1), 0, 1));
            assert_eq!(b.journal.events.len(), events);
        }
    }

    #[test]
    fn address_space_leaves_a_page_between_chunks() {
        let mut b = Backend::new(1, 4096, 4096, 65536);
        assert_eq!(b.create(ChunkId(1), 16), Some(1 << 30));
        assert_eq!(b.create(ChunkId(2), 16), Some((1 << 30) + 65536 + 4096));
    }
}
