//! Who owns what a trace shows.

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator};

use super::errors;
use super::follow::{Boot, Follow, Given};
use super::replay::{column, next_block, Watch};
use crate::answers::owners::{By, Group, Owners as Core, Tally};
use crate::answers::symbols::Symbols as Table;
use crate::replay::follow::{likely_granule, Follower, Options, StatsFacts};

/// Functions of a kernel.
#[pyclass(frozen, module = "percpu._core")]
pub struct Symbols {
    inner: Table,
}

#[pymethods]
impl Symbols {
    /// `functions`: address, name, module (empty for the kernel itself).
    #[new]
    fn new(py: Python<'_>, functions: Vec<(u64, String, String)>) -> Self {
        Self { inner: py.detach(|| Table::new(functions)) }
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn resolve(&self, text: &str) -> String {
        self.inner.resolve(text).into_owned()
    }
}

/// Owners of areas over a trace.
#[pyclass(frozen, module = "percpu._core")]
pub struct Owners {
    inner: Core,
    granule: u64,
}

impl Owners {
    fn row<'py>(&self, py: Python<'py>, group: &Group) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        d.set_item("nr_alloc", group.nr_alloc)?;
        d.set_item("nr_free", group.nr_free)?;
        d.set_item("nr_live", group.nr_live)?;
        d.set_item("live_bytes", group.live * self.granule)?;
        d.set_item("peak_bytes", group.peak * self.granule)?;
        d.set_item("nr_peak", group.nr_peak)?;
        d.set_item("peak_event", group.peak_event)?;
        d.set_item("peak_time_ns", group.peak_time)?;
        Ok(d)
    }
}

#[pymethods]
impl Owners {
    /// One row a group; the first is what was there before.
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (rows, g) = (&self.inner.groups, self.granule);
        let d = PyDict::new(py);
        d.set_item("nr_alloc", column(py, rows, |r| r.nr_alloc))?;
        d.set_item("nr_atomic", column(py, rows, |r| r.nr_atomic))?;
        d.set_item("alloc_bytes", column(py, rows, |r| r.placed * g))?;
        d.set_item("nr_free", column(py, rows, |r| r.nr_free))?;
        d.set_item("nr_live", column(py, rows, |r| r.nr_live))?;
        d.set_item("live_bytes", column(py, rows, |r| r.live * g))?;
        d.set_item("peak_bytes", column(py, rows, |r| r.peak * g))?;
        d.set_item("nr_peak", column(py, rows, |r| r.nr_peak))?;
        d.set_item("peak_event", column(py, rows, |r| r.peak_event))?;
        d.set_item("peak_time_ns", column(py, rows, |r| r.peak_time))?;
        d.set_item("mean_life_events", column(py, rows, |r| r.life_events as f64 / r.nr_free as f64))?;
        d.set_item("mean_life_ns", column(py, rows, |r| r.life_time as f64 / r.nr_free as f64))?;
        Ok(d)
    }

    fn total<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.row(py, &self.inner.total)
    }

    fn names(&self) -> Vec<String> {
        self.inner.names.clone()
    }

    /// Bytes of a granule.
    fn granule(&self) -> u64 {
        self.granule
    }

    /// Group by call site plus one, by size in granules or by chunk.
    fn group_of<'py>(&self, py: Python<'py>) -> Bound<'py, numpy::PyArray1<u32>> {
        column(py, &self.inner.group_of, |group| *group)
    }

    /// Samples (events up to its end, time) and what changed in them (sample, group, bytes).
    fn course<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let o = &self.inner;
        let d = PyDict::new(py);
        d.set_item("event", column(py, &o.ends, |event| *event))?;
        d.set_item("time_ns", column(py, &o.times, |time| *time))?;
        d.set_item("entry_sample", column(py, &o.entries, |e| e.sample))?;
        d.set_item("entry_group", column(py, &o.entries, |e| e.group))?;
        d.set_item("entry_bytes", column(py, &o.entries, |e| e.live * self.granule))?;
        Ok(d)
    }

    /// What is left of the areas that were given as live before, if any were.
    fn prior<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(areas) = &self.inner.prior else { return Ok(None) };
        let d = PyDict::new(py);
        d.set_item("base_addr", column(py, areas, |area| area.0))?;
        d.set_item("off_bytes", column(py, areas, |area| u64::from(area.1) * self.granule))?;
        d.set_item("size_bytes", column(py, areas, |area| u64::from(area.2) * self.granule))?;
        Ok(Some(d))
    }

    /// What the trace says of the number of CPUs.
    fn factor<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let factor = &self.inner.factor;
        let d = PyDict::new(py);
        d.set_item("max_cpu", factor.max_cpu)?;
        d.set_item("quotients", factor.quotients)?;
        d.set_item("nr_odd", factor.nr_odd)?;
        d.set_item("wide", factor.wide)?;
        Ok(d)
    }
}

/// Live areas before the first event: base address, offset and size.
type Prior<'py> = (PyReadonlyArray1<'py, u64>, PyReadonlyArray1<'py, u64>, PyReadonlyArray1<'py, u64>);

/// Follows a trace, whole (one block) or in blocks, and tells owners apart on the way.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub fn owners(
    py: Python<'_>,
    blocks: &Bound<'_, PyIterator>,
    whole: bool,
    by: usize,
    prior: Option<Prior<'_>>,
    symbols: Option<&Symbols>,
    unit_size: Option<u64>,
    granule: u64,
    boot: Option<Boot>,
    page_size: u64,
    stats: Option<&str>,
    stats_end: Option<&str>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Follow, Owners)> {
    let blocks = blocks.clone().unbind();
    let first = if whole { next_block(py, &blocks)? } else { None };
    let granule = match (granule, &first) {
        (0, Some(trace)) => likely_granule(trace).0,
        (0, None) => Options::default().granule.0,
        _ => granule,
    };
    let given = Given { unit_size, granule, boot, page_size, stats, stats_end, sample_every: 0 };
    let options = given.options(py, whole)?;
    let facts = options.stats.as_ref().zip(first.as_deref());
    let facts = facts.map(|(stats, trace)| StatsFacts::learn(trace, stats, &options)).unwrap_or_default();
    let to_error = |error| errors::trace_error(py, &error);
    let mut follower = Follower::new(options).map_err(to_error)?.with_facts(facts);
    let symbols = symbols.map(|symbols| symbols.inner.clone()).unwrap_or_default();
    let mut tally = Tally::new(By::ALL.get(by).map_or(By::Site, |by| by.1), symbols);
    if let Some((base, off, size)) = &prior {
        let (base, off, size) = (base.as_slice()?, off.as_slice()?, size.as_slice()?);
        let granules = |bytes: &u64| bytes.div_ceil(granule).min(u64::from(u32::MAX)) as u32;
        let areas = base.iter().zip(off).zip(size).map(|((base, off), size)| (*base, granules(off), granules(size)));
        tally = tally.with_prior(areas);
    }
    let mut watch = Watch::new(progress);
    let mut block = if whole { first } else { next_block(py, &blocks)? };
    while let Some(trace) = block {
        if !py.detach(|| tally.read(&mut follower, &trace, &mut |at| watch.go_on(at))) {
            break;
        }
        block = next_block(py, &blocks)?;
    }
    let events = follower.event();
    watch.finish(py, events)?;
    let time = follower.time();
    let (follow, inner) = py.detach(|| (follower.finish(), tally.finish(time)));
    Ok((Follow { inner: follow }, Owners { inner, granule }))
}
