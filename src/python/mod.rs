//! The extension module `percpu._core`.
//!
//! # Design
//!
//! Each wrapper converts, releases the interpreter, calls one core function and converts back.
//! Argument checks and documentation for users are in the `.py` files of the package; the
//! signatures are in `_core.pyi`, which the stub test compares with this module.
//!
//! An allocator is behind a mutex, so that it can be shared between threads: calls are served
//! one after the other. Nobody waits for it while holding the interpreter. Batches are cut
//! into slices, between which a Ctrl-C is noticed.

mod allocator;
mod compare;
mod convert;
mod engine;
mod errors;
mod explain;
mod follow;
mod layout;
mod machines;
mod owners;
mod replay;
mod stats;
mod sweep;
mod trace;
mod trace_io;
mod vmalloc;
mod workload;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use pyo3::prelude::*;
    use pyo3::types::{PyList, PyTuple};

    #[pymodule_export]
    use super::allocator::{Allocator, Calls};
    #[pymodule_export]
    use super::compare::Source;
    #[pymodule_export]
    use super::engine::PyJudge;
    #[pymodule_export]
    use super::explain::find_messages;
    #[pymodule_export]
    use super::follow::{follow, follow_blocks, Follow};
    #[pymodule_export]
    use super::layout::FirstChunkLayout;
    #[pymodule_export]
    use super::machines::{architectures, parse_boot_log, preset_of, recover_boot_log, search_of, sweep_machines};
    #[pymodule_export]
    use super::owners::{owners, Owners, Symbols};
    #[pymodule_export]
    use super::replay::{closed_world, replay, rerun, rerun_blocks, Replay, Rerun};
    #[pymodule_export]
    use super::stats::{read_percpu_stats, PercpuStats};
    #[pymodule_export]
    use super::sweep::{check_changes, rerun_engine, sweep_points};
    #[pymodule_export]
    use super::trace::Trace;
    #[pymodule_export]
    use super::trace_io::{CallSiteFilter, TraceReader, TraceSummary, TraceWriter};
    #[pymodule_export]
    use super::vmalloc::{Areas, VmallocSpace};
    #[pymodule_export]
    use super::workload::{fit_workload, procedures, run_workload, workload_of_trace};
    #[pymodule_export]
    use super::workload::{Steps, Workload, WorkloadRun};
    use crate::request::{ChunkId, Reason};
    use crate::variant::{Rules, Thresholds, PRESETS};

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = m.py();
        m.add("__version__", env!("CARGO_PKG_VERSION"))?;
        m.add("NULL", crate::allocator::NULL)?;
        m.add("RESERVED", ChunkId::RESERVED.0)?;
        m.add("REASONS", PyTuple::new(py, Reason::ALL.iter().map(|reason| (reason.name(), reason.text())))?)?;
        let costs = crate::cost::TABLE.iter().map(|about| (about.name, about.unit, about.text, about.full_only));
        m.add("COSTS", PyTuple::new(py, costs)?)?;
        m.add("THRESHOLDS", PyTuple::new(py, Thresholds::KERNEL.named())?)?;
        let outcomes = crate::replay::follow::Outcome::ALL.iter().map(|outcome| outcome.name());
        m.add("OUTCOMES", PyTuple::new(py, outcomes)?)?;
        m.add("OWNERS_BY", PyTuple::new(py, crate::answers::owners::By::ALL.iter().map(|(name, _)| *name))?)?;
        m.add("MESSAGE_KINDS", PyTuple::new(py, crate::answers::explain::KINDS)?)?;
        m.add("EVENT_KINDS", PyTuple::new(py, crate::trace::Kind::ALL.iter().map(|kind| kind.name()))?)
    }

    #[pyfunction]
    fn kernels(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
        PyList::new(py, PRESETS.iter().map(|p| (p.release, p.generation.name(), p.status.name())))
    }

    #[pyfunction]
    fn rules(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
        PyList::new(
            py,
            Rules::TABLE.iter().map(|r| (r.name, r.meaning.trim(), r.section, r.values[0], r.values[1], r.values[2])),
        )
    }
}
