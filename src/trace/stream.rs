//! Reading block by block, so that a file may be larger than memory.
//!
//! # Design
//!
//! ```text
//!   TraceReader::new(file) -> next_block(n) -> a trace of n events or a few more -> ... -> None
//!                          -> advance(n) ... read_all()     the whole as one trace
//! ```
//!
//! A block is a [`Trace`]. The dictionaries grow from block to block and are shared, so an index of a
//! chunk, a call site or a flag text means the same in every block of one stream; marker texts belong
//! to their block. Whether pointers are hashed, and what the clock counts, is said by what was read so far;
//! the first event with pointers decides in all that kernels write with 64 bits.
//!
//! Output of bpftrace is put into order by time inside a window of [`WINDOW`] events, far more than its
//! buffers hold; [`TraceReader::read_all`] orders the whole.
//!
//! # Cost
//!
//! Memory: one buffer, one block, the dictionaries.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::input::{recognise, LineReader, Lines, ReadOptions, Source};
use super::Trace;
use crate::error::TraceError;

/// Events that are held back to put those of several CPUs into order.
pub const WINDOW: usize = 1 << 18;

/// How far a reader has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Bytes of the file, as it is stored.
    pub bytes: u64,
    /// Lines.
    pub lines: u64,
    /// Events that were taken or can be.
    pub events: u64,
}

/// Reads a trace of any supported text form, plain, gzip or zstd, block by block.
pub struct TraceReader<R: Read> {
    lines: Lines<Source<R>>,
    options: ReadOptions,
    bytes: Arc<AtomicU64>,
    /// `None` until the first bytes were looked at.
    format: Option<Box<dyn LineReader + Send>>,
    taken: u64,
    ended: bool,
    damaged: u64,
    first_damage: Option<String>,
    /// Whether everything may be held back.
    whole: bool,
}

impl<R: Read> TraceReader<R> {
    /// Looks at the first bytes of `reader`.
    pub fn new(reader: R, options: ReadOptions) -> Result<Self, TraceError> {
        let bytes = Arc::new(AtomicU64::new(0));
        let lines = Lines::new(Source::new(reader, Arc::clone(&bytes))?);
        let (format, first_damage) = (None, None);
        Ok(Self { lines, options, bytes, format, taken: 0, ended: false, damaged: 0, first_damage, whole: false })
    }

    /// How far it has come.
    pub fn position(&self) -> Position {
        let ready = self.format.as_ref().map_or(0, |format| format.ready());
        Position {
            bytes: self.bytes.load(Ordering::Relaxed),
            lines: self.lines.number(),
            events: self.taken + ready as u64,
        }
    }

    /// Reads until `events` events are ready. False at the end of the input; then all are ready.
    pub fn advance(&mut self, events: usize) -> Result<bool, TraceError> {
        let mut format = match self.format.take() {
            Some(format) => format,
            None => {
                let window = if self.whole { usize::MAX } else { WINDOW };
                recognise(self.lines.head()?, self.options, window)?
            }
        };
        let more = self.feed(&mut *format, events);
        self.format = Some(format);
        more
    }

    fn feed(&mut self, format: &mut dyn LineReader, events: usize) -> Result<bool, TraceError> {
        loop {
            let ready = format.ready();
            if ready >= events {
                return Ok(true);
            }
            if format.expand(events - ready)? {
                continue;
            }
            if self.ended {
                return Ok(false);
            }
            let result = match self.lines.next() {
                Ok(Some((_, b""))) => continue,
                Ok(Some((number, line))) => format.line(line, number),
                Ok(None) => {
                    self.ended = true;
                    format.end()
                }
                Err(error) => Err(error),
            };
            match result {
                Err(error) if self.options.strict || format.full() => return Err(error),
                Err(error) => {
                    self.damaged += 1;
                    self.first_damage.get_or_insert_with(|| error.to_string());
                }
                Ok(()) => {}
            }
        }
    }

    /// What is ready, as a trace.
    fn take(&mut self) -> Trace {
        let mut trace = self.format.as_mut().map(|format| format.take()).unwrap_or_default();
        self.taken += trace.len() as u64;
        trace.facts.damaged_lines = std::mem::take(&mut self.damaged);
        trace.facts.first_damage = self.first_damage.take();
        trace
    }

    /// The next block, of about `events` events; the last one may be smaller, and has the counts of
    /// lines behind the last event. `None` at the end.
    pub fn next_block(&mut self, events: usize) -> Result<Option<Trace>, TraceError> {
        let more = self.advance(events.max(1))?;
        let block = self.take();
        Ok((more || !block.is_empty() || block.facts().damaged_lines + block.facts().skipped_lines > 0)
            .then_some(block))
    }

    /// Says that nothing will be taken before the end, so that all events may be put into order; before
    /// the first [`Self::advance`].
    pub fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// All that is left, as one trace.
    pub fn read_all(mut self) -> Result<Trace, TraceError> {
        self.whole = true;
        self.advance(usize::MAX)?;
        Ok(self.take())
    }

    /// What was made ready by [`Self::advance`], as one trace.
    pub fn into_trace(mut self) -> Trace {
        self.take()
    }
}
