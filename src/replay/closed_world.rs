//! A start state made from a trace alone: what the trace does not show to be free is taken as in use.
//!
//! # Design
//!
//! The trace is taken for the whole world. Of each chunk that was there before:
//!
//! ```text
//! trace         alloc [8,24)   free 40   alloc [40,56)   alloc [100,104)
//! granules      free           an area of 16 bytes       free               all others in use for ever
//! ```
//!
//! A granule whose first appearance is inside an allocation was free at the start. An area that is freed and was never
//! seen allocated was live; its length is that of the next allocation at its offset, else one granule. With the
//! statistics text of the start, the free tail of a chunk and its first free bit are known too.
//!
//! Pages are all populated, hints as after a full refresh without scan hints, and the worker does not run: what the past
//! left in hints and lists cannot be known, so that a few in a thousand placements may be predicted otherwise.
//!
//! # Units
//!
//! Granules in the maps, bytes in the trace.
//!
//! # Cost
//!
//! Three passes over the trace, a table of its frees.
//!
//! # Source
//!
//! Specification 50 section 7.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::follow::{Options as FollowOptions, StatsFacts};
use crate::bitmap;
use crate::engine::linux::{Linux, CHUNK_BYTES_MOST};
use crate::engine::Setup;
use crate::error::TraceError;
use crate::geometry::Geometry;
use crate::state::{md, ChunkState, Hints, State};
use crate::stats_text::PercpuStats;
use crate::trace::{Alloc, Event, Trace};
use crate::units::{Bits, Bytes};
use crate::variant::Preset;

/// What has to be known beside the trace.
#[derive(Clone, Copy, Debug)]
pub struct World<'s> {
    /// Rules.
    pub preset: &'static Preset,
    /// Sizes.
    pub geometry: Geometry,
    /// Statistics from right before the first event.
    pub stats: Option<&'s PercpuStats>,
}

/// A chunk that was there before the first event.
struct Before {
    /// In the order of first appearance.
    order: usize,
    base: u64,
    seen: Vec<u64>,
    alloc: Vec<u64>,
    bound: Vec<u64>,
}

/// The engine in the state that `trace` suggests for its start.
pub fn closed_world(trace: &Trace, world: &World<'_>) -> Result<Linux, TraceError> {
    let bits = world.geometry.pages_to_bits(world.geometry.unit_pages()).0;
    let most = (CHUNK_BYTES_MOST / u64::from(bits / 4).max(1)).max(1) as usize;
    let (lengths, starts) = prior_areas(trace);
    let mut chunks: BTreeMap<u64, Before> = BTreeMap::new();
    // Bases that were made, or destroyed, by the trace: what they hold afterwards is in it.
    let mut made: HashSet<u64> = HashSet::new();
    for record in trace.records() {
        let (base, off, size) = match record.event {
            Event::Create { base: Some(base) } | Event::Destroy { base: Some(base) } => {
                made.insert(base.addr);
                continue;
            }
            Event::Alloc(Alloc { base: Some(base), off, size, .. }) => (base.addr, off, Some(size)),
            Event::Free { base: Some(base), off, .. } => (base.addr, off, None),
            Event::Lost { .. } => break,
            _ => continue,
        };
        if made.contains(&base) {
            continue;
        }
        let granule = world.geometry.min_alloc_size().0;
        let (from, prior) = ((off.0 / granule) as u32, lengths.get(&record.index).copied());
        let mut length = size.or(prior).map_or(0, |size| size.0.div_ceil(granule) as u32);
        if prior.is_some() {
            // All prior areas were live at once: none reaches into the next.
            let next = starts.range((base, off.0 + 1)..=(base, u64::MAX)).next();
            length = next.map_or(length, |(_, next)| length.min(((next - off.0) / granule).max(1) as u32));
        }
        if u64::from(from) + u64::from(length) > u64::from(bits) {
            let line = (record.line != 0).then_some(u64::from(record.line));
            let text = format!("byte {} of chunk {base:#x} is outside a unit of {}", off.0, world.geometry.unit_size());
            return Err(TraceError { line, message: text, text: None });
        }
        let order = chunks.len();
        if order >= most && !chunks.contains_key(&base) {
            let line = (record.line != 0).then_some(u64::from(record.line));
            let text = format!("chunk {base:#x}: more than {most} of {}, the limit", world.geometry.unit_size());
            return Err(TraceError { line, message: text, text: None });
        }
        let chunk = chunks.entry(base).or_insert_with(|| Before::new(order, base, bits));
        match (size, prior) {
            (Some(_), _) => chunk.placed(from, from + length),
            (None, Some(_)) => chunk.freed(from, from + length),
            (None, None) => {}
        }
    }
    if let Some(stats) = world.stats {
        let options = FollowOptions { unit_size: Some(world.geometry.unit_size()), ..FollowOptions::default() };
        let facts = StatsFacts::learn(trace, stats, &options);
        chunks.values_mut().for_each(|chunk| chunk.add_facts(&facts, bits, world.geometry.min_alloc_size()));
    }
    let mut chunks: Vec<Before> = chunks.into_values().collect();
    chunks.sort_unstable_by_key(|chunk| chunk.order);
    engine_of(chunks, world)
}

impl Before {
    fn new(order: usize, base: u64, bits: u32) -> Self {
        let words = bitmap::words_for(bits);
        let mut alloc = vec![0; words];
        bitmap::set_range(&mut alloc, 0, bits);
        let mut bound = vec![0; bitmap::words_for(bits + 1)];
        bitmap::set(&mut bound, 0);
        bitmap::set(&mut bound, bits);
        Self { order, base, seen: vec![0; words], alloc, bound }
    }

    /// An allocation: what was not seen before was free.
    fn placed(&mut self, from: u32, to: u32) {
        let runs: Vec<_> = bitmap::clear_runs(&self.seen, from, to).collect();
        for (a, b) in runs {
            self.clear(a, b);
        }
        bitmap::set_range(&mut self.seen, from, to);
    }

    fn clear(&mut self, from: u32, to: u32) {
        bitmap::clear_range(&mut self.alloc, from, to);
        bitmap::set(&mut self.bound, from);
        bitmap::set(&mut self.bound, to);
    }

    /// A free of what was not allocated in the trace: an area of the start, as far as nothing was seen there.
    fn freed(&mut self, from: u32, to: u32) {
        if bitmap::test(&self.seen, from) {
            return;
        }
        let to = bitmap::next_set(&self.seen, to, from);
        bitmap::set(&mut self.bound, from);
        bitmap::set(&mut self.bound, to);
        bitmap::set_range(&mut self.seen, from, to);
    }

    fn add_facts(&mut self, facts: &StatsFacts, bits: u32, granule: Bytes) {
        let Some(fact) = facts.of(self.base) else { return };
        let bit = |bytes: u64| (bytes / granule.0).min(u64::from(bits)) as u32;
        // The text does not see an area in the very last granule alone; a closed world has none there.
        let (from, first) = (bit(fact.free.0), bit(fact.used_to));
        if from < bits {
            self.clear(from, bits);
        }
        if first < bits && !bitmap::test(&self.seen, first) {
            self.clear(first, first + 1);
        }
    }

    fn state(&self, world: &World<'_>) -> ChunkState {
        let g = &world.geometry;
        let bits = g.pages_to_bits(g.unit_pages()).0;
        let pages = g.unit_pages().0;
        let page_bits = g.page_bits();
        let free = bits - bitmap::count_set(&self.alloc, 0, bits);
        let empty =
            (0..pages).filter(|page| bitmap::count_set(&self.alloc, page * page_bits, (page + 1) * page_bits) == 0);
        let mut populated = vec![0; bitmap::words_for(pages)];
        bitmap::set_range(&mut populated, 0, pages);
        ChunkState {
            base_addr: self.base,
            free_bytes: g.bits_to_bytes(Bits(free)).0 as u32,
            nr_pages: pages,
            nr_populated: pages,
            nr_empty_pop_pages: empty.count() as i32,
            chunk_md: hints(&self.alloc, 0, bits, true),
            md_blocks: (0..bits / g.block_bits())
                .map(|block| hints(&self.alloc, block * g.block_bits(), (block + 1) * g.block_bits(), false))
                .collect(),
            alloc_map: self.alloc.clone(),
            bound_map: self.bound.clone(),
            populated,
            ..ChunkState::default()
        }
    }
}

/// The hints of `from..to` after a full refresh: no scan hint. The kernel does not keep the left edge of a whole chunk.
fn hints(alloc: &[u64], from: u32, to: u32, whole: bool) -> Hints {
    let mut row: Hints = [0; 8];
    let length = (to - from) as i32;
    row[md::NR_BITS] = length;
    row[md::FIRST_FREE] = length;
    for (a, b) in bitmap::clear_runs(alloc, from, to) {
        let (start, run) = ((a - from) as i32, (b - a) as i32);
        if row[md::FIRST_FREE] == length {
            row[md::FIRST_FREE] = start;
        }
        if a == from {
            row[md::LEFT_FREE] = run;
        }
        if b == to {
            row[md::RIGHT_FREE] = run;
        }
        let better = start == 0 || start.trailing_zeros() > row[md::CONTIG_HINT_START].trailing_zeros();
        if run > row[md::CONTIG_HINT] || run == row[md::CONTIG_HINT] && row[md::CONTIG_HINT_START] != 0 && better {
            (row[md::CONTIG_HINT], row[md::CONTIG_HINT_START]) = (run, start);
        }
    }
    if whole {
        (row[md::LEFT_FREE], row[md::RIGHT_FREE]) = (0, 0);
    }
    row
}

/// Places by base address and offset.
type Places = BTreeSet<(u64, u64)>;

/// By event of a free of an area that the trace does not show being allocated: its length. And where these areas begin.
fn prior_areas(trace: &Trace) -> (HashMap<usize, Bytes>, Places) {
    let mut starts = Places::new();
    let mut live: HashSet<(u64, u64)> = HashSet::new();
    let mut waiting: HashMap<(u64, u64), usize> = HashMap::new();
    let mut lengths = HashMap::new();
    for record in trace.records() {
        match record.event {
            Event::Alloc(Alloc { base: Some(base), off, size, .. }) => {
                let place = (base.addr, off.0);
                live.insert(place);
                if let Some(free) = waiting.remove(&place) {
                    lengths.insert(free, size);
                }
            }
            Event::Free { base: Some(base), off, .. } => {
                let place = (base.addr, off.0);
                if !live.remove(&place) {
                    lengths.insert(record.index, Bytes(1));
                    waiting.insert(place, record.index);
                    starts.insert(place);
                }
            }
            _ => {}
        }
    }
    (lengths, starts)
}

fn engine_of(chunks: Vec<Before>, world: &World<'_>) -> Result<Linux, TraceError> {
    let fail = |text: String| TraceError::new(format!("the trace suggests no state: {text}"));
    let rules = world.preset.generation.rules();
    let rules = rules.ok_or_else(|| fail(format!("{} is not an engine of 4.14 or later", world.preset.generation)))?;
    let mut setup = Setup::bare(world.preset, rules, world.geometry);
    setup.async_enabled = false;
    let mut state = State::capture(&Linux::new(&setup));
    state.async_enabled = false;
    // Chunks with an atom size lie in mapped space.
    state.atom_size = Some(world.geometry.page_size().0);
    state.stats = None;
    state.chunks = chunks.iter().map(|chunk| chunk.state(world)).collect();
    state.slots = vec![Vec::new(); state.nr_slots as usize];
    for (index, chunk) in state.chunks.iter().enumerate() {
        let size = if rules.slot_by_contig {
            world.geometry.bits_to_bytes(Bits(chunk.chunk_md[md::CONTIG_HINT] as u32)).0
        } else {
            u64::from(chunk.free_bytes)
        };
        let slot = match size {
            0 => 0,
            _ if size == state.unit_size => state.free_slot,
            _ => Geometry::slot_formula(Bytes(size)),
        };
        state.slots[slot as usize].push(index);
    }
    state.nr_empty_pop_pages = state.chunks.iter().map(|chunk| chunk.nr_empty_pop_pages).sum();
    state.nr_populated = state.chunks.iter().map(|chunk| i64::from(chunk.nr_populated)).sum();
    state.restore(world.preset).map_err(|error| fail(error.to_string()))
}
