//! The allocator as users know it: pointers in, pointers out.
//!
//! # Design
//!
//! ```text
//! size, align --> Engine --> chunk, offset --> AddressMap --> pointer
//! pointer ------> AddressMap --> address --> Engine::find_chunk --> chunk, offset
//! ```
//!
//! An engine knows chunks and offsets only. [`Allocator`] adds the machine's addresses, the
//! policy by which the balance worker runs, and batches. What it is asked to do with a wrong
//! pointer it refuses, and nothing changes.
//!
//! # Units
//!
//! Bytes. Pointers are per-CPU pointers, never dereferenced; 0 is the null pointer.
//!
//! # Source
//!
//! Specification 33; design of the Python package.

mod batch;
mod costed;
mod saved;
mod snapshot;
mod space;

pub use batch::Columns;

use crate::address::AddressMap;
use crate::engine::{self, Engine, Setup};
use crate::error::{ConfigError, RequestError};
use crate::geometry::Geometry;
use crate::layout::{FirstChunk, VmallocSpace};
use crate::request::{ChunkId, Outcome, Reason, Request};
use crate::stats_text::{PercpuStats, StatsSizes};
use crate::units::Bytes;
use crate::variant::{Generation, Preset, Rules};

/// The null per-CPU pointer.
pub const NULL: u64 = 0;
/// What `cpu_alloc-2008` answers to a request of size 0: a pointer that leads nowhere and may be freed.
pub const ZERO_SIZE_PTR: u64 = 16;

/// When the balance worker runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// One pass right after the operation that scheduled it.
    #[default]
    Eager,
    /// Only when told to.
    Manual,
    /// If scheduled, after every so many operations.
    Every(u32),
}

/// Where an area lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// The chunk.
    pub chunk: ChunkId,
    /// Bytes from the chunk's base.
    pub off: Bytes,
    /// Bytes from the start of the unit; comparable between engines.
    pub unit_off: Bytes,
    /// Bytes of the area.
    pub size: Bytes,
}

/// One row of an answer to [`Allocator::alloc_many`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The pointer; [`NULL`] for a failure.
    pub ptr: u64,
    /// Where it is, or why it is not.
    pub outcome: Outcome,
}

/// Why a batch was not carried out. The allocator is as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchError {
    /// The element at this index cannot be served.
    Element(usize, RequestError),
    /// The caller asked to stop.
    Interrupted,
}

/// An engine on a machine.
#[derive(Clone, Debug)]
pub struct Allocator {
    engine: Box<dyn Engine>,
    address: AddressMap,
    preset: &'static Preset,
    /// Sizes as the statistics text shows them.
    sizes: StatsSizes,
    /// Start and length of each group, in bytes from the base address.
    groups: Vec<(u64, u64)>,
    balance: Balance,
    /// Operations since the worker last had its turn.
    since_balance: u32,
}

impl Allocator {
    /// An allocator on a first chunk; later chunks get addresses from 2^30 upwards.
    pub fn with_layout(preset: &'static Preset, chunk: &FirstChunk, balance: Balance) -> Result<Self, ConfigError> {
        let setup = Setup::of_first_chunk(preset, rules_of(preset), chunk)?;
        Self::of_setup(preset, chunk, &setup, balance)
    }

    /// An allocator on a first chunk; later chunks get the addresses that the kernel gives them in `space`, and
    /// fail where it finds none ([`Setup::with_vmalloc`]).
    pub fn with_vmalloc(
        preset: &'static Preset,
        chunk: &FirstChunk,
        balance: Balance,
        space: VmallocSpace,
    ) -> Result<Self, ConfigError> {
        let setup = Setup::of_first_chunk(preset, rules_of(preset), chunk)?.with_vmalloc(chunk, space)?;
        Self::of_setup(preset, chunk, &setup, balance)
    }

    fn of_setup(
        preset: &'static Preset,
        chunk: &FirstChunk,
        setup: &Setup,
        balance: Balance,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            engine: engine::new(preset.generation, setup)?,
            address: AddressMap::from_first_chunk(chunk, 0),
            preset,
            sizes: StatsSizes {
                unit_size: chunk.info.unit_size,
                static_size: chunk.info.static_size,
                reserved_size: chunk.info.reserved_size,
                dyn_size: chunk.info.dyn_size,
                atom_size: chunk.info.atom_size,
                alloc_size: chunk.info.alloc_size,
            },
            groups: chunk.group_offsets.iter().copied().zip(chunk.group_sizes.iter().copied()).collect(),
            balance,
            since_balance: 0,
        })
    }

    /// An allocator without a first chunk: every chunk is made on demand.
    pub fn bare(preset: &'static Preset, geometry: Geometry, balance: Balance) -> Result<Self, ConfigError> {
        let setup = Setup::bare(preset, rules_of(preset), geometry);
        let unit_size = geometry.unit_size().0;
        let page_size = geometry.page_size().0;
        let size = unit_size * u64::from(geometry.nr_units());
        Ok(Self {
            engine: engine::new(preset.generation, &setup)?,
            address: AddressMap::without_layout(geometry.nr_units(), unit_size, page_size)?,
            preset,
            sizes: StatsSizes {
                unit_size,
                static_size: 0,
                reserved_size: 0,
                dyn_size: 0,
                atom_size: page_size,
                alloc_size: unit_size,
            },
            groups: vec![(0, size)],
            balance,
            since_balance: 0,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The engine, to drive it by hand.
    pub fn engine_mut(&mut self) -> &mut dyn Engine {
        &mut *self.engine
    }

    /// The machine's addresses.
    pub fn address(&self) -> &AddressMap {
        &self.address
    }

    /// The preset that the allocator was made with.
    pub fn preset(&self) -> &'static Preset {
        self.preset
    }

    /// The content of the statistics file; `None` for the proposal of 2008, which had none.
    pub fn stats(&self) -> Option<PercpuStats> {
        PercpuStats::of_engine(self.engine(), self.sizes)
    }

    /// Replaces the engine, which must be on the same machine: for replays.
    pub fn set_engine(&mut self, engine: Box<dyn Engine>) {
        self.engine = engine;
    }

    /// When the worker runs.
    pub fn balance_policy(&self) -> Balance {
        self.balance
    }

    /// Operations since the worker had its last turn ([`Balance::Every`]).
    pub fn since_balance(&self) -> u32 {
        self.since_balance
    }

    /// Sets when the worker runs, and how many operations ago it had its last turn.
    pub fn set_balance_policy(&mut self, balance: Balance, since_balance: u32) {
        (self.balance, self.since_balance) = (balance, since_balance);
    }

    /// Serves a request.
    #[inline]
    pub fn alloc(&mut self, request: &Request) -> Placement {
        let outcome = self.engine.alloc(request);
        let ptr = match outcome {
            Outcome::Placed { chunk, off } => self.pointer(chunk, off),
            Outcome::Failed(_) => NULL,
        };
        self.operated();
        Placement { ptr, outcome }
    }

    /// A request whose task is killed while it waits for the allocator's mutex: `None`, and nothing has happened,
    /// not even a warning. What does not wait there to be killed is served as ever: atomic requests, illegal ones,
    /// those that may not fail (`nofail`), and all of the generations before 4.14.
    ///
    /// Source: specification 20 section 3 step 4.
    pub fn alloc_killed(&mut self, request: &Request, nofail: bool) -> Option<Placement> {
        let waits = self.engine.as_linux().and_then(|linux| linux.task(request).ok()).is_some_and(|task| !task.atomic);
        if waits && !nofail {
            return None;
        }
        Some(self.alloc(request))
    }

    /// Serves many requests, as single calls would. `go_on` is asked now and then.
    pub fn alloc_many(
        &mut self,
        requests: impl ExactSizeIterator<Item = Request>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Placement>, BatchError> {
        let mut placements = Vec::with_capacity(requests.len());
        self.alloc_batch(requests, go_on, &mut placements)?;
        Ok(placements)
    }

    /// The same, with the answers in columns.
    pub fn alloc_columns(
        &mut self,
        requests: impl ExactSizeIterator<Item = Request>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Columns, BatchError> {
        let mut columns = Columns::with_capacity(requests.len());
        self.alloc_batch(requests, go_on, &mut columns)?;
        Ok(columns)
    }

    /// Frees an area; freeing [`NULL`] does nothing.
    #[inline]
    pub fn free(&mut self, ptr: u64, size: Option<Bytes>) -> Result<(), RequestError> {
        if ptr == NULL {
            return Ok(());
        }
        let (chunk, off) = self.place_of(ptr)?;
        self.engine.free(chunk, off, size).map_err(|error| with_pointer(error, ptr))?;
        self.operated();
        Ok(())
    }

    /// Runs the worker once, scheduled or not.
    pub fn run_balance(&mut self) {
        self.engine.balance();
        self.since_balance = 0;
    }

    /// The live area that starts at a pointer.
    pub fn locate(&self, ptr: u64) -> Result<Area, RequestError> {
        let (chunk, off) = self.place_of(ptr)?;
        let area = self.area(chunk, off).filter(|area| area.off == off);
        area.ok_or_else(|| RequestError::InvalidAddress {
            address: ptr,
            reason: if self.engine.knows_areas() {
                format!("no live area starts at byte {} of chunk {chunk}", off.0)
            } else {
                self.no_areas()
            },
        })
    }

    fn no_areas(&self) -> String {
        format!("{} stores no sizes, so that it cannot tell areas apart", self.engine.generation())
    }

    /// The live area that holds any byte of any CPU at an address, and the CPU. Static, hidden and
    /// free bytes belong to none. An error where the engine cannot tell areas apart.
    pub fn find(&self, address: u64) -> Result<Option<(Area, u32)>, RequestError> {
        if !self.engine.knows_areas() {
            return Err(RequestError::InvalidAddress { address, reason: self.no_areas() });
        }
        Ok(self.address.units().find_map(|(cpu, unit)| {
            let base = if self.address.identity { address } else { address.wrapping_sub(unit) };
            let base = self.address.word.wrap(base);
            let chunk = self.engine.find_chunk(base)?;
            let off = Bytes(base.wrapping_sub(self.engine.chunk_base(chunk)));
            Some((self.area(chunk, off)?, cpu))
        }))
    }

    fn area(&self, chunk: ChunkId, off: Bytes) -> Option<Area> {
        let (start, size) = self.engine.area_at(chunk, off)?;
        Some(Area { chunk, off: start, unit_off: self.unit_off(chunk, start), size })
    }

    /// Bytes from the start of the unit to byte `off` of a chunk that exists; 0 in
    /// [`ChunkId::ZERO_SIZE`]. Comparable between engines.
    pub fn unit_off(&self, chunk: ChunkId, off: Bytes) -> Bytes {
        if chunk == ChunkId::ZERO_SIZE {
            return Bytes(0);
        }
        self.engine.chunk_unit_off(chunk) + off
    }

    /// The address of a CPU's copy.
    pub fn per_cpu_ptr(&self, ptr: u64, cpu: u32) -> Result<u64, RequestError> {
        self.address.per_cpu_ptr(ptr, cpu).ok_or_else(|| {
            let possible = self.address.units().count();
            ConfigError::new("cpu", cpu, format!("is not one of the {possible} possible CPUs")).into()
        })
    }

    /// The pointer to byte `off` of a chunk.
    #[inline]
    pub fn pointer(&self, chunk: ChunkId, off: Bytes) -> u64 {
        if chunk == ChunkId::ZERO_SIZE {
            return ZERO_SIZE_PTR;
        }
        self.address.addr_to_ptr(self.engine.chunk_base(chunk).wrapping_add(off.0))
    }

    /// True for the pointer that `cpu_alloc-2008` gives for requests of size 0.
    fn is_zero_size(&self, ptr: u64) -> bool {
        ptr == ZERO_SIZE_PTR && self.preset.generation == Generation::CpuAlloc2008
    }

    #[inline]
    fn place_of(&self, ptr: u64) -> Result<(ChunkId, Bytes), RequestError> {
        if self.is_zero_size(ptr) {
            return Ok((ChunkId::ZERO_SIZE, Bytes(ptr)));
        }
        let addr = self.address.ptr_to_addr(ptr);
        let chunk = self
            .engine
            .find_chunk(addr)
            .ok_or_else(|| RequestError::InvalidAddress { address: ptr, reason: "belongs to no chunk".into() })?;
        Ok((chunk, Bytes(addr.wrapping_sub(self.engine.chunk_base(chunk)))))
    }

    /// Lets the worker have its turn after an operation.
    #[inline]
    fn operated(&mut self) {
        match self.balance {
            Balance::Eager => {
                if self.engine.balance_pending() {
                    self.engine.balance();
                }
            }
            Balance::Manual => {}
            Balance::Every(k) => {
                self.since_balance += 1;
                if self.since_balance >= k {
                    self.since_balance = 0;
                    if self.engine.balance_pending() {
                        self.engine.balance();
                    }
                }
            }
        }
    }
}

/// The flags of a preset; the engines before 4.14 do not look at them.
fn rules_of(preset: &Preset) -> Rules {
    preset.generation.rules().unwrap_or(Rules::LINUX_5_14)
}

/// An engine names offsets; users know pointers.
fn with_pointer(error: RequestError, ptr: u64) -> RequestError {
    match error {
        RequestError::InvalidFree { reason, .. } => RequestError::InvalidFree { ptr, reason },
        other => other,
    }
}

/// The kernel's text for a failed request.
pub fn failure_text(reason: Reason, size: Bytes, align: Bytes, atomic: bool) -> String {
    use crate::boot_log::message;
    match reason {
        Reason::Illegal => message::illegal_size(size.0, align.0),
        reason => message::allocation_failed(size.0, align.0, atomic, reason.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::batch::{CHECKED_AT_ONCE, KEEP_COPY_FROM};
    use super::*;

    fn bare(balance: Balance) -> Allocator {
        let preset = Preset::by_release("6.12").unwrap();
        let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
        Allocator::bare(preset, g, balance).unwrap()
    }

    fn request(size: u64) -> Request {
        Request::new(Bytes(size), Bytes(4))
    }

    #[test]
    fn pointers_lead_back() {
        let mut a = bare(Balance::Eager);
        let ptrs: Vec<u64> = (1..200).map(|n| a.alloc(&request(n * 7)).ptr).collect();
        assert!(!ptrs.contains(&NULL));
        for (n, ptr) in (1..200).zip(&ptrs) {
            let area = a.locate(*ptr).unwrap();
            assert_eq!(area.size.0, (n * 7_u64).next_multiple_of(4));
            let (found, cpu) = a.find(a.per_cpu_ptr(*ptr, 1).unwrap() + area.size.0 - 1).unwrap().unwrap();
            assert_eq!((found, cpu), (area, 1));
        }
        a.free_many(&ptrs, None, &mut || true).unwrap();
        a.engine().verify().unwrap();
        assert_eq!(a.engine().stats().nr_cur_alloc, 0);
    }

    #[test]
    fn a_batch_is_all_or_nothing_and_names_the_index() {
        let mut a = bare(Balance::Eager);
        let ptrs: Vec<u64> = (0..10).map(|_| a.alloc(&request(64)).ptr).collect();
        let before = format!("{:?}", a.engine());
        let mut bad = ptrs.clone();
        bad[7] += 4;
        assert!(matches!(a.free_many(&bad, None, &mut || true), Err(BatchError::Element(7, _))));
        bad[7] = bad[2];
        assert!(matches!(a.free_many(&bad, None, &mut || true), Err(BatchError::Element(7, _))));
        assert!(a.free(12, None).is_err());
        assert!(a.per_cpu_ptr(ptrs[0], 2).is_err());
        assert_eq!(format!("{:?}", a.engine()), before);
    }

    #[test]
    fn a_long_batch_is_undone_as_well() {
        let mut a = bare(Balance::Eager);
        let many = std::iter::repeat_n(request(8), KEEP_COPY_FROM);
        let mut ptrs: Vec<u64> = a.alloc_many(many, &mut || true).unwrap().iter().map(|p| p.ptr).collect();
        let before = format!("{:?}", a.engine());
        for (index, bad) in [(KEEP_COPY_FROM - 1, 12), (KEEP_COPY_FROM - 2, ptrs[5])] {
            let good = std::mem::replace(&mut ptrs[index], bad);
            match a.free_many(&ptrs, None, &mut || true) {
                Err(BatchError::Element(at, error)) => {
                    assert_eq!(at, index);
                    assert_eq!(error.to_string().contains("twice"), bad == ptrs[5], "{error}");
                }
                other => panic!("{other:?}"),
            }
            ptrs[index] = good;
            assert_eq!(format!("{:?}", a.engine()), before);
        }
        a.free_many(&ptrs, None, &mut || true).unwrap();
        assert_eq!(a.engine().stats().nr_cur_alloc, 0);
    }

    #[test]
    fn frees_that_are_not_checked_at_once_are_undone_as_well() {
        let preset = Preset::by_release("6.12").unwrap();
        let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(1 << 20), 1).unwrap();
        let mut a = Allocator::bare(preset, g, Balance::Eager).unwrap();
        let many = std::iter::repeat_n(request(4), CHECKED_AT_ONCE + 10);
        let mut ptrs: Vec<u64> = a.alloc_many(many, &mut || true).unwrap().iter().map(|p| p.ptr).collect();
        let before = a.snapshot();
        for (index, bad) in [(CHECKED_AT_ONCE + 3, 12), (CHECKED_AT_ONCE, ptrs[5])] {
            let good = std::mem::replace(&mut ptrs[index], bad);
            match a.free_many(&ptrs, None, &mut || true) {
                Err(BatchError::Element(at, error)) => {
                    assert_eq!((at, error.to_string().contains("twice")), (index, bad == ptrs[5]), "{error}");
                }
                other => panic!("{other:?}"),
            }
            ptrs[index] = good;
            assert!(a.snapshot() == before);
        }
        let mut asked = 0;
        let mut stop = || {
            asked += 1;
            asked < 3
        };
        assert_eq!(a.free_many(&ptrs, None, &mut stop), Err(BatchError::Interrupted));
        assert!(a.snapshot() == before);
        a.free_many(&ptrs, None, &mut || true).unwrap();
        assert_eq!(a.engine().stats().nr_cur_alloc, 0);
    }

    #[test]
    fn an_interrupted_batch_leaves_nothing_behind() {
        let mut a = bare(Balance::Eager);
        a.alloc(&request(100));
        let before = format!("{:?}", a.engine());
        let many = std::iter::repeat_n(request(8), KEEP_COPY_FROM);
        let mut asked = 0;
        let mut stop = || {
            asked += 1;
            asked < 3
        };
        assert_eq!(a.alloc_many(many, &mut stop), Err(BatchError::Interrupted));
        assert_eq!(format!("{:?}", a.engine()), before);
    }

    #[test]
    fn every_engine_serves_and_takes_back() {
        for generation in Generation::ALL {
            let preset = Preset::of_generation(generation);
            let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
            let mut a = Allocator::bare(preset, g, Balance::Eager).unwrap();
            let size_list: Vec<u64> = (1..300).map(|n| n * 13 % 90 + 1).collect();
            let placed = a.alloc_many(size_list.iter().map(|size| request(*size)), &mut || true).unwrap();
            let ptrs: Vec<u64> = placed.iter().map(|placement| placement.ptr).collect();
            assert!(!ptrs.contains(&NULL), "{generation}");
            for (ptr, size) in ptrs.iter().zip(&size_list) {
                // The proposal of 2008 stores no sizes, so that it cannot tell areas apart.
                let known = generation != Generation::CpuAlloc2008;
                assert_eq!(a.locate(*ptr).is_ok_and(|area| area.size.0 >= *size), known, "{generation}");
            }
            a.engine().verify().unwrap();
            a.free_many(&ptrs, Some(&size_list), &mut || true).unwrap();
            a.engine().verify().unwrap();
            assert_eq!(a.stats().is_none(), generation == Generation::CpuAlloc2008);
        }
        let old = Preset::of_generation(Generation::CpuAlloc2008);
        let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
        let mut a = Allocator::bare(old, g, Balance::Eager).unwrap();
        let zero = a.alloc(&request(0)).ptr;
        assert_eq!(zero, ZERO_SIZE_PTR);
        a.free_many(&[zero, zero], Some(&[0]), &mut || true).unwrap();
    }

    #[test]
    fn the_worker_runs_by_policy() {
        for (policy, pending) in [(Balance::Eager, false), (Balance::Manual, true), (Balance::Every(2), true)] {
            let mut a = bare(policy);
            a.alloc(&request(64));
            assert_eq!(a.engine().balance_pending(), pending, "{policy:?}");
            a.alloc(&request(64));
            assert_eq!(a.engine().balance_pending(), policy == Balance::Manual, "{policy:?}");
        }
    }
}
