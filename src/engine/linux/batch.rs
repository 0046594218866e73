//! Batches: equal requests and neighbouring frees, several at once.
//!
//! # Design
//!
//! A batch is cut into stretches. Of equal requests in a row one search finds the chunk, and
//! [`Chunk::alloc_run`](crate::chunk::Chunk::alloc_run) takes as many areas there as are sure to come one after the
//! other; of frees, [`Chunk::free_run`](crate::chunk::Chunk::free_run) takes neighbours. What is
//! between is done one by one. The worker is not scheduled inside a stretch, so that the caller, who decides
//! when it runs, sees every moment at which it could.
//!
//! Source: specification 20 sections 4, 5 and 8.

use super::request::Search;
use super::{Linux, EMPTY_LOW};
use crate::chunk::mode::with_mode;
use crate::chunk::Mode;
use crate::request::{ChunkId, Outcome, Reason, Request};
use crate::units::Bytes;

/// What became of the first of equal requests, or the first few.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// `count` areas in one chunk, the first at byte `off`, one every `step` bytes.
    Placed {
        /// The chunk.
        chunk: ChunkId,
        /// Bytes from the chunk's base.
        off: Bytes,
        /// Bytes from one to the next; 0 if there is only one.
        step: Bytes,
        /// How many; at least 1.
        count: u32,
    },
    /// The first one failed.
    Failed(Reason),
}

impl Linux {
    /// Serves the first of `most` equal requests, and as many more as can be served at once. Where the worker is due
    /// by then, it was scheduled by the last one.
    #[inline]
    pub fn alloc_some(&mut self, request: &Request, most: u32) -> Served {
        with_mode!(self.kind, self.ctx, m => self.alloc_some_by(m, request, most))
    }

    #[inline(always)]
    fn alloc_some_by<M: Mode>(&mut self, m: M, request: &Request, most: u32) -> Served {
        let mut task = match self.task(request) {
            Ok(task) => task,
            Err(task) => {
                self.refuse(&task);
                return Served::Failed(Reason::Illegal);
            }
        };
        // With few empty pages every request schedules the worker.
        let most = if self.nr_empty_pop_pages < EMPTY_LOW && !self.balance_pending { 1 } else { most };
        let search = self.search(m, &task, most);
        if let Search::Found(chunk, run) = &search {
            if run.count > 1 {
                self.count_alloc(*chunk, task.size, run.count);
                let bytes = |bits: u32| Bytes(u64::from(bits) << m.granule_shift());
                return Served::Placed { chunk: *chunk, off: bytes(run.off), step: bytes(run.step), count: run.count };
            }
        }
        let progress = self.settle(m, &mut task, search);
        match self.finish_task(m, &mut task, progress) {
            Outcome::Placed { chunk, off } => Served::Placed { chunk, off, step: Bytes(0), count: 1 },
            Outcome::Failed(reason) => Served::Failed(reason),
        }
    }

    /// Where a live area starts: chunk and bit of the byte at `off` of its unit zero address `addr`.
    #[inline]
    pub(crate) fn live_at(&self, addr: u64) -> Option<(ChunkId, u32)> {
        let (id, base) = match self.first.is_some() || self.reserved.is_some() {
            false => self.by_base.find(addr)?,
            true => {
                let id = self.find_chunk(addr)?;
                (id, self.chunk(id)?.base_addr)
            }
        };
        let off = addr.wrapping_sub(base);
        let chunk = self.chunk(id)?;
        let bit = off >> self.granule_shift;
        let live = bit << self.granule_shift == off && bit < u64::from(chunk.nr_bits().0);
        (live && with_mode!(self.kind, self.ctx, m => chunk.is_area_start(m, bit as u32))).then_some((id, bit as u32))
    }

    /// Frees the area that is first in `areas`, and as many more as can be freed at once, no more than `most`; returns how
    /// many. `None`, and nothing changed, if no live area starts there.
    #[inline]
    pub(crate) fn free_some(&mut self, areas: &[(ChunkId, u32)], most: usize) -> Option<usize> {
        with_mode!(self.kind, self.ctx, m => self.free_some_by(m, areas, most))
    }

    #[inline(always)]
    fn free_some_by<M: Mode>(&mut self, m: M, areas: &[(ChunkId, u32)], most: usize) -> Option<usize> {
        let (id, bit) = areas[0];
        let next = areas.get(1).filter(|_| most > 1);
        if next.is_some_and(|(chunk, start)| *chunk == id && *start > bit) {
            if let Some(count) = self.free_neighbours(m, id, &areas[..most.min(areas.len())]) {
                return Some(count);
            }
        }
        let chunk = self.chunk(id)?;
        if !chunk.is_area_start(m, bit) {
            return None;
        }
        self.free_bit(m, id, bit);
        Some(1)
    }

    /// Frees neighbours at once where nothing is scheduled by any of them.
    #[inline(always)]
    fn free_neighbours<M: Mode>(&mut self, m: M, id: ChunkId, areas: &[(ChunkId, u32)]) -> Option<usize> {
        if id.is_reserved() {
            return None;
        }
        let chunk = self.chunk(id)?;
        if chunk.isolated || (m.rules().depopulate && self.should_reclaim(chunk)) {
            return None;
        }
        let from = self.chunk_slot_by(m, id);
        let starts = areas.iter().take_while(|(chunk, _)| *chunk == id).map(|(_, bit)| *bit);
        let (count, _) = self.chunk_mut(id).free_run(m, starts);
        if count == 0 {
            return None;
        }
        self.stats.freed_many(u64::from(count));
        let to = self.chunk_slot_by(m, id);
        if from < to {
            self.slots.push_front(to, id);
        }
        Some(count as usize)
    }
}
