//! Who owns the per-CPU memory that a trace shows: what each owner holds, held at most, and when.
//!
//! # Design
//!
//! A [`Tally`] reads along with a [`Follower`], which decides what is live; it keeps a [`Group`] for each owner:
//!
//! ```text
//! Trace, block by block --> Follower --> Change: placed, ended, freed but never seen --> Tally
//!                                                                                         +--> Group: one an owner
//!                                                                                         +--> Entry: the course
//! ```
//!
//! An owner is a call site, a function, a size or a chunk ([`By`]). Group [`BEFORE`] stands for what was live before the
//! first event. How much that was is known only if the areas are given ([`Tally::with_prior`]); else the group counts
//! the frees that the trace shows of it.
//!
//! The course over time is a list of what each group held at the end of each sample in which it changed. A sample has
//! 2^k events; when there are more than [`SAMPLES`], neighbours are joined. So the course of any trace takes bounded
//! memory, and does not depend on the blocks in which it was read.
//!
//! # Units
//!
//! Granules and events inside, of one CPU; times by the trace's clock.
//!
//! # Invariants
//!
//! O1 what all groups hold adds up to the total; O2 a peak is never below what is held; O3 entries are in the order of
//! samples, at most one for a group and sample.
//!
//! # Cost
//!
//! O(1) for a change, and O(entries) each time the samples are joined: log2(events) times. Memory: groups and
//! entries, of which there are at most [`ENTRIES`], or some thirty for each group.
//!
//! # Source
//!
//! Specification 40 section 6 (call sites, `bytes_alloc`), 50 section 7.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::answers::symbols::{function_of, Symbols};
use crate::replay::follow::{Change, Follower, Object};
use crate::trace::{flag, Kind, Trace, NONE, NO_CPU};

/// Group of what was there before the first event.
pub const BEFORE: u32 = 0;
/// Most samples of a course.
pub const SAMPLES: u64 = 1024;
/// Entries of a course after which samples are joined.
pub const ENTRIES: usize = 1 << 22;

/// Samples that are kept even if the entries then exceed [`ENTRIES`].
const FEWEST: u32 = 16;

/// What areas are grouped by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Call site, as printed or as resolved.
    Site,
    /// Function: the call site without the place in it.
    Function,
    /// Size.
    Size,
    /// Chunk; one that is made again at the same place is another.
    Chunk,
}

impl By {
    /// All of them, by name.
    pub const ALL: [(&'static str, By); 4] =
        [("site", By::Site), ("function", By::Function), ("size", By::Size), ("chunk", By::Chunk)];
}

/// What an owner did. Granules of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// Areas placed.
    pub nr_alloc: u64,
    /// Those of them whose request was not allowed to sleep.
    pub nr_atomic: u64,
    /// Granules placed.
    pub placed: u64,
    /// Areas that ended.
    pub nr_free: u64,
    /// Live areas.
    pub nr_live: u64,
    /// Their granules.
    pub live: u64,
    /// Most granules at any time.
    pub peak: u64,
    /// Live areas when that was reached first.
    pub nr_peak: u64,
    /// Event that reached it.
    pub peak_event: u64,
    /// Its time.
    pub peak_time: u64,
    /// Sum of the events from placing to ending, of the areas that ended.
    pub life_events: u128,
    /// The same in units of the clock.
    pub life_time: u128,
}

impl Group {
    fn add(&mut self, granules: u64, event: u64, time: u64) {
        self.nr_live += 1;
        self.live += granules;
        if self.live > self.peak {
            (self.peak, self.nr_peak, self.peak_event, self.peak_time) = (self.live, self.nr_live, event, time);
        }
    }

    fn remove(&mut self, granules: u64) {
        self.nr_live -= 1;
        self.live -= granules;
    }

    fn place(&mut self, object: &Object) {
        self.nr_alloc += 1;
        self.nr_atomic += u64::from(object.atomic);
        self.placed += u64::from(object.size);
        self.add(u64::from(object.size), object.born, object.born_time);
    }

    fn end(&mut self, object: &Object, time: u64) {
        self.nr_free += 1;
        self.life_events += u128::from(object.died - object.born);
        self.life_time += u128::from(time.saturating_sub(object.born_time));
        self.remove(u64::from(object.size));
    }
}

/// What a group held at the end of a sample in which it changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The sample.
    pub sample: u32,
    /// The group.
    pub group: u32,
    /// Granules.
    pub live: u64,
}

/// What a trace says of the number of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Factor {
    /// Highest CPU that wrote an event.
    pub max_cpu: Option<u16>,
    /// Least and largest quotient of `bytes_alloc` and size, where it is a whole number.
    pub quotients: Option<(u64, u64)>,
    /// Requests whose quotient is none.
    pub nr_odd: u64,
    /// Some chunk lies above 4 GiB, or pointers are hashed: a machine with words of 64 bits.
    pub wide: bool,
}

/// Live areas from before the first event: granules by base address and offset in granules.
type Prior = HashMap<u64, HashMap<u32, u32>>;

/// Reads along with a follower.
#[derive(Clone, Debug)]
pub struct Tally {
    by: By,
    symbols: Symbols,
    groups: Vec<Group>,
    /// Names of the groups by call site and function; empty for others.
    names: Vec<String>,
    by_name: HashMap<String, u32>,
    /// Group by call site plus one (0 = none), by size in granules or by chunk; [`NONE`] until it is needed.
    group_of: Vec<u32>,
    total: Group,
    prior: Option<Prior>,
    factor: Factor,
    /// A sample has 2^shift events.
    shift: u32,
    entries: Vec<Entry>,
    most_entries: usize,
    /// By group: its newest entry.
    newest: Vec<u32>,
    /// Times of the last events of full samples.
    times: Vec<u64>,
    /// Events before the block that is read.
    before_block: u64,
}

impl Tally {
    /// A tally before the first event.
    pub fn new(by: By, symbols: Symbols) -> Self {
        Self {
            by,
            symbols,
            groups: vec![Group::default()],
            names: Vec::new(),
            by_name: HashMap::new(),
            group_of: Vec::new(),
            total: Group::default(),
            prior: None,
            factor: Factor::default(),
            shift: 0,
            entries: Vec::new(),
            most_entries: ENTRIES,
            newest: vec![NONE],
            times: Vec::new(),
            before_block: 0,
        }
    }

    /// Says what was live before the first event: base address, offset and size, in granules.
    pub fn with_prior(mut self, areas: impl Iterator<Item = (u64, u32, u32)>) -> Self {
        let mut prior = Prior::new();
        for (base, off, size) in areas {
            if prior.entry(base).or_default().insert(off, size).is_none() {
                self.groups[BEFORE as usize].add(u64::from(size), 0, 0);
                self.total.add(u64::from(size), 0, 0);
            }
        }
        self.prior = Some(prior);
        self
    }

    /// Reads the next events of a trace through a follower, which must be the same for all of them. `go_on` as of
    /// [`Follower::read`].
    pub fn read(&mut self, follower: &mut Follower, trace: &Trace, go_on: &mut dyn FnMut(u64) -> bool) -> bool {
        self.learn_factor(trace);
        let done = follower.read_with(trace, go_on, Some(&mut |follower, change| self.change(follower, change)));
        let times = trace.columns().time;
        let read = self.before_block + times.len() as u64;
        while (self.times.len() as u64 + 1) << self.shift <= read {
            let last = ((self.times.len() as u64 + 1) << self.shift) - 1;
            self.times.push(times[(last - self.before_block) as usize]);
        }
        self.before_block = read;
        done
    }

    fn learn_factor(&mut self, trace: &Trace) {
        let columns = trace.columns();
        let factor = &mut self.factor;
        // Hashes of 32 bits are not told from addresses.
        factor.wide |= trace.hashed() || trace.bases().iter().any(|base| base >> 32 != 0);
        for (index, kind) in columns.kind.iter().enumerate() {
            if columns.cpu[index] != NO_CPU {
                factor.max_cpu = factor.max_cpu.max(Some(columns.cpu[index]));
            }
            let size = u64::from(columns.size[index]);
            if *kind != Kind::Alloc || columns.flags[index] & flag::COUNT == 0 || size == 0 {
                continue;
            }
            let (quotient, rest) = (columns.count[index] / size, columns.count[index] % size);
            if rest != 0 || quotient == 0 {
                factor.nr_odd += 1;
            } else {
                let (low, high) = factor.quotients.unwrap_or((quotient, quotient));
                factor.quotients = Some((low.min(quotient), high.max(quotient)));
            }
        }
    }

    fn change(&mut self, follower: &Follower, change: &Change) {
        let event = follower.event();
        match change {
            Change::Placed(object) => {
                let group = self.group(follower, object);
                self.groups[group as usize].place(object);
                self.total.place(object);
                self.note(group, event);
            }
            Change::Ended(object) => {
                let group = self.group(follower, object);
                self.groups[group as usize].end(object, follower.time());
                self.total.end(object, follower.time());
                self.note(group, event);
            }
            Change::FreedPrior { chunk, off } => {
                let base = follower.chunks()[*chunk as usize].base;
                self.groups[BEFORE as usize].nr_free += 1;
                let size = self.prior.as_mut().and_then(|prior| prior.get_mut(&base)?.remove(off));
                if let Some(size) = size {
                    self.forget(size, event);
                }
            }
            Change::ChunkEnded(chunk) => {
                let base = follower.chunks()[*chunk as usize].base;
                let areas = self.prior.as_mut().and_then(|prior| prior.remove(&base)).unwrap_or_default();
                areas.into_values().for_each(|size| self.forget(size, event));
            }
        }
    }

    /// An area from before went away.
    fn forget(&mut self, size: u32, event: u64) {
        self.groups[BEFORE as usize].remove(u64::from(size));
        self.total.remove(u64::from(size));
        self.note(BEFORE, event);
    }

    /// The group of an area.
    #[inline]
    fn group(&mut self, follower: &Follower, object: &Object) -> u32 {
        let key = match self.by {
            By::Site | By::Function => object.site.wrapping_add(1),
            By::Size => object.size,
            By::Chunk => object.chunk,
        } as usize;
        match self.group_of.get(key) {
            Some(&group) if group != NONE => group,
            _ => self.new_key(follower, key),
        }
    }

    #[cold]
    fn new_key(&mut self, follower: &Follower, key: usize) -> u32 {
        if self.group_of.len() <= key {
            self.group_of.resize(key + 1, NONE);
        }
        let named = matches!(self.by, By::Site | By::Function);
        let group = match key.checked_sub(1).filter(|_| named) {
            None => self.new_group(),
            Some(site) => {
                let name = self.symbols.resolve(&follower.sites()[site]);
                let name = if self.by == By::Function { function_of(&name) } else { name.into_owned() };
                match self.by_name.get(&name) {
                    Some(group) => *group,
                    None => {
                        let group = self.new_group();
                        self.by_name.insert(name.clone(), group);
                        self.names[group as usize] = name;
                        group
                    }
                }
            }
        };
        self.group_of[key] = group;
        group
    }

    fn new_group(&mut self) -> u32 {
        self.groups.push(Group::default());
        self.newest.push(NONE);
        self.names.resize(self.groups.len(), String::new());
        self.groups.len() as u32 - 1
    }

    /// Writes down what a group holds after an event.
    #[inline]
    fn note(&mut self, group: u32, event: u64) {
        while event >> self.shift >= SAMPLES || self.entries.len() >= self.most_entries {
            self.join_samples();
        }
        let entry = Entry { sample: (event >> self.shift) as u32, group, live: self.groups[group as usize].live };
        put(&mut self.newest, &mut self.entries, entry);
    }

    #[cold]
    fn join_samples(&mut self) {
        self.shift += 1;
        self.times = self.times.chunks_exact(2).map(|pair| pair[1]).collect();
        self.newest.fill(NONE);
        let old = std::mem::take(&mut self.entries);
        for entry in old {
            put(&mut self.newest, &mut self.entries, Entry { sample: entry.sample / 2, ..entry });
        }
        // Where the groups are too many, joining more would leave no course.
        if self.entries.last().is_none_or(|entry| entry.sample < FEWEST) {
            self.most_entries = self.most_entries.max(2 * self.entries.len());
        }
    }

    /// What came of it, after the last block. `time` of the last event.
    pub fn finish(mut self, time: u64) -> Owners {
        while self.before_block.saturating_sub(1) >> self.shift >= SAMPLES {
            self.join_samples();
        }
        let mut ends: Vec<u64> = (1..=self.times.len() as u64).map(|sample| sample << self.shift).collect();
        if ends.last().copied().unwrap_or(0) < self.before_block {
            ends.push(self.before_block);
            self.times.push(time);
        }
        self.names.resize(self.groups.len(), String::new());
        Owners {
            groups: self.groups,
            names: self.names,
            group_of: self.group_of,
            total: self.total,
            prior: self.prior.map(|prior| {
                let mut areas: Vec<_> = prior
                    .into_iter()
                    .flat_map(|(base, at)| at.into_iter().map(move |(off, size)| (base, off, size)))
                    .collect();
                areas.sort_unstable();
                areas
            }),
            factor: self.factor,
            ends,
            times: self.times,
            entries: self.entries,
        }
    }
}

/// Adds an entry, in place of an earlier one of the same group and sample.
#[inline]
fn put(newest: &mut [u32], entries: &mut Vec<Entry>, entry: Entry) {
    let newest = &mut newest[entry.group as usize];
    match entries.get_mut(*newest as usize) {
        Some(last) if last.sample == entry.sample => *last = entry,
        _ => {
            *newest = entries.len() as u32;
            entries.push(entry);
        }
    }
}

/// Who owned what.
#[derive(Clone, Debug)]
pub struct Owners {
    /// One an owner; the first is [`BEFORE`].
    pub groups: Vec<Group>,
    /// Their names, where they are grouped by call site or function; empty where no call site was printed.
    pub names: Vec<String>,
    /// Group by call site plus one (0 = none), by size in granules or by chunk; [`NONE`] where there is no such thing.
    pub group_of: Vec<u32>,
    /// All of them together.
    pub total: Group,
    /// Where they were given: what is left of the areas from before: base address, offset and size.
    pub prior: Option<Vec<(u64, u32, u32)>>,
    /// What is known of the number of CPUs.
    pub factor: Factor,
    /// Events read up to the end of each sample.
    pub ends: Vec<u64>,
    /// Time of its last event.
    pub times: Vec<u64>,
    /// The course.
    pub entries: Vec<Entry>,
}
