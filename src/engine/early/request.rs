//! Serving a request: checks, search, creation, population, failure.
//!
//! Source: specification 20 sections 3 to 7.

use super::{Area, Bounds, Early, Space, Task};
use crate::bitmap;
use crate::cost::{words_of, Counter, Part};
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::units::Bytes;

impl<S: Space> Early<S> {
    /// Serves a request. That it wants no warning has no effect before 4.14.
    pub(super) fn request<C: Counter>(&mut self, request: &Request, costs: &mut C) -> Outcome {
        let g = &self.geometry;
        let granule = g.min_alloc_size();
        // The kernel's arithmetic wraps near the top of the address range.
        let size = Bytes(request.size.0.wrapping_add(granule.0 - 1) & granule.0.wrapping_neg());
        let align = request.align.max(granule);
        let legal = size.0 != 0 && size <= g.max_request() && align <= g.page_size() && align.0.is_power_of_two();
        if !legal {
            self.log(4, || format!("illegal size ({}) or align ({}) for percpu allocation", size.0, align.0));
            return Outcome::Failed(Reason::Illegal);
        }
        // Kernel: atomic unless every flag of an ordinary kernel request is present (to 5.13).
        let task = Task { size: size.0 as u32, align: align.0 as u32, atomic: request.sleep != Sleep::Full };
        match self.serve(&task, request.reserved, costs) {
            Ok((chunk, off)) => Outcome::Placed { chunk, off: Bytes(u64::from(off)) },
            Err(reason) => self.fail(&task, reason),
        }
    }

    /// Serves more of the same requests behind one that was placed at byte `off`: bytes from one to the next, and how many.
    ///
    /// That is where the next search would look first: at the same chunk, on the same list, on populated pages.
    pub(super) fn run_behind<C: Counter>(
        &mut self,
        request: &Request,
        id: ChunkId,
        off: Bytes,
        most: u32,
        costs: &mut C,
    ) -> (Bytes, u32) {
        let nothing = (Bytes(0), 0);
        let granule = self.geometry.min_alloc_size();
        let size = Bytes(request.size.0.next_multiple_of(granule.0));
        let spare_pages = self.nr_empty_pop_pages - self.thresholds.empty_pop_pages_low as i32;
        let reserved = request.reserved && self.reserved.is_some();
        if request.sleep != Sleep::Full || reserved || self.balance_pending || spare_pages < 0 {
            return nothing;
        }
        let listed =
            self.slots.occupied_from(self.size_to_slot(size)).filter(|slot| self.slots.head(*slot) == Some(id));
        let Some(slot) = listed else { return nothing };
        let task = Task { size: size.0 as u32, align: request.align.max(granule).0 as u32, atomic: false };
        let page = self.geometry.page_size().0 as u32;
        let from = off.0 as u32 + task.size;
        let entry = self.existing(id);
        let free = entry.space.free_bytes(&self.geometry).0;
        if self.chunk_slot(entry) != slot || slot == self.numbers.free {
            return nothing;
        }
        // Down to here the chunk stays on its list.
        let keep_free = if slot == 1 { 4 } else { 1 << free.ilog2() };
        let hole = bitmap::next_zero(entry.pages.words(), entry.pages.nr_pages(), from / page);
        let end = hole.min(from.div_ceil(page) + spare_pages as u32) * page;
        let bounds = Bounds { most, end, keep_free };
        let g = self.geometry;
        let entry = self.existing_mut(id);
        let count = entry.space.alloc_run(&g, from, &task, &bounds, costs);
        if count == 0 {
            return nothing;
        }
        entry.nr_alloc += count;
        let to = from + count * task.size;
        self.nr_empty_pop_pages -= (to.div_ceil(page) - from.div_ceil(page)) as i32;
        self.stats.allocated_many(size, u64::from(count));
        if C::ON {
            let words = |at: u32| words_of(at / page, (at + task.size).div_ceil(page));
            let words: u32 = (0..count).map(|i| words(from + i * task.size)).sum();
            let cleared = u64::from(count) * size.0 * self.backend.nr_cpus();
            costs.count(|costs| {
                costs.chunks_visited += u64::from(count);
                costs.words_read += u64::from(words);
                costs.cleared_bytes += cleared;
            });
        }
        (size, count)
    }

    /// Takes an area and populates the pages under it.
    fn serve<C: Counter>(&mut self, task: &Task, reserved: bool, costs: &mut C) -> Result<(ChunkId, u32), Reason> {
        let reserved = reserved && self.reserved.is_some();
        let (id, area) = if reserved { self.take_reserved(task, costs)? } else { self.take(task, costs)? };
        self.stats.allocated(Bytes(u64::from(task.size)));
        let entry = self.existing_mut(id);
        entry.nr_alloc += 1;
        entry.max_alloc_size = entry.max_alloc_size.max(task.size);
        // By the size asked for: what was glued to the area behind it may lie on a page without memory.
        let page = self.geometry.page_size().0 as u32;
        let (first, end) = (area.off / page, (area.off + task.size).div_ceil(page));
        if task.atomic {
            self.report_unpopulated(id, first, end);
        } else {
            self.populate_area(id, area.off, first, end, costs)?;
        }
        if !id.is_reserved() {
            self.nr_empty_pop_pages -= area.pages as i32;
        }
        if self.nr_empty_pop_pages < self.thresholds.empty_pop_pages_low as i32 {
            self.schedule_balance();
        }
        let cleared = u64::from(task.size) * self.backend.nr_cpus();
        costs.count(|costs| costs.cleared_bytes += cleared);
        Ok((id, area.off))
    }

    /// Populates what is unpopulated of the pages `first..end`, or gives the area back; what was
    /// populated before the failing range stays so.
    fn populate_area<C: Counter>(
        &mut self,
        id: ChunkId,
        off: u32,
        first: u32,
        end: u32,
        costs: &mut C,
    ) -> Result<(), Reason> {
        costs.search(Part::Populated, first, end);
        if self.existing(id).pages.all_populated(first, end) {
            return Ok(());
        }
        let mut page = first;
        while let Some((from, to)) = self.existing(id).pages.unpopulated_range(page, end) {
            if !self.backend.populate(id, from, to) {
                self.release_area(id, off, costs);
                return Err(Reason::NoPage);
            }
            self.mark_pages(id, from, to, true, costs);
            page = to;
        }
        Ok(())
    }

    /// Records pages of an atomic request's area that have no memory (rfc-v1, a defect that is
    /// reproduced).
    fn report_unpopulated(&mut self, id: ChunkId, first: u32, end: u32) {
        if !self.backend.journal.enabled {
            return;
        }
        for page in first..end {
            if !bitmap::test(self.existing(id).pages.words(), page) {
                self.backend.note_unpopulated(id, page);
            }
        }
    }

    /// Takes an area in the reserved chunk.
    fn take_reserved<C: Counter>(&mut self, task: &Task, costs: &mut C) -> Result<(ChunkId, Area), Reason> {
        let id = ChunkId::RESERVED;
        self.visit(id, costs);
        if !self.existing(id).space.may_fit(&self.geometry, task.size) {
            self.reject(id, task, costs);
            return Err(Reason::ReservedFull);
        }
        while let Some(capacity) = self.room_needed(id, task.atomic) {
            if task.atomic || !self.grow(id, capacity, costs) {
                self.reject(id, task, costs);
                return Err(Reason::ReservedMap);
            }
        }
        let area = self.take_area(id, task, costs).ok_or(Reason::ReservedFull)?;
        Ok((id, area))
    }

    /// A request looks at a chunk.
    fn visit<C: Counter>(&mut self, id: ChunkId, costs: &mut C) {
        costs.enter(id.0);
        costs.count(|costs| costs.chunks_visited += 1);
    }

    /// A request leaves a chunk without success.
    fn reject<C: Counter>(&mut self, id: ChunkId, task: &Task, costs: &mut C) {
        if C::FULL {
            let entry = self.existing(id);
            let fits = entry.space.has_place(&self.geometry, &entry.pages, task);
            costs.count(|costs| costs.chunks_rejected_with_fit += u64::from(fits));
        }
    }

    /// Walks the lists until an area is taken, making chunks as needed.
    fn take<C: Counter>(&mut self, task: &Task, costs: &mut C) -> Result<(ChunkId, Area), Reason> {
        loop {
            if let Some(found) = self.search(task, costs)? {
                return Ok(found);
            }
            if task.atomic {
                return Err(Reason::NoSpace);
            }
            // A fully free chunk fits every legal request, so that there is none now.
            let id = self.create_chunk(costs).ok_or(Reason::NoChunk)?;
            self.relocate(id, None);
        }
    }

    /// Walks the lists, from the beginning again after a chunk has got more room for records.
    fn search<C: Counter>(&mut self, task: &Task, costs: &mut C) -> Result<Option<(ChunkId, Area)>, Reason> {
        let mut visited = Vec::new();
        'restart: loop {
            let mut from = self.size_to_slot(Bytes(u64::from(task.size)));
            while let Some(slot) = self.slots.occupied_from(from) {
                let mut next = self.slots.head(slot);
                while let Some(id) = next {
                    // A chunk that fails can move to a lower list; the walk goes on with the chunk
                    // that followed it before.
                    next = self.slots.next(id);
                    self.visit(id, costs);
                    if C::FULL {
                        visited.push(id);
                    }
                    if !self.existing(id).space.may_fit(&self.geometry, task.size) {
                        self.reject(id, task, costs);
                        continue;
                    }
                    if let Some(capacity) = self.room_needed(id, task.atomic) {
                        if task.atomic {
                            self.reject(id, task, costs);
                            continue;
                        }
                        if !self.grow(id, capacity, costs) {
                            self.reject(id, task, costs);
                            return Err(Reason::MapExtend);
                        }
                        continue 'restart;
                    }
                    if let Some(area) = self.take_area(id, task, costs) {
                        self.count_unseen(&visited, task, costs);
                        return Ok(Some((id, area)));
                    }
                }
                from = slot + 1;
            }
            self.count_unseen(&visited, task, costs);
            return Ok(None);
        }
    }

    /// A walk over the lists is over: are there chunks with a place on lists that it does not go over?
    fn count_unseen<C: Counter>(&self, visited: &[ChunkId], task: &Task, costs: &mut C) {
        if C::FULL {
            let first = self.size_to_slot(Bytes(u64::from(task.size)));
            let elsewhere = |id: ChunkId| self.slots.slot_of(id).is_some_and(|slot| slot < first);
            let unseen = self.numbered().filter(|(id, _)| elsewhere(*id) && !visited.contains(id));
            let g = &self.geometry;
            let with_fit = unseen.filter(|(_, entry)| entry.space.has_place(g, &entry.pages, task)).count() as u64;
            costs.count(|costs| costs.chunks_unseen_with_fit += with_fit);
        }
    }

    fn take_area<C: Counter>(&mut self, id: ChunkId, task: &Task, costs: &mut C) -> Option<Area> {
        let area = self.change(id, |entry, g| entry.space.alloc(g, &entry.pages, task, costs));
        if area.is_none() {
            self.reject(id, task, costs);
        }
        area
    }

    /// The capacity that a chunk's records need before another area; may queue the chunk for
    /// the worker.
    fn room_needed(&mut self, id: ChunkId, atomic: bool) -> Option<u32> {
        let room = self.existing(id).space.room(atomic);
        if room.queue {
            self.existing_mut(id).space.set_queued(true);
            self.growth.push_back(id);
            self.schedule_balance();
        }
        room.grow_to
    }

    /// Makes room for a chunk's records; false if there is no memory for them, as before late boot.
    pub(super) fn grow<C: Counter>(&mut self, id: ChunkId, capacity: u32, costs: &mut C) -> bool {
        if !self.async_enabled {
            if !std::mem::replace(&mut self.warned_early, true) {
                self.log(4, || "WARNING (once)".into());
            }
            return false;
        }
        if self.backend.extend_supply.take(1) == 0 {
            return false;
        }
        self.existing_mut(id).space.grow(capacity, costs);
        true
    }

    #[cold]
    fn fail(&mut self, task: &Task, reason: Reason) -> Outcome {
        if task.atomic {
            self.atomic_failed = true;
            self.schedule_balance();
        } else if self.warn_limit > 0 {
            let Task { size, align, .. } = *task;
            self.log(4, || format!("percpu: allocation failed, size={size} align={align} atomic=0, {}", reason.text()));
            self.warn_limit -= 1;
            if self.warn_limit == 0 {
                self.log(6, || "percpu: limit reached, disable warning".into());
            }
        }
        Outcome::Failed(reason)
    }
}
