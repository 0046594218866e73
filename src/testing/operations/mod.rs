//! Operations out of bytes, on every engine, judged after each one.
//!
//! # Design
//!
//! [`run`] reads bytes as a machine and a list of operations, so that one driver serves a fuzzer
//! (`fuzz/fuzz_targets/operations.rs`), a plain runner without one (`examples/fuzz.rs`) and the tests, which
//! replay what was found. After **every** operation [`Engine::verify`] holds and the shadow ([`live`])
//! agrees; beside that one of four things is tried ([`Trial`]):
//!
//! ```text
//! Shadow   nothing more; any generation, with and without boot chunks
//! Naive    the slow model of the rules does the same: outcome, events, log, costs, whole state after each step
//! Batch    a second allocator gets in one call what the first gets one by one: answers, then whole state
//! Resume   a second allocator is made from a snapshot on the way and goes on: answers, then whole state
//! ```
//!
//! # Units
//!
//! An *operation* is a request, a free or a run of the worker on the allocator that is judged. What the
//! second one does is not counted, nor are faults, snapshots and the end of early boot.
//!
//! # Cost
//!
//! About 1 microsecond an operation at [`Scale::Small`], for which it is made.

pub mod input;
pub mod live;
pub mod machine;

use std::ops::AddAssign;
use std::panic::{catch_unwind, AssertUnwindSafe};

use self::input::Input;
use self::live::Live;
pub use self::machine::Scale;
use super::naive::Naive;
use super::random::Random;
use crate::allocator::{Allocator, Balance, BatchError, NULL, ZERO_SIZE_PTR};
use crate::backend::Supply;
use crate::cost::Counting;
use crate::engine::Engine;
use crate::request::{ChunkId, Request, Sleep};
use crate::units::Bytes;
use crate::variant::Generation;

/// Bytes of a case that the runner makes: some hundred operations.
const CASE_BYTES: usize = 2048;
/// Chunks above which frees are preferred.
const MANY_CHUNKS: u32 = 4;
/// Live areas above which frees are preferred.
const MANY_AREAS: usize = 300;
/// Most requests or frees of a batch.
const BATCH: u64 = 24;
/// Every so many steps a second allocator is compared as a whole.
const WHOLE_EVERY: u64 = 16;

/// What is tried beside the shadow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trial {
    /// Nothing.
    Shadow,
    /// The slow model.
    Naive,
    /// Batches against single calls.
    Batch,
    /// Snapshots.
    Resume,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lists of operations.
    pub cases: u64,
    /// Requests, frees and runs of the worker.
    pub operations: u64,
    /// Requests that were served.
    pub placed: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Frees of live areas.
    pub freed: u64,
    /// Frees that were refused, as they must be.
    pub refused: u64,
    /// Operations beside which the slow model went.
    pub naive: u64,
    /// Operations that a second allocator did in batches.
    pub batched: u64,
    /// Operations that a restored allocator did as well.
    pub resumed: u64,
    /// Operations by generation, oldest first.
    pub generations: [u64; Generation::ALL.len()],
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.operations += other.operations;
        self.placed += other.placed;
        self.failed += other.failed;
        self.freed += other.freed;
        self.refused += other.refused;
        self.naive += other.naive;
        self.batched += other.batched;
        self.resumed += other.resumed;
        self.generations.iter_mut().zip(other.generations).for_each(|(sum, more)| *sum += more);
    }
}

/// The second allocator.
enum Beside {
    Nothing,
    Naive(Box<Naive>),
    Batch(Box<Allocator>),
    Resumed(Option<Box<Allocator>>),
}

/// How requests are drawn; changes on the way.
#[derive(Clone, Copy)]
struct Style {
    /// Sizes go up to 2 to the power of this many granules.
    size_shift: u64,
    /// One request in so many is atomic.
    atomic: u64,
    /// Of 256 steps so many allocate.
    fill: u64,
}

impl Style {
    fn draw(input: &mut Input<'_>, engine: &dyn Engine) -> Self {
        let g = engine.geometry();
        let powers = u64::from((g.max_request().0 / g.min_alloc_size().0).max(1).ilog2()) + 1;
        Self { size_shift: input.below(powers), atomic: 1 + input.below(12), fill: 90 + input.below(100) }
    }
}

struct Run<'a> {
    input: Input<'a>,
    subject: Allocator,
    live: Live,
    beside: Beside,
    style: Style,
    whole_every: u64,
    steps: u64,
    tally: Tally,
}

/// Runs a list of operations: what was done, or the first thing that was wrong. `scale` replaces what the bytes say.
pub fn run(bytes: &[u8], scale: Option<Scale>) -> Result<Tally, String> {
    run_comparing(bytes, scale, WHOLE_EVERY)
}

/// The same, with the second allocator compared as a whole every so many steps: 1 finds out where a difference begins.
pub fn run_comparing(bytes: &[u8], scale: Option<Scale>, whole_every: u64) -> Result<Tally, String> {
    let mut input = Input::new(bytes);
    let drawn = if input.below(64) == 63 { Scale::Kernel } else { Scale::Small };
    let scale = scale.unwrap_or(drawn);
    let trial = match input.below(16) {
        0..=8 => Trial::Shadow,
        9 => Trial::Naive,
        10..=13 => Trial::Batch,
        _ => Trial::Resume,
    };
    let generation = match (input.below(9), trial) {
        (0 | 1, _) => Generation::Linux414,
        (2 | 3, _) => Generation::Linux52,
        (4 | 5, _) | (_, Trial::Naive) => Generation::Linux514,
        (other, _) => Generation::ALL[other as usize - 6],
    };
    match Run::new(input, scale, trial, generation) {
        Some(run) => {
            Run { whole_every, ..run }.go().map_err(|what| format!("{generation}, {scale:?}, {trial:?}: {what}"))
        }
        None => Ok(Tally::default()),
    }
}

impl<'a> Run<'a> {
    fn new(mut input: Input<'a>, scale: Scale, trial: Trial, generation: Generation) -> Option<Self> {
        let balance = machine::policy(&mut input);
        let small = trial != Trial::Resume && scale == Scale::Small;
        let (subject, beside) = if small || trial == Trial::Naive {
            let balance = if trial == Trial::Naive { Balance::Manual } else { balance };
            let mut setup = match scale {
                Scale::Small => machine::small_setup(&mut input, generation, true),
                Scale::Kernel => machine::kernel_setup(&mut input, generation)?,
            };
            setup.backend.journal.enabled = trial == Trial::Naive;
            let mut subject = machine::small(&setup, generation, balance)?;
            let beside = match trial {
                Trial::Naive => {
                    if let Some(meter) = subject.engine_mut().meter_mut() {
                        meter.set_counting(if input.one_in(4) { Counting::Full } else { Counting::Totals });
                    }
                    Beside::Naive(Box::new(Naive::new(&setup)?))
                }
                Trial::Batch => Beside::Batch(Box::new(subject.clone())),
                Trial::Shadow | Trial::Resume => Beside::Nothing,
            };
            (subject, beside)
        } else {
            let subject = machine::whole(&mut input, generation, scale, balance)?;
            let beside = match trial {
                Trial::Batch => Beside::Batch(Box::new(subject.clone())),
                Trial::Resume => Beside::Resumed(None),
                Trial::Shadow | Trial::Naive => Beside::Nothing,
            };
            (subject, beside)
        };
        let style = Style::draw(&mut input, subject.engine());
        let (live, tally) = (Live::default(), Tally::default());
        Some(Self { input, subject, live, beside, style, whole_every: WHOLE_EVERY, steps: 0, tally })
    }

    fn go(mut self) -> Result<Tally, String> {
        self.after(None)?;
        while !self.input.ended() {
            self.steps += 1;
            self.step().map_err(|what| format!("step {}: {what}", self.steps))?;
        }
        self.live.check_all(self.subject.engine())?;
        self.live.find_all(&self.subject)?;
        self.compare_text()?;
        let of = Generation::ALL.iter().position(|generation| *generation == self.subject.engine().generation());
        self.tally.cases = 1;
        self.tally.generations[of.expect("one of them")] = self.tally.operations;
        Ok(self.tally)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.input.below(256) {
            0 => self.balance(true),
            1 => self.wild_free(),
            2 => {
                if self.input.one_in(16) {
                    self.on_both(|engine| engine.enable_async());
                }
                Ok(())
            }
            3 | 4 => {
                self.faults();
                Ok(())
            }
            5 => {
                self.style = Style::draw(&mut self.input, self.subject.engine());
                Ok(())
            }
            6 => self.resume(),
            7..=31 if self.subject.engine().balance_pending() => self.balance(false),
            _ => {
                let full = self.subject.engine().stats().nr_chunks > MANY_CHUNKS || self.live.len() > MANY_AREAS;
                let fill = if full { 40 } else { self.style.fill };
                if self.live.is_empty() || self.input.below(256) < fill {
                    self.requests()
                } else {
                    self.frees()
                }
            }
        }
    }

    fn request(&mut self) -> Request {
        let g = *self.subject.engine().geometry();
        let (m, page, max) = (g.min_alloc_size().0, g.page_size().0, g.max_request().0);
        let input = &mut self.input;
        let top = 1 << input.below(self.style.size_shift + 1);
        let kind = input.below(256);
        let bits = if kind % 4 == 0 { top } else { 1 + input.below(top) };
        let mut size = (bits * m).min(max);
        let mut align = match kind / 4 % 8 {
            0 => 1 << input.below(u64::from(page.ilog2()) + 1),
            1 => m << input.below(3),
            2 => size.next_power_of_two(),
            _ => m,
        }
        .min(page);
        if kind >= 252 {
            let legal_only = self.subject.preset().generation == Generation::CpuAlloc2008;
            match input.below(4) {
                0 => size = input.of(&[0, max, max + 1, u64::MAX, g.unit_size().0]),
                1 if !legal_only => align = input.of(&[0, 3, 6, page * 2, 1 << 40]),
                _ => size = size.saturating_sub(1),
            }
        }
        let flags = input.below(256);
        let sleep = match flags % (self.style.atomic * 2) {
            0 | 1 => Sleep::Never,
            2 => Sleep::NoFs,
            _ => Sleep::Full,
        };
        let reserved = flags / 32 == 0;
        Request { size: Bytes(size), align: Bytes(align), sleep, reserved, nowarn: flags & 1 == 0 }
    }

    /// One request, or those of a batch.
    fn requests(&mut self) -> Result<(), String> {
        if !matches!(self.beside, Beside::Batch(_)) {
            let request = self.request();
            return self.alloc(&request, None);
        }
        let mut requests = Vec::new();
        for _ in 0..1 + self.input.below(3) {
            let request = self.request();
            let count = 1 + self.input.below(BATCH / 3);
            requests.extend((0..count).map(|_| request));
        }
        let Beside::Batch(batch) = &mut self.beside else { unreachable!("asked above") };
        let placed = batch.alloc_many(requests.iter().copied(), &mut || true).map_err(|error| format!("{error:?}"))?;
        self.tally.batched += requests.len() as u64;
        for (request, placed) in requests.iter().zip(placed) {
            let done = self.alloc(request, Some((placed.ptr, placed.outcome)));
            done.map_err(|what| format!("{what}\nwhile a batch was {requests:?}"))?;
        }
        self.compare_beside(false).map_err(|what| format!("{what}\nafter {requests:?}"))
    }

    fn alloc(&mut self, request: &Request, batched: Option<(u64, crate::request::Outcome)>) -> Result<(), String> {
        let placed = self.subject.alloc(request);
        self.tally.operations += 1;
        if placed.ptr == NULL {
            self.tally.failed += 1;
        } else {
            self.tally.placed += 1;
        }
        let other = match &mut self.beside {
            Beside::Nothing | Beside::Resumed(None) => None,
            Beside::Naive(naive) => Some((placed.ptr, naive.alloc(request))),
            Beside::Batch(_) => batched,
            Beside::Resumed(Some(other)) => {
                let other = other.alloc(request);
                Some((other.ptr, other.outcome))
            }
        };
        if let Some(other) = other.filter(|other| *other != (placed.ptr, placed.outcome)) {
            return Err(format!("{request:?}: {placed:?}, beside it {other:?}"));
        }
        let chunk = self.live.placed(&self.subject, request, &placed)?;
        self.after(chunk)
    }

    fn position(&mut self) -> usize {
        let at = self.input.below(self.live.len().min(256) as u64) as usize;
        // The newest, as often as the oldest.
        if at % 2 == 0 {
            at
        } else {
            self.live.len() - 1 - at
        }
    }

    /// One free, or those of a batch.
    fn frees(&mut self) -> Result<(), String> {
        if !matches!(self.beside, Beside::Batch(_)) {
            let at = self.position();
            return self.free(at);
        }
        let mut areas = Vec::new();
        for _ in 0..1 + self.input.below(BATCH) {
            let at = self.position();
            let area = self.live.get(at);
            if !areas.iter().any(|other: &live::Area| other.ptr == area.ptr) {
                areas.push(area);
            }
        }
        let ptrs: Vec<u64> = areas.iter().map(|area| area.ptr).collect();
        let sizes: Vec<u64> = areas.iter().map(|area| area.size).collect();
        let Beside::Batch(batch) = &mut self.beside else { unreachable!("asked above") };
        if ptrs.len() % 8 == 7 {
            // One of them twice: nothing happens.
            let (mut ptrs, mut sizes) = (ptrs.clone(), sizes.clone());
            ptrs.push(ptrs[0]);
            sizes.push(sizes[0]);
            match batch.free_many(&ptrs, Some(&sizes), &mut || true) {
                Err(BatchError::Element(index, _)) if index + 1 == ptrs.len() => {}
                other => return Err(format!("{ptrs:x?}: {other:?}")),
            }
        }
        batch.free_many(&ptrs, Some(&sizes), &mut || true).map_err(|error| format!("{ptrs:x?}: {error:?}"))?;
        self.tally.batched += ptrs.len() as u64;
        for ptr in &ptrs {
            let at = (0..self.live.len()).find(|at| self.live.get(*at).ptr == *ptr).expect("taken from there");
            self.free(at)?;
        }
        self.compare_beside(false).map_err(|what| format!("{what}\nafter frees of {ptrs:x?}"))
    }

    fn free(&mut self, at: usize) -> Result<(), String> {
        let area = self.live.remove(at, self.subject.engine());
        let size = Some(Bytes(area.size));
        self.tally.operations += 1;
        self.tally.freed += 1;
        self.subject.free(area.ptr, size).map_err(|error| format!("{area:?}: {error}"))?;
        let other = match &mut self.beside {
            Beside::Nothing | Beside::Batch(_) | Beside::Resumed(None) => Ok(()),
            Beside::Naive(naive) => naive.free(area.chunk, Bytes(area.off), size).map(|_| ()),
            Beside::Resumed(Some(other)) => other.free(area.ptr, size),
        };
        other.map_err(|error| format!("{area:?}, beside: {error}"))?;
        self.after(Some(area.chunk))
    }

    /// A free of something that is not live: refused, and nothing changes.
    fn wild_free(&mut self) -> Result<(), String> {
        let unit = self.subject.engine().geometry().unit_size().0;
        let ptr = match self.input.below(4) {
            0 => self.input.below(1 << 40),
            _ if self.live.is_empty() => 1,
            1 => self.live.get(0).ptr.wrapping_add(self.input.below(unit)),
            _ => {
                let at = self.position();
                self.live.get(at).ptr.wrapping_add(1 + self.input.below(8))
            }
        };
        if ptr == NULL || ptr == ZERO_SIZE_PTR || self.live.starts_at(ptr) {
            return Ok(());
        }
        let before = self.subject.clone();
        self.tally.operations += 1;
        self.tally.refused += 1;
        if self.subject.free(ptr, None).is_ok() {
            return Err(format!("free of {ptr:#x}, which is not live, was served"));
        }
        if let Some(what) = difference(before.engine(), self.subject.engine()) {
            return Err(format!("the refused free of {ptr:#x} changed {what}"));
        }
        self.after(None)
    }

    fn on_both(&mut self, change: impl Fn(&mut dyn Engine)) {
        change(self.subject.engine_mut());
        match &mut self.beside {
            Beside::Nothing | Beside::Resumed(None) => {}
            Beside::Naive(naive) => change(&mut **naive),
            Beside::Batch(other) | Beside::Resumed(Some(other)) => change(other.engine_mut()),
        }
    }

    fn balance(&mut self, force: bool) -> Result<(), String> {
        if !force && !self.subject.engine().balance_pending() {
            return Ok(());
        }
        self.tally.operations += 1;
        self.subject.run_balance();
        match &mut self.beside {
            Beside::Nothing | Beside::Resumed(None) => {}
            Beside::Naive(naive) => naive.balance(),
            Beside::Batch(other) | Beside::Resumed(Some(other)) => other.run_balance(),
        }
        self.live.check_all(self.subject.engine())?;
        self.after(None)
    }

    fn faults(&mut self) {
        let input = &mut self.input;
        let mut some = |n| if input.one_in(2) { Supply::of(input.below(n)) } else { Supply::ENDLESS };
        let (pages, maps, chunks) = (some(40), some(40), some(4));
        self.on_both(|engine| {
            let backend = engine.backend_mut();
            (backend.page_supply, backend.map_supply, backend.chunk_supply) = (pages, maps, chunks);
        });
    }

    /// Makes the second allocator from a snapshot, or ends it.
    fn resume(&mut self) -> Result<(), String> {
        match &self.beside {
            Beside::Resumed(None) => {
                let bytes = self.subject.snapshot().map_err(|error| error.to_string())?;
                let other = Allocator::from_snapshot(&bytes).map_err(|error| error.to_string())?;
                self.beside = Beside::Resumed(Some(Box::new(other)));
                self.compare_text()
            }
            Beside::Resumed(Some(_)) if self.input.one_in(4) => {
                self.compare_text()?;
                self.beside = Beside::Resumed(None);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What must hold after every operation.
    fn after(&mut self, chunk: Option<ChunkId>) -> Result<(), String> {
        let engine = self.subject.engine();
        engine.verify().map_err(|violation| violation.to_string())?;
        self.live.check(engine, chunk.unwrap_or(ChunkId::ZERO_SIZE))?;
        match &self.beside {
            Beside::Nothing | Beside::Batch(_) | Beside::Resumed(None) => return Ok(()),
            Beside::Resumed(Some(_)) => self.tally.resumed += 1,
            Beside::Naive(_) => self.tally.naive += 1,
        }
        self.compare_beside(matches!(self.beside, Beside::Naive(_)))
    }

    /// Compares the second allocator; as a whole now and then, or if `whole`.
    fn compare_beside(&mut self, whole: bool) -> Result<(), String> {
        let whole = whole || self.steps % self.whole_every == 0;
        let found = match &mut self.beside {
            Beside::Naive(naive) => {
                let (a, b) = (&mut naive.backend_mut().journal, &mut self.subject.engine_mut().backend_mut().journal);
                if a.events != b.events || a.log != b.log {
                    return Err(format!("journal: naive {:?} {:?}, {:?} {:?}", a.events, a.log, b.events, b.log));
                }
                for journal in [a, b] {
                    journal.events.clear();
                    journal.log.clear();
                }
                naive.difference(self.subject.engine())
            }
            Beside::Batch(other) if other.costs() != self.subject.costs() => {
                Some(format!("costs: {:?}, in batches {:?}", self.subject.costs(), other.costs()))
            }
            Beside::Batch(other) | Beside::Resumed(Some(other)) if whole => {
                difference(self.subject.engine(), other.engine())
            }
            _ => None,
        };
        found.map_or(Ok(()), |what| Err(format!("not the same: {what}")))
    }

    fn compare_text(&self) -> Result<(), String> {
        let (Beside::Batch(other) | Beside::Resumed(Some(other))) = &self.beside else { return Ok(()) };
        let (a, b) = (format!("{:?}", self.subject), format!("{other:?}"));
        if a == b {
            return Ok(());
        }
        let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        let around = same.saturating_sub(200)..(same + 100).min(a.len()).min(b.len());
        Err(format!("not the same: {} and {}", &a[around.clone()], &b[around]))
    }
}

/// The first thing in which two engines of one generation differ, as far as they show it.
fn difference(a: &dyn Engine, b: &dyn Engine) -> Option<String> {
    macro_rules! same {
        ($what:literal, $a:expr, $b:expr) => {
            let (a, b) = ($a, $b);
            if a != b {
                return Some(format!("{}: {a:?} and {b:?}", $what));
            }
        };
    }
    same!("pending", a.balance_pending(), b.balance_pending());
    same!("totals", a.totals(), b.totals());
    same!("stats", a.stats(), b.stats());
    same!("backing pages", a.backend().backing_pages, b.backend().backing_pages);
    same!("lists", a.slots(), b.slots());
    same!("chunks", a.chunk_ids(), b.chunk_ids());
    for id in a.chunk_ids() {
        let (a, b) = (a.chunk(id)?, b.chunk(id)?);
        same!("base", a.base_addr, b.base_addr);
        same!("free bytes", a.free_bytes, b.free_bytes);
        same!("areas", (a.nr_alloc, a.max_alloc_size), (b.nr_alloc, b.max_alloc_size));
        same!("pages", (&a.populated, a.nr_empty_pop_pages), (&b.populated, b.nr_empty_pop_pages));
        same!("maps", (&a.alloc_map, &a.bound_map), (&b.alloc_map, &b.bound_map));
        same!("hints", (&a.blocks, a.hints), (&b.blocks, b.hints));
        same!("older", (&a.area_map, a.older), (&b.area_map, b.older));
    }
    None
}

/// A case that failed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Index of the case.
    pub index: u64,
    /// Its bytes, as few as were needed.
    pub bytes: Vec<u8>,
    /// What was wrong.
    pub what: String,
}

fn guarded(bytes: &[u8], scale: Scale, whole_every: u64) -> Result<Tally, String> {
    catch_unwind(AssertUnwindSafe(|| run_comparing(bytes, Some(scale), whole_every))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// The bytes of a case.
pub fn case_bytes(seed: u64, index: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..CASE_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// Runs cases `from..to` of `seed`, up to the first that fails.
pub fn run_cases(seed: u64, from: u64, to: u64, scale: Scale) -> (Tally, Option<Finding>) {
    let mut tally = Tally::default();
    for index in from..to {
        let bytes = case_bytes(seed, index);
        match guarded(&bytes, scale, WHOLE_EVERY) {
            Ok(more) => tally += more,
            Err(what) => return (tally, Some(shortened(index, bytes, what, scale))),
        }
    }
    (tally, None)
}

/// The same failure with pieces left out, as long as anything fails.
pub fn shortened(index: u64, mut bytes: Vec<u8>, mut what: String, scale: Scale) -> Finding {
    let mut piece = bytes.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < bytes.len() {
            let mut shorter = bytes.clone();
            shorter.drain(at..(at + piece).min(bytes.len()));
            match guarded(&shorter, scale, 1) {
                Err(other) => (bytes, what) = (shorter, other),
                Ok(_) => at += piece,
            }
        }
        piece /= 2;
    }
    Finding { index, bytes, what }
}
