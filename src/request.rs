//! What an allocator is asked, and what it answers.
//!
//! # Units
//!
//! Sizes and alignments in bytes, as the caller gave them, before any rounding.
//!
//! # Source
//!
//! Specification 20 sections 3, 4 and 7.

use std::fmt;

use crate::units::Bytes;

/// A chunk by creation number; the first chunk is 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkId(pub u32);

impl ChunkId {
    /// The reserved chunk, which has no number.
    pub const RESERVED: ChunkId = ChunkId(u32::MAX);
    /// No chunk: what a request of size 0 lies in (`cpu_alloc-2008` only).
    pub const ZERO_SIZE: ChunkId = ChunkId(u32::MAX - 1);

    /// True for the reserved chunk.
    pub fn is_reserved(self) -> bool {
        self == Self::RESERVED
    }
}

/// Where areas are that are to be freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The chunk.
    pub chunk: ChunkId,
    /// First bit of the first area.
    pub bit: u32,
    /// How many areas; 0 is for the null pointer.
    pub count: u32,
    /// Bits of each.
    pub len: u32,
    /// From one to the next; 0 if there is only one.
    pub step: u32,
}

impl Place {
    /// Of the null pointer.
    pub const NULL: Self = Self { chunk: ChunkId::RESERVED, bit: 0, count: 0, len: 0, step: 0 };

    /// Without its first `count` areas.
    #[inline(always)]
    pub fn pass(&mut self, count: u32) {
        self.bit += count * self.step;
        self.count -= count;
    }

    /// First bit of the last area.
    #[inline]
    pub fn last(self) -> u32 {
        self.bit + (self.count - 1) * self.step
    }

    /// False if for sure no area is in both, which are of one chunk and not empty.
    pub fn may_share(self, other: &Self) -> bool {
        if self.last() < other.bit || other.last() < self.bit {
            return false;
        }
        let step = self.step.max(other.step);
        let equal_steps = self.step == other.step || self.count == 1 || other.count == 1;
        !equal_steps || step == 0 || self.bit.abs_diff(other.bit) % step == 0
    }

    /// The bits at which the areas start.
    pub fn starts(self) -> impl Iterator<Item = u32> {
        (0..self.count).map(move |at| self.bit + at * self.step)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_reserved() {
            f.write_str("R")
        } else if *self == Self::ZERO_SIZE {
            f.write_str("zero")
        } else {
            self.0.fmt(f)
        }
    }
}

/// How much a request may sleep, which decides what it may do to succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sleep {
    /// An ordinary request: may create chunks and populate pages.
    #[default]
    Full,
    /// May reclaim, but not enter I/O or file systems: atomic before 5.14, ordinary since.
    NoFs,
    /// An atomic request: only what is populated already.
    Never,
}

/// One allocation request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Bytes wanted for each CPU.
    pub size: Bytes,
    /// Alignment of the offset in bytes.
    pub align: Bytes,
    /// May it sleep?
    pub sleep: Sleep,
    /// From the reserved chunk, if there is one.
    pub reserved: bool,
    /// Print no warning on failure.
    pub nowarn: bool,
}

impl Request {
    /// An ordinary request that may sleep.
    pub fn new(size: Bytes, align: Bytes) -> Self {
        Self { size, align, sleep: Sleep::Full, reserved: false, nowarn: false }
    }
}

/// Why a request failed; the kernel's own words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Reason {
    /// Size or alignment is outside the limits.
    Illegal = 1,
    /// The reserved chunk has no fitting area.
    ReservedFull = 2,
    /// No populated area fits an atomic request.
    NoSpace = 3,
    /// A new chunk was needed and could not be made.
    NoChunk = 4,
    /// A page under the area could not be had.
    NoPage = 5,
    /// The reserved chunk's area map could not grow (to 4.13).
    ReservedMap = 6,
    /// An area map could not grow (to 4.13).
    MapExtend = 7,
    /// No fitting run in the one area (the proposal of 2008, which says nothing).
    NoRoom = 8,
}

impl Reason {
    /// Every reason, by code.
    pub const ALL: [Reason; 8] = [
        Reason::Illegal,
        Reason::ReservedFull,
        Reason::NoSpace,
        Reason::NoChunk,
        Reason::NoPage,
        Reason::ReservedMap,
        Reason::MapExtend,
        Reason::NoRoom,
    ];

    /// The kernel's text.
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Illegal => "illegal size or align for percpu allocation",
            Reason::ReservedFull => "alloc from reserved chunk failed",
            Reason::NoSpace => "atomic alloc failed, no space left",
            Reason::NoChunk => "failed to allocate new chunk",
            Reason::NoPage => "failed to populate",
            Reason::ReservedMap => "failed to extend area map of reserved chunk",
            Reason::MapExtend => "failed to extend area map",
            Reason::NoRoom => "no room",
        }
    }

    /// A short name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Illegal => "illegal",
            Reason::ReservedFull => "reserved_full",
            Reason::NoSpace => "no_space",
            Reason::NoChunk => "no_chunk",
            Reason::NoPage => "no_page",
            Reason::ReservedMap => "reserved_map",
            Reason::MapExtend => "map_extend",
            Reason::NoRoom => "no_room",
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Served at byte `off` from the chunk's base.
    Placed {
        /// The chunk.
        chunk: ChunkId,
        /// Bytes from the chunk's base.
        off: Bytes,
    },
    /// Not served.
    Failed(Reason),
}

impl Outcome {
    /// The answer to a request of size 0 in `cpu_alloc-2008`, where that is not an error: a place
    /// in no chunk, whose `off` is the sentinel pointer itself. It may be freed, to no effect.
    pub const ZERO_SIZE: Outcome = Outcome::Placed { chunk: ChunkId::ZERO_SIZE, off: Bytes(16) };
}
