//! Golden layouts: runs the recorded cases of `layout-build` and `layout-setup` files, and the set-up of traces.
//!
//! # Design
//!
//! A case's input becomes a [`FirstChunkRequest`], the result is written in the files' own JSON form, and the
//! two values are compared key by key: layout record, tables, regions, memory blocks asked and given back, and
//! every log line with its level.
//!
//! Addresses in the files are relative to an origin that log texts show; the set-up runs on real addresses
//! (a base of 0 is an error) and its result is moved down again.
//!
//! # Source
//!
//! `golden/README.md`.

use serde_json::{json, Map, Value};

use crate::address::AddressMap;
use crate::boot_log::{LogLine, SummaryForm, DEBUG};
use crate::error::{ConfigError, LayoutError};
use crate::layout::first_chunk::RESERVED_END_CONDITION;
use crate::layout::request::PointerText;
use crate::layout::{
    AllocInfo, Backend, BootMemory, Contiguous, Distance, FirstChunk, FirstChunkRequest, GivenAddresses, Kind,
    Recorded, Region, Topology,
};
use crate::variant::{Preset, Regions};

/// The origin of all addresses in golden files.
pub const ORIGIN: u64 = 0x1000_0000_0000;
/// Where the files' virtual address space starts, relative to the origin.
pub const VMALLOC_START: u64 = 1 << 30;

/// What a set-up gave.
#[derive(Clone, Debug)]
pub struct SetupResult {
    /// 0, or a negative errno; `None` when the set-up was refused with a fatal assertion.
    pub rc: Option<i32>,
    /// The first chunk, addresses relative to the files' origin; `None` unless `rc` is 0.
    pub first_chunk: Option<FirstChunk>,
    /// The files' setup object; null unless `rc` is 0.
    pub setup: Value,
    /// Log lines, `<level>text`; conditions of fatal assertions are paraphrased as in the files.
    pub log: Vec<String>,
    /// Blocks obtained: address and bytes.
    pub fc_alloc: Vec<(u64, u64)>,
    /// Parts given back: address and bytes.
    pub fc_free: Vec<(u64, u64)>,
}

/// The preset that a directory of golden files stands for.
pub fn preset_of(generation: &str) -> Result<&'static Preset, ConfigError> {
    let release = match generation {
        "areamap-4.x" => "4.13",
        "cpu_alloc-2008" => "2008",
        other => other.strip_prefix("linux-").unwrap_or(other),
    };
    Preset::by_release(release).ok_or_else(|| ConfigError::new("generation", generation, "is not known"))
}

/// The first chunk of a `config` object: virtually mapped backend.
pub fn first_chunk_of_config(generation: &str, page_size: u64, config: &Value) -> Result<SetupResult, ConfigError> {
    run_setup(&request_of(generation, page_size, config)?, config)
}

/// The first chunk of a trace file's header: as [`first_chunk_of_config`], with the header's backend.
pub fn first_chunk_of_header(header: &Value) -> Result<SetupResult, ConfigError> {
    let generation = header["generation"].as_str().unwrap_or_default();
    let config = &header["config"];
    let mut request = request_of(generation, number(header, "page_size")?.unwrap_or(4096), config)?;
    if header["backend"] == "km" {
        request.backend = Backend::KernelMemory;
    }
    run_setup(&request, config)
}

/// Runs one case of a layout file; the differences as text, none if all is equal.
pub fn run_case(generation: &str, kind: &str, header: &Value, line: &Value) -> Vec<String> {
    let expected = &line["out"];
    let got = number(header, "page_size").and_then(|page_size| {
        let request = request_of(generation, page_size.unwrap_or(4096), &line["in"])?;
        match kind {
            "layout-build" => build_output(&request),
            "layout-setup" => Ok(setup_output(&run_setup(&request, &line["in"])?)),
            other => Err(ConfigError::new("kind", other, "must be layout-build or layout-setup")),
        }
    });
    match got {
        Ok(got) => differences(expected, &got),
        Err(error) => vec![error.to_string()],
    }
}

/// Compares the `init` line of a trace file: rc, setup object, log.
pub fn run_init(header: &Value, line: &Value) -> Vec<String> {
    match first_chunk_of_header(header) {
        Ok(result) => differences(line, &init_output(&result)),
        Err(error) => vec![error.to_string()],
    }
}

/// Compares a question about a byte of the first chunk, `["Q", cpu, off, addr, static, canon, phys]`.
pub fn run_question(chunk: &FirstChunk, line: &Value) -> Vec<String> {
    let map = AddressMap::from_first_chunk(chunk, 0);
    let number = |index: usize| line[index].as_u64().unwrap_or(u64::MAX);
    let Some(unit) = map.unit_offset(number(1) as u32) else { return vec![format!("no cpu {}", line[1])] };
    let addr = map.base_addr + unit + number(2);
    let place = map.static_address(addr);
    let canonical = place.map(|place| place.offset);
    let got = json!(["Q", number(1), number(2), addr, u8::from(place.is_some()), canonical, map.physical(addr).name()]);
    differences(line, &got)
}

/// The `init` line that a set-up would be recorded as.
pub fn init_output(result: &SetupResult) -> Value {
    let mut out = vec![json!("init"), json!(result.rc)];
    if !result.setup.is_null() {
        out.push(result.setup.clone());
    }
    push_log(&mut out, &result.log);
    Value::Array(out)
}

fn request_of(generation: &str, page_size: u64, config: &Value) -> Result<FirstChunkRequest, ConfigError> {
    let preset = preset_of(generation)?;
    let need = |name| number(config, name).map(|value| value.unwrap_or(0));
    let cpus = need("cpus")? as usize;
    let mut nodes = vec![0; cpus];
    for (node, group) in nodes.iter_mut().zip(list(config, "cpu_group")?) {
        *node = group as u32;
    }
    let mut topology = Topology::from_cpu_nodes(nodes)?;
    if let Some(rows) = config["cpu_distance"].as_array() {
        let row = |row: &Value| row.as_array().map(|row| row.iter().map(|d| d.as_u64().unwrap_or(0) as u32).collect());
        topology = topology.with_distance(Distance::Cpus(rows.iter().filter_map(row).collect()))?;
    }
    if config["numa"] == 0 {
        topology = topology.without_distance();
    }
    let impossible: Vec<u32> = list(config, "impossible_cpus")?.into_iter().map(|cpu| cpu as u32).collect();
    let topology = topology.with_impossible(&impossible)?;
    let mut request = FirstChunkRequest::new(topology, preset.layout, need("static_size")?);
    request.kind = match config["first_chunk"].as_str() {
        None | Some("embed") => Kind::Embed,
        Some("page") => Kind::Page,
        Some("explicit") => Kind::Explicit { unit_size: need("unit_size")? },
        Some(other) => return Err(ConfigError::new("first_chunk", other, "must be embed, page or explicit")),
    };
    request.page_size = page_size;
    request.reserved_size = need("reserved_size")?;
    request.dyn_size = need("dyn_size")?;
    request.atom_size = number(config, "atom_size")?.unwrap_or(page_size);
    request.vmalloc_total = number(config, "vmalloc_total")?.unwrap_or(1 << 45);
    request.vmalloc_start = ORIGIN + VMALLOC_START;
    request.explicit_base = ORIGIN;
    request.fallback = false;
    request.form = SummaryForm::of_release(preset.release).unwrap_or(SummaryForm::V4_6);
    request.pointer = PointerText::Prefixed;
    Ok(request)
}

fn run_setup(request: &FirstChunkRequest, config: &Value) -> Result<SetupResult, ConfigError> {
    let memory: Box<dyn BootMemory> = if config["group_addr"].is_array() {
        let given = list(config, "group_addr")?;
        Box::new(GivenAddresses::new(given.into_iter().map(|address| address.wrapping_add(ORIGIN))))
    } else {
        Box::new(Contiguous::new(ORIGIN))
    };
    let mut memory = Recorded::new(memory);
    let outcome = request.set_up(&mut memory);
    let relative = |list: &[(u64, u64)]| list.iter().map(|&(a, size)| (a.wrapping_sub(ORIGIN), size)).collect();
    let mut result = SetupResult {
        rc: None,
        first_chunk: None,
        setup: Value::Null,
        log: Vec::new(),
        fc_alloc: relative(&memory.allocated),
        fc_free: relative(&memory.freed),
    };
    match outcome {
        Ok(chunk) => {
            let chunk = chunk.moved_down(ORIGIN);
            result.rc = Some(0);
            result.log = chunk.log.iter().map(ToString::to_string).collect();
            result.setup = setup_object(&chunk);
            result.first_chunk = Some(chunk);
        }
        Err(LayoutError::Setup { condition, log }) => {
            let paraphrase = paraphrase(&condition);
            result.log = log.iter().map(|line| line.replace(&condition, paraphrase)).collect();
        }
        Err(LayoutError::Failed { errno, log, .. }) => {
            result.rc = Some(errno);
            result.log = log;
        }
        Err(LayoutError::Input(error)) => return Err(error),
    }
    Ok(result)
}

/// The files paraphrase the kernel's conditions.
fn paraphrase(condition: &str) -> &str {
    match condition {
        "ai->unit_size < size_sum" => "[unit smaller than static+reserved+dynamic]",
        "offset_in_page(ai->unit_size)" => "[unit size not a multiple of the page size]",
        "ai->unit_size < PCPU_MIN_UNIT_SIZE" => "[unit below the minimum unit size]",
        "ai->dyn_size < PERCPU_DYNAMIC_EARLY_SIZE" => "[dynamic size below the early minimum]",
        RESERVED_END_CONDITION => RESERVED_END_CONDITION,
        other => other,
    }
}

fn build_output(request: &FirstChunkRequest) -> Result<Value, ConfigError> {
    let info = request.alloc_info()?;
    info.verify(&request.topology, request.page_size)
        .map_err(|violation| ConfigError::new("layout", violation, "must keep its invariants"))?;
    let log: Vec<String> =
        info.boot_record().lines().into_iter().map(|text| LogLine::new(DEBUG, text).to_string()).collect();
    let mut out = vec![json!("build"), json!(0), info_object(&info)];
    push_log(&mut out, &log);
    Ok(Value::Array(out))
}

fn setup_output(result: &SetupResult) -> Value {
    let mut out = match result.rc {
        Some(rc) => vec![
            json!("setup"),
            json!(rc),
            result.setup.clone(),
            json!({"fc_alloc": result.fc_alloc, "fc_free": result.fc_free}),
        ],
        None => vec![json!("bug")],
    };
    push_log(&mut out, &result.log);
    Value::Array(out)
}

fn push_log(out: &mut Vec<Value>, log: &[String]) {
    if !log.is_empty() {
        out.push(json!({ "log": log }));
    }
}

fn info_object(info: &AllocInfo) -> Value {
    let groups: Vec<Value> = info
        .groups
        .iter()
        .map(|group| {
            let cpu_map: Vec<i64> = group.cpu_map.iter().map(|cpu| cpu.map_or(-1, i64::from)).collect();
            json!({"nr_units": group.nr_units, "base_offset": group.base_offset, "cpu_map": cpu_map})
        })
        .collect();
    json!({
        "static_size": info.static_size,
        "reserved_size": info.reserved_size,
        "dyn_size": info.dyn_size,
        "unit_size": info.unit_size,
        "atom_size": info.atom_size,
        "alloc_size": info.alloc_size,
        "nr_groups": info.groups.len(),
        "groups": groups,
    })
}

/// The files' setup object of a first chunk, in the fields of its generation.
pub fn setup_object(chunk: &FirstChunk) -> Value {
    let unit_map: Vec<i64> = chunk.unit_map.iter().map(|unit| unit.map_or(-1, i64::from)).collect();
    let mut object = json!({
        "unit_size": chunk.info.unit_size,
        "unit_pages": chunk.unit_pages(),
        "nr_units": chunk.nr_units,
        "atom_size": chunk.info.atom_size,
        "nr_slots": chunk.nr_slots(),
        "low_unit_cpu": chunk.low_unit_cpu,
        "high_unit_cpu": chunk.high_unit_cpu,
        "base_addr": chunk.base_addr,
        "unit_map": unit_map,
        "unit_offsets": chunk.unit_offsets,
        "group_offsets": chunk.group_offsets,
        "group_sizes": chunk.group_sizes,
        "first": region_object(chunk, &chunk.first),
        "reserved": chunk.reserved.as_ref().map(|region| region_object(chunk, region)),
        "nr_empty_pop_pages": chunk.nr_empty_pages(),
    });
    if let Some([sidelined, free, to_depopulate]) = chunk.late_slots() {
        object["sidelined_slot"] = json!(sidelined);
        object["free_slot"] = json!(free);
        object["to_depopulate_slot"] = json!(to_depopulate);
    }
    object
}

fn region_object(chunk: &FirstChunk, region: &Region) -> Value {
    let base = region.base_addr.wrapping_sub(chunk.base_addr);
    match chunk.rules.regions {
        Regions::HiddenEnds => json!({
            "base": base,
            "start_offset": region.start_offset,
            "end_offset": region.end_offset,
            "nr_pages": region.nr_pages,
            "free_bytes": region.size,
        }),
        Regions::PaddedReserved => json!({
            "base": base,
            "nr_pages": region.nr_pages,
            "free_bits": region.size / chunk.min_alloc_size,
            "reserved_offset": chunk.reserved_offset,
        }),
        Regions::WholeUnit => json!({"base": base, "free_size": region.size}),
    }
}

fn number(object: &Value, name: &'static str) -> Result<Option<u64>, ConfigError> {
    match &object[name] {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(value) => Ok(Some(value)),
            None => Err(ConfigError::new(name, value, "must be a non-negative integer")),
        },
    }
}

fn list(object: &Value, name: &'static str) -> Result<Vec<u64>, ConfigError> {
    let Some(values) = object[name].as_array() else { return Ok(Vec::new()) };
    let value = |value: &Value| value.as_u64().ok_or_else(|| ConfigError::new(name, value, "must be non-negative"));
    values.iter().map(value).collect()
}

/// The places where two values differ, as `path: expected x, got y`.
pub fn differences(expected: &Value, got: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(String::new(), expected, got, &mut found);
    found
}

fn walk(path: String, expected: &Value, got: &Value, found: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: Map<String, Value> = a.iter().chain(b).map(|(key, _)| (key.clone(), Value::Null)).collect();
            for key in keys.keys() {
                let at = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(json!("(absent)"));
                walk(format!("{path}.{key}"), &at(a), &at(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(format!("{path}[{index}]"), a, b, found);
            }
        }
        _ if expected == got => {}
        _ => found.push(format!("{path}: expected {expected}, got {got}")),
    }
}
