//! Explanations of layouts, boot logs, and many machines, as dictionaries and columns.

use std::sync::atomic::{AtomicBool, Ordering};

use numpy::{IntoPyArray, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::errors;
use super::layout::{preset, topology};
use crate::boot_log::{release_number, BootLog, SummaryForm};
use crate::error::{ConfigError, LayoutError};
use crate::layout::explain::{Explanation, Otherwise};
use crate::layout::machines::{self, Point, Row};
use crate::layout::recover::{self as recovering, Clues, Recovery, Unrecovered};
use crate::layout::vm_areas::Search;
use crate::layout::{ArchPreset, Backend, Distance, ARCH_PRESETS};
use crate::units::WordSize;
use crate::variant::{Preset, PRESETS};

/// One dictionary for each element.
fn dicts<'py, T>(
    py: Python<'py>,
    items: &[T],
    fill: impl Fn(&Bound<'py, PyDict>, &T) -> PyResult<()>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for item in items {
        let d = PyDict::new(py);
        fill(&d, item)?;
        list.append(d)?;
    }
    Ok(list)
}

fn others<'py>(py: Python<'py>, items: &[Otherwise]) -> PyResult<Bound<'py, PyList>> {
    dicts(py, items, |d, other| {
        d.set_item("atom_size", other.atom_size)?;
        d.set_item("nr_cpus", other.nr_cpus)?;
        d.set_item("unit_size", other.unit_size)?;
        d.set_item("nr_units", other.nr_units)?;
        d.set_item("nr_holes", other.nr_holes)
    })
}

pub fn to_dict<'py>(py: Python<'py>, explanation: &Explanation) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("asked", explanation.asked)?;
    d.set_item("used", explanation.used)?;
    d.set_item("waste_limit", explanation.waste_limit)?;
    d.set_item("dyn_padding_bytes", explanation.dyn_padding)?;
    d.set_item("dyn_raised_bytes", explanation.dyn_raised)?;
    d.set_item("unit_tail_bytes", explanation.unit_tail)?;
    d.set_item("later_areas_bytes", explanation.later_areas)?;
    d.set_item("later_span_bytes", explanation.later_span)?;
    let candidates = explanation.plan.as_ref().map_or(&[][..], |plan| &plan.candidates);
    let alloc_size = explanation.plan.as_ref().map_or(0, |plan| plan.alloc_size);
    d.set_item("alloc_size", explanation.plan.as_ref().map(|plan| plan.alloc_size))?;
    d.set_item("min_unit_size", explanation.plan.as_ref().map(|plan| plan.sizes.min_unit_size))?;
    d.set_item(
        "candidates",
        dicts(py, candidates, |d, candidate| {
            d.set_item("units_per_alloc", candidate.upa)?;
            d.set_item("unit_size", alloc_size / candidate.upa)?;
            d.set_item("nr_allocs", candidate.allocs)?;
            d.set_item("nr_wasted", candidate.wasted)?;
            d.set_item("verdict", candidate.verdict.name())
        })?,
    )?;
    d.set_item(
        "groups",
        dicts(py, &explanation.groups, |d, group| {
            d.set_item("node", group.node)?;
            d.set_item("nr_cpus", group.nr_cpus)?;
            d.set_item("nr_units", group.nr_units)?;
            d.set_item("asked_bytes", group.asked)?;
            d.set_item("kept_bytes", group.kept)?;
            d.set_item("hole_bytes", group.holes)?;
            d.set_item("tail_bytes", group.tails)
        })?,
    )?;
    let reach = explanation.reach.map(|reach| {
        let d = PyDict::new(py);
        d.set_item("max_distance_bytes", reach.max_distance)?;
        d.set_item("limit_bytes", reach.limit)?;
        d.set_item("vmalloc_bytes", reach.vmalloc_total)?;
        PyResult::Ok(d)
    });
    d.set_item("reach", reach.transpose()?)?;
    d.set_item(
        "mappings",
        dicts(py, &explanation.mappings, |d, mapping| {
            d.set_item("name", mapping.name)?;
            d.set_item("tlb_entries", mapping.tlb_entries)?;
            d.set_item("extra_tlb_entries", mapping.extra_tlb_entries)?;
            d.set_item("doubly_mapped_bytes", mapping.doubly_mapped)?;
            d.set_item("doubly_mapped_foreign_bytes", mapping.doubly_mapped_foreign)?;
            d.set_item("kept_bytes", mapping.kept)
        })?,
    )?;
    d.set_item("other_atoms", others(py, &explanation.atoms)?)?;
    d.set_item("other_cpus", others(py, &explanation.cpus)?)?;
    Ok(d)
}

/// The preset of the engine that a release had; none if it is newer than all of them.
#[pyfunction]
pub fn preset_of(kernel: &str) -> Option<&'static str> {
    let (major, minor, _) = release_number(kernel)?;
    let newest = PRESETS.iter().filter_map(|preset| release_number(preset.release)).max()?;
    let preset = Preset::of_number(release_number(kernel)?)?;
    ((major, minor, 0) <= newest).then_some(preset.release)
}

/// The search for address space that a release has.
#[pyfunction]
pub fn search_of(kernel: &str) -> &'static str {
    Search::of_release(release_number(kernel).unwrap_or((4, 13, 0))).name()
}

/// Rows of the table of architectures.
#[pyfunction]
pub fn architectures<'py>(py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
    let release = |(major, minor, patch): (u32, u32, u32)| match (major, patch) {
        (u32::MAX, _) => None,
        (_, 0) => Some(format!("{major}.{minor}")),
        _ => Some(format!("{major}.{minor}.{patch}")),
    };
    dicts(py, ARCH_PRESETS, |d, row: &ArchPreset| {
        d.set_item("arch", row.arch.to_vec())?;
        d.set_item("variant", row.variant)?;
        d.set_item("since", release(row.since))?;
        d.set_item("until", release(row.until))?;
        d.set_item("word_bits", row.word.bits())?;
        d.set_item("page_sizes", row.page_sizes.to_vec())?;
        d.set_item("atom", row.atom.describe())?;
        d.set_item("has_reserved", row.reserved)?;
        d.set_item("distances", row.distances.name())?;
        d.set_item("page_since", row.page_since.and_then(release))?;
        d.set_item("automatic", row.automatic.describe())
    })
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
        ("nr_node_ids", log.setup.as_ref().map(|setup| setup.nr_node_ids)),
    ] {
        d.set_item(name, value)?;
    }
    d.set_item("release", &log.release)?;
    d.set_item("lines", log.lines)?;
    Ok(d)
}

fn recovery_dict<'py>(py: Python<'py>, recovery: &Recovery) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    let request = &recovery.request;
    let chunk = &recovery.chunk;
    let topology = &request.topology;
    let ids = 0..topology.nr_declared();
    let node = |cpu| topology.is_possible(cpu).then(|| topology.node(cpu));
    d.set_item("cpu_to_node", ids.map(node).collect::<Vec<_>>())?;
    d.set_item("topology_known", recovery.topology_known)?;
    d.set_item("from_release", recovery.from_release)?;
    d.set_item("lines", &recovery.lines)?;
    let inputs = recovery.inputs.iter().map(|input| (input.name, &input.value, input.source.name()));
    d.set_item("inputs", inputs.collect::<Vec<_>>())?;
    let differences = recovery.differences.iter().map(|d| (d.line, &d.shown, &d.computed));
    d.set_item("differences", differences.collect::<Vec<_>>())?;
    d.set_item("flat", *topology.distance_kind() == Distance::None)?;
    let period = match request.form {
        SummaryForm::V2_6_30 => "2.6.30",
        SummaryForm::V2_6_31 => "2.6.31",
        SummaryForm::V2_6_32 => "3.0",
        SummaryForm::V4_6 => "4.19",
        SummaryForm::V5_2 => "6.12",
    };
    let named = recovery.inputs.iter().find(|input| input.name == "kernel").map(|input| input.value.as_str());
    let settings = PyDict::new(py);
    settings.set_item("kernel", named.filter(|kernel| preset_of(kernel).is_some()).unwrap_or(period))?;
    settings.set_item("backend", if request.backend() == Backend::KernelMemory { "km" } else { "vm" })?;
    settings.set_item("first_chunk", if log_fell_back(recovery) { "page" } else { request.kind.name() })?;
    settings.set_item("static_size", request.static_size)?;
    settings.set_item("reserved_size", request.reserved_size)?;
    settings.set_item("dyn_size", request.dyn_size)?;
    settings.set_item("atom_size", request.atom_size)?;
    settings.set_item("page_size", request.page_size)?;
    settings.set_item("early_size", request.rules.early_size)?;
    settings.set_item("min_unit_size", request.min_unit_size())?;
    settings.set_item("vmalloc_size", request.vmalloc_total)?;
    settings.set_item("page_allocator", request.page_allocator)?;
    settings.set_item("word_bits", request.word.bits())?;
    settings.set_item("unit_size", chunk.info.unit_size)?;
    d.set_item("settings", settings)?;
    Ok(d)
}

fn log_fell_back(recovery: &Recovery) -> bool {
    recovery.chunk.vm_area.is_some() && recovery.chunk.large_pages.is_none()
}

/// What a log leads to; the text if it shows too little.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
pub fn recover_boot_log<'py>(
    py: Python<'py>,
    text: &str,
    arch: Option<String>,
    kernel: Option<String>,
    page_size: Option<u64>,
    parameter: Option<String>,
    cpu_to_node: Option<PyReadonlyArray1<'py, i32>>,
    cpu_distances: Option<PyReadonlyArray2<'py, u32>>,
    node_distances: Option<PyReadonlyArray2<'py, u32>>,
    flat: bool,
) -> PyResult<(Option<Bound<'py, PyDict>>, Option<String>)> {
    let config = |error: ConfigError| errors::layout_error(py, &LayoutError::from(error));
    let given = cpu_to_node.as_ref().map(|n| topology(n, cpu_distances.as_ref(), node_distances.as_ref(), flat));
    let clues = Clues { arch, kernel, page_size, parameter, topology: given.transpose().map_err(config)? };
    match py.detach(|| recovering::recover(&BootLog::parse(text), &clues)) {
        Ok(recovery) => Ok((Some(recovery_dict(py, &recovery)?), None)),
        Err(Unrecovered::TooLittle(missing)) => Ok((None, Some(missing))),
        Err(Unrecovered::Impossible(error)) => Err(errors::layout_error(py, &error)),
    }
}

/// Name of a column, and what of a row stands in it.
type Column = (&'static str, fn(&Row) -> u64);

const COLUMNS: [Column; 10] = [
    ("dyn_size_bytes", |row| row.dyn_size),
    ("unit_size_bytes", |row| row.unit_size),
    ("alloc_size_bytes", |row| row.alloc_size),
    ("units_per_alloc", |row| row.upa),
    ("nr_units", |row| row.nr_units),
    ("nr_holes", |row| row.nr_holes),
    ("kept_bytes", |row| row.kept),
    ("offline_bytes", |row| row.offline),
    ("chunk_bytes", |row| row.chunk),
    ("hole_bytes", |row| row.holes),
];

/// Points between two looks at signals.
const SLICE: usize = 1 << 10;

/// Columns over the points, one for each name; the error of each point that has none.
#[pyfunction]
pub fn sweep_machines<'py>(
    py: Python<'py>,
    kernel: &str,
    word_bits: u64,
    points: [PyReadonlyArray1<'py, u64>; 8],
    threads: Option<usize>,
) -> PyResult<(Bound<'py, PyDict>, Vec<Option<String>>)> {
    let rules = preset(py, kernel)?.layout;
    let word = WordSize::of_bits(word_bits).unwrap_or(WordSize::Bits64);
    let [cpus, online, nodes, statics, reserved, dyns, atoms, pages] = points.map(|column| column.as_array().to_vec());
    let [cpus, online, nodes] = [cpus, online, nodes].map(|c| c.into_iter().map(|v| v as u32).collect::<Vec<_>>());
    let points: Vec<Point> = (0..cpus.len())
        .map(|i| Point {
            nr_cpus: cpus[i],
            nr_online: online[i],
            nr_nodes: nodes[i],
            static_size: statics[i],
            reserved_size: reserved[i],
            dyn_size: dyns[i],
            atom_size: atoms[i],
            page_size: pages[i],
        })
        .collect();
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = threads {
        pool = pool.num_threads(threads);
    }
    let pool = pool.build().map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))?;
    let stop = AtomicBool::new(false);
    let mut rows = Vec::with_capacity(points.len());
    for slice in points.chunks(SLICE) {
        let found = py.detach(|| pool.install(|| machines::sweep(slice, &rules, word, &stop)));
        rows.extend(found.unwrap_or_default());
        py.check_signals().inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
    }
    let d = PyDict::new(py);
    for (name, value) in COLUMNS {
        let column: Vec<u64> = rows.iter().map(|row| row.as_ref().map_or(0, value)).collect();
        d.set_item(name, column.into_pyarray(py))?;
    }
    Ok((d, rows.iter().map(|row| row.as_ref().err().map(ToString::to_string)).collect()))
}
