//! Replays.

use std::borrow::Cow;

use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::allocator::{Allocator, Signals};
use super::errors;
use super::trace::Trace;
use crate::error::ConfigError;
use crate::replay::rerun::Served;
use crate::replay::{self as core, Divergence, Options, Prediction};
use crate::request::{Outcome, Sleep};
use crate::trace::Kind;
use crate::units::Bytes;

/// What came of a replay, without the engine.
#[pyclass(frozen, module = "percpu._core")]
pub struct Replay {
    kinds: Vec<Kind>,
    predictions: Vec<Prediction>,
    totals: core::Totals,
    samples: Vec<core::Sample>,
    first_divergence: Option<Divergence>,
}

impl Replay {
    /// Index, recorded success and prediction of each request.
    fn requests(&self) -> impl Iterator<Item = (u32, bool, Outcome, bool)> + '_ {
        (0u32..).zip(&self.predictions).filter_map(|(index, prediction)| {
            let served = self.kinds[index as usize] == Kind::Alloc;
            match *prediction {
                Prediction::None => None,
                Prediction::Equal(outcome) => Some((index, served, outcome, true)),
                Prediction::Differs(outcome) => Some((index, served, outcome, false)),
            }
        })
    }
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
        let d = PyDict::new(py);
        d.set_item("nr_events", self.totals.events)?;
        d.set_item("nr_alloc", self.requests().filter(|(_, served, ..)| *served).count())?;
        d.set_item("nr_failed", self.requests().filter(|(_, served, ..)| !*served).count())?;
        d.set_item("nr_free", self.totals.frees)?;
        d.set_item("nr_predicted", self.requests().filter(|(.., equal)| *equal).count())?;
        d.set_item("nr_diverged", self.totals.diverged)?;
        d.set_item("nr_late", self.totals.late)?;
        d.set_item("nr_background", self.totals.background)?;
        d.set_item("nr_unexplained", self.totals.unexplained)?;
        Ok(d)
    }

    fn first_divergence<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(first) = &self.first_divergence else { return Ok(None) };
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
        let place = |outcome: Outcome| match outcome {
            Outcome::Placed { chunk, off } => (chunk.0, off.0),
            Outcome::Failed(_) => (0, 0),
        };
        let placed = |outcome: Outcome| matches!(outcome, Outcome::Placed { .. });
        let d = PyDict::new(py);
        d.set_item("event", self.requests().map(|r| r.0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("ok", self.requests().map(|r| r.1).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("predicted", self.requests().map(|r| r.3).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("predicted_ok", self.requests().map(|r| placed(r.2)).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("chunk", self.requests().map(|r| place(r.2).0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("off_bytes", self.requests().map(|r| place(r.2).1).collect::<Vec<_>>().into_pyarray(py))?;
        Ok(d)
    }

    fn timeline<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        timeline(py, &self.samples)
    }
}

/// Columns of a timeline.
fn timeline<'py>(py: Python<'py>, samples: &[core::Sample]) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    let column = |value: fn(&core::Sample) -> i64| samples.iter().map(value).collect::<Vec<_>>().into_pyarray(py);
    d.set_item("event", column(|s| s.event as i64))?;
    d.set_item("nr_cur_alloc", column(|s| s.nr_cur_alloc as i64))?;
    d.set_item("live_bytes", column(|s| s.allocated_bytes as i64))?;
    d.set_item("populated_pages", column(|s| i64::from(s.nr_populated)))?;
    d.set_item("nr_chunks", column(|s| i64::from(s.nr_chunks)))?;
    d.set_item("nr_empty_pop_pages", column(|s| i64::from(s.nr_empty_pop_pages)))?;
    Ok(d)
}

#[pyfunction]
pub fn replay(py: Python<'_>, trace: &Trace, allocator: &Allocator, sample_every: usize) -> PyResult<Replay> {
    let mut core = allocator.lock(py);
    let Some(engine) = core.engine().as_linux().cloned() else {
        let text = format!("follows Linux 4.14 and later; use mode='rerun' on engine {}", core.engine().generation());
        return Err(errors::invalid_request(py, &ConfigError::new("mode", "predict", text)));
    };
    let options = Options { sample_every, ..Options::default() };
    let trace = &trace.inner;
    let mut signals = Signals::default();
    let result = py.detach(|| core::predict_with(trace, engine, &options, &mut |_| signals.go_on()));
    if let Some(error) = signals.raised() {
        return Err(error);
    }
    let result = result.map_err(|error| errors::trace_error(py, &error))?;
    core.set_engine(Box::new(result.engine));
    Ok(Replay {
        kinds: trace.columns().kind.to_vec(),
        predictions: result.predictions,
        totals: result.totals,
        samples: result.samples,
        first_divergence: result.first_divergence,
    })
}

/// What came of a rerun, without the allocator.
#[pyclass(frozen, module = "percpu._core")]
pub struct Rerun {
    requests: Vec<Served>,
    totals: core::rerun::Totals,
    samples: Vec<core::Sample>,
}

#[pymethods]
impl Rerun {
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        let totals = &self.totals;
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
        Ok(d)
    }

    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let place = |served: &Served| match served.outcome {
            Outcome::Placed { chunk, off } => (chunk.0, off.0, 0),
            Outcome::Failed(reason) => (0, 0, reason as u8),
        };
        let unit_off = |off: Option<Bytes>| off.map_or(0, |off| off.0);
        let rows = &self.requests;
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
        timeline(py, &self.samples)
    }
}

#[pyfunction]
pub fn rerun(py: Python<'_>, trace: &Trace, allocator: &Allocator, sample_every: usize) -> PyResult<Rerun> {
    let mut guard = allocator.lock(py);
    let trace = &trace.inner;
    let mut signals = Signals::default();
    let start = guard.clone();
    let result = py.detach(|| core::rerun::rerun(trace, start, sample_every, &mut |_| signals.go_on()));
    if let Some(error) = signals.raised() {
        return Err(error);
    }
    let result = result.map_err(|error| errors::trace_error(py, &error))?;
    *guard = result.allocator;
    Ok(Rerun { requests: result.requests, totals: result.totals, samples: result.samples })
}
