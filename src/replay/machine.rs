//! The state between two lines of a recording: engine, requests under way, worker.
//!
//! # Design
//!
//! | line | what goes on |
//! |---|---|
//! | `free` | the free, at once |
//! | `alloc_area` | its request starts here |
//! | allocation, failure | the request, if it did not start before; then the comparison |
//! | `populated`, `create` | whoever waits for it; else the request ahead that it belongs to starts |
//! | `depopulated`, `destroy`, `balance_*` | the worker |
//!
//! A line that nobody waits for is counted, its bookkeeping is applied, and the replay goes on.
//!
//! Traces contradict themselves: lines are lost, cut off, out of order, or from another machine than the start state.
//! What is under way then gives way to what is written: a request whose chunk or area is gone is forgotten, and made when
//! its own line is read; one whose pages others populated goes on; a run of the worker whose chunk is taken from it is put
//! back. So every request under way has a live area, or none, and waits for pages that are not populated; every chunk the
//! worker holds exists. [`Machine::settle`] ends what is under way, so that every invariant of the allocator holds.
//!
//! Traces without the recorder's probes show neither population nor the worker: then pages are
//! there when asked for and the worker runs at once when it is scheduled.
//!
//! # Source
//!
//! Specification 50 sections 2 to 4, 6 and 7.

use std::collections::HashMap;

use super::lookahead::{self, Lookahead};
use super::recorded_place;
use super::timeline::live_bytes;
use crate::chunk::{Chunk, Role};
use crate::engine::linux::{Done, Linux, Need, Progress, Stop, Task, Worker};
use crate::engine::Engine;
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::trace::{flag, Alloc, Base, Event, Kind, Record, Trace, NO_CPU};
use crate::units::Bytes;

/// Counts of a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Events read.
    pub events: u64,
    /// Served requests that were predicted: chunk and offset.
    pub allocs: u64,
    /// Failed requests that were predicted to fail.
    pub fails: u64,
    /// Frees.
    pub frees: u64,
    /// Lines about pages, chunks and the worker that were predicted.
    pub background: u64,
    /// Lines about pages, chunks and the worker that were not predicted, and runs of the worker that
    /// were not scheduled.
    pub unexplained: u64,
    /// Requests whose line was written late, so that they had to start before other lines.
    pub late: u64,
    /// Requests with another outcome than predicted, creations and destructions that were not
    /// predicted, frees of what is not live, places that cannot be.
    pub diverged: u64,
}

/// What the driver knows better than the lines say.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides {
    /// By event: the event from which on it is known.
    forced: HashMap<usize, usize>,
    start_before: HashMap<usize, usize>,
}

impl Overrides {
    /// The request of event `event` gets what was recorded, if it starts at event `from` or later.
    pub fn force(&mut self, event: usize, from: usize) {
        self.forced.entry(event).or_insert(from);
    }

    /// The request of event `event` starts before the line of event `start`.
    pub fn start_before(&mut self, event: usize, start: usize) {
        self.start_before.insert(start, event);
    }

    /// Takes back what was said of starting before event `start`.
    pub fn forget_start(&mut self, start: usize) {
        self.start_before.remove(&start);
    }

    /// The request that starts before event `start`.
    #[inline]
    fn before(&self, start: usize) -> Option<usize> {
        if self.start_before.is_empty() {
            return None;
        }
        self.start_before.get(&start).copied()
    }

    #[inline]
    fn is_forced(&self, event: usize, at: usize) -> bool {
        !self.forced.is_empty() && self.forced.get(&event).is_some_and(|from| *from <= at)
    }

    /// True if another request starts before event `start` already.
    pub fn taken(&self, start: usize) -> bool {
        self.start_before.contains_key(&start)
    }
}

/// A request with another outcome than recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mismatch {
    pub predicted: Outcome,
    /// The event before or at whose line the request was started.
    pub started_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Started {
    event: usize,
    at: usize,
    cpu: Option<u16>,
    task: Task,
    progress: Progress,
}

impl Started {
    /// Goes on with a chunk, or without one.
    fn chunk_made(&mut self, engine: &mut Linux, live_bytes: &mut u64, chunk: Option<ChunkId>) {
        self.progress = engine.chunk_made(&mut self.task, chunk);
        if engine.area_of(&self.task).is_some() {
            *live_bytes += self.task.size.0;
        }
    }

    /// Goes on with the pages that it waits for, or gives its area back without them.
    fn pages_made(&mut self, engine: &mut Linux, live_bytes: &mut u64, ok: bool) {
        let Progress::Waits(Need::Pages { first, end, .. }) = self.progress else { return };
        self.progress = engine.pages_made(&mut self.task, first, end, ok);
        if !ok {
            *live_bytes -= self.task.size.0;
        }
    }
}

/// Everything between two lines.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub engine: Linux,
    pub totals: Totals,
    worker: Option<Worker>,
    started: Vec<Started>,
    background: bool,
    /// The first divergence that is no request with another outcome.
    pub first_surprise: Option<(usize, &'static str)>,
    /// Late boot comes after this request: it needed the chunk that shows where late boot is.
    gate_after: Option<usize>,
    /// Bytes of live areas in one unit.
    pub live_bytes: u64,
    /// By index of a base in the trace: the chunk that was last found there.
    by_base: Vec<ChunkId>,
    /// Addresses are only names.
    hashed: bool,
}

/// What a step may look at.
#[derive(Clone, Copy)]
pub(super) struct View<'t> {
    pub trace: &'t Trace,
    pub ahead: &'t Lookahead,
    pub overrides: &'t Overrides,
}

impl Machine {
    pub fn new(engine: Linux, ahead: &Lookahead, trace: &Trace) -> Self {
        Self {
            live_bytes: live_bytes(&engine),
            by_base: vec![ChunkId::RESERVED; trace.bases().len()],
            hashed: trace.hashed(),
            engine,
            totals: Totals::default(),
            worker: None,
            started: Vec::new(),
            background: ahead.background(),
            first_surprise: None,
            gate_after: None,
        }
    }

    /// True if nothing is under way, so that every invariant must hold.
    pub fn at_rest(&self) -> bool {
        self.worker.is_none() && self.started.is_empty()
    }

    /// Ends what is under way, where the trace ends or is left: requests get the pages that they wait for, those that wait
    /// for a chunk are forgotten, and the worker is scheduled anew for what it had not done.
    pub fn settle(&mut self) {
        self.put_worker_back();
        for mut started in std::mem::take(&mut self.started) {
            started.progress = self.engine.look_again(&started.task, started.progress);
            while let Progress::Waits(Need::Pages { .. }) = started.progress {
                started.pages_made(&mut self.engine, &mut self.live_bytes, true);
            }
        }
    }

    fn put_worker_back(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.engine.put_back(&worker);
        }
    }

    /// Chunk `id` goes, or changes, by a line that the worker does not know: if it holds the chunk it does not go on.
    fn take_from_worker(&mut self, id: ChunkId) {
        if self.worker.as_ref().is_some_and(|worker| worker.holds(id)) {
            self.put_worker_back();
        }
    }

    /// Pages were populated or given back: requests that wait for pages look again.
    fn pages_changed(&mut self) {
        for started in &mut self.started {
            started.progress = self.engine.look_again(&started.task, started.progress);
        }
    }

    /// Frees an area as a line says, and forgets a request that took it and has not written its line. False if it is not live.
    #[inline]
    fn free(&mut self, chunk: ChunkId, off: Bytes) -> bool {
        let Ok(size) = self.engine.free(chunk, off, None) else { return false };
        if !self.started.is_empty() {
            let Self { started, engine, .. } = self;
            started.retain(|started| engine.place_of(&started.task) != Some((chunk, off)));
        }
        self.live_bytes -= size.0;
        true
    }

    /// Undoes what a request under way has done.
    fn withdraw(&mut self, started: &Started) {
        if let Some((chunk, off)) = self.engine.place_of(&started.task) {
            self.free(chunk, off);
        }
    }

    /// Removes a chunk that a line says is gone, with all that lies in it and who waits for something in it.
    fn drop_chunk(&mut self, id: ChunkId) {
        if self.engine.chunk(id).is_none_or(Chunk::immutable) {
            return;
        }
        self.take_from_worker(id);
        let Self { started, engine, .. } = self;
        started.retain(|started| engine.place_of(&started.task).is_none_or(|(chunk, _)| chunk != id));
        self.engine.drop_chunk(id);
        self.live_bytes = live_bytes(&self.engine);
    }

    /// Areas that are taken by requests whose lines come later.
    pub fn areas_under_way(&self) -> Vec<(ChunkId, Bytes)> {
        self.started.iter().filter_map(|started| self.engine.place_of(&started.task)).collect()
    }

    /// About how many bytes a copy takes.
    pub fn map_bytes(&self) -> u64 {
        let g = self.engine.geometry();
        let chunk = g.pages_to_bits(g.unit_pages()).0 / 4 + g.unit_pages().0 * 40;
        u64::from(chunk) * self.engine.chunk_ids().count() as u64
    }

    /// The place that a line records, as the engine names it.
    #[inline]
    fn place(&mut self, base: Base, off: Bytes) -> Option<ChunkId> {
        let known = self.by_base.get(base.index as usize).copied().unwrap_or(ChunkId::RESERVED);
        // Numbers are not given twice, so that a later chunk has its base for life; boot chunks may share one.
        let later = |chunk: &Chunk| chunk.base_addr == base.addr && chunk.role == Role::Dynamic;
        if self.engine.chunk(known).is_some_and(later) && off < self.engine.geometry().unit_size() {
            return Some(known);
        }
        // By its base first: hashed bases may lie closer than a unit.
        let at_base = self.engine.chunk_at_base(base.addr).filter(|id| self.engine.chunk(*id).is_some_and(later));
        let inside = off < self.engine.geometry().unit_size();
        let found = at_base.filter(|_| inside).or_else(|| recorded_place(&self.engine, base.addr, off.0))?;
        if let Some(known) = self.by_base.get_mut(base.index as usize) {
            *known = found;
        }
        Some(found)
    }

    /// Bytes that a request has taken so far.
    #[inline]
    fn taken(&self, task: &Task) -> u64 {
        self.engine.area_of(task).map_or(0, |_| task.size.0)
    }

    /// Reads the line of event `index`. The outcome if it is a request.
    pub fn step(&mut self, view: &View<'_>, index: usize) -> Result<Option<Outcome>, Mismatch> {
        if let Some(event) = view.overrides.before(index) {
            self.start(view, event, index);
        }
        if let Some(outcome) = self.plain_line(view, index)? {
            return Ok(outcome);
        }
        let Some(record) = view.trace.get(index) else { return Ok(None) };
        let mut outcome = None;
        match record.event {
            Event::Alloc(_) | Event::AllocFail { .. } => outcome = self.request_line(view, &record)?,
            Event::Free { base, off, .. } => {
                let place = base.and_then(|base| self.place(base, off));
                if place.is_some_and(|chunk| self.free(chunk, off)) {
                    self.totals.frees += 1;
                } else {
                    self.surprise(index, "frees what is not live");
                }
            }
            Event::AllocArea { base, start, .. } => {
                if let Some(event) = view.ahead.request_of_area(index) {
                    self.area_line(view, event, index, base.addr, start.0);
                }
            }
            Event::Create { base: Some(base) } => self.create_line(view, &record, base.addr),
            Event::Destroy { base: Some(base) } => self.destroy_line(index, base.addr),
            Event::Populated { base, first, end } => {
                self.populated_line(view, index, (base.addr, first.0, end.0));
            }
            Event::Depopulated { base, first, end } => self.depopulated_line(index, base.addr, first.0, end.0),
            Event::BalanceBegin => self.begin_line(view, &record),
            Event::BalanceFree { empty_only } => {
                let explained = self.offer(|_, stop| (stop == Stop::FreePass { empty_only }).then_some(Done::Ok));
                self.count(explained);
            }
            Event::BalanceEnd => {
                self.pass_flush();
                let finished = self.worker.as_ref().is_some_and(|worker| worker.waits().is_none());
                self.put_worker_back();
                self.count(finished);
            }
            _ => {}
        }
        if self.gate_after == Some(index) {
            self.gate_after = None;
            self.engine.enable_async();
        }
        if !self.background && self.engine.balance_pending() {
            self.run_worker_now(view.trace, index + 1);
        }
        Ok(outcome)
    }

    /// The line of a request or free that nothing else is concerned with, which most lines are: read off the columns.
    /// `None` leaves it to [`Self::step`]; a request may be under way then.
    #[inline]
    fn plain_line(&mut self, view: &View<'_>, index: usize) -> Result<Option<Option<Outcome>>, Mismatch> {
        let columns = view.trace.columns();
        let kind = columns.kind[index];
        if !matches!(kind, Kind::Alloc | Kind::Free) || !self.background || self.gate_after.is_some() {
            return Ok(None);
        }
        let Some(&addr) = view.trace.bases().get(columns.base[index] as usize) else { return Ok(None) };
        let (base, off) = (Base { index: columns.base[index], addr }, Bytes(columns.off[index].max(0) as u64));
        if kind == Kind::Free {
            let Some(chunk) = self.place(base, off) else { return Ok(None) };
            if !self.free(chunk, off) {
                return Ok(None);
            }
            self.totals.frees += 1;
            return Ok(Some(None));
        }
        if self.is_started(index) || view.overrides.is_forced(index, index) {
            return Ok(None);
        }
        let bytes = |value: u32| Bytes(u64::from(value));
        let flags = columns.flags[index];
        let (size, align) = (bytes(columns.size[index]), bytes(columns.align[index]));
        let request = recorded_request(size, align, flags & flag::RESERVED != 0, flags & flag::ATOMIC != 0);
        let (task, progress) = self.engine.start(&request);
        self.live_bytes += self.taken(&task);
        let Progress::Done(predicted) = progress else {
            let cpu = (columns.cpu[index] != NO_CPU).then_some(columns.cpu[index]);
            self.started.push(Started { event: index, at: index, cpu, task, progress });
            return Ok(None);
        };
        let recorded = self.place(base, off).map(|chunk| Outcome::Placed { chunk, off });
        if recorded != Some(predicted) {
            return Err(Mismatch { predicted, started_at: index });
        }
        self.totals.allocs += 1;
        Ok(Some(Some(predicted)))
    }

    /// Counts a divergence that is no request with another outcome, and keeps the first.
    fn surprise(&mut self, event: usize, what: &'static str) {
        self.totals.diverged += 1;
        self.first_surprise.get_or_insert((event, what));
    }

    fn count(&mut self, explained: bool) {
        if explained {
            self.totals.background += 1;
        } else {
            self.totals.unexplained += 1;
        }
    }

    fn is_started(&self, event: usize) -> bool {
        self.started.iter().any(|started| started.event == event)
    }

    /// Starts the request of event `event` at the line of event `at`, unless it is under way.
    fn start(&mut self, view: &View<'_>, event: usize, at: usize) {
        if self.is_started(event) {
            return;
        }
        let Some(record) = view.trace.get(event) else { return };
        let Some(request) = request_of(&record.event) else { return };
        let forced = view.overrides.is_forced(event, at);
        let (task, progress) = match record.event {
            Event::Alloc(Alloc { base, off, .. }) if forced => {
                let place = base.and_then(|base| self.place(base, off));
                if let Some(chunk) = place {
                    self.take_from_worker(chunk);
                }
                match place.and_then(|chunk| self.engine.force(&request, chunk, off)) {
                    Some((task, progress)) => {
                        if task.atomic && self.engine.populate_area(&task) {
                            self.count(false);
                            self.pages_changed();
                        }
                        (task, progress)
                    }
                    None => return self.surprise(event, "records a place that cannot be: not free, or in no chunk"),
                }
            }
            _ if forced => self.engine.force_failure(&request),
            _ => self.engine.start(&request),
        };
        self.live_bytes += self.taken(&task);
        self.started.push(Started { event, at, cpu: record.cpu, task, progress });
    }

    /// The line of a request: it must be done, and as recorded.
    fn request_line(&mut self, view: &View<'_>, record: &Record<'_>) -> Result<Option<Outcome>, Mismatch> {
        match self.done_at_line(view, record) {
            Err(_) if view.overrides.is_forced(record.index, record.index) => {
                // It was under way before it was known what it must get.
                if let Some(position) = self.started.iter().position(|started| started.event == record.index) {
                    let started = self.started.swap_remove(position);
                    self.withdraw(&started);
                }
                Ok(self.done_at_line(view, record).unwrap_or(None))
            }
            done => done,
        }
    }

    fn done_at_line(&mut self, view: &View<'_>, record: &Record<'_>) -> Result<Option<Outcome>, Mismatch> {
        self.start(view, record.index, record.index);
        let Some(position) = self.started.iter().position(|started| started.event == record.index) else {
            return Ok(None);
        };
        self.finish_unseen(view, position, &record.event);
        let Started { task, progress, at, .. } = self.started[position];
        let predicted = match progress {
            Progress::Done(outcome) => outcome,
            Progress::Waits(Need::Pages { chunk, .. }) => {
                Outcome::Placed { chunk, off: self.engine.area_of(&task).unwrap_or_default() }
            }
            Progress::Waits(Need::Chunk) => Outcome::Failed(Reason::NoChunk),
        };
        let equal = match record.event {
            Event::Alloc(Alloc { base, off, .. }) => {
                let place = base.and_then(|base| self.place(base, off));
                place.is_some_and(|chunk| predicted == Outcome::Placed { chunk, off })
            }
            _ => matches!(predicted, Outcome::Failed(_)),
        };
        if !equal {
            return Err(Mismatch { predicted, started_at: at });
        }
        self.started.swap_remove(position);
        match predicted {
            Outcome::Placed { .. } => self.totals.allocs += 1,
            Outcome::Failed(_) => self.totals.fails += 1,
        }
        Ok(Some(predicted))
    }

    /// Gives a request at its own line what no line has shown. Without the recorder's probes that is
    /// every population; with them, a failing request's stop, or pages in the right place.
    fn finish_unseen(&mut self, view: &View<'_>, position: usize, event: &Event<'_>) {
        let failed = matches!(event, Event::AllocFail { .. });
        while let Progress::Waits(need) = self.started[position].progress {
            let Self { engine, live_bytes, started, hashed, .. } = self;
            let started = &mut started[position];
            match need {
                Need::Chunk if failed => started.chunk_made(engine, live_bytes, None),
                Need::Pages { .. } if failed => started.pages_made(engine, live_bytes, false),
                Need::Pages { chunk, .. } => {
                    let predicted = Some((chunk, engine.area_of(&started.task)));
                    let recorded = match event {
                        Event::Alloc(Alloc { base: Some(base), off, .. }) => {
                            recorded_place(engine, base.addr, off.0).map(|chunk| (chunk, Some(*off)))
                        }
                        _ => None,
                    };
                    if self.background && predicted != recorded {
                        return;
                    }
                    self.totals.unexplained += u64::from(self.background);
                    started.pages_made(engine, live_bytes, true);
                    self.pages_changed();
                }
                Need::Chunk if self.background => return,
                Need::Chunk => {
                    let can_be = |base| engine.can_create_at(base, *hashed);
                    let Some(base) = lookahead::next_creation(view.trace, started.event, can_be) else { return };
                    let chunk = engine.create_chunk_at(base);
                    started.chunk_made(engine, live_bytes, Some(chunk));
                }
            }
        }
    }

    /// The line that shows an area being taken: its request starts here.
    fn area_line(&mut self, view: &View<'_>, event: usize, index: usize, base: u64, start: u32) {
        if self.is_started(event) {
            return;
        }
        let request = view.trace.get(event).and_then(|record| request_of(&record.event));
        let chunk = self.engine.chunk_at_base(base);
        if let (Some(request), Some(chunk)) = (request, chunk) {
            let fit = self.engine.task(&request).ok().and_then(|task| self.engine.search_start(chunk, &task));
            if fit.is_some_and(|fit| fit != start) {
                self.totals.unexplained += 1;
            }
        }
        self.start(view, event, index);
    }

    /// Lets the worker go on past the flush, which no line shows.
    fn pass_flush(&mut self) {
        if let Some(worker) = self.worker.as_mut().filter(|worker| worker.waits() == Some(Stop::Flush)) {
            self.engine.run_worker(worker, Done::Ok);
        }
    }

    /// Offers a line to the worker: if it answers what the worker waits for, the worker goes on.
    fn offer(&mut self, answers: impl FnOnce(&mut Linux, Stop) -> Option<Done>) -> bool {
        self.pass_flush();
        let Some(worker) = &mut self.worker else { return false };
        let waits = worker.waits().filter(|stop| self.engine.can_answer(*stop));
        let Some(done) = waits.and_then(|stop| answers(&mut self.engine, stop)) else { return false };
        self.engine.run_worker(worker, done);
        self.pages_changed();
        true
    }

    fn populated_line(&mut self, view: &View<'_>, index: usize, (base, first, end): (u64, u32, u32)) {
        let Some(chunk) = self.engine.chunk_at_base(base) else {
            // The no-MMU back end populates a chunk before it announces it.
            return self.count(self.engine.backend.contiguous);
        };
        if self.offer(|_, stop| (stop == Stop::Populate { chunk, first, end }).then_some(Done::Ok)) {
            return self.count(true);
        }
        let need = Need::Pages { chunk, first, end };
        if self.populate_started(need) {
            return self.count(true);
        }
        let page_size = self.engine.geometry().page_size().0;
        let pages = (base, u64::from(first), u64::from(end));
        let ahead = lookahead::request_for_pages(view.trace, index, |e| self.is_started(e), pages, page_size);
        if let Some(event) = ahead {
            self.start(view, event, index);
            if self.populate_started(need) {
                return self.count(true);
            }
        }
        self.count(false);
        self.engine.note_populated(chunk, first, end);
        self.pages_changed();
    }

    /// Gives the pages to the request that waits for just these.
    fn populate_started(&mut self, need: Need) -> bool {
        let waiting = self.started.iter_mut().find(|started| started.progress == Progress::Waits(need));
        let Some(started) = waiting else { return false };
        started.pages_made(&mut self.engine, &mut self.live_bytes, true);
        self.pages_changed();
        true
    }

    fn depopulated_line(&mut self, index: usize, base: u64, first: u32, end: u32) {
        let Some(chunk) = self.engine.chunk_at_base(base) else { return self.count(false) };
        let explained = self.offer(|_, stop| (stop == Stop::Release { chunk, first, end }).then_some(Done::Ok));
        self.count(explained);
        if !explained && !self.engine.note_depopulated(chunk, first, end) {
            self.surprise(index, "gives back pages that are in use");
        }
    }

    fn create_line(&mut self, view: &View<'_>, record: &Record<'_>, base: u64) {
        if self.engine.chunk_at_base(base).is_some() {
            // The worker made it ahead of its line, or it is the announcement of the first chunk.
            return self.count(!self.background);
        }
        if !self.engine.can_create_at(base, self.hashed) {
            self.count(false);
            return self.surprise(record.index, "creates a chunk that cannot be: in another one, or one of too many");
        }
        if self.offer(|engine, stop| (stop == Stop::Create).then(|| Done::Created(engine.create_chunk_at(base)))) {
            return self.count(true);
        }
        if self.create_for_request(view, record, base) {
            return self.count(true);
        }
        if !self.background && !self.engine.totals().async_enabled {
            // Late boot is not visible: no request needs this chunk, so the worker made it.
            self.engine.enable_async();
            self.run_worker_now(view.trace, record.index);
            if self.engine.chunk_at_base(base).is_some() {
                return self.count(true);
            }
        }
        self.count(false);
        self.surprise(record.index, "creates a chunk that was not predicted");
        self.engine.adopt_chunk(base);
    }

    /// Gives the chunk at `base` to the request that waits for one, or that lies ahead and needs one.
    fn create_for_request(&mut self, view: &View<'_>, record: &Record<'_>, base: u64) -> bool {
        let waits = |started: &&mut Started| started.progress == Progress::Waits(Need::Chunk);
        let mut waiting = self.started.iter_mut().filter(waits).collect::<Vec<_>>();
        waiting.sort_by_key(|started| started.cpu != record.cpu);
        if let Some(started) = waiting.into_iter().next() {
            let chunk = self.engine.create_chunk_at(base);
            started.chunk_made(&mut self.engine, &mut self.live_bytes, Some(chunk));
            return true;
        }
        let ahead: Vec<usize> =
            lookahead::requests_for_chunk(view.trace, record.index, |e| self.is_started(e), record.cpu, base).collect();
        for event in ahead {
            let mut trial = self.clone();
            trial.start(view, event, record.index);
            let Some(started) = trial.started.last_mut().filter(|started| started.event == event) else { continue };
            if started.progress == Progress::Waits(Need::Chunk) {
                let chunk = trial.engine.create_chunk_at(base);
                started.chunk_made(&mut trial.engine, &mut trial.live_bytes, Some(chunk));
                *self = trial;
                if !self.engine.totals().async_enabled {
                    self.gate_after = Some(event);
                }
                return true;
            }
        }
        false
    }

    fn destroy_line(&mut self, index: usize, base: u64) {
        let Some(chunk) = self.engine.chunk_at_base(base) else { return self.count(!self.background) };
        let explained = self.offer(|_, stop| (stop == Stop::Destroy(chunk)).then_some(Done::Ok));
        self.count(explained);
        if !explained {
            self.surprise(index, "destroys a chunk that was not predicted to go");
            self.drop_chunk(chunk);
        }
    }

    fn begin_line(&mut self, view: &View<'_>, record: &Record<'_>) {
        if !self.engine.balance_pending() && !view.ahead.in_lock_order() {
            // The request that scheduled it has not written its line yet.
            let ahead = lookahead::request_of_cpu(view.trace, record.index, |e| self.is_started(e), record.cpu);
            if let Some(event) = ahead {
                self.start(view, event, record.index);
            }
        }
        self.count(self.engine.balance_pending());
        self.put_worker_back();
        self.engine.clear_pending();
        let mut worker = Worker::new();
        self.engine.run_worker(&mut worker, Done::Ok);
        self.worker = Some(worker);
    }

    /// Runs the worker from beginning to end; chunks that it makes are the next ones announced from
    /// event `from` on.
    fn run_worker_now(&mut self, trace: &Trace, from: usize) {
        self.engine.clear_pending();
        let mut worker = Worker::new();
        let mut done = Done::Ok;
        while let Some(stop) = self.engine.run_worker(&mut worker, done) {
            done = match stop {
                Stop::Create => {
                    let can_be = |base| self.engine.can_create_at(base, self.hashed);
                    lookahead::next_creation(trace, from, can_be)
                        .map_or(Done::Failed, |base| Done::Created(self.engine.create_chunk_at(base)))
                }
                _ => Done::Ok,
            };
        }
        self.pages_changed();
    }
}

/// The request that an event records.
pub(super) fn request_of(event: &Event<'_>) -> Option<Request> {
    let (size, align, reserved, atomic) = match *event {
        Event::Alloc(Alloc { size, align, reserved, atomic, .. }) => (size, align, reserved, atomic),
        Event::AllocFail { size, align, reserved, atomic } => (size, align, reserved, atomic),
        _ => return None,
    };
    Some(recorded_request(size, align, reserved, atomic))
}

fn recorded_request(size: Bytes, align: Bytes, reserved: bool, atomic: bool) -> Request {
    let sleep = if atomic { Sleep::Never } else { Sleep::Full };
    Request { sleep, reserved, nowarn: true, ..Request::new(size, align) }
}

/// The chunk of an outcome.
pub(super) fn chunk_of(outcome: &Outcome) -> Option<ChunkId> {
    match outcome {
        Outcome::Placed { chunk, .. } => Some(*chunk),
        Outcome::Failed(_) => None,
    }
}
