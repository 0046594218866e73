//! A workload on an engine.
//!
//! # Design
//!
//! What serves the steps is a [`Target`]: an [`Allocator`], or whatever else can allocate and free. The run keeps a
//! table from object number to pointer; objects that failed are not in it, and their frees are skipped.
//!
//! Figures are kept by phase. Peaks are exact: they are looked at after every step. Time is only measured with a
//! clock from outside, so that the core stays without one: whole phases, the making of the steps included. Work is
//! counted by the engine ([`crate::cost`]).
//!
//! # Units
//!
//! Bytes as requested; pages of one unit, without those of the boot area, which no generation counts alike.

use std::fmt;

use super::{Recipe, Step};
use crate::allocator::{Allocator, Placement, NULL};
use crate::cost::Costs;
use crate::error::RequestError;
use crate::request::{ChunkId, Outcome, Reason, Request};
use crate::units::Bytes;

/// Steps between two questions whether to go on.
const ASK_EVERY: u64 = 64;

/// Where an object lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The chunk.
    pub chunk: ChunkId,
    /// Bytes from the chunk's base.
    pub off: Bytes,
    /// Page of the chunk.
    pub page: u32,
}

/// What a workload needs of what it runs on.
pub trait Target {
    /// Serves a request. The pointer is what [`Target::free`] gets.
    fn alloc(&mut self, request: &Request) -> Placement;

    /// Frees a live area of `size` bytes as requested.
    fn free(&mut self, ptr: u64, size: Bytes) -> Result<(), RequestError>;

    /// Runs the balance worker once.
    fn balance(&mut self);

    /// Bytes of a page.
    fn page_size(&self) -> Bytes;

    /// Bytes from the start of the unit to byte `off` of a chunk.
    fn unit_off(&self, chunk: ChunkId, off: Bytes) -> Bytes;

    /// Chunks that exist.
    fn nr_chunks(&self) -> u32;

    /// Chunks ever made.
    fn chunks_created(&self) -> u32;

    /// Pages of one unit that were populated and are so still; not those of the boot area.
    fn nr_populated(&self) -> u32;

    /// The work done so far; `None` where nothing is counted.
    fn costs(&self) -> Option<Costs> {
        None
    }
}

impl Target for Allocator {
    #[inline]
    fn alloc(&mut self, request: &Request) -> Placement {
        Allocator::alloc(self, request)
    }

    #[inline]
    fn free(&mut self, ptr: u64, size: Bytes) -> Result<(), RequestError> {
        Allocator::free(self, ptr, Some(size))
    }

    fn balance(&mut self) {
        self.run_balance();
    }

    fn page_size(&self) -> Bytes {
        self.engine().geometry().page_size()
    }

    fn unit_off(&self, chunk: ChunkId, off: Bytes) -> Bytes {
        Allocator::unit_off(self, chunk, off)
    }

    fn nr_chunks(&self) -> u32 {
        self.engine().stats().nr_chunks
    }

    fn chunks_created(&self) -> u32 {
        self.engine().chunks_created()
    }

    fn nr_populated(&self) -> u32 {
        let backend = self.engine().backend();
        (backend.backing_pages / backend.nr_cpus().max(1)) as u32
    }

    fn costs(&self) -> Option<Costs> {
        self.engine().costs()
    }
}

/// What to keep of a run.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Keep a row for each request.
    pub places: bool,
    /// Keep work and time of the requests apart, [`Phase::alloc_costs`]; the clock is then looked at between requests
    /// and other steps.
    pub split: bool,
    /// Nanoseconds from any point on; `None` = no times.
    pub clock: Option<&'a dyn Fn() -> u64>,
}

/// What is held at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Live objects.
    pub live_objects: u64,
    /// Their bytes, as requested.
    pub live_bytes: u64,
    /// Chunks.
    pub nr_chunks: u32,
    /// Pages of one unit that were populated and are so still; not those of the boot area.
    pub populated_pages: u32,
}

impl Figures {
    fn raise_to(&mut self, other: &Self) {
        self.live_objects = self.live_objects.max(other.live_objects);
        self.live_bytes = self.live_bytes.max(other.live_bytes);
        self.nr_chunks = self.nr_chunks.max(other.nr_chunks);
        self.populated_pages = self.populated_pages.max(other.populated_pages);
    }
}

/// One phase of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Phase {
    /// Which phase of the recipe.
    pub phase: u32,
    /// Requests that were served.
    pub allocs: u64,
    /// Requests that were not, by code of [`Reason`] less one.
    pub failures: [u64; Reason::ALL.len()],
    /// Frees.
    pub frees: u64,
    /// Frees skipped, because the object had failed.
    pub skipped: u64,
    /// Bytes of the requests that were served.
    pub served_bytes: u64,
    /// Chunks made.
    pub chunks_created: u32,
    /// What is held at the end of the phase.
    pub end: Figures,
    /// The most that was held during the phase, each figure by itself.
    pub peak: Figures,
    /// The work that it was; `None` where nothing is counted.
    pub costs: Option<Costs>,
    /// How long it took, with a clock.
    pub time_ns: Option<u64>,
    /// Work of the requests alone, and of the worker where it ran right after them; with [`Options::split`].
    pub alloc_costs: Option<Costs>,
    /// Time of the requests alone; with [`Options::split`] and a clock.
    pub alloc_time_ns: Option<u64>,
}

impl Phase {
    /// Requests that were not served.
    pub fn fails(&self) -> u64 {
        self.failures.iter().sum()
    }
}

/// A request of a run, and the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// The object.
    pub id: u32,
    /// Index in [`Run::phases`].
    pub phase: u32,
    /// What was asked.
    pub request: Request,
    /// What was answered.
    pub outcome: Outcome,
    /// Bytes from the start of the unit; 0 if it failed.
    pub unit_off: Bytes,
}

/// The result of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// Phases in the order in which they were entered; one may occur more than once.
    pub phases: Vec<Phase>,
    /// Requests, if asked for.
    pub served: Vec<Served>,
    /// Steps made.
    pub steps: u64,
    /// False if it was told to stop.
    pub finished: bool,
}

impl Run {
    /// Everything in one: sums, the last end and the highest peak.
    pub fn total(&self) -> Phase {
        let mut total = Phase::default();
        for phase in &self.phases {
            total.allocs += phase.allocs;
            total.failures.iter_mut().zip(phase.failures).for_each(|(sum, n)| *sum += n);
            total.frees += phase.frees;
            total.skipped += phase.skipped;
            total.served_bytes += phase.served_bytes;
            total.chunks_created += phase.chunks_created;
            total.end = phase.end;
            total.peak.raise_to(&phase.peak);
            total.costs = sum(total.costs, phase.costs);
            total.time_ns = sum(total.time_ns, phase.time_ns);
            total.alloc_costs = sum(total.alloc_costs, phase.alloc_costs);
            total.alloc_time_ns = sum(total.alloc_time_ns, phase.alloc_time_ns);
        }
        total
    }
}

/// The sum of what is there.
fn sum<T: std::ops::Add<Output = T>>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

/// A step that the target refused: the workload asks for something impossible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunError {
    /// Index of the step.
    pub step: u64,
    /// Why.
    pub error: RequestError,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.step, self.error)
    }
}

impl std::error::Error for RunError {}

/// Runs a workload. `go_on` is asked now and then, and ends the run by saying no.
pub fn run<T: Target + ?Sized>(
    recipe: &Recipe,
    target: &mut T,
    options: &Options<'_>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Run, RunError> {
    let mut stream = recipe.start();
    let tell = recipe.procedure().needs_places;
    let mut runner = Runner::new(target, options);
    while let Some(step) = stream.next_step() {
        if runner.out.steps % ASK_EVERY == ASK_EVERY - 1 && !go_on() {
            return Ok(runner.finish(false));
        }
        let placed = runner.step(step).map_err(|error| RunError { step: runner.out.steps, error })?;
        if let (true, Step::Alloc { id, .. }) = (tell, step) {
            stream.placed(id, placed);
        }
        runner.out.steps += 1;
    }
    Ok(runner.finish(true))
}

/// An object by its number: [`NULL`] if it is not live.
#[derive(Clone, Copy)]
struct Object {
    ptr: u64,
    size: Bytes,
}

struct Runner<'a, T: ?Sized> {
    target: &'a mut T,
    clock: Option<&'a dyn Fn() -> u64>,
    keep_places: bool,
    split: bool,
    /// Work and time when the requests under way began.
    requests_began: Option<(Option<Costs>, u64)>,
    objects: Vec<Object>,
    page_size: u64,
    now: Figures,
    phase: Phase,
    /// Chunks made, work done and time when the phase began.
    began: (u32, Option<Costs>, u64),
    /// Nothing happened before the first phase marker, so that there is no phase yet.
    untouched: bool,
    out: Run,
}

impl<'a, T: Target + ?Sized> Runner<'a, T> {
    fn new(target: &'a mut T, options: &Options<'a>) -> Self {
        let page_size = target.page_size().0;
        let began = (target.chunks_created(), target.costs());
        let mut runner = Self {
            target,
            clock: options.clock,
            keep_places: options.places,
            split: options.split,
            requests_began: None,
            objects: Vec::new(),
            page_size,
            now: Figures::default(),
            phase: Phase::default(),
            began: (began.0, began.1, options.clock.map_or(0, |clock| clock())),
            untouched: true,
            out: Run::default(),
        };
        runner.look();
        runner
    }

    fn look(&mut self) {
        self.now.nr_chunks = self.target.nr_chunks();
        self.now.populated_pages = self.target.nr_populated();
        self.phase.peak.raise_to(&self.now);
    }

    /// Makes one step; where an allocated object lies.
    #[inline]
    fn step(&mut self, step: Step) -> Result<Option<Place>, RequestError> {
        let mut place = None;
        if self.split {
            self.mark(matches!(step, Step::Alloc { .. }));
        }
        match step {
            Step::Phase(phase) => {
                self.end_phase();
                self.phase = Phase { phase, ..Phase::default() };
                self.look();
                let now = (self.target.chunks_created(), self.target.costs());
                self.began = (now.0, now.1, self.clock.map_or(0, |clock| clock()));
                self.untouched = false;
                return Ok(None);
            }
            Step::Alloc { id, request } => place = self.alloc(id, &request),
            Step::Free { id } => self.free(id)?,
            Step::Balance => self.target.balance(),
        }
        self.untouched = false;
        self.look();
        Ok(place)
    }

    /// Notes where a row of requests begins and ends.
    fn mark(&mut self, requests: bool) {
        if requests == self.requests_began.is_some() {
            return;
        }
        let now = (self.target.costs(), self.clock.map_or(0, |clock| clock()));
        match self.requests_began.take() {
            None => self.requests_began = Some(now),
            Some((costs, time)) => {
                let costs = now.0.zip(costs).map(|(now, before)| now - before);
                let time = self.clock.map(|_| now.1.saturating_sub(time));
                self.phase.alloc_costs = sum(self.phase.alloc_costs, costs);
                self.phase.alloc_time_ns = sum(self.phase.alloc_time_ns, time);
            }
        }
    }

    fn alloc(&mut self, id: u32, request: &Request) -> Option<Place> {
        let Placement { ptr, outcome } = self.target.alloc(request);
        let place = match outcome {
            Outcome::Placed { chunk, off } => {
                self.phase.allocs += 1;
                self.phase.served_bytes += request.size.0;
                self.now.live_objects += 1;
                self.now.live_bytes += request.size.0;
                Some(Place { chunk, off, page: (off.0 / self.page_size) as u32 })
            }
            Outcome::Failed(reason) => {
                self.phase.failures[reason as usize - 1] += 1;
                None
            }
        };
        if self.keep_places {
            let unit_off = place.map_or(Bytes(0), |place| self.target.unit_off(place.chunk, place.off));
            let phase = self.out.phases.len() as u32;
            self.out.served.push(Served { id, phase, request: *request, outcome, unit_off });
        }
        let index = id as usize;
        if index >= self.objects.len() {
            self.objects.resize(index + 1, Object { ptr: NULL, size: Bytes(0) });
        }
        debug_assert_eq!(self.objects[index].ptr, NULL, "object {id} is live");
        self.objects[index] = Object { ptr, size: request.size };
        place
    }

    fn free(&mut self, id: u32) -> Result<(), RequestError> {
        let Some(object) = self.objects.get_mut(id as usize).filter(|object| object.ptr != NULL) else {
            self.phase.skipped += 1;
            return Ok(());
        };
        let Object { ptr, size } = std::mem::replace(object, Object { ptr: NULL, size: Bytes(0) });
        self.phase.frees += 1;
        self.now.live_objects -= 1;
        self.now.live_bytes -= size.0;
        self.target.free(ptr, size)
    }

    fn end_phase(&mut self) {
        self.mark(false);
        if self.untouched {
            return;
        }
        let (created, costs, time) = self.began;
        self.phase.time_ns = self.clock.map(|clock| clock().saturating_sub(time));
        self.phase.costs = self.target.costs().zip(costs).map(|(now, before)| now - before);
        self.phase.chunks_created = self.target.chunks_created() - created;
        self.phase.end = self.now;
        self.out.phases.push(std::mem::take(&mut self.phase));
    }

    fn finish(mut self, finished: bool) -> Run {
        self.end_phase();
        self.out.finished = finished;
        self.out
    }
}
