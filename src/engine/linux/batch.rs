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
//! Before that, the areas of a batch of frees are looked up, all of them: equal areas at equal steps are compared with the maps
//! word by word and make one [`Place`].
//!
//! Source: specification 20 sections 4, 5 and 8.

use super::request::Search;
use super::{slot_of, Linux};
use crate::bitmap;
use crate::chunk::mode::with_meter;
use crate::chunk::{Mode, Role};
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

    /// Finds the areas of a batch of frees and appends their places. The address of a pointer in unit zero is `delta` behind it, cut
    /// to the bits of `word`. False if one of the pointers starts no live area, or is there twice; null pointers may be. Nothing is changed.
    pub(crate) fn find_areas(&mut self, ptrs: &[u64], delta: u64, word: u64, places: &mut Vec<Place>) -> bool {
        // As long as addresses ascend none is there twice.
        let ascending = self.find_places::<false>(ptrs, delta, word, places);
        let found = ascending == ptrs.len() || {
            self.mark(places, false);
            ascending + self.find_places::<true>(&ptrs[ascending..], delta, word, places) == ptrs.len()
        };
        if ascending < ptrs.len() {
            self.mark(places, true);
        }
        found
    }

    /// Appends the places of areas, until a pointer starts none or its address does not ascend; returns of how many pointers. With `MARK` they
    /// need not ascend, but the first bit of each is taken for free from then on, so that none is found twice.
    fn find_places<const MARK: bool>(&mut self, ptrs: &[u64], delta: u64, word: u64, places: &mut Vec<Place>) -> usize {
        let (granule_shift, unit_size) = (self.granule_shift, self.by_base.unit_size);
        let (unit_bits, off_granule) = ((unit_size >> granule_shift) as u32, !(u64::MAX << granule_shift));
        // The chunk that was found last, if its addresses are its own over a whole unit.
        let (mut near_base, mut near_size, mut near_id) = (0, 0, ChunkId::RESERVED);
        let whole_address = word == u64::MAX;
        let mut last = 0;
        let mut left = ptrs;
        while let [ptr, rest @ ..] = left {
            if *ptr == 0 {
                places.push(Place::NULL);
                left = rest;
                continue;
            }
            let addr = ptr.wrapping_add(delta) & word;
            if !MARK && addr <= last {
                break;
            }
            last = addr;
            let mut off = addr.wrapping_sub(near_base);
            if off >= near_size {
                let Some((id, base)) = self.find_base(addr) else { break };
                off = addr.wrapping_sub(base);
                let dynamic = self.chunk(id).is_some_and(|chunk| chunk.role == Role::Dynamic);
                (near_base, near_size, near_id) = (base, if dynamic { unit_size } else { 0 }, id);
                if !dynamic && self.live_bit(id, Bytes(off)).is_err() {
                    break;
                }
            }
            let bit = (off >> granule_shift) as u32;
            let chunk = self.chunk_mut(near_id);
            let Some(len) = area_len(&chunk.alloc_map, &chunk.bound_map, bit) else { break };
            if off & off_granule != 0 {
                break;
            }
            let mut place = Place { chunk: near_id, bit, count: 1, len, step: 0 };
            left = rest;
            // Often equal areas follow at equal steps.
            if let [next, third, ..] = rest {
                let step = next.wrapping_sub(*ptr);
                if third.wrapping_sub(*next) == step && step < near_size.saturating_sub(off) && whole_address {
                    let bits = (step >> granule_shift) as u32;
                    if bits >= len && step & off_granule == 0 {
                        // All of the last one must be in the unit.
                        let most = equal_steps(rest, step).min((unit_bits - bit - len) / bits + 1);
                        let count = bitmap::count_areas(&chunk.alloc_map, &chunk.bound_map, bit, len, bits, most);
                        if count > 1 {
                            (place.count, place.step) = (count, bits);
                            left = &rest[count as usize - 1..];
                            last = addr + u64::from(count - 1) * step;
                        }
                    }
                }
            }
            if MARK {
                place.starts().for_each(|start| bitmap::clear(&mut chunk.alloc_map, start));
            }
            places.push(place);
        }
        ptrs.len() - left.len()
    }

    /// Lets the first bit of areas be in use or free.
    fn mark(&mut self, places: &[Place], used: bool) {
        for place in places.iter().filter(|place| place.count > 0) {
            let alloc_map = &mut self.chunk_mut(place.chunk).alloc_map;
            for start in place.starts() {
                if used {
                    bitmap::set(alloc_map, start);
                } else {
                    bitmap::clear(alloc_map, start);
                }
            }
        }
    }

    /// The chunk that an address belongs to, and the base of its bits.
    #[inline(always)]
    fn find_base(&self, addr: u64) -> Option<(ChunkId, u64)> {
        if self.first.is_some() || self.reserved.is_some() {
            let id = self.find_chunk(addr)?;
            return Some((id, self.chunk(id)?.base_addr));
        }
        self.by_base.find(addr)
    }

    /// Reads what the frees of `areas` will need, so that they wait for it together and not one after the other.
    pub(crate) fn touch(&self, areas: &[Place]) {
        let shift = self.ctx.geometry.block_bits_shift();
        for area in areas.iter().filter(|area| area.count > 0) {
            if let Some(chunk) = self.chunk(area.chunk) {
                chunk.touch(area.bit, (area.bit >> shift) as usize);
            }
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

/// Most areas of a [`Place`]: what is looked at in vain must not grow with the batch.
const MOST_EQUAL: usize = 64;

/// The length of the live area that starts at a bit.
#[inline(always)]
fn area_len(alloc_map: &[u64], bound_map: &[u64], bit: u32) -> Option<u32> {
    let (word, shift) = ((bit / bitmap::WORD_BITS) as usize, bit % bitmap::WORD_BITS);
    if alloc_map.get(word)? >> shift & 1 == 0 {
        return None;
    }
    let bound = bitmap::window_from(bound_map, bit);
    if bound & 1 == 0 {
        return None;
    }
    if bound != 1 {
        return Some((bound >> 1).trailing_zeros() + 1);
    }
    Some(bitmap::next_set(bound_map, bitmap::WORD_BITS * bound_map.len() as u32, bit + bitmap::WORD_BITS) - bit)
}

/// How many pointers follow one another at equal steps, the two of the first step counted in.
#[inline(always)]
fn equal_steps(behind: &[u64], step: u64) -> u32 {
    let mut equal = 2;
    for pair in behind.windows(2).take(MOST_EQUAL - 2) {
        if pair[1].wrapping_sub(pair[0]) != step {
            break;
        }
        equal += 1;
    }
    equal
}
