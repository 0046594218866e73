//! Batches: equal requests and neighbouring frees, several at once.
//!
//! # Design
//!
//! A batch is cut into stretches. Of equal requests in a row one search finds the chunk, and
//! [`Chunk::alloc_run`](crate::chunk::Chunk::alloc_run) takes as many areas there as are sure to come one after the
//! other; of frees, [`Chunk::free_in_block`](crate::chunk::Chunk::free_in_block) takes those in one block. What is
//! between is done one by one. Only the last operation of a stretch can schedule the worker, so that the caller, who decides
//! when it runs, sees every moment at which it could.
//!
//! Source: specification 20 sections 4, 5 and 8.

use super::request::Search;
use super::{slot_of, Linux};
use crate::chunk::mode::with_mode;
use crate::chunk::{Mode, Role};
use crate::request::{ChunkId, Outcome, Reason, Request};
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
        with_mode!(self.kind, self.ctx, m => self.alloc_some_by(m, request, most))
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
                self.count_alloc(*chunk, task.size, run.count);
                self.finish(m, *chunk, Bits(run.off));
                let bytes = |bits: u32| Bytes(u64::from(bits) << m.granule_shift());
                return Served::Placed { chunk: *chunk, off: bytes(run.off), step: bytes(run.step), count: run.count };
            }
        }
        match self.answer_search(m, task, search) {
            Outcome::Placed { chunk, off } => Served::Placed { chunk, off, step: Bytes(0), count: 1 },
            Outcome::Failed(reason) => Served::Failed(reason),
        }
    }

    /// The place of a pointer's address in unit zero: chunk and bit, if a chunk has it and it is a whole granule; whether a
    /// live area starts there is not asked. `near` is the chunk that was found last, and its base.
    #[inline(always)]
    pub(crate) fn place_at(&self, addr: u64, near: &mut (ChunkId, u64)) -> Option<(ChunkId, u32)> {
        let off = addr.wrapping_sub(near.1);
        if off < self.by_base.unit_size && near.0 != ChunkId::RESERVED {
            let bit = off >> self.granule_shift;
            return (bit << self.granule_shift == off).then_some((near.0, bit as u32));
        }
        self.find_place(addr, near)
    }

    /// [`Linux::place_at`] in another chunk, whose words are asked for ahead of their use.
    fn find_place(&self, addr: u64, near: &mut (ChunkId, u64)) -> Option<(ChunkId, u32)> {
        let (id, base) = if self.first.is_some() || self.reserved.is_some() {
            let id = self.find_chunk(addr)?;
            (id, self.chunk(id)?.base_addr)
        } else {
            self.by_base.find(addr)?
        };
        let off = addr.wrapping_sub(base);
        let bit = off >> self.granule_shift;
        let chunk = self.chunk(id)?;
        if bit << self.granule_shift != off || bit >= u64::from(chunk.nr_bits().0) {
            return None;
        }
        chunk.touch(bit as u32, bit as usize >> self.ctx.geometry.block_bits_shift());
        if chunk.role == Role::Dynamic {
            // Addresses of a boot chunk are not its own over a whole unit.
            *near = (id, base);
        }
        Some((id, bit as u32))
    }

    /// Frees the area that is first in `areas`, and as many more as can be freed at once; returns how many. `None`, and nothing changed,
    /// if no live area starts there. Only the last one can have scheduled the worker.
    #[inline]
    pub(crate) fn free_some(&mut self, areas: &[(ChunkId, u32)]) -> Option<usize> {
        with_mode!(self.kind, self.ctx, m => self.free_some_by(m, areas))
    }

    #[inline(always)]
    fn free_some_by<M: Mode>(&mut self, m: M, areas: &[(ChunkId, u32)]) -> Option<usize> {
        let (id, bit) = areas[0];
        let chunk = self.chunk(id)?;
        // No free inside a block changes this.
        if !m.rules().depopulate || !self.should_reclaim(chunk) {
            let Self { ctx, numbers, chunks, reserved, slots, stats, .. } = self;
            let chunk = if id.is_reserved() { reserved.as_deref_mut() } else { chunks[id.0 as usize].as_deref_mut() };
            let chunk = chunk.expect("found above");
            let by_bytes = !m.rules().slot_by_contig && !chunk.immutable();
            let from = if by_bytes { slot_of(m, ctx, numbers, chunk) } else { 0 };
            let (count, _) = chunk.free_in_block(m, id, areas);
            if count > 0 {
                stats.freed_many(u64::from(count));
                let to = if by_bytes { slot_of(m, ctx, numbers, chunk) } else { 0 };
                if from < to {
                    slots.push_front(to, id);
                }
                return Some(count as usize);
            }
        }
        if !self.chunk(id)?.is_area_start(m, bit) {
            return None;
        }
        self.free_bit(m, id, bit);
        Some(1)
    }
}
