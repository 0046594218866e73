//! Requests and frees.
//!
//! # Source
//!
//! Specification 20 sections 3 to 8, 21 sections 4 and 6, 22.

use super::hints::up;
use super::{Gen, Naive, RESERVED};
use crate::chunk::Role;
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::units::Bytes;

impl Naive {
    pub(super) fn serve(&mut self, request: &Request) -> Outcome {
        // 20 section 3.
        let m = self.sizes.m as u64;
        let page = self.geometry.page_size().0;
        let align = request.align.0.max(m);
        let size = request.size.0.wrapping_add(m - 1) / m * m;
        let max = (32 << 10_u64).max(page).min(self.unit_size as u64);
        if size == 0 || size > max || align > page || !align.is_power_of_two() {
            if !request.nowarn {
                self.log(4, format!("illegal size ({size}) or align ({align}) for percpu allocation"));
            }
            return Outcome::Failed(Reason::Illegal);
        }
        let atomic = match request.sleep {
            Sleep::Full => false,
            Sleep::NoFs => self.gen != Gen::V5_14,
            Sleep::Never => true,
        };
        let (size, align) = (size as i64, align as i64);
        match self.find(size, align, atomic, request.reserved && self.reserved.is_some()) {
            Ok((id, off)) => Outcome::Placed { chunk: ChunkId(id), off: Bytes(off as u64) },
            Err(reason) => {
                self.failed(size, align, atomic, request.nowarn, reason);
                Outcome::Failed(reason)
            }
        }
    }

    fn log(&mut self, level: u8, text: String) {
        if self.backend.journal.enabled {
            self.backend.journal.log.push((level, text));
        }
    }

    /// 20 section 7.
    fn failed(&mut self, size: i64, align: i64, atomic: bool, nowarn: bool, reason: Reason) {
        let may_warn = !nowarn && (!atomic || self.warn_atomic);
        if may_warn && self.warnings_left > 0 {
            let atomic = u8::from(atomic);
            let text = reason.text();
            self.log(4, format!("percpu: allocation failed, size={size} align={align} atomic={atomic}, {text}"));
            self.warnings_left -= 1;
            if self.warnings_left == 0 {
                self.log(6, "percpu: limit reached, disable warning".into());
            }
        }
        if atomic {
            self.atomic_failed = true;
            self.schedule();
        }
    }

    /// 20 section 4. Sizes in bytes, also the place.
    fn find(&mut self, size: i64, align: i64, atomic: bool, reserved: bool) -> Result<(u32, i64), Reason> {
        if reserved {
            let off = self.alloc_in(RESERVED, size, align, atomic).ok().flatten().ok_or(Reason::ReservedFull)?;
            return self.found(RESERVED, off, size, atomic);
        }
        for _ in 0..4 {
            let mut visited = Vec::new();
            for s in self.slot(size)..=self.free_slot {
                // Nothing but the chunk itself leaves the list during the walk.
                for id in self.lists[s].clone() {
                    visited.push(id);
                    match self.alloc_in(id, size, align, atomic) {
                        Ok(Some(off)) => {
                            self.look_for_unseen(&visited, size, align, atomic);
                            if self.get(id).isolated {
                                self.reintegrate(id);
                            }
                            return self.found(id, off, size, atomic);
                        }
                        Ok(None) => {}
                        Err(()) => {
                            if self.gen != Gen::V4_14 && s < self.thresholds.slot_fail_threshold as usize {
                                self.push_front(0, id);
                            }
                        }
                    }
                }
            }
            self.look_for_unseen(&visited, size, align, atomic);
            if atomic {
                return Err(Reason::NoSpace);
            }
            if self.lists[self.free_slot].is_empty() {
                let id = self.create().ok_or(Reason::NoChunk)?;
                self.relocate(id, -1);
            }
        }
        panic!("a new chunk does not serve a request of {size} bytes, alignment {align}");
    }

    /// Counts chunks with a place on lists that a request of this size never comes to.
    fn look_for_unseen(&mut self, visited: &[u32], size: i64, align: i64, atomic: bool) {
        let m = self.sizes.m;
        for (s, list) in self.lists.iter().enumerate() {
            if s >= self.slot(size) && s <= self.free_slot {
                continue;
            }
            for id in list.iter().filter(|id| !visited.contains(id)) {
                self.costs.chunks_unseen_with_fit += u64::from(self.get(*id).has_place(size / m, align / m, atomic));
            }
        }
    }

    /// Finds and takes a place in one chunk: its byte offset; `Ok(None)` if the final search fails,
    /// `Err` if the chunk is rejected before.
    fn alloc_in(&mut self, id: u32, size: i64, align: i64, atomic: bool) -> Result<Option<i64>, ()> {
        let m = self.sizes.m;
        let oslot = self.chunk_slot(id);
        let chunk = self.get_mut(id);
        chunk.visit();
        let start = chunk.find_block_fit(size / m, align / m, atomic);
        let found =
            start.and_then(|start| self.changing(id, |chunk| chunk.alloc_area(size / m, align / m, start, atomic)));
        if found.is_some() {
            self.relocate(id, oslot);
        } else {
            let has_place = self.get(id).has_place(size / m, align / m, atomic);
            self.costs.chunks_rejected_with_fit += u64::from(has_place);
        }
        start.ok_or(())?;
        Ok(found.map(|bit| bit * m))
    }

    /// 20 section 5.
    fn found(&mut self, id: u32, off: i64, size: i64, atomic: bool) -> Result<(u32, i64), Reason> {
        let bytes = Bytes(size as u64);
        let stats = &mut self.stats;
        stats.nr_alloc += 1;
        stats.nr_cur_alloc += 1;
        stats.nr_max_alloc = stats.nr_max_alloc.max(stats.nr_cur_alloc);
        stats.min_alloc_size = stats.min_alloc_size.min(bytes);
        stats.max_alloc_size = stats.max_alloc_size.max(bytes);
        let page = self.geometry.page_size().0 as i64;
        let chunk = self.get_mut(id);
        chunk.nr_alloc += 1;
        chunk.max_alloc_size = chunk.max_alloc_size.max(size);
        if !atomic {
            chunk.look_at_pages(off / page, up(off + size, page) / page);
            for (from, to) in chunk.page_ranges(false, off / page, up(off + size, page) / page) {
                if !self.backend.populate(ChunkId(id), from as u32, to as u32) {
                    self.free_area(id, off / self.sizes.m);
                    return Err(Reason::NoPage);
                }
                self.populated(id, from, to, true);
            }
        }
        self.costs.cleared_bytes += size as u64 * self.backend.nr_cpus();
        if self.nr_empty < i64::from(self.thresholds.empty_pop_pages_low) {
            self.schedule();
        }
        Ok((id, off))
    }

    /// 20 section 6.
    pub(super) fn populated(&mut self, id: u32, from: i64, to: i64, for_alloc: bool) {
        self.changing(id, |chunk| chunk.mark_populated(from, to, for_alloc));
        self.nr_populated += to - from;
        self.costs.pages_populated += (to - from) as u64;
        if !self.backend.contiguous {
            self.costs.page_mappings += (to - from) as u64 * self.backend.nr_cpus();
        }
    }

    /// 10 section 7.1; returns the size in bytes.
    fn free_area(&mut self, id: u32, bit: i64) -> i64 {
        self.stats.nr_dealloc += 1;
        self.stats.nr_cur_alloc -= 1;
        let oslot = self.chunk_slot(id);
        self.get_mut(id).nr_alloc -= 1;
        let bits = self.changing(id, |chunk| chunk.free_area(bit));
        self.relocate(id, oslot);
        bits * self.sizes.m
    }

    /// 20 section 8.
    pub(super) fn free_checked(&mut self, id: u32, bit: i64) -> i64 {
        let size = self.free_area(id, bit);
        let chunk = self.get(id);
        if chunk.free_bytes == self.unit_size && !chunk.isolated {
            if self.lists[self.free_slot].iter().any(|other| *other != id) {
                self.schedule();
            }
        } else if self.gen == Gen::V5_14 && self.should_reclaim(id) {
            // 21 section 4.
            let own = chunk.nr_empty;
            if !chunk.isolated {
                self.get_mut(id).isolated = true;
                self.nr_empty -= own;
            }
            self.push_front(self.to_depopulate_slot, id);
            self.schedule();
        }
        size
    }

    /// 21 section 4.
    fn should_reclaim(&self, id: u32) -> bool {
        let chunk = self.get(id);
        if chunk.role != Role::Dynamic || self.backend.contiguous {
            return false;
        }
        let own = chunk.nr_empty;
        let high = i64::from(self.thresholds.empty_pop_pages_high);
        let enough = chunk.nr_pages() / i64::from(self.thresholds.reclaim_divisor);
        (chunk.isolated && own > 0) || (self.nr_empty > high + own && own >= enough)
    }
}
