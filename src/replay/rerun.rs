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
//! # Units
//!
//! Bytes; events by index.
//!
//! # Cost
//!
//! As the engine's, and a table of live objects. A sample looks at every chunk.
//!
//! # Source
//!
//! Specification 50 sections 2 and 3 for what the lines mean.

use std::collections::HashMap;

use super::machine::request_of;
use super::Sample;
use crate::allocator::{Allocator, NULL};
use crate::error::{RequestError, TraceError};
use crate::geometry::MAX_UNIT_SIZE;
use crate::request::{ChunkId, Outcome};
use crate::trace::{Alloc, Base, Event, Trace};
use crate::units::Bytes;

/// Events between two questions whether to go on.
const ASK_EVERY: usize = 4096;

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
}

/// The result of a rerun.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// The allocator after the last event.
    pub allocator: Allocator,
    /// One entry a request.
    pub requests: Vec<Served>,
    /// Counts.
    pub totals: Totals,
    /// The timeline.
    pub samples: Vec<Sample>,
}

/// An object of the trace: its pointer here, [`NULL`] if its request failed here, and its size.
#[derive(Clone, Copy, Debug)]
struct Object {
    ptr: u64,
    size: Bytes,
}

/// What the trace calls an object by: base and offset, or the pointer where no base is printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Place(u64, u64),
    Pointer(u64),
}

fn key(base: Option<Base>, off: Bytes, ptr: Option<u64>) -> Option<Key> {
    base.map(|base| Key::Place(base.addr, off.0)).or(ptr.map(Key::Pointer))
}

/// Makes the requests and frees of `trace` with `allocator`. `sample_every` events lie between two
/// samples, 0 = none. `go_on` is asked now and then with the number of events read, and ends the
/// rerun by saying no.
pub fn rerun(
    trace: &Trace,
    allocator: Allocator,
    sample_every: usize,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Rerun, TraceError> {
    let mut run = Run {
        out: Rerun { allocator, requests: Vec::new(), totals: Totals::default(), samples: Vec::new() },
        objects: HashMap::new(),
        hashed: trace.hashed(),
    };
    for record in trace.records() {
        if record.index % ASK_EVERY == 0 && !go_on(record.index) {
            break;
        }
        run.step(record.index, &record.event).map_err(|error| TraceError {
            line: (record.line != 0).then_some(u64::from(record.line)),
            message: error.to_string(),
            text: None,
        })?;
        run.out.totals.events += 1;
        if sample_every > 0 && (record.index + 1) % sample_every == 0 {
            run.out.samples.push(Sample::of(record.index, run.out.allocator.engine()));
        }
    }
    Ok(run.out)
}

struct Run {
    out: Rerun,
    objects: HashMap<Key, Object>,
    hashed: bool,
}

impl Run {
    fn step(&mut self, index: usize, event: &Event<'_>) -> Result<(), RequestError> {
        match *event {
            Event::Alloc(alloc) => {
                let object = self.request(index, event, self.recorded_unit_off(&alloc));
                let Some(key) = key(alloc.base, alloc.off, alloc.ptr) else { return Ok(()) };
                if let Some(old) = self.objects.insert(key, object) {
                    self.out.totals.lost_frees += 1;
                    return self.give_back(old);
                }
            }
            Event::AllocFail { .. } => {
                let object = self.request(index, event, None);
                if object.ptr != NULL {
                    self.out.totals.served_only_here += 1;
                    return self.give_back(object);
                }
            }
            Event::Free { base, off, ptr } => {
                let object = key(base, off, ptr).and_then(|key| self.objects.remove(&key));
                match object {
                    None => self.out.totals.unseen_frees += 1,
                    Some(Object { ptr: NULL, .. }) => self.out.totals.missing_frees += 1,
                    Some(object) => {
                        self.out.totals.frees += 1;
                        return self.give_back(object);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn give_back(&mut self, object: Object) -> Result<(), RequestError> {
        self.out.allocator.free(object.ptr, Some(object.size))
    }

    fn request(&mut self, index: usize, event: &Event<'_>, recorded_unit_off: Option<Bytes>) -> Object {
        let request = request_of(event).expect("the event is a request");
        let placement = self.out.allocator.alloc(&request);
        let totals = &mut self.out.totals;
        let unit_off = match placement.outcome {
            Outcome::Placed { chunk, off } => {
                totals.allocs += 1;
                (chunk != ChunkId::ZERO_SIZE).then(|| self.out.allocator.unit_off(chunk, off))
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
        self.out.requests.push(Served {
            event: index as u32,
            recorded: matches!(event, Event::Alloc(_)),
            outcome: placement.outcome,
            unit_off,
            recorded_unit_off,
        });
        Object { ptr: placement.ptr, size: request.size }
    }

    /// Where in the unit a recorded area lies.
    ///
    /// A pointer less its offset is the distance of the chunk's base from the boot area, if pointers begin
    /// where those of this machine do (33 section 1). Boot chunks lie in the first unit; other chunks far
    /// away, with whole units from their base on. In between it is not clear what the distance means.
    fn recorded_unit_off(&self, alloc: &Alloc<'_>) -> Option<Bytes> {
        let ptr = alloc.ptr.filter(|_| !self.hashed && alloc.base.is_some())?;
        let address = self.out.allocator.address();
        let start = if address.static_size > 0 { address.per_cpu_start } else { 0 };
        let distance = ptr.wrapping_sub(start).wrapping_sub(alloc.off.0);
        if distance < address.unit_size {
            return Some(Bytes(distance) + alloc.off);
        }
        (distance >= MAX_UNIT_SIZE).then_some(alloc.off)
    }
}
