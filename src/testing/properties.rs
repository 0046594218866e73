//! What every engine owes, whatever it does inside.
//!
//! # Design
//!
//! Each property drives a fresh engine from a seed and keeps its own shadow of what is live. It
//! uses nothing but [`Engine`], so that every engine goes on the same list ([`engines`]).
//!
//! # Exceptions
//!
//! What an engine does not owe is a variant of [`Exemption`], with the section that says so; a
//! property asks `exempt` and checks the rest.
//!
//! # Source
//!
//! Specification 90 section 1; style guide section 6 (a failed allocation is a result).

use std::collections::BTreeMap;

use super::random::Random;
use crate::backend::{Backend, Supply};
use crate::chunk::Role;
use crate::engine::{self, BootChunks, BootRegion, ChunkView, Engine, Setup};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::units::{Bytes, Pages};
use crate::variant::{Generation, Rules};

/// An engine to try, under a name for messages.
pub type Named = (String, Box<dyn Engine>);

/// A property: an error text if the engine does not have it.
pub type Property = fn(&mut dyn Engine, u64) -> Result<(), String>;

/// Every property, by name.
pub const PROPERTIES: &[(&str, Property)] = &[
    ("live areas are disjoint, aligned, served", live_areas),
    ("bytes add up", totals),
    ("bad frees change nothing", bad_frees),
    ("illegal requests change nothing", illegal_requests),
    ("failed requests keep what is live", failed_requests),
    ("a clone goes on the same", clones),
    ("all can be given back", drained),
];

const STEPS: usize = 600;

/// What a generation need not owe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exemption {
    /// Areas are stored: the engine shows them, and refuses frees of anything else whatever their size.
    KnowsAreas,
    /// Sizes of 0, alignments above a page or of no power of two are refused and leave no trace.
    RefusesIllegal,
    /// An atomic request gets populated pages only.
    AtomicIsPopulated,
    /// A request that fails for want of pages leaves the map as it was.
    FailureKeepsMap,
    /// What is hidden in a boot chunk stays as large as it is.
    HiddenStays,
}

/// Every exemption: who, from what, and what the specification says.
pub const EXEMPTIONS: &[(Generation, Exemption, &str)] = &[
    (Generation::CpuAlloc2008, Exemption::KnowsAreas, "12, free: nothing is stored, two bits are tested"),
    (
        Generation::CpuAlloc2008,
        Exemption::RefusesIllegal,
        "12, alloc steps 1 to 3: served, or a null that moves first_free",
    ),
    (
        Generation::AreaMap,
        Exemption::FailureKeepsMap,
        "11 section 3 step 2: a small head stays with the area before it",
    ),
    (
        Generation::AreaMap,
        Exemption::HiddenStays,
        "11 section 3 step 2: also with the hidden area, which is never freed",
    ),
    (Generation::RfcV1, Exemption::AtomicIsPopulated, "13 section 4, 90 section 1: the wrong pages are tested"),
];

fn exempt(engine: &dyn Engine, from: Exemption) -> bool {
    EXEMPTIONS.iter().any(|(generation, what, _)| (*generation, *what) == (engine.generation(), from))
}

/// Fresh engines: every generation in a kernel's geometry and in some that no kernel has, with and
/// without boot chunks. `rfc-v1` refuses blocks that are not a page; `areamap` and `cpu_alloc-2008`
/// have none.
pub fn engines() -> Vec<Named> {
    let mut out = Vec::new();
    for (page, m, block, pages) in [(4096, 4, 4096, 16), (4096, 4, 1024, 8), (256, 8, 1024, 16), (64, 1, 64, 33)] {
        for boot in [false, true] {
            for generation in Generation::ALL {
                let setup = setup(generation, page, m, block, page * pages, boot);
                let name = format!("{generation}, page {page}, granule {m}, block {block}, {pages} pages, boot {boot}");
                match engine::new(generation, &setup) {
                    Ok(engine) => out.push((name, engine)),
                    Err(error) => {
                        assert!(generation == Generation::RfcV1 && block != page, "{name}: {error}");
                    }
                }
            }
        }
    }
    out
}

/// A machine of two CPUs; the boot area is laid out as the generation does.
fn setup(generation: Generation, page: u64, m: u64, block: u64, unit: u64, boot: bool) -> Setup {
    let geometry = Geometry::new(Bytes(page), Bytes(m), Bytes(block), Bytes(unit), 2).expect("sizes that fit");
    // Area maps have even offsets.
    let even = m.next_multiple_of(2);
    let whole_unit = matches!(generation, Generation::CpuAlloc2008 | Generation::AreaMap);
    let region = |start: u64, size: u64| {
        let base_addr = if whole_unit { 0 } else { start - start % page };
        BootRegion { base_addr, start_offset: Bytes(start - base_addr), size: Bytes(size) }
    };
    let start = page + 5 * even;
    Setup {
        geometry,
        rules: generation.rules().unwrap_or(Rules::LINUX_5_14),
        warn_atomic: true,
        async_enabled: true,
        boot: boot.then(|| BootChunks {
            base_addr: 0,
            first: region(start, unit / 2),
            reserved: Some(region(3 * even, page + 2 * even)),
            nr_populated: Pages(((start + unit / 2) / page) as u32),
        }),
        backend: Backend::new(2, page, page, unit * 2),
    }
}

/// An engine and what is live in it: by chunk and offset, the size asked for.
struct Driven<'a> {
    engine: &'a mut dyn Engine,
    random: Random,
    live: BTreeMap<(ChunkId, u64), u64>,
}

impl<'a> Driven<'a> {
    fn new(engine: &'a mut dyn Engine, seed: u64) -> Self {
        Self { engine, random: Random::new(seed), live: BTreeMap::new() }
    }

    fn request(&mut self) -> Request {
        let g = *self.engine.geometry();
        let max = g.max_request().0;
        let random = &mut self.random;
        let top = 1 << random.below(u64::from(max.ilog2()) + 1);
        let size = (1 + random.below(top)).min(max);
        let align = 1 << random.below(u64::from(g.page_size().0.ilog2()) + 1);
        let sleep = if random.one_in(6) { Sleep::Never } else { Sleep::Full };
        Request { sleep, reserved: random.one_in(10), nowarn: true, ..Request::new(Bytes(size), Bytes(align)) }
    }

    /// A random operation. An allocation is checked against everything that is live.
    fn step(&mut self) -> Result<(), String> {
        if self.random.one_in(3) && self.engine.balance_pending() {
            self.engine.balance();
        }
        if self.random.one_in(60) {
            let pages = self.random.below(8);
            let supply = if self.random.one_in(2) { Supply::of(pages) } else { Supply::ENDLESS };
            self.engine.backend_mut().page_supply = supply;
        }
        if self.random.below(100) < 58 {
            let request = self.request();
            if let Outcome::Placed { chunk, off } = self.engine.alloc(&request) {
                self.placed(&request, chunk, off)?;
            }
        } else if !self.live.is_empty() {
            let at = self.random.below(self.live.len() as u64) as usize;
            let (chunk, off) = *self.live.keys().nth(at).expect("below the length");
            self.free(chunk, off)?;
        }
        Ok(())
    }

    fn placed(&mut self, request: &Request, chunk: ChunkId, off: Bytes) -> Result<(), String> {
        let (from, to) = (off.0, off.0 + request.size.0);
        let what = format!("{request:?} at {chunk}:{from}");
        let view = self.engine.chunk(chunk).ok_or_else(|| format!("{what}: no such chunk"))?;
        let end = view.nr_pages.0 as u64 * self.engine.geometry().page_size().0 - view.end_offset.0;
        if from < view.start_offset.0 || to > end {
            return Err(format!("{what}: outside {}..{end}", view.start_offset));
        }
        if from % request.align.0 != 0 {
            return Err(format!("{what}: not aligned"));
        }
        let before = self.live.range(..(chunk, to)).next_back();
        if before.is_some_and(|((other, start), size)| *other == chunk && start + size > from) {
            return Err(format!("{what}: overlaps {before:?}"));
        }
        self.live.insert((chunk, from), request.size.0);
        if request.sleep == Sleep::Never && exempt(self.engine, Exemption::AtomicIsPopulated) {
            return Ok(());
        }
        let page = self.engine.geometry().page_size().0;
        let hole = (from / page..to.div_ceil(page)).find(|p| view.populated[*p as usize / 64] >> (p % 64) & 1 == 0);
        if hole.is_some() {
            return Err(format!("{what}: page {hole:?} is not populated"));
        }
        Ok(())
    }

    fn free(&mut self, chunk: ChunkId, off: u64) -> Result<(), String> {
        let size = self.live.remove(&(chunk, off)).expect("it is live");
        let freed = self.engine.free(chunk, Bytes(off), Some(Bytes(size))).map_err(|error| error.to_string())?;
        if freed.0 < size {
            return Err(format!("free of {chunk}:{off} gave {freed} of {size} bytes"));
        }
        Ok(())
    }

    fn text(&self) -> String {
        format!("{:?}", self.engine)
    }
}

fn live_areas(engine: &mut dyn Engine, seed: u64) -> Result<(), String> {
    let mut driven = Driven::new(engine, seed);
    for _ in 0..STEPS {
        driven.step()?;
        driven.engine.verify().map_err(|violation| violation.to_string())?;
    }
    if exempt(driven.engine, Exemption::KnowsAreas) {
        return Ok(());
    }
    for ((chunk, off), size) in &driven.live {
        let area = driven.engine.area_at(*chunk, Bytes(off + size - 1));
        if area.is_none_or(|(start, len)| start.0 > *off || start.0 + len.0 < off + size) {
            return Err(format!("{chunk}:{off}: {size} bytes are live, the engine says {area:?}"));
        }
    }
    Ok(())
}

/// Whether `found` bytes are all `size` bytes of a chunk. What was glued to the hidden front is less
/// than the smallest area; offsets are even, so that it is 2 bytes, once.
fn all_bytes(engine: &dyn Engine, view: &ChunkView<'_>, found: u64, size: u64) -> bool {
    let glued = view.role != Role::Dynamic && exempt(engine, Exemption::HiddenStays);
    found == size || (glued && found + 2 == size)
}

/// In every chunk free, live and hidden bytes are the map; counters count what is live.
fn totals(engine: &mut dyn Engine, seed: u64) -> Result<(), String> {
    let mut driven = Driven::new(engine, seed);
    for _ in 0..STEPS {
        driven.step()?;
        let engine = &*driven.engine;
        let mut nr_alloc = 0;
        for id in engine.chunk_ids() {
            let view = engine.chunk(id).ok_or("a listed chunk does not exist")?;
            let mut live = 0;
            for ((_, off), asked) in driven.live.range((id, 0)..=(id, u64::MAX)) {
                live += if exempt(engine, Exemption::KnowsAreas) {
                    asked.next_multiple_of(engine.geometry().min_alloc_size().0)
                } else {
                    engine.area_at(id, Bytes(*off)).map_or(0, |(_, size)| size.0)
                };
                nr_alloc += 1;
            }
            let hidden = view.start_offset.0 + view.end_offset.0;
            let size = u64::from(view.nr_pages.0) * engine.geometry().page_size().0;
            if !all_bytes(engine, &view, view.free_bytes.0 + live + hidden, size) {
                return Err(format!("chunk {id}: free {}, live {live}, hidden {hidden} of {size}", view.free_bytes));
            }
        }
        let stats = engine.stats();
        if stats.nr_cur_alloc != nr_alloc || stats.nr_alloc - stats.nr_dealloc != nr_alloc {
            return Err(format!("{nr_alloc} areas are live: {stats:?}"));
        }
    }
    Ok(())
}

/// Double and wild frees are refused and leave everything as it is. The caller names no size, which an
/// engine with [`Exemption::KnowsAreas`] refuses in any case: more it does not owe.
fn bad_frees(engine: &mut dyn Engine, seed: u64) -> Result<(), String> {
    let mut driven = Driven::new(engine, seed);
    for step in 0..STEPS {
        driven.step()?;
        if step % 10 != 0 {
            continue;
        }
        let before = driven.text();
        let unit = driven.engine.geometry().unit_size().0;
        let mut wild = vec![(ChunkId(1000), 0), (ChunkId(0), unit * 8), (ChunkId(0), u64::MAX)];
        for id in driven.engine.chunk_ids() {
            wild.push((id, driven.random.below(unit)));
            wild.push((id, 0));
        }
        // Inside live areas.
        wild.extend(driven.live.iter().take(20).map(|((id, off), size)| (*id, off + size / 2)));
        for (id, off) in wild.into_iter().filter(|place| !driven.live.contains_key(place)) {
            let refused = driven.engine.check_free(id, Bytes(off), None).is_err()
                && driven.engine.free(id, Bytes(off), None).is_err();
            if !refused {
                return Err(format!("free of {id}:{off}, which is not live, was served"));
            }
        }
        if driven.text() != before {
            return Err("a refused free changed the state".into());
        }
        if let Some((id, off)) = driven.live.keys().next().copied() {
            driven.free(id, off)?;
            let before = driven.text();
            if driven.engine.free(id, Bytes(off), None).is_ok() || driven.text() != before {
                return Err(format!("double free of {id}:{off}"));
            }
        }
    }
    Ok(())
}

fn illegal_requests(engine: &mut dyn Engine, seed: u64) -> Result<(), String> {
    let mut driven = Driven::new(engine, seed);
    for step in 0..STEPS {
        driven.step()?;
        if step % 20 != 0 {
            continue;
        }
        let before = driven.text();
        let g = *driven.engine.geometry();
        for (size, align) in [
            (0, 4),
            (g.max_request().0 + 1, g.min_alloc_size().0),
            (u64::MAX, 4),
            (16, g.page_size().0 * 2),
            (16, 24),
            (16, u64::MAX),
        ] {
            let request = Request { nowarn: true, ..Request::new(Bytes(size), Bytes(align)) };
            if exempt(driven.engine, Exemption::RefusesIllegal) {
                let owed = match size {
                    0 => Outcome::ZERO_SIZE,
                    u64::MAX => Outcome::Failed(Reason::NoRoom),
                    _ => continue,
                };
                let outcome = driven.engine.alloc(&request);
                if outcome != owed {
                    return Err(format!("{request:?}: {outcome:?}"));
                }
                continue;
            }
            let outcome = driven.engine.alloc(&request);
            if outcome != Outcome::Failed(Reason::Illegal) {
                return Err(format!("{request:?}: {outcome:?}"));
            }
        }
        if driven.text() != before && !exempt(driven.engine, Exemption::RefusesIllegal) {
            return Err("an illegal request changed the state".into());
        }
    }
    Ok(())
}

/// A request that fails for want of pages or chunks changes no allocated bit and no counter of live
/// areas, and every invariant holds.
fn failed_requests(engine: &mut dyn Engine, seed: u64) -> Result<(), String> {
    let mut driven = Driven::new(engine, seed);
    for _ in 0..STEPS {
        driven.step()?;
        let backend = driven.engine.backend_mut();
        backend.page_supply = Supply::of(driven.random.below(3));
        backend.chunk_supply = Supply::of(0);
        let request = driven.request();
        let maps = allocated(driven.engine);
        match driven.engine.alloc(&request) {
            Outcome::Placed { chunk, off } => driven.placed(&request, chunk, off)?,
            Outcome::Failed(reason) => {
                let (now, keeps) = (allocated(driven.engine), !exempt(driven.engine, Exemption::FailureKeepsMap));
                let live = |all: &[Allocated]| all.iter().map(|one| (one.0, one.3, one.4)).collect::<Vec<_>>();
                if live(&now) != live(&maps) || (keeps && now != maps) {
                    return Err(format!("{request:?} failed ({reason:?}) and changed what is allocated"));
                }
            }
        }
        let backend = driven.engine.backend_mut();
        backend.page_supply = Supply::ENDLESS;
        backend.chunk_supply = Supply::ENDLESS;
        driven.engine.verify().map_err(|violation| violation.to_string())?;
    }
    Ok(())
}

/// A chunk, its allocated bits, free bytes and live areas, and the live areas of all chunks.
type Allocated = (ChunkId, Vec<u64>, Bytes, u32, u64);

/// Allocated bits, free bytes and live areas of every chunk.
fn allocated(engine: &dyn Engine) -> Vec<Allocated> {
    let ids = engine.chunk_ids().into_iter();
    let views = ids.filter_map(|id| Some((id, engine.chunk(id)?)));
    let live = engine.stats().nr_cur_alloc;
    views.map(|(id, view)| (id, view.alloc_map.to_vec(), view.free_bytes, view.nr_alloc, live)).collect()
}

/// A clone and the original answer the same and end in the same state; what one does, the other
/// does not see.
fn clones(engine: &mut dyn Engine, seed: u64) -> Result<(), String> {
    let mut driven = Driven::new(engine, seed);
    for _ in 0..STEPS / 2 {
        driven.step()?;
    }
    let before = driven.text();
    let mut clone = driven.engine.boxed_clone();
    if format!("{clone:?}") != before {
        return Err("a clone shows another state".into());
    }
    let (random, live) = (driven.random.clone(), driven.live.clone());
    for _ in 0..STEPS / 2 {
        driven.step()?;
    }
    if format!("{clone:?}") != before {
        return Err("what was done to the original changed its clone".into());
    }
    let mut other = Driven { engine: &mut *clone, random, live };
    for _ in 0..STEPS / 2 {
        other.step()?;
    }
    if other.live != driven.live || other.text() != driven.text() {
        return Err("a clone went another way".into());
    }
    Ok(())
}

/// After everything is freed nothing is live and every byte is free.
fn drained(engine: &mut dyn Engine, seed: u64) -> Result<(), String> {
    let mut driven = Driven::new(engine, seed);
    for _ in 0..STEPS {
        driven.step()?;
    }
    for (id, off) in driven.live.keys().copied().collect::<Vec<_>>() {
        driven.free(id, off)?;
    }
    driven.engine.backend_mut().page_supply = Supply::ENDLESS;
    driven.engine.balance();
    driven.engine.verify().map_err(|violation| violation.to_string())?;
    let engine = &*driven.engine;
    for id in engine.chunk_ids() {
        let view = engine.chunk(id).ok_or("a listed chunk does not exist")?;
        let size = u64::from(view.nr_pages.0) * engine.geometry().page_size().0;
        let hidden = view.start_offset.0 + view.end_offset.0;
        if view.nr_alloc != 0 || !all_bytes(engine, &view, view.free_bytes.0 + hidden, size) {
            return Err(format!("chunk {id}: {} areas, {} bytes free", view.nr_alloc, view.free_bytes));
        }
    }
    match engine.stats().nr_cur_alloc {
        0 => Ok(()),
        live => Err(format!("{live} areas live")),
    }
}
