//! Several traces of one machine, such as a file for each CPU, as one.
//!
//! # Design
//!
//! The heads of all traces stand in a heap; the earliest goes first, on a tie that of the trace given
//! first. Each trace keeps its own order, whatever its times are: inside one file the order of the lines
//! is better than the clock (see [`super`]).
//!
//! # Cost
//!
//! O(events x log traces).
//!
//! # Source
//!
//! Specification 40 section 6.3, rule 7.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::builder::{Row, TraceBuilder};
use super::event::{Clock, Format, Kind};
use super::{flag, Limits, Trace, NONE};
use crate::error::TraceError;

/// What is said where the caller did not want to go on.
pub const STOPPED: &str = "stopped by the caller";
/// Events between two questions whether to go on.
const ASK_EVERY: usize = 1 << 14;

/// Asks after every so many events.
pub(super) fn ask(done: usize, go_on: &mut dyn FnMut() -> bool) -> Result<(), TraceError> {
    if done % ASK_EVERY == 0 && !go_on() {
        return Err(TraceError::new(STOPPED));
    }
    Ok(())
}

/// Whether any event of the trace has a pointer, so that being hashed means something.
fn has_pointers(trace: &Trace) -> bool {
    let c = trace.columns();
    c.base.iter().any(|&base| base != NONE) || c.flags.iter().any(|&flags| flags & flag::PTR != 0)
}

/// Merges traces by time, stable. Their clocks must count the same, and their pointers must all be hashed or
/// all be real: then equal numbers mean the same in all of them.
pub fn merge(traces: &[&Trace]) -> Result<Trace, TraceError> {
    merge_while(traces, &mut || true)
}

/// The same; `go_on` is asked now and then, and a no is [`STOPPED`].
pub fn merge_while(traces: &[&Trace], go_on: &mut dyn FnMut() -> bool) -> Result<Trace, TraceError> {
    let columns = |trace: &&Trace| trace.facts().format == Some(Format::Columns);
    if let Some(index) = traces.iter().position(columns).filter(|_| traces.len() > 1) {
        let message = format!("traces[{index}]: the column form has no times, so it cannot be merged");
        return Err(TraceError::new(message));
    }
    let mut whole = Whole::new(traces)?;
    let mut next = vec![0usize; traces.len()];
    let head = |index: usize, event: usize| Some(Reverse((*traces[index].columns().time.get(event)?, index)));
    let mut heads: BinaryHeap<_> = (0..traces.len()).filter_map(|index| head(index, 0)).collect();
    while let Some(Reverse((_, index))) = heads.pop() {
        whole.push(index, next[index], 0, go_on)?;
        next[index] += 1;
        heads.extend(head(index, next[index]));
    }
    Ok(whole.finish())
}

/// One trace after the other, such as the blocks of one stream, or parts of one trace.
pub fn concatenate(traces: &[&Trace]) -> Result<Trace, TraceError> {
    concatenate_while(traces, &mut || true)
}

/// The same; `go_on` is asked now and then, and a no is [`STOPPED`].
pub fn concatenate_while(traces: &[&Trace], go_on: &mut dyn FnMut() -> bool) -> Result<Trace, TraceError> {
    let mut whole = Whole::new(traces)?;
    for (index, trace) in traces.iter().enumerate() {
        for (event, &line) in trace.columns().line.iter().enumerate() {
            whole.push(index, event, line, go_on)?;
        }
    }
    Ok(whole.finish())
}

/// A trace that is put together from others.
struct Whole<'a> {
    traces: &'a [&'a Trace],
    builder: TraceBuilder,
    maps: Vec<Maps>,
    pushed: usize,
}

impl<'a> Whole<'a> {
    /// Checks that the traces can be compared.
    fn new(traces: &'a [&'a Trace]) -> Result<Self, TraceError> {
        let mut clock: Option<Clock> = None;
        let mut hashed: Option<bool> = None;
        for (index, trace) in traces.iter().enumerate().filter(|(_, trace)| !trace.is_empty()) {
            let bad = |message: &str| TraceError::new(format!("traces[{index}]: {message}"));
            clock = Some(match (clock, trace.clock()) {
                (None, new) => new,
                (Some(old), new) if old == new => old,
                (Some(Clock::Counter), _) | (_, Clock::Counter) => {
                    return Err(bad("its clock counts events, that of the others time, or the other way round"));
                }
                _ => Clock::Nanoseconds,
            });
            if has_pointers(trace) && *hashed.get_or_insert(trace.hashed()) != trace.hashed() {
                return Err(bad("its pointers are hashed and those of the others are not, or the other way round"));
            }
        }
        let limits = Limits { events: u64::from(u32::MAX) };
        let mut builder = TraceBuilder::with_limits(clock.unwrap_or_default(), limits);
        builder.set_hashed(hashed.unwrap_or(false));
        let maps = traces.iter().map(|trace| Maps::new(&mut builder, trace)).collect();
        Ok(Self { traces, builder, maps, pushed: 0 })
    }

    fn push(
        &mut self,
        index: usize,
        event: usize,
        line: u32,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), TraceError> {
        self.pushed += 1;
        ask(self.pushed, go_on)?;
        let (trace, maps) = (self.traces[index], &self.maps[index]);
        let mut row = Row::of(trace, event);
        row.line = u64::from(line);
        if row.base != NONE {
            row.base = maps.bases[row.base as usize];
        }
        if row.gfp != NONE {
            row.gfp = maps.gfp[row.gfp as usize];
        }
        if row.kind == Kind::Marker {
            row.text = self.builder.marker(trace.markers()[row.text as usize].as_bytes());
        } else if row.text != NONE {
            row.text = maps.call_sites[row.text as usize];
        }
        if let Some(extra) = trace.extra_fields(event) {
            self.builder.extra(extra.to_owned());
        }
        self.builder.push_row(row)
    }

    fn finish(mut self) -> Trace {
        let facts = self.builder.facts();
        for trace in self.traces {
            facts.format = facts.format.or(trace.facts().format);
            facts.skipped_lines += trace.facts().skipped_lines;
            facts.damaged_lines += trace.facts().damaged_lines;
            facts.overwritten_events += trace.facts().overwritten_events;
            facts.first_damage = facts.first_damage.take().or(trace.facts().first_damage.clone());
        }
        self.builder.finish()
    }
}

/// Indices of one trace's dictionaries in those of the whole.
struct Maps {
    bases: Vec<u32>,
    call_sites: Vec<u32>,
    gfp: Vec<u32>,
}

impl Maps {
    fn new(builder: &mut TraceBuilder, trace: &Trace) -> Self {
        Self {
            bases: trace.bases().iter().map(|&addr| builder.base(addr)).collect(),
            call_sites: trace.call_sites().iter().map(|text| builder.call_site(text.as_bytes())).collect(),
            gfp: trace.gfp_flags().iter().map(|text| builder.gfp_text(text.as_bytes())).collect(),
        }
    }
}
