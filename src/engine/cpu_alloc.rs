//! cpu_alloc, the proposal of 2008: one bitmap, no chunks.
//!
//! # Design
//!
//! A fixed area behind the static per-CPU data of every CPU, cut into units of 4 bytes, one bit
//! each. Requests take the lowest fitting run. Nothing is stored per allocation: whoever frees says
//! how much. The area shows itself as chunk 0, which is never destroyed and always populated.
//!
//! ```text
//! unit        0 1 2 3 4 5 6 7 8 ...
//! map         X X X . X X . . .       X = used
//! first_free  3                       no clear bit below
//! ```
//!
//! Three things no later generation has:
//!
//! - A request of size 0 succeeds: [`Outcome::ZERO_SIZE`], a pointer that may be freed and leads
//!   nowhere.
//! - A free looks at two bits only, the first and the last of what the caller names. If both are
//!   set, it frees that range, right or wrong; else it is refused, here as
//!   [`RequestError::InvalidFree`].
//! - Alignments need not be powers of two, and one above the page size is served after a warning
//!   (`WARNING` in the log of the backend).
//!
//! # Units
//!
//! `pos`, `units` and the map count units, which are `min_alloc_size` bytes (4 in the proposal).
//!
//! # Invariants
//!
//! U1-first-free, U2-cpu-bytes of `docs/design.md`; U3 is a matter of tests.
//!
//! # Cost
//!
//! O(units) for a request: the proposal steps over the map unit by unit, here run by run with
//! equal results. A free touches the words of its range. One bit per unit, no metadata.
//!
//! # Source
//!
//! Specification 12.

mod saved;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::Value;

use super::saved::bulk::{Reader, Writer};
use super::saved::Fields;
use super::{ChunkView, Engine, Make, Older, Setup, Stats, Totals};
use crate::backend::Backend;
use crate::bitmap;
use crate::chunk::Role;
use crate::cost::{counted, Counter, Meter, Part};
use crate::error::{ensure_invariant, ConfigError, RequestError, StateError, Violation};
use crate::geometry::{Geometry, MAX_UNIT_SIZE};
use crate::request::{ChunkId, Outcome, Reason, Request};
use crate::slots::SlotNumbers;
use crate::units::{Bytes, Pages};
use crate::variant::Generation;

/// The one area.
const AREA: ChunkId = ChunkId(0);

/// The allocator of the proposal of 2008.
#[derive(Clone, Debug)]
pub struct CpuAlloc {
    geometry: Geometry,
    /// End of the static per-CPU data in unit zero.
    base_addr: u64,
    /// Bytes of static data before it.
    static_size: Bytes,
    nr_units: u32,
    /// Set = used, one bit a unit.
    map: Box<[u64]>,
    /// No clear unit below. Lower bound; the unit itself can be used.
    first_free: u32,
    /// The event counter `CPU_BYTES`.
    cpu_bytes: i64,
    /// Bytes that frees of a wrong size have taken off the counter for units that were clear.
    miscounted: i64,
    /// All pages, set.
    populated: Box<[u64]>,
    max_alloc_size: Bytes,
    async_enabled: bool,
    stats: Stats,
    backend: Backend,
    meter: Meter,
}

impl CpuAlloc {
    /// An unused area: the region of the first chunk if there is one, else a whole unit.
    pub fn new(setup: &Setup) -> Result<Self, ConfigError> {
        let geometry = Self::geometry_of(setup);
        let mut backend = setup.backend.clone();
        let (base_addr, static_size, size) = match &setup.boot {
            Some(boot) => {
                (boot.first.base_addr.checked_add(boot.first.start_offset.0), boot.first.start_offset, boot.first.size)
            }
            None => {
                let unit = geometry.unit_size();
                (Some(backend.reserve_span(geometry.page_size().0, unit.0)), Bytes(0), unit)
            }
        };
        let base_addr =
            base_addr.ok_or_else(|| ConfigError::new("boot.start_offset", static_size.0, "ends above 2^64"))?;
        if size < geometry.min_alloc_size() || size.0 > MAX_UNIT_SIZE {
            let limit = format!("must be from one granule to {MAX_UNIT_SIZE}");
            return Err(ConfigError::new("boot.size", size.0, limit));
        }
        let nr_units = (size.0 / geometry.min_alloc_size().0) as u32;
        let pages = geometry.bytes_to_pages_ceil(size).0;
        let mut populated = vec![0; bitmap::words_for(pages)];
        bitmap::set_range(&mut populated, 0, pages);
        let mut stats = Stats::new(geometry.unit_size());
        stats.chunk_created();
        Ok(Self {
            geometry,
            base_addr,
            static_size,
            nr_units,
            map: vec![0; bitmap::words_for(nr_units)].into(),
            first_free: 0,
            cpu_bytes: 0,
            miscounted: 0,
            populated: populated.into(),
            max_alloc_size: Bytes(0),
            async_enabled: setup.async_enabled,
            stats,
            backend,
            meter: Meter::default(),
        })
    }

    /// The sizes: there are no blocks.
    fn geometry_of(setup: &Setup) -> Geometry {
        let g = &setup.geometry;
        let paged = Geometry::new(g.page_size(), g.min_alloc_size(), g.page_size(), g.unit_size(), g.nr_units());
        paged.unwrap_or(*g)
    }

    /// Units of the area.
    pub fn nr_units(&self) -> u32 {
        self.nr_units
    }

    fn units(&self, size: Bytes) -> u64 {
        size.0.div_ceil(self.geometry.min_alloc_size().0)
    }

    fn units_to_bytes(&self, units: u32) -> Bytes {
        Bytes(u64::from(units) * self.geometry.min_alloc_size().0)
    }

    fn used_units(&self) -> u32 {
        bitmap::count_set(&self.map, 0, self.nr_units)
    }

    /// The lowest run of `units` that starts at a multiple of `step`.
    fn take<C: Counter>(&mut self, units: u64, step: u64, costs: &mut C) -> Option<u32> {
        let mut from = self.first_free;
        let mut first = true;
        loop {
            let start = bitmap::next_zero(&self.map, self.nr_units, from);
            costs.search(Part::AllocMap, from, (start + 1).min(self.nr_units));
            if start >= self.nr_units {
                return None;
            }
            if first {
                // Kernel: kept even if the request fails.
                self.first_free = start;
            }
            // The proposal steps unit by unit: every position of this run before the first
            // aligned one is refused, and every one behind that has less room.
            let end = bitmap::next_set(&self.map, self.nr_units, start + 1);
            let pos = u64::from(start).checked_next_multiple_of(step);
            let fits = |pos: &u64| pos.checked_add(units).is_some_and(|to| to <= u64::from(end));
            let fit = pos.filter(fits).map(|pos| pos as u32);
            if C::ON {
                self.count_steps(start, fit.unwrap_or(end - 1), pos, step, end, costs);
            }
            if let Some(pos) = fit {
                if first && pos == start {
                    self.first_free = pos + units as u32;
                }
                return Some(pos);
            }
            (from, first) = (end, false);
        }
    }

    /// Counts what stepping unit by unit from `start` to `last` costs in a run that ends at `end`; `aligned`
    /// is the first multiple of `step`.
    fn count_steps<C: Counter>(&self, start: u32, last: u32, aligned: Option<u64>, step: u64, end: u32, costs: &mut C) {
        costs.count(|costs| costs.words_read += u64::from(last - start));
        costs.touch(Part::AllocMap, start, last + 1);
        let mut candidate = aligned;
        while let Some(pos) = candidate.filter(|pos| *pos <= u64::from(last)) {
            let (from, to) = (pos as u32 + 1, (end + 1).min(self.nr_units));
            costs.search(Part::AllocMap, from, to);
            candidate = pos.checked_add(step);
        }
    }

    /// What a free would clear: position and units.
    fn range_of(&self, chunk: ChunkId, off: Bytes, size: Option<Bytes>) -> Result<(u32, u32), RequestError> {
        let bad = |reason: String| RequestError::InvalidFree { ptr: off.0, reason };
        if chunk != AREA {
            return Err(bad(format!("chunk {chunk} does not exist")));
        }
        let Some(size) = size else {
            return Err(bad("size is missing: cpu_alloc-2008 stores none".into()));
        };
        let pos = off.0 / self.geometry.min_alloc_size().0;
        if pos >= u64::from(self.nr_units) {
            return Err(bad(format!("byte {} is behind the area", off.0)));
        }
        let units = self.units(size);
        // Kernel: of size 0 the bit before is tested. What lies outside the map is clear here.
        let end = pos.checked_add(units);
        let last = end.and_then(|end| end.checked_sub(1)).filter(|last| *last < u64::from(self.nr_units));
        let set = |bit: u64| bitmap::test(&self.map, bit as u32);
        if !set(pos) || !last.is_some_and(set) {
            return Err(bad(format!("the first or the last of {} at byte {} is not allocated", size, off.0)));
        }
        Ok((pos as u32, units as u32))
    }

    /// Only size and alignment of the request matter: there is no reserved region, and nothing
    /// ever sleeps.
    fn serve<C: Counter>(&mut self, request: &Request, costs: &mut C) -> Outcome {
        if request.size == Bytes(0) {
            return Outcome::ZERO_SIZE;
        }
        if request.align > self.geometry.page_size() && self.backend.journal.enabled {
            self.backend.journal.log.push((4, "WARNING".into()));
        }
        let units = self.units(request.size);
        let step = (request.align.0 / self.geometry.min_alloc_size().0).max(1);
        costs.enter(AREA.0);
        costs.count(|costs| costs.chunks_visited += 1);
        let Some(pos) = self.take(units, step, costs) else {
            return Outcome::Failed(Reason::NoRoom);
        };
        let units = units as u32;
        bitmap::set_range(&mut self.map, pos, pos + units);
        costs.touch(Part::AllocMap, pos, pos + units);
        self.cpu_bytes += self.units_to_bytes(units).0 as i64;
        self.stats.allocated(request.size);
        self.max_alloc_size = self.max_alloc_size.max(request.size);
        Outcome::Placed { chunk: AREA, off: self.units_to_bytes(pos) }
    }

    /// Clears the units of a free that was checked.
    fn release<C: Counter>(&mut self, pos: u32, units: u32, costs: &mut C) -> Bytes {
        costs.enter(AREA.0);
        // The two bits that are tested; of size 0 the second is the one before.
        for bit in [pos, (pos + units).wrapping_sub(1)] {
            costs.search(Part::AllocMap, bit, bit + 1);
        }
        costs.touch(Part::AllocMap, pos, pos + units);
        let clear = units - bitmap::count_set(&self.map, pos, pos + units);
        bitmap::clear_range(&mut self.map, pos, pos + units);
        let freed = self.units_to_bytes(units);
        self.cpu_bytes -= freed.0 as i64;
        self.miscounted += self.units_to_bytes(clear).0 as i64;
        self.first_free = self.first_free.min(pos);
        self.stats.nr_dealloc += 1;
        // One area may be freed in parts.
        self.stats.nr_cur_alloc = self.stats.nr_cur_alloc.saturating_sub(1);
        freed
    }

    /// Rescans the map.
    pub fn verify(&self) -> Result<(), Violation> {
        let first = bitmap::next_zero(&self.map, self.nr_units, 0);
        ensure_invariant!(
            self.first_free <= first,
            "U1-first-free",
            "first_free {} but unit {first} is clear",
            self.first_free
        );
        let used = self.units_to_bytes(self.used_units()).0 as i64;
        ensure_invariant!(
            self.cpu_bytes + self.miscounted == used,
            "U2-cpu-bytes",
            "CPU_BYTES {}, miscounted {}, but {used} bytes are used",
            self.cpu_bytes,
            self.miscounted
        );
        Ok(())
    }
}

impl Make for CpuAlloc {
    fn make(_: Generation, setup: &Setup) -> Result<Self, ConfigError> {
        Self::new(setup)
    }

    fn load(setup: &Setup, saved: &Fields<'_>, bulk: &mut Reader<'_>) -> Result<Self, StateError> {
        Self::from_saved(setup, saved, bulk)
    }
}

impl Engine for CpuAlloc {
    fn generation(&self) -> Generation {
        Generation::CpuAlloc2008
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn alloc(&mut self, request: &Request) -> Outcome {
        counted!(self.meter, costs => self.serve(request, costs))
    }

    fn free(&mut self, chunk: ChunkId, off: Bytes, size: Option<Bytes>) -> Result<Bytes, RequestError> {
        if chunk == ChunkId::ZERO_SIZE {
            return Ok(Bytes(0));
        }
        let (pos, units) = self.range_of(chunk, off, size)?;
        counted!(self.meter, costs => Ok(self.release(pos, units, costs)))
    }

    fn check_free(&self, chunk: ChunkId, off: Bytes, size: Option<Bytes>) -> Result<(), RequestError> {
        if chunk == ChunkId::ZERO_SIZE {
            return Ok(());
        }
        self.range_of(chunk, off, size).map(drop)
    }

    fn balance_pending(&self) -> bool {
        false
    }

    /// There is no worker.
    fn balance(&mut self) {}

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
        let off = addr.checked_sub(self.base_addr)?;
        (off < self.units_to_bytes(self.nr_units).0).then_some(AREA)
    }

    fn chunk_ids(&self) -> Vec<ChunkId> {
        vec![AREA]
    }

    fn chunk_base(&self, _id: ChunkId) -> u64 {
        self.base_addr
    }

    fn chunk_unit_off(&self, _id: ChunkId) -> Bytes {
        self.static_size
    }

    fn chunks_created(&self) -> u32 {
        1
    }

    fn chunk(&self, id: ChunkId) -> Option<ChunkView<'_>> {
        if id != AREA {
            return None;
        }
        let size = self.units_to_bytes(self.nr_units);
        let pages = self.geometry.bytes_to_pages_ceil(size);
        Some(ChunkView {
            base_addr: self.base_addr,
            role: Role::First,
            slot: None,
            free_bytes: self.units_to_bytes(self.nr_units - self.used_units()),
            nr_pages: pages,
            start_offset: Bytes(0),
            end_offset: self.geometry.pages_to_bytes(pages) - size,
            unit_off: self.static_size,
            nr_alloc: u32::try_from(self.stats.nr_cur_alloc).unwrap_or(u32::MAX),
            max_alloc_size: self.max_alloc_size,
            nr_populated: pages,
            populated: Cow::Borrowed(&self.populated),
            nr_empty_pop_pages: None,
            isolated: None,
            alloc_map: Cow::Borrowed(&self.map),
            bound_map: None,
            blocks: None,
            hints: None,
            area_map: None,
            older: Some(Older::CpuAlloc {
                nr_units: self.nr_units,
                first_free: self.first_free,
                cpu_bytes: self.cpu_bytes,
            }),
        })
    }

    /// There are no lists.
    fn slots(&self) -> Vec<Vec<ChunkId>> {
        Vec::new()
    }

    fn slot_numbers(&self) -> SlotNumbers {
        SlotNumbers { nr_slots: 0, free: 0, sidelined: None, to_depopulate: None }
    }

    fn knows_areas(&self) -> bool {
        false
    }

    /// Where an area begins and ends is not stored.
    fn area_at(&self, _chunk: ChunkId, _off: Bytes) -> Option<(Bytes, Bytes)> {
        None
    }

    fn totals(&self) -> Totals {
        let pages = Pages(bitmap::count_set(&self.populated, 0, self.populated.len() as u32 * bitmap::WORD_BITS));
        Totals {
            nr_empty_pop_pages: 0,
            nr_populated: Some(pages.0),
            atomic_failed: false,
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
        CpuAlloc::verify(self)
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
