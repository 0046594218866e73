//! Batches: equal requests and neighbouring frees, several at once.
//!
//! # Design
//!
//! A batch is cut into stretches. Of equal requests in a row one search finds the chunk, and
//! [`Chunk::alloc_run`](crate::chunk::Chunk::alloc_run) takes as many areas there as are sure to come one after the
//! other; of frees, [`Chunk::free_in_block`](crate::chunk::Chunk::free_in_block) takes those in one block, and
//! [`Chunk::free_blocks`](crate::chunk::Chunk::free_blocks) those of whole blocks. What is between is done one by one.
//! Only the last operation of a stretch can schedule the worker, so that the caller, who decides when it runs, sees every moment
//! at which it could.
//!
//! Before that, the areas of a batch of frees are looked up, all of them (`places`).
//!
//! Source: specification 20 sections 4, 5 and 8.

use super::request::Search;
use super::{slot_of, Linux};
use crate::chunk::mode::with_meter;
use crate::chunk::Mode;
use crate::cost::Counter;
use crate::request::{ChunkId, Outcome, Place, Reason, Request};
use crate::units::{Bits, Bytes};

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
    /// Serves the first of `most` equal requests, and as many more as can be served at once. Only the last
    /// one can have scheduled the worker.
    #[inline]
    pub fn alloc_some(&mut self, request: &Request, most: u32) -> Served {
        with_meter!(self, m => self.alloc_some_by(m, request, most))
    }

    #[inline(always)]
    fn alloc_some_by<M: Mode>(&mut self, m: M, request: &Request, most: u32) -> Served {
        let task = match self.task(request) {
            Ok(task) => task,
            Err(task) => {
                self.refuse(&task);
                return Served::Failed(Reason::Illegal);
            }
        };
        let search = self.search(m, &task, most);
        if let Search::Found(chunk, run) = &search {
            if run.count > 1 {
                self.count_alloc(m, *chunk, &task, run);
                self.finish(m, *chunk, &task, Bits(run.off));
                let cleared = u64::from(run.count - 1) * task.size.0 * self.backend.nr_cpus();
                m.tally().count(|costs| costs.cleared_bytes += cleared);
                let bytes = |bits: u32| Bytes(u64::from(bits) << m.granule_shift());
                return Served::Placed { chunk: *chunk, off: bytes(run.off), step: bytes(run.step), count: run.count };
            }
        }
        match self.answer_search(m, task, search) {
            Outcome::Placed { chunk, off } => Served::Placed { chunk, off, step: Bytes(0), count: 1 },
            Outcome::Failed(reason) => Served::Failed(reason),
        }
    }

    /// Frees the live area that is first in `areas`, and as many more as can be freed at once, up to `most`; returns how many, and how
    /// many places are done; of one that is done in part the areas are taken off. All must be live, and the first place is not null. Only the
    /// last area can have scheduled the worker.
    #[inline]
    pub(crate) fn free_some(&mut self, areas: &mut [Place], most: u32) -> (u32, usize) {
        let place = areas[0];
        if place.step == place.len {
            let count = with_meter!(self, m => self.free_blocks(m, place, most));
            if count > 0 {
                areas[0].pass(count);
                return (count, usize::from(count == place.count));
            }
        }
        with_meter!(self, m => self.free_some_by(m, areas, most))
    }

    #[inline(always)]
    fn free_some_by<M: Mode>(&mut self, m: M, areas: &mut [Place], most: u32) -> (u32, usize) {
        let Place { chunk: id, bit, count: first, len, .. } = areas[0];
        let chunk = self.chunk(id).expect("the chunk of a live area");
        // No free inside a block changes this.
        if !M::Tally::FULL && (!m.rules().depopulate || !self.should_reclaim(chunk)) {
            let Self { ctx, numbers, chunks, reserved, slots, stats, .. } = self;
            let chunk = if id.is_reserved() { reserved.as_deref_mut() } else { chunks[id.0 as usize].as_deref_mut() };
            let chunk = chunk.expect("found above");
            let by_bytes = !m.rules().slot_by_contig && !chunk.immutable();
            let from = if by_bytes { slot_of(m, ctx, numbers, chunk) } else { 0 };
            let (count, done) = chunk.free_in_block(m, areas, most);
            if count > 0 {
                stats.freed_many(u64::from(count));
                let to = if by_bytes { slot_of(m, ctx, numbers, chunk) } else { 0 };
                if from < to {
                    slots.push_front(to, id);
                }
                return (count, done);
            }
        }
        areas[0].pass(1);
        self.free_bit(m, id, bit, Some(len));
        (1, usize::from(first == 1))
    }

    /// Frees areas at `place`, up to `most`, that fill blocks behind the only free run of their chunk, and no more than the worker is
    /// scheduled by; returns how many. 0 if there is none.
    #[inline(never)]
    fn free_blocks<M: Mode>(&mut self, m: M, place: Place, most: u32) -> u32 {
        let chunk = self.chunk(place.chunk).expect("the chunk of a live area");
        let mut blocks = chunk.blocks_behind_run(m, place, most);
        if blocks > 0 && m.rules().depopulate {
            blocks = blocks.min(self.pages_to_reclaim(chunk));
        }
        if blocks == 0 || M::Tally::FULL {
            return 0;
        }
        let count = self.change(m, place.chunk, |chunk| chunk.free_blocks(m, place, blocks));
        self.stats.freed_many(u64::from(count));
        self.look_at_freed(m, place.chunk);
        count
    }
}
