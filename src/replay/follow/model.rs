//! What following keeps: outcomes of events, areas, chunks.
//!
//! # Units
//!
//! Granules in areas and chunks; events by index, times by the trace's clock.

use crate::units::Bytes;

#[cfg(doc)]
use crate::trace::NONE;

/// Not yet, or not seen.
pub const NEVER: u64 = u64::MAX;

/// What came of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// The event is no request, free, creation or destruction.
    Other = 0,
    /// A request was placed where nothing was live.
    Placed = 1,
    /// An area that the trace had placed was freed.
    Freed = 2,
    /// An area that was there before the capture was freed.
    FreedPrior = 3,
    /// A request failed.
    Failed = 4,
    /// A chunk was made.
    Created = 5,
    /// A chunk without live areas went away.
    Destroyed = 6,
    /// The line names no chunk: it cannot be placed.
    NoBase = 7,
    /// The event contradicts what was known from before a loss of events; the contradicted areas count as freed.
    AfterLoss = 8,
    /// A request was placed at the start of a live area, whose free is not in the trace (40 section 6.3, rule 6).
    MissingFree = 9,
    /// Illegal: the area shares bytes with a live one that starts elsewhere.
    Overlap = 10,
    /// Illegal: the offset is not a multiple of the alignment, or of the granule.
    Misaligned = 11,
    /// Illegal: no bytes, or more than any kernel serves.
    BadSize = 12,
    /// Illegal: the area reaches out of the unit.
    OutOfUnit = 13,
    /// Illegal: the free is of the inside of a live area.
    FreedInside = 14,
    /// Illegal: the free is of what is free.
    FreedFree = 15,
    /// Illegal: the pointer does not belong to the chunk and offset.
    WrongPointer = 16,
    /// Illegal: the chunk that is made exists.
    CreatedTwice = 17,
    /// Illegal: the chunk that goes away has live areas.
    DestroyedLive = 18,
}

impl Outcome {
    /// Every outcome, by code.
    pub const ALL: [Outcome; 19] = [
        Outcome::Other,
        Outcome::Placed,
        Outcome::Freed,
        Outcome::FreedPrior,
        Outcome::Failed,
        Outcome::Created,
        Outcome::Destroyed,
        Outcome::NoBase,
        Outcome::AfterLoss,
        Outcome::MissingFree,
        Outcome::Overlap,
        Outcome::Misaligned,
        Outcome::BadSize,
        Outcome::OutOfUnit,
        Outcome::FreedInside,
        Outcome::FreedFree,
        Outcome::WrongPointer,
        Outcome::CreatedTwice,
        Outcome::DestroyedLive,
    ];

    /// A short name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Other => "other",
            Outcome::Placed => "placed",
            Outcome::Freed => "freed",
            Outcome::FreedPrior => "freed_prior",
            Outcome::Failed => "failed",
            Outcome::Created => "created",
            Outcome::Destroyed => "destroyed",
            Outcome::NoBase => "no_base",
            Outcome::AfterLoss => "after_loss",
            Outcome::MissingFree => "missing_free",
            Outcome::Overlap => "overlap",
            Outcome::Misaligned => "misaligned",
            Outcome::BadSize => "bad_size",
            Outcome::OutOfUnit => "out_of_unit",
            Outcome::FreedInside => "freed_inside",
            Outcome::FreedFree => "freed_free",
            Outcome::WrongPointer => "wrong_pointer",
            Outcome::CreatedTwice => "created_twice",
            Outcome::DestroyedLive => "destroyed_live",
        }
    }

    /// Whether no kernel can have written the event where it stands.
    pub const fn illegal(self) -> bool {
        self as u8 >= Outcome::Overlap as u8
    }
}

/// Since when an area is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Origin {
    /// Its allocation is in the trace.
    Capture = 0,
    /// It was there before the first event.
    Prior = 1,
    /// It was allocated before the first event or where events were lost.
    Lost = 2,
}

/// How an area ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fate {
    /// Live at the end.
    Live = 0,
    /// Freed by a line of the trace.
    Freed = 1,
    /// Its free is not in the trace, which places something else there or destroys the chunk.
    Replaced = 2,
}

/// An area. Offsets and sizes in granules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    /// Index of its chunk.
    pub chunk: u32,
    /// From the chunk's base.
    pub off: u32,
    /// Exact if the allocation was seen, else the guess.
    pub size: u32,
    /// The most that it can be.
    pub max_size: u32,
    /// Index of the call site, or [`NONE`].
    pub site: u32,
    /// Since when it is known.
    pub origin: Origin,
    /// How it ended.
    pub fate: Fate,
    /// The request was not allowed to sleep.
    pub atomic: bool,
    /// From the reserved chunk.
    pub reserved: bool,
    /// Event that allocated it; [`NEVER`] if not seen.
    pub born: u64,
    /// Time of that event.
    pub born_time: u64,
    /// Event that ended it; [`NEVER`] while live.
    pub died: u64,
}

impl Object {
    /// Whether the area is live after the first `events` events.
    pub fn live_after(&self, events: u64) -> bool {
        let born = self.born == NEVER && self.origin == Origin::Prior || self.born < events;
        born && self.died >= events
    }
}

/// What an event did to an area, as it is told to who reads along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// An area was placed.
    Placed(Object),
    /// An area that the trace placed ended; `died` and `fate` say when and how.
    Ended(Object),
    /// An area was freed that the trace does not show being allocated.
    FreedPrior {
        /// Index of its chunk.
        chunk: u32,
        /// From the chunk's base, in granules.
        off: u32,
    },
    /// A chunk went away, after the areas in it.
    ChunkEnded(u32),
}

/// A chunk, from its first event on. A base that is made again is another chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkFacts {
    /// Base address, or its hash.
    pub base: u64,
    /// First event that names it.
    pub first_event: u64,
    /// Event that made it; [`NEVER`] if it was there before.
    pub created: u64,
    /// Event of its end; [`NEVER`] while it exists.
    pub destroyed: u64,
    /// Distance of its base from the start of the unit, where it is known to lie in the boot area.
    pub boot_off: Option<Bytes>,
    /// Live areas that the trace placed.
    pub nr_live: u32,
    /// Their granules.
    pub live: u64,
    /// Prior areas that were freed.
    pub nr_prior: u32,
    /// One past the highest granule seen.
    pub end: u32,
    /// Granules that were free when the chunk was first seen, from and to; of no meaning after a loss.
    pub free: (u32, u32),
    /// Granules before this one, hidden ones too, were in use at the start of the capture.
    pub used_to: u32,
    /// Prior areas among them that were freed.
    pub nr_prior_used: u32,
}
