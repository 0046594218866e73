//! Traces: what an allocator was asked, and what it did, event by event.
//!
//! # Design
//!
//! A [`Trace`] is a set of columns, one value an event, with dictionaries for what
//! repeats: base addresses of chunks, call sites, flag texts. About 55 bytes an event,
//! whatever the text form took. [`Trace::records`] gives typed views, [`Trace::columns`]
//! the raw columns for array code.
//!
//! ```text
//!   bytes --> input.rs: decompressed, recognised, cut into lines; strict or counting (stream.rs)
//!     ftrace, trace-cmd, perf text --> ftrace.rs --+                 +--> write.rs (ftrace text)
//!     bpftrace text -----------------> bpftrace.rs +--> builder.rs --+--> select, merge, anonymise
//!     run-length CSV ----------------> columns.rs -+     (Trace)     +--> summary.rs
//! ```
//!
//! Files larger than memory are read in blocks ([`TraceReader::next_block`]): each block is a trace
//! of its own whose dictionaries continue those of the block before, so that an index means the same
//! in all of them.
//!
//! The order of the lines in the file is the order of the events: it is never sorted by
//! time, because free events are written under the allocator's lock and allocation
//! events are not, and because clocks tie. Only files of several CPUs are merged by time.
//!
//! Where pointers are hashed, or not printed, an area is still the same area by its chunk and its
//! offset there: [`Event::area`].
//!
//! # Units
//!
//! `size`, `align`, `off`, `bytes_alloc` in bytes; the recorder's `alloc_area` in bits
//! (granules of 4 bytes); page ranges in pages from the chunk's base. Times in
//! nanoseconds, or ordinal numbers where [`Clock::Counter`] says so.
//!
//! # Invariants
//!
//! T1 all columns have the same length. T2 dictionary indices are in range or [`NONE`].
//! T3 no text has a line break or blanks at its ends, so that every trace can be written
//! as text and read back: `read(write(t)) == t`.
//!
//! # Cost
//!
//! Reading is one pass over the bytes with bounded memory besides the columns; a view is
//! O(1). No trace holds more than [`Limits::events`] events.
//!
//! # Source
//!
//! Specification 40 section 6 (text), 50 sections 2 and 4 (what each event means), the
//! README of the recordings (columns, recorder's probes).

mod anonymise;
mod bpftrace;
mod builder;
mod columns;
mod event;
mod fast;
mod ftrace;
mod input;
mod merge;
mod select;
mod store;
mod stream;
mod summary;
mod write;

pub use anonymise::{anonymise, anonymise_while, Anonymise};
pub use builder::TraceBuilder;
pub use event::{Alloc, Base, Clock, Event, Format, Kind, Record};
pub use input::{read_trace, read_trace_from, Limits, ReadOptions};
pub use merge::{concatenate, concatenate_while, merge, merge_while, STOPPED};
pub use select::CallSiteFilter;
pub use store::{flag, Columns, Counts, Facts, Trace};
pub use stream::{Position, TraceReader};
pub use summary::{CpuRow, KindRow, SiteRow, Summary, Totals};
pub use write::{ftrace_text, write_ftrace, Compression, TraceWriter};

/// Marks an absent dictionary index in a column.
pub const NONE: u32 = u32::MAX;
/// Marks an unknown CPU in a column.
pub const NO_CPU: u16 = u16::MAX;

#[cfg(test)]
mod tests;
