//! Replays without a start state.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator};

use super::errors;
use super::replay::{column, next_block, windows_to_columns, Watch};
use super::trace::Trace;
use crate::error::TraceError;
use crate::replay::follow::{self as core, BootArea, Follower, Options, Origin, Outcome, Share, NEVER};
use crate::stats_text::{read_percpu_stats, PercpuStats};
use crate::trace::{Clock, NONE};
use crate::units::Bytes;

/// What came of following a trace.
#[pyclass(frozen, module = "percpu._core")]
pub struct Follow {
    pub(super) inner: core::Follow,
}

fn add_share(d: &Bound<'_, PyDict>, share: &Share) -> PyResult<()> {
    d.set_item("total_bytes", share.total.0)?;
    d.set_item("live_bytes", share.live.0)?;
    d.set_item("held_bytes", share.held.0)?;
    d.set_item("free_bytes", share.free.0)?;
    d.set_item("unknown_bytes", share.unknown.0)
}

#[pymethods]
impl Follow {
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (f, t) = (&self.inner, &self.inner.totals);
        let d = PyDict::new(py);
        d.set_item("nr_events", f.events)?;
        d.set_item("nr_alloc", t.nr_alloc)?;
        d.set_item("nr_failed", f.by_outcome[Outcome::Failed as usize])?;
        d.set_item("nr_free", t.nr_free)?;
        d.set_item("nr_freed_prior", t.nr_freed_prior)?;
        d.set_item("nr_freed_lost", t.nr_freed_lost)?;
        d.set_item("nr_missing_free", f.by_outcome[Outcome::MissingFree as usize])?;
        d.set_item("nr_illegal", f.nr_illegal())?;
        d.set_item("nr_after_loss", f.by_outcome[Outcome::AfterLoss as usize])?;
        d.set_item("nr_losses", t.nr_losses)?;
        d.set_item("nr_lost", t.nr_lost)?;
        d.set_item("nr_live", t.nr_live)?;
        d.set_item("nr_chunks", t.nr_chunks)?;
        d.set_item("nr_chunks_created", t.nr_created)?;
        d.set_item("nr_chunks_destroyed", t.nr_destroyed)?;
        add_share(&d, &f.share())?;
        let unseen = f.unseen.map(|unseen| (unseen.objects, unseen.bytes));
        d.set_item("unseen_objects", unseen.map(|unseen| unseen.0))?;
        d.set_item("unseen_bytes", unseen.map(|unseen| unseen.1 .1))?;
        d.set_item("unseen_min_bytes", unseen.map(|unseen| unseen.1 .0))?;
        d.set_item("unseen_max_bytes", unseen.map(|unseen| unseen.1 .2))?;
        d.set_item("unit_size", f.unit_size.0)?;
        d.set_item("unit_size_inferred", f.unit_size_inferred)?;
        d.set_item("granule", f.granule.0)?;
        d.set_item("hashed", f.hashed)?;
        let clock = match f.clock {
            Clock::Microseconds => "microseconds",
            Clock::Nanoseconds => "nanoseconds",
            Clock::Counter => "counter",
        };
        d.set_item("clock", clock)?;
        d.set_item("first_time_ns", f.times.0)?;
        d.set_item("last_time_ns", f.times.1)?;
        Ok(d)
    }

    /// Event, line, outcome.
    fn first_illegal(&self) -> Option<(u64, u32, &'static str)> {
        self.inner.first_illegal.map(|(event, line, outcome)| (event, line, outcome.name()))
    }

    /// Codes of outcomes by event; empty if the trace was read in blocks.
    fn outcomes<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u8>> {
        PyArray1::from_slice(py, &self.inner.outcomes)
    }

    fn call_sites(&self) -> Vec<String> {
        self.inner.sites.clone()
    }

    /// The areas that are live after the first `events` events.
    fn live<'py>(&self, py: Python<'py>, events: u64) -> PyResult<Bound<'py, PyDict>> {
        let f = &self.inner;
        let live = py.detach(|| f.live_after(events));
        let g = f.granule.0;
        let object = |index: &u32| &f.objects[*index as usize];
        let chunk = |index: &u32| &f.chunks[object(index).chunk as usize];
        let d = PyDict::new(py);
        d.set_item("chunk", column(py, &live, |i| object(i).chunk))?;
        d.set_item("base_addr", column(py, &live, |i| chunk(i).base))?;
        d.set_item("off_bytes", column(py, &live, |i| u64::from(object(i).off) * g))?;
        d.set_item("size_bytes", column(py, &live, |i| u64::from(object(i).size) * g))?;
        d.set_item("max_size_bytes", column(py, &live, |i| u64::from(object(i).max_size) * g))?;
        d.set_item("call_site", column(py, &live, |i| if object(i).site == NONE { 0 } else { object(i).site }))?;
        d.set_item("has_call_site", column(py, &live, |i| object(i).site != NONE))?;
        d.set_item("prior", column(py, &live, |i| object(i).origin != Origin::Capture))?;
        d.set_item("atomic", column(py, &live, |i| object(i).atomic))?;
        d.set_item("reserved", column(py, &live, |i| object(i).reserved))?;
        d.set_item("alloc_event", column(py, &live, |i| known(object(i).born)))?;
        d.set_item("alloc_time_ns", column(py, &live, |i| object(i).born_time))?;
        d.set_item("free_event", column(py, &live, |i| known(object(i).died)))?;
        d.set_item("is_freed", column(py, &live, |i| object(i).died != NEVER))?;
        Ok(d)
    }

    /// One row a chunk.
    fn chunks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let f = &self.inner;
        let (rows, shares) = (&f.chunks, &f.shares);
        let d = PyDict::new(py);
        d.set_item("base_addr", column(py, rows, |c| c.base))?;
        d.set_item("first_event", column(py, rows, |c| c.first_event))?;
        d.set_item("created", column(py, rows, |c| c.created != NEVER))?;
        d.set_item("destroyed_event", column(py, rows, |c| known(c.destroyed)))?;
        d.set_item("exists", column(py, rows, |c| c.destroyed == NEVER))?;
        d.set_item("boot", column(py, rows, |c| c.boot_off.is_some()))?;
        d.set_item("nr_live", column(py, rows, |c| c.nr_live))?;
        d.set_item("nr_freed_prior", column(py, rows, |c| c.nr_prior))?;
        d.set_item("total_bytes", column(py, shares, |s| s.total.0))?;
        d.set_item("live_bytes", column(py, shares, |s| s.live.0))?;
        d.set_item("held_bytes", column(py, shares, |s| s.held.0))?;
        d.set_item("free_bytes", column(py, shares, |s| s.free.0))?;
        d.set_item("unknown_bytes", column(py, shares, |s| s.unknown.0))?;
        Ok(d)
    }

    /// What is known of each granule of a chunk: 0 nothing, 1 free, 2 live, 3 held, 4 serves no requests.
    fn cells<'py>(&self, py: Python<'py>, chunk: u32) -> Bound<'py, PyArray1<u8>> {
        let cells = py.detach(|| self.inner.cells(chunk).into_iter().map(|cell| cell as u8).collect::<Vec<_>>());
        cells.into_pyarray(py)
    }

    fn timeline<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let f = &self.inner;
        let names = ["live_bytes", "nr_live", "nr_chunks", "nr_freed_prior"];
        windows_to_columns(py, &f.windows, names, [f.granule.0 as i64, 1, 1, 1])
    }
}

/// An event as a column has it.
fn known(event: u64) -> u64 {
    if event == NEVER {
        0
    } else {
        event
    }
}

/// Offset of the first chunk's base in the unit, hidden bytes before what it serves, and their number.
pub(super) type Boot = (u64, u64, u64);

/// What is told beside the trace.
pub(super) struct Given<'a> {
    pub unit_size: Option<u64>,
    pub granule: u64,
    pub boot: Option<Boot>,
    pub page_size: u64,
    pub stats: Option<&'a str>,
    pub stats_end: Option<&'a str>,
    pub sample_every: u64,
}

impl Given<'_> {
    pub fn options(&self, py: Python<'_>, history: bool) -> PyResult<Options> {
        let read = |text: Option<&str>| -> PyResult<Option<PercpuStats>> {
            text.map(read_percpu_stats).transpose().map_err(|error| errors::trace_error(py, &error))
        };
        let (stats, stats_end) = (read(self.stats)?, read(self.stats_end)?);
        let given = self.boot.map(|(unit_off, start_offset, size)| BootArea {
            unit_off: Bytes(unit_off),
            start_offset: Bytes(start_offset),
            size: Bytes(size),
        });
        // The statistics have the sizes of the boot area as well.
        let shown = [&stats, &stats_end].into_iter().flatten().map(|stats| stats.sizes).next();
        let boot = given.or(shown.map(|sizes| {
            let [fixed, reserved, dynamic] = [sizes.static_size, sizes.reserved_size, sizes.dyn_size].map(Bytes);
            BootArea::of_sizes(fixed, reserved, dynamic, Bytes(self.page_size))
        }));
        Ok(Options {
            unit_size: self.unit_size.map(Bytes),
            granule: Bytes(self.granule),
            boot,
            stats,
            stats_end,
            history,
            sample_every: self.sample_every,
        })
    }
}

fn done(py: Python<'_>, result: Result<core::Follow, TraceError>, watch: Watch) -> PyResult<Follow> {
    let inner = result.map_err(|error| errors::trace_error(py, &error));
    watch.finish(py, inner.as_ref().map_or(0, |inner| inner.events))?;
    Ok(Follow { inner: inner? })
}

#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub fn follow(
    py: Python<'_>,
    trace: &Trace,
    unit_size: Option<u64>,
    granule: u64,
    boot: Option<Boot>,
    page_size: u64,
    stats: Option<&str>,
    stats_end: Option<&str>,
    sample_every: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Follow> {
    let granule = if granule == 0 { core::likely_granule(&trace.inner).0 } else { granule };
    let given = Given { unit_size, granule, boot, page_size, stats, stats_end, sample_every };
    let options = given.options(py, true)?;
    let mut watch = Watch::new(progress);
    let result = py.detach(|| core::follow(&trace.inner, options, &mut |at| watch.go_on(at)));
    done(py, result, watch)
}

/// Follows a trace block by block: only what is live is kept.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub fn follow_blocks(
    py: Python<'_>,
    blocks: &Bound<'_, PyIterator>,
    unit_size: Option<u64>,
    granule: u64,
    boot: Option<Boot>,
    page_size: u64,
    stats: Option<&str>,
    stats_end: Option<&str>,
    sample_every: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Follow> {
    let granule = if granule == 0 { Options::default().granule.0 } else { granule };
    let given = Given { unit_size, granule, boot, page_size, stats, stats_end, sample_every };
    let options = given.options(py, false)?;
    let mut follower = Follower::new(options).map_err(|error| errors::trace_error(py, &error))?;
    let mut watch = Watch::new(progress);
    let blocks = blocks.clone().unbind();
    while let Some(block) = next_block(py, &blocks)? {
        if !py.detach(|| follower.read(&block, &mut |at| watch.go_on(at))) {
            break;
        }
    }
    done(py, Ok(follower.finish()), watch)
}
