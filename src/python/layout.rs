//! First-chunk layouts.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors;
use crate::boot_log::{release_number, SummaryForm};
use crate::error::{ConfigError, LayoutError};
use crate::layout::explain::{self, Explanation};
use crate::layout::request::{Backend, PointerText};
use crate::layout::{Distance, FirstChunk, FirstChunkRequest, GivenGroups, Kind, Machine, PagesOnly, Region, Topology};
use crate::units::WordSize;
use crate::variant::{Build, LayoutRules, Preset};

/// A preset by release.
pub fn preset(py: Python<'_>, kernel: &str) -> PyResult<&'static Preset> {
    let unknown = || errors::invalid_request(py, &ConfigError::new("kernel", kernel, "is not known"));
    Preset::by_release(kernel).ok_or_else(unknown)
}

/// Everything but the topology; `None` stands for the default of the release or of the architecture.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Settings {
    kernel: String,
    arch: Option<String>,
    variant: Option<String>,
    first_chunk: String,
    static_size: u64,
    reserved_size: Option<u64>,
    dyn_size: Option<u64>,
    atom_size: Option<u64>,
    page_size: u64,
    early_size: Option<u64>,
    min_unit_size: Option<u64>,
    min_alloc_size: u64,
    block_size: Option<u64>,
    unit_size: Option<u64>,
    word_bits: u64,
    vmalloc_start: Option<u64>,
    vmalloc_size: Option<u64>,
    page_allocator: Option<bool>,
    large_blocks: bool,
    backend: String,
    group_addresses: Option<Vec<u64>>,
    dyn_shift: u32,
    modules: bool,
    memory_profiling: bool,
    large_pages: bool,
    pae: bool,
    linear_4k: bool,
    offline_nodes: Vec<u32>,
    remap_percent: u64,
}

impl Settings {
    fn preset(&self) -> Result<&'static Preset, ConfigError> {
        let unknown = || ConfigError::new("kernel", &self.kernel, "is not known");
        let number = || release_number(&self.kernel).and_then(Preset::of_number);
        Preset::by_release(&self.kernel).or_else(number).ok_or_else(unknown)
    }

    fn kind(&self) -> Kind {
        match (self.first_chunk.as_str(), self.unit_size) {
            ("explicit", Some(unit_size)) => Kind::Explicit { unit_size },
            ("page", _) => Kind::Page,
            ("lpage", _) => Kind::LargePage,
            ("embed", _) => Kind::Embed,
            ("up", _) => Kind::Up,
            _ => Kind::Auto,
        }
    }

    fn request(&self, topology: Topology) -> Result<FirstChunkRequest, ConfigError> {
        let build = Build { dyn_shift: self.dyn_shift, modules: self.modules, memory_profiling: self.memory_profiling };
        let mut request = match &self.arch {
            Some(arch) => Machine {
                variant: self.variant.clone(),
                build,
                kind: if self.kind() == Kind::Up { Kind::Auto } else { self.kind() },
                smp: self.kind() != Kind::Up,
                large_pages: self.large_pages,
                pae: self.pae,
                linear_4k: self.linear_4k,
                offline_nodes: self.offline_nodes.clone(),
                ..Machine::new(arch, &self.kernel, self.page_size, topology, self.static_size)
            }
            .request()?,
            None => {
                let word = WordSize::of_bits(self.word_bits).unwrap_or(WordSize::Bits64);
                let rules = match (Preset::by_release(&self.kernel), release_number(&self.kernel)) {
                    (None, Some(number)) => LayoutRules::of_release(number, word, build)?,
                    _ => self.preset()?.layout,
                };
                let mut request = FirstChunkRequest::new(topology, rules, self.static_size).on_word(word);
                (request.page_size, request.kind) = (self.page_size, self.kind());
                request.form = SummaryForm::of_release(&self.kernel).unwrap_or(SummaryForm::V4_6);
                let hashed = release_number(&self.kernel).is_some_and(|number| number >= (4, 15, 0));
                request.pointer = if hashed { PointerText::Hidden } else { PointerText::Padded };
                request
            }
        };
        request.rules.early_size = self.early_size.unwrap_or(request.rules.early_size);
        request.reserved_size = self.reserved_size.unwrap_or(request.reserved_size);
        request.dyn_size = self.dyn_size.unwrap_or(request.dyn_size);
        request.atom_size = self.atom_size.unwrap_or(request.atom_size);
        request.min_unit_size = self.min_unit_size.or(request.min_unit_size);
        request.vmalloc_start = self.vmalloc_start.unwrap_or(request.vmalloc_start);
        request.vmalloc_total = self.vmalloc_size.unwrap_or(request.vmalloc_total);
        request.page_allocator = self.page_allocator.unwrap_or(request.page_allocator);
        (request.min_alloc_size, request.block_size) = (self.min_alloc_size, self.block_size);
        request.remap_percent = self.remap_percent;
        if self.backend == "km" {
            request.backend = Backend::KernelMemory;
        }
        Ok(request)
    }

    fn set_up(&self, request: &FirstChunkRequest) -> Result<FirstChunk, LayoutError> {
        match &self.group_addresses {
            _ if !self.large_blocks => request.set_up(&mut PagesOnly),
            Some(addresses) => request.set_up(&mut GivenGroups::new(addresses.iter().copied())),
            None => request.build(),
        }
    }
}

pub(super) fn topology(
    cpu_to_node: &PyReadonlyArray1<'_, i32>,
    cpu_distances: Option<&PyReadonlyArray2<'_, u32>>,
    node_distances: Option<&PyReadonlyArray2<'_, u32>>,
    flat: bool,
) -> Result<Topology, ConfigError> {
    let nodes = cpu_to_node.as_array();
    let impossible: Vec<u32> = (0u32..).zip(&nodes).filter(|(_, node)| **node < 0).map(|(cpu, _)| cpu).collect();
    let topology = Topology::from_cpu_nodes(nodes.iter().map(|node| (*node).max(0) as u32).collect())?;
    let topology = topology.with_impossible(&impossible)?;
    let rows = |matrix: &PyReadonlyArray2<'_, u32>| matrix.as_array().rows().into_iter().map(|r| r.to_vec()).collect();
    match (cpu_distances, node_distances) {
        _ if flat => Ok(topology.without_distance()),
        (Some(matrix), _) => topology.with_distance(Distance::Cpus(rows(matrix))),
        (None, Some(matrix)) => topology.with_distance(Distance::Nodes(rows(matrix))),
        (None, None) => Ok(topology),
    }
}

type RegionRow = (u64, u64, u64, u64, u32);

/// The first chunk of a machine.
#[pyclass(frozen, module = "percpu._core")]
pub struct FirstChunkLayout {
    pub(super) preset: &'static Preset,
    pub(super) request: FirstChunkRequest,
    pub(super) chunk: FirstChunk,
}

#[pymethods]
impl FirstChunkLayout {
    #[staticmethod]
    fn build(
        py: Python<'_>,
        settings: Settings,
        cpu_to_node: PyReadonlyArray1<'_, i32>,
        cpu_distances: Option<PyReadonlyArray2<'_, u32>>,
        node_distances: Option<PyReadonlyArray2<'_, u32>>,
        flat: bool,
    ) -> PyResult<Self> {
        let topology = topology(&cpu_to_node, cpu_distances.as_ref(), node_distances.as_ref(), flat);
        let made = py.detach(|| {
            let preset = settings.preset()?;
            let request = settings.request(topology?)?;
            let chunk = settings.set_up(&request)?;
            Ok(Self { preset, request, chunk })
        });
        made.map_err(|error| errors::layout_error(py, &error))
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
        d.set_item("first_chunk", if chunk.identity { "up" } else { explain::used(chunk) })?;
        d.set_item("backend", explain::backend_name(chunk.backend))?;
        d.set_item("distances", explain::distance_name(self.request.topology.distance_kind()))?;
        d.set_item("word_bits", chunk.word.bits())?;
        d.set_item("early_size", self.request.rules.early_size)?;
        d.set_item("min_unit_size", self.request.min_unit_size())?;
        d.set_item("vmalloc_start", self.request.vmalloc_start)?;
        d.set_item("vmalloc_size", self.request.vmalloc_total)?;
        d.set_item("vm_area", chunk.vm_area)?;
        d.set_item("group_sizes", chunk.group_sizes.clone())?;
        Ok(d)
    }

    fn explain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let explanation = py.detach(|| Explanation::of(&self.request, &self.chunk));
        super::machines::to_dict(py, &explanation.map_err(|error| errors::layout_error(py, &error))?)
    }

    /// Linear and mapped address of each large page that is mapped a second time.
    fn large_pages(&self) -> Option<(u64, Vec<(u64, u64)>)> {
        self.chunk.large_pages.as_ref().map(|large| (large.size, large.pages.clone()))
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
