//! Engines: the generations of the allocator behind one set-up.
//!
//! # Design
//!
//! A [`Setup`] is everything an engine needs to begin: sizes, rules, what stands behind the
//! chunks, and the regions of the boot area if there is one. [`Engine`] is what everything else
//! needs of a generation: requests and frees, the worker, and read-only views. An engine shows a
//! chunk as a [`ChunkView`], in which what it does not keep is `None`.
//!
//! ```text
//! cpu_alloc   2008            one bitmap                 a file of its own
//! areamap     2009 to 4.13    array of boundaries   \
//! rfc_v1      July 2017       bitmap, as posted     / early: lists, requests, worker
//! linux       4.14 to today   bitmap, as merged          three generations by flags
//! ```
//!
//! An engine is made through the registry: afresh by [`new`], from what [`Engine::save`] wrote by
//! [`load`]. A new one is a file, and a line in the registry.
//!
//! `docs/adding-an-engine.md` says how to add one.
//!
//! # Source
//!
//! Specification 20, 22.

pub mod areamap;
pub mod cpu_alloc;
pub mod early;
pub mod linux;
pub mod rfc_v1;
pub mod saved;

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use crate::backend::Backend;
use crate::block::Block;
use crate::chunk::Role;
use crate::cost::{Costs, Meter};
use crate::error::{ConfigError, RequestError, StateError, Violation};
use crate::geometry::Geometry;
use crate::layout::{self, FirstChunk, Region, VmallocSpace};
use crate::request::{ChunkId, Outcome, Request};
use crate::slots::SlotNumbers;
use crate::units::{Bits, Bytes, Pages, WordSize};
use crate::variant::{BootAllocators, Generation, Preset, Rules, Thresholds};
use saved::bulk::{Reader, Writer};
use saved::Fields;

/// What replays, sweeps, comparisons and the Python package need of a generation.
///
/// `Debug` shows everything; two engines with equal text are in equal states.
pub trait Engine: fmt::Debug + Send + Sync {
    /// Which generation this is.
    fn generation(&self) -> Generation;

    /// Sizes.
    fn geometry(&self) -> &Geometry;

    /// Serves a request.
    fn alloc(&mut self, request: &Request) -> Outcome;

    /// More of the same requests, right after one that was placed at byte `off` of a chunk: bytes from one to the next, and how
    /// many of up to `most` were served one behind the other, as single requests would be, none of them scheduling the worker.
    fn alloc_behind(&mut self, _request: &Request, _chunk: ChunkId, _off: Bytes, _most: u32) -> (Bytes, u32) {
        (Bytes(0), 0)
    }

    /// Frees the live area at byte `off` of a chunk and returns its size. `size` is what the
    /// caller says the size is; only an engine that stores none looks at it.
    fn free(&mut self, chunk: ChunkId, off: Bytes, size: Option<Bytes>) -> Result<Bytes, RequestError>;

    /// Frees the live areas that start at addresses in unit zero, as single frees would, one after the other from the first on: how
    /// many. It stops in front of what is none, and behind a free that schedules the worker; 0 leaves everything to
    /// [`Engine::free`].
    fn free_some(&mut self, _addrs: &[u64]) -> usize {
        0
    }

    /// How many of these addresses, from the first on, start a live area, as far as an engine tells without effort; what
    /// lies behind is asked for one by one.
    fn live_some(&self, _addrs: &[u64]) -> usize {
        0
    }

    /// Checks what [`Engine::free`] would refuse.
    fn check_free(&self, chunk: ChunkId, off: Bytes, size: Option<Bytes>) -> Result<(), RequestError>;

    /// True if the worker is scheduled.
    fn balance_pending(&self) -> bool;

    /// Runs the worker once, scheduled or not.
    fn balance(&mut self);

    /// Late boot: from now on the worker may be scheduled, and area maps can grow.
    fn enable_async(&mut self);

    /// What stands behind the chunks.
    fn backend(&self) -> &Backend;

    /// What stands behind the chunks, to inject faults.
    fn backend_mut(&mut self) -> &mut Backend;

    /// The chunk that an address in unit zero belongs to.
    fn find_chunk(&self, addr: u64) -> Option<ChunkId>;

    /// Address in unit zero of the base of a chunk that exists.
    fn chunk_base(&self, id: ChunkId) -> u64;

    /// Bytes from the start of the unit to the base of a chunk that exists: 0 except in boot chunks.
    fn chunk_unit_off(&self, id: ChunkId) -> Bytes;

    /// Numbers of the chunks that exist, ascending, the reserved chunk last.
    fn chunk_ids(&self) -> Vec<ChunkId>;

    /// Number of chunks ever made, the first chunk included and the reserved one not.
    fn chunks_created(&self) -> u32;

    /// A chunk.
    fn chunk(&self, id: ChunkId) -> Option<ChunkView<'_>>;

    /// The slot lists, in list order.
    fn slots(&self) -> Vec<Vec<ChunkId>>;

    /// Special slot numbers.
    fn slot_numbers(&self) -> SlotNumbers;

    /// Whether the engine stores where areas begin and end, so that [`Engine::area_at`] can answer.
    fn knows_areas(&self) -> bool {
        true
    }

    /// The live area that contains byte `off` of a chunk: start and size in bytes.
    fn area_at(&self, chunk: ChunkId, off: Bytes) -> Option<(Bytes, Bytes)>;

    /// Counters beside those of [`Stats`].
    fn totals(&self) -> Totals;

    /// Lifetime counters.
    fn stats(&self) -> &Stats;

    /// Rescans everything and compares.
    fn verify(&self) -> Result<(), Violation>;

    /// The numbers at which something is done; `None` where there are none.
    fn thresholds(&self) -> Option<Thresholds> {
        None
    }

    /// Sets them, from now on.
    fn set_thresholds(&mut self, thresholds: Thresholds) -> Result<(), ConfigError> {
        if thresholds == Thresholds::KERNEL {
            return Ok(());
        }
        let limit = format!("{} has no balance worker", self.generation());
        Err(ConfigError::new("thresholds", "others than the kernel's", limit))
    }

    /// The counters of work done; `None` where an engine counts nothing.
    fn meter(&self) -> Option<&Meter> {
        None
    }

    /// The same, to say what is counted.
    fn meter_mut(&mut self) -> Option<&mut Meter> {
        None
    }

    /// The work done so far, as `docs/design.md` section 6 defines it; `None` where nothing is counted.
    fn costs(&self) -> Option<Costs> {
        self.meter().map(Meter::costs)
    }

    /// A copy that shares nothing.
    fn boxed_clone(&self) -> Box<dyn Engine>;

    /// The complete state beside geometry and backend, as plain data for [`load`]: chunks and lists go to `out`. `None` where
    /// there is no such form; the Linux generations are saved as a [`State`](crate::state::State).
    fn save(&self, _out: &mut Writer) -> Option<Value> {
        None
    }

    /// The Linux generations, for what only they have.
    fn as_linux(&self) -> Option<&linux::Linux> {
        None
    }

    /// The Linux generations, for what only they have.
    fn as_linux_mut(&mut self) -> Option<&mut linux::Linux> {
        None
    }
}

/// How an engine is made: what the registry needs.
pub trait Make: Engine + Sized + 'static {
    /// A fresh one, or why it cannot be.
    fn make(generation: Generation, setup: &Setup) -> Result<Self, ConfigError>;

    /// One in the state that [`Engine::save`] has written. `setup` has its geometry and backend, and no
    /// boot chunks. Nothing that is read is to be trusted.
    fn load(_setup: &Setup, saved: &Fields<'_>, _bulk: &mut Reader<'_>) -> Result<Self, StateError> {
        Err(saved.error("engine", "has no saved form"))
    }
}

type Made<E> = Result<Box<dyn Engine>, E>;

/// A line of the registry.
struct Registered {
    generation: Generation,
    make: fn(Generation, &Setup) -> Made<ConfigError>,
    load: fn(&Setup, &Fields<'_>, &mut Reader<'_>) -> Made<StateError>,
}

const fn register<E: Make>(generation: Generation) -> Registered {
    Registered {
        generation,
        make: |generation, setup| Ok(Box::new(E::make(generation, setup)?)),
        load: |setup, saved, bulk| Ok(Box::new(E::load(setup, saved, bulk)?)),
    }
}

/// Every engine, oldest first.
const REGISTRY: [Registered; Generation::ALL.len()] = [
    register::<cpu_alloc::CpuAlloc>(Generation::CpuAlloc2008),
    register::<areamap::AreaMapEngine>(Generation::AreaMap),
    register::<rfc_v1::RfcV1>(Generation::RfcV1),
    register::<linux::Linux>(Generation::Linux414),
    register::<linux::Linux>(Generation::Linux52),
    register::<linux::Linux>(Generation::Linux514),
];

fn registered(generation: Generation) -> &'static Registered {
    const LINES: &[Registered] = &REGISTRY;
    LINES.iter().find(|line| line.generation == generation).expect("every generation is registered")
}

/// The engine of a generation.
pub fn new(generation: Generation, setup: &Setup) -> Result<Box<dyn Engine>, ConfigError> {
    (registered(generation).make)(generation, setup)
}

/// The engine of a generation in the state that [`Engine::save`] has written.
pub fn load(
    generation: Generation,
    setup: &Setup,
    saved: &Fields<'_>,
    bulk: &mut Reader<'_>,
) -> Result<Box<dyn Engine>, StateError> {
    (registered(generation).load)(setup, saved, bulk)
}

impl Clone for Box<dyn Engine> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}

/// Counters and flags of a whole allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Empty populated pages that count as ready.
    pub nr_empty_pop_pages: i64,
    /// Populated pages of each unit; `None` where the generation does not count them.
    pub nr_populated: Option<u32>,
    /// An atomic request failed since the worker last looked.
    pub atomic_failed: bool,
    /// The worker may be scheduled.
    pub async_enabled: bool,
}

/// What an engine shows of one chunk; `None` = this generation does not keep it.
#[derive(Clone, Debug)]
pub struct ChunkView<'a> {
    /// Simulated address of the chunk's base in unit zero.
    pub base_addr: u64,
    /// What the chunk is for.
    pub role: Role,
    /// The list it is on; `None` for the reserved chunk.
    pub slot: Option<u32>,
    /// Free bytes.
    pub free_bytes: Bytes,
    /// Pages of the map.
    pub nr_pages: Pages,
    /// Bytes hidden before the served region.
    pub start_offset: Bytes,
    /// Bytes hidden behind the served region.
    pub end_offset: Bytes,
    /// Bytes from the start of the unit to the chunk's base: 0 except in boot chunks.
    pub unit_off: Bytes,
    /// Live areas.
    pub nr_alloc: u32,
    /// Largest request ever served.
    pub max_alloc_size: Bytes,
    /// Populated pages.
    pub nr_populated: Pages,
    /// One bit a page.
    pub populated: Cow<'a, [u64]>,
    /// Populated pages without an allocated bit, as counted.
    pub nr_empty_pop_pages: Option<i32>,
    /// Taken out of the active lists.
    pub isolated: Option<bool>,
    /// Set = allocated, one bit a granule.
    pub alloc_map: Cow<'a, [u64]>,
    /// Area boundaries, one bit more than `alloc_map`.
    pub bound_map: Option<Cow<'a, [u64]>>,
    /// Hints of each block.
    pub blocks: Option<Cow<'a, [Block]>>,
    /// Chunk-wide hints.
    pub hints: Option<Block>,
    /// The sorted array of area boundaries: start offset in bytes, bit 0 = in use.
    pub area_map: Option<Cow<'a, [u32]>>,
    /// What only a generation before 4.14 keeps.
    pub older: Option<Older>,
}

/// Fields of a chunk that only one generation before 4.14 has, under their names there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Older {
    /// Of the area map; the map itself is [`ChunkView::area_map`].
    AreaMap {
        /// No free area is larger.
        contig_hint: Bytes,
        /// Index; every area below it is in use.
        first_free: u32,
        /// Entries that the array has room for.
        map_alloc: u32,
        /// Area 0 is the hidden front of a boot chunk.
        has_reserved: bool,
    },
    /// Of the first posting of the bitmap allocator.
    RfcV1 {
        /// Length of the largest known run.
        contig_hint: Bits,
        /// Its start.
        contig_hint_start: Bits,
        /// Index; no block below it has a free bit.
        first_free_block: u32,
        /// The chunk begins with hidden bits.
        has_reserved: bool,
    },
    /// Of cpu_alloc; a unit is `min_alloc_size` bytes.
    CpuAlloc {
        /// Units of the area.
        nr_units: u32,
        /// No unit below is clear.
        first_free: u32,
        /// The event counter `CPU_BYTES`; frees of a wrong size can make it negative.
        cpu_bytes: i64,
    },
}

/// A region of the boot area that becomes a chunk.
///
/// | engine | base | hidden in front | pages |
/// |---|---|---|---|
/// | Linux | page of the region's start | the rest of that page before the region | rounded up, the end hidden |
/// | `rfc-v1` | the same | as Linux, in whole granules, rounded down | rounded down, the end lost |
/// | `areamap` | the unit, for both regions | everything before the region | the whole unit |
/// | `cpu_alloc-2008` | the unit | static data; the area's base is behind it | rounded up |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootRegion {
    /// Base of the chunk, page aligned.
    pub base_addr: u64,
    /// Bytes from the base to the served region.
    pub start_offset: Bytes,
    /// Bytes served.
    pub size: Bytes,
}

/// The chunks that exist from the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootChunks {
    /// Base of the unit that the boot chunks are part of.
    pub base_addr: u64,
    /// Serves dynamic requests.
    pub first: BootRegion,
    /// Serves reserved requests.
    pub reserved: Option<BootRegion>,
    /// Pages of each unit that the boot area holds.
    pub nr_populated: Pages,
}

/// What an engine begins with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Sizes.
    pub geometry: Geometry,
    /// Behaviour flags of the Linux generations; the others do not look at them.
    pub rules: Rules,
    /// Failed atomic requests print the failure line too (Linux generations).
    pub warn_atomic: bool,
    /// Whether late boot has run: the worker may be scheduled, area maps can grow.
    pub async_enabled: bool,
    /// Boot chunks; `None` = no chunk at all.
    pub boot: Option<BootChunks>,
    /// What stands behind the chunks.
    pub backend: Backend,
}

impl Setup {
    /// A set-up from the first chunk of a machine.
    ///
    /// Later chunks get address space from 2^30 upwards, behind the first chunk where that is mapped
    /// page by page.
    pub fn of_first_chunk(preset: &Preset, rules: Rules, chunk: &FirstChunk) -> Result<Self, ConfigError> {
        if let Some(mapped) = chunk.mapped_pages {
            let limit = "must be all pages of a unit: no engine starts with a first chunk that is mapped later";
            return Err(ConfigError::new("mapped_pages", mapped, limit));
        }
        let region = |region: &Region| BootRegion {
            base_addr: region.base_addr,
            start_offset: Bytes(region.start_offset),
            size: Bytes(region.size),
        };
        let mut backend = Backend::new(chunk.possible_cpus(), chunk.page_size, chunk.info.atom_size, chunk.span());
        backend.contiguous = chunk.backend == layout::Backend::KernelMemory;
        backend.unmap_nothing = preset.unmap_nothing;
        if chunk.word == WordSize::Bits32 {
            // Up to the first chunk where that lies above; there is nothing to go on with behind it.
            let (start, _) = backend.address_space();
            backend.address_limit = if chunk.base_addr > start { chunk.base_addr } else { chunk.word.max() };
        }
        if chunk.vm_area.is_some() {
            backend.reserve_span(chunk.page_size, chunk.span());
        }
        Ok(Self {
            geometry: chunk.geometry()?,
            rules,
            warn_atomic: preset.warn_atomic,
            async_enabled: true,
            boot: Some(BootChunks {
                base_addr: chunk.base_addr,
                first: region(&chunk.first),
                reserved: chunk.reserved.as_ref().map(region),
                nr_populated: Pages(chunk.nr_boot_pages() as u32),
            }),
            backend,
        })
    }

    /// The same with later chunks in a vmalloc space, with the spacing of the first chunk: they get the addresses
    /// that the kernel gives them, and can fail to.
    ///
    /// What lies in the space already must be taken there before ([`VmallocSpace::occupy`]), but not the area of
    /// `chunk` itself where it is mapped page by page.
    pub fn with_vmalloc(mut self, chunk: &FirstChunk, mut space: VmallocSpace) -> Result<Self, ConfigError> {
        if chunk.rules.allocators != BootAllocators::Groups {
            let limit = "must be of 2.6.32 or later: before, chunks had no groups and no search of their own";
            return Err(ConfigError::new("vmalloc", "a space", limit));
        }
        if let Some((start, size)) = chunk.vm_area {
            space.occupy(start..start.saturating_add(size))?;
        }
        let (offsets, sizes) = (&chunk.group_offsets, &chunk.group_sizes);
        self.backend = self.backend.with_vmalloc(space, offsets, sizes, chunk.info.atom_size)?;
        Ok(self)
    }

    /// A set-up without boot chunks: every chunk is made on demand.
    pub fn bare(preset: &Preset, rules: Rules, geometry: Geometry) -> Self {
        let page = geometry.page_size().0;
        let span = geometry.unit_size().0 * u64::from(geometry.nr_units());
        let mut backend = Backend::new(geometry.nr_units(), page, page, span);
        backend.unmap_nothing = preset.unmap_nothing;
        Self { geometry, rules, warn_atomic: preset.warn_atomic, async_enabled: true, boot: None, backend }
    }
}

/// Lifetime counters, as in the statistics file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Areas ever taken.
    pub nr_alloc: u64,
    /// Areas ever given back, failed populations included.
    pub nr_dealloc: u64,
    /// Live areas.
    pub nr_cur_alloc: u64,
    /// Most live areas at any time.
    pub nr_max_alloc: u64,
    /// Chunks; the boot chunks count as one.
    pub nr_chunks: u32,
    /// Most chunks at any time.
    pub nr_max_chunks: u32,
    /// Smallest request in bytes; the unit size before the first.
    pub min_alloc_size: Bytes,
    /// Largest request in bytes.
    pub max_alloc_size: Bytes,
}

impl Stats {
    /// Counters of an unused allocator.
    pub fn new(unit_size: Bytes) -> Self {
        Self {
            nr_alloc: 0,
            nr_dealloc: 0,
            nr_cur_alloc: 0,
            nr_max_alloc: 0,
            nr_chunks: 0,
            nr_max_chunks: 0,
            min_alloc_size: unit_size,
            max_alloc_size: Bytes(0),
        }
    }

    #[inline]
    pub(crate) fn allocated(&mut self, size: Bytes) {
        self.allocated_many(size, 1);
    }

    /// Several areas of one size.
    #[inline]
    pub(crate) fn allocated_many(&mut self, size: Bytes, count: u64) {
        self.nr_alloc += count;
        self.nr_cur_alloc += count;
        self.nr_max_alloc = self.nr_max_alloc.max(self.nr_cur_alloc);
        self.min_alloc_size = self.min_alloc_size.min(size);
        self.max_alloc_size = self.max_alloc_size.max(size);
    }

    #[inline]
    pub(crate) fn freed(&mut self) {
        self.freed_many(1);
    }

    #[inline]
    pub(crate) fn freed_many(&mut self, count: u64) {
        self.nr_dealloc += count;
        self.nr_cur_alloc -= count;
    }

    pub(crate) fn chunk_created(&mut self) {
        self.nr_chunks += 1;
        self.nr_max_chunks = self.nr_max_chunks.max(self.nr_chunks);
    }

    pub(crate) fn chunk_destroyed(&mut self) {
        self.nr_chunks -= 1;
    }
}
