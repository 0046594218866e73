//! The balance worker, straight through.
//!
//! # Source
//!
//! Specification 21 sections 3, 5, 7.

use super::chunk::Chunk;
use super::{Gen, Naive};
use crate::request::ChunkId;

impl Naive {
    pub(super) fn work(&mut self) {
        self.pending = false;
        if self.gen == Gen::V5_14 {
            self.free_surplus(false);
            self.reclaim();
            self.populate();
            self.free_surplus(true);
        } else {
            self.free_surplus(false);
            self.populate();
        }
    }

    /// 21 section 3 steps 1 and 2, section 5 A and D.
    fn free_surplus(&mut self, empty_only: bool) {
        let mut private = Vec::new();
        for id in self.lists[self.free_slot].clone().into_iter().skip(1) {
            if !empty_only || self.get(id).nr_empty == 0 {
                private.insert(0, id);
            }
        }
        for id in &private {
            self.take_off_list(*id);
        }
        for id in private {
            let nr_pages = self.get(id).nr_pages();
            self.get_mut(id).handle();
            self.get_mut(id).look_at_pages(0, nr_pages);
            for (from, to) in self.get(id).page_ranges(true, 0, nr_pages) {
                self.depopulate(id, from, to);
            }
            self.stats.nr_chunks -= 1;
            let base = self.get(id).base;
            self.backend.destroy(ChunkId(id), base, nr_pages as u32);
            self.settle_chunk(id);
            self.chunks[id as usize] = None;
        }
    }

    fn depopulate(&mut self, id: u32, from: i64, to: i64) {
        self.backend.depopulate(ChunkId(id), from as u32, to as u32);
        self.changing(id, |chunk| chunk.mark_depopulated(from, to));
        self.nr_populated -= to - from;
    }

    /// 21 section 5 B.
    fn reclaim(&mut self) {
        while let Some(id) = self.lists[self.to_depopulate_slot].first().copied() {
            let mut end = -1;
            let mut reintegrate = false;
            let mut i = self.get(id).nr_pages() - 1;
            self.get_mut(id).handle();
            // Pages `i + 1..from` were looked at since the last release.
            let mut from = i + 1;
            while i >= 0 {
                let chunk = self.get(id);
                if chunk.nr_empty == 0 {
                    break;
                }
                if self.nr_empty < i64::from(self.thresholds.empty_pop_pages_high) {
                    reintegrate = true;
                    break;
                }
                let mut at = i;
                if chunk.populated[i as usize] && chunk.page_is_empty(i) {
                    if end == -1 {
                        end = i;
                    }
                    if i > 0 {
                        i -= 1;
                        continue;
                    }
                    at = -1;
                }
                if end != -1 {
                    self.get_mut(id).look_for_empty_pages(i, from);
                    from = i;
                    self.depopulate(id, at + 1, end + 1);
                    end = -1;
                }
                i -= 1;
            }
            self.get_mut(id).look_for_empty_pages(i + 1, from);
            if reintegrate || self.get(id).free_bytes == self.unit_size {
                self.reintegrate(id);
            } else {
                self.push_tail(self.sidelined_slot, id);
            }
        }
    }

    /// 21 section 5, at the end.
    pub(super) fn reintegrate(&mut self, id: u32) {
        if self.get(id).isolated {
            self.get_mut(id).isolated = false;
            self.nr_empty += self.get(id).nr_empty;
            self.relocate(id, -1);
        }
    }

    /// 21 section 3 steps 4 to 6.
    fn populate(&mut self) {
        let page = self.geometry.page_size().0 as i64;
        loop {
            let high = i64::from(self.thresholds.empty_pop_pages_high);
            let mut want = if self.atomic_failed { high } else { (high - self.nr_empty).clamp(0, high) };
            self.atomic_failed = false;
            for s in self.slot(page)..=self.free_slot {
                if want == 0 {
                    break;
                }
                let with_hole = |id: &u32| self.get(*id).populated.contains(&false);
                let Some(id) = self.lists[s].iter().copied().find(with_hole) else { continue };
                self.get_mut(id).handle();
                let pages = self.get(id).nr_pages();
                self.get_mut(id).look_at_pages(0, pages);
                for (from, to) in self.get(id).page_ranges(false, 0, self.unit_pages) {
                    let nr = (to - from).min(want);
                    if !self.backend.populate(ChunkId(id), from as u32, (from + nr) as u32) {
                        want = 0;
                        break;
                    }
                    want -= nr;
                    self.populated(id, from, from + nr, false);
                    if want == 0 {
                        break;
                    }
                }
            }
            if want == 0 {
                return;
            }
            match self.create() {
                Some(id) => self.relocate(id, -1),
                None => return,
            }
        }
    }

    /// 21 section 7.
    pub(super) fn create(&mut self) -> Option<u32> {
        let id = self.chunks.len() as u32;
        let base = self.backend.create(ChunkId(id), self.unit_pages as u32)?;
        self.chunks.push(Some(Chunk::dynamic(self.sizes, base, self.unit_pages)));
        if self.backend.contiguous {
            self.get_mut(id).handle();
            self.populated(id, 0, self.unit_pages, false);
        }
        self.costs.chunks_created += 1;
        self.stats.nr_chunks += 1;
        self.stats.nr_max_chunks = self.stats.nr_max_chunks.max(self.stats.nr_chunks);
        Some(id)
    }
}
