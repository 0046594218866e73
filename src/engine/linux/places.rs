//! The areas of a batch of frees, looked up before the first is freed.
//!
//! # Design
//!
//! Pointers become [`Place`]s: equal areas at equal steps are compared with the maps word by word and make one. All must be live, and
//! none must be there twice, which is certain where addresses ascend:
//!
//! ```text
//! pointers  0  2  4  6 | 1  3  5  7       two ascending runs: no step of one leads to an area of the other
//!           5  1  9  3 | 7 | 2 | 8  0     many: the first bit of each is taken for free until all have been looked up
//! ```
//!
//! # Units
//!
//! Bits from the chunk's base.
//!
//! # Cost
//!
//! A pass over the places; where the pointers are in no order, two more over their lines of the allocation map.
//!
//! # Source
//!
//! Specification 20 section 8; the check is that of this package, kernels trust their callers.

use super::Linux;
use crate::bitmap;
use crate::chunk::{Chunk, Role};
use crate::request::{ChunkId, Place};
use crate::units::Bytes;

/// Ascending runs of pointers that are compared with one another.
const RUNS: usize = 4;

impl Linux {
    /// Finds the areas of a batch of frees and appends their places. The address of a pointer in unit zero is `delta` behind it, cut
    /// to the bits of `word`. False if one of the pointers starts no live area, or is there twice; null pointers may be. Nothing is changed.
    pub(crate) fn find_areas(&mut self, ptrs: &[u64], delta: u64, word: u64, places: &mut Vec<Place>) -> bool {
        // As long as addresses ascend none is there twice.
        let mut found = 0;
        let mut ends = [places.len(); RUNS + 1];
        for run in 1..=RUNS {
            let more = self.find_places::<false>(&ptrs[found..], delta, word, places);
            found += more;
            ends[run..].fill(places.len());
            if found == ptrs.len() {
                break;
            }
            if more == 0 {
                return false;
            }
        }
        let runs: [&[Place]; RUNS] = std::array::from_fn(|run| &places[ends[run]..ends[run + 1]]);
        let share_none = |run: usize| runs[..run].iter().all(|before| self.share_none(before, runs[run]));
        if found == ptrs.len() && (1..RUNS).all(share_none) {
            return true;
        }
        places.truncate(ends[0]);
        let found = self.find_places::<true>(ptrs, delta, word, places);
        self.mark_used(&places[ends[0]..]);
        found == ptrs.len()
    }

    /// True if no area is for sure in both of two runs of places, each of ascending addresses.
    fn share_none(&self, a: &[Place], b: &[Place]) -> bool {
        let (mut a, mut b) = [a, b].map(|run| run.iter().filter(|place| place.count > 0).peekable()).into();
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let x_first = if x.chunk == y.chunk {
                if x.may_share(y) {
                    return false;
                }
                x.last() < y.last()
            } else {
                let [x, y] = [x, y].map(|place| self.chunk(place.chunk).map(Chunk::base_addr));
                if x == y {
                    // The chunks of the boot area.
                    return false;
                }
                x < y
            };
            if x_first {
                a.next();
            } else {
                b.next();
            }
        }
        true
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

    /// Lets the first bit of areas be in use again.
    fn mark_used(&mut self, places: &[Place]) {
        for place in places.iter().filter(|place| place.count > 0) {
            let alloc_map = &mut self.chunk_mut(place.chunk).alloc_map;
            place.starts().for_each(|start| bitmap::set(alloc_map, start));
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
