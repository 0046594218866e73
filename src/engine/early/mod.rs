//! What the allocators before 4.14 share: chunks on slot lists, requests, the worker.
//!
//! # Design
//!
//! The area map and the first posting of the bitmap allocator manage the offsets inside one
//! chunk in different ways; around that they are one allocator. [`Early`] is that allocator,
//! [`Space`] is what it needs of the inside of a chunk.
//!
//! ```text
//! Early<S>   slot lists, requests, frees, worker, counters
//!   Entry<S>   one chunk: address, role, pages
//!     S: Space   which offsets are free: areamap::AreaMap or rfc_v1::BitSpace
//! ```
//!
//! `request` serves requests, `worker` is the balance worker, `verify` rescans; this file holds
//! the state, frees, and the moves of chunks between lists. Nothing runs by itself.
//!
//! # Units
//!
//! Bytes, except where a name says pages.
//!
//! # Invariants
//!
//! S1, S2, S4, C6, C7, E1 to E8 of `docs/design.md`, and those of the [`Space`].
//!
//! # Cost
//!
//! A request walks the chunks that might fit, lowest slot first; what one chunk costs is the
//! business of its [`Space`]. Frees cost one look into the fully-free list besides.
//!
//! # Source
//!
//! Specification 20 and 21.

mod request;
mod saved;
mod verify;
mod worker;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use serde_json::Value;

use super::linux::lookup::Lookup;
use super::saved::bulk::{Reader, Section, Writer};
use super::saved::Fields;
use super::{BootChunks, BootRegion, ChunkView, Engine, Make, Setup, Stats, Totals};
use crate::backend::Backend;
use crate::bitmap;
use crate::chunk::Role;
use crate::cost::{counted, Counter, Counting, Meter, Part};
use crate::error::{ConfigError, RequestError, StateError, Violation};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Request};
use crate::slots::{SlotNumbers, Slots};
use crate::units::{Bytes, Pages};
use crate::variant::{Generation, Thresholds};

/// Failure lines for the life of the system.
const WARN_LIMIT: u32 = 10;

/// Which pages of a chunk are populated, in every unit alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageMap {
    /// One bit a page.
    words: Box<[u64]>,
    nr_pages: u32,
    nr_populated: u32,
}

impl PageMap {
    pub(super) fn new(pages: Pages, populated: bool) -> Self {
        let mut map = Self { words: vec![0; bitmap::words_for(pages.0)].into(), nr_pages: pages.0, nr_populated: 0 };
        if populated {
            map.mark(0, pages.0, true);
        }
        map
    }

    /// One bit a page.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Pages of a unit that the chunk covers.
    pub fn nr_pages(&self) -> u32 {
        self.nr_pages
    }

    /// Populated pages.
    pub fn nr_populated(&self) -> u32 {
        self.nr_populated
    }

    /// Whether the pages `from..to` are populated.
    #[inline(always)]
    pub fn all_populated(&self, from: u32, to: u32) -> bool {
        self.nr_populated == self.nr_pages || (to == from + 1 && bitmap::test(&self.words, from))
    }

    /// The first maximal unpopulated range in `[from, to)`.
    pub fn unpopulated_range(&self, from: u32, to: u32) -> Option<(u32, u32)> {
        bitmap::clear_runs(&self.words, from, to).next()
    }

    /// The first maximal populated range from page `from` on.
    pub fn populated_range(&self, from: u32) -> Option<(u32, u32)> {
        bitmap::set_runs(&self.words, from, self.nr_pages).next()
    }

    pub(super) fn mark(&mut self, first: u32, end: u32, populated: bool) {
        if populated {
            bitmap::set_range(&mut self.words, first, end);
            self.nr_populated += end - first;
        } else {
            bitmap::clear_range(&mut self.words, first, end);
            self.nr_populated -= end - first;
        }
    }
}

/// A legal request, after rounding, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    /// Its size.
    pub size: u32,
    /// Its alignment.
    pub align: u32,
    /// Populated pages only, no new chunk, no growth.
    pub atomic: bool,
}

/// How far a run of equal requests may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Areas.
    pub most: u32,
    /// Bytes from the chunk's base: no area may end behind.
    pub end: u32,
    /// Bytes that must stay free.
    pub keep_free: u32,
}

/// An area that was taken or given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// Bytes from the chunk's base.
    pub off: u32,
    /// Its bytes, which may be more than was asked for.
    pub size: u32,
    /// Pages that cease or begin to be empty with it; 0 where the space counts its own pages.
    pub pages: u32,
}

/// What a space says about room for the records of another area.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// The worker should make more room later.
    pub queue: bool,
    /// The capacity that is needed first.
    pub grow_to: Option<u32>,
}

/// The inside of a chunk: which offsets are free.
///
/// Sizes, alignments and offsets are in bytes and multiples of the granule of the geometry that
/// [`Space::geometry`] has returned.
pub trait Space: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Which generation keeps its chunks like this.
    const GENERATION: Generation;
    /// The name under which [`Engine::verify`] reports a chunk on a wrong list.
    const SLOT_INVARIANT: &'static str;
    /// Whether chunks count their empty populated pages.
    const COUNTS_PAGES: bool;
    /// Whether frees only ever move a chunk to higher lists, so that it can be moved once for many of them.
    const FREES_RAISE: bool;

    /// The sizes as this generation uses them, or why it cannot.
    fn geometry(setup: &Setup) -> Result<Geometry, ConfigError>;

    /// Checks a region of the boot area.
    fn check_region(g: &Geometry, region: &BootRegion) -> Result<(), ConfigError>;

    /// A free chunk of one whole unit.
    fn new(g: &Geometry) -> Self;

    /// A chunk of the boot area, checked by [`Space::check_region`].
    fn boot(g: &Geometry, region: &BootRegion) -> Self;

    /// Pages of a chunk of the boot area.
    fn boot_pages(g: &Geometry, region: &BootRegion) -> Pages;

    /// Free bytes.
    fn free_bytes(&self, g: &Geometry) -> Bytes;

    /// True if the chunk belongs on list 0.
    fn is_exhausted(&self) -> bool;

    /// False if the hint already says that `size` bytes do not fit.
    fn may_fit(&self, g: &Geometry, size: u32) -> bool;

    /// Takes an area. May correct hints on failure.
    fn alloc<C: Counter>(&mut self, g: &Geometry, pages: &PageMap, task: &Task, costs: &mut C) -> Option<Area>;

    /// Takes areas one behind the other from byte `off` on, as that many requests in a row would: how many. Each must leave
    /// hints, list and room as they are, or none is taken.
    fn alloc_run<C: Counter>(
        &mut self,
        _g: &Geometry,
        _off: u32,
        _task: &Task,
        _bounds: &Bounds,
        _costs: &mut C,
    ) -> u32 {
        0
    }

    /// True if an area could be taken, whatever the hints say.
    fn has_place(&self, g: &Geometry, pages: &PageMap, task: &Task) -> bool;

    /// True if a live area starts at byte `off`; any number may be asked.
    fn is_area_start(&self, g: &Geometry, off: u64) -> bool;

    /// Gives back the live area that starts at byte `off`.
    fn free<C: Counter>(&mut self, g: &Geometry, pages: &PageMap, off: u32, costs: &mut C) -> Area;

    /// The live area that contains byte `off`: start and size.
    fn area_at(&self, g: &Geometry, off: u64) -> Option<(Bytes, Bytes)>;

    /// What a first chunk brings to the count of empty populated pages.
    fn boot_empty_pages(&self, g: &Geometry) -> i32;

    /// Empty populated pages as counted by the chunk, 0 where it does not count.
    fn nr_empty_pop_pages(&self) -> i32 {
        0
    }

    /// `change` pages were populated (positive) or given back (negative).
    fn pages_changed(&mut self, _change: i32) {}

    /// Whether there is room for another area.
    fn room(&self, _atomic: bool) -> Room {
        Room::default()
    }

    /// Makes room.
    fn grow<C: Counter>(&mut self, _capacity: u32, _costs: &mut C) {}

    /// Puts the flag that the chunk waits for the worker to make room.
    fn set_queued(&mut self, _queued: bool) {}

    /// The flag of [`Space::set_queued`].
    fn queued(&self) -> bool {
        false
    }

    /// True if byte `off` from the base is in the part of the unit that belongs to a boot chunk
    /// of role `role`.
    fn owns(&self, g: &Geometry, role: Role, off: u64) -> bool;

    /// Adds to a view what this generation keeps.
    fn show<'a>(&'a self, g: &Geometry, view: &mut ChunkView<'a>);

    /// Writes everything down for [`Space::load`].
    fn save(&self, out: &mut Writer);

    /// A chunk of `pages` pages as [`Space::save`] has written it. It need not agree with itself, but
    /// must be such that [`Space::verify`] can tell.
    fn load(g: &Geometry, saved: &mut Section<'_>, pages: Pages) -> Result<Self, StateError>;

    /// Rescans the chunk.
    fn verify(&self, g: &Geometry, entry: &Entry<Self>) -> Result<(), Violation>;
}

/// A chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<S> {
    /// Simulated address of the chunk's base in unit zero.
    pub base_addr: u64,
    /// What the chunk is for.
    pub role: Role,
    /// Bytes hidden before the served region.
    pub start_offset: u32,
    /// Bytes hidden behind it.
    pub end_offset: u32,
    /// Its pages.
    pub pages: PageMap,
    /// Live areas.
    pub nr_alloc: u32,
    /// Largest request ever served, in bytes.
    pub max_alloc_size: u32,
    /// Its offsets.
    pub space: S,
}

impl<S: Space> Entry<S> {
    #[cfg(test)]
    pub(super) fn for_test(g: &Geometry, space: S, nr_alloc: u32) -> Self {
        Self { space, nr_alloc, ..Self::dynamic(g, 0) }
    }

    fn dynamic(g: &Geometry, base_addr: u64) -> Self {
        Self {
            base_addr,
            role: Role::Dynamic,
            start_offset: 0,
            end_offset: 0,
            pages: PageMap::new(g.unit_pages(), false),
            nr_alloc: 0,
            max_alloc_size: 0,
            space: S::new(g),
        }
    }

    fn boot(g: &Geometry, boot: &BootChunks, region: &BootRegion, role: Role) -> Result<Self, ConfigError> {
        if region.base_addr < boot.base_addr {
            let limit = format!("must not be below the unit's base {}", boot.base_addr);
            return Err(ConfigError::new("boot.base_addr", region.base_addr, limit));
        }
        let end = region.start_offset.0.checked_add(region.size.0).filter(|end| *end <= g.unit_size().0);
        if end.is_none() || region.size.0 == 0 {
            let limit = format!("must be at least 1 and end inside the unit of {}", g.unit_size());
            return Err(ConfigError::new("boot.size", region.size.0, limit));
        }
        S::check_region(g, region)?;
        let pages = S::boot_pages(g, region);
        let whole = g.pages_to_bytes(pages).0;
        Ok(Self {
            base_addr: region.base_addr,
            role,
            start_offset: region.start_offset.0 as u32,
            end_offset: whole.saturating_sub(region.start_offset.0 + region.size.0) as u32,
            pages: PageMap::new(pages, true),
            nr_alloc: 0,
            max_alloc_size: 0,
            space: S::boot(g, region),
        })
    }
}

/// An allocator before 4.14 whose chunks are kept as `S` says.
#[derive(Clone, Debug)]
pub struct Early<S> {
    geometry: Geometry,
    numbers: SlotNumbers,
    /// By creation number; `None` once destroyed.
    chunks: Vec<Option<Box<Entry<S>>>>,
    reserved: Option<Box<Entry<S>>>,
    first: Option<ChunkId>,
    slots: Slots,
    /// Chunks that are not of the boot area, by base address.
    by_base: Lookup,
    /// Chunks whose records the worker shall make room for, in order.
    pub(super) growth: VecDeque<ChunkId>,
    /// Empty populated pages of all chunks but the reserved one.
    nr_empty_pop_pages: i32,
    atomic_failed: bool,
    /// Late boot has run: memory for records can be had, the worker may be scheduled.
    async_enabled: bool,
    balance_pending: bool,
    /// A request for records before late boot was complained about.
    warned_early: bool,
    stats: Stats,
    backend: Backend,
    warn_limit: u32,
    /// Base of the boot area's unit.
    boot_base: u64,
    thresholds: Thresholds,
    meter: Meter,
}

impl<S: Space> Early<S> {
    /// An allocator right after the set-up of its first chunk, or without any chunk.
    pub fn new(setup: &Setup) -> Result<Self, ConfigError> {
        let geometry = S::geometry(setup)?;
        let numbers = SlotNumbers::new(Geometry::slot_formula(geometry.unit_size()), false);
        let mut early = Self {
            geometry,
            numbers,
            chunks: Vec::new(),
            reserved: None,
            first: None,
            slots: Slots::new(numbers.nr_slots),
            by_base: Lookup::new(geometry.unit_size().0),
            growth: VecDeque::new(),
            nr_empty_pop_pages: 0,
            atomic_failed: false,
            async_enabled: setup.async_enabled,
            balance_pending: false,
            warned_early: false,
            stats: Stats::new(geometry.unit_size()),
            backend: setup.backend.clone(),
            warn_limit: WARN_LIMIT,
            boot_base: 0,
            thresholds: Thresholds::KERNEL,
            meter: Meter::default(),
        };
        if let Some(boot) = &setup.boot {
            early.boot_base = boot.base_addr;
            let reserved = boot.reserved.as_ref().map(|region| Entry::boot(&geometry, boot, region, Role::Reserved));
            early.reserved = reserved.transpose()?.map(Box::new);
            let first: Entry<S> = Entry::boot(&geometry, boot, &boot.first, Role::First)?;
            early.nr_empty_pop_pages = first.space.boot_empty_pages(&geometry);
            early.stats.chunk_created();
            early.first = Some(ChunkId(0));
            early.chunks.push(Some(Box::new(first)));
            early.relocate(ChunkId(0), None);
        }
        Ok(early)
    }

    /// Sizes.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// A chunk by number.
    #[inline]
    pub fn entry(&self, id: ChunkId) -> Option<&Entry<S>> {
        if id.is_reserved() {
            return self.reserved.as_deref();
        }
        self.chunks.get(id.0 as usize)?.as_deref()
    }

    #[inline]
    fn existing(&self, id: ChunkId) -> &Entry<S> {
        self.entry(id).expect("the chunk exists")
    }

    #[inline]
    pub(super) fn existing_mut(&mut self, id: ChunkId) -> &mut Entry<S> {
        let entry = if id.is_reserved() { self.reserved.as_mut() } else { self.chunks[id.0 as usize].as_mut() };
        entry.expect("the chunk exists")
    }

    /// The chunks that have a number.
    fn numbered(&self) -> impl Iterator<Item = (ChunkId, &Entry<S>)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.filter_map(|(id, entry)| Some((ChunkId(id as u32), entry.as_deref()?)))
    }

    /// The chunks that are not of the boot area.
    fn dynamic(&self) -> impl Iterator<Item = (ChunkId, &Entry<S>)> {
        self.numbered().filter(|(_, entry)| entry.role == Role::Dynamic)
    }

    /// The list for `size` bytes.
    #[inline]
    fn size_to_slot(&self, size: Bytes) -> u32 {
        if size == self.geometry.unit_size() {
            self.numbers.free
        } else {
            Geometry::slot_formula(size)
        }
    }

    /// The list that a chunk belongs on.
    #[inline]
    fn chunk_slot(&self, entry: &Entry<S>) -> u32 {
        if entry.space.is_exhausted() {
            0
        } else {
            self.size_to_slot(entry.space.free_bytes(&self.geometry))
        }
    }

    /// Moves a chunk to the list it belongs on, coming from list `from` (`None` = new): to its
    /// front when the number rises, to its tail when it falls.
    #[inline]
    fn relocate(&mut self, id: ChunkId, from: Option<u32>) {
        if id.is_reserved() {
            return;
        }
        let to = self.chunk_slot(self.existing(id));
        match from {
            Some(from) if from == to => {}
            Some(from) if from > to => self.slots.push_back(to, id),
            _ => self.slots.push_front(to, id),
        }
    }

    /// Runs `change` on a chunk, then relocates it and lets the global page count follow.
    #[inline]
    fn change<T>(&mut self, id: ChunkId, change: impl FnOnce(&mut Entry<S>, &Geometry) -> T) -> T {
        let g = self.geometry;
        let from = self.chunk_slot(self.existing(id));
        let entry = self.existing_mut(id);
        let before = entry.space.nr_empty_pop_pages();
        let result = change(entry, &g);
        let gained = entry.space.nr_empty_pop_pages() - before;
        if !id.is_reserved() {
            self.nr_empty_pop_pages += gained;
        }
        self.relocate(id, Some(from));
        result
    }

    /// Marks the pages `first..end` populated or not.
    fn mark_pages<C: Counter>(&mut self, id: ChunkId, first: u32, end: u32, populated: bool, costs: &mut C) {
        costs.enter(id.0);
        costs.touch(Part::Populated, first, end);
        if populated {
            let pages = u64::from(end - first);
            let mapped = if self.backend.contiguous { 0 } else { pages * self.backend.nr_cpus() };
            costs.count(|costs| {
                costs.pages_populated += pages;
                costs.page_mappings += mapped;
            });
        }
        let change = if populated { (end - first) as i32 } else { -((end - first) as i32) };
        let entry = self.existing_mut(id);
        entry.pages.mark(first, end, populated);
        entry.space.pages_changed(change);
        self.nr_empty_pop_pages += change;
    }

    /// Schedules the worker; dropped before late boot.
    fn schedule_balance(&mut self) {
        if self.async_enabled {
            self.balance_pending = true;
        }
    }

    /// The kernel does not check (the area map stops the machine); here an offset that starts no
    /// live area is refused.
    fn live_area(&self, id: ChunkId, off: Bytes) -> Result<u32, RequestError> {
        let bad = |reason: String| RequestError::InvalidFree { ptr: off.0, reason };
        let Some(entry) = self.entry(id) else {
            return Err(bad(format!("chunk {id} does not exist")));
        };
        if !entry.space.is_area_start(&self.geometry, off.0) {
            return Err(bad(format!("no live area starts at byte {} of chunk {id}", off.0)));
        }
        Ok(off.0 as u32)
    }

    /// Statistics and maps of a free, without what it may schedule.
    fn release_area<C: Counter>(&mut self, id: ChunkId, off: u32, costs: &mut C) -> Area {
        costs.enter(id.0);
        self.stats.freed();
        self.existing_mut(id).nr_alloc -= 1;
        self.change(id, |entry, g| entry.space.free(g, &entry.pages, off, costs))
    }

    fn free_live<C: Counter>(&mut self, id: ChunkId, off: u32, costs: &mut C) -> Bytes {
        let area = self.release_area(id, off, costs);
        if !id.is_reserved() {
            self.nr_empty_pop_pages += area.pages as i32;
        }
        self.schedule_if_surplus(id);
        Bytes(u64::from(area.size))
    }

    /// Frees the areas that start at some addresses, as single frees would, until one starts no live area or the worker is
    /// scheduled anew: how many.
    fn free_many<C: Counter>(&mut self, addrs: &[u64], costs: &mut C) -> usize {
        let pending = self.balance_pending;
        let mut done = 0;
        while let Some(addr) = addrs.get(done) {
            let Some(id) = self.find_chunk(*addr) else { break };
            let count = self.free_in(id, &addrs[done..], costs);
            done += count;
            if count == 0 || (self.balance_pending && !pending) {
                break;
            }
        }
        done
    }

    /// Frees areas of one chunk, as far as addresses lie in it and start a live area: how many. None of them but the last can
    /// schedule the worker, since the chunk is in use until then.
    #[inline]
    fn free_in<C: Counter>(&mut self, id: ChunkId, addrs: &[u64], costs: &mut C) -> usize {
        let g = self.geometry;
        let entry = self.existing_mut(id);
        // Which of the boot chunks owns an address is asked for each.
        let many = S::FREES_RAISE && entry.role == Role::Dynamic;
        let (mut count, mut pages, base) = (0, 0, entry.base_addr);
        let live = |entry: &Entry<S>, addr: u64| {
            let off = addr.wrapping_sub(base);
            (off < g.unit_size().0 && entry.space.is_area_start(&g, off)).then_some(off as u32)
        };
        if live(entry, addrs[0]).is_none() {
            return 0;
        }
        self.change(id, |entry, g| {
            for addr in if many { addrs } else { &addrs[..1] } {
                let Some(off) = live(entry, *addr) else { break };
                costs.enter(id.0);
                pages += entry.space.free(g, &entry.pages, off, costs).pages;
                count += 1;
            }
            entry.nr_alloc -= count;
        });
        self.stats.freed_many(count.into());
        if !id.is_reserved() {
            self.nr_empty_pop_pages += pages as i32;
        }
        self.schedule_if_surplus(id);
        count as usize
    }

    /// Schedules the worker if a chunk is wholly free and not the only one.
    #[inline]
    fn schedule_if_surplus(&mut self, id: ChunkId) {
        let whole = self.existing(id).space.free_bytes(&self.geometry) == self.geometry.unit_size();
        if whole && self.slots.iter(self.numbers.free).any(|other| other != id) {
            self.schedule_balance();
        }
    }

    /// Makes a chunk with address space from the backend. It is on no list yet.
    fn create_chunk<C: Counter>(&mut self, costs: &mut C) -> Option<ChunkId> {
        let id = ChunkId(self.chunks.len() as u32);
        let pages = self.geometry.unit_pages().0;
        let base = self.backend.create(id, pages)?;
        self.by_base.insert(base, id);
        self.chunks.push(Some(Box::new(Entry::dynamic(&self.geometry, base))));
        if self.backend.contiguous {
            self.mark_pages(id, 0, pages, true, costs);
        }
        costs.count(|costs| costs.chunks_created += 1);
        self.stats.chunk_created();
        Some(id)
    }

    /// Removes a chunk that is on no list.
    fn destroy_chunk(&mut self, id: ChunkId) {
        debug_assert_eq!(self.slots.slot_of(id), None);
        let entry = self.chunks[id.0 as usize].take().expect("the chunk exists");
        self.by_base.remove(entry.base_addr);
        self.stats.chunk_destroyed();
        self.backend.destroy(id, entry.base_addr, entry.pages.nr_pages);
    }

    fn log(&mut self, level: u8, text: impl FnOnce() -> String) {
        if self.backend.journal.enabled {
            self.backend.journal.log.push((level, text()));
        }
    }
}

impl<S: Space> Make for Early<S> {
    fn make(_: Generation, setup: &Setup) -> Result<Self, ConfigError> {
        Self::new(setup)
    }

    fn load(setup: &Setup, saved: &Fields<'_>, bulk: &mut Reader<'_>) -> Result<Self, StateError> {
        Self::from_saved(setup, saved, bulk)
    }
}

impl<S: Space> Engine for Early<S> {
    fn generation(&self) -> Generation {
        S::GENERATION
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn alloc(&mut self, request: &Request) -> Outcome {
        counted!(self.meter, costs => self.request(request, costs))
    }

    fn alloc_behind(&mut self, request: &Request, chunk: ChunkId, off: Bytes, most: u32) -> (Bytes, u32) {
        if self.meter.counting() == Counting::Full {
            // What each of them touches is counted apart.
            return (Bytes(0), 0);
        }
        counted!(self.meter, costs => self.run_behind(request, chunk, off, most, costs))
    }

    fn free(&mut self, chunk: ChunkId, off: Bytes, _size: Option<Bytes>) -> Result<Bytes, RequestError> {
        let off = self.live_area(chunk, off)?;
        Ok(counted!(self.meter, costs => self.free_live(chunk, off, costs)))
    }

    fn free_some(&mut self, addrs: &[u64]) -> usize {
        if self.meter.counting() == Counting::Full {
            // What each of them touches is counted apart.
            return 0;
        }
        counted!(self.meter, costs => self.free_many(addrs, costs))
    }

    fn live_some(&self, addrs: &[u64]) -> usize {
        let g = &self.geometry;
        let mut near: Option<&Entry<S>> = None;
        let mut lives = |addr: &u64| {
            let known = near.filter(|entry| addr.wrapping_sub(entry.base_addr) < g.unit_size().0);
            let Some(entry) = known.or_else(|| self.entry(self.find_chunk(*addr)?)) else { return false };
            // Both boot chunks have one base.
            near = Some(entry).filter(|entry| entry.role == Role::Dynamic);
            entry.space.is_area_start(g, addr.wrapping_sub(entry.base_addr))
        };
        addrs.iter().position(|addr| !lives(addr)).unwrap_or(addrs.len())
    }

    fn check_free(&self, chunk: ChunkId, off: Bytes, _size: Option<Bytes>) -> Result<(), RequestError> {
        self.live_area(chunk, off).map(drop)
    }

    fn balance_pending(&self) -> bool {
        self.balance_pending
    }

    fn balance(&mut self) {
        counted!(self.meter, costs => self.run_worker(costs));
    }

    fn enable_async(&mut self) {
        self.async_enabled = true;
    }

    fn backend(&self) -> &Backend {
        &self.backend
    }

    fn backend_mut(&mut self) -> &mut Backend {
        &mut self.backend
    }

    fn find_chunk(&self, addr: u64) -> Option<ChunkId> {
        let boot = [self.reserved.as_ref().map(|_| ChunkId::RESERVED), self.first];
        let owner = boot.into_iter().flatten().find(|id| {
            let entry = self.existing(*id);
            addr.checked_sub(entry.base_addr).is_some_and(|off| entry.space.owns(&self.geometry, entry.role, off))
        });
        if owner.is_some() {
            return owner;
        }
        self.by_base.find(addr).map(|(id, _)| id)
    }

    fn chunk_ids(&self) -> Vec<ChunkId> {
        self.numbered().map(|(id, _)| id).chain(self.reserved.is_some().then_some(ChunkId::RESERVED)).collect()
    }

    fn chunk_unit_off(&self, id: ChunkId) -> Bytes {
        let entry = self.existing(id);
        Bytes(if entry.role == Role::Dynamic { 0 } else { entry.base_addr - self.boot_base })
    }

    fn chunk_base(&self, id: ChunkId) -> u64 {
        self.entry(id).expect("the chunk exists").base_addr
    }

    fn chunks_created(&self) -> u32 {
        self.chunks.len() as u32
    }

    fn chunk(&self, id: ChunkId) -> Option<ChunkView<'_>> {
        let entry = self.entry(id)?;
        let mut view = ChunkView {
            base_addr: entry.base_addr,
            role: entry.role,
            slot: if id.is_reserved() { None } else { self.slots.slot_of(id) },
            free_bytes: entry.space.free_bytes(&self.geometry),
            nr_pages: Pages(entry.pages.nr_pages),
            start_offset: Bytes(u64::from(entry.start_offset)),
            end_offset: Bytes(u64::from(entry.end_offset)),
            unit_off: self.chunk_unit_off(id),
            nr_alloc: entry.nr_alloc,
            max_alloc_size: Bytes(u64::from(entry.max_alloc_size)),
            nr_populated: Pages(entry.pages.nr_populated),
            populated: Cow::Borrowed(&entry.pages.words),
            nr_empty_pop_pages: None,
            isolated: None,
            alloc_map: Cow::Borrowed(&[]),
            bound_map: None,
            blocks: None,
            hints: None,
            area_map: None,
            older: None,
        };
        entry.space.show(&self.geometry, &mut view);
        Some(view)
    }

    fn slots(&self) -> Vec<Vec<ChunkId>> {
        (0..self.slots.len()).map(|slot| self.slots.iter(slot).collect()).collect()
    }

    fn slot_numbers(&self) -> SlotNumbers {
        self.numbers
    }

    fn area_at(&self, chunk: ChunkId, off: Bytes) -> Option<(Bytes, Bytes)> {
        self.entry(chunk)?.space.area_at(&self.geometry, off.0)
    }

    fn totals(&self) -> Totals {
        Totals {
            nr_empty_pop_pages: i64::from(self.nr_empty_pop_pages),
            nr_populated: None,
            atomic_failed: self.atomic_failed,
            async_enabled: self.async_enabled,
        }
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn save(&self, out: &mut Writer) -> Option<Value> {
        Some(self.to_saved(out))
    }

    fn verify(&self) -> Result<(), Violation> {
        Early::verify(self)
    }

    fn thresholds(&self) -> Option<Thresholds> {
        Some(self.thresholds)
    }

    /// Chunks are never sidelined or depopulated.
    fn set_thresholds(&mut self, thresholds: Thresholds) -> Result<(), ConfigError> {
        thresholds.check(Geometry::slot_formula(self.geometry.unit_size()))?;
        self.thresholds = thresholds;
        Ok(())
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.meter)
    }

    fn meter_mut(&mut self) -> Option<&mut Meter> {
        Some(&mut self.meter)
    }

    fn boxed_clone(&self) -> Box<dyn Engine> {
        Box::new(self.clone())
    }
}
