//! The merged bitmap allocator, 4.14 to today: chunks on slot lists.
//!
//! # Design
//!
//! The three Linux generations in one: what differs is a flag of
//! [`Rules`]. `request` serves requests, `balance` is the worker that
//! destroys surplus chunks, gives pages back and keeps a few empty pages ready; this file
//! holds the state, frees, and the moves of chunks between lists.
//!
//! Nothing runs by itself. Requests and worker are written as activities that stop where the
//! kernel drops its lock, say what they wait for, and are told the answer. A plain call asks the
//! [`Backend`]; a replay gives the answers of its recording, in the recorded order.
//!
//! # Units
//!
//! Bytes where a type says so, else bits and pages as named.
//!
//! # Invariants
//!
//! Listed in `docs/design.md` and checked by [`Linux::verify`].
//!
//! # Source
//!
//! Specification 20 and 21.

mod balance;
mod batch;
pub(super) mod lookup;
mod places;
mod request;
#[cfg(test)]
mod tests;
mod verify;

use std::borrow::Cow;
use std::cmp::Ordering;

pub use balance::{Done, Stop, Worker};
pub use batch::Served;
pub use request::{Need, Progress, Task};

use super::{ChunkView, Engine, Make, Setup, Stats, Totals};
use crate::backend::Backend;
use crate::chunk::mode::{with_meter, with_mode, Kind};
use crate::chunk::{Chunk, Context, Mode, Role};
use crate::cost::{Counter, Meter, Part};
use crate::error::{ConfigError, RequestError, Violation};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Request};
use crate::slots::{SlotNumbers, Slots};
use crate::units::{Bits, Bytes};
use crate::variant::{Generation, Rules, Thresholds};
use lookup::Lookup;

/// Bytes of maps above which a recording makes no more chunks: more than any machine has had.
pub(crate) const CHUNK_BYTES_MOST: u64 = 1 << 30;
/// Failure lines for the life of the system.
const WARN_LIMIT: u32 = 10;

/// The allocator of 4.14 to today.
#[derive(Clone, Debug)]
pub struct Linux {
    pub(crate) ctx: Context,
    /// Which copy of the hot paths the context needs.
    kind: Kind,
    /// The largest request.
    max_request: Bytes,
    /// log2 of a granule.
    granule_shift: u32,
    pub(crate) numbers: SlotNumbers,
    pub(crate) thresholds: Thresholds,
    /// By creation number; `None` once destroyed.
    pub(crate) chunks: Vec<Option<Box<Chunk>>>,
    pub(crate) reserved: Option<Box<Chunk>>,
    pub(crate) first: Option<ChunkId>,
    pub(crate) slots: Slots,
    /// Chunks that are not of the boot area, by base address.
    by_base: Lookup,
    /// Empty populated pages of all chunks that are neither reserved nor isolated.
    pub(crate) nr_empty_pop_pages: i32,
    /// Populated pages of each unit, all chunks.
    pub(crate) nr_populated: u32,
    pub(crate) atomic_failed: bool,
    /// Whether the worker may be scheduled: false until late boot.
    pub(crate) async_enabled: bool,
    pub(crate) balance_pending: bool,
    pub(crate) stats: Stats,
    /// What stands behind the chunks.
    pub backend: Backend,
    pub(crate) warn_limit: u32,
    warn_atomic: bool,
    /// Base of the boot area's unit.
    pub(crate) boot_base: u64,
    /// Populated pages that the boot area accounts for.
    pub(crate) boot_populated: u32,
    /// What the operations have cost. No part of the state.
    meter: Meter,
}

impl Linux {
    /// An allocator right after the set-up of its first chunk, or without any chunk.
    pub fn new(setup: &Setup) -> Self {
        let ctx = Context { geometry: setup.geometry, rules: setup.rules };
        let mut linux = Self::empty(setup, ctx);
        if let Some(boot) = &setup.boot {
            linux.reserved = boot.reserved.map(|region| {
                Box::new(Chunk::boot(&ctx, region.base_addr, Role::Reserved, region.start_offset, region.size))
            });
            let region = boot.first;
            let first = Chunk::boot(&ctx, region.base_addr, Role::First, region.start_offset, region.size);
            linux.nr_empty_pop_pages = first.nr_empty_pop_pages;
            linux.nr_populated = boot.nr_populated.0;
            linux.boot_populated = boot.nr_populated.0;
            linux.stats.chunk_created();
            linux.first = Some(ChunkId(0));
            linux.boot_base = boot.base_addr;
            linux.chunks.push(Some(Box::new(first)));
            linux.enlist(ChunkId(0));
        }
        linux
    }

    /// An allocator with these sizes and no chunk at all.
    pub(crate) fn empty(setup: &Setup, ctx: Context) -> Self {
        let unit_slot = Geometry::slot_formula(ctx.geometry.unit_size());
        let numbers = SlotNumbers::new(unit_slot, ctx.rules.depopulate);
        Self {
            ctx,
            kind: Kind::of(&ctx),
            max_request: ctx.geometry.max_request(),
            granule_shift: ctx.geometry.min_alloc_size().0.trailing_zeros(),
            numbers,
            thresholds: Thresholds::KERNEL,
            chunks: Vec::new(),
            reserved: None,
            first: None,
            slots: Slots::new(numbers.nr_slots),
            by_base: Lookup::new(ctx.geometry.unit_size().0),
            nr_empty_pop_pages: 0,
            nr_populated: 0,
            atomic_failed: false,
            async_enabled: setup.async_enabled,
            balance_pending: false,
            stats: Stats::new(ctx.geometry.unit_size()),
            backend: setup.backend.clone(),
            warn_limit: WARN_LIMIT,
            warn_atomic: setup.warn_atomic,
            boot_base: 0,
            boot_populated: 0,
            meter: Meter::default(),
        }
    }

    /// Sizes and rules.
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    /// Special slot numbers.
    pub fn slot_numbers(&self) -> &SlotNumbers {
        &self.numbers
    }

    /// The slot lists.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// A chunk by number.
    #[inline]
    pub fn chunk(&self, id: ChunkId) -> Option<&Chunk> {
        if id.is_reserved() {
            return self.reserved.as_deref();
        }
        self.chunks.get(id.0 as usize)?.as_deref()
    }

    /// Numbers of the chunks that exist, ascending, the reserved chunk last.
    pub fn chunk_ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        let numbered = self.chunks.iter().enumerate().filter(|(_, chunk)| chunk.is_some());
        numbered.map(|(id, _)| ChunkId(id as u32)).chain(self.reserved.is_some().then_some(ChunkId::RESERVED))
    }

    /// The chunk that an address in unit zero belongs to, as `free` finds it.
    ///
    /// Specification 33 section 3.
    #[inline]
    pub fn find_chunk(&self, addr: u64) -> Option<ChunkId> {
        if self.first.is_some() || self.reserved.is_some() {
            if let Some(id) = self.find_boot_chunk(addr) {
                return Some(id);
            }
        }
        self.by_base.find(addr).map(|(id, _)| id)
    }

    fn find_boot_chunk(&self, addr: u64) -> Option<ChunkId> {
        let serves = |chunk: &Chunk| {
            let len = self.ctx.geometry.pages_to_bytes(chunk.nr_pages()).0;
            let from = chunk.base_addr.wrapping_add(u64::from(chunk.start_offset));
            addr.wrapping_sub(from) < len - u64::from(chunk.start_offset) - u64::from(chunk.end_offset)
        };
        if self.first.is_some_and(|id| self.chunk(id).is_some_and(serves)) {
            return self.first;
        }
        self.reserved.as_deref().is_some_and(serves).then_some(ChunkId::RESERVED)
    }

    /// The chunk whose base is `base`; a base shared by both boot chunks means the first chunk.
    pub fn chunk_at_base(&self, base: u64) -> Option<ChunkId> {
        if let Some(id) = self.by_base.at_base(base) {
            return Some(id);
        }
        let boot = [self.first, self.reserved.as_ref().map(|_| ChunkId::RESERVED)];
        boot.into_iter().flatten().find(|id| self.chunk(*id).is_some_and(|chunk| chunk.base_addr == base))
    }

    #[inline]
    fn chunk_mut(&mut self, id: ChunkId) -> &mut Chunk {
        let slot = if id.is_reserved() { self.reserved.as_mut() } else { self.chunks[id.0 as usize].as_mut() };
        slot.expect("the chunk exists")
    }

    /// The list for `size` bytes.
    #[inline]
    fn size_to_slot(&self, size: Bytes) -> u32 {
        slot_of_size(&self.ctx, &self.numbers, size)
    }

    /// The list that a chunk belongs on by its hints.
    #[inline]
    pub(crate) fn chunk_slot(&self, chunk: &Chunk) -> u32 {
        slot_of(&self.ctx, &self.ctx, &self.numbers, chunk)
    }

    /// Puts a new or reintegrated chunk to the front of the list of its hints.
    fn enlist(&mut self, id: ChunkId) {
        let chunk = self.chunk(id).expect("the chunk exists");
        if id.is_reserved() || chunk.isolated {
            return;
        }
        let slot = self.chunk_slot(chunk);
        self.slots.push_front(slot, id);
    }

    /// Runs `change` on a chunk, then relocates it and lets the global page count follow.
    #[inline(always)]
    fn change<M: Mode, T>(&mut self, m: M, id: ChunkId, change: impl FnOnce(&mut Chunk) -> T) -> T {
        let Self { ctx, numbers, chunks, reserved, slots, nr_empty_pop_pages, .. } = self;
        let chunk = if id.is_reserved() { reserved.as_deref_mut() } else { chunks[id.0 as usize].as_deref_mut() };
        let chunk = chunk.expect("the chunk exists");
        let from = slot_of(m, ctx, numbers, chunk);
        let before = chunk.nr_empty_pop_pages;
        let result = change(chunk);
        if id.is_reserved() || chunk.isolated {
            return result;
        }
        *nr_empty_pop_pages += chunk.nr_empty_pop_pages - before;
        let to = slot_of(m, ctx, numbers, chunk);
        match from.cmp(&to) {
            Ordering::Less => slots.push_front(to, id),
            Ordering::Equal => {}
            Ordering::Greater => slots.push_back(to, id),
        }
        result
    }

    /// Schedules the worker; dropped before late boot.
    fn schedule_balance(&mut self) {
        if self.async_enabled {
            self.balance_pending = true;
        }
    }

    /// The bit of the live area at byte `off` of chunk `id`.
    ///
    /// The kernel does not check; here an offset that starts no live area is refused.
    fn live_bit(&self, id: ChunkId, off: Bytes) -> Result<u32, RequestError> {
        with_mode!(self.kind, self.ctx, m => self.find_live_bit(m, id, off))
    }

    #[inline(always)]
    fn find_live_bit<M: Mode>(&self, m: M, id: ChunkId, off: Bytes) -> Result<u32, RequestError> {
        if let Some(chunk) = self.chunk(id) {
            let bit = off.0 >> m.granule_shift();
            if bit << m.granule_shift() == off.0
                && bit < u64::from(chunk.nr_bits().0)
                && chunk.is_area_start(m, bit as u32)
            {
                return Ok(bit as u32);
            }
        }
        Err(self.no_area(id, off))
    }

    #[cold]
    fn no_area(&self, id: ChunkId, off: Bytes) -> RequestError {
        let reason = match self.chunk(id) {
            Some(_) => format!("no live area starts at byte {} of chunk {id}", off.0),
            None => format!("chunk {id} does not exist"),
        };
        RequestError::InvalidFree { ptr: off.0, reason }
    }

    #[inline(always)]
    fn free_at<M: Mode>(&mut self, m: M, id: ChunkId, off: Bytes) -> Result<Bytes, RequestError> {
        let bit = self.find_live_bit(m, id, off)?;
        Ok(self.free_bit(m, id, bit, None))
    }

    /// Frees the live area at bit `bit`, which must start one; `len` are its bits, if they are known.
    #[inline(always)]
    fn free_bit<M: Mode>(&mut self, m: M, id: ChunkId, bit: u32, len: Option<u32>) -> Bytes {
        let size = self.release_area(m, id, bit, len);
        self.look_at_freed(m, id);
        size
    }

    /// What the last free of chunk `id` may schedule.
    #[inline(always)]
    fn look_at_freed<M: Mode>(&mut self, m: M, id: ChunkId) {
        let chunk = self.chunk(id).expect("the chunk exists");
        if chunk.free_bytes() == self.ctx.geometry.unit_size() && !chunk.isolated {
            // Boot chunks too, in the rare case that one serves a whole unit.
            let head = self.slots.head(self.numbers.free);
            if head.is_some_and(|head| head != id || self.slots.next(id).is_some()) {
                self.schedule_balance();
            }
        } else if m.rules().depopulate && self.should_reclaim(chunk) {
            self.isolate(id);
            self.schedule_balance();
        }
    }

    /// Statistics and maps of a free, without what it may schedule.
    #[inline(always)]
    fn release_area<M: Mode>(&mut self, m: M, id: ChunkId, bit: u32, len: Option<u32>) -> Bytes {
        m.tally().enter(id.0);
        self.stats.freed();
        let bits = self.change(m, id, |chunk| {
            chunk.nr_alloc -= 1;
            chunk.free_area(m, bit, len)
        });
        Bytes(u64::from(m.bytes(bits.0)))
    }

    /// Whether a free has left a chunk with so many empty pages that they should be given back.
    #[inline]
    fn should_reclaim(&self, chunk: &Chunk) -> bool {
        if self.backend.contiguous || chunk.role != Role::Dynamic {
            return false;
        }
        let own = chunk.nr_empty_pop_pages;
        (chunk.isolated && own > 0)
            || (self.others_have_enough(own) && own >= (chunk.nr_pages / self.thresholds.reclaim_divisor) as i32)
    }

    /// Whether the chunks but one, which has so many empty pages, have more than the worker aims at.
    #[inline(always)]
    fn others_have_enough(&self, own: i32) -> bool {
        self.nr_empty_pop_pages > self.empty_high() + own
    }

    /// How many more empty pages of a chunk make [`Linux::should_reclaim`] true; 0 if any free does.
    fn pages_to_reclaim(&self, chunk: &Chunk) -> u32 {
        let own = chunk.nr_empty_pop_pages;
        match chunk.isolated {
            _ if self.should_reclaim(chunk) => 0,
            _ if self.backend.contiguous || !chunk.isolated && !self.others_have_enough(own) => u32::MAX,
            true => 1,
            false => (chunk.nr_pages / self.thresholds.reclaim_divisor) - own as u32,
        }
    }

    /// Empty populated pages below which the worker is scheduled.
    #[inline(always)]
    fn empty_low(&self) -> i32 {
        self.thresholds.empty_pop_pages_low as i32
    }

    /// Empty populated pages that the worker aims at.
    #[inline(always)]
    fn empty_high(&self) -> i32 {
        self.thresholds.empty_pop_pages_high as i32
    }

    fn isolate(&mut self, id: ChunkId) {
        let chunk = self.chunk_mut(id);
        if !chunk.isolated {
            chunk.isolated = true;
            let own = chunk.nr_empty_pop_pages;
            self.nr_empty_pop_pages -= own;
        }
        let slot = self.numbers.to_depopulate.expect("depopulating rules have the list");
        self.slots.push_front(slot, id);
    }

    #[inline]
    fn reintegrate(&mut self, id: ChunkId) {
        let chunk = self.chunk_mut(id);
        if chunk.isolated {
            chunk.isolated = false;
            let own = chunk.nr_empty_pop_pages;
            self.nr_empty_pop_pages += own;
            self.enlist(id);
        }
    }

    /// Marks pages populated, in the chunk and globally.
    fn mark_populated<M: Mode>(&mut self, m: M, id: ChunkId, first: u32, end: u32, for_alloc: bool) {
        let pages = u64::from(end - first);
        let mappings = if self.backend.contiguous { 0 } else { pages * self.backend.nr_cpus() };
        m.tally().count(|costs| {
            costs.pages_populated += pages;
            costs.page_mappings += mappings;
        });
        m.tally().touch(Part::Populated, first, end);
        self.count_pages(id, |chunk, ctx| chunk.mark_populated(ctx, first, end, for_alloc));
        self.nr_populated += end - first;
    }

    /// Marks pages populated that a recording says are, by an unknown way; those that are stay as they are.
    pub(crate) fn note_populated(&mut self, id: ChunkId, first: u32, end: u32) {
        let missing = |linux: &Self| {
            let chunk = linux.chunk(id).filter(|chunk| chunk.role == Role::Dynamic)?;
            chunk.unpopulated_range(first, end.min(chunk.nr_pages))
        };
        while let Some((first, end)) = missing(self) {
            with_meter!(self, m => self.mark_populated(m, id, first, end, false));
        }
    }

    /// Marks pages unpopulated that a recording says are, by an unknown way. Not those of boot chunks and those that are not
    /// populated; false if an area lies on one of them.
    pub(crate) fn note_depopulated(&mut self, id: ChunkId, first: u32, end: u32) -> bool {
        let Some(chunk) = self.chunk(id).filter(|chunk| chunk.role == Role::Dynamic && end <= chunk.nr_pages) else {
            return true;
        };
        if !(first..end).all(|page| chunk.page_is_free(&self.ctx, page)) {
            return false;
        }
        if chunk.is_populated(first..end) {
            self.mark_depopulated(id, first, end);
        }
        true
    }

    /// Marks pages unpopulated, in the chunk and globally.
    pub(crate) fn mark_depopulated(&mut self, id: ChunkId, first: u32, end: u32) {
        self.count_pages(id, |chunk, _| chunk.mark_depopulated(first, end));
        self.nr_populated -= end - first;
    }

    fn count_pages<T>(&mut self, id: ChunkId, change: impl FnOnce(&mut Chunk, &Context) -> T) {
        let ctx = self.ctx;
        let chunk = self.chunk_mut(id);
        let before = chunk.nr_empty_pop_pages;
        change(chunk, &ctx);
        let gained = chunk.nr_empty_pop_pages - before;
        if !chunk.isolated && !id.is_reserved() {
            self.nr_empty_pop_pages += gained;
        }
    }

    /// Makes a chunk with address space from the backend. It is on no list yet.
    fn create_chunk<M: Mode>(&mut self, m: M) -> Option<ChunkId> {
        let id = ChunkId(self.chunks.len() as u32);
        let Self { backend, by_base, .. } = self;
        backend.pass_over(|base, span| by_base.last_within(base, span));
        let pages = self.ctx.geometry.unit_pages().0;
        let base = self.backend.create(id, pages)?;
        if self.by_base.last_within(base, self.ctx.geometry.unit_size().0).is_some() {
            self.backend.destroy(id, base, pages);
            return None;
        }
        Some(self.add_chunk(m, id, base))
    }

    /// Whether a chunk may be made at `base`, as a recording says: where no other chunk begins. Unless addresses are only
    /// names (`hashed`), none may reach into it either. There is a limit to what a recording may ask for.
    pub(crate) fn can_create_at(&self, base: u64, hashed: bool) -> bool {
        let unit = self.ctx.geometry.unit_size().0;
        let maps = u64::from(self.ctx.geometry.pages_to_bits(self.ctx.geometry.unit_pages()).0) / 4;
        let room = u64::from(self.stats.nr_chunks) * maps < CHUNK_BYTES_MOST;
        let apart = hashed || self.by_base.last_within(base, unit).is_none();
        room && apart && base.checked_add(unit).is_some() && self.chunk_at_base(base).is_none()
    }

    /// Makes a chunk at `base`, which a recording gives. It is on no list yet.
    pub(crate) fn create_chunk_at(&mut self, base: u64) -> ChunkId {
        let id = ChunkId(self.chunks.len() as u32);
        self.backend.note_created(id, base, self.ctx.geometry.unit_pages().0);
        with_meter!(self, m => self.add_chunk(m, id, base), |_| false)
    }

    /// Makes a chunk at `base` that nobody asked for and puts it on its list.
    pub(crate) fn adopt_chunk(&mut self, base: u64) {
        let id = self.create_chunk_at(base);
        self.enlist(id);
    }

    /// Removes a chunk that a recording says is gone, with whatever it holds.
    pub(crate) fn drop_chunk(&mut self, id: ChunkId) {
        let chunk = self.chunk(id).expect("the chunk exists");
        if chunk.immutable() {
            return;
        }
        let areas: Vec<u32> = chunk.areas(&self.ctx).into_iter().map(|(start, _)| start).collect();
        for start in areas {
            self.release_area(&{ self.ctx }, id, start, None);
        }
        while let Some((first, end)) = self.chunk(id).expect("the chunk exists").populated_range(0) {
            self.mark_depopulated(id, first, end);
        }
        self.slots.remove(id);
        self.destroy_chunk(id);
    }

    fn add_chunk<M: Mode>(&mut self, m: M, id: ChunkId, base: u64) -> ChunkId {
        self.insert_chunk(id, Chunk::new(&self.ctx, base));
        m.tally().count(|costs| costs.chunks_created += 1);
        if self.backend.contiguous {
            let pages = self.ctx.geometry.unit_pages().0;
            m.tally().enter(id.0);
            self.mark_populated(m, id, 0, pages, false);
        }
        self.stats.chunk_created();
        id
    }

    /// Puts a chunk under its number; it is on no list yet.
    pub(crate) fn insert_chunk(&mut self, id: ChunkId, chunk: Chunk) {
        if chunk.role == Role::Dynamic {
            self.by_base.insert(chunk.base_addr, id);
        }
        if self.chunks.len() <= id.0 as usize {
            self.chunks.resize_with(id.0 as usize + 1, || None);
        }
        self.chunks[id.0 as usize] = Some(Box::new(chunk));
    }

    /// The numbered chunk at a base address, the first chunk too.
    pub(crate) fn restored_id(&self, base: u64) -> Option<ChunkId> {
        let first = self.first.filter(|id| self.chunk(*id).is_some_and(|chunk| chunk.base_addr == base));
        self.by_base.at_base(base).or(first)
    }

    /// Gives every chunk another number, as if `created` chunks had ever been made.
    pub(crate) fn renumber(&mut self, pairs: &[(ChunkId, ChunkId)], created: u32) {
        let mut by_old = pairs.to_vec();
        by_old.sort_unstable();
        let to = |id: ChunkId| by_old.binary_search_by_key(&id, |pair| pair.0).map_or(id, |at| by_old[at].1);
        let lists = (0..).zip(self.slots.iter_lists());
        let listed: Vec<_> = lists.flat_map(|(slot, list)| list.map(move |id| (slot, to(id)))).collect();
        let slots = Slots::with_lists(self.slots.len(), created as usize, &listed).expect("numbers differ");
        let mut chunks: Vec<Option<Box<Chunk>>> = Vec::new();
        chunks.resize_with(created as usize, || None);
        for (from, to) in pairs {
            chunks[to.0 as usize] = self.chunks[from.0 as usize].take();
        }
        self.first = self.first.map(to);
        self.by_base.renumber(to);
        (self.slots, self.chunks) = (slots, chunks);
    }

    /// Removes a chunk that is on no list.
    fn destroy_chunk(&mut self, id: ChunkId) {
        debug_assert_eq!(self.slots.slot_of(id), None);
        let chunk = self.chunks[id.0 as usize].take().expect("the chunk exists");
        self.by_base.remove(chunk.base_addr);
        self.stats.chunk_destroyed();
        self.backend.destroy(id, chunk.base_addr, chunk.nr_pages);
    }
}

/// The list for `size` bytes.
#[inline(always)]
fn slot_of_size(ctx: &Context, numbers: &SlotNumbers, size: Bytes) -> u32 {
    if size == ctx.geometry.unit_size() {
        numbers.free
    } else {
        Geometry::slot_formula(size)
    }
}

/// The list that a chunk belongs on by its hints (20 section 1). The list it is physically on does not
/// matter (20 section 2).
#[inline(always)]
fn slot_of<M: Mode>(m: M, ctx: &Context, numbers: &SlotNumbers, chunk: &Chunk) -> u32 {
    if chunk.free_bytes < m.bytes(1) || chunk.md.contig_hint == 0 {
        return 0;
    }
    let size = if m.rules().slot_by_contig { m.bytes(chunk.md.contig_hint as u32) } else { chunk.free_bytes };
    slot_of_size(ctx, numbers, Bytes(u64::from(size)))
}

impl Make for Linux {
    fn make(_: Generation, setup: &Setup) -> Result<Self, ConfigError> {
        Ok(Self::new(setup))
    }
}

impl Engine for Linux {
    fn generation(&self) -> Generation {
        match self.ctx.rules {
            Rules { depopulate: true, .. } => Generation::Linux514,
            Rules { scan_hints: true, .. } => Generation::Linux52,
            _ => Generation::Linux414,
        }
    }

    fn geometry(&self) -> &Geometry {
        &self.ctx.geometry
    }

    fn alloc(&mut self, request: &Request) -> Outcome {
        Linux::alloc(self, request)
    }

    fn free(&mut self, chunk: ChunkId, off: Bytes, _size: Option<Bytes>) -> Result<Bytes, RequestError> {
        with_meter!(self, m => self.free_at(m, chunk, off))
    }

    fn check_free(&self, chunk: ChunkId, off: Bytes, _size: Option<Bytes>) -> Result<(), RequestError> {
        self.live_bit(chunk, off).map(drop)
    }

    fn balance_pending(&self) -> bool {
        self.balance_pending
    }

    fn balance(&mut self) {
        Linux::balance(self);
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
        Linux::find_chunk(self, addr)
    }

    fn chunk_unit_off(&self, id: ChunkId) -> Bytes {
        let chunk = Linux::chunk(self, id).expect("the chunk exists");
        Bytes(if chunk.immutable() { chunk.base_addr - self.boot_base } else { 0 })
    }

    fn chunk_base(&self, id: ChunkId) -> u64 {
        Linux::chunk(self, id).expect("the chunk exists").base_addr
    }

    fn chunk_ids(&self) -> Vec<ChunkId> {
        Linux::chunk_ids(self).collect()
    }

    fn chunks_created(&self) -> u32 {
        self.chunks.len() as u32
    }

    fn chunk(&self, id: ChunkId) -> Option<ChunkView<'_>> {
        let chunk = Linux::chunk(self, id)?;
        Some(ChunkView {
            base_addr: chunk.base_addr,
            role: chunk.role,
            slot: self.slots.slot_of(id),
            free_bytes: chunk.free_bytes(),
            nr_pages: chunk.nr_pages(),
            start_offset: chunk.start_offset(),
            end_offset: chunk.end_offset(),
            unit_off: self.chunk_unit_off(id),
            nr_alloc: chunk.nr_alloc,
            max_alloc_size: chunk.max_alloc_size(),
            nr_populated: chunk.nr_populated(),
            populated: Cow::Borrowed(&chunk.populated),
            nr_empty_pop_pages: Some(chunk.nr_empty_pop_pages),
            isolated: self.ctx.rules.depopulate.then_some(chunk.isolated),
            alloc_map: Cow::Borrowed(&chunk.alloc_map),
            bound_map: Some(Cow::Borrowed(&chunk.bound_map)),
            blocks: Some(Cow::Borrowed(&chunk.blocks)),
            hints: Some(chunk.md),
            area_map: None,
            older: None,
        })
    }

    fn slots(&self) -> Vec<Vec<ChunkId>> {
        (0..self.slots.len()).map(|slot| self.slots.iter(slot).collect()).collect()
    }

    fn slot_numbers(&self) -> SlotNumbers {
        self.numbers
    }

    fn area_at(&self, chunk: ChunkId, off: Bytes) -> Option<(Bytes, Bytes)> {
        let bit = u32::try_from(off.0 / self.ctx.geometry.min_alloc_size().0).ok()?;
        let (start, end) = Linux::chunk(self, chunk)?.area_at(&self.ctx, bit)?;
        let g = &self.ctx.geometry;
        Some((g.bits_to_bytes(Bits(start)), g.bits_to_bytes(Bits(end - start))))
    }

    fn totals(&self) -> Totals {
        Totals {
            nr_empty_pop_pages: i64::from(self.nr_empty_pop_pages),
            nr_populated: Some(self.nr_populated),
            atomic_failed: self.atomic_failed,
            async_enabled: self.async_enabled,
        }
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn verify(&self) -> Result<(), Violation> {
        Linux::verify(self)
    }

    fn thresholds(&self) -> Option<Thresholds> {
        Some(self.thresholds)
    }

    fn set_thresholds(&mut self, thresholds: Thresholds) -> Result<(), ConfigError> {
        thresholds.check(Geometry::slot_formula(self.ctx.geometry.unit_size()))?;
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

    fn as_linux(&self) -> Option<&Linux> {
        Some(self)
    }

    fn as_linux_mut(&mut self) -> Option<&mut Linux> {
        Some(self)
    }
}
