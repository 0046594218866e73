//! Every placement of a trace predicted and compared.
//!
//! # Design
//!
//! ```text
//! start state --> Linux engine <-- activities: requests under way, the worker
//!                    ^                 ^
//! Trace, line by line+-----------------+--> Replay: predictions, divergences, totals
//! ```
//!
//! The recording says *when* things happened, the engine *what* happens. A request or the
//! worker runs until the kernel would drop its lock and goes on when the line is read that
//! shows it did (`machine`); lines that come before the request they belong to make it start
//! early (`lookahead`).
//!
//! Where prediction and recording differ, the replay goes back a little, forces what was
//! recorded and goes on, so that one difference does not become thousands. Before that it tries
//! whether the allocation's line was merely written late: allocation lines are written after the
//! lock was dropped, so that a free on another CPU may overtake them. Both are counted apart.
//!
//! Copies of the whole machine to go back to are made ever more rarely while nothing differs. Some are kept, from which
//! [`Replay::at`] goes to any event.
//!
//! # Units
//!
//! Events by index; bytes for places.
//!
//! # Cost
//!
//! Beyond the engine: some words an event, 16 bytes a request, and the copies.
//!
//! # Source
//!
//! Specification 50.

use std::sync::Arc;

use super::explain::{Divergence, Explanation};
use super::lookahead::Lookahead;
use super::machine::{Machine, Mismatch, Overrides, Totals, View};
use super::rerun::{self, Rerun, Rerunner};
use super::timeline::{linux_numbers, EngineWindow, Sampler, ENGINE_NUMBERS};
use crate::allocator::Allocator;
use crate::engine::linux::Linux;
use crate::engine::Engine;
use crate::error::TraceError;
use crate::request::{ChunkId, Outcome, Reason};
use crate::state::State;
use crate::trace::{Event, Kind, Trace};
use crate::units::{Bits, Bytes};

/// Events between the first two copies of the machine, and after a divergence.
const CHECKPOINT_AFTER: usize = 32_768;
/// And at most.
const CHECKPOINT_MOST: usize = 1 << 20;
/// How many events an allocation's line may be late.
const MAX_LATE: usize = 8;
/// How many places are tried at most where a request was started still earlier.
const MOST_TRIES: usize = 64;
/// Events between two questions whether to go on.
const ASK_EVERY: usize = 1024;
/// Copies that are kept, and about how many bytes of maps they may hold.
const MARKS: usize = 32;
const MARK_BYTES: u64 = 128 << 20;

/// What to keep of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep a state at every marker.
    pub states_at_markers: bool,
    /// Check every invariant every so many events; 0 = never.
    pub verify_every: usize,
    /// Events of a sample of the timeline; 0 = as long as it takes to have some thousand.
    pub sample_every: u64,
}

/// What was predicted for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prediction {
    /// Index of its event.
    pub event: u32,
    /// Whether it is as recorded; otherwise the recorded outcome was forced.
    pub equal: bool,
    reason: u8,
    chunk: ChunkId,
    off: u32,
}

impl Prediction {
    fn new(event: usize, equal: bool, outcome: Outcome) -> Self {
        let (chunk, off, reason) = match outcome {
            Outcome::Placed { chunk, off } => (chunk, off.0 as u32, 0),
            Outcome::Failed(reason) => (ChunkId(0), 0, reason as u8),
        };
        Self { event: event as u32, equal, reason, chunk, off }
    }

    /// The outcome.
    pub fn outcome(&self) -> Outcome {
        match Reason::ALL.into_iter().find(|reason| *reason as u8 == self.reason) {
            Some(reason) => Outcome::Failed(reason),
            None => Outcome::Placed { chunk: self.chunk, off: Bytes(u64::from(self.off)) },
        }
    }
}

/// The result of a replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The engine after the last event, with every invariant holding. What is under way there is ended: a request that has
    /// taken its area has its pages, one that waits for a chunk is forgotten, and the worker is scheduled anew for what it
    /// had not done, with the chunks that it had taken up back on their lists.
    pub engine: Linux,
    /// By request.
    pub predictions: Vec<Prediction>,
    /// Counts.
    pub totals: Totals,
    /// The first difference, explained.
    pub first_divergence: Option<Divergence>,
    /// States at markers, by the marker's text.
    pub states: Vec<(String, State)>,
    /// The timeline.
    pub windows: Vec<EngineWindow>,
    ahead: Lookahead,
    overrides: Overrides,
    /// Copies, by the number of events read.
    marks: Vec<(usize, Arc<Machine>)>,
}

impl Replay {
    /// The engine after the first `events` events of the trace that was replayed. What is under way there is ended as at the
    /// end of a trace (see [`Replay::engine`]).
    pub fn at(&self, trace: &Trace, events: usize, go_on: &mut dyn FnMut(usize) -> bool) -> Linux {
        let mut machine = self.machine_at(trace, events, go_on);
        machine.settle();
        machine.engine
    }

    /// Goes on from the middle: the rest of the trace is rerun, on a copy of `allocator` in the state after the first
    /// `events` events, or on `target` with what is live there.
    pub fn fork(
        &self,
        trace: &Trace,
        events: usize,
        mut allocator: Allocator,
        target: Option<Allocator>,
        options: &rerun::Options,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Rerun, TraceError> {
        let from = events.min(self.totals.events as usize);
        let mut machine = self.machine_at(trace, from, go_on);
        let early = machine.areas_under_way();
        machine.settle();
        allocator.set_engine(Box::new(machine.engine));
        let engine = allocator.engine();
        let mut live = Vec::new();
        for id in engine.as_linux().into_iter().flat_map(Linux::chunk_ids) {
            let linux = engine.as_linux().expect("just set");
            let Some(chunk) = linux.chunk(id) else { continue };
            let bytes = |bits: u32| linux.geometry().bits_to_bytes(Bits(bits));
            live.extend(chunk.areas(linux.context()).into_iter().map(|(start, end)| rerun::Live {
                base: chunk.base_addr,
                off: bytes(start),
                size: bytes(end - start),
                ptr: allocator.pointer(id, bytes(start)),
                early: early.contains(&(id, bytes(start))),
            }));
        }
        let mut runner = Rerunner::fork(trace, from, allocator, &live, target, options, go_on)?;
        runner.read_range(trace, from..trace.len(), go_on)?;
        Ok(runner.finish())
    }

    fn machine_at(&self, trace: &Trace, events: usize, go_on: &mut dyn FnMut(usize) -> bool) -> Machine {
        let to = events.min(self.totals.events as usize);
        let nearest = self.marks.iter().rev().find(|(from, _)| *from <= to).expect("the start is kept");
        let mut machine = (*nearest.1).clone();
        for index in nearest.0..to {
            if index % ASK_EVERY == 0 && !go_on(index) {
                break;
            }
            let done = step(&mut machine, trace, &self.ahead, &self.overrides, index);
            debug_assert!(done.is_ok(), "event {index} was replayed before");
        }
        machine
    }
}

/// Replays `trace` from the state that `engine` is in.
pub fn predict(trace: &Trace, engine: Linux, options: &Options) -> Result<Replay, TraceError> {
    predict_with(trace, engine, options, &mut |_| true)
}

/// As [`predict`]; `go_on` is asked now and then with the number of events read, and ends the replay
/// by saying no.
pub fn predict_with(
    trace: &Trace,
    engine: Linux,
    options: &Options,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Replay, TraceError> {
    Driver::new(trace, engine, options).run(go_on)
}

struct Driver<'t> {
    trace: &'t Trace,
    ahead: Lookahead,
    options: &'t Options,
    overrides: Overrides,
    machine: Machine,
    /// A copy to go back to, and the event before which it was made.
    checkpoint: (usize, Arc<Machine>),
    /// Events until the next.
    interval: usize,
    marks: Vec<(usize, Arc<Machine>)>,
    predictions: Vec<Prediction>,
    first_divergence: Option<Explanation>,
    late: u64,
    diverged: u64,
    states: Vec<(String, State)>,
    sampler: Sampler<ENGINE_NUMBERS>,
    stopped: bool,
}

impl<'t> Driver<'t> {
    fn new(trace: &'t Trace, engine: Linux, options: &'t Options) -> Self {
        let ahead = Lookahead::new(trace);
        let machine = Machine::new(engine, &ahead, trace);
        let start = Arc::new(machine.clone());
        Self {
            trace,
            ahead,
            options,
            overrides: Overrides::default(),
            checkpoint: (0, Arc::clone(&start)),
            interval: CHECKPOINT_AFTER,
            marks: vec![(0, start)],
            machine,
            predictions: Vec::with_capacity(trace.len() / 2),
            first_divergence: None,
            late: 0,
            diverged: 0,
            states: Vec::new(),
            sampler: Sampler::new(options.sample_every),
            stopped: false,
        }
    }

    fn run(mut self, go_on: &mut dyn FnMut(usize) -> bool) -> Result<Replay, TraceError> {
        let (times, kinds) = (self.trace.columns().time, self.trace.columns().kind);
        let looks = self.options.states_at_markers || self.options.verify_every > 0;
        let mut index = 0;
        while index < self.trace.len() {
            if index % ASK_EVERY == 0 && !go_on(index) {
                break;
            }
            if index - self.checkpoint.0 >= self.interval {
                self.set_checkpoint(index);
            }
            match step(&mut self.machine, self.trace, &self.ahead, &self.overrides, index) {
                Ok(outcome) => self.note(index, outcome),
                Err(mismatch) => self.resolve(index, mismatch, go_on),
            }
            if self.stopped {
                break;
            }
            if looks {
                self.look(index, kinds[index])?;
            }
            self.sampler.push(times[index], linux_numbers(&self.machine.engine, self.machine.live_bytes));
            index += 1;
        }
        Ok(self.finish(index))
    }

    fn finish(mut self, events: usize) -> Replay {
        self.machine.settle();
        let line = |(event, what): (usize, &'static str)| Divergence::Line {
            event,
            line: self.trace.columns().line[event],
            what,
        };
        let surprise = self.machine.first_surprise.map(line);
        let request = self.first_divergence.map(Divergence::Request);
        let mut totals = self.machine.totals;
        totals.late = self.late;
        totals.diverged += self.diverged;
        totals.events = events as u64;
        Replay {
            engine: self.machine.engine,
            predictions: self.predictions,
            totals,
            first_divergence: request.into_iter().chain(surprise).min_by_key(Divergence::event),
            states: self.states,
            windows: self.sampler.finish(),
            ahead: self.ahead,
            overrides: self.overrides,
            marks: self.marks,
        }
    }

    /// Copies the machine before event `index`; the next copy is made after twice as many events.
    fn set_checkpoint(&mut self, index: usize) {
        self.checkpoint = (index, Arc::new(self.machine.clone()));
        self.interval = (self.interval * 2).min(CHECKPOINT_MOST);
        if self.machine.map_bytes() > MARK_BYTES / 2 {
            return;
        }
        self.marks.push((index, Arc::clone(&self.checkpoint.1)));
        let bytes = self.machine.map_bytes() * self.marks.len() as u64;
        if self.marks.len() > MARKS || bytes > MARK_BYTES && self.marks.len() > 2 {
            // The start stays, of the others every second.
            let mut kept = 0;
            self.marks.retain(|_| {
                kept += 1;
                kept % 2 == 1
            });
        }
    }

    /// Keeps what the options ask for, after event `index`.
    fn look(&mut self, index: usize, kind: Kind) -> Result<(), TraceError> {
        if self.options.states_at_markers && kind == Kind::Marker {
            if let Event::Marker { text } = self.trace.event(index) {
                self.states.push((text.to_owned(), State::capture(&self.machine.engine)));
            }
        }
        let every = self.options.verify_every;
        if every > 0 && (index + 1) % every == 0 && self.machine.at_rest() {
            self.machine.engine.verify().map_err(|violation| TraceError {
                line: Some(u64::from(self.trace.columns().line[index])),
                message: violation.to_string(),
                text: None,
            })?;
        }
        Ok(())
    }

    #[inline]
    fn note(&mut self, index: usize, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            self.predictions.push(Prediction::new(index, true, outcome));
        }
    }

    /// Event `index` is a request whose outcome was predicted otherwise: finds out whether its
    /// line came late, else forces what was recorded. Afterwards the machine is behind `index`.
    fn resolve(&mut self, index: usize, mismatch: Mismatch, go_on: &mut dyn FnMut(usize) -> bool) {
        let near = index.saturating_sub(MAX_LATE).min(mismatch.started_at).max(self.checkpoint.0);
        self.machine = (*self.checkpoint.1).clone();
        if !go_on(index) {
            self.stopped = true;
            return;
        }
        for event in self.checkpoint.0..near {
            if event % ASK_EVERY == 0 && !go_on(event) {
                self.stopped = true;
                return;
            }
            let done = step(&mut self.machine, self.trace, &self.ahead, &self.overrides, event);
            debug_assert!(done.is_ok(), "event {event} was replayed before");
        }
        self.interval = CHECKPOINT_AFTER;
        self.checkpoint = (near, Arc::new(self.machine.clone()));
        if !self.ahead.in_lock_order() {
            for start in (near..index).rev().take(MOST_TRIES) {
                if self.overrides.taken(start) {
                    continue;
                }
                self.overrides.start_before(index, start);
                if let Ok(outcome) = self.again(near, index) {
                    self.late += 1;
                    return self.note(index, outcome);
                }
                self.overrides.forget_start(start);
            }
        }
        if self.first_divergence.is_none() {
            let before = self.state_before_start(near, mismatch.started_at);
            self.first_divergence = Some(Explanation::new(self.trace, index, mismatch.predicted, &before));
        }
        self.overrides.force(index, near);
        self.predictions.push(Prediction::new(index, false, mismatch.predicted));
        self.diverged += 1;
        if self.again(near, index).is_err() {
            // Started early, it takes what others got that were predicted without it: they keep it.
            let kinds = self.trace.columns().kind;
            let requests = (near..index).filter(|event| matches!(kinds[*event], Kind::Alloc | Kind::AllocFail));
            requests.for_each(|event| self.overrides.force(event, near));
            let forced = self.again(near, index);
            debug_assert!(forced.is_ok(), "a forced event has no prediction to differ from");
        }
    }

    /// Replays from event `from`, where the checkpoint is, up to and including `to`.
    fn again(&mut self, from: usize, to: usize) -> Result<Option<Outcome>, Mismatch> {
        self.machine = (*self.checkpoint.1).clone();
        let mut last = Ok(None);
        for event in from..=to {
            last = step(&mut self.machine, self.trace, &self.ahead, &self.overrides, event);
            if last.is_err() {
                break;
            }
        }
        last
    }

    /// The engine before the line of event `start`.
    fn state_before_start(&self, near: usize, start: usize) -> Linux {
        let mut machine = (*self.checkpoint.1).clone();
        for event in near..start {
            if step(&mut machine, self.trace, &self.ahead, &self.overrides, event).is_err() {
                break;
            }
        }
        machine.engine
    }
}

/// Reads one line with a machine.
#[inline]
fn step(
    machine: &mut Machine,
    trace: &Trace,
    ahead: &Lookahead,
    overrides: &Overrides,
    index: usize,
) -> Result<Option<Outcome>, Mismatch> {
    machine.step(&View { trace, ahead, overrides }, index)
}
