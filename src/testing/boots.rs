//! Boots: recomputes the boot lines of real machines from what their logs show.
//!
//! # Design
//!
//! Two kinds of input, one JSON object a line:
//!
//! - *recorded boots* (`layouts.jsonl`): kernel release, nodes of the CPUs, boot parameter. The constants come
//!   from the release; only the static and the reserved size are read off the log. A release with a build option
//!   that changes its constants gives several candidates, and one must reproduce every line.
//! - *public logs* (`dmesg-corpus.jsonl`): whatever somebody quoted. The printed dynamic size is fed back in with
//!   no early minimum; groups are read off the dump where there is one. What the log does not show is taken from
//!   the period (smallest unit, early minimum) and the architecture (atom).
//!
//! Every line of the allocator must come out to the byte, save trailing blanks, which mail programs strip. Of a
//! log with several nodes and no dump the unit size cannot follow: it must then be one that the layout function
//! could choose for these sizes.
//!
//! # Source
//!
//! Specification 50 section 9, 30 section 2.1, 31 section 8, 40 section 3.1.

use serde_json::Value;

use crate::boot_log::{message, release_number, BootLog, SetupLine, Summary, SummaryForm, SummaryKind};
use crate::error::{ConfigError, LayoutError};
use crate::layout::{FirstChunk, FirstChunkRequest, GivenAddresses, Kind, PagesOnly, Region, Topology};
use crate::testing::golden_layout::differences;
use crate::units::WordSize;
use crate::variant::{Build, LayoutRules, Preset, PRESETS};

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
    let wanted = release_number(release)?;
    let dated = PRESETS.iter().filter_map(|preset| Some((release_number(preset.release)?, preset)));
    dated.filter(|&(number, _)| number <= wanted).max_by_key(|&(number, _)| number).map(|(_, preset)| preset)
}

/// The constants that a release may have been built with: `PERCPU_DYNAMIC_SIZE_SHIFT` is not in its name.
fn builds_of(preset: &Preset) -> Vec<LayoutRules> {
    let build = |dyn_shift| preset.layout_for(WordSize::Bits64, Build { dyn_shift, ..Build::default() });
    [10, 12, 13].into_iter().filter_map(|dyn_shift| build(dyn_shift).ok()).collect()
}

/// The allocator's lines of a log, trailing blanks off; the architecture's CPU counts are input, not output.
fn shown_lines(log: &BootLog) -> Vec<String> {
    let own = log.lines.iter().filter(|line| SetupLine::parse(line).is_none());
    own.map(|line| line.trim_end().to_string()).collect()
}

fn compare(log: &BootLog, got: &[String]) -> Option<String> {
    let shown = shown_lines(log);
    let got: Vec<&str> = got.iter().map(|line| line.trim_end()).collect();
    if shown == got {
        return None;
    }
    let index = shown.iter().zip(&got).take_while(|(a, b)| *a == *b).count();
    let at = |line: Option<String>| line.map_or("(end)".to_string(), |line| format!("{line:?}"));
    let got = got.get(index).map(ToString::to_string);
    Some(format!("line {}: the log has {}, computed {}", index + 1, at(shown.get(index).cloned()), at(got)))
}

/// Tries candidates until one reproduces the log; the first candidate's difference is reported.
fn first_equal(
    log: &BootLog,
    candidates: impl IntoIterator<Item = FirstChunkRequest>,
    run: impl Fn(&FirstChunkRequest) -> Result<Vec<String>, LayoutError>,
) -> Verdict {
    let mut first = None;
    for request in candidates {
        let difference = match run(&request) {
            Ok(lines) => compare(log, &lines),
            Err(error) => Some(error.to_string()),
        };
        match difference {
            None => return Verdict::Recomputed,
            Some(text) => first = first.or(Some(text)),
        }
    }
    Verdict::Different(first.unwrap_or_else(|| "no candidate".to_string()))
}

/// Recomputes one recorded boot.
pub fn recorded_boot(entry: &Value) -> Verdict {
    let lines: Vec<&str> = strings(&entry["dmesg"]);
    let log = BootLog::from_lines(lines);
    let Some(head) = log.head else { return Verdict::TooLittle("no pcpu-alloc line".to_string()) };
    let release = entry["kernel"].as_str().unwrap_or_default();
    let Some(preset) = preset_for(release) else { return Verdict::TooLittle(format!("kernel {release:?}")) };
    let nodes = entry["cpu_to_node"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let topology = match Topology::from_cpu_nodes(nodes.map(|node| node as u32).collect()) {
        Ok(topology) => topology,
        Err(error) => return Verdict::TooLittle(error.to_string()),
    };
    if let Some(setup) = log.setup.filter(|setup| setup.nr_cpu_ids != u64::from(topology.nr_cpu_ids())) {
        return Verdict::Different(format!("nr_cpu_ids {} with {} cpus", setup.nr_cpu_ids, topology.nr_cpu_ids()));
    }
    let parameter = entry["boot_params"].as_str().unwrap_or_default();
    let candidates = builds_of(preset).into_iter().map(|rules| {
        let mut request = FirstChunkRequest::new(topology.clone(), rules, head.static_size);
        request.reserved_size = head.reserved_size;
        request.kind = match parameter.split_whitespace().find_map(|word| word.strip_prefix("percpu_alloc=")) {
            // A kernel without SMP has no static per-CPU section.
            _ if head.static_size == 0 => Kind::Up,
            Some("page") => Kind::Page,
            Some("embed") => Kind::Embed,
            _ => Kind::Auto,
        };
        request
    });
    let groups = &entry["groups"];
    first_equal(&log, candidates, |request| {
        // Where embedding was given up the log says why: memory had no room for whole atoms.
        let chunk = match log.fallback {
            Some(_) => request.set_up(&mut PagesOnly)?,
            None => request.build()?,
        };
        let found = differences(groups, &groups_object(&chunk));
        if let Some(difference) = found.first() {
            return Err(ConfigError::new("groups", difference, "must equal the parsed table").into());
        }
        Ok(chunk.log.iter().map(|line| line.text.clone()).collect())
    })
}

/// Recomputes one public log.
pub fn public_boot(entry: &Value) -> Verdict {
    let lines: Vec<&str> = strings(&entry["raw"]);
    let log = BootLog::from_lines(lines);
    let shown = match Shown::of(&log, entry) {
        Ok(shown) => shown,
        Err(missing) => return Verdict::TooLittle(missing.to_string()),
    };
    let requests = shown.requests(&log);
    match requests {
        Ok(requests) => first_equal(&log, requests, |request| shown.lines(&log, request)),
        Err(error) => Verdict::Different(error.to_string()),
    }
}

/// What a public log shows.
struct Shown<'a> {
    arch: &'a str,
    release: Option<(u32, u32, u32)>,
    page_size: u64,
    form: SummaryForm,
    summary: Option<&'a Summary>,
    static_size: u64,
    reserved_size: u64,
    dyn_size: u64,
    unit_size: Option<u64>,
}

impl<'a> Shown<'a> {
    fn of(log: &'a BootLog, entry: &'a Value) -> Result<Self, &'static str> {
        let (form, summary) = match &log.summary {
            Some((form, summary)) => (*form, Some(summary)),
            None => (SummaryForm::V5_2, None),
        };
        let (sizes, unit_size) = match (log.head, summary) {
            (Some(head), _) => {
                ((head.static_size, Some(head.reserved_size), Some(head.dyn_size)), Some(head.unit_size))
            }
            (None, Some(s)) => ((s.static_size, s.reserved_size, s.dyn_size), s.unit_size),
            (None, None) => return Err("neither a summary nor the sizes of the dump"),
        };
        let (static_size, Some(reserved_size), Some(dyn_size)) = sizes else {
            return Err("no reserved or dynamic size");
        };
        if summary.is_some_and(|summary| summary.kind == SummaryKind::LargePage) {
            return Err("the large-page allocator of 2009");
        }
        let page_size = summary.and_then(|s| s.page_kib?.checked_shl(10)).or(entry["page_size"].as_u64());
        Ok(Self {
            arch: entry["arch"].as_str().unwrap_or_default(),
            release: entry["kernel"].as_str().and_then(release_number),
            page_size: page_size.ok_or("no page size")?,
            form,
            summary,
            static_size,
            reserved_size,
            dyn_size,
            unit_size,
        })
    }

    /// Smallest units of the period: 64 KiB up to 2.6.36, then 32 KiB. A log of the old form without a release
    /// may be of either time.
    fn min_units(&self) -> Vec<u64> {
        match (self.form, self.release) {
            (SummaryForm::V4_6 | SummaryForm::V5_2, _) => vec![32 << 10],
            (_, Some(release)) if release < (2, 6, 37) => vec![64 << 10],
            (_, Some(_)) => vec![32 << 10],
            (_, None) => vec![32 << 10, 64 << 10],
        }
    }

    /// Early minimums of the period, which the page allocator's dynamic size consists of.
    fn early_sizes(&self) -> Vec<u64> {
        match self.form {
            SummaryForm::V5_2 => vec![12 << 10, 20 << 10, 20 << 12, 20 << 13],
            _ => vec![12 << 10],
        }
    }

    /// The atom where the log has no dump: the architecture's rule.
    fn default_atom(&self) -> u64 {
        let large_page = (self.page_size / 8).saturating_mul(self.page_size);
        match self.arch {
            "x86_64" | "loongarch64" => large_page,
            "i386" if self.release < Some((3, 5, 0)) => 4 << 20,
            "ppc64" | "ppc64le" => 1 << 20,
            "sparc64" => 4 << 20,
            _ => self.page_size,
        }
    }

    /// CPUs and groups of the dump; without a dump, of a machine with one node; else unknown.
    fn topology(&self, log: &BootLog) -> Result<Option<Topology>, ConfigError> {
        if let Some(groups) = log.groups() {
            let placed = || {
                let cpus =
                    (0u32..).zip(&groups).flat_map(|(g, units)| units.iter().flatten().map(move |cpu| (*cpu, g)));
                cpus.filter(|(cpu, _)| *cpu < crate::layout::MAX_CPUS)
            };
            let nr_ids = placed().map(|(cpu, _)| cpu as usize + 1).max().unwrap_or(0);
            let mut nodes = vec![0; nr_ids];
            let mut impossible: Vec<bool> = vec![true; nr_ids];
            for (cpu, group) in placed() {
                nodes[cpu as usize] = group;
                impossible[cpu as usize] = false;
            }
            let gaps: Vec<u32> = (0u32..).zip(&impossible).filter(|(_, gap)| **gap).map(|(cpu, _)| cpu).collect();
            return Topology::from_cpu_nodes(nodes)?.with_impossible(&gaps).map(Some);
        }
        match log.setup {
            Some(setup) if setup.nr_node_ids == 1 => {
                Topology::flat(u32::try_from(setup.nr_cpu_ids).unwrap_or(u32::MAX)).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn requests(&self, log: &BootLog) -> Result<Vec<FirstChunkRequest>, ConfigError> {
        let topology = self.topology(log)?;
        let unknown = topology.is_none();
        let topology = match topology {
            Some(topology) => topology,
            None => Topology::flat(1)?,
        };
        let page = self.summary.is_some_and(|summary| summary.kind == SummaryKind::Page);
        let mut requests = Vec::new();
        for min_unit_size in self.min_units() {
            for early_size in if page { self.early_sizes() } else { vec![0] } {
                let mut rules = Preset::of_generation(crate::variant::Generation::Linux514).layout;
                rules.early_size = early_size;
                let mut request = FirstChunkRequest::new(topology.clone(), rules, self.static_size);
                request.reserved_size = self.reserved_size;
                request.dyn_size = self.dyn_size;
                request.page_size = self.page_size;
                request.min_unit_size = Some(crate::units::round_up(min_unit_size, self.page_size.max(1)));
                request.atom_size = log.head.filter(|_| !page).map_or(self.default_atom(), |head| head.atom_size);
                request.form = self.form;
                request.kind = match (page, self.unit_size) {
                    // A kernel without SMP: no static section, no summary line.
                    _ if self.static_size == 0 && self.summary.is_none() => Kind::Up,
                    (true, _) => Kind::Page,
                    (false, Some(unit_size))
                        if unknown && request.layout_input().unit_candidates()?.contains(&unit_size) =>
                    {
                        Kind::Explicit { unit_size }
                    }
                    (false, _) => Kind::Embed,
                };
                requests.push(request);
            }
        }
        Ok(requests)
    }

    /// The lines that the log should have.
    fn lines(&self, log: &BootLog, request: &FirstChunkRequest) -> Result<Vec<String>, LayoutError> {
        let mut lines = Vec::new();
        if let Some((distance, total)) = log.max_distance {
            lines.push(format!("{}{}", self.form.prefix(), message::max_distance(distance, total)));
            let refused = distance > total.wrapping_mul(3) / 4;
            if log.fallback.is_some() != refused {
                let limit = "must be refused beyond three quarters of the vmalloc space";
                return Err(ConfigError::new("max_distance", format!("{distance:#x}"), limit).into());
            }
        }
        if let Some(errno) = log.fallback {
            lines.push(format!("{}{}", request.arch_prefix, message::falling_back(Kind::Auto.name(), errno)));
        }
        let info = match request.kind {
            Kind::Up => request.build()?.info,
            Kind::Page => request.page_alloc_info()?,
            _ => request.alloc_info()?,
        };
        if let Some(shown) = self.summary {
            let unit_size = match request.kind {
                Kind::Explicit { unit_size } => unit_size,
                _ => info.unit_size,
            };
            let pages = if request.kind == Kind::Page { info.unit_size } else { info.size_sum() } / self.page_size;
            let summary = Summary {
                kind: shown.kind,
                pages,
                page_kib: Some(self.page_size >> 10),
                // Where memory lay is not a matter of the layout.
                pointer: shown.pointer.clone(),
                static_size: info.static_size,
                reserved_size: Some(info.reserved_size),
                dyn_size: Some(info.dyn_size),
                unit_size: Some(unit_size),
            };
            lines.push(summary.text(self.form));
        }
        if log.head.is_some() {
            lines.extend(info.boot_record().lines());
        }
        Ok(lines)
    }
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
