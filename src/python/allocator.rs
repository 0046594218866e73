//! The allocator.

use std::sync::{Arc, Mutex, MutexGuard};

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBytes, PyDict};

use super::convert::{self, Records};
use super::errors;
use super::layout::{preset, FirstChunkLayout};
use super::vmalloc::VmallocSpace;
use crate::allocator::{Allocator as Core, Area, Balance, BatchError, Columns, Placement};
use crate::backend::Supply;
use crate::chunk::Role;
use crate::cost::Counting;
use crate::engine::{ChunkView, Older};
use crate::error::{ConfigError, StateError};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Request, Sleep};
use crate::state::DiffOptions;
use crate::units::Bytes;
use crate::variant::Thresholds;

fn balance(every: u32) -> Balance {
    match every {
        0 => Balance::Manual,
        1 => Balance::Eager,
        k => Balance::Every(k),
    }
}

fn sleep(code: u8) -> Sleep {
    match code {
        0 => Sleep::Full,
        1 => Sleep::NoFs,
        _ => Sleep::Never,
    }
}

fn tuple(area: Area) -> (u32, u64, u64, u64) {
    (area.chunk.0, area.off.0, area.unit_off.0, area.size.0)
}

type Batch<'py> = (
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<u8>>,
);

/// Chunk, offset, offset in the unit, size, CPU.
type Found = (u32, u64, u64, u64, u32);

/// Start of each area, and whether it is in use.
type AreaMap<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<bool>>);

/// The columns of a batch.
fn batch<'py>(py: Python<'py>, core: &Core, placements: &[Placement]) -> Batch<'py> {
    let n = placements.len();
    let ptr: Vec<u64> = placements.iter().map(|placement| placement.ptr).collect();
    let (mut chunk, mut off, mut reason) = (vec![0u32; n], vec![0u64; n], vec![0u8; n]);
    let mut unit_off = vec![0u64; n];
    for (i, placement) in placements.iter().enumerate() {
        match placement.outcome {
            Outcome::Placed { chunk: id, off: bytes } => {
                (chunk[i], off[i]) = (id.0, bytes.0);
                // It is live, so that its chunk still exists.
                unit_off[i] = core.unit_off(id, bytes).0;
            }
            Outcome::Failed(why) => reason[i] = why as u8,
        }
    }
    let (off, unit_off) = (off.into_pyarray(py), unit_off.into_pyarray(py));
    (ptr.into_pyarray(py), chunk.into_pyarray(py), off, unit_off, reason.into_pyarray(py))
}

/// Ctrl-C during a batch.
#[derive(Default)]
pub struct Signals(Option<PyErr>);

impl Signals {
    /// False once a signal handler raised an exception.
    pub fn go_on(&mut self) -> bool {
        self.0 = self.0.take().or_else(|| Python::attach(|py| py.check_signals().err()));
        self.0.is_none()
    }

    /// The exception that was raised.
    pub fn raised(self) -> Option<PyErr> {
        self.0
    }

    /// What stopped the batch.
    fn error(self, py: Python<'_>, error: BatchError) -> PyErr {
        match error {
            BatchError::Element(index, error) => errors::free_error(py, error, Some(index)),
            BatchError::Interrupted => self.0.expect("only a signal interrupts"),
        }
    }
}

/// An allocator, shared by a lock.
#[pyclass(frozen, module = "percpu._core")]
pub struct Allocator {
    inner: Arc<Mutex<Core>>,
}

impl Allocator {
    pub fn new(core: Core) -> Self {
        Self { inner: Arc::new(Mutex::new(core)) }
    }

    /// The allocator; the interpreter is released while waiting for it.
    pub fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Core> {
        lock(&self.inner, py)
    }

    /// Calls `read` with a view of a chunk.
    fn view<T>(
        &self,
        py: Python<'_>,
        chunk: u32,
        read: impl FnOnce(&Core, ChunkView<'_>) -> PyResult<T>,
    ) -> PyResult<T> {
        let core = self.lock(py);
        let view = core.engine().chunk(ChunkId(chunk)).ok_or_else(|| errors::stale_chunk(py, chunk))?;
        read(&core, view)
    }
}

fn lock<'a>(inner: &'a Mutex<Core>, py: Python<'_>) -> MutexGuard<'a, Core> {
    // A panic is a bug that was reported already; the state is as good as it was then.
    inner.lock_py_attached(py).unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Single calls. The Python class inherits them, so that no Python frame is in the way; the rest it asks an [`Allocator`],
/// which is the same one.
#[pyclass(frozen, subclass, module = "percpu._core")]
pub struct Calls {
    inner: Arc<Mutex<Core>>,
}

#[pymethods]
impl Calls {
    #[new]
    fn new(core: &Allocator) -> Self {
        Self { inner: Arc::clone(&core.inner) }
    }

    /// Allocate the same bytes for every CPU.
    ///
    /// Parameters
    /// ----------
    /// size : int
    ///     Bytes for each CPU.
    /// align : int, optional
    ///     Alignment in bytes, a power of two up to a page.
    /// atomic : bool, optional
    ///     The request must not sleep: only pages that are populated already, and no new chunk.
    /// reserved : bool, optional
    ///     From the reserved chunk, if there is one.
    /// nowarn : bool, optional
    ///     No warning line if it fails.
    /// accounted : bool, optional
    ///     Charged to a memory cgroup; decides the lists in kernels 5.9 to 5.13.
    ///
    /// Returns
    /// -------
    /// int
    ///     The pointer; never 0.
    ///
    /// Raises
    /// ------
    /// AllocError
    ///     If it fails as it would in the kernel; ``reason`` says why.
    /// InvalidRequest
    ///     If no kernel serves this size or alignment.
    ///
    /// Examples
    /// --------
    /// >>> a = Allocator(unit_size=32 << 10, nr_units=2)
    /// >>> hex(a.alloc(8))
    /// '0x40000000'
    #[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
    #[pyo3(
        signature = (size, align = None, *, atomic = None, reserved = None, nowarn = None, accounted = None),
        text_signature = "($self, size, align=4, *, atomic=False, reserved=False, nowarn=False, accounted=False)"
    )]
    fn alloc(
        &self,
        py: Python<'_>,
        size: &Bound<'_, PyAny>,
        align: Option<&Bound<'_, PyAny>>,
        atomic: Option<&Bound<'_, PyAny>>,
        reserved: Option<&Bound<'_, PyAny>>,
        nowarn: Option<&Bound<'_, PyAny>>,
        accounted: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let flag = |given: Option<&Bound<'_, PyAny>>| given.map_or(Ok(false), PyAnyMethods::is_truthy);
        let request = Request {
            size: Bytes(convert::number("size", size)?),
            align: Bytes(align.map_or(Ok(4), |align| convert::number("align", align))?),
            sleep: if flag(atomic)? { Sleep::Never } else { Sleep::Full },
            reserved: flag(reserved)?,
            nowarn: flag(nowarn)?,
        };
        let accounted = flag(accounted)?;
        let mut core = lock(&self.inner, py);
        check_accounted(py, &core, accounted)?;
        let placement = core.alloc(&request);
        match placement.outcome {
            Outcome::Placed { .. } => Ok(placement.ptr),
            Outcome::Failed(reason) => Err(errors::alloc_error(py, core.engine().geometry(), &request, reason)),
        }
    }

    /// Free an area.
    ///
    /// Parameters
    /// ----------
    /// ptr : int
    ///     What `alloc` returned; `NULL` does nothing.
    /// size : int, optional
    ///     Bytes; needed by the engine ``cpu_alloc-2008``, which does not know them, and ignored by the others.
    ///
    /// Raises
    /// ------
    /// InvalidFree
    ///     If no live area starts there.
    #[pyo3(signature = (ptr, size = None))]
    fn free(&self, py: Python<'_>, ptr: &Bound<'_, PyAny>, size: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let ptr = convert::pointer(ptr)?;
        let size = size.map(|size| convert::number("size", size)).transpose()?;
        let result = lock(&self.inner, py).free(ptr, size.map(Bytes));
        result.map_err(|error| errors::free_error(py, error, None))
    }
}

/// Bits of a chunk's map.
fn nr_bits(core: &Core, view: &ChunkView<'_>) -> usize {
    match view.older {
        Some(Older::CpuAlloc { nr_units, .. }) => nr_units as usize,
        _ => core.engine().geometry().pages_to_bits(view.nr_pages).0 as usize,
    }
}

/// What a view shows, or the error that this engine keeps no such thing.
fn kept<T>(py: Python<'_>, core: &Core, shown: Option<T>, field: &str) -> PyResult<T> {
    shown.ok_or_else(|| errors::not_kept(py, core.engine().generation(), field))
}

/// Adds the fields that only one generation has, under their names there.
fn set_older(d: &Bound<'_, PyDict>, older: Older) -> PyResult<()> {
    match older {
        Older::AreaMap { contig_hint, first_free, map_alloc, has_reserved } => {
            d.set_item("contig_hint", contig_hint.0)?;
            d.set_item("first_free", first_free)?;
            d.set_item("map_alloc", map_alloc)?;
            d.set_item("has_reserved", has_reserved)
        }
        Older::RfcV1 { contig_hint, contig_hint_start, first_free_block, has_reserved } => {
            d.set_item("contig_hint", contig_hint.0)?;
            d.set_item("contig_hint_start", contig_hint_start.0)?;
            d.set_item("first_free_block", first_free_block)?;
            d.set_item("has_reserved", has_reserved)
        }
        Older::CpuAlloc { nr_units, first_free, cpu_bytes } => {
            d.set_item("nr_units", nr_units)?;
            d.set_item("first_free", first_free)?;
            d.set_item("cpu_bytes", cpu_bytes)
        }
    }
}

#[pymethods]
impl Allocator {
    #[staticmethod]
    fn on_layout(
        py: Python<'_>,
        layout: &FirstChunkLayout,
        balance_every: u32,
        backend: &str,
        vmalloc: Option<&VmallocSpace>,
    ) -> PyResult<Self> {
        let mut first = layout.chunk.clone();
        if backend == "km" {
            first.backend = crate::layout::Backend::KernelMemory;
        }
        let space = vmalloc.map(|space| space.lock(py).clone());
        let core = py.detach(|| match space {
            Some(space) => Core::with_vmalloc(layout.preset, &first, balance(balance_every), space),
            None => Core::with_layout(layout.preset, &first, balance(balance_every)),
        });
        Ok(Self::new(core.map_err(|error| errors::invalid_request(py, &error))?))
    }

    #[staticmethod]
    #[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
    fn plain(
        py: Python<'_>,
        kernel: &str,
        unit_size: u64,
        nr_units: u32,
        page_size: u64,
        min_alloc_size: u64,
        block_size: u64,
        balance_every: u32,
        backend: &str,
    ) -> PyResult<Self> {
        let preset = preset(py, kernel)?;
        let geometry =
            Geometry::new(Bytes(page_size), Bytes(min_alloc_size), Bytes(block_size), Bytes(unit_size), nr_units);
        let core = geometry.and_then(|geometry| Core::bare(preset, geometry, balance(balance_every)));
        let mut core = core.map_err(|error| errors::invalid_request(py, &error))?;
        core.engine_mut().backend_mut().contiguous = backend == "km";
        Ok(Self::new(core))
    }

    #[staticmethod]
    fn from_state(py: Python<'_>, data: &[u8], kernel: &str, balance_every: u32) -> PyResult<Self> {
        let preset = preset(py, kernel)?;
        let core = py.detach(|| Core::from_state(&Core::read_state(data)?, preset, balance(balance_every)));
        Ok(Self::new(core.map_err(|error| errors::state_error(py, &error))?))
    }

    #[staticmethod]
    fn restore(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let core = py.detach(|| Core::from_snapshot(data));
        Ok(Self::new(core.map_err(|error| errors::state_error(py, &error))?))
    }

    /// A copy of the vmalloc space that chunks lie in.
    fn vmalloc(&self, py: Python<'_>) -> Option<VmallocSpace> {
        let core = self.lock(py);
        core.engine().backend().vmalloc().map(|vmalloc| VmallocSpace::new(vmalloc.space.clone()))
    }

    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let core = self.lock(py);
        let core: &Core = &core;
        let bytes = py.detach(|| core.snapshot()).map_err(|error| errors::state_error(py, &error))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn state_json(&self, py: Python<'_>) -> PyResult<String> {
        let core = self.lock(py);
        let core: &Core = &core;
        let state = py.detach(|| core.state()).map_err(|error| errors::state_error(py, &error))?;
        Ok(state.to_json())
    }

    fn differences(&self, py: Python<'_>, data: &[u8], limit: usize) -> PyResult<Vec<String>> {
        let core = self.lock(py);
        let core: &Core = &core;
        let found = py.detach(|| -> Result<_, StateError> {
            let options = DiffOptions { limit, ..DiffOptions::default() };
            Ok(core.state()?.diff_with(&Core::read_state(data)?, options))
        });
        let found = found.map_err(|error| errors::state_error(py, &error))?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    fn copy(&self, py: Python<'_>) -> Self {
        let core = self.lock(py);
        let core: &Core = &core;
        Self::new(py.detach(|| core.clone()))
    }

    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.lock(py);
        let (engine, geometry) = (core.engine(), core.engine().geometry());
        let d = PyDict::new(py);
        d.set_item("kernel", core.preset().release)?;
        d.set_item("engine", engine.generation().name())?;
        d.set_item("page_size", geometry.page_size().0)?;
        d.set_item("min_alloc_size", geometry.min_alloc_size().0)?;
        d.set_item("block_size", geometry.block_size().0)?;
        d.set_item("unit_size", geometry.unit_size().0)?;
        d.set_item("nr_units", geometry.nr_units())?;
        d.set_item("nr_cpus", core.address().units().count())?;
        d.set_item("nr_slots", engine.slot_numbers().nr_slots)?;
        d.set_item("backend", if engine.backend().contiguous { "km" } else { "vm" })?;
        let every = match core.balance_policy() {
            Balance::Manual => 0,
            Balance::Eager => 1,
            Balance::Every(k) => k,
        };
        d.set_item("balance_every", every)?;
        d.set_item("since_balance", core.since_balance())?;
        Ok(d)
    }

    /// When the worker runs, and how many operations ago it had its last turn.
    fn set_balance_policy(&self, py: Python<'_>, every: u32, since: u32) {
        self.lock(py).set_balance_policy(balance(every), since);
    }

    #[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
    fn alloc_many<'py>(
        &self,
        py: Python<'py>,
        sizes: PyReadonlyArray1<'py, u64>,
        aligns: PyReadonlyArray1<'py, u64>,
        sleep: PyReadonlyArray1<'py, u8>,
        reserved: bool,
        nowarn: bool,
        accounted: bool,
    ) -> PyResult<Batch<'py>> {
        let (sizes, aligns, sleep) = (sizes.as_slice()?, aligns.as_slice()?, sleep.as_slice()?);
        let lengths = [sizes.len(), aligns.len(), sleep.len()];
        let n = if lengths.contains(&0) { 0 } else { lengths.into_iter().max().unwrap_or(0) };
        let request = |i: usize| Request {
            size: Bytes(sizes[if sizes.len() == 1 { 0 } else { i }]),
            align: Bytes(aligns[if aligns.len() == 1 { 0 } else { i }]),
            sleep: self::sleep(sleep[if sleep.len() == 1 { 0 } else { i }]),
            reserved,
            nowarn,
        };
        let mut core = self.lock(py);
        check_accounted(py, &core, accounted)?;
        let core: &mut Core = &mut core;
        let mut signals = Signals::default();
        let requests = (0..n).map(request);
        let columns = py.detach(|| core.alloc_columns(requests, &mut || signals.go_on()));
        let Columns { ptr, chunk, off, unit_off, failed } = columns.map_err(|error| signals.error(py, error))?;
        // Untouched pages of zeros cost nothing.
        let reason = PyArray1::<u8>::zeros(py, n, false);
        if !failed.is_empty() {
            let mut reasons = reason.readwrite();
            let reasons = reasons.as_slice_mut()?;
            failed.iter().for_each(|(row, why)| reasons[*row] = *why as u8);
        }
        let (off, unit_off) = (off.into_pyarray(py), unit_off.into_pyarray(py));
        Ok((ptr.into_pyarray(py), chunk.into_pyarray(py), off, unit_off, reason))
    }

    fn free_many(
        &self,
        py: Python<'_>,
        ptrs: PyReadonlyArray1<'_, u64>,
        sizes: Option<PyReadonlyArray1<'_, u64>>,
    ) -> PyResult<()> {
        let ptrs = ptrs.as_slice()?;
        let sizes = sizes.as_ref().map(|sizes| sizes.as_slice()).transpose()?;
        let mut core = self.lock(py);
        let core: &mut Core = &mut core;
        let mut signals = Signals::default();
        let result = py.detach(|| core.free_many(ptrs, sizes, &mut || signals.go_on()));
        result.map_err(|error| signals.error(py, error))
    }

    /// What was counted, in the order of `COSTS`.
    fn costs(&self, py: Python<'_>) -> Option<Vec<u64>> {
        self.lock(py).costs().map(|costs| costs.values().to_vec())
    }

    fn counting(&self, py: Python<'_>) -> Option<u8> {
        self.lock(py).counting().map(|counting| counting as u8)
    }

    fn set_counting(&self, py: Python<'_>, counting: u8) {
        self.lock(py).set_counting([Counting::Off, Counting::Totals, Counting::Full][usize::from(counting.min(2))]);
    }

    /// In the order of `THRESHOLDS`.
    fn thresholds(&self, py: Python<'_>) -> Option<Vec<u32>> {
        self.lock(py).thresholds().map(|thresholds| thresholds.named().iter().map(|(_, value)| *value).collect())
    }

    fn set_thresholds(&self, py: Python<'_>, values: Vec<u32>) -> PyResult<()> {
        let mut thresholds = Thresholds::KERNEL;
        for ((name, _), value) in Thresholds::KERNEL.named().iter().zip(values) {
            thresholds = thresholds.with(name, value).expect("it is a name of one");
        }
        self.lock(py).set_thresholds(thresholds).map_err(|error| errors::invalid_request(py, &error))
    }

    /// As `alloc_many` with one size, alignment and kind for each request, and a row of costs for each.
    fn alloc_many_costed<'py>(
        &self,
        py: Python<'py>,
        sizes: PyReadonlyArray1<'py, u64>,
        aligns: PyReadonlyArray1<'py, u64>,
        sleep: PyReadonlyArray1<'py, u8>,
        flags: (bool, bool, bool),
    ) -> PyResult<(Batch<'py>, Bound<'py, PyArray2<u64>>)> {
        let (sizes, aligns, sleep) = (sizes.as_slice()?, aligns.as_slice()?, sleep.as_slice()?);
        let (reserved, nowarn, accounted) = flags;
        let requests = sizes.iter().zip(aligns).zip(sleep).map(|((size, align), sleep)| Request {
            size: Bytes(*size),
            align: Bytes(*align),
            sleep: self::sleep(*sleep),
            reserved,
            nowarn,
        });
        let requests: Vec<Request> = requests.collect();
        let mut core = self.lock(py);
        check_accounted(py, &core, accounted)?;
        let core: &mut Core = &mut core;
        let mut signals = Signals::default();
        let done = py.detach(|| core.alloc_many_costed(requests.into_iter(), &mut || signals.go_on()));
        let (placements, costs) = done.map_err(|error| signals.error(py, error))?;
        Ok((batch(py, core, &placements), convert::costs(py, &costs)?))
    }

    /// As `free_many`, with a row of costs for each free.
    fn free_many_costed<'py>(
        &self,
        py: Python<'py>,
        ptrs: PyReadonlyArray1<'_, u64>,
        sizes: Option<PyReadonlyArray1<'_, u64>>,
    ) -> PyResult<Bound<'py, PyArray2<u64>>> {
        let ptrs = ptrs.as_slice()?;
        let sizes = sizes.as_ref().map(|sizes| sizes.as_slice()).transpose()?;
        let mut core = self.lock(py);
        let core: &mut Core = &mut core;
        let mut signals = Signals::default();
        let costs = py.detach(|| core.free_many_costed(ptrs, sizes, &mut || signals.go_on()));
        convert::costs(py, &costs.map_err(|error| signals.error(py, error))?)
    }

    fn balance(&self, py: Python<'_>) -> bool {
        let mut core = self.lock(py);
        let core: &mut Core = &mut core;
        let pending = core.engine().balance_pending();
        py.detach(|| core.run_balance());
        pending
    }

    fn balance_pending(&self, py: Python<'_>) -> bool {
        self.lock(py).engine().balance_pending()
    }

    /// As `alloc`, killed while it waits; `flags` are atomic, reserved, nowarn, nofail.
    fn alloc_killed(&self, py: Python<'_>, size: u64, align: u64, flags: (bool, bool, bool, bool)) -> PyResult<u64> {
        let (atomic, reserved, nowarn, nofail) = flags;
        let sleep = if atomic { Sleep::Never } else { Sleep::Full };
        let request = Request { size: Bytes(size), align: Bytes(align), sleep, reserved, nowarn };
        let mut core = self.lock(py);
        let placement = core.alloc_killed(&request, nofail).ok_or_else(|| errors::killed(py, &request))?;
        match placement.outcome {
            Outcome::Placed { .. } => Ok(placement.ptr),
            Outcome::Failed(reason) => Err(errors::alloc_error(py, core.engine().geometry(), &request, reason)),
        }
    }

    fn set_supply(
        &self,
        py: Python<'_>,
        pages: Option<u64>,
        mappings: Option<u64>,
        chunks: Option<u64>,
        extensions: Option<u64>,
    ) {
        let supply = |limit: Option<u64>| limit.map_or(Supply::ENDLESS, Supply::of);
        let mut core = self.lock(py);
        let backend = core.engine_mut().backend_mut();
        backend.page_supply = supply(pages);
        backend.map_supply = supply(mappings);
        backend.chunk_supply = supply(chunks);
        backend.extend_supply = supply(extensions);
    }

    fn locate(&self, py: Python<'_>, ptr: u64) -> PyResult<(u32, u64, u64, u64)> {
        self.lock(py).locate(ptr).map(tuple).map_err(|error| errors::request_error(py, &error, None))
    }

    fn find(&self, py: Python<'_>, address: u64) -> PyResult<Option<Found>> {
        let found = self.lock(py).find(address).map_err(|error| errors::request_error(py, &error, None))?;
        let Some((area, cpu)) = found else { return Ok(None) };
        let (chunk, off, unit_off, size) = tuple(area);
        Ok(Some((chunk, off, unit_off, size, cpu)))
    }

    fn per_cpu_ptr(&self, py: Python<'_>, ptr: u64, cpu: u32) -> PyResult<u64> {
        self.lock(py).per_cpu_ptr(ptr, cpu).map_err(|error| errors::request_error(py, &error, None))
    }

    fn chunk_numbers<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        let ids = self.lock(py).engine().chunk_ids();
        ids.iter().filter(|id| !id.is_reserved()).map(|id| id.0).collect::<Vec<_>>().into_pyarray(py)
    }

    fn has_reserved(&self, py: Python<'_>) -> bool {
        self.lock(py).engine().chunk(ChunkId::RESERVED).is_some()
    }

    fn slots<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyArray1<u32>>> {
        let slots = self.lock(py).engine().slots();
        slots.iter().map(|list| list.iter().map(|id| id.0).collect::<Vec<_>>().into_pyarray(py)).collect()
    }

    fn chunk_info<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<Bound<'py, PyDict>> {
        self.view(py, chunk, |_, view| {
            let d = PyDict::new(py);
            d.set_item("base_addr", view.base_addr)?;
            d.set_item("slot", view.slot)?;
            d.set_item("free_bytes", view.free_bytes.0)?;
            d.set_item("start_offset", view.start_offset.0)?;
            d.set_item("end_offset", view.end_offset.0)?;
            d.set_item("nr_pages", view.nr_pages.0)?;
            d.set_item("nr_populated", view.nr_populated.0)?;
            d.set_item("nr_empty_pop_pages", view.nr_empty_pop_pages)?;
            d.set_item("nr_alloc", view.nr_alloc)?;
            d.set_item("max_alloc_size", view.max_alloc_size.0)?;
            d.set_item("immutable", view.role != Role::Dynamic)?;
            d.set_item("isolated", view.isolated.unwrap_or(false))?;
            d.set_item("is_first", view.role == Role::First)?;
            d.set_item("unit_off", view.unit_off.0)?;
            view.older.map_or(Ok(()), |older| set_older(&d, older))?;
            Ok(d)
        })
    }

    fn chunk_alloc_map<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<Bound<'py, PyArray1<bool>>> {
        self.view(py, chunk, |core, view| Ok(convert::bits(py, &view.alloc_map, nr_bits(core, &view))))
    }

    fn chunk_alloc_words<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<Bound<'py, PyArray1<u64>>> {
        self.view(py, chunk, |_, view| Ok(view.alloc_map.into_owned().into_pyarray(py)))
    }

    fn chunk_bound_map<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<Bound<'py, PyArray1<bool>>> {
        self.view(py, chunk, |core, view| {
            let map = kept(py, core, view.bound_map.as_deref(), "bound_map")?;
            Ok(convert::bits(py, map, nr_bits(core, &view) + 1))
        })
    }

    fn chunk_populated<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<Bound<'py, PyArray1<bool>>> {
        self.view(py, chunk, |_, view| Ok(convert::bits(py, &view.populated, view.nr_pages.0 as usize)))
    }

    fn chunk_blocks<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<Records<'py>> {
        self.view(py, chunk, |core, view| {
            let blocks = kept(py, core, view.blocks.as_deref(), "blocks")?;
            convert::blocks(py, core.engine().generation(), blocks)
        })
    }

    fn chunk_hints<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<Records<'py>> {
        self.view(py, chunk, |core, view| {
            let hints = kept(py, core, view.hints.as_ref(), "hints")?;
            convert::hints(py, core.engine().generation(), hints)
        })
    }

    fn chunk_area_map<'py>(&self, py: Python<'py>, chunk: u32) -> PyResult<AreaMap<'py>> {
        self.view(py, chunk, |core, view| {
            let map = kept(py, core, view.area_map.as_deref(), "area_map")?;
            let off: Vec<u32> = map.iter().map(|entry| entry & !1).collect();
            let in_use: Vec<bool> = map.iter().map(|entry| entry & 1 == 1).collect();
            Ok((off.into_pyarray(py), in_use.into_pyarray(py)))
        })
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.lock(py);
        let (stats, totals) = (core.engine().stats(), core.engine().totals());
        let d = PyDict::new(py);
        d.set_item("nr_alloc", stats.nr_alloc)?;
        d.set_item("nr_dealloc", stats.nr_dealloc)?;
        d.set_item("nr_cur_alloc", stats.nr_cur_alloc)?;
        d.set_item("nr_max_alloc", stats.nr_max_alloc)?;
        d.set_item("nr_chunks", stats.nr_chunks)?;
        d.set_item("nr_max_chunks", stats.nr_max_chunks)?;
        d.set_item("min_alloc_size", stats.min_alloc_size.0)?;
        d.set_item("max_alloc_size", stats.max_alloc_size.0)?;
        d.set_item("nr_empty_pop_pages", totals.nr_empty_pop_pages)?;
        if let Some(nr_populated) = totals.nr_populated {
            d.set_item("nr_populated", nr_populated)?;
        }
        d.set_item("backing_pages", core.engine().backend().backing_pages)?;
        Ok(d)
    }

    fn stats_text(&self, py: Python<'_>) -> PyResult<String> {
        let core = self.lock(py);
        let core: &Core = &core;
        let stats = py.detach(|| core.stats().map(|stats| stats.to_text()));
        stats.ok_or_else(|| {
            let generation = core.preset().generation;
            errors::invalid_request(py, &ConfigError::new("engine", generation, "has no statistics file"))
        })
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.lock(py);
        let core: &Core = &core;
        py.detach(|| core.engine().verify()).map_err(|violation| errors::verify_error(py, &violation))
    }
}

/// Accounted requests have lists of their own from 5.9 to 5.13, which are not built.
fn check_accounted(py: Python<'_>, core: &Core, accounted: bool) -> PyResult<()> {
    if accounted && core.preset().accounted_slots {
        let text = "keeps accounted requests apart, which is not built";
        return Err(errors::invalid_request(
            py,
            &ConfigError::new("accounted", true, format!("{} {text}", core.preset().release)),
        ));
    }
    Ok(())
}
