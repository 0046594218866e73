//! Random operations on the engine and on the naive model, side by side.
//!
//! # Design
//!
//! A [`Case`] is a generation, a geometry, boot chunks and a list of operations, all drawn from
//! one seed. After every operation outcome, events, log lines, the complete state and the work counted
//! must be equal, and the engine's invariants hold. Operations name live areas by position, so that a
//! list stays meaningful when some are left out: a failing case is minimised by leaving out.
//!
//! Geometries go far beyond those of kernels, because sweeps do: see `docs/free-geometry.md`.
//!
//! # Cost
//!
//! Some microseconds an operation: chunks are kept small and few. Invariants are checked after
//! each operation where chunks have at most [`VERIFY_BITS`] bits, after every 16th else.

use std::collections::HashSet;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};

use rayon::prelude::*;

use super::naive::Naive;
use super::random::Random;
use crate::backend::{Backend, Supply};
use crate::cost::Counting;
use crate::engine::linux::Linux;
use crate::engine::{BootChunks, BootRegion, Engine, Setup};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Request, Sleep};
use crate::units::{Bytes, Pages};
use crate::variant::{Generation, Thresholds};

/// Chunks of up to this many bits are verified after every operation.
pub const VERIFY_BITS: u32 = 1024;
/// Operations of a case.
const CASE_OPS: usize = 500;
/// Chunks above which frees are preferred.
const MANY_CHUNKS: u32 = 6;
/// Differences reported in full.
const SHOWN: usize = 4;

/// The generations that have a naive model.
pub const GENERATIONS: [Generation; 3] = [Generation::Linux414, Generation::Linux52, Generation::Linux514];

/// One step of a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// A request.
    Alloc(Request),
    /// Frees the live area at this position, counted round.
    Free(usize),
    /// Tries to free a place that need not be live.
    WildFree(u32, u64),
    /// Runs the worker if it is scheduled.
    Balance,
    /// Runs the worker.
    ForceBalance,
    /// The next pages, mappings and chunks that can be had; `None` = all.
    Faults(Option<u64>, Option<u64>, Option<u64>),
    /// Late boot.
    EnableAsync,
}

/// Where an allocator begins and what is done with it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Which rules.
    pub generation: Generation,
    /// Where it begins.
    pub setup: Setup,
    /// Numbers at which something is done; none of a kernel in some cases.
    pub thresholds: Thresholds,
    /// The steps.
    pub ops: Vec<Op>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let g = &self.setup.geometry;
        writeln!(
            f,
            "seed {}: {}, page {}, min_alloc {}, block {}, unit {}, {} units, contiguous {}, async {}, boot {:?}, {:?}",
            self.seed,
            self.generation,
            g.page_size().0,
            g.min_alloc_size().0,
            g.block_size().0,
            g.unit_size().0,
            g.nr_units(),
            self.setup.backend.contiguous,
            self.setup.async_enabled,
            self.setup.boot,
            self.thresholds
        )?;
        for op in &self.ops {
            writeln!(f, "  {op:?}")?;
        }
        Ok(())
    }
}

/// A step after which the two are not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Index of the step.
    pub step: usize,
    /// What differs.
    pub what: String,
}

/// A geometry that a kernel could or could not have. `large` allows chunks of many bits.
fn random_geometry(random: &mut Random, large: bool) -> Geometry {
    loop {
        let page = 64 << random.below(7);
        let m = if random.one_in(2) { 4 } else { 1 << random.below(5) };
        let block = (page << 4) >> random.below(9);
        if block < m {
            continue;
        }
        let whole = page.max(block);
        let units = 1 + random.below(64 * page / whole);
        let unit = whole * units;
        if unit / m > if large { 65536 } else { 2048 } {
            continue;
        }
        let nr_units = 1 + random.below(4) as u32;
        let geometry = Geometry::new(Bytes(page), Bytes(m), Bytes(block), Bytes(unit), nr_units);
        return geometry.expect("the sizes fit each other");
    }
}

/// Boot chunks of a layout static, reserved, dynamic.
fn random_boot(random: &mut Random, g: &Geometry) -> Option<BootChunks> {
    let (m, page) = (g.min_alloc_size().0, g.page_size().0);
    let bits = g.unit_size().0 / m;
    if random.one_in(4) || bits < 8 {
        return None;
    }
    let mut take = |left: u64| m * (1 + random.below(left));
    let static_size = take(bits / 4);
    let reserved_size = take(bits / 4);
    let reserved_size = if random.one_in(2) { reserved_size } else { 0 };
    let left = g.unit_size().0 - static_size - reserved_size;
    // Often ends at a page border.
    let dyn_size = m * (1 + random.below(left / m));
    let dyn_size = if random.one_in(2) {
        let end = (static_size + reserved_size + dyn_size).next_multiple_of(page).min(g.unit_size().0);
        end - static_size - reserved_size
    } else {
        dyn_size
    };
    let base_addr = page * 1000;
    let region = |at: u64, size: u64| BootRegion {
        base_addr: base_addr + at / page * page,
        start_offset: Bytes(at % page),
        size: Bytes(size),
    };
    Some(BootChunks {
        base_addr,
        first: region(static_size + reserved_size, dyn_size),
        reserved: (reserved_size > 0).then(|| region(static_size, reserved_size)),
        nr_populated: Pages(((static_size + reserved_size + dyn_size) / page) as u32),
    })
}

/// An allocator to begin with.
pub fn random_setup(random: &mut Random, generation: Generation, large: bool) -> Setup {
    let geometry = random_geometry(random, large);
    let page = geometry.page_size().0;
    let span = geometry.unit_size().0 * u64::from(geometry.nr_units());
    let mut backend = Backend::new(geometry.nr_units(), page, page, span);
    backend.contiguous = random.one_in(16);
    backend.unmap_nothing = random.one_in(2);
    backend.journal.enabled = true;
    Setup {
        geometry,
        rules: generation.rules().expect("a Linux generation"),
        warn_atomic: random.one_in(2),
        async_enabled: !random.one_in(8),
        boot: random_boot(random, &geometry),
        backend,
    }
}

/// Thresholds that a kernel could have.
fn random_thresholds(random: &mut Random, g: &Geometry) -> Thresholds {
    let high = random.below(12) as u32;
    let unit_slot = Geometry::slot_formula(g.unit_size());
    Thresholds {
        empty_pop_pages_low: random.below(u64::from(high) + 1) as u32,
        empty_pop_pages_high: high,
        slot_fail_threshold: random.below(u64::from(unit_slot) + 2) as u32,
        reclaim_divisor: 1 + random.below(16) as u32,
    }
}

/// Draws requests of one style.
#[derive(Clone, Copy, Debug)]
struct Style {
    /// Sizes go up to 2 to the power of this many bits of the map.
    size_shift: u64,
    /// One request in so many is atomic.
    atomic: u64,
    /// Percentage of steps that allocate.
    fill: u64,
    /// One in so many steps runs the worker if it is scheduled.
    balance: u64,
    /// One in so many steps changes what can be had.
    faults: u64,
}

impl Style {
    fn random(random: &mut Random, g: &Geometry) -> Self {
        let max = (g.max_request().0 / g.min_alloc_size().0).ilog2() + 1;
        Style {
            size_shift: 1 + random.below(u64::from(max)),
            atomic: 1 + random.below(12),
            fill: 35 + random.below(40),
            balance: 1 + random.below(4) * random.below(12),
            faults: 40 + random.below(400),
        }
    }

    fn request(&self, random: &mut Random, g: &Geometry) -> Request {
        let m = g.min_alloc_size().0;
        let top = 1 << random.below(self.size_shift + 1);
        let bits = if random.one_in(3) { top } else { 1 + random.below(top) };
        let mut size = (bits * m).min(g.max_request().0);
        let aligns = u64::from(g.page_size().0.ilog2()) + 1;
        let mut align = match random.below(4) {
            0 => 1 << random.below(aligns),
            1 => m << random.below(3),
            2 => size.next_power_of_two(),
            _ => m,
        }
        .min(g.page_size().0);
        match random.below(64) {
            0 => {
                size =
                    [0, g.max_request().0, g.max_request().0 + 1, u64::MAX, g.unit_size().0][random.below(5) as usize]
            }
            1 => align = [0, 3, 6, g.page_size().0 * 2, 1 << 40][random.below(5) as usize],
            2 => size = size.saturating_sub(1),
            _ => {}
        }
        let sleep = match random.below(self.atomic * 2) {
            0 | 1 => Sleep::Never,
            2 => Sleep::NoFs,
            _ => Sleep::Full,
        };
        Request { size: Bytes(size), align: Bytes(align), sleep, reserved: random.one_in(8), nowarn: random.one_in(4) }
    }
}

fn supply(left: Option<u64>) -> Supply {
    left.map_or(Supply::ENDLESS, Supply::of)
}

/// The engine and the naive model, and what is live in both.
struct Pair {
    engine: Linux,
    naive: Naive,
    live: Vec<(ChunkId, Bytes)>,
    verify_all: bool,
    steps: usize,
}

impl Pair {
    fn new(setup: &Setup, thresholds: Thresholds) -> Self {
        let mut engine = Linux::new(setup);
        let mut naive = Naive::new(setup).expect("rules of a generation");
        for engine in [&mut engine as &mut dyn Engine, &mut naive] {
            engine.set_thresholds(thresholds).expect("they were drawn so");
        }
        if let Some(meter) = engine.meter_mut() {
            meter.set_counting(Counting::Full);
        }
        Pair {
            engine,
            naive,
            live: Vec::new(),
            verify_all: setup.geometry.unit_size().0 / setup.geometry.min_alloc_size().0 <= u64::from(VERIFY_BITS),
            steps: 0,
        }
    }

    /// Runs one step on both; what differs.
    fn step(&mut self, op: Op) -> Result<(), String> {
        let (engine, naive): (&mut dyn Engine, &mut dyn Engine) = (&mut self.engine, &mut self.naive);
        match op {
            Op::Alloc(request) => {
                let (a, b) = (naive.alloc(&request), engine.alloc(&request));
                if a != b {
                    return Err(format!("outcome: naive {a:?}, engine {b:?}"));
                }
                if let Outcome::Placed { chunk, off } = a {
                    self.live.push((chunk, off));
                }
            }
            Op::Free(at) => {
                if !self.live.is_empty() {
                    let (chunk, off) = self.live.swap_remove(at % self.live.len());
                    let (a, b) = (naive.free(chunk, off, None), engine.free(chunk, off, None));
                    if a.is_err() || a != b {
                        return Err(format!("free of {chunk} at {off}: naive {a:?}, engine {b:?}"));
                    }
                }
            }
            Op::WildFree(chunk, off) => {
                let (chunk, off) = (ChunkId(chunk), Bytes(off));
                if !self.live.contains(&(chunk, off)) {
                    let (a, b) = (naive.free(chunk, off, None), engine.free(chunk, off, None));
                    if a.is_ok() || b.is_ok() {
                        return Err(format!("wild free of {chunk} at {off}: naive {a:?}, engine {b:?}"));
                    }
                }
            }
            Op::Balance | Op::ForceBalance => {
                for engine in [engine, naive] {
                    if op == Op::ForceBalance || engine.balance_pending() {
                        engine.balance();
                    }
                }
            }
            Op::Faults(pages, maps, chunks) => {
                for engine in [engine, naive] {
                    let backend = engine.backend_mut();
                    backend.page_supply = supply(pages);
                    backend.map_supply = supply(maps);
                    backend.chunk_supply = supply(chunks);
                }
            }
            Op::EnableAsync => {
                engine.enable_async();
                naive.enable_async();
            }
        }
        self.steps += 1;
        self.compare()
    }

    fn compare(&mut self) -> Result<(), String> {
        let (a, b) = (&mut self.naive.backend_mut().journal, &mut self.engine.backend.journal);
        if a.events != b.events || a.log != b.log {
            return Err(format!("journal: naive {:?} {:?}, engine {:?} {:?}", a.events, a.log, b.events, b.log));
        }
        for journal in [a, b] {
            journal.events.clear();
            journal.log.clear();
        }
        if let Some(what) = self.naive.difference(&self.engine) {
            return Err(what);
        }
        if self.verify_all || self.steps % 16 == 0 {
            self.engine.verify().map_err(|violation| violation.to_string())?;
        }
        Ok(())
    }
}

fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

impl Case {
    /// Runs the whole case: the first difference.
    pub fn run(&self) -> Result<(), Difference> {
        let mut pair = Pair::new(&self.setup, self.thresholds);
        guarded(|| pair.compare()).map_err(|what| Difference { step: 0, what })?;
        for (step, op) in self.ops.iter().enumerate() {
            guarded(|| pair.step(*op)).map_err(|what| Difference { step, what })?;
        }
        Ok(())
    }

    /// A case drawn from `seed`, run while it is drawn.
    pub fn random(seed: u64) -> (Case, Result<(), Difference>) {
        let mut random = Random::new(seed);
        let generation = GENERATIONS[random.below(3) as usize];
        let large = random.one_in(50);
        let setup = random_setup(&mut random, generation, large);
        let g = setup.geometry;
        let mut style = Style::random(&mut random, &g);
        let thresholds = if random.one_in(4) { random_thresholds(&mut random, &g) } else { Thresholds::KERNEL };
        let mut pair = Pair::new(&setup, thresholds);
        let mut case = Case { seed, generation, setup, thresholds, ops: Vec::new() };
        let mut result = guarded(|| pair.compare());
        while result.is_ok() && case.ops.len() < CASE_OPS {
            if random.one_in(100) {
                style = Style::random(&mut random, &g);
            }
            let op = next_op(&mut random, &style, &pair, &g);
            case.ops.push(op);
            result = guarded(|| pair.step(op));
        }
        let step = case.ops.len().saturating_sub(1);
        (case, result.map_err(|what| Difference { step, what }))
    }

    /// The case with every step left out that is not needed for a difference.
    pub fn minimised(mut self) -> (Case, Difference) {
        let mut found = match self.run() {
            Err(found) => found,
            Ok(()) => return (self, Difference { step: 0, what: "not repeatable".into() }),
        };
        self.ops.truncate(found.step + 1);
        let mut piece = self.ops.len().div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < self.ops.len() {
                let mut shorter = self.clone();
                shorter.ops.drain(at..(at + piece).min(self.ops.len()));
                match shorter.run() {
                    Err(difference) => {
                        shorter.ops.truncate(difference.step + 1);
                        self = shorter;
                        found = difference;
                    }
                    Ok(()) => at += piece,
                }
            }
            piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
        }
        (self, found)
    }
}

fn next_op(random: &mut Random, style: &Style, pair: &Pair, g: &Geometry) -> Op {
    if random.one_in(style.balance) && pair.engine.balance_pending() {
        return Op::Balance;
    }
    if random.one_in(style.faults) {
        let mut some = |n| if random.one_in(2) { None } else { Some(random.below(n)) };
        return Op::Faults(some(40), some(40), some(4));
    }
    match random.below(200) {
        0 => return Op::ForceBalance,
        1 => {
            let chunk = if random.one_in(8) { u32::MAX } else { random.below(8) as u32 };
            return Op::WildFree(chunk, random.below(g.unit_size().0 + 16));
        }
        2 if random.one_in(10) => return Op::EnableAsync,
        _ => {}
    }
    let fill = if pair.engine.stats().nr_chunks > MANY_CHUNKS { 15 } else { style.fill };
    if random.below(100) < fill {
        Op::Alloc(style.request(random, g))
    } else {
        // The newest and the oldest often.
        let at = random.below(pair.live.len() as u64 + 1) as usize;
        Op::Free(if random.one_in(4) { at / 2 } else { at })
    }
}

/// What a run has found.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Different geometries.
    pub geometries: usize,
    /// Operations.
    pub operations: u64,
    /// Cases that differ.
    pub differences: u64,
    /// The first of them, minimised.
    pub shown: Vec<String>,
}

/// Runs cases `from..to` of `seed`, in parallel.
pub fn run_cases(seed: u64, from: u64, to: u64) -> Summary {
    let results: Vec<_> = (from..to)
        .into_par_iter()
        .map(|index| {
            let (case, result) = Case::random(Random::new(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next());
            let g = case.setup.geometry;
            let key = (g.page_size().0, g.min_alloc_size().0, g.block_size().0, g.unit_size().0);
            (key, case.ops.len() as u64, result.is_err().then_some(case))
        })
        .collect();
    let geometries: HashSet<_> = results.iter().map(|(key, ..)| *key).collect();
    let failed: Vec<_> = results.iter().filter_map(|(_, _, failed)| failed.as_ref()).collect();
    let shown = failed.iter().take(SHOWN).map(|case| {
        let (case, difference) = (*case).clone().minimised();
        format!("{case}  step {}: {}", difference.step, difference.what)
    });
    Summary {
        geometries: geometries.len(),
        operations: results.iter().map(|(_, ops, _)| ops).sum(),
        differences: failed.len() as u64,
        shown: shown.collect(),
    }
}

/// Runs at least `operations` random operations.
pub fn run(operations: u64, seed: u64) -> Summary {
    run_cases(seed, 0, operations.div_ceil(CASE_OPS as u64))
}
