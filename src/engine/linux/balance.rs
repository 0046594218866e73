//! The balance worker: surplus chunks, depopulation, a few empty pages ready.
//!
//! # Design
//!
//! ```text
//! to 5.13   free surplus ------------> populate
//! 5.14 on   free surplus -> reclaim -> populate -> free surplus that holds no pages
//! ```
//!
//! [`Linux::run_worker`] runs until the kernel would drop the lock and returns what it waits
//! for; what was decided before a drop is not decided again after it.
//!
//! Source: specification 21 sections 3 and 5.

use super::Linux;
use crate::chunk::mode::with_meter;
use crate::chunk::{Chunk, Context, Mode};
use crate::cost::{Counter, Part};
use crate::request::ChunkId;

/// What the worker waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The lock, to begin a pass over the fully-free list.
    FreePass {
        /// Only chunks without populated pages.
        empty_only: bool,
    },
    /// Pages `first..end` of a chunk to be given back.
    Release {
        /// The chunk.
        chunk: ChunkId,
        /// First page.
        first: u32,
        /// Behind the last page.
        end: u32,
    },
    /// A chunk to be destroyed.
    Destroy(ChunkId),
    /// The flush of translations after pages were given back.
    Flush,
    /// Pages `first..end` of a chunk to be populated.
    Populate {
        /// The chunk.
        chunk: ChunkId,
        /// First page.
        first: u32,
        /// Behind the last page.
        end: u32,
    },
    /// A new chunk.
    Create,
}

/// The answer to a [`Stop`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// It was done.
    Ok,
    /// It could not be done.
    Failed,
    /// The new chunk.
    Created(ChunkId),
}

#[derive(Clone, Debug)]
enum Stage {
    Start {
        empty_only: bool,
    },
    /// Chunk `surplus[at]` of the private list, pages from `page` on.
    Surplus {
        at: usize,
        page: u32,
    },
    Reclaim,
    /// Walking down the pages of the head of the to-depopulate list.
    Pages {
        chunk: ChunkId,
        next: i32,
        released: bool,
    },
    Settle {
        chunk: ChunkId,
        reintegrate: bool,
    },
    Want,
    /// Populating in the lists from `slot` on.
    Slot {
        slot: u32,
        want: u32,
    },
    Populate {
        slot: u32,
        chunk: ChunkId,
        page: u32,
        want: u32,
    },
    Finished,
}

/// A run of the worker.
#[derive(Clone, Debug)]
pub struct Worker {
    stage: Stage,
    waits: Option<Stop>,
    empty_only: bool,
    surplus: Vec<ChunkId>,
}

impl Default for Worker {
    fn default() -> Self {
        Self { stage: Stage::Start { empty_only: false }, waits: None, empty_only: false, surplus: Vec::new() }
    }
}

impl Worker {
    /// A worker that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it waits for.
    pub fn waits(&self) -> Option<Stop> {
        self.waits
    }

    /// True if it has taken chunk `id` up and not settled it yet: it will go on with it.
    pub(crate) fn holds(&self, id: ChunkId) -> bool {
        let current = match self.stage {
            Stage::Pages { chunk, .. } | Stage::Settle { chunk, .. } | Stage::Populate { chunk, .. } => Some(chunk),
            _ => None,
        };
        current == Some(id) || self.surplus.contains(&id)
    }
}

impl Linux {
    /// Runs the worker once with the backend: as [`Linux::run_worker`] where every stop is answered at once.
    pub fn balance(&mut self) {
        with_meter!(self, m => self.balance_by(m));
    }

    fn balance_by<M: Mode>(&mut self, m: M) {
        self.balance_pending = false;
        self.free_surplus(m, false);
        if self.ctx.rules.depopulate {
            self.reclaim(m);
        }
        self.populate(m);
        if self.ctx.rules.depopulate {
            self.free_surplus(m, true);
        }
    }

    /// The worker takes up a chunk and goes over all its pages.
    #[inline]
    fn count_pages_of<M: Mode>(&self, m: M, id: ChunkId) {
        let nr_pages = self.chunk(id).map_or(0, |chunk| chunk.nr_pages);
        m.tally().enter(id.0);
        m.tally().search(Part::Populated, 0, nr_pages);
    }

    /// Destroys the surplus chunks.
    fn free_surplus<M: Mode>(&mut self, m: M, empty_only: bool) {
        let head = self.slots.head(self.numbers.free);
        if head.and_then(|head| self.slots.next(head)).is_none() {
            return;
        }
        for id in self.collect_surplus(empty_only) {
            self.count_pages_of(m, id);
            while let Some((first, end)) = self.chunk(id).expect("a surplus chunk exists").populated_range(0) {
                self.release_pages(m, id, first, end);
            }
            self.destroy_chunk(id);
        }
    }

    fn release_pages<M: Mode>(&mut self, m: M, id: ChunkId, first: u32, end: u32) {
        m.tally().touch(Part::Populated, first, end);
        self.backend.depopulate(id, first, end);
        self.mark_depopulated(id, first, end);
    }

    /// Gives back the empty pages of the chunks on the to-depopulate list.
    fn reclaim<M: Mode>(&mut self, m: M) {
        let list = self.numbers.to_depopulate.expect("depopulating rules have the list");
        while let Some(id) = self.slots.head(list) {
            let mut next = self.chunk(id).expect("a listed chunk exists").nr_pages as i32 - 1;
            m.tally().enter(id.0);
            let reintegrate = loop {
                match self.pages_to_release(m, id, next) {
                    (Some((first, end)), then, _) => {
                        self.release_pages(m, id, first, end);
                        next = then;
                    }
                    (None, _, reintegrate) => break reintegrate,
                }
            };
            self.settle_reclaimed(id, reintegrate);
        }
    }

    /// Where a chunk goes after its pages were given back.
    fn settle_reclaimed(&mut self, id: ChunkId, reintegrate: bool) {
        let free = self.chunk(id).expect("a listed chunk exists").free_bytes();
        if reintegrate || free == self.ctx.geometry.unit_size() {
            self.reintegrate(id);
        } else {
            let list = self.numbers.sidelined.expect("depopulating rules have the list");
            self.slots.push_back(list, id);
        }
    }

    /// How many empty pages are wanted; a failed atomic request is then answered.
    fn pages_wanted(&mut self) -> u32 {
        if std::mem::take(&mut self.atomic_failed) {
            self.empty_high() as u32
        } else {
            (self.empty_high() - self.nr_empty_pop_pages).clamp(0, self.empty_high()) as u32
        }
    }

    /// The first list from `slot` on that may have a chunk to populate, and the first chunk on it with a page to populate.
    fn chunk_to_populate(&self, slot: u32) -> Option<(u32, Option<ChunkId>)> {
        let slot = self.slots.occupied_from(slot).filter(|slot| *slot <= self.numbers.free)?;
        let has_room = |id: &ChunkId| self.chunk(*id).is_some_and(|c| c.nr_populated < c.nr_pages);
        Some((slot, self.slots.iter(slot).find(has_room)))
    }

    /// Populates pages until there are enough empty ones.
    fn populate<M: Mode>(&mut self, m: M) {
        loop {
            let mut want = self.pages_wanted();
            let mut slot = self.size_to_slot(self.ctx.geometry.page_size());
            while want > 0 {
                let Some((found, chunk)) = self.chunk_to_populate(slot) else { break };
                slot = found + 1;
                let Some(id) = chunk else { continue };
                self.count_pages_of(m, id);
                let mut page = 0;
                while want > 0 {
                    let c = self.chunk(id).expect("the chunk exists");
                    let Some((first, end)) = c.unpopulated_range(page, c.nr_pages) else { break };
                    let end = end.min(first + want);
                    if !self.backend.populate(id, first, end) {
                        return;
                    }
                    want -= end - first;
                    page = end;
                    self.mark_populated(m, id, first, end, false);
                }
            }
            if want == 0 {
                return;
            }
            match self.create_chunk(m) {
                Some(id) => self.enlist(id),
                None => return,
            }
        }
    }

    /// The worker was entered: from now on scheduling means another run.
    pub(crate) fn clear_pending(&mut self) {
        self.balance_pending = false;
    }

    /// Runs the worker from where it stopped to its next stop; `done` answers the last stop. `None`
    /// when it has finished.
    pub fn run_worker(&mut self, worker: &mut Worker, done: Done) -> Option<Stop> {
        with_meter!(self, m => self.run_worker_by(m, worker, done), |stop: &Option<Stop>| stop.is_none())
    }

    fn run_worker_by<M: Mode>(&mut self, m: M, worker: &mut Worker, done: Done) -> Option<Stop> {
        if let Some(stop) = worker.waits.take() {
            self.answer(m, worker, stop, done);
        } else if let Stage::Start { empty_only } = worker.stage {
            worker.waits = Some(Stop::FreePass { empty_only });
            return worker.waits;
        }
        worker.waits = loop {
            match self.advance(m, worker) {
                Some(stop) => break Some(stop),
                None if matches!(worker.stage, Stage::Finished) => break None,
                None => {}
            }
        };
        worker.waits
    }

    /// True if what a run waits for can still be done: a recording that contradicts itself may have done it otherwise.
    pub(crate) fn can_answer(&self, stop: Stop) -> bool {
        let pages = |id, first, end, wanted: fn(&Chunk, &Context, u32) -> bool| {
            let pages_are = |chunk: &Chunk| (first..end).all(|page| wanted(chunk, &self.ctx, page));
            self.chunk(id).is_some_and(|chunk| end <= chunk.nr_pages && pages_are(chunk))
        };
        match stop {
            Stop::FreePass { .. } | Stop::Flush | Stop::Create => true,
            Stop::Release { chunk, first, end } => pages(chunk, first, end, |chunk, ctx, page| {
                chunk.is_populated(page..page + 1) && chunk.page_is_free(ctx, page)
            }),
            Stop::Populate { chunk, first, end } => {
                pages(chunk, first, end, |chunk, _, page| !chunk.is_populated(page..page + 1))
            }
            Stop::Destroy(id) => {
                self.chunk(id).is_some_and(|chunk| chunk.nr_populated == 0) && self.slots.slot_of(id).is_none()
            }
        }
    }

    /// Ends a run that does not go on: what it took off the lists is put back, and the worker is scheduled again.
    pub(crate) fn put_back(&mut self, worker: &Worker) {
        if matches!(worker.stage, Stage::Finished) {
            return;
        }
        for id in worker.surplus.iter().rev() {
            let Some(chunk) = self.chunk(*id).filter(|_| self.slots.slot_of(*id).is_none()) else { continue };
            let slot = self.chunk_slot(chunk);
            self.slots.push_back(slot, *id);
        }
        self.schedule_balance();
    }

    /// Books what a stop has brought.
    fn answer<M: Mode>(&mut self, m: M, worker: &mut Worker, stop: Stop, done: Done) {
        match (stop, &mut worker.stage) {
            (Stop::FreePass { empty_only }, stage) => {
                worker.empty_only = empty_only;
                worker.surplus = self.collect_surplus(empty_only);
                *stage = Stage::Surplus { at: 0, page: 0 };
            }
            (Stop::Release { chunk, first, end }, stage) => {
                m.tally().enter(chunk.0);
                m.tally().touch(Part::Populated, first, end);
                self.mark_depopulated(chunk, first, end);
                match stage {
                    Stage::Surplus { page, .. } => *page = end,
                    Stage::Pages { released, .. } => *released = true,
                    other => unreachable!("release in {other:?}"),
                }
            }
            (Stop::Destroy(chunk), Stage::Surplus { at, page }) => {
                self.destroy_chunk(chunk);
                (*at, *page) = (*at + 1, 0);
            }
            (Stop::Flush, _) => {}
            (Stop::Populate { chunk, first, end }, Stage::Populate { page, want, .. }) => {
                if done == Done::Ok {
                    *want -= end - first;
                    *page = end;
                    m.tally().enter(chunk.0);
                    self.mark_populated(m, chunk, first, end, false);
                } else {
                    *want = 0;
                }
            }
            (Stop::Create, stage) => match done {
                Done::Created(id) => {
                    self.enlist(id);
                    *stage = Stage::Want;
                }
                _ => *stage = self.after_populate(),
            },
            (stop, stage) => unreachable!("{stop:?} in {stage:?}"),
        }
    }

    /// One step; a stop, or `None` to go on.
    fn advance<M: Mode>(&mut self, m: M, worker: &mut Worker) -> Option<Stop> {
        let depopulate = self.ctx.rules.depopulate;
        match worker.stage {
            Stage::Start { empty_only } => Some(Stop::FreePass { empty_only }),
            Stage::Surplus { at, page } => {
                let Some(chunk) = worker.surplus.get(at).copied() else {
                    worker.surplus.clear();
                    worker.stage = match (worker.empty_only, depopulate) {
                        (true, _) => Stage::Finished,
                        (false, true) => Stage::Reclaim,
                        (false, false) => Stage::Want,
                    };
                    return None;
                };
                if page == 0 {
                    self.count_pages_of(m, chunk);
                }
                let range = self.chunk(chunk).expect("a surplus chunk exists").populated_range(page);
                Some(match range {
                    Some((first, end)) => Stop::Release { chunk, first, end },
                    None => Stop::Destroy(chunk),
                })
            }
            Stage::Reclaim => {
                let list = self.numbers.to_depopulate.expect("depopulating rules have the list");
                worker.stage = match self.slots.head(list) {
                    Some(chunk) => {
                        let next = self.chunk(chunk).expect("a listed chunk exists").nr_pages as i32 - 1;
                        Stage::Pages { chunk, next, released: false }
                    }
                    None => Stage::Want,
                };
                None
            }
            Stage::Pages { chunk, next, released } => {
                m.tally().enter(chunk.0);
                let (range, next, reintegrate) = self.pages_to_release(m, chunk, next);
                if let Some((first, end)) = range {
                    worker.stage = Stage::Pages { chunk, next, released };
                    return Some(Stop::Release { chunk, first, end });
                }
                worker.stage = Stage::Settle { chunk, reintegrate };
                released.then_some(Stop::Flush)
            }
            Stage::Settle { chunk, reintegrate } => {
                self.settle_reclaimed(chunk, reintegrate);
                worker.stage = Stage::Reclaim;
                None
            }
            Stage::Want => {
                let want = self.pages_wanted();
                let slot = self.size_to_slot(self.ctx.geometry.page_size());
                worker.stage = Stage::Slot { slot, want };
                None
            }
            Stage::Slot { want: 0, .. } => {
                worker.stage = self.after_populate();
                None
            }
            Stage::Slot { slot, want } => {
                let Some((slot, chunk)) = self.chunk_to_populate(slot) else { return Some(Stop::Create) };
                if let Some(chunk) = chunk {
                    self.count_pages_of(m, chunk);
                }
                worker.stage = match chunk {
                    Some(chunk) => Stage::Populate { slot, chunk, page: 0, want },
                    None => Stage::Slot { slot: slot + 1, want },
                };
                None
            }
            Stage::Populate { slot, chunk, page, want } => {
                let c = self.chunk(chunk).expect("the chunk exists");
                let range = if want == 0 { None } else { c.unpopulated_range(page, c.nr_pages) };
                match range {
                    Some((first, end)) => Some(Stop::Populate { chunk, first, end: end.min(first + want) }),
                    None => {
                        worker.stage = Stage::Slot { slot: slot + 1, want };
                        None
                    }
                }
            }
            Stage::Finished => None,
        }
    }

    fn after_populate(&self) -> Stage {
        if self.ctx.rules.depopulate {
            Stage::Start { empty_only: true }
        } else {
            Stage::Finished
        }
    }

    /// Takes the surplus chunks off the fully-free list: all but its head, or those of them
    /// without empty pages; last first.
    fn collect_surplus(&mut self, empty_only: bool) -> Vec<ChunkId> {
        let surplus = |id: &ChunkId| !empty_only || self.chunk(*id).is_some_and(|chunk| chunk.nr_empty_pop_pages == 0);
        let mut list: Vec<ChunkId> = self.slots.iter(self.numbers.free).skip(1).filter(surplus).collect();
        list.iter().for_each(|id| self.slots.remove(*id));
        list.reverse();
        list
    }

    /// The next range of empty pages of an isolated chunk, from page `from` downwards, which may lie below the first: the range,
    /// where to go on, and whether the chunk is to be reintegrated instead.
    fn pages_to_release<M: Mode>(&self, m: M, id: ChunkId, from: i32) -> (Option<(u32, u32)>, i32, bool) {
        let chunk = self.chunk(id).expect("a listed chunk exists");
        let mut end = None;
        let mut page = from;
        if self.ctx.geometry.block_is_page()
            && chunk.nr_empty_pop_pages > 0
            && self.nr_empty_pop_pages >= self.empty_high()
        {
            // Only populated pages whose blocks may be free can be first.
            page = crate::bitmap::last_both(&chunk.whole, &chunk.populated, (from + 1).max(0) as u32)
                .map_or(-1, |page| page as i32);
        }
        while page >= 0 {
            if chunk.nr_empty_pop_pages == 0 {
                return (None, -1, false);
            }
            if self.nr_empty_pop_pages < self.empty_high() {
                // A range that was being collected stays populated.
                return (None, -1, true);
            }
            if crate::bitmap::test(&chunk.populated, page as u32) && chunk.page_is_empty(&self.ctx, page as u32) {
                end.get_or_insert(page as u32 + 1);
                if page > 0 {
                    page -= 1;
                    continue;
                }
                page = -1;
            }
            if let Some(end) = end {
                count_looked_at(m, page.max(0), from);
                return (Some(((page + 1) as u32, end)), page - 1, false);
            }
            page -= 1;
        }
        count_looked_at(m, 0, from);
        (None, -1, false)
    }
}

/// Pages `first` to `last` were looked at, and their blocks asked.
fn count_looked_at<M: Mode>(m: M, first: i32, last: i32) {
    if last < first {
        return;
    }
    let (first, end) = (first as u32, last as u32 + 1);
    let block = |page: u32| (page << m.page_shift()) >> m.block_shift();
    m.tally().search(Part::Populated, first, end);
    m.tally().count(|costs| costs.blocks_visited += u64::from(end - first));
    (first..end).for_each(|page| m.tally().touch(Part::Blocks, block(page), block(page) + 1));
}
