//! Sweeps: points from a Python iterator, results to a Python function.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use numpy::IntoPyArray;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator};

use super::allocator::{Allocator, Signals};
use super::compare::{row, Source, Wanted};
use super::engine::{self, PyEngine, Raised};
use super::errors;
use crate::compare::{self as core, Options, Rewrite, Stopped, Subject};
use crate::cost::Counting;
use crate::request::Outcome;
use crate::sweep::{self, Point};

/// How requests are changed: align, min_align, size_multiple, atomic.
type Changes = (Option<u64>, Option<u64>, Option<u64>, Option<bool>);

/// An engine in Python: the object, unit_size, nr_units, page_size.
type Foreign = (Py<PyAny>, u64, u32, u64);

/// What a point of Python consists of.
type Parts = (usize, Py<Source>, Py<PyAny>, Changes);

struct Caller {
    points: Py<PyIterator>,
    done: Py<PyAny>,
    wanted: Wanted,
    signals: Signals,
    error: Option<PyErr>,
    /// What the engines in Python that are under way raised.
    raised: HashMap<usize, Raised>,
}

impl Caller {
    fn next_of(&mut self, py: Python<'_>) -> PyResult<Option<Point>> {
        let Some(parts) = self.points.bind(py).clone().next() else { return Ok(None) };
        let (index, source, subject, changes): Parts = parts?.extract()?;
        let rewrite = rewrite_of(py, changes)?;
        let raised = Raised::default();
        let subject = subject_of(py, subject.bind(py), &raised, self.wanted.costs)?;
        self.raised.insert(index, raised);
        Ok(Some(Point { index, source: source.get().inner.clone(), rewrite, subject }))
    }
}

fn rewrite_of(py: Python<'_>, changes: Changes) -> PyResult<Rewrite> {
    let (align, min_align, size_multiple, atomic) = changes;
    let rewrite = Rewrite { align, min_align, size_multiple, atomic };
    rewrite.check().map_err(|error| errors::invalid_request(py, &error)).map(|()| rewrite)
}

/// Raises what a point with these changes would raise.
#[pyfunction]
pub fn check_changes(
    py: Python<'_>,
    align: Option<u64>,
    min_align: Option<u64>,
    size_multiple: Option<u64>,
    atomic: Option<bool>,
) -> PyResult<()> {
    rewrite_of(py, (align, min_align, size_multiple, atomic)).map(|_| ())
}

/// An allocator in the state that it is in, or an engine in Python.
fn subject_of(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    raised: &Raised,
    costs: Counting,
) -> PyResult<Box<dyn Subject + Send>> {
    if let Ok(allocator) = object.cast::<Allocator>() {
        let mut core = allocator.get().lock(py).clone();
        if let Some(meter) = core.engine_mut().meter_mut() {
            meter.set_counting(costs);
        }
        return Ok(Box::new(core));
    }
    let (object, unit_size, nr_units, page_size): Foreign = object.extract()?;
    let judge = engine::judge(py, unit_size, nr_units, page_size)?;
    Ok(Box::new(PyEngine::new(object, judge, raised.clone())))
}

impl sweep::Caller for Caller {
    fn next(&mut self) -> Option<Point> {
        let next = Python::attach(|py| self.next_of(py));
        next.unwrap_or_else(|error| {
            self.error = Some(error);
            None
        })
    }

    fn done(&mut self, index: usize, outcome: sweep::Outcome, _: Option<Box<dyn Subject + Send>>) {
        let raised = self.raised.remove(&index);
        let told = Python::attach(|py| -> PyResult<()> {
            let raised = raised.and_then(|raised| raised.lock().unwrap_or_else(PoisonError::into_inner).take());
            match outcome {
                Ok(figures) => self.done.call1(py, (index, row(py, &figures, self.wanted)?, py.None(), py.None()))?,
                Err(text) => self.done.call1(py, (index, py.None(), text, raised.map(|error| error.into_value(py))))?,
            };
            Ok(())
        });
        self.error = self.error.take().or(told.err());
    }

    fn go_on(&mut self) -> bool {
        self.error.is_none() && self.signals.go_on()
    }
}

fn counting(costs: &str) -> Counting {
    match costs {
        "off" => Counting::Off,
        "full" => Counting::Full,
        _ => Counting::Totals,
    }
}

#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub fn sweep_points(
    py: Python<'_>,
    points: &Bound<'_, PyAny>,
    done: Py<PyAny>,
    threads: usize,
    timing: bool,
    phases: bool,
    sample_every: u64,
    costs: &str,
) -> PyResult<()> {
    let options = Options { timing, phases, sample_every, answers: false };
    let points = points.try_iter()?.unbind();
    let signals = Signals::default();
    let wanted = Wanted { timing, costs: counting(costs) };
    let mut caller = Caller { points, done, wanted, signals, error: None, raised: HashMap::new() };
    let result = py.detach(|| sweep::sweep(&mut caller, options, threads));
    if let Some(error) = caller.error.or(caller.signals.raised()) {
        return Err(error);
    }
    result.map(|_| ()).map_err(PyRuntimeError::new_err)
}

/// Makes the steps of a trace with an engine in Python, and tells where everything lies.
#[pyfunction]
pub fn rerun_engine<'py>(
    py: Python<'py>,
    source: &Source,
    engine: Foreign,
    sample_every: u64,
) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
    let (object, unit_size, nr_units, page_size) = engine;
    let raised = Raised::default();
    let judge = engine::judge(py, unit_size, nr_units, page_size)?;
    let mut engine = PyEngine::new(object, judge, raised.clone());
    let mut signals = Signals::default();
    let source: &Arc<core::Source> = &source.inner;
    let options = Options { sample_every, answers: true, ..Options::default() };
    let figures = py.detach(|| core::run(source, &Rewrite::default(), &mut engine, options, &mut || signals.go_on()));
    let figures = figures.map_err(|stopped| match stopped {
        Stopped::Interrupted => signals.raised().expect("only a signal interrupts"),
        Stopped::Broken(step, text) => {
            let raised = raised.lock().unwrap_or_else(PoisonError::into_inner).take();
            raised.unwrap_or_else(|| errors::illegal_answer(py, &format!("step {step}: {text}")))
        }
    })?;
    let place = |answer: &Outcome| match *answer {
        Outcome::Placed { chunk, off } => (chunk.0, off.0, 0),
        Outcome::Failed(reason) => (0, 0, reason as u8),
    };
    let rows = &figures.answers;
    let d = PyDict::new(py);
    let event = rows.iter().map(|(step, _)| source.events()[*step as usize]);
    d.set_item("event", event.collect::<Vec<u32>>().into_pyarray(py))?;
    d.set_item("reason", rows.iter().map(|(_, answer)| place(answer).2).collect::<Vec<_>>().into_pyarray(py))?;
    d.set_item("chunk", rows.iter().map(|(_, answer)| place(answer).0).collect::<Vec<_>>().into_pyarray(py))?;
    d.set_item("off_bytes", rows.iter().map(|(_, answer)| place(answer).1).collect::<Vec<_>>().into_pyarray(py))?;
    Ok((d, row(py, &figures, Wanted { timing: false, costs: Counting::Off })?))
}
