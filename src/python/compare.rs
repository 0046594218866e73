//! Sources of steps, and figures of runs as rows.

use std::sync::Arc;

use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::errors;
use super::trace::Trace;
use super::workload::Workload;
use crate::compare::source::Columns;
use crate::compare::{self as core, Counts, Figures, Sight};
use crate::cost::{Counting, TABLE};

/// Steps over object numbers; never changed.
#[pyclass(frozen, module = "percpu._core")]
pub struct Source {
    pub(super) inner: Arc<core::Source>,
}

#[pymethods]
impl Source {
    #[staticmethod]
    fn of_trace(py: Python<'_>, trace: &Trace) -> Self {
        let trace = &trace.inner;
        Self { inner: Arc::new(py.detach(|| core::Source::of_trace(trace))) }
    }

    #[staticmethod]
    fn from_columns(
        py: Python<'_>,
        op: PyReadonlyArray1<'_, u8>,
        id: PyReadonlyArray1<'_, u32>,
        size: PyReadonlyArray1<'_, u32>,
        align: PyReadonlyArray1<'_, u32>,
        phases: Vec<String>,
        unseen_frees: u64,
    ) -> PyResult<Self> {
        let (op, id) = (op.as_slice()?.to_vec(), id.as_slice()?.to_vec());
        let columns = Columns { op, id, size: size.as_slice()?.to_vec(), align: align.as_slice()?.to_vec() };
        let source = py.detach(|| core::Source::from_columns(columns, phases, unseen_frees));
        Ok(Self { inner: Arc::new(source.map_err(|error| errors::invalid_request(py, &error))?) })
    }

    #[staticmethod]
    fn of_workload(workload: &Workload) -> Self {
        Self { inner: Arc::new(core::Source::of_recipe(workload.recipe.clone())) }
    }

    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(columns) = self.inner.columns() else { return Ok(None) };
        let d = PyDict::new(py);
        d.set_item("op", columns.op.clone().into_pyarray(py))?;
        d.set_item("id", columns.id.clone().into_pyarray(py))?;
        d.set_item("size", columns.size.clone().into_pyarray(py))?;
        d.set_item("align", columns.align.clone().into_pyarray(py))?;
        Ok(Some(d))
    }

    fn events<'py>(&self, py: Python<'py>) -> Bound<'py, numpy::PyArray1<u32>> {
        self.inner.events().to_vec().into_pyarray(py)
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let source = &self.inner;
        let d = PyDict::new(py);
        d.set_item("nr_steps", source.columns().map(|columns| columns.op.len()))?;
        d.set_item("nr_free_unseen", source.unseen_frees())?;
        d.set_item("nr_free_lost", source.lost_frees())?;
        d.set_item("phases", source.phases())?;
        Ok(d)
    }
}

/// A column's name after a prefix.
fn set<'py>(d: &Bound<'py, PyDict>, prefix: &str, name: &str, value: impl IntoPyObject<'py>) -> PyResult<()> {
    d.set_item(format!("{prefix}{name}"), value)
}

/// Which columns are wanted.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Times.
    pub timing: bool,
    /// What is counted of the work.
    pub costs: Counting,
}

fn set_counts(d: &Bound<'_, PyDict>, counts: &Counts, wanted: Wanted) -> PyResult<()> {
    if wanted.timing {
        d.set_item("alloc_ns", counts.alloc_ns)?;
        d.set_item("free_ns", counts.free_ns)?;
    }
    d.set_item("nr_alloc", counts.allocs)?;
    d.set_item("nr_failed", counts.fails)?;
    d.set_item("nr_failed_atomic", counts.atomic_fails)?;
    d.set_item("nr_free", counts.frees)?;
    d.set_item("nr_free_of_failed", counts.missing_frees)?;
    d.set_item("requested_bytes", counts.requested)?;
    d.set_item("nr_chunks_created", counts.chunks_created)?;
    if let Some(costs) = counts.costs.filter(|_| wanted.costs != Counting::Off) {
        let full = wanted.costs == Counting::Full;
        for (about, value) in TABLE.iter().zip(costs.values()).filter(|(about, _)| full || !about.full_only) {
            set(d, "cost_", about.name, value)?;
        }
    }
    Ok(())
}

fn set_sight(d: &Bound<'_, PyDict>, prefix: &str, sight: &Sight, nr_cpus: u64) -> PyResult<()> {
    let held = &sight.held;
    let per_object = held.metadata.filter(|_| sight.objects > 0).map(|bytes| bytes as f64 / sight.objects as f64);
    set(d, prefix, "nr_objects", sight.objects)?;
    set(d, prefix, "nr_chunks", held.nr_chunks)?;
    set(d, prefix, "requested_bytes", sight.requested)?;
    set(d, prefix, "handed_out_bytes", held.handed_out)?;
    set(d, prefix, "populated_bytes", held.populated)?;
    set(d, prefix, "memory_bytes", held.populated.saturating_mul(nr_cpus))?;
    set(d, prefix, "metadata_bytes", held.metadata)?;
    set(d, prefix, "metadata_per_object_bytes", per_object)?;
    set(d, prefix, "fragmentation", held.fragmentation())
}

/// Figures as a row: the names of the columns and their values, None where there is none.
pub fn row<'py>(py: Python<'py>, figures: &Figures, wanted: Wanted) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    let cpus = figures.nr_cpus;
    d.set_item("nr_steps", figures.steps)?;
    set_counts(&d, &figures.counts, wanted)?;
    d.set_item("nr_max_chunks", figures.max_chunks)?;
    // What boot populated is there from the beginning.
    let boot = (figures.end.held.populated.saturating_mul(cpus)).saturating_sub(figures.end.backing);
    d.set_item("max_memory_bytes", figures.max_backing + boot)?;
    set_sight(&d, "peak_", &figures.peak, cpus)?;
    set_sight(&d, "end_", &figures.end, cpus)?;
    let phases = figures.phases.iter().map(|phase| {
        let d = PyDict::new(py);
        d.set_item("phase", &phase.name)?;
        set_counts(&d, &phase.counts, wanted)?;
        set_sight(&d, "end_", &phase.end, cpus)?;
        Ok(d)
    });
    d.set_item("phases", PyList::new(py, phases.collect::<PyResult<Vec<_>>>()?)?)?;
    let samples = figures.samples.iter().map(|(step, sight)| {
        let d = PyDict::new(py);
        d.set_item("step", step)?;
        set_sight(&d, "", sight, cpus)?;
        Ok(d)
    });
    d.set_item("samples", PyList::new(py, samples.collect::<PyResult<Vec<_>>>()?)?)?;
    Ok(d)
}
