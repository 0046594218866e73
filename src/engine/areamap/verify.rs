//! Rescanning the areas of a chunk.
//!
//! Source: specification 90 section 2.

use super::{AreaMap, GRANULE, IN_USE};
use crate::chunk::Role;
use crate::engine::early::Entry;
use crate::error::{ensure_invariant, Violation};
use crate::geometry::Geometry;

impl AreaMap {
    /// Compares what is kept with the areas.
    pub(super) fn verify_areas(&self, g: &Geometry, entry: &Entry<Self>) -> Result<(), Violation> {
        let map = &self.entries();
        let used = self.used() as usize;
        let (off, in_use) = (|i: usize| map[i] & !IN_USE, |i: usize| map[i] & IN_USE != 0);
        let size = |i: usize| off(i + 1) - off(i);
        let rising = map.windows(2).all(|pair| pair[0] & !IN_USE < pair[1] & !IN_USE);
        ensure_invariant!(rising && off(0) == 0, "A1-increasing", "{map:?}");
        let end = match entry.role {
            Role::Dynamic => g.unit_size().0 as u32,
            _ => g.unit_size().0 as u32 - entry.end_offset,
        };
        ensure_invariant!(map[used] == end | IN_USE, "A2-sentinel", "{:?} ends at {end}", map[used]);
        let merged = (1..used).all(|i| in_use(i - 1) || in_use(i));
        ensure_invariant!(merged, "A3-merged", "two free areas side by side in {map:?}");
        ensure_invariant!(self.used() < self.capacity, "A4-room", "{used} areas, map_alloc {}", self.capacity);
        let free: Vec<u32> = (0..used).filter(|i| !in_use(*i)).map(&size).collect();
        let sum: u32 = free.iter().sum();
        ensure_invariant!(self.free_size == sum, "A5-free-size", "free_size {} but {sum} are free", self.free_size);
        let largest = free.iter().copied().max().unwrap_or(0);
        ensure_invariant!(
            self.contig_hint >= largest,
            "A6-contig-hint",
            "contig_hint {} but {largest} bytes are free together",
            self.contig_hint
        );
        let first_free = self.areas.index(self.first_free);
        let first = (0..used).find(|i| !in_use(*i)).unwrap_or(used) as u32;
        ensure_invariant!(first_free <= first, "A7-first-free", "first_free {first_free} but area {first} is free");
        ensure_invariant!(
            free.iter().all(|size| *size >= GRANULE) && map.iter().all(|off| off & !IN_USE & (GRANULE - 1) == 0),
            "A8-granule",
            "{map:?}"
        );
        let hidden = usize::from(self.has_reserved);
        let live: Vec<u32> = (hidden..used).filter(|i| in_use(*i)).map(size).collect();
        ensure_invariant!(
            live.len() == entry.nr_alloc as usize,
            "A11-nr-alloc",
            "nr_alloc {} but {} areas are in use",
            entry.nr_alloc,
            live.len()
        );
        ensure_invariant!(
            hidden == usize::from(entry.start_offset > 0) && (hidden == 0 || off(1) >= entry.start_offset),
            "A2-sentinel",
            "start_offset {} in {map:?}",
            entry.start_offset
        );
        Ok(())
    }
}
