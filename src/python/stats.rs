//! The debugfs text `percpu_stats`: text to columns and back.

use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors;
use crate::stats_text::{self, ChunkStats};

/// Name of a column, and what of a chunk stands in it.
type Column = (&'static str, fn(&ChunkStats) -> i64);

/// The content of one text; never changed.
#[pyclass(frozen, eq, module = "percpu._core")]
#[derive(PartialEq)]
pub struct PercpuStats {
    inner: stats_text::PercpuStats,
}

#[pymethods]
impl PercpuStats {
    fn form(&self) -> &'static str {
        self.inner.form.name()
    }

    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        dict(py, self.inner.info_rows())
    }

    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        dict(py, self.inner.global_rows())
    }

    fn chunks<'py>(&self, py: Python<'py>) -> PyResult<(Vec<&'static str>, Bound<'py, PyDict>)> {
        let chunks = &self.inner.chunks;
        let labels = chunks.iter().map(|chunk| chunk.label.name()).collect();
        let columns: [Column; 12] = [
            ("nr_alloc", |c| c.nr_alloc),
            ("max_alloc_size", |c| c.max_alloc_size),
            ("empty_pop_pages", |c| c.empty_pop_pages),
            ("first_bit", |c| c.first_bit),
            ("free_bytes", |c| c.free_bytes),
            ("contig_bytes", |c| c.contig_bytes),
            ("sum_frag", |c| c.frag.sum_frag),
            ("max_frag", |c| c.frag.max_frag),
            ("cur_min_alloc", |c| c.frag.cur_min_alloc),
            ("cur_med_alloc", |c| c.frag.cur_med_alloc),
            ("cur_max_alloc", |c| c.frag.cur_max_alloc),
            ("memcg_aware", |c| i64::from(c.memcg_aware)),
        ];
        let d = PyDict::new(py);
        for (name, value) in columns {
            d.set_item(name, chunks.iter().map(value).collect::<Vec<i64>>().into_pyarray(py))?;
        }
        Ok((labels, d))
    }

    fn to_text(&self) -> String {
        self.inner.to_text()
    }
}

fn dict<'py>(py: Python<'py>, rows: impl IntoIterator<Item = (&'static str, u64)>) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    for (name, value) in rows {
        d.set_item(name, value)?;
    }
    Ok(d)
}

#[pyfunction]
pub fn read_percpu_stats(py: Python<'_>, text: &str) -> PyResult<PercpuStats> {
    let inner = py.detach(|| stats_text::read_percpu_stats(text)).map_err(|error| errors::trace_error(py, &error))?;
    Ok(PercpuStats { inner })
}
