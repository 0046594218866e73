//! Rescanning the whole allocator: lists, totals and every chunk.
//!
//! The names are those of `docs/design.md`.
//!
//! Source: specification 90 sections 1 to 3.

use std::collections::BTreeMap;

use super::{Early, Entry, Space};
use crate::bitmap;
use crate::chunk::Role;
use crate::error::{ensure_invariant, Violation};
use crate::request::ChunkId;
use crate::units::Bytes;

impl<S: Space> Early<S> {
    /// Rescans everything and names the first invariant that does not hold.
    pub fn verify(&self) -> Result<(), Violation> {
        for (id, entry) in self.with_reserved() {
            self.verify_entry(entry).map_err(|violation| Violation {
                invariant: violation.invariant,
                detail: format!("chunk {id}: {}", violation.detail),
            })?;
        }
        self.verify_lists()?;
        self.verify_totals()?;
        self.verify_stats()
    }

    fn verify_entry(&self, entry: &Entry<S>) -> Result<(), Violation> {
        entry.space.verify(&self.geometry, entry)?;
        let pages = &entry.pages;
        let counted = bitmap::count_set(&pages.words, 0, pages.nr_pages);
        ensure_invariant!(
            counted == pages.nr_populated,
            "C6-nr-populated",
            "nr_populated {} but {counted} pages are",
            pages.nr_populated
        );
        ensure_invariant!(
            entry.role == Role::Dynamic || counted == pages.nr_pages,
            "C7-immutable-populated",
            "{counted} of {} pages of a boot chunk are populated",
            pages.nr_pages
        );
        Ok(())
    }

    fn verify_lists(&self) -> Result<(), Violation> {
        let mut lists: BTreeMap<ChunkId, u32> = BTreeMap::new();
        for slot in 0..self.slots.len() {
            for id in self.slots.iter(slot) {
                ensure_invariant!(!id.is_reserved(), "S2-reserved-unlisted", "the reserved chunk is on list {slot}");
                ensure_invariant!(self.entry(id).is_some(), "S1-one-list", "list {slot} has {id}, which is gone");
                let other = lists.insert(id, slot);
                ensure_invariant!(other.is_none(), "S1-one-list", "chunk {id} is on lists {other:?} and {slot}");
            }
        }
        for (id, entry) in self.numbered() {
            let list = lists.get(&id).copied();
            let own = self.chunk_slot(entry);
            ensure_invariant!(list.is_some(), "S1-one-list", "chunk {id} is on no list");
            ensure_invariant!(
                list == Some(own),
                S::SLOT_INVARIANT,
                "chunk {id} is on list {list:?}, its hints say {own}"
            );
            let free = entry.space.free_bytes(&self.geometry);
            ensure_invariant!(
                (free == self.geometry.unit_size()) == (own == self.numbers.free),
                "S4-fully-free",
                "chunk {id} with {free} free on list {own}"
            );
        }
        let mut queued: Vec<ChunkId> = self.growth.iter().copied().collect();
        queued.sort_unstable();
        let flagged: Vec<ChunkId> = self.with_reserved().filter(|(_, e)| e.space.queued()).map(|(id, _)| id).collect();
        ensure_invariant!(queued == flagged, "A9-queued", "queue {:?}, flags of {flagged:?}", self.growth);
        Ok(())
    }

    /// Every chunk, ascending.
    pub(super) fn with_reserved(&self) -> impl Iterator<Item = (ChunkId, &Entry<S>)> {
        self.numbered().chain(self.reserved.as_deref().map(|entry| (ChunkId::RESERVED, entry)))
    }

    fn verify_totals(&self) -> Result<(), Violation> {
        if S::COUNTS_PAGES {
            let empty: i32 = self.numbered().map(|(_, entry)| entry.space.nr_empty_pop_pages()).sum();
            ensure_invariant!(
                self.nr_empty_pop_pages == empty,
                "P2-empty-pages",
                "nr_empty_pop_pages {} but the chunks have {empty}",
                self.nr_empty_pop_pages
            );
        }
        ensure_invariant!(
            self.async_enabled || !self.balance_pending,
            "E8-pending",
            "the worker is scheduled before late boot"
        );
        let mut bases: Vec<u64> = self.dynamic().map(|(_, entry)| entry.base_addr).collect();
        bases.sort_unstable();
        let unit = self.geometry.unit_size().0;
        ensure_invariant!(
            bases.windows(2).all(|pair| pair[1] - pair[0] >= unit),
            "E6-bases-disjoint",
            "two chunks overlap in address space"
        );
        Ok(())
    }

    fn verify_stats(&self) -> Result<(), Violation> {
        let s = &self.stats;
        let live: u64 = self.with_reserved().map(|(_, entry)| u64::from(entry.nr_alloc)).sum();
        ensure_invariant!(s.nr_cur_alloc == live, "E1-nr-cur-alloc", "{s:?} but {live} live areas");
        ensure_invariant!(s.nr_alloc - s.nr_dealloc == s.nr_cur_alloc, "E2-nr-dealloc", "{s:?}");
        let listed = self.numbered().count() as u32;
        ensure_invariant!(s.nr_chunks == listed, "E3-nr-chunks", "{s:?} but {listed} chunks are listed");
        let largest = self.with_reserved().map(|(_, entry)| u64::from(entry.max_alloc_size)).max();
        ensure_invariant!(
            s.nr_cur_alloc <= s.nr_max_alloc
                && s.nr_chunks <= s.nr_max_chunks
                && largest.is_none_or(|largest| largest <= s.max_alloc_size.0),
            "E4-maxima",
            "{s:?}, largest of a chunk {largest:?}"
        );
        let unused = s.min_alloc_size == self.geometry.unit_size() && s.max_alloc_size == Bytes(0);
        ensure_invariant!(unused || s.min_alloc_size <= s.max_alloc_size, "E5-sizes", "{s:?}");
        Ok(())
    }
}
