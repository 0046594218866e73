//! Which messages of the allocator a text holds.
//!
//! # Design
//!
//! A log, or a single line as people quote it, is searched for what the allocator prints. A line that carries more than
//! the message (time, level, host, quoting) is cut at the first marker that a message can begin with:
//!
//! ```text
//!   Nov 20 16:03:11 host kernel: [  12.3] percpu: allocation failed, size=16 align=8 atomic=1, atomic ...
//!                                         ^ marker                                             ^ decides the kind
//! ```
//!
//! [`Found`] names the kind and holds the values of the line. What a kind means is told by whoever shows it: the texts
//! are data of the Python package. Lines that speak of per-CPU memory and are none of the messages are kept apart, so
//! that nobody takes silence for an answer.
//!
//! # Units
//!
//! As printed: bytes unless a name says otherwise.
//!
//! # Cost
//!
//! Linear in the text.
//!
//! # Source
//!
//! Specification 40 sections 1 to 6 and 20 sections 3 and 7; 31 for the panics of the set-up.

use serde_json::{json, Value};

use crate::boot_log::{
    strip_line, BootLog, DumpHead, FailureLine, LargePageDump, Message, SetupLine, Summary, SummaryKind,
};
use crate::request::Reason;

/// A message in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Line in the text, counted from 1.
    pub line: u64,
    /// The message itself, without what carriers put around it.
    pub text: String,
    /// What it is; one of [`KINDS`].
    pub kind: &'static str,
    /// Its values by name.
    pub values: Value,
}

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The messages, in order.
    pub found: Vec<Found>,
    /// Lines (number and text) about per-CPU memory that are none of them; if the text is one line only, that line
    /// whatever it says.
    pub unknown: Vec<(u64, String)>,
    /// How many other lines there are; empty ones are not counted.
    pub nr_other: u64,
}

/// Every kind of message.
pub const KINDS: [&str; 37] = [
    "setup",
    "embedded",
    "page_mapped",
    "large_pages",
    "dump_head",
    "dump_row",
    "lpage_head",
    "lpage_row",
    "failed_to_initialize",
    "possible_mask",
    "max_distance",
    "no_page_for_cpu",
    "no_large_page",
    "no_block",
    "larger_than_large_page",
    "chunk_too_large",
    "unknown_allocator",
    "falling_back",
    "more_than_one_group",
    "wasting",
    "no_node",
    "cannot_initialize",
    "no_table",
    "overflow",
    "no_areas",
    "illegal_size",
    "reserved_full",
    "no_space",
    "no_chunk",
    "no_page",
    "reserved_map",
    "map_extend",
    "failed",
    "limit_reached",
    "fail_event",
    "meminfo",
    "statistics",
];

/// What a message can begin with, where something stands before it.
const MARKERS: [&str; 12] = [
    "setup_percpu: ",
    "pcpu-alloc: ",
    "pcpu-lpage: ",
    "percpu: ",
    "PERCPU: ",
    "illegal size (",
    "allocation failed, size=",
    "limit reached, disable warning",
    "percpu_alloc_percpu_fail: ",
    "pcpu_setup_first_chunk: ",
    "cpu_possible_mask=",
    "cannot initialize percpu area",
];
const PREFIXES: [&str; 3] = ["percpu: ", "PERCPU: ", "setup_percpu: "];
/// Panics of the set-up that have no values but an errno (specification 31 sections 7 and 8).
const PANICS: [&str; 3] = [
    "Failed to initialize percpu areas",
    "Failed to allocate memory for percpu areas",
    "failed to map percpu area, err=",
];

/// Searches a text for messages of the allocator.
pub fn find_messages(text: &str) -> Findings {
    let mut findings = Findings::default();
    let mut last = None;
    let mut nr_lines = 0;
    for (index, raw) in text.lines().enumerate() {
        if raw.trim().is_empty() {
            continue;
        }
        nr_lines += 1;
        let line = index as u64 + 1;
        let stripped = strip_line(raw);
        if let Some((text, kind, values)) = recognise(&stripped) {
            findings.found.push(Found { line, text, kind, values });
        } else if speaks_of_percpu(&stripped) {
            findings.unknown.push((line, stripped.trim_end().to_string()));
        } else {
            findings.nr_other += 1;
            last = Some((line, stripped.trim_end().to_string()));
        }
    }
    if nr_lines == 1 {
        if let Some(only) = last {
            findings.nr_other = 0;
            findings.unknown.push(only);
        }
    }
    findings
}

fn speaks_of_percpu(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    ["percpu", "pcpu", "per-cpu", "per cpu"].iter().any(|word| lower.contains(word))
}

/// The message in a line, its kind and its values.
fn recognise(line: &str) -> Option<(String, &'static str, Value)> {
    let found = MARKERS.iter().filter_map(|marker| line.find(marker)).min();
    let bodies = [Some(line), found.map(|at| &line[at..])];
    for body in bodies.into_iter().flatten().map(str::trim_end) {
        if let Some((kind, values)) = of_setup(body).or_else(|| of_message(body)).or_else(|| of_other(body)) {
            return Some((body.to_string(), kind, values));
        }
    }
    None
}

/// The lines of a set-up that goes well.
fn of_setup(line: &str) -> Option<(&'static str, Value)> {
    if let Some(s) = SetupLine::parse(line) {
        let values = json!({
            "nr_cpus": s.nr_cpus, "nr_cpumask_bits": s.nr_cpumask_bits,
            "nr_cpu_ids": s.nr_cpu_ids, "nr_node_ids": s.nr_node_ids,
        });
        return Some(("setup", values));
    }
    if let Some((_, s)) = Summary::parse(line) {
        let kind = match s.kind {
            SummaryKind::Embed => "embedded",
            SummaryKind::Page => "page_mapped",
            SummaryKind::LargePage => "large_pages",
        };
        let values = json!({
            "pages": s.pages, "page_kib": s.page_kib, "static_size": s.static_size, "reserved_size": s.reserved_size,
            "dyn_size": s.dyn_size, "unit_size": s.unit_size,
        });
        return Some((kind, values));
    }
    if let Some(h) = DumpHead::parse(line) {
        let values = json!({
            "static_size": h.static_size, "reserved_size": h.reserved_size, "dyn_size": h.dyn_size,
            "unit_size": h.unit_size, "alloc_factor": h.alloc_factor, "atom_size": h.atom_size,
        });
        return Some(("dump_head", values));
    }
    if let Some(h) = LargePageDump::parse_head(line) {
        let values = json!({
            "static_size": h.static_size, "reserved_size": h.reserved_size, "dyn_size": h.dyn_size,
            "unit_size": h.unit_size, "lpage_size": h.lpage_size,
        });
        return Some(("lpage_head", values));
    }
    if let Some(units) = LargePageDump::parse_row(line).filter(|units| !units.is_empty()) {
        let nr_holes = units.iter().filter(|unit| unit.is_none()).count();
        return Some(("lpage_row", json!({ "nr_units": units.len(), "nr_holes": nr_holes })));
    }
    let cells = BootLog::parse(line).cells;
    if cells.is_empty() {
        return None;
    }
    let mut groups: Vec<u32> = cells.iter().map(|(group, _)| *group).collect();
    groups.dedup();
    let units = cells.iter().flat_map(|(_, units)| units);
    let nr_holes = units.clone().filter(|unit| unit.is_none()).count();
    Some(("dump_row", json!({ "groups": groups, "nr_units": units.count(), "nr_holes": nr_holes })))
}

/// The messages, with their prefix or without.
fn of_message(line: &str) -> Option<(&'static str, Value)> {
    let body = PREFIXES.iter().find_map(|prefix| line.strip_prefix(prefix)).unwrap_or(line);
    Some(match Message::parse(body)? {
        Message::FailedToInitialize { condition } => ("failed_to_initialize", json!({ "condition": condition })),
        Message::PossibleMask(cpus) => ("possible_mask", json!({ "nr_possible": cpus.len(), "last_cpu": cpus.last() })),
        Message::MaxDistance { distance, vmalloc_total } => {
            ("max_distance", json!({ "distance": distance, "vmalloc_total": vmalloc_total }))
        }
        Message::NoPage { page_kib, cpu } => ("no_page_for_cpu", json!({ "page_kib": page_kib, "cpu": cpu })),
        Message::NoLargePage { cpu } => ("no_large_page", json!({ "cpu": cpu })),
        Message::NoBlock { size } => ("no_block", json!({ "size": size })),
        Message::LargerThanLargePage => ("larger_than_large_page", json!({})),
        Message::ChunkTooLarge { mib } => ("chunk_too_large", json!({ "mib": mib })),
        Message::UnknownAllocator { name } => ("unknown_allocator", json!({ "name": name })),
        Message::FallingBack { name, errno } => ("falling_back", json!({ "name": name, "errno": errno })),
        Message::MoreThanOneGroup => ("more_than_one_group", json!({})),
        Message::Wasting { pages } => ("wasting", json!({ "pages": pages })),
        Message::NoNode { cpu, node } => ("no_node", json!({ "cpu": cpu, "node": node })),
        Message::CannotInitialize { errno } => ("cannot_initialize", json!({ "errno": errno })),
        Message::NoTable { size } => ("no_table", json!({ "size": size })),
        Message::Overflow { static_size, reserved_size } => {
            ("overflow", json!({ "static_size": static_size, "reserved_size": reserved_size }))
        }
        Message::IllegalSize { size, align } => ("illegal_size", json!({ "size": size, "align": align })),
        Message::AllocationFailed(failure) => of_failure(&failure),
        Message::LimitReached => ("limit_reached", json!({})),
    })
}

fn of_failure(failure: &FailureLine) -> (&'static str, Value) {
    let reason = Reason::ALL.iter().find(|reason| reason.text() == failure.reason);
    let kind = match reason {
        Some(Reason::Illegal | Reason::NoRoom) | None => "failed",
        Some(reason) => reason.name(),
    };
    let values = json!({
        "size": failure.size, "align": failure.align, "atomic": failure.atomic, "reason": failure.reason,
        "reserved": matches!(reason, Some(Reason::ReservedFull | Reason::ReservedMap)),
    });
    (kind, values)
}

/// Related lines: panics of the set-up, the event of a failure, the sum in `/proc/meminfo`, the statistics.
fn of_other(line: &str) -> Option<(&'static str, Value)> {
    let body = PREFIXES.iter().find_map(|prefix| line.strip_prefix(prefix)).unwrap_or(line);
    let panic = body.split_once("Kernel panic - not syncing: ").map_or(body, |(_, text)| text);
    if PANICS.iter().any(|text| panic.starts_with(text)) {
        let digits = |c: char| !c.is_ascii_digit() && c != '-';
        let errno = panic.split_once("err=").and_then(|(_, rest)| rest.split(digits).next()?.parse::<i32>().ok());
        return Some(("no_areas", json!({ "errno": errno })));
    }
    if let Some(fields) = line.strip_prefix("percpu_alloc_percpu_fail: ") {
        let field = |name: &str| -> Option<u64> {
            fields.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        };
        let values = json!({
            "size": field("size")?, "align": field("align")?, "atomic": field("is_atomic")? == 1,
            "reserved": field("reserved")? == 1,
        });
        return Some(("fail_event", values));
    }
    if let Some(rest) = line.strip_prefix("Percpu:") {
        let kib: u64 = rest.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        return Some(("meminfo", json!({ "kib": kib })));
    }
    (line == "Percpu Memory Statistics").then(|| ("statistics", json!({})))
}

#[cfg(test)]
mod tests;
