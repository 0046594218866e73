//! Rescanning the areas of a chunk.
//!
//! Source: specification 90 section 2.

use super::{AreaMap, GRANULE, IN_USE};
use crate::bitmap;
use crate::chunk::Role;
use crate::engine::early::Entry;
use crate::error::{ensure_invariant, Violation};
use crate::geometry::Geometry;

impl AreaMap {
    /// Compares what is kept with the areas.
    pub(super) fn verify_areas(&self, g: &Geometry, entry: &Entry<Self>) -> Result<(), Violation> {
        if self.is_sound(g, entry) {
            return Ok(());
        }
        self.find_violation(g, entry)
    }

    /// The same word by word, without a word on what is wrong.
    fn is_sound(&self, g: &Geometry, entry: &Entry<Self>) -> bool {
        let (areas, used) = (&self.areas, self.used());
        let Some((free, nr_free)) = areas.free_map() else { return false };
        let (shift, bits) = (areas.shift(), areas.end() >> areas.shift());
        let first = areas.next_free(0).map_or(areas.end(), |first| first.start);
        let end = match entry.role {
            Role::Dynamic => g.unit_size().0 as u32,
            _ => g.unit_size().0 as u32 - entry.end_offset,
        };
        let hidden = u32::from(self.has_reserved);
        areas.has_start(0)
            && areas.end() == end
            && used < self.capacity
            && self.free_size == bitmap::count_set(&free, 0, bits) << shift
            && !bitmap::has_run_within(&free, 0, bits, (self.contig_hint >> shift) + 1)
            && (areas.has_start(self.first_free) || self.first_free == areas.end())
            && self.first_free <= first
            && (hidden == 0 || !areas.is_free(0))
            && used.checked_sub(nr_free + hidden) == Some(entry.nr_alloc)
            && (hidden == 1) == (entry.start_offset > 0)
            && (hidden == 0 || areas.end_of(0) >= entry.start_offset)
    }

    /// The first invariant that does not hold, by name.
    pub(super) fn find_violation(&self, g: &Geometry, entry: &Entry<Self>) -> Result<(), Violation> {
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
        let is_start = self.areas.has_start(self.first_free) || self.first_free == self.areas.end();
        ensure_invariant!(is_start, "A7-first-free", "no area starts at first_free, byte {}", self.first_free);
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
