//! Boots: recomputes the boot lines of real machines from what their logs show.
//!
//! # Design
//!
//! Two kinds of input, one JSON object a line, both through [`recover`]:
//!
//! - *recorded boots* (`layouts.jsonl`): kernel release, nodes of the CPUs, boot parameter. The constants come
//!   from the release; only the static size (and a reserved size that no build has) is read off the log. Groups
//!   are compared as well.
//! - *public logs* (`dmesg-corpus.jsonl`): whatever somebody quoted, with architecture and, where known, release.
//!
//! Every line of the allocator must come out to the byte, save trailing blanks. Of a log with several nodes and no
//! dump the unit size cannot follow: it must then be one that the layout function could choose for these sizes.
//!
//! # Source
//!
//! Specification 50 section 9, 30 section 2.1, 31 section 8, 40 section 3.1.

use serde_json::Value;

use crate::boot_log::{release_number, BootLog};
use crate::error::{ConfigError, LayoutError};
use crate::layout::recover::{recover, Clues, Recovery, Unrecovered};
use crate::layout::{FirstChunk, FirstChunkRequest, GivenAddresses, Kind, Region, Topology};
use crate::testing::golden_layout::differences;
use crate::units::WordSize;
use crate::variant::{Build, LayoutRules, Preset};

/// What became of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every line came out.
    Recomputed,
    /// Some line differs; the text says how.
    Different(String),
    /// The log shows too little; the text says what is missing.
    TooLittle(String),
}

/// Totals over all logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Logs looked at.
    pub logs: usize,
    /// Logs that came out.
    pub recomputed: usize,
    /// Logs that did not.
    pub different: usize,
    /// Logs that show too little.
    pub too_little: usize,
}

impl Totals {
    /// Counts one verdict.
    pub fn add(&mut self, verdict: &Verdict) {
        self.logs += 1;
        match verdict {
            Verdict::Recomputed => self.recomputed += 1,
            Verdict::Different(_) => self.different += 1,
            Verdict::TooLittle(_) => self.too_little += 1,
        }
    }

    /// The last line of `make boots`.
    pub fn line(&self) -> String {
        format!(
            "boots: {} logs, {} recomputed, {} different, {} too little shown",
            self.logs, self.recomputed, self.different, self.too_little
        )
    }
}

/// The newest preset that is not younger than a release.
pub fn preset_for(release: &str) -> Option<&'static Preset> {
    Preset::of_number(release_number(release)?)
}

/// The constants that a release may have been built with: `PERCPU_DYNAMIC_SIZE_SHIFT` is not in its name.
fn builds_of(preset: &Preset) -> Vec<LayoutRules> {
    let build = |dyn_shift| preset.layout_for(WordSize::Bits64, Build { dyn_shift, ..Build::default() });
    [10, 12, 13].into_iter().filter_map(|dyn_shift| build(dyn_shift).ok()).collect()
}

/// What the lines of a recovery amount to.
fn verdict(recovery: &Recovery) -> Verdict {
    let Some(difference) = recovery.differences.first() else { return Verdict::Recomputed };
    let at = |line: &Option<String>| line.as_ref().map_or("(end)".to_string(), |line| format!("{line:?}"));
    let (shown, computed) = (at(&difference.shown), at(&difference.computed));
    Verdict::Different(format!("line {}: the log has {shown}, computed {computed}", difference.line))
}

/// Recomputes one recorded boot.
pub fn recorded_boot(entry: &Value) -> Verdict {
    let lines: Vec<&str> = strings(&entry["dmesg"]);
    let log = BootLog::from_lines(lines);
    if log.head.is_none() {
        return Verdict::TooLittle("no pcpu-alloc line".to_string());
    }
    let release = entry["kernel"].as_str().unwrap_or_default();
    let nodes = entry["cpu_to_node"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let topology = match Topology::from_cpu_nodes(nodes.map(|node| node as u32).collect()) {
        Ok(topology) => topology,
        Err(error) => return Verdict::TooLittle(error.to_string()),
    };
    if let Some(setup) = log.setup.filter(|setup| setup.nr_cpu_ids != u64::from(topology.nr_cpu_ids())) {
        return Verdict::Different(format!("nr_cpu_ids {} with {} cpus", setup.nr_cpu_ids, topology.nr_cpu_ids()));
    }
    let parameter = entry["boot_params"].as_str().unwrap_or_default();
    let clues = Clues {
        arch: Some("x86_64".to_string()),
        kernel: Some(release.to_string()),
        page_size: Some(4096),
        topology: Some(topology),
        parameter: parameter.split_whitespace().find_map(|word| word.strip_prefix("percpu_alloc=")).map(str::to_string),
    };
    let recovery = match recover(&log, &clues) {
        Ok(recovery) => recovery,
        Err(Unrecovered::TooLittle(missing)) => return Verdict::TooLittle(missing),
        Err(Unrecovered::Impossible(error)) => return Verdict::Different(error.to_string()),
    };
    if recovery.differences.is_empty() && !recovery.from_release {
        return Verdict::Different(format!("the constants of {release} give other sizes"));
    }
    let found = differences(&entry["groups"], &groups_object(&recovery.chunk));
    match found.first() {
        Some(difference) => Verdict::Different(format!("groups{difference}")),
        None => verdict(&recovery),
    }
}

/// Recomputes one public log.
pub fn public_boot(entry: &Value) -> Verdict {
    public_recovery(entry).map_or_else(|verdict| verdict, |recovery| verdict(&recovery))
}

/// What a public log leads to, or why to nothing.
pub fn public_recovery(entry: &Value) -> Result<Recovery, Verdict> {
    let text = |name: &str| entry[name].as_str().map(str::to_string);
    let clues = Clues {
        arch: text("arch"),
        kernel: text("kernel"),
        page_size: entry["page_size"].as_u64(),
        ..Clues::default()
    };
    recover(&BootLog::from_lines(strings(&entry["raw"])), &clues).map_err(|error| match error {
        Unrecovered::TooLittle(missing) => Verdict::TooLittle(missing),
        Unrecovered::Impossible(error) => Verdict::Different(error.to_string()),
    })
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn groups_object(chunk: &FirstChunk) -> Value {
    let group =
        |(index, group): (usize, &crate::layout::Group)| serde_json::json!({"group": index, "units": group.cpu_map});
    chunk.info.groups.iter().enumerate().map(group).collect()
}

/// Compares tables and regions with the state of a real kernel right after its set-up (`kernel/initial`): the
/// group addresses are read off the state, everything else follows from sizes, CPUs and release.
pub fn initial_state(state: &Value) -> Vec<String> {
    match computed_initial(state) {
        Ok(found) => found,
        Err(error) => vec![error.to_string()],
    }
}

fn computed_initial(state: &Value) -> Result<Vec<String>, LayoutError> {
    let globals = &state["globals"];
    let mut found = Vec::new();
    for chunk in initial_chunks(state)?.1 {
        let chunk = chunk?;
        let [sidelined, free, to_depopulate] = chunk.late_slots().unwrap_or_default();
        let got = serde_json::json!({
            "pcpu_unit_pages": chunk.unit_pages(),
            "pcpu_unit_size": chunk.info.unit_size,
            "pcpu_nr_units": chunk.nr_units,
            "pcpu_atom_size": chunk.info.atom_size,
            "pcpu_nr_slots": chunk.nr_slots(),
            "pcpu_free_slot": free,
            "pcpu_sidelined_slot": sidelined,
            "pcpu_to_depopulate_slot": to_depopulate,
            "pcpu_low_unit_cpu": chunk.low_unit_cpu,
            "pcpu_high_unit_cpu": chunk.high_unit_cpu,
            "pcpu_nr_groups": chunk.info.groups.len(),
            "pcpu_nr_empty_pop_pages": chunk.nr_empty_pages(),
            "pcpu_nr_populated": chunk.nr_boot_pages(),
            "pcpu_base_addr": chunk.base_addr,
            "pcpu_unit_map": chunk.unit_map,
            "pcpu_unit_offsets": chunk.unit_offsets,
            "pcpu_group_offsets": chunk.group_offsets,
            "pcpu_group_sizes": chunk.group_sizes,
        });
        found = Vec::new();
        for (name, value) in got.as_object().into_iter().flatten() {
            if let Some(recorded) = globals.get(name) {
                found.extend(differences(recorded, value).into_iter().map(|text| format!("{name}{text}")));
            }
        }
        let boot_chunk = |name: &str| globals[name].as_u64().map(|index| &state["chunks"][index as usize]);
        let first = boot_chunk("first_chunk_index").unwrap_or(&Value::Null);
        found.extend(region_differences("first", first, Some(&chunk.first), chunk.page_size));
        if let Some(reserved) = boot_chunk("reserved_chunk_index") {
            found.extend(region_differences("reserved", reserved, chunk.reserved.as_ref(), chunk.page_size));
        }
        if found.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// The first chunk that a recorded state begins with, and the preset of its kernel: of the builds that the release
/// may be of, the first whose dynamic region has the recorded size.
pub fn initial_chunk(state: &Value) -> Result<(&'static Preset, FirstChunk), LayoutError> {
    let index = state["globals"]["first_chunk_index"].as_u64().unwrap_or(0) as usize;
    let size = state["chunks"][index]["free_bytes"].as_u64();
    let (preset, chunks) = initial_chunks(state)?;
    let found = chunks.into_iter().flatten().find(|chunk| Some(chunk.first.size) == size);
    let chunk = found.ok_or_else(|| ConfigError::new("free_bytes", format!("{size:?}"), "is of no known build"))?;
    Ok((preset, chunk))
}

/// The outcome of each build that the state's release may be of. Group addresses are read off the state, everything
/// else follows from sizes, CPUs and release.
#[allow(clippy::type_complexity)]
fn initial_chunks(state: &Value) -> Result<(&'static Preset, Vec<Result<FirstChunk, LayoutError>>), ConfigError> {
    let globals = &state["globals"];
    let meta = &state["meta"];
    let need = |name: &'static str| {
        globals[name].as_u64().ok_or_else(|| ConfigError::new(name, &globals[name], "must be a non-negative integer"))
    };
    let kernel = meta["kernel"].as_str().unwrap_or_default();
    // The recordings name builds of their own after what is special about them; all are of one release.
    let release = if matches!(kernel, "own" | "own0" | "up") { "6.12" } else { kernel };
    let preset = preset_for(release).ok_or_else(|| ConfigError::new("kernel", kernel, "is no known release"))?;
    // A kernel without SMP has no such variable.
    let nr_cpu_ids = globals["nr_cpu_ids"].as_u64().unwrap_or(1) as usize;
    let mut nodes = vec![0; nr_cpu_ids];
    if let Some(given) = globals["cpu_to_node"].as_array() {
        for (node, value) in nodes.iter_mut().zip(given) {
            *node = value.as_u64().unwrap_or(0) as u32;
        }
    } else {
        for (node, cpus) in (0u32..).zip(meta["topology"]["nodes"].as_array().into_iter().flatten()) {
            for cpu in cpus.as_array().into_iter().flatten().filter_map(Value::as_u64) {
                if let Some(slot) = nodes.get_mut(cpu as usize) {
                    *slot = node;
                }
            }
        }
    }
    let base_addr = need("pcpu_base_addr")?;
    let reserved = globals["reserved_chunk_index"].as_u64().map(|index| &state["chunks"][index as usize]);
    let groups = globals["pcpu_group_offsets"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let addresses: Vec<u64> = groups.map(|offset| base_addr.wrapping_add(offset)).collect();
    let topology = Topology::from_cpu_nodes(nodes)?;
    let static_size = need("static_size")?;
    let build = |rules| {
        let mut request = FirstChunkRequest::new(topology.clone(), rules, static_size);
        request.reserved_size = reserved.and_then(|chunk| chunk["free_bytes"].as_u64()).unwrap_or(0);
        if globals["pcpu_atom_size"].as_u64() == Some(request.page_size) {
            request.kind = Kind::Page;
            // Address randomisation is off, but earlier areas may lie in front.
            request.vmalloc_start = base_addr;
            request.build()
        } else if request.static_size == 0 {
            request.kind = Kind::Up;
            request.explicit_base = base_addr;
            request.build()
        } else {
            request.set_up(&mut GivenAddresses::new(addresses.clone()))
        }
    };
    Ok((preset, builds_of(preset).into_iter().map(build).collect()))
}

fn region_differences(name: &str, recorded: &Value, region: Option<&Region>, page_size: u64) -> Vec<String> {
    let Some(region) = region else { return vec![format!("{name}: computed none")] };
    let got = serde_json::json!({
        "base_addr": region.base_addr,
        "start_offset": region.start_offset,
        "end_offset": region.end_offset,
        "nr_pages": region.nr_pages,
        "nr_populated": region.nr_pages,
        "free_bytes": region.size,
        "nr_empty_pop_pages": region.nr_empty_pages(page_size),
    });
    let fields = got.as_object().into_iter().flatten();
    fields
        .flat_map(|(field, value)| {
            differences(&recorded[field], value).into_iter().map(move |d| format!("{name}.{field}{d}"))
        })
        .collect()
}
