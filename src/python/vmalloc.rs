//! The vmalloc space.

use std::sync::{Mutex, MutexGuard};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::errors;
use super::layout::FirstChunkLayout;
use crate::error::ConfigError;
use crate::layout::vm_areas::{Fault, Refusal, Search};
use crate::layout::{AreaSet, VmallocSpace as Core};

/// Address space and what is taken of it, shared by a lock.
#[pyclass(frozen, module = "percpu._core")]
pub struct VmallocSpace {
    inner: Mutex<Core>,
}

impl VmallocSpace {
    pub fn new(core: Core) -> Self {
        Self { inner: Mutex::new(core) }
    }

    pub fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Core> {
        // A panic is a bug that was reported already; the state is as good as it was then.
        self.inner.lock_py_attached(py).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn with<T>(&self, py: Python<'_>, change: impl FnOnce(&mut Core) -> Result<T, ConfigError>) -> PyResult<T> {
        change(&mut self.lock(py)).map_err(|error| errors::invalid_request(py, &error))
    }
}

/// What a chunk asks for.
#[pyclass(frozen, module = "percpu._core")]
pub struct Areas(pub AreaSet);

#[pymethods]
impl Areas {
    #[new]
    fn new(py: Python<'_>, offsets: Vec<u64>, sizes: Vec<u64>, align: u64, page_size: u64) -> PyResult<Self> {
        let set = AreaSet::new(&offsets, &sizes, align, page_size);
        set.map(Self).map_err(|error| errors::invalid_request(py, &error))
    }

    #[staticmethod]
    fn of_layout(py: Python<'_>, layout: &FirstChunkLayout) -> PyResult<Self> {
        let chunk = &layout.chunk;
        let set = AreaSet::new(&chunk.group_offsets, &chunk.group_sizes, chunk.info.atom_size, chunk.page_size);
        set.map(Self).map_err(|error| errors::invalid_request(py, &error))
    }

    fn ranges(&self, base: u64) -> Option<Vec<(u64, u64)>> {
        self.0.ranges(base).map(|ranges| ranges.into_iter().map(|range| (range.start, range.end)).collect())
    }
}

#[pymethods]
impl VmallocSpace {
    #[new]
    fn make(
        py: Python<'_>,
        search: &str,
        start: u64,
        end: u64,
        page_size: u64,
        lazy_free: bool,
        lazy_threshold: Option<u64>,
    ) -> PyResult<Self> {
        let search = Search::by_name(search).ok_or_else(|| {
            let error = ConfigError::new("search", search, "must be busy_areas, free_blocks or declarative");
            errors::invalid_request(py, &error)
        })?;
        let mut space =
            Core::new(search, start, end, page_size).map_err(|error| errors::invalid_request(py, &error))?;
        (space.lazy_free, space.lazy_threshold) = (lazy_free, lazy_threshold);
        Ok(Self::new(space))
    }

    fn copy(&self, py: Python<'_>) -> Self {
        Self::new(self.lock(py).clone())
    }

    fn equals(&self, py: Python<'_>, other: &Self) -> bool {
        let other = other.lock(py).clone();
        *self.lock(py) == other
    }

    /// search, start, end, page_size, lazy_free, lazy_threshold, hint, lazy_pages.
    #[allow(clippy::type_complexity)]
    fn config(&self, py: Python<'_>) -> (&'static str, u64, u64, u64, bool, Option<u64>, u64, u64) {
        let space = self.lock(py);
        let (start, end) = space.bounds();
        let search = space.search().name();
        (search, start, end, space.page_size(), space.lazy_free, space.lazy_threshold, space.hint(), space.lazy_pages())
    }

    fn busy(&self, py: Python<'_>) -> Vec<(u64, u64, bool)> {
        self.lock(py).busy().map(|(range, lazy)| (range.start, range.end, lazy)).collect()
    }

    fn free_blocks(&self, py: Python<'_>) -> Vec<(u64, u64)> {
        self.lock(py).free_blocks().map(|range| (range.start, range.end)).collect()
    }

    fn occupy(&self, py: Python<'_>, start: u64, end: u64) -> PyResult<()> {
        self.with(py, |space| space.occupy(start..end))
    }

    fn release(&self, py: Python<'_>, start: u64) -> PyResult<()> {
        self.with(py, |space| space.release_range(start))
    }

    fn purge(&self, py: Python<'_>) -> usize {
        self.lock(py).purge()
    }

    fn find(&self, py: Python<'_>, areas: &Areas) -> Option<u64> {
        let space = self.lock(py);
        let space: &Core = &space;
        py.detach(|| space.find_base(&areas.0))
    }

    /// Base, tests, whether a purge was needed; or the reason and text of a failure.
    fn alloc(&self, py: Python<'_>, areas: &Areas) -> Result<(u64, u64, bool), PyErr> {
        let mut space = self.lock(py);
        let space: &mut Core = &mut space;
        let placed = py.detach(|| space.alloc(&areas.0));
        placed.map(|placed| (placed.base, placed.tests, placed.purged)).map_err(|refusal| {
            let (reason, text) = match refusal {
                Refusal::TooFarApart => ("too_far_apart", "the areas are too far apart for the vmalloc space"),
                Refusal::NoRoom => ("no_room", "the areas fit nowhere, even after a purge"),
                Refusal::Fault => ("fault", "an injected fault"),
            };
            errors::area_error(py, reason, text, areas.0.span(), areas.0.align())
        })
    }

    fn free(&self, py: Python<'_>, areas: &Areas, base: u64) -> PyResult<()> {
        self.with(py, |space| space.release(&areas.0, base))
    }

    fn inject(&self, py: Python<'_>, fault: &str, area: usize, calls: u32) -> PyResult<()> {
        self.with(py, |space| {
            let fault = match fault {
                "objects" => Fault::Objects,
                "split" => Fault::Split(area),
                "shadow" => Fault::Shadow(area),
                other => return Err(ConfigError::new("fault", other, "must be objects, split or shadow")),
            };
            space.inject(fault, calls)
        })
    }

    /// Takes back what is lazy and the hint, for copies through a pickle.
    fn restore(&self, py: Python<'_>, lazy: Vec<u64>, hint: u64) -> PyResult<()> {
        self.with(py, |space| space.restore(&lazy, hint))
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        self.lock(py).verify().map_err(|violation| errors::verify_error(py, &violation))
    }
}
