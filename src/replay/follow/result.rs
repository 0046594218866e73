//! What came of following a trace.

use super::super::occupancy::{Granule, Occupancy};
use super::super::timeline::Window;
use super::{ChunkFacts, Fate, Follower, Object, Origin, Outcome, NEVER};
use crate::stats_text::{ChunkLabel, PercpuStats};
use crate::trace::Clock;
use crate::units::Bytes;

/// Counts of a replay that follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Served requests.
    pub nr_alloc: u64,
    /// Frees.
    pub nr_free: u64,
    /// Frees of areas that were there before the first event.
    pub nr_freed_prior: u64,
    /// Frees of areas that were allocated before the first event or where events were lost.
    pub nr_freed_lost: u64,
    /// Chunks made.
    pub nr_created: u64,
    /// Chunks that went away.
    pub nr_destroyed: u64,
    /// Places where events were lost.
    pub nr_losses: u64,
    /// Events that were lost there, as far as the trace says.
    pub nr_lost: u64,
    /// Live areas that the trace placed.
    pub nr_live: u64,
    /// Their granules.
    pub live_granules: u64,
    /// Chunks that were seen and exist.
    pub nr_chunks: u64,
}

/// How the bytes of one unit of a chunk stand at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// All that serves requests.
    pub total: Bytes,
    /// In live areas that the trace placed.
    pub live: Bytes,
    /// In use since before the first event, by the statistics, and not freed.
    pub held: Bytes,
    /// Known to be free.
    pub free: Bytes,
    /// Not known.
    pub unknown: Bytes,
}

impl std::ops::AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.live += other.live;
        self.held += other.held;
        self.free += other.free;
        self.unknown += other.unknown;
    }
}

/// What is live at the end and was not seen being allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unseen {
    /// Areas; negative if the statistics are of another time or machine.
    pub objects: i64,
    /// Bytes of one unit: at least, as guessed, at most. All three agree where they follow from statistics of the end.
    pub bytes: (i64, i64, i64),
}

/// What is known of a granule at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cell {
    /// Nothing.
    Unknown = 0,
    /// It is free.
    Free = 1,
    /// In a live area that the trace placed.
    Live = 2,
    /// In use since before the first event, by the statistics.
    Held = 3,
    /// It serves no requests: in front of the chunk's part of the boot area, or behind it.
    Hidden = 4,
}

/// The result of following a trace.
#[derive(Clone, Debug)]
pub struct Follow {
    /// Events read.
    pub events: u64,
    /// Counts.
    pub totals: Totals,
    /// Events by outcome, by code of [`Outcome`].
    pub by_outcome: [u64; Outcome::ALL.len()],
    /// By event, codes of [`Outcome`]; empty without history.
    pub outcomes: Vec<u8>,
    /// Every area that was seen, in the order of first appearance; without history those that are live at the end.
    pub objects: Vec<Object>,
    /// Chunks, in the order of first appearance.
    pub chunks: Vec<ChunkFacts>,
    /// How the bytes of each of them stand at the end; all 0 for one that went away.
    pub shares: Vec<Share>,
    /// What is known of each of them beyond what the trace shows.
    ends: Vec<AtEnd>,
    /// Call sites.
    pub sites: Vec<String>,
    /// The first illegal event: its index, line and outcome.
    pub first_illegal: Option<(u64, u32, Outcome)>,
    /// The timeline: live granules, live areas, chunks, prior areas freed so far.
    pub windows: Vec<Window<4>>,
    /// What was left unseen, where there are statistics.
    pub unseen: Option<Unseen>,
    /// One CPU's share of a chunk.
    pub unit_size: Bytes,
    /// Whether the unit size is a guess: the least power of two that holds everything seen.
    pub unit_size_inferred: bool,
    /// Bytes of a granule.
    pub granule: Bytes,
    /// Whether pointers are hashed.
    pub hashed: bool,
    /// What is known of every granule at the end.
    occupancy: Occupancy,
    /// What times count.
    pub clock: Clock,
    /// Time of the first and of the last event.
    pub times: (u64, u64),
}

impl Follow {
    /// The areas that are live after the first `events` events, by index in [`Self::objects`]. Prior areas are among
    /// them until they are freed. Without history only the end can be asked for.
    pub fn live_after(&self, events: u64) -> Vec<u32> {
        (0..).zip(&self.objects).filter(|(_, object)| object.live_after(events)).map(|(index, _)| index).collect()
    }

    /// What is known of each granule of a chunk at the end; empty for one that went away.
    pub fn cells(&self, chunk: u32) -> Vec<Cell> {
        let Some(end) = self.ends.get(chunk as usize) else { return Vec::new() };
        let cell = |granule: u32| match self.occupancy.get(chunk, granule) {
            Granule::Start(_) | Granule::Inside => Cell::Live,
            Granule::Free => Cell::Free,
            Granule::Unknown if !(end.served.0..end.served.1).contains(&granule) => Cell::Hidden,
            Granule::Unknown if (end.free.0..end.free.1).contains(&granule) => Cell::Free,
            Granule::Unknown if granule < end.held_to => Cell::Held,
            Granule::Unknown => Cell::Unknown,
        };
        (0..end.served.1).map(cell).collect()
    }

    /// The shares of all chunks together.
    pub fn share(&self) -> Share {
        let mut sum = Share::default();
        self.shares.iter().for_each(|share| sum += *share);
        sum
    }

    /// Illegal events.
    pub fn nr_illegal(&self) -> u64 {
        Outcome::ALL
            .into_iter()
            .filter(|outcome| outcome.illegal())
            .map(|outcome| self.by_outcome[outcome as usize])
            .sum()
    }
}

/// What is known of a chunk at the end beyond what the trace shows. Granules, from and to.
#[derive(Clone, Copy, Debug, Default)]
struct AtEnd {
    served: (u32, u32),
    free: (u32, u32),
    held_to: u32,
}

impl Follower {
    /// The result after the events that were read.
    pub fn finish(mut self) -> Follow {
        let granule = self.options.granule.0;
        let inferred = self.unit_size.is_none();
        let unit_size = self.unit_size.unwrap_or_else(|| {
            let end = |chunk: &ChunkFacts| u64::from(chunk.end) * granule + chunk.boot_off.map_or(0, |off| off.0);
            // No unit is smaller than the largest request.
            self.chunks.iter().map(end).max().unwrap_or(0).next_power_of_two().max(32 << 10)
        });
        let ends: Vec<AtEnd> = (0..self.chunks.len() as u32).map(|chunk| self.at_end(chunk, unit_size)).collect();
        let shares = (0..).zip(&ends).map(|(chunk, end)| self.share(chunk, end)).collect();
        let unseen = self.unseen(unit_size);
        if !self.options.history {
            self.objects.retain(|object| object.fate == Fate::Live);
        }
        Follow {
            events: self.event,
            totals: self.totals,
            by_outcome: self.by_outcome,
            outcomes: self.outcomes,
            objects: self.objects,
            chunks: self.chunks,
            shares,
            ends,
            sites: self.sites,
            first_illegal: self.first_illegal,
            windows: self.sampler.finish(),
            unseen,
            unit_size: Bytes(unit_size),
            unit_size_inferred: inferred,
            granule: self.options.granule,
            hashed: self.hashed,
            occupancy: self.occupancy,
            clock: self.clock,
            times: (self.first_time, self.time),
        }
    }

    /// The granules of a chunk that serve requests.
    fn served(&self, index: u32, unit_size: u64) -> (u32, u32) {
        let chunk = &self.chunks[index as usize];
        let granules = |bytes: u64| (bytes >> self.granule_shift) as u32;
        let unit_off = chunk.boot_off.map_or(0, |off| off.0);
        let (mut from, mut to) = (0, granules(unit_size.saturating_sub(unit_off)));
        if let Some(boot) = self.options.boot.filter(|boot| Some(boot.unit_off) == chunk.boot_off) {
            (from, to) = (granules(boot.start_offset.0), granules((boot.start_offset + boot.size).0));
        }
        // A reserved chunk may share the base of the first chunk, and lies before it.
        if self.occupancy.census(index, 0, from) != (0, 0) {
            from = 0;
        }
        (from, to.max(chunk.end))
    }

    fn at_end(&self, index: u32, unit_size: u64) -> AtEnd {
        let chunk = &self.chunks[index as usize];
        if chunk.destroyed != NEVER {
            return AtEnd::default();
        }
        let served = self.served(index, unit_size);
        let free = self.free_when_first_seen(index);
        let held = chunk.nr_prior_used == 0 && self.last_loss.is_none();
        AtEnd {
            served,
            free: (free.start.max(served.0), free.end.min(served.1)),
            held_to: if held { chunk.used_to } else { 0 },
        }
    }

    fn share(&self, chunk: u32, end: &AtEnd) -> Share {
        let (from, to) = end.served;
        let (live, mut free) = self.occupancy.census(chunk, from, to);
        // Of a stretch that something is known of: what the trace says nothing of.
        let unseen = |a: u32, b: u32| {
            let (live, free) = if a < b { self.occupancy.census(chunk, a, b) } else { (0, 0) };
            b.saturating_sub(a) - live - free
        };
        free += unseen(end.free.0, end.free.1);
        let held = unseen(from, end.held_to.min(to));
        let bytes = |granules: u32| Bytes(u64::from(granules) << self.granule_shift);
        Share {
            total: bytes(to - from),
            live: bytes(live),
            held: bytes(held),
            free: bytes(free),
            unknown: bytes(to - from - live - held - free),
        }
    }

    /// What stays unseen: the totals of the statistics less what is known.
    fn unseen(&self, unit_size: u64) -> Option<Unseen> {
        let t = &self.totals;
        let granule = self.options.granule.0 as i64;
        if let Some(stats) = &self.options.stats_end {
            let (objects, bytes) = live_in(stats, unit_size);
            let bytes = bytes - t.live_granules as i64 * granule;
            return Some(Unseen { objects: objects - t.nr_live as i64, bytes: (bytes, bytes, bytes) });
        }
        let stats = self.options.stats.as_ref().filter(|_| t.nr_losses == 0)?;
        let (objects, bytes) = live_in(stats, unit_size);
        let (mut least, mut guessed, mut most) = (0, 0, 0);
        for prior in self.objects.iter().filter(|object| object.origin == Origin::Prior) {
            least += granule;
            guessed += i64::from(prior.size) * granule;
            most += i64::from(prior.max_size) * granule;
        }
        if !self.options.history {
            let one_each = t.nr_freed_prior as i64 * granule;
            (least, guessed, most) = (one_each, one_each, bytes.max(one_each));
        }
        Some(Unseen {
            objects: objects - t.nr_freed_prior as i64,
            bytes: ((bytes - most).max(0), bytes - guessed, bytes - least),
        })
    }
}

/// Live areas and their bytes in one unit, by a statistics text.
fn live_in(stats: &PercpuStats, unit_size: u64) -> (i64, i64) {
    stats.chunks.iter().fold((0, 0), |(objects, bytes), chunk| {
        let size = match chunk.label {
            ChunkLabel::First => stats.sizes.dyn_size,
            ChunkLabel::Reserved => stats.sizes.reserved_size,
            _ => unit_size,
        };
        (objects + chunk.nr_alloc, bytes + size as i64 - chunk.free_bytes)
    })
}
