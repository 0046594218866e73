//! Serving a request: checks, search, creation, population, failure.
//!
//! Source: specification 20 sections 3 to 7.

use super::{Linux, EMPTY_LOW, FAIL_THRESHOLD};
use crate::bitmap;
use crate::boot_log::{message, INFO, WARNING};
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

enum Search {
    Found(ChunkId, Bits),
    Nothing,
    Reserved,
}

impl Linux {
    /// Serves a request, asking the backend for what it needs.
    #[inline]
    pub fn alloc(&mut self, request: &Request) -> Outcome {
        let (mut task, mut progress) = self.start(request);
        loop {
            match progress {
                Progress::Done(outcome) => return outcome,
                Progress::Waits(Need::Chunk) => {
                    let chunk = self.create_chunk();
                    progress = self.chunk_made(&mut task, chunk);
                }
                Progress::Waits(Need::Pages { chunk, first, end }) => {
                    let ok = self.backend.populate(chunk, first, end);
                    progress = self.pages_made(&mut task, first, end, ok);
                }
            }
        }
    }

    /// Rounds and classifies a request; `Err` if it is outside the limits.
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
        let legal = size.0 != 0 && size <= g.max_request() && align <= g.page_size() && align.0.is_power_of_two();
        if legal {
            Ok(task)
        } else {
            Err(task)
        }
    }

    /// Begins a request: it runs until it is answered or the lock is dropped.
    #[inline]
    pub fn start(&mut self, request: &Request) -> (Task, Progress) {
        match self.task(request) {
            Err(task) => {
                if !task.nowarn {
                    self.log(WARNING, || message::illegal_size(task.size.0, task.align.0));
                }
                (task, Progress::Done(Outcome::Failed(Reason::Illegal)))
            }
            Ok(mut task) => {
                let progress = self.search_on(&mut task);
                (task, progress)
            }
        }
    }

    /// Goes on after a stop for a chunk: `None` if none could be made.
    pub fn chunk_made(&mut self, task: &mut Task, chunk: Option<ChunkId>) -> Progress {
        match chunk {
            None => Progress::Done(self.fail(task, Reason::NoChunk)),
            Some(id) => {
                self.enlist(id);
                self.search_on(task)
            }
        }
    }

    /// Goes on after a stop for pages `first..end` of the task's chunk.
    pub fn pages_made(&mut self, task: &mut Task, first: u32, end: u32, ok: bool) -> Progress {
        let (chunk, off) = task.area.expect("a task that waits for pages has its area");
        if ok {
            self.mark_populated(chunk, first, end, true);
            return self.populate_from(task, chunk, off, end);
        }
        self.release_area(chunk, off.0);
        Progress::Done(self.fail(task, Reason::NoPage))
    }

    /// Searches once: places, fails, or waits for a chunk.
    ///
    /// A fully free chunk fits every legal request, so that nothing found means that there is none.
    #[inline]
    fn search_on(&mut self, task: &mut Task) -> Progress {
        match self.search(task) {
            Search::Found(chunk, off) => self.found(task, chunk, off),
            Search::Reserved => Progress::Done(self.fail(task, Reason::ReservedFull)),
            Search::Nothing if task.atomic => Progress::Done(self.fail(task, Reason::NoSpace)),
            Search::Nothing => Progress::Waits(Need::Chunk),
        }
    }

    /// One walk over the lists.
    #[inline]
    fn search(&mut self, task: &Task) -> Search {
        let g = &self.ctx.geometry;
        let bits = g.bytes_to_bits(task.size).0;
        let align = g.bytes_to_bits(task.align).0;
        if task.reserved && self.reserved.is_some() {
            return match self.take_area(ChunkId::RESERVED, bits, align, task.atomic) {
                Ok(off) => Search::Found(ChunkId::RESERVED, off),
                Err(_) => Search::Reserved,
            };
        }
        let mut from = self.size_to_slot(task.size);
        while let Some(slot) = self.slots.occupied_from(from).filter(|slot| *slot <= self.numbers.free) {
            let mut next = self.slots.head(slot);
            while let Some(id) = next {
                next = self.slots.next(id);
                match self.take_area(id, bits, align, task.atomic) {
                    Ok(off) => {
                        if self.ctx.rules.depopulate {
                            self.reintegrate(id);
                        }
                        return Search::Found(id, off);
                    }
                    Err(NoFit::Hints) if self.ctx.rules.sideline_failures && slot < FAIL_THRESHOLD => {
                        self.slots.push_front(0, id);
                    }
                    Err(_) => {}
                }
            }
            from = slot + 1;
        }
        Search::Nothing
    }

    /// Takes an area in one chunk, if there is a fit.
    #[inline]
    fn take_area(&mut self, id: ChunkId, bits: u32, align: u32, pop_only: bool) -> Result<Bits, NoFit> {
        let chunk = self.chunk(id).expect("a listed chunk exists");
        let start = chunk.find_block_fit(&self.ctx, bits, align, pop_only).ok_or(NoFit::Hints)?;
        self.change(id, |chunk, ctx| chunk.alloc_area(ctx, bits, align, start, pop_only)).ok_or(NoFit::Map)
    }

    /// Where the area of a task lies, in bytes, once it is taken.
    pub fn area_of(&self, task: &Task) -> Option<Bytes> {
        task.area.map(|(_, off)| self.ctx.geometry.bits_to_bytes(off))
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
        let fits = off.0 % granule == 0 && from >= served.start && from + bits <= served.end;
        if !fits || bitmap::count_set(chunk.alloc_map(), from, from + bits) > 0 {
            return None;
        }
        self.change(id, |chunk, ctx| chunk.place(ctx, from, bits));
        if self.ctx.rules.depopulate && !id.is_reserved() {
            self.reintegrate(id);
        }
        let progress = self.found(&mut task, id, Bits(from));
        Some((task, progress))
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

    #[inline]
    fn found(&mut self, task: &mut Task, id: ChunkId, off: Bits) -> Progress {
        task.area = Some((id, off));
        self.count_alloc(id, task.size);
        if task.atomic {
            return Progress::Done(self.finish(id, off));
        }
        let first = off.0 >> self.ctx.geometry.page_bits_shift();
        self.populate_from(task, id, off, first)
    }

    /// Statistics of an area that was taken.
    pub(crate) fn count_alloc(&mut self, id: ChunkId, size: Bytes) {
        self.stats.allocated(size);
        let chunk = self.chunk_mut(id);
        chunk.nr_alloc += 1;
        chunk.max_alloc_size = chunk.max_alloc_size.max(size.0 as u32);
    }

    /// Waits for the next unpopulated range of the task's area, or finishes.
    #[inline]
    fn populate_from(&mut self, task: &Task, id: ChunkId, off: Bits, from: u32) -> Progress {
        let g = &self.ctx.geometry;
        let area_end = g.bits_to_bytes(off) + task.size;
        let end = g.bytes_to_pages_ceil(area_end).0;
        match self.chunk(id).expect("the chunk exists").unpopulated_range(from, end) {
            Some((first, end)) => Progress::Waits(Need::Pages { chunk: id, first, end }),
            None => Progress::Done(self.finish(id, off)),
        }
    }

    #[inline]
    pub(crate) fn finish(&mut self, id: ChunkId, off: Bits) -> Outcome {
        if self.nr_empty_pop_pages < EMPTY_LOW {
            self.schedule_balance();
        }
        Outcome::Placed { chunk: id, off: self.ctx.geometry.bits_to_bytes(off) }
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
