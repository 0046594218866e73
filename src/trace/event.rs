//! Events: what one line of a trace says, typed.
//!
//! # Units
//!
//! Bytes, bits and pages as types; addresses as plain 64-bit numbers.
//!
//! # Source
//!
//! Specification 40 section 6, 50 section 2.

use std::fmt;

use super::NONE;
use crate::units::{Bits, Bytes, Pages};

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

/// The form of the text that a trace was read from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// The `trace` file or the pipe of tracefs.
    Ftrace,
    /// `trace-cmd report`.
    TraceCmd,
    /// `perf script`.
    Perf,
    /// The bpftrace program of the recordings.
    Bpftrace,
    /// The run-length columns of the recordings.
    Columns,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 5] = [Format::Ftrace, Format::TraceCmd, Format::Perf, Format::Bpftrace, Format::Columns];

    /// The name for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Ftrace => "ftrace",
            Format::TraceCmd => "trace-cmd",
            Format::Perf => "perf",
            Format::Bpftrace => "bpftrace",
            Format::Columns => "columns",
        }
    }
}

/// A chunk by its base address. Two are equal when the addresses are.
#[derive(Clone, Copy, Eq)]
pub struct Base {
    /// Index into [`Trace::bases`](super::Trace::bases); of no meaning in events given to a builder.
    pub index: u32,
    /// The address; in a trace with hashed pointers an identity and no more.
    pub addr: u64,
}

impl Base {
    /// The base at `addr`, for events given to a [`TraceBuilder`](super::TraceBuilder).
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

    /// The area that an allocation or a free is about: its chunk and its offset there, in bytes. That
    /// names it also where pointers are hashed; without a printed chunk, the offset is all there is.
    pub fn area(&self) -> Option<(Option<Base>, Bytes)> {
        match *self {
            Event::Alloc(Alloc { base, off, .. }) | Event::Free { base, off, .. } => Some((base, off)),
            Event::FreeArea { base, off } => Some((Some(base), off)),
            _ => None,
        }
    }
}

/// An event and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Index in the trace.
    pub index: usize,
    /// By [`Trace::clock`](super::Trace::clock). A [`Event::Lost`] has the time of the event before it.
    pub time: u64,
    /// The CPU that wrote the event, where the format says.
    pub cpu: Option<u16>,
    /// Line in the file, from 1; 0 if the trace was not read from a file.
    pub line: u32,
    /// The event.
    pub event: Event<'a>,
}
