//! First-chunk layouts and boot logs.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors;
use crate::boot_log::BootLog;
use crate::error::ConfigError;
use crate::layout::{Distance, FirstChunk, FirstChunkRequest, GivenGroups, Kind, Region, Topology};
use crate::units::WordSize;
use crate::variant::Preset;

/// A preset by release.
pub fn preset(py: Python<'_>, kernel: &str) -> PyResult<&'static Preset> {
    let unknown = || errors::invalid_request(py, &ConfigError::new("kernel", kernel, "is not known"));
    Preset::by_release(kernel).ok_or_else(unknown)
}

fn topology(
    cpu_to_node: &PyReadonlyArray1<'_, i32>,
    cpu_distances: Option<&PyReadonlyArray2<'_, u32>>,
) -> Result<Topology, ConfigError> {
    let nodes = cpu_to_node.as_array();
    let impossible: Vec<u32> = (0u32..).zip(&nodes).filter(|(_, node)| **node < 0).map(|(cpu, _)| cpu).collect();
    let topology = Topology::from_cpu_nodes(nodes.iter().map(|node| (*node).max(0) as u32).collect())?;
    let topology = topology.with_impossible(&impossible)?;
    match cpu_distances {
        None => Ok(topology),
        Some(matrix) => topology
            .with_distance(Distance::Cpus(matrix.as_array().rows().into_iter().map(|row| row.to_vec()).collect())),
    }
}

type RegionRow = (u64, u64, u64, u64, u32);

/// The first chunk of a machine.
#[pyclass(frozen, module = "percpu._core")]
pub struct FirstChunkLayout {
    pub(super) preset: &'static Preset,
    pub(super) chunk: FirstChunk,
}

#[pymethods]
impl FirstChunkLayout {
    #[staticmethod]
    #[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
    fn build(
        py: Python<'_>,
        kernel: &str,
        first_chunk: &str,
        static_size: u64,
        reserved_size: u64,
        dyn_size: u64,
        atom_size: u64,
        page_size: u64,
        early_size: Option<u64>,
        min_alloc_size: u64,
        block_size: Option<u64>,
        word_bits: u32,
        vmalloc_size: Option<u64>,
        group_addresses: Option<Vec<u64>>,
        cpu_to_node: PyReadonlyArray1<'_, i32>,
        cpu_distances: Option<PyReadonlyArray2<'_, u32>>,
    ) -> PyResult<Self> {
        let preset = preset(py, kernel)?;
        let mut rules = preset.layout;
        rules.early_size = early_size.unwrap_or(rules.early_size);
        let topology =
            topology(&cpu_to_node, cpu_distances.as_ref()).map_err(|error| errors::layout_error(py, &error.into()))?;
        let word = match word_bits {
            32 => WordSize::Bits32,
            _ => WordSize::Bits64,
        };
        let request = FirstChunkRequest::new(topology, rules, static_size).on_word(word);
        let request = FirstChunkRequest {
            kind: match first_chunk {
                "page" => Kind::Page,
                "embed" => Kind::Embed,
                "up" => Kind::Up,
                _ => Kind::Auto,
            },
            reserved_size,
            dyn_size,
            atom_size,
            page_size,
            min_alloc_size,
            block_size,
            vmalloc_total: vmalloc_size.unwrap_or(request.vmalloc_total),
            ..request
        };
        let chunk = py.detach(|| match group_addresses {
            Some(addresses) => request.set_up(&mut GivenGroups::new(addresses)),
            None => request.build(),
        });
        let chunk = chunk.map_err(|error| errors::layout_error(py, &error))?;
        Ok(Self { preset, chunk })
    }

    fn record<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (chunk, info) = (&self.chunk, &self.chunk.info);
        let d = PyDict::new(py);
        d.set_item("kernel", self.preset.release)?;
        d.set_item("page_size", chunk.page_size)?;
        d.set_item("static_size", info.static_size)?;
        d.set_item("reserved_size", info.reserved_size)?;
        d.set_item("dyn_size", info.dyn_size)?;
        d.set_item("size_sum", info.size_sum())?;
        d.set_item("unit_size", info.unit_size)?;
        d.set_item("atom_size", info.atom_size)?;
        d.set_item("alloc_size", info.alloc_size)?;
        d.set_item("nr_units", chunk.nr_units)?;
        d.set_item("nr_groups", info.groups.len())?;
        d.set_item("nr_cpus", chunk.possible_cpus())?;
        d.set_item("base_addr", chunk.base_addr)?;
        Ok(d)
    }

    /// Base, bytes hidden before, bytes served, bytes hidden behind, pages; of the first and the reserved chunk.
    fn regions(&self) -> (RegionRow, Option<RegionRow>) {
        let row = |r: &Region| (r.base_addr, r.start_offset, r.size, r.end_offset, r.nr_pages);
        (row(&self.chunk.first), self.chunk.reserved.as_ref().map(row))
    }

    fn unit_map<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        self.chunk.unit_map.iter().map(|unit| unit.map_or(-1, |unit| unit as i32)).collect::<Vec<_>>().into_pyarray(py)
    }

    fn unit_offsets<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        self.chunk.unit_offsets.clone().into_pyarray(py)
    }

    fn groups<'py>(&self, py: Python<'py>) -> Vec<(u64, Bound<'py, PyArray1<i32>>)> {
        let groups = self.chunk.info.groups.iter().zip(&self.chunk.group_offsets);
        groups
            .map(|(group, offset)| {
                let cpus = group.cpu_map.iter().map(|cpu| cpu.map_or(-1, |cpu| cpu as i32));
                (*offset, cpus.collect::<Vec<_>>().into_pyarray(py))
            })
            .collect()
    }

    fn boot_log(&self) -> String {
        self.chunk.boot_log()
    }
}

#[pyfunction]
pub fn parse_boot_log<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyDict>> {
    let log = py.detach(|| BootLog::parse(text));
    let d = PyDict::new(py);
    d.set_item("groups", log.groups())?;
    for (name, value) in [
        ("static_size", log.head.map(|head| head.static_size)),
        ("reserved_size", log.head.map(|head| head.reserved_size)),
        ("dyn_size", log.head.map(|head| head.dyn_size)),
        ("unit_size", log.head.map(|head| head.unit_size)),
        ("atom_size", log.head.map(|head| head.atom_size)),
        ("nr_cpu_ids", log.setup.as_ref().map(|setup| setup.nr_cpu_ids)),
    ] {
        d.set_item(name, value)?;
    }
    d.set_item("lines", log.lines)?;
    Ok(d)
}
