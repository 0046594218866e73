//! Why a prediction and a recording differ: both chunks as the request found them.

use std::fmt;

use super::machine::{chunk_of, request_of};
use super::recorded_place;
use crate::block::Block;
use crate::engine::linux::Linux;
use crate::request::{ChunkId, Outcome, Request};
use crate::trace::{Alloc, Event, Trace};
use crate::units::Bytes;

/// One of the two chunks, as the request found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkBefore {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its list.
    pub slot: Option<u32>,
    /// Free bytes.
    pub free_bytes: Bytes,
    /// Chunk-wide hints, in bits.
    pub hints: Block,
    /// Where the hints send the search, in bits; `None` = they show no fit.
    pub search_start: Option<u32>,
}

/// The first place where prediction and recording part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Divergence {
    /// A request with another outcome.
    Request(Explanation),
    /// Another line that cannot be, or that was not predicted.
    Line {
        /// Index of the event.
        event: usize,
        /// Line in the file; 0 if the trace was not read from one.
        line: u32,
        /// What the line does.
        what: &'static str,
    },
}

impl Divergence {
    /// Index of the event.
    pub fn event(&self) -> usize {
        match self {
            Divergence::Request(explanation) => explanation.event,
            Divergence::Line { event, .. } => *event,
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Divergence::Request(explanation) => explanation.fmt(f),
            Divergence::Line { event, line: 0, what } => write!(f, "event {event} {what}"),
            Divergence::Line { event, line, what } => write!(f, "event {event} (line {line}) {what}"),
        }
    }
}

/// A request with another outcome than recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Index of the event.
    pub event: usize,
    /// Line in the file; 0 if the trace was not read from one.
    pub line: u32,
    /// The request.
    pub request: Request,
    /// What was predicted.
    pub predicted: Outcome,
    /// What was recorded: base address and offset; `None` = a failure.
    pub recorded: Option<(u64, Bytes)>,
    /// The chunk that was predicted.
    pub predicted_chunk: Option<ChunkBefore>,
    /// The chunk that was recorded; `None` for a failure or a chunk that does not exist.
    pub recorded_chunk: Option<ChunkBefore>,
}

impl Explanation {
    pub(super) fn new(trace: &Trace, event: usize, predicted: Outcome, before: &Linux) -> Self {
        let record = trace.get(event).expect("the event exists");
        let request = request_of(&record.event).expect("only requests differ");
        let recorded = match record.event {
            Event::Alloc(Alloc { base: Some(base), off, .. }) => Some((base.addr, off)),
            _ => None,
        };
        let view = |id: ChunkId| {
            let chunk = before.chunk(id)?;
            let task = before.task(&request).ok()?;
            Some(ChunkBefore {
                chunk: id,
                slot: before.slots().slot_of(id),
                free_bytes: chunk.free_bytes(),
                hints: *chunk.hints(),
                search_start: before.search_start(id, &task),
            })
        };
        Self {
            event,
            line: record.line,
            request,
            predicted,
            recorded,
            predicted_chunk: chunk_of(&predicted).and_then(view),
            recorded_chunk: recorded.and_then(|(base, off)| recorded_place(before, base, off.0)).and_then(view),
        }
    }
}

impl fmt::Display for ChunkBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = &self.hints;
        write!(f, "chunk {}", self.chunk)?;
        match self.slot {
            Some(slot) => write!(f, " in slot {slot}")?,
            None => write!(f, " on no list")?,
        }
        write!(
            f,
            ", {} free, contig_hint {}@{}, scan_hint {}@{}, first_free {} (bits), ",
            self.free_bytes, h.contig_hint, h.contig_hint_start, h.scan_hint, h.scan_hint_start, h.first_free
        )?;
        match self.search_start {
            Some(start) => write!(f, "search from bit {start}"),
            None => write!(f, "no fit by its hints"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}", self.event)?;
        if self.line > 0 {
            write!(f, " (line {})", self.line)?;
        }
        let r = &self.request;
        let kind = if r.sleep == crate::request::Sleep::Never { "atomic " } else { "" };
        let area = if r.reserved { "reserved " } else { "" };
        writeln!(f, ": {kind}{area}request of {} aligned to {}", r.size, r.align)?;
        match self.predicted {
            Outcome::Placed { chunk, off } => writeln!(f, "  predicted: chunk {chunk}, byte {}", off.0)?,
            Outcome::Failed(reason) => writeln!(f, "  predicted: failure, {}", reason.text())?,
        }
        if let Some(chunk) = &self.predicted_chunk {
            writeln!(f, "    {chunk}")?;
        }
        match self.recorded {
            Some((base, off)) => write!(f, "  recorded: chunk at {base:#x}, byte {}", off.0)?,
            None => write!(f, "  recorded: failure")?,
        }
        if let Some(chunk) = &self.recorded_chunk {
            write!(f, "\n    {chunk}")?;
        }
        Ok(())
    }
}
