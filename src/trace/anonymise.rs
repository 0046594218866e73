//! Traces without what says something about one machine, to be given away.
//!
//! # Design
//!
//! Chunks get other addresses, in another order; what the allocator does with a trace does not depend on
//! them, so a replay finds the same places.
//!
//! ```text
//!   bases, sorted        0x..10000 0x..42000          0x..80000000   0x..80200000
//!   closer than a unit   `--- cluster 0 ---'          cluster 1      cluster 2
//!   seeded shuffle            slot 2                    slot 0         slot 1
//!   new base             START + slot x SPACING + (base of the cluster mod 2 MiB) + distance in the cluster
//! ```
//!
//! Boot chunks lie in one unit, and stay as far from each other. The bits below 2 MiB stay, and with them
//! offsets in pages, units and atoms. Pointers keep the one rule that they follow, `base + off - ptr` constant;
//! where a pointer less its offset is small it says where in the boot area it is, and stays. Hashed pointers, and
//! real ones without that rule, are identities: they go through a permutation keyed by the seed.
//!
//! Kept: sizes, offsets, flags, CPUs, kinds and their order. Call sites and times are kept unless asked for.
//! Dropped: unknown fields; markers that are more than a word of capitals, digits and underscores.
//!
//! # Units
//!
//! Addresses in bytes.
//!
//! # Source
//!
//! Specification 33 section 1 and 40 section 6.1 for what pointers mean.

use std::collections::HashMap;

use super::builder::{Row, TraceBuilder};
use super::event::{Clock, Kind};
use super::merge::ask;
use super::{flag, Limits, Trace, NONE};
use crate::error::TraceError;

/// Where anonymous chunks lie: 2^45 bytes, as the vmalloc area of x86-64.
const START: u64 = 0xffff_c900_0000_0000;
const AREA_BITS: u32 = 45;
/// Distance of two clusters, at most; a power of two.
const SPACING_BITS: u32 = 30;
/// The bits of an address that stay.
const KEPT: u64 = (2 << 20) - 1;
/// No unit is smaller, so bases that are closer belong to the boot chunks.
const MIN_UNIT: u64 = 32 << 10;
/// A pointer less its offset below this lies in the boot area.
const SMALL: u64 = 1 << 32;

/// What is replaced, and by which numbers.
#[derive(Clone, Copy, Debug)]
pub struct Anonymise<'a> {
    /// Chooses the new addresses.
    pub seed: u64,
    /// Replace the texts of call sites by numbers.
    pub call_sites: bool,
    /// Replace times by the order of the events.
    pub times: bool,
    /// Addresses besides the trace's own, which are moved with it: those of a state.
    pub addresses: &'a [u64],
    /// Bytes of a unit, where known: what is closer stays together.
    pub unit_size: Option<u64>,
}

/// A random number for each index, by SplitMix64.
fn random(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A permutation of the numbers of `2 * half` bits, keyed by the seed: four Feistel rounds.
fn permute(seed: u64, value: u64, half: u32) -> u64 {
    let mask = (1u64 << half) - 1;
    let (mut left, mut right) = (value >> half & mask, value & mask);
    for round in 0..4 {
        (left, right) = (right, left ^ random(seed ^ round << 56, right) & mask);
    }
    left << half | right
}

/// The new value of an identity; never 0, and below 2^32 if it was.
fn identity(seed: u64, value: u64, hashed: bool) -> u64 {
    let half = if hashed { 16 } else { 32 };
    let mut value = permute(seed, value, half);
    while value == 0 {
        value = permute(seed, value, half);
    }
    value
}

/// The new addresses of chunks.
struct Bases {
    map: HashMap<u64, u64>,
}

impl Bases {
    fn new(mut bases: Vec<u64>, options: &Anonymise<'_>, hashed: bool) -> Result<Self, TraceError> {
        bases.sort_unstable();
        bases.dedup();
        if hashed {
            return Ok(Self { map: bases.iter().map(|&base| (base, identity(options.seed, base, true))).collect() });
        }
        let gap = options.unit_size.unwrap_or(MIN_UNIT);
        let mut clusters: Vec<Vec<u64>> = Vec::new();
        for base in bases {
            match clusters.last_mut() {
                Some(cluster) if cluster.last().is_some_and(|last| base - last < gap) => cluster.push(base),
                _ => clusters.push(vec![base]),
            }
        }
        let bits = usize::BITS - clusters.len().leading_zeros();
        let spacing = AREA_BITS.saturating_sub(bits).min(SPACING_BITS);
        if 1 << spacing <= KEPT {
            return Err(TraceError::new(format!("{} chunks are too many to be moved", clusters.len())));
        }
        let mut slots: Vec<u64> = (0..clusters.len() as u64).collect();
        for i in (1..slots.len()).rev() {
            slots.swap(i, (random(options.seed, i as u64) % (i as u64 + 1)) as usize);
        }
        let mut map = HashMap::new();
        for (cluster, slot) in clusters.iter().zip(slots) {
            let first = cluster[0];
            let moved = START + (slot << spacing) + (first & KEPT);
            map.extend(cluster.iter().map(|&base| (base, moved.wrapping_add(base - first))));
        }
        Ok(Self { map })
    }

    fn of(&self, base: u64) -> u64 {
        self.map[&base]
    }
}

/// How pointers follow from bases.
enum Pointers {
    /// `ptr = base + off - distance`, with the new distance.
    Distance(u64),
    /// Not at all.
    Identity,
}

impl Pointers {
    fn new(trace: &Trace, bases: &Bases, seed: u64) -> Self {
        if trace.hashed() {
            return Pointers::Identity;
        }
        let c = trace.columns();
        let mut distance = None;
        let mut new = None;
        for index in 0..trace.len() {
            if c.flags[index] & flag::PTR == 0 {
                continue;
            }
            let Some(&base) = trace.bases().get(c.base[index] as usize) else { return Pointers::Identity };
            let off = c.off[index] as u64;
            let here = base.wrapping_add(off).wrapping_sub(c.ptr[index]);
            if *distance.get_or_insert(here) != here {
                return Pointers::Identity;
            }
            let place = c.ptr[index].wrapping_sub(off);
            if place < SMALL {
                new = Some(bases.of(base).wrapping_sub(place));
            }
        }
        // Page-aligned, and far from where pointers would be addresses.
        let other = || START.wrapping_sub(random(seed, u64::MAX) & 0x3fff_ffff_f000);
        // A kernel without SMP does not translate pointers.
        let untranslated = (distance == Some(0)).then_some(0);
        Pointers::Distance(untranslated.or(new).unwrap_or_else(other))
    }
}

/// The trace with other addresses, and the new ones of [`Anonymise::addresses`].
pub fn anonymise(trace: &Trace, options: &Anonymise<'_>) -> Result<(Trace, Vec<u64>), TraceError> {
    anonymise_while(trace, options, &mut || true)
}

/// The same; `go_on` is asked now and then, and a no is [`STOPPED`](super::STOPPED).
pub fn anonymise_while(
    trace: &Trace,
    options: &Anonymise<'_>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(Trace, Vec<u64>), TraceError> {
    let c = trace.columns();
    let seed = options.seed;
    let mut used = vec![false; trace.bases().len()];
    c.base.iter().filter(|&&base| base != NONE).for_each(|&base| used[base as usize] = true);
    let own = trace.bases().iter().zip(&used).filter(|(_, used)| **used).map(|(base, _)| *base);
    let bases = Bases::new(own.chain(options.addresses.iter().copied()).collect(), options, trace.hashed())?;
    let pointers = Pointers::new(trace, &bases, seed);
    let clock = if options.times { Clock::Counter } else { trace.clock() };
    let mut builder = TraceBuilder::with_limits(clock, Limits { events: u64::MAX });
    builder.set_hashed(trace.hashed());
    let mut sites: HashMap<u32, u32> = HashMap::new();
    let mut markers = 0;
    for index in 0..trace.len() {
        ask(index, go_on)?;
        let mut row = Row::of(trace, index);
        let base = trace.bases().get(row.base as usize).map(|&base| bases.of(base));
        row.base = base.map_or(NONE, |base| builder.base(base));
        if row.flags & flag::PTR != 0 {
            row.ptr = match (&pointers, base) {
                (Pointers::Distance(distance), Some(base)) => base.wrapping_add(row.off as u64).wrapping_sub(*distance),
                _ => identity(seed, row.ptr, trace.hashed()),
            };
        }
        if row.gfp != NONE {
            row.gfp = builder.gfp_text(trace.gfp_flags()[row.gfp as usize].as_bytes());
        }
        if row.kind == Kind::Marker {
            markers += 1;
            let text = &trace.markers()[row.text as usize];
            let word = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            row.text = match text.bytes().all(word) {
                true => builder.marker(text.as_bytes()),
                false => builder.marker(format!("MARKER_{markers}").as_bytes()),
            };
        } else if row.text != NONE {
            let old = &trace.call_sites()[row.text as usize];
            row.text = if options.call_sites {
                let next = sites.len();
                *sites.entry(row.text).or_insert_with(|| builder.call_site(format!("site_{next}").as_bytes()))
            } else {
                builder.call_site(old.as_bytes())
            };
        }
        if options.times {
            row.time = index as u64;
        }
        builder.push_row(row)?;
    }
    let facts = builder.facts();
    facts.clone_from(trace.facts());
    facts.first_damage = None;
    let moved = options.addresses.iter().map(|&address| bases.of(address)).collect();
    Ok((builder.finish(), moved))
}
