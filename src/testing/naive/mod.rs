//! A second, slow implementation of linux-4.14, linux-5.2 and linux-5.14, from the rules alone.
//!
//! # Design
//!
//! What the fast engine is compared with where no recording exists: other page, granule and block
//! sizes. It shares no algorithm with it. Maps are `Vec<bool>`, hints plain structs of `i64`,
//! slot lists vectors of numbers; a rule that differs between generations is an `if` on the
//! generation, not on the flags of [`crate::variant::Rules`]; emptiness of pages is counted from
//! the maps every time. Only [`Backend`], the source of pages and faults, is shared.
//!
//! It is shown right in the same way as the fast engine: the golden files run through it
//! (`examples/golden.rs --naive`). In free geometry, where none exists, it is the rules of the
//! specification with the changed constants plus the extension in `docs/free-geometry.md`.
//!
//! [`area_array`] is the same for the area map.
//!
//! # Units
//!
//! Sizes in bytes at the borders, bits and pages inside, all `i64`.
//!
//! # Cost
//!
//! A microsecond for every few hundred bits of a chunk, for every operation.
//!
//! # Source
//!
//! Specification 10, 20, 21, 22; 33 section 3.

pub mod area_array;
mod chunk;
mod compare;
mod hints;
mod requests;
mod tally;
mod worker;

use std::borrow::Cow;

use crate::backend::Backend;
use crate::block::Block;
use crate::cost::Costs;
use crate::engine::{ChunkView, Engine, Setup, Stats, Totals};
use crate::error::{ConfigError, RequestError, Violation};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Request};
use crate::slots::SlotNumbers;
use crate::units::{Bytes, Pages};
use crate::variant::{Generation, Rules, Thresholds};
use chunk::{Chunk, Sizes};
use hints::Md;

/// The generations that exist here, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Gen {
    V4_14,
    V5_2,
    V5_14,
}

/// The slow implementation.
#[derive(Clone, Debug)]
pub struct Naive {
    gen: Gen,
    geometry: Geometry,
    sizes: Sizes,
    unit_pages: i64,
    unit_size: i64,
    nr_slots: usize,
    free_slot: usize,
    sidelined_slot: usize,
    to_depopulate_slot: usize,
    chunks: Vec<Option<Chunk>>,
    reserved: Option<Chunk>,
    has_first: bool,
    lists: Vec<Vec<u32>>,
    nr_empty: i64,
    nr_populated: i64,
    atomic_failed: bool,
    async_enabled: bool,
    pending: bool,
    stats: Stats,
    backend: Backend,
    warnings_left: u32,
    warn_atomic: bool,
    boot_base: u64,
    thresholds: Thresholds,
    /// Work of the operations so far; that of the one that runs is in the chunks.
    costs: Costs,
}

/// The number of the reserved chunk.
const RESERVED: u32 = u32::MAX;

impl Naive {
    /// An allocator right after the set-up of its first chunk, or without any chunk; `None` if
    /// the rules are not exactly those of one of the three generations.
    pub fn new(setup: &Setup) -> Option<Self> {
        let gen = match setup.rules {
            rules if rules == Rules::LINUX_4_14 => Gen::V4_14,
            rules if rules == Rules::LINUX_5_2 => Gen::V5_2,
            rules if rules == Rules::LINUX_5_14 => Gen::V5_14,
            _ => return None,
        };
        let geometry = setup.geometry;
        let m = geometry.min_alloc_size().0 as i64;
        let p = geometry.page_size().0 as i64;
        let unit_size = geometry.unit_size().0 as i64;
        let sizes = Sizes { gen, m, p: p / m, b: geometry.block_size().0 as i64 / m };
        // 20 section 1.
        let u = slot_formula(unit_size);
        let (nr_slots, free_slot) = if gen == Gen::V5_14 { (u + 4, u + 2) } else { (u + 2, u + 1) };
        let mut naive = Self {
            gen,
            geometry,
            sizes,
            unit_pages: unit_size / p,
            unit_size,
            nr_slots,
            free_slot,
            sidelined_slot: u + 1,
            to_depopulate_slot: u + 3,
            chunks: Vec::new(),
            reserved: None,
            has_first: false,
            lists: vec![Vec::new(); nr_slots],
            nr_empty: 0,
            nr_populated: 0,
            atomic_failed: false,
            async_enabled: setup.async_enabled,
            pending: false,
            stats: Stats {
                nr_alloc: 0,
                nr_dealloc: 0,
                nr_cur_alloc: 0,
                nr_max_alloc: 0,
                nr_chunks: 0,
                nr_max_chunks: 0,
                min_alloc_size: geometry.unit_size(),
                max_alloc_size: Bytes(0),
            },
            backend: setup.backend.clone(),
            warnings_left: 10,
            warn_atomic: setup.warn_atomic,
            boot_base: 0,
            thresholds: Thresholds::KERNEL,
            costs: Costs::ZERO,
        };
        if let Some(boot) = &setup.boot {
            let make = |region: crate::engine::BootRegion, role| {
                Chunk::boot(sizes, region.base_addr, role, region.start_offset.0 as i64, region.size.0 as i64)
            };
            naive.reserved = boot.reserved.map(|region| make(region, crate::chunk::Role::Reserved));
            let first = make(boot.first, crate::chunk::Role::First);
            naive.nr_empty = first.nr_empty;
            naive.nr_populated = i64::from(boot.nr_populated.0);
            naive.stats.nr_chunks = 1;
            naive.stats.nr_max_chunks = 1;
            naive.boot_base = boot.base_addr;
            naive.has_first = true;
            naive.chunks.push(Some(first));
            naive.relocate(0, -1);
        }
        Some(naive)
    }

    fn get(&self, id: u32) -> &Chunk {
        if id == RESERVED {
            self.reserved.as_ref().expect("there is a reserved chunk")
        } else {
            self.chunks[id as usize].as_ref().expect("the chunk exists")
        }
    }

    fn get_mut(&mut self, id: u32) -> &mut Chunk {
        if id == RESERVED {
            self.reserved.as_mut().expect("there is a reserved chunk")
        } else {
            self.chunks[id as usize].as_mut().expect("the chunk exists")
        }
    }

    fn exists(&self, id: u32) -> Option<&Chunk> {
        if id == RESERVED {
            self.reserved.as_ref()
        } else {
            self.chunks.get(id as usize)?.as_ref()
        }
    }

    /// `slot(size)` of 20 section 1.
    fn slot(&self, size: i64) -> usize {
        if size == self.unit_size {
            self.free_slot
        } else {
            slot_formula(size)
        }
    }

    /// The computed slot of a chunk.
    fn chunk_slot(&self, id: u32) -> i64 {
        let chunk = self.get(id);
        if chunk.free_bytes < self.sizes.m || chunk.md.contig == 0 {
            0
        } else if self.gen == Gen::V4_14 {
            self.slot(chunk.free_bytes) as i64
        } else {
            self.slot(chunk.md.contig * self.sizes.m) as i64
        }
    }

    fn take_off_list(&mut self, id: u32) {
        for list in &mut self.lists {
            list.retain(|other| *other != id);
        }
    }

    fn push_front(&mut self, slot: usize, id: u32) {
        self.take_off_list(id);
        self.lists[slot].insert(0, id);
    }

    fn push_tail(&mut self, slot: usize, id: u32) {
        self.take_off_list(id);
        self.lists[slot].push(id);
    }

    /// 20 section 2.
    fn relocate(&mut self, id: u32, oslot: i64) {
        if id == RESERVED || self.get(id).isolated {
            return;
        }
        let nslot = self.chunk_slot(id);
        if oslot < nslot {
            self.push_front(nslot as usize, id);
        } else if oslot > nslot {
            self.push_tail(nslot as usize, id);
        }
    }

    /// Lets a change of the chunk's empty pages reach the global count (10 section 8.2).
    fn changing<T>(&mut self, id: u32, change: impl FnOnce(&mut Chunk) -> T) -> T {
        let chunk = self.get_mut(id);
        let before = chunk.nr_empty;
        let result = change(chunk);
        let gained = chunk.nr_empty - before;
        if id != RESERVED && !chunk.isolated {
            self.nr_empty += gained;
        }
        result
    }

    /// Adds what an operation has cost in a chunk.
    fn settle_chunk(&mut self, id: u32) {
        let tally = std::mem::take(&mut self.get_mut(id).tally);
        self.costs += tally.costs;
        self.costs.cache_lines += tally.nr_lines();
    }

    /// An operation has ended.
    fn settle(&mut self) {
        for id in self.chunk_ids() {
            self.settle_chunk(id.0);
        }
    }

    fn schedule(&mut self) {
        if self.async_enabled {
            self.pending = true;
        }
    }

    /// The bit at which a live area starts, for a free.
    fn live_bit(&self, id: u32, off: u64) -> Result<i64, RequestError> {
        let bad = || RequestError::InvalidFree { ptr: off, reason: "no live area starts here".into() };
        let chunk = self.exists(id).ok_or_else(bad)?;
        let m = self.sizes.m as u64;
        if off % m != 0 || off / m >= chunk.n() as u64 {
            return Err(bad());
        }
        let bit = (off / m) as i64;
        match chunk.area_at(bit) {
            Some((start, _)) if start == bit => Ok(bit),
            _ => Err(bad()),
        }
    }
}

/// `f(size)` of 20 section 1.
fn slot_formula(size: i64) -> usize {
    let mut fls = 0;
    while size >> fls != 0 {
        fls += 1;
    }
    (fls - 5 + 2).max(1) as usize
}

fn pack(map: &[bool]) -> Vec<u64> {
    let mut words = vec![0; map.len().div_ceil(64)];
    for (i, _) in map.iter().enumerate().filter(|(_, bit)| **bit) {
        words[i / 64] |= 1 << (i % 64);
    }
    words
}

fn shown(md: &Md) -> Block {
    Block {
        scan_hint: md.scan as i32,
        scan_hint_start: md.scan_start as i32,
        contig_hint: md.contig as i32,
        contig_hint_start: md.contig_start as i32,
        left_free: md.left as i32,
        right_free: md.right as i32,
        first_free: md.first as i32,
        nr_bits: md.bits as i32,
    }
}

impl Engine for Naive {
    fn generation(&self) -> Generation {
        match self.gen {
            Gen::V4_14 => Generation::Linux414,
            Gen::V5_2 => Generation::Linux52,
            Gen::V5_14 => Generation::Linux514,
        }
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn alloc(&mut self, request: &Request) -> Outcome {
        let outcome = self.serve(request);
        self.settle();
        outcome
    }

    fn free(&mut self, chunk: ChunkId, off: Bytes, _size: Option<Bytes>) -> Result<Bytes, RequestError> {
        let bit = self.live_bit(chunk.0, off.0)?;
        let size = self.free_checked(chunk.0, bit);
        self.settle();
        Ok(Bytes(size as u64))
    }

    fn check_free(&self, chunk: ChunkId, off: Bytes, _size: Option<Bytes>) -> Result<(), RequestError> {
        self.live_bit(chunk.0, off.0).map(drop)
    }

    fn balance_pending(&self) -> bool {
        self.pending
    }

    fn balance(&mut self) {
        self.work();
        self.settle();
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
        let page = self.geometry.page_size().0;
        let serves = |chunk: &Chunk| {
            let from = chunk.base + chunk.start_offset as u64;
            let to = chunk.base + chunk.nr_pages() as u64 * page - chunk.end_offset as u64;
            (from..to).contains(&addr)
        };
        if self.has_first && serves(self.get(0)) {
            return Some(ChunkId(0));
        }
        if self.reserved.as_ref().is_some_and(serves) {
            return Some(ChunkId::RESERVED);
        }
        let from = usize::from(self.has_first);
        let dynamic = (from..self.chunks.len()).find(|id| {
            let chunk = self.chunks[*id].as_ref();
            chunk.is_some_and(|chunk| (chunk.base..chunk.base + self.unit_size as u64).contains(&addr))
        });
        dynamic.map(|id| ChunkId(id as u32))
    }

    fn chunk_base(&self, id: ChunkId) -> u64 {
        self.get(id.0).base
    }

    fn chunk_unit_off(&self, id: ChunkId) -> Bytes {
        let chunk = self.get(id.0);
        let boot = chunk.role != crate::chunk::Role::Dynamic;
        Bytes(if boot { chunk.base - self.boot_base } else { 0 })
    }

    fn chunk_ids(&self) -> Vec<ChunkId> {
        let mut ids: Vec<_> = (0..self.chunks.len() as u32).filter(|id| self.exists(*id).is_some()).collect();
        if self.reserved.is_some() {
            ids.push(RESERVED);
        }
        ids.into_iter().map(ChunkId).collect()
    }

    fn chunks_created(&self) -> u32 {
        self.chunks.len() as u32
    }

    fn chunk(&self, id: ChunkId) -> Option<ChunkView<'_>> {
        let chunk = self.exists(id.0)?;
        Some(ChunkView {
            base_addr: chunk.base,
            role: chunk.role,
            slot: self.lists.iter().position(|list| list.contains(&id.0)).map(|slot| slot as u32),
            free_bytes: Bytes(chunk.free_bytes as u64),
            nr_pages: Pages(chunk.nr_pages() as u32),
            start_offset: Bytes(chunk.start_offset as u64),
            end_offset: Bytes(chunk.end_offset as u64),
            unit_off: self.chunk_unit_off(id),
            nr_alloc: chunk.nr_alloc as u32,
            max_alloc_size: Bytes(chunk.max_alloc_size as u64),
            nr_populated: Pages(chunk.nr_populated() as u32),
            populated: Cow::Owned(pack(&chunk.populated)),
            nr_empty_pop_pages: Some(chunk.nr_empty as i32),
            isolated: (self.gen == Gen::V5_14).then_some(chunk.isolated),
            alloc_map: Cow::Owned(pack(&chunk.alloc)),
            bound_map: Some(Cow::Owned(pack(&chunk.bound))),
            blocks: Some(Cow::Owned(chunk.blocks.iter().map(shown).collect())),
            hints: Some(shown(&chunk.md)),
            area_map: None,
            older: None,
        })
    }

    fn slots(&self) -> Vec<Vec<ChunkId>> {
        self.lists.iter().map(|list| list.iter().map(|id| ChunkId(*id)).collect()).collect()
    }

    fn slot_numbers(&self) -> SlotNumbers {
        let depopulates = self.gen == Gen::V5_14;
        SlotNumbers {
            nr_slots: self.nr_slots as u32,
            free: self.free_slot as u32,
            sidelined: depopulates.then_some(self.sidelined_slot as u32),
            to_depopulate: depopulates.then_some(self.to_depopulate_slot as u32),
        }
    }

    fn area_at(&self, chunk: ChunkId, off: Bytes) -> Option<(Bytes, Bytes)> {
        let chunk = self.exists(chunk.0)?;
        let bit = i64::try_from(off.0 / self.sizes.m as u64).ok()?;
        let (start, end) = chunk.area_at(bit)?;
        let bytes = |bits: i64| Bytes((bits * self.sizes.m) as u64);
        Some((bytes(start), bytes(end - start)))
    }

    fn totals(&self) -> Totals {
        Totals {
            nr_empty_pop_pages: self.nr_empty,
            nr_populated: Some(self.nr_populated as u32),
            atomic_failed: self.atomic_failed,
            async_enabled: self.async_enabled,
        }
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Only what does not follow from the way it is written: that emptiness was counted.
    fn verify(&self) -> Result<(), Violation> {
        for id in self.chunk_ids() {
            let chunk = self.get(id.0);
            let free = chunk.alloc.iter().filter(|bit| !**bit).count() as i64 * self.sizes.m;
            crate::error::ensure_invariant!(
                free == chunk.free_bytes,
                "C1-free-bytes",
                "chunk {id}: {free} and {}",
                chunk.free_bytes
            );
        }
        Ok(())
    }

    fn thresholds(&self) -> Option<Thresholds> {
        Some(self.thresholds)
    }

    fn set_thresholds(&mut self, thresholds: Thresholds) -> Result<(), ConfigError> {
        self.thresholds = thresholds;
        Ok(())
    }

    /// Everything is counted always.
    fn costs(&self) -> Option<Costs> {
        Some(self.costs)
    }

    fn boxed_clone(&self) -> Box<dyn Engine> {
        Box::new(self.clone())
    }
}
