//! Following a trace without a start state: what it says is placed and checked, what was there before is learnt.
//!
//! # Design
//!
//! ```text
//!                    +--> Occupancy: what is known of every granule
//! Trace, block by ---+--> Object: one record for each area, with who asked and when
//! block              +--> ChunkFacts: chunks, those that were there before too
//!                    +--> Outcome of every event, timeline, totals
//! ```
//!
//! A capture begins on a machine that has been up for long. Three things are learnt of what was there before:
//!
//! - An area that is freed and was never seen allocated was live from the start until then: a *prior* area. Where it
//!   begins is certain. How long it was is not in the line: at least a granule, at most up to the next granule of which
//!   something is known; the guess is the size of the next area that is placed at its start (50 section 7).
//! - A chunk that is made in the capture is free from end to end.
//! - The statistics text gives the totals, from which what stays unseen follows by subtraction ([`Follow::unseen`]).
//!
//! Where the trace contradicts itself the later line counts: what was live there is taken as freed. Such events are
//! illegal, unless the trace lost events since the area was placed; then they are counted apart.
//!
//! Chunks are known by their base address, areas by base and offset: that is all there is in a trace with hashed
//! pointers. Where pointers are real they are checked, and tell the boot chunk (33 section 1).
//!
//! # Units
//!
//! Bytes in what is given out, granules inside. Events by index, times by the trace's clock.
//!
//! # Cost
//!
//! A free is a look-up of a tile; an allocation two. Without history memory follows the live areas, else the events.
//!
//! # Source
//!
//! Specification 50 sections 2 and 7, 40 section 6.3, 33 section 1.

mod facts;
mod model;
mod result;
#[cfg(test)]
mod tests;

pub use facts::{BootArea, StatsFacts};
pub use model::{Change, ChunkFacts, Fate, Object, Origin, Outcome, NEVER};
pub use result::{Cell, Follow, Share, Totals, Unseen};

use std::collections::HashMap;
use std::ops::Range;

use super::occupancy::{Granule, Mix, Occupancy};
use super::timeline::Sampler;
use crate::error::TraceError;
use crate::geometry::MAX_UNIT_SIZE;
use crate::stats_text::PercpuStats;
use crate::trace::{flag, Clock, Columns, Kind, Trace, NONE};
use crate::units::Bytes;

/// Largest request that any kernel serves: 32 KiB, rounded up to a page of 64 KiB.
const MAX_AREA: u64 = 64 << 10;
/// Call sites that are told apart in one replay.
const MAX_SITES: usize = 1 << 20;
/// Events between two questions whether to go on.
const ASK_EVERY: usize = 4096;

/// What a follower is told beforehand.
#[derive(Clone, Debug)]
pub struct Options {
    /// One CPU's share of a chunk; `None` = learnt from the statistics, else inferred.
    pub unit_size: Option<Bytes>,
    /// Bytes of a granule: 4, in 4.13 and before 2.
    pub granule: Bytes,
    /// The part of the boot area that serves requests.
    pub boot: Option<BootArea>,
    /// Statistics from right before the first event.
    pub stats: Option<PercpuStats>,
    /// Statistics from right after the last event.
    pub stats_end: Option<PercpuStats>,
    /// Keep the outcome of every event and every area that ever was. Without it only what is live is kept.
    pub history: bool,
    /// Events of a sample of the timeline; 0 = as long as it takes to have some thousand.
    pub sample_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            unit_size: None,
            granule: Bytes(4),
            boot: None,
            stats: None,
            stats_end: None,
            history: true,
            sample_every: 0,
        }
    }
}

/// Hears of the changes of an event, with the follower as it is right after it.
pub type Tell<'a> = dyn FnMut(&Follower, &Change) + 'a;

/// Reads a trace block by block.
#[derive(Clone, Debug)]
pub struct Follower {
    options: Options,
    facts: StatsFacts,
    unit_size: Option<u64>,
    granule_shift: u32,
    clock: Clock,
    hashed: bool,
    occupancy: Occupancy,
    chunks: Vec<ChunkFacts>,
    by_base: HashMap<u64, u32, Mix>,
    objects: Vec<Object>,
    unused: Vec<u32>,
    /// Prior areas that wait for a guess of their size, by chunk and granule.
    guess: HashMap<u64, u32, Mix>,
    sites: Vec<String>,
    site_index: HashMap<String, u32>,
    outcomes: Vec<u8>,
    totals: Totals,
    by_outcome: [u64; Outcome::ALL.len()],
    first_illegal: Option<(u64, u32, Outcome)>,
    /// What base + offset - pointer is, once seen.
    delta: Option<u64>,
    /// Event of the last loss.
    last_loss: Option<u64>,
    /// What the event did to areas; gathered only while somebody is told.
    changes: Vec<Change>,
    telling: bool,
    sampler: Sampler<4>,
    event: u64,
    first_time: u64,
    time: u64,
}

/// What a block says about its dictionaries.
struct Names<'t> {
    trace: &'t Trace,
    /// By index of a base: the chunk, once looked up.
    chunks: Vec<u32>,
    /// By index of a call site: the one here, once looked up.
    sites: Vec<u32>,
}

impl Follower {
    /// A follower before the first event.
    pub fn new(options: Options) -> Result<Self, TraceError> {
        let granule = options.granule.0;
        if !(1..=64).contains(&granule) || !granule.is_power_of_two() {
            return Err(TraceError::new(format!("granule={granule}: must be a power of two from 1 to 64")));
        }
        let told = options.unit_size.map(|size| size.0);
        let shown =
            [&options.stats, &options.stats_end].into_iter().flatten().map(|stats| stats.sizes.unit_size).next();
        let unit_size = told.or(shown);
        if let Some(size) = unit_size {
            if size == 0 || size % granule != 0 || size > MAX_UNIT_SIZE {
                let text =
                    format!("unit_size={size}: must be a multiple of {granule} from {granule} to {MAX_UNIT_SIZE}");
                return Err(TraceError::new(text));
            }
        }
        Ok(Self {
            facts: StatsFacts::default(),
            unit_size,
            granule_shift: granule.trailing_zeros(),
            clock: Clock::default(),
            hashed: false,
            occupancy: Occupancy::default(),
            chunks: Vec::new(),
            by_base: HashMap::default(),
            objects: Vec::new(),
            unused: Vec::new(),
            guess: HashMap::default(),
            sites: Vec::new(),
            site_index: HashMap::new(),
            outcomes: Vec::new(),
            totals: Totals::default(),
            by_outcome: [0; Outcome::ALL.len()],
            first_illegal: None,
            delta: None,
            last_loss: None,
            changes: Vec::new(),
            telling: false,
            sampler: Sampler::new(options.sample_every),
            event: 0,
            first_time: 0,
            time: 0,
            options,
        })
    }

    /// Says what is known of chunks before the first event.
    pub fn with_facts(mut self, facts: StatsFacts) -> Self {
        self.facts = facts;
        self
    }

    /// Reads the next events. `go_on` is asked now and then with the number of events read so far, and ends the
    /// replay by saying no: then the answer is false.
    pub fn read(&mut self, trace: &Trace, go_on: &mut dyn FnMut(u64) -> bool) -> bool {
        self.read_with(trace, go_on, None)
    }

    /// As [`Self::read`]; `tell` hears of every change of an area, with the follower as it is right after the event.
    pub fn read_with(
        &mut self,
        trace: &Trace,
        go_on: &mut dyn FnMut(u64) -> bool,
        mut tell: Option<&mut Tell<'_>>,
    ) -> bool {
        self.telling = tell.is_some();
        let columns = trace.columns();
        if self.event == 0 {
            (self.clock, self.first_time) = (trace.clock(), columns.time.first().copied().unwrap_or(0));
        }
        self.hashed |= trace.hashed();
        if self.options.history {
            self.outcomes.reserve(trace.len());
        }
        let mut names =
            Names { trace, chunks: vec![NONE; trace.bases().len()], sites: vec![NONE; trace.call_sites().len()] };
        for index in 0..trace.len() {
            if index % ASK_EVERY == 0 && !go_on(self.event) {
                return false;
            }
            self.time = columns.time[index];
            let outcome = self.step(&columns, &mut names, index);
            if !self.changes.is_empty() {
                let mut changes = std::mem::take(&mut self.changes);
                if let Some(tell) = &mut tell {
                    changes.iter().for_each(|change| tell(self, change));
                }
                changes.clear();
                self.changes = changes;
            }
            self.by_outcome[outcome as usize] += 1;
            if outcome.illegal() && self.first_illegal.is_none() {
                self.first_illegal = Some((self.event, columns.line[index], outcome));
            }
            if self.options.history {
                self.outcomes.push(outcome as u8);
            }
            self.event += 1;
            let t = &self.totals;
            self.sampler.push(
                self.time,
                [t.live_granules as i64, t.nr_live as i64, t.nr_chunks as i64, t.nr_freed_prior as i64],
            );
        }
        true
    }

    /// The event that was read last, while it is told; else how many were read.
    pub fn event(&self) -> u64 {
        self.event
    }

    /// Time of the last event.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// Call sites so far.
    pub fn sites(&self) -> &[String] {
        &self.sites
    }

    /// Chunks so far, in the order of first appearance.
    pub fn chunks(&self) -> &[ChunkFacts] {
        &self.chunks
    }

    #[inline]
    fn tell(&mut self, change: Change) {
        if self.telling {
            self.changes.push(change);
        }
    }

    #[inline]
    fn step(&mut self, columns: &Columns<'_>, names: &mut Names<'_>, index: usize) -> Outcome {
        match columns.kind[index] {
            Kind::Alloc => self.alloc(columns, names, index),
            Kind::Free => self.free(columns, names, index),
            Kind::AllocFail => Outcome::Failed,
            Kind::Create => self.create(columns, names, index),
            Kind::Destroy => self.destroy(columns, names, index),
            Kind::Lost => self.lost(columns.count[index]),
            _ => Outcome::Other,
        }
    }

    /// The chunk that an event names, if it names one.
    #[inline]
    fn chunk(&mut self, columns: &Columns<'_>, names: &mut Names<'_>, index: usize) -> Option<u32> {
        let base = columns.base[index] as usize;
        let chunk = *names.chunks.get(base)?;
        if chunk != NONE {
            return Some(chunk);
        }
        let addr = *names.trace.bases().get(base)?;
        let chunk = match self.by_base.get(&addr) {
            Some(chunk) => *chunk,
            None => {
                let boot_off = self.boot_off(columns, index);
                self.add_chunk(addr, NEVER, boot_off)
            }
        };
        names.chunks[base] = chunk;
        Some(chunk)
    }

    /// How far the chunk of an event lies from the start of the unit, if its pointer shows that it lies in the boot
    /// area: other chunks are far away.
    fn boot_off(&self, columns: &Columns<'_>, index: usize) -> Option<Bytes> {
        let known = columns.flags[index] & flag::PTR != 0 && !self.hashed;
        let distance = columns.ptr[index].wrapping_sub(columns.off[index] as u64);
        (known && distance < self.unit_size.unwrap_or(MAX_UNIT_SIZE)).then_some(Bytes(distance))
    }

    fn add_chunk(&mut self, base: u64, created: u64, boot_off: Option<Bytes>) -> u32 {
        let index = self.chunks.len() as u32;
        let made = created != NEVER;
        let facts = if made { None } else { self.facts.of(base) };
        let to_granules = |bytes: u64| (bytes >> self.granule_shift) as u32;
        self.chunks.push(ChunkFacts {
            base,
            first_event: self.event,
            created,
            destroyed: NEVER,
            boot_off,
            nr_live: 0,
            live: 0,
            nr_prior: 0,
            end: 0,
            free: match facts {
                _ if made => (0, u32::MAX),
                Some(facts) => (to_granules(facts.free.0), to_granules(facts.free.1)),
                None => (u32::MAX, u32::MAX),
            },
            used_to: facts.map_or(0, |facts| to_granules(facts.used_to)),
            nr_prior_used: 0,
        });
        self.by_base.insert(base, index);
        self.totals.nr_chunks += 1;
        index
    }

    /// Whether a pointer, where it is real, belongs to its chunk and offset.
    #[inline]
    fn pointer_fits(&mut self, columns: &Columns<'_>, names: &Names<'_>, index: usize) -> bool {
        if columns.flags[index] & flag::PTR == 0 || self.hashed {
            return true;
        }
        let base = names.trace.bases()[columns.base[index] as usize];
        let delta = base.wrapping_add(columns.off[index] as u64).wrapping_sub(columns.ptr[index]);
        *self.delta.get_or_insert(delta) == delta
    }

    /// What is known of a granule, with what is known of its chunk.
    #[inline]
    fn known(&self, chunk: u32, granule: u32) -> Granule {
        match self.occupancy.get(chunk, granule) {
            Granule::Unknown if self.free_when_first_seen(chunk).contains(&granule) => Granule::Free,
            found => found,
        }
    }

    /// Granules of a chunk that are free unless something was seen there since.
    #[inline]
    fn free_when_first_seen(&self, chunk: u32) -> Range<u32> {
        let facts = &self.chunks[chunk as usize];
        match self.last_loss {
            Some(loss) if facts.first_event <= loss => 0..0,
            _ => facts.free.0..facts.free.1,
        }
    }

    fn alloc(&mut self, columns: &Columns<'_>, names: &mut Names<'_>, index: usize) -> Outcome {
        self.totals.nr_alloc += 1;
        let Some(chunk) = self.chunk(columns, names, index) else { return Outcome::NoBase };
        let (off, size) = (columns.off[index] as u64, u64::from(columns.size[index]));
        if size == 0 || size > MAX_AREA {
            return Outcome::BadSize;
        }
        let end = off + size;
        let unit_off = self.chunks[chunk as usize].boot_off.map_or(0, |off| off.0);
        if end + unit_off > self.unit_size.unwrap_or(MAX_UNIT_SIZE) {
            return Outcome::OutOfUnit;
        }
        let mask = (1 << self.granule_shift) - 1;
        if off & mask != 0 {
            return Outcome::Misaligned;
        }
        let (from, to) = ((off >> self.granule_shift) as u32, ((end + mask) >> self.granule_shift) as u32);
        let align = u64::from(columns.align[index]);
        let mut outcome = Outcome::Placed;
        if !align.is_power_of_two() || off & (align - 1) != 0 {
            outcome = Outcome::Misaligned;
        } else if !self.pointer_fits(columns, names, index) {
            outcome = Outcome::WrongPointer;
        }
        if self.occupancy.count_live(chunk, from, to) > 0 {
            let contradicted = self.contradict(chunk, from, to);
            outcome = if outcome == Outcome::Placed { contradicted } else { outcome };
        }
        if !self.guess.is_empty() {
            self.settle_guess(chunk, from, to - from);
        }
        let site = self.site(columns, names, index);
        let flags = columns.flags[index];
        let number = self.add_object(Object {
            chunk,
            off: from,
            size: to - from,
            max_size: to - from,
            site,
            origin: Origin::Capture,
            fate: Fate::Live,
            atomic: flags & flag::ATOMIC != 0,
            reserved: flags & flag::RESERVED != 0,
            born: self.event,
            born_time: self.time,
            died: NEVER,
        });
        self.occupancy.place(chunk, from, to, number);
        self.tell(Change::Placed(self.objects[number as usize]));
        let facts = &mut self.chunks[chunk as usize];
        facts.end = facts.end.max(to);
        facts.nr_live += 1;
        facts.live += u64::from(to - from);
        self.totals.nr_live += 1;
        self.totals.live_granules += u64::from(to - from);
        outcome
    }

    #[inline]
    fn add_object(&mut self, object: Object) -> u32 {
        match self.unused.pop() {
            Some(number) => {
                self.objects[number as usize] = object;
                number
            }
            None => {
                self.objects.push(object);
                self.objects.len() as u32 - 1
            }
        }
    }

    /// Index of an event's call site.
    #[inline]
    fn site(&mut self, columns: &Columns<'_>, names: &mut Names<'_>, index: usize) -> u32 {
        let text = columns.text[index];
        match names.sites.get(text as usize) {
            None => NONE,
            Some(&site) if site != NONE => site,
            Some(_) => {
                let site = self.intern(&names.trace.call_sites()[text as usize]);
                names.sites[text as usize] = site;
                site
            }
        }
    }

    fn intern(&mut self, text: &str) -> u32 {
        if let Some(site) = self.site_index.get(text) {
            return *site;
        }
        let text = if self.sites.len() < MAX_SITES { text } else { "(others)" };
        let next = self.sites.len() as u32;
        let site = *self.site_index.entry(text.to_owned()).or_insert(next);
        if site == next {
            self.sites.push(text.to_owned());
        }
        site
    }

    /// The next area at the start of a prior one is taken to be as long as it was.
    fn settle_guess(&mut self, chunk: u32, from: u32, size: u32) {
        if let Some(number) = self.guess.remove(&place_key(chunk, from)) {
            let object = &mut self.objects[number as usize];
            object.size = size.min(object.max_size);
        }
    }

    /// Ends the live areas in `from..to`, whose frees the trace does not have.
    fn contradict(&mut self, chunk: u32, from: u32, to: u32) -> Outcome {
        let longest = (MAX_AREA >> self.granule_shift) as u32;
        let areas = self.occupancy.areas_in(chunk, from, to, longest);
        let explained = areas.iter().all(|number| self.lost_since(self.objects[*number as usize].born));
        let same = matches!(areas[..], [number] if self.objects[number as usize].off == from);
        areas.into_iter().for_each(|number| self.end_object(number, Fate::Replaced));
        match (explained, same) {
            (true, _) => Outcome::AfterLoss,
            (_, true) => Outcome::MissingFree,
            _ => Outcome::Overlap,
        }
    }

    fn lost_since(&self, event: u64) -> bool {
        self.last_loss.is_some_and(|loss| event < loss)
    }

    /// Ends a live area that the trace placed.
    #[inline]
    fn end_object(&mut self, number: u32, fate: Fate) {
        let object = &mut self.objects[number as usize];
        let (chunk, off, size) = (object.chunk, object.off, object.size);
        (object.fate, object.died) = (fate, self.event);
        let ended = *object;
        self.tell(Change::Ended(ended));
        if !self.options.history {
            self.unused.push(number);
        }
        self.occupancy.remove(chunk, off, off + size, true);
        let facts = &mut self.chunks[chunk as usize];
        facts.nr_live -= 1;
        facts.live -= u64::from(size);
        self.totals.nr_live -= 1;
        self.totals.live_granules -= u64::from(size);
    }

    fn free(&mut self, columns: &Columns<'_>, names: &mut Names<'_>, index: usize) -> Outcome {
        self.totals.nr_free += 1;
        let Some(chunk) = self.chunk(columns, names, index) else { return Outcome::NoBase };
        let off = columns.off[index] as u64;
        if off & ((1 << self.granule_shift) - 1) != 0 {
            return Outcome::Misaligned;
        }
        let at = (off >> self.granule_shift) as u32;
        let fits = self.pointer_fits(columns, names, index);
        let right = |outcome| if fits { outcome } else { Outcome::WrongPointer };
        match self.known(chunk, at) {
            Granule::Start(number) => {
                self.end_object(number, Fate::Freed);
                right(Outcome::Freed)
            }
            Granule::Unknown => {
                let unit_off = self.chunks[chunk as usize].boot_off.map_or(0, |off| off.0);
                if off + unit_off >= self.unit_size.unwrap_or(MAX_UNIT_SIZE) {
                    return Outcome::OutOfUnit;
                }
                self.free_prior(chunk, at);
                right(Outcome::FreedPrior)
            }
            Granule::Inside => {
                // The area that is freed begins here, so that the one around it is gone already.
                let around = self.occupancy.areas_in(chunk, at, at + 1, (MAX_AREA >> self.granule_shift) as u32);
                let lost = around.iter().all(|number| self.lost_since(self.objects[*number as usize].born));
                if !lost {
                    return Outcome::FreedInside;
                }
                around.into_iter().for_each(|number| self.end_object(number, Fate::Replaced));
                self.free_prior(chunk, at);
                Outcome::AfterLoss
            }
            Granule::Free => Outcome::FreedFree,
        }
    }

    /// An area is freed that the trace does not show being allocated.
    fn free_prior(&mut self, chunk: u32, at: u32) {
        let longest = at + (MAX_AREA >> self.granule_shift) as u32;
        let free = self.free_when_first_seen(chunk);
        let facts = &mut self.chunks[chunk as usize];
        let unit_off = facts.boot_off.map_or(0, |off| off.0);
        let unit = self.unit_size.map_or(u32::MAX, |size| ((size - unit_off.min(size)) >> self.granule_shift) as u32);
        let known = if free.start > at { free.start } else { u32::MAX };
        let limit = longest.min(unit).min(known).max(at + 1);
        let max_size = self.occupancy.next_known(chunk, at + 1, limit) - at;
        facts.end = facts.end.max(at + 1);
        self.occupancy.mark_free(chunk, at);
        let origin = if self.last_loss.is_some() { Origin::Lost } else { Origin::Prior };
        if origin == Origin::Prior {
            facts.nr_prior += 1;
            facts.nr_prior_used += u32::from(at < facts.used_to);
            self.totals.nr_freed_prior += 1;
        } else {
            self.totals.nr_freed_lost += 1;
        }
        self.tell(Change::FreedPrior { chunk, off: at });
        if !self.options.history {
            return;
        }
        let number = self.add_object(Object {
            chunk,
            off: at,
            size: 1,
            max_size,
            site: NONE,
            origin,
            fate: Fate::Freed,
            atomic: false,
            reserved: false,
            born: NEVER,
            born_time: 0,
            died: self.event,
        });
        self.guess.insert(place_key(chunk, at), number);
    }

    fn create(&mut self, columns: &Columns<'_>, names: &mut Names<'_>, index: usize) -> Outcome {
        self.totals.nr_created += 1;
        let base = columns.base[index] as usize;
        let Some(addr) = names.trace.bases().get(base).copied() else { return Outcome::NoBase };
        let mut outcome = Outcome::Created;
        if let Some(old) = self.by_base.get(&addr).copied() {
            let first = self.chunks[old as usize].first_event;
            outcome = if self.lost_since(first) { Outcome::AfterLoss } else { Outcome::CreatedTwice };
            self.end_chunk(old);
        }
        names.chunks[base] = self.add_chunk(addr, self.event, None);
        outcome
    }

    fn destroy(&mut self, columns: &Columns<'_>, names: &mut Names<'_>, index: usize) -> Outcome {
        self.totals.nr_destroyed += 1;
        let Some(chunk) = self.chunk(columns, names, index) else { return Outcome::NoBase };
        names.chunks[columns.base[index] as usize] = NONE;
        let live = self.end_chunk(chunk);
        match live {
            None => Outcome::Destroyed,
            Some(youngest) if self.lost_since(youngest) => Outcome::AfterLoss,
            Some(_) => Outcome::DestroyedLive,
        }
    }

    /// Ends a chunk. If areas were live in it: when the youngest of them was placed.
    fn end_chunk(&mut self, chunk: u32) -> Option<u64> {
        let mut youngest = None;
        for number in self.occupancy.areas_of(chunk) {
            youngest = youngest.max(Some(self.objects[number as usize].born));
            self.end_object(number, Fate::Replaced);
        }
        self.occupancy.drop_chunk(chunk);
        self.tell(Change::ChunkEnded(chunk));
        let facts = &mut self.chunks[chunk as usize];
        facts.destroyed = self.event;
        self.by_base.remove(&facts.base);
        self.totals.nr_chunks -= 1;
        youngest
    }

    fn lost(&mut self, count: u64) -> Outcome {
        self.totals.nr_losses += 1;
        self.totals.nr_lost = self.totals.nr_lost.saturating_add(count);
        self.last_loss = Some(self.event);
        self.occupancy.forget_free();
        self.guess.clear();
        Outcome::Other
    }
}

/// The granule of the kernel that wrote a trace: 2 bytes before 4.14, which shows in sizes and alignments, else 4.
pub fn likely_granule(trace: &Trace) -> Bytes {
    let columns = trace.columns();
    let fine = |index: &usize| {
        let (size, align) = (columns.size[*index], columns.align[*index]);
        matches!(columns.kind[*index], Kind::Alloc | Kind::AllocFail) && (size % 4 == 2 || align == 2)
    };
    Bytes(if (0..trace.len()).any(|index| fine(&index)) { 2 } else { 4 })
}

/// Follows a whole trace.
pub fn follow(trace: &Trace, options: Options, go_on: &mut dyn FnMut(u64) -> bool) -> Result<Follow, TraceError> {
    let facts = options.stats.as_ref().map(|stats| StatsFacts::learn(trace, stats, &options)).unwrap_or_default();
    let mut follower = Follower::new(options)?.with_facts(facts);
    follower.read(trace, go_on);
    Ok(follower.finish())
}

fn place_key(chunk: u32, granule: u32) -> u64 {
    u64::from(chunk) << 32 | u64::from(granule)
}
