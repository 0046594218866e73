//! The requests and frees of a trace on any engine, whatever it does with them.
//!
//! # Design
//!
//! ```text
//! Trace --> requests --> Allocator --> its own places
//!       --> frees: (base, off) of the recording --> the object --> its place here
//! ```
//!
//! Nothing is predicted, so that no start state is needed and any engine will do. What links a free
//! to its request is the place that the recording shows for both; here the object may lie
//! elsewhere. The balance worker runs by the allocator's own policy; the recording's lines about
//! pages, chunks and the worker are passed over.
//!
//! | line | here |
//! |---|---|
//! | served request | is made; the object is remembered, served or not |
//! | failed request | is made; if served, given back at once, for no line will free it |
//! | free of a remembered object | is made if the object was served here |
//! | free of anything else | counted as unseen, and skipped |
//!
//! Sizes and alignments are those of the recording, after the rounding of the kernel that wrote it.
//!
//! A trace may be given whole or block by block. A rerun may begin in the middle of another replay ([`Rerunner::fork`]):
//! on its own allocator, or on another one, to which what is live goes over in the order in which it was allocated.
//!
//! # Units
//!
//! Bytes; events by index.
//!
//! # Cost
//!
//! As the engine's, and a table of live objects. Where a generation keeps no total of populated pages, they are counted
//! every `PAGES_EVERY` events.
//!
//! # Source
//!
//! Specification 50 sections 2 and 3 for what the lines mean.

use std::collections::HashMap;
use std::sync::Arc;

use super::machine::request_of;
use super::occupancy::Mix;
use super::timeline::{engine_numbers, live_bytes, populated_pages, EngineWindow, Sampler, ENGINE_NUMBERS};
use crate::allocator::{Allocator, NULL};
use crate::error::{RequestError, TraceError};
use crate::geometry::MAX_UNIT_SIZE;
use crate::request::{ChunkId, Outcome, Request};
use crate::trace::{Alloc, Base, Event, Trace};
use crate::units::Bytes;
use crate::variant::Generation;

/// Events between two questions whether to go on.
const ASK_EVERY: usize = 256;
/// Events between two counts of populated pages, where they have to be counted.
const PAGES_EVERY: u32 = 256;
/// Events between the first two copies of the allocator, and at most.
const MARK_AFTER: usize = 32_768;
const MARK_MOST: usize = 1 << 20;
/// Sizes are multiples of this where the geometry says nothing of it.
const AREA_MAP_GRANULE: Bytes = Bytes(2);
/// Copies that are kept, and about how many bytes they may hold.
const MARKS: usize = 16;
const MARK_BYTES: u64 = 64 << 20;

/// What came of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// Index of the event.
    pub event: u32,
    /// Whether the recorded request was served.
    pub recorded: bool,
    /// What the engine answered.
    pub outcome: Outcome,
    /// Bytes from the start of the unit, where it was served.
    pub unit_off: Option<Bytes>,
    /// The recorded bytes from the start of the unit; `None` where the trace does not tell.
    pub recorded_unit_off: Option<Bytes>,
}

/// What to keep of a rerun.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Events of a sample of the timeline; 0 = as long as it takes to have some thousand.
    pub sample_every: u64,
    /// Keep what came of every request, and copies of the allocator to go to any event.
    pub history: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { sample_every: 0, history: true }
    }
}

/// Counts of a rerun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Events read.
    pub events: u64,
    /// Requests that were served.
    pub allocs: u64,
    /// Requests that were not.
    pub fails: u64,
    /// Frees.
    pub frees: u64,
    /// Frees of objects that the trace does not show being allocated.
    pub unseen_frees: u64,
    /// Frees of objects whose request failed here.
    pub missing_frees: u64,
    /// Objects given back because the trace allocates their place again: the free was lost.
    pub lost_frees: u64,
    /// Requests that failed in the recording and were served here.
    pub served_only_here: u64,
    /// Requests served in both, for which both unit offsets are known.
    pub comparable: u64,
    /// Those of them at the same unit offset.
    pub same_place: u64,
    /// Objects that were live where a fork began and went over.
    pub carried: u64,
    /// Objects that were live there and found no place.
    pub not_carried: u64,
}

/// The result of a rerun.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// The allocator after the last event.
    pub allocator: Allocator,
    /// One entry a request; none without history.
    pub requests: Vec<Served>,
    /// Counts.
    pub totals: Totals,
    /// The timeline.
    pub windows: Vec<EngineWindow>,
    /// The event at which it began.
    pub from: usize,
    hashed: bool,
    marks: Vec<(usize, Arc<Machine>)>,
}

/// An object of the trace: its pointer here, [`NULL`] if its request failed here, and its request.
#[derive(Clone, Copy, Debug)]
struct Object {
    ptr: u64,
    size: u32,
    /// Logarithm of its alignment.
    align: u8,
    /// Event that allocated it and 1; objects from before a fork keep their order.
    born: u32,
    /// It is there, but the line of its allocation comes later.
    early: bool,
}

/// What the trace calls an object by: base and offset; where no base is printed the pointer, and [`BY_POINTER`].
type Key = (u64, u64);

/// No offset.
const BY_POINTER: u64 = u64::MAX;

fn key(base: Option<Base>, off: Bytes, ptr: Option<u64>) -> Option<Key> {
    base.map(|base| (base.addr, off.0)).or(ptr.map(|ptr| (ptr, BY_POINTER)))
}

/// A live area of an allocator that a fork begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Live {
    /// What the trace calls it: base address of its chunk.
    pub base: u64,
    /// Offset from the base.
    pub off: Bytes,
    /// Its size.
    pub size: Bytes,
    /// Its pointer in the allocator that the fork begins with.
    pub ptr: u64,
    /// The line of its allocation comes after the fork.
    pub early: bool,
}

/// Makes the requests and frees of `trace` with `allocator`. `go_on` is asked now and then with the number of events
/// read, and ends the rerun by saying no.
pub fn rerun(
    trace: &Trace,
    allocator: Allocator,
    options: &Options,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Rerun, TraceError> {
    let mut rerunner = Rerunner::new(allocator, options);
    rerunner.read(trace, go_on)?;
    Ok(rerunner.finish())
}

impl Rerun {
    /// The allocator after the first `events` events of the trace that was rerun.
    pub fn at(
        &self,
        trace: &Trace,
        events: usize,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Allocator, TraceError> {
        Ok(self.machine_at(trace, events, go_on)?.allocator)
    }

    fn machine_at(
        &self,
        trace: &Trace,
        events: usize,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Machine, TraceError> {
        let to = events.clamp(self.from, self.totals.events as usize);
        let nearest = self.marks.iter().rev().find(|(from, _)| *from <= to);
        let (from, machine) =
            nearest.ok_or_else(|| TraceError::new("a rerun without history cannot go to an event"))?;
        let mut runner = Rerunner::of((**machine).clone(), *from, &Options { sample_every: 1 << 40, history: false });
        runner.hashed = self.hashed;
        runner.read_range(trace, *from..to, go_on)?;
        Ok(runner.machine)
    }

    /// Goes on from the middle: the rest of the trace, with `target` in place of the allocator, if one is given.
    pub fn fork(
        &self,
        trace: &Trace,
        events: usize,
        target: Option<Allocator>,
        options: &Options,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Rerun, TraceError> {
        let machine = self.machine_at(trace, events, go_on)?;
        let from = events.clamp(self.from, self.totals.events as usize);
        let mut runner = match target {
            None => Rerunner::of(machine, from, options),
            Some(target) => {
                let objects = machine.objects.into_iter().filter(|(_, object)| object.ptr != NULL).collect();
                Rerunner::carry(target, objects, from, options, go_on)?
            }
        };
        runner.read_range(trace, from..trace.len(), go_on)?;
        Ok(runner.finish())
    }
}

/// The allocator and what the trace calls the objects in it.
#[derive(Clone, Debug)]
struct Machine {
    allocator: Allocator,
    objects: HashMap<Key, Object, Mix>,
    /// Bytes of live areas in one unit.
    live_bytes: u64,
    /// Populated pages, as they were last counted, and the events since.
    pages: (u32, u32),
}

impl Machine {
    fn new(allocator: Allocator) -> Self {
        let (live_bytes, pages) = (live_bytes(allocator.engine()), populated_pages(allocator.engine()));
        Self { allocator, objects: HashMap::default(), live_bytes, pages: (pages, 0) }
    }

    #[inline]
    fn numbers(&mut self) -> [i64; ENGINE_NUMBERS] {
        self.pages.1 += 1;
        if self.pages.1 >= PAGES_EVERY {
            self.pages = (populated_pages(self.allocator.engine()), 0);
        }
        engine_numbers(self.allocator.engine(), self.live_bytes, self.pages.0)
    }

    /// About how many bytes a copy takes.
    fn bytes(&self) -> u64 {
        let g = self.allocator.engine().geometry();
        let chunk = u64::from(g.pages_to_bits(g.unit_pages()).0) / 4 + u64::from(g.unit_pages().0) * 40;
        let object = std::mem::size_of::<(Key, Object)>() as u64 + 1;
        chunk * u64::from(self.allocator.engine().stats().nr_chunks) + self.objects.capacity() as u64 * object
    }

    /// Bytes that a request of `size` takes.
    fn rounded(&self, size: Bytes) -> u64 {
        let engine = self.allocator.engine();
        let granule = match engine.generation() {
            Generation::AreaMap => AREA_MAP_GRANULE,
            _ => engine.geometry().min_alloc_size(),
        };
        size.0.next_multiple_of(granule.0)
    }

    fn give_back(&mut self, object: Object) -> Result<(), RequestError> {
        if object.ptr != NULL {
            self.live_bytes -= self.rounded(Bytes(u64::from(object.size)));
        }
        self.allocator.free(object.ptr, Some(Bytes(u64::from(object.size))))
    }
}

/// Reruns a trace block by block.
#[derive(Clone, Debug)]
pub struct Rerunner {
    machine: Machine,
    options: Options,
    requests: Vec<Served>,
    totals: Totals,
    sampler: Sampler<ENGINE_NUMBERS>,
    from: usize,
    /// Index of the next event.
    event: usize,
    marks: Vec<(usize, Arc<Machine>)>,
    next_mark: (usize, usize),
    hashed: bool,
}

impl Rerunner {
    /// Before the first event.
    pub fn new(allocator: Allocator, options: &Options) -> Self {
        Self::of(Machine::new(allocator), 0, options)
    }

    fn of(machine: Machine, from: usize, options: &Options) -> Self {
        let marks = if options.history { vec![(from, Arc::new(machine.clone()))] } else { Vec::new() };
        Self {
            machine,
            options: *options,
            requests: Vec::new(),
            totals: Totals { events: from as u64, ..Totals::default() },
            sampler: Sampler::starting_at(options.sample_every, from as u64),
            from,
            event: from,
            marks,
            next_mark: (from + MARK_AFTER, MARK_AFTER),
            hashed: false,
        }
    }

    /// Before event `from` of `trace`, with what is live there. `allocator` has the areas; with a `target` they go over
    /// to it in the order in which the trace allocated them, those from before the trace first.
    pub fn fork(
        trace: &Trace,
        from: usize,
        allocator: Allocator,
        live: &[Live],
        target: Option<Allocator>,
        options: &Options,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self, TraceError> {
        let mut known: HashMap<Key, (u32, u8), Mix> = HashMap::default();
        for record in trace.records().take(from) {
            if record.index % (16 * ASK_EVERY) == 0 && !go_on(0) {
                return Err(stopped());
            }
            if let Event::Alloc(Alloc { base: Some(base), off, align, .. }) = record.event {
                known.insert((base.addr, off.0), (record.index as u32 + 1, log2(align)));
            }
        }
        let objects = live.iter().map(|area| {
            let place = (area.base, area.off.0);
            let (born, align) = known.get(&place).copied().unwrap_or((0, likely_align(area.off, area.size)));
            let object = Object { ptr: area.ptr, size: area.size.0 as u32, align, born, early: area.early };
            (place, object)
        });
        match target {
            None => {
                let mut machine = Machine::new(allocator);
                machine.objects = objects.collect();
                Ok(Self::of(machine, from, options))
            }
            Some(target) => {
                Self::carry(target, objects.filter(|(_, object)| !object.early).collect(), from, options, go_on)
            }
        }
    }

    /// Begins with `allocator` and requests everything that is live in it.
    fn carry(
        allocator: Allocator,
        mut objects: Vec<(Key, Object)>,
        from: usize,
        options: &Options,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self, TraceError> {
        objects.sort_unstable_by_key(|(key, object)| (object.born, *key));
        let mut machine = Machine::new(allocator);
        let (mut carried, mut not_carried) = (0, 0);
        for (number, (key, mut object)) in objects.into_iter().enumerate() {
            if number % ASK_EVERY == 0 && !go_on(0) {
                return Err(stopped());
            }
            let request = Request { nowarn: true, ..Request::new(Bytes(object.size.into()), Bytes(1 << object.align)) };
            object.ptr = machine.allocator.alloc(&request).ptr;
            if object.ptr == NULL {
                not_carried += 1;
            } else {
                carried += 1;
                machine.live_bytes += machine.rounded(request.size);
            }
            machine.objects.insert(key, object);
        }
        let mut runner = Self::of(machine, from, options);
        (runner.totals.carried, runner.totals.not_carried) = (carried, not_carried);
        Ok(runner)
    }

    /// Reads the next events. `go_on` is asked now and then with the number of events read so far, and ends the rerun
    /// by saying no: then the answer is false.
    pub fn read(&mut self, block: &Trace, go_on: &mut dyn FnMut(usize) -> bool) -> Result<bool, TraceError> {
        self.read_range(block, 0..block.len(), go_on)
    }

    /// As [`Self::read`], of a part of a block.
    pub fn read_range(
        &mut self,
        block: &Trace,
        range: std::ops::Range<usize>,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool, TraceError> {
        self.hashed |= block.hashed();
        for at in range {
            if self.event % ASK_EVERY == 0 && !go_on(self.event) {
                return Ok(false);
            }
            if self.options.history && self.event >= self.next_mark.0 {
                self.set_mark();
            }
            let record = block.get(at).expect("the range is within the block");
            self.step(&record.event).map_err(|error| TraceError {
                line: (record.line != 0).then_some(u64::from(record.line)),
                message: error.to_string(),
                text: None,
            })?;
            self.event += 1;
            self.totals.events += 1;
            let numbers = self.machine.numbers();
            self.sampler.push(record.time, numbers);
        }
        Ok(true)
    }

    /// The result after the events that were read.
    pub fn finish(self) -> Rerun {
        Rerun {
            allocator: self.machine.allocator,
            requests: self.requests,
            totals: self.totals,
            windows: self.sampler.finish(),
            from: self.from,
            hashed: self.hashed,
            marks: self.marks,
        }
    }

    fn set_mark(&mut self) {
        let interval = (self.next_mark.1 * 2).min(MARK_MOST);
        self.next_mark = (self.event + interval, interval);
        if self.machine.bytes() > MARK_BYTES / 2 {
            return;
        }
        self.marks.push((self.event, Arc::new(self.machine.clone())));
        let bytes = self.machine.bytes() * self.marks.len() as u64;
        if self.marks.len() > MARKS || bytes > MARK_BYTES && self.marks.len() > 2 {
            let mut kept = 0;
            self.marks.retain(|_| {
                kept += 1;
                kept % 2 == 1
            });
        }
    }

    fn step(&mut self, event: &Event<'_>) -> Result<(), RequestError> {
        match *event {
            Event::Alloc(alloc) => {
                let key = key(alloc.base, alloc.off, alloc.ptr);
                if let Some(object) = key.and_then(|key| self.machine.objects.get_mut(&key)).filter(|o| o.early) {
                    object.early = false;
                    return Ok(());
                }
                let object = self.request(event, self.recorded_unit_off(&alloc));
                let Some(key) = key else { return Ok(()) };
                if let Some(old) = self.machine.objects.insert(key, object) {
                    self.totals.lost_frees += 1;
                    return self.machine.give_back(old);
                }
            }
            Event::AllocFail { .. } => {
                let object = self.request(event, None);
                if object.ptr != NULL {
                    self.totals.served_only_here += 1;
                    return self.machine.give_back(object);
                }
            }
            Event::Free { base, off, ptr } => {
                let object = key(base, off, ptr).and_then(|key| self.machine.objects.remove(&key));
                match object {
                    None => self.totals.unseen_frees += 1,
                    Some(Object { ptr: NULL, .. }) => self.totals.missing_frees += 1,
                    Some(object) => {
                        self.totals.frees += 1;
                        return self.machine.give_back(object);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn request(&mut self, event: &Event<'_>, recorded_unit_off: Option<Bytes>) -> Object {
        let request = request_of(event).expect("the event is a request");
        let machine = &mut self.machine;
        let placement = machine.allocator.alloc(&request);
        if placement.ptr != NULL {
            machine.live_bytes += machine.rounded(request.size);
        }
        let totals = &mut self.totals;
        let unit_off = match placement.outcome {
            Outcome::Placed { chunk, off } => {
                totals.allocs += 1;
                (chunk != ChunkId::ZERO_SIZE).then(|| machine.allocator.unit_off(chunk, off))
            }
            Outcome::Failed(_) => {
                totals.fails += 1;
                None
            }
        };
        if unit_off.is_some() && recorded_unit_off.is_some() {
            totals.comparable += 1;
            totals.same_place += u64::from(unit_off == recorded_unit_off);
        }
        if self.options.history {
            self.requests.push(Served {
                event: self.event as u32,
                recorded: matches!(event, Event::Alloc(_)),
                outcome: placement.outcome,
                unit_off,
                recorded_unit_off,
            });
        }
        Object {
            ptr: placement.ptr,
            size: request.size.0 as u32,
            align: log2(request.align),
            born: self.event as u32 + 1,
            early: false,
        }
    }

    /// Where in the unit a recorded area lies.
    ///
    /// A pointer less its offset is the distance of the chunk's base from the boot area, if pointers begin
    /// where those of this machine do (33 section 1). Boot chunks lie in the first unit; other chunks far
    /// away, with whole units from their base on. In between it is not clear what the distance means.
    fn recorded_unit_off(&self, alloc: &Alloc<'_>) -> Option<Bytes> {
        let ptr = alloc.ptr.filter(|_| !self.hashed && alloc.base.is_some())?;
        let address = self.machine.allocator.address();
        let start = if address.static_size > 0 { address.per_cpu_start } else { 0 };
        let distance = ptr.wrapping_sub(start).wrapping_sub(alloc.off.0);
        if distance < address.unit_size {
            return Some(Bytes(distance) + alloc.off);
        }
        (distance >= MAX_UNIT_SIZE).then_some(alloc.off)
    }
}

/// The caller said no before there was anything to show.
fn stopped() -> TraceError {
    TraceError::new("stopped")
}

/// The logarithm of an alignment.
fn log2(align: Bytes) -> u8 {
    align.0.max(1).ilog2() as u8
}

/// The logarithm of the alignment of an area whose request was not seen: what its size suggests and its place allows, at most 8.
fn likely_align(off: Bytes, size: Bytes) -> u8 {
    (off.0 | size.0 | 8).trailing_zeros() as u8
}
