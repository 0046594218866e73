//! The same steps on any allocator, and what came of them.
//!
//! # Design
//!
//! ```text
//! Source --steps--> Rewrite --> run --requests, frees--> Subject: an Allocator, or an engine from outside
//!                                |                          |
//!                                +--> Figures <--moments----+
//! ```
//!
//! [`run`] makes every step of a [`Source`] with a [`Subject`], skips frees of what was not served, and
//! counts. Subjects are looked at in two moments: at the source's [`Peak`], which is the same step for
//! all of them, and at the end. (Where the steps depend on places, the peak is that of the run: the last
//! request before a free at which more bytes were live than ever before.) Marks in the source divide it into
//! phases, each with its own counts.
//!
//! Everything but the times is a function of source, rewrite and subject: equal on every machine.
//!
//! # Units
//!
//! Bytes, of one unit unless said otherwise; nanoseconds.
//!
//! # Cost
//!
//! As the subject's, and a table of live objects.

pub mod judge;
pub mod moment;
pub mod source;
#[cfg(test)]
mod tests;

use std::time::Instant;

use crate::allocator::{Allocator, Placement, NULL};
use crate::cost::Costs;
use crate::error::ConfigError;
use crate::request::{Outcome, Request, Sleep};
use crate::units::Bytes;
use crate::workload::{Place, Step};
use moment::Moment;
pub use source::{Peak, Source};

/// Steps between two questions whether to go on.
const ASK_EVERY: u64 = 64;

/// What steps can be made with.
pub trait Subject {
    /// Serves a request; the pointer is what [`Subject::free`] gets. An error ends the run.
    fn alloc(&mut self, request: &Request) -> Result<Placement, String>;

    /// Takes an area of `size` requested bytes back. An error ends the run.
    fn free(&mut self, ptr: u64, size: Bytes) -> Result<(), String>;

    /// Runs the worker once.
    fn balance(&mut self);

    /// What is held now. May look at everything.
    fn moment(&self) -> Result<Moment, String>;

    /// Bytes of all units that are backed by memory, but for those of boot. Looks at nothing.
    fn backing_bytes(&self) -> u64;

    /// Chunks ever made; the first chunk counts. Looks at nothing.
    fn chunks_created(&self) -> u64;

    /// Most chunks at any time.
    fn max_chunks(&self) -> u64;

    /// Copies of everything that is allocated: possible CPUs.
    fn nr_cpus(&self) -> u64;

    /// Bytes of a page.
    fn page_size(&self) -> u64;

    /// The work done so far; `None` where nothing is counted.
    fn costs(&self) -> Option<Costs> {
        None
    }
}

impl Subject for Allocator {
    fn alloc(&mut self, request: &Request) -> Result<Placement, String> {
        Ok(Allocator::alloc(self, request))
    }

    fn free(&mut self, ptr: u64, size: Bytes) -> Result<(), String> {
        Allocator::free(self, ptr, Some(size)).map_err(|error| error.to_string())
    }

    fn balance(&mut self) {
        self.run_balance();
    }

    fn moment(&self) -> Result<Moment, String> {
        Ok(Moment::of(self.engine()))
    }

    fn backing_bytes(&self) -> u64 {
        self.engine().backend().backing_pages * self.engine().geometry().page_size().0
    }

    fn chunks_created(&self) -> u64 {
        u64::from(self.engine().chunks_created())
    }

    fn max_chunks(&self) -> u64 {
        u64::from(self.engine().stats().nr_max_chunks)
    }

    fn nr_cpus(&self) -> u64 {
        self.address().units().count() as u64
    }

    fn page_size(&self) -> u64 {
        self.engine().geometry().page_size().0
    }

    fn costs(&self) -> Option<Costs> {
        self.engine().costs()
    }
}

/// How requests are changed before they are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rewrite {
    /// Alignment of every request.
    pub align: Option<u64>,
    /// Alignment that every request has at least.
    pub min_align: Option<u64>,
    /// Sizes are rounded up to a multiple of this.
    pub size_multiple: Option<u64>,
    /// Whether requests may not sleep, whatever the source says.
    pub atomic: Option<bool>,
}

impl Rewrite {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), ConfigError> {
        let power = |name, value: Option<u64>| match value {
            Some(given) if !given.is_power_of_two() || given > 1 << 30 => {
                Err(ConfigError::new(name, given, "must be a power of two up to 2^30"))
            }
            _ => Ok(()),
        };
        power("request.align", self.align)?;
        power("request.min_align", self.min_align)?;
        match self.size_multiple {
            Some(given) if given == 0 || given > 1 << 30 => {
                Err(ConfigError::new("request.size_multiple", given, "must be from 1 to 2^30"))
            }
            _ => Ok(()),
        }
    }

    fn apply(&self, mut request: Request) -> Request {
        if let Some(align) = self.align {
            request.align = Bytes(align);
        }
        if let Some(align) = self.min_align {
            request.align = request.align.max(Bytes(align));
        }
        if let Some(multiple) = self.size_multiple {
            // A request of 0 bytes stays one: it is refused by most engines, and that is what is asked.
            let size = request.size.0;
            request.size = Bytes(size.div_ceil(multiple).saturating_mul(multiple));
        }
        if let Some(atomic) = self.atomic {
            request.sleep = if atomic { Sleep::Never } else { Sleep::Full };
        }
        request
    }
}

/// Counts of a run, or of a phase of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests that were served.
    pub allocs: u64,
    /// Requests that were not.
    pub fails: u64,
    /// Those of them that may not sleep.
    pub atomic_fails: u64,
    /// Frees.
    pub frees: u64,
    /// Frees of objects whose request failed.
    pub missing_frees: u64,
    /// Bytes of the requests that were served, as they were asked for.
    pub requested: u64,
    /// Chunks made.
    pub chunks_created: u64,
    /// Work done, where it is counted.
    pub costs: Option<Costs>,
    /// Nanoseconds of stretches of requests, the table of objects included.
    pub alloc_ns: u64,
    /// Nanoseconds of stretches of frees, the table of objects included.
    pub free_ns: u64,
}

/// A moment as source and subject together see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sight {
    /// Live objects.
    pub objects: u64,
    /// Bytes that were asked for them.
    pub requested: u64,
    /// What the subject holds.
    pub held: Moment,
    /// Bytes of all units that are backed by memory, but for those of boot.
    pub backing: u64,
}

/// A phase and its counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    /// Its text; empty for what comes before the first mark.
    pub name: String,
    /// What happened in it.
    pub counts: Counts,
    /// Its end.
    pub end: Sight,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Steps made.
    pub steps: u64,
    /// Over all.
    pub counts: Counts,
    /// At the source's [`Peak`].
    pub peak: Sight,
    /// At the end.
    pub end: Sight,
    /// Most chunks at any time.
    pub max_chunks: u64,
    /// Most bytes of all units that were backed by memory at any time, but for those of boot.
    pub max_backing: u64,
    /// Possible CPUs.
    pub nr_cpus: u64,
    /// One entry a phase, if the source has marks.
    pub phases: Vec<Phase>,
    /// The course: steps made, and what was held then.
    pub samples: Vec<(u64, Sight)>,
    /// Of each request the step and the answer, if asked for.
    pub answers: Vec<(u64, Outcome)>,
}

/// Why there are no figures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// The caller asked to stop.
    Interrupted,
    /// At this step the subject did something that no allocator may do.
    Broken(u64, String),
}

/// What a run looks at beside the steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Take times; else they are 0.
    pub timing: bool,
    /// Look at the subject at the end of each phase.
    pub phases: bool,
    /// Steps between two samples; 0 = none.
    pub sample_every: u64,
    /// Keep the answer to each request.
    pub answers: bool,
}

/// Makes all steps of `source` with `subject`. `go_on` is asked now and then.
pub fn run(
    source: &Source,
    rewrite: &Rewrite,
    subject: &mut dyn Subject,
    options: Options,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Figures, Stopped> {
    let Some(known_peak) = known_peak(source, go_on) else { return Err(Stopped::Interrupted) };
    let begin = Begin { chunks: subject.chunks_created(), costs: subject.costs() };
    let mut run = Run {
        rewrite,
        subject,
        objects: Vec::new(),
        live: 0,
        live_bytes: 0,
        counts: Counts::default(),
        max_backing: 0,
        clock: options.timing.then(|| (Instant::now(), Kind::Other)),
    };
    run.max_backing = run.subject.backing_bytes();
    let mut figures = Figures { nr_cpus: run.subject.nr_cpus(), ..Figures::default() };
    let (tell, page_size) = (source.needs_places(), run.subject.page_size());
    let mut stream = source.start();
    // The phase that runs, and the counts before it; bytes at the peak so far, and whether to look at them.
    let mut phase: Option<(u32, Counts)> = None;
    let mut peak_bytes: Option<(u64, bool)> = None;
    let mut index = 0;
    while let Some(step) = stream.next_step() {
        if index % ASK_EVERY == 0 && !go_on() {
            return Err(Stopped::Interrupted);
        }
        let broken = move |text| Stopped::Broken(index, text);
        if let (Step::Phase(number), true) = (step, options.phases) {
            run.stop_clock(&begin);
            if index > 0 {
                let (ended, before) = phase.unwrap_or_default();
                let name = phase.map_or_else(String::new, |_| source.phase_name(ended));
                figures.phases.push(run.phase(name, &before).map_err(broken)?);
            }
            phase = Some((number, run.counts));
        }
        if let (Step::Free { .. }, None, Some((_, look @ true))) = (step, known_peak, &mut peak_bytes) {
            *look = false;
            run.stop_clock(&begin);
            figures.peak = run.sight().map_err(broken)?;
        }
        let answer = run.step(step).map_err(broken)?;
        if let Some(answer) = answer {
            if options.answers {
                figures.answers.push((index, answer));
            }
            if known_peak.is_none() && peak_bytes.is_none_or(|(bytes, _)| run.live_bytes > bytes) {
                peak_bytes = Some((run.live_bytes, true));
            }
        }
        if let (true, Step::Alloc { id, .. }, Some(answer)) = (tell, step, answer) {
            stream.placed(id, place(answer, page_size));
        }
        index += 1;
        if options.sample_every > 0 && index % options.sample_every == 0 {
            run.stop_clock(&begin);
            figures.samples.push((index, run.sight().map_err(broken)?));
        }
        if known_peak.is_some_and(|peak| peak.step == Some(index - 1)) {
            run.stop_clock(&begin);
            figures.peak = run.sight().map_err(broken)?;
        }
    }
    run.stop_clock(&begin);
    let broken = |text| Stopped::Broken(index, text);
    if let Some((ended, before)) = phase {
        figures.phases.push(run.phase(source.phase_name(ended), &before).map_err(broken)?);
    }
    figures.end = run.sight().map_err(broken)?;
    if known_peak.is_none() && peak_bytes.is_some_and(|(_, look)| look) {
        figures.peak = figures.end;
    }
    figures.steps = index;
    figures.counts = run.counts;
    figures.max_backing = run.max_backing;
    figures.max_chunks = run.subject.max_chunks();
    Ok(figures)
}

/// The peak of the source, if it is known before the run; `None` at the outside if told to stop.
fn known_peak(source: &Source, go_on: &mut dyn FnMut() -> bool) -> Option<Option<Peak>> {
    match source.peak(go_on) {
        None if !source.needs_places() => None,
        found => Some(found),
    }
}

/// Where an object lies.
fn place(outcome: Outcome, page_size: u64) -> Option<Place> {
    match outcome {
        Outcome::Placed { chunk, off } => Some(Place { chunk, off, page: (off.0 / page_size) as u32 }),
        Outcome::Failed(_) => None,
    }
}

/// What a stretch of steps consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Alloc,
    Free,
    Other,
}

/// What the subject had counted before the run.
struct Begin {
    chunks: u64,
    costs: Option<Costs>,
}

fn difference(now: Option<Costs>, before: Option<Costs>) -> Option<Costs> {
    Some(now? - before?)
}

struct Run<'a> {
    rewrite: &'a Rewrite,
    subject: &'a mut dyn Subject,
    /// Of each object what the subject calls it and the bytes asked for; [`NULL`] if it is not there.
    objects: Vec<(u64, u64)>,
    live: u64,
    live_bytes: u64,
    counts: Counts,
    max_backing: u64,
    /// When the stretch began.
    clock: Option<(Instant, Kind)>,
}

impl Run<'_> {
    /// Makes a step; the answer to a request.
    fn step(&mut self, step: Step) -> Result<Option<Outcome>, String> {
        match step {
            Step::Alloc { id, request } => {
                self.stretch(Kind::Alloc);
                let request = self.rewrite.apply(request);
                let Placement { ptr, outcome } = self.subject.alloc(&request)?;
                if let Outcome::Placed { .. } = outcome {
                    self.counts.allocs += 1;
                    self.counts.requested += request.size.0;
                    self.live += 1;
                    self.live_bytes += request.size.0;
                } else {
                    self.counts.fails += 1;
                    self.counts.atomic_fails += u64::from(request.sleep == Sleep::Never);
                }
                let index = id as usize;
                if index >= self.objects.len() {
                    self.objects.resize(index + 1, (NULL, 0));
                }
                debug_assert_eq!(self.objects[index].0, NULL, "object {id} is live");
                self.objects[index] = (ptr, request.size.0);
                self.max_backing = self.max_backing.max(self.subject.backing_bytes());
                return Ok(Some(outcome));
            }
            Step::Free { id } => {
                self.stretch(Kind::Free);
                let object = self.objects.get_mut(id as usize).map(|object| std::mem::replace(object, (NULL, 0)));
                let Some((ptr, size)) = object.filter(|(ptr, _)| *ptr != NULL) else {
                    self.counts.missing_frees += 1;
                    return Ok(None);
                };
                self.counts.frees += 1;
                self.live -= 1;
                self.live_bytes -= size;
                self.subject.free(ptr, Bytes(size))?;
                // The worker may have populated pages.
                self.max_backing = self.max_backing.max(self.subject.backing_bytes());
            }
            Step::Balance => {
                self.stretch(Kind::Other);
                self.subject.balance();
                self.max_backing = self.max_backing.max(self.subject.backing_bytes());
            }
            Step::Phase(_) => self.stretch(Kind::Other),
        }
        Ok(None)
    }

    /// Steps of `kind` follow.
    #[inline]
    fn stretch(&mut self, kind: Kind) {
        if let Some((since, running)) = &mut self.clock {
            if *running != kind {
                let now = Instant::now();
                let ns = now.duration_since(*since).as_nanos() as u64;
                match running {
                    Kind::Alloc => self.counts.alloc_ns += ns,
                    Kind::Free => self.counts.free_ns += ns,
                    Kind::Other => {}
                }
                (*since, *running) = (now, kind);
            }
        }
    }

    /// What follows is not measured, and the counts are complete.
    fn stop_clock(&mut self, begin: &Begin) {
        self.stretch(Kind::Other);
        self.counts.chunks_created = self.subject.chunks_created() - begin.chunks;
        self.counts.costs = difference(self.subject.costs(), begin.costs);
    }

    fn sight(&self) -> Result<Sight, String> {
        Ok(Sight {
            objects: self.live,
            requested: self.live_bytes,
            held: self.subject.moment()?,
            backing: self.subject.backing_bytes(),
        })
    }

    /// What happened since the counts were `before`.
    fn phase(&self, name: String, before: &Counts) -> Result<Phase, String> {
        let now = &self.counts;
        let counts = Counts {
            allocs: now.allocs - before.allocs,
            fails: now.fails - before.fails,
            atomic_fails: now.atomic_fails - before.atomic_fails,
            frees: now.frees - before.frees,
            missing_frees: now.missing_frees - before.missing_frees,
            requested: now.requested - before.requested,
            chunks_created: now.chunks_created - before.chunks_created,
            costs: difference(now.costs, before.costs.or(Some(Costs::ZERO))),
            alloc_ns: now.alloc_ns - before.alloc_ns,
            free_ns: now.free_ns - before.free_ns,
        };
        Ok(Phase { name, counts, end: self.sight()? })
    }
}
