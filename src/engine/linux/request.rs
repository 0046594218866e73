//! Serving a request: checks, search, creation, population, failure.
//!
//! Source: specification 20 sections 3 to 7.

use super::Linux;
use crate::bitmap;
use crate::boot_log::{message, INFO, WARNING};
use crate::chunk::mode::with_meter;
use crate::chunk::run::Run;
use crate::chunk::Mode;
use crate::cost::{Counter, Part, Searched};
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::units::{Bits, Bytes};

/// What a stopped request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// A new chunk.
    Chunk,
    /// Pages `first..end` of a chunk.
    Pages {
        /// The chunk.
        chunk: ChunkId,
        /// First page.
        first: u32,
        /// Behind the last page.
        end: u32,
    },
}

/// How far a request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Answered.
    Done(Outcome),
    /// The lock is dropped; go on with [`Linux::chunk_made`] or [`Linux::pages_made`].
    Waits(Need),
}

/// A request under way, after rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    /// Bytes, rounded up to the granule.
    pub size: Bytes,
    /// Alignment in bytes, at least the granule.
    pub align: Bytes,
    /// Populated pages only, no new chunk.
    pub atomic: bool,
    reserved: bool,
    nowarn: bool,
    /// Where the area is, once taken.
    area: Option<(ChunkId, Bits)>,
}

pub(super) enum Search {
    Found(ChunkId, Run),
    Nothing,
    Reserved,
}

impl Progress {
    fn is_done(&self) -> bool {
        matches!(self, Progress::Done(_))
    }
}

impl Linux {
    /// Serves a request, asking the backend for what it needs.
    #[inline]
    pub fn alloc(&mut self, request: &Request) -> Outcome {
        with_meter!(self, m => {
            match self.task(request) {
                Err(task) => self.refuse(&task),
                Ok(task) => {
                    let search = self.search(m, &task, 1);
                    self.answer_search(m, task, search)
                }
            }
        })
    }

    /// Answers one request after its search.
    #[inline(always)]
    pub(super) fn answer_search<M: Mode>(&mut self, m: M, task: Task, search: Search) -> Outcome {
        if let Search::Found(id, run) = &search {
            // Nearly always there is nothing to wait for.
            let pages = self.pages_of(m, &task, run.off);
            if task.atomic || self.chunk_mut(*id).is_populated(pages) {
                self.count_alloc(m, *id, &task, run);
                return self.finish(m, *id, &task, Bits(run.off));
            }
        }
        self.answer_slowly(m, task, search)
    }

    #[inline(never)]
    fn answer_slowly<M: Mode>(&mut self, m: M, mut task: Task, search: Search) -> Outcome {
        let progress = self.settle(m, &mut task, search);
        self.finish_task(m, &mut task, progress)
    }

    /// The pages under the area of a task that begins at bit `off`.
    #[inline(always)]
    fn pages_of<M: Mode>(&self, m: M, task: &Task, off: u32) -> std::ops::Range<u32> {
        let end = off + (task.size.0 >> m.granule_shift()) as u32;
        off >> m.page_shift()..(end + m.page_bits() - 1) >> m.page_shift()
    }

    /// Runs a request to its end, asking the backend.
    pub(super) fn finish_task<M: Mode>(&mut self, m: M, task: &mut Task, mut progress: Progress) -> Outcome {
        loop {
            match progress {
                Progress::Done(outcome) => return outcome,
                Progress::Waits(Need::Chunk) => {
                    let chunk = self.create_chunk(m);
                    progress = self.chunk_made_by(m, task, chunk);
                }
                Progress::Waits(Need::Pages { chunk, first, end }) => {
                    let ok = self.backend.populate(chunk, first, end);
                    progress = self.pages_made_by(m, task, first, end, ok);
                }
            }
        }
    }

    /// Rounds and classifies a request; `Err` if it is outside the limits.
    #[inline]
    pub fn task(&self, request: &Request) -> Result<Task, Task> {
        let g = &self.ctx.geometry;
        let granule = g.min_alloc_size();
        // The kernel's arithmetic wraps near the top of the address range.
        let size = Bytes(request.size.0.wrapping_add(granule.0 - 1) & granule.0.wrapping_neg());
        let align = request.align.max(granule);
        let atomic = match request.sleep {
            Sleep::Full => false,
            Sleep::NoFs => !self.ctx.rules.atomic_by_reclaim,
            Sleep::Never => true,
        };
        let task = Task { size, align, atomic, reserved: request.reserved, nowarn: request.nowarn, area: None };
        let legal = size.0 != 0 && size <= self.max_request && align <= g.page_size() && align.0.is_power_of_two();
        if legal {
            Ok(task)
        } else {
            Err(task)
        }
    }

    /// Begins a request: it runs until it is answered or the lock is dropped.
    pub fn start(&mut self, request: &Request) -> (Task, Progress) {
        with_meter!(self, m => self.start_by(m, request), |(_, progress): &(Task, Progress)| progress.is_done())
    }

    #[inline(always)]
    fn start_by<M: Mode>(&mut self, m: M, request: &Request) -> (Task, Progress) {
        match self.task(request) {
            Err(task) => (task, Progress::Done(self.refuse(&task))),
            Ok(mut task) => {
                let progress = self.search_on(m, &mut task);
                (task, progress)
            }
        }
    }

    /// Answers a request outside the limits.
    #[cold]
    pub(super) fn refuse(&mut self, task: &Task) -> Outcome {
        if !task.nowarn {
            self.log(WARNING, || message::illegal_size(task.size.0, task.align.0));
        }
        Outcome::Failed(Reason::Illegal)
    }

    /// Goes on after a stop for a chunk: `None` if none could be made.
    pub fn chunk_made(&mut self, task: &mut Task, chunk: Option<ChunkId>) -> Progress {
        with_meter!(self, m => self.chunk_made_by(m, task, chunk), |progress: &Progress| progress.is_done())
    }

    fn chunk_made_by<M: Mode>(&mut self, m: M, task: &mut Task, chunk: Option<ChunkId>) -> Progress {
        match chunk {
            None => Progress::Done(self.fail(task, Reason::NoChunk)),
            Some(id) => {
                self.enlist(id);
                self.search_on(m, task)
            }
        }
    }

    /// Goes on after a stop for pages `first..end` of the task's chunk.
    pub fn pages_made(&mut self, task: &mut Task, first: u32, end: u32, ok: bool) -> Progress {
        with_meter!(self, m => self.pages_made_by(m, task, first, end, ok), |progress: &Progress| progress.is_done())
    }

    fn pages_made_by<M: Mode>(&mut self, m: M, task: &mut Task, first: u32, end: u32, ok: bool) -> Progress {
        let (chunk, off) = task.area.expect("a task that waits for pages has its area");
        if ok {
            m.tally().enter(chunk.0);
            self.mark_populated(m, chunk, first, end, true);
            return self.populate_from(m, task, chunk, off, end);
        }
        self.release_area(m, chunk, off.0, None);
        task.area = None;
        Progress::Done(self.fail(task, Reason::NoPage))
    }

    /// Searches once: places, fails, or waits for a chunk.
    ///
    /// A fully free chunk fits every legal request, so that nothing found means that there is none.
    #[inline(always)]
    fn search_on<M: Mode>(&mut self, m: M, task: &mut Task) -> Progress {
        let found = self.search(m, task, 1);
        self.settle(m, task, found)
    }

    /// What follows from the outcome of a search, for one area.
    #[inline(always)]
    pub(super) fn settle<M: Mode>(&mut self, m: M, task: &mut Task, search: Search) -> Progress {
        match search {
            Search::Found(chunk, run) => self.found(m, task, chunk, Bits(run.off)),
            Search::Reserved => Progress::Done(self.fail(task, Reason::ReservedFull)),
            Search::Nothing if task.atomic => Progress::Done(self.fail(task, Reason::NoSpace)),
            Search::Nothing => Progress::Waits(Need::Chunk),
        }
    }

    /// One walk over the lists. With `most` above 1 up to so many areas may be taken, as equal requests one after
    /// the other would take them.
    #[inline(always)]
    pub(super) fn search<M: Mode>(&mut self, m: M, task: &Task, most: u32) -> Search {
        let bits = (task.size.0 >> m.granule_shift()) as u32;
        let align = (task.align.0 >> m.granule_shift()) as u32;
        if task.reserved && self.reserved.is_some() {
            return match self.take_area(m, ChunkId::RESERVED, bits, align, task.atomic, 1) {
                Ok(run) => Search::Found(ChunkId::RESERVED, run),
                Err(_) => Search::Reserved,
            };
        }
        let mut from = self.size_to_slot(task.size);
        // What each of equal requests is turned down for; and by whom, if everything is counted.
        let mut again = Searched::default();
        let (first, mut visited) = (from, Vec::new());
        while let Some(slot) = self.slots.occupied_from(from).filter(|slot| *slot <= self.numbers.free) {
            let mut next = self.slots.head(slot);
            while let Some(id) = next {
                next = self.slots.next(id);
                if M::Tally::FULL {
                    visited.push(id);
                }
                let before = m.tally().searched();
                match self.take_area(m, id, bits, align, task.atomic, most) {
                    Ok(run) => {
                        if m.rules().depopulate {
                            self.reintegrate(id);
                        }
                        m.tally().repeat(again, run.count - 1);
                        self.count_unseen(m, first, &visited, (bits, align), task.atomic);
                        return Search::Found(id, run);
                    }
                    Err(NoFit::Hints) if m.rules().sideline_failures && slot < self.thresholds.slot_fail_threshold => {
                        self.slots.push_front(0, id);
                    }
                    Err(_) => again += m.tally().searched() - before,
                }
            }
            from = slot + 1;
        }
        self.count_unseen(m, first, &visited, (bits, align), task.atomic);
        Search::Nothing
    }

    /// A walk over the lists from `first` on is over: are there chunks with a place on other lists?
    #[inline(always)]
    fn count_unseen<M: Mode>(&self, m: M, first: u32, visited: &[ChunkId], (bits, align): (u32, u32), pop_only: bool) {
        if M::Tally::FULL {
            let lists = first..=self.numbers.free;
            let elsewhere = |id: &ChunkId| self.slots.slot_of(*id).is_some_and(|slot| !lists.contains(&slot));
            let unseen = self.chunk_ids().filter(|id| elsewhere(id) && !visited.contains(id));
            let has_place = |id| self.chunk(id).is_some_and(|chunk| chunk.has_place(m, bits, align, pop_only));
            let with_fit = unseen.filter(|id| has_place(*id)).count() as u64;
            m.tally().count(|costs| costs.chunks_unseen_with_fit += with_fit);
        }
    }

    /// Takes an area in one chunk, if there is a fit; or several, see [`Linux::search`].
    #[inline(always)]
    fn take_area<M: Mode>(
        &mut self,
        m: M,
        id: ChunkId,
        bits: u32,
        align: u32,
        pop_only: bool,
        most: u32,
    ) -> Result<Run, NoFit> {
        let spare = self.nr_empty_pop_pages - self.empty_low();
        // Scheduled already, it cannot be scheduled again.
        let spare = if self.balance_pending { i32::MAX } else { spare };
        let chunk = self.chunk_mut(id);
        let before = m.tally().searched();
        m.tally().enter(id.0);
        m.tally().count(|costs| costs.chunks_visited += 1);
        let Some(start) = chunk.find_block_fit(m, bits, align, pop_only) else {
            self.count_rejected(m, id, bits, align, pop_only);
            return Err(NoFit::Hints);
        };
        // Runs touch no lines.
        if !chunk.isolated && !id.is_reserved() && !M::Tally::FULL {
            let found = m.tally().searched() - before;
            let before = chunk.nr_empty_pop_pages;
            if let Some(run) = chunk.fresh_run(m, bits, align, start, most, spare) {
                m.tally().repeat(found, run.count - 1);
                let lost = before - chunk.nr_empty_pop_pages;
                self.nr_empty_pop_pages -= lost;
                return Ok(run);
            }
            if most > 1 && spare >= 0 {
                if let Some(run) = chunk.alloc_run(m, bits, align, start, most) {
                    m.tally().repeat(found, run.count - 1);
                    return Ok(run);
                }
            }
        }
        let Some(off) = self.change(m, id, |chunk| chunk.alloc_area(m, bits, align, start, pop_only)) else {
            self.count_rejected(m, id, bits, align, pop_only);
            return Err(NoFit::Map);
        };
        Ok(Run { off: off.0, step: 0, count: 1 })
    }

    /// A chunk was turned down: was there a place?
    #[inline(always)]
    fn count_rejected<M: Mode>(&self, m: M, id: ChunkId, bits: u32, align: u32, pop_only: bool) {
        if M::Tally::FULL {
            let has_place = self.chunk(id).is_some_and(|chunk| chunk.has_place(m, bits, align, pop_only));
            m.tally().count(|costs| costs.chunks_rejected_with_fit += u64::from(has_place));
        }
    }

    /// Where the area of a task lies, in bytes, once it is taken.
    pub fn area_of(&self, task: &Task) -> Option<Bytes> {
        task.area.map(|(_, off)| self.ctx.geometry.bits_to_bytes(off))
    }

    /// The area of a task: its chunk, and where it lies there in bytes, once it is taken.
    pub(crate) fn place_of(&self, task: &Task) -> Option<(ChunkId, Bytes)> {
        task.area.map(|(chunk, off)| (chunk, self.ctx.geometry.bits_to_bytes(off)))
    }

    /// How far a request has come that waits for pages, as the pages are now: others may have populated some.
    pub(crate) fn look_again(&mut self, task: &Task, progress: Progress) -> Progress {
        match (progress, task.area) {
            (Progress::Waits(Need::Pages { .. }), Some((chunk, off))) => {
                let first = off.0 / self.ctx.geometry.page_bits();
                self.populate_from(&{ self.ctx }, task, chunk, off, first)
            }
            _ => progress,
        }
    }

    /// Marks the pages under the area of a task populated, as a recording says they are. False if they were.
    pub(crate) fn populate_area(&mut self, task: &Task) -> bool {
        let Some((id, off)) = task.area else { return false };
        let end = self.pages_of(&{ self.ctx }, task, off.0).end;
        let mut noted = false;
        let first = off.0 / self.ctx.geometry.page_bits();
        while let Some((first, end)) = self.chunk(id).and_then(|chunk| chunk.unpopulated_range(first, end)) {
            with_meter!(self, m => self.mark_populated(m, id, first, end, true));
            noted = true;
        }
        noted
    }

    /// Serves a request at byte `off` of chunk `id` instead of searching, as a recording says; `None`
    /// if that place cannot be.
    pub(crate) fn force(&mut self, request: &Request, id: ChunkId, off: Bytes) -> Option<(Task, Progress)> {
        let mut task = self.task(request).ok()?;
        let chunk = self.chunk(id)?;
        let granule = self.ctx.geometry.min_alloc_size().0;
        let from = u32::try_from(off.0 / granule).ok()?;
        let bits = self.ctx.geometry.bytes_to_bits(task.size).0;
        let served = chunk.served(&self.ctx);
        let end = u64::from(from) + u64::from(bits);
        let fits = off.0 % granule == 0 && from >= served.start && end <= u64::from(served.end);
        if !fits || bitmap::count_set(chunk.alloc_map(), from, from + bits) > 0 {
            return None;
        }
        let progress = with_meter!(self, m => self.place_at_bit(m, &mut task, id, from, bits), Progress::is_done);
        Some((task, progress))
    }

    /// Takes an area for a task without a search.
    fn place_at_bit<M: Mode>(&mut self, m: M, task: &mut Task, id: ChunkId, from: u32, bits: u32) -> Progress {
        m.tally().enter(id.0);
        m.tally().count(|costs| costs.chunks_visited += 1);
        self.change(m, id, |chunk| chunk.place(m, from, bits));
        if self.ctx.rules.depopulate && !id.is_reserved() {
            self.reintegrate(id);
        }
        self.found(m, task, id, Bits(from))
    }

    /// Lets a request fail without a search, as a recording says.
    pub(crate) fn force_failure(&mut self, request: &Request) -> (Task, Progress) {
        let task = self.task(request).unwrap_or_else(|task| task);
        let reason = if task.atomic { Reason::NoSpace } else { Reason::NoChunk };
        let outcome = self.fail(&task, reason);
        (task, Progress::Done(outcome))
    }

    /// Where the search in chunk `id` would start for `task`, as the hints stand.
    pub fn search_start(&self, id: ChunkId, task: &Task) -> Option<u32> {
        let g = &self.ctx.geometry;
        let (bits, align) = (g.bytes_to_bits(task.size).0, g.bytes_to_bits(task.align).0);
        self.chunk(id)?.find_block_fit(&self.ctx, bits, align, task.atomic)
    }

    #[inline(always)]
    fn found<M: Mode>(&mut self, m: M, task: &mut Task, id: ChunkId, off: Bits) -> Progress {
        task.area = Some((id, off));
        self.count_alloc(m, id, task, &Run { off: off.0, step: 0, count: 1 });
        if task.atomic {
            return Progress::Done(self.finish(m, id, task, off));
        }
        self.populate_from(m, task, id, off, off.0 >> m.page_shift())
    }

    /// Statistics of areas that were taken, and the look at their pages; those of several lie on one page each.
    #[inline(always)]
    pub(super) fn count_alloc<M: Mode>(&mut self, m: M, id: ChunkId, task: &Task, run: &Run) {
        let (size, count) = (task.size, run.count);
        if !task.atomic {
            let pages = self.pages_of(m, task, run.off);
            m.tally().search(Part::Populated, pages.start, pages.end);
            m.tally().count(|costs| costs.words_read += u64::from(count - 1));
        }
        self.stats.allocated_many(size, u64::from(count));
        let chunk = self.chunk_mut(id);
        chunk.nr_alloc += count;
        chunk.max_alloc_size = chunk.max_alloc_size.max(size.0 as u32);
    }

    /// Waits for the next unpopulated range of the task's area, or finishes.
    #[inline(always)]
    fn populate_from<M: Mode>(&mut self, m: M, task: &Task, id: ChunkId, off: Bits, from: u32) -> Progress {
        let end = self.pages_of(m, task, off.0).end;
        match self.chunk(id).expect("the chunk exists").unpopulated_range(from, end) {
            Some((first, end)) => Progress::Waits(Need::Pages { chunk: id, first, end }),
            None => Progress::Done(self.finish(m, id, task, off)),
        }
    }

    #[inline(always)]
    pub(super) fn finish<M: Mode>(&mut self, m: M, id: ChunkId, task: &Task, off: Bits) -> Outcome {
        let cleared = task.size.0 * self.backend.nr_cpus();
        m.tally().count(|costs| costs.cleared_bytes += cleared);
        if self.nr_empty_pop_pages < self.empty_low() {
            self.schedule_balance();
        }
        Outcome::Placed { chunk: id, off: Bytes(u64::from(off.0) << m.granule_shift()) }
    }

    #[cold]
    fn fail(&mut self, task: &Task, reason: Reason) -> Outcome {
        let prints = !task.nowarn && (!task.atomic || self.warn_atomic);
        if prints && self.warn_limit > 0 {
            self.log(WARNING, || {
                "percpu: ".to_owned()
                    + &message::allocation_failed(task.size.0, task.align.0, task.atomic, reason.text())
            });
            self.warn_limit -= 1;
            if self.warn_limit == 0 {
                self.log(INFO, || "percpu: ".to_owned() + message::LIMIT_REACHED);
            }
        }
        if task.atomic {
            self.atomic_failed = true;
            self.schedule_balance();
        }
        Outcome::Failed(reason)
    }

    fn log(&mut self, level: u8, text: impl FnOnce() -> String) {
        if self.backend.journal.enabled {
            self.backend.journal.log.push((level, text()));
        }
    }
}

/// Why a chunk was passed over.
enum NoFit {
    /// Its hints show no fit.
    Hints,
    /// The map does not have what the hints promised.
    Map,
}
