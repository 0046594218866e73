//! Damaged traces out of bytes: whatever a trace says, a replay ends, and the allocator after it is whole.
//!
//! # Design
//!
//! ```text
//! recordings, and runs of our own engine --> some hundred lines of one --> lines lost, doubled, swapped, altered, cut off
//!                                                                              |
//! state of the recording, of another one, fresh, suggested by the trace -------+--> predict, rerun, follow, owners
//! ```
//!
//! [`run`] reads bytes as a source, a start state and a list of damages. Of every replay it asks that
//!
//! * it does not panic, and reads every line;
//! * every request has a prediction, and the counts add up;
//! * `verify()` holds, at the end, at every moment where nothing is under way, at any event that is gone to, and in a fork;
//! * the allocator goes on: requests, frees, the worker.
//!
//! A trace of our own engine without damage is predicted wholly, so that the source is what it should be.
//!
//! # Units
//!
//! Lines of traces: events by index.
//!
//! # Cost
//!
//! Some milliseconds a case: some hundred lines, a few replays of them.

use std::fs;
use std::io::Cursor;
use std::ops::AddAssign;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::OnceLock;

use super::operations::input::Input;
use super::operations::{case_bytes, Finding};
use super::recordings::preset_of_run;
use crate::allocator::{Allocator, Balance, NULL};
use crate::answers::owners::{By, Tally as OwnersTally};
use crate::answers::symbols::Symbols;
use crate::engine::linux::{Done, Linux, Need, Progress, Stop, Worker};
use crate::engine::{Engine, Setup};
use crate::geometry::Geometry;
use crate::replay::closed_world::{closed_world, World};
use crate::replay::follow::{follow, Follower, Options as FollowOptions};
use crate::replay::rerun::{rerun, Options as RerunOptions};
use crate::replay::timeline::live_bytes;
use crate::replay::{predict, Options};
use crate::request::{ChunkId, Outcome, Request, Sleep};
use crate::state::State;
use crate::trace::{Alloc, Base, Clock, Event, Kind, ReadOptions, Trace, TraceBuilder, TraceReader};
use crate::units::{Bits, Bytes, Pages};
use crate::variant::{Generation, Preset};

/// Lines of a recording that are read.
const READ: usize = 6000;
/// Lines of a case at most, before damage.
const MOST_LINES: u64 = 400;
/// Chunks of a trace of our own above which nothing more is requested.
const MANY_CHUNKS: u32 = 6;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Damaged traces.
    pub cases: u64,
    /// Their lines.
    pub lines: u64,
    /// Lines that were predicted otherwise than they are written, or cannot be.
    pub diverged: u64,
    /// Lines about pages, chunks and the worker that were not predicted.
    pub unexplained: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.lines += other.lines;
        self.diverged += other.diverged;
        self.unexplained += other.unexplained;
    }
}

/// A trace and the state before its first line.
struct Source {
    name: String,
    trace: Trace,
    start: Linux,
    preset: &'static Preset,
}

/// One line of a trace.
type Line<'t> = (u64, Option<u16>, Event<'t>);

/// The recordings below `tests/data`, each with the forms of its trace.
fn recordings() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let mut sources = Vec::new();
        for dir in super::recordings::find_runs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recordings"))
            .unwrap_or_default()
        {
            sources.extend(sources_of(&dir).unwrap_or_default());
        }
        sources
    })
}

fn sources_of(dir: &Path) -> Option<Vec<Source>> {
    let meta = serde_json::from_slice(&fs::read(dir.join("meta.json")).ok()?).ok()?;
    let preset = preset_of_run(&meta)?;
    let state = State::from_json(&fs::read(dir.join("state-a.json.gz")).ok()?).ok()?;
    let start = state.restore(preset).ok()?;
    let mut sources = Vec::new();
    for file in ["trace-ext.txt.gz", "trace.txt.gz", "trace-cols.csv.gz"] {
        let Ok(bytes) = fs::read(dir.join(file)) else { continue };
        let mut reader = TraceReader::new(Cursor::new(bytes), ReadOptions::default()).ok()?;
        let trace = reader.next_block(READ).ok()??;
        let name = format!("{}/{file}", dir.file_name()?.to_string_lossy());
        sources.push(Source { name, trace, start: start.clone(), preset });
    }
    Some(sources)
}

/// A run of our own engine, written down as a kernel would: with its background, in lock order where `ordered`.
struct Recorder<'i, 'b> {
    input: &'i mut Input<'b>,
    engine: Linux,
    lines: Vec<Line<'static>>,
    next_base: u64,
    live: Vec<(u64, u64)>,
    /// With the lines that show when areas are taken, so that others may come in between.
    ordered: bool,
    cpu: u16,
}

impl Recorder<'_, '_> {
    fn write(&mut self, event: Event<'static>) {
        let time = self.lines.len() as u64 + 1;
        self.lines.push((time, Some(self.cpu), event));
    }

    fn base(&self, id: ChunkId) -> Base {
        Base::new(self.engine.chunk_base(id))
    }

    fn create(&mut self) -> ChunkId {
        let base = self.next_base;
        self.next_base += 4 * self.engine.geometry().unit_size().0;
        self.write(Event::Create { base: Some(Base::new(base)) });
        self.engine.create_chunk_at(base)
    }

    fn request(&mut self, atomic: bool) {
        let sizes: [u64; 8] = [4, 8, 8, 64, 328, 1000, 4096, 9000];
        let size = Bytes(self.input.of(&sizes).min(self.engine.geometry().unit_size().0 / 2));
        let align = Bytes(self.input.of(&[4, 8, 8, 64, 256]));
        let sleep = if atomic { Sleep::Never } else { Sleep::Full };
        let request = Request { sleep, nowarn: true, ..Request::new(size, align) };
        let mut before = self.engine.clone();
        let (mut task, mut progress) = self.engine.start(&request);
        let mut shown = !self.ordered;
        let outcome = loop {
            if let (false, Some(off)) = (shown, self.engine.area_of(&task)) {
                shown = true;
                let (Progress::Done(Outcome::Placed { chunk, .. }) | Progress::Waits(Need::Pages { chunk, .. })) =
                    progress
                else {
                    unreachable!("{progress:?} with an area")
                };
                let g = *self.engine.geometry();
                let bits = |bytes: Bytes| g.bytes_to_bits(bytes);
                let start = Bits(before.search_start(chunk, &task).unwrap_or_else(|| bits(off).0));
                let (base, bits, align_bits) = (self.base(chunk), bits(task.size), bits(task.align));
                self.write(Event::AllocArea { base, bits, align_bits, start });
                self.write(Event::AllocAreaRet { off: Some(off) });
            }
            match progress {
                Progress::Done(outcome) => break outcome,
                Progress::Waits(Need::Chunk) => {
                    let chunk = self.create();
                    before = self.engine.clone();
                    progress = self.engine.chunk_made(&mut task, Some(chunk));
                }
                Progress::Waits(Need::Pages { chunk, first, end }) => {
                    if self.ordered && self.input.one_in(4) {
                        self.small_step();
                    }
                    let base = self.base(chunk);
                    self.write(Event::Populated { base, first: Pages(first), end: Pages(end) });
                    progress = self.engine.pages_made(&mut task, first, end, true);
                }
            }
        };
        match outcome {
            Outcome::Placed { chunk, off } => {
                let base = self.engine.chunk_base(chunk);
                self.live.push((base, off.0));
                self.write(Event::Alloc(Alloc {
                    size: task.size,
                    align: task.align,
                    reserved: false,
                    atomic,
                    base: Some(Base::new(base)),
                    off,
                    ptr: None,
                    bytes_alloc: None,
                    call_site: None,
                    gfp_flags: None,
                }));
            }
            Outcome::Failed(_) => {
                self.write(Event::AllocFail { size: task.size, align: task.align, reserved: false, atomic });
            }
        }
    }

    fn free(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let at = self.input.below(self.live.len() as u64) as usize;
        let (base, off) = self.live.swap_remove(at);
        let chunk = self.engine.chunk_at_base(base).expect("it has a live area");
        self.engine.free(chunk, Bytes(off), None).expect("it is live");
        self.write(Event::Free { base: Some(Base::new(base)), off: Bytes(off), ptr: None });
    }

    /// What may happen while somebody waits.
    fn small_step(&mut self) {
        let waiting = std::mem::replace(&mut self.cpu, self.input.below(3) as u16 + 4);
        if self.input.one_in(2) {
            self.request(true);
        } else {
            self.free();
        }
        self.cpu = waiting;
    }

    fn work(&mut self) {
        self.engine.clear_pending();
        self.write(Event::BalanceBegin);
        let mut worker = Worker::new();
        let mut done = Done::Ok;
        let mut flushed = false;
        while let Some(stop) = self.engine.run_worker(&mut worker, done) {
            // No line shows when the flush is over.
            if !flushed && self.input.one_in(4) {
                self.small_step();
            }
            flushed = stop == Stop::Flush;
            done = Done::Ok;
            match stop {
                Stop::FreePass { empty_only } => self.write(Event::BalanceFree { empty_only }),
                Stop::Release { chunk, first, end } => {
                    let base = self.base(chunk);
                    self.write(Event::Depopulated { base, first: Pages(first), end: Pages(end) });
                }
                Stop::Destroy(chunk) => {
                    let base = Some(self.base(chunk));
                    self.write(Event::Destroy { base });
                }
                Stop::Flush => {}
                Stop::Populate { chunk, first, end } => {
                    let base = self.base(chunk);
                    self.write(Event::Populated { base, first: Pages(first), end: Pages(end) });
                }
                Stop::Create => done = Done::Created(self.create()),
            }
        }
        self.write(Event::BalanceEnd);
    }
}

fn own_source(input: &mut Input<'_>) -> Result<(Source, Vec<Line<'static>>), String> {
    let generation = input.of(&[Generation::Linux514, Generation::Linux514, Generation::Linux52, Generation::Linux414]);
    let preset = Preset::of_generation(generation);
    let pages = input.of(&[8, 16, 16, 32]);
    let geometry =
        Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(pages * 4096), 2).map_err(|e| e.to_string())?;
    let setup = Setup::bare(preset, generation.rules().ok_or("no rules")?, geometry);
    let start = Linux::new(&setup);
    let ordered = input.one_in(3);
    let steps = 20 + input.below(MOST_LINES / 2);
    let mut recorder = Recorder {
        input,
        engine: start.clone(),
        lines: Vec::new(),
        next_base: 1 << 44,
        live: Vec::new(),
        ordered,
        cpu: 0,
    };
    for step in 0..steps {
        // Grows, then shrinks.
        recorder.cpu = (step % 3) as u16;
        let grows = 2 * step < steps && recorder.engine.stats.nr_chunks < MANY_CHUNKS;
        match recorder.input.below(8) {
            0 => recorder.request(true),
            1..=5 if grows => recorder.request(false),
            1 => recorder.request(false),
            _ => recorder.free(),
        }
        if recorder.engine.balance_pending() && recorder.input.one_in(3) {
            recorder.work();
        }
    }
    let lines = recorder.lines;
    let trace = build(&lines)?;
    Ok((Source { name: format!("own {generation}"), trace, start, preset }, lines))
}

fn build(lines: &[Line<'_>]) -> Result<Trace, String> {
    let mut builder = TraceBuilder::new(Clock::Counter);
    let mut time = 0;
    for (at, cpu, event) in lines {
        time = (*at).max(time);
        builder.push(time, *cpu, event).map_err(|error| format!("a line that cannot be written: {error}"))?;
    }
    Ok(builder.finish())
}

/// Bases that lines are given.
fn other_base(input: &mut Input<'_>, bases: &[u64], unit: u64) -> Base {
    let known = bases.get(input.below(bases.len().max(1) as u64) as usize).copied().unwrap_or(1 << 40);
    Base::new(match input.below(6) {
        0 => known.wrapping_add(unit / 2),
        1 => known.wrapping_add(unit),
        2 => known.wrapping_sub(4096),
        3 => u64::MAX - 4095 - input.below(3) * unit,
        _ => known,
    })
}

fn other_number(input: &mut Input<'_>, number: u64, most: u64) -> u64 {
    let other = match input.below(8) {
        0 => number.wrapping_add(4),
        1 => number.wrapping_sub(4),
        2 => 0,
        3 => number / 2,
        4 => number.saturating_mul(2),
        5 => most,
        6 => number + 1,
        _ => input.below(1 << 21),
    };
    other.min(most)
}

/// Another value in a line.
fn alter<'t>(input: &mut Input<'_>, line: &mut Line<'t>, bases: &[u64], unit: u64) {
    let base = other_base(input, bases, unit);
    let choice = input.below(6);
    if choice == 0 {
        line.1 = input.of(&[None, Some(0), Some(1), Some(7)]);
        return;
    }
    let (off_most, word) = (i32::MAX as u64, u64::from(u32::MAX));
    match &mut line.2 {
        Event::Alloc(alloc) => match choice {
            1 => alloc.base = Some(base).filter(|_| !input.one_in(8)),
            2 => alloc.off = Bytes(other_number(input, alloc.off.0, off_most)),
            3 => alloc.size = Bytes(other_number(input, alloc.size.0, word)),
            4 => alloc.align = Bytes(other_number(input, alloc.align.0, word)),
            _ if input.one_in(2) => alloc.atomic = !alloc.atomic,
            _ => alloc.reserved = !alloc.reserved,
        },
        Event::AllocFail { size, align, atomic, reserved } => match choice {
            1 | 2 => *size = Bytes(other_number(input, size.0, word)),
            3 => *align = Bytes(other_number(input, align.0, word)),
            4 => *reserved = !*reserved,
            _ => *atomic = !*atomic,
        },
        Event::Free { base: old, off, .. } => match choice {
            1 | 2 => *old = Some(base).filter(|_| !input.one_in(8)),
            _ => *off = Bytes(other_number(input, off.0, off_most)),
        },
        Event::Create { base: old } | Event::Destroy { base: old } => *old = Some(base).filter(|_| !input.one_in(8)),
        Event::Populated { base: old, first, end } | Event::Depopulated { base: old, first, end } => match choice {
            1 | 2 => *old = base,
            3 => first.0 = input.below(u64::from(end.0)) as u32,
            _ => end.0 = first.0 + 1 + input.below(40) as u32,
        },
        Event::BalanceFree { empty_only } => *empty_only = !*empty_only,
        Event::AllocArea { base: old, bits, start, .. } => match choice {
            1 | 2 => *old = base,
            3 => *bits = Bits(other_number(input, bits.0.into(), word) as u32),
            _ => *start = Bits(other_number(input, start.0.into(), off_most) as u32),
        },
        Event::AllocAreaRet { off } => *off = off.filter(|_| choice > 2).map(|off| Bytes(off.0 / 8 * 4)),
        _ => {}
    }
}

/// A line of another kind about the same chunk or place.
fn turned<'t>(input: &mut Input<'_>, event: Event<'t>, bases: &[u64], unit: u64) -> Event<'t> {
    let base = event.base().unwrap_or_else(|| other_base(input, bases, unit));
    let (first, end) = match event {
        Event::Populated { first, end, .. } | Event::Depopulated { first, end, .. } => (first, end),
        _ => {
            let first = input.below(unit / 4096) as u32;
            (Pages(first), Pages(first + 1 + input.below(4) as u32))
        }
    };
    let area = event.area().map_or(Bytes(64), |(_, off)| off);
    match input.below(10) {
        0 | 1 => Event::Destroy { base: Some(base) },
        2 => Event::Create { base: Some(base) },
        3 => Event::Populated { base, first, end },
        4 => Event::Depopulated { base, first, end },
        5 => Event::BalanceBegin,
        6 => Event::BalanceEnd,
        7 => Event::BalanceFree { empty_only: input.one_in(2) },
        8 => Event::Free { base: Some(base), off: area, ptr: None },
        _ => Event::AllocFail { size: Bytes(64), align: Bytes(8), reserved: false, atomic: input.one_in(2) },
    }
}

/// One damage to a list of lines.
fn damage<'t>(input: &mut Input<'_>, lines: &mut Vec<Line<'t>>, bases: &[u64], unit: u64) {
    if lines.is_empty() {
        return;
    }
    let at = input.below(lines.len() as u64) as usize;
    let to = (at + 1 + input.below(8) as usize).min(lines.len());
    match input.below(16) {
        0 | 1 => drop(lines.drain(at..to)),
        2 => {
            let again = lines[at..to].to_vec();
            let place = input.below(lines.len() as u64 + 1) as usize;
            lines.splice(place..place, again);
        }
        3 | 4 => lines.swap(at, to - 1),
        5 => {
            let line = lines.remove(at);
            let place = input.below(lines.len() as u64 + 1) as usize;
            lines.insert(place, line);
        }
        6 => lines.truncate((at + lines.len()) / 2 + 1),
        7 => {
            let kind = lines[at].2.kind();
            lines.retain(|line| line.2.kind() != kind);
        }
        8 => lines[at].2 = turned(input, lines[at].2, bases, unit),
        9 => {
            let (time, cpu, event) = lines[at];
            lines.insert(at, (time, cpu, turned(input, event, bases, unit)));
        }
        10 if input.one_in(2) => lines.retain(|line| (line.2.kind() as u8) < Kind::Populated as u8),
        10 => drop(lines.drain(..at / 2)),
        _ => alter(input, &mut lines[at], bases, unit),
    }
}

/// The start state of a case: that of its trace, another one, or none.
fn start_of(input: &mut Input<'_>, source: &Source, trace: &Trace) -> Result<(String, Linux), String> {
    let others = recordings();
    match input.below(8) {
        0 if !others.is_empty() => {
            let other = &others[input.below(others.len() as u64) as usize];
            Ok((format!("state of {}", other.name), other.start.clone()))
        }
        1 => {
            let unit = input.of(&[8 * 4096, 64 << 10, 128 << 10]);
            let geometry =
                Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(unit), 1).map_err(|e| e.to_string())?;
            let rules = source.preset.generation.rules().ok_or("no rules")?;
            let mut setup = Setup::bare(source.preset, rules, geometry);
            setup.async_enabled = input.one_in(2);
            Ok((format!("fresh, units of {unit}"), Linux::new(&setup)))
        }
        2 => {
            let world = World { preset: source.preset, geometry: *source.start.geometry(), stats: None };
            match closed_world(trace, &world) {
                Ok(engine) => Ok(("suggested by the trace".into(), engine)),
                Err(_) => Ok(("own".into(), source.start.clone())),
            }
        }
        _ => Ok(("own".into(), source.start.clone())),
    }
}

fn whole(engine: &dyn Engine, when: &str) -> Result<(), String> {
    engine.verify().map_err(|violation| format!("{when}: {violation}"))
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    holds.then_some(()).ok_or_else(what)
}

/// The allocator goes on as any other.
fn go_on(input: &mut Input<'_>, mut engine: Linux, when: &str) -> Result<(), String> {
    whole(&engine, when)?;
    let mut live = Vec::new();
    for _ in 0..6 {
        let size = Bytes(4 + input.below(5000));
        let sleep = if input.one_in(3) { Sleep::Never } else { Sleep::Full };
        let request = Request { sleep, nowarn: true, ..Request::new(size, Bytes(8)) };
        if let Outcome::Placed { chunk, off } = engine.alloc(&request) {
            live.push((chunk, off));
        }
        if input.one_in(3) {
            engine.balance();
        }
    }
    for (chunk, off) in live {
        engine.free(chunk, off, None).map_err(|error| format!("{when}: {error}"))?;
    }
    engine.balance();
    whole(&engine, &format!("{when}, some operations later"))
}

fn judge_predict(input: &mut Input<'_>, trace: &Trace, start: Linux) -> Result<Tally, String> {
    let options = Options { states_at_markers: true, verify_every: 1 + input.below(60) as usize, sample_every: 0 };
    let found = predict(trace, start.clone(), &options).map_err(|error| format!("predict: {error}"))?;
    let kinds = trace.columns().kind;
    let requests = kinds.iter().filter(|kind| matches!(kind, Kind::Alloc | Kind::AllocFail)).count();
    let t = found.totals;
    ensure(t.events == trace.len() as u64, || format!("{} lines read of {}", t.events, trace.len()))?;
    ensure(found.predictions.len() == requests, || format!("{} predictions", found.predictions.len()))?;
    let wrong = found.predictions.iter().filter(|prediction| !prediction.equal).count() as u64;
    ensure(wrong <= t.diverged, || format!("{wrong} predictions differ, {t:?}"))?;
    ensure(found.first_divergence.is_some() == (t.diverged > 0), || format!("{t:?} {:?}", found.first_divergence))?;
    let _ = found.first_divergence.as_ref().map(ToString::to_string);
    go_on(input, found.engine.clone(), "after predict")?;
    let at = input.below(trace.len() as u64 + 1) as usize;
    go_on(input, found.at(trace, at, &mut |_| true), &format!("predict gone to event {at}"))?;
    let end = State::capture(&found.at(trace, trace.len(), &mut |_| true)).diff(&State::capture(&found.engine));
    ensure(end.is_empty(), || format!("gone to the end: {}", end[0]))?;
    let preset = Preset::of_generation(found.engine.generation());
    let own = Allocator::bare(preset, *found.engine.geometry(), Balance::Eager).map_err(|error| error.to_string())?;
    let target = input.one_in(2).then(|| own.clone());
    let fork = found.fork(trace, at, own, target, &RerunOptions::default(), &mut |_| true);
    let fork = fork.map_err(|error| format!("fork at {at}: {error}"))?;
    whole(fork.allocator.engine(), &format!("forked at event {at}"))?;
    Ok(Tally { cases: 1, lines: trace.len() as u64, diverged: t.diverged, unexplained: t.unexplained })
}

fn judge_rerun(input: &mut Input<'_>, trace: &Trace) -> Result<(), String> {
    let preset = Preset::of_generation(input.of(&Generation::ALL));
    let unit = input.of(&[64 << 10, 1 << 20]);
    let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(unit), 2).map_err(|e| e.to_string())?;
    let Ok(allocator) = Allocator::bare(preset, geometry, Balance::Eager) else { return Ok(()) };
    let found = rerun(trace, allocator, &RerunOptions::default(), &mut |_| true);
    let found = found.map_err(|error| format!("rerun: {error}"))?;
    let bytes = live_bytes(found.allocator.engine());
    // The area map leaves remainders below 4 bytes to their neighbours; the timeline counts what was asked for.
    let counts_requests = preset.generation == Generation::AreaMap;
    ensure(counts_requests || found.windows.last().is_none_or(|window| window.ranges[1].last == bytes as i64), || {
        let last = found.windows.last().map(|window| window.ranges[1].last);
        format!("rerun on {}: {bytes} live bytes, in the timeline {last:?}", preset.generation)
    })?;
    whole(found.allocator.engine(), &format!("after rerun on {}", preset.generation))?;
    let at = input.below(trace.len() as u64 + 1) as usize;
    let there = found.at(trace, at, &mut |_| true).map_err(|error| format!("rerun gone to {at}: {error}"))?;
    whole(there.engine(), "rerun gone to an event")?;
    let fork = found.fork(trace, at, Some(there.clone()), &RerunOptions::default(), &mut |_| true);
    let fork = fork.map_err(|error| format!("rerun forked at {at}: {error}"))?;
    let mut allocator = fork.allocator;
    let placed = allocator.alloc(&Request::new(Bytes(8), Bytes(8)));
    if placed.ptr != NULL {
        allocator.free(placed.ptr, Some(Bytes(8))).map_err(|error| error.to_string())?;
    }
    whole(allocator.engine(), "rerun forked")
}

fn judge_follow(input: &mut Input<'_>, trace: &Trace) -> Result<(), String> {
    let unit_size = input.of(&[None, None, Some(Bytes(64 << 10)), Some(Bytes(1 << 20))]);
    let options = FollowOptions { unit_size, ..FollowOptions::default() };
    // A unit that is smaller than what the trace shows is refused.
    let Ok(found) = follow(trace, options.clone(), &mut |_| true) else { return Ok(()) };
    ensure(found.events == trace.len() as u64, || format!("followed {} lines", found.events))?;
    ensure(found.by_outcome.iter().sum::<u64>() == found.events, || "outcomes and events differ".into())?;
    ensure(found.live_after(found.events).len() as u64 >= found.totals.nr_live, || "live areas are missing".into())?;
    let _ = found.share();
    for chunk in 0..found.chunks.len() as u32 {
        let _ = found.cells(chunk);
    }
    let Ok(mut follower) = Follower::new(options) else { return Ok(()) };
    let mut owners = OwnersTally::new(By::Size, Symbols::default());
    owners.read(&mut follower, trace, &mut |_| true);
    let _ = owners.finish(follower.time());
    Ok(())
}

/// Damages a trace as `bytes` say and replays it in every way: what was done, or the first thing that was wrong.
pub fn run(bytes: &[u8]) -> Result<Tally, String> {
    let mut input = Input::new(bytes);
    let input = &mut input;
    let packaged = recordings();
    let own;
    let (source, mut lines): (&Source, Vec<Line<'_>>) = if packaged.is_empty() || input.one_in(2) {
        let (source, lines) = own_source(input)?;
        own = source;
        let found = predict(&own.trace, own.start.clone(), &Options::default()).map_err(|error| error.to_string())?;
        let t = found.totals;
        ensure(t.diverged + t.late + t.unexplained == 0, || {
            format!("{} without damage: {t:?} {:?}", own.name, found.first_divergence)
        })?;
        (&own, lines)
    } else {
        let source = &packaged[input.below(packaged.len() as u64) as usize];
        let from = if input.one_in(6) { input.below(source.trace.len() as u64) as usize } else { 0 };
        let count = 30 + input.below(MOST_LINES) as usize;
        let records = source.trace.records().skip(from).take(count);
        (source, records.map(|record| (record.time, record.cpu, record.event)).collect())
    };
    let unit = source.start.geometry().unit_size().0;
    let bases = source.trace.bases();
    for _ in 0..input.of(&[1, 1, 1, 2, 2, 4, 8, 24]) {
        damage(input, &mut lines, bases, unit);
    }
    let trace = build(&lines)?;
    let (state, start) = start_of(input, source, &trace)?;
    let named = |what: String| format!("{}, {} lines, {state}: {what}", source.name, trace.len());
    whole(&start, "before").map_err(named)?;
    let tally = judge_predict(input, &trace, start).map_err(named)?;
    judge_rerun(input, &trace).map_err(named)?;
    judge_follow(input, &trace).map_err(named)?;
    Ok(tally)
}

fn guarded(bytes: &[u8]) -> Result<Tally, String> {
    catch_unwind(AssertUnwindSafe(|| run(bytes))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs cases `from..to` of `seed`, up to the first that fails.
pub fn run_cases(seed: u64, from: u64, to: u64) -> (Tally, Option<Finding>) {
    let mut tally = Tally::default();
    for index in from..to {
        let bytes = case_bytes(seed, index);
        match guarded(&bytes) {
            Ok(more) => tally += more,
            Err(what) => return (tally, Some(shortened(index, bytes, what))),
        }
    }
    (tally, None)
}

/// The same failure with bytes left out from the end, as long as anything fails.
pub fn shortened(index: u64, mut bytes: Vec<u8>, mut what: String) -> Finding {
    if let Err(found) = guarded(&bytes) {
        what = found;
    }
    let mut piece = bytes.len() / 2;
    while piece > 0 {
        match bytes.len().checked_sub(piece).map(|len| guarded(&bytes[..len])) {
            Some(Err(other)) => {
                bytes.truncate(bytes.len() - piece);
                what = other;
            }
            _ => piece /= 2,
        }
    }
    Finding { index, bytes, what }
}
