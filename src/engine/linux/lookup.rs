//! From addresses to chunks.
//!
//! # Design
//!
//! A table with an entry for each stretch of address space, which is the largest power of two in a unit: in a stretch
//! there begins at most one chunk, and a chunk reaches at most into the two stretches behind that of its base.
//!
//! ```text
//! stretch   |  0   |  1   |  2   |  3   |  4   |
//! chunks       [---7---]    [---9---]              units of one to two stretches
//! table        7       -      9      -      -
//! ```
//!
//! Where chunks are scattered so that the table would be much larger than their number, a tree is searched instead; it is
//! kept in any case.
//!
//! # Cost
//!
//! Up to three entries of 16 bytes, next to each other; in the tree, a search.
//!
//! # Source
//!
//! Specification 33 section 3 says what is to be found, not how.

use std::collections::BTreeMap;
use std::fmt;

use crate::request::ChunkId;

/// Entries of the table for each chunk, at most, beside [`SPARE`].
const SPREAD: u64 = 8;
const SPARE: u64 = 1024;

#[derive(Clone, Copy)]
struct Entry {
    base: u64,
    id: ChunkId,
}

/// No chunk begins here: no address is at or above it.
const NONE: Entry = Entry { base: u64::MAX, id: ChunkId::RESERVED };

/// Chunks by base address.
#[derive(Clone)]
pub struct Lookup {
    tree: BTreeMap<u64, ChunkId>,
    /// Bytes of a chunk.
    pub unit_size: u64,
    /// log2 of the bytes of a stretch.
    shift: u32,
    /// Stretch of the first entry.
    low: u64,
    /// Empty while chunks are scattered.
    table: Vec<Entry>,
}

/// What is found, not how it is kept.
impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tree.fmt(f)
    }
}

impl Lookup {
    /// No chunks; units of `unit_size` bytes.
    pub fn new(unit_size: u64) -> Self {
        Self { tree: BTreeMap::new(), unit_size, shift: unit_size.ilog2(), low: 0, table: Vec::new() }
    }

    /// The chunk that holds an address, and its base.
    #[inline]
    pub fn find(&self, addr: u64) -> Option<(ChunkId, u64)> {
        let at = (addr >> self.shift).wrapping_sub(self.low) as usize;
        // The entry of the address, and two below; which of them is not a matter of branches that nobody foresees.
        if let Some([second, first, own]) = self.table.get(at.wrapping_sub(2)..).and_then(<[Entry]>::first_chunk) {
            let below = if addr >= first.base { first } else { second };
            let hit = if addr >= own.base { own } else { below };
            let inside = !hit.id.is_reserved() && addr.wrapping_sub(hit.base) < self.unit_size;
            return inside.then_some((hit.id, hit.base));
        }
        // Outside the table, which has room on both sides unless that ends, or there is none.
        let (base, id) = self.tree.range(..=addr).next_back()?;
        (addr - base < self.unit_size).then_some((*id, *base))
    }

    /// The chunk with this base.
    pub fn at_base(&self, base: u64) -> Option<ChunkId> {
        self.tree.get(&base).copied()
    }

    /// The base of the last chunk that begins less than `len` bytes before or behind `base`.
    pub fn last_within(&self, base: u64, len: u64) -> Option<u64> {
        let reach = len.saturating_sub(1);
        let near = base.saturating_sub(reach)..=base.saturating_add(reach);
        self.tree.range(near).next_back().map(|(base, _)| *base)
    }

    /// Adds a chunk.
    pub fn insert(&mut self, base: u64, id: ChunkId) {
        self.tree.insert(base, id);
        let at = (base >> self.shift).wrapping_sub(self.low);
        if let Some(entry) = self.table.get_mut(at as usize).filter(|entry| entry.base == u64::MAX) {
            *entry = Entry { base, id };
        } else if !self.table.is_empty() || self.tree.len().is_power_of_two() {
            self.rebuild();
        }
    }

    /// Removes the chunk at a base.
    pub fn remove(&mut self, base: u64) {
        self.tree.remove(&base);
        let at = (base >> self.shift).wrapping_sub(self.low);
        if let Some(entry) = self.table.get_mut(at as usize).filter(|entry| entry.base == base) {
            *entry = NONE;
        }
    }

    /// Gives every chunk another number.
    pub fn renumber(&mut self, to: impl Fn(ChunkId) -> ChunkId) {
        self.tree.values_mut().for_each(|id| *id = to(*id));
        self.table.iter_mut().filter(|entry| entry.base != u64::MAX).for_each(|entry| entry.id = to(entry.id));
    }

    /// Makes the table anew, with as much room again on both sides; none if that is too much.
    fn rebuild(&mut self) {
        self.table = Vec::new();
        let (Some((first, _)), Some((last, _))) = (self.tree.first_key_value(), self.tree.last_key_value()) else {
            return;
        };
        let (first, last) = (first >> self.shift, last >> self.shift);
        let spread = last - first;
        let room = spread / 2 + 16;
        if spread > SPREAD * self.tree.len() as u64 + SPARE {
            return;
        }
        self.low = first.saturating_sub(room);
        let mut table = vec![NONE; (last + room - self.low + 1) as usize];
        for (base, id) in &self.tree {
            let entry = &mut table[((base >> self.shift) - self.low) as usize];
            if entry.base != u64::MAX {
                // Overlapping units: only the tree tells them apart.
                return;
            }
            *entry = Entry { base: *base, id: *id };
        }
        self.table = table;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition.
    fn find(chunks: &[(u64, u32)], unit: u64, addr: u64) -> Option<(ChunkId, u64)> {
        chunks.iter().find(|(base, _)| *base <= addr && addr - base < unit).map(|(base, id)| (ChunkId(*id), *base))
    }

    proptest! {
        #[test]
        fn addresses_lead_to_their_chunk(
            unit in (1u64..40).prop_map(|pages| pages * 4096), gaps in prop::collection::vec((0u64..3, any::<bool>()), 1..60),
            far in any::<bool>(), down in any::<bool>(), looks in prop::collection::vec((any::<prop::sample::Index>(), 0u64..400_000), 100),
        ) {
            let mut lookup = Lookup::new(unit);
            let mut chunks: Vec<(u64, u32)> = Vec::new();
            let mut base = if down { u64::MAX / 2 } else { 1 << 30 };
            for (number, (gap, keep)) in gaps.into_iter().enumerate() {
                let next = unit + gap * 4096 + if far { 1 << 35 } else { 0 };
                base = if down { base - next } else { base + next };
                lookup.insert(base, ChunkId(number as u32));
                if keep {
                    chunks.push((base, number as u32));
                } else {
                    lookup.remove(base);
                }
            }
            for (near, by) in looks {
                let addr = chunks.get(near.index(chunks.len() + 1)).map_or(base, |(base, _)| *base) + by - 1000;
                prop_assert_eq!(lookup.find(addr), find(&chunks, unit, addr));
            }
            lookup.renumber(|id| ChunkId(id.0 + 7));
            for (base, id) in &chunks {
                prop_assert_eq!(lookup.find(base + unit - 1), Some((ChunkId(id + 7), *base)));
                prop_assert_eq!(lookup.at_base(*base), Some(ChunkId(id + 7)));
            }
        }
    }
}
