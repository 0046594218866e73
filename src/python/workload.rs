//! Workloads: recipes, their steps as columns, and runs.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::allocator::{Allocator, Signals};
use super::errors;
use super::trace::Trace;
use crate::cost::{Costs, TABLE};
use crate::error::ConfigError;
use crate::request::{Outcome, Sleep};
use crate::workload::{self as core, Domain, FitError, Initial, Recipe, Step, Stream, Value, PROCEDURES};

/// Between two looks for a Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn value_of(given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(number) = given.extract::<u64>() {
        return Ok(Value::Number(number));
    }
    if let Ok(word) = given.extract::<String>() {
        return Ok(Value::Word(word));
    }
    let list: PyReadonlyArray1<'_, u64> = given.extract()?;
    Ok(Value::List(list.as_slice()?.to_vec()))
}

fn value_to<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Number(number) => number.into_pyobject(py)?.into_any(),
        Value::Word(word) => word.into_pyobject(py)?.into_any(),
        Value::List(list) => list.clone().into_pyarray(py).into_any(),
    })
}

fn given(parameters: &Bound<'_, PyDict>) -> PyResult<Vec<(String, Value)>> {
    parameters.iter().map(|(name, value)| Ok((name.extract()?, value_of(&value)?))).collect()
}

/// A workload; never changed.
#[pyclass(frozen, module = "percpu._core")]
pub struct Workload {
    pub(super) recipe: Recipe,
}

impl Workload {
    fn new(py: Python<'_>, recipe: Result<Recipe, ConfigError>) -> PyResult<Self> {
        recipe.map(|recipe| Self { recipe }).map_err(|error| errors::invalid_request(py, &error))
    }
}

#[pymethods]
impl Workload {
    #[staticmethod]
    fn make(py: Python<'_>, name: &str, parameters: &Bound<'_, PyDict>) -> PyResult<Self> {
        let given = given(parameters)?;
        Self::new(py, Recipe::new(name, given.iter().map(|(name, value)| (name.as_str(), value.clone()))))
    }

    fn replace(&self, py: Python<'_>, parameters: &Bound<'_, PyDict>) -> PyResult<Self> {
        let given = given(parameters)?;
        let changed =
            given.into_iter().try_fold(self.recipe.clone(), |recipe, (name, value)| recipe.with(&name, value));
        Self::new(py, changed)
    }

    fn name(&self) -> &'static str {
        self.recipe.procedure().name
    }

    fn text(&self) -> String {
        self.recipe.to_string()
    }

    fn fingerprint(&self) -> u64 {
        self.recipe.fingerprint()
    }

    fn needs_places(&self) -> bool {
        self.recipe.procedure().needs_places
    }

    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        for (name, value) in self.recipe.parameters() {
            d.set_item(name, value_to(py, value)?)?;
        }
        Ok(d)
    }

    fn phase_name(&self, phase: u32) -> String {
        self.recipe.phase_name(phase)
    }

    fn steps(&self) -> Steps {
        Steps { stream: Mutex::new((self.recipe.start(), 0)) }
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.recipe == other.recipe
    }
}

/// The steps of a workload, in batches.
#[pyclass(frozen, module = "percpu._core")]
pub struct Steps {
    /// The stream, and the phase that it is in.
    stream: Mutex<(Box<dyn Stream>, u32)>,
}

/// A step as columns: kind, phase, object, size, align, code of [`Sleep`], reserved.
type Row = (u8, u32, u32, u64, u64, u8, bool);

fn row(step: Step, phase: &mut u32) -> Row {
    match step {
        Step::Alloc { id, request } => {
            (0, *phase, id, request.size.0, request.align.0, request.sleep as u8, request.reserved)
        }
        Step::Free { id } => (1, *phase, id, 0, 0, 0, false),
        Step::Phase(number) => {
            *phase = number;
            (2, number, 0, 0, 0, 0, false)
        }
        Step::Balance => (3, *phase, 0, 0, 0, 0, false),
    }
}

#[pymethods]
impl Steps {
    fn next_batch<'py>(&self, py: Python<'py>, length: usize) -> PyResult<Bound<'py, PyDict>> {
        let rows = py.detach(|| {
            let mut stream = self.stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let (stream, phase) = &mut *stream;
            let steps = std::iter::from_fn(|| stream.next_step()).take(length);
            steps.map(|step| row(step, phase)).collect::<Vec<Row>>()
        });
        let d = PyDict::new(py);
        d.set_item("kind", rows.iter().map(|r| r.0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("phase", rows.iter().map(|r| r.1).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("id", rows.iter().map(|r| r.2).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("size_bytes", rows.iter().map(|r| r.3).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("align_bytes", rows.iter().map(|r| r.4).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("atomic", rows.iter().map(|r| r.5 == Sleep::Never as u8).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("reserved", rows.iter().map(|r| r.6).collect::<Vec<_>>().into_pyarray(py))?;
        Ok(d)
    }
}

/// What came of a run, without the allocator.
#[pyclass(frozen, module = "percpu._core")]
pub struct WorkloadRun {
    run: core::Run,
}

#[pymethods]
impl WorkloadRun {
    fn phases<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        let column =
            |value: fn(&core::Phase) -> u64| self.run.phases.iter().map(value).collect::<Vec<_>>().into_pyarray(py);
        d.set_item("phase", column(|p| u64::from(p.phase)))?;
        d.set_item("nr_alloc", column(|p| p.allocs))?;
        d.set_item("nr_failed", column(core::Phase::fails))?;
        d.set_item("nr_free", column(|p| p.frees))?;
        d.set_item("nr_free_skipped", column(|p| p.skipped))?;
        d.set_item("alloc_bytes", column(|p| p.served_bytes))?;
        d.set_item("nr_chunks_created", column(|p| u64::from(p.chunks_created)))?;
        d.set_item("nr_live", column(|p| p.end.live_objects))?;
        d.set_item("live_bytes", column(|p| p.end.live_bytes))?;
        d.set_item("nr_chunks", column(|p| u64::from(p.end.nr_chunks)))?;
        d.set_item("populated_pages", column(|p| u64::from(p.end.populated_pages)))?;
        d.set_item("nr_live_peak", column(|p| p.peak.live_objects))?;
        d.set_item("peak_live_bytes", column(|p| p.peak.live_bytes))?;
        d.set_item("nr_chunks_peak", column(|p| u64::from(p.peak.nr_chunks)))?;
        d.set_item("peak_populated_pages", column(|p| u64::from(p.peak.populated_pages)))?;
        let costs = |prefix: &str, of: fn(&core::Phase) -> Option<Costs>| -> PyResult<()> {
            if self.run.phases.iter().all(|phase| of(phase).is_none()) {
                return Ok(());
            }
            for (index, about) in TABLE.iter().enumerate().filter(|(_, about)| !about.full_only) {
                let value = |phase: &core::Phase| of(phase).unwrap_or_default().values()[index];
                let column: Vec<u64> = self.run.phases.iter().map(value).collect();
                d.set_item(format!("{prefix}{}", about.name), column.into_pyarray(py))?;
            }
            Ok(())
        };
        costs("cost_", |phase| phase.costs)?;
        costs("alloc_cost_", |phase| phase.alloc_costs)?;
        if self.run.phases.iter().any(|phase| phase.alloc_time_ns.is_some()) {
            d.set_item("alloc_time_ns", column(|p| p.alloc_time_ns.unwrap_or(0)))?;
        }
        d.set_item("time_ns", column(|p| p.time_ns.unwrap_or(0)))?;
        Ok(d)
    }

    fn failures(&self) -> Vec<Vec<u64>> {
        self.run.phases.iter().map(|phase| phase.failures.to_vec()).collect()
    }

    fn nr_steps(&self) -> u64 {
        self.run.steps
    }

    fn requests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let rows = &self.run.served;
        let place = |served: &core::Served| match served.outcome {
            Outcome::Placed { chunk, off } => (chunk.0, off.0, 0),
            Outcome::Failed(reason) => (0, 0, reason as u8),
        };
        let d = PyDict::new(py);
        d.set_item("entry", rows.iter().map(|r| r.phase).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("id", rows.iter().map(|r| r.id).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("size_bytes", rows.iter().map(|r| r.request.size.0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("align_bytes", rows.iter().map(|r| r.request.align.0).collect::<Vec<_>>().into_pyarray(py))?;
        let atomic = rows.iter().map(|r| r.request.sleep == Sleep::Never);
        d.set_item("atomic", atomic.collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("reserved", rows.iter().map(|r| r.request.reserved).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("reason", rows.iter().map(|r| place(r).2).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("chunk", rows.iter().map(|r| place(r).0).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("off_bytes", rows.iter().map(|r| place(r).1).collect::<Vec<_>>().into_pyarray(py))?;
        d.set_item("unit_off_bytes", rows.iter().map(|r| r.unit_off.0).collect::<Vec<_>>().into_pyarray(py))?;
        Ok(d)
    }
}

#[pyfunction]
pub fn run_workload(
    py: Python<'_>,
    workload: &Workload,
    allocator: &Allocator,
    places: bool,
    split: bool,
) -> PyResult<WorkloadRun> {
    let mut guard = allocator.lock(py);
    let mut target = guard.clone();
    let mut signals = Signals::default();
    let mut looked = Instant::now();
    let mut go_on = || {
        if looked.elapsed() < LOOK_EVERY {
            return true;
        }
        looked = Instant::now();
        signals.go_on()
    };
    let run = py.detach(|| {
        let begin = Instant::now();
        let clock = || begin.elapsed().as_nanos() as u64;
        let options = core::Options { places, split, clock: Some(&clock) };
        core::run(&workload.recipe, &mut target, &options, &mut go_on).map(|run| (run, target))
    });
    if let Some(error) = signals.raised() {
        return Err(error);
    }
    let (run, target) = run.map_err(|error| errors::free_error(py, error.error, None))?;
    *guard = target;
    Ok(WorkloadRun { run })
}

#[pyfunction]
pub fn fit_workload(py: Python<'_>, trace: &Trace, n: u64, seed: u64) -> PyResult<Workload> {
    let trace = &trace.inner;
    match py.detach(|| core::fit(trace, n, seed)) {
        Ok(recipe) => Ok(Workload { recipe }),
        Err(FitError::Trace(error)) => Err(errors::trace_error(py, &error)),
        Err(FitError::Parameter(error)) => Err(errors::invalid_request(py, &error)),
    }
}

#[pyfunction]
pub fn workload_of_trace(py: Python<'_>, trace: &Trace) -> PyResult<Workload> {
    let trace = &trace.inner;
    let recipe = py.detach(|| core::of_trace(trace));
    Workload::new(py, recipe)
}

#[pyfunction]
pub fn procedures(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let default = |initial: &Initial| match initial {
        Initial::Required => None,
        Initial::Number(number) => Some(Value::Number(*number)),
        Initial::List(list) => Some(Value::List(list.to_vec())),
        Initial::Word(word) => Some(Value::Word((*word).to_owned())),
    };
    let rows = PyList::empty(py);
    for procedure in PROCEDURES {
        let parameters = PyList::empty(py);
        for parameter in procedure.parameters {
            let value = default(&parameter.default).map(|value| value_to(py, &value)).transpose()?;
            let (kind, words): (&str, &[&str]) = match parameter.domain {
                Domain::Number(..) => ("number", &[]),
                Domain::List(..) | Domain::OptionalList(..) => ("list", &[]),
                Domain::Word(words) => ("word", words),
            };
            parameters.append((parameter.name, kind, value, words.to_vec(), parameter.meaning))?;
        }
        rows.append((procedure.name, procedure.summary, parameters, procedure.phases.to_vec()))?;
    }
    Ok(rows)
}
