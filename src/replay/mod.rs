//! A trace through an engine: every placement predicted and compared.
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
//! [`rerun`](rerun::rerun) is the other way to use a trace: its requests and frees on any engine, without predictions.
//!
//! # Units
//!
//! Events by index; bytes for places.
//!
//! # Source
//!
//! Specification 50.

mod explain;
pub mod follow;
mod lookahead;
mod machine;
pub mod occupancy;
pub mod rerun;
pub mod timeline;

pub use explain::{ChunkBefore, Divergence, Explanation};
pub use machine::Totals;
use machine::{Machine, Mismatch, Overrides, View};

use crate::engine::linux::Linux;
use crate::engine::Engine;
use crate::error::TraceError;
use crate::request::{ChunkId, Outcome};
use crate::state::State;
use crate::trace::{Event, Kind, Trace};
use lookahead::Lookahead;

/// Events between two copies of the whole machine to go back to.
const CHECKPOINT_EVERY: usize = 32_768;
/// How many events an allocation's line may be late.
const MAX_LATE: usize = 8;

/// What to keep of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep a state at every marker.
    pub states_at_markers: bool,
    /// Check every invariant every so many events; 0 = never.
    pub verify_every: usize,
    /// Events between two samples of the timeline; 0 = none.
    pub sample_every: usize,
}

/// What was predicted for one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prediction {
    /// The event is no request.
    None,
    /// As recorded.
    Equal(Outcome),
    /// Otherwise than recorded; then the recorded outcome was forced.
    Differs(Outcome),
}

/// One row of the timeline, after an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Events read so far.
    pub event: u64,
    /// Live areas.
    pub nr_cur_alloc: u64,
    /// Bytes of live areas in one unit.
    pub allocated_bytes: u64,
    /// Chunks on the lists.
    pub nr_chunks: u32,
    /// Populated pages of each unit.
    pub nr_populated: u32,
    /// Empty populated pages that count as ready.
    pub nr_empty_pop_pages: i32,
}

impl Sample {
    /// The state of an engine after event `index`.
    fn of(index: usize, engine: &dyn Engine) -> Self {
        let page = engine.geometry().page_size().0;
        let (mut allocated_bytes, mut pages) = (0, 0);
        for id in engine.chunk_ids() {
            let Some(view) = engine.chunk(id) else { continue };
            let hidden = view.start_offset + view.end_offset;
            allocated_bytes += u64::from(view.nr_pages.0) * page - hidden.0 - view.free_bytes.0;
            if !id.is_reserved() {
                pages += view.nr_populated.0;
            }
        }
        let totals = engine.totals();
        Self {
            event: index as u64 + 1,
            nr_cur_alloc: engine.stats().nr_cur_alloc,
            allocated_bytes,
            nr_chunks: engine.stats().nr_chunks,
            // Where the generation keeps no total: of every chunk but the reserved one, which shares its pages.
            nr_populated: totals.nr_populated.unwrap_or(pages),
            nr_empty_pop_pages: totals.nr_empty_pop_pages as i32,
        }
    }
}

/// The result of a replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The engine after the last event.
    pub engine: Linux,
    /// By event.
    pub predictions: Vec<Prediction>,
    /// Counts.
    pub totals: Totals,
    /// The first difference, explained.
    pub first_divergence: Option<Divergence>,
    /// States at markers, by the marker's text.
    pub states: Vec<(String, State)>,
    /// The timeline.
    pub samples: Vec<Sample>,
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
    checkpoint: (usize, Machine),
    predictions: Vec<Prediction>,
    first_divergence: Option<Explanation>,
    late: u64,
    diverged: u64,
    states: Vec<(String, State)>,
    samples: Vec<Sample>,
}

impl<'t> Driver<'t> {
    fn new(trace: &'t Trace, engine: Linux, options: &'t Options) -> Self {
        let ahead = Lookahead::new(trace);
        let machine = Machine::new(engine, &ahead);
        Self {
            trace,
            ahead,
            options,
            overrides: Overrides::default(),
            checkpoint: (0, machine.clone()),
            machine,
            predictions: vec![Prediction::None; trace.len()],
            first_divergence: None,
            late: 0,
            diverged: 0,
            states: Vec::new(),
            samples: Vec::new(),
        }
    }

    fn run(mut self, go_on: &mut dyn FnMut(usize) -> bool) -> Result<Replay, TraceError> {
        let mut index = 0;
        while index < self.trace.len() {
            if index % 4096 == 0 && !go_on(index) {
                break;
            }
            if index - self.checkpoint.0 >= CHECKPOINT_EVERY {
                self.checkpoint = (index, self.machine.clone());
            }
            match step(&mut self.machine, self.trace, &self.ahead, &self.overrides, index) {
                Ok(outcome) => self.note(index, outcome),
                Err(mismatch) => self.resolve(index, mismatch),
            }
            self.look(index)?;
            index += 1;
        }
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
        totals.events = index as u64;
        Ok(Replay {
            engine: self.machine.engine,
            predictions: self.predictions,
            totals,
            first_divergence: request.into_iter().chain(surprise).min_by_key(Divergence::event),
            states: self.states,
            samples: self.samples,
        })
    }

    /// Keeps what the options ask for, after event `index`.
    fn look(&mut self, index: usize) -> Result<(), TraceError> {
        if self.options.states_at_markers && self.trace.columns().kind[index] == Kind::Marker {
            if let Event::Marker { text } = self.trace.event(index) {
                self.states.push((text.to_owned(), State::capture(&self.machine.engine)));
            }
        }
        let every = self.options.sample_every;
        if every > 0 && (index + 1) % every == 0 {
            self.samples.push(Sample::of(index, &self.machine.engine));
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

    fn note(&mut self, index: usize, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            // A forced request keeps the prediction that was wrong.
            if !matches!(self.predictions[index], Prediction::Differs(_)) {
                self.predictions[index] = Prediction::Equal(outcome);
            }
        }
    }

    /// Event `index` is a request whose outcome was predicted otherwise: finds out whether its
    /// line came late, else forces what was recorded. Afterwards the machine is behind `index`.
    fn resolve(&mut self, index: usize, mismatch: Mismatch) {
        let near = index.saturating_sub(MAX_LATE).min(mismatch.started_at).max(self.checkpoint.0);
        self.machine = self.checkpoint.1.clone();
        for event in self.checkpoint.0..near {
            let done = step(&mut self.machine, self.trace, &self.ahead, &self.overrides, event);
            debug_assert!(done.is_ok(), "event {event} was replayed before");
        }
        self.checkpoint = (near, self.machine.clone());
        if !self.ahead.in_lock_order() {
            for start in (near..index).rev() {
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
        self.overrides.force(index);
        self.predictions[index] = Prediction::Differs(mismatch.predicted);
        self.diverged += 1;
        let forced = self.again(near, index);
        debug_assert!(forced.is_ok(), "a forced event has no prediction to differ from");
    }

    /// Replays from event `from`, where the checkpoint is, up to and including `to`.
    fn again(&mut self, from: usize, to: usize) -> Result<Option<Outcome>, Mismatch> {
        self.machine = self.checkpoint.1.clone();
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
        let mut machine = self.checkpoint.1.clone();
        for event in near..start {
            if step(&mut machine, self.trace, &self.ahead, &self.overrides, event).is_err() {
                break;
            }
        }
        machine.engine
    }
}

/// Reads one line with a machine.
fn step(
    machine: &mut Machine,
    trace: &Trace,
    ahead: &Lookahead,
    overrides: &Overrides,
    index: usize,
) -> Result<Option<Outcome>, Mismatch> {
    machine.step(&View { trace, ahead, overrides }, index)
}

/// The place that an event records, as the engine names it.
fn recorded_place(engine: &Linux, base: u64, off: u64) -> Option<ChunkId> {
    let id = engine.find_chunk(base.wrapping_add(off))?;
    (engine.chunk(id)?.base_addr() == base).then_some(id)
}
