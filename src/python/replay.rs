//! Replays.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator};

use super::allocator::{Allocator, Signals};
use super::errors;
use super::layout::preset;
use super::trace::Trace;
use crate::allocator::{Allocator as Core, Balance};
use crate::error::ConfigError;
use crate::geometry::Geometry;
use crate::replay::closed_world::{closed_world as closed, World};
use crate::replay::rerun::{self as again, Rerunner, Served};
use crate::replay::timeline::EngineWindow;
use crate::replay::{self as core, Divergence, Options};
use crate::request::{Outcome, Sleep};
use crate::stats_text::read_percpu_stats;
use crate::trace::{Kind, Trace as CoreTrace};
use crate::units::Bytes;

/// How often Python is asked whether to go on, and told how far a replay has come.
const ASK_AFTER: Duration = Duration::from_millis(25);

/// Ctrl-C and progress during a replay.
pub struct Watch {
    signals: Signals,
    /// Raised by the caller's function.
    error: Option<PyErr>,
    progress: Option<Py<PyAny>>,
    last: Instant,
}

impl Watch {
    /// `progress`, if given, is called with the number of events read.
    pub fn new(progress: Option<Py<PyAny>>) -> Self {
        Self { signals: Signals::default(), error: None, progress, last: Instant::now() }
    }

    /// False once a signal handler or the caller's function raised an exception.
    pub fn go_on(&mut self, events: u64) -> bool {
        if self.error.is_some() {
            return false;
        }
        if self.last.elapsed() < ASK_AFTER {
            return true;
        }
        self.last = Instant::now();
        self.error = Python::attach(|py| self.report(py, events).err());
        self.error.is_none() && self.signals.go_on()
    }

    fn report(&self, py: Python<'_>, events: u64) -> PyResult<()> {
        self.progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (events,)).map(drop))
    }

    /// The exception that was raised, else the last report of progress.
    pub fn finish(mut self, py: Python<'_>, events: u64) -> PyResult<()> {
        self.signals.go_on();
        match self.error.take().or(std::mem::take(&mut self.signals).raised()) {
            Some(error) => Err(error),
            None => self.report(py, events),
        }
    }
}

/// The blocks of a trace: objects with a trace of this module, one after the other.
pub fn next_block(py: Python<'_>, blocks: &Py<PyIterator>) -> PyResult<Option<Arc<CoreTrace>>> {
    let Some(block) = blocks.bind(py).clone().next() else { return Ok(None) };
    let block = block?;
    Ok(Some(Arc::clone(&block.cast::<Trace>().map_err(PyErr::from)?.get().inner)))
}

/// What came of a replay.
#[pyclass(frozen, module = "percpu._core")]
pub struct Replay {
    trace: Arc<CoreTrace>,
    inner: core::Replay,
    /// The machine, in the state at the end.
    allocator: Core,
}

fn outcome_text(outcome: Outcome) -> Cow<'static, str> {
    match outcome {
        Outcome::Placed { chunk, off } => format!("chunk {chunk}, byte {}", off.0).into(),
        Outcome::Failed(reason) => reason.text().into(),
    }
}

#[pymethods]
impl Replay {
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let kinds = self.trace.columns().kind;
        let served = self.inner.predictions.iter().filter(|p| kinds[p.event as usize] == Kind::Alloc).count();
        let totals = &self.inner.totals;
        let d = PyDict::new(py);
        d.set_item("nr_events", totals.events)?;
        d.set_item("nr_alloc", served)?;
        d.set_item("nr_failed", self.inner.predictions.len() - served)?;
        d.set_item("nr_free", totals.frees)?;
        d.set_item("nr_predicted", self.inner.predictions.iter().filter(|p| p.equal).count())?;
        d.set_item("nr_diverged", totals.diverged)?;
        d.set_item("nr_late", totals.late)?;
        d.set_item("nr_background", totals.background)?;
        d.set_item("nr_unexplained", totals.unexplained)?;
        Ok(d)
    }

    fn first_divergence<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(first) = &self.inner.first_divergence else { return Ok(None) };
        let d = PyDict::new(py);
        let line = |line: u32| (line != 0).then_some(line);
        d.set_item("event", first.event())?;
        match first {
            Divergence::Line { line: at, .. } => d.set_item("line", line(*at))?,
            Divergence::Request(found) => {
                d.set_item("line", line(found.line))?;
                d.set_item("size_bytes", found.request.size.0)?;
                d.set_item("align_bytes", found.request.align.0)?;
                d.set_item("atomic", found.request.sleep == Sleep::Never)?;
                d.set_item("predicted", outcome_text(found.predicted))?;
                let recorded = found.recorded.map(|(base, off)| format!("chunk at {base:#x}, byte {}", off.0));
                d.set_item("recorded", recorded.unwrap_or_else(|| "failure".into()))?;
            }
        }
        d.set_item("text", first.to_string())?;
        Ok(Some(d))
    }

    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let kinds = self.trace.columns().kind;
        let rows = &self.inner.predictions;
        let place = |p: &core::Prediction| match p.outcome() {
            Outcome::Placed { chunk, off } => (true, chunk.0, off.0),
            Outcome::Failed(_) => (false, 0, 0),
        };
        let places: Vec<(bool, u32, u64)> = py.detach(|| rows.iter().map(place).collect());
        let served = |p: &core::Prediction| kinds[p.event as usize] == Kind::Alloc;
        let d = PyDict::new(py);
        d.set_item("event", rows.iter().map(|p| p.event).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("ok", rows.iter().map(served).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("predicted", rows.iter().map(|p| p.equal).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("predicted_ok", places.iter().map(|p| p.0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("chunk", places.iter().map(|p| p.1).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("off_bytes", places.iter().map(|p| p.2).collect::<Vec<_>>().into_pyarray(py))?;
        Ok(d)
    }

    fn timeline<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        timeline(py, &self.inner.windows)
    }

    /// The allocator after the first `event` events.
    fn at(&self, py: Python<'_>, event: usize) -> PyResult<Allocator> {
        let mut watch = Watch::new(None);
        let engine = py.detach(|| self.inner.at(&self.trace, event, &mut |at| watch.go_on(at as u64)));
        watch.finish(py, event as u64)?;
        let mut allocator = self.allocator.clone();
        allocator.set_engine(Box::new(engine));
        Ok(Allocator::new(allocator))
    }

    /// The rest of the trace rerun from event `event` on.
    fn fork(
        &self,
        py: Python<'_>,
        event: usize,
        target: Option<&Allocator>,
        sample_every: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Rerun> {
        let target = target.map(|target| target.lock(py).clone());
        let options = again::Options { sample_every, history: true };
        let mut watch = Watch::new(progress);
        let go_on = &mut |at: usize| watch.go_on(at as u64);
        let own = self.allocator.clone();
        let result = py.detach(|| self.inner.fork(&self.trace, event, own, target, &options, go_on));
        finish_rerun(py, Some(&self.trace), result, watch)
    }
}

/// Columns of a timeline: the last value of each window, and the least, the mean and the largest.
fn timeline<'py>(py: Python<'py>, windows: &[EngineWindow]) -> PyResult<Bound<'py, PyDict>> {
    let names = ["nr_cur_alloc", "live_bytes", "nr_chunks", "populated_pages", "nr_empty_pop_pages"];
    windows_to_columns(py, windows, names, [1; 5])
}

/// Columns of windows; each number times its unit.
pub fn windows_to_columns<'py, const N: usize>(
    py: Python<'py>,
    windows: &[core::timeline::Window<N>],
    names: [&str; N],
    units: [i64; N],
) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("event", windows.iter().map(|w| w.event as i64).collect::<Vec<_>>().into_pyarray(py))?;
    d.set_item("time_ns", windows.iter().map(|w| w.time).collect::<Vec<_>>().into_pyarray(py))?;
    for (index, (name, unit)) in names.into_iter().zip(units).enumerate() {
        let column = |value: fn(&core::timeline::Range) -> i64| {
            windows.iter().map(|w| value(&w.ranges[index]) * unit).collect::<Vec<_>>().into_pyarray(py)
        };
        d.set_item(name, column(|range| range.last))?;
        d.set_item(format!("min_{name}"), column(|range| range.min))?;
        let mean = windows.iter().map(|w| w.mean(index) * unit as f64).collect::<Vec<_>>();
        d.set_item(format!("mean_{name}"), mean.into_pyarray(py))?;
        d.set_item(format!("max_{name}"), column(|range| range.max))?;
    }
    Ok(d)
}

#[pyfunction]
pub fn replay(
    py: Python<'_>,
    trace: &Trace,
    allocator: &Allocator,
    sample_every: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Replay> {
    let mut core = allocator.lock(py);
    let Some(engine) = core.engine().as_linux().cloned() else {
        let text = format!("follows Linux 4.14 and later; use mode='rerun' on engine {}", core.engine().generation());
        return Err(errors::invalid_request(py, &ConfigError::new("mode", "predict", text)));
    };
    let options = Options { sample_every, ..Options::default() };
    let trace = &trace.inner;
    let mut watch = Watch::new(progress);
    let go_on = &mut |at: usize| watch.go_on(at as u64);
    let result = py.detach(|| core::predict_with(trace, engine, &options, go_on));
    watch.finish(py, trace.len() as u64)?;
    let inner = result.map_err(|error| errors::trace_error(py, &error))?;
    core.set_engine(Box::new(inner.engine.clone()));
    Ok(Replay { trace: Arc::clone(trace), inner, allocator: core.clone() })
}

/// An allocator in the state that a trace suggests for its start.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub fn closed_world(
    py: Python<'_>,
    trace: &Trace,
    kernel: &str,
    unit_size: u64,
    nr_units: u32,
    page_size: u64,
    stats: Option<&str>,
    balance_every: u32,
) -> PyResult<Allocator> {
    let preset = preset(py, kernel)?;
    let stats = stats.map(read_percpu_stats).transpose().map_err(|error| errors::trace_error(py, &error))?;
    let geometry = Geometry::new(Bytes(page_size), Bytes(4), Bytes(page_size), Bytes(unit_size), nr_units)
        .map_err(|error| errors::invalid_request(py, &error))?;
    let world = World { preset, geometry, stats: stats.as_ref() };
    let engine = py.detach(|| closed(&trace.inner, &world)).map_err(|error| errors::trace_error(py, &error))?;
    let balance = match balance_every {
        0 => Balance::Manual,
        1 => Balance::Eager,
        k => Balance::Every(k),
    };
    let mut core = Core::bare(preset, geometry, balance).map_err(|error| errors::invalid_request(py, &error))?;
    core.set_engine(Box::new(engine));
    Ok(Allocator::new(core))
}

/// What came of a rerun.
#[pyclass(frozen, module = "percpu._core")]
pub struct Rerun {
    /// `None` if it was read in blocks, which are not kept.
    trace: Option<Arc<CoreTrace>>,
    inner: again::Rerun,
}

#[pymethods]
impl Rerun {
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        let totals = &self.inner.totals;
        d.set_item("nr_events", totals.events)?;
        d.set_item("nr_alloc", totals.allocs)?;
        d.set_item("nr_failed", totals.fails)?;
        d.set_item("nr_free", totals.frees)?;
        d.set_item("nr_free_unseen", totals.unseen_frees)?;
        d.set_item("nr_free_of_failed", totals.missing_frees)?;
        d.set_item("nr_free_lost", totals.lost_frees)?;
        d.set_item("nr_served_only_here", totals.served_only_here)?;
        d.set_item("nr_comparable", totals.comparable)?;
        d.set_item("nr_same_place", totals.same_place)?;
        d.set_item("first_event", self.inner.from)?;
        d.set_item("nr_carried", totals.carried)?;
        d.set_item("nr_not_carried", totals.not_carried)?;
        Ok(d)
    }

    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let place = |served: &Served| match served.outcome {
            Outcome::Placed { chunk, off } => (chunk.0, off.0, 0),
            Outcome::Failed(reason) => (0, 0, reason as u8),
        };
        let unit_off = |off: Option<Bytes>| off.map_or(0, |off| off.0);
        let rows = &self.inner.requests;
        let d = PyDict::new(py);
        d.set_item("event", rows.iter().map(|r| r.event).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("recorded_ok", rows.iter().map(|r| r.recorded).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("ok", rows.iter().map(|r| place(r).2 == 0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("reason", rows.iter().map(|r| place(r).2).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("chunk", rows.iter().map(|r| place(r).0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("off_bytes", rows.iter().map(|r| place(r).1).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("unit_off_bytes", rows.iter().map(|r| unit_off(r.unit_off)).collect::<Vec<_>>().into_pyarray(py))?;
        let recorded = rows.iter().map(|r| unit_off(r.recorded_unit_off));
        d.set_item("recorded_unit_off_bytes", recorded.collect::<Vec<_>>().into_pyarray(py))?;
        let known = rows.iter().map(|r| r.recorded_unit_off.is_some());
        d.set_item("recorded_known", known.collect::<Vec<_>>().into_pyarray(py))?;
        Ok(d)
    }

    fn timeline<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        timeline(py, &self.inner.windows)
    }

    /// The allocator after the last event.
    fn allocator(&self) -> Allocator {
        Allocator::new(self.inner.allocator.clone())
    }

    /// The allocator after the first `event` events.
    fn at(&self, py: Python<'_>, event: usize) -> PyResult<Allocator> {
        let trace = self.kept_trace(py)?;
        let mut watch = Watch::new(None);
        let result = py.detach(|| self.inner.at(trace, event, &mut |at| watch.go_on(at as u64)));
        watch.finish(py, event as u64)?;
        result.map(Allocator::new).map_err(|error| errors::trace_error(py, &error))
    }

    /// The rest of the trace rerun from event `event` on.
    fn fork(
        &self,
        py: Python<'_>,
        event: usize,
        target: Option<&Allocator>,
        sample_every: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Rerun> {
        let trace = self.kept_trace(py)?;
        let target = target.map(|target| target.lock(py).clone());
        let options = again::Options { sample_every, history: true };
        let mut watch = Watch::new(progress);
        let go_on = &mut |at: usize| watch.go_on(at as u64);
        let result = py.detach(|| self.inner.fork(trace, event, target, &options, go_on));
        finish_rerun(py, Some(trace), result, watch)
    }
}

impl Rerun {
    fn kept_trace(&self, py: Python<'_>) -> PyResult<&Arc<CoreTrace>> {
        let text = "of a trace that was read in blocks: they are not kept";
        self.trace.as_ref().ok_or_else(|| errors::invalid_request(py, &ConfigError::new("event", "a place", text)))
    }
}

fn finish_rerun(
    py: Python<'_>,
    trace: Option<&Arc<CoreTrace>>,
    result: Result<again::Rerun, crate::error::TraceError>,
    watch: Watch,
) -> PyResult<Rerun> {
    watch.finish(py, result.as_ref().map_or(0, |inner| inner.totals.events))?;
    let inner = result.map_err(|error| errors::trace_error(py, &error))?;
    Ok(Rerun { trace: trace.cloned(), inner })
}

#[pyfunction]
pub fn rerun(
    py: Python<'_>,
    trace: &Trace,
    allocator: &Allocator,
    sample_every: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Rerun> {
    let mut guard = allocator.lock(py);
    let trace = &trace.inner;
    let mut watch = Watch::new(progress);
    let start = guard.clone();
    let options = again::Options { sample_every, history: true };
    let go_on = &mut |at: usize| watch.go_on(at as u64);
    let result = py.detach(|| again::rerun(trace, start, &options, go_on));
    let result = finish_rerun(py, Some(trace), result, watch)?;
    *guard = result.inner.allocator.clone();
    Ok(result)
}

/// A rerun block by block: what came of single requests is not kept.
#[pyfunction]
pub fn rerun_blocks(
    py: Python<'_>,
    blocks: &Bound<'_, PyIterator>,
    allocator: &Allocator,
    sample_every: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Rerun> {
    let blocks = blocks.clone().unbind();
    let mut watch = Watch::new(progress);
    let start = allocator.lock(py).clone();
    let mut rerunner = Rerunner::new(start, &again::Options { sample_every, history: false });
    while let Some(block) = next_block(py, &blocks)? {
        let go_on = &mut |at: usize| watch.go_on(at as u64);
        let read = py.detach(|| rerunner.read(&block, go_on)).map_err(|error| errors::trace_error(py, &error))?;
        if !read {
            break;
        }
    }
    let result = finish_rerun(py, None, Ok(rerunner.finish()), watch)?;
    *allocator.lock(py) = result.inner.allocator.clone();
    Ok(result)
}

/// A numpy column of one value a row.
pub fn column<'py, T, V: numpy::Element>(
    py: Python<'py>,
    rows: &[T],
    value: impl Fn(&T) -> V,
) -> Bound<'py, PyArray1<V>> {
    rows.iter().map(value).collect::<Vec<_>>().into_pyarray(py)
}
