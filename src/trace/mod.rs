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
//!   ftrace, trace-cmd, perf text --> ftrace.rs --+
//!   bpftrace text -----------------> bpftrace.rs +--> TraceBuilder --> Trace --> write.rs
//!   run-length CSV ----------------> columns.rs -+
//! ```
//!
//! The order of the lines in the file is the order of the events: it is never sorted by
//! time, because free events are written under the allocator's lock and allocation
//! events are not, and because clocks tie.
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

mod bpftrace;
mod builder;
mod columns;
mod ftrace;
mod input;
mod write;

pub use builder::TraceBuilder;
pub use input::{read_trace, read_trace_from, Limits};
pub use write::{ftrace_text, write_ftrace};

use std::fmt;
use std::ops::Range;

use crate::units::{Bits, Bytes, Pages};

/// Marks an absent dictionary index in a column.
pub const NONE: u32 = u32::MAX;
/// Marks an unknown CPU in a column.
pub const NO_CPU: u16 = u16::MAX;

/// What kind of event a row is; the codes of the `kind` column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// `percpu_alloc_percpu`: a request was served.
    Alloc = 0,
    /// `percpu_free_percpu`: an area was given back.
    Free = 1,
    /// `percpu_alloc_percpu_fail`: a request failed.
    AllocFail = 2,
    /// `percpu_create_chunk`.
    Create = 3,
    /// `percpu_destroy_chunk`.
    Destroy = 4,
    /// Recorder's probe: pages became populated.
    Populated = 5,
    /// Recorder's probe: pages became depopulated.
    Depopulated = 6,
    /// Recorder's probe: the balance worker was entered.
    BalanceBegin = 7,
    /// Recorder's probe: the balance worker was left.
    BalanceEnd = 8,
    /// Recorder's probe: the worker's step that frees whole chunks was entered.
    BalanceFree = 9,
    /// Recorder's probe: an area is about to be taken; in the order of the lock.
    AllocArea = 10,
    /// Recorder's probe: what taking the area returned.
    AllocAreaRet = 11,
    /// Recorder's probe: an area is about to be freed.
    FreeArea = 12,
    /// `tracing_mark_write`: a text written by the recorder.
    Marker = 13,
    /// The ring buffer lost events here.
    Lost = 14,
}

impl Kind {
    /// Every kind, by code.
    pub const ALL: [Kind; 15] = [
        Kind::Alloc,
        Kind::Free,
        Kind::AllocFail,
        Kind::Create,
        Kind::Destroy,
        Kind::Populated,
        Kind::Depopulated,
        Kind::BalanceBegin,
        Kind::BalanceEnd,
        Kind::BalanceFree,
        Kind::AllocArea,
        Kind::AllocAreaRet,
        Kind::FreeArea,
        Kind::Marker,
        Kind::Lost,
    ];

    /// A short name for programs; also the name of the recorder's probes.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Alloc => "alloc",
            Kind::Free => "free",
            Kind::AllocFail => "fail",
            Kind::Create => "create",
            Kind::Destroy => "destroy",
            Kind::Populated => "populated",
            Kind::Depopulated => "depopulated",
            Kind::BalanceBegin => "balance_begin",
            Kind::BalanceEnd => "balance_end",
            Kind::BalanceFree => "balance_free",
            Kind::AllocArea => "alloc_area",
            Kind::AllocAreaRet => "alloc_area_ret",
            Kind::FreeArea => "free_area",
            Kind::Marker => "marker",
            Kind::Lost => "lost",
        }
    }
}

/// What the time column counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Clock {
    /// Nanoseconds, recorded with six decimals of a second.
    #[default]
    Microseconds,
    /// Nanoseconds, recorded with nine decimals of a second.
    Nanoseconds,
    /// Ordinal numbers without a unit.
    Counter,
}

/// A chunk by its base address. Two are equal when the addresses are.
#[derive(Clone, Copy, Eq)]
pub struct Base {
    /// Index into [`Trace::bases`]; of no meaning in events given to a builder.
    pub index: u32,
    /// The address; in a trace with hashed pointers an identity and no more.
    pub addr: u64,
}

impl Base {
    /// The base at `addr`, for events given to a [`TraceBuilder`].
    pub fn new(addr: u64) -> Self {
        Self { index: NONE, addr }
    }
}

impl PartialEq for Base {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}

impl std::hash::Hash for Base {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.addr.hash(state);
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.addr)
    }
}

/// A request that was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alloc<'a> {
    /// Bytes for each CPU, after rounding by the kernel.
    pub size: Bytes,
    /// Alignment in bytes, after rounding by the kernel.
    pub align: Bytes,
    /// From the reserved chunk.
    pub reserved: bool,
    /// The request may not sleep, by the rule of the kernel that wrote the trace.
    pub atomic: bool,
    /// The chunk; `None` where the kernel printed no address.
    pub base: Option<Base>,
    /// Bytes from the chunk's base.
    pub off: Bytes,
    /// The per-CPU pointer; `None` where it was not recorded.
    pub ptr: Option<u64>,
    /// Bytes charged over all CPUs (5.19 and later).
    pub bytes_alloc: Option<Bytes>,
    /// Who asked (5.19 and later): `symbol+0xoff/0xsize [module]`, or what the format has of it.
    pub call_site: Option<&'a str>,
    /// The request's flags as text (5.19 and later); 6.1 prints an empty one.
    pub gfp_flags: Option<&'a str>,
}

/// One event, as a view into the columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A request was served. Written late: after the lock was dropped and pages populated.
    Alloc(Alloc<'a>),
    /// An area was given back. Written inside the lock.
    Free {
        /// The chunk.
        base: Option<Base>,
        /// Bytes from the chunk's base.
        off: Bytes,
        /// The per-CPU pointer.
        ptr: Option<u64>,
    },
    /// A request failed. Written late.
    AllocFail {
        /// Bytes for each CPU, after rounding.
        size: Bytes,
        /// Alignment in bytes, after rounding.
        align: Bytes,
        /// From the reserved chunk.
        reserved: bool,
        /// The request may not sleep.
        atomic: bool,
    },
    /// A chunk was made; it is on no list yet.
    Create {
        /// The chunk.
        base: Option<Base>,
    },
    /// A chunk was destroyed.
    Destroy {
        /// The chunk.
        base: Option<Base>,
    },
    /// Pages `first..end` of the chunk became populated; inside the lock.
    Populated {
        /// The chunk.
        base: Base,
        /// First page.
        first: Pages,
        /// One past the last page.
        end: Pages,
    },
    /// Pages `first..end` of the chunk became depopulated; inside the lock.
    Depopulated {
        /// The chunk.
        base: Base,
        /// First page.
        first: Pages,
        /// One past the last page.
        end: Pages,
    },
    /// The worker was entered; it does not hold the mutex yet.
    BalanceBegin,
    /// The worker was left.
    BalanceEnd,
    /// The worker's step that frees whole chunks; inside the lock.
    BalanceFree {
        /// Only chunks without populated pages are freed: the last step of the worker.
        empty_only: bool,
    },
    /// An area is about to be taken; inside the lock.
    AllocArea {
        /// The chunk.
        base: Base,
        /// Length of the area.
        bits: Bits,
        /// Alignment in bits.
        align_bits: Bits,
        /// Bit where the final search starts.
        start: Bits,
    },
    /// What taking the area returned; belongs to the `AllocArea` before it on the same CPU.
    AllocAreaRet {
        /// Bytes from the chunk's base; `None` when nothing fitted.
        off: Option<Bytes>,
    },
    /// An area is about to be freed; inside the lock, its free event follows.
    FreeArea {
        /// The chunk.
        base: Base,
        /// Bytes from the chunk's base.
        off: Bytes,
    },
    /// A text of the recorder, such as `SNAPSHOT_M1`.
    Marker {
        /// The text.
        text: &'a str,
    },
    /// Events were lost here.
    Lost {
        /// How many; 0 when the kernel did not say.
        count: u64,
    },
}

impl Event<'_> {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Event::Alloc(_) => Kind::Alloc,
            Event::Free { .. } => Kind::Free,
            Event::AllocFail { .. } => Kind::AllocFail,
            Event::Create { .. } => Kind::Create,
            Event::Destroy { .. } => Kind::Destroy,
            Event::Populated { .. } => Kind::Populated,
            Event::Depopulated { .. } => Kind::Depopulated,
            Event::BalanceBegin => Kind::BalanceBegin,
            Event::BalanceEnd => Kind::BalanceEnd,
            Event::BalanceFree { .. } => Kind::BalanceFree,
            Event::AllocArea { .. } => Kind::AllocArea,
            Event::AllocAreaRet { .. } => Kind::AllocAreaRet,
            Event::FreeArea { .. } => Kind::FreeArea,
            Event::Marker { .. } => Kind::Marker,
            Event::Lost { .. } => Kind::Lost,
        }
    }

    /// The chunk that the event names, if it names one.
    pub fn base(&self) -> Option<Base> {
        match *self {
            Event::Alloc(Alloc { base, .. })
            | Event::Free { base, .. }
            | Event::Create { base }
            | Event::Destroy { base } => base,
            Event::Populated { base, .. }
            | Event::Depopulated { base, .. }
            | Event::AllocArea { base, .. }
            | Event::FreeArea { base, .. } => Some(base),
            _ => None,
        }
    }
}

/// An event and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Index in the trace.
    pub index: usize,
    /// By [`Trace::clock`]. A [`Event::Lost`] has the time of the event before it.
    pub time: u64,
    /// The CPU that wrote the event, where the format says.
    pub cpu: Option<u16>,
    /// Line in the file, from 1; 0 if the trace was not read from a file.
    pub line: u32,
    /// The event.
    pub event: Event<'a>,
}

/// How many events of each kind a trace has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    by_kind: [u64; Kind::ALL.len()],
}

impl Counts {
    /// Events of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.by_kind[kind as usize]
    }

    /// All rows.
    pub fn total(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    /// All events but those of the kernel's own five kinds and the population probes: what the
    /// recordings call `other`.
    pub fn other(&self) -> u64 {
        self.by_kind[Kind::BalanceBegin as usize..Kind::Lost as usize].iter().sum()
    }
}

/// The raw columns, each as long as the trace. What a column means depends on the kind.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Kind of the event.
    pub kind: &'a [Kind],
    /// CPU; [`NO_CPU`] where unknown.
    pub cpu: &'a [u16],
    /// Time by [`Trace::clock`].
    pub time: &'a [u64],
    /// Line in the file, from 1.
    pub line: &'a [u32],
    /// Bits [`flag::RESERVED`], [`flag::ATOMIC`] and so on.
    pub flags: &'a [u8],
    /// Index into [`Trace::bases`], or [`NONE`].
    pub base: &'a [u32],
    /// Bytes from the chunk's base; first page of a page range; start bit of an `alloc_area`;
    /// -1 in an `alloc_area_ret` that found nothing.
    pub off: &'a [i32],
    /// Bytes of a request; end page of a page range; bits of an `alloc_area`.
    pub size: &'a [u32],
    /// Alignment in bytes; in bits in an `alloc_area`.
    pub align: &'a [u32],
    /// Per-CPU pointer where [`flag::PTR`] is set.
    pub ptr: &'a [u64],
    /// `bytes_alloc` where [`flag::COUNT`] is set; number of lost events.
    pub count: &'a [u64],
    /// Index into [`Trace::call_sites`] for an allocation, into [`Trace::markers`] for a marker,
    /// else [`NONE`].
    pub text: &'a [u32],
    /// Index into [`Trace::gfp_flags`], or [`NONE`].
    pub gfp: &'a [u32],
}

/// Bits of the `flags` column.
pub mod flag {
    /// The request is for the reserved chunk.
    pub const RESERVED: u8 = 1;
    /// The request may not sleep.
    pub const ATOMIC: u8 = 2;
    /// The worker's last step.
    pub const EMPTY_ONLY: u8 = 4;
    /// The `ptr` column holds a pointer.
    pub const PTR: u8 = 8;
    /// The `count` column holds `bytes_alloc`.
    pub const COUNT: u8 = 16;
}

/// A trace in columns. Made by [`read_trace`] or a [`TraceBuilder`].
///
/// Equality compares events, not the lines or the format they were read from.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    clock: Clock,
    hashed: bool,
    skipped: u64,
    kind: Vec<Kind>,
    cpu: Vec<u16>,
    time: Vec<u64>,
    line: Vec<u32>,
    flags: Vec<u8>,
    base: Vec<u32>,
    off: Vec<i32>,
    size: Vec<u32>,
    align: Vec<u32>,
    ptr: Vec<u64>,
    count: Vec<u64>,
    text: Vec<u32>,
    gfp: Vec<u32>,
    bases: Vec<u64>,
    call_sites: Vec<String>,
    gfp_texts: Vec<String>,
    markers: Vec<String>,
    /// Fields that no version of the kernel is known to print: event index, `name=value ...`.
    extras: Vec<(u32, String)>,
}

impl Trace {
    /// Number of events.
    pub fn len(&self) -> usize {
        self.kind.len()
    }

    /// True without events.
    pub fn is_empty(&self) -> bool {
        self.kind.is_empty()
    }

    /// What the time column counts.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// True when pointers are hashed: equal values mean equal pointers, and nothing more.
    pub fn hashed(&self) -> bool {
        self.hashed
    }

    /// Lines with something else than an event that is known here.
    pub fn skipped_lines(&self) -> u64 {
        self.skipped
    }

    /// Events that the ring buffer is known to have lost.
    pub fn lost_events(&self) -> u64 {
        let lost = self.kind.iter().zip(&self.count).filter(|(&kind, _)| kind == Kind::Lost);
        lost.fold(0, |sum, (_, &count)| sum.saturating_add(count))
    }

    /// Base addresses of chunks, in order of appearance.
    pub fn bases(&self) -> &[u64] {
        &self.bases
    }

    /// Call sites, in order of appearance.
    pub fn call_sites(&self) -> &[String] {
        &self.call_sites
    }

    /// Flag texts, in order of appearance.
    pub fn gfp_flags(&self) -> &[String] {
        &self.gfp_texts
    }

    /// Marker texts, one for each marker.
    pub fn markers(&self) -> &[String] {
        &self.markers
    }

    /// The fields of event `index` that are not known here, as `name=value name=value`.
    pub fn extra_fields(&self, index: usize) -> Option<&str> {
        let index = u32::try_from(index).ok()?;
        let found = self.extras.binary_search_by_key(&index, |&(event, _)| event).ok()?;
        Some(&self.extras[found].1)
    }

    /// The raw columns.
    pub fn columns(&self) -> Columns<'_> {
        Columns {
            kind: &self.kind,
            cpu: &self.cpu,
            time: &self.time,
            line: &self.line,
            flags: &self.flags,
            base: &self.base,
            off: &self.off,
            size: &self.size,
            align: &self.align,
            ptr: &self.ptr,
            count: &self.count,
            text: &self.text,
            gfp: &self.gfp,
        }
    }

    /// How many events of each kind.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for &kind in &self.kind {
            counts.by_kind[kind as usize] += 1;
        }
        counts
    }

    /// Event `index` and where it stands; `None` past the end.
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        (index < self.len()).then(|| self.record(index))
    }

    /// Event `index`.
    ///
    /// # Panics
    ///
    /// Past the end.
    pub fn event(&self, index: usize) -> Event<'_> {
        let i = index;
        let bytes = |value: u32| Bytes(u64::from(value));
        let flags = self.flags[i];
        let reserved = flags & flag::RESERVED != 0;
        let atomic = flags & flag::ATOMIC != 0;
        let off = Bytes(self.off[i].max(0) as u64);
        let ptr = (flags & flag::PTR != 0).then_some(self.ptr[i]);
        let base = self.bases.get(self.base[i] as usize).map(|&addr| Base { index: self.base[i], addr });
        // The builder lets no row without a base into the kinds that need one.
        let known = base.unwrap_or(Base::new(0));
        let (first, end) = (Pages(self.off[i].max(0) as u32), Pages(self.size[i]));
        match self.kind[i] {
            Kind::Alloc => Event::Alloc(Alloc {
                size: bytes(self.size[i]),
                align: bytes(self.align[i]),
                reserved,
                atomic,
                base,
                off,
                ptr,
                bytes_alloc: (flags & flag::COUNT != 0).then_some(Bytes(self.count[i])),
                call_site: self.call_sites.get(self.text[i] as usize).map(String::as_str),
                gfp_flags: self.gfp_texts.get(self.gfp[i] as usize).map(String::as_str),
            }),
            Kind::Free => Event::Free { base, off, ptr },
            Kind::AllocFail => {
                Event::AllocFail { size: bytes(self.size[i]), align: bytes(self.align[i]), reserved, atomic }
            }
            Kind::Create => Event::Create { base },
            Kind::Destroy => Event::Destroy { base },
            Kind::Populated => Event::Populated { base: known, first, end },
            Kind::Depopulated => Event::Depopulated { base: known, first, end },
            Kind::BalanceBegin => Event::BalanceBegin,
            Kind::BalanceEnd => Event::BalanceEnd,
            Kind::BalanceFree => Event::BalanceFree { empty_only: flags & flag::EMPTY_ONLY != 0 },
            Kind::AllocArea => Event::AllocArea {
                base: known,
                bits: Bits(self.size[i]),
                align_bits: Bits(self.align[i]),
                start: Bits(self.off[i].max(0) as u32),
            },
            Kind::AllocAreaRet => Event::AllocAreaRet { off: (self.off[i] >= 0).then_some(off) },
            Kind::FreeArea => Event::FreeArea { base: known, off },
            Kind::Marker => Event::Marker { text: &self.markers[self.text[i] as usize] },
            Kind::Lost => Event::Lost { count: self.count[i] },
        }
    }

    fn record(&self, index: usize) -> Record<'_> {
        Record {
            index,
            time: self.time[index],
            cpu: (self.cpu[index] != NO_CPU).then_some(self.cpu[index]),
            line: self.line[index],
            event: self.event(index),
        }
    }

    /// All events in order.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = Record<'_>> + ExactSizeIterator {
        (0..self.len()).map(|index| self.record(index))
    }

    /// The events of `range` as a trace of their own. Dictionaries stay whole, so that their
    /// indices agree with the original's; marker texts too.
    ///
    /// # Panics
    ///
    /// If the range exceeds the trace.
    pub fn slice(&self, range: Range<usize>) -> Trace {
        let r = || range.clone();
        let extras = self.extras.iter().filter(|&&(event, _)| range.contains(&(event as usize)));
        Trace {
            clock: self.clock,
            hashed: self.hashed,
            skipped: 0,
            kind: self.kind[r()].to_vec(),
            cpu: self.cpu[r()].to_vec(),
            time: self.time[r()].to_vec(),
            line: self.line[r()].to_vec(),
            flags: self.flags[r()].to_vec(),
            base: self.base[r()].to_vec(),
            off: self.off[r()].to_vec(),
            size: self.size[r()].to_vec(),
            align: self.align[r()].to_vec(),
            ptr: self.ptr[r()].to_vec(),
            count: self.count[r()].to_vec(),
            text: self.text[r()].to_vec(),
            gfp: self.gfp[r()].to_vec(),
            bases: self.bases.clone(),
            call_sites: self.call_sites.clone(),
            gfp_texts: self.gfp_texts.clone(),
            markers: self.markers.clone(),
            extras: extras.map(|(event, text)| (event - range.start as u32, text.clone())).collect(),
        }
    }

    /// The first difference to `other`: the index and both events. Lines are not compared, nor
    /// the time of a loss, which no format records.
    pub fn first_difference<'a>(&'a self, other: &'a Trace) -> Option<(usize, Option<Record<'a>>, Option<Record<'a>>)> {
        let same = |i: usize| {
            let (a, b) = (self.record(i), other.record(i));
            let timeless = a.event.kind() == Kind::Lost;
            a.event == b.event
                && a.cpu == b.cpu
                && (timeless || a.time == b.time && self.clock == other.clock)
                && self.extra_fields(i) == other.extra_fields(i)
                && (a.event.base().is_none() || self.hashed == other.hashed)
        };
        let common = self.len().min(other.len());
        let index = (0..common).find(|&i| !same(i)).unwrap_or(common);
        (index < self.len().max(other.len())).then(|| (index, self.get(index), other.get(index)))
    }
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        self.first_difference(other).is_none()
    }
}

#[cfg(test)]
mod tests;
