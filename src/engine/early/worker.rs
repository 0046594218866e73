//! The balance worker: surplus chunks, room for records, a few empty pages ready.
//!
//! ```text
//! free surplus -> make room for queued chunks -> populate, making chunks as needed
//! ```
//!
//! Source: specification 21 section 3.

use super::{Early, Space};
use crate::cost::{Counter, Part};
use crate::request::ChunkId;

impl<S: Space> Early<S> {
    /// Runs the worker once.
    pub(super) fn run_worker<C: Counter>(&mut self, costs: &mut C) {
        self.balance_pending = false;
        self.free_surplus(costs);
        while let Some(id) = self.growth.pop_front() {
            costs.enter(id.0);
            self.existing_mut(id).space.set_queued(false);
            if let Some(capacity) = self.existing(id).space.room(false).grow_to {
                self.grow(id, capacity, costs);
            }
        }
        // What is wanted is computed anew after every chunk that was made.
        while self.populate_ready(costs) > 0 {
            let Some(id) = self.create_chunk(costs) else { return };
            self.relocate(id, None);
        }
    }

    /// Destroys every fully free chunk but the head of its list, last first.
    fn free_surplus<C: Counter>(&mut self, costs: &mut C) {
        let mut surplus: Vec<ChunkId> = self.slots.iter(self.numbers.free).skip(1).collect();
        for id in &surplus {
            self.slots.remove(*id);
            self.growth.retain(|queued| queued != id);
        }
        surplus.reverse();
        for id in surplus {
            costs.enter(id.0);
            costs.search(Part::Populated, 0, self.existing(id).pages.nr_pages());
            while let Some((first, end)) = self.existing(id).pages.populated_range(0) {
                self.backend.depopulate(id, first, end);
                self.mark_pages(id, first, end, false, costs);
            }
            self.destroy_chunk(id);
        }
    }

    /// Populates pages in the fullest chunks that have room for one, one chunk a list, and returns
    /// how many pages are still wanted; 0 after a failure.
    fn populate_ready<C: Counter>(&mut self, costs: &mut C) -> u32 {
        let high = self.thresholds.empty_pop_pages_high as i32;
        let want = if std::mem::take(&mut self.atomic_failed) {
            high
        } else {
            (high - self.nr_empty_pop_pages).clamp(0, high)
        };
        let mut want = want as u32;
        let mut from = self.size_to_slot(self.geometry.page_size());
        while let Some(slot) = self.slots.occupied_from(from).filter(|_| want > 0) {
            from = slot + 1;
            let has_room = |id: &ChunkId| {
                let pages = &self.existing(*id).pages;
                pages.nr_populated() < pages.nr_pages()
            };
            let Some(id) = self.slots.iter(slot).find(has_room) else { continue };
            let pages = self.existing(id).pages.nr_pages();
            costs.enter(id.0);
            costs.search(Part::Populated, 0, pages);
            while let Some((first, end)) = self.existing(id).pages.unpopulated_range(0, pages).filter(|_| want > 0) {
                let end = end.min(first + want);
                if !self.backend.populate(id, first, end) {
                    return 0;
                }
                self.mark_pages(id, first, end, true, costs);
                want -= end - first;
            }
        }
        want
    }
}
