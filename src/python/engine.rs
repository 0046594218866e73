//! Engines written in Python.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;

use crate::allocator::{Placement, NULL};
use crate::compare::judge::Judge;
use crate::compare::moment::Moment;
use crate::compare::Subject;
use crate::request::{ChunkId, Outcome, Reason, Request};
use crate::units::Bytes;

/// The pointer to offset 0; no area has pointer 0.
const FIRST: u64 = 1 << 30;

/// The exception that an engine raised.
pub type Raised = Arc<Mutex<Option<PyErr>>>;

/// An object with `alloc(size, align)` and `free(offset)`, and a judge who looks at its answers.
pub struct PyEngine {
    object: Py<PyAny>,
    judge: Judge,
    nr_units: u64,
    raised: Raised,
}

impl PyEngine {
    pub fn new(object: Py<PyAny>, judge: Judge, raised: Raised) -> Self {
        let nr_units = u64::from(judge.geometry().nr_units());
        Self { object, judge, nr_units, raised }
    }

    /// Keeps an exception, so that it can be raised where the run was started.
    fn keep(&self, py: Python<'_>, error: PyErr) -> String {
        let text = format!(
            "{}: {}",
            error.get_type(py).name().map_or_else(|_| String::new(), |n| n.to_string()),
            error.value(py)
        );
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        text
    }
}

impl Subject for PyEngine {
    fn alloc(&mut self, request: &Request) -> Result<Placement, String> {
        let (size, align) = (request.size, request.align);
        let answer = Python::attach(|py| {
            let call = || self.object.bind(py).call_method1("alloc", (size.0, align.0))?.extract::<Option<u64>>();
            call().map_err(|error| self.keep(py, error))
        });
        let Some(off) = answer? else {
            return Ok(Placement { ptr: NULL, outcome: Outcome::Failed(Reason::NoRoom) });
        };
        self.judge.take(off, size, align)?;
        let unit = self.judge.geometry().unit_size().0;
        let outcome = Outcome::Placed { chunk: ChunkId((off / unit) as u32), off: Bytes(off % unit) };
        Ok(Placement { ptr: FIRST + off, outcome })
    }

    fn free(&mut self, ptr: u64, _: Bytes) -> Result<(), String> {
        let off = ptr - FIRST;
        self.judge.give_back(off);
        let freed = |py: Python<'_>| match self.object.bind(py).call_method1("free", (off,)) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.keep(py, error)),
        };
        Python::attach(freed)
    }

    fn balance(&mut self) {}

    fn moment(&self) -> Result<Moment, String> {
        Python::attach(|py| {
            // What only the engine knows; `stats` is optional.
            let metadata = || -> PyResult<Option<u64>> {
                let Some(stats) = self.object.bind(py).getattr_opt("stats")? else { return Ok(None) };
                let stats = stats.call0()?;
                match stats.call_method1("get", ("metadata_bytes",))? {
                    found if found.is_none() => Ok(None),
                    found => Ok(Some(found.extract()?)),
                }
            };
            Ok(Moment {
                handed_out: self.judge.handed_out(),
                populated: self.judge.populated(),
                nr_chunks: self.judge.nr_chunks(),
                metadata: metadata().map_err(|error| self.keep(py, error))?,
            })
        })
    }

    fn backing_bytes(&self) -> u64 {
        self.judge.populated() * self.nr_units
    }

    fn chunks_created(&self) -> u64 {
        self.judge.chunks_made()
    }

    fn max_chunks(&self) -> u64 {
        self.judge.max_chunks()
    }

    fn nr_cpus(&self) -> u64 {
        self.nr_units
    }

    fn page_size(&self) -> u64 {
        self.judge.geometry().page_size().0
    }
}

/// The legality of what an engine answers, for use by hand.
#[pyclass(module = "percpu._core", name = "Judge")]
pub struct PyJudge {
    inner: Judge,
}

#[pymethods]
impl PyJudge {
    #[new]
    fn new(py: Python<'_>, unit_size: u64, nr_units: u32, page_size: u64) -> PyResult<Self> {
        Ok(Self { inner: judge(py, unit_size, nr_units, page_size)? })
    }

    /// Takes an area; the text of the objection, or None.
    fn take(&mut self, offset: u64, size: u64, align: u64) -> Option<String> {
        self.inner.take(offset, Bytes(size), Bytes(align)).err()
    }

    fn give_back(&mut self, offset: u64) -> bool {
        self.inner.give_back(offset)
    }

    /// Live areas, their bytes, populated bytes of one unit, chunks with a live area.
    fn held(&self) -> (usize, u64, u64, u64) {
        (self.inner.live(), self.inner.handed_out(), self.inner.populated(), self.inner.nr_chunks())
    }
}

/// A judge of an empty space.
pub fn judge(py: Python<'_>, unit_size: u64, nr_units: u32, page_size: u64) -> PyResult<Judge> {
    let (page, granule) = (Bytes(page_size), Bytes(1));
    let geometry = crate::geometry::Geometry::new(page, granule, page, Bytes(unit_size), nr_units);
    Ok(Judge::new(geometry.map_err(|error| super::errors::invalid_request(py, &error))?))
}
