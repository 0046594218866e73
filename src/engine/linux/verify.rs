//! Rescanning the whole allocator: lists, totals and every chunk.
//!
//! The names are those of `docs/design.md`. Valid at rest: between an area's allocation and its
//! population the page counts are low.
//!
//! Source: specification 90 section 1.

use std::collections::BTreeMap;

use super::Linux;
use crate::chunk::{Chunk, Context, Role};
use crate::error::{ensure_invariant, Violation};
use crate::request::ChunkId;
use crate::units::Bytes;

impl Linux {
    /// Rescans everything and names the first invariant that does not hold.
    pub fn verify(&self) -> Result<(), Violation> {
        self.verify_chunks(Chunk::verify)?;
        self.verify_lists()?;
        self.verify_totals()?;
        self.verify_slots()?;
        self.verify_stats()
    }

    /// The part of [`Linux::verify`] without hints and maxima: what a state from elsewhere must fulfil before
    /// anything may run on it. A kernel's hints are taken as they are.
    pub fn verify_accounts(&self) -> Result<(), Violation> {
        self.verify_chunks(Chunk::verify_accounts)?;
        self.verify_lists()?;
        self.verify_totals()
    }

    fn verify_chunks(&self, verify: fn(&Chunk, &Context) -> Result<(), Violation>) -> Result<(), Violation> {
        for id in self.chunk_ids() {
            let chunk = self.chunk(id).expect("listed by chunk_ids");
            verify(chunk, &self.ctx).map_err(|violation| Violation {
                invariant: violation.invariant,
                detail: format!("chunk {id}: {}", violation.detail),
            })?;
        }
        Ok(())
    }

    fn numbered(&self) -> impl Iterator<Item = (ChunkId, &Chunk)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.filter_map(|(id, chunk)| Some((ChunkId(id as u32), chunk.as_deref()?)))
    }

    fn verify_lists(&self) -> Result<(), Violation> {
        let mut lists: BTreeMap<ChunkId, u32> = BTreeMap::new();
        for slot in 0..self.slots.len() {
            for id in self.slots.iter(slot) {
                ensure_invariant!(self.chunk(id).is_some(), "S1-one-list", "list {slot} has {id}, which is gone");
                let other = lists.insert(id, slot);
                ensure_invariant!(other.is_none(), "S1-one-list", "chunk {id} is on lists {other:?} and {slot}");
            }
        }
        ensure_invariant!(
            !lists.contains_key(&ChunkId::RESERVED),
            "S2-reserved-unlisted",
            "the reserved chunk is on a list"
        );
        for (id, chunk) in self.numbered() {
            let list = lists.get(&id).copied();
            ensure_invariant!(list.is_some(), "S1-one-list", "chunk {id} is on no list");
            let list = list.expect("checked above");
            let isolated_list = Some(list) == self.numbers.sidelined || Some(list) == self.numbers.to_depopulate;
            ensure_invariant!(
                chunk.isolated == isolated_list && (!chunk.isolated || chunk.role == Role::Dynamic),
                "S5-isolated",
                "chunk {id} on list {list}, isolated {}",
                chunk.isolated
            );
            let whole = chunk.free_bytes() == self.ctx.geometry.unit_size();
            ensure_invariant!(
                chunk.isolated || whole || list != self.numbers.free,
                "S4-fully-free",
                "chunk {id} with {} free on list {list}",
                chunk.free_bytes()
            );
        }
        Ok(())
    }

    /// Every chunk is on the list of its hints.
    fn verify_slots(&self) -> Result<(), Violation> {
        for (id, chunk) in self.numbered().filter(|(_, chunk)| !chunk.isolated) {
            let list = self.slots.slot_of(id).unwrap_or(u32::MAX);
            let own = self.chunk_slot(chunk);
            let moved_away = list == 0
                && self.ctx.rules.sideline_failures
                && (1..self.thresholds.slot_fail_threshold).contains(&own);
            ensure_invariant!(
                list == own || moved_away,
                "S3-list-is-slot",
                "chunk {id} is on list {list}, its hints say {own}"
            );
            let whole = chunk.free_bytes() == self.ctx.geometry.unit_size();
            ensure_invariant!(
                whole == (list == self.numbers.free),
                "S4-fully-free",
                "chunk {id} with {} free on list {list}",
                chunk.free_bytes()
            );
        }
        Ok(())
    }

    fn verify_totals(&self) -> Result<(), Violation> {
        let active = self.numbered().filter(|(_, chunk)| !chunk.isolated);
        let empty: i32 = active.map(|(_, chunk)| chunk.nr_empty_pop_pages).sum();
        ensure_invariant!(
            self.nr_empty_pop_pages == empty,
            "P2-empty-pages",
            "nr_empty_pop_pages {} but the chunks have {empty}",
            self.nr_empty_pop_pages
        );
        let dynamic = self.numbered().filter(|(_, chunk)| chunk.role == Role::Dynamic);
        let populated: u32 = self.boot_populated + dynamic.map(|(_, chunk)| chunk.nr_populated).sum::<u32>();
        ensure_invariant!(
            self.nr_populated == populated,
            "P1-nr-populated",
            "nr_populated {} but the chunks have {populated}",
            self.nr_populated
        );
        ensure_invariant!(
            self.async_enabled || !self.balance_pending,
            "E8-pending",
            "the worker is scheduled before late boot"
        );
        let mut bases: Vec<u64> =
            self.numbered().filter(|(_, c)| c.role == Role::Dynamic).map(|(_, c)| c.base_addr).collect();
        bases.sort_unstable();
        let unit = self.ctx.geometry.unit_size().0;
        ensure_invariant!(
            bases.windows(2).all(|pair| pair[1] - pair[0] >= unit),
            "E6-bases-disjoint",
            "two chunks overlap in address space"
        );
        let s = &self.stats;
        let live: u64 = self.chunk_ids().filter_map(|id| self.chunk(id)).map(|c| u64::from(c.nr_alloc)).sum();
        ensure_invariant!(s.nr_cur_alloc == live, "E1-nr-cur-alloc", "{s:?} but {live} live areas");
        Ok(())
    }

    fn verify_stats(&self) -> Result<(), Violation> {
        let s = &self.stats;
        ensure_invariant!(s.nr_alloc - s.nr_dealloc == s.nr_cur_alloc, "E2-nr-dealloc", "{s:?}");
        let listed = self.numbered().count() as u32;
        ensure_invariant!(s.nr_chunks == listed, "E3-nr-chunks", "{s:?} but {listed} chunks are listed");
        let largest = self.chunk_ids().filter_map(|id| self.chunk(id)).map(|c| c.max_alloc_size()).max();
        ensure_invariant!(
            s.nr_cur_alloc <= s.nr_max_alloc
                && s.nr_chunks <= s.nr_max_chunks
                && largest.is_none_or(|largest| largest <= s.max_alloc_size),
            "E4-maxima",
            "{s:?}, largest of a chunk {largest:?}"
        );
        let unused = s.min_alloc_size == self.ctx.geometry.unit_size() && s.max_alloc_size == Bytes(0);
        ensure_invariant!(unused || s.min_alloc_size <= s.max_alloc_size, "E5-sizes", "{s:?}");
        Ok(())
    }
}
